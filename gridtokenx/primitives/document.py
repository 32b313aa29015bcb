"""Wire values as JSON documents and back: what people read in genesis files and API answers.

Bytes are lower-case hex, addresses `gtx1...`, enums their text, unions carry `"kind"`. Integers are
JSON numbers in files and decimal strings in API answers, where JavaScript would round them.
Source: protocols/state-transition.md 3.
"""

from __future__ import annotations

import dataclasses
import re
from enum import Enum, IntEnum
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from gridtokenx.primitives.codec import decode, encode, is_union, is_wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import Address, format_address, parse_address

T = TypeVar("T")


def kind_of(cls: type[Any]) -> str:
    """The text name of a wire class: `PlaceOrder` is `place_order`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def to_document(value: Any, *, text_integers: bool = False) -> dict[str, Any]:
    """A JSON-ready dict of a wire value, with its `kind` first."""
    hints = get_type_hints(type(value), include_extras=True)
    document: dict[str, Any] = {"kind": kind_of(type(value))}
    for field in dataclasses.fields(value):
        if field.init:
            inner = getattr(value, field.name)
            document[field.name] = _out(inner, hints[field.name], text_integers)
    return document


def from_document(cls: type[T], document: Any, where: str = "") -> T:
    """A wire value from its JSON document, with every limit checked.

    Unknown and missing keys are errors. Errors: MALFORMED or OUT_OF_RANGE naming the path.
    """
    value: T = _in_class(cls, document, where or kind_of(cls))
    return decode(cls, encode(value))  # The wire's limits are the document's limits.


def _out(value: Any, hint: Any, text_integers: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.name.lower() if isinstance(value, IntEnum) else value.value
    if isinstance(value, int):
        return str(value) if text_integers else value
    if isinstance(value, bytes):
        return format_address(value) if _mentions_address(hint) else value.hex()
    if isinstance(value, tuple):
        item = _item_hint(hint)
        return [_out(one, item, text_integers) for one in value]
    if dataclasses.is_dataclass(value):
        return to_document(value, text_integers=text_integers)
    return value


def _in_class(cls: type[Any], document: Any, where: str) -> Any:
    if not isinstance(document, dict):
        raise Rejected(ErrorCode.MALFORMED, f"{where} must be an object")
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    unknown = sorted(key for key in document if key not in names and key != "kind")
    missing = [name for name in names if name not in document]
    if unknown or missing:
        problem = f"does not know {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}"
        raise Rejected(ErrorCode.MALFORMED, f"{where} {problem}; it has {', '.join(names)}")
    return cls(*[_in(document[name], hints[name], f"{where}.{name}") for name in names])


def _in(raw: Any, hint: Any, where: str) -> Any:
    if is_union(hint):
        return _in_union(raw, hint, where)
    bare = _bare(hint)
    if get_origin(bare) is tuple:
        if not isinstance(raw, list):
            raise Rejected(ErrorCode.MALFORMED, f"{where} must be a list")
        item = get_args(bare)[0]
        return tuple(_in(one, item, f"{where}[{at}]") for at, one in enumerate(raw))
    if is_wire(bare):
        return _in_class(bare, raw, where)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _in_enum(raw, bare, where)
    if bare is bytes:
        return _in_bytes(raw, hint, where)
    if bare is int and isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,20}", raw):
        return int(raw)
    if type(raw) is not bare:
        raise Rejected(ErrorCode.MALFORMED, f"{where} must be {bare.__name__}, not {raw!r:.40}")
    if bare is str and not raw.isascii() and any("\ud800" <= one <= "\udfff" for one in raw):
        raise Rejected(ErrorCode.MALFORMED, f"{where} holds half a surrogate pair")
    return raw


def _in_union(raw: Any, hint: Any, where: str) -> Any:
    members = get_args(hint)
    if raw is None and type(None) in members:
        return None
    concrete = [member for member in members if member is not type(None)]
    if len(concrete) == 1:
        return _in(raw, concrete[0], where)
    kind = raw.get("kind") if isinstance(raw, dict) else None
    for member in concrete:
        if kind == kind_of(member):
            return _in_class(member, raw, where)
    known = ", ".join(kind_of(member) for member in concrete)
    raise Rejected(ErrorCode.UNKNOWN_KIND, f"{where}.kind is {kind!r}, must be one of {known}")


def _in_enum(raw: Any, hint: type[Enum], where: str) -> Any:
    for member in hint:
        shown = member.name.lower() if issubclass(hint, IntEnum) else member.value
        if raw == shown:
            return member
    known = ", ".join(
        member.name.lower() if issubclass(hint, IntEnum) else str(member.value) for member in hint
    )
    raise Rejected(ErrorCode.OUT_OF_RANGE, f"{where} is {raw!r:.40}, must be one of {known}")


def _in_bytes(raw: Any, hint: Any, where: str) -> bytes:
    if not isinstance(raw, str):
        raise Rejected(ErrorCode.MALFORMED, f"{where} must be text, not {raw!r:.40}")
    if _mentions_address(hint):
        return parse_address(raw)
    try:
        return bytes.fromhex(raw)
    except ValueError:
        raise Rejected(ErrorCode.MALFORMED, f"{where} must be hex, not {raw!r:.40}") from None


def _mentions_address(hint: Any) -> bool:
    """Whether a field holds account addresses (32 bytes marked as such), not hashes."""
    if is_union(hint):
        return any(_mentions_address(member) for member in get_args(hint))
    return bool(hint == Address)


def _item_hint(hint: Any) -> Any:
    if is_union(hint):
        return next((_item_hint(one) for one in get_args(hint) if one is not type(None)), Any)
    bare = _bare(hint)
    return get_args(bare)[0] if get_origin(bare) is tuple else Any


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
