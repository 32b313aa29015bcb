"""What every command shares: its global options, its two ways of speaking, and its exit codes.

A command reads `options()`, then calls `emit(document, human)` once. With --json the document is
the only thing on stdout; without it `human` draws on stdout. Notes and errors go to stderr. A
command reports failure by `fail(...)` or by letting a known error rise: `Rejected`, `ConfigError`,
`KeystoreError`, `ConnectionError` (node unreachable), `TimeoutError` and other `OSError`s become
one line, a hint and an exit code in `describe`.

Source: docs/cli.md "Commands" (exit codes of sysexits.h).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, is_dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from gridtokenx.primitives.errors import RETRYABLE, ErrorCode, Rejected
from gridtokenx.runtime import screen

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.home.config import Config

DEFAULT_RPC = "http://127.0.0.1:8080"


class ExitCode(IntEnum):
    """How the process ends. Source: docs/cli.md "Commands"."""

    OK = 0
    REFUSED = 1  # also: not found
    USAGE = 2
    BAD_DATA = 65
    UNREACHABLE = 69
    INTERNAL = 70
    DISK = 74
    RETRY_LATER = 75
    PERMISSION = 77
    CONFIG = 78


class Failure(Exception):  # noqa: N818 - the end of a command, not a fault of ours
    """A command cannot do what it was asked: everything a person or a script is told."""

    def __init__(
        self,
        detail: str,
        *,
        code: str | int,
        reason: str,
        hint: str = "",
        exit_code: ExitCode = ExitCode.REFUSED,
        retryable: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.reason = reason
        self.hint = hint
        self.exit_code = exit_code
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Options:
    """The global options of this run."""

    home: Path = field(default_factory=lambda: Path(os.path.expanduser("~/.gridtokenx")))
    config_file: Path | None = None
    rpc: str | None = None
    json: bool = False
    yes: bool = False
    quiet: bool = False
    verbose: int = 0
    color: bool = True

    @property
    def keys_path(self) -> Path:
        return self.home / "keys"


_OPTIONS: ContextVar[Options] = ContextVar("gridtokenx_cli_options")


def set_options(chosen: Options) -> None:
    """Called once by the root command."""
    _OPTIONS.set(chosen)


def options() -> Options:
    """The global options of this run (defaults before the root command has read them)."""
    return _OPTIONS.get(Options())


def load_config(flags: Mapping[str, object] | None = None) -> Config:
    """The configuration in force for --home and --config; notices are told once on stderr.

    `flags` maps dotted keys (`api.port`) to a command's own options; None means "not given".
    Errors: ConfigError.
    """
    from gridtokenx.home import config

    chosen = options()
    loaded = config.load_config(chosen.home, flags, file=chosen.config_file)
    for notice in loaded.notices:
        note(notice)
    return loaded


def rpc_url() -> str:
    """Where the node answers: --rpc, else the API port of this home's configuration.

    A URL without a scheme is one of HTTP. Errors: BadParameter for another scheme.
    """
    if given := options().rpc:
        url = given.rstrip("/")
        scheme, found, _ = url.partition("://")
        if found and scheme.lower() not in ("http", "https"):
            raise typer.BadParameter(f"--rpc {given[:80]!r} is no address of HTTP")
        return url if found else f"http://{url}"
    api = load_config().api
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(api.host, api.host)
    return f"http://{f'[{host}]' if host.count(':') > 1 and '[' not in host else host}:{api.port}"


def emit(document: Any, human: Callable[[Console], None]) -> None:
    """The command's result: `document` as JSON on stdout with --json, else `human` draws it.

    Documents hold plain JSON values; answers of the API stand for their JSON, bytes become hex,
    paths text. Amounts
    beyond 2**53 must already be decimal strings. JSON is ASCII, so that no encoding can change it
    and nothing in it drives a terminal.
    """
    if options().json:
        indent = 2 if sys.stdout.isatty() else None
        screen.write(json.dumps(document, indent=indent, default=_plain) + "\n")
    else:
        human(_console(sys.stdout))


def note(text: str) -> None:
    """A remark for people, on stderr; nothing with --quiet."""
    if not options().quiet:
        _console(sys.stderr).print(text, highlight=False, markup=False, soft_wrap=True)


def has_terminal() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty()


def confirm(question: str) -> None:
    """Go on only after a yes. --yes answers it; without a terminal, --yes is required."""
    if options().yes:
        return
    if not has_terminal():
        fail(f"{question} needs an answer", code="usage", reason="needs_yes", hint="pass --yes")
    if not typer.confirm(screen.printable(question), err=True):
        fail("nothing was changed", code="cli", reason="declined")


def fail(
    detail: str,
    *,
    code: str | int,
    reason: str,
    hint: str = "",
    exit_code: ExitCode = ExitCode.REFUSED,
) -> NoReturn:
    """End the command: `error [code/reason]: detail` and `hint: ...`, with that exit code."""
    raise Failure(detail, code=code, reason=reason, hint=hint, exit_code=exit_code)


def report(failure: Failure) -> None:
    """Tell a failure: two lines on stderr, and with --json an error document on stdout."""
    told = [f"error [{failure.code}/{failure.reason}]: {failure.detail}"]
    told += [f"hint: {failure.hint}"] if failure.hint else []
    for line in told:  # Each is one line: a node's words cannot look like a hint of ours.
        _console(sys.stderr).print(screen.printable(line), highlight=False, soft_wrap=True)
    if options().json:
        error = {
            "code": failure.code,
            "reason": failure.reason,
            "message": failure.detail,
            "hint": failure.hint,
            "retryable": failure.retryable,
        }
        screen.write(json.dumps({"error": error}) + "\n")


def describe(error: BaseException) -> Failure | None:
    """The failure an exception stands for, or None if it is a fault of ours."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a nursery wraps the one error that ended it
    if isinstance(error, Failure):
        return error
    if isinstance(error, Rejected):
        return _rejected(error)
    if isinstance(error, typer.TyperException):
        detail = error.format_message() or "this command needs more: see --help"
        return Failure(detail, code="cli", reason="usage", exit_code=ExitCode.USAGE)
    if isinstance(error, OSError):
        return _system(error)
    return _configured(error)


