"""Answers about chains, their blocks and validators."""

from __future__ import annotations

from typing import Annotated

from gridtokenx.answers.fields import (
    ADDRESS_EXAMPLE,
    HASH_EXAMPLE,
    Account,
    AtHeight,
    BlockHash,
    ChainId,
    ChainName,
    Finalized,
    Height,
    Incarnation,
    MarketMs,
    TimeMs,
    answer,
    count,
)
from gridtokenx.answers.network import NodeId, PeerId
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.transaction import ShownTransaction
from gridtokenx.chain.block import Header
from gridtokenx.chain.genesis import Genesis
from gridtokenx.ledger.model import Crossings, Supply
from gridtokenx.trading.model import MarketParameters

GenesisHash = Annotated[bytes, Rule("hash of the genesis file", example=HASH_EXAMPLE)]
State = Annotated[
    str, Rule("live, blocks, rebuilding, waiting_peers, stalled or stopped", example="live")
]
Base64 = Annotated[str, Rule("canonical bytes in base64", example="hxgeWCA=")]


@answer
class NodeIdentity:
    """Who the node is."""

    id: NodeId
    peer_id: PeerId
    role: Annotated[str, Rule("role of this node", example="validator")]
    version: Annotated[str, Rule("version of its program", example="0.1.0")]
    local_signer: Annotated[
        Account | None, Rule("account that it signs bare orders with", example=ADDRESS_EXAMPLE)
    ]


@answer
class NetworkIdentity:
    """Which network it is of."""

    name: Annotated[str, Rule("name of the network", example="gridtokenx-testnet")]
    id: Annotated[int, count("number of the network", "networks", 1001)]
    genesis_hash: GenesisHash


@answer
class NodeSync:
    """How the chain that is furthest behind keeps up."""

    state: State


@answer
class ChainSync:
    """How the node keeps up with a chain."""

    state: State
    target: Annotated[int, Rule("height that peers tell of", unit="blocks", example="42")]
    stopped_because: Annotated[
        str | None, Rule("why it cannot go on; null while it can", example="block 43 is not valid")
    ]


@answer
class BlockHead:
    """The newest decided block."""

    height: Height
    hash: BlockHash
    time_ms: TimeMs
    market_ms: MarketMs
    state_root: Annotated[bytes, Rule("root of the state after it", example=HASH_EXAMPLE)]
    proposer_index: Annotated[int, count("its proposer's place among validators", "validators")]


@answer
class FinalityTimes:
    """From a block's time to its decision here, of the newest blocks; null without any."""

    p50: Annotated[int | None, count("half took no longer", "ms", 800)]
    p99: Annotated[int | None, count("99 of 100 took no longer", "ms", 1900)]


@answer
class ChainOfNode:
    """A chain that the node follows."""

    chain: ChainName
    chain_id: ChainId
    incarnation: Incarnation
    head: BlockHead
    sync: ChainSync
    validators: Annotated[int, count("members of its validator set", "validators", 4)]
    consensus_view: Annotated[int, count("view of the next height now", "views", 0)]
    mempool_transactions: Annotated[int, count("transactions that wait", "transactions")]
    finality_ms: FinalityTimes


@answer
class NodeStatus:
    """The node, its network and its chains."""

    node: NodeIdentity
    network: NetworkIdentity
    sync: NodeSync
    peers: Annotated[int, count("connected peers", "peers")]
    chains: tuple[ChainOfNode, ...]


@answer
class NamedChain:
    """Which chain is told of."""

    chain: ChainName


@answer
class ChainHead(BlockHead, NamedChain):
    """The newest decided block of a chain."""

    finalized: Finalized = True


@answer
class BlockAnswer:
    """A block, with the ids or the bodies of its transactions."""

    chain: ChainName
    height: AtHeight
    hash: BlockHash
    finalized: Finalized = True
    header: Annotated[Header, Rule("what validators signed")]
    transactions: Annotated[
        tuple[bytes | ShownTransaction, ...],
        Rule("ids, or a page of bodies with `full`", example=[HASH_EXAMPLE]),
    ]
    transaction_count: Annotated[int, count("transactions in the block", "transactions")]
    next_offset: Annotated[
        int | None, count("`offset` of the next page; null after the last", "transactions", 500)
    ]


@answer
class Finality:
    """What makes a block final."""

    chain: ChainName
    height: AtHeight
    hash: BlockHash
    finalized: Finalized = True
    header: Annotated[bytes, Rule("canonical bytes", example="9418205820")]
    certificate: Annotated[bytes, Rule("canonical bytes of the votes", example="8618280302")]
    view: Annotated[int, count("view in which it was decided", "views", 0)]
    signers: Annotated[
        tuple[int, ...],
        Rule("places of those who signed", unit="validators", number=True, example=[0, 1, 3]),
    ]


@answer
class RawBlock:
    """A block as it was decided."""

    height: AtHeight
    block: Base64
    certificate: Base64


@answer
class RawBlocks:
    """Blocks one after the other."""

    chain: ChainName
    head: Annotated[int, Rule("height of the newest block here", unit="blocks", example="42")]
    items: tuple[RawBlock, ...]


@answer
class SetMember:
    """A member of a validator set."""

    index: Annotated[int, count("place in the set, from 0", "validators", 0)]
    public_key: Annotated[Account, Rule("key that signs its votes", example=ADDRESS_EXAMPLE)]
    weight: Annotated[int, Rule("its votes", example="1")]
    organisation: Annotated[str | None, Rule("whose it is; null if unknown", example="mea")]


@answer
class ValidatorSetAnswer:
    """Who signs the next block of a chain."""

    chain: ChainName
    set_hash: Annotated[bytes, Rule("hash of the set", example=HASH_EXAMPLE)]
    total_weight: Annotated[int, Rule("all votes together", example="4")]
    items: tuple[SetMember, ...]


@answer
class GenesisAnswer:
    """The network's genesis."""

    hash: GenesisHash
    genesis: Annotated[Genesis, Rule("the file, whose integers are numbers", number=True)]


@answer
class Holdings:
    """What all accounts of a chain hold together."""

    thb_uthb: Annotated[int, Rule("baht, with what is reserved", example="10000000000")]
    energy_wh: Annotated[int, Rule("energy, with what is held", example="1500")]
    gtx_ugtx: Annotated[int, Rule("gtx", example="1000000")]
    carbon_ucr: Annotated[int, Rule("carbon credits", example="400000")]


@answer
class DepositTotals:
    """Baht that was ever deposited on a chain."""

    total_uthb: Annotated[int, Rule("all deposits", example="10000000000")]
    stated_uthb: Annotated[
        int, Rule("up to where the payment authority has signed for them", example="10000000000")
    ]


@answer
class ChainSupply:
    """What a chain's accounts hold, what was made there and what crossed."""

    chain: ChainName
    height: Height
    holdings: Holdings
    supply: Annotated[Supply, Rule("what was made and unmade")]
    crossings: Annotated[Crossings, Rule("what came from other chains and went there")]
    deposits: DepositTotals


@answer
class ChainParameters:
    """The market's parameters on a chain."""

    chain: ChainName
    height: Height
    parameters: Annotated[MarketParameters, Rule("in force now")]
