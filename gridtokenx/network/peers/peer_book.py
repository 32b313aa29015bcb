"""The peers a node has met, so that after a restart it needs no bootnode.

Pure; `kept_file.KeptFile` keeps it on disk. Bounded: whoever was seen longest ago is forgotten
first, and one that is not met for a month is not dialled any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gridtokenx.network.peers.peer import PeerId

MAX_PEERS = 300
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARACTERS = 300
MAX_AGENT_CHARACTERS = 64
FORGOTTEN_AFTER_MS = 30 * 24 * 3_600_000
KEPT_EVERY_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Met:
    """One peer: full multiaddrs, its software, when it was last connected (Unix ms)."""

    addresses: tuple[str, ...]
    agent: str
    seen_ms: int
    failures: int = 0


class PeerBook:
    """`on_change` is called whenever what `dump` returns has changed."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._met: dict[PeerId, Met] = {}  # the one seen longest ago first
        self._kept_ms = now_ms()  # when `on_change` was last told of who is connected still
        self.on_change: Callable[[], None] = lambda: None

    def note(self, peer: PeerId, addresses: tuple[str, ...], agent: str) -> None:
        """A peer is connected and has told its addresses. Without any it cannot be found again."""
        if not addresses:
            return
        kept = tuple(one for one in addresses if len(one) <= MAX_ADDRESS_CHARACTERS)
        met = Met(kept[:MAX_ADDRESSES], agent[:MAX_AGENT_CHARACTERS], self._now_ms())
        self._put(peer, met)
        self.on_change()

    def note_failure(self, peer: PeerId) -> None:
        """A dial failed."""
        met = self._met.get(peer)
        if met is not None:
            self._met[peer] = replace(met, failures=met.failures + 1)
            self.on_change()

    def see(self, connected: Iterable[PeerId]) -> None:
        """They are connected still: newer than all who came and went, and not of long ago."""
        now_ms = self._now_ms()
        for peer in connected:
            if peer in self._met:
                self._put(peer, replace(self._met[peer], seen_ms=now_ms))
        if abs(now_ms - self._kept_ms) >= KEPT_EVERY_MS:  # The clock may have been set.
            self._kept_ms = now_ms
            self.on_change()

    def addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Where a peer was met within a month; () when it was not."""
        met = self._met.get(peer)
        return met.addresses if met is not None and self._is_recent(met) else ()

    def peers(self) -> dict[PeerId, Met]:
        """Who is worth a dial, the one seen last first."""
        ordered = sorted(self._met.items(), key=lambda item: -item[1].seen_ms)
        return {peer: met for peer, met in ordered if self._is_recent(met)}

    def _is_recent(self, met: Met) -> bool:
        return met.seen_ms >= self._now_ms() - FORGOTTEN_AFTER_MS

    def _put(self, peer: PeerId, met: Met) -> None:
        self._met.pop(peer, None)
        while len(self._met) >= MAX_PEERS:
            del self._met[next(iter(self._met))]
        self._met[peer] = met

    def dump(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [
            {
                "peer": peer.hex(),
                "addresses": list(met.addresses),
                "agent": met.agent,
                "seen_ms": met.seen_ms,
                "failures": met.failures,
            }
            for peer, met in self._met.items()
        ]
        return {"peers": rows}

    def load(self, document: Mapping[str, Any]) -> None:
        """Take over what an earlier process dumped. Errors: ValueError when it is not that."""
        try:
            found = [
                (
                    PeerId(bytes.fromhex(row["peer"])),
                    Met(
                        tuple(str(one) for one in row["addresses"])[:MAX_ADDRESSES],
                        str(row["agent"])[:MAX_AGENT_CHARACTERS],
                        # A clock that was ahead must not make an entry immortal.
                        min(int(row["seen_ms"]), self._now_ms()),
                        int(row["failures"]),
                    ),
                )
                for row in document["peers"]
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a list of peers: {error!r}") from error
        for peer, met in found:
            self._put(peer, met)
