"""A validator a thousand blocks behind joins a running network, among peers that serve lies.

The thousand blocks are made in seconds: built and executed by the product's executor, signed with
the development keys. The lying peers are libp2p nodes of our own.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest
import trio

from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.client import Client
from gridtokenx.cluster.devnet import (
    PAYMENT,
    Member,
    dev_key,
    operator_key,
    plan,
    validator_name,
    write_home,
)
from gridtokenx.cluster.processes import Cluster, NodeRecord, free_ports, this_process
from gridtokenx.consensus.evidence import double_vote
from gridtokenx.consensus.leader import LeaderSchedule
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    Vote,
    vote_bytes,
)
from gridtokenx.ledger.model import Deposit
from gridtokenx.network.host import HostSettings, format_peer_id, open_network
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import Requests
from gridtokenx.node.executor import Executor
from gridtokenx.node.life import first_record
from gridtokenx.node.protocol import BlocksRequest, BlocksResponse, ChainHead, DecidedBlock
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.storage.database import Database
from tests.support.live_cluster import (
    answered_heights,
    assert_same_state,
    fresh_genesis,
    genesis_of,
    log_of,
    port_block,
    roots_at,
    wait_heights,
    wait_progress,
    wait_until,
)
from tests.support.patience import PATIENCE_S, settled
from tests.support.recorder import Recorder, keep_dialling, status_of

CHAIN = "MET"
BLOCKS = 1_000
BLOCK_TIME_MS = 500
AUTHORITIES = 4
JOINER = "n3"
DEPOSIT_EVERY = 10
CLAIMED_HEIGHT = 1_000_000
CATCH_UP_S = 120.0
Tamper = Callable[[DecidedBlock], DecidedBlock]


# -- A history made offline ------------------------------------------------------------------------


def signers(genesis: Genesis) -> list[SigningKey]:
    """The development keys of the validators, in the order of the set."""
    keys = {
        key.public_key: key for key in (dev_key(validator_name(i)[1]) for i in range(AUTHORITIES))
    }
    return [keys[member.public_key] for member in genesis.chain(CHAIN).genesis_validators.members]


def certify(
    genesis: Genesis, keys: list[SigningKey], height: int, block_hash: bytes
) -> QuorumCertificate:
    """A COMMIT certificate by three of the four."""
    chain_id = genesis.chain(CHAIN).chain_id
    signed = vote_bytes(Phase.COMMIT, chain_id, height, 0, block_hash)
    signatures = tuple(IndexedSignature(index, keys[index].sign(signed)) for index in range(3))
    return QuorumCertificate(Phase.COMMIT, height, 0, block_hash, signatures)


def make_history(genesis: Genesis, folder: Path) -> list[DecidedBlock]:
    """Fill a data folder with decided blocks, a deposit in every tenth; return them."""
    spec, keys, made = genesis.chain(CHAIN), signers(genesis), []
    schedule = LeaderSchedule(spec.genesis_validators)
    payment, account = operator_key(PAYMENT), dev_key("dev").public_key
    database = Database(folder)
    try:
        executor = Executor(
            spec, database.chain(CHAIN), lambda: 0
        )  # Each block as early as may be.
        for height in range(1, BLOCKS + 1):
            if height % DEPOSIT_EVERY == 0:
                nonce = executor.pending.next_nonce(payment.public_key)
                one = sign_transaction(payment, spec.chain_id, nonce, Deposit(account, height))
                assert executor.pending.admit([one], heard=False)[0] == [None]
            block = executor.build(0, schedule.leader(height))
            certificate = certify(genesis, keys, height, block.header.hash)
            committed = executor.commit(block.header.hash, certificate)
            made.append(DecidedBlock(committed.execution.block.encoded, encode(certificate)))
        # The keys have signed all of it, and their nodes know that.
        executor.store.save_safety(encode(first_record(BLOCKS)), ())
    finally:
        database.close()
    return made


# -- Peers that lie --------------------------------------------------------------------------------


def other_body(one: DecidedBlock) -> DecidedBlock:
    """The decided header over a body of another block."""
    block = decode_block(one.block)
    return DecidedBlock(
        replace(block, last_commit=bytes(reversed(block.last_commit))).encoded, one.certificate
    )


def accused(genesis: Genesis) -> Tamper:
    """The decided header over a body that carries evidence nobody decided."""
    spec, key = genesis.chain(CHAIN), signers(genesis)[0]

    def vote(block_hash: bytes) -> Vote:
        signed = vote_bytes(Phase.COMMIT, spec.chain_id, 1, 0, block_hash)
        return Vote(Phase.COMMIT, 1, 0, block_hash, 0, key.sign(signed))

    evidence = double_vote(spec.genesis_validators, vote(bytes(32)), vote(bytes([1]) * 32))

    def tamper(one: DecidedBlock) -> DecidedBlock:
        block = decode_block(one.block)
        return DecidedBlock(replace(block, evidence=(evidence,)).encoded, one.certificate)

    return tamper


def forged_certificate(one: DecidedBlock) -> DecidedBlock:
    """A good block whose certificate holds one member's signature twice, under two names."""
    certificate = decode(QuorumCertificate, one.certificate)
    first, _, third = certificate.signatures
    forged = (first, IndexedSignature(1, first.signature), third)
    return DecidedBlock(one.block, encode(replace(certificate, signatures=forged)))


