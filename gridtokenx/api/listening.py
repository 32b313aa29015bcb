"""The API's listening sockets: one for each address that its host name means."""

from __future__ import annotations

import errno
import socket
from typing import Any

import trio

from gridtokenx.api.connections import GRACE_S
from gridtokenx.home.settings import ApiSettings

BACKLOG = 256
RECEIVE_BYTES = 64 * 1024  # What the kernel takes before anybody reads, so what one read can bring.
MAX_ADDRESSES = 8
_TRIES_FOR_A_COMMON_PORT = 8
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)

_Where = tuple[int, tuple[Any, ...]]  # family, socket address


class ApiServerError(Exception):
    """The API cannot be served: the port is taken, or its thread ended by itself."""


async def listen(settings: ApiSettings) -> list[socket.socket]:
    """Bound, listening, non-blocking sockets on one port, in the order of the name's addresses.

    A name such as `localhost` may mean several addresses; those that this machine lacks are left
    out. Errors: ApiServerError naming the address and a way out.
    """
    try:
        wanted = await _addresses(settings)
        for _ in range(_TRIES_FOR_A_COMMON_PORT):
            made = _bind_all(wanted)
            if made:
                return made
        raise OSError(errno.EADDRINUSE, "no port is free on all its addresses")
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        detail = f"cannot serve the API on {where}: {error.strerror or error}"
        hint = "another node may run there; choose another port with api.port"
        raise ApiServerError(f"{detail}. {hint}") from None


def urls(listeners: list[socket.socket]) -> list[str]:
    """Where clients on this machine find them: IPv4 first, a wildcard as its loopback address."""
    found = []
    for listener in sorted(listeners, key=lambda one: one.family != socket.AF_INET):
        host, port = listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        found.append(f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}")
    return found


async def _addresses(settings: ApiSettings) -> list[_Where]:
    found = await trio.socket.getaddrinfo(
        settings.host.strip("[]"),
        settings.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    wanted: dict[_Where, None] = dict.fromkeys((int(row[0]), row[4]) for row in found)
    return list(wanted)[:MAX_ADDRESSES]


def _bind_all(wanted: list[_Where]) -> list[socket.socket]:
    """All sockets on the port of the first; [] where a free port of the first is taken elsewhere.

    Errors: OSError of the first address that cannot be had.
    """
    made: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in wanted:
            asked = address[1]
            port = made[0].getsockname()[1] if made and asked == 0 else asked
            try:
                made.append(_bind(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and made and asked == 0:
                    _close(made)
                    return []
                if error.errno not in _ABSENT:
                    raise
                absent = error
    except BaseException:
        _close(made)
        raise
    if not made:
        raise absent or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return made


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # The IPv4 addresses have sockets of their own.
            only = address[0] != "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        # Inherited by connections: one whose peer is gone does not stay for ever.
        timeout_ms = round(3 * GRACE_S * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _close(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
