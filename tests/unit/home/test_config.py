"""Configuration: the seed's text reads unchanged, nothing is ignored, origins are known."""

import contextlib
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.home import bootstrap_files, config
from gridtokenx.home.config import Config, ConfigError, load_config
from gridtokenx.home.settings import AUTHORITIES, SECTIONS, SETTINGS

SEED_NODE = """
[node]
node_id = "gridtokenx-node-001"
node_type = "validator"  # validator, trader, observer, grid_operator, authority
"""
SEED_NETWORK = """
[network]
network_name = "gridtokenx-testnet"
network_id = 1001
max_peers = 50
"""
SEED_ENERGY = """
[energy]
energy_token_ratio = 1.0  # 1 kWh = 1 Token
min_trade_amount = 0.1
max_trade_amount = 10000.0
"""
SEED_MARKET = """
[thai_market]
[thai_market.peak_hours]
start_hour = 18  # 6 PM
end_hour = 22    # 10 PM
pricing_multiplier = 1.5
"""
SEED_LOGGING = """
[logging]
level = "info"
format = "json"  # or "pretty"

[logging.file_logging]
enabled = true
file_path = "./logs/gridtokenx.log"
"""
SEED = [SEED_NODE, SEED_NETWORK, SEED_ENERGY, SEED_MARKET, SEED_LOGGING]


def load(home: Path, text: str | None = None, flags: dict | None = None, **environ: str) -> Config:
    if text is not None:
        (home / "config.toml").write_text(text)
    return load_config(home, flags, environ=environ)


def refused(home: Path, text: str | None = None, flags: dict | None = None, **environ: str):
    with pytest.raises(ConfigError) as raised:
        load(home, text, flags, **environ)
    return raised.value


@pytest.mark.parametrize("snippet", [*SEED, "".join(SEED)])
def test_the_seeds_snippets_read_unchanged(tmp_path: Path, snippet: str) -> None:
    assert load(tmp_path, snippet).file == tmp_path / "config.toml"


def test_the_seeds_values_arrive(tmp_path: Path) -> None:
    loaded = load(tmp_path, "".join(SEED))
    assert loaded.node.node_type == "validator"
    assert loaded.validates
    assert (loaded.network.network_name, loaded.network.network_id) == ("gridtokenx-testnet", 1001)
    assert loaded.energy.min_trade_amount == Decimal("0.1")
    assert loaded.energy.max_trade_amount == Decimal(10_000)
    hours = loaded.thai_market.peak_hours
    assert (hours.start_hour, hours.end_hour) == (18, 22)
    assert hours.pricing_multiplier == Decimal("1.5")
    assert loaded.logging.format == "json"
    assert loaded.log_path == tmp_path / "logs" / "gridtokenx.log"


def test_amounts_are_exact_decimals_never_floats(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[energy]\nmin_trade_amount = 0.3\nmax_trade_amount = 7\n")
    assert loaded.energy.min_trade_amount == Decimal("0.3")
    assert loaded.energy.max_trade_amount == Decimal(7)


def test_without_a_file_everything_is_the_default(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.file is None
    assert set(loaded.origins) == set(SETTINGS)
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.api.host == "127.0.0.1"
    assert loaded.data_path == tmp_path / "data"
    assert loaded.password_path is None


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    error = refused(tmp_path, "\n" * 12 + "[network]\nmax_peer = 3\n")
    assert str(error) == "config.toml:14 network.max_peer is not a setting; did you mean max_peers?"
    assert error.code == "GTX-CFG-001"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[netwrk]\nmax_peers = 3",
            "config.toml:1 [netwrk] is not a section; did you mean [network]?",
        ),
        ("[zzz]\n", "config.toml:1 [zzz] is not a section"),
        ("[node]\nport = 1", "config.toml:2 node.port is not a setting; did you mean api.port?"),
        ("[api]\nqqq = 1", "config.toml:2 api.qqq is not a setting"),
        (
            "max_peers = 3",
            "config.toml:1 max_peers is not a setting; did you mean network.max_peers?",
        ),
        (
            "[thai_market.peak_hours]\nstart = 1",
            "config.toml:2 thai_market.peak_hours.start is not a setting; did you mean start_hour?",
        ),
        ("[node.extra]\nx = 1", "config.toml:1 [node.extra] is not a section"),
        ("[logging]\nfile_logging = true", "config.toml:2 logging.file_logging is a section"),
    ],
)
def test_what_is_not_in_the_schema_is_an_error(tmp_path: Path, text: str, told: str) -> None:
    assert str(refused(tmp_path, text)).startswith(told)


