"""The nouns of the grid: signed meter readings, and what operators publish of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Bytes64, Limit, wire
from gridtokenx.primitives.places import TerritoryPrefix
from gridtokenx.primitives.quantities import BPS, MAX_REGISTER_WH
from gridtokenx.primitives.state import Table, u64
from gridtokenx.primitives.types import Address

READING_DOMAIN = b"GTXv1 meter reading"
MAX_RATING_VA = 2**40
MAX_READINGS = 24  # Of one transaction: six hours of one meter, or one slot of two dozen.
MAX_SLOT = 2**40
MAX_SEQ = 2**53
Register = Annotated[int, Limit(0, MAX_REGISTER_WH)]
GridNode = Annotated[str, Limit(3, 16)]
Reason = Annotated[str, Limit(1, 200)]  # Why an authority acts; no personal data.


@dataclass(frozen=True, slots=True)
class MeteringPoint:
    """What the grid must know of a registered meter; registers (Wh) as they stood in first_slot.

    `key` signs its readings; `is_local`: it stands where its owner is registered. Its first reading
    of `restart_slot` or later says where its registers stand, and mints nothing (0: no such slot).
    """

    meter_id: bytes
    key: bytes
    owner: bytes
    is_local: bool
    nameplate_import_w: int
    nameplate_export_w: int
    first_slot: int
    import_wh_cum: int
    export_wh_cum: int
    restart_slot: int = 0


@wire(100)
@dataclass(frozen=True, slots=True)
class Registers:
    """A meter's last accepted reading: cumulative Wh and its sequence number (-1: none yet).

    After an exchange of the device they are the first registers of the new one, and what the old
    one counted beyond its last reading is carried to the next reading. Of slots before `since_slot`
    they tell nothing: what the meter counted then is nobody's.
    """

    slot: int
    import_wh_cum: int
    export_wh_cum: int
    seq: Annotated[int, Limit(-1, MAX_INT)]
    carried_import_wh: int = 0
    carried_export_wh: int = 0
    since_slot: int = 0


@wire(101)
@dataclass(frozen=True, slots=True)
class MeterReading:
    """A device's registers at the end of `slot` (Wh since it was made), signed by its own key."""

    key: Bytes32
    slot: Annotated[int, Limit(0, MAX_SLOT)]
    import_wh_cum: Register
    export_wh_cum: Register
    seq: Annotated[int, Limit(0, MAX_SEQ)]
    signature: Bytes64


@wire(113)
@dataclass(frozen=True, slots=True)
class SubmitReadings:
    """Command of anybody registered: readings of one or many meters, each judged by itself.

    Those of one meter go in order of their slots.
    """

    readings: Annotated[tuple[MeterReading, ...], Limit(1, MAX_READINGS)]


@wire(102)
@dataclass(frozen=True, slots=True)
class ReadingAccepted:
    """Event: energy minted to the meter's owner.

    import_wh and export_wh are the register deltas since the reading `slots` slots before (all of
    the export is minted); deliverable_wh is the export if it was made in this one slot and came
    within the deadline, and serves what was sold in it; carbon_ucr the credits issued.
    """

    meter_id: Bytes32
    owner: Address
    slot: int
    slots: int
    import_wh: int
    export_wh: int
    deliverable_wh: int
    carbon_ucr: int


@wire(114)
@dataclass(frozen=True, slots=True)
class ReadingRefused:
    """Event: one reading of a transaction had no effect, and why; `key` is the device's."""

    key: Bytes32
    slot: int
    code: int
    detail: Annotated[str, Limit(0, 240)]


class NodeState(StrEnum):
    """How a grid node fares. Source: protocols/market.md 3.4."""

    NORMAL = "normal"
    ALERT = "alert"  # Loaded beyond 80 % of its rating.
    CONGESTED = "congested"  # Fully loaded: nothing more may cross it.
    EMERGENCY = "emergency"  # Frequency out of bounds, or its territory is halted.


@dataclass(frozen=True, slots=True)
class GridLimits:
    """The market parameters that the grid's rules need; units in the names, frequency in mHz.

    `open_slots` is how far ahead a status may lie: as far as slots are open for trade.
    """

    alert_bps: int
    congested_bps: int
    stale_slots: int
    stale_rating_bps: int
    frequency_min_mhz: int
    frequency_max_mhz: int
    open_slots: int


