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
    BONDED,
    CONSENSUS_KEYS,
    DELEGATIONS,
    PARAMETERS,
    RANKING,
    VALIDATORS,
    Delegation,
    OperatorReference,
    StakingParameters,
    Validator,
)

MAX_DELEGATIONS = 32  # Validators that one account may bond to; bounds what a vote costs to count.
_DEFAULT = StakingParameters()

# Questions


def parameters(state: Reader) -> StakingParameters:
    """The numbers of staking that are in force."""
    return PARAMETERS.get(state, b"") or _DEFAULT


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


def shares_of(state: Reader, delegator: bytes, operator: bytes) -> int:
    """An account's shares of a pool."""
    found = DELEGATIONS.get(state, delegator + operator)
    return 0 if found is None else found.shares


def total_bonded_ugtx(state: Reader) -> int:
    """What all pools hold: the whole voting power."""
    return ledger.account(state, BONDED).gtx_ugtx


def pool_ugtx(state: Reader, operator: bytes) -> int:
    """What the pool of an operator's validator holds; 0 for an account that operates none."""
    found = VALIDATORS.get(state, operator)
    return 0 if found is None else found.stake_ugtx


def delegations_of(state: Reader, delegator: bytes) -> list[tuple[bytes, int]]:
    """(operator, worth in ugtx) of an account's delegations, its own pool included; at most 32."""
    return [
        (key[32:], validator(state, key[32:]).value_ugtx(delegation.shares))
        for key, delegation in DELEGATIONS.items(state, delegator)
    ]


def ranked(state: Reader, limit: int) -> list[Validator]:
    """At most `limit` electable validators, the greatest pool first, then by operator.

    Electable is who is not jailed and has `min_self_bond_ugtx` of its own in its pool.
    """
    least = parameters(state).min_self_bond_ugtx
    found: list[Validator] = []
    for _, reference in RANKING.items(state):
        if len(found) == limit:
            break
        entry = validator(state, reference.operator)
        if entry.value_ugtx(shares_of(state, entry.operator, entry.operator)) >= least:
            found.append(entry)
    return found


# Changes


def store(state: Overlay, entry: Validator) -> None:
    """Write a validator and its rank."""
    old = VALIDATORS.get(state, entry.operator)
    if old is not None:
        RANKING.delete(state, _rank(old))
    VALIDATORS.put(state, entry.operator, entry)
    if entry.stake_ugtx and not entry.is_jailed:
        RANKING.put(state, _rank(entry), OperatorReference(entry.operator))


def forget(state: Overlay, entry: Validator) -> None:
    """Remove an empty validator; its consensus key may be registered again."""
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
    old = shares_of(state, delegator, entry.operator)
    if not old and len(list(DELEGATIONS.items(state, delegator))) >= MAX_DELEGATIONS:
        detail = f"an account bonds to at most {MAX_DELEGATIONS} validators; unbond from one first"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    DELEGATIONS.put(state, delegator + entry.operator, Delegation(old + shares))
    return replace(entry, stake_ugtx=entry.stake_ugtx + amount_ugtx, shares=entry.shares + shares)


def take_shares(
    state: Overlay, entry: Validator, delegator: bytes, amount_ugtx: int
) -> tuple[Validator, int]:
    """(the pool without, ugtx that leave it); what would be worth nothing goes too.

    Errors: INSUFFICIENT_BALANCE when the delegation is worth less, or there is none.
    """
    own = shares_of(state, delegator, entry.operator)
    worth = entry.value_ugtx(own)
    if not own or amount_ugtx > worth > 0:
        detail = f"{amount_ugtx} ugtx to unbond, {worth} are bonded to this validator"
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, detail)
    amount = min(amount_ugtx, worth)  # A pool that was slashed whole pays nothing.
    burned = -(-amount * entry.shares // entry.stake_ugtx) if worth else own
    rest = replace(entry, stake_ugtx=entry.stake_ugtx - amount, shares=entry.shares - burned)
    if rest.value_ugtx(own - burned):
        DELEGATIONS.put(state, delegator + entry.operator, Delegation(own - burned))
        return rest, amount
    # All goes, to the last ugtx that it is worth: an emptied pool keeps nothing.
    DELEGATIONS.delete(state, delegator + entry.operator)
    shares = entry.shares - own
    return replace(entry, stake_ugtx=entry.stake_ugtx - worth, shares=shares), worth


def take_penalty(state: Overlay, entry: Validator, to: bytes, bps: int) -> tuple[Validator, int]:
    """(the pool without, ugtx moved to `to`): a part of a pool in basis points."""
    penalty = entry.stake_ugtx * bps // BPS
    ledger.move(state, Asset.GTX, BONDED, to, penalty)
    return replace(entry, stake_ugtx=entry.stake_ugtx - penalty), penalty


def _rank(entry: Validator) -> bytes:
    return u64(MAX_INT - entry.stake_ugtx) + entry.operator
