"""Scenarios 29 to 38 and 40 to 42: floods, forgeries, twins, clocks, set changes, catching up."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gridtokenx.primitives.crypto import sha256
from tests.support.scenario import SLOT_MS, certificates, equal, production, reach, times, views
from tests.support.simulator import campaigns
from tests.support.simulator.adversaries import (
    BadCertificatePeer,
    BadSyncPeer,
    EvilCertificates,
    Flooder,
    Impersonator,
)
from tests.support.simulator.chain import Block, Rules, State, make_set
from tests.support.simulator.network import Faults
from tests.support.simulator.world import Setup, World


def test_29_vote_flood_future_views_heights() -> None:
    """Memory stays bounded (I12 after every event) and blocks go on."""
    world = World(29, Setup(liars={2: Flooder}, faults=Faults(loss=0.1), calm_ms=10**9))
    reach(world, 20, limit_ms=120_000)
    assert world.network.sent > 1_000


def test_30_bad_signature_qc_one_forged_member() -> None:
    """The whole certificate is refused, its sender loses score, nothing it names is decided."""
    world = World(30, Setup(liars={2: EvilCertificates}))
    reach(world, 40)
    for node in world.honest:
        assert any("INVALID_CERTIFICATE" in reason for reason in node.penalised)
    assert sha256(b"evil") not in world.judge.decided.values()


def test_impersonation_is_refused() -> None:
    """A message in another's name is bad whoever signed it, and convicts nobody."""
    world = World(30, Setup(liars={2: Impersonator}))
    reach(world, 30)
    assert any("BAD_SIGNATURE" in reason for node in world.honest for reason in node.penalised)
    assert not world.judge.convicted


@pytest.mark.parametrize("seed", range(4))
def test_31_twins_static_partition(seed: int) -> None:
    """One twin on each side for good: at most one side decides, and nobody disagrees."""
    world = World(seed, Setup(twins=(seed,), calm_ms=20_000))
    others = [index for index in range(4) if index != seed]
    world.network.groups = [0] * 5
    for name in (4, others[0]):
        world.network.groups[name] = 1
    world.run_for(20_000)
    world.must_progress()


@pytest.mark.parametrize("seed", range(5))
def test_32_twins_random_partition(seed: int) -> None:
    """Agreement and progress under partitions that change every second."""
    campaign = campaigns.CAMPAIGNS["twins"]
    world = campaign.play(campaign.world(seed))
    assert len(world.judge.decided) >= 3


@pytest.mark.parametrize("seed", range(5))
def test_33_byz_exactly_one_third(seed: int) -> None:
    """Agreement; progress is not owed."""
    campaign = campaigns.CAMPAIGNS["exact-third"]
    world = campaign.play(campaign.world(seed))
    assert not world.liars_are_few


def test_34_byz_over_third_fork() -> None:
    """Two of four lie until the chain forks. The pooled messages of the honest convict at least a
    third of the weight and nobody honest (I9, I10)."""
    campaign = campaigns.CAMPAIGNS["over-third"]
    forks = 0
    for seed in range(60):
        world = campaign.play(campaign.world(seed))
        if world.judge.forked_at is not None:
            forks += 1
            assert world.judge.fork_is_attributed() >= 2
    assert forks >= 3


@pytest.mark.parametrize("skew_ms", [-2_000, 2_000])
def test_35_clock_skew_2s_one_node(skew_ms: int) -> None:
    """One clock is two seconds off: slots are kept, or a view is lost where that node leads."""
    world = production(skews_ms={2: skew_ms})
    world.run_for(200_000)
    node = world.nodes[0]
    assert node.height >= 18
    stamps = times(node)
    assert all(after >= world.rules.opens(before) for before, after in pairwise(stamps))
    assert all(view <= (1 if h % 4 == 2 else 0) for h, view in enumerate(views(node), 1))


