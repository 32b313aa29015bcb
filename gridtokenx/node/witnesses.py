"""Whether this node's clock is wrong, by the word of validators. Pure.

Peer ids are free, so strangers are no witnesses: only a chain's present validators are, through
peers that their keys vouch for, each with its weight. To call the clock wrong takes members with
more than a third of the weight (one of whom is honest) that agree on the direction, and the
weighted median of all who spoke, this node among them. And a decided block: most of the weight has
voted for its time. Judged chain by chain: a captured region has no say in the others.
Source: protocols/networking.md 3.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gridtokenx.primitives.validators import ValidatorSet

SLOW_MS = 500  # Of what took longer the midpoint tells too little.
FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A peer's clock, compared with our monotonic one.

    `origin_ms`: what its clock showed when ours was zero; so a step of our own wall clock does not
    make the sample a wrong one. `taken_s`: when, by the monotonic clock.
    """

    origin_ms: int
    taken_s: float


def sample(time_ms: int, asked_s: float, answered_s: float) -> Sample | None:
    """What an answer with the peer's time tells: it is of the middle of the round trip.

    None for a slow one: queued here or there, or a process that stood still.
    """
    if (answered_s - asked_s) * 1_000 > SLOW_MS:
        return None
    return Sample(time_ms - round((asked_s + answered_s) * 500), answered_s)


def offset_ms(samples: Iterable[Sample], origin_ms: int, now_s: float) -> int | None:
    """What peers of one key say of our clock: theirs less ours, of the one nearest to it.

    `origin_ms`: our wall clock less our monotonic one. None without a fresh sample.
    """
    fresh = [one.origin_ms - origin_ms for one in samples if now_s - one.taken_s <= FRESH_S]
    return min(fresh, key=abs, default=None)


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of one chain's validators on this clock. `offset_ms`: theirs less ours, the weighted median.

    `witnesses`: how many spoke. `is_wrong`: enough of them say that it is more than allowed.
    """

    offset_ms: int = 0
    witnesses: int = 0
    is_wrong: bool = False


def judge(
    members: ValidatorSet, me: bytes | None, said: Mapping[bytes, int], most_ms: int
) -> Opinion:
    """`said`: offsets by validator key, in ms; whoever is no member is not heard. `me`: our key,
    whose weight says that the clock is right. `most_ms`: by how much it may be off.
    """
    heard = {
        index: offset
        for key, offset in said.items()
        if key != me and (index := members.index_of(key)) is not None
    }
    if not heard:
        return Opinion()
    own = None if me is None else members.index_of(me)
    votes = heard if own is None else {**heard, own: 0}
    median = _weighted_median([(votes[one], members.members[one].weight) for one in votes])
    far = [one for one, offset in heard.items() if _is_beyond(offset, median, most_ms)]
    is_wrong = abs(median) > most_ms and members.is_blocking(members.weight_of(far))
    return Opinion(median, len(heard), is_wrong)


def _is_beyond(offset: int, median: int, most_ms: int) -> bool:
    """Whether somebody says that our clock is off, in the direction that the median says."""
    return offset > most_ms if median > 0 else offset < -most_ms


def _weighted_median(votes: list[tuple[int, int]]) -> int:
    """Of (offset, weight). Between two of equal right the one nearer to zero."""
    votes = sorted(votes)
    total = sum(weight for _, weight in votes)
    low = high = sum_ = 0
    for offset, weight in votes:
        if 2 * sum_ < total:
            low = offset
        if 2 * sum_ <= total:
            high = offset
        sum_ += weight
    return min(low, high, key=abs)
