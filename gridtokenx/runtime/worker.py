"""Threads for one kind of work, given to whoever is most urgent: consensus never queues behind
strangers.

A place is asked for once a part, some milliseconds of work, so that what is more urgent goes ahead
between two parts of what is less. Among the equally urgent those with different sources take turns.
Source: protocols/networking.md 4.4.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import TypeVar

import trio

T = TypeVar("T")


class Urgency(IntEnum):
    """Whose work goes first."""

    CONSENSUS = 0  # Building, checking and committing blocks.
    CLIENTS = 1  # What was handed to this node itself.
    FORWARDED = 2  # What validators' peers, and those the operator named, bring.
    STRANGERS = 3


class Worker:
    """`places` threads at a time. Used from the trio thread only."""

    def __init__(self, places: int = 1) -> None:
        self._free = places
        self._threads = trio.CapacityLimiter(places)
        self._waiting: dict[Urgency, OrderedDict[str, deque[trio.Event]]] = {
            one: OrderedDict() for one in Urgency
        }

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(len(queue) for queues in self._waiting.values() for queue in queues.values())

    async def run(
        self, function: Callable[[], T], urgency: Urgency = Urgency.CONSENSUS, source: str = ""
    ) -> T:
        """Run it in a thread when its turn comes. Once begun it is not cancelled."""
        async with self.turn(urgency, source):
            return await trio.to_thread.run_sync(function, limiter=self._threads)

    @asynccontextmanager
    async def turn(
        self, urgency: Urgency = Urgency.CONSENSUS, source: str = ""
    ) -> AsyncIterator[None]:
        """Hold a place."""
        await self._acquire(urgency, source)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, urgency: Urgency, source: str) -> None:
        if self._free:
            self._free -= 1
            return
        granted = trio.Event()
        queues = self._waiting[urgency]
        queues.setdefault(source, deque()).append(granted)
        try:
            await granted.wait()
        except trio.Cancelled:
            if granted.is_set():
                self._release()
            else:
                queues[source].remove(granted)
                if not queues[source]:
                    del queues[source]
            raise

    def _release(self) -> None:
        for queues in self._waiting.values():
            if queues:
                source, queue = queues.popitem(last=False)
                queue.popleft().set()
                if queue:
                    queues[source] = queue  # Behind all other sources.
                return
        self._free += 1