def own_branch(genesis: Genesis) -> Tamper:
    """Another block of the same height with one signature: no quorum stands behind it."""
    keys = signers(genesis)

    def tamper(one: DecidedBlock) -> DecidedBlock:
        block = decode_block(one.block)
        header = replace(block.header, time_ms=block.header.time_ms + 1)
        whole = certify(genesis, keys, header.height, header.hash)
        certificate = replace(whole, signatures=whole.signatures[:1])
        return DecidedBlock(
            Block(header, block.transactions, block.last_commit, ()).encoded, encode(certificate)
        )

    return tamper


@dataclass
class Liar:
    """A libp2p node that claims a great height and serves tampered blocks to one victim."""

    name: str
    genesis: Genesis
    victim: Member
    history: list[DecidedBlock]
    tamper: Tamper
    peer: str = ""
    served: int = 0

    def __enter__(self) -> Self:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        seed = dev_key(f"{self.name} node").seed
        settings = HostSettings(seed=seed, listen=("/ip4/127.0.0.1/tcp/0",))
        with trio.CancelScope() as self._scope:
            async with open_network(settings) as network:
                self.peer = format_peer_id(network.peer_id)
                requests = Requests(network, self.genesis.network_id)
                requests.serve("status", self._tell_status)
                requests.serve("blocks", self._serve_blocks)
                self._started.set()
                await keep_dialling(network, (self.victim,))

    async def _tell_status(self, _peer: PeerId, _payload: bytes) -> bytes:
        spec = self.genesis.chain(CHAIN)
        head = ChainHead(CHAIN, spec.chain_id, CLAIMED_HEIGHT, bytes(32))
        return encode(status_of(self.genesis, self.name, (head,)))

    async def _serve_blocks(self, _peer: PeerId, payload: bytes) -> bytes:
        request = decode(BlocksRequest, payload)
        self.served += 1
        wanted = range(request.from_height, request.from_height + request.count)
        known = [self.history[min(height, BLOCKS) - 1] for height in wanted]
        return encode(BlocksResponse(tuple(map(self.tamper, known))))


# -- The network -----------------------------------------------------------------------------------


