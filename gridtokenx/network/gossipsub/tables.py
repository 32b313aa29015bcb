"""The gossip router's tables: bounded, ordered, and free of any rule of the protocol.

Dicts serve as ordered sets: their order, unlike that of sets, does not depend on the hash seed.
Source: protocols/networking.md 4.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.network.gossipsub.events import Parameters, Peer, Priority
from gridtokenx.network.gossipsub.wire import Message


@dataclass(slots=True)
class PeerState:
    """What is known of a peer, and what it did since the last heartbeat."""

    protocol: str
    outbound: bool = False
    topics: dict[str, int] = field(default_factory=dict)  # -> when it subscribed, ms
    dont_send: dict[bytes, int] = field(default_factory=dict)  # message id -> expiry, ms
    counters: Counter[str] = field(default_factory=Counter)
    ihave_received: int = 0
    ids_asked: int = 0
    ids_answered: int = 0
    idontwant_received: int = 0
    over_limit: bool = False
    graylisted: bool = False  # and told so
    ignored_rpcs: int = 0  # while graylisted, of this connection

    def begin_heartbeat(self, now_ms: int) -> None:
        """Start counting anew and drop expired IDONTWANT ids."""
        self.ihave_received = self.ids_asked = 0
        self.ids_answered = self.idontwant_received = 0
        self.over_limit = False
        if self.dont_send:
            self.dont_send = {i: t for i, t in self.dont_send.items() if t > now_ms}


@dataclass(slots=True)
class Fanout:
    """Peers for a topic that we publish to without being subscribed."""

    peers: dict[Peer, int]  # -> when it was chosen, ms
    published_ms: int


@dataclass(slots=True)
class Cached:
    """An accepted message ready to be sent again; `answered` counts IWANTs by peer."""

    frame: bytes
    topic: str
    priority: Priority
    answered: dict[Peer, int] = field(default_factory=dict)
    credited: dict[Peer, None] = field(default_factory=dict)  # near-first deliveries, once each


class History:
    """Messages of the last heartbeats, newest window first, bounded by bytes."""

    def __init__(self, windows: int, max_bytes: int) -> None:
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._windows: list[dict[bytes, Cached]] = [{} for _ in range(windows)]

    def remember(self, message_id: bytes, cached: Cached) -> None:
        """Keep a message; over the byte limit the oldest go first."""
        self._windows[0][message_id] = cached
        self.size_bytes += len(cached.frame)
        for window in reversed(self._windows):
            while window and self.size_bytes > self._max_bytes:
                self.size_bytes -= len(window.pop(next(iter(window))).frame)

    def find(self, message_id: bytes) -> Cached | None:
        return next((w[message_id] for w in self._windows if message_id in w), None)

    def ids(self, topic: str, windows: int) -> list[bytes]:
        """Ids of the topic's messages in the newest windows."""
        newest = self._windows[:windows]
        return [i for window in newest for i, cached in window.items() if cached.topic == topic]

    def shift(self) -> None:
        """Open a new window and drop the oldest."""
        self._windows.insert(0, {})
        self.size_bytes -= sum(len(cached.frame) for cached in self._windows.pop().values())


class Wanted:
    """Messages asked for by IWANT: whom and when, and who promised one and did not send it.

    An IHAVE is a promise; of each IWANT one id is watched. It is kept by whoever sends the message.
    """

    def __init__(self, max_asked: int, max_promises: int, retry_ms: int) -> None:
        self._max_asked = max_asked
        self._max_promises = max_promises
        self._retry_ms = retry_ms
        self._asked: dict[bytes, tuple[int, dict[Peer, None]]] = {}  # id -> last asked ms, whom
        self._promises: dict[bytes, dict[Peer, int]] = {}  # id -> due at which heartbeat

    def sizes(self) -> dict[str, int]:
        """Entries of the tables that outside input can fill."""
        return {"asked": len(self._asked), "promises": len(self._promises)}

    def may_ask(self, message_id: bytes, peer: Peer, now_ms: int) -> bool:
        """Whether to ask `peer`: each peer once an id, and not while another may be answering."""
        asked_ms, whom = self._asked.get(message_id, (-self._retry_ms, {}))
        return peer not in whom and now_ms - asked_ms >= self._retry_ms

    def ask(self, message_id: bytes, peer: Peer, now_ms: int) -> None:
        _, whom = self._asked.pop(message_id, (0, {}))
        whom[peer] = None
        self._asked[message_id] = (now_ms, whom)
        if len(self._asked) > self._max_asked:
            del self._asked[next(iter(self._asked))]

    def watch(self, message_id: bytes, peer: Peer, due_heartbeat: int) -> None:
        """Expect the message of the peer until the heartbeat of that number."""
        self._promises.setdefault(message_id, {}).setdefault(peer, due_heartbeat)
        if len(self._promises) > self._max_promises:
            del self._promises[next(iter(self._promises))]

    def keep(self, message_id: bytes) -> None:
        """The message has come, be it genuine or not: no promise of it is broken."""
        if self._promises:
            self._promises.pop(message_id, None)

    def forget(self, message_id: bytes) -> None:
        """The genuine message is here: it is not asked for again."""
        self._asked.pop(message_id, None)

    def expire(self, before_ms: int) -> None:
        """Forget what was asked for so long ago."""
        while self._asked and self._asked[next(iter(self._asked))][0] < before_ms:
            del self._asked[next(iter(self._asked))]

    def broken(self, heartbeat: int) -> list[Peer]:
        """Take out the promises due by now; return who broke them, once for each."""
        late: list[Peer] = []
        for message_id, dues in list(self._promises.items()):
            overdue = [peer for peer, due in dues.items() if due <= heartbeat]
            late += overdue
            for peer in overdue:
                del dues[peer]
            if not dues:
                del self._promises[message_id]
        return late


