"""Proposals from their deposit to their effect, each rule and each refusal."""

from dataclasses import dataclass, field, replace

import pytest

from gridtokenx.governance import parameters as voted
from gridtokenx.governance import rules, tally
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
    AuthorityChange,
    AuthorityManagement,
    CancelProposal,
    CarbonCreditPolicy,
    CarbonCreditRate,
    Choice,
    Emergency,
    GovernanceParameters,
    InfrastructureFunding,
    OperatorRotation,
    ParameterChange,
    Pool,
    PricingRegulation,
    ProposalConcluded,
    ProposalExecuted,
    ProposalFailed,
    ProposalStatus,
    Propose,
    SetParameter,
    Surroundings,
    Tally,
    Upgrade,
    Vote,
    VotePostponed,
    VotingPower,
)
from gridtokenx.governance.rules import Change
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TREASURY, Transferred
from gridtokenx.primitives.crypto import tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.trading.model import MarketParameters
from tests.support.refusals import refused

ALICE, BOB, CAROL, DAVE = (bytes([number]) * 32 for number in (1, 2, 3, 4))
NUMBERS = GovernanceParameters(
    voting_period_ms=1000, execution_delay_ms=200, deposit_ugtx=500, fee_ugtx=7, max_active=2
)
SOLAR = ParameterChange("carbon_credits.solar", "0.7")
ROTATE = AuthorityManagement("MET", AuthorityChange.ROTATE, "MEA", b"\x0a" * 32, b"\x0b" * 32, 0)
HALT = Emergency("BKK", "fire at a substation", 3_600_000)


@dataclass
class World:
    """A state, what its surroundings say, and stake: Alice and Bob validate, the others delegate.

    Pools: Alice 600 of which Carol 200 and Dave 100; Bob 400 of which Dave 50.
    """

    state: Overlay
    market: MarketParameters = field(default_factory=MarketParameters)
    authorities: tuple = (("EGAT", 1), ("ERC", 1), ("MEA", 1), ("PEA", 1))
    organisations: tuple = ("EGAT", "ERC", "MEA", "PAY", "PEA")
    regulator: str | None = "ERC"
    taken: list = field(default_factory=list)
    pools: dict = field(default_factory=lambda: {ALICE: 600, BOB: 400})
    delegations: dict = field(
        default_factory=lambda: {
            ALICE: [(ALICE, 300)],
            BOB: [(BOB, 350)],
            CAROL: [(ALICE, 200)],
            DAVE: [(ALICE, 100), (BOB, 50)],
        }
    )

    def value_of(self, name: str) -> int:
        parameter = voted.find(name)
        records = {voted.Owner.MARKET: self.market}
        return voted.value_in(records.get(parameter.owner, NUMBERS), parameter)

    def region_of(self, territory: str) -> str:
        if territory != "BKK":
            raise Rejected(ErrorCode.UNKNOWN_ZONE, f"no territory {territory}")
        return "MET"

    def authorities_of(self, region: str):
        if region != "MET":
            raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no chain {region}")
        return self.authorities

    def check_rotation(self, command: OperatorRotation) -> None:
        if command.new_operator in self.taken:
            raise Rejected(ErrorCode.ALREADY_REGISTERED, "somebody else's key")

    def check_change(self, command: AuthorityManagement) -> None:
        if command.organisation not in dict(self.authorities):
            raise Rejected(ErrorCode.NOT_REGISTERED, command.organisation)

    @property
    def around(self) -> Surroundings:
        return Surroundings(
            self.value_of,
            self.region_of,
            self.authorities_of,
            self.check_change,
            lambda *_: None,
            self.check_rotation,
            lambda *_: None,
            self.organisations,
            self.regulator,
        )

    @property
    def power(self) -> VotingPower:
        return VotingPower(
            sum(self.pools.values()),
            lambda who: self.delegations.get(who, []),
            lambda who: Pool(self.pools[who], self.pools[who]) if who in self.pools else None,
        )

    def move(self, who: bytes, validator: bytes, shares: int) -> None:
        """Bond or unbond: a share is worth a ugtx here."""
        rows = dict(self.delegations.get(who, []))
        rows[validator] = rows.get(validator, 0) + shares
        self.delegations[who] = list(rows.items())
        self.pools[validator] += shares
        tally.move_stake(self.state, who, validator, shares)

    def propose(self, content, *, by=CAROL, now_ms=0, description="because"):
        command = Propose("a title", description, content)
        return rules.propose(self.state, command, sender=by, now_ms=now_ms, around=self.around)

    def vote(self, who: bytes, choice="yes", *, number=1, now_ms=1):
        command = Vote(number, Choice(choice))
        return rules.vote(self.state, command, sender=who, now_ms=now_ms, power=self.power)

    def approve(self, organisation: str, *, number=1, now_ms=1):
        return rules.approve_as_authority(
            self.state,
            ApproveAsAuthority(number),
            organisation=organisation,
            now_ms=now_ms,
            around=self.around,
        )

    def cancel(self, who: bytes, *, now_ms=1):
        return rules.cancel_proposal(self.state, CancelProposal(1), sender=who, now_ms=now_ms)

    def begin(self, now_ms: int, grace_ms: int = 2**40):
        """Begin a block; unless told otherwise, the chain never stood still before it."""
        return rules.begin_block(
            self.state,
            now_ms=now_ms,
            grace_ms=grace_ms,
            power=lambda: self.power,
            around=self.around,
        )

    def gtx(self, who: bytes) -> int:
        return ledger.account(self.state, who).gtx_ugtx

    def status(self, number=1) -> ProposalStatus:
        return rules.proposal(self.state, number).status


