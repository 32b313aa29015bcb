"""Rules of the auction one at a time, beside the worked examples in tests/vectors."""

import pytest

from gridtokenx.primitives.places import parse_boundary
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import Clearing, ClearingOrder, Side, Source

WHEELING = (300, 600, 900, 1151)
HERE = "BKK-01-SUB001"
NEXT_DOOR = "BKK-01-SUB002"
OTHER_ZONE = "BKK-02-SUB003"
OTHER_TERRITORY = "CNX-01-SUB001"
ALL_PLACES = (HERE, NEXT_DOOR, OTHER_ZONE, OTHER_TERRITORY)


def ask(
    name: str, wh: int, limit: int, at: str = HERE, source: Source = Source.SOLAR
) -> ClearingOrder:
    order_id = name.encode()
    return ClearingOrder(order_id, b"seller", Side.SELL, wh, limit, at, source, False, 10)


def bid(
    name: str,
    wh: int,
    limit: int,
    at: str = HERE,
    source: Source = Source.ANY,
    require: bool = False,
) -> ClearingOrder:
    order_id = name.encode()
    return ClearingOrder(order_id, b"buyer", Side.BUY, wh, limit, at, source, require, 10)


def run(*orders: ClearingOrder, max_tier: int = 2, **limits: int) -> Clearing:
    texts = {f"{key[0]}:{key[2:].replace('_', '-')}": wh for key, wh in limits.items()}
    headroom = {parse_boundary(text): wh for text, wh in texts.items()}
    return clear(orders, wheeling_mthb=WHEELING, max_tier=max_tier, headroom=headroom)


def trades(result: Clearing) -> list[tuple[str, str, int]]:
    return [(f.buy_id.decode(), f.sell_id.decode(), f.energy_wh) for f in result.fills]


def test_empty_and_one_sided_books_clear_to_nothing() -> None:
    nothing = Clearing((), (), ())
    assert run() == nothing
    assert run(ask("s", 1000, 3000)) == nothing
    assert run(bid("b", 1000, 9000)) == nothing


def test_wheeling_decides_whether_a_pair_crosses() -> None:
    assert trades(run(ask("s", 1000, 3000), bid("b", 1000, 3300))) == [("b", "s", 1000)]
    assert trades(run(ask("s", 1000, 3000), bid("b", 1000, 3299))) == []
    assert trades(run(ask("s", 1000, 3000, NEXT_DOOR), bid("b", 1000, 3599))) == []


def test_odd_sum_rounds_the_price_down() -> None:
    assert run(ask("s", 1000, 3000), bid("b", 1000, 3301)).prices == ((0, HERE, 3000),)


@pytest.mark.parametrize("max_tier", [0, 1, 2, 3])
def test_trade_goes_no_farther_than_the_tier_allowed(max_tier: int) -> None:
    sellers = [ask(f"s{n}", 1000, 3000, at) for n, at in enumerate(ALL_PLACES)]
    result = run(*sellers, bid("b", 9000, 9000), max_tier=max_tier)
    assert [fill.tier for fill in result.fills] == list(range(max_tier + 1))
    assert [fill.wheeling_mthb for fill in result.fills] == list(WHEELING[: max_tier + 1])
    assert [group for _, group, _ in result.prices] == [HERE, "BKK-01", "BKK", "TH"][: max_tier + 1]


def test_groups_of_a_tier_clear_in_name_order() -> None:
    places = (OTHER_ZONE, NEXT_DOOR, HERE)
    book = [ask(f"s{n}", 500, 3000, at) for n, at in enumerate(places)]
    book += [bid(f"b{n}", 500, 4000, at) for n, at in enumerate(places)]
    assert [group for _, group, _ in run(*book).prices] == [HERE, NEXT_DOOR, OTHER_ZONE]


def test_equal_price_and_height_share_in_proportion() -> None:
    sizes = {"a": 500, "b": 1000, "c": 1500}
    buyers = [bid(name, wh, 4000) for name, wh in sizes.items()]
    result = run(ask("s", 1500, 3000), *buyers)
    assert trades(result) == [("a", "s", 250), ("b", "s", 500), ("c", "s", 750)]
    assert result.prices == ((0, HERE, 3700),)  # Their own rest is the first rejected.


def test_wh_that_remain_go_to_the_greatest_remainders_then_by_id() -> None:
    buyers = [bid(name, 1000, 4000) for name in "cab"]
    assert trades(run(ask("s", 1000, 3000), *buyers)) == [
        ("a", "s", 334),
        ("b", "s", 333),
        ("c", "s", 333),
    ]
    uneven = [bid("a", 1000, 4000), bid("b", 1400, 4000)]  # 416.67 and 583.33
    assert trades(run(ask("s", 1000, 3000), *uneven)) == [("a", "s", 417), ("b", "s", 583)]


