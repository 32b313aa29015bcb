"""The nouns of the grid: signed meter readings and the registers they move."""

from __future__ import annotations

from dataclasses import dataclass

from gridtokenx.primitives.codec import Bytes32, Bytes64, wire
from gridtokenx.primitives.state import Table, u64
from gridtokenx.primitives.types import Address

READING_DOMAIN = b"GTXv1 meter reading"


@dataclass(frozen=True, slots=True)
class MeteringPoint:
    """What the grid must know of a registered meter; registers (Wh) as they stood in first_slot."""

    owner: bytes
    nameplate_export_w: int
    first_slot: int
    import_wh_cum: int
    export_wh_cum: int


@wire(100)
@dataclass(frozen=True, slots=True)
class Registers:
    """A meter's last accepted reading: cumulative Wh and its sequence number."""

    slot: int
    import_wh_cum: int
    export_wh_cum: int
    seq: int


@wire(101)
@dataclass(frozen=True, slots=True)
class SubmitReading:
    """Command: a meter's registers at the end of `slot`, signed by the meter's own key."""

    meter_id: Bytes32
    slot: int
    import_wh_cum: int
    export_wh_cum: int
    seq: int
    signature: Bytes64


@wire(102)
@dataclass(frozen=True, slots=True)
class ReadingAccepted:
    """Event: energy minted to the meter's owner.

    import_wh and export_wh are the register deltas since the reading before (all of the export is
    minted); deliverable_wh is the part of the export that can have been made in this one slot and
    serves what was sold in it; carbon_ucr the credits issued.
    """

    meter_id: Bytes32
    owner: Address
    slot: int
    import_wh: int
    export_wh: int
    deliverable_wh: int
    carbon_ucr: int


GridCommand = SubmitReading
GridEvent = ReadingAccepted

REGISTERS = Table(b"gr", Registers)  # key: 32-byte meter id


def signed_bytes(chain_id: bytes, reading: SubmitReading) -> bytes:
    """What the meter signs: domain, chain id (32 bytes), then the fields at fixed length."""
    return b"".join(
        (
            READING_DOMAIN,
            chain_id,
            reading.meter_id,
            u64(reading.slot),
            u64(reading.import_wh_cum),
            u64(reading.export_wh_cum),
            u64(reading.seq),
        )
    )
