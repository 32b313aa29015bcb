"""Scenarios 19 to 28 and 39: crashes, lost disks, doubled keys, partitions, lossy wires.

The shell's part (RocksDB, process, alarms) is played by `simulator.node`, which performs effects
in the same order; the real shell has its own process tests.
"""

from __future__ import annotations

import pytest

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Broadcast, Effect, Observe, Persist
from gridtokenx.consensus.messages import Message, Phase, Proposal, Timeout, Vote
from tests.support.scenario import committed, equal, obeying, production, reach, times, views
from tests.support.simulator.chain import slots
from tests.support.simulator.mutants import IgnoresOwnAfterRestart
from tests.support.simulator.network import Faults
from tests.support.simulator.node import Node
from tests.support.simulator.world import Setup, World


def _kind(message: Message) -> str:
    match message:
        case Vote(phase):
            return phase.name
        case Proposal():
            return Phase.PROPOSE.name
        case Timeout():
            return Phase.TIMEOUT.name
    return "certificate"


def _watch(node: Node) -> list[Message]:
    """All that the node broadcasts from now on."""
    heard: list[Message] = []
    broadcast = node.broadcast

    def note(message: Message) -> None:
        heard.append(message)
        broadcast(message)

    node.broadcast = note  # type: ignore[method-assign]
    return heard


def _own(messages: list[Message], kind: str) -> list[Message]:
    return [one for one in messages if _kind(one) == kind]


@pytest.mark.parametrize("kind", ["PROPOSE", "PREPARE", "COMMIT", "TIMEOUT"])
def test_19_crash_between_persist_and_send(kind: str) -> None:
    """The same bytes leave after the restart, and nobody is convicted."""
    world = equal(4)
    node = world.nodes[1]  # The leader of height 1.
    if kind == "TIMEOUT":
        world.nodes[2].stop()  # The leader of height 2, so that a view is left there.
    heard = _watch(node)

    def before_sending(effect: Effect) -> bool:
        return isinstance(effect, Broadcast) and _kind(effect.message) == kind

    node.trap = before_sending
    crashed = world.run_until(lambda: world.crashes == 1, 10_000)
    assert crashed
    assert not _own(heard, kind)
    record = node.disk.record
    assert record is not None
    lost = _own(list(record.own), kind)
    assert len(lost) == 1
    reach(world, record.height + 2, [one for one in world.nodes if one.name != 2])
    assert _own(heard, kind)[0] == lost[0]
    assert not world.judge.convicted


@pytest.mark.parametrize("kind", ["PROPOSE", "PREPARE", "COMMIT"])
def test_20_crash_before_persist(kind: str) -> None:
    """Nothing was sent, so whatever the node says after its restart is its first word."""
    world = equal(4)
    node = world.nodes[1]
    heard = _watch(node)

    def before_writing(effect: Effect) -> bool:
        return isinstance(effect, Persist) and _kind(effect.record.own[-1]) == kind

    node.trap = before_writing
    crashed = world.run_until(lambda: world.crashes == 1, 10_000)
    assert crashed
    assert not _own(heard, kind)
    record = node.disk.record
    assert record is None or not _own(list(record.own), kind)
    reach(world, 3)
    assert not world.judge.convicted


def _all_restart_after_their_timeouts(engine_class: type[Engine]) -> World:
    """One is dead; the others crash between their TIMEOUT and anyone's certificate."""
    world = equal(4, engine_class=engine_class, calm_ms=60_000)
    world.nodes[1].stop()  # The leader of (1, 0): nothing is ever proposed.
    alive = [world.nodes[index] for index in (0, 2, 3)]
    world.network.groups = [0, 1, 2, 3]
    left = world.run_until(lambda: all(one.disk.record is not None for one in alive), 5_000)
    assert left
    assert all(one.disk.record is not None and one.disk.record.timed_out for one in alive)
    world.network.groups = [0] * 4
    for node in alive:
        node.crash(100)
    world.run_until(lambda: min(one.height for one in alive) >= 2, 30_000)
    return world


def test_21_all_crash_after_timeout_2f1_alive() -> None:
    """A TC forms after the restart, as own messages count. An engine without that rule halts."""
    assert _all_restart_after_their_timeouts(Engine).nodes[0].height >= 2
    assert _all_restart_after_their_timeouts(IgnoresOwnAfterRestart).nodes[0].height == 0


