"""Methods about money and proof of it: quotes, readings, carbon certificates, reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Annotated

from gridtokenx.answers.fields import ADDRESS_EXAMPLE
from gridtokenx.answers.kinds import (
    address,
    amount,
    boolean,
    day,
    format_cursor,
    format_day,
    integer,
    text,
)
from gridtokenx.answers.settlement import (
    AcceptedReading,
    Carbon,
    Certificate,
    ChainCarbon,
    ClearedSlot,
    DayReports,
    ExpectedPart,
    ExpectedTrade,
    MeritPlace,
    MeterRegisters,
    NearbyPrice,
    QuotedCharges,
    QuotedOrder,
    ReadingPage,
    SlotPrice,
    TerritoryReport,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.api import access
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.methods.order import (
    EnergyAmount,
    EnergySource,
    GridLocation,
    MeterId,
    OrderType,
    limit_mthb,
)
from gridtokenx.api.table import AccountId, ChainName, Method, PageCursor, PageLimit, Route
from gridtokenx.chain.commands import grid_limits, grid_view, metering_point
from gridtokenx.grid import operation
from gridtokenx.grid import rules as grid
from gridtokenx.ledger.model import ACCOUNTS, CERTIFICATES, Account, RetirementCertificate
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import SLOTS_PER_DAY, local_day, parse_kwh, slot_at
from gridtokenx.primitives.state import u64
from gridtokenx.primitives.types import format_address
from gridtokenx.registry import meters
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import PARTICIPANTS, TERRITORIES, Generation, Meter
from gridtokenx.storage import index
from gridtokenx.storage.index import ReadingRecord
from gridtokenx.trading import reports
from gridtokenx.trading import rules as trading
from gridtokenx.trading.clock_model import CLOCK
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.matching import flow_over
from gridtokenx.trading.model import ORDERS, MarketParameters, Side, Source
from gridtokenx.trading.outlook import Outcome, Unknown, outlook
from gridtokenx.trading.quotes import Wish
from gridtokenx.trading.settlement import Charges
from gridtokenx.views.status import ChainStatus

READINGS_METHOD = "energy_getMeterReadings"
MAX_METERS = 100  # Of an account, in one answer.
TOLD_SLOTS = 4  # Cleared ones that a quote tells, beside that of the day before.


_CERTIFICATE = text(24, "[A-Z0-9]{2,8}-[0-9]{1,15}", "MET-1")
_TERRITORY = text(16, "[A-Za-z0-9]{1,16}", "BKK or MEA")


@dataclass(frozen=True, slots=True)
class QuoteParameters:
    """An order as it would be."""

    order_type: OrderType
    energy_amount: EnergyAmount
    price_per_kwh: Annotated[
        Decimal,
        Rule("limit in mTHB/kWh: 5000 is 5 THB", amount(), unit="mTHB/kWh", example=5000),
    ]
    grid_location: GridLocation
    energy_source: EnergySource = "any"
    slot: Annotated[
        int | None,
        Rule(
            "delivery slot; the next one if absent",
            integer(0, 2**40),
            unit="slots of 15 min since 1970 UTC",
            example=1963608,
        ),
    ] = None
    vat_registered: Annotated[
        bool, Rule("whether the seller charges VAT", boolean(), example=False)
    ] = False
    trader: Annotated[
        bytes | None,
        Rule("whose order it would be: its meter, its VAT", address(), example=ADDRESS_EXAMPLE),
    ] = None
    meter_id: MeterId = None
    require: Annotated[
        bool, Rule("a buyer's source is a condition, not a wish", boolean(), example=False)
    ] = False


@dataclass(frozen=True, slots=True)
class CarbonParameters:
    """Whose carbon credits."""

    address: AccountId
    chain: ChainName = None


@dataclass(frozen=True, slots=True)
class CertificateParameters:
    """Which certificate."""

    id: Annotated[str, Rule("certificate, such as MET-1", _CERTIFICATE, example="MET-1")]


@dataclass(frozen=True, slots=True)
class ReportsParameters:
    """Whose reports, and of which day."""

    territory: Annotated[str, Rule("territory, or distributor", _TERRITORY, example="BKK")]
    day: Annotated[int | None, Rule("Bangkok date", day(), example="2026-03-16")] = None


@dataclass(frozen=True)
class _OwnerParameters:
    address: AccountId
    chain: ChainName = None
    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True)
class ReadingsParameters(access.Signed, _OwnerParameters):
    """Whose readings, and who asks."""


# -- Quotes ----------------------------------------------------------------------------------------


def quote(context: Context, asked: QuoteParameters) -> QuotedOrder:
    location = asked.grid_location
    status = context.chain_at(location)
    now_ms = status.head.market_ms
    market = trading.parameters(status.view)
    slot = slot_at(now_ms) + 1 if asked.slot is None else asked.slot
    side, source = Side[asked.order_type.upper()], Source(asked.energy_source)
    meter = _quoted_meter(context, status, asked, side)
    if meter is not None and side is Side.SELL and source is Source.ANY:
        if meter.source is Generation.NONE:
            detail = f"meter {meter.meter_id.hex()} has no plant, so it sells nothing"
            raise Rejected(ErrorCode.UNKNOWN_SOURCE, detail)
        source = Source(meter.source.value)
    if side is Side.SELL and source in (Source.ANY, Source.RENEWABLE):
        detail = "a sale is of the plant's own source, such as solar"
        raise invalid_params(detail, parameter="energy_source")
    energy_wh = parse_kwh(asked.energy_amount)
    price_mthb = limit_mthb(asked.price_per_kwh)
    wish = Wish(
        side=side,
        energy_wh=energy_wh,
        limit_mthb=price_mthb,
        location=location,
        slot=slot,
        source=source,
        require=asked.require,
        vat_registered=_charges_vat(status, asked),
        owner=asked.trader,
    )
    found = trading.quote(status.view, wish)
    emergency = operation.emergency_of(
        status.view, territory_of(location), now_ms, grid_limits(market)
    )
    book = outlook(
        status.view,
        market,
        wish,
        orders=(order for _, order in context.table(status, ORDERS)),
        grid=grid_view(status.view, now_ms),
        now_ms=now_ms,
    )
    outcome = book.outcome
    return QuotedOrder(
        chain=status.spec.name,
        height=status.head.height,
        slot=slot,
        order_type=side,
        energy_wh=energy_wh,
        limit_mthb=price_mthb,
        grid_location=location,
        energy_source=source,
        meter_id=None if meter is None else meter.meter_id,
        reserve="escrow" if side is Side.BUY else "bond",
        reserve_uthb=found.reserve_uthb,
        worst=_tell_charges(found.worst),
        last=None if found.last is None else NearbyPrice(**asdict(found.last)),
        at_last_price=None if found.at_last_price is None else _tell_charges(found.at_last_price),
        emergency=emergency,
        merit_order=tuple(MeritPlace(**asdict(place)) for place in book.places),
        expected=None if isinstance(outcome, Unknown) else _tell_outcome(outcome),
        expected_unknown=outcome.value if isinstance(outcome, Unknown) else None,
        cleared=_cleared(status, market, wish),
    )


def _tell_outcome(outcome: Outcome) -> ExpectedTrade:
    charges = outcome.charges
    return ExpectedTrade(
        energy_wh=outcome.energy_wh,
        price_mthb=outcome.price_mthb,
        parts=tuple(ExpectedPart(**asdict(part)) for part in outcome.parts),
        charges=None if charges is None else _tell_charges(charges),
    )


def _cleared(status: ChainStatus, market: MarketParameters, wish: Wish) -> tuple[ClearedSlot, ...]:
    """The last slots, and that of the day before: at most `TOLD_SLOTS` + 1, five rows read each."""
    current = slot_at(status.head.market_ms)
    told = [current - back for back in range(TOLD_SLOTS)]
    day_before = wish.slot - SLOTS_PER_DAY
    if (
        current - SLOTS_PER_DAY < day_before < told[-1]
    ):  # Later ones are told, earlier ones not kept.
        told.append(day_before)
    groups = groups_of(wish.location)[: market.max_trade_tier + 1]
    return tuple(_tell_slot(status, groups, slot) for slot in told if slot >= 0)


def _tell_slot(status: ChainStatus, groups: Sequence[str], slot: int) -> ClearedSlot:
    flow = flow_over(status.view, slot, groups[0])
    found = [
        (tier, group, index.find_group_price(status.view, tier, group, slot))
        for tier, group in enumerate(groups)
    ]
    return ClearedSlot(
        slot=slot,
        sold_wh=flow.export_wh + flow.local_wh,
        bought_wh=flow.import_wh + flow.local_wh,
        prices=tuple(
            SlotPrice(tier=tier, group=group, price_mthb=price_mthb)
            for tier, group, price_mthb in found
            if price_mthb is not None
        ),
    )


def _quoted_meter(
    context: Context, status: ChainStatus, asked: QuoteParameters, side: Side
) -> Meter | None:
    """The meter that an order of the trader would be of; None where nobody in particular asks."""
    trader, named = asked.trader, asked.meter_id
    if trader is None:
        if named is not None:
            detail = "a meter is quoted for its owner: name the trader too"
            raise invalid_params(detail, parameter="trader")
        return None
    return meters.choose(
        context.meters_of(status, trader),
        location=asked.grid_location,
        selling=side is Side.SELL,
        source=asked.energy_source,
        named=named,
    )


def _charges_vat(status: ChainStatus, asked: QuoteParameters) -> bool:
    """Whether the seller charges VAT: as it is registered, or for nobody in particular as asked."""
    trader = asked.trader
    known = None if trader is None else PARTICIPANTS.get(status.view, trader)
    return asked.vat_registered if known is None else known.vat_registered


def _tell_charges(one: Charges) -> QuotedCharges:
    return QuotedCharges(
        buyer_uthb=one.buyer_uthb,
        seller_uthb=one.seller_uthb,
        energy_uthb=one.energy_uthb,
        wheeling_uthb=one.wheeling_uthb,
        vat_uthb=one.vat_uthb,
        fee_uthb=one.fee_uthb,
        carbon_ucr=one.carbon_ucr,
    )


# -- Readings --------------------------------------------------------------------------------------


def get_meter_readings(context: Context, asked: ReadingsParameters) -> ReadingPage:
    owner = asked.address
    params = {"address": format_address(owner), "limit": str(asked.limit)}
    if asked.chain is not None:
        params["chain"] = asked.chain
    if asked.cursor:
        params["cursor"] = format_cursor(asked.cursor) or ""
    signer = access.check_signer(context.handle.genesis.hash, READINGS_METHOD, params, asked)
    status = context.chain(asked.chain)
    seen_as = access.check_may_read(status, signer, owner)
    records, following = index.list_readings(status.view, owner, asked.limit, asked.cursor)
    return ReadingPage(
        chain=status.spec.name,
        height=status.head.height,
        address=owner,
        seen_as=seen_as,
        meters=tuple(
            _tell_registers(status, meter)
            for meter in context.meters_of(status, owner)[:MAX_METERS]
        ),
        items=tuple(_tell_reading(status, one) for one in records),
        next_cursor=format_cursor(following),
    )


def _tell_reading(status: ChainStatus, one: ReadingRecord) -> AcceptedReading:
    return AcceptedReading(
        meter_id=one.reading.meter_id,
        location=access.meter_location(status, one.reading.meter_id),
        slot=one.reading.slot,
        slots=one.reading.slots,
        import_wh=one.reading.import_wh,
        export_wh=one.reading.export_wh,
        deliverable_wh=one.reading.deliverable_wh,
        carbon_ucr=one.reading.carbon_ucr,
        height=one.when.height,
        market_ms=one.when.market_ms,
    )


def _tell_registers(status: ChainStatus, meter: Meter) -> MeterRegisters:
    """What a meter shows: its last reading, or where its readings begin."""
    point = metering_point(meter, registry.participant(status.view, meter.owner))
    return MeterRegisters(
        meter_id=meter.meter_id,
        key=meter.key,
        location=meter.location,
        status=meter.status,
        suspended_by=meter.suspended_by,
        **asdict(grid.registers(status.view, point)),
    )


# -- Carbon ----------------------------------------------------------------------------------------


def get_carbon(context: Context, asked: CarbonParameters) -> Carbon:
    rows = tuple(_carbon_on(status, asked.address) for status in context.selected(asked.chain))
    return Carbon(
        address=asked.address,
        carbon_ucr=sum(row.carbon_ucr for row in rows),
        unit="micro-credit",
        chains=rows,
    )


def _carbon_on(status: ChainStatus, who: bytes) -> ChainCarbon:
    """The newest hundred certificates; older ones by number."""
    account = ACCOUNTS.get(status.view, who) or Account()
    page = index.list_certificates(status.view, who, index.MAX_PAGE)
    found = (CERTIFICATES.get(status.view, number) for number in page.ids)
    return ChainCarbon(
        chain=status.spec.name,
        height=status.head.height,
        carbon_ucr=account.carbon_ucr,
        certificates=tuple(_tell_certificate(status, one) for one in found if one is not None),
    )


def get_certificate(context: Context, asked: CertificateParameters) -> Certificate:
    name, _, number = asked.id.rpartition("-")
    status = context.chain(name)
    found = CERTIFICATES.get(status.view, u64(int(number)))
    if found is None:
        detail = f"no certificate {asked.id} has been issued"
        raise ApiError(ErrorCode.CERTIFICATE_NOT_FOUND, detail)
    return _tell_certificate(status, found)


def _tell_certificate(status: ChainStatus, one: RetirementCertificate) -> Certificate:
    return Certificate(
        id=f"{status.spec.name}-{one.number}",
        chain=status.spec.name,
        chain_id=status.spec.chain_id,
        network=status.spec.genesis.network_name,
        **asdict(one),
    )


# -- Reports ---------------------------------------------------------------------------------------


def get_reports(context: Context, asked: ReportsParameters) -> DayReports:
    """One territory, or all those of a distributor."""
    territory = asked.territory
    items = []
    for status in context.chains().values():
        served = [one for _, one in TERRITORIES.items(status.view)]
        for one in served:
            if territory.upper() in (one.prefix, one.distributor.upper()):
                wanted = asked.day
                of_day = local_day(status.head.market_ms) if wanted is None else wanted
                items.append(_tell_report(status, one.prefix, one.distributor, of_day))
    if not items:
        detail = f"no territory of this node's chains is, or belongs to, {territory!a}"
        raise ApiError(ErrorCode.UNKNOWN_ZONE, detail)
    return DayReports(territory=territory, items=tuple(items))


def _tell_report(
    status: ChainStatus, territory: str, distributor: str, of_day: int
) -> TerritoryReport:
    closed = reports.closed_report(status.view, territory, of_day)
    report = closed
    if report is None:
        report = reports.open_report(status.view, territory, distributor, of_day)
    clock = CLOCK.get(status.view, b"")
    is_over = clock is not None and reports.day_of(clock.settled_slot + 1) > of_day
    return TerritoryReport(
        territory=territory,
        distributor=distributor,
        chain=status.spec.name,
        height=status.head.height,
        day=of_day,
        date=format_day(of_day),
        state="closed" if closed is not None else "not_kept" if is_over else "open",
        report_hash=None if closed is None else reports.report_hash(closed),
        report=report,
    )


METHODS = (
    Method(
        "energy_quote",
        quote,
        "What an order would set aside, cost or earn: at its limit, at the last price near it, and "
        "in the book as it is; its place in the merit order, and what the last slots gave.",
        routes=(Route("GET", "/energy/quote"),),
        cost=5,
    ),
    Method(
        READINGS_METHOD,
        get_meter_readings,
        "Accepted readings of an account's meters, newest first, and what the meters show; signed "
        "by the owner, its distributor or the regulator.",
        routes=(Route("GET", "/energy/readings/{address}"),),
        cost=5,
    ),
    Method(
        "energy_getCarbon",
        get_carbon,
        "Carbon credits an account holds and its newest retirement certificates, by chain.",
        routes=(Route("GET", "/energy/carbon/{address}"),),
        cost=5,
    ),
    Method(
        "energy_getCertificate",
        get_certificate,
        "A certificate of retired carbon credits.",
        routes=(Route("GET", "/energy/certificates/{id}"),),
    ),
    Method(
        "audit_getReports",
        get_reports,
        "Settlement reports of a day: of one territory, or of all those of a distributor.",
        routes=(Route("GET", "/audit/reports/{territory}"),),
        cost=5,
    ),
)
