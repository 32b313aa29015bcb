"""Laws of governance over real stakes: deposits are conserved, no ugtx votes twice."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gridtokenx.governance import parameters as table
from gridtokenx.governance import rules
from gridtokenx.governance.model import (
    BALLOT_RANKS,
    BALLOTS,
    DEPOSITS,
    DUE,
    OPEN,
    PARAMETERS,
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
from gridtokenx.staking import pools
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
    min_bond_ugtx=1, min_self_bond_ugtx=1, unbonding_blocks=1, slash_bps=900
)
PEOPLE = [bytes([number]) * 32 for number in range(1, 6)]
OPERATORS = PEOPLE[:2]
ORGANISATIONS = ("EGAT", "ERC", "MEA")
SUPPLY = 5 * 50_000
ANYBODY, SOME_OPERATOR = st.sampled_from(PEOPLE), st.sampled_from(OPERATORS)
BACK, CHOICE = st.integers(0, 1), st.sampled_from(Choice)
CONTENTS = st.one_of(
    st.builds(
        ParameterChange,
        st.sampled_from(["governance.quorum", "governance.deposit", "staking.slash"]),
        st.sampled_from(["0.2", "0.0004"]),
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
        PARAMETERS.put(self.state, b"", NUMBERS)
        staking.PARAMETERS.put(self.state, b"", STAKING)
        for person in PEOPLE:
            ledger.issue_gtx(self.state, person, 50_000)
        for operator in OPERATORS:
            first = staking.CreateValidator(operator, "x", 0, 10_000, bytes(64))
            staking_rules.add_validator(self.state, first, operator=operator, height=0)

    @property
    def power(self) -> VotingPower:
        return VotingPower(
            pools.total_bonded_ugtx(self.state),
            lambda who: pools.delegations_of(self.state, who),
            lambda who: pools.pool_ugtx(self.state, who),
        )

    def records(self):
        return {
            table.Owner.GOVERNANCE: (PARAMETERS, rules.parameters(self.state)),
            table.Owner.STAKING: (staking.PARAMETERS, pools.parameters(self.state)),
        }

    @property
    def around(self) -> Surroundings:
        def value_of(name: str) -> int:
            parameter = table.find(name)
            return table.value_in(self.records()[parameter.owner][1], parameter)

        return Surroundings(
            value_of,
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
        """A proposal on which both validators vote: most others find no quorum."""
        self.propose(who, content)
        for operator, choice in zip(OPERATORS, (first, second), strict=True):
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

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=st.integers(1, 20_000))
    def bond(self, who: bytes, operator: bytes, amount: int) -> None:
        self.attempt(staking_rules.bond, staking.Bond(operator, amount), sender=who)

    @rule(who=ANYBODY, operator=SOME_OPERATOR, amount=st.integers(1, 20_000))
    def unbond(self, who: bytes, operator: bytes, amount: int) -> None:
        command = staking.Unbond(operator, amount)
        self.attempt(staking_rules.unbond, command, sender=who, height=self.height)

    @rule(operator=SOME_OPERATOR)
    def slash(self, operator: bytes) -> None:
        staking_rules.punish_offence(
            self.state, operator, offence_height=0, backed_since=0, height=self.height
        )

    @rule(later_ms=st.integers(1, 9))
    def block(self, later_ms: int) -> None:
        self.now_ms += later_ms
        self.height += 1
        staking_rules.begin_block(self.state, height=self.height, members=(), seen=frozenset())
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
                parameter = table.find(action.name)
                target, record = self.records()[parameter.owner]
                target.put(self.state, b"", table.with_value(record, parameter, action.value))

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
        for operator in OPERATORS:
            rest = pools.pool_ugtx(self.state, operator)
            for person in PEOPLE:
                if person == operator or person not in choices:
                    continue
                worth = dict(pools.delegations_of(self.state, person)).get(operator, 0)
                totals[choices[person]] += worth
                rest -= worth
            if operator in choices:
                totals[choices[operator]] += rest
        bonded = pools.total_bonded_ugtx(self.state)
        return Tally(totals[Choice.YES], totals[Choice.NO], totals[Choice.ABSTAIN], bonded)

    @invariant()
    def every_ballot_is_ranked(self) -> None:
        expected = sorted(
            key[:8] + u64(ballot.power_ugtx) + key[8:] for key, ballot in BALLOTS.items(self.state)
        )
        assert [key for key, _ in BALLOT_RANKS.items(self.state)] == expected
        for one in rules.proposals(self.state):
            assert one.ballots == len(list(BALLOTS.items(self.state, u64(one.number))))


Governance.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestGovernance = Governance.TestCase
