"""What the national chain says of all chains: nothing appears or vanishes between them.

Shards are documents of `shard_get`. Source: protocols/interchain.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gridtokenx.chain.genesis import Genesis
from gridtokenx.cluster.story import NEW_VALUE, PARAMETER, Told
from gridtokenx.governance.model import DEPOSITS
from gridtokenx.staking.model import BONDED, FEES, REWARD_RESERVE, UNBONDING

Shard = dict[str, Any]


def moved_in(shard: Shard) -> dict[str, int]:
    """By asset: what came to a region from other chains less what left it, nothing being on its
    way: what the national chain holds for it, less what it has made itself or got at genesis.
    """
    escrow, made = shard["escrow"], shard["reported"]
    energy_made_wh = int(made["energy_minted_wh"]) - int(made["energy_burned_wh"])
    thb_made_uthb = (
        int(made["thb_held_uthb"]) + int(made["thb_departed_uthb"]) - int(made["thb_arrived_uthb"])
    )
    return {
        "energy_wh": int(escrow["energy_wh"]) - energy_made_wh,
        "thb_uthb": int(escrow["thb_uthb"]) - thb_made_uthb,
    }


def supply_checks(
    genesis: Genesis, held: Mapping[str, Mapping[str, int]], shards: Mapping[str, Shard]
) -> Iterator[tuple[bool, str]]:
    """Whether all chains together hold what there is, by one node's API. `held` by chain."""
    national = genesis.national
    assert national is not None  # The caller has looked.
    at_home = held[national.name]
    escrowed = sum(int(shard["escrow"]["gtx_ugtx"]) for shard in shards.values())
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
        on_it, escrow = held[name]["gtx_ugtx"], int(shard["escrow"]["gtx_ugtx"])
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
    shards: Mapping[str, Shard],
    issued_ucr: Mapping[str, int],
    told: Told,
) -> dict[str, Any]:
    """The `national` part of the summary. `issued_ucr`: carbon credits issued by region."""
    return {
        "height": height,
        "state_roots": roots,
        "messages": {
            name: {"up": int(shard["taken_up"]), "down": int(shard["sent_down"])}
            for name, shard in shards.items()
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
