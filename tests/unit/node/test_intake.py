"""What a node accepted stays until a block has it: two nodes whose gossip loses messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gridtokenx.chain.held import HeldLimits
from gridtokenx.chain.mempool import Limits
from gridtokenx.chain.transaction import Transaction, TransactionBatch, sign_transaction
from gridtokenx.cluster.network import DEV_ACCOUNT, dev_key, local_genesis, validator_name
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.ledger.model import MINIMUMS, Asset, Transfer
from gridtokenx.node.bodies import Recent
from gridtokenx.node.database import Database
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.gossip_events import Verdict
from gridtokenx.node.intake import REPEAT_BLOCKS, REPEAT_BYTES, Intake, Repeats
from gridtokenx.node.network import PeerId
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected

GENESIS = local_genesis()
MET = GENESIS.chain("MET")
DEV = dev_key(DEV_ACCOUNT)
AUTHOR = PeerId(b"author")
PAID = dev_key("paid")
LEAST_UGTX = MINIMUMS[Asset.GTX]
PAUSE_S = 1.0  # Longer than transactions wait for a batch.


def pay(nonce: int, amount: int = 1) -> Transaction:
    payload = Transfer(sha256(b"shop"), Asset.GTX, LEAST_UGTX * amount)
    return sign_transaction(DEV, MET.chain_id, nonce, payload)


def batch(*transactions: Transaction) -> bytes:
    return encode(TransactionBatch(tuple(one.encoded for one in transactions)))


class Node:
    """An intake over a real executor; what it publishes is kept in `sent`."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.executor = Executor(MET, self.database.chain("MET"), self.now_ms)
        self.sent: list[bytes] = []
        self.intake = Intake(self.executor, Recent(), self.sent.append, self.in_worker)

    def now_ms(self) -> int:
        return GENESIS.genesis_time_ms + 10_000

    async def in_worker(self, function: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(function)

    def published(self) -> list[Transaction]:
        """What left since the last call."""
        batches = [decode(TransactionBatch, data) for data in self.sent]
        self.sent.clear()
        raws = [raw for one in batches for raw in one.transactions]
        return [one for one in map(pay, range(100)) if one.encoded in raws]

    async def submit(self, *transactions: Transaction) -> list[ErrorCode | None]:
        verdicts = await self.intake.submit([one.encoded for one in transactions])
        return [None if one is None else one.code for one in verdicts]

    async def hear(self, *transactions: Transaction) -> Verdict:
        return await self.intake.validate(AUTHOR, batch(*transactions))

    def lead(self, *others: Node) -> int:
        """Decide the block that this node proposes, everywhere; how many transactions it holds."""
        executor = self.executor
        last_commit = executor.store.certificate(executor.parent.height) or b""
        compact = executor.build(0, 0, last_commit)
        execution = executor.candidate(compact.header.hash)
        assert execution is not None
        certificate = certify(compact.header.height, compact.header.hash)
        for other in others:
            transactions = execution.transactions
            other.note(other.executor.apply_decided(execution.block, transactions, certificate))
        self.note(executor.commit(compact.header.hash, certificate))
        return len(execution.transactions)

    def note(self, committed: Committed) -> None:
        self.intake.note_committed(committed)


def certify(height: int, block_hash: bytes) -> QuorumCertificate:
    keys = {key.public_key: key for key in (dev_key(validator_name(i)[1]) for i in range(4))}
    signed = vote_bytes(Phase.COMMIT, MET.chain_id, height, 0, block_hash)
    signatures = tuple(
        IndexedSignature(index, keys[member.public_key].sign(signed))
        for index, member in enumerate(MET.genesis_validators.members[:3])
    )
    return QuorumCertificate(Phase.COMMIT, height, 0, block_hash, signatures)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    yield node
    node.database.close()


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Node]:
    leader = Node(tmp_path / "leader")
    yield leader
    leader.database.close()


async def test_what_gossip_lost_is_published_again_until_a_block_holds_it(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.intake.run)
        sent = [pay(nonce) for nonce in range(3)]
        assert await node.submit(*sent) == [None] * 3
        await trio.sleep(PAUSE_S)
        assert node.published() == sent  # And lost on the way.
        for _ in range(REPEAT_BLOCKS):
            assert node.published() == []
            assert leader.lead(node) == 0
            await trio.sleep(PAUSE_S)
        assert node.published() == sent
        assert node.intake.repeated == 3
        assert await leader.hear(*sent) is Verdict.ACCEPT
        assert leader.lead(node) == 3
        for _ in range(REPEAT_BLOCKS):
            leader.lead(node)
            await trio.sleep(PAUSE_S)
        assert node.published() == []
        nursery.cancel_scope.cancel()


async def test_what_a_full_pool_turned_away_is_taken_when_it_comes_again(
    node: Node, autojump_clock: MockClock
) -> None:
    node.executor.mempool.limits = Limits(transactions=8)
    assert await node.submit(pay(0), pay(1), pay(2)) == [None, None, ErrorCode.MEMPOOL_FULL]
    assert await node.hear(pay(2)) is Verdict.IGNORE
    assert node.lead() == 2
    assert await node.hear(pay(2)) is Verdict.ACCEPT
    assert node.lead() == 1


