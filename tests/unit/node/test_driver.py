"""A chain's driver over a real executor: no work for a view that has ended.

The wall clock stands, so no view times out by itself; the worker thread is held by the test, so
that a request waits in front of it while its view ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from patience import until
from trio.testing import MockClock

from gridtokenx.cluster.network import AUTHORITIES, dev_key, local_genesis, validator_name
from gridtokenx.consensus.events import CheckBlock, Observe
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    Vote,
    decode_message,
    timeout_bytes,
)
from gridtokenx.node.database import Database
from gridtokenx.node.driver import HOLD_SECONDS, Driver, Wiring
from gridtokenx.node.executor import Executor
from gridtokenx.node.gossip_events import Verdict
from gridtokenx.node.network import PeerId
from gridtokenx.node.protocol import Topics
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import Rejected

GENESIS = local_genesis(with_national=False)
MET = GENESIS.chain("MET")
NOW_MS = GENESIS.genesis_time_ms + 60_000
KEYS = {
    key.public_key: key
    for key in (dev_key(validator_name(index)[1]) for index in range(len(AUTHORITIES)))
}
MEMBERS = [KEYS[member.public_key] for member in MET.genesis_validators.members]
PEER = PeerId(b"peer")
TOPICS = Topics(GENESIS.network_id, "MET")


class Topic:
    """What a driver publishes, and its validators by topic."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.validators: dict[str, Callable[[PeerId, bytes], Any]] = {}

    def subscribe(self, topic: str, validator: Callable[[PeerId, bytes], Any]) -> None:
        self.validators[topic] = validator

    def unsubscribe(self, topic: str) -> None:
        del self.validators[topic]

    def publish(self, topic: str, data: bytes) -> None:
        self.published.append((topic, data))

    def said(self) -> list[Any]:
        return [decode_message(data) for topic, data in self.published if topic == TOPICS.votes]


class Node:
    """A running driver of one member; nobody answers it."""

    def __init__(self, path: Path, index: int) -> None:
        self.index = index
        self.database = Database(path)
        self.executor = Executor(MET, self.database.chain("MET"), lambda: NOW_MS)
        self.gossip = Topic()
        wiring = Wiring(
            gossip=self.gossip,  # type: ignore[arg-type]
            ask=self._ask,
            peers=tuple,
            request_sync=lambda _height, _peer: None,
            on_committed=lambda _committed: None,
            is_level=lambda: True,
        )
        self.driver = Driver(
            self.executor, MEMBERS[index], wiring, now_ms=lambda: NOW_MS, resume_above=0
        )

    async def _ask(self, _peer: PeerId, _kind: str, _payload: bytes) -> bytes:
        raise AssertionError("it has no peers")

    def hear(self, topic: str, data: bytes) -> Any:
        return self.gossip.validators[topic](PEER, data)

    async def end_view(self) -> None:
        """The other members leave view 0."""
        for index, key in enumerate(MEMBERS):
            if index == self.index:
                continue
            signature = key.sign(timeout_bytes(MET.chain_id, 1, 0, 0, ZERO_HASH))
            timeout = Timeout(1, 0, 0, ZERO_HASH, index, signature, None)
            assert self.hear(TOPICS.votes, encode(timeout)) is Verdict.ACCEPT
        await until(lambda: self.driver.view == 1)

    async def worked(self) -> None:
        """Until whatever waited for the worker has had it."""
        async with self.driver._worker:
            pass


@asynccontextmanager
async def running(path: Path, index: int) -> AsyncIterator[Node]:
    """Its worker is held until the test releases it."""
    node = Node(path, index)
    try:
        await node.driver._worker.acquire()
        async with trio.open_nursery() as nursery:
            await nursery.start(node.driver.run)
            await until(lambda: node.driver.engine.state is not None)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        node.database.close()


def waits(node: Node) -> bool:
    return node.driver._worker.statistics().tasks_waiting > 0


async def propose(path: Path) -> tuple[int, bytes, list[tuple[str, bytes]]]:
    """The leader of view 0, its block's hash, and what it published: proposal and compact block."""
    async with running(path / "asked", 0) as asked:
        state = asked.driver.engine.state
        assert state is not None
        leader = state.leader(1, 0)
        asked.driver._worker.release()
    async with running(path / "leader", leader) as node:
        node.driver._worker.release()
        await until(lambda: len(node.gossip.published) >= 2)
        proposal = next(one for one in node.gossip.said() if isinstance(one, Proposal))
        return leader, proposal.block_hash, node.gossip.published


async def test_no_block_is_built_for_a_view_that_has_ended(tmp_path: Path) -> None:
    leader, _, _ = await propose(tmp_path)
    async with running(tmp_path / "late", leader) as node:
        await until(lambda: waits(node))
        await node.end_view()
        node.driver._worker.release()
        await node.worked()
        assert not any(isinstance(one, Proposal) and one.view == 0 for one in node.gossip.said())
        assert not node.executor._candidates


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
            assert (verdict if topic == TOPICS.votes else await verdict) is Verdict.ACCEPT
        await until(lambda: waits(node))
        if ended:
            await node.end_view()
        node.driver._worker.release()
        if not ended:
            await until(voted)
            return
        await node.worked()
        assert node.executor.candidate(block_hash) is None
        # Certified meanwhile, the block is asked for again, and then not as a fresh one.
        node.driver._start_check(CheckBlock(1, 0, block_hash, leader, fresh=False))
        await until(lambda: node.executor.candidate(block_hash))
        assert not voted()


async def test_a_key_that_starts_again_is_silent_until_peers_bring_no_more_blocks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A restored old backup: others are ahead, and its blocks come late and slowly."""
    node = Node(tmp_path, 0)
    peers: list[PeerId] = []
    others_are_ahead = partial(replace, is_level=lambda: False, peers=lambda: tuple(peers))
    node.driver._wiring = others_are_ahead(node.driver._wiring)
    over = trio.Event()

    async def hold() -> None:
        await node.driver._hold()
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await trio.sleep(10 * HOLD_SECONDS)  # Alone it could decide nothing.
        peers.append(PEER)
        for height in range(1, 4):
            await trio.sleep(HOLD_SECONDS - 1)
            node.executor.parent = replace(node.executor.parent, height=height)
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
        node.driver._worker.release()
        execution = await until(lambda: node.executor.candidate(block_hash))
        with pytest.raises(Rejected, match="a block of height 1 was sent for height 2"):
            await node.driver.apply_decided(2, execution.block.encoded, certificate)
