"""What a node does on the side, once a second or more seldom, for itself and for those who look.

Each task is a round of `runtime.housekeeping`: one that fails is counted and told, and the node
goes on; only a disk that is nearly full ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.host import Network
from gridtokenx.node.chain_runner import ChainRunner
from gridtokenx.node.clock_watch import ClockWatch
from gridtokenx.node.contacts import Peers
from gridtokenx.node.credentials import Authorities
from gridtokenx.node.disk_watch import DiskWatch
from gridtokenx.node.network_status import NetworkWatch
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.runtime.housekeeping import keep
from gridtokenx.runtime.loop_lag import LoopLag

EVERY_SECONDS = 1.0
DISK_SECONDS = 30.0


@dataclass(frozen=True)
class Upkeep:
    """The parts that are looked after."""

    chains: Mapping[str, ChainRunner]
    network: Network
    gossip: Gossip
    peers: Peers
    authorities: Authorities
    watch: NetworkWatch
    clock: ClockWatch
    disk: DiskWatch
    lag: LoopLag

    def start(self, nursery: trio.Nursery) -> None:
        """Begin, until the nursery is cancelled. Errors, into the nursery: DiskFull."""
        for task, step, every_s in (
            ("chain_figures", self._beat, EVERY_SECONDS),
            ("peer_figures", self.watch.look, EVERY_SECONDS),
            ("authorities", self._meet_authorities, EVERY_SECONDS),
            ("strangers", self._price_strangers, EVERY_SECONDS),
            ("clock", self._check_clock, EVERY_SECONDS),
            ("disk", self.disk.look, DISK_SECONDS),
        ):
            nursery.start_soon(keep, task, step, every_s)

    def _beat(self) -> None:
        for runner in self.chains.values():
            runner.beat()

    def _meet_authorities(self) -> None:
        sets = self._validators().values()
        members = {member.public_key for each in sets for member in each.members}
        if self.authorities.note(self.peers.proved(), members):
            self.network.set_authorities(self.authorities.peers)
            self.gossip.set_direct_peers(self.authorities.direct)

    def _price_strangers(self) -> None:
        self.network.budget.note_lag(self.lag.recent_ms)

    def _check_clock(self) -> None:
        self.clock.look(self.peers.clocks(), self._validators(), self.lag.recent_ms)

    def _validators(self) -> dict[str, ValidatorSet]:
        return {name: runner.status.validators for name, runner in self.chains.items()}
