"""The leader schedule: fair by weight, equal weights in turn."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.consensus.leader import LeaderSchedule
from tests.support.committee import Committee


def schedule(*weights: int) -> LeaderSchedule:
    return LeaderSchedule(Committee(*weights).validators)


def test_equal_weights_take_turns() -> None:
    four = schedule(1, 1, 1, 1)
    assert [four.leader(position) for position in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert four.leader(10**15) == 10**15 % 4  # The period is kept, not the history.


def test_heavy_members_are_spread_not_bunched() -> None:
    assert [schedule(5, 1, 1).leader(position) for position in range(7)] == [0, 0, 1, 0, 2, 0, 0]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_a_round_gives_each_member_its_weight(weights: list[int]) -> None:
    table = schedule(*weights)
    total = sum(weights)
    for start in (0, total, 3 * total + 1):
        led = Counter(table.leader(start + offset) for offset in range(total))
        assert led == dict(enumerate(weights))


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=6), st.integers(0, 200))
def test_the_schedule_depends_on_the_set_and_the_position_only(weights, position) -> None:
    forwards, direct = schedule(*weights), schedule(*weights)
    history = [forwards.leader(earlier) for earlier in range(position + 1)]
    assert history[-1] == direct.leader(position)
