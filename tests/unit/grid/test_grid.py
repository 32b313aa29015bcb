"""A reading mints only what its own meter signed, once, within its nameplate."""

from dataclasses import replace

import pytest

from gridtokenx.grid.model import (
    MeteringPoint,
    ReadingAccepted,
    Registers,
    SubmitReading,
    signed_bytes,
)
from gridtokenx.grid.rules import headroom_wh, registers, slot_energy_wh, submit_reading
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import slot_end_ms
from gridtokenx.primitives.state import MemoryReader, Overlay

CHAIN = bytes([5]) * 32
SLOT = 1_970_660
METER = SigningKey(bytes([1]) * 32)
ANNA = bytes([2]) * 32
# 4 kW: 1,000 Wh a slot, 1,100 Wh with the tolerance.
POINT = MeteringPoint(ANNA, 4_000, SLOT - 10, import_wh_cum=500, export_wh_cum=100)


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryReader())


def reading(
    slot: int = SLOT - 10,
    imported: int = 500,
    exported: int = 100,
    seq: int = 0,
    chain: bytes = CHAIN,
) -> SubmitReading:
    unsigned = SubmitReading(METER.public_key, slot, imported, exported, seq, bytes(64))
    return replace(unsigned, signature=METER.sign(signed_bytes(chain, unsigned)))


def submit(state: Overlay, command: SubmitReading, now_ms: int | None = None, **changes) -> list:
    return submit_reading(
        state,
        command,
        point=replace(POINT, **changes),
        chain_id=CHAIN,
        now_ms=slot_end_ms(command.slot) if now_ms is None else now_ms,
        deadline_slots=4,
        carbon_mcr_per_kwh=500,
    )


def refused(code: ErrorCode, state: Overlay, command: SubmitReading, *now_ms: int) -> str:
    before = ledger.account(state, ANNA)
    with pytest.raises(Rejected) as caught:
        submit(state, command, *now_ms)
    assert caught.value.code is code
    assert ledger.account(state, ANNA) == before
    return caught.value.detail


def test_a_reading_mints_the_export_since_registration_with_its_credits(state: Overlay) -> None:
    command = reading(imported=900, exported=1_100)
    accepted = ReadingAccepted(METER.public_key, ANNA, SLOT - 10, 400, 1_000, 1_000, 500_000)
    assert submit(state, command) == [accepted]
    assert ledger.account(state, ANNA).energy_wh == 1_000
    assert ledger.account(state, ANNA).carbon_ucr == 500_000
    assert ledger.supply(state).energy_minted_wh == 1_000
    assert registers(state, METER.public_key, POINT) == Registers(SLOT - 10, 900, 1_100, 0)


def test_a_reading_is_accepted_once_and_in_order(state: Overlay) -> None:
    submit(state, reading(SLOT - 5, 600, 200, seq=7))
    refused(ErrorCode.DUPLICATE, state, reading(SLOT - 5, 600, 200, seq=7))
    refused(ErrorCode.DUPLICATE, state, reading(SLOT - 5, 700, 300, seq=8))
    refused(ErrorCode.READING_OUT_OF_ORDER, state, reading(SLOT - 6, 700, 300, seq=8))
    refused(ErrorCode.READING_OUT_OF_ORDER, state, reading(SLOT - 4, 700, 300, seq=7))
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 4, 599, 300, seq=8))
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 4, 700, 199, seq=8))
    submit(state, reading(SLOT - 4, 600, 200, seq=8))
    assert ledger.supply(state).energy_minted_wh == 100


def test_a_slot_before_registration_does_not_count(state: Overlay) -> None:
    refused(ErrorCode.READING_OUT_OF_ORDER, state, reading(SLOT - 11))


def test_time_bounds_are_the_slots_end_and_the_deadline(state: Overlay) -> None:
    command = reading(SLOT)
    refused(ErrorCode.INTERVAL_CLOSED, state, command, slot_end_ms(SLOT) - 1)
    refused(ErrorCode.INTERVAL_CLOSED, state, command, slot_end_ms(SLOT + 4))
    submit(state, command, slot_end_ms(SLOT + 4) - 1)


@pytest.mark.parametrize("field", ["slot", "import_wh_cum", "export_wh_cum", "seq"])
def test_a_changed_field_breaks_the_signature(state: Overlay, field: str) -> None:
    command = reading(SLOT, 600, 200, 3)
    forged = replace(command, **{field: getattr(command, field) + 1})
    refused(ErrorCode.BAD_SIGNATURE, state, forged, slot_end_ms(SLOT + 1))


def test_the_signature_holds_on_one_chain_for_one_meter(state: Overlay) -> None:
    refused(ErrorCode.BAD_SIGNATURE, state, reading(chain=bytes(32)))
    stranger = SigningKey(bytes([9]) * 32).public_key
    refused(ErrorCode.BAD_SIGNATURE, state, replace(reading(), meter_id=stranger))


def test_the_signature_is_checked_before_the_sequence(state: Overlay) -> None:
    submit(state, reading(SLOT - 5, seq=7))
    unsigned = replace(reading(SLOT - 4, seq=7), signature=bytes(64))
    refused(ErrorCode.BAD_SIGNATURE, state, unsigned)


def test_export_is_bounded_by_the_nameplate_over_the_slots_it_spans(state: Overlay) -> None:
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 10, exported=100 + 1_101))
    submit(state, reading(SLOT - 10, exported=100 + 1_100))
    # Two slots were missed: three nameplates may show, one of them serves this slot's sales.
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 7, exported=1_200 + 3_301, seq=1))
    (event,) = submit(state, reading(SLOT - 7, exported=1_200 + 3_300, seq=1))
    assert (event.export_wh, event.deliverable_wh) == (3_300, 1_100)


def test_energy_of_a_power_over_one_slot() -> None:
    assert slot_energy_wh(4_000) == 1_000
    assert headroom_wh(loading_bps=0, rating_va=4_000) == 1_000
    assert headroom_wh(loading_bps=9_000, rating_va=4_000, limit_bps=8_000) == 0
