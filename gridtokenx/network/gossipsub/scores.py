"""Peer scores of gossipsub v1.1: what each peer's deeds are worth to this node.

    score = min(topic cap, P1 + P2 + P3 + P3b + P4 over topics) + P5 + P6 + P7

each P with its weight. A score is this node's own opinion and is told to nobody. Blame counts at
once, credit and decay from the next heartbeat on. Pure: the router passes the time.
Source: protocols/networking.md 4.1; libp2p/specs pubsub/gossipsub/gossipsub-v1.1.md "Peer Scoring".
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.network.gossipsub.events import Peer, ScoreParameters
from gridtokenx.network.peers.reputation import address_group

BEHAVIOUR_POINTS = {
    "malformed": 5.0,
    "too_many_topics": 0.1,
    "graft_in_backoff": 1.0,
    "broken_promise": 1.0,
    "over_limit": 1.0,  # a heartbeat, however many RPCs were dropped in it
    "ihave_over_limit": 0.1,
    "iwant_over_limit": 0.1,
    "idontwant_over_limit": 0.1,
    "iwant_repeated": 0.05,
    # Who does not know that its gossip is not wanted sends some each heartbeat, which is below the
    # threshold for ever; who sends more than it can hope to be heard, falls below all thresholds.
    "gossip_ignored": 0.05,
    # A node that is behind ignores what its honest peers bring, 100 a second and more; with the
    # decay of 1 % a heartbeat these stay below the threshold, whoever sends 180 a second does not.
    "useless": 0.0005,
}
"""What P7 counts for each misdeed; others are counted but cost nothing."""


@dataclass(frozen=True, slots=True)
class PeerScore:
    """A score and what it is made of, each with its weight; the topics' sum is capped in it."""

    total: float
    mesh_time: float  # P1
    first_deliveries: float  # P2
    delivery_deficit: float  # P3
    mesh_failures: float  # P3b
    invalid_messages: float  # P4
    application: float  # P5
    colocation: float  # P6
    behaviour: float  # P7


@dataclass(slots=True)
class _TopicDeeds:
    mesh_since_ms: int | None = None
    mesh_ms: int = 0
    first_deliveries: float = 0.0
    mesh_deliveries: float = 0.0
    mesh_failures: float = 0.0
    invalid: float = 0.0


@dataclass(slots=True)
class _Deeds:
    """Of one peer, by topics that this node is subscribed to."""

    topics: dict[str, _TopicDeeds] = field(default_factory=dict)
    behaviour: float = 0.0
    group: str = ""  # of peers at the same address; empty: none
    gone_ms: int | None = None
    total: float = 0.0

    def topic(self, name: str) -> _TopicDeeds:
        return self.topics.setdefault(name, _TopicDeeds())


