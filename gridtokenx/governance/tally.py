"""Counting votes: stake that voted itself, and stake for which its validator voted.

Pure functions. Every bonded ugtx counts once at most. Source: protocols/governance.md section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gridtokenx.governance.model import Choice, Tally, VotingPower
from gridtokenx.primitives.quantities import BPS


def count(ballots: Iterable[tuple[bytes, Choice]], power: VotingPower) -> Tally:
    """The tally of (voter, choice), each voter named once.

    A validator that votes speaks for its whole pool, less the delegations that voted for themselves
    (its own among them).
    """
    totals = dict.fromkeys(Choice, 0)
    voted_away: dict[bytes, int] = {}
    validators: list[tuple[bytes, Choice]] = []
    for voter, choice in ballots:
        for validator, amount in power.delegations_of(voter):
            totals[choice] += amount
            voted_away[validator] = voted_away.get(validator, 0) + amount
        validators.append((voter, choice))
    for validator, choice in validators:
        totals[choice] += power.pool_of(validator) - voted_away.get(validator, 0)
    return Tally(totals[Choice.YES], totals[Choice.NO], totals[Choice.ABSTAIN], power.bonded_ugtx)


def own_power(voter: bytes, power: VotingPower) -> int:
    """ugtx that a voter's ballot stands for at most: its delegations, a validator's whole pool."""
    others = sum(amount for name, amount in power.delegations_of(voter) if name != voter)
    return others + power.pool_of(voter)


def has_quorum(tally: Tally, quorum_bps: int) -> bool:
    """Whether enough of the bonded stake took part, abstentions included."""
    took_part = tally.yes_ugtx + tally.no_ugtx + tally.abstain_ugtx
    return took_part > 0 and took_part * BPS >= quorum_bps * tally.bonded_ugtx


def is_approved(tally: Tally, approval_bps: int) -> bool:
    """Whether yes reaches its part of yes and no."""
    decided = tally.yes_ugtx + tally.no_ugtx
    return tally.yes_ugtx > 0 and tally.yes_ugtx * BPS >= approval_bps * decided


def has_two_thirds(part: int, whole: int) -> bool:
    """Strictly more than two thirds, as in consensus."""
    return 3 * part > 2 * whole


def approved_weight(approvals: Sequence[str], authorities: Sequence[tuple[str, int]]) -> int:
    """Weight of the organisations that approved, among the authorities of today."""
    return sum(weight for organisation, weight in authorities if organisation in approvals)
