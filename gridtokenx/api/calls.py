"""One call of one method, the same for JSON-RPC and REST: pay, read, run, time, tell."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import structlog

from gridtokenx.answers.shapes import write_json
from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError, TransportCode
from gridtokenx.api.limiter import Bill
from gridtokenx.api.table import Method
from gridtokenx.home.settings import ApiSettings
from gridtokenx.primitives.errors import Rejected
from gridtokenx.views.metrics import CallMetrics

MAX_NUMBER_LENGTH = 100

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back over HTTP."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Calls:
    """Runs methods of the table for clients."""

    def __init__(self, context: Context, settings: ApiSettings, metrics: CallMetrics) -> None:
        self.context = context
        self.max_batch = settings.max_batch
        self.max_response_bytes = settings.max_response_kib * 1024
        self._timeout_s = settings.call_timeout_ms / 1000
        self._metrics = metrics

    async def run(self, method: Method, raw: Mapping[str, Any] | list[Any], bill: Bill) -> str:
        """The JSON of the method's answer. Errors: ApiError, nothing else."""
        started = time.perf_counter()
        code = 0
        try:
            return await self._run(method, raw, bill)
        except ApiError as error:
            code = int(error.code)
            raise
        finally:
            self._metrics.observe(method.name, code, time.perf_counter() - started)

    async def _run(self, method: Method, raw: Mapping[str, Any] | list[Any], bill: Bill) -> str:
        bill.pay(method.price(raw))
        try:
            result = method.handler(self.context, method.arguments(raw))
            if inspect.isawaitable(result):
                async with asyncio.timeout(self._timeout_s):
                    result = await result
            return write_json(result)
        except ApiError:
            raise
        except Rejected as error:
            raise ApiError.of(error) from None
        except TimeoutError:
            detail = f"{method.name} took longer than {self._timeout_s:g} s"
            hint = "a submitted transaction may still be admitted: ask tx_getStatus"
            raise ApiError(TransportCode.TIMEOUT, detail, hint=hint) from None
        except Exception:
            log.error("api.fault", method=method.name, exc_info=True)
            detail = f"{method.name} failed here; the node's log has the cause"
            raise ApiError(TransportCode.INTERNAL_ERROR, detail) from None


def parse_json(body: bytes) -> Any:
    """A JSON document without floats: numbers with a fraction become Decimal.

    Errors: ApiError PARSE_ERROR for anything else, NaN, nesting beyond reason, a name given twice,
    and half of a surrogate pair, which no UTF-8 can say again.
    """
    try:
        document = json.loads(
            body.decode(),
            parse_float=_decimal,
            parse_constant=_refuse,
            object_pairs_hook=_object,
        )
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False, default=str).encode()
        return document
    except UnicodeEncodeError:
        raise ApiError(TransportCode.PARSE_ERROR, "half of a surrogate pair is no text") from None
    except RecursionError:
        raise ApiError(TransportCode.PARSE_ERROR, "the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise ApiError(TransportCode.PARSE_ERROR, "the body is not UTF-8") from None
    except ValueError as error:
        detail = f"the body is not JSON: {str(error)[:120]}"
        raise ApiError(TransportCode.PARSE_ERROR, detail) from None


def dump_json(value: Any) -> bytes:
    """Compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def response_too_large(size: int, limit: int) -> ApiError:
    """The answer would be larger than this node sends."""
    detail = f"the answer has {size} bytes, at most {limit} are sent"
    hint = "ask for less: a smaller limit or batch, or the next page"
    return ApiError(TransportCode.RESPONSE_TOO_LARGE, detail, hint=hint)


def _decimal(text: str) -> Decimal:
    if len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"number {text[:40]}... has more than {MAX_NUMBER_LENGTH} characters")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"number {text[:40]} is out of any range") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:64]!a} is given twice in one object")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
