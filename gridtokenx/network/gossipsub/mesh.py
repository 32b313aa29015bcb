"""Who is sent what: meshes, fanouts, back-offs and direct peers of the gossip router.

The rules by which members are chosen, kept and dropped; the router tells the peers. Times are the
router's monotonic milliseconds.
Source: protocols/networking.md 4; libp2p/specs pubsub/gossipsub/gossipsub-v1.1.md.
"""

from collections.abc import Iterable
from random import Random

from gridtokenx.network.gossipsub.events import Parameters, Peer
from gridtokenx.network.gossipsub.scores import Scores
from gridtokenx.network.gossipsub.tables import Fanout, PeerState


class Meshes:
    """A mesh for each subscribed topic, a fanout for each other one that we publish on.

    `peers` is the router's table, which this one only reads.
    """

    def __init__(
        self, parameters: Parameters, peers: dict[Peer, PeerState], scores: Scores, random: Random
    ) -> None:
        self.direct: dict[Peer, None] = {}
        self.fanout: dict[str, Fanout] = {}
        self._parameters = parameters
        self._peers = peers
        self._scores = scores
        self._random = random
        self._mesh: dict[str, dict[Peer, int]] = {}  # -> when it joined, ms
        self._backoff: dict[tuple[str, Peer], int] = {}  # -> until, ms

    # -- What is -----------------------------------------------------------------------------------

    def members(self, topic: str) -> dict[Peer, int] | None:
        """The topic's mesh with when each joined, None where we are not subscribed."""
        return self._mesh.get(topic)

    def topics_of(self, peer: Peer) -> list[str]:
        """Topics in whose mesh the peer is."""
        return [topic for topic, mesh in self._mesh.items() if peer in mesh]

    def subscribed(self, topic: str) -> list[Peer]:
        """Peers known to be subscribed to the topic."""
        return [peer for peer, state in self._peers.items() if topic in state.topics]

    def receivers(self, topic: str) -> dict[Peer, int]:
        """The mesh (or the fanout, where we only publish) and the subscribed direct peers.

        The values tell since when, in ms.
        """
        mesh = self._mesh.get(topic)
        if mesh is None:
            mesh = self.fanout[topic].peers if topic in self.fanout else {}
        direct = [p for p in self.direct if p in self._peers and topic in self._peers[p].topics]
        return {**mesh, **{peer: self._peers[peer].topics[topic] for peer in direct}}

    def at_least(self, peer: Peer, threshold: float) -> bool:
        """Whether the score reaches the threshold; direct peers stand above all scores."""
        return peer in self.direct or self._scores.score(peer) >= threshold

    def sizes(self) -> dict[str, int]:
        """Entries of the tables that outside input can fill."""
        largest = max((len(mesh) for mesh in self._mesh.values()), default=0)
        return {"mesh": largest, "backoff": len(self._backoff)}

    # -- Peers come and go -------------------------------------------------------------------------

    def join(self, topic: str, now_ms: int) -> list[Peer]:
        """Begin a mesh, with the fanout's peers first; return its members."""
        self._mesh[topic] = {}
        fanout = self.fanout.pop(topic, None)
        candidates = self._graftable(topic, now_ms)
        chosen = [peer for peer in (fanout.peers if fanout else ()) if peer in candidates]
        rest = [peer for peer in candidates if peer not in chosen]
        chosen += self.sample(rest, self._parameters.mesh_size - len(chosen))
        for peer in chosen:
            self.add(topic, peer, now_ms)
        return chosen

    def leave(self, topic: str, now_ms: int) -> list[Peer]:
        """End a mesh; return who was in it."""
        members = list(self._mesh[topic])
        for peer in members:
            self.drop(topic, peer, now_ms)
        del self._mesh[topic]
        return members

    def add(self, topic: str, peer: Peer, now_ms: int) -> None:
        self._mesh[topic][peer] = now_ms
        self._scores.graft(topic, peer, now_ms)

    def drop(self, topic: str, peer: Peer, now_ms: int) -> None:
        if self._mesh.get(topic, {}).pop(peer, None) is not None:
            self._scores.prune(topic, peer, now_ms)

    def renew(self, peer: Peer, now_ms: int) -> None:
        """Treat the peer as a newcomer wherever it is served."""
        for served in (*self._mesh.values(), *(fanout.peers for fanout in self.fanout.values())):
            if peer in served:
                served[peer] = now_ms

    def remove(self, peer: Peer, now_ms: int) -> None:
        """Forget the peer, except its back-offs: reconnecting must not shorten them."""
        for topic in self.topics_of(peer):
            self.drop(topic, peer, now_ms)
        for fanout in self.fanout.values():
            fanout.peers.pop(peer, None)

    def set_direct(self, peers: Iterable[Peer], now_ms: int) -> list[tuple[str, Peer]]:
        """Replace the direct peers; return whom that took out of which mesh."""
        self.direct = dict.fromkeys(peers)
        taken = [(topic, peer) for peer in self.direct for topic in self.topics_of(peer)]
        for topic, peer in taken:
            self.drop(topic, peer, now_ms)
        return taken

    # -- Back-off ----------------------------------------------------------------------------------

    def back_off(self, topic: str, peer: Peer, seconds: int, now_ms: int) -> None:
        """Keep the longer of the old and the new back-off; the table drops its oldest entry."""
        until = now_ms + min(seconds, self._parameters.max_backoff_s) * 1_000
        key = (topic, peer)
        self._backoff[key] = max(self._backoff.pop(key, 0), until)
        if len(self._backoff) > self._parameters.max_backoffs:
            del self._backoff[next(iter(self._backoff))]

    def is_backed_off(self, topic: str, peer: Peer, now_ms: int) -> bool:
        until_ms = self._backoff.get((topic, peer))
        return until_ms is not None and until_ms > now_ms

    def expire(self, now_ms: int) -> None:
        """Forget back-offs that ended a heartbeat ago, and fanouts that were not used."""
        soon = now_ms - self._parameters.heartbeat_ms
        self._backoff = {k: until for k, until in self._backoff.items() if until > soon}
        for topic, fanout in list(self.fanout.items()):
            if now_ms - fanout.published_ms > self._parameters.fanout_ms:
                del self.fanout[topic]

    # -- Choice ------------------------------------------------------------------------------------

    def sample(self, peers: Iterable[Peer], count: int) -> list[Peer]:
        pool = list(peers)
        return self._random.sample(pool, max(0, min(count, len(pool))))

    def refusal(self, topic: str, peer: Peer, now_ms: int) -> str | None:
        """Why a GRAFT is answered with PRUNE, None where the peer may join."""
        if peer in self.direct:
            return "graft_from_direct_peer"
        if self.is_backed_off(topic, peer, now_ms):
            return "graft_in_backoff"
        if self._scores.score(peer) < 0:
            return "graft_refused_score"
        full = len(self._mesh[topic]) >= self._parameters.mesh_high
        if full and not self._is_outbound(peer):
            return "graft_refused_full"
        return None

    def maintain(
        self, topic: str, now_ms: int, *, opportunistic: bool
    ) -> tuple[list[Peer], list[Peer]]:
        """Mend one mesh, as each heartbeat does; return (grafted, pruned)."""
        mesh, limits = self._mesh[topic], self._parameters
        small = len(self._peers) < limits.mesh_size
        low = limits.mesh_low_small_network if small else limits.mesh_low
        pruned = [peer for peer in mesh if self._scores.score(peer) < 0]
        for peer in pruned:
            self.drop(topic, peer, now_ms)
        grafted: list[Peer] = []
        if len(mesh) < low:
            candidates = self._graftable(topic, now_ms)
            grafted += self.sample(candidates, limits.mesh_size - len(mesh))
        elif len(mesh) > limits.mesh_high:
            surplus = self._surplus(mesh)
            pruned += surplus
            for peer in surplus:
                self.drop(topic, peer, now_ms)
        for peer in grafted:
            self.add(topic, peer, now_ms)
        extra = self._outbound_missing(topic, now_ms) if len(mesh) >= low else []
        if opportunistic:
            extra += [p for p in self._better_peers(topic, now_ms) if p not in extra]
        for peer in extra:
            self.add(topic, peer, now_ms)
        return grafted + extra, pruned

    def _graftable(self, topic: str, now_ms: int) -> dict[Peer, None]:
        """Peers we may GRAFT: a heartbeat after our back-off, when theirs is surely over too."""
        mesh, before_ms = self._mesh[topic], now_ms - self._parameters.heartbeat_ms
        return {
            peer: None
            for peer in self.subscribed(topic)
            if peer not in mesh
            and peer not in self.direct
            and not self.is_backed_off(topic, peer, before_ms)
            and self._scores.score(peer) >= 0
        }

    def _surplus(self, mesh: dict[Peer, int]) -> list[Peer]:
        """Whom an overfull mesh drops: it keeps the best, some by lot, and enough outbound."""
        limits = self._parameters
        ranked = sorted(self.sample(mesh, len(mesh)), key=self._scores.score, reverse=True)
        order = ranked[: limits.mesh_best] + self.sample(ranked[limits.mesh_best :], len(ranked))
        kept, dropped = order[: limits.mesh_size], order[limits.mesh_size :]
        missing = limits.mesh_outbound - sum(map(self._is_outbound, kept))
        for peer in [p for p in dropped if self._is_outbound(p)][: max(0, missing)]:
            worst = next(p for p in reversed(kept) if not self._is_outbound(p))
            kept.remove(worst)
            dropped.append(worst)
            dropped.remove(peer)
            kept.insert(0, peer)
        return dropped

    def _outbound_missing(self, topic: str, now_ms: int) -> list[Peer]:
        missing = self._parameters.mesh_outbound - sum(map(self._is_outbound, self._mesh[topic]))
        if missing <= 0:
            return []
        candidates = filter(self._is_outbound, self._graftable(topic, now_ms))
        return self.sample(candidates, missing)

    def _better_peers(self, topic: str, now_ms: int) -> list[Peer]:
        """Peers to graft where the mesh brings little and others have brought more by gossip."""
        scores = sorted(map(self._scores.score, self._mesh[topic]))
        if not scores:
            return []
        median = scores[len(scores) // 2]
        if median >= self._scores.parameters.opportunistic_graft_threshold:
            return []
        better = [p for p in self._graftable(topic, now_ms) if self._scores.score(p) > median]
        return self.sample(better, self._parameters.opportunistic_peers)

    def _is_outbound(self, peer: Peer) -> bool:
        return self._peers[peer].outbound

    def refresh_fanout(self, topic: str, now_ms: int) -> None:
        """Fill a fanout up with subscribed peers that are worth publishing to."""
        fanout = self.fanout.setdefault(topic, Fanout({}, now_ms))
        threshold = self._scores.parameters.publish_threshold
        for peer in [p for p in fanout.peers if not self.at_least(p, threshold)]:
            del fanout.peers[peer]
        missing = self._parameters.mesh_size - len(fanout.peers)
        pool = [
            peer
            for peer in self.subscribed(topic)
            if peer not in fanout.peers
            and peer not in self.direct
            and self.at_least(peer, threshold)
        ]
        fanout.peers.update(dict.fromkeys(self.sample(pool, missing), now_ms))
