"""The national chain's own work: stake elects, votes act on the regions, fees find their pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.national import value_of, voting_power
from gridtokenx.chain.validator_sets import ValidatorSetOrdered, current_set
from gridtokenx.cluster.devnet import dev_key, local_genesis, operator_key, validator_name
from gridtokenx.consensus.evidence import Evidence, double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.governance import rules as governance
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    AuthorityChange,
    AuthorityManagement,
    Choice,
    Emergency,
    InfrastructureFunding,
    OperatorRotation,
    ParameterChange,
    ProposalExecuted,
    ProposalFailed,
    Propose,
)
from gridtokenx.governance.model import Vote as Ballot
from gridtokenx.grid.model import HaltTerritory, TerritoryHalted
from gridtokenx.interchain.model import MessageFailed
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Deposit, Transfer
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import LicenceClass, OperatorRotated, RegisterParticipant, Role
from gridtokenx.staking import pools
from gridtokenx.staking.model import (
    BONDED,
    REWARD_RESERVE,
    Bond,
    CreateValidator,
    Redelegate,
    RewardPaid,
    Unbond,
    ValidatorJailed,
    proof_bytes,
)
from gridtokenx.trading import rules as trading
from tests.support.chains_world import KEYS, Chains

GTX = 10**6
DEV = dev_key("dev")
STAKES = [dev_key(f"{validator_name(index)[1]} stake") for index in range(4)]


def propose(chains: Chains, content) -> int:  # type: ignore[no-untyped-def]
    """Put something to the vote and let all stake say yes."""
    chains.national.send(DEV, Propose("a title", "and why", content))
    chains.round()
    assert chains.national.refused == []
    return 1


def pass_vote(chains: Chains, number: int) -> None:
    for key in STAKES:
        chains.national.send(key, Ballot(number, Choice.YES))
    chains.settle(75)  # 60 s of vote and 10 s of delay, in blocks of one second; then the regions.
    assert chains.national.refused == []


def test_gtx_is_constant_whatever_stake_earns(chains: Chains) -> None:
    national = chains.national
    national.send(DEV, Transfer(dev_key("friend").public_key, Asset.GTX, 5))
    chains.settle(3)
    reserve = national.spec.national.reward_reserve_ugtx
    earned = reserve - ledger.account(national.values, REWARD_RESERVE).gtx_ugtx
    assert earned == national.height * GTX  # The default block reward is 1 gtx.
    assert pools.total_bonded_ugtx(national.values) == 400_000 * GTX + earned
    assert ledger.account(national.values, BONDED).gtx_ugtx == 400_000 * GTX + earned
    paid = [event for event in national.events if isinstance(event, RewardPaid)]
    assert {event.validator for event in paid} == {key.public_key for key in STAKES}
    chains.check()


def test_commands_know_their_kind_of_chain(chains: Chains) -> None:
    chains.national.send(operator_key("payment"), Deposit(DEV.public_key, 1))
    chains.regions["MET"].send(DEV, Bond(STAKES[0].public_key, GTX))
    chains.round()
    for chain in (chains.national, chains.regions["MET"]):
        assert [one.code for one in chain.refused] == [ErrorCode.NOT_PERMITTED]


def test_a_voted_parameter_is_in_force_on_every_region(chains: Chains) -> None:
    """The seed's example: carbon_credits.solar to 0.7."""
    number = propose(chains, ParameterChange("carbon_credits.solar", "0.7"))
    for region in chains.regions.values():
        assert trading.parameters(region.values).carbon_mcr_per_kwh("solar") == 500
    pass_vote(chains, number)
    assert value_of(chains.national.values, "carbon_credits.solar") == 700
    for region in chains.regions.values():
        assert trading.parameters(region.values).carbon_mcr_per_kwh("solar") == 700
    executed = [one for one in chains.national.events if isinstance(one, ProposalExecuted)]
    assert [one.proposal for one in executed] == [number]
    chains.check()


def test_the_numbers_of_stake_and_votes_change_here_alone(chains: Chains) -> None:
    number = propose(chains, ParameterChange("staking.max_validators", "20"))
    pass_vote(chains, number)
    assert pools.parameters(chains.national.values).max_validators == 20
    assert chains.regions["MET"].blocks[5].inbox == ()