@pytest.fixture
def world() -> World:
    state = Overlay(MemoryReader())
    GOVERNANCE_PARAMETERS.put(state, b"", NUMBERS)
    for who in (ALICE, BOB, CAROL, DAVE):
        ledger.issue_gtx(state, who, 10_000)
    return World(state)


# -- The way of a proposal -------------------------------------------------------------------------


def test_a_passed_change_is_executed_after_its_delay(world) -> None:
    (submitted,) = world.propose(SOLAR)
    assert (submitted.proposal, submitted.voting_ends_ms) == (1, 1000)
    assert (world.gtx(CAROL), world.gtx(DEPOSITS), world.gtx(TREASURY)) == (9_493, 500, 7)
    (cast,) = world.vote(ALICE)
    assert cast.power_ugtx == 600
    assert world.begin(999) == []
    (concluded,) = world.begin(1000)
    assert concluded == ProposalConcluded(
        1, ProposalStatus.QUEUED, Tally(600, 0, 0, 1000), 500, 1200
    )
    assert (world.gtx(CAROL), world.gtx(DEPOSITS)) == (9_993, 0)
    assert world.begin(1199) == []
    assert world.begin(1200) == [ProposalExecuted(1, (SetParameter("carbon_credits.solar", 700),))]
    assert world.status() is ProposalStatus.EXECUTED
    assert world.begin(9999) == []
    assert list(DUE.items(world.state)) == list(OPEN.items(world.state)) == []


def test_what_hardly_anybody_wants_costs_its_deposit(world) -> None:
    world.delegations[DAVE] = [(ALICE, 49)]
    world.propose(SOLAR)
    world.vote(DAVE)
    (concluded,) = world.begin(1000)
    assert (concluded.status, concluded.refund_ugtx) == (ProposalStatus.NO_QUORUM, 0)
    assert (world.gtx(DEPOSITS), world.gtx(TREASURY)) == (0, 507)
    assert world.begin(9999) == []


