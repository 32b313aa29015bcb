"""Admission, cancel and expiry: what an order reserves comes back to the unit."""

import pytest

from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import SLOT_MS, slot_start_ms
from gridtokenx.trading.book import trader
from gridtokenx.trading.clock_model import GatesMissed
from gridtokenx.trading.model import (
    ORDERS,
    OrderClosed,
    OrderStatus,
    ReportClosed,
    Side,
    Source,
    TimeInForce,
    TraderFacts,
)
from gridtokenx.trading.reports import MAX_DAYS_CLOSED

WEALTH_UTHB = 10**12
TRADER = {"active": True, "licence_expiry_ms": 2**62, "vat_registered": False}


def refused(code: ErrorCode, market, *arguments, **named) -> None:
    before = market.state.changed()
    with pytest.raises(Rejected) as caught:
        market.place(*arguments, **named)
    assert caught.value.code is code
    known = {key for key, _ in before}
    fresh = [key for key, _ in market.state.changed() if key not in known]
    assert all(key.startswith(b"la") for key in fresh)  # The helper's own funding.


def test_a_buy_reserves_its_limit_and_vat(market) -> None:
    order_id = market.buy("anna", 60_000, 5_600)
    account = market.account("anna")
    assert account.escrow_uthb == 359_520_000
    assert account.thb_uthb == WEALTH_UTHB - 359_520_000
    order = ORDERS.get(market.state, order_id)
    assert (order.rest_wh, order.reserve_uthb, order.height) == (60_000, 359_520_000, 1)


def test_escrow_is_rounded_up(market) -> None:
    market.buy("anna", 101, 3_333)
    assert market.account("anna").escrow_uthb == -(-101 * 3_333 * 107 // 100)


def test_a_sell_reserves_the_shortfall_penalty(market) -> None:
    market.sell("anna", 60_000, 5_000)
    assert market.account("anna").bond_uthb == 60_000_000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"active": False}, ErrorCode.NOT_ACTIVE),
        ({"licence_expiry_ms": 0}, ErrorCode.LICENCE_EXPIRED),
        ({"daily_cap_wh": 999}, ErrorCode.DAILY_CAP),
    ],
)
def test_the_trader_must_be_fit(market, changes, code) -> None:
    facts = TraderFacts(**{**TRADER, "daily_cap_wh": 2**62, **changes})
    refused(code, market, "anna", market.terms(Side.BUY, 1_000, 4_000), trader=facts)


def test_a_licence_must_last_to_the_orders_end_and_no_longer(market) -> None:
    terms = market.terms(Side.SELL, 1_000, 4_000, expires_ms=2**60)
    end_ms = slot_start_ms(terms.last_slot + 1)
    facts = {**TRADER, "daily_cap_wh": 2**62}
    early = TraderFacts(**{**facts, "licence_expiry_ms": end_ms - 1})
    refused(ErrorCode.LICENCE_EXPIRED, market, "anna", terms, trader=early)
    market.place("anna", terms, trader=TraderFacts(**{**facts, "licence_expiry_ms": end_ms}))


@pytest.mark.parametrize(
    ("side", "changes", "meter", "code"),
    [
        (Side.BUY, {}, {"owner": bytes(32)}, ErrorCode.NOT_PERMITTED),
        (Side.BUY, {}, {"location": "BKK-01-SUB002"}, ErrorCode.UNKNOWN_ZONE),
        (Side.SELL, {"source": Source.WIND}, {"source": "solar"}, ErrorCode.UNKNOWN_SOURCE),
        (Side.SELL, {"source": Source.ANY}, {"source": "solar"}, ErrorCode.UNKNOWN_SOURCE),
        (Side.SELL, {"require": True}, {}, ErrorCode.UNKNOWN_SOURCE),
        (Side.BUY, {"require": True}, {}, ErrorCode.UNKNOWN_SOURCE),
        (Side.SELL, {}, {"nameplate_export_w": 3_999}, ErrorCode.SLOT_CAP),
        (Side.BUY, {}, {"nameplate_import_w": 3_999}, ErrorCode.SLOT_CAP),
        (Side.BUY, {"max_wh_per_slot": 99}, {}, ErrorCode.SLOT_CAP),
    ],
)
def test_the_meter_must_fit(market, side, changes, meter, code) -> None:
    terms = market.terms(side, 1_000, 4_000, **changes)
    refused(code, market, "anna", terms, meter=meter)


def test_a_slot_cap_may_reach_the_nameplate(market) -> None:
    terms = market.terms(Side.SELL, 1_000, 4_000)
    assert market.place("anna", terms, meter={"nameplate_export_w": 4_000})


@pytest.mark.parametrize(
    ("energy_wh", "ok"), [(99, False), (100, True), (10_000_000, True), (10_000_001, False)]
)
def test_quantity_is_between_a_tenth_and_ten_thousand_kwh(market, energy_wh, ok) -> None:
    terms = market.terms(Side.SELL, energy_wh, 4_000, max_wh_per_slot=100)
    if ok:
        assert market.place("anna", terms)
    else:
        refused(ErrorCode.AMOUNT_OUT_OF_RANGE, market, "anna", terms)


