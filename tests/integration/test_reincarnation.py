"""Regions that go on by a vote, on real nodes: one that was frozen under load, and one whose
authorities certified what is not valid.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio
from typer.testing import CliRunner

from gridtokenx.answers.chain import ChainOfNode
from gridtokenx.chain.block import Block
from gridtokenx.chain.genesis import Genesis, GenesisValidator
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.cli import app
from gridtokenx.client import Client
from gridtokenx.cluster import watch
from gridtokenx.cluster.dev import fund_dev_account
from gridtokenx.cluster.devnet import (
    AUTHORITIES,
    DEV_ACCOUNT,
    GTX,
    NETWORK_ID,
    dev_key,
    operator_key,
    peer_address,
    stake_key,
    validator_name,
)
from gridtokenx.cluster.processes import Cluster, create, this_process
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.demo.revival import Revival, add_stand_by
from gridtokenx.governance.model import ApproveAsAuthority, Choice, Vote
from gridtokenx.interchain.model import Credit, SubmitCheckpoint, TransferAbroad
from gridtokenx.ledger.model import Asset
from gridtokenx.network.host import (
    HostSettings,
    NetworkError,
    Stream,
    open_network,
    read_frame,
    write_frame,
)
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import (
    BlocksRequest,
    BlocksResponse,
    ChainHead,
    DecidedBlock,
    Status,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.types import format_address
from gridtokenx.storage.database import Database
from tests.support import live_cluster
from tests.support.live_cluster import (
    answered_heights,
    ask,
    assert_same_state,
    client_of,
    fresh_genesis,
    log_of,
    pids_of,
    port_block,
    wait_heights,
    wait_until,
)

LONG_S = 300.0
DEV = dev_key(DEV_ACCOUNT)
NATIONAL, REGION = "TH", "MET"


def shown(home: Path, *words: object) -> str:
    """What a person sees of a command that succeeds."""
    result = CliRunner().invoke(app, [str(word) for word in ["--home", home, *words]])
    assert result.exit_code == 0, result.output
    return result.stdout


def own(home: Path, key: str) -> tuple[object, ...]:
    return ("--key", key, "--password-file", home / "password")


# -- Frozen ----------------------------------------------------------------------------------------


class ByCommand(Revival):
    """The story with the commands that operators type."""

    def propose(self) -> int:
        home = self.cluster.home("n0")
        named = [
            word
            for one in self.new_authorities()
            for word in ("--authority", f"{one.organisation}={one.public_key.hex()}:{one.weight}")
        ]
        words = ("--title", "MET goes on", "--type", "reincarnation", "--region", "met", *named)
        dry = ask(home, "governance", "propose", *words, "--dry-run")
        assert dry["lost"]["gtx_ugtx"] == "0"
        assert dry["approvers"] == ["erc"]
        assert dry["chains"] == [NATIONAL, REGION]
        told = ask(home, "governance", "propose", *words, *own(home, DEV_ACCOUNT))
        return int(told["proposal"])

    def vote(self, number: int) -> None:
        assert self.shard().status == "frozen"
        for name in ("n0", "n1", "n2", "n3"):
            home = self.cluster.home(name)
            ask(home, "governance", "vote", number, "yes", *own(home, "stake"))
        home = self.cluster.home("n3")
        ask(home, "governance", "approve", number, *own(home, "operator"))
        assert "MET goes on from block" in shown(home, "governance", "show", number)


@pytest.fixture
def frozen_cluster(tmp_path: Path) -> Iterator[Cluster]:
    genesis = fresh_genesis("MET", "NOR")
    cluster = create(
        tmp_path / "clusters" / "frozen",
        genesis,
        observers=0,
        owner=this_process(),
        first_ports=port_block(),
    )
    try:
        add_stand_by(cluster, genesis)
        watch.wait_ready(cluster, LONG_S)
        with client_of(cluster, "n0") as client:
            fund_dev_account(client)
        yield cluster
    finally:
        cluster.stop()


def test_a_region_frozen_under_load_goes_on_with_another_authority(
    frozen_cluster: Cluster,
) -> None:
    cluster = frozen_cluster
    pids = pids_of(cluster)
    told: list[str] = []
    revival = ByCommand(cluster, live_cluster.genesis_of(cluster), told.append)
    try:
        revival.play()
    finally:
        revival.close()
    assert pids_of(cluster) == pids
    assert told[-1].startswith("after:")
    home = cluster.home("n4")
    assert "incarnation 2" in shown(home, "shard", "show", REGION)
    revive = ["--home", str(home), "shard", "revive", REGION]
    for words, why in (([], "anywhere"), (["--i-am-sure"], "is decided, so most authorities")):
        refused = CliRunner().invoke(app, [*revive, *words])
        assert refused.exit_code != 0
        assert why in refused.output
    cluster.kill("n2")  # A node of the old and the new set comes back to the new incarnation.
    cluster.start("n2")
    assert_same_state(cluster)
    for name in pids:
        assert "Traceback" not in log_of(cluster, name)


# -- Captured --------------------------------------------------------------------------------------

CAPTORS = [dev_key(f"captor {index}") for index in range(4)]
RECIPIENT, THIEF = (dev_key(f"captured {name}").public_key for name in ("recipient", "thief"))


def captured_genesis() -> Genesis:
    """MET is signed by keys that no node here has; n0 to n3 follow it and decide TH."""
    genesis = fresh_genesis(REGION)
    (met,) = genesis.chains
    members = tuple(
        GenesisValidator(organisation, key.public_key, 1)
        for organisation, key in zip(AUTHORITIES, CAPTORS, strict=True)
    )
    return replace(genesis, chains=(replace(met, validators=members),))


class Captured:
    """MET's authorities, all four in one hand: they make its blocks and serve them to the nodes."""

    def __init__(self, cluster: Cluster, genesis: Genesis, folder: Path) -> None:
        self.cluster, self.genesis = cluster, genesis
        self.spec = genesis.chain(REGION)
        self.database = Database(folder)
        self.executor = Executor(
            self.spec, self.database.chain(REGION), lambda: time.time_ns() // 1_000_000
        )
        self.blocks: list[DecidedBlock] = []
        self.head = (0, self.spec.genesis_id)
        self.headers: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(60)
        self.database.close()

    def certify(self, block: Block) -> QuorumCertificate:
        header = block.header
        signed = vote_bytes(Phase.COMMIT, header.chain_id, header.height, 0, header.hash)
        keys = {key.public_key: key for key in CAPTORS}
        signatures = tuple(
            IndexedSignature(index, keys[member.public_key].sign(signed))
            for index, member in enumerate(self.spec.genesis_validators.members)
        )
        return QuorumCertificate(Phase.COMMIT, header.height, 0, header.hash, signatures)

    def make_block(self, *transactions: Transaction) -> None:
        """A good one."""
        block = self._build(transactions)
        certificate = self.certify(block)
        self.executor.commit(block.header.hash, certificate)
        self._publish(block, certificate)

    def make_bad_block(self, *transactions: Transaction) -> None:
        """One whose state is not what its transactions lead to, certified all the same."""
        block = self._build(transactions)
        header = replace(block.header, state_root=hashlib.sha256(b"theft").digest())
        block = replace(block, header=header)
        self._publish(block, self.certify(block))

    def _build(self, transactions: tuple[Transaction, ...]) -> Block:
        if transactions:
            assert self.executor.pending.admit(transactions, heard=False)[0] == [None] * len(
                transactions
            )
        parent = self.executor.tip.parent
        opens_s = self.spec.opens_ms(parent.time_ms) / 1_000
        time.sleep(max(0.0, opens_s - time.time()))
        made = self.executor.build(0, parent.height % 4)
        execution = self.executor.candidate(made.header.hash)
        assert execution is not None
        return execution.block

    def _publish(self, block: Block, certificate: QuorumCertificate) -> None:
        self.blocks.append(DecidedBlock(block.encoded, encode(certificate)))
        self.headers.append(encode(block.header))
        self.head = (block.header.height, block.header.hash)

    def checkpoint(self, client: Client, height: int, *messages: bytes) -> None:
        """Bring a block to the national chain, as anybody may."""
        command = SubmitCheckpoint(
            REGION, self.headers[height - 1], self.blocks[height - 1].certificate, messages
        )
        sent = client.send(client.sign(DEV, NATIONAL, command))
        client.wait_for([sent], timeout_s=LONG_S)

    def transfer(self, to: bytes, ugtx: int, nonce: int) -> Transaction:
        command = TransferAbroad(NATIONAL, to, Asset.GTX, ugtx)
        return sign_transaction(DEV, self.spec.chain_id, nonce, command)

    # -- As a peer ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        async with open_network(HostSettings(seed=hashlib.sha256(b"c").digest(), listen=())) as net:

            async def tell(stream: Stream) -> None:
                await read_frame(stream, 65_536)
                await write_frame(stream, b"\0" + encode(self._status()))

            async def send_blocks(stream: Stream) -> None:
                asked = decode(BlocksRequest, await read_frame(stream, 65_536))
                first = asked.from_height - 1
                found = tuple(self.blocks[first : first + asked.count])
                await write_frame(stream, b"\0" + encode(BlocksResponse(found)))

            net.handle([f"/gridtokenx/{NETWORK_ID}/status/1"], tell)
            net.handle([f"/gridtokenx/{NETWORK_ID}/blocks/1"], send_blocks)
            while not self._over.is_set():
                for member in self.cluster.members:
                    if self.cluster.is_running(member.name):
                        with trio.move_on_after(5), suppress(NetworkError):
                            await net.dial(peer_address(member.name, member.p2p_port))
                await trio.sleep(0.5)

    def _status(self) -> Status:
        height, block_hash = self.head
        head = ChainHead(REGION, self.spec.chain_id, height, block_hash)
        genesis = self.genesis
        return Status(
            genesis.network_name, genesis.hash, "captor", "captor", time.time_ns() // 10**6, (head,)
        )


