"""Methods about money and proof of it: quotes, readings, carbon certificates, reports."""

from __future__ import annotations

from typing import Any

from gridtokenx.api import access
from gridtokenx.api.context import Context
from gridtokenx.api.documents import document
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.kinds import (
    address,
    amount,
    boolean,
    choice,
    day,
    format_cursor,
    format_day,
    hex_bytes,
    integer,
    text,
)
from gridtokenx.api.methods.order import limit_mthb
from gridtokenx.api.table import CHAIN, CURSOR, LIMIT, Arguments, Method, Param, Route, shape
from gridtokenx.chain.commands import grid_limits, metering_point
from gridtokenx.grid import operation
from gridtokenx.grid import rules as grid
from gridtokenx.ledger.model import ACCOUNTS, CERTIFICATES, Account, RetirementCertificate
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import SUBSTATION, territory_of
from gridtokenx.primitives.quantities import local_day, parse_kwh, slot_at
from gridtokenx.primitives.state import u64
from gridtokenx.primitives.types import format_address
from gridtokenx.registry import meters
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import PARTICIPANTS, TERRITORIES, Generation, Meter
from gridtokenx.storage import index as history
from gridtokenx.trading import reports
from gridtokenx.trading import rules as trading
from gridtokenx.trading.clock_model import CLOCK
from gridtokenx.trading.model import (
    Side,
    Source,
)
from gridtokenx.trading.quotes import LastTrade
from gridtokenx.trading.report_model import SettlementReport
from gridtokenx.trading.settlement import Charges
from gridtokenx.views.status import ChainStatus

READINGS_METHOD = "energy_getMeterReadings"
MAX_METERS = 100  # Of an account, in one answer.


# Quotes


def quote(context: Context, arguments: Arguments) -> dict[str, Any]:
    location = arguments["grid_location"]
    status = context.chain_at(location)
    now_ms = status.head.market_ms
    market = trading.parameters(status.view)
    slot = slot_at(now_ms) + 1 if arguments["slot"] is None else arguments["slot"]
    side, source = Side[arguments["order_type"].upper()], Source(arguments["energy_source"])
    meter = _quoted_meter(context, status, arguments, side)
    if meter is not None and side is Side.SELL and source is Source.ANY:
        if meter.source is Generation.NONE:
            detail = f"meter {meter.meter_id.hex()} has no plant, so it sells nothing"
            raise Rejected(ErrorCode.UNKNOWN_SOURCE, detail)
        source = Source(meter.source.value)
    if side is Side.SELL and source in (Source.ANY, Source.RENEWABLE):
        detail = "a sale is of the plant's own source, such as solar"
        raise invalid_params(detail, parameter="energy_source")
    energy_wh = parse_kwh(arguments["energy_amount"])
    price_mthb = limit_mthb(arguments["price_per_kwh"])
    found = trading.quote(
        status.view,
        side=side,
        energy_wh=energy_wh,
        limit_mthb=price_mthb,
        location=location,
        slot=slot,
        source=source,
        vat_registered=_charges_vat(status, arguments),
    )
    emergency = operation.emergency_of(
        status.view, territory_of(location), now_ms, grid_limits(market)
    )
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "slot": str(slot),
        "order_type": side.name.lower(),
        "energy_wh": str(energy_wh),
        "limit_mthb": str(price_mthb),
        "grid_location": location,
        "energy_source": source.value,
        "meter_id": None if meter is None else meter.meter_id.hex(),
        "reserve": "escrow" if side is Side.BUY else "bond",
        "reserve_uthb": str(found.reserve_uthb),
        "worst": _charges_document(found.worst),
        "last": _last_document(found.last),
        "at_last_price": None
        if found.at_last_price is None
        else _charges_document(found.at_last_price),
        "emergency": emergency,
    }


def _quoted_meter(
    context: Context, status: ChainStatus, arguments: Arguments, side: Side
) -> Meter | None:
    """The meter that an order of the trader would be of; None where nobody in particular asks."""
    trader, named = arguments["trader"], arguments["meter_id"]
    if trader is None:
        if named is not None:
            detail = "a meter is quoted for its owner: name the trader too"
            raise invalid_params(detail, parameter="trader")
        return None
    return meters.choose(
        context.meters_of(status, trader),
        location=arguments["grid_location"],
        selling=side is Side.SELL,
        source=arguments["energy_source"],
        named=named,
    )


def _charges_vat(status: ChainStatus, arguments: Arguments) -> bool:
    """Whether the seller charges VAT: as it is registered, or for nobody in particular as asked."""
    trader = arguments["trader"]
    known = None if trader is None else PARTICIPANTS.get(status.view, trader)
    return bool(arguments["vat_registered"]) if known is None else known.vat_registered