@pytest.mark.parametrize(
    ("votes", "status", "refund"),
    [
        ({ALICE: "yes", BOB: "no"}, ProposalStatus.QUEUED, 500),  # Exactly 60 %.
        ({ALICE: "yes", BOB: "no", CAROL: "no"}, ProposalStatus.REJECTED, 0),  # 400 and 600.
        ({ALICE: "no", BOB: "yes"}, ProposalStatus.REJECTED, 0),
        ({ALICE: "yes", BOB: "abstain", CAROL: "no"}, ProposalStatus.QUEUED, 500),
        ({ALICE: "abstain", BOB: "abstain"}, ProposalStatus.NO_QUORUM, 0),
        ({CAROL: "yes", DAVE: "yes"}, ProposalStatus.QUEUED, 500),  # 350 of 1000 are a third.
        ({CAROL: "yes", ALICE: "abstain", BOB: "abstain"}, ProposalStatus.NO_QUORUM, 500),
        ({BOB: "yes", CAROL: "no", DAVE: "no"}, ProposalStatus.REJECTED, 500),  # 350 and 350.
        ({}, ProposalStatus.NO_QUORUM, 0),
    ],
)
def test_quorum_and_approval(world, votes, status, refund) -> None:
    world.propose(SOLAR)
    for who, choice in votes.items():
        world.vote(who, choice)
    (concluded,) = world.begin(1000)
    assert (concluded.status, concluded.refund_ugtx) == (status, refund)


@pytest.mark.parametrize(
    ("yes", "no", "abstain", "status", "refund"),
    [
        (490, 0, 0, ProposalStatus.QUEUED, 500),  # It was lost, with its deposit,
        (490, 300, 0, ProposalStatus.QUEUED, 500),  # and passed when opponents came.
        (490, 400, 0, ProposalStatus.REJECTED, 500),
        (1, 0, 499, ProposalStatus.NO_QUORUM, 0),  # It passed: abstentions made the quorum.
    ],
)
def test_staying_away_and_abstaining_win_no_vote(world, yes, no, abstain, status, refund) -> None:
    """Of 1000. Nothing but yes makes a quorum, so no other ballot can help a proposal."""
    parts = {CAROL: yes, DAVE: no, ALICE: abstain}
    world.pools = {BOB: 1000}
    world.delegations = {who: [(BOB, part)] for who, part in parts.items() if part}
    world.propose(SOLAR)
    for who, choice in ((CAROL, "yes"), (DAVE, "no"), (ALICE, "abstain")):
        if parts[who]:
            world.vote(who, choice)
    (concluded,) = world.begin(1000)
    assert concluded.tally == Tally(yes, no, abstain, 1000)
    assert (concluded.status, concluded.refund_ugtx) == (status, refund)


def test_a_delegators_own_vote_counts_instead_of_its_validators(world) -> None:
    world.propose(SOLAR)
    world.vote(ALICE, "no")
    world.vote(DAVE, "yes")
    assert rules.current_tally(world.state, 1, world.power) == Tally(150, 500, 0, 1000)
    world.vote(DAVE, "no")
    world.vote(ALICE, "abstain")
    assert rules.current_tally(world.state, 1, world.power) == Tally(0, 150, 500, 1000)
    assert rules.proposal(world.state, 1).ballots == 2


def test_the_tally_looks_at_stake_when_the_vote_ends(world) -> None:
    world.propose(SOLAR)
    world.vote(ALICE)
    world.pools[ALICE], world.delegations[CAROL] = 400, []  # Carol, who has no ballot, left.
    (concluded,) = world.begin(1000)
    assert concluded.tally == Tally(400, 0, 0, 800)
    assert rules.current_tally(world.state, 1, world.power) == concluded.tally


def test_a_ballot_follows_its_voters_stake(world) -> None:
    world.propose(SOLAR)
    world.propose(SOLAR)
    for number in (1, 2):
        world.vote(BOB, "no", number=number)
    world.vote(DAVE, "yes")
    world.move(DAVE, ALICE, -100)
    world.move(DAVE, BOB, 150)
    world.move(CAROL, ALICE, 70)
    assert rules.current_tally(world.state, 1, world.power) == Tally(200, 350, 0, 1120)
    assert rules.current_tally(world.state, 2, world.power) == Tally(0, 550, 0, 1120)
    for _ in range(2):
        world.begin(1000)
    world.move(DAVE, BOB, 1000)
    assert rules.proposal(world.state, 1).tally == Tally(200, 350, 0, 1120)


