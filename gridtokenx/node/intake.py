"""Transactions on their way into one chain's pool, and out to the other nodes.

What a client was told is accepted stays in the pool until a block has it or it is refused with a
reason. Gossip promises less: a queue drops its oldest, another node's pool is full, a validator
runs out of time. So whoever accepted a transaction publishes it again while blocks pass without
it, and others forward it again. Source: protocols/networking.md 4.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import structlog

from gridtokenx.chain.transaction import Transaction, TransactionBatch, check_signature
from gridtokenx.node.bodies import Batcher, Decoded, Recent, decode_and_verify_all
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.gossip_events import Verdict as GossipVerdict
from gridtokenx.node.network import PeerId
from gridtokenx.node.protocol import MESSAGE_LIMIT
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.errors import RETRYABLE, Rejected

ADMIT_CHUNK = 256
REPEAT_BLOCKS = 3  # A leader each, so that in most networks one of them has heard of it.
REPEAT_BYTES = 1 << 20  # A block: what repeats may never crowd out what is new.

log = structlog.get_logger(__name__)

InWorker = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function in the executor's one worker thread."""


class Repeats:
    """The height at which each waiting transaction was last sent on by this node.

    Bounded by the pool: what no longer waits is forgotten after each block.
    """

    def __init__(self, waits: Callable[[bytes], bool]) -> None:
        self._waits = waits
        self._own: dict[bytes, tuple[int, Transaction]] = {}
        self._others: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._own) + len(self._others)

    def note_own(self, transactions: Iterable[Transaction], height: int) -> None:
        """Transactions that this node accepted from clients and has just published."""
        for one in transactions:
            self._others.pop(one.id, None)
            self._own[one.id] = (height, one)

    def note_forwarded(self, ids: Iterable[bytes], height: int) -> None:
        """Transactions of others that are forwarded now."""
        for one in ids:
            if one not in self._own:
                self._others[one] = height

    def due(self, height: int) -> list[Transaction]:
        """Own ones to publish again after the block at `height`, oldest first, in nonce order."""
        self._own = {key: entry for key, entry in self._own.items() if self._waits(key)}
        self._others = {key: sent for key, sent in self._others.items() if self._waits(key)}
        found: list[Transaction] = []
        size = 0
        for key, (sent, transaction) in self._own.items():
            if height - sent < REPEAT_BLOCKS:
                continue
            size += len(transaction.encoded)
            if size > REPEAT_BYTES:
                break
            found.append(transaction)
            self._own[key] = (height, transaction)
        return found

    def to_forward(self, ids: Iterable[bytes], height: int) -> list[bytes]:
        """Which of the known ids still wait and were not forwarded since the last block.

        Once a block each at most, so that repeating others' transactions floods nobody.
        """
        return [one for one in ids if self._others.get(one, height) < height]


