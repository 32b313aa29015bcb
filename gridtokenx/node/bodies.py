"""Transactions from the outside: decoded, verified in worker threads, gossiped in batches.

PyNaCl releases the GIL, so signatures of one batch are verified on all cores; each transaction is
decoded once and verified once. Source: protocols/networking.md 3.3, 4.4.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from gridtokenx.chain.block import MAX_BLOCK_TRANSACTIONS
from gridtokenx.chain.transaction import (
    MAX_BATCH,
    MAX_TRANSACTION_BYTES,
    Transaction,
    TransactionBatch,
    check_signature,
    decode_transaction,
)
from gridtokenx.node.protocol import BATCH_BYTES, BATCH_SECONDS
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.worker import Urgency, Worker
from gridtokenx.views.stages import Stage, Stages

CHUNK = 64
MAX_PROPOSED_BYTES = 16 * 1024 * 1024  # Each view halves the block: all are less than two of 6 MiB.
MAX_REMEMBERED = 2 * MAX_BLOCK_TRANSACTIONS
REMEMBERED_BLOCKS = 100  # Gossip repeats an id for two minutes; later, the nonce tells as well.
verifiers = Worker(os.cpu_count() or 1)

A = TypeVar("A")
B = TypeVar("B")

Decoded = Transaction | Rejected

Check = Callable[[Transaction], object]
"""Raises Rejected for a transaction that is not signed, or not wanted anyway. Any thread."""


def decode_and_verify(
    raws: Sequence[bytes], stages: Stages, check: Check = check_signature
) -> list[Decoded]:
    """Each transaction, or why it is refused. Runs in a worker thread."""
    return verify_all(decode_all(raws, stages), stages, check)


def decode_all(raws: Sequence[bytes], stages: Stages) -> list[Decoded]:
    """Each transaction, unverified, or why it is none. Some 10 us each; any thread."""
    with stages.measure(Stage.DECODE):
        return [_decode(raw) for raw in raws]


def verify_all(
    decoded: Sequence[Decoded], stages: Stages, check: Check = check_signature
) -> list[Decoded]:
    """What of them passes. Some 45 us each; any thread."""
    with stages.measure(Stage.VERIFY):
        return [_verify(one, check) if isinstance(one, Transaction) else one for one in decoded]


def _decode(raw: bytes) -> Decoded:
    if len(raw) > MAX_TRANSACTION_BYTES:
        detail = f"a transaction has at most {MAX_TRANSACTION_BYTES} bytes, not {len(raw)}"
        return Rejected(ErrorCode.TOO_LARGE, detail)
    try:
        return decode_transaction(raw)
    except Rejected as error:
        return error


def _verify(transaction: Transaction, check: Check) -> Decoded:
    try:
        check(transaction)
    except Rejected as error:
        return error
    return transaction


async def decode_and_verify_all(
    raws: Sequence[bytes],
    stages: Stages,
    check: Check = check_signature,
    urgency: Urgency = Urgency.CONSENSUS,
    chain: str = "",
) -> list[Decoded]:
    """As `decode_and_verify`, spread over the cores; results in the order given.

    Chains take turns: what one has to catch up with holds up no other.
    """

    async def work(chunk: Sequence[bytes]) -> list[Decoded]:
        function = partial(decode_and_verify, chunk, stages, check)
        return await verifiers.run(function, urgency, chain)

    return await spread(work, raws)


async def spread(work: Callable[[Sequence[A]], Awaitable[list[B]]], items: Sequence[A]) -> list[B]:
    """`work` on all items at once, in chunks of some milliseconds; results in the order given."""
    chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
    results: list[list[B]] = [[] for _ in chunks]

    async def keep(at: int) -> None:
        results[at] = await work(chunks[at])

    async with trio.open_nursery() as nursery:
        for at in range(len(chunks)):
            nursery.start_soon(keep, at)
    return [result for chunk in results for result in chunk]


class Recent:
    """Bodies of the height's proposals and of the newest block, and ids of lately decided ones.

    The pool has the bodies of what waits; these are there for slow peers and for what the pool here
    does not want. A decided id stays known without its body, for gossip repeats it.
    """

    def __init__(self, max_bytes: int = MAX_PROPOSED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._proposed: OrderedDict[bytes, Transaction] = OrderedDict()  # Of the next height.
        self._newest: dict[bytes, Transaction] = {}  # What the newest block holds.
        self._ids: OrderedDict[bytes, None] = OrderedDict()  # Decided before it.
        self._decided: deque[tuple[bytes, ...]] = deque()  # The same, by block.

    def add(self, transaction: Transaction) -> None:
        """Remember the body of one that was proposed; the oldest make room."""
        if transaction.id not in self._proposed:
            self._proposed[transaction.id] = transaction
            self._bytes += len(transaction.encoded)
        while self._bytes > self._max_bytes:
            _, oldest = self._proposed.popitem(last=False)
            self._bytes -= len(oldest.encoded)

    def get(self, transaction_id: bytes) -> Transaction | None:
        """One whose body is still remembered."""
        return self._proposed.get(transaction_id) or self._newest.get(transaction_id)

    def is_decided(self, transaction_id: bytes) -> bool:
        """Whether a block is known to hold it."""
        return transaction_id in self._ids or transaction_id in self._newest

    def note_decided(self, transactions: Sequence[Transaction]) -> None:
        """Keep the bodies of the newest block alone: slow peers may still ask for them."""
        self._proposed.clear()
        self._bytes = 0
        self._ids.update(dict.fromkeys(self._newest))
        self._decided.append(tuple(self._newest))
        self._newest = {one.id: one for one in transactions}
        while len(self._decided) > REMEMBERED_BLOCKS or len(self._ids) > MAX_REMEMBERED:
            for transaction_id in self._decided.popleft():
                self._ids.pop(transaction_id, None)


class Batcher:
    """Collects transactions for gossip: 50 ms or 256 KiB, whichever comes first."""

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        self._publish = publish
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._filled = trio.Event()

    def add(self, transactions: Sequence[Transaction]) -> None:
        """Queue transactions; full batches leave at once."""
        for transaction in transactions:
            raw = transaction.encoded
            if self._bytes + len(raw) > BATCH_BYTES or len(self._waiting) >= MAX_BATCH:
                self._flush()
            self._waiting.append(raw)
            self._bytes += len(raw)
        if self._waiting:
            self._filled.set()

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            await self._filled.wait()
            await trio.sleep(BATCH_SECONDS)
            # Only here: `run` waits on this very event, which a flush elsewhere must not replace.
            self._filled = trio.Event()
            with house.round("transaction_batches"):
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            batch, self._waiting, self._bytes = self._waiting, [], 0
            self._publish(encode(TransactionBatch(tuple(batch))))
