"""Answers about region chains, what they have filed, and transfers between chains."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.failure import Failure
from gridtokenx.answers.fields import (
    ADDRESS_EXAMPLE,
    HASH_EXAMPLE,
    AsOf,
    AtHeight,
    BlockHash,
    ChainId,
    ChainName,
    Incarnation,
    MarketMs,
    NextCursor,
    TimeMs,
    TransactionId,
    answer,
    count,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.interchain.model import (
    Escrow,
    InterchainParameters,
    RegionStatus,
    SupplyReport,
    TransferCredited,
    TransferReturned,
    TransferReturning,
    TransferRouted,
    TransferSent,
)
from gridtokenx.interchain.model import Incarnation as RegionIncarnation
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.types import Address

TransferEvent = (
    TransferSent | TransferRouted | TransferCredited | TransferReturning | TransferReturned
)

TransferState = Literal["pending", "refused", "in_flight", "credited", "bounced", "stranded"]
ShardName = Annotated[str, Rule("name of the region chain", example="MET")]
Date = Annotated[str | None, Rule("day in Bangkok; null after the year 9999", example="2026-03-16")]


# -- Regions ---------------------------------------------------------------------------------------


@answer
class ShardSync:
    """How far this node is with a region that it follows."""

    state: Annotated[str, Rule("`live`, or what it still does", example="live")]
    incarnation: Incarnation
    target: Annotated[int, Rule("newest block that it knows of", unit="blocks", example="42")]
    stopped_because: Annotated[
        str | None, Rule("why it follows no further; null while it does", example="disk full")
    ]


@answer
class LastCheckpoint:
    """The newest block of a region that the national chain has accepted."""

    height: AtHeight
    hash: BlockHash
    seen_height: Annotated[int, Rule("national block that accepted it", example="40")]
    age_blocks: Annotated[int, Rule("national blocks since then", example="2")]
    paused_after_blocks: Annotated[
        int, count("age at which nothing more is sent to the region", "blocks", 60)
    ]


@answer
class ShardRow:
    """A region chain as the national chain sees it."""

    shard: ShardName
    status: Annotated[RegionStatus, Rule("whether messages flow", example="active")]
    incarnation: Incarnation
    held_by: Annotated[
        int | None,
        Rule("proposal whose vote holds it; null for none", unit="proposals", example="4"),
    ]
    followed: Annotated[bool, Rule("whether this node follows it", example=True)]
    sync: Annotated[ShardSync | None, Rule("how far; null if it does not follow it")]
    head: Annotated[
        int | None,
        Rule("newest block here; null if it does not follow it", unit="blocks", example="42"),
    ]
    checkpoint: LastCheckpoint
    queue_down: Annotated[int, count("messages that wait for the region", "messages", 0)]
    queue_up: Annotated[
        int | None,
        count(
            "messages of the region that wait for the national chain; null if unknown here",
            "messages",
            0,
        ),
    ]
    sent_down: Annotated[int, Rule("messages sent to it", unit="messages", example="7")]
    taken_up: Annotated[int, Rule("messages taken from it", unit="messages", example="3")]
    escrow: Annotated[Escrow, Rule("what is known to be on the region")]
    authority_nodes: Annotated[int, count("nodes that sign its blocks", "nodes", 4)]


@answer
class ShardList(AsOf):
    """All region chains."""

    chain_id: ChainId
    items: tuple[ShardRow, ...]


@answer
class ShardAuthority:
    """A node of an organisation that signs, or may sign, a region's blocks."""

    organisation: Annotated[str, Rule("whose node it is", example="mea")]
    public_key: Annotated[Address, Rule("key that signs", example=ADDRESS_EXAMPLE)]
    weight: Annotated[int, Rule("votes it has", unit="votes", example="1")]
    suspended: Annotated[bool, Rule("whether it is kept from signing", example=False)]


@answer
class ShardToday:
    """What has left a region in the national chain's day."""

    date: Date
    sent: Annotated[Escrow, Rule("what has left it")]
    limits: Annotated[InterchainParameters, Rule("how much may")]


