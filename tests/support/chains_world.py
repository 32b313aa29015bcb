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
    home_of,
    next_slice,
)
from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import Payload, Transaction, sign_deposit, sign_transaction
from gridtokenx.chain.transition import Parent, execute_block, propose_block, signing_set
from gridtokenx.chain.validator_sets import ScheduledSet
from gridtokenx.cluster.devnet import (
    NATIONAL,
    account_address,
    dev_key,
    local_genesis,
    operator_key,
    validator_name,
)
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    vote_bytes,
)
from gridtokenx.interchain import checkpoints, incarnations
from gridtokenx.interchain.log import log_to, logs_root, messages_from, next_head
from gridtokenx.interchain.model import (
    QUEUE,
    STRANDED,
    AuthorityMember,
    Bounced,
    Credit,
    Downward,
    Message,
    Region,
    SubmitCheckpoint,
    Upward,
    is_void,
)
from gridtokenx.interchain.rules import inbox_of, supply_now
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, Asset, Deposit
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
        self.tree.apply(self.tree.update(overlay.changes()))
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
        signers = signing_set(self.spec, self.values, self.height + 1)
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

    # -- As a NationalView -------------------------------------------------------------------------

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
    captured: set[str] = field(default_factory=set)  # Regions that are what their quorum says.

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

    def deposit(self, name: str, to: bytes, amount_uthb: int) -> None:
        """The payment authority's, with its statement of all deposits that are in the chain or
        wait for its next block."""
        region, authority = self.regions[name], operator_key("payment")
        so_far = ledger.deposits(region.values).total_uthb + sum(
            one.payload.amount_uthb for one in region.waiting if isinstance(one.payload, Deposit)
        )
        command = sign_deposit(
            authority, region.spec.genesis_id, to, amount_uthb, so_far_uthb=so_far
        )
        region.send(authority, command)

    def round(self) -> None:
        """A block of every chain and a checkpoint of every region that has not been captured."""
        for name in [one for one in self.regions if one not in self.captured]:
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

    def reincarnate(
        self, name: str, height: int | None = None, keys: Sequence[SigningKey] = ()
    ) -> None:
        """The region goes on from an accepted block, by default the newest, under another chain id
        and, where `keys` are given, under other authorities. As a vote does, without the vote.
        """
        region, seen = self.regions[name], self.region(name)
        height = seen.height if height is None else height
        header = region.blocks[height].header
        old = signing_set(region.spec, region.values, region.height + 1)
        members = [
            AuthorityMember(one.public_key, 1, account_address("mea"))
            for one in sorted(keys, key=lambda key: key.public_key)
        ] or [
            AuthorityMember(member.public_key, member.weight, account)
            for member, account in zip(old.validators.members, old.accounts, strict=True)
        ]
        overlay, home = Overlay(self.national.values), home_of(self.national.spec)
        incarnations.hold(overlay, name, 1, self.national.height)
        incarnations.reincarnate(
            overlay, name, height, header.hash, members,
            proposal=1, home=home, height=self.national.height,
        )  # fmt: skip
        self.national.store(overlay)
        self.follow_incarnation(name)

    def follow_incarnation(self, name: str) -> None:
        """What every node of the region does once the national chain has a new incarnation."""
        region = self.regions[name]
        born = checkpoints.incarnations_of(self.national.values, name)[-1]
        height = born.height
        header = region.blocks[height].header
        assert header.hash == born.hash
        reborn = Chain(region.spec.with_incarnation(born))
        reborn.values.values.clear()
        reborn.values.values.update(region.states[height])
        reborn.tree = StateTree(reborn.values.values.items())
        assert reborn.tree.root == header.state_root
        reborn.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        reborn.states = {at: state for at, state in region.states.items() if at <= height}
        reborn.blocks = {at: block for at, block in region.blocks.items() if at <= height}
        reborn.certificates = {at: one for at, one in region.certificates.items() if at <= height}
        reborn.events = region.events[: region.told[height]]
        reborn.told = {at: count for at, count in region.told.items() if at <= height}
        self.regions[name] = reborn
        del self.sent_up[name][header.outbox_count :]

    def forge(self, name: str, messages: Sequence[Message], inbox_next: int | None = None) -> None:
        """The region's quorum certifies a header that follows from no block, with any messages."""
        region, seen = self.regions[name], self.region(name)
        raws = [encode(one) for one in messages]
        head, home = seen.outbox_head, self.national.spec.genesis_id
        for offset, raw in enumerate(raws):
            nonce = seen.outbox_count + offset
            head = next_head(head, seen.genesis_id, home, nonce, raw)
        count = seen.outbox_count + len(raws)
        header = replace(
            region.blocks[region.height].header,
            chain_id=seen.chain_id,
            height=seen.height + 1,
            set_hash=seen.validators.hash,
            next_set_hash=seen.validators.hash,
            outbox_root=logs_root([(home, count, head)]),
            outbox_count=count,
            inbox_next=seen.inbox_next if inbox_next is None else inbox_next,
        )
        certificate = certify(seen.validators, seen.chain_id, header.height, header.hash)
        self.national.send(
            RELAYER,
            SubmitCheckpoint(name, encode(header), encode(certificate), tuple(raws)),
        )

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
        regions = [self.region(name) for name in self.regions]
        made, lost = [one.reported for one in regions], [one.lost for one in regions]
        assert totals["gtx_ugtx"] == self.supply["gtx_ugtx"] + sum(one.gtx_ugtx for one in lost)
        energy_wh = sum(one.energy_wh for one in (*made, *lost))
        assert totals["energy_wh"] == energy_wh
        assert totals["thb_uthb"] == sum(one.thb_uthb for one in (*made, *lost))
        for name in self.regions:
            if name not in self.captured:
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
        void = region.spec.incarnations
        down = [
            one
            for one in self.national.messages(name, inbox.next, tail, self.national.height)
            if not (isinstance(one, Bounced) and is_void(void, one.incarnation, one.nonce))
        ]
        now = supply_now(region.values)
        made = now.thb_held_uthb + now.thb_departed_uthb - now.thb_arrived_uthb
        fresh = {
            "energy_wh": now.energy_wh - seen.reported.energy_wh,
            "thb_uthb": made - seen.reported.thb_uthb,  # Stated or not.
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
