"""Bonding, paying out, rewards, penalties and elections, each rule and each refusal."""

from dataclasses import replace

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.validators import Validator as Member
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.staking import leaving, penalties, pools, rules
from gridtokenx.staking.model import (
    BONDED,
    DELEGATIONS,
    FEES,
    FOR_EVER,
    REWARD_RESERVE,
    STAKING_PARAMETERS,
    UNBONDING,
    VALIDATORS,
    Bond,
    CreateValidator,
    JailReason,
    RefusalReason,
    StakingParameters,
    Unbond,
    UpdateValidator,
    ValidatorJailed,
    proof_bytes,
)
from tests.support.refusals import refused

CHAIN = sha256(b"a chain")
NUMBERS = StakingParameters(
    unit_ugtx=100,
    min_bond_ugtx=10,
    min_self_bond_ugtx=1_000,
    unbonding_blocks=50,
    jail_blocks=20,
    downtime_blocks=3,
    downtime_slash_bps=100,
    block_reward_ugtx=40,
)
ALICE, BOB, CAROL, DAVE = (bytes([number]) * 32 for number in (1, 2, 3, 4))


def consensus_key(owner: bytes, number: int = 0) -> SigningKey:
    return SigningKey(sha256(owner + bytes([number])))


@pytest.fixture
def state() -> Overlay:
    found = Overlay(MemoryReader())
    STAKING_PARAMETERS.put(found, b"", NUMBERS)
    for owner in (ALICE, BOB, CAROL, DAVE):
        ledger.issue_gtx(found, owner, 100_000)
    return found


def create(state: Overlay, owner: bytes, amount: int = 10_000, *, commission_bps: int = 1000):
    key = consensus_key(owner)
    proof = key.sign(proof_bytes(CHAIN, owner, key.public_key))
    command = CreateValidator(key.public_key, "MEA", commission_bps, amount, proof)
    return rules.create_validator(state, command, sender=owner, chain_id=CHAIN, height=1)


def update(state: Overlay, owner: bytes, *, height: int, commission_bps=1000, key=None, proof=None):
    command = UpdateValidator("PEA", commission_bps, key, proof)
    return rules.update_validator(state, command, sender=owner, chain_id=CHAIN, height=height)


def bond(state: Overlay, who: bytes, operator: bytes, amount: int):
    return rules.bond(state, Bond(operator, amount), sender=who)


def unbond(state: Overlay, who: bytes, operator: bytes, amount: int, *, height: int = 1):
    return rules.unbond(state, Unbond(operator, amount), sender=who, height=height)


def begin(state: Overlay, height: int, members=(), seen=()):
    return rules.begin_block(state, height=height, members=members, seen=set(seen))


def punish(
    state: Overlay,
    owner: bytes,
    offence_height: int,
    height: int,
    backed_since: int = 0,
    *,
    epoch: int = 0,
    weight: int = 1,
    total: int = 1000,
):
    return penalties.punish_offence(
        state,
        consensus_key(owner).public_key,
        offence_height=offence_height,
        epoch_height=epoch,
        backed_since=backed_since,
        weight=weight,
        total_weight=total,
        height=height,
    )


def liquid(state: Overlay, owner: bytes) -> int:
    return ledger.account(state, owner).gtx_ugtx


def worth(state: Overlay, owner: bytes) -> dict[bytes, int]:
    return dict(pools.delegations_of(state, owner))


# -- Validators ------------------------------------------------------------------------------------


def test_a_validator_needs_the_key_it_names(state) -> None:
    key = consensus_key(ALICE).public_key
    stolen = consensus_key(ALICE).sign(proof_bytes(CHAIN, BOB, key))
    command = CreateValidator(key, "MEA", 0, 10_000, stolen)
    for sender in (ALICE, CAROL):
        refused(
            ErrorCode.BAD_SIGNATURE,
            rules.create_validator,
            *(state, command),
            sender=sender,
            chain_id=CHAIN,
            height=1,
        )


def test_one_validator_per_operator_and_per_key(state) -> None:
    declared, bonded = create(state, ALICE)
    assert (declared.operator, bonded.shares) == (ALICE, 10_000)
    refused(ErrorCode.DUPLICATE, create, state, ALICE)
    key = consensus_key(ALICE)
    proof = key.sign(proof_bytes(CHAIN, BOB, key.public_key))
    command = CreateValidator(key.public_key, "X", 0, 10_000, proof)
    refused(
        ErrorCode.DUPLICATE,
        rules.create_validator,
        *(state, command),
        sender=BOB,
        chain_id=CHAIN,
        height=1,
    )


def test_a_validator_bonds_enough_of_its_own(state) -> None:
    assert "1000 ugtx itself" in refused(ErrorCode.OUT_OF_RANGE, create, state, ALICE, 999)
    attempt = Overlay(state)
    refused(ErrorCode.INSUFFICIENT_BALANCE, create, attempt, ALICE, 100_001)


