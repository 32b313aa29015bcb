"""The auction: one uniform price per slot, tier and group, nearest energy first.

A pure function of the orders and the grid's headroom: arrival order, the order of transactions in a
block and the hashes of blocks have no influence. Source: protocols/market.md 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType

from gridtokenx.primitives.places import Boundary
from gridtokenx.trading.caps import BuyCaps, Caps, Ladder, SellCaps
from gridtokenx.trading.fronts import Desk, Front, front_of, price_time_order
from gridtokenx.trading.model import Clearing, ClearingOrder, Fill, Side
from gridtokenx.trading.pairing import Entry, Pair, pair, sold_wh
from gridtokenx.trading.sharing import share, within_headroom

NO_LIMITS: Mapping[Boundary, int] = MappingProxyType({})


def clear(
    orders: Sequence[ClearingOrder],
    *,
    wheeling_mthb: tuple[int, int, int, int],
    max_tier: int = 2,
    headroom: Mapping[Boundary, int] = NO_LIMITS,
) -> Clearing:
    """Match the resting orders of one slot, tier by tier.

    Units: wheeling_mthb is mTHB/kWh per tier (substation, zone, territory, national); max_tier is
    0..3; headroom is in Wh, what has none is unlimited.
    Returns fills by tier, group name and pairing order; ask <= price, and price + wheeling <= the
    buyer's limit.
    The caller guarantees: ids are unique, locations are substations, nobody is on both sides.
    Source: protocols/market.md 3.
    """
    bids = price_time_order(orders, Side.BUY, headroom)
    asks = price_time_order(orders, Side.SELL, headroom)
    room_wh = dict(headroom)
    outcome = _Outcome()
    for tier in range(max_tier + 1):
        bids = [bid for bid in bids if bid.open_wh]
        asks = [ask for ask in asks if ask.open_wh]
        for group, group_bids, group_asks in _groups(bids, asks, tier):
            if group_bids[0].limit_mthb - wheeling_mthb[tier] >= group_asks[0].limit_mthb:
                fronts = front_of(group_bids), front_of(group_asks)
                outcome.add(_Auction(group, tier, wheeling_mthb[tier], *fronts, room_wh))
    return outcome.clearing()


@dataclass(frozen=True, slots=True)
class GroupBook:
    """A group's orders, each side in one or several ladders."""

    name: str
    bids: Sequence[Ladder]
    asks: Sequence[Ladder]


def clear_books(
    tiers: Sequence[Sequence[GroupBook]],
    order_of: Callable[[bytes], ClearingOrder | None],
    *,
    wheeling_mthb: tuple[int, int, int, int],
    headroom_of: Callable[[Boundary], int | None],
) -> tuple[Clearing, int]:
    """`clear`, of books that are read only as far as the auctions look.

    `tiers` holds the groups of each tier in which somebody might trade; `order_of` an order with
    what it may trade, or None where that is nothing; `headroom_of` what may cross a boundary.
    Returns the clearing and its cost: the orders that all sweeps together looked at.
    Source: protocols/market.md 3.1, 3.2.
    """
    desk = Desk(order_of, headroom_of)
    outcome = _Outcome()
    for tier, groups in enumerate(tiers):
        for group in sorted(groups, key=attrgetter("name")):
            bids = desk.front(Side.BUY, group.bids)
            asks = desk.front(Side.SELL, group.asks)
            outcome.add(_Auction(group.name, tier, wheeling_mthb[tier], bids, asks, desk.room_wh))
    return outcome.clearing(), outcome.cost


@dataclass(slots=True)
class _Outcome:
    """What the auctions of one slot have come to so far."""

    fills: list[Fill] = field(default_factory=list)
    prices: list[tuple[int, str, int]] = field(default_factory=list)
    congested: dict[bytes, None] = field(default_factory=dict)
    cost: int = 0

    def add(self, auction: _Auction) -> None:
        fills = auction.run()
        self.cost += auction.cost
        self.congested.update((entry.order.id, None) for entry in auction.congested)
        if fills:
            self.fills += fills
            self.prices.append((auction.tier, auction.group, auction.price_mthb))

    def clearing(self) -> Clearing:
        return Clearing(tuple(self.fills), tuple(self.prices), tuple(sorted(self.congested)))


def _groups(
    bids: list[Entry], asks: list[Entry], tier: int
) -> Iterator[tuple[str, list[Entry], list[Entry]]]:
    """The tier's groups that have both sides, by name, each side still in price-time order."""
    asks_of: dict[str, list[Entry]] = {}
    bids_of: dict[str, list[Entry]] = {}
    for ask in asks:
        asks_of.setdefault(ask.groups[tier], []).append(ask)
    for bid in bids:
        bids_of.setdefault(bid.groups[tier], []).append(bid)
    for name in sorted(asks_of):
        if name in bids_of:
            yield name, bids_of[name], asks_of[name]


