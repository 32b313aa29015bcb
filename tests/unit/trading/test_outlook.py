"""What a quote tells of the book is what the book then does, and a slow reading of it agrees."""

import random
from dataclasses import astuple

import pytest

from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import Overlay
from gridtokenx.trading import outlook as outlooks
from gridtokenx.trading import rules
from gridtokenx.trading.matching import GridView
from gridtokenx.trading.model import (
    ORDERS,
    MarketParameters,
    MatchingMode,
    Side,
    Source,
    TradeMatched,
)
from gridtokenx.trading.outlook import Outcome, Outlook, Part, Place, Unknown, outlook
from gridtokenx.trading.quotes import Wish, charges_of_delivery
from tests.support.clearing_oracle import fits, group_name

PLACES = [f"{region}-{zone}-SUB00{n}" for region in ("BKK", "NTB") for zone in ("01", "02")
          for n in "12"]  # fmt: skip
NODES = [*PLACES, "BKK-01", "BKK-02", "NTB-01", "BKK", "NTB"]
PLANTS = [Source.SOLAR, Source.WIND, Source.COAL]
WISHES = [Source.ANY, Source.ANY, Source.RENEWABLE, Source.SOLAR]
HOME = PLACES[0]


def look(market, wish: Wish, headroom: dict | None = None, halted: tuple = ()) -> Outlook:
    grid = GridView(lambda node, _: (headroom or {}).get(node), lambda name: name in halted)
    orders = [order for _, order in ORDERS.items(market.state)]
    parameters = rules.parameters(market.state)
    return outlook(market.state, parameters, wish, orders=orders, grid=grid, now_ms=market.now_ms)


def next_slot(market) -> int:
    return market.now_ms // SLOT_MS + 1


def fill_book(market, chance: random.Random) -> None:
    slot = next_slot(market)
    for number in range(chance.randrange(2, 40)):
        selling = bool(number % 2)
        source = chance.choice(PLANTS if selling else WISHES)
        require = not selling and source is not Source.ANY and chance.random() < 0.4
        place = market.sell if selling else market.buy
        place(
            f"owner {number}",
            chance.choice([100, 700, 1_000, 2_500]),
            chance.randrange(2_500, 5_000, 100) + (0 if selling else 400),
            source=source,
            require=require,
            location=chance.choice(PLACES[:3] + PLACES),
            last_slot=slot + chance.choice([0, 0, 3]),
            max_wh_per_slot=chance.choice([100, 600, 3_000]),
            expires_ms=slot * SLOT_MS + chance.choice([-1, 0, 0, 10**9]),
        )


def wish_of(market, chance: random.Random) -> Wish:
    side = chance.choice(list(Side))
    source = chance.choice(PLANTS if side is Side.SELL else WISHES)
    return Wish(
        side=side,
        energy_wh=chance.choice([100, 900, 3_000]),
        limit_mthb=chance.randrange(2_500, 5_400, 100),
        location=chance.choice(PLACES[:3] + PLACES),
        slot=next_slot(market),
        source=source,
        require=side is Side.BUY and source is not Source.ANY and chance.random() < 0.4,
    )


def slow_places(market, wish: Wish) -> list[tuple]:
    """From the page alone: each group by itself, each order anew."""
    parameters = rules.parameters(market.state)
    rows = []
    for tier in range(parameters.max_trade_tier + 1):
        group, fee_mthb = group_name(wish.location, tier), parameters.wheeling_mthb[tier]
        sums = {"better": 0, "equal": 0, "meets": 0}
        for _, order in ORDERS.items(market.state):
            terms = order.terms
            open_wh = min(order.rest_wh, terms.max_wh_per_slot - order.filled_in(wish.slot))
            is_there = group_name(terms.location, tier) == group
            if not is_there or not terms.first_slot <= wish.slot <= terms.last_slot:
                continue
            if terms.expires_ms < wish.slot * SLOT_MS:
                continue
            if terms.side is wish.side:
                ahead = terms.limit_mthb - wish.limit_mthb
                ahead = ahead if wish.side is Side.BUY else -ahead
                if ahead >= 0:
                    sums["better" if ahead else "equal"] += open_wh
                continue
            buy, sell = (wish, terms) if wish.side is Side.BUY else (terms, wish)
            is_served = not buy.require or fits(str(buy.source), str(sell.source))
            if is_served and sell.limit_mthb + fee_mthb <= buy.limit_mthb:
                sums["meets"] += open_wh
        rows.append((tier, group, fee_mthb, *sums.values()))
    return rows


