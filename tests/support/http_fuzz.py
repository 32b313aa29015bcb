"""Hostile values for every method, route and head of the HTTP port, and what no answer may be."""

from __future__ import annotations

import json
import random
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gridtokenx.api.methods import METHODS
from gridtokenx.api.rest import PREFIX
from gridtokenx.api.table import Method, Route

ANSWER_S = 60.0
SILENT_S = 0.1
BATCH = 20
TOLD_EVERY = 500
HEX = "ab" * 32
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    100,
    101,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**4000,
    0.0,
    24.0,
    24.5,
    -0.0,
    1e308,
    5e-324,
    "",
    " ",
    "0",
    "-1",
    "007",
    "1e3",
    "0x10",
    "NaN",
    "true",
    "null",
    "MET",
    "met",
    "TH",
    "NOR",
    "ZZZZZZZZ",
    "BKK",
    "BKK-01",
    "BKK-01-SUB001",
    "buy",
    "sell",
    "open",
    "closed",
    "all",
    "solar",
    "any",
    "voting",
    "2026-01-01",
    "9999-12-31",
    "0000-00-00",
    HEX,
    "0x" + HEX,
    HEX[:-1],
    "00",
    "zz",
    "A" * 5000,
    "\x00",
    "\x1b]0;x\x07",
    "../..",
    "gtx1",
    "gtx1" + "q" * 58,
    "\u0e44\u0e17\u0e22",
    "\U0001f600" * 40,
    "\u202e",
    "%00",
    "%s%n",
    "{}",
    "AAAA",
    "AAAAAAAAAAA=",
    "A" * 54 + "==",
    "MET:1:" + HEX,
    "market.price_cap",
    "carbon_credits.solar",
    [],
    [[]],
    [0],
    [""],
    [None],
    [HEX],
    [HEX] * 30,
    {},
    {"": {}},
    {"kind": "parameter_change"},
    {"kind": "parameter_change", "parameter": "carbon_credits.solar", "new_value": "0.7"},
    {"kind": "parameter_change", "parameter": [], "new_value": {}},
)  # fmt: skip
VERBS = (
    "GET",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "TRACE",
    "CONNECT",
    "PRI",
    "get",
    "G\tT",
)  # fmt: skip
TARGETS = (
    "/",
    "/rpc",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/openrpc.json",
    "*",
    "//",
    "/api/v1/status",
    "/api/v1/blocks/%ff%fe",
    "/api/v1/%2e%2e/",
    "/health?" + "a=1&" * 900,
    "/ready?minPeers=0",
    "/ready?minPeers=\u0663",
    "/ready?minPeers=1&minPeers=2",
    "http://localhost/health",
    "http://evil.example/rpc",
    "http://",
    "http://[::1",
    "http://[x]:99999/",
    "?",
    "#",
    "",
    "a",
    "/\x7f",
    "/" + "a" * 9000,
    "/%",
    "/%zz",
    "/a b",
    "/;x=1",
    "/\\..\\",
    "localhost:80",
    "ftp://localhost/",
)  # fmt: skip
HEADERS = (
    "Host: localhost",
    "Host: evil.example",
    "Host:",
    "Host: [::1]:1",
    "Host: a b",
    "Host: \xff",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 1e9",
    "Content-Length: 99999999999999999999",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding : chunked",
    "Content-Type: application/json",
    "Content-Type: text/plain",
    "Content-Type:",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Content-Encoding: br",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Expect:",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Sec-WebSocket-Key1: 1",
    "Sec-WebSocket-Key: x",
    "TE: trailers",
    "Origin: null",
    "Origin: https://evil.example",
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-For: " + "1," * 2000,
    "X-Request-Id: " + "x" * 200,
    "X-Request-Id: \t",
    "If-None-Match: *",
    "Range: bytes=0-0",
    "Cookie: " + "c" * 4000,
    "A" * 9000 + ": 1",
    ": 1",
    "NoColon",
    " folded",
    "X: \x00",
    "X: \r",
    "X:\t",
    "Accept: text/html",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
)  # fmt: skip
BODIES = (
    b"",
    b"{}",
    b"[]",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"zz\r\n",
    b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
)  # fmt: skip
FAULTS = (b"Traceback", b"-32603", b"internal_error")


