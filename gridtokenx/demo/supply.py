"""What the national chain says of all chains: nothing appears or vanishes between them.

Source: protocols/interchain.md 4.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gridtokenx.answers.account import AccountBalance, BalancesOnChain
from gridtokenx.answers.shard import ShardDetail
from gridtokenx.chain.genesis import Genesis
from gridtokenx.client import Client, RpcError
from gridtokenx.demo.story import NEW_VALUE, PARAMETER, Told
from gridtokenx.governance.model import DEPOSITS
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.staking.model import BONDED, FEES, REWARD_RESERVE, UNBONDING

ONE_BLOCK_TIMEOUT_S = 30.0
_HOLDINGS = (
    "energy_wh",
    "energy_held_wh",
    "thb_uthb",
    "escrow_uthb",
    "bond_uthb",
    "gtx_ugtx",
    "carbon_ucr",
)


def holdings(client: Client, addresses: Sequence[bytes]) -> dict[str, dict[str, int]]:
    """By chain: what all accounts hold together, in whole units. Errors: RpcError.

    Every national block moves gtx between accounts of that chain alone: those are of one block.
    """
    moving = national_accounts(client.genesis())
    others = [one for one in addresses if one not in moving]
    sums: dict[str, dict[str, int]] = {}
    for row in [*_rows(client, others), *_rows_of_one_block(client, moving)]:
        held = sums.setdefault(row.chain, dict.fromkeys(_HOLDINGS, 0))
        for name in _HOLDINGS:
            held[name] += getattr(row, name)
    return sums


def _rows(client: Client, addresses: Sequence[bytes]) -> list[BalancesOnChain]:
    """Each account's balances on each chain. Errors: RpcError."""
    accounts = [{"address": format_address(one)} for one in addresses]
    rows: list[BalancesOnChain] = []
    for answer in client.ask_many("account_getBalance", AccountBalance, accounts):
        if not isinstance(answer, RpcError):
            rows += answer.chains
        elif answer.code != ErrorCode.ACCOUNT_NOT_FOUND:  # Nobody has paid the address yet.
            raise answer
    return rows


def _rows_of_one_block(client: Client, addresses: Sequence[bytes]) -> list[BalancesOnChain]:
    """As `_rows`, asked again until no block of a chain came in between, for a while."""
    end = time.monotonic() + ONE_BLOCK_TIMEOUT_S
    while True:
        rows = _rows(client, addresses)
        places = {(row.chain, row.height) for row in rows}
        if len(places) == len({chain for chain, _ in places}) or time.monotonic() > end:
            return rows


def moved_in(shard: ShardDetail) -> dict[str, int]:
    """By asset: what came to a region from other chains less what left it, nothing being on its
    way: what the national chain holds for it, less what it has made itself or got at genesis.
    """
    escrow, made = shard.escrow, shard.reported
    energy_made_wh = made.energy_minted_wh - made.energy_burned_wh
    thb_made_uthb = made.thb_held_uthb + made.thb_departed_uthb - made.thb_arrived_uthb
    return {
        "energy_wh": escrow.energy_wh - energy_made_wh,
        "thb_uthb": escrow.thb_uthb - thb_made_uthb,
    }


def supply_checks(
    genesis: Genesis, held: Mapping[str, Mapping[str, int]], shards: Mapping[str, ShardDetail]
) -> Iterator[tuple[bool, str]]:
    """Whether all chains together hold what there is, by one node's API. `held` by chain."""
    national = genesis.national
    assert national is not None  # The caller has looked.
    at_home = held[national.name]
    escrowed = sum(shard.escrow.gtx_ugtx for shard in shards.values())
    supply = len(genesis.chains) * sum(one.gtx_ugtx for one in genesis.allocations)
    supply += sum(one.gtx_ugtx for one in national.allocations) + national.reward_reserve_ugtx
    supply += sum(one.self_bond_ugtx for one in national.stakes)
    both = at_home["gtx_ugtx"] + escrowed
    told = f"{national.name}'s accounts and all escrow hold {both} of {supply} ugtx"
    yield both == supply, told
    for asset in ("energy_wh", "thb_uthb"):
        moved = sum(moved_in(shard)[asset] for shard in shards.values()) + at_home[asset]
        yield moved == 0, f"all chains together have {moved} of {asset} that no chain has made"
    for name, shard in shards.items():
        on_it, escrow = held[name]["gtx_ugtx"], shard.escrow.gtx_ugtx
        yield on_it == escrow, f"{name}'s accounts hold {on_it} of {escrow} ugtx in its escrow"


def closed_of(reports: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The hashes of a region's closed settlement reports, by territory."""
    return {name: one["hash"] for name, one in reports.items() if one["state"] == "closed"}


def filing_check(
    national: str,
    region: str,
    reports: Mapping[str, Mapping[str, str]],
    filed: Mapping[str, str],
) -> tuple[bool, str]:
    """Whether the national chain has recorded the very hashes of a region's closed reports."""
    closed = closed_of(reports)
    recorded = [name for name, told in closed.items() if filed.get(name) == told]
    told = f"{national} has recorded {len(recorded)} of {region}'s {len(closed)} closed reports"
    return len(recorded) == len(closed), told


def national_document(
    height: int,
    roots: list[str],
    shards: Mapping[str, ShardDetail],
    issued_ucr: Mapping[str, int],
    told: Told,
) -> dict[str, Any]:
    """The `national` part of the summary. `issued_ucr`: carbon credits issued by region."""
    return {
        "height": height,
        "state_roots": roots,
        "messages": {
            name: {"up": shard.taken_up, "down": shard.sent_down} for name, shard in shards.items()
        },
        "vote": {
            "parameter": PARAMETER,
            "new_value": NEW_VALUE,
            "in_force_height": told.national_height,
            "credits_ucr": {
                name: {"before": before, "after": issued_ucr[name] - before}
                for name, before in told.credits_before_ucr.items()
            },
        },
        "transfers": {asset: amount for asset, (amount, _) in told.transfers.items()},
    }


def national_accounts(genesis: Genesis) -> list[bytes]:
    """The accounts that only the national chain has."""
    if genesis.national is None:
        return []
    owners = [one.account for one in genesis.national.allocations]
    operators = [one.operator for one in genesis.national.stakes]
    return [*owners, *operators, BONDED, UNBONDING, REWARD_RESERVE, FEES, DEPOSITS]