class Scores:
    """Scores of connected peers, and of those that left with a bad one.

    `application_score` is P5; it must be quick, total and pure between heartbeats.
    """

    def __init__(
        self,
        parameters: ScoreParameters,
        application_score: Callable[[Peer], float] = lambda _peer: 0.0,
    ) -> None:
        self.parameters = parameters
        self._application_score = application_score
        self._deeds: dict[Peer, _Deeds] = {}
        self._retained: dict[Peer, _Deeds] = {}  # oldest first
        self._groups: dict[str, dict[Peer, None]] = {}

    def __len__(self) -> int:
        return len(self._deeds) + len(self._retained)

    # -- Peers -------------------------------------------------------------------------------------

    def add_peer(self, peer: Peer, ip: str) -> None:
        """Begin, or go on where the peer left; again when its address has changed."""
        deeds = self._retained.pop(peer, None) or self._deeds.get(peer) or _Deeds()
        self._deeds[peer] = deeds
        deeds.gone_ms = None
        self._leave_group(peer, deeds)
        deeds.group = colocation_group(
            ip, exempts_private=self.parameters.colocation_exempts_private
        )
        if deeds.group:
            self._groups.setdefault(deeds.group, {})[peer] = None
        self._refresh(peer, deeds)

    def remove_peer(self, peer: Peer, now_ms: int) -> None:
        """Forget a peer, but not a bad score: it would come back without it."""
        deeds = self._deeds.pop(peer, None)
        if deeds is None:
            return
        self._leave_group(peer, deeds)
        for topic in deeds.topics:
            self._leave_mesh(deeds.topics[topic], now_ms)
        for done in deeds.topics.values():
            done.first_deliveries = 0.0  # Nobody lives on credit of an earlier connection.
        self._refresh(peer, deeds)
        if deeds.total < 0:
            deeds.gone_ms = now_ms
            self._retained[peer] = deeds
            if len(self._retained) > self.parameters.max_retained:
                del self._retained[next(iter(self._retained))]

    def _leave_group(self, peer: Peer, deeds: _Deeds) -> None:
        group = self._groups.get(deeds.group)
        if group is not None:
            group.pop(peer, None)
            if not group:
                del self._groups[deeds.group]
        deeds.group = ""

    # -- Deeds -------------------------------------------------------------------------------------

    def graft(self, topic: str, peer: Peer, now_ms: int) -> None:
        """The peer has joined our mesh."""
        deeds = self._deeds.get(peer)
        if deeds is not None:
            done = deeds.topic(topic)
            done.mesh_since_ms, done.mesh_ms, done.mesh_deliveries = now_ms, 0, 0.0

    def prune(self, topic: str, peer: Peer, now_ms: int) -> None:
        """The peer has left our mesh; what it owed then sticks as P3b."""
        deeds = self._deeds.get(peer)
        if deeds is not None and topic in deeds.topics:
            self._leave_mesh(deeds.topics[topic], now_ms)
            self._refresh(peer, deeds)

    def _leave_mesh(self, done: _TopicDeeds, now_ms: int) -> None:
        if done.mesh_since_ms is not None:
            done.mesh_ms = now_ms - done.mesh_since_ms
            done.mesh_failures += self._deficit(done) ** 2
            done.mesh_since_ms, done.mesh_ms, done.mesh_deliveries = None, 0, 0.0

    def deliver(self, topic: str, peer: Peer, *, first: bool) -> None:
        """The peer brought an accepted message, first of all or soon after the first."""
        deeds, limits = self._deeds.get(peer), self.parameters
        if deeds is None:
            return
        done = deeds.topic(topic)
        if first:
            done.first_deliveries = min(limits.first_delivery_cap, done.first_deliveries + 1)
        if done.mesh_since_ms is not None:
            done.mesh_deliveries = min(limits.mesh_delivery_cap, done.mesh_deliveries + 1)

    def invalid(self, topic: str, peer: Peer) -> None:
        """The peer brought a message that nobody honest forwards."""
        deeds = self._deeds.get(peer)
        if deeds is not None:
            deeds.topic(topic).invalid += 1
            self._refresh(peer, deeds)

    def penalise(self, peer: Peer, points: float) -> None:
        """Add to P7's counter."""
        deeds = self._deeds.get(peer)
        if deeds is not None:
            deeds.behaviour += points
            self._refresh(peer, deeds)

    def decay(self, now_ms: int) -> None:
        """Due each heartbeat: counters fade, time in mesh is measured, scores are made anew."""
        for table in (self._deeds, self._retained):
            for peer, deeds in table.items():
                self._fade(deeds, now_ms)
                self._refresh(peer, deeds)
        self._retained = {
            peer: deeds
            for peer, deeds in self._retained.items()
            if deeds.total < 0
            and deeds.gone_ms is not None
            and now_ms - deeds.gone_ms < self.parameters.retain_ms
        }

    def _fade(self, deeds: _Deeds, now_ms: int) -> None:
        limits = self.parameters
        deeds.behaviour = self._faded(deeds.behaviour, limits.behaviour_decay)
        for topic, done in list(deeds.topics.items()):
            done.first_deliveries = self._faded(done.first_deliveries, limits.first_delivery_decay)
            done.mesh_deliveries = self._faded(done.mesh_deliveries, limits.mesh_delivery_decay)
            done.mesh_failures = self._faded(done.mesh_failures, limits.mesh_failure_decay)
            done.invalid = self._faded(done.invalid, limits.invalid_decay)
            if done.mesh_since_ms is not None:
                done.mesh_ms = now_ms - done.mesh_since_ms
            elif not (done.first_deliveries or done.mesh_failures or done.invalid):
                del deeds.topics[topic]

    def _faded(self, value: float, factor: float) -> float:
        value *= factor
        return value if value >= self.parameters.decay_to_zero else 0.0

    # -- Scores ------------------------------------------------------------------------------------

    def score(self, peer: Peer) -> float:
        """The score of a peer, 0 where nothing is known of it."""
        deeds = self._deeds.get(peer)
        if deeds is None:
            deeds = self._retained.get(peer)
        return 0.0 if deeds is None else deeds.total

    def all(self) -> dict[Peer, PeerScore]:
        """Scores of the connected peers with their parts."""
        return {peer: self._parts(peer, deeds) for peer, deeds in self._deeds.items()}

    def _refresh(self, peer: Peer, deeds: _Deeds) -> None:
        topics = sum(sum(self._topic_parts(done)) for done in deeds.topics.values())
        deeds.total = min(self.parameters.topic_cap, topics) + sum(self._own_parts(peer, deeds))

    def _parts(self, peer: Peer, deeds: _Deeds) -> PeerScore:
        topics = [(0.0, 0.0, 0.0, 0.0, 0.0), *map(self._topic_parts, deeds.topics.values())]
        p1, p2, p3, p3b, p4 = map(sum, zip(*topics, strict=True))
        p5, p6, p7 = self._own_parts(peer, deeds)
        return PeerScore(deeds.total, p1, p2, p3, p3b, p4, p5, p6, p7)

    def _topic_parts(self, done: _TopicDeeds) -> tuple[float, float, float, float, float]:
        """P1, P2, P3, P3b, P4 of one topic."""
        limits = self.parameters
        quanta = done.mesh_ms // limits.mesh_time_quantum_ms
        return (
            limits.mesh_time_weight * min(quanta, limits.mesh_time_cap),
            limits.first_delivery_weight * done.first_deliveries,
            limits.mesh_delivery_weight * self._deficit(done) ** 2,
            limits.mesh_failure_weight * done.mesh_failures,
            limits.invalid_weight * done.invalid**2,
        )

    def _deficit(self, done: _TopicDeeds) -> float:
        if done.mesh_since_ms is None:
            return 0.0
        if done.mesh_ms <= self.parameters.mesh_delivery_activation_ms:
            return 0.0
        return max(0.0, self.parameters.mesh_delivery_threshold - done.mesh_deliveries)

    def _own_parts(self, peer: Peer, deeds: _Deeds) -> tuple[float, float, float]:
        """P5, P6, P7."""
        limits = self.parameters
        crowd = len(self._groups.get(deeds.group, ())) - limits.colocation_threshold
        excess = deeds.behaviour - limits.behaviour_threshold
        return (
            limits.application_weight * self._application_score(peer),
            limits.colocation_weight * max(0, crowd) ** 2,
            limits.behaviour_weight * max(0.0, excess) ** 2,
        )


def colocation_group(ip: str, *, exempts_private: bool) -> str:
    """Whom an address counts with: itself, for IPv6 its /64, which one customer gets whole.

    Empty for text that is no address and, if so set, for addresses that are not public.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address_group(ip) if address.is_global or not exempts_private else ""
