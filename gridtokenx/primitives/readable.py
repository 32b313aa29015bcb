"""The law that what is written can be read back: `check_all`, asked where values enter the state.

An encoder writes any number; a decoder takes those of its type. A sum that was stored beyond that
could never be loaded again, and a node that has it in memory would go on where one that reads it
from disk stops. So each class has a function, made for it as those of dataclasses are, that refuses
what `codec.decode` would refuse. Source: protocols/state-transition.md 6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from gridtokenx.primitives.codec import (
    MAX_BYTES,
    MAX_INT,
    MAX_ITEMS,
    MAX_TEXT,
    Limit,
    bare_hint,
    encode,
    is_union,
    is_wire,
    judge,
)
from gridtokenx.primitives.errors import ErrorCode, Rejected

_Check = Callable[[Any], None]
_UNKNOWN: Any = object()
# By class, None where nothing can be out of range.
_CHECKS: dict[type[Any], _Check | None] = {type(None): None}


def check_all(values: Iterable[object]) -> None:
    """Refuse wire values (None is passed over) whose encoding `decode` would refuse.

    What is looked at is what arithmetic can spoil: numbers, lengths, the size of the whole. That
    fields have the right types is for the type checker. About 0.4 us a value, and every value of
    every transaction comes by here. Errors: OUT_OF_RANGE or TOO_LARGE naming field and range.
    """
    for value in values:
        check = _CHECKS.get(value.__class__, _UNKNOWN)
        if check is _UNKNOWN:
            check = _CHECKS[value.__class__] = _check_of_whole(value.__class__)
        if check is not None:
            check(value)


def most_bytes(hint: Any, limit: Limit | None = None) -> int:
    """No encoding of a type has more bytes. A head has at most nine."""
    hint, own = bare_hint(hint)
    limit = own or limit
    if get_origin(hint) is tuple:
        return 9 + (MAX_ITEMS if limit is None else limit.high) * most_bytes(get_args(hint)[0])
    if is_union(hint):
        return max([most_bytes(one, limit) for one in get_args(hint)])
    if hint is bytes:
        return 9 + (MAX_BYTES if limit is None else limit.high)
    if hint is str:
        return 9 + 4 * (MAX_TEXT if limit is None else limit.high)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return 9 + max([len(member.encode()) for member in hint])
    if not is_wire(hint):
        return 9
    hints = get_type_hints(hint, include_extras=True)
    return 18 + sum([most_bytes(hints[one.name]) for one in dataclasses.fields(hint) if one.init])


def _check_of_whole(cls: Any) -> _Check | None:
    """The check of a value that is stored by itself, which is read as at most MAX_BYTES."""
    if not is_wire(cls):
        raise TypeError(f"{cls.__name__} has no wire encoding")
    check = _check_of(cls)
    return _with_size(check or _nothing) if most_bytes(cls) > MAX_BYTES else check


def _with_size(check: _Check) -> _Check:
    """For the few classes whose types alone do not bound their size."""

    def check_size(value: Any) -> None:
        check(value)
        size = len(encode(value))
        if size > MAX_BYTES:
            detail = f"a {type(value).__name__} of {size} bytes, at most {MAX_BYTES} can be stored"
            raise Rejected(ErrorCode.TOO_LARGE, detail)

    return check_size


@cache
def _check_of(cls: Any) -> _Check | None:
    writer = _Writer()
    lines = writer.of_class(cls, "value")
    if not lines:
        return None
    text = "\n".join(["def check(value):", *_indented(lines)])
    exec(compile(text, f"<check of {cls.__name__}>", "exec"), writer.names)  # noqa: S102
    made: _Check = writer.names["check"]
    return made


class _Writer:
    """Writes the lines of a check. `names` are what they refer to.

    Numbers without limits of their own are looked at in one go: those from 0 to 2**63-1, and no
    others, have no bit from 63 on, which a negative number has.
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"refuse": _refuse}

    def of_class(self, cls: Any, place: str) -> list[str]:
        """What to ask of a value of a wire class that stands at `place`."""
        hints = get_type_hints(cls, include_extras=True)
        numbers, wrong, steps = [], [], []
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            hint, limit = bare_hint(hints[field.name])
            at = f"{place}.{field.name}"
            if hint is int and limit is None:
                numbers.append(at)
                continue
            test = _test(hint, limit, at)
            if test is not None:
                wrong.append(test)
            steps += self._inside(hint, limit, at)
        if numbers:
            wrong.insert(0, f"({' | '.join(numbers)}) >> 63")
        return [*_refusal(" or ".join(wrong)), *steps]

    def _inside(self, hint: Any, limit: Limit | None, place: str) -> list[str]:
        """What to ask of the parts of a field."""
        if get_origin(hint) is tuple:
            item = self._new("item")
            lines = self._whole(get_args(hint)[0], None, item)
            return [f"for {item} in {place}:", *_indented(lines)] if lines else []
        if is_union(hint):
            return self._union(hint, limit, place)
        if is_wire(hint):
            part = self._new("part")
            lines = self.of_class(hint, part)
            return [f"{part} = {place}", *lines] if lines else []
        return []

    def _whole(self, hint: Any, limit: Limit | None, place: str) -> list[str]:
        hint, own = bare_hint(hint)
        test = _test(hint, own or limit, place) or ""
        return [*_refusal(test), *self._inside(hint, own or limit, place)]

    def _union(self, hint: Any, limit: Limit | None, place: str) -> list[str]:
        members = [one for one in get_args(hint) if one is not type(None)]
        if len(members) == 1:
            lines = self._whole(members[0], limit, place)
        else:
            checks = self._new("checks")
            self.names[checks] = {member: _check_of(member) or _nothing for member in members}
            lines = [f"{checks}[{place}.__class__]({place})"]
        if lines and len(members) < len(get_args(hint)):
            return [f"if {place} is not None:", *_indented(lines)]
        return lines

    def _new(self, word: str) -> str:
        name = f"{word}_{len(self.names)}"
        self.names[name] = None
        return name


def _test(hint: Any, limit: Limit | None, place: str) -> str | None:
    """An expression that is true where a number or a length is out of range."""
    if get_origin(hint) is tuple:
        return _outside(f"len({place})", limit or Limit(0, MAX_ITEMS))
    if hint is int:
        return _outside(place, limit or Limit(0, MAX_INT))
    if hint in (bytes, str):
        default = MAX_BYTES if hint is bytes else MAX_TEXT
        return _outside(f"len({place})", limit or Limit(0, default))
    return None


def _outside(what: str, limit: Limit) -> str:
    if limit.low == limit.high:
        return f"{what} != {limit.low}"
    return f"not {limit.low} <= {what} <= {limit.high}"


def _refusal(test: str) -> list[str]:
    return [f"if {test}:", "    refuse(value)"] if test else []


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _nothing(_value: Any) -> None:
    """The check of a class that has nothing to ask."""


def _refuse(value: Any) -> None:
    """The decoder says it best: its words are what a sender is told."""
    judge(value)
    raise AssertionError(f"the check of {type(value).__name__} refuses what its decoder takes")
