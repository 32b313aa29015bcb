"""From the auction's answer to state: trades, positions, order rests, and how orders leave.

`clearing.clear` is a pure function over one slot; a `Run` carries out one block's clearings.
Source: protocols/market.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.trading import book
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import (
    ORDERS,
    POSITIONS,
    TRADES,
    Clearing,
    ClearingOrder,
    Fill,
    GroupPrice,
    MarketParameters,
    Order,
    OrderClosed,
    OrderStatus,
    Position,
    Side,
    SlotCleared,
    SlotFill,
    TimeInForce,
    Trade,
    TradeMatched,
    TradingEvent,
)
from gridtokenx.trading.settlement import escrow_needed, trade_key

NATIONAL_TIER = 3
NATIONAL_GROUP = "TH"
# A block must not be stalled by orders that span many slots of a deep book: beyond so many orders
# put before the auction, the later slots wait for the next block. Closing gates never wait.
MAX_ORDERS_CLEARED = 100_000


def close(state: Overlay, order: Order, status: OrderStatus) -> OrderClosed:
    """Take an order off the book and release all that still stands behind its rest.

    A cancelled rest no longer counts against the owner's daily cap.
    """
    returned_wh = order.rest_wh if status is OrderStatus.CANCELLED else 0
    book.remove(state, order, returned_wh)
    if order.reserve_uthb:
        if order.terms.side is Side.BUY:
            ledger.release_escrow(state, order.owner, order.reserve_uthb)
        else:
            ledger.release_bond(state, order.owner, order.reserve_uthb)
    return OrderClosed(order.id, order.owner, status, order.rest_wh, order.reserve_uthb)


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


@dataclass
class Run:
    """One block's clearings and the events they cause, in order."""

    state: Overlay
    market: MarketParameters
    tie_salt: bytes
    headroom: Mapping[str, int]
    events: list[TradingEvent] = field(default_factory=list)
    _immediate: dict[bytes, None] = field(default_factory=dict)
    _view: book.View = field(init=False)
    _cleared: int = 0

    def __post_init__(self) -> None:
        self._view = book.View(self.state)

    def expire(self, order_id: bytes) -> None:
        """Close an order at its own end, if it is still open."""
        self._close_if_open(order_id, OrderStatus.EXPIRED)

    def clear_slot(self, slot: int, region: str = "") -> None:
        """Clear a slot's book, of one region or of all.

        Regions are separate auctions unless national trade is open.
        """
        national = self.market.max_trade_tier >= NATIONAL_TIER
        books = self._view.open_orders(slot, "" if national else region)
        if national:
            books = {NATIONAL_GROUP: [order for orders in books.values() for order in orders]}
        for name, orders in books.items():
            self._clear(slot, name, orders)

    def close_gate(self, slot: int) -> None:
        """Close the orders that had no later slot to trade in."""
        for orders in self._view.open_orders(slot).values():
            for order in orders:
                if order.terms.last_slot == slot:
                    self.events.append(close(self.state, order, OrderStatus.EXPIRED))

    def clear_touched(self, after_slot: int) -> None:
        """Clear open slots with new orders, nearest first, as far as one block's work allows."""
        for slot, region in book.take_touched(self.state, after_slot):
            if self._cleared < MAX_ORDERS_CLEARED:
                self.clear_slot(slot, region)
            else:
                book.touch(self.state, slot, region)

    def drop_immediate(self) -> None:
        """Cancel the rests of immediate-or-cancel orders that met a clearing in this block."""
        for order_id in sorted(self._immediate):
            self._close_if_open(order_id, OrderStatus.CANCELLED)
        self._immediate = {}

    def _close_if_open(self, order_id: bytes, status: OrderStatus) -> None:
        order = ORDERS.get(self.state, order_id)
        if order is not None:
            self.events.append(close(self.state, order, status))

    def _clear(self, slot: int, region: str, orders: list[Order]) -> None:
        for order in orders:
            if order.terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL:
                self._immediate[order.id] = None
        self._cleared += len(orders)
        takers = _takers(orders, slot)
        buys = sum(taker.side is Side.BUY for taker in takers)
        if buys in (0, len(takers)):
            return
        wheeling = self.market.wheeling_mthb
        result = clear(
            takers,
            tie_salt=self.tie_salt,
            wheeling_mthb=(wheeling[0], wheeling[1], wheeling[2], wheeling[3]),
            max_tier=self.market.max_trade_tier,
            headroom=self.headroom,
        )
        by_id = {order.id: order for order in orders}
        fillings = self._carry_out(slot, result.fills, by_id)
        self._store_rests(slot, fillings, set(result.congested), orders)
        if result.fills or result.congested:
            self.events.append(_cleared(slot, region, result))

    def _carry_out(
        self, slot: int, fills: Iterable[Fill], by_id: Mapping[bytes, Order]
    ) -> dict[bytes, _Filling]:
        """Turn fills into trades, which take their shares of both reserves with them."""
        fillings: dict[bytes, _Filling] = {}
        positions: dict[bytes, Position] = {}
        for fill in fills:
            buy = _filling(fillings, by_id[fill.buy_id])
            sell = _filling(fillings, by_id[fill.sell_id])
            self._position(positions, slot, buy.order)
            sales = self._position(positions, slot, sell.order)
            trade = self._trade(slot, fill, buy, sell, sales.sales)
            TRADES.put(self.state, trade_key(slot, trade.seller_meter, sales.sales), trade)
            positions[trade.seller_meter] = replace(
                sales, sales=sales.sales + 1, sold_wh=sales.sold_wh + fill.energy_wh
            )
            self.events.append(TradeMatched(trade))
        for meter_id, position in positions.items():
            POSITIONS.put(self.state, u64(slot) + meter_id, position)
        return fillings

    def _position(self, positions: dict[bytes, Position], slot: int, order: Order) -> Position:
        meter_id = order.terms.meter_id
        found = positions.get(meter_id)
        if found is None:
            found = POSITIONS.get(self.state, u64(slot) + meter_id) or Position(order.owner)
            positions[meter_id] = found
        return found

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
            region=book.region_of(buy.order.terms.location),
            source=fill.source,
            escrow_uthb=buy.take(fill.energy_wh),
            bond_uthb=sell.take(fill.energy_wh),
            vat_bps=buy.order.vat_bps,
            vat_on_energy=sell.order.vat_registered,
            fee_bps=self.market.fee_bps,
            penalty_mthb=sell.order.penalty_mthb,
        )

    def _store_rests(
        self,
        slot: int,
        fillings: Mapping[bytes, _Filling],
        congested: set[bytes],
        orders: list[Order],
    ) -> None:
        """Write filled orders back, close those whose rest is dust, keep flags true."""
        for order in orders:
            flagged = order.id in congested
            filling = fillings.get(order.id)
            if filling is None:
                if flagged != order.congested:
                    ORDERS.put(self.state, order.id, replace(order, congested=flagged))
                continue
            after = replace(
                order,
                rest_wh=filling.rest_wh,
                reserve_uthb=filling.reserve_uthb,
                fills=_add_fill(order.fills, slot, filling.filled_wh),
                congested=flagged,
            )
            if after.rest_wh < self.market.dust_wh:
                self.events.append(close(self.state, after, OrderStatus.FILLED))
            else:
                ORDERS.put(self.state, order.id, after)


