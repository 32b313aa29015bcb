"""The API over real HTTP: the seed's requests, every way to be refused, and load."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from gridtokenx.api import server as server_module
from gridtokenx.api.listening import ApiServerError
from gridtokenx.api.server import serve
from gridtokenx.api.site import Site
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import Side, Source
from gridtokenx.views.status import NetworkStatus
from tests.support.api_node import BUYER, OPEN_API, SELLER, STRANGER, MemoryNode
from tests.support.api_server import JSON, rpc, running

SEED_ORDER = """{
    "order_type": "sell",
    "energy_amount": 100.0,
    "price_per_kwh": 5000,
    "energy_source": "solar",
    "grid_location": "BKK-01-SUB001",
    "expiration_hours": 24
  }"""


async def test_seed_requests_work_unchanged_on_a_node_with_a_local_signer(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path, local_signer=SELLER)
    node.populate()
    async with running(node) as http:
        posted = await http.post("/api/v1/energy/orders", content=SEED_ORDER, headers=JSON)
        assert posted.status_code == 202, posted.text
        order_id = posted.json()["order_id"]
        status = await http.get(f"/api/v1/transactions/{order_id}")
        assert status.json()["status"] == "pending"
        node.make_block()
        seller = format_address(SELLER.public_key)
        block = (await http.get("/api/v1/blocks/2")).json()
        for path in (
            "/status",
            "/blocks/1",
            f"/blocks/hash/{block['hash']}",
            f"/transactions/{order_id}",
            "/energy/orders",
            "/energy/stats",
            "/grid/status",
            f"/accounts/{seller}",
            f"/accounts/{seller}/balance",
            f"/accounts/{seller}/proof",
            f"/energy/orders/{order_id}",
            "/energy/orderbook?zone=BKK-01",
            "/energy/trades",
            "/peers",
            "/validators",
        ):
            answer = await http.get(f"/api/v1{path}")
            assert answer.status_code == 200, (path, answer.text)
        (order,) = (await http.get("/api/v1/energy/orders")).json()["items"]
        assert order["order_id"] == order_id
        assert order["energy_wh"] == "100000"
        assert order["limit_mthb"] == "5000"
        assert order["trader"] == seller
        assert int(order["last_slot"]) - int(order["first_slot"]) >= 90
        assert block["transactions"] == [order_id]


async def test_unsigned_order_is_refused_with_the_command_that_signs_it(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    async with running(node) as http:
        refused = await http.post("/api/v1/energy/orders", content=SEED_ORDER, headers=JSON)
        assert refused.status_code == 401
        error = refused.json()["error"]
        assert (error["code"], error["reason"]) == (5003, "signature_required")
        assert error["hint"] == (
            "gridtokenx orders place --side sell --kwh 100.000 --price 5.000 --source solar "
            "--location BKK-01-SUB001 --expires 24h"
        )
        signed = node.sign(SELLER, Transfer(BUYER.public_key, Asset.THB, 5))
        body = {"tx": signed.encoded.hex()}
        assert (await http.post("/api/v1/energy/orders", json=body)).status_code == 202
        again = await http.post("/api/v1/transactions", json=body)
        assert (again.status_code, again.json()["error"]["reason"]) == (409, "duplicate")


async def test_metrics_have_the_seed_names_exactly(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    node.trade()
    node.peer_list = (replace(node.peer_list[0], gossip={"total": -30.0}),)
    node.network_status = NetworkStatus(gossip_events={"rejected": 3})
    async with running(node) as http:
        await http.post("/rpc", json=rpc("chain_getStatus"))
        text = (await http.get("/metrics")).text
        assert 'gridtokenx_blockchain_height{chain="MET"} 3.0' in text
        assert 'gridtokenx_energy_trades_total{chain="MET"} 1.0' in text
        assert 'gridtokenx_consensus_rounds{chain="MET"} 3.0' in text
        assert "gridtokenx_network_peers 1.0" in text
        assert 'gridtokenx_gossip_score_bucket{le="-20.0"} 1.0' in text
        assert 'gridtokenx_gossip_score_bucket{le="-40.0"} 0.0' in text
        assert "gridtokenx_gossip_score_min -30.0" in text
        assert 'gridtokenx_network_connections{direction="inbound"}' in text
        assert "gridtokenx_network_bans " in text
        assert 'gridtokenx_gossip_events_total{event="rejected"} 3.0' in text
        assert 'gridtokenx_rpc_requests_total{code="0",method="chain_getStatus"} 1.0' in text
        assert 'gridtokenx_ready{check="peers"} 1.0' in text
        assert "_created" not in text


async def test_health_is_alive_and_ready_is_usable(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    async with running(node) as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        late = await http.get("/ready")  # The test's blocks are of New Year 2026.
        checks = {check["name"]: check for check in late.json()["checks"]}
        assert late.status_code == 503
        assert not checks["tip_MET"]["ok"]
        assert checks["sync_MET"]["ok"]
        assert checks["disk"]["ok"]
        lonely = await http.get("/ready?minPeers=7")
        named = {check["name"]: check for check in lonely.json()["checks"]}
        assert named["peers"]["want"] == "7 or more"
        assert "network.bootstrap" in named["peers"]["hint"]
        assert (await http.get("/ready?minPeers=-1")).status_code == 400


@pytest.mark.parametrize(
    ("send", "status", "reason"),
    [
        ({"content": b"{", "headers": JSON}, 400, "parse_error"),
        ({"content": b"\xff\xfe", "headers": JSON}, 400, "parse_error"),
        ({"content": b"[" * 100_000, "headers": JSON}, 400, "parse_error"),
        ({"content": b'{"a":' * 50_000 + b"1", "headers": JSON}, 400, "parse_error"),
        ({"content": b'{"id": NaN}', "headers": JSON}, 400, "parse_error"),
        ({"content": b'{"id": 1e99999999999999999999}', "headers": JSON}, 400, "parse_error"),
        ({"content": b'{"id": ' + b"9" * 9000 + b"}", "headers": JSON}, 400, "parse_error"),
        ({"content": b"{}"}, 415, "invalid_request"),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "invalid_request"),
        ({"content": b" " * 1_100_000, "headers": JSON}, 413, "too_large"),
        ({"json": []}, 400, "invalid_request"),
        ({"json": [rpc("chain_getHead")] * 51}, 413, "batch_too_large"),
        ({"json": {}, "headers": {"Host": "evil.example"}}, 403, "unauthorized"),
        ({"json": {}, "headers": {"Host": "evil.example:8080"}}, 403, "unauthorized"),
        ({"json": 1}, 200, "invalid_request"),
        ({"json": rpc("chain_getHaed")}, 200, "method_not_found"),
        ({"json": {**rpc("chain_getHead"), "id": {}}}, 200, "invalid_request"),
        ({"json": rpc("chain_getHead", chian="MET")}, 200, "invalid_params"),
        ({"json": rpc("chain_getHead", chain=7)}, 200, "invalid_params"),
        ({"json": rpc("chain_getHead", chain="XXX")}, 200, "unknown_shard"),
        ({"json": rpc("chain_getBlock")}, 200, "invalid_params"),
        ({"json": rpc("chain_getBlock", block=10**30)}, 200, "invalid_params"),
        ({"json": rpc("chain_getBlock", block=10**4000)}, 200, "invalid_params"),
        ({"json": rpc("chain_getBlock", block=10**9)}, 200, "block_not_found"),
        ({"json": rpc("chain_getBlock", block=0)}, 200, "block_not_found"),
        ({"json": rpc("account_get", address="gtx1oops")}, 200, "bad_address"),
        ({"json": rpc("tx_send", transaction="zz")}, 200, "invalid_params"),
        ({"json": rpc("tx_send", transaction="00")}, 200, "malformed_tx"),
        ({"json": rpc("tx_send", transaction="87181e5820" + "00" * 60)}, 200, "wrong_chain"),
        ({"json": rpc("tx_get", id="00" * 32)}, 200, "tx_not_found"),
        ({"json": rpc("energy_getOrder", id="00" * 32)}, 200, "order_not_found"),
        ({"json": rpc("energy_getTrade", id="00" * 32)}, 200, "trade_not_found"),
        ({"json": rpc("energy_getOrderBook", zone="ZZZ")}, 200, "unknown_zone"),
        ({"json": rpc("energy_getOrders", limit=101)}, 200, "invalid_params"),
        ({"json": rpc("energy_getOrders", cursor="AAAA")}, 200, "invalid_params"),
        ({"json": rpc("energy_getTrades", cursor="AAAA")}, 200, "malformed"),
        ({"json": rpc("energy_getOrders", status="closed")}, 200, "invalid_params"),
    ],
)
async def test_bad_requests_get_a_typed_error(
    tmp_path: Path, send: dict[str, object], status: int, reason: str
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        answer = await http.post("/rpc", **send)
        body = answer.json()
        assert (answer.status_code, body["error"]["data"]["reason"]) == (status, reason)
        assert body["error"]["message"]
        assert "Traceback" not in answer.text
        assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("GET", "/api/v1/nothing", None, 404),
        ("GET", "/nothing", None, 404),
        ("DELETE", "/api/v1/status", None, 405),
        ("POST", "/api/v1/status", {}, 405),
        ("GET", "/api/v1/blocks/abc", None, 400),
        ("GET", "/api/v1/blocks/77", None, 404),
        ("GET", "/api/v1/blocks/hash/77", None, 404),
        ("GET", "/api/v1/energy/orders?limit=1&limit=2", None, 400),
        ("GET", "/api/v1/energy/orders?colour=red", None, 400),
        ("GET", "/api/v1/accounts/gtx1x", None, 400),
        ("POST", "/api/v1/transactions", {"tx": "00"}, 400),
        ("POST", "/api/v1/transactions", [], 400),
        ("POST", "/api/v1/energy/orders", {"order_type": "hold"}, 400),
    ],
)
async def test_bad_rest_requests(
    tmp_path: Path, verb: str, path: str, body: object, status: int
) -> None:
    node = MemoryNode(tmp_path)
    async with running(node) as http:
        content = None if body is None else json.dumps(body)
        answer = await http.request(verb, path, content=content, headers=JSON)
        assert answer.status_code == status, answer.text
        assert set(answer.json()["error"]) == {
            *("code", "reason", "message", "hint", "retryable", "details")
        }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"energy_amount": 0.0001}, "amount_out_of_range"),
        ({"energy_amount": 99999999}, "amount_out_of_range"),
        ({"energy_amount": "abc"}, "invalid_params"),
        ({"energy_amount": -1}, "invalid_params"),
        ({"price_per_kwh": 5000.5}, "invalid_params"),
        ({"price_per_kwh": 50_000}, "price_out_of_band"),
        ({"energy_source": "wind"}, "unknown_source"),
        ({"energy_source": "magic"}, "invalid_params"),
        ({"grid_location": "BKK-09-SUB009"}, "unknown_meter"),
        ({"grid_location": "ZZZ-01-SUB001"}, "unknown_zone"),
        ({"grid_location": "KKC-01-SUB001"}, "unknown_shard"),
        ({"expiration_hours": 0}, "invalid_params"),
        ({"colour": "red"}, "invalid_params"),
    ],
)
async def test_bad_orders_are_refused_with_a_reason(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    node = MemoryNode(tmp_path, local_signer=SELLER)
    node.populate()
    async with running(node) as http:
        order = {**json.loads(SEED_ORDER), **change}
        answer = await http.post("/api/v1/energy/orders", json=order)
        assert answer.json()["error"]["reason"] == reason, answer.text


async def test_bad_transactions_are_refused_at_the_door(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    transfer = Transfer(BUYER.public_key, Asset.THB, 5)
    good = node.sign(SELLER, transfer)
    poor = node.sign(STRANGER, transfer)
    over = replace(good, nonce=good.nonce + 5)
    cases = {
        "bad_signature": replace(good, fee_ugtx=1).encoded,
        "wrong_chain": replace(good, chain_id=node.genesis.chain("NEA").chain_id).encoded,
        "malformed_tx": good.encoded + b"\0",
        "account_not_found": poor.encoded,
    }
    assert over.nonce != good.nonce
    async with running(node) as http:
        for reason, raw in cases.items():
            answer = await http.post("/rpc", json=rpc("tx_send", transaction=raw.hex()))
            assert answer.json()["error"]["data"]["reason"] == reason
        batch = await http.post(
            "/rpc",
            json=rpc("tx_sendBatch", transactions=[*(x.hex() for x in cases.values())]),
        )
        rows = batch.json()["result"]["results"]
        assert [row["error"]["data"]["reason"] for row in rows] == list(cases)


async def test_a_batch_of_sends_crosses_once_and_in_order(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    chain_id = node.genesis.chain("MET").chain_id
    from gridtokenx.chain.transaction import sign_transaction

    transfers = [
        sign_transaction(SELLER, chain_id, nonce, Transfer(BUYER.public_key, Asset.THB, 1))
        for nonce in range(40)
    ]
    async with running(node) as http:
        body = [
            {**rpc("tx_send", transaction=one.encoded.hex()), "id": f"n{index}"}
            for index, one in enumerate(transfers[:20])
        ]
        notification = {"jsonrpc": "2.0", "method": "chain_getHead"}
        answer = (await http.post("/rpc", json=[*body, notification, 5])).json()
        assert [one["id"] for one in answer] == [*(f"n{index}" for index in range(20)), None]
        assert all("result" in one for one in answer[:20])
        assert node.crossings == [20]
        rest = [one.encoded.hex() for one in transfers[20:]]
        many = (await http.post("/rpc", json=rpc("tx_sendBatch", transactions=rest))).json()
        assert [row["error"] for row in many["result"]["results"]] == [None] * 20
        assert node.crossings == [20, 20]
        quiet = await http.post("/rpc", json=[notification])
        assert (quiet.status_code, quiet.content) == (204, b"")


async def test_rate_limit_is_paid_by_each_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Site", partial(Site, clock=lambda: 0.0))
    node = MemoryNode(tmp_path)
    settings = replace(OPEN_API, rate_per_second=5)
    async with running(node, settings) as http:
        hopeless = await http.post("/rpc", json=rpc("tx_sendBatch", transactions=["00"] * 11))
        assert hopeless.json()["error"]["data"]["reason"] == "too_large"  # And it has paid for one.
        heads = (await http.post("/rpc", json=[rpc("chain_getHead")] * 11)).json()
        assert [("result" in one) for one in heads].count(True) == 9
        limited = await http.get("/api/v1/status")
        assert limited.status_code == 429
        assert int(limited.headers["Retry-After"]) >= 1
        assert limited.json()["error"]["retryable"]
        assert (await http.post("/rpc", json=rpc("chain_getHead"))).status_code == 429
        assert (await http.get("/health")).status_code == 200


async def test_behind_a_trusted_proxy_each_client_has_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Site", partial(Site, clock=lambda: 0.0))
    node = MemoryNode(tmp_path)
    settings = replace(OPEN_API, rate_per_second=1, trusted_proxies=("127.0.0.0/8",))
    async with running(node, settings) as http:

        async def codes(*lines: str) -> list[int]:
            headers = [("X-Forwarded-For", line) for line in lines]
            return [
                (await http.get("/api/v1/status", headers=headers)).status_code for _ in range(3)
            ]

        assert await codes("192.0.2.1") == [200, 200, 429]
        assert await codes("192.0.2.1, 198.51.100.2") == [200, 200, 429]
        assert await codes("203.0.113.5", "198.51.100.2") == [429, 429, 429]  # its own words
        assert (await http.get("/api/v1/status")).status_code == 200  # the proxy itself
    node = MemoryNode(tmp_path / "without a proxy")
    async with running(node, replace(settings, trusted_proxies=())) as http:
        assert await codes("192.0.2.1") == [200, 200, 429]
        assert await codes("192.0.2.2") == [429, 429, 429]  # saying so makes nobody another client


async def test_responses_are_bounded(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    settings = replace(OPEN_API, max_response_kib=1)
    async with running(node, settings) as http:
        for answer in (
            await http.get("/api/v1/genesis"),
            await http.post("/rpc", json=rpc("chain_getGenesis")),
        ):
            assert "response_too_large" in answer.text
            assert len(answer.content) < 1024
        batch = (await http.post("/rpc", json=[rpc("chain_getHead")] * 5)).json()
        assert "result" in batch[0]
        assert batch[-1]["error"]["code"] == -32003


async def test_a_call_has_a_deadline_and_what_was_handed_over_stays(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    node.stuck = True
    settings = replace(OPEN_API, call_timeout_ms=2_000)
    raw = node.sign(SELLER, Transfer(BUYER.public_key, Asset.THB, 5)).encoded.hex()
    async with running(node, settings) as http:
        answer = await http.post("/api/v1/transactions", json={"tx": raw})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (504, "timeout")
        (handed_over,) = node.unanswered
        assert not handed_over.cancelled()
        handed_over.set_result([None])
        node.unanswered.clear()
        node.stuck = False
        assert (await http.post("/api/v1/transactions", json={"tx": raw})).status_code == 202


async def test_finalized_blocks_may_be_cached_for_ever(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    async with running(node) as http:
        first = await http.get("/api/v1/blocks/1", headers={"X-Request-Id": "mine-7"})
        assert "immutable" in first.headers["Cache-Control"]
        assert first.headers["X-Request-Id"] == "mine-7"
        again = await http.get("/api/v1/blocks/1", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert len((await http.get("/health")).headers["X-Request-Id"]) == 16


async def test_other_origins_are_refused_unless_listed(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    settings = replace(OPEN_API, cors=("https://app.example",))
    async with running(node, settings) as http:
        evil = {"Origin": "https://evil.example"}
        assert (await http.options("/rpc", headers=evil)).status_code == 403
        plain = await http.get("/api/v1/status", headers=evil)
        assert "Access-Control-Allow-Origin" not in plain.headers
        good = {"Origin": "https://app.example"}
        assert (await http.options("/rpc", headers=good)).status_code == 204
        listed = await http.get("/api/v1/status", headers=good)
        assert listed.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_a_hundred_requests_at_once(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.populate()
    async with running(node) as http:
        answers: list[int] = []

        async def ask(index: int) -> None:
            if index % 2:
                answer = await http.get("/api/v1/status")
            else:
                answer = await http.post("/rpc", json=rpc("chain_getBlock", block=1, full=True))
                assert "result" in answer.json()
            answers.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(ask, index)
        assert answers == [200] * 100


async def test_a_taken_port_is_raised_to_whoever_starts_the_server(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            settings = replace(OPEN_API, port=taken.getsockname()[1])
            async with trio.open_nursery() as nursery:
                with pytest.raises(ApiServerError, match="another node may run there"):
                    await nursery.start(serve, node, settings)
    finally:
        node.close()


async def test_the_death_of_the_thread_ends_the_nursery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MemoryNode(tmp_path)
    started: list[server_module._Server] = []
    original = server_module._Server.__init__

    def remember(self, *args) -> None:
        original(self, *args)
        started.append(self)

    monkeypatch.setattr(server_module._Server, "__init__", remember)
    try:
        with pytest.RaisesGroup(ApiServerError):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, node, OPEN_API)
                (server,) = started
                server._loop.call_soon_threadsafe(server._stop.set)
                await trio.sleep(10)
    finally:
        node.close()


async def test_the_client_trades_and_checks_proofs(tmp_path: Path) -> None:
    """The whole way of a user: build, sign, send, wait, look, and verify."""
    node = MemoryNode(tmp_path)
    node.populate()
    async with running(node) as http:
        url = str(http.base_url)
        await trio.to_thread.run_sync(partial(_use_client, node, url))


def _use_client(node: MemoryNode, url: str) -> None:
    with Client(url, genesis=node.genesis) as client:
        assert client.heads()["MET"].height == 1
        sell = client.build_order(
            SELLER,
            side=Side.SELL,
            energy_wh=2000,
            limit_mthb=4000,
            location="BKK-01-SUB001",
            source=Source.SOLAR,
        )
        buy = client.build_order(
            BUYER,
            side=Side.BUY,
            energy_wh=1500,
            limit_mthb=6000,
            location="BKK-01-SUB001",
            source=Source.ANY,
        )
        sent = client.send(sell)
        assert client.transaction_status(sent).status == "pending"
        assert client.send_many([buy, buy])[0] is None
        with pytest.raises(RpcError) as late:
            client.wait_for([sent], timeout_s=0)
        assert late.value.code == ErrorCode.NOT_FINALIZED_YET
        node.make_block()
        (done,) = client.wait_for([sent], timeout_s=5)
        assert done.height == 2
        book = client.order_book("BKK")
        assert (book.bids[0].energy_wh, book.asks[0].price_mthb) == (1500, 4000)
        while node.current_slot() <= sell.payload.first_slot:
            node.make_block()
        assert client.order(buy.id.hex()).status == "filled"
        assert client.order(sell.id.hex()).filled_wh == 1500
        (trade,) = client.trades(trader=format_address(SELLER.public_key)).items
        assert client.trade(trade.trade_id.hex()) == trade
        assert client.stats().total.traded_wh == 1500
        proven = client.proof(SELLER.public_key, "MET")
        assert proven.account is not None
        held = client.balance(SELLER.public_key).totals
        assert held.bond_uthb == proven.account.bond_uthb
        assert client.proof(STRANGER.public_key, "MET").account is None
        with pytest.raises(RpcError) as unknown:
            client.account(STRANGER.public_key)
        assert unknown.value.reason == "account_not_found"
        assert client.genesis() == node.genesis
        assert client.nonce(SELLER.public_key, "MET") == 1


def test_no_node_says_how_to_start_one() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            Client(url) as client,
            pytest.raises(NodeUnreachable, match=r"gridtokenx cluster up") as error,
        ):
            client.status()
        assert error.value.url == url


async def test_metrics_can_be_turned_off(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path)
    node.config = replace(node.config, metrics=replace(node.config.metrics, enabled=False))
    async with running(node) as http:
        assert (await http.get("/metrics")).status_code == 404
