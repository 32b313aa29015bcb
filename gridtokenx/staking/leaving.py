"""Stake that has begun to leave a pool, by payment or to another pool, and what becomes of it.

A pool's offences reach it until its entry matures, so no shortcut is shorter than the evidence
window. Equal entries of one block are one. Source: protocols/governance.md 1.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY, Asset
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader, Table, u64
from gridtokenx.staking import pools
from gridtokenx.staking.model import (
    ABSENCES,
    ARRIVING,
    BONDED,
    FOR_EVER,
    LEAVING,
    REDELEGATIONS,
    UNBONDING,
    UNBONDINGS,
    EntryReference,
    RedelegationEntry,
    RedelegationFinished,
    StakingEvent,
    UnbondingEntry,
    UnbondingFinished,
    Validator,
)

# As many as a block has transactions: what one block started, one block can finish.
MAX_FINISHED_PER_BLOCK = 20_000
MAX_OPEN_ENTRIES = 32  # Of one delegator and validator, by payment; and as many that arrive.
E = TypeVar("E", UnbondingEntry, RedelegationEntry)


def start_payment(
    state: Overlay, pool: Validator, delegator: bytes, amount_ugtx: int, height: int
) -> tuple[Validator, int]:
    """(the pool with one entry more, the height of payment). The caller moves the gtx and stores.

    Errors: NOT_PERMITTED for a 33rd, with the height at which there is room again.
    """
    matures = height + pools.parameters(state).unbonding_blocks
    place = u64(matures) + u64(height)
    key = place + delegator + pool.operator
    old = UNBONDINGS.get(state, key)
    if old is not None:
        UNBONDINGS.put(state, key, replace(old, amount_ugtx=old.amount_ugtx + amount_ugtx))
        return pool, matures
    who = delegator + pool.operator
    _check_room(state, LEAVING, who, "payments out of this pool")
    LEAVING.put(state, who + place, EntryReference(height))
    entry = UnbondingEntry(pool.operator, delegator, amount_ugtx, height, pool.slashed_bps)
    UNBONDINGS.put(state, key, entry)
    return replace(pool, open_entries=pool.open_entries + 1), matures


def start_redelegation(
    state: Overlay,
    source: Validator,
    destination: bytes,
    delegator: bytes,
    shares: int,
    height: int,
) -> tuple[Validator, int]:
    """(the source with one entry more, the height at which the shares are free). Locks them.

    Errors: NOT_PERMITTED for a 33rd, with the height at which there is room again.
    """
    matures = height + pools.parameters(state).unbonding_blocks
    place = u64(matures) + u64(height)
    key = place + delegator + destination + source.operator
    own = pools.delegation(state, delegator, destination)
    locked = replace(own, locked_shares=own.locked_shares + shares)
    pools.put_delegation(state, delegator, destination, locked)
    old = REDELEGATIONS.get(state, key)
    if old is not None:
        REDELEGATIONS.put(state, key, replace(old, shares=old.shares + shares))
        return source, matures
    who = delegator + destination
    _check_room(state, ARRIVING, who, "redelegations into this pool")
    ARRIVING.put(state, who + place + source.operator, EntryReference(height))
    entry = RedelegationEntry(
        source.operator, destination, delegator, shares, height, source.slashed_bps
    )
    REDELEGATIONS.put(state, key, entry)
    return replace(source, open_entries=source.open_entries + 1), matures


def begin_block(state: Overlay, height: int) -> list[StakingEvent]:
    """Pay and set free what matures, in the order of height, at most 20,000 of each kind."""
    return [*_pay_out(state, height), *_set_free(state, height)]


def lost(amount: int, pool: Validator, started_height: int, taken_bps: int) -> int:
    """What offences take of an amount that left when they had taken `taken_bps` of its pool."""
    more = max(0, pool.reached_bps(started_height) - taken_bps)
    return amount * more // (BPS - taken_bps) if more else 0


def _pay_out(state: Overlay, height: int) -> list[StakingEvent]:
    touched: dict[bytes, Validator] = {}
    events: list[StakingEvent] = []
    left, slashed = 0, 0
    for key, entry in _due(state, UNBONDINGS, height):
        UNBONDINGS.delete(state, key)
        LEAVING.delete(state, entry.delegator + entry.validator + key[:16])
        pool = _without_entry(state, touched, entry.validator)
        gone = lost(entry.amount_ugtx, pool, entry.started_height, entry.slashed_bps)
        paid = entry.amount_ugtx - gone
        ledger.adjust(state, entry.delegator, gtx_ugtx=paid)
        left, slashed = left + entry.amount_ugtx, slashed + gone
        events.append(UnbondingFinished(entry.validator, entry.delegator, paid, gone))
    if left:
        ledger.adjust(state, UNBONDING, gtx_ugtx=-left)
        ledger.adjust(state, TREASURY, gtx_ugtx=slashed)
    _store_all(state, touched)
    return events


def _set_free(state: Overlay, height: int) -> list[StakingEvent]:
    touched: dict[bytes, Validator] = {}
    events: list[StakingEvent] = []
    slashed = 0
    for key, entry in _due(state, REDELEGATIONS, height):
        REDELEGATIONS.delete(state, key)
        who = entry.delegator + entry.destination
        ARRIVING.delete(state, who + key[:16] + entry.source)
        source = _without_entry(state, touched, entry.source)
        gone = lost(entry.shares, source, entry.started_height, entry.slashed_bps)
        own = pools.delegation(state, entry.delegator, entry.destination)
        freed = replace(
            own, shares=own.shares - gone, locked_shares=own.locked_shares - entry.shares
        )
        pools.put_delegation(state, entry.delegator, entry.destination, freed)
        value = 0
        if gone:
            pool = _of(state, touched, entry.destination)
            value = pool.value_ugtx(gone)
            touched[entry.destination] = replace(
                pool, stake_ugtx=pool.stake_ugtx - value, shares=pool.shares - gone
            )
        slashed += value
        events.append(
            RedelegationFinished(entry.source, entry.destination, entry.delegator, gone, value)
        )
    ledger.move(state, Asset.GTX, BONDED, TREASURY, slashed)
    _store_all(state, touched)
    return events


def _due(state: Overlay, table: Table[E], height: int) -> list[tuple[bytes, E]]:
    """The entries that have matured, at most so many; a list, for the table changes meanwhile."""
    return list(islice(_matured(state, table, height), MAX_FINISHED_PER_BLOCK))


def _matured(state: Reader, table: Table[E], height: int) -> Iterator[tuple[bytes, E]]:
    end = u64(height + 1)
    for key, entry in table.items(state):
        if key >= end:
            return
        yield key, entry


def _of(state: Reader, touched: dict[bytes, Validator], operator: bytes) -> Validator:
    return touched.get(operator) or pools.validator(state, operator)


def _without_entry(state: Reader, touched: dict[bytes, Validator], operator: bytes) -> Validator:
    pool = _of(state, touched, operator)
    touched[operator] = replace(pool, open_entries=pool.open_entries - 1)
    return touched[operator]


def _store_all(state: Overlay, touched: dict[bytes, Validator]) -> None:
    """Store pools; the empty ones are forgotten, but for those that are excluded for good."""
    for pool in touched.values():
        pools.store(state, pool)
        if not (pool.shares or pool.open_entries or pool.jailed_until_height == FOR_EVER):
            pools.forget(state, pool)
            ABSENCES.delete(state, pool.operator)


def _check_room(state: Reader, index: Table[EntryReference], who: bytes, what: str) -> None:
    open_ones = [key for key, _ in index.items(state, who)]
    if len(open_ones) >= MAX_OPEN_ENTRIES:
        detail = (
            f"{MAX_OPEN_ENTRIES} {what} are on their way already; "
            f"there is room for another from block {pools.matures_of(open_ones[0])} on"
        )
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
