"""The gossip router by behaviour: each test is one rule of the gossipsub specification or ours."""

import pytest

from gridtokenx.network.gossipsub.events import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_V11,
    PROTOCOL_V12,
    Deliver,
    GossipVerdict,
    Misbehaved,
    PeerAdded,
    PeerRemoved,
    Priority,
    Publish,
    RouterError,
    RpcReceived,
    Send,
    SetDirectPeers,
    Subscribe,
    Unsubscribe,
    Validated,
    Verified,
    Verify,
    Withdraw,
)
from gridtokenx.network.gossipsub.wire import Prune
from gridtokenx.primitives import crypto
from tests.support.gossip_node import (
    BLOCKS,
    ME,
    PEERS,
    PREFIX,
    VOTES,
    Node,
    carried,
    decode,
    grafts,
    of,
    prunes,
    sent,
)


def test_hello_carries_our_subscriptions_and_again_after_a_lost_stream() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    first = node.do(PeerAdded(PEERS[0].peer, PROTOCOL_V12))
    assert sent(first)[0][1].subscriptions == [(True, VOTES)]
    node.rpc(PEERS[0], subscriptions=[(True, VOTES)])
    node.beat()
    assert node.router.mesh(VOTES) == (PEERS[0].peer,)
    again = sent(node.do(PeerAdded(PEERS[0].peer, PROTOCOL_V12)))[0][1]
    assert again.subscriptions == [(True, VOTES)]
    assert again.graft == [VOTES]
    assert node.router.topic_peers(VOTES) == (PEERS[0].peer,)


def test_subscribe_announces_and_grafts_up_to_d_peers() -> None:
    node = Node()
    node.connect(*PEERS[:10])
    effects = node.do(Subscribe(VOTES))
    assert len(sent(effects)) == 10
    assert all(rpc.subscriptions == [(True, VOTES)] for _, rpc in sent(effects))
    assert len(grafts(effects)) == 6
    assert node.router.mesh(VOTES) == tuple(sorted(grafts(effects)))


def test_unsubscribe_prunes_with_ten_seconds_and_does_not_graft_before() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    effects = node.do(Unsubscribe(VOTES))
    assert prunes(effects) == {PEERS[0].peer: Prune(VOTES, 10)}
    assert sent(effects)[0][1].subscriptions == [(False, VOTES)]
    assert grafts(node.do(Subscribe(VOTES))) == []
    assert grafts(node.beat(10)) == []
    assert grafts(node.beat()) == [PEERS[0].peer]  # ten seconds and one heartbeat of slack


def test_heartbeat_refills_a_mesh_below_d_low() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.connect(*PEERS[:8])
    for peer in PEERS[:4]:
        node.rpc(peer, graft=[VOTES])
    assert grafts(node.beat()) == []  # 4 is D_low: enough
    node.do(PeerRemoved(PEERS[0].peer))
    assert len(grafts(node.beat())) == 3
    assert len(node.router.mesh(VOTES)) == 6


def test_small_network_is_content_with_two_mesh_peers() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.connect(*PEERS[:4])
    for peer in PEERS[:2]:
        node.rpc(peer, graft=[VOTES])
    assert grafts(node.beat()) == []
    node.do(PeerRemoved(PEERS[0].peer))
    assert len(grafts(node.beat())) == 2


def test_heartbeat_prunes_a_mesh_above_d_high_to_d() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.connect(*PEERS[:14], outbound=True)
    for peer in PEERS[:14]:
        node.rpc(peer, graft=[VOTES])
    assert len(node.router.mesh(VOTES)) == 14
    effects = node.beat()
    assert len(prunes(effects)) == 8
    assert set(prunes(effects).values()) == {Prune(VOTES, 60)}
    assert len(node.router.mesh(VOTES)) == 6


def test_graft_into_a_full_mesh_is_answered_with_prune() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.connect(*PEERS[:13])
    for peer in PEERS[:12]:
        assert sent(node.rpc(peer, graft=[VOTES])) == []
    assert prunes(node.rpc(PEERS[12], graft=[VOTES])) == {PEERS[12].peer: Prune(VOTES, 60)}
    assert len(node.router.mesh(VOTES)) == 12


