"""Gossip routers by the thousand on a virtual network: one seed, one queue of events.

The routers are the real ones with their real parameters and wire encoding. Signatures are a keyed
hash that is looked up, and what is encoded or decoded once is shared by all nodes: a thousand
nodes hold one copy of a block.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import (
    PROTOCOL_V12,
    Deliver,
    Event,
    GossipVerdict,
    Heartbeat,
    Misbehaved,
    PeerAdded,
    Priority,
    Publish,
    RpcReceived,
    Send,
    SetDirectPeers,
    Subscribe,
    Validated,
    Verified,
    Verify,
    Withdraw,
)
from gridtokenx.network.gossipsub.router import Router
from tests.support.simulator.gossip_links import (
    PLACES,
    UPLINK_BYTES_PER_S,
    Link,
    Loss,
    Uplink,
    arrival_us,
    draw_latency_us,
)

PREFIX = "/gridtokenx/sim/"
ID_HEAD = b"\x00\x24\x08\x01\x12\x20"
MS = 1_000  # Microseconds.
HEARTBEAT_US = 1_000 * MS
START_SPREAD_US = 1_000 * MS
TARGET_PEERS = 20  # As node/node.py tells its discovery.
LEAST_NODES = 20  # So that every region has some.
MAX_PEERS = 50  # network.max_peers
AUTHORITIES = 8  # Two nodes of each of four organisations; they validate every region.
# From a message's arrival to its verdict: CPU of the real service, measured.
VALIDATE_US, VALIDATE_US_PER_KIB = 2 * MS, 30
SHARED = 16_384  # Encodings that are kept to be shared.
_STAMP = struct.Struct("<qiiQ")
_HEAD = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Settings:
    """A world's size and weather. `regional`: half of the dials go to nodes of the own region."""

    nodes: int
    seed: int
    loss: Loss = Loss.DELAYED
    loss_chance: float = 0.01
    regional: bool = True
    authorities: int = AUTHORITIES


@dataclass(frozen=True, slots=True)
class Parcel:
    """A frame once it is unpacked; `messages` are the numbers of those in it."""

    payload: bytes
    messages: tuple[int, ...]
    subscribes: bool
    checksum: int


@dataclass(slots=True)
class Published:
    """A message and what became of it. `expected` nodes are subscribed and not its author."""

    kind: str
    at_us: int
    expected: int
    delivered: int = 0
    copies: int = 0
    bytes: int = 0


@contextmanager
def shared_encoding() -> Iterator[None]:
    """Decode and encode each message once for all routers. The functions are pure."""
    real = wire.decode_rpc, wire.encode_publish_frame
    wire.decode_rpc = lru_cache(SHARED)(wire.decode_rpc)
    wire.encode_publish_frame = lru_cache(SHARED)(wire.encode_publish_frame)
    try:
        yield
    finally:
        wire.decode_rpc, wire.encode_publish_frame = real


def unpack(frame: bytes) -> Parcel:
    """What a frame holds."""
    (payload,) = wire.FrameBuffer(len(frame)).feed(frame)
    rpc = wire.decode_rpc(payload)
    numbers = tuple(_HEAD.unpack_from(message.data)[1] for message in rpc.messages)
    checksum = int.from_bytes(hashlib.blake2b(payload, digest_size=8).digest(), "little")
    return Parcel(payload, numbers, bool(rpc.subscriptions), checksum)


