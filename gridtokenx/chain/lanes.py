"""Senders of one class that take turns: who of them comes next into a block, and who has the most.

A sender's transactions wait in the order of their nonces. A walk goes round the senders; each turn
is worth as much as its weight, and what is taken costs by number and size, so that nobody gets more
of a block than its share while others wait, and all of it when nobody does.
Source: protocols/networking.md 4.3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from gridtokenx.chain.transaction import Transaction

COST_BYTES = 1024  # A transaction costs one, and one more for each of these.


def cost_of(transaction: Transaction) -> int:
    """What a transaction takes of its sender's share."""
    return 1 + len(transaction.encoded) // COST_BYTES


@dataclass(slots=True)
class Queue:
    """What one sender has waiting. From `stopped_at` on, a nonce, nothing goes into a block."""

    sender: bytes
    weight: int
    waiting: list[Transaction] = field(default_factory=list)
    cost: int = 0
    stopped_at: int | None = None

    @property
    def load(self) -> int:
        """How heavily it weighs on the pool, by its own weight."""
        return self.cost // self.weight

    def goes(self, place: int) -> bool:
        """Whether there is a transaction at a place that may go into a block."""
        if place >= len(self.waiting):
            return False
        return self.stopped_at is None or self.waiting[place].nonce < self.stopped_at

    def last(self, count: int, size: int) -> list[Transaction]:
        """The last ones, newest first, that are together as many and as large, or all."""
        found: list[Transaction] = []
        for transaction in reversed(self.waiting):
            if len(found) >= count and size <= 0:
                break
            found.append(transaction)
            size -= len(transaction.encoded)
        return found


@dataclass(slots=True)
class _Turn:
    """A sender's place in a walk, and what it may still take, below zero after a large one."""

    queue: Queue
    place: int = 0
    credit: int = 0

    def serve(self) -> Iterator[Transaction]:
        self.credit += self.queue.weight
        while self.credit > 0 and self.queue.goes(self.place):
            transaction = self.queue.waiting[self.place]
            self.place += 1
            self.credit -= cost_of(transaction)
            yield transaction

    def is_over(self) -> bool:
        return not self.queue.goes(self.place)


class Lane:
    """All senders of a class, in the order of their turns."""

    def __init__(self) -> None:
        self.transactions = 0
        self.bytes = 0
        self._queues: dict[bytes, Queue] = {}
        self._by_load: dict[int, dict[bytes, None]] = {}
        self._most = 0  # No load is above it.

    def senders(self) -> list[bytes]:
        """In the order of their turns."""
        return list(self._queues)

    def queue(self, sender: bytes) -> Queue | None:
        """What a sender has waiting here, if anything."""
        return self._queues.get(sender)

    def add(self, transaction: Transaction, weight: int) -> None:
        """Behind what its sender has waiting; a sender that had nothing comes after all others."""
        queue = self._queues.get(transaction.sender)
        if queue is None:
            queue = self._queues[transaction.sender] = Queue(transaction.sender, weight)
        queue.waiting.append(transaction)
        self._count(queue, transaction, 1)

    def remove(self, transaction: Transaction) -> None:
        """One that waits; found from the end, where those are that have to make room."""
        queue = self._queues[transaction.sender]
        place = len(queue.waiting) - 1
        while queue.waiting[place] is not transaction:
            place -= 1
        del queue.waiting[place]
        self._count(queue, transaction, -1)
        if not queue.waiting:
            self._unlist(queue, queue.load)
            del self._queues[transaction.sender]

    def heaviest(self) -> Queue | None:
        """Of those with the greatest load the one that has had it longest."""
        while self._most and not self._by_load.get(self._most):
            self._most -= 1
        listed = self._by_load.get(self._most)
        return self._queues[next(iter(listed))] if listed else None

    def walk(self) -> Iterator[Transaction]:
        """What may go into a block, going round the senders. The lane must not change meanwhile.

        Costs what is taken of it, not what waits.
        """
        going: list[_Turn] = []
        for queue in self._queues.values():
            turn = _Turn(queue)
            yield from turn.serve()
            if not turn.is_over():
                going.append(turn)
        while going:
            for turn in going:
                yield from turn.serve()
            going = [turn for turn in going if not turn.is_over()]

    def arrange(self, order: Collection[bytes]) -> None:
        """Take turns in this order of senders; those it does not name keep theirs, behind it."""
        named = {one: self._queues[one] for one in order if one in self._queues}
        self._queues = named | self._queues

    def _count(self, queue: Queue, transaction: Transaction, sign: int) -> None:
        before = queue.load
        queue.cost += sign * cost_of(transaction)
        self.transactions += sign
        self.bytes += sign * len(transaction.encoded)
        load = queue.load
        listed = self._by_load.get(before)
        if load != before or listed is None or queue.sender not in listed:
            self._unlist(queue, before)
            self._by_load.setdefault(load, {})[queue.sender] = None
            self._most = max(self._most, load)

    def _unlist(self, queue: Queue, load: int) -> None:
        listed = self._by_load.get(load)
        if listed is not None:
            listed.pop(queue.sender, None)
            if not listed:
                del self._by_load[load]