@wire(103)
@dataclass(frozen=True, slots=True)
class PublishGridStatus:
    """Command of a territory's distributor: what a node carries from `slot` on.

    `node` is a substation `BKK-01-SUB001`, a zone `BKK-01` or a territory `BKK`; loading, limit and
    voltage in basis points of the rating or the nominal voltage; frequency in millihertz. What is
    up to `limit_bps` may be sold.
    """

    node: GridNode
    slot: int
    loading_bps: Annotated[int, Limit(0, 10 * BPS)]
    rating_va: Annotated[int, Limit(1, MAX_RATING_VA)]
    frequency_mhz: Annotated[int, Limit(0, 100_000)]
    voltage_bps: Annotated[int, Limit(0, 2 * BPS)]
    limit_bps: Annotated[int, Limit(0, 2 * BPS)] = BPS


@wire(104)
@dataclass(frozen=True, slots=True)
class GridStatus:
    """A node's published status; `by` is the name of the organisation that signed it."""

    node: str
    slot: int
    loading_bps: int
    rating_va: int
    frequency_mhz: int
    voltage_bps: int
    limit_bps: int
    by: str


@wire(105)
@dataclass(frozen=True, slots=True)
class GridStatusPublished:
    """Event: a node's status is known; `headroom_wh` is what may cross it in a slot."""

    status: GridStatus
    state: NodeState
    headroom_wh: int


@wire(106)
@dataclass(frozen=True, slots=True)
class HaltTerritory:
    """Command of the territory's distributor or the regulator: no matching, no new orders.

    It ends at `until_ms` (market time; 0: not by itself).
    """

    territory: TerritoryPrefix
    reason: Reason
    until_ms: int = 0


@wire(107)
@dataclass(frozen=True, slots=True)
class ResumeTerritory:
    """Command that ends a halt; the regulator's halt is ended by the regulator alone."""

    territory: TerritoryPrefix
    reason: Reason


@wire(108)
@dataclass(frozen=True, slots=True)
class TerritoryHalted:
    """Event: matching and admission in the territory are halted."""

    territory: str
    by: str
    reason: str
    until_ms: int


@wire(109)
@dataclass(frozen=True, slots=True)
class TerritoryResumed:
    """Event: the territory's halt has ended."""

    territory: str
    by: str
    reason: str


@wire(110)
@dataclass(frozen=True, slots=True)
class Halt:
    """A halt in force; `by_regulator` tells who may end it."""

    by: str
    by_regulator: bool
    reason: str
    since_ms: int
    until_ms: int


@wire(111)
@dataclass(frozen=True, slots=True)
class TerritoryFrequency:
    """The frequency that a territory's operators have published last, for any of its nodes."""

    frequency_mhz: int
    slot: int
    node: str


@wire(112)
@dataclass(frozen=True, slots=True)
class NodeStatuses:
    """A node's statuses by slot, ascending: the one in force when the last was published, and those
    of later slots."""

    statuses: Annotated[tuple[GridStatus, ...], Limit(1, 128)]


GridCommand = SubmitReadings | PublishGridStatus | HaltTerritory | ResumeTerritory
GridEvent = (
    ReadingAccepted | ReadingRefused | GridStatusPublished | TerritoryHalted | TerritoryResumed
)

REGISTERS = Table(b"gr", Registers)  # key: 32-byte meter id
STATUSES = Table(b"gs", NodeStatuses)  # key: node text
HALTS = Table(b"gh", Halt)  # key: territory prefix
FREQUENCIES = Table(b"gf", TerritoryFrequency)  # key: territory prefix


def signed_bytes(region_id: bytes, reading: MeterReading) -> bytes:
    """What the meter signs: domain, the region's genesis id (32 bytes: a device
    outlives incarnations of its chain), then the fields at fixed length."""
    return b"".join(
        (
            READING_DOMAIN,
            region_id,
            reading.key,
            u64(reading.slot),
            u64(reading.import_wh_cum),
            u64(reading.export_wh_cum),
            u64(reading.seq),
        )
    )
