"""The nouns of settlement reports: what a territory's Bangkok day adds up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from gridtokenx.primitives.codec import Limit, wire
from gridtokenx.primitives.state import Table
from gridtokenx.trading.model import Mark, Source


@wire(143)
@dataclass(frozen=True, slots=True)
class ReportLine:
    """What a territory's buyers traded in one day, of one source and tier."""

    tier: int
    source: Source
    trades: int = 0
    traded_wh: int = 0
    delivered_wh: int = 0
    energy_uthb: int = 0
    wheeling_uthb: int = 0
    transmission_uthb: int = 0
    vat_uthb: int = 0
    fee_uthb: int = 0
    penalty_uthb: int = 0
    carbon_ucr: int = 0


@wire(144)
@dataclass(frozen=True, slots=True)
class ProductionLine:
    """What a territory's meters fed in on one day, of one source, and the credits issued."""

    source: Source
    export_wh: int = 0
    carbon_ucr: int = 0


@wire(145)
@dataclass(frozen=True, slots=True)
class ReportTotals:
    """What a territory's day counts beside trade and production.

    import_wh is what meters took in, consumed_wh the part that was bought on this market;
    assumed_wh was bought and counts as consumed though no reading came; missing_readings are the
    meters and slots that traded and were not read; participants bought or sold.
    """

    readings: int = 0
    missing_readings: int = 0
    import_wh: int = 0
    consumed_wh: int = 0
    assumed_wh: int = 0
    redeemed_wh: int = 0
    redeemed_uthb: int = 0
    participants: int = 0


@wire(146)
@dataclass(frozen=True, slots=True)
class SettlementReport:
    """A territory's settlement of one Bangkok day, complete and final.

    `day` counts Bangkok days since 1970-01-01; lines by (tier, source), production by source.
    Energy imported beyond `consumed_wh` was ordinary utility supply.
    """

    territory: str
    distributor: str
    day: int
    totals: ReportTotals
    lines: Annotated[tuple[ReportLine, ...], Limit(0, 64)]
    production: Annotated[tuple[ProductionLine, ...], Limit(0, 16)]


REPORTS = Table(b"tr", SettlementReport)  # key: territory prefix, day u64; closed days
# The days that are still open; see trading/reports.py.
REPORT_LINES = Table(b"tn", ReportLine)  # key: day u64, territory prefix, tier u8, source text
REPORT_PRODUCTION = Table(b"tq", ProductionLine)  # key: day u64, territory prefix, source text
REPORT_TOTALS = Table(b"tu", ReportTotals)  # key: day u64, territory prefix
REPORT_MEMBERS = Table(b"tw", Mark)  # key: day u64, territory prefix, account
