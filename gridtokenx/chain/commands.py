"""Commands meet their rules here. Contexts do not know each other: this module carries plain
values between them. Source: protocols/state-transition.md 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from gridtokenx.chain import crossing, national
from gridtokenx.chain.block import Event
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.standing import is_backed
from gridtokenx.chain.transaction import Transaction
from gridtokenx.grid import operation
from gridtokenx.grid import rules as grid
from gridtokenx.grid.model import (
    GridLimits,
    HaltTerritory,
    MeteringPoint,
    MeterReading,
    PublishGridStatus,
    ReadingAccepted,
    ReadingRefused,
    ResumeTerritory,
    SubmitReadings,
)
from gridtokenx.interchain import rules as interchain
from gridtokenx.interchain.model import TransferAbroad
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Deposit, LedgerCommand, RetireCredits, Transfer, Withdraw
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import SLOTS_PER_DAY
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.registry import meters
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import (
    ApproveMeter,
    Meter,
    MeterCommand,
    OrganisationKind,
    Participant,
    RegisterMeter,
    RegisterParticipant,
    RegistryCommand,
    ReinstateMeter,
    ReinstateParticipant,
    RenewLicence,
    ReplaceMeter,
    RetireMeter,
    SuspendMeter,
    SuspendParticipant,
)
from gridtokenx.trading import rules as trading
from gridtokenx.trading.matching import GridView, Watch
from gridtokenx.trading.model import (
    CancelOrder,
    MarketParameters,
    MeterFacts,
    PlaceOrder,
    Redeem,
    ReportClosed,
    TraderFacts,
)
from gridtokenx.trading.redemption import Customer, Customers
from gridtokenx.trading.settlement import Payees, ReadingFacts


@dataclass(frozen=True, slots=True)
class Environment:
    """What rules may know of the block they run in."""

    spec: ChainSpec
    height: int
    now_ms: int
    parent_hash: bytes
    reward_account: bytes
    proposer_key: bytes
    watch: Watch | None = None  # Sees each clearing begin; what it does changes nothing.


def begin_market(state: Overlay, env: Environment) -> Sequence[Event]:
    """What time demands of the market before a block's transactions."""
    events = trading.begin_block(
        state,
        now_ms=env.now_ms,
        gate_grace_ms=env.spec.gate_grace_ms,
        grid=grid_view(state, env.now_ms),
        territories=lambda: registry.territories(state),
        customers=lambda: _customers(state),
        read_to=lambda meter_id: grid.read_to(state, meter_id),
        read_since=lambda meter_id: grid.read_since(state, _metering_point(state, meter_id)),
        watch=env.watch,
    )
    closed = [
        (event.territory, event.day, event.report_hash)
        for event in events
        if isinstance(event, ReportClosed)
    ]
    crossing.reports_closed(state, closed, spec=env.spec, height=env.height)
    return events


def run_command(state: Overlay, transaction: Transaction, env: Environment) -> Sequence[Event]:
    """The effect of a transaction's command. Errors: the rule's own."""
    sender = transaction.sender
    if isinstance(transaction.payload, TransferAbroad):
        ledger.check_has_key(transaction.payload.to)
        return interchain.transfer_abroad(
            state,
            transaction.payload,
            sender=sender,
            transfer_id=transaction.id,
            place=env.spec.place,
            height=env.height,
        )
    if env.spec.is_national:
        return national.run_command(
            state, transaction, spec=env.spec, height=env.height, now_ms=env.now_ms
        )
    match transaction.payload:
        case PlaceOrder() as command:
            return _place_order(state, command, sender, transaction.id, env)
        case CancelOrder() as command:
            return trading.cancel_order(state, command, owner=sender)
        case SubmitReadings() as command:
            return _submit_readings(state, command, sender, env)
        case Redeem() as command:
            customer = _customer(state, registry.participant(state, sender))
            return trading.redeem(state, command, customer=customer, now_ms=env.now_ms)
        case PublishGridStatus() | HaltTerritory() | ResumeTerritory() as command:
            return _operate_grid(state, command, sender, env)
        case Transfer() | Deposit() | Withdraw() | RetireCredits() as command:
            return _run_ledger(state, command, sender, env)
        case command if isinstance(command, RegistryCommand):
            return _run_registry(state, command, sender, env)
        case other:
            name = type(other).__name__
            detail = f"{name} is for the national chain, not for {env.spec.name}"
            raise Rejected(ErrorCode.NOT_PERMITTED, detail)


