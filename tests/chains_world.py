"""A national chain and its regions without network or disk: real rules, real certificates.

Each chain is one decided history: consensus within a chain is the simulator's subject, here it is
what happens between chains. Every block is executed twice, by its proposer and by a node that only
has the state and the block. Certificates are signed by a quorum of the set of their height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gridtokenx.chain.block import Block, Event
from gridtokenx.chain.crossing import (
    check_slice,
    incarnation_id,
    next_slice,
)
from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.chain.transition import Parent, execute_block, propose_block
from gridtokenx.chain.validator_sets import (
    ScheduledSet,
    current_set,
)
from gridtokenx.cluster.network import NATIONAL, dev_key, local_genesis, validator_name
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    vote_bytes,
)
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.log import log_to, messages_from
from gridtokenx.interchain.model import (
    QUEUE,
    STRANDED,
    Bounced,
    Credit,
    Downward,
    Region,
    SubmitCheckpoint,
    SupplyReport,
    Upward,
)
from gridtokenx.interchain.rules import inbox_of
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, Asset
from gridtokenx.primitives.codec import decode_any, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.validators import ValidatorSet

KEYS = {key.public_key: key for key in (dev_key(validator_name(index)[1]) for index in range(16))}
RELAYER = dev_key(validator_name(0)[1])  # Any authority's: the national chain knows its key.
ASSETS = {Asset.ENERGY: "energy_wh", Asset.THB: "thb_uthb", Asset.GTX: "gtx_ugtx"}


def certify(
    validators: ValidatorSet, chain_id: bytes, height: int, block_hash: bytes
) -> QuorumCertificate:
    """What all members but as many as may be missing sign."""
    signed = vote_bytes(Phase.COMMIT, chain_id, height, 0, block_hash)
    signatures, weight = [], 0
    for index, member in enumerate(validators.members):
        if not validators.is_quorum(weight):
            key = KEYS[member.public_key]
            signatures.append(IndexedSignature(index, key.sign(signed)))
            weight += member.weight
    return QuorumCertificate(Phase.COMMIT, height, 0, block_hash, tuple(signatures))


@dataclass
class Chain:
    """One chain's decided history, and the transactions that wait for its next block."""

    spec: ChainSpec
    values: MemoryReader = field(default_factory=MemoryReader)
    tree: StateTree = field(default_factory=StateTree)
    parent: Parent = field(init=False)
    blocks: dict[int, Block] = field(default_factory=dict)
    certificates: dict[int, QuorumCertificate] = field(default_factory=dict)
    states: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    waiting: list[Transaction] = field(default_factory=list)
    nonces: dict[bytes, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=lambda: {0: 0})  # Events up to a height.
    refused: list[Rejected] = field(default_factory=list)

    def __post_init__(self) -> None:
        overlay = Overlay(self.values)
        self.spec.install(overlay)
        self.store(overlay)
        genesis_ms = self.spec.genesis.genesis_time_ms
        self.parent = Parent(0, self.spec.chain_id, genesis_ms, self.tree.root)

    @property
    def height(self) -> int:
        return self.parent.height

    def store(self, overlay: Overlay) -> None:
        self.tree.commit(self.tree.update(overlay.changes()))
        for key, raw in overlay.changes():
            if raw is None:
                self.values.values.pop(key, None)
            else:
                self.values.values[key] = raw

    def send(self, key: SigningKey, payload: Payload) -> Transaction:
        sender = key.public_key
        nonce = self.nonces.get(sender) or ledger.account(self.values, sender).nonce
        transaction = sign_transaction(key, self.spec.chain_id, nonce, payload)
        self.nonces[key.public_key] = nonce + 1
        self.waiting.append(transaction)
        return transaction

    def grow(self, view: Chain | None, *, keep_state: bool = False) -> Block:
        """Decide one more block, which takes what is due of the national chain in `view`."""
        signers = current_set(self.values, self.height + 1)
        last = self.certificates.get(self.height)
        execution, refused = propose_block(
            self.spec, self.values, self.tree, self.parent,
            view=0, proposer_index=self.height % len(signers.accounts),
            time_ms=self.spec.opens_ms(self.parent.time_ms),
            candidates=self.waiting, last_commit=b"" if last is None else encode(last),
            evidence=self.evidence, taken=next_slice(view, self.values, self.spec),
        )  # fmt: skip
        self.evidence = ()
        block = execution.block
        if view is not None:
            assert check_slice(view, self.values, self.spec, block)
        again = execute_block(
            self.spec, self.values, self.tree, self.parent, block, block.decode_transactions()
        )
        assert again.block.header.hash == block.header.hash
        self._decide(block, signers)
        self.store(again.overlay)
        self.events += [event for receipt in again.receipts for event in receipt.events]
        self.told[self.height] = len(self.events)
        self._forget(refused)
        if keep_state:
            self.states[self.height] = dict(self.values.values)
        return block

    def _decide(self, block: Block, signers: ScheduledSet) -> None:
        header = block.header
        self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        self.blocks[header.height] = block
        self.certificates[header.height] = certify(
            signers.validators, self.spec.chain_id, header.height, header.hash
        )

    def _forget(self, refused: Sequence[tuple[bytes, Rejected]]) -> None:
        """Whoever was refused signs anew; its nonce is the state's."""
        self.refused = [error for _, error in refused]
        self.waiting = []
        for sender in self.nonces:
            self.nonces[sender] = ledger.account(self.values, sender).nonce

    # -- As a NationalView -----------------------------------------------------------------------

    def head(self) -> tuple[int, bytes]:
        return (self.height, self.parent.hash) if self.height else (0, bytes(32))

    def hash_at(self, height: int) -> bytes | None:
        block = self.blocks.get(height)
        return None if block is None else block.header.hash

    def messages(self, region: str, nonce: int, count: int, up_to_height: int) -> list[Downward]:
        found = messages_from(self.values, region, nonce, count, up_to_height)
        return [one for one in found if isinstance(one, Downward)]