@pytest.mark.parametrize(
    ("offset", "span", "ok"), [(0, 1, False), (1, 1, True), (1, 96, True), (96, 1, True)]
)
def test_open_slots_are_the_next_ninety_six(market, offset, span, ok) -> None:
    first = market.now_ms // SLOT_MS + offset
    terms = market.terms(Side.SELL, 1_000, 4_000, first_slot=first, last_slot=first + span - 1)
    if ok:
        assert market.place("anna", terms)
    else:
        refused(ErrorCode.INTERVAL_CLOSED, market, "anna", terms)


@pytest.mark.parametrize(("offset", "span"), [(1, 97), (97, 1), (2, 0), (-5, 10)])
def test_other_slots_are_closed(market, offset, span) -> None:
    first = market.now_ms // SLOT_MS + offset
    terms = market.terms(Side.SELL, 1_000, 4_000, first_slot=first, last_slot=first + span - 1)
    refused(ErrorCode.INTERVAL_CLOSED, market, "anna", terms)


def test_an_order_must_not_be_expired(market) -> None:
    terms = market.terms(Side.SELL, 1_000, 4_000, expires_ms=market.now_ms)
    refused(ErrorCode.ORDER_EXPIRED, market, "anna", terms)


@pytest.mark.parametrize(
    ("limit", "first", "last", "ok"),
    [
        (999, 1, 1, False),
        (1_000, 1, 1, True),
        (10_000, 1, 1, True),
        (10_001, 1, 1, False),
        (15_000, 72, 87, True),  # 18:00 to 22:00
        (15_001, 72, 72, False),
        (10_001, 71, 72, False),  # Every slot of the order must allow the price.
        (10_001, 87, 88, False),
        (999, 72, 72, False),
    ],
)
def test_the_limit_lies_in_the_band_of_every_slot(market, limit, first, last, ok) -> None:
    base = market.now_ms // SLOT_MS
    terms = market.terms(Side.SELL, 1_000, limit, first_slot=base + first, last_slot=base + last)
    if ok:
        assert market.place("anna", terms)
    else:
        refused(ErrorCode.PRICE_OUT_OF_BAND, market, "anna", terms)


def test_nobody_holds_both_sides_of_a_slot(market) -> None:
    base = market.now_ms // SLOT_MS
    market.sell("anna", 1_000, 4_000, first_slot=base + 3, last_slot=base + 5)
    for first, last in ((1, 3), (4, 4), (5, 9), (1, 9)):
        terms = market.terms(Side.BUY, 1_000, 4_000, first_slot=base + first, last_slot=base + last)
        refused(ErrorCode.SELF_TRADE, market, "anna", terms)
    market.buy("anna", 1_000, 4_000, first_slot=base + 1, last_slot=base + 2)
    market.buy("anna", 1_000, 4_000, first_slot=base + 6)
    market.sell("anna", 1_000, 4_000, first_slot=base + 4)
    market.buy("boon", 1_000, 4_000, first_slot=base + 4)


def test_an_account_has_a_hundred_open_orders_at_most(market) -> None:
    ids = [market.sell("anna", 100, 4_000) for _ in range(100)]
    refused(ErrorCode.TOO_MANY_ORDERS, market, "anna", market.terms(Side.SELL, 100, 4_000))
    market.cancel("anna", ids[50])
    market.sell("anna", 100, 4_000)


def test_the_daily_cap_counts_a_bangkok_day_without_cancelled_rests(market) -> None:
    facts = TraderFacts(**TRADER, daily_cap_wh=1_500)
    terms = market.terms(Side.SELL, 1_000, 4_000)
    first = market.place("anna", terms, trader=facts)
    refused(ErrorCode.DAILY_CAP, market, "anna", terms, trader=facts)
    market.cancel("anna", first)
    market.place("anna", terms, trader=facts)
    market.next_block(slots=96)
    market.place("anna", market.terms(Side.SELL, 1_500, 4_000), trader=facts)


def test_the_balance_covers_the_reserve(market) -> None:
    market.fund("poor", 4_279_999)
    refused(ErrorCode.INSUFFICIENT_BALANCE, market, "poor", market.terms(Side.BUY, 1_000, 4_000))
    market.fund("just", 4_280_000)
    market.buy("just", 1_000, 4_000)
    assert market.account("just").thb_uthb == 0
    market.fund("seller", 999_999)
    refused(ErrorCode.INSUFFICIENT_BALANCE, market, "seller", market.terms(Side.SELL, 1_000, 4_000))


