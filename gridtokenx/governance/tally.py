"""Counting votes: stake that voted itself, and stake for which its validator voted.

Ballots are counted while they are cast: by proposal and validator, the shares of those who voted
themselves. The end of a vote is then one pass over validators, however many have voted. Every
bonded ugtx counts once at most. Source: protocols/governance.md 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gridtokenx.governance.model import (
    BALLOTS,
    BALLOTS_OF,
    PROPOSALS,
    VOTED,
    Choice,
    ProposalStatus,
    Tally,
    VotedShares,
    VotingPower,
)
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader, u64

_NOBODY = VotedShares()


def count(state: Reader, number: int, power: VotingPower) -> Tally:
    """How a vote stands by the stake of now.

    A validator that votes speaks for its whole pool, less the shares whose owners voted.
    """
    place = u64(number)
    totals = dict.fromkeys(Choice, 0)
    for key, voted in VOTED.items(state, place):
        pool = power.pool_of(key[8:])
        if pool is None:
            continue  # It has gone, and with it all that was bonded to it.
        rest = pool.stake_ugtx
        for choice in Choice:
            value = pool.value_ugtx(getattr(voted, choice.value))
            totals[choice] += value
            rest -= value
        own = BALLOTS.get(state, key)
        if own is not None:
            totals[own.choice] += rest
    return Tally(totals[Choice.YES], totals[Choice.NO], totals[Choice.ABSTAIN], power.bonded_ugtx)


def add(state: Overlay, number: int, validator: bytes, choice: Choice, shares: int) -> None:
    """Count a signed number of shares more for a choice; 0 makes a validator's own vote count."""
    key = u64(number) + validator
    old = VOTED.get(state, key) or _NOBODY
    yes, no, abstain = old.yes, old.no, old.abstain
    match choice:
        case Choice.YES:
            yes += shares
        case Choice.NO:
            no += shares
        case Choice.ABSTAIN:
            abstain += shares
    VOTED.put(state, key, VotedShares(yes, no, abstain))


def move_stake(state: Overlay, voter: bytes, validator: bytes, shares: int) -> None:
    """Carry a change of a delegation to the open votes in which its owner has a ballot."""
    for key, ballot in BALLOTS_OF.items(state, voter):
        entry = PROPOSALS.get(state, key[32:])
        if entry is not None and entry.status is ProposalStatus.VOTING:
            add(state, entry.number, validator, ballot.choice, shares)


def own_power(voter: bytes, held: Iterable[tuple[bytes, int]], power: VotingPower) -> int:
    """ugtx that a voter's ballot stands for at most: its delegations (validator, shares), and a
    validator's whole pool.
    """
    own = power.pool_of(voter)
    total = 0 if own is None else own.stake_ugtx
    for validator, shares in held:
        pool = power.pool_of(validator)
        if pool is not None and validator != voter:
            total += pool.value_ugtx(shares)
    return total


def has_quorum(tally: Tally, quorum_bps: int) -> bool:
    """Whether enough of all that is bonded said yes."""
    return tally.yes_ugtx > 0 and tally.yes_ugtx * BPS >= quorum_bps * tally.bonded_ugtx


def is_approved(tally: Tally, approval_bps: int) -> bool:
    """Whether yes reaches its part of yes and no."""
    decided = tally.yes_ugtx + tally.no_ugtx
    return tally.yes_ugtx > 0 and tally.yes_ugtx * BPS >= approval_bps * decided


def is_unwanted(tally: Tally, quorum_bps: int, support_bps: int) -> bool:
    """Whether a proposal that failed costs its deposit: as many said no as it takes to pass, and
    more than said yes; or hardly anybody said yes.
    """
    if tally.yes_ugtx * BPS < support_bps * tally.bonded_ugtx or not tally.yes_ugtx:
        return True
    is_opposed = tally.no_ugtx * BPS >= quorum_bps * tally.bonded_ugtx
    return is_opposed and tally.no_ugtx > tally.yes_ugtx


def has_two_thirds(part: int, whole: int) -> bool:
    """Strictly more than two thirds, as in consensus."""
    return 3 * part > 2 * whole


def approved_weight(approvals: Sequence[str], authorities: Sequence[tuple[str, int]]) -> int:
    """Weight of the organisations that approved, among the authorities of today."""
    return sum(weight for organisation, weight in authorities if organisation in approvals)