def test_graft_of_a_topic_we_are_not_in_gets_no_answer() -> None:
    node = Node()
    node.connect(PEERS[0])
    assert node.rpc(PEERS[0], graft=[VOTES]) == []
    assert node.router.mesh(VOTES) == ()


def test_received_prune_keeps_us_from_grafting_until_its_back_off_ends() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], prune=[Prune(VOTES, 30)])
    assert node.router.mesh(VOTES) == ()
    assert grafts(node.beat(30)) == []
    assert grafts(node.beat()) == [PEERS[0].peer]


def test_prune_without_back_off_means_sixty_seconds_and_a_huge_one_is_capped() -> None:
    node = Node()
    node.connect(*PEERS[:2])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], prune=[Prune(VOTES, 0)])
    node.rpc(PEERS[1], prune=[Prune(VOTES, 2**63)])
    assert grafts(node.beat(60)) == []
    assert grafts(node.beat()) == [PEERS[0].peer]
    node.now += 3_600_000
    assert grafts(node.beat()) == [PEERS[1].peer]


def test_graft_during_the_back_off_is_refused_and_blamed() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], prune=[Prune(VOTES, 60)])
    node.now += 59_999
    effects = node.rpc(PEERS[0], graft=[VOTES])
    assert prunes(effects) == {PEERS[0].peer: Prune(VOTES, 60)}
    assert of(Misbehaved, effects) == [Misbehaved(PEERS[0].peer, "graft_in_backoff", False)]
    node.now += 60_000
    assert sent(node.rpc(PEERS[0], graft=[VOTES])) == []
    assert node.router.mesh(VOTES) == (PEERS[0].peer,)


def test_reconnecting_does_not_shorten_a_back_off() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], prune=[Prune(VOTES, 60)])
    node.do(PeerRemoved(PEERS[0].peer))
    node.connect(PEERS[0])
    assert grafts(node.beat(60)) == []


def test_publish_floods_all_subscribers_with_one_shared_frame() -> None:
    node = Node()
    node.connect(*PEERS[:9])
    node.connect(PEERS[9], topics=(BLOCKS,))
    node.do(Subscribe(VOTES))
    sends = of(Send, node.do(Publish(VOTES, b"vote")))
    assert sorted(s.peer for s in sends) == sorted(p.peer for p in PEERS[:9])
    assert all(s.frame is sends[0].frame for s in sends)
    assert {s.priority for s in sends} == {Priority.URGENT}


def test_published_message_is_strictly_signed_with_growing_seqno() -> None:
    node = Node()
    node.connect(PEERS[0])
    first, second = (decode(node.do(Publish(VOTES, b"vote"))[0]).messages[0] for _ in range(2))
    assert first.author == ME.peer
    assert first.key == b""
    assert int.from_bytes(first.seqno, "big") == 1_700_000_000_000_000_000
    assert int.from_bytes(second.seqno, "big") == int.from_bytes(first.seqno, "big") + 1
    assert first.id == ME.peer + first.seqno
    assert crypto.verify(ME.key.public_key, first.signed(), first.signature)


def test_publish_over_the_limit_or_outside_the_prefix_is_refused() -> None:
    node = Node()
    with pytest.raises(RouterError):
        node.do(Publish(VOTES, bytes(MAX_MESSAGE_BYTES + 1)))
    with pytest.raises(RouterError):
        node.do(Publish("/other", b""))
    with pytest.raises(RouterError):
        node.do(Subscribe("/other"))


def test_large_own_messages_go_to_the_mesh_only() -> None:
    node = Node()
    node.connect(*PEERS[:10])
    node.do(Subscribe(VOTES))
    assert len(carried(node.do(Publish(VOTES, bytes(16 * 1024 - 1))))) == 10
    assert tuple(sorted(carried(node.do(Publish(VOTES, bytes(16 * 1024)))))) == node.router.mesh(
        VOTES
    )


def test_publish_without_flooding_uses_a_fanout_that_expires() -> None:
    node = Node(flood_publish=False)
    node.connect(*PEERS[:10])
    first = carried(node.do(Publish(VOTES, b"1")))
    assert len(first) == 6
    assert carried(node.do(Publish(VOTES, b"2"))) == first
    node.do(PeerRemoved(first[0]))
    node.beat()
    second = carried(node.do(Publish(VOTES, b"3")))
    assert len(second) == 6
    assert set(first[1:]) < set(second)
    node.beat(61)
    assert node.router._meshes.fanout == {}


