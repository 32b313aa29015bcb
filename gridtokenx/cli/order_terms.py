"""From what a person asks of an order to the exact terms that are signed.

Nothing here is taken from the node's word but what it shows of the market and of the account's
meters; a lie about those is refused by the chain, never signed into another order than asked.
Source: protocols/market.md 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import (
    BANGKOK_OFFSET_MS,
    SLOT_MS,
    slot_at,
    slot_start_ms,
)
from gridtokenx.runtime import bangkok
from gridtokenx.trading.model import MatchingMode

if TYPE_CHECKING:
    from gridtokenx.registry.model import Meter
    from gridtokenx.trading.model import PlaceOrder, Side, Source

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_UNIT_MS = {"m": 60_000, "h": HOUR_MS, "d": DAY_MS}
_DURATION = re.compile(r"([0-9]{1,4})([mhd])")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_BLOCKS_UNTIL_INCLUDED = 2  # Slots that close before an order can be in a block are left out.


@dataclass(frozen=True, slots=True)
class Market:
    """What decides an order's slots and when it is matched. `now_ms` is market time in Unix ms;
    a block takes `block_ms` of it, and `block_time_ms` of anybody's.
    """

    now_ms: int
    block_ms: int
    open_slots: int
    block_time_ms: int
    matching_mode: MatchingMode

    def matches(self, first_slot: int) -> str:
        """When an order for this slot or later ones first meets others, for a person."""
        if self.matching_mode is MatchingMode.BLOCK:
            return "with the next block"
        slot = max(first_slot, slot_at(self.now_ms) + 1)
        gate_ms = slot_start_ms(slot)
        blocks = -(-(gate_ms - self.now_ms) // self.block_ms)
        seconds = -(-blocks * self.block_time_ms // 1000)
        wait = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
        return f"when slot {slot} closes at {bangkok.moment(gate_ms)} Bangkok, in about {wait}"


@dataclass(frozen=True, slots=True)
class Window:
    """The delivery slots asked for: one, a span of Bangkok time, or all until the order expires."""

    slot: int | None = None
    begin: str | None = None
    end: str | None = None
    expires: str = "24h"

    def resolve(self, market: Market) -> tuple[int, int, int]:
        """(first slot, last slot, expiry in Unix ms). Errors: BadParameter, INTERVAL_CLOSED."""
        expires_ms = market.now_ms + parse_duration_ms(self.expires)
        spanned = self.begin is not None or self.end is not None
        if self.slot is not None:
            if spanned:
                raise typer.BadParameter("--slot names one slot, --from and --to a span: take one")
            return self.slot, self.slot, expires_ms
        first = slot_at(market.now_ms + _BLOCKS_UNTIL_INCLUDED * market.block_ms) + 1
        last = min(slot_at(expires_ms - 1), slot_at(market.now_ms) + market.open_slots)
        if self.begin is not None:
            first = slot_at(parse_time_ms(self.begin, market.now_ms))
        if self.end is not None:
            after_ms = slot_start_ms(first)
            last = slot_at(parse_time_ms(self.end, after_ms)) - 1
        elif spanned:
            last = max(last, first)
        if last < first:
            detail = f"no delivery slot lies in that time: it would be slots {first} to {last}"
            raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)
        return first, last, expires_ms


@dataclass(frozen=True, slots=True)
class Wish:
    """An order as a person asks for it. Units: Wh, mTHB/kWh."""

    side: Side
    energy_wh: int
    limit_mthb: int
    source: Source
    location: str
    window: Window
    meter_id: bytes | None = None
    max_wh_per_slot: int | None = None
    require: bool = False
    immediate: bool = False


def terms_of(
    wish: Wish, market: Market, meters: list[dict[str, Any]], unlisted: int = 0
) -> PlaceOrder:
    """The terms to sign; `meters` as `account_get` lists them, `unlisted` are so many more.

    Errors: UNKNOWN_METER, NOT_ACTIVE, METER_NOT_NAMED; INTERVAL_CLOSED; BadParameter for times that
    cannot be read.
    """
    from gridtokenx.trading.model import PlaceOrder, TimeInForce

    first, last, expires_ms = wish.window.resolve(market)
    meter_id, nameplate_w, source = _meter(wish, meters, unlisted)
    most_wh = wish.max_wh_per_slot
    if most_wh is None:
        most_wh = min(wish.energy_wh, nameplate_w * SLOT_MS // HOUR_MS)
    immediate, resting = TimeInForce.IMMEDIATE_OR_CANCEL, TimeInForce.GOOD_TILL_CANCELLED
    return PlaceOrder(
        side=wish.side,
        energy_wh=wish.energy_wh,
        limit_mthb=wish.limit_mthb,
        location=wish.location,
        meter_id=meter_id,
        source=source,
        require=wish.require,
        first_slot=first,
        last_slot=last,
        max_wh_per_slot=most_wh,
        time_in_force=immediate if wish.immediate else resting,
        expires_ms=expires_ms,
    )


def _meter(wish: Wish, listed: list[dict[str, Any]], unlisted: int) -> tuple[bytes, int, Source]:
    """(id, nameplate in W, source) of the meter asked for, or of the only one that can be meant.

    A seller who names no source sells what the plant makes.
    """
    from gridtokenx.registry import meters
    from gridtokenx.trading.model import Side, Source

    selling = wish.side is Side.SELL
    named, most_wh = wish.meter_id, wish.max_wh_per_slot
    is_listed = named is None or any(one["meter_id"] == named.hex() for one in listed)
    if named is not None and not is_listed and unlisted and most_wh is not None:
        return named, 0, wish.source  # The node lists 100 meters; the chain knows all of them.
    if named is None and unlisted:
        detail = f"the account has {len(listed) + unlisted} meters; name the one you mean: --meter"
        raise Rejected(ErrorCode.METER_NOT_NAMED, detail)
    chosen = meters.choose(
        [_listed_meter(one) for one in listed],
        location=wish.location,
        selling=selling,
        source=wish.source.value,
        named=named,
    )
    plant, source = chosen.source.value, wish.source
    if selling and source is Source.ANY and plant in set(Source):
        source = Source(plant)
    nameplate_w = chosen.nameplate_export_w if selling else chosen.nameplate_import_w
    return chosen.meter_id, nameplate_w, source


def _listed_meter(row: dict[str, Any]) -> Meter:
    """A meter of a node's answer, which hides registers. Errors: MALFORMED."""
    from gridtokenx.primitives.document import from_document
    from gridtokenx.registry.model import Meter

    return from_document(Meter, {**row, "import_wh_cum": "0", "export_wh_cum": "0"})


