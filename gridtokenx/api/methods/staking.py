"""Methods about stake: validators of the national chain, delegations, and where all gtx lies."""

from __future__ import annotations

from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import document
from gridtokenx.api.errors import ApiError
from gridtokenx.api.kinds import address, format_cursor
from gridtokenx.api.table import CURSOR, LIMIT, Arguments, Method, Param, Route, shape
from gridtokenx.chain.validator_sets import epoch_start, sets_from
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import u64
from gridtokenx.primitives.types import format_address
from gridtokenx.staking import pools
from gridtokenx.staking.model import (
    ABSENCES,
    ARRIVING,
    FOR_EVER,
    LEAVING,
    REDELEGATIONS,
    REWARD_RESERVE,
    UNBONDING,
    UNBONDINGS,
    VALIDATORS,
    RedelegationEntry,
    UnbondingEntry,
    Validator,
)
from gridtokenx.views.status import ChainStatus


def get_validators(context: Context, arguments: Arguments) -> dict[str, Any]:
    """Greatest pool first; a cursor is a place in that order, so it stays good as pools change."""
    status = context.national()
    after, limit = arguments["cursor"], arguments["limit"]
    if after and len(after) != 40:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    ranked = sorted(
        (u64(MAX_INT - one.stake_ugtx) + one.operator, one)
        for _, one in context.table(status, VALIDATORS)
    )
    rest = [(place, one) for place, one in ranked if place > after]
    page = rest[:limit]
    return {
        **_as_of(status),
        "set_hash": status.validators.hash.hex(),
        "total_weight": str(status.validators.total_weight),
        "items": [_validator_document(status, one) for _, one in page],
        "next_cursor": format_cursor(page[-1][0] if len(rest) > limit else None),
    }


