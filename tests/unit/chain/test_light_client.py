"""A client that keeps no chain: from a genesis or a trusted block, regions through the nation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gridtokenx.chain.block import Header
from gridtokenx.chain.crossing import home_of
from gridtokenx.chain.light import SetChange, TrustedSet, check_passes, follow_sets
from gridtokenx.chain.light_client import LightClient
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.chain.trust import TrustedBlock
from gridtokenx.chain.validator_sets import order_set, set_at
from gridtokenx.cluster.devnet import account_address, dev_key, local_genesis, validator_name
from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.model import REGIONS, AuthorityMember
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.primitives.types import format_address
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.storage.index import SET_CHANGES
from gridtokenx.views.status import ChainStatus, Head
from tests.support.api_call import answer
from tests.support.chains_world import Chain, Chains
from tests.support.refusals import refusing

DEV = dev_key("dev").public_key
GENESIS = replace(local_genesis(), epoch_blocks=4)
PERIOD_MS = 60_000
YOUNG_MS = GENESIS.genesis_time_ms + 30_000


class View:
    """The reads that proofs make of a chain's database."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.load, self.scan = chain.values.load, chain.values.scan

    def block(self, height: int) -> bytes:
        return self._chain.blocks[height].encoded

    def certificate(self, height: int) -> bytes:
        return encode(self._chain.certificates[height])

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        assert prefix == SET_CHANGES
        rows = [(SET_CHANGES + u64(one.header.height), encode(one)) for one in changes(self._chain)]
        return iter([row for row in rows if row[0] >= start])


def changes(chain: Chain) -> list[SetChange]:
    found = []
    for height, block in sorted(chain.blocks.items()):
        header = block.header
        if header.next_set_hash != header.set_hash:
            following = set_at(chain.values, height + 1)
            assert following is not None
            found.append(SetChange(header, chain.certificates[height], following.validators))
    return found


class Node:
    """Answers as a node's API does, out of chains in memory; `asked` has the methods."""

    def __init__(self, *chains: Chain) -> None:
        self.chains = {chain.spec.name: chain for chain in chains}
        self.asked: list[str] = []

    def __call__(self, method: str, **raw: str) -> dict[str, Any]:
        self.asked.append(method)
        if method == "chain_getFinality":
            header = self.chains[raw["chain"]].blocks[int(raw["block"])].header
            return {"header": encode(header).hex()}
        context = SimpleNamespace(chain=self.status, national=lambda: self.status("TH"))
        return dict(answer(context, method, **raw))

    def status(self, name: str) -> ChainStatus:
        chain = self.chains[name]
        parent = chain.parent
        head = Head(parent.height, parent.hash, parent.time_ms, 0, parent.state_root, 0)
        validators = chain.spec.genesis_validators

        def prove(key: bytes) -> tuple[bytes | None, StateProof]:
            return chain.values.values.get(key), chain.tree.prove(key)

        return ChainStatus(chain.spec, head, View(chain), validators, prove)  # type: ignore[arg-type]


def light(node: Node, *trusted: TrustedBlock, now_ms: int = YOUNG_MS) -> LightClient:
    return LightClient(
        node, GENESIS, trusted_blocks=trusted, period_ms=PERIOD_MS, now_ms=lambda: now_ms
    )


def all_of(world: Chains) -> Node:
    return Node(world.national, *world.regions.values())


def block_of(chain: Chain, height: int) -> TrustedBlock:
    return TrustedBlock(chain.spec.name, height, chain.blocks[height].header.hash)


@pytest.fixture(scope="module")
def world() -> Chains:
    """The nation's set grows at 8, shrinks at 12 and weighs rewards at 16; MET's changes too."""
    made = Chains(GENESIS)
    national, met = made.national, made.regions["MET"]
    made.round()
    overlay = Overlay(national.values)
    fresh = Validator(dev_key(validator_name(4)[1]).public_key, 1)
    wider = ValidatorSet.of([*national.spec.genesis_validators.members, fresh])
    order_set(overlay, wider, [bytes(32)] * 5, height=1, epoch_blocks=4)
    stay = [*met.spec.genesis_validators.members[:3], fresh]
    members = [AuthorityMember(one.public_key, 1, account_address("mea")) for one in stay]
    home = home_of(national.spec)
    checkpoints.order_authorities(overlay, "MET", members, home=home, height=1)
    national.store(overlay)
    made.settle(17)
    return made


