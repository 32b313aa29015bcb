"""The nouns of interchain: messages and their logs, checkpoints, regions and their escrow.

A message's id is (source, destination, nonce): nonces of a log count from 0 for ever, also over
incarnations of a region. Source: protocols/interchain.md 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import MAX_INT, Bytes32, Bytes64, Limit, wire
from gridtokenx.primitives.places import TerritoryPrefix
from gridtokenx.primitives.state import Table, u64
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import MAX_VALIDATORS, MAX_WEIGHT, ValidatorSet

ChainName = Annotated[str, Limit(2, 8)]
Amount = Annotated[int, Limit(1, MAX_INT)]
Why = Annotated[str, Limit(1, 64)]

PAUSED_AFTER_BLOCKS = 60  # National blocks without a checkpoint of the region.
MAX_INBOX_MESSAGES = 500  # What one region block takes from its queue,
MAX_INBOX_BYTES = 128 * 1024  # but one message at least.
MAX_UNACKNOWLEDGED = 256  # Transfers that leave a region wait for the others to be taken.
MAX_QUEUED = 10_000  # Transfers to a region wait when so many messages are before them.
MAX_REASON_BYTES = 64
# A checkpoint carries whole blocks of messages, so a block must never send more than one may have:
# one for each message it takes, a hash for each territory and day it closes, a supply report, and
# a transfer with another report where fewer than 256 waited. All that fits (test_limits.py).
MAX_HEADER_BYTES = 1024
MAX_CERTIFICATE_BYTES = 16 * 1024
MAX_UPWARD_BYTES = 234
MAX_CHECKPOINT_MESSAGES = 1_024
MAX_CHECKPOINT_BYTES = 186 * 1024  # Of messages: header and certificate share the transaction.
KEPT_CHECKPOINTS = 1_000
KEPT_MESSAGES = 10_000  # Taken ones, so that a region may go on from an earlier checkpoint.
FIRST_INCARNATION = 1  # That of the genesis.


# -- Messages --------------------------------------------------------------------------------------


@wire(200)
@dataclass(frozen=True, slots=True)
class Credit:
    """Move an asset to an account on `destination`; the origin has debited `sender`.

    `transfer_id` is the id of the transaction that ordered it. Assets: energy, thb, gtx.
    """

    transfer_id: Bytes32
    origin: ChainName
    destination: ChainName
    sender: Address
    to: Address
    asset: Asset
    amount: Amount


@wire(201)
@dataclass(frozen=True, slots=True)
class Bounced:
    """A credit comes back: its amount is the sender's again.

    `nonce` is that of the credit in the log that brought it, so that each comes back once, and none
    that never was sent: upwards in the queue of the region that returns it, downwards in the log of
    the region that sent it when that was its `incarnation`.
    """

    incarnation: int
    nonce: int
    credit: Credit
    reason: Why


@wire(202)
@dataclass(frozen=True, slots=True)
class SupplyReport:
    """Upward: what a region has created and destroyed since its genesis, cumulative.

    Energy created less destroyed is minted - burned (Wh); baht is held + departed - arrived (uTHB).
    `deposited_uthb` is what the payment authority says under its signature (`statement`) that it
    has brought to the region in all: more baht than that does not count outside.
    """

    energy_minted_wh: int
    energy_burned_wh: int
    thb_held_uthb: int
    thb_departed_uthb: int
    thb_arrived_uthb: int
    deposited_uthb: int
    statement: Bytes64

    @property
    def energy_wh(self) -> int:
        """Net energy created; negative where imported energy was consumed."""
        return self.energy_minted_wh - self.energy_burned_wh

    @property
    def thb_uthb(self) -> int:
        """Net baht created, as far as deposits that were stated cover it; negative where imported
        baht was paid out.
        """
        made = self.thb_held_uthb + self.thb_departed_uthb - self.thb_arrived_uthb
        return min(made, self.deposited_uthb)


NOTHING_MADE = SupplyReport(0, 0, 0, 0, 0, 0, bytes(64))


@wire(203)
@dataclass(frozen=True, slots=True)
class SettlementFiled:
    """Upward: the hash of a territory's settlement report of a day."""

    territory: TerritoryPrefix
    day: int
    report_hash: Bytes32


