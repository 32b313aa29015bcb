"""`python -m gridtokenx.demo.revival`, which is what `scripts/revive` calls: a region is frozen
under load and goes on by a vote, with another authority; all amounts are compared.

Four authorities sign MET, NOR and the national chain. Somebody who has their keys, which on a local
network anybody has, certifies a second header of one of MET's blocks: MET is frozen. Stake votes,
the regulator approves, and every node lets MET go on from its newest accepted block. The fifth
node, which only watched, signs from then on in the place of another. Source:
protocols/interchain.md 7, 8.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gridtokenx.answers.chain import Finality
from gridtokenx.answers.governance import ProposalDetail
from gridtokenx.answers.shard import ShardDetail
from gridtokenx.answers.transaction import IncludedTransaction
from gridtokenx.chain.block import Header
from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.transaction import Payload
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster import watch
from gridtokenx.cluster.dev import LOCATION, fund_dev_account
from gridtokenx.cluster.devnet import (
    AUTHORITIES,
    DEV_ACCOUNT,
    GTX,
    Member,
    dev_key,
    local_genesis,
    operator_key,
    stake_key,
    validator_name,
    write_home,
)
from gridtokenx.cluster.processes import (
    Cluster,
    ClusterError,
    NodeRecord,
    create,
    free_ports,
    this_process,
)
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.demo.supply import supply_checks
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    Choice,
    NewAuthority,
    ProposalStatus,
    Propose,
    Reincarnation,
    Vote,
)
from gridtokenx.interchain.model import RegionStatus, SubmitCheckpoint, TransferAbroad
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.types import format_address
from gridtokenx.runtime import screen
from gridtokenx.trading.model import Side, Source

REGION, OTHER = "MET", "NOR"
STAND_BY = len(AUTHORITIES)  # The number of the node that takes an authority's place.
REPLACED = "erc validator 0"
STAND_BY_KEY = validator_name(STAND_BY + AUTHORITIES.index("erc"))[1]
FIRST_PORTS = (33_000, 34_000)
PATIENCE_S = 240.0
POLL_S = 0.2
LOAD_PAUSE_S = 0.15
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Tell = Callable[[str], None]


class RevivalError(Exception):
    """Something that must hold did not; the sentence says what."""


def account_key(organisation: str) -> SigningKey:
    """Of an organisation's own money, which every chain of the genesis gives it."""
    return dev_key(f"{organisation} account")


# -- The cluster -----------------------------------------------------------------------------------


def add_stand_by(cluster: Cluster, genesis: Genesis) -> str:
    """A fifth node that follows all chains and has a validator key that no set holds; its name."""
    known = cluster.members
    first = max(one.api_port for one in known) + 1, max(one.p2p_port for one in known) + 1
    api_port, p2p_port = free_ports(1, first)
    name = f"n{STAND_BY}"
    member = Member(name, "validator", "", STAND_BY_KEY, api_port, p2p_port)
    write_home(cluster.folder / name, member, genesis, known[0])
    cluster.nodes.append(NodeRecord(member))
    cluster.start(name)
    return name


# -- Load ------------------------------------------------------------------------------------------


