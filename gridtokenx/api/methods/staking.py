"""Methods about stake: validators of the national chain, delegations, and where all gtx lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from gridtokenx.answers.fields import ADDRESS_EXAMPLE
from gridtokenx.answers.kinds import address, format_cursor
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.staking import (
    Delegation,
    Delegations,
    Redelegation,
    ScheduledWeight,
    StakePool,
    Unbonding,
    ValidatorDetail,
    ValidatorPage,
    ValidatorRow,
)
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.table import (
    AccountId,
    Method,
    NoParameters,
    PageCursor,
    PageLimit,
    Route,
)
from gridtokenx.chain.validator_sets import epoch_start, sets_from
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import u64
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


@dataclass(frozen=True, slots=True)
class ValidatorsParameters:
    """Which validators."""

    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class ValidatorParameters:
    """Whose validator."""

    operator: Annotated[
        bytes, Rule("the operator's account, gtx1...", address(), example=ADDRESS_EXAMPLE)
    ]


@dataclass(frozen=True, slots=True)
class DelegationsParameters:
    """Whose stake."""

    address: AccountId


def get_validators(context: Context, asked: ValidatorsParameters) -> ValidatorPage:
    """Greatest pool first; a cursor is a place in that order, so it stays good as pools change."""
    status = context.national()
    after = asked.cursor
    if after and len(after) != 40:
        raise ApiError(ErrorCode.MALFORMED, "this cursor does not come from this list")
    ranked = sorted(
        (u64(MAX_INT - one.stake_ugtx) + one.operator, one)
        for _, one in context.table(status, VALIDATORS)
    )
    rest = [(place, one) for place, one in ranked if place > after]
    page = rest[: asked.limit]
    return ValidatorPage(
        chain=status.spec.name,
        height=status.head.height,
        set_hash=status.validators.hash,
        total_weight=status.validators.total_weight,
        items=tuple(ValidatorRow(**_in_short(status, one)) for _, one in page),
        next_cursor=format_cursor(page[-1][0] if len(rest) > asked.limit else None),
    )


def get_validator(context: Context, asked: ValidatorParameters) -> ValidatorDetail:
    status = context.national()
    entry = pools.validator(status.view, asked.operator)
    following = sets_from(status.view, status.head.height + 1, status.spec.genesis.epoch_blocks)
    absences = ABSENCES.get(status.view, entry.operator)
    return ValidatorDetail(
        chain=status.spec.name,
        height=status.head.height,
        **_in_short(status, entry),
        shares=entry.shares,
        changed_height=entry.changed_height,
        open_entries=entry.open_entries,
        slashed_bps=entry.slashed_bps,
        absent_blocks=0 if absences is None else absences.number,
        offences=entry.offences,
        weights=tuple(
            ScheduledWeight(
                first_height=one.first_height,
                weight=_weight(one.validators.members, entry.consensus_key),
            )
            for one in following.scheduled
        ),
    )


def get_delegations(context: Context, asked: DelegationsParameters) -> Delegations:
    status = context.national()
    who = asked.address
    delegations = tuple(
        _delegation(status, who, operator)
        for operator, _ in pools.shares_by_validator(status.view, who)
    )
    leaving = tuple(
        Unbonding(
            validator=entry.validator,
            amount_ugtx=entry.amount_ugtx,
            started_height=entry.started_height,
            matures_height=matures,
        )
        for matures, entry in _leaving(status, who)
    )
    moving = tuple(
        Redelegation(
            source=entry.source,
            destination=entry.destination,
            amount_ugtx=_worth(status, entry),
            started_height=entry.started_height,
            free_height=matures,
        )
        for matures, entry in _moving(status, who)
    )
    return Delegations(
        chain=status.spec.name,
        height=status.head.height,
        address=who,
        bonded_ugtx=sum(one.amount_ugtx for one in delegations),
        unbonding_ugtx=sum(one.amount_ugtx for one in leaving),
        unbonding_blocks=pools.parameters(status.view).unbonding_blocks,
        delegations=delegations,
        unbonding=leaving[:100],
        redelegating=moving[:100],
    )


def _delegation(status: ChainStatus, who: bytes, operator: bytes) -> Delegation:
    entry = pools.validator(status.view, operator)
    own = pools.delegation(status.view, who, operator)
    free = entry.value_ugtx(own.shares - own.locked_shares)
    amount = entry.value_ugtx(own.shares)
    return Delegation(
        validator=operator,
        moniker=entry.moniker,
        amount_ugtx=amount,
        locked_ugtx=amount - free,
        shares=own.shares,
    )


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


def get_pool(context: Context, _asked: NoParameters) -> StakePool:
    status = context.national()
    view, height = status.view, status.head.height
    epoch_blocks = status.spec.genesis.epoch_blocks
    entries = [one for _, one in context.table(status, VALIDATORS)]
    following = sets_from(view, height + 1, epoch_blocks).scheduled
    return StakePool(
        chain=status.spec.name,
        height=status.head.height,
        bonded_ugtx=pools.total_bonded_ugtx(view),
        unbonding_ugtx=ledger.account(view, UNBONDING).gtx_ugtx,
        reward_reserve_ugtx=ledger.account(view, REWARD_RESERVE).gtx_ugtx,
        treasury_ugtx=ledger.account(view, TREASURY).gtx_ugtx,
        validators=len(entries),
        jailed=sum(one.is_jailed for one in entries),
        in_set=len(status.validators.members),
        epoch_blocks=epoch_blocks,
        next_epoch_height=epoch_start(height, epoch_blocks) + epoch_blocks,
        next_set_height=following[1].first_height if len(following) > 1 else None,
        parameters=pools.parameters(view),
    )


def _in_short(status: ChainStatus, entry: Validator) -> dict[str, Any]:
    """Fields of a `ValidatorRow`."""
    weight = _weight(status.validators.members, entry.consensus_key)
    until = entry.jailed_until_height
    return {
        "operator": entry.operator,
        "moniker": entry.moniker,
        "consensus_key": entry.consensus_key,
        "status": _standing(entry, weight),
        "weight": weight,
        "stake_ugtx": entry.stake_ugtx,
        "self_bond_ugtx": entry.value_ugtx(
            pools.shares_of(status.view, entry.operator, entry.operator)
        ),
        "commission_bps": entry.commission_bps,
        "jailed_until_height": until if 0 < until < FOR_EVER else None,
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


METHODS = (
    Method(
        "stake_getValidators",
        get_validators,
        "Validators of the national chain and candidates, the greatest pool first.",
        routes=(Route("GET", "/staking/validators"),),
        cost=5,
    ),
    Method(
        "stake_getValidator",
        get_validator,
        "A validator by its operator's account: pool, offences, weight now and in sets to come.",
        routes=(Route("GET", "/staking/validators/{operator}"),),
        cost=2,
    ),
    Method(
        "stake_getDelegations",
        get_delegations,
        "What an account has bonded, to whom, what is paid out to it and what it has redelegated.",
        routes=(Route("GET", "/accounts/{address}/delegations"),),
        cost=5,
    ),
    Method(
        "stake_getPool",
        get_pool,
        "All stake together, what pays rewards, and when the validator set changes next.",
        routes=(Route("GET", "/staking/pool"),),
        cost=5,
    ),
)
