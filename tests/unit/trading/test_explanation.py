"""Each reason why an order did not trade, in a book made for it, and the remedy to the mTHB."""

from __future__ import annotations

import pytest

from gridtokenx.primitives.places import Boundary
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.trading.clock import Budget
from gridtokenx.trading.explanation import (
    Explanation,
    Reason,
    Remedy,
    SlotBook,
    explain,
    read_book,
)
from gridtokenx.trading.matching import ClearingBegun, GridView, Matching
from gridtokenx.trading.model import (
    ClearingOrder,
    MarketParameters,
    MatchingMode,
    Side,
    Source,
)

NEAR, BESIDE, FAR = "BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001"
WHEELING = (300, 600, 900, 1151)


def order(name: str, wh: int, limit: int, place: str = NEAR, **changes: object) -> ClearingOrder:
    """`b...` buys anything, `s...` sells solar energy; all of block 5."""
    selling = name.startswith("s")
    side, source = (Side.SELL, Source.SOLAR) if selling else (Side.BUY, Source.ANY)
    key = name.encode()
    made = ClearingOrder(key, key, side, wh, limit, place, source, False, 5)
    return made._replace(**changes)


def told(
    *orders: ClearingOrder, headroom: dict[Boundary, int] | None = None, band: int = 10_000
) -> Explanation:
    """The explanation of the first order."""
    book = SlotBook(orders, headroom or {}, WHEELING, 2, (1000, band))
    return explain(book, orders[0].id)


def test_what_traded_whole_needs_no_remedy() -> None:
    one = told(order("b1", 1000, 5000), order("s1", 1000, 3000))
    assert (one.reason, one.remedy, one.traded_wh) == (Reason.TRADED, Remedy(), 1000)
    assert [(fill.buy_id, fill.sell_id, fill.tier) for fill in one.fills] == [(b"b1", b"s1", 0)]
    assert one.groups[0].price_mthb == (3000 + 4700) // 2


def test_nobody_on_the_other_side() -> None:
    elsewhere = order("s1", 1000, 2000, "NTB-01-SUB001")
    assert told(order("b1", 1000, 5000), order("b2", 1000, 6000), elsewhere).reason is Reason.NOBODY


def test_a_limit_that_does_not_pay_the_wheeling_too() -> None:
    one = told(order("b1", 1000, 3899, FAR), order("s1", 1000, 3000))
    assert (one.reason, one.remedy) == (Reason.PRICE, Remedy(limit_mthb=3900))
    seller = told(order("s1", 1000, 3000), order("b1", 1000, 3899, FAR))
    assert (seller.reason, seller.remedy) == (Reason.PRICE, Remedy(limit_mthb=2999))


def test_better_limits_stood_before_it() -> None:
    one = told(order("b1", 500, 4000), order("b2", 1000, 4500), order("s1", 1000, 3000))
    assert (one.reason, one.remedy) == (Reason.PRICE, Remedy(limit_mthb=4500))
    seen = one.groups[0]
    assert (seen.before_orders, seen.before_wh, seen.side_orders) == (1, 1000, 2)
    assert (seen.other_orders, seen.best_other_mthb) == (1, 3000)


def test_the_rest_of_a_part_has_its_reason() -> None:
    one = told(order("b1", 1000, 4000), order("s1", 400, 3000), order("s2", 900, 3800))
    assert (one.reason, one.traded_wh, one.wanted_wh) == (Reason.PRICE, 400, 1000)
    assert one.remedy == Remedy(limit_mthb=4100)


def test_equals_of_an_earlier_block_come_first() -> None:
    earlier = order("b2", 1000, 4000, height=4)
    one = told(order("b1", 1000, 4000), earlier, order("s1", 1000, 3000))
    assert (one.reason, one.remedy) == (Reason.EARLIER, Remedy(limit_mthb=4001))


def test_shares_under_100_wh_go_to_fewer() -> None:
    equals = order("b1", 100, 4000), order("b2", 100, 4000)
    one = told(order("b9", 100, 4000), *equals, order("s1", 150, 3000))
    assert (one.reason, one.traded_wh) == (Reason.SHARED, 0)
    assert one.remedy == Remedy(limit_mthb=4001)


