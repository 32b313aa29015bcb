"""A region re-executed beside the national chain: what its own validators made up is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gridtokenx.chain.light_client import LightClient
from gridtokenx.chain.replay import Replay
from gridtokenx.chain.replay_national import NationalNotVerified, NationalReplay
from gridtokenx.cluster.devnet import NATIONAL, dev_key
from gridtokenx.governance.model import ProposalStatus
from gridtokenx.interchain.model import Credit, TransferAbroad
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from tests.support.chains_world import Chain, Chains
from tests.unit.chain import test_reincarnation as vote
from tests.unit.chain.test_light_client import Node

THIEF = dev_key("thief").public_key


class Lie:
    """A national chain that exists in the heads of a region's validators only."""

    def __init__(self, true: Chain, *, height: int = 10_000) -> None:
        self._true, self._height = true, height

    def head(self) -> tuple[int, bytes]:
        return self._height, self.hash_at(self._height)

    def hash_at(self, height: int) -> bytes:
        return self._true.hash_at(height) or sha256(b"no such block")

    def messages(self, region: str, nonce: int, count: int, _up_to: int) -> list[Credit]:
        credit = Credit(sha256(b"lie"), "NOR", region, THIEF, THIEF, Asset.GTX, 10**15)
        return [credit][:count]


class Nothing(Lie):
    """The right block, and none of its messages."""

    def messages(self, region: str, nonce: int, count: int, _up_to: int) -> list[Credit]:
        return []


class Elsewhere(Nothing):
    """A national block of that height that was never decided."""

    def hash_at(self, height: int) -> bytes:
        return sha256(b"no such block")


def raw(chain: Chain) -> Iterator[tuple[bytes, bytes]]:
    for height in sorted(chain.certificates):
        yield chain.blocks[height].encoded, encode(chain.certificates[height])


def beside(world: Chains) -> NationalReplay:
    return NationalReplay(world.genesis.chain(NATIONAL), raw(world.national))


def replayed(world: Chains, name: str, national: NationalReplay) -> Replay:
    replay = Replay(world.genesis.chain(name), national)
    for one in raw(world.regions[name]):
        replay.apply(*one)
    return replay


def world_with_traffic() -> Chains:
    """Transfers from each region to the next, and long enough for queues to be forgotten."""
    world = Chains()
    names = list(world.regions)
    dev = dev_key("dev")
    for _ in range(3):
        for name, destination in zip(names, names[1:] + names[:1], strict=True):
            world.regions[name].send(dev, TransferAbroad(destination, THIEF, Asset.GTX, 10_005))
        world.settle(4)
    return world


def test_regions_share_one_national_chain_and_hold() -> None:
    world = world_with_traffic()
    national = beside(world)
    for name, region in world.regions.items():
        replay = replayed(world, name, national)
        assert replay.parent == region.parent
        assert ledger.account(replay.state, THIEF).gtx_ugtx == 30_015
        while national.step():
            pass
        assert len(national.accepted(name)) > 3
        assert replay.contradictions() == []
    assert national.replay.parent == world.national.parent


def test_the_national_chain_is_replayed_only_as_far_as_it_is_named() -> None:
    world = Chains()
    world.settle(2)
    national = beside(world)
    replay = Replay(world.genesis.chain("MET"), national)
    for block, certificate in list(raw(world.regions["MET"]))[:1]:
        replay.apply(block, certificate)
    named = world.regions["MET"].blocks[1].header.root_height
    assert national.replay.parent.height == named


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        (Lie, "block 10000 of TH is not to be had: the newest is 2"),
        (lambda true: Lie(true, height=2), "it takes 1 messages .* not the 0 which .* block 2 had"),
    ],
)
def test_a_made_up_message_is_refused(lie, refusal: str) -> None:
    world = Chains()
    met = world.regions["MET"]
    world.settle(2)
    met.grow(lie(world.national))
    assert ledger.account(met.values, THIEF).gtx_ugtx == 10**15
    with pytest.raises((Rejected, NationalNotVerified), match=refusal):
        replayed(world, "MET", beside(world))


def test_a_made_up_national_block_is_refused() -> None:
    world = Chains()
    world.settle(2)
    world.regions["MET"].grow(Elsewhere(world.national, height=3))
    world.national.grow(None)
    with pytest.raises(Rejected, match="a national block 3 that was never decided") as error:
        replayed(world, "MET", beside(world))
    assert error.value.code is ErrorCode.INVALID_BLOCK


def test_a_message_that_is_kept_back_is_refused() -> None:
    world = Chains()
    world.national.send(dev_key("dev"), TransferAbroad("MET", THIEF, Asset.GTX, 10_005))
    world.national.grow(None)
    world.regions["MET"].grow(Nothing(world.national, height=1))
    with pytest.raises(Rejected, match=r"it takes 0 messages .* not the 1 which .* block 1 had"):
        replayed(world, "MET", beside(world))


