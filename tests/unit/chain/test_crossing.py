"""Transfers between chains, end to end on real rules."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gridtokenx.chain.crossing import check_slice
from gridtokenx.cluster.devnet import dev_key
from gridtokenx.interchain.model import (
    CheckpointAccepted,
    Downward,
    TransferAbroad,
    TransferCredited,
    TransferReturned,
    TransferRouted,
    TransferSent,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import MemoryReader
from tests.support.chains_world import Chain, Chains

GTX = 10**6
BAHT = 10**6
DEV = dev_key("dev")
FRIEND = dev_key("friend").public_key


def test_gtx_goes_from_the_national_chain_to_a_region(chains: Chains) -> None:
    sent = chains.national.send(DEV, TransferAbroad("NOR", FRIEND, Asset.GTX, 7 * GTX))
    chains.settle(3)
    assert ledger.account(chains.regions["NOR"].values, FRIEND).gtx_ugtx == 7 * GTX
    told = [one for one in chains.regions["NOR"].events if isinstance(one, TransferCredited)]
    assert told == [TransferCredited(sent.id, "TH", FRIEND, Asset.GTX, 7 * GTX)]
    chains.check()


def test_baht_goes_from_region_to_region_through_the_national_chain(chains: Chains) -> None:
    chains.deposit("MET", DEV.public_key, 5 * BAHT)
    chains.round()
    chains.check()
    sent = chains.regions["MET"].send(DEV, TransferAbroad("NOR", FRIEND, Asset.THB, 2 * BAHT))
    chains.settle(4)
    assert ledger.account(chains.regions["MET"].values, DEV.public_key).thb_uthb == 3 * BAHT
    assert ledger.account(chains.regions["NOR"].values, FRIEND).thb_uthb == 2 * BAHT
    assert chains.region("MET").escrow.thb_uthb == 3 * BAHT
    assert chains.region("NOR").escrow.thb_uthb == 2 * BAHT
    kinds = (TransferSent, TransferRouted, TransferCredited)
    everything = [
        *chains.regions["MET"].events, *chains.national.events, *chains.regions["NOR"].events
    ]  # fmt: skip
    followed = [one for one in everything if isinstance(one, kinds)]
    assert [type(one) for one in followed] == list(kinds)
    assert {one.transfer_id for one in followed} == {sent.id}
    chains.check()


def test_messages_that_were_taken_are_forgotten_on_the_region(chains: Chains) -> None:
    """The national chain keeps them while a region might go on from an earlier checkpoint."""
    chains.regions["MET"].send(DEV, TransferAbroad("TH", FRIEND, Asset.GTX, GTX))
    chains.settle(6)
    assert [type(one) for one in chains.national.events].count(CheckpointAccepted) == 18 + 3
    region, national = chains.regions["MET"].values.values, chains.national.values.values
    assert not [key for key in region if key.startswith(b"xqTH")]
    assert [key for key in national if key.startswith(b"xqMET")]


def test_what_a_paused_region_cannot_take_comes_back(chains: Chains) -> None:
    for _ in range(62):
        chains.national.grow(None)
    chains.national.send(DEV, TransferAbroad("NOR", FRIEND, Asset.GTX, GTX))
    chains.national.grow(None)
    assert [one.code for one in chains.national.refused] == [ErrorCode.CROSS_SHARD_PENDING]
    sent = chains.regions["MET"].send(DEV, TransferAbroad("NOR", FRIEND, Asset.GTX, GTX))
    before = ledger.account(chains.regions["MET"].values, DEV.public_key).gtx_ugtx
    for _ in range(3):
        chains.grow_region("MET")
        chains.relay("MET")
        chains.national.grow(None)
    returned = [one for one in chains.regions["MET"].events if isinstance(one, TransferReturned)]
    assert [one.transfer_id for one in returned] == [sent.id]
    assert ledger.account(chains.regions["MET"].values, DEV.public_key).gtx_ugtx == before
    chains.check()


@pytest.mark.parametrize(
    ("destination", "asset", "code"),
    [
        ("MET", Asset.GTX, ErrorCode.WRONG_CHAIN),
        ("XYZ", Asset.GTX, ErrorCode.UNKNOWN_SHARD),
        ("NOR", Asset.CARBON, ErrorCode.NOT_PERMITTED),
        ("NOR", Asset.THB, ErrorCode.INSUFFICIENT_BALANCE),
    ],
)
def test_what_may_not_leave(
    chains: Chains, destination: str, asset: Asset, code: ErrorCode
) -> None:
    chains.regions["MET"].send(DEV, TransferAbroad(destination, FRIEND, asset, 1))
    chains.round()
    assert [one.code for one in chains.regions["MET"].refused] == [code]
    chains.check()


@dataclass
class Moving:
    """A voter's national chain that decides its next block after each question."""

    real: Chain
    height: int

    def _moved(self) -> int:
        self.height += 1
        return self.height - 1

    def head(self) -> tuple[int, bytes]:
        height = self._moved()
        block_hash = self.real.hash_at(height)
        assert block_hash is not None
        return height, block_hash

    def hash_at(self, height: int) -> bytes | None:
        return self.real.hash_at(height) if height <= self._moved() else None

    def messages(self, region: str, nonce: int, count: int, up_to_height: int) -> list[Downward]:
        self._moved()
        return self.real.messages(region, nonce, count, up_to_height)


@pytest.mark.parametrize(("behind", "verdict"), [(1, False), (0, True)])
def test_a_block_is_judged_by_the_nation_of_one_moment(
    chains: Chains, behind: int, verdict: bool
) -> None:
    """A national block that comes while a vote is judged makes no good block a bad one."""
    for _ in range(3):
        chains.national.grow(None)
    met = chains.regions["MET"]
    before = MemoryReader(dict(met.values.values))
    named = chains.national.height
    block = met.grow(chains.national)
    assert block.header.root_height == named
    for _ in range(5):
        chains.national.grow(None)
    view = Moving(chains.national, named - behind)
    assert check_slice(view, before, met.spec, block) is verdict
