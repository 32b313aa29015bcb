"""What offences cost: a validator's own, and more for those that offended together.

A fork needs a third of the weight to contradict itself at one height, so in one epoch. Who does it
together with others therefore loses three times their common part of the weight: everything where
they could have done harm. Source: protocols/governance.md 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.staking import pools
from gridtokenx.staking.model import (
    FOR_EVER,
    OFFENDERS,
    VALIDATORS,
    JailReason,
    Offence,
    Offender,
    PenaltyRaised,
    StakingEvent,
    Validator,
    ValidatorJailed,
)

TOGETHER = 3  # A third of the weight loses everything.
MAX_FORGOTTEN_PER_BLOCK = 64


def punish_offence(
    state: Overlay,
    consensus_key: bytes,
    *,
    offence_height: int,
    epoch_height: int,
    backed_since: int,
    weight: int,
    total_weight: int,
    height: int,
) -> list[StakingEvent]:
    """Slash and jail for evidence that the chain accepted in block `height`.

    The offence was in the epoch that began at `epoch_height`, with `weight` of `total_weight`, and
    stake that was bonded at `backed_since` or later backed it. Each height before the conviction
    takes `slash_bps`; one after it everything, for good. Two or more that offended in one epoch
    lose three times their common part of the weight each, if that is more. Never more than all.
    """
    entry = pools.validator_of_key(state, consensus_key)
    if entry is None:
        return []
    OFFENDERS.put(state, u64(epoch_height) + entry.operator, Offender(weight))
    group = list(OFFENDERS.items(state, u64(epoch_height)))
    group_bps = _together_bps([one.weight for _, one in group], total_weight)
    new = Offence(epoch_height, backed_since, height, (offence_height,), 0, group_bps)
    events = _convict(state, entry, new, height)
    for key, _ in group:
        other = VALIDATORS.get(state, key[8:])
        if other is not None and other.operator != entry.operator:
            events += _raise(state, other, epoch_height, group_bps)
    return events


def jail(
    state: Overlay, entry: Validator, reason: JailReason, bps: int, until_height: int
) -> StakingEvent:
    """Take a part of a pool and let nobody elect it before its operator has it released."""
    rest, slashed = pools.take_penalty(state, entry, TREASURY, bps)
    pools.store(state, replace(rest, jailed_until_height=until_height))
    return ValidatorJailed(entry.operator, reason, slashed, until_height)


def forget_offenders(state: Overlay, height: int) -> None:
    """Drop those of epochs that no evidence may be about any more; a few a block."""
    end = u64(max(0, height - pools.parameters(state).unbonding_blocks))
    for key, _ in list(islice(OFFENDERS.items(state), MAX_FORGOTTEN_PER_BLOCK)):
        if key[:8] < end:
            OFFENDERS.delete(state, key)


def _convict(state: Overlay, entry: Validator, new: Offence, height: int) -> list[StakingEvent]:
    """Add an offence to those of its validator, and take what that costs more."""
    by_epoch = {one.epoch_height: one for one in entry.offences}
    former = by_epoch.get(new.epoch_height)
    (offence_height,) = new.heights
    if entry.slashed_bps == BPS or (former is not None and offence_height in former.heights):
        return []
    numbers = pools.parameters(state)
    is_repeated = any(one.convicted_height < offence_height for one in entry.offences)
    own_bps = BPS if is_repeated else numbers.slash_bps
    if former is not None:
        own_bps = min(BPS, former.own_bps + own_bps)
        new = replace(
            former,
            heights=(*former.heights, offence_height),
            slash_bps=max(former.slash_bps, new.slash_bps),
        )
    by_epoch[new.epoch_height] = replace(
        new, own_bps=own_bps, slash_bps=max(own_bps, new.slash_bps)
    )
    punished, slashed = _take(state, entry, tuple(by_epoch.values()))
    until = max(punished.jailed_until_height, height + numbers.jail_blocks)
    pools.store(state, replace(punished, jailed_until_height=until))
    return [ValidatorJailed(entry.operator, JailReason.OFFENCE, slashed, until)]


def _together_bps(weights: Sequence[int], total_weight: int) -> int:
    """What offenders of one epoch lose at least. One alone is an accident, and below a third."""
    if len(weights) < 2:
        return 0
    return min(BPS, TOGETHER * sum(weights) * BPS // total_weight)


def _raise(
    state: Overlay, entry: Validator, epoch_height: int, group_bps: int
) -> list[StakingEvent]:
    """Take more of one that offended in the same epoch. It stays as free or as jailed as it was,
    unless it has lost everything.
    """
    offences = tuple(
        replace(one, slash_bps=max(one.slash_bps, group_bps))
        if one.epoch_height == epoch_height
        else one
        for one in entry.offences
    )
    if offences == entry.offences or entry.slashed_bps == BPS:
        return []
    punished, slashed = _take(state, entry, offences)
    pools.store(state, punished)
    return [PenaltyRaised(entry.operator, slashed, punished.slashed_bps)]


def _take(state: Overlay, entry: Validator, offences: tuple[Offence, ...]) -> tuple[Validator, int]:
    """(the pool without what its offences cost more than before, how much that is)."""
    before = entry.slashed_bps
    after = replace(entry, offences=offences)
    rest, slashed = pools.take_penalty(
        state, after, TREASURY, after.slashed_bps - before, BPS - before
    )
    if rest.slashed_bps == BPS:
        rest = replace(rest, jailed_until_height=FOR_EVER)
    return rest, slashed
