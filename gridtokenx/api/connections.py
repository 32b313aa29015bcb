"""Who may be connected to the API, and how many bytes the node holds for them. Pure bookkeeping.

Addresses are dear and connections free: an address has few places, and who finds none takes that of
a connection that waits, never of one that is being answered. A connection that found no place at
all may still ask whether the node is alive. Times are seconds of any clock that does not go back.
Source: docs/api.md "Limits".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gridtokenx.network.peers.reputation import address_group
from gridtokenx.network.peers.token_buckets import TokenBuckets

MAX_CONNECTIONS = 1024  # In all; the two numbers below are parts of it.
LOOPBACK_PLACES = 32
PROBE_PLACES = 64
MAX_PER_ADDRESS = 64
MAX_PER_OWN_ADDRESS = 512  # This machine, or a reverse proxy: many clients behind one address.
CONNECTS_PER_SECOND = 25
CONNECT_BURST = 128
MAX_ADDRESSES = 4096

CHANCE_S = 0.1
SAY_SOMETHING_S = 5.0
PROBE_S = 2.0
HEAD_S = 10.0
IDLE_S = 30.0
GRACE_S = 10.0
MIN_BYTES_PER_S = 16 * 1024

LOOPBACK = "this machine"
_OWN = ("127.0.0.1", "::/64")


@dataclass(slots=True, eq=False)
class Place:
    """One connection. Whoever serves it keeps `deadline_s` and `waiting_since_s` true.

    `waiting_since_s` is None while a request is read, worked on or answered.
    """

    group: str
    is_own: bool  # Of this machine or of a reverse proxy.
    probe_only: bool
    deadline_s: float
    waiting_since_s: float | None
    drop: Callable[[], None] = lambda: None
    dropped: bool = False

    def wait(self, now_s: float, seconds: float) -> None:
        """Nothing is asked: the client has so long to ask or to go on."""
        self.waiting_since_s = now_s if self.waiting_since_s is None else self.waiting_since_s
        self.deadline_s = now_s + seconds

    def work(self, until_s: float = float("inf")) -> None:
        """A request has come."""
        self.waiting_since_s = None
        self.deadline_s = until_s


class Places:
    """All connections, at most `most` (None: MAX_CONNECTIONS). `is_proxy` tells addresses that many
    clients may stand behind.
    """

    def __init__(
        self, is_proxy: Callable[[str], bool] = lambda _: False, most: int | None = None
    ) -> None:
        self._is_proxy = is_proxy
        self._most_of_all = MAX_CONNECTIONS if most is None else most
        self._groups: dict[str, dict[Place, None]] = {}
        self._proxies: set[str] = set()  # Groups present that are reverse proxies.
        self._connects: TokenBuckets[str] = TokenBuckets(
            CONNECTS_PER_SECOND, CONNECT_BURST, MAX_ADDRESSES
        )
        self._probes = 0
        self._places = 0

    def __len__(self) -> int:
        return self._places

    def admit(self, ip: str, now_s: float) -> Place | None:
        """A place for a new connection; None if there is none, or its address hurries too much.

        Where all are taken one that waits is dropped for it: of its own address where that has its
        fill, else of the address with the most. With nobody waiting it may only probe. Who has just
        come has a chance to ask before somebody else gets the place.
        """
        group = self._group_of(ip)
        is_own = self._is_own(group)
        if not is_own and not self._connects.take(group, 1, now_s):
            return None
        probe_only = self._is_full(group) and not self._make_room(group, now_s - CHANCE_S)
        if probe_only and not self._has_probe_place(now_s):
            if not self._make_room(group, now_s):
                self._forget(group)
                return None
            probe_only = False
        wait_s = PROBE_S if probe_only else SAY_SOMETHING_S
        place = Place(group, is_own, probe_only, now_s + wait_s, now_s)
        self._groups.setdefault(group, {})[place] = None
        self._places += 1
        self._probes += probe_only
        return place

    def leave(self, place: Place) -> None:
        """The connection has ended. Twice is once."""
        mates = self._groups.get(place.group, {})
        if place in mates:
            del mates[place]
            self._places -= 1
            self._probes -= place.probe_only
            self._forget(place.group)

    def drop_late(self, now_s: float) -> None:
        """Drop those whose deadline has passed."""
        for place in self._all():
            if place.deadline_s <= now_s:
                self._drop(place)

    def drop_waiting(self, count: int) -> None:
        """Drop those that wait longest, for a node that has no descriptors left."""
        for place in sorted(filter(_waits, self._all()), key=_since)[:count]:
            self._drop(place)

    def _is_full(self, group: str) -> bool:
        left = self._most_of_all - PROBE_PLACES - (self._places - self._probes)
        if group != LOOPBACK:
            left -= max(0, LOOPBACK_PLACES - self._size(LOOPBACK))
        return left <= 0 or self._size(group) >= self._most(group)

    def _most(self, group: str) -> int:
        return MAX_PER_OWN_ADDRESS if self._is_own(group) else MAX_PER_ADDRESS

    def _is_own(self, group: str) -> bool:
        return group == LOOPBACK or group in self._proxies

    def _size(self, group: str) -> int:
        return sum(not place.probe_only for place in self._groups.get(group, {}))

    def _has_probe_place(self, now_s: float) -> bool:
        return self._probes < PROBE_PLACES or self._drop_probe(now_s - CHANCE_S)

    def _make_room(self, group: str, before_s: float) -> bool:
        if self._size(group) >= self._most(group):
            return self._drop_waiting(self._groups.get(group, {}), before_s)
        others = sorted(self._groups, key=self._size, reverse=True)
        if group != LOOPBACK and self._size(LOOPBACK) <= LOOPBACK_PLACES:
            others = [one for one in others if one != LOOPBACK]
        return any(self._drop_waiting(self._groups[one], before_s) for one in others)

    def _drop_waiting(self, among: Iterable[Place], before_s: float) -> bool:
        """Drop whoever waits longest, since then or before."""
        waiting = filter(_waits, (one for one in among if not one.probe_only))
        return self._drop_first(waiting, before_s)

    def _drop_probe(self, before_s: float) -> bool:
        return self._drop_first(
            filter(_waits, (one for one in self._all() if one.probe_only)), before_s
        )

    def _drop_first(self, waiting: Iterable[Place], before_s: float) -> bool:
        found = min(waiting, key=_since, default=None)
        if found is None or _since(found) > before_s:
            return False
        self._drop(found)
        return True

    def _drop(self, place: Place) -> None:
        self.leave(place)
        place.dropped = True
        place.drop()

    def _all(self) -> list[Place]:
        return [place for mates in self._groups.values() for place in mates]

    def _group_of(self, ip: str) -> str:
        group = address_group(ip)
        if group in _OWN:
            return LOOPBACK
        if self._is_proxy(ip):
            self._proxies.add(group)
        return group

    def _forget(self, group: str) -> None:
        if not self._groups.get(group):
            self._groups.pop(group, None)
            self._proxies.discard(group)


class HeldBytes:
    """Bytes held for clients: at most `total`, for one address at most `share`.

    This machine and reverse proxies may have all.
    """

    def __init__(self, total: int, share: int) -> None:
        self._total = total
        self._share = share
        self._held: dict[str, int] = {}
        self.total_held = 0

    def take(self, place: Place, size: int) -> bool:
        """Whether there is room; if so it is taken."""
        held = self._held.get(place.group, 0)
        most = self._total if place.is_own else self._share
        if held + size > most or self.total_held + size > self._total:
            return False
        self._held[place.group] = held + size
        self.total_held += size
        return True

    def give_back(self, place: Place, size: int) -> None:
        """They are no longer held."""
        self.total_held -= size
        left = self._held.get(place.group, 0) - size
        if left > 0:
            self._held[place.group] = left
        else:
            self._held.pop(place.group, None)


def seconds_for(size: int) -> float:
    """How long a client may take for so many bytes, in or out."""
    return GRACE_S + size / MIN_BYTES_PER_S


def _waits(place: Place) -> bool:
    return place.waiting_since_s is not None


def _since(place: Place) -> float:
    return place.waiting_since_s or 0.0
