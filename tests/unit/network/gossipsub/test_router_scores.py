"""What the router does with scores, and what it counts against peers."""

import pytest

from gridtokenx.network.gossipsub.events import (
    Deliver,
    Garbage,
    GossipVerdict,
    Misbehaved,
    PeerAdded,
    PeerRemoved,
    Publish,
    RpcReceived,
    ScoreParameters,
    SetDirectPeers,
    Subscribe,
    Validated,
    Verified,
    Verify,
)
from gridtokenx.network.gossipsub.wire import Prune
from tests.support.gossip_node import BLOCKS, PEERS, VOTES, Node, carried, grafts, of, prunes, sent

SCORES = ScoreParameters()
PROTOCOL = "/meshsub/1.2.0"


def node(peers: int = 1, *, subscribe: bool = True, **parameters: object) -> Node:
    made = Node(**parameters)
    if subscribe:
        made.do(Subscribe(VOTES))
    made.connect(*PEERS[:peers])
    return made


def lower(made: Node, number: int, below: float) -> None:
    """Bring a peer's score just below a threshold."""
    while made.router._scores.score(PEERS[number].peer) >= below:
        made.router._scores.penalise(PEERS[number].peer, 0.5)


def score(made: Node, number: int = 0) -> float:
    return made.router.scores()[PEERS[number].peer].total


def misdeeds(effects: list) -> list[str]:
    return [one.reason for one in of(Misbehaved, effects)]


# -- Thresholds ------------------------------------------------------------------------------------


def test_a_peer_below_zero_is_pruned_and_neither_grafted_nor_let_in() -> None:
    made = node(7)
    made.beat()
    member = next(n for n in range(7) if PEERS[n].peer in made.router.mesh(VOTES))
    lower(made, member, 0)
    assert list(prunes(made.beat())) == [PEERS[member].peer]
    assert PEERS[member].peer not in made.router.mesh(VOTES)
    outsider = 7
    made.connect(PEERS[outsider])
    lower(made, outsider, 0)
    assert prunes(made.rpc(PEERS[outsider], graft=[VOTES])) == {
        PEERS[outsider].peer: Prune(VOTES, 60)
    }
    assert made.router.counters["graft_refused_score"] == 1
    for number in range(8):
        lower(made, number, 0)
    assert grafts(made.beat()) == []
    assert made.router.mesh(VOTES) == ()


def test_no_gossip_to_or_from_a_peer_below_the_gossip_threshold() -> None:
    made = node(8)
    lower(made, 0, SCORES.gossip_threshold)
    made.rpc(PEERS[1], PEERS[1].message())
    offers = {peer for peer, rpc in sent(made.beat()) if rpc.ihave}
    assert offers
    assert PEERS[0].peer not in offers
    assert sent(made.rpc(PEERS[0], ihave=[(VOTES, [b"new"])])) == []
    assert sent(made.rpc(PEERS[0], iwant=[PEERS[1].id()])) == []
    assert made.router.counters["gossip_ignored"] == 2
    assert of(Deliver, made.rpc(PEERS[0], PEERS[0].message()))  # It may still speak itself.


def test_own_messages_do_not_go_to_peers_below_the_publish_threshold() -> None:
    made = node(3)
    lower(made, 0, SCORES.publish_threshold)
    made.beat()
    assert sorted(carried(made.do(Publish(VOTES, b"x")))) == sorted(p.peer for p in PEERS[1:3])


def test_a_fanout_has_no_peers_below_the_publish_threshold() -> None:
    made = node(3, subscribe=False, flood_publish=False)
    lower(made, 0, SCORES.publish_threshold)
    assert sorted(carried(made.do(Publish(VOTES, b"x")))) == sorted(p.peer for p in PEERS[1:3])
    lower(made, 1, SCORES.publish_threshold)
    assert carried(made.do(Publish(VOTES, b"y"))) == [PEERS[2].peer]


