"""What a block's market work costs on a deep book that lies in RocksDB, as it does in a node."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gridtokenx.chain.state_tree import StateTree
from gridtokenx.ledger import rules as ledger
from gridtokenx.node.database import BlockWrite, Database, StateReader
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import Overlay
from gridtokenx.trading import book
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import (
    MeterFacts,
    Order,
    PlaceOrder,
    Side,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
)
from gridtokenx.trading.settlement import escrow_needed

BASE_SLOT = 1_970_660  # Monday 2026-03-16 00:00 in Bangkok
REGIONS = ("BKK", "NTB", "SPK")
BLOCKS = 5
FIT = TraderFacts(True, 2**62, False, 2**62)


@dataclass(frozen=True)
class Figures:
    """CPU ms: placing the touching orders by the rule, the next block's start, and both blocks'
    encoding and state tree. `trades` were made by that start."""

    place_ms: float
    begin_ms: float
    seal_ms: float
    trades: int
    rows_changed: int


class _Chain:
    """A state in RocksDB behind the executor's cache."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder)
        self.store = self.database.chain("MET")
        self.reader = StateReader(self.store)
        self.tree = StateTree()
        self.height = 0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started

    def commit(self, overlay: Overlay, name: str = "") -> int:
        with self.timed(name):
            changes = overlay.changes()
            update = self.tree.update(changes)
        self.tree.commit(update)
        self.height += 1
        digest = sha256(b"%d" % self.height)
        write = BlockWrite(self.height, digest, b"", b"", (), changes)
        self.store.commit(write)
        self.reader.absorb(overlay.changed())
        return len(changes)

    def begin(self, overlay: Overlay) -> list[object]:
        return [*trading.begin_block(overlay, now_ms=BASE_SLOT * SLOT_MS + self.height)]


def measure(resting: int, touching: int, slots: int = 96) -> Figures:
    """Rest `resting` orders that do not cross over slots and three regions (all in one region when
    there is one slot), touch the book with `touching` others of which some cross, and begin the
    next block; the best of several blocks."""
    with tempfile.TemporaryDirectory() as folder:
        chain = _Chain(Path(folder))
        overlay = Overlay(chain.reader)
        chain.begin(overlay)
        for number in range(resting):
            _rest(overlay, number, slots)
        chain.commit(overlay)
        figures = []
        for block in range(BLOCKS):
            first = resting + block * touching
            figures.append(_block(chain, range(first, first + touching), slots, True))
        chain.database.close()
        return min(figures, key=lambda one: one.begin_ms)


def measure_slot(orders: int) -> Figures:
    """Place `orders` for one slot and region, half of each side, and begin the next block.

    The best of three runs: another process on the machine only ever makes a run slower.
    """
    return min((_measure_slot(orders) for _ in range(3)), key=lambda one: one.begin_ms)


def _measure_slot(orders: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        chain = _Chain(Path(folder))
        overlay = Overlay(chain.reader)
        chain.begin(overlay)
        chain.commit(overlay)
        figures = _block(chain, range(orders), 1, False)
        chain.database.close()
        return figures


def _block(chain: _Chain, numbers: range, slots: int, beside_spread: bool) -> Figures:
    """Place some orders in one block and begin the next."""
    overlay = Overlay(chain.reader)
    for number in numbers:
        ledger.adjust(overlay, _owner(number), thb_uthb=10**12)
    chain.commit(overlay)
    chain.seconds = {}
    overlay = Overlay(chain.reader)
    with chain.timed("place"):
        for number in numbers:
            _place(overlay, number, slots, beside_spread)
    rows = chain.commit(overlay, "seal")
    overlay = Overlay(chain.reader)
    with chain.timed("begin"):
        events = chain.begin(overlay)
    rows += chain.commit(overlay, "seal")
    ms = {name: round(seconds * 1000, 1) for name, seconds in chain.seconds.items()}
    trades = sum(isinstance(event, TradeMatched) for event in events)
    return Figures(ms["place"], ms["begin"], ms["seal"], trades, rows)


def _owner(number: int) -> bytes:
    return sha256(b"owner %d" % number)


def _terms(number: int, slots: int) -> PlaceOrder:
    spread = int.from_bytes(sha256(b"order %d" % number)[:8], "big")
    side = Side.BUY if number % 2 else Side.SELL
    region = REGIONS[spread % 3 if slots > 1 else 0]
    first = BASE_SLOT + 1 + spread // 3 % slots
    length = (1, 1, 1, 4)[spread // 300 % 4]
    energy_wh = 500 + spread // 1_200 % 5_000
    return PlaceOrder(
        side=side,
        energy_wh=energy_wh,
        limit_mthb=(3_300 if side is Side.BUY else 2_300) + spread % 1_500,
        location=f"{region}-{spread // 7 % 5 + 1:02d}-SUB{spread // 35 % 10 + 1:03d}",
        meter_id=sha256(b"meter %d" % number),
        source=Source.ANY if side is Side.BUY else Source.SOLAR,
        require=False,
        first_slot=first,
        last_slot=min(first + length - 1, BASE_SLOT + slots),
        max_wh_per_slot=energy_wh,
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=2**62,
    )


def _rest(state: Overlay, number: int, slots: int) -> None:
    """Sells from 4.000, buys up to 4.000 all-in: they do not cross each other."""
    terms = _terms(number, slots)
    buying = terms.side is Side.BUY
    terms = replace(terms, limit_mthb=terms.limit_mthb + (-800 if buying else 1_700))
    needed_uthb = terms.energy_wh * 1000
    if buying:
        needed_uthb = escrow_needed(terms.energy_wh, terms.limit_mthb, 700)
        ledger.adjust(state, _owner(number), escrow_uthb=needed_uthb)
    else:
        ledger.adjust(state, _owner(number), bond_uthb=needed_uthb)
    order = Order(
        id=sha256(b"id %d" % number),
        owner=_owner(number),
        terms=terms,
        height=1,
        placed_ms=BASE_SLOT * SLOT_MS,
        vat_bps=700,
        penalty_mthb=1000,
        vat_registered=False,
        rest_wh=terms.energy_wh,
        reserve_uthb=needed_uthb,
        fills=(),
        congested=False,
    )
    book.add(state, order, touch=False)
    book.enter_trader(state, order, book.trader(state, order.owner))


def _place(state: Overlay, number: int, slots: int, beside_spread: bool) -> None:
    terms = _terms(number, slots)
    if beside_spread:  # Of a resting book, at 4.000: some cross it and the wheeling.
        spread_mthb = 4_000 + terms.limit_mthb % 1_200 - 600
        terms = replace(terms, limit_mthb=spread_mthb)
    trading.place_order(
        state,
        terms,
        owner=_owner(number),
        order_id=sha256(b"id %d" % number),
        now_ms=BASE_SLOT * SLOT_MS,
        height=2,
        trader=FIT,
        meter=MeterFacts(_owner(number), terms.location, "solar", 10**6, 10**6),
    )