def _run_ledger(
    state: Overlay, command: LedgerCommand, sender: bytes, env: Environment
) -> Sequence[Event]:
    match command:
        case Transfer(to, asset, amount):
            ledger.check_recipient(state, to, asset, amount, is_backed)
            return ledger.transfer(state, command, sender=sender)
        case RetireCredits():
            return ledger.retire_credits(state, command, sender=sender, now_ms=env.now_ms)
        case Deposit(to, amount_uthb):
            ledger.check_recipient(state, to, Asset.THB, amount_uthb, is_backed)
            authority = _payment_authority(state)
            return ledger.deposit(
                state,
                command,
                sender=sender,
                payment_authority=authority,
                region_id=env.spec.genesis_id,
                now_ms=env.now_ms,
                limit_uthb=trading.parameters(state).deposit_limit_uthb,
            )
        case Withdraw():
            authority = _payment_authority(state)
            return ledger.withdraw(state, command, sender=sender, payment_authority=authority)


def _run_registry(
    state: Overlay, command: RegistryCommand, sender: bytes, env: Environment
) -> Sequence[Event]:
    now_ms = env.now_ms
    match command:
        case RegisterParticipant(account):
            ledger.check_has_key(account)
            return registry.register_participant(state, command, sender=sender, now_ms=now_ms)
        case SuspendParticipant():
            suspended = registry.suspend_participant(state, command, sender=sender)
            return [*suspended, *trading.cancel_orders_of(state, command.account)]
        case ReinstateParticipant():
            return registry.reinstate_participant(state, command, sender=sender, now_ms=now_ms)
        case RenewLicence(account, _, until_ms):
            renewed = registry.renew_licence(state, command, sender=sender, now_ms=now_ms)
            return [*renewed, *trading.cancel_orders_beyond(state, account, until_ms)]
        case of_meter:
            return _run_meter(state, of_meter, sender, env)


def _run_meter(
    state: Overlay, command: MeterCommand, sender: bytes, env: Environment
) -> Sequence[Event]:
    now_ms = env.now_ms
    match command:
        case RegisterMeter():
            rating_va = operation.rating_va(state, command.location)
            return meters.register_meter(
                state, command, sender=sender, now_ms=now_ms, rating_va=rating_va
            )
        case ReplaceMeter():
            return _replace_meter(state, command, sender, env)
        case RetireMeter():
            return _retire_meter(state, command, sender, env)
        case SuspendMeter(meter_id):
            owner = registry.meter(state, meter_id).owner
            suspended = meters.suspend_meter(state, command, sender=sender)
            return [*suspended, *trading.cancel_orders_of_meter(state, owner, meter_id)]
        case ReinstateMeter(meter_id):
            events = meters.reinstate_meter(state, command, sender=sender, now_ms=now_ms)
            grid.forget_registers(state, meter_id)
            trading.forget_assumed(state, meter_id)
            return events
        case ApproveMeter():
            return meters.approve_meter(state, command, sender=sender, now_ms=now_ms)


def _replace_meter(
    state: Overlay, command: ReplaceMeter, sender: bytes, env: Environment
) -> Sequence[Event]:
    before = registry.meter(state, command.meter_id)
    events = meters.replace_meter(state, command, sender=sender)
    if registry.counts(state, before):
        grid.exchange_registers(
            state,
            _metering_point(state, command.meter_id),
            old_import_wh_cum=command.old_import_wh_cum,
            old_export_wh_cum=command.old_export_wh_cum,
            new_import_wh_cum=command.new_import_wh_cum,
            new_export_wh_cum=command.new_export_wh_cum,
            now_ms=env.now_ms,
        )
    else:
        grid.forget_registers(state, command.meter_id)
    return events


