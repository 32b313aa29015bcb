"""Methods about orders, the book, trades, statistics and the market's rules now."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from gridtokenx.answers.energy import (
    ChainSums,
    ListedOrder,
    ListedTrade,
    Market,
    MarketStats,
    MarketSums,
    OrderBook,
    OrderPage,
    PriceLevel,
    TradePage,
)
from gridtokenx.answers.fields import ADDRESS_EXAMPLE, HASH_EXAMPLE
from gridtokenx.answers.kinds import address, choice, format_cursor, hex_bytes, integer, place
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.documents import tell_closed_order, tell_order, tell_trade
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.paging import fill
from gridtokenx.api.table import (
    ChainName,
    Method,
    PageCursor,
    PageLimit,
    Route,
)
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.primitives.state import u64
from gridtokenx.storage import index
from gridtokenx.storage.totals import Totals, difference, merge_totals
from gridtokenx.trading import prices
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import ORDERS, TRADERS, Order, PlaceOrder, Side, Source
from gridtokenx.views.status import ChainStatus

_HEIGHT_LAST = 2**64 - 1
_CURSOR_BYTES = 40  # Complement of the height, then the order id.


_ID = hex_bytes(32, exactly=True)
_SIDES, _SOURCES = ("buy", "sell"), tuple(source.value for source in Source)
_Trader = Annotated[bytes | None, Rule("only this account's", address(), example=ADDRESS_EXAMPLE)]
_Zone = Annotated[str | None, Rule("substation, zone or territory", place(), example="BKK-01")]


@dataclass(frozen=True, slots=True)
class OrdersParameters:
    """Which orders."""

    trader: _Trader = None
    side: Annotated[str | None, Rule("only this side", choice(*_SIDES), example="sell")] = None
    source: Annotated[
        str | None, Rule("only this source or wish", choice(*_SOURCES), example="solar")
    ] = None
    zone: _Zone = None
    status: Annotated[
        str, Rule("which orders", choice("open", "closed", "all"), example="open")
    ] = "open"
    chain: ChainName = None
    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class OrderParameters:
    """Which order."""

    id: Annotated[bytes, Rule("order id (that of its transaction)", _ID, example=HASH_EXAMPLE)]
    chain: ChainName = None


@dataclass(frozen=True, slots=True)
class BookParameters:
    """Whose book, and how much of it."""

    zone: Annotated[str, Rule("substation, zone or territory", place(), example="BKK-01")]
    slot: Annotated[
        int | None,
        Rule(
            "only what may trade in this delivery slot",
            integer(0, 2**40),
            unit="slots of 15 min since 1970 UTC",
            example=1963608,
        ),
    ] = None
    depth: Annotated[
        int, Rule("price levels a side", integer(1, 100), unit="levels", example=20)
    ] = 20


@dataclass(frozen=True, slots=True)
class TradesParameters:
    """Which trades."""

    trader: _Trader = None
    chain: ChainName = None
    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class TradeParameters:
    """Which trade."""

    id: Annotated[bytes, Rule("trade id", _ID, example=HASH_EXAMPLE)]
    chain: ChainName = None


@dataclass(frozen=True, slots=True)
class StatsParameters:
    """Sums of what."""

    chain: ChainName = None
    window_slots: Annotated[
        int | None,
        Rule("only the last so many 15-min slots", integer(1, 35_040), unit="slots", example=96),
    ] = None


@dataclass(frozen=True, slots=True)
class PlaceParameters:
    """Whose market."""

    zone: _Zone = None
    chain: ChainName = None


def is_within(location: str, group: str) -> bool:
    """Whether a substation is, or lies in, a zone or territory."""
    return location == group or location.startswith(group + "-")


def _find_order(status: ChainStatus, order_id: bytes) -> ListedOrder | None:
    open_order = ORDERS.get(status.view, order_id)
    if open_order is not None:
        return tell_order(status.spec.name, open_order)
    closed = index.find_closed_order(status.view, order_id)
    placed = index.find_transaction(status.view, order_id)
    if closed is None or placed is None or not isinstance(placed.transaction.payload, PlaceOrder):
        return None
    return tell_closed_order(status.spec.name, placed, placed.transaction.payload, closed)


def get_order(context: Context, asked: OrderParameters) -> ListedOrder:
    for status in context.selected(asked.chain):
        found = _find_order(status, asked.id)
        if found is not None:
            return found
    detail = f"no order {asked.id.hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.ORDER_NOT_FOUND, detail)


def get_orders(context: Context, asked: OrdersParameters) -> OrderPage:
    status = _chain_of(context, asked.chain, asked.zone)
    if asked.status == "open":
        return _open_orders(context, status, asked)
    if asked.trader is None:
        detail = f"status={asked.status} needs trader: closed orders are listed by account"
        raise invalid_params(detail, parameter="trader")
    items, following = fill(_orders_of(status, asked.trader, asked), asked.limit)
    return OrderPage(
        chain=status.spec.name,
        height=status.head.height,
        items=tuple(items),
        next_cursor=format_cursor(following),
    )


def _chain_of(context: Context, chain: str | None, zone: str | None) -> ChainStatus:
    """The chain that is named, else the one that serves the zone, else the first region's."""
    return context.chain(chain) if chain or not zone else context.chain_at(zone)


