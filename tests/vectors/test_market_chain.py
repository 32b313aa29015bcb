"""The published auctions once more, through admission, the book's index, and a block's start."""

import json
from pathlib import Path

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.trading import rules as trading
from gridtokenx.trading.matching import GridView
from gridtokenx.trading.model import (
    ORDERS,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    PlaceOrder,
    Side,
    SlotCleared,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
)

VECTORS = json.loads(Path(__file__).with_name("market_vectors.json").read_text())
CASES = [vector for vector in VECTORS if "orders" in vector]
TIERS = ("substation", "zone", "territory", "national")
NOW_SLOT = 1_970_660


def place(state: Overlay, row: dict, height: int) -> None:
    owner = sha256(row["owner"].encode())
    if not ledger.account(state, owner).thb_uthb:
        ledger.adjust(state, owner, thb_uthb=10**12)
    side = Side.BUY if row["side"] == "buy" else Side.SELL
    command = PlaceOrder(
        side=side,
        energy_wh=row["wh"],
        limit_mthb=row["limit"],
        location=row["loc"],
        meter_id=sha256(row["owner"].encode() + b" meter"),
        source=Source(row["source"]),
        require=row.get("require", False),
        first_slot=NOW_SLOT + 1,
        last_slot=NOW_SLOT + 1,
        max_wh_per_slot=row["wh"],
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=2**60,
    )
    trading.place_order(
        state,
        command,
        owner=owner,
        order_id=row["id"].encode().rjust(32, b"\0"),
        now_ms=NOW_SLOT * SLOT_MS,
        height=height,
        trader=TraderFacts(True, 2**62, False, 2**62),
        meter=MeterFacts(owner, row["loc"], str(row["source"]), 10**9, 10**9),
    )


def name_of(order_id: bytes) -> str:
    return order_id.lstrip(b"\0").decode()


@pytest.mark.parametrize("mode", list(MatchingMode))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_block_gives_the_published_trades_prices_and_rests(case: dict, mode) -> None:
    state = Overlay(MemoryReader())
    trading.set_parameters(state, MarketParameters(matching_mode=mode))
    limits = {key[2:]: wh for key, wh in case["headroom"].items()}
    grid = GridView(lambda node, _: limits.get(node))

    def begin(ms: int) -> list:
        return trading.begin_block(
            state, now_ms=NOW_SLOT * SLOT_MS + ms, gate_grace_ms=SLOT_MS, grid=grid
        )

    begin(0)
    for row in case["orders"]:
        place(state, row, row.get("height", 10))
    events = begin(1 if mode is MatchingMode.BLOCK else SLOT_MS)
    trades = [event.trade for event in events if isinstance(event, TradeMatched)]
    assert [
        [
            name_of(trade.buy_id),
            name_of(trade.sell_id),
            trade.energy_wh,
            trade.price_mthb,
            trade.wheeling_mthb,
            TIERS[trade.tier],
            trade.source.value,
        ]
        for trade in trades
    ] == case["trades"]
    cleared = [event for event in events if isinstance(event, SlotCleared)]
    prices = {
        f"{TIERS[price.tier]}:{price.group}": price.price_mthb
        for event in cleared
        for price in event.prices
    }
    assert prices == case["prices"]
    assert [name_of(one) for event in cleared for one in event.congested] == case["congested"]
    if mode is MatchingMode.BLOCK:
        rests = {
            name_of(order_id): (order.rest_wh, order.congested)
            for order_id, order in ORDERS.items(state)
        }
        for name, rest_wh in case["remaining"].items():
            expected = (rest_wh, name in case["congested"]) if rest_wh else (0, False)
            assert rests.get(name, (0, False)) == expected
