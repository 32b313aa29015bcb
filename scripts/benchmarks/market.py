"""What a block's market work costs on a deep book that lies in RocksDB, as it does in a node."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS, SLOTS_PER_DAY
from gridtokenx.primitives.state import Overlay
from gridtokenx.trading import book
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import (
    MarketParameters,
    MatchingMode,
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
from scripts.benchmarks.kept_chain import KeptChain

BASE_SLOT = 1_970_660  # Monday 2026-03-16 00:00 in Bangkok
TERRITORIES = ("BKK", "NTB", "SPK")
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


class _Chain(KeptChain):
    """One territory's market, in the mode with most work: a clearing in each block."""

    def open(self) -> Overlay:
        """Its first block, begun."""
        overlay = Overlay(self.reader)
        trading.set_parameters(overlay, MarketParameters(matching_mode=MatchingMode.BLOCK))
        self.begin(overlay)
        return overlay

    def begin(self, overlay: Overlay) -> list[object]:
        now_ms = BASE_SLOT * SLOT_MS + self.height
        return [*trading.begin_block(overlay, now_ms=now_ms, gate_grace_ms=SLOT_MS)]


def measure(resting: int, touching: int, slots: int = 96) -> Figures:
    """Rest `resting` orders that do not cross over slots and three territories (all in one when
    there is one slot), touch the book with `touching` others of which some cross, and begin the
    next block; the best of several blocks."""
    with tempfile.TemporaryDirectory() as folder:
        chain = _Chain(Path(folder), "MET")
        overlay = chain.open()
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
    """Place `orders` for one slot and territory, half of each side, and begin the next block.

    The best of three runs: another process on the machine only ever makes a run slower.
    """
    return min((_measure_slot(orders) for _ in range(3)), key=lambda one: one.begin_ms)


def _measure_slot(orders: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        chain = _Chain(Path(folder), "MET")
        overlay = chain.open()
        chain.commit(overlay)
        figures = _block(chain, range(orders), 1, False)
        chain.database.close()
        return figures


def measure_hostile(required: bool) -> Figures:
    """600 orders of three territories over 96 slots, of which 300 wish for or require solar energy
    that is not to be had at their price: in every slot one after the other gets in the others' way.

    All their clearings are measured, over as many blocks as they take.
    """
    with tempfile.TemporaryDirectory() as folder:
        chain = _Chain(Path(folder), "MET")
        overlay = chain.open()
        chain.commit(overlay)
        figures = _measure_block(chain, dict(enumerate(_hostile_terms(required))), most_blocks=99)
        chain.database.close()
        return figures


def _hostile_terms(required: bool) -> Iterator[PlaceOrder]:
    """In each territory 50 cheap asks of wind, a dear one of solar, 49 bids that take anything, and
    100 lower ones, no two alike, for solar."""
    number = 0
    for territory in TERRITORIES:
        asks = [(Side.SELL, 2_000, Source.WIND, False)] * 50
        asks.append((Side.SELL, 3_000, Source.SOLAR, False))
        bids = [(Side.BUY, 9_000, Source.ANY, False)] * 49
        bids += [(Side.BUY, 8_000 - lower, Source.SOLAR, required) for lower in range(100)]
        for side, limit_mthb, source, require in asks + bids:
            yield PlaceOrder(
                side=side,
                energy_wh=100 * SLOTS_PER_DAY,
                limit_mthb=limit_mthb,
                location=f"{territory}-01-SUB001",
                meter_id=sha256(b"meter %d" % number),
                source=source,
                require=require,
                first_slot=BASE_SLOT + 1,
                last_slot=BASE_SLOT + SLOTS_PER_DAY,
                max_wh_per_slot=100,
                time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
                expires_ms=2**62,
            )
            number += 1


def _block(chain: _Chain, numbers: range, slots: int, beside_spread: bool) -> Figures:
    """Place some orders in one block and begin the next."""
    return _measure_block(chain, {n: _touching(n, slots, beside_spread) for n in numbers})


def _measure_block(
    chain: _Chain, orders: Mapping[int, PlaceOrder], most_blocks: int = 1
) -> Figures:
    """Place orders and begin the next block, or several until all that they bring is done."""
    overlay = Overlay(chain.reader)
    for number in orders:
        ledger.adjust(overlay, _owner(number), thb_uthb=10**12)
    chain.commit(overlay)
    chain.seconds = {}
    overlay = Overlay(chain.reader)
    with chain.timed("place"):
        for number, terms in orders.items():
            _place(overlay, number, terms)
    rows = chain.commit(overlay, "seal")
    trades = 0
    for _ in range(most_blocks):
        overlay = Overlay(chain.reader)
        gc.collect()  # What earlier runs left is not this one's.
        with chain.timed("begin"):
            events = chain.begin(overlay)
        rows += chain.commit(overlay, "seal")
        trades += sum(isinstance(event, TradeMatched) for event in events)
        if not events:
            break
    ms = {name: round(seconds * 1000, 1) for name, seconds in chain.seconds.items()}
    return Figures(ms["place"], ms["begin"], ms["seal"], trades, rows)


def _owner(number: int) -> bytes:
    return sha256(b"owner %d" % number)


def _terms(number: int, slots: int) -> PlaceOrder:
    spread = int.from_bytes(sha256(b"order %d" % number)[:8], "big")
    side = Side.BUY if number % 2 else Side.SELL
    territory = TERRITORIES[spread % 3 if slots > 1 else 0]
    first = BASE_SLOT + 1 + spread // 3 % slots
    length = (1, 1, 1, 4)[spread // 300 % 4]
    energy_wh = 500 + spread // 1_200 % 5_000
    return PlaceOrder(
        side=side,
        energy_wh=energy_wh,
        limit_mthb=(3_300 if side is Side.BUY else 2_300) + spread % 1_500,
        location=f"{territory}-{spread // 7 % 5 + 1:02d}-SUB{spread // 35 % 10 + 1:03d}",
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
        filled_wh=(),
        congested=False,
    )
    book.add(state, order, touch=False)
    book.enter_trader(state, order, book.trader(state, order.owner))


def _touching(number: int, slots: int, beside_spread: bool) -> PlaceOrder:
    terms = _terms(number, slots)
    if beside_spread:  # Of a resting book, at 4.000: some cross it and the wheeling.
        terms = replace(terms, limit_mthb=4_000 + terms.limit_mthb % 1_200 - 600)
    return terms


def _place(state: Overlay, number: int, terms: PlaceOrder) -> None:
    source = str(terms.source) if terms.side is Side.SELL else "solar"
    trading.place_order(
        state,
        terms,
        owner=_owner(number),
        order_id=sha256(b"id %d" % number),
        now_ms=BASE_SLOT * SLOT_MS,
        height=2,
        trader=FIT,
        meter=MeterFacts(_owner(number), terms.location, source, 10**6, 10**6),
    )
