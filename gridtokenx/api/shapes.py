"""The JSON of typed values, from their types alone: how it is written, read back and checked.

A parameter or a field of an answer is `Annotated[type, Rule(...)]`. In JSON an integer is text,
unless its rule says `number`; bytes are hex, an `Address` is gtx1..., a tuple a list, `| None` may
be null, and a value of the wire has its `kind` first, as in `primitives.document`. Every field is
always there. What is written is what `json.dumps` would write, at half the time.

Source: docs/api.md, "Conventions".
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gridtokenx.api.kinds import Kind
from gridtokenx.primitives.codec import is_union, is_wire
from gridtokenx.primitives.document import from_document, kind_of
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import Address, format_address, parse_address

T = TypeVar("T")
Write = Callable[[Any], str]
Read = Callable[[Any], Any]

ADDRESS_MARK = get_args(Address)[-1]
_INTEGER = re.compile(r"-?[0-9]{1,80}")
_dump = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Mask:
    """What of wire values is not shown: by kind, fields that are null; and what is told besides."""

    hidden: Mapping[str, tuple[str, ...]]
    added: Mapping[str, Mapping[str, Callable[[Any], str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a parameter or a field of an answer is.

    `kind` reads a parameter and holds its limits. `unit` of a number whose name does not end with
    it. `example` as in JSON, for all but objects. `number`: its integers are JSON numbers, of at
    most 2**53. Of a field of type `Any`: `shows` is the wire type whose values it holds where it is
    written, and of which JSON is read back, because `mask` hides some of it; without `shows` it is
    any JSON.
    """

    help: str
    kind: Kind | None = None
    unit: str = ""
    example: Any = None
    number: bool = False
    shows: Any = None
    mask: Mask | None = None


_PLAIN = Rule("")


@dataclass(frozen=True, slots=True)
class Shape:
    """`write` gives JSON text; `read` takes parsed JSON and raises ValueError, saying where."""

    write: Write
    read: Read


def rule_of(hint: Any) -> Rule | None:
    """The rule of an annotated type."""
    found = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Rule)]
    return found[-1] if found else None


def fields_of(cls: type[Any]) -> dict[str, Any]:
    """Name -> annotated type of the fields that a class has in JSON, in their order."""
    hints = get_type_hints(cls, include_extras=True)
    return {one.name: hints[one.name] for one in dataclasses.fields(cls) if one.init}


def write_json(value: Any) -> str:
    """The JSON of an answer."""
    return shape_of(type(value)).write(value)


def read_json(cls: type[T], document: Any) -> T:
    """An answer from parsed JSON; unknown keys are skipped. Errors: ValueError saying where."""
    found: T = shape_of(cls).read(document)
    return found


def shape_of(cls: type[Any]) -> Shape:
    """How an answer is written and read."""
    found = _SHAPES.get(cls)
    if found is None:
        found = _SHAPES[cls] = _of_class(cls)
    return found


_SHAPES: dict[type[Any], Shape] = {}


def _shape(hint: Any, rule: Rule) -> Shape:
    """The shape of a type below a rule."""
    is_address = ADDRESS_MARK in getattr(hint, "__metadata__", ())
    rule = rule_of(hint) or rule
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if rule.shows is not None:
        return Shape(_shape(rule.shows, dataclasses.replace(rule, shows=None)).write, _as_it_is)
    if is_union(bare):
        return _of_union(get_args(bare), rule)
    if get_origin(bare) is not None:
        return _of_generic(bare, rule)
    if bare is bytes:
        return _ADDRESS if is_address else _HEX
    if bare is int:
        return _NUMBER if rule.number else _DECIMAL
    if is_wire(bare):
        return _of_wire(bare, rule)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _of_enum(bare)
    return _LEAVES[bare] if bare in _LEAVES else shape_of(bare)


def _of_generic(hint: Any, rule: Rule) -> Shape:
    """A tuple, a mapping from text, or words."""
    if get_origin(hint) is Literal:
        return _LEAVES[str]
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return _of_list(_shape(inner[0], rule))
    return _of_mapping(_shape(inner[1], rule))


# -- Leaves ----------------------------------------------------------------------------------------


def _reader(kind: type[Any] | tuple[type[Any], ...], words: str) -> Read:
    def read(raw: Any) -> Any:
        if not isinstance(raw, kind) or (kind is not bool and isinstance(raw, bool)):
            raise ValueError(f"is not {words}")
        return raw

    return read


def _as_it_is(raw: Any) -> Any:
    return raw


def _read_decimal(raw: Any) -> int:
    if not isinstance(raw, str) or not _INTEGER.fullmatch(raw):
        raise ValueError("is not a whole number as text")
    return int(raw)


def _read_hex(raw: Any) -> bytes:
    if not isinstance(raw, str):
        raise ValueError("is not hex text")
    return bytes.fromhex(raw)


def _read_address(raw: Any) -> bytes:
    if not isinstance(raw, str):
        raise ValueError("is not an address")
    try:
        return parse_address(raw)
    except Rejected as error:
        raise ValueError(f"is not an address: {error.detail}") from None


def _wire_reader(cls: type[Any]) -> Read:
    def read(raw: Any) -> Any:
        try:
            return from_document(cls, raw)
        except Rejected as error:
            raise ValueError(f"is not as it must be: {error.detail}") from None

    return read


