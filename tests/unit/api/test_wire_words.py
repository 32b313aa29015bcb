"""Every field of a wire value that an answer holds is told in words, and no others are."""

from __future__ import annotations

from gridtokenx.api.methods import METHODS
from gridtokenx.api.schema import build_openrpc
from gridtokenx.api.wire_words import WORDS


def wire_fields() -> set[str]:
    """`Class.field` of the wire values in answers, by the classes' own names."""
    schemas = build_openrpc(METHODS)["components"]["schemas"]
    found = set()
    for name, schema in schemas.items():
        if "kind" in schema["properties"]:
            own = name.removeprefix("Shown").removesuffix("InFile")
            found |= {f"{own}.{field}" for field in schema["properties"] if field != "kind"}
    return found


def test_every_field_has_its_line() -> None:
    schemas = build_openrpc(METHODS)["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, told in schema["properties"].items()
        if "kind" in schema["properties"] and field != "kind" and not told.get("description")
    ]
    assert silent == []


def test_no_line_is_about_nothing() -> None:
    fields = wire_fields()
    named = fields | {field.partition(".")[2] for field in fields}
    assert set(WORDS) - named == set()
