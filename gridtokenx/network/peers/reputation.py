"""What peers did wrong, what that costs them, and who is refused for it.

No I/O and no clock of its own: times are Unix milliseconds from the `now_ms` given, because bans
outlive the process. An offence adds points; points halve every ten minutes; a peer that reaches
`BAN_POINTS` is refused for a while, four times as long with each ban that follows soon. When
several identities of one address are banned, the address is. Source: protocols/networking.md 6.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

BAN_POINTS = 100.0
HALF_LIFE_MS = 600_000
LONGEST_BAN_MS = 24 * 3_600_000
TRUSTED_BAN_MS = 60_000
ESCALATION = 4
FORGIVEN_AFTER_MS = 24 * 3_600_000  # Without another ban; then the next one is a first one again.
ADDRESS_BAN_MS = 3_600_000
BANNED_PER_ADDRESS = 5  # This many banned identities make their address a banned one.
MAX_STANDINGS = 4_096
MAX_BANS = 1_024
MAX_REASON_CHARACTERS = 100
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Offence:
    """Points it costs, the length of a first ban for it, and whether it is meant ill.

    Whoever errs, as with another network's genesis, is refused without escalation and does not
    count against an address.
    """

    points: float
    ban_ms: int = 300_000
    hostile: bool = True


OFFENCES: Mapping[str, Offence] = {
    "invalid_block": Offence(100, 3_600_000),  # decided, it said, and its certificate is bad
    "wrong_genesis": Offence(100, hostile=False),
    "malformed_status": Offence(100),
    "malformed_response": Offence(50),  # an answer that does not decode or breaks the frame
    "undelivered_height": Offence(20),  # told a height and has no block at it
    "unfounded_height": Offence(50),  # told a height that nothing shows, and brought no block
    "malformed_request": Offence(10),
    "handler_error": Offence(5),  # our fault perhaps, but one that this peer keeps finding
    "mute": Offence(10),  # five statuses in a row without an answer
    "gossip_malformed": Offence(20),  # bytes that are no RPC
    "gossip_graylisted": Offence(50),  # its gossip score fell below the graylist threshold
}


@dataclass(frozen=True, slots=True)
class Ban:
    """Refused until `until_ms`: a peer (`peer`), or every peer of an address (`peer` is None)."""

    peer: bytes | None
    address: str | None
    reason: str
    since_ms: int
    until_ms: int

    @property
    def key(self) -> bytes | str:
        """What is refused: the peer id, else the address."""
        return self.peer if self.peer is not None else self.address or ""


@dataclass(slots=True)
class _Standing:
    """One peer's points as of `at_ms`, its offences, and how often it was banned of late."""

    at_ms: int
    points: float = 0.0
    bans: int = 0
    banned_at_ms: int = 0
    offences: Counter[str] = field(default_factory=Counter)

    def decayed(self, now_ms: int) -> float:
        elapsed_ms = max(0, now_ms - self.at_ms)
        return float(self.points * 0.5 ** (elapsed_ms / HALF_LIFE_MS))


@lru_cache(maxsize=4_096)
def address_group(ip: str) -> str:
    """What limits by address count as one: an IPv4 address, an IPv6 /64.

    Text that is no address (there is none in practice) is its own group.
    """
    try:
        parsed = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


@lru_cache(maxsize=4_096)
def is_loopback_group(group: str) -> bool:
    """Whether a group of `address_group` is of this machine: many nodes may share it."""
    try:
        return ipaddress.ip_network(group).is_loopback or group == "::/64"
    except ValueError:
        return False


