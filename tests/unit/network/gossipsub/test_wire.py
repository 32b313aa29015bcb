"""The RPC encoding against the protobuf classes that other implementations are generated from."""

import importlib.util
from pathlib import Path

import pytest

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.wire import FrameBuffer, Prune, Rpc, WireError

TOPIC = "/gridtokenx/test/national/votes"


@pytest.fixture(scope="module")
def pb():
    """libp2p's generated classes, loaded by path: importing the package takes seconds."""
    root = Path(importlib.util.find_spec("libp2p").submodule_search_locations[0])
    path = root / "pubsub" / "pb" / "rpc_pb2.py"
    spec = importlib.util.spec_from_file_location("rpc_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def message(data: bytes = b"data") -> bytes:
    part = wire.encode_signed_part(b"author", data, b"\x00" * 8, TOPIC)
    return wire.encode_message(part, b"s" * 64)


def in_rpc(raw: bytes) -> bytes:
    return b"\x12" + wire.encode_varint(len(raw)) + raw


def test_control_is_read_by_the_generated_classes(pb) -> None:
    rpc = Rpc(
        subscriptions=[(True, TOPIC), (False, "other")],
        ihave=[(TOPIC, [b"a", b"b" * 46])],
        iwant=[b"c", b"d"],
        graft=[TOPIC, "other"],
        prune=[Prune(TOPIC, 60)],
        idontwant=[b"e"],
    )
    read = pb.RPC.FromString(wire.encode_rpc(rpc))
    assert [(s.subscribe, s.topicid) for s in read.subscriptions] == rpc.subscriptions
    control = read.control
    assert [(i.topicID, list(i.messageIDs)) for i in control.ihave] == rpc.ihave
    assert list(control.iwant[0].messageIDs) == rpc.iwant
    assert [g.topicID for g in control.graft] == rpc.graft
    assert [(p.topicID, p.backoff) for p in control.prune] == [(TOPIC, 60)]
    assert list(control.idontwant[0].messageIDs) == rpc.idontwant
    assert read.SerializeToString() == wire.encode_rpc(rpc)
    assert wire.decode_rpc(wire.encode_rpc(rpc)) == rpc


def test_message_is_read_by_the_generated_classes_and_back(pb) -> None:
    (payload,) = FrameBuffer(1_000_000).feed(wire.encode_publish_frame(message(b"x" * 70_000)))
    read = pb.RPC.FromString(payload)
    (published,) = read.publish
    assert published.data == b"x" * 70_000
    assert list(published.topicIDs) == [TOPIC]
    assert read.SerializeToString() == payload
    (decoded,) = wire.decode_rpc(payload).messages
    published.ClearField("signature")
    assert decoded.signed() == b"libp2p-pubsub:" + published.SerializeToString()
    assert decoded.id == b"author" + b"\x00" * 8


def test_fields_of_later_versions_are_skipped(pb) -> None:
    rpc = pb.RPC(senderRecord=b"record")
    rpc.control.extensions.topicObservation = True
    rpc.control.prune.add(topicID=TOPIC, backoff=7).peers.add(peerID=b"peer")
    rpc.testExtension.SetInParent()
    assert wire.decode_rpc(rpc.SerializeToString()) == Rpc(prune=[Prune(TOPIC, 7)])
    subscription = b"\x08\x01\x12\x01t\x18\x01\x20\x01"
    assert wire.decode_rpc(b"\x0a" + bytes((len(subscription),)) + subscription) == Rpc(
        subscriptions=[(True, "t")]
    )


@pytest.mark.parametrize(
    "raw",
    [
        message() + b"\x38\x01",
        message() + b"\x3a\x00",
        message() + b"\x2a\x00",
        b"\x2a\x00" + message(),
        message().replace(b"\x12\x04data", b"\x12\x84\x00data"),
        message() + b"\x22\x01t",
    ],
    ids=["unknown varint", "unknown bytes", "twice", "order", "long length", "second topic"],
)
def test_message_in_another_spelling_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(in_rpc(raw))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00\x00",
        b"\x0a",
        b"\x0a\x05",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0b\x0c",
        b"\x08\x01",
        b"\x0a\x04\x12\x02\xff\xfe",
        b"\x21\x00",
        b"\x1a\x85\x02\x12\x82\x02\x0a\xff\x01" + bytes(255),
    ],
    ids=["field 0", "no length", "short", "huge", "group", "type", "utf-8", "fixed", "long id"],
)
def test_malformed_rpcs_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(payload)