@wire(204)
@dataclass(frozen=True, slots=True)
class OrderRefused:
    """Upward: the order under this nonce of the region's queue could not be carried out."""

    nonce: int
    reason: Why


@wire(205)
@dataclass(frozen=True, slots=True)
class ParameterOrder:
    """Downward: a market parameter has this value, in the integer unit of its field."""

    name: Annotated[str, Limit(1, 64)]
    value: int


@wire(206)
@dataclass(frozen=True, slots=True)
class HaltOrder:
    """Downward: no trade in a territory for a while, by an emergency vote. 0 ms: trade again."""

    territory: TerritoryPrefix
    reason: Annotated[str, Limit(1, 200)]
    duration_ms: int


@wire(207)
@dataclass(frozen=True, slots=True)
class AuthorityMember:
    """An authority node of a region: consensus key, weight, and the account that earns its fees."""

    public_key: Address
    weight: Annotated[int, Limit(1, MAX_WEIGHT)]
    account: Address


@wire(208)
@dataclass(frozen=True, slots=True)
class AuthorityOrder:
    """Downward: these sign the region's blocks from the epoch after its next on.

    It is for one incarnation: a later one begins with members of its own.
    """

    incarnation: int
    members: Annotated[tuple[AuthorityMember, ...], Limit(1, MAX_VALIDATORS)]


@wire(209)
@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Downward: the national chain has taken this incarnation's messages below this nonce."""

    incarnation: int
    nonce: int


@wire(253)
@dataclass(frozen=True, slots=True)
class OperatorOrder:
    """Downward: this key signs for an organisation from now on; the one before it for nobody."""

    organisation: Annotated[str, Limit(1, 16)]
    new_operator: Address


Downward = (
    Credit | Bounced | ParameterOrder | HaltOrder | AuthorityOrder | Acknowledgement | OperatorOrder
)
Upward = Credit | Bounced | SupplyReport | SettlementFiled | OrderRefused
Message = (
    Credit
    | Bounced
    | SupplyReport
    | SettlementFiled
    | OrderRefused
    | ParameterOrder
    | HaltOrder
    | AuthorityOrder
    | Acknowledgement
    | OperatorOrder
)


# -- Commands --------------------------------------------------------------------------------------


@wire(215)
@dataclass(frozen=True, slots=True)
class TransferAbroad:
    """Command: move an amount of energy, thb or gtx to an account on another chain."""

    destination: ChainName
    to: Address
    asset: Asset
    amount: Amount


@wire(216)
@dataclass(frozen=True, slots=True)
class SubmitCheckpoint:
    """Command of anybody, on the national chain: a region's decided header, its COMMIT
    certificate, and all messages of the region since its last checkpoint (each encoded).
    """

    region: ChainName
    header: Annotated[bytes, Limit(1, MAX_HEADER_BYTES)]
    certificate: Annotated[bytes, Limit(1, MAX_CERTIFICATE_BYTES)]
    messages: Annotated[
        tuple[Annotated[bytes, Limit(1, MAX_UPWARD_BYTES)], ...], Limit(0, MAX_CHECKPOINT_MESSAGES)
    ]


InterchainCommand = TransferAbroad | SubmitCheckpoint


# -- State -----------------------------------------------------------------------------------------


@wire(210)
@dataclass(frozen=True, slots=True)
class Outbox:
    """A log of messages to one chain: how many, the head of its hash chain, how many are gone.

    Messages below `acknowledged` will not be asked for again and are forgotten here, as far as
    `forgotten`.
    """

    destination_id: Bytes32
    count: int
    head: Bytes32
    acknowledged: int
    forgotten: int