def test_a_validators_vote_counts_also_without_stake_of_its_own(world) -> None:
    world.delegations[ALICE] = []
    world.propose(SOLAR)
    world.vote(ALICE)
    assert rules.current_tally(world.state, 1, world.power) == Tally(600, 0, 0, 1000)
    world.vote(CAROL, "no")
    assert rules.current_tally(world.state, 1, world.power) == Tally(400, 200, 0, 1000)


def test_who_becomes_a_validator_speaks_for_its_pool(world) -> None:
    world.propose(SOLAR)
    world.vote(CAROL)
    world.pools[CAROL] = 500  # Of which 100 are to come from itself.
    world.move(CAROL, CAROL, 100)
    assert rules.current_tally(world.state, 1, world.power) == Tally(800, 0, 0, 1600)


def test_a_validator_that_has_gone_takes_its_stake_along(world) -> None:
    world.propose(SOLAR)
    world.vote(DAVE)
    for who, shares in ((DAVE, -50), (BOB, -350)):
        world.move(who, BOB, shares)
    del world.pools[BOB]
    assert rules.current_tally(world.state, 1, world.power) == Tally(100, 0, 0, 600)


def test_ballots_of_votes_that_ended_are_forgotten_bit_by_bit(world, monkeypatch) -> None:
    monkeypatch.setattr(rules, "MAX_FORGOTTEN_PER_BLOCK", 2)
    world.propose(SOLAR)
    world.propose(SOLAR, now_ms=500)
    for who in (ALICE, BOB, CAROL):
        world.vote(who)
    world.vote(DAVE, number=2, now_ms=501)
    world.begin(1000)
    left = []
    for now_ms in range(1001, 1005):
        world.begin(now_ms)
        left.append(len([*BALLOTS.items(world.state), *VOTED.items(world.state)]))
    assert left == [6, 4, 3, 3]  # One ballot on the other, which is counted at two validators.
    assert [key[:32] for key, _ in BALLOTS_OF.items(world.state)] == [DAVE]
    assert list(ENDED.items(world.state)) == []
    assert rules.current_tally(world.state, 1, world.power) == Tally(1000, 0, 0, 1000)


def test_an_account_votes_on_so_many_at_a_time(world, monkeypatch) -> None:
    monkeypatch.setattr(rules, "MAX_OPEN_BALLOTS", 2)
    for by in (ALICE, BOB, CAROL):
        world.propose(SOLAR, by=by)
    for number in (1, 2):
        world.vote(ALICE, number=number)
    assert "wait for one of 1, 2 to end" in refused(
        ErrorCode.TOO_MANY_PROPOSALS, world.vote, ALICE, number=3
    )
    world.vote(ALICE, "no", number=2)  # What it has said it may change.
    world.vote(BOB, number=3)
    world.begin(1000)
    world.propose(SOLAR, now_ms=1000)
    world.vote(ALICE, number=4, now_ms=1001)
    assert rules.current_tally(world.state, 4, world.power) == Tally(600, 0, 0, 1000)


def test_a_validator_may_delegate_to_another(world) -> None:
    world.delegations[ALICE].append((BOB, 60))
    world.pools[BOB] += 60
    world.propose(SOLAR)
    world.vote(ALICE, "yes")
    world.vote(BOB, "no")
    assert rules.current_tally(world.state, 1, world.power) == Tally(660, 400, 0, 1060)


