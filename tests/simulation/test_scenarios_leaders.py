"""Scenarios 1 to 18: leaders that are slow, dead or lie, and locks that must survive them.

The numbers are those of the design's list; the expected result is in each docstring.
"""

from __future__ import annotations

from itertools import combinations

import pytest

from gridtokenx.consensus.evidence import EvidenceKind
from gridtokenx.consensus.messages import Phase, Vote
from tests.support.scenario import (
    SLOT_MS,
    certificates,
    committed,
    equal,
    obeying,
    production,
    punished,
    reach,
    times,
    views,
)
from tests.support.simulator.adversaries import (
    Amnesiac,
    BodyWithholder,
    DoubleVoter,
    Equivocator,
    LeaderToMinority,
    LockIgnorer,
    WrongRoot,
)
from tests.support.simulator.mutants import MUTANTS, SkipsJustification, hunt
from tests.support.simulator.network import Faults, HideCommit, Network, kind_of
from tests.support.simulator.world import Setup, World


def test_1_happy_4_equal() -> None:
    """100 heights, all in view 0."""
    world = equal(4)
    reach(world, 100)
    assert set(views(world.nodes[0])[:100]) == {0}


def test_2_happy_weighted_7() -> None:
    """In any W heights a member of weight w leads w times, give or take one."""
    weights = (5, 4, 3, 3, 2, 2, 1)
    world = World(1, Setup(weights=weights))
    reach(world, 60)
    leaders = [one.block.proposer for one in world.nodes[0].disk.chain[1:]]
    for start in range(40):
        window = leaders[start : start + sum(weights)]
        for member, weight in enumerate(weights):
            assert abs(window.count(member) - weight) <= 1