def test_key_and_commission_change_seldom_and_slowly(state) -> None:
    create(state, ALICE)
    refused(ErrorCode.NOT_PERMITTED, update, state, ALICE, height=50, commission_bps=1100)
    refused(ErrorCode.OUT_OF_RANGE, update, state, ALICE, height=51, commission_bps=1101)
    update(state, ALICE, height=51, commission_bps=1100)
    update(state, ALICE, height=52, commission_bps=0)  # Lower is always welcome.
    assert pools.validator(state, ALICE).moniker == "PEA"
    refused(ErrorCode.NOT_PERMITTED, update, state, ALICE, height=52, commission_bps=1)
    refused(ErrorCode.VALIDATOR_NOT_FOUND, update, state, BOB, height=99)


def test_a_new_key_needs_proof_and_the_old_one_stays_accountable(state) -> None:
    create(state, ALICE)
    key = consensus_key(ALICE, 1)
    refused(ErrorCode.BAD_SIGNATURE, update, state, ALICE, height=51, key=key.public_key)
    proof = key.sign(proof_bytes(CHAIN, ALICE, key.public_key))
    update(state, ALICE, height=51, key=key.public_key, proof=proof)
    assert rules.order_validators(state, members(BOB))[1]  # Too few of them, but it is elected:
    assert [entry.consensus_key for entry in pools.ranked(state, 9)] == [key.public_key]
    (jailed,) = punish(state, ALICE, 40, 60)
    assert jailed.validator == ALICE


# -- Bond and unbond -------------------------------------------------------------------------------


def test_bonded_gtx_comes_back_after_the_time_of_unbonding(state) -> None:
    create(state, ALICE)
    bond(state, BOB, ALICE, 500)
    assert (liquid(state, BOB), worth(state, BOB)) == (99_500, {ALICE: 500})
    (started,) = unbond(state, BOB, ALICE, 200, height=7)
    assert started.matures_height == 57
    assert worth(state, BOB) == {ALICE: 300}
    assert begin(state, 56) == []
    (finished,) = begin(state, 57)
    assert (finished.paid_ugtx, finished.slashed_ugtx) == (200, 0)
    assert liquid(state, BOB) == 99_700
    assert begin(state, 58) == []


def test_bonds_that_are_refused(state) -> None:
    create(state, ALICE)
    refused(ErrorCode.VALIDATOR_NOT_FOUND, bond, state, BOB, CAROL, 500)
    refused(ErrorCode.OUT_OF_RANGE, bond, state, BOB, ALICE, 9)
    refused(ErrorCode.INSUFFICIENT_BALANCE, bond, Overlay(state), BOB, ALICE, 100_001)
    refused(ErrorCode.INSUFFICIENT_BALANCE, unbond, state, BOB, ALICE, 1)
    bond(state, BOB, ALICE, 500)
    assert "500 are bonded" in refused(
        ErrorCode.INSUFFICIENT_BALANCE, unbond, state, BOB, ALICE, 501
    )


def test_an_account_bonds_to_a_bounded_number_of_validators(state) -> None:
    operators = [bytes([9, number]) * 16 for number in range(pools.MAX_DELEGATIONS + 1)]
    for operator in operators:
        ledger.issue_gtx(state, operator, 10_000)
        create(state, operator)
    for operator in operators[:-1]:
        bond(state, BOB, operator, 10)
    bond(state, BOB, operators[0], 10)
    refused(ErrorCode.NOT_PERMITTED, bond, Overlay(state), BOB, operators[-1], 10)


def test_payments_of_one_block_are_bounded(state, monkeypatch) -> None:
    monkeypatch.setattr(leaving, "MAX_FINISHED_PER_BLOCK", 2)
    create(state, ALICE)
    for who in (BOB, CAROL, DAVE):
        bond(state, who, ALICE, 100)
        unbond(state, who, ALICE, 100)
    assert len(begin(state, 51)) == 2
    assert len(begin(state, 52)) == 1


def test_an_empty_validator_is_forgotten_when_all_is_paid(state) -> None:
    create(state, ALICE)
    unbond(state, ALICE, ALICE, 10_000)
    assert pools.ranked(state, 9) == []
    assert VALIDATORS.get(state, ALICE) is not None  # Its offences still reach the entry.
    begin(state, 51)
    assert VALIDATORS.get(state, ALICE) is None
    create(state, ALICE)


def test_an_empty_validator_stays_until_its_last_entry_is_paid(state) -> None:
    create(state, ALICE)
    unbond(state, ALICE, ALICE, 4_000, height=1)
    unbond(state, ALICE, ALICE, 6_000, height=2)
    assert len(begin(state, 51)) == 1
    assert VALIDATORS.get(state, ALICE).open_entries == 1
    assert len(begin(state, 52)) == 1
    assert VALIDATORS.get(state, ALICE) is None


