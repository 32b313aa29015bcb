"""A command for each type of proposal, and the seed's `--type` beside it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

from gridtokenx.cli import propose
from gridtokenx.cli.output import ExitCode
from gridtokenx.cli.propose import type_first


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--type upgrade --title T", "upgrade --title T"),
        ("--title T --dry-run --type upgrade --height 1", "upgrade --title T --dry-run --height 1"),
        ("--title=T --type=Operator_Rotation", "operator-rotation --title=T"),
        ("--type emergency --type upgrade", "upgrade"),
        ("--title --type --type upgrade", "upgrade --title --type"),
        ("upgrade --type emergency", "upgrade --type emergency"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_the_option_is_the_command_wherever_it_stands(words: str, meant: str) -> None:
    assert type_first(words.split(), {"--dry-run", "--help"}) == meant.split()


def test_a_proposal_without_a_type_is_asked_for_one(run: Callable[..., Any]) -> None:
    ran = run("governance", "propose", "--title", "--type")
    assert ran.code == ExitCode.USAGE
    assert "--type" in ran.stderr
    assert "operator-rotation" in ran.stderr


@pytest.mark.parametrize("kind", propose.TYPES)
def test_the_example_of_each_type_is_a_command_of_it(kind: str, run: Callable[..., Any]) -> None:
    shown = run("governance", "propose", kind, "--help").stdout
    _, _, example = shown.partition("Example:")
    words = shlex.split(example)
    assert words[:4] == ["gridtokenx", "governance", "propose", kind]
    options = {word for word in words if word.startswith("--")}
    command = get_command(propose.app)
    known = {name for one in command.commands[kind].params for name in one.opts}
    required = {name for one in command.commands[kind].params if one.required for name in one.opts}
    assert required <= options <= known
