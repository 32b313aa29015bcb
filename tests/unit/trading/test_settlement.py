"""What a reading or its absence does to trades: energy, money and credits, to the unit."""

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TAX, TREASURY, Account
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.trading.model import (
    POSITIONS,
    TRADES,
    EnergyConsumed,
    Side,
    Source,
    TraderFacts,
    TradeSettled,
)
from gridtokenx.trading.settlement import charges, delivered_by_trade

WEALTH_UTHB = 10**12


def settled(events: list) -> list:
    return [event for event in events if isinstance(event, TradeSettled)]


def consumed(events: list) -> list:
    return [event.energy_wh for event in events if isinstance(event, EnergyConsumed)]


def trade_once(market, energy_wh: int = 1_000) -> int:
    """One trade at 3,650 + 300 mTHB/kWh in the next slot, whose number is returned."""
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s", energy_wh, 3_600)
    market.buy("b", energy_wh, 4_000)
    market.next_block(ms=1_000)
    market.next_block(ms=2 * SLOT_MS - 1_000)
    return slot


def leftovers(market) -> tuple[int, int]:
    return len(list(TRADES.items(market.state))), len(list(POSITIONS.items(market.state)))


def test_the_seed_order_settles_as_the_worked_example(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s", 100_000, 5_000)
    market.buy("b", 60_000, 5_600)
    market.next_block(ms=1_000)
    market.next_block(slots=2)
    (done,) = settled(market.read("s", slot, exported=60_000))
    assert (done.delivered_wh, done.refund_uthb, done.seller_uthb) == (
        60_000,
        40_260_000,
        299_250_000,
    )
    assert (done.wheeling_uthb, done.vat_uthb, done.fee_uthb) == (18_000_000, 1_260_000, 750_000)
    assert (done.penalty_uthb, done.bond_back_uthb) == (0, 60_000_000)
    assert done.carbon_ucr == 30_000_000
    assert market.account("s") == Account(thb_uthb=WEALTH_UTHB + 299_250_000)
    assert market.account("b") == Account(
        energy_held_wh=60_000, thb_uthb=WEALTH_UTHB - 319_260_000, carbon_ucr=30_000_000
    )
    assert ledger.account(market.state, sha256(b"distributor BKK")).thb_uthb == 18_000_000
    assert ledger.account(market.state, TAX).thb_uthb == 1_260_000
    assert ledger.account(market.state, sha256(b"authority")).thb_uthb == 600_000
    assert ledger.account(market.state, TREASURY).thb_uthb == 150_000


@pytest.mark.parametrize("buyer_first", [True, False])
@pytest.mark.parametrize(
    ("imported", "burned"), [(0, 0), (400, 400), (1_000, 1_000), (9_000, 1_000)]
)
def test_consumption_burns_once_whichever_reading_comes_first(
    market, buyer_first, imported, burned
) -> None:
    slot = trade_once(market)
    readings = [("b", {"imported": imported}), ("s", {"exported": 1_000})]
    events = []
    for name, values in readings if buyer_first else readings[::-1]:
        events += market.read(name, slot, **values)
    assert sum(consumed(events)) == burned
    account = market.account("b")
    assert (account.energy_wh, account.energy_held_wh) == (1_000 - burned, 0)
    assert ledger.supply(market.state).energy_burned_wh == burned
    market.next_block(slots=10)
    assert ledger.supply(market.state).energy_burned_wh == burned
    assert leftovers(market) == (0, 0)


def test_two_sellers_deliver_around_the_buyers_reading(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s1", 600, 3_000)
    market.sell("s2", 600, 3_000)
    market.buy("b", 1_200, 4_000)
    market.next_block(slots=2)
    market.read("s1", slot, exported=600)
    assert market.account("b").energy_held_wh == 600
    assert consumed(market.read("b", slot, imported=1_000)) == [600]
    assert consumed(market.read("s2", slot, exported=600)) == [400]
    account = market.account("b")
    assert (account.energy_wh, account.energy_held_wh) == (200, 0)


def test_nothing_is_delivered_without_a_reading(market) -> None:
    trade_once(market)
    assert market.next_block(slots=3) == []
    (done,) = settled(market.next_block(slots=1))
    assert (done.delivered_wh, done.penalty_uthb, done.seller_uthb) == (0, 1_000_000, 0)
    assert market.account("s") == Account(thb_uthb=WEALTH_UTHB - 1_000_000)
    assert market.account("b") == Account(thb_uthb=WEALTH_UTHB + 1_000_000)
    assert leftovers(market) == (0, 0)


def test_a_buyer_who_does_not_report_is_taken_to_have_consumed(market) -> None:
    slot = trade_once(market)
    market.read("s", slot, exported=1_000)
    events = market.next_block(slots=4)
    assert consumed(events) == [1_000]
    assert market.account("b").energy_wh == market.account("b").energy_held_wh == 0
    assert leftovers(market) == (0, 0)


def test_surplus_stays_with_the_seller(market) -> None:
    slot = trade_once(market)
    market.read("s", slot, exported=2_500)
    account = market.account("s")
    assert (account.energy_wh, account.carbon_ucr) == (1_500, 750_000)
    assert market.account("b").carbon_ucr == 500_000


def test_a_reading_without_trades_settles_nothing(market) -> None:
    assert market.read("s", market.now_ms // SLOT_MS - 1, exported=500) == []
    assert market.account("s").energy_wh == 500


def test_vat_is_due_on_the_energy_of_a_registered_seller(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    terms = market.terms(Side.BUY, 1_000, 4_000)
    sale = market.terms(Side.SELL, 1_000, 3_600, source=Source.SOLAR)
    market.place("s", sale, trader=TraderFacts(True, 2**62, True, 2**62))
    market.place("b", terms)
    market.next_block(slots=2)
    (done,) = settled(market.read("s", slot, exported=1_000))
    assert done.energy_uthb == 3_650_000
    assert done.vat_uthb == (3_650_000 + 300_000) * 7 // 100
    assert ledger.account(market.state, TAX).thb_uthb == done.vat_uthb


def test_rates_are_those_of_the_order_and_the_match(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s", 1_000, 3_600)
    market.buy("b", 1_000, 4_000)
    market.next_block(slots=2)
    market.configure(vat_bps=10_000, fee_bps=9_000, shortfall_penalty_mthb=9_000)
    (done,) = settled(market.read("s", slot, exported=400))
    assert done.vat_uthb == 400 * 300 * 7 // 100
    assert done.fee_uthb == 400 * 3_650 * 25 // 10_000
    assert done.penalty_uthb == 600 * 1_000


def split(**changes):
    named = {
        "energy_wh": 1_000,
        "delivered_wh": 1_000,
        "price_mthb": 3_700,
        "wheeling_mthb": 300,
        "escrow_uthb": 4_280_000,
        "bond_uthb": 1_000_000,
        "vat_bps": 700,
        "vat_on_energy": False,
        "fee_bps": 25,
        "penalty_mthb": 1_000,
        "carbon_mcr_per_kwh": 500,
        **changes,
    }
    return charges(**named)


@pytest.mark.parametrize(
    "changes",
    [
        {"escrow_uthb": 3_999_999},
        {"bond_uthb": 999_999, "delivered_wh": 0},
        {"delivered_wh": 1_001, "escrow_uthb": 10**9},
        {"delivered_wh": -1},
    ],
)
def test_charges_refuse_what_cannot_be(changes) -> None:
    with pytest.raises(ArithmeticError):
        split(**changes)


def test_vat_yields_the_last_unit_when_the_escrow_is_one_short() -> None:
    due = split(vat_on_energy=True)
    assert (due.vat_uthb, due.refund_uthb) == (280_000, 0)
    short = split(vat_on_energy=True, escrow_uthb=4_279_999)
    assert (short.vat_uthb, short.refund_uthb) == (279_999, 0)


def test_rounding_is_half_up() -> None:
    assert split(delivered_wh=1, price_mthb=200, wheeling_mthb=0, fee_bps=25).fee_uthb == 1
    assert split(delivered_wh=1, price_mthb=199, wheeling_mthb=0, fee_bps=25).fee_uthb == 0
    assert split(delivered_wh=1, wheeling_mthb=150, vat_bps=100).vat_uthb == 2


@pytest.mark.parametrize(
    ("sold", "exported", "expected"),
    [
        ([1_000], 0, [0]),
        ([1_000], 999, [999]),
        ([1_000, 2_000], 3_000, [1_000, 2_000]),
        ([1_000, 2_000], 9_000, [1_000, 2_000]),
        ([100, 100, 100], 200, [67, 67, 66]),
        ([100, 100, 100], 1, [1, 0, 0]),
        ([], 500, []),
    ],
)
def test_short_delivery_is_shared_pro_rata(sold, exported, expected) -> None:
    assert delivered_by_trade(sold, exported) == expected


def test_national_wheeling_is_shared_with_the_transmission_operator(market) -> None:
    market.configure(max_trade_tier=3)
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s", 1_000, 3_000, location="NTB-01-SUB001")
    market.buy("b", 1_000, 5_000)
    market.next_block(ms=1)
    market.next_block(slots=2)
    (event,) = settled(market.read("s", slot, exported=1_000))
    assert (event.wheeling_uthb, event.transmission_uthb) == (1_151_000, 251_000)
    assert market.account("transmission").thb_uthb == 251_000
    assert market.account("distributor BKK").thb_uthb == 900_000
