"""Every small Twins world: four members, one with two processes, four views, all two-way splits.

A message of view v reaches only the processes on its sender's side in view v; which side each
process is on is chosen per view, in every possible way. TIMEOUTs and their certificates either
reach everybody, so that all views happen, or are split like the rest. Leaders are those of the
rotation, with the twin in each of its four places. After the fourth view, and after `HEAL_MS`, all
can talk, and height 1 must be decided, once. Views that no message ever mentions need no choice,
so a world is run once for all choices of the views it never reached: stateless search, exact
because nothing is random.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gridtokenx.consensus.events import CheckBlock
from gridtokenx.consensus.messages import (
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.state import Timing
from tests.support.simulator.chain import Block
from tests.support.simulator.network import Endpoint, Network
from tests.support.simulator.world import Setup, World

VIEWS = 4
SPLITS = 16  # Side of processes 1 to 4; process 0 is on side 0.
HEAL_MS = 6_000
HOP_MS = 10
TIMING = Timing(base_ms=1000, resend_ms=HEAL_MS)


class SplitByView(Network):
    """`script`: the splits to use, in the order in which views are first mentioned."""

    script: tuple[int, ...] = ()
    timeouts_pass = True

    def begin(self, script: tuple[int, ...]) -> None:
        self.script = script
        self.chosen: dict[int, int] = {}

    def split(self, view: int) -> int:
        if view not in self.chosen:
            at = len(self.chosen)
            self.chosen[view] = self.script[at] if at < len(self.script) else 0
        return self.chosen[view]

    def passes(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
        if self.clock.calm:
            return True
        view = _view_of(packet)
        if view is None or view >= VIEWS:
            return view is not None
        if self.timeouts_pass and isinstance(packet, Timeout | TimeoutCertificate):
            return True
        sides = self.split(view) << 1
        return (sides >> source.name & 1) == (sides >> target.name & 1)

    def send(
        self, source: Endpoint, target: Endpoint, packet: object, use: Callable[[], None]
    ) -> None:
        if self.passes(source, target, packet):
            self.clock.at(HOP_MS, use)


def _view_of(packet: object) -> int | None:
    match packet:
        case Proposal() | Vote() | Timeout() | QuorumCertificate() | TimeoutCertificate():
            return packet.view
        case Block():
            return packet.view0
        case CheckBlock():
            return packet.view
    return None  # Asking for decided blocks: not before all is healed.


class SplitTimeoutsToo(SplitByView):
    timeouts_pass = False


NETWORKS: tuple[type[SplitByView], ...] = (SplitByView, SplitTimeoutsToo)


def play(
    twin: int, script: tuple[int, ...], network: type[SplitByView] = SplitByView
) -> tuple[list[int], World]:
    """One world; the splits it used, in order. Raises InvariantError."""
    setup = Setup(twins=(twin,), network=network, timing=TIMING, opens=_only_one, calm_ms=HEAL_MS)
    world = _ScriptedWorld(setup, script)
    reached = world.run_until(lambda: min(node.height for node in world.honest) >= 1, 60_000)
    world.judge.require(reached, f"I11 twin {twin}, splits {script}: height 1 is not decided")
    assert isinstance(world.network, SplitByView)
    return list(world.network.chosen.values()), world


class _ScriptedWorld(World):
    def __init__(self, setup: Setup, script: tuple[int, ...]) -> None:
        self._script = script
        super().__init__(0, setup)

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        if not hasattr(self.network, "chosen"):
            network = self.network
            assert isinstance(network, SplitByView)
            network.begin(self._script)
        super().at(delay_ms, action)


def _only_one(parent_ms: int) -> int:
    """Height 2 does not open while height 1 is looked at."""
    return parent_ms + 1_000_000 if parent_ms else 0


@dataclass
class Coverage:
    """`worlds` were run; they stand for `schedules` choices of four splits."""

    worlds: int = 0
    schedules: int = 0
    events: int = 0

    def add(self, other: Coverage) -> None:
        self.worlds += other.worlds
        self.schedules += other.schedules
        self.events += other.events


def search(
    twin: int, first: int, views: int = VIEWS, network: type[SplitByView] = SplitByView
) -> Coverage:
    """All worlds whose first split is `first`; depth-first over the splits actually used."""
    done = Coverage()
    script = [first]
    while True:
        used, world = play(twin, tuple(script), network)
        used = used[:views]
        done.worlds += 1
        done.schedules += SPLITS ** (views - len(used))
        done.events += world.events
        script = used
        while len(script) > 1 and script[-1] == SPLITS - 1:
            script.pop()
        if len(script) == 1:
            return done
        script[-1] += 1


def _search(task: tuple[int, int, type[SplitByView]]) -> Coverage:
    twin, first, network = task
    return search(twin, first, network=network)


def run(jobs: int = 1) -> Iterator[Coverage]:
    """The whole search in 128 parts."""
    tasks = [
        (twin, first, network)
        for network in NETWORKS
        for twin in range(4)
        for first in range(SPLITS)
    ]
    if jobs == 1:
        yield from map(_search, tasks)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(_search, tasks)


TOTAL_SCHEDULES = len(NETWORKS) * 4 * SPLITS**VIEWS
