"""REST under /api/v1: the same methods by paths, for people with curl.

Source: docs/api.md "REST".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gridtokenx.answers.shapes import write_json
from gridtokenx.api.calls import Calls, Reply, parse_json, response_too_large
from gridtokenx.api.errors import ApiError, TransportCode, invalid_params
from gridtokenx.api.limiter import Bill
from gridtokenx.api.methods import METHOD_BY_NAME, METHODS
from gridtokenx.api.table import Method, Route

PREFIX = "/api/v1"
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _Pattern:
    parts: tuple[str, ...]
    method: Method
    route: Route

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """Path parameters by their route names."""
        found = {}
        for own, given in zip(self.parts, parts, strict=True):
            if own.startswith("{"):
                found[own[1:-1]] = given
            elif own != given:
                return None
        return found


def _patterns() -> dict[int, list[_Pattern]]:
    """By number of path parts; those without parameters come first."""
    table: dict[int, list[_Pattern]] = {}
    for method in METHODS:
        for route in method.routes:
            parts = tuple(route.path.strip("/").split("/"))
            table.setdefault(len(parts), []).append(_Pattern(parts, method, route))
    for row in table.values():
        row.sort(key=lambda pattern: sum(part.startswith("{") for part in pattern.parts))
    return table


_PATTERNS = _patterns()


async def handle(
    calls: Calls,
    verb: str,
    path: str,
    query: Sequence[tuple[str, str]],
    body: bytes,
    bill: Bill,
    if_none_match: str = "",
) -> Reply:
    """Answer a request for a path below /api/v1 (given without it)."""
    try:
        method, route, in_path = _find(verb, path)
        raw = _raw_parameters(route, in_path, query, body)
        if method.name == "energy_submitOrder" and set(raw) & {"tx", "transaction"}:
            method = METHOD_BY_NAME["tx_send"]  # An order its trader signed.
            raw = {"transaction" if name == "tx" else name: value for name, value in raw.items()}
        encoded = (await calls.run(method, raw, bill)).encode()
        if len(encoded) > calls.max_response_bytes:
            raise response_too_large(len(encoded), calls.max_response_bytes)
    except ApiError as error:
        return error_reply(error)
    if not route.immutable:
        return Reply(route.status, encoded, headers={"Cache-Control": "no-store"})
    tag = f'"{hashlib.sha256(encoded).hexdigest()[:32]}"'
    headers = {"Cache-Control": _FOREVER, "ETag": tag}
    if if_none_match == tag:
        return Reply(304, headers=headers)
    return Reply(route.status, encoded, headers=headers)


def error_reply(error: ApiError) -> Reply:
    """The REST form of a failure."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return Reply(error.status, write_json(error.to_rest()).encode(), headers=headers)


def _find(verb: str, path: str) -> tuple[Method, Route, dict[str, str]]:
    parts = path.strip("/").split("/")
    verbs = set()
    for pattern in _PATTERNS.get(len(parts), ()):
        found = pattern.match(parts)
        if found is None:
            continue
        if pattern.route.verb == verb:
            return pattern.method, pattern.route, found
        verbs.add(pattern.route.verb)
    if verbs:
        detail = f"{path[:80]!a} takes {', '.join(sorted(verbs))}, not {verb[:16]}"
        raise ApiError(TransportCode.METHOD_NOT_FOUND, detail, status=405)
    detail = f"there is nothing at {PREFIX}{path[:80]!a}"
    raise ApiError(TransportCode.METHOD_NOT_FOUND, detail, hint="/openapi.json lists all paths")


def _raw_parameters(
    route: Route, in_path: dict[str, str], query: Sequence[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if route.verb == "POST":
        if query:
            raise invalid_params("POST takes its parameters in the body, not in the query")
        document = parse_json(body)
        if not isinstance(document, dict):
            raise ApiError(TransportCode.INVALID_REQUEST, "the body must be a JSON object")
        given.update(document)
    else:
        for name, value in query:
            if name in given:
                raise invalid_params(f"{name[:64]!a} is given twice", parameter=name[:64])
            given[name] = value
    for name in in_path:
        if name in given:
            raise invalid_params(f"{name} is in the path already", parameter=name)
    given.update(in_path)
    return {route.renames.get(name, name): value for name, value in given.items()}
