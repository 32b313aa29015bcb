"""Raw HTTP at the API's door: what is no HTTP, slow clients, too many of them, and probes."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from gridtokenx.api import connections, http_server, listening
from gridtokenx.api import server as server_module
from gridtokenx.api import site as site_module
from gridtokenx.api.server import serve
from gridtokenx.api.site import Site
from tests.support.api_node import OPEN_API, MemoryNode
from tests.support.api_server import JSON, rpc, running

BEGUN = (
    b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{"
)
STATUS = b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n"


async def connect(http: httpx.AsyncClient) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", http.base_url.port or 0)


async def read_answer(
    stream: trio.SocketStream, *, is_head: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers with names in lower case, body) of one answer."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = await stream.receive_some(65_536)
        assert part, f"closed after {raw!r}"
        raw += part
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while not is_head and len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive_some(65_536)
    return int(first.split()[1]), headers, body


async def ask(http: httpx.AsyncClient, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    async with await connect(http) as stream:
        await stream.send_all(raw)
        with trio.fail_after(60):
            return await read_answer(stream, is_head=raw.startswith(b"HEAD"))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - another thread's numbers
            await trio.sleep(0.02)


async def is_closed(stream: trio.SocketStream) -> None:
    """Wait until the node has closed it."""
    with trio.fail_after(60):
        try:
            while await stream.receive_some(65_536):
                pass
        except trio.BrokenResourceError:
            return


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # A TLS hello.
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: -5\r\n\r\n",
        b"POST /rpc HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /api/v1/blocks/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/blocks/%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/v1/status HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close\r\n\r\n",
    ],
)
async def test_garbage_on_the_port_is_refused_without_a_traceback(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        stream = await trio.open_tcp_stream("127.0.0.1", http.base_url.port or 0)
        answer = b""
        async with stream:
            await stream.send_all(garbage)
            with trio.move_on_after(3):
                async for part in stream:
                    answer += part
        assert b" 500 " not in answer.partition(b"\r\n")[0]
        assert b"Traceback" not in answer
        assert (await http.get("/api/v1/status")).status_code == 200
    assert [row.getMessage() for row in caplog.records if row.levelno > logging.DEBUG] == []


async def test_requests_in_flight_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        monkeypatch.setattr(site_module, "MAX_REQUESTS", 0)
        busy = await http.get("/api/v1/status")
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
        monkeypatch.setattr(site_module, "MAX_REQUESTS", 1)
        assert (await http.get("/api/v1/status")).status_code == 200


@pytest.mark.parametrize(
    ("lines", "status", "reason"),
    [
        (b"Content-Encoding: gzip\r\n", 415, "invalid_request"),
        (b"Content-Encoding: identity, gzip\r\n", 415, "invalid_request"),
        (b"Content-Encoding: magic\r\n", 415, "invalid_request"),
        (b"Expect: a-miracle\r\n", 417, "invalid_request"),
    ],
)
async def test_what_changes_a_body_on_its_way_is_refused_before_it_is_read(
    tmp_path: Path, lines: bytes, status: int, reason: str
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        head = BEGUN.replace(b"Content-Length", lines + b"Content-Length")
        found, _, body = await ask(http, head)
        assert found == status
        assert httpx.Response(200, content=body).json()["error"]["data"]["reason"] == reason


async def test_an_encoded_transfer_is_not_implemented(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        head = BEGUN[:-1].replace(b"Content-Length: 100", b"Transfer-Encoding: gzip, chunked")
        assert (await ask(http, head))[0] == 501


async def test_who_waits_to_be_told_to_go_on_is_told(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    body = httpx.Request("POST", "http://x", json=rpc("chain_getHead")).content
    head = BEGUN[:-1].replace(b"100", str(len(body)).encode())
    head = head.replace(b"Content-Length", b"Expect: 100-continue\r\nContent-Length")
    async with running(node) as http, await connect(http) as stream:
        with trio.fail_after(60):
            await stream.send_all(head)
            assert await stream.receive_some(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send_all(body)
            status, _, answer = await read_answer(stream)
        assert status == 200
        assert httpx.Response(200, content=answer).json()["result"]["chain"] == "MET"


async def test_who_would_be_refused_is_not_told_to_go_on(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        head = BEGUN.replace(b"100", b"2000000").replace(
            b"Content-L", b"Expect: 100-continue\r\nContent-L"
        )
        assert (await ask(http, head))[0] == 413


async def test_the_limiter_is_asked_before_a_body_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Site", partial(Site, clock=lambda: 0.0))
    node = MemoryNode(tmp_path)
    async with running(node, replace(OPEN_API, rate_per_second=2)) as http:
        large = BEGUN.replace(b"100", b"60000")  # Three tokens and the first: all four.
        async with await connect(http) as stream:
            await stream.send_all(large)  # It is read, so it was paid for.
            await http.get("/health")
            assert (await ask(http, large))[0] == 429  # Nothing of its body had to come.
            assert (await ask(http, STATUS + b"\r\n"))[0] == 429


async def test_bytes_that_come_in_chunks_pay_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Site", partial(Site, clock=lambda: 0.0))
    node = MemoryNode(tmp_path)

    async def parts(count: int) -> Any:
        for _ in range(count):
            yield b" " * 20_000

    async with running(node, replace(OPEN_API, rate_per_second=2)) as http:
        spent = await http.post("/rpc", content=parts(3), headers=JSON)
        assert spent.status_code == 400  # Not JSON, but read; the four tokens are gone.
        refused = await http.post("/rpc", content=parts(1), headers=JSON)
        assert refused.status_code == 429


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /ready?minPeers=0 HTTP/1.0\r\n\r\n", 503),  # The test's blocks are old.
        (b"GET /health HTTP/1.1\r\nHost: 10.42.0.17:8080\r\n\r\n", 200),
        (b"GET /ready HTTP/1.1\r\nHost: 10.42.0.17:8080\r\n\r\n", 503),
        (b"GET /ready?colour=red HTTP/1.1\r\nHost: 10.42.0.17:8080\r\n\r\n", 400),
        (b"HEAD /health HTTP/1.1\r\nHost: kube-probe\r\n\r\n", 200),
        (b"GET /api/v1/status HTTP/1.0\r\n\r\n", 403),
        (b"GET /api/v1/status HTTP/1.1\r\nHost: 10.42.0.17:8080\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: 10.42.0.17:8080\r\n\r\n", 403),
        (b"GET /api/v1/status HTTP/1.1\r\n\r\n", 400),
        (b"POST /health HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n", 403),
        (b"GET http://localhost/api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
        (b"GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 204),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (STATUS + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (STATUS + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (STATUS + b"TE: trailers, deflate\r\n\r\n", 200),
        (STATUS + b"Host: localhost\r\n\r\n", 400),
        (STATUS.replace(b"1.1", b"2.0") + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_every_form_of_request_has_its_answer(
    tmp_path: Path, raw: bytes, status: int
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        found, headers, body = await ask(http, raw)
        assert found == status, body
        if status == 204:
            assert headers["allow"] == "GET, HEAD, POST, OPTIONS"
        if status >= 400:
            assert "error" in httpx.Response(200, content=body).json() or "checks" in body.decode()


async def test_head_has_the_headers_of_get_and_no_body(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        got = await http.get("/api/v1/genesis")
        head = await http.head("/api/v1/genesis")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(got.content))
        assert (await http.head("/nothing")).status_code == 404


async def test_requests_behind_each_other_are_answered_in_order(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    body = httpx.Request("POST", "http://x", json=rpc("chain_getHead")).content
    chunked = BEGUN[:-1].replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
    chunks = b"%x;note=1\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    async with running(node) as http, await connect(http) as stream:
        await stream.send_all(
            STATUS
            + b"\r\n"
            + chunked
            + chunks
            + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        with trio.fail_after(60):
            raw = b""
            while raw.count(b"HTTP/1.1 ") < 3:
                raw += await stream.receive_some(65_536)
        assert [part[:3] for part in raw.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_any_host_may_be_allowed(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    async with running(node, replace(OPEN_API, hosts=("*",))) as http:
        for host in ("node.example", "evil.example:8080", "[2001:db8::1]:8080"):
            answer = await http.get("/api/v1/status", headers={"Host": host})
            assert answer.status_code == 200
        assert (await ask(http, b"GET /api/v1/status HTTP/1.0\r\n\r\n"))[0] == 200


async def test_who_says_nothing_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SAY_SOMETHING_S", 0.2)
    monkeypatch.setattr(http_server, "HEAD_S", 0.2)
    monkeypatch.setattr(http_server, "IDLE_S", 0.2)
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        async with await connect(http) as silent:
            await is_closed(silent)
        async with await connect(http) as half:
            await half.send_all(STATUS)
            await is_closed(half)
        async with await connect(http) as idle:
            await idle.send_all(STATUS + b"\r\n")
            await read_answer(idle)
            await is_closed(idle)


async def test_a_head_has_longer_than_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SAY_SOMETHING_S", 0.2)
    monkeypatch.setattr(http_server, "HEAD_S", 300.0)
    node = MemoryNode(tmp_path)
    async with running(node) as http, await connect(http) as half, await connect(http) as silent:
        await half.send_all(STATUS)
        await is_closed(silent)
        await half.send_all(b"\r\n")
        with trio.fail_after(60):
            assert (await read_answer(half))[0] == 200


async def test_a_body_that_stops_is_told_so_and_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        async with await connect(http) as stream:
            await stream.send_all(BEGUN)
            with trio.fail_after(60):
                assert (await http.get("/api/v1/status")).status_code == 200
        monkeypatch.setattr(connections, "GRACE_S", 0.3)
        status, _, body = await ask(http, BEGUN)
        assert status == 408
        assert b"after 1 bytes" in body


async def test_who_does_not_take_his_answers_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE_S", 0.3)
    monkeypatch.setattr(connections, "MIN_BYTES_PER_S", 10**9)
    node = MemoryNode(tmp_path)
    servers = watch_servers(monkeypatch)
    async with running(node) as http, await connect(http) as stream:
        await stream.send_all((b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n") * 32)
        await stream.send_all((b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n") * 32)
        (server,) = servers
        await until(lambda: not len(server.places))
        assert server.unsent.total_held == 0
        assert (await http.get("/health")).status_code == 200


def watch_servers(monkeypatch: pytest.MonkeyPatch) -> list[http_server.HttpServer]:
    made: list[http_server.HttpServer] = []
    original = http_server.HttpServer.__init__

    def remember(self: http_server.HttpServer, *args: Any) -> None:
        original(self, *args)
        made.append(self)

    monkeypatch.setattr(http_server.HttpServer, "__init__", remember)
    return made


async def test_a_newcomer_takes_the_place_of_who_waits_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_PER_OWN_ADDRESS", 3)
    monkeypatch.setattr(connections, "CHANCE_S", 0.0)
    node = MemoryNode(tmp_path)
    servers = watch_servers(monkeypatch)
    async with running(node) as http, AsyncExitStack() as stack:
        idle = []
        for number in range(3):
            idle.append(await stack.enter_async_context(await connect(http)))
            await until(lambda number=number: len(servers[0].places) == number + 1)
        assert (await ask(http, STATUS + b"\r\n"))[0] == 200
        await is_closed(idle[0])
        assert len(servers[0].places) <= 3


async def test_without_a_place_a_client_may_still_ask_for_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_PER_OWN_ADDRESS", 3)
    node = MemoryNode(tmp_path)
    servers = watch_servers(monkeypatch)
    async with running(node) as http, AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(await connect(http)) for _ in range(3)]
        for stream in busy:
            await stream.send_all(BEGUN.replace(b"Content-L", b"Expect: 100-continue\r\nContent-L"))
            assert await stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        status, headers, _ = await ask(http, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (status, headers["connection"]) == (200, "close")
        status, headers, body = await ask(http, STATUS + b"\r\n")
        assert (status, headers["retry-after"]) == (503, "1")
        assert b"/health" in body
        await busy[0].aclose()
        (server,) = servers
        await until(lambda: len(server.places) == 2)
        assert (await ask(http, STATUS + b"\r\n"))[0] == 200


async def test_bodies_that_arrive_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HELD_BODIES_BYTES", 1)
    node = MemoryNode(tmp_path)
    servers = watch_servers(monkeypatch)
    async with running(node, replace(OPEN_API, max_body_kib=1)) as http, AsyncExitStack() as stack:
        begun = [await stack.enter_async_context(await connect(http)) for _ in range(4)]
        (server,) = servers
        for number, stream in enumerate(begun, 1):
            head = BEGUN.replace(b"100", b"1000") + b" " * 998  # All but the last byte.
            await stream.send_all(head)
            await until(lambda number=number: server.bodies.total_held == 999 * number)
        assert (await http.post("/rpc", content=b" " * 500, headers=JSON)).status_code == 503
        assert (await http.get("/api/v1/status")).status_code == 200
        for stream in begun:
            await stream.aclose()
        await until(lambda: not server.bodies.total_held)


async def test_a_node_without_descriptors_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "PAUSE_S", 0.05)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(http_server.log, "warning", lambda event, **more: told.append(more))
    failures = 5
    accept = socket.socket.accept

    def exhausted(listener: socket.socket) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    node = MemoryNode(tmp_path)
    async with running(node) as http, await connect(http) as idle:
        await idle.send_all(STATUS + b"\r\n")
        await read_answer(idle)
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        assert (await http.get("/api/v1/status")).status_code == 200
        await is_closed(idle)  # Whoever waits goes first.
    assert failures == 0
    assert [row["why"] for row in told] == ["Too many open files"]


async def test_a_name_is_served_on_all_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_addresses", partial(_both, port=0))
    node = MemoryNode(tmp_path)
    async with running(node, replace(OPEN_API, host="localhost")) as http:
        assert http.base_url.host == "127.0.0.1"
        for host in ("127.0.0.1", "[::1]"):
            answer = await http.get(f"http://{host}:{http.base_url.port}/health")
            assert answer.status_code == 200


async def _both(_settings: object, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")
    return [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]


async def test_addresses_that_the_machine_lacks_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def addresses(_settings: object) -> list[tuple[int, tuple[Any, ...]]]:
        return [(socket.AF_INET6, ("2001:db8::7", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]

    monkeypatch.setattr(listening, "_addresses", addresses)
    node = MemoryNode(tmp_path)
    async with running(node, replace(OPEN_API, host="node.example")) as http:
        assert (await http.get("/health")).status_code == 200


async def test_a_name_of_which_one_address_is_taken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(tmp_path)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            monkeypatch.setattr(listening, "_addresses", partial(_both, port=port))
            async with trio.open_nursery() as nursery:
                with pytest.raises(listening.ApiServerError, match="another node may run there"):
                    await nursery.start(serve, node, replace(OPEN_API, host="localhost", port=port))
    finally:
        node.close()
