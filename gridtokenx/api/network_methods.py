"""Methods about the grid's places and the node's peers."""

from __future__ import annotations

from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.table import CHAIN, Arguments, Method, Route, shape
from gridtokenx.node.view import ChainStatus, PeerStatus
from gridtokenx.registry.model import METERS, TERRITORIES, Meter, Territory

MAX_PEERS = 1000


def get_grid_status(context: Context, arguments: Arguments) -> dict[str, Any]:
    regions = []
    for status in context.selected(arguments["chain"]):
        substations = _substations(context, status)
        for territory in _territories(status):
            regions.append(_region_document(status, territory, substations))
    return {"regions": regions}


def _territories(status: ChainStatus) -> list[Territory]:
    return [territory for _, territory in TERRITORIES.items(status.view)]


def _substations(context: Context, status: ChainStatus) -> dict[str, list[Meter]]:
    """Meters by substation, in name order."""
    found: dict[str, list[Meter]] = {}
    for _, meter in context.table(status, METERS):
        found.setdefault(meter.location, []).append(meter)
    return dict(sorted(found.items()))


def _region_document(
    status: ChainStatus, territory: Territory, substations: dict[str, list[Meter]]
) -> dict[str, Any]:
    own = {name: meters for name, meters in substations.items() if name[:3] == territory.prefix}
    return {
        "region": territory.prefix,
        "chain": status.spec.name,
        "height": str(status.head.height),
        "distributor": territory.distributor,
        "distributor_area": territory.distributor_area,
        "transmission_area": territory.transmission_area,
        "zones": sorted({_zone_of(name) for name in own}),
        "substations": [_substation_document(name, meters) for name, meters in own.items()],
    }


def _substation_document(name: str, meters: list[Meter]) -> dict[str, Any]:
    return {
        "location": name,
        "zone": _zone_of(name),
        "meters": len(meters),
        "nameplate_import_w": str(sum(meter.nameplate_import_w for meter in meters)),
        "nameplate_export_w": str(sum(meter.nameplate_export_w for meter in meters)),
    }


def _zone_of(location: str) -> str:
    return location.rpartition("-")[0]


def get_zones(context: Context, arguments: Arguments) -> dict[str, Any]:
    items = []
    for status in context.selected(arguments["chain"]):
        zones: dict[str, list[int]] = {}
        for name, meters in _substations(context, status).items():
            counts = zones.setdefault(_zone_of(name), [0, 0])
            counts[0] += 1
            counts[1] += len(meters)
        for zone, (substations, meters_count) in zones.items():
            items.append(
                {
                    "zone": zone,
                    "region": zone[:3],
                    "chain": status.spec.name,
                    "substations": substations,
                    "meters": meters_count,
                }
            )
    return {"items": items, "next_cursor": None}


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
        "grid_getStatus",
        get_grid_status,
        "Regions with their distributor, and substations with the meters registered there.",
        shape(regions="list"),
        (CHAIN,),
        (Route("GET", "/grid/status"),),
        cost=5,
    ),
    Method(
        "grid_getZones",
        get_zones,
        "Zones that have meters.",
        shape(items="list", next_cursor="text?"),
        (CHAIN,),
        (Route("GET", "/grid/zones"),),
        cost=5,
    ),
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
