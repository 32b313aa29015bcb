"""Yamux with flow control that holds, one writer, and dead-peer detection.

Faults of py-libp2p 0.8.1 mended here:

- one WINDOW_UPDATE per read call: credit is now returned when half the window was consumed;
- the receive window is not enforced, so a peer can fill memory: a breach ends the connection;
- no dead-peer detection: a ping every KEEPALIVE_INTERVAL_S must be answered in time;
- a cancelled write leaves half a Noise frame on the wire and so ruins the connection: frames are
  queued whole, and one task writes them;
- writes of two tasks to one stream interleave: one lock per stream;
- the reader blocks on its own replies, so two such peers deadlock: replies are queued too;
- streams opened by the peer are not limited;
- pings are answered however many they are.

Source: protocols/networking.md 7.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    GO_AWAY_NORMAL,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from gridtokenx.network.throttle import PAYER, holding

RECEIVE_WINDOW_BYTES = 1 << 20
# A frame of this size fits one Noise message (65,535 bytes less tag and yamux header).
MAX_PAYLOAD_BYTES = 65_535 - 16 - HEADER_SIZE
SEND_QUEUE_BYTES = 256 << 10
SEND_QUEUE_FRAMES = 4_096
FRAMES_PER_CHECKPOINT = 64
MAX_INBOUND_STREAMS = 256
MAX_STRANGERS_STREAMS = 64  # of one connection; see also throttle.MAX_STREAMS
MAX_STREAMS = 1_024
MAX_BUFFERED_BYTES = 32 << 20
KEEPALIVE_INTERVAL_S = 5.0
KEEPALIVE_TIMEOUT_S = 10.0
KEEPALIVE_GRACE_S = 1.0
MAX_PINGS = 50  # of the peer's, between two of ours
WRITE_STALL_TIMEOUT_S = 30.0
CLOSE_FLUSH_S = 0.2
PEER_CLOSE_TIMEOUT_S = 60.0


class ProtocolError(Exception):
    """The peer sent a frame that yamux forbids; the connection ends."""


def _header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length)


class NodeYamuxStream(YamuxStream):
    """One stream. Reads return what has arrived; writes wait for the peer's credit."""

    conn: "NodeYamux"

    def __init__(self, stream_id: int, conn: "NodeYamux", is_initiator: bool) -> None:
        super().__init__(stream_id, conn, is_initiator)
        self.buffer = bytearray()
        self.discarding = False
        self.fin_received = False
        self._write_lock = trio.Lock()
        self._credit_arrived = trio.Event()
        self._data_arrived = trio.Event()
        self._consumed_bytes = 0
        self._window_bytes = DEFAULT_WINDOW_SIZE

    def add_credit(self, increment: int) -> None:
        self.send_window += increment
        self.wake_writer()

    def wake_writer(self) -> None:
        self._credit_arrived.set()
        self._credit_arrived = trio.Event()

    def wake(self) -> None:
        """Let reader and writer look again: something arrived, or the stream is at its end."""
        self.wake_writer()
        self._data_arrived.set()
        self._data_arrived = trio.Event()

    async def write(self, data: bytes) -> None:
        """Send all of `data`; MuxedStreamError when closed, reset, or stalled too long."""
        async with self._write_lock:
            view = memoryview(data)
            while view:
                await self._wait_for_credit()
                size = min(len(view), self.send_window, MAX_PAYLOAD_BYTES)
                self.send_window -= size
                header = _header(TYPE_DATA, 0, self.stream_id, size)
                self.conn.queue_frame(header + bytes(view[:size]))
                view = view[size:]
                await self.conn.wait_until_drained()

    async def _wait_for_credit(self) -> None:
        while True:
            if self.send_closed or self.closed:
                raise MuxedStreamError("stream is closed for sending")
            if self.send_window > 0:
                return
            with trio.move_on_after(WRITE_STALL_TIMEOUT_S) as waiting:
                await self._credit_arrived.wait()
            if waiting.cancelled_caught:
                await self.reset()
                raise MuxedStreamError("the peer stopped reading")

    async def read(self, n: int | None = -1) -> bytes:
        """Return 1..n bytes that have arrived (all of them for None or -1); wait for the first.

        Errors: MuxedStreamEOF after the peer's FIN, MuxedStreamReset after a reset.
        """
        while not self.buffer:
            if self.fin_received:  # before reset: the whole answer may outlive the connection
                raise MuxedStreamEOF("stream is closed for receiving")
            if self.reset_received or self.recv_closed or self.discarding:
                raise MuxedStreamReset("stream was reset")
            await self._data_arrived.wait()
        wanted = len(self.buffer) if n is None or n < 0 else min(n, len(self.buffer))
        data = bytes(self.buffer[:wanted])
        del self.buffer[:wanted]
        self._return_credit(wanted)
        if self.closed and not self.buffer:
            self.conn._finalize_stream_locked(self, fully_closed=True)
        return data

    def _return_credit(self, consumed: int) -> None:
        self._consumed_bytes += consumed
        if self.recv_closed or self._consumed_bytes * 2 < self._window_bytes:
            return
        increment = self._consumed_bytes + RECEIVE_WINDOW_BYTES - self._window_bytes
        self._window_bytes = RECEIVE_WINDOW_BYTES
        self._consumed_bytes = 0
        self.recv_window += increment
        self.conn.queue_frame(_header(TYPE_WINDOW_UPDATE, 0, self.stream_id, increment))

    async def close_write(self) -> None:
        await super().close()
        self.wake_writer()

    async def close(self) -> None:
        """Close both directions: what the peer still sends is dropped, not kept."""
        await super().close()
        self.discarding = True
        self._closed_at = trio.current_time()
        self.buffer.clear()
        self.wake()

    async def reset(self) -> None:
        await super().reset()
        self.buffer.clear()
        self.wake()


