"""Points, bans and their bounds, with a clock in the test's hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.network.peers import reputation as module
from gridtokenx.network.peers.reputation import (
    ADDRESS_BAN_MS,
    BANNED_PER_ADDRESS,
    HALF_LIFE_MS,
    LONGEST_BAN_MS,
    MAX_BANS,
    MAX_STANDINGS,
    OFFENCES,
    TRUSTED_BAN_MS,
    Reputation,
    address_group,
    is_loopback_group,
)

PEER = b"peer"
MINUTE_MS = 60_000


class World:
    def __init__(self, **options) -> None:
        self.now_ms = 1_800_000_000_000
        self.reputation = Reputation(lambda: self.now_ms, **options)

    def length_of_next_ban_ms(self, offence: str = "invalid_block") -> int:
        ban = self.reputation.report(PEER, offence)
        assert ban is not None
        assert self.reputation.refuses(PEER)
        self.now_ms = ban.until_ms
        assert not self.reputation.refuses(PEER)
        return ban.until_ms - ban.since_ms


def test_points_add_up_to_a_ban() -> None:
    world = World()
    for count in range(1, 10):
        assert world.reputation.report(PEER, "malformed_request") is None
        assert world.reputation.score(PEER) == -10 * count
    ban = world.reputation.report(PEER, "malformed_request", ip="192.0.2.1")
    assert ban is not None
    assert (ban.peer, ban.address, ban.reason) == (PEER, "192.0.2.1", "malformed_request")
    assert world.reputation.offences(PEER) == {"malformed_request": 10}
    assert world.reputation.refuses(PEER)
    assert not world.reputation.refuses(b"another")
    assert world.reputation.banned == {"malformed_request": 1}


def test_points_halve_in_ten_minutes() -> None:
    world = World()
    world.reputation.report(PEER, "malformed_response")
    world.now_ms += HALF_LIFE_MS
    assert world.reputation.score(PEER) == -25
    world.now_ms += HALF_LIFE_MS
    assert world.reputation.score(PEER) == -12.5
    assert world.reputation.score(b"unknown") == 0


def test_bans_grow_and_are_forgiven_after_a_good_day() -> None:
    world = World()
    hour_ms = OFFENCES["invalid_block"].ban_ms
    lengths = [world.length_of_next_ban_ms() for _ in range(4)]
    assert lengths == [hour_ms, 4 * hour_ms, 16 * hour_ms, LONGEST_BAN_MS]
    world.now_ms += module.FORGIVEN_AFTER_MS
    assert world.length_of_next_ban_ms() == hour_ms


def test_an_honest_mistake_does_not_escalate() -> None:
    world = World()
    lengths = {world.length_of_next_ban_ms("wrong_genesis") for _ in range(5)}
    assert lengths == {300_000}


def test_a_trusted_peer_is_back_after_a_minute() -> None:
    world = World()
    world.reputation.trust(PEER)
    assert {world.length_of_next_ban_ms() for _ in range(5)} == {TRUSTED_BAN_MS}


def banned_from(world: World, ip: str, count: int, offence: str = "malformed_status") -> None:
    for number in range(count):
        world.reputation.report(b"%s %d" % (ip.encode(), number), offence, ip=ip)


@pytest.mark.parametrize(
    ("ip", "neighbour"), [("203.0.113.7", "203.0.113.7"), ("2001:db8:1:2::3", "2001:db8:1:2:f::1")]
)
def test_an_address_of_many_banned_identities_is_banned(ip: str, neighbour: str) -> None:
    world = World()
    banned_from(world, ip, BANNED_PER_ADDRESS - 1)
    assert not world.reputation.refuses_address(ip)
    world.reputation.report(b"the last", "malformed_status", ip=neighbour)
    assert world.reputation.refuses_address(ip)
    assert world.reputation.refuses_address(neighbour)
    assert not world.reputation.refuses_address("203.0.113.8")
    world.now_ms += ADDRESS_BAN_MS
    assert not world.reputation.refuses_address(ip)


def test_loopback_and_mistaken_peers_are_not_judged_together() -> None:
    world = World()
    banned_from(world, "127.0.0.1", 10)
    banned_from(world, "::1", 10)
    banned_from(world, "192.0.2.9", 10, "wrong_genesis")
    for ip in ("127.0.0.1", "::1", "192.0.2.9"):
        assert not world.reputation.refuses_address(ip)
    strict = World(exempt_loopback=False)
    banned_from(strict, "127.0.0.1", BANNED_PER_ADDRESS)
    assert strict.reputation.refuses_address("127.0.0.1")


def test_the_operator_bans_and_lifts() -> None:
    world = World()
    changes: list[int] = []
    world.reputation.on_change = lambda: changes.append(1)
    world.reputation.ban(PEER, 30 * 24 * 60 * MINUTE_MS)
    world.reputation.ban("2001:db8::1", MINUTE_MS, "a nuisance")
    assert [ban.reason for ban in world.reputation.bans()] == ["a nuisance", "operator"]
    assert world.reputation.unban("2001:db8::ffff")  # the same /64
    assert world.reputation.unban(PEER)
    assert not world.reputation.unban(PEER)
    assert world.reputation.bans() == ()
    assert len(changes) == 4


def test_bans_survive_a_restart() -> None:
    first = World()
    banned_from(first, "203.0.113.7", BANNED_PER_ADDRESS)
    first.reputation.ban(PEER, MINUTE_MS)
    text = json.dumps(first.reputation.dump())
    second = World()
    second.now_ms = first.now_ms + 1_000
    second.reputation.load(json.loads(text))
    assert second.reputation.bans() == first.reputation.bans()
    assert second.reputation.refuses_address("203.0.113.7")
    # The next ban of one that was banned before is a longer one.
    second.now_ms += 6 * MINUTE_MS
    ban = second.reputation.report(b"203.0.113.7 0", "malformed_status")
    assert ban is not None
    assert ban.until_ms - ban.since_ms == 4 * OFFENCES["malformed_status"].ban_ms


def test_a_clock_that_was_wrong_does_not_ban_for_years() -> None:
    ahead = World()
    ahead.now_ms += 10 * 365 * 24 * 60 * MINUTE_MS
    ahead.reputation.report(PEER, "invalid_block")
    world = World()
    world.reputation.load(ahead.reputation.dump())
    assert world.reputation.refuses(PEER)
    world.now_ms += LONGEST_BAN_MS
    assert not world.reputation.refuses(PEER)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"bans": [], "repeaters": []},
        {"bans": [{}], "repeaters": {}},
        {"bans": [{"peer": "zz"}], "repeaters": {}},
        {"bans": [], "repeaters": {"00": 1}},
        {
            "bans": [{"peer": None, "address": None, "reason": "", "since_ms": 0, "until_ms": 0}],
            "repeaters": {},
        },
    ],
)
def test_what_is_no_list_of_bans_is_refused_whole(document: object) -> None:
    world = World()
    with pytest.raises(ValueError, match="not a list of bans"):
        world.reputation.load(document)  # type: ignore[arg-type]
    assert world.reputation.bans() == ()


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STANDINGS", 50)
    monkeypatch.setattr(module, "MAX_BANS", 20)
    world = World()
    for number in range(200):
        world.now_ms += 1
        world.reputation.report(number.to_bytes(4, "big"), "invalid_block", ip="192.0.2.1")
    assert len(world.reputation.bans()) == 20
    assert len(world.reputation.dump()["repeaters"]) <= 50
    assert world.reputation.refuses((199).to_bytes(4, "big"))
    assert MAX_STANDINGS > MAX_BANS


@given(
    events=st.lists(
        st.tuples(st.sampled_from(sorted(OFFENCES)), st.binary(min_size=1, max_size=1)),
        max_size=60,
    ),
    step_ms=st.integers(0, HALF_LIFE_MS),
)
def test_a_score_is_never_above_zero_nor_below_a_ban(events, step_ms) -> None:
    world = World()
    for offence, peer in events:
        world.reputation.report(peer, offence, ip="203.0.113.1")
        assert -100 < world.reputation.score(peer) <= 0
        world.now_ms += step_ms
    restored = World()
    restored.now_ms = world.now_ms
    restored.reputation.load(world.reputation.dump())
    assert restored.reputation.bans() == world.reputation.bans()


def test_address_groups() -> None:
    assert address_group("192.0.2.1") == "192.0.2.1"
    assert address_group("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_group("fe80::1%eth0") == "fe80::/64"
    assert address_group("nonsense") == "nonsense"
    assert is_loopback_group("127.8.0.1")
    assert is_loopback_group(address_group("::1"))
    assert not is_loopback_group("192.0.2.1")
    assert not is_loopback_group("nonsense")
