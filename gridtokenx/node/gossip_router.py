"""Gossipsub v1.1 router with IDONTWANT of v1.2, sans-IO: events in, effects out.

No clock, socket or await: the shell passes monotonic milliseconds, carries bytes, verifies
signatures and runs validators. Only messages that were verified and accepted are forwarded.
Source: protocols/networking.md "Gossip"; libp2p/specs pubsub/gossipsub v1.0, v1.1, v1.2.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from random import Random

from gridtokenx.node import gossip_wire as wire
from gridtokenx.node.gossip_events import (
    PROTOCOL_V12,
    Deliver,
    Effect,
    Event,
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
    Verdict,
    Verified,
    Verify,
)
from gridtokenx.node.gossip_tables import Cached, Fanout, Flight, Flights, History, PeerState
from gridtokenx.node.gossip_wire import Message, Prune, Rpc, WireError

_ED25519_KEY_HEAD = b"\x08\x01\x12\x20"  # protobuf PublicKey: type Ed25519, 32 bytes follow


class Router:
    """State of one node's gossip. Every table is bounded by `Parameters`.

    `sign` is the node's Ed25519 signature; `public_key_of` gives the 32-byte key inlined in a peer
    id, or None; `max_bytes` and `priority` classify a topic; `first_seqno` must grow across
    restarts (time in nanoseconds does). Equal events and seed give equal effects.
    """

    def __init__(
        self,
        peer_id: Peer,
        *,
        sign: Callable[[bytes], bytes],
        public_key_of: Callable[[Peer], bytes | None],
        topic_prefix: str,
        max_bytes: Callable[[str], int],
        priority: Callable[[str], Priority],
        seed: int,
        first_seqno: int,
        parameters: Parameters | None = None,
    ) -> None:
        self.parameters = parameters or Parameters()
        self.counters: Counter[str] = Counter()
        self.subscriptions: dict[str, None] = {}
        self._peer_id = peer_id
        self._sign = sign
        self._public_key_of = public_key_of
        self._topic_prefix = topic_prefix
        self._max_bytes = max_bytes
        self._priority = priority
        self._random = Random(seed)
        self._next_seqno = first_seqno
        self._peers: dict[Peer, PeerState] = {}
        self._direct: dict[Peer, None] = {}
        self._mesh: dict[str, dict[Peer, int]] = {}  # -> when it joined, ms
        self._fanout: dict[str, Fanout] = {}
        self._backoff: dict[tuple[str, Peer], int] = {}  # -> until, ms
        self._seen: dict[bytes, int] = {}  # message id -> expiry, ms; oldest first
        self._asked: dict[bytes, tuple[int, dict[Peer, None]]] = {}  # id -> last asked ms, whom
        limits = self.parameters
        self._history = History(limits.history_heartbeats, limits.max_history_bytes)
        self._flights = Flights(limits.max_in_flight, limits.max_in_flight_bytes)
        self._now = 0
        self._out: list[Effect] = []

    # What the shell may read

    def mesh(self, topic: str) -> tuple[Peer, ...]:
        """Peers in the topic's mesh, sorted; direct peers stand outside it."""
        return tuple(sorted(self._mesh.get(topic, ())))

    def topic_peers(self, topic: str) -> tuple[Peer, ...]:
        """Peers known to be subscribed to the topic, sorted."""
        return tuple(sorted(self._subscribed(topic)))

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
            "mesh": max((len(m) for m in self._mesh.values()), default=0),
            "backoff": len(self._backoff),
            "seen": len(self._seen),
            "asked": len(self._asked),
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
            case PeerAdded(peer, protocol):
                self._add_peer(peer, protocol)
            case PeerRemoved(peer):
                self._remove_peer(peer)
            case Subscribe(topic):
                self._subscribe(topic)
            case Unsubscribe(topic):
                self._unsubscribe(topic)
            case SetDirectPeers(peers):
                self._set_direct(peers)

    # Peers and topics

    def _add_peer(self, peer: Peer, protocol: str) -> None:
        state = self._peers.get(peer)
        if state is None:
            if len(self._peers) >= self.parameters.max_peers:
                self.counters["peer_refused"] += 1
                return
            self._peers[peer] = state = PeerState(protocol)
        else:
            self._renew(peer, state)
        state.protocol = protocol
        hello = Rpc(subscriptions=[(True, topic) for topic in self.subscriptions])
        # A GRAFT may have been lost with the old stream; a second one changes nothing.
        hello.graft = [topic for topic, mesh in self._mesh.items() if peer in mesh]
        self._send_rpc(peer, hello)

    def _renew(self, peer: Peer, state: PeerState) -> None:
        """Treat a peer whose stream was lost as a newcomer: what was under way may be gone."""
        state.topics = dict.fromkeys(state.topics, self._now)
        for served in (*self._mesh.values(), *(fanout.peers for fanout in self._fanout.values())):
            if peer in served:
                served[peer] = self._now

    def _remove_peer(self, peer: Peer) -> None:
        """Forget the peer, except its back-offs: reconnecting must not shorten them."""
        self._peers.pop(peer, None)
        for mesh in self._mesh.values():
            mesh.pop(peer, None)
        for fanout in self._fanout.values():
            fanout.peers.pop(peer, None)

    def _set_direct(self, peers: Iterable[Peer]) -> None:
        self._direct = {peer: None for peer in peers if peer != self._peer_id}
        for topic, mesh in self._mesh.items():
            for peer in [peer for peer in mesh if peer in self._direct]:
                del mesh[peer]
                self._send_rpc(peer, Rpc(prune=[Prune(topic, self.parameters.prune_backoff_s)]))

    def _subscribe(self, topic: str) -> None:
        if not topic.startswith(self._topic_prefix):
            raise RouterError(f"topic {topic!r} is outside {self._topic_prefix!r}")
        if topic in self.subscriptions:
            return
        self.subscriptions[topic] = None
        fanout = self._fanout.pop(topic, None)
        candidates = self._graftable(topic, {})
        chosen = [peer for peer in (fanout.peers if fanout else ()) if peer in candidates]
        rest = [peer for peer in candidates if peer not in chosen]
        chosen += self._sample(rest, self.parameters.mesh_size - len(chosen))
        self._mesh[topic] = dict.fromkeys(chosen, self._now)
        for peer in self._peers:
            grafts = [topic] if peer in chosen else []
            self._send_rpc(peer, Rpc(subscriptions=[(True, topic)], graft=grafts))

    def _unsubscribe(self, topic: str) -> None:
        if topic not in self.subscriptions:
            return
        del self.subscriptions[topic]
        mesh = self._mesh.pop(topic)
        backoff_s = self.parameters.unsubscribe_backoff_s
        for peer in self._peers:
            rpc = Rpc(subscriptions=[(False, topic)])
            if peer in mesh:
                rpc.prune = [Prune(topic, backoff_s)]
                self._back_off(topic, peer, backoff_s)
            self._send_rpc(peer, rpc)

    def _subscribed(self, topic: str) -> list[Peer]:
        return [peer for peer, state in self._peers.items() if topic in state.topics]

    def _graftable(self, topic: str, mesh: dict[Peer, int]) -> dict[Peer, None]:
        """Peers we may GRAFT: a heartbeat after our back-off, when theirs is surely over too."""
        slack = self.parameters.heartbeat_ms
        backed_off = {k for k, until in self._backoff.items() if until + slack > self._now}
        return {
            peer: None
            for peer in self._subscribed(topic)
            if peer not in mesh and peer not in self._direct and (topic, peer) not in backed_off
        }

    def _sample(self, peers: Iterable[Peer], count: int) -> list[Peer]:
        pool = list(peers)
        return self._random.sample(pool, max(0, min(count, len(pool))))

    def _back_off(self, topic: str, peer: Peer, seconds: int) -> None:
        """Keep the longer of the old and the new back-off; the table drops its oldest entry."""
        until = self._now + min(seconds, self.parameters.max_backoff_s) * 1_000
        key = (topic, peer)
        self._backoff[key] = max(self._backoff.pop(key, 0), until)
        if len(self._backoff) > self.parameters.max_backoffs:
            del self._backoff[next(iter(self._backoff))]

    # Received RPCs

    def _receive(self, peer: Peer, payload: bytes) -> None:
        state = self._peers.get(peer)
        if state is None:
            self.counters["rpc_from_unknown_peer"] += 1
            return
        try:
            rpc = wire.decode_rpc(payload)
        except WireError:
            self._blame(peer, "malformed", drop_stream=True)
            return
        for on, topic in rpc.subscriptions:
            self._on_subscription(peer, state, on, topic)
        for message in rpc.messages:
            self._on_message(peer, message)
        self._on_control(peer, state, rpc)

    def _on_subscription(self, peer: Peer, state: PeerState, on: bool, topic: str) -> None:
        if not on:
            state.topics.pop(topic, None)
            self._mesh.get(topic, {}).pop(peer, None)
            if topic in self._fanout:
                self._fanout[topic].peers.pop(peer, None)
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
        for topic, ids in rpc.ihave:
            self._on_ihave(peer, state, topic, ids, answer)
        self._send_rpc(peer, answer)
        self._on_iwant(peer, state, rpc.iwant)
        self._on_idontwant(peer, state, rpc.idontwant)

    def _on_graft(self, peer: Peer, topic: str, answer: Rpc) -> None:
        mesh = self._mesh.get(topic)
        if mesh is None or peer in mesh:
            return  # A topic we are not in gets no answer: answering is an amplifier.
        if peer in self._direct:
            self.counters["graft_from_direct_peer"] += 1
        elif self._backoff.get((topic, peer), 0) > self._now:
            self._blame(peer, "graft_in_backoff")
        elif len(mesh) >= self.parameters.mesh_high:
            self.counters["graft_refused_full"] += 1
        else:
            mesh[peer] = self._now
            return
        self._prune(topic, peer, answer)

    def _prune(self, topic: str, peer: Peer, rpc: Rpc) -> None:
        rpc.prune.append(Prune(topic, self.parameters.prune_backoff_s))
        self._back_off(topic, peer, self.parameters.prune_backoff_s)

    def _on_prune(self, peer: Peer, prune: Prune) -> None:
        mesh = self._mesh.get(prune.topic)
        if mesh is None:
            return
        mesh.pop(peer, None)
        self._back_off(prune.topic, peer, prune.backoff_s or self.parameters.prune_backoff_s)

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
            self._remember_asked(message_id, peer)
        state.ids_asked += len(wanted)
        self.counters["iwant_ids_sent"] += len(wanted)
        answer.iwant.extend(wanted)

    def _is_wanted(self, message_id: bytes, peer: Peer) -> bool:
        """Whether to ask `peer`: each peer once an id, and not while another may be answering."""
        if self._is_known(message_id) or self._flights.is_unverified(message_id):
            return False
        asked_ms, whom = self._asked.get(message_id, (-self.parameters.iwant_retry_ms, {}))
        return peer not in whom and self._now - asked_ms >= self.parameters.iwant_retry_ms

    def _remember_asked(self, message_id: bytes, peer: Peer) -> None:
        _, whom = self._asked.pop(message_id, (0, {}))
        whom[peer] = None
        self._asked[message_id] = (self._now, whom)
        if len(self._asked) > self.parameters.max_asked:
            del self._asked[next(iter(self._asked))]

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
            self._out.append(Send(peer, cached.frame, cached.priority))

    def _on_idontwant(self, peer: Peer, state: PeerState, ids: list[bytes]) -> None:
        room = self.parameters.max_idontwant_ids_per_heartbeat - state.idontwant_received
        if len(ids) > room:
            self._count(peer, "idontwant_over_limit")
        expires = self._now + self.parameters.idontwant_heartbeats * self.parameters.heartbeat_ms
        for message_id in ids[: max(0, room)]:
            state.dont_send[message_id] = expires
        state.idontwant_received += len(ids)

    # Messages

    def _is_known(self, message_id: bytes) -> bool:
        is_seen = self._seen.get(message_id, -1) >= self._now
        return is_seen or message_id in self._flights.validating

    def _on_message(self, peer: Peer, message: Message) -> None:
        topic, message_id = message.topic, message.id
        if topic not in self.subscriptions:
            self.counters["unsubscribed_topic"] += 1
        elif message.author == self._peer_id:
            self.counters["own_echo"] += 1
        elif len(message.data) > self._max_bytes(topic):
            self._blame(peer, "oversize", drop_stream=True)
        elif self._is_known(message_id):
            self._count(peer, "duplicate")
            if message_id in self._flights.validating:
                self._flights.validating[message_id].senders[peer] = None
        elif self._flights.join(peer, message):
            self._count(peer, "duplicate")
        else:
            self._start_verification(peer, message)

    def _start_verification(self, peer: Peer, message: Message) -> None:
        public_key = self._signer_key(message)
        if public_key is None:
            self._blame(peer, "invalid_signature")
            return
        token = self._flights.begin(peer, message, self._priority(message.topic))
        if token is None:
            # Not marked as seen: an IHAVE offers it again when there is room.
            self.counters["overload_ignored"] += 1
            return
        self._out.append(Verify(token, public_key, message.signed(), message.signature))

    def _signer_key(self, message: Message) -> bytes | None:
        """The author's key, or None where seqno, signature or key break StrictSign."""
        public_key = self._public_key_of(message.author)
        if public_key is None or len(message.signature) != 64:
            return None
        if len(message.seqno) != wire.SEQNO_BYTES:
            return None
        if message.key and message.key != _ED25519_KEY_HEAD + public_key:
            return None
        return public_key

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
                    self._blame(peer, "invalid_signature")
            return
        self._mark_seen(message.id)
        self._asked.pop(message.id, None)
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
        for peer in self._receivers(message.topic):
            if peer not in flight.senders and self._peers[peer].protocol == PROTOCOL_V12:
                self.counters["idontwant_sent"] += 1
                self._out.append(Send(peer, frame, Priority.CONTROL))

    def _on_validated(self, message_id: bytes, verdict: Verdict) -> None:
        flight = self._flights.validating.pop(message_id, None)
        if flight is None:
            raise RouterError("no validation of that message is open")
        self._flights.release(flight)
        self.counters[f"validated_{verdict.value}"] += 1
        if verdict is Verdict.REJECT:
            for peer in flight.senders:
                self._blame(peer, "rejected")
        elif verdict is Verdict.ACCEPT:
            message = flight.message
            frame = wire.encode_publish_frame(message.raw)
            self._history.remember(message_id, Cached(frame, message.topic, flight.priority))
            for peer in self._receivers(message.topic):
                if peer in flight.senders or peer == message.author:
                    continue
                if message_id in self._peers[peer].dont_send:
                    self.counters["suppressed_by_idontwant"] += 1
                    continue
                self._out.append(Send(peer, frame, flight.priority))

    def _receivers(self, topic: str) -> dict[Peer, int]:
        """The mesh (or the fanout, where we only publish) and the subscribed direct peers.

        The values tell since when, in ms.
        """
        mesh = self._mesh.get(topic)
        if mesh is None:
            mesh = self._fanout[topic].peers if topic in self._fanout else {}
        direct = [p for p in self._direct if p in self._peers and topic in self._peers[p].topics]
        return {**mesh, **{peer: self._peers[peer].topics[topic] for peer in direct}}

    def _publish(self, topic: str, data: bytes) -> None:
        if not topic.startswith(self._topic_prefix):
            raise RouterError(f"topic {topic!r} is outside {self._topic_prefix!r}")
        if len(data) > self._max_bytes(topic):
            raise RouterError(f"{len(data)} bytes on {topic}, limit {self._max_bytes(topic)}")
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
            self._refresh_fanout(topic)
            self._fanout[topic].published_ms = self._now
        receivers = self._receivers(topic)
        if self.parameters.flood_publish:
            receivers.update(dict.fromkeys(self._subscribed(topic), self._now))
        for peer in receivers:
            self._out.append(Send(peer, frame, priority))

    # Heartbeat

    def _heartbeat(self) -> None:
        self._expire()
        control: dict[Peer, Rpc] = {}
        for topic in self.subscriptions:
            self._maintain_mesh(topic, control)
        for topic in list(self._fanout):
            if self._now - self._fanout[topic].published_ms > self.parameters.fanout_ms:
                del self._fanout[topic]
            else:
                self._refresh_fanout(topic)
        for topic in (*self.subscriptions, *self._fanout):
            self._offer_history(topic, control)
        for peer, rpc in control.items():
            self._send_rpc(peer, rpc)
        self._history.shift()

    def _expire(self) -> None:
        now = self._now
        for state in self._peers.values():
            state.begin_heartbeat(now)
        slack = self.parameters.heartbeat_ms
        self._backoff = {k: until for k, until in self._backoff.items() if until + slack > now}
        while self._seen and self._seen[next(iter(self._seen))] < now:
            del self._seen[next(iter(self._seen))]
        stale = now - self.parameters.history_heartbeats * 2 * self.parameters.heartbeat_ms
        while self._asked and self._asked[next(iter(self._asked))][0] < stale:
            del self._asked[next(iter(self._asked))]

    def _maintain_mesh(self, topic: str, control: dict[Peer, Rpc]) -> None:
        mesh, limits = self._mesh[topic], self.parameters
        small = len(self._peers) < limits.mesh_size
        if len(mesh) < (limits.mesh_low_small_network if small else limits.mesh_low):
            candidates = self._graftable(topic, mesh)
            for peer in self._sample(candidates, limits.mesh_size - len(mesh)):
                mesh[peer] = self._now
                control.setdefault(peer, Rpc()).graft.append(topic)
        elif len(mesh) > limits.mesh_high:
            for peer in self._sample(mesh, len(mesh) - limits.mesh_size):
                del mesh[peer]
                self._prune(topic, peer, control.setdefault(peer, Rpc()))

    def _refresh_fanout(self, topic: str) -> None:
        fanout = self._fanout.setdefault(topic, Fanout({}, self._now))
        missing = self.parameters.mesh_size - len(fanout.peers)
        pool = [
            peer
            for peer in self._subscribed(topic)
            if peer not in fanout.peers and peer not in self._direct
        ]
        fanout.peers.update(dict.fromkeys(self._sample(pool, missing), self._now))

    def _offer_history(self, topic: str, control: dict[Peer, Rpc]) -> None:
        """IHAVE of the last windows to peers that may have missed messages.

        These are some of the subscribed ones outside the mesh and, beyond the specification, all
        that joined just now: what was forwarded before they did, nobody would offer them again.
        """
        ids = self._history.ids(topic, self.parameters.gossip_heartbeats)
        if not ids:
            return
        served = self._receivers(topic)
        recent_ms = self._now - 2 * self.parameters.heartbeat_ms
        newcomers = [peer for peer, since_ms in served.items() if since_ms > recent_ms]
        pool = [peer for peer in self._subscribed(topic) if peer not in served]
        # A quarter of a large neighbourhood, as v1.1 has it.
        chosen = self._sample(pool, max(self.parameters.gossip_size, len(pool) // 4))
        for peer in newcomers + chosen:
            limit = self.parameters.max_iwant_ids_per_heartbeat
            offer = self._random.sample(ids, min(limit, len(ids)))
            control.setdefault(peer, Rpc()).ihave.append((topic, offer))
            self.counters["ihave_sent"] += 1

    # Answers and blame

    def _send_rpc(self, peer: Peer, rpc: Rpc) -> None:
        payload = wire.encode_rpc(rpc)
        if payload and peer in self._peers:
            self._out.append(Send(peer, wire.encode_frame(payload), Priority.CONTROL))

    def _count(self, peer: Peer, reason: str) -> None:
        self.counters[reason] += 1
        state = self._peers.get(peer)
        if state is not None:
            state.counters[reason] += 1

    def _blame(self, peer: Peer, reason: str, *, drop_stream: bool = False) -> None:
        self._count(peer, reason)
        self._out.append(Misbehaved(peer, reason, drop_stream))
