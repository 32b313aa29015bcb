"""From the auction's answer to state: trades, positions, order rests, and how orders leave.

`clearing` is a pure function over one slot; a `Matching` is one block's clearings.
Source: protocols/market.md 2, 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.places import Boundary, territory_of
from gridtokenx.primitives.quantities import saturated
from gridtokenx.primitives.state import Overlay, Reader, index, u64
from gridtokenx.trading import book
from gridtokenx.trading.clearing import clear_books
from gridtokenx.trading.clock import (
    WORK_EXPIRY,
    WORK_FILL,
    WORK_PASS,
    WORK_SLOT,
    Budget,
    agree_deadline,
)
from gridtokenx.trading.clock_model import DEADLINES
from gridtokenx.trading.depth import NATIONAL_TIER, Depth
from gridtokenx.trading.fronts import NATIONAL_GROUP, groups_of
from gridtokenx.trading.model import (
    CARRIED_IN_A_ROW,
    CARRIED_OVER,
    CONGESTED,
    FLOWS,
    IMMEDIATES,
    LAST_PRICES,
    ORDERS,
    POSITIONS,
    TRADES,
    CarriedOver,
    Clearing,
    ClearingOrder,
    Fill,
    GroupPrice,
    LastPrice,
    MarketParameters,
    NodeFlow,
    Order,
    OrderClosed,
    OrderStatus,
    Position,
    Side,
    SlotCleared,
    Trade,
    TradeMatched,
    TradingEvent,
)
from gridtokenx.trading.prices import price_band
from gridtokenx.trading.settlement import escrow_needed, trade_key

T = TypeVar("T")
_NO_FLOW = NodeFlow()
ALL_TERRITORIES = "~"  # Sorts behind every territory's name.
# From so many fills on, one scan of the slot's positions is cheaper than asking for each.
MANY_FILLS = 100


def close_order(state: Overlay, order: Order, status: OrderStatus) -> OrderClosed:
    """Take an order off the book and release all that still stands behind its rest.

    A cancelled rest no longer counts against the owner's daily cap.
    """
    returned_wh = order.rest_wh if status is OrderStatus.CANCELLED else 0
    return _leave(state, order, status, order.rest_wh, order.reserve_uthb, returned_wh)


def _leave(
    state: Overlay,
    order: Order,
    status: OrderStatus,
    rest_wh: int,
    reserve_uthb: int,
    returned_wh: int,
) -> OrderClosed:
    book.remove(state, order, returned_wh)
    if reserve_uthb:
        if order.terms.side is Side.BUY:
            ledger.release_escrow(state, order.owner, reserve_uthb)
        else:
            ledger.release_bond(state, order.owner, reserve_uthb)
    return OrderClosed(order.id, order.owner, status, rest_wh, reserve_uthb)


@dataclass(slots=True)
class _Filling:
    """An order while one clearing's fills are carried out."""

    order: Order
    rest_wh: int
    reserve_uthb: int
    filled_wh: int = 0

    def take(self, energy_wh: int) -> int:
        """Fill a part; returns the uTHB of the reserve that go with it.

        The rest keeps exactly what an order of its size needs, so that the shares always sum to
        the whole reserve.
        """
        self.rest_wh -= energy_wh
        self.filled_wh += energy_wh
        terms = self.order.terms
        if terms.side is Side.BUY:
            kept_uthb = escrow_needed(self.rest_wh, terms.limit_mthb, self.order.vat_bps)
        else:
            kept_uthb = self.rest_wh * self.order.penalty_mthb
        share_uthb = self.reserve_uthb - kept_uthb
        self.reserve_uthb = kept_uthb
        return share_uthb


@dataclass(frozen=True, slots=True)
class GridView:
    """What the auction asks of the grid, now: Wh that may cross a node in a slot (None: no limit),
    and whether a territory stands still."""

    headroom_wh: Callable[[str, int], int | None] = lambda _, __: None
    is_halted: Callable[[str], bool] = lambda _: False


