"""The peers a node has met, with a clock in the test's hand."""

import json

import pytest

from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.peer_book import FORGOTTEN_AFTER_MS, MAX_PEERS, PeerBook

A, B = PeerId(b"a"), PeerId(b"b")
WHERE = ("/ip4/192.0.2.1/tcp/9000/p2p/12D3",)


class World:
    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000
        self.book = PeerBook(lambda: self.now_ms)


def test_who_was_met_survives_a_restart() -> None:
    first = World()
    changes: list[int] = []
    first.book.on_change = lambda: changes.append(1)
    first.book.note(A, WHERE, "gridtokenx/0.1.0")
    first.now_ms += 1_000
    first.book.note(B, WHERE, "js-libp2p")
    first.book.note_failure(A)
    assert len(changes) == 3
    second = World()
    second.now_ms = first.now_ms + 1_000
    second.book.load(json.loads(json.dumps(first.book.dump())))
    assert second.book.peers() == first.book.peers()
    assert list(second.book.peers()) == [B, A]  # the one seen last first
    assert second.book.peers()[A].failures == 1
    second.book.note(A, WHERE, "gridtokenx/0.1.0")
    assert second.book.peers()[A].failures == 0


def test_peers_without_an_address_and_peers_of_long_ago_are_not_kept() -> None:
    world = World()
    world.book.note(A, (), "nobody")
    world.book.note(B, WHERE, "somebody")
    assert list(world.book.peers()) == [B]
    world.now_ms += FORGOTTEN_AFTER_MS + 1
    assert world.book.peers() == {}


def test_a_peer_that_stays_for_months_is_kept_and_outlives_a_flood_of_strangers() -> None:
    world, changes = World(), []
    world.book.on_change = lambda: changes.append(world.now_ms)
    world.book.note(A, WHERE, "stays")
    world.now_ms += FORGOTTEN_AFTER_MS + 1
    assert world.book.addresses(A) == ()
    world.book.see([A, B])
    world.book.see([A, B])
    assert len(changes) == 2  # It is written again, but not at each sight.
    world.now_ms -= FORGOTTEN_AFTER_MS  # The clock was a month ahead, and is set right.
    world.book.see([A, B])
    assert len(changes) == 3
    assert world.book.addresses(A) == WHERE
    for number in range(10 * MAX_PEERS):
        world.now_ms += 1
        world.book.note(PeerId(b"%d" % number), WHERE, "passes")
        if number % (MAX_PEERS // 2) == 0:
            world.book.see([A])
    assert world.book.addresses(A) == WHERE
    assert world.book.addresses(B) == ()


def test_the_book_is_bounded() -> None:
    world = World()
    for number in range(MAX_PEERS + 50):
        world.now_ms += 1
        world.book.note(PeerId(b"%d" % number), WHERE * 20, "x" * 1_000)
    found = world.book.peers()
    assert len(found) == MAX_PEERS
    assert PeerId(b"0") not in found
    met = found[PeerId(b"349")]
    assert (len(met.addresses), len(met.agent)) == (8, 64)


@pytest.mark.parametrize(
    "document", [None, [], {}, {"peers": 1}, {"peers": [{}]}, {"peers": [{"peer": "zz"}]}]
)
def test_what_is_no_book_is_refused_whole(document: object) -> None:
    world = World()
    with pytest.raises(ValueError, match="not a list of peers"):
        world.book.load(document)  # type: ignore[arg-type]
    assert world.book.peers() == {}
