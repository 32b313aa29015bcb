"""Answers in JSON that are whole: what a test does not say is as the fields' examples have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from gridtokenx.answers.shapes import fields_of, rule_of
from gridtokenx.primitives.codec import is_union, is_wire


def whole(answer: type[Any], **given: Any) -> dict[str, Any]:
    """The JSON of an answer, with the fields that are given, each in JSON."""
    hints = fields_of(answer)
    assert set(given) <= set(hints), set(given) - set(hints)
    return {
        name: given[name] if name in given else _example(name, hint) for name, hint in hints.items()
    }


def has_examples(answer: type[Any]) -> bool:
    """Whether it can be made without saying anything: no wire value is in it that must be."""
    try:
        whole(answer)
    except AssertionError:
        return False
    return True


def _example(name: str, hint: Any) -> Any:
    rule = rule_of(hint)
    if rule is not None and rule.example is not None:
        return rule.example
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if is_union(bare) and NoneType in get_args(bare):
        return None
    origin = get_origin(bare)
    if origin is tuple:
        return []
    if origin in (dict, Mapping):
        return {}
    if origin is Literal:
        return get_args(bare)[0]
    if bare is NoneType:
        return None
    if dataclasses.is_dataclass(bare) and not is_wire(bare):
        return whole(bare)  # type: ignore[arg-type]  # a class: not an instance
    raise AssertionError(f"{name} has no example: say what it is")
