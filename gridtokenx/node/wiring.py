"""What a driver has of the node around it, and what it counts for those who look on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.candidates import Ask

MAX_REASONS = 64


@dataclass(frozen=True)
class Wiring:
    """What the drivers of a node share: its ways to peers, and its clocks.

    `now_ms` is the wall clock, which headers carry; `timer_ms` the engine's, which runs on whatever
    becomes of that. `source_of`: None for whoever is no stranger.
    """

    gossip: Gossip
    ask: Ask
    now_ms: Callable[[], int]
    timer_ms: Callable[[], int]
    budget: StrangersBudget = field(default_factory=StrangersBudget)
    source_of: Callable[[PeerId], str | None] = lambda _peer: None

    @property
    def origin_ms(self) -> int:
        """The wall clock less the timers'."""
        return self.now_ms() - self.timer_ms()

    def is_stranger(self, peer: PeerId) -> bool:
        """Whether no validator vouches for it."""
        return self.source_of(peer) is not None


@dataclass
class Counters:
    """What metrics and the status page show of a driver."""

    timeouts: int = 0
    evidence: int = 0
    inbox_full: int = 0
    penalties: dict[str, int] = field(default_factory=dict)  # By reason.

    def note_penalty(self, reason: str) -> None:
        """Somebody broke a rule; of too many reasons no more are told apart."""
        if reason in self.penalties or len(self.penalties) < MAX_REASONS:
            self.penalties[reason] = self.penalties.get(reason, 0) + 1
