"""A region's new incarnation on a real database: its history, who signs it, peers that lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.cluster.devnet import dev_key, local_genesis, validator_name
from gridtokenx.consensus.evidence import double_vote
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    Vote,
    vote_bytes,
)
from gridtokenx.interchain.incarnations import incarnation_id
from gridtokenx.interchain.model import AuthorityMember, Incarnation
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.network.host import NetworkError
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.answers import answer_ancestry
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import AncestryRequest, BlocksResponse, DecidedBlock
from gridtokenx.node.rebuild import Rebuild
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import ChainStore, Database
from gridtokenx.storage.national_view import DecidedNational

GENESIS = local_genesis()
MET = GENESIS.chain("MET")
OLD = [dev_key(validator_name(index)[1]) for index in range(4)]
NEW = [dev_key(f"reborn {index}") for index in range(4)]
KEYS = {key.public_key: key for key in (*OLD, *NEW)}
DEV = dev_key("dev")
SHOP = dev_key("shop").public_key
HONEST, LIAR = PeerId(b"honest"), PeerId(b"liar")


class Clock:
    """A wall clock that stands until it is moved."""

    ms = GENESIS.genesis_time_ms + 10_000

    def __call__(self) -> int:
        return self.ms


def certify(executor: Executor, block: Block) -> QuorumCertificate:
    height = block.header.height
    signed = vote_bytes(Phase.COMMIT, block.header.chain_id, height, 0, block.header.hash)
    members = executor.tip.sets.at(height).validators.members
    signatures = tuple(
        IndexedSignature(index, KEYS[one.public_key].sign(signed))
        for index, one in enumerate(members[:3])
    )
    return QuorumCertificate(Phase.COMMIT, height, 0, block.header.hash, signatures)


class Site:
    """One node's folder, with MET's histories in it."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.database = Database(path)
        Executor(GENESIS.chain("TH"), self.database.chain("TH"), self.clock)
        self.met = self.executor(MET, "MET")

    def executor(self, spec: ChainSpec, name: str) -> Executor:
        view = DecidedNational(self.database.chain("TH"))
        return Executor(spec, self.database.chain(name), self.clock, national=view)

    def build(self, executor: Executor) -> Block:
        self.clock.ms += 1_000
        compact = executor.build(0, 0)
        execution = executor.candidate(compact.header.hash)
        assert execution is not None
        return execution.block

    def grow(self, executor: Executor, count: int = 1) -> None:
        for _ in range(count):
            block = self.build(executor)
            executor.commit(block.header.hash, certify(executor, block))

    def follow(self, executor: Executor, other: ChainStore, heights: Sequence[int]) -> None:
        """Apply another node's blocks."""
        for height in heights:
            raw, certificate = other.block(height), other.certificate(height)
            assert raw is not None
            assert certificate is not None
            block = decode_block(raw)
            executor.apply_decided(
                block, block.decode_transactions(), decode(QuorumCertificate, certificate)
            )


def pay(site: Site, executor: Executor, amount: int) -> None:
    nonce = executor.pending.next_nonce(DEV.public_key)
    chain_id = executor.spec.at(executor.tip.height + 1).chain_id
    one = sign_transaction(DEV, chain_id, nonce, Transfer(SHOP, Asset.GTX, 10_000 + amount))
    assert executor.pending.admit([one], heard=False)[0] == [None]


def born_at(store: ChainStore, height: int, keys: Sequence[SigningKey] = NEW) -> Incarnation:
    raw = store.block(height)
    block_hash = MET.genesis_id if height == 0 else decode_block(raw or b"").header.hash
    members = sorted(
        (AuthorityMember(key.public_key, 1, key.public_key) for key in keys),
        key=lambda one: one.public_key,
    )
    chain_id = incarnation_id(MET.chain_id, 2, block_hash)
    return Incarnation("MET", 2, chain_id, height, block_hash, 0, tuple(members))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "one")
    yield site
    site.database.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Site]:
    other = Site(tmp_path / "two")
    yield other
    other.database.close()


