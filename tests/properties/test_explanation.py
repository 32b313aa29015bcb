"""Laws of explanations: one reason for each order, and what it says would have helped does."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.trading.explanation import Explanation, Reason, Remedy, SlotBook, explain
from gridtokenx.trading.model import ClearingOrder, Side
from tests.properties.test_clearing import WHEELING, books, limits, parsed

BAND = (1000, 10_000)
OF_A_CLEARING = {
    *(Reason.TRADED, Reason.NOBODY, Reason.HEADROOM, Reason.SOURCE, Reason.EARLIER),
    *(Reason.SHARED, Reason.PRICE, Reason.EXHAUSTED),
}
laws = settings(max_examples=60, derandomize=True, database=None, deadline=None)


def traded_wh(book: SlotBook, order: ClearingOrder) -> int:
    fills = book.clear().fills
    return sum(fill.energy_wh for fill in fills if order.id in (fill.buy_id, fill.sell_id))


def check_remedy(book: SlotBook, told: Explanation) -> None:
    """All of a remedy helps; without any part of it, or with a limit that is a bit less, not."""
    order, remedy = told.order, told.remedy

    def helps(tried: Remedy) -> bool:
        return traded_wh(book.remedied(order, tried), order) > told.traded_wh

    assert helps(remedy)
    if remedy.limit_mthb is not None:
        step = -1 if order.side is Side.BUY else 1
        nearer = remedy.limit_mthb + step
        assert BAND[0] <= remedy.limit_mthb <= BAND[1]
        assert not helps(Remedy(nearer, remedy.unlimited, remedy.any_source))
    for boundary in remedy.unlimited[-1:]:  # The last one found is needed beside all others.
        others = tuple(one for one in remedy.unlimited if one != boundary)
        alone = Remedy(BAND[order.side is Side.BUY], others, remedy.any_source)
        if remedy.limit_mthb is not None:
            assert not helps(alone)
        else:
            assert not helps(Remedy(None, others, remedy.any_source))


@laws
@given(orders=books(), headroom=limits, max_tier=st.integers(0, 3))
def test_each_order_has_one_reason_and_what_it_says_would_help_does(
    orders: list[ClearingOrder], headroom: dict[str, int], max_tier: int
) -> None:
    book = SlotBook(tuple(orders), parsed(headroom), WHEELING, max_tier, BAND)
    clearing = book.clear()
    for order in orders:
        told = explain(book, order.id)
        assert told.traded_wh == traded_wh(book, order) <= told.wanted_wh
        assert told.reason in OF_A_CLEARING
        assert (told.reason is Reason.TRADED) == (told.traded_wh == told.wanted_wh)
        assert (told.remedy == Remedy()) == (
            told.reason in (Reason.TRADED, Reason.NOBODY, Reason.EXHAUSTED)
        )
        if told.remedy != Remedy():
            check_remedy(book.around(order), told)
        assert told.is_congested == (order.id in clearing.congested)


@laws
@given(orders=books(), headroom=limits)
def test_what_is_told_of_groups_and_lines_adds_up(
    orders: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    book = SlotBook(tuple(orders), parsed(headroom), WHEELING, 2, BAND)
    clearing = book.clear()
    price_of = {(tier, group): price for tier, group, price in clearing.prices}
    for order in orders:
        told = explain(book, order.id)
        assert sum(one.own_wh for one in told.groups) == told.traded_wh
        assert [one.tier for one in told.groups] == [0, 1, 2]
        for one in told.groups:
            assert one.price_mthb == price_of.get((one.tier, one.group))
            assert one.before_orders < one.side_orders
        assert all(0 <= line.used_wh <= line.room_wh for line in told.lines)
        by_tier = Counter[int]()
        for fill in told.fills:
            by_tier[fill.tier] += fill.energy_wh
        assert {one.tier: one.own_wh for one in told.groups if one.own_wh} == dict(by_tier)


@laws
@given(orders=books(), headroom=limits)
def test_nobody_and_exhausted_are_so_at_the_best_limit_too(
    orders: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    book = SlotBook(tuple(orders), parsed(headroom), WHEELING, 2, BAND)
    for order in orders:
        told = explain(book, order.id)
        if told.reason in (Reason.NOBODY, Reason.EXHAUSTED):
            best_mthb = BAND[order.side is Side.BUY]
            best = book.remedied(order, Remedy(best_mthb, tuple(book.headroom), True))
            assert traded_wh(best, order) <= told.traded_wh
