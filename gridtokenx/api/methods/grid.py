"""Methods about the grid: what its nodes carry, what may still cross them, what was sold over them.

A node of the grid is a territory `BKK`, a zone `BKK-01` or a substation `BKK-01-SUB001`. One
without a published status is unlimited. Source: protocols/market.md 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import meter_document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import hex_bytes, integer, text
from gridtokenx.api.table import CHAIN, Arguments, Method, Param, Route, shape
from gridtokenx.chain.commands import grid_limits
from gridtokenx.grid import operation
from gridtokenx.grid.model import STATUSES, GridLimits, GridStatus
from gridtokenx.grid.rules import read_to
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.places import ZONE, territory_of
from gridtokenx.primitives.quantities import SLOTS_PER_DAY, local_day, slot_at, slot_start_ms
from gridtokenx.registry.model import (
    METER_KEYS,
    METERS,
    TERRITORIES,
    Meter,
    MeterStatus,
    Territory,
)
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import FLOWS, NodeFlow
from gridtokenx.views.status import ChainStatus

_ZONE_LENGTH = len("BKK-01")


@dataclass(frozen=True, slots=True)
class _Grid:
    """The grid of one chain as of one block; `slot` is the slot whose flow is told, and whose
    status, unless it is over."""

    status: ChainStatus
    limits: GridLimits
    now_ms: int
    slot: int
    substations: dict[str, list[Meter]]
    published: dict[str, GridStatus]
    in_slot: dict[str, NodeFlow]
    in_day: dict[str, NodeFlow]

    def node(self, name: str) -> dict[str, Any]:
        """What is known of one node of the grid."""
        found = self.published.get(name)
        return {
            "node": name,
            "state": self._state(name, found),
            "headroom_wh": self._headroom(found),
            **_status_document(found),
            "stale": found is not None and operation.is_stale(found, self.now_ms, self.limits),
            "flow": _flow_document(self.in_slot.get(name)),
            "flow_day": _flow_document(self.in_day.get(name)),
        }

    def emergency(self, territory: str) -> str | None:
        """Why a territory may not trade now."""
        return operation.emergency_of(self.status.view, territory, self.now_ms, self.limits)

    def halt(self, territory: str) -> dict[str, Any] | None:
        """A territory's halt in force."""
        found = operation.halt_in_force(self.status.view, territory, self.now_ms)
        if found is None:
            return None
        return {
            "by": found.by,
            "reason": found.reason,
            "since_ms": str(found.since_ms),
            "until_ms": str(found.until_ms) if found.until_ms else None,
        }

    def zones(self) -> list[str]:
        """Zones with meters or a published status, by name."""
        zones = {_zone_of(name): None for name in self.substations}
        zones.update((name[:_ZONE_LENGTH], None) for name in self.published if len(name) > 3)
        return sorted(zones)

    def substations_in(self, place: str) -> list[str]:
        """Substations of a territory or zone with meters or a published status, by name."""
        names = dict.fromkeys((*self.substations, *self.published))
        return sorted(
            name for name in names if name.startswith(f"{place}-") and len(name) > _ZONE_LENGTH
        )

    def _state(self, name: str, found: GridStatus | None) -> str:
        if found is not None:
            return operation.node_state(self.status.view, found, self.now_ms, self.limits).value
        return "emergency" if self.emergency(territory_of(name)) is not None else "unpublished"

    def _headroom(self, found: GridStatus | None) -> str | None:
        if found is None:
            return None
        return str(operation.node_headroom_wh(found, self.now_ms, self.limits))


def _grid(context: Context, status: ChainStatus, slot: int | None) -> _Grid:
    now_ms = status.head.market_ms
    chosen = slot_at(now_ms) if slot is None else slot
    substations: dict[str, list[Meter]] = {}
    for _, meter in context.table(status, METERS):
        if meter.status is MeterStatus.RETIRED:
            continue
        substations.setdefault(meter.location, []).append(meter)
    published = {}
    for key, row in context.table(status, STATUSES):
        found = operation.status_in(row.statuses, max(chosen, slot_at(now_ms)))
        if found is not None:
            published[key.decode()] = found
    by_slot = list(_flows(context, status))
    return _Grid(
        status=status,
        limits=grid_limits(trading.parameters(status.view)),
        now_ms=now_ms,
        slot=chosen,
        substations=dict(sorted(substations.items())),
        published=published,
        in_slot={node: flow for at, node, flow in by_slot if at == chosen},
        in_day=_sums(by_slot, chosen),
    )


def _flows(context: Context, status: ChainStatus) -> Iterable[tuple[int, str, NodeFlow]]:
    for key, flow in context.table(status, FLOWS):
        yield int.from_bytes(key[:8], "big"), key[8:].decode(), flow


def _sums(by_slot: Iterable[tuple[int, str, NodeFlow]], slot: int) -> dict[str, NodeFlow]:
    """Flows of the Bangkok day of `slot`, up to and with it."""
    day, sums = local_day(slot_start_ms(slot)), dict[str, NodeFlow]()
    for at, node, flow in by_slot:
        if at <= slot and at > slot - SLOTS_PER_DAY and local_day(slot_start_ms(at)) == day:
            old = sums.get(node, NodeFlow())
            sums[node] = NodeFlow(
                old.export_wh + flow.export_wh,
                old.import_wh + flow.import_wh,
                old.local_wh + flow.local_wh,
            )
    return sums


