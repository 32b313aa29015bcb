"""A reading mints only what its own meter signed, once, within its nameplate."""

from dataclasses import replace

import pytest

from gridtokenx.grid.model import (
    MeteringPoint,
    MeterReading,
    ReadingAccepted,
    Registers,
    signed_bytes,
)
from gridtokenx.grid.rules import accept_reading, headroom_wh, registers, slot_energy_wh
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
POINT = MeteringPoint(
    meter_id=METER.public_key,
    key=METER.public_key,
    owner=ANNA,
    is_local=True,
    nameplate_import_w=4_000,
    nameplate_export_w=4_000,
    first_slot=SLOT - 10,
    import_wh_cum=500,
    export_wh_cum=100,
)


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryReader())


def reading(
    slot: int = SLOT - 10,
    imported: int = 500,
    exported: int = 100,
    seq: int = 0,
    chain: bytes = CHAIN,
) -> MeterReading:
    unsigned = MeterReading(METER.public_key, slot, imported, exported, seq, bytes(64))
    return replace(unsigned, signature=METER.sign(signed_bytes(chain, unsigned)))


def submit(
    state: Overlay,
    command: MeterReading,
    now_ms: int | None = None,
    *,
    due_slot: int = -1,
    by_distributor: bool = False,
    **changes,
) -> ReadingAccepted:
    return accept_reading(
        state,
        command,
        point=replace(POINT, **changes),
        region_id=CHAIN,
        now_ms=slot_end_ms(command.slot) if now_ms is None else now_ms,
        due_slot=due_slot,
        claim_slots=6,
        by_distributor=by_distributor,
        carbon_mcr_per_kwh=500,
    )


def refused(code: ErrorCode, state: Overlay, command: MeterReading, *now_ms: int) -> str:
    before = ledger.account(state, ANNA)
    with pytest.raises(Rejected) as caught:
        submit(state, command, *now_ms)
    assert caught.value.code is code
    assert ledger.account(state, ANNA) == before
    return caught.value.detail


def test_a_reading_mints_the_export_since_registration_with_its_credits(state: Overlay) -> None:
    command = reading(imported=900, exported=1_100)
    accepted = ReadingAccepted(METER.public_key, ANNA, SLOT - 10, 1, 400, 1_000, 1_000, 500_000)
    assert submit(state, command) == accepted
    assert ledger.account(state, ANNA).energy_wh == 1_000
    assert ledger.account(state, ANNA).local_wh == 1_000
    assert ledger.account(state, ANNA).carbon_ucr == 500_000
    assert ledger.supply(state).energy_minted_wh == 1_000
    assert registers(state, POINT) == Registers(SLOT - 10, 900, 1_100, 0)


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


def test_a_reading_counts_from_its_slots_end_on_and_serves_trades_until_it_is_due(
    state: Overlay,
) -> None:
    command = reading(SLOT - 10, exported=200)
    refused(ErrorCode.INTERVAL_CLOSED, state, command, slot_end_ms(SLOT - 10) - 1)
    late = submit(state, command, slot_end_ms(SLOT + 4), due_slot=SLOT - 10)
    assert (late.export_wh, late.deliverable_wh) == (100, 0)
    in_time = submit(state, reading(SLOT - 9, exported=300, seq=1), due_slot=SLOT - 10)
    assert (in_time.export_wh, in_time.deliverable_wh) == (100, 100)


def test_a_sequence_number_leaves_room_for_those_that_follow(state: Overlay) -> None:
    refused(ErrorCode.READING_OUT_OF_ORDER, state, reading(seq=2**32 + 1))
    submit(state, reading(seq=2**32))
    refused(ErrorCode.READING_OUT_OF_ORDER, state, reading(SLOT - 8, seq=2**32 + 2**17 + 1))
    submit(state, reading(SLOT - 8, seq=2**32 + 2**17))


def test_more_than_a_days_claim_is_the_distributors_to_send(state: Overlay) -> None:
    """Six slots' worth may be claimed by anybody, however many have passed."""
    most = 6 * 1_100
    claim = reading(SLOT - 1, exported=100 + most + 1)
    refused(ErrorCode.NOT_PERMITTED, state, claim)
    assert submit(state, claim, by_distributor=True).export_wh == most + 1
    assert submit(state, reading(SLOT + 8, exported=100 + 2 * most + 1, seq=1)).slots == 9


@pytest.mark.parametrize("field", ["slot", "import_wh_cum", "export_wh_cum", "seq"])
def test_a_changed_field_breaks_the_signature(state: Overlay, field: str) -> None:
    command = reading(SLOT, 600, 200, 3)
    forged = replace(command, **{field: getattr(command, field) + 1})
    refused(ErrorCode.BAD_SIGNATURE, state, forged, slot_end_ms(SLOT + 1))


def test_the_signature_holds_on_one_chain_for_one_meter(state: Overlay) -> None:
    refused(ErrorCode.BAD_SIGNATURE, state, reading(chain=bytes(32)))
    stranger = SigningKey(bytes([9]) * 32).public_key
    refused(ErrorCode.BAD_SIGNATURE, state, replace(reading(), key=stranger))


def test_the_signature_is_checked_before_the_sequence(state: Overlay) -> None:
    submit(state, reading(SLOT - 5, seq=7))
    unsigned = replace(reading(SLOT - 4, seq=7), signature=bytes(64))
    refused(ErrorCode.BAD_SIGNATURE, state, unsigned)


@pytest.mark.parametrize("register", ["exported", "imported"])
def test_energy_is_bounded_by_the_nameplate_over_the_slots_it_spans(
    state: Overlay, register: str
) -> None:
    start = {"exported": 100, "imported": 500}[register]
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 10, **{register: start + 1_101}))
    submit(state, reading(SLOT - 10, **{register: start + 1_100}))
    # Two slots were missed: three nameplates may show, and none of it serves this slot's sales.
    most = start + 1_100 + 3_300
    refused(ErrorCode.BAD_READING, state, reading(SLOT - 7, seq=1, **{register: most + 1}))
    event = submit(state, reading(SLOT - 7, seq=1, **{register: most}))
    assert (event.slots, event.export_wh + event.import_wh, event.deliverable_wh) == (3, 3_300, 0)


def test_energy_of_a_power_over_one_slot() -> None:
    assert slot_energy_wh(4_000) == 1_000
    assert headroom_wh(loading_bps=0, rating_va=4_000) == 1_000
    assert headroom_wh(loading_bps=9_000, rating_va=4_000, limit_bps=8_000) == 0
