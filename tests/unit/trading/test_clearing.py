"""Rules of the auction one at a time, beside the worked examples in tests/vectors."""

import pytest

from gridtokenx.primitives.crypto import sha256
from gridtokenx.trading.clearing import PATIENT_ORDERS, PATIENT_SWEEPS, clear
from gridtokenx.trading.model import Clearing, ClearingOrder, Side, Source

SALT = bytes(32)
WHEELING = (300, 600, 900, 1151)
HERE = "BKK-01-SUB001"
NEXT_DOOR = "BKK-01-SUB002"
OTHER_ZONE = "BKK-02-SUB003"
OTHER_REGION = "CNX-01-SUB001"
ALL_PLACES = (HERE, NEXT_DOOR, OTHER_ZONE, OTHER_REGION)


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


def run(*orders: ClearingOrder, max_tier: int = 2, salt: bytes = SALT, **limits: int) -> Clearing:
    headroom = {f"{key[0]}:{key[2:].replace('_', '-')}": wh for key, wh in limits.items()}
    return clear(
        orders, tie_salt=salt, wheeling_mthb=WHEELING, max_tier=max_tier, headroom=headroom
    )


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


def test_equal_price_and_height_fall_to_the_salted_hash() -> None:
    buyers = [bid(name, 500, 4000) for name in "abcdef"]
    for salt in (bytes(32), sha256(b"previous block"), sha256(b"another")):
        first = min(buyers, key=lambda order: sha256(salt + order.id))
        result = run(ask("s", 500, 3000), *buyers, salt=salt)
        assert trades(result) == [(first.id.decode(), "s", 500)]


def test_price_comes_before_age() -> None:
    old = bid("old", 500, 4000)._replace(height=1)
    assert trades(run(ask("s", 500, 3000), old, bid("new", 500, 4001)))[0][0] == "new"


def test_what_is_left_under_100_wh_neither_trades_nor_sets_the_price() -> None:
    result = run(ask("s", 1099, 3000), bid("b1", 1000, 4000), bid("b2", 1000, 3900))
    assert trades(result) == [("b1", "s", 1000)]
    assert result.prices == ((0, HERE, 3650),)  # (3600 + 3700) // 2: the 99 Wh ask is no margin.
    assert trades(run(ask("s", 99, 3000), bid("b", 1000, 4000))) == []


def test_pairing_by_source_makes_no_fill_under_100_wh() -> None:
    result = run(
        ask("gas", 1000, 3000, source=Source.NATURAL_GAS),
        ask("sun", 1000, 3000),
        bid("a", 950, 5000, source=Source.SOLAR, require=True),
        bid("b", 1050, 4900),
    )
    assert trades(result) == [("a", "sun", 950), ("b", "gas", 1000)]


def test_export_limit_of_each_boundary_crossed_counts() -> None:
    book = (ask("s", 2000, 3000, OTHER_ZONE), bid("b", 2000, 9000))
    assert trades(run(*book, x_BKK_02=700)) == [("b", "s", 700)]
    assert trades(run(*book, x_BKK_02_SUB003=600, x_BKK_02=700)) == [("b", "s", 600)]
    assert trades(run(*book, x_BKK=0)) == [("b", "s", 2000)]  # The region is not left.
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
    assert trades(result) == [("near", "s1", 300), ("far", "s1", 100)]
    assert result.congested == (b"s2",)


def test_congested_orders_are_flagged_and_do_not_set_the_price() -> None:
    result = run(
        ask("stuck", 1000, 3000, NEXT_DOOR),
        ask("s", 1000, 3200, OTHER_ZONE.replace("02", "01")),
        ask("beyond", 1000, 3500, NEXT_DOOR),
        bid("b", 1000, 4600),
        x_BKK_01_SUB002=99,
    )
    assert trades(result) == [("b", "s", 1000)]
    assert result.prices == ((1, "BKK-01", 3600),)  # (3200 + 4000) // 2: not 3500 from "beyond".
    assert result.congested == (b"stuck",)  # Nobody would have had to pay "beyond" its price.


def test_a_filter_that_leaves_flags_nobody() -> None:
    """The sweep without him counts: only buyers who stay make a seller congested."""
    book = [
        ask("stuck", 1000, 3100),
        ask("s", 300, 3200, NEXT_DOOR),
        bid("gas", 300, 4000, source=Source.NATURAL_GAS, require=True),
    ]
    cases = [(3699, [], ()), (3700, [], (b"stuck",)), (3800, [("b", "s", 300)], (b"stuck",))]
    for limit, expected, flagged in cases:
        buyer = bid("b", 300, limit, "BKK-01-SUB009")
        result = run(*book, buyer, max_tier=1, x_BKK_01_SUB001=50)
        assert (trades(result), result.congested) == (expected, flagged)


def test_buyer_behind_a_full_import_line_is_flagged() -> None:
    result = run(ask("s", 1000, 3000, NEXT_DOOR), bid("b", 1000, 4000), m_BKK_01_SUB001=99)
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


def test_last_unserved_filter_leaves_first() -> None:
    """Both want solar and there is enough for one: the lower bid leaves, the higher is served."""
    result = run(
        ask("sun", 500, 3000),
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        bid("high", 500, 5000, source=Source.SOLAR, require=True),
        bid("low", 500, 4900, source=Source.SOLAR, require=True),
        bid("any", 500, 4000),
    )
    assert trades(result) == [("high", "sun", 500), ("any", "gas", 500)]


def test_filter_served_in_part_leaves_the_group() -> None:
    result = run(
        ask("sun", 500, 3000),
        ask("gas", 500, 3000, source=Source.NATURAL_GAS),
        bid("b", 1000, 5000, source=Source.SOLAR, require=True),
        bid("any", 1000, 4000),
        max_tier=0,
    )
    assert trades(result) == [("any", "gas", 500), ("any", "sun", 500)]


def greedy_filters(count: int) -> list[ClearingOrder]:
    """Each in turn takes the whole supply of 1000 Wh, of which 100 Wh is gas, and has to leave."""
    book = [ask("gas", 100, 3000, source=Source.NATURAL_GAS), ask("sun", 900, 3000)]
    return book + [bid(f"b{n}", 1000, 9000 - n, HERE, Source.SOLAR, True) for n in range(count)]


def test_filters_that_cannot_be_served_make_way_one_by_one() -> None:
    modest = bid("modest", 900, 5000, HERE, Source.SOLAR, True)
    result = run(*greedy_filters(2 * PATIENT_SWEEPS), modest, bid("any", 1000, 4000), max_tier=0)
    assert trades(result) == [("modest", "sun", 900), ("any", "gas", 100)]


def test_huge_book_of_unservable_filters_is_given_up() -> None:
    """It would take 500 sweeps of 500 orders; the buyers who do not care still trade."""
    modest = bid("modest", 900, 5000, HERE, Source.SOLAR, True)
    result = run(*greedy_filters(500), modest, bid("any", 1000, 4000), max_tier=0)
    assert PATIENT_ORDERS // 500 < 500
    assert trades(result) == [("any", "gas", 100), ("any", "sun", 900)]
