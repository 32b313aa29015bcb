"""The verbs of trading: place and cancel orders, and what each block does to the market at start.

Source: protocols/market.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import (
    BPS,
    SLOT_MS,
    SLOTS_PER_DAY,
    format_kwh,
    format_price,
    local_day,
    slot_at,
    slot_end_ms,
    slot_start_ms,
)
from gridtokenx.primitives.state import Overlay, Reader
from gridtokenx.trading import auction, book, settlement
from gridtokenx.trading.model import (
    CLOCK,
    ORDERS,
    PARAMETERS,
    CancelOrder,
    MarketClock,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    OpenOrder,
    Order,
    OrderPlaced,
    OrderStatus,
    PlaceOrder,
    Side,
    Source,
    Trader,
    TraderFacts,
    TradingEvent,
)

_BANGKOK_SLOTS = 28  # UTC+7 in slots
_DEFAULTS = MarketParameters()


def parameters(state: Reader) -> MarketParameters:
    """The market's parameters in force."""
    return PARAMETERS.get(state, b"") or _DEFAULTS


def set_parameters(state: Overlay, value: MarketParameters) -> None:
    """Put parameters in force from the next rule on (genesis, governance)."""
    PARAMETERS.put(state, b"", value)


def is_peak(slot: int, market: MarketParameters) -> bool:
    """Whether a slot starts in the peak hours of a Bangkok working day."""
    day = local_day(slot_start_ms(slot))
    weekday = (day + 3) % 7  # Monday is 0; 1970-01-01 was a Thursday.
    hour = (slot + _BANGKOK_SLOTS) % SLOTS_PER_DAY // 4
    in_hours = market.peak_start_hour <= hour < market.peak_end_hour
    return in_hours and weekday < 5 and day not in market.holidays


def price_band(slot: int, market: MarketParameters) -> tuple[int, int]:
    """Lowest and highest price of a slot in mTHB/kWh. Source: market 3, Price band (vector V10)."""
    ceiling = market.max_price_mthb
    if is_peak(slot, market):
        ceiling = ceiling * market.peak_multiplier_bps // BPS
    return market.min_price_mthb, ceiling


# Commands


def place_order(
    state: Overlay,
    command: PlaceOrder,
    *,
    owner: bytes,
    order_id: bytes,
    now_ms: int,
    height: int,
    trader: TraderFacts,
    meter: MeterFacts,
) -> list[TradingEvent]:
    """Reserve what the order may cost and rest it; it can match from the next block on.

    Units: energy in Wh, prices in mTHB/kWh, now_ms the block's market time (Unix ms).
    Effects: escrow (buy) or bond (sell) is set aside; the book gains the order.
    Errors: NOT_ACTIVE, LICENCE_EXPIRED; NOT_PERMITTED for another's meter, UNKNOWN_ZONE for another
    place than the meter's, UNKNOWN_SOURCE; INTERVAL_CLOSED, ORDER_EXPIRED; AMOUNT_OUT_OF_RANGE,
    SLOT_CAP, PRICE_OUT_OF_BAND; TOO_MANY_ORDERS, SELF_TRADE, DAILY_CAP; INSUFFICIENT_BALANCE.
    Source: protocols/market.md section 2.
    """
    market = parameters(state)
    listed = book.trader(state, owner)
    _check_trader(command, trader)
    _check_meter(command, owner, meter)
    _check_slots(command, now_ms, market)
    _check_quantity(command, meter, market)
    _check_price(command, market)
    _check_account(command, listed, trader, local_day(now_ms), market)
    if command.side is Side.BUY:
        reserve_uthb = settlement.escrow_needed(
            command.energy_wh, command.limit_mthb, market.vat_bps
        )
        ledger.reserve_escrow(state, owner, reserve_uthb)
    else:
        reserve_uthb = command.energy_wh * market.shortfall_penalty_mthb
        ledger.reserve_bond(state, owner, reserve_uthb)
    order = Order(
        id=order_id,
        owner=owner,
        terms=command,
        height=height,
        placed_ms=now_ms,
        vat_bps=market.vat_bps,
        penalty_mthb=market.shortfall_penalty_mthb,
        vat_registered=trader.vat_registered,
        rest_wh=command.energy_wh,
        reserve_uthb=reserve_uthb,
        fills=(),
        congested=False,
    )
    book.add(state, order, touch=market.matching_mode is MatchingMode.BLOCK)
    book.enter_trader(state, order, listed)
    return [OrderPlaced(order_id, owner, command, reserve_uthb)]


