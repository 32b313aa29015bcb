"""JSON-RPC 2.0: one request or a batch, parameters by name or position.

Source: docs/api.md "JSON-RPC".
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from gridtokenx.answers.shapes import write_json
from gridtokenx.api.calls import Calls, Reply, parse_json, response_too_large
from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.api.limiter import Bill
from gridtokenx.api.methods import METHOD_BY_NAME, suggest
from gridtokenx.api.table import Method

MAX_ID_LENGTH = 128
_Encoded = bytes | None


async def handle(calls: Calls, body: bytes, bill: Bill) -> Reply:
    """Answer a request body. 200 unless the whole request failed; 204 for notifications only."""
    try:
        document = parse_json(body)
        if isinstance(document, list):
            return await _batch(calls, document, bill)
    except ApiError as error:
        return error_reply(error)
    answer, failure = await _answer(calls, document, bill)
    if answer is None:
        return Reply(204)
    if failure is not None and failure.code is TransportCode.BUSY:
        # A lone request shows being limited in HTTP too, so that any client's back-off works.
        return Reply(failure.status, answer, headers=_retry_header(failure))
    return Reply(200, answer)


def error_reply(error: ApiError) -> Reply:
    """The JSON-RPC form of a failure of the whole request."""
    return Reply(error.status, _error(None, error), headers=_retry_header(error))


async def _batch(calls: Calls, items: list[Any], bill: Bill) -> Reply:
    """Calls of a batch start in order and share one crossing to the executor."""
    if not items:
        raise ApiError(TransportCode.INVALID_REQUEST, "a batch has at least one request")
    if len(items) > calls.max_batch:
        detail = f"{len(items)} requests in a batch, at most {calls.max_batch} allowed"
        raise ApiError(TransportCode.BATCH_TOO_LARGE, detail, details={"max": calls.max_batch})
    room = _Room(calls.max_response_bytes)
    answers = await asyncio.gather(*(_fitting(calls, item, bill, room) for item in items))
    parts = [answer for answer in answers if answer is not None]
    return Reply(200, b"[" + b",".join(parts) + b"]") if parts else Reply(204)


@dataclass(slots=True)
class _Room:
    """Bytes that a batch's answers have together; kept while others still run."""

    most: int
    used: int = 2


async def _fitting(calls: Calls, item: Any, bill: Bill, room: _Room) -> _Encoded:
    """The answer to one of a batch; an error where it does not fit any more."""
    answer, _ = await _answer(calls, item, bill)
    if answer is not None and room.used + len(answer) + 1 > room.most:
        size = room.used + len(answer) + 1
        answer = _error(_id_of(item), response_too_large(size, room.most))
    room.used += 0 if answer is None else len(answer) + 1
    return answer


async def _answer(calls: Calls, request: Any, bill: Bill) -> tuple[_Encoded, ApiError | None]:
    """The encoded answer (None to a notification) and the error in it, if any."""
    problem = _problem(request)
    if problem:
        error = _paid(bill, ApiError(TransportCode.INVALID_REQUEST, problem))
        return _error(_id_of(request), error), error
    notification = "id" not in request
    try:
        method = _method(bill, request["method"])
        raw = request.get("params")
        result = await calls.run(method, {} if raw is None else raw, bill)
        encoded = _envelope(_id_of(request), "result", result)
        if len(encoded) > calls.max_response_bytes:
            raise response_too_large(len(encoded), calls.max_response_bytes)
    except ApiError as error:
        return (None if notification else _error(_id_of(request), error)), error
    return (None if notification else encoded), None


def _paid(bill: Bill, error: ApiError) -> ApiError:
    """The error, paid as a call is; or that this cannot be paid."""
    try:
        bill.pay(1)
    except ApiError as unpaid:
        return unpaid
    return error


def _method(bill: Bill, name: str) -> Method:
    """Errors: ApiError METHOD_NOT_FOUND, BUSY."""
    method = METHOD_BY_NAME.get(name)
    if method is None:
        detail = f"there is no method {name[:64]!a}"
        raise _paid(bill, ApiError(TransportCode.METHOD_NOT_FOUND, detail, hint=suggest(name[:64])))
    return method


def _problem(request: Any) -> str:
    """What is wrong with the envelope, or an empty text."""
    if not isinstance(request, dict):
        return "a request is a JSON object"
    if request.get("jsonrpc") != "2.0":
        return 'a request has "jsonrpc": "2.0"'
    if not isinstance(request.get("method"), str):
        return "method must be text"
    if not isinstance(request.get("params"), dict | list | None):
        return "params must be an object or a list"
    if "id" in request and not _is_id(request["id"]):
        return f"id must be text of at most {MAX_ID_LENGTH} characters, an integer or null"
    return ""


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_LENGTH
    return value is None or (type(value) is int and abs(value) < 2**63)


def _id_of(request: Any) -> Any:
    value = request.get("id") if isinstance(request, dict) else None
    return value if _is_id(value) else None


def _error(request_id: Any, error: ApiError) -> bytes:
    return _envelope(request_id, "error", write_json(error.to_failure()))


def _envelope(request_id: Any, name: str, text: str) -> bytes:
    """`text` is the JSON of the result or error."""
    return f'{{"jsonrpc":"2.0","id":{json.dumps(request_id)},"{name}":{text}}}'.encode()


def _retry_header(error: ApiError) -> dict[str, str]:
    return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