@dataclass(slots=True, eq=False)
class _Level:
    """A level in a sweep: who takes part, what the grid lets each move, and what is still free."""

    limit_mthb: int
    members: list[Entry]
    weights_wh: list[int]
    total_wh: int
    left_wh: int
    is_limited: bool  # By headroom.
    kept_back: list[Entry]


@dataclass(slots=True, eq=False)
class _Sweep:
    """One side of a group in one sweep, from its best level on."""

    front: Front
    tier: int
    room_wh: Mapping[Boundary, int]  # Before the sweep; grows as levels of other places are read.
    caps: Caps | None
    level: _Level | None = None
    last_mthb: int = 0  # The limit of the last level of which anything was accepted.
    orders_seen: int = 0  # Of those who want something.
    _position: int = 0
    _used_wh: dict[Boundary, int] = field(default_factory=dict)
    _done: list[tuple[list[Entry], list[int]]] = field(default_factory=list)

    def advance(self) -> _Level | None:
        """Go on to the next level; the one before is accepted as far as the grid lets it."""
        if self.level is not None:
            self._accept(self.level, self.level.weights_wh)
        self.level = None
        while (members := self.front.level(self._position)) is not None:
            self._position += 1
            if self.caps is None:
                wanted_wh = [entry.open_wh for entry in members]
            else:
                wanted_wh = self.caps.wanted_wh(members)
                if not all(wanted_wh):
                    rows = [row for row in zip(members, wanted_wh, strict=True) if row[1]]
                    members, wanted_wh = [row[0] for row in rows], [row[1] for row in rows]
            if members:
                self.orders_seen += len(members)
                self.level = self._weigh(members, wanted_wh)
                break
        return self.level

    def finish(self) -> int | None:
        """Accept the marginal level in part; the limit of the first rejected order, if any."""
        level = self.level
        if level is None:
            return None
        if level.left_wh < level.total_wh:
            self._accept(level, share(level.total_wh - level.left_wh, level.weights_wh))
        else:
            while level is not None and not level.total_wh:
                level = self.advance()
        return None if level is None else level.limit_mthb

    def _weigh(self, members: list[Entry], wanted_wh: list[int]) -> _Level:
        limit_mthb, total_wh = members[0].limit_mthb, sum(wanted_wh)
        if self.tier and self.room_wh:
            crossed = [entry.crossed[self.tier] for entry in members]
            ways = [one for some in crossed for one in some]
            if ways:
                room_wh = {one: self.room_wh[one] - self._used_wh.get(one, 0) for one in ways}
                weights_wh = within_headroom(wanted_wh, crossed, room_wh)
                rows = zip(members, wanted_wh, weights_wh, strict=True)
                kept_back = [entry for entry, wanted, weight in rows if weight < wanted]
                total_wh = sum(weights_wh)
                return _Level(limit_mthb, members, weights_wh, total_wh, total_wh, True, kept_back)
        return _Level(limit_mthb, members, wanted_wh, total_wh, total_wh, False, [])

    def _accept(self, level: _Level, amounts_wh: list[int]) -> None:
        self._done.append((level.members, amounts_wh))
        if level.total_wh:
            self.last_mthb = level.limit_mthb
        if level.is_limited:
            for entry, energy_wh in zip(level.members, amounts_wh, strict=True):
                for one in entry.crossed[self.tier]:
                    self._used_wh[one] = self._used_wh.get(one, 0) + energy_wh

    def accepted(self) -> list[Entry]:
        """Who was accepted, in price-time order, each marked with how much."""
        accepted = []
        for members, amounts_wh in self._done:
            for entry, energy_wh in zip(members, amounts_wh, strict=True):
                if energy_wh:
                    entry.accepted_wh = entry.unpaired_wh = energy_wh
                    accepted.append(entry)
        return accepted


@dataclass(slots=True, eq=False)
class _Attempt:
    """What a sweep accepted, at which price, whom the grid kept back, and how that was paired."""

    bids: list[Entry]
    asks: list[Entry]
    price_mthb: int
    congested: list[Entry]
    pairs: list[Pair] = field(init=False)
    # By bid and by ask, if a required source was short; entries themselves serve the next sweep.
    traded_wh: tuple[list[int], list[int]] | None = None
    total_wh: int = 0

    def __post_init__(self) -> None:
        self.pairs = pair(self.bids, self.asks)
        self.total_wh = sum([energy_wh for _, _, energy_wh in self.pairs])
        if any(bid.unpaired_wh for bid in self.bids):
            got_wh = [bid.accepted_wh - bid.unpaired_wh for bid in self.bids]
            self.traded_wh = got_wh, sold_wh(self.asks)

    def final_pairs(self) -> list[Pair]:
        """The pairs if nothing else is tried: equal sellers bear alike that a source was short."""
        if self.traded_wh is None:
            return self.pairs
        for entries, amounts_wh in zip((self.bids, self.asks), self.traded_wh, strict=True):
            for entry, energy_wh in zip(entries, amounts_wh, strict=True):
                entry.accepted_wh = entry.unpaired_wh = energy_wh
        return pair(self.bids, self.asks)


