"""What the book holds for an order that is not placed yet: its place, and what it would trade.

Both are of one decided state: who else comes before the clearing is not known.
Source: protocols/market.md 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from functools import cache

from gridtokenx.primitives.places import Boundary, territory_of
from gridtokenx.primitives.quantities import slot_at, slot_start_ms
from gridtokenx.primitives.state import Reader
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.depth import NATIONAL_TIER, open_wh, taker
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.matching import GridView, headroom_left
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
    known = _known(market, wish, orders, grid, now_ms)
    book = [taker(order, open_wh(order, wish.slot)) for order in known.values()]
    return Outlook(
        _places(market, wish, book), _outcome(state, market, wish, known, book, grid, now_ms)
    )


def _known(
    market: MarketParameters, wish: Wish, orders: Iterable[Order], grid: GridView, now_ms: int
) -> dict[bytes, Order]:
    """The orders that will take part in the wish's auction, by id."""
    slot, home = wish.slot, territory_of(wish.location)
    is_national = market.max_trade_tier >= NATIONAL_TIER
    is_halted = cache(grid.is_halted)
    low_mthb, high_mthb = price_band(slot, market)
    by_gate = market.matching_mode is MatchingMode.GATE
    stays_ms = slot_start_ms(slot) if by_gate else now_ms + 1
    known = {}
    for order in orders:
        terms = order.terms
        if not terms.first_slot <= slot <= terms.last_slot or terms.expires_ms < stays_ms:
            continue
        territory = territory_of(terms.location)
        if territory != home and (not is_national or is_halted(territory)):
            continue
        is_own = order.owner == wish.owner and terms.side is not wish.side
        if not is_own and low_mthb <= terms.limit_mthb <= high_mthb and open_wh(order, slot):
            known[order.id] = order
    return known


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
    fees_mthb = market.wheeling_mthb[: len(groups)]
    better_wh, equal_wh, meets_wh = ([0] * len(groups) for _ in range(3))
    for order in book:
        theirs = groups_of(order.location)
        ahead_mthb = order.limit_mthb - wish.limit_mthb
        if wish.side is Side.SELL:
            ahead_mthb = -ahead_mthb
        for tier, (group, fee_mthb) in enumerate(zip(groups, fees_mthb, strict=True)):
            if theirs[tier] != group:
                continue
            if order.side is not wish.side:
                if _meets(wish, order, fee_mthb):
                    meets_wh[tier] += order.energy_wh
            elif ahead_mthb > 0:
                better_wh[tier] += order.energy_wh
            elif ahead_mthb == 0:
                equal_wh[tier] += order.energy_wh
    rows = zip(range(4), groups, fees_mthb, better_wh, equal_wh, meets_wh, strict=False)
    return tuple([Place(*row) for row in rows])


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
        headroom=_headroom(state, grid, wish.slot, crossing),
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


def _headroom(
    state: Reader, grid: GridView, slot: int, orders: Sequence[ClearingOrder]
) -> Mapping[Boundary, int]:
    nodes = dict.fromkeys([node for one in orders for node in groups_of(one.location)[:3]])
    ways = [Boundary(node, is_export) for node in nodes for is_export in (True, False)]
    left = [(way, headroom_left(state, grid, slot, way)) for way in ways]
    return {way: room_wh for way, room_wh in left if room_wh is not None}


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