def test_subscribing_takes_the_fanout_into_the_mesh() -> None:
    node = Node(flood_publish=False)
    node.connect(*PEERS[:10])
    fanout = carried(node.do(Publish(VOTES, b"1")))
    assert sorted(grafts(node.do(Subscribe(VOTES)))) == sorted(fanout)


def test_accepted_message_is_delivered_once_and_forwarded_to_the_mesh_but_not_back() -> None:
    node = Node()
    node.connect(*PEERS[:5])
    node.do(Subscribe(VOTES))
    author, forwarder = PEERS[0], PEERS[1]
    effects = node.rpc(forwarder, author.message())
    (delivered,) = of(Deliver, effects)
    assert delivered == Deliver(author.id(), VOTES, forwarder.peer, author.peer, b"data")
    assert sorted(carried(effects)) == sorted(p.peer for p in PEERS[2:5])
    frames = [e.frame for e in of(Send, effects)]
    assert all(frame is frames[0] for frame in frames)
    again = node.rpc(PEERS[2], author.message())
    assert again == []
    assert node.router.counters["duplicate"] == 1


@pytest.mark.parametrize("verdict", [GossipVerdict.IGNORE, GossipVerdict.REJECT])
def test_ignored_and_rejected_messages_are_never_forwarded(verdict: GossipVerdict) -> None:
    node = Node()
    node.verdict = verdict
    node.connect(*PEERS[:5])
    node.do(Subscribe(VOTES))
    effects = node.rpc(PEERS[0], PEERS[9].message())
    assert len(of(Deliver, effects)) == 1
    assert carried(effects) == []
    blamed = [Misbehaved(PEERS[0].peer, "rejected", False)]
    assert of(Misbehaved, effects) == (blamed if verdict is GossipVerdict.REJECT else [])
    assert of(Deliver, node.rpc(PEERS[1], PEERS[9].message())) == []
    node.beat()
    assert sent(node.rpc(PEERS[1], iwant=[PEERS[9].id()])) == []


def test_duplicates_during_validation_are_counted_and_their_senders_get_no_copy() -> None:
    node = Node()
    node.verdict = None
    node.connect(*PEERS[:5])
    node.do(Subscribe(VOTES))
    raw = PEERS[9].message()
    assert len(of(Deliver, node.rpc(PEERS[0], raw))) == 1
    assert node.rpc(PEERS[1], raw) == []
    effects = node.do(Validated(PEERS[9].id(), GossipVerdict.ACCEPT))
    assert sorted(carried(effects)) == sorted(p.peer for p in PEERS[2:5])
    assert node.router.table_sizes()["in_flight"] == 0
    assert node.router.table_sizes()["in_flight_bytes"] == 0


def test_rejection_blames_every_forwarder() -> None:
    node = Node()
    node.verdict = None
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], PEERS[9].message())
    node.rpc(PEERS[1], PEERS[9].message())
    effects = node.do(Validated(PEERS[9].id(), GossipVerdict.REJECT))
    assert [e.peer for e in of(Misbehaved, effects)] == [PEERS[0].peer, PEERS[1].peer]
    assert node.router.peer_counters(PEERS[0].peer)["rejected"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        PEERS[9].message(signature=b""),
        PEERS[9].message(signature=bytes(64)),
        PEERS[9].message(signature=bytes(63)),
        PEERS[9].message(author=PEERS[8].peer),
        PEERS[9].message(author=b"\x12\x20" + bytes(32)),
        PEERS[9].message(author=b""),
        PEERS[9].message(key=b"\x08\x01\x12\x20" + PEERS[8].key.public_key),
        PEERS[9].message(seqno_bytes=7),
    ],
    ids=["unsigned", "bad", "short", "other author", "hashed id", "no author", "key", "seqno"],
)
def test_strict_sign_refuses_and_blames_the_forwarder(raw: bytes) -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    effects = node.rpc(PEERS[0], raw)
    assert of(Deliver, effects) == []
    assert of(Misbehaved, effects) == [Misbehaved(PEERS[0].peer, "invalid_signature", False)]
    assert node.router.table_sizes()["seen"] == 0