class Peers:
    """Answers requests for ancestry out of another node's histories, as its peers would."""

    def __init__(self, *stores: ChainStore, order: Sequence[PeerId] = (HONEST,)) -> None:
        self.stores = list(stores)
        self.order = tuple(order)
        self.asked: list[tuple[PeerId, bytes]] = []
        self.reported: list[tuple[PeerId, str]] = []
        self.lies: list[BlocksResponse] = []
        self.executed = 0
        self.die_after = 10**9

    async def ask(self, peer: PeerId, kind: str, payload: bytes) -> bytes:
        assert kind == "ancestry"
        self.asked.append((peer, decode(AncestryRequest, payload).block_hash))
        if peer == LIAR:
            if not self.lies:
                raise NetworkError("timeout", "it says nothing")
            return encode(self.lies.pop(0))
        try:
            return answer_ancestry(payload, lambda _chain: self.stores)
        except Rejected as error:
            raise RequestRefused(error.detail) from None

    async def on_block(self) -> None:
        self.executed += 1
        if self.executed >= self.die_after:
            raise KeyboardInterrupt

    def rebuild(self, executor: Executor, born: Incarnation, *former: ChainStore) -> Rebuild:
        return Rebuild(
            executor,
            born,
            former,
            ask=self.ask,
            neighbours=lambda: self.order,
            report=lambda peer, offence: self.reported.append((peer, offence)),
            on_block=self.on_block,
        )


def check_same(executor: Executor, other: ChainStore, height: int) -> None:
    for at in range(1, height + 1):
        assert executor.store.block(at) == other.block(at)
    assert executor.store.lowest_fetched() is None


# -- The history -----------------------------------------------------------------------------------


async def test_what_is_here_is_executed_anew_and_the_old_history_stays(site: Site) -> None:
    pay(site, site.met, 5)
    site.grow(site.met, 6)
    born = born_at(site.met.store, 4)
    before = list(site.met.store.rows(b""))
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers()
    await peers.rebuild(executor, born, site.met.store).run()
    assert (executor.tip.height, executor.tip.hash) == (4, born.hash)
    assert peers.asked == []
    check_same(executor, site.met.store, 4)
    assert executor.tip.totals.transactions == 1
    assert list(site.met.store.rows(b"")) == before


@pytest.mark.parametrize("forked_at", [1, 3, 5])
async def test_the_branch_that_voters_named_is_fetched_where_the_region_had_two(
    site: Site, other: Site, forked_at: int
) -> None:
    other.grow(other.met, forked_at - 1)
    site.follow(site.met, other.met.store, range(1, forked_at))
    pay(other, other.met, 1)
    other.grow(other.met, 6)
    site.grow(site.met, 6)
    assert site.met.store.block(forked_at) != other.met.store.block(forked_at)
    born = born_at(other.met.store, forked_at + 2)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store)
    await peers.rebuild(executor, born, site.met.store).run()
    assert executor.tip.hash == born.hash
    check_same(executor, other.met.store, forked_at + 2)


async def test_a_node_that_was_not_there_fetches_all_of_it(site: Site, other: Site) -> None:
    other.grow(other.met, 70)
    born = born_at(other.met.store, 68)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store)
    await peers.rebuild(executor, born, site.met.store).run()
    check_same(executor, other.met.store, 68)
    assert len(peers.asked) == 3  # Of 32 blocks each.


async def test_silent_strangers_are_not_asked_again_for_each_range(site: Site, other: Site) -> None:
    """Ids are free, so some come before every honest one; each would cost ten seconds."""
    other.grow(other.met, 70)
    born = born_at(other.met.store, 68)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store, order=(LIAR, HONEST))
    await peers.rebuild(executor, born, site.met.store).run()
    check_same(executor, other.met.store, 68)
    assert [peer for peer, _ in peers.asked] == [LIAR, HONEST, HONEST, HONEST]


