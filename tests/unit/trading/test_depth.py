"""The books in memory give exactly the orders that somebody in one of their groups can trade with,
whether they were kept from block to block or are built anew."""

import random
from itertools import product

import pytest

from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay, index
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.depth import Depth, groups_of, open_wh, span_blocks
from gridtokenx.trading.model import ORDERS, ClearingOrder, Order, Side, TradeMatched
from tests.kept_state import KeptState

REGIONS = ["BKK", "NTB"]
FEES = (300, 600, 900, 1151)


def open_orders(state, slot: int, regions: list[str]) -> list[Order]:
    """The slow way: every order there is."""
    return [
        order
        for _, order in ORDERS.items(state)
        if order.terms.first_slot <= slot <= order.terms.last_slot
        and order.terms.location[:3] in regions
        and open_wh(order, slot) >= 100
    ]


def crossing_by_hand(orders: list[Order], fees: tuple[int, ...]) -> set[bytes]:
    found = set()
    for bid, ask in product(orders, orders):
        if bid.terms.side is Side.BUY and ask.terms.side is Side.SELL:
            pairs = zip(groups_of(bid.terms.location), groups_of(ask.terms.location), strict=True)
            for fee, (one, other) in zip(fees, pairs, strict=False):
                if one == other and bid.terms.limit_mthb - fee >= ask.terms.limit_mthb:
                    found |= {bid.id, ask.id}
    return found


def fill_book(market, chance: random.Random) -> None:
    base = market.now_ms // SLOT_MS + 1
    for number in range(60):
        first = base + chance.randrange(9)
        place = market.sell if number % 2 else market.buy
        zone = chance.choice(["01", "01", "02"])
        place(
            f"owner {number}",
            chance.randrange(100, 3_000),
            chance.randrange(2_500, 4_200) + (0 if number % 2 else 400),
            first_slot=first,
            last_slot=first + chance.choice([0, 0, 1, 7, 40]),
            location=f"{chance.choice(REGIONS)}-{zone}-SUB00{number % 3}",
            max_wh_per_slot=chance.choice([100, 900, 3_000]),
        )


@pytest.mark.parametrize("seed", range(3))
def test_crossing_orders_are_found_in_every_slot_and_after_every_block(market, seed) -> None:
    chance = random.Random(seed)
    base = market.now_ms // SLOT_MS + 1
    keeper = KeptState()
    market.state = Overlay(keeper)
    for _ in range(4):
        fill_book(market, chance)
        keeper.commit(market.state)
        market.state = Overlay(keeper)
        anew = Overlay(MemoryReader(dict(keeper.values)))
        for slot in range(base, base + 12):
            for regions, tiers in ((["BKK"], 1), (["NTB"], 2), (["BKK"], 3), (REGIONS, 4)):
                expected = crossing_by_hand(open_orders(anew, slot, regions), FEES[:tiers])
                for state in (market.state, anew):
                    depth = index(state, Depth)
                    found = depth.crossing(state, slot, regions, FEES[:tiers])
                    assert {order.id for order in found} == expected
                    assert len(found) == len(expected)
        market.next_block(ms=1_000)  # Some are filled in part, others leave.
        keeper.commit(market.state)
        market.state = Overlay(keeper)
    market.next_block(slots=60)
    keeper.commit(market.state)
    assert list(ORDERS.items(keeper)) == []
    assert (keeper.kept(Depth)._blocks, keeper.kept(Depth)._terms) == ({}, {})


def test_who_left_in_this_block_or_had_his_share_of_a_slot_is_passed_over(market) -> None:
    """A greedy capped buyer must not make the whole book seem to cross."""
    slot = market.now_ms // SLOT_MS + 1
    keeper = KeptState()
    market.state = Overlay(keeper)
    market.next_block()  # In a chain's first block nothing is cleared.
    market.buy("b", 9_000, 9_000, last_slot=slot + 3, max_wh_per_slot=100)
    for number in range(5):
        market.sell(f"s{number}", 500, 3_000 + number)
    keeper.commit(market.state)
    market.state = Overlay(keeper)
    assert len(keeper.kept(Depth).crossing(market.state, slot, ["BKK"], FEES[:3])) == 6
    market.next_block(ms=1_000)
    for depth in (
        keeper.kept(Depth),
        index(market.state, Depth),
    ):  # The kept one is a block behind.
        assert depth.crossing(market.state, slot, ["BKK"], FEES[:3]) == []
        assert len(depth.crossing(keeper, slot, ["BKK"], FEES[:3])) == 6


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_who_leaves_takes_only_his_own_line_of_a_limit(market, leaver: int) -> None:
    keeper = KeptState()
    market.state = Overlay(keeper)
    market.next_block()
    ids = sorted((market.buy(name, 1_000, 4_000), name) for name in ("anna", "boon", "chai"))
    keeper.commit(market.state)
    assert len(keeper.kept(Depth)._terms) == 3
    market.state = Overlay(keeper)
    left_id, name = ids.pop(leaver)
    market.cancel(name, left_id)
    keeper.commit(market.state)
    market.state = Overlay(keeper)
    market.sell("dao", 2_000, 3_000)
    keeper.commit(market.state)
    market.state = Overlay(keeper)  # Orders unchanged: the kept books are asked, not built anew.
    events = market.next_block(ms=1_000)
    bought = sorted(event.trade.buy_id for event in events if isinstance(event, TradeMatched))
    assert bought == [order_id for order_id, _ in ids]


def test_a_span_is_cut_into_few_blocks_that_hold_each_slot_once() -> None:
    for first in (1_000, 1_023, 1_055):
        for length in (1, 2, 31, 64, 96):
            blocks = span_blocks(first, first + length - 1)
            assert len(blocks) <= 12
            slots = [
                slot
                for level, number in blocks
                for slot in range(number << level, (number + 1) << level)
            ]
            assert sorted(slots) == list(range(first, first + length))
            assert max(level for level, _ in blocks) < 7


def test_a_clearing_of_the_crossing_orders_is_that_of_the_whole_book(market) -> None:
    chance = random.Random(9)
    fill_book(market, chance)
    slot = market.now_ms // SLOT_MS + 9

    def cleared(orders: list[Order]):
        takers = [
            ClearingOrder(
                order.id,
                order.owner,
                order.terms.side,
                open_wh(order, slot),
                order.terms.limit_mthb,
                order.terms.location,
                order.terms.source,
                order.terms.require,
                order.height,
            )
            for order in orders
        ]
        return clear(takers, tie_salt=bytes(32), wheeling_mthb=FEES)

    some = cleared(index(market.state, Depth).crossing(market.state, slot, ["BKK"], FEES[:3]))
    assert some.fills
    assert some == cleared(open_orders(market.state, slot, ["BKK"]))
