"""Why an order did or did not trade in a clearing, found by changing one thing and clearing again.

Nothing here knows how the auction works: an obstacle is what has to go for the order to trade more,
its remedy the least of it that does. Source: protocols/market.md 3.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gridtokenx.primitives.places import Boundary, territory_of
from gridtokenx.trading.caps import price_rank
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.depth import open_wh, taker
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.matching import ClearingBegun, headroom_around
from gridtokenx.trading.model import (
    ORDERS,
    Clearing,
    ClearingOrder,
    Fill,
    Side,
    Source,
)
from gridtokenx.trading.pairing import matches, required_source
from gridtokenx.trading.prices import price_band


class Reason(StrEnum):
    """Why an order has not traded more in a slot; the first that applies.

    Source: protocols/market.md 3.5.
    """

    # It took part in a clearing.
    TRADED = "traded"  # All that it had open.
    NOBODY = "nobody"  # Nobody stands on the other side where it may trade.
    HEADROOM = "headroom"
    SOURCE = "source"  # It requires one, or those who would take its energy do.
    EARLIER = "earlier"  # Orders of its limit that were placed in earlier blocks.
    SHARED = "shared"  # With orders of its limit; shares under 100 Wh are given to fewer.
    PRICE = "price"
    EXHAUSTED = "exhausted"  # What stood on the other side traded, whatever it had offered.
    # It did not.
    OTHER_SLOTS = "other_slots"
    PLACED_LATER = "placed_later"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FILLED = "filled"  # In other slots, or up to what the slot may take of it.
    OUT_OF_BAND = "out_of_band"
    STANDSTILL = "standstill"  # The chain stood still at the gate.
    HALTED = "halted"  # Its territory did.
    DROPPED = "dropped"  # It met somebody, who left before the trade was made.


@dataclass(frozen=True, slots=True)
class Remedy:
    """What would have let an order trade more: all of it together, each the least that does.

    Units: limit_mthb is another limit, `unlimited` boundaries without a limit; `any_source`: of a
    buy that it requires no source, of a sell that nobody does.
    """

    limit_mthb: int | None = None
    unlimited: tuple[Boundary, ...] = ()
    any_source: bool = False


@dataclass(frozen=True, slots=True)
class SlotBook:
    """All that one clearing of a slot goes by. Units: as of `clear`; `band` in mTHB/kWh."""

    orders: tuple[ClearingOrder, ...]
    headroom: Mapping[Boundary, int]
    wheeling_mthb: tuple[int, int, int, int]
    max_tier: int
    band: tuple[int, int]

    def clear(self) -> Clearing:
        """The auction over the whole book."""
        return clear(
            self.orders,
            wheeling_mthb=self.wheeling_mthb,
            max_tier=self.max_tier,
            headroom=self.headroom,
        )

    def find(self, order_id: bytes) -> ClearingOrder | None:
        """An order of the book."""
        return next((order for order in self.orders if order.id == order_id), None)

    def around(self, order: ClearingOrder) -> SlotBook:
        """The part of the book that can have to do with an order."""
        widest = _group(order, self.max_tier)
        near = [one for one in self.orders if _group(one, self.max_tier) == widest]
        crossed = dict.fromkeys(way for one in near for way in _path(one)[: self.max_tier])
        headroom = {way: self.headroom[way] for way in crossed if way in self.headroom}
        return replace(self, orders=tuple(near), headroom=headroom)

    def remedied(self, order: ClearingOrder, remedy: Remedy) -> SlotBook:
        """The book as it would have been."""
        headroom = {
            boundary: room_wh
            for boundary, room_wh in self.headroom.items()
            if boundary not in remedy.unlimited
        }
        orders = [self._remedied(one, order, remedy) for one in self.orders]
        return replace(self, orders=tuple(orders), headroom=headroom)

    def _remedied(self, one: ClearingOrder, order: ClearingOrder, remedy: Remedy) -> ClearingOrder:
        is_own = one.id == order.id
        if is_own and remedy.limit_mthb is not None:
            one = one._replace(limit_mthb=remedy.limit_mthb)
        if remedy.any_source and one.side is Side.BUY and (is_own or order.side is Side.SELL):
            one = one._replace(source=Source.ANY, require=False)
        return one


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group in which an order may trade, as the clearing found it.

    `price_mthb` is None where nothing traded; `best_other_mthb` the best limit on the other side.
    Before it in merit order are orders of its side with a better limit, or of its limit and an
    earlier block.
    """

    tier: int
    group: str
    wheeling_mthb: int
    price_mthb: int | None
    traded_wh: int
    own_wh: int
    before_orders: int
    before_wh: int
    side_orders: int
    other_orders: int
    best_other_mthb: int | None


