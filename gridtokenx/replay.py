"""Re-execute a chain from its genesis, and add its settlement reports up a second time.

What an auditor needs to trust no node: blocks and certificates in, and every root, every report and
every sum comes out of the rules themselves. Source: protocols/market.md section 5.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gridtokenx.chain.block import Event, decode_block
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import check_signature
from gridtokenx.chain.transition import Execution, Parent, execute_block
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.consensus.certificates import check_quorum_certificate
from gridtokenx.consensus.messages import Phase, QuorumCertificate
from gridtokenx.grid.model import ReadingAccepted
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import local_day, saturated
from gridtokenx.primitives.state import Decode, Overlay
from gridtokenx.registry.model import METERS
from gridtokenx.trading import reports
from gridtokenx.trading.model import (
    EnergyConsumed,
    EnergyRedeemed,
    ReportClosed,
    Source,
    TradeSettled,
)
from gridtokenx.trading.report_model import (
    ProductionLine,
    ReportLine,
    ReportTotals,
    SettlementReport,
)


class StateInMemory:
    """A chain's state as value objects, with its keys in order. Implements the core's Reader."""

    def __init__(self) -> None:
        self._values: dict[bytes, Any] = {}
        self._keys: list[bytes] = []

    def load(self, key: bytes, decode: Decode) -> Any | None:
        """The value, which is never encoded here."""
        return self._values.get(key)

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        """(key, value) under a prefix, in key order."""
        for at in range(bisect.bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[at]
            if not key.startswith(prefix):
                return
            yield key, self._values[key]

    def absorb(self, overlay: Overlay) -> None:
        """Take over a block's changes."""
        for key, value in overlay.changed():
            if value is not None:
                if key not in self._values:
                    bisect.insort(self._keys, key)
                self._values[key] = value
            elif self._values.pop(key, None) is not None:
                del self._keys[bisect.bisect_left(self._keys, key)]


@dataclass(frozen=True, slots=True)
class CheckedReport:
    """A report that a block closed: what the chain says and what the events add up to."""

    region: str
    day: int
    height: int
    report: SettlementReport
    report_hash: bytes
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conservation:
    """What all accounts hold against the supply, by asset, in smallest units."""

    held: dict[str, int]
    supply: dict[str, int]

    @property
    def differences(self) -> tuple[str, ...]:
        """A sentence for each asset that does not add up."""
        return tuple(
            f"accounts hold {self.held[name]} {name} of {self.supply[name]}"
            for name in self.held
            if self.held[name] != self.supply[name]
        )


class Replay:
    """One chain, executed block by block from genesis."""

    def __init__(self, spec: ChainSpec) -> None:
        self.spec = spec
        self.state = StateInMemory()
        self.tree = StateTree()
        overlay = Overlay(self.state)
        spec.install(overlay)
        self.tree.commit(self.tree.update(overlay.changes()))
        self.state.absorb(overlay)
        genesis_ms = spec.genesis.genesis_time_ms
        self.parent = Parent(0, spec.chain_id, genesis_ms, self.tree.root)
        self._sums = _Sums()

    def apply(self, raw_block: bytes, raw_certificate: bytes) -> list[CheckedReport]:
        """Check and execute the next block; the reports it closed.

        Certificate, signatures, parent and every root of the header are checked.
        Errors: INVALID_BLOCK, INVALID_CERTIFICATE, BAD_SIGNATURE, MALFORMED and the rules' own.
        """
        block = decode_block(raw_block)
        header = block.header
        certificate = decode(QuorumCertificate, raw_certificate)
        height = self.parent.height + 1
        signers = current_set(self.state, height).validators
        check_quorum_certificate(certificate, self.spec.chain_id, signers)
        signed = (certificate.phase, certificate.height, certificate.block_hash)
        if signed != (Phase.COMMIT, height, header.hash):
            detail = f"the certificate at {height} is not a commit of that block"
            raise Rejected(ErrorCode.INVALID_CERTIFICATE, detail)
        transactions = block.decode_transactions()
        for transaction in transactions:
            check_signature(transaction)
        execution = execute_block(
            self.spec, self.state, self.tree, self.parent, block, transactions
        )
        self.tree.commit(execution.tree)
        self.state.absorb(execution.overlay)
        self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        return self._check_reports(execution)

    def conservation(self) -> Conservation:
        """Add all accounts up."""
        held = dict.fromkeys(("thb_uthb", "energy_wh", "gtx_ugtx", "carbon_ucr"), 0)
        for _, one in ACCOUNTS.items(self.state):
            held["thb_uthb"] += one.thb_uthb + one.escrow_uthb + one.bond_uthb
            held["energy_wh"] += one.energy_wh + one.energy_held_wh
            held["gtx_ugtx"] += one.gtx_ugtx
            held["carbon_ucr"] += one.carbon_ucr
        return Conservation(held, ledger.holdings(self.state))

    def _check_reports(self, execution: Execution) -> list[CheckedReport]:
        header = execution.block.header
        now_ms = self.spec.market_time_ms(header.height, header.time_ms)
        closed = []
        for receipt in execution.receipts:
            for event in receipt.events:
                if isinstance(event, ReportClosed):
                    closed.append(event)
                elif receipt.transaction_id == ZERO_HASH and isinstance(event, EnergyConsumed):
                    # Nobody read the meter in time: what was bought counts as consumed.
                    self._count_consumed(event, "assumed_wh")
                else:
                    self._count(event, now_ms)
        return [self._checked(event, header.height) for event in closed]

    def _count(self, event: Event, now_ms: int) -> None:
        sums = self._sums
        match event:
            case TradeSettled():
                sums.add_trade(event)
            case ReadingAccepted():
                meter = METERS.get(self.state, event.meter_id)
                assert meter is not None  # The rule that accepted the reading found it.
                sums.add_reading(event, meter.location[:3], meter.source.value)
            case EnergyConsumed():
                self._count_consumed(event, "consumed_wh")
            case EnergyRedeemed():
                sums.add(
                    event.region,
                    local_day(now_ms),
                    redeemed_wh=event.energy_wh,
                    redeemed_uthb=event.paid_uthb,
                )
            case _:
                return

    def _count_consumed(self, event: EnergyConsumed, total: str) -> None:
        meter = METERS.get(self.state, event.meter_id)
        assert meter is not None  # Energy is consumed at registered meters only.
        self._sums.add(meter.location[:3], reports.day_of(event.slot), **{total: event.energy_wh})

    def _checked(self, event: ReportClosed, height: int) -> CheckedReport:
        report = reports.closed_report(self.state, event.region, event.day)
        if report is None:
            detail = f"block {height} closes {event.region} day {event.day} without a report"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        differences = self._sums.differences(report)
        if reports.report_hash(report) != event.report_hash:
            differences = (*differences, "its hash is not that of the block's event")
        return CheckedReport(
            event.region, event.day, height, report, event.report_hash, differences
        )


