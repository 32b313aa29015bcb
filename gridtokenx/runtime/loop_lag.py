"""How late the trio loop wakes a task that is due: what holds it holds consensus too."""

from __future__ import annotations

from collections import deque
from itertools import islice

import trio

PERIOD_S = 0.05
KEPT_S = 60


class LoopLag:
    """The worst delay of the last minute. Written by the loop, read from any thread."""

    def __init__(self) -> None:
        self._worst_s: deque[float] = deque([0.0], maxlen=KEPT_S)  # By second, the newest last.
        self.worst_ms = 0
        self.recent_ms = 0  # Of this second and the one before.

    async def run(self) -> None:
        """Measure until cancelled."""
        began_s = trio.current_time()
        while True:
            due_s = trio.current_time() + PERIOD_S
            await trio.sleep_until(due_s)
            now_s = trio.current_time()
            if now_s - began_s >= 1:
                began_s = now_s
                self._worst_s.append(0.0)
            self.note(now_s - due_s)

    def note(self, late_s: float) -> None:
        """A task came so much too late."""
        self._worst_s[-1] = max(self._worst_s[-1], late_s)
        self.worst_ms = round(1_000 * max(self._worst_s))
        self.recent_ms = round(1_000 * max(islice(reversed(self._worst_s), 2)))
