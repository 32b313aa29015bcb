"""One node as a process among others: its streams, its descriptors, its store, its exit codes."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gridtokenx.cli.output import ExitCode
from tests.support.live_cluster import port_block, wait_until

API_PORT, P2P_PORT = port_block()
IDLE = 600


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An observer's, on the bundled network, of which nobody else is there."""
    home, password = tmp_path / "home", tmp_path / "password"
    password.write_text("a password for tests\n")
    password.chmod(0o600)
    words = ["--home", str(home), "init", "--password-file", str(password)]
    subprocess.run([sys.executable, "-m", "gridtokenx", *words], check=True, capture_output=True)
    return home


def started(home: Path, *redirections: str, **options: object) -> subprocess.Popen[bytes]:
    command = f'exec "$0" -m gridtokenx --home "$1" start {" ".join(redirections)}'
    environment = {
        "GRIDTOKENX_API__PORT": str(API_PORT),
        "GRIDTOKENX_NETWORK__LISTEN": f"/ip4/127.0.0.1/tcp/{P2P_PORT}",
        "GRIDTOKENX_NODE__MIN_FREE_DISK_MIB": "16",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        ["sh", "-c", command, sys.executable, str(home)],
        env=environment,
        stdin=subprocess.DEVNULL,
        **options,
    )


def log_of(home: Path) -> str:
    path = home / "logs" / "gridtokenx.log"
    return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def running(home: Path, *redirections: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    before = log_of(home).count("node.started")
    process = started(home, *redirections, **options)
    try:

        def is_up() -> bool:
            assert process.poll() is None, log_of(home)
            return log_of(home).count("node.started") > before

        wait_until("the node has started", is_up)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def health() -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{API_PORT}/health", timeout=60).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_it_starts_with_closed_streams_and_writes_where_it_can(home: Path, closed: str) -> None:
    with running(home, closed) as process:
        assert health() == 200
    assert process.returncode == 0
    assert "node.stopping" in log_of(home)


def test_with_few_descriptors_it_refuses_connections_and_goes_on(home: Path) -> None:
    """More idle connections than the whole process may have descriptors."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 512))

    with contextlib.ExitStack() as idle, running(home, preexec_fn=limit) as process:
        log = log_of(home)
        assert "process.descriptors" in log
        assert "GTX-SYS-001" in log
        for _ in range(IDLE):
            made = idle.enter_context(socket.socket())
            made.settimeout(60)
            made.connect(("127.0.0.1", API_PORT))
        descriptors = Path(f"/proc/{process.pid}/fd")
        rounds = [line for line in log_of(home).splitlines() if "housekeeping.failed" in line]
        assert rounds == []
        assert len(list(descriptors.iterdir())) < 512
        idle.close()
        assert wait_until("it answers", lambda: health() == 200)
    assert process.returncode == 0, log_of(home)


def test_a_damaged_store_stays_down_with_what_to_do(home: Path) -> None:
    with running(home) as process:
        pass
    assert process.returncode == 0
    (home / "data" / "rocksdb" / "CURRENT").write_bytes(b"")
    ended = started(home, stderr=subprocess.PIPE)
    _, said = ended.communicate()
    assert ended.returncode == ExitCode.DISK
    assert b"error [GTX-DB-003/node_stopped]: the database in " in said
    assert b"Traceback" not in said
    assert not list((home / "logs").glob("crash-*"))


def test_a_taken_port_may_be_free_in_a_moment(home: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", P2P_PORT))
        other.listen()
        ended = started(home, stderr=subprocess.PIPE)
        _, said = ended.communicate()
    assert ended.returncode == ExitCode.RETRY_LATER
    assert b"the port is taken" in said
    assert b"Traceback" not in said
    with running(home) as process:
        assert health() == 200
    assert process.returncode == 0