@wire(211)
@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in its log, and the height of the block that appended it.

    Of a credit that has left a region's escrow, on its way to another or back from there: where it
    was sent. `returned_in`: the incarnation of its destination that has sent it back last.
    """

    height: int
    message: Message
    origin_incarnation: int = 0
    origin_nonce: int = 0
    returned_in: int = 0


@wire(212)
@dataclass(frozen=True, slots=True)
class Inbox:
    """A region's place in its queue on the national chain, and the newest national block it has
    named. `head` is the queue's hash chain after message `next` - 1.
    """

    next: int
    head: Bytes32
    root_height: int
    root_hash: Bytes32


@wire(115)
@dataclass(frozen=True)
class Incarnation:
    """How a region goes on, by a vote: from its certified block `height` with this hash, as the
    chain `chain_id`, signed by `members` from the block after it on.

    `number` is 2 for the first one that follows the genesis. What was decided above `height` before
    is void, and so are messages from `outbox_count` on of earlier incarnations.
    """

    region: ChainName
    number: int
    chain_id: Bytes32
    height: int
    hash: Bytes32
    outbox_count: int
    members: Annotated[tuple[AuthorityMember, ...], Limit(1, MAX_VALIDATORS)]


def is_void(incarnations: Iterable[Incarnation], incarnation: int, nonce: int) -> bool:
    """Whether what an incarnation of a region sent under a nonce belongs to a history that does not
    stand, by all that the region has had since.
    """
    return any(one.number > incarnation and nonce >= one.outbox_count for one in incarnations)


@wire(213)
@dataclass(frozen=True, slots=True)
class Escrow:
    """Amounts of the assets that cross: what the national chain knows to be on a region, or what
    has left it.
    """

    energy_wh: int = 0
    thb_uthb: int = 0
    gtx_ugtx: int = 0


@wire(117)
@dataclass(frozen=True, slots=True)
class InterchainParameters:
    """What may leave one region in a Bangkok day, by asset (Wh, uTHB, ugtx): a region whose
    authorities are captured can bring no more than that to others.
    """

    daily_energy_wh: Annotated[int, Limit(1, MAX_INT)] = 10_000_000_000
    daily_thb_uthb: Annotated[int, Limit(1, MAX_INT)] = 1_000_000_000_000_000
    daily_gtx_ugtx: Annotated[int, Limit(1, MAX_INT)] = 1_000_000_000_000


class RegionStatus(StrEnum):
    """Whether messages flow."""

    ACTIVE = "active"
    PAUSED = "paused"  # No checkpoint for 60 national blocks: no new transfers to it.
    FROZEN = "frozen"  # It has signed two chains: nothing leaves it before a new incarnation.
    HELD = "held"  # A vote on its reincarnation runs, with the regulator's approval.


@wire(214)
@dataclass(frozen=True)
class Region:
    """A region chain as the national chain sees it.

    `genesis_id` is its first chain id, which names it in logs; `chain_id` that of its incarnation.
    `height`, `hash`, `outbox_count`, `outbox_head`, `inbox_next` are those of its last checkpoint,
    accepted in national block `seen_height`; the newest `kept_checkpoints` are remembered.
    `ordered` are authorities on their way to it; `held_by` is the proposal whose vote holds it, 0
    for none. `left` has left it as far as its present history tells; `lost` is what had left in
    histories that were made void: its owners have that twice, and the network answers for it.
    `sent` has left it in the Bangkok day `sent_day` of national time.
    """

    name: ChainName
    genesis_id: Bytes32
    chain_id: Bytes32
    incarnation: int
    validators: ValidatorSet
    ordered: ValidatorSet | None
    height: int
    hash: Bytes32
    outbox_count: int
    outbox_head: Bytes32
    inbox_next: int
    seen_height: int
    kept_checkpoints: int
    frozen: bool
    held_by: int
    escrow: Escrow
    left: Escrow
    lost: Escrow
    sent_day: int
    sent: Escrow
    reported: SupplyReport

    def status(self, height: int) -> RegionStatus:
        """At a height of the national chain."""
        if self.frozen:
            return RegionStatus.FROZEN
        if self.held_by:
            return RegionStatus.HELD
        late = height - self.seen_height > PAUSED_AFTER_BLOCKS
        return RegionStatus.PAUSED if late else RegionStatus.ACTIVE


@wire(217)
@dataclass(frozen=True)
class KnownCheckpoint:
    """A header that was accepted, and the set that signed it: another one there is evidence.

    The rest is what the region was then, so that it can go on from here.
    """

    hash: Bytes32
    validators: ValidatorSet
    outbox_count: int
    outbox_head: Bytes32
    inbox_next: int
    left: Escrow
    reported: SupplyReport


@wire(218)
@dataclass(frozen=True, slots=True)
class Stranded:
    """A returned amount that its sender's account could not take; it stays in the escrow."""

    credit: Credit