def test_lines_are_right_after_lists_strings_and_inline_tables(tmp_path: Path) -> None:
    text = (
        '[network]\nlisten = [\n  "/ip4/127.0.0.1/tcp/1", # max_peers = 1\n'
        '  "/ip4/127.0.0.1/tcp/2",\n]\nmax_peers = 9\n[node]\nnode_id = """\\\n  a"""\n'
        "thai = 1\n[thai_market]\n"
    )
    assert str(refused(tmp_path, text)).startswith("config.toml:10 node.thai is not a setting")
    text = text.replace(
        "thai = 1\n[thai_market]\n", "\n[thai_market]\npeak_hours = {end_hour = 20}\n"
    )
    loaded = load(tmp_path, text)
    assert loaded.origin("network.max_peers") == "config.toml:6"
    assert loaded.origin("thai_market.peak_hours.end_hour") == "config.toml:12"
    assert loaded.thai_market.peak_hours.end_hour == 20
    assert loaded.node.node_id == "a"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[api]\nport = "8080"',
            'config.toml:2 api.port must be a whole number from 0 to 65535, not "8080"',
        ),
        ("[api]\nport = 70000", "must be a whole number from 0 to 65535, not 70000"),
        ("[api]\nport = true", "must be a whole number from 0 to 65535, not true"),
        ("[api]\nport = 80.5", "not 80.5"),
        ("[consensus]\nvote = 1", "config.toml:2 consensus.vote must be true or false, not 1"),
        ("[node]\nnode_type = 'miner'", "must be one of validator, trader, observer"),
        ("[node]\nnode_id = 7", "must be text in quotes, not 7"),
        ("[node]\nkey = '../x'", "must look like validator"),
        ("[network]\nlisten = '/ip4/0.0.0.0/tcp/9000'", 'must be a list such as ["/ip4/0.0.0.0'),
        ("[network]\nlisten = ['0.0.0.0:9000']", "must look like /ip4/0.0.0.0/tcp/9000"),
        ("[network]\nbootstrap = ['/ip4/192.0.2.1/tcp/9000']", "/p2p/"),
        ("[network]\nallow = ['/ip4/192.0.2.1']", "network.allow must look like 12D3KooW"),
        (
            "[network]\nallow = ['12D3KooWSahP5pFRCEfaziPEba7urXGeif6T1y8jmodzdFUvzBH']",
            "has no valid peer id",
        ),
        (
            "[network]\npersistent = ['/ip4/192.0.2.1/tcp/9000/p2p/12D3KooWl0']",
            "has no valid peer id",
        ),
        ("[network]\nregions = ['MET', 'MET']", "names MET twice"),
        ("[energy]\nmin_trade_amount = nan", "must be a number"),
        ("[energy]\nmin_trade_amount = 20000", "is above max_trade_amount"),
        ("[energy]\nmin_trade_amount = {a=1}", "must be a number"),
        ("[thai_market.peak_hours]\nstart_hour = 23", "is not before end_hour"),
        ("[network]\nmin_peers = 60", "is above max_peers"),
        ("[node]\nnode_type = 'authority'", "needs node.authority: egat, mea, pea or erc"),
        ("[genesis]\nhash = 'abc'", "must look like"),
    ],
)
def test_wrong_values_say_what_is_expected(tmp_path: Path, text: str, told: str) -> None:
    error = refused(tmp_path, text)
    assert told in str(error)
    assert error.code == "GTX-CFG-002"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[node\n", "config.toml:1 is not TOML"),
        (b"[node]\nnode_id = 'a'\nnode_id = 'b'\n", "config.toml:3 is not TOML"),
        (b"\xff\xfe", "is UTF-16 text: save it as UTF-8"),
        (b"# \xe9", "is not UTF-8 text (byte 3)"),
        (b"#" * 70_000, "is larger than 65536 bytes"),
        (b"version = 2\n", "config.toml:1 version 2 is not known"),
        (b"version = true\n", "version True is not known"),
    ],
)
def test_files_that_are_no_config_are_told(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    assert told in str(refused(tmp_path))


@given(text=st.text(alphabet="[]{}=.\"'#\n ab1_,node", max_size=80))
def test_no_text_raises_anything_but_a_config_error(tmp_path_factory, text: str) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "config.toml").write_text(text, newline="")
    with contextlib.suppress(ConfigError):
        assert load(home).file == home / "config.toml"


def test_an_explicit_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path, file=tmp_path / "other.toml", environ={})


def test_relative_paths_are_relative_to_the_config_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc" / "node.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text('[node]\ndata_dir = "../blocks"\npassword_file = "/run/secret"\n')
    loaded = load_config(tmp_path / "home", file=elsewhere, environ={})
    assert loaded.data_path == tmp_path / "blocks"
    assert loaded.password_path == Path("/run/secret")
    assert loaded.genesis_path == tmp_path / "etc" / "genesis.json"
    assert loaded.keys_path == tmp_path / "home" / "keys"