# -- What may be proposed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "actions"),
    [
        (
            PricingRegulation(2000, 9000, 20_000, 0),
            (
                SetParameter("pricing.min", 2000),
                SetParameter("pricing.max", 9000),
                SetParameter("pricing.peak_multiplier", 20_000),
            ),
        ),
        (
            CarbonCreditPolicy((CarbonCreditRate("wind", 1), CarbonCreditRate("solar", 2))),
            (SetParameter("carbon_credits.wind", 1), SetParameter("carbon_credits.solar", 2)),
        ),
        (Upgrade("0.2.0", 5000), (Upgrade("0.2.0", 5000),)),
        (ParameterChange("governance.quorum", "0.4"), (SetParameter("governance.quorum", 4000),)),
    ],
)
def test_contents_become_actions(world, content, actions) -> None:
    world.propose(content)
    world.vote(ALICE)
    world.begin(1000)
    assert world.begin(1200) == [ProposalExecuted(1, actions)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (ParameterChange("carbon_credits.sun", "1"), ErrorCode.UNKNOWN_PARAMETER),
        (ParameterChange("carbon_credits.solar", "9"), ErrorCode.VALUE_OUT_OF_RANGE),
        (ParameterChange("carbon_credits.solar", "0.5"), ErrorCode.DUPLICATE),
        (ParameterChange("pricing.min", "11"), ErrorCode.VALUE_OUT_OF_RANGE),
        (PricingRegulation(2000, 1000, 20_000, 0), ErrorCode.VALUE_OUT_OF_RANGE),
        (PricingRegulation(1000, 2000, 9_999, 0), ErrorCode.VALUE_OUT_OF_RANGE),
        (PricingRegulation(1000, 10_000, 15_000, 0), ErrorCode.DUPLICATE),
        (PricingRegulation(1, 10_000, 15_000, 2**40), ErrorCode.OUT_OF_RANGE),
        (CarbonCreditPolicy((CarbonCreditRate("peat", 1),)), ErrorCode.UNKNOWN_PARAMETER),
        (CarbonCreditPolicy((CarbonCreditRate("wind", 9999),)), ErrorCode.VALUE_OUT_OF_RANGE),
        (CarbonCreditPolicy((CarbonCreditRate("wind", 1),) * 2), ErrorCode.DUPLICATE),
        (replace(HALT, territory="XXX"), ErrorCode.UNKNOWN_ZONE),
        (replace(HALT, territory="MET"), ErrorCode.UNKNOWN_ZONE),
        (replace(ROTATE, chain="XXX"), ErrorCode.UNKNOWN_SHARD),
        (replace(ROTATE, organisation="NEW"), ErrorCode.NOT_REGISTERED),
    ],
)
def test_contents_that_are_refused(world, content, code) -> None:
    refused(code, world.propose, content)
    assert (world.gtx(CAROL), world.gtx(DEPOSITS)) == (10_000, 0)
    if code is not ErrorCode.OUT_OF_RANGE:  # The one refusal that depends on the time.
        refused(code, rules.preview, content, world.around)


def test_a_preview_shows_old_and_new(world) -> None:
    assert rules.preview(SOLAR, world.around) == (
        Change("carbon_credits.solar", "credits/kWh", "0.5", "0.7"),
    )
    shown = rules.preview(PricingRegulation(2000, 10_000, 20_000, 0), world.around)
    assert [(one.old, one.new) for one in shown] == [("1", "2"), ("10", "10"), ("1.5", "2")]
    assert rules.preview(HALT, world.around) == ()


def test_a_price_band_waits_for_its_date(world) -> None:
    world.propose(PricingRegulation(2000, 9000, 20_000, 5000))
    world.vote(ALICE)
    (concluded,) = world.begin(1000)
    assert concluded.executes_ms == 5000
    assert world.begin(4999) == []
    assert isinstance(world.begin(5000)[0], ProposalExecuted)


def test_what_no_longer_fits_fails_and_changes_nothing(world) -> None:
    world.propose(ParameterChange("pricing.min", "10"))
    world.propose(ParameterChange("pricing.max", "9"), by=DAVE)
    for number in (1, 2):
        world.vote(ALICE, number=number)
    world.begin(1000)
    world.market = replace(world.market, max_price_mthb=9000)
    (failed,) = world.begin(1200)
    assert isinstance(failed, ProposalFailed)
    assert "pricing.min would be 10" in failed.reason
    (executed,) = world.begin(1201)
    assert executed.proposal == 2
    assert world.status() is ProposalStatus.FAILED
    assert rules.fail(world.state, 2, "the chain is gone") == [
        ProposalFailed(2, "the chain is gone")
    ]
    assert world.status(2) is ProposalStatus.FAILED


