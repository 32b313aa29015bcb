"""Methods about chains, their blocks and validators."""

from __future__ import annotations

import base64
from typing import Any, get_args

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document, head_document, transaction_document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import block_reference, boolean, integer
from gridtokenx.api.table import CHAIN, Arguments, Method, Param, Route, shape
from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.transaction import decode_transaction, transaction_id
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.staking.model import VALIDATORS
from gridtokenx.trading import rules as trading
from gridtokenx.views.status import ChainStatus, SyncState

MAX_FULL_TRANSACTIONS = 500
MAX_RAW_BLOCKS = 64
MAX_RAW_BYTES = 4 * 1024 * 1024  # After it no further block goes into the answer.
_SYNC_ORDER = get_args(SyncState)  # Worst first.


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
        "incarnation": status.spec.incarnation,
        "head": head_document(status.head),
        "sync": {
            "state": status.sync_state,
            "target": str(status.sync_target),
            "stopped_because": status.stopped_because or None,
        },
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
        transactions = [transaction_id(raw).hex() for raw in block.transactions]
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


def get_raw_blocks(context: Context, arguments: Arguments) -> dict[str, Any]:
    """Base64, because the largest block would not fit into an answer as hex."""
    status = context.chain(arguments["chain"])
    items: list[dict[str, Any]] = []
    size = 0
    first = arguments["from_height"]
    for height in range(first, min(first + arguments["limit"], status.head.height + 1)):
        raw, certificate = status.view.block(height), status.view.certificate(height)
        if not raw or not certificate:
            break
        size += len(raw)
        if items and size > MAX_RAW_BYTES:
            break
        items.append(
            {
                "height": str(height),
                "block": base64.b64encode(raw).decode(),
                "certificate": base64.b64encode(certificate).decode(),
            }
        )
    if not items:
        detail = f"{status.spec.name} has no block {first}; its head is {status.head.height}"
        raise ApiError(ErrorCode.BLOCK_NOT_FOUND, detail)
    return {"chain": status.spec.name, "head": str(status.head.height), "items": items}


def get_validators(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    names: dict[bytes, str] = dict(status.spec.organisation_of)
    if status.spec.is_national:
        names |= {one.consensus_key: one.moniker for _, one in context.table(status, VALIDATORS)}
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
    return {"hash": context.handle.genesis.hash.hex(), "genesis": context.genesis_document}


def get_supply(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    state = status.view
    total, crossed, deposits = ledger.supply(state), ledger.crossings(state), ledger.deposits(state)
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "holdings": {name: str(amount) for name, amount in ledger.holdings(state).items()},
        "supply": document(total),
        "crossings": document(crossed),
        "deposits": {
            "total_uthb": str(deposits.total_uthb),
            "stated_uthb": str(deposits.stated_uthb),
        },
    }


def get_params(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "parameters": document(trading.parameters(status.view)),
    }


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
        "chain_getRawBlocks",
        get_raw_blocks,
        "Blocks and their commit certificates as canonical bytes (base64), for re-execution.",
        shape(chain="text", head="decimal", items="list"),
        (
            Param("from_height", integer(1, 2**63 - 1), "first block", required=True),
            CHAIN,
            Param("limit", integer(1, MAX_RAW_BLOCKS), "most blocks", default=MAX_RAW_BLOCKS),
        ),
        (Route("GET", "/blocks/raw"),),
        cost=20,
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
        "chain_getSupply",
        get_supply,
        "What all accounts of a chain hold, what was made there and what crossed to and from other "
        "chains, and the baht that its payment authority has deposited and stated.",
        shape(
            chain="text",
            height="decimal",
            holdings="object",
            supply="object",
            crossings="object",
            deposits="object",
        ),
        (CHAIN,),
        (Route("GET", "/supply"),),
    ),
    Method(
        "chain_getParams",
        get_params,
        "The market parameters in force on a chain.",
        shape(chain="text", height="decimal", parameters="object"),
        (CHAIN,),
        (Route("GET", "/params"),),
    ),
)
