"""Methods about the grid: what its nodes carry, what may still cross them, what was sold over them.

A node of the grid is a territory `BKK`, a zone `BKK-01` or a substation `BKK-01-SUB001`. One
without a published status is unlimited. Source: protocols/market.md 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from gridtokenx.answers.fields import HASH_EXAMPLE
from gridtokenx.answers.grid import (
    Flow,
    FoundMeter,
    Grid,
    GridTerritory,
    GridZone,
    GridZones,
    HaltInForce,
    Substation,
    ZoneDetail,
)
from gridtokenx.answers.kinds import hex_bytes, integer, text
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.table import ChainName, Method, Route
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
_PUBLISHED = ("loading_bps", "limit_bps", "rating_va", "frequency_mhz", "voltage_bps", "slot", "by")
_METER = hex_bytes(32, exactly=True)
_Slot = Annotated[
    int | None,
    Rule(
        "the slot whose status and flows are told; the current one if absent",
        integer(0, 2**40),
        unit="slots of 15 min since 1970 UTC",
        example=1963608,
    ),
]


@dataclass(frozen=True, slots=True)
class GridParameters:
    """Which chain's grid, and when."""

    chain: ChainName = None
    slot: _Slot = None


@dataclass(frozen=True, slots=True)
class ZoneParameters:
    """Which zone, and when."""

    zone: Annotated[str, Rule("zone", text(6, ZONE, "BKK-01"), example="BKK-01")]
    slot: _Slot = None


@dataclass(frozen=True, slots=True)
class MeterParameters:
    """Which meter."""

    id: Annotated[
        bytes, Rule("meter id, or the key of one of its devices", _METER, example=HASH_EXAMPLE)
    ]
    chain: ChainName = None


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
        """The fields of `GridNodeStatus`: what is known of one node of the grid."""
        found = self.published.get(name)
        return {
            "node": name,
            "state": self._state(name, found),
            "headroom_wh": self._headroom(found),
            **{one: None if found is None else getattr(found, one) for one in _PUBLISHED},
            "stale": found is not None and operation.is_stale(found, self.now_ms, self.limits),
            "flow": _tell_flow(self.in_slot.get(name)),
            "flow_day": _tell_flow(self.in_day.get(name)),
        }

    def emergency(self, territory: str) -> str | None:
        """Why a territory may not trade now."""
        return operation.emergency_of(self.status.view, territory, self.now_ms, self.limits)

    def halt(self, territory: str) -> HaltInForce | None:
        """A territory's halt in force."""
        found = operation.halt_in_force(self.status.view, territory, self.now_ms)
        if found is None:
            return None
        return HaltInForce(
            by=found.by,
            reason=found.reason,
            since_ms=found.since_ms,
            until_ms=found.until_ms or None,
        )

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

    def _headroom(self, found: GridStatus | None) -> int | None:
        if found is None:
            return None
        return operation.node_headroom_wh(found, self.now_ms, self.limits)


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


def _tell_flow(flow: NodeFlow | None) -> Flow:
    return Flow(**asdict(flow or NodeFlow()))


def get_grid_status(context: Context, asked: GridParameters) -> Grid:
    territories: list[GridTerritory] = []
    for status in context.selected(asked.chain):
        grid = _grid(context, status, asked.slot)
        for _, territory in TERRITORIES.items(status.view):
            territories.append(_tell_territory(grid, territory))
    return Grid(territories=tuple(territories))


def _tell_territory(grid: _Grid, territory: Territory) -> GridTerritory:
    prefix = territory.prefix
    return GridTerritory(
        territory=prefix,
        chain=grid.status.spec.name,
        height=grid.status.head.height,
        market_ms=grid.now_ms,
        flow_slot=grid.slot,
        distributor=territory.distributor,
        distributor_area=territory.distributor_area,
        transmission_area=territory.transmission_area,
        emergency=grid.emergency(prefix),
        halt=grid.halt(prefix),
        **grid.node(prefix),
        zones=tuple(zone for zone in grid.zones() if territory_of(zone) == prefix),
        substations=_tell_substations(grid, prefix),
    )


def _tell_substations(grid: _Grid, place: str) -> tuple[Substation, ...]:
    """Those of a territory or zone."""
    return tuple(_tell_substation(grid, name) for name in grid.substations_in(place))


def _tell_substation(grid: _Grid, name: str) -> Substation:
    meters = grid.substations.get(name, [])
    return Substation(
        location=name,
        zone=_zone_of(name),
        meters=len(meters),
        nameplate_import_w=sum(meter.nameplate_import_w for meter in meters),
        nameplate_export_w=sum(meter.nameplate_export_w for meter in meters),
        **grid.node(name),
    )


def _zone_of(location: str) -> str:
    return location.rpartition("-")[0]


def get_zones(context: Context, asked: GridParameters) -> GridZones:
    items: list[GridZone] = []
    for status in context.selected(asked.chain):
        grid = _grid(context, status, asked.slot)
        items += [_tell_zone(grid, zone) for zone in grid.zones()]
    return GridZones(items=tuple(items), next_cursor=None)


def _tell_zone(grid: _Grid, zone: str) -> GridZone:
    names = grid.substations_in(zone)
    return GridZone(
        zone=zone,
        territory=territory_of(zone),
        chain=grid.status.spec.name,
        substations=len(names),
        meters=sum(len(grid.substations.get(name, [])) for name in names),
        **grid.node(zone),
    )


def get_zone(context: Context, asked: ZoneParameters) -> ZoneDetail:
    zone = asked.zone
    status = context.chain_at(zone)
    grid = _grid(context, status, asked.slot)
    if zone not in grid.zones():
        detail = f"zone {zone} has neither meters nor a published status"
        raise ApiError(ErrorCode.UNKNOWN_ZONE, detail)
    return ZoneDetail(
        chain=status.spec.name,
        height=status.head.height,
        market_ms=grid.now_ms,
        flow_slot=grid.slot,
        zone=_tell_zone(grid, zone),
        substations=_tell_substations(grid, zone),
    )


def get_meter(context: Context, asked: MeterParameters) -> FoundMeter:
    """By the metering point's id, or by the key of any device that it has or had."""
    for status in context.selected(asked.chain):
        known = METER_KEYS.get(status.view, asked.id)
        meter = None if known is None else METERS.get(status.view, known.meter_id)
        if meter is not None:
            slot = read_to(status.view, meter.meter_id)
            return FoundMeter(
                chain=status.spec.name,
                height=status.head.height,
                meter=meter,
                read_to_slot=None if slot < 0 else slot,
            )
    detail = f"no meter {asked.id.hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.UNKNOWN_METER, detail)


METHODS = (
    Method(
        "grid_getStatus",
        get_grid_status,
        "Territories and substations: state, loading, limit, headroom, the energy sold over them.",
        routes=(Route("GET", "/grid/status"),),
        cost=5,
    ),
    Method(
        "grid_getZones",
        get_zones,
        "Zones with their state, loading, headroom and flow.",
        routes=(Route("GET", "/grid/zones"),),
        cost=5,
    ),
    Method(
        "grid_getZone",
        get_zone,
        "One zone and its substations.",
        routes=(Route("GET", "/grid/zones/{zone}"),),
        cost=5,
    ),
    Method(
        "grid_getMeter",
        get_meter,
        "A metering point: whose, where, its device's key, and whether its readings count.",
        routes=(Route("GET", "/grid/meters/{id}"),),
    ),
)
