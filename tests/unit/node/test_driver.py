"""A chain's driver over a real executor: no work for a view that has ended, nothing signed that
must not be, nothing verified for nothing.

The wall clock stands, so no view times out by itself; the worker thread is held by the test, so
that a request waits in front of it while its view ends.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gridtokenx.chain.block import Block, decode_block, has_its_body
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.cluster.devnet import (
    AUTHORITIES,
    DEV_ACCOUNT,
    dev_key,
    local_genesis,
    validator_name,
)
from gridtokenx.consensus.events import CheckBlock, Observe, SafetyRecord, Verdict
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    Vote,
    decode_message,
    proposal_bytes,
    timeout_bytes,
    vote_bytes,
)
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.network.gossipsub.events import GossipVerdict, Origin
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.driver import Driver
from gridtokenx.node.executor import Executor
from gridtokenx.node.key_guard import HOLD_SECONDS, OBSERVE_SECONDS
from gridtokenx.node.protocol import Topics
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.worker import Urgency
from gridtokenx.storage.database import Database
from tests.support.patience import until

GENESIS = local_genesis(with_national=False)
MET = GENESIS.chain("MET")
NOW_MS = GENESIS.genesis_time_ms + 60_000
KEYS = {
    key.public_key: key
    for key in (dev_key(validator_name(index)[1]) for index in range(len(AUTHORITIES)))
}
MEMBERS = [KEYS[member.public_key] for member in MET.genesis_validators.members]
PEER = PeerId(b"peer")
ORIGIN = Origin(PEER, PEER)
TOPICS = Topics(GENESIS.network_id, "MET")


class Topic:
    """What a driver publishes, and its validators by topic."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.validators: dict[str, Callable[[Origin, bytes], Any]] = {}

    def subscribe(self, topic: str, validator: Callable[[Origin, bytes], Any]) -> None:
        self.validators[topic] = validator

    def unsubscribe(self, topic: str) -> None:
        del self.validators[topic]

    def publish(self, topic: str, data: bytes) -> None:
        self.published.append((topic, data))

    def votes(self) -> list[Vote]:
        return [one for one in self.said() if isinstance(one, Vote)]

    def said(self) -> list[Any]:
        return [decode_message(data) for topic, data in self.published if topic == TOPICS.votes]


class Neighbours:
    """What a driver asks of syncing; nobody is ahead unless told otherwise."""

    def __init__(self, *peers: PeerId) -> None:
        self.peers = list(peers)
        self.is_level = True

    def whom_to_ask(self) -> list[PeerId]:
        return self.peers

    def note_signed(self, height: int, peer: PeerId, shown: int) -> None:
        """Nobody is asked for what is missing here."""

    def note_committed(self, height: int) -> None:
        """Nor is anything else waited for."""


class Node:
    """A running driver of one member; nobody answers it."""

    def __init__(self, path: Path, index: int, ahead_ms: int = 0) -> None:
        self.index = index
        self.database = Database(path)
        now_ms = NOW_MS + ahead_ms
        self.executor = Executor(MET, self.database.chain("MET"), lambda: now_ms)
        self.gossip = Topic()
        self.neighbours = Neighbours()
        wiring = Wiring(
            gossip=self.gossip,  # type: ignore[arg-type]
            ask=self._ask,
            now_ms=lambda: now_ms,
            timer_ms=lambda: NOW_MS,
        )
        self.driver = Driver(
            self.executor,
            MEMBERS[index],
            self.neighbours,  # type: ignore[arg-type]
            wiring,
            resume_above=0,
        )

    async def _ask(self, _peer: PeerId, _kind: str, _payload: bytes) -> bytes:
        raise AssertionError("it has no peers")

    def hear(self, topic: str, data: bytes) -> Any:
        return self.gossip.validators[topic](ORIGIN, data)

    async def end_view(self) -> None:
        """The other members leave view 0."""
        for index, key in enumerate(MEMBERS):
            if index == self.index:
                continue
            signature = key.sign(timeout_bytes(MET.chain_id, 1, 0, 0, ZERO_HASH))
            timeout = Timeout(1, 0, 0, ZERO_HASH, index, signature, None)
            assert self.hear(TOPICS.votes, encode(timeout)) is GossipVerdict.ACCEPT
        await until(lambda: self.driver.view == 1)

    async def worked(self) -> None:
        """Until whatever waited for the worker has had it."""
        async with self.driver._worker.turn():
            pass