@pytest.fixture(scope="module")
def old_guard() -> Chains:
    """What those who were MET's authorities go on with alone."""
    made = Chains(GENESIS)
    made.settle(19)
    return made


def test_the_nation_names_a_regions_validators(world: Chains) -> None:
    node = all_of(world)
    client = light(node)
    proven = client.account(DEV, "MET")
    assert proven.account is not None
    assert proven.header == world.regions["MET"].blocks[18].header
    assert proven.region is not None
    row = world.region("MET")
    assert proven.region.region == row
    assert row.validators != GENESIS.chain("MET").genesis_validators
    assert proven.trusted == TrustedSet(row.height, row.validators)
    assert client.account(DEV, "TH").trusted.height == 15
    assert client.account(DEV, "NOR").region is not None


def test_those_who_were_its_authorities_prove_nothing(world: Chains, old_guard: Chains) -> None:
    lying = Node(world.national, old_guard.regions["MET"])
    with refusing(ErrorCode.INVALID_BLOCK, "of another chain or another set"):
        light(lying).account(DEV, "MET")
    # Nor may they show an old nation, which still names them.
    past = Node(old_guard.national, old_guard.regions["MET"])
    vouched = block_of(world.national, 18)
    with refusing(ErrorCode.INVALID_BLOCK, "the trusted one is"):
        light(past, vouched).account(DEV, "MET")


def test_a_nation_that_is_too_old_names_nobody(world: Chains) -> None:
    node = all_of(world)
    late_ms = world.national.parent.time_ms + PERIOD_MS
    vouched = block_of(world.national, 18)
    light(node, vouched, now_ms=late_ms).account(DEV, "MET")
    with refusing(ErrorCode.TRUST_EXPIRED, r"TH that is trusted here \(18\) is"):
        light(node, vouched, now_ms=late_ms + 1).account(DEV, "MET")
    client = light(node)
    client.account(DEV, "TH")  # What has been followed once counts by the newest block seen.
    client._now_ms = lambda: late_ms
    client.account(DEV, "TH")
    client._now_ms = lambda: late_ms + 1
    with refusing(ErrorCode.TRUST_EXPIRED):
        client.account(DEV, "TH")


def test_an_old_genesis_needs_a_trusted_block_that_is_young(world: Chains) -> None:
    node, national = all_of(world), world.national
    late_ms = GENESIS.genesis_time_ms + PERIOD_MS + 1
    with refusing(ErrorCode.TRUST_EXPIRED, "chain head TH"):
        light(node, now_ms=late_ms).account(DEV, "TH")
    assert node.asked == []  # Refused before anybody is asked.
    for height in (7, 9, 18):  # The last block of a set, one of the next set, the head.
        proven = light(node, block_of(national, height), now_ms=late_ms).account(DEV, "TH")
        assert proven.header.height == 18
    eldest_ms = national.blocks[3].header.time_ms + PERIOD_MS
    light(node, block_of(national, 3), now_ms=eldest_ms).account(DEV, "TH")
    with refusing(ErrorCode.TRUST_EXPIRED, r"\(3\)"):
        light(node, block_of(national, 3), now_ms=eldest_ms + 1).account(DEV, "TH")


def test_a_node_whose_chain_lacks_the_trusted_block_is_not_believed(world: Chains) -> None:
    node = all_of(world)
    for name in ("TH", "MET"):
        stranger = TrustedBlock(name, 9, sha256(b"another block"))
        with refusing(ErrorCode.INVALID_BLOCK, f"block 9 of {name} is .* the trusted one is"):
            light(node, stranger).account(DEV, name)
        light(node, block_of(world.chain(name), 9)).account(DEV, name)


