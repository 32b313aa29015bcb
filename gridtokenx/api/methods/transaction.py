"""Methods that submit transactions and tell what became of them."""

from __future__ import annotations

from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document, event_document, transaction_document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import hex_bytes, list_of
from gridtokenx.api.table import Arguments, Method, Param, Route, shape
from gridtokenx.chain.transaction import decode_transaction, transaction_id
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.storage import index as history

MAX_SEND = 1000
MAX_RAW_BYTES = 256 * 1024  # Read, so that an over-long transaction of a batch is refused alone.


async def send(context: Context, arguments: Arguments) -> dict[str, Any]:
    raw = arguments["transaction"]
    chain = context.chain_of_transaction(raw)
    (outcome,) = await context.submissions.send(chain, [raw])
    if outcome is not None:
        raise outcome
    return {"tx_id": transaction_id(raw).hex(), "chain": chain, "status": "pending"}


async def send_batch(context: Context, arguments: Arguments) -> dict[str, Any]:
    raws = arguments["transactions"]
    outcomes: list[Rejected | None] = [None] * len(raws)
    by_chain: dict[str, list[int]] = {}
    for index, raw in enumerate(raws):
        try:
            by_chain.setdefault(context.chain_of_transaction(raw), []).append(index)
        except Rejected as error:
            outcomes[index] = error
    for chain, indexes in by_chain.items():
        answers = await context.submissions.send(chain, [raws[index] for index in indexes])
        for index, answer in zip(indexes, answers, strict=True):
            outcomes[index] = answer
    return {
        "results": [
            {
                "tx_id": transaction_id(raw).hex(),
                "status": "pending" if outcome is None else "rejected",
                "error": None if outcome is None else ApiError.of(outcome).to_rpc(),
            }
            for raw, outcome in zip(raws, outcomes, strict=True)
        ]
    }


def decode_hex(context: Context, arguments: Arguments) -> dict[str, Any]:
    transaction = decode_transaction(arguments["transaction"])
    payload = document(transaction.payload)  # In full: whoever asks has the bytes.
    fields = transaction_document(transaction)
    return {**fields, "payload": payload, "signed": transaction.is_signed()}


def get_transaction(context: Context, arguments: Arguments) -> dict[str, Any]:
    transaction_id = arguments["id"]
    for status in context.chains().values():
        record = history.find_transaction(status.view, transaction_id)
        if record is None:
            continue
        when = record.when
        return {
            "tx_id": transaction_id.hex(),
            "chain": status.spec.name,
            "status": "finalized",
            "height": str(when.height),
            "position": when.number,
            "time_ms": str(when.time_ms),
            "market_ms": str(when.market_ms),
            "transaction": transaction_document(record.transaction),
            "events": [event_document(event) for event in record.events],
            "error": None,
        }
    found = _status(context, transaction_id)
    if found["status"] == "unknown":
        detail = f"no transaction {transaction_id.hex()} on {', '.join(context.chains())}"
        raise ApiError(ErrorCode.TX_NOT_FOUND, detail)
    names = ("time_ms", "market_ms", "transaction")
    return {**found, **dict.fromkeys(names), "events": []}


def get_transaction_status(context: Context, arguments: Arguments) -> dict[str, Any]:
    return _status(context, arguments["id"])


def get_transaction_statuses(context: Context, arguments: Arguments) -> dict[str, Any]:
    return {"items": [_status(context, one) for one in arguments["ids"]]}


def _status(context: Context, transaction_id: bytes) -> dict[str, Any]:
    """What is known of a transaction. Here a block is final once decided: included = finalized."""
    answer: dict[str, Any] = {
        "tx_id": transaction_id.hex(),
        "chain": None,
        "status": "unknown",
        "height": None,
        "position": None,
        "error": None,
    }
    for name, status in context.chains().items():
        place = status.view.place_of(transaction_id)
        if place is not None:
            where = {"height": str(place[0]), "position": place[1]}
            return {**answer, "chain": name, "status": "finalized", **where}
    for name in context.chains():
        known = context.handle.pending_status(name, transaction_id)
        if isinstance(known, Rejected):
            error = ApiError.of(known).to_rpc()
            return {**answer, "chain": name, "status": "rejected", "error": error}
        if known is not None:
            return {**answer, "chain": name, "status": known}
    for name in context.chains():
        why = context.handle.turned_away(name, transaction_id)
        if why is not None:
            return {**answer, "chain": name, "error": ApiError.of(why).to_rpc()}
    return answer


_HASH = hex_bytes(32, exactly=True)
_RAW = hex_bytes(MAX_RAW_BYTES)
_STATUS_SHAPE = {
    "tx_id": "hex",
    "chain": "text?",
    "status": "text",
    "height": "decimal?",
    "position": "number?",
    "error": "object?",
}

METHODS = (
    Method(
        "tx_send",
        send,
        "Submit one signed transaction; it is admitted when this answers.",
        shape(tx_id="hex", chain="text", status="text"),
        (Param("transaction", _RAW, "canonical bytes as hex", required=True),),
        (Route("POST", "/transactions", status=202, renames={"tx": "transaction"}),),
    ),
    Method(
        "tx_sendBatch",
        send_batch,
        "Submit up to 1,000 signed transactions in order; each is admitted or refused by itself.",
        shape(results="list"),
        (
            Param(
                "transactions",
                list_of(_RAW, MAX_SEND),
                "canonical bytes as hex, in order",
                required=True,
            ),
        ),
        (Route("POST", "/transactions/batch", status=202),),
        cost=0,
        cost_per="transactions",
    ),
    Method(
        "tx_get",
        get_transaction,
        "A transaction with its place in a block and what it did, or where it waits.",
        shape(
            **_STATUS_SHAPE,
            time_ms="decimal?",
            market_ms="decimal?",
            transaction="object?",
            events="list",
        ),
        (Param("id", _HASH, "transaction id", required=True),),
        (Route("GET", "/transactions/{id}"),),
    ),
    Method(
        "tx_getStatus",
        get_transaction_status,
        "pending, queued (an earlier nonce is missing), finalized, rejected or unknown; with an "
        "error when this node did not take what it heard of: another may have.",
        shape(**_STATUS_SHAPE),
        (Param("id", _HASH, "transaction id", required=True),),
        (Route("GET", "/transactions/{id}/status"),),
    ),
    Method(
        "tx_getStatuses",
        get_transaction_statuses,
        "The status of up to 1,000 transactions.",
        shape(items="list"),
        (Param("ids", list_of(_HASH, MAX_SEND), "transaction ids", required=True),),
        cost=10,
    ),
    Method(
        "tx_decode",
        decode_hex,
        "What a transaction says, and whether its signature is the sender's. Submits nothing.",
        shape(
            tx_id="hex",
            chain_id="hex",
            sender="text",
            nonce="decimal",
            fee_ugtx="decimal",
            payload="object",
            signature="hex",
            signed="bool",
        ),
        (Param("transaction", _RAW, "canonical bytes as hex", required=True),),
    ),
)
