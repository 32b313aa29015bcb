"""The verbs of staking: bond, unbond, redelegate, rewards, the next validator set.

All gtx stays on ledger accounts: what pools hold is on BONDED, what is being paid out on UNBONDING.
What has begun to leave is in `leaving.py`, penalties are in `penalties.py`.
Source: protocols/governance.md 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY, Asset
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import BPS
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.primitives.types import format_address
from gridtokenx.primitives.validators import Validator as Member
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.staking import leaving, penalties, pools
from gridtokenx.staking.model import (
    ABSENCES,
    BONDED,
    CONSENSUS_KEYS,
    FEES,
    FOR_EVER,
    REWARD_RESERVE,
    UNBONDING,
    VALIDATORS,
    Bond,
    Bonded,
    Count,
    CreateValidator,
    JailReason,
    OperatorReference,
    Redelegate,
    Redelegated,
    RedelegationFinished,
    RefusalReason,
    RewardPaid,
    StakingEvent,
    StakingParameters,
    Unbond,
    UnbondingStarted,
    UpdateValidator,
    Validator,
    ValidatorDeclared,
    ValidatorReleased,
    ValidatorSetRefused,
    proof_bytes,
)
from gridtokenx.staking.weights import elect, step_towards

MAX_COMMISSION_RISE_BPS = 100  # In one update, so that delegators can leave before it hurts.

# -- Commands --------------------------------------------------------------------------------------


def create_validator(
    state: Overlay, command: CreateValidator, *, sender: bytes, chain_id: bytes, height: int
) -> list[StakingEvent]:
    """Make the sender a candidate with its first bond.

    Errors: BAD_SIGNATURE for a false proof, and those of `add_validator`.
    """
    _check_proof(chain_id, sender, command.consensus_key, command.proof)
    return add_validator(state, command, operator=sender, height=height)


def add_validator(
    state: Overlay, command: CreateValidator, *, operator: bytes, height: int
) -> list[StakingEvent]:
    """`create_validator` without the proof of possession, for genesis, whose author vouches.

    Errors: DUPLICATE when the account operates one, or the key is registered; OUT_OF_RANGE for a
    self-bond below the least; INSUFFICIENT_BALANCE.
    """
    if VALIDATORS.get(state, operator) is not None:
        detail = f"{format_address(operator)} operates a validator already; update it"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    least = pools.parameters(state).min_self_bond_ugtx
    if command.self_bond_ugtx < least:
        detail = f"a validator bonds at least {least} ugtx itself, not {command.self_bond_ugtx}"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
    _claim_key(state, operator, command.consensus_key)
    entry = Validator(
        operator, command.consensus_key, command.moniker, command.commission_bps, height
    )
    VALIDATORS.put(state, operator, entry)
    bonded = bond(state, Bond(operator, command.self_bond_ugtx), sender=operator)
    return [_declared(entry), *bonded]


def update_validator(
    state: Overlay, command: UpdateValidator, *, sender: bytes, chain_id: bytes, height: int
) -> list[StakingEvent]:
    """Change name, commission or consensus key. A former key stays the validator's own: offences
    under it are still to be punished.

    Errors: VALIDATOR_NOT_FOUND; NOT_PERMITTED when key or commission changed less than
    `unbonding_blocks` ago; OUT_OF_RANGE for a rise of more than a point; BAD_SIGNATURE; DUPLICATE.
    """
    entry = pools.validator(state, sender)
    key = command.consensus_key or entry.consensus_key
    changed_height = entry.changed_height
    if key != entry.consensus_key or command.commission_bps > entry.commission_bps:
        again = entry.changed_height + pools.parameters(state).unbonding_blocks
        if height < again:
            detail = f"key and commission may change again in block {again}, this is {height}"
            raise Rejected(ErrorCode.NOT_PERMITTED, detail)
        changed_height = height
    if command.commission_bps > entry.commission_bps + MAX_COMMISSION_RISE_BPS:
        most = entry.commission_bps + MAX_COMMISSION_RISE_BPS
        detail = f"the commission may rise to {most} bps now, not {command.commission_bps}"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
    if key != entry.consensus_key:
        _check_proof(chain_id, sender, key, command.proof or b"")
        _claim_key(state, sender, key)
    updated = replace(
        entry,
        consensus_key=key,
        moniker=command.moniker,
        commission_bps=command.commission_bps,
        changed_height=changed_height,
    )
    pools.store(state, updated)
    return [_declared(updated)]


def bond(state: Overlay, command: Bond, *, sender: bytes) -> list[StakingEvent]:
    """Add gtx to a pool; it weighs in the set that the next epoch's first block orders.

    Errors: VALIDATOR_NOT_FOUND; VALIDATOR_JAILED for one that is out for ever; OUT_OF_RANGE below
    the least bond; NOT_PERMITTED for a 33rd validator; INSUFFICIENT_BALANCE.
    """
    entry = pools.validator(state, command.validator)
    _check_open(entry)
    least = pools.parameters(state).min_bond_ugtx
    if command.amount_ugtx < least:
        detail = f"bond at least {least} ugtx, not {command.amount_ugtx}"
        raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
    ledger.move(state, Asset.GTX, sender, BONDED, command.amount_ugtx)
    grown = pools.add_shares(state, entry, sender, command.amount_ugtx)
    pools.store(state, grown)
    shares = grown.shares - entry.shares
    return [Bonded(entry.operator, sender, command.amount_ugtx, shares)]


def unbond(state: Overlay, command: Unbond, *, sender: bytes, height: int) -> list[StakingEvent]:
    """Take gtx out of a pool; it is paid out by `begin_block` of the block named in the event.

    Errors: VALIDATOR_NOT_FOUND; INSUFFICIENT_BALANCE when less is bonded; OUT_OF_RANGE below the
    least bond, unless it is all; NOT_PERMITTED for what is locked after a redelegation, or when 32
    payments out of this pool are on their way.
    """
    entry = pools.validator(state, command.validator)
    rest, amount = pools.take_shares(state, entry, sender, command.amount_ugtx)
    shares = entry.shares - rest.shares
    matures = height
    if amount:
        ledger.move(state, Asset.GTX, BONDED, UNBONDING, amount)
        rest, matures = leaving.start_payment(state, rest, sender, amount, height)
    pools.store(state, rest)
    return [UnbondingStarted(entry.operator, sender, amount, shares, matures)]


def redelegate(
    state: Overlay, command: Redelegate, *, sender: bytes, height: int
) -> list[StakingEvent]:
    """Move gtx from one pool to another; it weighs there in the set that the next epoch orders.

    Errors: VALIDATOR_NOT_FOUND; DUPLICATE for one and the same validator; VALIDATOR_JAILED for a
    destination that is out for ever; INSUFFICIENT_BALANCE, OUT_OF_RANGE and NOT_PERMITTED as for
    `unbond` and `bond`.
    """
    source = pools.validator(state, command.source)
    destination = pools.validator(state, command.destination)
    if source.operator == destination.operator:
        detail = f"{format_address(source.operator)} is source and destination; name another"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    _check_open(destination)
    rest, amount = pools.take_shares(state, source, sender, command.amount_ugtx)
    grown = pools.add_shares(state, destination, sender, amount)
    pools.store(state, grown)
    shares = grown.shares - destination.shares
    rest, matures = leaving.start_redelegation(state, rest, grown.operator, sender, shares, height)
    pools.store(state, rest)
    burned = source.shares - rest.shares
    return [
        Redelegated(source.operator, destination.operator, sender, amount, burned, shares, matures)
    ]


def unjail(state: Overlay, *, sender: bytes, height: int) -> list[StakingEvent]:
    """Let the sender's validator be elected again.

    Errors: VALIDATOR_NOT_FOUND; DUPLICATE unless it is jailed; VALIDATOR_JAILED before its time.
    """
    entry = pools.validator(state, sender)
    if not entry.is_jailed:
        raise Rejected(ErrorCode.DUPLICATE, f"{entry.moniker} is not jailed")
    if height < entry.jailed_until_height:
        end = entry.jailed_until_height
        until = "for good" if end == FOR_EVER else f"until block {end}, this is {height}"
        raise Rejected(ErrorCode.VALIDATOR_JAILED, f"{entry.moniker} is jailed {until}")
    pools.store(state, replace(entry, jailed_until_height=0))
    return [ValidatorReleased(sender)]


# -- What every block does -------------------------------------------------------------------------


def begin_block(
    state: Overlay, *, height: int, members: Iterable[bytes], seen: Set[bytes]
) -> list[StakingEvent]:
    """Pay out and set free what has matured, jail who was away for `downtime_blocks` in a row.

    `members` are the consensus keys of the previous block's validator set; `seen` those that signed
    its certificate or proposed it. A certificate holds only the fastest quorum, so one appearance
    is enough: whoever is there appears at the latest when it leads.
    """
    penalties.forget_offenders(state, height)
    return [*leaving.begin_block(state, height), *_watch(state, height, members, seen)]


def shares_moved(event: StakingEvent) -> list[tuple[bytes, bytes, int]]:
    """(delegator, operator, signed number of shares) of the delegations that an event tells of."""
    match event:
        case Bonded(validator, delegator, _, shares):
            return [(delegator, validator, shares)]
        case UnbondingStarted(validator, delegator, _, shares, _):
            return [(delegator, validator, -shares)]
        case Redelegated(source, destination, delegator, _, source_shares, shares, _):
            return [(delegator, source, -source_shares), (delegator, destination, shares)]
        case RedelegationFinished(_, destination, delegator, slashed_shares, _):
            return [(delegator, destination, -slashed_shares)]
        case RewardPaid(validator, _, _, _, commission_shares):
            return [(validator, validator, commission_shares)]
        case _:
            return []


def reward_proposer(state: Overlay, consensus_key: bytes) -> list[StakingEvent]:
    """After a block's transactions: its fees and the block reward go to its proposer's pool.

    `treasury_fee_bps` of the fees go to the treasury; the reward comes out of REWARD_RESERVE until
    that is empty. The operator's commission is bonded for it, the rest raises what all shares are
    worth. A proposer that is jailed, or has no pool any more, earns nothing: the treasury has all.
    """
    numbers = pools.parameters(state)
    fees = ledger.account(state, FEES).gtx_ugtx
    entry = pools.validator_of_key(state, consensus_key)
    if entry is None or entry.is_jailed or not entry.stake_ugtx:
        ledger.move(state, Asset.GTX, FEES, TREASURY, fees)
        return []
    to_treasury = fees * numbers.treasury_fee_bps // BPS
    reward = min(numbers.block_reward_ugtx, ledger.account(state, REWARD_RESERVE).gtx_ugtx)
    earned = fees - to_treasury + reward
    if not earned and not to_treasury:
        return []
    ledger.move(state, Asset.GTX, FEES, TREASURY, to_treasury)
    ledger.move(state, Asset.GTX, FEES, BONDED, fees - to_treasury)
    ledger.move(state, Asset.GTX, REWARD_RESERVE, BONDED, reward)
    commission, before = earned * entry.commission_bps // BPS, entry.shares
    entry = replace(entry, stake_ugtx=entry.stake_ugtx + earned - commission)
    if pools.shares_of(state, entry.operator, entry.operator) and (
        0 < commission * entry.shares // entry.stake_ugtx <= MAX_INT - entry.shares
    ):
        entry = pools.add_shares(state, entry, entry.operator, commission)
    else:  # Worth no share, or the operator has left its own pool: all delegators have it.
        entry, commission = replace(entry, stake_ugtx=entry.stake_ugtx + commission), 0
    pools.store(state, entry)
    shares = entry.shares - before
    return [RewardPaid(entry.operator, earned, commission, to_treasury, shares)]


def order_validators(
    state: Reader, newest: ValidatorSet
) -> tuple[ValidatorSet, list[StakingEvent]]:
    """The set to order in an epoch's first block, to be in force from the epoch after next.

    `newest` is the last set that was ordered. With fewer than `min_validators` elected it stays;
    when more than a third of its weight would move, only a third does.
    """
    numbers = pools.parameters(state)
    elected = elected_by(state, numbers)
    if len(elected) < numbers.min_validators:
        return newest, [ValidatorSetRefused(RefusalReason.TOO_FEW, len(elected))]
    target = ValidatorSet.of(elected)
    ordered = step_towards(newest, target)
    if ordered != target:
        return ordered, [ValidatorSetRefused(RefusalReason.TOO_MUCH_AT_ONCE, len(elected))]
    return target, []


def elected_by(state: Reader, numbers: StakingParameters) -> list[Member]:
    """Who would be elected by the stake of now if `numbers` were in force."""
    candidates = pools.ranked(state, numbers.max_validators, numbers.min_self_bond_ugtx)
    return elect(
        [(entry.consensus_key, entry.stake_ugtx) for entry in candidates],
        unit=numbers.unit_ugtx,
        cap_bps=numbers.weight_cap_bps,
    )


# -- Steps -----------------------------------------------------------------------------------------


def _check_open(entry: Validator) -> None:
    if entry.jailed_until_height == FOR_EVER:
        raise Rejected(ErrorCode.VALIDATOR_JAILED, f"{entry.moniker} is excluded for good")


def _watch(
    state: Overlay, height: int, members: Iterable[bytes], seen: Set[bytes]
) -> list[StakingEvent]:
    events: list[StakingEvent] = []
    numbers = pools.parameters(state)
    for key in members:
        entry = pools.validator_of_key(state, key)
        if entry is None or entry.is_jailed:
            continue
        absent = ABSENCES.get(state, entry.operator)
        if key in seen:
            if absent is not None:
                ABSENCES.delete(state, entry.operator)
            continue
        number = 1 if absent is None else absent.number + 1
        if number < numbers.downtime_blocks:
            ABSENCES.put(state, entry.operator, Count(number))
            continue
        ABSENCES.delete(state, entry.operator)
        until = height + numbers.jail_blocks
        bps = numbers.downtime_slash_bps
        events.append(penalties.jail(state, entry, JailReason.DOWNTIME, bps, until))
    return events


def _claim_key(state: Overlay, operator: bytes, consensus_key: bytes) -> None:
    if CONSENSUS_KEYS.get(state, consensus_key) is not None:
        detail = f"consensus key {consensus_key.hex()} is or was a validator's; make a new one"
        raise Rejected(ErrorCode.DUPLICATE, detail)
    CONSENSUS_KEYS.put(state, consensus_key, OperatorReference(operator))


def _check_proof(chain_id: bytes, operator: bytes, consensus_key: bytes, proof: bytes) -> None:
    if not verify(consensus_key, proof_bytes(chain_id, operator, consensus_key), proof):
        detail = f"the proof is not a signature of {consensus_key.hex()} for this operator"
        raise Rejected(ErrorCode.BAD_SIGNATURE, detail)


def _declared(entry: Validator) -> StakingEvent:
    return ValidatorDeclared(
        entry.operator, entry.consensus_key, entry.moniker, entry.commission_bps
    )
