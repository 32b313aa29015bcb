"""Gossip service: carries the router's bytes over libp2p streams and runs the validators.

Each side opens its own outbound stream; the inbound one is served by the registered handler. A
lost outbound stream is reopened while the peer is connected. Nothing here waits for a slow peer:
its frames queue, bounded, and the oldest bulk is dropped and counted.
Source: protocols/networking.md 4.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import trio

from gridtokenx.network.gossipsub.events import (
    MAX_MESSAGE_BYTES,
    PROTOCOLS,
    Deliver,
    Effect,
    Event,
    Garbage,
    GossipVerdict,
    Heartbeat,
    Misbehaved,
    Origin,
    Parameters,
    PeerAdded,
    PeerRemoved,
    Priority,
    Publish,
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
from gridtokenx.network.gossipsub.router import Router
from gridtokenx.network.gossipsub.scores import PeerScore
from gridtokenx.network.gossipsub.wire import FrameBuffer, WireError, slices
from gridtokenx.network.host import Network, NetworkError, PeerConnected, Stream, format_peer_id
from gridtokenx.network.outbound_queue import OutboundQueue, Turns
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.throttle import PAYER, holding, unpaid
from gridtokenx.primitives import crypto
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.stopping import ends_node

__all__ = [
    "OFFENCES",
    "Gossip",
    "GossipVerdict",
    "Origin",
    "PeerScore",
    "Priority",
    "Validator",
]

QUEUE_BYTES = 16 * 1024 * 1024
STRANGERS_QUEUE_BYTES = 4 * 1024 * 1024  # of one stranger, and of all together
STRANGERS_QUEUES_BYTES = 32 * 1024 * 1024
SURE_QUEUE_BYTES = 512 * 1024  # of each of them, whatever the others have
MAX_RPC_BYTES = MAX_MESSAGE_BYTES + 64 * 1024
VALIDATION_TIMEOUT_S = 5
WRITE_TIMEOUT_S = 20  # for one chunk; slower than 100 kbit/s counts as stuck
WRITE_CHUNK_BYTES = 256 * 1024
WRITE_BATCH_BYTES = 64 * 1024  # small frames are written together up to this
READ_CHUNK_BYTES = 64 * 1024
SESSION_WAIT_S = 5
REOPEN_FIRST_S, REOPEN_LAST_S = 0.1, 30.0
INLINE_VERIFY_BYTES = 64 * 1024  # a thread hop costs as much as verifying this much
HAND_OVER_S = 0.002

Validator = Callable[[Origin, bytes], Awaitable[GossipVerdict] | GossipVerdict]
OnOffence = Callable[[PeerId, str], None]

OFFENCES = frozenset(["malformed", "graylisted"])
"""What is told to `on_offence`; all else is a matter of the score alone."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Session:
    """A connected peer: one queue, one stream each way, any of them may be missing for a while."""

    peer: PeerId
    queue: OutboundQueue
    inbound: Stream | None = None
    added: trio.Event = field(default_factory=trio.Event)  # the router knows the peer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class _Inbound:
    """The unfinished RPC of a stream, one of the things that strangers hold."""

    def __init__(self, buffer: FrameBuffer, drop: Callable[[], None]) -> None:
        self.buffer = buffer
        self.payer = PAYER.get()
        self._drop = drop

    def open_streams(self) -> int:
        return 0

    def held_bytes(self) -> int:
        return len(self.buffer)

    def give_up(self) -> None:
        self._drop()


