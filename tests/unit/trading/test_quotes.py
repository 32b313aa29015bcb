"""A quote promises what settlement then does."""

import pytest

from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.trading import rules
from gridtokenx.trading.model import MarketParameters, Side, Source, TradeSettled
from gridtokenx.trading.quotes import Wish

PLACE = "BKK-01-SUB001"


def quote(market, side: Side, energy_wh: int, limit_mthb: int, **changes):
    named = {"location": PLACE, "slot": market.now_ms // SLOT_MS + 1, **changes}
    return rules.quote(market.state, Wish(side, energy_wh, limit_mthb, **named))


def test_a_buyer_is_told_the_escrow_and_the_most_he_pays(market) -> None:
    told = quote(market, Side.BUY, 60_000, 5_600)
    assert told.reserve_uthb == told.worst.buyer_uthb == 359_520_000
    assert (told.last, told.at_last_price) == (None, None)


def test_a_seller_is_told_the_bond_and_the_least_he_gets(market) -> None:
    told = quote(market, Side.SELL, 60_000, 5_000, source=Source.SOLAR)
    assert told.reserve_uthb == 60_000_000
    assert told.worst.seller_uthb == 299_250_000
    assert told.worst.carbon_ucr == 30_000_000


def test_the_last_price_is_what_settlement_charges(market) -> None:
    slot = market.now_ms // SLOT_MS + 1
    market.sell("s", 100_000, 5_000)
    market.buy("b", 60_000, 5_600)
    market.next_block(ms=1)
    told = quote(market, Side.BUY, 60_000, 5_600)
    assert (told.last.tier, told.last.group, told.last.price_mthb) == (0, PLACE, 5_000)
    market.next_block(slots=2)
    (settled,) = [
        event
        for event in market.read("s", slot, exported=60_000)
        if isinstance(event, TradeSettled)
    ]
    for name in ("energy_uthb", "wheeling_uthb", "vat_uthb", "fee_uthb", "seller_uthb"):
        assert getattr(told.at_last_price, name) == getattr(settled, name)
    assert quote(market, Side.BUY, 60_000, 5_299).at_last_price is None
    assert quote(market, Side.SELL, 60_000, 5_001).at_last_price is None


def test_the_newest_price_around_counts(market) -> None:
    market.sell("s", 1_000, 3_000)
    market.buy("b", 1_000, 4_000)
    market.next_block(ms=1)
    market.sell(
        "s2", 1_000, 3_000, location="BKK-01-SUB002", first_slot=market.now_ms // SLOT_MS + 3
    )
    market.buy(
        "b2", 1_000, 4_000, location="BKK-01-SUB003", first_slot=market.now_ms // SLOT_MS + 3
    )
    market.next_block(ms=1)
    last = quote(market, Side.BUY, 1_000, 4_000).last
    assert (last.tier, last.group, last.wheeling_mthb) == (1, "BKK-01", 600)


def test_a_quote_refuses_what_an_order_would(market) -> None:
    for energy_wh, limit_mthb, code in (
        (99, 4_000, ErrorCode.AMOUNT_OUT_OF_RANGE),
        (100, 999, ErrorCode.PRICE_OUT_OF_BAND),
    ):
        with pytest.raises(Rejected) as caught:
            quote(market, Side.BUY, energy_wh, limit_mthb)
        assert caught.value.code is code
    for side, source in ((Side.SELL, Source.SOLAR), (Side.BUY, Source.ANY)):
        with pytest.raises(Rejected, match="can require it") as caught:
            quote(market, side, 1_000, 4_000, source=source, require=True)
        assert caught.value.code is ErrorCode.UNKNOWN_SOURCE


def test_the_reduced_vat_ends_with_its_date(market) -> None:
    slot = market.now_ms // SLOT_MS + 2
    market.configure(MarketParameters(vat_end_ms=slot * SLOT_MS))
    for at, vat_bps in ((slot - 1, 700), (slot, 1_000)):
        told = quote(market, Side.BUY, 1_000, 4_000, slot=at)
        assert told.reserve_uthb == 4_000_000 * (10_000 + vat_bps) // 10_000
    market.buy("b", 1_000, 4_000, first_slot=slot - 1, last_slot=slot)
    assert market.account("b").escrow_uthb == 4_400_000