def test_rpcs_of_a_graylisted_peer_are_ignored_and_counted_and_it_is_told_of_once() -> None:
    made = node()
    lower(made, 0, SCORES.graylist_threshold - 50)
    assert made.rpc(PEERS[0], PEERS[0].message()) == []
    assert made.router.counters["graylisted_rpc"] == 1
    assert misdeeds(made.beat(3)) == ["graylisted"]
    made.beat(200)
    assert of(Deliver, made.rpc(PEERS[0], PEERS[0].message()))
    lower(made, 0, SCORES.graylist_threshold - 50)
    assert misdeeds(made.beat()) == ["graylisted"]


def test_a_graylisted_peer_that_does_not_stop_is_told_of_again_and_again() -> None:
    made = node()
    lower(made, 0, SCORES.graylist_threshold - 50)
    every = made.router.parameters.ignored_rpcs_per_offence
    told = [misdeeds(made.rpc(PEERS[0], PEERS[0].message())) for _ in range(2 * every)]
    assert [number for number, one in enumerate(told, start=1) if one] == [every, 2 * every]
    assert told[every - 1] == ["graylisted"]


def test_direct_peers_stand_above_scores() -> None:
    made = node(2)
    made.do(SetDirectPeers((PEERS[0].peer,)))
    lower(made, 0, SCORES.graylist_threshold - 50)
    assert misdeeds(made.beat()) == []
    assert of(Deliver, made.rpc(PEERS[0], PEERS[0].message()))
    assert PEERS[0].peer in carried(made.do(Publish(VOTES, b"x")))
    assert sent(made.rpc(PEERS[0], ihave=[(VOTES, [b"new"])]))


def test_a_bad_score_is_there_again_when_the_peer_is() -> None:
    made = node()
    lower(made, 0, SCORES.graylist_threshold)
    made.do(PeerRemoved(PEERS[0].peer))
    made.do(PeerAdded(PEERS[0].peer, PROTOCOL))
    assert made.rpc(PEERS[0], PEERS[0].message()) == []


# -- Mesh ------------------------------------------------------------------------------------------


def test_an_overfull_mesh_keeps_the_best_and_enough_of_those_we_dialled() -> None:
    made = Node(scores=ScoreParameters(first_delivery_decay=1.0))
    made.do(Subscribe(VOTES))
    dialled = PEERS[:3]
    made.connect(*dialled, outbound=True)
    made.connect(*PEERS[3:14])
    for peer in PEERS[3:14]:
        made.rpc(peer, graft=[VOTES])
    for peer in dialled:
        made.rpc(peer, graft=[VOTES])
    assert len(made.router.mesh(VOTES)) == 14
    best = PEERS[10:14]
    for number, peer in enumerate(best):
        made.rpc(peer, peer.message(number + 1))
    made.beat()  # Counts the deliveries, then prunes.
    mesh = made.router.mesh(VOTES)
    assert len(mesh) == 6
    assert {peer.peer for peer in best} < set(mesh)
    assert sum(peer.peer in mesh for peer in dialled) == 2


def test_a_full_mesh_takes_only_peers_that_we_dialled() -> None:
    made = node(13)
    for peer in PEERS[:12]:
        made.rpc(peer, graft=[VOTES])
    made.connect(PEERS[20], outbound=True)
    assert list(prunes(made.rpc(PEERS[12], graft=[VOTES]))) == [PEERS[12].peer]
    assert prunes(made.rpc(PEERS[20], graft=[VOTES])) == {}
    assert PEERS[20].peer in made.router.mesh(VOTES)


def test_a_mesh_without_dialled_members_grafts_two() -> None:
    made = node(6)
    for peer in PEERS[:6]:
        made.rpc(peer, graft=[VOTES])
    assert grafts(made.beat()) == []
    made.connect(*PEERS[10:13], outbound=True)
    grafted = grafts(made.beat())
    assert len(grafted) == 2
    assert set(grafted) < {peer.peer for peer in PEERS[10:13]}


def test_every_minute_two_better_peers_join_a_mesh_that_brings_nothing() -> None:
    made = node(10)
    for peer in PEERS[:6]:
        made.rpc(peer, graft=[VOTES])
    made.beat(58)
    for number in range(30):
        made.rpc(PEERS[6 + number % 3], PEERS[6 + number % 3].message(number + 1))
    assert grafts(made.beat()) == []
    grafted = grafts(made.beat())
    assert len(grafted) == 2
    assert set(grafted) < {peer.peer for peer in PEERS[6:9]}


