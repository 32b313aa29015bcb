"""Methods about the node's place in the network and its peers."""

from __future__ import annotations

from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.table import Arguments, Method, Route, shape
from gridtokenx.node.view import PeerStatus

MAX_PEERS = 1000


def get_info(context: Context, _arguments: Arguments) -> dict[str, Any]:
    handle = context.handle
    return {
        "peer_id": handle.peer_id,
        "node_id": handle.node_id,
        "role": handle.role,
        "version": handle.version,
        "network": handle.genesis.network_name,
        "network_id": handle.genesis.network_id,
        "genesis_hash": handle.genesis.hash.hex(),
        "chains": list(handle.chains()),
        "listen": list(handle.config.network.listen),
        "announce": list(handle.config.network.announce),
        "peers": len(handle.peers()),
    }


def get_peers(context: Context, _arguments: Arguments) -> dict[str, Any]:
    peers = context.handle.peers()[:MAX_PEERS]
    return {"items": [_peer_document(peer) for peer in peers], "next_cursor": None}


def _peer_document(peer: PeerStatus) -> dict[str, Any]:
    return {
        "peer_id": peer.peer_id,
        "addresses": list(peer.addresses),
        "direction": peer.direction,
        "agent": peer.agent,
        "heights": {chain: str(height) for chain, height in peer.heights.items()},
        "organisation": peer.organisation,
    }


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
            peers="number",
        ),
        routes=(Route("GET", "/network"),),
    ),
    Method(
        "net_getPeers",
        get_peers,
        "Connected peers, what they run and how far they are.",
        shape(items="list", next_cursor="text?"),
        routes=(Route("GET", "/peers"),),
    ),
)
