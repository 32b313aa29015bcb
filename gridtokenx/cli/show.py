"""How values look to people: units, Bangkok time, tables that can be copied from.

What a node answers is outside text: it goes through `printable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gridtokenx.primitives.quantities import (
    UTHB_PER_THB,
    format_kwh,
    format_price,
)
from gridtokenx.runtime import bangkok, screen

if TYPE_CHECKING:
    from rich.console import Console

printable = screen.printable
_MIN_DECIMALS = 2
_MAX_WIDTH = 400


def fields(console: Console, pairs: Iterable[tuple[str, object]]) -> None:
    """Lines of name and value; values of None are left out, long ones are never cut."""
    known = [(name, printable(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        line(console, f"{name:<{width}}  {value}")


def line(console: Console, text: str, style: str | None = None) -> None:
    """One line, whatever its length."""
    console.print(printable(text), style=style, highlight=False, soft_wrap=True)


def text(console: Console, several: str) -> None:
    """Several lines as they are."""
    console.print(screen.lines(several), highlight=False, soft_wrap=True)


def table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[int] = (),
) -> None:
    """A table as wide as its values: an id must survive copying from a narrow terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, heading in enumerate(headings):
        drawn.add_column(heading, no_wrap=True, justify="right" if index in right else "left")
    for row in rows:
        drawn.add_row(*(Text(printable(value)) for value in row))
    if title is not None:
        line(console, title)
    console.width = max(console.width, _MAX_WIDTH)
    console.print(drawn, markup=False, highlight=False)


def page(
    console: Console,
    document: Mapping[str, Any],
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    what: str,
    right: Sequence[int] = (),
) -> None:
    """A page of a chain's list and how to see the rest; or that there is none of `what`."""
    if rows:
        table(console, headings, rows, right=right)
    else:
        nothing(console, document, what)
    next_page(console, document["next_cursor"])


def nothing(console: Console, document: Mapping[str, Any], what: str) -> None:
    """An empty page: there is none of `what`, or none among those that were looked at."""
    among = (
        "" if document["next_cursor"] is None else " among the newest; there are more to look at"
    )
    line(console, f"no {what} on {printable(document['chain'])}{among}")


def next_page(console: Console, cursor: str | None) -> None:
    """How to see the rest of a list."""
    if cursor is not None:
        line(console, f"more: --cursor {printable(cursor)}")


def moment(unix_ms: Any) -> str:
    """`2026-11-22 18:15:04`, Bangkok time, of Unix ms; `no end` beyond the calendar."""
    return bangkok.moment(int(unix_ms))


def zoned(unix_ms: Any) -> str:
    """The same where nothing else says of which zone it is."""
    told = moment(unix_ms)
    return told if told == bangkok.NO_END else f"{told} Bangkok"


def until(unix_ms: Any) -> str:
    """How long something is valid."""
    told = moment(unix_ms)
    return "without end" if told == bangkok.NO_END else f"until {told}"


def slots(first: Any, last: Any) -> str:
    """When the first slot begins and the last one ends, Bangkok time."""
    return bangkok.slots(int(first), int(last))


def age(unix_ms: Any) -> str:
    """How long ago that was, by this machine's clock."""
    seconds = max(0, time.time_ns() // 1_000_000 - int(unix_ms)) // 1000
    if seconds < 120:
        return f"{seconds} s ago"
    minutes = seconds // 60
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"


def kwh(wh: Any) -> str:
    """Wh as kWh."""
    return format_kwh(int(wh))


def price(mthb: Any) -> str:
    """mTHB/kWh as THB/kWh."""
    return format_price(int(mthb))


def percent(bps: int | None) -> str:
    """Basis points as per cent, without the sign; what is not known is a dash."""
    return "-" if bps is None else f"{bps // 100}.{bps % 100:02}"


def millionths(amount: Any) -> str:
    """uTHB as THB, ugtx as gtx, micro-credits as credits: exact, at least two decimals."""
    units = int(amount)
    whole, rest = divmod(abs(units), UTHB_PER_THB)
    decimals = f"{rest:06d}".rstrip("0").ljust(_MIN_DECIMALS, "0")
    return f"{'-' if units < 0 else ''}{whole}.{decimals}"


def amount(name: str, value: Any) -> str:
    """The value of a field such as `thb_uthb` in whole units, without its unit."""
    return _UNITS[name.rpartition("_")[2]][0](value)


def field(name: str, value: Any) -> tuple[str, str]:
    """A wire field as a line of `fields`: its unit, last in its name, moves to its value."""
    if isinstance(value, dict):
        inner = (field(*pair) for pair in value.items() if pair[0] != "kind")
        return name, ", ".join(f"{key} {text}" for key, text in inner)
    if isinstance(value, list):
        return name, ", ".join(field("", one)[1] for one in value) or "none"
    stem, _, unit = name.rpartition("_")
    if unit not in _UNITS or not str(value).lstrip("-").isdigit():
        return name, "none" if value is None else str(value)
    read, suffix = _UNITS[unit]
    return stem or name, f"{read(value)}{suffix}"


_UNITS: dict[str, tuple[Callable[[Any], str], str]] = {
    "wh": (kwh, " kWh"),
    "mthb": (price, " THB/kWh"),
    "uthb": (millionths, " THB"),
    "ugtx": (millionths, " GTX"),
    "ucr": (millionths, " credits"),
    "ms": (zoned, ""),
}
AMOUNTS = frozenset({"wh", "uthb", "ugtx", "ucr"})