def parse_duration_ms(text: str) -> int:
    """Milliseconds of `90m`, `24h` or `7d`. Errors: BadParameter."""
    match = _DURATION.fullmatch(text.strip())
    duration_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 0 < duration_ms <= 30 * DAY_MS:
        detail = f"a time such as 90m, 24h or 7d, at most 30d, not {text!r}"
        raise typer.BadParameter(detail, param_hint="--expires")
    return duration_ms


def parse_time_ms(text: str, after_ms: int) -> int:
    """Unix ms of Bangkok time `2026-11-23T10:15`, or of the first `10:15` at or after `after_ms`.

    Errors: BadParameter, also for a time at which no slot begins.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock and int(clock[1]) < 24 and int(clock[2]) < 60:
        into_day_ms = (int(clock[1]) * 60 + int(clock[2])) * 60_000
        midnight_ms = (after_ms + BANGKOK_OFFSET_MS) // DAY_MS * DAY_MS - BANGKOK_OFFSET_MS
        found_ms = midnight_ms + into_day_ms
        found_ms += DAY_MS if found_ms < after_ms else 0
    else:
        found_ms = _full_time_ms(text)
    if found_ms % SLOT_MS:
        raise typer.BadParameter(f"delivery slots begin each quarter of an hour, not at {text}")
    return found_ms


def _full_time_ms(text: str) -> int:
    try:
        return bangkok.parse_ms(text)
    except ValueError:
        detail = f"a Bangkok time such as 10:15 or 2026-11-23T10:15, not {text!r}"
        raise typer.BadParameter(detail) from None