_SUMMED_LINE = tuple(one.name for one in fields(ReportLine) if one.name not in ("tier", "source"))


@dataclass(slots=True)
class _Sums:
    """The days' sums, worked out from events alone; key: (region, day)."""

    totals: dict[tuple[str, int], ReportTotals] = field(default_factory=dict)
    lines: dict[tuple[str, int], dict[tuple[int, Source], ReportLine]] = field(default_factory=dict)
    production: dict[tuple[str, int], dict[str, ProductionLine]] = field(default_factory=dict)
    members: dict[tuple[str, int], dict[bytes, None]] = field(default_factory=dict)

    def add(self, region: str, day: int, **amounts: int) -> None:
        """Add to a day's totals."""
        old = self.totals.get((region, day), ReportTotals())
        changed: dict[str, Any] = {
            name: saturated(getattr(old, name) + value) for name, value in amounts.items()
        }
        self.totals[region, day] = replace(old, **changed)

    def add_trade(self, event: TradeSettled) -> None:
        """Count a settlement."""
        key = event.region, reports.day_of(event.slot)
        lines = self.lines.setdefault(key, {})
        old = lines.get((event.tier, event.source)) or ReportLine(event.tier, event.source)
        changed: dict[str, Any] = {
            name: saturated(getattr(old, name) + (1 if name == "trades" else getattr(event, name)))
            for name in _SUMMED_LINE
        }
        lines[event.tier, event.source] = replace(old, **changed)
        members = self.members.setdefault(key, {})
        members[event.buyer] = members[event.seller] = None

    def add_reading(self, event: ReadingAccepted, region: str, source: str) -> None:
        """Count a reading."""
        key = region, reports.day_of(event.slot)
        self.add(*key, readings=1, import_wh=event.import_wh)
        if event.export_wh:
            production = self.production.setdefault(key, {})
            old = production.get(source) or ProductionLine(Source(source))
            production[source] = replace(
                old,
                export_wh=saturated(old.export_wh + event.export_wh),
                carbon_ucr=saturated(old.carbon_ucr + event.carbon_ucr),
            )

    def differences(self, report: SettlementReport) -> tuple[str, ...]:
        """Where a report is not what the events add up to; its day is forgotten here."""
        key = report.region, report.day
        members = self.members.pop(key, {})
        totals = replace(self.totals.pop(key, ReportTotals()), participants=len(members))
        told = replace(report.totals, missing_readings=0)  # No event tells of what did not come.
        found = []
        if totals != told:
            found.append(f"totals are {told}, events give {totals}")
        lines = sorted(self.lines.pop(key, {}).values(), key=encode)
        if lines != sorted(report.lines, key=encode):
            found.append("lines of trade are not what the settlements add up to")
        production = sorted(self.production.pop(key, {}).values(), key=encode)
        if production != sorted(report.production, key=encode):
            found.append("lines of production are not what the readings add up to")
        return tuple(found)
