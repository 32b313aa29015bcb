"""The command line run in this process, with its own home and environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gridtokenx.cli import app


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything besides it is an error."""
        return json.loads(self.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    monkeypatch.setenv("GRIDTOKENX_HOME", str(home))
    monkeypatch.delenv("RUST_LOG", raising=False)

    def invoke(*words: object, typed: str | None = None, **environ: str) -> Ran:
        result = CliRunner().invoke(app, [str(word) for word in words], env=environ, input=typed)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def fast_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that cost nothing to derive, where the cost is not under test."""
    from gridtokenx.node import keystore

    monkeypatch.setitem(keystore.create.__kwdefaults__, "iterations", 10)