@asynccontextmanager
async def running(path: Path, index: int, ahead_ms: int = 0) -> AsyncIterator[Node]:
    """Its worker is held until the test releases it; its clock may be ahead of the others'."""
    node = Node(path, index, ahead_ms)
    try:
        await node.driver._worker._acquire(Urgency.CONSENSUS, "")
        async with trio.open_nursery() as nursery:
            await nursery.start(node.driver.run)
            await until(lambda: node.driver.engine.state is not None)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        node.database.close()


def waits(node: Node) -> bool:
    return node.driver._worker.waiting > 0


async def propose(path: Path, ahead_ms: int = 0) -> tuple[int, bytes, list[tuple[str, bytes]]]:
    """The leader of view 0, its block's hash, and what it published: proposal and compact block."""
    async with running(path / "asked", 0) as asked:
        state = asked.driver.engine.state
        assert state is not None
        leader = state.leader(1, 0)
        asked.driver._worker._release()
    async with running(path / "leader", leader, ahead_ms=ahead_ms) as node:
        node.driver._worker._release()
        await until(lambda: len(node.gossip.published) >= 2)
        proposal = next(one for one in node.gossip.said() if isinstance(one, Proposal))
        return leader, proposal.block_hash, node.gossip.published


async def test_no_block_is_built_for_a_view_that_has_ended(tmp_path: Path) -> None:
    leader, _, _ = await propose(tmp_path)
    async with running(tmp_path / "late", leader) as node:
        await until(lambda: waits(node))
        await node.end_view()
        node.driver._worker._release()
        await node.worked()
        assert not any(isinstance(one, Proposal) and one.view == 0 for one in node.gossip.said())
        assert len(node.executor._undecided) == 0


@pytest.mark.parametrize("ended", [False, True])
async def test_a_fresh_block_is_executed_only_while_its_view_lasts(
    tmp_path: Path, ended: bool
) -> None:
    leader, block_hash, published = await propose(tmp_path)

    def voted() -> bool:
        votes = [one for one in node.gossip.said() if isinstance(one, Vote)]
        return any((one.phase, one.block_hash) == (Phase.PREPARE, block_hash) for one in votes)

    async with running(tmp_path / "voter", (leader + 2) % len(MEMBERS)) as node:
        for topic, data in sorted(published, reverse=True):  # the proposal, then its body
            verdict = node.hear(topic, data)
            assert (verdict if topic == TOPICS.votes else await verdict) is GossipVerdict.ACCEPT
        await until(lambda: waits(node))
        if ended:
            await node.end_view()
        node.driver._worker._release()
        if not ended:
            await until(voted)
            return
        await node.worked()
        assert node.executor.candidate(block_hash) is None
        # Certified meanwhile, the block is asked for again, and then not as a fresh one.
        await node.driver._perform(CheckBlock(1, 0, block_hash, leader, fresh=False))
        await until(lambda: node.executor.candidate(block_hash))
        assert not voted()


