"""Which history a node takes from peers: it holds the trusted block, or is younger than stake."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gridtokenx.chain.block import decode_block
from gridtokenx.chain.trust import Trust
from gridtokenx.cluster.devnet import local_genesis
from gridtokenx.consensus.events import Decide
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.home.config import load_config
from gridtokenx.home.settings import SyncSettings
from gridtokenx.node.driver import Driver
from gridtokenx.node.executor import Executor
from gridtokenx.node.node import Keys, Node
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.trusted_history import trust_of
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.stopping import StopNode, Untrusted
from gridtokenx.staking import pools
from gridtokenx.staking.model import STAKING_PARAMETERS
from gridtokenx.storage.database import Database
from tests.support.patience import until
from tests.unit.node.test_driver import (
    MEMBERS,
    MET,
    NOW_MS,
    PEER,
    Neighbours,
    Topic,
    _nobody,
    history,
)
from tests.unit.node.test_syncing import HONEST, LIAR, Peers

PERIOD_MS = 120_000  # The genesis is a minute old.
LATER_MS = NOW_MS + 10 * PERIOD_MS
Blocks = list[tuple[bytes, QuorumCertificate]]


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return history(tmp_path / "net", 5)


def hash_of(blocks: Blocks, height: int) -> bytes:
    return decode_block(blocks[height - 1][0]).header.hash


def make(
    database: Database,
    trust: Trust,
    now_ms: int = NOW_MS,
    *,
    signs: bool = False,
    sync: Callable[[Executor], Syncing] | None = None,
) -> Driver:
    executor = Executor(MET, database.chain("MET"), lambda: now_ms)
    wiring = Wiring(
        gossip=Topic(),  # type: ignore[arg-type]
        ask=_nobody,
        now_ms=lambda: now_ms,
        timer_ms=lambda: now_ms,
    )
    return Driver(
        executor,
        MEMBERS[0] if signs else None,
        Neighbours(PEER) if sync is None else sync(executor),  # type: ignore[arg-type]
        wiring,
        trust=trust,
        resume_above=0 if signs else None,
    )


@asynccontextmanager
async def running(
    path: Path,
    trust: Trust,
    now_ms: int = NOW_MS,
    sync: Callable[[Executor], Syncing] | None = None,
) -> AsyncIterator[Driver]:
    database = Database(path)
    driver = make(database, trust, now_ms, sync=sync)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            yield driver
            nursery.cancel_scope.cancel()
    finally:
        database.close()


async def take(driver: Driver, blocks: Blocks, heights: range) -> None:
    for height in heights:
        await driver.apply_decided(height, *blocks[height - 1])


async def test_a_young_network_needs_no_trusted_block(tmp_path: Path, blocks: Blocks) -> None:
    async with running(tmp_path / "me", Trust("MET", {}, PERIOD_MS)) as driver:
        await take(driver, blocks, range(1, 6))
        assert driver.executor.tip.height == 5


@pytest.mark.parametrize("height", [0, 5])
async def test_a_folder_older_than_the_unbonding_time_does_not_start(
    tmp_path: Path, blocks: Blocks, height: int
) -> None:
    """A new one of an old network, and one that was left for long."""
    path = tmp_path / "me"
    if height:
        async with running(path, Trust()) as driver:
            await take(driver, blocks, range(1, height + 1))
    database = Database(path)
    sentence = rf"GTX-SYNC-002: the newest block of MET .* \({height}\) .* old; .* chain head MET"
    with pytest.raises(Untrusted, match=sentence):
        make(database, Trust("MET", {}, PERIOD_MS), LATER_MS)
    if height:  # What is here already vouches for nothing that comes after it.
        own = Trust("MET", {height: hash_of(blocks, height)}, PERIOD_MS)
        with pytest.raises(Untrusted, match="GTX-SYNC-002"):
            make(database, own, LATER_MS)
    make(database, Trust("MET", {}, None), LATER_MS)
    database.close()


async def test_with_a_trusted_block_it_starts_and_goes_on_from_it_while_that_is_young(
    tmp_path: Path, blocks: Blocks
) -> None:
    trust = Trust("MET", {4: hash_of(blocks, 4)}, PERIOD_MS)
    last_ms = decode_block(blocks[3][0]).header.time_ms + PERIOD_MS
    async with running(tmp_path / "me", trust, last_ms) as driver:
        await take(driver, blocks, range(1, 6))
        assert driver.executor.tip.height == 5
    async with running(tmp_path / "late", trust, last_ms + 1) as driver:
        await take(driver, blocks, range(1, 5))
        with pytest.raises(Untrusted, match=r"GTX-SYNC-002: .* \(4\)"):
            await take(driver, blocks, range(5, 6))


async def test_a_history_without_the_trusted_block_is_its_senders_fault(
    tmp_path: Path, blocks: Blocks
) -> None:
    trust = Trust("MET", {3: sha256(b"the right one")})
    async with running(tmp_path / "me", trust) as driver:
        await take(driver, blocks, range(1, 3))
        with pytest.raises(Rejected, match=r"block 3 of MET is .*, the trusted one is"):
            await take(driver, blocks, range(3, 4))
        assert driver.executor.tip.height == 2


async def test_a_peer_of_another_history_is_reported(tmp_path: Path) -> None:
    peers = Peers(tmp_path / "net")
    trust = Trust("MET", {3: hash_of(peers.blocks, 3)})
    async with running(tmp_path / "me", trust, sync=peers.syncing) as driver:
        syncing = driver._syncing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(syncing.run, driver.apply_decided)
            syncing.note_height(LIAR, 5)
            await until(lambda: peers.offences)
            syncing.note_height(HONEST, 5)
            await until(lambda: driver.executor.tip.height == 5)
            assert peers.offences == [(LIAR, "invalid_block")]
            nursery.cancel_scope.cancel()


async def test_a_node_that_followed_another_history_stops(tmp_path: Path, blocks: Blocks) -> None:
    """The trusted block comes and does not follow ours: we were misled, and not by its sender."""
    block = decode_block(blocks[2][0])
    elsewhere = replace(block, header=replace(block.header, parent_hash=sha256(b"elsewhere")))
    trust = Trust("MET", {3: elsewhere.header.hash})
    async with running(tmp_path / "me", trust) as driver:
        await take(driver, blocks, range(1, 3))
        with pytest.raises(Untrusted, match=r"GTX-SYNC-003: the history of MET .* up to block 2"):
            await driver.apply_decided(3, elsewhere.encoded, blocks[2][1])


async def test_a_folder_that_holds_another_block_there_does_not_start(
    tmp_path: Path, blocks: Blocks
) -> None:
    async with running(tmp_path / "me", Trust()) as driver:
        await take(driver, blocks, range(1, 6))
    database = Database(tmp_path / "me")
    make(database, Trust("MET", {3: hash_of(blocks, 3)}))
    with pytest.raises(Untrusted, match=r"GTX-SYNC-003: .* start with an empty data folder"):
        make(database, Trust("MET", {3: sha256(b"another")}))
    database.close()


async def test_a_decision_against_the_trusted_block_ends_the_node(
    tmp_path: Path, blocks: Blocks
) -> None:
    """Consensus, too, may be played by those that once were validators."""
    block, certificate = decode_block(blocks[0][0]), blocks[0][1]
    async with running(tmp_path / "me", Trust("MET", {1: sha256(b"another")})) as driver:
        driver.executor.check(block, [])
        with pytest.raises(StopNode, match="GTX-SYNC-003"):
            await driver._perform(Decide(1, block.header.hash, certificate))
        assert driver.executor.tip.height == 0


def test_nothing_is_signed_below_a_trusted_block(tmp_path: Path) -> None:
    database = Database(tmp_path / "me")
    assert make(database, Trust(), signs=True).engine._observe_until < 1
    driver = make(database, Trust("MET", {90: sha256(b"block")}), signs=True)
    assert driver.engine._observe_until == 90
    assert driver._guard.silent_until == 90
    database.close()


def test_what_a_node_trusts_is_its_configuration_and_the_unbonding_time_in_force(
    tmp_path: Path,
) -> None:
    genesis = local_genesis()
    texts = (f"TH:7:{'ab' * 32}", f"MET:9:{'cd' * 32}")
    database = Database(tmp_path)
    store = database.chain("TH")
    Executor(genesis.chain("TH"), store, lambda: NOW_MS)
    sync = SyncSettings(trusted_blocks=texts)
    assert trust_of(sync, genesis, "TH", database) == Trust("TH", {7: b"\xab" * 32}, 600_000)
    region = {0: genesis.chain("NOR").genesis_id}  # What the national chain has accepted.
    assert trust_of(sync, genesis, "NOR", database) == Trust("NOR", region)
    voted = replace(pools.parameters(store), unbonding_blocks=900)
    database.write([(b"TH/s" + STAKING_PARAMETERS.prefix, encode(voted))])
    assert trust_of(sync, genesis, "TH", database).period_ms == 900_000
    assert trust_of(sync, genesis, "MET", database).blocks[9] == b"\xcd" * 32
    lax = replace(sync, trust_old_blocks=True)
    assert trust_of(lax, genesis, "TH", database) == Trust("TH", {7: b"\xab" * 32})
    alone = local_genesis(with_national=False)
    assert trust_of(SyncSettings(), alone, "MET", database) == Trust("MET")
    database.close()


async def test_a_node_does_not_start_from_an_old_genesis_and_names_the_way_out(
    tmp_path: Path,
) -> None:
    flags = {"network.listen": ["/ip4/127.0.0.1/tcp/0"], "api.port": 0}
    config = load_config(tmp_path, flags, environ={})
    node = Node(config, local_genesis(), Keys(network_seed=bytes(32)))
    sentence = r"GTX-SYNC-002: .* TH .*sync\.trusted_blocks"
    with pytest.RaisesGroup(pytest.RaisesExc(Untrusted, match=sentence), flatten_subgroups=True):
        await node.run()


async def test_a_node_of_a_young_network_starts(tmp_path: Path) -> None:
    flags = {"network.listen": ["/ip4/127.0.0.1/tcp/0"], "api.port": 0}
    config = load_config(tmp_path, flags, environ={})
    genesis = local_genesis(genesis_time_ms=time.time_ns() // 1_000_000 - 1_000)
    node = Node(config, genesis, Keys(network_seed=bytes(32)))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            nursery.cancel_scope.cancel()
