"""The worked examples of protocols/market.md 7 after the auction, exactly."""

import json
from pathlib import Path

import pytest

from gridtokenx.grid.rules import headroom_wh
from gridtokenx.primitives.quantities import BANGKOK_OFFSET_MS, SLOT_MS
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import ClearingOrder, MarketParameters, Side, Source
from gridtokenx.trading.prices import is_peak, price_band
from gridtokenx.trading.settlement import charges, delivered_by_trade, escrow_needed

VECTORS = {
    vector["name"].split()[0] + ("s" if vector["name"].endswith("settlement") else ""): vector
    for vector in json.loads(Path(__file__).with_name("market_vectors.json").read_text())
}
MARKET = MarketParameters()
MONDAY_MS = 20_528 * 86_400_000 - BANGKOK_OFFSET_MS  # 2026-03-16 00:00 in Bangkok


def settle(number: str, delivered: list[int]) -> list[dict[str, int]]:
    """Money of each fill of a vector's auction, with the vector's names."""
    vector = VECTORS[number]
    orders = {row["id"].encode(): row for row in vector["orders"]}
    cleared = clear(
        [
            ClearingOrder(
                id=order_id,
                owner=row["owner"].encode(),
                side=Side.BUY if row["side"] == "buy" else Side.SELL,
                energy_wh=row["wh"],
                limit_mthb=row["limit"],
                location=row["loc"],
                source=Source(row["source"]),
                require=False,
                height=1,
            )
            for order_id, row in orders.items()
        ],
        wheeling_mthb=MARKET.wheeling_mthb,
    )
    return [
        money_of(fill, orders[fill.buy_id]["limit"], wh)
        for fill, wh in zip(cleared.fills, delivered, strict=True)
    ]


def money_of(fill, limit_mthb: int, delivered_wh: int) -> dict[str, int]:
    split = charges(
        energy_wh=fill.energy_wh,
        delivered_wh=delivered_wh,
        price_mthb=fill.price_mthb,
        wheeling_mthb=fill.wheeling_mthb,
        escrow_uthb=escrow_needed(fill.energy_wh, limit_mthb, MARKET.vat_bps),
        bond_uthb=fill.energy_wh * MARKET.shortfall_penalty_mthb,
        vat_bps=MARKET.vat_bps,
        vat_on_energy=False,
        fee_bps=MARKET.fee_bps,
        penalty_mthb=MARKET.shortfall_penalty_mthb,
        carbon_mcr_per_kwh=MARKET.carbon_mcr_per_kwh(fill.source),
    )
    return {
        "buyer_refund": split.refund_uthb,
        "buyer_penalty_in": split.penalty_uthb,
        "seller": split.seller_uthb,
        "bond_back": split.bond_back_uthb,
        "grid": split.wheeling_uthb,
        "vat": split.vat_uthb,
        "fee": split.fee_uthb,
        "carbon_ucr": split.carbon_ucr,
    }


def test_v1_settlement() -> None:
    vector = VECTORS["V1s"]
    assert escrow_needed(60_000, 5_600, MARKET.vat_bps) == vector["escrow"]
    assert settle("V1", [vector["delivered"]]) == [vector["money"]]


def test_v9_short_delivery() -> None:
    vector = VECTORS["V9s"]
    assert delivered_by_trade([2_000, 1_000], vector["export_wh"]) == vector["alloc"]
    assert settle("V9", vector["alloc"]) == vector["money"]


@pytest.mark.parametrize(("day", "hour", "peak", "band"), VECTORS["V10"]["cases"])
def test_v10_peak_and_band(day: int, hour: int, peak: bool, band: list[int]) -> None:
    for quarter in range(4):
        slot = (MONDAY_MS + day * 86_400_000 + hour * 3_600_000) // SLOT_MS + quarter
        assert is_peak(slot, MARKET) is peak
        assert list(price_band(slot, MARKET)) == band


def test_a_holiday_has_no_peak() -> None:
    slot = (MONDAY_MS + 18 * 3_600_000) // SLOT_MS
    assert is_peak(slot, MARKET)
    assert not is_peak(slot, MarketParameters(holidays=(20_528,)))


@pytest.mark.parametrize(("rating_va", "loading_bps", "expected_wh"), VECTORS["V11"]["cases"])
def test_v11_headroom(rating_va: int, loading_bps: int, expected_wh: int) -> None:
    assert headroom_wh(loading_bps=loading_bps, rating_va=rating_va) == expected_wh


def test_v12_carbon() -> None:
    rates = {
        source.value: 1_000 * MARKET.carbon_mcr_per_kwh(source)
        for source in Source
        if MARKET.carbon_mcr_per_kwh(source)
    }
    assert rates == VECTORS["V12"]["ucredit_per_kwh"]
