"""Methods about orders, the book, trades, statistics and the market's rules now."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from gridtokenx.api.context import Context
from gridtokenx.api.documents import closed_document, document, order_document, trade_document
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.kinds import address, choice, format_cursor, hex_bytes, integer, place
from gridtokenx.api.paging import fill
from gridtokenx.api.table import CHAIN, CURSOR, LIMIT, Arguments, Method, Param, Route, shape
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.primitives.state import u64
from gridtokenx.storage import index as history
from gridtokenx.storage.index import Totals
from gridtokenx.trading import prices
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import ORDERS, TRADERS, Order, PlaceOrder, Side, Source
from gridtokenx.views.status import ChainStatus

_HEIGHT_LAST = 2**64 - 1
_CURSOR_BYTES = 40  # Complement of the height, then the order id.


def is_within(location: str, group: str) -> bool:
    """Whether a substation is, or lies in, a zone or territory."""
    return location == group or location.startswith(group + "-")


def _find_order(status: ChainStatus, order_id: bytes) -> dict[str, Any] | None:
    open_order = ORDERS.get(status.view, order_id)
    if open_order is not None:
        return order_document(status.spec.name, open_order)
    closed = history.find_closed_order(status.view, order_id)
    placed = history.find_transaction(status.view, order_id)
    if closed is None or placed is None or not isinstance(placed.transaction.payload, PlaceOrder):
        return None
    return closed_document(status.spec.name, placed, placed.transaction.payload, closed)


def get_order(context: Context, arguments: Arguments) -> dict[str, Any]:
    for status in context.selected(arguments["chain"]):
        found = _find_order(status, arguments["id"])
        if found is not None:
            return found
    detail = f"no order {arguments['id'].hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.ORDER_NOT_FOUND, detail)


def get_orders(context: Context, arguments: Arguments) -> dict[str, Any]:
    zone, state, trader = arguments["zone"], arguments["status"], arguments["trader"]
    named = arguments["chain"]
    status = context.chain(named) if named or not zone else context.chain_at(zone)
    if state == "open":
        return _open_orders(context, status, arguments)
    if trader is None:
        detail = f"status={state} needs trader: closed orders are listed by account"
        raise invalid_params(detail, parameter="trader")
    found = _orders_of(status, trader, arguments)
    items, following = fill(found, arguments["limit"])
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "items": items,
        "next_cursor": format_cursor(following),
    }


def _orders_of(
    status: ChainStatus, trader: bytes, arguments: Arguments
) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """(place, order or None where it is not asked for) of each that an account placed."""
    zone = arguments["zone"]
    for place_bytes, order_id in history.orders_from(status.view, trader, arguments["cursor"]):
        row = _find_order(status, order_id)
        is_asked = (
            row is not None
            and (arguments["status"] == "all" or row["closed_ms"] is not None)
            and arguments["side"] in (None, row["order_type"])
            and arguments["source"] in (None, row["energy_source"])
            and (zone is None or is_within(row["grid_location"], zone))
        )
        yield place_bytes, row if is_asked else None


def _open_orders(context: Context, status: ChainStatus, arguments: Arguments) -> dict[str, Any]:
    """Newest first. The cursor is the place of the last order, so new ones do not shift a page."""
    after, limit = arguments["cursor"], arguments["limit"]
    if after and len(after) != _CURSOR_BYTES:
        raise invalid_params("this cursor is not of this list", parameter="cursor")
    matching = (
        (_order_place(order), order)
        for order in _candidates(context, status, arguments["trader"])
        if _order_matches(order, arguments)
    )
    later = (row for row in matching if row[0] > after)
    rows = heapq.nsmallest(limit + 1, later, key=lambda row: row[0])
    more = len(rows) > limit
    rows = rows[:limit]
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "items": [order_document(status.spec.name, order) for _, order in rows],
        "next_cursor": format_cursor(rows[-1][0]) if more else None,
    }


def _order_place(order: Order) -> bytes:
    return u64(_HEIGHT_LAST - order.height) + order.id


def _candidates(context: Context, status: ChainStatus, trader: bytes | None) -> Iterable[Order]:
    if trader is None:
        return (order for _, order in context.table(status, ORDERS))
    lines = TRADERS.get(status.view, trader)
    ids = [] if lines is None else [line.order_id for line in (*lines.buys, *lines.sells)]
    found = (ORDERS.get(status.view, order_id) for order_id in ids)
    return (order for order in found if order is not None)


def _order_matches(order: Order, arguments: Arguments) -> bool:
    terms, zone = order.terms, arguments["zone"]
    return (
        arguments["side"] in (None, terms.side.name.lower())
        and arguments["source"] in (None, terms.source.value)
        and (zone is None or is_within(terms.location, zone))
    )


def get_order_book(context: Context, arguments: Arguments) -> dict[str, Any]:
    zone, slot, depth = arguments["zone"], arguments["slot"], arguments["depth"]
    status = context.chain_at(zone)
    levels: dict[Side, dict[int, list[int]]] = {Side.BUY: {}, Side.SELL: {}}
    for _, order in context.table(status, ORDERS):
        energy_wh = _offered_wh(order, slot) if is_within(order.terms.location, zone) else 0
        if energy_wh:
            level = levels[order.terms.side].setdefault(order.terms.limit_mthb, [0, 0])
            level[0] += energy_wh
            level[1] += 1
    bids = sorted(levels[Side.BUY].items(), reverse=True)
    asks = sorted(levels[Side.SELL].items())
    return {
        "zone": zone,
        "chain": status.spec.name,
        "height": str(status.head.height),
        "slot": None if slot is None else str(slot),
        "bids": [_level(*row) for row in bids[:depth]],
        "asks": [_level(*row) for row in asks[:depth]],
    }


def _offered_wh(order: Order, slot: int | None) -> int:
    """What an order may still trade, in one slot if one is asked for."""
    terms = order.terms
    if slot is None:
        return order.rest_wh
    if not terms.first_slot <= slot <= terms.last_slot:
        return 0
    return max(0, min(order.rest_wh, terms.max_wh_per_slot - order.filled_in(slot)))


def _level(limit_mthb: int, sums: list[int]) -> dict[str, Any]:
    return {"price_mthb": str(limit_mthb), "energy_wh": str(sums[0]), "orders": sums[1]}


def get_trade(context: Context, arguments: Arguments) -> dict[str, Any]:
    for status in context.selected(arguments["chain"]):
        record = history.find_trade(status.view, arguments["id"])
        if record is not None:
            return trade_document(status.spec.name, record)
    detail = f"no trade {arguments['id'].hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.TRADE_NOT_FOUND, detail)


def get_trades(context: Context, arguments: Arguments) -> dict[str, Any]:
    status = context.chain(arguments["chain"])
    page = history.list_trades(
        status.view, arguments["limit"], arguments["cursor"], arguments["trader"]
    )
    records = (history.find_trade(status.view, trade_id) for trade_id in page.ids)
    name = status.spec.name
    return {
        "chain": name,
        "height": str(status.head.height),
        "items": [trade_document(name, record) for record in records if record is not None],
        "next_cursor": format_cursor(page.next_place),
    }


def get_stats(context: Context, arguments: Arguments) -> dict[str, Any]:
    window_slots = arguments["window_slots"]
    selected = context.selected(arguments["chain"])
    sums = [_totals(status, window_slots) for status in selected]
    return {
        "window_slots": window_slots,
        "chains": [
            {
                "chain": status.spec.name,
                "height": str(status.head.height),
                "open_orders": str(_open_count(history.load_totals(status.view))),
                **_totals_document(totals),
            }
            for status, totals in zip(selected, sums, strict=True)
        ],
        "total": _totals_document(history.merge_totals(sums)),
    }


def _totals(status: ChainStatus, window_slots: int | None) -> Totals:
    now = history.load_totals(status.view)
    if window_slots is None:
        return now
    before = max(0, slot_at(status.head.market_ms) - window_slots)
    return history.difference(now, history.totals_at_slot(status.view, before))


def _totals_document(totals: Totals) -> dict[str, Any]:
    """Sums as text, and the mean price of what was matched (null without a trade)."""
    average = totals.traded_uthb // totals.traded_wh if totals.traded_wh else None
    sums = {name: str(value) for name, value in asdict(totals).items()}
    return {**sums, "average_price_mthb": None if average is None else str(average)}


def _open_count(totals: Totals) -> int:
    closed = totals.orders_filled + totals.orders_cancelled + totals.orders_expired
    return totals.orders - closed


def get_market(context: Context, arguments: Arguments) -> dict[str, Any]:
    zone, named = arguments["zone"], arguments["chain"]
    status = context.chain(named) if named or not zone else context.chain_at(zone)
    market = trading.parameters(status.view)
    current = slot_at(status.head.market_ms)
    low, high = prices.price_band(current, market)
    return {
        "chain": status.spec.name,
        "height": str(status.head.height),
        "energy_unit": "Wh",
        "price_unit": "mTHB/kWh",
        "money_unit": "uTHB",
        "carbon_unit": "micro-credit",
        "slot_ms": SLOT_MS,
        "market_ms": str(status.head.market_ms),
        "current_slot": str(current),
        "current_slot_start_ms": str(slot_start_ms(current)),
        "first_open_slot": str(current + 1),
        "last_open_slot": str(current + market.open_slots),
        "peak": prices.is_peak(current, market),
        "min_price_mthb": str(low),
        "max_price_mthb": str(high),
        "peak_hours": _peak_hours(market.peak_start_hour, market.peak_end_hour),
        "parameters": document(market),
    }


def _peak_hours(start: int, end: int) -> str:
    return f"{start:02}:00-{end:02}:00 Asia/Bangkok, working days"


def _sources(values: Iterable[Source]) -> Iterator[str]:
    return (source.value for source in values)


_ID = hex_bytes(32, exactly=True)
_ORDER_FIELDS = {
    "order_id": "hex",
    "chain": "text",
    "trader": "text",
    "status": "text",
    "order_type": "text",
    "energy_wh": "decimal",
    "limit_mthb": "decimal",
    "energy_source": "text",
    "require": "bool",
    "grid_location": "text",
    "meter_id": "hex",
    "first_slot": "decimal",
    "last_slot": "decimal",
    "max_wh_per_slot": "decimal",
    "time_in_force": "text",
    "expires_ms": "decimal",
    "rest_wh": "decimal",
    "filled_wh": "decimal",
    "reserve_uthb": "decimal",
    "congested": "bool",
    "height": "decimal",
    "placed_ms": "decimal",
    "closed_ms": "decimal?",
    "refund_uthb": "decimal?",
}
_TRADE_FIELDS = {
    "trade_id": "hex",
    "chain": "text",
    "height": "decimal",
    "time_ms": "decimal",
    "market_ms": "decimal",
    "slot": "decimal",
    "buyer": "text",
    "seller": "text",
    "buy_order_id": "hex",
    "sell_order_id": "hex",
    "energy_wh": "decimal",
    "price_mthb": "decimal",
    "wheeling_mthb": "decimal",
    "tier": "number",
    "territory": "text",
    "energy_source": "text",
    "status": "text",
    "settlement": "object?",
}
_PAGE = {"chain": "text", "height": "decimal", "items": "list", "next_cursor": "text?"}
_TRADER = Param("trader", address(), "only this account's")
_ZONE = Param("zone", place(), "substation, zone or territory")

METHODS = (
    Method(
        "energy_getOrders",
        get_orders,
        "Active orders, newest first; with a trader also closed ones.",
        shape(**_PAGE),
        (
            _TRADER,
            Param("side", choice("buy", "sell"), "only this side"),
            Param("source", choice(*_sources(Source)), "only this source or wish"),
            _ZONE,
            Param("status", choice("open", "closed", "all"), "which orders", default="open"),
            CHAIN,
            LIMIT,
            CURSOR,
        ),
        (Route("GET", "/energy/orders"),),
        cost=5,
    ),
    Method(
        "energy_getOrder",
        get_order,
        "An order and what became of it.",
        shape(**_ORDER_FIELDS),
        (Param("id", _ID, "order id (that of its transaction)", required=True), CHAIN),
        (Route("GET", "/energy/orders/{id}"),),
    ),
    Method(
        "energy_getOrderBook",
        get_order_book,
        "Energy offered and asked by price in a substation, zone or territory.",
        shape(
            zone="text", chain="text", height="decimal", slot="decimal?", bids="list", asks="list"
        ),
        (
            Param("zone", place(), "substation, zone or territory", required=True),
            Param("slot", integer(0, 2**40), "only what may trade in this delivery slot"),
            Param("depth", integer(1, 100), "price levels a side", default=20),
        ),
        (Route("GET", "/energy/orderbook"),),
        cost=5,
    ),
    Method(
        "energy_getTrades",
        get_trades,
        "Trades of a chain, newest first; of one account if given.",
        shape(**_PAGE),
        (_TRADER, CHAIN, LIMIT, CURSOR),
        (Route("GET", "/energy/trades"),),
        cost=5,
    ),
    Method(
        "energy_getTrade",
        get_trade,
        "A trade and its settlement.",
        shape(**_TRADE_FIELDS),
        (Param("id", _ID, "trade id", required=True), CHAIN),
        (Route("GET", "/energy/trades/{id}"),),
    ),
    Method(
        "energy_getStats",
        get_stats,
        "Sums of orders, trades, money and energy since genesis, or over the last slots.",
        shape(window_slots="number?", chains="list", total="object"),
        (CHAIN, Param("window_slots", integer(1, 35_040), "only the last so many 15-min slots")),
        (Route("GET", "/energy/stats"),),
        cost=2,
    ),
    Method(
        "energy_getMarket",
        get_market,
        "Units, the slots open for orders, and the price band now.",
        shape(
            chain="text",
            height="decimal",
            energy_unit="text",
            price_unit="text",
            money_unit="text",
            carbon_unit="text",
            slot_ms="number",
            market_ms="decimal",
            current_slot="decimal",
            current_slot_start_ms="decimal",
            first_open_slot="decimal",
            last_open_slot="decimal",
            peak="bool",
            min_price_mthb="decimal",
            max_price_mthb="decimal",
            peak_hours="text",
            parameters="object",
        ),
        (_ZONE, CHAIN),
        (Route("GET", "/energy/market"),),
    ),
)