def test_no_vote_lets_stake_leave_before_evidence_may_come(chains: Chains) -> None:
    national = chains.national
    national.send(DEV, Propose("a title", "and why", ParameterChange("staking.unbonding", "479")))
    chains.round()
    (refused,) = national.refused
    assert refused.code is ErrorCode.VALUE_OUT_OF_RANGE
    assert "must be 480 or more" in refused.detail
    propose(chains, ParameterChange("staking.unbonding", "480"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("staking.min_self_bond", "100001", "at most 100000 gtx"),
        ("staking.unit", "100001", "at most 100000 gtx"),
        ("staking.min_bond", "10001", "above staking.min_self_bond"),
        ("staking.min_validators", "5", "at most 4 number"),
        ("staking.min_validators", "3", "at least 4 number"),
        ("staking.max_validators", "3", "above staking.max_validators"),
        ("staking.max_validators", "4", "must be 5 or more"),
        ("staking.max_validators", "100", None),
        ("staking.weight_cap", "0.05", None),
        ("staking.weight_cap", "0.0477", "0.05 to 0.3333"),
        ("staking.downtime", "62", "must be 63 blocks or more"),
        ("staking.downtime", "63", None),
        ("staking.slash", "0.0099", "0.01 to 1"),
        ("governance.voting_period", "59", "at least 60 s"),
        ("governance.execution_delay", "9", "at least 10 s"),
        ("governance.voting_period", "2592000", None),
        ("governance.deposit", "20000", "may be 20000"),
        ("governance.deposit", "19980", None),
        ("governance.fee", "19100", "a twentieth of all that is bonded"),
        ("governance.quorum", "0.6667", "0.2 to 0.6666"),
        ("governance.approval", "0.6667", "0.5 to 0.6666"),
        ("governance.quorum", "0.6666", None),
        ("governance.max_active", "0", "1 to 100"),
    ],
)
def test_what_would_stop_votes_or_elections_is_refused_with_what_is_possible(
    chains: Chains, name: str, value: str, told: str | None
) -> None:
    chains.national.send(DEV, Propose("a title", "and why", ParameterChange(name, value)))
    chains.national.grow(None)
    details = [one.detail for one in chains.national.refused]
    assert [told in detail for detail in details] == ([] if told is None else [True])


def test_what_was_possible_when_it_was_proposed_is_looked_at_again(chains: Chains) -> None:
    number = propose(chains, ParameterChange("staking.min_self_bond", "100000"))
    national = chains.national
    national.send(STAKES[0], Unbond(STAKES[0].public_key, 50_000 * GTX))
    pass_vote(chains, number)
    (failed,) = [one for one in national.events if isinstance(one, ProposalFailed)]
    assert "staking.min_self_bond may be at most 50" in failed.reason
    assert pools.parameters(national.values).min_self_bond_ugtx == 10_000 * GTX


def test_the_treasury_pays_no_account_without_a_key(chains: Chains) -> None:
    chains.national.send(DEV, Propose("a", "b", InfrastructureFunding(BONDED, 1)))
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.NOT_PERMITTED]


def test_votes_follow_stake_that_moves(chains: Chains) -> None:
    """A ballot counts for the stake that its voter has at the end, wherever it lies then."""
    national = chains.national
    national.send(DEV, Bond(STAKES[0].public_key, 1_000 * GTX))
    number = propose(chains, ParameterChange("carbon_credits.solar", "0.7"))
    national.send(DEV, Ballot(number, Choice.NO))
    national.send(STAKES[1], Ballot(number, Choice.YES))
    national.grow(None)
    counted = []
    for command in (
        Redelegate(STAKES[0].public_key, STAKES[1].public_key, 900 * GTX),
        Bond(STAKES[2].public_key, 500 * GTX),
        Unbond(STAKES[2].public_key, 200 * GTX),
    ):
        national.send(DEV, command)
        national.grow(None)
        assert national.refused == []
        tally = governance.current_tally(national.values, number, voting_power(national.values))
        counted.append(round(tally.no_ugtx / GTX))
        assert round(tally.yes_ugtx / GTX / 1000) == 100
    assert counted == [1_000, 1_500, 1_300]


def test_an_emergency_halts_a_territory_as_soon_as_authorities_approve(chains: Chains) -> None:
    number = propose(chains, Emergency("CNX", "line down", 3_600_000))
    for name in ("egat", "mea", "pea"):
        chains.national.send(operator_key(name), ApproveAsAuthority(number))
    chains.settle(3)
    assert chains.national.refused == []
    halted = [
        (name, event.territory, event.by)
        for name, region in chains.regions.items()
        for event in region.events
        if isinstance(event, TerritoryHalted)
    ]
    assert halted == [("NOR", "CNX", "governance")]


@pytest.mark.parametrize("place", ["MET", "XXX"])
def test_an_emergency_is_of_a_territory(chains: Chains, place: str) -> None:
    content = Emergency(place, "line down", 3_600_000)
    chains.national.send(DEV, Propose("No such territory", "", content))
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.UNKNOWN_ZONE]


def test_a_stranger_approves_nothing(chains: Chains) -> None:
    number = propose(chains, Emergency("CNX", "line down", 3_600_000))
    chains.national.send(DEV, ApproveAsAuthority(number))
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.NOT_PERMITTED]


