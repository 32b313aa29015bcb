"""Nothing that was not written by this program drives a terminal, in any encoding."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gridtokenx.runtime import screen

PACKAGE = Path(screen.__file__).parents[1]
HOSTILE = {
    "\x1b]0;owned\x07": r"\x1b]0;owned\x07",  # Renames the window.
    "\x1b[2J": r"\x1b[2J",
    "\x9b2J": r"\x9b2J",  # The same in eight bits.
    "a\rb": r"a\rb",
    "a\nb": r"a\nb",
    "a\u202eb": r"a\u202eb",  # Turns what follows around.
    "a\u2066b": r"a\u2066b",
    "a\u200bb": r"a\u200bb",
    "a\ufeffb": r"a\ufeffb",
    "a\u3164b": r"a\u3164b",
    "a\u2028b": r"a\u2028b",
    "a\udc9bb": r"a\udc9bb",
    "a\U000e0041b": r"a\U000e0041b",
}
HARMLESS = ["", "โรงไฟฟ้า กฟน.", "café", "☀ 12 kWh", "[bold]", r"C:\x", "a" * 1000]


@pytest.mark.parametrize(("text", "told"), HOSTILE.items())
def test_what_is_not_seen_is_escaped(text: str, told: str) -> None:
    assert screen.printable(text) == told
    assert screen.lines(text) == (text if text == "a\nb" else told)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_seen_stays(text: str) -> None:
    assert screen.printable(text) == screen.lines(text) == text


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    told = screen.printable(text)
    assert told.isprintable()
    assert screen.printable(told) == told
    assert all(line.isprintable() for line in screen.lines(text).replace("\t", "").split("\n"))


@pytest.mark.parametrize(("text", "told"), HOSTILE.items())
def test_the_console_escapes_what_nobody_did(text: str, told: str) -> None:
    stream = io.StringIO()
    console = screen.console(stream, width=100)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    for what in (text, Text(text), table):
        console.print(what)
    shown = stream.getvalue()
    assert shown.replace("\n", "").isprintable()
    if not set("\n\r\x07") & set(text):  # Those rich itself leaves out, or takes as line ends.
        assert shown.count(told) >= 3  # Cells, measured before, are cut.


def test_brackets_are_text_and_styles_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    console = screen.console(stream, force_terminal=True, color_system="standard")
    console.print("[link=http://evil.example]:warning:", style="red", highlight=False)
    assert stream.getvalue() == "\x1b[31m[link=http://evil.example]:warning:\x1b[0m\n"


@pytest.mark.parametrize("value", ["1", "yes, please"])
def test_no_color_of_any_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    stream = io.StringIO()
    screen.console(stream, force_terminal=True).print("plain", style="red")
    assert stream.getvalue() == "plain\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "tis-620", "utf-8"])
def test_no_encoding_fails(encoding: str) -> None:
    code = (
        "import sys\n"
        "from gridtokenx.runtime import screen\n"
        "screen.prepare_streams()\n"
        "screen.console().print('ก ☀ é')\n"
        "screen.console(sys.stderr).print('ก ☀ é')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        check=True,
    )
    expected = "ก ☀ é\n".encode(encoding, "backslashreplace")
    assert (ran.stdout, ran.stderr) == (expected, expected)


@pytest.mark.parametrize("use", ["write('x' * 10)", "console().print('x')"])
def test_a_reader_that_went_away_ends_the_program_quietly_and_cleanly(use: str) -> None:
    code = (
        "import sys\n"
        "from gridtokenx.runtime import screen\n"
        "screen.prepare_streams()\n"
        "try:\n"
        f"    screen.{use}\n"
        "finally:\n"
        f"    screen.{use}\n"
        "    sys.stderr.write('nodes are stopped')\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", code]
    environ = {"PYTHONPATH": str(PACKAGE.parent)}
    ran = subprocess.run(command, env=environ, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, b"nodes are stopped")


def test_a_live_table_is_drawn_in_place_as_ever() -> None:
    def drawn(console: Console) -> str:
        with Live(console=console, auto_refresh=False) as live:
            for height in range(3):
                table = Table(title="heights")
                table.add_column("region")
                table.add_row(f"MET #{height}")
                live.update(table, refresh=True)
        return console.file.getvalue()

    options = {"force_terminal": True, "color_system": "standard", "width": 60}
    ours = drawn(screen.console(io.StringIO(), **options))
    assert ours == drawn(Console(file=io.StringIO(), **options))
    assert "\x1b[1A" in ours  # The cursor goes up: drawn in place.


def test_every_module_draws_through_this_one() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.split(".")[-1] in {"Console", "echo", "secho"} and path.name != "screen.py":
                found.append(f"{path.relative_to(PACKAGE)} {name}")
    assert found == ["cli/__init__.py typer.echo"]  # The version, which is ours.