def headroom_left(state: Reader, grid: GridView, slot: int, boundary: Boundary) -> int | None:
    """What earlier clearings of a slot have left of a boundary (Wh); None: no limit."""
    headroom_wh = grid.headroom_wh(boundary.node, slot)
    if headroom_wh is None:
        return None
    flow = flow_over(state, slot, boundary.node)
    return max(0, headroom_wh - (flow.export_wh if boundary.is_export else flow.import_wh))


def headroom_around(
    orders: Iterable[ClearingOrder], headroom_of: Callable[[Boundary], int | None]
) -> dict[Boundary, int]:
    """What each limited boundary that trades of these orders may cross has left (Wh)."""
    nodes = dict.fromkeys(node for one in orders for node in groups_of(one.location)[:3])
    ways = [Boundary(node, is_export) for node in nodes for is_export in (True, False)]
    return {way: room_wh for way in ways if (room_wh := headroom_of(way)) is not None}


def flow_over(state: Reader, slot: int, node: str) -> NodeFlow:
    """What was sold over a node for a slot; kept until 96 slots after the slot is settled."""
    return FLOWS.get(state, flow_key(slot, node)) or _NO_FLOW


@dataclass(frozen=True, slots=True)
class ClearingBegun:
    """A clearing that is about to be done, for whoever watches: all that it goes by.

    `state` is that of this moment and may only be read; `headroom_of` what a boundary has left.
    """

    state: Reader
    market: MarketParameters
    slot: int
    territories: tuple[str, ...]
    headroom_of: Callable[[Boundary], int | None]


Watch = Callable[[ClearingBegun], None]


class _Meter:
    """A meter's position in a slot while one clearing's fills are carried out."""

    __slots__ = ("before", "sales", "sold_wh")

    def __init__(self, order: Order, before: Position | None) -> None:
        fresh = before or Position(order.owner, territory=territory_of(order.terms.location))
        self.before = fresh
        self.sales = fresh.sales
        self.sold_wh = fresh.sold_wh

    def position(self) -> Position:
        """The position after the fills. Orders match before delivery: nothing is received yet."""
        sold_wh = saturated(self.sold_wh)
        return Position(self.before.owner, self.sales, sold_wh, territory=self.before.territory)


