"""What a price may be in a slot. Source: protocols/market.md 3.3."""

from __future__ import annotations

from gridtokenx.primitives.quantities import BPS, SLOTS_PER_DAY, local_day, slot_start_ms
from gridtokenx.trading.model import MarketParameters

_BANGKOK_SLOTS = 28  # UTC+7 in slots


def is_peak(slot: int, market: MarketParameters) -> bool:
    """Whether a slot starts in the peak hours of a Bangkok working day."""
    day = local_day(slot_start_ms(slot))
    weekday = (day + 3) % 7  # Monday is 0; 1970-01-01 was a Thursday.
    hour = (slot + _BANGKOK_SLOTS) % SLOTS_PER_DAY // 4
    in_hours = market.peak_start_hour <= hour < market.peak_end_hour
    return in_hours and weekday < 5 and day not in market.holidays


def price_band(slot: int, market: MarketParameters) -> tuple[int, int]:
    """Lowest and highest price of a slot in mTHB/kWh. Source: protocols/market.md 3.3."""
    ceiling = market.max_price_mthb
    if is_peak(slot, market):
        ceiling = ceiling * market.peak_multiplier_bps // BPS
    return market.min_price_mthb, ceiling
