"""Parameter kinds: what they take, what they refuse, and that a refusal is always a sentence."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gridtokenx.answers.kinds import (
    amount,
    block_reference,
    boolean,
    choice,
    cursor,
    format_cursor,
    hex_bytes,
    integer,
    list_of,
    place,
    shown,
    words,
)
from gridtokenx.api.errors import ApiError
from gridtokenx.api.methods import METHOD_BY_NAME, METHODS
from gridtokenx.primitives.errors import Rejected

HASH = "ab" * 32
VALIDATORS = {
    id(param.kind): Draft202012Validator(param.kind.schema)
    for method in METHODS
    for param in method.params
}


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (integer(0, 9), 7, 7),
        (integer(0, 9), "7", 7),
        (integer(0, 9), Decimal("7.0"), 7),
        (integer(0, 9000), Decimal("1E+3"), 1000),
        (integer(-9, 9), Decimal("-0.0"), 0),
        (integer(-9, 9), "-3", -3),
        (words(9), "\u0e44\u0e17\u0e22", "\u0e44\u0e17\u0e22"),
        (boolean(), True, True),
        (boolean(), "false", False),
        (choice("buy", "sell"), "buy", "buy"),
        (hex_bytes(4), "0x00ff", b"\0\xff"),
        (hex_bytes(2, exactly=True), "00FF", b"\0\xff"),
        (block_reference(), "12", 12),
        (block_reference(), HASH, bytes.fromhex(HASH)),
        (amount(), Decimal("100.0"), Decimal("100.0")),
        (amount(), "0.1", Decimal("0.1")),
        (amount(), 3, Decimal(3)),
        (list_of(integer(0, 9), 2), [1, "2"], [1, 2]),
        (place(), "BKK-01", "BKK-01"),
        (cursor(), format_cursor(b"\x01\xff"), b"\x01\xff"),
    ],
)
def test_good_values(kind, raw, value) -> None:
    assert kind.read(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (integer(0, 9), 10),
        (integer(0, 9), True),
        (integer(0, 9), "1e1"),
        (integer(0, 9), "\u0663"),
        (integer(0, 9), Decimal("1.5")),
        (integer(0, 9), Decimal("1e999999999")),
        (integer(0, 9), Decimal("1e-999999999")),
        (integer(0, 9), Decimal("1." + "0" * 5000 + "1")),
        (integer(0, 9), "-1"),
        (amount(), Decimal("1e-999999999")),
        (amount(), Decimal(10**18)),
        (words(9), "\ud800"),
        (words(9), " \n"),
        (integer(0, 9), 10**4000),
        (boolean(), 1),
        (boolean(), []),
        (choice("buy"), ["buy"]),
        (hex_bytes(4), ""),
        (hex_bytes(4), "0x"),
        (hex_bytes(4), "00" * 5),
        (hex_bytes(2, exactly=True), "00"),
        (block_reference(), "x"),
        (block_reference(), HASH + "00"),
        (amount(), "NaN"),
        (amount(), "Infinity"),
        (amount(), True),
        (amount(), Decimal("1e999999")),
        (amount(), Decimal("-1")),
        (list_of(integer(0, 9), 2), []),
        (list_of(integer(0, 9), 2), [1, 2, 3]),
        (list_of(integer(0, 9), 2), {"0": 1}),
        (place(), "bkk"),
        (place(), "BKK-01-SUB001\n"),
        (cursor(), "%%%"),
        (cursor(), "\udcff"),
    ],
)
def test_bad_values(kind, raw) -> None:
    with pytest.raises(ValueError, match="must be"):
        kind.read(raw)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=80)
    | st.sampled_from(["gtx1" + "q" * 58, HASH, "BKK-01", "sell"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(
    method=st.sampled_from(METHODS),
    values=st.lists(JSON_VALUES, max_size=10),
    extra=st.dictionaries(st.text(max_size=70), JSON_VALUES, max_size=2),
    named=st.booleans(),
)
def test_any_parameters_are_read_or_refused(method, values, extra, named) -> None:
    """Whatever JSON comes: typed arguments, or an error that says which parameter."""
    names = [param.name for param in method.params]
    raw = {**dict(zip(names, values, strict=False)), **extra} if named else values
    assert method.price(raw) >= 0
    try:
        arguments = method.arguments(raw)
    except (ApiError, Rejected) as error:
        told = str(error)
    else:
        told = "read"
        given = arguments if isinstance(arguments, dict) else asdict(arguments)
        assert set(given) == set(names)
    assert told.isprintable()


@given(value=JSON_VALUES | st.integers(-3, 40_000) | st.sampled_from(["7", "-7", "true", "open"]))
def test_what_is_read_is_what_the_schema_says(value) -> None:
    """Read means described; a whole number in the schema's range is read, however it is written."""
    schema_value = float(value) if isinstance(value, Decimal) and value < 10**300 else value
    for method in METHODS:
        for param in method.params:
            try:
                param.kind.read(value)
            except (ValueError, Rejected):
                continue
            assert VALIDATORS[id(param.kind)].is_valid(schema_value), (method.name, param.name)


@given(number=st.integers(-3, 120))
def test_a_whole_number_may_be_written_with_a_fraction_of_zero(number) -> None:
    kind = METHOD_BY_NAME["energy_getOrders"].params[-2].kind
    for written in (number, Decimal(number), Decimal(f"{number}.0")):
        is_valid = Draft202012Validator(kind.schema).is_valid(float(written))
        try:
            assert kind.read(written) == number
        except ValueError:
            assert not is_valid
        else:
            assert is_valid


def test_a_mistyped_name_gets_a_suggestion() -> None:
    with pytest.raises(ApiError) as error:
        METHOD_BY_NAME["energy_getOrders"].arguments({"tradr": 1})
    assert error.value.hint == "did you mean trader?"


def test_bad_values_are_shown_short() -> None:
    assert len(shown("x" * 10_000)) <= 60
    assert shown(10**5000) == "a number of more than 24 digits"
    assert shown({"a": 1}) == "an object"