def test_a_second_history_is_found_by_what_was_accepted() -> None:
    """The validators show an auditor another history than the one that they bring to the nation."""
    world = Chains()
    world.settle(2)
    shown = world.regions["MET"]
    other = Chains()
    other.settle(2)
    for chains in (world, other):
        chains.regions["MET"].send(
            dev_key("dev"),
            TransferAbroad("NOR", THIEF, Asset.GTX, 10_001 if chains is world else 10_002),
        )
        chains.round()
    assert shown.blocks[3].header.hash != other.regions["MET"].blocks[3].header.hash
    national = beside(world)
    replay = Replay(world.genesis.chain("MET"), national)
    for one in raw(other.regions["MET"]):
        replay.apply(*one)
    while national.step():
        pass
    (found,) = replay.contradictions()
    assert found.startswith("the national chain has accepted block 3 of MET with hash ")


def test_a_bad_national_block_is_told_as_such() -> None:
    world = Chains()
    world.settle(3)
    blocks = list(raw(world.national))
    blocks[1] = (blocks[1][0], blocks[2][1])
    national = NationalReplay(world.genesis.chain(NATIONAL), iter(blocks))
    with pytest.raises(
        NationalNotVerified, match="TH block 2: the certificate is not the COMMIT of block 2"
    ):
        replayed(world, "MET", national)


def test_a_region_of_a_nation_is_not_replayed_alone() -> None:
    with pytest.raises(ValueError, match="beside the national chain"):
        Replay(Chains().genesis.chain("MET"))


# -- Incarnations ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reborn() -> tuple[Chains, Chain]:
    """MET was captured; voters let it go on from block 2. And what the captured one went on as."""
    world = Chains()
    for _ in range(2):
        for name in world.regions:
            world.grow_region(name, keep=True)
            world.relay(name)
        world.national.grow(None)
    honest = world.region("MET")
    vote.propose(world, vote.wish(world, height=honest.height, block_hash=honest.hash))
    world.round()  # Block 3 of the former incarnation is still accepted, and void afterwards.
    vote.approve(world)
    former = world.regions["MET"]
    for _ in range(2):
        former.grow(world.national)
    assert vote.vote(world, 4) is ProposalStatus.EXECUTED
    world.follow_incarnation("MET")
    world.settle(4)
    return world, former


def test_a_region_is_replayed_over_its_incarnations(reborn: tuple[Chains, Chain]) -> None:
    world, _ = reborn
    national = beside(world)
    replay = replayed(world, "MET", national)
    while national.step():
        pass
    assert replay.parent == world.regions["MET"].parent
    assert replay.parent.height == 6
    assert replay.spec == world.regions["MET"].spec
    assert replay.spec.incarnation == 2
    assert set(national.accepted("MET")) == {1, 2, 3, 4, 5, 6}
    assert replay.contradictions() == []
    assert replayed(world, "NOR", national).contradictions() == []


def test_the_void_history_of_a_region_is_told_as_such(reborn: tuple[Chains, Chain]) -> None:
    """Every block of it holds by itself; what the nation says at last tells that it is void."""
    world, former = reborn
    national = beside(world)
    replay = Replay(world.genesis.chain("MET"), national)
    for one in raw(former):
        replay.apply(*one)
    assert replay.contradictions() == []  # As far as its own blocks name the national chain.
    while national.step():
        pass
    told = replay.contradictions()
    assert told[-1] == (
        "voters let MET go on from block 2 as incarnation 2: the blocks after it here are void"
    )
    assert [one[:46] for one in told[:-1]] == [
        f"the national chain has accepted block {height} of MET" for height in (3, 4, 5)
    ]


def test_an_incarnation_that_nobody_voted_for_is_refused(reborn: tuple[Chains, Chain]) -> None:
    world, _ = reborn
    stranger = Chains()
    for name in stranger.regions:
        stranger.grow_region(name, keep=True)
        stranger.relay(name)
    stranger.national.grow(None)
    stranger.reincarnate("MET")
    stranger.regions["MET"].grow(Nothing(world.national, height=1))
    with pytest.raises(Rejected, match=r"it is of chain .*, which is no MET") as error:
        replayed(stranger, "MET", beside(world))
    assert error.value.code is ErrorCode.WRONG_CHAIN


def test_a_light_client_follows_the_incarnation_that_the_nation_names(
    reborn: tuple[Chains, Chain],
) -> None:
    world, former = reborn
    newest_ms = world.national.parent.time_ms

    def light(chain: Chain) -> LightClient:
        node = Node(world.national, chain)
        return LightClient(node, world.genesis, period_ms=600_000, now_ms=lambda: newest_ms)

    met = world.regions["MET"]
    proven = light(met).account(dev_key("dev").public_key, "MET")
    assert proven.header == met.blocks[met.height].header
    assert proven.region is not None
    assert proven.region.region.chain_id == met.spec.chain_id
    while former.height < met.height + 1:  # Its former authorities go on, beyond the newest.
        former.grow(Nothing(world.national, height=world.national.height))
    with pytest.raises(Rejected):
        light(former).account(dev_key("dev").public_key, "MET")
