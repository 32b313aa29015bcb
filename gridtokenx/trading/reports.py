"""Settlement reports: what a territory's day adds up to, gathered as settlement happens.

Trades belong to the buyer's territory, readings to the meter's, both to the Bangkok day of their
slot; redemptions to the day on which they happen. A day closes once its last reading deadline has
passed; its report then stays in REPORTS and its hash goes into an event.
Source: protocols/market.md 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.quantities import local_day, saturated, slot_start_ms
from gridtokenx.primitives.state import Overlay, Reader, Table, u64
from gridtokenx.trading.clock import WORK_FORGOTTEN_ROW, WORK_REPORT, Budget
from gridtokenx.trading.clock_model import DEADLINES, MarketClock
from gridtokenx.trading.model import (
    CONGESTED,
    FLOWS,
    Mark,
    ReportClosed,
    Source,
    TradeSettled,
    TradingEvent,
)
from gridtokenx.trading.report_model import (
    REPORT_LINES,
    REPORT_MEMBERS,
    REPORT_PRODUCTION,
    REPORT_TOTALS,
    REPORTS,
    ProductionLine,
    ReportLine,
    ReportTotals,
    SettlementReport,
)

FLOWS_KEPT_SLOTS = 96
# What a region's block sends up must fit a checkpoint: a hash for each territory and day it closes.
MAX_DAYS_CLOSED = 4

V = TypeVar("V")
R = TypeVar("R", ReportTotals, ProductionLine)
_MARK = Mark()
_NOTHING = ReportTotals()


def day_of(slot: int) -> int:
    """The Bangkok day (since 1970-01-01) in which a slot starts."""
    return local_day(slot_start_ms(slot))


def report_hash(report: SettlementReport) -> bytes:
    """What a ReportClosed event commits to: SHA-256("gtx.report" || canonical bytes)."""
    return tagged_hash("gtx.report", encode(report))


def report_key(territory: str, day: int) -> bytes:
    """A closed report's key in REPORTS."""
    return territory.encode() + u64(day)


# -- Gathering -------------------------------------------------------------------------------------


def add_trade(state: Overlay, trade: TradeSettled) -> None:
    """Count a settled trade. As all sums here, those of a line end at 2**63-1."""
    prefix = _prefix(trade.territory, day_of(trade.slot))
    key = prefix + bytes((trade.tier,)) + trade.source.encode()
    line = REPORT_LINES.get(state, key) or ReportLine(trade.tier, trade.source)
    after = ReportLine(
        tier=trade.tier,
        source=trade.source,
        trades=saturated(line.trades + 1),
        traded_wh=saturated(line.traded_wh + trade.traded_wh),
        delivered_wh=saturated(line.delivered_wh + trade.delivered_wh),
        energy_uthb=saturated(line.energy_uthb + trade.energy_uthb),
        wheeling_uthb=saturated(line.wheeling_uthb + trade.wheeling_uthb),
        transmission_uthb=saturated(line.transmission_uthb + trade.transmission_uthb),
        vat_uthb=saturated(line.vat_uthb + trade.vat_uthb),
        fee_uthb=saturated(line.fee_uthb + trade.fee_uthb),
        penalty_uthb=saturated(line.penalty_uthb + trade.penalty_uthb),
        carbon_ucr=saturated(line.carbon_ucr + trade.carbon_ucr),
    )
    REPORT_LINES.put(state, key, after)
    for account in (trade.buyer, trade.seller):
        if REPORT_MEMBERS.get(state, prefix + account) is None:
            REPORT_MEMBERS.put(state, prefix + account, _MARK)
            totals = _totals(state, prefix)
            REPORT_TOTALS.put(state, prefix, _plus(totals, participants=1))


def add_reading(
    state: Overlay,
    *,
    territory: str,
    day: int,
    import_wh: int,
    export_wh: int,
    source: str,
    carbon_ucr: int,
) -> None:
    """Count an accepted reading in a day that is still open; `source` is the plant's, "none"
    without one.
    """
    prefix = _prefix(territory, day)
    totals = _totals(state, prefix)
    REPORT_TOTALS.put(state, prefix, _plus(totals, readings=1, import_wh=import_wh))
    if export_wh:
        key = prefix + source.encode()
        line = REPORT_PRODUCTION.get(state, key) or ProductionLine(Source(source))
        more = _plus(line, export_wh=export_wh, carbon_ucr=carbon_ucr)
        REPORT_PRODUCTION.put(state, key, more)


