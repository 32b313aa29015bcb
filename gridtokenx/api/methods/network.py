"""Methods about the node's place in the network and its peers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.table import Arguments, Method, Route, shape
from gridtokenx.views.status import PeerStatus

MAX_PEERS = 1000


def get_info(context: Context, _arguments: Arguments) -> dict[str, Any]:
    handle = context.handle
    network = handle.network()
    return {
        "peer_id": handle.peer_id,
        "node_id": handle.node_id,
        "role": handle.role,
        "version": handle.version,
        "network": handle.genesis.network_name,
        "network_id": handle.genesis.network_id,
        "genesis_hash": handle.genesis.hash.hex(),
        "chains": list(handle.chains()),
        "listen": list(network.listen) or list(handle.config.network.listen),
        "announce": list(handle.config.network.announce),
        "announced": list(network.announced),
        "nat_ip": network.nat_ip,
        "peers": len(handle.peers()),
        "inbound": network.inbound,
        "outbound": network.outbound,
        "known_peers": network.known_peers,
    }


def get_peers(context: Context, _arguments: Arguments) -> dict[str, Any]:
    peers = context.handle.peers()[:MAX_PEERS]
    return {"items": [_peer_document(peer) for peer in peers], "next_cursor": None}


def _peer_document(peer: PeerStatus) -> dict[str, Any]:
    return {
        "peer_id": peer.peer_id,
        "node_id": peer.node_id,
        "addresses": list(peer.addresses),
        "direction": peer.direction,
        "agent": peer.agent,
        "heights": {chain: str(height) for chain, height in peer.heights.items()},
        "organisation": peer.organisation,
        "latency_ms": peer.latency_ms,
        "score": peer.score,
        "offences": dict(peer.offences),
        "gossip": {part: round(value, 2) for part, value in peer.gossip.items()},
    }


def get_dial_stats(context: Context, _arguments: Arguments) -> dict[str, Any]:
    network = context.handle.network()
    return {
        "dials": dict(sorted(network.dial_outcomes.items())),
        "inbound_refused": dict(sorted(network.inbound_refused.items())),
    }


def get_topology(context: Context, _arguments: Arguments) -> dict[str, Any]:
    """Links that one end at least tells of: ours are seen, the others' are hearsay."""
    handle = context.handle
    peers = handle.peers()[:MAX_PEERS]
    names = {handle.peer_id: handle.node_id} | {peer.peer_id: peer.node_id for peer in peers}
    pairs = {_pair(handle.peer_id, peer.peer_id) for peer in peers}
    for peer in peers:
        pairs |= {_pair(peer.peer_id, link) for link in peer.links if link != peer.peer_id}
    degrees = Counter(end for pair in pairs for end in pair)
    organisations = {peer.peer_id: peer.organisation for peer in peers}
    nodes = [
        {
            "peer_id": one,
            "node_id": names.get(one),
            "organisation": organisations.get(one),
            "links": degrees[one],
        }
        for one in sorted({handle.peer_id, *degrees})
    ]
    links = [list(pair) for pair in sorted(pairs)]
    return {"self": handle.peer_id, "nodes": nodes, "links": links}


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def get_bans(context: Context, _arguments: Arguments) -> dict[str, Any]:
    bans = context.handle.network().bans
    items = [
        {
            "target": ban.target,
            "reason": ban.reason,
            "since_ms": str(ban.since_ms),
            "until_ms": str(ban.until_ms),
        }
        for ban in bans
    ]
    return {"items": items, "next_cursor": None}


METHODS = (
    Method(
        "net_getInfo",
        get_info,
        "This node on the network.",
        shape(
            peer_id="text",
            node_id="text",
            role="text",
            version="text",
            network="text",
            network_id="number",
            genesis_hash="hex",
            chains="list",
            listen="list",
            announce="list",
            announced="list",
            nat_ip="text?",
            peers="number",
            inbound="number",
            outbound="number",
            known_peers="number",
        ),
        routes=(Route("GET", "/network"),),
    ),
    Method(
        "net_getPeers",
        get_peers,
        "Connected peers, what they run, how far they are, what they did wrong and how gossip "
        "scores them.",
        shape(items="list", next_cursor="text?"),
        routes=(Route("GET", "/peers"),),
    ),
    Method(
        "net_getDialStats",
        get_dial_stats,
        "How dials ended and why inbound connections were refused, counted since the start.",
        shape(dials="object", inbound_refused="object"),
        routes=(Route("GET", "/network/dials"),),
    ),
    Method(
        "net_getTopology",
        get_topology,
        "Who is connected to whom, as far as this node and its peers tell.",
        shape(self="text", nodes="list", links="list"),
        routes=(Route("GET", "/network/topology"),),
        cost=5,
    ),
    Method(
        "net_getBans",
        get_bans,
        "Peers and addresses that are refused, why and until when.",
        shape(items="list", next_cursor="text?"),
        routes=(Route("GET", "/network/bans"),),
    ),
)