def test_a_mesh_that_delivers_is_left_as_it_is() -> None:
    made = node(10)
    for peer in PEERS[:6]:
        made.rpc(peer, graft=[VOTES])
    made.beat(58)
    for number in range(60):
        made.rpc(PEERS[number % 6], PEERS[number % 6].message(number + 1))
        made.rpc(PEERS[7], PEERS[7].message(number + 1))
    assert grafts(made.beat(2)) == []


# -- What is counted -------------------------------------------------------------------------------


def test_first_deliveries_are_credited_to_the_first_and_only_when_accepted() -> None:
    made = node(2)
    raw = PEERS[2].message()
    made.rpc(PEERS[0], raw)
    made.rpc(PEERS[1], raw)
    made.verdict = GossipVerdict.IGNORE
    made.rpc(PEERS[1], PEERS[2].message(2))
    made.beat()
    parts = [made.router.scores()[peer.peer].first_deliveries for peer in PEERS[:2]]
    assert parts == [0.5 * 0.99, 0]


def test_near_first_deliveries_count_for_p3_once_each_and_within_the_window() -> None:
    weights = ScoreParameters(
        mesh_time_weight=100,  # Nobody falls below zero and out of the mesh.
        mesh_delivery_weight=-1,
        mesh_delivery_threshold=2,
        mesh_delivery_decay=1.0,
        mesh_delivery_activation_ms=0,
        mesh_delivery_window_ms=2_000,
    )
    made = node(4, scores=weights)
    for peer in PEERS[:4]:
        made.rpc(peer, graft=[VOTES])
    raw = PEERS[9].message()
    for peer in (*PEERS[:3], PEERS[1]):
        made.rpc(peer, raw)
    made.now += 2_001
    made.rpc(PEERS[3], raw)
    made.beat()
    deficits = [made.router.scores()[peer.peer].delivery_deficit for peer in PEERS[:4]]
    assert deficits == [-1, -1, -1, -4]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_rejected_and_forged_messages_cost_p4(times: int) -> None:
    made = node(2)
    made.verdict = GossipVerdict.REJECT
    for number in range(times):
        made.rpc(PEERS[0], PEERS[0].message(number + 1))
        made.rpc(PEERS[1], PEERS[1].message(number + 1, signature=bytes(64)))
    assert score(made, 0) == score(made, 1) == -10 * times**2


def test_three_oversize_messages_graylist() -> None:
    made = node()
    for number in range(3):
        made.rpc(PEERS[0], PEERS[0].message(number + 1, data=bytes((1 << 20) + 1)))
    assert misdeeds(made.effects) == ["oversize"] * 3
    assert score(made) == -90


def test_malformed_rpcs_graylist_at_the_second() -> None:
    made = node()
    for expected in (0, -160):
        made.do(RpcReceived(PEERS[0].peer, b"\xff\xff"))
        assert score(made) == expected
    assert misdeeds(made.effects) == ["malformed"] * 2


def test_bytes_that_are_no_frames_cost_what_bytes_that_are_no_rpc_do() -> None:
    made = node()
    for expected in (0, -160):
        made.do(Garbage(PEERS[0].peer))
        assert score(made) == expected
    assert misdeeds(made.effects) == ["malformed"] * 2


def test_grafting_in_back_off_costs_p7() -> None:
    made = node(14)
    for peer in PEERS[:12]:
        made.rpc(peer, graft=[VOTES])
    made.rpc(PEERS[13], graft=[VOTES])
    for _ in range(8):
        made.rpc(PEERS[13], graft=[VOTES])
    assert score(made, 13) == -40


def test_a_promise_that_is_broken_costs_p7_and_one_that_is_kept_does_not() -> None:
    made = node(2)
    for number in range(10):
        made.rpc(
            PEERS[0], ihave=[(VOTES, [b"lie %d" % n for n in range(number * 5, number * 5 + 5)])]
        )
        made.rpc(PEERS[1], ihave=[(VOTES, [PEERS[5].id(number)])])
        made.rpc(PEERS[1], PEERS[5].message(number))
        made.beat()
    made.beat(3)
    counters = [made.router.peer_counters(peer.peer)["broken_promise"] for peer in PEERS[:1]]
    assert counters == [10]  # One of each IWANT is watched.
    assert "broken_promise" not in made.router.peer_counters(PEERS[1].peer)
    assert score(made, 0) < SCORES.graylist_threshold
    assert score(made, 1) >= 0
    assert made.router.table_sizes()["promises"] == 0