def _charges_document(one: Charges) -> dict[str, str]:
    return {
        "buyer_uthb": str(one.buyer_uthb),
        "seller_uthb": str(one.seller_uthb),
        "energy_uthb": str(one.energy_uthb),
        "wheeling_uthb": str(one.wheeling_uthb),
        "vat_uthb": str(one.vat_uthb),
        "fee_uthb": str(one.fee_uthb),
        "carbon_ucr": str(one.carbon_ucr),
    }


def _last_document(last: LastTrade | None) -> dict[str, Any] | None:
    if last is None:
        return None
    return {
        "tier": last.tier,
        "group": last.group,
        "slot": str(last.slot),
        "price_mthb": str(last.price_mthb),
        "wheeling_mthb": str(last.wheeling_mthb),
    }


# Readings


def get_meter_readings(context: Context, arguments: Arguments) -> dict[str, Any]:
    owner = arguments["address"]
    params = {"address": format_address(owner), "limit": str(arguments["limit"])}
    if arguments["chain"] is not None:
        params["chain"] = arguments["chain"]
    if arguments["cursor"]:
        params["cursor"] = format_cursor(arguments["cursor"]) or ""
    signer = access.check_signer(context.handle.genesis.hash, READINGS_METHOD, params, arguments)
    status = context.chain(arguments["chain"])
    seen_as = access.check_may_read(status, signer, owner)
    records, following = history.list_readings(
        status.view, owner, arguments["limit"], arguments["cursor"]
    )
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "address": format_address(owner),
        "seen_as": seen_as,
        "meters": [
            _registers_document(status, meter)
            for meter in context.meters_of(status, owner)[:MAX_METERS]
        ],
        "items": [
            {
                "meter_id": one.reading.meter_id.hex(),
                "location": access.meter_location(status, one.reading.meter_id),
                "slot": str(one.reading.slot),
                "slots": str(one.reading.slots),
                "import_wh": str(one.reading.import_wh),
                "export_wh": str(one.reading.export_wh),
                "deliverable_wh": str(one.reading.deliverable_wh),
                "carbon_ucr": str(one.reading.carbon_ucr),
                "height": str(one.when.height),
                "market_ms": str(one.when.market_ms),
            }
            for one in records
        ],
        "next_cursor": format_cursor(following),
    }


def _registers_document(status: ChainStatus, meter: Meter) -> dict[str, Any]:
    """What a meter shows: its last reading, or where its readings begin."""
    point = metering_point(meter, registry.participant(status.view, meter.owner))
    shown = grid.registers(status.view, point)
    fields = document(shown)
    del fields["kind"]
    return {
        "meter_id": meter.meter_id.hex(),
        "key": meter.key.hex(),
        "location": meter.location,
        "status": meter.status.value,
        "suspended_by": meter.suspended_by,
        **fields,
    }


# Carbon


def get_carbon(context: Context, arguments: Arguments) -> dict[str, Any]:
    who = arguments["address"]
    rows = [_carbon_on(status, who) for status in context.selected(arguments["chain"])]
    return {
        "address": format_address(who),
        "carbon_ucr": str(sum(int(row["carbon_ucr"]) for row in rows)),
        "unit": "micro-credit",
        "chains": rows,
    }


def _carbon_on(status: ChainStatus, who: bytes) -> dict[str, Any]:
    """The newest hundred certificates; older ones by number."""
    account = ACCOUNTS.get(status.view, who) or Account()
    page = history.list_certificates(status.view, who, history.MAX_PAGE)
    found = (CERTIFICATES.get(status.view, number) for number in page.ids)
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "carbon_ucr": str(account.carbon_ucr),
        "certificates": [_certificate_document(status, one) for one in found if one is not None],
    }


def get_certificate(context: Context, arguments: Arguments) -> dict[str, Any]:
    name, _, number = arguments["id"].rpartition("-")
    status = context.chain(name)
    found = CERTIFICATES.get(status.view, u64(int(number)))
    if found is None:
        detail = f"no certificate {arguments['id']} has been issued"
        raise ApiError(ErrorCode.CERTIFICATE_NOT_FOUND, detail)
    return _certificate_document(status, found)


def _certificate_document(status: ChainStatus, one: RetirementCertificate) -> dict[str, Any]:
    fields = document(one)
    del fields["kind"]
    return {
        "id": f"{status.spec.name}-{one.number}",
        "chain": status.spec.name,
        "chain_id": status.spec.chain_id.hex(),
        "network": status.spec.genesis.network_name,
        **fields,
    }


# Reports


def get_reports(context: Context, arguments: Arguments) -> dict[str, Any]:
    """One territory, or all those of a distributor."""
    territory = arguments["territory"]
    items = []
    for status in context.chains().values():
        served = [one for _, one in TERRITORIES.items(status.view)]
        for one in served:
            if territory.upper() in (one.prefix, one.distributor.upper()):
                wanted = arguments["day"]
                of_day = local_day(status.head.market_ms) if wanted is None else wanted
                items.append(_report_document(status, one.prefix, one.distributor, of_day))
    if not items:
        detail = f"no territory of this node's chains is, or belongs to, {territory!a}"
        raise ApiError(ErrorCode.UNKNOWN_ZONE, detail)
    return {"territory": territory, "items": items}


