"""Quotes, the grid, readings by signed request, carbon certificates, reports, raw blocks."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridtokenx.api.access import WINDOW_MS, request_bytes
from gridtokenx.api.errors import ApiError
from gridtokenx.chain.block import decode_block
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus
from gridtokenx.ledger.model import RetireCredits
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import Generation, ReplaceMeter, RetireMeter, SuspendMeter
from gridtokenx.trading.model import Side, Source
from tests.support.api_call import call
from tests.support.api_node import (
    BUYER,
    LOCATION,
    SELLER,
    SELLER_METER,
    STRANGER,
    MemoryNode,
    order,
    registration,
)

SELLER_TEXT = format_address(SELLER.public_key)
READINGS = "energy_getMeterReadings"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MemoryNode]:
    made = MemoryNode(tmp_path, local_signer=SELLER)
    made.populate()
    yield made
    made.close()


def refusal(node: MemoryNode, name: str, **raw: Any) -> ApiError:
    with pytest.raises((ApiError, Rejected)) as error:
        call(node, name, **raw)
    told = error.value
    return ApiError.of(told) if isinstance(told, Rejected) else told


def settled(node: MemoryNode) -> int:
    """Trade 2 kWh, deliver all of it; the slot."""
    sell, _ = node.trade()
    slot = sell.payload.first_slot
    while node.current_slot() <= slot:
        node.make_block()
    node.read_meters(slot, export_wh=2000, import_wh=2000)
    node.make_block()
    node.make_block()
    return slot


QUOTE = {"order_type": "buy", "energy_amount": "2", "price_per_kwh": 6000,
         "grid_location": LOCATION}  # fmt: skip


def test_a_quote_tells_the_most_a_buyer_pays_and_what_the_last_price_would_cost(node) -> None:
    before = call(node, "energy_quote", **QUOTE)
    assert (before["reserve"], before["reserve_uthb"]) == ("escrow", "12840000")
    assert before["worst"]["buyer_uthb"] == "12840000"
    assert before["last"] is before["at_last_price"] is None
    slot = settled(node)
    after = call(node, "energy_quote", **QUOTE)
    price = int(after["last"]["price_mthb"])
    assert after["last"]["group"] == LOCATION
    assert after["last"]["slot"] == str(slot)
    wheeling_uthb = 2000 * 300
    assert after["at_last_price"]["energy_uthb"] == str(2000 * price)
    assert int(after["at_last_price"]["buyer_uthb"]) == (
        2000 * price + wheeling_uthb + wheeling_uthb * 7 // 100
    )
    (trade,) = call(node, "energy_getTrades")["items"]
    paid = trade["settlement"]
    for part in ("energy_uthb", "wheeling_uthb", "vat_uthb", "fee_uthb"):
        assert after["at_last_price"][part] == paid[part], "the quote is what settlement takes"


def test_a_quote_tells_its_place_and_what_the_book_holds_for_it(node) -> None:
    nothing = call(node, "energy_quote", **QUOTE)
    slot = int(nothing["slot"])
    assert nothing["expected"] == {
        "energy_wh": "0", "price_mthb": None, "parts": [], "charges": None,
    }  # fmt: skip
    assert [row["group"] for row in nothing["merit_order"]] == [LOCATION, "BKK-01", "BKK"]
    node.put(SELLER, order(Side.SELL, 1500, 4000, SELLER_METER, Source.SOLAR, slot + 1))
    node.make_block()
    told = call(node, "energy_quote", **QUOTE, slot=slot + 1)
    assert [row["meets_wh"] for row in told["merit_order"]] == ["1500"] * 3
    (part,) = told["expected"]["parts"]
    # 1.5 of his 2 kWh: what of his is left bids 6000 - 300, which is the price.
    assert (part["tier"], part["energy_wh"], part["price_mthb"]) == (0, "1500", "5700")
    assert told["expected"]["charges"]["energy_uthb"] == str(1500 * 5700)
    assert told["expected_unknown"] is None
    required = {**QUOTE, "slot": slot + 1, "energy_source": "wind"}
    assert call(node, "energy_quote", **required)["expected"]["energy_wh"] == "1500"
    told = call(node, "energy_quote", **required, require=True)
    assert told["expected"]["energy_wh"] == told["merit_order"][0]["meets_wh"] == "0"
    sale = {**QUOTE, "order_type": "sell", "energy_source": "solar", "slot": slot + 1}
    (first, *_) = call(node, "energy_quote", **sale)["merit_order"]
    assert (first["better_wh"], first["equal_wh"]) == ("1500", "0")
    closed = call(node, "energy_quote", **QUOTE, slot=slot - 1)
    assert (closed["expected"], closed["expected_unknown"]) == (None, "slot_not_open")


def test_a_quote_tells_what_the_last_slots_gave_and_that_of_the_day_before(node) -> None:
    slot = settled(node)
    told = call(node, "energy_quote", **QUOTE)
    (trade,) = call(node, "energy_getTrades")["items"]
    coming = int(told["slot"])
    assert [coming - int(row["slot"]) for row in told["cleared"]] == [1, 2, 3, 4, 96]
    traded = next(row for row in told["cleared"] if row["slot"] == str(slot))
    assert (traded["sold_wh"], traded["bought_wh"]) == ("2000", "2000")
    price = {"tier": 0, "group": LOCATION, "price_mthb": trade["price_mthb"]}
    assert traded["prices"] == [price]
    untraded = [row for row in told["cleared"] if row["slot"] != str(slot)]
    assert all((row["sold_wh"], row["prices"]) == ("0", []) for row in untraded)
    later = call(node, "energy_quote", **QUOTE, slot=slot + 96)
    assert later["cleared"] == told["cleared"][:4]  # That of the day before is among them.


def test_a_quote_obeys_the_rules_of_an_order(node) -> None:
    sale = {**QUOTE, "order_type": "sell", "energy_source": "solar"}
    bond = call(node, "energy_quote", **sale)
    assert (bond["reserve"], bond["reserve_uthb"]) == ("bond", "2000000")
    assert bond["worst"]["seller_uthb"] == str(12_000_000 - 30_000)
    assert refusal(node, "energy_quote", **{**QUOTE, "price_per_kwh": 999}).reason == (
        "price_out_of_band"
    )
    assert refusal(node, "energy_quote", **{**QUOTE, "energy_amount": "0.05"}).reason == (
        "amount_out_of_range"
    )
    assert refusal(node, "energy_quote", **{**sale, "energy_source": "any"}).status == 400
    no_plant = {**sale, "energy_source": "any", "trader": format_address(BUYER.public_key)}
    assert refusal(node, "energy_quote", **no_plant).reason == "unknown_source"
    assert refusal(node, "energy_quote", **{**QUOTE, "grid_location": "XXX-01-SUB001"}).reason == (
        "unknown_zone"
    )


def publish(node: MemoryNode, name: str, loading_bps: int) -> None:
    slot = node.current_slot()
    node.put(
        operator_key("mea"), PublishGridStatus(name, slot, loading_bps, 250_000, 50_000, 10_000)
    )
    node.make_block()


def territory(node: MemoryNode, name: str = "BKK") -> dict[str, Any]:
    rows = call(node, "grid_getStatus")["territories"]
    return next(row for row in rows if row["territory"] == name)


def test_the_grid_shows_loading_headroom_state_and_what_was_sold_over_it(node) -> None:
    assert territory(node)["substations"][0]["state"] == "unpublished"
    assert territory(node)["substations"][0]["headroom_wh"] is None
    publish(node, LOCATION, 7325)
    (substation,) = territory(node)["substations"]
    assert (substation["state"], substation["headroom_wh"]) == ("normal", "16718")
    publish(node, LOCATION, 11_850)
    (substation,) = territory(node)["substations"]
    assert (substation["state"], substation["headroom_wh"]) == ("congested", "0")
    assert (substation["loading_bps"], substation["by"]) == (11_850, "mea")
    slot = settled(node)
    (substation,) = call(node, "grid_getZone", zone="BKK-01", slot=slot)["substations"]
    assert substation["flow"] == {"export_wh": "0", "import_wh": "0", "local_wh": "2000"}
    (zone,) = call(node, "grid_getZones", chain="MET", slot=slot + 1)["items"]
    assert zone["flow_day"]["local_wh"] == "2000"
    assert zone["flow"]["local_wh"] == "0"
    assert refusal(node, "grid_getZone", zone="BKK-77").reason == "unknown_zone"


def test_a_halt_shows_with_its_reason(node) -> None:
    node.put(operator_key("erc"), HaltTerritory("BKK", "flood"))
    node.make_block()
    row = territory(node)
    assert row["halt"]["by"] == "erc"
    assert "flood" in row["emergency"]
    assert row["state"] == row["substations"][0]["state"] == "emergency"
    assert "flood" in call(node, "energy_quote", **QUOTE)["emergency"]
    assert territory(node, "NTB")["emergency"] is None


def signed(node: MemoryNode, key: SigningKey, age_ms: int = 0, **params: str) -> dict[str, Any]:
    given = {"address": SELLER_TEXT, "limit": "50", **params}
    signed_ms = time.time_ns() // 1_000_000 - age_ms
    message = request_bytes(node.genesis.hash, READINGS, given, signed_ms)
    return {
        **given,
        "signer": format_address(key.public_key),
        "signed_ms": signed_ms,
        "signature": key.sign(message).hex(),
    }


def test_readings_are_for_owner_distributor_and_regulator_alone(node) -> None:
    slot = settled(node)
    for key, role in (
        (SELLER, "owner"),
        (operator_key("mea"), "distributor"),
        (operator_key("erc"), "regulator"),
    ):
        answer = call(node, READINGS, **signed(node, key))
        assert answer["seen_as"] == role
        row, _ = answer["items"]
        assert (row["slot"], row["export_wh"], row["location"]) == (str(slot), "2000", LOCATION)
        (meter,) = answer["meters"]
        assert (meter["export_wh_cum"], meter["slot"], meter["seq"]) == ("2000", str(slot), "2")
        assert (meter["status"], meter["key"]) == ("active", SELLER_METER.public_key.hex())
    for key in (BUYER, STRANGER, operator_key("pea"), operator_key("payment")):
        assert refusal(node, READINGS, **signed(node, key)).status == 403


def test_an_unsigned_changed_or_old_request_for_readings_is_401(node) -> None:
    assert refusal(node, READINGS, address=SELLER_TEXT).status == 401
    good = signed(node, SELLER)
    for change in (
        {"limit": "51"},
        {"address": format_address(BUYER.public_key)},
        {"signer": format_address(BUYER.public_key)},
        {"signed_ms": good["signed_ms"] + 1},
        {"chain": "MET"},
    ):
        assert refusal(node, READINGS, **{**good, **change}).status == 401
    assert refusal(node, READINGS, **signed(node, SELLER, WINDOW_MS + 5000)).status == 401
    assert refusal(node, READINGS, **signed(node, SELLER, -WINDOW_MS - 5000)).status == 401
    assert call(node, READINGS, **signed(node, SELLER, chain="MET"))["items"] == []


def test_retired_credits_become_a_certificate(node) -> None:
    settled(node)
    buyer = format_address(BUYER.public_key)
    assert call(node, "energy_getCarbon", address=buyer)["carbon_ucr"] == "1000000"
    node.put(BUYER, RetireCredits(400_000, bytes(31) + b"\x01"))
    node.make_block()
    told = call(node, "energy_getCarbon", address=buyer, chain="MET")
    assert told["carbon_ucr"] == "600000"
    (certificate,) = told["chains"][0]["certificates"]
    assert certificate == call(node, "energy_getCertificate", id="MET-1")
    assert (certificate["owner"], certificate["amount_ucr"]) == (buyer, "400000")
    assert refusal(node, "energy_getCertificate", id="MET-2").reason == "certificate_not_found"
    totals = call(node, "energy_getStats", chain="MET")["total"]
    assert (totals["carbon_retired_ucr"], totals["certificates"]) == ("400000", "1")


def test_reports_are_open_then_closed_with_a_hash(node) -> None:
    settled(node)
    answer = call(node, "audit_getReports", territory="mea", day="2026-01-01")
    assert [row["territory"] for row in answer["items"]] == ["BKK", "NTB", "SPK"]
    first = answer["items"][0]
    assert (first["state"], first["report_hash"]) == ("open", None)
    assert first["report"]["lines"][0]["delivered_wh"] == "2000"
    while node.make_block() < 90:
        pass
    (closed,) = call(node, "audit_getReports", territory="BKK", day="2026-01-01")["items"]
    assert closed["state"] == "closed"
    assert len(closed["report_hash"]) == 64
    assert closed["report"] == first["report"]
    (missing,) = call(node, "audit_getReports", territory="BKK", day="2025-12-01")["items"]
    assert missing["state"] == "not_kept"
    assert refusal(node, "audit_getReports", territory="XYZ").reason == "unknown_zone"
    assert refusal(node, "audit_getReports", territory="BKK", day="2026-13-01").status == 400


def test_raw_blocks_are_the_very_bytes(node) -> None:
    node.make_block()
    answer = call(node, "chain_getRawBlocks", from_height=1, limit=64)
    assert [row["height"] for row in answer["items"]] == ["1", "2"]
    block = decode_block(base64.b64decode(answer["items"][0]["block"]))
    told = call(node, "chain_getBlock", block=1)
    assert block.header.hash.hex() == told["hash"]
    assert refusal(node, "chain_getRawBlocks", from_height=3).reason == "block_not_found"


def test_what_a_meter_measured_is_in_no_answer_that_anybody_may_ask(node) -> None:
    settled(node)
    history = call(node, "account_getHistory", address=SELLER_TEXT)["items"]
    (reading,) = [
        row for row in history if row["transaction"]["payload"]["kind"] == "submit_readings"
    ]
    told = call(node, "tx_get", id=reading["transaction"]["tx_id"])
    for row in (reading, told):
        assert registers_in(row["transaction"]["payload"]) == {None}
        accepted = row["events"][0]
        assert (accepted["kind"], accepted["export_wh"]) == ("reading_accepted", None)
    block = call(node, "chain_getBlock", block=told["height"], full=True)
    assert registers_in(block["transactions"]) == {None}


def registers_in(document: Any) -> set[str | None]:
    """All values of registers, however deep."""
    if isinstance(document, list):
        return {found for one in document for found in registers_in(one)}
    if not isinstance(document, dict):
        return set()
    own = {value for name, value in document.items() if name.endswith("_wh_cum")}
    return own | {found for one in document.values() for found in registers_in(one)}


# -- A meter's life --------------------------------------------------------------------------------


NEW = SigningKey(sha256(b"another device"))
SELLER_ID = SELLER_METER.public_key.hex()


def life(node: MemoryNode) -> None:
    """The seller's meter is suspended and exchanged; another one beside it is retired."""
    mea, meter_id = operator_key("mea"), SELLER_METER.public_key
    second = SigningKey(sha256(b"a second meter"))
    for command in (
        registration(SELLER, second, Generation.WIND),
        RetireMeter(second.public_key, 0, 0),
        SuspendMeter(meter_id, "seal broken"),
        ReplaceMeter(meter_id, NEW.public_key, 11, 12, 13, 14),
    ):
        node.put(mea, command)
    node.make_block()