def test_precedence_and_origin_of_each_layer(tmp_path: Path) -> None:
    text = '[node]\nauthority = "pea"\n'
    key = "network.max_peers"
    steps = [
        (load(tmp_path), 50, "default"),
        (load(tmp_path, text), 100, "preset pea.toml:15"),
        (load(tmp_path, text + "[network]\nmax_peers = 7\n"), 7, "config.toml:4"),
        (
            load(tmp_path, GRIDTOKENX_NETWORK__MAX_PEERS="8"),
            8,
            "environment GRIDTOKENX_NETWORK__MAX_PEERS",
        ),
        (load(tmp_path, None, {key: 9}, GRIDTOKENX_NETWORK__MAX_PEERS="8"), 9, "flag"),
    ]
    for loaded, value, origin in steps:
        assert (loaded.value(key), loaded.origin(key)) == (value, origin)
    assert steps[-1][0].origin("node.authority") == "config.toml:2"
    assert load(tmp_path, None, {key: None}).origin(key) == "config.toml:4"


def test_environment_values_take_the_settings_type(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        GRIDTOKENX_API__PORT="18080",
        GRIDTOKENX_CONSENSUS__VOTE="false",
        GRIDTOKENX_NETWORK__REGIONS="MET, NOR",
        GRIDTOKENX_NETWORK__LISTEN='["/ip4/127.0.0.1/tcp/0"]',
        GRIDTOKENX_THAI_MARKET__PEAK_HOURS__PRICING_MULTIPLIER="2.25",
        GRIDTOKENX_NODE__NODE_ID="7",
        GRIDTOKENX_HOME="/ignored",
    )
    assert loaded.api.port == 18080
    assert loaded.consensus.vote is False
    assert loaded.network.regions == ("MET", "NOR")
    assert loaded.network.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert loaded.thai_market.peak_hours.pricing_multiplier == Decimal("2.25")
    assert loaded.node.node_id == "7"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "GRIDTOKENX_NETWORK__MAX_PEER",
            "3",
            "GRIDTOKENX_NETWORK__MAX_PEER is not a setting; did you",
        ),
        ("GRIDTOKENX_NET__X", "3", "[net] is not a section"),
        (
            "GRIDTOKENX_API__PORT",
            "many",
            'api.port must be a whole number from 0 to 65535, not "many"',
        ),
        ("GRIDTOKENX_API__PORT", "1\nx = 2", "api.port must be"),
        ("GRIDTOKENX_CONSENSUS__VOTE", "yes", "must be true or false"),
        ("GRIDTOKENX_LOG", "loud", "logging.level must be one of debug, info, warning, error"),
    ],
)
def test_the_environment_is_checked_too(tmp_path: Path, name: str, text: str, told: str) -> None:
    assert told in str(refused(tmp_path, **{name: text}))


def test_an_unknown_flag_is_an_error(tmp_path: Path) -> None:
    assert "flag api.prot is not a setting; did you mean port?" in str(
        refused(tmp_path, flags={"api.prot": 1})
    )


def test_rust_log_is_a_fallback_with_one_notice(tmp_path: Path) -> None:
    loaded = load(tmp_path, RUST_LOG="warn,libp2p=debug")
    assert (loaded.logging.level, loaded.origin("logging.level")) == (
        "warning",
        "environment RUST_LOG",
    )
    assert loaded.notices == (
        "RUST_LOG is taken as logging.level = warning; the name here is GRIDTOKENX_LOG",
    )
    loaded = load(tmp_path, RUST_LOG="debug", GRIDTOKENX_LOG="error")
    assert (loaded.logging.level, loaded.notices) == ("error", ())
    loaded = load(tmp_path, RUST_LOG="debug", GRIDTOKENX_LOGGING__LEVEL="error")
    assert loaded.logging.level == "error"
    loaded = load(tmp_path, RUST_LOG="libp2p=debug")
    assert (loaded.logging.level, len(loaded.notices)) == ("info", 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "node.example"])
def test_a_validator_does_not_serve_rpc_to_other_machines_by_accident(
    tmp_path: Path, host: str
) -> None:
    flags = {"api.host": host, "node.node_type": "validator"}
    error = refused(tmp_path, flags=flags)
    assert error.code == "GTX-API-001"
    assert str(error) == f"refusing to serve RPC on {host} from a validator"
    assert load(tmp_path, None, {**flags, "api.public": True}).api.host == host
    assert load(tmp_path, None, {**flags, "node.node_type": "observer"}).api.host == host
    authority = {"api.host": host, "node.authority": "egat"}
    assert refused(tmp_path, flags=authority).code == "GTX-API-001"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_hosts_are_safe(tmp_path: Path, host: str) -> None:
    flags = {"api.host": host, "node.node_type": "validator", "api.local_signer": "account"}
    assert load(tmp_path, None, flags).api.host == host


