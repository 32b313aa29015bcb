"""The clearings of one slot, watched while a chain is executed again, and an order's life in it.

Every clearing is done a second time, over the whole book at once, and held against the trades and
prices that the blocks record. Source: protocols/market.md 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from gridtokenx.chain.block import Event
from gridtokenx.chain.transition import Execution
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import saturated, slot_start_ms
from gridtokenx.primitives.state import Reader
from gridtokenx.trading.clock_model import CLOCK, GatesMissed
from gridtokenx.trading.explanation import Explanation, Reason, SlotBook, explain, read_book
from gridtokenx.trading.matching import ClearingBegun
from gridtokenx.trading.model import (
    CARRIED_OVER,
    Clearing,
    ClearingOrder,
    Fill,
    GroupPrice,
    OrderClosed,
    OrderPlaced,
    OrderStatus,
    PlaceOrder,
    SlotCleared,
    Trade,
    TradeMatched,
)


@dataclass(frozen=True, slots=True)
class SeenClearing:
    """One clearing of the slot as it came out here, over so many orders."""

    height: int
    territories: tuple[str, ...]
    orders: int
    result: Clearing


@dataclass(frozen=True, slots=True)
class SeenTrade:
    """A trade that a block records."""

    height: int
    trade: Trade


@dataclass(slots=True)
class SeenOrder:
    """An order of the slot: as a clearing last saw it, and what it has traded in all of them."""

    order: ClearingOrder
    wanted_wh: int
    traded_wh: int = 0
    clearings: int = 0


@dataclass(frozen=True, slots=True)
class OrderLife:
    """When an order came into the book and how it left; None: it has not, by the last block."""

    terms: PlaceOrder
    placed_height: int
    closed_height: int | None = None
    status: OrderStatus | None = None


@dataclass(frozen=True, slots=True)
class OrderStory:
    """Why an order did or did not trade in the slot.

    `last` is what the last clearing with it did, in block `last_height`; None without one.
    """

    reason: Reason
    life: OrderLife
    last_height: int | None
    last: Explanation | None
    trades: tuple[SeenTrade, ...]


@dataclass(slots=True)
class SlotHistory:
    """What a replay shows of one slot. Keeps of all books only the last with `order_id` in it."""

    slot: int
    order_id: bytes | None = None
    clearings: list[SeenClearing] = field(default_factory=list)
    trades: list[SeenTrade] = field(default_factory=list)
    orders: dict[bytes, SeenOrder] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    closed_height: int | None = None  # Block from which on nothing trades in the slot any more.
    first_slot: int | None = None  # In which the chain's market began; its gate is the first.
    is_missed: bool = False  # The chain stood still at the gate.
    gate_height: int | None = None  # First block at or after the gate.
    gate_territories: tuple[str, ...] = ()  # Cleared a last time.
    _lives: dict[bytes, OrderLife] = field(default_factory=dict)
    _begun: list[tuple[tuple[str, ...], SlotBook]] = field(default_factory=list)
    _owed: list[tuple[int, Fill]] = field(default_factory=list)  # By height of the clearing.
    _dropped: list[Fill] = field(default_factory=list)
    _last: tuple[int, SlotBook] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing trades in the slot any more."""
        return self.closed_height is not None

    def watch(self, begun: ClearingBegun) -> None:
        """See a clearing begin; belongs to the block that `note` is told next."""
        if begun.slot == self.slot:
            self._begun.append((begun.territories, read_book(begun)))

    def note(self, execution: Execution, state: Reader) -> None:
        """Take over a block that was executed; `state` is the one after it."""
        height = execution.block.header.height
        clock = CLOCK.get(state, b"")
        assert clock is not None  # A chain's first block starts it.
        if self.first_slot is None:
            self.first_slot = clock.slot + 1
        if clock.slot >= self.slot:
            self.gate_height = self.gate_height or height
            self.gate_territories += tuple(name for names, _ in self._begun for name in names)
        events = [event for receipt in execution.receipts for event in receipt.events]
        for event in events:
            self._note_life(event, height)
        self._clear_again(height, [one for one in events if isinstance(one, SlotCleared)])
        self._hold_trades(height, [one.trade for one in events if isinstance(one, TradeMatched)])
        if clock.gate_slot >= self.slot and not self._is_carried_over(state):
            self._close(height)

    def _note_life(self, event: Event, height: int) -> None:
        match event:
            case OrderPlaced(order_id, _, terms):
                is_of_slot = terms.first_slot <= self.slot <= terms.last_slot
                if is_of_slot or order_id == self.order_id:
                    self._lives[order_id] = OrderLife(terms, height)
            case OrderClosed(order_id, _, status) if order_id in self._lives:
                life = self._lives[order_id]
                self._lives[order_id] = replace(life, closed_height=height, status=status)
            case GatesMissed(first, last) if first <= self.slot <= last:
                self.is_missed = True
            case _:
                return

    def _clear_again(self, height: int, told: list[SlotCleared]) -> None:
        expected = []
        for territories, book in self._begun:
            result = book.clear()
            self.clearings.append(SeenClearing(height, territories, len(book.orders), result))
            self._owed += [(height, fill) for fill in result.fills]
            if result.fills or result.congested:
                expected.append(_summed(result))
            for order in book.orders:
                seen = self.orders.setdefault(order.id, SeenOrder(order, order.energy_wh))
                seen.order = order
                seen.clearings += 1
                if order.id == self.order_id:
                    self._last = height, book
        recorded = [
            (one.traded_wh, one.prices, one.congested) for one in told if one.slot == self.slot
        ]
        if recorded != expected:
            self.differences.append(
                f"block {height} records {_shown(recorded)}, the auction gives {_shown(expected)}"
            )
        self._begun = []

    def _hold_trades(self, height: int, made: list[Trade]) -> None:
        """Each trade is the next fill that is owed; one whose order has left is dropped."""
        for trade in made:
            if trade.slot != self.slot:
                continue
            self.trades.append(SeenTrade(height, trade))
            for order_id in (trade.buy_id, trade.sell_id):
                if order_id in self.orders:
                    self.orders[order_id].traded_wh += trade.energy_wh
            while self._owed and self._has_left(self._owed[0]):
                if _is_made(self._owed[0][1], trade):
                    break
                self._dropped.append(self._owed.pop(0)[1])
            if self._owed and _is_made(self._owed[0][1], trade):
                self._owed.pop(0)
            else:
                self.differences.append(
                    f"block {height} records a trade of {_named(trade)}, which the auction does "
                    "not give"
                )

    def _has_left(self, owed: tuple[int, Fill]) -> bool:
        """Whether an order of a fill left the book between its clearing and its trade."""
        height, fill = owed
        lives = (self._lives[fill.buy_id], self._lives[fill.sell_id])
        return any(
            life.status is OrderStatus.CANCELLED and (life.closed_height or 0) >= height
            for life in lives
        )

    def _is_carried_over(self, state: Reader) -> bool:
        return any(row.fills and row.slot == self.slot for _, row in CARRIED_OVER.items(state))

    def _close(self, height: int) -> None:
        if self.is_closed:
            return
        self.closed_height = height
        for owed in self._owed:
            fill = owed[1]
            if self._has_left(owed):
                self._dropped.append(fill)
            else:
                self.differences.append(
                    f"block {owed[0]} and those after it record no trade of {_named(fill)}, which "
                    "the auction gives"
                )

    def story(self, order_id: bytes) -> OrderStory | None:
        """Why the order `order_id` traded or not; None where no block so far has placed it.

        Its slot is closed by then, and `order_id` is what this history was asked for.
        """
        life = self._lives.get(order_id)
        if life is None:
            return None
        trades = tuple(
            one for one in self.trades if order_id in (one.trade.buy_id, one.trade.sell_id)
        )
        if self._last is None:
            return OrderStory(self._absence(life), life, None, None, trades)
        height, book = self._last
        last = explain(book, order_id)
        dropped = any(order_id in (fill.buy_id, fill.sell_id) for fill in self._dropped)
        return OrderStory(Reason.DROPPED if dropped else last.reason, life, height, last, trades)

    def _absence(self, life: OrderLife) -> Reason:
        """Why an order was in no clearing of the slot."""
        terms = life.terms
        if not terms.first_slot <= self.slot <= terms.last_slot:
            return Reason.OTHER_SLOTS
        assert self.gate_height is not None  # The slot is closed.
        has_left = life.closed_height is not None and life.closed_height < self.gate_height
        if life.status is OrderStatus.FILLED:
            return Reason.FILLED
        if has_left and life.status is OrderStatus.CANCELLED:
            return Reason.CANCELLED
        if has_left or terms.expires_ms < slot_start_ms(self.slot):
            return Reason.EXPIRED
        if self.is_missed:
            return Reason.STANDSTILL
        is_cleared = territory_of(terms.location) in self.gate_territories
        return Reason.OUT_OF_BAND if is_cleared else Reason.HALTED


_Summed = tuple[int, tuple[GroupPrice, ...], tuple[bytes, ...]]


def _summed(result: Clearing) -> _Summed:
    """What the event of a clearing tells."""
    traded_wh = saturated(sum(fill.energy_wh for fill in result.fills))
    return traded_wh, tuple(GroupPrice(*price) for price in result.prices), result.congested


def _shown(rows: list[_Summed]) -> str:
    told = [
        f"{traded_wh} Wh at "
        + (", ".join(f"{one.group} {one.price_mthb}" for one in prices) or "no price")
        + f" with {len(congested)} kept back"
        for traded_wh, prices, congested in rows
    ]
    return "; ".join(told) or "no clearing"


def _is_made(fill: Fill, trade: Trade) -> bool:
    return all(getattr(fill, name) == getattr(trade, name) for name in _SAME)


def _named(one: Fill | Trade) -> str:
    return f"{one.energy_wh} Wh between {one.buy_id.hex()[:16]} and {one.sell_id.hex()[:16]}"


_SAME = tuple(one.name for one in fields(Fill))
