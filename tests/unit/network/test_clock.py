"""The clock follows the host's both ways, within seconds, and timers do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.network.clock import CONFIRM_MS, STEP_MS, Clock

MS = 1_000_000
START_MS = 1_000_000
HOUR_MS = 3_600_000


class Sources:
    """A wall clock and a monotonic one that the test turns by hand."""

    def __init__(self) -> None:
        self.wall_ns = START_MS * MS
        self.monotonic_ns = 5 * MS

    def advance(self, ms: int, *, step_ms: int = 0) -> None:
        self.monotonic_ns += ms * MS
        self.wall_ns += (ms + step_ms) * MS

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.monotonic_ns)

    @property
    def wall_ms(self) -> int:
        return self.wall_ns // MS


def test_it_follows_the_wall_clock() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(250)
    assert clock() == START_MS + 250


def test_a_small_difference_is_made_up_at_half_speed() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(0, step_ms=-900)
    assert clock() == START_MS
    sources.advance(1_000)
    assert clock() == START_MS + 500
    sources.advance(1_000)
    assert clock() == START_MS + 1_100 == sources.wall_ms
    sources.advance(0, step_ms=600)
    sources.advance(1_000)
    assert clock() == START_MS + 2_600
    sources.advance(1_000)
    assert clock() == START_MS + 3_700 == sources.wall_ms


def test_an_hour_forward_and_ten_seconds_later_back_is_over_two_seconds_later() -> None:
    sources = Sources()
    clock = sources.clock()
    for step_ms in (HOUR_MS, -HOUR_MS):
        true_ms = clock()
        sources.advance(0, step_ms=step_ms)
        for second in range(10):
            late = second * 1_000 >= CONFIRM_MS
            assert clock() == true_ms + second * 1_000 + (step_ms if late else 0)
            sources.advance(1_000)
    assert clock() == sources.wall_ms


def test_a_step_that_does_not_last_a_second_is_none() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(100, step_ms=60_000)
    assert clock() == START_MS + 100
    sources.advance(CONFIRM_MS - 1, step_ms=-60_000)
    assert clock() == START_MS + CONFIRM_MS + 99
    sources.advance(5_000)
    assert clock() == sources.wall_ms


def test_a_step_must_be_the_same_one_a_second_later() -> None:
    sources = Sources()
    clock = sources.clock()
    for second in range(1, 5):
        sources.advance(1_000, step_ms=10_000)
        assert clock() == START_MS + second * 1_000
    sources.advance(CONFIRM_MS)
    assert clock() == sources.wall_ms


def test_what_passes_is_counted_whatever_becomes_of_the_wall_clock() -> None:
    sources = Sources()
    clock = sources.clock()
    began_ms = clock.elapsed_ms()
    for step_ms in (HOUR_MS, -3 * HOUR_MS, 500):
        sources.advance(4_000, step_ms=step_ms)
        clock()
    assert clock.elapsed_ms() - began_ms == 12_000
    assert clock.steady_ms() == START_MS + 12_000


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(-2 * HOUR_MS, 2 * HOUR_MS))))
def test_it_never_goes_back_but_by_a_step_and_agrees_soon_after_the_last(
    moves: list[tuple[int, int]],
) -> None:
    sources = Sources()
    clock = sources.clock()
    before_ms = clock()
    for ms, step_ms in moves:
        sources.advance(ms, step_ms=step_ms)
        now_ms = clock()
        assert now_ms >= before_ms + ms // 2 - 1 or before_ms + ms - now_ms > STEP_MS
        before_ms = now_ms
    for _ in range(4):
        sources.advance(1_000)
        clock()
    assert clock() == sources.wall_ms
