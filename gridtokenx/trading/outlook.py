"""What the book holds for an order that is not placed yet: its place, and what it would trade.

Both are of one decided state: who else comes before the clearing is not known.
Source: protocols/market.md 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from functools import cache, partial

from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import slot_at, slot_start_ms
from gridtokenx.primitives.state import Reader
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.depth import NATIONAL_TIER, open_wh, taker
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.matching import GridView, headroom_around, headroom_left
from gridtokenx.trading.model import (
    ClearingOrder,
    Fill,
    MarketParameters,
    MatchingMode,
    Order,
    Side,
)
from gridtokenx.trading.pairing import matches, required_source
from gridtokenx.trading.prices import price_band
from gridtokenx.trading.quotes import Wish, charges_of_delivery
from gridtokenx.trading.settlement import Charges

MAX_CROSSING_ORDERS = 2_000
"""Of a deeper book no outcome is told: clearing that many takes about 15 ms."""
_OWN_ID = bytes(32)  # No order's: ids are hashes.


class Unknown(StrEnum):
    """Why no outcome is told."""

    SLOT_NOT_OPEN = "slot_not_open"
    TERRITORY_HALTED = "territory_halted"
    BOOK_TOO_DEEP = "book_too_deep"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an order would stand in one group that it may trade in. Units: Wh, mTHB/kWh.

    `better_wh` is what its own side has open there at better limits, `equal_wh` at the same one;
    both come first. `meets_wh` is what the other side has open that its limit and its source allow
    it to trade with, if it were alone.
    """

    tier: int
    group: str
    wheeling_mthb: int
    better_wh: int
    equal_wh: int
    meets_wh: int


@dataclass(frozen=True, slots=True)
class Part:
    """What an order would trade in one group, at its uniform price. Units: Wh, mTHB/kWh."""

    tier: int
    group: str
    energy_wh: int
    price_mthb: int
    wheeling_mthb: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an order would trade, nearest part first, and the charges when all is delivered.

    `charges` is None where nothing would trade.
    """

    parts: tuple[Part, ...]
    charges: Charges | None

    @property
    def energy_wh(self) -> int:
        """What would trade in all."""
        return sum(part.energy_wh for part in self.parts)

    @property
    def price_mthb(self) -> int | None:
        """The mean price of the energy, rounded down; None where nothing would trade."""
        value_uthb = sum(part.energy_wh * part.price_mthb for part in self.parts)
        return value_uthb // self.energy_wh if self.parts else None


@dataclass(frozen=True, slots=True)
class Outlook:
    """An order's place in each group that it may trade in, and what it would come to."""

    places: tuple[Place, ...]
    outcome: Outcome | Unknown


def outlook(
    state: Reader,
    market: MarketParameters,
    wish: Wish,
    *,
    orders: Iterable[Order],
    grid: GridView,
    now_ms: int,
) -> Outlook:
    """What would come of an order if its slot alone were cleared with it, and nothing else came.

    `orders` are all open ones of `state`; `now_ms` is its market time (Unix ms). Those that the
    wish's owner has on the other side are left out: they would have to go first (SELF_TRADE).
    """
    known, book = _book(market, wish, orders, grid, now_ms)
    return Outlook(
        _places(market, wish, book), _outcome(state, market, wish, known, book, grid, now_ms)
    )


def _book(
    market: MarketParameters, wish: Wish, orders: Iterable[Order], grid: GridView, now_ms: int
) -> tuple[dict[bytes, Order], list[ClearingOrder]]:
    """The orders that will take part in the wish's auction, by id and as it takes them."""
    slot, home = wish.slot, territory_of(wish.location)
    is_national = market.max_trade_tier >= NATIONAL_TIER
    is_halted = cache(grid.is_halted)
    low_mthb, high_mthb = price_band(slot, market)
    by_gate = market.matching_mode is MatchingMode.GATE
    stays_ms = slot_start_ms(slot) if by_gate else now_ms + 1
    known: dict[bytes, Order] = {}
    book: list[ClearingOrder] = []
    for order in orders:
        terms = order.terms
        if not terms.first_slot <= slot <= terms.last_slot or terms.expires_ms < stays_ms:
            continue
        territory = territory_of(terms.location)
        if territory != home and (not is_national or is_halted(territory)):
            continue
        is_own = order.owner == wish.owner and terms.side is not wish.side
        if is_own or not low_mthb <= terms.limit_mthb <= high_mthb:
            continue
        left_wh = open_wh(order, slot)
        if left_wh:
            known[order.id] = order
            book.append(taker(order, left_wh))
    return known, book


def _own(wish: Wish, book: Sequence[ClearingOrder]) -> ClearingOrder:
    """The wish as an order that came after all others."""
    return ClearingOrder(
        _OWN_ID,
        wish.owner or bytes(32),
        wish.side,
        wish.energy_wh,
        wish.limit_mthb,
        wish.location,
        wish.source,
        wish.require,
        max([order.height for order in book], default=0) + 1,
    )