def test_redundant_but_fitting_key_is_accepted() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    raw = PEERS[9].message(key=b"\x08\x01\x12\x20" + PEERS[9].key.public_key)
    assert len(of(Deliver, node.rpc(PEERS[0], raw))) == 1


def test_forged_copy_in_verification_does_not_shut_out_the_true_one() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    node.verify = False
    forged, true = PEERS[9].message(signature=bytes(64)), PEERS[9].message()
    (check_forged,) = of(Verify, node.rpc(PEERS[0], forged))
    assert node.rpc(PEERS[0], PEERS[9].message(signature=b"1" * 64)) == []  # one unlike copy a peer
    (check_true,) = of(Verify, node.rpc(PEERS[1], true))
    assert node.rpc(PEERS[2], true) == []
    node.verify = True
    assert of(Misbehaved, node.do(Verified(check_forged.token, False)))[0].peer == PEERS[0].peer
    assert len(of(Deliver, node.do(Verified(check_true.token, True)))) == 1


def test_signature_is_verified_once_per_message() -> None:
    node = Node()
    node.connect(*PEERS[:5])
    node.do(Subscribe(VOTES))
    for peer in PEERS[:5]:
        node.rpc(peer, PEERS[9].message())
    assert len(of(Verify, node.effects)) == 1


def test_seen_cache_forgets_after_two_minutes_and_is_bounded() -> None:
    node = Node(max_seen=10)
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    raw = PEERS[9].message()
    node.rpc(PEERS[0], raw)
    node.beat(119)
    assert of(Deliver, node.rpc(PEERS[0], raw)) == []
    node.beat(2)
    assert len(of(Deliver, node.rpc(PEERS[0], raw))) == 1
    for seqno in range(50):
        node.rpc(PEERS[0], PEERS[8].message(seqno))
    assert node.router.table_sizes()["seen"] == 10


def test_message_of_our_own_coming_back_is_not_delivered() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    assert node.rpc(PEERS[0], ME.message()) == []
    assert node.router.counters["own_echo"] == 1


def test_message_of_an_unsubscribed_topic_is_dropped() -> None:
    node = Node()
    node.connect(PEERS[0])
    assert node.rpc(PEERS[0], PEERS[9].message()) == []
    assert node.router.counters["unsubscribed_topic"] == 1


@pytest.mark.parametrize("topic", [VOTES, BLOCKS])
def test_an_oversize_message_drops_the_stream(topic: str) -> None:
    node = Node()
    node.connect(PEERS[0], topics=(topic,))
    node.do(Subscribe(topic))
    largest = bytes(MAX_MESSAGE_BYTES)
    assert len(of(Deliver, node.rpc(PEERS[0], PEERS[9].message(1, largest, topic)))) == 1
    effects = node.rpc(PEERS[0], PEERS[9].message(2, largest + b"1", topic))
    assert effects == [Misbehaved(PEERS[0].peer, "oversize", True)]


def test_ihave_goes_to_peers_outside_the_mesh_for_three_heartbeats() -> None:
    node = Node(flood_publish=False)
    node.connect(*PEERS[:15])
    node.do(Subscribe(VOTES))
    node.beat(2)  # the mesh is no longer new
    receivers = carried(node.do(Publish(VOTES, b"vote")))
    for beat in range(4):
        offers = [(peer, rpc) for peer, rpc in sent(node.beat()) if rpc.ihave]
        assert len(offers) == (6 if beat < 3 else 0)
        assert not {peer for peer, _ in offers} & set(receivers)


def test_peer_that_joins_the_mesh_is_offered_what_it_missed() -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.connect(PEERS[0])
    node.rpc(PEERS[1], PEERS[9].message())  # an unknown peer's: ignored
    node.rpc(PEERS[0], PEERS[9].message())
    node.connect(PEERS[1])
    node.rpc(PEERS[1], graft=[VOTES])
    offers = [rpc for _, rpc in sent(node.beat(), PEERS[1]) if rpc.ihave]
    assert [rpc.ihave for rpc in offers] == [[(VOTES, [PEERS[9].id()])]]
    node.beat()
    assert [rpc for _, rpc in sent(node.beat(), PEERS[1]) if rpc.ihave] == []


