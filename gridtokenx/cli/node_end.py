"""How a node's end is told: one sentence, the exit code that a supervisor acts on, a crash report.

What would happen again at every start has a code after which nobody starts it again (PERMANENT).
All else may be over in a moment and ends with 75: a port or a folder that another process has, an
address that is not there yet while a machine boots, and whatever nobody foresaw.
`docs/gridtokenx.service` and `docs/node-operation.md` say the same.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gridtokenx.cli import output
from gridtokenx.cli.output import ExitCode, Failure
from gridtokenx.runtime.stopping import (
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
    leaves,
)

if TYPE_CHECKING:
    from gridtokenx.home.config import Config

PERMANENT = (ExitCode.INTERNAL, ExitCode.DISK, ExitCode.PERMISSION, ExitCode.CONFIG)
_NOT_NOW = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SECRET = ("password", "psk")

# The first that fits counts.
_EXITS: tuple[tuple[type[Ending], ExitCode], ...] = (
    (Untrusted, ExitCode.CONFIG),
    (StopNode, ExitCode.INTERNAL),
    (Damaged, ExitCode.INTERNAL),
    (FolderInUse, ExitCode.RETRY_LATER),
    (DatabaseError, ExitCode.DISK),
    (DiskFull, ExitCode.DISK),
    (DiskFailed, ExitCode.DISK),
)


def exit_code_of(ending: Ending) -> ExitCode:
    """70 for a copied key and for data that contradicts the chain, 74 for disk and database, 75 for
    what may be over soon, 78 for what only the operator can say.
    """
    if str(ending).startswith("GTX-DB-003"):  # Whoever found it out.
        return ExitCode.DISK
    return next((code for kind, code in _EXITS if isinstance(ending, kind)), ExitCode.CONFIG)


def failure_of(
    error: BaseException, config: Config | None, heights: Mapping[str, int] | None = None
) -> Failure:
    """What ended the node, for people and supervisors; `heights` of its chains by name.

    Writes a crash report where nobody foresaw it, also beside an end that was foreseen: that one
    decides, as it may be what must stay down.
    """
    found = leaves(error)
    known = [failure for leaf in found if (failure := _foreseen(leaf)) is not None]
    report = "" if len(known) == len(found) else _report(error, config, heights or {})
    if known:
        return min(known, key=_order)
    detail = f"{type(found[0]).__name__}: {found[0]}" if str(found[0]) else repr(found[0])
    return Failure(
        detail,
        code="GTX-SYS-002",
        reason="unforeseen",
        hint=report,
        exit_code=ExitCode.RETRY_LATER,
        retryable=True,
    )


def stay_down(failure: Failure) -> bool:
    """Tell a permanent failure and wait for SIGTERM or SIGINT, for supervisors that would start the
    process again whatever its exit code says. False, at once, where a start may help.
    """
    if failure.exit_code not in PERMANENT:
        return False
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    output.report(failure)
    output.note("--stay-down: waiting for SIGTERM; starting again would not help")
    told.wait()
    return True


def _order(failure: Failure) -> int:
    return PERMANENT.index(failure.exit_code) if failure.exit_code in PERMANENT else len(PERMANENT)


def _foreseen(error: BaseException) -> Failure | None:
    from gridtokenx.api.listening import ApiServerError
    from gridtokenx.primitives.state import DamagedValue

    if isinstance(error, NotMissing):
        detail = (
            f"GTX-KEY-004: the safety record of {error} is here: start without "
            "--resume-signing-above, which is for a lost one and never for a service file"
        )
        return _failure(detail, ExitCode.CONFIG)
    if isinstance(error, NotPresent):
        return _failure(f"GTX-KEY-004: --resume-signing-above: {error}", ExitCode.CONFIG)
    if isinstance(error, DamagedValue):
        detail = f"GTX-DB-003: {error}. Move data/ aside and start with an empty one"
        return _failure(detail, ExitCode.DISK)
    if isinstance(error, Ending):
        return _failure(str(error), exit_code_of(error))
    if isinstance(error, ApiServerError):
        cause = error.__cause__ or error.__context__
        code = _system(cause) if isinstance(cause, OSError) else None
        return None if code is None else _failure(str(error), code)
    if isinstance(error, OSError) and (code := _system(error)) is not None:
        return _failure(error.strerror or str(error), code)
    return None


def _system(error: OSError) -> ExitCode | None:
    """What of the system's errors is foreseen."""
    if isinstance(error, socket.gaierror):
        return ExitCode.RETRY_LATER if error.errno == socket.EAI_AGAIN else ExitCode.CONFIG
    if isinstance(error, PermissionError):
        return ExitCode.PERMISSION
    if error.errno in _NOT_NOW:
        return ExitCode.RETRY_LATER
    if error.errno in _DISK:
        return ExitCode.DISK
    if error.errno == errno.EINVAL and "cannot listen on" in str(error):
        return ExitCode.CONFIG
    return None


def _failure(text: str, exit_code: ExitCode) -> Failure:
    code, _, detail = text.partition(": ")
    known = code.startswith("GTX-")
    return Failure(
        detail if known else text,
        code=code if known else "node",
        reason="node_stopped",
        exit_code=exit_code,
        retryable=exit_code is ExitCode.RETRY_LATER,
    )


def _report(error: BaseException, config: Config | None, heights: Mapping[str, int]) -> str:
    """Leave a crash report in the home; where it is, or why there is none."""
    import structlog

    from gridtokenx.home.settings import SETTINGS
    from gridtokenx.runtime.crash_report import write_crash_report
    from gridtokenx.views.metrics import recent_lines

    lines = recent_lines()
    structlog.get_logger("gridtokenx").error("node.crashed", code="GTX-SYS-002", exc_info=error)
    home = output.options().home if config is None else config.home
    settings = {} if config is None else {key: _shown(key, config.value(key)) for key in SETTINGS}
    try:
        path = write_crash_report(home / "logs", error, heights, settings, lines)
    except OSError as failed:
        return f"no crash report could be written: {failed}"
    return f"crash report: {path}"


def _shown(key: str, value: object) -> object:
    return "(set)" if value and any(word in key for word in _SECRET) else value