@contextmanager
def captured(folder: Path) -> Iterator[tuple[Cluster, Captured]]:
    genesis = captured_genesis()
    cluster = create(
        folder / "clusters" / "captured",
        genesis,
        observers=0,
        owner=this_process(),
        first_ports=port_block(),
    )
    captors = Captured(cluster, genesis, folder / "captors")
    try:
        captors.make_block()
        yield cluster, captors
    finally:
        captors.close()
        cluster.stop()


def seen_by(cluster: Cluster, name: str) -> ChainOfNode:
    with client_of(cluster, name) as client:
        (row,) = [one for one in client.status().chains if one.chain == REGION]
        return row


def gtx_of(client: Client, address: bytes, chain: str) -> int:
    return sum(row.gtx_ugtx for row in client.balance(address, chain).chains)


def check_that_only_met_is_stopped(cluster: Cluster, name: str, height: int) -> None:
    seen = seen_by(cluster, name)
    assert seen.head.height == height
    assert "GTX-SYNC-001" in (seen.sync.stopped_because or "")
    url = cluster.node(name).member.api_url
    ready = httpx.get(f"{url}/ready", trust_env=False, timeout=60)
    checks = {one["name"]: one for one in ready.json()["checks"]}
    assert ready.status_code == 503
    assert not checks["sync_MET"]["ok"]
    assert "shard show MET" in checks["sync_MET"]["hint"]
    assert checks["sync_TH"]["ok"]
    metrics = httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
    assert 'gridtokenx_sync_state{chain="MET",state="stopped"} 1.0' in metrics
    with client_of(cluster, name) as client:
        assert client.block(height, REGION).header  # What is good is served on.
        nonce = client.nonce(DEV.public_key, REGION)
        refused = client.send_many(
            [client.sign(DEV, REGION, TransferAbroad(NATIONAL, THIEF, Asset.GTX, GTX), nonce)]
        )
        assert refused[0] is not None
        assert refused[0].reason == "not_active"


