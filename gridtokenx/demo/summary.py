"""Sum a run of the demonstration day up, and check over every node's API that nothing was lost.

All figures are read when everything is settled and no transaction is under way, so that answers
of different nodes are of the same state; but the national chain rewards somebody in every block.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from types import MappingProxyType
from typing import Any

from gridtokenx.answers.chain import FinalityTimes
from gridtokenx.answers.settlement import DayReports
from gridtokenx.answers.shard import FiledReportPage, ShardDetail
from gridtokenx.chain.genesis import Genesis
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import Member
from gridtokenx.cluster.watch import heights as heights_of
from gridtokenx.demo.day import chain_totals
from gridtokenx.demo.gateways import Incidents, tell
from gridtokenx.demo.profile import Profile
from gridtokenx.demo.story import Told
from gridtokenx.demo.supply import (
    closed_of,
    filing_check,
    holdings,
    moved_in,
    national_accounts,
    national_document,
    supply_checks,
)
from gridtokenx.ledger.model import TAX, TREASURY
from gridtokenx.runtime import bangkok
from gridtokenx.trading.reports import day_of, report_hash

CATCH_UP_TIMEOUT_S = 30.0
POLL_S = 0.2
_FIGURES = (
    "orders",
    "trades",
    "traded_wh",
    "delivered_wh",
    "energy_uthb",
    "wheeling_uthb",
    "shortfall_wh",
    "minted_wh",
    "carbon_retired_ucr",
    "congested",
)


@dataclass(slots=True)
class Summary:
    """The result: `document` is what `--json` prints, `failures` the checks that do not hold,
    `stories` what happened to meters, in sentences.
    """

    document: dict[str, Any]
    checks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)

    def check(self, holds: bool, sentence: str) -> None:
        """Note a check."""
        (self.checks if holds else self.failures).append(sentence)


def summarize(
    genesis: Genesis,
    members: Sequence[Member],
    profile: Profile,
    wall_s: float,
    refusals: Mapping[str, str] = MappingProxyType({}),
    told: Told | None = None,
    incidents: Mapping[str, Incidents] = MappingProxyType({}),
    slots: range = range(0),
) -> Summary:
    """Read every node and check state roots, money and energy. A node that does not answer fails.

    `refusals`: what was sent to be refused (its name begins with the chain's), and why it was.
    `told`: what happened between the chains. `incidents`: by region what went wrong with meters in
    the `slots` played.

    Errors: NodeUnreachable when none answers.
    """
    summary = Summary({"nodes": len(members), "wall_s": round(wall_s, 1), "regions": {}})
    clients = [Client(member.api_url, genesis=genesis) for member in members]
    try:
        answering = _wait_answering(clients)
        for member, client in zip(members, clients, strict=True):
            if client not in answering:
                summary.failures.append(f"{member.name} does not answer at {member.api_url}")
        if not answering:
            raise NodeUnreachable(members[0].api_url, "nor does any other node")
        heights = _common_heights(answering, genesis.chain_names)
        addresses = _addresses(genesis, profile)
        day = bangkok.day(day_of(profile.slot0))
        reports = {
            member.name: _read_node(client, addresses, heights, day)
            if client in answering
            else None
            for member, client in zip(members, clients, strict=True)
        }
        stories = {
            name: tell(answering[0], one, profile.traders_of(genesis, name), name, slots)
            for name, one in incidents.items()
        }
    finally:
        for client in clients:
            client.close()
    for name in (region.name for region in genesis.chains):
        _add_region(summary, name, heights[name], reports)
        refused = {what: why for what, why in refusals.items() if what.startswith(f"{name} ")}
        summary.document["regions"][name]["refused"] = refused
        told_of = stories.get(name, [])
        summary.document["regions"][name]["meters"] = [story.document for story in told_of]
        for story in told_of:
            summary.check(story.holds, f"{name}: {story.sentence}")
            summary.stories.append(f"{name} {story.sentence}")
    _add_national(summary, heights, genesis, reports, told or Told())
    summary.document["checks"] = {"passed": len(summary.checks), "failed": summary.failures}
    return summary


@dataclass(frozen=True, slots=True)
class _Report:
    """What one node says, by chain."""

    totals: dict[str, dict[str, int]]
    held: dict[str, dict[str, int]]
    finality_ms: dict[str, FinalityTimes]
    state_roots: dict[str, str]
    settled: dict[str, dict[str, dict[str, str]]]
    filed: dict[str, dict[str, str]]
    shards: dict[str, ShardDetail]


def _read_node(
    client: Client, addresses: Sequence[bytes], heights: dict[str, int], day: str
) -> _Report:
    status, stats = client.status(), client.stats()
    settled = _settled(client, day)
    return _Report(
        totals={name: chain_totals(stats, name) for name in heights},
        held=holdings(client, addresses),
        finality_ms={row.chain: row.finality_ms for row in status.chains},
        state_roots={name: _state_root(client, name, height) for name, height in heights.items()},
        settled=settled,
        filed=_filed(client, day, settled),
        shards={name: client.shard(name) for name in heights if not client.spec(name).is_national},
    )


def _settled(client: Client, day: str) -> dict[str, dict[str, dict[str, str]]]:
    """By chain and territory: the day's settlement report's hash and state.

    A day that is not over yet has the hash that its report would have now.
    """
    distributors = {row.distributor: None for row in client.grid().territories}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for distributor in distributors:
        answer = client.ask("audit_getReports", DayReports, territory=distributor, day=day)
        for row in answer.items:
            told = {"hash": report_hash(row.report).hex(), "state": row.state}
            found.setdefault(row.chain, {})[row.territory] = told
    return found


def _filed(
    client: Client, day: str, settled: dict[str, dict[str, dict[str, str]]]
) -> dict[str, dict[str, str]]:
    """By chain and territory: the hash that the national chain has recorded for the day's report.

    Waits for those of closed reports, which a checkpoint brings there.
    """
    closed = {(chain, one) for chain, rows in settled.items() for one in closed_of(rows)}
    end = time.monotonic() + CATCH_UP_TIMEOUT_S
    while True:
        found: dict[str, dict[str, str]] = {}
        page = client.ask("shard_getSettlements", FiledReportPage, day=day, limit=100)
        for row in page.items:
            found.setdefault(row.shard, {})[row.territory] = row.report_hash.hex()
        missing = [place for place in closed if place[1] not in found.get(place[0], {})]
        if not missing or time.monotonic() > end:
            return found
        time.sleep(POLL_S)


def _add_region(
    summary: Summary,
    name: str,
    height: int,
    reports: dict[str, _Report | None],
) -> None:
    read = {node: report for node, report in reports.items() if report is not None}
    roots = ["" if report is None else report.state_roots[name] for report in reports.values()]
    first = next(iter(read.values()))
    totals, filed = first.totals[name], first.filed.get(name, {})
    finality = [report.finality_ms[name] for report in read.values()]
    summary.document["regions"][name] = {
        "height": height,
        "state_roots": roots,
        **{figure: totals[figure] for figure in _FIGURES},
        "carbon_issued_ucr": totals["carbon_ucr"],
        "reports": {
            territory: {**row, "recorded": filed.get(territory) == row["hash"]}
            for territory, row in first.settled[name].items()
        },
        "average_price_mthb": _ratio(totals["traded_uthb"], totals["traded_wh"]),
        # The middle node's: one that was away counts blocks as late that it only heard of late.
        "finality_ms_p50": median_low(one.p50 or 0 for one in finality),
        "finality_ms_p99": median_low(one.p99 or 0 for one in finality),
    }
    equal = len(set(roots)) == 1
    hashes = [report.settled[name] for report in read.values()]
    summary.check(
        all(one == hashes[0] for one in hashes),
        f"{name}: all {len(hashes)} nodes have the same settlement reports",
    )
    summary.check(equal, f"{name}: all {len(roots)} nodes have one state root at #{height}")
    for node, report in read.items():
        where = f"{name} on {node}"
        _check_node(summary, where, report, name)


def _add_national(
    summary: Summary,
    heights: dict[str, int],
    genesis: Genesis,
    reports: dict[str, _Report | None],
    told: Told,
) -> None:
    assert genesis.national is not None  # Every network that plays the day has one.
    name = genesis.national.name
    roots = ["" if report is None else report.state_roots[name] for report in reports.values()]
    read = {node: report for node, report in reports.items() if report is not None}
    shards = next(iter(read.values())).shards
    regions = summary.document["regions"]
    issued_ucr = {region: int(row["carbon_issued_ucr"]) for region, row in regions.items()}
    summary.document["national"] = {
        "chain": name,
        **national_document(heights[name], roots, shards, issued_ucr, told),
    }
    equal = len(set(roots)) == 1
    summary.check(equal, f"{name}: all {len(roots)} nodes have one state root at #{heights[name]}")
    for node, report in read.items():
        for holds, sentence in supply_checks(genesis, report.held, report.shards):
            summary.check(holds, f"{node}: {sentence}")
        for region, rows in report.settled.items():
            holds, sentence = filing_check(name, region, rows, report.filed.get(region, {}))
            summary.check(holds, f"{node}: {sentence}")


def _wait_answering(clients: Sequence[Client]) -> list[Client]:
    """Those that answer; one that has just been started again gets time to."""
    end = time.monotonic() + CATCH_UP_TIMEOUT_S
    while True:
        answering = [client for client in clients if heights_of(client)]
        if len(answering) == len(clients) or time.monotonic() > end:
            return answering
        time.sleep(POLL_S)


def _check_node(summary: Summary, where: str, report: _Report, name: str) -> None:
    """What one node's API says of one chain must add up, to the micro-baht and the Wh."""
    totals, held = report.totals[name], report.held[name]
    moved = moved_in(report.shards[name])
    money_uthb = held["thb_uthb"] + held["escrow_uthb"] + held["bond_uthb"]
    deposited_uthb = totals["deposited_uthb"] - totals["withdrawn_uthb"] + moved["thb_uthb"]
    summary.check(
        money_uthb == deposited_uthb,
        f"{where}: accounts hold {money_uthb} uTHB of {deposited_uthb} deposited",
    )
    energy_wh = held["energy_wh"] + held["energy_held_wh"]
    existing_wh = totals["minted_wh"] - totals["consumed_wh"] - totals["redeemed_wh"]
    existing_wh += moved["energy_wh"]
    summary.check(
        energy_wh == existing_wh,
        f"{where}: accounts hold {energy_wh} Wh of {existing_wh} minted or moved, not consumed",
    )
    settled_wh = totals["delivered_wh"] + totals["shortfall_wh"]
    summary.check(
        settled_wh == totals["traded_wh"],
        f"{where}: {settled_wh} Wh delivered or short of {totals['traded_wh']} traded",
    )
    carbon_ucr = totals["carbon_ucr"] - totals["carbon_retired_ucr"]
    summary.check(
        held["carbon_ucr"] == carbon_ucr,
        f"{where}: accounts hold {held['carbon_ucr']} of {carbon_ucr} micro-credits",
    )


def _common_heights(clients: Sequence[Client], chains: Sequence[str]) -> dict[str, int]:
    """Per chain the newest height now; waits until every node has it."""
    heads = [heights_of(client) for client in clients]
    wanted = {name: max(head.get(name, 0) for head in heads) for name in chains}
    end = time.monotonic() + CATCH_UP_TIMEOUT_S
    for client in clients:
        while time.monotonic() < end:  # After that its state root is missing, which is told.
            now = heights_of(client)
            if all(now.get(name, 0) >= height for name, height in wanted.items()):
                break
            time.sleep(POLL_S)
    return wanted


def _state_root(client: Client, chain: str, height: int) -> str:
    """The state root in the node's own block; "" where it has no such block."""
    try:
        return client.block(height, chain).header.state_root.hex()
    except RpcError:
        return ""


def _addresses(genesis: Genesis, profile: Profile) -> list[bytes]:
    """Every account that can hold anything in this network."""
    addresses = {TREASURY: None, TAX: None}
    for organisation in genesis.organisations:
        addresses[organisation.operator] = addresses[organisation.account] = None
    for allocation in genesis.allocations:
        addresses[allocation.account] = None
    addresses |= dict.fromkeys(national_accounts(genesis))
    for trader in profile.traders:
        addresses[trader.key.public_key] = None
    return list(addresses)


def _ratio(amount: int, quantity: int) -> int:
    return amount // quantity if quantity else 0
