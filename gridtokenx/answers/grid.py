"""Answers about the grid: what its nodes carry, what may still cross them, and what was sold.

A node of the grid is a territory `BKK`, a zone `BKK-01` or a substation `BKK-01-SUB001`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.fields import (
    ChainName,
    Height,
    NextCursor,
    answer,
    count,
    moment,
    slot_number,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.shown import ShownMeter


@answer
class Flow:
    """Energy sold over a node of the grid."""

    export_wh: Annotated[int, Rule("out of it", example="0")]
    import_wh: Annotated[int, Rule("into it", example="0")]
    local_wh: Annotated[int, Rule("inside it", example="2000")]


@answer
class GridNodeStatus:
    """What is known of a territory, zone or substation. All null: no status was published."""

    node: Annotated[str, Rule("its name", example="BKK-01-SUB001")]
    state: Annotated[
        Literal["normal", "alert", "congested", "emergency", "unpublished"],
        Rule("how it fares", example="normal"),
    ]
    headroom_wh: Annotated[
        int | None, Rule("energy that may still cross it in a slot", example="16718")
    ]
    loading_bps: Annotated[int | None, count("load by rating", "bps", 7325)]
    limit_bps: Annotated[int | None, count("load by rating at which it is full", "bps", 10000)]
    rating_va: Annotated[int | None, Rule("rating", example="250000")]
    frequency_mhz: Annotated[int | None, count("frequency", "mHz", 50000)]
    voltage_bps: Annotated[int | None, count("voltage by its nominal value", "bps", 10000)]
    slot: Annotated[int | None, slot_number("slot of the status", "1963600")]
    by: Annotated[str | None, Rule("organisation that published it", example="mea")]
    stale: Annotated[
        bool, Rule("whether the status is too old to be trusted in full", example=False)
    ]
    flow: Annotated[Flow, Rule("sold over it for the slot")]
    flow_day: Annotated[Flow, Rule("sold over it on that Bangkok day, up to and with the slot")]


@answer
class HaltInForce:
    """A halt in force."""

    by: Annotated[str, Rule("organisation that ordered it", example="erc")]
    reason: Annotated[str, Rule("why", example="flood")]
    since_ms: Annotated[int, moment("market time when it began")]
    until_ms: Annotated[
        int | None,
        moment("market time when it ends; null: not by itself"),
    ]


@answer
class _SubstationHead:
    location: Annotated[str, Rule("its name", example="BKK-01-SUB001")]
    zone: Annotated[str, Rule("its zone", example="BKK-01")]
    meters: Annotated[int, count("meters that are not retired", "meters", 2)]
    nameplate_import_w: Annotated[int, Rule("most that they take in", example="80000")]
    nameplate_export_w: Annotated[int, Rule("most that they feed in", example="40000")]


@answer
class Substation(GridNodeStatus, _SubstationHead):
    """A substation."""


@answer
class _GridTerritoryHead:
    territory: Annotated[str, Rule("its prefix", example="BKK")]
    chain: ChainName
    height: Height
    market_ms: Annotated[
        int,
        moment("market time of the newest block"),
    ]
    flow_slot: Annotated[int, slot_number("slot whose flow is told", "1963601")]
    distributor: Annotated[str, Rule("organisation that runs its grid", example="mea")]
    distributor_area: Annotated[str, Rule("PEA's area; empty for MEA", example="N1")]
    transmission_area: Annotated[str, Rule("EGAT's area", example="M")]
    emergency: Annotated[
        str | None,
        Rule("why it may not trade now; null: it may", example="erc halted territory BKK: flood"),
    ]
    halt: Annotated[HaltInForce | None, Rule("halt in force; null: none")]


@answer
class GridTerritory(GridNodeStatus, _GridTerritoryHead):
    """A territory of a chain."""

    zones: Annotated[
        tuple[str, ...], Rule("zones with meters or a published status", example=["BKK-01"])
    ]
    substations: Annotated[
        tuple[Substation, ...], Rule("substations with meters or a published status")
    ]


@answer
class Grid:
    """Territories and substations."""

    territories: Annotated[tuple[GridTerritory, ...], Rule("territories of the chains")]


@answer
class _GridZoneHead:
    zone: Annotated[str, Rule("its name", example="BKK-01")]
    territory: Annotated[str, Rule("its territory", example="BKK")]
    chain: ChainName
    substations: Annotated[
        int, count("substations with meters or a published status", "substations", 1)
    ]
    meters: Annotated[int, count("meters that are not retired", "meters", 2)]


@answer
class GridZone(GridNodeStatus, _GridZoneHead):
    """A zone."""


@answer
class GridZones:
    """Zones of the chains."""

    items: Annotated[tuple[GridZone, ...], Rule("zones by chain and name")]
    next_cursor: NextCursor


@answer
class ZoneDetail:
    """One zone and its substations."""

    chain: ChainName
    height: Height
    market_ms: Annotated[
        int,
        moment("market time of the newest block"),
    ]
    flow_slot: Annotated[int, slot_number("slot whose flow is told", "1963601")]
    zone: Annotated[GridZone, Rule("the zone")]
    substations: Annotated[tuple[Substation, ...], Rule("its substations")]


@answer
class FoundMeter:
    """A metering point of a chain."""

    chain: ChainName
    height: Height
    meter: ShownMeter
    read_to_slot: Annotated[
        int | None, slot_number("last slot that a reading covers; null: none", "1963596")
    ]