@dataclass
class Chains:
    """The network: `national` and `regions`, a relayer for each region, and the books of it all."""

    genesis: Genesis = field(default_factory=lambda: local_genesis(with_national=True))
    national: Chain = field(init=False)
    regions: dict[str, Chain] = field(init=False)
    sent_up: dict[str, list[bytes]] = field(init=False)
    supply: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.national = Chain(self.genesis.chain(NATIONAL))
        names = [region.name for region in self.genesis.chains]
        self.regions = {name: Chain(self.genesis.chain(name)) for name in names}
        self.sent_up = {name: [] for name in names}
        self.supply = self.totals()

    def chain(self, name: str) -> Chain:
        return self.national if name == NATIONAL else self.regions[name]

    def region(self, name: str) -> Region:
        return checkpoints.region_of(self.national.values, name)

    def grow_region(self, name: str, *, view: Chain | None = None, keep: bool = False) -> Block:
        """A block of a region; what it appended to its log goes to the relayer's store."""
        region = self.regions[name]
        block = region.grow(view or self.national, keep_state=keep)
        log = log_to(region.values, NATIONAL)
        for nonce in range(len(self.sent_up[name]), log.count):
            queued = QUEUE.get(region.values, _queue_key(nonce))
            assert queued is not None
            self.sent_up[name].append(encode(queued.message))
        return block

    def round(self) -> None:
        """A block of every chain and a checkpoint of every region."""
        for name in self.regions:
            self.grow_region(name)
            self.relay(name)
        self.national.grow(None)

    def settle(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.round()

    def checkpoint(self, name: str, height: int | None = None) -> SubmitCheckpoint:
        """What a relayer submits: a header and all messages since the last checkpoint."""
        region = self.regions[name]
        height = region.height if height is None else height
        header = region.blocks[height].header
        messages = self.sent_up[name][self.region(name).outbox_count : header.outbox_count]
        certificate = encode(region.certificates[height])
        return SubmitCheckpoint(name, encode(header), certificate, tuple(messages))

    def relay(self, name: str, height: int | None = None) -> None:
        self.national.send(RELAYER, self.checkpoint(name, height))

    def reincarnate(self, name: str) -> None:
        """The region goes on from its last accepted checkpoint under another chain id."""
        region, seen = self.regions[name], self.region(name)
        born = incarnation_id(seen.chain_id, seen.incarnation + 1, seen.hash)
        overlay = Overlay(self.national.values)
        checkpoints.reincarnate(overlay, name, born, self.national.height)
        self.national.store(overlay)
        header = region.blocks[seen.height].header
        reborn = Chain(replace(region.spec, reborn_id=born))
        reborn.values.values.clear()
        reborn.values.values.update(region.states[seen.height])
        reborn.tree = StateTree(reborn.values.values.items())
        assert reborn.tree.root == header.state_root
        reborn.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        reborn.states = {seen.height: region.states[seen.height]}
        reborn.blocks = {seen.height: region.blocks[seen.height]}
        reborn.events = region.events[: region.told[seen.height]]
        reborn.told = {seen.height: len(reborn.events)}
        self.regions[name] = reborn
        del self.sent_up[name][header.outbox_count :]

    # -- Invariants --------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """What the national chain answers for: its accounts and all escrow, by asset."""
        held = ledger.holdings(self.national.values)
        found = {}
        for name in ASSETS.values():
            escrow = sum(getattr(self.region(one).escrow, name) for one in self.regions)
            found[name] = held[name] + escrow
        return found

    def check(self) -> None:
        """I14: nothing appears or vanishes anywhere; every unit is on one side or on its way."""
        for chain in (self.national, *self.regions.values()):
            self._check_accounts(chain)
        totals = self.totals()
        made = [self.region(name).reported for name in self.regions]
        assert totals["gtx_ugtx"] == self.supply["gtx_ugtx"]
        assert totals["energy_wh"] == sum(report.energy_wh for report in made)
        assert totals["thb_uthb"] == sum(report.thb_uthb for report in made)
        for name in self.regions:
            self._check_region(name)

    def _check_accounts(self, chain: Chain) -> None:
        holdings = ledger.holdings(chain.values)
        accounts = [one for _, one in ACCOUNTS.items(chain.values)]
        assert holdings["gtx_ugtx"] == sum(one.gtx_ugtx for one in accounts)
        assert holdings["energy_wh"] == sum(one.energy_wh + one.energy_held_wh for one in accounts)
        assert holdings["thb_uthb"] == sum(
            one.thb_uthb + one.escrow_uthb + one.bond_uthb for one in accounts
        )
        assert not list(STRANDED.items(chain.values))

    def _check_region(self, name: str) -> None:
        """What is on the region, on its way to it and from it, is its escrow and what it has made
        since its last report."""
        region, seen = self.regions[name], self.region(name)
        held = ledger.holdings(region.values)
        up = [self._decoded(raw) for raw in self.sent_up[name][seen.outbox_count :]]
        inbox = inbox_of(region.values)
        assert inbox is not None
        tail = log_to(self.national.values, name).count
        down = self.national.messages(name, inbox.next, tail, self.national.height)
        total, crossed = ledger.supply(region.values), ledger.crossings(region.values)
        now = SupplyReport(
            total.energy_minted_wh, total.energy_burned_wh, total.thb_uthb,
            crossed.thb_departed_uthb, crossed.thb_arrived_uthb,
        )  # fmt: skip
        fresh = {
            "energy_wh": now.energy_wh - seen.reported.energy_wh,
            "thb_uthb": now.thb_uthb - seen.reported.thb_uthb,
            "gtx_ugtx": 0,
        }
        for asset, field_name in ASSETS.items():
            moving = sum(_amount(message, asset) for message in (*up, *down))
            escrow = getattr(seen.escrow, field_name)
            assert held[field_name] + moving == escrow + fresh[field_name], (name, field_name)

    @staticmethod
    def _decoded(raw: bytes) -> object:
        return decode_any(Upward, raw)


def _amount(message: object, asset: Asset) -> int:
    credit = message.credit if isinstance(message, Bounced) else message
    return credit.amount if isinstance(credit, Credit) and credit.asset is asset else 0


def _queue_key(nonce: int) -> bytes:
    return NATIONAL.encode() + b"\x00" + nonce.to_bytes(8, "big")
