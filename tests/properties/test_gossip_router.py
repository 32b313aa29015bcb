"""Whatever bytes peers send, the router answers, stays within its tables, and works afterwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import (
    PROTOCOL_V12,
    Deliver,
    GossipVerdict,
    Heartbeat,
    Parameters,
    PeerAdded,
    PeerRemoved,
    Priority,
    RpcReceived,
    ScoreParameters,
    Send,
    SetDirectPeers,
    Subscribe,
    Validated,
    Verified,
    Verify,
)
from gridtokenx.network.gossipsub.router import Router
from gridtokenx.network.gossipsub.wire import FrameBuffer, Prune, Rpc, WireError

PREFIX = "/gridtokenx/"
TOPICS = [PREFIX + "a/votes", PREFIX + "a/orders"]
PEERS = [bytes((n,)) * 38 for n in range(1, 8)]
LIMITS = Parameters(
    max_peers=5,
    max_topics_per_peer=4,
    max_iwant_ids_per_heartbeat=6,
    max_idontwant_ids_per_heartbeat=6,
    max_seen=8,
    max_asked=8,
    max_message_bytes=200,
    max_history_bytes=600,
    max_backoffs=6,
    max_in_flight=3,
    max_in_flight_bytes=500,
    mesh_high=4,
    mesh_size=3,
    mesh_low=2,
    mesh_best=2,
    mesh_outbound=1,
    opportunistic_heartbeats=2,
    max_promises=4,
    max_authors=5,
    peer_burst_bytes=60_000,
    author_burst_bytes=30_000,
    scores=ScoreParameters(max_retained=2, invalid_weight=-1),
)

topics = st.sampled_from([*TOPICS, "/other", *(f"{PREFIX}{n}" for n in range(8))])
ids = st.lists(st.binary(min_size=1, max_size=3), max_size=12)
rpcs = st.builds(
    Rpc,
    subscriptions=st.lists(st.tuples(st.booleans(), topics), max_size=8),
    ihave=st.lists(st.tuples(topics, ids), max_size=4),
    iwant=ids,
    graft=st.lists(topics, max_size=4),
    prune=st.lists(st.builds(Prune, topics, st.integers(0, 2**64 - 1)), max_size=4),
    idontwant=ids,
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A Message whose signature is good when its first byte is 1."""
    part = wire.encode_signed_part(
        draw(st.sampled_from(PEERS)),
        draw(st.binary(max_size=300)),
        draw(st.integers(0, 20)).to_bytes(8, "big"),
        draw(topics),
    )
    raw = wire.encode_message(part, bytes((draw(st.integers(0, 1)),)) * 64)
    return b"\x12" + wire.encode_varint(len(raw)) + raw


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes with one to three places overwritten, cut or doubled."""
    data = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["overwrite", "cut", "double"]))
        if kind == "overwrite":
            data = data[:at] + draw(st.binary(max_size=4)) + data[at + 2 :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data + data[at:]
    return data


valid_payloads = st.one_of(
    rpcs.map(wire.encode_rpc), st.lists(messages(), min_size=1, max_size=4).map(b"".join)
)
payloads = st.one_of(valid_payloads, mutated(valid_payloads), st.binary(max_size=200))
steps = st.one_of(
    st.builds(RpcReceived, st.sampled_from(PEERS), payloads),
    st.builds(
        PeerAdded,
        st.sampled_from(PEERS),
        st.just(PROTOCOL_V12),
        outbound=st.booleans(),
        ip=st.sampled_from(["", "8.8.4.4", "127.0.0.1", "2001:4860::1", "nonsense"]),
    ),
    st.builds(SetDirectPeers, st.lists(st.sampled_from(PEERS), max_size=2).map(tuple)),
    st.builds(PeerRemoved, st.sampled_from(PEERS)),
    st.just(Heartbeat()),
    st.sampled_from(list(GossipVerdict)),  # answer the oldest open question
)


def new_router(parameters: Parameters = LIMITS) -> Router:
    return Router(
        b"me",
        sign=lambda data: bytes(64),
        public_key_of=lambda peer: peer[:32] if len(peer) == 38 else None,
        topic_prefix=PREFIX,
        priority=lambda topic: Priority.URGENT if "votes" in topic else Priority.BULK,
        seed=1,
        first_seqno=0,
        parameters=parameters,
    )


def check_bounds(router: Router) -> None:
    sizes = router.table_sizes()
    assert sizes["peers"] <= 5
    assert sizes["topics"] <= 4
    assert sizes["dont_send"] <= 6 * (LIMITS.idontwant_heartbeats + 1)
    assert sizes["mesh"] <= 5  # Peers that we dialled may join a full one.
    assert sizes["promises"] <= 4
    assert sizes["authors"] <= 5
    assert sizes["scores"] <= 5 + 2
    assert sizes["backoff"] <= 6
    assert sizes["seen"] <= 8
    assert sizes["asked"] <= 8
    assert sizes["history_bytes"] <= 600
    assert sizes["in_flight"] <= 2 * 3
    assert 0 <= sizes["in_flight_bytes"] <= 2 * 500


@given(events=st.lists(steps, max_size=40), pauses_ms=st.lists(st.integers(0, 1_500), max_size=40))
@settings(max_examples=200)
def test_router_survives_any_bytes_within_its_bounds(events, pauses_ms) -> None:
    router, now, questions = new_router(), 0, []
    for topic in TOPICS:
        router.handle(Subscribe(topic), now)
    for peer in PEERS[:4]:
        router.handle(PeerAdded(peer, PROTOCOL_V12), now)
    for number, step in enumerate(events):
        now += pauses_ms[number] if number < len(pauses_ms) else 0
        if isinstance(step, GossipVerdict):
            if not questions:
                continue
            asked = questions.pop(0)
            if isinstance(asked, Verify):
                step = Verified(asked.token, asked.signature[0] == 1)
            else:
                step = Validated(asked.message_id, step)
        questions += [e for e in router.handle(step, now) if isinstance(e, Verify | Deliver)]
        check_bounds(router)
    while questions:
        asked = questions.pop(0)
        answer = (
            Verified(asked.token, True)
            if isinstance(asked, Verify)
            else Validated(asked.message_id, GossipVerdict.ACCEPT)
        )
        questions += [e for e in router.handle(answer, now) if isinstance(e, Verify | Deliver)]
    check_bounds(router)
    assert router.table_sizes()["in_flight"] == 0
    assert router.table_sizes()["in_flight_bytes"] == 0


class HonestPeer:
    """Does what the protocol says, in whatever order; `acts` are the names of its methods."""

    acts = ("speak", "bore", "repeat", "offer", "graft", "prune", "reconnect", "subscribe", "rest")

    def __init__(self) -> None:
        self.peer, self.now, self.seqno = PEERS[0], 0, 0
        self.may_graft_ms = 0
        self.spoken: dict[bytes, bytes] = {}  # by message id
        self.router = new_router(Parameters(max_message_bytes=200))
        self.router.handle(Subscribe(TOPICS[0]), 0)
        self.reconnect()

    def message(self) -> bytes:
        self.seqno += 1
        part = wire.encode_signed_part(PEERS[2], b"data", self.seqno.to_bytes(8, "big"), TOPICS[0])
        raw = wire.encode_message(part, bytes(64))
        payload = b"\x12" + wire.encode_varint(len(raw)) + raw
        self.spoken[PEERS[2] + self.seqno.to_bytes(8, "big")] = payload
        return payload

    def send(self, payload: bytes, verdict: GossipVerdict = GossipVerdict.ACCEPT) -> None:
        """The RPC, the answers to what the router asks, and the peer's to what it is told."""
        effects = self.router.handle(RpcReceived(self.peer, payload), self.now)
        while effects:
            match effects.pop(0):
                case Verify(token=token):
                    effects += self.router.handle(Verified(token, True), self.now)
                case Deliver(message_id=message_id):
                    effects += self.router.handle(Validated(message_id, verdict), self.now)
                case Send(frame=frame):
                    self.hear(frame)

    def hear(self, frame: bytes) -> None:
        (payload,) = FrameBuffer(1 << 20).feed(frame)
        rpc = wire.decode_rpc(payload)
        for prune in rpc.prune:
            self.may_graft_ms = self.now + prune.backoff_s * 1_000
        for message_id in rpc.iwant:
            self.send(self.spoken[message_id])

    def speak(self) -> None:
        self.send(self.message())

    def bore(self) -> None:
        """A hundred messages that the node ignores, for example because it is behind."""
        for _ in range(100):
            self.send(self.message(), GossipVerdict.IGNORE)
        self.rest()

    def repeat(self) -> None:
        if self.spoken:
            self.send(self.spoken[next(reversed(self.spoken))])

    def offer(self) -> None:
        self.message()
        newest = next(reversed(self.spoken))
        self.send(wire.encode_rpc(Rpc(ihave=[(TOPICS[0], [newest])])))

    def graft(self) -> None:
        if self.now >= self.may_graft_ms:
            self.send(wire.encode_rpc(Rpc(graft=[TOPICS[0]])))

    def prune(self) -> None:
        self.send(wire.encode_rpc(Rpc(prune=[Prune(TOPICS[0], 60)])))
        self.may_graft_ms = self.now + 60_000

    def reconnect(self) -> None:
        self.router.handle(PeerRemoved(self.peer), self.now)
        self.router.handle(PeerAdded(self.peer, PROTOCOL_V12, ip="8.8.4.4"), self.now)

    def subscribe(self) -> None:
        for on in (False, True):
            self.send(wire.encode_rpc(Rpc(subscriptions=[(on, TOPICS[0])])))

    def rest(self) -> None:
        self.now += 1_000
        for effect in self.router.handle(Heartbeat(), self.now):
            if isinstance(effect, Send):
                self.hear(effect.frame)


