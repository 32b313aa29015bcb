"""The one canonical encoding: `@wire(tag)` dataclasses as CBOR arrays `[tag, field, ...]`.

Only integers, bytes, text, booleans, null and arrays exist on the wire: no maps (their canonical
order differs between RFC 7049 and 8949), no floats, no CBOR tags. Decoding re-encodes and compares,
so a value has exactly one spelling. Source: protocols/state-transition.md 1.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from enum import Enum, IntEnum, StrEnum
from operator import attrgetter
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import cbor2

from gridtokenx.primitives.errors import ErrorCode, Rejected

T = TypeVar("T")
MAX_INT = 2**63 - 1
MAX_BYTES = 8 * 1024 * 1024
MAX_TEXT = 256
MAX_ITEMS = 65_536
MAX_DEPTH = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a field, inclusive: an integer's value or the length of bytes, text or a tuple."""

    low: int
    high: int


Bytes32 = Annotated[bytes, Limit(32, 32)]
Bytes64 = Annotated[bytes, Limit(64, 64)]

_Convert = Callable[[Any], Any]
_CLASSES: dict[int, type[Any]] = {}
_TAG_OF: dict[type[Any], int] = {}
_CONSTANTS: dict[type[Any], bytes] = {}  # Encodings of classes without fields: index marks.
_ENCODERS: dict[type[Any], _Convert] = {}
_DECODERS: dict[type[Any], _Convert] = {}


def wire(tag: int) -> Callable[[type[T]], type[T]]:
    """Give a frozen dataclass its one encoding, the CBOR array `[tag, *fields]`.

    Field types: int (0..2**63-1 unless `Annotated[int, Limit(a, b)]`), bytes, str, bool, an IntEnum
    or StrEnum, another wire class, a union of wire classes, `X | None`, `tuple[X, ...]`.
    """

    def register(cls: type[T]) -> type[T]:
        if tag in _CLASSES:
            raise TypeError(f"wire tag {tag} is taken by {_CLASSES[tag].__name__}")
        _CLASSES[tag] = cls
        if not dataclasses.fields(cast(Any, cls)):
            _CONSTANTS[cls] = cbor2.dumps([tag])
        _TAG_OF[cls] = tag
        return cls

    return register


def encode(value: object) -> bytes:
    """Canonical bytes of a wire value."""
    kind = type(value)
    constant = _CONSTANTS.get(kind)
    if constant is not None:
        return constant
    return cbor2.dumps((_ENCODERS.get(kind) or _encoder(kind))(value))


def decode(cls: type[T], data: bytes, max_bytes: int = MAX_BYTES) -> T:
    """Read exactly one `cls` (a wire class or a union of them) spelled canonically.

    Errors: TOO_LARGE; MALFORMED for anything that is not the one spelling of a valid value.
    """
    value: T = _decode(cls, data, max_bytes)
    return value


def decode_any(union: Any, data: bytes, max_bytes: int = MAX_BYTES) -> Any:
    """`decode` for a union of wire classes, which type checkers cannot pass as `type[T]`."""
    return _decode(union, data, max_bytes)


def tag_of(cls: type[Any]) -> int:
    """The wire tag of a class."""
    return _TAG_OF[cls]


def is_wire(kind: Any) -> bool:
    """Whether a type has a wire encoding."""
    return isinstance(kind, type) and kind in _TAG_OF


def encode_array(*items: Any) -> bytes:
    """Canonical CBOR array of plain integers, bytes, text and nested tuples (hash preimages)."""
    return cbor2.dumps(items)


def _decode(kind: Any, data: bytes, max_bytes: int) -> Any:
    if len(data) > max_bytes:
        raise Rejected(ErrorCode.TOO_LARGE, f"{len(data)} bytes, at most {max_bytes} allowed")
    try:
        raw = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            immutable=True,
        )
    except (cbor2.CBORDecodeError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise Rejected(ErrorCode.MALFORMED, f"not CBOR: {error}") from None
    value = _decoder(kind)(raw)
    if encode(value) != data:
        raise Rejected(ErrorCode.MALFORMED, "not the canonical spelling of its value")
    return value


def _refuse_tag(_decoder: Any) -> Any:
    raise ValueError("CBOR tags are not allowed")


# Every tag cbor2 gives a meaning to; others arrive as CBORTag, which no field type accepts.
_NO_TAGS: dict[int, Any] = dict.fromkeys(
    (
        *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54),
        *(100, 256, 258, 260, 261, 1004, 43000, 55799),
    ),
    _refuse_tag,
)