def test_no_share_is_under_100_wh_unless_less_was_wanted() -> None:
    buyers = [bid(f"b{n:03}", 1000, 4000) for n in range(300)]
    result = run(ask("s", 2050, 3000), *buyers)
    assert [name for name, _, _ in trades(result)] == [f"b{n:03}" for n in range(20)]
    assert {wh for _, _, wh in trades(result)} == {102, 103}
    small = [bid("small", 60, 4000), bid("large", 1000, 4000)]
    assert trades(run(ask("s", 1000, 3000), *small)) == [("large", "s", 1000)]
    assert trades(run(ask("s", 1030, 3000), *small)) == [("large", "s", 972), ("small", "s", 58)]


def test_older_levels_are_served_before_younger_ones() -> None:
    old = [bid(name, 600, 4000)._replace(height=9) for name in "yz"]
    young = [bid(name, 600, 4000) for name in "ab"]
    result = run(ask("s", 1500, 3000), *young, *old)
    assert sorted(trades(result)) == [
        ("a", "s", 150),
        ("b", "s", 150),
        ("y", "s", 600),
        ("z", "s", 600),
    ]


def test_price_comes_before_age() -> None:
    old = bid("old", 500, 4000)._replace(height=1)
    assert trades(run(ask("s", 500, 3000), old, bid("new", 500, 4001)))[0][0] == "new"


def test_every_wh_trades() -> None:
    result = run(ask("s", 1099, 3000), bid("b1", 1000, 4000), bid("b2", 1000, 3900))
    assert trades(result) == [("b1", "s", 1000), ("b2", "s", 99)]
    assert result.prices == ((0, HERE, 3600),)  # The rest of b2 is the margin.
    assert trades(run(ask("s", 1, 3000), bid("b", 1000, 4000))) == [("b", "s", 1)]
    assert trades(run(ask("s", 0, 3000), bid("b", 1000, 4000))) == []


def test_pairing_by_source_is_exact() -> None:
    result = run(
        ask("gas", 1000, 3000, source=Source.NATURAL_GAS),
        ask("sun", 1000, 3000),
        bid("a", 950, 5000, source=Source.SOLAR, require=True),
        bid("b", 1050, 4900),
    )
    assert trades(result) == [("a", "sun", 950), ("b", "gas", 1000), ("b", "sun", 50)]


def test_equal_buyers_share_every_source() -> None:
    """Whoever wishes for solar energy gets his part of it, whatever his id."""
    result = run(
        ask("gas", 1000, 3000, source=Source.NATURAL_GAS),
        ask("sun", 500, 3100),
        bid("a", 500, 5000, source=Source.SOLAR),
        bid("b", 1000, 5000, source=Source.SOLAR),
    )
    assert trades(result) == [
        ("a", "sun", 167),
        ("b", "sun", 333),
        ("a", "gas", 333),
        ("b", "gas", 667),
    ]


def test_export_limit_of_each_boundary_crossed_counts() -> None:
    book = (ask("s", 2000, 3000, OTHER_ZONE), bid("b", 2000, 9000))
    assert trades(run(*book, x_BKK_02=700)) == [("b", "s", 700)]
    assert trades(run(*book, x_BKK_02_SUB003=600, x_BKK_02=700)) == [("b", "s", 600)]
    assert trades(run(*book, x_BKK=0)) == [("b", "s", 2000)]  # The territory is not left.
    assert trades(run(*book, m_BKK_01=500)) == [("b", "s", 500)]


def test_transformer_without_headroom_does_not_stop_its_own_substation() -> None:
    result = run(ask("s", 1000, 3000), bid("b", 1000, 4000), x_BKK_01_SUB001=0, m_BKK_01_SUB001=0)
    assert trades(result) == [("b", "s", 1000)]
    assert result.congested == ()


def test_headroom_is_shared_by_a_node_and_used_up_across_tiers() -> None:
    result = run(
        ask("s1", 400, 3000),
        ask("s2", 400, 3100),
        bid("near", 300, 9000, NEXT_DOOR),
        bid("far", 500, 9000, OTHER_ZONE),
        x_BKK_01_SUB001=450,
    )
    assert trades(result) == [("near", "s1", 300), ("far", "s1", 100), ("far", "s2", 50)]
    assert result.congested == (b"s2",)


def test_congested_orders_are_flagged_and_do_not_set_the_price() -> None:
    result = run(
        ask("stuck", 1000, 3000, NEXT_DOOR),
        ask("s", 1000, 3200, OTHER_ZONE.replace("02", "01")),
        ask("beyond", 1000, 3500, NEXT_DOOR),
        bid("b", 1000, 4600),
        x_BKK_01_SUB002=0,
    )
    assert trades(result) == [("b", "s", 1000)]
    assert result.prices == ((1, "BKK-01", 3600),)  # (3200 + 4000) // 2: not 3500 from "beyond".
    assert result.congested == (b"stuck",)  # Nobody would have had to pay "beyond" its price.