def cancel_order(state: Overlay, command: CancelOrder, *, owner: bytes) -> list[TradingEvent]:
    """Take an order's rest off the book and give its reserve back; what has matched stays.

    Errors: ORDER_NOT_FOUND for one that never was or is closed (after its last gate closure every
    order is); NOT_ORDER_OWNER.
    """
    order = ORDERS.get(state, command.order_id)
    if order is None:
        detail = f"order {command.order_id.hex()} is not open"
        raise Rejected(ErrorCode.ORDER_NOT_FOUND, detail)
    if order.owner != owner:
        detail = f"order {command.order_id.hex()} belongs to another account"
        raise Rejected(ErrorCode.NOT_ORDER_OWNER, detail)
    return [auction.close(state, order, OrderStatus.CANCELLED)]


def settle_reading(
    state: Overlay,
    *,
    meter_id: bytes,
    slot: int,
    import_wh: int,
    deliverable_wh: int,
    distributor_of: Callable[[str], bytes],
    authority_account: bytes,
) -> list[TradingEvent]:
    """Settle a meter's sales and purchases of a slot, in the transaction that brings its reading.

    Units: Wh; `distributor_of` gives for a region prefix the account that is paid its wheeling;
    authority_account is that of the block's proposer. Source: protocols/market.md section 4.
    """
    return settlement.settle_reading(
        state,
        meter_id=meter_id,
        slot=slot,
        import_wh=import_wh,
        deliverable_wh=deliverable_wh,
        market=parameters(state),
        payees=settlement.Payees(distributor_of, authority_account),
    )


def _check_trader(command: PlaceOrder, trader: TraderFacts) -> None:
    if not trader.active:
        raise Rejected(ErrorCode.NOT_ACTIVE, "the account is suspended from trading")
    needed_ms = min(command.expires_ms, slot_end_ms(command.last_slot))
    if trader.licence_expiry_ms < needed_ms:
        detail = f"the licence ends at {trader.licence_expiry_ms}, the order at {needed_ms}"
        raise Rejected(ErrorCode.LICENCE_EXPIRED, detail)


def _check_meter(command: PlaceOrder, owner: bytes, meter: MeterFacts) -> None:
    if meter.owner != owner:
        detail = f"meter {command.meter_id.hex()} belongs to another account"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    if meter.location != command.location:
        detail = f"meter {command.meter_id.hex()} is at {meter.location}, not {command.location!r}"
        raise Rejected(ErrorCode.UNKNOWN_ZONE, detail)
    if command.side is Side.SELL and command.source != meter.source:
        detail = f"the meter's source is {meter.source}, not {command.source}"
        raise Rejected(ErrorCode.UNKNOWN_SOURCE, detail)
    if command.require and (command.side is Side.SELL or command.source is Source.ANY):
        raise Rejected(ErrorCode.UNKNOWN_SOURCE, "only a buyer who names a source can require it")


def _check_slots(command: PlaceOrder, now_ms: int, market: MarketParameters) -> None:
    current = slot_at(now_ms)
    first, last = command.first_slot, command.last_slot
    if not current < first <= last <= current + market.open_slots:
        open_range = f"{current + 1}..{current + market.open_slots}"
        detail = f"slots {first}..{last} are not open for trade, which are {open_range}"
        raise Rejected(ErrorCode.INTERVAL_CLOSED, detail)
    if command.expires_ms <= now_ms:
        detail = f"the order expires at {command.expires_ms}, it is {now_ms} (Unix ms)"
        raise Rejected(ErrorCode.ORDER_EXPIRED, detail)


def _check_quantity(command: PlaceOrder, meter: MeterFacts, market: MarketParameters) -> None:
    if not market.min_order_wh <= command.energy_wh <= market.max_order_wh:
        detail = (
            f"{format_kwh(command.energy_wh)} kWh, an order has {format_kwh(market.min_order_wh)}"
            f" to {format_kwh(market.max_order_wh)} kWh"
        )
        raise Rejected(ErrorCode.AMOUNT_OUT_OF_RANGE, detail)
    selling = command.side is Side.SELL
    nameplate_w = meter.nameplate_export_w if selling else meter.nameplate_import_w
    most_wh = nameplate_w * SLOT_MS // 3_600_000
    if not market.min_order_wh <= command.max_wh_per_slot <= most_wh:
        detail = (
            f"{command.max_wh_per_slot} Wh a slot, the meter's nameplate of {nameplate_w} W allows "
            f"{market.min_order_wh}..{most_wh} Wh"
        )
        raise Rejected(ErrorCode.SLOT_CAP, detail)


