"""How modules and objects hang together: no circles, no reaching into others, whole from birth."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.unit.test_tidy import FILES, ROOT, TREES, at

MAKERS = ("__init__", "__new__")
# Of named tuples, whose public methods look private.
PUBLIC = ("_replace", "_asdict", "_fields", "_make")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


# -- No circles ------------------------------------------------------------------------------------


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, for its types alone as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_not_even_for_their_types() -> None:
    arrows = {name: set(imported(TREES[path])) - {name} for name, path in MODULES.items()}
    assert circle(arrows) == []


def test_the_check_for_circles_sees() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    source = "if TYPE_CHECKING:\n    from gridtokenx.node import driver\ndef f():\n    import os"
    assert list(imported(ast.parse(source))) == ["gridtokenx.node.driver"]


# -- Nobody reaches into another -------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def own_names(tree: ast.AST) -> set[str]:
    """What a module itself defines: methods, attributes of `self` and of class bodies."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def reaches_in(tree: ast.AST) -> Iterator[ast.AST]:
    """Private attributes of another module's objects, and private names imported from one.

    A module's own classes may look into each other: they are written and read together.
    """
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            value = node.value
            is_self = isinstance(value, ast.Name) and value.id in ("self", "cls")
            is_super = isinstance(value, ast.Call) and ast.unparse(value) == "super()"
            if not is_self and not is_super:
                yield node
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if any(is_private(name) for name in (*module, *(one.name for one in node.names))):
                yield node


def test_nobody_reads_a_private_name_of_another_module() -> None:
    """But for the overrides, which replace what is inside a library."""
    files = [path for path in FILES if path.parent.name != "libp2p_overrides"]
    found = [at(path, node) for path in files for node in reaches_in(TREES[path])]
    assert found == []


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("other._x", True),
        ("self.other._x()", True),
        ("from a import _b", True),
        ("from a._b import c", True),
        ("self._x", False),
        ("super()._x()", False),
        ("row._replace(a=1)", False),
        ("class A:\n    def __init__(self, a):\n        self._x = a._x", False),
    ],
)
def test_the_check_for_private_names_sees(source: str, caught: bool) -> None:
    assert bool(list(reaches_in(ast.parse(source)))) is caught


# -- An object is whole from birth -----------------------------------------------------------------


def bound(function: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes of `self` that a method assigns."""
    for node in ast.walk(function):
        is_assigned = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_assigned and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node


def born(tree: ast.ClassDef) -> set[str]:
    """Attributes that a class body names or its makers assign."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.FunctionDef) and node.name in MAKERS:
            found |= {one.attr for one in bound(node)}
        elif isinstance(node, ast.FunctionDef) and any(
            ast.unparse(one).endswith(".setter") for one in node.decorator_list
        ):
            found.add(node.name)
    return found


def inherited(name: str, module: str) -> set[str]:
    """What the classes above one give it, those of libraries too."""
    found = set()
    for above in getattr(importlib.import_module(module), name).__mro__[1:]:
        found |= set(vars(above)) | set(getattr(above, "__slots__", ()))
        if above.__module__ != "builtins" and inspect.getsourcefile(above) is not None:
            body = ast.parse(textwrap.dedent(inspect.getsource(above))).body[0]
            found |= born(body) if isinstance(body, ast.ClassDef) else set()
    return found


def born_later(tree: ast.ClassDef, known: set[str]) -> Iterator[ast.Attribute]:
    for method in tree.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (node for node in bound(method) if node.attr not in known)


def test_no_attribute_is_born_after_its_object() -> None:
    found = []
    for module, path in MODULES.items():
        for node in TREES[path].body:
            if isinstance(node, ast.ClassDef) and list(born_later(node, born(node))):
                known = born(node) | inherited(node.name, module)
                found += [f"{at(path, one)} {one.attr}" for one in born_later(node, known)]
    assert found == []


@pytest.mark.parametrize(
    ("body", "later"),
    [
        ("def __init__(self):\n  self.a = 1\n def f(self):\n  self.a = 2", []),
        ("a: int = 1\n def f(self):\n  self.a = 2", []),
        ("def f(self):\n  self.a, self.b = 2, 3", ["a", "b"]),
        ("async def f(self):\n  with x as self.a:\n   pass", ["a"]),
    ],
)
def test_the_check_for_late_attributes_sees(body: str, later: list[str]) -> None:
    (tree,) = ast.parse(f"class A:\n {body}").body
    assert isinstance(tree, ast.ClassDef)
    assert [node.attr for node in born_later(tree, born(tree))] == later
