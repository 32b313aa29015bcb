"""Places for connections and bytes held for them, with a clock in the test's hand."""

from __future__ import annotations

import pytest

from gridtokenx.api import connections
from gridtokenx.api.connections import HeldBytes, Place, Places


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MAX_CONNECTIONS": 20,
        "LOOPBACK_PLACES": 4,
        "PROBE_PLACES": 2,
        "MAX_PER_ADDRESS": 5,
        "MAX_PER_OWN_ADDRESS": 8,
        "CONNECT_BURST": 1000,
    }.items():
        monkeypatch.setattr(connections, name, value)


def enter(places: Places, ip: str, count: int, *, busy: bool = False) -> list[Place]:
    found = []
    for number in range(count):
        place = places.admit(ip, float(number))
        assert place is not None
        if busy:
            place.work()
        found.append(place)
    return found


def test_an_address_that_has_its_fill_gives_up_its_own_that_waits_longest() -> None:
    places = Places()
    (other,) = enter(places, "192.0.2.9", 1)
    first, *rest = enter(places, "192.0.2.1", 5)
    rest[0].work()
    dropped: list[str] = []
    first.drop = lambda: dropped.append("first")
    newcomer = places.admit("192.0.2.1", 10.0)
    assert newcomer is not None
    assert not newcomer.probe_only
    assert dropped == ["first"]
    assert [one.dropped for one in (first, *rest, other)] == [True, *[False] * 4, False]
    places.admit("192.0.2.1", 11.0)
    assert [one.dropped for one in rest] == [False, True, False, False]  # Not the busy one.
    assert len(places) == 6


def test_who_is_answered_is_never_dropped_and_then_one_may_only_probe() -> None:
    places = Places()
    busy = enter(places, "192.0.2.1", 5, busy=True)
    probes = enter(places, "192.0.2.1", 2)
    assert [one.probe_only for one in probes] == [True, True]
    assert probes[0].deadline_s == connections.PROBE_S
    third = places.admit("192.0.2.1", 5.0)
    assert third is not None
    assert [one.dropped for one in probes] == [True, False]
    for one in (probes[1], third):
        one.work()
    assert places.admit("192.0.2.1", 6.0) is None
    assert not any(one.dropped for one in busy)
    assert places.admit("192.0.2.2", 6.0) is not None  # Another address has its own.


def test_who_has_just_come_has_a_chance_to_ask() -> None:
    """A health check among a flood: its place is not given away before it could be read."""
    places = Places()
    enter(places, "192.0.2.1", 4, busy=True)
    asking = places.admit("192.0.2.1", 10.0)
    flood = [places.admit("192.0.2.1", 10.0 + at / 100) for at in range(3)]
    assert [one.probe_only for one in flood if one] == [True, True, False]
    assert asking is not None
    assert asking.dropped  # Only when no place to probe was left.
    assert flood[2] is not None
    assert places.admit("192.0.2.1", 10.2) is not None
    assert flood[2].dropped


def test_many_addresses_leave_places_for_this_machine() -> None:
    places = Places()
    strangers = [enter(places, f"192.0.2.{number}", 2, busy=True) for number in range(7)]
    assert not any(one.probe_only for pair in strangers for one in pair)  # 14 of 20 - 2 - 4.
    stranger = places.admit("198.51.100.1", 9.0)
    assert stranger is not None
    assert stranger.probe_only
    own = [places.admit(ip, 9.0) for ip in ("127.0.0.1", "::1", "127.0.0.1", "::ffff:127.0.0.1")]
    assert [one.probe_only for one in own if one] == [False] * 4
    assert {one.group for one in own if one} == {connections.LOOPBACK}
    late = places.admit("127.0.0.1", 9.5)
    assert late is not None
    assert not late.probe_only  # It has the place of the one of this machine that waited longest.
    assert own[0] is not None
    assert own[0].dropped


def test_when_all_is_full_the_address_with_the_most_gives_one_up() -> None:
    places = Places()
    for number in range(2):
        enter(places, f"192.0.2.{number}", 1)
    greedy = enter(places, "198.51.100.1", 5)
    for number in range(7):
        enter(places, f"203.0.113.{number}", 1, busy=True)
    newcomer = places.admit("203.0.113.99", 50.0)
    assert newcomer is not None
    assert not newcomer.probe_only
    assert [one.dropped for one in greedy] == [True, *[False] * 4]


def test_addresses_of_an_ipv6_network_are_one_and_a_proxy_may_have_many() -> None:
    places = Places(lambda ip: ip == "203.0.113.1")
    enter(places, "2001:db8::1", 3, busy=True)
    enter(places, "2001:db8::2", 2, busy=True)
    full = places.admit("2001:db8::3", 0.0)
    assert full is not None
    assert full.probe_only
    assert not any(one.probe_only for one in enter(places, "203.0.113.1", 8, busy=True))


def test_an_address_that_connects_too_often_is_turned_away() -> None:
    places = Places()
    hasty = connections.TokenBuckets[str](1, 3, 10)
    places._connects = hasty
    for _ in range(3):
        place = places.admit("192.0.2.1", 0.0)
        assert place is not None
        places.leave(place)
    assert places.admit("192.0.2.1", 0.0) is None
    assert places.admit("127.0.0.1", 0.0) is not None
    assert places.admit("192.0.2.1", 1.0) is not None


def test_deadlines_and_leaving() -> None:
    places = Places()
    silent, working = enter(places, "192.0.2.1", 2)
    working.work()
    places.drop_late(connections.SAY_SOMETHING_S)
    assert (silent.dropped, working.dropped) == (True, False)
    places.leave(silent)
    places.leave(silent)
    assert len(places) == 1
    working.wait(100.0, 30.0)
    places.drop_late(129.0)
    assert len(places) == 1
    places.drop_late(130.0)
    assert len(places) == 0
    assert places._groups == {}


def test_bytes_are_shared_by_addresses() -> None:
    def place(group: str, *, is_own: bool = False) -> Place:
        return Place(group, is_own, False, 0.0, None)

    held = HeldBytes(100, 25)
    assert held.take(place("a"), 25)
    assert not held.take(place("a"), 1)
    assert held.take(place("b"), 20)
    assert held.take(place(connections.LOOPBACK, is_own=True), 55)
    assert not held.take(place("c"), 1)
    held.give_back(place("a"), 25)
    assert held.take(place("c"), 25)
    for name, size in (("b", 20), ("c", 25), (connections.LOOPBACK, 55)):
        held.give_back(place(name), size)
    assert (held.total_held, held._held) == (0, {})


def test_time_for_bytes_grows_with_them() -> None:
    assert connections.seconds_for(0) == 10.0
    assert connections.seconds_for(2**20) == 74.0
