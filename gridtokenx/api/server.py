"""The API in its own thread beside trio.

The thread owns an asyncio loop; it reads frozen views and crosses to trio only by submitting. A
taken port is raised to whoever starts it, and its death is an exception in the trio nursery.
Source: decision 0021 (with measurements).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import structlog
import trio

from gridtokenx.api.connections import MAX_CONNECTIONS
from gridtokenx.api.http_server import HttpServer
from gridtokenx.api.listening import ApiServerError, listen, urls
from gridtokenx.api.readiness import Pulse
from gridtokenx.api.site import Site
from gridtokenx.home.settings import ApiSettings
from gridtokenx.views.status import NodeHandle

STOP_TIMEOUT_S = 3.0
TICK_S = 1.0

log = structlog.get_logger(__name__)


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
    listeners = await listen(settings)
    found = urls(listeners)
    token = trio.lowlevel.current_trio_token()
    server = _Server(handle, settings, max_connections, listeners, token)
    thread = threading.Thread(target=server.run, name="api", daemon=True)
    thread.start()
    try:
        await server.started.wait()
        if not server.ended.is_set():
            log.info("api.listening", urls=found)
            task_status.started(found[0])
        await _watch(server)
    finally:
        server.stop()
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S + 2):
            await server.ended.wait()
    raise ApiServerError("the API thread ended by itself") from server.failure


async def _watch(server: _Server) -> None:
    """Tick for /health until the thread ends."""
    while not server.ended.is_set():
        due = trio.current_time() + TICK_S
        with trio.move_on_at(due):
            await server.ended.wait()
        server.pulse.tick("trio", trio.current_time() - due)


class _Server:
    """What runs in the API thread. `started` and `ended` are set in trio's."""

    def __init__(
        self,
        handle: NodeHandle,
        settings: ApiSettings,
        max_connections: int,
        listeners: list[socket.socket],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self.started = trio.Event()
        self.ended = trio.Event()
        self.pulse = Pulse()
        self.failure: BaseException | None = None
        self._handle = handle
        self._settings = settings
        self._max_connections = max_connections
        self._listeners = listeners
        self._token = token
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
            for listener in self._listeners:
                listener.close()
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
        http = HttpServer(site, self._settings, self._listeners, self._max_connections)
        try:
            http.start()
            ticking = asyncio.create_task(self._tick())
            self._tell_trio(self.started)
            await self._stop.wait()
            ticking.cancel()
        finally:
            await http.stop(STOP_TIMEOUT_S)
            site.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.pulse.tick("api", loop.time() - due)
