"""Wires of the gossip simulation: where nodes are, how long a frame takes, what gets lost.

A node's frames share its uplink, the more urgent first; each connection is an ordered stream whose
rate is one window per round trip. Time in whole microseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from gridtokenx.network.gossipsub.events import Priority

REGIONS = ("MET", "NOR", "NEA", "CEN", "SOU")
# Of every ten nodes; about the regions' shares of the population.
PLACES = ("MET", "NOR", "NEA", "CEN", "SOU", "MET", "NOR", "NEA", "MET", "SOU")
INSIDE_MS = (2, 10)  # One way.
BETWEEN_MS = {
    frozenset(("MET", "CEN")): 20,
    frozenset(("MET", "NEA")): 30,
    frozenset(("MET", "NOR")): 35,
    frozenset(("MET", "SOU")): 40,
    frozenset(("NOR", "NEA")): 45,
    frozenset(("NOR", "CEN")): 35,
    frozenset(("NOR", "SOU")): 60,
    frozenset(("NEA", "CEN")): 30,
    frozenset(("NEA", "SOU")): 55,
    frozenset(("CEN", "SOU")): 40,
}
JITTER = 0.15  # Of a frame's latency, at most, either way.
UPLINK_BYTES_PER_S = 100_000_000 // 8
WINDOW_BYTES = 1 << 20  # Of our yamux: what may be on its way before it is acknowledged.
RETRANSMISSION_US = 200_000  # TCP's least time-out; a round trip comes on top.
QUEUE_BYTES = 16 * 1024 * 1024  # As in gossip_streams.py: each peer there, all here.


class Loss(Enum):
    """What becomes of a frame that meets with loss.

    DELAYED is the truth of a stream: it comes late and holds up what is behind it. DROPPED is
    harsher than any stream; only IHAVE and IWANT bring a message back.
    """

    DELAYED = "delayed"
    DROPPED = "dropped"


@dataclass(slots=True)
class Link:
    """One direction of a connection."""

    latency_us: int
    free_us: int = 0
    last_arrival_us: int = 0

    @property
    def bytes_per_s(self) -> int:
        return WINDOW_BYTES * 1_000_000 // (2 * self.latency_us)


def draw_latency_us(draw: Random, here: str, there: str) -> int:
    """One way between two places, fixed for a connection's life."""
    if here == there:
        return draw.randint(INSIDE_MS[0] * 1_000, INSIDE_MS[1] * 1_000)
    middle_us = BETWEEN_MS[frozenset((here, there))] * 1_000
    return middle_us + draw.randint(-middle_us // 10, middle_us // 10)


@dataclass(slots=True)
class Uplink:
    """A node's way out: frames wait here by priority while an earlier one is sent."""

    free_us: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    dropped: int = 0
    withdrawn: int = 0
    frames: dict[Priority, OrderedDict[tuple[int, bytes | int], bytes]] = field(
        default_factory=lambda: {priority: OrderedDict() for priority in Priority}
    )
    is_due: bool = False  # an event will take the next frame
    _queued: int = 0

    def put(self, peer: int, frame: bytes, priority: Priority, message_id: bytes) -> None:
        """Queue a frame; over the limit the oldest bulk goes."""
        self._queued += 1
        key = (peer, message_id or self._queued)
        if key in self.frames[priority]:
            return
        self.frames[priority][key] = frame
        self.bytes += len(frame)
        for victims in reversed(self.frames.values()):
            while victims and self.bytes > QUEUE_BYTES:
                self.bytes -= len(victims.popitem(last=False)[1])
                self.dropped += 1
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def take(self) -> tuple[int, bytes] | None:
        """The next frame to send: (peer, frame)."""
        for waiting in self.frames.values():
            if waiting:
                (peer, _), frame = waiting.popitem(last=False)
                self.bytes -= len(frame)
                return peer, frame
        return None

    def withdraw(self, peer: int, message_id: bytes) -> None:
        """Take back what waits for a peer that has it already."""
        for waiting in self.frames.values():
            frame = waiting.pop((peer, message_id), None)
            if frame is not None:
                self.bytes -= len(frame)
                self.withdrawn += 1


def arrival_us(
    link: Link, sent_us: int, size: int, draw: Random, loss: Loss, chance: float, *, sure: bool
) -> int | None:
    """When a frame that left the node at `sent_us` arrives, in order; None if it never does.

    `sure` frames are not dropped: a stream loses its subscriptions only with itself, and a new
    stream begins with them.
    """
    link.free_us = max(sent_us, link.free_us) + size * 1_000_000 // link.bytes_per_s
    spread_us = int(link.latency_us * JITTER)
    due_us = link.free_us + link.latency_us + draw.randint(-spread_us, spread_us)
    if draw.random() < chance:
        if loss is Loss.DELAYED:
            due_us += RETRANSMISSION_US + 2 * link.latency_us
        elif not sure:
            return None
    link.last_arrival_us = due_us = max(due_us, link.last_arrival_us)
    return due_us
