"""JSON-RPC and REST dispatch without HTTP: envelopes, faults, and the door that is total."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.api import jsonrpc, rest
from gridtokenx.api.calls import Calls, Reply
from gridtokenx.api.context import Context
from gridtokenx.api.limiter import Bill, Limiter
from gridtokenx.api.methods import METHOD_BY_NAME, proofs
from gridtokenx.api.table import NoParameters
from gridtokenx.primitives.types import format_address
from gridtokenx.views.metrics import CallMetrics
from tests.support.api_node import OPEN_API, SELLER, MemoryNode


@pytest.fixture
def calls(node: MemoryNode) -> Iterator[Calls]:
    metrics = CallMetrics(node.metrics)
    yield Calls(Context(node), OPEN_API, metrics)
    metrics.close()


def bill() -> Bill:
    return Bill(Limiter(10**6, lambda: 0.0), "test")


def post(calls: Calls, body: Any) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = asyncio.run(jsonrpc.handle(calls, raw, bill()))
    return reply.status, json.loads(reply.body) if reply.body else None


def get(calls: Calls, path: str, *query: tuple[str, str], body: bytes = b"") -> Reply:
    return asyncio.run(rest.handle(calls, "GET", path, query, body, bill()))


def test_parameters_go_by_position_or_name(calls: Calls) -> None:
    request = {"jsonrpc": "2.0", "id": "x", "method": "chain_getBlock"}
    _, by_name = post(calls, {**request, "params": {"block": 1, "chain": "MET"}})
    _, by_position = post(calls, {**request, "params": ["1", "MET"]})
    assert by_name == by_position
    assert by_name["id"] == "x"
    assert by_name["result"]["height"] == "1"
    _, error = post(calls, {**request, "params": [1] * 9})
    assert error["error"]["code"] == -32602
    _, rest_of_it = post(calls, {"jsonrpc": "2.0", "id": None, "method": "chain_getHead"})
    assert rest_of_it["result"]["chain"] == "MET"


def test_a_notification_is_not_answered(calls: Calls) -> None:
    assert post(calls, {"jsonrpc": "2.0", "method": "chain_getHead"}) == (204, None)
    assert post(calls, {"jsonrpc": "2.0", "method": "chain_getHead", "params": [1]}) == (204, None)


def test_a_notification_of_nothing_known_is_not_answered_either(calls: Calls) -> None:
    unknown = {"jsonrpc": "2.0", "method": "chain_getHaed"}
    assert post(calls, unknown) == (204, None)
    status, answers = post(calls, [unknown, {**unknown, "id": 7}, {"jsonrpc": "2.0"}])
    assert status == 200
    assert [one["id"] for one in answers] == [7, None]  # What is no request is told so.
    assert [one["error"]["code"] for one in answers] == [-32601, -32600]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"chain_getHead"}', "'id' is given twice"),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1,"a":1}}', "'a' is given twice"),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"x"}', "half of a surrogate pair"),
        (b'["\\udc00"]', "half of a surrogate pair"),
        (b'{"id": Infinity}', "is not a JSON number"),
    ],
)
def test_what_readers_of_json_disagree_about_is_refused(
    calls: Calls, body: bytes, words: str
) -> None:
    status, answer = post(calls, body)
    assert (status, answer["error"]["code"]) == (400, -32700)
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("request_id", "is_taken"),
    [
        (0, True),
        (-1, True),
        (2**63 - 1, True),
        (2**63, False),
        ("x" * 128, True),
        ("x" * 129, False),
        ("\U0001f600", True),
        (None, True),
        (1.5, False),
        (1.0, False),
        (True, False),
        ([], False),
        ({}, False),
    ],
)
def test_kinds_of_ids(calls: Calls, request_id: Any, is_taken: bool) -> None:
    request = {"jsonrpc": "2.0", "id": request_id, "method": "chain_getHead"}
    _, answer = post(calls, request)
    assert ("result" in answer) == is_taken
    assert answer["id"] == (request_id if is_taken else None)


def test_a_batch_keeps_no_more_than_it_may_send(calls: Calls) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "chain_getGenesis"}
    _, one = post(calls, request)
    size = len(json.dumps(one, separators=(",", ":")))
    calls.max_response_bytes = 2 * size + 100
    _, many = post(calls, [request] * 5)
    assert [("result" in answer) for answer in many] == [True, True, False, False, False]
    assert {answer["error"]["code"] for answer in many[2:]} == {-32003}


def test_a_fault_of_ours_shows_no_traceback(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_context: Context, _asked: NoParameters) -> NoParameters:
        raise ZeroDivisionError("secret detail")

    method = replace(METHOD_BY_NAME["chain_getHead"], handler=broken)
    monkeypatch.setitem(METHOD_BY_NAME, "chain_getHead", method)
    request = {"jsonrpc": "2.0", "id": 1, "method": "chain_getHead"}
    status, body = post(calls, [request, {**request, "method": "net_getInfo"}])
    assert status == 200
    assert body[0]["error"]["code"] == -32603
    assert "secret" not in json.dumps(body)
    assert "result" in body[1]


def test_a_proof_that_does_not_fit_its_header_is_not_given(
    calls: Calls, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree may be a block ahead of the view: the handler checks, and asks again."""
    monkeypatch.setattr(proofs, "PROOF_PAUSE_S", 0.001)
    path = f"/accounts/{format_address(SELLER.public_key)}/proof"
    assert get(calls, path).status == 200
    behind = node.statuses["MET"]
    node.put(SELLER, transfer())
    node.make_block()
    ahead = node.statuses["MET"]
    node.statuses = {**node.statuses, "MET": behind}
    refused = get(calls, path)
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, 1004)
    answers = [behind, ahead, ahead]

    def prove(key: bytes) -> Any:
        node.statuses = {**node.statuses, "MET": answers.pop()}
        return ahead.prove(key)

    node.statuses = {**node.statuses, "MET": replace(behind, prove=prove)}
    found = json.loads(get(calls, path).body)
    assert found["height"] == str(ahead.head.height)


def transfer() -> Any:
    from gridtokenx.ledger.model import Asset, Transfer

    return Transfer(bytes(32), Asset.THB, 1_000_000)


def test_a_node_without_chains_is_not_synced(calls: Calls, node: MemoryNode) -> None:
    kept, node.statuses = node.statuses, {}
    assert get(calls, "/status").status == 200
    head = get(calls, "/blocks/head")
    assert (head.status, head.headers["Retry-After"]) == (503, "1")
    node.statuses = kept


def test_rest_names_are_the_paths(calls: Calls) -> None:
    assert json.loads(get(calls, "/blocks/1").body)["height"] == "1"
    assert json.loads(get(calls, "/blocks/1", ("full", "true")).body)["transaction_count"] == 6
    assert get(calls, "/blocks/1", ("height", "2")).status == 400
    assert get(calls, "/blocks/1/").status == 200
    assert get(calls, "/").status == 404


@settings(max_examples=200)
@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_gets_an_answer(shared: Calls, body: bytes) -> None:
    status, answer = post(shared, body)
    assert status in (200, 204, 400, 413)
    for one in answer if isinstance(answer, list) else [answer]:
        assert one is None or set(one) <= {"jsonrpc", "id", "result", "error"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    made = MemoryNode(tmp_path_factory.mktemp("api"))
    metrics = CallMetrics(made.metrics)
    yield Calls(Context(made), OPEN_API, metrics)
    metrics.close()
    made.close()
