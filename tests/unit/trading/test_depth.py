"""The books in memory clear as all orders together would, kept from block to block or made anew."""

import random

import pytest

from gridtokenx.primitives.places import Boundary
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay, index
from gridtokenx.trading.clearing import clear, clear_books
from gridtokenx.trading.depth import Depth, open_wh, span_blocks, taker
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.model import (
    ORDERS,
    Clearing,
    ClearingOrder,
    Order,
    Source,
    TradeMatched,
)
from tests.support.kept_state import KeptState

TERRITORIES = ["BKK", "NTB"]
FEES = (300, 600, 900, 1151)
WHOLE_BAND = (0, 1_000_000)
PLACES = [
    f"{territory}-{zone}-SUB00{n}"
    for territory in TERRITORIES
    for zone in ("01", "02")
    for n in "012"
]


def open_orders(state, slot: int, territories: list[str]) -> list[Order]:
    """The slow way: every order there is."""
    return [
        order
        for _, order in ORDERS.items(state)
        if order.terms.first_slot <= slot <= order.terms.last_slot
        and order.terms.location[:3] in territories
        and open_wh(order, slot) > 0
    ]


def as_taken(order: Order, slot: int) -> ClearingOrder:
    return taker(order, open_wh(order, slot))


def clear_books_of(look, territories: list[str], headroom: dict) -> tuple[Clearing, int]:
    return clear_books(
        look.groups(territories), look.taker, wheeling_mthb=FEES, headroom_of=headroom.get
    )


def fill_book(market, chance: random.Random, *, wishes: bool = False) -> None:
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
            location=f"{chance.choice(TERRITORIES)}-{zone}-SUB00{number % 3}",
            max_wh_per_slot=chance.choice([100, 900, 3_000]),
            **(_wish(chance, number % 2) if wishes else {}),
        )


def _wish(chance: random.Random, selling: int) -> dict:
    if selling:
        return {"source": chance.choice([Source.SOLAR, Source.WIND, Source.COAL])}
    source = chance.choice([Source.ANY, Source.ANY, Source.RENEWABLE, Source.SOLAR])
    return {"source": source, "require": source is not Source.ANY and chance.random() < 0.2}


@pytest.mark.parametrize("seed", range(3))
def test_books_clear_as_all_orders_in_every_slot_and_after_every_block(market, seed) -> None:
    chance = random.Random(seed)
    base = market.now_ms // SLOT_MS + 1
    keeper = KeptState()
    market.state = Overlay(keeper)
    market.configure()
    for _ in range(4):
        fill_book(market, chance)
        keeper.commit(market.state)
        market.state = Overlay(keeper)
        anew = Overlay(MemoryReader(dict(keeper.values)))
        for slot in range(base, base + 12):
            for territories, tiers in ((["BKK"], 1), (["NTB"], 2), (["BKK"], 3), (TERRITORIES, 4)):
                orders = [as_taken(order, slot) for order in open_orders(anew, slot, territories)]
                expected = clear(orders, wheeling_mthb=FEES, max_tier=tiers - 1)
                found = []
                for state in (market.state, anew):
                    look = index(state, Depth).look(state, slot, FEES[:tiers], WHOLE_BAND)
                    found.append(clear_books_of(look, territories, {}))
                assert found[0] == found[1]
                assert found[0][0] == expected
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
    market.configure()
    market.next_block()  # In a chain's first block nothing is cleared.
    market.buy("b", 9_000, 9_000, last_slot=slot + 3, max_wh_per_slot=100)
    for number in range(5):
        market.sell(f"s{number}", 500, 3_000 + number)
    keeper.commit(market.state)
    market.state = Overlay(keeper)
    assert any(keeper.kept(Depth).look(market.state, slot, FEES[:3], WHOLE_BAND).groups(["BKK"]))
    market.next_block(ms=1_000)
    for depth in (
        keeper.kept(Depth),
        index(market.state, Depth),
    ):  # The kept one is a block behind.
        assert not any(depth.look(market.state, slot, FEES[:3], WHOLE_BAND).groups(["BKK"]))
        assert any(depth.look(keeper, slot, FEES[:3], WHOLE_BAND).groups(["BKK"]))


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_who_leaves_takes_only_his_own_line_of_a_limit(market, leaver: int) -> None:
    keeper = KeptState()
    market.state = Overlay(keeper)
    market.configure()
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


@pytest.mark.parametrize("wishes", [False, True])
def test_books_that_are_read_in_part_clear_as_the_whole_ones(market, wishes: bool) -> None:
    """With limits of the grid, of slots and of sources; wherever the reading has to go on."""
    chance = random.Random(9)
    traded = 0
    for _ in range(25):
        slot = market.now_ms // SLOT_MS + 9
        fill_book(market, chance, wishes=wishes)
        nodes = [node for place in PLACES for node in groups_of(place)[:3]]
        keys = [Boundary(node, is_export) for node in nodes for is_export in (True, False)]
        headroom = {key: chance.randrange(4_000) for key in chance.sample(keys, 3)}
        headroom = chance.choice([{}, headroom])
        for territories, tiers in ((["BKK"], 1), (["BKK"], 3), (TERRITORIES, 4)):
            look = index(market.state, Depth).look(market.state, slot, FEES[:tiers], WHOLE_BAND)
            orders = [
                as_taken(order, slot) for order in open_orders(market.state, slot, territories)
            ]
            result, cost = clear_books_of(look, territories, headroom)
            assert result == clear(
                orders, wheeling_mthb=FEES, max_tier=tiers - 1, headroom=headroom
            )
            assert 0 <= cost <= 4 * tiers * len(orders)
            traded += bool(result.fills)
        market.next_block(ms=1_000)
    assert traded > 20


def read_of(market, slot: int) -> tuple[Clearing, int, int]:
    """A slot's clearing, its cost, and how many orders were read for it."""
    look = index(market.state, Depth).look(market.state, slot, FEES[:3], WHOLE_BAND)
    read = []

    def order_of(order_id: bytes) -> ClearingOrder | None:
        read.append(order_id)
        return look.taker(order_id)

    result, cost = clear_books(
        look.groups(["BKK"]), order_of, wheeling_mthb=FEES, headroom_of=lambda _: None
    )
    return result, cost, len(read)


def test_orders_that_only_the_best_of_a_side_would_meet_are_not_read(market) -> None:
    """Each of a hundred low bids crosses the one cheap ask, but it can serve only the best."""
    slot = market.now_ms // SLOT_MS + 1
    market.next_block()
    for number in range(100):
        market.buy(f"b{number}", 1_000, 4_000 - number)
    market.sell("s", 1_000, 3_000)
    result, cost, read = read_of(market, slot)
    assert len(result.fills) == 1
    assert cost == 3  # The two that trade, and the first rejected bid.
    assert read == 3


def test_buyers_who_require_what_is_not_there_are_not_read_one_by_one(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    market.next_block()
    for number in range(100):
        terms = {"source": Source.SOLAR, "require": True}
        market.buy(f"b{number}", 1_000, 5_000 - number, **terms)
    market.buy("plain", 600, 4_000)
    market.sell("s", 1_000, 3_000, source=Source.WIND)
    result, cost, read = read_of(market, slot)
    assert [fill.energy_wh for fill in result.fills] == [600]
    assert read <= 6
    # In the substation the first sweep looks at two of them and the seller, the third at the plain
    # buyer and the seller; in zone and territory the first at one of them and the seller.
    assert cost == 3 + 2 + 2 + 2
