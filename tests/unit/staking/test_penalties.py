"""What offences cost: only stake that backed them, more together, never more than all."""

from __future__ import annotations

import pytest

from gridtokenx.ledger.model import TREASURY
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.staking import rules
from gridtokenx.staking.model import (
    FOR_EVER,
    OFFENDERS,
    PenaltyRaised,
    UnbondingFinished,
    ValidatorJailed,
)
from tests.support.refusals import refused
from tests.support.stake_world import StakeWorld, account


@pytest.fixture
def world() -> StakeWorld:
    return StakeWorld()


def paid(events) -> list[int]:
    return [one.paid_ugtx for one in events if isinstance(one, UnbondingFinished)]


def test_stake_that_left_before_it_backed_the_offence_keeps_everything(world) -> None:
    """With equal capped weights no set is ordered anew: it left eleven epochs before, and lost 5 %.

    The set of an epoch is elected two epochs before it.
    """
    world.change(unbonding_blocks=200)
    who = world.rich(10)
    world.bond(who, 1, 3_000)
    world.begin(5)
    world.unbond(who, 1, 1_000)
    world.begin(94)
    world.unbond(who, 1, 1_000)
    world.begin(95)
    world.unbond(who, 1, 1_000)
    world.begin(120)
    (jailed,) = world.punish(1, 115)  # Epoch 110, elected at 90.
    assert jailed.slashed_ugtx == 500
    assert [paid(world.begin(height)) for height in (205, 294, 295)] == [[1_000], [950], [950]]
    world.check()


def test_each_height_counts_and_a_small_report_makes_nobody_free(world) -> None:
    """Who reported one offence of its own was free for all others up to that block."""
    world.begin(30)
    assert world.punish(1, 21)[0].slashed_ugtx == 500
    assert world.punish(1, 21) == []  # Another view of the same height.
    (second,) = world.punish(1, 22)
    assert second.slashed_ugtx == 500  # A tenth of 10,000 in all.
    (third,) = world.punish(1, 13)  # Another epoch, before the conviction.
    assert third.slashed_ugtx == 500
    assert world.pool(1).slashed_bps == 1_500
    assert [one.own_bps for one in world.pool(1).offences] == [1_000, 500]
    world.check()


def test_together_at_most_everything(world) -> None:
    world.change(slash_bps=3_000)
    world.begin(30)
    taken = [world.punish(1, at) for at in (21, 22, 23, 24, 25)]
    assert [len(events) for events in taken] == [1, 1, 1, 1, 0]
    assert (world.pool(1).stake_ugtx, world.pool(1).slashed_bps) == (0, 10_000)
    assert world.pool(1).jailed_until_height == FOR_EVER
    assert world.liquid(TREASURY) == 10_000
    world.check()


def test_an_offence_after_a_conviction_takes_everything(world) -> None:
    world.begin(30)
    world.punish(1, 21)
    world.begin(40)
    world.punish(1, 30)  # Of before, known late.
    assert world.pool(1).stake_ugtx == 9_000
    (jailed,) = world.punish(1, 31)  # A later conviction moves no border.
    assert (jailed.until_height, world.pool(1).stake_ugtx) == (FOR_EVER, 0)


def test_offenders_of_one_epoch_lose_three_times_their_weight(world) -> None:
    who = world.rich(10)
    for operator in (1, 2):
        world.bond(who, operator, 10_000)
    world.begin(25)
    world.unbond(who, 1, 1_000)
    world.begin(30)
    world.punish(1, 21, weight=100)
    world.unbond(who, 1, 1_000)
    assert world.pool(1).slashed_bps == 500
    world.begin(31)
    (jailed, raised) = world.punish(2, 28, weight=100)
    assert (jailed.validator, jailed.slashed_ugtx) == (account(2), 12_000)  # 60 % of 20,000.
    assert (raised.validator, raised.slash_bps) == (account(1), 6_000)
    # Of 19,000 the first 5 % left 18,050, of which 1,000 left; then 55 of the 95 that remained.
    assert raised.slashed_ugtx == 17_050 * 5_500 // 9_500
    world.unbond(who, 1, 1_000)
    assert [paid(world.begin(height)) for height in (75, 80, 81)] == [[400], [422], [1_000]]
    assert world.punish(3, 20, weight=200)[1:] == []
    world.check()


def test_entries_of_one_block_bear_what_was_not_taken_yet(world) -> None:
    """Two delegators that unbond before and after a conviction end with the same part."""
    early, late = world.rich(10), world.rich(11)
    for who in (early, late):
        world.bond(who, 1, 10_000)
    world.begin(25)
    world.unbond(early, 1, 10_000)
    world.begin(30)
    world.punish(1, 24, weight=50)
    world.unbond(late, 1, world.worth(late, 1))
    world.begin(31)
    world.punish(2, 24, weight=50)
    assert paid(world.begin(75)) == [7_000]
    assert paid(world.begin(80)) == [7_000]
    world.check()


def test_a_third_of_the_weight_loses_everything(world) -> None:
    world.begin(30)
    world.punish(1, 24, weight=200)
    events = world.punish(2, 24, weight=134)
    assert isinstance(events[0], ValidatorJailed)
    assert isinstance(events[1], PenaltyRaised)
    for operator in (1, 2):
        assert world.pool(operator).stake_ugtx == 0
        assert world.pool(operator).jailed_until_height == FOR_EVER
    refused(ErrorCode.VALIDATOR_JAILED, rules.unjail, world.state, sender=account(1), height=10**6)
    world.check()


def test_one_alone_and_those_of_other_epochs_are_not_together(world) -> None:
    world.begin(30)
    world.punish(1, 19, weight=250)
    world.punish(2, 20, weight=250)
    assert [world.pool(operator).slashed_bps for operator in (1, 2)] == [500, 500]


def test_a_raise_releases_and_jails_nobody(world) -> None:
    world.change(jail_blocks=1, unbonding_blocks=100)
    world.begin(30)
    world.punish(1, 21, weight=50)
    world.begin(31)
    rules.unjail(world.state, sender=account(1), height=31)
    world.punish(2, 22, weight=50)
    assert world.pool(1).slashed_bps == 3_000
    assert not world.pool(1).is_jailed
    assert world.pool(2).is_jailed


def test_offenders_are_forgotten_when_no_evidence_may_come(world) -> None:
    world.begin(30)
    world.punish(1, 21)
    assert len(list(OFFENDERS.items(world.state))) == 1
    world.begin(70)
    assert len(list(OFFENDERS.items(world.state))) == 1
    world.begin(71)
    assert list(OFFENDERS.items(world.state)) == []
