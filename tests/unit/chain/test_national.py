"""The national chain's own work: stake elects, votes act on the regions, fees find their pool."""

from __future__ import annotations

import pytest

from gridtokenx.chain.national import value_of
from gridtokenx.chain.validator_sets import ValidatorSetOrdered, current_set
from gridtokenx.cluster.network import dev_key, operator_key, validator_name
from gridtokenx.consensus.evidence import double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    AuthorityChange,
    AuthorityManagement,
    Choice,
    Emergency,
    OperatorRotation,
    ParameterChange,
    ProposalExecuted,
    ProposalFailed,
    Propose,
)
from gridtokenx.governance.model import Vote as Ballot
from gridtokenx.grid.model import HaltRegion, RegionHalted
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
    RewardPaid,
    ValidatorJailed,
    proof_bytes,
)
from gridtokenx.trading import rules as trading
from tests.chains_world import KEYS, Chains

GTX = 10**6
DEV = dev_key("dev")
STAKES = [dev_key(f"{validator_name(index)[1]} stake") for index in range(4)]


@pytest.fixture
def chains() -> Chains:
    chains = Chains()
    chains.round()
    return chains


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


def test_an_emergency_halts_a_region_as_soon_as_authorities_approve(chains: Chains) -> None:
    number = propose(chains, Emergency("CNX", "line down", 3_600_000))
    for name in ("egat", "mea", "pea"):
        chains.national.send(operator_key(name), ApproveAsAuthority(number))
    chains.settle(3)
    assert chains.national.refused == []
    halted = [
        (name, event.region, event.by)
        for name, region in chains.regions.items()
        for event in region.events
        if isinstance(event, RegionHalted)
    ]
    assert halted == [("NOR", "CNX", "governance")]


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


def test_evidence_on_the_national_chain_costs_stake(chains: Chains) -> None:
    national = chains.national
    accused = KEYS[dev_key(validator_name(0)[1]).public_key]
    members = current_set(national.values, 1).validators
    index = members.index_of(accused.public_key)
    assert index is not None
    votes = []
    for word in (b"one", b"two"):
        signed = vote_bytes(Phase.COMMIT, national.spec.chain_id, 1, 0, sha256(word))
        votes.append(Vote(Phase.COMMIT, 1, 0, sha256(word), index, accused.sign(signed)))
    before = pools.pool_ugtx(national.values, STAKES[0].public_key)
    national.evidence = (double_vote(members, *votes),)
    national.grow(None)
    jailed = [event for event in national.events if isinstance(event, ValidatorJailed)]
    assert [event.slashed_ugtx for event in jailed] == [before * 500 // 10_000]
    chains.check()


# Keys of organisations


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
    met.send(operator_key("erc"), HaltRegion("BKK", "I am still here"))
    met.grow(None)
    assert [one.code for one in met.refused] == [ErrorCode.ACCOUNT_NOT_FOUND]
    met.send(new, HaltRegion("BKK", "drill"))
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
