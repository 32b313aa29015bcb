"""What a node accepted stays until a block has it: two nodes whose gossip loses messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gridtokenx.chain.held import HeldLimits
from gridtokenx.chain.mempool import Limits
from gridtokenx.chain.transaction import Transaction, TransactionBatch, sign_transaction
from gridtokenx.cluster.devnet import DEV_ACCOUNT, dev_key, local_genesis, validator_name
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.ledger.model import MINIMUMS, Asset, Transfer
from gridtokenx.network.gossipsub.events import GossipVerdict, Origin
from gridtokenx.network.peers.budget import BudgetLimits, StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node import strangers
from gridtokenx.node.bodies import Recent
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.intake import REPEAT_BLOCKS, REPEAT_BYTES, Intake, Repeats
from gridtokenx.node.strangers import (
    MAX_SOURCE_WAITING,
    MAX_WAITING,
    STRANGER_PART,
    Lane,
    Strangers,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import DiskFailed
from gridtokenx.runtime.worker import Urgency, Worker
from gridtokenx.storage.database import Database
from tests.support.patience import until

GENESIS = local_genesis()
MET = GENESIS.chain("MET")
DEV = dev_key(DEV_ACCOUNT)
AUTHOR, PEER = PeerId(b"author"), PeerId(b"peer")
LIMITS = BudgetLimits(cpu_share=0.2, source_share=0.1, burst_s=0.4)
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
        self.sources: dict[PeerId, str] = {}  # Of strangers.
        self.budget = StrangersBudget(LIMITS)
        self.worker = Worker()
        paid = Strangers(self.budget, lambda peer: self.sources.get(peer))
        self.intake = Intake(self.executor, Recent(), self.sent.append, self.worker, paid)

    def now_ms(self) -> int:
        return GENESIS.genesis_time_ms + 10_000

    def published(self) -> list[Transaction]:
        """What left since the last call."""
        batches = [decode(TransactionBatch, data) for data in self.sent]
        self.sent.clear()
        raws = [raw for one in batches for raw in one.transactions]
        return [one for one in map(pay, range(100)) if one.encoded in raws]

    async def submit(self, *transactions: Transaction) -> list[ErrorCode | None]:
        verdicts = await self.intake.submit([one.encoded for one in transactions])
        return [None if one is None else one.code for one in verdicts]

    async def hear(self, *transactions: Transaction, forwarder: PeerId = PEER) -> GossipVerdict:
        origin = Origin(AUTHOR, forwarder)
        return await self.intake.validate(origin, batch(*transactions))

    def lead(self, *others: Node) -> int:
        """Decide the block that this node proposes, everywhere; how many transactions it holds."""
        executor = self.executor
        compact = executor.build(0, 0)
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
        assert await leader.hear(*sent) is GossipVerdict.ACCEPT
        assert leader.lead(node) == 3
        for _ in range(REPEAT_BLOCKS):
            leader.lead(node)
            await trio.sleep(PAUSE_S)
        assert node.published() == []
        nursery.cancel_scope.cancel()


async def test_what_a_full_pool_turned_away_is_taken_when_it_comes_again(
    node: Node, autojump_clock: MockClock
) -> None:
    node.executor.pending._mempool.limits = Limits(transactions=8)
    assert await node.submit(pay(0), pay(1), pay(2)) == [None, None, ErrorCode.MEMPOOL_FULL]
    assert await node.hear(pay(2)) is GossipVerdict.IGNORE
    assert node.lead() == 2
    assert await node.hear(pay(2)) is GossipVerdict.ACCEPT
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
    assert await node.hear(spent) is GossipVerdict.IGNORE
    assert await node.hear(spent) is GossipVerdict.IGNORE
    assert node.executor.pending.status(spent.id) is None  # Refused here is not rejected.
    why = node.executor.pending.turned_away(spent.id)
    assert why is not None
    assert why.code is ErrorCode.ACCOUNT_NOT_FOUND
    assert leader.lead(node) == 1
    assert await node.hear(spent) is GossipVerdict.ACCEPT
    assert node.executor.pending.status(spent.id) == "pending"
    assert node.executor.pending.turned_away(spent.id) is None
    assert node.lead() == 1


async def test_a_dropped_gap_may_come_again(node: Node, autojump_clock: MockClock) -> None:
    assert await node.hear(pay(2), pay(3)) is GossipVerdict.IGNORE
    for _ in range(HeldLimits().blocks):
        assert all(node.executor.pending.status(pay(nonce).id) == "queued" for nonce in (2, 3))
        node.lead()
    assert not any(node.executor.pending.status(pay(nonce).id) == "queued" for nonce in (2, 3))
    assert await node.hear(pay(2), pay(3)) is GossipVerdict.IGNORE
    assert await node.hear(pay(0), pay(1)) is GossipVerdict.ACCEPT
    assert node.lead() == 4


async def test_what_is_only_held_is_not_passed_on_before_it_is_due(
    node: Node, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.intake.run)
        for _ in range(2):
            assert await node.hear(pay(2)) is GossipVerdict.IGNORE
        assert await node.hear(pay(0), pay(3)) is GossipVerdict.ACCEPT
        await trio.sleep(PAUSE_S)
        assert node.published() == []
        assert await node.hear(pay(1)) is GossipVerdict.ACCEPT
        await trio.sleep(PAUSE_S)
        assert node.published() == [pay(2), pay(3)]  # Now they may go on.
        assert await node.hear(pay(2)) is GossipVerdict.IGNORE
        nursery.cancel_scope.cancel()


async def test_what_a_sender_has_too_much_of_costs_no_signature(
    node: Node, autojump_clock: MockClock
) -> None:
    node.executor.pending._mempool.limits = Limits(sender_cost=2)
    assert await node.hear(pay(0), pay(1)) is GossipVerdict.ACCEPT
    forged = replace(pay(2), signature=bytes(64))
    assert await node.hear(forged) is GossipVerdict.IGNORE
    assert await node.submit(forged) == [ErrorCode.MEMPOOL_FULL]
    assert node.lead() == 2
    assert await node.submit(forged) == [ErrorCode.BAD_SIGNATURE]
    assert await node.hear(forged) is GossipVerdict.REJECT


async def test_what_comes_from_two_sides_at_once_is_verified_once(
    node: Node, autojump_clock: MockClock
) -> None:
    verdicts = []

    async def hear() -> None:
        verdicts.append(await node.hear(pay(0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(hear)
    assert sorted(verdicts, key=lambda one: one.name) == [
        GossipVerdict.ACCEPT,
        GossipVerdict.IGNORE,
    ]
    assert node.lead() == 1


async def test_what_is_known_is_forwarded_again_once_a_block(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    assert await node.hear(pay(0)) is GossipVerdict.ACCEPT
    assert await node.hear(pay(0)) is GossipVerdict.IGNORE
    leader.lead(node)
    assert await node.hear(pay(0)) is GossipVerdict.ACCEPT
    assert await node.hear(pay(0)) is GossipVerdict.IGNORE
    assert node.lead() == 1
    assert await node.hear(pay(0)) is GossipVerdict.IGNORE  # Decided.


async def test_what_is_dropped_after_it_was_accepted_says_why(
    node: Node, leader: Node, autojump_clock: MockClock
) -> None:
    assert await node.submit(pay(0)) == [None]
    assert await leader.submit(pay(0, 2)) == [None]
    node.executor.pending._mempool.limits = Limits(rejected=1)
    leader.lead(node)
    assert (
        await node.submit(*[pay(0, amount) for amount in range(3, 6)])
        == [ErrorCode.NONCE_TOO_LOW] * 3
    )  # Refusals at the door push out each other, not this one.
    why = node.executor.pending.status(pay(0).id)
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


# -- Strangers -------------------------------------------------------------------------------------

STRANGER, ANOTHER = PeerId(b"stranger"), PeerId(b"another")


def junk(number: int, count: int = 1) -> list[Transaction]:
    """Well signed, by a key that the chain does not know."""
    key = dev_key(f"nobody {number}")
    payload = Transfer(sha256(b"shop"), Asset.GTX, LEAST_UGTX)
    return [sign_transaction(key, MET.chain_id, nonce, payload) for nonce in range(count)]


async def test_what_no_block_could_hold_costs_no_signature(node: Node) -> None:
    """Unknown senders, spent nonces, fees that nobody can pay, other chains: looked up first."""
    assert await node.submit(pay(0)) == [None]
    verify_s = node.executor.stages.seconds()["verify"]
    other = GENESIS.chain("TH").chain_id
    payload = Transfer(sha256(b"shop"), Asset.GTX, LEAST_UGTX)
    useless = {
        ErrorCode.ACCOUNT_NOT_FOUND: junk(0)[0],
        ErrorCode.NONCE_TOO_LOW: pay(0, 2),
        ErrorCode.INSUFFICIENT_BALANCE: sign_transaction(
            DEV, MET.chain_id, 1, payload, fee_ugtx=10**17
        ),
        ErrorCode.WRONG_CHAIN: sign_transaction(DEV, other, 1, payload),
    }
    for code, one in useless.items():
        for forged in (one, replace(one, signature=bytes(64))):
            assert await node.hear(forged) is GossipVerdict.IGNORE
            why = node.executor.pending.turned_away(forged.id)
            assert why is not None
            assert why.code is code
    assert node.executor.stages.seconds()["verify"] == verify_s


async def test_who_is_paid_in_a_batch_may_send_in_it(node: Node) -> None:
    spent = sign_transaction(
        PAID, MET.chain_id, 0, Transfer(sha256(b"shop"), Asset.GTX, LEAST_UGTX)
    )
    paid = sign_transaction(
        DEV, MET.chain_id, 0, Transfer(PAID.public_key, Asset.GTX, 2 * LEAST_UGTX)
    )
    assert await node.hear(paid, spent, *junk(0)) is GossipVerdict.ACCEPT
    assert node.executor.pending.turned_away(junk(0)[0].id) is not None
    assert node.lead() == 2


async def test_strangers_pay_for_junk_and_nobody_else_does(node: Node) -> None:
    node.sources = {STRANGER: "stranger"}
    assert await node.hear(*junk(0, 64)) is GossipVerdict.IGNORE
    assert node.budget.spent_s == 0
    assert await node.hear(*junk(1, 64), forwarder=STRANGER) is GossipVerdict.IGNORE
    assert node.budget.spent_s > 0


async def test_what_the_pool_takes_is_paid_there(node: Node) -> None:
    """Reading the batch is all that a stranger pays for good transactions."""
    node.sources = {STRANGER: "stranger"}
    started_s = sum(node.executor.stages.seconds().values())
    good = [pay(nonce) for nonce in range(200)]
    assert await node.hear(*good, forwarder=STRANGER) is GossipVerdict.ACCEPT
    worked_s = sum(node.executor.stages.seconds().values()) - started_s
    assert node.budget.spent_s < worked_s / 4
    assert node.lead() == 200


async def test_a_stranger_that_owes_waits_and_gives_up(
    node: Node, autojump_clock: MockClock
) -> None:
    node.sources = {STRANGER: "stranger", ANOTHER: "another"}
    node.budget.charge("stranger", 10.0, trio.current_time())
    for _ in range(5):
        node.budget.charge("another", 1.0, trio.current_time())
    assert await node.hear(pay(0), forwarder=STRANGER) is GossipVerdict.IGNORE
    assert len(node.executor.pending) == 0
    assert await node.hear(pay(0)) is GossipVerdict.ACCEPT  # Those who are trusted never wait.


async def test_one_that_owes_holds_up_no_other_stranger(
    node: Node, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    node.sources = {STRANGER: "stranger", ANOTHER: "another"}
    node.budget.charge("stranger", 0.3, trio.current_time())  # A second's worth more than it has.
    verdicts: list[tuple[str, GossipVerdict]] = []

    async def hear(name: str, forwarder: PeerId, *transactions: Transaction) -> None:
        verdicts.append((name, await node.hear(*transactions, forwarder=forwarder)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, "owes", STRANGER, pay(1))
        nursery.start_soon(hear, "pays", ANOTHER, pay(0))
    assert verdicts == [("pays", GossipVerdict.ACCEPT), ("owes", GossipVerdict.ACCEPT)]


async def test_what_waits_of_strangers_is_bounded(node: Node) -> None:
    peers = [PeerId(b"%d" % number) for number in range(200)]
    node.sources = {peer: peer.hex() for peer in peers}
    verdicts: list[GossipVerdict] = []

    async def hear(number: int) -> None:
        transactions = junk(number)
        verdicts.append(await node.hear(*transactions, forwarder=peers[number % len(peers)]))

    async with trio.open_nursery() as nursery, node.intake.strangers._turns.turn():
        for number in range(MAX_SOURCE_WAITING + 5):
            nursery.start_soon(hear, number * len(peers))  # One source.
        await until(lambda: node.intake.strangers.refused == 5)
        for number in range(len(peers)):
            nursery.start_soon(hear, number)
        most = MAX_WAITING - MAX_SOURCE_WAITING
        refused = 5 + len(peers) - most
        await until(lambda: node.intake.strangers.refused == refused)
        assert await node.hear(pay(0)) is GossipVerdict.ACCEPT
    assert set(verdicts) == {GossipVerdict.IGNORE}
    large = [replace(pay(0), signature=bytes([n] * 64)) for n in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strangers, "MAX_SOURCE_BYTES", 1_000)
        assert await node.hear(*large, forwarder=peers[0]) is GossipVerdict.IGNORE
    assert node.intake.strangers.refused == refused + 1


async def test_what_a_trusted_peer_brings_too_waits_no_longer(node: Node) -> None:
    """Else a stranger that owes and is the first to bring it would hold it up."""
    node.sources = {STRANGER: "stranger"}
    node.budget.charge("stranger", 100.0, trio.current_time())
    bringers: list[PeerId] = [STRANGER]
    verdicts: list[GossipVerdict] = []

    async def hear(transaction: Transaction) -> None:
        origin = Origin(AUTHOR, STRANGER, lambda: bringers)
        verdicts.append(await node.intake.validate(origin, batch(transaction)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear, pay(0))
        await trio.sleep(strangers.FIRST_LOOK_S / 2)
        bringers.append(PEER)
    assert verdicts == [GossipVerdict.ACCEPT]
    spent_s = node.budget.spent_s
    await hear(pay(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strangers, "MAX_WAITING", 0)
        await hear(pay(2))
    assert verdicts == [GossipVerdict.ACCEPT] * 3
    assert node.budget.spent_s == spent_s
    assert node.intake.strangers.refused == 0


async def test_what_a_stranger_has_in_hand_is_taken_from_others_meanwhile(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could take others' transactions, owe, and keep them out."""
    node.sources = {STRANGER: "stranger"}
    has_it, goes_on = trio.Event(), trio.Event()
    take_in = node.intake._take_in

    async def take_in_slowly(lane: Lane, *rest: Any) -> bool:
        if lane.urgency is Urgency.STRANGERS:
            has_it.set()
            await goes_on.wait()
        return await take_in(lane, *rest)

    monkeypatch.setattr(node.intake, "_take_in", take_in_slowly)
    verdicts: list[GossipVerdict] = []

    async def hear_slowly() -> None:
        verdicts.append(await node.hear(pay(0), *junk(0), forwarder=STRANGER))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_slowly)
        await has_it.wait()
        assert await node.hear(pay(0)) is GossipVerdict.ACCEPT
        goes_on.set()
    assert verdicts == [GossipVerdict.IGNORE]
    assert node.executor.pending.turned_away(pay(0).id) is None
    assert node.lead() == 1