class Load:
    """Transfers within MET and NOR, orders, transfers between all chains, until it is stopped.

    What is refused, as transfers to a frozen region are, is counted by its reason.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for what is under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        friend = dev_key("friend").public_key

        def abroad(chain: str) -> TransferAbroad:
            return TransferAbroad(chain, friend, Asset.GTX, GTX)

        near = Transfer(friend, Asset.GTX, GTX)
        steps: list[tuple[str, SigningKey, Payload | None]] = [
            (REGION, account_key("egat"), near),
            (REGION, dev_key(DEV_ACCOUNT), None),  # An order.
            (REGION, account_key("pea"), abroad("TH")),
            (OTHER, account_key("payment"), abroad(REGION)),
            (OTHER, account_key("egat"), near),
            ("TH", account_key("erc"), abroad(REGION)),
            (REGION, account_key("pea"), abroad(OTHER)),
            ("TH", account_key("egat"), abroad(OTHER)),
        ]
        with Client(self._url) as client:
            for chain, key, payload in cycle(steps):
                if self._stop.wait(LOAD_PAUSE_S):
                    return
                try:
                    self._send(client, chain, key, payload)
                    self.sent[chain] += 1
                except (RpcError, NodeUnreachable) as error:
                    reason = error.reason if isinstance(error, RpcError) else "node_unreachable"
                    self.refused[reason] += 1

    @staticmethod
    def _send(client: Client, chain: str, key: SigningKey, payload: Payload | None) -> None:
        if payload is not None:
            client.send(client.sign(key, chain, payload))
            return
        order = client.build_order(
            key,
            side=Side.BUY,
            energy_wh=100,
            limit_mthb=3_000,
            location=LOCATION,
            source=Source.ANY,
            expires_hours=1,
        )
        client.send(order)


# -- What happens ----------------------------------------------------------------------------------


class Revival:
    """The story on a running cluster. Every step raises RevivalError when it does not come true."""

    def __init__(self, cluster: Cluster, genesis: Genesis, tell: Tell) -> None:
        self.cluster = cluster
        self.genesis = genesis
        self.tell = tell
        assert genesis.national is not None  # Without a national chain nobody could vote.
        self.national = genesis.national.name
        self.client = Client(cluster.members[0].api_url, timeout_s=60.0)

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def shard(self, client: Client | None = None) -> ShardDetail:
        """MET as the national chain sees it."""
        return (client or self.client).shard(REGION)

    def send(self, key: SigningKey, chain: str, payload: Payload) -> str:
        """A transaction, once it is in a block; its id. Errors: RpcError."""
        sent = self.client.send(self.client.sign(key, chain, payload))
        self.client.wait_for([sent], timeout_s=PATIENCE_S)
        return sent

    # -- Before ------------------------------------------------------------------------------------

    def check_amounts(self) -> dict[str, int]:
        """Nothing that exists appears or vanishes: every chain's accounts against the escrow.

        The sums of all chains' accounts, by asset. Waits until nothing is on its way.
        """
        self._until("nothing is on its way between chains", self._is_quiet)
        shards = self._shards()
        held = {name: self._holdings(name) for name in self.genesis.chain_names}
        lost = sum(one.lost.gtx_ugtx for one in shards.values())
        if lost:
            raise RevivalError(f"{lost} ugtx count as lost")
        for holds, sentence in supply_checks(self.genesis, held, shards):
            if not holds:
                raise RevivalError(sentence)
        return {
            asset: sum(one[asset] for one in held.values())
            for asset in ("energy_wh", "thb_uthb", "gtx_ugtx")
        }

    def _shards(self) -> dict[str, ShardDetail]:
        names = [region.name for region in self.genesis.chains]
        return {name: self.client.shard(name) for name in names}

    def _holdings(self, chain: str) -> dict[str, int]:
        return vars(self.client.supply(chain).holdings)

    def _is_quiet(self) -> bool:
        shards = self._shards()
        if any(one.queue_down or one.queue_up for one in shards.values()):
            return False
        return all(
            self._holdings(name)["gtx_ugtx"] == one.escrow.gtx_ugtx for name, one in shards.items()
        )

    # -- Frozen ------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Certify a second header of the newest accepted block, and bring it to the nation."""
        height = self.shard().checkpoint.height
        told = self.client.ask("chain_getFinality", Finality, block=height, chain=REGION)
        header = decode(Header, told.header)
        forged = replace(header, time_ms=header.time_ms + 1)
        command = SubmitCheckpoint(REGION, encode(forged), encode(self._certify(forged)), ())
        self.send(dev_key(DEV_ACCOUNT), self.national, command)
        self._until(f"{REGION} is frozen", lambda: self.shard().status is RegionStatus.FROZEN)
        self.tell(f"{REGION} is frozen: its keys have certified two headers of block {height}")

    def _certify(self, header: Header) -> QuorumCertificate:
        members = self.genesis.chain(REGION).genesis_validators.members
        keys = {
            key.public_key: key
            for key in (dev_key(validator_name(index)[1]) for index in range(len(members)))
        }
        signed = vote_bytes(Phase.COMMIT, header.chain_id, header.height, 0, header.hash)
        signatures = tuple(
            IndexedSignature(index, keys[member.public_key].sign(signed))
            for index, member in enumerate(members)
        )
        return QuorumCertificate(Phase.COMMIT, header.height, 0, header.hash, signatures)

    # -- The vote ----------------------------------------------------------------------------------

    def new_authorities(self) -> tuple[NewAuthority, ...]:
        """Those of the genesis, but for the one whose place the fifth node takes."""
        names = [validator_name(index) for index in range(len(AUTHORITIES))]
        return tuple(
            NewAuthority(
                organisation,
                dev_key(STAND_BY_KEY if name == REPLACED else name).public_key,
                1,
            )
            for organisation, name in names
        )

    def propose(self) -> int:
        """Put it to the vote; the proposal's number."""
        base = self.shard().checkpoint
        content = Reincarnation(REGION, base.height, base.hash, self.new_authorities())
        command = Propose(f"{REGION} goes on", "It is frozen.", content)
        sent = self.send(dev_key(DEV_ACCOUNT), self.national, command)
        told = self.client.transaction(sent)
        assert isinstance(told, IncludedTransaction)  # `send` has waited for its block.
        number = next(int(one["proposal"]) for one in told.events if "proposal" in one)
        self.tell(f"proposal {number}: {REGION} goes on from block {base.height}")
        return number

    def vote(self, number: int) -> None:
        """All stake says yes, and the regulator approves."""
        for index in range(len(AUTHORITIES)):
            self.send(stake_key(validator_name(index)[1]), self.national, Vote(number, Choice.YES))
        self.send(operator_key("erc"), self.national, ApproveAsAuthority(number))
        self.tell("all stake has voted yes, and the regulator has approved")

    def await_passed(self, number: int) -> None:
        """Until the vote is carried out."""

        def passed() -> bool:
            status = self.client.ask("gov_getProposal", ProposalDetail, id=number).status
            if status not in ("voting", "queued", "executed"):
                raise RevivalError(f"proposal {number} has {status}")
            return status is ProposalStatus.EXECUTED

        self._until(f"proposal {number} is carried out", passed)
        born = self.shard().incarnations[-1]
        told = f"{REGION} is incarnation {born.number} from block {born.height + 1} on"
        self.tell(told)

    # -- After -------------------------------------------------------------------------------------

    def await_agreement(self, blocks: int = 3) -> int:
        """Until all nodes have new blocks of the present incarnation and agree; the height."""
        born = self.shard().incarnations[-1]
        goal = born.height + blocks
        roots: dict[str, set[str]] = {}
        for member in self.cluster.members:
            with Client(member.api_url) as client:
                self._until(
                    f"{member.name} has block {goal} of {REGION}",
                    lambda client=client: _follows(client, born.chain_id, goal),  # type: ignore[misc]
                )
                header = client.block(goal, REGION).header
                roots.setdefault(header.state_root.hex(), set()).add(member.name)
        if len(roots) != 1:
            raise RevivalError(f"nodes disagree on block {goal} of {REGION}: {roots}")
        self.tell(f"all {len(self.cluster.members)} nodes agree on {REGION}'s block {goal}")
        return goal

    def signers(self, height: int) -> set[bytes]:
        """Keys whose signatures are in the certificate of one of MET's blocks."""
        members = self.client.validators(REGION).items
        told = self.client.ask("chain_getFinality", Finality, block=str(height), chain=REGION)
        return {members[index].public_key for index in told.signers}

    def await_status(self, transfer: str, wanted: str) -> None:
        """Until a transfer between chains has come to its end."""
        self._until(
            f"transfer {transfer[:16]} is {wanted}",
            lambda: self.client.transfer(transfer).status == wanted,
        )

    def gtx_of(self, address: bytes, chain: str) -> int:
        """What an account holds on a chain, in ugtx; 0 for one that is not there."""
        try:
            rows = self.client.balance(address, chain).chains
        except RpcError as error:
            if error.reason == "account_not_found":
                return 0
            raise
        return sum(row.gtx_ugtx for row in rows)

    def until_gtx(self, address: bytes, chain: str, ugtx: int) -> None:
        """Until an account holds just this."""
        self._until(f"{ugtx} ugtx on {chain}", lambda: self.gtx_of(address, chain) == ugtx)

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            for member in self.cluster.members:
                self.cluster.check_alive(member.name)
            try:
                if condition():
                    return
            except NodeUnreachable:
                what = f"{what} (a node did not answer)"
            if time.monotonic() > end:
                raise RevivalError(f"not within {PATIENCE_S:.0f} s: {what}")
            time.sleep(POLL_S)

    def play(self) -> None:
        """All of it. Errors: RevivalError, RpcError, ClusterError."""
        arriving, leaving, later = (dev_key(f"revival {one}").public_key for one in "abc")
        sender, home = account_key("mea"), account_key("mea").public_key
        before = self.check_amounts()
        owned = self.gtx_of(home, REGION)
        self.tell(f"before: {_told(before)}")
        load = Load(self.cluster.members[1].api_url)
        load.start()
        try:
            heights = watch.heights(self.client)
            self._until("a minute of load", lambda: load.sent.total() >= 60)
            there = self.send(
                dev_key(DEV_ACCOUNT),
                self.national,
                TransferAbroad(REGION, arriving, Asset.GTX, GTX),
            )
            self.freeze()
            void = self.send(sender, REGION, TransferAbroad(self.national, leaving, Asset.GTX, GTX))
            self.tell("one transfer is on its way to it, another has left it and cannot arrive")
            number = self.propose()
            self.vote(number)
            self.await_passed(number)
            goal = self.await_agreement()
            self._check_replaced()
            self.await_status(there, "credited")
            self.until_gtx(arriving, REGION, GTX)
            self.until_gtx(home, REGION, owned)
            if self.gtx_of(leaving, self.national):
                raise RevivalError(f"transfer {void} of the void history has arrived")
            self.tell("the one has arrived; the other's amount is back with its sender")
            sent = self.send(sender, REGION, TransferAbroad(OTHER, later, Asset.GTX, GTX))
            self.await_status(sent, "credited")
            self.tell(f"a new transfer from {REGION} to {OTHER} has arrived")
            now = watch.heights(self.client)
            for name in (self.national, OTHER):
                if now[name] <= heights[name] + goal - heights[REGION]:
                    raise RevivalError(f"{name} has not gone on: {heights[name]}, {now[name]}")
        finally:
            load.stop()
        self.tell(f"load: {dict(load.sent)} sent, {dict(load.refused)} refused")
        after = self.check_amounts()
        self.tell(f"after:  {_told(after)}")
        if after["gtx_ugtx"] != before["gtx_ugtx"]:
            raise RevivalError(f"gtx before {before['gtx_ugtx']}, after {after['gtx_ugtx']} ugtx")

    def _check_replaced(self) -> None:
        """The new authority signs, and the one it replaced does not."""
        signs: set[bytes] = set()
        new, old = (dev_key(one).public_key for one in (STAND_BY_KEY, REPLACED))

        def has_signed() -> bool:
            height = self.client.head(REGION).height
            signs.update(self.signers(height))
            return new in signs

        self._until("the new authority signs", has_signed)
        if old in signs:
            raise RevivalError(f"{format_address(old)} signs though its place is another's")
        self.tell("the new authority signs; the one it replaced does not")


