"""Units of the market as integers, the rounding they use, and their text forms.

Energy in Wh, price in mTHB/kWh, money in uTHB (Wh x mTHB/kWh = uTHB exactly), carbon in
micro-credits, rates in basis points, time in 15-minute slots. Source: protocols/market.md 1.
"""

from __future__ import annotations

import re
from decimal import Decimal

from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode, Rejected

WH_PER_KWH = 1000
UTHB_PER_THB = 1_000_000
MTHB_PER_THB = 1000
UCREDIT_PER_CREDIT = 1_000_000
BPS = 10_000
SLOT_MS = 900_000
SLOTS_PER_DAY = 96
# A register of 2**53 Wh is 9 PWh: more than any plant makes, and room for every sum below 2**63.
MAX_REGISTER_WH = 2**53
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9})?(E\+?[0-9])?", re.IGNORECASE)
BANGKOK_OFFSET_MS = 7 * 3_600_000  # No daylight saving time since 1920.


def slot_at(time_ms: int) -> int:
    """The 15-minute delivery slot (since the Unix epoch) that contains `time_ms`."""
    return time_ms // SLOT_MS


def slot_start_ms(slot: int) -> int:
    """Unix milliseconds at which a slot begins; gate closure for its orders."""
    return slot * SLOT_MS


def slot_end_ms(slot: int) -> int:
    """Unix milliseconds at which a slot ends and its readings may be sent."""
    return (slot + 1) * SLOT_MS


def local_day(time_ms: int) -> int:
    """Days since 1970-01-01 in Bangkok time; day 0 was a Thursday."""
    return (time_ms + BANGKOK_OFFSET_MS) // 86_400_000


def local_month(time_ms: int) -> int:
    """Months since January 1970 in Bangkok time (proleptic Gregorian calendar)."""
    shifted = local_day(time_ms) + 719_468  # Days since 0000-03-01: leap days end their years.
    era, day_of_era = divmod(shifted, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    months_since_march = (5 * day_of_year + 2) // 153
    return (era * 400 + year - 1970) * 12 + 2 + months_since_march


def saturated(total: int) -> int:
    """`total`, at most the 2**63-1 that can be stored: where it ends, a count stands still.

    Only for reports and statistics, never for what somebody owns: money and energy are refused
    (OUT_OF_RANGE) where they would leave the range. Source: protocols/state-transition.md 6.
    """
    return min(total, MAX_INT)


def share_half_up(amount: int, rate_bps: int) -> int:
    """`amount` x rate, rounded half up to one unit (VAT, fees)."""
    return (amount * rate_bps * 2 + BPS) // (2 * BPS)


def gross_up(amount: int, rate_bps: int) -> int:
    """ceil(amount x (1 + rate)): what must be reserved to pay amount plus the rate on it."""
    return -(-amount * (BPS + rate_bps) // BPS)


def parse_kwh(value: str | int | Decimal) -> int:
    """Wh from kWh text or number with at most 3 decimals. Errors: AMOUNT_OUT_OF_RANGE."""
    return _scaled(value, 3, "energy in kWh", ErrorCode.AMOUNT_OUT_OF_RANGE)


def parse_thb(value: str | int | Decimal) -> int:
    """uTHB from baht text or number with at most 6 decimals. Errors: AMOUNT_OUT_OF_RANGE."""
    return _scaled(value, 6, "an amount in THB", ErrorCode.AMOUNT_OUT_OF_RANGE)


def parse_price(value: str | int | Decimal) -> int:
    """mTHB/kWh from THB/kWh text with at most 3 decimals. Errors: PRICE_OUT_OF_BAND."""
    return _scaled(value, 3, "a price in THB/kWh", ErrorCode.PRICE_OUT_OF_BAND)


def format_kwh(wh: int) -> str:
    """Text in kWh with 3 decimals."""
    return _fixed(wh, 3)


def format_thb(uthb: int) -> str:
    """Text in THB with 2 decimals, rounded half up to satang (statements only)."""
    satang, sign = (abs(uthb) * 2 + 10_000) // 20_000, "-" if uthb < 0 else ""
    return f"{sign}{_fixed(satang, 2)}"


def format_price(mthb: int) -> str:
    """Text in THB/kWh with 3 decimals."""
    return _fixed(mthb, 3)


def _fixed(units: int, decimals: int) -> str:
    scale = 10**decimals
    whole, rest = divmod(abs(units), scale)
    return f"{'-' if units < 0 else ''}{whole:,}.{rest:0{decimals}d}".replace(",", "")


def _scaled(value: str | int | Decimal, decimals: int, what: str, code: ErrorCode) -> int:
    """An exact scaled integer; refuses what would need rounding, so nothing is lost silently."""
    text = str(value).strip()
    # Decimal alone would also take "1_000", other scripts' digits, and round beyond 28 digits.
    if _NUMBER.fullmatch(text) is None:
        raise Rejected(code, f"{what} must be a number such as 12.5, not {text[:40]!r}")
    scaled = Decimal(text).scaleb(decimals)
    if scaled != int(scaled):
        raise Rejected(code, f"{what} has at most {decimals} decimals, got {text}")
    if scaled < 0:
        raise Rejected(code, f"{what} must not be negative, got {text}")
    return int(scaled)
