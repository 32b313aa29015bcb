"""Which announced addresses are dialled, and how often one place is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from gridtokenx.network import dialling as module
from gridtokenx.network.dialling import (
    DIALS_OF_A_TARGET,
    SECONDS_PER_DIAL,
    DialRules,
    decode_address,
    kind_of,
    parse_address,
    parse_peer_id,
)

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ALL_KINDS = DialRules(allow_private=True)
PUBLIC_ONLY = DialRules()


@pytest.mark.parametrize(
    ("ip", "kind"),
    [
        ("8.8.8.8", "public"),
        ("2a00:1450:4001::1", "public"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.31.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),  # behind a provider's NAT
        ("fd00::1", "private"),
        ("0.0.0.0", None),
        ("0.1.2.3", None),
        ("::", None),
        ("169.254.169.254", None),  # what a cloud tells its machines their secrets by
        ("fe80::1", None),
        ("224.0.0.251", None),
        ("ff02::1", None),
        ("192.0.2.1", None),
        ("198.51.100.1", None),
        ("203.0.113.1", None),
        ("2001:db8::1", None),
        ("198.18.0.1", None),
        ("240.0.0.1", None),
        ("255.255.255.255", None),
        ("::ffff:127.0.0.1", None),
        ("::ffff:8.8.8.8", None),
        ("2002:7f00:1::1", None),  # 6to4 of 127.0.0.1
        ("64:ff9b::7f00:1", None),
        ("not an address", None),
    ],
)
def test_the_kind_of_an_address(ip: str, kind: str | None) -> None:
    assert kind_of(ip) == kind


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/8.8.8.8/tcp/0",
        "/ip4/8.8.8.8/udp/9000",
        "/ip4/8.8.8.8/tcp/9000/ws",
        "/ip4/8.8.8.8/udp/9000/quic-v1",
        "/dns4/localhost/tcp/9000",
        "/dns/example.com/tcp/9000",
        f"/ip4/8.8.8.8/tcp/9000/p2p/{PEER}/p2p-circuit",
        f"/p2p/{PEER}",
        "/unix/tmp",
        "/ip4/169.254.169.254/tcp/80",
    ],
)
def test_what_is_never_dialled_of_what_others_tell(address: str) -> None:
    assert not ALL_KINDS.may_dial(Multiaddr(address))


@pytest.mark.parametrize(
    ("own", "private", "loopback"),
    [
        ((), False, False),
        (("/ip4/0.0.0.0/tcp/9000", "/ip6/::/tcp/9000"), False, False),
        (("/ip4/0.0.0.0/tcp/9000", "/dns4/node.example/tcp/9000"), False, False),
        (("/ip4/127.0.0.1/tcp/9000",), False, True),
        (("/ip4/10.1.2.3/tcp/9000", "/ip4/0.0.0.0/tcp/9001/ws"), True, False),
    ],
)
def test_addresses_of_the_nodes_own_kinds_are_dialled(
    own: tuple[str, ...], private: bool, loopback: bool
) -> None:
    rules = DialRules(own)
    assert rules.may_dial(Multiaddr("/ip4/8.8.8.8/tcp/9000"))
    assert rules.may_dial(Multiaddr(f"/ip4/8.8.8.8/tcp/9000/p2p/{PEER}"))
    assert rules.may_dial(Multiaddr("/ip4/192.168.7.7/tcp/9000")) == private
    assert rules.may_dial(Multiaddr("/ip6/fd00::7/tcp/9000")) == private
    assert rules.may_dial(Multiaddr("/ip4/127.0.0.1/tcp/22")) == loopback


def test_a_setting_decides_where_it_is_set() -> None:
    lan = Multiaddr("/ip4/10.1.2.3/tcp/9000")
    assert DialRules(allow_private=True).may_dial(lan)
    refusing = DialRules([str(lan)], allow_private=False)
    refusing.note_own(lan)
    assert not refusing.may_dial(lan)
    asking = DialRules()
    asking.note_own(lan)  # a bootnode there
    assert asking.may_dial(Multiaddr("/ip4/10.1.2.4/tcp/9000"))


def test_an_address_heard_in_a_local_network_may_be_dialled_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LOCAL_ADDRESSES", 2)
    heard = [Multiaddr(f"/ip4/192.168.1.{number}/tcp/9000") for number in range(4)]
    rules = DialRules(allow_private=False)
    for address in heard[:3]:
        rules.note_local(address)
    assert [rules.may_dial(address) for address in heard] == [False, True, True, False]
    assert rules.may_dial(Multiaddr(f"{heard[1]}/p2p/{PEER}"))


def test_one_place_is_knocked_at_in_vain_a_few_times_only() -> None:
    rules = DialRules()
    ports = [Multiaddr(f"/ip4/8.8.8.8/tcp/{port}") for port in range(1, 100)]
    assert sum(rules.begin(address, 0) for address in ports) == DIALS_OF_A_TARGET
    assert not rules.begin(ports[0], SECONDS_PER_DIAL * 0.9)
    assert rules.begin(ports[0], SECONDS_PER_DIAL * 1.1)
    assert rules.begin(Multiaddr("/ip4/8.8.4.4/tcp/1"), 0)
    v6 = [Multiaddr(f"/ip6/2a00:1450:4001::{number}/tcp/1") for number in range(1, 100)]
    assert sum(rules.begin(address, 0) for address in v6) == DIALS_OF_A_TARGET  # of one /64


def test_a_dial_that_finds_its_peer_does_not_count() -> None:
    rules = DialRules()
    address = Multiaddr("/ip4/8.8.8.8/tcp/9000")
    for _ in range(10 * DIALS_OF_A_TARGET):
        assert rules.begin(address, 0)
        rules.succeed(address, 0)


def test_on_one_machine_each_port_is_a_place() -> None:
    rules = DialRules(allow_private=True)
    for ip in ("127.0.0.1", "10.0.0.1"):
        ports = [Multiaddr(f"/ip4/{ip}/tcp/{port}") for port in range(1, 100)]
        assert all(rules.begin(address, 0) for address in ports)


@pytest.mark.parametrize("parse", [parse_peer_id, parse_address])
def test_text_that_is_too_long_is_refused_before_it_costs_anything(parse) -> None:
    with pytest.raises(ValueError, match=r"address|peer id"):
        parse("1" * 60_000)


@given(st.binary(max_size=60))
def test_any_bytes_that_are_a_multiaddr_are_judged(raw: bytes) -> None:
    address = decode_address(raw)
    if address is not None:
        ALL_KINDS.may_dial(address)
        assert str(address).startswith("/")
