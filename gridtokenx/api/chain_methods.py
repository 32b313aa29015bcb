"""Methods about chains, their blocks and validators, and transactions."""

from __future__ import annotations

import json
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import block_reference, boolean, hex_bytes, integer, list_of
from gridtokenx.api.table import CHAIN, Arguments, Method, Param, Route, shape
from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.genesis import dump_genesis
from gridtokenx.chain.transaction import Transaction, decode_transaction
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.node import history
from gridtokenx.node.view import ChainStatus, Head
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.document import to_document
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import format_address
from gridtokenx.trading import rules as trading

MAX_SEND = 1000
MAX_RAW_BYTES = 65_536  # Read, so that an over-long transaction of a batch is refused alone.
MAX_FULL_TRANSACTIONS = 500
_SYNC_ORDER = ("stalled", "waiting_peers", "blocks", "live")  # Worst first.


def document(value: Any) -> dict[str, Any]:
    """A wire value in an answer; its integers are text."""
    return to_document(value, text_integers=True)


def head_document(head: Head) -> dict[str, Any]:
    """The newest block of a chain."""
    return {
        "height": str(head.height),
        "hash": head.hash.hex(),
        "time_ms": str(head.time_ms),
        "market_ms": str(head.market_ms),
        "state_root": head.state_root.hex(),
        "proposer_index": head.proposer_index,
    }


def get_status(context: Context, _arguments: Arguments) -> dict[str, Any]:
    handle = context.handle
    genesis = handle.genesis
    chains = list(handle.chains().values())
    states = [status.sync_state for status in chains] or ["waiting_peers"]
    return {
        "node": {
            "id": handle.node_id,
            "peer_id": handle.peer_id,
            "role": handle.role,
            "version": handle.version,
            "local_signer": _address_or_none(context),
        },
        "network": {
            "name": genesis.network_name,
            "id": genesis.network_id,
            "genesis_hash": genesis.hash.hex(),
        },
        "sync": {"state": min(states, key=_SYNC_ORDER.index)},
        "peers": len(handle.peers()),
        "chains": [_chain_status(status) for status in chains],
    }


def _address_or_none(context: Context) -> str | None:
    signer = context.local_signer
    return None if signer is None else format_address(signer.public_key)


def _chain_status(status: ChainStatus) -> dict[str, Any]:
    return {
        "chain": status.spec.name,
        "chain_id": status.spec.chain_id.hex(),
        "head": head_document(status.head),
        "sync": {"state": status.sync_state, "target": str(status.sync_target)},
        "validators": len(status.validators.members),
        "consensus_view": status.consensus_view,
        "mempool_transactions": status.mempool_transactions,
        "finality_ms": {
            "p50": _percentile(status.finality_ms, 50),
            "p99": _percentile(status.finality_ms, 99),
        },
    }


def _percentile(values: tuple[int, ...], percent: int) -> int | None:
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def get_head(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    return {"chain": status.spec.name, **head_document(status.head), "finalized": True}


def get_block(context: Context, arguments: Arguments) -> dict[str, Any]:
    reference, offset = arguments["block"], arguments["offset"]
    status, height = _find_block(context, reference, arguments["chain"])
    block = _load_block(status, height)
    count = len(block.transactions)
    transactions: list[Any]
    following = None
    if arguments["full"]:
        page = block.transactions[offset : offset + MAX_FULL_TRANSACTIONS]
        transactions = [transaction_document(decode_transaction(raw)) for raw in page]
        following = offset + len(page) if offset + len(page) < count else None
    else:
        transactions = [tagged_hash("gtx.tx", raw).hex() for raw in block.transactions]
    return {
        "chain": status.spec.name,
        "height": str(height),
        "hash": block.header.hash.hex(),
        "finalized": True,
        "header": document(block.header),
        "transactions": transactions,
        "transaction_count": count,
        "next_offset": following,
    }


def _find_block(
    context: Context, reference: int | bytes, chain: str | None
) -> tuple[ChainStatus, int]:
    """A height is of one chain; a hash is looked for on all."""
    if isinstance(reference, int):
        return context.chain(chain), reference
    for status in context.selected(chain):
        height = status.view.height_of(reference)
        if height is not None:
            return status, height
    raise ApiError(ErrorCode.BLOCK_NOT_FOUND, f"no block here has the hash {reference.hex()}")


def _load_block(status: ChainStatus, height: int) -> Block:
    raw = status.view.block(height)
    if not raw:  # Height 0 is the genesis, which has no block.
        detail = f"{status.spec.name} has no block {height}; its head is {status.head.height}"
        raise ApiError(ErrorCode.BLOCK_NOT_FOUND, detail)
    return decode_block(raw)


def get_finality(context: Context, arguments: Arguments) -> dict[str, Any]:
    status, height = _find_block(context, arguments["block"], arguments["chain"])
    block = _load_block(status, height)
    raw = status.view.certificate(height)
    if raw is None:
        detail = f"no certificate of block {height} is kept here"
        raise ApiError(ErrorCode.PROOF_UNAVAILABLE, detail)
    certificate = decode(QuorumCertificate, raw)
    return {
        "chain": status.spec.name,
        "height": str(height),
        "hash": block.header.hash.hex(),
        "finalized": True,
        "header": encode(block.header).hex(),
        "certificate": raw.hex(),
        "view": certificate.view,
        "signers": [one.index for one in certificate.signatures],
    }


def get_validators(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    names = {member.public_key: member.organisation for member in status.spec.region.validators}
    return {
        "chain": status.spec.name,
        "set_hash": status.validators.hash.hex(),
        "total_weight": str(status.validators.total_weight),
        "items": [
            {
                "index": index,
                "public_key": format_address(member.public_key),
                "weight": str(member.weight),
                "organisation": names.get(member.public_key),
            }
            for index, member in enumerate(status.validators.members)
        ],
    }


def get_genesis(context: Context, _arguments: Arguments) -> dict[str, Any]:
    genesis = context.handle.genesis
    return {"hash": genesis.hash.hex(), "genesis": json.loads(dump_genesis(genesis))}


def get_params(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "parameters": document(trading.parameters(status.view)),
    }


# Transactions


async def send(context: Context, arguments: Arguments) -> dict[str, Any]:
    raw = arguments["transaction"]
    chain = context.chain_of_transaction(raw)
    (outcome,) = await context.submissions.send(chain, [raw])
    if outcome is not None:
        raise outcome
    return {"tx_id": tagged_hash("gtx.tx", raw).hex(), "chain": chain, "status": "pending"}


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
                "tx_id": tagged_hash("gtx.tx", raw).hex(),
                "status": "pending" if outcome is None else "rejected",
                "error": None if outcome is None else ApiError.of(outcome).to_rpc(),
            }
            for raw, outcome in zip(raws, outcomes, strict=True)
        ]
    }


