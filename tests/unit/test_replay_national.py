"""A region re-executed beside the national chain: what its own validators made up is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gridtokenx.cluster.network import NATIONAL, dev_key
from gridtokenx.interchain.model import Credit, TransferAbroad
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.replay import Replay
from gridtokenx.replay_national import NationalNotVerified, NationalReplay
from tests.chains_world import Chain, Chains

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
            world.regions[name].send(dev, TransferAbroad(destination, THIEF, Asset.GTX, 5))
        world.settle(4)
    return world


def test_regions_share_one_national_chain_and_hold() -> None:
    world = world_with_traffic()
    national = beside(world)
    for name, region in world.regions.items():
        replay = replayed(world, name, national)
        assert replay.parent == region.parent
        assert ledger.account(replay.state, THIEF).gtx_ugtx == 15
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
    world.national.send(dev_key("dev"), TransferAbroad("MET", THIEF, Asset.GTX, 5))
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
            dev_key("dev"), TransferAbroad("NOR", THIEF, Asset.GTX, 1 if chains is world else 2)
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
    with pytest.raises(NationalNotVerified, match="TH block 2: the certificate at 2 is not a com"):
        replayed(world, "MET", national)


def test_a_region_of_a_nation_is_not_replayed_alone() -> None:
    with pytest.raises(ValueError, match="beside the national chain"):
        Replay(Chains().genesis.chain("MET"))