def test_a_way_around_the_trusted_block_is_refused(world: Chains) -> None:
    """A node may show the trusted header, and lead to its own head past it all the same."""
    national = world.national
    start = TrustedSet(0, national.spec.genesis_validators)
    told, chain_id = changes(national), national.spec.chain_id
    assert [one.header.height for one in told] == [7, 11, 15]
    nine = national.blocks[9].header
    assert follow_sets(chain_id, start, told, nine).height == 15
    elsewhere = replace(nine, next_set_hash=start.validators.hash)
    with refusing(ErrorCode.INVALID_BLOCK, "block 11 does not lead through the trusted block 9"):
        follow_sets(chain_id, start, told, elsewhere)
    seven = replace(national.blocks[7].header, time_ms=1)
    with refusing(ErrorCode.INVALID_BLOCK, "through the trusted block 7"):
        follow_sets(chain_id, start, told, seven)
    head, newest = national.blocks[18].header, follow_sets(chain_id, start, told)
    check_passes(national.blocks[17].header, head, newest)
    for anchor in (replace(head, time_ms=1), strange(national.blocks[17].header)):
        with refusing(ErrorCode.INVALID_BLOCK, "does not lead through"):
            check_passes(anchor, head, newest)
    check_passes(strange(national.blocks[9].header), head, newest)  # Passed when it was followed.


def strange(header: Header) -> Header:
    return replace(header, next_set_hash=sha256(b"another set"))


def test_a_node_that_is_behind_the_trusted_block_proves_nothing(world: Chains) -> None:
    behind = Chains(GENESIS)
    behind.settle(1)
    node = all_of(behind)
    shown = all_of(world)
    ahead = lambda method, **raw: (shown if method == "chain_getFinality" else node)(method, **raw)  # noqa: E731
    with refusing(ErrorCode.INVALID_BLOCK, "block 1 is below the trusted block 18: ask a node"):
        light(ahead, block_of(world.national, 18)).account(DEV, "TH")  # type: ignore[arg-type]


def test_a_region_that_has_stood_still_since_its_last_checkpoint_is_proven_by_its_hash() -> None:
    still = Chains(GENESIS)
    still.round()
    still.national.grow(None)
    assert still.region("MET").height == still.regions["MET"].height == 1
    assert light(all_of(still)).account(DEV, "MET").header.height == 1
    other = Chains(GENESIS)
    other.regions["MET"].parent = replace(other.regions["MET"].parent, time_ms=YOUNG_MS - 9_000)
    other.regions["MET"].grow(None)
    with refusing(ErrorCode.INVALID_BLOCK, "is not above the change of the set at 1"):
        light(Node(still.national, other.regions["MET"])).account(DEV, "MET")


def test_a_frozen_region_proves_nothing() -> None:
    frozen = Chains(GENESIS)
    frozen.settle(2)
    overlay = Overlay(frozen.national.values)
    row = replace(frozen.region("MET"), frozen=True)
    REGIONS.put(overlay, b"MET", row)
    frozen.national.store(overlay)
    frozen.national.grow(None)
    with refusing(ErrorCode.NOT_ACTIVE, "MET is frozen"):
        light(all_of(frozen)).account(DEV, "MET")
    assert light(all_of(frozen)).region("MET").region.frozen


def test_what_is_no_region_of_the_nation_has_no_proof(world: Chains) -> None:
    for name in ("TH", "XYZ"):
        with refusing(ErrorCode.UNKNOWN_SHARD):
            light(all_of(world)).region(name)


def test_without_a_nation_a_region_is_followed_from_its_genesis_for_ever() -> None:
    alone = local_genesis(with_national=False)
    chain = Chain(alone.chain("MET"))
    for _ in range(3):
        chain.grow(None)
    client = LightClient(Node(chain), alone, period_ms=None, now_ms=lambda: 10**15)
    proven = client.account(DEV, "MET")
    assert (proven.header.height, proven.region) == (3, None)
    assert format_address(proven.address) == format_address(DEV)
