"""Which peers the validators of followed chains vouch for: who finds room, and who is direct.

A proof (`about`, protocols/networking.md 3.4) holds for good, so it is remembered when the peer
leaves: a node that is full must not refuse the validator that comes back. Bounded, without I/O.
Source: protocols/networking.md 2, 3.4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import structlog

from gridtokenx.network.peers.peer import PeerId
from gridtokenx.primitives.crypto import SigningKey

PEERS_PER_VALIDATOR = 2  # a node and its stand-in; whoever vouches for more gains nothing
# Each sends each message to all others, so copies grow with the square. Above eight the uplink is
# full (docs/scaling.md) and, on one machine, its cores; the mesh does it then.
MAX_DIRECT = 8

log = structlog.get_logger(__name__)


class Authorities:
    """The peers of validators, by the newest proofs.

    `own` is this node's validator key, if any; `named` are the operator's, who are always direct.
    """

    def __init__(self, own: SigningKey | None, named: Sequence[PeerId] = ()) -> None:
        self._own = None if own is None else own.public_key
        self._named = tuple(named)
        self._by_key: dict[bytes, tuple[PeerId, ...]] = {}
        self.peers: tuple[PeerId, ...] = ()  # whoever connects, these find room
        self.direct: tuple[PeerId, ...] = self._named

    def note(self, proved: Mapping[bytes, tuple[PeerId, ...]], members: Collection[bytes]) -> bool:
        """Take in what connected peers have proved and whose keys are validators' now.

        True when `peers` or `direct` has changed. Both sides must list each other, so only a
        validator's node lists others beyond the named ones as direct, and only where there are few
        validators, whether they are met already or not: who is direct leaves the mesh for a while.
        """
        for key in [key for key in self._by_key if key not in members]:
            del self._by_key[key]
        for key, peers in proved.items():
            if key in members:
                merged = dict.fromkeys((*peers, *self._by_key.get(key, ())))
                self._by_key[key] = tuple(merged)[:PEERS_PER_VALIDATOR]
        peers = tuple(sorted({peer for peers in self._by_key.values() for peer in peers}))
        is_one = self._own in members and len(members) - 1 <= MAX_DIRECT
        direct = tuple(dict.fromkeys((*self._named, *(peers if is_one else ()))))
        changed = (peers, direct) != (self.peers, self.direct)
        self.peers, self.direct = peers, direct
        if changed:
            log.info("authorities.known", peers=len(peers), direct=len(direct))
        return changed