def test_3_one_dead_leader() -> None:
    """Every fourth height needs view 1; with slots there is still one block per slot."""
    world = production()
    world.nodes[2].stop()
    alive = [world.nodes[index] for index in (0, 1, 3)]
    world.run_for(620_000)
    assert min(node.height for node in alive) >= 61
    told = views(alive[0])
    assert all(view == (1 if height % 4 == 2 else 0) for height, view in enumerate(told, 1))
    assert [time // SLOT_MS for time in times(alive[0])] == list(range(1, len(told) + 1))


def test_4_two_dead_of_four_1h_then_back() -> None:
    """No block for an hour, the view stays, a decision within 5 s of the return."""
    world = production()
    reach(world, 3)
    for index in (2, 3):
        world.nodes[index].stop()
    world.run_for(15_000)
    halted = world.nodes[0].height
    view = world.nodes[0].engine.state.view
    world.run_for(3_600_000)
    assert world.nodes[0].height == halted
    assert world.nodes[0].engine.state.view == view <= 1
    world.nodes[2].start()
    returned = world.now
    reach(world, halted + 1, world.nodes[:3])
    assert world.now - returned < 5_000


def test_5_dead_org_two_nodes_of_eight() -> None:
    """Four organisations with two nodes each lose one organisation: progress."""
    world = equal(8)
    for index in (4, 5):
        world.nodes[index].stop()
    reach(world, 20, [node for node in world.nodes if node.engine])


@pytest.mark.parametrize("pair", list(combinations(range(8), 2)))
def test_6_any_two_nodes_down_of_eight(pair: tuple[int, int]) -> None:
    """Progress whichever two are down."""
    world = equal(8)
    for index in pair:
        world.nodes[index].stop()
    reach(world, 8, [node for node in world.nodes if node.engine], limit_ms=60_000)


def test_7_leader_equivocates_two_blocks() -> None:
    """At most one is decided (I1), and a block carries the pair of proposals as evidence."""
    world = World(7, Setup(liars={1: Equivocator}))
    key = world.signers[1].public_key
    reach(world, 30)
    assert (key, EvidenceKind.DOUBLE_PROPOSE) in punished(world)
    assert {accused for accused, _ in punished(world)} == {key}


def test_8_leader_sends_to_minority_only() -> None:
    """The view is left with a certificate and the next leader's block is decided."""
    world = World(8, Setup(liars={1: LeaderToMinority}))
    reach(world, 9)
    node = world.nodes[0]
    assert views(node)[:9] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert node.disk.chain[1].block.proposer == 2


def test_9_leader_withholds_body_sends_digest() -> None:
    """A timeout, and nobody COMMITs without the body (I5)."""
    world = World(9, Setup(liars={1: BodyWithholder}))
    reach(world, 9)
    assert views(world.nodes[0])[:9] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_10_leader_invalid_state_root() -> None:
    """All leave the view at once, long before its deadline; view 1 decides."""
    world = World(10, Setup(liars={1: WrongRoot}))
    reach(world, 1)
    assert views(world.honest[0])[0] == 1
    opened = world.rules.opens(0)
    assert world.now < opened + world.setup.timing.timeout_ms(0) // 2


def test_11_leader_late_proposal_after_timeout() -> None:
    """A proposal that arrives after the TIMEOUT is not PREPAREd by anybody."""
    late = []

    class Late(Network):
        def send(self, source, target, packet, use) -> None:
            if kind_of(packet) == "PROPOSE" and (packet.height, packet.view) == (1, 0):
                late.append(target.name)
                self.clock.at(self.clock.setup.timing.timeout_ms(0) + 5, use)
            else:
                super().send(source, target, packet, use)

    world = World(11, Setup(network=Late))
    lines: list[str] = []
    world.trace.stream = lines.append
    reach(world, 2)
    assert set(late) == {0, 2, 3}
    prepared = [line for line in lines if "=> PREPARE h1 v0" in line]
    assert all(" n1 " in line for line in prepared)
    assert any("<- n1: PROPOSE h1 v0" in line for line in lines)
    assert views(world.nodes[0])[0] == 1


def test_12_double_voter_all_digests() -> None:
    """Agreement; the double votes end up in a block. PoA suspends nobody by itself (2.9)."""
    kinds: set[tuple[bytes, int]] = set()
    for seed in range(4):
        setup = Setup(
            weights=(1,) * 7, liars={2: DoubleVoter, 3: Equivocator}, faults=Faults(duplicate=0.2)
        )
        world = World(seed, setup)
        reach(world, 20)
        assert {key for key, _ in punished(world)} <= world.guilty_keys
        kinds |= punished(world)
    voter = world.signers[2].public_key
    assert (voter, EvidenceKind.DOUBLE_PREPARE) in kinds
    assert world.honest[0].disk.tip.state.set_at(21) == world.rules.genesis_set


def test_13_amnesiac_timeouts_stale_hq() -> None:
    """Agreement, and a COMMIT followed by a TIMEOUT that forgot it convicts (E3)."""
    setup = Setup(
        liars={2: Amnesiac}, network=HideCommit, faults=Faults(mean_delay_ms=50), calm_ms=20_000
    )
    world = World(13, setup).run()
    reach(world, max(node.height for node in world.honest) + 5)
    assert (world.signers[2].public_key, EvidenceKind.AMNESIA) in punished(world)
    assert world.judge.convicted <= {(key, kind) for key, kind in punished(world)}


def _hide_all_from(victim: int, until_ms: int) -> type[Network]:
    """COMMITs of height 1, view 0 reach only the victim, which is then cut off."""

    def rule(world: World, source: int, target: int, packet: object) -> bool:
        if world.now >= until_ms:
            return True
        if isinstance(packet, Vote) and packet.phase is Phase.COMMIT and packet.view == 0:
            return target == victim
        decided = world.nodes[victim].height >= 1
        return not (decided and victim in (source, target))

    return obeying(rule)


def test_14_hide_commit_one_node_decides_then_isolated() -> None:
    """Later views decide the same block again."""
    world = World(14, Setup(network=_hide_all_from(0, 4_000)))
    reach(world, 1, [world.nodes[0]])
    first = world.nodes[0].disk.chain[1]
    assert all(node.height == 0 for node in world.nodes[1:])
    reach(world, 1, world.nodes[1:], limit_ms=3_000)
    for node in world.nodes[1:]:
        assert node.disk.chain[1].block == first.block
    assert views(world.nodes[0])[0] == 0
    assert views(world.nodes[1])[0] > 0


def test_15_leader_ignores_lock_in_tc() -> None:
    """All honest nodes refuse the proposal and blame its author; an engine that does not, forks."""
    world = World(15, Setup(liars={2: LockIgnorer}, network=_hide_all_from(0, 6_000)))
    reach(world, 1)
    for node in world.nodes:
        if node.honest and node.name != 0:
            assert any("not justified" in reason for reason in node.penalised)
    mutant = next(one for one in MUTANTS if one.broken is SkipsJustification)
    caught = hunt(mutant)
    assert caught is not None
    assert caught.invariant == "I1"


def test_16_hidden_lock_malachite_956() -> None:
    """Only n0 holds a lock, and the TC does not know of it. Its vote is needed and it gives it:
    the first honest leader after calm decides another block, because the TC is the proof."""

    def rule(world: World, source: int, target: int, packet: object) -> bool:
        if getattr(packet, "view", 9) == 0 and world.now < 3_000:
            if isinstance(packet, Vote):
                return target == 0
            if source == 0 and kind_of(packet) in ("TIMEOUT", "certificate"):
                return False
        return True

    world = World(16, Setup(network=obeying(rule)))
    locked = world.run_until(lambda: committed(world.nodes[0]) is not None, 2_000)
    assert locked
    lock = committed(world.nodes[0])
    left = world.run_until(lambda: world.nodes[1].engine.state.view == 1, 3_000)
    assert left
    world.nodes[3].stop()  # Three are left, so n0 must PREPARE against its lock.
    alive = world.nodes[:3]
    reach(world, 1, alive)
    assert certificates(alive[0])[0].view == 1
    assert certificates(alive[0])[0].block_hash != lock


def test_17_alpenglow_132_three_way_split() -> None:
    """Two have prepared, three have left the view, two heard nothing: a TC forms, and progress."""
    world = World(17, Setup(weights=(1,) * 7))
    world.network.groups = [0, 0, 1, 1, 1, 2, 2]
    world.setup.calm_ms = 8_000
    world.run_for(8_000)
    assert max(node.height for node in world.nodes) == 0
    reach(world, 3, limit_ms=12_000)
    assert views(world.nodes[0])[0] >= 1


def test_18_dbft_four_good_nodes_deadlock() -> None:
    """All COMMITs of views 0 and 1 are lost, so members have committed in both: view 2 decides the
    block that was committed first."""

    def rule(world: World, source: int, target: int, packet: object) -> bool:
        commit = isinstance(packet, Vote) and packet.phase is Phase.COMMIT
        return not (commit and packet.height == 1 and packet.view < 2)

    world = World(18, Setup(network=obeying(rule)))
    sent: list[tuple[int, bytes]] = []
    broadcast = type(world.nodes[0]).broadcast

    def watch(node, message) -> None:
        if isinstance(message, Vote) and message.phase is Phase.COMMIT and message.height == 1:
            sent.append((message.view, message.block_hash))
        broadcast(node, message)

    for node in world.nodes:
        node.broadcast = lambda message, node=node: watch(node, message)
    reach(world, 1)
    assert {view for view, _ in sent} == {0, 1, 2}
    assert len({block for _, block in sent}) == 1
    assert views(world.nodes[0])[0] == 2
