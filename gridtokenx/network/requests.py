"""Request and response over one stream each: status, blocks, bodies.

Source: protocols/networking.md 3. A request is one frame; a response is one frame whose
first byte is OK (the payload follows) or REFUSED (a UTF-8 sentence follows). Frames carry an
unsigned-varint length. Payloads are bytes here; their encoding belongs to the caller.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio

from gridtokenx.network.host import (
    NetworkError,
    Stream,
    StreamHandler,
    format_peer_id,
    read_frame,
    write_frame,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.runtime.stopping import ends_node

OK, REFUSED = 0x00, 0x01
DEADLINE_S = 10.0
MAX_REQUEST_BYTES = 64 << 10
MAX_RESPONSE_BYTES = 8 << 20
MAX_REFUSAL_BYTES = 1_024
MAX_IN_FLIGHT_PER_PEER = 8
MAX_IN_FLIGHT = 64  # of all strangers together
# Answers being written to strangers, who may read slowly: all together, and of one that has others.
MAX_STRANGERS_BYTES = 32 << 20
MAX_STRANGER_BYTES = 8 << 20

Handler = Callable[[PeerId, bytes], Awaitable[bytes]]

log = structlog.get_logger(__name__)


class RequestRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The responder declined; its sentence says why. Raised by a handler and at the caller."""


class StreamOpener(Protocol):
    """The two methods of `Network` that requests need."""

    def handle(self, protocols: list[str], handler: StreamHandler) -> None: ...

    async def open_stream(
        self, peer: PeerId, protocols: list[str], timeout_s: float = 5
    ) -> Stream: ...


