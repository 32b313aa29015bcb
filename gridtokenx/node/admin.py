"""The node's admin socket: `data/node.sock`, a Unix socket only the node's user may open.

One JSON object a line, one answer a line: `{"do": "log-level", "level": "debug"}` is answered by
`{"ok": true}` or `{"error": "..."}`. Commands: `ping`, `resources`, `shutdown`, `log-level`,
`vouch`, those of `admin_network`, and where `node.admin_faults` is set `faults`, which replaces the
link faults of `network.link_faults`. Never on TCP; lines, connections and time are bounded. Source:
docs/node-operation.md "The admin socket".
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

from gridtokenx.home.admin_socket import MAX_LINE_BYTES, SOCKET_NAME, AdminError, short_name
from gridtokenx.network.host import Network, parse_peer_id
from gridtokenx.network.link_faults import MAX_BLOCKED, MAX_DELAY_MS
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.admin_network import NetworkCommands
from gridtokenx.node.life import VouchRefused
from gridtokenx.runtime.housekeeping import house

MAX_CONNECTIONS = 8
IDLE_SECONDS = 30.0
LEFT = (trio.BrokenResourceError, trio.ClosedResourceError)
LEVELS = ("debug", "info", "warning", "error")

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

log = structlog.get_logger(__name__)


class Admin:
    """Serves the commands. `set_level` changes the log level of the process; `vouch(chain)` takes
    the operator's word for the validator key and says what comes of it, or raises VouchRefused.
    """

    def __init__(
        self,
        folder: Path,
        network: Network,
        set_level: Callable[[str], None],
        vouch: Callable[[str], str],
        *,
        allow_faults: bool,
    ) -> None:
        self._path = folder / SOCKET_NAME
        self._network = network
        self._set_level = set_level
        self._vouch = vouch
        self._commands: dict[str, Command] = {
            "ping": self._ping,
            "resources": self._resources,
            "shutdown": self._shutdown,
            "log-level": self._change_level,
            "vouch": self._take_word,
            **NetworkCommands(network).by_name(),
        }
        if allow_faults:
            self._commands["faults"] = self._change_faults
        self._connections = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; without a socket where the system has none to give."""
        try:
            listener = _listen(self._path)
        except OSError as error:
            log.warning("admin.no_socket", path=str(self._path), why=str(error))
            task_status.started()
            return
        try:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection. Whatever it sends or does ends at most itself."""
        try:
            self._connections.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            with house.round("admin_socket"), suppress(*LEFT):
                await self._converse(stream)
        finally:
            self._connections.release()

    async def _converse(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while True:
            with trio.move_on_after(IDLE_SECONDS):
                chunk = await stream.receive_some(MAX_LINE_BYTES)
                if not chunk:
                    return
                buffer += chunk
                while b"\n" in buffer:
                    line, _, rest = bytes(buffer).partition(b"\n")
                    buffer = bytearray(rest)
                    await stream.send_all(json.dumps(await self._answer(line)).encode() + b"\n")
                if len(buffer) <= MAX_LINE_BYTES:
                    continue
            return

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise AdminError("a command is a JSON object")
            perform = self._commands.get(str(command.get("do")))
            if perform is None:
                raise AdminError(f"commands here are {', '.join(self._commands)}")
            return await perform(command)
        except AdminError as error:
            return {"error": str(error)}
        except (ValueError, RecursionError) as error:
            return {"error": f"no JSON: {error}"}

    # -- Commands ----------------------------------------------------------------------------------

    async def _ping(self, _command: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "pid": os.getpid()}

    async def _resources(self, _command: dict[str, Any]) -> dict[str, Any]:
        """What the process counts itself: living trio tasks, Python threads, blocks of memory.

        `python_blocks` tells memory that Python holds from what its allocator keeps for later.
        """
        return {
            "ok": True,
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "threads": threading.active_count(),
            "python_blocks": sys.getallocatedblocks(),
        }

    async def _shutdown(self, _command: dict[str, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)  # The one way in which a node ends in order.
        return {"ok": True}

    async def _change_level(self, command: dict[str, Any]) -> dict[str, Any]:
        level = command.get("level")
        if level not in LEVELS:
            raise AdminError(f"level is one of {', '.join(LEVELS)}")
        self._set_level(str(level))
        log.info("admin.log_level_set", level=level)
        return {"ok": True}

    async def _take_word(self, command: dict[str, Any]) -> dict[str, Any]:
        """That the validator key has never signed for the present incarnation of `chain`."""
        try:
            return {"ok": True, "told": self._vouch(str(command.get("chain")))}
        except VouchRefused as error:
            raise AdminError(str(error)) from None

    async def _change_faults(self, command: dict[str, Any]) -> dict[str, Any]:
        """`block` (peer ids) and `delay_ms`, each left as it is where it is not given."""
        blocked, delay_ms = command.get("block"), command.get("delay_ms")
        if delay_ms is not None:
            if type(delay_ms) is not int or not 0 <= delay_ms <= MAX_DELAY_MS:
                raise AdminError(f"delay_ms is 0 to {MAX_DELAY_MS}")
            self._network.faults.delay_ms = delay_ms
        if blocked is not None:
            await self._network.block(_peers(blocked))
        faults = self._network.faults
        log.warning("admin.faults_set", blocked=len(faults.blocked), delay_ms=faults.delay_ms)
        return {"ok": True, "blocked": len(faults.blocked), "delay_ms": faults.delay_ms}


def _peers(value: Any) -> frozenset[PeerId]:
    if not isinstance(value, list) or len(value) > MAX_BLOCKED:
        raise AdminError(f"block is a list of at most {MAX_BLOCKED} peer ids")
    try:
        return frozenset(parse_peer_id(str(one)) for one in value)
    except ValueError as error:
        raise AdminError(str(error)) from None


def _listen(path: Path) -> trio.SocketListener:
    """Bind the socket with mode 0600. What a dead node left is removed: the folder's lock is ours.

    Errors: OSError.
    """
    path.unlink(missing_ok=True)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(raw.fileno(), 0o600)
        with short_name(path) as name:
            raw.bind(name)
        path.chmod(0o600)
        raw.listen(MAX_CONNECTIONS)
    except OSError:
        raw.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))