def test_a_pool_that_gained_pays_its_last_member_everything(state) -> None:
    ledger.issue_gtx(state, REWARD_RESERVE, 7)
    create(state, ALICE)
    rules.reward_proposer(state, consensus_key(ALICE).public_key)
    bond(state, BOB, ALICE, 333)
    unbond(state, ALICE, ALICE, 10_000)
    for owner in (BOB, ALICE):
        if worth(state, owner):
            unbond(state, owner, ALICE, worth(state, owner)[ALICE])
    entry = pools.validator(state, ALICE)
    assert (entry.stake_ugtx, entry.shares, liquid(state, BONDED)) == (0, 0, 0)


def test_what_would_be_worth_nothing_leaves_too(state) -> None:
    create(state, ALICE)
    bond(state, BOB, ALICE, 10_000)
    ledger.issue_gtx(state, FEES, 100_000)
    rules.reward_proposer(state, consensus_key(ALICE).public_key)
    value = worth(state, BOB)[ALICE]
    assert value == 46_000  # A share is worth more than four ugtx now.
    (started,) = unbond(state, BOB, ALICE, value - 1)
    assert started.amount_ugtx == value
    assert DELEGATIONS.get(state, BOB + ALICE) is None
    assert pools.validator(state, ALICE).stake_ugtx == liquid(state, BONDED)


# -- Rewards ---------------------------------------------------------------------------------------


def test_a_proposer_earns_fees_and_reward_and_delegators_their_part(state) -> None:
    ledger.issue_gtx(state, REWARD_RESERVE, 50)
    create(state, ALICE, 10_000, commission_bps=1000)
    bond(state, BOB, ALICE, 10_000)
    ledger.issue_gtx(state, FEES, 200)
    (paid,) = rules.reward_proposer(state, consensus_key(ALICE).public_key)
    assert (paid.reward_ugtx, paid.commission_ugtx, paid.treasury_ugtx) == (200, 20, 40)
    assert liquid(state, TREASURY) == 40
    assert worth(state, BOB) == {ALICE: 10_090}
    assert worth(state, ALICE) == {ALICE: 10_109}  # 110 less what the pool rounds down.
    (last,) = rules.reward_proposer(state, consensus_key(ALICE).public_key)
    assert last.reward_ugtx == 10  # The reserve is empty now.
    assert rules.reward_proposer(state, consensus_key(ALICE).public_key) == []


def test_who_has_no_pool_or_is_jailed_earns_nothing(state) -> None:
    create(state, ALICE)
    punish(state, ALICE, 1, 2)
    treasury = liquid(state, TREASURY)
    for owner in (ALICE, BOB):
        ledger.issue_gtx(state, FEES, 100)
        assert rules.reward_proposer(state, consensus_key(owner).public_key) == []
    assert liquid(state, TREASURY) == treasury + 200


# -- Penalties -------------------------------------------------------------------------------------


def test_an_offence_takes_a_part_of_the_pool_and_of_what_was_leaving(state) -> None:
    create(state, ALICE)
    bond(state, BOB, ALICE, 5_000)
    for height in (3, 10, 29):
        unbond(state, BOB, ALICE, 1_000, height=height)
    (jailed,) = punish(state, ALICE, offence_height=20, backed_since=10, height=30)
    unbond(state, BOB, ALICE, 1_000, height=30)
    assert jailed == ValidatorJailed(ALICE, JailReason.OFFENCE, 600, 50)
    assert worth(state, ALICE) == {ALICE: 9_500}
    paid = [event.paid_ugtx for height in (53, 60, 79, 80) for event in begin(state, height)]
    assert paid == [1_000, 950, 950, 1_000]
    assert liquid(state, TREASURY) == 700
    assert pools.ranked(state, 9) == []


def test_one_incident_is_punished_once_and_a_repeat_takes_all(state) -> None:
    create(state, ALICE)
    bond(state, BOB, ALICE, 1_000)
    assert punish(state, ALICE, 20, 30)
    assert punish(state, ALICE, 20, 31) == []
    assert punish(state, BOB, 30, 31) == []
    unbond(state, BOB, ALICE, 400, height=35)
    (jailed,) = punish(state, ALICE, 31, 40)
    assert (jailed.until_height, pools.total_bonded_ugtx(state)) == (FOR_EVER, 0)
    refused(ErrorCode.VALIDATOR_JAILED, bond, state, BOB, ALICE, 100)
    refused(ErrorCode.VALIDATOR_JAILED, rules.unjail, state, sender=ALICE, height=10**6)
    assert punish(state, ALICE, 41, 42) == []
    (finished,) = begin(state, 85)
    assert (finished.paid_ugtx, finished.slashed_ugtx) == (0, 400)
    (cleared,) = unbond(state, BOB, ALICE, 1)
    assert (cleared.amount_ugtx, cleared.shares) == (0, 578)
    assert DELEGATIONS.get(state, BOB + ALICE) is None
    assert liquid(state, UNBONDING) == 0


