"""JSON-RPC with one node: requests, batches, refusals, and what a bad node may send.

Synchronous. Source: docs/api.md "JSON-RPC".
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gridtokenx.answers.shapes import read_json

if TYPE_CHECKING:
    import httpx

    from gridtokenx.answers.failure import Failure

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8080"
MAX_RPC_BATCH = 50
MAX_ANSWER_BYTES = 256 * 2**20  # What a node may be told to send at most.


class RpcError(Exception):
    """A node's refusal: its code, stable `reason`, sentence, and what to do about it."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{reason} ({code}): {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.details = details or {}

    @classmethod
    def of(cls, error: dict[str, Any]) -> RpcError:
        """From a JSON-RPC error object, which the program that answers may not have filled in."""
        data = error.get("data") or {}
        return cls(
            error["code"],
            str(data.get("reason", "")),
            str(error.get("message", "")),
            str(data.get("hint", "")),
            retryable=bool(data.get("retryable", False)),
            details=data.get("details"),
        )

    @classmethod
    def told(cls, failure: Failure) -> RpcError:
        """From a refusal that an answer tells of."""
        data = failure.data
        return cls(
            failure.code,
            data.reason,
            failure.message,
            data.hint,
            retryable=data.retryable,
            details=dict(data.details),
        )


class NodeUnreachable(Exception):  # noqa: N818 - a state of the world, said as such
    """No node answers at `url`; the text says how to start one."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(
            f"no node answers at {url} ({detail}). Start one with `gridtokenx start`, a whole "
            "network with `gridtokenx cluster up`, or name another with --rpc URL"
        )
        self.url = url


class BadAnswer(NodeUnreachable):
    """What answers at `url` does not answer as a node does: another program, or a bad node."""

    def __init__(self, url: str, detail: str) -> None:
        Exception.__init__(
            self, f"what answers at {url} is no GridTokenX node, or a bad one: {detail}"
        )
        self.url = url


class Answer(dict[str, Any]):
    """An object of a node's answer; a field that is not there is the node's fault."""

    url = ""

    def __missing__(self, name: str) -> Any:
        raise BadAnswer(self.url, f"its answer has no {name}")


class Rpc:
    """Calls of one node's methods by name. Not for use by two threads at a time."""

    def __init__(
        self, url: str = DEFAULT_URL, timeout_s: float = 10.0, *, local_address: str | None = None
    ) -> None:
        """`local_address`: the IP address of this machine to ask from; None: the system chooses."""
        import httpx  # Late: `--help` must not pay for it.

        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._http = httpx.Client(
            timeout=timeout_s,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            transport=httpx.HTTPTransport(local_address=local_address),
        )
        self.answer_type = type("Answer", (Answer,), {"url": self.url})
        self._next_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, **params: Any) -> Any:
        """The result of one method. Parameters that are None are left out.

        Errors: RpcError; NodeUnreachable, of which BadAnswer is one.
        """
        request = self._request(method, params)
        return self._result(self._post(request), request)

    def ask(self, method: str, answer: type[T], /, **params: Any) -> T:
        """The result of one method as its answer class; what else a newer node tells is left out.

        Errors: as `call`; BadAnswer for an answer that lacks a field, or has it of another type.
        """
        return self.read(answer, self.call(method, **params))

    def read(self, answer: type[T], document: Any) -> T:
        """A part of this node's answers as its class. Errors: BadAnswer."""
        try:
            return read_json(answer, document)
        except ValueError as error:
            raise BadAnswer(self.url, f"its answer {error}") from None

    def ask_many(
        self, method: str, answer: type[T], params: Sequence[dict[str, Any]], /
    ) -> list[T | RpcError]:
        """One method's results for several sets of parameters, in their order. Errors: as `ask`,
        but a refusal takes the place of its result.
        """
        results = self.call_many([(method, one) for one in params])
        return [one if isinstance(one, RpcError) else self.read(answer, one) for one in results]

    def call_many(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[Any | RpcError]:
        """Results of several calls in their order, in as few requests as the batch limit allows."""
        results: list[Any | RpcError] = []
        for start in range(0, len(calls), MAX_RPC_BATCH):
            requests = [self._request(*one) for one in calls[start : start + MAX_RPC_BATCH]]
            answers = self._post(requests)
            if not isinstance(answers, list):
                self._result(answers, {"id": None})
                raise BadAnswer(self.url, "one answer to many requests")
            by_id = {one.get("id"): one for one in answers if isinstance(one, dict)}
            for request in requests:
                try:
                    results.append(self._result(by_id.get(request["id"]), request))
                except RpcError as error:
                    results.append(error)
        return results

    def refusal(self, error: Any) -> RpcError:
        """An error object of an answer. Errors: BadAnswer."""
        if not _is_error(error):
            raise BadAnswer(self.url, "an error without a number and a sentence")
        return RpcError.of(error)

    def _result(self, answer: Any, request: dict[str, Any]) -> Any:
        """The result in an answer. Errors: RpcError that it tells; BadAnswer."""
        if not isinstance(answer, dict) or ("result" in answer) == ("error" in answer):
            raise BadAnswer(self.url, "no JSON-RPC answer with either a result or an error")
        spoken_id = answer.get("id")
        if spoken_id != request["id"] and (spoken_id is not None or "error" not in answer):
            raise BadAnswer(self.url, "the answer to another request")
        if "error" in answer:
            raise self.refusal(answer["error"])
        if not isinstance(answer["result"], dict):
            raise BadAnswer(self.url, "a result that is no object")
        return answer["result"]

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._next_id += 1
        given = {name: _plain(value) for name, value in params.items() if value is not None}
        return {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": given}

    def _post(self, body: Any) -> Any:
        """One request, again while the node says "slow down" and time is left."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            status, headers, raw = self._exchange(body)
            wait_s = _retry_after_s(status, headers)
            if wait_s is None or time.monotonic() + wait_s > deadline:
                break
            time.sleep(wait_s)
        try:
            return json.loads(raw, object_hook=self.answer_type)
        except (ValueError, RecursionError):
            raise BadAnswer(self.url, f"HTTP {status} with a body that is not JSON") from None

    def _exchange(self, body: Any) -> tuple[int, httpx.Headers, bytes]:
        """One request over HTTP; an answer that does not end is given up."""
        import httpx

        deadline = time.monotonic() + 6 * self.timeout_s
        raw = bytearray()
        try:
            with self._http.stream("POST", f"{self.url}/rpc", json=body) as response:
                for part in response.iter_bytes():
                    raw += part
                    if len(raw) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise BadAnswer(self.url, "an answer that does not end")
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            if "without sending a response" in str(error):  # It has ended, or is ending.
                raise NodeUnreachable(self.url, _because(error)) from None
            raise BadAnswer(self.url, _because(error)) from None
        except httpx.HTTPError as error:
            raise NodeUnreachable(self.url, _because(error)) from None
        return response.status_code, response.headers, bytes(raw)


def _is_error(error: Any) -> bool:
    """Whether it is an error object as this API has them."""
    return (
        isinstance(error, dict)
        and type(error.get("code")) is int
        and isinstance(error.get("message"), str)
        and isinstance(error.get("data"), dict | None)
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def _because(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _retry_after_s(status: int, headers: httpx.Headers) -> float | None:
    """Seconds a busy or rate-limiting node asks to wait; None for an answer."""
    if status not in (429, 503):
        return None
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
