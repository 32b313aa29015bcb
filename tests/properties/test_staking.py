"""Laws of staking under any sequence of commands, blocks, rewards and penalties."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, TREASURY
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.primitives.validators import Validator as Member
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.staking import penalties, pools, rules
from gridtokenx.staking.model import (
    ARRIVING,
    DELEGATIONS,
    FEES,
    LEAVING,
    RANKING,
    REDELEGATIONS,
    REWARD_RESERVE,
    STAKING_PARAMETERS,
    UNBONDINGS,
    VALIDATORS,
    Bond,
    CreateValidator,
    Redelegate,
    StakingParameters,
    Unbond,
    UnbondingFinished,
)
from tests.support.stake_world import check_laws

NUMBERS = StakingParameters(
    unit_ugtx=7,
    min_bond_ugtx=3,
    min_self_bond_ugtx=50,
    min_validators=2,
    unbonding_blocks=4,
    jail_blocks=2,
    slash_bps=777,
    downtime_blocks=2,
    downtime_slash_bps=33,
    block_reward_ugtx=9_001,
)
PEOPLE = [bytes([number]) * 32 for number in range(1, 7)]
OPERATORS = PEOPLE[:4]
RESERVE = 200_000
SUPPLY = 6 * 100_000 + RESERVE
AMOUNTS = st.integers(1, 3_000) | st.integers(1, 200_000)
ANYBODY, SOME_OPERATOR = st.sampled_from(PEOPLE), st.sampled_from(OPERATORS)


def key_of(operator: bytes) -> bytes:
    return bytes([operator[0] + 100]) * 32


class Staking(RuleBasedStateMachine):
    """Nothing is created, lost or negative; pools, entries and accounts always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Overlay(MemoryReader())
        self.height = 1
        self.members = ValidatorSet.of(Member(key_of(one), 1) for one in OPERATORS)
        # Of each delegation: shares that its owner should have, by the events that were told.
        self.told: dict[bytes, int] = {}

    def listen(self, events) -> None:
        for event in events:
            for delegator, operator, shares in rules.shares_moved(event):
                place = delegator + operator
                self.told[place] = self.told.get(place, 0) + shares

    @initialize()
    def genesis(self) -> None:
        STAKING_PARAMETERS.put(self.state, b"", NUMBERS)
        ledger.issue_gtx(self.state, REWARD_RESERVE, RESERVE)
        for person in PEOPLE:
            ledger.issue_gtx(self.state, person, 100_000)

    def attempt(self, verb, *arguments, **named) -> None:
        trial = Overlay(self.state)
        with contextlib.suppress(Rejected):
            events = verb(trial, *arguments, **named)
            trial.merge()
            self.listen(events or ())

    @rule(operator=SOME_OPERATOR, amount=AMOUNTS, commission=st.integers(0, 10_000))
    def create(self, operator: bytes, amount: int, commission: int) -> None:
        command = CreateValidator(key_of(operator), "x", commission, amount, bytes(64))
        self.attempt(rules.add_validator, command, operator=operator, height=self.height)

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=AMOUNTS)
    def bond(self, who: bytes, operator: bytes, amount: int) -> None:
        before = dict(pools.delegations_of(self.state, who)).get(operator, 0)
        self.attempt(rules.bond, Bond(operator, amount), sender=who)
        after = dict(pools.delegations_of(self.state, who)).get(operator, 0)
        assert after <= before + amount + 1  # Nobody gains by bonding but a rounded-down rest.

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=AMOUNTS)
    def unbond(self, who: bytes, operator: bytes, amount: int) -> None:
        self.attempt(rules.unbond, Unbond(operator, amount), sender=who, height=self.height)

    @rule(who=ANYBODY, operator=SOME_OPERATOR)
    def unbond_all(self, who: bytes, operator: bytes) -> None:
        worth = dict(pools.delegations_of(self.state, who)).get(operator, 0)
        own = pools.delegation(self.state, who, operator)
        if worth and not own.locked_shares:
            command = Unbond(operator, worth)
            self.listen(rules.unbond(self.state, command, sender=who, height=self.height))
            assert operator not in dict(pools.delegations_of(self.state, who))

    @rule(who=ANYBODY, source=SOME_OPERATOR, destination=SOME_OPERATOR, amount=AMOUNTS)
    def redelegate(self, who: bytes, source: bytes, destination: bytes, amount: int) -> None:
        command = Redelegate(source, destination, amount)
        self.attempt(rules.redelegate, command, sender=who, height=self.height)

    @rule(operator=SOME_OPERATOR, fees=st.integers(0, 5_000), payer=ANYBODY)
    def end_block(self, operator: bytes, fees: int, payer: bytes) -> None:
        self.attempt(ledger.pay_fee, payer, FEES, fees)
        self.listen(rules.reward_proposer(self.state, key_of(operator)))
        assert ledger.account(self.state, FEES).gtx_ugtx == 0

    @rule(away=st.frozensets(SOME_OPERATOR))
    def begin_block(self, away: frozenset[bytes]) -> None:
        self.height += 1
        keys = [key_of(one) for one in OPERATORS]
        seen = {key_of(one) for one in OPERATORS if one not in away}
        due = [one for key, one in UNBONDINGS.items(self.state) if key < u64(self.height + 1)]
        reach = {
            operator: [offence.backed_since for offence in entry.offences]
            for operator, entry in VALIDATORS.items(self.state)
        }
        events = rules.begin_block(self.state, height=self.height, members=keys, seen=seen)
        self.listen(events)
        paid = [one for one in events if isinstance(one, UnbondingFinished)]
        for entry, event in zip(due, paid, strict=True):
            assert event.paid_ugtx + event.slashed_ugtx == entry.amount_ugtx
            # Who left before any of the offences was backed has everything.
            if all(entry.started_height < since for since in reach[entry.validator]):
                assert event.slashed_ugtx == 0

    @rule(
        operators=st.lists(SOME_OPERATOR, min_size=1, max_size=3),
        age=st.integers(0, 5),
        weight=st.integers(1, 20),
    )
    def offend(self, operators: list[bytes], age: int, weight: int) -> None:
        """One or several in one epoch of four blocks, after a block begins and before its rest."""
        at = max(self.height - age, 0)
        self.begin_block(frozenset())
        for operator in operators:
            before = pools.pool_ugtx(self.state, operator)
            penalties.punish_offence(
                self.state,
                key_of(operator),
                offence_height=at,
                epoch_height=at - at % 4,
                backed_since=max(at - at % 4 - 8, 0),
                weight=weight,
                total_weight=60,
                height=self.height,
            )
            assert 0 <= pools.pool_ugtx(self.state, operator) <= before

    @rule(operator=SOME_OPERATOR)
    def unjail(self, operator: bytes) -> None:
        self.attempt(rules.unjail, sender=operator, height=self.height)

    @rule()
    def epoch(self) -> None:
        self.members, _ = rules.order_validators(self.state, self.members)
        assert self.members.total_weight > 0

    @invariant()
    def gtx_is_conserved_and_sums_agree(self) -> None:
        if list(ACCOUNTS.items(self.state)):
            check_laws(self.state, SUPPLY)

    @invariant()
    def every_entry_has_its_place_in_the_index(self) -> None:
        leaving = sorted(key[16:] + key[:16] for key, _ in UNBONDINGS.items(self.state))
        assert [key for key, _ in LEAVING.items(self.state)] == leaving
        arriving = sorted(
            key[16:80] + key[:16] + key[80:] for key, _ in REDELEGATIONS.items(self.state)
        )
        assert [key for key, _ in ARRIVING.items(self.state)] == arriving

    @invariant()
    def events_tell_of_all_shares(self) -> None:
        """Votes follow stake by these numbers alone."""
        held = {key: one.shares for key, one in DELEGATIONS.items(self.state)}
        assert {place: shares for place, shares in self.told.items() if shares} == held

    @invariant()
    def nobody_loses_more_than_everything(self) -> None:
        for _, entry in VALIDATORS.items(self.state):
            assert sum(len(one.heights) for one in entry.offences) <= 100
            if entry.slashed_bps == 10_000:
                assert (entry.stake_ugtx, entry.is_jailed) == (0, True)

    @invariant()
    def shares_add_up(self) -> None:
        held = dict.fromkeys(OPERATORS, 0)
        for key, delegation in DELEGATIONS.items(self.state):
            assert delegation.shares > 0
            held[key[32:]] += delegation.shares
        for operator in OPERATORS:
            entry = VALIDATORS.get(self.state, operator)
            assert held[operator] == (entry.shares if entry else 0), format_address(operator)
            if entry is not None and not entry.shares:
                assert entry.stake_ugtx == 0
        for operator in OPERATORS:
            values = [dict(pools.delegations_of(self.state, who)).get(operator) for who in PEOPLE]
            total = pools.pool_ugtx(self.state, operator)
            assert sum(value or 0 for value in values) <= total

    @invariant()
    def everybody_in_good_standing_is_ranked_by_stake(self) -> None:
        expected = sorted(
            u64(MAX_INT - entry.stake_ugtx) + operator
            for operator, entry in VALIDATORS.items(self.state)
            if entry.stake_ugtx and not entry.is_jailed
        )
        assert [key for key, _ in RANKING.items(self.state)] == expected

    @invariant()
    def the_treasury_never_pays(self) -> None:
        held = ledger.account(self.state, TREASURY).gtx_ugtx
        assert held >= getattr(self, "treasury", 0)
        self.treasury = held


Staking.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestStaking = Staking.TestCase
