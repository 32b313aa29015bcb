"""A real node's home under a umask that hides nothing: every file is its owner's alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.patience import PATIENCE_S

ENVIRONMENT = {
    "GRIDTOKENX_API__PORT": "0",
    "GRIDTOKENX_NETWORK__LISTEN": "/ip4/127.0.0.1/tcp/0",
    "GRIDTOKENX_NODE__MIN_FREE_DISK_MIB": "0",
}
COMMAND = (sys.executable, "-m", "gridtokenx", "--home")


def modes_below(top: Path) -> Mapping[str, int]:
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in (top, *top.rglob("*"))}


def open_to_others(top: Path) -> list[str]:
    return [path for path, mode in modes_below(top).items() if mode & 0o077]


@contextmanager
def started(home: Path) -> Iterator[None]:
    """The node, running for as long as its admin socket is of use; it must end well."""
    node = subprocess.Popen(
        [*COMMAND, str(home), "start"],
        env={**os.environ, **ENVIRONMENT},
        umask=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not (home / "data" / "node.sock").exists():
            assert node.poll() is None, (home / "logs" / "gridtokenx.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield
        node.send_signal(signal.SIGTERM)
        assert node.wait(PATIENCE_S) == 0
    finally:
        node.kill()
        node.wait()


def test_a_home_is_private_from_the_first_moment_and_an_older_one_is_closed(tmp_path: Path) -> None:
    home, password = tmp_path / "homes" / "home", tmp_path / "password"
    password.write_text("a long secret\n")
    password.chmod(0o600)
    words = ["init", "--password-file", str(password)]
    subprocess.run([*COMMAND, str(home), *words], check=True, umask=0, capture_output=True)
    assert len(modes_below(home)) >= 6
    assert open_to_others(home.parent) == []
    with started(home):
        assert open_to_others(home.parent) == []
    assert (home / "data" / "rocksdb" / "CURRENT").is_file()
    assert open_to_others(home.parent) == []
    log = home / "logs" / "gridtokenx.log"
    assert "home.tightened" not in log.read_text()
    for path in (home, home / "data", log.parent):  # As older versions made them.
        path.chmod(0o755)
    for path in (*(home / "data" / "rocksdb").iterdir(), log, home / "genesis.json"):
        path.chmod(0o644)
    for _ in range(2):
        with started(home):
            assert open_to_others(home) == []
    assert log.read_text().count("home.tightened") == 1