def test_36_clock_skew_leader_future() -> None:
    """A leader whose clock is far ahead proposes too early: the others wait, or leave its view.
    No block's time is ahead of honest clocks, and no slot is lost."""
    world = production(skews_ms={2: 20_000})
    world.run_for(200_000)
    node = world.nodes[0]
    assert node.height >= 18
    assert times(node) == sorted(set(times(node)))
    assert times(node)[-1] <= world.now + 500
    assert [time // SLOT_MS for time in times(node)] == list(range(1, node.height + 1))


def test_37_set_change_epoch_add_remove() -> None:
    """A change ordered in epoch 0 begins with epoch 2, exactly; the removed member follows on but
    signs no more (I3 asks for membership), the added one signs from then on."""
    world = World(37, Setup(weights=(1, 1, 1, 1, 0), epoch_blocks=10))
    keys = world.signers
    world.ordered[5] = make_set(keys, (1, 1, 1, 0, 1))
    reach(world, 40)
    chain = world.nodes[0].disk.chain
    for one in chain[1:]:
        members = one.state.set_at(one.block.height)
        assert one.certificate is not None
        signed = {members.members[each.index].public_key for each in one.certificate.signatures}
        old, new = keys[3].public_key, keys[4].public_key
        assert (old if one.block.height >= 20 else new) not in signed
    late = {
        one.state.set_at(one.block.height).members[each.index].public_key
        for one in chain[20:]
        for each in (one.certificate.signatures if one.certificate else ())
    }
    assert keys[4].public_key in late
    assert world.nodes[3].height >= 40
    assert set(views(world.nodes[0])[:40]) == {0}


def test_38_set_change_refused() -> None:
    """Too few members, an organisation with a third, too much weight at once: the set stays and
    the refusal is on record. (The schedule and the policy are the chain's own module; the engine's
    part is to run on with the set it is given.)"""
    world = World(38, Setup(weights=(1,) * 7 + (0,) * 3, epoch_blocks=10))
    keys = world.signers
    world.rules.organisations |= {keys[index].public_key: "one" for index in (0, 7, 8)}
    world.ordered[2] = make_set(keys, (1, 1, 1, 0, 0, 0, 0, 0, 0, 0))
    world.ordered[3] = make_set(keys, (1, 1, 1, 1, 1, 1, 1, 1, 1, 0))
    world.ordered[4] = make_set(keys, (0, 1, 1, 1, 1, 0, 0, 1, 1, 1))
    reach(world, 35)
    state = world.nodes[0].disk.tip.state
    assert len(state.refused) == 3
    assert [why.split()[-3:] for why in state.refused] == [
        ["fewer", "than", "4"],
        ["of", "the", "weight"],
        ["move", "at", "once"],
    ]
    assert state.set_at(35) == world.rules.genesis_set


def test_40_node_1000_blocks_behind_joins() -> None:
    """It catches up through the real syncer while blocks go on, then votes."""
    world = equal(4)
    late = world.nodes[3]
    late.stop()
    reach(world, 1_000, world.nodes[:3])
    late.start()
    joined = world.now
    reach(world, 1_005)
    assert world.now - joined < 30_000
    target = late.height + 6
    reach(world, target)
    signers = {each.index for one in certificates(late)[-6:] for each in one.signatures}
    assert 3 in signers


def test_41_sync_peer_serves_bad_block_or_qc() -> None:
    """Changed blocks and certificates without a quorum are refused, their senders are not asked
    again, and the chain is fetched from the others."""
    world = World(41, Setup(weights=(1,) * 7, liars={1: BadSyncPeer, 2: BadCertificatePeer}))
    late = world.nodes[6]
    late.stop()
    reach(world, 120, [node for node in world.honest if node is not late])
    late.start()
    for peer in world.peers_of(late):
        late.ask_status(peer)  # As nodes do when they connect.
    reach(world, 125)
    assert any("not the COMMIT of block" in reason for reason in late.penalised)
    assert any("two thirds" in reason for reason in late.penalised)


class _Miscounting(Rules):
    """A node whose execution gives another state."""

    def _apply(self, state: State, block: Block) -> State:
        after = super()._apply(state, block)
        return State(after.sets, sha256(b"bit flip" + after.root), after.punished, after.refused)


def test_42_nondeterministic_node() -> None:
    """It finds a decided block invalid, stops signing with a clear error, and the rest goes on."""
    world = equal(4, expects_stop=True)
    node = world.nodes[2]
    rules = world.rules
    reach(world, 4)
    node.rules = _Miscounting(rules.genesis_set, rules.opens, rules.verify)
    reach(world, 12, [one for one in world.nodes if one is not node])
    assert node.stopped is not None
    assert "is invalid here" in node.stopped
    assert node.engine is None
    assert node.height < 12
