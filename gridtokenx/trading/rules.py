"""The verbs of trading: place and cancel orders, and what each block does to the market at start.

Source: protocols/market.md 2, 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import (
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
from gridtokenx.trading import book, quotes, redemption, reports, settlement
from gridtokenx.trading import clock as clocks
from gridtokenx.trading.clock import Budget
from gridtokenx.trading.clock_model import CLOCK, GatesMissed, MarketClock
from gridtokenx.trading.matching import ALL_TERRITORIES, GridView, Matching, Watch, close_order
from gridtokenx.trading.model import (
    MARKET_PARAMETERS,
    ORDERS,
    CancelOrder,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    OpenOrder,
    Order,
    OrderPlaced,
    OrderStatus,
    PlaceOrder,
    Redeem,
    Side,
    Source,
    Trader,
    TraderFacts,
    TradingEvent,
)
from gridtokenx.trading.prices import price_band
from gridtokenx.trading.quotes import Quote, Wish
from gridtokenx.trading.redemption import Customer, Customers
from gridtokenx.trading.settlement import Payees, ReadingFacts, Readings

_DEFAULTS = MarketParameters()
NO_LIMITS = GridView()


def parameters(state: Reader) -> MarketParameters:
    """The market's parameters in force."""
    return MARKET_PARAMETERS.get(state, b"") or _DEFAULTS


def set_parameters(state: Overlay, value: MarketParameters) -> None:
    """Put parameters in force from the next rule on (genesis, governance)."""
    MARKET_PARAMETERS.put(state, b"", value)


def due_slot(state: Reader) -> int:
    """The last slot whose reading deadline has passed: readings of it serve no trade any more."""
    clock = CLOCK.get(state, b"")
    return -1 if clock is None else clock.due_slot


# -- Commands --------------------------------------------------------------------------------------


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
    Source: protocols/market.md 2.
    """
    market = parameters(state)
    listed = book.trader(state, owner)
    if listed.traded:
        listed = replace(listed, traded=book.without_past(listed.traded, slot_at(now_ms)))
    _check_trader(command, trader)
    _check_meter(command, owner, meter)
    _check_slots(command, now_ms, market)
    _check_quantity(command, meter, market, listed)
    _check_price(command, market)
    _check_account(command, listed, trader, local_day(now_ms), market)
    vat_bps = max(market.vat_bps_in(command.first_slot), market.vat_bps_in(command.last_slot))
    if command.side is Side.BUY:
        reserve_uthb = settlement.escrow_needed(command.energy_wh, command.limit_mthb, vat_bps)
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
        vat_bps=vat_bps,
        penalty_mthb=market.shortfall_penalty_mthb,
        vat_registered=trader.vat_registered,
        rest_wh=command.energy_wh,
        reserve_uthb=reserve_uthb,
        filled_wh=(),
        congested=False,
        is_local=meter.is_local,
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
    return [close_order(state, order, OrderStatus.CANCELLED)]


def cancel_orders_of(state: Overlay, owner: bytes) -> list[TradingEvent]:
    """Take all of an account's open orders off the book (its owner was suspended)."""
    return _cancel_where(state, owner, lambda _: True)


def cancel_orders_of_meter(state: Overlay, owner: bytes, meter_id: bytes) -> list[TradingEvent]:
    """Take a meter's open orders off the book (it was suspended or retired)."""
    return _cancel_where(state, owner, lambda order: order.terms.meter_id == meter_id)


def cancel_orders_beyond(state: Overlay, owner: bytes, until_ms: int) -> list[TradingEvent]:
    """Take the open orders off the book that a licence, which ends at until_ms, does not cover."""
    return _cancel_where(state, owner, lambda order: needs_licence_ms(order.terms) > until_ms)


def _cancel_where(
    state: Overlay, owner: bytes, is_meant: Callable[[Order], bool]
) -> list[TradingEvent]:
    listed = book.trader(state, owner)
    events: list[TradingEvent] = []
    for line in listed.buys + listed.sells:
        order = ORDERS.get(state, line.order_id)
        if order is None:
            raise LookupError(f"open order {line.order_id.hex()} is missing")
        if is_meant(order):
            events.append(close_order(state, order, OrderStatus.CANCELLED))
    return events


def needs_licence_ms(terms: PlaceOrder) -> int:
    """Until when an order's owner must be licensed (Unix ms)."""
    return min(terms.expires_ms, slot_end_ms(terms.last_slot))


def settle_reading(state: Overlay, reading: ReadingFacts, *, payees: Payees) -> list[TradingEvent]:
    """Settle a meter's sales and purchases of a slot, in the transaction that brings its reading.

    Source: protocols/market.md 4.
    """
    return settlement.settle_reading(state, reading, market=parameters(state), payees=payees)


