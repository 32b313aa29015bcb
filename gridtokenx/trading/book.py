"""The order book's indexes: which open orders stand in a delivery slot, and where news came in.

An order may span up to 96 slots. Its span is cut into blocks of 1, 2, 4 .. 64 aligned slots, as a
segment tree does, so that it needs one entry when it names one slot and at most 12 otherwise, and
a slot's orders are found under the 7 blocks that contain the slot. Keys of BOOK and TOUCHED are
`level u8 | block u64 | region prefix`, in BOOK followed by the order id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gridtokenx.primitives.quantities import SLOT_MS, local_day, slot_start_ms
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.trading.model import (
    BOOK,
    EXPIRIES,
    ORDERS,
    TOUCHED,
    TRADERS,
    Mark,
    OpenOrder,
    Order,
    Side,
    Trader,
)

LEVELS = 7
_MARK = Mark()
_NO_ORDERS = Trader()


def region_of(location: str) -> str:
    """The region prefix of an admitted location."""
    return location[:3]


def trader(state: Reader, owner: bytes) -> Trader:
    """An account's open orders and what it ordered on its last trading day."""
    return TRADERS.get(state, owner) or _NO_ORDERS


def span_keys(first_slot: int, last_slot: int, region: str) -> list[bytes]:
    """Index keys of the aligned blocks that make up first_slot..last_slot."""
    suffix = region.encode()
    keys = []
    low, high, level = first_slot, last_slot + 1, 0
    while low < high:
        if low & 1:
            keys.append(bytes((level,)) + u64(low) + suffix)
            low += 1
        if high & 1:
            high -= 1
            keys.append(bytes((level,)) + u64(high) + suffix)
        low, high, level = low >> 1, high >> 1, level + 1
    return keys


def add(state: Overlay, order: Order, touch: bool) -> None:
    """Rest an order; `touch` asks for a clearing of its slots in the next block."""
    terms = order.terms
    ORDERS.put(state, order.id, order)
    for key in span_keys(terms.first_slot, terms.last_slot, region_of(terms.location)):
        BOOK.put(state, key + order.id, _MARK)
        if touch:
            TOUCHED.put(state, key, _MARK)
    if terms.expires_ms < slot_start_ms(terms.last_slot):
        EXPIRIES.put(state, _expiry_key(order), _MARK)


def enter_trader(state: Overlay, order: Order, before: Trader) -> None:
    """Add an order to its owner's list and to the day's quantity."""
    terms = order.terms
    line = (OpenOrder(order.id, terms.first_slot, terms.last_slot),)
    day = local_day(order.placed_ms)
    ordered_wh = terms.energy_wh + (before.ordered_wh if before.day == day else 0)
    if terms.side is Side.BUY:
        after = Trader(before.buys + line, before.sells, day, ordered_wh)
    else:
        after = Trader(before.buys, before.sells + line, day, ordered_wh)
    TRADERS.put(state, order.owner, after)


def remove(state: Overlay, order: Order, returned_wh: int) -> None:
    """Take an order off; returned_wh no longer counts against the day on which it was placed."""
    terms = order.terms
    ORDERS.delete(state, order.id)
    for key in span_keys(terms.first_slot, terms.last_slot, region_of(terms.location)):
        BOOK.delete(state, key + order.id)
    if terms.expires_ms < slot_start_ms(terms.last_slot):
        EXPIRIES.delete(state, _expiry_key(order))
    before = trader(state, order.owner)
    ordered_wh = before.ordered_wh
    if before.day == local_day(order.placed_ms):
        ordered_wh -= returned_wh
    buys, sells = before.buys, before.sells
    if terms.side is Side.BUY:
        buys = _without(buys, order.id)
    else:
        sells = _without(sells, order.id)
    TRADERS.put(state, order.owner, Trader(buys, sells, before.day, ordered_wh))


def _without(lines: tuple[OpenOrder, ...], order_id: bytes) -> tuple[OpenOrder, ...]:
    return tuple([line for line in lines if line.order_id != order_id])


@dataclass
class View:
    """The open orders of slots. Each block of the index is read once; orders may only leave."""

    state: Reader
    _blocks: dict[bytes, dict[str, list[bytes]]] = field(default_factory=dict)

    def open_orders(self, slot: int, region: str = "") -> dict[str, list[Order]]:
        """Orders that may trade in a slot, by region prefix in name order (one region, or all)."""
        found: dict[str, list[Order]] = {}
        for level in range(LEVELS):
            for name, order_ids in self._block(bytes((level,)) + u64(slot >> level)).items():
                if region in ("", name):
                    orders = found.setdefault(name, [])
                    for order_id in order_ids:
                        order = ORDERS.get(self.state, order_id)
                        if order is not None:  # None: it left after the block was read.
                            orders.append(order)
        return {name: found[name] for name in sorted(found)}

    def _block(self, prefix: bytes) -> dict[str, list[bytes]]:
        found = self._blocks.get(prefix)
        if found is None:
            found = self._blocks[prefix] = {}
            for key, _ in BOOK.items(self.state, prefix):
                found.setdefault(key[9:12].decode(), []).append(key[12:])
        return found


def take_touched(state: Overlay, after_slot: int) -> list[tuple[int, str]]:
    """(slot, region) pairs with new orders, later than after_slot, in order; forgets them."""
    found: dict[tuple[int, str], None] = {}
    for key in [key for key, _ in TOUCHED.items(state)]:
        level, block, region = key[0], int.from_bytes(key[1:9], "big"), key[9:12].decode()
        for slot in range(block << level, (block + 1) << level):
            if slot > after_slot:
                found[slot, region] = None
        TOUCHED.delete(state, key)
    return sorted(found)


def touch(state: Overlay, slot: int, region: str) -> None:
    """Ask for a clearing of one slot in the next block."""
    for key in span_keys(slot, slot, region):
        TOUCHED.put(state, key, _MARK)


def ended(state: Reader, buckets: Iterable[int], now_ms: int) -> list[tuple[int, bytes]]:
    """(expires_ms, order id) of orders that ended by themselves by now_ms, in time order.

    `buckets` are the slots in which to look: those since the last look.
    """
    found = []
    for bucket in buckets:
        for key, _ in EXPIRIES.items(state, u64(bucket)):
            expires_ms = int.from_bytes(key[8:16], "big")
            if expires_ms > now_ms:
                break
            found.append((expires_ms, key[16:]))
    return found


def _expiry_key(order: Order) -> bytes:
    expires_ms = order.terms.expires_ms
    return u64(expires_ms // SLOT_MS) + u64(expires_ms) + order.id