@dataclass
class Matching:
    """One block's clearings and the events they cause, in order."""

    state: Overlay
    market: MarketParameters
    grid: GridView
    budget: Budget
    watch: Watch | None = None
    events: list[TradingEvent] = field(default_factory=list)
    _immediate: dict[bytes, None] = field(default_factory=dict)
    _depth: Depth = field(init=False)
    _halted: list[str] = field(init=False)
    _territories: list[str] = field(init=False)
    _has_flags: bool = field(init=False)
    _has_immediates: bool = field(init=False)
    _carried: int = 0  # Rows that this block has carried over.

    def __post_init__(self) -> None:
        self._depth = index(self.state, Depth)
        territories = self._depth.territories
        self._halted = [territory for territory in territories if self.grid.is_halted(territory)]
        self._territories = [
            territory for territory in territories if territory not in self._halted
        ]
        # Both indexes are mostly empty; then no clearing needs to look into them.
        self._has_flags = next(CONGESTED.items(self.state), None) is not None
        self._has_immediates = next(IMMEDIATES.items(self.state), None) is not None

    def expire(self, order_id: bytes) -> None:
        """Close an order at its own end, if it is still open."""
        self._close_if_open(order_id, OrderStatus.EXPIRED)

    def clear_gate(self, slot: int, cleared: str) -> str:
        """Clear a slot's books at its gate, by name of their territories, as the budget allows.

        `cleared` is the territory up to which that is done; returns how far it is done now.
        """
        for group in self._auctions():
            if group and group[0] > cleared:
                if self.budget.is_spent:
                    return cleared
                self._clear(slot, group)
                cleared = group[-1]
        return ALL_TERRITORIES

    def clear_touched(self, after_slot: int) -> None:
        """Clear open slots with new orders, nearest first, as far as one block's work allows.

        A territory that stands still is cleared once it goes on.
        """
        national = self.market.max_trade_tier >= NATIONAL_TIER
        cleared_slot = after_slot
        for slot, territory in book.take_touched(self.state, after_slot, self._halted):
            if self.budget.is_spent:
                book.touch(self.state, slot, territory)
            elif not national:
                self._clear(slot, [territory])
            elif slot > cleared_slot:  # Once for all territories.
                self._clear(slot, self._territories)
                cleared_slot = slot

    def drop_immediate(self) -> None:
        """Cancel the rests of immediate-or-cancel orders that met a clearing in this block."""
        ids = sorted(self._immediate)
        self._immediate = {}
        most = self.budget.affords(WORK_EXPIRY)
        if self._carried:
            most = 0  # Some of them have fills that are carried over.
        self._drop(ids[:most])
        self._carry_over([CarriedOver(0, (), part) for part in _parts(ids[most:])])

    def finish_carried_over(self) -> bool:
        """Go on with what earlier blocks could not carry out; tells whether all is done."""
        rows = list(CARRIED_OVER.items(self.state))
        taken: list[CarriedOver] = []
        left = self.budget.left
        for key, row in rows:
            if left <= 0:
                break
            left -= len(row.fills) * WORK_FILL + len(row.immediates) * WORK_EXPIRY
            CARRIED_OVER.delete(self.state, key)
            taken.append(row)
        fills = [fill for row in taken for fill in row.fills]
        if fills:  # All of one clearing: while they are there, nothing is cleared.
            self._make_trades(taken[0].slot, fills)
        for row in taken:
            self._drop(row.immediates)
        return len(taken) == len(rows)

    def _drop(self, order_ids: Sequence[bytes]) -> None:
        self.budget.spend(len(order_ids) * WORK_EXPIRY)
        for order_id in order_ids:
            self._close_if_open(order_id, OrderStatus.CANCELLED)

    def _trade_what_fits(self, slot: int, fills: Sequence[Fill]) -> None:
        """Make trades of fills as the budget allows, and keep the others for the next blocks.

        Their orders stay in the book with their reserves. One that is cancelled meanwhile, by its
        owner or by a suspension, takes its fills with it.
        """
        most = self.budget.affords(WORK_FILL)
        self._make_trades(slot, fills[:most])
        self._carry_over([CarriedOver(slot, part) for part in _parts(fills[most:])])

    def _carry_over(self, rows: Iterable[CarriedOver]) -> None:
        for row in rows:
            CARRIED_OVER.put(self.state, u64(self._carried), row)
            self._carried += 1
            self.budget.spend(max(0, self.budget.left))  # Nothing is cleared before that is done.

    def _auctions(self) -> list[list[str]]:
        """Territories are auctions of their own unless national trade is open."""
        if self.market.max_trade_tier >= NATIONAL_TIER:
            return [self._territories]
        return [[territory] for territory in self._territories]

    def _close_if_open(self, order_id: bytes, status: OrderStatus) -> None:
        order = ORDERS.get(self.state, order_id)
        if order is not None:
            self.events.append(close_order(self.state, order, status))

    def _clear(self, slot: int, territories: list[str]) -> None:
        self._note_immediate(slot, territories)
        headroom_of = partial(headroom_left, self.state, self.grid, slot)
        if self.watch is not None:
            names = tuple(territories)
            self.watch(ClearingBegun(self.state, self.market, slot, names, headroom_of))
        first, second, third, fourth = self.market.wheeling_mthb
        max_tier = self.market.max_trade_tier
        wheeling_mthb = self.market.wheeling_mthb[: max_tier + 1]
        band = price_band(slot, self.market)
        look = self._depth.look(self.state, slot, wheeling_mthb, band)
        groups = look.groups(territories)
        self.budget.spend(WORK_SLOT)
        if not any(groups):
            self._flag(slot, territories, {})
            return
        result, cost = clear_books(
            groups,
            look.taker,
            wheeling_mthb=(first, second, third, fourth),
            headroom_of=headroom_of,
        )
        self.budget.spend(cost * WORK_PASS)
        self._trade_what_fits(slot, result.fills)
        flagged = {
            order_id: territory_of(order.terms.location)
            for order_id in result.congested
            if (order := look.order(order_id)) is not None
        }
        self._flag(slot, territories, flagged)
        if result.fills or result.congested:
            name = NATIONAL_GROUP if max_tier >= NATIONAL_TIER else territories[0]
            self.events.append(_cleared(slot, name, result))
            for tier, group, price_mthb in result.prices:
                last = LastPrice(slot, price_mthb)
                LAST_PRICES.put(self.state, book.last_price_key(tier, group), last)

    def _flag(self, slot: int, territories: list[str], congested: Mapping[bytes, str]) -> None:
        self._has_flags = self._has_flags or bool(congested)
        if self._has_flags:
            book.flag_congested(self.state, slot, territories, congested)

    def _note_immediate(self, slot: int, territories: list[str]) -> None:
        if not self._has_immediates:
            return
        for order_id in book.immediates(self.state, slot):
            order = ORDERS.get(self.state, order_id)
            if order is not None and territory_of(order.terms.location) in territories:
                self._immediate[order_id] = None

    def _make_trades(self, slot: int, fills: Sequence[Fill]) -> None:
        """Turn fills into trades, which take their shares of both reserves with them."""
        self.budget.spend(len(fills) * WORK_FILL)
        ids = dict.fromkeys([one for fill in fills for one in (fill.buy_id, fill.sell_id)])
        by_id = {one: order for one in ids if (order := ORDERS.get(self.state, one)) is not None}
        fills = [fill for fill in fills if fill.buy_id in by_id and fill.sell_id in by_id]
        fillings: dict[bytes, _Filling] = {}
        meters = self._meters(slot, fills, by_id)
        flows: dict[str, _Flow] = {}
        for fill in fills:
            buy = _filling(fillings, by_id[fill.buy_id])
            sell = _filling(fillings, by_id[fill.sell_id])
            seller = meters[sell.order.terms.meter_id]
            trade = self._trade(slot, fill, buy, sell, seller.sales)
            TRADES.put(self.state, trade_key(slot, trade.seller_meter, seller.sales), trade)
            seller.sales += 1
            seller.sold_wh += fill.energy_wh
            self.events.append(TradeMatched(trade))
            _flow(flows, fill, buy.order, sell.order)
        self._add_flows(slot, flows)
        if fills and DEADLINES.get(self.state, u64(slot)) is None:
            DEADLINES.put(self.state, u64(slot), agree_deadline(self.market))
        for meter_id, meter in meters.items():
            POSITIONS.put(self.state, u64(slot) + meter_id, meter.position())
        self._store_rests(slot, fillings)

    def _meters(
        self, slot: int, fills: Sequence[Fill], by_id: Mapping[bytes, Order]
    ) -> dict[bytes, _Meter]:
        """The positions of the meters that trade, in order of their first fill."""
        orders = [by_id[one] for fill in fills for one in (fill.buy_id, fill.sell_id)]
        if len(fills) > MANY_FILLS:
            rows = {key[8:]: row for key, row in POSITIONS.items(self.state, u64(slot))}
            return {
                order.terms.meter_id: _Meter(order, rows.get(order.terms.meter_id))
                for order in orders
            }
        meters: dict[bytes, _Meter] = {}
        for order in orders:
            meter_id = order.terms.meter_id
            if meter_id not in meters:
                meters[meter_id] = _Meter(order, POSITIONS.get(self.state, u64(slot) + meter_id))
        return meters

    def _trade(self, slot: int, fill: Fill, buy: _Filling, sell: _Filling, number: int) -> Trade:
        identity = (u64(slot), fill.buy_id, fill.sell_id, u64(number))
        return Trade(
            id=tagged_hash("gtx.trade", *identity),
            slot=slot,
            buy_id=fill.buy_id,
            sell_id=fill.sell_id,
            buyer=buy.order.owner,
            seller=sell.order.owner,
            buyer_meter=buy.order.terms.meter_id,
            seller_meter=sell.order.terms.meter_id,
            energy_wh=fill.energy_wh,
            price_mthb=fill.price_mthb,
            wheeling_mthb=fill.wheeling_mthb,
            tier=fill.tier,
            territory=territory_of(buy.order.terms.location),
            source=fill.source,
            escrow_uthb=buy.take(fill.energy_wh),
            bond_uthb=sell.take(fill.energy_wh),
            vat_bps=min(buy.order.vat_bps, self.market.vat_bps_in(slot)),
            vat_on_energy=sell.order.vat_registered,
            fee_bps=self.market.fee_bps,
            penalty_mthb=sell.order.penalty_mthb,
            transmission_mthb=self._transmission_mthb(fill),
            is_local=buy.order.is_local and fill.tier < NATIONAL_TIER,
        )

    def _transmission_mthb(self, fill: Fill) -> int:
        if fill.tier < NATIONAL_TIER:
            return 0
        return min(self.market.transmission_mthb, fill.wheeling_mthb)

    def _add_flows(self, slot: int, flows: Mapping[str, _Flow]) -> None:
        """Remember what was sold over each node, for later clearings of the slot and reports."""
        for node, more in flows.items():
            flow = flow_over(self.state, slot, node)
            total = NodeFlow(
                saturated(flow.export_wh + more.export_wh),
                saturated(flow.import_wh + more.import_wh),
                saturated(flow.local_wh + more.local_wh),
            )
            FLOWS.put(self.state, flow_key(slot, node), total)

    def _store_rests(self, slot: int, fillings: Mapping[bytes, _Filling]) -> None:
        """Write filled orders back, close those whose rest is dust."""
        filled, dust_wh = OrderStatus.FILLED, self.market.dust_wh
        for order_id, filling in fillings.items():
            order, rest_wh, reserve_uthb = filling.order, filling.rest_wh, filling.reserve_uthb
            filled_wh = order.with_fill(slot, filling.filled_wh)
            after = replace(order, rest_wh=rest_wh, reserve_uthb=reserve_uthb, filled_wh=filled_wh)
            if rest_wh < dust_wh:
                self.events.append(_leave(self.state, after, filled, rest_wh, reserve_uthb, 0))
            else:
                ORDERS.put(self.state, order_id, after)


