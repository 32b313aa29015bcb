"""Answers about transactions and what became of them."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.failure import Failure
from gridtokenx.answers.fields import (
    HASH_EXAMPLE,
    Account,
    AtHeight,
    ChainId,
    ChainName,
    MarketMs,
    Position,
    TimeMs,
    TransactionId,
    answer,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.shown import ShownEvents, ShownPayload
from gridtokenx.chain.transaction import Payload

Pending = Annotated[Literal["pending"], Rule("it waits for a block", example="pending")]
Signature = Annotated[bytes, Rule("the sender's Ed25519 signature", example=HASH_EXAMPLE * 2)]


@answer
class SentTransaction:
    """A transaction that the node has admitted."""

    tx_id: TransactionId
    chain: ChainName
    status: Pending = "pending"


@answer
class SentRow:
    """What became of one transaction of a batch."""

    tx_id: TransactionId
    status: Annotated[
        Literal["pending", "rejected"], Rule("whether it was admitted", example="pending")
    ]
    error: Failure | None


@answer
class SentBatch:
    """What became of a batch, in its order."""

    results: tuple[SentRow, ...]


@answer
class ShownTransaction:
    """A transaction; what a meter measured is null."""

    tx_id: TransactionId
    chain_id: ChainId
    sender: Account
    nonce: Annotated[int, Rule("number among the sender's", unit="transactions", example="7")]
    fee_ugtx: Annotated[int, Rule("what it pays for its place", example="1000")]
    payload: ShownPayload
    signature: Signature


@answer
class DecodedTransaction(ShownTransaction):
    """A transaction in full, of somebody who has its bytes."""

    payload: Annotated[Payload, Rule("the command")]
    signed: Annotated[bool, Rule("whether the signature is the sender's", example=True)]


@answer
class TransactionStatus:
    """Where a transaction is."""

    tx_id: TransactionId
    chain: Annotated[str | None, Rule("chain that has it; null if unknown", example="MET")]
    status: Annotated[
        Literal["pending", "queued", "finalized", "rejected", "unknown"],
        Rule("queued: an earlier nonce is missing", example="finalized"),
    ]
    height: Annotated[int | None, Rule("height of its block", unit="blocks", example="42")] = None
    position: Annotated[
        int | None, Rule("place in its block, from 0", unit="transactions", number=True, example=3)
    ] = None
    error: Failure | None = None


@answer
class TransactionStatuses:
    """The statuses of several transactions, in the order asked for."""

    items: tuple[TransactionStatus, ...]


@answer
class WaitingTransaction(TransactionStatus):
    """A transaction that is in no block of this node."""

    time_ms: Annotated[None, Rule("null: it has no block")] = None
    market_ms: Annotated[None, Rule("null: it has no block")] = None
    transaction: Annotated[None, Rule("null: only those of blocks are shown")] = None
    events: Annotated[tuple[None, ...], Rule("empty: it did nothing yet", example=[])] = ()


@answer
class IncludedTransaction:
    """A transaction of a block, and what it did."""

    tx_id: TransactionId
    chain: ChainName
    status: Annotated[Literal["finalized"], Rule("it is in a block", example="finalized")] = (
        "finalized"
    )
    height: AtHeight
    position: Position
    time_ms: TimeMs
    market_ms: MarketMs
    transaction: ShownTransaction
    events: ShownEvents
    error: Annotated[None, Rule("null")] = None
