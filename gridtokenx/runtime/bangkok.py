"""Times and days of the chain as people write them: Bangkok, UTC+7, no daylight saving.

A chain's times are any 63-bit number: a licence or an order may be valid without end, and a region
whose authorities misbehave may say anything. Whatever lies outside the calendar has a text too.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from gridtokenx.primitives.quantities import BANGKOK_OFFSET_MS, slot_end_ms, slot_start_ms

NO_END = "no end"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MS = timedelta(milliseconds=1)


def clock(unix_ms: int) -> datetime | None:
    """What a clock in Bangkok shows then; None before the year 1 and after 9999."""
    try:
        return _EPOCH + (unix_ms + BANGKOK_OFFSET_MS) * _MS
    except OverflowError:
        return None


def moment(unix_ms: int) -> str:
    """`2026-11-22 18:15:04`; `no end` after the year 9999."""
    found = clock(unix_ms)
    if found is None:
        return NO_END if unix_ms > 0 else f"{unix_ms} ms"
    return found.replace(tzinfo=None).isoformat(" ", "seconds")


def slots(first: int, last: int) -> str:
    """`2026-11-22 18:15 to 19:00`: when the first slot begins and the last one ends."""
    begin, end = clock(slot_start_ms(first)), clock(slot_end_ms(last))
    if begin is None or end is None:
        return f"slot {first} to {last}"
    same_day = begin.date() == end.date()
    return f"{begin:%Y-%m-%d %H:%M} to {end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}}"


def day(number: int) -> str:
    """`2026-11-22` of a day counted from 1970-01-01."""
    try:
        return date.fromordinal(number + _EPOCH_DAY).isoformat()
    except (OverflowError, ValueError):
        return f"day {number}"


def parse_ms(text: str) -> int:
    """Unix ms of `2026-12-01`, `2026-12-01T06:00` or of a time that names its zone.

    Errors: ValueError.
    """
    named = datetime.fromisoformat(text.strip().replace(" ", "T"))
    local = named.tzinfo is None
    since = (named.replace(tzinfo=UTC) if local else named) - _EPOCH
    return since // _MS - (BANGKOK_OFFSET_MS if local else 0)