def _retire_meter(
    state: Overlay, command: RetireMeter, sender: bytes, env: Environment
) -> Sequence[Event]:
    """The rest is minted before the end, by a meter whose readings count."""
    before = registry.meter(state, command.meter_id)
    counts = registry.counts(state, before)
    retired = meters.retire_meter(state, command, sender=sender)
    settled: Sequence[Event] = ()
    if counts:
        source = before.source.value
        last = grid.close_registers(
            state,
            _metering_point(state, command.meter_id),
            import_wh_cum=command.import_wh_cum,
            export_wh_cum=command.export_wh_cum,
            now_ms=env.now_ms,
            carbon_mcr_per_kwh=trading.parameters(state).carbon_mcr_per_kwh(source),
        )
        settled = _settle_reading(state, last, before, env)
    cancelled = trading.cancel_orders_of_meter(state, before.owner, command.meter_id)
    return [*retired, *settled, *cancelled]


def _place_order(
    state: Overlay, command: PlaceOrder, sender: bytes, order_id: bytes, env: Environment
) -> Sequence[Event]:
    participant = registry.participant(state, sender)
    territory = registry.check_location(state, command.location)
    limits = grid_limits(trading.parameters(state))
    operation.check_operating(state, territory, env.now_ms, limits)
    meter = registry.meter(state, command.meter_id)
    registry.check_active(meter)
    return trading.place_order(
        state,
        command,
        owner=sender,
        order_id=order_id,
        now_ms=env.now_ms,
        height=env.height,
        trader=_trader_facts(participant),
        meter=_meter_facts(meter, participant),
    )


def _submit_readings(
    state: Overlay, command: SubmitReadings, sender: bytes, env: Environment
) -> Sequence[Event]:
    """Judge each reading by itself. Errors: that of the first, where none has any effect."""
    registry.check_known(state, sender)
    events: list[Event] = []
    refused: list[Rejected] = []
    for reading in command.readings:
        attempt = Overlay(state)
        try:
            told = _take_reading(attempt, reading, sender, env)
            attempt.merge()
        except Rejected as error:
            refused.append(error)
            events.append(ReadingRefused(reading.key, reading.slot, error.code, error.detail[:240]))
        else:
            events += told
    if len(refused) == len(command.readings):
        raise refused[0]
    return events


def _take_reading(
    state: Overlay, reading: MeterReading, sender: bytes, env: Environment
) -> Sequence[Event]:
    meter = registry.meter_of_key(state, reading.key)
    owner = registry.check_counts(state, meter)
    territory = territory_of(meter.location)
    parameters = trading.parameters(state)
    point = metering_point(meter, owner)
    shown = (reading.import_wh_cum, reading.export_wh_cum)
    if grid.restart_registers(state, point, reading.slot, *shown):
        trading.forget_assumed(state, meter.meter_id)
    accepted = grid.accept_reading(
        state,
        reading,
        point=point,
        region_id=env.spec.genesis_id,  # A device outlives incarnations of its region.
        now_ms=env.now_ms,
        due_slot=trading.due_slot(state),
        claim_slots=parameters.reading_deadline_slots + SLOTS_PER_DAY,
        by_distributor=sender == registry.distributor_of(state, territory).operator,
        carbon_mcr_per_kwh=parameters.carbon_mcr_per_kwh(meter.source.value),
    )
    return _settle_reading(state, accepted, meter, env)


def _settle_reading(
    state: Overlay, accepted: ReadingAccepted, meter: Meter, env: Environment
) -> Sequence[Event]:
    territory = territory_of(meter.location)
    payees = Payees(
        distributor_of=lambda prefix: registry.distributor_account(state, prefix),
        authority=env.reward_account,
        transmission=registry.transmission_account(state),
    )
    facts = ReadingFacts(
        meter_id=accepted.meter_id,
        slot=accepted.slot,
        slots=accepted.slots,
        territory=territory,
        source=meter.source.value,
        import_wh=accepted.import_wh,
        export_wh=accepted.export_wh,
        deliverable_wh=accepted.deliverable_wh,
        carbon_ucr=accepted.carbon_ucr,
        is_local=territory == registry.participant(state, meter.owner).territory,
    )
    return [accepted, *trading.settle_reading(state, facts, payees=payees)]


