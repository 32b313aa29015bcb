"""The auction: one uniform price per slot, tier and group, nearest energy first.

A pure function of the orders, the previous block hash and the grid's headroom; arrival order and
the order of transactions in a block have no influence. Source: protocols/market.md section 3.

Readings where the page leaves a choice:

- 100 Wh is the least that can move anywhere. An order with less open, in the sweep or in the
  pairing, is passed over; a quantity that was accepted but could only be paired in smaller pieces
  is not traded and goes on to the next tier. A hard filter counts as wholly served when less than
  100 Wh of its accepted quantity is missing.
- An order is flagged as congested when the sweep meets it, a counterpart would pay its price, and
  the grid has under 100 Wh for it. When the last accepted order is congested for its rest, that
  rest is no rejected order, but its filled part still bounds the price.
- All fills of a tier cross that tier's boundaries, also between two orders of one substation.
- A hard filter leaves a group only when the sweep accepted it and the pairing could not serve it;
  until then it is an ordinary bid and can set the price as the first rejected one.
- `require` with source `any` asks for nothing and ranks as `any`. After its matching sellers a wish
  takes the others in price-time order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter
from types import MappingProxyType

from gridtokenx.primitives.crypto import sha256
from gridtokenx.trading.model import Clearing, ClearingOrder, Fill, Side, Source

MIN_FILL_WH = 100
NATIONAL_GROUP = "TH"
NO_LIMITS: Mapping[str, int] = MappingProxyType({})
# A book made to be unservable must not stall a block: when a group has been swept this often and
# its sweeps have passed this many orders, the hard filters with an unserved wish all leave it.
PATIENT_SWEEPS = 24
PATIENT_ORDERS = 20_000

# How many orders of a side a group's auction is first given; as many again as it turns out to want.
FIRST_LOOK = 8

Line = tuple[int, bytes]  # Price rank and order id; a smaller rank is a better price.

_UNLIMITED_WH = 1 << 62
_NEVER = 1 << 62
_NO_WISH = (0, None)
_NO_NODES: tuple[tuple[str, ...], ...] = ((), (), (), ())

_Place = tuple[tuple[str, str, str, str], tuple[tuple[str, ...], ...]]  # Groups; nodes by tier.


@dataclass(slots=True, eq=False)
class _Entry:
    """An order on its way through the tiers.

    `turn` sorts by pairing rank, then price-time order; `nodes[tier]` are the grid nodes with a
    limit that a fill of the tier crosses.
    """

    order: ClearingOrder
    limit_mthb: int
    height: int
    tie: bytes
    open_wh: int
    groups: tuple[str, str, str, str]
    nodes: tuple[tuple[str, ...], ...]
    rank: int
    hard_wish: Source | None
    turn: int = 0
    accepted_wh: int = 0  # In the sweep at hand.


_Pair = tuple[_Entry, _Entry, int]  # Bid, ask, Wh.


def clear(
    orders: Sequence[ClearingOrder],
    *,
    tie_salt: bytes,
    wheeling_mthb: tuple[int, int, int, int],
    max_tier: int = 2,
    headroom: Mapping[str, int] = NO_LIMITS,
) -> Clearing:
    """Match the resting orders of one slot, tier by tier.

    Units: tie_salt is the previous block hash; wheeling_mthb is mTHB/kWh per tier (substation,
    zone, region, national); max_tier 0..3; headroom maps `x:NODE` (export) and `m:NODE` (import)
    to Wh, a node without an entry is unlimited.
    Returns fills by tier, group name and pairing order. Every fill is at least 100 Wh, and
    ask <= price, price + wheeling <= the buyer's limit.
    The caller guarantees: ids are unique, locations are substations, nobody is on both sides.
    Source: protocols/market.md section 3.
    """
    return clear_crossing(
        _crossing(orders, wheeling_mthb[: max_tier + 1]),
        tie_salt=tie_salt,
        wheeling_mthb=wheeling_mthb,
        max_tier=max_tier,
        headroom=headroom,
    )


def clear_crossing(
    orders: Sequence[ClearingOrder],
    *,
    tie_salt: bytes,
    wheeling_mthb: tuple[int, int, int, int],
    max_tier: int,
    headroom: Mapping[str, int],
) -> Clearing:
    """`clear`, of orders from which those that cross nobody may have been left out already."""
    bids = _price_time_order(orders, Side.BUY, tie_salt, headroom)
    asks = _price_time_order(orders, Side.SELL, tie_salt, headroom)
    room_wh = dict(headroom)
    outcome = _Outcome()
    for tier in range(max_tier + 1):
        bids = [bid for bid in bids if bid.open_wh >= MIN_FILL_WH]
        asks = [ask for ask in asks if ask.open_wh >= MIN_FILL_WH]
        for group, group_bids, group_asks in _groups(bids, asks, tier):
            if group_bids[0].limit_mthb - wheeling_mthb[tier] < group_asks[0].limit_mthb:
                continue
            auction = _Auction(tier, wheeling_mthb[tier], group_bids, group_asks, room_wh)
            outcome.add(group, auction, auction.run())
    return outcome.clearing()


@dataclass(slots=True)
class _Outcome:
    """What the auctions of one slot have come to so far."""

    fills: list[Fill] = field(default_factory=list)
    prices: list[tuple[int, str, int]] = field(default_factory=list)
    congested: dict[bytes, None] = field(default_factory=dict)

    def add(self, group: str, auction: _Auction, fills: list[Fill]) -> None:
        self.congested.update((entry.order.id, None) for entry in auction.congested)
        if fills:
            self.fills += fills
            self.prices.append((auction.tier, group, auction.price_mthb))

    def clearing(self) -> Clearing:
        return Clearing(tuple(self.fills), tuple(self.prices), tuple(sorted(self.congested)))


@dataclass(frozen=True, slots=True)
class GroupBook:
    """A group's orders, each side in one or several ladders that are sorted by price."""

    name: str
    bids: Sequence[Iterable[Line]]
    asks: Sequence[Iterable[Line]]


