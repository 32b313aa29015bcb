"""Peer scores: each parameter of gossipsub v1.1 with exact figures."""

import pytest

from gridtokenx.network.gossipsub.events import ScoreParameters
from gridtokenx.network.gossipsub.scores import Scores, colocation_group

VOTES, BLOCKS = "votes", "blocks"
A, B = b"a", b"b"
STILL = {  # Nothing fades, so that figures are exact.
    "first_delivery_decay": 1.0,
    "mesh_delivery_decay": 1.0,
    "mesh_failure_decay": 1.0,
    "invalid_decay": 1.0,
    "behaviour_decay": 1.0,
}


def scores(**parameters: object) -> Scores:
    made = Scores(ScoreParameters(**parameters))
    made.add_peer(A, "")
    return made


def test_unknown_and_new_peers_have_zero() -> None:
    made = scores()
    assert made.score(A) == made.score(b"nobody") == 0


def test_p1_counts_whole_quanta_in_the_mesh_up_to_its_cap() -> None:
    made = scores(mesh_time_weight=2.0, mesh_time_quantum_ms=1_000, mesh_time_cap=5)
    made.graft(VOTES, A, 10_000)
    made.decay(10_999)
    assert made.score(A) == 0
    made.decay(13_500)
    assert made.all()[A].mesh_time == 6
    made.decay(60_000)
    assert made.score(A) == 10
    made.prune(VOTES, A, 60_000)
    assert made.score(A) == 0


def test_p1_of_a_hundred_topics_is_less_than_opportunistic_grafting_asks_for() -> None:
    made = scores()
    for number in range(100):
        made.graft(f"topic {number}", A, 0)
    made.decay(10**9)
    assert 0 < made.score(A) <= ScoreParameters().opportunistic_graft_threshold


def test_p2_counts_first_deliveries_up_to_its_cap_and_fades() -> None:
    made = scores(first_delivery_weight=0.5, first_delivery_cap=10, first_delivery_decay=0.5)
    for _ in range(4):
        made.deliver(VOTES, A, first=True)
    assert made.score(A) == 0  # Credit counts from the next heartbeat on.
    made.decay(0)
    assert made.score(A) == 1.0
    for _ in range(100):
        made.deliver(VOTES, A, first=True)
    made.decay(0)
    assert made.score(A) == 2.5


def test_p3_is_the_square_of_what_a_mesh_peer_owes_after_its_activation() -> None:
    made = scores(
        **STILL | {"mesh_time_weight": 0, "first_delivery_weight": 0},
        mesh_delivery_weight=-1.0,
        mesh_delivery_threshold=5,
        mesh_delivery_activation_ms=30_000,
    )
    made.graft(VOTES, A, 0)
    made.decay(30_000)
    assert made.score(A) == 0  # Not yet active.
    made.decay(30_001)
    assert made.all()[A].delivery_deficit == -25
    made.deliver(VOTES, A, first=True)
    made.deliver(VOTES, A, first=False)
    made.decay(30_002)
    assert made.score(A) == -9
    made.deliver(BLOCKS, A, first=True)  # Outside the mesh of that topic: no delivery of P3.
    for _ in range(3):
        made.deliver(VOTES, A, first=False)
    made.decay(30_003)
    assert made.score(A) == 0


def test_p3b_keeps_what_a_pruned_peer_owed() -> None:
    made = scores(
        **STILL | {"mesh_failure_decay": 0.5, "mesh_time_weight": 0},
        mesh_failure_weight=-2.0,
        mesh_delivery_threshold=4,
        mesh_delivery_activation_ms=1_000,
    )
    made.graft(VOTES, A, 0)
    made.prune(VOTES, A, 900)
    assert made.score(A) == 0
    made.graft(VOTES, A, 0)
    made.deliver(VOTES, A, first=False)
    made.prune(VOTES, A, 2_000)
    assert made.score(A) == -18
    made.decay(3_000)
    assert made.all()[A].mesh_failures == -9


def test_p3_costs_nothing_by_default() -> None:
    made = scores(mesh_time_weight=0.0)
    made.graft(VOTES, A, 0)
    made.decay(10**9)
    made.prune(VOTES, A, 10**9)
    assert made.score(A) == 0