def _parts(items: Sequence[T]) -> list[tuple[T, ...]]:
    size = CARRIED_IN_A_ROW
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


@dataclass(slots=True)
class _Flow:
    export_wh: int = 0
    import_wh: int = 0
    local_wh: int = 0


def flow_key(slot: int, node: str) -> bytes:
    """Key of a node's flow in a slot in FLOWS."""
    return u64(slot) + node.encode()


def _flow(flows: dict[str, _Flow], fill: Fill, buy: Order, sell: Order) -> None:
    """A fill of a tier crosses the nodes below it on both sides; wider ones hold it whole."""
    sources = groups_of(sell.terms.location)[:3]
    sinks = groups_of(buy.terms.location)[:3]
    for tier, (source, sink) in enumerate(zip(sources, sinks, strict=True)):
        if tier < fill.tier:
            flows.setdefault(source, _Flow()).export_wh += fill.energy_wh
            flows.setdefault(sink, _Flow()).import_wh += fill.energy_wh
        else:
            flows.setdefault(source, _Flow()).local_wh += fill.energy_wh


def _filling(fillings: dict[bytes, _Filling], order: Order) -> _Filling:
    found = fillings.get(order.id)
    if found is None:
        found = fillings[order.id] = _Filling(order, order.rest_wh, order.reserve_uthb)
    return found


def _cleared(slot: int, territory: str, result: Clearing) -> SlotCleared:
    return SlotCleared(
        slot=slot,
        territory=territory,
        traded_wh=saturated(sum(fill.energy_wh for fill in result.fills)),
        prices=tuple([GroupPrice(*price) for price in result.prices]),
        congested=result.congested,
    )
