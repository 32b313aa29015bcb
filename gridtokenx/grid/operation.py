"""The verbs of grid operation: what nodes can still carry, and territories that stand still.

Source: protocols/market.md 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable

from gridtokenx.grid.model import (
    FREQUENCIES,
    HALTS,
    STATUSES,
    GridEvent,
    GridLimits,
    GridStatus,
    GridStatusPublished,
    Halt,
    HaltTerritory,
    NodeState,
    NodeStatuses,
    PublishGridStatus,
    ResumeTerritory,
    TerritoryFrequency,
    TerritoryHalted,
    TerritoryResumed,
)
from gridtokenx.grid.rules import headroom_wh
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import BPS, slot_at
from gridtokenx.primitives.state import Overlay, Reader

# -- Questions -------------------------------------------------------------------------------------


def is_stale(status: GridStatus, now_ms: int, limits: GridLimits) -> bool:
    """Whether a status is too old to be trusted in full."""
    return slot_at(now_ms) - status.slot > limits.stale_slots


def node_headroom_wh(status: GridStatus, now_ms: int, limits: GridLimits) -> int:
    """Wh that may cross a node in one slot; a stale status counts as part of the rating only."""
    if status.loading_bps >= limits.congested_bps:
        return 0
    stale = is_stale(status, now_ms, limits)
    share_bps = limits.stale_rating_bps if stale else BPS
    return headroom_wh(
        loading_bps=status.loading_bps,
        rating_va=status.rating_va * share_bps // BPS,
        limit_bps=status.limit_bps,
    )


def statuses_of(state: Reader, node: str) -> tuple[GridStatus, ...]:
    """What is published of a node, by slot, ascending."""
    found = STATUSES.get(state, node.encode())
    return () if found is None else found.statuses


def status_in(statuses: Iterable[GridStatus], slot: int) -> GridStatus | None:
    """The status that counts in a slot: the newest of those for it or an earlier one."""
    return max(
        [status for status in statuses if status.slot <= slot],
        key=lambda status: status.slot,
        default=None,
    )


def rating_va(state: Reader, node: str) -> int | None:
    """What a node is built for, by the greatest of its statuses in force and to come; None where
    nothing is published of it."""
    return max([status.rating_va for status in statuses_of(state, node)], default=None)


def node_state(state: Reader, status: GridStatus, now_ms: int, limits: GridLimits) -> NodeState:
    """How the node of a status fares, its territory's emergencies included."""
    if emergency_of(state, territory_of(status.node), now_ms, limits) is not None:
        return NodeState.EMERGENCY
    if status.loading_bps >= limits.congested_bps:
        return NodeState.CONGESTED
    return NodeState.ALERT if status.loading_bps >= limits.alert_bps else NodeState.NORMAL


def halt_in_force(state: Reader, territory: str, now_ms: int) -> Halt | None:
    """The halt of a territory, unless it has ended by itself."""
    halt = HALTS.get(state, territory.encode())
    return halt if halt is not None and (not halt.until_ms or now_ms < halt.until_ms) else None


def emergency_of(state: Reader, territory: str, now_ms: int, limits: GridLimits) -> str | None:
    """Why a territory may neither match nor take orders, in one sentence; None when it may.

    A frequency out of bounds holds until a status of the territory shows one inside them.
    """
    halt = halt_in_force(state, territory, now_ms)
    if halt is not None:
        until = f" until {halt.until_ms} (Unix ms)" if halt.until_ms else ""
        return f"{halt.by} halted territory {territory}{until}: {halt.reason}"
    last = FREQUENCIES.get(state, territory.encode())
    if last is None or limits.frequency_min_mhz <= last.frequency_mhz <= limits.frequency_max_mhz:
        return None
    return (
        f"the frequency at {last.node} is {last.frequency_mhz} mHz, outside "
        f"{limits.frequency_min_mhz}..{limits.frequency_max_mhz}"
    )


def check_operating(state: Reader, territory: str, now_ms: int, limits: GridLimits) -> None:
    """Errors: GRID_EMERGENCY with the reason: a territory is halted or its frequency is off."""
    reason = emergency_of(state, territory, now_ms, limits)
    if reason is not None:
        raise Rejected(ErrorCode.GRID_EMERGENCY, reason)