def clear_books(
    tiers: Sequence[Sequence[GroupBook]],
    order_of: Callable[[bytes], ClearingOrder | None],
    *,
    tie_salt: bytes,
    wheeling_mthb: tuple[int, int, int, int],
    headroom_of: Callable[[str], int | None],
) -> tuple[Clearing, int] | None:
    """`clear`, of books that are read only as far as the auctions look.

    `tiers` holds the groups of each tier in which somebody might trade; `order_of` an order with
    what it may trade, or None where that is nothing; `headroom_of` a key `x:NODE` or `m:NODE`.
    Returns the clearing and how many orders the auctions passed. None when a hard filter was not
    served: who then leaves depends on all orders of his group, and `clear_crossing` has to say.
    """
    desk = _Desk(order_of, headroom_of, tie_salt)
    outcome, passed = _Outcome(), 0
    for tier, groups in enumerate(tiers):
        for group in sorted(groups, key=attrgetter("name")):
            auction = desk.auction(group, tier, wheeling_mthb[tier])
            if auction is None:
                continue
            pairs = auction.attempt()
            if pairs is None:
                return None
            passed += auction.passed
            outcome.add(group.name, auction, auction.book(pairs))
    return outcome.clearing(), passed


@dataclass(slots=True, eq=False)
class _Front:
    """One side of a group in price-time order, as far as it has been read."""

    _levels: Iterator[list[_Entry]]
    _read: list[_Entry] = field(default_factory=list)
    is_whole: bool = False

    def open(self) -> list[_Entry]:
        """Who can still trade, at least one unless the side has been read whole."""
        while True:
            able = [entry for entry in self._read if entry.open_wh >= MIN_FILL_WH]
            if able or self.is_whole:
                return able
            self.read_on()

    def read_on(self) -> None:
        """Read as many orders again as so far, and always whole prices."""
        wanted = max(FIRST_LOOK, 2 * len(self._read))
        while len(self._read) < wanted:
            level = next(self._levels, None)
            if level is None:
                self.is_whole = True
                return
            self._read += level


