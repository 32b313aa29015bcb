"""Headers, blocks and receipts. Source: protocols/state-transition.md 5.

The hash of a block is the hash of its header and never changes when a later leader proposes it
again: `view0` is the view of its first proposal. Every root is in the same header, because a block
is executed before it is voted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from gridtokenx.chain.transaction import (
    MAX_TRANSACTION_BYTES,
    Transaction,
    decode_transaction,
)
from gridtokenx.chain.validator_sets import SetChangeRefused, ValidatorSetOrdered
from gridtokenx.consensus.evidence import Evidence, EvidenceKind
from gridtokenx.consensus.messages import View
from gridtokenx.governance.model import GovernanceEvent
from gridtokenx.grid.model import GridEvent
from gridtokenx.interchain.model import MAX_INBOX_MESSAGES, Downward, InterchainEvent
from gridtokenx.ledger.model import LedgerEvent
from gridtokenx.primitives.codec import Bytes32, Limit, decode, encode, wire
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.merkle import merkle_root
from gridtokenx.primitives.types import Address
from gridtokenx.registry.model import RegistryEvent
from gridtokenx.staking.model import StakingEvent
from gridtokenx.trading.model import TradingEvent

MAX_BLOCK_TRANSACTIONS = 20_000
MAX_BLOCK_BYTES = 6 * 1024 * 1024
MAX_COMMIT_BYTES = 16 * 1024

MAX_BLOCK_EVIDENCE = 16
MAX_EVENTS = 1_000_000  # Of one receipt: more than a block has time for.


@wire(44)
@dataclass(frozen=True, slots=True)
class ValidatorConvicted:
    """Event: evidence against a validator's key is in the chain, once for each offence."""

    public_key: Address
    offence: EvidenceKind
    offence_height: int
    offence_view: View


ChainEvent = ValidatorConvicted | ValidatorSetOrdered | SetChangeRefused
Event = (
    LedgerEvent
    | RegistryEvent
    | GridEvent
    | TradingEvent
    | StakingEvent
    | GovernanceEvent
    | InterchainEvent
    | ChainEvent
)
Evidences = Annotated[tuple[Evidence, ...], Limit(0, MAX_BLOCK_EVIDENCE)]
Messages = Annotated[tuple[Downward, ...], Limit(0, MAX_INBOX_MESSAGES)]
Commit = Annotated[bytes, Limit(0, MAX_COMMIT_BYTES)]


@wire(32)
@dataclass(frozen=True)
class Header:
    """What validators sign. Times in Unix ms; all hashes 32 bytes; unused roots are constants."""

    chain_id: Bytes32
    height: int
    view0: int
    time_ms: int
    parent_hash: Bytes32
    proposer_index: int
    set_hash: Bytes32
    next_set_hash: Bytes32
    transactions_root: Bytes32
    state_root: Bytes32
    results_root: Bytes32
    outbox_root: Bytes32
    outbox_count: int
    inbox_next: int
    inbox_root: Bytes32
    root_height: int
    root_hash: Bytes32
    history_root: Bytes32
    last_commit_hash: Bytes32
    evidence_root: Bytes32

    @cached_property
    def hash(self) -> bytes:
        """The block hash, `H("gtx.hdr" || cbor)`."""
        return tagged_hash("gtx.hdr", encode(self))


@wire(33)
@dataclass(frozen=True)
class Block:
    """A header, its transactions (canonical bytes), its parent's certificate, evidence, and on a
    region the messages of the national chain that it takes.
    """

    header: Header
    transactions: Annotated[
        tuple[Annotated[bytes, Limit(1, MAX_TRANSACTION_BYTES)], ...],
        Limit(0, MAX_BLOCK_TRANSACTIONS),
    ]
    last_commit: Commit
    evidence: Evidences
    inbox: Messages = ()

    @cached_property
    def encoded(self) -> bytes:
        """Canonical bytes, computed once."""
        return encode(self)

    def decode_transactions(self) -> list[Transaction]:
        """The transactions, parsed. Errors: as `decode_transaction`."""
        return [decode_transaction(raw) for raw in self.transactions]


@wire(34)
@dataclass(frozen=True)
class CompactBlock:
    """A block as proposed on the network: ids instead of bodies, which peers mostly have."""

    header: Header
    transaction_ids: Annotated[tuple[Bytes32, ...], Limit(0, MAX_BLOCK_TRANSACTIONS)]
    last_commit: Commit
    evidence: Evidences
    inbox: Messages = ()


@wire(35)
@dataclass(frozen=True, slots=True)
class Receipt:
    """What one transaction did; `transaction_id` is zero for the block's own work at its start."""

    transaction_id: Bytes32
    events: Annotated[tuple[Event, ...], Limit(0, MAX_EVENTS)]


def transactions_root(ids: tuple[bytes, ...] | list[bytes]) -> bytes:
    """Merkle root over transaction ids."""
    return merkle_root(ids)


def results_root(receipts: list[Receipt]) -> bytes:
    """Merkle root over encoded receipts, the block's own first."""
    return merkle_root([encode(receipt) for receipt in receipts])


def commit_hash(last_commit: bytes) -> bytes:
    """What a header says of its parent's certificate."""
    return tagged_hash("gtx.commit", last_commit)


def evidence_root(evidence: tuple[Evidence, ...]) -> bytes:
    """Merkle root over encoded evidence."""
    return merkle_root([encode(one) for one in evidence])


def compact(block: Block, ids: list[bytes]) -> CompactBlock:
    """The form that is gossiped."""
    return CompactBlock(block.header, tuple(ids), block.last_commit, block.evidence, block.inbox)


def decode_block(data: bytes) -> Block:
    """Read canonical bytes of at most 6 MiB. Errors: TOO_LARGE, OUT_OF_RANGE, MALFORMED."""
    block = decode(Block, data, MAX_BLOCK_BYTES)
    block.__dict__["encoded"] = data
    return block


def inbox_root(inbox: Sequence[Downward]) -> bytes:
    """Merkle root over encoded messages."""
    return merkle_root([encode(one) for one in inbox])


def has_its_body(
    header: Header, ids: Sequence[bytes], last_commit: bytes, evidence: Evidences, inbox: Messages
) -> bool:
    """Whether these are the parts that the header commits to."""
    return (
        transactions_root(list(ids)) == header.transactions_root
        and commit_hash(last_commit) == header.last_commit_hash
        and evidence_root(evidence) == header.evidence_root
        and inbox_root(inbox) == header.inbox_root
    )
