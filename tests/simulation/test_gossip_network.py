"""Thirty gossip routers on a seeded virtual network: latency, losses, a partition, attackers."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from random import Random

import pytest

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import (
    PROTOCOL_V12,
    Deliver,
    Event,
    GossipVerdict,
    Heartbeat,
    Misbehaved,
    Parameters,
    PeerAdded,
    PeerRemoved,
    Priority,
    Publish,
    RpcReceived,
    Send,
    SetDirectPeers,
    Subscribe,
    Validated,
    Verified,
    Verify,
)
from gridtokenx.network.gossipsub.router import Router
from gridtokenx.network.gossipsub.wire import FrameBuffer
from gridtokenx.primitives import crypto

PREFIX = "/gridtokenx/test/"
TOPIC = PREFIX + "national/votes"
ID_HEAD = b"\x00\x24\x08\x01\x12\x20"
KEYS = [crypto.SigningKey((n + 1).to_bytes(32, "big")) for n in range(30)]
PEERS = [ID_HEAD + key.public_key for key in KEYS]
SHORTEST_MS, LONGEST_MS = 5, 80

verify = lru_cache(maxsize=10_000)(crypto.verify)


class World:
    """Routers, each connected to `degree` others, one event queue, one source of randomness.

    Losses spare RPCs with subscriptions: on a real stream these are lost only together with the
    stream, and a reopened stream begins with them. `links` holds (dialler, dialled). Nodes have an
    address each, except `sybils`, who share one; `silent` nodes forward nothing.
    """

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        degree: int = 10,
        links: Iterable[tuple[int, int]] | None = None,
        sybils: range = range(0),
        silent: range = range(0),
        **parameters,
    ) -> None:
        self.random = Random(seed)
        self.loss = loss
        self.now = 0
        self.queue: list[tuple[int, int, int, Event]] = []
        self.pushed = 0
        self.digest = hashlib.sha256()
        self.parted: frozenset[int] = frozenset()
        self.sybils, self.silent = sybils, silent
        self.received: list[dict[bytes, int]] = [defaultdict(int) for _ in PEERS]
        self.blamed: list[Misbehaved] = []
        self.back_off_until: dict[tuple[int, int], int] = {}
        self.early_grafts: list[tuple[int, int, int]] = []
        self.index = {peer: n for n, peer in enumerate(PEERS)}
        self.routers = [self._router(n, Parameters(**parameters)) for n in range(len(PEERS))]
        self.links = self._links(degree) if links is None else set(links)
        for n in range(len(PEERS)):
            self.push(0, n, Subscribe(TOPIC))
            self.push(self.random.randrange(1, 1_000), n, Heartbeat())
        for a, b in sorted(self.links):
            self.connect(a, b)

    def _router(self, n: int, parameters: Parameters) -> Router:
        return Router(
            PEERS[n],
            sign=KEYS[n].sign,
            public_key_of=lambda peer: peer[6:] if peer in self.index else None,
            topic_prefix=PREFIX,
            priority=lambda topic: Priority.URGENT,
            seed=self.random.randrange(1 << 32),
            first_seqno=1_000,
            parameters=parameters,
        )

    def _links(self, degree: int) -> set[tuple[int, int]]:
        ring = {(n, n + 1) for n in range(len(PEERS) - 1)} | {(0, len(PEERS) - 1)}
        while len(ring) < len(PEERS) * degree // 2:
            ring.add(tuple(sorted(self.random.sample(range(len(PEERS)), 2))))
        return ring

    def push(self, delay_ms: int, node: int, event: Event) -> None:
        self.pushed += 1
        heapq.heappush(self.queue, (self.now + delay_ms, self.pushed, node, event))

    def connect(self, a: int, b: int) -> None:
        for x, y in ((a, b), (b, a)):
            ip = "8.8.4.4" if y in self.sybils else f"8.8.8.{y}"
            self.push(1, x, PeerAdded(PEERS[y], PROTOCOL_V12, x == a, ip))

    def partition(self, nodes: range) -> None:
        """Cut the connections between `nodes` and the rest."""
        self.parted = frozenset(nodes)
        for a, b in sorted(self.links):
            if self.is_cut(a, b):
                self.push(0, a, PeerRemoved(PEERS[b]))
                self.push(0, b, PeerRemoved(PEERS[a]))

    def heal(self) -> None:
        cut = [link for link in sorted(self.links) if self.is_cut(*link)]
        self.parted = frozenset()
        for a, b in cut:
            self.connect(a, b)

    def is_cut(self, a: int, b: int) -> bool:
        return (a in self.parted) != (b in self.parted)

    def run(self, duration_ms: int) -> "World":
        end = self.now + duration_ms
        while self.queue[0][0] <= end:
            self.now, _, node, event = heapq.heappop(self.queue)
            if isinstance(event, RpcReceived) and self.is_cut(node, self.index[event.peer]):
                continue
            self.digest.update(repr((self.now, node, event)).encode())
            self.apply(node, event)
            if isinstance(event, Heartbeat):
                self.push(1_000, node, event)
        self.now = end
        return self

    def apply(self, node: int, event: Event) -> None:
        effects = self.routers[node].handle(event, self.now)
        for effect in effects:
            match effect:
                case Send(peer, frame):
                    self.carry(node, self.index[peer], frame)
                case Verify(token, public_key, signed, signature):
                    self.apply(node, Verified(token, verify(public_key, signed, signature)))
                case Deliver(message_id, _, _, _, data):
                    self.received[node][data] += 1
                    verdict = (
                        GossipVerdict.REJECT if data.startswith(b"bad") else GossipVerdict.ACCEPT
                    )
                    self.push(self.random.randrange(5), node, Validated(message_id, verdict))
                case Misbehaved():
                    self.blamed.append(effect)

    def carry(self, sender: int, receiver: int, frame: bytes) -> None:
        (payload,) = FrameBuffer(1 << 22).feed(frame)
        rpc = wire.decode_rpc(payload)
        self.watch_back_off(sender, receiver, rpc)
        if not rpc.subscriptions and self.random.random() < self.loss:
            return
        if rpc.messages and sender in self.silent:
            return
        delay_ms = self.random.randrange(SHORTEST_MS, LONGEST_MS)
        self.push(delay_ms, receiver, RpcReceived(PEERS[sender], payload))

    def watch_back_off(self, sender: int, receiver: int, rpc: wire.Rpc) -> None:
        """Whoever sends PRUNE must not GRAFT the same peer before the time it named itself."""
        for prune in rpc.prune:
            self.back_off_until[sender, receiver] = self.now + prune.backoff_s * 1_000
        if rpc.graft and self.now < self.back_off_until.get((sender, receiver), 0):
            self.early_grafts.append((self.now, sender, receiver))

    def publish(self, node: int, data: bytes) -> None:
        self.push(0, node, Publish(TOPIC, data))

    def publish_all(self, count: int, publishers: range, pause_ms: int = 100) -> dict[bytes, int]:
        """Messages of the publishers in turn, one each pause; {data: publisher}."""
        published = {
            b"%d at %d" % (n, self.now): publishers[n % len(publishers)] for n in range(count)
        }
        for data, publisher in published.items():
            self.publish(publisher, data)
            self.run(pause_ms)
        return published

    def score(self, of: int, at: int) -> float:
        return self.routers[at].scores()[PEERS[of]].total

    def honest_scores(self, honest: range) -> list[float]:
        """What honest nodes think of each other."""
        peers = {PEERS[n] for n in honest}
        return [
            score.total
            for n in honest
            for peer, score in self.routers[n].scores().items()
            if peer in peers
        ]

    def missing(
        self, published: dict[bytes, int], nodes: range = range(len(PEERS))
    ) -> list[tuple[int, bytes]]:
        """(node, message) pairs that never arrived; a publisher needs no delivery."""
        return [
            (node, data)
            for node in nodes
            for data, publisher in published.items()
            if node != publisher and data not in self.received[node]
        ]


def lossy_partition(seed: int, **parameters) -> tuple[World, dict[bytes, int]]:
    """A message each 100 ms over a two-second partition in a network losing every tenth RPC."""
    world = World(seed, loss=0.1, **parameters).run(5_000)
    published: dict[bytes, int] = {}
    for number in range(60):
        data = b"message %d" % number
        published[data] = number * 7 % len(PEERS)
        world.publish(published[data], data)
        if number == 20:
            world.partition(range(12))
        if number == 40:
            world.heal()
        world.run(100)
    return world.run(10_000), published


@pytest.mark.parametrize("seed", range(5))
def test_every_message_reaches_every_subscriber_once_after_losses_and_a_partition(
    seed: int,
) -> None:
    world, published = lossy_partition(seed)
    assert world.missing(published) == []
    assert {count for received in world.received for count in received.values()} == {1}
    assert sum(router.counters["iwant_ids_answered"] for router in world.routers) > 0
    assert world.early_grafts == []


def test_without_ihave_the_same_run_loses_messages() -> None:
    """The control run: what the one above proves is the work of IHAVE and IWANT."""
    world, published = lossy_partition(0, max_ihave_per_heartbeat=0)
    assert len(world.missing(published)) > 100


def test_meshes_settle_between_d_low_and_d_high_without_any_blame() -> None:
    world = World(3, degree=20).run(30_000)
    sizes = [len(router.mesh(TOPIC)) for router in world.routers]
    assert min(sizes) >= 4
    assert max(sizes) <= 12
    for node, router in enumerate(world.routers):
        for peer in router.mesh(TOPIC):
            assert PEERS[node] in world.routers[world.index[peer]].mesh(TOPIC)
    assert world.blamed == []


@pytest.mark.parametrize("seed", range(3))
def test_pruned_peers_are_never_grafted_before_the_back_off_ends(seed: int) -> None:
    """A network dense enough to prune all the time, with peers coming and going for minutes."""
    world = World(seed, degree=24, mesh_size=3, mesh_low=3, mesh_high=4, mesh_outbound=1)
    for _ in range(15):
        world.partition(range(world.random.randrange(1, 29)))
        world.run(4_000)
        world.heal()
        world.run(6_000)
    assert sum(len(router.mesh(TOPIC)) > 0 for router in world.routers) == len(PEERS)
    assert len(world.back_off_until) > 50
    assert world.early_grafts == []
    assert "graft_in_backoff" not in {blame.reason for blame in world.blamed}


def test_direct_peers_hear_each_other_though_neither_is_in_the_others_mesh() -> None:
    world = World(1, flood_publish=False)
    direct = sorted(world.links)[0]
    for a, b in (direct, direct[::-1]):
        world.push(0, a, SetDirectPeers((PEERS[b],)))
    world.run(10_000)
    assert PEERS[direct[1]] not in world.routers[direct[0]].mesh(TOPIC)
    world.publish(direct[0], b"direct")
    world.run(LONGEST_MS)
    assert world.received[direct[1]] == {b"direct": 1}


def test_equal_seeds_give_equal_runs() -> None:
    first, second, other = (lossy_partition(seed)[0].digest.digest() for seed in (4, 4, 5))
    assert first == second
    assert first != other


HONEST = range(18)
ATTACKERS = range(18, 30)


def ring(nodes: range, degree: int = 3) -> set[tuple[int, int]]:
    """Each node dials the next ones."""
    return {(a, (a + step) % len(nodes)) for a in nodes for step in range(1, degree + 1)}


def test_a_spammer_is_graylisted_by_all_its_peers_and_honest_messages_arrive() -> None:
    spammer = 29
    world = World(11, degree=8).run(5_000)
    neighbours = [n for n in range(29) if tuple(sorted((n, spammer))) in world.links]
    published: dict[bytes, int] = {}
    for number in range(100):
        for kind in range(3):  # Well signed and rejected by every validator.
            world.publish(spammer, b"bad %d %d" % (number, kind))
        published |= world.publish_all(1, range(number % 29, number % 29 + 1))
    world.run(5_000)
    assert max(world.score(spammer, at=n) for n in neighbours) < -80
    heard = sum(len([d for d in received if d.startswith(b"bad")]) for received in world.received)
    assert heard <= 20 * len(neighbours)  # Of 300; the rest is dropped unread.
    assert not [b for b in world.blamed if b.reason == "graylisted" and b.peer != PEERS[spammer]]
    honest = range(29)
    assert world.missing(published, honest) == []
    assert min(world.honest_scores(honest)) >= 0


def test_many_identities_of_one_address_do_not_eclipse_a_node() -> None:
    """Twelve of them fill the victim's mesh before any honest peer is connected."""
    dials = {(attacker, 0) for attacker in ATTACKERS}
    world = World(12, links=dials, sybils=ATTACKERS, silent=ATTACKERS, flood_publish=False)
    world.run(3_000)
    for a, b in sorted(ring(HONEST)):
        world.connect(a, b)
    world.run(5_000)
    sybils = {PEERS[n] for n in ATTACKERS}
    assert max(world.score(n, at=0) for n in ATTACKERS) < 0
    assert not sybils & set(world.routers[0].mesh(TOPIC))
    published = world.publish_all(50, HONEST)
    world.run(3_000)
    assert world.missing(published, HONEST) == []
    assert min(world.honest_scores(HONEST)) >= 0


def test_silent_mesh_members_are_replaced_by_peers_that_bring_messages() -> None:
    """The same with an address each, no dialled peer kept for the victim: only what peers bring
    tells them apart, and until then the victim lives on gossip."""
    dials = {(attacker, 0) for attacker in ATTACKERS}
    world = World(
        13,
        links=dials,
        silent=ATTACKERS,
        flood_publish=False,
        mesh_outbound=0,
        opportunistic_heartbeats=10,
    ).run(3_000)
    silent = {PEERS[n] for n in ATTACKERS}
    for a, b in sorted(ring(HONEST, 5)):
        world.connect(max(a, b), min(a, b))  # Nobody is dialled by the victim.
    world.run(1_000)
    assert set(world.routers[0].mesh(TOPIC)) == silent  # It is full and takes nobody else.
    published = world.publish_all(50, HONEST[1:])
    published |= world.publish_all(300, HONEST[1:])
    mesh = set(world.routers[0].mesh(TOPIC))
    assert len(mesh - silent) >= 4
    published |= world.publish_all(20, HONEST[1:])
    world.run(4 * LONGEST_MS)
    assert world.missing(published, HONEST[:1]) == []
    assert min(world.honest_scores(HONEST)) >= 0