def test_headroom_is_shared_inside_each_node_from_below() -> None:
    """First the substation's headroom among its own, then the zone's among all."""
    result = run(
        ask("a", 1000, 3000),
        ask("b", 600, 3000),
        ask("c", 800, 3000, NEXT_DOOR),
        bid("far", 5000, 9000, OTHER_ZONE),
        x_BKK_01_SUB001=200,
        x_BKK_01=500,
    )
    # Inside SUB001 b's 75 would be too small, so a has 200; then 200 and 800 share 500.
    assert trades(result) == [("far", "a", 100), ("far", "c", 400)]
    assert result.congested == (b"a", b"b", b"c")
    larger = run(
        ask("a", 10_000, 3000),
        ask("b", 6_000, 3000),
        ask("c", 8_000, 3000, NEXT_DOOR),
        bid("far", 50_000, 9000, OTHER_ZONE),
        x_BKK_01_SUB001=2_000,
        x_BKK_01=5_000,
    )
    assert trades(larger) == [("far", "a", 625), ("far", "b", 375), ("far", "c", 4_000)]


def test_order_partly_kept_back_is_flagged_where_it_trades() -> None:
    result = run(
        ask("s1", 1000, 3000),
        ask("s2", 1000, 3000),
        bid("b", 300, 4000, NEXT_DOOR),
        x_BKK_01_SUB001=600,
    )
    assert trades(result) == [("b", "s1", 150), ("b", "s2", 150)]
    assert result.congested == (b"s1", b"s2")
    assert result.prices == ((1, "BKK-01", 3000),)  # 300 of the 600 Wh were not bought.


def test_flags_are_those_of_the_sweep_that_counts() -> None:
    """Only the buyer who gets nothing would have paid the price of the one who is kept back."""
    book = [
        ask("stuck", 1000, 3350),
        ask("s", 300, 3200, NEXT_DOOR),
        bid("gas", 400, 4000, source=Source.NATURAL_GAS, require=True),
    ]
    result = run(*book, bid("b", 300, 3800, "BKK-01-SUB009"), max_tier=1, x_BKK_01_SUB001=0)
    assert (trades(result), result.congested) == ([("b", "s", 300)], ())


def test_buyer_behind_a_full_import_line_is_flagged() -> None:
    result = run(ask("s", 1000, 3000, NEXT_DOOR), bid("b", 1000, 4000), m_BKK_01_SUB001=0)
    assert result == Clearing((), (), (b"b",))


def test_counter_flows_are_not_netted() -> None:
    result = run(
        ask("s1", 500, 3000),
        bid("b1", 500, 9000, NEXT_DOOR),
        ask("s2", 500, 8000, NEXT_DOOR),
        bid("b2", 500, 9900),
        x_BKK_01_SUB001=0,
    )
    assert ("b1", "s1", 500) not in trades(result)
    assert result.congested == ()  # At home, s1 goes to b2.
    assert trades(result) == [("b2", "s1", 500), ("b1", "s2", 500)]


def test_ranks_of_pairing() -> None:
    """Specific filter, renewable filter, specific wish, renewable wish, any; V7 has only two."""
    kinds = (Source.NATURAL_GAS, Source.WIND, Source.SOLAR, Source.HYDRO, Source.COAL)
    sellers = [ask(kind.value, 500, 3000 + 100 * n, source=kind) for n, kind in enumerate(kinds)]
    result = run(
        *sellers,
        bid("any", 500, 9000),
        bid("wish green", 500, 8900, source=Source.RENEWABLE),
        bid("wish solar", 500, 8800, source=Source.SOLAR),
        bid("must green", 500, 8700, source=Source.RENEWABLE, require=True),
        bid("must solar", 500, 8600, source=Source.SOLAR, require=True),
    )
    assert trades(result) == [
        ("must solar", "solar", 500),
        ("must green", "wind", 500),
        ("wish solar", "natural_gas", 500),  # The solar is gone; the rest in price-time order.
        ("wish green", "hydro", 500),
        ("any", "coal", 500),
    ]


def test_require_without_a_wish_asks_for_nothing() -> None:
    gas = ask("gas", 500, 3000, source=Source.NATURAL_GAS)
    assert trades(run(gas, bid("b", 500, 4000, require=True))) == [("b", "gas", 500)]


def test_filter_unserved_at_home_is_served_in_the_zone() -> None:
    result = run(
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        ask("sun", 500, 3000, NEXT_DOOR),
        bid("b", 500, 4000, source=Source.SOLAR, require=True),
    )
    assert trades(result) == [("b", "sun", 500)]
    assert result.fills[0].tier == 1