def test_cancel_gives_everything_back_once_and_only_to_the_owner(market) -> None:
    order_id = market.buy("anna", 1_234, 4_321)
    market.fund("boon")
    with pytest.raises(Rejected) as caught:
        market.cancel("boon", order_id)
    assert caught.value.code is ErrorCode.NOT_ORDER_OWNER
    reserve = market.account("anna").escrow_uthb
    closed = OrderClosed(order_id, sha256(b"anna"), OrderStatus.CANCELLED, 1_234, reserve)
    assert market.cancel("anna", order_id) == [closed]
    account = market.account("anna")
    assert (account.thb_uthb, account.escrow_uthb) == (WEALTH_UTHB, 0)
    with pytest.raises(Rejected) as caught:
        market.cancel("anna", order_id)
    assert caught.value.code is ErrorCode.ORDER_NOT_FOUND


def test_a_closed_order_leaves_nothing_in_the_state(market) -> None:
    base = market.now_ms // SLOT_MS
    kept = {key for key, value in market.state.changed() if value is not None}
    ids = [
        market.sell("anna", 1_000, 4_000, first_slot=base + 1, last_slot=base + 96),
        market.sell("anna", 1_000, 4_000, expires_ms=market.now_ms + 1),
    ]
    for order_id in ids:
        market.cancel("anna", order_id)
    market.next_block()
    left = {key for key, value in market.state.changed() if value is not None} - kept
    # The account and its empty list.
    assert {key[:2] for key in left} == {b"la", b"ta"}
    assert trader(market.state, sha256(b"anna")).sells == ()


@pytest.mark.parametrize("late_ms", [0, 1, 5 * SLOT_MS])
def test_orders_expire_by_block_time_and_are_refunded(market, late_ms) -> None:
    base = market.now_ms // SLOT_MS
    expires_ms = market.now_ms + 1_000
    order_id = market.buy("anna", 1_000, 4_000, last_slot=base + 9, expires_ms=expires_ms)
    assert market.next_block(ms=999) == []
    events = market.jump(1 + late_ms)
    closed = [event for event in events if not isinstance(event, GatesMissed)]
    assert closed == [OrderClosed(order_id, sha256(b"anna"), OrderStatus.EXPIRED, 1_000, 4_280_000)]
    assert market.account("anna").thb_uthb == WEALTH_UTHB


def test_an_order_ends_with_the_gate_of_its_last_slot(market) -> None:
    base = market.now_ms // SLOT_MS
    order_id = market.sell("anna", 1_000, 4_000, first_slot=base + 1, last_slot=base + 2)
    assert market.next_block(slots=1) == []
    (closed,) = market.next_block(slots=1)
    assert (closed.order_id, closed.status) == (order_id, OrderStatus.EXPIRED)
    assert market.account("anna").thb_uthb == WEALTH_UTHB


def test_a_long_stop_of_the_chain_loses_no_order(market) -> None:
    base = market.now_ms // SLOT_MS
    for last in (1, 50, 96):
        market.sell(f"seller {last}", 1_000, 4_000, last_slot=base + last)
    market.sell("early", 1_000, 4_000, last_slot=base + 96, expires_ms=(base + 95) * SLOT_MS + 7)
    events = market.jump(10_000 * SLOT_MS)
    closed = [event.status for event in events if isinstance(event, OrderClosed)]
    assert closed == [OrderStatus.EXPIRED] * 4
    assert GatesMissed(base + 1, base + 9_998) in events
    market.next_block(slots=3)
    days = set()
    while len(days) < 10_000 // 96:  # All are reported, a few in each block, for two territories.
        reports = [one for one in market.next_block(slots=1) if isinstance(one, ReportClosed)]
        assert 0 < len(reports) <= 2 * MAX_DAYS_CLOSED
        days |= {one.day for one in reports}
    market.sell("anna", 1_000, 4_000)
    market.next_block(slots=1)


def test_parameters_in_state_are_the_ones_that_count(market) -> None:
    market.configure(vat_bps=0, shortfall_penalty_mthb=1, open_slots=1)
    market.buy("anna", 1_000, 4_000, time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL)
    market.sell("boon", 1_000, 4_000)
    assert market.account("anna").escrow_uthb == 4_000_000
    assert market.account("boon").bond_uthb == 1_000
    later = market.terms(Side.SELL, 1_000, 4_000, first_slot=market.now_ms // SLOT_MS + 2)
    refused(ErrorCode.INTERVAL_CLOSED, market, "boon", later)


def test_an_order_of_yesterday_frees_nothing_once_today_has_begun(market) -> None:
    facts = TraderFacts(**TRADER, daily_cap_wh=1_000)
    base = market.now_ms // SLOT_MS
    market.next_block(slots=90)
    old_id = market.place(
        "anna", market.terms(Side.SELL, 1_000, 4_000, first_slot=base + 120), trader=facts
    )
    market.next_block(slots=10)
    market.place("anna", market.terms(Side.SELL, 1_000, 4_000, first_slot=base + 121), trader=facts)
    market.cancel("anna", old_id)
    other = market.terms(Side.SELL, 100, 4_000, first_slot=base + 122)
    refused(ErrorCode.DAILY_CAP, market, "anna", other, trader=facts)
