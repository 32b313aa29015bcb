"""Who steps back when a required source was short, so that a group can be swept again.

Books are read in ladders by source for this alone: who wants nothing any more is not read again.
Source: protocols/market.md 3.2 step 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.trading.model import RENEWABLE_SOURCES, Side, Source
from gridtokenx.trading.pairing import Entry, Pair
from gridtokenx.trading.sharing import share

Line = tuple[int, bytes]  # Price rank and order id; a smaller rank is a better price.
# Orders of one side and source, sorted. A buy's source here is the one that it requires, if any.
Ladder = tuple[Source | None, Sequence[Line]]


_NOTHING = dict.fromkeys(Source, 0)


def price_rank(side: Side, limit_mthb: int) -> int:
    """What the lines of a side are sorted by."""
    return MAX_INT - limit_mthb if side is Side.BUY else limit_mthb


class Caps(Protocol):
    """What the orders of one side want in a sweep, where that is not all they have open."""

    def wanted_wh(self, level: Sequence[Entry]) -> list[int]:
        """What each order of a level wants, in Wh. Each level asks once, the best one first."""

    def further(self, source: Source | None, lines: Iterable[Line]) -> Iterable[Line]:
        """Of a ladder's lines beyond the sweep before, those whose orders may want something."""


@dataclass(frozen=True, slots=True)
class SellCaps:
    """Sells of a source of which not all was sold want what they sold."""

    unsold: frozenset[Source]
    sold_wh: Mapping[bytes, int]  # By order.

    @staticmethod
    def after(asks: Sequence[Entry], amounts_wh: Sequence[int]) -> SellCaps:
        """The caps that follow from what a sweep's asks sold, right after their pairing."""
        unsold = frozenset([ask.order.source for ask in asks if ask.unpaired_wh])
        rows = zip(asks, amounts_wh, strict=True)
        return SellCaps(unsold, {ask.order.id: energy_wh for ask, energy_wh in rows})

    def wanted_wh(self, level: Sequence[Entry]) -> list[int]:
        return [
            self.sold_wh.get(ask.order.id, 0) if ask.order.source in self.unsold else ask.open_wh
            for ask in level
        ]

    def further(self, source: Source | None, lines: Iterable[Line]) -> Iterable[Line]:
        return () if source in self.unsold else lines


@dataclass(slots=True, eq=False)
class BuyCaps:
    """Buys that require a source want what they got, and of what was left of it the rest."""

    got_wh: Mapping[bytes, int]  # By order.
    left_wh: dict[Source, int]  # By required source; falls as levels ask for it.
    has_given: bool = False  # Of what was left.

    @staticmethod
    def after(asks: Sequence[Entry], pairs: Sequence[Pair]) -> BuyCaps:
        """The caps that follow from a sweep's asks and what came of its pairing."""
        free_wh = _NOTHING.copy()
        for ask in asks:
            free_wh[ask.order.source] += ask.accepted_wh
        got_wh: dict[bytes, int] = {}
        for bid, ask, energy_wh in pairs:
            if bid.required is not None:
                free_wh[ask.order.source] -= energy_wh
                got_wh[bid.order.id] = got_wh.get(bid.order.id, 0) + energy_wh
        free_wh[Source.RENEWABLE] = sum([free_wh[source] for source in RENEWABLE_SOURCES])
        return BuyCaps(got_wh, free_wh)

    def without_more(self) -> BuyCaps:
        """The caps when nobody asks for what was left."""
        return BuyCaps(self.got_wh, _NOTHING.copy())

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
            given_wh = sum(shares_wh)
            self.left_wh[required] -= given_wh
            self.has_given = self.has_given or given_wh > 0
            for position, had_wh, share_wh in zip(positions, got_wh, shares_wh, strict=True):
                wanted_wh[position] = had_wh + share_wh
        return wanted_wh

    def further(self, source: Source | None, lines: Iterable[Line]) -> Iterable[Line]:
        return lines if source is None else self._while_left(source, lines)

    def _while_left(self, required: Source, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            if not self.left_wh[required]:
                return
            yield line
