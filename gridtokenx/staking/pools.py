"""Pools of stake: who has which part of a validator's gtx, and the order in which it is elected.

A pool is shares and gtx. Rewards raise what a share is worth and penalties lower it, so neither
touches the delegations. Every rounding is in favour of the pool. Source: protocols/governance.md 1.
"""

from __future__ import annotations

from dataclasses import replace

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.staking.model import (
    ARRIVING,
    BONDED,
    CONSENSUS_KEYS,
    DELEGATIONS,
    POOLED,
    RANKING,
    STAKING_PARAMETERS,
    VALIDATORS,
    Count,
    Delegation,
    OperatorReference,
    StakingParameters,
    Validator,
)

MAX_DELEGATIONS = 32  # Validators that one account may bond to; bounds what a ballot costs.
_DEFAULT = StakingParameters()
_NOTHING = Delegation(0)

# -- Questions -------------------------------------------------------------------------------------


def parameters(state: Reader) -> StakingParameters:
    """The numbers of staking that are in force."""
    return STAKING_PARAMETERS.get(state, b"") or _DEFAULT


def set_parameters(state: Overlay, value: StakingParameters) -> None:
    """Put them in force from the next rule on (genesis, governance)."""
    STAKING_PARAMETERS.put(state, b"", value)


def validator(state: Reader, operator: bytes) -> Validator:
    """A validator by its operator's account. Errors: VALIDATOR_NOT_FOUND."""
    found = VALIDATORS.get(state, operator)
    if found is None:
        detail = f"{format_address(operator)} operates no validator"
        raise Rejected(ErrorCode.VALIDATOR_NOT_FOUND, detail)
    return found


def validator_of_key(state: Reader, consensus_key: bytes) -> Validator | None:
    """The validator that signs, or signed, with a consensus key."""
    reference = CONSENSUS_KEYS.get(state, consensus_key)
    return None if reference is None else VALIDATORS.get(state, reference.operator)


def delegation(state: Reader, delegator: bytes, operator: bytes) -> Delegation:
    """An account's part of a pool; an empty one where it has none."""
    return DELEGATIONS.get(state, delegator + operator) or _NOTHING


def shares_of(state: Reader, delegator: bytes, operator: bytes) -> int:
    """An account's shares of a pool."""
    return delegation(state, delegator, operator).shares


def total_bonded_ugtx(state: Reader) -> int:
    """What all pools hold: the whole voting power. A number of its own, so that nobody can raise it
    by giving gtx to an account.
    """
    found = POOLED.get(state, b"")
    return 0 if found is None else found.number


def pool_ugtx(state: Reader, operator: bytes) -> int:
    """What the pool of an operator's validator holds; 0 for an account that operates none."""
    found = VALIDATORS.get(state, operator)
    return 0 if found is None else found.stake_ugtx


def shares_by_validator(state: Reader, delegator: bytes) -> list[tuple[bytes, int]]:
    """(operator, shares) of an account's delegations, its own pool included; at most 32."""
    return [(key[32:], one.shares) for key, one in DELEGATIONS.items(state, delegator)]


def delegations_of(state: Reader, delegator: bytes) -> list[tuple[bytes, int]]:
    """(operator, worth in ugtx) of an account's delegations, its own pool included; at most 32."""
    return [
        (operator, validator(state, operator).value_ugtx(shares))
        for operator, shares in shares_by_validator(state, delegator)
    ]


def self_bond_ugtx(state: Reader, entry: Validator) -> int:
    """What an operator has in the pool of its own validator."""
    return entry.value_ugtx(shares_of(state, entry.operator, entry.operator))


def ranked(state: Reader, limit: int, least_ugtx: int | None = None) -> list[Validator]:
    """At most `limit` electable validators, the greatest pool first, then by operator.

    Electable is who is not jailed and has `least_ugtx` of its own in its pool; None for the
    `min_self_bond_ugtx` in force.
    """
    least = parameters(state).min_self_bond_ugtx if least_ugtx is None else least_ugtx
    found: list[Validator] = []
    for _, reference in RANKING.items(state):
        if len(found) == limit:
            break
        entry = validator(state, reference.operator)
        if self_bond_ugtx(state, entry) >= least:
            found.append(entry)
    return found


# -- Changes ---------------------------------------------------------------------------------------


def store(state: Overlay, entry: Validator) -> None:
    """Write a validator, its rank, and what it means for the sum of all pools."""
    old = VALIDATORS.get(state, entry.operator)
    if old is not None:
        RANKING.delete(state, _rank(old))
    VALIDATORS.put(state, entry.operator, entry)
    if entry.stake_ugtx and not entry.is_jailed:
        RANKING.put(state, _rank(entry), OperatorReference(entry.operator))
    _add_to_sum(state, entry.stake_ugtx - (0 if old is None else old.stake_ugtx))


