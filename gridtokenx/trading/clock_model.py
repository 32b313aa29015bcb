"""The nouns of the market's clock: gates, deadlines, and slots in which the chain stood still."""

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
    regions up to `cleared_region` by name are cleared. Gates up to `still_slot` passed while the
    chain stood still. Reading deadlines up to `due_slot` have passed, and slots up to
    `settled_slot` are settled. `standstills` are those that an unsettled slot may have seen.
    """

    slot: int
    gate_slot: int
    still_slot: Annotated[int, Limit(-1, MAX_INT)]
    cleared_region: str
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


CLOCK = Table(b"tc", MarketClock)  # key: b""
DEADLINES = Table(b"tk", SlotDeadline)  # key: slot u64; of slots that traded, until settled
