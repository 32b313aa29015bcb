"""The national chain of this node: what regions' blocks may take of it.

Source: protocols/interchain.md 5.
"""

from __future__ import annotations

from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.interchain.log import messages_from
from gridtokenx.interchain.model import Downward
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.storage.database import ChainStore


class DecidedNational:
    """The national chain of this node as its store has it: what regions' executors look at.

    Any thread. A queue only grows at its end and loses what the region has taken, so what is read
    between two commits of the national chain is still its queue at the height asked for.
    """

    def __init__(self, store: ChainStore) -> None:
        self._store = store

    def head(self) -> tuple[int, bytes]:
        head = self._store.head()
        return (0, ZERO_HASH) if head is None or head[0] == 0 else head

    def hash_at(self, height: int) -> bytes | None:
        """From the commit certificate: votes wait for this, and a block may have megabytes."""
        raw = self._store.certificate(height)
        return decode(QuorumCertificate, raw).block_hash if raw else None  # Height 0 has none.

    def messages(self, region: str, nonce: int, count: int, up_to_height: int) -> list[Downward]:
        found = messages_from(self._store, region, nonce, count, up_to_height)
        return [message for message in found if isinstance(message, Downward)]