class NodeYamux(Yamux):
    """A yamux connection. `start` runs until the connection ends and never raises."""

    streams: dict[int, NodeYamuxStream]

    def __init__(
        self,
        secured_conn: Any,
        peer_id: Any,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator, on_close)
        self.new_stream_send_channel, self.new_stream_receive_channel = trio.open_memory_channel(
            MAX_INBOUND_STREAMS
        )
        self._ping_id = 0
        self._send_queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._frame_queued = trio.Event()
        self._queue_drained = trio.Event()
        self._last_heard_s = 0.0
        self._frames_heard = 0
        self._pings_heard = 0
        self.payer = PAYER.get()
        self._unchecked_bytes = 0
        self.closed_by = ""

    # -- Sending -----------------------------------------------------------------------------------

    def queue_frame(self, frame: bytes) -> None:
        """Append one whole frame to the send queue. Ends the connection when it overflows."""
        if self.event_shutting_down.is_set():
            return
        if len(self._send_queue) >= SEND_QUEUE_FRAMES:  # the peer provokes replies, reads none
            self._stop()
            return
        self._send_queue.append(frame)
        self._queued_bytes += len(frame)
        self._frame_queued.set()

    async def wait_until_drained(self) -> None:
        """Hold a writer back while the queue is long in bytes, or in frames: the rest of the
        frames' room is for replies, which wait for nobody."""
        await trio.lowlevel.checkpoint()
        while (
            self._queued_bytes > SEND_QUEUE_BYTES or len(self._send_queue) > SEND_QUEUE_FRAMES // 4
        ) and not self.event_shutting_down.is_set():
            await self._queue_drained.wait()

    async def _write_frame(self, data: bytes) -> None:
        self.queue_frame(data)
        await self.wait_until_drained()

    async def _send_queued(self) -> None:
        while True:
            await self._frame_queued.wait()
            self._frame_queued = trio.Event()
            while self._send_queue:
                batch = [self._send_queue.popleft()]
                size = len(batch[0])
                while self._send_queue and size + len(self._send_queue[0]) <= 65_519:
                    batch.append(self._send_queue.popleft())
                    size += len(batch[-1])
                await self.secured_conn.write(b"".join(batch))
                self._queued_bytes -= size
                self._queue_drained.set()
                self._queue_drained = trio.Event()

    # -- Life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self.event_started.is_set():
            return
        self._last_heard_s = trio.current_time()
        try:
            with holding(self):
                await self._run()
        finally:
            with trio.CancelScope(shield=True):
                await self._cleanup_on_error()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._guard, self._send_queued)
            nursery.start_soon(self._guard, self._keep_alive)
            nursery.start_soon(self._guard, self._stale_stream_sweeper)
            nursery.start_soon(self._guard, self.handle_incoming)
            self._established = True
            self.event_started.set()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Whatever ends one of the tasks, by return or by error, ends the connection."""
        try:
            await task()
        except Exception as error:  # noqa: BLE001 - bytes from outside enter here: must be total
            self.closed_by = repr(error)
        self._stop()

    def _stop(self) -> None:
        self.event_shutting_down.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _cleanup_on_error(self) -> None:
        streams = list(self.streams.values())
        await super()._cleanup_on_error()
        for stream in streams:
            stream.wake()
        self._queue_drained.set()

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Say goodbye if the peer still reads, then end. Never blocks on a frozen peer."""
        if not self.event_shutting_down.is_set():
            self.queue_frame(_header(TYPE_GO_AWAY, 0, 0, error_code))
            with trio.move_on_after(CLOSE_FLUSH_S):
                while self._queued_bytes and not self.event_shutting_down.is_set():
                    await self._queue_drained.wait()
        self._stop()
        if not self.event_started.is_set():
            await self._cleanup_on_error()
        await trio.lowlevel.checkpoint()

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEPALIVE_INTERVAL_S)
            self._pings_heard = 0
            self._ping_id = (self._ping_id + 1) % 2**32
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            self.queue_frame(_header(TYPE_PING, FLAG_SYN, 0, self._ping_id))
            with trio.move_on_after(KEEPALIVE_TIMEOUT_S):
                await self._ping_event.wait()
                continue
            # When this process itself stood still, the answer may wait in the socket: look first.
            # The same where a stranger must wait until it is read.
            await trio.sleep(KEEPALIVE_GRACE_S)
            unread = self.payer is not None and self.payer.waits
            if self._last_heard_s < self._ping_sent_time and not unread:
                raise ProtocolError("no sign of life")

    # -- Streams -----------------------------------------------------------------------------------

    async def open_stream(self) -> NodeYamuxStream:
        await trio.lowlevel.checkpoint()
        if self.event_shutting_down.is_set():
            raise MuxedConnUnavailable("connection is shutting down")
        if len(self.streams) >= MAX_STREAMS:
            raise MuxedStreamError("too many streams on this connection")
        stream = self._add_stream(self.next_stream_id, is_initiator=True)
        self.next_stream_id += 2
        self.queue_frame(_header(TYPE_WINDOW_UPDATE, FLAG_SYN, stream.stream_id, 0))
        return stream

    def _add_stream(self, stream_id: int, *, is_initiator: bool) -> NodeYamuxStream:
        stream = NodeYamuxStream(stream_id, self, is_initiator)
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = stream.buffer
        self.stream_events[stream_id] = trio.Event()
        return stream

    def _sweep_stale_streams(self, now: float | None = None) -> int:
        """Also abandon streams which we closed and the peer, after a minute, has not."""
        now = trio.current_time() if now is None else now
        for stream in self.streams.values():
            waiting_s = now - stream._closed_at
            if stream.discarding and not stream.closed and waiting_s > PEER_CLOSE_TIMEOUT_S:
                stream.closed = stream.recv_closed = stream.reset_received = True
                self.queue_frame(_header(TYPE_WINDOW_UPDATE, FLAG_RST, stream.stream_id, 0))
        return int(super()._sweep_stale_streams(now))

    # -- Receiving ---------------------------------------------------------------------------------

    async def handle_incoming(self) -> None:
        while True:
            header = await self._next_header()
            if len(header) != HEADER_SIZE:
                return
            self._last_heard_s = trio.current_time()
            version, kind, flags, stream_id, length = struct.unpack(YAMUX_HEADER_FORMAT, header)
            if version != 0 or kind > TYPE_GO_AWAY:
                raise ProtocolError(f"unknown frame version {version} type {kind}")
            if kind == TYPE_GO_AWAY:
                return
            if kind == TYPE_PING:
                self._on_ping(flags, length)
                continue
            stream = self._stream_of(kind, flags, stream_id)
            if kind == TYPE_DATA:
                await self._receive_data(stream, length)
            elif stream is not None:
                if length > 2**31:
                    raise ProtocolError("window update beyond any window")
                stream.add_credit(length)
            if stream is not None:
                self._on_flags(stream, flags)

    async def _next_header(self) -> bytes:
        self._frames_heard += 1
        if self._frames_heard % FRAMES_PER_CHECKPOINT == 0:  # small ones come by thousands at once
            await trio.lowlevel.checkpoint()
        header: bytes = await self.secured_conn.read(HEADER_SIZE)
        return header

    def _on_ping(self, flags: int, nonce: int) -> None:
        if flags & FLAG_SYN:
            self._pings_heard += 1
            if self._pings_heard > MAX_PINGS:
                raise ProtocolError("more pings than anybody needs")
            self.queue_frame(_header(TYPE_PING, FLAG_ACK, 0, nonce))
        elif flags & FLAG_ACK and nonce == self._ping_id:
            self._rtt = trio.current_time() - self._ping_sent_time
            self._ping_event.set()

    def _stream_of(self, kind: int, flags: int, stream_id: int) -> NodeYamuxStream | None:
        """The stream a frame belongs to; None when it is unknown, closed or refused."""
        if not flags & FLAG_SYN:
            return self.streams.get(stream_id)
        ours = (stream_id % 2 == 1) == self.is_initiator_value
        if ours or stream_id == 0 or stream_id in self.streams:
            raise ProtocolError(f"stream id {stream_id} is not the peer's to open")
        if not self._has_room():
            self.queue_frame(_header(TYPE_WINDOW_UPDATE, FLAG_RST, stream_id, 0))
            return None
        stream = self._add_stream(stream_id, is_initiator=False)
        try:
            self.new_stream_send_channel.send_nowait(stream)
        except trio.WouldBlock:  # opened and reset faster than we accept
            del self.streams[stream_id], self.stream_buffers[stream_id]
            del self.stream_events[stream_id]
            self.queue_frame(_header(TYPE_WINDOW_UPDATE, FLAG_RST, stream_id, 0))
            return None
        self.queue_frame(_header(TYPE_WINDOW_UPDATE, FLAG_ACK, stream_id, 0))
        return stream

    def open_streams(self) -> int:
        """How many streams the peer has open."""
        return sum(1 for stream in self.streams.values() if not stream.is_initiator)

    def _has_room(self) -> bool:
        inbound, payer = self.open_streams(), self.payer
        if payer is None or payer.is_trusted:
            return inbound < MAX_INBOUND_STREAMS
        return inbound < MAX_STRANGERS_STREAMS and payer.gate.may_open_stream(payer, inbound)

    async def _receive_data(self, stream: NodeYamuxStream | None, length: int) -> None:
        if stream is None:
            if length > RECEIVE_WINDOW_BYTES:
                raise ProtocolError("data beyond any window for a closed stream")
        elif length > stream.recv_window:
            raise ProtocolError(f"{length} bytes exceed the window of {stream.recv_window}")
        else:
            stream.recv_window -= length
        if length == 0:
            return
        data = await self.secured_conn.read(length)
        if len(data) != length:
            raise ProtocolError("connection closed within a frame")
        self._last_heard_s = trio.current_time()
        if stream is None or stream.stream_id not in self.streams:
            return
        if stream.discarding:  # we closed it: tell the peer at once instead of letting it stall
            await stream.reset()
            return
        stream.buffer += data
        stream.wake()
        self._check_buffered(length)

    def held_bytes(self) -> int:
        """What all streams together have received and nobody has read."""
        return sum(len(stream.buffer) for stream in self.streams.values())

    def give_up(self) -> None:
        """End the connection: strangers hold too much, and this one most."""
        self.closed_by = "too much unread data of strangers"
        self._stop()

    def _check_buffered(self, length: int) -> None:
        """Bound what all streams together hold; looked at once per MiB received."""
        if self.payer is not None:
            self.payer.gate.received(self.payer, length)
        self._unchecked_bytes += length
        if self._unchecked_bytes < 1 << 20:
            return
        self._unchecked_bytes = 0
        if self.held_bytes() > MAX_BUFFERED_BYTES:
            raise ProtocolError("too much unread data on one connection")

    def _on_flags(self, stream: NodeYamuxStream, flags: int) -> None:
        if flags & FLAG_FIN:
            stream.recv_closed = stream.fin_received = True
            stream.closed = stream.closed or stream.send_closed
        if flags & FLAG_RST:
            stream.closed = stream.send_closed = stream.recv_closed = True
            stream.reset_received = True
            stream.fin_received = False
            stream.buffer.clear()
        if flags & (FLAG_FIN | FLAG_RST):
            stream.wake()
            if stream.closed:
                self._finalize_stream_locked(stream, fully_closed=True)
