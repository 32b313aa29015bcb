"""Settings that are only a home's defaults, because a chain has a value of its own in force.

Nothing a node does depends on them: tools may use them before a node answers. Whoever reads a
configuration must hear which value counts. Source: surface A.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gridtokenx.node.config import Config, format_value
from gridtokenx.primitives.quantities import BPS
from gridtokenx.trading.model import MarketParameters

WH_PER_KWH = 1000
# Setting, the market parameter that decides, how many of the parameter's units make one of it.
DECIDED_BY_CHAIN = (
    ("energy.energy_token_ratio", "", 1),  # Of every chain: one token is one kWh.
    ("energy.min_trade_amount", "min_order_wh", WH_PER_KWH),
    ("energy.max_trade_amount", "max_order_wh", WH_PER_KWH),
    ("thai_market.peak_hours.start_hour", "peak_start_hour", 1),
    ("thai_market.peak_hours.end_hour", "peak_end_hour", 1),
    ("thai_market.peak_hours.pricing_multiplier", "peak_multiplier_bps", BPS),
)


@dataclass(frozen=True, slots=True)
class Overruled:
    """A setting that disagrees with a chain: its value here, and the chain's, as text."""

    key: str
    chain: str
    configured: str
    in_force: str


def chain_numbers(market: MarketParameters) -> dict[str, int]:
    """The market parameters that decide, by name."""
    return {name: getattr(market, name) for _, name, _ in DECIDED_BY_CHAIN if name}


def numbers_told(parameters: Mapping[str, Any]) -> dict[str, int]:
    """The same from an API's answer, where numbers are decimal text among other values."""
    return {name: int(parameters[name]) for _, name, _ in DECIDED_BY_CHAIN if name}


def overruled(config: Config, chain: str, parameters: Mapping[str, int]) -> list[Overruled]:
    """The settings that say something else than a chain's market parameters."""
    found = []
    for key, name, scale in DECIDED_BY_CHAIN:
        value, in_force = config.value(key), Decimal(parameters[name] if name else 1) / scale
        if value != in_force:
            found.append(Overruled(key, chain, format_value(value), f"{in_force.normalize():f}"))
    return found