@dataclass(slots=True, eq=False)
class _Desk:
    """What the auctions of one slot share: the orders read so far and the grid's headroom."""

    order_of: Callable[[bytes], ClearingOrder | None]
    headroom_of: Callable[[str], int | None]
    tie_salt: bytes
    room_wh: dict[str, int] = field(default_factory=dict)
    _entries: dict[bytes, _Entry | None] = field(default_factory=dict)
    _places: dict[str, dict[Side, _Place]] = field(default_factory=dict)
    _nodes: dict[str, None] = field(default_factory=dict)  # Whose headroom has been asked.

    def auction(self, group: GroupBook, tier: int, wheeling_mthb: int) -> _Auction | None:
        """A group's auction over as many of its orders as it looks at; None if nobody crosses."""
        bid_front, ask_front = _Front(self._levels(group.bids)), _Front(self._levels(group.asks))
        while True:
            bids, asks = bid_front.open(), ask_front.open()
            if not bids or not asks or bids[0].limit_mthb - wheeling_mthb < asks[0].limit_mthb:
                return None
            for position, bid in enumerate(bids):
                bid.turn = bid.rank << 32 | position
            auction = _Auction(tier, wheeling_mthb, bids, asks, self.room_wh)
            auction.sweep()
            wants_bids = auction.rejected_bid_mthb() is None and not bid_front.is_whole
            wants_asks = auction.rejected_ask_mthb() is None and not ask_front.is_whole
            if not wants_bids and not wants_asks:
                return auction
            if wants_bids:
                bid_front.read_on()
            if wants_asks:
                ask_front.read_on()

    def _levels(self, ladders: Sequence[Iterable[Line]]) -> Iterator[list[_Entry]]:
        """The entries of each price, in order of height and tie."""
        for _, lines in groupby(merge(*ladders), key=itemgetter(0)):
            entries = [entry for _, order_id in lines if (entry := self._entry(order_id))]
            if len(entries) > 1:
                entries.sort(key=attrgetter("tie"))
                entries.sort(key=attrgetter("height"))
            yield entries

    def _entry(self, order_id: bytes) -> _Entry | None:
        if order_id not in self._entries:
            order = self.order_of(order_id)
            made = None if order is None else _enter(order, self.tie_salt, self._place(order))
            self._entries[order_id] = made
        return self._entries[order_id]

    def _place(self, order: ClearingOrder) -> _Place:
        location = order.location
        if location not in self._places:
            for node in _groups_of(location)[:3]:
                if node not in self._nodes:
                    self._nodes[node] = None
                    self._learn_headroom(node)
            self._places[location] = {side: _place(location, side, self.room_wh) for side in Side}
        return self._places[location][order.side]

    def _learn_headroom(self, node: str) -> None:
        for key in ("x:" + node, "m:" + node):
            room_wh = self.headroom_of(key)
            if room_wh is not None:
                self.room_wh[key] = room_wh


def _price_time_order(
    orders: Sequence[ClearingOrder], side: Side, tie_salt: bytes, headroom: Mapping[str, int]
) -> list[_Entry]:
    places: dict[str, _Place] = {}
    entries = []
    for order in orders:
        if order.side is not side:
            continue
        location = order.location
        if location not in places:
            places[location] = _place(location, side, headroom)
        entries.append(_enter(order, tie_salt, places[location]))
    # Three stable sorts by plain keys are several times faster than one by tuples.
    entries.sort(key=attrgetter("tie"))
    entries.sort(key=attrgetter("height"))
    entries.sort(key=attrgetter("limit_mthb"), reverse=side is Side.BUY)
    for position, entry in enumerate(entries):
        entry.turn = entry.rank << 32 | position
    return entries


def _enter(order: ClearingOrder, tie_salt: bytes, place: _Place) -> _Entry:
    groups, nodes = place
    rank, hard_wish = _NO_WISH if order.side is Side.SELL else _pairing_rank(order)
    return _Entry(
        order,
        order.limit_mthb,
        order.height,
        sha256(tie_salt + order.id),
        order.energy_wh,
        groups,
        nodes,
        rank,
        hard_wish,
    )


