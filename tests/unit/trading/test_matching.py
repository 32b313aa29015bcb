"""When slots are cleared, what fills do to orders, and how trades keep their reserves."""

import random
from dataclasses import replace

import pytest

from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.trading import clock, matching
from gridtokenx.trading.book import span_keys
from gridtokenx.trading.model import (
    CARRIED_OVER,
    FLOWS,
    ORDERS,
    POSITIONS,
    MatchingMode,
    OrderClosed,
    OrderStatus,
    Side,
    SlotCleared,
    Source,
    TimeInForce,
    TradeMatched,
)

WEALTH_UTHB = 10**12


def trades(events: list) -> list:
    return [event.trade for event in events if isinstance(event, TradeMatched)]


def closed(events: list) -> dict:
    return {event.order_id: event for event in events if isinstance(event, OrderClosed)}


def open_orders(market) -> list:
    return [order for _, order in ORDERS.items(market.state)]


def test_orders_match_in_the_next_block_and_the_rest_stays(market) -> None:
    sell = market.sell("s", 100_000, 5_000, last_slot=market.now_ms // SLOT_MS + 2)
    buy = market.buy("b", 60_000, 5_600)
    events = market.next_block(ms=1_000)
    (trade,) = trades(events)
    assert (trade.energy_wh, trade.price_mthb, trade.wheeling_mthb) == (60_000, 5_000, 300)
    assert (trade.escrow_uthb, trade.bond_uthb) == (359_520_000, 60_000_000)
    assert (trade.buy_id, trade.sell_id, trade.tier, trade.territory) == (buy, sell, 0, "BKK")
    (cleared,) = [event for event in events if isinstance(event, SlotCleared)]
    assert (cleared.territory, cleared.traded_wh) == ("BKK", 60_000)
    assert [(price.tier, price.group, price.price_mthb) for price in cleared.prices] == [
        (0, "BKK-01-SUB001", 5_000)
    ]
    filled = OrderClosed(buy, sha256(b"b"), OrderStatus.FILLED, 0, 0)
    assert closed(events) == {buy: filled}
    rest = ORDERS.get(market.state, sell)
    assert (rest.rest_wh, rest.reserve_uthb) == (40_000, 40_000_000)
    assert market.account("s").bond_uthb == 100_000_000
    assert market.next_block(ms=1_000) == []


def test_an_untouched_slot_is_not_cleared_before_its_gate(market) -> None:
    market.sell("s", 1_000, 3_000)
    market.next_block(ms=1_000)
    market.configure(wheeling_mthb=(9_000, 9_000, 9_000, 9_000))
    market.buy("b", 1_000, 4_000)
    assert market.next_block(ms=1_000) == []  # Now the two do not meet.
    market.configure()
    assert market.next_block(ms=1_000) == []  # They would, but nothing new came in.
    events = market.next_block(slots=1)
    assert len(trades(events)) == 1


def test_gate_mode_clears_once_at_gate_closure(market) -> None:
    market.configure(mode=MatchingMode.GATE)
    base = market.now_ms // SLOT_MS
    market.sell("s", 1_000, 3_000, last_slot=base + 2)
    market.buy("b", 1_000, 4_000, expires_ms=(base + 1) * SLOT_MS)
    assert market.next_block(ms=SLOT_MS - 1) == []
    events = market.next_block(ms=1_000)
    assert len(trades(events)) == 1


def test_an_order_that_expired_before_the_gate_has_no_part_in_it(market) -> None:
    market.configure(mode=MatchingMode.GATE)
    gate_ms = (market.now_ms // SLOT_MS + 1) * SLOT_MS
    market.sell("s", 1_000, 3_000)
    early = market.buy("b", 1_000, 4_000, expires_ms=gate_ms - 1)
    events = market.next_block(slots=1)
    assert trades(events) == []
    assert closed(events)[early].status is OrderStatus.EXPIRED


@pytest.mark.parametrize(("early_ms", "matched"), [(0, 1), (1, 0)])
def test_an_order_that_expires_with_a_gate_takes_part_in_it(market, early_ms, matched) -> None:
    market.configure(mode=MatchingMode.GATE)
    first = market.now_ms // SLOT_MS + 1
    gate_ms = first * SLOT_MS
    market.sell("s", 1_000, 3_000, last_slot=first + 1)
    market.buy("b", 2_000, 4_000, last_slot=first + 1, expires_ms=gate_ms - early_ms)
    events = market.next_block(slots=1)
    assert len(trades(events)) == matched
    assert [event.status for event in closed(events).values()].count(OrderStatus.EXPIRED) == 1


@pytest.mark.parametrize(("late_ms", "slots"), [(-1, []), (0, [1]), (1, [1]), (SLOT_MS, [1, 2])])
def test_a_block_that_closes_several_gates_lets_each_order_end_in_its_turn(
    market, late_ms: int, slots: list[int]
) -> None:
    """The better buyer ends `late_ms` after the first of three gates; the other trades on."""
    market.configure(mode=MatchingMode.GATE)
    base = market.now_ms // SLOT_MS
    span = {"last_slot": base + 3, "max_wh_per_slot": 1_000}
    market.sell("s", 9_000, 3_000, **span)
    buy = market.buy("b", 9_000, 5_000, expires_ms=(base + 1) * SLOT_MS + late_ms, **span)
    last = market.buy("c", 9_000, 4_000, **span)
    events = market.next_block(slots=3)
    found = [(trade.slot - base, trade.buy_id) for trade in trades(events)]
    others = [slot for slot in (1, 2, 3) if slot not in slots]
    assert found == [(slot, buy) for slot in slots] + [(slot, last) for slot in others]
    assert closed(events)[buy].status is OrderStatus.EXPIRED
    assert closed(events)[buy].rest_wh == 9_000 - 1_000 * len(slots)


def test_slots_are_cleared_in_order_and_share_an_orders_rest(market) -> None:
    base = market.now_ms // SLOT_MS
    market.sell("s", 2_500, 3_000, last_slot=base + 4, max_wh_per_slot=1_000)
    for slot in (3, 2, 1):
        market.buy(f"b{slot}", 2_000, 4_000, first_slot=base + slot)
    events = market.next_block(ms=1_000)
    assert [(trade.slot - base, trade.energy_wh) for trade in trades(events)] == [
        (1, 1_000),
        (2, 1_000),
        (3, 500),
    ]


def test_far_slots_wait_when_a_block_has_cleared_enough(market, monkeypatch) -> None:
    two_clearings = 2 * (clock.WORK_SLOT + 2 * clock.WORK_PASS + clock.WORK_FILL)
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", two_clearings)
    base = market.now_ms // SLOT_MS
    for slot in (1, 2, 3, 4, 5):
        market.sell(f"s{slot}", 1_000, 3_000, first_slot=base + slot)
        market.buy(f"b{slot}", 1_000, 4_000, first_slot=base + slot)
    rounds = [trades(market.next_block(ms=1_000)) for _ in range(4)]
    assert [[trade.slot - base for trade in found] for found in rounds] == [[1, 2], [3, 4], [5], []]


def test_with_a_least_order_of_1_wh_such_orders_trade(market) -> None:
    market.configure(min_order_wh=1, dust_wh=1)
    market.sell("s", 3, 3_000, max_wh_per_slot=3)
    market.buy("b", 1, 4_000, max_wh_per_slot=1)
    (trade,) = trades(market.next_block(ms=1_000))
    assert trade.energy_wh == 1


def test_the_slot_cap_holds_over_several_clearings(market) -> None:
    base = market.now_ms // SLOT_MS
    sell = market.sell("s", 2_500, 3_000, last_slot=base + 1, max_wh_per_slot=1_000)
    market.buy("b1", 700, 4_000)
    market.next_block(ms=1_000)
    market.buy("b2", 700, 4_000)
    (trade,) = trades(market.next_block(ms=1_000))
    assert trade.energy_wh == 300
    assert ORDERS.get(market.state, sell).filled_in(base + 1) == 1_000
    assert (
        POSITIONS.get(market.state, (base + 1).to_bytes(8, "big") + trade.seller_meter).sold_wh
        == 1_000
    )


def test_dust_closes_an_order_and_is_refunded(market) -> None:
    sell = market.sell("s", 1_099, 3_000)
    buy = market.buy("b", 1_000, 4_000)
    events = market.next_block(ms=1_000)
    assert closed(events)[sell] == OrderClosed(sell, sha256(b"s"), OrderStatus.FILLED, 99, 99_000)
    assert closed(events)[buy].rest_wh == 0
    assert market.account("s").thb_uthb == WEALTH_UTHB - 1_000_000


def test_a_rest_of_the_least_fill_stays_and_trades(market) -> None:
    sell = market.sell("s", 1_100, 3_000)
    market.buy("b", 1_000, 4_000)
    assert sell not in closed(market.next_block(ms=1_000))
    assert ORDERS.get(market.state, sell).rest_wh == 100
    market.buy("c", 100, 4_000)
    events = market.next_block(ms=1_000)
    assert [trade.energy_wh for trade in trades(events)] == [100]
    assert closed(events)[sell].rest_wh == 0


def test_an_immediate_order_leaves_after_its_first_clearing(market) -> None:
    ioc = {"time_in_force": TimeInForce.IMMEDIATE_OR_CANCEL}
    lonely = market.buy("lonely", 1_000, 4_000, location="NTB-01-SUB001", **ioc)
    buy = market.buy("b", 1_000, 4_000, **ioc)
    market.sell("s", 300, 3_000)
    events = market.next_block(ms=1_000)
    assert [trade.energy_wh for trade in trades(events)] == [300]
    assert closed(events)[buy].status is OrderStatus.CANCELLED
    assert closed(events)[buy].rest_wh == 700
    assert closed(events)[lonely].rest_wh == 1_000
    assert market.account("lonely").thb_uthb == WEALTH_UTHB


def test_territories_do_not_trade_with_each_other_until_national_trade_opens(market) -> None:
    far = {"location": "NTB-01-SUB001"}
    market.sell("s", 1_000, 3_000, **far)
    market.buy("b", 1_000, 5_000)
    assert trades(market.next_block(ms=1_000)) == []
    market.configure(max_trade_tier=3)
    market.buy("c", 100, 1_500)  # Touches the slot.
    (trade,) = trades(market.next_block(ms=1_000))
    assert (trade.tier, trade.wheeling_mthb, trade.territory) == (3, 1_151, "BKK")


def test_territories_that_oversubscribe_a_line_share_its_capacity(market) -> None:
    """Scenario 48: five pairs want 500 Wh each over a line that takes 1,200; the rest is freed."""
    market.configure(max_trade_tier=3)
    for number in range(5):
        market.sell(f"s{number}", 500, 3_000, location="NTB-01-SUB001")
        market.buy(f"b{number}", 500, 5_000)
    made = trades(market.next_block(ms=1_000, headroom={"NTB": 1_200}))
    assert {trade.tier for trade in made} == {3}
    assert sum(trade.energy_wh for trade in made) == 1_200
    market.next_block(slots=1, headroom={"NTB": 1_200})
    assert open_orders(market) == []
    buyers = [market.account(f"b{number}") for number in range(5)]
    assert sum(account.escrow_uthb for account in buyers) == sum(one.escrow_uthb for one in made)
    assert all(account.thb_uthb + account.escrow_uthb == WEALTH_UTHB for account in buyers)


def test_headroom_limits_and_flags(market) -> None:
    market.sell("s2", 1_000, 3_000, location="BKK-01-SUB002")
    market.sell("s3", 1_000, 3_400, location="BKK-01-SUB003")
    market.buy("b", 2_000, 4_500)
    events = market.next_block(ms=1_000, headroom={"BKK-01-SUB002": 600})
    assert [(trade.energy_wh, trade.price_mthb) for trade in trades(events)] == [
        (600, 3_900),
        (1_000, 3_900),
    ]
    sells = [order for order in open_orders(market) if order.terms.side is Side.SELL]
    assert [(order.rest_wh, order.congested) for order in sells] == [(400, True)]
    market.buy("c", 100, 1_500)
    market.next_block(ms=1_000)
    assert not any(order.congested for order in open_orders(market))


@pytest.mark.parametrize(
    ("node", "seller_at"),
    [
        ("BKK-01-SUB002", "BKK-01-SUB002"),  # The seller's transformer exports.
        ("BKK-01-SUB001", "BKK-01-SUB002"),  # The buyer's imports.
        ("BKK-02", "BKK-02-SUB003"),
        ("BKK-01", "BKK-02-SUB003"),
    ],
)
def test_the_clearings_of_a_slot_share_its_headroom(market, node: str, seller_at: str) -> None:
    traded_wh = []
    for number in range(3):
        market.sell(f"s{number}", 500, 3_000, location=seller_at)
        market.buy(f"b{number}", 500, 4_500)
        events = market.next_block(ms=1_000, headroom={node: 800})
        traded_wh.append(sum(trade.energy_wh for trade in trades(events)))
    assert traded_wh == [500, 300, 0]
    later = market.now_ms // SLOT_MS + 2
    market.sell("s", 500, 3_000, location=seller_at, first_slot=later)
    market.buy("b", 500, 4_500, first_slot=later)
    (trade,) = trades(market.next_block(ms=1_000, headroom={node: 800}))
    assert (trade.slot, trade.energy_wh) == (later, 500)


def test_shares_of_an_escrow_add_up_to_it(market) -> None:
    """An awkward limit: 107/100 of 333 Wh x 3,333 has a fraction in every part."""
    total = 3 * 333
    market.buy("b", total, 3_333)
    escrow = market.account("b").escrow_uthb
    shares = []
    for number in range(3):
        market.sell(f"s{number}", 333, 3_033)
        shares += [trade.escrow_uthb for trade in trades(market.next_block(ms=1_000))]
    assert len(shares) == 3
    assert sum(shares) == escrow == market.account("b").escrow_uthb


def test_a_trade_id_is_unique_even_between_the_same_two_orders(market) -> None:
    base = market.now_ms // SLOT_MS
    market.sell("s", 1_000, 3_000, last_slot=base + 4, max_wh_per_slot=200)
    market.buy("b", 1_000, 4_000, last_slot=base + 4, max_wh_per_slot=200)
    found = trades(market.next_block(ms=1_000))
    assert len({trade.id for trade in found}) == len(found) == 4


def test_transaction_order_inside_a_block_changes_nothing(market) -> None:
    orders = [
        ("s1", Side.SELL, 1_000, 3_000),
        ("s2", Side.SELL, 700, 3_000),
        ("b1", Side.BUY, 900, 4_000),
        ("b2", Side.BUY, 900, 4_000),
    ]

    def outcome(sequence: list) -> list:
        fresh = type(market)()
        fresh.next_block()
        for name, side, energy_wh, limit in sequence:
            fresh.orders = int.from_bytes(name.encode(), "big")  # The id follows the name.
            fresh.place(name, fresh.terms(side, energy_wh, limit))
        return sorted(
            (trade.buyer, trade.seller, trade.energy_wh, trade.price_mthb)
            for trade in trades(fresh.next_block(ms=1_000))
        )

    assert outcome(orders) == outcome(orders[::-1])
    assert sum(row[2] for row in outcome(orders)) == 1_700


@pytest.mark.parametrize(("first", "last"), [(0, 0), (7, 7), (0, 95), (1, 96), (63, 66), (5, 100)])
def test_a_span_is_cut_into_disjoint_aligned_blocks(first, last) -> None:
    covered = []
    keys = span_keys(first, last, "BKK")
    for key in keys:
        level, block = key[0], int.from_bytes(key[1:9], "big")
        covered += range(block << level, (block + 1) << level)
    assert sorted(covered) == list(range(first, last + 1))
    assert len(keys) <= 12
    assert len(set(keys)) == len(keys)


def test_a_hard_filter_takes_only_its_source(market) -> None:
    market.sell("gas", 1_000, 3_000, source=Source.NATURAL_GAS)
    market.sell("sun", 1_000, 3_400)
    a = market.terms(Side.BUY, 1_000, 4_500, source=Source.RENEWABLE)
    market.place("a", replace(a, require=True))
    market.buy("b", 1_000, 4_200)
    by_buyer = {trade.buyer: trade.source for trade in trades(market.next_block(ms=1_000))}
    assert by_buyer == {sha256(b"a"): Source.SOLAR, sha256(b"b"): Source.NATURAL_GAS}


@pytest.mark.parametrize("seed", range(25))
def test_shuffling_a_blocks_orders_changes_no_trade_and_no_account(market, seed) -> None:
    chance = random.Random(seed)
    rows = [
        (
            f"{'buyer' if number % 2 else 'seller'} {number}",
            Side.BUY if number % 2 else Side.SELL,
            chance.randrange(100, 3_000),
            chance.randrange(2_500, 4_000) + 700 * (number % 2),
            f"BKK-0{chance.randrange(1, 3)}-SUB00{chance.randrange(1, 4)}",
        )
        for number in range(24)
    ]
    headroom = {"BKK-01-SUB001": chance.randrange(3_000), "BKK-01": chance.randrange(5_000)}

    def outcome(sequence: list) -> tuple:
        fresh = type(market)()
        fresh.next_block()
        for name, side, energy_wh, limit, location in sequence:
            fresh.orders = int.from_bytes(name.encode(), "big")  # The id follows the name.
            fresh.place(name, fresh.terms(side, energy_wh, limit, location=location))
        found = trades(fresh.next_block(ms=1_000, headroom=headroom))
        accounts = [fresh.account(name) for name, *_ in sorted(sequence)]
        return found, accounts, [value for _, value in FLOWS.items(fresh.state)]

    expected = outcome(rows)
    assert expected[0]
    assert outcome(chance.sample(rows, len(rows))) == expected


def test_nothing_is_matched_in_a_halted_territory_and_its_slots_wait(market) -> None:
    base = market.now_ms // SLOT_MS
    for name, location in (("near", "BKK-01-SUB001"), ("far", "NTB-01-SUB001")):
        market.sell(f"seller {name}", 1_000, 3_000, location=location, last_slot=base + 5)
        market.buy(f"buyer {name}", 1_000, 4_000, location=location, last_slot=base + 5)
    (trade,) = trades(market.next_block(ms=1, halted=("BKK",)))
    assert trade.territory == "NTB"
    assert trades(market.next_block(slots=1, halted=("BKK",))) == []
    (trade,) = trades(market.next_block(ms=1))
    assert (trade.territory, trade.slot) == ("BKK", base + 2)


def test_national_trade_leaves_a_halted_territory_out(market) -> None:
    market.configure(max_trade_tier=3)
    for name, location in (("a", "BKK-01-SUB001"), ("b", "NTB-01-SUB001"), ("c", "SPK-01-SUB001")):
        market.sell(f"seller {name}", 1_000, 3_000, location=location)
    market.buy("buyer", 3_000, 4_900, location="NTB-01-SUB001")
    found = trades(market.next_block(ms=1, halted=("BKK",)))
    assert [(trade.tier, trade.energy_wh) for trade in found] == [(0, 1_000), (3, 1_000)]
    (trade,) = trades(market.next_block(ms=1))
    assert (trade.tier, trade.transmission_mthb) == (3, 251)


def test_fills_that_a_block_cannot_carry_out_follow_in_the_next_ones(market, monkeypatch) -> None:
    """The same trades at the same prices, and immediate orders leave after the last of them."""

    def outcome(work: int) -> tuple[int, list, list]:
        monkeypatch.setattr(clock, "WORK_PER_BLOCK", work)
        monkeypatch.setattr(matching, "CARRIED_IN_A_ROW", 3)
        fresh = type(market)()
        fresh.configure(mode=MatchingMode.GATE)
        fresh.next_block()
        for number in range(20):
            kind = TimeInForce.IMMEDIATE_OR_CANCEL if number % 4 == 0 else "gtc"
            fresh.sell(
                f"s{number}", 1_000 + number, 3_000 + number, time_in_force=TimeInForce(kind)
            )
            fresh.buy(f"b{number}", 900 + 7 * number, 4_000 + number)
        found, gone, blocks = [], [], 0
        while open_orders(fresh) and blocks < 50:
            events = fresh.next_block(slots=1) if not blocks else fresh.next_block(ms=1)
            found += trades(events)
            gone += [event for event in events if isinstance(event, OrderClosed)]
            blocks += 1
        return blocks, found, gone

    at_once, over_blocks = outcome(10**9), outcome(4 * clock.WORK_FILL)
    assert at_once[0] == 1
    assert over_blocks[0] > 5
    assert over_blocks[1] == at_once[1]
    assert sorted(over_blocks[2], key=repr) == sorted(at_once[2], key=repr)


def test_who_leaves_while_fills_are_carried_over_takes_them_along(market, monkeypatch) -> None:
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", clock.WORK_FILL + clock.WORK_SLOT)
    ids = []
    for number in range(4):
        market.sell(f"s{number}", 1_000, 3_000 + number)
        ids.append(market.buy(f"b{number}", 1_000, 4_000 + number))
    first = trades(market.next_block(ms=1_000))
    waiting = [row for _, row in CARRIED_OVER.items(market.state)]
    left = waiting[0].fills[-1].buy_id
    market.cancel(f"b{ids.index(left)}", left)
    rest = []
    while any(CARRIED_OVER.items(market.state)):
        rest += trades(market.next_block(ms=1_000))
    bought = {trade.buy_id for trade in first + rest}
    assert left not in bought
    assert bought == set(ids) - {left}
