"""What the methods of market, settlement and grid were asked for `golden_market.json`.

`python -m tests.unit.api.golden_market` records the answers anew.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gridtokenx.answers.signed_requests import request_bytes
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus
from gridtokenx.ledger.model import RetireCredits
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import Generation, ReplaceMeter, RetireMeter, SuspendMeter
from gridtokenx.trading.model import CancelOrder, PlaceOrder, Side, Source
from tests.support.api_node import (
    BUYER,
    BUYER_METER,
    LOCATION,
    SELLER,
    SELLER_METER,
    START_MS,
    STRANGER,
    MemoryNode,
    order,
    registration,
)
from tests.support.golden import NOW_MS, asking

RECORDED = Path(__file__).with_name("golden_market.json")
SELLER_TEXT = format_address(SELLER.public_key)
BUYER_TEXT = format_address(BUYER.public_key)
STRANGER_TEXT = format_address(STRANGER.public_key)
NOTHING = "00" * 32
READINGS = "energy_getMeterReadings"

Request = tuple[str, Any]  # A method and its parameters, or "GET /path?query" and a body.
Steps = Generator[Request, str | None, None]  # It is sent the answer to each.

SALE = {"order_type": "sell", "energy_amount": "1.5", "price_per_kwh": 4000,
        "grid_location": LOCATION, "energy_source": "solar"}  # fmt: skip
PURCHASE = {"order_type": "buy", "energy_amount": 2, "price_per_kwh": "6000",
            "grid_location": LOCATION}  # fmt: skip


def record(folder: Path) -> dict[str, str]:
    """Each request, made on chains that a scenario carries on, with the answer's bytes."""
    node = MemoryNode(folder, local_signer=SELLER)
    node.populate()
    found: dict[str, str] = {}
    scenario, answer = _scenario(node), None
    with asking(node) as ask, suppress(StopIteration):
        while True:
            asked, given = scenario.send(answer)
            answer = ask(_line(asked, given))
            found[f"{len(found)} {asked} {json.dumps(given)}"] = answer
    node.close()
    return found


def _line(asked: str, given: Any) -> str:
    """A request as `asking` takes it."""
    if " " in asked:
        return asked if given is None else f"{asked} {json.dumps(given)}"
    request = {"jsonrpc": "2.0", "id": 1, "method": asked, "params": given}
    return f"POST /rpc {json.dumps(request)}"


def _result(answer: str | None) -> Any:
    return json.loads((answer or "").partition(" ")[2])["result"]


def _scenario(node: MemoryNode) -> Steps:
    yield from _young(node)
    yield from _open_orders(node)
    yield from _prepared(node)
    yield from _closed_orders(node)
    yield from _settled(node)
    yield from _grid(node)
    yield from _meters(node)
    yield from _reports(node)


def _young(node: MemoryNode) -> Steps:
    """Nobody has traded yet."""
    for method in ("getOrders", "getTrades", "getStats", "getMarket"):
        yield f"energy_{method}", {}
        yield f"energy_{method}", {"chain": "NOR"}
        yield f"energy_{method}", {"chain": "XYZ"}
        yield f"energy_{method}", {"chain": "met"}
        yield f"energy_{method}", {"nothing": 1}
    yield "energy_getOrderBook", {"zone": "BKK"}
    yield "energy_getOrderBook", {}
    yield "energy_getOrderBook", {"zone": "XXX"}
    yield "energy_getOrderBook", {"zone": 5}
    yield "energy_getOrder", {}
    yield "energy_getOrder", {"id": NOTHING}
    yield "energy_getOrder", {"id": NOTHING, "chain": "NOR"}
    yield "energy_getOrder", {"id": "0xg"}
    yield "energy_getOrder", ["00" * 31]
    yield "energy_getTrade", {"id": NOTHING}
    yield "energy_getTrade", {"id": ["00"]}
    yield "energy_getStats", {"window_slots": 0}
    yield "energy_getStats", {"window_slots": 35_041}
    yield "energy_getStats", {"window_slots": 4, "chain": "MET"}
    yield "energy_getCarbon", {"address": STRANGER_TEXT}
    yield "energy_getCarbon", {"address": "gtx1nobody"}
    yield "energy_getCarbon", {"address": 7}
    yield "energy_getCarbon", {}
    yield "energy_getCertificate", {"id": "MET-1"}
    yield "energy_getCertificate", {"id": "XYZ-1"}
    yield "energy_getCertificate", {"id": "MET"}
    yield "energy_quote", PURCHASE
    yield "energy_quote", SALE
    yield "grid_getStatus", {}
    yield "grid_getZones", {}
    yield "audit_getReports", {"territory": "BKK"}