@dataclass(frozen=True, slots=True)
class LineSeen:
    """A boundary that an order's trades may cross: what had room, and what the clearing used."""

    boundary: Boundary
    room_wh: int
    used_wh: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one clearing did with one order. `wanted_wh` is what it had open in the slot."""

    order: ClearingOrder
    reason: Reason
    wanted_wh: int
    traded_wh: int
    remedy: Remedy
    is_congested: bool
    groups: tuple[GroupSeen, ...]
    lines: tuple[LineSeen, ...]
    fills: tuple[Fill, ...]


def read_book(begun: ClearingBegun) -> SlotBook:
    """The whole book that a clearing goes by, those included that it has no need to read."""
    slot, market = begun.slot, begun.market
    low, high = price_band(slot, market)
    orders = [
        taker(order, left_wh)
        for _, order in ORDERS.items(begun.state)
        if order.terms.first_slot <= slot <= order.terms.last_slot
        and territory_of(order.terms.location) in begun.territories
        and low <= order.terms.limit_mthb <= high
        and (left_wh := open_wh(order, slot)) > 0
    ]
    headroom = headroom_around(orders, begun.headroom_of)
    first, second, third, fourth = market.wheeling_mthb
    return SlotBook(
        tuple(orders), headroom, (first, second, third, fourth), market.max_trade_tier, (low, high)
    )


def explain(book: SlotBook, order_id: bytes) -> Explanation:
    """Why an order of the book trades what it trades, and what would let it trade more.

    Costs some clearings of the part of the book around it: about 15 for a limit, and as many for
    each boundary. KeyError for an order that is not in the book.
    Source: protocols/market.md 3.5.
    """
    order = book.find(order_id)
    if order is None:
        raise KeyError(order_id)
    case = _Case(book.around(order), order)
    reason, remedy = case.judge()
    fills = tuple(fill for fill in case.clearing.fills if order_id in (fill.buy_id, fill.sell_id))
    return Explanation(
        order,
        reason,
        order.energy_wh,
        case.traded_wh,
        remedy,
        order_id in case.clearing.congested,
        tuple(case.groups()),
        tuple(case.lines()),
        fills,
    )


@dataclass(slots=True)
class _Case:
    """An order in the part of a book around it."""

    book: SlotBook
    order: ClearingOrder
    clearing: Clearing = field(init=False)
    traded_wh: int = field(init=False)

    def __post_init__(self) -> None:
        self.clearing = self.book.clear()
        self.traded_wh = _traded_wh(self.clearing, self.order.id)

    def judge(self) -> tuple[Reason, Remedy]:
        """The reason and the least remedy."""
        order = self.order
        if self.traded_wh == order.energy_wh:
            return Reason.TRADED, Remedy()
        if all(one.side is order.side for one in self.book.orders):
            return Reason.NOBODY, Remedy()
        for kinds in self._obstacles():
            whole = self._whole(kinds)
            if self._helps(whole):
                remedy = self._least(whole)
                return self._named(kinds, remedy), remedy
        return Reason.EXHAUSTED, Remedy()

    def _obstacles(self) -> list[tuple[Reason, ...]]:
        """What may be in the way: alone, then together."""
        single = []
        if self.book.headroom:
            single.append(Reason.HEADROOM)
        if self._is_source_in_the_way():
            single.append(Reason.SOURCE)
        if self._best_mthb() != self.order.limit_mthb:
            single.append(Reason.PRICE)
        several = [
            tuple(kind for place, kind in enumerate(single) if chosen >> place & 1)
            for chosen in range(1, 1 << len(single))
        ]
        return sorted(several, key=lambda kinds: (len(kinds), [single.index(one) for one in kinds]))

    def _is_source_in_the_way(self) -> bool:
        if self.order.side is Side.BUY:
            return required_source(self.order.source, self.order.require) is not None
        required = [required_source(one.source, one.require) for one in self.book.orders]
        return any(one is not None and not matches(self.order.source, one) for one in required)

    def _best_mthb(self) -> int:
        low, high = self.book.band
        return high if self.order.side is Side.BUY else low

    def _whole(self, kinds: Iterable[Reason]) -> Remedy:
        return Remedy(
            self._best_mthb() if Reason.PRICE in kinds else None,
            tuple(self.book.headroom) if Reason.HEADROOM in kinds else (),
            Reason.SOURCE in kinds,
        )

    def _helps(self, remedy: Remedy) -> bool:
        changed = self.book.remedied(self.order, remedy).clear()
        return _traded_wh(changed, self.order.id) > self.traded_wh

    def _least(self, whole: Remedy) -> Remedy:
        """Less of a remedy that helps, which still does."""
        remedy = whole
        if remedy.unlimited:
            remedy = replace(remedy, unlimited=self._least_boundaries(remedy))
        if remedy.limit_mthb is not None:
            remedy = replace(remedy, limit_mthb=self._least_limit(remedy))
        return remedy

    def _least_boundaries(self, remedy: Remedy) -> tuple[Boundary, ...]:
        """Boundaries that suffice, found by halving, those on the order's way first."""
        own = _path(self.order)
        left = sorted(remedy.unlimited, key=lambda one: (one not in own, one))
        chosen: list[Boundary] = []
        while not self._helps(replace(remedy, unlimited=tuple(chosen))):
            too_few, enough = 0, len(left)
            while enough - too_few > 1:
                middle = (too_few + enough) // 2
                if self._helps(replace(remedy, unlimited=(*chosen, *left[:middle]))):
                    enough = middle
                else:
                    too_few = middle
            chosen.append(left[enough - 1])
            left = left[: enough - 1]
        return tuple(chosen)

    def _least_limit(self, remedy: Remedy) -> int:
        """A limit that helps, where one a mTHB/kWh nearer to the order's own does not."""
        assert remedy.limit_mthb is not None
        too_little, enough = self.order.limit_mthb, remedy.limit_mthb
        while abs(enough - too_little) > 1:
            middle = (too_little + enough) // 2
            if self._helps(replace(remedy, limit_mthb=middle)):
                enough = middle
            else:
                too_little = middle
        return enough

    def _named(self, kinds: tuple[Reason, ...], remedy: Remedy) -> Reason:
        own = self.order
        if kinds != (Reason.PRICE,) or remedy.limit_mthb is None:
            return kinds[0]
        if abs(remedy.limit_mthb - own.limit_mthb) != 1:
            return Reason.PRICE
        equals = [
            one
            for one in self.book.orders
            if (one.side, one.limit_mthb) == (own.side, own.limit_mthb) and one.id != own.id
        ]
        traded = {one for fill in self.clearing.fills for one in (fill.buy_id, fill.sell_id)}
        heights = [one.height for one in equals if one.id in traded]
        if own.height in heights:
            return Reason.SHARED
        return Reason.EARLIER if any(one < own.height for one in heights) else Reason.PRICE

    def groups(self) -> Iterable[GroupSeen]:
        """The groups in which the order may trade, nearest first."""
        own, book = self.order, self.book
        price_of = {(tier, group): price for tier, group, price in self.clearing.prices}
        place_of = {one.id: one.location for one in book.orders}
        for tier in range(book.max_tier + 1):
            group = _group(own, tier)
            inside = [one for one in book.orders if _group(one, tier) == group]
            side = [one for one in inside if one.side is own.side]
            other = [one for one in inside if one.side is not own.side]
            before = [one for one in side if _merit(one) < _merit(own)]
            fills = [
                fill
                for fill in self.clearing.fills
                if fill.tier == tier and groups_of(place_of[fill.buy_id])[tier] == group
            ]
            mine = [fill for fill in fills if own.id in (fill.buy_id, fill.sell_id)]
            yield GroupSeen(
                tier,
                group,
                book.wheeling_mthb[tier],
                price_of.get((tier, group)),
                sum(fill.energy_wh for fill in fills),
                sum(fill.energy_wh for fill in mine),
                len(before),
                sum(one.energy_wh for one in before),
                len(side),
                len(other),
                min(other, key=_merit).limit_mthb if other else None,
            )

    def lines(self) -> Iterable[LineSeen]:
        """The limited boundaries on the order's way and those of its remedies."""
        place_of = {one.id: one.location for one in self.book.orders}
        used_wh: Counter[Boundary] = Counter()
        for fill in self.clearing.fills:
            for node in groups_of(place_of[fill.sell_id])[: fill.tier]:
                used_wh[Boundary(node, True)] += fill.energy_wh
            for node in groups_of(place_of[fill.buy_id])[: fill.tier]:
                used_wh[Boundary(node, False)] += fill.energy_wh
        for boundary in _path(self.order):
            if boundary in self.book.headroom:
                room_wh = self.book.headroom[boundary]
                yield LineSeen(boundary, room_wh, used_wh[boundary])


def _traded_wh(clearing: Clearing, order_id: bytes) -> int:
    return sum(
        [fill.energy_wh for fill in clearing.fills if order_id in (fill.buy_id, fill.sell_id)]
    )


def _group(order: ClearingOrder, tier: int) -> str:
    return groups_of(order.location)[tier]


def _merit(order: ClearingOrder) -> tuple[int, int]:
    return price_rank(order.side, order.limit_mthb), order.height


def _path(order: ClearingOrder) -> list[Boundary]:
    """The boundaries that a trade of the order may cross, from its substation up."""
    return [Boundary(node, order.side is Side.SELL) for node in groups_of(order.location)[:3]]