def place_wish(market, wish: Wish) -> bytes:
    place = market.buy if wish.side is Side.BUY else market.sell
    market.height += 1  # It comes in a later block than all the others.
    return place(
        "asker", wish.energy_wh, wish.limit_mthb, source=wish.source, require=wish.require,
        location=wish.location, first_slot=wish.slot,
    )  # fmt: skip


@pytest.mark.parametrize("max_tier", [0, 2, 3])
@pytest.mark.parametrize("mode", list(MatchingMode))
def test_the_outcome_is_what_the_clearing_then_gives(market, mode, max_tier: int) -> None:
    """Over random books with sources, limits of the grid and orders of several slots."""
    chance = random.Random(f"{mode} {max_tier}")
    parameters = MarketParameters(matching_mode=mode, max_trade_tier=max_tier)
    traded = split = 0
    for _ in range(150):
        fresh = type(market)(state=Overlay(market.state), now_ms=market.now_ms, height=1)
        fresh.configure(parameters)
        headroom = {node: chance.randrange(3_000) for node in chance.sample(NODES, 3)}
        fill_book(fresh, chance)
        fresh.next_block(ms=1, headroom=headroom)  # In mode "block" some are filled in part.
        fill_book(fresh, chance)
        wish = wish_of(fresh, chance)
        halted = chance.choice([(), (), ("NTB",)])
        told = look(fresh, wish, headroom, halted)
        order_id = place_wish(fresh, wish)
        events = fresh.next_block(
            ms=SLOT_MS if mode is MatchingMode.GATE else 1, headroom=headroom, halted=halted
        )
        trades = [event.trade for event in events if isinstance(event, TradeMatched)]
        own = [one for one in trades if order_id in (one.buy_id, one.sell_id)
               and one.slot == wish.slot]  # fmt: skip
        if wish.location.startswith(halted):
            assert (told.outcome, own) == (Unknown.TERRITORY_HALTED, [])
            continue
        expected: dict[tuple, int] = {}
        for trade in own:
            key = trade.tier, trade.price_mthb, trade.wheeling_mthb
            expected[key] = expected.get(key, 0) + trade.energy_wh
        assert {
            (part.tier, part.price_mthb, part.wheeling_mthb): part.energy_wh
            for part in told.outcome.parts
        } == expected
        assert [part.group for part in told.outcome.parts] == [
            group_name(wish.location, tier) for tier, *_ in sorted(expected)
        ]
        assert_charges(told.outcome, own, parameters)
        traded += bool(own)
        split += len(expected) > 1
    assert traded > 30  # So that it says something.
    assert max_tier == 0 or split


def assert_charges(told: Outcome, trades: list, parameters: MarketParameters) -> None:
    """To the micro-baht those of the trades, wholly delivered."""
    if not trades:
        assert (told.charges, told.price_mthb, told.energy_wh) == (None, None, 0)
        return
    charged = [
        charges_of_delivery(
            parameters,
            energy_wh=trade.energy_wh,
            price_mthb=trade.price_mthb,
            wheeling_mthb=trade.wheeling_mthb,
            slot=trade.slot,
            source=trade.source,
            vat_on_energy=trade.vat_on_energy,
        )
        for trade in trades
    ]
    assert astuple(told.charges) == tuple(
        sum(column) for column in zip(*map(astuple, charged), strict=True)
    )
    value = sum(trade.energy_wh * trade.price_mthb for trade in trades)
    assert told.price_mthb == value // sum(trade.energy_wh for trade in trades)