async def test_what_a_node_that_is_a_block_behind_refused_is_taken_after_that_block(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    """Its sender has just been paid, by a block that this node has not got yet."""
    spent = sign_transaction(
        PAID, MET.chain_id, 0, Transfer(sha256(b"shop"), Asset.GTX, LEAST_UGTX)
    )
    paid = sign_transaction(
        DEV, MET.chain_id, 0, Transfer(PAID.public_key, Asset.GTX, 2 * LEAST_UGTX)
    )
    assert await leader.submit(paid) == [None]
    assert await node.hear(spent) is Verdict.IGNORE
    assert await node.hear(spent) is Verdict.IGNORE
    assert node.executor.pending_status(spent.id) is None  # Refused here is not rejected.
    why = node.executor.turned_away(spent.id)
    assert why is not None
    assert why.code is ErrorCode.ACCOUNT_NOT_FOUND
    assert leader.lead(node) == 1
    assert await node.hear(spent) is Verdict.ACCEPT
    assert node.executor.pending_status(spent.id) == "pending"
    assert node.executor.turned_away(spent.id) is None
    assert node.lead() == 1


async def test_a_dropped_gap_may_come_again(node: Node, autojump_clock: MockClock) -> None:
    assert await node.hear(pay(2), pay(3)) is Verdict.IGNORE
    for _ in range(HeldLimits().blocks):
        assert all(node.executor.mempool.holds(pay(nonce).id) for nonce in (2, 3))
        node.lead()
    assert not any(node.executor.mempool.holds(pay(nonce).id) for nonce in (2, 3))
    assert await node.hear(pay(2), pay(3)) is Verdict.IGNORE
    assert await node.hear(pay(0), pay(1)) is Verdict.ACCEPT
    assert node.lead() == 4


async def test_what_is_only_held_is_not_passed_on_before_it_is_due(
    node: Node, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.intake.run)
        for _ in range(2):
            assert await node.hear(pay(2)) is Verdict.IGNORE
        assert await node.hear(pay(0), pay(3)) is Verdict.ACCEPT
        await trio.sleep(PAUSE_S)
        assert node.published() == []
        assert await node.hear(pay(1)) is Verdict.ACCEPT
        await trio.sleep(PAUSE_S)
        assert node.published() == [pay(2), pay(3)]  # Now they may go on.
        assert await node.hear(pay(2)) is Verdict.IGNORE
        nursery.cancel_scope.cancel()


async def test_what_a_sender_has_too_much_of_costs_no_signature(
    node: Node, autojump_clock: MockClock
) -> None:
    node.executor.mempool.limits = Limits(sender_cost=2)
    assert await node.hear(pay(0), pay(1)) is Verdict.ACCEPT
    forged = replace(pay(2), signature=bytes(64))
    assert await node.hear(forged) is Verdict.IGNORE
    assert await node.submit(forged) == [ErrorCode.MEMPOOL_FULL]
    assert node.lead() == 2
    assert await node.submit(forged) == [ErrorCode.BAD_SIGNATURE]
    assert await node.hear(forged) is Verdict.REJECT


async def test_what_comes_from_two_sides_at_once_is_verified_once(
    node: Node, autojump_clock: MockClock
) -> None:
    verdicts = []

    async def hear() -> None:
        verdicts.append(await node.hear(pay(0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(hear)
    assert sorted(verdicts, key=lambda one: one.name) == [Verdict.ACCEPT, Verdict.IGNORE]
    assert node.lead() == 1


async def test_what_is_known_is_forwarded_again_once_a_block(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    assert await node.hear(pay(0)) is Verdict.ACCEPT
    assert await node.hear(pay(0)) is Verdict.IGNORE
    leader.lead(node)
    assert await node.hear(pay(0)) is Verdict.ACCEPT
    assert await node.hear(pay(0)) is Verdict.IGNORE
    assert node.lead() == 1
    assert await node.hear(pay(0)) is Verdict.IGNORE  # Decided.


async def test_what_is_dropped_after_it_was_accepted_says_why(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    assert await node.submit(pay(0)) == [None]
    assert await leader.submit(pay(0, 2)) == [None]
    node.executor.mempool.limits = Limits(rejected=1)
    leader.lead(node)
    assert (
        await node.submit(*[pay(0, amount) for amount in range(3, 6)])
        == [ErrorCode.NONCE_TOO_LOW] * 3
    )  # Refusals at the door push out each other, not this one.
    why = node.executor.mempool.rejection(pay(0).id)
    assert isinstance(why, Rejected)
    assert why.code is ErrorCode.NONCE_TOO_LOW


def test_repeats_are_bounded_by_bytes_and_forget_what_waits_no_more() -> None:
    size = len(pay(0).encoded)
    many = [pay(nonce) for nonce in range(REPEAT_BYTES // size + 10)]  # Some more than fit.
    waiting = {one.id for one in many}
    repeats = Repeats(lambda one: one in waiting)
    repeats.note_own(many, 1)
    first = repeats.due(1 + REPEAT_BLOCKS)
    sizes = [len(one.encoded) for one in many]
    count = len(first)
    assert first == many[:count]
    assert sum(sizes[:count]) <= REPEAT_BYTES < sum(sizes[: count + 1])
    assert repeats.due(2 + REPEAT_BLOCKS) == many[count:]
    waiting.clear()
    assert repeats.due(9) == []
    assert len(repeats) == 0
