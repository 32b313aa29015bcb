"""One reading of addresses: what the configuration takes is what a node can use."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from gridtokenx.cli import output
from gridtokenx.home.config import ConfigError, load_config
from gridtokenx.home.settings import SETTINGS, check_value
from gridtokenx.network.host import (
    ID,
    HostSettings,
    format_peer_id,
    parse_address,
    parse_peer_id,
)
from gridtokenx.network.peers import addresses

PEER = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"
HASHED = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
HOSTS = (
    *("ip4/0.0.0.0", "ip4/192.0.2.1", "ip4/256.0.0.1", "ip4/01.2.3.4", "ip4/a", "ip4/"),
    *("ip6/::", "ip6/2001:db8::1", "ip6/fe80::1%eth0", "ip6/192.0.2.1", "dns/node.example"),
    *("dns4/node.example", "dns6/a b", "dns4/ไทย.example", "dns4/..", "dnsaddr/x", "unix/x", ""),
)
PORTS = (
    *("tcp/9000", "tcp/0", "tcp/65535", "tcp/65536", "tcp/99999", "tcp/1_0", "tcp/ 1", "tcp/+1"),
    *("tcp/-1", "tcp/٣", "tcp/09000", "tcp/000001", "tcp/", "udp/9000", "udp/1/quic-v1", "tcp"),
)
ENDS = (
    *("", "/", "/ws", "/wss", "/tls/ws", "/tls", f"/p2p/{PEER}", f"/ws/p2p/{PEER}", "/p2p/x"),
    *(f"/p2p/1{PEER}", f"/p2p/{HASHED}", f"/p2p/{PEER}/p2p-circuit", "/p2p", f"/ipfs/{PEER}"),
)
made = st.builds(
    lambda host, port, end: f"/{host}/{port}{end}",
    st.sampled_from(HOSTS),
    st.sampled_from(PORTS),
    st.sampled_from(ENDS),
)
texts = made | st.text(max_size=60) | made.flatmap(lambda text: st.just(text).map(str.upper))


def takes(use, *given_) -> bool:
    try:
        use(*given_)
    except ValueError:
        return False
    return True


def configured(key: str, text: str) -> bool:
    return takes(check_value, SETTINGS[f"network.{key}"], [text])


@given(texts)
@example("/ip4/127.0.0.1/tcp/99999")
def test_what_the_configuration_takes_the_node_takes_and_nothing_else(text: str) -> None:
    seed = bytes(32)
    assert configured("listen", text) == takes(lambda: HostSettings(seed, listen=(text,)))
    assert configured("announce", text) == takes(
        lambda: HostSettings(seed, listen=(), announce=(text,))
    )
    for key in ("bootstrap", "persistent"):
        assert configured(key, text) == takes(parse_address, text)
    if configured("listen", text):  # As the swarm binds it.
        listening = addresses.parse_listen(text)
        assert listening.value_for_protocol(listening.protocols()[0].name)
        assert 0 <= int(listening.value_for_protocol("tcp")) < 65536
    if configured("bootstrap", text):
        peer, where = parse_address(text)
        assert Multiaddr(f"{where}/p2p/{format_peer_id(peer)}") == Multiaddr(text)


@given(st.sampled_from([PEER, HASHED, "", "1", "12D3KooWl0", "x" * 200]) | st.text(max_size=70))
def test_peer_ids_of_settings_are_those_of_the_network(text: str) -> None:
    assert configured("allow", text) == takes(parse_peer_id, text)
    if configured("allow", text):
        assert ID.from_base58(text).to_bytes() == addresses.parse_peer_id(text)


@pytest.mark.parametrize("text", [PEER, HASHED])
def test_both_kinds_of_peer_ids(text: str) -> None:
    assert addresses.parse_peer_id(text) == ID.from_base58(text).to_bytes()
    for wrong in (text[:-1], text + "1", "1" + text, text.replace("o", "0"), text.upper()):
        with pytest.raises(ValueError, match="no valid peer id"):
            addresses.parse_peer_id(wrong)


@pytest.mark.parametrize(
    ("use", "good"),
    [
        (addresses.parse_listen, "/ip6/::/tcp/0/ws"),
        (addresses.parse_announced, "/dns4/node.example/tcp/443/tls/ws"),
        (addresses.parse_announced, f"/ip4/192.0.2.1/tcp/9000/ws/p2p/{PEER}"),
        (addresses.parse_peer, f"/dns4/node.example/tcp/9000/p2p/{PEER}"),
    ],
)
def test_good_ones(use, good: str) -> None:
    assert use(good)


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("listen", "/ip4/0.0.0.0/tcp/99999", "has the port '99999': one is 0 to 65535"),
        ("announce", "/ip4/192.0.2.1/tcp/99999", "has the port '99999'"),
        ("bootstrap", f"/ip4/192.0.2.1/tcp/99999/p2p/{PEER}", "has the port '99999'"),
        ("persistent", f"/ip4/192.0.2.1/tcp/99999/p2p/{PEER}", "has the port '99999'"),
        ("announce", "/ip4/0.0.0.0/tcp/9000", "has the host 0.0.0.0, which nobody can dial"),
        ("bootstrap", f"/ip4/192.0.2.1/tcp/0/p2p/{PEER}", "the port 0, which nobody can dial"),
        ("bootstrap", f"/ip4/192.0.2.1/tcp/9000/ws/p2p/{PEER}", "a WebSocket is for browsers"),
        ("listen", "/ip4/300.0.0.1/tcp/9000", "is no multiaddr"),
    ],
)
@pytest.mark.parametrize("words", [("config", "validate"), ("start", "--dry-run"), ("start",)])
def test_a_wrong_address_is_told_by_every_command(
    tmp_path: Path, key: str, text: str, why: str, words: tuple[str, ...]
) -> None:
    from typer.testing import CliRunner

    from gridtokenx.cli import app

    (tmp_path / "config.toml").write_text(f'[network]\n{key} = ["{text}"]\n')
    ran = CliRunner().invoke(app, ["--home", str(tmp_path), *words])
    assert ran.exit_code == output.ExitCode.CONFIG
    assert f"config.toml:2 network.{key} must look like" in ran.stderr
    assert why in ran.stderr


def test_two_trusted_blocks_of_one_height_are_told_before_a_start(tmp_path: Path) -> None:
    blocks = [f"TH:7:{'0' * 64}", f"TH:7:{'1' * 64}"]
    (tmp_path / "config.toml").write_text(f"[sync]\ntrusted_blocks = {blocks}\n")
    with pytest.raises(ConfigError, match="names two blocks 7 of TH"):
        load_config(tmp_path)
