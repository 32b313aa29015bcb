"""Nodes, wires and a judge in virtual time, all drawn from one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.chain.sync import REQUEST_TIMEOUT_MS
from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Tick
from gridtokenx.consensus.leader import LeaderSchedule
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.validators import ValidatorSet
from tests.support.simulator.adversaries import Liar, Shameless
from tests.support.simulator.chain import (
    CHAIN_ID,
    Opens,
    Rules,
    every,
    make_set,
    make_signers,
    verifier,
)
from tests.support.simulator.disk import Disk
from tests.support.simulator.judge import InvariantError, Judge, Transcript
from tests.support.simulator.network import Faults, Network
from tests.support.simulator.node import Node
from tests.support.simulator.trace import Trace

TIMING = Timing(base_ms=1000, resend_ms=500)


@dataclass
class Setup:
    """What a world is made of. Indexes are positions in the validator set.

    `liars`: kind of each lying member; `twins`: members that run two processes; `joiners`: weight-0
    members that only follow until a change of the set takes them in. `real`: Ed25519 and the wire
    encoding instead of toys.
    """

    weights: tuple[int, ...] = (1, 1, 1, 1)
    liars: dict[int, type[Liar]] = field(default_factory=dict)
    twins: tuple[int, ...] = ()
    faults: Faults = field(default_factory=Faults)
    network: type[Network] = Network
    engine_class: type[Engine] = Engine
    twin_class: type[Engine] = Shameless
    set_class: type[ValidatorSet] = ValidatorSet
    timing: Timing = TIMING
    opens: Opens = field(default_factory=lambda: every(400))
    calm_ms: int = 0
    observe_ms: int = 6_000
    skews_ms: dict[int, int] = field(default_factory=dict)
    real: bool = False
    epoch_blocks: int = 10**9
    expects_fork: bool = False
    expects_stop: bool = False


class World:
    """Run it with `run` (chaos, then progress) or step by step with `run_until`."""

    def __init__(self, seed: int, setup: Setup | None = None) -> None:
        self.setup = setup = setup or Setup()
        self.seed, self.random, self.now = seed, random.Random(seed), 0
        self.chain_id, self.verify = CHAIN_ID, verifier(setup.real)
        self.events = self.crashes = self._serial = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self.ordered: dict[int, ValidatorSet] = {}  # Height -> change that its block orders.
        self.trace = Trace()
        self.signers = make_signers(len(setup.weights), setup.real)
        members = make_set(self.signers, setup.weights, setup.set_class)
        self.rules = Rules(members, setup.opens, self.verify, setup.epoch_blocks)
        self.network = setup.network(
            self, self.random, len(setup.weights) + len(setup.twins), setup.faults
        )
        self.judge = Judge(self)
        if setup.expects_fork:
            self.judge.transcript = Transcript(self)
        self.nodes = self._make_nodes()
        self.honest = [node for node in self.nodes if node.honest]
        self._peers = {
            node.name: [peer for peer in self.nodes if peer is not node] for node in self.nodes
        }
        self._lost: dict[int, int] = {}
        guilty = {*setup.liars, *setup.twins}
        self.guilty_keys = {self.signers[index].public_key for index in guilty}
        self.guilty_weight = sum(setup.weights[index] for index in guilty)
        self.liars_are_few = 3 * self.guilty_weight < sum(setup.weights)
        for node in self.nodes:
            node.start()

    def _make_nodes(self) -> list[Node]:
        setup = self.setup
        owners = [*range(len(setup.weights)), *setup.twins]
        nodes = []
        for name, index in enumerate(owners):
            node = Node(self, name, self.signers[index], Disk([self.rules.genesis]))
            node.skew_ms = setup.skews_ms.get(index, 0)
            if index in setup.liars:
                node.liar = setup.liars[index]()
                node.engine_class = node.liar.engine_class
            elif index in setup.twins:
                node.engine_class = setup.twin_class
            node.honest = index not in setup.liars and index not in setup.twins
            nodes.append(node)
        return nodes

    # -- Time --------------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        return self.now >= self.setup.calm_ms

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + int(delay_ms), self._serial, action))

    def note(self, node: Node, what: object) -> None:
        self.trace.note(self.now, node.name, what)

    def run_until(self, done: Callable[[], bool], limit_ms: int = 600_000) -> bool:
        """Advance until `done`, or for `limit_ms`; whether it was done."""
        end = self.now + limit_ms
        queue = self._queue
        while not done():
            if not queue or queue[0][0] > end:
                return False
            self.now, _, action = heapq.heappop(queue)
            action()
        return True

    def run_for(self, milliseconds: int) -> None:
        end = self.now + milliseconds
        self.at(milliseconds, lambda: None)
        self.run_until(lambda: self.now >= end, milliseconds)

    def run(self, more_heights: int = 3) -> World:
        """Chaos until calm, then every honest node must decide `more_heights` more (I11)."""
        self.suffer(self.setup.calm_ms)
        if self.judge.forked_at is None:
            self.network.weather()  # Whatever was cut or dropped is whole again.
            self.must_progress(more_heights)
        return self

    def suffer(self, milliseconds: int) -> None:
        """Bad weather for a while, or until a fork that was to be expected."""
        self.at(500, self._weather)
        self.run_until(lambda: self.judge.forked_at is not None, milliseconds)

    def _weather(self) -> None:
        """Once a second: another network, perhaps a blackout, and a timer that fires too early."""
        self.network.weather()
        if self.calm:
            return
        blackout = self.setup.faults.blackout
        if blackout and self.random.random() < blackout:
            for node in self.nodes:
                if node.engine is not None:
                    node.crash(self.random.randrange(100, 2000))
        self.random.choice(self.nodes).feed(Tick())
        self.at(1000, self._weather)

    def must_progress(self, more_heights: int = 3) -> None:
        goal = max(node.height for node in self.honest) + more_heights
        reached = self.run_until(
            lambda: self.lowest() >= goal or self.judge.forked_at is not None,
            self._patience_ms(more_heights),
        )
        heights = [node.height for node in self.nodes]
        self.judge.require(reached, f"I11 no progress: heights {heights}, goal {goal}")

    def lowest(self) -> int:
        return min(node.height for node in self.honest)

    def _patience_ms(self, more_heights: int) -> int:
        """(f + 1) longest views to leave the chaos, then as many first ones for every height and
        its slot; slack to find each other: an observation, a lost request for blocks, resends."""
        timing = self.setup.timing
        views = (len(self.setup.weights) - 1) // 3 + 1
        calming_ms = views * 8 * timing.base_ms
        height_ms = self.rules.opens(0) + views * timing.base_ms
        slack_ms = 2 * self.setup.observe_ms + REQUEST_TIMEOUT_MS + 10 * timing.resend_ms
        return calming_ms + more_heights * height_ms + slack_ms

    # -- Who is who --------------------------------------------------------------------------------

    def peers_of(self, node: Node) -> list[Node]:
        return self._peers[node.name]

    def leader(self, height: int, view: int) -> int:
        """Of the genesis set, for tests that aim at it."""
        start = self.rules.epoch_start(height)
        return LeaderSchedule(self.rules.genesis_set).leader(height - start + view)

    def may_lose(self, node: Node) -> bool:
        """Whether this disk may lose its record: observers and liars stay below a third."""
        weights = self.setup.weights
        lost = self._lost | {node.name: weights[node.name] if node.name < len(weights) else 0}
        if 3 * (self.guilty_weight + sum(lost.values())) >= sum(weights):
            return False
        self._lost = lost
        return True


__all__ = ["InvariantError", "Setup", "World"]
