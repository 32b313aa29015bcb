"""Which settings of a home a chain overrules."""

from dataclasses import replace
from pathlib import Path

import trio
from structlog.testing import capture_logs

from gridtokenx.cluster.devnet import local_genesis
from gridtokenx.home.config import load_config
from gridtokenx.home.overruled import Overruled, chain_numbers, overruled
from gridtokenx.node.node import Keys, Node
from gridtokenx.trading.model import MarketParameters

AT_THE_START = MarketParameters()


def test_the_defaults_agree_with_a_new_chain(tmp_path: Path) -> None:
    config = load_config(tmp_path, environ={})
    assert overruled(config, {"MET": chain_numbers(AT_THE_START)}) == []


def test_both_values_are_told(tmp_path: Path) -> None:
    flags = {"energy.energy_token_ratio": "2", "thai_market.peak_hours.end_hour": 21}
    environ = {
        f"GRIDTOKENX_{key.upper().replace('.', '__')}": str(value) for key, value in flags.items()
    }
    config = load_config(tmp_path, environ=environ)
    market = replace(AT_THE_START, max_order_wh=20_000_000)
    markets = {name: chain_numbers(AT_THE_START) for name in ("TH", "MET")}
    assert overruled(config, {**markets, "NOR": chain_numbers(market)}) == [
        Overruled("energy.energy_token_ratio", ("TH", "MET", "NOR"), "2", "1"),
        Overruled("energy.max_trade_amount", ("NOR",), "10000.0", "20000"),
        Overruled("thai_market.peak_hours.end_hour", ("TH", "MET", "NOR"), "21", "22"),
    ]


async def test_a_node_that_starts_says_what_its_chains_overrule(tmp_path: Path) -> None:
    flags = {
        "network.regions": ["MET"],
        "network.listen": ["/ip4/127.0.0.1/tcp/0"],
        "api.port": 0,
        "sync.trust_old_blocks": True,
        "thai_market.peak_hours.end_hour": 21,
    }
    config = load_config(tmp_path, flags, environ={})
    genesis = local_genesis(parameters=replace(AT_THE_START, max_order_wh=20_000_000))
    node = Node(config, genesis, Keys(network_seed=bytes(32)))
    with capture_logs() as lines, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            nursery.cancel_scope.cancel()
    told = [line for line in lines if line["event"] == "config.chain_value_in_force"]
    assert [line["log_level"] for line in told] == ["warning"] * 2
    fields = ("chains", "setting", "configured", "in_force")
    assert [tuple([line[name] for name in fields]) for line in told] == [
        ("TH,MET", "energy.max_trade_amount", "10000.0", "20000"),
        ("TH,MET", "thai_market.peak_hours.end_hour", "21", "22"),
    ]
    assert lines.index(told[-1]) < [line["event"] for line in lines].index("node.started")
