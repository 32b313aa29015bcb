"""Work of strangers in worker threads: what may wait for it, and what is paid for it.

Whoever forwards is who pays: peer ids are free, so an author could be anybody. What waits is
bounded in bytes and number, for one source and for all; more is refused at once. A source pays for
what was of no use only: what the pool takes is bounded there, by sender.
Source: protocols/networking.md 4.4.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, Origin
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.runtime.worker import Urgency, Worker

MAX_WAITING = 128
MAX_WAITING_BYTES = 4 * 1024 * 1024
MAX_SOURCE_WAITING = 8
MAX_SOURCE_BYTES = MAX_MESSAGE_BYTES  # One of the largest.
READERS = 4
STRANGER_PART = 64  # Transactions; 4 ms of worthless ones, 10 ms of well signed ones.
FORWARDED_PART = 256
PATIENCE_S = 2.0  # Of a part; whoever accepted a transaction publishes it again.
FIRST_LOOK_S = 0.3  # Until then a trusted peer has mostly brought it too.
_SLACK_S = 0.001  # A bucket is full a rounding error later than it says.

T = TypeVar("T")


class Lane:
    """How the work for one message or call goes to the threads."""

    def __init__(self, urgency: Urgency, part_transactions: int = FORWARDED_PART) -> None:
        self.urgency = urgency
        self.part_transactions = part_transactions
        self.useless_share = 1.0  # Of the part under way, as far as is known.

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """Around each part of the work."""
        yield

    async def run(self, worker: Worker, function: Callable[[], T]) -> T:
        """Run a function in a thread when its turn comes."""
        return await worker.run(function, self.urgency)


class Readers:
    """Threads that look up answers for peers: strangers wait for others, and pay for theirs."""

    def __init__(self, budget: StrangersBudget, source_of: Callable[[PeerId], str | None]) -> None:
        self._budget = budget
        self._source_of = source_of
        self._worker = Worker(READERS)

    async def run(self, peer: PeerId, answer: Callable[[], T]) -> T:
        """Errors: those of `answer`."""
        source = self._source_of(peer)
        if source is None:
            return await self._worker.run(answer, Urgency.FORWARDED)
        cost = _Cost()
        try:
            return await self._worker.run(cost.measured(answer), Urgency.STRANGERS, source)
        finally:
            self._budget.charge(source, cost.cpu_s, trio.current_time())


class _Cost:
    """CPU seconds that functions have taken in whatever thread."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def measured(self, function: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            started_s = time.thread_time()
            try:
                return function()
            finally:
                self.cpu_s += time.thread_time() - started_s

        return run


class _PaidLane(Lane):
    """What strangers brought: of all their work a part at a time, each when it can be paid.

    Once a trusted peer has brought it too it waits and costs no longer: else whoever is fast enough
    could hold up others' messages.
    """

    def __init__(
        self,
        source: str,
        budget: StrangersBudget,
        turns: Worker,
        is_vouched: Callable[[], bool],
    ) -> None:
        super().__init__(Urgency.STRANGERS, STRANGER_PART)
        self._source = source
        self._budget = budget
        self._turns = turns
        self._is_vouched = is_vouched
        self._cost = _Cost()

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """Errors: TooSlowError for one that would have waited too long."""
        self.useless_share, self._cost = 1.0, _Cost()
        async with AsyncExitStack() as held:
            if not await self._is_admitted(held):
                self.urgency = Urgency.FORWARDED
                yield
                return
            try:
                yield
            finally:
                cost_s = self._cost.cpu_s * self.useless_share
                self._budget.charge(self._source, cost_s, trio.current_time())

    async def run(self, worker: Worker, function: Callable[[], T]) -> T:
        return await worker.run(self._cost.measured(function), self.urgency, self._source)

    async def _is_admitted(self, held: AsyncExitStack) -> bool:
        """Whether `held` has the turn now; False where none is needed. Errors: TooSlowError."""
        for patience_s in (FIRST_LOOK_S, PATIENCE_S - FIRST_LOOK_S):
            if self._is_vouched():
                return False
            with trio.move_on_after(patience_s):
                await self._wait(held)
                return True
        if self._is_vouched():
            return False
        raise trio.TooSlowError

    async def _wait(self, held: AsyncExitStack) -> None:
        """For the turn, until it can be paid; then `held` has it."""
        budget, source = self._budget, self._source
        while True:
            now_s = trio.current_time()
            owed_s = budget.wait_s(source, now_s)
            if owed_s > budget.wait_all_s(now_s):
                await trio.sleep(owed_s + _SLACK_S)  # Out of the turn: it holds up nobody else.
            async with AsyncExitStack() as turn:
                await turn.enter_async_context(self._turns.turn(self.urgency, source))
                owed_s = budget.wait_all_s(trio.current_time())
                if owed_s > 0:
                    await trio.sleep(owed_s + _SLACK_S)
                if budget.wait_s(source, trio.current_time()) <= 0:
                    held.push_async_exit(turn.pop_all())
                    return


class Strangers:
    """One chain's. `source_of` and `budget` are the network's."""

    def __init__(self, budget: StrangersBudget, source_of: Callable[[PeerId], str | None]) -> None:
        self._budget = budget
        self._source_of = source_of
        self._turns = Worker()
        self._waiting: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self.refused = 0

    @asynccontextmanager
    async def lane(self, origin: Origin, size: int) -> AsyncIterator[Lane | None]:
        """The lane for what peers have brought, of `size` bytes; None where too much waits."""
        source = self._source_of(origin.forwarder)
        is_vouched = partial(self._is_vouched, origin)
        if source is not None and not self._has_room(source, size):
            await trio.sleep(FIRST_LOOK_S)  # The router bounds what waits here.
        if source is None or is_vouched():
            yield Lane(Urgency.FORWARDED)
        elif not self._has_room(source, size):
            self.refused += 1
            yield None
        else:
            self._waiting[source] += 1
            self._bytes[source] += size
            try:
                yield _PaidLane(source, self._budget, self._turns, is_vouched)
            finally:
                self._waiting[source] -= 1
                self._bytes[source] -= size
                if not self._waiting[source]:
                    del self._waiting[source], self._bytes[source]

    def _is_vouched(self, origin: Origin) -> bool:
        """Whether a trusted peer has brought it too by now."""
        return any(self._source_of(PeerId(peer)) is None for peer in origin.bringers())

    def _has_room(self, source: str, size: int) -> bool:
        return (
            self._waiting[source] < MAX_SOURCE_WAITING
            and self._bytes[source] + size <= MAX_SOURCE_BYTES
            and self._waiting.total() < MAX_WAITING
            and self._bytes.total() + size <= MAX_WAITING_BYTES
        )