async def test_a_key_that_starts_again_is_silent_until_peers_bring_no_more_blocks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A restored old backup: others are ahead, and its blocks come late and slowly."""
    node = Node(tmp_path, 0)
    node.neighbours.is_level = False
    guard = node.driver._guard
    over = trio.Event()

    async def hold() -> None:
        await guard._hold()
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.sleep(10 * HOLD_SECONDS)  # Alone it could decide nothing.
        node.neighbours.peers.append(PEER)
        for height in range(1, 4):
            await trio.sleep(HOLD_SECONDS - 1)
            tip = node.executor.tip
            node.executor.tip = replace(tip, parent=replace(tip.parent, height=height))
        await trio.sleep(HOLD_SECONDS - 1)
        assert not over.is_set()
        with trio.fail_after(2):  # Who only says that it is ahead costs no more.
            await over.wait()
    assert node.driver._inbox.receive_nowait() == Observe(-1)
    node.database.close()


async def test_a_block_of_another_height_than_asked_for_is_its_senders_fault(
    tmp_path: Path,
) -> None:
    """Else a decided block of the past, sent for the next one, would be waited for in vain."""
    leader, block_hash, _ = await propose(tmp_path)
    certificate = QuorumCertificate(Phase.COMMIT, 1, 0, block_hash, ())
    async with running(tmp_path / "victim", leader) as node:
        node.driver._worker._release()
        execution = await until(lambda: node.executor.candidate(block_hash))
        with pytest.raises(Rejected, match="a block of height 1 was sent for height 2"):
            await node.driver.apply_decided(2, execution.block.encoded, certificate)


async def test_timers_run_on_while_the_wall_clock_is_set(tmp_path: Path) -> None:
    """An hour forward, then back: the height opens when it does, and its view ends when it does."""
    database = Database(tmp_path)
    wall, timer = [GENESIS.genesis_time_ms - 60_000], [7_000]
    executor = Executor(MET, database.chain("MET"), lambda: wall[0])
    wiring = Wiring(
        gossip=Topic(),  # type: ignore[arg-type]
        ask=_nobody,
        now_ms=lambda: wall[0],
        timer_ms=lambda: timer[0],
    )
    alone = Neighbours()
    driver = Driver(executor, MEMBERS[0], alone, wiring, resume_above=0)  # type: ignore[arg-type]
    opens_ms = timer[0] + MET.opens_ms(executor.tip.parent.time_ms) - wall[0]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            state = await until(lambda: driver.engine.state)
            assert state.open_ms == opens_ms
            driver.mind_clock()
            wall[0] += 3_600_000
            driver.mind_clock()
            await until(lambda: state.open_ms == timer[0])  # It is open, by this clock.
            timer[0] += 50
            wall[0] += 50 - 7_200_000
            driver.mind_clock()
            await until(lambda: state.open_ms == opens_ms + 3_600_000)
            wall[0] += 3_600_000
            driver.mind_clock()
            await until(lambda: state.open_ms == opens_ms)
            assert state.deadline_ms == opens_ms + driver.engine.timing.timeout_ms(0)
            nursery.cancel_scope.cancel()
    finally:
        database.close()


# -- What is signed --------------------------------------------------------------------------------


async def test_nothing_leaves_before_the_record_is_on_disk(tmp_path: Path) -> None:
    leader, _, _ = await propose(tmp_path)
    async with running(tmp_path / "slow", leader) as node:
        disk_is_ready, persist = threading.Event(), node.driver._guard.save
        asked = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wait_for_the_disk(record: SafetyRecord) -> None:
            token.run_sync_soon(asked.set)
            disk_is_ready.wait(60)
            persist(record)

        node.driver._guard.save = wait_for_the_disk  # type: ignore[method-assign]
        node.driver._worker._release()
        await asked.wait()
        for _ in range(100):  # What is done in vain meanwhile has had its time.
            await trio.lowlevel.checkpoint()
        assert node.gossip.published == []
        assert node.executor.store.load_safety() is None
        disk_is_ready.set()
        await until(lambda: len(node.gossip.published) >= 2)
        kept = decode(SafetyRecord, node.executor.store.load_safety() or b"")
        assert node.gossip.said()[0] in kept.own


@pytest.mark.parametrize("fault", ["clock", "proposer", "view"])
async def test_the_rules_of_the_vote_hold_a_vote_back(tmp_path: Path, fault: str) -> None:
    """All of it is valid as a block; a fresh one must also be of this clock, leader and view."""
    leader, block_hash, published = await propose(tmp_path, 10_000 if fault == "clock" else 0)
    if fault != "clock":
        block_hash, published = _disguised(tmp_path, leader, fault)
    async with running(tmp_path / "voter", (leader + 2) % len(MEMBERS)) as node:
        node.driver._worker._release()
        for topic, data in sorted(published, reverse=True):
            verdict = node.hear(topic, data)
            assert (verdict if topic == TOPICS.votes else await verdict) is GossipVerdict.ACCEPT
        state = node.driver.engine.state
        assert state is not None
        await until(lambda: state.verdict(block_hash, fresh_view=0) is not None or state.timed_out)
        await node.worked()
        assert node.gossip.votes() == []
        if fault == "clock":
            assert state.verdict(block_hash, fresh_view=0) is Verdict.NOT_YET
        else:  # An invalid proposal ends the view at once.
            await until(lambda: any(isinstance(one, Timeout) for one in node.gossip.said()))


def _disguised(path: Path, leader: int, fault: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A proposal of view 0 by its leader, for a block that names another proposer or view."""
    database = Database(path / "maker")
    executor = Executor(MET, database.chain("MET"), lambda: NOW_MS)
    proposer = (leader + 1) % len(MEMBERS) if fault == "proposer" else leader
    block = executor.build(1 if fault == "view" else 0, proposer)
    database.close()
    signed = proposal_bytes(MET.chain_id, 1, 0, block.header.hash, ZERO_HASH)
    proposal = Proposal(1, 0, block.header.hash, None, None, MEMBERS[leader].sign(signed))
    return block.header.hash, [(TOPICS.votes, encode(proposal)), (TOPICS.blocks, encode(block))]