def test_a_captured_region_stops_alone_and_goes_on_from_an_earlier_block(tmp_path: Path) -> None:
    names = ("n0", "n1", "n2", "n3")
    with captured(tmp_path) as (cluster, captors):
        for name in names:
            wait_until(name, lambda one=name: seen_by(cluster, one).head.height == 1, LONG_S)
        pids = pids_of(cluster)
        cluster.kill("n3")  # It comes back when all is over.
        first = captors.transfer(RECIPIENT, 3 * GTX, 0)
        captors.make_block(first)
        captors.make_block()
        with client_of(cluster, "n0") as client:
            captors.checkpoint(client, 3, message_of(captors, first))
            wait_until("credited", lambda: gtx_of(client, RECIPIENT, NATIONAL) == 3 * GTX, LONG_S)

        second = captors.transfer(THIEF, 7 * GTX, 1)
        captors.make_bad_block(second)
        for name in names[:3]:
            wait_until(
                f"{name} stops",
                lambda one=name: seen_by(cluster, one).sync.state == "stopped",
                LONG_S,
            )
            check_that_only_met_is_stopped(cluster, name, 3)
        with client_of(cluster, "n0") as client:
            captors.checkpoint(client, 4, message_of(captors, second))
            wait_until("stolen", lambda: gtx_of(client, THIEF, NATIONAL) == 7 * GTX, LONG_S)
        now = answered_heights(cluster, "n0")
        wait_heights(cluster, {NATIONAL: now[NATIONAL] + 3}, *names[:3])
        assert {name: pids_of(cluster)[name] for name in names[:3]} == {
            name: pids[name] for name in names[:3]
        }

        vote_from_block_3(cluster)
        cluster.start("n3")
        for name in names:
            wait_until(
                f"{name} goes on", lambda one=name: seen_by(cluster, one).head.height >= 6, LONG_S
            )
        assert_same_state(cluster)
        check_what_is_lost(cluster, captors)
        for name in names:
            assert "Traceback" not in log_of(cluster, name)


