"""The market's clock: which gates and deadlines have passed, and how much one block may do.

Pure functions over `MarketClock`. A chain may stand still; then time goes on and blocks do not. The
gates that pass meanwhile close without a clearing, and the deadlines of readings count only slots
in which the chain had blocks. Source: protocols/market.md 3.1, 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gridtokenx.primitives.quantities import SLOT_MS, slot_at
from gridtokenx.primitives.state import Reader, u64
from gridtokenx.trading.clock_model import DEADLINES, MarketClock, SlotDeadline, Standstill
from gridtokenx.trading.model import MarketParameters

# What a block's own work may cost, in microseconds of the machine of docs/performance.md. What is
# left goes on in the next block: no block, and none after a standstill, takes long to execute.
WORK_PER_BLOCK = 400_000
WORK_EXPIRY = 80
WORK_PASS = 25
WORK_FILL = 230
WORK_POSITION = 60
WORK_SETTLEMENT = 190
WORK_REPORT = 300
WORK_REDEMPTION = 90
WORK_FORGOTTEN_ROW = 8
WORK_SLOT = 30
MAX_STANDSTILLS = 1_024
MAX_DUE_AT_ONCE = 2_000  # Slots: after a year's standstill no block looks at all of it.


@dataclass(slots=True)
class Budget:
    """What is left of a block's own work."""

    left: int

    @property
    def is_spent(self) -> bool:
        """Whether nothing more should be begun."""
        return self.left <= 0

    def spend(self, work: int) -> None:
        """Count work done; the last piece may go beyond the rest."""
        self.left -= work

    def affords(self, work_each: int) -> int:
        """How many pieces of this work may still be begun."""
        return max(0, -(-self.left // work_each))


def start(slot: int) -> MarketClock:
    """The clock of a chain whose first block lies in `slot`: nothing can be due."""
    return MarketClock(slot, slot, slot - 1, "", slot - 1, slot - 1, ())


def arrive(clock: MarketClock, now_ms: int, grace_ms: int) -> MarketClock:
    """The clock at a new block: what it finds missed, and the standstill before it.

    A gate is missed when the first block after it comes more than `grace_ms` later.
    """
    current = slot_at(now_ms)
    if current <= clock.slot:
        return clock
    missed = min(current, (now_ms - grace_ms - 1) // SLOT_MS)
    standstills = clock.standstills
    if current > clock.slot + 1:
        standstills = _with(standstills, Standstill(clock.slot, current))
    still_slot = missed if missed > clock.slot else clock.still_slot
    return replace(clock, slot=current, still_slot=still_slot, standstills=standstills)


def _with(standstills: tuple[Standstill, ...], newest: Standstill) -> tuple[Standstill, ...]:
    """Two are taken for one rather than forgotten: that makes deadlines longer, never shorter."""
    if len(standstills) < MAX_STANDSTILLS:
        return (*standstills, newest)
    first, second, *rest = standstills
    return (Standstill(first.after_slot, second.next_slot), *rest, newest)


def lived_slots(clock: MarketClock, slot: int) -> int:
    """How many slots after `slot`, up to the present, had blocks."""
    missing = [max(0, s.next_slot - 1 - max(s.after_slot, slot)) for s in clock.standstills]
    return clock.slot - slot - sum(missing)


def pass_deadlines(state: Reader, clock: MarketClock, market: MarketParameters) -> MarketClock:
    """Note the slots whose reading deadline has passed, in order, as many as a block may."""
    due, last = clock.due_slot, clock.due_slot + MAX_DUE_AT_ONCE
    while due < last and lived_slots(clock, due + 1) > deadline_slots(state, due + 1, market):
        due += 1
    return replace(clock, due_slot=due)


def deadline_slots(state: Reader, slot: int, market: MarketParameters) -> int:
    """Slots within which readings of a slot are due: as agreed when it first traded."""
    agreed = DEADLINES.get(state, u64(slot))
    return market.reading_deadline_slots if agreed is None else agreed.slots


def agree_deadline(market: MarketParameters) -> SlotDeadline:
    """The deadline in force."""
    return SlotDeadline(market.reading_deadline_slots)


def settled(clock: MarketClock, slot: int) -> MarketClock:
    """The clock once a slot is settled; standstills that no later slot may ask for are dropped."""
    standstills = tuple([s for s in clock.standstills if s.next_slot > slot + 1])
    return replace(clock, settled_slot=slot, standstills=standstills)
