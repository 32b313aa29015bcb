"""Laws of the auction (protocols/market.md 7), and agreement with the slow oracle."""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.primitives.places import Boundary, parse_boundary
from gridtokenx.trading import sharing
from gridtokenx.trading.caps import Ladder, price_rank
from gridtokenx.trading.clearing import GroupBook, clear, clear_books
from gridtokenx.trading.model import Clearing, ClearingOrder, Side, Source
from gridtokenx.trading.sharing import share
from tests.support import clearing_oracle as oracle

WHEELING = (300, 600, 900, 1151)
PLACES = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB003", "NTB-01-SUB001")
SOLD = (Source.SOLAR, Source.WIND, Source.NATURAL_GAS, Source.COAL)
WISHED = (Source.ANY, Source.RENEWABLE, Source.SOLAR, Source.WIND, Source.NATURAL_GAS)
NODES = sorted({part for place in PLACES for part in (place, place[:6], place[:3])})

laws = settings(max_examples=150, derandomize=True, database=None)


@st.composite
def books(draw: st.DrawFn) -> list[ClearingOrder]:
    """Up to 25 orders at any Wh, with prices close enough that most of them could trade."""
    orders = []
    for number in range(draw(st.integers(0, 25))):
        side = draw(st.sampled_from(Side))
        selling = side is Side.SELL
        orders.append(
            ClearingOrder(
                id=number.to_bytes(32, "big"),
                owner=number.to_bytes(32, "little"),
                side=side,
                energy_wh=draw(st.integers(1, 1500)),
                limit_mthb=draw(st.integers(3000, 3800) if selling else st.integers(3400, 5000)),
                location=draw(st.sampled_from(PLACES)),
                source=draw(st.sampled_from(SOLD if selling else WISHED)),
                require=draw(st.booleans()) and not selling,
                height=draw(st.integers(5, 8)),
            )
        )
    return orders


limits = st.dictionaries(
    st.builds("{}:{}".format, st.sampled_from("xm"), st.sampled_from(NODES)),
    st.integers(0, 3000),
    max_size=8,
)


def parsed(headroom: dict[str, int]) -> dict[Boundary, int]:
    return {parse_boundary(text): limit_wh for text, limit_wh in headroom.items()}


def run(book: list[ClearingOrder], headroom: dict[str, int], max_tier: int = 3) -> Clearing:
    limits = parsed(headroom)
    return clear(book, wheeling_mthb=WHEELING, max_tier=max_tier, headroom=limits)


def ancestors(location: str) -> tuple[str, str, str, str]:
    return location, location[:6], location[:3], "TH"