def _crossing(
    orders: Sequence[ClearingOrder], wheeling_mthb: tuple[int, ...]
) -> list[ClearingOrder]:
    """Leave out who could trade with nobody in any group of any tier.

    No sweep accepts them, and as first rejected orders they lie beyond the last accepted one.
    """
    able = [order for order in orders if order.energy_wh >= MIN_FILL_WH]
    best_bid: dict[str, int] = {}  # By location, then by every group.
    best_ask: dict[str, int] = {}
    for order in able:
        place, limit_mthb = order.location, order.limit_mthb
        if order.side is Side.BUY:
            if best_bid.get(place, -1) < limit_mthb:
                best_bid[place] = limit_mthb
        elif best_ask.get(place, _NEVER) > limit_mthb:
            best_ask[place] = limit_mthb
    for place, limit_mthb in list(best_bid.items()):
        for group in _groups_of(place)[1:]:
            best_bid[group] = max(best_bid.get(group, -1), limit_mthb)
    for place, limit_mthb in list(best_ask.items()):
        for group in _groups_of(place)[1:]:
            best_ask[group] = min(best_ask.get(group, _NEVER), limit_mthb)
    lowest_bid, highest_ask = {}, {}
    for place in dict.fromkeys([order.location for order in able]):
        tiers = list(zip(_groups_of(place), wheeling_mthb, strict=False))
        lowest_bid[place] = min([best_ask.get(group, _NEVER) + w for group, w in tiers])
        highest_ask[place] = max([best_bid.get(group, -1) - w for group, w in tiers])
    return [
        order
        for order in able
        if (
            order.limit_mthb >= lowest_bid[order.location]
            if order.side is Side.BUY
            else order.limit_mthb <= highest_ask[order.location]
        )
    ]


def _groups_of(location: str) -> tuple[str, str, str, str]:
    return location, location.rpartition("-")[0], location.partition("-")[0], NATIONAL_GROUP


def _place(location: str, side: Side, headroom: Mapping[str, int]) -> _Place:
    groups = _groups_of(location)
    if not headroom:
        return groups, _NO_NODES
    direction = "x:" if side is Side.SELL else "m:"
    keys = [direction + group for group in groups]
    crossed = [tuple(key for key in keys[:tier] if key in headroom) for tier in range(4)]
    return groups, tuple(crossed)


def _pairing_rank(order: ClearingOrder) -> tuple[int, Source | None]:
    """Of a buy; a sell has no wish."""
    if order.source is Source.ANY:
        return 4, None
    rank = 1 if order.source is Source.RENEWABLE else 0
    return (rank, order.source) if order.require else (rank + 2, None)


def _groups(
    bids: list[_Entry], asks: list[_Entry], tier: int
) -> Iterator[tuple[str, list[_Entry], list[_Entry]]]:
    """The tier's groups that have both sides, by name, each side still in price-time order."""
    asks_of: dict[str, list[_Entry]] = {}
    bids_of: dict[str, list[_Entry]] = {}
    for ask in asks:
        asks_of.setdefault(ask.groups[tier], []).append(ask)
    for bid in bids:
        bids_of.setdefault(bid.groups[tier], []).append(bid)
    for name in sorted(asks_of):
        if name in bids_of:
            yield name, bids_of[name], asks_of[name]


def _matches(wish: Source, source: Source) -> bool:
    return source is wish or (wish is Source.RENEWABLE and source.is_renewable)