_BAD_DATA = frozenset({ErrorCode.MALFORMED, ErrorCode.MALFORMED_TX, ErrorCode.BAD_ADDRESS})


def _rejected(error: Rejected) -> Failure:
    exit_code = ExitCode.REFUSED
    if error.code in RETRYABLE:
        exit_code = ExitCode.RETRY_LATER
    elif error.code in _BAD_DATA:
        exit_code = ExitCode.BAD_DATA
    return Failure(
        error.detail,
        code=int(error.code),
        reason=error.code.reason,
        exit_code=exit_code,
        retryable=error.code in RETRYABLE,
    )


def _configured(error: BaseException) -> Failure | None:
    """Errors of modules that are only there if a command used them."""
    client = sys.modules.get("gridtokenx.client")
    if client and isinstance(error, client.BadAnswer):
        return Failure(
            str(error),
            code="cli",
            reason="bad_answer",
            hint="name the API of a GridTokenX node with --rpc URL",
            exit_code=ExitCode.UNREACHABLE,
        )
    config = sys.modules.get("gridtokenx.home.config")
    if config and isinstance(error, config.ConfigError):
        told: dict[str, Any] = {"code": error.code, "reason": error.reason, "hint": error.hint}
        return Failure(error.detail, exit_code=ExitCode.CONFIG, **told)
    keystore = sys.modules.get("gridtokenx.home.keystore")
    if keystore and isinstance(error, keystore.KeystoreError):
        reason = error.reason.value
        exit_code = _KEYSTORE_EXITS.get(reason, ExitCode.PERMISSION)
        return Failure(
            error.detail, code="keystore", reason=reason, hint=error.hint, exit_code=exit_code
        )
    return None


_KEYSTORE_EXITS = {
    "key_exists": ExitCode.REFUSED,
    "key_not_found": ExitCode.REFUSED,
    "key_damaged": ExitCode.BAD_DATA,
    "bad_key_name": ExitCode.USAGE,
    "no_memory": ExitCode.RETRY_LATER,
}
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT})


def _system(error: OSError) -> Failure | None:
    detail = str(error) or type(error).__name__
    if isinstance(error, BrokenPipeError) and error.errno == errno.EPIPE:
        return None  # the reader of our output went away; typer ends the process quietly
    if isinstance(error, ConnectionError):
        return Failure(
            detail,
            code="cli",
            reason="node_unreachable",
            hint="is the node running? gridtokenx start; another address: --rpc URL",
            exit_code=ExitCode.UNREACHABLE,
            retryable=True,
        )
    if isinstance(error, TimeoutError):
        exit_code = ExitCode.RETRY_LATER
        return Failure(detail, code="cli", reason="timeout", exit_code=exit_code, retryable=True)
    if isinstance(error, PermissionError):
        exit_code = ExitCode.PERMISSION
        return Failure(detail, code="cli", reason="no_permission", exit_code=exit_code)
    if error.errno in _DISK_ERRORS:
        return Failure(detail, code="cli", reason="disk", exit_code=ExitCode.DISK)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return Failure(detail, code="cli", reason="no_file")
    return None


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value):
        from gridtokenx.answers.shapes import write_json  # Only if a client has read an answer.

        return json.loads(write_json(value))
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def stdout_console() -> Console:
    """For a command that draws more than one document."""
    return _console(sys.stdout)


def _console(stream: Any) -> Console:
    return screen.console(stream, color=options().color)
