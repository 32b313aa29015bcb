"""Wires between nodes: loss, delay, duplicates, reordering, partitions, drops, swallowed repeats.

Delays are drawn per packet, so packets overtake each other. After calm every packet arrives.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tests.support.simulator.trace import fingerprint

CALM_DELAY_MS = 10.0
KINDS = ("PROPOSE", "PREPARE", "COMMIT", "TIMEOUT", "certificate", "body")


@dataclass
class Faults:
    """Rates before calm: chances per packet, per effect (crash), per crash (lose_record)."""

    loss: float = 0.0
    duplicate: float = 0.0
    mean_delay_ms: float = 20.0
    partition: float = 0.0  # Chance per second that the partition changes.
    drop_kind: float = 0.0  # Chance per second that one kind of message stops passing.
    swallow: bool = False  # Identical bytes pass a wire once in two seconds.
    crash: float = 0.0
    blackout: float = 0.0  # Chance per second that every process dies at once.
    lose_record: float = 0.0


class Endpoint(Protocol):
    """What the network knows of a node."""

    @property
    def name(self) -> int: ...


class Clock(Protocol):
    """What the network needs of the world."""

    now: int

    @property
    def calm(self) -> bool: ...

    def at(self, delay_ms: float, action: Callable[[], None]) -> None: ...


def kind_of(packet: object) -> str:
    match packet:
        case Proposal():
            return "PROPOSE"
        case Vote():
            return "PREPARE" if packet.phase is Phase.PREPARE else "COMMIT"
        case Timeout():
            return "TIMEOUT"
        case QuorumCertificate() | TimeoutCertificate():
            return "certificate"
    return "body"


class Network:
    """Carries packets between nodes; subclasses with a purpose override `passes`."""

    def __init__(self, clock: Clock, draw: random.Random, nodes: int, faults: Faults) -> None:
        self.clock, self.random, self.faults = clock, draw, faults
        self.groups = [0] * nodes
        self.dropped: str | None = None
        self.sent = 0
        self.swallow_ms = 2_000
        self._seen: dict[tuple[int, int, bytes], int] = {}

    def weather(self) -> None:
        """Once a second before calm: maybe another partition, maybe another kind dropped."""
        if self.clock.calm:
            self.groups, self.dropped = [0] * len(self.groups), None
            return
        draw, faults = self.random, self.faults
        if draw.random() < faults.partition:
            parts = draw.choice((1, 2, 2, 3))
            self.groups = [draw.randrange(parts) for _ in self.groups]
        if faults.drop_kind and draw.random() < faults.drop_kind:
            self.dropped = draw.choice((None, *KINDS))

    def passes(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
        """Whether the wire carries a packet."""
        if self.clock.calm:
            return True
        if self.groups[source.name] != self.groups[target.name]:
            return False
        if self.dropped is not None and kind_of(packet) == self.dropped:
            return False
        return self.random.random() >= self.faults.loss

    def send(
        self, source: Endpoint, target: Endpoint, packet: object, use: Callable[[], None]
    ) -> None:
        """Carry a packet, or two, or none; `use` happens on arrival."""
        self.sent += 1
        calm, faults, draw = self.clock.calm, self.faults, self.random
        copies = 2 if not calm and draw.random() < faults.duplicate else 1
        mean_ms = CALM_DELAY_MS if calm else faults.mean_delay_ms
        for _ in range(copies):
            if self.passes(source, target, packet) and not self._swallows(source, target, packet):
                self.clock.at(1 - mean_ms * _log(draw.random()), use)

    def _swallows(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
        """A seen cache with content-hash ids forgets to carry what it carried before."""
        if not self.faults.swallow or self.clock.calm or kind_of(packet) == "body":
            return False
        key, now = (source.name, target.name, fingerprint(packet)), self.clock.now
        if key in self._seen and self._seen[key] + self.swallow_ms > now:
            return True
        self._seen[key] = now
        return False


def _log(uniform: float) -> float:
    """For exponential delays; the logarithm of 0 would be endless."""
    return math.log(max(uniform, 1e-9))


class HideCommit(Network):
    """Hides COMMITs from all but one node, which then disappears with its decision.

    Random loss never gets there; whoever forgets the lock afterwards decides another block.
    """

    victim = 0
    hiding_until = 0

    def passes(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
        if self.clock.calm:
            return True
        now = self.clock.now
        if kind_of(packet) == "COMMIT":
            if now >= self.hiding_until:  # A new hunt: the next height's decision is hidden.
                self.victim = self.random.randrange(len(self.groups))
                self.hiding_until = now + self.random.randrange(3_000, 8_000)
            return target.name == self.victim
        hidden = now < self.hiding_until and self.victim in (source.name, target.name)
        if hidden and source.name == self.victim:
            return isinstance(packet, Vote)
        return super().passes(source, target, packet)
