"""What blocks do by themselves after a standstill of a region where everybody trades every slot."""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gridtokenx.chain.state_tree import StateTree
from gridtokenx.cli.node_start import COLLECT_AFTER_OBJECTS
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS, SLOTS_PER_DAY
from gridtokenx.primitives.state import Overlay
from gridtokenx.storage.database import BlockWrite, Database, StateReader
from gridtokenx.trading import rules as trading
from gridtokenx.trading.clock_model import CLOCK
from gridtokenx.trading.depth import Depth
from gridtokenx.trading.model import (
    ORDERS,
    POSITIONS,
    TRADES,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    PlaceOrder,
    Side,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
    TradeSettled,
)
from gridtokenx.trading.redemption import Customer, Customers

BASE_SLOT = 1_970_660  # Monday 2026-03-16 00:00 in Bangkok
BLOCK_MS = 10_000
GRACE_MS = 60_000
FIT = TraderFacts(True, 2**62, False, 2**62)
WEALTH_UTHB = 10**15
UTILITY = sha256(b"utility")


@dataclass
class Figures:
    """CPU of blocks' own work with its encoding and state tree: the most of one, all, how many.

    Of the thread that executes; RocksDB has threads of its own.
    """

    blocks: int = 0
    worst_ms: float = 0.0
    all_s: float = 0.0
    events: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, events: list[object]) -> None:
        self.blocks += 1
        self.worst_ms = max(self.worst_ms, round(seconds * 1000, 1))
        self.all_s = round(self.all_s + seconds, 2)
        self.events.update(type(event).__name__ for event in events)


class Region:
    """The market of one region in RocksDB, behind the executor's cache, without transactions."""

    def __init__(self, folder: Path, traders: int) -> None:
        self.traders = traders
        self.database = Database(folder)
        self.store = self.database.chain("MET")
        self.reader = StateReader(self.store)
        self.tree = StateTree(self.store.state_values())
        self.height = (self.store.head() or (0, b""))[0]
        self.reader.kept(Depth)  # As a node does when it opens the chain.

    def commit(self, overlay: Overlay) -> None:
        changes = overlay.changes()
        update = self.tree.update(changes)
        self.seal(overlay, changes, update)

    def seal(self, overlay: Overlay, changes: list, update: object) -> None:
        self.tree.apply(update)  # type: ignore[arg-type]
        self.height += 1
        digest = sha256(b"%d" % self.height)
        self.store.write_block(BlockWrite(self.height, digest, b"", b"", (), changes))
        self.reader.absorb(overlay.changed())

    def block(self, now_ms: int, figures: Figures) -> list[object]:
        """One block's own work; measured are the rules, the encoding and the tree."""
        overlay = Overlay(self.reader)
        started = time.thread_time()
        events = trading.begin_block(
            overlay,
            now_ms=now_ms,
            gate_grace_ms=GRACE_MS,
            territories=lambda: {"BKK": "MEA"},
            customers=lambda: Customers(self.traders, _customer),
        )
        changes = overlay.changes()
        update = self.tree.update(changes)
        figures.add(time.thread_time() - started, [*events])
        self.seal(overlay, changes, update)
        return [*events]

    def place_all(self) -> None:
        """An order of everybody over the whole day; as many sell as buy."""
        for first in range(0, self.traders, 1_000):
            overlay = Overlay(self.reader)
            for number in range(first, min(first + 1_000, self.traders)):
                ledger.adjust(overlay, _owner(number), thb_uthb=WEALTH_UTHB)
                _place(overlay, number)
            self.commit(overlay)

    def idle(self) -> bool:
        """Whether nothing is left to do."""
        clock = CLOCK.get(self.reader, b"")
        assert clock is not None
        return (
            clock.gate_slot == clock.slot
            and clock.settled_slot == clock.due_slot
            and next(iter(TRADES.items(self.reader)), None) is None
            and next(iter(POSITIONS.items(self.reader)), None) is None
            and next(iter(ORDERS.items(self.reader)), None) is None
        )

    def check(self) -> None:
        """Nobody's money is gone or held back."""
        held = list(ACCOUNTS.items(self.reader))
        total = sum(one.thb_uthb + one.escrow_uthb + one.bond_uthb for _, one in held)
        reserved = sum(one.escrow_uthb + one.bond_uthb for _, one in held)
        if total != self.traders * WEALTH_UTHB or reserved:
            raise SystemExit(f"{total} uTHB in all, {reserved} still set aside")