def get_validator(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    entry = pools.validator(status.view, arguments["operator"])
    following = sets_from(status.view, status.head.height + 1, status.spec.genesis.epoch_blocks)
    absences = ABSENCES.get(status.view, entry.operator)
    return {
        **_as_of(status),
        **_validator_document(status, entry),
        "shares": str(entry.shares),
        "changed_height": str(entry.changed_height),
        "open_entries": entry.open_entries,
        "slashed_bps": entry.slashed_bps,
        "absent_blocks": 0 if absences is None else absences.number,
        "offences": [document(one) for one in entry.offences],
        "weights": [
            {
                "first_height": str(one.first_height),
                "weight": str(_weight(one.validators.members, entry.consensus_key)),
            }
            for one in following.scheduled
        ],
    }


def get_delegations(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    who = arguments["address"]
    unbonding_blocks = pools.parameters(status.view).unbonding_blocks
    held = pools.shares_by_validator(status.view, who)
    delegations = [_delegation_document(status, who, operator) for operator, _ in held]
    leaving = [
        {
            "validator": format_address(entry.validator),
            "amount_ugtx": str(entry.amount_ugtx),
            "started_height": str(entry.started_height),
            "matures_height": str(matures),
        }
        for matures, entry in _leaving(status, who)
    ]
    moving = [
        {
            "source": format_address(entry.source),
            "destination": format_address(entry.destination),
            "amount_ugtx": str(_worth(status, entry)),
            "started_height": str(entry.started_height),
            "free_height": str(matures),
        }
        for matures, entry in _moving(status, who)
    ]
    return {
        **_as_of(status),
        "address": format_address(who),
        "bonded_ugtx": str(sum(int(one["amount_ugtx"]) for one in delegations)),
        "unbonding_ugtx": str(sum(int(one["amount_ugtx"]) for one in leaving)),
        "unbonding_blocks": str(unbonding_blocks),
        "delegations": delegations,
        "unbonding": leaving[:100],
        "redelegating": moving[:100],
    }


def _delegation_document(status: ChainStatus, who: bytes, operator: bytes) -> dict[str, Any]:
    entry = pools.validator(status.view, operator)
    own = pools.delegation(status.view, who, operator)
    free = entry.value_ugtx(own.shares - own.locked_shares)
    amount = entry.value_ugtx(own.shares)
    return {
        "validator": format_address(operator),
        "moniker": entry.moniker,
        "amount_ugtx": str(amount),
        "locked_ugtx": str(amount - free),
        "shares": str(own.shares),
    }


def _leaving(status: ChainStatus, who: bytes) -> list[tuple[int, UnbondingEntry]]:
    """(height of payment, entry) of an account, the earliest first."""
    places = [key for key, _ in LEAVING.items(status.view, who)]
    found = [
        (pools.matures_of(key), UNBONDINGS.get(status.view, key[64:] + key[:64])) for key in places
    ]
    return sorted(((matures, one) for matures, one in found if one is not None), key=_height)


def _moving(status: ChainStatus, who: bytes) -> list[tuple[int, RedelegationEntry]]:
    """(height at which it is free, entry) of an account, the earliest first."""
    places = [key for key, _ in ARRIVING.items(status.view, who)]
    found = [
        (
            pools.matures_of(key),
            REDELEGATIONS.get(status.view, key[64:80] + key[:64] + key[80:]),
        )
        for key in places
    ]
    return sorted(((matures, one) for matures, one in found if one is not None), key=_height)


def _height(row: tuple[int, object]) -> int:
    return row[0]


def _worth(status: ChainStatus, entry: RedelegationEntry) -> int:
    return pools.validator(status.view, entry.destination).value_ugtx(entry.shares)


def get_pool(context: Context, _arguments: Arguments) -> dict[str, Any]:
    status = context.national()
    view, height = status.view, status.head.height
    epoch_blocks = status.spec.genesis.epoch_blocks
    entries = [one for _, one in context.table(status, VALIDATORS)]
    following = sets_from(view, height + 1, epoch_blocks).scheduled
    return {
        **_as_of(status),
        "bonded_ugtx": str(pools.total_bonded_ugtx(view)),
        "unbonding_ugtx": str(ledger.account(view, UNBONDING).gtx_ugtx),
        "reward_reserve_ugtx": str(ledger.account(view, REWARD_RESERVE).gtx_ugtx),
        "treasury_ugtx": str(ledger.account(view, TREASURY).gtx_ugtx),
        "validators": len(entries),
        "jailed": sum(one.is_jailed for one in entries),
        "in_set": len(status.validators.members),
        "epoch_blocks": str(epoch_blocks),
        "next_epoch_height": str(epoch_start(height, epoch_blocks) + epoch_blocks),
        "next_set_height": str(following[1].first_height) if len(following) > 1 else None,
        "parameters": document(pools.parameters(view)),
    }


def _validator_document(status: ChainStatus, entry: Validator) -> dict[str, Any]:
    own = entry.value_ugtx(pools.shares_of(status.view, entry.operator, entry.operator))
    weight = _weight(status.validators.members, entry.consensus_key)
    until = entry.jailed_until_height
    return {
        "operator": format_address(entry.operator),
        "moniker": entry.moniker,
        "consensus_key": format_address(entry.consensus_key),
        "status": _standing(entry, weight),
        "weight": str(weight),
        "stake_ugtx": str(entry.stake_ugtx),
        "self_bond_ugtx": str(own),
        "commission_bps": entry.commission_bps,
        "jailed_until_height": str(until) if 0 < until < FOR_EVER else None,
    }


def _standing(entry: Validator, weight: int) -> str:
    """`active` signs blocks now. A jailed one may still do so until the next set is in force."""
    if entry.jailed_until_height == FOR_EVER:
        return "excluded"
    if entry.is_jailed:
        return "jailed"
    return "active" if weight else "candidate"


def _weight(members: Any, consensus_key: bytes) -> int:
    return sum(member.weight for member in members if member.public_key == consensus_key)


def _as_of(status: ChainStatus) -> dict[str, Any]:
    return {"chain": status.spec.name, "height": str(status.head.height), "finalized": True}


_HEAD = {"chain": "text", "height": "decimal", "finalized": "bool"}
_VALIDATOR = {
    "operator": "text",
    "moniker": "text",
    "consensus_key": "text",
    "status": "text",
    "weight": "decimal",
    "stake_ugtx": "decimal",
    "self_bond_ugtx": "decimal",
    "commission_bps": "number",
    "jailed_until_height": "decimal?",
}

METHODS = (
    Method(
        "stake_getValidators",
        get_validators,
        "Validators of the national chain and candidates, the greatest pool first.",
        shape(
            **_HEAD,
            set_hash="hex",
            total_weight="decimal",
            items="list",
            next_cursor="text?",
        ),
        (LIMIT, CURSOR),
        (Route("GET", "/staking/validators"),),
        cost=5,
    ),
    Method(
        "stake_getValidator",
        get_validator,
        "A validator by its operator's account: pool, offences, weight now and in sets to come.",
        shape(
            **_HEAD,
            **_VALIDATOR,
            shares="decimal",
            changed_height="decimal",
            open_entries="number",
            slashed_bps="number",
            absent_blocks="number",
            offences="list",
            weights="list",
        ),
        (Param("operator", address(), "the operator's account, gtx1...", required=True),),
        (Route("GET", "/staking/validators/{operator}"),),
        cost=2,
    ),
    Method(
        "stake_getDelegations",
        get_delegations,
        "What an account has bonded, to whom, what is paid out to it and what it has redelegated.",
        shape(
            **_HEAD,
            address="text",
            bonded_ugtx="decimal",
            unbonding_ugtx="decimal",
            unbonding_blocks="decimal",
            delegations="list",
            unbonding="list",
            redelegating="list",
        ),
        (Param("address", address(), "account, gtx1...", required=True),),
        (Route("GET", "/accounts/{address}/delegations"),),
        cost=5,
    ),
    Method(
        "stake_getPool",
        get_pool,
        "All stake together, what pays rewards, and when the validator set changes next.",
        shape(
            **_HEAD,
            bonded_ugtx="decimal",
            unbonding_ugtx="decimal",
            reward_reserve_ugtx="decimal",
            treasury_ugtx="decimal",
            validators="number",
            jailed="number",
            in_set="number",
            epoch_blocks="decimal",
            next_epoch_height="decimal",
            next_set_height="decimal?",
            parameters="object",
        ),
        (),
        (Route("GET", "/staking/pool"),),
        cost=5,
    ),
)
