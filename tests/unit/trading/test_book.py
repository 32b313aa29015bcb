"""The index gives exactly the orders that somebody on the other side could trade with."""

import random

import pytest

from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.trading.book import View, open_wh
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import ClearingOrder, Order, Side

REGIONS = ["BKK", "NTB"]


def crossing_by_hand(orders: list[Order], slot: int, least_mthb: int) -> set[bytes]:
    able = [order for order in orders if open_wh(order, slot) >= 100]
    bids = [order.terms.limit_mthb for order in able if order.terms.side is Side.BUY]
    asks = [order.terms.limit_mthb for order in able if order.terms.side is Side.SELL]
    if not bids or not asks:
        return set()
    lowest, highest = min(asks) + least_mthb, max(bids) - least_mthb
    return {
        order.id
        for order in able
        if (
            order.terms.limit_mthb >= lowest
            if order.terms.side is Side.BUY
            else order.terms.limit_mthb <= highest
        )
    }


def fill_book(market, chance: random.Random) -> None:
    base = market.now_ms // SLOT_MS + 1
    for number in range(60):
        first = base + chance.randrange(9)
        place = market.sell if number % 2 else market.buy
        place(
            f"owner {number}",
            chance.randrange(100, 3_000),
            chance.randrange(2_500, 4_200) + (0 if number % 2 else 400),
            first_slot=first,
            last_slot=first + chance.choice([0, 0, 1, 7, 40]),
            location=f"{chance.choice(REGIONS)}-01-SUB00{number % 3}",
            max_wh_per_slot=chance.choice([100, 900, 3_000]),
        )


@pytest.mark.parametrize("seed", range(8))
def test_crossing_orders_are_found_in_every_slot_and_after_every_block(market, seed) -> None:
    chance = random.Random(seed)
    base = market.now_ms // SLOT_MS + 1
    for _ in range(3):
        fill_book(market, chance)
        rows = {key: value for key, value in market.state.changes() if value is not None}
        stored = Overlay(MemoryReader(rows))  # As after a block.
        for view in (View(market.state), View(stored)):
            for slot in range(base, base + 12):
                for regions in (["BKK"], ["NTB"], REGIONS):
                    known = [one for name in regions for one in view.open_orders(slot, name)]
                    found = [order.id for order in view.crossing(slot, regions, 300)]
                    assert len(found) == len(set(found))
                    assert set(found) == crossing_by_hand(known, slot, 300)
        market.next_block(ms=1_000)


def test_a_clearing_of_the_crossing_orders_is_that_of_the_whole_book(market) -> None:
    chance = random.Random(9)
    fill_book(market, chance)
    slot = market.now_ms // SLOT_MS + 9
    view = View(market.state)

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
        return clear(takers, tie_salt=bytes(32), wheeling_mthb=(300, 600, 900, 1151))

    some = cleared(view.crossing(slot, ["BKK"], 300))
    assert some.fills
    assert some == cleared(view.open_orders(slot, "BKK"))