def _status_document(found: GridStatus | None) -> dict[str, Any]:
    names = ("loading_bps", "limit_bps", "rating_va", "frequency_mhz", "voltage_bps", "slot", "by")
    if found is None:
        return dict.fromkeys(names)
    return {
        "loading_bps": found.loading_bps,
        "limit_bps": found.limit_bps,
        "rating_va": str(found.rating_va),
        "frequency_mhz": found.frequency_mhz,
        "voltage_bps": found.voltage_bps,
        "slot": str(found.slot),
        "by": found.by,
    }


def _flow_document(flow: NodeFlow | None) -> dict[str, str]:
    found = flow or NodeFlow()
    return {
        "export_wh": str(found.export_wh),
        "import_wh": str(found.import_wh),
        "local_wh": str(found.local_wh),
    }


def get_grid_status(context: Context, arguments: Arguments) -> dict[str, Any]:
    territories = []
    for status in context.selected(arguments["chain"]):
        grid = _grid(context, status, arguments["slot"])
        for _, territory in TERRITORIES.items(status.view):
            territories.append(_territory_document(grid, territory))
    return {"territories": territories}


def _territory_document(grid: _Grid, territory: Territory) -> dict[str, Any]:
    prefix = territory.prefix
    return {
        "territory": prefix,
        "chain": grid.status.spec.name,
        "height": str(grid.status.head.height),
        "market_ms": str(grid.now_ms),
        "flow_slot": str(grid.slot),
        "distributor": territory.distributor,
        "distributor_area": territory.distributor_area,
        "transmission_area": territory.transmission_area,
        "emergency": grid.emergency(prefix),
        "halt": grid.halt(prefix),
        **grid.node(prefix),
        "zones": [zone for zone in grid.zones() if territory_of(zone) == prefix],
        "substations": [_substation_document(grid, name) for name in grid.substations_in(prefix)],
    }


def _substation_document(grid: _Grid, name: str) -> dict[str, Any]:
    meters = grid.substations.get(name, [])
    return {
        "location": name,
        "zone": _zone_of(name),
        "meters": len(meters),
        "nameplate_import_w": str(sum(meter.nameplate_import_w for meter in meters)),
        "nameplate_export_w": str(sum(meter.nameplate_export_w for meter in meters)),
        **grid.node(name),
    }


def _zone_of(location: str) -> str:
    return location.rpartition("-")[0]


def get_zones(context: Context, arguments: Arguments) -> dict[str, Any]:
    items = []
    for status in context.selected(arguments["chain"]):
        grid = _grid(context, status, arguments["slot"])
        items += [_zone_document(grid, zone) for zone in grid.zones()]
    return {"items": items, "next_cursor": None}


def _zone_document(grid: _Grid, zone: str) -> dict[str, Any]:
    names = grid.substations_in(zone)
    return {
        "zone": zone,
        "territory": territory_of(zone),
        "chain": grid.status.spec.name,
        "substations": len(names),
        "meters": sum(len(grid.substations.get(name, [])) for name in names),
        **grid.node(zone),
    }


def get_zone(context: Context, arguments: Arguments) -> dict[str, Any]:
    zone = arguments["zone"]
    status = context.chain_at(zone)
    grid = _grid(context, status, arguments["slot"])
    if zone not in grid.zones():
        detail = f"zone {zone} has neither meters nor a published status"
        raise ApiError(ErrorCode.UNKNOWN_ZONE, detail)
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "market_ms": str(grid.now_ms),
        "flow_slot": str(grid.slot),
        "zone": _zone_document(grid, zone),
        "substations": [_substation_document(grid, name) for name in grid.substations_in(zone)],
    }


def get_meter(context: Context, arguments: Arguments) -> dict[str, Any]:
    """By the metering point's id, or by the key of any device that it has or had."""
    for status in context.selected(arguments["chain"]):
        known = METER_KEYS.get(status.view, arguments["id"])
        meter = None if known is None else METERS.get(status.view, known.meter_id)
        if meter is not None:
            slot = read_to(status.view, meter.meter_id)
            return {
                "chain": status.spec.name,
                "height": str(status.head.height),
                "meter": meter_document(meter),
                "read_to_slot": None if slot < 0 else str(slot),
            }
    detail = f"no meter {arguments['id'].hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.UNKNOWN_METER, detail)


_SLOT = Param(
    "slot", integer(0, 2**40), "the slot whose status and flows are told; the current one if absent"
)

METHODS = (
    Method(
        "grid_getStatus",
        get_grid_status,
        "Territories and substations: state, loading, limit, headroom, the energy sold over them.",
        shape(territories="list"),
        (CHAIN, _SLOT),
        (Route("GET", "/grid/status"),),
        cost=5,
    ),
    Method(
        "grid_getZones",
        get_zones,
        "Zones with their state, loading, headroom and flow.",
        shape(items="list", next_cursor="text?"),
        (CHAIN, _SLOT),
        (Route("GET", "/grid/zones"),),
        cost=5,
    ),
    Method(
        "grid_getZone",
        get_zone,
        "One zone and its substations.",
        shape(
            chain="text",
            height="decimal",
            market_ms="decimal",
            flow_slot="decimal",
            zone="object",
            substations="list",
        ),
        (
            Param("zone", text(6, ZONE, "BKK-01"), "zone", required=True),
            _SLOT,
        ),
        (Route("GET", "/grid/zones/{zone}"),),
        cost=5,
    ),
    Method(
        "grid_getMeter",
        get_meter,
        "A metering point: whose, where, its device's key, and whether its readings count.",
        shape(chain="text", height="decimal", meter="object", read_to_slot="decimal?"),
        (
            Param(
                "id",
                hex_bytes(32, exactly=True),
                "meter id, or the key of one of its devices",
                required=True,
            ),
            CHAIN,
        ),
        (Route("GET", "/grid/meters/{id}"),),
    ),
)
