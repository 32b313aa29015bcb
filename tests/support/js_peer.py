"""A js-libp2p node as a child process: install its packages once, talk to it in JSON lines."""

from __future__ import annotations

import fcntl
import hashlib
import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "interop" / "js-peer"
MODULES = FOLDER / "node_modules"
STAMP = MODULES / ".installed-from"
INSTALL_TIMEOUT_S = 180
ANSWER_TIMEOUT_S = 60


class PeerError(AssertionError):
    """The JavaScript side could not do what it was told; its own words."""


def why_unavailable() -> str:
    """Install the pinned packages unless they are there; returns why there is no peer, or ""."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node or npm is not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.strip().lstrip("v").split(".")[0]) < 20:
        return f"node {version.stdout.strip()} is older than 20"
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    with (FOLDER / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text(encoding="utf-8") == wanted:
            return ""
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(
                command,
                cwd=FOLDER,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"npm ci did not end within {INSTALL_TIMEOUT_S} s"
        if done.returncode:
            return f"npm ci failed: {done.stderr.strip()[-300:]}"
        STAMP.write_text(wanted, encoding="utf-8")
    return ""


class JsPeer:
    """A running peer. Its answers are the `result` objects of `js-peer/peer.mjs`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.connections: list[dict[str, Any]] = []
        self._process = process
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started = self._answers.get(timeout=ANSWER_TIMEOUT_S)
        self.peer_id: str = started["peer"]
        self.addresses: list[str] = started["addresses"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "connected":
                self.connections.append(event)
            else:
                self._answers.put(event)

    def do(self, command: str, **fields: Any) -> dict[str, Any]:
        """Have it do something; its result. Errors: PeerError."""
        assert self._process.stdin is not None
        self._number += 1
        self._process.stdin.write(
            json.dumps({"id": self._number, "command": command, **fields}) + "\n"
        )
        self._process.stdin.flush()
        answer = self._answers.get(timeout=ANSWER_TIMEOUT_S)
        assert answer["id"] == self._number
        if answer["event"] == "failed":
            raise PeerError(f"{command}: {answer['error']} {answer['cause']}")
        return answer["result"]

    def wait(self, what: str, seconds: float = 30.0) -> dict[str, Any]:
        """Its state, once that has something at the path `what`, such as `mesh|<topic>`."""
        end = time.monotonic() + seconds
        while True:
            state = found = self.do("state")
            for step in what.split("|"):
                found = found.get(step) if isinstance(found, dict) else None
            if found:
                return state
            assert time.monotonic() < end, f"no {what} within {seconds} s: {state}"
            time.sleep(0.05)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(name: str, **options: Any) -> Iterator[JsPeer]:
    """A peer with an identity made of `name`; `options` are those of peer.mjs."""
    options.setdefault("seed", hashlib.sha256(name.encode()).hexdigest())
    process = subprocess.Popen(
        [
            "node",
            "--experimental-websocket",  # Node 20 hides the browser's class behind it
            "--import",
            "./polyfill.mjs",
            "peer.mjs",
            json.dumps(options),
        ],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    peer = JsPeer(process)
    try:
        yield peer
    finally:
        peer.close()