@dataclass
class Found:
    """What a run has seen."""

    inputs: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def take(self, status: int, body: bytes, what: bytes) -> None:
        """One answer. Status 0: the connection was closed without one."""
        self.statuses[str(status)] += 1
        places = [place for fault in FAULTS if (place := body.find(fault)) >= 0]
        if status == 500 or places:
            shown = body[max(0, min(places, default=0) - 60) :][:300]
            self.faults.append(f"{status} {shown!r} to {what[:2000]!r}")


class Door:
    """One kept connection, made anew when the node closes it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._where = (parts.hostname or "", parts.port or 80)
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, raw: bytes, *, is_head: bool = False, is_last: bool = False) -> tuple[int, bytes]:
        """(status, body) of the answer; (0, b"") where the node closed without one.

        `is_last`: the node may wait for more; then it is left.
        """
        fresh = self._socket is None
        try:
            answer = self._exchange(raw, is_head, is_last)
        except (ConnectionError, EOFError):
            self.close()
            if fresh or is_last:
                return 0, b""  # Closed without an answer, which is for the caller to judge.
            return self.ask(raw, is_head=is_head, is_last=is_last)
        if is_last:
            self.close()
        return answer

    def _exchange(self, raw: bytes, is_head: bool, is_last: bool) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(self._where, ANSWER_S)
        self._socket.sendall(raw)
        return self._answer(is_head, SILENT_S if is_last else ANSWER_S)

    def _answer(self, is_head: bool, patience_s: float) -> tuple[int, bytes]:
        assert self._socket is not None
        if not select.select([self._socket], [], [], patience_s)[0]:
            raise EOFError  # It waits for more, and gets none.
        raw = self._more(b"")
        while b"\r\n\r\n" not in raw:
            raw = self._more(raw)
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = int(lines[0].split()[1])
        if status == 100:
            return self._answer(is_head, patience_s)
        lengths = [int(one[15:]) for one in lines if one.startswith(b"content-length:")]
        while not is_head and lengths and len(body) < lengths[0]:
            body = self._more(body)
        if b"connection: close" in lines:
            self.close()
        return status, body

    def _more(self, raw: bytes) -> bytes:
        assert self._socket is not None
        part = self._socket.recv(262_144)
        if not part:
            raise EOFError
        return raw + part


def fuzz(
    url: str,
    door: str,
    inputs: int,
    seed: int,
    known: tuple[Any, ...] = (),
    told: Callable[[Found], None] = lambda _: None,
) -> Found:
    """Ask `inputs` hostile things at a door of the node at `url`: rpc, rest or heads.

    `known`: values that mean something to this node, such as ids on its chains.
    """
    chance = random.Random(f"{door} {seed}")
    ask = {"rpc": _ask_rpc, "rest": _ask_rest, "heads": _ask_head}[door]
    found, at = Found(), Door(url)
    next_told = 0
    try:
        while found.inputs < inputs:
            ask(at, chance, (*VALUES, *known * 4), found)
            if found.inputs >= next_told:
                next_told = found.inputs + TOLD_EVERY
                told(found)
    finally:
        at.close()
    return found


def _ask_rpc(at: Door, chance: random.Random, values: tuple[Any, ...], found: Found) -> None:
    count = BATCH if chance.random() < 0.9 else 1
    calls = [_call(chance, values) for _ in range(count)]
    document: Any = calls if count > 1 else calls[0]
    if chance.random() < 0.01:
        document = chance.choice(values)
    body = json.dumps(document).encode()
    if chance.random() < 0.02:
        body = _mutated(chance, body)
    status, answer = at.ask(_post(b"/rpc", body))
    found.inputs += count
    found.take(status, answer, body)


def _call(chance: random.Random, values: tuple[Any, ...]) -> dict[str, Any]:
    method = chance.choice(METHODS)
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method.name}
    given = _given(chance, values, method)
    call["params"] = list(given.values()) if chance.random() < 0.2 else given
    if chance.random() < 0.05:
        call[chance.choice(("jsonrpc", "id", "method", "params", "x"))] = chance.choice(values)
    if chance.random() < 0.03:
        del call[chance.choice(list(call))]
    return call


def _given(chance: random.Random, values: tuple[Any, ...], method: Method) -> dict[str, Any]:
    """Most of its parameters, most of them as their kind wants them, so that handlers run."""
    given = {}
    for param in method.params:
        if param.required or chance.random() < 0.5:
            fitting = _fitting(chance, values, param.kind.read)
            given[param.name] = chance.choice(values) if chance.random() < 0.3 else fitting
    if chance.random() < 0.02:
        given[chance.choice(("x", "chain ", "\x00"))] = chance.choice(values)
    return given


def _fitting(chance: random.Random, values: tuple[Any, ...], read: Callable[[Any], Any]) -> Any:
    for value in chance.sample(values, len(values)):
        with suppress(Exception):  # Whatever is wrong with it: the next may fit.
            read(value)
            return value
    return chance.choice(values)


def _routes() -> Iterator[tuple[Method, Route]]:
    for method in METHODS:
        for route in method.routes:
            yield method, route


ROUTES = tuple(_routes())


def _ask_rest(at: Door, chance: random.Random, values: tuple[Any, ...], found: Found) -> None:
    method, route = chance.choice(ROUTES)
    given = _given(chance, values, method)
    own_names = {renamed: name for name, renamed in route.renames.items()}
    given = {own_names.get(name, name): value for name, value in given.items()}
    path = PREFIX
    for part in route.path.strip("/").split("/"):
        if part.startswith("{"):
            value = given.pop(part[1:-1], chance.choice(values))
            part = quote(_text(value), safe=chance.choice(("", "/%")))
        path += "/" + part
    if route.verb == "POST":
        raw = _post(path.encode(), json.dumps(given).encode())
    else:
        query = urlencode([(name, _text(value)) for name, value in given.items()])
        verb = b"HEAD" if chance.random() < 0.05 else b"GET"
        target = f"{path}?{query}"[:7000].encode("ascii", "replace").replace(b" ", b"+")
        raw = verb + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    status, answer = at.ask(raw, is_head=raw.startswith(b"HEAD"))
    found.inputs += 1
    found.take(status, answer, raw)


def _ask_head(at: Door, chance: random.Random, _values: tuple[Any, ...], found: Found) -> None:
    verb = chance.choice(VERBS[:4] * 9 + VERBS)
    lines = [f"{verb} {chance.choice(TARGETS[:7] * 9 + TARGETS)} HTTP/1.1"]
    if chance.random() < 0.05:
        lines[0] = lines[0][:-3] + chance.choice(("1.0", "0.9", "2.0", "9.9", "1.1 ", "x"))
    if chance.random() < 0.95:
        lines.append("Host: localhost")
    lines += chance.sample(HEADERS, chance.choice((0, 1, 1, 1, 2, 4)))
    if chance.random() < 0.02:
        lines += [f"X-{number}: 1" for number in range(1000)]
    raw = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    raw += chance.choice((b"",) * 20 + BODIES)
    if chance.random() < 0.1:
        raw = _mutated(chance, raw)
    status, answer = at.ask(raw, is_head=lines[0].startswith("HEAD"), is_last=True)
    found.inputs += 1
    found.take(status, answer, raw)


def _mutated(chance: random.Random, raw: bytes) -> bytes:
    """A few bytes changed, lost or doubled."""
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[place:place] = bytes([chance.randrange(256)])
            case 1:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 2:
                del changed[place : place + chance.choice((1, 10))]
            case _:
                changed[place:place] = changed[max(0, place - 20) : place]
    return bytes(changed)


def _post(path: bytes, body: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:3000]