def test_a_node_that_signs_for_callers_does_not_answer_to_any_name(tmp_path: Path) -> None:
    flags = {"api.local_signer": "account", "api.hosts": ["*"]}
    assert refused(tmp_path, flags=flags).code == "GTX-API-002"


def test_a_node_signs_for_callers_only_on_loopback(tmp_path: Path) -> None:
    flags = {"api.host": "0.0.0.0", "api.local_signer": "account", "api.public": True}
    assert refused(tmp_path, flags=flags).code == "GTX-API-002"


def test_behind_a_reverse_proxy_loopback_is_no_longer_safe(tmp_path: Path) -> None:
    proxied = {"api.trusted_proxies": ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]}
    assert len(load(tmp_path, None, proxied).api.trusted_proxies) == 3
    validator = {**proxied, "node.node_type": "validator"}
    error = refused(tmp_path, flags=validator)
    assert error.code == "GTX-API-001"
    assert "127.0.0.1 behind a proxy" in str(error)
    signer = {**proxied, "api.local_signer": "account"}
    assert refused(tmp_path, flags=signer).code == "GTX-API-002"
    for wrong in ("10.0.0.1/8", "300.0.0.1", "proxy.example"):
        error = refused(tmp_path, flags={"api.trusted_proxies": [wrong]})
        assert (error.code, wrong in str(error)) == ("GTX-CFG-002", True)


@pytest.mark.parametrize("name", AUTHORITIES)
def test_every_authority_has_a_preset_that_loads(tmp_path: Path, name: str) -> None:
    loaded = load(tmp_path, None, {"node.authority": name})
    assert (loaded.node.node_type, loaded.node.authority) == ("authority", name)
    assert loaded.validates
    assert loaded.origin("node.node_type").startswith(f"preset {name}.toml:")
    assert loaded.network.listen
    assert loaded.api.host == "127.0.0.1"


def test_the_homes_own_preset_wins_and_must_be_the_authoritys(tmp_path: Path) -> None:
    own = tmp_path / "authorities" / "mea.toml"
    own.parent.mkdir()
    own.write_text('[node]\nnode_type = "authority"\n[api]\nport = 9999\n')
    assert load(tmp_path, None, {"node.authority": "mea"}).api.port == 9999
    own.write_text('[node]\nauthority = "pea"\n')
    assert "is of pea, not of mea" in str(refused(tmp_path, flags={"node.authority": "mea"}))


def test_a_named_bootstrap_folder_is_looked_in_first(tmp_path: Path) -> None:
    environ = {"GRIDTOKENX_BOOTSTRAP": str(tmp_path)}
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "erc.toml").write_text("[api]\nport = 1\n")
    assert (
        bootstrap_files.find("authorities/erc.toml", environ)
        == tmp_path / "authorities" / "erc.toml"
    )
    assert bootstrap_files.find("authorities/mea.toml", environ) == bootstrap_files.find(
        "authorities/mea.toml", {}
    )
    assert bootstrap_files.find("authorities/nobody.toml", environ) is None


def test_the_template_is_valid_and_shows_every_default(tmp_path: Path) -> None:
    text = config.template()
    assert load(tmp_path, text).origins == dict.fromkeys(SETTINGS, "default")
    spoken = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in text.splitlines()
    )
    loaded = load(tmp_path, spoken)
    for key, setting in SETTINGS.items():
        assert loaded.value(key) == setting.default
        assert loaded.origin(key).startswith("config.toml:")
    assert all(f"[{section}]" in text for section in SECTIONS)


def test_the_template_sets_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    values = {"node.node_id": "n1", "network.regions": ["MET"], "api.port": 0}
    config.write_template(path, values)
    loaded = load(tmp_path)
    assert (loaded.node.node_id, loaded.network.regions, loaded.api.port) == ("n1", ("MET",), 0)
    with pytest.raises(ConfigError, match="exists already"):
        config.write_template(path)
    config.write_template(path, force=True)
    assert load(tmp_path).node.node_id == SETTINGS["node.node_id"].default


@given(text=st.text(max_size=30))
def test_texts_survive_being_written_as_toml(text: str) -> None:
    assert tomllib.loads(f"x = {config.format_value(text)}") == {"x": text}