@pytest.mark.parametrize("die_after", [1, 2, 5])
@pytest.mark.parametrize("forked", [False, True])
async def test_a_killed_node_goes_on_where_it_was(
    site: Site, other: Site, die_after: int, forked: bool
) -> None:
    other.grow(other.met, 40 if forked else 1)
    site.grow(site.met, 7)
    source = other if forked else site
    born = born_at(source.met.store, 38 if forked else 6)
    spec = MET.with_incarnation(born)
    peers = Peers(other.met.store)
    peers.die_after = die_after
    executor = site.executor(spec, "MET@2")
    with pytest.raises(KeyboardInterrupt):
        await peers.rebuild(executor, born, site.met.store).run()
    assert executor.tip.height == die_after
    asked = len(peers.asked)
    again = site.executor(spec, "MET@2")
    assert again.tip.parent.height == die_after
    peers.die_after = 10**9
    await peers.rebuild(again, born, site.met.store).run()
    check_same(again, source.met.store, born.height)
    assert len(peers.asked) == asked  # What was fetched was kept.


async def test_a_node_that_is_killed_while_it_fetches_goes_on_below(
    site: Site, other: Site
) -> None:
    other.grow(other.met, 50)
    born = born_at(other.met.store, 50)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store)
    rebuild = peers.rebuild(executor, born, site.met.store)
    step = rebuild._first_missing()
    assert step is not None
    step = await rebuild._fetch(step)
    assert executor.store.lowest_fetched() == 19
    await peers.rebuild(executor, born, site.met.store).run()
    check_same(executor, other.met.store, 50)
    assert len(peers.asked) == 2


# -- Peers that lie --------------------------------------------------------------------------------


async def test_blocks_that_are_not_the_named_ones_are_not_kept(
    site: Site, other: Site, autojump_clock: MockClock
) -> None:
    pay(other, other.met, 1)
    other.grow(other.met, 5)
    site.grow(site.met, 5)
    born = born_at(other.met.store, 5)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store, order=(LIAR, HONEST))
    wrong, right = site.met.store.block(5), other.met.store.block(5)
    certificate = other.met.store.certificate(5)
    assert wrong is not None
    assert right is not None
    assert certificate is not None
    peers.lies = [BlocksResponse((DecidedBlock(wrong, certificate),))]
    await peers.rebuild(executor, born, site.met.store).run()
    check_same(executor, other.met.store, 5)
    assert peers.reported == [(LIAR, "malformed_response")]


async def test_a_made_up_certificate_of_the_last_block_is_found_out_and_fetched_elsewhere(
    site: Site, other: Site, autojump_clock: MockClock
) -> None:
    other.grow(other.met, 5)
    born = born_at(other.met.store, 5)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(other.met.store, order=(LIAR, HONEST))
    block = other.met.store.block(5)
    assert block is not None
    forged = QuorumCertificate(
        Phase.COMMIT, 5, 0, born.hash, tuple(IndexedSignature(at, bytes(64)) for at in range(3))
    )
    peers.lies = [BlocksResponse((DecidedBlock(block, encode(forged)),))]
    await peers.rebuild(executor, born, site.met.store).run()
    check_same(executor, other.met.store, 5)
    assert peers.reported == [(LIAR, "invalid_block")]


async def test_a_hash_that_no_peer_has_is_waited_for(
    site: Site, other: Site, autojump_clock: MockClock
) -> None:
    other.grow(other.met, 3)
    born = born_at(other.met.store, 3)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    peers = Peers(site.met.store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peers.rebuild(executor, born, site.met.store).run)
        await trio.sleep(100)
        assert executor.tip.height == 0
        peers.stores.append(other.met.store)
    check_same(executor, other.met.store, 3)


