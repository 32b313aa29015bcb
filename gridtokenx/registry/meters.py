"""The verbs of a meter's life: registered, approved, replaced, suspended, reinstated, retired.

A meter's id names its metering point for life; devices and their keys come and go. What the
registers of a device mean is the grid's business, not known here. Source: protocols/market.md 5.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.registry import rules
from gridtokenx.registry.model import (
    METER_KEYS,
    METERS,
    PARTICIPANTS,
    ApproveMeter,
    Generation,
    Meter,
    MeterApproved,
    MeterKey,
    MeterRegistered,
    MeterReinstated,
    MeterReplaced,
    MeterRetired,
    MeterStatus,
    MeterSuspended,
    OrganisationKind,
    RegisterMeter,
    RegistryEvent,
    ReinstateMeter,
    ReplaceMeter,
    RetireMeter,
    SuspendMeter,
)

LARGE_PLANT_W = 10_000_000  # From 10 MW on the regulator looks at a plant before it counts.


def choose(
    own: Iterable[Meter], *, location: str, selling: bool, source: str, named: bytes | None = None
) -> Meter:
    """The meter of an account's `own` that an order from a place is of: the named or the only one.

    `source` is a name of a plant's source; any other text, such as `any`, asks for none.
    Errors: UNKNOWN_METER without such a meter; NOT_ACTIVE where it, or any, is not active;
    METER_NOT_NAMED for several, with the choice: nobody trades with another meter than he meant.
    """
    if named is not None:
        return _named(own, named)
    there = [entry for entry in own if entry.location == location]
    if not there:
        detail = f"the account has no meter at {location}; name the place of one of its meters"
        raise Rejected(ErrorCode.UNKNOWN_METER, detail)
    active = [entry for entry in there if entry.status is MeterStatus.ACTIVE]
    if not active:
        told = "; ".join(describe(entry) for entry in there[:8])
        detail = f"no meter of the account at {location} is active: {told}"
        raise Rejected(ErrorCode.NOT_ACTIVE, detail)
    able = [entry for entry in active if _serves(entry, selling, source)] or active
    if len(able) > 1:
        told = "; ".join(describe(entry) for entry in able[:8])
        more = f" and {len(able) - 8} more" if len(able) > 8 else ""
        detail = f"which of {len(able)} meters? name one by its id: {told}{more}"
        raise Rejected(ErrorCode.METER_NOT_NAMED, detail)
    return able[0]


def describe(entry: Meter) -> str:
    """What tells a meter from its neighbours: id, place, source, and why it does not count."""
    by = f" by {entry.suspended_by}" if entry.suspended_by else ""
    state = "" if entry.status is MeterStatus.ACTIVE else f", {entry.status}{by}"
    return f"{entry.meter_id.hex()} ({entry.location}, {entry.source}{state})"


def register_meter(
    state: Overlay,
    command: RegisterMeter,
    *,
    sender: bytes,
    now_ms: int,
    rating_va: int | None = None,
) -> list[RegistryEvent]:
    """Let a meter's readings count; those of a large plant once the regulator approves.

    `rating_va` is what its substation is built for, if that is published.
    Errors: UNKNOWN_ZONE; NOT_GRID_OPERATOR, WRONG_TERRITORY unless its territory's distributor
    sends it; NOT_REGISTERED for its owner; ALREADY_REGISTERED for a key ever used; UNKNOWN_SOURCE
    when plant and export nameplate contradict each other; OUT_OF_RANGE for a nameplate above the
    rating; NOT_PERMITTED when the owner's plants exceed its licence's class, or for a large plant
    where nobody regulates. Source: protocols/market.md 5.1.
    """
    rules.check_distributor(state, rules.check_location(state, command.location), sender)
    owner = rules.participant(state, command.owner)
    _check_fresh(state, command.meter_id)
    exports = command.nameplate_export_w > 0
    if exports != (command.source is not Generation.NONE):
        detail = f"source {command.source} with an export nameplate {command.nameplate_export_w} W"
        raise Rejected(ErrorCode.UNKNOWN_SOURCE, detail)
    _check_rating(command, rating_va)
    total_w = owner.export_nameplate_w + command.nameplate_export_w
    rules.check_class(owner.licence_class, total_w)
    status = _first_status(state, command.nameplate_export_w, total_w)
    METERS.put(state, command.meter_id, _meter(command, status, now_ms))
    METER_KEYS.put(state, command.meter_id, MeterKey(command.meter_id, True))
    if exports:
        PARTICIPANTS.put(state, command.owner, replace(owner, export_nameplate_w=total_w))
    return [MeterRegistered(command.meter_id, command.owner, command.location, status)]


def approve_meter(
    state: Overlay, command: ApproveMeter, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let a large plant's readings count: the first from now on says where its registers stand.

    Errors: UNKNOWN_METER; NOT_PERMITTED unless the regulator sends it; DUPLICATE for a meter that
    does not wait for it.
    """
    entry = rules.meter(state, command.meter_id)
    by = rules.organisation_of_operator(state, sender)
    if by.kind is not OrganisationKind.REGULATOR:
        detail = f"only the regulator approves a plant, and {by.name} is none"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    if entry.status is not MeterStatus.PENDING:
        detail = f"meter {command.meter_id.hex()} is {entry.status}: there is nothing to approve"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    approved = replace(entry, status=MeterStatus.ACTIVE, restart_slot=slot_at(now_ms))
    METERS.put(state, command.meter_id, approved)
    return [MeterApproved(command.meter_id, entry.owner, by.name)]