def forget(state: Overlay, entry: Validator) -> None:
    """Remove an empty validator; its consensus key may be registered again."""
    _add_to_sum(state, -pool_ugtx(state, entry.operator))
    RANKING.delete(state, _rank(entry))
    VALIDATORS.delete(state, entry.operator)
    CONSENSUS_KEYS.delete(state, entry.consensus_key)


def add_shares(state: Overlay, entry: Validator, delegator: bytes, amount_ugtx: int) -> Validator:
    """The pool with `amount_ugtx` more, and the delegation that it is worth.

    The caller moves the gtx and stores the result. Errors: OUT_OF_RANGE when the amount is worth no
    share, or the shares would leave 63 bits; NOT_PERMITTED for a 33rd delegation.
    """
    if entry.shares:
        shares = amount_ugtx * entry.shares // entry.stake_ugtx if entry.stake_ugtx else 0
    else:
        shares = amount_ugtx
    if not 0 < shares <= MAX_INT - entry.shares:
        detail = f"{amount_ugtx} ugtx would be {shares} shares of this pool, which it cannot issue"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
    old = delegation(state, delegator, entry.operator)
    if not old.shares and len(list(DELEGATIONS.items(state, delegator))) >= MAX_DELEGATIONS:
        detail = f"an account bonds to at most {MAX_DELEGATIONS} validators; unbond from one first"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    put_delegation(state, delegator, entry.operator, replace(old, shares=old.shares + shares))
    return replace(entry, stake_ugtx=entry.stake_ugtx + amount_ugtx, shares=entry.shares + shares)


def take_shares(
    state: Overlay, entry: Validator, delegator: bytes, amount_ugtx: int
) -> tuple[Validator, int]:
    """(the pool without, ugtx that leave it); what would be worth nothing goes too.

    At least `min_bond_ugtx` leave, or all that is free, so no dust is left behind that is too small
    to be moved. Errors: INSUFFICIENT_BALANCE when the delegation is worth less, or there is none;
    OUT_OF_RANGE for too little; NOT_PERMITTED for what came by redelegation and is locked.
    """
    own = delegation(state, delegator, entry.operator)
    free = own.shares - own.locked_shares
    worth = entry.value_ugtx(free)
    least = parameters(state).min_bond_ugtx
    if own.locked_shares and (not free or worth < amount_ugtx <= entry.value_ugtx(own.shares)):
        raise _locked(state, entry, delegator, worth)
    amount = min(amount_ugtx, worth) if worth < least else amount_ugtx
    if not own.shares or amount > worth:
        detail = f"{amount_ugtx} ugtx to take, {worth} are bonded to this validator"
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, detail)
    if amount < min(least, worth):
        detail = f"take at least {min(least, worth)} ugtx out of this pool, not {amount}"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
    burned = -(-amount * entry.shares // entry.stake_ugtx) if worth else free
    if not own.locked_shares and not replace(
        entry, stake_ugtx=entry.stake_ugtx - amount, shares=entry.shares - burned
    ).value_ugtx(own.shares - burned):
        # All goes, to the last ugtx that it is worth: an emptied pool keeps nothing.
        burned, amount = own.shares, worth
    put_delegation(state, delegator, entry.operator, replace(own, shares=own.shares - burned))
    left = replace(entry, stake_ugtx=entry.stake_ugtx - amount, shares=entry.shares - burned)
    return left, amount


def put_delegation(state: Overlay, delegator: bytes, operator: bytes, new: Delegation) -> None:
    """Write an account's part of a pool; without shares there is none."""
    if new.shares:
        DELEGATIONS.put(state, delegator + operator, new)
    else:
        DELEGATIONS.delete(state, delegator + operator)


def take_penalty(
    state: Overlay, entry: Validator, to: bytes, bps: int, of_bps: int = BPS
) -> tuple[Validator, int]:
    """(the pool without, ugtx moved to `to`): `bps` of the `of_bps` that the pool still has."""
    penalty = entry.stake_ugtx * bps // of_bps
    ledger.move(state, Asset.GTX, BONDED, to, penalty)
    return replace(entry, stake_ugtx=entry.stake_ugtx - penalty), penalty


def _locked(state: Reader, entry: Validator, delegator: bytes, free_ugtx: int) -> Rejected:
    key, _ = next(iter(ARRIVING.items(state, delegator + entry.operator)))
    detail = (
        f"{free_ugtx} ugtx of this delegation are free; the rest came by redelegation and answers "
        f"for its former validator, some of it until block {matures_of(key)}"
    )
    return Rejected(ErrorCode.NOT_PERMITTED, detail)


def matures_of(index_key: bytes) -> int:
    """The height in a key of LEAVING or ARRIVING."""
    return int.from_bytes(index_key[64:72])


def _add_to_sum(state: Overlay, change_ugtx: int) -> None:
    if change_ugtx:
        POOLED.put(state, b"", Count(total_bonded_ugtx(state) + change_ugtx))


def _rank(entry: Validator) -> bytes:
    return u64(MAX_INT - entry.stake_ugtx) + entry.operator
