"""OpenRPC and OpenAPI documents, and the table of errors, all made from the code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gridtokenx import __version__
from gridtokenx.answers.failure import Failure, RestError
from gridtokenx.api.errors import TransportCode
from gridtokenx.api.json_schema import Schemas
from gridtokenx.api.sentences import ERROR_SENTENCES, TRANSPORT_SENTENCES
from gridtokenx.api.table import Method, Param, Route
from gridtokenx.primitives.errors import RETRYABLE, ErrorCode

TITLE = "GridTokenX node API"
LICENCE = {"name": "MIT", "url": "https://opensource.org/license/mit"}
_GROUPS = {
    1: "Chain",
    2: "Transactions and encoding",
    3: "Orders and trades",
    4: "Grid, meters, participants",
    5: "Accounts",
    6: "Governance and staking",
    7: "Network",
    8: "Region chains",
}


def build_openrpc(methods: Iterable[Method]) -> dict[str, Any]:
    """The OpenRPC 1.3 document of the methods."""
    schemas = Schemas()
    schemas.of(Failure)
    return {
        "openrpc": "1.3.2",
        "info": {"title": TITLE, "version": __version__, "license": LICENCE},
        "methods": [_rpc_method(method, schemas) for method in methods],
        "components": {"schemas": schemas.components},
    }


def answer_schema(method: Method) -> dict[str, Any]:
    """The schema of one method's answer, with all that it refers to."""
    schemas = Schemas()
    own = schemas.of(method.answer)
    return {**own, "components": {"schemas": schemas.components}}


def _rpc_method(method: Method, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.doc,
        "paramStructure": "either",
        "params": [
            {
                "name": param.name,
                "description": param.doc,
                "required": param.required,
                "schema": _param_schema(param, schemas),
            }
            for param in method.params
        ],
        "result": {"name": "result", "schema": schemas.of(method.answer)},
    }


def _param_schema(param: Param, schemas: Schemas) -> dict[str, Any]:
    schema = dict(param.kind.schema if param.shows is None else schemas.of(param.shows))
    if param.unit:
        schema["x-unit"] = param.unit
    if param.example is not None:
        schema["examples"] = [param.example]
    if param.default not in (None, b"", ""):
        schema["default"] = param.default
    return schema


def build_openapi(methods: Iterable[Method]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for method in methods:
        for route in method.routes:
            item = paths.setdefault(f"/api/v1{route.path}", {})
            item[route.verb.lower()] = _operation(method, route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": __version__, "license": LICENCE},
        "servers": [{"url": "http://localhost:8080"}],
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


def _operation(method: Method, route: Route, schemas: Schemas) -> dict[str, Any]:
    suffix = "" if route is method.routes[0] else f"_{method.routes.index(route) + 1}"
    in_path = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    shown_as = {renamed: own for own, renamed in route.renames.items()}
    placed = [(shown_as.get(param.name, param.name), param) for param in method.params]
    operation: dict[str, Any] = {
        "operationId": method.name.replace(".", "_") + suffix,
        "summary": method.doc,
        "responses": {
            str(route.status): _json("The answer", schemas.of(method.answer)),
            "default": _json("A failure", schemas.of(RestError)),
        },
    }
    if route.verb == "POST":
        operation["requestBody"] = _body(placed, schemas)
        return operation
    parameters = [_parameter(name, param, name in in_path, schemas) for name, param in placed]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _parameter(name: str, param: Param, in_path: bool, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path" if in_path else "query",
        "required": in_path or param.required,
        "description": param.doc,
        "schema": _param_schema(param, schemas),
    }


def _body(placed: list[tuple[str, Param]], schemas: Schemas) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            name: {**_param_schema(param, schemas), "description": param.doc}
            for name, param in placed
        },
        "required": [name for name, param in placed if param.required],
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def build_errors_page() -> str:
    """`protocols/errors.md`: every code with its reason and one sentence."""
    lines = [
        "# Errors",
        "",
        "Generated by `python -m gridtokenx.api`; do not edit. A refusal has a stable number,",
        "a stable `reason`, a sentence with the values, and a hint. *Retry* says whether the same",
        "request can succeed later.",
    ]
    group = 0
    for code in sorted(ErrorCode):
        if code // 1000 != group:
            group = code // 1000
            lines += ["", f"## {_GROUPS[group]}", "", "| code | reason | retry | meaning |"]
            lines.append("|---|---|---|---|")
        retry = "yes" if code in RETRYABLE else "no"
        anchor = f'<a id="{int(code)}"></a>{int(code)}'
        lines.append(f"| {anchor} | {code.reason} | {retry} | {ERROR_SENTENCES[code]} |")
    lines += ["", "## Transport (JSON-RPC)", "", "| code | reason | meaning |", "|---|---|---|"]
    for transport in sorted(TransportCode, reverse=True):
        anchor = f'<a id="transport-{-transport}"></a>{int(transport)}'
        sentence = TRANSPORT_SENTENCES[transport]
        lines.append(f"| {anchor} | {transport.name.lower()} | {sentence} |")
    return "\n".join(lines) + "\n"