@laws
@given(book=books(), headroom=limits)
def test_every_trade_is_individually_rational(
    book: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    order_of = {order.id: order for order in book}
    for fill in run(book, headroom).fills:
        buy, sell = order_of[fill.buy_id], order_of[fill.sell_id]
        assert (buy.side, sell.side) == (Side.BUY, Side.SELL)
        assert sell.limit_mthb <= fill.price_mthb
        assert fill.price_mthb + fill.wheeling_mthb <= buy.limit_mthb
        assert fill.wheeling_mthb == WHEELING[fill.tier]
        assert fill.source is sell.source


@laws
@given(book=books(), headroom=limits, shuffle=st.randoms(use_true_random=False))
def test_arrival_order_does_not_matter(
    book: list[ClearingOrder], headroom: dict[str, int], shuffle: random.Random
) -> None:
    assert run(shuffle.sample(book, len(book)), headroom) == run(book, headroom)


@laws
@given(book=books(), headroom=limits)
def test_flows_stay_within_headroom(book: list[ClearingOrder], headroom: dict[str, int]) -> None:
    place_of = {order.id: order.location for order in book}
    flows: Counter[str] = Counter()
    for fill in run(book, headroom).fills:
        for node in ancestors(place_of[fill.sell_id])[: fill.tier]:
            flows[f"x:{node}"] += fill.energy_wh
        for node in ancestors(place_of[fill.buy_id])[: fill.tier]:
            flows[f"m:{node}"] += fill.energy_wh
    assert all(flows[node] <= limit_wh for node, limit_wh in headroom.items())


@laws
@given(book=books(), headroom=limits)
def test_nobody_trades_more_than_offered(
    book: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    result = run(book, headroom)
    filled: Counter[bytes] = Counter()
    for fill in result.fills:
        assert fill.energy_wh > 0
        filled[fill.buy_id] += fill.energy_wh
        filled[fill.sell_id] += fill.energy_wh
    assert all(0 <= filled[order.id] <= order.energy_wh for order in book)
    bought_wh = sum(filled[order.id] for order in book if order.side is Side.BUY)
    assert 2 * bought_wh == sum(filled.values())


@laws
@given(book=books(), headroom=limits)
def test_a_group_has_one_price_and_its_trades_stay_inside_it(
    book: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    place_of = {order.id: order.location for order in book}
    result = run(book, headroom)
    price_of = {(tier, group): price for tier, group, price in result.prices}
    assert len(price_of) == len(result.prices)
    assert list(price_of) == sorted(price_of)
    traded = set()
    for fill in result.fills:
        group = ancestors(place_of[fill.sell_id])[fill.tier]
        assert ancestors(place_of[fill.buy_id])[fill.tier] == group
        assert price_of[fill.tier, group] == fill.price_mthb
        traded.add((fill.tier, group))
    assert traded == set(price_of)


@laws
@given(book=books(), headroom=limits)
def test_hard_filter_never_gets_another_source(
    book: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    order_of = {order.id: order for order in book}
    for fill in run(book, headroom).fills:
        buy = order_of[fill.buy_id]
        if buy.require and buy.source is Source.RENEWABLE:
            assert fill.source.is_renewable
        elif buy.require and buy.source is not Source.ANY:
            assert fill.source is buy.source


@laws
@given(book=books(), headroom=limits)
def test_only_orders_behind_a_published_limit_are_congested(
    book: list[ClearingOrder], headroom: dict[str, int]
) -> None:
    congested = run(book, headroom).congested
    assert list(congested) == sorted(set(congested))
    for order in book:
        letter = "x" if order.side is Side.SELL else "m"
        if order.id in congested:
            assert any(f"{letter}:{node}" in headroom for node in ancestors(order.location))


@laws
@given(book=books())
def test_sweep_goes_as_far_as_prices_do(book: list[ClearingOrder]) -> None:
    """With one source and no limit, no pair is left that still crosses."""
    book = [
        order._replace(source=Source.ANY if order.side is Side.BUY else Source.COAL, require=False)
        for order in book
    ]
    filled: Counter[bytes] = Counter()
    for fill in run(book, {}, max_tier=0).fills:
        filled[fill.buy_id] += fill.energy_wh
        filled[fill.sell_id] += fill.energy_wh
    alive = [order for order in book if order.energy_wh > filled[order.id]]
    for buy, sell in product(alive, alive):
        if buy.side is Side.BUY and sell.side is Side.SELL and buy.location == sell.location:
            assert buy.limit_mthb - WHEELING[0] < sell.limit_mthb


def random_book(
    chance: random.Random, most: int, unit_wh: int
) -> tuple[list[ClearingOrder], dict[str, int]]:
    """Few prices, heights and sizes; sellers and buyers live together, apart, or mixed."""
    places = chance.sample(PLACES, chance.randint(1, 4))
    homes = {Side.SELL: places, Side.BUY: places}
    if chance.random() < 0.5:  # Then most energy has to cross boundaries.
        homes = {Side.SELL: places[: len(places) // 2 or 1], Side.BUY: places[len(places) // 2 :]}
    sold = SOLD[: chance.randint(1, 4)]
    required = chance.choice((0.0, 0.4, 0.8))
    wished = chance.choice((WISHED, WISHED, WISHED[2:]))
    steps, eager_mthb = chance.choice((1, 3, 10)), chance.choice((400, 1000, 2000))
    heights, most_wh = chance.choice((1, 3)), chance.choice((120, 400, 1200))
    orders = []
    for number in range(chance.randint(2, most)):
        side = Side.SELL if chance.random() < 0.5 else Side.BUY
        selling = side is Side.SELL
        orders.append(
            ClearingOrder(
                id=chance.randbytes(32),
                owner=number.to_bytes(32, "little"),
                side=side,
                energy_wh=chance.randrange(unit_wh, most_wh, unit_wh),
                limit_mthb=3000 + (0 if selling else eager_mthb) + 100 * chance.randrange(steps),
                location=chance.choice(homes[side]),
                source=chance.choice(sold if selling else wished),
                require=not selling and chance.random() < required,
                height=10 + chance.randrange(heights),
            )
        )
    if chance.random() < 0.4:
        return orders, {}
    most_wh = chance.choice((300, 2000))
    headroom = {
        f"{direction}:{node}": chance.randrange(0, most_wh, unit_wh)
        for node in NODES
        for direction in "xm"
        if chance.random() < 0.3
    }
    return orders, headroom


def group_books(
    orders: list[ClearingOrder], max_tier: int, ladders: int
) -> Iterator[list[GroupBook]]:
    """All groups of each tier, each side cut into ladders as the books in memory are."""

    def cut(group: list[ClearingOrder], side: Side) -> list[Ladder]:
        rows: dict[tuple[Source | None, int], list[tuple[int, bytes]]] = {}
        for number, order in enumerate(group):
            if order.side is side:
                kept = side is Side.SELL or (order.require and order.source is not Source.ANY)
                line = price_rank(side, order.limit_mthb), order.id
                rows.setdefault((order.source if kept else None, number % ladders), []).append(line)
        return [(source, sorted(lines)) for (source, _), lines in rows.items()]

    for tier in range(max_tier + 1):
        names = {ancestors(order.location)[tier] for order in orders}
        groups = {
            name: [order for order in orders if ancestors(order.location)[tier] == name]
            for name in names
        }
        yield [
            GroupBook(name, cut(group, Side.BUY), cut(group, Side.SELL))
            for name, group in groups.items()
        ]


def clear_beside_the_oracle(
    seed: str, most: int, unit_wh: int
) -> tuple[Clearing, list[tuple[int, int]]]:
    """Clear a book drawn from a seed both ways, read whole and lazily; they must agree in
    everything. Returns the clearing and, of each group, its sweeps and which of them counts."""
    chance = random.Random(seed)
    orders, headroom = random_book(chance, most, unit_wh)
    max_tier = chance.choice((0, 1, 2, 2, 3, 3))
    market = oracle.Market(orders, WHEELING, headroom)
    market.run(max_tier)
    limits = parsed(headroom)
    result = clear(orders, wheeling_mthb=WHEELING, max_tier=max_tier, headroom=limits)
    fills = [
        (f.buy_id, f.sell_id, f.energy_wh, f.price_mthb, f.wheeling_mthb, f.tier, f.source)
        for f in result.fills
    ]
    told = (fills, list(result.prices), list(result.congested))
    expected = (market.trades, market.prices, sorted(market.congested))
    assert told == expected, f"seed {seed!r}, max_tier {max_tier}: {orders} {headroom}"
    order_of = {order.id: order for order in orders}
    lazily = clear_books(
        list(group_books(orders, max_tier, chance.randint(1, 3))),
        order_of.get,
        wheeling_mthb=WHEELING,
        headroom_of=limits.get,
    )
    assert lazily == (result, market.cost), f"seed {seed!r}, max_tier {max_tier}"
    return result, market.chosen


@pytest.mark.parametrize("unit_wh", [1, 100])
@pytest.mark.parametrize(("most", "books"), [(6, 1300), (12, 1300), (30, 500)])
def test_agrees_with_the_slow_oracle(most: int, books: int, unit_wh: int) -> None:
    """6,200 books in all, and each part of them exercises every tier, limit and sweep."""
    fills_by_tier: Counter[int] = Counter()
    chosen: Counter[tuple[int, int]] = Counter()
    congested = 0
    for number in range(books):
        result, sweeps = clear_beside_the_oracle(f"{most} {unit_wh} {number}", most, unit_wh)
        fills_by_tier.update(fill.tier for fill in result.fills)
        chosen.update(sweeps)
        congested += bool(result.congested)
    assert min(fills_by_tier[tier] for tier in range(4)) >= 30
    assert congested >= 30
    assert {sweeps for sweeps, _ in chosen} == {1, 2, 3, 4}
    assert {counts for _, counts in chosen} >= {0, 1, 2}  # The fourth is a unit test's.


def twins(chance: random.Random) -> tuple[list[ClearingOrder], dict[str, int]]:
    """A book in which every order has up to three equals, at any Wh."""
    orders, headroom = random_book(chance, 8, 1)
    return [
        order._replace(id=chance.randbytes(32), owner=chance.randbytes(32))
        for order in orders
        for _ in range(chance.randint(1, 4))
    ], headroom


def test_equal_orders_trade_the_same_to_one_wh(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each tier, apart from the rule that no share is under 100 Wh."""
    monkeypatch.setattr(sharing, "LEAST_SHARE_WH", 0)
    compared = apart = 0
    for number in range(1500):
        book, headroom = twins(random.Random(f"twins {number}"))
        filled: Counter[bytes] = Counter()
        tiers: dict[bytes, set[int]] = {order.id: set() for order in book}
        for fill in run(book, headroom).fills:
            for order_id in (fill.buy_id, fill.sell_id):
                filled[order_id] += fill.energy_wh
                tiers[order_id].add(fill.tier)
        for one, other in combinations(book, 2):
            if one._replace(id=b"", owner=b"") == other._replace(id=b"", owner=b""):
                gap_wh = abs(filled[one.id] - filled[other.id])
                assert gap_wh <= len(tiers[one.id] | tiers[other.id]), f"book {number}: {one}"
                compared += 0 < filled[one.id] < one.energy_wh
                apart += gap_wh
    assert compared > 1000
    assert apart > 100


def test_equal_buyers_get_the_same_of_each_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """No id brings anybody the solar energy of his equals, whatever they wish for."""
    monkeypatch.setattr(sharing, "LEAST_SHARE_WH", 0)
    compared = 0
    for number in range(500):
        book, _ = twins(random.Random(f"sources {number}"))
        got: Counter[tuple[bytes, Source]] = Counter()
        for fill in run(book, {}, max_tier=0).fills:
            got[fill.buy_id, fill.source] += fill.energy_wh
        for one, other in combinations(book, 2):
            if one._replace(id=b"", owner=b"") == other._replace(id=b"", owner=b""):
                for source in SOLD:
                    assert abs(got[one.id, source] - got[other.id, source]) <= 2, number
                compared += sum(got[one.id, source] > 0 for source in SOLD) > 1
    assert compared > 50


def test_other_ids_move_no_more_than_the_least_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requirements an id is worth 1 Wh in a group, and where shares are small under 200."""
    for least_wh, moved in ((0, range(1, 2)), (100, range(100, 200))):
        monkeypatch.setattr(sharing, "LEAST_SHARE_WH", least_wh)
        moved_wh = 0
        for number in range(300):
            chance = random.Random(f"ids {number}")
            book = [order._replace(require=False) for order in twins(chance)[0]]
            renamed = [order._replace(id=chance.randbytes(32)) for order in book]
            amounts = []
            for orders in (book, renamed):
                filled: Counter[bytes] = Counter()
                for fill in run(orders, {}, max_tier=0).fills:
                    filled[fill.buy_id] += fill.energy_wh
                    filled[fill.sell_id] += fill.energy_wh
                amounts.append([filled[order.id] for order in orders])
            moved_wh = max(moved_wh, *[abs(a - b) for a, b in zip(*amounts, strict=True)])
        assert moved_wh in moved


quantities_wh = st.integers(0, 300) | st.integers(0, 20_000)


@settings(max_examples=2000, derandomize=True, database=None)
@given(total_wh=quantities_wh, wanted_wh=st.lists(quantities_wh, max_size=12))
def test_shares_sum_up_keep_to_wishes_and_are_as_the_oracles(
    total_wh: int, wanted_wh: list[int]
) -> None:
    shares_wh = share(total_wh, wanted_wh)
    assert sum(shares_wh) == min(total_wh, sum(wanted_wh))
    assert all(0 <= got <= wanted for got, wanted in zip(shares_wh, wanted_wh, strict=True))
    by_id = {number.to_bytes(2, "big"): wanted for number, wanted in enumerate(wanted_wh)}
    assert shares_wh == list(oracle.shared(total_wh, by_id).values())
    rows = list(zip(wanted_wh, shares_wh, strict=True))
    for (wanted, got), (other_wanted, other_got) in product(rows, rows):
        assert wanted <= other_wanted or got >= other_got  # Who wants more gets no less.
    large = [got for wanted, got in rows if wanted >= 100 and got]
    assert len(large) <= total_wh // 100 + 1