def decode_hex(context: Context, arguments: Arguments) -> dict[str, Any]:
    transaction = decode_transaction(arguments["transaction"])
    return {**transaction_document(transaction), "signed": transaction.is_signed()}


def transaction_document(transaction: Transaction) -> dict[str, Any]:
    """A transaction's fields with its id."""
    fields = document(transaction)
    del fields["kind"]
    return {"tx_id": transaction.id.hex(), **fields}


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
            "events": [document(event) for event in record.events],
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
    return answer


_HASH = hex_bytes(32, exactly=True)
_RAW = hex_bytes(MAX_RAW_BYTES)
_BLOCK = Param("block", block_reference(), "height or block hash", required=True)
_HEAD_SHAPE = {
    "chain": "text",
    "height": "decimal",
    "hash": "hex",
    "time_ms": "decimal",
    "market_ms": "decimal",
    "state_root": "hex",
    "proposer_index": "number",
    "finalized": "bool",
}
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
        "chain_getStatus",
        get_status,
        "The node, its network, and each chain it follows; answers 200 whatever the state.",
        shape(node="object", network="object", sync="object", peers="number", chains="list"),
        routes=(Route("GET", "/status"),),
    ),
    Method(
        "chain_getHead",
        get_head,
        "The newest decided block of a chain.",
        shape(**_HEAD_SHAPE),
        (CHAIN,),
        (Route("GET", "/blocks/head"),),
    ),
    Method(
        "chain_getBlock",
        get_block,
        "A block by height or hash, with its transactions' ids or bodies.",
        shape(
            chain="text",
            height="decimal",
            hash="hex",
            finalized="bool",
            header="object",
            transactions="list",
            transaction_count="number",
            next_offset="number?",
        ),
        (
            _BLOCK,
            CHAIN,
            Param("full", boolean(), "bodies instead of ids, 500 at a time", default=False),
            Param("offset", integer(0, 20_000), "first transaction with `full`", default=0),
        ),
        (
            Route("GET", "/blocks/{height}", immutable=True, renames={"height": "block"}),
            Route("GET", "/blocks/hash/{hash}", immutable=True, renames={"hash": "block"}),
        ),
        cost=5,
    ),
    Method(
        "chain_getFinality",
        get_finality,
        "The header (canonical bytes) and the commit certificate that makes a block final.",
        shape(
            chain="text",
            height="decimal",
            hash="hex",
            finalized="bool",
            header="hex",
            certificate="hex",
            view="number",
            signers="list",
        ),
        (_BLOCK, CHAIN),
        (Route("GET", "/blocks/{height}/finality", renames={"height": "block"}),),
        cost=5,
    ),
    Method(
        "chain_getValidators",
        get_validators,
        "Who signs the blocks of a chain.",
        shape(chain="text", set_hash="hex", total_weight="decimal", items="list"),
        (CHAIN,),
        (Route("GET", "/validators"),),
    ),
    Method(
        "chain_getGenesis",
        get_genesis,
        "The genesis file of the network and its hash.",
        shape(hash="hex", genesis="object"),
        routes=(Route("GET", "/genesis"),),
        cost=5,
    ),
    Method(
        "chain_getParams",
        get_params,
        "The market parameters in force on a chain.",
        shape(chain="text", height="decimal", parameters="object"),
        (CHAIN,),
        (Route("GET", "/params"),),
    ),
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
        "pending, queued (an earlier nonce is missing), finalized, rejected or unknown.",
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
