"""Global options, errors, exit codes; and that help stays light."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gridtokenx import __main__, __version__, cli
from gridtokenx.cli import output
from gridtokenx.cli.output import ExitCode, Failure
from gridtokenx.home.config import ConfigError
from gridtokenx.home.keystore import KeystoreError, KeystoreReason
from gridtokenx.primitives.errors import ErrorCode, Rejected

HEAVY = ("libp2p", "aiohttp", "rocksdict", "trio", "httpx", "structlog", "gridtokenx.chain")


def execute(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gridtokenx", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], ["keys", "--help"], ["config", "template"]])
def test_light_commands_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom gridtokenx.cli import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"


def test_to_ask_a_node_takes_no_market() -> None:
    """A client reads genesis files and proofs; clearing and settlement are for who executes."""
    program = "import sys, gridtokenx.client; print('gridtokenx.trading.rules' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "False"), ran.stderr


def test_help_names_every_command(run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(f" {name} " in ran.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(run, name: str) -> None:
    ran = run(name, "--help")
    assert ran.code == 0
    assert "Usage:" in ran.stdout


def test_version_in_both_forms(run) -> None:
    assert run("--version").stdout == f"gridtokenx {__version__}\n"
    assert run("version", "--json").document["gridtokenx"] == __version__
    assert f"gridtokenx {__version__}" in run("version").stdout


@pytest.mark.parametrize(
    ("words", "hoisted"),
    [
        ("status --json", "--json status"),
        ("--json status", "--json status"),
        ("keys new a --home /x --kind node --json", "--home /x --json keys new a --kind node"),
        ("chain head --rpc=http://h:1 -v", "--rpc=http://h:1 -v chain head"),
        ("tx send -- --json", "tx send -- --json"),
        ("status --home", "--home status"),
    ],
)
def test_global_options_work_after_the_command(words: str, hoisted: str) -> None:
    assert cli.hoist(words.split()) == hoisted.split()


def test_json_before_and_after_gives_the_same_document(run) -> None:
    assert run("--json", "config", "path").document == run("config", "path", "--json").document


def test_home_after_the_command_is_used(run, tmp_path: Path) -> None:
    ran = run("config", "path", "--home", tmp_path / "other", "--json")
    assert ran.document["path"] == str(tmp_path / "other" / "config.toml")


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(run) -> None:
    ran = run("initt")
    assert ran.code == ExitCode.USAGE
    assert "Did you mean 'init'" in ran.stderr
    assert ran.stdout == ""


def test_a_usage_error_is_a_document_with_json(run) -> None:
    ran = run("keys", "show", "--json")
    assert ran.code == ExitCode.USAGE
    assert ran.document["error"]["reason"] == "usage"
    assert "error [cli/usage]: Missing argument" in ran.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        (Rejected(ErrorCode.NONCE_TOO_LOW, "7 was used"), 1, "[2002/nonce_too_low]: 7 was used"),
        (Rejected(ErrorCode.NONCE_GAP, "send 7"), 75, "[2003/nonce_gap]"),
        (Rejected(ErrorCode.BAD_ADDRESS, "typing error"), 65, "[5002/bad_address]"),
        (ConfigError("GTX-CFG-001", "unknown_setting", "x"), 78, "[GTX-CFG-001/unknown_setting]"),
        (KeystoreError(KeystoreReason.WRONG_PASSWORD, "no"), 77, "[keystore/wrong_password]"),
        (KeystoreError(KeystoreReason.PERMISSIONS, "no"), 77, "[keystore/permissions]"),
        (KeystoreError(KeystoreReason.EXISTS, "no"), 1, "[keystore/key_exists]"),
        (KeystoreError(KeystoreReason.DAMAGED, "no"), 65, "[keystore/key_damaged]"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 69, "[cli/node_unreachable]"),
        (ConnectionError("http://x answers nothing"), 69, "http://x answers nothing"),
        (ExceptionGroup("nursery", [ConnectionError("gone")]), 69, "[cli/node_unreachable]: gone"),
        (TimeoutError("no answer in 5 s"), 75, "[cli/timeout]"),
        (PermissionError(errno.EACCES, "denied", "/x"), 77, "[cli/no_permission]"),
        (OSError(errno.ENOSPC, "disk full"), 74, "[cli/disk]"),
        (FileNotFoundError(errno.ENOENT, "nothing there", "/x"), 1, "[cli/no_file]"),
        (Failure("said", code="c", reason="r", exit_code=ExitCode.RETRY_LATER), 75, "[c/r]: said"),
    ],
)
def test_known_errors_become_one_line_and_an_exit_code(
    run, monkeypatch: pytest.MonkeyPatch, error: Exception, exit_code: int, told: str
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr("gridtokenx.cli.version.version", broken)
    ran = run("version")
    assert ran.code == exit_code
    assert ran.stdout == ""
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    ran = run("version", "--json")
    assert (ran.code, set(ran.document)) == (exit_code, {"error"})
    assert set(ran.document["error"]) == {"code", "reason", "message", "hint", "retryable"}


def test_our_own_faults_are_not_disguised(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gridtokenx.cli.version.version", broken)
    with pytest.raises(ZeroDivisionError):
        run("version")


def test_a_fault_ends_the_process_with_70_and_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gridtokenx.cli.app", broken)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == ExitCode.INTERNAL
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_markup_and_wide_text_reach_people_unchanged(run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[bold]/ip4/[/]" + "x" * 300

    def broken() -> None:
        output.fail(text, code="c", reason="r", hint=text)

    monkeypatch.setattr("gridtokenx.cli.version.version", broken)
    assert run("version").stderr.splitlines() == [f"error [c/r]: {text}", f"hint: {text}"]


def test_notes_go_to_stderr_and_quiet_silences_them(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def speak() -> None:
        output.note("working")
        output.emit({"raw": b"\x01", "path": Path("/x")}, lambda console: console.print("done"))

    monkeypatch.setattr("gridtokenx.cli.version.version", speak)
    assert (run("version").stdout, run("version").stderr) == ("done\n", "working\n")
    assert run("version", "--json").document == {"raw": "01", "path": "/x"}
    assert run("version", "--quiet").stderr == ""


def test_questions_need_a_yes(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridtokenx.cli.version.version", lambda: output.confirm("go on?"))
    ran = run("version")
    assert ran.code == 1
    assert "hint: pass --yes" in ran.stderr
    assert run("version", "--yes").code == 0


@pytest.mark.parametrize(
    ("words", "environ", "url"),
    [
        (["--rpc", "http://h:1/"], {}, "http://h:1"),
        ([], {}, output.DEFAULT_RPC),
        ([], {"GRIDTOKENX_API__PORT": "18080"}, "http://127.0.0.1:18080"),
        ([], {"GRIDTOKENX_API__HOST": "0.0.0.0"}, output.DEFAULT_RPC),
        ([], {"GRIDTOKENX_API__HOST": "::1"}, "http://[::1]:8080"),
    ],
)
def test_the_node_to_ask(
    run, monkeypatch: pytest.MonkeyPatch, words: list[str], environ: dict, url: str
) -> None:
    def tell() -> None:
        typer.echo(output.rpc_url())

    monkeypatch.setattr("gridtokenx.cli.version.version", tell)
    assert run("version", *words, **environ).stdout == f"{url}\n"


def test_a_real_process_keeps_stdout_for_the_document(tmp_path: Path) -> None:
    ran = execute("--json", "config", "validate", GRIDTOKENX_HOME=str(tmp_path), RUST_LOG="debug")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["settings_given"] == ["logging.level"]
    assert "RUST_LOG is taken as logging.level = debug" in ran.stderr


def test_a_real_process_ends_with_78_on_a_bad_config(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[network]\nmax_peer = 1\n")
    ran = execute("config", "validate", "--home", str(tmp_path))
    assert ran.returncode == ExitCode.CONFIG
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[0] == (
        "error [GTX-CFG-001/unknown_setting]: "
        "config.toml:2 network.max_peer is not a setting; did you mean max_peers?"
    )