def test_22_kill9_all_during_commit() -> None:
    """The block that one member has committed to is the one that is decided."""
    world = equal(4)
    one_has = world.run_until(lambda: any(map(committed, world.nodes)), 5_000)
    assert one_has
    block = next(filter(None, map(committed, world.nodes)))
    assert max(node.height for node in world.nodes) == 0
    for node in world.nodes:
        node.crash(500)
    reach(world, 1)
    assert world.judge.decided[1] == block


def test_23_restored_old_backup() -> None:
    """A node with an old chain and no record observes: it signs at no height up to the highest it
    heard of plus one, and afterwards it votes again. (Backups never hold a safety record; noticing
    that the record is missing, and waiting, are the shell's part, played by `Node.start`.)"""
    world = equal(4)
    node = world.nodes[3]
    reach(world, 5)
    backup = node.disk.backup()
    reach(world, 20)
    node.stop()
    world.judge.forget(node)  # Its height goes back, as intended.
    node.disk = backup
    assert node.height < 10
    heard = _watch(node)
    node.start()
    allowed: list[int] = []
    feed = node.feed

    def note(event: object) -> None:
        if isinstance(event, Observe):
            allowed.append(event.until_height)
        feed(event)  # type: ignore[arg-type]

    node.feed = note  # type: ignore[method-assign]
    voted = world.run_until(lambda: any(isinstance(one, Vote) for one in heard), 60_000)
    assert voted
    assert allowed
    assert allowed[0] >= 21
    assert min(one.height for one in heard) > allowed[0]
    reach(world, node.height + 3)


def test_24_two_processes_one_key() -> None:
    """Two processes with one key and a copied record: one that hears the other stops signing.
    Agreement holds and the rest goes on. (The exit code is the shell's.)"""
    for seed in range(5):
        setup = Setup(twins=(2,), twin_class=Engine, expects_stop=True)
        world = World(seed, setup)
        first, second = world.nodes[2], world.nodes[4]
        second.stop()
        reach(world, 5)
        second.disk = first.disk.backup()
        second.disk.missing, second.disk.record = False, first.disk.record
        second.start()
        reach(world, 20)
        stopped = [node.stopped for node in (first, second) if node.stopped]
        assert stopped
        assert all("own key signed" in reason for reason in stopped)


def test_25_partition_2_2_heal() -> None:
    """No block while split in halves; then one within the longest view and a second."""
    world = equal(4, calm_ms=40_000)
    reach(world, 3)
    world.network.groups = [0, 0, 1, 1]
    world.run_for(2_000)
    halted = max(node.height for node in world.nodes)
    world.run_for(20_000)
    assert max(node.height for node in world.nodes) == halted
    world.network.groups = [0] * 4
    healed = world.now
    reach(world, halted + 1)
    assert world.now - healed <= world.setup.timing.timeout_ms(0) + 1_000


def test_26_partition_3_1_minority_catches_up() -> None:
    """The one that was cut off gets all blocks by sync, without a restart, and votes again."""
    world = equal(4, calm_ms=60_000)
    reach(world, 2)
    world.network.groups = [0, 0, 0, 1]
    reach(world, 40, world.nodes[:3])
    late = world.nodes[3]
    assert late.height < 5
    world.network.groups = [0] * 4
    reach(world, 42)
    assert late.life == 0
    heard = _watch(late)
    reach(world, late.height + 4)
    assert any(isinstance(one, Vote) for one in heard)


def test_27_loss_40pct_dup_reorder() -> None:
    """Progress, and traffic that is bounded: no storm grows out of losses."""
    faults = Faults(loss=0.4, duplicate=0.2, mean_delay_ms=200)
    world = World(27, Setup(faults=faults, calm_ms=10**9))
    reach(world, 20, limit_ms=300_000)
    per_node_and_second = world.network.sent * 1000 / world.now / len(world.nodes)
    assert per_node_and_second < 60


def _swallowed(swallow_ms: int, seed: int = 28) -> World:
    faults = Faults(loss=0.5, mean_delay_ms=50, swallow=swallow_ms > 0)
    world = World(seed, Setup(faults=faults, calm_ms=10**9))
    world.network.swallow_ms = swallow_ms
    return world


