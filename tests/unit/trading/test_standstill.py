"""A block's own work has an end, and what is left of it goes on in the next block.

Source: protocols/market.md 3.1, 4.3.
"""

from itertools import pairwise

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import u64
from gridtokenx.trading import clock
from gridtokenx.trading.clock_model import CLOCK, DEADLINES, SlotDeadline, Standstill
from gridtokenx.trading.model import (
    FLOWS,
    ORDERS,
    POSITIONS,
    TRADES,
    MatchingMode,
    NodeFlow,
    OrderClosed,
    OrderStatus,
    ReportClosed,
    TradeSettled,
)

TRADERS, SLOTS = 4, 6


def fill(market) -> int:
    """Everybody trades in each slot, half of it for slots that the chain will sleep through."""
    base = market.now_ms // SLOT_MS
    for number in range(TRADERS):
        span = {"last_slot": base + SLOTS, "max_wh_per_slot": 1_000}
        market.sell(f"s{number}", SLOTS * 1_000, 3_000 + number, **span)
        market.buy(f"b{number}", SLOTS * 1_000, 4_000 + number, **span)
    market.next_block(ms=1_000)
    assert len(list(TRADES.items(market.state))) == TRADERS * SLOTS
    return base


def run_until_settled(market, most: int) -> list[list]:
    """The events of each block, a slot apart, until nothing is open."""
    blocks = [market.jump(3 * 3_600_000, grace_ms=60_000)]
    while any(TRADES.items(market.state)) or any(POSITIONS.items(market.state)):
        assert len(blocks) < most
        blocks.append(market.next_block(slots=1))
    return blocks


@pytest.mark.parametrize("budget", [clock.WORK_SETTLEMENT, 5 * clock.WORK_SETTLEMENT])
def test_settlement_after_a_standstill_goes_on_over_blocks(market, monkeypatch, budget) -> None:
    """No block settles more than its budget; in the end all is as if one block had done it."""
    at_once = type(market)()
    at_once.next_block()
    fill(at_once)
    run_until_settled(at_once, 20)

    fill(market)
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", budget)
    blocks = run_until_settled(market, 200)
    settled = [sum(isinstance(one, TradeSettled) for one in events) for events in blocks]
    assert sum(settled) == TRADERS * SLOTS
    assert max(settled) <= -(-budget // clock.WORK_SETTLEMENT)
    assert sorted(ACCOUNTS.items(market.state)) == sorted(ACCOUNTS.items(at_once.state))
    assert not any(ORDERS.items(market.state))


def test_expiries_after_a_standstill_go_on_over_blocks(market, monkeypatch) -> None:
    base = market.now_ms // SLOT_MS
    for number in range(10):
        market.sell(f"s{number}", 1_000, 3_000, first_slot=base + 1 + number % 3)
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", 3 * clock.WORK_EXPIRY)
    blocks = [market.jump(7 * 86_400_000, grace_ms=60_000)]
    while any(ORDERS.items(market.state)):
        blocks.append(market.next_block(ms=10_000))
    closed = [[one for one in events if isinstance(one, OrderClosed)] for events in blocks]
    assert [len(one) for one in closed] == [3, 3, 3, 1]
    assert {one.status for events in closed for one in events} == {OrderStatus.EXPIRED}
    for number in range(10):
        account = ledger.account(market.state, sha256(b"s%d" % number))
        assert account.bond_uthb == 0


def test_an_order_that_waits_for_its_end_trades_no_more(market, monkeypatch) -> None:
    """The gate's clearing comes after all expiries before it, however many blocks that takes."""
    base = market.now_ms // SLOT_MS
    market.configure(mode=MatchingMode.GATE)
    for number in range(6):
        market.sell(f"s{number}", 1_000, 3_000, expires_ms=market.now_ms + 60_000)
    market.buy("b", 1_000, 4_000)
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", 2 * clock.WORK_EXPIRY)
    for _ in range(6):
        to_gate = market.now_ms < (base + 1) * SLOT_MS
        market.next_block(slots=1 if to_gate else 0, ms=1_000)
    assert not any(TRADES.items(market.state))
    assert not any(ORDERS.items(market.state))


def test_rows_of_the_past_are_forgotten_as_fast_as_they_come(market) -> None:
    """More trading nodes in a slot than any fixed number: none is left over for ever."""
    base = market.now_ms // SLOT_MS
    for number in range(3_000):
        FLOWS.put(market.state, u64(base - 200) + b"BKK-%05d" % number, NodeFlow(1, 1, 1))
    DEADLINES.put(market.state, u64(base - 200), SlotDeadline(4))
    market.next_block(slots=1)
    assert not any(FLOWS.items(market.state))
    assert not any(DEADLINES.items(market.state))


def test_every_day_of_a_standstill_is_reported_a_few_in_a_block(market) -> None:
    market.jump(10 * 86_400_000, grace_ms=60_000)
    days: list[int] = []
    for _ in range(9):
        told = {one.day for one in market.next_block(slots=1) if isinstance(one, ReportClosed)}
        assert len(told) <= 4
        days += sorted(told)
    assert days == list(range(days[0], days[0] + len(days)))
    assert len(days) >= 10


# -- Which slots count -----------------------------------------------------------------------------


def test_only_slots_with_blocks_count_towards_a_deadline() -> None:
    now = clock.start(100)
    for slot in (101, 105, 106, 110):
        now = clock.arrive(now, slot * SLOT_MS, 60_000)
    assert now.standstills == (Standstill(101, 105), Standstill(106, 110))
    lived = {slot: clock.lived_slots(now, slot) for slot in (99, 100, 101, 103, 105, 106, 108, 109)}
    assert lived == {99: 5, 100: 4, 101: 3, 103: 3, 105: 2, 106: 1, 108: 1, 109: 1}


def test_a_gate_is_missed_when_the_block_after_it_is_late() -> None:
    before = clock.start(100)
    in_time = clock.arrive(before, 101 * SLOT_MS + 60_000, 60_000)
    late = clock.arrive(before, 101 * SLOT_MS + 60_001, 60_000)
    assert (in_time.still_slot, late.still_slot) == (99, 101)
    long_after = clock.arrive(before, 120 * SLOT_MS + 5_000, 60_000)
    assert long_after.still_slot == 119  # The last one is met in time.


def test_standstills_without_number_are_remembered_in_bounds(monkeypatch) -> None:
    monkeypatch.setattr(clock, "MAX_STANDSTILLS", 4)
    now = clock.start(100)
    for slot in range(102, 140, 2):
        now = clock.arrive(now, slot * SLOT_MS, 60_000)
    assert len(now.standstills) == 4
    assert now.standstills[0] == Standstill(100, 132)  # Taken for one: deadlines get longer.
    assert clock.lived_slots(now, 131) == 4


def test_after_a_years_standstill_slots_become_due_some_in_each_block(market) -> None:
    market.jump(365 * 86_400_000, grace_ms=60_000)
    due = [CLOCK.get(market.state, b"").due_slot]
    for _ in range(25):
        market.next_block(slots=1)
        due.append(CLOCK.get(market.state, b"").due_slot)
    steps = [after - before for before, after in pairwise(due)]
    assert max(steps) == clock.MAX_DUE_AT_ONCE
    assert CLOCK.get(market.state, b"").slot - due[-1] == 5