@dataclass(slots=True)
class Flight:
    """A message between arrival and verdict; `senders` are owed no copy and share the blame."""

    message: Message
    priority: Priority
    senders: dict[Peer, None]


class Flights:
    """Messages in verification, by token, and in validation, by id.

    Bounded for each priority, and by who brought them first: one peer cannot keep out the others
    with messages over which validators ponder, nor all strangers those whom `is_trusted` names.
    """

    def __init__(self, limits: Parameters, is_trusted: Callable[[Peer], bool]) -> None:
        self.validating: dict[bytes, Flight] = {}
        self._limits = limits
        self._is_trusted = is_trusted
        self._by_peer: Counter[Peer] = Counter()
        self._bytes_by_peer: Counter[Peer] = Counter()
        self._messages: Counter[Priority] = Counter()
        self._bytes: Counter[Priority] = Counter()
        self._unverified: dict[int, Flight] = {}
        self._tokens: dict[bytes, list[int]] = {}  # message id -> tokens of unlike copies
        self._next_token = 0

    def __len__(self) -> int:
        return len(self._unverified) + len(self.validating)

    @property
    def size_bytes(self) -> int:
        return sum(self._bytes.values())

    def is_unverified(self, message_id: bytes) -> bool:
        return message_id in self._tokens

    def join(self, peer: Peer, message: Message) -> bool:
        """Whether this copy need not be verified by itself.

        A copy with the same id but other bytes may be the true one and the first a forgery that
        was meant to shut it out; so both are verified, at most one unlike copy from each peer.
        """
        flights = [self._unverified[token] for token in self._tokens.get(message.id, ())]
        same = next((f for f in flights if f.message.raw == message.raw), None)
        if same is None:
            return any(peer in flight.senders for flight in flights)
        same.senders[peer] = None
        return True

    def begin(self, peer: Peer, message: Message, priority: Priority) -> int | None:
        """Take a message in for verification; return its token, None when there is no room."""
        size = len(message.raw)
        if not self._has_room(peer, size, priority):
            return None
        self._by_peer[peer] += 1
        self._bytes_by_peer[peer] += size
        self._messages[priority] += 1
        self._bytes[priority] += size
        token = self._next_token
        self._next_token += 1
        self._unverified[token] = Flight(message, priority, {peer: None})
        self._tokens.setdefault(message.id, []).append(token)
        return token

    def _has_room(self, peer: Peer, size: int, priority: Priority) -> bool:
        limits, parts = self._limits, 1 if self._is_trusted(peer) else 2
        return (
            self._messages[priority] < limits.max_in_flight // parts
            and self._bytes[priority] + size <= limits.max_in_flight_bytes // parts
            and self._by_peer[peer] < limits.max_in_flight_per_peer
            and self._bytes_by_peer[peer] + size <= limits.max_in_flight_bytes_per_peer
        )

    def take_unverified(self, token: int) -> Flight | None:
        """Remove a message from verification; it stays counted until `release`."""
        flight = self._unverified.pop(token, None)
        if flight is not None:
            tokens = self._tokens[flight.message.id]
            tokens.remove(token)
            if not tokens:
                del self._tokens[flight.message.id]
        return flight

    def release(self, flight: Flight) -> None:
        """Give back the room of a message that is in neither table any more."""
        first = next(iter(flight.senders))
        self._by_peer[first] -= 1
        self._bytes_by_peer[first] -= len(flight.message.raw)
        if not self._by_peer[first]:
            del self._by_peer[first], self._bytes_by_peer[first]
        self._messages[flight.priority] -= 1
        self._bytes[flight.priority] -= len(flight.message.raw)
