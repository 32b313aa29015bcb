"""Which validator set signs which height: state, not configuration.

Source: protocols/consensus.md 2.11.

Epochs are runs of `epoch_blocks` heights that begin at its multiples (the first, 0, is the
genesis). A change ordered in epoch e takes effect with the first height of epoch e + 2, so every
node knows the sets of the next epoch long before it begins. Past sets are kept for the evidence
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from gridtokenx.consensus.leader import LeaderSchedule
from gridtokenx.governance.authorities import gained_part
from gridtokenx.primitives.codec import Bytes32, Limit, wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader, Table, u64
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import MAX_VALIDATORS, ValidatorSet

MAX_KEPT_SETS = 16_384
# Besides one for each whole epoch of the evidence window: one more where the window is cut
# differently, the one in force at its beginning, and those of the next two epochs.
SETS_BEYOND_WINDOW = 4
MAX_PRUNED_AT_ONCE = 4


@wire(46)
@dataclass(frozen=True)
class ScheduledSet:
    """A set, the first height it signs, and by member the account that earns its fees."""

    first_height: int
    validators: ValidatorSet
    accounts: Annotated[tuple[Address, ...], Limit(1, MAX_VALIDATORS)]


@wire(47)
@dataclass(frozen=True, slots=True)
class SetSchedule:
    """First heights of the sets that are kept, ascending: past ones, the present, ordered ones."""

    first_heights: Annotated[tuple[int, ...], Limit(1, MAX_KEPT_SETS)]


@wire(48)
@dataclass(frozen=True, slots=True)
class ValidatorSetOrdered:
    """Event: from `first_height` on the set with this hash signs."""

    first_height: int
    set_hash: Bytes32


@wire(49)
@dataclass(frozen=True, slots=True)
class SetChangeRefused:
    """Event: an ordered change of the set was refused, and why; the set stays."""

    reason: Annotated[str, Limit(1, 200)]


SETS = Table(b"cv", ScheduledSet)  # key: first height u64
SCHEDULE = Table(b"cs", SetSchedule)  # key: b""


@dataclass(frozen=True)
class SetsAhead:
    """The sets from some height on, as a block's state knows them: for readers outside the core.

    `scheduled` ascends and its first entry covers the lowest height asked for.
    """

    scheduled: tuple[ScheduledSet, ...]
    epoch_blocks: int

    def at(self, height: int) -> ScheduledSet:
        """The set that signs `height`; the earliest known one below all of them."""
        for entry in reversed(self.scheduled):
            if entry.first_height <= height:
                return entry
        return self.scheduled[0]

    def epoch_start(self, height: int) -> int:
        """First height of the epoch of `height`; the leader schedule counts from it."""
        return epoch_start(height, self.epoch_blocks)

    def leader(self, height: int, view: int) -> int:
        """Index in `at(height)` of who may propose in a view."""
        position = height - self.epoch_start(height) + view
        return self._schedules[self.at(height).first_height].leader(position)

    @cached_property
    def _schedules(self) -> dict[int, LeaderSchedule]:
        return {one.first_height: LeaderSchedule(one.validators) for one in self.scheduled}


def epoch_start(height: int, epoch_blocks: int) -> int:
    """First height of the epoch that `height` lies in."""
    return height - height % epoch_blocks


def check_kept_sets(window_blocks: int, epoch_blocks: int) -> None:
    """Whether the sets of an evidence window can all be kept if every epoch begins with another.

    Errors: VALUE_OUT_OF_RANGE with the longest window.
    """
    kept = window_blocks // epoch_blocks + SETS_BEYOND_WINDOW
    if kept > MAX_KEPT_SETS:
        most = (MAX_KEPT_SETS - SETS_BEYOND_WINDOW + 1) * epoch_blocks - 1
        detail = (
            f"evidence_window_blocks is {window_blocks}: with epochs of {epoch_blocks} blocks "
            f"{kept} validator sets would be kept, at most {MAX_KEPT_SETS} can be; "
            f"it may be at most {most}"
        )
        raise Rejected(ErrorCode.VALUE_OUT_OF_RANGE, detail)


def install_set(state: Overlay, validators: ValidatorSet, accounts: Sequence[bytes]) -> None:
    """The genesis set, which signs from height 0 until a change."""
    SETS.put(state, u64(0), ScheduledSet(0, validators, tuple(accounts)))
    SCHEDULE.put(state, b"", SetSchedule((0,)))


def begin_with_set(
    state: Overlay, validators: ValidatorSet, accounts: Sequence[bytes], *, height: int
) -> None:
    """Let `validators` sign from the block that is being executed on: an incarnation begins.

    Whatever was ordered before is void.
    """
    firsts = tuple(first for first in _first_heights(state) if first < height)
    for first in _first_heights(state)[len(firsts) :]:
        SETS.delete(state, u64(first))
    SETS.put(state, u64(height), ScheduledSet(height, validators, tuple(accounts)))
    SCHEDULE.put(state, b"", SetSchedule((*firsts, height)))


def set_at(state: Reader, height: int) -> ScheduledSet | None:
    """The set that signs `height`; None where it is no longer kept."""
    for first_height in reversed(_first_heights(state)):
        if first_height <= height:
            return _kept(state, first_height)
    return None


def current_set(state: Reader, height: int) -> ScheduledSet:
    """The set of a height at or after the tip, which is always kept."""
    found = set_at(state, height)
    if found is None:
        raise ValueError(f"no validator set is kept for height {height}")
    return found


def sets_from(state: Reader, height: int, epoch_blocks: int) -> SetsAhead:
    """All sets that sign `height` or later, as far as they are ordered."""
    firsts = _first_heights(state)
    start = max((at for at, first in enumerate(firsts) if first <= height), default=0)
    return SetsAhead(tuple(_kept(state, first) for first in firsts[start:]), epoch_blocks)


def order_set(
    state: Overlay,
    validators: ValidatorSet,
    accounts: Sequence[bytes],
    *,
    height: int,
    epoch_blocks: int,
) -> ValidatorSetOrdered | None:
    """Let `validators` sign from the epoch after the next on; the caller has judged the change.

    A later order of the same epoch replaces the earlier one. None when nothing changes.
    """
    first_height = epoch_start(height, epoch_blocks) + 2 * epoch_blocks
    firsts = tuple(first for first in _first_heights(state) if first < first_height)
    before = _kept(state, firsts[-1])
    entry = ScheduledSet(first_height, validators, tuple(accounts))
    if (before.validators, before.accounts) == (entry.validators, entry.accounts):
        if SETS.get(state, u64(first_height)) is not None:
            SETS.delete(state, u64(first_height))
            SCHEDULE.put(state, b"", SetSchedule(firsts))
        return None
    SETS.put(state, u64(first_height), entry)
    SCHEDULE.put(state, b"", SetSchedule((*firsts, first_height)))
    return ValidatorSetOrdered(first_height, validators.hash)


def refuse_change(
    old: ValidatorSet,
    new: ValidatorSet,
    *,
    organisation_of: dict[bytes, str],
    minimum_members: int,
    held: ValidatorSet | None = None,
) -> str | None:
    """Why a change may not be ordered, in words, or None. Source: protocols/consensus.md 2.11.

    `organisation_of` names the keys of both sets. No organisation may gain control (`gained_part`);
    `held` is the old set with the members that are suspended, which are still their organisations'.
    """
    if len(new.members) < minimum_members:
        return f"{len(new.members)} members are fewer than {minimum_members}"
    held = held or old
    shares_old, shares_new = _shares(held, organisation_of), _shares(new, organisation_of)
    for name in sorted(shares_new):
        gained = gained_part(
            shares_old.get(name, 0), held.total_weight, shares_new[name], new.total_weight
        )
        if gained is not None:
            return f"{name} would have {gained} of the weight"
    if 3 * _moved(old, new) > old.total_weight:
        return "more than a third of the weight would move at once"
    return None


def forget_sets(state: Overlay, height: int, window_blocks: int) -> None:
    """Drop sets whose last height has left the evidence window; a few a block."""
    firsts = _first_heights(state)
    gone = 0
    while gone < MAX_PRUNED_AT_ONCE and gone + 1 < len(firsts):
        if firsts[gone + 1] > height - window_blocks:
            break
        SETS.delete(state, u64(firsts[gone]))
        gone += 1
    if gone:
        SCHEDULE.put(state, b"", SetSchedule(firsts[gone:]))


def _first_heights(state: Reader) -> tuple[int, ...]:
    schedule = SCHEDULE.get(state, b"")
    if schedule is None:
        raise ValueError("the chain's genesis installed no validator set")
    return schedule.first_heights


def _kept(state: Reader, first_height: int) -> ScheduledSet:
    found = SETS.get(state, u64(first_height))
    if found is None:
        raise ValueError(f"the validator set of height {first_height} is scheduled, not kept")
    return found


def _shares(validators: ValidatorSet, organisation_of: dict[bytes, str]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for member in validators.members:
        name = organisation_of.get(member.public_key, member.public_key.hex()[:16])
        shares[name] = shares.get(name, 0) + member.weight
    return shares


def _moved(old: ValidatorSet, new: ValidatorSet) -> int:
    """Weight that leaves or shrinks, or joins or grows, whichever is more."""
    before = {member.public_key: member.weight for member in old.members}
    after = {member.public_key: member.weight for member in new.members}
    lost = sum(max(0, weight - after.get(key, 0)) for key, weight in before.items())
    gained = sum(max(0, weight - before.get(key, 0)) for key, weight in after.items())
    return max(lost, gained)