_ADDRESS = Shape(lambda value: f'"{format_address(value)}"', _read_address)
_HEX = Shape(lambda value: f'"{value.hex()}"', _read_hex)
_DECIMAL = Shape(lambda value: '"%d"' % value, _read_decimal)  # noqa: UP031 - refuses a text.
_NUMBER = Shape(lambda value: "%d" % value, _reader(int, "a number"))  # noqa: UP031
_LEAVES: dict[Any, Shape] = {
    str: Shape(encode_basestring_ascii, _reader(str, "text")),
    bool: Shape(lambda value: "true" if value else "false", _reader(bool, "true or false")),
    float: Shape(_dump, _reader((int, float), "a number")),
    Any: Shape(_dump, _as_it_is),
    NoneType: Shape(lambda _value: "null", _as_it_is),
}


def _of_enum(cls: type[Enum]) -> Shape:
    by_name = {
        (one.name.lower() if issubclass(cls, IntEnum) else str(one.value)): one for one in cls
    }
    texts = {member: f'"{name}"' for name, member in by_name.items()}

    def read(raw: Any) -> Enum:
        found = by_name.get(raw) if isinstance(raw, str) else None
        if found is None:
            raise ValueError(f"is not one of {', '.join(by_name)}")
        return found

    return Shape(texts.__getitem__, read)


# -- Containers ------------------------------------------------------------------------------------


def _of_list(item: Shape) -> Shape:
    write_item, read_item = item.write, item.read

    def read(raw: Any) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise ValueError("is no list")
        return tuple([read_item(one) for one in raw])

    return Shape(lambda values: f"[{','.join([write_item(one) for one in values])}]", read)


def _of_mapping(value: Shape) -> Shape:
    write_value, read_value = value.write, value.read

    def write(found: Mapping[str, Any]) -> str:
        rows = [f"{encode_basestring_ascii(key)}:{write_value(one)}" for key, one in found.items()]
        return f"{{{','.join(rows)}}}"

    def read(raw: Any) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise ValueError("is no object")
        return {name: read_value(one) for name, one in raw.items()}

    return Shape(write, read)


def _of_union(members: tuple[Any, ...], rule: Rule) -> Shape:
    """Of types that their JSON tells apart: null, text, a list, an object, a wire value's kind."""
    shapes = {member: _shape(member, rule) for member in members}
    if len(shapes) == 2 and NoneType in shapes:
        (one,) = [shape for member, shape in shapes.items() if member is not NoneType]
        write_one, read_one = one.write, one.read
        return Shape(
            lambda value: "null" if value is None else write_one(value),
            lambda raw: None if raw is None else read_one(raw),
        )
    by_type = {_class_of(member): shape.write for member, shape in shapes.items()}
    by_kind = {kind_of(member): member for member in members if is_wire(member)}
    others = {_json_type_of(member): shapes[member] for member in members if not is_wire(member)}

    def read(raw: Any) -> Any:
        member = by_kind.get(raw.get("kind", "")) if isinstance(raw, dict) else None
        shape = others.get(type(raw)) if member is None else shapes[member]
        if shape is None and isinstance(raw, dict):
            shape = others.get(dict)  # Of a class of its own, as the client's.
        if shape is None:
            raise ValueError("is of no type that it can have")
        return shape.read(raw)

    return Shape(lambda value: by_type[type(value)](value), read)


def _class_of(hint: Any) -> Any:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(bare) or bare


def _json_type_of(hint: Any) -> type[Any]:
    of = _class_of(hint)
    if of in (bool, NoneType):
        return of  # type: ignore[no-any-return]  # one of the two
    return list if of is tuple else str if of in (str, bytes, int) else dict


# -- Objects ---------------------------------------------------------------------------------------


def _of_class(cls: type[Any]) -> Shape:
    shapes = {name: _shape(hint, _PLAIN) for name, hint in fields_of(cls).items()}
    readers = [(name, shape.read) for name, shape in shapes.items()]

    def read(raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise ValueError("is no object")
        values = {}
        for name, read_one in readers:
            if name not in raw:
                raise ValueError(f"has no {name}")
            try:
                values[name] = read_one(raw[name])
            except ValueError as error:
                raise ValueError(f"has {name} that {error}") from None
        return cls(**values)

    return Shape(_object_writer("", {name: one.write for name, one in shapes.items()}), read)


def _of_wire(cls: type[Any], rule: Rule) -> Shape:
    kind = kind_of(cls)
    mask = rule.mask or Mask({})
    below = dataclasses.replace(_PLAIN, mask=rule.mask)
    writers = {name: _shape(hint, below).write for name, hint in fields_of(cls).items()}
    writers |= dict.fromkeys(mask.hidden.get(kind, ()), _LEAVES[NoneType].write)
    fixed = _object_writer(f'"kind":"{kind}"', writers)
    added = mask.added.get(kind, {})
    if not added:
        return Shape(fixed, _wire_reader(cls))

    def write(value: Any) -> str:
        more = [f'"{name}":{encode_basestring_ascii(tell(value))}' for name, tell in added.items()]
        return f"{fixed(value)[:-1]},{','.join(more)}}}"

    return Shape(write, _wire_reader(cls))


def _object_writer(first: str, writers: Mapping[str, Write]) -> Write:
    """`first` is what stands before the fields."""
    parts = [first] if first else []
    template = "{" + ",".join([*parts, *(f'"{name}":%s' for name in writers)]) + "}"
    write_all = list(writers.values())
    if not writers:
        return lambda _value: template
    get = attrgetter(*writers)
    if len(write_all) == 1:
        (write_one,) = write_all
        return lambda value: template % write_one(get(value))
    return lambda value: (
        template % tuple([write(one) for write, one in zip(write_all, get(value), strict=True)])
    )
