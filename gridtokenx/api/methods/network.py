"""Methods about the node's place in the network and its peers."""

from __future__ import annotations

from collections import Counter

from gridtokenx.answers.network import (
    Ban,
    Bans,
    DialStats,
    NetworkInfo,
    Peer,
    Peers,
    Topology,
    TopologyNode,
)
from gridtokenx.api.context import Context
from gridtokenx.api.table import Method, NoParameters, Route
from gridtokenx.views.status import PeerStatus

MAX_PEERS = 1000


def get_info(context: Context, _asked: NoParameters) -> NetworkInfo:
    handle = context.handle
    network = handle.network()
    return NetworkInfo(
        peer_id=handle.peer_id,
        node_id=handle.node_id,
        role=handle.role,
        version=handle.version,
        network=handle.genesis.network_name,
        network_id=handle.genesis.network_id,
        genesis_hash=handle.genesis.hash,
        chains=tuple(handle.chains()),
        listen=network.listen or tuple(handle.config.network.listen),
        announce=tuple(handle.config.network.announce),
        announced=network.announced,
        nat_ip=network.nat_ip,
        peers=len(handle.peers()),
        inbound=network.inbound,
        outbound=network.outbound,
        known_peers=network.known_peers,
    )


def get_peers(context: Context, _asked: NoParameters) -> Peers:
    return Peers(items=tuple(_peer(peer) for peer in context.handle.peers()[:MAX_PEERS]))


def _peer(peer: PeerStatus) -> Peer:
    return Peer(
        peer_id=peer.peer_id,
        node_id=peer.node_id,
        addresses=peer.addresses,
        direction=peer.direction,
        agent=peer.agent,
        heights=peer.heights,
        organisation=peer.organisation,
        latency_ms=peer.latency_ms,
        score=peer.score,
        offences=peer.offences,
        gossip={part: round(value, 2) for part, value in peer.gossip.items()},
    )


def get_dial_stats(context: Context, _asked: NoParameters) -> DialStats:
    network = context.handle.network()
    return DialStats(
        dials=dict(sorted(network.dial_outcomes.items())),
        inbound_refused=dict(sorted(network.inbound_refused.items())),
    )


def get_topology(context: Context, _asked: NoParameters) -> Topology:
    """Links that one end at least tells of: ours are seen, the others' are hearsay."""
    handle = context.handle
    peers = handle.peers()[:MAX_PEERS]
    names = {handle.peer_id: handle.node_id} | {peer.peer_id: peer.node_id for peer in peers}
    pairs = {_pair(handle.peer_id, peer.peer_id) for peer in peers}
    for peer in peers:
        pairs |= {_pair(peer.peer_id, link) for link in peer.links if link != peer.peer_id}
    degrees = Counter(end for pair in pairs for end in pair)
    organisations = {peer.peer_id: peer.organisation for peer in peers}
    nodes = tuple(
        TopologyNode(
            peer_id=one,
            node_id=names.get(one),
            organisation=organisations.get(one),
            links=degrees[one],
        )
        for one in sorted({handle.peer_id, *degrees})
    )
    return Topology(self=handle.peer_id, nodes=nodes, links=tuple(sorted(pairs)))


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def get_bans(context: Context, _asked: NoParameters) -> Bans:
    return Bans(
        items=tuple(
            Ban(
                target=ban.target,
                reason=ban.reason,
                since_ms=ban.since_ms,
                until_ms=ban.until_ms,
            )
            for ban in context.handle.network().bans
        )
    )


METHODS = (
    Method(
        "net_getInfo",
        get_info,
        "This node on the network.",
        routes=(Route("GET", "/network"),),
    ),
    Method(
        "net_getPeers",
        get_peers,
        "Connected peers, what they run, how far they are, what they did wrong and how gossip "
        "scores them.",
        routes=(Route("GET", "/peers"),),
    ),
    Method(
        "net_getDialStats",
        get_dial_stats,
        "How dials ended and why inbound connections were refused, counted since the start.",
        routes=(Route("GET", "/network/dials"),),
    ),
    Method(
        "net_getTopology",
        get_topology,
        "Who is connected to whom, as far as this node and its peers tell.",
        routes=(Route("GET", "/network/topology"),),
        cost=5,
    ),
    Method(
        "net_getBans",
        get_bans,
        "Peers and addresses that are refused, why and until when.",
        routes=(Route("GET", "/network/bans"),),
    ),
)