def test_a_vote_rotates_an_authority(chains: Chains) -> None:
    """Stake and authorities agree; the region switches at its epoch, the checkpoints follow."""
    old, new = (dev_key(validator_name(index)[1]).public_key for index in (0, 4))
    number = propose(
        chains, AuthorityManagement("MET", AuthorityChange.ROTATE, "egat", old, new, 0)
    )
    for name in ("mea", "pea", "erc"):
        chains.national.send(operator_key(name), ApproveAsAuthority(number))
    pass_vote(chains, number)
    met = chains.regions["MET"]
    ordered = [event for event in met.events if isinstance(event, ValidatorSetOrdered)]
    assert [event.first_height for event in ordered] == [180]
    while met.height < 190:
        chains.grow_region("MET")
        if met.height % 10 == 0:
            chains.relay("MET")
            chains.national.grow(None)
    chains.settle(2)
    members = current_set(met.values, met.height).validators
    assert members.index_of(new) is not None
    assert members.index_of(old) is None
    assert chains.region("MET").validators == members
    assert chains.national.refused == []
    assert not [one for one in chains.national.events if isinstance(one, ProposalFailed)]


def three_organisations() -> Chains:
    """Two nodes each of egat, mea and pea, on every region."""
    genesis = local_genesis(authorities=7)
    keep = [genesis.chains[0].validators[index] for index in (0, 1, 2, 4, 5, 6)]
    regions = tuple(replace(one, validators=tuple(keep)) for one in genesis.chains)
    return Chains(replace(genesis, chains=regions))


@pytest.mark.parametrize(
    ("change", "organisation", "key", "new", "refusal"),
    [
        (AuthorityChange.ROTATE, "mea", 1, 9, None),
        (AuthorityChange.SUSPEND, "mea", 1, None, None),
        (AuthorityChange.REMOVE, "egat", 0, None, None),
        (AuthorityChange.ADD, "erc", 9, None, None),
        (AuthorityChange.ADD, "mea", 9, None, "mea would have 3 of 7, a third"),
    ],
)
def test_three_equal_organisations_change_by_vote(change, organisation, key, new, refusal) -> None:
    """A key that leaves is its organisation's, too; who had a third already may keep it."""
    chains = three_organisations()
    chains.national.grow(None)
    keys = [dev_key(validator_name(index)[1]).public_key for index in range(10)]
    content = AuthorityManagement(
        "MET",
        change,
        organisation,
        keys[key],
        None if new is None else keys[new],
        1 if change is AuthorityChange.ADD else 0,
    )
    chains.national.send(DEV, Propose("a title", "and why", content))
    chains.national.grow(None)
    told = [one.detail for one in chains.national.refused]
    assert (refusal is None) == (not told)
    assert refusal is None or refusal in told[0]


def test_stake_elects_two_epochs_ahead(chains: Chains) -> None:
    """A fifth validator bonds in epoch 0; the set is ordered at 60 and signs from 180 on."""
    national = chains.national
    consensus_key = KEYS[dev_key(validator_name(5)[1]).public_key]
    proof = consensus_key.sign(
        proof_bytes(national.spec.chain_id, DEV.public_key, consensus_key.public_key)
    )
    national.send(DEV, CreateValidator(consensus_key.public_key, "fifth", 100, 20_000 * GTX, proof))
    national.grow(None)
    assert national.refused == []
    while national.height < 182:
        national.grow(None)
    index_of = [
        current_set(national.values, height).validators.index_of(consensus_key.public_key)
        for height in (179, 180)
    ]
    assert index_of[0] is None
    assert index_of[1] is not None
    last_of_old, first_of_new = (national.blocks[height].header for height in (179, 180))
    assert last_of_old.next_set_hash == first_of_new.set_hash != last_of_old.set_hash


def two_votes(chains: Chains, validator: int, height: int) -> Evidence:
    """Evidence that a validator committed to two blocks of a height."""
    national = chains.national
    accused = KEYS[dev_key(validator_name(validator)[1]).public_key]
    members = current_set(national.values, height).validators
    index = members.index_of(accused.public_key)
    assert index is not None
    votes = []
    for word in (b"one", b"two"):
        signed = vote_bytes(Phase.COMMIT, national.spec.chain_id, height, 0, sha256(word))
        votes.append(Vote(Phase.COMMIT, height, 0, sha256(word), index, accused.sign(signed)))
    return double_vote(members, *votes)