@pytest.mark.parametrize("direct", [False, True])
def test_peer_whose_stream_was_lost_is_offered_what_was_under_way(direct: bool) -> None:
    node = Node()
    node.do(Subscribe(VOTES))
    node.do(SetDirectPeers((PEERS[0].peer,) if direct else ()))
    node.connect(PEERS[0])
    node.beat(5)
    message = decode(node.do(Publish(VOTES, b"vote"))[0]).messages[0]
    node.do(PeerAdded(PEERS[0].peer, PROTOCOL_V12))
    assert [rpc.ihave for _, rpc in sent(node.beat()) if rpc.ihave] == [[(VOTES, [message.id])]]


def test_iwant_is_served_three_times_a_peer_and_for_five_heartbeats() -> None:
    node = Node()
    node.connect(*PEERS[:2])
    message = decode(node.do(Publish(VOTES, b"vote"))[0]).messages[0]
    for _ in range(3):
        assert carried(node.rpc(PEERS[0], iwant=[message.id])) == [PEERS[0].peer]
    assert carried(node.rpc(PEERS[0], iwant=[message.id])) == []
    node.beat(4)
    assert carried(node.rpc(PEERS[1], iwant=[message.id])) == [PEERS[1].peer]
    node.beat()
    assert carried(node.rpc(PEERS[1], iwant=[message.id])) == []
    assert node.router.table_sizes()["history_bytes"] == 0


def test_ihave_is_answered_with_iwant_for_unknown_ids_only() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], PEERS[9].message(1))
    ids = [PEERS[9].id(n) for n in (1, 2)]
    ((_, rpc),) = sent(node.rpc(PEERS[0], ihave=[(VOTES, ids)]))
    assert rpc.iwant == [PEERS[9].id(2)]
    assert sent(node.rpc(PEERS[1], ihave=[(VOTES, ids)])) == []  # the first may be answering
    node.now += 500
    assert sent(node.rpc(PEERS[0], ihave=[(VOTES, ids)])) == []  # it had its chance
    assert len(sent(node.rpc(PEERS[1], ihave=[(VOTES, ids)]))) == 1
    assert sent(node.rpc(PEERS[2], ihave=[(BLOCKS, [b"x"])])) == []


def test_ihave_iwant_and_idontwant_are_limited_per_heartbeat() -> None:
    node = Node(max_iwant_ids_per_heartbeat=5, max_idontwant_ids_per_heartbeat=5)
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    ((_, rpc),) = sent(node.rpc(PEERS[0], ihave=[(VOTES, [b"%d" % n for n in range(9)])]))
    assert len(rpc.iwant) == 5
    node.beat()
    node.rpc(PEERS[0], ihave=[(VOTES, [])] * 800)
    assert sent(node.rpc(PEERS[0], ihave=[(VOTES, [b"new"])])) == []
    assert node.router.counters["ihave_over_limit"] == 1
    node.rpc(PEERS[0], iwant=[b"%d" % n for n in range(9)])
    assert node.router.counters["iwant_over_limit"] == 1
    node.rpc(PEERS[0], idontwant=[b"%d" % n for n in range(9)])
    assert node.router.table_sizes()["dont_send"] == 5
    node.beat(4)
    assert node.router.table_sizes()["dont_send"] == 0


def test_idontwant_is_sent_for_large_messages_to_v12_mesh_peers_before_validation() -> None:
    node = Node()
    node.verdict = None
    node.connect(*PEERS[:3])
    node.connect(PEERS[3], protocol=PROTOCOL_V11)
    node.do(Subscribe(VOTES))
    assert sent(node.rpc(PEERS[0], PEERS[9].message(1, bytes(16 * 1024 - 1)))) == []
    effects = node.rpc(PEERS[0], PEERS[9].message(2, bytes(16 * 1024)))
    told = [peer for peer, rpc in sent(effects) if rpc.idontwant == [PEERS[9].id(2)]]
    assert sorted(told) == sorted(p.peer for p in PEERS[1:3])
    assert {e.priority for e in of(Send, effects)} == {Priority.CONTROL}