def _places(
    market: MarketParameters, wish: Wish, book: Sequence[ClearingOrder]
) -> tuple[Place, ...]:
    groups = groups_of(wish.location)[: market.max_trade_tier + 1]
    nearest = cache(lambda location: _nearest(groups, groups_of(location)))
    sums = [[0, 0, 0] for _ in groups]
    better, equal, meets = range(3)
    for order in book:
        tiers = range(nearest(order.location), len(groups))
        if order.side is not wish.side:
            for tier in tiers:
                if _meets(wish, order, market.wheeling_mthb[tier]):
                    sums[tier][meets] += order.energy_wh
            continue
        ahead_mthb = order.limit_mthb - wish.limit_mthb
        if wish.side is Side.SELL:
            ahead_mthb = -ahead_mthb
        if ahead_mthb >= 0:
            for tier in tiers:
                sums[tier][better if ahead_mthb else equal] += order.energy_wh
    return tuple(
        [
            Place(tier, group, market.wheeling_mthb[tier], *sums[tier])
            for tier, group in enumerate(groups)
        ]
    )


def _nearest(groups: Sequence[str], others: Sequence[str]) -> int:
    """The first tier at which two places lie in one group; behind the last one if at none."""
    tiers = [tier for tier, group in enumerate(groups) if others[tier] == group]
    return tiers[0] if tiers else len(groups)


def _meets(wish: Wish, other: ClearingOrder, wheeling_mthb: int) -> bool:
    buy, sell = (wish, other) if wish.side is Side.BUY else (other, wish)
    required = required_source(buy.source, buy.require)
    fits = required is None or matches(sell.source, required)
    return fits and buy.limit_mthb - wheeling_mthb >= sell.limit_mthb


def _outcome(
    state: Reader,
    market: MarketParameters,
    wish: Wish,
    known: Mapping[bytes, Order],
    book: Sequence[ClearingOrder],
    grid: GridView,
    now_ms: int,
) -> Outcome | Unknown:
    current = slot_at(now_ms)
    if not current < wish.slot <= current + market.open_slots:
        return Unknown.SLOT_NOT_OPEN
    if grid.is_halted(territory_of(wish.location)):
        return Unknown.TERRITORY_HALTED
    own = _own(wish, book)
    crossing = _crossing([*book, own], min(market.wheeling_mthb[: market.max_trade_tier + 1]))
    if own not in crossing:
        return Outcome((), None)
    if len(crossing) > MAX_CROSSING_ORDERS:
        return Unknown.BOOK_TOO_DEEP
    first, second, third, fourth = market.wheeling_mthb
    cleared = clear(
        crossing,
        wheeling_mthb=(first, second, third, fourth),
        max_tier=market.max_trade_tier,
        headroom=headroom_around(crossing, partial(headroom_left, state, grid, wish.slot)),
    )
    fills = [fill for fill in cleared.fills if _OWN_ID in (fill.buy_id, fill.sell_id)]
    return _told(market, wish, fills, known)


def _crossing(orders: Sequence[ClearingOrder], least_mthb: int) -> list[ClearingOrder]:
    """Those that could meet the other side's best: others trade nothing and move no price."""
    bids = [order.limit_mthb for order in orders if order.side is Side.BUY]
    asks = [order.limit_mthb for order in orders if order.side is Side.SELL]
    if not bids or not asks:
        return []
    most_mthb, lowest_mthb = max(bids) - least_mthb, min(asks) + least_mthb
    return [
        order
        for order in orders
        if (
            order.limit_mthb >= lowest_mthb
            if order.side is Side.BUY
            else order.limit_mthb <= most_mthb
        )
    ]


def _told(
    market: MarketParameters, wish: Wish, fills: Sequence[Fill], known: Mapping[bytes, Order]
) -> Outcome:
    groups = groups_of(wish.location)
    sums: dict[tuple[int, int, int], int] = {}
    charged: list[Charges] = []
    for fill in fills:
        key = fill.tier, fill.price_mthb, fill.wheeling_mthb
        sums[key] = sums.get(key, 0) + fill.energy_wh
        seller = known.get(fill.sell_id)
        charged.append(
            charges_of_delivery(
                market,
                energy_wh=fill.energy_wh,
                price_mthb=fill.price_mthb,
                wheeling_mthb=fill.wheeling_mthb,
                slot=wish.slot,
                source=fill.source,
                vat_on_energy=wish.vat_registered if seller is None else seller.vat_registered,
            )
        )
    parts = [
        Part(tier, groups[tier], energy_wh, price_mthb, wheeling_mthb)
        for (tier, price_mthb, wheeling_mthb), energy_wh in sorted(sums.items())
    ]
    columns = zip(*map(astuple, charged), strict=True)
    return Outcome(tuple(parts), Charges(*map(sum, columns)) if charged else None)
