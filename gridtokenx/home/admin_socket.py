"""Where a node's admin socket lies and how another process of its user speaks to it.

Standard library only, so that command-line tools start fast. The service is `node.admin`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOCKET_NAME = "node.sock"
MAX_LINE_BYTES = 64 * 1024
MAX_PATH_BYTES = 100  # Of 108 in sockaddr_un.


class AdminError(Exception):
    """A command cannot be done; the sentence is the answer."""


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of the path that fits into a socket address. Errors: OSError."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def call(path: Path, command: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """Send one command to the node behind a socket. Errors: AdminError, OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(timeout_s)
        with short_name(path) as name:
            raw.connect(name)
        raw.sendall(json.dumps(command).encode() + b"\n")
        with raw.makefile("rb") as answers:
            line = answers.readline(MAX_LINE_BYTES)
    if not line:
        raise AdminError("the node closed the connection")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise AdminError(str(answer["error"]))
    return answer
