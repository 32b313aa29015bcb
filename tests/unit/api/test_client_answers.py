"""What a client makes of a node's answers: the classes that the node fills in, or a complaint."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import gridtokenx
from gridtokenx import answers
from gridtokenx.answers.chain import ChainHead
from gridtokenx.api.methods import METHOD_BY_NAME
from gridtokenx.client import BadAnswer
from gridtokenx.client.rpc import Rpc
from tests.support.answers import whole

PACKAGE = Path(gridtokenx.__file__).parent


def asked() -> list[tuple[str, str, str]]:
    """(place, method, name of the class) of every `ask` and `ask_many` of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("ask", "ask_many") or len(node.args) < 2:
                continue
            method, answer = node.args[:2]
            place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            if isinstance(method, ast.Constant):
                found.append((place, str(method.value), _last(answer)))
            elif isinstance(method, ast.Name) and isinstance(named.get(method.id), ast.Constant):
                found.append((place, str(named[method.id].value), _last(answer)))  # type: ignore[attr-defined]
    return found


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_every_answer_is_read_as_what_its_method_returns() -> None:
    calls = asked()
    assert len(calls) > 30
    for place, method, name in calls:
        answer = METHOD_BY_NAME[method].answer
        names = {one.__name__ for one in get_args(answer) or (answer,)}
        assert name in names, (place, method, name)


def test_modules_of_answers_are_there_once_they_are_asked_for() -> None:
    assert isinstance(answers.staking, ModuleType)
    with pytest.raises(AttributeError, match="has no module nonsense"):
        answers.nonsense  # noqa: B018


class Told(Rpc):
    """A client of a node that answers with what a test says."""

    def __init__(self, document: Any) -> None:
        super().__init__("http://127.0.0.1:9")
        self.document = document

    def call(self, method: str, **params: Any) -> Any:
        return self.document


def head_of(document: Any) -> ChainHead:
    with Told(document) as client:
        return client.ask("chain_getHead", ChainHead)


def test_what_a_newer_node_tells_besides_is_left_out() -> None:
    document = whole(ChainHead, height="7")
    assert head_of({**document, "moon": "full"}) == head_of(document)
    assert head_of(document).height == 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"height": 7}, "has height that is not a whole number as text"),
        ({"height": "seven"}, "has height that is not a whole number as text"),
        ({"hash": "zz"}, "has hash that non-hexadecimal"),
        ({"proposer_index": True}, "has proposer_index that is not a number"),
    ],
)
def test_a_field_of_another_type_is_the_nodes_fault(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadAnswer, match=told):
        head_of({**whole(ChainHead), **change})


def test_a_field_that_is_not_there_is_the_nodes_fault() -> None:
    document = whole(ChainHead)
    del document["state_root"]
    with pytest.raises(BadAnswer, match="its answer has no state_root"):
        head_of(document)