@given(acts=st.lists(st.sampled_from(HonestPeer.acts), max_size=60))
@settings(max_examples=100)
def test_whatever_an_honest_peer_does_its_score_is_never_negative(acts: list[str]) -> None:
    honest = HonestPeer()
    for act in acts:
        getattr(honest, act)()
        assert honest.router.scores()[honest.peer].total >= 0


@given(payload=payloads)
@settings(max_examples=300)
def test_decoding_is_total_and_what_decodes_is_what_was_sent(payload: bytes) -> None:
    try:
        rpc = wire.decode_rpc(payload)
    except WireError:
        return
    assert all(message.raw in payload for message in rpc.messages)


@given(rpc=rpcs)
def test_encoded_rpcs_decode_to_themselves(rpc: Rpc) -> None:
    assert wire.decode_rpc(wire.encode_rpc(rpc)) == rpc


@given(payload=st.one_of(payloads, st.lists(valid_payloads, max_size=4).map(b"".join)))
def test_slices_say_what_the_whole_says(payload: bytes) -> None:
    """And where the whole is refused, so is a slice, or it may have been one of many limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "SLICE_BYTES", 24)
        patch.setattr(wire, "SLICE_FIELDS", 2)
        try:
            parts = [wire.decode_rpc(part) for part in wire.slices(payload)]
        except WireError:
            with pytest.raises(WireError):
                wire.decode_rpc(payload)
            return
    try:
        whole = wire.decode_rpc(payload)
    except WireError:
        return
    for name in ("subscriptions", "messages", "ihave", "iwant", "graft", "prune", "idontwant"):
        said = [each for part in parts for each in getattr(part, name)]
        assert said == getattr(whole, name)


@given(rpc=rpcs)
def test_frames_of_control_say_what_the_rpc_says(rpc: Rpc) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "FRAME_BYTES", 60)
        patch.setattr(wire, "IDS_PER_ENTRY", 3)
        frames = b"".join(wire.encode_control_frames(rpc))
    read = [wire.decode_rpc(payload) for payload in FrameBuffer(1_000).feed(frames)]
    for name in ("subscriptions", "iwant", "graft", "prune", "idontwant"):
        assert [each for part in read for each in getattr(part, name)] == getattr(rpc, name)
    offered = [(topic, one) for topic, ids in rpc.ihave for one in ids]
    assert [(t, one) for part in read for t, ids in part.ihave for one in ids] == offered


@given(chunks=st.lists(st.binary(max_size=40), max_size=20))
def test_frame_buffer_holds_no_more_than_one_payload_and_a_chunk(chunks) -> None:
    buffer = FrameBuffer(100)
    try:
        for chunk in chunks:
            assert all(len(payload) <= 100 for payload in buffer.feed(chunk))
            assert len(buffer._buffer) <= 110
    except WireError:
        return
