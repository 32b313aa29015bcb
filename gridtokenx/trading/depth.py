"""The open orders as books in memory: who could trade with whom in a slot, without reading a book.

`Depth` is an index of the table ORDERS (`primitives.state.index`): a pure function of its rows, so
nothing depends on whether it was kept from block to block or has just been built.

An order may span up to 96 slots. Its span is cut into blocks of 1, 2, 4 .. 64 aligned slots, as a
segment tree does: it then stands once for each slot it names alone and at most 12 times otherwise,
and a slot's orders are those of the 7 blocks that contain the slot. In each block the orders lie
sorted by price in their substation, in its zone and in its territory, so that groups which do not
cross are passed over as a whole. Source:
protocols/market.md 3.1, 3.2, 4.5.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.state import Reader
from gridtokenx.trading.caps import Ladder, Line, price_rank
from gridtokenx.trading.clearing import GroupBook
from gridtokenx.trading.fronts import NATIONAL_GROUP, groups_of
from gridtokenx.trading.model import ORDERS, ClearingOrder, Order, PlaceOrder, Side, Source
from gridtokenx.trading.pairing import required_source

LEVELS = 7  # A span of up to 96 slots holds no aligned block of more than 64.
NATIONAL_TIER = 3
_NOBODY = MAX_INT + 1  # A rank that crosses none.

Block = tuple[int, int]  # Level and number: the slots number << level .. (number + 1 << level) - 1.


def span_blocks(first_slot: int, last_slot: int) -> list[Block]:
    """The aligned blocks that make up first_slot..last_slot."""
    blocks = []
    low, high, level = first_slot, last_slot + 1, 0
    while low < high:
        if low & 1:
            blocks.append((level, low))
            low += 1
        if high & 1:
            high -= 1
            blocks.append((level, high))
        low, high, level = low >> 1, high >> 1, level + 1
    return blocks


def open_wh(order: Order, slot: int) -> int:
    """What an order may still trade in a slot: its rest, within what the slot may take of it."""
    used_wh = order.filled_in(slot) if order.filled_wh else 0
    return min(order.rest_wh, order.terms.max_wh_per_slot - used_wh)


@dataclass(slots=True, eq=False)
class _Group:
    """The lines of one group in one block, best price first, and the groups inside it.

    Sells lie by their source, buys by the one that they require.
    """

    bids: dict[Source | None, list[Line]] = field(default_factory=dict)
    asks: dict[Source | None, list[Line]] = field(default_factory=dict)
    inner: dict[str, _Group] = field(default_factory=dict)

    def enter(self, terms: PlaceOrder, line: Line) -> None:
        ladders, source = self._place(terms)
        if source in ladders:
            insort(ladders[source], line)
        else:
            ladders[source] = [line]

    def leave(self, terms: PlaceOrder, line: Line) -> None:
        ladders, source = self._place(terms)
        lines = ladders[source]
        del lines[bisect_left(lines, line)]
        if not lines:
            del ladders[source]

    def _place(self, terms: PlaceOrder) -> tuple[dict[Source | None, list[Line]], Source | None]:
        if terms.side is Side.SELL:
            return self.asks, terms.source
        return self.bids, required_source(terms.source, terms.require)


class Depth:
    """The open orders by block, group and price. Follows the table ORDERS."""

    table: ClassVar = ORDERS

    def __init__(self) -> None:
        self._blocks: dict[Block, _Group] = {}  # Each the nation, its territories inside.
        self._terms: dict[bytes, PlaceOrder] = {}

    def follow(self, rows: Iterable[tuple[bytes, Order | None]]) -> None:
        """Take over orders that were placed, changed or (None) left."""
        arrived = []
        for order_id, order in rows:
            if order is None:
                terms = self._terms.pop(order_id, None)
                if terms is not None:
                    self._leave(order_id, terms)
            elif order_id not in self._terms:  # What was placed stays; only rests change.
                self._terms[order_id] = order.terms
                arrived.append((price_rank(order.terms.side, order.terms.limit_mthb), order_id))
        for line in sorted(arrived):  # Sorted, so that a whole book is built by appending.
            self._enter(line, self._terms[line[1]])

    @property
    def territories(self) -> list[str]:
        """Prefixes of the territories that have open orders, by name."""
        names = [name for nation in self._blocks.values() for name in nation.inner]
        return sorted(dict.fromkeys(names))

    def look(
        self, state: Reader, slot: int, wheeling_mthb: tuple[int, ...], band: tuple[int, int]
    ) -> Look:
        """One slot's search for those who could trade.

        Units: wheeling in mTHB/kWh for the permitted tiers, from 0 on; `band` the lowest and the
        highest limit that the slot allows today, mTHB/kWh: others do not take part. `state` may
        have changed since this index was taken only by orders that left or were filled.
        """
        nations = [
            nation
            for level in range(LEVELS)
            if (nation := self._blocks.get((level, slot >> level))) is not None
        ]
        return Look(state, slot, wheeling_mthb, band, nations)

    def _enter(self, line: Line, terms: PlaceOrder) -> None:
        names = groups_of(terms.location)[:NATIONAL_TIER]
        for block in span_blocks(terms.first_slot, terms.last_slot):
            group = self._blocks.setdefault(block, _Group())
            for name in reversed(names):
                group = group.inner.setdefault(name, _Group())
                group.enter(terms, line)

    def _leave(self, order_id: bytes, terms: PlaceOrder) -> None:
        line = (price_rank(terms.side, terms.limit_mthb), order_id)
        names = groups_of(terms.location)[:NATIONAL_TIER]
        for block in span_blocks(terms.first_slot, terms.last_slot):
            path = [self._blocks[block]]
            for name in reversed(names):
                path.append(path[-1].inner[name])
                path[-1].leave(terms, line)
            for name, outer, group in zip(names, path[-2::-1], path[:0:-1], strict=True):
                if not group.bids and not group.asks:
                    del outer.inner[name]
            if not path[0].inner:
                del self._blocks[block]


@dataclass(slots=True)
class Look:
    """One slot's search for the groups whose orders cross."""

    _state: Reader
    _slot: int
    _wheeling_mthb: tuple[int, ...]
    _band: tuple[int, int]
    _nations: list[_Group]
    _known: dict[bytes, Order | None] = field(default_factory=dict)
    _open_wh: dict[bytes, int] = field(default_factory=dict)

    def groups(self, territories: list[str]) -> list[list[GroupBook]]:
        """By permitted tier the groups whose best orders cross, without reading the others."""
        tiers: list[list[GroupBook]] = [[] for _ in self._wheeling_mthb]
        inside = {
            territory: [
                one for nation in self._nations if (one := nation.inner.get(territory)) is not None
            ]
            for territory in territories
        }
        if len(tiers) > NATIONAL_TIER:
            everybody = [group for groups in inside.values() for group in groups]
            if not self._enlist(NATIONAL_GROUP, everybody, NATIONAL_TIER, tiers):
                return tiers
        for territory, groups in inside.items():
            self._gather(territory, groups, NATIONAL_TIER - 1, tiers)
        return tiers

    def order(self, order_id: bytes) -> Order | None:
        """An order that can still trade in the slot, as it was before the clearing."""
        if order_id not in self._known:
            order = ORDERS.get(self._state, order_id)
            left_wh = 0 if order is None else self._allowed_wh(order)
            self._known[order_id] = order if left_wh else None
            self._open_wh[order_id] = left_wh
        return self._known[order_id]

    def _allowed_wh(self, order: Order) -> int:
        low, high = self._band
        in_band = low <= order.terms.limit_mthb <= high
        return open_wh(order, self._slot) if in_band else 0

    def taker(self, order_id: bytes) -> ClearingOrder | None:
        """`order` with what it may trade, as the auction takes it."""
        order = self.order(order_id)
        return None if order is None else taker(order, self._open_wh[order_id])

    def _gather(
        self, name: str, groups: list[_Group], tier: int, tiers: list[list[GroupBook]]
    ) -> None:
        if self._enlist(name, groups, tier, tiers):
            for inner_name, inner in _inner(groups).items():
                self._gather(inner_name, inner, tier - 1, tiers)

    def _enlist(
        self, name: str, groups: list[_Group], tier: int, tiers: list[list[GroupBook]]
    ) -> bool:
        """Note a group where its best cross; tells whether anybody could in the groups inside."""
        bids, asks = _ladders(groups)
        best = self._best_of(bids, asks, tier)
        if best is None:
            return False
        if tier < len(tiers) and _cross(*best, self._wheeling_mthb[tier]):
            tiers[tier].append(GroupBook(name, bids, asks))
        return True

    def _best_of(self, bids: list[Ladder], asks: list[Ladder], tier: int) -> tuple[int, int] | None:
        """The best ranks of both sides; None if nobody can trade in the group or inside it."""
        if not bids or not asks:
            return None
        least_mthb = min(self._wheeling_mthb[: tier + 1])
        if not _cross(_top(bids), _top(asks), least_mthb):
            return None  # Perhaps of orders that can trade no more; then even less.
        best = self._best(bids), self._best(asks)
        return best if _cross(*best, least_mthb) else None

    def _best(self, ladders: Sequence[Ladder]) -> int:
        """The rank of the best order that can still trade in the slot."""
        ranks = [next(self._live(lines), None) for _, lines in ladders]
        return min([line[0] for line in ranks if line is not None], default=_NOBODY)

    def _live(self, lines: Iterable[Line]) -> Iterator[Line]:
        known = self._known
        for line in lines:
            order_id = line[1]
            if (known[order_id] if order_id in known else self.order(order_id)) is not None:
                yield line


def taker(order: Order, left_wh: int) -> ClearingOrder:
    """An order as the auction takes it, with what it may still trade in the slot."""
    terms = order.terms
    return ClearingOrder(
        order.id,
        order.owner,
        terms.side,
        left_wh,
        terms.limit_mthb,
        terms.location,
        terms.source,
        terms.require,
        order.height,
    )


def _ladders(groups: list[_Group]) -> tuple[list[Ladder], list[Ladder]]:
    bids: list[Ladder] = [ladder for group in groups for ladder in group.bids.items()]
    asks: list[Ladder] = [ladder for group in groups for ladder in group.asks.items()]
    return bids, asks


def _inner(groups: list[_Group]) -> dict[str, list[_Group]]:
    """The groups inside a group, each with its lines of all blocks."""
    names: dict[str, list[_Group]] = {}
    for group in groups:
        for name, one in group.inner.items():
            names.setdefault(name, []).append(one)
    return names


def _top(ladders: list[Ladder]) -> int:
    return min([lines[0][0] for _, lines in ladders])


def _cross(bid_rank: int, ask_rank: int, fee_mthb: int) -> bool:
    """Whether a bid pays an ask and the wheeling; both as ranks."""
    return ask_rank + fee_mthb <= MAX_INT - bid_rank
