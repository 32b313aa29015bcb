"""The books in memory give exactly the orders that somebody in one of their groups can trade with,
whether they were kept from block to block or are built anew."""

import random
from itertools import product

import pytest

from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay, index
from gridtokenx.trading import clearing
from gridtokenx.trading.clearing import clear, clear_books
from gridtokenx.trading.depth import Depth, groups_of, open_wh, span_blocks, taker
from gridtokenx.trading.model import ORDERS, ClearingOrder, Order, Side, Source, TradeMatched
from tests.kept_state import KeptState

REGIONS = ["BKK", "NTB"]
FEES = (300, 600, 900, 1151)
PLACES = [f"{region}-{zone}-SUB00{n}" for region in REGIONS for zone in ("01", "02") for n in "012"]


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
            location=f"{chance.choice(REGIONS)}-{zone}-SUB00{number % 3}",
            max_wh_per_slot=chance.choice([100, 900, 3_000]),
            **(_wish(chance, number % 2) if wishes else {}),
        )


def _wish(chance: random.Random, selling: int) -> dict:
    if selling:
        return {"source": chance.choice([Source.SOLAR, Source.WIND, Source.COAL])}
    source = chance.choice([Source.ANY, Source.ANY, Source.RENEWABLE, Source.SOLAR])
    return {"source": source, "require": source is not Source.ANY and chance.random() < 0.2}


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
                    found = depth.look(state, slot, FEES[:tiers]).crossing(regions)
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
    assert len(keeper.kept(Depth).look(market.state, slot, FEES[:3]).crossing(["BKK"])) == 6
    market.next_block(ms=1_000)
    for depth in (
        keeper.kept(Depth),
        index(market.state, Depth),
    ):  # The kept one is a block behind.
        assert depth.look(market.state, slot, FEES[:3]).crossing(["BKK"]) == []
        assert len(depth.look(keeper, slot, FEES[:3]).crossing(["BKK"])) == 6


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


@pytest.mark.parametrize("first_look", [1, 3, 1_000])
@pytest.mark.parametrize("wishes", [False, True])
def test_books_that_are_read_in_part_clear_as_the_whole_ones(
    market, monkeypatch, wishes: bool, first_look: int
) -> None:
    """With limits of the grid, of slots and of sources; wherever the reading has to go on."""
    monkeypatch.setattr(clearing, "FIRST_LOOK", first_look)
    chance = random.Random(9)
    answered = 0
    for _ in range(25):
        slot = market.now_ms // SLOT_MS + 9
        fill_book(market, chance, wishes=wishes)
        nodes = [node for place in PLACES for node in groups_of(place)[:3]]
        keys = [f"{direction}:{node}" for node in nodes for direction in "xm"]
        headroom = {key: chance.randrange(4_000) for key in chance.sample(keys, 3)}
        headroom = chance.choice([{}, headroom])
        for regions, tiers in ((["BKK"], 1), (["BKK"], 3), (REGIONS, 4)):
            look = index(market.state, Depth).look(market.state, slot, FEES[:tiers])
            answer = clear_books(
                look.groups(regions),
                look.taker,
                tie_salt=bytes(32),
                wheeling_mthb=FEES,
                headroom_of=headroom.get,
            )
            whole = open_orders(market.state, slot, regions)
            some = look.crossing(regions)
            expected = clear(
                [taker(order, slot) for order in whole],
                tie_salt=bytes(32),
                wheeling_mthb=FEES,
                max_tier=tiers - 1,
                headroom=headroom,
            )
            assert expected == clear(
                [taker(order, slot) for order in some],
                tie_salt=bytes(32),
                wheeling_mthb=FEES,
                max_tier=tiers - 1,
                headroom=headroom,
            )
            if answer is not None:
                assert answer[0] == expected
                assert 0 <= answer[1] <= len(some)
                answered += bool(expected.fills)
        market.next_block(ms=1_000)
    assert answered > (5 if wishes else 20)


def test_orders_that_only_the_best_of_a_side_would_meet_are_not_read(market) -> None:
    """Each of a hundred low bids crosses the one cheap ask, but it can serve only the best."""
    slot = market.now_ms // SLOT_MS + 1
    market.next_block()
    for number in range(100):
        market.buy(f"b{number}", 1_000, 4_000 - number)
    market.sell("s", 1_000, 3_000)
    look = index(market.state, Depth).look(market.state, slot, FEES[:3])
    read = []

    def order_of(order_id: bytes) -> ClearingOrder | None:
        read.append(order_id)
        return look.taker(order_id)

    answer = clear_books(
        look.groups(["BKK"]),
        order_of,
        tie_salt=bytes(32),
        wheeling_mthb=FEES,
        headroom_of=lambda _: None,
    )
    assert answer is not None
    clearing_, passed = answer
    assert len(clearing_.fills) == 1
    assert passed == 2
    assert len(read) <= clearing.FIRST_LOOK + 1
    assert len(look.crossing(["BKK"])) == 101