def _follows(client: Client, chain_id: bytes, height: int) -> bool:
    (row,) = [one for one in client.status().chains if one.chain == REGION]
    return row.chain_id == chain_id and row.head.height >= height


def _told(amounts: dict[str, int]) -> str:
    gtx, thb, energy = (amounts[one] for one in ("gtx_ugtx", "thb_uthb", "energy_wh"))
    return f"all accounts hold {gtx} ugtx, {thb} uTHB, {energy} Wh; all of it is accounted for"


# -- The command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if all of it came true."""
    parser = argparse.ArgumentParser(
        prog="scripts/revive",
        description="Freeze a region of a loaded local network and let it go on by a vote, with "
        "another authority; compare all amounts before and after. About four minutes.",
    )
    parser.add_argument("--keep", action="store_true", help="leave folders and logs behind")
    options = parser.parse_args(arguments)
    screen.prepare_streams()
    console = screen.console()
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()

    def tell(sentence: str) -> None:
        passed = time.monotonic() - started
        console.print(f"{passed:6.1f} s  {sentence}", highlight=False, markup=False, soft_wrap=True)

    folder = Path(tempfile.mkdtemp(prefix="gridtokenx-revival-"))
    try:
        _play(folder / "clusters" / "revival", tell)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (RevivalError, RpcError, ClusterError, NodeUnreachable) as error:
        tell(f"failed: {error}; logs are in {folder}")
        return EXIT_FAILED
    if options.keep:
        tell(f"logs are in {folder}")
    else:
        shutil.rmtree(folder)
    tell("all of it came true")
    return 0


def _play(folder: Path, tell: Tell) -> None:
    now_ms = time.time_ns() // 1_000_000
    genesis = local_genesis(genesis_time_ms=now_ms)
    genesis = replace(
        genesis, chains=tuple(one for one in genesis.chains if one.name in (REGION, OTHER))
    )
    cluster = create(folder, genesis, observers=0, owner=this_process(), first_ports=FIRST_PORTS)
    try:
        name = add_stand_by(cluster, genesis)
        watch.wait_ready(cluster)
        tell(f"{len(cluster.members)} nodes are ready; {name} watches")
        with Client(cluster.members[0].api_url, timeout_s=60.0) as client:
            fund_dev_account(client)
        revival = Revival(cluster, genesis, tell)
        try:
            revival.play()
        finally:
            revival.close()
    finally:
        cluster.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
