"""What nodes say to each other outside consensus: requests, answers, topics and their limits.

Source: protocols/networking.md 3, 4. Each is one @wire value in one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gridtokenx.chain.block import MAX_BLOCK_BYTES, MAX_COMMIT_BYTES
from gridtokenx.chain.sync import BLOCKS_PER_REQUEST
from gridtokenx.chain.transaction import MAX_TRANSACTION_BYTES
from gridtokenx.network.gossipsub.events import Priority
from gridtokenx.primitives.codec import Bytes32, Bytes64, Limit, wire

MAX_BLOCKS_PER_REQUEST = BLOCKS_PER_REQUEST
MAX_BODIES_PER_REQUEST = 1_800  # 32-byte ids in a request frame of 64 KiB
BATCH_BYTES = 256 * 1024
BATCH_SECONDS = 0.05
MAX_LINKS = 256

ChainName = Annotated[str, Limit(2, 8)]


@wire(220)
@dataclass(frozen=True, slots=True)
class ChainHead:
    """One chain a node follows, as it tells others."""

    name: ChainName
    chain_id: Bytes32
    height: int
    block_hash: Bytes32


@wire(221)
@dataclass(frozen=True, slots=True)
class Status:
    """Sent as request and as answer at first contact and every few seconds.

    `node_id` is a display name without authority; `agent` is software and version.
    """

    network_name: Annotated[str, Limit(1, 32)]
    genesis_hash: Bytes32
    node_id: Annotated[str, Limit(1, 64)]
    agent: Annotated[str, Limit(1, 64)]
    time_ms: int
    heads: Annotated[tuple[ChainHead, ...], Limit(0, 32)]


@wire(222)
@dataclass(frozen=True, slots=True)
class BlocksRequest:
    """Decided blocks `from_height`.. of a chain as its incarnation `chain_id` has them, at most
    `count`.
    """

    chain: ChainName
    chain_id: Bytes32
    from_height: int
    count: Annotated[int, Limit(1, MAX_BLOCKS_PER_REQUEST)]


@wire(256)
@dataclass(frozen=True, slots=True)
class AncestryRequest:
    """The decided block of a chain with this hash and those before it, at most `count`.

    Whoever has ever held it can answer, whatever incarnation it follows now.
    """

    chain: ChainName
    block_hash: Bytes32
    count: Annotated[int, Limit(1, MAX_BLOCKS_PER_REQUEST)]


@wire(223)
@dataclass(frozen=True, slots=True)
class DecidedBlock:
    """A block with the certificate that decided it."""

    block: Annotated[bytes, Limit(1, MAX_BLOCK_BYTES)]
    certificate: Annotated[bytes, Limit(1, MAX_COMMIT_BYTES)]


@wire(224)
@dataclass(frozen=True, slots=True)
class BlocksResponse:
    """Consecutive blocks from the asked height on, or of an ancestry from the asked block back;
    fewer than asked where bytes or blocks end.
    """

    blocks: Annotated[tuple[DecidedBlock, ...], Limit(0, MAX_BLOCKS_PER_REQUEST)]


@wire(225)
@dataclass(frozen=True, slots=True)
class ProposalRequest:
    """The compact block of an undecided proposal, by its hash."""

    chain: ChainName
    block_hash: Bytes32


@wire(226)
@dataclass(frozen=True, slots=True)
class BodiesRequest:
    """Transactions by id: waiting ones, and those of the proposal the responder holds."""

    chain: ChainName
    ids: Annotated[tuple[Bytes32, ...], Limit(1, MAX_BODIES_PER_REQUEST)]


@wire(227)
@dataclass(frozen=True, slots=True)
class BodiesResponse:
    """Canonical transactions, in the asked order, without those that are not here."""

    transactions: Annotated[
        tuple[Annotated[bytes, Limit(1, MAX_TRANSACTION_BYTES)], ...],
        Limit(0, MAX_BODIES_PER_REQUEST),
    ]


@wire(228)
@dataclass(frozen=True, slots=True)
class Credential:
    """A validator key's word that it speaks through this peer: `credential_bytes`, signed."""

    public_key: Bytes32
    signature: Bytes64


@wire(229)
@dataclass(frozen=True, slots=True)
class About:
    """Who a peer is and whom it is connected to, for people: validators, then peer ids."""

    credentials: Annotated[tuple[Credential, ...], Limit(0, 1)]
    links: Annotated[tuple[Annotated[bytes, Limit(1, 64)], ...], Limit(0, MAX_LINKS)]


def credential_bytes(genesis_hash: bytes, peer: bytes) -> bytes:
    """What a validator signs to show that a peer is its own. No vote begins like this."""
    return b"gridtokenx/peer/1" + genesis_hash + peer


BodyRequest = ProposalRequest | BodiesRequest


@dataclass(frozen=True, slots=True)
class Topics:
    """The gossip topics of one incarnation of a chain; `chain` is its `incarnation_name`.

    Each has its own: nodes learn of a new incarnation at different moments, and who still speaks
    for the old one must not seem to lie.
    """

    network_id: int
    chain: str

    @property
    def votes(self) -> str:
        """Proposals, votes, timeouts, certificates."""
        return f"{topic_prefix(self.network_id)}{self.chain}/votes"

    @property
    def blocks(self) -> str:
        """Compact blocks."""
        return f"{topic_prefix(self.network_id)}{self.chain}/blocks"

    @property
    def orders(self) -> str:
        """Batches of transactions."""
        return f"{topic_prefix(self.network_id)}{self.chain}/orders"


def topic_prefix(network_id: int) -> str:
    """What every topic of a network begins with."""
    return f"/gridtokenx/{network_id}/"


def topic_priority(topic: str) -> Priority:
    """Votes go ahead of blocks and orders when a peer's queue is full."""
    return Priority.URGENT if topic.endswith("/votes") else Priority.BULK
