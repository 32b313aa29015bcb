"""Who has come and who has gone: events for any number of subscribers, none of whom can block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from gridtokenx.network.peers.peer import PeerId

SUBSCRIPTION_EVENTS = 64


@dataclass(frozen=True, slots=True)
class PeerConnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    peer: PeerId


PeerEvent = PeerConnected | PeerDisconnected


class Subscription:
    """Events for one subscriber, coalesced per peer so that it can never block the host."""

    def __init__(self, is_connected: Callable[[PeerId], bool]) -> None:
        self.send_channel, self.receive_channel = trio.open_memory_channel[PeerEvent](
            SUBSCRIPTION_EVENTS
        )
        self._is_connected = is_connected
        self._told: set[PeerId] = set()
        self._pending: dict[PeerId, bool] = {}  # peer -> whether it was gone in between
        self._changed = trio.Event()

    def note(self, peer: PeerId) -> None:
        """The peer has come or gone; what is told is decided when there is room."""
        gone = not self._is_connected(peer)
        if gone and peer not in self._told:
            self._pending.pop(peer, None)  # came and went before it was told
            return
        self._pending[peer] = self._pending.get(peer, False) or gone
        self._changed.set()

    async def pump(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                while self._pending:
                    peer = next(iter(self._pending))
                    await self._tell(peer, gone=self._pending.pop(peer))
        except trio.BrokenResourceError:
            return  # the subscriber closed its end

    async def _tell(self, peer: PeerId, *, gone: bool) -> None:
        if gone and peer in self._told:
            self._told.discard(peer)
            await self.send_channel.send(PeerDisconnected(peer))
        if self._is_connected(peer) and peer not in self._told:
            self._told.add(peer)
            await self.send_channel.send(PeerConnected(peer))
