"""The order book's rows in state beside the orders themselves: what to clear, and who leaves when.

Which orders cross in a slot is found in memory (`depth`). Keys of TOUCHED, the news since the last
clearing, are `level u8 | block u64 | territory` of the aligned blocks of slots that make up an
order's span. EXPIRIES, of every order: `slot of the end u64 | end in ms u64 | order id`.
IMMEDIATES: `first slot u64 | order id`. CONGESTED: `slot u64 | territory | order id`.
Source: protocols/market.md 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import SLOT_MS, SLOTS_PER_DAY, local_day, slot_start_ms
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.trading.depth import span_blocks
from gridtokenx.trading.model import (
    CONGESTED,
    EXPIRIES,
    IMMEDIATES,
    MAX_TRADED_LOADS,
    ORDERS,
    TOUCHED,
    TRADERS,
    Mark,
    OpenOrder,
    Order,
    PlaceOrder,
    Side,
    TimeInForce,
    TradedLoad,
    Trader,
)

KEPT_SLOTS = 2 * SLOTS_PER_DAY
_MARK = Mark()
_NO_ORDERS = Trader()


def trader(state: Reader, owner: bytes) -> Trader:
    """An account's open orders and what it ordered on its last trading day."""
    return TRADERS.get(state, owner) or _NO_ORDERS


def span_keys(first_slot: int, last_slot: int, territory: str) -> list[bytes]:
    """Index keys of the aligned blocks that make up first_slot..last_slot."""
    suffix = territory.encode()
    blocks = span_blocks(first_slot, last_slot)
    return [bytes((level,)) + u64(number) + suffix for level, number in blocks]


def last_price_key(tier: int, group: str) -> bytes:
    """Key of a group's newest price in LAST_PRICES."""
    return bytes((tier,)) + group.encode()


def end_ms(order: Order) -> int:
    """When an order leaves by itself: its own end or its last gate closure, whichever is first."""
    return min(order.terms.expires_ms, slot_start_ms(order.terms.last_slot))


def add(state: Overlay, order: Order, touch: bool) -> None:
    """Rest an order; `touch` asks for a clearing of its slots in the next block."""
    terms = order.terms
    ORDERS.put(state, order.id, order)
    if touch:
        for key in span_keys(terms.first_slot, terms.last_slot, territory_of(terms.location)):
            TOUCHED.put(state, key, _MARK)
    EXPIRIES.put(state, _expiry_key(order), _MARK)
    if terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL:
        IMMEDIATES.put(state, _immediate_key(order), _MARK)


def enter_trader(state: Overlay, order: Order, before: Trader) -> None:
    """Add an order to its owner's list and to the day's quantity."""
    terms = order.terms
    line = (
        OpenOrder(
            order.id, terms.first_slot, terms.last_slot, terms.meter_id, terms.max_wh_per_slot
        ),
    )
    day = local_day(order.placed_ms)
    ordered_wh = terms.energy_wh + (before.ordered_wh if before.day == day else 0)
    if terms.side is Side.BUY:
        after = Trader(before.buys + line, before.sells, day, ordered_wh, before.traded)
    else:
        after = Trader(before.buys, before.sells + line, day, ordered_wh, before.traded)
    TRADERS.put(state, order.owner, after)


def remove(state: Overlay, order: Order, returned_wh: int) -> None:
    """Take an order off; returned_wh no longer counts against the day on which it was placed.

    What it traded goes on counting against its meter's nameplate in the slots to come.
    """
    terms = order.terms
    ORDERS.delete(state, order.id)
    EXPIRIES.delete(state, _expiry_key(order))
    if terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL:
        IMMEDIATES.delete(state, _immediate_key(order))
    before = trader(state, order.owner)
    ordered_wh = before.ordered_wh
    if before.day == local_day(order.placed_ms):
        ordered_wh -= returned_wh
    buys, sells = before.buys, before.sells
    if terms.side is Side.BUY:
        buys = _without(buys, order.id)
    else:
        sells = _without(sells, order.id)
    traded = _with_fills(before.traded, order) if order.filled_wh else before.traded
    TRADERS.put(state, order.owner, Trader(buys, sells, before.day, ordered_wh, traded))


def _with_fills(traded: tuple[TradedLoad, ...], order: Order) -> tuple[TradedLoad, ...]:
    """Add an order's fills to what its meter has traded on its side."""
    terms = order.terms
    first, filled_wh = terms.first_slot, order.filled_wh
    others = []
    for load in traded:
        if (load.meter_id, load.side) != (terms.meter_id, terms.side):
            others.append(load)
            continue
        start = min(first, load.first_slot)
        end = max(first + len(filled_wh), load.first_slot + len(load.filled_wh))
        both = [0] * (end - start)
        for begin, part in ((first, filled_wh), (load.first_slot, load.filled_wh)):
            for place, energy_wh in enumerate(part, begin - start):
                both[place] += energy_wh
        first, filled_wh = start, tuple(both)
    past = max(0, len(filled_wh) - KEPT_SLOTS)  # Nobody trades so far ahead of these.
    first, filled_wh = first + past, filled_wh[past:]
    load = TradedLoad(terms.meter_id, terms.side, first, filled_wh)
    return (*others[-(MAX_TRADED_LOADS - 1) :], load)  # Nobody trades with so many meters at once.


