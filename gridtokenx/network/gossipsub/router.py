"""Gossipsub v1.1 router with IDONTWANT of v1.2, sans-IO: events in, effects out.

No clock, socket or await: the shell passes monotonic milliseconds, carries bytes, verifies
signatures and runs validators. Only messages that were verified and accepted are forwarded.
Source: protocols/networking.md 4; libp2p/specs pubsub/gossipsub/gossipsub-v1.0.md to v1.2.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from random import Random

from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.allowances import Allowances
from gridtokenx.network.gossipsub.events import (
    PROTOCOL_V12,
    Deliver,
    Effect,
    Event,
    Garbage,
    GossipVerdict,
    Heartbeat,
    Misbehaved,
    Parameters,
    Peer,
    PeerAdded,
    PeerRemoved,
    Priority,
    Publish,
    RouterError,
    RpcReceived,
    Send,
    SetDirectPeers,
    Subscribe,
    Unsubscribe,
    Validated,
    Verified,
    Verify,
    Withdraw,
)
from gridtokenx.network.gossipsub.mesh import Meshes
from gridtokenx.network.gossipsub.scores import BEHAVIOUR_POINTS, PeerScore, Scores
from gridtokenx.network.gossipsub.tables import Cached, Flight, Flights, History, PeerState, Wanted
from gridtokenx.network.gossipsub.wire import Message, Prune, Rpc, WireError


class Router:
    """State of one node's gossip. Every table is bounded by `Parameters`.

    `sign` is the node's Ed25519 signature; `public_key_of` gives the 32-byte key inlined in a peer
    id, or None; `priority` classifies a topic; `first_seqno` must grow across restarts
    (time in nanoseconds does); `application_score` is P5 of a peer's score; for those that
    `is_trusted` names there is room that strangers do not get. Equal events and seed give equal
    effects.
    """

    def __init__(
        self,
        peer_id: Peer,
        *,
        sign: Callable[[bytes], bytes],
        public_key_of: Callable[[Peer], bytes | None],
        topic_prefix: str,
        priority: Callable[[str], Priority],
        seed: int,
        first_seqno: int,
        parameters: Parameters | None = None,
        application_score: Callable[[Peer], float] = lambda _peer: 0.0,
        is_trusted: Callable[[Peer], bool] = lambda _peer: True,
    ) -> None:
        self.parameters = limits = parameters or Parameters()
        self.counters: Counter[str] = Counter()
        self.subscriptions: dict[str, None] = {}
        self._peer_id = peer_id
        self._sign = sign
        self._public_key_of = public_key_of
        self._topic_prefix = topic_prefix
        self._priority = priority
        self._random = Random(seed)
        self._next_seqno = first_seqno
        self._peers: dict[Peer, PeerState] = {}
        self._seen: dict[bytes, int] = {}  # message id -> expiry, ms; oldest first
        self._scores = Scores(limits.scores, application_score)
        self._meshes = Meshes(limits, self._peers, self._scores, self._random)
        self._wanted = Wanted(limits.max_asked, limits.max_promises, limits.iwant_retry_ms)
        self._allowances = Allowances(limits)
        self._heartbeats = 0
        self._history = History(limits.history_heartbeats, limits.max_history_bytes)
        self._flights = Flights(limits, is_trusted)
        self._now = 0
        self._out: list[Effect] = []

    # -- What the shell may read -------------------------------------------------------------------

    def mesh(self, topic: str) -> tuple[Peer, ...]:
        """Peers in the topic's mesh, sorted; direct peers stand outside it."""
        return tuple(sorted(self._meshes.members(topic) or ()))

    def topic_peers(self, topic: str) -> tuple[Peer, ...]:
        """Peers known to be subscribed to the topic, sorted."""
        return tuple(sorted(self._meshes.subscribed(topic)))

    def scores(self) -> dict[Peer, PeerScore]:
        """The score of each connected peer, with its parts."""
        return self._scores.all()

    def peer_counters(self, peer: Peer) -> dict[str, int]:
        """What the peer did wrong or in vain, by reason."""
        state = self._peers.get(peer)
        return dict(state.counters) if state else {}

    def table_sizes(self) -> dict[str, int]:
        """Entries (or bytes) of every table that outside input can fill."""
        return {
            "peers": len(self._peers),
            "topics": max((len(p.topics) for p in self._peers.values()), default=0),
            "dont_send": max((len(p.dont_send) for p in self._peers.values()), default=0),
            **self._meshes.sizes(),
            **self._wanted.sizes(),
            "seen": len(self._seen),
            "scores": len(self._scores),
            "authors": len(self._allowances),
            "history_bytes": self._history.size_bytes,
            "in_flight": len(self._flights),
            "in_flight_bytes": self._flights.size_bytes,
        }

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Apply one event; return what to do, in order.

        `now_ms` is monotonic. Total on any bytes of RpcReceived: garbage is a Misbehaved effect.
        Errors: RouterError for a Publish or Subscribe the caller should not have made.
        """
        self._now = now_ms
        match event:
            case RpcReceived(peer, payload):
                self._receive(peer, payload)
            case Garbage(peer):
                self._blame(peer, "malformed", drop_stream=True)
            case Verified(token, ok):
                self._on_verified(token, ok)
            case Validated(message_id, verdict):
                self._on_validated(message_id, verdict)
            case Publish(topic, data):
                self._publish(topic, data)
            case Heartbeat():
                self._heartbeat()
            case _:
                self._change_membership(event)
        effects, self._out = self._out, []
        return effects

    def _change_membership(
        self, event: PeerAdded | PeerRemoved | Subscribe | Unsubscribe | SetDirectPeers
    ) -> None:
        match event:
            case PeerAdded():
                self._add_peer(event)
            case PeerRemoved(peer):
                self._remove_peer(peer)
            case Subscribe(topic):
                self._subscribe(topic)
            case Unsubscribe(topic):
                self._unsubscribe(topic)
            case SetDirectPeers(peers):
                self._set_direct(peers)

    # -- Peers and topics --------------------------------------------------------------------------

    def _add_peer(self, added: PeerAdded) -> None:
        peer = added.peer
        state = self._peers.get(peer)
        if state is None:
            if len(self._peers) >= self.parameters.max_peers:
                self.counters["peer_refused"] += 1
                return
            self._peers[peer] = state = PeerState(added.protocol)
        else:
            # What was under way on the old stream may be lost.
            state.topics = dict.fromkeys(state.topics, self._now)
            self._meshes.renew(peer, self._now)
        state.protocol, state.outbound = added.protocol, added.outbound
        self._scores.add_peer(peer, added.ip)
        hello = Rpc(subscriptions=[(True, topic) for topic in self.subscriptions])
        # A GRAFT may have been lost with the old stream; a second one changes nothing.
        hello.graft = self._meshes.topics_of(peer)
        self._send_rpc(peer, hello)

    def _remove_peer(self, peer: Peer) -> None:
        self._meshes.remove(peer, self._now)
        self._scores.remove_peer(peer, self._now)
        self._peers.pop(peer, None)

    def _set_direct(self, peers: Iterable[Peer]) -> None:
        others = [peer for peer in peers if peer != self._peer_id]
        for topic, peer in self._meshes.set_direct(others, self._now):
            rpc = Rpc()
            self._prune(topic, peer, rpc)
            self._send_rpc(peer, rpc)

    def _subscribe(self, topic: str) -> None:
        if not topic.startswith(self._topic_prefix):
            raise RouterError(f"topic {topic!r} is outside {self._topic_prefix!r}")
        if topic in self.subscriptions:
            return
        self.subscriptions[topic] = None
        chosen = self._meshes.join(topic, self._now)
        for peer in self._peers:
            grafts = [topic] if peer in chosen else []
            self._send_rpc(peer, Rpc(subscriptions=[(True, topic)], graft=grafts))

    def _unsubscribe(self, topic: str) -> None:
        if topic not in self.subscriptions:
            return
        del self.subscriptions[topic]
        members = self._meshes.leave(topic, self._now)
        backoff_s = self.parameters.unsubscribe_backoff_s
        for peer in self._peers:
            rpc = Rpc(subscriptions=[(False, topic)])
            if peer in members:
                rpc.prune = [Prune(topic, backoff_s)]
                self._meshes.back_off(topic, peer, backoff_s, self._now)
            self._send_rpc(peer, rpc)

    # -- Received RPCs -----------------------------------------------------------------------------

    def _receive(self, peer: Peer, payload: bytes) -> None:
        state = self._peers.get(peer)
        if state is None:
            self.counters["rpc_from_unknown_peer"] += 1
            return
        if not self._meshes.at_least(peer, self.parameters.scores.graylist_threshold):
            self._ignore(peer, state)
            return
        if not self._allowances.admits_rpc(peer, len(payload), self._now):
            self._count(peer, "rpc_over_limit")
            state.over_limit = True
            return
        try:
            rpc = wire.decode_rpc(payload)
        except WireError:
            self._blame(peer, "malformed", drop_stream=True)
            return
        self._allowances.charge_rpc(peer, rpc, self._now)
        for on, topic in rpc.subscriptions:
            self._on_subscription(peer, state, on, topic)
        for message in rpc.messages:
            self._on_message(peer, message)
        if rpc.has_control:
            self._on_control(peer, state, rpc)

    def _ignore(self, peer: Peer, state: PeerState) -> None:
        """Read nothing that a graylisted peer sends; who goes on and on is told of again."""
        self._count(peer, "graylisted_rpc")
        state.ignored_rpcs += 1
        if state.ignored_rpcs % self.parameters.ignored_rpcs_per_offence == 0:
            self._blame(peer, "graylisted")

    def _on_subscription(self, peer: Peer, state: PeerState, on: bool, topic: str) -> None:
        if not on:
            state.topics.pop(topic, None)
            self._meshes.drop(topic, peer, self._now)
            if topic in self._meshes.fanout:
                self._meshes.fanout[topic].peers.pop(peer, None)
        elif not topic.startswith(self._topic_prefix):
            self.counters["foreign_topic"] += 1
        elif topic not in state.topics and (
            len(state.topics) >= self.parameters.max_topics_per_peer
        ):
            self._blame(peer, "too_many_topics")
        else:
            state.topics.setdefault(topic, self._now)

    def _on_control(self, peer: Peer, state: PeerState, rpc: Rpc) -> None:
        answer = Rpc()
        for topic in rpc.graft:
            self._on_graft(peer, topic, answer)
        for prune in rpc.prune:
            self._on_prune(peer, prune)
        if self._meshes.at_least(peer, self.parameters.scores.gossip_threshold):
            for topic, ids in rpc.ihave:
                self._on_ihave(peer, state, topic, ids, answer)
            self._on_iwant(peer, state, rpc.iwant)
        elif rpc.ihave or rpc.iwant:
            self._count(peer, "gossip_ignored")
        self._send_rpc(peer, answer)
        self._on_idontwant(peer, state, rpc.idontwant)

    def _on_graft(self, peer: Peer, topic: str, answer: Rpc) -> None:
        mesh = self._meshes.members(topic)
        if mesh is None or peer in mesh:
            return  # A topic we are not in gets no answer: answering is an amplifier.
        refusal = self._meshes.refusal(topic, peer, self._now)
        if refusal is None:
            self._meshes.add(topic, peer, self._now)
            return
        if refusal == "graft_in_backoff":
            self._blame(peer, refusal)
        else:
            self.counters[refusal] += 1
        self._prune(topic, peer, answer)

    def _prune(self, topic: str, peer: Peer, rpc: Rpc) -> None:
        backoff_s = self.parameters.prune_backoff_s
        rpc.prune.append(Prune(topic, backoff_s))
        self._meshes.back_off(topic, peer, backoff_s, self._now)

    def _on_prune(self, peer: Peer, prune: Prune) -> None:
        if self._meshes.members(prune.topic) is not None:
            self._meshes.drop(prune.topic, peer, self._now)
            backoff_s = prune.backoff_s or self.parameters.prune_backoff_s
            self._meshes.back_off(prune.topic, peer, backoff_s, self._now)

    def _on_ihave(
        self, peer: Peer, state: PeerState, topic: str, ids: list[bytes], answer: Rpc
    ) -> None:
        state.ihave_received += 1
        if state.ihave_received > self.parameters.max_ihave_per_heartbeat:
            self._count(peer, "ihave_over_limit")
            return
        if topic not in self.subscriptions:
            return
        room = self.parameters.max_iwant_ids_per_heartbeat - state.ids_asked
        wanted = list(islice((i for i in ids if self._is_wanted(i, peer)), max(0, room)))
        for message_id in wanted:
            self._wanted.ask(message_id, peer, self._now)
        if wanted:
            due = self._heartbeats + self.parameters.promise_heartbeats
            self._wanted.watch(self._random.choice(wanted), peer, due)
        state.ids_asked += len(wanted)
        self.counters["iwant_ids_sent"] += len(wanted)
        answer.iwant.extend(wanted)

    def _is_wanted(self, message_id: bytes, peer: Peer) -> bool:
        if self._is_known(message_id) or self._flights.is_unverified(message_id):
            return False
        return self._wanted.may_ask(message_id, peer, self._now)

    def _on_iwant(self, peer: Peer, state: PeerState, ids: list[bytes]) -> None:
        for message_id in ids:
            state.ids_answered += 1
            if state.ids_answered > self.parameters.max_iwant_ids_per_heartbeat:
                self._count(peer, "iwant_over_limit")
                return
            cached = self._history.find(message_id)
            if cached is None:
                continue
            times = cached.answered.get(peer, 0)
            if times >= self.parameters.retransmissions:
                self._count(peer, "iwant_repeated")
                continue
            cached.answered[peer] = times + 1
            self.counters["iwant_ids_answered"] += 1
            self._out.append(Send(peer, cached.frame, cached.priority, message_id))

    def _on_idontwant(self, peer: Peer, state: PeerState, ids: list[bytes]) -> None:
        room = self.parameters.max_idontwant_ids_per_heartbeat - state.idontwant_received
        if len(ids) > room:
            self._count(peer, "idontwant_over_limit")
        expires = self._now + self.parameters.idontwant_heartbeats * self.parameters.heartbeat_ms
        for message_id in ids[: max(0, room)]:
            state.dont_send[message_id] = expires
            self._out.append(Withdraw(peer, message_id))
        state.idontwant_received += len(ids)

    # -- Messages ----------------------------------------------------------------------------------

    def _is_known(self, message_id: bytes) -> bool:
        is_seen = self._seen.get(message_id, -1) >= self._now
        return is_seen or message_id in self._flights.validating

    def _on_message(self, peer: Peer, message: Message) -> None:
        topic, message_id = message.topic, message.id
        self._wanted.keep(message_id)
        if topic not in self.subscriptions:
            self.counters["unsubscribed_topic"] += 1
        elif message.author == self._peer_id:
            self.counters["own_echo"] += 1
        elif len(message.data) > self.parameters.max_message_bytes:
            self._blame_message(peer, topic, "oversize", drop_stream=True)
        elif self._is_known(message_id):
            self._count(peer, "duplicate")
            self._on_late_copy(peer, message)
        elif self._flights.join(peer, message):
            self._count(peer, "duplicate")
        else:
            self._start_verification(peer, message)

    def bringers(self, message_id: bytes) -> tuple[Peer, ...]:
        """Who has brought a message that is being validated."""
        flight = self._flights.validating.get(message_id)
        return () if flight is None else tuple(flight.senders)

    def _on_late_copy(self, peer: Peer, message: Message) -> None:
        """A copy of a message that is validated now or was: P3 counts it if it came in time."""
        if message.id in self._flights.validating:
            self._flights.validating[message.id].senders[peer] = None
        elif self.parameters.scores.mesh_delivery_weight:
            cached = self._history.find(message.id)
            came_ms = self._seen.get(message.id, 0) - self.parameters.seen_ms
            if cached is None or peer in cached.credited:
                return
            if self._now - came_ms <= self.parameters.scores.mesh_delivery_window_ms:
                cached.credited[peer] = None
                self._scores.deliver(message.topic, peer, first=False)

    def _start_verification(self, peer: Peer, message: Message) -> None:
        public_key = wire.signer_key(message, self._public_key_of)
        if public_key is None:
            self._blame_message(peer, message.topic, "invalid_signature")
            return
        if not self._allowances.admits_author(message, self._now):
            # Whoever forwards it may be honest: other forwarders bring other messages.
            self._count(peer, "author_over_limit")
            return
        token = self._flights.begin(peer, message, self._priority(message.topic))
        if token is None:
            # Not marked as seen: an IHAVE offers it again when there is room.
            self.counters["overload_ignored"] += 1
            return
        self._out.append(Verify(token, public_key, message.signed(), message.signature))

    def _on_verified(self, token: int, ok: bool) -> None:
        flight = self._flights.take_unverified(token)
        if flight is None:
            raise RouterError(f"no verification {token} is open")
        message = flight.message
        if not ok or self._is_known(message.id):
            self._flights.release(flight)
            for peer in flight.senders:
                if ok:
                    self._count(peer, "duplicate")
                else:
                    self._blame_message(peer, message.topic, "invalid_signature")
            return
        self._allowances.charge_author(message, self._now)
        self._mark_seen(message.id)
        self._wanted.forget(message.id)
        self._flights.validating[message.id] = flight
        self._announce_dont_want(flight)
        forwarder = next(iter(flight.senders))
        self._out.append(
            Deliver(message.id, message.topic, forwarder, message.author, message.data)
        )

    def _mark_seen(self, message_id: bytes) -> None:
        self._seen.pop(message_id, None)
        self._seen[message_id] = self._now + self.parameters.seen_ms
        if len(self._seen) > self.parameters.max_seen:
            del self._seen[next(iter(self._seen))]

    def _announce_dont_want(self, flight: Flight) -> None:
        """Spare the mesh its copies of a large message, as soon as ours is known to be genuine."""
        message = flight.message
        if len(message.data) < self.parameters.idontwant_bytes:
            return
        frame = wire.encode_frame(wire.encode_rpc(Rpc(idontwant=[message.id])))
        for peer in self._meshes.receivers(message.topic):
            if peer not in flight.senders and self._peers[peer].protocol == PROTOCOL_V12:
                self.counters["idontwant_sent"] += 1
                self._out.append(Send(peer, frame, Priority.CONTROL))

    def _on_validated(self, message_id: bytes, verdict: GossipVerdict) -> None:
        flight = self._flights.validating.pop(message_id, None)
        if flight is None:
            raise RouterError("no validation of that message is open")
        self._flights.release(flight)
        self.counters[f"validated_{verdict.value}"] += 1
        first, message = next(iter(flight.senders)), flight.message
        if verdict is GossipVerdict.REJECT:
            for peer in flight.senders:
                self._blame_message(peer, message.topic, "rejected")
        elif verdict is GossipVerdict.IGNORE:
            self._allowances.charge_author(message, self._now, useless=True)
            self._count(first, "useless")
        else:
            self._forward(flight)
            for peer in flight.senders:
                self._scores.deliver(message.topic, peer, first=peer == first)

    def _forward(self, flight: Flight) -> None:
        message = flight.message
        frame = wire.encode_publish_frame(message.raw)
        cached = Cached(frame, message.topic, flight.priority, credited=flight.senders)
        self._history.remember(message.id, cached)
        for peer in self._meshes.receivers(message.topic):
            if peer in flight.senders or peer == message.author:
                continue
            if message.id in self._peers[peer].dont_send:
                self.counters["suppressed_by_idontwant"] += 1
                continue
            self._out.append(Send(peer, frame, flight.priority, message.id))

    def _publish(self, topic: str, data: bytes) -> None:
        if not topic.startswith(self._topic_prefix):
            raise RouterError(f"topic {topic!r} is outside {self._topic_prefix!r}")
        most = self.parameters.max_message_bytes
        if len(data) > most:
            raise RouterError(f"{len(data)} bytes on {topic}, at most {most}")
        seqno = self._next_seqno.to_bytes(wire.SEQNO_BYTES, "big")
        self._next_seqno += 1
        signed_part = wire.encode_signed_part(self._peer_id, data, seqno, topic)
        signature = self._sign(wire.SIGNING_PREFIX + signed_part)
        frame = wire.encode_publish_frame(wire.encode_message(signed_part, signature))
        message_id = self._peer_id + seqno
        priority = self._priority(topic)
        self._mark_seen(message_id)
        self._history.remember(message_id, Cached(frame, topic, priority))
        self.counters["published"] += 1
        if topic not in self.subscriptions:
            self._meshes.refresh_fanout(topic, self._now)
            self._meshes.fanout[topic].published_ms = self._now
        receivers = self._meshes.receivers(topic)
        if self.parameters.flood_publish and len(data) < self.parameters.idontwant_bytes:
            threshold = self.parameters.scores.publish_threshold
            for peer in self._meshes.subscribed(topic):
                if self._meshes.at_least(peer, threshold):
                    receivers[peer] = self._now
        for peer in receivers:
            self._out.append(Send(peer, frame, priority, message_id))

    # -- Heartbeat ---------------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        self._heartbeats += 1
        self._update_scores()
        self._expire()
        control: dict[Peer, Rpc] = {}
        opportunistic = self._heartbeats % self.parameters.opportunistic_heartbeats == 0
        for topic in self.subscriptions:
            grafted, pruned = self._meshes.maintain(topic, self._now, opportunistic=opportunistic)
            for peer in grafted:
                control.setdefault(peer, Rpc()).graft.append(topic)
            for peer in pruned:
                self._prune(topic, peer, control.setdefault(peer, Rpc()))
        for topic in self._meshes.fanout:
            self._meshes.refresh_fanout(topic, self._now)
        for topic in (*self.subscriptions, *self._meshes.fanout):
            self._offer_history(topic, control)
        for peer, rpc in control.items():
            self._send_rpc(peer, rpc)
        self._history.shift()

    def _update_scores(self) -> None:
        """What is counted once a heartbeat; then all scores fade and are made anew."""
        for peer in self._wanted.broken(self._heartbeats):
            self._count(peer, "broken_promise")
        for peer, state in self._peers.items():
            if state.over_limit:
                self._blame(peer, "over_limit")
        self._scores.decay(self._now)
        threshold = self.parameters.scores.graylist_threshold
        for peer, state in self._peers.items():
            graylisted = not self._meshes.at_least(peer, threshold)
            if graylisted and not state.graylisted:
                self._blame(peer, "graylisted")
            state.graylisted = graylisted

    def _expire(self) -> None:
        now = self._now
        for state in self._peers.values():
            state.begin_heartbeat(now)
        self._meshes.expire(now)
        while self._seen and self._seen[next(iter(self._seen))] < now:
            del self._seen[next(iter(self._seen))]
        heartbeats = self.parameters.history_heartbeats * 2
        self._wanted.expire(now - heartbeats * self.parameters.heartbeat_ms)

    def _offer_history(self, topic: str, control: dict[Peer, Rpc]) -> None:
        """IHAVE of the last windows to peers that may have missed messages.

        These are some of the subscribed ones outside the mesh and, beyond the specification, all
        that joined just now: what was forwarded before they did, nobody would offer them again.
        """
        ids = self._history.ids(topic, self.parameters.gossip_heartbeats)
        if not ids:
            return
        served = self._meshes.receivers(topic)
        recent_ms = self._now - 2 * self.parameters.heartbeat_ms
        newcomers = [peer for peer, since_ms in served.items() if since_ms > recent_ms]
        pool = [
            peer
            for peer in self._meshes.subscribed(topic)
            if peer not in served
            and self._meshes.at_least(peer, self.parameters.scores.gossip_threshold)
        ]
        # A quarter of a large neighbourhood, as v1.1 has it.
        chosen = self._meshes.sample(pool, max(self.parameters.gossip_size, len(pool) // 4))
        for peer in newcomers + chosen:
            limit = self.parameters.max_iwant_ids_per_heartbeat
            offer = self._random.sample(ids, min(limit, len(ids)))
            control.setdefault(peer, Rpc()).ihave.append((topic, offer))
            self.counters["ihave_sent"] += 1

    # -- Answers and blame -------------------------------------------------------------------------

    def _send_rpc(self, peer: Peer, rpc: Rpc) -> None:
        if peer in self._peers:
            for frame in wire.encode_control_frames(rpc):
                self._out.append(Send(peer, frame, Priority.CONTROL))

    def _count(self, peer: Peer, reason: str) -> None:
        self.counters[reason] += 1
        state = self._peers.get(peer)
        if state is not None:
            state.counters[reason] += 1
            points = BEHAVIOUR_POINTS.get(reason)
            if points is not None:
                self._scores.penalise(peer, points)

    def _blame(self, peer: Peer, reason: str, *, drop_stream: bool = False) -> None:
        self._count(peer, reason)
        self._out.append(Misbehaved(peer, reason, drop_stream))

    def _blame_message(
        self, peer: Peer, topic: str, reason: str, *, drop_stream: bool = False
    ) -> None:
        self._scores.invalid(topic, peer)
        self._blame(peer, reason, drop_stream=drop_stream)