def test_a_meter_shows_its_state_and_its_devices_key(node) -> None:
    life(node)
    row = call(node, "account_get", address=SELLER_TEXT)["chains"][0]
    assert [one["status"] for one in row["meters"]] == ["suspended", "retired"]
    assert row["meter_count"] == 2
    first = row["meters"][0]
    assert (first["meter_id"], first["key"]) == (SELLER_ID, NEW.public_key.hex())
    assert first["suspended_by"] == "mea"
    for key in (SELLER_ID, NEW.public_key.hex()):
        told = call(node, "grid_getMeter", id=key)
        assert (told["meter"], told["read_to_slot"]) == (first, None)
    assert refusal(node, "grid_getMeter", id="00" * 32).reason == "unknown_meter"
    substation = call(node, "grid_getStatus", chain="MET")["territories"][0]["substations"][0]
    assert substation["meters"] == 2, "a retired meter is no load"


def test_registers_of_a_meters_life_are_shown_to_those_alone_who_may_see_readings(node) -> None:
    life(node)
    height = str(node.executors["MET"].tip.height)
    block = call(node, "chain_getBlock", block=height, full=True)
    assert registers_in(block["transactions"]) == {None}
    assert registers_in(call(node, "account_get", address=SELLER_TEXT)) == {None}
    assert registers_in(call(node, "grid_getMeter", id=SELLER_ID)) == {None}
    meters = call(node, READINGS, **signed(node, SELLER))["meters"]
    assert (meters[0]["import_wh_cum"], meters[0]["export_wh_cum"]) == ("13", "14")