def without_past(traded: tuple[TradedLoad, ...], slot: int) -> tuple[TradedLoad, ...]:
    """What was traded for slots later than `slot`."""
    kept = []
    for load in traded:
        past = max(0, slot + 1 - load.first_slot)
        if past < len(load.filled_wh):
            cut = replace(load, first_slot=load.first_slot + past, filled_wh=load.filled_wh[past:])
            kept.append(cut)
    return tuple(kept)


def taken_wh(listed: Trader, terms: PlaceOrder) -> int:
    """The most that the order's meter has open and traded on its side in one of its slots."""
    lines = listed.buys if terms.side is Side.BUY else listed.sells
    first, last = terms.first_slot, terms.last_slot
    steps: dict[int, int] = {}
    for line in lines:
        if line.meter_id == terms.meter_id and line.first_slot <= last and first <= line.last_slot:
            _step(steps, max(first, line.first_slot), line.last_slot, line.max_wh_per_slot)
    for load in listed.traded:
        if (load.meter_id, load.side) == (terms.meter_id, terms.side):
            for slot, energy_wh in enumerate(load.filled_wh, load.first_slot):
                if first <= slot <= last:
                    _step(steps, slot, slot, energy_wh)
    most_wh = now_wh = 0
    for slot in sorted(steps):
        now_wh += steps[slot]
        most_wh = max(most_wh, now_wh)
    return most_wh


def _step(steps: dict[int, int], first: int, last: int, energy_wh: int) -> None:
    steps[first] = steps.get(first, 0) + energy_wh
    steps[last + 1] = steps.get(last + 1, 0) - energy_wh


def _without(lines: tuple[OpenOrder, ...], order_id: bytes) -> tuple[OpenOrder, ...]:
    return tuple([line for line in lines if line.order_id != order_id])


def take_touched(state: Overlay, after_slot: int, waiting: list[str]) -> list[tuple[int, str]]:
    """(slot, territory) pairs with new orders, later than after_slot, in order; forgets them.

    Those of the territories in `waiting` stay for a later block.
    """
    found: dict[tuple[int, str], None] = {}
    for key in [key for key, _ in TOUCHED.items(state)]:
        level, block, territory = key[0], int.from_bytes(key[1:9], "big"), key[9:12].decode()
        if territory in waiting:
            continue
        for slot in range(block << level, (block + 1) << level):
            if slot > after_slot:
                found[slot, territory] = None
        TOUCHED.delete(state, key)
    return sorted(found)


def touch(state: Overlay, slot: int, territory: str) -> None:
    """Ask for a clearing of one slot in the next block."""
    for key in span_keys(slot, slot, territory):
        TOUCHED.put(state, key, _MARK)


def ended(
    state: Reader, buckets: Iterable[int], until_ms: int, most: int
) -> list[tuple[int, bytes]]:
    """(end in ms, order id) of at most `most` orders that end by themselves by until_ms, in order.

    `buckets` are the slots in which to look: those since the last look.
    """
    found: list[tuple[int, bytes]] = []
    for bucket in buckets:
        for key, _ in EXPIRIES.items(state, u64(bucket)):
            end = int.from_bytes(key[8:16], "big")
            if end > until_ms or len(found) == most:
                return found
            found.append((end, key[16:]))
    return found


def first_end_slot(state: Reader) -> int | None:
    """The slot in which the next order ends by itself; None with an empty book."""
    for key, _ in EXPIRIES.items(state):
        return int.from_bytes(key[:8], "big")
    return None


def immediates(state: Reader, slot: int) -> list[bytes]:
    """Ids of the immediate-or-cancel orders whose first slot is `slot`."""
    return [key[-32:] for key, _ in IMMEDIATES.items(state, u64(slot))]


def flag_congested(
    state: Overlay, slot: int, territories: list[str], congested: Mapping[bytes, str]
) -> None:
    """Keep the flags true after a clearing: `congested` maps flagged orders' ids to territories."""
    for territory in territories:
        prefix = u64(slot) + territory.encode()
        for order_id in [key[-32:] for key, _ in CONGESTED.items(state, prefix)]:
            if order_id not in congested:
                CONGESTED.delete(state, prefix + order_id)
                _set_flag(state, order_id, False)
    for order_id, territory in congested.items():
        CONGESTED.put(state, u64(slot) + territory.encode() + order_id, _MARK)
        _set_flag(state, order_id, True)


def _set_flag(state: Overlay, order_id: bytes, congested: bool) -> None:
    order = ORDERS.get(state, order_id)
    if order is not None and order.congested is not congested:
        ORDERS.put(state, order_id, replace(order, congested=congested))


def _immediate_key(order: Order) -> bytes:
    return u64(order.terms.first_slot) + order.id


def _expiry_key(order: Order) -> bytes:
    end = end_ms(order)
    return u64(end // SLOT_MS) + u64(end) + order.id
