"""Kinds of parameters: how each is read, what it allows, and its JSON schema.

JSON-RPC gives JSON values and a REST query gives text, so integers and booleans are read from both;
numbers with a fraction arrive as Decimal, never as float.
Source: docs/api.md "Units".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from gridtokenx.primitives.places import PLACE
from gridtokenx.primitives.types import parse_address

_EPOCH = date(1970, 1, 1).toordinal()
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NATURAL = re.compile(r"[0-9]{1,20}")
MAX_DIGITS = 20
_ADDRESS = {"type": "string", "pattern": "^gtx1[02-9ac-hj-np-z]{58}$"}


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` turns a raw value into the handler's, or raises ValueError saying what it must be."""

    read: Callable[[Any], Any]
    schema: dict[str, Any]


def integer(low: int, high: int) -> Kind:
    """An integer as a JSON number or as decimal text; as in JSON schema, 24.0 is the number 24."""
    pattern = _INTEGER if low < 0 else _NATURAL

    def read(raw: Any) -> int:
        if isinstance(raw, str) and pattern.fullmatch(raw):
            raw = int(raw)
        if isinstance(raw, Decimal) and raw.adjusted() < MAX_DIGITS and _is_whole(raw):
            raw = int(raw)
        if type(raw) is not int or not low <= raw <= high:
            raise ValueError(f"must be a whole number {low}..{high}, not {shown(raw)}")
        return raw

    number = {"type": "integer", "minimum": low, "maximum": high}
    return Kind(read, {"oneOf": [number, {"type": "string", "pattern": f"^{pattern.pattern}$"}]})


def _is_whole(number: Decimal) -> bool:
    """Whether it has no fraction; quick for any exponent that JSON can have."""
    digits, exponent = number.as_tuple()[1:]
    return isinstance(exponent, int) and not any(digits[exponent:] if exponent < 0 else ())


def boolean() -> Kind:
    """true or false."""

    def read(raw: Any) -> bool:
        named = {"true": True, "false": False}.get(raw) if isinstance(raw, str) else raw
        if type(named) is not bool:
            raise ValueError(f"must be true or false, not {shown(raw)}")
        return named

    named = {"type": "string", "enum": ["true", "false"]}
    return Kind(read, {"oneOf": [{"type": "boolean"}, named]})


def choice(*values: str) -> Kind:
    """One of a few words."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in values:
            raise ValueError(f"must be one of {', '.join(values)}, not {shown(raw)}")
        return raw

    return Kind(read, {"type": "string", "enum": list(values)})


def text(max_length: int, pattern: str = r"[\x20-\x7e]+", example: str = "") -> Kind:
    """Printable ASCII text that matches."""
    compiled = re.compile(pattern)

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or len(raw) > max_length or not compiled.fullmatch(raw):
            like = f" that looks like {example}" if example else f" of 1..{max_length} characters"
            raise ValueError(f"must be text{like}, not {shown(raw)}")
        return raw

    return Kind(read, {"type": "string", "maxLength": max_length, "pattern": f"^{pattern}$"})


def hex_bytes(max_bytes: int, exactly: bool = False) -> Kind:
    """Bytes as hex text, with or without 0x."""
    most = max_bytes * 2 + 2

    def read(raw: Any) -> bytes:
        found = _from_hex(raw) if isinstance(raw, str) and len(raw) <= most else b""
        if not (max_bytes if exactly else 1) <= len(found) <= max_bytes:
            size = f"exactly {max_bytes}" if exactly else f"1..{max_bytes}"
            raise ValueError(f"must be {size} bytes as hex text, not {shown(raw)}")
        return found

    count = f"{{{max_bytes}}}" if exactly else f"{{1,{max_bytes}}}"
    return Kind(read, {"type": "string", "pattern": f"^(0x)?([0-9a-fA-F]{{2}}){count}$"})


def _from_hex(words: str) -> bytes:
    """Bytes of hex text; empty for anything else. A regular expression takes ten times as long."""
    digits = words[2:] if words[:2] == "0x" else words
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        return b""
    return found if 2 * len(found) == len(digits) else b""  # fromhex skips spaces.


def block_reference() -> Kind:
    """A block's height (int) or hash (32 bytes)."""
    height, block_hash = integer(0, 2**63 - 1), hex_bytes(32, exactly=True)

    def read(raw: Any) -> int | bytes:
        wants_hash = isinstance(raw, str) and len(raw) >= 64
        try:
            value: int | bytes = (block_hash if wants_hash else height).read(raw)
        except ValueError:
            raise ValueError(
                f"must be a height or a block hash (64 hex digits), not {shown(raw)}"
            ) from None
        return value

    return Kind(read, {"anyOf": [*height.schema["oneOf"], block_hash.schema]})