def message_of(captors: Captured, transfer: Transaction) -> bytes:
    """What a transfer sends up, as the region's log has it."""
    command = transfer.payload
    assert isinstance(command, TransferAbroad)
    return encode(
        Credit(
            transfer.id,
            REGION,
            command.destination,
            transfer.sender,
            command.to,
            command.asset,
            command.amount,
        )
    )


def vote_from_block_3(cluster: Cluster) -> None:
    """With the commands that its operators have."""
    home = cluster.home("n0")
    listed = ask(home, "shard", "checkpoints", REGION)["items"]
    assert [one["height"] for one in listed] == ["4", "3"]
    assert [one["lost"]["gtx_ugtx"] for one in listed] == ["0", str(7 * GTX)]
    named = [
        word
        for index in range(4)
        for organisation, key in [validator_name(index)]
        for word in ("--authority", f"{organisation}={format_address(dev_key(key).public_key)}")
    ]
    words = ("--title", "MET goes on", "--type", "reincarnation", "--region", REGION, *named)
    base = ("--height", 3, "--hash", listed[1]["hash"])
    assert "7.00 GTX" in shown(home, "governance", "propose", *words, *base, "--dry-run")
    number = int(
        ask(home, "governance", "propose", *words, *base, *own(home, DEV_ACCOUNT))["proposal"]
    )
    with client_of(cluster, "n1") as client:
        wait_until("n1 has it", lambda: client.call("gov_getProposals")["items"])
        approved = client.send(
            client.sign(operator_key("erc"), NATIONAL, ApproveAsAuthority(number))
        )
        ballots = [
            client.send(
                client.sign(stake_key(validator_name(index)[1]), NATIONAL, Vote(number, Choice.YES))
            )
            for index in range(4)
        ]
        client.wait_for([approved, *ballots], timeout_s=LONG_S)
        held = client.call("shard_get", id=REGION)
        assert (held["status"], held["held_by"]) == ("held", str(number))
        wait_until(
            "carried out",
            lambda: client.call("gov_getProposal", id=number)["status"] == "executed",
            LONG_S,
        )


def check_what_is_lost(cluster: Cluster, captors: Captured) -> None:
    """The thief keeps what it brought to the nation, its owner has it too: the nation answers."""
    genesis = captors.genesis
    assert genesis.national is not None
    with client_of(cluster, "n0") as client:
        shard = client.call("shard_get", id=REGION)
        assert shard["lost"]["gtx_ugtx"] == str(7 * GTX)
        assert (shard["status"], shard["incarnation"]) == ("active", 2)
        initial = sum(one.gtx_ugtx for one in genesis.allocations if one.account == DEV.public_key)
        assert gtx_of(client, DEV.public_key, REGION) == initial - 3 * GTX
        supply = sum(one.gtx_ugtx for one in genesis.allocations)
        supply += sum(one.gtx_ugtx for one in genesis.national.allocations)
        supply += sum(one.self_bond_ugtx for one in genesis.national.stakes)
        supply += genesis.national.reward_reserve_ugtx
        held = {name: client.supply(name).holdings.gtx_ugtx for name in (NATIONAL, REGION)}
        escrow = int(shard["escrow"]["gtx_ugtx"])
        assert held[NATIONAL] + escrow == supply + 7 * GTX
        assert held[REGION] == escrow
        # Its own messages flow again.
        sent = client.send(
            client.sign(DEV, REGION, TransferAbroad(NATIONAL, RECIPIENT, Asset.GTX, GTX))
        )
        wait_until(
            "credited",
            lambda: (
                client.call_many([("shard_getTransfer", {"id": sent})])[0]["status"] == "credited"
            ),
            LONG_S,
        )
        assert gtx_of(client, RECIPIENT, NATIONAL) == 4 * GTX
