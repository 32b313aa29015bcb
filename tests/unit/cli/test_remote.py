"""What a command says when something answers that is no node, or a node that answers badly."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gridtokenx.cli.output import ExitCode

GOOD_ERROR = {"code": 1, "message": "no", "data": None}
HEAD = ["chain", "head", "MET"]


def bad(ran: Any) -> None:
    assert ran.code == ExitCode.UNREACHABLE, ran.stderr
    assert ran.stderr.startswith("error [cli/bad_answer]: what answers at http://127.0.0.1:")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "answer",
    [
        {"error": None},
        {"result": {}, "error": None},
        {"result": {}, "error": GOOD_ERROR},
        {},
        {"error": "no"},
        {"error": {}},
        {"error": {"code": "1", "message": "no"}},
        {"error": {"code": 1}},
        {"error": {"code": 1, "message": "no", "data": []}},
        {"id": 77, "result": {}},
        {"id": 77, "error": GOOD_ERROR},
        {"id": None, "result": {}},
        {"result": None},
        {"result": "head"},
        {"result": {"chain": "MET"}},
        [],
        5,
        None,
    ],
)
def test_an_answer_that_is_none(run, canned_node, answer: Any) -> None:
    whole = {"jsonrpc": "2.0", "id": 1, **answer} if isinstance(answer, dict) else answer
    canned_node.pages["/rpc"] = (200, json.dumps(whole).encode())
    bad(run("--rpc", canned_node.url, *HEAD))


@pytest.mark.parametrize("status", [200, 404, 502])
@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"\xff\xfe", b'{"id": 1', b"[" * 100_000]
)
def test_a_body_that_is_not_json(run, canned_node, status: int, body: bytes) -> None:
    canned_node.pages["/rpc"] = (status, body)
    bad(run("--rpc", canned_node.url, *HEAD))
    if status == 200:
        canned_node.pages.clear()
        canned_node.results["chain_getStatus"] = {"node": {}, "network": {}, "chains": []}
        canned_node.results["net_getPeers"] = {"items": []}
        canned_node.pages["/ready"] = (status, body)
        bad(run("--rpc", canned_node.url, "status"))


def test_a_refusal_of_the_whole_request_needs_no_id(run, canned_node) -> None:
    whole = {"jsonrpc": "2.0", "id": None, "error": {**GOOD_ERROR, "data": {"reason": "busy"}}}
    canned_node.pages["/rpc"] = (200, json.dumps(whole).encode())
    ran = run("--rpc", canned_node.url, *HEAD)
    assert ran.code == ExitCode.REFUSED
    assert ran.stderr.startswith("error [1/busy]: no")


@contextmanager
def raw_server(answer: bytes) -> Iterator[int]:
    """Answers each connection with the bytes, whatever was asked, and closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while not connection.recv(65_536).endswith(b"}"):
                    continue
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65_536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"jsonrpc"',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_off_or_no_http(run, answer: bytes) -> None:
    with raw_server(answer) as port:
        bad(run("--rpc", f"http://127.0.0.1:{port}", *HEAD))


def test_a_node_that_ends_is_unreachable(run) -> None:
    with raw_server(b"") as port:
        ran = run("--rpc", f"http://127.0.0.1:{port}", *HEAD)
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.stderr.startswith("error [cli/node_unreachable]: ")


def test_an_address_without_a_scheme_is_one_of_http(run, canned_node) -> None:
    canned_node.results["chain_getHead"] = {
        "chain": "MET",
        "height": "7",
        "hash": "ab" * 32,
        "time_ms": "0",
        "market_ms": "0",
        "state_root": "cd" * 32,
        "finalized": True,
    }
    bare = canned_node.url.removeprefix("http://")
    assert run("--rpc", bare, *HEAD, "--json").document["height"] == "7"
    wrong = run("--rpc", f"ftp://{bare}", *HEAD)
    assert wrong.code == ExitCode.USAGE
    assert "is no address of HTTP" in wrong.stderr


def test_an_answer_is_shown_without_what_moves_a_terminal(run, canned_node) -> None:
    canned_node.pages["/rpc"] = (
        200,
        b'{"jsonrpc": "2.0", "id": 1, "result": {"height": "\\u001b]0;owned\\u0007"}}',
    )
    ran = run("--rpc", canned_node.url, *HEAD)
    bad(ran)
    assert "\x1b" not in ran.stderr