def address() -> Kind:
    """An account; 32 bytes. Errors: Rejected BAD_ADDRESS."""

    def read(raw: Any) -> bytes:
        if not isinstance(raw, str) or not raw.isascii() or len(raw) > 128:
            raise ValueError(f"must be an address such as gtx1..., not {shown(raw)}")
        return parse_address(raw)

    return Kind(read, _ADDRESS)


def amount() -> Kind:
    """A decimal number as text or JSON number; kept exact."""

    def read(raw: Any) -> Decimal:
        if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", raw):
            raw = Decimal(raw)
        if type(raw) not in (int, Decimal):
            raise ValueError(f"must be a number, not {shown(raw)}")
        number = Decimal(raw)
        if number < 0 or number.adjusted() > 17 or len(number.as_tuple().digits) > 40:
            raise ValueError(f"must be a number from 0 to less than 10**18, not {shown(raw)}")
        if number.adjusted() < -MAX_DIGITS:
            raise ValueError(f"must be a number of at most {MAX_DIGITS} decimals, not {shown(raw)}")
        return number

    number = {"type": "number", "minimum": 0, "exclusiveMaximum": 10**18}
    words = {"type": "string", "pattern": r"^[0-9]{1,20}(\.[0-9]{1,20})?$"}
    return Kind(read, {"oneOf": [number, words]})


def day() -> Kind:
    """A date of Bangkok's calendar, from 1970 on, as days since 1970-01-01."""

    def read(raw: Any) -> int:
        try:
            if not isinstance(raw, str) or not _DATE.fullmatch(raw):
                raise ValueError
            found = date.fromisoformat(raw).toordinal() - _EPOCH
            if found < 0:
                raise ValueError
        except ValueError:
            raise ValueError(f"must be a date such as 2026-03-16, not {shown(raw)}") from None
        return found

    return Kind(read, {"type": "string", "maxLength": 10, "pattern": f"^{_DATE.pattern}$"})


def format_day(number: int) -> str | None:
    """The date of a day since 1970-01-01; None for one after the year 9999."""
    ordinal = number + _EPOCH
    return date.fromordinal(ordinal).isoformat() if ordinal <= date.max.toordinal() else None


def list_of(kind: Kind, max_items: int) -> Kind:
    """1..max_items values of one kind."""

    def read(raw: Any) -> list[Any]:
        if not isinstance(raw, list) or not 1 <= len(raw) <= max_items:
            got = f"{len(raw)} items" if isinstance(raw, list) else shown(raw)
            raise ValueError(f"must be a list of 1..{max_items} items, not {got}")
        return [kind.read(one) for one in raw]

    limits = {"minItems": 1, "maxItems": max_items}
    return Kind(read, {"type": "array", "items": kind.schema, **limits})


def json_object() -> Kind:
    """A JSON object; what it must hold is the handler's to say."""

    def read(raw: Any) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise ValueError(f"must be a JSON object, not {shown(raw)}")
        return raw

    return Kind(read, {"type": "object"})


def words(max_length: int) -> Kind:
    """Printable text of any language."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or len(raw) > max_length or not _is_text(raw):
            raise ValueError(f"must be text of 1..{max_length} characters, not {shown(raw)}")
        return raw

    return Kind(read, {"type": "string", "minLength": 1, "maxLength": max_length})


def _is_text(raw: str) -> bool:
    """Something to read that UTF-8 can hold: no half of a surrogate pair."""
    return bool(raw.strip()) and raw.encode(errors="replace").decode() == raw


def place() -> Kind:
    """A substation `BKK-01-SUB001`, zone `BKK-01` or territory `BKK`."""
    return text(16, PLACE, "BKK, BKK-01 or BKK-01-SUB001")


def cursor() -> Kind:
    """An opaque place in a list, as `next_cursor` gave it."""

    def read(raw: Any) -> bytes:
        try:
            if not isinstance(raw, str) or len(raw) > 128:
                raise ValueError
            return base64.b64decode(raw, altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise ValueError("must be a next_cursor of this list, unchanged") from None

    return Kind(read, {"type": "string", "maxLength": 128})


def format_cursor(place_bytes: bytes | None) -> str | None:
    """The text of a place in a list."""
    return None if place_bytes is None else base64.urlsafe_b64encode(place_bytes).decode()


def shown(raw: Any) -> str:
    """A bad value in a message: short, and printable whatever it was."""
    if isinstance(raw, int) and abs(raw) >= 10**24:
        return "a number of more than 24 digits"
    if isinstance(raw, list | dict):
        return "a list" if isinstance(raw, list) else "an object"
    words = ascii(raw) if isinstance(raw, str) else str(raw)
    return words if len(words) <= 60 else words[:57] + "..."
