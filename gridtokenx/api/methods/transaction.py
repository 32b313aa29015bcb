"""Methods that submit transactions and tell what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gridtokenx.answers.fields import HASH_EXAMPLE
from gridtokenx.answers.kinds import hex_bytes, list_of
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.transaction import (
    DecodedTransaction,
    IncludedTransaction,
    SentBatch,
    SentRow,
    SentTransaction,
    TransactionStatus,
    TransactionStatuses,
    WaitingTransaction,
)
from gridtokenx.api.context import Context
from gridtokenx.api.documents import tell_transaction
from gridtokenx.api.errors import ApiError
from gridtokenx.api.table import Method, Route, TransactionId
from gridtokenx.chain.transaction import decode_transaction, transaction_id
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.storage import index

MAX_SEND = 1000
MAX_RAW_BYTES = 256 * 1024  # Read, so that an over-long transaction of a batch is refused alone.
_RAW = hex_bytes(MAX_RAW_BYTES)
_RAW_EXAMPLE = "87181e5820"
_HASH = hex_bytes(32, exactly=True)


@dataclass(frozen=True, slots=True)
class RawParameters:
    """A transaction as it is signed."""

    transaction: Annotated[bytes, Rule("canonical bytes as hex", _RAW, example=_RAW_EXAMPLE)]


@dataclass(frozen=True, slots=True)
class BatchParameters:
    """Transactions as they are signed."""

    transactions: Annotated[
        list[bytes],
        Rule("canonical bytes as hex, in order", list_of(_RAW, MAX_SEND), example=[_RAW_EXAMPLE]),
    ]


@dataclass(frozen=True, slots=True)
class TransactionParameters:
    """Which transaction."""

    id: TransactionId


@dataclass(frozen=True, slots=True)
class TransactionsParameters:
    """Which transactions."""

    ids: Annotated[
        list[bytes], Rule("transaction ids", list_of(_HASH, MAX_SEND), example=[HASH_EXAMPLE])
    ]


async def send(context: Context, asked: RawParameters) -> SentTransaction:
    raw = asked.transaction
    chain = context.chain_of_transaction(raw)
    (outcome,) = await context.submissions.send(chain, [raw])
    if outcome is not None:
        raise outcome
    return SentTransaction(tx_id=transaction_id(raw), chain=chain)


async def send_batch(context: Context, asked: BatchParameters) -> SentBatch:
    raws = asked.transactions
    outcomes: list[Rejected | None] = [None] * len(raws)
    by_chain: dict[str, list[int]] = {}
    for at, raw in enumerate(raws):
        try:
            by_chain.setdefault(context.chain_of_transaction(raw), []).append(at)
        except Rejected as error:
            outcomes[at] = error
    for chain, places in by_chain.items():
        answers = await context.submissions.send(chain, [raws[at] for at in places])
        for at, answer in zip(places, answers, strict=True):
            outcomes[at] = answer
    return SentBatch(
        results=tuple(
            SentRow(
                tx_id=transaction_id(raw),
                status="pending" if outcome is None else "rejected",
                error=None if outcome is None else ApiError.of(outcome).to_failure(),
            )
            for raw, outcome in zip(raws, outcomes, strict=True)
        )
    )


def decode_hex(_context: Context, asked: RawParameters) -> DecodedTransaction:
    """In full: whoever asks has the bytes."""
    found = decode_transaction(asked.transaction)
    return DecodedTransaction(
        tx_id=found.id,
        chain_id=found.chain_id,
        sender=found.sender,
        nonce=found.nonce,
        fee_ugtx=found.fee_ugtx,
        payload=found.payload,
        signature=found.signature,
        signed=found.is_signed(),
    )


def get_transaction(
    context: Context, asked: TransactionParameters
) -> IncludedTransaction | WaitingTransaction:
    for status in context.chains().values():
        record = index.find_transaction(status.view, asked.id)
        if record is None:
            continue
        when = record.when
        return IncludedTransaction(
            tx_id=asked.id,
            chain=status.spec.name,
            height=when.height,
            position=when.number,
            time_ms=when.time_ms,
            market_ms=when.market_ms,
            transaction=tell_transaction(record.transaction),
            events=record.events,
        )
    found = _status(context, asked.id)
    if found.status == "unknown":
        detail = f"no transaction {asked.id.hex()} on {', '.join(context.chains())}"
        raise ApiError(ErrorCode.TX_NOT_FOUND, detail)
    return WaitingTransaction(**vars(found))


def get_transaction_status(context: Context, asked: TransactionParameters) -> TransactionStatus:
    return _status(context, asked.id)


def get_transaction_statuses(
    context: Context, asked: TransactionsParameters
) -> TransactionStatuses:
    return TransactionStatuses(items=tuple(_status(context, one) for one in asked.ids))


def _status(context: Context, tx_id: bytes) -> TransactionStatus:
    """What is known of a transaction. Here a block is final once decided: included = finalized."""
    for name, status in context.chains().items():
        place = status.view.place_of(tx_id)
        if place is not None:
            height, position = place
            return TransactionStatus(
                tx_id=tx_id, chain=name, status="finalized", height=height, position=position
            )
    for name in context.chains():
        known = context.handle.pending_status(name, tx_id)
        if isinstance(known, Rejected):
            error = ApiError.of(known).to_failure()
            return TransactionStatus(tx_id=tx_id, chain=name, status="rejected", error=error)
        if known is not None:
            return TransactionStatus(tx_id=tx_id, chain=name, status=known)
    for name in context.chains():
        why = context.handle.turned_away(name, tx_id)
        if why is not None:
            error = ApiError.of(why).to_failure()
            return TransactionStatus(tx_id=tx_id, chain=name, status="unknown", error=error)
    return TransactionStatus(tx_id=tx_id, chain=None, status="unknown")


METHODS = (
    Method(
        "tx_send",
        send,
        "Submit one signed transaction; it is admitted when this answers.",
        routes=(Route("POST", "/transactions", status=202, renames={"tx": "transaction"}),),
    ),
    Method(
        "tx_sendBatch",
        send_batch,
        "Submit up to 1,000 signed transactions in order; each is admitted or refused by itself.",
        routes=(Route("POST", "/transactions/batch", status=202),),
        cost=0,
        cost_per="transactions",
    ),
    Method(
        "tx_get",
        get_transaction,
        "A transaction with its place in a block and what it did, or where it waits.",
        routes=(Route("GET", "/transactions/{id}"),),
    ),
    Method(
        "tx_getStatus",
        get_transaction_status,
        "pending, queued (an earlier nonce is missing), finalized, rejected or unknown; with an "
        "error when this node did not take what it heard of: another may have.",
        routes=(Route("GET", "/transactions/{id}/status"),),
    ),
    Method(
        "tx_getStatuses",
        get_transaction_statuses,
        "The status of up to 1,000 transactions.",
        cost=10,
    ),
    Method(
        "tx_decode",
        decode_hex,
        "What a transaction says, and whether its signature is the sender's. Submits nothing.",
    ),
)