def _check_price(command: PlaceOrder, market: MarketParameters) -> None:
    """The limit must lie in the band of every slot the order names."""
    limit = command.limit_mthb
    if market.min_price_mthb <= limit <= market.max_price_mthb:
        return  # The peak only raises the ceiling.
    for slot in range(command.first_slot, command.last_slot + 1):
        low, high = price_band(slot, market)
        if not low <= limit <= high:
            detail = (
                f"{format_price(limit)} THB/kWh in slot {slot}, the band is "
                f"{format_price(low)} to {format_price(high)}"
            )
            raise Rejected(ErrorCode.PRICE_OUT_OF_BAND, detail)


def _check_account(
    command: PlaceOrder, listed: Trader, trader: TraderFacts, day: int, market: MarketParameters
) -> None:
    if len(listed.buys) + len(listed.sells) >= market.max_open_orders:
        detail = f"the account has {market.max_open_orders} open orders, the most allowed"
        raise Rejected(ErrorCode.TOO_MANY_ORDERS, detail)
    opposite = listed.sells if command.side is Side.BUY else listed.buys
    if opposite and (other := _overlapping(command, opposite)):
        detail = f"open order {other.order_id.hex()} of the other side shares a slot with this one"
        raise Rejected(ErrorCode.SELF_TRADE, detail)
    ordered_wh = command.energy_wh + (listed.ordered_wh if listed.day == day else 0)
    if ordered_wh > trader.daily_cap_wh:
        detail = (
            f"{format_kwh(ordered_wh)} kWh ordered today would exceed the account's cap of "
            f"{format_kwh(trader.daily_cap_wh)} kWh"
        )
        raise Rejected(ErrorCode.DAILY_CAP, detail)


def _overlapping(command: PlaceOrder, lines: tuple[OpenOrder, ...]) -> OpenOrder | None:
    for line in lines:
        if line.first_slot <= command.last_slot and command.first_slot <= line.last_slot:
            return line
    return None


# Block start


def begin_block(
    state: Overlay,
    *,
    now_ms: int,
    previous_block_hash: bytes,
    headroom: Mapping[str, int] | None = None,
) -> list[TradingEvent]:
    """Do what time demands, over orders of earlier blocks only, before a block's transactions.

    In order of time: each gate that has closed since the block before is cleared a last time (an
    order that expired before the gate has left by then), its orders without a later slot leave;
    orders that expired by now leave; in mode "block" each open slot with new orders is cleared, in
    slot order; immediate-or-cancel orders that met a clearing leave; slots whose reading deadline
    has passed are settled.
    Units: now_ms is market time in Unix ms; headroom in Wh, keys "x:NODE" export, "m:NODE" import.
    Source: protocols/market.md sections 2, 3 and 4.
    """
    market = parameters(state)
    current = slot_at(now_ms)
    clock = CLOCK.get(state, b"")
    if clock is None:  # The chain's first block: nothing can be due.
        CLOCK.put(state, b"", MarketClock(current, current - market.reading_deadline_slots - 1))
        return []
    run = auction.Run(state, market, previous_block_hash, headroom or {})
    # No order reaches further than the open slots counted from the block before, so a chain that
    # stood still for a year has no more to do than one that stood still for a day.
    horizon = clock.gate_slot + SLOTS_PER_DAY + 1
    buckets = range(clock.gate_slot, min(current + 1, horizon))
    ended = book.ended(state, buckets, now_ms)
    position = 0
    for slot in range(clock.gate_slot + 1, min(current + 1, horizon)):
        while position < len(ended) and ended[position][0] < slot_start_ms(slot):
            run.expire(ended[position][1])
            position += 1
        run.clear_slot(slot)
        run.close_gate(slot)
    for _, order_id in ended[position:]:
        run.expire(order_id)
    run.clear_touched(current)
    run.drop_immediate()
    settled_to = current - market.reading_deadline_slots - 1
    for slot in range(clock.settled_slot + 1, min(settled_to + 1, horizon)):
        run.events += settlement.settle_deadline(state, slot, market)
    CLOCK.put(state, b"", MarketClock(current, max(clock.settled_slot, settled_to)))
    return run.events
