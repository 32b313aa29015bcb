"""The node's two clocks: Unix milliseconds for what others read, elapsed time for timers.

The wall clock follows the host's: small differences at half speed, never backwards; a step of more
than a second is taken over, in either direction, when it is still there a second later. What must
not move with such a step (timers, bans) is counted by `elapsed_ms` or `steady_ms`.
Source: protocols/networking.md 3.5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

NANOSECONDS_PER_MS = 1_000_000
STEP_MS = 1_000  # A larger difference is a step.
CONFIRM_MS = 1_000  # How long a step must last.
SAME_STEP_MS = 250


class Clock:
    """Callable from any thread. The two sources are nanosecond counters.

    A step is noticed and confirmed when somebody asks for the time: the node does each second.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._last_ns = monotonic_ns()
        self._now_ns = wall_ns()
        self._steady_ns = self._now_ns - self._last_ns
        self._step: tuple[int, int] | None = None  # how far, and since when: ns of the monotonic

    def __call__(self) -> int:
        """Unix milliseconds."""
        with self._lock:
            monotonic_ns = self._monotonic_ns()
            elapsed_ns = max(0, monotonic_ns - self._last_ns)
            self._last_ns += elapsed_ns
            self._now_ns += elapsed_ns
            self._follow(self._wall_ns() - self._now_ns, elapsed_ns)
            return self._now_ns // NANOSECONDS_PER_MS

    def elapsed_ms(self) -> int:
        """Milliseconds since some moment in the past, whatever becomes of the wall clock."""
        return self._monotonic_ns() // NANOSECONDS_PER_MS

    def steady_ms(self) -> int:
        """Unix milliseconds by the wall clock as it was at the start, and what has passed since."""
        return (self._steady_ns + self._monotonic_ns()) // NANOSECONDS_PER_MS

    def _follow(self, ahead_ns: int, elapsed_ns: int) -> None:
        """Come nearer to the wall clock, which is ahead by so much."""
        if abs(ahead_ns) <= STEP_MS * NANOSECONDS_PER_MS:
            self._step = None
            most_ns = elapsed_ns // 2
            self._now_ns += max(-most_ns, min(most_ns, ahead_ns))
        elif self._step is None or not _is_same(self._step[0], ahead_ns):
            self._step = ahead_ns, self._last_ns
        elif self._last_ns - self._step[1] >= CONFIRM_MS * NANOSECONDS_PER_MS:
            self._step = None
            self._now_ns += ahead_ns


def _is_same(step_ns: int, ahead_ns: int) -> bool:
    return abs(step_ns - ahead_ns) <= SAME_STEP_MS * NANOSECONDS_PER_MS