def test_evidence_reaches_the_stake_that_elected_the_epochs_set(chains: Chains) -> None:
    """The set in force was ordered in the genesis; what left before its last election is free."""
    national = chains.national
    while national.height < 185:
        national.grow(None)
    national.evidence = (two_votes(chains, 0, 182), two_votes(chains, 1, 181))
    national.grow(None)
    for key in STAKES[:2]:
        (offence,) = pools.validator(national.values, key.public_key).offences
        assert (offence.epoch_height, offence.backed_since) == (180, 60)
        assert offence.convicted_height == 186
        assert (offence.own_bps, offence.slash_bps) == (500, 10_000)  # Together a half.
    chains.check()


def test_evidence_on_the_national_chain_costs_stake(chains: Chains) -> None:
    national = chains.national
    before = pools.pool_ugtx(national.values, STAKES[0].public_key)
    national.evidence = (two_votes(chains, 0, 1),)
    national.grow(None)
    jailed = [event for event in national.events if isinstance(event, ValidatorJailed)]
    assert [event.slashed_ugtx for event in jailed] == [before * 500 // 10_000]
    chains.check()


# -- Keys of organisations -------------------------------------------------------------------------


def operators(chains: Chains, name: str) -> set[bytes]:
    """The key of an organisation on all chains."""
    states = [chain.values for chain in (chains.national, *chains.regions.values())]
    return {registry.organisation(values, name).operator for values in states}


def vote_for_a_key(chains: Chains, name: str, key: bytes, *approvers: str) -> None:
    number = propose(chains, OperatorRotation(name, key))
    for approver in approvers:
        chains.national.send(operator_key(approver), ApproveAsAuthority(number))
    pass_vote(chains, number)


def test_a_stolen_payment_key_is_replaced_on_every_chain(chains: Chains) -> None:
    old, new = operator_key("payment"), dev_key("new payment key")
    met = chains.regions["MET"]
    account = registry.organisation(met.values, "payment").account
    vote_for_a_key(chains, "payment", new.public_key, "erc")
    assert operators(chains, "payment") == {new.public_key}
    assert registry.payment_authority(met.values) == new.public_key
    assert registry.organisation(met.values, "payment").account == account
    told = [
        (name, event.organisation, event.operator)
        for name, region in chains.regions.items()
        for event in region.events
        if isinstance(event, OperatorRotated)
    ]
    assert told == [(name, "payment", new.public_key) for name in chains.regions]
    met.send(old, Deposit(DEV.public_key, 1_000_000))
    met.send(new, Deposit(DEV.public_key, 2_000_000))
    chains.settle(2)
    assert ledger.account(met.values, DEV.public_key).thb_uthb == 2_000_000
    chains.check()


def test_the_regulators_key_is_replaced_by_the_others(chains: Chains) -> None:
    new = dev_key("new regulator key")
    vote_for_a_key(chains, "erc", new.public_key, "egat", "mea", "pea")
    assert operators(chains, "erc") == {new.public_key}
    met = chains.regions["MET"]
    met.send(operator_key("erc"), HaltTerritory("BKK", "I am still here"))
    met.grow(None)
    assert [one.code for one in met.refused] == [ErrorCode.ACCOUNT_NOT_FOUND]
    met.send(new, HaltTerritory("BKK", "drill"))
    met.grow(None)
    assert met.refused == []


def test_without_its_approvals_a_key_stays(chains: Chains) -> None:
    before = operators(chains, "erc")
    vote_for_a_key(chains, "erc", dev_key("new regulator key").public_key, "mea", "pea")
    assert operators(chains, "erc") == before


def test_a_key_that_is_somebodys_is_refused(chains: Chains) -> None:
    national = chains.national
    for name, key, code in (
        ("mea", operator_key("pea").public_key, ErrorCode.ALREADY_REGISTERED),
        ("mea", operator_key("mea").public_key, ErrorCode.DUPLICATE),
        ("tea", dev_key("x").public_key, ErrorCode.NOT_REGISTERED),
    ):
        national.send(DEV, Propose("a title", "and why", OperatorRotation(name, key)))
        national.grow(None)
        assert [one.code for one in national.refused] == [code]


def test_a_region_refuses_the_key_of_one_of_its_participants(chains: Chains) -> None:
    """The national chain knows no participants: the others change, that one says why it did not,
    and another key is voted on."""
    met, taken = chains.regions["MET"], dev_key("a household")
    met.send(
        operator_key("mea"),
        RegisterParticipant(
            taken.public_key, Role.CONSUMER, bytes(32), LicenceClass.EXEMPT_LT_1000KVA,
            2**45, False, "BKK", 1, 10**6,
        ),
    )  # fmt: skip
    chains.round()
    old = operator_key("mea").public_key
    vote_for_a_key(chains, "mea", taken.public_key, "erc")
    chains.settle(3)
    assert registry.organisation(met.values, "mea").operator == old
    assert operators(chains, "mea") == {old, taken.public_key}
    told = [one for one in chains.national.events if isinstance(one, MessageFailed)]
    assert ["participant" in one.reason for one in told] == [True]
