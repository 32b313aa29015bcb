"""Who may connect: slots in and out, limits for each address, the allow-list, bans.

Pure: the caller passes the time and tells of every connection that ends. An address counts by
`reputation.address_group`; loopback is exempt unless `limit_loopback`, because a whole test
network lives there. Source: protocols/networking.md 1.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gridtokenx.network.peers.reputation import Reputation, address_group, is_loopback_group

NEW_PER_MINUTE = 60  # of one address; an honest peer that is refused comes back after a pause
MAX_WINDOWS = 4_096
MAX_TRUSTED_GROUPS = 256
WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_inbound` and `max_outbound` bound who dialled whom; None: nothing but `max_peers`.

    `allow`: if any, no peer but these and the protected ones.
    """

    max_peers: int = 50
    max_inbound: int | None = None
    max_outbound: int | None = None
    max_connections_per_ip: int = 16
    limit_loopback: bool = False
    allow: frozenset[bytes] = frozenset()


class Admission:
    """Says why a connection is refused, in one of the words of `network.REASONS`, or None."""

    def __init__(self, limits: Limits, reputation: Reputation) -> None:
        self.limits = limits
        self.reputation = reputation
        self.protected: set[bytes] = set()  # named by the operator: always room, never too many
        self.authorities: frozenset[bytes] = frozenset()  # proved to be validators' peers: the same
        self._open: Counter[str] = Counter()  # inbound connections by address, also half-open
        self._trusted_groups: dict[str, None] = {}  # the one noted longest ago first
        self._windows: dict[str, tuple[float, int]] = {}  # address -> since when, how many

    def trusts(self, peer: bytes | None) -> bool:
        """Whether the operator has named a peer or a validator's key vouches for it."""
        return peer is not None and (peer in self.protected or peer in self.authorities)

    def note_trusted(self, ip: str | None) -> None:
        """A trusted peer is connected from there; loopback tells nothing, all may come from it."""
        group = "" if ip is None else address_group(ip)
        if not group or is_loopback_group(group):
            return
        self._trusted_groups.pop(group, None)
        while len(self._trusted_groups) >= MAX_TRUSTED_GROUPS:
            del self._trusted_groups[next(iter(self._trusted_groups))]
        self._trusted_groups[group] = None

    def has_met_trusted(self, ip: str | None) -> bool:
        """Whether trusted peers came from an address lately."""
        return ip is not None and address_group(ip) in self._trusted_groups

    def source_of(self, peer: bytes | None, ip: str | None) -> str | None:
        """Whose share of the strangers' budget a peer's work is; None for those it does not bind.

        An address group; on loopback, where all share one, and while not connected the peer id in
        hex. `peer` is None before the handshake: whoever is not known yet is a stranger.
        """
        if self.trusts(peer):
            return None
        group = "" if ip is None else address_group(ip)
        if peer is not None and (not group or is_loopback_group(group)):
            return peer.hex()
        return group

    def knock(self, ip: str, now_s: float) -> str | None:
        """An inbound connection, before its handshake. Unless refused, `leave` must follow."""
        group = address_group(ip)
        if self.reputation.refuses_address(group):
            return "banned"
        if self.limits.limit_loopback or not is_loopback_group(group):
            if self._open[group] >= self.limits.max_connections_per_ip:
                return "address_full"
            if not self._count(group, now_s):
                return "address_rate"
        self._open[group] += 1
        return None

    def leave(self, ip: str) -> None:
        """An inbound connection that was let in has ended."""
        group = address_group(ip)
        self._open[group] -= 1
        if not self._open[group]:
            del self._open[group]

    def _count(self, group: str, now_s: float) -> bool:
        since_s, count = self._windows.pop(group, (now_s, 0))
        if now_s - since_s >= WINDOW_S:
            since_s, count = now_s, 0
        while len(self._windows) >= MAX_WINDOWS:
            del self._windows[next(iter(self._windows))]
        self._windows[group] = (since_s, count + 1)
        return count < NEW_PER_MINUTE

    def refusal(
        self, peer: bytes, ip: str | None, direction: str, connected: Iterable[str]
    ) -> str | None:
        """A peer whose identity is known. `connected`: a direction for each other peer there is."""
        if self.reputation.refuses(peer):
            return "banned"
        if ip is not None and self.reputation.refuses_address(ip):
            return "banned"
        if self.trusts(peer):
            return None
        if self.limits.allow and peer not in self.limits.allow:
            return "not_allowed"
        counts = Counter(connected)
        bound = self.limits.max_inbound if direction == "inbound" else self.limits.max_outbound
        full = counts.total() >= self.limits.max_peers
        if full or (bound is not None and counts[direction] >= bound):
            return "full"
        return None
