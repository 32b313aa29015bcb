"""Registers over a meter's life: exchanged devices, gaps that are nobody's, the last reading."""

from dataclasses import replace

import pytest

from gridtokenx.grid import rules
from gridtokenx.grid.model import (
    REGISTERS,
    MeteringPoint,
    MeterReading,
    ReadingAccepted,
    Registers,
    signed_bytes,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import MAX_REGISTER_WH, SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay

CHAIN = sha256(b"a chain")
OLD, NEW = SigningKey(sha256(b"old device")), SigningKey(sha256(b"new device"))
ANNA = bytes([9]) * 32
SLOT = 2_000_000
POINT = MeteringPoint(
    meter_id=OLD.public_key,
    key=OLD.public_key,
    owner=ANNA,
    is_local=True,
    nameplate_import_w=8_000,
    nameplate_export_w=4_000,
    first_slot=SLOT,
    import_wh_cum=500,
    export_wh_cum=100,
)
AFTER = replace(POINT, key=NEW.public_key)
MOST_WH = 1_100  # 4 kW for a quarter of an hour, and a tenth.


@pytest.fixture
def state() -> Overlay:
    return Overlay(MemoryReader())


def now_ms(slot: int) -> int:
    """Within a slot."""
    return slot * SLOT_MS + 1


def read(
    state: Overlay, slot: int, imported: int, exported: int, *, point=POINT, seq=1, key=OLD
) -> ReadingAccepted:
    """A reading at a slot's end, sent in the slot after it, as `commands` does it."""
    bare = MeterReading(key.public_key, slot, imported, exported, seq, bytes(64))
    signed = replace(bare, signature=key.sign(signed_bytes(CHAIN, bare)))
    rules.restart_registers(state, point, slot, imported, exported)
    return rules.accept_reading(
        state, signed, point=point, region_id=CHAIN, now_ms=now_ms(slot + 1), due_slot=slot - 4,
        claim_slots=100, by_distributor=False, carbon_mcr_per_kwh=500,
    )  # fmt: skip


def exchange(state: Overlay, slot: int, old: tuple[int, int], new: tuple[int, int], point=POINT):
    rules.exchange_registers(
        state,
        point,
        old_import_wh_cum=old[0],
        old_export_wh_cum=old[1],
        new_import_wh_cum=new[0],
        new_export_wh_cum=new[1],
        now_ms=now_ms(slot),
    )


def close(state: Overlay, slot: int, imported: int, exported: int, point=POINT) -> ReadingAccepted:
    return rules.close_registers(
        state,
        point,
        import_wh_cum=imported,
        export_wh_cum=exported,
        now_ms=now_ms(slot),
        carbon_mcr_per_kwh=500,
    )


def minted_wh(state: Overlay) -> int:
    found = ledger.account(state, ANNA)
    assert found.local_wh == found.energy_wh
    assert ledger.supply(state).energy_minted_wh == found.energy_wh
    return found.energy_wh


def refused(rule, *arguments, **named) -> str:
    with pytest.raises(Rejected) as caught:
        rule(*arguments, **named)
    assert caught.value.code is ErrorCode.BAD_READING
    return caught.value.detail


def test_both_devices_of_an_exchange_count_in_one_reading(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    exchange(state, SLOT + 1, (760, 900), (5, 20))
    assert minted_wh(state) == 400, "an exchange mints nothing by itself"
    assert REGISTERS.get(state, POINT.meter_id) == Registers(SLOT, 5, 20, -1, 60, 400)
    accepted = read(state, SLOT + 1, 45, 320, point=AFTER, key=NEW)
    assert (accepted.slots, accepted.import_wh, accepted.export_wh) == (1, 100, 700)
    assert accepted.deliverable_wh == 700, "what was sold in the slot of the exchange is served"
    assert minted_wh(state) == 1_100
    assert read(state, SLOT + 2, 45, 330, point=AFTER, key=NEW, seq=2).export_wh == 10


def test_a_device_may_be_exchanged_before_any_reading_and_twice_in_a_slot(state: Overlay) -> None:
    exchange(state, SLOT, (510, 300), (0, 0))
    exchange(state, SLOT, (7, 400), (1_000, 1_000), point=AFTER)
    accepted = read(state, SLOT, 1_000, 1_500, point=AFTER, key=NEW)
    assert (accepted.import_wh, accepted.export_wh) == (17, 1_100)


def test_old_registers_may_neither_fall_nor_leap(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    kept = REGISTERS.get(state, POINT.meter_id)
    for old in ((699, 500), (700, 499)):
        assert "registers fell" in refused(exchange, state, SLOT + 1, old, (0, 0))
    leap = (700, 500 + MOST_WH + 1)
    assert "110 % of a 4000 W nameplate" in refused(exchange, state, SLOT + 1, leap, (0, 0))
    refused(exchange, state, SLOT + 1, (700 + 2 * MOST_WH + 1, 500), (0, 0))
    assert REGISTERS.get(state, POINT.meter_id) == kept
    exchange(state, SLOT + 2, leap, (0, 0))  # Two slots could make it.
    most = MAX_REGISTER_WH
    exchange(state, SLOT + 2, (0, 0), (most, most), point=AFTER)
    assert read(state, SLOT + 2, most, most, point=AFTER, key=NEW).export_wh == MOST_WH + 1


def test_what_two_devices_say_is_bounded_as_what_one_says(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    exchange(state, SLOT + 1, (700, 500 + MOST_WH), (0, 0))
    refused(read, state, SLOT + 1, 0, 1, point=AFTER, key=NEW)
    assert read(state, SLOT + 2, 0, 1, point=AFTER, key=NEW).export_wh == MOST_WH + 1


def test_the_last_registers_mint_the_rest_and_serve_nothing(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    accepted = close(state, SLOT + 3, 900, 800)
    assert accepted == ReadingAccepted(POINT.meter_id, ANNA, SLOT + 3, 3, 200, 300, 0, 150_000)
    assert minted_wh(state) == 700
    assert REGISTERS.get(state, POINT.meter_id) == Registers(SLOT + 3, 900, 800, 1)


def test_a_meter_may_end_before_it_was_ever_read_or_just_after(state: Overlay) -> None:
    assert close(state, SLOT, 500, 100).export_wh == 0
    other = replace(POINT, meter_id=NEW.public_key)
    read(state, SLOT, 700, 500, point=other)
    assert close(state, SLOT + 1, 700, 510, point=other).slots == 1


def test_the_end_is_bounded_as_a_reading(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    refused(close, state, SLOT + 1, 700, 499)
    refused(close, state, SLOT + 1, 700, 500 + MOST_WH + 1)
    assert minted_wh(state) == 400


# -- Gaps ------------------------------------------------------------------------------------------


GAP = replace(POINT, first_slot=SLOT + 50, restart_slot=SLOT + 50)


def test_what_was_counted_before_a_restart_is_nobodys(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    accepted = read(state, SLOT + 52, 9_000, 9_000, point=GAP, seq=2)
    assert (accepted.import_wh, accepted.export_wh, accepted.deliverable_wh) == (0, 0, 0)
    assert accepted.slots > 1, "it settles nothing of its own slot"
    assert minted_wh(state) == 400
    assert rules.read_since(state, GAP) == SLOT + 53
    assert not rules.restart_registers(state, GAP, SLOT + 53, 0, 0)
    accepted = read(state, SLOT + 53, 9_050, 9_100, point=GAP, seq=3)
    assert (accepted.slots, accepted.export_wh, accepted.deliverable_wh) == (1, 100, 100)
    assert minted_wh(state) == 500


def test_a_meter_that_was_never_read_restarts_as_well(state: Overlay) -> None:
    assert rules.read_since(state, GAP) == SLOT + 50
    accepted = read(state, SLOT + 50, 9_000, 9_000, point=GAP)
    assert (accepted.slots, accepted.export_wh) == (2, 0)
    assert read(state, SLOT + 51, 9_000, 9_001, point=GAP, seq=2).export_wh == 1


def test_a_suspension_within_a_slot_leaves_that_slot_out(state: Overlay) -> None:
    read(state, SLOT + 49, 700, 500)
    accepted = read(state, SLOT + 50, 700, 900, point=GAP, seq=2)
    assert (accepted.slots, accepted.export_wh) == (2, 0)
    assert read(state, SLOT + 51, 700, 1_000, point=GAP, seq=3).export_wh == 100


def test_a_forged_or_early_reading_restarts_nothing(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    for slot, key, code in (
        (SLOT + 49, OLD, ErrorCode.READING_OUT_OF_ORDER),
        (SLOT + 50, NEW, ErrorCode.BAD_SIGNATURE),
    ):
        attempt = Overlay(state)
        bare = MeterReading(OLD.public_key, slot, 900, 900, 2, bytes(64))
        forged = replace(bare, signature=key.sign(signed_bytes(CHAIN, bare)))
        assert rules.restart_registers(attempt, GAP, slot, 900, 900)
        with pytest.raises(Rejected) as caught:
            rules.accept_reading(
                attempt, forged, point=GAP, region_id=CHAIN, now_ms=now_ms(slot + 1), due_slot=0,
                claim_slots=100, by_distributor=False, carbon_mcr_per_kwh=0,
            )  # fmt: skip
        assert caught.value.code is code
    assert REGISTERS.get(state, POINT.meter_id) == Registers(SLOT, 700, 500, 1)


def test_an_exchange_or_an_end_within_a_gap_mints_nothing_of_it(state: Overlay) -> None:
    read(state, SLOT, 700, 500)
    ended = Overlay(state)
    assert close(ended, SLOT + 50, 9_000, 9_000, point=GAP).export_wh == 0
    exchange(state, SLOT + 50, (9_000, 9_000), (0, 0), point=GAP)
    after = replace(GAP, key=NEW.public_key)
    assert read(state, SLOT + 50, 0, 20, point=after, key=NEW).export_wh == 0
    assert read(state, SLOT + 51, 0, 30, point=after, key=NEW, seq=2).export_wh == 10
    assert minted_wh(state) == 410
