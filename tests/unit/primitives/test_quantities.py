"""Amounts: exact in and out, rounding only where the market says so."""

from decimal import Decimal

import pytest

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import (
    SLOT_MS,
    format_kwh,
    format_price,
    format_thb,
    gross_up,
    local_day,
    parse_kwh,
    parse_price,
    parse_thb,
    share_half_up,
    slot_at,
    slot_end_ms,
    slot_start_ms,
)


@pytest.mark.parametrize(
    ("text", "wh"),
    [("5", 5000), ("5.5", 5500), ("0.001", 1), (" 12.345 ", 12345), ("0", 0), ("1e3", 10**6)],
)
def test_energy_is_read_exactly(text: str, wh: int) -> None:
    assert parse_kwh(text) == wh


def test_numbers_and_decimals_are_read_like_text() -> None:
    assert parse_kwh(5) == 5000
    assert parse_thb(Decimal("0.000001")) == 1
    assert parse_thb(Decimal("1E+3")) == 10**9
    assert parse_price("4.200") == 4200


@pytest.mark.parametrize(
    "text",
    [
        "5.0001",
        "-1",
        "five",
        "",
        "NaN",
        "Infinity",
        "1e30",
        "1e-999999999",
        "1e-1",
        "0e999999999",
        "9" * 40,
        "1." + "0" * 28 + "1",
        "1_000",
        "१",
        "1,5",
    ],
)
def test_what_would_be_rounded_or_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_kwh(text)
    assert caught.value.code is ErrorCode.AMOUNT_OUT_OF_RANGE


def test_a_price_error_has_its_own_code() -> None:
    with pytest.raises(Rejected, match=r"PRICE_OUT_OF_BAND.*at most 3 decimals, got 1\.2345"):
        parse_price("1.2345")


def test_text_forms() -> None:
    assert format_kwh(1_234_567) == "1234.567"
    assert format_kwh(-5) == "-0.005"
    assert format_price(4200) == "4.200"
    assert [format_thb(uthb) for uthb in (4_999, 5_000, 1_234_567_890, -5_000)] == [
        "0.00",
        "0.01",
        "1234.57",
        "-0.01",
    ]


def test_a_share_is_rounded_half_up() -> None:
    assert [share_half_up(amount, 700) for amount in (0, 7, 8, 50, 100)] == [0, 0, 1, 4, 7]


def test_a_gross_amount_covers_the_rounded_share() -> None:
    for amount in range(2000):
        assert gross_up(amount, 700) >= amount + share_half_up(amount, 700)
        assert gross_up(amount, 700) * 10_000 >= amount * 10_700
    assert gross_up(100, 700) == 107


def test_slots_tile_time() -> None:
    slot = slot_at(1_773_594_000_000)
    assert slot_start_ms(slot) == 1_773_594_000_000
    assert slot_end_ms(slot) == slot_start_ms(slot + 1) == slot_start_ms(slot) + SLOT_MS
    assert slot_at(slot_end_ms(slot) - 1) == slot


def test_a_day_begins_at_midnight_in_bangkok() -> None:
    midnight = 1_773_594_000_000
    assert local_day(midnight) == local_day(midnight - 1) + 1
    assert (local_day(midnight) + 3) % 7 == 0  # a Monday
