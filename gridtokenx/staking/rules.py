"""The verbs of staking: bond and unbond, rewards and penalties, the next validator set.

All gtx stays on ledger accounts: what pools hold is on BONDED, what is being paid out on UNBONDING.
Source: protocols/governance.md section 1.
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
from gridtokenx.primitives.state import Overlay, Reader, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.staking import pools
from gridtokenx.staking.model import (
    ABSENCES,
    BONDED,
    CONSENSUS_KEYS,
    FEES,
    FOR_EVER,
    REWARD_RESERVE,
    UNBONDING,
    UNBONDING_COUNT,
    UNBONDINGS,
    VALIDATORS,
    Bond,
    Bonded,
    Count,
    CreateValidator,
    JailReason,
    Offence,
    OperatorReference,
    RefusalReason,
    RewardPaid,
    StakingEvent,
    Unbond,
    UnbondingEntry,
    UnbondingFinished,
    UnbondingStarted,
    UpdateValidator,
    Validator,
    ValidatorDeclared,
    ValidatorJailed,
    ValidatorReleased,
    ValidatorSetRefused,
    proof_bytes,
)
from gridtokenx.staking.weights import elect, step_towards

MAX_COMMISSION_RISE_BPS = 100  # In one update, so that delegators can leave before it hurts.
MAX_PAID_OUT_PER_BLOCK = 500

# Commands


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
    if entry.jailed_until_height == FOR_EVER:
        raise Rejected(ErrorCode.VALIDATOR_JAILED, f"{entry.moniker} is excluded for good")
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

    Errors: VALIDATOR_NOT_FOUND; INSUFFICIENT_BALANCE when less is bonded.
    """
    entry = pools.validator(state, command.validator)
    rest, amount = pools.take_shares(state, entry, sender, command.amount_ugtx)
    if not amount:
        pools.store(state, rest)
        return [UnbondingFinished(entry.operator, sender, 0, 0)]
    ledger.move(state, Asset.GTX, BONDED, UNBONDING, amount)
    pools.store(state, replace(rest, unbonding_entries=rest.unbonding_entries + 1))
    matures = height + pools.parameters(state).unbonding_blocks
    count = UNBONDING_COUNT.get(state, b"") or Count(0)
    UNBONDING_COUNT.put(state, b"", Count(count.number + 1))
    unbonding = UnbondingEntry(entry.operator, sender, amount, height)
    UNBONDINGS.put(state, u64(matures) + u64(count.number), unbonding)
    return [UnbondingStarted(entry.operator, sender, amount, matures)]


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


# What every block does


def begin_block(
    state: Overlay, *, height: int, members: Iterable[bytes], seen: Set[bytes]
) -> list[StakingEvent]:
    """Pay out what has matured, and jail who has been away for `downtime_blocks` in a row.

    `members` are the consensus keys of the previous block's validator set; `seen` those that signed
    its certificate or proposed it. A certificate holds only the fastest quorum, so one appearance
    is enough: whoever is there appears at the latest when it leads.
    """
    return [*_pay_out(state, height), *_watch(state, height, members, seen)]


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
    commission = earned * entry.commission_bps // BPS
    entry = replace(entry, stake_ugtx=entry.stake_ugtx + earned - commission)
    if pools.shares_of(state, entry.operator, entry.operator) and (
        0 < commission * entry.shares // entry.stake_ugtx <= MAX_INT - entry.shares
    ):
        entry = pools.add_shares(state, entry, entry.operator, commission)
    else:  # Worth no share, or the operator has left its own pool: all delegators have it.
        entry, commission = replace(entry, stake_ugtx=entry.stake_ugtx + commission), 0
    pools.store(state, entry)
    return [RewardPaid(entry.operator, earned, commission, to_treasury)]


def punish_offence(
    state: Overlay, consensus_key: bytes, *, offence_height: int, backed_since: int, height: int
) -> list[StakingEvent]:
    """Slash and jail for evidence that the chain accepted in block `height`.

    `backed_since` is the height at which the set in force at the offence was ordered: what has been
    unbonded from then on stood behind it and is reached too. The first time takes `slash_bps`; an
    offence later than the last conviction takes everything and excludes for good; one earlier than
    it belongs to what was punished then.
    """
    entry = pools.validator_of_key(state, consensus_key)
    if entry is None:
        return []
    if entry.offences and offence_height <= entry.offences[-1].convicted_height:
        return []
    if entry.jailed_until_height == FOR_EVER:
        return []
    numbers = pools.parameters(state)
    bps = BPS if entry.offences else numbers.slash_bps
    until = FOR_EVER if bps == BPS else height + numbers.jail_blocks
    offence = Offence(backed_since, height, bps)
    entry = replace(entry, offences=(*entry.offences, offence))
    return [_jail(state, entry, JailReason.OFFENCE, bps, until)]


def order_validators(
    state: Reader, newest: ValidatorSet
) -> tuple[ValidatorSet, list[StakingEvent]]:
    """The set to order in an epoch's first block, to be in force from the epoch after next.

    `newest` is the last set that was ordered. With fewer than `min_validators` elected it stays;
    when more than a third of its weight would move, only a third does.
    """
    numbers = pools.parameters(state)
    candidates = pools.ranked(state, numbers.max_validators)
    elected = elect(
        [(entry.consensus_key, entry.stake_ugtx) for entry in candidates],
        unit=numbers.unit_ugtx,
        cap_bps=numbers.weight_cap_bps,
    )
    if len(elected) < numbers.min_validators:
        return newest, [ValidatorSetRefused(RefusalReason.TOO_FEW, len(elected))]
    target = ValidatorSet.of(elected)
    ordered = step_towards(newest, target)
    if ordered != target:
        return ordered, [ValidatorSetRefused(RefusalReason.TOO_MUCH_AT_ONCE, len(elected))]
    return target, []


# Steps


def _pay_out(state: Overlay, height: int) -> list[StakingEvent]:
    due: list[tuple[bytes, UnbondingEntry]] = []
    for key, entry in UNBONDINGS.items(state):
        if key > u64(height) + u64(MAX_INT) or len(due) == MAX_PAID_OUT_PER_BLOCK:
            break
        due.append((key, entry))
    events: list[StakingEvent] = []
    for key, entry in due:
        UNBONDINGS.delete(state, key)
        validator = pools.validator(state, entry.validator)
        paid = entry.amount_ugtx
        for offence in validator.offences:
            if offence.backed_since <= entry.started_height < offence.convicted_height:
                paid -= paid * offence.slash_bps // BPS
        ledger.move(state, Asset.GTX, UNBONDING, entry.delegator, paid)
        ledger.move(state, Asset.GTX, UNBONDING, TREASURY, entry.amount_ugtx - paid)
        left = replace(validator, unbonding_entries=validator.unbonding_entries - 1)
        if left.shares or left.unbonding_entries or left.jailed_until_height == FOR_EVER:
            pools.store(state, left)
        else:
            pools.forget(state, left)
            ABSENCES.delete(state, left.operator)
        slashed = entry.amount_ugtx - paid
        events.append(UnbondingFinished(entry.validator, entry.delegator, paid, slashed))
    return events


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
        events.append(_jail(state, entry, JailReason.DOWNTIME, bps, until))
    return events


def _jail(
    state: Overlay, entry: Validator, reason: JailReason, bps: int, until_height: int
) -> StakingEvent:
    rest, slashed = pools.take_penalty(state, entry, TREASURY, bps)
    pools.store(state, replace(rest, jailed_until_height=until_height))
    return ValidatorJailed(entry.operator, reason, slashed, until_height)


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
