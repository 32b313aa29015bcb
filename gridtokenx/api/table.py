"""What a row of the handler table is: a method with its parameters, answer, routes and cost."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, get_type_hints

from gridtokenx.answers.fields import ADDRESS_EXAMPLE, HASH_EXAMPLE
from gridtokenx.answers.kinds import (
    Kind,
    address,
    block_reference,
    cursor,
    hex_bytes,
    integer,
    text,
)
from gridtokenx.answers.shapes import Rule, fields_of, rule_of
from gridtokenx.api.context import Context
from gridtokenx.api.errors import invalid_params

Handler = Callable[[Context, Any], Any | Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. In a route it comes from the path, else from the query or the body."""

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: Any = None
    unit: str = ""
    example: Any = None
    shows: Any = None  # The wire type of a JSON object.


@dataclass(frozen=True, slots=True)
class Route:
    """A REST door: path under /api/v1, HTTP status of success, whether the answer never changes."""

    verb: str
    path: str
    status: int = 200
    immutable: bool = False
    renames: Mapping[str, str] = field(default_factory=dict)  # path or query name -> parameter


@dataclass(frozen=True)
class Method:
    """One method. A call costs `cost` tokens, and one more for each item of `cost_per`.

    Its handler takes the context and the parameters, a dataclass, and returns the answer, another
    one; both are read off its annotations.
    """

    name: str
    handler: Handler
    doc: str
    routes: tuple[Route, ...] = ()
    cost: int = 1
    cost_per: str = ""

    @cached_property
    def _types(self) -> tuple[Any, Any]:
        """The classes of the parameters and of the answer."""
        hints = get_type_hints(self.handler, include_extras=True)
        answer = hints.pop("return")
        return list(hints.values())[1], answer

    @property
    def answer(self) -> Any:
        """The class of the answer, or the union of several."""
        return self._types[1]

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """The parameters, in the order in which they may be given by position."""
        return params_of(self._types[0])

    def price(self, raw: Mapping[str, Any] | list[Any]) -> int:
        """Tokens a call with these raw parameters takes from the limiter."""
        if not self.cost_per:
            return self.cost
        names = [param.name for param in self.params]
        given = dict(zip(names, raw, strict=False)) if isinstance(raw, list) else raw
        items = given.get(self.cost_per)
        return self.cost + (len(items) if isinstance(items, list) else 0)

    def arguments(self, raw: Mapping[str, Any] | list[Any]) -> Any:
        """The parameters from positional or named raw values.

        Errors: ApiError INVALID_PARAMS naming the parameter; Rejected BAD_ADDRESS.
        """
        if isinstance(raw, list):
            if len(raw) > len(self.params):
                detail = f"{self.name} takes at most {len(self.params)} parameters, not {len(raw)}"
                raise invalid_params(detail)
            raw = {param.name: one for param, one in zip(self.params, raw, strict=False)}
        self._check_names(raw)
        found = {param.name: self._read(param, raw.get(param.name)) for param in self.params}
        return self._types[0](**found)

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


# Types of parameters that many methods have.
AccountId = Annotated[bytes, Rule("account, gtx1...", address(), example=ADDRESS_EXAMPLE)]
CHAIN_NAME = text(8, "[A-Z0-9]{2,8}", "MET")
ChainName = Annotated[str | None, Rule("chain name such as MET", CHAIN_NAME, example="MET")]
BlockId = Annotated[
    int | bytes, Rule("height or block hash", block_reference(), unit="blocks", example="42")
]
PageLimit = Annotated[
    int, Rule("most items of this page, 1..100", integer(1, 100), unit="items", example=50)
]
PageCursor = Annotated[
    bytes, Rule("next_cursor of the page before", cursor(), example="AAAAAAAAACo=")
]
TransactionId = Annotated[
    bytes, Rule("transaction id", hex_bytes(32, exactly=True), example=HASH_EXAMPLE)
]


@dataclass(frozen=True, slots=True)
class NoParameters:
    """Of a method that takes none."""


@dataclass(frozen=True, slots=True)
class ChainParameter:
    """Which chain; the first region if none is named."""

    chain: ChainName = None


def params_of(cls: type[Any]) -> tuple[Param, ...]:
    """The parameters that a dataclass of `Annotated[type, Rule]` describes."""
    hints = fields_of(cls)
    return tuple(_param(one, rule_of(hints[one.name])) for one in fields(cls))


def _param(one: Field[Any], rule: Rule | None) -> Param:
    if rule is None or rule.kind is None:
        raise TypeError(f"the parameter {one.name} has no rule that says how it is read")
    required = one.default is MISSING
    default = None if required else one.default
    return Param(
        name=one.name,
        kind=rule.kind,
        doc=rule.help,
        required=required,
        default=default,
        unit=rule.unit,
        example=rule.example,
        shows=rule.shows,
    )
