"""Overlays and tables: what a transaction sees, keeps and drops."""

import pytest

from gridtokenx.ledger.model import ACCOUNTS, Account
from gridtokenx.primitives.state import MemoryReader, Overlay, Table, u64
from gridtokenx.primitives.validators import Validator

ALICE, BOB = b"a" * 32, b"b" * 32
VALIDATORS = Table(b"xv", Validator)


def test_a_change_is_seen_here_and_not_below() -> None:
    base = Overlay(MemoryReader())
    ACCOUNTS.put(base, ALICE, Account(nonce=1))
    above = Overlay(base)
    ACCOUNTS.put(above, ALICE, Account(nonce=2))
    assert ACCOUNTS.get(above, ALICE) == Account(nonce=2)
    assert ACCOUNTS.get(base, ALICE) == Account(nonce=1)
    above.merge()
    assert ACCOUNTS.get(base, ALICE) == Account(nonce=2)
    assert above.changed() == []


def test_a_deletion_hides_what_lies_below() -> None:
    base = Overlay(MemoryReader())
    ACCOUNTS.put(base, ALICE, Account(nonce=1))
    above = Overlay(base)
    ACCOUNTS.delete(above, ALICE)
    assert ACCOUNTS.get(above, ALICE) is None
    assert list(ACCOUNTS.items(above)) == []
    above.merge()
    assert base.changes() == [(b"la" + ALICE, None)]


def test_a_dropped_overlay_leaves_nothing() -> None:
    base = Overlay(MemoryReader())
    ACCOUNTS.put(Overlay(base), ALICE, Account())
    assert base.changed() == []


def test_tables_do_not_see_each_other() -> None:
    state = Overlay(MemoryReader())
    ACCOUNTS.put(state, ALICE, Account())
    VALIDATORS.put(state, ALICE, Validator(ALICE, 1))
    assert [key for key, _ in ACCOUNTS.items(state)] == [ALICE]
    assert [key for key, _ in VALIDATORS.items(state)] == [ALICE]


def test_items_come_in_key_order_within_a_prefix() -> None:
    state = Overlay(MemoryReader())
    for number in (300, 2, 70_000, 255):
        VALIDATORS.put(state, u64(number) + b"x", Validator(ALICE, number))
    assert [value.weight for _, value in VALIDATORS.items(state)] == [2, 255, 300, 70_000]
    assert [value.weight for _, value in VALIDATORS.items(state, u64(300))] == [300]


def test_scans_between_changes_see_all_of_them_in_order() -> None:
    """Few keys at a time are put in their places, many are sorted; here, below and after merges."""
    base = Overlay(MemoryReader())
    expected: set[int] = set()
    for step, count in enumerate((1, 3, 200, 2, 70, 0, 1)):
        above = Overlay(base)
        for number in range(count):
            place = (step * 7919 + number * 104_729) % 10_007
            VALIDATORS.put(above if number % 2 else base, u64(place), Validator(ALICE, 1 + place))
            expected.add(place)
        assert [value.weight - 1 for _, value in VALIDATORS.items(above)] == sorted(expected)
        above.merge()
        assert [value.weight - 1 for _, value in VALIDATORS.items(base)] == sorted(expected)
        gone = sorted(expected)[step]
        VALIDATORS.delete(base, u64(gone))
        expected.discard(gone)
        assert list(VALIDATORS.items(base, u64(gone))) == []
    assert base.touches(VALIDATORS.prefix)
    assert not base.touches(b"la")


def test_a_scan_may_be_changed_under_its_reader() -> None:
    """Rules walk a table and delete as they go."""
    state = Overlay(MemoryReader())
    for number in range(5):
        ACCOUNTS.put(state, bytes([number]) * 32, Account())
    for key, _ in ACCOUNTS.items(state):
        ACCOUNTS.delete(state, key)
    assert list(ACCOUNTS.items(state)) == []


def test_changes_are_encoded_in_key_order() -> None:
    state = Overlay(MemoryReader())
    for key in (BOB, ALICE):
        ACCOUNTS.put(state, key, Account())
    keys = [key for key, _ in state.changes()]
    assert keys == sorted(keys)
    reader = MemoryReader({key: value for key, value in state.changes() if value is not None})
    assert ACCOUNTS.get(reader, ALICE) == Account()


def test_only_an_overlay_on_an_overlay_merges() -> None:
    with pytest.raises(TypeError):
        Overlay(MemoryReader()).merge()


def test_damaged_storage_is_a_fault_of_ours_and_no_verdict_on_a_transaction() -> None:
    reader = MemoryReader({b"la" + ALICE: b"\xff"})
    with pytest.raises(ValueError, match=r"stored Account.*damaged"):
        ACCOUNTS.get(reader, ALICE)


def test_number_keys_sort_like_numbers() -> None:
    numbers = [0, 1, 255, 256, 2**32, 2**63 - 1]
    assert sorted(map(u64, numbers)) == [u64(number) for number in numbers]
