"""A node without network for API tests: real database, real rules, blocks made on demand."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from gridtokenx import __version__
from gridtokenx.chain.block import decode_block
from gridtokenx.chain.genesis import BlockClock, Genesis
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.chain.transaction import (
    Payload,
    Transaction,
    check_signature,
    decode_transaction,
    sign_transaction,
)
from gridtokenx.cluster.devnet import NATIONAL, dev_key, local_genesis, operator_key, validator_name
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate, vote_bytes
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.grid.model import MeterReading, SubmitReadings, signed_bytes
from gridtokenx.home.config import Config
from gridtokenx.home.settings import ApiSettings
from gridtokenx.interchain.checkpoints import region_of
from gridtokenx.interchain.log import messages_from
from gridtokenx.interchain.model import SubmitCheckpoint
from gridtokenx.ledger.model import Deposit
from gridtokenx.node.executor import Executor
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.storage.database import Database
from gridtokenx.storage.national_view import DecidedNational
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce
from gridtokenx.views.metrics import NodeCollector
from gridtokenx.views.status import ChainStatus, Check, Head, Health, NetworkStatus, PeerStatus

START_MS = 1_767_225_600_000  # 2026-01-01 00:00 UTC, a slot boundary
FAR_MS = START_MS + 10 * 365 * 86_400_000
LOCATION = "BKK-01-SUB001"
SELLER, BUYER, STRANGER = dev_key("api seller"), dev_key("api buyer"), dev_key("api stranger")
SELLER_METER, BUYER_METER = dev_key("api seller meter"), dev_key("api buyer meter")
OPEN_API = ApiSettings(port=0, rate_per_second=1_000_000)


@dataclass
class MemoryNode:
    """Implements NodeHandle. A block of a chain of `names` comes when `make_block` is called.

    With `TH` among them votes last four blocks and are carried out one block later, and `relay`
    brings a region's newest block to it.
    """

    folder: Path
    names: tuple[str, ...] = ("MET", "NOR")
    local_signer: SigningKey | None = None
    node_id: str = "test-node"
    peer_id: str = "12D3KooWTest"
    role: str = "observer"
    version: str = __version__
    config: Config = field(default_factory=Config)
    stuck: bool = False
    peer_list: tuple[PeerStatus, ...] = (PeerStatus("12D3KooWPeer", ("/ip4/127.0.0.1/tcp/1",)),)
    network_status: NetworkStatus = field(default_factory=NetworkStatus)
    crossings: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.genesis = _genesis(with_national=NATIONAL in self.names)
        self.database = Database(self.folder)
        self.now_ms = START_MS
        self.executors = {}
        view = DecidedNational(self.database.chain(NATIONAL))
        for name in self.names:
            national = view if NATIONAL in self.names and name != NATIONAL else None
            self.executors[name] = Executor(
                self.genesis.chain(name),
                self.database.chain(name),
                lambda: self.now_ms,
                national=national,
            )
        self.metrics = CollectorRegistry()
        self.metrics.register(NodeCollector(self))
        self.lock = threading.Lock()
        self.statuses: dict[str, ChainStatus] = {}
        self.unanswered: list[Future[list[Rejected | None]]] = []
        for name in self.executors:
            self._refresh(name)

    def close(self) -> None:
        self.statuses = {}
        self.database.close()

    # -- NodeHandle --------------------------------------------------------------------------------

    def chains(self) -> Mapping[str, ChainStatus]:
        return self.statuses

    def peers(self) -> tuple[PeerStatus, ...]:
        return self.peer_list

    def network(self) -> NetworkStatus:
        return self.network_status

    def health(self) -> Health:
        return Health({"disk": 0}, (Check("disk", True, "9 GiB", "1 GiB"),))

    def submit(self, chain: str, transactions: list[bytes]) -> Future[list[Rejected | None]]:
        future: Future[list[Rejected | None]] = Future()
        self.crossings.append(len(transactions))
        if self.stuck:
            self.unanswered.append(future)
            return future
        with self.lock:
            future.set_result([self.admit(chain, raw) for raw in transactions])
        return future

    def pending_status(self, chain: str, transaction_id: bytes) -> str | Rejected | None:
        return self.executors[chain].pending.status(transaction_id)

    def turned_away(self, chain: str, transaction_id: bytes) -> Rejected | None:
        return self.executors[chain].pending.turned_away(transaction_id)

    def pending_nonce(self, chain: str, address: bytes) -> int:
        return self.executors[chain].pending.next_nonce(address)

    # -- The test's hands --------------------------------------------------------------------------

    def admit(self, chain: str, raw: bytes) -> Rejected | None:
        try:
            transaction = decode_transaction(raw)
            check_signature(transaction)
        except Rejected as error:
            return error
        (verdict,), _ = self.executors[chain].pending.admit([transaction], heard=False)
        return verdict

    def sign(self, key: SigningKey, payload: Payload, chain: str = "MET") -> Transaction:
        """Signed with the next nonce that counts what waits."""
        nonce = self.pending_nonce(chain, key.public_key)
        return sign_transaction(key, self.genesis.chain(chain).chain_id, nonce, payload)

    def put(self, key: SigningKey, payload: Payload, chain: str = "MET") -> Transaction:
        """Signed and waiting; a refusal fails the test."""
        transaction = self.sign(key, payload, chain)
        refused = self.admit(chain, transaction.encoded)
        if refused is not None:
            raise refused
        return transaction

    def make_block(self, chain: str = "MET") -> int:
        """Build, certify with all validators, commit; the new height."""
        executor = self.executors[chain]
        height = executor.tip.height + 1
        block_hash = executor.build(0, 0).header.hash
        keys = [dev_key(validator_name(index)[1]) for index in range(4)]
        index_of = executor.tip.sets.at(height).validators.index_of
        vote = vote_bytes(Phase.COMMIT, executor.spec.chain_id, height, 0, block_hash)
        signatures = sorted(
            (IndexedSignature(index_of(key.public_key), key.sign(vote)) for key in keys),
            key=lambda one: one.index,
        )
        certificate = QuorumCertificate(Phase.COMMIT, height, 0, block_hash, tuple(signatures))
        executor.commit(block_hash, certificate)
        self._refresh(chain)
        return height

    def relay(self, region: str) -> None:
        """Bring a region's newest block, and all it has sent since the last one, to TH."""
        executor = self.executors[region]
        height = executor.tip.height
        raw, certificate = executor.store.block(height), executor.store.certificate(height)
        assert raw is not None
        assert certificate is not None
        header = decode_block(raw).header
        known = region_of(self.executors[NATIONAL].store, region).outbox_count
        missing = header.outbox_count - known
        messages = messages_from(executor.store, NATIONAL, known, missing, height)
        encoded = tuple(encode(one) for one in messages)
        command = SubmitCheckpoint(region, encode(header), certificate, encoded)
        self.put(dev_key(validator_name(0)[1]), command, NATIONAL)
        self.make_block(NATIONAL)

    def current_slot(self, chain: str = "MET") -> int:
        """The market slot of the next block."""
        executor = self.executors[chain]
        height = executor.tip.height + 1
        return slot_at(executor.spec.market_time_ms(height, 0))

    def populate(self) -> None:
        """Two participants with meters and money, in block 1."""
        for owner, meter, source in (
            (SELLER, SELLER_METER, Generation.SOLAR),
            (BUYER, BUYER_METER, Generation.NONE),
        ):
            self.put(operator_key("mea"), participant(owner))
            self.put(operator_key("mea"), registration(owner, meter, source))
            self.put(operator_key("payment"), Deposit(owner.public_key, 5_000_000_000))
        self.make_block()

    def trade(self) -> tuple[Transaction, Transaction]:
        """A sale and a purchase that meet in the block after the one that holds them: the block
        at the gate of their slot."""
        first = self.current_slot() + 1
        sell = self.put(SELLER, order(Side.SELL, 2000, 4000, SELLER_METER, Source.SOLAR, first))
        buy = self.put(BUYER, order(Side.BUY, 2000, 6000, BUYER_METER, Source.ANY, first))
        self.make_block()
        self.make_block()
        return sell, buy

    def read_meters(self, slot: int, export_wh: int, import_wh: int) -> None:
        """Readings of both meters at the ends of a slot and the one before, in which they stood
        still; included in the next block."""
        for owner, meter, out_wh, in_wh in (
            (SELLER, SELLER_METER, export_wh, 0),
            (BUYER, BUYER_METER, 0, import_wh),
        ):
            before = self._read(meter, slot - 1, 0, 0, 1)
            after = self._read(meter, slot, in_wh, out_wh, 2)
            self.put(owner, SubmitReadings((before, after)))

    def _read(
        self, meter: SigningKey, slot: int, import_wh: int, export_wh: int, seq: int
    ) -> MeterReading:
        chain_id = self.genesis.chain("MET").chain_id
        bare = MeterReading(meter.public_key, slot, import_wh, export_wh, seq, bytes(64))
        return replace(bare, signature=meter.sign(signed_bytes(chain_id, bare)))

    def _refresh(self, name: str) -> None:
        executor = self.executors[name]
        tip = executor.tip
        parent = tip.parent
        head = Head(
            parent.height,
            parent.hash,
            parent.time_ms,
            tip.market_ms,
            parent.state_root,
            tip.proposer_index,
        )
        status = ChainStatus(
            spec=tip.spec,
            head=head,
            view=tip.view,
            validators=tip.next_set.validators,
            prove=lambda key: _prove(executor, key),
            mempool_transactions=len(executor.pending),
            sync_state="live",
            sync_target=parent.height,
            finality_ms=tip.finality_ms,
        )
        self.statuses = {**self.statuses, name: status}