def _report_document(
    status: ChainStatus, territory: str, distributor: str, of_day: int
) -> dict[str, Any]:
    closed = reports.closed_report(status.view, territory, of_day)
    report: SettlementReport
    if closed is not None:
        report, state = closed, "closed"
    else:
        report = reports.open_report(status.view, territory, distributor, of_day)
        clock = CLOCK.get(status.view, b"")
        over = clock is not None and reports.day_of(clock.settled_slot + 1) > of_day
        state = "not_kept" if over else "open"
    return {
        "territory": territory,
        "distributor": distributor,
        "chain": status.spec.name,
        "height": str(status.head.height),
        "day": str(of_day),
        "date": format_day(of_day),
        "state": state,
        "report_hash": None if closed is None else reports.report_hash(closed).hex(),
        "report": document(report),
    }


_ADDRESS = Param("address", address(), "account, gtx1...", required=True)

METHODS = (
    Method(
        "energy_quote",
        quote,
        "What an order would set aside, cost or earn: at its limit, and at the last price near it.",
        shape(
            chain="text",
            height="decimal",
            slot="decimal",
            order_type="text",
            energy_wh="decimal",
            limit_mthb="decimal",
            grid_location="text",
            energy_source="text",
            meter_id="hex?",
            reserve="text",
            reserve_uthb="decimal",
            worst="object",
            last="object?",
            at_last_price="object?",
            emergency="text?",
        ),
        (
            Param("order_type", choice("buy", "sell"), "buy or sell", required=True),
            Param("energy_amount", amount(), "kWh, at most 3 decimals", required=True),
            Param("price_per_kwh", amount(), "limit in mTHB/kWh: 5000 is 5 THB", required=True),
            Param(
                "grid_location",
                text(32, SUBSTATION, "BKK-01-SUB001"),
                "substation of the trader's meter",
                required=True,
            ),
            Param(
                "energy_source",
                choice(*(source.value for source in Source)),
                "a seller's plant, a buyer's wish",
                default="any",
            ),
            Param("slot", integer(0, 2**40), "delivery slot; the next one if absent"),
            Param("vat_registered", boolean(), "whether the seller charges VAT", default=False),
            Param("trader", address(), "whose order it would be: its meter, its VAT"),
            Param(
                "meter_id",
                hex_bytes(32, exactly=True),
                "the trader's meter; needed where several of its active ones at the place fit",
            ),
        ),
        (Route("GET", "/energy/quote"),),
    ),
    Method(
        READINGS_METHOD,
        get_meter_readings,
        "Accepted readings of an account's meters, newest first, and what the meters show; signed "
        "by the owner, its distributor or the regulator.",
        shape(
            chain="text",
            height="decimal",
            address="text",
            seen_as="text",
            meters="list",
            items="list",
            next_cursor="text?",
        ),
        (_ADDRESS, CHAIN, LIMIT, CURSOR, *access.SIGNED_PARAMS),
        (Route("GET", "/energy/readings/{address}"),),
        cost=5,
    ),
    Method(
        "energy_getCarbon",
        get_carbon,
        "Carbon credits an account holds and its newest retirement certificates, by chain.",
        shape(address="text", carbon_ucr="decimal", unit="text", chains="list"),
        (_ADDRESS, CHAIN),
        (Route("GET", "/energy/carbon/{address}"),),
        cost=5,
    ),
    Method(
        "energy_getCertificate",
        get_certificate,
        "A certificate of retired carbon credits.",
        shape(
            id="text",
            chain="text",
            chain_id="hex",
            network="text",
            number="decimal",
            owner="text",
            amount_ucr="decimal",
            beneficiary_hash="hex",
            retired_ms="decimal",
        ),
        (
            Param(
                "id",
                text(24, "[A-Z0-9]{2,8}-[0-9]{1,15}", "MET-1"),
                "certificate, such as MET-1",
                required=True,
            ),
        ),
        (Route("GET", "/energy/certificates/{id}"),),
    ),
    Method(
        "audit_getReports",
        get_reports,
        "Settlement reports of a day: of one territory, or of all those of a distributor.",
        shape(territory="text", items="list"),
        (
            Param(
                "territory",
                text(16, "[A-Za-z0-9]{1,16}", "BKK or MEA"),
                "territory, or distributor",
                required=True,
            ),
            Param("day", day(), "Bangkok date"),
        ),
        (Route("GET", "/audit/reports/{territory}"),),
        cost=5,
    ),
)
