"""Stake that leaves: how little, how often, when it is paid, and stake that moves elsewhere."""

from __future__ import annotations

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.staking import leaving, pools
from gridtokenx.staking.model import (
    ARRIVING,
    BONDED,
    LEAVING,
    REDELEGATIONS,
    UNBONDINGS,
    VALIDATORS,
    RedelegationFinished,
    UnbondingFinished,
)
from tests.support.refusals import refused
from tests.support.stake_world import StakeWorld, account


@pytest.fixture
def world() -> StakeWorld:
    return StakeWorld()


# -- Paying out ------------------------------------------------------------------------------------


def test_gtx_that_is_given_to_the_account_of_pools_is_no_stake(world) -> None:
    """The sum of all pools is a number of its own, whatever lies on the account."""
    ledger.issue_gtx(world.state, BONDED, 999_000)
    assert pools.total_bonded_ugtx(world.state) == 30_000


def test_a_flood_of_dust_is_refused_and_delays_nobody(world) -> None:
    """20,000 times 1 ugtx in one block made 20,000 entries, and the next payout 40 blocks late."""
    attacker, victim = world.rich(10), world.rich(11)
    world.bond(attacker, 1, 5_000)
    world.bond(victim, 1, 5_000)
    for _ in range(20):
        told = refused(ErrorCode.OUT_OF_RANGE, world.unbond, attacker, 1, 1)
    assert "at least 10 ugtx" in told
    for _ in range(400):
        world.unbond(attacker, 1, 10)
    world.begin()
    world.unbond(victim, 1, 4_000)
    assert len(list(UNBONDINGS.items(world.state))) == 2
    paid = [event for event in world.begin(51) if isinstance(event, UnbondingFinished)]
    assert [(one.delegator, one.paid_ugtx) for one in paid] == [(attacker, 4_000)]
    paid = [event for event in world.begin() if isinstance(event, UnbondingFinished)]
    assert [(one.delegator, one.paid_ugtx) for one in paid] == [(victim, 4_000)]
    assert list(LEAVING.items(world.state)) == []
    world.check()


def test_a_whole_block_of_unbondings_is_paid_in_one_block(world) -> None:
    """So nothing that others unbond in another block can delay a payment."""
    crowd = [world.rich(number) for number in range(100, 700)]
    for who in crowd:
        world.bond(who, 1, 10)
        world.unbond(who, 1, 10)
    assert leaving.MAX_FINISHED_PER_BLOCK >= 20_000  # What a block may hold of transactions.
    assert len(world.begin(51)) == len(crowd)
    assert all(world.liquid(who) == 100_000_000 for who in crowd)
    world.check()


def test_what_is_too_little_leaves_as_a_whole(world) -> None:
    who = world.rich(10)
    world.bond(who, 1, 15)
    world.unbond(who, 1, 10)
    refused(ErrorCode.OUT_OF_RANGE, world.unbond, who, 1, 4)
    assert world.unbond(who, 1, 10).amount_ugtx == 5  # The rest, whatever it is worth.
    assert world.worth(who, 1) == 0
    refused(ErrorCode.INSUFFICIENT_BALANCE, world.unbond, who, 1, 10)


def test_open_payments_are_bounded_and_room_comes_back(world) -> None:
    who = world.rich(10)
    world.bond(who, 1, 10_000)
    world.bond(who, 2, 10_000)
    for _ in range(leaving.MAX_OPEN_ENTRIES):
        world.unbond(who, 1, 10)
        world.begin()
    told = refused(ErrorCode.NOT_PERMITTED, world.unbond, who, 1, 10)
    assert "from block 51 on" in told
    world.unbond(who, 2, 10)  # Of another pool; and the last block's may still grow.
    world.begin(51)
    assert world.unbond(who, 1, 10).matures_height == 101
    world.check()


def test_entries_of_different_starts_that_mature_together_stay_apart(world) -> None:
    """A shorter time of unbonding may bring them into one block; an offence may reach only one."""
    who = world.rich(10)
    world.bond(who, 1, 10_000)
    world.begin(10)
    world.unbond(who, 1, 1_000)
    world.begin(20)
    world.change(unbonding_blocks=40)
    world.unbond(who, 1, 1_000)
    world.begin(45)
    world.punish(1, 42)  # Backed since height 20.
    paid = [one.paid_ugtx for one in world.begin(60) if isinstance(one, UnbondingFinished)]
    assert paid == [1_000, 950]
    world.check()


# -- Redelegation ----------------------------------------------------------------------------------


