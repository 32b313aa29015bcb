"""What a node does on the side, again and again. A round that fails never ends the node.

It is counted, and told once an hour for each kind; the next round goes on. Only orders to end the
process (`stopping.Ending`) pass. One for the process, as logging is, whose files are a part of it.
Any thread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
import trio

from gridtokenx.runtime.stopping import ends_node, leaves

TOLD_EVERY_S = 3_600.0
MAX_KINDS = 256

Step = Callable[[], Awaitable[None] | None]

log = structlog.get_logger(__name__)


class Housekeeping:
    """`failures` counts rounds by task; tasks have fixed names."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.failures: Counter[str] = Counter()
        self._now_s = now_s
        self._told_s: dict[tuple[str, str], float] = {}
        self._untold: list[tuple[str, BaseException]] = []
        self._lock = threading.Lock()

    @contextmanager
    def round(self, task: str) -> Iterator[None]:
        """One round: what it raises is noted and goes no further. Errors: Ending."""
        try:
            yield
        except Exception as error:  # noted and counted: housekeeping must not end a node
            if ends_node(error):
                raise
            self.note(task, error)

    def note(self, task: str, error: BaseException) -> None:
        """A round of `task` failed."""
        if self._count(task, error):
            _tell(task, error)

    def note_of_log(self, task: str, error: BaseException) -> None:
        """As `note`, where the log itself failed: told with the next round of anything, since a
        handler that logs would wait for the locks of the others.
        """
        if self._count(task, error):
            self._untold.append((task, error))

    def catch_up(self) -> None:
        """Tell what could not be told where it happened."""
        untold, self._untold = self._untold, []
        for task, error in untold:
            _tell(task, error)

    def _count(self, task: str, error: BaseException) -> bool:
        """Whether it is news."""
        with self._lock:
            self.failures[task] += 1
            return self._is_news((task, type(leaves(error)[0]).__name__))

    def _is_news(self, kind: tuple[str, str]) -> bool:
        now_s = self._now_s()
        told_s = self._told_s.get(kind)
        if told_s is not None and now_s - told_s < TOLD_EVERY_S:
            return False
        if len(self._told_s) >= MAX_KINDS:
            self._told_s.clear()
        self._told_s[kind] = now_s
        return True


def _tell(task: str, error: BaseException) -> None:
    log.error(
        "housekeeping.failed",
        task=task,
        hint="the node goes on without this round; told once an hour, counted in "
        "gridtokenx_housekeeping_failures_total",
        exc_info=error,
    )


house = Housekeeping()


async def keep(task: str, step: Step, every_s: float) -> None:
    """Do `step` every `every_s` seconds until cancelled, the first time after one pause.

    Errors: Ending.
    """
    while True:
        await trio.sleep(every_s)
        house.catch_up()
        with house.round(task):
            waiting = step()
            if waiting is not None:
                await waiting
