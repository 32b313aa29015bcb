"""The canonical encoding: one spelling for each value, and nothing but values in range."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated

import cbor2
import pytest

from gridtokenx.primitives.codec import (
    MAX_DEPTH,
    MAX_INT,
    Limit,
    decode,
    decode_any,
    encode,
    encode_array,
    is_wire,
    tag_of,
    wire,
)
from gridtokenx.primitives.errors import ErrorCode, Rejected
from tests.support.refusals import refusing


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


@wire(9001)
@dataclass(frozen=True)
class Leaf:
    number: int


@wire(9002)
@dataclass(frozen=True)
class Other:
    text: str


@wire(9003)
@dataclass(frozen=True)
class Whole:
    number: Annotated[int, Limit(1, 1000)]
    flag: bool
    raw: Annotated[bytes, Limit(2, 3)]
    text: Annotated[str, Limit(0, 5)]
    colour: Colour
    level: Level
    child: Leaf | Other
    maybe: int | None
    items: Annotated[tuple[Leaf, ...], Limit(0, 2)]


WHOLE = Whole(7, True, b"ab", "word", Colour.RED, Level.LOW, Other("x"), None, (Leaf(1), Leaf(2)))
FIELDS = [9003, 7, True, b"ab", "word", "red", 1, [9002, "x"], None, [[9001, 1], [9001, 2]]]


def spelled(position: int, value: object) -> bytes:
    """The whole value with one field replaced."""
    fields = list(FIELDS)
    fields[position] = value
    return cbor2.dumps(fields)


def test_a_value_is_an_array_that_starts_with_its_tag() -> None:
    assert encode(WHOLE) == cbor2.dumps(FIELDS)
    assert decode(Whole, encode(WHOLE)) == WHOLE
    assert tag_of(Whole) == 9003
    assert is_wire(Whole)
    assert not is_wire(int)


def test_enums_come_back_as_their_members() -> None:
    back = decode(Whole, encode(WHOLE))
    assert back.colour is Colour.RED
    assert back.level is Level.LOW


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param("82 19 2329 18 07", id="number in two bytes where one suffices"),
        pytest.param("82 1a 00002329 07", id="tag in four bytes where two suffice"),
        pytest.param("82 19 2329 1b 0000000000000007", id="number in eight bytes"),
        pytest.param("98 02 19 2329 07", id="array length in its own byte"),
        pytest.param("9f 19 2329 07 ff", id="array of indefinite length"),
        pytest.param("82 19 2329 07 00", id="a byte behind the value"),
        pytest.param("82 19 2329 c2 41 07", id="big number"),
        pytest.param("82 19 2329 f9 4700", id="float 7.0"),
        pytest.param("82 19 2329 fb 401c000000000000", id="double 7.0"),
        pytest.param("82 19 2329 f5", id="true for a number"),
        pytest.param("82 19 2329 f6", id="null for a number"),
        pytest.param("82 19 2329 f7", id="undefined for a number"),
        pytest.param("82 19 2329 f0", id="simple value for a number"),
        pytest.param("82 19 2329 61 37", id="text for a number"),
        pytest.param("82 19 2329 d9 d9f7 07", id="self-described CBOR inside"),
        pytest.param("d9 d9f7 82 19 2329 07", id="self-described CBOR outside"),
        pytest.param("82 19 2329 d8 64 07", id="a date in days"),
        pytest.param("82 19 2329 da 00fedcba 07", id="a CBOR tag nobody knows"),
        pytest.param("a1 19 2329 07", id="a map"),
        pytest.param("82 19 232a 07", id="another class's tag"),
        pytest.param("82 f5 07", id="true for the tag"),
        pytest.param("81 19 2329", id="a field too few"),
        pytest.param("83 19 2329 07 07", id="a field too many"),
        pytest.param("82 19 2329", id="cut off"),
        pytest.param("", id="nothing"),
        pytest.param("ff", id="a lone break"),
        pytest.param("07", id="no array"),
        pytest.param("80", id="an empty array"),
    ],
)
def test_every_other_spelling_is_refused(spelling: str) -> None:
    with refusing(ErrorCode.MALFORMED):
        decode(Leaf, bytes.fromhex(spelling))
    assert decode(Leaf, bytes.fromhex("82 19 2329 07")) == Leaf(7)


def test_text_and_bytes_have_one_spelling_too() -> None:
    for spelling in ("82 19 232a 7f 61 78 ff", "82 19 232a 78 01 78", "82 19 232a 61 ff"):
        with refusing(ErrorCode.MALFORMED):
            decode(Other, bytes.fromhex(spelling))
    with refusing(ErrorCode.MALFORMED, "text must be str"):
        decode(Other, cbor2.dumps([9002, b"x"]))


def test_a_nest_too_deep_is_refused_before_it_is_built() -> None:
    for depth in (MAX_DEPTH + 1, 5000, 100_000):
        with refusing(ErrorCode.MALFORMED):
            decode(Leaf, b"\x81" * depth + b"\x00")


def test_a_huge_announced_length_costs_nothing() -> None:
    for head in ("9b 7fffffffffffffff", "5b 7fffffffffffffff", "bb 00000000ffffffff"):
        with refusing(ErrorCode.MALFORMED):
            decode(Leaf, bytes.fromhex(head))


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, 0),
        (1, 1001),
        (3, b"a"),
        (3, b"abcd"),
        (4, "longer"),
        (5, "blue"),
        (6, 2),
        (9, [[9001, 1]] * 3),
    ],
)
def test_what_lies_outside_its_limits_is_refused(position: int, value: object) -> None:
    with refusing(ErrorCode.OUT_OF_RANGE):
        decode(Whole, spelled(position, value))


@pytest.mark.parametrize("number", [-1, MAX_INT + 1, 2**64 - 1])
def test_integers_are_63_bits_without_sign_unless_they_say_otherwise(number: int) -> None:
    with refusing(ErrorCode.OUT_OF_RANGE, "Leaf.number"):
        decode(Leaf, cbor2.dumps([9001, number]))
    assert decode(Leaf, cbor2.dumps([9001, MAX_INT])) == Leaf(MAX_INT)


def test_a_bool_is_no_integer_and_no_enum_number() -> None:
    for position in (1, 6):
        with pytest.raises(Rejected):
            decode(Whole, spelled(position, True))
    with refusing(ErrorCode.MALFORMED, "flag must be bool"):
        decode(Whole, spelled(2, 1))


def test_a_union_takes_its_members_only() -> None:
    with refusing(ErrorCode.UNKNOWN_KIND, "unknown kind 9003"):
        decode(Whole, spelled(7, FIELDS))
    for value in ([], 5, ["x"], [True, 1], None):
        with refusing(ErrorCode.MALFORMED):
            decode(Whole, spelled(7, value))
    assert decode_any(Leaf | Other, encode(Leaf(3))) == Leaf(3)


def test_an_optional_field_is_null_or_the_value() -> None:
    assert decode(Whole, spelled(8, 5)).maybe == 5
    with refusing(ErrorCode.MALFORMED):
        decode(Whole, spelled(8, False))


def test_too_many_bytes_are_refused_unread() -> None:
    with refusing(ErrorCode.TOO_LARGE, "6 bytes, at most 5"):
        decode(Leaf, b"\xff" * 6, max_bytes=5)


def test_a_tag_is_given_once() -> None:
    with pytest.raises(TypeError, match="9001 is taken by Leaf"):
        wire(9001)(dataclass(type("Thief", (), {})))


def test_what_cannot_be_on_the_wire_is_a_fault_of_ours() -> None:
    @wire(9004)
    @dataclass(frozen=True)
    class Floating:
        number: float

    with pytest.raises(TypeError, match="float cannot be on the wire"):
        decode(Floating, cbor2.dumps([9004, 1.0]))
    with pytest.raises(TypeError, match="int has no wire encoding"):
        encode(5)


def test_a_hash_preimage_is_plain_cbor() -> None:
    assert encode_array(b"\x01", 2, ("x", 3)) == bytes.fromhex("83 41 01 02 82 61 78 03")