ORDER = {"order_type": "sell", "energy_amount": "2", "price_per_kwh": 4000,
         "grid_location": LOCATION, "trader": SELLER_TEXT}  # fmt: skip


def test_an_order_is_of_the_only_meter_or_of_the_one_that_is_named(node) -> None:
    prepared = call(node, "energy_prepareOrder", **ORDER, energy_source="solar")
    assert prepared["order"]["meter_id"] == SELLER_ID
    quoted = call(node, "energy_quote", **ORDER)
    assert (quoted["meter_id"], quoted["energy_source"]) == (SELLER_ID, "solar")
    mill = SigningKey(sha256(b"a mill"))
    node.put(operator_key("mea"), registration(SELLER, mill, Generation.WIND))
    node.make_block()
    for method in ("energy_prepareOrder", "energy_quote", "energy_submitOrder"):
        asked = {**ORDER} if method != "energy_submitOrder" else without_trader(ORDER)
        error = refusal(node, method, **asked)
        assert error.reason == "meter_not_named"
        assert f"{SELLER_ID} (BKK-01-SUB001, solar)" in error.message
        assert f"{mill.public_key.hex()} (BKK-01-SUB001, wind)" in error.message
    named = {**ORDER, "meter_id": mill.public_key.hex(), "energy_source": "wind"}
    assert call(node, "energy_prepareOrder", **named)["order"]["meter_id"] == named["meter_id"]
    assert call(node, "energy_quote", **named)["energy_source"] == "wind"
    by_source = call(node, "energy_prepareOrder", **ORDER, energy_source="solar")
    assert by_source["order"]["meter_id"] == SELLER_ID
    node.put(operator_key("erc"), SuspendMeter(mill.public_key, "noise"))
    node.make_block()
    for method in ("energy_prepareOrder", "energy_quote"):
        error = refusal(node, method, **named)
        assert error.reason == "not_active"
        assert "suspended by erc" in error.message
        call(node, method, **ORDER, energy_source="solar")
    assert refusal(node, "energy_quote", **QUOTE, meter_id=SELLER_ID).status == 400


def without_trader(order: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in order.items() if name != "trader"}
