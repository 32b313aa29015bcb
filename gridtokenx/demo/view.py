"""What people see of a demonstration day: a live table, and the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gridtokenx.cluster.devnet import Member
from gridtokenx.demo.day import Region
from gridtokenx.demo.story import DESTINATION, ORIGIN
from gridtokenx.demo.summary import Summary
from gridtokenx.primitives.quantities import (
    BANGKOK_OFFSET_MS,
    SLOT_MS,
    SLOTS_PER_DAY,
    format_kwh,
    format_price,
    format_thb,
    slot_start_ms,
)
from gridtokenx.runtime import bangkok

PLAIN_EVERY_SLOTS = 4
UNITS = {"gtx": "ugtx", "energy": "Wh"}
# What happens on the day, by its hour. Source: protocols/market.md 8.
BEATS = {
    9: "time-of-use peak begins",
    10: "solar glut",
    11: "transformer of BKK-01-SUB001 at 118.5 %",
    12: "transformer of BKK-01-SUB001 at 96 %",
    13: "transformer of BKK-01-SUB001 clear",
    17: "scarcity",
    18: "peak hours: ceiling 15 THB/kWh",
    22: "peak hours end",
}


class DayView:
    """A table that is redrawn in place on a terminal; elsewhere a line for each hour played."""

    def __init__(self, console: Console, slots: range) -> None:
        self._console = console
        self._slots = slots
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._printed = -1

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, regions: Sequence[Region]) -> None:
        """Draw the regions as they are."""
        if self._live:
            self._live.update(self._table(regions), refresh=True)
            return
        slot = min(region.slot for region in regions)
        number = slot - self._slots.start
        if number >= 0 and number // PLAIN_EVERY_SLOTS > self._printed:
            self._printed = number // PLAIN_EVERY_SLOTS
            self._console.print(self._line(slot, regions), highlight=False, soft_wrap=True)

    def _line(self, slot: int, regions: Sequence[Region]) -> str:
        parts = [
            f"{region.name} #{region.height} {region.totals.get('trades', 0)} trades "
            f"{format_kwh(region.totals.get('traded_wh', 0))} kWh"
            for region in regions
        ]
        beat = BEATS.get(slot_at_day(slot) // PLAIN_EVERY_SLOTS)
        told = f"{clock_text(slot)}  " + "  |  ".join(parts)
        return f"{told}  {beat}" if beat else told

    def _table(self, regions: Sequence[Region]) -> Table:
        slot = min(region.slot for region in regions)
        number = slot - self._slots.start + 1
        place = f"slot {number} of {len(self._slots)}" if number > 0 else "registering"
        if number > len(self._slots):
            place = "settling"
        beat = BEATS.get(slot_at_day(slot) // PLAIN_EVERY_SLOTS, "")
        table = Table(title=f"{clock_text(slot)}   {place}   {beat}", title_justify="left")
        table.add_column("region")
        for name in ("head", "orders", "trades", "kWh", "THB/kWh", "settled", "finality"):
            table.add_column(name, justify="right")
        for region in regions:
            totals = region.totals
            table.add_row(
                region.name,
                f"#{region.height}",
                str(totals.get("orders", 0)),
                str(totals.get("trades", 0)),
                format_kwh(totals.get("traded_wh", 0)),
                format_price(region.price_mthb) if region.price_mthb else "-",
                str(totals.get("trades_settled", 0)),
                f"{region.finality_ms} ms",
            )
        return table


def slot_at_day(slot: int) -> int:
    """The quarter of the Bangkok day, 0..95."""
    return (slot + BANGKOK_OFFSET_MS // SLOT_MS) % SLOTS_PER_DAY


def clock_text(slot: int) -> str:
    """`Mon 2026-03-16 10:15`, Bangkok time, when a slot begins."""
    begin = bangkok.clock(slot_start_ms(slot))
    return f"{begin:%a %Y-%m-%d %H:%M}" if begin else f"slot {slot}"


def print_summary(console: Console, summary: Summary, refusals: dict[str, str]) -> None:
    """The day's result by region, and what was checked."""
    table = Table(title="the day by region", title_justify="left")
    table.add_column("")
    regions = summary.document["regions"]
    for name in regions:
        table.add_column(name, justify="right")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "orders": lambda row: str(row["orders"]),
        "trades": lambda row: str(row["trades"]),
        "traded kWh": lambda row: format_kwh(row["traded_wh"]),
        "delivered kWh": lambda row: format_kwh(row["delivered_wh"]),
        "short kWh": lambda row: format_kwh(row["shortfall_wh"]),
        "average THB/kWh": lambda row: format_price(row["average_price_mthb"]),
        "energy THB": lambda row: format_thb(row["energy_uthb"]),
        "wheeling THB": lambda row: format_thb(row["wheeling_uthb"]),
        "minted kWh": lambda row: format_kwh(row["minted_wh"]),
        "carbon credits": lambda row: _credits(row["carbon_issued_ucr"]),
        "retired": lambda row: _credits(row["carbon_retired_ucr"]),
        "kept back by the grid": lambda row: f"{row['congested']} order-slots",
        "refused": lambda row: str(len(row["refused"])),
        "finality p50 / p99 ms": lambda row: f"{row['finality_ms_p50']} / {row['finality_ms_p99']}",
        "height": lambda row: str(row["height"]),
        "state root": lambda row: _roots(row["state_roots"]),
    }
    for title, figure in rows.items():
        table.add_row(title, *(figure(row) for row in regions.values()))
    console.print(table)
    for region in regions.values():
        for territory, report in region["reports"].items():
            state = f"{report['state']}, recorded" if report["recorded"] else report["state"]
            told = f"settlement report {territory} ({state}): {report['hash']}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
    for line in _national_lines(summary.document["national"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for story in summary.stories:
        console.print(story, highlight=False, markup=False, soft_wrap=True)
    for what, why in refusals.items():
        text = f"refused, as it should be: {what}: {why}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for failure in summary.failures:
        text = f"DOES NOT HOLD: {failure}"
        console.print(text, highlight=False, markup=False, soft_wrap=True, style="bold red")
    passed, seconds = len(summary.checks), summary.document["wall_s"]
    failed = len(summary.failures)
    console.print(
        f"{passed} checks of money, energy and state roots hold, {failed} do not; {seconds} s",
        highlight=False,
    )


def _national_lines(national: dict[str, Any]) -> Iterator[str]:
    """What happened between the chains."""
    chain, vote = national["chain"], national["vote"]
    yield f"{chain} height {national['height']}, state root {_roots(national['state_roots'])}"
    counts = [
        f"{name} {count['up']} up, {count['down']} down"
        for name, count in national["messages"].items()
    ]
    yield f"messages: {'; '.join(counts)}"
    yield (
        f"vote: {vote['parameter']} = {vote['new_value']} in force on every chain "
        f"by {chain} height {vote['in_force_height']}"
    )
    for name, row in vote["credits_ucr"].items():
        before, after = _credits(row["before"]), _credits(row["after"])
        yield f"carbon credits issued in {name}: {before} before the vote, {after} after it"
    sent = ", ".join(f"{amount} {UNITS[asset]}" for asset, amount in national["transfers"].items())
    yield f"transferred from {ORIGIN} to {DESTINATION}: {sent}"


def print_nodes(console: Console, members: Sequence[Member]) -> None:
    """Where to look at the nodes."""
    for member in members:
        who = member.authority.upper() or member.role
        console.print(
            f"  {member.name} {who:<8} {member.api_url}/api/v1/status",
            highlight=False,
            markup=False,
        )


def _credits(ucr: int) -> str:
    return format_thb(ucr)  # Six decimals as baht have, shown with two.


def _roots(roots: Sequence[str]) -> str:
    if len(set(roots)) == 1:
        return f"{roots[0][:12]} x{len(roots)}"
    return "DIFFERENT"
