"""Which settings of a home a chain overrules."""

from dataclasses import replace
from pathlib import Path

from gridtokenx.node.chain_values import Overruled, chain_numbers, overruled
from gridtokenx.node.config import load_config
from gridtokenx.trading.model import MarketParameters

AT_THE_START = MarketParameters()


def test_the_defaults_agree_with_a_new_chain(tmp_path: Path) -> None:
    config = load_config(tmp_path, environ={})
    assert overruled(config, "MET", chain_numbers(AT_THE_START)) == []


def test_both_values_are_told(tmp_path: Path) -> None:
    flags = {"energy.energy_token_ratio": "2", "thai_market.peak_hours.end_hour": 21}
    environ = {
        f"GRIDTOKENX_{key.upper().replace('.', '__')}": str(value) for key, value in flags.items()
    }
    config = load_config(tmp_path, environ=environ)
    market = replace(AT_THE_START, max_order_wh=20_000_000)
    assert overruled(config, "NOR", chain_numbers(market)) == [
        Overruled("energy.energy_token_ratio", "NOR", "2", "1"),
        Overruled("energy.max_trade_amount", "NOR", "10000.0", "20000"),
        Overruled("thai_market.peak_hours.end_hour", "NOR", "21", "22"),
    ]
