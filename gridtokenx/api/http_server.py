"""HTTP/1.1 on the API's sockets: aiohttp's parser and writer inside this node's limits.

The only module that imports aiohttp. Connections are accepted here, because asyncio's own way logs
hundreds of lines and more when descriptors run out, and a place is found before anything is read.
Source: docs/api.md "Limits".
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11

from gridtokenx.api.calls import Reply
from gridtokenx.api.client_address import TrustedProxies
from gridtokenx.api.connections import (
    HEAD_S,
    IDLE_S,
    HeldBytes,
    Place,
    Places,
    seconds_for,
)
from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.api.rest import error_reply
from gridtokenx.api.site import Request, Site, body_too_large, is_probe
from gridtokenx.home.settings import ApiSettings
from gridtokenx.runtime.housekeeping import house

log = structlog.get_logger(__name__)

ACCEPTS_A_TURN = 32  # Then others have their turn.
PAUSE_S = 1.0
TOLD_AGAIN_S = 60.0
SWEEP_S = 0.5
LINGER_S = 1.0
SHED = 16  # Connections that go when descriptors run out.
WRITE_BUFFER_BYTES = 16 * 1024  # Unsent, of a connection, before its answer counts as slow.
READ_BUFFER_BYTES = 32 * 1024
HELD_BODIES_BYTES = 32 * 2**20  # Of requests whose bodies are arriving.
UNSENT_BYTES = 64 * 2**20  # Of answers that clients are slow to take.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class HttpServer:
    """Serves a site on listening sockets. Lives in one asyncio loop."""

    def __init__(
        self,
        site: Site,
        settings: ApiSettings,
        listeners: list[socket.socket],
        max_connections: int,
    ) -> None:
        self.site = site
        self.proxies = TrustedProxies(settings.trusted_proxies)
        self.places = Places(self.proxies.trusts, max_connections)
        self.max_body_bytes = settings.max_body_kib * 1024
        self.bodies = _held(HELD_BODIES_BYTES, self.max_body_bytes)
        self.unsent = _held(UNSENT_BYTES, settings.max_response_kib * 1024)
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._http = web.Server(self._answer, handler_cancellation=True)
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._told_s = float("-inf")

    def start(self) -> None:
        """Accept from now on."""
        self._sweeper = self._loop.create_task(self._sweep())
        self._accept_again()

    async def stop(self, timeout_s: float) -> None:
        """Take nobody in; let what is answered end, at most for `timeout_s`."""
        self._stop_accepting()
        if self._resume is not None:
            self._resume.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._opening:
            task.cancel()
        self._http.pre_shutdown()
        await self._http.shutdown(timeout_s)

    # -- Connections -------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        self._resume = None
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _stop_accepting(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # Gone before we looked.
            except OSError as error:
                self._pause(error)
                return
            place = self.places.admit(address[0], self._loop.time())
            if place is None:
                accepted.close()
                continue
            task = self._loop.create_task(self._open(accepted, place))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, error: OSError) -> None:
        """No descriptor or memory for one more: whoever waits goes, the others stay."""
        now_s = self._loop.time()
        if now_s - self._told_s >= TOLD_AGAIN_S:
            self._told_s = now_s
            log.warning(
                "api.accepting_paused",
                why=error.strerror or str(error),
                connections=len(self.places),
                hint="raise the limit of open files (ulimit -n, LimitNOFILE)",
            )
        self.places.drop_waiting(SHED)
        self._stop_accepting()
        self._resume = self._loop.call_later(PAUSE_S, self._accept_again)

    async def _open(self, accepted: socket.socket, place: Place) -> None:
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(lambda: _Connection(self, place), accepted)
        except OSError:
            accepted.close()  # Gone before it was served.
            self.places.leave(place)
        except BaseException:
            accepted.close()
            self.places.leave(place)
            raise

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            with house.round("api_sweep"):
                self.places.drop_late(self._loop.time())

    # -- Requests ----------------------------------------------------------------------------------

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        connection = http.protocol
        assert isinstance(connection, _Connection)
        given = http.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        place = connection.place
        body = _Body(http, place, self.bodies, self.max_body_bytes)
        request = self._request(http, body)
        try:
            if place.probe_only and not is_probe(request):
                detail = "too many connections; this one may only ask /health and /ready"
                reply = error_reply(ApiError(TransportCode.BUSY, detail, status=503))
            elif http.version not in (HttpVersion10, HttpVersion11):
                detail = "this node speaks HTTP/1.1 and HTTP/1.0"
                reply = error_reply(ApiError(TransportCode.INVALID_REQUEST, detail, status=505))
            else:
                reply = await self.site.answer(request)
        finally:
            body.release()
        response = _response(reply, request_id)
        if place.probe_only:
            response.force_close()
        return response

    def _request(self, http: web.BaseRequest, body: _Body) -> Request:
        headers = {name.lower(): value for name, value in http.headers.items()}
        if authority := _authority(http.raw_path):
            headers["host"] = authority  # An absolute target says it better: RFC 9112 3.2.2.
        forwarded = http.headers.getall("X-Forwarded-For", ())
        return Request(
            verb="GET" if http.method == "HEAD" else http.method,
            path=http.path,
            query=list(http.query.items()),
            headers=headers,
            client=self.proxies.client_of(http.remote or "", forwarded),
            read_body=body.read,
        )


class _Body:
    """A request's body: paid for before it is read, counted as held until it is released."""

    def __init__(
        self, http: web.BaseRequest, place: Place, held: HeldBytes, max_bytes: int
    ) -> None:
        self._http = http
        self._place = place
        self._held = held
        self._max_bytes = max_bytes
        self._size = 0

    async def read(self, pay: Callable[[int], None]) -> bytes:
        """All of it; `pay` is told of bytes to come. Errors: ApiError, TOO_LARGE, TIMEOUT, BUSY."""
        http, told = self._http, self._http.content_length
        if (told or 0) > self._max_bytes:
            raise body_too_large(self._max_bytes)
        if told is not None:
            pay(told)
        if "Expect" in http.headers and http.version >= HttpVersion11:
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            http.writer.output_size = 0
        try:
            return await self._all(pay if told is None else _is_paid)
        except TimeoutError:
            detail = f"the body stopped arriving after {self._size} bytes"
            raise ApiError(TransportCode.TIMEOUT, detail, status=408) from None
        except web.RequestPayloadError:
            raise ApiError(TransportCode.PARSE_ERROR, "the body is not framed as HTTP") from None

    def release(self) -> None:
        """Nothing of it is needed any more."""
        self._held.give_back(self._place, self._size)
        self._size = 0

    async def _all(self, pay: Callable[[int], None]) -> bytes:
        parts: list[bytes] = []
        started_s = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(started_s + seconds_for(0)) as clock:
            async for part in self._http.content.iter_any():
                if self._size + len(part) > self._max_bytes:
                    raise body_too_large(self._max_bytes)
                if not self._held.take(self._place, len(part)):
                    detail = "too much is arriving at once; try again in a second"
                    raise ApiError(TransportCode.BUSY, detail, status=503)
                self._size += len(part)
                pay(len(part))
                parts.append(part)
                clock.reschedule(started_s + seconds_for(self._size))
        return b"".join(parts)


