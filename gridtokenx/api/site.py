"""What each path of the API port answers, and who may ask; knows HTTP's words but no server.

Host allow-list, CORS off, JSON only, bounded bodies: a web page must not be able to drive a node
that listens on this machine. Source: docs/api.md "Limits".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from prometheus_client import disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from gridtokenx.api import jsonrpc, rest
from gridtokenx.api.calls import Calls, Reply, dump_json
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError, TransportCode, invalid_params
from gridtokenx.api.limiter import Bill, Limiter
from gridtokenx.api.measured import measured
from gridtokenx.api.methods import openapi, openrpc
from gridtokenx.api.readiness import (
    Pulse,
    ReadyCollector,
    checks,
    health_document,
    ready_document,
)
from gridtokenx.home.settings import ApiSettings
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.views.metrics import CallMetrics
from gridtokenx.views.status import NodeHandle

MAX_REQUESTS = 256  # Being worked on.
PROBES_PER_SECOND = 20
METRICS_COST = 5
REFUSAL_S = 0.2  # Whoever asks too much waits for being told so.
ANY_HOST = "*"
_PROBES = ("/health", "/ready")
_READY_NAMES = {"minPeers": 1000, "maxBlocksBehind": 1_000_000}
_ALLOWED_HEADERS = "Content-Type, X-Request-Id"
_ALLOWED_VERBS = "GET, HEAD, POST, OPTIONS"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as far as the site needs it.

    `read_body` tells its argument of bytes before it reads them, and may raise ApiError.
    """

    verb: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]  # Names in lower case.
    client: str
    read_body: Callable[[Callable[[int], None]], Awaitable[bytes]]