# -- Commands --------------------------------------------------------------------------------------


def publish_status(
    state: Overlay,
    command: PublishGridStatus,
    *,
    territory: str,
    publisher: str,
    now_ms: int,
    limits: GridLimits,
) -> list[GridEvent]:
    """Take over a node's status; `publisher` is the organisation whose right was checked.

    It counts in clearings of its slot and later ones, from the next block on, so one sent ahead of
    time changes nothing before. One for the same slot replaces it. The frequency of a status for a
    slot up to the next counts at once; later slots' is a forecast, and nobody forecasts one.
    Errors: INTERVAL_CLOSED for a slot that is stale or not open for trade; READING_OUT_OF_ORDER for
    one before the status in force.
    """
    current, slot = slot_at(now_ms), command.slot
    first, last = current - limits.stale_slots, current + limits.open_slots
    if not first <= slot <= last:
        detail = f"a status is of slots {first}..{last}, not {slot}"
        raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)
    known = statuses_of(state, command.node)
    in_force = status_in(known, current)
    if in_force is not None and slot < in_force.slot:
        detail = f"slot {slot} comes after the status of slot {in_force.slot} of {command.node}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    status = GridStatus(
        node=command.node,
        slot=slot,
        loading_bps=command.loading_bps,
        rating_va=command.rating_va,
        frequency_mhz=command.frequency_mhz,
        voltage_bps=command.voltage_bps,
        limit_bps=command.limit_bps,
        by=publisher,
    )
    STATUSES.put(state, command.node.encode(), _with_status(known, status, current))
    if slot <= current + 1:
        newest = TerritoryFrequency(command.frequency_mhz, slot, command.node)
        FREQUENCIES.put(state, territory.encode(), newest)
    now_is = node_state(state, status, now_ms, limits)
    return [GridStatusPublished(status, now_is, node_headroom_wh(status, now_ms, limits))]


def _with_status(known: Iterable[GridStatus], status: GridStatus, current: int) -> NodeStatuses:
    """Add a status and forget those that no clearing can ask for any more."""
    by_slot = {one.slot: one for one in (*known, status)}
    in_force = status_in(by_slot.values(), current)
    first = 0 if in_force is None else in_force.slot
    return NodeStatuses(tuple([by_slot[slot] for slot in sorted(by_slot) if slot >= first]))


def halt_territory(
    state: Overlay, command: HaltTerritory, *, by: str, by_regulator: bool, now_ms: int
) -> list[GridEvent]:
    """Halt matching and admission in a territory; a later halt replaces its reason and end.

    Errors: EXPIRED for an end that is not in the future; NOT_PERMITTED for a distributor while the
    regulator's halt is in force.
    """
    if command.until_ms and command.until_ms <= now_ms:
        detail = f"the halt would end at {command.until_ms}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.EXPIRED, detail)
    _check_may_change(state, command.territory, by_regulator, now_ms)
    halt = Halt(by, by_regulator, command.reason, now_ms, command.until_ms)
    HALTS.put(state, command.territory.encode(), halt)
    return [TerritoryHalted(command.territory, by, command.reason, command.until_ms)]


def resume_territory(
    state: Overlay, command: ResumeTerritory, *, by: str, by_regulator: bool, now_ms: int
) -> list[GridEvent]:
    """End a territory's halt; an emergency by frequency goes on until the frequency is back.

    Errors: DUPLICATE for a territory that is not halted; NOT_PERMITTED for a distributor while the
    regulator's halt is in force.
    """
    if halt_in_force(state, command.territory, now_ms) is None:
        raise Rejected(ErrorCode.DUPLICATE, f"territory {command.territory} is not halted")
    _check_may_change(state, command.territory, by_regulator, now_ms)
    HALTS.delete(state, command.territory.encode())
    return [TerritoryResumed(command.territory, by, command.reason)]


def _check_may_change(state: Reader, territory: str, by_regulator: bool, now_ms: int) -> None:
    halt = halt_in_force(state, territory, now_ms)
    if halt is not None and halt.by_regulator and not by_regulator:
        detail = f"{halt.by} halted territory {territory}, so {halt.by} must end or change it"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
