"""Laws of governance over real stakes: deposits are conserved, no ugtx votes twice."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gridtokenx.chain.national import carry_to_votes, voting_power
from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules
from gridtokenx.governance.model import (
    BALLOTS,
    BALLOTS_OF,
    DEPOSITS,
    DUE,
    ENDED,
    GOVERNANCE_PARAMETERS,
    OPEN,
    VOTED,
    ApproveAsAuthority,
    CancelProposal,
    Choice,
    Emergency,
    GovernanceParameters,
    InfrastructureFunding,
    ParameterChange,
    ProposalExecuted,
    ProposalStatus,
    Propose,
    SetParameter,
    Surroundings,
    Tally,
    Vote,
    VotingPower,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay, u64
from gridtokenx.staking import model as staking
from gridtokenx.staking import penalties, pools
from gridtokenx.staking import rules as staking_rules

NUMBERS = GovernanceParameters(
    voting_period_ms=10,
    quorum_bps=1000,
    execution_delay_ms=5,
    deposit_ugtx=500,
    fee_ugtx=10,
    max_active=2,
)
STAKING = staking.StakingParameters(
    min_bond_ugtx=1,
    min_self_bond_ugtx=1,
    unbonding_blocks=2,
    jail_blocks=1,
    slash_bps=900,
    downtime_blocks=3,
    block_reward_ugtx=77,
)
PEOPLE = [bytes([number]) * 32 for number in range(1, 7)]
OPERATORS = PEOPLE[:3]
ORGANISATIONS = ("EGAT", "ERC", "MEA")
RESERVE = 5_000
SUPPLY = 6 * 50_000 + RESERVE
ANYBODY, SOME_OPERATOR = st.sampled_from(PEOPLE), st.sampled_from(OPERATORS)
BACK, CHOICE = st.integers(0, 1), st.sampled_from(Choice)
CONTENTS = st.one_of(
    st.builds(
        ParameterChange,
        st.sampled_from(["governance.quorum", "governance.deposit", "staking.slash"]),
        st.sampled_from(["0.2", "0.05"]),
    ),
    st.builds(InfrastructureFunding, ANYBODY, st.integers(1, 3000)),
    st.just(Emergency("BKK", "fire", 5)),
)


class Governance(RuleBasedStateMachine):
    """Proposals, ballots and stake move at random; money and indexes always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Overlay(MemoryReader())
        self.now_ms = 0
        self.height = 1

    @initialize()
    def genesis(self) -> None:
        GOVERNANCE_PARAMETERS.put(self.state, b"", NUMBERS)
        staking.STAKING_PARAMETERS.put(self.state, b"", STAKING)
        for person in PEOPLE:
            ledger.issue_gtx(self.state, person, 50_000)
        ledger.issue_gtx(self.state, staking.REWARD_RESERVE, RESERVE)
        for operator in OPERATORS:
            self.create(operator, 10_000)

    @property
    def power(self) -> VotingPower:
        return voting_power(self.state)

    def records(self):
        return {
            voted.Owner.GOVERNANCE: (GOVERNANCE_PARAMETERS, rules.parameters(self.state)),
            voted.Owner.STAKING: (staking.STAKING_PARAMETERS, pools.parameters(self.state)),
        }

    @property
    def around(self) -> Surroundings:
        def value_of(name: str) -> int:
            parameter = voted.find(name)
            return voted.value_in(self.records()[parameter.owner][1], parameter)

        return Surroundings(
            value_of,
            lambda _: "MET",
            lambda _: [(name, 1) for name in ORGANISATIONS],
            lambda _: 0,
            lambda *_: None,
            lambda _: None,
            lambda _: None,
            ORGANISATIONS,
        )

    def attempt(self, verb, *arguments, **named) -> None:
        trial = Overlay(self.state)
        with contextlib.suppress(Rejected):
            verb(trial, *arguments, **named)
            trial.merge()

    def stake(self, verb, *arguments, **named) -> None:
        """A command of staking as the national chain runs it: votes follow."""
        trial = Overlay(self.state)
        with contextlib.suppress(Rejected):
            carry_to_votes(trial, verb(trial, *arguments, **named))
            trial.merge()

    @rule(who=ANYBODY, content=CONTENTS)
    def propose(self, who: bytes, content) -> None:
        command = Propose("t", "d", content)
        self.attempt(rules.propose, command, sender=who, now_ms=self.now_ms, around=self.around)

    def number(self, back: int) -> int:
        """One of the newest proposals, or 0 before the first."""
        return max(sum(1 for _ in rules.proposals(self.state)) - back, 0)

    @rule(back=BACK, choices=st.dictionaries(ANYBODY, CHOICE, min_size=1))
    def vote(self, back: int, choices: dict[bytes, Choice]) -> None:
        for who, choice in choices.items():
            self.cast(who, Vote(self.number(back), choice))

    def cast(self, who: bytes, command: Vote) -> None:
        self.attempt(rules.vote, command, sender=who, now_ms=self.now_ms, power=self.power)

    @rule(who=ANYBODY, content=CONTENTS, first=CHOICE, second=CHOICE)
    def campaign(self, who: bytes, content, first: Choice, second: Choice) -> None:
        """A proposal on which two validators vote: most others find no quorum."""
        self.propose(who, content)
        for operator, choice in zip(OPERATORS, (first, second), strict=False):
            self.cast(operator, Vote(self.number(0), choice))

    @rule(back=BACK, organisation=st.sampled_from(ORGANISATIONS))
    def approve(self, back: int, organisation: str) -> None:
        self.attempt(
            rules.approve_as_authority,
            ApproveAsAuthority(self.number(back)),
            organisation=organisation,
            now_ms=self.now_ms,
            around=self.around,
        )

    @rule(who=ANYBODY, back=BACK)
    def cancel(self, who: bytes, back: int) -> None:
        command = CancelProposal(self.number(back))
        self.attempt(rules.cancel_proposal, command, sender=who, now_ms=self.now_ms)

    @rule(operator=SOME_OPERATOR, amount=st.integers(1, 20_000))
    def create(self, operator: bytes, amount: int) -> None:
        """Also one that left, in the middle of a vote."""
        command = staking.CreateValidator(operator, "x", 1000, amount, bytes(64))
        self.stake(staking_rules.add_validator, command, operator=operator, height=self.height)

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=st.integers(1, 20_000))
    def bond(self, who: bytes, operator: bytes, amount: int) -> None:
        self.stake(staking_rules.bond, staking.Bond(operator, amount), sender=who)

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=st.integers(1, 20_000) | st.none())
    def unbond(self, who: bytes, operator: bytes, amount: int | None) -> None:
        worth = dict(pools.delegations_of(self.state, who)).get(operator, 1)
        command = staking.Unbond(operator, worth if amount is None else amount)
        self.stake(staking_rules.unbond, command, sender=who, height=self.height)

    @rule(source=SOME_OPERATOR)
    def abandon(self, source: bytes) -> None:
        """Everybody leaves a validator, so that it can be forgotten."""
        for who in PEOPLE:
            self.unbond(who, source, None)

    @rule(
        who=ANYBODY,
        source=SOME_OPERATOR,
        destination=SOME_OPERATOR,
        amount=st.integers(1, 20_000),
    )
    def redelegate(self, who: bytes, source: bytes, destination: bytes, amount: int) -> None:
        command = staking.Redelegate(source, destination, amount)
        self.stake(staking_rules.redelegate, command, sender=who, height=self.height)

    @rule(operator=SOME_OPERATOR, age=st.integers(0, 3), weight=st.integers(1, 30))
    def slash(self, operator: bytes, age: int, weight: int) -> None:
        self.block(1, frozenset())
        at = max(self.height - age, 0)
        penalties.punish_offence(
            self.state,
            operator,
            offence_height=at,
            epoch_height=at - at % 2,
            backed_since=0,
            weight=weight,
            total_weight=100,
            height=self.height,
        )

    @rule(operator=SOME_OPERATOR)
    def unjail(self, operator: bytes) -> None:
        self.stake(staking_rules.unjail, sender=operator, height=self.height)

    @rule(operator=SOME_OPERATOR, payer=ANYBODY, fees=st.integers(0, 500))
    def reward(self, operator: bytes, payer: bytes, fees: int) -> None:
        self.attempt(ledger.pay_fee, payer, staking.FEES, fees)
        carry_to_votes(self.state, staking_rules.reward_proposer(self.state, operator))

    @rule(later_ms=st.integers(1, 9), away=st.frozensets(SOME_OPERATOR))
    def block(self, later_ms: int, away: frozenset[bytes]) -> None:
        self.now_ms += later_ms
        self.height += 1
        matured = staking_rules.begin_block(
            self.state, height=self.height, members=OPERATORS, seen=set(OPERATORS) - away
        )
        carry_to_votes(self.state, matured)
        events = rules.begin_block(
            self.state,
            now_ms=self.now_ms,
            grace_ms=2**40,
            power=lambda: self.power,
            around=self.around,
        )
        for event in events:
            if isinstance(event, ProposalExecuted):
                self.carry_out(event)

    def carry_out(self, event: ProposalExecuted) -> None:
        for action in event.actions:
            if isinstance(action, SetParameter):
                parameter = voted.find(action.name)
                target, record = self.records()[parameter.owner]
                target.put(self.state, b"", voted.with_value(record, parameter, action.value))

    @invariant()
    def gtx_is_conserved(self) -> None:
        accounts = [entry.gtx_ugtx for _, entry in ACCOUNTS.items(self.state)]
        assert sum(accounts) == (SUPPLY if accounts else 0)

    @invariant()
    def deposits_are_those_of_open_votes(self) -> None:
        voting = [one for one in rules.proposals(self.state) if one.status == "voting"]
        held = ledger.account(self.state, DEPOSITS).gtx_ugtx
        assert held == sum(one.deposit_ugtx for one in voting)
        expected = sorted(one.proposer + u64(one.number) for one in voting)
        assert [key for key, _ in OPEN.items(self.state)] == expected

    @invariant()
    def whatever_waits_has_its_time(self) -> None:
        waiting = (ProposalStatus.VOTING, ProposalStatus.QUEUED)
        expected = sorted(
            u64(one.due_ms) + u64(one.number)
            for one in rules.proposals(self.state)
            if one.status in waiting
        )
        assert [key for key, _ in DUE.items(self.state)] == expected

    @invariant()
    def no_ugtx_votes_twice(self) -> None:
        for one in rules.proposals(self.state):
            tally = rules.current_tally(self.state, one.number, self.power)
            parts = (tally.yes_ugtx, tally.no_ugtx, tally.abstain_ugtx)
            assert min(parts) >= 0
            assert sum(parts) <= tally.bonded_ugtx
            if one.status == "voting":
                assert tally == self.slow_tally(one.number)

    def slow_tally(self, number: int) -> Tally:
        """The tally delegation by delegation: a delegator's own vote, else its validator's."""
        choices = {key[8:]: ballot.choice for key, ballot in BALLOTS.items(self.state, u64(number))}
        totals = dict.fromkeys(Choice, 0)
        for operator, pool in staking.VALIDATORS.items(self.state):
            voted = dict.fromkeys(Choice, 0)
            for key, own in staking.DELEGATIONS.items(self.state):
                if key[32:] == operator and key[:32] in choices:
                    voted[choices[key[:32]]] += own.shares
            worth = {one: pool.value_ugtx(shares) for one, shares in voted.items()}
            for choice in Choice:
                totals[choice] += worth[choice]
            if operator in choices:
                totals[choices[operator]] += pool.stake_ugtx - sum(worth.values())
        bonded = sum(one.stake_ugtx for _, one in staking.VALIDATORS.items(self.state))
        return Tally(totals[Choice.YES], totals[Choice.NO], totals[Choice.ABSTAIN], bonded)

    @invariant()
    def ballots_are_kept_while_they_count(self) -> None:
        ballots = [key for key, _ in BALLOTS.items(self.state)]
        index = {key[32:] + key[:32] for key, _ in BALLOTS_OF.items(self.state)}
        assert index <= set(ballots)
        ended = {key for key, _ in ENDED.items(self.state)}
        for one in rules.proposals(self.state):
            place = u64(one.number)
            kept = [key for key in ballots if key[:8] == place]
            if one.status == "voting":
                assert one.ballots == len(kept)
                assert index >= set(kept)
            elif place not in ended:
                assert not kept
                assert not list(VOTED.items(self.state, place))

    @invariant()
    def the_sum_of_pools_is_what_is_bonded(self) -> None:
        pooled = sum(one.stake_ugtx for _, one in staking.VALIDATORS.items(self.state))
        assert pools.total_bonded_ugtx(self.state) == pooled
        assert ledger.account(self.state, staking.BONDED).gtx_ugtx == pooled


Governance.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestGovernance = Governance.TestCase
