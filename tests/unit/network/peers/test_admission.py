"""Slots, limits for each address and the allow-list, without sockets."""

import pytest

from gridtokenx.network.peers import admission as module
from gridtokenx.network.peers.admission import NEW_PER_MINUTE, WINDOW_S, Admission, Limits
from gridtokenx.network.peers.reputation import Reputation

IP = "203.0.113.7"


def admission(**changes) -> Admission:
    reputation = Reputation(lambda: 1_800_000_000_000)
    return Admission(Limits(**changes), reputation)


def test_connections_of_one_address_are_bounded() -> None:
    door = admission(max_connections_per_ip=2)
    assert [door.knock(IP, 0) for _ in range(3)] == [None, None, "address_full"]
    assert door.knock("203.0.113.8", 0) is None
    door.leave(IP)
    assert door.knock(IP, 0) is None
    assert door.knock("2001:db8::1", 0) is None
    assert door.knock("2001:db8::2", 0) is None
    assert door.knock("2001:db8::3", 0) == "address_full"  # the same /64


def test_new_connections_of_one_address_are_bounded_in_time() -> None:
    door = admission()
    for second in range(NEW_PER_MINUTE):
        assert door.knock(IP, second / 10) is None
        door.leave(IP)
    assert door.knock(IP, 10) == "address_rate"
    assert door.knock(IP, WINDOW_S) is None


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_exempt_unless_it_is_set(ip: str) -> None:
    door = admission(max_connections_per_ip=1)
    assert {door.knock(ip, 0) for _ in range(500)} == {None}
    strict = admission(max_connections_per_ip=1, limit_loopback=True)
    assert [strict.knock(ip, 0) for _ in range(2)] == [None, "address_full"]


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WINDOWS", 10)
    door = admission()
    for number in range(100):
        ip = f"198.51.100.{number}"
        assert door.knock(ip, 0) is None
        door.leave(ip)
    assert len(door._windows) == 10
    assert len(door._open) == 0


def test_a_banned_address_and_a_banned_peer_are_refused() -> None:
    door = admission()
    door.reputation.ban(IP, 1_000)
    door.reputation.ban(b"peer", 1_000)
    assert door.knock(IP, 0) == "banned"
    assert door.refusal(b"other", IP, "outbound", []) == "banned"
    assert door.refusal(b"peer", None, "inbound", []) == "banned"


@pytest.mark.parametrize(
    ("direction", "connected", "reason"),
    [
        ("inbound", ["inbound"], None),
        ("inbound", ["inbound", "inbound"], "full"),
        ("outbound", ["inbound", "inbound"], None),
        ("outbound", ["inbound", "outbound"], "full"),
        ("inbound", ["inbound", "outbound", "outbound"], "full"),
    ],
)
def test_slots_in_and_out_are_apart(direction, connected, reason) -> None:
    door = admission(max_peers=3, max_inbound=2, max_outbound=1)
    assert door.refusal(b"peer", None, direction, connected) == reason
    door.protected.add(b"peer")
    assert door.refusal(b"peer", None, direction, connected) is None


def test_the_allow_list_lets_nobody_else_in() -> None:
    door = admission(allow=frozenset({b"friend"}))
    door.protected.add(b"bootnode")
    for peer, reason in ((b"friend", None), (b"bootnode", None), (b"other", "not_allowed")):
        assert door.refusal(peer, None, "inbound", []) == reason


def test_whose_share_of_the_budget_a_peers_work_is() -> None:
    door = admission()
    door.protected.add(b"named")
    door.authorities = frozenset([b"vouched for"])
    assert door.source_of(b"named", IP) is None
    assert door.source_of(b"vouched for", None) is None
    assert door.source_of(b"any", IP) == door.source_of(None, IP) == IP
    assert door.source_of(b"any", "2001:db8::1") == "2001:db8::/64"
    assert door.source_of(None, "127.0.0.1") == "127.0.0.1"
    assert door.source_of(b"\x01", "127.0.0.1") == door.source_of(b"\x01", None) == "01"