def replace_meter(state: Overlay, command: ReplaceMeter, *, sender: bytes) -> list[RegistryEvent]:
    """Let another device sign for a metering point; orders and trades, which name it, stay.

    The caller moves the registers. Errors: UNKNOWN_METER; NOT_GRID_OPERATOR, WRONG_TERRITORY unless
    its territory's distributor sends it; NOT_ACTIVE for a retired one; ALREADY_REGISTERED for a key
    ever used.
    """
    entry = _living(state, command.meter_id)
    rules.check_distributor(state, territory_of(entry.location), sender)
    _check_fresh(state, command.new_key)
    exchanged = replace(entry, key=command.new_key)
    if not rules.counts(state, entry):  # Nothing is carried over: the new device starts from here.
        exchanged = replace(
            exchanged,
            import_wh_cum=command.new_import_wh_cum,
            export_wh_cum=command.new_export_wh_cum,
        )
    METERS.put(state, entry.meter_id, exchanged)
    METER_KEYS.put(state, entry.key, MeterKey(entry.meter_id, False))
    METER_KEYS.put(state, command.new_key, MeterKey(entry.meter_id, True))
    return [MeterReplaced(entry.meter_id, entry.owner, entry.key, command.new_key)]


def retire_meter(state: Overlay, command: RetireMeter, *, sender: bytes) -> list[RegistryEvent]:
    """End a metering point; its nameplate no longer counts against its owner's licence.

    The caller mints the rest and cancels its orders. Errors: as `replace_meter`, without the key.
    """
    entry = _living(state, command.meter_id)
    rules.check_distributor(state, territory_of(entry.location), sender)
    METERS.put(state, entry.meter_id, replace(entry, status=MeterStatus.RETIRED, suspended_by=""))
    METER_KEYS.put(state, entry.key, MeterKey(entry.meter_id, False))
    if entry.nameplate_export_w:
        owner = rules.participant(state, entry.owner)
        left_w = owner.export_nameplate_w - entry.nameplate_export_w
        PARTICIPANTS.put(state, entry.owner, replace(owner, export_nameplate_w=left_w))
    return [MeterRetired(entry.meter_id, entry.owner)]


def suspend_meter(state: Overlay, command: SuspendMeter, *, sender: bytes) -> list[RegistryEvent]:
    """Let nothing count that a meter says; the caller cancels its open orders.

    Errors: UNKNOWN_METER; NOT_ACTIVE for one that is retired or waits for approval;
    NOT_GRID_OPERATOR, WRONG_TERRITORY unless its territory's distributor or the regulator sends
    it; DUPLICATE for one that is suspended, which only the regulator may take over.
    """
    entry = _living(state, command.meter_id)
    by = rules.overseer(state, territory_of(entry.location), sender)
    if entry.status is MeterStatus.PENDING:
        rules.check_active(entry)
    rules.check_may_suspend(by, entry.suspended_by, what=f"meter {entry.meter_id.hex()}")
    suspended = replace(entry, status=MeterStatus.SUSPENDED, suspended_by=by.name)
    METERS.put(state, entry.meter_id, suspended)
    return [MeterSuspended(entry.meter_id, entry.owner, by.name, command.reason)]