def measure(traders: int, hours: list[int], mode: MatchingMode) -> Iterator[dict[str, object]]:
    """For each standstill the figures of the blocks after it, until nothing is left to do."""
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)  # As in a node.
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        setup = _prepare(before, traders, mode)
        yield {"phase": "orders and trades", "mode": mode.value, **_told(setup)}
        for one in hours:
            copy = Path(folder) / f"after {one} h"
            shutil.copytree(before, copy)
            region = Region(copy, traders)
            after = _come_back(region, one)
            region.check()
            region.database.close()
            shutil.rmtree(copy)
            yield {"phase": f"after {one} h", "mode": mode.value, **_told(after)}


def _prepare(folder: Path, traders: int, mode: MatchingMode) -> Figures:
    region = Region(folder, traders)
    overlay = Overlay(region.reader)
    trading.set_parameters(overlay, MarketParameters(matching_mode=mode))
    region.commit(overlay)
    figures = Figures()
    now_ms = BASE_SLOT * SLOT_MS
    region.block(now_ms, figures)
    region.place_all()
    while True:  # In mode "block" every slot trades before the chain stops.
        now_ms += 1
        events = region.block(now_ms, figures)
        _progress(f"{figures.events['TradeMatched']} trades matched")
        if not any(isinstance(event, TradeMatched) for event in events):
            break
    region.database.close()
    return figures


def _come_back(region: Region, hours: int) -> Figures:
    figures = Figures()
    now_ms = BASE_SLOT * SLOT_MS + hours * 3_600_000 + 120_000
    slots = 0
    while slots < SLOTS_PER_DAY * 2:
        region.block(now_ms, figures)
        _progress(f"{hours} h: block {figures.blocks}, {figures.events['TradeSettled']} settled")
        if region.idle():
            break
        # Nobody reads a meter, which is the most work; a slot goes by whenever all is done.
        clock = CLOCK.get(region.reader, b"")
        assert clock is not None
        waits = clock.settled_slot == clock.due_slot and clock.gate_slot == clock.slot
        slots += waits
        now_ms = (now_ms // SLOT_MS + 1) * SLOT_MS + 1_000 if waits else now_ms + BLOCK_MS
    return figures


def _told(figures: Figures) -> dict[str, object]:
    return {
        "blocks": figures.blocks,
        "worst_block_cpu_ms": figures.worst_ms,
        "all_cpu_s": figures.all_s,
        "matched": figures.events[TradeMatched.__name__],
        "settled": figures.events[TradeSettled.__name__],
        "closed_orders": figures.events["OrderClosed"],
        "reports": figures.events["ReportClosed"],
    }


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _owner(number: int) -> bytes:
    return sha256(b"owner %d" % number)


def _customer(number: int) -> Customer:
    return Customer(_owner(number), "BKK", UTILITY)


def _place(state: Overlay, number: int) -> None:
    selling = number % 2 == 0
    location = f"BKK-{number % 20 // 2 + 1:02d}-SUB{number % 50 // 2 + 1:03d}"
    terms = PlaceOrder(
        side=Side.SELL if selling else Side.BUY,
        energy_wh=SLOTS_PER_DAY * 1_000,
        limit_mthb=3_000 + number % 97 if selling else 4_500 + number % 89,
        location=location,
        meter_id=sha256(b"meter %d" % number),
        source=Source.SOLAR if selling else Source.ANY,
        require=False,
        first_slot=BASE_SLOT + 1,
        last_slot=BASE_SLOT + SLOTS_PER_DAY,
        max_wh_per_slot=1_000,
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=(BASE_SLOT + 500) * SLOT_MS,
    )
    trading.place_order(
        state,
        terms,
        owner=_owner(number),
        order_id=sha256(b"order %d" % number),
        now_ms=BASE_SLOT * SLOT_MS + 1,
        height=1,
        trader=FIT,
        meter=MeterFacts(_owner(number), location, "solar", 10**6, 10**6),
    )
