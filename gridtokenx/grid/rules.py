"""The verbs of the grid: accept a meter's signed reading, and how much a node can still carry.

Source: protocols/market.md sections 3 and 4.
"""

from __future__ import annotations

from gridtokenx.grid.model import (
    REGISTERS,
    MeteringPoint,
    ReadingAccepted,
    Registers,
    SubmitReading,
    signed_bytes,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS, SLOT_MS, slot_at, slot_end_ms
from gridtokenx.primitives.state import Overlay, Reader

SECONDS_PER_SLOT = SLOT_MS // 1000
EXPORT_TOLERANCE_BPS = 11_000  # A meter may show up to 10 % over its plant's nameplate.


def headroom_wh(*, loading_bps: int, rating_va: int, limit_bps: int = BPS) -> int:
    """Wh a node can still carry in one slot, from its loading and rating; 0 when overloaded.

    Source: protocols/market.md section 3, Congestion (vector V11).
    """
    free_bps = max(0, limit_bps - loading_bps)
    return free_bps * rating_va * SECONDS_PER_SLOT // (BPS * 3600)


def slot_energy_wh(power_w: int) -> int:
    """Wh that a power makes in one slot."""
    return power_w * SECONDS_PER_SLOT // 3600


def registers(state: Reader, meter_id: bytes, point: MeteringPoint) -> Registers:
    """What the meter last showed; before its first reading, what it showed when registered."""
    found = REGISTERS.get(state, meter_id)
    return found or Registers(point.first_slot - 1, point.import_wh_cum, point.export_wh_cum, -1)


def submit_reading(
    state: Overlay,
    command: SubmitReading,
    *,
    point: MeteringPoint,
    chain_id: bytes,
    now_ms: int,
    deadline_slots: int,
    carbon_mcr_per_kwh: int,
) -> list[ReadingAccepted]:
    """Mint what a meter exported since its last reading, with the credits of its source.

    Units: registers in Wh; chain_id 32 bytes; carbon in milli-credit/kWh (= micro-credit/Wh).
    The delta may span slots without a reading: it is bounded by the nameplate over all of them, or
    a meter that missed one slot could never report again; the part that counts as delivered in this
    slot is bounded by the nameplate over this slot alone.
    Errors: INTERVAL_CLOSED before the slot's end or after the deadline; BAD_SIGNATURE; DUPLICATE
    for a (meter, slot) reported before; READING_OUT_OF_ORDER for an earlier slot or a sequence
    number that does not rise; BAD_READING for registers that fall or exceed the nameplate.
    Source: protocols/market.md section 4.
    """
    slot = command.slot
    _check_time(slot, now_ms, deadline_slots)
    if not verify(command.meter_id, signed_bytes(chain_id, command), command.signature):
        detail = f"the reading of slot {slot} is not signed by meter {command.meter_id.hex()}"
        raise Rejected(ErrorCode.BAD_SIGNATURE, detail)
    if slot < point.first_slot:
        detail = f"the meter was registered in slot {point.first_slot}, after slot {slot}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    last = registers(state, command.meter_id, point)
    _check_order(command, last)
    import_wh = command.import_wh_cum - last.import_wh_cum
    export_wh = command.export_wh_cum - last.export_wh_cum
    if import_wh < 0 or export_wh < 0:
        detail = (
            f"registers fell from {last.import_wh_cum}/{last.export_wh_cum} to "
            f"{command.import_wh_cum}/{command.export_wh_cum} Wh (import/export)"
        )
        raise Rejected(ErrorCode.BAD_READING, detail)
    slots = slot - last.slot
    if export_wh > _most_export_wh(point.nameplate_export_w, slots):
        detail = (
            f"{export_wh} Wh exported in {slots} slot(s) is more than "
            f"{_most_export_wh(point.nameplate_export_w, slots)} Wh, "
            f"110 % of a {point.nameplate_export_w} W nameplate"
        )
        raise Rejected(ErrorCode.BAD_READING, detail)
    carbon_ucr = export_wh * carbon_mcr_per_kwh
    ledger.mint_energy(state, point.owner, export_wh, carbon_ucr)
    now_shows = Registers(slot, command.import_wh_cum, command.export_wh_cum, command.seq)
    REGISTERS.put(state, command.meter_id, now_shows)
    deliverable_wh = min(export_wh, _most_export_wh(point.nameplate_export_w, 1))
    accepted = ReadingAccepted(
        command.meter_id, point.owner, slot, import_wh, export_wh, deliverable_wh, carbon_ucr
    )
    return [accepted]


def _most_export_wh(nameplate_w: int, slots: int) -> int:
    return nameplate_w * SECONDS_PER_SLOT * slots * EXPORT_TOLERANCE_BPS // (3600 * BPS)


def _check_time(slot: int, now_ms: int, deadline_slots: int) -> None:
    if slot_end_ms(slot) > now_ms:
        detail = f"slot {slot} ends at {slot_end_ms(slot)}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)
    if slot_at(now_ms) > slot + deadline_slots:
        detail = f"readings of slot {slot} were due within {deadline_slots} slots after it"
        raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)


def _check_order(command: SubmitReading, last: Registers) -> None:
    if command.slot == last.slot:
        detail = f"meter {command.meter_id.hex()} has reported slot {command.slot} already"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    if command.slot < last.slot:
        detail = f"slot {command.slot} comes after the reading of slot {last.slot}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    if command.seq <= last.seq:
        detail = f"sequence number {command.seq} does not rise above {last.seq}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
