"""Every time that a chain can hold has a text, and what people write is read exactly."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.runtime import bangkok

MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("unix_ms", "told"),
    [
        (0, "1970-01-01 07:00:00"),
        (1_793_358_904_999, "2026-10-30 18:15:04"),
        (253_402_275_599_999, "9999-12-31 23:59:59"),
        (253_402_275_600_000, "no end"),
        (MOST, "no end"),
        (-62_135_622_000_000, "0001-01-01 00:00:00"),
        (-62_135_622_000_001, "-62135622000001 ms"),
        (-(2**63), "-9223372036854775808 ms"),
    ],
)
def test_a_moment_of_any_size(unix_ms: int, told: str) -> None:
    assert bangkok.moment(unix_ms) == told


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        (0, 0, "1970-01-01 07:00 to 07:15"),
        (0, 95, "1970-01-01 07:00 to 1970-01-02 07:00"),
        (MOST, MOST, f"slot {MOST} to {MOST}"),
        (0, MOST, f"slot 0 to {MOST}"),
    ],
)
def test_slots_of_any_number(first: int, last: int, told: str) -> None:
    assert bangkok.slots(first, last) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "1970-01-01"), (20_528, "2026-03-16"), (10**7, "day 10000000"), (MOST, f"day {MOST}")],
)
def test_a_day_of_any_number(number: int, told: str) -> None:
    assert bangkok.day(number) == told


@given(st.integers(-(2**63), MOST))
def test_nothing_that_is_valid_on_a_chain_fails(number: int) -> None:
    assert bangkok.moment(number)
    assert bangkok.slots(number // SLOT_MS, number)
    assert bangkok.day(number)


@given(st.datetimes())
def test_what_is_written_is_read_back(local: datetime) -> None:
    exact = local.replace(microsecond=0)
    unix_ms = bangkok.parse_ms(exact.isoformat())
    since = exact.replace(tzinfo=UTC) - datetime(1970, 1, 1, 7, tzinfo=UTC)
    assert timedelta(milliseconds=unix_ms) == since
    assert bangkok.moment(unix_ms) == exact.isoformat(" ")


@given(st.text(max_size=40) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.+-]{0,20}\Z"))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        unix_ms = bangkok.parse_ms(text)
    except ValueError:
        return
    assert -(2**63) < unix_ms < MOST


def test_a_named_zone_counts() -> None:
    assert bangkok.parse_ms("1970-01-01T00:00Z") == 0
    assert bangkok.parse_ms("0001-01-01T00:00+14:00") == -62_135_647_200_000
    assert bangkok.parse_ms("1970-01-01") == -7 * 3_600_000
