"""What one chain's driver has of the node around it, and what it counts for those who look on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from gridtokenx.chain.trust import Trust
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.candidates import Ask
from gridtokenx.node.executor import Committed

MAX_REASONS = 64


@dataclass
class Wiring:
    """What a driver needs of the node around it."""

    gossip: Gossip
    ask: Ask
    peers: Callable[[], Sequence[PeerId]]  # connected peers that follow the chain
    request_sync: Callable[[int, PeerId, int], None]  # as `RequestSync` has them
    on_committed: Callable[[Committed], None]
    is_level: Callable[[], bool]  # whether some peer is heard and none is ahead
    may_propose: Callable[[], bool] = lambda: True
    vote: bool = True
    next_national: Callable[[], trio.Event] = trio.Event  # set with the next national block
    trust: Trust = field(default_factory=Trust)
    budget: StrangersBudget = field(default_factory=StrangersBudget)
    source_of: Callable[[PeerId], str | None] = lambda _peer: None  # None: no stranger


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
