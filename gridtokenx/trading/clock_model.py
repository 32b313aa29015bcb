"""The nouns of the market's clock: gates, deadlines, slots in which the chain stood still, and what
meters that were not read in time owe.

Source: protocols/market.md 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gridtokenx.primitives.codec import MAX_INT, Limit, wire
from gridtokenx.primitives.state import Table


@wire(150)
@dataclass(frozen=True, slots=True)
class Standstill:
    """The chain had no block in the slots between these two."""

    after_slot: int
    next_slot: int


@wire(131)
@dataclass(frozen=True, slots=True)
class MarketClock:
    """How far the market has come; what one block cannot do goes on in the next.

    `slot` is that of the newest block. Gates up to `gate_slot` are closed; of the next one the
    territories up to `cleared_territory` by name are cleared. Gates up to `still_slot` passed while
    the chain stood still. Reading deadlines up to `due_slot` have passed, and slots up to
    `settled_slot` are settled. `standstills` are those that an unsettled slot may have seen.
    """

    slot: int
    gate_slot: int
    still_slot: Annotated[int, Limit(-1, MAX_INT)]
    cleared_territory: str
    due_slot: Annotated[int, Limit(-1, MAX_INT)]
    settled_slot: Annotated[int, Limit(-1, MAX_INT)]
    standstills: tuple[Standstill, ...]


@wire(151)
@dataclass(frozen=True, slots=True)
class SlotDeadline:
    """Within how many slots readings of a slot are due, as agreed when it first traded."""

    slots: int


@wire(153)
@dataclass(frozen=True, slots=True)
class GatesMissed:
    """Event: the chain stood still while these gates passed; they close without a clearing."""

    first_slot: int
    last_slot: int


@wire(152)
@dataclass(frozen=True, slots=True)
class ImportBalance:
    """What a meter's consumption and its burned purchases owe each other, so that each Wh is burned
    once.

    `assumed_wh` was burned without a reading and is covered by the imports that come next;
    `loose_wh` was imported in several slots up to `loose_slot` which no reading tells apart, and
    is not burned yet.
    """

    assumed_wh: int = 0
    loose_wh: int = 0
    loose_slot: int = 0


CLOCK = Table(b"tc", MarketClock)  # key: b""
DEADLINES = Table(b"tk", SlotDeadline)  # key: slot u64; of slots that traded, until settled
IMPORTS = Table(b"tb", ImportBalance)  # key: meter id; where there is anything to owe
