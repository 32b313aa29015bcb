"""What is written can be read back: the checks refuse exactly what decoders refuse."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.ledger.model import ACCOUNTS, Account
from gridtokenx.primitives import codec
from gridtokenx.primitives.codec import MAX_BYTES, MAX_INT, MAX_ITEMS, Limit, decode, encode, wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.readable import check_all, most_bytes
from gridtokenx.primitives.state import MemoryReader, Overlay
from tests.support.wire_values import tables, values_of, wire_classes

CLASSES = wire_classes()
ALICE, BOB = b"a" * 32, b"b" * 32


def spoiled(data: st.DataObject, value: Any, hint: Any, limit: Limit | None = None) -> Any:
    """The value with one number or length in it moved to an edge of its range, or beyond."""
    hint, own = codec.bare_hint(hint)
    limit = own or limit
    if value is None:
        return value
    if get_origin(hint) is tuple:
        return _spoiled_tuple(data, value, get_args(hint)[0], limit)
    if codec.is_union(hint):
        members = [one for one in get_args(hint) if one is not type(None)]
        return spoiled(data, value, members[0] if len(members) == 1 else type(value), limit)
    if codec.is_wire(hint):
        hints = get_type_hints(hint, include_extras=True)
        names = [field.name for field in dataclasses.fields(hint) if field.init]
        if not names:
            return value
        name = data.draw(st.sampled_from(names))
        return dataclasses.replace(
            value, **{name: spoiled(data, getattr(value, name), hints[name])}
        )
    if hint is int:
        edges = [-1, 0, MAX_INT, MAX_INT + 1, 2**64, -(2**70)]
        edges += [] if limit is None else [limit.low - 1, limit.low, limit.high, limit.high + 1]
        return data.draw(st.sampled_from(edges))
    if hint in (bytes, str):
        high = 256 if limit is None else min(limit.high, 20_000)
        size = data.draw(st.sampled_from([0, high, high + 1]))
        return bytes(size) if hint is bytes else "ก" * size
    return value


def _spoiled_tuple(data: st.DataObject, value: Any, item: Any, limit: Limit | None) -> Any:
    if limit is not None and limit.high <= 400 and value and data.draw(st.booleans()):
        return value[:1] * data.draw(st.sampled_from([0, limit.high, limit.high + 1]))
    if not value:
        return value
    return (*value[:-1], spoiled(data, value[-1], item))


@pytest.mark.parametrize("tag", sorted(CLASSES), ids=lambda tag: CLASSES[tag].__name__)
def test_a_value_is_refused_if_and_only_if_it_could_not_be_read(tag: int) -> None:
    cls = CLASSES[tag]

    @settings(max_examples=30)
    @given(values_of(cls), st.data())
    def agree(value: object, data: st.DataObject) -> None:
        check_all([value])
        try:
            other = spoiled(data, value, cls)
        except Rejected:
            return  # A class that looks at itself when it is made.
        try:
            readable = decode(cls, encode(other)) == other
        except Rejected:
            readable = False
        if readable:
            check_all([other])
        else:
            with pytest.raises(Rejected) as refused:
                check_all([other])
            assert refused.value.code in (ErrorCode.OUT_OF_RANGE, ErrorCode.TOO_LARGE)

    agree()


def _depth(hint: Any) -> int:
    hint, _ = codec.bare_hint(hint)
    if get_origin(hint) is tuple:
        return 1 + _depth(get_args(hint)[0])
    if codec.is_union(hint):
        return max(_depth(member) for member in get_args(hint))
    if not codec.is_wire(hint):
        return 0
    hints = get_type_hints(hint, include_extras=True)
    inner = [_depth(hints[field.name]) for field in dataclasses.fields(hint) if field.init]
    return 1 + max(inner, default=0)


def test_no_type_nests_deeper_than_a_decoder_goes() -> None:
    assert max(_depth(cls) for cls in CLASSES.values()) <= codec.MAX_DEPTH


@pytest.mark.parametrize("tag", sorted(CLASSES), ids=lambda tag: CLASSES[tag].__name__)
def test_the_bound_of_a_size_holds(tag: int) -> None:
    cls = CLASSES[tag]

    @settings(max_examples=10)
    @given(values_of(cls))
    def bounded(value: object) -> None:
        assert len(encode(value)) <= most_bytes(cls)

    bounded()


@wire(9_501)
@dataclasses.dataclass(frozen=True, slots=True)
class Pages:
    """A class whose type does not bound its size."""

    pages: tuple[bytes, ...]


@wire(9_502)
@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of every kind of place."""

    one: Annotated[int, Limit(5, 10)]
    list: Annotated[tuple[Annotated[int, Limit(0, 3)], ...], Limit(1, 2)]
    plain: tuple[int, ...]
    maybe: int | None
    either: Account | Pages | None