def _operate_grid(
    state: Overlay,
    command: PublishGridStatus | HaltTerritory | ResumeTerritory,
    sender: bytes,
    env: Environment,
) -> Sequence[Event]:
    if isinstance(command, PublishGridStatus):
        territory, publisher = registry.status_publisher(state, command.node, sender)
        return operation.publish_status(
            state,
            command,
            territory=territory,
            publisher=publisher.name,
            now_ms=env.now_ms,
            limits=grid_limits(trading.parameters(state)),
        )
    by = registry.overseer(state, command.territory, sender)
    by_regulator = by.kind is OrganisationKind.REGULATOR
    if isinstance(command, HaltTerritory):
        return operation.halt_territory(
            state, command, by=by.name, by_regulator=by_regulator, now_ms=env.now_ms
        )
    return operation.resume_territory(
        state, command, by=by.name, by_regulator=by_regulator, now_ms=env.now_ms
    )


def grid_view(state: Reader, now_ms: int) -> GridView:
    """What an auction asks of the grid, as of a market time (Unix ms)."""
    limits = grid_limits(trading.parameters(state))
    statuses_of = cache(lambda node: operation.statuses_of(state, node))

    def headroom_wh(node: str, slot: int) -> int | None:
        status = operation.status_in(statuses_of(node), slot)
        return None if status is None else operation.node_headroom_wh(status, now_ms, limits)

    return GridView(
        headroom_wh=headroom_wh,
        is_halted=lambda territory: (
            operation.emergency_of(state, territory, now_ms, limits) is not None
        ),
    )


def grid_limits(market: MarketParameters) -> GridLimits:
    """The parameters that the grid's rules need."""
    return GridLimits(
        alert_bps=market.grid_alert_bps,
        congested_bps=market.grid_congested_bps,
        stale_slots=market.grid_stale_slots,
        stale_rating_bps=market.grid_stale_rating_bps,
        frequency_min_mhz=market.frequency_min_mhz,
        frequency_max_mhz=market.frequency_max_mhz,
        open_slots=market.open_slots,
    )


def _customers(state: Reader) -> Customers:
    return Customers(
        registry.enrolment_count(state),
        lambda number: _customer(state, registry.enrolled(state, number)),
    )


def _customer(state: Reader, participant: Participant) -> Customer:
    territory = participant.territory
    utility = registry.distributor_account(state, territory)
    return Customer(participant.account, territory, utility, participant.active)


def _trader_facts(participant: Participant) -> TraderFacts:
    return TraderFacts(
        participant.active,
        participant.licence_expiry_ms,
        participant.vat_registered,
        participant.daily_cap_wh,
    )


def _meter_facts(meter: Meter, owner: Participant) -> MeterFacts:
    return MeterFacts(
        meter.owner,
        meter.location,
        meter.source.value,
        meter.nameplate_import_w,
        meter.nameplate_export_w,
        territory_of(meter.location) == owner.territory,
    )


def _metering_point(state: Reader, meter_id: bytes) -> MeteringPoint:
    meter = registry.meter(state, meter_id)
    return metering_point(meter, registry.participant(state, meter.owner))


def metering_point(meter: Meter, owner: Participant) -> MeteringPoint:
    """What the grid must know of a meter."""
    restart_slot = max(meter.restart_slot, owner.restart_slot)
    if restart_slot <= meter.first_slot:  # Its registers are known from a later slot on.
        restart_slot = 0
    return MeteringPoint(
        meter_id=meter.meter_id,
        key=meter.key,
        owner=meter.owner,
        is_local=territory_of(meter.location) == owner.territory,
        nameplate_import_w=meter.nameplate_import_w,
        nameplate_export_w=meter.nameplate_export_w,
        first_slot=max(meter.first_slot, restart_slot),
        import_wh_cum=meter.import_wh_cum,
        export_wh_cum=meter.export_wh_cum,
        restart_slot=restart_slot,
    )


def _payment_authority(state: Reader) -> bytes:
    authority = registry.payment_authority(state)
    if authority is None:
        raise Rejected(ErrorCode.NOT_PERMITTED, "this chain has no payment authority")
    return authority