@dataclass(slots=True)
class _Auction:
    """The auction of one group in one tier."""

    group: str
    tier: int
    wheeling_mthb: int
    bid_front: Front
    ask_front: Front
    room_wh: dict[Boundary, int]  # Headroom that earlier groups left; `run` takes from it.
    price_mthb: int = 0
    cost: int = 0  # Orders that the sweeps looked at.
    congested: list[Entry] = field(default_factory=list)

    def run(self) -> list[Fill]:
        """Sweep and pair, if a required source was short up to four ways; book the most trade."""
        best = first = self._attempt(None, None)
        if first.traded_wh is not None:
            most_wh = sum([ask.accepted_wh for ask in first.asks])  # No caps make it more.
            sell_caps = SellCaps.after(first.asks, first.traded_wh[1])
            buy_caps = BuyCaps.after(first.asks, first.pairs)
            best = self._better(first, None, sell_caps)
            if best.total_wh < most_wh:
                best = self._better(best, buy_caps, None)
            if best.total_wh < most_wh and buy_caps.has_given:
                best = self._better(best, buy_caps.without_more(), None)
        self.price_mthb, self.congested = best.price_mthb, best.congested
        return self._book(best.final_pairs())

    def _better(self, best: _Attempt, buy_caps: Caps | None, sell_caps: Caps | None) -> _Attempt:
        other = self._attempt(buy_caps, sell_caps, best.total_wh)
        return other if other.total_wh > best.total_wh else best

    def _attempt(
        self, buy_caps: Caps | None, sell_caps: Caps | None, beaten_wh: int = -1
    ) -> _Attempt:
        """Accept bids and asks from the best level on, and pair them if that trades more."""
        bids = _Sweep(_capped(self.bid_front, buy_caps), self.tier, self.room_wh, buy_caps)
        asks = _Sweep(_capped(self.ask_front, sell_caps), self.tier, self.room_wh, sell_caps)
        congested: list[Entry] = []
        bid, ask = bids.advance(), asks.advance()
        have_met, accepted_wh = False, 0
        while bid is not None and ask is not None:
            if bid.limit_mthb - self.wheeling_mthb < ask.limit_mthb:
                break
            have_met = True
            for level in (bid, ask):
                if level.kept_back:
                    congested += level.kept_back
                    level.kept_back = []
            energy_wh = min(bid.left_wh, ask.left_wh)
            bid.left_wh -= energy_wh
            ask.left_wh -= energy_wh
            accepted_wh += energy_wh
            is_bid_done, is_ask_done = not bid.left_wh, not ask.left_wh
            if is_bid_done:
                bid = bids.advance()
            if is_ask_done:
                ask = asks.advance()
        price_mthb = self._price(bids, asks)
        if have_met:
            self.cost += bids.orders_seen + asks.orders_seen
        if accepted_wh <= beaten_wh:
            return _Attempt([], [], 0, [])
        return _Attempt(bids.accepted(), asks.accepted(), price_mthb, congested)

    def _price(self, bids: _Sweep, asks: _Sweep) -> int:
        """The middle of the prices at which just this much is traded."""
        rejected_bid_mthb, rejected_ask_mthb = bids.finish(), asks.finish()
        low, high = asks.last_mthb, bids.last_mthb - self.wheeling_mthb
        if rejected_bid_mthb is not None:
            low = max(low, rejected_bid_mthb - self.wheeling_mthb)
        if rejected_ask_mthb is not None:
            high = min(high, rejected_ask_mthb)
        return (low + high) // 2

    def _book(self, pairs: list[Pair]) -> list[Fill]:
        """Take what was paired from orders and headroom."""
        fills = []
        for bid, ask, energy_wh in pairs:
            for entry in (bid, ask):
                entry.open_wh -= energy_wh
                for one in entry.crossed[self.tier]:
                    self.room_wh[one] -= energy_wh
            fills.append(
                Fill(
                    bid.order.id,
                    ask.order.id,
                    energy_wh,
                    self.price_mthb,
                    self.wheeling_mthb,
                    self.tier,
                    ask.order.source,
                )
            )
        return fills


def _capped(front: Front, caps: Caps | None) -> Front:
    return front if caps is None else front.capped(caps)
