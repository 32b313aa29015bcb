"""The worked examples of protocols/market.md 7 that concern the auction, exactly."""

import json
from pathlib import Path

import pytest

from gridtokenx.primitives.places import parse_boundary
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import Clearing, ClearingOrder, Side, Source

VECTORS = json.loads(Path(__file__).with_name("market_vectors.json").read_text())
CASES = [vector for vector in VECTORS if "orders" in vector]
TIERS = ("substation", "zone", "territory", "national")


def order_of(row: dict) -> ClearingOrder:
    return ClearingOrder(
        id=row["id"].encode(),
        owner=row["owner"].encode(),
        side=Side.BUY if row["side"] == "buy" else Side.SELL,
        energy_wh=row["wh"],
        limit_mthb=row["limit"],
        location=row["loc"],
        source=Source(row["source"]),
        require=row.get("require", False),
        height=row.get("height", 10),
    )


def cleared(case: dict, *, backwards: bool = False) -> Clearing:
    orders = [order_of(row) for row in case["orders"]]
    return clear(
        orders[::-1] if backwards else orders,
        wheeling_mthb=(300, 600, 900, 1151),
        headroom={parse_boundary(key): wh for key, wh in case["headroom"].items()},
    )


def test_the_file_holds_the_nine_auctions() -> None:
    assert [case["name"].split()[0] for case in CASES] == [f"V{n}" for n in range(1, 10)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_auction_gives_the_published_trades_prices_and_rests(case: dict) -> None:
    result = cleared(case)
    assert [
        [
            fill.buy_id.decode(),
            fill.sell_id.decode(),
            fill.energy_wh,
            fill.price_mthb,
            fill.wheeling_mthb,
            TIERS[fill.tier],
            fill.source.value,
        ]
        for fill in result.fills
    ] == case["trades"]
    assert {f"{TIERS[tier]}:{group}": price for tier, group, price in result.prices} == case[
        "prices"
    ]
    assert [order_id.decode() for order_id in result.congested] == case["congested"]
    for row in case["orders"]:
        filled_wh = sum(
            fill.energy_wh
            for fill in result.fills
            if row["id"].encode() in (fill.buy_id, fill.sell_id)
        )
        assert row["wh"] - filled_wh == case["remaining"][row["id"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_order_of_arrival_does_not_matter(case: dict) -> None:
    assert cleared(case, backwards=True) == cleared(case)
