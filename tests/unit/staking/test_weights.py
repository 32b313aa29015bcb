"""The cap on weights and the pace of changes, by example and by law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.primitives.validators import MAX_VALIDATORS, Validator, ValidatorSet
from gridtokenx.staking.weights import LEAST_PART, MIXED_TOTAL, capped, elect, step_towards

WEIGHTS = st.lists(st.integers(1, 2**40), min_size=1, max_size=30)


def key(number: int) -> bytes:
    return bytes([number]) * 32


def weighted(*weights: int, first: int = 1) -> ValidatorSet:
    return ValidatorSet.of(
        Validator(key(first + number), weight) for number, weight in enumerate(weights) if weight
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((), ()),
        ((7,), (7,)),
        ((5, 9), (5, 5)),
        ((4, 1, 9, 9), (1, 1, 1, 1)),
        ((10, 10, 10, 10, 10), (10, 10, 10, 10, 10)),
        ((100, 10, 10, 10, 10), (10, 10, 10, 10, 10)),
        ((100, 10, 10, 10, 10, 10), (12, 10, 10, 10, 10, 10)),
        ((1000, 900, 10, 10, 10, 10), (13, 13, 10, 10, 10, 10)),
        ((3, 2, 2, 2, 2, 2, 2), (3, 2, 2, 2, 2, 2, 2)),
    ],
)
def test_the_cap_lowers_as_little_as_possible(weights, expected) -> None:
    assert capped(weights, 2000) == expected


@given(WEIGHTS, st.integers(1, 10_000))
def test_nobody_weighs_more_than_the_cap(weights: list[int], cap_bps: int) -> None:
    after = capped(weights, cap_bps)
    limit, total = max(after), sum(after)
    if len(weights) * cap_bps >= 10_000:
        assert limit * 10_000 <= cap_bps * total
    else:
        assert set(after) == {min(weights)}
    assert [min(weight, limit) for weight in weights] == list(after)
    # One more unit for those who were cut would break the cap.
    if limit < max(weights) and len(weights) * cap_bps >= 10_000:
        more = [min(weight, limit + 1) for weight in weights]
        assert (limit + 1) * 10_000 > cap_bps * sum(more)


def test_whoever_weighs_too_little_to_be_seen_is_left_out() -> None:
    stakes = [(key(number), 1_000_000) for number in range(1, 7)]
    light = (key(9), 5_999)
    assert len(elect([*stakes, light], unit=1, cap_bps=2000)) == 6
    assert len(elect([*stakes, (key(9), 6_007)], unit=1, cap_bps=2000)) == 7
    nine = [(key(number), 111) for number in range(1, 10)]
    assert len(elect([*nine, (key(10), 1)], unit=1, cap_bps=2000)) == 10  # Exactly a thousandth.
    assert elect([(key(1), 99)], unit=100, cap_bps=2000) == []
    assert elect([(key(1), 2**62)], unit=1, cap_bps=2000)[0].weight == 2**40


@given(WEIGHTS, st.integers(1, 10_000))
def test_the_elected_keep_both_limits(weights: list[int], cap_bps: int) -> None:
    stakes = [(key(number), weight) for number, weight in enumerate(weights)]
    elected = elect(stakes, unit=1, cap_bps=cap_bps)
    total = sum(member.weight for member in elected)
    assert elected
    assert all(member.weight * LEAST_PART >= total for member in elected)
    if len(elected) * cap_bps >= 10_000:
        assert all(member.weight * 10_000 <= cap_bps * total for member in elected)


def test_up_to_a_third_may_move_at_once() -> None:
    old = weighted(1, 1, 1)
    assert step_towards(old, old) == old
    swapped = weighted(1, 1, 1, first=2)
    assert step_towards(old, swapped) == swapped


def test_more_than_a_third_moves_in_steps() -> None:
    current, target = weighted(1, 1, 1, 1), weighted(1, 1, 1, 1, first=11)
    seen = []
    while current != target:
        current = step_towards(current, target)
        new = sum(member.weight for member in current.members if member.public_key >= key(11))
        seen.append(new * 100 // current.total_weight)
    assert seen == [33, 66, 100]


def test_a_set_on_its_way_is_not_larger_than_a_set_may_be() -> None:
    current, target = weighted(*[1] * 100), weighted(*[1] * 100, first=101)
    sizes = []
    while current != target:
        current = step_towards(current, target)
        sizes.append(len(current.members))
    assert max(sizes) == MAX_VALIDATORS
    assert len(sizes) < 10


SETS = st.dictionaries(st.integers(1, 12), st.integers(1, 10**6), min_size=1, max_size=12).map(
    lambda rows: ValidatorSet.of(Validator(key(number), row) for number, row in rows.items())
)


@given(SETS, SETS)
def test_quorums_of_successive_sets_have_members_in_common(old, target) -> None:
    new = step_towards(old, target)
    before = {member.public_key: member.weight for member in old.members}
    gained = sum(
        max(
            member.weight * MIXED_TOTAL // new.total_weight
            - before.get(member.public_key, 0) * MIXED_TOTAL // old.total_weight,
            0,
        )
        for member in new.members
    )
    assert 3 * gained <= MIXED_TOTAL + 3 * 24  # Rounding of 12 + 12 parts.


@given(SETS, SETS)
def test_any_set_is_reached_in_a_few_steps(current, target) -> None:
    for _ in range(5):
        current = step_towards(current, target)
    assert current == target
