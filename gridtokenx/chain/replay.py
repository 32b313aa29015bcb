"""Re-execute a chain from its genesis, and add its settlement reports up a second time.

What an auditor needs to trust no node: blocks and certificates in, and every root, every report and
every sum comes out of the rules themselves. A region is replayed beside the national chain, since
its validators alone judge what it takes of that one. Source: protocols/market.md 5,
protocols/interchain.md 5.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from gridtokenx.chain.block import Block, Event, Header, decode_block
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import check_signature
from gridtokenx.chain.transition import Execution, Parent, execute_block, signing_set
from gridtokenx.consensus.certificates import check_commit
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.grid.model import ReadingAccepted
from gridtokenx.interchain.model import Downward
from gridtokenx.interchain.rules import inbox_of
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import local_day, saturated
from gridtokenx.primitives.state import Decode, Overlay
from gridtokenx.registry.model import METERS
from gridtokenx.trading import reports
from gridtokenx.trading.matching import Watch
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

    territory: str
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


class NationalHistory(Protocol):
    """What `replay_national.NationalReplay` answers to a region's replay."""

    @property
    def hashes(self) -> Sequence[bytes]: ...
    def advance(self, height: int) -> None: ...
    def due(self, region: str, nonce: int, height: int) -> tuple[Downward, ...]: ...
    def accepted(self, region: str) -> dict[int, bytes]: ...
    def spec_of(self, spec: ChainSpec, header: Header) -> ChainSpec: ...
    def with_incarnations(self, spec: ChainSpec) -> ChainSpec: ...


