"""`chain`: what the node refuses or lacks is told in its words."""

import pytest

from gridtokenx.cli.output import ExitCode

HEAD = {
    "height": "7",
    "hash": "ab" * 32,
    "time_ms": "1795410000000",
    "market_ms": "1795410900000",
    "state_root": "cd" * 32,
}


def test_the_head_of_one_chain_or_of_all(run, canned_node) -> None:
    canned_node.results = {
        "chain_getHead": {"chain": "NOR", **HEAD, "finalized": True},
        "chain_getStatus": {"chains": [{"chain": one, "head": HEAD} for one in ("MET", "NOR")]},
    }
    assert run("--rpc", canned_node.url, "chain", "head", "NOR", "--json").document["height"] == "7"
    rows = run("--rpc", canned_node.url, "chain", "head", "--json").document["heads"]
    assert [row["chain"] for row in rows] == ["MET", "NOR"]
    shown = run("--rpc", canned_node.url, "chain", "head").stdout
    assert "2026-11-23 12:00:00" in shown  # Bangkok
    assert "ab" * 32 in shown  # whole, to be copied
    assert f"  NOR:7:{'ab' * 32}\n" in shown  # In the form that sync.trusted_blocks takes.
    assert rows[0]["trusted_block"] == f"MET:7:{'ab' * 32}"


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["head", "XYZ"], "chain_getHead"),
        (["block", "5"], "chain_getBlock"),
        (["validators"], "chain_getValidators"),
        (["params", "--chain", "XYZ"], "chain_getParams"),
    ],
)
def test_refusals(run, canned_node, words: list[str], method: str) -> None:
    hint = "chain_getStatus lists the chains this node follows"
    canned_node.refuse(method, 8001, "unknown_shard", hint=hint)
    ran = run("--rpc", canned_node.url, "chain", *words)
    assert ran.code == ExitCode.REFUSED
    assert ran.stderr.splitlines() == [
        "error [8001/unknown_shard]: because of unknown_shard",
        "hint: gridtokenx status lists the chains this node follows",
    ]
    canned_node.refuse(method, -32602, "invalid_params")
    assert run("--rpc", canned_node.url, "chain", *words).code == ExitCode.USAGE


def test_parameters_are_shown_with_their_units(run, canned_node) -> None:
    values = {
        "kind": "market_parameters",
        "wheeling_mthb": ["300", "600"],
        "min_price_mthb": "1000",
        "dust_wh": "100",
        "holidays": [],
        "carbon_rates": [{"kind": "carbon_rate", "source": "solar", "mcr_per_kwh": "500"}],
    }
    canned_node.results["chain_getParams"] = {"chain": "MET", "height": "5", "parameters": values}
    shown = run("--rpc", canned_node.url, "chain", "params").stdout
    assert "min_price      1.000 THB/kWh" in shown
    assert "dust           0.100 kWh" in shown
    assert "holidays       none" in shown
    assert "source solar, mcr_per_kwh 500" in shown


def test_an_address_that_is_no_url(run) -> None:
    assert run("--rpc", "http://a:b", "chain", "head").code == ExitCode.USAGE
    assert run("--rpc", "nonsense", "chain", "head").code == ExitCode.UNREACHABLE