@dataclass(slots=True)
class _Auction:
    """The auction of one group in one tier."""

    tier: int
    wheeling_mthb: int
    bids: list[_Entry]
    asks: list[_Entry]
    room_wh: dict[str, int]  # Headroom that earlier groups left; `run` takes from it.
    price_mthb: int = 0
    congested: list[_Entry] = field(default_factory=list)
    # Hard filters by wish: those whose turn is later than the number leave when they are reached.
    _closed: dict[Source | None, int] = field(default_factory=dict)
    # What the last sweep left: headroom, who was accepted, the first who were not, last prices.
    _swept_room_wh: dict[str, int] = field(default_factory=dict)
    _accepted: tuple[list[_Entry], list[_Entry]] = field(default_factory=lambda: ([], []))
    _next_bid: int = 0
    _next_ask: int = 0
    _last_bid_mthb: int = 0
    _last_ask_mthb: int = 0

    def run(self) -> list[Fill]:
        """Sweep and pair until every hard filter still in is served; then book the fills."""
        patience = max(PATIENT_SWEEPS, PATIENT_ORDERS // (len(self.bids) + len(self.asks)))
        sweeps = 0
        while True:
            self.sweep()
            sweeps += 1
            pairs, unserved = _pair(*self._accepted)
            if not unserved:
                return self.book(pairs)
            self._close(unserved, patient=sweeps < patience)

    def attempt(self) -> list[_Pair] | None:
        """Pair what a first `sweep` accepted; None if a hard filter was not wholly served."""
        pairs, unserved = _pair(*self._accepted)
        return None if unserved else pairs

    def book(self, pairs: list[_Pair]) -> list[Fill]:
        """Set the price and take what was paired from orders and headroom."""
        if pairs:
            self.price_mthb = self._price()
        return [self._fill(bid, ask, energy_wh) for bid, ask, energy_wh in pairs]

    @property
    def passed(self) -> int:
        """How many orders the last sweep accepted or passed over."""
        return self._next_bid + self._next_ask

    def sweep(self) -> None:
        """Accept bids and asks from the best on."""
        bids, asks, closed, wheeling_mthb = self.bids, self.asks, self._closed, self.wheeling_mthb
        self._swept_room_wh = dict(self.room_wh)
        self.congested = []
        for entry in (*bids, *asks):
            entry.accepted_wh = 0
        left: list[_Entry] = []
        doubtful: list[_Entry] = []  # Asks without room that only leaving buyers have met so far.
        b = a = 0
        while b < len(bids) and a < len(asks):
            bid, ask = bids[b], asks[a]
            if bid.limit_mthb - wheeling_mthb < ask.limit_mthb:
                break
            bid_room_wh, ask_room_wh = self._room(bid), self._room(ask)
            if bid_room_wh < MIN_FILL_WH or ask_room_wh < MIN_FILL_WH:
                if ask_room_wh < MIN_FILL_WH:
                    doubtful.append(ask)
                    a += 1
                if bid_room_wh < MIN_FILL_WH:
                    self.congested += [bid, *doubtful]
                    doubtful = []
                    b += 1
            elif closed and bid.turn > closed.get(bid.hard_wish, _NEVER):
                left.append(bid)
                b += 1
            else:
                self.congested += doubtful
                doubtful = []
                self._accept(bid, ask, min(bid_room_wh, ask_room_wh))
                b += bid.open_wh - bid.accepted_wh < MIN_FILL_WH
                a += ask.open_wh - ask.accepted_wh < MIN_FILL_WH
        if b < len(bids):  # He stays, and meets those whose price he would pay.
            highest_mthb = bids[b].limit_mthb - wheeling_mthb
            self.congested += [ask for ask in doubtful if ask.limit_mthb <= highest_mthb]
        accepted_bids = [bid for bid in bids[: b + 1] if bid.accepted_wh]
        accepted_asks = [ask for ask in asks[: a + 1] if ask.accepted_wh]
        self._accepted = accepted_bids, accepted_asks
        self._leave(left)
        self._next_bid, self._next_ask = b - len(left), a

    def _room(self, entry: _Entry) -> int:
        nodes = entry.nodes[self.tier]
        return min([self._swept_room_wh[node] for node in nodes]) if nodes else _UNLIMITED_WH

    def _accept(self, bid: _Entry, ask: _Entry, room_wh: int) -> None:
        energy_wh = min(bid.open_wh - bid.accepted_wh, ask.open_wh - ask.accepted_wh, room_wh)
        for entry in (bid, ask):
            entry.accepted_wh += energy_wh
            for node in entry.nodes[self.tier]:
                self._swept_room_wh[node] -= energy_wh
        self._last_bid_mthb, self._last_ask_mthb = bid.limit_mthb, ask.limit_mthb

    def _leave(self, leaving: list[_Entry]) -> None:
        if leaving:
            gone = {bid.turn for bid in leaving}
            self.bids = [bid for bid in self.bids if bid.turn not in gone]

    def _close(self, unserved: list[_Entry], *, patient: bool) -> None:
        """Decide which hard filters leave before the next sweep.

        The rule is that the last unserved one in pairing order leaves and the group clears again.
        Whoever stands behind an unserved buyer with the same wish finds the matching energy gone,
        and so does anyone with that wish who moves up into his place. All of them would leave
        before he does, so one sweep drops them together, as far as they stand behind the first
        unserved buyer of every wish; of a wish that nobody offers, even the first gets nothing.
        (Only where a wish that was served so far runs short in between can the outcome differ from
        strictly one by one.)
        """
        first_turns: dict[Source | None, int] = {}
        for bid in unserved:
            if bid.hard_wish not in first_turns:
                first_turns[bid.hard_wish] = bid.turn if self._offers(bid.hard_wish) else -1
        latest = max(first_turns.values())
        if not patient:
            self._closed.update((wish, -1) for wish in first_turns)
        elif unserved[-1].turn == latest:
            self._leave([unserved[-1]])
            self._closed = {}
        else:
            self._closed = dict.fromkeys(first_turns, latest)

    def _offers(self, wish: Source | None) -> bool:
        return any(wish is None or _matches(wish, ask.order.source) for ask in self.asks)

    def _price(self) -> int:
        rejected_bid_mthb, rejected_ask_mthb = self.rejected_bid_mthb(), self.rejected_ask_mthb()
        low, high = self._last_ask_mthb, self._last_bid_mthb - self.wheeling_mthb
        if rejected_bid_mthb is not None:
            low = max(low, rejected_bid_mthb - self.wheeling_mthb)
        if rejected_ask_mthb is not None:
            high = min(high, rejected_ask_mthb)
        return (low + high) // 2

    def rejected_bid_mthb(self) -> int | None:
        """The limit of the first bid with room that the last sweep did not accept whole."""
        return self._first_rejected(self.bids, self._next_bid)

    def rejected_ask_mthb(self) -> int | None:
        """As `rejected_bid_mthb`."""
        return self._first_rejected(self.asks, self._next_ask)

    def _first_rejected(self, entries: list[_Entry], start: int) -> int | None:
        for position in range(start, len(entries)):
            if self._room(entries[position]) >= MIN_FILL_WH:
                return entries[position].limit_mthb
        return None

    def _fill(self, bid: _Entry, ask: _Entry, energy_wh: int) -> Fill:
        for entry in (bid, ask):
            entry.open_wh -= energy_wh
            for node in entry.nodes[self.tier]:
                self.room_wh[node] -= energy_wh
        return Fill(
            bid.order.id,
            ask.order.id,
            energy_wh,
            self.price_mthb,
            self.wheeling_mthb,
            self.tier,
            ask.order.source,
        )


def _pair(bids: list[_Entry], asks: list[_Entry]) -> tuple[list[_Pair], list[_Entry]]:
    """Give the accepted quantities to each other by source; use up `accepted_wh`.

    Returns (bid, ask, Wh) in pairing order and the hard filters that were not wholly served.
    """
    queues: dict[Source | None, list[_Entry]] = {}  # Best ask last; None: not renewable.
    pairs: list[_Pair] = []
    unserved = []
    for bid in sorted(bids, key=attrgetter("turn")):
        for wish in _preferences(bid):
            if wish not in queues:
                queues[wish] = [ask for ask in reversed(asks) if _serves(ask, wish)]
            _take(bid, queues[wish], pairs)
        if bid.hard_wish is not None and bid.accepted_wh >= MIN_FILL_WH:
            unserved.append(bid)
    return pairs, unserved


def _preferences(bid: _Entry) -> tuple[Source | None, ...]:
    if bid.hard_wish is not None:
        return (bid.hard_wish,)
    wish = bid.order.source
    return (None if wish is Source.ANY else wish, Source.ANY)


def _serves(ask: _Entry, wish: Source | None) -> bool:
    source = ask.order.source
    if wish is None:
        return not source.is_renewable
    return wish is Source.ANY or _matches(wish, source)


def _take(bid: _Entry, queue: list[_Entry], pairs: list[_Pair]) -> None:
    while queue and bid.accepted_wh >= MIN_FILL_WH:
        ask = queue[-1]
        if ask.accepted_wh < MIN_FILL_WH:
            queue.pop()
            continue
        energy_wh = min(bid.accepted_wh, ask.accepted_wh)
        bid.accepted_wh -= energy_wh
        ask.accepted_wh -= energy_wh
        pairs.append((bid, ask, energy_wh))