def _genesis(*, with_national: bool) -> Genesis:
    genesis = local_genesis(clock=BlockClock(START_MS, 900_000), with_national=with_national)
    if genesis.national is None:
        return genesis
    brisk = GovernanceParameters(voting_period_ms=4 * 900_000, execution_delay_ms=900_000)
    return replace(genesis, national=replace(genesis.national, governance=brisk))


def _prove(executor: Executor, key: bytes) -> tuple[bytes | None, StateProof]:
    _, value, proof = executor.prove(key)
    return value, proof


def participant(owner: SigningKey) -> RegisterParticipant:
    return RegisterParticipant(
        account=owner.public_key,
        role=Role.PROSUMER,
        kyc_ref=bytes(32),
        licence_class=LicenceClass.EXEMPT_LT_1000KVA,
        licence_expiry_ms=FAR_MS,
        vat_registered=False,
        territory="BKK",
        consent_version=1,
        daily_cap_wh=10**9,
    )


def registration(owner: SigningKey, meter: SigningKey, source: Generation) -> RegisterMeter:
    return RegisterMeter(
        meter_id=meter.public_key,
        owner=owner.public_key,
        location=LOCATION,
        nameplate_import_w=40_000,
        nameplate_export_w=0 if source is Generation.NONE else 40_000,
        source=source,
        prosumer_class=ProsumerClass.RESIDENTIAL,
    )


def order(
    side: Side, energy_wh: int, limit_mthb: int, meter: SigningKey, source: Source, slot: int
) -> PlaceOrder:
    return PlaceOrder(
        side=side,
        energy_wh=energy_wh,
        limit_mthb=limit_mthb,
        location=LOCATION,
        meter_id=meter.public_key,
        source=source,
        require=False,
        first_slot=slot,
        last_slot=slot,
        max_wh_per_slot=energy_wh,
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=(slot + 1) * 900_000,
    )


def account_value(node: MemoryNode, key: SigningKey) -> bytes:
    """The encoded account in the state, for comparison with proofs."""
    from gridtokenx.ledger.model import ACCOUNTS

    account = ACCOUNTS.get(node.executors["MET"].store, key.public_key)
    return encode(account)
