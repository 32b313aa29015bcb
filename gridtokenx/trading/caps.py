"""Who steps back when a required source was short, so that a group can be swept again.

Books are read in ladders by source for this alone: who wants nothing any more is not read again.
Source: protocols/market.md 3.2 step 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.trading.model import Side, Source
from gridtokenx.trading.pairing import Entry, Pair, matches
from gridtokenx.trading.sharing import share

Line = tuple[int, bytes]  # Price rank and order id; a smaller rank is a better price.
# Orders of one side and source, sorted. A buy's source here is the one that it requires, if any.
Ladder = tuple[Source | None, Sequence[Line]]


def price_rank(side: Side, limit_mthb: int) -> int:
    """What the lines of a side are sorted by."""
    return MAX_INT - limit_mthb if side is Side.BUY else limit_mthb


class Caps(Protocol):
    """What the orders of one side want in a sweep, where that is not all they have open."""

    def wanted_wh(self, level: Sequence[Entry]) -> list[int]:
        """What each order of a level wants, in Wh. Each level asks once, the best one first."""

    def ladders(self, ladders: Sequence[Ladder]) -> Iterator[Iterable[Line]]:
        """The lines of those who may want something."""


@dataclass(frozen=True, slots=True)
class SellCaps:
    """Sells of a source of which not all was sold want what they sold."""

    unsold: frozenset[Source]
    sold_wh: Mapping[bytes, int]  # By order, of these sources.
    sold: Sequence[Line]

    @staticmethod
    def after(asks: Sequence[Entry], unsold: frozenset[Source]) -> SellCaps:
        """The caps that follow from a sweep whose asks were trimmed to what they sold."""
        sold = [ask for ask in asks if ask.accepted_wh and ask.order.source in unsold]
        sold_wh = {ask.order.id: ask.accepted_wh for ask in sold}
        return SellCaps(unsold, sold_wh, _lines(sold, Side.SELL))

    def wanted_wh(self, level: Sequence[Entry]) -> list[int]:
        return [
            self.sold_wh.get(ask.order.id, 0) if ask.order.source in self.unsold else ask.open_wh
            for ask in level
        ]

    def ladders(self, ladders: Sequence[Ladder]) -> Iterator[Iterable[Line]]:
        yield self.sold
        for source, lines in ladders:
            if source not in self.unsold:
                yield lines


@dataclass(frozen=True, slots=True)
class BuyCaps:
    """Buys that require a source want what they got, and of what was left of it the rest."""

    got_wh: Mapping[bytes, int]  # By order, where it is not 0.
    got: Sequence[Line]
    left_wh: dict[Source, int]  # By required source; falls as levels ask for it.

    @staticmethod
    def after(bids: Sequence[Entry], asks: Sequence[Entry], pairs: Sequence[Pair]) -> BuyCaps:
        """The caps that follow from a sweep and what came of its pairing."""
        free_wh = dict.fromkeys(Source, 0)
        for ask in asks:
            free_wh[ask.order.source] += ask.accepted_wh
        got_wh: dict[bytes, int] = {}
        got: dict[bytes, Entry] = {}
        for bid, ask, energy_wh in pairs:
            if bid.required is not None:
                free_wh[ask.order.source] -= energy_wh
                got_wh[bid.order.id] = got_wh.get(bid.order.id, 0) + energy_wh
                got[bid.order.id] = bid
        left_wh = {
            required: sum(wh for source, wh in free_wh.items() if matches(source, required))
            for required in Source
        }
        return BuyCaps(got_wh, _lines(got.values(), Side.BUY), left_wh)

    def wanted_wh(self, level: Sequence[Entry]) -> list[int]:
        wanted_wh = [bid.open_wh for bid in level]
        alike: dict[Source, list[int]] = {}
        for position, bid in enumerate(level):
            if bid.required is not None:
                alike.setdefault(bid.required, []).append(position)
        for required, positions in alike.items():
            got_wh = [self.got_wh.get(level[position].order.id, 0) for position in positions]
            more_wh = [
                wanted_wh[position] - had_wh
                for position, had_wh in zip(positions, got_wh, strict=True)
            ]
            shares_wh = share(self.left_wh[required], more_wh)
            self.left_wh[required] -= sum(shares_wh)
            for position, had_wh, share_wh in zip(positions, got_wh, shares_wh, strict=True):
                wanted_wh[position] = had_wh + share_wh
        return wanted_wh

    def ladders(self, ladders: Sequence[Ladder]) -> Iterator[Iterable[Line]]:
        yield self.got
        for required, lines in ladders:
            yield lines if required is None else self._while_left(required, lines)

    def _while_left(self, required: Source, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            if not self.left_wh[required]:
                return
            if line[1] not in self.got_wh:
                yield line


def _lines(entries: Iterable[Entry], side: Side) -> list[Line]:
    return sorted((price_rank(side, entry.limit_mthb), entry.order.id) for entry in entries)