def test_ten_thousand_topics_graylist() -> None:
    made = node()
    for start in range(0, 10_000, 1_000):
        topics = [(True, f"/gridtokenx/test/{n}") for n in range(start, start + 1_000)]
        made.rpc(PEERS[0], subscriptions=topics)
    assert made.router.table_sizes()["topics"] == 400
    assert score(made) < SCORES.graylist_threshold


def test_useless_messages_cost_softly_and_only_who_brought_them_first() -> None:
    made = node(2)
    made.verdict = GossipVerdict.IGNORE
    for _ in range(300):  # A node that is behind, and an honest peer with 100 votes a second.
        for _ in range(100):
            made.router._count(PEERS[0].peer, "useless")
        made.beat()
    assert score(made, 0) >= 0
    for _ in range(300):
        for _ in range(400):
            made.router._count(PEERS[1].peer, "useless")
        made.beat()
    assert score(made, 1) < SCORES.graylist_threshold


# -- Token buckets ---------------------------------------------------------------------------------


def test_a_flood_is_dropped_undecoded_and_costs_a_point_a_heartbeat() -> None:
    made = node(2, peer_bytes_per_s=100_000, peer_burst_bytes=400_000, message_cost_bytes=8_192)
    for number in range(200):
        made.rpc(PEERS[0], PEERS[0].message(number + 1))
    heard = len(of(Deliver, made.effects))
    # The RPC with its subscription has cost as much as a message.
    assert heard == 400_000 // (8_192 + len(PEERS[0].message()) + 3) - 1
    assert made.router.counters["rpc_over_limit"] == 200 - heard
    assert score(made) == 0
    assert of(Deliver, made.rpc(PEERS[1], PEERS[1].message()))  # Others are heard.
    for _ in range(10):
        made.beat()
        for number in range(50):
            made.rpc(PEERS[0], PEERS[0].message(1_000 + number))
    assert score(made) < SCORES.gossip_threshold


def test_a_backlog_taken_in_at_once_after_a_pause_blames_nobody() -> None:
    made = node()
    made.now += 60_000
    for _ in range(20_000):
        made.rpc(PEERS[0], PEERS[0].message(1))
    made.beat()
    assert made.router.counters["rpc_over_limit"] > 10_000
    assert score(made) >= 0


def test_many_messages_in_one_rpc_cost_as_much_as_alone() -> None:
    made = node(1, peer_bytes_per_s=1, peer_burst_bytes=100_000, message_cost_bytes=10_000)
    made.rpc(PEERS[0], *(PEERS[1].message(n + 1) for n in range(20)))
    assert made.rpc(PEERS[0], PEERS[1].message(99)) == []
    assert made.router.counters["rpc_over_limit"] == 1


def test_one_authors_flood_is_dropped_unverified_and_no_forwarder_blamed() -> None:
    made = node(3, author_bytes_per_s=1, author_burst_bytes=100_000)
    made.router.handle(Subscribe(BLOCKS), 0)
    author = PEERS[9]
    for number in range(20):
        made.rpc(PEERS[number % 2], author.message(number + 1))
    assert len(of(Verify, made.effects)) == 100_000 // 8_400
    assert made.router.counters["author_over_limit"] == 20 - 100_000 // 8_400
    assert score(made, 0) >= 0
    assert of(Verify, made.rpc(PEERS[2], author.message(99, topic=BLOCKS)))
    assert of(Verify, made.rpc(PEERS[2], PEERS[8].message(99)))
    later = made.rpc(PEERS[2], author.message(20))  # It was not marked as seen.
    assert of(Verify, later) == []
    made.now += 10_000_000
    assert of(Verify, made.rpc(PEERS[2], author.message(20)))