def test_who_is_excluded_for_good_does_not_come_back_under_the_same_name(state) -> None:
    create(state, ALICE)
    unbond(state, ALICE, ALICE, 1_000)
    punish(state, ALICE, 2, 3)
    punish(state, ALICE, 4, 5)
    unbond(state, ALICE, ALICE, 1)
    assert len(begin(state, 51)) == 1
    assert VALIDATORS.get(state, ALICE).shares == 0
    refused(ErrorCode.DUPLICATE, create, state, ALICE)


def test_a_jailed_validator_is_released_after_its_time(state) -> None:
    create(state, ALICE)
    refused(ErrorCode.DUPLICATE, rules.unjail, state, sender=ALICE, height=1)
    punish(state, ALICE, 1, 2)
    assert "until block 22" in refused(
        ErrorCode.VALIDATOR_JAILED, rules.unjail, state, sender=ALICE, height=21
    )
    assert pools.ranked(state, 9) == []
    (released,) = rules.unjail(state, sender=ALICE, height=22)
    assert released.validator == ALICE
    assert [entry.operator for entry in pools.ranked(state, 9)] == [ALICE]


def test_only_absence_without_a_break_jails(state) -> None:
    create(state, ALICE)
    create(state, BOB)
    keys = [consensus_key(owner).public_key for owner in (ALICE, BOB)]
    for height, seen in enumerate((keys, keys[:1], keys[:1], keys, keys[:1], keys[:1]), 1):
        assert begin(state, height, keys, seen) == []
    (jailed,) = begin(state, 7, keys, keys[:1])
    assert jailed == ValidatorJailed(BOB, JailReason.DOWNTIME, 100, 27)
    assert begin(state, 8, keys, keys[:1]) == []  # It stays in the set for a while.
    assert begin(state, 9, [*keys, b"\x07" * 32], keys[:1]) == []


# -- Elections -------------------------------------------------------------------------------------


def members(*owners: bytes, weight: int = 1) -> ValidatorSet:
    return ValidatorSet.of(Member(consensus_key(owner).public_key, weight) for owner in owners)


def test_the_set_follows_stake(state) -> None:
    for owner in (ALICE, BOB, CAROL, DAVE):
        create(state, owner)
    everybody = members(ALICE, BOB, CAROL, DAVE, weight=100)
    assert rules.order_validators(state, everybody) == (everybody, [])
    bond(state, ALICE, ALICE, 50_000)  # Four cannot keep to 20 %: all weigh the same.
    assert rules.order_validators(state, everybody) == (everybody, [])


def test_too_few_candidates_leave_the_set_as_it_is(state) -> None:
    create(state, ALICE)
    old = members(BOB, CAROL)
    ordered, (event,) = rules.order_validators(state, old)
    assert ordered == old
    assert (event.reason, event.elected) == (RefusalReason.TOO_FEW, 1)


def test_a_landslide_takes_several_epochs(state) -> None:
    for owner in (ALICE, BOB, CAROL, DAVE):
        create(state, owner)
    strangers = ValidatorSet.of(Member(bytes([9, number]) * 16, 1) for number in range(4))
    ordered, (event,) = rules.order_validators(state, strangers)
    assert event.reason is RefusalReason.TOO_MUCH_AT_ONCE
    assert len(ordered.members) == 8
    for _ in range(2):
        ordered, events = rules.order_validators(state, ordered)
    assert (ordered, events) == (members(ALICE, BOB, CAROL, DAVE, weight=100), [])


def test_at_most_so_many_are_elected_the_greatest_first(state) -> None:
    STAKING_PARAMETERS.put(state, b"", replace(NUMBERS, max_validators=2, min_validators=1))
    for owner, amount in ((ALICE, 10_000), (BOB, 12_000), (CAROL, 10_000), (DAVE, 9_999)):
        create(state, owner, amount)
    assert [entry.operator for entry in pools.ranked(state, 2)] == [BOB, ALICE]
    unbond(state, BOB, BOB, 11_000)
    bond(state, CAROL, BOB, 20_000)
    assert [entry.operator for entry in pools.ranked(state, 2)] == [BOB, ALICE]
    unbond(state, BOB, BOB, 10)
    assert [entry.operator for entry in pools.ranked(state, 2)] == [ALICE, CAROL]
    bond(state, ALICE, BOB, 90_000)  # Not its own: the operator must have something to lose.
    assert [entry.operator for entry in pools.ranked(state, 2)] == [ALICE, CAROL]