def reinstate_meter(
    state: Overlay, command: ReinstateMeter, *, sender: bytes, now_ms: int
) -> list[RegistryEvent]:
    """Let a suspended meter count again, from the registers given; the caller forgets the old ones.

    Errors: as for the suspension; DUPLICATE for one that is not suspended; NOT_PERMITTED when the
    regulator suspended it and somebody else would reinstate it.
    """
    entry = _living(state, command.meter_id)
    by = rules.overseer(state, territory_of(entry.location), sender)
    what = f"meter {entry.meter_id.hex()}"
    rules.check_may_reinstate(state, by, entry.suspended_by, what=what)
    reinstated = replace(
        entry,
        status=MeterStatus.ACTIVE,
        suspended_by="",
        first_slot=slot_at(now_ms),
        import_wh_cum=command.import_wh_cum,
        export_wh_cum=command.export_wh_cum,
    )
    METERS.put(state, entry.meter_id, reinstated)
    return [MeterReinstated(entry.meter_id, entry.owner, by.name, command.reason)]


def _named(own: Iterable[Meter], named: bytes) -> Meter:
    for entry in own:
        if entry.meter_id == named:
            rules.check_active(entry)
            return entry
    detail = f"the account has no meter {named.hex()}; name one of its own"
    raise Rejected(ErrorCode.UNKNOWN_METER, detail)


def _serves(entry: Meter, selling: bool, source: str) -> bool:
    if not selling:
        return entry.nameplate_import_w > 0
    named = source in tuple(Generation)
    return entry.nameplate_export_w > 0 and (not named or entry.source.value == source)


def _living(state: Reader, meter_id: bytes) -> Meter:
    """A meter that is not retired. Errors: UNKNOWN_METER, NOT_ACTIVE."""
    entry = rules.meter(state, meter_id)
    if entry.status is MeterStatus.RETIRED:
        rules.check_active(entry)
    return entry


def _check_fresh(state: Reader, key: bytes) -> None:
    """A device's key serves one metering point, once in its life."""
    if METER_KEYS.get(state, key):
        detail = f"meter {key.hex()} is or was registered; a device's key is used once"
        raise Rejected(ErrorCode.ALREADY_REGISTERED, detail)


def _check_rating(command: RegisterMeter, rating_va: int | None) -> None:
    for way, nameplate_w in (
        ("import", command.nameplate_import_w),
        ("export", command.nameplate_export_w),
    ):
        if rating_va is not None and nameplate_w > rating_va:
            detail = (
                f"an {way} nameplate of {nameplate_w} W is beyond {command.location}, "
                f"which is built for {rating_va} VA"
            )
            raise Rejected(ErrorCode.OUT_OF_RANGE, detail)


def _first_status(state: Reader, export_w: int, total_w: int) -> MeterStatus:
    """A plant that brings its owner's to 10 MW or more waits, so that nobody splits a large one."""
    if not export_w or total_w < LARGE_PLANT_W:
        return MeterStatus.ACTIVE
    if rules.regulator(state) is None:
        detail = f"{total_w} W of generation needs a regulator's approval; this chain has none"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    return MeterStatus.PENDING


def _meter(command: RegisterMeter, status: MeterStatus, now_ms: int) -> Meter:
    return Meter(
        meter_id=command.meter_id,
        owner=command.owner,
        location=command.location,
        nameplate_import_w=command.nameplate_import_w,
        nameplate_export_w=command.nameplate_export_w,
        source=command.source,
        prosumer_class=command.prosumer_class,
        first_slot=slot_at(now_ms),
        import_wh_cum=command.import_wh_cum,
        export_wh_cum=command.export_wh_cum,
        key=command.meter_id,
        status=status,
    )
