"""Which peers the validators of followed chains vouch for: who finds room, and who is direct.

A proof (`about`, protocols/networking.md 3.4) holds for good, so it is remembered when the peer
leaves: a node that is full must not refuse the validator that comes back. Pure and bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gridtokenx.node.peer_events import PeerId
from gridtokenx.primitives.crypto import SigningKey

PEERS_PER_VALIDATOR = 2  # a node and its stand-in; whoever vouches for more gains nothing
MAX_DIRECT = 12  # above a dozen the uplink gives in (docs/scaling.md); the mesh does it then


class Authorities:
    """The peers of validators, by the newest proofs. `own`: this node's validator key, if any."""

    def __init__(self, own: SigningKey | None) -> None:
        self._own = None if own is None else own.public_key
        self._members: Collection[bytes] = ()
        self._peers: dict[bytes, tuple[PeerId, ...]] = {}

    def note(self, proved: Mapping[bytes, tuple[PeerId, ...]], members: Collection[bytes]) -> None:
        """Take in what connected peers have proved and who the validators are now."""
        self._members = members
        for key in [key for key in self._peers if key not in members]:
            del self._peers[key]
        for key, peers in proved.items():
            if key in members:
                merged = dict.fromkeys((*peers, *self._peers.get(key, ())))
                self._peers[key] = tuple(merged)[:PEERS_PER_VALIDATOR]

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """All of them, sorted: whoever connects, these find room."""
        return tuple(sorted({peer for peers in self._peers.values() for peer in peers}))

    @property
    def direct(self) -> tuple[PeerId, ...]:
        """Those that are direct peers of gossip: none unless this node is a validator itself.

        Both sides must list each other; a validator's node lists nobody who is none.
        """
        found = self.peers
        return found if self._own in self._members and len(found) <= MAX_DIRECT else ()