@pytest.mark.parametrize("seed", range(4))
def test_the_place_is_that_of_a_slow_reading(market, seed: int) -> None:
    chance = random.Random(seed)
    ahead = met = 0
    for _ in range(100):
        fresh = type(market)(state=Overlay(market.state), now_ms=market.now_ms, height=1)
        mode, tier = MatchingMode.GATE, chance.randrange(4)
        fresh.configure(MarketParameters(matching_mode=mode, max_trade_tier=tier))
        fill_book(fresh, chance)
        wish = wish_of(fresh, chance)
        told = [astuple(place) for place in look(fresh, wish).places]
        assert told == slow_places(fresh, wish)
        ahead += any(better and equal for *_, better, equal, _ in told)
        met += any(row[-1] for row in told)
    assert ahead > 2
    assert met > 5


def test_a_seller_behind_others_is_told_what_is_left_for_him(market) -> None:
    market.sell("cheap", 1_000, 3_000)
    market.sell("equal", 500, 3_500)
    market.sell("dear", 900, 4_000)
    market.buy("b", 2_000, 4_300)
    wish = Wish(Side.SELL, 1_000, 3_500, HOME, next_slot(market), Source.SOLAR)
    told = look(market, wish)
    assert told.places[0] == Place(0, HOME, 300, 1_000, 500, 2_000)
    assert [place.meets_wh for place in told.places] == [2_000, 2_000, 0]  # 900 is too far.
    # lo is his own rejected rest's ask at most, hi what the one buyer leaves: (3500 + 3500) / 2.
    assert told.outcome.parts == (Part(0, HOME, 500, 3_500, 300),)
    assert (told.outcome.energy_wh, told.outcome.price_mthb) == (500, 3_500)


def test_what_the_owner_has_on_the_other_side_is_not_his_counterpart(market) -> None:
    market.sell("anna", 1_000, 3_000)
    slot = next_slot(market)
    stranger = look(market, Wish(Side.BUY, 500, 4_000, HOME, slot))
    anna = look(market, Wish(Side.BUY, 500, 4_000, HOME, slot, owner=sha256(b"anna")))
    assert (stranger.outcome.energy_wh, stranger.places[0].meets_wh) == (500, 1_000)
    assert (anna.outcome.energy_wh, anna.places[0].meets_wh) == (0, 0)


def test_a_vat_registered_seller_makes_it_dearer(market) -> None:
    market.sell("s", 1_000, 3_000)
    wish = Wish(Side.SELL, 500, 3_000, HOME, next_slot(market), Source.SOLAR)
    market.buy("b", 2_000, 4_000)
    plain, registered = look(market, wish), look(market, Wish(*astuple(wish)[:7], True))
    more = registered.outcome.charges.vat_uthb - plain.outcome.charges.vat_uthb
    assert more == registered.outcome.charges.energy_uthb * 7 // 100


def test_why_no_outcome_is_told(market, monkeypatch) -> None:
    slot = next_slot(market)
    market.sell("s", 1_000, 3_000)
    for at, outcome in (
        (slot - 1, Unknown.SLOT_NOT_OPEN),
        (slot + 96, Unknown.SLOT_NOT_OPEN),
        (slot + 95, Outcome((), None)),
    ):
        assert look(market, Wish(Side.BUY, 500, 4_000, HOME, at)).outcome == outcome
    wish = Wish(Side.BUY, 500, 4_000, HOME, slot)
    assert look(market, wish, halted=("BKK",)).outcome is Unknown.TERRITORY_HALTED
    assert look(market, wish).outcome.energy_wh == 500
    market.buy("far below", 500, 2_000)  # Crosses nobody, so it costs nothing.
    monkeypatch.setattr(outlooks, "MAX_CROSSING_ORDERS", 2)
    assert look(market, wish).outcome.energy_wh == 500
    monkeypatch.setattr(outlooks, "MAX_CROSSING_ORDERS", 1)
    assert look(market, wish).outcome is Unknown.BOOK_TOO_DEEP