def test_p4_is_the_square_of_invalid_messages_of_each_topic_and_counts_at_once() -> None:
    made = scores()
    figures = []
    for _ in range(3):
        made.invalid(VOTES, A)
        figures.append(made.score(A))
    assert figures == [-10, -40, -90]
    made.invalid(BLOCKS, A)
    assert made.all()[A].invalid_messages == -100
    made.decay(0)
    assert made.score(A) == pytest.approx(-100 * 0.998**2)


def test_topics_give_no_more_than_their_cap_and_blame_goes_below_it() -> None:
    made = scores(**STILL, first_delivery_weight=1.0, first_delivery_cap=30, topic_cap=40)
    for topic in (VOTES, BLOCKS):
        for _ in range(30):
            made.deliver(topic, A, first=True)
    made.decay(0)
    assert made.score(A) == 40
    for _ in range(3):
        made.invalid(VOTES, A)
    assert made.score(A) == 60 - 90


def test_p5_is_what_the_application_says() -> None:
    opinion = {A: -12.0}
    made = Scores(ScoreParameters(application_weight=2.0), lambda peer: opinion.get(peer, 0.0))
    made.add_peer(A, "")
    assert made.score(A) == -24
    opinion[A] = 3.0
    made.decay(0)
    assert made.all()[A].application == 6


def test_p6_is_the_square_of_how_many_too_many_come_from_one_address() -> None:
    made = scores(colocation_weight=-1.0, colocation_threshold=4)
    peers = [bytes([n]) for n in range(7)]
    for peer in peers:
        made.add_peer(peer, "8.8.4.4")
    made.add_peer(b"other", "8.8.8.8")
    made.decay(0)
    assert [made.score(peer) for peer in peers] == [-9] * 7
    assert made.score(b"other") == 0
    for peer in peers[:3]:
        made.remove_peer(peer, 0)
    made.decay(0)
    assert made.score(peers[3]) == 0
    made.add_peer(b"other", "8.8.4.4")  # It comes back from another address.
    made.decay(0)
    assert made.score(b"other") == -1


@pytest.mark.parametrize(
    ("ip", "public", "private"),
    [
        ("8.8.4.4", "8.8.4.4", "8.8.4.4"),
        ("::ffff:8.8.4.4", "8.8.4.4", "8.8.4.4"),
        ("2001:4860:1:2:3::4", "2001:4860:1:2::/64", "2001:4860:1:2::/64"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("::1", "", "::/64"),
        ("nonsense", "", ""),
        ("", "", ""),
    ],
)
def test_addresses_that_one_customer_has_count_as_one(ip: str, public: str, private: str) -> None:
    assert colocation_group(ip, exempts_private=True) == public
    assert colocation_group(ip, exempts_private=False) == private


def test_p7_is_the_square_of_penalties_above_the_threshold_and_fades() -> None:
    made = scores(behaviour_weight=-10, behaviour_threshold=6, behaviour_decay=0.5)
    made.penalise(A, 6)
    assert made.score(A) == 0
    made.penalise(A, 2)
    assert made.score(A) == -40
    made.decay(0)
    assert made.score(A) == 0


def test_counters_that_faded_away_leave_no_entry() -> None:
    made = scores()
    made.deliver(VOTES, A, first=True)
    for _ in range(1_000):
        made.decay(0)
    assert made._deeds[A].topics == {}


def test_a_bad_score_outlives_the_connection_and_a_good_one_does_not() -> None:
    made = scores(**STILL, retain_ms=10_000)
    made.add_peer(B, "")
    made.deliver(VOTES, B, first=True)
    for peer in (A, A, B):
        made.invalid(VOTES, peer) if peer == A else made.deliver(VOTES, peer, first=True)
        made.decay(0)
    assert (made.score(A), made.score(B)) == (-40, 1)
    made.remove_peer(A, 0)
    made.remove_peer(B, 0)
    assert (made.score(A), made.score(B)) == (-40, 0)
    made.add_peer(A, "")
    assert made.score(A) == -40
    made.remove_peer(A, 1_000)
    made.decay(10_999)
    assert made.score(A) == -40
    made.decay(11_000)
    assert made.score(A) == 0


def test_the_memory_of_those_that_left_is_bounded_and_forgets_the_oldest() -> None:
    made = scores(max_retained=3)
    for number in range(10):
        peer = bytes([number])
        made.add_peer(peer, "")
        made.invalid(VOTES, peer)
        made.remove_peer(peer, 0)
    assert len(made) == 1 + 3
    assert made.score(bytes([6])) == 0
    assert made.score(bytes([7])) == -10