class GossipWorld:
    """A network of routers. Node n lives in PLACES[n % 10]; the first ones are authorities."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = Random(settings.seed)
        self.now_us = 0
        self.events = 0
        self.queue: list[tuple[int, int, int, Event | None]] = []
        self.digest = hashlib.sha256()
        self.places = [PLACES[n % len(PLACES)] for n in range(settings.nodes)]
        self.authorities = range(min(settings.authorities, max(4, settings.nodes // 4)))
        self.ids = [_peer_id(n) for n in range(settings.nodes)]
        self.index = {peer: n for n, peer in enumerate(self.ids)}
        self.published: list[Published] = []
        self.latencies_us: dict[str, list[int]] = {}
        self.blamed: Counter[str] = Counter()
        self.sent_bytes = [0] * settings.nodes
        self.control_bytes = 0
        self.control_frames = 0
        self.lost_frames = 0
        self.subscribers: Counter[str] = Counter()
        self._signatures: set[bytes] = set()
        self._pushed = 0
        self._unpack = lru_cache(SHARED)(unpack)
        self.routers = [self._router(n) for n in range(settings.nodes)]
        self.uplinks = [Uplink() for _ in range(settings.nodes)]
        self.links = self._dial()
        self._start()

    # -- Making it ---------------------------------------------------------------------------------

    def _router(self, n: int) -> Router:
        key = hashlib.sha256(b"key" + self.ids[n]).digest()

        def sign(data: bytes) -> bytes:
            signature = hashlib.sha512(key + data).digest()
            self._signatures.add(signature)
            return signature

        return Router(
            self.ids[n],
            sign=sign,
            public_key_of=lambda peer: peer[len(ID_HEAD) :],
            topic_prefix=PREFIX,
            priority=lambda topic: Priority.URGENT if topic.endswith("/votes") else Priority.BULK,
            seed=self.random.randrange(1 << 32),
            first_seqno=1_000,
        )

    def regions_of(self, node: int) -> tuple[str, ...]:
        """The regions a node follows: authorities all, others their own."""
        return tuple(dict.fromkeys(PLACES)) if node in self.authorities else (self.places[node],)

    def _dial(self) -> dict[tuple[int, int], Link]:
        """Everybody dials at random until it has enough, as discovery does; (from, to) -> link.

        With provider records half of the dials go to nodes that serve the same region.
        """
        peers: list[dict[int, None]] = [{} for _ in self.ids]
        locals_of = {
            place: [n for n in range(len(self.ids)) if place in self.regions_of(n)]
            for place in dict.fromkeys(self.places)
        }
        everybody = list(range(len(self.ids)))
        for node in self.random.sample(everybody, len(everybody)):
            wanted = min(TARGET_PEERS, len(everybody) - 1)
            for attempt in range(20 * wanted):
                if len(peers[node]) >= wanted:
                    break
                near = self.settings.regional and attempt % 2 == 0
                other = self.random.choice(locals_of[self.places[node]] if near else everybody)
                if other != node and len(peers[other]) < MAX_PEERS:
                    peers[node][other] = peers[other][node] = None
        for node in self.authorities:
            for other in self.authorities[node + 1 :]:
                peers[node][other] = peers[other][node] = None
        links = {}
        for node, others in enumerate(peers):
            for other in others:
                if node < other:
                    latency_us = draw_latency_us(self.random, self.places[node], self.places[other])
                    links[node, other], links[other, node] = Link(latency_us), Link(latency_us)
        return links

    def _start(self) -> None:
        direct = tuple(self.ids[n] for n in self.authorities)
        for node in range(len(self.ids)):
            if node in self.authorities:
                self.push(0, node, SetDirectPeers(direct))
            for region in self.regions_of(node):
                for name in ("votes", "blocks", "orders"):
                    topic = f"{PREFIX}{region}/{name}"
                    self.subscribers[topic] += 1
                    self.push(0, node, Subscribe(topic))
            self.push(self.random.randrange(1, HEARTBEAT_US), node, Heartbeat())
        for a, b in self.links:
            if a < b:
                delay_us = self.random.randrange(1, START_SPREAD_US)
                self.push(delay_us, a, PeerAdded(self.ids[b], PROTOCOL_V12))
                self.push(delay_us, b, PeerAdded(self.ids[a], PROTOCOL_V12))

    # -- Running it --------------------------------------------------------------------------------

    def push(self, delay_us: int, node: int, event: Event | None) -> None:
        """Schedule an event of a node; None is its uplink having sent a frame."""
        self._pushed += 1
        heapq.heappush(self.queue, (self.now_us + delay_us, self._pushed, node, event))

    def publish(self, delay_us: int, node: int, region: str, kind: str, size: int) -> None:
        """Let a node publish `size` bytes on the topic of its `kind` (votes, blocks, orders...)."""
        topic = f"{PREFIX}{region}/{kind.split()[0]}"
        expected = self.subscribers[topic] - (region in self.regions_of(node))
        number = len(self.published)
        self.published.append(Published(kind, self.now_us + delay_us, expected))
        self.latencies_us.setdefault(kind, [])
        head = _HEAD.pack(len(kind), number)
        self.push(delay_us, node, Publish(topic, head + bytes(size - len(head))))

    def run(self, duration_us: int) -> None:
        """Let so much time pass."""
        end_us = self.now_us + duration_us
        while self.queue[0][0] <= end_us:
            self.now_us, _, node, event = heapq.heappop(self.queue)
            if event is None:
                self._drain(node)
                continue
            self.events += 1
            self._apply(node, event)
            if isinstance(event, Heartbeat):
                self._stamp(node, -1, 0)
                self.push(HEARTBEAT_US, node, event)
        self.now_us = end_us

    def _stamp(self, node: int, peer: int, checksum: int) -> None:
        self.digest.update(_STAMP.pack(self.now_us, node, peer, checksum))

    def _apply(self, node: int, event: Event) -> None:
        router, now_ms = self.routers[node], self.now_us // MS
        pending = list(reversed(router.handle(event, now_ms)))
        while pending:
            effect = pending.pop()
            match effect:
                case Send(peer, frame, priority, message_id):
                    self._send(node, self.index[peer], frame, priority, message_id)
                case Withdraw(peer, message_id):
                    self.uplinks[node].withdraw(self.index[peer], message_id)
                case Verify(token, _, _, signature):
                    ok = signature in self._signatures
                    pending += reversed(router.handle(Verified(token, ok), now_ms))
                case Deliver(message_id, _, _, _, data):
                    self._deliver(data)
                    delay_us = VALIDATE_US + len(data) * VALIDATE_US_PER_KIB // 1024
                    self.push(delay_us, node, Validated(message_id, GossipVerdict.ACCEPT))
                case Misbehaved(_, reason):
                    self.blamed[reason] += 1

    def _deliver(self, data: bytes) -> None:
        one = self.published[_HEAD.unpack_from(data)[1]]
        one.delivered += 1
        self.latencies_us[one.kind].append(self.now_us - one.at_us)

    def _send(
        self, node: int, peer: int, frame: bytes, priority: Priority, message_id: bytes
    ) -> None:
        uplink = self.uplinks[node]
        if uplink.free_us > self.now_us:
            if not uplink.is_due:
                uplink.is_due = True
                self.push(uplink.free_us - self.now_us, node, None)
            uplink.put(peer, frame, priority, message_id)
        else:
            self._transmit(node, peer, frame)

    def _drain(self, node: int) -> None:
        uplink = self.uplinks[node]
        taken = uplink.take()
        uplink.is_due = taken is not None
        if taken is not None:
            self._transmit(node, *taken)
            self.push(uplink.free_us - self.now_us, node, None)

    def _transmit(self, node: int, peer: int, frame: bytes) -> None:
        parcel, size = self._unpack(frame), len(frame)
        uplink = self.uplinks[node]
        uplink.free_us = self.now_us + size * 1_000_000 // UPLINK_BYTES_PER_S
        self.sent_bytes[node] += size
        if parcel.messages:
            for number in parcel.messages:
                self.published[number].copies += 1
                self.published[number].bytes += size // len(parcel.messages)
        else:
            self.control_frames += 1
            self.control_bytes += size
        due_us = arrival_us(
            self.links[node, peer],
            uplink.free_us,
            size,
            self.random,
            self.settings.loss,
            self.settings.loss_chance,
            sure=parcel.subscribes,
        )
        if due_us is None:
            self.lost_frames += 1
            return
        self._stamp(node, peer, parcel.checksum)
        event = RpcReceived(self.ids[node], parcel.payload)
        self.push(due_us - self.now_us, peer, event)


def _peer_id(number: int) -> bytes:
    return ID_HEAD + hashlib.sha256(b"node %d" % number).digest()
