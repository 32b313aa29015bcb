"""Answers about orders, the book, trades, sums and the market's rules."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.fields import (
    ADDRESS_EXAMPLE,
    HASH_EXAMPLE,
    ChainName,
    Height,
    NextCursor,
    answer,
    count,
    moment,
    slot_number,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.primitives.types import Address
from gridtokenx.trading.model import MarketParameters, Side, Source, TimeInForce, TradeSettled


@answer
class OrderTerms:
    """What an order asks."""

    order_type: Annotated[Side, Rule("sale or purchase", example="sell")]
    energy_wh: Annotated[int, Rule("energy over all its slots", example="2000")]
    limit_mthb: Annotated[
        int, Rule("a seller's least price, a buyer's most all-in before VAT", example="4000")
    ]
    energy_source: Annotated[Source, Rule("a seller's plant, a buyer's wish", example="solar")]
    require: Annotated[
        bool, Rule("whether a buyer's source is a condition, not a wish", example=False)
    ]
    grid_location: Annotated[str, Rule("substation of the trader's meter", example="BKK-01-SUB001")]
    meter_id: Annotated[bytes, Rule("the trader's meter", example=HASH_EXAMPLE)]
    first_slot: Annotated[int, slot_number("first delivery slot", "1963608")]
    last_slot: Annotated[int, slot_number("last delivery slot", "1963610")]
    max_wh_per_slot: Annotated[int, Rule("most energy of one slot", unit="Wh", example="2000")]
    time_in_force: Annotated[
        TimeInForce, Rule("how long it stays: until cancelled, or one clearing", example="gtc")
    ]
    expires_ms: Annotated[int, moment("when it leaves the book")]


@answer
class _ListedOrderHead:
    order_id: Annotated[bytes, Rule("id of the transaction that placed it", example=HASH_EXAMPLE)]
    chain: ChainName
    trader: Annotated[Address, Rule("account that placed it", example=ADDRESS_EXAMPLE)]
    status: Annotated[
        Literal["open", "partially_filled", "filled", "cancelled", "expired"],
        Rule("what became of it", example="open"),
    ]


@answer
class ListedOrder(OrderTerms, _ListedOrderHead):
    """An order and what became of it."""

    rest_wh: Annotated[int, Rule("not traded yet, or left when it closed", example="500")]
    filled_wh: Annotated[int, Rule("traded", example="1500")]
    reserve_uthb: Annotated[int, Rule("escrow or bond behind the rest", example="1605000")]
    congested: Annotated[bool, Rule("whether a grid limit keeps it back now", example=False)]
    height: Annotated[int, Rule("block that holds it", unit="blocks", example="7")]
    placed_ms: Annotated[int, moment("market time of that block")]
    closed_ms: Annotated[
        int | None,
        moment("market time when it left the book; null: it is open"),
    ]
    refund_uthb: Annotated[
        int | None, Rule("given back when it left the book; null: it is open", example="2568000")
    ]


@answer
class OrderPage:
    """A page of orders."""

    chain: ChainName
    height: Height
    items: Annotated[tuple[ListedOrder, ...], Rule("orders, newest first")]
    next_cursor: NextCursor


@answer
class PriceLevel:
    """Orders of one limit."""

    price_mthb: Annotated[int, Rule("their limit", example="4000")]
    energy_wh: Annotated[int, Rule("energy they may still trade", example="5000")]
    orders: Annotated[int, count("how many they are", "orders", 2)]


@answer
class OrderBook:
    """Energy offered and asked by price in a part of the grid."""

    zone: Annotated[str, Rule("substation, zone or territory, as asked", example="BKK-01")]
    chain: ChainName
    height: Height
    slot: Annotated[int | None, slot_number("delivery slot asked for; null: any", "1963608")]
    bids: Annotated[tuple[PriceLevel, ...], Rule("purchases, the dearest first")]
    asks: Annotated[tuple[PriceLevel, ...], Rule("sales, the cheapest first")]


@answer
class ListedTrade:
    """A trade; its settlement once the seller's reading, or the deadline, came."""

    trade_id: Annotated[bytes, Rule("id", example=HASH_EXAMPLE)]
    chain: ChainName
    height: Annotated[int, Rule("block in which it was matched", unit="blocks", example="11")]
    time_ms: Annotated[int, moment("time of that block")]
    market_ms: Annotated[int, moment("market time of that block")]
    slot: Annotated[int, slot_number("delivery slot", "1963596")]
    buyer: Annotated[Address, Rule("account that buys", example=ADDRESS_EXAMPLE)]
    seller: Annotated[Address, Rule("account that sells", example=ADDRESS_EXAMPLE)]
    buy_order_id: Annotated[bytes, Rule("the buyer's order", example=HASH_EXAMPLE)]
    sell_order_id: Annotated[bytes, Rule("the seller's order", example=HASH_EXAMPLE)]
    energy_wh: Annotated[int, Rule("energy to deliver", example="2000")]
    price_mthb: Annotated[int, Rule("price of the energy", example="4000")]
    wheeling_mthb: Annotated[int, Rule("wheeling, which the buyer pays too", example="300")]
    tier: Annotated[
        int, count("distance: 0 substation, 1 zone, 2 territory, 3 national", "tiers", 0)
    ]
    territory: Annotated[str, Rule("the buyer's territory", example="BKK")]
    energy_source: Annotated[Source, Rule("what the energy is made from", example="solar")]
    status: Annotated[
        Literal["matched", "settled"],
        Rule("whether money and energy have moved", example="matched"),
    ]
    settlement: Annotated[TradeSettled | None, Rule("what was delivered and paid; null before")]