# -- An old safety record is a lost one ------------------------------------------------------------


OLD_RECORD = SafetyRecord(1, 0, None, None, False, None, None, (), None, ())


def decided(height: int, block_hash: bytes) -> QuorumCertificate:
    signed = vote_bytes(Phase.COMMIT, MET.chain_id, height, 0, block_hash)
    signatures = tuple(IndexedSignature(i, key.sign(signed)) for i, key in enumerate(MEMBERS))
    return QuorumCertificate(Phase.COMMIT, height, 0, block_hash, signatures)


def history(path: Path, count: int) -> list[tuple[bytes, QuorumCertificate]]:
    """Blocks that everybody has signed, this key too."""
    database = Database(path)
    executor = Executor(MET, database.chain("MET"), lambda: NOW_MS)
    blocks = []
    for height in range(1, count + 1):
        block_hash = executor.build(0, 0).header.hash
        execution = executor.candidate(block_hash)
        assert execution is not None
        blocks.append((execution.block.encoded, decided(height, block_hash)))
        executor.commit(*(block_hash, blocks[-1][1]))
    database.close()
    return blocks


class Backup:
    """A member's folder, opened again and again: with an old record, or with none."""

    def __init__(
        self,
        path: Path,
        record: SafetyRecord | None,
        sync: Callable[[Executor], Syncing] | None = None,
    ) -> None:
        self.sync = sync
        self.database = Database(path)
        self.store = self.database.chain("MET")
        if record is not None:
            self.store.save_safety(encode(record), [])
        self.start()

    def start(self) -> None:
        self.gossip = Topic()
        self.executor = Executor(MET, self.store, lambda: NOW_MS)
        wiring = Wiring(
            gossip=self.gossip,  # type: ignore[arg-type]
            ask=_nobody,
            now_ms=lambda: NOW_MS,
            timer_ms=lambda: NOW_MS,
        )
        syncing = Neighbours(PEER) if self.sync is None else self.sync(self.executor)
        self.driver = Driver(self.executor, MEMBERS[0], syncing, wiring)  # type: ignore[arg-type]

    @property
    def is_silent(self) -> bool:
        """Whether it signs nothing, at any height, before it has heard enough members."""
        return self.driver.engine._heard is not None

    def hear(self, *indexes: int) -> None:
        """Members say something at the height that is open."""
        state = self.driver.engine.state
        assert state is not None
        for index in indexes:
            signed = timeout_bytes(MET.chain_id, state.height, 9, 0, ZERO_HASH)
            timeout = Timeout(
                state.height, 9, 0, ZERO_HASH, index, MEMBERS[index].sign(signed), None
            )
            self.gossip.validators[TOPICS.votes](ORIGIN, encode(timeout))


async def _nobody(_peer: PeerId, _kind: str, _payload: bytes) -> bytes:
    raise AssertionError("nobody is asked")