def test_no_idontwant_for_a_message_whose_signature_is_bad() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    effects = node.rpc(PEERS[0], PEERS[9].message(1, bytes(20_000), signature=bytes(64)))
    assert of(Send, effects) == []


def test_received_idontwant_spares_the_peer_the_message() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[1], idontwant=[PEERS[9].id()])
    assert carried(node.rpc(PEERS[0], PEERS[9].message())) == [PEERS[2].peer]
    assert node.router.counters["suppressed_by_idontwant"] == 1


def test_received_idontwant_takes_back_what_has_not_left() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    sends = of(Send, node.rpc(PEERS[0], PEERS[9].message()))
    assert [each.message_id for each in sends] == [PEERS[9].id()] * 2
    effects = node.rpc(PEERS[1], idontwant=[PEERS[9].id(), b"never seen"])
    assert of(Withdraw, effects) == [
        Withdraw(PEERS[1].peer, PEERS[9].id()),
        Withdraw(PEERS[1].peer, b"never seen"),
    ]


def test_direct_peers_always_get_messages_and_stay_outside_the_mesh() -> None:
    node = Node()
    node.do(SetDirectPeers((PEERS[0].peer,)))
    node.connect(*PEERS[:3])
    assert PEERS[0].peer not in grafts(node.do(Subscribe(VOTES)))
    assert prunes(node.rpc(PEERS[0], graft=[VOTES])) == {PEERS[0].peer: Prune(VOTES, 60)}
    assert PEERS[0].peer not in node.router.mesh(VOTES)
    assert sorted(carried(node.rpc(PEERS[1], PEERS[9].message()))) == sorted(
        (PEERS[0].peer, PEERS[2].peer)
    )


def test_mesh_peer_that_becomes_direct_is_pruned() -> None:
    node = Node()
    node.connect(*PEERS[:3])
    node.do(Subscribe(VOTES))
    assert list(prunes(node.do(SetDirectPeers((PEERS[0].peer,))))) == [PEERS[0].peer]
    assert PEERS[0].peer not in node.router.mesh(VOTES)


def test_who_is_direct_no_more_is_grafted_only_after_the_back_off_it_was_told() -> None:
    """Earlier is an offence: honest authorities would silence each other."""
    node = Node()
    node.connect(*PEERS[:2])
    node.do(Subscribe(VOTES))
    node.do(SetDirectPeers((PEERS[0].peer,)))
    node.do(SetDirectPeers(()))
    for _ in range(59):
        assert PEERS[0].peer not in grafts(node.beat())
    assert PEERS[0].peer in {peer for _ in range(4) for peer in grafts(node.beat())}


def test_overload_ignores_bulk_without_marking_it_as_seen_and_keeps_room_for_votes() -> None:
    node = Node(max_in_flight=3)
    node.verdict = None
    node.connect(PEERS[0], topics=(VOTES, BLOCKS))
    node.do(Subscribe(VOTES))
    node.do(Subscribe(BLOCKS))
    for seqno in range(4):
        node.rpc(PEERS[0], PEERS[9].message(seqno, topic=BLOCKS))
    assert node.router.counters["overload_ignored"] == 1
    assert len(of(Deliver, node.rpc(PEERS[0], PEERS[9].message(9, topic=VOTES)))) == 1
    node.do(Validated(PEERS[9].id(0), GossipVerdict.ACCEPT))
    assert len(of(Deliver, node.rpc(PEERS[0], PEERS[9].message(3, topic=BLOCKS)))) == 1


def test_in_flight_bytes_are_bounded() -> None:
    node = Node(max_in_flight_bytes=2_000_000)
    node.verdict = None
    node.connect(PEERS[0])
    node.do(Subscribe(BLOCKS))
    for seqno in range(3):
        node.rpc(PEERS[0], PEERS[9].message(seqno, bytes(900_000), BLOCKS))
    assert node.router.counters["overload_ignored"] == 1
    assert node.router.table_sizes()["in_flight_bytes"] < 2_000_000