@answer
class ShardDetail(ShardRow, AsOf):
    """A region chain with its authorities, its incarnations and what it reported."""

    chain_id: ChainId
    genesis_id: Annotated[bytes, Rule("chain id of its first incarnation", example=HASH_EXAMPLE)]
    territories: Annotated[
        tuple[str, ...], Rule("prefixes of the locations it serves", example=["BKK", "NTB"])
    ]
    authorities: tuple[ShardAuthority, ...]
    set_on_its_way: Annotated[
        bool, Rule("whether authorities are ordered that do not sign yet", example=False)
    ]
    reported: Annotated[SupplyReport, Rule("what it has created and destroyed, by its word")]
    incarnations: Annotated[
        tuple[RegionIncarnation, ...], Rule("how it began again, the oldest first")
    ]
    lost: Annotated[Escrow, Rule("what had left it in histories that are void")]
    today: ShardToday


@answer
class CheckpointRow:
    """A block of a region that the national chain has accepted."""

    height: AtHeight
    hash: BlockHash
    messages_taken: Annotated[int, Rule("messages it had taken", unit="messages", example="3")]
    messages_sent: Annotated[int, Rule("messages it had sent", unit="messages", example="3")]
    lost: Annotated[
        Escrow | None,
        Rule("what senders would have twice if it went on from here; null if it cannot"),
    ]
    why_not: Annotated[
        str | None,
        Rule("why it cannot go on from here; null if it can", example="it is too old"),
    ]


@answer
class CheckpointPage(AsOf):
    """A region's checkpoints, newest first."""

    shard: ShardName
    items: tuple[CheckpointRow, ...]
    next_cursor: NextCursor


@answer
class FiledReport:
    """The hash of a settlement report that a region has filed."""

    shard: ShardName
    territory: Annotated[str, Rule("distributor or place of the report", example="mea")]
    day: Annotated[int, Rule("day of the report", unit="days since 1970", example="20528")]
    date: Date
    report_hash: Annotated[bytes, Rule("hash of the report", example=HASH_EXAMPLE)]
    height: Annotated[int, Rule("national block that recorded it", example="42")]
    time_ms: TimeMs
    market_ms: MarketMs


@answer
class FiledReportPage(AsOf):
    """Hashes of reports, newest first."""

    items: tuple[FiledReport, ...]
    next_cursor: NextCursor


# -- Transfers -------------------------------------------------------------------------------------


@answer
class TransferStep:
    """What a block did about a transfer."""

    chain: ChainName
    height: AtHeight
    time_ms: TimeMs
    market_ms: MarketMs
    event: Annotated[TransferEvent, Rule("what happened")]


@answer
class TransferDetail:
    """A transfer between chains; null for what the followed chains do not tell."""

    transfer_id: TransactionId
    status: Annotated[
        TransferState,
        Rule("where it is", example="credited"),
    ]
    reason: Annotated[
        str | None,
        Rule("why it was refused or came back", example="NOR is paused: no checkpoint since ..."),
    ]
    origin: Annotated[str | None, Rule("chain that it left", example="MET")]
    destination: Annotated[str | None, Rule("chain that it goes to", example="NOR")]
    sender: Annotated[Address | None, Rule("account that sent it", example=ADDRESS_EXAMPLE)]
    to: Annotated[Address | None, Rule("account that is to get it", example=ADDRESS_EXAMPLE)]
    asset: Annotated[Asset | None, Rule("what it moves", example="gtx")]
    amount: Annotated[
        int | None,
        Rule("how much", unit="smallest unit of the asset: Wh, uTHB, ugtx", example="3000000"),
    ]
    steps: Annotated[tuple[TransferStep, ...], Rule("its way so far, in order")]
    error: Annotated[Failure | None, Rule("why it was refused")]


@answer
class TransferPage:
    """Transfers of an account on one chain, newest first; or one by its id."""

    chain: Annotated[str | None, Rule("the chain; null for one by its id", example="MET")]
    items: tuple[TransferDetail, ...]
    next_cursor: NextCursor