def test_28_gossip_seen_cache_swallows_identical() -> None:
    """RESEND repeats bytes. With a nonce beneath (nothing swallowed) or a short memory losses are
    made good; with content-hash ids and gossipsub's two minutes half of the blocks are missing."""
    heights = []
    for swallow_ms in (0, 2_000, 120_000):
        worlds = [_swallowed(swallow_ms, seed) for seed in (28, 29, 30)]
        for world in worlds:
            world.run_for(90_000)
        heights.append(sum(min(node.height for node in world.nodes) for world in worlds))
    assert heights[0] >= 60
    assert heights[1] >= 45
    assert heights[2] < heights[0] * 2 // 3


def test_39_slow_disk_fsync_2s() -> None:
    """A disk that takes two seconds per write: nothing leaves before it is durable (I5), and the
    chain of ten-second slots still grows. (Ordering only; a real disk is the shell's test.)"""
    world = production()
    slow = world.nodes[1]
    slow.disk.fsync_ms = 2_000
    heard = _watch(slow)
    world.run_for(100_000)
    assert min(node.height for node in world.honest) >= 7
    assert any(isinstance(one, Vote) for one in heard)
    all_slow = production()
    for node in all_slow.nodes:
        node.disk.fsync_ms = 1_000
    all_slow.run_for(120_000)
    assert min(node.height for node in all_slow.nodes) >= 8
    assert all(b - a >= 10_000 for a, b in zip(times(node)[1:], times(node)[2:], strict=False))
    assert max(views(node)) <= 1


def test_a_crash_while_the_disk_writes_sends_nothing() -> None:
    """Dying inside a write leaves the old record, and the message behind it was never sent."""
    world = equal(4, opens=slots(2_000))
    node = world.nodes[1]
    node.disk.fsync_ms = 300
    heard = _watch(node)
    writing = world.run_until(lambda: node.writing, 10_000)
    assert writing
    node.crash(100)
    assert node.disk.record is None
    assert not heard
    reach(world, 3)
    assert not world.judge.convicted


def test_bodies_survive_two_crashes() -> None:
    """All commit, die, leave the view after their restart and die again, before anybody had reason
    to look at the body again. It must still be there: the lock forbids every other block."""

    def rule(world: World, source: int, target: int, packet: object) -> bool:
        commit = isinstance(packet, Vote) and packet.phase is Phase.COMMIT
        return world.now >= 6_000 or not (commit or isinstance(packet, Timeout))

    world = equal(4, network=obeying(rule))
    all_have = world.run_until(lambda: all(map(committed, world.nodes)), 900)
    assert all_have
    block = committed(world.nodes[0])
    for node in world.nodes:
        node.crash(100)
    world.run_for(3_000)
    assert all(node.disk.record is not None and node.disk.record.timed_out for node in world.nodes)
    for node in world.nodes:
        assert node.disk.record is not None
        assert block in node.disk.record.candidates
        node.crash(100)
    reach(world, 2, limit_ms=30_000)
    assert world.judge.decided[1] == block


def test_an_isolated_observer_goes_on_observing() -> None:
    """An old backup is restored and hears nobody while it observes. The chain waits for it at the
    height where it has proposed before: signing there again would be a second proposal."""
    world = equal(4, calm_ms=10**9)
    node = world.nodes[3]
    reach(world, 4)
    backup = node.disk.backup()
    reach(world, 6)
    world.nodes[0].stop()
    proposed = world.run_until(
        lambda: node.disk.record is not None and (node.disk.record.height, node.height) == (7, 6),
        10_000,
    )
    assert proposed  # It leads height 7.
    node.stop()
    world.judge.forget(node)
    node.disk = backup
    world.network.groups = [0, 0, 0, 1]
    node.start()
    world.run_for(4 * world.setup.observe_ms)
    world.network.groups = [0] * 4
    world.run_for(30_000)
    assert max(one.height for one in world.nodes) == 6  # Two dead of four: a halt, not a fork.
    world.nodes[0].start()
    reach(world, 12)
    heard = _watch(node)
    reach(world, 16)
    assert heard
