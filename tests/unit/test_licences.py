"""What is installed with GridTokenX may be passed on with it: no copyleft beyond the file."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-test.lock")  # To run, to test.
FORBIDDEN = re.compile(
    r"\b[AL]?GPL|General Public License|\bSSPL|Business Source|\bBUSL|\bBSL-1\.1"
    r"|\bODbL|Open Database",
    re.IGNORECASE,
)
# libp2p imports it at start, for a discovery that is never switched on here. It is used as its
# authors publish it, through Python's import, which the LGPL allows from a program of any licence.
EXCEPTIONS = {"zeroconf": "LGPL-2.1-or-later"}


def locked(*locks: Path) -> dict[str, str]:
    """Name and version of every package of the locks that this system needs."""
    text = "".join(lock.read_text() for lock in locks or LOCKS)
    lines = [line.rstrip(" \\") for line in text.splitlines() if "==" in line[:80]]
    pins = [line for line in lines if not line.startswith((" ", "#")) and "win32" not in line]
    return dict(re.match(r"([^=\s]+)==(\S+)", line).groups() for line in pins)


def told(name: str) -> list[str]:
    """Every licence a package's metadata names."""
    about = metadata.metadata(name)
    classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License")]
    free_text = (about.get("License") or "").strip().splitlines()[:1]
    expression = about.get("License-Expression")
    return [text for text in (expression, *classifiers, *free_text) if text]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_every_package_with_hashes_and_names_no_registry(lock):
    text = lock.read_text()
    assert len(locked(lock)) > 25
    assert text.count("--hash=sha256:") >= len(locked(lock))
    assert "://" not in text
    assert "fastecdsa" not in locked(lock)


def asked(lines):
    return {re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-") for line in lines}


def test_the_locks_have_everything_the_project_asks_for_and_no_test_tool_runs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    to_run, to_test = (set(locked(lock)) for lock in LOCKS)
    assert asked(project["dependencies"]) <= to_run, "run scripts/lock"
    extra = asked(project["optional-dependencies"]["test"])
    assert extra <= to_run | to_test, "run scripts/lock"
    assert not to_run & to_test
    assert to_run & extra == {"psutil"}


@pytest.mark.parametrize("name", sorted(locked()))
def test_no_locked_package_has_a_forbidden_licence(name):
    licences = told(name)
    assert licences, f"{name} names no licence"
    forbidden = [text for text in licences if FORBIDDEN.search(text)]
    assert forbidden == ([EXCEPTIONS[name]] if name in EXCEPTIONS else [])