def _open_orders(node: MemoryNode) -> Steps:
    first = node.current_slot() + 20
    for offset in range(5):
        terms = order(Side.SELL, 1000, 4000 + offset, SELLER_METER, Source.SOLAR, first + offset)
        node.put(SELLER, terms)
        node.make_block()
    bid = node.put(BUYER, order(Side.BUY, 800, 3000, BUYER_METER, Source.SOLAR, first + 2))
    node.make_block()
    yield "energy_getOrders", {}
    cursor = ""
    for limit in (1, 3, 100):
        given = {"limit": limit, "side": "sell", **({"cursor": cursor} if cursor else {})}
        cursor = _result((yield "energy_getOrders", given))["next_cursor"]
    for given in (
        {"trader": SELLER_TEXT, "limit": "2"},
        {"trader": STRANGER_TEXT},
        {"side": "buy"},
        {"side": "both"},
        {"source": "solar"},
        {"source": "wind"},
        {"source": "atoms"},
        {"zone": "BKK-01"},
        {"zone": "BKK-02"},
        {"zone": "NOWHERE"},
        {"zone": "XXX-01"},
        {"zone": "BKK", "chain": "NOR"},
        {"status": "closed"},
        {"status": "open"},
        {"status": "some"},
        {"status": "all", "trader": SELLER_TEXT, "limit": 2},
        {"limit": 0},
        {"limit": 101},
        {"limit": "2.5"},
        {"limit": True},
        {"cursor": "eHg="},
        {"cursor": "no cursor"},
        {"cursor": 5},
        [BUYER_TEXT, "buy", "solar", "BKK", "open", "MET", 1],
        [1] * 9,
    ):
        yield "energy_getOrders", given
    yield "energy_getOrder", {"id": bid.id.hex()}
    yield "energy_getOrder", {"id": "0x" + bid.id.hex(), "chain": "MET"}
    for path in (
        "/energy/orders?limit=2",
        "/energy/orders?limit=2&limit=3",
        "/energy/orders?status=closed",
        f"/energy/orders/{bid.id.hex()}",
        f"/energy/orders/{NOTHING}",
        "/energy/orderbook?zone=BKK-01&depth=2",
        "/energy/orderbook",
        "/energy/stats?window_slots=9",
        "/energy/market?zone=BKK-01",
        "/energy/market?zone=Bangkok",
        "/energy/trades?chain=NOR",
    ):
        yield f"GET {path}", None
    yield "energy_getOrderBook", {"zone": "BKK", "slot": first + 2}
    yield "energy_getOrderBook", {"zone": LOCATION, "depth": 1}
    yield "energy_getOrderBook", {"zone": LOCATION, "depth": 0}
    yield "energy_getMarket", {"zone": "NTB"}


def _prepared(node: MemoryNode) -> Steps:
    buying = {**PURCHASE, "trader": BUYER_TEXT}
    selling = {**SALE, "trader": SELLER_TEXT}
    for given in (
        buying,
        selling,
        {**selling, "expiration_hours": 1, "meter_id": SELLER_METER.public_key.hex()},
        {**buying, "expiration_hours": "720", "require": "true", "energy_source": "renewable"},
        {**buying, "require": 1},
        {**buying, "expiration_hours": 721},
        {**buying, "trader": STRANGER_TEXT},
        {**buying, "meter_id": NOTHING},
        {**buying, "meter_id": "00"},
        {**buying, "energy_amount": "1.2345"},
        {**buying, "energy_amount": "-1"},
        {**buying, "energy_amount": "1e9"},
        {**buying, "energy_amount": None},
        {**buying, "price_per_kwh": 4000.5},
        {**buying, "price_per_kwh": "dear"},
        {**buying, "order_type": "swap"},
        {**buying, "grid_location": "BKK"},
        {**buying, "grid_location": "XXX-01-SUB001"},
        {**selling, "energy_source": "wind"},
        {},
    ):
        yield "energy_prepareOrder", given
    yield "POST /energy/orders/prepare", selling
    yield "POST /energy/orders/prepare", []
    yield "POST /energy/orders/prepare?trader=1", selling
    yield "energy_submitOrder", SALE
    yield "POST /energy/orders", {**SALE, "price_per_kwh": 4100, "expiration_hours": 3}
    yield "POST /energy/orders", {**SALE, "price_per_kwh": 999}
    yield "POST /energy/orders", {"transaction": "00"}
    node.local_signer = None
    yield "energy_submitOrder", SALE
    yield "energy_submitOrder", {**PURCHASE, "meter_id": BUYER_METER.public_key.hex()}
    yield "energy_submitOrder", {**SALE, "price_per_kwh": "0.5"}
    node.make_block()
    for change in (
        {},
        {"slot": node.current_slot() + 3},
        {"slot": 0},
        {"slot": -1},
        {"trader": BUYER_TEXT},
        {"meter_id": NOTHING},
        {"vat_registered": "true", "energy_source": "solar"},
        {"price_per_kwh": 999},
        {"price_per_kwh": "0.5"},
        {"energy_amount": "0.05"},
        {"energy_amount": "0.00001"},
        {"grid_location": "XXX-01-SUB001"},
        {"grid_location": "NTB-01-SUB001"},
    ):
        yield "energy_quote", {**PURCHASE, **change}
    for change in (
        {"energy_source": "any"},
        {"energy_source": "renewable"},
        {"energy_source": "any", "trader": SELLER_TEXT},
        {"energy_source": "any", "trader": BUYER_TEXT},
        {"vat_registered": True},
    ):
        yield "energy_quote", {**SALE, **change}
    yield f"GET /energy/quote?order_type=sell&energy_amount=1&price_per_kwh=4000&grid_location={LOCATION}&energy_source=solar", None  # fmt: skip # noqa: E501