@pytest.mark.parametrize(
    "rpc",
    [
        Rpc(subscriptions=[(True, "t")] * 1_001),
        Rpc(graft=["t"] * 1_001),
        Rpc(iwant=[b"i"] * 20_001),
        Rpc(ihave=[("t", [b"i"] * 10_001)] * 2),
        Rpc(graft=["t" * 257]),
    ],
    ids=["subscriptions", "control", "iwant", "ihave", "topic"],
)
def test_rpcs_over_a_limit_are_refused(rpc: Rpc) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(wire.encode_rpc(rpc))
    with pytest.raises(WireError):
        wire.decode_rpc(in_rpc(message()) * 4_097)


def field(number: int, payload: bytes) -> bytes:
    return wire.encode_varint(number << 3 | 2) + wire.encode_varint(len(payload)) + payload


TOPIC_FIELD = field(1, b"t")
VARINT_9, FIXED_9 = b"\x48\x00", b"\x4d" + bytes(4)


@pytest.mark.parametrize(
    "payload",
    [
        VARINT_9 * 17,
        FIXED_9 * 17,
        field(9, b"") * 17,
        field(3, VARINT_9 * 17),
        field(3, field(1, TOPIC_FIELD + VARINT_9 * 5)),
        field(1, b"\x08\x01\x12\x01t" + VARINT_9 * 5),
        field(1, b"\x08\x01" * 2 + b"\x12\x01t"),
        field(1, b"\x08\x01\x12\x01t\x12\x01t"),
        field(1, b""),
        field(3, field(2, field(1, b""))),
        field(3, field(1, TOPIC_FIELD + field(2, b""))),
        field(3, field(1, TOPIC_FIELD * 2)),
        field(3, field(2, field(1, b"i") * 5_001)),
        field(3, field(4, TOPIC_FIELD + field(2, b"") * 65)),
        field(3, b"") * 2,
    ],
    ids=[
        "unknown varints",
        "unknown fixed",
        "unknown bytes",
        "unknown in control",
        "unknown in an entry",
        "unknown in a subscription",
        "flag twice",
        "topic twice",
        "no topic",
        "empty iwant id",
        "empty ihave id",
        "ihave topic twice",
        "too many ids",
        "offered peers",
        "control twice",
    ],
)
def test_what_costs_work_and_says_nothing_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(payload)


def test_a_long_rpc_is_cut_into_short_ones() -> None:
    ids = [bytes([number % 256, number // 256]) * 23 for number in range(5_000)]
    rpc = Rpc(ihave=[(TOPIC, ids[:1_000])] * 4, iwant=ids, graft=[TOPIC] * 500)
    payload = in_rpc(message()) * 500 + wire.encode_rpc(rpc) + in_rpc(message(b"last"))
    parts = [wire.decode_rpc(part) for part in wire.slices(payload)]
    assert max(len(part.messages) for part in parts) == wire.SLICE_FIELDS
    assert max(part.ids for part in parts) <= 1_000
    assert sum(part.ids for part in parts) == 9_000
    assert sum(len(part.graft) for part in parts) == 500
    assert sum(len(part.messages) for part in parts) == 501


@pytest.mark.parametrize(
    "payload",
    [
        field(1, b"\x12\x01t") * 8_193,
        field(3, field(3, TOPIC_FIELD) * 9_000),
        b"\x12\x85\x20" * 2_000,
    ],
    ids=["fields", "control entries", "short"],
)
def test_what_cannot_be_cut_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        list(wire.slices(payload))


def test_frames_are_cut_from_any_chunks() -> None:
    payloads = [b"", b"a", b"b" * 200, b"c" * 70_000]
    data = b"".join(wire.encode_frame(payload) for payload in payloads)
    for size in (1, 2, 3, 100, len(data)):
        buffer = FrameBuffer(100_000)
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        assert [p for chunk in chunks for p in buffer.feed(chunk)] == payloads


@pytest.mark.parametrize("head", [b"\x81\x80\x01", b"\x80\x00", b"\xff" * 10])
def test_frame_over_the_limit_or_with_a_wrong_length_is_refused(head: bytes) -> None:
    with pytest.raises(WireError):
        list(FrameBuffer(16_384).feed(head))
