"""Transactions on their way into one chain's pool, and out to the other nodes.

What a client was told is accepted stays in the pool until a block has it or it is refused with a
reason. Gossip promises less: a queue drops its oldest, another node's pool is full, a validator
runs out of time. So whoever accepted a transaction publishes it again while blocks pass without
it, and others forward it again. Source: protocols/networking.md 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial

import structlog
import trio

from gridtokenx.chain.transaction import (
    Transaction,
    TransactionBatch,
    check_signature,
    transaction_id,
)
from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, GossipVerdict, Origin
from gridtokenx.node.bodies import (
    Batcher,
    Decoded,
    Recent,
    decode_all,
    decode_and_verify_all,
    spread,
    verifiers,
    verify_all,
)
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.strangers import Lane, Strangers
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.stopping import ends_node
from gridtokenx.runtime.worker import Urgency, Worker

ADMIT_CHUNK = 64  # Some milliseconds, after which consensus goes ahead.
INLINE_BYTES = 8 * 1024  # A thread hop costs as much as reading this much.
REPEAT_BLOCKS = 3  # A leader each, so that in most networks one of them has heard of it.
REPEAT_BYTES = 1 << 20  # A block: what repeats may never crowd out what is new.

log = structlog.get_logger(__name__)


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
        worker: Worker,
        strangers: Strangers,
    ) -> None:
        """`worker` is the executor's one."""
        self._executor = executor
        self._recent = recent
        self._worker = worker
        self.strangers = strangers
        self._batcher = Batcher(publish)
        self._in_flight: set[bytes] = set()  # Trusted peers': being verified.
        self._pending = executor.pending
        self._repeats = Repeats(lambda one: self._pending.find(one) is not None)
        self.repeated = 0

    async def run(self) -> None:
        """Publish what was admitted, until cancelled."""
        await self._batcher.run()

    async def submit(self, raws: Sequence[bytes]) -> list[Rejected | None]:
        """Admit transactions from a client, in order; those admitted are gossiped."""
        stages, urgency = self._executor.stages, Urgency.CLIENTS
        decoded = await decode_and_verify_all(raws, stages, self._check, urgency)
        verdicts, fresh = await self._admit(decoded, Lane(urgency), heard=False)
        self._repeats.note_own(fresh, self._executor.tip.height)
        self._batcher.add(fresh)
        return verdicts

    async def submit_to(self, raws: Sequence[bytes], future: Future[list[Rejected | None]]) -> None:
        """As `submit`, answering a future of another thread, whatever happens."""
        try:
            future.set_result(await self.submit(raws))
        except Exception as error:  # A door to the outside is total: told, logged, survived.
            future.set_exception(error)
            if ends_node(error):
                raise
            log.exception("submit.failed", chain=self._executor.spec.name)
        finally:
            if not future.done():
                future.set_exception(RuntimeError("the node is stopping"))

    async def validate(self, origin: Origin, data: bytes) -> GossipVerdict:
        """Gossip's validator of transaction batches: total, bounded."""
        async with self.strangers.lane(origin, len(data)) as lane:
            if lane is None:
                return GossipVerdict.IGNORE
            try:
                return await self._judge(lane, data)
            except trio.TooSlowError:
                return GossipVerdict.IGNORE

    async def _judge(self, lane: Lane, data: bytes) -> GossipVerdict:
        ids = await self._read(lane, data)
        if ids is None:
            return GossipVerdict.REJECT
        news = {key: raw for key, raw in ids.items() if self._is_news(key)}
        if not news:
            return self._judge_repeated(list(ids))
        fresh: list[Transaction] = []
        is_sound = False
        # What a stranger has in hand may wait long: others need not wait for it.
        in_hand = set() if lane.urgency is Urgency.STRANGERS else set(news)
        self._in_flight |= in_hand
        try:
            raws = list(news.values())
            for at in range(0, len(raws), lane.part_transactions):
                async with lane.part():
                    part = raws[at : at + lane.part_transactions]
                    if not await self._take_in(lane, part, fresh):
                        return GossipVerdict.REJECT  # Whoever forwards must have verified.
            is_sound = True
        finally:
            self._in_flight -= in_hand
            # What is only held has shown nothing yet, so it is not passed on; now it may have come
            # due. Nor does this batch carry on what was taken of it, where the rest was not.
            own = [one for one in fresh if not is_sound or one.id not in ids]
            self._batcher.add(own)
        waiting = {one.id for one in fresh}
        self._repeats.note_forwarded(waiting, self._executor.tip.height)
        return GossipVerdict.ACCEPT if waiting & ids.keys() else GossipVerdict.IGNORE

    async def _read(self, lane: Lane, data: bytes) -> dict[bytes, bytes] | None:
        """The transactions of a batch by id, in order; None for what is no batch."""
        if lane.urgency is Urgency.FORWARDED and len(data) <= INLINE_BYTES:
            return _decode_batch(data)
        async with lane.part():
            return await lane.run(verifiers, partial(_decode_batch, data))

    async def _take_in(self, lane: Lane, raws: Sequence[bytes], fresh: list[Transaction]) -> bool:
        """Admit what is sound and wanted, adding to `fresh` what waits now; cheap checks first.

        False where one of them is malformed or forged: of these no more is admitted.
        """
        before = len(fresh)
        looked = await lane.run(self._worker, partial(self._look, raws))
        if looked is None:
            return False
        wanted, doubtful = looked
        if not await self._verify_and_admit(lane, wanted, fresh):
            return False
        if doubtful and len(fresh) > before:
            again = [transaction for transaction, _ in doubtful]
            wanted, doubtful = await lane.run(self._worker, partial(self._pending.screen, again))
            if not await self._verify_and_admit(lane, wanted, fresh):
                return False
        if doubtful:
            await lane.run(self._worker, partial(self._pending.turn_away, doubtful))
        lane.useless_share = max(0.0, 1 - (len(fresh) - before) / len(raws))
        return True

    def _look(
        self, raws: Sequence[bytes]
    ) -> tuple[list[Transaction], list[tuple[Transaction, Rejected]]] | None:
        """As `Pending.screen`; None where one does not decode. In the executor's thread."""
        decoded = decode_all(raws, self._executor.stages)
        transactions = [one for one in decoded if isinstance(one, Transaction)]
        if len(transactions) < len(decoded):
            return None
        return self._pending.screen(transactions)

    async def _verify_and_admit(
        self, lane: Lane, wanted: Sequence[Transaction], fresh: list[Transaction]
    ) -> bool:
        stages = self._executor.stages

        async def verify(chunk: Sequence[Transaction]) -> list[Decoded]:
            return await lane.run(verifiers, partial(verify_all, chunk, stages))

        verified = await spread(verify, wanted)
        if any(isinstance(one, Rejected) for one in verified):
            return False
        _, new = await self._admit(verified, lane, heard=True)
        fresh += new
        return True

    def note_committed(self, committed: Committed) -> None:
        """A block is on disk: forget what it holds, publish again what waits too long."""
        self._recent.note_decided(committed.execution.transactions)
        due = self._repeats.due(committed.parent.height)
        self.repeated += len(due)
        self._batcher.add(due)

    def _judge_repeated(self, ids: Sequence[bytes]) -> GossipVerdict:
        height = self._executor.tip.height
        waiting = self._repeats.to_forward(ids, height)
        self._repeats.note_forwarded(waiting, height)
        return GossipVerdict.ACCEPT if waiting else GossipVerdict.IGNORE

    def _is_news(self, transaction_id: bytes) -> bool:
        """Whether a transaction is worth verifying: not here, not decided, not refused here.

        Never by having been here once: what the pool let go for a passing reason may come back.
        """
        pending = self._pending
        known = pending.find(transaction_id) is not None or self._recent.is_decided(transaction_id)
        is_coming = known or transaction_id in self._in_flight
        return not is_coming and not pending.refuses(transaction_id)

    def _check(self, transaction: Transaction) -> None:
        """Errors: MEMPOOL_FULL for one of a sender that has enough waiting; BAD_SIGNATURE."""
        self._pending.check_share(transaction)
        check_signature(transaction)

    async def _admit(
        self, decoded: Sequence[Decoded], lane: Lane, *, heard: bool
    ) -> tuple[list[Rejected | None], list[Transaction]]:
        """A verdict for each; and all that became ready, of these and of those held before."""
        verdicts: list[Rejected | None] = []
        fresh: list[Transaction] = []
        for at in range(0, len(decoded), ADMIT_CHUNK):
            part = decoded[at : at + ADMIT_CHUNK]
            good = [one for one in part if isinstance(one, Transaction)]
            admit = partial(self._pending.admit, good, heard=heard)
            admitted, new = await lane.run(self._worker, admit)
            results = iter(admitted)
            verdicts += [one if isinstance(one, Rejected) else next(results) for one in part]
            fresh += new
        return verdicts, fresh


def _decode_batch(data: bytes) -> dict[bytes, bytes] | None:
    try:
        batch = decode(TransactionBatch, data, MAX_MESSAGE_BYTES)
    except Rejected:
        return None
    return {transaction_id(raw): raw for raw in batch.transactions}
