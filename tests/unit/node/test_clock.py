"""The clock follows the wall forward and never goes back."""

from __future__ import annotations

from gridtokenx.node.clock import Clock

MS = 1_000_000


class Sources:
    """A wall clock and a monotonic one that the test turns by hand."""

    def __init__(self) -> None:
        self.wall_ns = 1_000_000 * MS
        self.monotonic_ns = 5 * MS

    def advance(self, ms: int, *, step_ms: int = 0) -> None:
        self.monotonic_ns += ms * MS
        self.wall_ns += (ms + step_ms) * MS

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_it_follows_the_wall_clock() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(250)
    assert clock() == 1_000_250


def test_a_step_forward_is_taken_at_once() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(100, step_ms=60_000)
    assert clock() == 1_060_100


def test_a_step_back_slows_time_to_half_until_the_wall_has_caught_up() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.advance(0, step_ms=-1_000)
    assert clock() == 1_000_000
    sources.advance(1_000)
    assert clock() == 1_000_500
    sources.advance(1_000)
    assert clock() == 1_001_000
    sources.advance(1_000)
    assert clock() == 1_002_000
