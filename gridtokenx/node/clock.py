"""The node's wall clock: Unix milliseconds that never go back.

A step of the system clock backwards would freeze every timer of consensus until it has caught up;
here time then runs at half speed instead, and steps forward are taken at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

NANOSECONDS_PER_MS = 1_000_000


class Clock:
    """Callable from any thread. The two sources are nanosecond counters."""

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

    def __call__(self) -> int:
        """Unix milliseconds."""
        with self._lock:
            elapsed_ns = self._monotonic_ns() - self._last_ns
            self._last_ns += elapsed_ns
            self._now_ns = max(self._now_ns + elapsed_ns // 2, self._wall_ns())
            return self._now_ns // NANOSECONDS_PER_MS
