"""Every row of the handler table over a real chain: its result has the shape it promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridtokenx.api.context import Context
from gridtokenx.api.errors import ApiError
from gridtokenx.api.methods import METHOD_BY_NAME, METHODS
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.primitives.types import format_address
from gridtokenx.trading.model import ORDERS, CancelOrder, Side, Source
from tests.support.api_call import call
from tests.support.api_node import BUYER, LOCATION, SELLER, SELLER_METER, MemoryNode, order

SELLER_TEXT = format_address(SELLER.public_key)
BUYER_TEXT = format_address(BUYER.public_key)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MemoryNode]:
    made = MemoryNode(tmp_path, local_signer=SELLER)
    made.populate()
    yield made
    made.close()


def refusal(node: MemoryNode, name: str, **raw: Any) -> str:
    with pytest.raises(ApiError) as error:
        call(node, name, **raw)
    return error.value.reason


def test_every_method_answers_in_its_shape(node: MemoryNode) -> None:
    sell, _ = node.trade()
    (trade,) = call(node, "energy_getTrades")["items"]
    waiting = node.sign(BUYER, Transfer(SELLER.public_key, Asset.THB, 1))
    fields = {
        "order_type": "sell",
        "energy_amount": "1.5",
        "price_per_kwh": 4000,
        "energy_source": "solar",
        "grid_location": LOCATION,
    }
    arguments: dict[str, dict[str, Any]] = {
        "chain_getBlock": {"block": 2, "full": True},
        "chain_getFinality": {"block": "3"},
        "tx_send": {"transaction": waiting.encoded.hex()},
        "tx_sendBatch": {"transactions": [waiting.encoded.hex()]},
        "tx_get": {"id": sell.id.hex()},
        "tx_getStatus": {"id": "0x" + sell.id.hex()},
        "tx_getStatuses": {"ids": [sell.id.hex()]},
        "tx_decode": {"transaction": sell.encoded.hex()},
        "energy_getOrder": {"id": sell.id.hex()},
        "energy_getOrderBook": {"zone": "BKK"},
        "energy_getTrade": {"id": trade["trade_id"]},
        "energy_submitOrder": fields,
        "energy_prepareOrder": {**fields, "trader": SELLER_TEXT},
        "chain_getRawBlocks": {"from_height": 1},
        "energy_quote": fields,
        "energy_getCarbon": {"address": SELLER_TEXT},
        "audit_getReports": {"territory": "BKK"},
        "grid_getZone": {"zone": "BKK-01"},
        "grid_getMeter": {"id": SELLER_METER.public_key.hex()},
        "account_get": {"address": SELLER_TEXT},
        "account_getBalance": {"address": SELLER_TEXT},
        "account_getNonce": {"address": SELLER_TEXT},
        "account_getHistory": {"address": SELLER_TEXT},
        "account_getProof": {"address": SELLER_TEXT},
    }
    elsewhere = {"energy_getMeterReadings", "energy_getCertificate"}  # See test_market_methods.
    national = ("gov_", "stake_", "shard_")  # See test_national_methods.
    for method in METHODS:
        if method.name not in elsewhere and not method.name.startswith(national):
            call(node, method.name, **arguments.get(method.name, {}))
    assert set(arguments) <= set(METHOD_BY_NAME)


def test_no_result_holds_a_float_or_an_unbounded_number(node: MemoryNode) -> None:
    node.trade()

    def check(value: Any, path: str) -> None:
        assert not isinstance(value, float), path
        if type(value) is int:
            assert value < 2**53, path
        for key, inner in value.items() if isinstance(value, dict) else ():
            assert not (key.endswith(("_wh", "_uthb", "_mthb", "height", "nonce")) and _is(inner))
            check(inner, f"{path}.{key}")
        for inner in value if isinstance(value, list) else ():
            check(inner, path)

    def _is(value: Any) -> bool:
        return type(value) is int

    for name in ("chain_getStatus", "energy_getTrades", "energy_getStats", "energy_getMarket"):
        check(call(node, name), name)
    check(call(node, "account_get", address=SELLER_TEXT), "account_get")


def test_a_settled_trade_tells_what_was_delivered(node: MemoryNode) -> None:
    sell, buy = node.trade()
    slot = sell.payload.first_slot
    while node.current_slot() <= slot:
        node.make_block()
    node.read_meters(slot, export_wh=1500, import_wh=2000)
    node.make_block()
    node.make_block()
    (trade,) = call(node, "energy_getTrades", trader=BUYER_TEXT)["items"]
    assert trade["status"] == "settled"
    assert trade["settlement"]["delivered_wh"] == "1500"
    stats = call(node, "energy_getStats")
    total = stats["total"]
    assert (total["delivered_wh"], total["shortfall_wh"]) == ("1500", "500")
    assert total["minted_wh"] == "1500"
    assert call(node, "energy_getStats", window_slots=1)["total"]["traded_wh"] == "0"
    assert call(node, "energy_getOrder", id=buy.id.hex())["status"] == "filled"


def test_orders_are_listed_newest_first_with_stable_cursors(node: MemoryNode) -> None:
    first = node.current_slot() + 20
    placed = []
    for offset in range(6):
        terms = order(Side.SELL, 1000, 4000 + offset, SELLER_METER, Source.SOLAR, first + offset)
        placed.append(node.put(SELLER, terms).id.hex())
        node.make_block()
    page = call(node, "energy_getOrders", limit=2)
    assert [row["order_id"] for row in page["items"]] == placed[:3:-1]
    node.put(SELLER, order(Side.SELL, 1000, 4000, SELLER_METER, Source.SOLAR, first + 7))
    node.make_block()
    rest = call(node, "energy_getOrders", limit=3, cursor=page["next_cursor"])
    assert [row["order_id"] for row in rest["items"]] == placed[3:0:-1]
    last = call(node, "energy_getOrders", limit=3, cursor=rest["next_cursor"])
    assert last["next_cursor"] is None
    mine = call(node, "energy_getOrders", trader=SELLER_TEXT, status="all", limit=100)
    assert len(mine["items"]) == 7
    assert call(node, "energy_getOrders", trader=BUYER_TEXT)["items"] == []
    assert call(node, "energy_getOrders", zone="BKK-02")["items"] == []
    assert len(call(node, "energy_getOrders", zone="BKK-01", side="sell")["items"]) == 7


def test_a_cancelled_order_is_told_as_such(node: MemoryNode) -> None:
    slot = node.current_slot() + 2
    placed = node.put(SELLER, order(Side.SELL, 1000, 4000, SELLER_METER, Source.SOLAR, slot))
    node.put(SELLER, CancelOrder(placed.id))
    node.make_block()
    found = call(node, "energy_getOrder", id=placed.id.hex())
    assert (found["status"], found["rest_wh"]) == ("cancelled", "1000")
    closed = call(node, "energy_getOrders", trader=SELLER_TEXT, status="closed")["items"]
    assert [row["order_id"] for row in closed] == [placed.id.hex()]
    assert call(node, "energy_getOrders")["items"] == []
    (event,) = call(node, "tx_get", id=placed.id.hex())["events"]
    assert event["kind"] == "order_placed"
    assert event["reserve_uthb"] == "1000000"


def test_order_book_of_a_slot_counts_what_may_trade_in_it(node: MemoryNode) -> None:
    slot = node.current_slot() + 2
    node.put(SELLER, order(Side.SELL, 3000, 4000, SELLER_METER, Source.SOLAR, slot))
    node.put(SELLER, order(Side.SELL, 2000, 4000, SELLER_METER, Source.SOLAR, slot + 1))
    node.make_block()
    both = call(node, "energy_getOrderBook", zone="BKK-01-SUB001")
    assert both["asks"] == [{"price_mthb": "4000", "energy_wh": "5000", "orders": 2}]
    one = call(node, "energy_getOrderBook", zone="BKK-01", slot=slot + 1)
    assert one["asks"] == [{"price_mthb": "4000", "energy_wh": "2000", "orders": 1}]
    assert call(node, "energy_getOrderBook", zone="BKK-02")["asks"] == []
    assert slot_at(slot * 900_000) == slot


def test_transactions_are_found_wherever_they_are(node: MemoryNode) -> None:
    waiting = node.put(SELLER, Transfer(BUYER.public_key, Asset.THB, 7))
    status = call(node, "tx_getStatus", id=waiting.id.hex())
    assert (status["status"], status["chain"]) == ("pending", "MET")
    assert call(node, "tx_get", id=waiting.id.hex())["transaction"] is None
    node.make_block()
    included = call(node, "tx_getStatus", id=waiting.id.hex())
    assert (included["status"], included["height"], included["position"]) == ("finalized", "2", 0)
    assert call(node, "tx_getStatus", id="11" * 32)["status"] == "unknown"
    poor = node.sign(SELLER, Transfer(BUYER.public_key, Asset.GTX, 10**15))
    assert node.admit("MET", poor.encoded) is not None
    rejected = call(node, "tx_getStatus", id=poor.id.hex())
    assert rejected["status"] == "rejected"
    assert rejected["error"]["data"]["reason"] == "insufficient_balance"
    history = call(node, "account_getHistory", address=BUYER_TEXT)["items"]
    assert history[0]["transaction"]["tx_id"] == waiting.id.hex()


def test_blocks_are_paged_and_found_by_hash(node: MemoryNode) -> None:
    for _ in range(3):
        node.put(SELLER, Transfer(BUYER.public_key, Asset.THB, 1))
    node.make_block()
    by_height = call(node, "chain_getBlock", block="2")
    assert call(node, "chain_getBlock", block=by_height["hash"]) == by_height
    full = call(node, "chain_getBlock", block=2, full=True, offset=2)
    assert [row["tx_id"] for row in full["transactions"]] == by_height["transactions"][2:]
    assert (full["transaction_count"], full["next_offset"]) == (3, None)
    assert refusal(node, "chain_getBlock", block=99) == "block_not_found"


def test_an_account_is_summed_over_chains(node: MemoryNode) -> None:
    found = call(node, "account_getBalance", address=SELLER_TEXT)
    assert [row["chain"] for row in found["chains"]] == ["MET", "NOR"]
    assert found["totals"]["thb_uthb"] == "5000000000"
    only = call(node, "account_get", address=SELLER_TEXT, chain="MET")
    assert [row["chain"] for row in only["chains"]] == ["MET"]
    assert only["chains"][0]["meters"][0]["location"] == LOCATION
    assert refusal(node, "account_getBalance", address=SELLER_TEXT, chain="NEA") == "unknown_shard"


def test_submitted_orders_of_one_signer_take_consecutive_nonces(node: MemoryNode) -> None:
    context = Context(node)
    method = METHOD_BY_NAME["energy_submitOrder"]

    async def submit_all() -> list[Any]:
        calls = [
            method.handler(
                context,
                method.arguments(
                    {
                        "order_type": "sell",
                        "energy_amount": 1,
                        "price_per_kwh": 4000 + index,
                        "energy_source": "solar",
                        "grid_location": LOCATION,
                        "expiration_hours": 1,
                    }
                ),
            )
            for index in range(5)
        ]
        return await asyncio.gather(*calls)

    answers = asyncio.run(submit_all())
    assert len({answer.tx_id for answer in answers}) == 5
    node.make_block()
    assert len(call(node, "energy_getOrders")["items"]) == 5


def test_too_many_submissions_are_busy_not_queued(node: MemoryNode) -> None:
    context = Context(node, max_in_flight=3)
    raw = node.sign(SELLER, Transfer(BUYER.public_key, Asset.THB, 1)).encoded

    async def send(count: int) -> Any:
        return await context.submissions.send("MET", [raw] * count)

    with pytest.raises(ApiError) as error:
        asyncio.run(send(4))
    assert (error.value.status, error.value.retryable) == (503, True)
    assert [one and one.code for one in asyncio.run(send(2))] == [None, ErrorCode.DUPLICATE]
    assert context.submissions.in_flight == 0


def test_unchanged_rows_are_decoded_once(node: MemoryNode) -> None:
    """Order books are asked for all the time; a block changes few orders."""
    context = Context(node)
    slot = node.current_slot() + 20
    node.put(SELLER, order(Side.SELL, 1000, 4000, SELLER_METER, Source.SOLAR, slot))
    node.make_block()
    before = context.table(node.chains()["MET"], ORDERS)
    assert context.table(node.chains()["MET"], ORDERS) is before
    node.put(SELLER, order(Side.SELL, 1000, 4100, SELLER_METER, Source.SOLAR, slot + 1))
    node.make_block()
    after = dict(context.table(node.chains()["MET"], ORDERS))
    assert len(after) == 2
    ((key, value),) = before
    assert after[key] is value
    assert context.table(node.chains()["NOR"], ORDERS) == []