def test_a_full_line_is_named_and_the_others_are_not() -> None:
    room = {Boundary(BESIDE, True): 300, Boundary(NEAR, False): 5000, Boundary(BESIDE, False): 0}
    one = told(order("b1", 1000, 5000), order("s1", 1000, 3000, BESIDE), headroom=room)
    assert (one.reason, one.traded_wh) == (Reason.HEADROOM, 300)
    assert one.remedy == Remedy(unlimited=(Boundary(BESIDE, True),))
    assert [(line.boundary.node, line.room_wh, line.used_wh) for line in one.lines] == [
        (NEAR, 5000, 300)
    ]


def test_two_lines_on_one_way_are_both_named() -> None:
    room = {Boundary(FAR, False): 0, Boundary("BKK-01", True): 0, Boundary("BKK-02", True): 0}
    one = told(order("b1", 1000, 5000, FAR), order("s1", 1000, 3000), headroom=room)
    assert one.reason is Reason.HEADROOM
    assert set(one.remedy.unlimited) == {Boundary(FAR, False), Boundary("BKK-01", True)}


def test_a_full_line_and_a_limit_together() -> None:
    room = {Boundary(NEAR, False): 0}
    one = told(order("b1", 1000, 3000), order("s1", 1000, 3000, BESIDE), headroom=room)
    assert one.reason is Reason.HEADROOM
    assert one.remedy == Remedy(limit_mthb=3600, unlimited=(Boundary(NEAR, False),))


def test_a_required_source_that_nobody_sells() -> None:
    wish = order("b1", 1000, 5000, source=Source.WIND, require=True)
    one = told(wish, order("s1", 1000, 3000))
    assert (one.reason, one.remedy) == (Reason.SOURCE, Remedy(any_source=True))


def test_buyers_who_require_another_source() -> None:
    wish = order("b1", 1000, 5000, source=Source.WIND, require=True)
    one = told(order("s1", 1000, 3000), wish)
    assert (one.reason, one.remedy) == (Reason.SOURCE, Remedy(any_source=True))


@pytest.mark.parametrize("band", [10_000, 4000])
def test_all_there_was_traded_nearer_or_above_the_band(band: int) -> None:
    one = told(
        order("b1", 1000, 4000, BESIDE),
        order("b2", 1000, 4000),
        order("s1", 1000, 3000),
        band=band,
    )
    assert one.reason is Reason.EXHAUSTED


def test_a_book_is_read_as_its_clearing_goes_by_it(market) -> None:
    """Without those whose limit left the band, who are halted, or who have other slots."""
    slot = market.now_ms // SLOT_MS + 1
    sold = market.sell("sun", 1_000, 3_000, last_slot=slot + 1, max_wh_per_slot=600)
    market.buy("rich", 1_000, 9_000)
    bought = market.buy("shop", 1_000, 5_000, location=BESIDE)
    market.buy("later", 1_000, 5_000, first_slot=slot + 1)
    market.buy("halted", 1_000, 5_000, location="NTB-01-SUB001")
    parameters = MarketParameters(matching_mode=MatchingMode.GATE, max_price_mthb=8_000)
    seen: list[SlotBook] = []

    def watch(begun: ClearingBegun) -> None:
        assert (begun.slot, begun.territories) == (slot, ("BKK",))
        seen.append(read_book(begun))

    grid = GridView(
        lambda node, _: 700 if node == NEAR else None, lambda territory: territory == "NTB"
    )
    Matching(market.state, parameters, grid, Budget(1_000_000), watch).clear_gate(slot, "")
    (book,) = seen
    assert {one.id: one.energy_wh for one in book.orders} == {sold: 600, bought: 1_000}
    assert book.headroom == {Boundary(NEAR, True): 700, Boundary(NEAR, False): 700}
    assert (book.band, book.max_tier, book.wheeling_mthb) == ((1_000, 8_000), 2, WHEELING)
    assert explain(book, bought).traded_wh == 600


def test_an_order_that_is_not_in_the_book() -> None:
    book = SlotBook((), {}, WHEELING, 2, (1000, 10_000))
    with pytest.raises(KeyError):
        explain(book, b"b1")