class Gossip:
    """Publish and receive signed messages on topics.

    `priority` classifies a topic; `seed` feeds the choice of mesh peers;
    `first_seqno` must grow across restarts: pass the time in nanoseconds. `application_score` is
    P5 of a peer's score; `on_offence` hears of a peer that did one of `OFFENCES`. Both must be
    quick and raise nothing.
    """

    def __init__(
        self,
        network: Network,
        *,
        topic_prefix: str,
        seed: int,
        first_seqno: int,
        priority: Callable[[str], Priority],
        parameters: Parameters | None = None,
        queue_bytes: int = QUEUE_BYTES,
        max_rpc_bytes: int = MAX_RPC_BYTES,
        application_score: Callable[[PeerId], float] = lambda _peer: 0.0,
        on_offence: OnOffence = lambda _peer, _reason: None,
    ) -> None:
        self._network = network
        self._router = Router(
            network.peer_id,
            sign=network.sign,
            public_key_of=lambda peer: network.public_key_of(PeerId(peer)),
            topic_prefix=topic_prefix,
            priority=priority,
            seed=seed,
            first_seqno=first_seqno,
            parameters=parameters,
            application_score=lambda peer: application_score(PeerId(peer)),
            is_trusted=lambda peer: network.is_trusted(PeerId(peer)),
        )
        self._on_offence = on_offence
        self._validators: dict[str, Validator] = {}
        self._sessions: dict[bytes, _Session] = {}
        self._session_added = trio.Event()
        self._counters: Counter[str] = Counter()
        self._queue_bytes = queue_bytes
        self._strangers_queue_bytes = min(queue_bytes, STRANGERS_QUEUE_BYTES)
        self._turns = Turns()
        self._max_rpc_bytes = max_rpc_bytes
        self._verifiers = trio.CapacityLimiter(2)
        self._strangers_turn = trio.Lock()
        self._nursery: trio.Nursery | None = None

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far, the router's counts and the service's, by name."""
        return dict(self._router.counters + self._counters)

    def mesh(self, topic: str) -> tuple[PeerId, ...]:
        """Peers in the topic's mesh, sorted; direct peers stand outside it."""
        return tuple(PeerId(peer) for peer in self._router.mesh(topic))

    def peers(self, topic: str) -> tuple[PeerId, ...]:
        """Connected peers that are subscribed to the topic, sorted."""
        return tuple(PeerId(peer) for peer in self._router.topic_peers(topic))

    def peer_counters(self, peer: PeerId) -> dict[str, int]:
        """What a connected peer did wrong or in vain, by reason."""
        return self._router.peer_counters(peer)

    def scores(self) -> dict[PeerId, PeerScore]:
        """The score of each peer with an open stream, with its parts."""
        return {PeerId(peer): score for peer, score in self._router.scores().items()}

    def subscribe(self, topic: str, validator: Validator) -> None:
        """Receive the topic: `validator(origin, data)` gets every new message once.

        It is the delivery too, so it must be bounded; messages of this node are not given to it.
        An exception, but for an Ending, or 5 s without an answer counts as IGNORE.
        Errors: RouterError where the topic is outside the prefix.
        """
        self._apply(Subscribe(topic))
        self._validators[topic] = validator

    def unsubscribe(self, topic: str) -> None:
        """Leave the topic; verdicts still out are dropped."""
        self._validators.pop(topic, None)
        self._apply(Unsubscribe(topic))

    def publish(self, topic: str, data: bytes) -> None:
        """Sign and queue a message to all peers of the topic; never waits.

        Errors: RouterError where the topic is outside the prefix or the data over its limit.
        """
        self._apply(Publish(topic, data))

    def set_direct_peers(self, peers: Sequence[PeerId]) -> None:
        """Always forward to these, whatever the mesh; both sides must list each other."""
        self._apply(SetDirectPeers(tuple(peers)))

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or until the network closes."""
        events = self._network.subscribe()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._network.handle(PROTOCOLS, self._serve_inbound)
            nursery.start_soon(self._beat)
            task_status.started()
            try:
                async for event in events:
                    if isinstance(event, PeerConnected):
                        self._open_session(event.peer, nursery)
                    else:
                        self._close_session(event.peer)
            finally:
                # Inbound streams live in the network's nursery, which outlives this one.
                for session in self._sessions.values():
                    session.inbound = None
                self._sessions.clear()
            nursery.cancel_scope.cancel()

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self._router.parameters.heartbeat_ms / 1_000)
            with house.round("gossip_heartbeat"):
                self._apply(Heartbeat())

    # Effects

    def _apply(self, event: Event) -> None:
        now_ms = int(trio.current_time() * 1_000)
        pending = deque(self._router.handle(event, now_ms))
        while pending:
            answer = self._perform(pending.popleft())
            if answer is not None:
                pending.extend(self._router.handle(answer, now_ms))

    def _perform(self, effect: Effect) -> Event | None:
        """Do one effect; return its answer when that is known at once."""
        match effect:
            case Send(peer, frame, priority, message_id):
                session = self._sessions.get(peer)
                if session is not None:
                    self._put(session, frame, priority, message_id)
            case Withdraw(peer, message_id):
                session = self._sessions.get(peer)
                if session is not None:
                    self._counters["outbound_withdrawn"] += session.queue.withdraw(message_id)
            case Verify(token, public_key, signed, signature):
                if len(signed) <= INLINE_VERIFY_BYTES:
                    return Verified(token, crypto.verify(public_key, signed, signature))
                self._tasks.start_soon(self._verify, effect)
            case Deliver():
                return self._deliver(effect)
            case Misbehaved():
                self._blame(effect)
        return None

    def _put(self, session: _Session, frame: bytes, priority: Priority, message_id: bytes) -> None:
        """Queue a frame; what a stranger does not read is kept within a stranger's bounds."""
        queue = session.queue
        trusted = self._network.is_trusted(session.peer)
        queue.max_bytes = self._queue_bytes if trusted else self._strangers_queue_bytes
        dropped = queue.put(frame, priority, message_id)
        if queue.bytes > SURE_QUEUE_BYTES and not trusted:
            strangers = (
                other.queue.bytes
                for other in self._sessions.values()
                if not self._network.is_trusted(other.peer)
            )
            if sum(strangers) > STRANGERS_QUEUES_BYTES:
                dropped += queue.clear()
        self._counters["outbound_dropped"] += dropped

    def _blame(self, effect: Misbehaved) -> None:
        peer, reason = PeerId(effect.peer), effect.reason
        log.debug("gossip.peer_misbehaved", peer=format_peer_id(peer), why=reason)
        session = self._sessions.get(peer)
        if effect.drop_stream and session is not None:
            self._drop_inbound(session)
        if reason in OFFENCES:
            self._on_offence(peer, reason)

    @property
    def _tasks(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the gossip service does not run")
        return self._nursery

    async def _verify(self, effect: Verify) -> None:
        ok, cpu_s = await trio.to_thread.run_sync(_verify_measured, effect, limiter=self._verifiers)
        payer = PAYER.get()
        if payer is not None:
            payer.pay(cpu_s)
        self._apply(Verified(effect.token, ok))

    def _deliver(self, effect: Deliver) -> Validated | None:
        validator = self._validators.get(effect.topic)
        if validator is None:
            return Validated(effect.message_id, GossipVerdict.IGNORE)
        try:
            bringers = partial(self._router.bringers, effect.message_id)
            origin = Origin(PeerId(effect.author), PeerId(effect.forwarder), bringers)
            with unpaid():
                result = validator(origin, effect.data)
        except Exception as error:  # noqa: BLE001 - what peers send must never end the node
            return Validated(effect.message_id, self._validator_failed(effect.topic, error))
        if isinstance(result, GossipVerdict):
            return Validated(effect.message_id, result)
        self._tasks.start_soon(self._await_verdict, effect, result)
        return None

    async def _await_verdict(self, effect: Deliver, result: Awaitable[GossipVerdict]) -> None:
        verdict = GossipVerdict.IGNORE
        try:
            with trio.move_on_after(VALIDATION_TIMEOUT_S) as scope:
                verdict = await result
            if scope.cancelled_caught:
                self._counters["validator_timeout"] += 1
        except Exception as error:  # noqa: BLE001 - as in _deliver
            verdict = self._validator_failed(effect.topic, error)
        self._apply(Validated(effect.message_id, verdict))

    def _validator_failed(self, topic: str, error: Exception) -> GossipVerdict:
        """Errors: Ending, which is no matter of the message."""
        if ends_node(error):
            raise error
        self._counters["validator_error"] += 1
        log.exception("gossip.validator_failed", topic=topic)
        return GossipVerdict.IGNORE

    # Sessions

    def _open_session(self, peer: PeerId, nursery: trio.Nursery) -> None:
        if peer in self._sessions:
            return
        session = _Session(peer, OutboundQueue(self._queue_bytes, self._turns))
        self._sessions[peer] = session
        self._session_added.set()
        self._session_added = trio.Event()
        nursery.start_soon(self._keep_outbound, session)

    def _close_session(self, peer: PeerId) -> None:
        session = self._sessions.pop(peer, None)
        if session is None:
            return
        session.scope.cancel()
        self._turns.forget(session.queue)
        self._drop_inbound(session)
        self._apply(PeerRemoved(peer))

    def _drop_inbound(self, session: _Session) -> None:
        stream, session.inbound = session.inbound, None
        if stream is not None:
            self._tasks.start_soon(_reset, stream)

    async def _keep_outbound(self, session: _Session) -> None:
        """Hold a stream to the peer open until the session ends, with growing pauses."""
        pause_s = REOPEN_FIRST_S
        with session.scope:
            while True:
                opened_at = trio.current_time()
                try:
                    stream = await self._network.open_stream(session.peer, PROTOCOLS)
                    await self._serve_outbound(session, stream)
                except NetworkError as error:
                    self._counters["outbound_refused"] += 1
                    log.debug("gossip.no_stream", peer=format_peer_id(session.peer), why=str(error))
                if trio.current_time() - opened_at > REOPEN_LAST_S:
                    pause_s = REOPEN_FIRST_S
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, REOPEN_LAST_S)

    async def _serve_outbound(self, session: _Session, stream: Stream) -> None:
        """Write the queue to the stream until that fails or stalls."""
        try:
            if self._sessions.get(session.peer) is not session:
                return  # The peer left while the stream opened.
            outbound = self._network.direction(session.peer) == "outbound"
            ip = self._network.remote_ip(session.peer) or ""
            self._apply(PeerAdded(session.peer, stream.protocol, outbound, ip))
            session.added.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_outbound, stream, nursery.cancel_scope)
                await self._write_queue(session, stream)
                nursery.cancel_scope.cancel()
        finally:
            await _reset(stream)

    async def _write_queue(self, session: _Session, stream: Stream) -> None:
        while True:
            frames = await session.queue.take(WRITE_BATCH_BYTES)
            for start in range(0, len(frames), WRITE_CHUNK_BYTES):
                chunk = frames[start : start + WRITE_CHUNK_BYTES]
                with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                    try:
                        await stream.write(chunk)
                    except NetworkError:
                        self._counters["outbound_lost"] += 1
                        return
                if scope.cancelled_caught:
                    self._counters["outbound_stalled"] += 1
                    return

    async def _watch_outbound(self, stream: Stream, scope: trio.CancelScope) -> None:
        """Notice a reset of a stream on which only we write."""
        try:
            while await stream.read_some(READ_CHUNK_BYTES):
                pass
        except NetworkError:
            self._counters["outbound_reset"] += 1
            scope.cancel()

    async def _serve_inbound(self, stream: Stream) -> None:
        """Feed one inbound stream to the router; a newer stream of the peer replaces it."""
        session = await self._session_of(stream.peer)
        if session is None:
            self._counters["inbound_refused"] += 1
            await _reset(stream)
            return
        self._drop_inbound(session)
        session.inbound = stream
        inbound = _Inbound(FrameBuffer(self._max_rpc_bytes), lambda: self._drop_inbound(session))
        try:
            with holding(inbound):
                await self._read(session, stream, inbound.buffer)
        except NetworkError:
            self._counters["inbound_lost"] += 1
        except WireError:
            self._counters["inbound_garbage"] += 1
            self._apply(Garbage(session.peer))
            await _reset(stream)
        finally:
            if session.inbound is stream:
                session.inbound = None

    async def _read(self, session: _Session, stream: Stream, buffer: FrameBuffer) -> None:
        """Hand the router what comes, in parts between which others get their turn.

        Strangers go one after the other, so that however many they are one part at a time is in
        the way of everybody else.
        """
        while session.inbound is stream:
            chunk = await stream.read_some(READ_CHUNK_BYTES)
            if not chunk:
                return
            parts = (part for payload in buffer.feed(chunk) for part in slices(payload))
            more = True
            while more and session.inbound is stream:
                if self._network.is_trusted(session.peer):
                    await trio.lowlevel.checkpoint()
                    more = self._hand_over(session, stream, parts)
                else:
                    async with self._strangers_turn:
                        more = self._hand_over(session, stream, parts)

    def _hand_over(self, session: _Session, stream: Stream, parts: Iterator[bytes]) -> bool:
        """Hand over parts for a short while; False when none is left. Errors: WireError."""
        until_s = time.perf_counter() + HAND_OVER_S
        while session.inbound is stream and time.perf_counter() < until_s:
            part = next(parts, None)
            if part is None:
                return False
            self._apply(RpcReceived(session.peer, part))
        return True

    async def _session_of(self, peer: PeerId) -> _Session | None:
        """The peer's session once the router knows the peer: a stream may be ahead of both."""
        with trio.move_on_after(SESSION_WAIT_S):
            while peer not in self._sessions:
                await self._session_added.wait()
            session = self._sessions[peer]
            await session.added.wait()
            return session
        return None


def _verify_measured(effect: Verify) -> tuple[bool, float]:
    """Whether a signature is good, and the seconds of CPU that telling took."""
    started_s = time.thread_time()
    ok = crypto.verify(effect.public_key, effect.signed, effect.signature)
    return ok, time.thread_time() - started_s


async def _reset(stream: Stream) -> None:
    """Reset a stream without waiting long, also while being cancelled."""
    with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
        await stream.reset()