# -- Events ----------------------------------------------------------------------------------------


@wire(219)
@dataclass(frozen=True, slots=True)
class TransferSent:
    """Event on the origin: in flight, as message `nonce` of the log to the national chain or, from
    there, to the destination.
    """

    transfer_id: Bytes32
    destination: ChainName
    sender: Address
    to: Address
    asset: Asset
    amount: int
    nonce: int


@wire(230)
@dataclass(frozen=True, slots=True)
class TransferRouted:
    """Event on the national chain: on its way from one region to another."""

    transfer_id: Bytes32
    origin: ChainName
    destination: ChainName
    nonce: int


@wire(231)
@dataclass(frozen=True, slots=True)
class TransferCredited:
    """Event on the destination: the account has it."""

    transfer_id: Bytes32
    origin: ChainName
    to: Address
    asset: Asset
    amount: int


@wire(232)
@dataclass(frozen=True, slots=True)
class TransferReturning:
    """Event: a chain could not take the transfer and sends it back."""

    transfer_id: Bytes32
    origin: ChainName
    reason: str


@wire(233)
@dataclass(frozen=True, slots=True)
class TransferReturned:
    """Event on the origin: the sender has its amount again."""

    transfer_id: Bytes32
    sender: Address
    asset: Asset
    amount: int
    reason: str


@wire(234)
@dataclass(frozen=True, slots=True)
class CheckpointAccepted:
    """Event on the national chain: the region's block is known, its messages were taken."""

    region: ChainName
    height: int
    messages: int


@wire(235)
@dataclass(frozen=True, slots=True)
class RegionStatusChanged:
    """Event on the national chain: messages of a region flow, wait, or are stopped for good."""

    region: ChainName
    status: RegionStatus
    reason: str


@wire(236)
@dataclass(frozen=True, slots=True)
class MessageFailed:
    """Event: a message had no effect, and why."""

    source: ChainName
    nonce: int
    reason: str


@wire(116)
@dataclass(frozen=True)
class RegionReborn:
    """Event on the national chain: the region goes on as another chain.

    `lost` had left it in the history that is void now.
    """

    incarnation: Incarnation
    lost: Escrow


@wire(237)
@dataclass(frozen=True, slots=True)
class SettlementRecorded:
    """Event on the national chain: a territory's settlement report of a day has this hash."""

    region: ChainName
    territory: str
    day: int
    report_hash: Bytes32


InterchainEvent = (
    TransferSent
    | TransferRouted
    | TransferCredited
    | TransferReturning
    | TransferReturned
    | CheckpointAccepted
    | RegionStatusChanged
    | MessageFailed
    | RegionReborn
    | SettlementRecorded
)


def row_key(name: str, number: int) -> bytes:
    """Of a chain's numbered rows: in the order of their numbers, and apart from other chains'."""
    return name.encode() + b"\x00" + u64(number)


OUTBOXES = Table(b"xo", Outbox)  # key: destination's name
QUEUE = Table(b"xq", QueuedMessage)  # key: destination's name, 0x00, nonce u64
INBOX = Table(b"xi", Inbox)  # key: b""; on regions
REGIONS = Table(b"xr", Region)  # key: name; on the national chain
CHECKPOINTS = Table(b"xc", KnownCheckpoint)  # key: name, 0x00, height u64; the newest 1000
INCARNATIONS = Table(b"xn", Incarnation)  # key: name, 0x00, number u64; on the national chain
REPORTED = Table(b"xp", SupplyReport)  # key: b""; on regions: the last report sent
STRANDED = Table(b"xs", Stranded)  # key: who returned it, 0x00, nonce there u64
INTERCHAIN_PARAMETERS = Table(b"xm", InterchainParameters)  # key: b""; on the national chain
