"""The command line run in this process, with its own home and environment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gridtokenx.cli import app


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything besides it is an error."""
        return json.loads(self.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("a long secret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.setenv("GRIDTOKENX_HOME", str(home))
    monkeypatch.delenv("RUST_LOG", raising=False)

    def invoke(*words: object, typed: str | None = None, **environ: str) -> Ran:
        result = CliRunner().invoke(app, [str(word) for word in words], env=environ, input=typed)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def fast_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that cost nothing to derive, where the cost is not under test."""
    from gridtokenx.home import keystore

    monkeypatch.setitem(keystore.create.__kwdefaults__, "development", True)


class CannedNode:
    """Answers over real HTTP with what a test says: by method, and whole bodies by path."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.errors: dict[str, dict[str, Any]] = {}
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        self.url = ""

    def refuse(self, method: str, code: int, reason: str, **data: Any) -> None:
        """Answer a method with an error."""
        told = {"reason": reason, "hint": "", "retryable": False, **data}
        self.errors[method] = {"code": code, "message": f"because of {reason}", "data": told}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The response to one request."""
        self.asked.append(request)
        method, head = request["method"], {"jsonrpc": "2.0", "id": request["id"]}
        if method in self.errors:
            return {**head, "error": self.errors[method]}
        return {**head, "result": self.results[method]}


@pytest.fixture
def canned_node() -> Iterator[CannedNode]:
    node = CannedNode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(*node.pages.get(self.path, (404, b"<html>nothing here</html>")))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path in node.pages:
                self.reply(*node.pages[self.path])
            elif isinstance(body, list):
                self.reply(200, json.dumps([node.answer(one) for one in body]).encode())
            else:
                self.reply(200, json.dumps(node.answer(body)).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        node.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield node
        server.shutdown()
        thread.join()