def test_changes_that_contradict_each_other_are_not_executed_together(world) -> None:
    world.propose(ParameterChange("pricing.min", "9.5"))
    world.propose(ParameterChange("pricing.max", "9"), by=DAVE)
    for number in (1, 2):
        world.vote(ALICE, number=number)
    world.begin(1000)
    (executed,) = world.begin(1200)
    (action,) = executed.actions
    world.market = voted.with_value(world.market, voted.find(action.name), action.value)
    (failed,) = world.begin(1200)
    assert isinstance(failed, ProposalFailed)


def test_funding_is_paid_from_the_treasury_or_fails(world) -> None:
    ledger.issue_gtx(world.state, TREASURY, 1000)
    for amount in (900, 200):
        world.propose(InfrastructureFunding(BOB, amount))
    for number in (1, 2):
        world.vote(ALICE, number=number)
    world.begin(1000)
    transferred, executed = world.begin(1200)
    (failed,) = world.begin(1201)
    assert isinstance(transferred, Transferred)
    assert (world.gtx(BOB), world.gtx(TREASURY)) == (10_900, 114)
    assert (executed.actions, failed.proposal) == ((), 2)


@pytest.mark.parametrize("name", ["bonded", "unbonding", "reward reserve", "deposits", "treasury"])
def test_nothing_is_paid_to_accounts_without_a_key(world, name) -> None:
    """What lies on them is bound by rules of their own."""
    ledger.issue_gtx(world.state, TREASURY, 1000)
    to = tagged_hash("gtx.account", name.encode())
    refused(ErrorCode.NOT_PERMITTED, world.propose, InfrastructureFunding(to, 1))


# -- Limits of proposing ---------------------------------------------------------------------------


def test_proposals_of_an_account_are_limited(world) -> None:
    for _ in range(2):
        world.propose(SOLAR)
    refused(ErrorCode.TOO_MANY_PROPOSALS, world.propose, SOLAR)
    world.propose(SOLAR, by=DAVE)
    world.begin(1000)
    world.propose(SOLAR, now_ms=1000)


def test_texts_and_deposits_are_checked(world) -> None:
    refused(ErrorCode.TOO_LARGE, world.propose, SOLAR, description="ก" * 3334)
    world.propose(SOLAR, description="ก" * 3333)
    assert rules.text(world.state, 1).description == "ก" * 3333
    refused(ErrorCode.INSUFFICIENT_BALANCE, world.propose, SOLAR, by=b"\x09" * 32)
    refused(ErrorCode.PROPOSAL_NOT_FOUND, rules.text, world.state, 9)


def test_a_proposal_is_taken_back_before_the_first_vote(world) -> None:
    world.propose(SOLAR)
    refused(ErrorCode.NOT_PERMITTED, world.cancel, ALICE)
    refused(ErrorCode.VOTING_CLOSED, world.cancel, CAROL, now_ms=1000)
    (concluded,) = world.cancel(CAROL)
    assert (concluded.status, concluded.refund_ugtx) == (ProposalStatus.CANCELLED, 500)
    refused(ErrorCode.VOTING_CLOSED, world.vote, ALICE)
    assert world.begin(1000) == []
    world.propose(SOLAR)
    world.propose(HALT)
    world.vote(ALICE, number=2)
    world.approve("MEA", number=3)
    for number in (2, 3):
        refused(
            ErrorCode.NOT_PERMITTED,
            rules.cancel_proposal,
            *(world.state, CancelProposal(number)),
            sender=CAROL,
            now_ms=1,
        )


# -- Voting ----------------------------------------------------------------------------------------


def test_votes_that_are_refused(world) -> None:
    assert "none yet" in refused(ErrorCode.PROPOSAL_NOT_FOUND, world.vote, ALICE)
    world.propose(SOLAR)
    assert "newest is 1" in refused(ErrorCode.PROPOSAL_NOT_FOUND, world.vote, ALICE, number=2)
    refused(ErrorCode.VOTING_CLOSED, world.vote, ALICE, now_ms=1000)
    refused(ErrorCode.NO_VOTING_POWER, world.vote, b"\x09" * 32)
    world.propose(HALT)
    refused(ErrorCode.NOT_PERMITTED, world.vote, ALICE, number=2)