def _closed_orders(node: MemoryNode) -> Steps:
    slot = node.current_slot() + 30
    placed = node.put(SELLER, order(Side.SELL, 700, 5000, SELLER_METER, Source.SOLAR, slot))
    node.put(SELLER, CancelOrder(placed.id))
    node.make_block()
    yield "energy_getOrder", {"id": placed.id.hex()}
    yield "energy_getOrders", {"trader": SELLER_TEXT, "status": "closed"}
    yield "energy_getOrders", {"trader": SELLER_TEXT, "status": "closed", "zone": "NTB"}
    yield "energy_getOrders", {"trader": SELLER_TEXT, "status": "all", "side": "buy"}


def _settled(node: MemoryNode) -> Steps:
    sell, buy = node.trade()
    yield "energy_getTrades", {}
    yield "energy_getTrades", {"trader": BUYER_TEXT, "limit": 1}
    yield "energy_getTrades", {"trader": STRANGER_TEXT}
    yield "energy_getTrades", {"cursor": "eHg="}
    assert isinstance(sell.payload, PlaceOrder)
    slot = sell.payload.first_slot
    while node.current_slot() <= slot:
        node.make_block()
    node.read_meters(slot, export_wh=1500, import_wh=2000)
    node.make_block()
    node.make_block()
    trade_id = _result((yield "energy_getTrades", {}))["items"][0]["trade_id"]
    page = _result((yield "energy_getTrades", {"limit": 1}))
    yield "energy_getTrades", {"limit": 1, "cursor": page["next_cursor"]}
    yield "energy_getTrade", {"id": trade_id}
    yield "energy_getTrade", {"id": trade_id, "chain": "NOR"}
    yield f"GET /energy/trades/{trade_id}", None
    yield "energy_getOrder", {"id": buy.id.hex()}
    yield "energy_getStats", {}
    yield "energy_getStats", {"window_slots": "8"}
    yield "energy_getOrders", {"trader": BUYER_TEXT, "status": "all"}
    yield "energy_quote", PURCHASE
    yield "energy_quote", {**PURCHASE, "price_per_kwh": 3000}
    yield "energy_quote", {**SALE, "trader": SELLER_TEXT}
    yield "energy_getCarbon", {"address": BUYER_TEXT}
    node.put(BUYER, RetireCredits(400_000, bytes(31) + b"\x01"))
    node.put(BUYER, RetireCredits(1_000, bytes(31) + b"\x02"))
    node.make_block()
    yield "energy_getCarbon", {"address": BUYER_TEXT, "chain": "MET"}
    yield f"GET /energy/carbon/{BUYER_TEXT}", None
    yield "energy_getCertificate", {"id": "MET-1"}
    yield "GET /energy/certificates/MET-2", None
    yield "GET /energy/certificates/MET-3", None
    yield READINGS, _signed(node, SELLER)
    page = _result((yield READINGS, _signed(node, SELLER, limit="1")))
    yield READINGS, _signed(node, SELLER, limit="1", cursor=page["next_cursor"])
    yield READINGS, _signed(node, operator_key("mea"), chain="MET")
    yield READINGS, _signed(node, operator_key("erc"), address=STRANGER_TEXT)
    yield READINGS, _signed(node, STRANGER)
    yield READINGS, {**_signed(node, SELLER), "signature": "00" * 64}
    yield READINGS, {"address": SELLER_TEXT}
    yield READINGS, {"address": SELLER_TEXT, "signature": "00"}
    yield f"GET /energy/readings/{SELLER_TEXT}", None


