"""The JSON of typed values, from their types alone: how it is written, read back and checked.

A parameter or a field of an answer is `Annotated[type, Rule(...)]`. In JSON an integer is text,
unless its rule says `number`; bytes are hex, an `Address` is gtx1..., a tuple a list, `| None` may
be null, and a value of the wire has its `kind` first, as in `primitives.document`. Every field is
always there. What is written is what `json.dumps` would write, at half the time.

Source: docs/api.md "Units".
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from gridtokenx.primitives.codec import is_union, is_wire
from gridtokenx.primitives.document import from_document, kind_of
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import Address, format_address, parse_address

if TYPE_CHECKING:
    from gridtokenx.answers.kinds import Kind  # Not needed by who only reads answers.

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
    """`write` gives JSON text; `read` takes parsed JSON and raises ValueError, saying where.

    `form % code`, where `$` stands for the value, is `write` as an expression, if it is short.
    """

    write: Write
    read: Read
    form: str = "%s"
    code: str = ""


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


def shape_of(answer: Any) -> Shape:
    """How an answer is written and read, of a class or of one of several."""
    found = _SHAPES.get(answer)
    if found is None:
        known = _of_class if isinstance(answer, type) else partial(_shape, rule=_PLAIN)
        found = _SHAPES[answer] = known(answer)
    return found


_SHAPES: dict[Any, Shape] = {}


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


def _leaf(form: str, code: str, read: Read) -> Shape:
    return Shape(_compiled(form, [code]), read, form, code)


def _compiled(template: str, expressions: Sequence[str], scope: Mapping[str, Any] = {}) -> Write:
    """`template % expressions`, in which `$` is the value: as `dataclasses` makes a method.

    A chain of closures takes six times as long, and this writes every answer. What is compiled is
    made of names of fields alone.
    """
    words = "".join(f"{one}, " for one in expressions).replace("$", "value")
    return eval(f"lambda value: {template!r} % ({words})", {**_SCOPE, **scope})  # type: ignore[no-any-return]


_SCOPE = {
    "quote": encode_basestring_ascii,
    "format_address": lru_cache(8192)(format_address),  # Takes longer than all else together.
    "dump": _dump,
}
_ADDRESS = _leaf('"%s"', "format_address($)", _read_address)
_HEX = _leaf('"%s"', "$.hex()", _read_hex)
_DECIMAL = _leaf('"%d"', "$", _read_decimal)
_NUMBER = _leaf("%d", "$", _reader(int, "a number"))
_NULL = _leaf("%s", "'null'", _as_it_is)
_LEAVES: dict[Any, Shape] = {
    str: _leaf("%s", "quote($)", _reader(str, "text")),
    bool: _leaf("%s", "'true' if $ else 'false'", _reader(bool, "true or false")),
    float: _leaf("%s", "dump($)", _reader((int, float), "a number")),
    Any: _leaf("%s", "dump($)", _as_it_is),
    NoneType: _NULL,
    None: _NULL,
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
    """Of types that their JSON tells apart; of two objects the first that can be read."""
    shapes = {member: _shape(member, rule) for member in members}
    if len(shapes) == 2 and NoneType in shapes:
        (one,) = [shape for member, shape in shapes.items() if member is not NoneType]
        write_one, read_one = one.write, one.read
        return Shape(
            lambda value: "null" if value is None else write_one(value),
            lambda raw: None if raw is None else read_one(raw),
            code=f"'null' if $ is None else {one.form!r} % ({one.code},)" if one.code else "",
        )
    by_type = {_class_of(member): shape.write for member, shape in shapes.items()}
    by_kind = {kind_of(member): shape.read for member, shape in shapes.items() if is_wire(member)}
    others = [(_json_type_of(one), shape.read) for one, shape in shapes.items() if not is_wire(one)]

    def read(raw: Any) -> Any:
        kind = raw.get("kind") if isinstance(raw, dict) else None
        if isinstance(kind, str) and kind in by_kind:
            return by_kind[kind](raw)
        why = "is of no type that it can have"
        for json_type, read_one in others:
            try:
                if isinstance(raw, json_type):
                    return read_one(raw)
            except ValueError as error:
                why = str(error)
        raise ValueError(why)

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

    return Shape(_object_writer("", shapes), read)


def _of_wire(cls: type[Any], rule: Rule) -> Shape:
    kind = kind_of(cls)
    mask = rule.mask or Mask({})
    below = Rule("", number=rule.number, mask=rule.mask)
    shapes = {name: _shape(hint, below) for name, hint in fields_of(cls).items()}
    shapes |= dict.fromkeys(mask.hidden.get(kind, ()), _NULL)
    if "kind" in shapes:  # Of its own, which stands where the class's would.
        fixed = _object_writer("", {"kind": shapes["kind"], **shapes})
    else:
        fixed = _object_writer(f'"kind":"{kind}"', shapes)
    added = mask.added.get(kind, {})
    if not added:
        return Shape(fixed, _wire_reader(cls))

    def write(value: Any) -> str:
        more = [f'"{name}":{encode_basestring_ascii(tell(value))}' for name, tell in added.items()]
        return f"{fixed(value)[:-1]},{','.join(more)}}}"

    return Shape(write, _wire_reader(cls))


def _object_writer(first: str, shapes: Mapping[str, Shape]) -> Write:
    """`first` is what stands before the fields."""
    parts = [first] if first else []
    parts += [f'"{name}":{shape.form}' for name, shape in shapes.items()]
    expressions = [
        (shape.code or f"write_{name}($)").replace("$", f"$.{name}")
        for name, shape in shapes.items()
    ]
    scope = {f"write_{name}": shape.write for name, shape in shapes.items()}
    return _compiled("{" + ",".join(parts) + "}", expressions, scope)