@answer
class TradePage:
    """A page of trades."""

    chain: ChainName
    height: Height
    items: Annotated[tuple[ListedTrade, ...], Rule("trades, newest first")]
    next_cursor: NextCursor


@answer
class MarketSums:
    """What a chain's blocks add up to."""

    blocks: Annotated[int, Rule("blocks", unit="blocks", example="8")]
    transactions: Annotated[int, Rule("transactions", unit="transactions", example="9")]
    orders: Annotated[int, Rule("orders placed", unit="orders", example="6")]
    orders_filled: Annotated[int, Rule("orders that traded in full", unit="orders", example="2")]
    orders_cancelled: Annotated[int, Rule("orders taken back", unit="orders", example="1")]
    orders_expired: Annotated[
        int, Rule("orders that ended with a rest", unit="orders", example="1")
    ]
    trades: Annotated[int, Rule("trades matched", unit="trades", example="2")]
    traded_wh: Annotated[int, Rule("energy matched", example="2000")]
    traded_uthb: Annotated[int, Rule("its price when matched", example="8000000")]
    trades_settled: Annotated[int, Rule("trades settled", unit="trades", example="2")]
    delivered_wh: Annotated[int, Rule("of the settled energy: delivered", example="1500")]
    shortfall_wh: Annotated[int, Rule("of the settled energy: not delivered", example="500")]
    energy_uthb: Annotated[int, Rule("paid for delivered energy", example="6000000")]
    wheeling_uthb: Annotated[int, Rule("paid for wheeling", example="450000")]
    vat_uthb: Annotated[int, Rule("paid as VAT", example="31500")]
    fee_uthb: Annotated[int, Rule("paid as trade fee", example="15000")]
    penalty_uthb: Annotated[int, Rule("paid for energy not delivered", example="500000")]
    readings: Annotated[int, Rule("meter readings accepted", unit="readings", example="4")]
    minted_wh: Annotated[int, Rule("energy that meters fed in", example="1500")]
    consumed_wh: Annotated[int, Rule("bought energy that meters took out", example="1500")]
    carbon_ucr: Annotated[int, Rule("carbon credits issued", example="750000")]
    deposited_uthb: Annotated[int, Rule("baht that came in", example="5000000000")]
    withdrawn_uthb: Annotated[int, Rule("baht that went out", example="1000000")]
    carbon_retired_ucr: Annotated[int, Rule("carbon credits retired", example="400000")]
    certificates: Annotated[
        int, Rule("retirement certificates issued", unit="certificates", example="1")
    ]
    redeemed_wh: Annotated[int, Rule("unused energy that utilities took over", example="500")]
    redeemed_uthb: Annotated[int, Rule("paid for it", example="1100000")]
    congested: Annotated[
        int, Rule("orders kept back by a grid limit, for each clearing", unit="orders", example="1")
    ]
    average_price_mthb: Annotated[
        int | None, Rule("mean price of matched energy; null without a trade", example="4000")
    ]


@answer
class _ChainSumsHead:
    chain: ChainName
    height: Height
    open_orders: Annotated[int, Rule("orders in the book", unit="orders", example="7")]


@answer
class ChainSums(MarketSums, _ChainSumsHead):
    """What one chain's blocks add up to."""


@answer
class MarketStats:
    """Sums by chain and of all."""

    window_slots: Annotated[
        int | None, count("slots that are summed; null: since genesis", "slots", 96)
    ]
    chains: Annotated[tuple[ChainSums, ...], Rule("each chain's")]
    total: Annotated[MarketSums, Rule("of all these chains")]


@answer
class Market:
    """Units, the slots open for orders, and the price band now."""

    chain: ChainName
    height: Height
    energy_unit: Annotated[str, Rule("unit of fields that end in _wh", example="Wh")]
    price_unit: Annotated[str, Rule("unit of fields that end in _mthb", example="mTHB/kWh")]
    money_unit: Annotated[str, Rule("unit of fields that end in _uthb", example="uTHB")]
    carbon_unit: Annotated[str, Rule("unit of fields that end in _ucr", example="micro-credit")]
    slot_ms: Annotated[int, count("length of a slot", "ms", 900000)]
    market_ms: Annotated[
        int,
        moment("market time of the newest block"),
    ]
    current_slot: Annotated[int, slot_number("slot of that time", "1963585")]
    current_slot_start_ms: Annotated[int, moment("when it began")]
    first_open_slot: Annotated[int, slot_number("first slot that orders may be for", "1963586")]
    last_open_slot: Annotated[int, slot_number("last slot that orders may be for", "1963681")]
    peak: Annotated[bool, Rule("whether the current slot is of peak hours", example=False)]
    min_price_mthb: Annotated[int, Rule("lowest limit in the current slot", example="1000")]
    max_price_mthb: Annotated[int, Rule("highest limit in the current slot", example="10000")]
    peak_hours: Annotated[
        str, Rule("when the peak is", example="18:00-22:00 Asia/Bangkok, working days")
    ]
    parameters: Annotated[
        MarketParameters, Rule("every number of the market that governance may change")
    ]
