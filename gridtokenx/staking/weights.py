"""Validator sets out of stakes: the cap on a member's weight, and how fast a set may change.

Pure functions on integers. Source: protocols/governance.md 1.6.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.validators import MAX_VALIDATORS, MAX_WEIGHT, Validator, ValidatorSet

# A lighter member would lead so seldom that nobody could tell whether it is there.
LEAST_PART = 1000
MIXED_TOTAL = 10**9  # What the weights of a set on its way to another add up to, about.


def capped(weights: Sequence[int], cap_bps: int) -> tuple[int, ...]:
    """Weights of which none exceeds `cap_bps` of their sum, each lowered as little as possible.

    All weights are >= 1. With so few members that the cap cannot hold (fewer than 5 for 20 %) the
    cap is an equal part, which makes all weights the least one.
    """
    part, whole = (cap_bps, BPS) if len(weights) * cap_bps >= BPS else (1, len(weights))
    rest = sum(weights)
    for above, heaviest in enumerate(sorted(weights, reverse=True)):
        # If the `above` heaviest are cut to `limit`, it is exactly the cap's part of the new sum.
        limit = part * rest // (whole - above * part)
        if heaviest <= limit:
            return tuple(min(weight, limit) for weight in weights)
        rest -= heaviest
    return tuple(weights)  # No weights at all.


def elect(stakes: Sequence[tuple[bytes, int]], *, unit: int, cap_bps: int) -> list[Validator]:
    """Members by (consensus key, stake): a weight for each unit, capped; the too light left out."""
    present = [(key, min(stake // unit, MAX_WEIGHT)) for key, stake in stakes if stake >= unit]
    while True:
        weights = capped([weight for _, weight in present], cap_bps)
        total = sum(weights)
        heavy = [weight * LEAST_PART >= total for weight in weights]
        if all(heavy):
            return [
                Validator(key, weight) for (key, _), weight in zip(present, weights, strict=True)
            ]
        present = [entry for entry, stays in zip(present, heavy, strict=True) if stays]


def step_towards(current: ValidatorSet, target: ValidatorSet) -> ValidatorSet:
    """`target`, or when more than a third of the weight would move, a set a third on the way.

    Whoever holds a quorum of the old set then has a member in common with each quorum of the new.
    """
    old, new = _parts(current), _parts(target)
    keys = sorted(old | new)
    moved = sum(max(new.get(key, 0) - old.get(key, 0), 0) for key in keys)
    # Each part was rounded down, so the last of three equal steps may seem a little too long.
    if 3 * (moved - len(keys)) <= MIXED_TOTAL:
        return target
    mixed = []
    for key in keys:
        before = old.get(key, 0)
        weight = before + (new.get(key, 0) - before) * MIXED_TOTAL // (3 * moved)
        if weight > 0:
            mixed.append(Validator(key, weight))
    heaviest = sorted(mixed, key=lambda member: (-member.weight, member.public_key))
    return ValidatorSet.of(heaviest[:MAX_VALIDATORS])


def _parts(members: ValidatorSet) -> dict[bytes, int]:
    """Weights as parts of MIXED_TOTAL."""
    return {
        member.public_key: member.weight * MIXED_TOTAL // members.total_weight
        for member in members.members
    }