GOOD = Numbers(5, (3,), (MAX_INT,), None, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"one": 4}, "Numbers.one is 4, must be 5..10"),
        ({"one": 11}, "Numbers.one is 11, must be 5..10"),
        ({"list": ()}, "Numbers.list has 0 items, must be 1..2"),
        ({"list": (1, 2, 3)}, "Numbers.list has 3 items, must be 1..2"),
        ({"list": (1, 4)}, "Numbers.list is 4, must be 0..3"),
        ({"plain": (0, MAX_INT + 1)}, f"Numbers.plain is {2**63}, must be 0..{MAX_INT}"),
        ({"plain": (1,) * (MAX_ITEMS + 1)}, "Numbers.plain has 65537 items, must be 0..65536"),
        ({"maybe": -1}, f"Numbers.maybe is -1, must be 0..{MAX_INT}"),
        ({"either": Account(gtx_ugtx=-1)}, f"Account.gtx_ugtx is -1, must be 0..{MAX_INT}"),
    ],
)
def test_the_refusal_names_field_value_and_range(changes: dict[str, Any], told: str) -> None:
    check_all([GOOD, None, dataclasses.replace(GOOD, maybe=1, either=Pages(()))])
    with pytest.raises(Rejected, match="OUT_OF_RANGE") as refused:
        check_all([GOOD, dataclasses.replace(GOOD, **changes)])
    assert refused.value.detail == told


def test_what_is_larger_than_can_be_read_is_refused() -> None:
    fits = Pages((bytes(MAX_BYTES - 20),))
    check_all([fits])
    assert decode(Pages, encode(fits)) == fits
    with pytest.raises(Rejected, match="TOO_LARGE"):
        check_all([Pages((bytes(MAX_BYTES), b""))])


def test_only_wire_values_are_stored() -> None:
    with pytest.raises(TypeError, match="no wire encoding"):
        check_all([1])


def test_a_merge_that_overflows_leaves_nothing_behind() -> None:
    block = Overlay(MemoryReader())
    ACCOUNTS.put(block, ALICE, Account(nonce=1))
    attempt = Overlay(block)
    ACCOUNTS.put(attempt, ALICE, Account(nonce=2))
    ACCOUNTS.put(attempt, BOB, Account(thb_uthb=MAX_INT + 1))
    with pytest.raises(Rejected, match=r"OUT_OF_RANGE: Account\.thb_uthb is 9223372036854775808"):
        attempt.merge()
    assert block.changed() == [(b"la" + ALICE, Account(nonce=1))]
    ACCOUNTS.delete(attempt, BOB)
    attempt.merge()
    assert ACCOUNTS.get(block, ALICE) == Account(nonce=2)


def test_what_a_block_itself_stores_beyond_the_range_is_our_fault() -> None:
    block = Overlay(MemoryReader())
    ACCOUNTS.put(block, ALICE, Account(carbon_ucr=-1))
    with pytest.raises(ValueError, match=r"cannot hold this: Account\.carbon_ucr is -1"):
        block.changes()


def test_what_a_block_stores_over_a_transactions_value_is_looked_at_too() -> None:
    block = Overlay(MemoryReader())
    attempt = Overlay(block)
    ACCOUNTS.put(attempt, ALICE, Account(nonce=1))
    attempt.merge()
    assert block.changes() == [(b"la" + ALICE, encode(Account(nonce=1)))]
    ACCOUNTS.put(block, ALICE, Account(nonce=MAX_INT + 1))
    with pytest.raises(ValueError, match=r"cannot hold this: Account\.nonce is 92233"):
        block.changes()


def test_every_table_holds_what_its_type_alone_bounds() -> None:
    """So that no row is encoded a second time only to be measured."""
    assert [one.kind.__name__ for one in tables() if most_bytes(one.kind) > MAX_BYTES] == []