def test_all_strangers_together_leave_half_of_the_room_to_trusted_peers() -> None:
    node = Node(max_in_flight=4, max_in_flight_bytes=3_000_000)
    node.verdict = None
    node.connect(*PEERS[:3], topics=(VOTES, BLOCKS))
    node.strangers = {PEERS[0].peer, PEERS[1].peer}
    node.do(Subscribe(VOTES))
    node.do(Subscribe(BLOCKS))
    for seqno, peer in enumerate((*PEERS[:2] * 2, *[PEERS[2]] * 3)):
        node.rpc(peer, PEERS[9].message(seqno))
    assert len(of(Deliver, node.effects)) == 2 + 2
    assert node.router.counters["overload_ignored"] == 3
    for seqno, peer in enumerate((*PEERS[:3], PEERS[2]), start=10):
        node.rpc(peer, PEERS[9].message(seqno, bytes(900_000), BLOCKS))
    assert len(of(Deliver, node.effects)) == 4 + 1 + 2


def test_in_flight_bytes_of_one_peer_are_bounded() -> None:
    node = Node(max_in_flight_bytes_per_peer=2_000_000)
    node.verdict = None
    node.connect(*PEERS[:2])
    node.do(Subscribe(BLOCKS))
    for seqno in range(3):
        node.rpc(PEERS[0], PEERS[9].message(seqno, bytes(900_000), BLOCKS))
    assert len(of(Deliver, node.effects)) == 2
    node.rpc(PEERS[1], PEERS[9].message(2, bytes(900_000), BLOCKS))
    assert len(of(Deliver, node.effects)) == 3


def test_long_control_leaves_in_frames_that_everybody_accepts() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    ids = [PEERS[8].id(number) for number in range(5_000)]
    asked = sent(node.rpc(PEERS[0], ihave=[(VOTES, ids)]))
    assert [i for _, rpc in asked for i in rpc.iwant] == ids
    assert len(asked) > 1
    frames = of(Send, node.effects)[-len(asked) :]
    assert max(len(effect.frame) for effect in frames) < 140_000


def test_history_is_bounded_by_bytes() -> None:
    node = Node(max_history_bytes=1_000)
    for _ in range(20):
        node.do(Publish(VOTES, bytes(100)))
        node.beat()
    assert 0 < node.router.table_sizes()["history_bytes"] <= 1_000


def test_peer_topics_are_bounded_and_foreign_ones_not_stored() -> None:
    node = Node()
    node.connect(PEERS[0], topics=())
    node.rpc(PEERS[0], subscriptions=[(True, f"/other/{n}") for n in range(10)])
    assert node.router.table_sizes()["topics"] == 0
    effects = node.rpc(PEERS[0], subscriptions=[(True, f"{PREFIX}{n}") for n in range(401)])
    assert of(Misbehaved, effects) == [Misbehaved(PEERS[0].peer, "too_many_topics", False)]
    assert node.router.table_sizes()["topics"] == 400


def test_remote_unsubscribe_leaves_the_mesh() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    node.rpc(PEERS[0], subscriptions=[(False, VOTES)])
    assert node.router.mesh(VOTES) == ()
    assert node.router.topic_peers(VOTES) == ()


def test_peers_over_the_limit_are_refused() -> None:
    node = Node(max_peers=2)
    node.connect(*PEERS[:3])
    assert node.router.table_sizes()["peers"] == 2
    assert node.router.counters["peer_refused"] == 1


def test_garbage_is_misbehaviour_that_drops_the_stream() -> None:
    node = Node()
    node.connect(PEERS[0])
    assert node.do(RpcReceived(PEERS[0].peer, b"\xff" * 20)) == [
        Misbehaved(PEERS[0].peer, "malformed", True)
    ]


def test_removed_peer_is_forgotten_and_its_rpcs_are_ignored() -> None:
    node = Node()
    node.connect(PEERS[0])
    node.do(Subscribe(VOTES))
    node.do(PeerRemoved(PEERS[0].peer))
    assert node.router.mesh(VOTES) == ()
    assert node.rpc(PEERS[0], PEERS[9].message()) == []
    assert node.do(Publish(VOTES, b"")) == []


def test_answer_that_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(RouterError):
        Node().do(Verified(0, True))
    with pytest.raises(RouterError):
        Node().do(Validated(b"", GossipVerdict.ACCEPT))
