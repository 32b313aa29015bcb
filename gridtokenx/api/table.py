"""What a row of the handler table is: a method with its parameters, routes, cost and result."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.errors import invalid_params
from gridtokenx.api.kinds import Kind, cursor, integer, text

Arguments = dict[str, Any]
Handler = Callable[[Context, Arguments], Any | Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. In a route it comes from the path, else from the query or the body."""

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """A REST door: path under /api/v1, HTTP status of success, whether the answer never changes."""

    verb: str
    path: str
    status: int = 200
    immutable: bool = False
    renames: Mapping[str, str] = field(default_factory=dict)  # path or query name -> parameter


@dataclass(frozen=True, slots=True)
class Method:
    """One method. A call costs `cost` tokens, and one more for each item of `cost_per`."""

    name: str
    handler: Handler
    doc: str
    result: dict[str, Any]
    params: tuple[Param, ...] = ()
    routes: tuple[Route, ...] = ()
    cost: int = 1
    cost_per: str = ""

    def price(self, raw: Mapping[str, Any] | list[Any]) -> int:
        """Tokens a call with these raw parameters takes from the limiter."""
        if not self.cost_per:
            return self.cost
        names = [param.name for param in self.params]
        given = dict(zip(names, raw, strict=False)) if isinstance(raw, list) else raw
        items = given.get(self.cost_per)
        return self.cost + (len(items) if isinstance(items, list) else 0)

    def arguments(self, raw: Mapping[str, Any] | list[Any]) -> Arguments:
        """Typed arguments from positional or named raw values.

        Errors: ApiError INVALID_PARAMS naming the parameter; Rejected BAD_ADDRESS.
        """
        if isinstance(raw, list):
            if len(raw) > len(self.params):
                detail = f"{self.name} takes at most {len(self.params)} parameters, not {len(raw)}"
                raise invalid_params(detail)
            raw = {param.name: one for param, one in zip(self.params, raw, strict=False)}
        self._check_names(raw)
        return {param.name: self._read(param, raw.get(param.name)) for param in self.params}

    def _check_names(self, raw: Mapping[str, Any]) -> None:
        names = [param.name for param in self.params]
        for name in raw:
            if name not in names:
                near = difflib.get_close_matches(name[:64], names, 1)
                hint = f"did you mean {near[0]}?" if near else ""
                known = ", ".join(names) or "no parameters"
                detail = f"{self.name} does not know {name[:64]!a}; it takes {known}"
                raise invalid_params(detail, hint, parameter=name[:64])

    def _read(self, param: Param, value: Any) -> Any:
        if value is None:
            if param.required:
                detail = f"{self.name} needs {param.name}: {param.doc}"
                raise invalid_params(detail, parameter=param.name)
            return param.default
        try:
            return param.kind.read(value)
        except ValueError as error:
            raise invalid_params(f"{param.name} {error}", parameter=param.name) from None


_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "decimal": {"type": "string", "pattern": "^-?[0-9]+$"},
    "hex": {"type": "string", "pattern": "^([0-9a-f]{2})*$"},
    "number": {"type": "integer"},
    "bool": {"type": "boolean"},
    "object": {"type": "object"},
    "list": {"type": "array"},
}


def shape(**types: str) -> dict[str, Any]:
    """The JSON schema of a result: field -> `text decimal hex number bool object list`.

    `?` at the end allows null. Every field is always there.
    """
    properties: dict[str, Any] = {}
    for name, word in types.items():
        schema = _TYPES[word.rstrip("?")]
        properties[name] = {"oneOf": [schema, {"type": "null"}]} if word.endswith("?") else schema
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


CHAIN = Param("chain", text(8, "[A-Z0-9]{2,8}", "MET"), "chain name such as MET")
LIMIT = Param("limit", integer(1, 100), "most items of this page, 1..100", default=50)
CURSOR = Param("cursor", cursor(), "next_cursor of the page before", default=b"")