@pytest.fixture
def network_with_history(tmp_path: Path) -> Iterator[tuple[Cluster, list[DecidedBlock]]]:
    """Four authorities of one chain; all but the joiner have the history and run."""
    genesis = fresh_genesis(block_time_ms=BLOCK_TIME_MS)
    begin_ms = genesis.genesis_time_ms - BLOCKS * BLOCK_TIME_MS
    one = {"chains": genesis.chains[:1], "national": None}
    genesis = replace(genesis, **one, genesis_time_ms=begin_ms)
    history = make_history(genesis, tmp_path / "history")
    folder = tmp_path / "clusters" / "late"
    members = plan(AUTHORITIES, 0, free_ports(AUTHORITIES, port_block()))
    for member in members:
        write_home(folder / member.name, member, genesis, members[0])
    records = [NodeRecord(member) for member in members]
    cluster = Cluster(folder, genesis.hash.hex(), records, this_process())
    try:
        for member in members:
            if member.name != JOINER:
                shutil.copytree(tmp_path / "history", cluster.home(member.name) / "data")
                cluster.start(member.name)
        yield cluster, history
    finally:
        cluster.stop()


def test_a_validator_a_thousand_blocks_behind_joins_among_liars(
    network_with_history: tuple[Cluster, list[DecidedBlock]],
) -> None:
    cluster, history = network_with_history
    others = ("n0", "n1", "n2")
    wait_heights(cluster, {CHAIN: BLOCKS + 2}, *others, seconds=120)
    genesis, victim = genesis_of(cluster), cluster.node(JOINER).member
    tampers: dict[str, Tamper] = {
        "body": other_body,
        "evidence": accused(genesis),
        "certificate": forged_certificate,
        "branch": own_branch(genesis),
        "past": lambda _: history[0],  # decided, but not the one that was asked for
    }
    liars = [Liar(f"liar {kind}", genesis, victim, history, how) for kind, how in tampers.items()]
    with Recorder(genesis, cluster.members) as recorder:
        for liar in liars:
            liar.__enter__()
        try:
            _join(cluster, liars, recorder)
        finally:
            for liar in liars:
                liar.__exit__()


def _join(
    cluster: Cluster,
    liars: list[Liar],
    recorder: Recorder,
) -> None:
    others = ("n0", "n1", "n2")
    before = answered_heights(cluster, "n0")[CHAIN]
    cluster.start(JOINER)
    pid = cluster.node(JOINER).pid
    wait_heights(cluster, {CHAIN: before}, JOINER, seconds=CATCH_UP_S)
    after = answered_heights(cluster, "n0")[CHAIN]
    assert after > before, "no block was decided meanwhile"

    def told(liar: Liar) -> bool:
        lines = log_of(cluster, JOINER).splitlines()
        return any("sync.bad_peer" in line and liar.peer in line for line in lines)

    for liar in liars:
        wait_until(f"{liar.name} is found out", lambda liar=liar: told(liar))
        assert liar.served > 0
    wait_until(
        "the liars are cut off", lambda: _peers(cluster) & {one.peer for one in liars} == set()
    )
    served = settled(lambda: [liar.served for liar in liars], 2.0)  # one may be on its way
    goal = wait_progress(cluster, *others, JOINER, blocks=3)
    assert [liar.served for liar in liars] == served, "a banned peer was asked again"
    assert all(len(roots) == 1 for roots in roots_at(cluster, goal).values())
    index = cluster_index(cluster, JOINER)
    wait_until("it votes", lambda: recorder.highest(index, CHAIN) > after)
    assert_same_state(cluster)
    assert not recorder.doubles()
    assert cluster.node(JOINER).pid == pid
    assert cluster.is_running(JOINER)
    assert "Traceback" not in log_of(cluster, JOINER)


def _peers(cluster: Cluster) -> set[str]:
    with Client(cluster.node(JOINER).member.api_url) as client:
        return {one.peer_id for one in client.peers()}


def cluster_index(cluster: Cluster, name: str) -> int:
    """A validator's index in the chain's set."""
    key = dev_key(cluster.node(name).member.validator).public_key
    index = genesis_of(cluster).chain(CHAIN).genesis_validators.index_of(key)
    assert index is not None
    return index