def _takers(orders: Iterable[Order], slot: int) -> list[ClearingOrder]:
    """What each order may still trade in this slot, as the auction takes it."""
    takers = []
    for order in orders:
        terms = order.terms
        room_wh = terms.max_wh_per_slot - (order.filled_in(slot) if order.fills else 0)
        energy_wh = min(order.rest_wh, room_wh)
        if energy_wh > 0:
            takers.append(
                ClearingOrder(
                    order.id,
                    order.owner,
                    terms.side,
                    energy_wh,
                    terms.limit_mthb,
                    terms.location,
                    terms.source,
                    terms.require,
                    order.height,
                )
            )
    return takers


def _filling(fillings: dict[bytes, _Filling], order: Order) -> _Filling:
    found = fillings.get(order.id)
    if found is None:
        found = fillings[order.id] = _Filling(order, order.rest_wh, order.reserve_uthb)
    return found


def _add_fill(fills: tuple[SlotFill, ...], slot: int, energy_wh: int) -> tuple[SlotFill, ...]:
    before_wh = sum(fill.energy_wh for fill in fills if fill.slot == slot)
    others = tuple([fill for fill in fills if fill.slot != slot])
    return (*others, SlotFill(slot, before_wh + energy_wh))


def _cleared(slot: int, region: str, result: Clearing) -> SlotCleared:
    return SlotCleared(
        slot=slot,
        region=region,
        traded_wh=sum(fill.energy_wh for fill in result.fills),
        prices=tuple([GroupPrice(*price) for price in result.prices]),
        congested=result.congested,
    )