class Replay:
    """One chain, executed block by block from genesis."""

    def __init__(
        self,
        spec: ChainSpec,
        national: NationalHistory | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`national` is the replay of the national chain that a region's blocks are held against;
        `watch` sees each clearing of the market begin.

        ValueError for a region without it on a network that has a national chain.
        """
        if national is None and spec.genesis.national is not None and not spec.is_national:
            raise ValueError(f"{spec.name} is replayed beside the national chain, not alone")
        self.spec = spec
        self.state = StateInMemory()
        self.tree = StateTree()
        overlay = Overlay(self.state)
        spec.install(overlay)
        self.tree.apply(self.tree.update(overlay.changes()))
        self.state.absorb(overlay)
        genesis_ms = spec.genesis.genesis_time_ms
        self.parent = Parent(0, spec.chain_id, genesis_ms, self.tree.root)
        self.hashes = [ZERO_HASH]  # Of every block, by height.
        self._national = national
        self._watch = watch
        self._sums = _Sums()

    def apply(self, raw_block: bytes, raw_certificate: bytes) -> list[CheckedReport]:
        """Check and execute the next block; the reports it closed.

        Certificate, signatures, parent, every root of the header and what a region has taken of
        the national chain are checked.
        Errors: INVALID_BLOCK, INVALID_CERTIFICATE, BAD_SIGNATURE, MALFORMED and the rules' own;
        NationalNotVerified.
        """
        return self._check_reports(self.execute(raw_block, raw_certificate))

    def execute(self, raw_block: bytes, raw_certificate: bytes) -> Execution:
        """As `apply`, without the reports. Errors: as there."""
        block = decode_block(raw_block)
        if self._national is not None:
            self._hold_against(self._national, block)
        header = block.header
        certificate = decode(QuorumCertificate, raw_certificate)
        height = self.parent.height + 1
        spec = self.spec.at(height)
        signers = signing_set(spec, self.state, height).validators
        check_commit(certificate, spec.chain_id, height, header.hash, signers)
        transactions = block.decode_transactions()
        for transaction in transactions:
            check_signature(transaction)
        execution = execute_block(
            self.spec,
            self.state,
            self.tree,
            self.parent,
            block,
            transactions,
            watch=self._watch,
        )
        self.tree.apply(execution.tree)
        self.state.absorb(execution.overlay)
        self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        self.hashes.append(header.hash)
        return execution

    def _hold_against(self, national: NationalHistory, block: Block) -> None:
        """What a quorum of the region has judged before its votes is judged here again.

        Errors: INVALID_BLOCK; WRONG_CHAIN; NationalNotVerified.
        """
        header, inbox = block.header, inbox_of(self.state)
        national.advance(header.root_height)
        self.spec = national.spec_of(self.spec, header)
        if national.hashes[header.root_height] != header.root_hash:
            detail = f"it names a national block {header.root_height} that was never decided"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        born = self.spec.born_at(header.height)
        if born is not None and born.hash != self.parent.hash:
            detail = f"voters let {self.spec.name} go on from block {born.hash.hex()[:16]}"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        assert inbox is not None  # Genesis opens it where there is a national chain.
        due = national.due(self.spec.name, inbox.next, header.root_height)
        if block.inbox != due:
            detail = (
                f"it takes {len(block.inbox)} messages of the national chain that are not the "
                f"{len(due)} which national block {header.root_height} had for it from number "
                f"{inbox.next} on"
            )
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)

    def contradictions(self) -> list[str]:
        """A sentence for whatever the national chain, as far as it is replayed, says of this region
        and this history does not: somewhere there is another one.
        """
        if self._national is None:
            return []
        name, found = self.spec.name, []
        for height, block_hash in sorted(self._national.accepted(name).items()):
            if height <= self.parent.height and self.hashes[height] != block_hash:
                found.append(
                    f"the national chain has accepted block {height} of {name} with hash "
                    f"{block_hash.hex()[:16]}, here it is {self.hashes[height].hex()[:16]}"
                )
        for born in self._national.with_incarnations(self.spec).incarnations:
            if born not in self.spec.incarnations and born.height < self.parent.height:
                found.append(
                    f"voters let {name} go on from block {born.height} as incarnation "
                    f"{born.number}: the blocks after it here are void"
                )
        return found

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
                sums.add_reading(event, territory_of(meter.location), meter.source.value)
            case EnergyConsumed():
                self._count_consumed(event, "consumed_wh")
            case EnergyRedeemed():
                sums.add(
                    event.territory,
                    local_day(now_ms),
                    redeemed_wh=event.energy_wh,
                    redeemed_uthb=event.paid_uthb,
                )
            case _:
                return

    def _count_consumed(self, event: EnergyConsumed, total: str) -> None:
        meter = METERS.get(self.state, event.meter_id)
        assert meter is not None  # Energy is consumed at registered meters only.
        self._sums.add(
            territory_of(meter.location), reports.day_of(event.slot), **{total: event.energy_wh}
        )

    def _checked(self, event: ReportClosed, height: int) -> CheckedReport:
        report = reports.closed_report(self.state, event.territory, event.day)
        if report is None:
            detail = f"block {height} closes {event.territory} day {event.day} without a report"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        differences = self._sums.differences(report)
        if reports.report_hash(report) != event.report_hash:
            differences = (*differences, "its hash is not that of the block's event")
        return CheckedReport(
            event.territory, event.day, height, report, event.report_hash, differences
        )


_SUMMED_LINE = tuple(one.name for one in fields(ReportLine) if one.name not in ("tier", "source"))


@dataclass(slots=True)
class _Sums:
    """The days' sums, worked out from events alone; key: (territory, day)."""

    totals: dict[tuple[str, int], ReportTotals] = field(default_factory=dict)
    lines: dict[tuple[str, int], dict[tuple[int, Source], ReportLine]] = field(default_factory=dict)
    production: dict[tuple[str, int], dict[str, ProductionLine]] = field(default_factory=dict)
    members: dict[tuple[str, int], dict[bytes, None]] = field(default_factory=dict)

    def add(self, territory: str, day: int, **amounts: int) -> None:
        """Add to a day's totals."""
        old = self.totals.get((territory, day), ReportTotals())
        changed: dict[str, Any] = {
            name: saturated(getattr(old, name) + value) for name, value in amounts.items()
        }
        self.totals[territory, day] = replace(old, **changed)

    def add_trade(self, event: TradeSettled) -> None:
        """Count a settlement."""
        key = event.territory, reports.day_of(event.slot)
        lines = self.lines.setdefault(key, {})
        old = lines.get((event.tier, event.source)) or ReportLine(event.tier, event.source)
        changed: dict[str, Any] = {
            name: saturated(getattr(old, name) + (1 if name == "trades" else getattr(event, name)))
            for name in _SUMMED_LINE
        }
        lines[event.tier, event.source] = replace(old, **changed)
        members = self.members.setdefault(key, {})
        members[event.buyer] = members[event.seller] = None

    def add_reading(self, event: ReadingAccepted, territory: str, source: str) -> None:
        """Count a reading."""
        key = territory, reports.day_of(event.slot)
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
        key = report.territory, report.day
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