def add_consumption(state: Overlay, territory: str, slot: int, energy_wh: int) -> None:
    """Count bought energy that a meter is known to have taken in."""
    prefix = _prefix(territory, day_of(slot))
    totals = _totals(state, prefix)
    REPORT_TOTALS.put(state, prefix, _plus(totals, consumed_wh=energy_wh))


def add_missing_reading(state: Overlay, territory: str, slot: int, assumed_wh: int) -> None:
    """Count a meter that traded and was not read, and what it is taken to have consumed."""
    prefix = _prefix(territory, day_of(slot))
    totals = _totals(state, prefix)
    REPORT_TOTALS.put(state, prefix, _plus(totals, missing_readings=1, assumed_wh=assumed_wh))


def add_redemption(
    state: Overlay, *, territory: str, now_ms: int, energy_wh: int, paid_uthb: int
) -> None:
    """Count energy that the utility took over."""
    prefix = _prefix(territory, local_day(now_ms))
    totals = _totals(state, prefix)
    after = _plus(totals, redeemed_wh=energy_wh, redeemed_uthb=paid_uthb)
    REPORT_TOTALS.put(state, prefix, after)


# -- Reading and closing ---------------------------------------------------------------------------


def open_report(state: Reader, territory: str, distributor: str, day: int) -> SettlementReport:
    """What has been gathered of a day that is not closed yet."""
    prefix = _prefix(territory, day)
    return SettlementReport(
        territory=territory,
        distributor=distributor,
        day=day,
        totals=_totals(state, prefix),
        lines=tuple([line for _, line in REPORT_LINES.items(state, prefix)]),
        production=tuple([line for _, line in REPORT_PRODUCTION.items(state, prefix)]),
    )


def closed_report(state: Reader, territory: str, day: int) -> SettlementReport | None:
    """The final report of a day, or None while it is open or was never kept."""
    return REPORTS.get(state, report_key(territory, day))


def close_day(
    state: Overlay, day: int, territories: Mapping[str, str], budget: Budget
) -> list[TradingEvent]:
    """Close a day whose last slot is settled; every territory reports.

    `territories` maps territory prefixes to the distributors' names.
    """
    events: list[TradingEvent] = []
    for territory in sorted(territories):
        report = open_report(state, territory, territories[territory], day)
        REPORTS.put(state, report_key(territory, day), report)
        _drop(state, _prefix(territory, day))
        events.append(ReportClosed(territory, day, report_hash(report)))
        budget.spend(WORK_REPORT)
    return events


def forget(state: Overlay, clock: MarketClock, budget: Budget) -> None:
    """Clean away what closed days, old slots and closed gates have left behind, as the budget
    allows.
    """
    _forget(state, REPORT_MEMBERS, day_of(clock.settled_slot + 1), budget)
    _forget(state, FLOWS, max(0, clock.settled_slot - FLOWS_KEPT_SLOTS), budget)
    _forget(state, DEADLINES, max(0, clock.settled_slot + 1), budget)
    _forget(state, CONGESTED, clock.gate_slot + 1, budget)


def _forget(state: Overlay, table: Table[V], before: int, budget: Budget) -> None:
    """Delete rows whose key starts with a number below `before`."""
    keys = list(islice(_older(table, state, before), budget.affords(WORK_FORGOTTEN_ROW)))
    for key in keys:
        table.delete(state, key)
    budget.spend(len(keys) * WORK_FORGOTTEN_ROW)


def _older(table: Table[V], state: Reader, before: int) -> Iterator[bytes]:
    for key, _ in table.items(state):
        if key[:8] >= u64(before):
            return
        yield key


def _drop(state: Overlay, prefix: bytes) -> None:
    REPORT_TOTALS.delete(state, prefix)
    for key in [key for key, _ in REPORT_LINES.items(state, prefix)]:
        REPORT_LINES.delete(state, key)
    for key in [key for key, _ in REPORT_PRODUCTION.items(state, prefix)]:
        REPORT_PRODUCTION.delete(state, key)


def _prefix(territory: str, day: int) -> bytes:
    return u64(day) + territory.encode()


def _plus(sums: R, **amounts: int) -> R:
    after: dict[str, Any] = {
        name: saturated(getattr(sums, name) + more) for name, more in amounts.items()
    }
    return replace(sums, **after)


def _totals(state: Reader, prefix: bytes) -> ReportTotals:
    return REPORT_TOTALS.get(state, prefix) or _NOTHING