class Site:
    """All doors of one node. `close` gives the metrics registry back as it was."""

    def __init__(
        self,
        handle: NodeHandle,
        settings: ApiSettings,
        pulse: Pulse,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._handle = handle
        self._settings = settings
        self._pulse = pulse
        self._hosts = {host.lower() for host in (*settings.hosts, settings.host)}
        self._limiter = Limiter(settings.rate_per_second, clock)
        self._probe_limiter = Limiter(PROBES_PER_SECOND, clock)
        self._in_work = 0
        self._call_metrics = CallMetrics(handle.metrics)
        self._ready_metrics = ReadyCollector(handle, pulse)
        handle.metrics.register(self._ready_metrics)
        self._calls = Calls(Context(handle), settings, self._call_metrics)

    def close(self) -> None:
        """Take the site's collectors out of the node's registry."""
        self._call_metrics.close()
        self._handle.metrics.unregister(self._ready_metrics)

    async def answer(self, request: Request) -> Reply:
        """The reply to any request; never raises for what a caller sends."""
        if is_probe(request):
            return await self._probe(request)
        is_rpc = request.path in ("/", "/rpc") and request.verb == "POST"
        bill = Bill(self._limiter, request.client)
        try:
            bill.open()
            self._check_host(request)
            _check_transfer(request)
            if request.verb == "OPTIONS":
                return self._options(request)
            reply = await measured(self._route(request, is_rpc, bill), bill.spend)
        except ApiError as error:
            reply = (jsonrpc if is_rpc else rest).error_reply(error)
        finally:
            bill.settle(self._handle.network().strangers_price)
        if reply.status == 429:
            await asyncio.sleep(REFUSAL_S)
        return self._with_cors(request, reply)

    async def _route(self, request: Request, is_rpc: bool, bill: Bill) -> Reply:
        body = b""
        if request.verb == "POST":
            _check_content_type(request)
            body = await request.read_body(bill.pay_bytes)
        elif request.verb != "GET":
            detail = f"this node takes GET and POST, not {request.verb[:16]}"
            raise ApiError(TransportCode.METHOD_NOT_FOUND, detail, status=405)
        if self._in_work >= MAX_REQUESTS:
            detail = f"{self._in_work} requests are being answered; try again in a second"
            raise ApiError(TransportCode.BUSY, detail, status=503)
        self._in_work += 1
        try:
            return await self._work(request, is_rpc, body, bill)
        finally:
            self._in_work -= 1

    async def _work(self, request: Request, is_rpc: bool, body: bytes, bill: Bill) -> Reply:
        if is_rpc:
            return await jsonrpc.handle(self._calls, body, bill)
        if request.path.startswith(rest.PREFIX + "/"):
            return await rest.handle(
                self._calls,
                request.verb,
                request.path[len(rest.PREFIX) :],
                request.query,
                body,
                bill,
                request.headers.get("if-none-match", ""),
            )
        return self._page(request, bill)

    async def _probe(self, request: Request) -> Reply:
        """Whoever watches over the node asks by any name, is never refused, and has no rush."""
        try:
            self._probe_limiter.pay(request.client, 1)
        except ApiError:
            await asyncio.sleep(REFUSAL_S)
        try:
            if request.path == "/ready":
                return self._ready(request)
        except ApiError as error:
            return rest.error_reply(error)
        alive, document = health_document(self._handle, self._pulse)
        return Reply(200 if alive else 503, dump_json(document))

    def _page(self, request: Request, bill: Bill) -> Reply:
        match request.path, request.verb:
            case "/metrics", "GET" if self._handle.config.metrics.enabled:
                bill.pay(METRICS_COST)
                text = generate_latest(self._handle.metrics)
                return Reply(200, text, CONTENT_TYPE_PLAIN_0_0_4)
            case "/openrpc.json", "GET":
                return Reply(200, dump_json(openrpc()))
            case "/openapi.json", "GET":
                return Reply(200, dump_json(openapi()))
        detail = f"there is nothing at {request.verb[:16]} {request.path[:80]!a}"
        hint = f"POST /rpc, GET {rest.PREFIX}/status, /metrics, /health, /ready, /openapi.json"
        raise ApiError(TransportCode.METHOD_NOT_FOUND, detail, hint=hint)

    def _ready(self, request: Request) -> Reply:
        given: dict[str, int] = {}
        for name, value in request.query:
            most = _READY_NAMES.get(name)
            if most is None or not (value.isascii() and value.isdigit() and len(value) < 8):
                known = " and ".join(_READY_NAMES)
                raise invalid_params(f"/ready takes whole numbers {known}", parameter=name[:64])
            given[name] = min(int(value), most)
        found = checks(
            self._handle,
            self._pulse,
            min_peers=given.get("minPeers"),
            max_blocks_behind=given.get("maxBlocksBehind", 2),
        )
        document = ready_document(found)
        return Reply(200 if document["ready"] else 503, dump_json(document))

    def _check_host(self, request: Request) -> None:
        """A page that rebinds its name to 127.0.0.1 still sends its own name. Lesson 3."""
        host = request.headers.get("host", "").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name not in self._hosts and ANY_HOST not in self._hosts:
            detail = f"this node does not answer to the name {name[:80]!a}"
            raise ApiError(TransportCode.UNAUTHORIZED, detail, hint="add it to api.hosts")

    def _options(self, request: Request) -> Reply:
        """What may be asked; to a web page of another origin only if it may ask."""
        if "origin" not in request.headers:
            return Reply(204, headers={"Allow": _ALLOWED_VERBS})
        if self._allowed_origin(request) is None:
            detail = "other web origins may not call this node"
            raise ApiError(TransportCode.UNAUTHORIZED, detail, hint="add the origin to api.cors")
        headers = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": "600",
        }
        return self._with_cors(request, Reply(204, headers=headers))

    def _with_cors(self, request: Request, reply: Reply) -> Reply:
        origin = self._allowed_origin(request)
        if origin is None:
            return reply
        allow = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return replace(reply, headers={**reply.headers, **allow})

    def _allowed_origin(self, request: Request) -> str | None:
        origin = request.headers.get("origin")
        return origin if origin in self._settings.cors else None


def is_probe(request: Request) -> bool:
    """Whether it asks for the node's health alone."""
    return request.verb == "GET" and request.path in _PROBES


def _check_transfer(request: Request) -> None:
    """Refuse what changes how a request is read on its way. Errors: ApiError 415, 417, 501."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        detail = f"bodies are taken as they are, not with Content-Encoding {encoding[:40]!a}"
        raise ApiError(TransportCode.INVALID_REQUEST, detail, status=415, hint="send it plain")
    transfer = request.headers.get("transfer-encoding", "chunked").strip().lower()
    if transfer != "chunked":
        detail = f"Transfer-Encoding may be chunked, not {transfer[:40]!a}"
        raise ApiError(TransportCode.INVALID_REQUEST, detail, status=501)
    expected = request.headers.get("expect", "100-continue").strip().lower()
    if expected != "100-continue":
        detail = f"Expect may be 100-continue, not {expected[:40]!a}"
        raise ApiError(TransportCode.INVALID_REQUEST, detail, status=417)


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        detail = f"POST needs Content-Type: application/json, not {given[:60]!a}"
        raise ApiError(TransportCode.INVALID_REQUEST, detail, status=415)


def body_too_large(max_bytes: int) -> ApiError:
    """The request's body is over the limit."""
    detail = f"a request has at most {max_bytes} bytes"
    return ApiError(ErrorCode.TOO_LARGE, detail, hint="send fewer items in a request")
