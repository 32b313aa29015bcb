"""How the auction sees a book: each side of a group by levels, read only as far as it looks.

Source: protocols/market.md 3.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter

from gridtokenx.primitives.places import Boundary
from gridtokenx.trading.caps import Caps, Ladder, Line, price_rank
from gridtokenx.trading.model import ClearingOrder, Side
from gridtokenx.trading.pairing import Entry, wish_of

NATIONAL_GROUP = "TH"

_NO_BOUNDARIES: tuple[tuple[Boundary, ...], ...] = ((), (), (), ())

_Place = tuple[tuple[str, str, str, str], tuple[tuple[Boundary, ...], ...]]  # Groups; crossed ones.
_Prices = Iterator[list[list[Entry]]]  # The levels of each price.


@dataclass(slots=True, eq=False)
class Front:
    """One side of a group by levels, as far as it has been read: whole prices at a time.

    A level is the orders of equal limit and height, in order of id; only those that can trade.
    """

    _source: _Prices
    # The levels of worse prices than a limit, without those who want nothing.
    _further: Callable[[int, Caps], _Prices] | None = None
    _read: list[list[Entry]] = field(default_factory=list)

    def level(self, position: int) -> list[Entry] | None:
        """A level by its place from the best on; None behind the last one."""
        if position == len(self._read):
            levels = next(self._source, None)
            if levels is None:
                return None
            self._read += levels
        return self._read[position]

    def capped(self, caps: Caps) -> Front:
        """The same side, of which only those who may want something are read on."""
        if self._further is None or not self._read:
            return self
        last_mthb = self._read[-1][0].limit_mthb
        return Front(self._further(last_mthb, caps), None, self._read.copy())


@dataclass(slots=True, eq=False)
class Desk:
    """What the auctions of one slot share: the orders read so far and the grid's headroom."""

    order_of: Callable[[bytes], ClearingOrder | None]
    headroom_of: Callable[[Boundary], int | None]
    room_wh: dict[Boundary, int] = field(default_factory=dict)
    _entries: dict[bytes, Entry | None] = field(default_factory=dict)
    _places: dict[str, dict[Side, _Place]] = field(default_factory=dict)
    _nodes: dict[str, None] = field(default_factory=dict)  # Whose headroom has been asked.

    def front(self, side: Side, ladders: Sequence[Ladder]) -> Front:
        """One side of a group."""

        def further(last_mthb: int, caps: Caps) -> _Prices:
            behind = (price_rank(side, last_mthb) + 1, b"")
            rests = [
                (source, _from(lines, bisect_left(lines, behind))) for source, lines in ladders
            ]
            return self._prices([caps.further(*ladder) for ladder in rests])

        return Front(self._prices([lines for _, lines in ladders]), further)

    def _prices(self, ladders: Sequence[Iterable[Line]]) -> _Prices:
        for _, lines in groupby(merge(*ladders), key=itemgetter(0)):
            entries = [
                entry
                for _, order_id in lines
                if (entry := self._entry(order_id)) is not None and entry.open_wh
            ]
            if len(entries) > 1:
                entries.sort(key=attrgetter("height"))
                yield list(_levels(entries))
            elif entries:
                yield [entries]

    def _entry(self, order_id: bytes) -> Entry | None:
        if order_id not in self._entries:
            order = self.order_of(order_id)
            made = None if order is None else _enter(order, self._place(order))
            self._entries[order_id] = made
        return self._entries[order_id]

    def _place(self, order: ClearingOrder) -> _Place:
        location = order.location
        if location not in self._places:
            for node in groups_of(location)[:3]:
                if node not in self._nodes:
                    self._nodes[node] = None
                    self._learn_headroom(node)
            self._places[location] = {side: _place(location, side, self.room_wh) for side in Side}
        return self._places[location][order.side]

    def _learn_headroom(self, node: str) -> None:
        for boundary in (Boundary(node, True), Boundary(node, False)):
            room_wh = self.headroom_of(boundary)
            if room_wh is not None:
                self.room_wh[boundary] = room_wh


def price_time_order(
    orders: Sequence[ClearingOrder], side: Side, headroom: Mapping[Boundary, int]
) -> list[Entry]:
    """One side's orders by price, height and id."""
    places: dict[str, _Place] = {}
    chosen = [order for order in orders if order.side is side]
    # Three stable sorts by plain keys are several times faster than one by tuples.
    chosen.sort(key=attrgetter("id"))
    chosen.sort(key=attrgetter("height"))
    chosen.sort(key=attrgetter("limit_mthb"), reverse=side is Side.BUY)
    entries = []
    for order in chosen:
        location = order.location
        if location not in places:
            places[location] = _place(location, side, headroom)
        entries.append(_enter(order, places[location]))
    return entries


def _enter(order: ClearingOrder, place: _Place) -> Entry:
    groups, crossed = place
    return Entry(
        order, order.limit_mthb, order.height, order.energy_wh, groups, crossed, *wish_of(order)
    )


def groups_of(location: str) -> tuple[str, str, str, str]:
    """The four nested groups of a substation: itself, zone, territory, nation."""
    return location, location.rpartition("-")[0], location.partition("-")[0], NATIONAL_GROUP


def _place(location: str, side: Side, headroom: Mapping[Boundary, int]) -> _Place:
    groups = groups_of(location)
    if not headroom:
        return groups, _NO_BOUNDARIES
    ways = [Boundary(group, side is Side.SELL) for group in groups]
    crossed = [tuple(one for one in ways[:tier] if one in headroom) for tier in range(4)]
    return groups, tuple(crossed)


def _from(lines: Sequence[Line], start: int) -> Iterator[Line]:
    return (lines[position] for position in range(start, len(lines)))


def front_of(entries: list[Entry]) -> Front:
    """A side that is known as a whole."""
    return Front([level] for level in _levels(entries))


def _levels(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Cut what is in order of price, height and id where price or height change."""
    level: list[Entry] = []
    for entry in entries:
        if level and (entry.limit_mthb != level[0].limit_mthb or entry.height != level[0].height):
            yield level
            level = []
        level.append(entry)
    if level:
        yield level