async def test_consensus_goes_ahead_of_all_that_was_heard(node: Node) -> None:
    node.sources = {STRANGER: "stranger"}
    seen: list[int] = []
    async with trio.open_nursery() as nursery, node.worker.turn():
        for nonce in range(20):
            nursery.start_soon(partial(node.hear, pay(nonce), forwarder=PEER))
        await until(lambda: node.worker.waiting == 20)
        nursery.start_soon(node.worker.run, lambda: seen.append(len(node.executor.pending)))
        await until(lambda: node.worker.waiting == 21)
    assert seen == [0]
    assert node.lead() == 20


async def test_what_was_taken_of_a_batch_before_its_forged_end_goes_on(
    node: Node, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    node.sources = {STRANGER: "stranger"}
    good = [pay(nonce) for nonce in range(STRANGER_PART)]
    forged = replace(pay(STRANGER_PART), signature=bytes(64))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.intake.run)
        assert await node.hear(*good, forged, forwarder=STRANGER) is GossipVerdict.REJECT
        await trio.sleep(PAUSE_S)
        nursery.cancel_scope.cancel()
    assert node.published() == good
    assert node.lead() == STRANGER_PART


async def test_a_client_is_told_of_what_ends_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other fault it survives; a disk that cannot be read is an order to the process."""

    def fail(*_transactions: Any, **_how: Any) -> Any:
        raise error

    monkeypatch.setattr(node.executor.pending, "admit", fail)
    error: Exception = DiskFailed("GTX-DSK-002: the disk cannot be read")
    future: Future[list[Rejected | None]] = Future()
    with pytest.raises(DiskFailed):
        await node.intake.submit_to([pay(0).encoded], future)
    assert future.exception() is error
    error, future = ValueError("a fault"), Future()
    await node.intake.submit_to([pay(0).encoded], future)
    assert future.exception() is error
