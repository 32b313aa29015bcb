"""Answers about the node's place in the network and its peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gridtokenx.answers.fields import HASH_EXAMPLE, TIME_EXAMPLE, NextCursor, answer, count
from gridtokenx.answers.shapes import Rule

PEER_EXAMPLE = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
ADDRESS_EXAMPLE = "/ip4/127.0.0.1/tcp/9000"

PeerId = Annotated[str, Rule("libp2p peer id", example=PEER_EXAMPLE)]
NodeId = Annotated[str, Rule("name that the node gives itself", example="mea-0")]
Organisation = Annotated[
    str | None, Rule("organisation whose validator vouches for it; null for none", example="mea")
]


@answer
class NetworkInfo:
    """This node on the network."""

    peer_id: PeerId
    node_id: NodeId
    role: Annotated[str, Rule("role of this node", example="validator")]
    version: Annotated[str, Rule("version of its program", example="0.1.0")]
    network: Annotated[str, Rule("name of the network", example="gridtokenx-testnet")]
    network_id: Annotated[int, count("number of the network", "networks", 1001)]
    genesis_hash: Annotated[bytes, Rule("hash of the genesis file", example=HASH_EXAMPLE)]
    chains: Annotated[tuple[str, ...], Rule("chains that it follows", example=["TH", "MET"])]
    listen: Annotated[
        tuple[str, ...], Rule("multiaddrs that it listens on", example=[ADDRESS_EXAMPLE])
    ]
    announce: Annotated[
        tuple[str, ...], Rule("multiaddrs set as its own", example=[ADDRESS_EXAMPLE])
    ]
    announced: Annotated[
        tuple[str, ...], Rule("multiaddrs that others are told", example=[ADDRESS_EXAMPLE])
    ]
    nat_ip: Annotated[
        str | None,
        Rule("where others see it come from, if no address of its own", example="127.0.0.2"),
    ]
    peers: Annotated[int, count("connected peers", "peers")]
    inbound: Annotated[int, count("connections that others opened", "connections")]
    outbound: Annotated[int, count("connections that it opened", "connections")]
    known_peers: Annotated[int, count("peers in its routing table", "peers", 40)]


@answer
class Peer:
    """A connected peer."""

    peer_id: PeerId
    node_id: NodeId
    addresses: Annotated[tuple[str, ...], Rule("its multiaddrs", example=[ADDRESS_EXAMPLE])]
    direction: Annotated[str, Rule("who opened the connection", example="outbound")]
    agent: Annotated[str, Rule("the program it says it runs", example="gridtokenx/0.1.0")]
    heights: Annotated[
        Mapping[str, int], Rule("its height by chain", unit="blocks", example={"MET": "42"})
    ]
    organisation: Organisation
    latency_ms: Annotated[
        int | None, count("time of a status, there and back; null before the first", "ms", 12)
    ]
    score: Annotated[int, count("0 down to -100, at which it is banned", "points", -3)]
    offences: Annotated[
        Mapping[str, int], Rule("what it did wrong", unit="times", number=True, example={"late": 2})
    ]
    gossip: Annotated[
        Mapping[str, float],
        Rule("its gossip score, `total` and parts", unit="points", example={"total": 1.25}),
    ]


@answer
class Peers:
    """All connected peers."""

    items: tuple[Peer, ...]
    next_cursor: NextCursor = None


@answer
class DialStats:
    """How connections began."""

    dials: Annotated[
        Mapping[str, int],
        Rule("own dials by outcome", unit="times", number=True, example={"connected": 7}),
    ]
    inbound_refused: Annotated[
        Mapping[str, int],
        Rule("refusals of others by reason", unit="times", number=True, example={"banned": 1}),
    ]


@answer
class TopologyNode:
    """A node that somebody is connected to."""

    peer_id: PeerId
    node_id: Annotated[str | None, Rule("its name, if it is known here", example="mea-0")]
    organisation: Organisation
    links: Annotated[int, count("its known links", "links")]


@answer
class Topology:
    """Who is connected to whom."""

    self: PeerId
    nodes: tuple[TopologyNode, ...]
    links: Annotated[
        tuple[tuple[str, ...], ...],
        Rule("pairs of peer ids", example=[[PEER_EXAMPLE, PEER_EXAMPLE]]),
    ]


@answer
class Ban:
    """A ban in force."""

    target: Annotated[str, Rule("peer id, or an address with all behind it", example="127.0.0.9")]
    reason: Annotated[str, Rule("why", example="flooding")]
    since_ms: Annotated[int, Rule("when it began", unit="ms since 1970 UTC", example=TIME_EXAMPLE)]
    until_ms: Annotated[int, Rule("when it ends", unit="ms since 1970 UTC", example=TIME_EXAMPLE)]


@answer
class Bans:
    """All bans in force."""

    items: tuple[Ban, ...]
    next_cursor: NextCursor = None
