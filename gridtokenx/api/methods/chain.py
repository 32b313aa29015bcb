"""Methods about chains, their blocks and validators."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args

from gridtokenx.answers.chain import (
    BlockAnswer,
    BlockHead,
    ChainHead,
    ChainOfNode,
    ChainParameters,
    ChainSupply,
    ChainSync,
    DepositTotals,
    Finality,
    FinalityTimes,
    GenesisAnswer,
    Holdings,
    NetworkIdentity,
    NodeIdentity,
    NodeStatus,
    NodeSync,
    RawBlock,
    RawBlocks,
    SetMember,
    ValidatorSetAnswer,
)
from gridtokenx.answers.kinds import boolean, integer
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.transaction import ShownTransaction
from gridtokenx.api.context import Context
from gridtokenx.api.documents import tell_transaction
from gridtokenx.api.errors import ApiError
from gridtokenx.api.table import BlockId, ChainName, ChainParameter, Method, NoParameters, Route
from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.transaction import decode_transaction, transaction_id
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.staking.model import VALIDATORS
from gridtokenx.trading import rules as trading
from gridtokenx.views.status import ChainStatus, Head, SyncState

MAX_FULL_TRANSACTIONS = 500
MAX_RAW_BLOCKS = 64
MAX_RAW_BYTES = 4 * 1024 * 1024  # After it no further block goes into the answer.
_SYNC_ORDER = get_args(SyncState)  # Worst first.


@dataclass(frozen=True, slots=True)
class BlockParameters:
    """Which block, of one chain or, by its hash, of any."""

    block: BlockId
    chain: ChainName = None


@dataclass(frozen=True, slots=True)
class FullBlockParameters(BlockParameters):
    """Which block, and how much of it."""

    full: Annotated[bool, Rule("bodies instead of ids, 500 at a time", boolean(), example=True)] = (
        False
    )
    offset: Annotated[
        int,
        Rule("first transaction with `full`", integer(0, 20_000), "transactions", example=500),
    ] = 0


@dataclass(frozen=True, slots=True)
class RawBlocksParameters:
    """From where on, and how many."""

    from_height: Annotated[int, Rule("first block", integer(1, 2**63 - 1), "blocks", example=1)]
    chain: ChainName = None
    limit: Annotated[
        int, Rule("most blocks", integer(1, MAX_RAW_BLOCKS), "blocks", example=MAX_RAW_BLOCKS)
    ] = MAX_RAW_BLOCKS


def get_status(context: Context, _asked: NoParameters) -> NodeStatus:
    handle = context.handle
    genesis = handle.genesis
    chains = list(handle.chains().values())
    states = [status.sync_state for status in chains] or ["waiting_peers"]
    signer = context.local_signer
    return NodeStatus(
        node=NodeIdentity(
            id=handle.node_id,
            peer_id=handle.peer_id,
            role=handle.role,
            version=handle.version,
            local_signer=None if signer is None else signer.public_key,
        ),
        network=NetworkIdentity(
            name=genesis.network_name, id=genesis.network_id, genesis_hash=genesis.hash
        ),
        sync=NodeSync(state=min(states, key=_SYNC_ORDER.index)),
        peers=len(handle.peers()),
        chains=tuple(_chain(status) for status in chains),
    )


def _chain(status: ChainStatus) -> ChainOfNode:
    return ChainOfNode(
        chain=status.spec.name,
        chain_id=status.spec.chain_id,
        incarnation=status.spec.incarnation,
        head=BlockHead(**_head(status.head)),
        sync=ChainSync(
            state=status.sync_state,
            target=status.sync_target,
            stopped_because=status.stopped_because or None,
        ),
        validators=len(status.validators.members),
        consensus_view=status.consensus_view,
        mempool_transactions=status.mempool_transactions,
        finality_ms=FinalityTimes(
            p50=_percentile(status.finality_ms, 50), p99=_percentile(status.finality_ms, 99)
        ),
    )


def _head(head: Head) -> dict[str, Any]:
    """The fields that the newest block has in any answer."""
    return {one.name: getattr(head, one.name) for one in fields(head)}


def _percentile(values: tuple[int, ...], percent: int) -> int | None:
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def get_head(context: Context, asked: ChainParameter) -> ChainHead:
    status = context.chain(asked.chain)
    return ChainHead(chain=status.spec.name, **_head(status.head))


def get_block(context: Context, asked: FullBlockParameters) -> BlockAnswer:
    offset = asked.offset
    status, height = _find_block(context, asked.block, asked.chain)
    block = _load_block(status, height)
    count = len(block.transactions)
    transactions: tuple[bytes | ShownTransaction, ...]
    following = None
    if asked.full:
        page = block.transactions[offset : offset + MAX_FULL_TRANSACTIONS]
        transactions = tuple(tell_transaction(decode_transaction(raw)) for raw in page)
        following = offset + len(page) if offset + len(page) < count else None
    else:
        transactions = tuple(transaction_id(raw) for raw in block.transactions)
    return BlockAnswer(
        chain=status.spec.name,
        height=height,
        hash=block.header.hash,
        header=block.header,
        transactions=transactions,
        transaction_count=count,
        next_offset=following,
    )


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


def get_finality(context: Context, asked: BlockParameters) -> Finality:
    status, height = _find_block(context, asked.block, asked.chain)
    block = _load_block(status, height)
    raw = status.view.certificate(height)
    if raw is None:
        detail = f"no certificate of block {height} is kept here"
        raise ApiError(ErrorCode.PROOF_UNAVAILABLE, detail)
    certificate = decode(QuorumCertificate, raw)
    return Finality(
        chain=status.spec.name,
        height=height,
        hash=block.header.hash,
        header=encode(block.header),
        certificate=raw,
        view=certificate.view,
        signers=tuple(one.index for one in certificate.signatures),
    )


def get_raw_blocks(context: Context, asked: RawBlocksParameters) -> RawBlocks:
    """Base64, because the largest block would not fit into an answer as hex."""
    status = context.chain(asked.chain)
    items: list[RawBlock] = []
    size = 0
    first = asked.from_height
    for height in range(first, min(first + asked.limit, status.head.height + 1)):
        raw, certificate = status.view.block(height), status.view.certificate(height)
        if not raw or not certificate:
            break
        size += len(raw)
        if items and size > MAX_RAW_BYTES:
            break
        items.append(RawBlock(height=height, block=_base64(raw), certificate=_base64(certificate)))
    if not items:
        detail = f"{status.spec.name} has no block {first}; its head is {status.head.height}"
        raise ApiError(ErrorCode.BLOCK_NOT_FOUND, detail)
    return RawBlocks(chain=status.spec.name, head=status.head.height, items=tuple(items))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def get_validators(context: Context, asked: ChainParameter) -> ValidatorSetAnswer:
    status = context.chain(asked.chain)
    names: dict[bytes, str] = dict(status.spec.organisation_of)
    if status.spec.is_national:
        names |= {one.consensus_key: one.moniker for _, one in context.table(status, VALIDATORS)}
    return ValidatorSetAnswer(
        chain=status.spec.name,
        set_hash=status.validators.hash,
        total_weight=status.validators.total_weight,
        items=tuple(
            SetMember(
                index=index,
                public_key=member.public_key,
                weight=member.weight,
                organisation=names.get(member.public_key),
            )
            for index, member in enumerate(status.validators.members)
        ),
    )


def get_genesis(context: Context, _asked: NoParameters) -> GenesisAnswer:
    genesis = context.handle.genesis
    return GenesisAnswer(hash=genesis.hash, genesis=genesis)


def get_supply(context: Context, asked: ChainParameter) -> ChainSupply:
    status = context.chain(asked.chain)
    deposits = ledger.deposits(status.view)
    return ChainSupply(
        chain=status.spec.name,
        height=status.head.height,
        holdings=Holdings(**ledger.holdings(status.view)),
        supply=ledger.supply(status.view),
        crossings=ledger.crossings(status.view),
        deposits=DepositTotals(total_uthb=deposits.total_uthb, stated_uthb=deposits.stated_uthb),
    )


def get_params(context: Context, asked: ChainParameter) -> ChainParameters:
    status = context.chain(asked.chain)
    return ChainParameters(
        chain=status.spec.name,
        height=status.head.height,
        parameters=trading.parameters(status.view),
    )


METHODS = (
    Method(
        "chain_getStatus",
        get_status,
        "The node, its network, and each chain it follows; answers 200 whatever the state.",
        routes=(Route("GET", "/status"),),
    ),
    Method(
        "chain_getHead",
        get_head,
        "The newest decided block of a chain.",
        routes=(Route("GET", "/blocks/head"),),
    ),
    Method(
        "chain_getBlock",
        get_block,
        "A block by height or hash, with its transactions' ids or bodies.",
        routes=(
            Route("GET", "/blocks/{height}", immutable=True, renames={"height": "block"}),
            Route("GET", "/blocks/hash/{hash}", immutable=True, renames={"hash": "block"}),
        ),
        cost=5,
    ),
    Method(
        "chain_getFinality",
        get_finality,
        "The header (canonical bytes) and the commit certificate that makes a block final.",
        routes=(Route("GET", "/blocks/{height}/finality", renames={"height": "block"}),),
        cost=5,
    ),
    Method(
        "chain_getRawBlocks",
        get_raw_blocks,
        "Blocks and their commit certificates as canonical bytes (base64), for re-execution.",
        routes=(Route("GET", "/blocks/raw"),),
        cost=20,
    ),
    Method(
        "chain_getValidators",
        get_validators,
        "Who signs the blocks of a chain.",
        routes=(Route("GET", "/validators"),),
    ),
    Method(
        "chain_getGenesis",
        get_genesis,
        "The genesis file of the network and its hash.",
        routes=(Route("GET", "/genesis"),),
        cost=5,
    ),
    Method(
        "chain_getSupply",
        get_supply,
        "What all accounts of a chain hold, what was made there and what crossed to and from other "
        "chains, and the baht that its payment authority has deposited and stated.",
        routes=(Route("GET", "/supply"),),
    ),
    Method(
        "chain_getParams",
        get_params,
        "The market parameters in force on a chain.",
        routes=(Route("GET", "/params"),),
    ),
)
