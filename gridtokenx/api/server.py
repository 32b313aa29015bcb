"""The aiohttp server in its own thread beside trio. The only module that imports aiohttp.

The thread owns an asyncio loop; it reads frozen views and crosses to trio only by submitting. A
taken port is raised to whoever starts it, and its death is an exception in the trio nursery.
Source: surface B, rules (i) to (vii), with the measurements behind them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio
from aiohttp import web
from aiohttp.http import HttpProcessingError

from gridtokenx.api.calls import Reply
from gridtokenx.api.client_address import TrustedProxies
from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.api.readiness import Pulse
from gridtokenx.api.rest import error_reply
from gridtokenx.api.site import Request, Site, body_too_large
from gridtokenx.node.settings import ApiSettings
from gridtokenx.node.view import NodeHandle

MAX_CONNECTIONS = 1024
MAX_REQUESTS = 256
BACKLOG = 256
BODY_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 30
SEND_TIMEOUT_MS = 30_000
STOP_TIMEOUT_S = 3.0
TICK_S = 1.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ApiServerError(Exception):
    """The API cannot be served: the port is taken, or its thread ended by itself."""


async def serve(
    handle: NodeHandle,
    settings: ApiSettings,
    max_connections: int = MAX_CONNECTIONS,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled: `url = await nursery.start(serve, handle, config.api)`.

    Reports the base URL with the real port. Errors: ApiServerError when the address cannot be
    bound (raised into `nursery.start`) or when the API thread dies (raised into the nursery).
    """
    listener = await _bind(settings)
    token = trio.lowlevel.current_trio_token()
    server = _Server(handle, settings, max_connections, listener, token)
    thread = threading.Thread(target=server.run, name="api", daemon=True)
    thread.start()
    try:
        await server.started.wait()
        if not server.ended.is_set():
            task_status.started(_url(settings.host, listener))
        await _watch(server)
    finally:
        server.stop()
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S + 2):
            await server.ended.wait()
    raise ApiServerError("the API thread ended by itself") from server.failure


async def _bind(settings: ApiSettings) -> socket.socket:
    """A bound listening socket. Errors: ApiServerError naming the address and a way out."""
    where = f"{settings.host}:{settings.port}"
    try:
        found = await trio.socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by connections: one whose peer reads nothing does not stay for ever.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_TIMEOUT_MS)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        detail = f"cannot serve the API on {where}: {error.strerror or error}"
        hint = "another node may run there; choose another port with api.port"
        raise ApiServerError(f"{detail}. {hint}") from None
    listener.setblocking(False)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "localhost") else host.strip("[]")
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


async def _watch(server: _Server) -> None:
    """Tick for /health until the thread ends."""
    while not server.ended.is_set():
        due = trio.current_time() + TICK_S
        with trio.move_on_at(due):
            await server.ended.wait()
        server.pulse.tick("trio", trio.current_time() - due)


@dataclass(slots=True)
class _Load:
    requests: int = 0


class _Server:
    """What runs in the API thread. `started` and `ended` are set in trio's."""

    def __init__(
        self,
        handle: NodeHandle,
        settings: ApiSettings,
        max_connections: int,
        listener: socket.socket,
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self.started = trio.Event()
        self.ended = trio.Event()
        self.pulse = Pulse()
        self.failure: BaseException | None = None
        self._handle = handle
        self._settings = settings
        self._max_connections = max_connections
        self._listener = listener
        self._token = token
        self._load = _Load()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """The thread's whole life."""
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - told to trio, which raises it
            self.failure = error
        finally:
            self._listener.close()
            self._tell_trio(self.ended)
            self._tell_trio(self.started)

    def stop(self) -> None:
        """Ask the thread to end; from any thread, at any time."""
        self._stopping.set()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                return  # The loop is closed: the thread has ended already.

    def _tell_trio(self, event: trio.Event) -> None:
        try:
            self._token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            return  # Nobody is left to be told.

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._stopping.is_set():
            return
        site = Site(self._handle, self._settings, self.pulse)
        runner = web.ServerRunner(
            _BoundedServer(
                self._max_connections,
                _handler(site, self._settings, self._load),
                access_log=None,
                keepalive_timeout=IDLE_TIMEOUT_S,
                lingering_time=1.0,
                handler_cancellation=True,
                logger=_http_logger(),
            ),
            handle_signals=False,
            shutdown_timeout=STOP_TIMEOUT_S,
        )
        try:
            await runner.setup()
            await web.SockSite(runner, self._listener, backlog=BACKLOG).start()
            ticking = asyncio.create_task(self._tick())
            self._tell_trio(self.started)
            await self._stop.wait()
            ticking.cancel()
        finally:
            await runner.cleanup()
            site.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.pulse.tick("api", loop.time() - due)


class _BoundedServer(web.Server):
    """Closes a connection there is no room for."""

    def __init__(self, max_connections: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_connections = max_connections

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Counted here: many connections may be accepted before the first one is made."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._max_connections:
            transport.close()


def _http_logger() -> logging.Logger:
    """aiohttp's logger without what any stranger can cause: bad HTTP is answered, not logged."""
    logger = logging.getLogger("gridtokenx.api.http")
    logger.filters = [_is_ours]
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


def _handler(
    site: Site, settings: ApiSettings, load: _Load
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """The function aiohttp calls for each request."""
    max_bytes = settings.max_body_kib * 1024
    proxies = TrustedProxies(settings.trusted_proxies)

    async def handle(http: web.BaseRequest) -> web.StreamResponse:
        given = http.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        if load.requests >= MAX_REQUESTS:
            detail = f"{load.requests} requests are being answered; try again in a second"
            reply = error_reply(ApiError(TransportCode.BUSY, detail, status=503))
            return _response(reply, request_id)
        load.requests += 1
        try:
            reply = await site.answer(_request(http, max_bytes, proxies))
        finally:
            load.requests -= 1
        return _response(reply, request_id)

    return handle


def _request(http: web.BaseRequest, max_bytes: int, proxies: TrustedProxies) -> Request:
    async def read_body() -> bytes:
        return await _read_body(http, max_bytes)

    return Request(
        verb="GET" if http.method == "HEAD" else http.method,
        path=http.path,
        query=list(http.query.items()),
        headers={name.lower(): value for name, value in http.headers.items()},
        client=proxies.client_of(http.remote or "", http.headers.getall("X-Forwarded-For", ())),
        read_body=read_body,
    )


async def _read_body(http: web.BaseRequest, max_bytes: int) -> bytes:
    if (http.content_length or 0) > max_bytes:
        raise body_too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in http.content.iter_chunked(65_536):
                size += len(part)
                if size > max_bytes:
                    raise body_too_large(max_bytes)
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise ApiError(TransportCode.TIMEOUT, detail, status=408) from None
    return b"".join(parts)


def _response(reply: Reply, request_id: str) -> web.Response:
    headers = {**reply.headers, "X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
    if reply.body:
        headers["Content-Type"] = reply.content_type
    return web.Response(status=reply.status, body=reply.body, headers=headers)
