"""The verbs of the grid: accept a meter's signed reading, and how much a node can still carry.

Source: protocols/market.md 3, 4.
"""

from __future__ import annotations

from gridtokenx.grid.model import (
    REGISTERS,
    MeteringPoint,
    MeterReading,
    ReadingAccepted,
    Registers,
    signed_bytes,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS, SLOT_MS, slot_at, slot_end_ms
from gridtokenx.primitives.state import Overlay, Reader

SECONDS_PER_SLOT = SLOT_MS // 1000
TOLERANCE_BPS = 11_000  # A meter may show up to 10 % over its nameplates.
# One wild number must not end a meter's life: each reading leaves room for all that follow.
MAX_FIRST_SEQ = 2**32
MAX_SEQ_STEP = 2**16


def headroom_wh(*, loading_bps: int, rating_va: int, limit_bps: int = BPS) -> int:
    """Wh a node can still carry in one slot, from its loading and rating; 0 when overloaded.

    Source: protocols/market.md 3.4.
    """
    free_bps = max(0, limit_bps - loading_bps)
    return free_bps * rating_va * SECONDS_PER_SLOT // (BPS * 3600)


def slot_energy_wh(power_w: int) -> int:
    """Wh that a power makes in one slot."""
    return power_w * SECONDS_PER_SLOT // 3600


def registers(state: Reader, point: MeteringPoint) -> Registers:
    """What the meter last showed; before its first reading, what it showed when registered."""
    found = REGISTERS.get(state, point.meter_id)
    return found or Registers(point.first_slot - 1, point.import_wh_cum, point.export_wh_cum, -1)


def read_to(state: Reader, meter_id: bytes) -> int:
    """The slot of a meter's last reading; -1 where it never sent one."""
    found = REGISTERS.get(state, meter_id)
    return -1 if found is None else found.slot


def read_since(state: Reader, point: MeteringPoint) -> int:
    """The first slot that a meter's readings, those to come included, can tell of."""
    found = REGISTERS.get(state, point.meter_id)
    return point.first_slot if found is None else max(point.first_slot, found.since_slot)


def forget_registers(state: Overlay, meter_id: bytes) -> None:
    """A meter goes on from the registers that the registry states."""
    REGISTERS.delete(state, meter_id)


def restart_registers(
    state: Overlay, point: MeteringPoint, slot: int, import_wh_cum: int, export_wh_cum: int
) -> bool:
    """Where nothing has been told since `point.restart_slot`, go on from these registers (Wh) at
    the end of `slot`; tells whether it was so.

    So what a meter counted before its readings count again is nobody's, and no meter is stuck with
    it. The reading that follows spans several slots, so that it serves no trade of the last one.
    Source: protocols/market.md 5.4.
    """
    last = registers(state, point)
    if not point.restart_slot or last.slot >= point.restart_slot:
        return False
    before = min(last.slot, point.restart_slot - 2)
    restarted = Registers(before, import_wh_cum, export_wh_cum, last.seq, since_slot=slot + 1)
    REGISTERS.put(state, point.meter_id, restarted)
    return True


def exchange_registers(
    state: Overlay,
    point: MeteringPoint,
    *,
    old_import_wh_cum: int,
    old_export_wh_cum: int,
    new_import_wh_cum: int,
    new_export_wh_cum: int,
    now_ms: int,
) -> None:
    """Go on with another device, from its registers (Wh); mints nothing yet.

    What the old one counted since the last reading is carried to the next, so neither the slots
    between readings nor what was sold in them is touched.
    Errors: BAD_READING for old registers that fall or exceed the nameplates up to the running slot.
    Source: protocols/market.md 5.4.
    """
    slot = slot_at(now_ms)
    restart_registers(state, point, slot, old_import_wh_cum, old_export_wh_cum)
    last = registers(state, point)
    import_wh, export_wh = _deltas(old_import_wh_cum, old_export_wh_cum, last)
    _check_nameplates(point, import_wh, export_wh, slot - last.slot)
    exchanged = Registers(
        last.slot,
        new_import_wh_cum,
        new_export_wh_cum,
        -1,
        import_wh,
        export_wh,
        last.since_slot,
    )
    REGISTERS.put(state, point.meter_id, exchanged)


def close_registers(
    state: Overlay,
    point: MeteringPoint,
    *,
    import_wh_cum: int,
    export_wh_cum: int,
    now_ms: int,
    carbon_mcr_per_kwh: int,
) -> ReadingAccepted:
    """Mint what a meter exported from its last reading to its end, as a reading of the running slot
    that serves nothing which was sold.

    Units: as `accept_reading`. Errors: BAD_READING for registers that fall or exceed the
    nameplates up to the running slot. Source: protocols/market.md 5.4.
    """
    slot = slot_at(now_ms)
    restart_registers(state, point, slot, import_wh_cum, export_wh_cum)
    last = registers(state, point)
    slots = slot - last.slot
    import_wh, export_wh = _deltas(import_wh_cum, export_wh_cum, last)
    _check_nameplates(point, import_wh, export_wh, slots)
    carbon_ucr = export_wh * carbon_mcr_per_kwh
    local_wh = export_wh if point.is_local else 0
    ledger.mint_energy(state, point.owner, export_wh, carbon_ucr, local_wh=local_wh)
    shown = Registers(slot, import_wh_cum, export_wh_cum, last.seq, since_slot=last.since_slot)
    REGISTERS.put(state, point.meter_id, shown)
    return ReadingAccepted(
        point.meter_id, point.owner, slot, slots, import_wh, export_wh, 0, carbon_ucr
    )


def accept_reading(
    state: Overlay,
    reading: MeterReading,
    *,
    point: MeteringPoint,
    region_id: bytes,
    now_ms: int,
    due_slot: int,
    claim_slots: int,
    by_distributor: bool,
    carbon_mcr_per_kwh: int,
) -> ReadingAccepted:
    """Mint what a meter exported since its last reading, with the credits of its source.

    Units: registers in Wh; carbon in milli-credit/kWh (= micro-credit/Wh). `region_id` (32 bytes)
    is the region's genesis id.
    A reading serves what was sold in its slot only if the one before it is of the slot before (a
    delta over several slots says nothing about the last one) and it comes before `due_slot` has
    reached its slot. Energy of several slots is minted all the same, up to the nameplate over all
    of them; more than `claim_slots` slots' worth only if the distributor sends it.
    Errors: INTERVAL_CLOSED before the slot's end; BAD_SIGNATURE; DUPLICATE for a (meter, slot)
    reported before; READING_OUT_OF_ORDER for an earlier slot, or a sequence number that does not
    rise or leaps; BAD_READING for registers that fall or exceed the nameplates; NOT_PERMITTED for a
    claim that the distributor must send.
    Source: protocols/market.md 4.2.
    """
    slot = reading.slot
    if slot_end_ms(slot) > now_ms:
        detail = f"slot {slot} ends at {slot_end_ms(slot)}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)
    if not verify(reading.key, signed_bytes(region_id, reading), reading.signature):
        detail = f"the reading of slot {slot} is not signed by meter {reading.key.hex()}"
        raise Rejected(ErrorCode.BAD_SIGNATURE, detail)
    last = registers(state, point)
    if slot < point.first_slot:
        detail = f"readings of the meter count from slot {point.first_slot} on, not of slot {slot}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    _check_order(reading, last)
    slots = slot - last.slot
    import_wh, export_wh = _deltas(reading.import_wh_cum, reading.export_wh_cum, last)
    _check_nameplates(point, import_wh, export_wh, slots)
    if not by_distributor and export_wh > _most_wh(point.nameplate_export_w, claim_slots):
        detail = (
            f"{export_wh} Wh since slot {last.slot} is more than "
            f"{_most_wh(point.nameplate_export_w, claim_slots)} Wh, what {claim_slots} slots can "
            "make: the meter's distributor has to send such a reading"
        )
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    carbon_ucr = export_wh * carbon_mcr_per_kwh
    local_wh = export_wh if point.is_local else 0
    ledger.mint_energy(state, point.owner, export_wh, carbon_ucr, local_wh=local_wh)
    shown = reading.import_wh_cum, reading.export_wh_cum, reading.seq
    REGISTERS.put(state, point.meter_id, Registers(slot, *shown, since_slot=last.since_slot))
    deliverable_wh = export_wh if slots == 1 and slot > due_slot else 0
    return ReadingAccepted(
        point.meter_id,
        point.owner,
        slot,
        slots,
        import_wh,
        export_wh,
        deliverable_wh,
        carbon_ucr,
    )


def _deltas(import_wh_cum: int, export_wh_cum: int, last: Registers) -> tuple[int, int]:
    """Wh taken in and fed in since the last reading. Errors: BAD_READING where a register fell."""
    import_wh, export_wh = import_wh_cum - last.import_wh_cum, export_wh_cum - last.export_wh_cum
    if import_wh < 0 or export_wh < 0:
        detail = (
            f"registers fell from {last.import_wh_cum}/{last.export_wh_cum} to "
            f"{import_wh_cum}/{export_wh_cum} Wh (import/export); a meter that was exchanged is "
            "entered by its distributor"
        )
        raise Rejected(ErrorCode.BAD_READING, detail)
    return import_wh + last.carried_import_wh, export_wh + last.carried_export_wh


def _check_nameplates(point: MeteringPoint, import_wh: int, export_wh: int, slots: int) -> None:
    for verb, energy_wh, nameplate_w in (
        ("exported", export_wh, point.nameplate_export_w),
        ("imported", import_wh, point.nameplate_import_w),
    ):
        most_wh = _most_wh(nameplate_w, slots)
        if energy_wh > most_wh:
            detail = (
                f"{energy_wh} Wh {verb} in {slots} slot(s) is more than {most_wh} Wh, "
                f"110 % of a {nameplate_w} W nameplate"
            )
            raise Rejected(ErrorCode.BAD_READING, detail)


def _most_wh(nameplate_w: int, slots: int) -> int:
    return nameplate_w * SECONDS_PER_SLOT * slots * TOLERANCE_BPS // (3600 * BPS)


def _check_order(reading: MeterReading, last: Registers) -> None:
    if reading.slot == last.slot:
        detail = f"meter {reading.key.hex()} has reported slot {reading.slot} already"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    if reading.slot < last.slot:
        detail = f"slot {reading.slot} comes after the reading of slot {last.slot}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    if reading.seq <= last.seq:
        detail = f"sequence number {reading.seq} does not rise above {last.seq}"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
    most = MAX_FIRST_SEQ if last.seq < 0 else last.seq + MAX_SEQ_STEP * (reading.slot - last.slot)
    if reading.seq > most:
        detail = f"sequence number {reading.seq} leaps over {most}, the highest that can follow"
        raise Rejected(ErrorCode.READING_OUT_OF_ORDER, detail)