def _encoder(cls: type[Any]) -> _Convert:
    found = _ENCODERS.get(cls)
    if found is None:
        found = _ENCODERS[cls] = _build_encoder(cls)
    return found


def _build_encoder(cls: type[Any]) -> _Convert:
    tag = _TAG_OF.get(cls)
    if tag is None:
        raise TypeError(f"{cls.__name__} has no wire encoding")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    converters = [
        (place, convert)
        for place, name in enumerate(names, start=1)
        if (convert := _field_encoder(hints[name])) is not None
    ]
    read = _reader(names)

    def to_array(value: Any) -> list[Any]:
        row = [tag, *read(value)]
        for place, convert in converters:
            row[place] = convert(row[place])
        return row

    return to_array


def _reader(names: list[str]) -> _Convert:
    """How to get all fields of a value: one call into C, which matters as every value is read so.

    `attrgetter` gives a tuple only for two names or more.
    """
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: [getattr(value, name) for name in names]


def _field_encoder(hint: Any) -> _Convert | None:
    """How a field goes to what cbor2 writes; None where it already is that."""
    hint = bare_hint(hint)[0]
    if get_origin(hint) is tuple:
        item = _field_encoder(get_args(hint)[0])
        return None if item is None else lambda values: [item(value) for value in values]
    if is_union(hint):
        members = [member for member in get_args(hint) if member is not type(None)]
        if any(_field_encoder(member) is not None for member in members):
            if len(members) == 1 and members[0] not in _TAG_OF:
                only = cast(_Convert, _field_encoder(members[0]))
                return lambda value: None if value is None else only(value)
            return lambda value: None if value is None else _encoder(type(value))(value)
        return None
    if isinstance(hint, type) and hint in _TAG_OF:
        return lambda value: _encoder(type(value))(value)
    return None  # Enums too: cbor2 writes them as the integer or text that they are.


def _decoder(kind: Any) -> _Convert:
    found = _DECODERS.get(kind)
    if found is None:
        found = _DECODERS[kind] = _build_decoder(kind, "value")
    return found


def _build_decoder(hint: Any, name: str) -> _Convert:
    hint, limit = bare_hint(hint)
    if get_origin(hint) is tuple:
        return _tuple_decoder(_build_decoder(get_args(hint)[0], name), limit, name)
    if is_union(hint):
        return _union_decoder(hint, limit, name)
    if not isinstance(hint, type):
        raise TypeError(f"{name}: {hint!r} cannot be on the wire")
    if issubclass(hint, IntEnum | StrEnum):
        return _enum_decoder(hint, name)
    if hint in _TAG_OF:
        # Looked up at run time: a class may name another that is still being built.
        return lambda raw: _class_decoder(hint)(raw)
    return _plain_decoder(hint, limit, name)


def _plain_decoder(hint: type[Any], limit: Limit | None, name: str) -> _Convert:
    if hint is bool:
        low, high = 0, 1
    elif hint is int:
        low, high = (0, MAX_INT) if limit is None else (limit.low, limit.high)
    elif hint in (bytes, str):
        default = MAX_BYTES if hint is bytes else MAX_TEXT
        low, high = (0, default) if limit is None else (limit.low, limit.high)
    else:
        raise TypeError(f"{name}: {hint.__name__} cannot be on the wire")
    sized = hint in (bytes, str)

    def check(raw: Any) -> Any:
        if type(raw) is not hint:
            raise Rejected(ErrorCode.MALFORMED, f"{name} must be {hint.__name__}")
        size = len(raw) if sized else raw
        if not low <= size <= high:
            what = f"{name} has length {size}" if sized else f"{name} is {size}"
            raise Rejected(ErrorCode.OUT_OF_RANGE, f"{what}, must be {low}..{high}")
        return raw

    return check