class Intake:
    """Admits transactions of clients and gossip; publishes what is new or waits too long."""

    def __init__(
        self,
        executor: Executor,
        recent: Recent,
        publish: Callable[[bytes], None],
        in_worker: InWorker,
    ) -> None:
        self._executor = executor
        self._recent = recent
        self._in_worker = in_worker
        self._batcher = Batcher(publish)
        self._in_flight: set[bytes] = set()  # Of gossip: being verified, or about to be admitted.
        pool = executor.mempool
        self._repeats = Repeats(lambda one: pool.get(one) is not None)
        self.repeated = 0

    async def run(self) -> None:
        """Publish what was admitted, until cancelled."""
        await self._batcher.run()

    async def submit(self, raws: Sequence[bytes]) -> list[Rejected | None]:
        """Admit transactions from a client, in order; those admitted are gossiped."""
        decoded = await decode_and_verify_all(raws, self._executor.stages, self._check)
        verdicts, fresh = await self._admit(decoded, heard=False)
        self._repeats.note_own(fresh, self._executor.parent.height)
        self._batcher.add(fresh)
        return verdicts

    async def submit_to(self, raws: Sequence[bytes], future: Future[list[Rejected | None]]) -> None:
        """As `submit`, answering a future of another thread, whatever happens."""
        try:
            future.set_result(await self.submit(raws))
        except Exception as error:  # A door to the outside is total: told, logged, survived.
            log.exception("submit.failed", chain=self._executor.spec.name)
            future.set_exception(error)
        finally:
            if not future.done():
                future.set_exception(RuntimeError("the node is stopping"))

    async def validate(self, _author: PeerId, data: bytes) -> GossipVerdict:
        """Gossip's validator of transaction batches: total, bounded."""
        try:
            batch = decode(TransactionBatch, data, MESSAGE_LIMIT)
        except Rejected:
            return GossipVerdict.REJECT
        ids = [tagged_hash("gtx.tx", raw) for raw in batch.transactions]
        bodies = zip(ids, batch.transactions, strict=True)
        news = {key: raw for key, raw in bodies if self._is_news(key)}
        if not news:
            return self._judge_repeated(ids)
        self._in_flight |= news.keys()
        try:
            decoded = await decode_and_verify_all(
                [*news.values()], self._executor.stages, self._check
            )
            if any(isinstance(one, Rejected) and one.code not in RETRYABLE for one in decoded):
                return GossipVerdict.REJECT  # Whoever forwards has verified: this peer has not.
            _, fresh = await self._admit(decoded, heard=True)
        finally:
            self._in_flight -= news.keys()
        # What is only held has shown nothing yet, so it is not passed on; now it may have come due.
        heard = set(ids)
        released = [one for one in fresh if one.id not in heard]
        self._batcher.add(released)
        waiting = {one.id for one in fresh}
        height = self._executor.parent.height
        self._repeats.note_forwarded(waiting, height)
        return GossipVerdict.ACCEPT if waiting & heard else GossipVerdict.IGNORE

    def note_committed(self, committed: Committed) -> None:
        """A block is on disk: forget what it holds, publish again what waits too long."""
        self._recent.note_decided(committed.execution.transactions)
        due = self._repeats.due(committed.parent.height)
        self.repeated += len(due)
        self._batcher.add(due)

    def _judge_repeated(self, ids: Sequence[bytes]) -> GossipVerdict:
        height = self._executor.parent.height
        waiting = self._repeats.to_forward(ids, height)
        self._repeats.note_forwarded(waiting, height)
        return GossipVerdict.ACCEPT if waiting else GossipVerdict.IGNORE

    def _is_news(self, transaction_id: bytes) -> bool:
        """Whether a transaction is worth verifying: not here, not decided, not refused here.

        Never by having been here once: what the pool let go for a passing reason may come back.
        """
        pool = self._executor.mempool
        known = pool.get(transaction_id) is not None or self._recent.is_decided(transaction_id)
        is_coming = known or transaction_id in self._in_flight
        return not is_coming and not pool.refuses(transaction_id)

    def _check(self, transaction: Transaction) -> None:
        """Errors: MEMPOOL_FULL for one of a sender that has enough waiting; BAD_SIGNATURE."""
        self._executor.mempool.check_share(transaction)
        check_signature(transaction)

    async def _admit(
        self, decoded: Sequence[Decoded], *, heard: bool
    ) -> tuple[list[Rejected | None], list[Transaction]]:
        """A verdict for each; and all that became ready, of these and of those held before."""
        verdicts: list[Rejected | None] = []
        fresh: list[Transaction] = []
        for at in range(0, len(decoded), ADMIT_CHUNK):
            part = decoded[at : at + ADMIT_CHUNK]
            good = [one for one in part if isinstance(one, Transaction)]
            admitted, new = await self._in_worker(partial(self._executor.admit, good, heard=heard))
            results = iter(admitted)
            verdicts += [one if isinstance(one, Rejected) else next(results) for one in part]
            fresh += new
        return verdicts, fresh