class Reputation:
    """Points and bans, bounded. One owner; every method is quick and synchronous.

    `exempt_loopback`: identities on 127.0.0.0/8 and ::1 are judged one by one, never together.
    `on_change` is called whenever what `dump` returns has changed.
    """

    def __init__(self, now_ms: Callable[[], int], *, exempt_loopback: bool = True) -> None:
        self._now_ms = now_ms
        self._exempt_loopback = exempt_loopback
        self._standings: dict[bytes, _Standing] = {}  # the longest undisturbed first
        self._bans: dict[bytes | str, Ban] = {}
        self._trusted: set[bytes] = set()
        self.on_change: Callable[[], None] = lambda: None
        self.banned: Counter[str] = Counter()  # bans made since the start, by reason

    def trust(self, *peers: bytes) -> None:
        """Peers the operator named: a ban that points bring lasts a minute at most."""
        self._trusted.update(peers)

    # -- Judging -----------------------------------------------------------------------------------

    def report(self, peer: bytes, offence: str, ip: str | None = None) -> Ban | None:
        """Note an offence of `OFFENCES`; return the ban when it brings one.

        `ip` is where the peer is connected from. Errors: KeyError for an offence not listed.
        """
        rule, now_ms = OFFENCES[offence], self._now_ms()
        standing = self._touch(peer, now_ms)
        standing.offences[offence] += 1
        if self.refuses(peer):
            return None  # What was on its way when the ban came: that is paid for.
        standing.points = standing.decayed(now_ms) + rule.points
        standing.at_ms = now_ms
        if standing.points < BAN_POINTS:
            return None
        standing.points = 0.0  # Paid for by the ban; the count of bans remembers.
        ban = Ban(peer, None if ip is None else address_group(ip), offence, now_ms, 0)
        return self._ban_again(standing, ban, rule)

    def _ban_again(self, standing: _Standing, ban: Ban, rule: Offence) -> Ban:
        if ban.since_ms - standing.banned_at_ms > FORGIVEN_AFTER_MS:
            standing.bans = 0
        length_ms = rule.ban_ms
        if rule.hostile:
            length_ms = min(length_ms * ESCALATION ** min(standing.bans, 10), LONGEST_BAN_MS)
            standing.bans += 1
            standing.banned_at_ms = ban.since_ms
        if ban.peer in self._trusted:
            length_ms = min(length_ms, TRUSTED_BAN_MS)
        made = Ban(ban.peer, ban.address, ban.reason, ban.since_ms, ban.since_ms + length_ms)
        self._put(made)
        if rule.hostile:
            self._judge_address(made)
        return made

    def _judge_address(self, ban: Ban) -> None:
        """Refuse an address that several banned identities came from (an eclipse)."""
        group = ban.address
        if group is None or (self._exempt_loopback and is_loopback_group(group)):
            return
        mates = [
            other
            for other in self.bans()
            if other.peer is not None
            and other.address == group
            and other.reason in OFFENCES
            and OFFENCES[other.reason].hostile
        ]
        if len(mates) >= BANNED_PER_ADDRESS and not self.refuses_address(group):
            until_ms = ban.since_ms + ADDRESS_BAN_MS
            self._put(Ban(None, group, "many_banned_peers", ban.since_ms, until_ms))

    def ban(self, target: bytes | str, duration_ms: int, reason: str = OPERATOR) -> Ban:
        """Refuse a peer id or an IP address by decision of the operator."""
        now_ms = self._now_ms()
        peer, address = (target, None) if isinstance(target, bytes) else (None, target)
        group = None if address is None else address_group(address)
        text = reason[:MAX_REASON_CHARACTERS]
        made = Ban(peer, group, text, now_ms, now_ms + max(0, duration_ms))
        self._put(made)
        return made

    def unban(self, target: bytes | str) -> bool:
        """Let a peer or an address in again, with a clean slate; False if it was not banned."""
        key = target if isinstance(target, bytes) else address_group(target)
        if isinstance(key, bytes):
            self._standings.pop(key, None)
        found = self._bans.pop(key, None) is not None
        if found:
            self.on_change()
        return found

    # -- Asking ------------------------------------------------------------------------------------

    def score(self, peer: bytes) -> float:
        """0 for a peer without a spot, down to -100 just before a ban: gossip's P5."""
        standing = self._standings.get(peer)
        return 0.0 if standing is None else -standing.decayed(self._now_ms())

    def offences(self, peer: bytes) -> dict[str, int]:
        """How often a peer did what, as long as it is remembered."""
        standing = self._standings.get(peer)
        return {} if standing is None else dict(standing.offences)

    def refuses(self, peer: bytes) -> bool:
        """Whether a peer is banned now."""
        return self._is_banned(peer)

    def refuses_address(self, ip: str) -> bool:
        """Whether an IP address (or a group) is banned now."""
        return bool(self._bans) and self._is_banned(ip if "/" in ip else address_group(ip))

    def bans(self) -> tuple[Ban, ...]:
        """The bans in force, the next to end first."""
        now_ms = self._now_ms()
        for key in [key for key, ban in self._bans.items() if ban.until_ms <= now_ms]:
            del self._bans[key]
        return tuple(sorted(self._bans.values(), key=lambda ban: (ban.until_ms, str(ban.key))))

    def _is_banned(self, key: bytes | str) -> bool:
        ban = self._bans.get(key)
        return ban is not None and ban.until_ms > self._now_ms()

    # -- Bounds ------------------------------------------------------------------------------------

    def _touch(self, peer: bytes, now_ms: int) -> _Standing:
        standing = self._standings.pop(peer, None) or _Standing(now_ms)
        while len(self._standings) >= MAX_STANDINGS:
            del self._standings[next(iter(self._standings))]
        self._standings[peer] = standing
        return standing

    def _put(self, ban: Ban) -> None:
        """Add a ban; when there are too many the one that ends first yields."""
        self._bans.pop(ban.key, None)
        while len(self._bans) >= MAX_BANS:
            del self._bans[self.bans()[0].key]
        self._bans[ban.key] = ban
        self.banned[ban.reason if ban.reason in OFFENCES else "other"] += 1
        self.on_change()

    # -- Keeping -----------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """What must survive a restart, as plain JSON values: bans, and how often who was banned."""
        repeaters = {
            peer.hex(): [one.bans, one.banned_at_ms]
            for peer, one in self._standings.items()
            if one.bans
        }
        bans = [
            {
                "peer": None if ban.peer is None else ban.peer.hex(),
                "address": ban.address,
                "reason": ban.reason,
                "since_ms": ban.since_ms,
                "until_ms": ban.until_ms,
            }
            for ban in self.bans()
        ]
        return {"bans": bans, "repeaters": repeaters}

    def load(self, document: Mapping[str, Any]) -> None:
        """Take over what an earlier process dumped. Errors: ValueError when it is not that.

        A clock that was wrong cannot make a ban longer than the longest there is.
        """
        now_ms = self._now_ms()
        try:
            bans = list(_read_bans(document["bans"]))[:MAX_BANS]
            repeaters = {
                bytes.fromhex(peer): (int(count), int(at_ms))
                for peer, (count, at_ms) in document["repeaters"].items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a list of bans: {error!r}") from error
        for ban in bans:
            longest_ms = LONGEST_BAN_MS if ban.reason in OFFENCES else ban.until_ms - ban.since_ms
            until_ms = min(ban.until_ms, now_ms + longest_ms)
            self._bans[ban.key] = Ban(ban.peer, ban.address, ban.reason, ban.since_ms, until_ms)
        for peer, (count, at_ms) in list(repeaters.items())[:MAX_STANDINGS]:
            standing = self._touch(peer, now_ms)
            standing.bans, standing.banned_at_ms = max(0, min(count, 100)), at_ms


def _read_bans(rows: list[dict[str, Any]]) -> Iterator[Ban]:
    for row in rows:
        peer, address = row["peer"], row["address"]
        if peer is None and not isinstance(address, str):
            raise ValueError("a ban of nothing")
        yield Ban(
            None if peer is None else bytes.fromhex(peer),
            address,
            str(row["reason"])[:MAX_REASON_CHARACTERS],
            int(row["since_ms"]),
            int(row["until_ms"]),
        )
