"""JSON schemas of answers, from the types that `shapes` writes them by.

Classes go among the components by their names, which no two of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from gridtokenx.answers.shapes import ADDRESS_MARK, Mask, Rule, fields_of, rule_of
from gridtokenx.api.wire_words import word_of
from gridtokenx.primitives.codec import Limit, is_union, is_wire
from gridtokenx.primitives.document import kind_of

ADDRESS_PATTERN = "^gtx1[02-9ac-hj-np-z]{58}$"
ADDRESS_EXAMPLE = "gtx1qypqxpq9qcrsszg2pvxq6rs0zqg3yyc5z5tpwxqergd3c8g7rusq3nkr8p"
_DECIMAL = {"type": "string", "pattern": "^-?[0-9]+$"}
_HEX = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
_LEAVES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    NoneType: {"type": "null"},
    None: {"type": "null"},
    Any: {},
}
HEX_EXAMPLE = "6b"
_EXAMPLES: dict[Any, Any] = {str: "text", int: 1000, bool: True}
UNITS = {
    "ms": "ms",
    "wh": "Wh",
    "w": "W",
    "va": "VA",
    "mhz": "mHz",
    "mthb": "mTHB/kWh",
    "uthb": "uTHB",
    "ugtx": "ugtx",
    "ucr": "micro-credits",
    "bps": "1/10000",
    "height": "blocks",
    "blocks": "blocks",
    "slot": "slots since 1970 UTC",
    "slots": "slots",
    "hour": "hours",
    "hours": "hours",
    "day": "days since 1970",
    "days": "days",
    "bytes": "bytes",
    "view": "consensus views",
    "nonce": "transactions",
    "weight": "votes",
    "kwh": "1/1000 credit",
    "cum": "Wh",
    "tier": "tiers",
    "shares": "shares of a pool",
}
"""By the end of a number's name."""


def unit_of(name: str, rule: Rule | None = None) -> str:
    """The unit of a number: what its rule says, else what its name does."""
    return (rule.unit if rule else "") or UNITS.get(name.rpartition("_")[2], "")


@dataclass(slots=True)
class Schemas:
    """Schemas as they are asked for; `components` are those of classes, by name."""

    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    _classes: dict[str, type[Any]] = field(default_factory=dict)

    def of(self, hint: Any, rule: Rule = Rule("")) -> dict[str, Any]:  # noqa: B008 - frozen.
        """The schema of a type below a rule."""
        is_address = ADDRESS_MARK in getattr(hint, "__metadata__", ())
        rule = rule_of(hint) or rule
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if rule.shows is not None:
            return self.of(rule.shows, Rule("", number=rule.number, mask=rule.mask))
        if is_union(bare):
            return {"anyOf": [self.of(member, rule) for member in get_args(bare)]}
        origin = get_origin(bare)
        if origin is tuple:
            return {"type": "array", "items": self.of(get_args(bare)[0], rule)}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(get_args(bare)[1], rule)}
        if origin is Literal:
            return {"type": "string", "enum": list(get_args(bare))}
        if bare is bytes:
            return {"type": "string", "pattern": ADDRESS_PATTERN} if is_address else _HEX
        if bare is int:
            return {"type": "integer"} if rule.number else _DECIMAL
        if isinstance(bare, type) and issubclass(bare, Enum):
            return {"type": "string", "enum": [_word(bare, one) for one in bare]}
        return _LEAVES[bare] if bare in _LEAVES else self._of_class(bare, rule)

    def _of_class(self, cls: type[Any], rule: Rule) -> dict[str, Any]:
        below = Rule("", number=rule.number, mask=rule.mask) if is_wire(cls) else Rule("")
        name = cls.__name__.lstrip("_")
        if below.mask is not None and _is_masked(cls, below.mask):
            name = f"Shown{name}"  # Some of its fields, or of those below, are null.
        if below.number:
            name = f"{name}InFile"  # Its integers are numbers.
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"two classes are called {name}: {cls} and {self._classes[name]}")
        if name not in self.components:
            self.components[name] = {}  # Its place, should it refer to itself.
            self.components[name] = self._object(cls, below)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, cls: type[Any], below: Rule) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        of_wire, mask = is_wire(cls), below.mask or Mask({})
        kind = kind_of(cls)
        if of_wire:
            properties["kind"] = {"type": "string", "enum": [kind]}
        for name, hint in fields_of(cls).items():
            rule = rule_of(hint)
            if rule is None and of_wire:
                rule = _rule_in_words(cls, name, hint, below)
            properties[name] = self._property(name, hint, below, rule)
        for name in mask.hidden.get(kind, ()):
            properties[name] = {"type": "null", "description": "not shown"}
        for name in mask.added.get(kind, ()):
            properties[name] = {
                "type": "string",
                "description": "the error's name",
                "examples": ["bad_reading"],
            }
        return {
            "type": "object",
            "description": " ".join((cls.__doc__ or "").split("\n\n")[0].split()),
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _property(self, name: str, hint: Any, below: Rule, rule: Rule | None) -> dict[str, Any]:
        schema = dict(self.of(hint, below))
        if rule is not None and rule.help:
            schema["description"] = rule.help
        unit = unit_of(name, rule) if _has_number(hint) else ""
        if unit:
            schema["x-unit"] = unit
        if rule is not None and rule.example is not None:
            schema["examples"] = [rule.example]
        return schema


def _word(cls: type[Enum], member: Enum) -> str:
    return member.name.lower() if issubclass(cls, IntEnum) else str(member.value)


def _is_masked(hint: Any, mask: Mask) -> bool:
    """Whether a mask changes anything in a wire class, or in those that it holds."""
    if not is_wire(hint):
        return any(_is_masked(one, mask) for one in get_args(hint))
    kind = kind_of(hint)
    if kind in mask.hidden or kind in mask.added:
        return True
    return any(_is_masked(one, mask) for one in fields_of(hint).values())


def _has_number(hint: Any) -> bool:
    if hint in (int, float):
        return True
    return any(
        _has_number(one)
        for one in get_args(hint)
        if not isinstance(one, type) or one in (int, float)
    )


def _rule_in_words(cls: type[Any], name: str, hint: Any, below: Rule) -> Rule:
    """The rule of a field of a wire class, which has none of its own."""
    word = word_of(cls.__name__, name)
    example = _example_of(hint, word.example)
    is_number = below.number or isinstance(example, bool)
    return Rule(word.help, unit=word.unit, example=example if is_number else _as_text(example))


def _as_text(example: Any) -> Any:
    """Integers as text."""
    if isinstance(example, list):
        return [_as_text(one) for one in example]
    return str(example) if isinstance(example, int) and not isinstance(example, bool) else example


def _example_of(hint: Any, wanted: Any) -> Any:
    """A value of a leaf in JSON, but for integers; None for what is described elsewhere."""
    if ADDRESS_MARK in getattr(hint, "__metadata__", ()):
        return ADDRESS_EXAMPLE
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if is_union(bare):
        found = (_example_of(one, wanted) for one in get_args(bare))
        return next((one for one in found if one is not None), None)
    if get_origin(bare) is tuple:
        item = _example_of(get_args(bare)[0], None)
        return list(wanted) if wanted else None if item is None else [item]
    if bare is bytes:
        limit = next(
            (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Limit)), None
        )
        return HEX_EXAMPLE * (limit.low if limit is not None else 2)
    if isinstance(bare, type) and issubclass(bare, Enum):
        words = [_word(bare, one) for one in bare]
        return wanted if wanted in words else words[0]
    leaf = _EXAMPLES.get(bare) if isinstance(bare, type) else None
    return leaf if leaf is None or wanted is None else wanted