def _signed(node: MemoryNode, key: SigningKey, **params: str) -> dict[str, Any]:
    given = {"address": SELLER_TEXT, "limit": "50", **params}
    message = request_bytes(node.genesis.hash, READINGS, given, NOW_MS)
    signer = format_address(key.public_key)
    signature = key.sign(message).hex()
    return {**given, "signer": signer, "signed_ms": NOW_MS, "signature": signature}


def _grid(node: MemoryNode) -> Steps:
    slot = node.current_slot()
    status = PublishGridStatus(LOCATION, slot, 7325, 250_000, 50_000, 10_000)
    node.put(operator_key("mea"), status)
    node.put(
        operator_key("mea"), PublishGridStatus("BKK-01", slot, 11_850, 250_000, 50_000, 10_000)
    )
    node.make_block()
    for given in (
        {},
        {"chain": "MET"},
        {"chain": "MET", "slot": slot},
        {"chain": "MET", "slot": slot + 3},
        {"slot": 2**40 + 1},
        {"chain": "XYZ"},
    ):
        yield "grid_getStatus", given
        yield "grid_getZones", given
    for given in (
        {"zone": "BKK-01"},
        {"zone": "BKK-01", "slot": slot - 3},
        {"zone": "BKK-77"},
        {"zone": "BKK"},
        {"zone": "XXX-01"},
        {},
    ):
        yield "grid_getZone", given
    yield "GET /grid/zones/BKK-01", None
    yield "GET /grid/zones", None
    yield "GET /grid/status?chain=MET", None
    node.put(operator_key("erc"), HaltTerritory("BKK", "flood"))
    node.make_block()
    yield "grid_getStatus", {"chain": "MET"}
    yield "grid_getZone", {"zone": "BKK-01"}
    yield "energy_quote", PURCHASE
    node.put(operator_key("erc"), HaltTerritory("NTB", "storm", START_MS + 10**9))
    node.make_block()
    yield "grid_getStatus", {"chain": "MET"}


def _meters(node: MemoryNode) -> Steps:
    mea, meter_id = operator_key("mea"), SELLER_METER.public_key
    device = SigningKey(sha256(b"golden device"))
    mill = SigningKey(sha256(b"golden mill"))
    yield "grid_getMeter", {"id": meter_id.hex()}
    for command in (
        registration(SELLER, mill, Generation.WIND),
        RetireMeter(mill.public_key, 0, 0),
        SuspendMeter(meter_id, "seal broken"),
        ReplaceMeter(meter_id, device.public_key, 1511, 12, 13, 14),
    ):
        node.put(mea, command)
    node.make_block()
    yield "grid_getMeter", {"id": meter_id.hex()}
    yield "grid_getMeter", {"id": device.public_key.hex(), "chain": "MET"}
    yield "grid_getMeter", {"id": device.public_key.hex(), "chain": "NOR"}
    yield f"GET /grid/meters/{mill.public_key.hex()}", None
    yield "grid_getMeter", {"id": NOTHING}
    yield "grid_getMeter", {}
    yield READINGS, _signed(node, SELLER)
    yield "grid_getStatus", {"chain": "MET"}


def _reports(node: MemoryNode) -> Steps:
    for given in (
        {"territory": "BKK", "day": "2026-01-01"},
        {"territory": "mea", "day": "2026-01-01"},
        {"territory": "NTB"},
        {"territory": "XYZ"},
        {"territory": "B-K"},
        {"territory": "BKK", "day": "2026-13-01"},
        {"territory": "BKK", "day": "9999-12-31"},
        {},
    ):
        yield "audit_getReports", given
    while node.make_block() < 90:
        pass
    yield "audit_getReports", {"territory": "BKK", "day": "2026-01-01"}
    yield "audit_getReports", {"territory": "BKK", "day": "2025-12-01"}
    yield "GET /audit/reports/MEA?day=2026-01-01", None
    yield "GET /audit/reports/PEA", None


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        RECORDED.write_text(json.dumps(record(Path(scratch)), indent=1) + "\n", encoding="utf-8")
