"""The block fetcher: order, spread, limits, liars."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.chain.sync import (
    BLOCKS_PER_REQUEST,
    FULL_RESPONSE_BYTES,
    LOOKAHEAD_BLOCKS,
    MAX_BANNED,
    MAX_BUFFER_BYTES,
    MAX_IN_FLIGHT,
    MAX_PEERS,
    REQUEST_TIMEOUT_MS,
    ApplyBlock,
    BlocksReceived,
    Committed,
    Effect,
    Invalid,
    NotDelivered,
    PeerGone,
    PeerStatus,
    PenalisePeer,
    RequestBlocks,
    RequestFailed,
    Surveyed,
    Syncer,
    Tick,
    Unfounded,
)
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate


def certificate(height: int) -> QuorumCertificate:
    signatures = (IndexedSignature(0, bytes(64)),)
    return QuorumCertificate(Phase.COMMIT, height, 0, bytes(32), signatures)


def answer(request: RequestBlocks, count: int | None = None, size: int = 1) -> BlocksReceived:
    count = request.count if count is None else count
    heights = range(request.from_height, request.from_height + count)
    blocks = tuple((b"%d" % height * size, certificate(height)) for height in heights)
    return BlocksReceived(request.peer, request.from_height, blocks)


def requests(effects: list[Effect]) -> list[RequestBlocks]:
    return [effect for effect in effects if isinstance(effect, RequestBlocks)]


def applied(effects: list[Effect]) -> list[int]:
    return [effect.height for effect in effects if isinstance(effect, ApplyBlock)]


def test_a_level_chain_asks_nobody() -> None:
    syncer = Syncer(tip=10)
    assert syncer.handle(PeerStatus(b"a", 10), 0) == []
    assert (syncer.target, syncer.peers) == (10, 1)


def test_a_single_missing_block_is_left_to_consensus_for_a_moment() -> None:
    syncer = Syncer(tip=10, grace_ms=1000)
    syncer.handle(PeerStatus(b"a", 10), 0)
    assert syncer.handle(PeerStatus(b"a", 11), 5000) == []
    assert syncer.handle(Tick(), 5999) == []
    assert syncer.handle(Tick(), 6000) == [RequestBlocks(b"a", 11, 1)]
    late = Syncer(tip=10)
    assert late.handle(PeerStatus(b"a", 12), 1) == [RequestBlocks(b"a", 11, 2)]


def test_requests_are_spread_over_eight_peers() -> None:
    syncer = Syncer(tip=0)
    effects = [e for i in range(12) for e in syncer.handle(PeerStatus(b"%02d" % i, 1000), 1)]
    asked = requests(effects)
    assert len(asked) == MAX_IN_FLIGHT
    assert len({request.peer for request in asked}) == MAX_IN_FLIGHT
    starts = [1 + BLOCKS_PER_REQUEST * part for part in range(MAX_IN_FLIGHT)]
    assert [request.from_height for request in asked] == starts
    assert {request.count for request in asked} == {BLOCKS_PER_REQUEST}


def test_blocks_that_arrive_out_of_order_are_applied_in_order_one_at_a_time() -> None:
    syncer = Syncer(tip=0)
    (first,) = requests(syncer.handle(PeerStatus(b"a", 40), 1))
    (second,) = requests(syncer.handle(PeerStatus(b"b", 40), 1))
    assert applied(syncer.handle(answer(second), 2)) == []
    assert applied(syncer.handle(answer(first), 3)) == [1]
    assert applied(syncer.handle(Tick(), 4)) == []
    for height in range(1, 40):
        assert applied(syncer.handle(Committed(height), 5)) == [height + 1]
    assert syncer.handle(Committed(40), 6) == []


def test_consensus_may_overtake() -> None:
    syncer = Syncer(tip=0)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 5), 1))
    assert applied(syncer.handle(answer(request), 2)) == [1]
    assert applied(syncer.handle(Committed(3), 3)) == [4]
    assert syncer.handle(Committed(2), 4) == []
    assert syncer.tip == 3


def test_a_short_answer_is_completed_elsewhere() -> None:
    syncer = Syncer(tip=0)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 32), 1))
    assert requests(syncer.handle(PeerStatus(b"b", 32), 1)) == []
    again = requests(syncer.handle(answer(request, count=10), 2))
    assert again == [RequestBlocks(b"b", 11, 22)]


def test_more_than_asked_for_is_cut_off() -> None:
    syncer = Syncer(tip=0)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 3), 1))
    syncer.handle(answer(request, count=30), 2)
    assert sorted(syncer._buffer) == [1, 2, 3]


def test_a_bad_block_bans_its_author_and_is_fetched_elsewhere() -> None:
    syncer = Syncer(tip=0)
    (bad,) = requests(syncer.handle(PeerStatus(b"a", 32), 1))
    syncer.handle(answer(bad), 2)
    effects = syncer.handle(PeerStatus(b"b", 32), 3)
    assert effects == []
    effects = syncer.handle(Invalid(1, b"a", "forged certificate"), 4)
    assert effects == [PenalisePeer(b"a", "forged certificate"), RequestBlocks(b"b", 1, 32)]
    assert syncer.handle(PeerStatus(b"a", 99), 5) == []  # For the session.
    assert syncer.target == 32
    assert syncer.handle(Invalid(1, b"a", "again"), 6) == []


def test_an_empty_answer_lowers_what_a_peer_is_believed_to_have() -> None:
    syncer = Syncer(tip=0)
    (request,) = requests(syncer.handle(PeerStatus(b"liar", 2**60), 1))
    assert syncer.handle(answer(request, count=0), 2) == [NotDelivered(b"liar")]
    assert syncer.target == 0


def test_a_liar_that_comes_back_is_not_believed_again() -> None:
    syncer = Syncer(tip=7)
    now_ms = 0
    for _ in range(3):
        requests(syncer.handle(PeerStatus(b"liar", 2**60), now_ms))
        syncer.handle(PeerGone(b"liar"), now_ms)  # Leaves without what it was asked for.
        now_ms += 10_000
    for _ in range(3):
        syncer.handle(PeerStatus(b"liar", 2**60), now_ms)
        assert (syncer.credible_target, syncer.claimed_target, syncer.target) == (7, 7, 2**60)
        syncer.handle(PeerGone(b"liar"), now_ms)
    # One good answer and it is as good as any other.
    now_ms += 100_000
    (request,) = requests(syncer.handle(PeerStatus(b"liar", 2**60), now_ms))
    syncer.handle(answer(request), now_ms)
    assert syncer.credible_target == syncer.claimed_target == 2**60


def test_a_height_that_somebody_says_is_asked_for_and_believed_when_blocks_come() -> None:
    syncer = Syncer(tip=7)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 60), 0))
    assert (syncer.target, syncer.claimed_target, syncer.credible_target) == (60, 60, 7)
    syncer.handle(answer(request), 1)
    assert syncer.credible_target == 60


@pytest.mark.parametrize(("size", "believed"), [(1, 7), (FULL_RESPONSE_BYTES // 2, 60)])
def test_who_sends_less_than_it_says_it_has_is_not_believed(size: int, believed: int) -> None:
    """A liar has each new block too; but a response holds so much and no more."""
    syncer = Syncer(tip=7)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 60), 0))
    syncer.handle(answer(request, count=3, size=size), 1)
    assert syncer.credible_target == believed


def test_what_validators_show_is_believed_at_once() -> None:
    syncer = Syncer(tip=7)
    syncer.handle(PeerStatus(b"v", 9), 0)
    syncer.handle(Surveyed(frozenset([b"v"]), frozenset([b"v"]), shown=9), 0)
    assert syncer.credible_target == 9


def test_a_height_that_nothing_shows_is_an_offence_while_the_chain_moves_on() -> None:
    """Two strangers say a billion and are silent; blocks come by consensus."""
    syncer = Syncer(tip=7)
    now_ms, blamed = 0, []
    for second in range(300):
        now_ms = second * 1_000
        effects = [*syncer.handle(PeerStatus(b"liar", 10**9), now_ms)]
        effects += syncer.handle(PeerStatus(b"mate", 10**9), now_ms)
        effects += syncer.handle(Committed(7 + second), now_ms)
        effects += syncer.handle(Tick(), now_ms)
        blamed += [one.peer for one in effects if isinstance(one, Unfounded)]
        assert syncer.credible_target == syncer.tip
        if second == 30:
            assert blamed == []
        if second == 40:
            assert sorted(blamed) == [b"liar", b"mate"]
    assert len(blamed) >= 10  # A hundred points of reputation, twice.


def test_nobody_is_blamed_while_no_block_comes_at_all() -> None:
    """It is our own line, perhaps."""
    syncer = Syncer(tip=7)
    for second in range(300):
        effects = [*syncer.handle(PeerStatus(b"a", 90), second * 1_000)]
        effects += syncer.handle(Tick(), second * 1_000)
        assert not [one for one in effects if not isinstance(one, RequestBlocks)]


def test_a_peer_that_never_delivers_is_asked_on_but_not_believed() -> None:
    syncer = Syncer(tip=7)
    now_ms = 0
    requests(syncer.handle(PeerStatus(b"liar", 2**60), now_ms))
    syncer.handle(PeerStatus(b"honest", 9), now_ms)
    for _ in range(3):
        assert syncer.claimed_target == 2**60
        syncer.handle(RequestFailed(b"liar"), now_ms)
        now_ms += 10_000
        syncer.handle(Tick(), now_ms)
    assert (syncer.claimed_target, syncer.target) == (9, 2**60)
    syncer.handle(PeerStatus(b"liar", 2**60 + 1), now_ms)
    assert (syncer.claimed_target, syncer.credible_target) == (9, 7)
    assert any(requests(syncer.handle(Tick(), now_ms + at * 1000)) for at in range(60))


def test_silent_strangers_with_ever_new_names_do_not_take_all_places() -> None:
    syncer = Syncer(tip=0)
    first = syncer.handle(PeerStatus(b"v", 4_000), 0)
    syncer.handle(Surveyed(frozenset([b"v"]), frozenset([b"v"]), shown=4_000), 0)
    names = [b"stranger %d" % number for number in range(100)]
    for second, name in enumerate(names):
        now_ms = second * 1_000
        queue = syncer.handle(PeerStatus(name, 10**9), now_ms) + syncer.handle(Tick(), now_ms)
        queue += first if second == 0 else []
        while queue:
            match queue.pop():
                case RequestBlocks(b"v") as request:
                    queue += syncer.handle(answer(request), now_ms)
                case ApplyBlock(height):
                    queue += syncer.handle(Committed(height), now_ms)
        if syncer.tip == 4_000:
            return
    pytest.fail(f"only {syncer.tip} blocks")


def test_failed_peers_rest_longer_each_time() -> None:
    syncer = Syncer(tip=0)
    assert requests(syncer.handle(PeerStatus(b"a", 5), 1000))
    now, pauses = 1000, []
    for _ in range(9):
        assert syncer.handle(RequestFailed(b"a"), now) == []
        failed = now
        while not syncer.handle(Tick(), now):
            now += 1000
        pauses.append((now - failed) // 1000)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_silent_peer_times_out() -> None:
    syncer = Syncer(tip=0)
    syncer.handle(PeerStatus(b"a", 5), 0)
    syncer.handle(PeerStatus(b"b", 5), 0)
    assert syncer.handle(Tick(), REQUEST_TIMEOUT_MS - 1) == []
    assert syncer.handle(Tick(), REQUEST_TIMEOUT_MS) == [RequestBlocks(b"b", 1, 5)]


def test_the_work_of_a_peer_that_leaves_goes_to_another() -> None:
    syncer = Syncer(tip=0)
    syncer.handle(PeerStatus(b"a", 5), 1)
    syncer.handle(PeerStatus(b"b", 5), 1)
    assert syncer.handle(PeerGone(b"a"), 2) == [RequestBlocks(b"b", 1, 5)]
    assert syncer.handle(PeerGone(b"nobody"), 2) == []


@pytest.mark.parametrize(
    "event",
    [
        BlocksReceived(b"a", 7, ((b"x", certificate(7)),)),
        BlocksReceived(b"stranger", 1, ((b"x", certificate(1)),)),
        RequestFailed(b"stranger"),
        Committed(-5),
    ],
)
def test_what_was_not_asked_for_is_ignored(event: object) -> None:
    syncer = Syncer(tip=0)
    syncer.handle(PeerStatus(b"a", 5), 1)
    assert syncer.handle(event, 2) == []  # type: ignore[arg-type]
    assert syncer._buffer == {}


def test_the_buffer_is_bounded_in_blocks_and_bytes() -> None:
    syncer = Syncer(tip=0)
    size = MAX_BUFFER_BYTES // 40
    queue = [e for i in range(9) for e in syncer.handle(PeerStatus(b"%d" % i, 9999), 1)]
    asked = 0
    while queue and asked < 200:
        asked += 1
        request = queue.pop(0)
        if request.from_height > 1:  # The first range never arrives.
            queue += requests(syncer.handle(answer(request, size=size), 2))
        assert syncer._buffer_bytes <= MAX_BUFFER_BYTES
        assert len(syncer._buffer) <= LOOKAHEAD_BLOCKS
    assert asked < 200
    assert requests(syncer.handle(PeerStatus(b"new", 9999), 3)) == []  # 1.. is asked for.


def test_the_next_block_is_kept_however_full_the_buffer_is() -> None:
    syncer = Syncer(tip=0)
    (request,) = requests(syncer.handle(PeerStatus(b"a", 2), 1))
    assert applied(syncer.handle(answer(request, size=MAX_BUFFER_BYTES + 1), 2)) == [1]
    assert sorted(syncer._buffer) == [1]


def test_peers_and_bans_are_bounded() -> None:
    syncer = Syncer(tip=0)
    for index in range(2 * MAX_PEERS):
        syncer.handle(PeerStatus(b"%d" % index, 0), 1)
    assert syncer.peers == MAX_PEERS
    for index in range(MAX_BANNED + 9):
        syncer.handle(Invalid(1, b"%d" % index, "bad"), 1)
    assert len(syncer._banned) == MAX_BANNED
    assert syncer.peers == 0


def full(syncer: Syncer, height: int) -> list[bytes]:
    names = [b"%03d" % index for index in range(MAX_PEERS)]
    for name in names:
        syncer.handle(PeerStatus(name, height), 1)
    return names


def test_a_full_table_takes_whom_validators_vouch_for_and_puts_out_who_failed() -> None:
    syncer = Syncer(tip=0)
    names = full(syncer, 0)
    everybody = frozenset([*names, b"v", b"new"])
    syncer.handle(Surveyed(everybody, frozenset([b"v", names[0]])), 2)
    syncer.handle(PeerStatus(b"new", 0), 3)
    assert b"new" not in syncer._peers
    syncer.handle(PeerStatus(b"v", 9), 4)
    assert {b"v", names[0]} <= set(syncer._peers)
    assert syncer.peers == MAX_PEERS
    liar = next(one for one in names[1:] if one in syncer._peers)
    assert requests(syncer.handle(PeerStatus(liar, 500), 5_000))
    syncer.handle(RequestFailed(liar), 5_001)
    syncer.handle(PeerStatus(b"new", 0), 5_002)
    assert b"new" in syncer._peers
    assert liar not in syncer._peers
    assert syncer.peers == MAX_PEERS


def test_whoever_is_not_connected_is_forgotten() -> None:
    """Whatever events were lost: or the places of the table would be taken for ever."""
    syncer = Syncer(tip=0)
    names = full(syncer, 5)
    assert syncer.handle(Surveyed(frozenset(names[:2])), 2) == []
    assert set(syncer._peers) == set(names[:2])
    syncer.handle(PeerStatus(b"new", 5), 3)
    assert b"new" in syncer._peers


class Swarm:
    """Honest peers and liars around one syncer, with a seeded order of everything."""

    def __init__(self, seed: int, height: int, liars: int) -> None:
        self.draw, self.height, self.now = random.Random(seed), height, 0
        self.syncer = Syncer(tip=0)
        self.honest = [b"honest %d" % index for index in range(self.draw.randint(1, 4))]
        self.wires: list[RequestBlocks] = []
        self.waiting: list[ApplyBlock] = []
        self.applied: list[int] = []
        for name in self.honest:
            self.feed(PeerStatus(name, height))
        for index in range(liars):
            self.feed(PeerStatus(b"liar %d" % index, height + self.draw.choice((0, 50))))

    def feed(self, event: object) -> None:
        for effect in self.syncer.handle(event, self.now):  # type: ignore[arg-type]
            if isinstance(effect, RequestBlocks):
                self.wires.append(effect)
            elif isinstance(effect, ApplyBlock):
                self.waiting.append(effect)
            elif not isinstance(effect, Unfounded):  # Three failures in a row may be chance.
                assert effect.peer not in self.honest
        assert len(self.waiting) <= 1
        in_flight = [peer for peer in self.syncer._peers.values() if peer.request is not None]
        assert len(in_flight) <= 2 * MAX_IN_FLIGHT

    def step(self) -> None:
        self.now += self.draw.randint(0, 400)
        self.feed(Tick())
        if self.waiting and self.draw.random() < 0.7:
            self.apply(self.waiting.pop())
        if self.wires:
            self.serve(self.wires.pop(self.draw.randrange(len(self.wires))))

    def apply(self, block: ApplyBlock) -> None:
        assert block.height == self.syncer.tip + 1
        if block.block == b"forged":
            self.feed(Invalid(block.height, block.peer, "forged"))
        else:
            assert block.block == b"%d" % block.height
            self.applied.append(block.height)
            self.feed(Committed(block.height))

    def serve(self, request: RequestBlocks) -> None:
        fate = self.draw.random()
        available = min(request.count, max(0, self.height - request.from_height + 1))
        if request.peer not in self.honest and fate < 0.3:
            forged = ((b"forged", certificate(request.from_height)),)
            self.feed(BlocksReceived(request.peer, request.from_height, forged))
        elif fate < 0.4:
            self.feed(RequestFailed(request.peer))
        else:
            count = self.draw.randint(1, available) if available else 0
            self.feed(answer(request, count))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 300), liars=st.integers(0, 4))
def test_every_chain_is_fetched_whole_while_one_peer_is_honest(seed, height, liars) -> None:
    """Peers lie, fall silent, cut answers; blocks still arrive once each and in order."""
    swarm = Swarm(seed, height, liars)
    for _ in range(5000):
        if swarm.syncer.tip < height:
            swarm.step()
    assert swarm.applied == list(range(1, height + 1))