def _enum_decoder(hint: type[Any], name: str) -> _Convert:
    members = {member.value: member for member in hint}
    plain = int if issubclass(hint, IntEnum) else str

    def check(raw: Any) -> Any:
        if type(raw) is not plain or raw not in members:
            known = ", ".join(str(value) for value in members)
            raise Rejected(ErrorCode.OUT_OF_RANGE, f"{name} is {raw!r}, must be one of {known}")
        return members[raw]

    return check


def _tuple_decoder(item: _Convert, limit: Limit | None, name: str) -> _Convert:
    low, high = (0, MAX_ITEMS) if limit is None else (limit.low, limit.high)

    def check(raw: Any) -> Any:
        if type(raw) is not tuple:
            raise Rejected(ErrorCode.MALFORMED, f"{name} must be an array")
        if not low <= len(raw) <= high:
            detail = f"{name} has {len(raw)} items, must be {low}..{high}"
            raise Rejected(ErrorCode.OUT_OF_RANGE, detail)
        return tuple([item(one) for one in raw])

    return check


def _union_decoder(hint: Any, limit: Limit | None, name: str) -> _Convert:
    members = get_args(hint)
    optional = type(None) in members
    concrete = [member for member in members if member is not type(None)]
    if len(concrete) == 1:
        inner = Annotated[concrete[0], limit] if limit is not None else concrete[0]
        only = _build_decoder(inner, name)
        return lambda raw: None if raw is None else only(raw)
    by_tag = {_TAG_OF[member]: member for member in concrete}

    def check(raw: Any) -> Any:
        if raw is None and optional:
            return None
        if type(raw) is not tuple or not raw or type(raw[0]) is not int:
            raise Rejected(ErrorCode.MALFORMED, f"{name} must be an array that starts with its tag")
        member = by_tag.get(raw[0])
        if member is None:
            raise Rejected(ErrorCode.UNKNOWN_KIND, f"{name} of unknown kind {raw[0]}")
        return _class_decoder(member)(raw)

    return check


def _class_decoder(cls: type[Any]) -> _Convert:
    found = _CLASS_DECODERS.get(cls)
    if found is None:
        found = _CLASS_DECODERS[cls] = _build_class_decoder(cls)
    return found


_CLASS_DECODERS: dict[type[Any], _Convert] = {}


def _build_class_decoder(cls: type[Any]) -> _Convert:
    tag = _TAG_OF[cls]
    hints = get_type_hints(cls, include_extras=True)
    title = cls.__name__
    fields = [
        _build_decoder(hints[field.name], f"{title}.{field.name}")
        for field in dataclasses.fields(cls)
        if field.init
    ]
    count = len(fields) + 1

    def from_array(raw: Any) -> Any:
        if type(raw) is not tuple or len(raw) != count or type(raw[0]) is not int or raw[0] != tag:
            raise Rejected(
                ErrorCode.MALFORMED, f"{title} must be an array [{tag}, {count - 1} more]"
            )
        return cls(*[check(item) for check, item in zip(fields, raw[1:], strict=True)])

    return from_array


def judge(value: object) -> None:
    """Have the decoder say what is wrong with a value that is to be encoded, if anything is.

    Slow. Errors: those of `decode`, but TOO_LARGE.
    """
    _class_decoder(type(value))(_as_read(value))


def _as_read(value: Any) -> Any:
    """A value as its decoder gets it from CBOR."""
    if isinstance(value, tuple | list):
        return tuple([_as_read(item) for item in value])
    if type(value) in _TAG_OF:
        return _as_read(_encoder(type(value))(value))
    return value.value if isinstance(value, Enum) else value


def bare_hint(hint: Any) -> tuple[Any, Limit | None]:
    """Remove Annotated and NewType; return the bare type and its limit."""
    limit = None
    while True:
        if get_origin(hint) is Annotated:
            base, *extras = get_args(hint)
            limit = next((extra for extra in extras if isinstance(extra, Limit)), limit)
            hint = base
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        else:
            return hint, limit


def is_union(hint: Any) -> bool:
    """Whether a field's type is `A | B`."""
    return get_origin(hint) in (Union, types.UnionType)