@pytest.mark.parametrize("record", [None, OLD_RECORD], ids=["no record", "old record"])
async def test_an_old_record_is_a_lost_one(
    tmp_path: Path, autojump_clock: MockClock, record: SafetyRecord | None
) -> None:
    """One peer feeds decided blocks and nobody else is reached: the key stays silent, however long
    that lasts, until members with a quorum of the weight are heard."""
    autojump_clock.autojump_threshold = 0.05
    blocks = history(tmp_path / "net", 4)
    node = Backup(tmp_path / "me", record)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.driver.run)
        for height, (block, certificate) in enumerate(blocks, 1):
            await node.driver.apply_decided(height, block, certificate)
        await trio.sleep(10 * OBSERVE_SECONDS)
        state = node.driver.engine.state
        assert state is not None
        assert (state.height, node.is_silent) == (5, True)
        assert node.driver.engine._observe_until == 5
        node.hear(1, 2)
        await trio.sleep(1)
        assert node.is_silent
        node.hear(3)
        await trio.sleep(1)
        assert not node.is_silent
        assert node.driver.engine._observe_until == 6  # What the others speak of, plus one.
        assert node.gossip.said() == []
        nursery.cancel_scope.cancel()
    node.database.close()


@pytest.mark.parametrize("crashed", [False, True], ids=["it found out", "it died before"])
async def test_an_old_record_is_a_lost_one_after_a_restart_too(
    tmp_path: Path, autojump_clock: MockClock, crashed: bool
) -> None:
    """The blocks that gave the old record away are on disk then, and nobody sends them again."""
    autojump_clock.autojump_threshold = 0.05
    blocks = history(tmp_path / "net", 3)
    node = Backup(tmp_path / "me", OLD_RECORD)
    if crashed:  # Right after the write of the block.
        for raw, certificate in blocks:
            block = decode_block(raw)
            node.executor.apply_decided(block, [], certificate)
    else:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.driver.run)
            for height, (raw, certificate) in enumerate(blocks, 1):
                await node.driver.apply_decided(height, raw, certificate)
            nursery.cancel_scope.cancel()
    assert (node.store.load_safety() is None) is not crashed
    node.start()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.driver.run)
        await trio.sleep(10 * OBSERVE_SECONDS)
        assert node.is_silent
        assert node.store.load_safety() is None
        nursery.cancel_scope.cancel()
    node.database.close()


# -- Blocks of peers -------------------------------------------------------------------------------


async def test_no_signature_is_verified_of_a_block_that_nobody_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up block of many transactions costs its sender more than us."""
    dev = dev_key(DEV_ACCOUNT)
    payments = [
        sign_transaction(dev, MET.chain_id, nonce, Transfer(bytes(31) + b"1", Asset.GTX, 10_000))
        for nonce in range(20)
    ]
    source = Node(tmp_path / "source", 0)
    source.executor.pending.admit(payments, heard=False)
    block_hash = source.executor.build(0, 0).header.hash
    execution = source.executor.candidate(block_hash)
    assert execution is not None
    block, good = execution.block, decided(1, block_hash)
    source.database.close()
    other = replace(block, transactions=block.transactions[1:])
    forged = replace(good.signatures[2], signature=bytes(64))
    bad: list[tuple[Block, QuorumCertificate]] = [
        (block, replace(good, signatures=good.signatures[:2])),
        (block, replace(good, signatures=(*good.signatures[:2], forged))),
        (block, replace(good, phase=Phase.PREPARE)),
        (block, decided(1, ZERO_HASH)),
        (other, good),
        (replace(block, header=replace(block.header, parent_hash=ZERO_HASH)), good),
    ]
    async with running(tmp_path / "victim", 1) as node:
        node.driver._worker._release()
        for lie, certificate in bad:
            with pytest.raises(Rejected, match=r"INVALID_(BLOCK|CERTIFICATE)"):
                await node.driver.apply_decided(1, lie.encoded, certificate)
        seconds = node.executor.stages.seconds()
        assert (seconds["verify"], seconds["decode"]) == (0, 0)
        hashed: list[int] = []
        monkeypatch.setattr(
            "gridtokenx.node.executor.has_its_body",
            lambda header, *parts: (
                hashed.append(header.height) or has_its_body(header, *parts)  # type: ignore[func-returns-value]
            ),
        )
        await node.driver.apply_decided(1, block.encoded, good)
        assert node.executor.tip.hash == block_hash
        assert hashed == [1]  # Once, before the signatures and not after them again.
        assert node.executor.stages.seconds()["verify"] > 0
