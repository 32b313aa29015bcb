"""How a node's end is told: the codes that a supervisor acts on, and what is left in the home."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from gridtokenx.api.listening import ApiServerError
from gridtokenx.cli import node_end, output
from gridtokenx.cli.output import ExitCode
from gridtokenx.home.config import load_config
from gridtokenx.primitives.state import DamagedValue
from gridtokenx.runtime import crash_report
from gridtokenx.runtime.crash_report import KEPT, write_crash_report
from gridtokenx.runtime.descriptors import TooFewDescriptors
from gridtokenx.runtime.stopping import (
    Contradicted,
    Damaged,
    DatabaseError,
    DiskFailed,
    DiskFull,
    Ending,
    FolderInUse,
    NotMissing,
    NotPresent,
    StopNode,
    Untrusted,
)
from gridtokenx.views.metrics import RECENT_LINES, close_logging, configure_logging


def api_error(cause: OSError) -> ApiServerError:
    error = ApiServerError("cannot serve the API on 127.0.0.1:8080")
    error.__context__ = cause
    return error


# What ends a node, the exit code, the code that is told.
ENDS = [
    (StopNode("GTX-KEY-002: MET: taken"), 70, "GTX-KEY-002"),
    (Contradicted("GTX-SYNC-001: TH: other"), 70, "GTX-SYNC-001"),
    (Damaged("GTX-SYNC-001: TH: other"), 70, "GTX-SYNC-001"),
    (Damaged("GTX-DB-003: block 7 is not readable"), 74, "GTX-DB-003"),
    (DatabaseError("GTX-DB-003: damaged"), 74, "GTX-DB-003"),
    (DatabaseError("GTX-DB-002: newer schema"), 74, "GTX-DB-002"),
    (DamagedValue("the stored Account is damaged"), 74, "GTX-DB-003"),
    (DiskFull("GTX-DSK-001: full"), 74, "GTX-DSK-001"),
    (DiskFailed("GTX-DSK-002: broken"), 74, "GTX-DSK-002"),
    (OSError(errno.ENOSPC, "No space left on device"), 74, "node"),
    (PermissionError(errno.EACCES, "data/ belongs to somebody else"), 77, "node"),
    (api_error(PermissionError(errno.EACCES, "Permission denied")), 77, "node"),
    (Untrusted("GTX-SYNC-002: the newest block is old"), 78, "GTX-SYNC-002"),
    (NotMissing("MET"), 78, "GTX-KEY-004"),
    (NotPresent("MET is MET@2 now: say MET@2=HEIGHT"), 78, "GTX-KEY-004"),
    (TooFewDescriptors("GTX-SYS-001: 64 files"), 78, "GTX-SYS-001"),
    (OSError(errno.EINVAL, "cannot listen on /ip4/1.2.3.4: no port"), 78, "node"),
    # Over in a moment, perhaps.
    (FolderInUse("GTX-DB-001: node 7 already uses data/"), 75, "GTX-DB-001"),
    (OSError(errno.EADDRINUSE, "cannot listen on /ip4/..: the port is taken"), 75, "node"),
    (OSError(errno.EADDRNOTAVAIL, "cannot listen on /ip4/.."), 75, "node"),
    (api_error(OSError(errno.EADDRINUSE, "Address already in use")), 75, "node"),
]
UNFORESEEN = [
    ZeroDivisionError("division by zero"),
    OSError(errno.EMFILE, "Too many open files"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ApiServerError("the API thread ended by itself"),
    MemoryError(),
    ValueError("the state cannot hold this"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text("version = 1\n")
    return tmp_path


@pytest.mark.parametrize(("error", "exit_code", "code"), ENDS, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_foreseen_end_has_its_code_and_leaves_no_report(
    home: Path, error: Exception, exit_code: int, code: str, times: int
) -> None:
    """Also when several chains end the node at once, for one reason."""
    ended = ExceptionGroup("", [ExceptionGroup("", [error] * times)]) if times else error
    failure = node_end.failure_of(ended, load_config(home, environ={}))
    assert (failure.exit_code, failure.code) == (exit_code, code)
    assert failure.detail
    assert not failure.detail.startswith("GTX-")
    assert not (home / "logs").exists()


def test_every_ending_is_in_the_table() -> None:
    def all_of(kind: type[Ending]) -> set[type[Ending]]:
        return {kind} | {each for below in kind.__subclasses__() for each in all_of(below)}

    assert all_of(Ending) - {Ending} == {type(e) for e, *_ in ENDS if isinstance(e, Ending)}


@pytest.mark.parametrize("error", UNFORESEEN, ids=repr)
def test_what_nobody_foresaw_is_started_again_and_leaves_a_report(
    home: Path, error: Exception
) -> None:
    failure = node_end.failure_of(error, load_config(home, environ={}))
    assert (failure.exit_code, failure.code) == (ExitCode.RETRY_LATER, "GTX-SYS-002")
    (report,) = (home / "logs").iterdir()
    assert failure.hint == f"crash report: {report}"
    assert report.stat().st_mode & 0o777 == 0o600
    assert report.parent.stat().st_mode & 0o777 == 0o700
    assert type(error).__name__ in report.read_text()


def test_a_fault_beside_a_known_end_is_not_hidden_and_the_end_decides(home: Path) -> None:
    known = StopNode("GTX-KEY-002: MET: taken")
    ended = ExceptionGroup("", [ZeroDivisionError(), known, DiskFull("GTX-DSK-001: full")])
    failure = node_end.failure_of(ended, load_config(home, environ={}))
    assert (failure.exit_code, failure.code) == (ExitCode.INTERNAL, "GTX-KEY-002")
    (report,) = (home / "logs").iterdir()
    assert "ZeroDivisionError" in report.read_text()


def test_a_report_tells_everything_but_secrets(home: Path, capsys) -> None:
    config = load_config(home, {"node.password_file": "/secret/place"}, environ={})
    settings = replace(config.logging, format="json")
    configure_logging(settings, None)
    try:
        for number in range(RECENT_LINES + 5):
            structlog.get_logger("test").info("something.happened", number=number)
        failure = node_end.failure_of(RuntimeError("bang"), config, {"MET": 7, "TH": 9})
    finally:
        close_logging()
    text = Path(failure.hint.removeprefix("crash report: ")).read_text()
    sections = [line for line in text.splitlines() if line.startswith("-- ")]
    assert sections == ["-- what", "-- heights", "-- settings", "-- log", "-- traceback"]
    assert "MET 7\nTH 9\n" in text
    assert "api.port = 8080" in text
    assert "node.password_file = '(set)'" in text
    assert "/secret/place" not in text
    assert '"number": 5,' in text  # The last lines, not the first.
    assert '"number": 4,' not in text
    assert "RuntimeError: bang" in text
    assert "node.crashed" in capsys.readouterr().err


def test_ten_reports_are_kept_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for number in range(KEPT + 3):
        stamp = f"20260101T0000{number:02}Z"
        monkeypatch.setattr(crash_report.time, "strftime", lambda *_, stamp=stamp: stamp)
        names.append(write_crash_report(tmp_path, ValueError(), {}, {}, []).name)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[3:]
    again = write_crash_report(tmp_path, ValueError(), {}, {}, [])  # In the same second.
    assert again.name not in names
    assert len(list(tmp_path.iterdir())) == KEPT


def test_a_report_that_cannot_be_written_is_said(home: Path) -> None:
    (home / "logs").write_text("a file")
    failure = node_end.failure_of(RuntimeError(), load_config(home, environ={}))
    assert failure.exit_code is ExitCode.RETRY_LATER
    assert failure.hint.startswith("no crash report could be written: ")


# -- The whole command -----------------------------------------------------------------------------


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gridtokenx", "--home", str(home), "start", *options]
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_staying_down_waits_to_be_told(tmp_path: Path, number: int) -> None:
    """A missing key: starting again would not help."""
    process = start(tmp_path, "--stay-down")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("error [")
    for line in process.stderr:
        if line.startswith("--stay-down"):
            break
    assert process.poll() is None
    process.send_signal(number)
    rest = process.communicate()
    assert (process.returncode, rest) == (ExitCode.CONFIG, ("", ""))


def test_without_it_the_end_is_told_once(tmp_path: Path) -> None:
    process = start(tmp_path)
    out, err = process.communicate()
    assert process.returncode == ExitCode.CONFIG
    assert (out, err.count("error [")) == ("", 1)


def test_what_may_pass_does_not_stay_down(capsys: pytest.CaptureFixture[str]) -> None:
    failure = output.Failure("x", code="c", reason="r", exit_code=ExitCode.RETRY_LATER)
    assert not node_end.stay_down(failure)
    assert capsys.readouterr().err == ""


def test_a_fault_before_anything_runs_is_no_reason_to_stay_down(
    run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_config: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gridtokenx.cli.node_start.read_genesis", broken)
    ran = run("--home", str(home), "start", "--stay-down")
    assert ran.code == ExitCode.RETRY_LATER
    assert "GTX-SYS-002" in ran.stderr
    assert os.listdir(home / "logs")