def forget_assumed(state: Overlay, meter_id: bytes) -> None:
    """What a meter is taken to have consumed is no longer set against its next readings: it starts
    anew, and they do not show it."""
    settlement.forget_assumed(state, meter_id)


def redeem(
    state: Overlay, command: Redeem, *, customer: Customer, now_ms: int
) -> list[TradingEvent]:
    """Sell unused energy to the utility. Errors: NOT_ACTIVE; INSUFFICIENT_BALANCE of either."""
    return redemption.redeem(
        state, command, customer=customer, market=parameters(state), now_ms=now_ms
    )


def quote(state: Reader, wish: Wish) -> Quote:
    """What an order for one slot would set aside, cost and pay, before anybody signs it.

    The caller knows that the location is served.
    Errors: UNKNOWN_SOURCE, AMOUNT_OUT_OF_RANGE, PRICE_OUT_OF_BAND as for the order.
    Source: protocols/market.md 4.5.
    """
    market = parameters(state)
    _check_require(wish)
    _check_energy(wish.energy_wh, market)
    _check_band(wish.limit_mthb, wish.slot, market)
    return quotes.quote(state, market, wish)


def _check_trader(command: PlaceOrder, trader: TraderFacts) -> None:
    if not trader.active:
        raise Rejected(ErrorCode.NOT_ACTIVE, "the account is suspended from trading")
    needed_ms = needs_licence_ms(command)
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
    _check_require(command)


def _check_require(terms: PlaceOrder | Wish) -> None:
    if terms.require and (terms.side is Side.SELL or terms.source is Source.ANY):
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


def _check_quantity(
    command: PlaceOrder, meter: MeterFacts, market: MarketParameters, listed: Trader
) -> None:
    """Also what the meter's orders have open and traded in a slot stays within its nameplate."""
    _check_energy(command.energy_wh, market)
    selling = command.side is Side.SELL
    nameplate_w = meter.nameplate_export_w if selling else meter.nameplate_import_w
    most_wh = nameplate_w * SLOT_MS // 3_600_000
    if not market.min_order_wh <= command.max_wh_per_slot <= most_wh:
        detail = (
            f"{command.max_wh_per_slot} Wh a slot, the meter's nameplate of {nameplate_w} W allows "
            f"{market.min_order_wh}..{most_wh} Wh"
        )
        raise Rejected(ErrorCode.SLOT_CAP, detail)
    taken_wh = book.taken_wh(listed, command)
    if taken_wh + command.max_wh_per_slot > most_wh:
        detail = (
            f"{command.max_wh_per_slot} Wh a slot beside {taken_wh} Wh that the meter has open "
            f"and traded is more than the {most_wh} Wh of its nameplate of {nameplate_w} W"
        )
        raise Rejected(ErrorCode.SLOT_CAP, detail)


def _check_energy(energy_wh: int, market: MarketParameters) -> None:
    if not market.min_order_wh <= energy_wh <= market.max_order_wh:
        detail = (
            f"{format_kwh(energy_wh)} kWh, an order has {format_kwh(market.min_order_wh)}"
            f" to {format_kwh(market.max_order_wh)} kWh"
        )
        raise Rejected(ErrorCode.AMOUNT_OUT_OF_RANGE, detail)


def _check_price(command: PlaceOrder, market: MarketParameters) -> None:
    """The limit must lie in the band of every slot the order names."""
    limit = command.limit_mthb
    if market.min_price_mthb <= limit <= market.max_price_mthb:
        return  # The peak only raises the ceiling.
    for slot in range(command.first_slot, command.last_slot + 1):
        _check_band(limit, slot, market)