def test_redelegated_stake_weighs_at_once_and_stays_for_the_time_of_unbonding(world) -> None:
    who = world.rich(10)
    world.bond(who, 1, 5_000)
    event = world.redelegate(who, 1, 2, 3_000)
    assert (event.amount_ugtx, event.shares, event.matures_height) == (3_000, 3_000, 51)
    assert (world.pool(1).stake_ugtx, world.pool(2).stake_ugtx) == (12_000, 13_000)
    assert pools.ranked(world.state, 9)[0].operator == account(2)
    for verb, arguments in (
        (world.unbond, (who, 2, 1_000)),
        (world.redelegate, (who, 2, 3, 1_000)),
    ):
        told = refused(ErrorCode.NOT_PERMITTED, verb, *arguments)
        assert "until block 51" in told
    world.bond(who, 2, 500)
    world.unbond(who, 2, 500)  # What was bonded there itself is free.
    world.check()
    (finished, *_) = [one for one in world.begin(51) if isinstance(one, RedelegationFinished)]
    assert (finished.slashed_shares, finished.slashed_ugtx) == (0, 0)
    assert world.redelegate(who, 2, 3, 3_000).amount_ugtx == 3_000
    assert len(list(ARRIVING.items(world.state))) == 1
    world.check()


def test_an_offence_at_the_source_reaches_what_has_moved(world) -> None:
    who, other = world.rich(10), world.rich(11)
    world.bond(who, 1, 5_000)
    world.bond(other, 2, 5_000)
    world.begin(30)
    world.redelegate(who, 1, 2, 4_000)
    world.begin(35)
    world.punish(1, 31)
    assert world.pool(2).stake_ugtx == 19_000  # Until the time is over it weighs in full.
    treasury = world.liquid(TREASURY)
    (finished,) = [one for one in world.begin(80) if isinstance(one, RedelegationFinished)]
    assert (finished.slashed_shares, finished.slashed_ugtx) == (200, 200)
    assert world.liquid(TREASURY) == treasury + 200
    assert (world.worth(who, 2), world.worth(other, 2)) == (3_800, 5_000)
    world.check()


def test_stake_that_moved_before_it_backed_an_offence_keeps_everything(world) -> None:
    who = world.rich(10)
    world.bond(who, 1, 5_000)
    world.begin(9)
    world.redelegate(who, 1, 2, 5_000)
    world.begin(40)
    world.punish(1, 35)  # Backed since height 10.
    (finished,) = [one for one in world.begin(59) if isinstance(one, RedelegationFinished)]
    assert finished.slashed_ugtx == 0
    assert world.worth(who, 2) == 5_000


def test_redelegations_of_one_block_are_one_and_empty_sources_wait(world) -> None:
    for _ in range(3):
        world.redelegate(account(1), 1, 2, 1_000)
    world.redelegate(account(1), 1, 2, 7_000)
    assert len(list(REDELEGATIONS.items(world.state))) == 1
    assert VALIDATORS.get(world.state, account(1)) is not None  # Its offences reach what moved.
    world.check()
    world.begin(51)
    assert VALIDATORS.get(world.state, account(1)) is None
    world.check()


def test_redelegations_that_are_refused(world) -> None:
    who = world.rich(10)
    world.bond(who, 1, 5_000)
    refused(ErrorCode.DUPLICATE, world.redelegate, who, 1, 1, 1_000)
    refused(ErrorCode.VALIDATOR_NOT_FOUND, world.redelegate, who, 1, 9, 1_000)
    refused(ErrorCode.VALIDATOR_NOT_FOUND, world.redelegate, who, 9, 1, 1_000)
    refused(ErrorCode.INSUFFICIENT_BALANCE, world.redelegate, who, 1, 2, 5_001)
    refused(ErrorCode.OUT_OF_RANGE, world.redelegate, who, 1, 2, 9)
    world.punish(2, 1)
    world.begin()
    world.punish(2, 2)
    refused(ErrorCode.VALIDATOR_JAILED, world.redelegate, who, 1, 2, 1_000)
    world.punish(1, 1)
    assert world.redelegate(who, 1, 3, 1_000)  # Away from one in jail, at any time.
    for _ in range(leaving.MAX_OPEN_ENTRIES - 1):
        world.begin()
        world.redelegate(who, 1, 3, 10)
    world.begin()
    assert "from block 52 on" in refused(ErrorCode.NOT_PERMITTED, world.redelegate, who, 1, 3, 10)
    world.check()