class Requests:
    """Asks peers and answers them, within bounds of size, time and number."""

    def __init__(
        self,
        network: StreamOpener,
        network_id: int,
        *,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        on_offence: Callable[[PeerId, str], None] = lambda _peer, _offence: None,
        is_stranger: Callable[[PeerId], bool] = lambda _peer: False,
    ) -> None:
        """`on_offence` is told of peers that break the format, by `reputation.OFFENCES`."""
        self._network = network
        self._network_id = network_id
        self._max_request_bytes = max_request_bytes
        self._max_response_bytes = max_response_bytes
        self._on_offence = on_offence
        self._is_stranger = is_stranger
        self._in_flight: Counter[PeerId] = Counter()
        self._strangers: dict[trio.CancelScope, None] = {}  # in flight, the oldest first
        self._unread: Counter[PeerId] = Counter()  # Bytes that are being written to strangers.
        self.outcomes: Counter[str] = Counter()  # answered refused busy timeout failed broken

    def protocol(self, name: str) -> str:
        """The protocol id of a kind of request, such as `/gridtokenx/7/blocks/1`."""
        return f"/gridtokenx/{self._network_id}/{name}/1"

    def serve(self, name: str, handler: Handler) -> None:
        """Answer requests of one kind. `handler(peer, payload)` returns the payload of the
        response or raises RequestRefused; any other exception is logged and counted, and the
        caller sees a reset stream; but an Ending ends the node."""

        async def answer(stream: Stream) -> None:
            peer = stream.peer
            if self._in_flight[peer] >= MAX_IN_FLIGHT_PER_PEER:
                self.outcomes["busy"] += 1
                await stream.reset()
                return
            self._in_flight[peer] += 1
            outcome = "timeout"
            try:
                with trio.move_on_after(DEADLINE_S):
                    outcome = await self._within_room(stream, name, handler)
            finally:
                self._in_flight[peer] -= 1
                if not self._in_flight[peer]:
                    del self._in_flight[peer]
            self.outcomes[outcome] += 1
            if outcome not in ("answered", "refused"):
                await stream.reset()

        self._network.handle([self.protocol(name)], answer)

    async def _within_room(self, stream: Stream, name: str, handler: Handler) -> str:
        """Answer a trusted peer whatever strangers ask, a stranger in what room they have.

        Of too many strangers the oldest yields: whoever asks and reads is done in no time.
        """
        if not self._is_stranger(stream.peer):
            return await self._answer(stream, name, handler)
        if len(self._strangers) >= MAX_IN_FLIGHT:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        outcome = "busy"
        with trio.CancelScope() as scope:
            self._strangers[scope] = None
            try:
                outcome = await self._answer(stream, name, handler)
            finally:
                self._strangers.pop(scope, None)
        return outcome

    async def _answer(self, stream: Stream, name: str, handler: Handler) -> str:
        """Read one request and write its response; return the outcome to be counted."""
        try:
            payload = await read_frame(stream, self._max_request_bytes)
            try:
                response = await handler(stream.peer, payload)
            except RequestRefused as refusal:
                sentence = str(refusal).encode()[:MAX_REFUSAL_BYTES]
                await write_frame(stream, bytes([REFUSED]) + sentence)
                return "refused"
            except Exception as error:  # a fault of ours must not end the node
                if ends_node(error):
                    raise
                peer = format_peer_id(stream.peer)
                log.error("request.handler_failed", request=name, peer=peer, exc_info=error)
                self._on_offence(stream.peer, "handler_error")
                return "failed"
            if len(response) > self._max_response_bytes:
                log.error("request.response_too_large", request=name, response_bytes=len(response))
                return "failed"
            with self._writing(stream.peer, len(response)) as has_room:
                if not has_room:
                    return "busy"
                await write_frame(stream, bytes([OK]) + response)
        except NetworkError as error:
            if error.reason == "protocol":
                self._on_offence(stream.peer, "malformed_request")
            return "broken"
        return "answered"

    @contextmanager
    def _writing(self, peer: PeerId, size: int) -> Iterator[bool]:
        """Count an answer while it is written; False where strangers have not read enough yet."""
        if not self._is_stranger(peer):
            yield True
            return
        own, every = self._unread[peer], self._unread.total()
        if (own and own + size > MAX_STRANGER_BYTES) or every + size > MAX_STRANGERS_BYTES:
            yield False
            return
        self._unread[peer] += size
        try:
            yield True
        finally:
            self._unread[peer] -= size
            if not self._unread[peer]:
                del self._unread[peer]

    async def request(
        self, peer: PeerId, name: str, payload: bytes, *, timeout_s: float = DEADLINE_S
    ) -> bytes:
        """Ask a connected peer and return the payload of its response.

        Errors: RequestRefused with the peer's sentence; NetworkError `timeout` when there is no
        whole response within `timeout_s`, `closed` when the peer resets or is gone, `protocol`
        when it does not serve this kind or breaks the format; ValueError for a payload above
        the request limit.
        """
        if len(payload) > self._max_request_bytes:
            raise ValueError(f"a request of {len(payload)} bytes is above the limit")
        try:
            with trio.fail_after(timeout_s):
                frame = await self._exchange(peer, name, payload, timeout_s)
        except trio.TooSlowError as error:
            raise NetworkError("timeout", f"no response within {timeout_s} s") from error
        if not frame or frame[0] not in (OK, REFUSED):
            self._on_offence(peer, "malformed_response")
            raise NetworkError("protocol", "the response is neither answer nor refusal")
        if frame[0] == REFUSED:
            raise RequestRefused(frame[1 : 1 + MAX_REFUSAL_BYTES].decode(errors="replace"))
        return frame[1:]

    async def _exchange(self, peer: PeerId, name: str, payload: bytes, timeout_s: float) -> bytes:
        stream = await self._network.open_stream(peer, [self.protocol(name)], timeout_s)
        complete = False
        try:
            await write_frame(stream, payload)
            await stream.close_write()
            frame = await read_frame(stream, self._max_response_bytes + 1)
            complete = True
        except NetworkError as error:
            if error.reason == "protocol":
                self._on_offence(peer, "malformed_response")
            raise
        finally:
            # Neither ending waits for the peer, so a cancelled request is over at once.
            scope = trio.CancelScope()
            scope.shield = True
            with scope:
                await (stream.close() if complete else stream.reset())
        return frame
