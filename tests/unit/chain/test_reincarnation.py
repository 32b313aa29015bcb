"""A frozen or captured region goes on by a vote of two thirds of all stake with the regulator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.crossing import home_of
from gridtokenx.chain.transition import signing_set
from gridtokenx.cluster.devnet import dev_key, operator_key, validator_name
from gridtokenx.consensus.evidence import double_vote
from gridtokenx.consensus.messages import Phase, Vote, vote_bytes
from gridtokenx.governance import rules as governance
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    Choice,
    NewAuthority,
    ProposalStatus,
    Propose,
    Reincarnation,
)
from gridtokenx.governance.model import Vote as Ballot
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.model import (
    AuthorityMember,
    Credit,
    MessageFailed,
    RegionReborn,
    RegionStatus,
    SubmitCheckpoint,
    TransferAbroad,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import Overlay
from tests.support.chains_world import KEYS, RELAYER, Chains, certify

GTX = 10**6
DEV = dev_key("dev")
STAKES = [dev_key(f"{validator_name(index)[1]} stake") for index in range(4)]
NEW = [
    NewAuthority(organisation, dev_key(validator_name(index)[1]).public_key, 1)
    for index, organisation in ((0, "egat"), (1, "mea"), (2, "pea"), (7, "erc"))
]


@pytest.fixture
def chains() -> Chains:
    chains = Chains()
    for _ in range(2):
        for name in chains.regions:
            chains.grow_region(name, keep=True)
            chains.relay(name)
        chains.national.grow(None)
    return chains


def wish(chains: Chains, **changes: object) -> Reincarnation:
    seen = chains.region("MET")
    asked = Reincarnation("MET", seen.height, seen.hash, tuple(NEW))
    return replace(asked, **changes)  # type: ignore[arg-type]


def propose(chains: Chains, content: Reincarnation) -> None:
    chains.national.send(DEV, Propose("go on", "and why", content))
    chains.national.grow(None)


def approve(chains: Chains) -> None:
    chains.national.send(operator_key("erc"), ApproveAsAuthority(1))
    chains.national.grow(None)
    assert chains.national.refused == []


def vote(chains: Chains, yes: int) -> ProposalStatus:
    for at, key in enumerate(STAKES):
        choice = Choice.YES if at < yes else Choice.ABSTAIN
        chains.national.send(key, Ballot(1, choice))
    for _ in range(75):
        chains.national.grow(None)
    return governance.proposal(chains.national.values, 1).status


def freeze(chains: Chains) -> None:
    """Its quorum certifies a second header of its newest height."""
    seen, met = chains.region("MET"), chains.regions["MET"]
    twin = replace(met.blocks[seen.height].header, results_root=bytes(32))
    certificate = certify(seen.validators, seen.chain_id, twin.height, twin.hash)
    command = SubmitCheckpoint("MET", encode(twin), encode(certificate), ())
    chains.national.send(RELAYER, command)
    chains.national.grow(None)
    assert chains.region("MET").frozen


def test_a_frozen_region_goes_on_under_other_authorities(chains: Chains) -> None:
    met, friend = chains.regions["MET"], dev_key("friend").public_key
    chains.national.send(DEV, TransferAbroad("MET", friend, Asset.GTX, 5 * GTX))
    chains.national.grow(None)
    met.send(DEV, TransferAbroad("TH", friend, Asset.GTX, 7 * GTX))
    chains.grow_region("MET")  # It takes the one and sends the other, and nobody is told.
    before = ledger.account(met.values, DEV.public_key).gtx_ugtx
    freeze(chains)
    propose(chains, wish(chains))
    assert chains.region("MET").status(0) is RegionStatus.FROZEN
    approve(chains)
    assert vote(chains, 4) is ProposalStatus.EXECUTED
    [born] = [one for one in chains.national.events if isinstance(one, RegionReborn)]
    assert born.lost.gtx_ugtx == 0
    chains.follow_incarnation("MET")
    chains.check()
    reborn = chains.regions["MET"]
    signers = signing_set(reborn.spec, reborn.values, reborn.height + 1)
    assert {one.public_key for one in signers.validators.members} == {one.public_key for one in NEW}
    assert ledger.account(reborn.values, DEV.public_key).gtx_ugtx == before + 7 * GTX
    chains.settle(3)
    chains.check()
    assert ledger.account(reborn.values, friend).gtx_ugtx == 5 * GTX  # On its way all the time.
    assert ledger.account(chains.national.values, friend).gtx_ugtx == 0  # Never told, so void.
    reborn.send(DEV, TransferAbroad("NOR", friend, Asset.GTX, 3 * GTX))
    chains.settle(4)
    assert ledger.account(chains.regions["NOR"].values, friend).gtx_ugtx == 3 * GTX
    assert chains.region("MET").validators == signers.validators
    chains.check()


def test_the_regulators_approval_holds_the_region_until_the_vote_has_failed(
    chains: Chains,
) -> None:
    """A captured region must not empty its escrow while stake is still voting."""
    propose(chains, wish(chains))
    chains.round()
    assert chains.national.refused == []
    approve(chains)
    assert chains.region("MET").status(chains.national.height) is RegionStatus.HELD
    chains.grow_region("MET")
    chains.relay("MET")
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.NOT_ACTIVE]
    # Three quarters of what voted, but not two thirds of all stake.
    assert vote(chains, 2) is not ProposalStatus.EXECUTED
    assert chains.region("MET").status(chains.national.height) is not RegionStatus.HELD
    chains.round()
    assert chains.national.refused == []
    assert chains.region("MET").incarnation == 1
    chains.check()


def test_without_the_regulator_no_stake_is_enough(chains: Chains) -> None:
    freeze(chains)
    propose(chains, wish(chains))
    assert vote(chains, 4) is ProposalStatus.REJECTED
    assert chains.region("MET").frozen


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"chain": "XYZ"}, ErrorCode.UNKNOWN_SHARD),
        ({"height": 9}, ErrorCode.BLOCK_NOT_FOUND),
        ({"block_hash": sha256(b"another")}, ErrorCode.BLOCK_NOT_FOUND),
        ({"authorities": tuple(NEW[:3])}, ErrorCode.NOT_PERMITTED),
        ({"authorities": (*NEW, NEW[0])}, ErrorCode.DUPLICATE),
        (
            {"authorities": (*NEW[:3], replace(NEW[3], organisation="nobody"))},
            ErrorCode.NOT_REGISTERED,
        ),
        ({"authorities": (*NEW[:3], replace(NEW[3], weight=9))}, ErrorCode.NOT_PERMITTED),
    ],
)
def test_what_cannot_be_is_refused_before_the_vote(
    chains: Chains, changes: dict[str, object], code: ErrorCode
) -> None:
    propose(chains, wish(chains, **changes))
    assert [one.code for one in chains.national.refused] == [code]


def test_a_captured_region_goes_on_from_its_last_honest_block(chains: Chains) -> None:
    """What the thief brought away is lost and counted; everything else is as it was."""
    honest = chains.region("MET")
    thief = dev_key("friend").public_key
    stolen = 1_000 * GTX
    chains.forge("MET", [_theft(thief, stolen)])
    chains.captured.add("MET")
    chains.national.grow(None)
    assert ledger.account(chains.national.values, thief).gtx_ugtx == stolen
    chains.check()
    propose(chains, wish(chains, height=honest.height, block_hash=honest.hash))
    assert chains.national.refused == []
    approve(chains)
    assert vote(chains, 3) is ProposalStatus.EXECUTED
    chains.captured.discard("MET")
    chains.follow_incarnation("MET")
    assert chains.region("MET").lost.gtx_ugtx == stolen
    chains.check()
    chains.settle(3)
    chains.check()


def _theft(thief: bytes, amount: int) -> Credit:
    return Credit(sha256(b"theft"), "MET", "TH", thief, thief, Asset.GTX, amount)


def test_an_order_for_the_former_incarnation_is_void(chains: Chains) -> None:
    """A rotation in flight does not put the old authorities into the new set."""
    seen = chains.region("MET")
    members = [AuthorityMember(key, 1, DEV.public_key) for key in sorted(KEYS)[:4]]
    overlay = Overlay(chains.national.values)
    checkpoints.order_authorities(
        overlay, "MET", members, home=home_of(chains.national.spec), height=1
    )
    chains.national.store(overlay)
    chains.national.grow(None)
    chains.reincarnate("MET", seen.height)
    chains.settle(3)
    failed = [one for one in chains.national.events if isinstance(one, MessageFailed)]
    assert ["incarnation 1, this is 2" in one.reason for one in failed] == [True]
    assert chains.region("MET").ordered is None
    chains.check()


def test_an_offence_of_the_former_incarnation_is_still_one(chains: Chains) -> None:
    accused = KEYS[dev_key(validator_name(0)[1]).public_key]
    former = chains.regions["MET"].spec.chain_id
    members = signing_set(chains.regions["MET"].spec, chains.regions["MET"].values, 1).validators
    index = members.index_of(accused.public_key)
    assert index is not None
    chains.reincarnate("MET")
    met = chains.regions["MET"]
    votes = []
    for word in (b"one", b"two"):
        signed = vote_bytes(Phase.COMMIT, former, 1, 0, sha256(word))
        votes.append(Vote(Phase.COMMIT, 1, 0, sha256(word), index, accused.sign(signed)))
    met.evidence = (double_vote(members, *votes),)
    block = met.grow(chains.national)
    assert len(block.evidence) == 1
