"""What the pages say against the program: commands, paths, links, settings and codes."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gridtokenx.cli import app

ROOT = Path(__file__).resolve().parents[2]
NODE_OPERATION = ROOT / "docs" / "node-operation.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = re.compile(r"^```\w*$(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"(?<![\w./-])gridtokenx(?:-node|-cli)? +([a-z][^#\n|;&]*)")


def commands_in(text: str) -> list[str]:
    """What follows `gridtokenx` in code blocks and code spans."""
    code = [block or span for block, span in CODE.findall(text.replace("\\\n", " "))]
    return [found.strip() for part in code for found in PROGRAM.findall(part)]


def check_words(words: list[str]) -> None:
    """Each word up to the first option is a command, each option one that it or the root takes."""
    root = get_command(app)
    command: Any = root
    rest = list(words)
    while rest and hasattr(command, "get_command"):
        if hasattr(command, "type_first"):
            rest = command.type_first(rest)
        if rest[0].startswith("-"):
            break
        command = command.get_command(None, rest.pop(0))
        assert command is not None, f"no such command: {words}"
    for word in rest:
        parameters = [*root.params, *command.params]
        known = {name for one in parameters for name in (*one.opts, *one.secondary_opts)}
        name = word.partition("=")[0]
        assert not word.startswith("-") or name in {*known, "--help"}, f"{word} of {words}"
    needed = [one.opts for one in command.params if one.required and one.opts[0].startswith("-")]
    if rest:  # without any, the page only names the command
        assert all(set(opts) & set(rest) for opts in needed), f"{words} needs {needed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    for line in commands_in(page.read_text()):
        check_words(shlex.split(line))


def test_commands_are_found_where_pages_have_them() -> None:
    block = "```\ngridtokenx start --dry-run  # x\nexec mea gridtokenx status\n```"
    text = f"`gridtokenx keys list`\n{block}"
    assert commands_in(text) == ["keys list", "start --dry-run", "status"]
    found = [line for page in PAGES for line in commands_in(page.read_text())]
    assert len(found) > 40
    for wrong in (
        "nonsense",
        "keys nonsense",
        "start --nonsense",
        "orders place --sid sell",
        "orders place --side sell",
    ):
        with pytest.raises(AssertionError):
            check_words(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"\bscripts/([\w-]+)", page.read_text()):
        assert (ROOT / "scripts" / name).is_file(), f"{page.name}: scripts/{name}"


def test_the_table_of_settings_is_that_of_the_program() -> None:
    renewed = runpy.run_path(str(ROOT / "scripts" / "settings"))["renewed"]
    page = NODE_OPERATION.read_text()
    assert "| `max_peers` |" in page
    assert renewed(page) == page, "run: .venv/bin/python scripts/settings"


def test_every_code_is_explained() -> None:
    sources = (ROOT / "gridtokenx").rglob("*.py")
    used = {code for path in sources for code in re.findall(r"GTX-[A-Z]+-\d+", path.read_text())}
    listed = re.findall(r"^\| `(GTX-[A-Z]+-\d+)` \|", NODE_OPERATION.read_text(), re.MULTILINE)
    assert listed == sorted(used)