def _orders_of(
    status: ChainStatus, trader: bytes, asked: OrdersParameters
) -> Iterator[tuple[bytes, ListedOrder | None]]:
    """(place, order or None where it is not asked for) of each that an account placed."""
    for place_bytes, order_id in index.orders_from(status.view, trader, asked.cursor):
        row = _find_order(status, order_id)
        is_asked = (
            row is not None
            and (asked.status == "all" or row.closed_ms is not None)
            and _is_asked(asked, row.order_type, row.energy_source, row.grid_location)
        )
        yield place_bytes, row if is_asked else None


def _open_orders(context: Context, status: ChainStatus, asked: OrdersParameters) -> OrderPage:
    """Newest first. The cursor is the place of the last order, so new ones do not shift a page."""
    after, limit = asked.cursor, asked.limit
    if after and len(after) != _CURSOR_BYTES:
        raise invalid_params("this cursor is not of this list", parameter="cursor")
    matching = (
        (_order_place(order), order)
        for order in _candidates(context, status, asked.trader)
        if _is_asked(asked, order.terms.side, order.terms.source, order.terms.location)
    )
    later = (row for row in matching if row[0] > after)
    rows = heapq.nsmallest(limit + 1, later, key=lambda row: row[0])
    more = len(rows) > limit
    rows = rows[:limit]
    name = status.spec.name
    return OrderPage(
        chain=name,
        height=status.head.height,
        items=tuple(tell_order(name, order) for _, order in rows),
        next_cursor=format_cursor(rows[-1][0]) if more else None,
    )


def _order_place(order: Order) -> bytes:
    return u64(_HEIGHT_LAST - order.height) + order.id


def _candidates(context: Context, status: ChainStatus, trader: bytes | None) -> Iterable[Order]:
    if trader is None:
        return (order for _, order in context.table(status, ORDERS))
    lines = TRADERS.get(status.view, trader)
    ids = [] if lines is None else [line.order_id for line in (*lines.buys, *lines.sells)]
    found = (ORDERS.get(status.view, order_id) for order_id in ids)
    return (order for order in found if order is not None)


def _is_asked(asked: OrdersParameters, side: Side, source: Source, location: str) -> bool:
    return (
        asked.side in (None, side.name.lower())
        and asked.source in (None, source.value)
        and (asked.zone is None or is_within(location, asked.zone))
    )


def get_order_book(context: Context, asked: BookParameters) -> OrderBook:
    status = context.chain_at(asked.zone)
    levels: dict[Side, dict[int, list[int]]] = {Side.BUY: {}, Side.SELL: {}}
    for _, order in context.table(status, ORDERS):
        is_there = is_within(order.terms.location, asked.zone)
        energy_wh = _offered_wh(order, asked.slot) if is_there else 0
        if energy_wh:
            level = levels[order.terms.side].setdefault(order.terms.limit_mthb, [0, 0])
            level[0] += energy_wh
            level[1] += 1
    bids = sorted(levels[Side.BUY].items(), reverse=True)
    asks = sorted(levels[Side.SELL].items())
    return OrderBook(
        zone=asked.zone,
        chain=status.spec.name,
        height=status.head.height,
        slot=asked.slot,
        bids=tuple(_level(*row) for row in bids[: asked.depth]),
        asks=tuple(_level(*row) for row in asks[: asked.depth]),
    )


def _offered_wh(order: Order, slot: int | None) -> int:
    """What an order may still trade, in one slot if one is asked for."""
    terms = order.terms
    if slot is None:
        return order.rest_wh
    if not terms.first_slot <= slot <= terms.last_slot:
        return 0
    return max(0, min(order.rest_wh, terms.max_wh_per_slot - order.filled_in(slot)))


def _level(limit_mthb: int, sums: list[int]) -> PriceLevel:
    return PriceLevel(price_mthb=limit_mthb, energy_wh=sums[0], orders=sums[1])