def test_a_forger_empties_nobodys_bucket() -> None:
    made = node(9, author_bytes_per_s=1, author_burst_bytes=100_000)
    victim = PEERS[9]
    for number in range(24):
        made.rpc(PEERS[number % 8], victim.message(number + 1, signature=bytes(64)))
    assert of(Deliver, made.rpc(PEERS[8], victim.message(99)))


def test_useless_messages_cost_their_author_four_times_as_much() -> None:
    made = node(1, author_bytes_per_s=1, author_burst_bytes=100_000)
    made.verdict = GossipVerdict.IGNORE
    for number in range(20):
        made.rpc(PEERS[0], PEERS[9].message(number + 1))
    assert len(of(Verify, made.effects)) == 3  # At 33,600 each the third still finds room.


def test_a_node_under_full_honest_load_limits_nobody() -> None:
    """Each second 21 validators with ten messages each, 2,000 orders of 300 bytes from four
    authors in batches of 50 ms, and a compact block of 320 kB, all brought by one peer."""
    made = node(1)
    made.verify = False
    blocks, orders = PEERS[20:24], bytes(300 * 25)
    seqno = 0
    for _ in range(5):
        for tick in range(20):
            made.now += 50
            seqno += 1
            for author in blocks:
                made.rpc(PEERS[0], author.message(seqno, data=orders, signature=bytes(64)))
            for author in PEERS[:21] if tick % 2 else ():
                made.rpc(PEERS[0], author.message(10**6 + seqno, signature=bytes(64)))
            if tick == 0:
                block = PEERS[22].message(10**9 + seqno, data=bytes(320_000), signature=bytes(64))
                made.rpc(PEERS[0], block)
            for effect in of(Verify, made.effects):
                verified = made.router.handle(Verified(effect.token, True), made.now)
                (delivered,) = of(Deliver, verified)
                made.router.handle(Validated(delivered.message_id, GossipVerdict.ACCEPT), made.now)
            made.effects.clear()
    assert made.router.counters["validated_accept"] == 5 * (20 * 4 + 10 * 21 + 1)
    assert made.router.counters["rpc_over_limit"] == 0
    assert made.router.counters["author_over_limit"] == 0


def test_an_rpc_costs_what_is_in_it() -> None:
    made = node(1, peer_burst_bytes=200_000)
    made.rpc(PEERS[0], ihave=[(VOTES, [b"i"] * 300)])
    made.rpc(PEERS[0], subscriptions=[(True, "/other")] * 50)
    assert made.router.counters["rpc_over_limit"] == 0
    made.rpc(PEERS[0], idontwant=[b"i"] * 5_000)  # 15 kB, and 640 kB for the work
    made.rpc(PEERS[0], PEERS[5].message())
    assert made.router.counters["rpc_over_limit"] == 1


def test_gossip_that_is_not_wanted_costs_whoever_goes_on_sending_it() -> None:
    made = node(2)
    made.router._scores.penalise(PEERS[0].peer, 8.0)  # below the threshold of gossip
    for _ in range(100):
        made.rpc(PEERS[0], ihave=[(VOTES, [b"i"])])  # one a heartbeat: it does not know
        made.beat()
    assert made.router.counters["gossip_ignored"] > 10
    assert not of(Misbehaved, made.effects)
    made.router._scores.penalise(PEERS[1].peer, 8.0)
    for number in range(300):
        made.rpc(PEERS[1], iwant=[b"i"])
        if number % 100 == 0:
            made.beat()
    assert of(Misbehaved, made.effects) == [Misbehaved(PEERS[1].peer, "graylisted", False)]


def test_one_peer_cannot_keep_the_others_out_with_messages_that_take_long_to_judge() -> None:
    made = node(2, max_in_flight=10, max_in_flight_per_peer=4)
    made.verdict = None
    for number in range(9):
        made.rpc(PEERS[0], PEERS[5 + number].message())
    assert len(of(Deliver, made.effects)) == 4
    assert made.router.counters["overload_ignored"] == 5
    assert of(Deliver, made.rpc(PEERS[1], PEERS[20].message()))
    first = of(Deliver, made.effects)[0]
    made.do(Validated(first.message_id, GossipVerdict.IGNORE))
    assert of(Deliver, made.rpc(PEERS[0], PEERS[13].message()))