def test_votes_that_end_together_are_counted_in_turn(world, monkeypatch) -> None:
    monkeypatch.setattr(rules, "MAX_DUE_PER_BLOCK", 1)
    world.propose(SOLAR)
    world.propose(SOLAR)
    assert [event.proposal for event in world.begin(1000)] == [1]
    assert [event.proposal for event in world.begin(1010)] == [2]


# -- Authorities -----------------------------------------------------------------------------------


def test_an_emergency_passes_with_two_thirds_of_the_authorities_at_once(world) -> None:
    world.propose(HALT)
    refused(ErrorCode.NOT_PERMITTED, world.approve, "NEW")
    assert len(world.approve("EGAT")) == 1
    refused(ErrorCode.DUPLICATE, world.approve, "EGAT")
    assert [world.approve("MEA")[0].approved_weight] == [2]
    approved, concluded, executed = world.approve("ERC")
    assert (approved.approved_weight, approved.total_weight) == (3, 4)
    assert (concluded.refund_ugtx, executed.actions) == (500, (HALT,))
    refused(ErrorCode.VOTING_CLOSED, world.approve, "PEA")
    assert world.begin(9999) == []
    assert world.status() is ProposalStatus.EXECUTED


def test_an_emergency_that_authorities_do_not_see_costs_its_deposit(world) -> None:
    world.propose(HALT)
    world.approve("EGAT")
    (concluded,) = world.begin(1000)
    assert (concluded.status, concluded.refund_ugtx) == (ProposalStatus.NO_QUORUM, 0)


@pytest.mark.parametrize(
    ("votes", "approvals", "status"),
    [
        ({ALICE: "yes"}, ("EGAT", "ERC", "PEA"), ProposalStatus.QUEUED),
        ({ALICE: "yes"}, ("EGAT", "ERC"), ProposalStatus.REJECTED),
        ({ALICE: "yes", BOB: "no"}, ("EGAT", "ERC", "MEA", "PEA"), ProposalStatus.REJECTED),
        ({DAVE: "yes"}, ("EGAT", "ERC", "MEA", "PEA"), ProposalStatus.NO_QUORUM),
    ],
)
def test_authorities_change_by_stake_and_by_authorities(world, votes, approvals, status) -> None:
    world.propose(ROTATE)
    for who, choice in votes.items():
        world.vote(who, choice)
    for organisation in approvals:
        world.approve(organisation)
    (concluded,) = world.begin(1000)
    assert concluded.status is status
    if status is ProposalStatus.QUEUED:
        assert world.begin(1200) == [ProposalExecuted(1, (ROTATE,))]


def test_approvals_count_by_the_authorities_of_the_day(world) -> None:
    world.propose(ROTATE)
    world.vote(ALICE)
    for organisation in ("EGAT", "ERC", "PEA"):
        world.approve(organisation)
    world.authorities = (("EGAT", 1), ("MEA", 4))
    (concluded,) = world.begin(1000)
    assert concluded.status is ProposalStatus.REJECTED


def test_a_change_of_authorities_that_vanished_meanwhile_does_not_stop_the_chain(world) -> None:
    world.propose(ROTATE)
    world.vote(ALICE)

    def gone(region: str):
        raise Rejected(ErrorCode.UNKNOWN_SHARD, region)

    around = replace(world.around, authorities_of=gone)
    (concluded,) = rules.begin_block(
        world.state, now_ms=1000, grace_ms=1000, power=lambda: world.power, around=around
    )
    assert concluded.status is ProposalStatus.REJECTED


@pytest.mark.parametrize("approves", [True, False])
def test_trade_between_territories_needs_the_regulator(world, approves) -> None:
    wider = ParameterChange("market.max_trade_tier", "3")
    world.propose(wider)
    world.vote(ALICE)
    assert "ERC may approve" in refused(ErrorCode.NOT_PERMITTED, world.approve, "MEA")
    if approves:
        world.approve("ERC")
    (concluded,) = world.begin(1000)
    expected = ProposalStatus.QUEUED if approves else ProposalStatus.REJECTED
    assert concluded.status is expected
    unregulated = replace(world.around, regulator=None)
    refused(ErrorCode.NOT_PERMITTED, rules.preview, wider, unregulated)