class _Connection(web.RequestHandler):
    """aiohttp's side of one connection, with a place and deadlines."""

    def __init__(self, server: HttpServer, place: Place) -> None:
        super().__init__(
            server._http,
            loop=server._loop,
            keepalive_timeout=2 * IDLE_S,  # Never: `drop_late` comes before.
            access_log=None,  # type: ignore[arg-type]
            lingering_time=LINGER_S,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            logger=_http_logger(),
        )
        self.place = place
        self._server = server
        self._heading = False  # Part of a request's head is here.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Its place may have been given away while it was opened."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.place.drop = transport.abort
        if self.place.dropped:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The place is free."""
        self._server.places.leave(self.place)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A request has come, or the first part of its head."""
        super().data_received(data)
        if self._messages:
            self.place.work()
        elif data and self.place.waiting_since_s is not None and not self._heading:
            self._heading = True
            self.place.wait(self._loop.time(), HEAD_S)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send; the client takes it at the least rate or is dropped."""
        body = resp.body if isinstance(resp, web.Response) else None
        size = len(body) if isinstance(body, bytes) else 0
        unsent = self._server.unsent
        if not unsent.take(self.place, size):
            detail = "too many answers are waiting to be taken; try again in a second"
            reply = error_reply(ApiError(TransportCode.BUSY, detail, status=503))
            resp, size = _response(reply, resp.headers["X-Request-Id"]), 0
            resp.force_close()
        try:
            self.place.work(self._loop.time() + seconds_for(size))
            return await super().finish_response(request, resp, start_time)
        finally:
            unsent.give_back(self.place, size)
            self._heading = False
            if self._messages:
                self.place.work()
            else:
                self.place.wait(self._loop.time(), IDLE_S)
            if self.place.probe_only:
                self.force_close()  # Others want to probe: nothing more is read, not even to drop.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP is answered and not logged; anything else is a fault of ours."""
        if isinstance(exc, HttpProcessingError):
            detail = f"this is not HTTP/1.1 as this node takes it ({type(exc).__name__})"
            reply = error_reply(ApiError(TransportCode.INVALID_REQUEST, detail))
        else:
            if not isinstance(exc, ConnectionError):
                log.error("api.fault", path=request.path[:80], exc_info=exc)
            detail = "answering failed here; the node's log has the cause"
            reply = error_reply(ApiError(TransportCode.INTERNAL_ERROR, detail))
        response = _response(reply, secrets.token_hex(8))
        response.force_close()
        return response


def _is_paid(_size: int) -> None:
    """The whole body was paid for before it came."""


def _held(total: int, largest: int) -> HeldBytes:
    """An address may have a quarter, and always one of the largest."""
    total = max(total, 4 * largest)
    return HeldBytes(total, total // 4)


def _authority(target: str) -> str:
    """The host and port of an absolute request target; empty for any other."""
    scheme, found, rest = target.partition("://")
    if not found or not scheme.isalpha():
        return ""
    return re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def _http_logger() -> logging.Logger:
    """aiohttp's logger without what any stranger can cause."""
    logger = logging.getLogger("gridtokenx.api.http")
    logger.filters = [_is_ours]
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


def _response(reply: Reply, request_id: str) -> web.Response:
    headers = {**reply.headers, "X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
    if reply.body:
        headers["Content-Type"] = reply.content_type
    return web.Response(status=reply.status, body=reply.body, headers=headers)
