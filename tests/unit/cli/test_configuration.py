"""`config show|validate|path|template`."""

import tomllib
from pathlib import Path

import pytest

from gridtokenx.cli.output import ExitCode

NO_NODE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _asks_no_node_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home's default port may be served by whoever works on this machine."""
    from gridtokenx.cli import output

    monkeypatch.setattr(output, "rpc_url", lambda: output.options().rpc or NO_NODE)


@pytest.fixture
def configured(home: Path) -> Path:
    home.mkdir()
    path = home / "config.toml"
    path.write_text('[node]\nauthority = "pea"\n[energy]\nmin_trade_amount = 0.25\n')
    return path


def test_show_tells_values_and_origins(run, configured: Path) -> None:
    ran = run("config", "show", "--origin", "--json", GRIDTOKENX_API__PORT="18080")
    shown = ran.document["settings"]
    assert shown["api.port"] == {"value": 18080, "origin": "environment GRIDTOKENX_API__PORT"}
    assert shown["node.authority"] == {"value": "pea", "origin": "config.toml:2"}
    assert shown["energy.min_trade_amount"] == {"value": "0.25", "origin": "config.toml:4"}
    assert shown["network.max_peers"]["origin"].startswith("preset pea.toml:")
    assert shown["logging.level"] == {"value": "info", "origin": "default"}
    assert ran.document["file"] == str(configured)


def test_what_show_prints_is_a_config_file(run, configured: Path) -> None:
    shown = tomllib.loads(run("config", "show").stdout)
    assert shown["node"]["authority"] == "pea"
    assert shown["network"]["max_peers"] == 100
    assert "# config.toml:2" in run("config", "show", "--origin").stdout
    assert tomllib.loads(run("config", "show", "--origin").stdout) == shown


def test_validate_counts_what_is_given(run, configured: Path) -> None:
    assert f"valid: {configured}" in run("config", "validate").stdout
    configured.write_text("[api]\nport = 99999\n")
    ran = run("config", "validate", "--json")
    assert ran.code == ExitCode.CONFIG
    assert ran.document["error"]["code"] == "GTX-CFG-002"
    assert ran.document["error"]["message"].startswith("config.toml:2 api.port must be")


def test_an_unsafe_bind_ends_with_78(run, configured: Path) -> None:
    ran = run("config", "validate", GRIDTOKENX_API__HOST="0.0.0.0")
    assert ran.code == ExitCode.CONFIG
    assert "error [GTX-API-001/unsafe_bind]: refusing to serve RPC on 0.0.0.0" in ran.stderr


def test_path_follows_config_and_home(run, home: Path, tmp_path: Path) -> None:
    assert run("config", "path").stdout == f"{home / 'config.toml'}\n"
    other = tmp_path / "other.toml"
    assert run("config", "path", "--config", other, "--json").document == {
        "path": str(other),
        "exists": False,
    }


def test_the_template_is_toml(run) -> None:
    text = run("config", "template").stdout
    assert tomllib.loads(text)["version"] == 1
    assert run("config", "template", "--json").document["template"] == text


def chain_says(node, **parameters: int) -> None:
    in_force = {
        "type": "market_parameters",
        "min_order_wh": "100",
        "max_order_wh": "10000000",
        "peak_start_hour": "18",
        "peak_end_hour": "22",
        "peak_multiplier_bps": "15000",
        "wheeling_mthb": ["300", "600", "900", "1151"],
        **{name: str(value) for name, value in parameters.items()},
    }
    node.results["chain_getStatus"] = {"chains": [{"chain": "MET"}, {"chain": "NOR"}]}
    node.results["energy_getMarket"] = {"parameters": in_force}


def test_show_tells_what_the_chain_has_instead_when_a_node_answers(
    run, configured: Path, canned_node
) -> None:
    chain_says(canned_node, peak_start_hour=17, peak_multiplier_bps=12_500)
    ran = run("config", "show", "--rpc", canned_node.url)
    told = [line for line in ran.stdout.splitlines() if "chain value in force" in line]
    assert [" ".join(line.split()) for line in told] == [
        "min_trade_amount = 0.25 # chain value in force: 0.1 (MET, NOR)",
        "start_hour = 18 # chain value in force: 17 (MET, NOR)",
        "pricing_multiplier = 1.5 # chain value in force: 1.25 (MET, NOR)",
    ]
    assert tomllib.loads(ran.stdout)["energy"]["min_trade_amount"] == 0.25
    document = run("config", "show", "--json", "--rpc", canned_node.url).document
    assert document["settings"]["energy.min_trade_amount"] == "0.25"
    assert document["overruled"][0] == {
        "key": "energy.min_trade_amount",
        "chains": ["MET", "NOR"],
        "configured": "0.25",
        "in_force": "0.1",
    }
    assert len(document["overruled"]) == 3


def test_show_needs_no_node(run, configured: Path, canned_node) -> None:
    for url in (NO_NODE, canned_node.url):
        canned_node.refuse("chain_getStatus", -32603, "internal")
        ran = run("config", "show", "--json", "--rpc", url)
        assert ran.document["overruled"] is None
        assert ran.document["settings"]["energy.min_trade_amount"] == "0.25"
    assert "chain value" not in run("config", "show", "--rpc", NO_NODE).stdout


def test_show_takes_nothing_from_whatever_else_serves_the_port(
    run, configured: Path, canned_node
) -> None:
    for answer in ({"chains": [{"chain": "MET"}]}, {"version": 1}, ["chains"], "MET"):
        canned_node.results["chain_getStatus"] = answer
        canned_node.results["energy_getMarket"] = {"parameters": {"min_order_wh": "a lot"}}
        ran = run("config", "show", "--json", "--rpc", canned_node.url)
        assert ran.document["overruled"] is None


def test_an_agreeing_chain_overrules_nothing(run, home: Path, canned_node) -> None:
    chain_says(canned_node)
    assert run("config", "show", "--json", "--rpc", canned_node.url).document["overruled"] == []