def test_only_what_concerns_authorities_is_approved_by_them(world) -> None:
    world.propose(SOLAR)
    refused(ErrorCode.NOT_PERMITTED, world.approve, "MEA")


def test_thresholds_are_exact() -> None:
    assert not tally.has_two_thirds(2, 3)
    assert tally.has_two_thirds(3, 4)
    assert tally.has_quorum(Tally(5, 0, 0, 10), 5000)
    assert not tally.has_quorum(Tally(4, 3, 3, 10), 5000)
    assert not tally.has_quorum(Tally(0, 0, 0, 0), 0)
    assert not tally.is_approved(Tally(59, 41, 0, 100), 6000)
    assert tally.is_approved(Tally(60, 40, 900, 1000), 6000)
    assert not tally.is_approved(Tally(0, 0, 5, 10), 0)


# -- Keys of organisations -------------------------------------------------------------------------


NEW_KEY = bytes([77]) * 32


def test_another_operator_key_needs_the_vote_and_the_regulator(world) -> None:
    content = OperatorRotation("MEA", NEW_KEY)
    for number, approver in ((1, None), (2, "ERC")):
        world.propose(content, now_ms=number * 10_000)
        world.vote(ALICE, number=number, now_ms=number * 10_000 + 1)
        for other in ("MEA", "PEA", "PAY"):
            refused(
                ErrorCode.NOT_PERMITTED,
                world.approve,
                other,
                number=number,
                now_ms=number * 10_000 + 1,
            )
        if approver is not None:
            world.approve(approver, number=number, now_ms=number * 10_000 + 1)
        world.begin(number * 10_000 + 1_000)
    assert world.status(1) is ProposalStatus.REJECTED
    assert world.begin(29_000) == [ProposalExecuted(2, (content,))]


@pytest.mark.parametrize(
    ("approvers", "status"),
    [
        (("MEA", "PEA"), ProposalStatus.REJECTED),
        (("EGAT", "MEA", "PEA"), ProposalStatus.QUEUED),
        (("MEA", "PAY", "PEA"), ProposalStatus.QUEUED),
    ],
)
def test_the_regulators_own_key_needs_two_thirds_of_the_others(world, approvers, status) -> None:
    world.propose(OperatorRotation("ERC", NEW_KEY))
    world.vote(ALICE)
    refused(ErrorCode.NOT_PERMITTED, world.approve, "ERC")
    for name in approvers:
        world.approve(name)
    world.begin(1000)
    assert world.status() is status


def test_a_key_of_somebody_else_is_refused_now_and_at_its_time(world) -> None:
    world.taken = [NEW_KEY]
    refused(ErrorCode.ALREADY_REGISTERED, world.propose, OperatorRotation("MEA", NEW_KEY))
    world.taken = []
    world.propose(OperatorRotation("MEA", NEW_KEY))
    world.vote(ALICE)
    world.approve("ERC")
    world.begin(1000)
    world.taken = [NEW_KEY]
    (failed,) = world.begin(1200)
    assert "somebody else" in failed.reason
    world.regulator = None
    rotation = OperatorRotation("MEA", bytes([78]) * 32)
    assert "has none" in refused(ErrorCode.NOT_PERMITTED, world.propose, rotation)


def test_a_vote_that_was_to_end_in_a_standstill_has_the_time_that_it_had_left(world) -> None:
    period_ms = rules.parameters(world.state).voting_period_ms
    world.begin(0)
    world.propose(SOLAR)
    last_ms = period_ms - 300
    world.begin(last_ms, grace_ms=period_ms)
    back_ms = last_ms + 5_000
    assert world.begin(back_ms, grace_ms=100) == [VotePostponed(1, back_ms + 300)]
    world.vote(ALICE, now_ms=back_ms + 200)
    assert world.begin(back_ms + 299, grace_ms=1_000) == []
    (concluded,) = world.begin(back_ms + 300, grace_ms=1_000)
    assert concluded.status is ProposalStatus.QUEUED
