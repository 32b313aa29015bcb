"""Settings that are only a home's defaults, because a chain has a value of its own in force.

Nothing a node does depends on them: tools may use them before a node answers. Whoever reads a
configuration must hear which value counts. Source: docs/node-operation.md "Settings".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import structlog

from gridtokenx.home.config import Config, format_value
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Reader
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import MarketParameters

WH_PER_KWH = 1000
log = structlog.get_logger(__name__)
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
    """A setting that disagrees with chains: its value here, and theirs, as text."""

    key: str
    chains: tuple[str, ...]
    configured: str
    in_force: str


def chain_numbers(market: MarketParameters) -> dict[str, int]:
    """The market parameters that decide, by name."""
    return {name: getattr(market, name) for _, name, _ in DECIDED_BY_CHAIN if name}


def numbers_told(parameters: Mapping[str, Any]) -> dict[str, int]:
    """The same from an API's answer, where numbers are decimal text among other values."""
    return {name: int(parameters[name]) for _, name, _ in DECIDED_BY_CHAIN if name}


def overruled(config: Config, markets: Mapping[str, Mapping[str, int]]) -> list[Overruled]:
    """The settings that say something else than the market parameters in force, given by chain:
    one entry for each value that chains have instead.
    """
    found = []
    for key, name, scale in DECIDED_BY_CHAIN:
        value, others = config.value(key), dict[Decimal, list[str]]()
        for chain, parameters in markets.items():
            in_force = Decimal(parameters[name] if name else 1) / scale
            if in_force != value:
                others.setdefault(in_force, []).append(chain)
        for other, chains in others.items():
            text = f"{other.normalize():f}"
            found.append(Overruled(key, tuple(chains), format_value(value), text))
    return found


def warn_overruled(config: Config, states: Mapping[str, Reader]) -> None:
    """Log, once each, which settings of this home are not those in force; states by chain."""
    markets = {name: chain_numbers(trading.parameters(state)) for name, state in states.items()}
    for one in overruled(config, markets):
        log.warning(
            "config.chain_value_in_force",
            setting=one.key,
            chains=",".join(one.chains),
            configured=one.configured,
            in_force=one.in_force,
            hint="the chain decides; the setting is only a default of this home",
        )