def _check_band(limit_mthb: int, slot: int, market: MarketParameters) -> None:
    low, high = price_band(slot, market)
    if not low <= limit_mthb <= high:
        detail = (
            f"{format_price(limit_mthb)} THB/kWh in slot {slot}, the band is "
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


# -- Block start -----------------------------------------------------------------------------------


def begin_block(
    state: Overlay,
    *,
    now_ms: int,
    gate_grace_ms: int,
    grid: GridView = NO_LIMITS,
    territories: Callable[[], Mapping[str, str]] = dict,
    customers: Callable[[], Customers] | None = None,
    read_to: Callable[[bytes], int] = lambda _: -1,
    read_since: Callable[[bytes], int] = lambda _: 0,
    watch: Watch | None = None,
) -> list[TradingEvent]:
    """Do what time demands, over orders of earlier blocks only, before a block's transactions.

    In order of time: each gate that has passed since the block before is cleared a last time (an
    order that expired before the gate has left by then), or not at all if the chain stood still
    meanwhile, and its orders without a later slot leave; orders that expired by now leave; slots
    whose reading deadline has passed are settled and days that are settled to their end reported;
    the month-end redemption goes on; in mode "block" each open slot with new orders is cleared, in
    slot order; immediate-or-cancel orders that met a clearing leave. What is more than a block's
    own work may be waits for the next.
    Units: now_ms is market time in Unix ms, gate_grace_ms how late after a gate a block may still
    clear it; `grid` is what the grid can carry now; `territories` maps territory prefixes to
    distributors' names; `customers` are those who redeem at month end; `read_to` is the slot of a
    meter's last reading, `read_since` the first one that its readings can tell of.
    Source: protocols/market.md 3.1.
    """
    market = parameters(state)
    before = CLOCK.get(state, b"")
    if before is None:
        CLOCK.put(state, b"", clocks.start(slot_at(now_ms)))
        return []
    clock = clocks.arrive(before, now_ms, gate_grace_ms)
    clock = clocks.pass_deadlines(state, clock, market)
    budget = Budget(clocks.WORK_PER_BLOCK)
    matching = Matching(state, market, grid, budget, watch)
    if clock.still_slot > before.still_slot:
        matching.events.append(GatesMissed(before.slot + 1, clock.still_slot))
    is_free = matching.finish_carried_over()
    if is_free:
        clock = _close_gates(matching, clock)
    has_expired = (
        is_free
        and clock.gate_slot == clock.slot
        and _expire(matching, clock.slot, clock.slot, now_ms)
    )
    clock, events = _settle_slots(
        state, clock, market, budget, territories, Readings(read_to, read_since)
    )
    if customers is not None:
        events += redemption.redeem_month_end(
            state,
            customers=customers(),
            market=market,
            now_ms=now_ms,
            settled_slot=clock.settled_slot,
            budget=budget,
        )
    reports.forget(state, clock, budget)
    if has_expired:  # Last: whoever keeps it busy must hold up nothing else.
        matching.clear_touched(clock.slot)
    matching.drop_immediate()
    if clock != before:
        CLOCK.put(state, b"", clock)
    return matching.events + events


def _close_gates(matching: Matching, clock: MarketClock) -> MarketClock:
    """Close the gates that have passed, as far as the budget goes.

    An order that ends at a gate still takes part in that gate's clearing, but in none after it.
    """
    clock = _close_missed_gates(matching, clock)
    while clock.still_slot <= clock.gate_slot < clock.slot:
        slot = clock.gate_slot + 1
        gate_ms = slot_start_ms(slot)
        if not _expire(matching, clock.gate_slot, slot, gate_ms - 1):
            break
        clock = replace(clock, cleared_territory=matching.clear_gate(slot, clock.cleared_territory))
        if clock.cleared_territory != ALL_TERRITORIES or not _expire(matching, slot, slot, gate_ms):
            break
        clock = replace(clock, gate_slot=slot, cleared_territory="")
    return clock


def _close_missed_gates(matching: Matching, clock: MarketClock) -> MarketClock:
    """Close the gates of a standstill: nothing is cleared, orders for those slots alone end."""
    last = clock.still_slot
    if clock.gate_slot >= last:
        return clock
    first = book.first_end_slot(matching.state)
    while first is not None and first <= last:
        if not _expire(matching, first, min(last, first + SLOTS_PER_DAY), slot_start_ms(last)):
            return replace(clock, cleared_territory="")
        following = book.first_end_slot(matching.state)
        if following == first:
            break  # It ends within the last slot.
        first = following
    return replace(clock, gate_slot=last, cleared_territory="")


def _expire(matching: Matching, first_slot: int, last_slot: int, until_ms: int) -> bool:
    """Close orders that end in these slots and by until_ms; tells whether all of them."""
    most = matching.budget.affords(clocks.WORK_EXPIRY)
    ended = book.ended(matching.state, range(first_slot, last_slot + 1), until_ms, most + 1)
    for _, order_id in ended[:most]:
        matching.expire(order_id)
    matching.budget.spend(clocks.WORK_EXPIRY * min(most, len(ended)))
    return len(ended) <= most


def _settle_slots(
    state: Overlay,
    clock: MarketClock,
    market: MarketParameters,
    budget: Budget,
    territories: Callable[[], Mapping[str, str]],
    readings: Readings,
) -> tuple[MarketClock, list[TradingEvent]]:
    """Settle slots whose deadline has passed and report days that end with one."""
    events: list[TradingEvent] = []
    days = 0
    while clock.settled_slot < clock.due_slot and days < reports.MAX_DAYS_CLOSED:
        if budget.is_spent:
            break
        slot = clock.settled_slot + 1
        budget.spend(clocks.WORK_SLOT)
        told, is_done = settlement.settle_deadline(
            state, slot, market=market, budget=budget, readings=readings
        )
        events += told
        if not is_done:
            break
        clock = clocks.settled(clock, slot)
        if reports.day_of(slot + 1) > reports.day_of(slot):
            events += reports.close_day(state, reports.day_of(slot), territories(), budget)
            days += 1
    return clock, events
