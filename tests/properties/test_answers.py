"""What a node writes of an answer is what a client reads."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.answers.chain import GenesisAnswer
from gridtokenx.answers.shapes import ADDRESS_MARK, fields_of, read_json, rule_of, write_json
from gridtokenx.api.methods import METHODS
from gridtokenx.grid.model import ReadingRefused
from gridtokenx.primitives.codec import MAX_INT, is_union, is_wire
from gridtokenx.primitives.errors import ErrorCode
from tests.support.wire_values import values_of

# A genesis is a whole network, whose file has tests of its own.
ANSWERS = {
    f"{method.name} {getattr(answer, '__name__', '')}": answer
    for method in METHODS
    for answer in get_args(method.answer) or (method.answer,)
    if isinstance(answer, type) and answer is not GenesisAnswer and dataclasses.is_dataclass(answer)
}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: WORDS,
    bool: st.booleans(),
    int: st.integers(0, MAX_INT),
    float: st.integers(-4096, 4096).map(lambda number: number / 4),
    bytes: st.binary(max_size=40),
    NoneType: st.none(),
    None: st.none(),
    Any: st.none() | WORDS | st.lists(WORDS, max_size=2),
}


def answers(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type of an answer, or of the wire values that it shows."""
    rule = rule_of(hint)
    if rule is not None and rule.shows is not None:
        return answers(rule.shows)
    if ADDRESS_MARK in getattr(hint, "__metadata__", ()):
        return st.binary(min_size=32, max_size=32)
    if get_origin(hint) is Annotated:
        return answers(get_args(hint)[0])
    return _of_members(hint) if get_args(hint) else _of_class(hint)


def _of_members(bare: Any) -> st.SearchStrategy[Any]:
    origin, members = get_origin(bare), get_args(bare)
    if origin is tuple:
        return st.lists(answers(members[0]), max_size=2).map(tuple)
    if origin is Literal:
        return st.sampled_from(members)
    if is_union(bare):
        return st.one_of([answers(member) for member in members])
    return st.dictionaries(WORDS, answers(members[1]), max_size=2)


def _of_class(bare: Any) -> st.SearchStrategy[Any]:
    if bare in LEAVES:
        return LEAVES[bare]
    if bare is ReadingRefused:  # The executor gives it codes that there are.
        return values_of(bare).map(lambda one: dataclasses.replace(one, code=ErrorCode.BAD_READING))
    if is_wire(bare):
        return values_of(bare)
    if issubclass(bare, Enum):
        return st.sampled_from(list(bare))
    return st.builds(bare, **{name: answers(one) for name, one in fields_of(bare).items()})


def shows(hint: Any) -> bool:
    """Whether some of it is read as plain JSON, because what a meter measured is hidden."""
    rule = rule_of(hint)
    if rule is not None and rule.shows is not None:
        return True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not is_wire(hint):
        return any(shows(one) for one in fields_of(hint).values())
    return any(shows(one) for one in get_args(hint))


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=5)  # Of each answer: together they are hundreds.
@given(data=st.data())
def test_what_is_written_is_read_back_as_it_was(name: str, data: st.DataObject) -> None:
    value = data.draw(answers(ANSWERS[name]))
    document = json.loads(write_json(value))
    assert list(document) == list(fields_of(ANSWERS[name]))
    read = read_json(ANSWERS[name], document)
    assert read == value or shows(ANSWERS[name])