# -- Over the seam ---------------------------------------------------------------------------------


async def reborn(site: Site, height: int, keys: Sequence[SigningKey] = NEW) -> Executor:
    born = born_at(site.met.store, height, keys)
    executor = site.executor(MET.with_incarnation(born), "MET@2")
    await Peers().rebuild(executor, born, site.met.store).run()
    return executor


@pytest.mark.parametrize("base", [0, 1, 5, 59, 60, 61])
async def test_the_members_sign_from_the_next_block_on(site: Site, base: int) -> None:
    site.grow(site.met, base + 2)
    executor = await reborn(site, base)
    members = [one.public_key for one in executor.tip.sets.at(base + 1).validators.members]
    assert members == sorted(key.public_key for key in NEW)
    if base:
        assert {one.public_key for one in executor.tip.sets.at(base).validators.members} == {
            key.public_key for key in OLD
        }
    pay(site, executor, 7)
    site.grow(executor, 3)
    first = decode_block(executor.store.block(base + 1) or b"")
    assert first.header.chain_id == executor.spec.chain_id != MET.chain_id
    assert first.header.set_hash == executor.tip.sets.at(base + 1).validators.hash
    assert len(first.transactions) == 1
    if base:
        named = decode(QuorumCertificate, first.last_commit)
        assert (named.height, named.block_hash) == (base, executor.spec.incarnations[-1].hash)
    # Opened again it is the same, and another node follows block by block.
    again = site.executor(executor.spec, "MET@2")
    assert again.tip.parent == executor.tip.parent
    assert again.tip.sets.scheduled == executor.tip.sets.scheduled
    fresh = site.executor(executor.spec, "MET@3")
    site.follow(fresh, executor.store, range(1, base + 4))
    assert fresh.tip.parent == executor.tip.parent


async def test_what_was_signed_for_the_old_chain_does_not_count(site: Site) -> None:
    site.grow(site.met, 4)
    executor = await reborn(site, 3, OLD)
    void = decode_block(site.met.store.block(4) or b"")
    certificate = decode(QuorumCertificate, site.met.store.certificate(4) or b"")
    with pytest.raises(Rejected) as refused:
        executor.apply_decided(void, void.decode_transactions(), certificate)
    assert refused.value.code is ErrorCode.INVALID_CERTIFICATE
    old = sign_transaction(DEV, MET.chain_id, 0, Transfer(SHOP, Asset.GTX, 10_001))
    (verdict,), _ = executor.pending.admit([old], heard=False)
    assert verdict is not None
    assert verdict.code is ErrorCode.WRONG_CHAIN


async def test_an_offence_of_the_old_chain_is_punished_on_the_new_one(site: Site) -> None:
    site.grow(site.met, 4)
    executor = await reborn(site, 3)
    members = MET.genesis_validators.members
    index, key = 1, KEYS[members[1].public_key]

    def vote(height: int, block_hash: bytes) -> Vote:
        signed = vote_bytes(Phase.PREPARE, MET.chain_id, height, 0, block_hash)
        return Vote(Phase.PREPARE, height, 0, block_hash, index, key.sign(signed))

    for height in (3, 4):  # The second one lies in the history that is void.
        pair = vote(height, b"a" * 32), vote(height, b"b" * 32)
        executor.note_evidence(double_vote(MET.genesis_validators, *pair))
    site.grow(executor)
    carried = decode_block(executor.store.block(4) or b"").evidence
    assert [one.height for one in carried] == [3]


async def test_a_second_branch_of_a_region_stops_it_and_blames_no_peer(
    site: Site, other: Site
) -> None:
    other.grow(other.met)
    site.follow(site.met, other.met.store, range(1, 2))
    pay(other, other.met, 1)
    site.grow(site.met)
    other.grow(other.met, 2)
    with pytest.raises(Damaged, match="decided two blocks at height 2"):
        site.follow(site.met, other.met.store, range(3, 4))
