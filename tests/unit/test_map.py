"""The map against the house: every room is on it, and every place that it names is there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gridtokenx"
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE}
PLACE = re.compile(r"`([\w/.-]+\.(?:py|yml|toml))(?::([\w.]+))?`")
EXAMPLES = {
    *("model.py", "rules.py", "CONTEXT/model.py", "CONTEXT/rules.py"),
    *("answers/NAMESPACE.py", "api/methods/NAMESPACE.py", "cli/NOUN.py"),
}
STEP = re.compile(r"^\| (\d+) \| `([\w/]+\.py)(?::([\w.]+))?` \|.*\| ([^|]+) \|$", re.MULTILINE)


def chapter(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", MAP, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def find(place: str) -> Path:
    """A file of the package, or else of the repository."""
    return next((path for path in (PACKAGE / place, ROOT / place) if path.is_file()), Path())


def names_in(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """What a module or class defines, with the body of each."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.body
        elif isinstance(node, ast.Assign):
            yield from ((one.id, []) for one in node.targets if isinstance(one, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, []


def defines(path: Path, name: str) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = dict(names_in(body))
        if part not in found:
            return False
        body = found[part]
    return True


def layers() -> dict[str, int]:
    """How high a room stands, by the contract."""
    document: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = document["tool"]["importlinter"]["contracts"]
    rows = next(one["layers"] for one in contracts if one["id"] == "layers")
    return {
        name.strip(): len(rows) - number
        for number, row in enumerate(rows)
        for name in row.split("|")
    }


def test_every_room_is_on_the_map() -> None:
    rows = re.findall(
        r"^\| `([\w/]+)` \| ([^|]+) \| ([^|]+) \|$", chapter("The rooms"), re.MULTILINE
    )
    assert sorted(name for name, _, _ in rows) == sorted(
        str(path.relative_to(PACKAGE)) for path in PACKAGES
    )
    heights = layers()
    order = [heights[name.partition("/")[0]] for name, _, _ in rows]
    assert order == sorted(order, reverse=True), "rooms stand in the order of the layers"


def test_every_place_on_the_map_is_there() -> None:
    places = PLACE.findall(MAP)
    assert len(places) > 80
    missing = []
    for place, name in places:
        if place in EXAMPLES:
            continue
        path = find(place)
        if not path.is_file() or (name and not defines(path, name)):
            missing.append(f"{place}:{name}")
    assert missing == []


@pytest.mark.parametrize("title", ["An order on its way", "A block on its way"])
def test_calls_go_down_through_the_house(title: str) -> None:
    """What goes up is a callback, a queue, an effect, a message or another thread's."""
    heights = layers()
    steps = {int(number): found for number, *found in STEP.findall(chapter(title))}
    assert list(steps) == list(range(1, len(steps) + 1))
    assert len(steps) > 20
    calls = 0
    for place, name, how in steps.values():
        called = re.match(r"call of (\d+)", how)
        if called is None:
            assert re.match(
                r"a person|the network|(?:HTTP|thread|callback|gossip|queue|effect)\b", how
            ), how
            continue
        calls += 1
        by = steps[int(called[1])][0]
        above, below = (heights[one.partition("/")[0]] for one in (by, place))
        inside = by.partition("/")[0] == place.partition("/")[0]
        assert inside or above > below, f"{by} calls {place}"
        near = "".join(path.read_text(encoding="utf-8") for path in find(by).parent.glob("*.py"))
        bare = name.rpartition(".")[2]
        assert re.search(rf"\b{bare}[(,)]", near), f"nothing beside {by} calls {name}"
    assert calls > 10


@pytest.mark.parametrize("package", sorted(PACKAGES), ids=lambda path: path.name)
def test_every_room_has_a_name_plate(package: Path) -> None:
    """One to three sentences: what it is, and what always holds in it."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None
    first = re.sub(r"\s+", " ", said.partition("\n\n")[0])
    assert len(first) > 40
    assert first.endswith(".")
    assert 1 <= len(re.findall(r"\.(?= [A-Z]|$)", first)) <= 3


def test_places_that_are_not_there_are_seen() -> None:
    path = find("primitives/codec.py")
    assert defines(path, "wire")
    assert not defines(path, "wire.nothing")
    assert not defines(path, "nothing")
    assert not find("primitives/nothing.py").is_file()