def test_the_higher_of_two_requirements_is_served_first() -> None:
    """Both want solar and there is enough for one."""
    result = run(
        ask("sun", 500, 3000),
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        bid("high", 500, 5000, source=Source.SOLAR, require=True),
        bid("low", 500, 4900, source=Source.SOLAR, require=True),
        bid("any", 500, 4000),
    )
    assert trades(result) == [("high", "sun", 500), ("any", "gas", 500)]


def test_equal_requirements_share_what_there_is() -> None:
    result = run(
        ask("sun", 500, 3000),
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        bid("a", 500, 5000, source=Source.SOLAR, require=True),
        bid("b", 500, 5000, source=Source.SOLAR, require=True),
        bid("any", 500, 4000),
    )
    assert trades(result) == [("a", "sun", 250), ("b", "sun", 250), ("any", "gas", 500)]


def test_a_requirement_served_in_part_trades_that_part() -> None:
    result = run(
        ask("sun", 500, 3000),
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        bid("b", 1000, 5000, source=Source.SOLAR, require=True),
        bid("any", 1000, 4000),
        max_tier=0,
    )
    assert trades(result) == [("b", "sun", 500), ("any", "gas", 500)]


def test_sells_that_nobody_may_take_make_way_for_those_that_are_required() -> None:
    """The gas is cheaper and comes first, but nobody here takes it."""
    result = run(
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        ask("sun", 1000, 3400),
        bid("b", 1000, 5000, source=Source.SOLAR, require=True),
        max_tier=0,
    )
    assert trades(result) == [("b", "sun", 1000)]
    assert result.prices == ((0, HERE, 4050),)  # (3400 + 4700) // 2


def test_sells_of_a_source_that_is_left_over_bear_it_alike() -> None:
    """Of two sells of gas, equal but for the id, each sells half of what is bought."""
    result = run(
        ask("a", 500, 3000, source=Source.NATURAL_GAS),
        ask("b", 500, 3000, source=Source.NATURAL_GAS),
        ask("sun", 500, 3100),
        bid("must", 1000, 5000, source=Source.SOLAR, require=True),
        bid("any", 500, 4900),
        max_tier=0,
    )
    assert trades(result) == [("must", "sun", 500), ("any", "a", 250), ("any", "b", 250)]


def greedy_filters(count: int) -> list[ClearingOrder]:
    """Each in turn takes the whole supply of 1000 Wh, of which 100 Wh is gas."""
    book = [ask("gas", 100, 3000, source=Source.NATURAL_GAS), ask("sun", 900, 3000)]
    return book + [bid(f"b{n}", 1000, 9000 - n, HERE, Source.SOLAR, True) for n in range(count)]


def test_requirements_that_cannot_be_met_keep_nobody_else_from_trading() -> None:
    result = run(*greedy_filters(500), bid("any", 1000, 4000), max_tier=0)
    assert trades(result) == [("b0", "sun", 900), ("any", "gas", 100)]


def test_no_number_of_impossible_wishes_hides_the_buyers_behind_them() -> None:
    """Each source is offered, a little and dear, and each is required in bulk."""
    sources = (Source.SOLAR, Source.WIND, Source.HYDRO, Source.BIOMASS, Source.COAL)
    book = [ask("gas", 1000, 3000, source=Source.NATURAL_GAS)]
    for number, source in enumerate(sources):
        book.append(ask(f"dear {source}", 100, 8000 + number, source=source))
        book.append(bid(f"bulk {source}", 10**7, 9900 - number, HERE, source, True))
    result = run(*book, bid("any", 800, 4000), max_tier=0)
    assert ("any", "gas", 800) in trades(result)


def test_several_requirements_at_once_as_the_page_says() -> None:
    """Three sources are short at a time; an order of leaving would have to be agreed on."""
    result = run(
        bid("hydro", 173, 5658, source=Source.HYDRO, require=True),
        bid("green", 220, 4000, source=Source.RENEWABLE, require=True),
        bid("wind", 233, 4000, source=Source.WIND, require=True),
        ask("coal 1", 257, 2755, source=Source.COAL),
        ask("gas", 143, 1189, source=Source.NATURAL_GAS),
        ask("coal 2", 260, 3500, source=Source.COAL)._replace(height=12),
        bid("any 1", 210, 4500)._replace(height=13),
        ask("bio", 106, 2500, source=Source.BIOMASS)._replace(height=13),
        bid("any 2", 223, 5448)._replace(height=13),
        max_tier=0,
    )
    assert trades(result) == [
        ("green", "bio", 106),
        ("any 2", "gas", 143),
        ("any 2", "coal 1", 80),
        ("any 1", "coal 1", 177),
        ("any 1", "coal 2", 33),
    ]
    assert result.prices == ((0, HERE, 3500),)
