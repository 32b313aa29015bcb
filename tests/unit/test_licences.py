"""What is installed with GridTokenX may be passed on with it: no copyleft beyond the file."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

LOCK = Path(__file__).parents[2] / "requirements.lock"
FORBIDDEN = re.compile(
    r"\b[AL]?GPL|General Public License|\bSSPL|Business Source|\bBUSL|\bBSL-1\.1"
    r"|\bODbL|Open Database",
    re.IGNORECASE,
)
# libp2p imports it at start, for a discovery that is never switched on here. It is used as its
# authors publish it, through Python's import, which the LGPL allows from a program of any licence.
EXCEPTIONS = {"zeroconf": "LGPL-2.1-or-later"}


def locked() -> dict[str, str]:
    """Name and version of every package of the lock that this system needs."""
    lines = [line.rstrip(" \\") for line in LOCK.read_text().splitlines() if "==" in line[:80]]
    pins = [line for line in lines if not line.startswith((" ", "#")) and "win32" not in line]
    return dict(re.match(r"([^=\s]+)==(\S+)", line).groups() for line in pins)


def told(name: str) -> list[str]:
    """Every licence a package's metadata names."""
    about = metadata.metadata(name)
    classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License")]
    free_text = (about.get("License") or "").strip().splitlines()[:1]
    expression = about.get("License-Expression")
    return [text for text in (expression, *classifiers, *free_text) if text]


def test_the_lock_pins_every_package_with_hashes_and_names_no_registry():
    text = LOCK.read_text()
    assert len(locked()) > 90
    assert text.count("--hash=sha256:") >= len(locked())
    assert "://" not in text
    assert "fastecdsa" not in locked()


def test_the_lock_has_everything_the_project_asks_for():
    project = tomllib.loads((LOCK.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-") for line in asked}
    assert names - set(locked()) == set(), "run scripts/lock"


@pytest.mark.parametrize("name", sorted(locked()))
def test_no_locked_package_has_a_forbidden_licence(name):
    licences = told(name)
    assert licences, f"{name} names no licence"
    forbidden = [text for text in licences if FORBIDDEN.search(text)]
    assert forbidden == ([EXCEPTIONS[name]] if name in EXCEPTIONS else [])
