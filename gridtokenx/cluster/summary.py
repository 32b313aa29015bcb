"""Sum a run of the demonstration day up, and check over every node's API that nothing was lost.

All figures are read when everything is settled and no transaction is under way, so that answers
of different nodes are of the same state.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gridtokenx.chain.genesis import Genesis
from gridtokenx.client import Client, RpcError
from gridtokenx.cluster.day import chain_totals
from gridtokenx.cluster.network import Member
from gridtokenx.cluster.profile import Profile
from gridtokenx.ledger.model import TAX, TREASURY
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address

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
)
_HOLDINGS = (
    "energy_wh",
    "energy_held_wh",
    "thb_uthb",
    "escrow_uthb",
    "bond_uthb",
    "gtx_ugtx",
    "carbon_ucr",
)


@dataclass(slots=True)
class Summary:
    """The result: `document` is what `--json` prints, `failures` the checks that do not hold."""

    document: dict[str, Any]
    checks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def check(self, holds: bool, sentence: str) -> None:
        """Note a check."""
        (self.checks if holds else self.failures).append(sentence)


def summarize(
    genesis: Genesis, members: Sequence[Member], profile: Profile, wall_s: float
) -> Summary:
    """Read every node and check state roots, money and energy. Errors: NodeUnreachable."""
    clients = [Client(member.api_url, genesis=genesis) for member in members]
    try:
        heights = _common_heights(clients, genesis.chain_names)
        status = [client.status() for client in clients]
        stats = [client.stats() for client in clients]
        balances = [_balances(client, _addresses(genesis, profile)) for client in clients]
        roots = {
            name: [_state_root(client, name, heights[name]) for client in clients]
            for name in genesis.chain_names
        }
    finally:
        for client in clients:
            client.close()
    summary = Summary({"nodes": len(members), "wall_s": round(wall_s, 1), "regions": {}})
    for name in genesis.chain_names:
        totals = [chain_totals(answer, name) for answer in stats]
        finality = [_chain_row(answer, name)["finality_ms"] for answer in status]
        summary.document["regions"][name] = {
            "height": heights[name],
            "state_roots": roots[name],
            **{figure: totals[0][figure] for figure in _FIGURES},
            "average_price_mthb": _ratio(totals[0]["traded_uthb"], totals[0]["traded_wh"]),
            "finality_ms_p50": max(one["p50"] or 0 for one in finality),
            "finality_ms_p99": max(one["p99"] or 0 for one in finality),
        }
        equal = len(set(roots[name])) == 1
        summary.check(
            equal, f"{name}: all {len(clients)} nodes have one state root at #{heights[name]}"
        )
        for member, sums, held in zip(members, totals, balances, strict=True):
            _check_node(summary, f"{name} on {member.name}", genesis, sums, held[name])
    summary.document["checks"] = {
        "passed": len(summary.checks),
        "failed": summary.failures,
    }
    return summary


def _check_node(
    summary: Summary, where: str, genesis: Genesis, totals: dict[str, int], held: dict[str, int]
) -> None:
    """What one node's API says of one chain must add up, to the micro-baht and the Wh."""
    money_uthb = held["thb_uthb"] + held["escrow_uthb"] + held["bond_uthb"]
    deposited_uthb = totals["deposited_uthb"]
    summary.check(
        money_uthb == deposited_uthb,
        f"{where}: accounts hold {money_uthb} uTHB of {deposited_uthb} deposited",
    )
    energy_wh = held["energy_wh"] + held["energy_held_wh"]
    existing_wh = totals["minted_wh"] - totals["consumed_wh"]
    summary.check(
        energy_wh == existing_wh,
        f"{where}: accounts hold {energy_wh} Wh of {existing_wh} minted and not consumed",
    )
    settled_wh = totals["delivered_wh"] + totals["shortfall_wh"]
    summary.check(
        settled_wh == totals["traded_wh"],
        f"{where}: {settled_wh} Wh delivered or short of {totals['traded_wh']} traded",
    )
    gtx_ugtx = sum(allocation.gtx_ugtx for allocation in genesis.allocations)
    summary.check(
        held["gtx_ugtx"] == gtx_ugtx,
        f"{where}: accounts hold {held['gtx_ugtx']} of {gtx_ugtx} ugtx",
    )
    summary.check(
        held["carbon_ucr"] == totals["carbon_ucr"],
        f"{where}: accounts hold {held['carbon_ucr']} of {totals['carbon_ucr']} micro-credits",
    )


def _common_heights(clients: Sequence[Client], chains: Sequence[str]) -> dict[str, int]:
    """Per chain the newest height now; waits until every node has it. Errors: RpcError."""
    heads = [client.heads() for client in clients]
    wanted = {name: max(int(head[name]["height"]) for head in heads) for name in chains}
    end = time.monotonic() + CATCH_UP_TIMEOUT_S
    for client in clients:
        while any(int(client.heads()[name]["height"]) < wanted[name] for name in chains):
            if time.monotonic() > end:
                break  # Its state root will be missing, and the summary says so.
            time.sleep(POLL_S)
    return wanted


def _state_root(client: Client, chain: str, height: int) -> str:
    """The state root in the node's own block; "" where it has no such block."""
    try:
        header: dict[str, Any] = client.block(height, chain)["header"]
    except RpcError:
        return ""
    return str(header["state_root"])


def _addresses(genesis: Genesis, profile: Profile) -> list[bytes]:
    """Every account that can hold anything in this network."""
    addresses = {TREASURY: None, TAX: None}
    for organisation in genesis.organisations:
        addresses[organisation.operator] = addresses[organisation.account] = None
    for allocation in genesis.allocations:
        addresses[allocation.account] = None
    for trader in profile.traders:
        addresses[trader.key.public_key] = None
    return list(addresses)


def _balances(client: Client, addresses: Sequence[bytes]) -> dict[str, dict[str, int]]:
    """By chain: the sums over all accounts, in whole units. Errors: RpcError."""
    calls = [("account_getBalance", {"address": format_address(one)}) for one in addresses]
    sums: dict[str, dict[str, int]] = {}
    for answer in client.call_many(calls):
        if isinstance(answer, RpcError):
            if answer.code != ErrorCode.ACCOUNT_NOT_FOUND:  # Nobody has paid the address yet.
                raise answer
            continue
        for row in answer["chains"]:
            held = sums.setdefault(row["chain"], dict.fromkeys(_HOLDINGS, 0))
            for name in _HOLDINGS:
                held[name] += int(row[name])
    return sums


def _chain_row(status: dict[str, Any], chain: str) -> dict[str, Any]:
    row: dict[str, Any] = next(one for one in status["chains"] if one["chain"] == chain)
    return row


def _ratio(amount: int, quantity: int) -> int:
    return amount // quantity if quantity else 0
