"""Who serves which region: the DHT's provider records, for a few keys that are known beforehand.

The library's store takes any key from anybody and keeps it without bound. Here a record is kept
only for a key this network has, only as told by the peer itself, a while, and so many.
Source: protocols/networking.md 2; libp2p/specs kad-dht/README.md (ADD_PROVIDER, GET_PROVIDERS).
"""

from collections.abc import Sequence

import trio
from libp2p.peer.id import ID

MAX_PROVIDERS_PER_KEY = 64
RECORD_TTL_S = 3_600.0


class ProviderRecords:
    """Provider ids by key, the latest told last. Times are of trio's clock."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._until: dict[bytes, dict[ID, float]] = {key: {} for key in keys}

    def add(self, key: bytes, provider: ID) -> bool:
        """Remember a provider for RECORD_TTL_S; False where the key is none of this network."""
        until = self._until.get(key)
        if until is None:
            return False
        until.pop(provider, None)
        while len(until) >= MAX_PROVIDERS_PER_KEY:
            del until[next(iter(until))]
        until[provider] = trio.current_time() + RECORD_TTL_S
        return True

    def of(self, key: bytes) -> list[ID]:
        """The providers of a key that are not forgotten yet, the latest first."""
        now_s, until = trio.current_time(), self._until.get(key, {})
        for gone in [each for each, end_s in until.items() if end_s <= now_s]:
            del until[gone]
        return list(reversed(until))
