"""`init`: a home that loads, nothing half made, nothing overwritten."""

import stat
from pathlib import Path

import pytest

from gridtokenx.chain.genesis import (
    BlockClock,
    Genesis,
    GenesisValidator,
    RegionChain,
    format_genesis,
    parse_genesis,
)
from gridtokenx.cli.output import ExitCode
from gridtokenx.home import keystore
from gridtokenx.home.config import load_config
from gridtokenx.registry.model import Organisation, OrganisationKind, Territory
from gridtokenx.trading.model import MarketParameters

pytestmark = pytest.mark.usefixtures("fast_keys")


@pytest.fixture
def genesis_file(tmp_path: Path) -> Path:
    genesis = Genesis(
        network_name="gridtokenx-lab",
        network_id=77,
        genesis_time_ms=0,
        block_time_ms=1000,
        timeout_base_ms=1000,
        epoch_blocks=60,
        evidence_window_blocks=300,
        market_clock=BlockClock(0, 0),
        organisations=(
            Organisation("MEA", OrganisationKind.DISTRIBUTOR, bytes(31) + b"\1", bytes(32)),
        ),
        allocations=(),
        parameters=MarketParameters(),
        chains=(
            RegionChain(
                "MET",
                0,
                0,
                (Territory("BKK", "MEA", "", "M"),),
                (GenesisValidator("MEA", bytes(31) + b"\2", 1),),
            ),
        ),
    )
    path = tmp_path / "lab.json"
    path.write_text(format_genesis(genesis))
    return path


@pytest.fixture
def no_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no network were bundled."""
    monkeypatch.setattr(
        "gridtokenx.home.bootstrap_files.folders", lambda environ=None: [tmp_path / "b"]
    )


def test_a_home_for_a_genesis_file_is_complete(
    run, home: Path, genesis_file: Path, password_file: Path
) -> None:
    ran = run(
        "init", "--role", "validator", "--genesis", genesis_file, "--node-id", "n1",
        "--password-file", password_file, "--json",
    )  # fmt: skip
    assert ran.code == 0
    expected = parse_genesis(genesis_file.read_text()).hash.hex()
    assert ran.document["genesis_hash"] == expected
    assert ran.document["chains"] == ["MET"]
    assert [key["name"] for key in ran.document["keys"]] == ["node", "validator"]
    assert ran.document["next"][-1] == f"gridtokenx --home {home} start"
    loaded = load_config(home, environ={})
    assert (loaded.network.network_name, loaded.network.network_id) == ("gridtokenx-lab", 77)
    assert (loaded.node.node_id, loaded.node.node_type) == ("n1", "validator")
    assert loaded.genesis.hash == expected
    assert loaded.genesis_path.read_bytes() == genesis_file.read_bytes()
    assert loaded.password_path == password_file
    assert loaded.data_path.is_dir()
    assert stat.S_IMODE(loaded.keys_path.stat().st_mode) == 0o700
    assert keystore.unlock(loaded.keys_path / "validator.json", "a long secret")


@pytest.mark.parametrize("name", ["egat", "mea", "pea", "erc"])
def test_an_authoritys_home_takes_its_preset(
    run, home: Path, genesis_file: Path, name: str
) -> None:
    ran = run("init", "--authority", name, "--genesis", genesis_file)
    assert ran.code == 0
    assert f"authority of {name.upper()} on gridtokenx-lab" in ran.stdout
    assert f"gridtokenx --home {home} generate-keys" in ran.stdout
    loaded = load_config(home, environ={})
    assert loaded.node.node_type == "authority"
    assert loaded.origin("node.node_type").startswith(f"preset {name}.toml")


def test_a_preset_given_is_kept_in_the_home(run, home: Path, genesis_file: Path) -> None:
    preset = genesis_file.with_name("own.toml")
    preset.write_text('[node]\nnode_type = "authority"\n[api]\nport = 9999\n')
    ran = run("init", "--authority", "mea", "--preset", preset, "--genesis", genesis_file)
    assert ran.code == 0
    preset.unlink()
    assert load_config(home, environ={}).api.port == 9999


@pytest.mark.usefixtures("no_networks")
def test_the_seeds_bare_init_works_and_says_what_is_missing(run, home: Path) -> None:
    ran = run("init")
    assert ran.code == 0
    assert f"put the network's genesis file at {home / 'genesis.json'}" in ran.stdout
    assert load_config(home, environ={}).node.node_type == "observer"


@pytest.mark.usefixtures("no_networks")
def test_a_network_that_is_not_bundled_is_told(run, home: Path) -> None:
    ran = run("init", "--network", "gridtokenx-moon")
    assert ran.code == ExitCode.REFUSED
    assert "no network 'gridtokenx-moon' is bundled" in ran.stderr
    assert not home.exists()


def test_an_existing_home_is_kept_unless_forced(run, home: Path, genesis_file: Path) -> None:
    run("init", "--genesis", genesis_file, "--node-id", "first")
    before = (home / "config.toml").read_bytes()
    ran = run("init", "--genesis", genesis_file, "--node-id", "second")
    assert ran.code == ExitCode.REFUSED
    assert "config.toml exists already" in ran.stderr
    assert (home / "config.toml").read_bytes() == before
    assert run("init", "--genesis", genesis_file, "--node-id", "second", "--force").code == 0
    assert load_config(home, environ={}).node.node_id == "second"
    assert (home / "config.toml.old").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--role", "miner"], 2, "--role must be one of validator"),
        (["--role", "authority"], 2, "--role authority needs --authority"),
        (["--authority", "tepco"], 2, "--authority must be one of egat"),
        (["--node-id", "a b"], 2, "--node-id must look like"),
        (["--preset", "x"], 2, "--preset needs --authority"),
        (["--network", "x"], 2, "either --network or --genesis"),
        (["--genesis-hash", "00"], 65, "not 00"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    run, home: Path, genesis_file: Path, words: list[str], code: int, told: str
) -> None:
    ran = run("--json", "init", "--genesis", genesis_file, *words)
    assert ran.code == code
    assert told in ran.document["error"]["message"]
    assert not home.exists()


@pytest.mark.parametrize("data", [b"{}", b"not json", b"\xff", b"[" * 100_000])
def test_a_bad_genesis_file_is_told(run, home: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    ran = run("init", "--genesis", path)
    assert ran.code == ExitCode.BAD_DATA
    assert ran.stderr.startswith("error [")
    assert not home.exists()


def test_a_genesis_file_that_is_not_there_is_told(run, home: Path) -> None:
    ran = run("init", "--genesis", "/nowhere/genesis.json")
    assert ran.code == ExitCode.REFUSED
    assert "/nowhere/genesis.json" in ran.stderr
    assert not home.exists()


def test_a_password_that_is_too_short_leaves_nothing_behind(
    run, home: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(keystore.create.__kwdefaults__, "development", False)
    password_file.write_text("elevenchars\n")
    ran = run("init", "--password-file", password_file)
    assert ran.code == ExitCode.PERMISSION
    assert "at least 12 characters, not 11" in ran.stderr
    assert not home.exists()


def test_a_folder_that_others_may_enter_is_closed(run, home: Path) -> None:
    home.mkdir(mode=0o755)
    assert run("init").code == 0
    assert home.stat().st_mode & 0o777 == 0o700
