"""Laws of the wire: one value, one spelling; whatever comes in, a verdict comes out."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.document import from_document, to_document
from gridtokenx.primitives.errors import Rejected
from tests.support.wire_values import values_of, wire_classes

CLASSES = wire_classes()
ANY = st.sampled_from(sorted(CLASSES)).flatmap(lambda tag: values_of(CLASSES[tag]))


@pytest.mark.parametrize("tag", sorted(CLASSES), ids=lambda tag: CLASSES[tag].__name__)
def test_every_class_is_read_back_from_bytes_and_documents(tag: int) -> None:
    cls = CLASSES[tag]

    @settings(max_examples=12)
    @given(values_of(cls))
    def round_trip(value: object) -> None:
        raw = encode(value)
        assert decode(cls, raw) == value
        assert cbor2.loads(raw)[0] == tag
        assert encode(decode(cls, raw)) == raw
        assert from_document(cls, to_document(value)) == value
        assert from_document(cls, to_document(value, text_integers=True)) == value

    round_trip()


@settings(max_examples=300)
@given(ANY, st.data())
def test_damaged_bytes_are_refused_or_another_value(value: object, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    position = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert"])):
        case "flip":
            raw[position] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[position:]
        case _:
            raw[position:position] = data.draw(st.binary(min_size=1, max_size=4))
    try:
        other = decode(type(value), bytes(raw))
    except Rejected:
        return
    assert other != value
    assert encode(other) == bytes(raw)


@settings(max_examples=300)
@given(st.sampled_from(sorted(CLASSES)), st.binary(max_size=200))
def test_noise_gets_a_verdict(tag: int, noise: bytes) -> None:
    cls = CLASSES[tag]
    for raw in (noise, bytes([0x82, 0x18, tag % 256]) + noise):
        try:
            assert encode(decode(cls, raw)) == raw
        except Rejected:
            continue


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(CLASSES)), PLAIN)
def test_any_json_gets_a_verdict(tag: int, document: object) -> None:
    with pytest.raises(Rejected):
        from_document(CLASSES[tag], {"kind": "x", "surprise": document})


@settings(max_examples=300)
@given(ANY, PLAIN, st.data())
def test_a_document_with_one_field_replaced_gets_a_verdict(
    value: object, junk: object, data: st.DataObject
) -> None:
    document = to_document(value)
    names = [name for name in document if name != "kind"]
    if not names:
        return
    document[data.draw(st.sampled_from(names))] = junk
    try:
        other = from_document(type(value), document)
    except Rejected:
        return
    assert decode(type(value), encode(other)) == other
