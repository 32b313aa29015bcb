"""The streams of gossip: one each way to every connected peer, and what waits to be written.

Each side opens its own outbound stream; the inbound one is served by the registered handler. What
is lost is reopened while the peer is connected. Nothing here waits for a slow peer: its frames
queue, bounded, and the oldest bulk is dropped and counted.
Source: protocols/networking.md 4.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
import trio

from gridtokenx.network.gossipsub.events import (
    PROTOCOLS,
    Event,
    Garbage,
    PeerAdded,
    PeerRemoved,
    Priority,
    RpcReceived,
)
from gridtokenx.network.gossipsub.wire import FrameBuffer, WireError, slices
from gridtokenx.network.host import Network, NetworkError, Stream, format_peer_id
from gridtokenx.network.outbound_queue import OutboundQueue, Turns
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.throttle import PAYER, holding

QUEUE_BYTES = 16 * 1024 * 1024
STRANGERS_QUEUE_BYTES = 4 * 1024 * 1024  # of one stranger, and of all together
STRANGERS_QUEUES_BYTES = 32 * 1024 * 1024
SURE_QUEUE_BYTES = 512 * 1024  # of each of them, whatever the others have
WRITE_TIMEOUT_S = 20  # for one chunk; slower than 100 kbit/s counts as stuck
WRITE_CHUNK_BYTES = 256 * 1024
WRITE_BATCH_BYTES = 64 * 1024  # small frames are written together up to this
READ_CHUNK_BYTES = 64 * 1024
SESSION_WAIT_S = 5
REOPEN_FIRST_S, REOPEN_LAST_S = 0.1, 30.0
HAND_OVER_S = 0.002

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


class GossipStreams:
    """Owned by the gossip service, to whose router `apply` hands what was received."""

    def __init__(
        self,
        network: Network,
        apply: Callable[[Event], None],
        start_soon: Callable[..., None],
        counters: Counter[str],
        *,
        queue_bytes: int,
        max_rpc_bytes: int,
    ) -> None:
        """`start_soon(function, *arguments)` runs a task in the service's nursery."""
        self._network = network
        self._apply, self._start_soon = apply, start_soon
        self._counters = counters
        self._sessions: dict[bytes, _Session] = {}
        self._session_added = trio.Event()
        self._queue_bytes = queue_bytes
        self._strangers_queue_bytes = min(queue_bytes, STRANGERS_QUEUE_BYTES)
        self._turns = Turns()
        self._max_rpc_bytes = max_rpc_bytes
        self._strangers_turn = trio.Lock()

    def open(self, peer: PeerId) -> None:
        """A peer is connected: hold a stream to it open until it is gone."""
        if peer in self._sessions:
            return
        session = _Session(peer, OutboundQueue(self._queue_bytes, self._turns))
        self._sessions[peer] = session
        self._session_added.set()
        self._session_added = trio.Event()
        self._start_soon(self._keep_outbound, session)

    def close(self, peer: PeerId) -> None:
        """A peer is gone."""
        session = self._sessions.pop(peer, None)
        if session is None:
            return
        session.scope.cancel()
        self._turns.forget(session.queue)
        self._drop_inbound(session)
        self._apply(PeerRemoved(peer))

    def forget_all(self) -> None:
        """The service ends. Inbound streams live in the network's nursery, which outlives its."""
        for session in self._sessions.values():
            session.inbound = None
        self._sessions.clear()

    def put(self, peer: bytes, frame: bytes, priority: Priority, message_id: bytes) -> None:
        """Queue a frame; what a stranger does not read is kept within a stranger's bounds."""
        session = self._sessions.get(peer)
        if session is None:
            return
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

    def withdraw(self, peer: bytes, message_id: bytes) -> None:
        """Take back what waits of a message: the peer has it."""
        session = self._sessions.get(peer)
        if session is not None:
            self._counters["outbound_withdrawn"] += session.queue.withdraw(message_id)

    def drop_inbound(self, peer: bytes) -> None:
        """Reset the stream on which a peer misbehaves."""
        session = self._sessions.get(peer)
        if session is not None:
            self._drop_inbound(session)

    def _drop_inbound(self, session: _Session) -> None:
        stream, session.inbound = session.inbound, None
        if stream is not None:
            self._start_soon(_reset, stream)

    # -- Outbound ----------------------------------------------------------------------------------

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

    # -- Inbound -----------------------------------------------------------------------------------

    async def serve_inbound(self, stream: Stream) -> None:
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


async def _reset(stream: Stream) -> None:
    """Reset a stream without waiting long, also while being cancelled."""
    with trio.CancelScope(deadline=trio.current_time() + 1, shield=True):
        await stream.reset()