def get_trade(context: Context, asked: TradeParameters) -> ListedTrade:
    for status in context.selected(asked.chain):
        record = index.find_trade(status.view, asked.id)
        if record is not None:
            return tell_trade(status.spec.name, record)
    detail = f"no trade {asked.id.hex()} on {', '.join(context.chains())}"
    raise ApiError(ErrorCode.TRADE_NOT_FOUND, detail)


def get_trades(context: Context, asked: TradesParameters) -> TradePage:
    status = context.chain(asked.chain)
    page = index.list_trades(status.view, asked.limit, asked.cursor, asked.trader)
    records = (index.find_trade(status.view, trade_id) for trade_id in page.ids)
    name = status.spec.name
    return TradePage(
        chain=name,
        height=status.head.height,
        items=tuple(tell_trade(name, record) for record in records if record is not None),
        next_cursor=format_cursor(page.next_place),
    )


def get_stats(context: Context, asked: StatsParameters) -> MarketStats:
    selected = context.selected(asked.chain)
    sums = [_totals(status, asked.window_slots) for status in selected]
    return MarketStats(
        window_slots=asked.window_slots,
        chains=tuple(
            ChainSums(
                chain=status.spec.name,
                height=status.head.height,
                open_orders=_open_count(index.load_totals(status.view)),
                **_sums(totals),
            )
            for status, totals in zip(selected, sums, strict=True)
        ),
        total=MarketSums(**_sums(merge_totals(sums))),
    )


def _totals(status: ChainStatus, window_slots: int | None) -> Totals:
    now = index.load_totals(status.view)
    if window_slots is None:
        return now
    before = max(0, slot_at(status.head.market_ms) - window_slots)
    return difference(now, index.totals_at_slot(status.view, before))


def _sums(totals: Totals) -> dict[str, Any]:
    """Sums, and the mean price of what was matched (None without a trade)."""
    average = totals.traded_uthb // totals.traded_wh if totals.traded_wh else None
    return {**asdict(totals), "average_price_mthb": average}


def _open_count(totals: Totals) -> int:
    closed = totals.orders_filled + totals.orders_cancelled + totals.orders_expired
    return totals.orders - closed


def get_market(context: Context, asked: PlaceParameters) -> Market:
    status = _chain_of(context, asked.chain, asked.zone)
    market = trading.parameters(status.view)
    current = slot_at(status.head.market_ms)
    low, high = prices.price_band(current, market)
    return Market(
        chain=status.spec.name,
        height=status.head.height,
        energy_unit="Wh",
        price_unit="mTHB/kWh",
        money_unit="uTHB",
        carbon_unit="micro-credit",
        slot_ms=SLOT_MS,
        market_ms=status.head.market_ms,
        current_slot=current,
        current_slot_start_ms=slot_start_ms(current),
        first_open_slot=current + 1,
        last_open_slot=current + market.open_slots,
        peak=prices.is_peak(current, market),
        min_price_mthb=low,
        max_price_mthb=high,
        peak_hours=_peak_hours(market.peak_start_hour, market.peak_end_hour),
        parameters=market,
    )


def _peak_hours(start: int, end: int) -> str:
    return f"{start:02}:00-{end:02}:00 Asia/Bangkok, working days"


METHODS = (
    Method(
        "energy_getOrders",
        get_orders,
        "Active orders, newest first; with a trader also closed ones.",
        routes=(Route("GET", "/energy/orders"),),
        cost=5,
    ),
    Method(
        "energy_getOrder",
        get_order,
        "An order and what became of it.",
        routes=(Route("GET", "/energy/orders/{id}"),),
    ),
    Method(
        "energy_getOrderBook",
        get_order_book,
        "Energy offered and asked by price in a substation, zone or territory.",
        routes=(Route("GET", "/energy/orderbook"),),
        cost=5,
    ),
    Method(
        "energy_getTrades",
        get_trades,
        "Trades of a chain, newest first; of one account if given.",
        routes=(Route("GET", "/energy/trades"),),
        cost=5,
    ),
    Method(
        "energy_getTrade",
        get_trade,
        "A trade and its settlement.",
        routes=(Route("GET", "/energy/trades/{id}"),),
    ),
    Method(
        "energy_getStats",
        get_stats,
        "Sums of orders, trades, money and energy since genesis, or over the last slots.",
        routes=(Route("GET", "/energy/stats"),),
        cost=2,
    ),
    Method(
        "energy_getMarket",
        get_market,
        "Units, the slots open for orders, and the price band now.",
        routes=(Route("GET", "/energy/market"),),
    ),
)
