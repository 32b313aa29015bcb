"""Who takes whose energy, once the sweep has said how much each trades.

Buyers with the same limit, height and wish are a *class* and share every source alike, so that no
choice of an id brings anybody the solar energy of his equals. Source: protocols/market.md 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from gridtokenx.primitives.places import Boundary
from gridtokenx.trading.model import ClearingOrder, Side, Source
from gridtokenx.trading.sharing import share

Choice = Source | None  # None: not renewable.
Wish = tuple[int, Source | None, tuple[Choice, ...]]  # Rank, required source, choices in order.

_ANYBODY = 4
_NO_WISH: Wish = (0, None, ())


def matches(source: Source, required: Source) -> bool:
    """Whether what a seller makes is what a buyer requires."""
    return source is required or (required is Source.RENEWABLE and source.is_renewable)


def required_source(source: Source, require: bool) -> Source | None:
    """What a buyer takes nothing but; `any` asks for nothing, required or not."""
    return source if require and source is not Source.ANY else None


def _wish(source: Source, require: bool) -> Wish:
    if source is Source.ANY:
        return _ANYBODY, None, (None, Source.ANY)
    required = required_source(source, require)
    rank = 1 if source is Source.RENEWABLE else 0
    return (rank, required, (source,)) if required else (rank + 2, None, (source, Source.ANY))


def _serving(choice: Choice) -> frozenset[Source]:
    if choice is None:
        return frozenset([source for source in Source if not source.is_renewable])
    return frozenset([s for s in Source if choice is Source.ANY or matches(s, choice)])


_SERVING = {choice: _serving(choice) for choice in (None, *Source)}
_WISHES = {
    (source, require): _wish(source, require) for source in Source for require in (False, True)
}


@dataclass(slots=True, eq=False)
class Entry:
    """An order on its way through the tiers.

    `crossed[tier]` are the boundaries with a limit that a fill of the tier crosses.
    """

    order: ClearingOrder
    limit_mthb: int
    height: int
    open_wh: int
    groups: tuple[str, str, str, str]
    crossed: tuple[tuple[Boundary, ...], ...]
    rank: int
    required: Source | None
    choices: tuple[Choice, ...]
    accepted_wh: int = 0  # In the sweep at hand, and what of it has no counterpart yet.
    unpaired_wh: int = 0


Pair = tuple[Entry, Entry, int]  # Bid, ask, Wh.


def wish_of(order: ClearingOrder) -> Wish:
    """A buyer's rank, required source and choices of sources; a seller has none."""
    return _NO_WISH if order.side is Side.SELL else _WISHES[order.source, order.require]


def pair(bids: Sequence[Entry], asks: Sequence[Entry]) -> list[Pair]:
    """Give what was accepted to each other by source; lowers `unpaired_wh` as far as it goes.

    Both sides come in price-time order, equals in order of id. Bids keep what is unpaired only if
    they require a source, asks only if such a bid was not wholly served.
    Source: protocols/market.md 3.2 step 6.
    """
    queues: dict[Choice, list[Entry]] = {}  # Best ask last.
    pairs: list[Pair] = []
    for members in _classes(bids):
        for choice in members[0].choices:
            if choice not in queues:
                serving = _SERVING[choice]
                queues[choice] = [ask for ask in reversed(asks) if ask.order.source in serving]
        if len(members) == 1:
            bid = members[0]
            for choice in bid.choices:
                if not bid.unpaired_wh:
                    break
                for ask, energy_wh in _take(bid.unpaired_wh, queues[choice]):
                    bid.unpaired_wh -= energy_wh
                    pairs.append((bid, ask, energy_wh))
        else:
            pairs += _pair_class(members, queues)
    return pairs


def sold_wh(asks: Sequence[Entry]) -> list[int]:
    """What each of the asks has sold after `pair`: of equal sellers of a source each his share.

    Source: protocols/market.md 3.2 step 7.
    """
    amounts_wh = [ask.accepted_wh for ask in asks]
    equals: dict[tuple[int, int, Source], list[int]] = {}
    for position, ask in enumerate(asks):
        kind = ask.limit_mthb, ask.height, ask.order.source
        equals.setdefault(kind, []).append(position)
    for positions in equals.values():
        unpaired_wh = sum(asks[position].unpaired_wh for position in positions)
        if unpaired_wh:
            accepted_wh = [amounts_wh[position] for position in positions]
            shares_wh = share(sum(accepted_wh) - unpaired_wh, accepted_wh)
            for position, energy_wh in zip(positions, shares_wh, strict=True):
                amounts_wh[position] = energy_wh
    return amounts_wh


def _classes(bids: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Buyers of the same rank, limit, height and wish, in pairing order."""
    for _, equals in groupby(
        sorted(bids, key=attrgetter("rank")), key=attrgetter("rank", "limit_mthb", "height")
    ):
        members = list(equals)
        if len(members) == 1 or members[0].rank == _ANYBODY:
            yield members
            continue
        members.sort(key=_wished)
        for _, alike in groupby(members, key=_wished):
            yield list(alike)


def _wished(bid: Entry) -> str:
    return bid.order.source.value


def _pair_class(members: list[Entry], queues: dict[Choice, list[Entry]]) -> Iterator[Pair]:
    """Let a class take as one buyer would, then share each source among its members."""
    wanted_wh = sum(bid.unpaired_wh for bid in members)
    taken: dict[Source, list[tuple[Entry, int]]] = {}
    for choice in members[0].choices:
        for ask, energy_wh in _take(wanted_wh, queues[choice]):
            wanted_wh -= energy_wh
            taken.setdefault(ask.order.source, []).append((ask, energy_wh))
    for pieces in taken.values():
        total_wh = sum(energy_wh for _, energy_wh in pieces)
        shares_wh = share(total_wh, [bid.unpaired_wh for bid in members])
        offers = iter(pieces)
        offered_wh = 0
        for bid, share_wh in zip(members, shares_wh, strict=True):
            bid.unpaired_wh -= share_wh
            while share_wh:
                if not offered_wh:
                    ask, offered_wh = next(offers)
                energy_wh = min(share_wh, offered_wh)
                share_wh -= energy_wh
                offered_wh -= energy_wh
                yield bid, ask, energy_wh


def _take(wanted_wh: int, queue: list[Entry]) -> list[tuple[Entry, int]]:
    """Take up to `wanted_wh` from a queue's asks, best first."""
    taken = []
    while queue and wanted_wh:
        ask = queue[-1]
        energy_wh = min(wanted_wh, ask.unpaired_wh)
        if energy_wh:
            ask.unpaired_wh -= energy_wh
            wanted_wh -= energy_wh
            taken.append((ask, energy_wh))
        if not ask.unpaired_wh:
            queue.pop()
    return taken
