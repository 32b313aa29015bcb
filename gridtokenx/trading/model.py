"""The nouns of trading: orders, trades, parameters, and what the auction takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, NamedTuple

from gridtokenx.primitives.codec import MAX_INT, Bytes32, Limit, wire
from gridtokenx.primitives.quantities import BPS, slot_start_ms
from gridtokenx.primitives.state import Table
from gridtokenx.primitives.types import Address
from gridtokenx.trading.clock_model import GatesMissed

MAX_OPEN_ORDERS = 1000  # Of one account, whatever is voted.
MAX_FLAGGED = 1_000_000  # Orders that one clearing names as congested: more than can be cleared.


class Side(IntEnum):
    """Which side of the book an order stands on."""

    BUY = 1
    SELL = 2


class Source(StrEnum):
    """What energy is made from; a buy order may also wish for ANY or RENEWABLE.

    Source: protocols/market.md 1, 2.
    """

    ANY = "any"  # Buy orders only.
    RENEWABLE = "renewable"  # Buy orders only.
    SOLAR = "solar"
    WIND = "wind"
    HYDRO = "hydro"
    BIOMASS = "biomass"
    GEOTHERMAL = "geothermal"
    NATURAL_GAS = "natural_gas"
    COAL = "coal"

    @property
    def is_renewable(self) -> bool:
        """Whether a seller of this source serves a buyer who asks for renewable energy."""
        return self in RENEWABLE_SOURCES


RENEWABLE_SOURCES = (
    Source.SOLAR,
    Source.WIND,
    Source.HYDRO,
    Source.BIOMASS,
    Source.GEOTHERMAL,
)


class ClearingOrder(NamedTuple):
    """One resting order as the auction sees it, for one slot.

    A tuple, because a deep book makes thousands of them in a block: a frozen dataclass takes four
    times as long.
    Units: energy_wh is what may still trade in this slot; limit_mthb is mTHB/kWh (a seller's
    least energy price, a buyer's most paid all-in); location is a substation, `BKK-01-SUB001`;
    height is the block that included the order. A sell order's source is its meter's.
    Source: protocols/market.md 2, 3.
    """

    id: bytes
    owner: bytes
    side: Side
    energy_wh: int
    limit_mthb: int
    location: str
    source: Source
    require: bool
    height: int


CARRIED_IN_A_ROW = 250
MAX_TRADED_LOADS = 1_000


@wire(154)
@dataclass(frozen=True, slots=True)
class Fill:
    """A quantity that one buyer takes from one seller.

    Units: energy_wh in Wh; price_mthb and wheeling_mthb in mTHB/kWh (the buyer pays both);
    tier 0 substation, 1 zone, 2 territory, 3 national; source is the seller's.
    """

    buy_id: Bytes32
    sell_id: Bytes32
    energy_wh: int
    price_mthb: int
    wheeling_mthb: int
    tier: int
    source: Source


@wire(155)
@dataclass(frozen=True, slots=True)
class CarriedOver:
    """What a clearing's block could not carry out any more; the next blocks do, before they clear
    anything: rows of fills, then rows of immediate-or-cancel orders that leave.
    """

    slot: int
    fills: Annotated[tuple[Fill, ...], Limit(0, CARRIED_IN_A_ROW)]
    immediates: Annotated[tuple[Bytes32, ...], Limit(0, CARRIED_IN_A_ROW)] = ()


@dataclass(frozen=True, slots=True)
class Clearing:
    """The auction's result for one slot.

    prices holds (tier, group, mTHB/kWh) where something traded; congested the ids of the orders
    that a grid limit kept from trading, in ascending order.
    """

    fills: tuple[Fill, ...]
    prices: tuple[tuple[int, str, int], ...]
    congested: tuple[bytes, ...]


class TimeInForce(StrEnum):
    """How long the rest of an order stays: until it ends, or only for its first clearing."""

    GOOD_TILL_CANCELLED = "gtc"
    IMMEDIATE_OR_CANCEL = "ioc"


class MatchingMode(StrEnum):
    """When a slot is cleared: once at gate closure, or in each block that finds it touched too."""

    BLOCK = "block"
    GATE = "gate"


class OrderStatus(StrEnum):
    """How an order left the book."""

    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@wire(120)
@dataclass(frozen=True, slots=True)
class CarbonRate:
    """Platform credits per produced energy, in milli-credit/kWh (= micro-credit/Wh)."""

    source: Source
    mcr_per_kwh: int


CARBON_RATES = (
    CarbonRate(Source.SOLAR, 500),
    CarbonRate(Source.WIND, 600),
    CarbonRate(Source.HYDRO, 400),
    CarbonRate(Source.BIOMASS, 300),
    CarbonRate(Source.GEOTHERMAL, 700),
)


@wire(121)
@dataclass(frozen=True, slots=True)
class MarketParameters:
    """Every number of the market that governance may change, with its value at the start.

    Prices in mTHB/kWh, rates in basis points, energy in Wh; wheeling_mthb by tier (substation,
    zone, territory, national); peak hours are Bangkok working days, start <= hour < end; holidays
    are Bangkok days since 1970-01-01 without a peak; vat_bps holds before vat_end_ms (0: without
    end) and vat_after_bps from then on; transmission_mthb is the transmission operator's part of
    national wheeling; frequencies in millihertz; deposit_limit_uthb is the most baht that comes to
    a chain in one Bangkok day.
    Source: protocols/market.md 1, 2, 3, 4.
    """

    wheeling_mthb: Annotated[tuple[int, ...], Limit(4, 4)] = (300, 600, 900, 1151)
    max_trade_tier: Annotated[int, Limit(0, 3)] = 2
    vat_bps: Annotated[int, Limit(0, BPS)] = 700
    fee_bps: Annotated[int, Limit(0, BPS)] = 25
    authority_fee_share_bps: Annotated[int, Limit(0, BPS)] = 8000
    shortfall_penalty_mthb: int = 1000
    min_price_mthb: int = 1000
    max_price_mthb: int = 10_000
    peak_multiplier_bps: Annotated[int, Limit(BPS, 10 * BPS)] = 15_000
    peak_start_hour: Annotated[int, Limit(0, 24)] = 18
    peak_end_hour: Annotated[int, Limit(0, 24)] = 22
    holidays: Annotated[tuple[int, ...], Limit(0, 400)] = ()
    matching_mode: MatchingMode = MatchingMode.GATE
    min_order_wh: int = 100
    max_order_wh: int = 10_000_000
    dust_wh: int = 100
    open_slots: Annotated[int, Limit(1, 96)] = 96
    max_open_orders: Annotated[int, Limit(1, MAX_OPEN_ORDERS)] = 100
    reading_deadline_slots: Annotated[int, Limit(1, 672)] = 4
    carbon_rates: Annotated[tuple[CarbonRate, ...], Limit(0, 16)] = CARBON_RATES
    vat_end_ms: int = 0
    vat_after_bps: Annotated[int, Limit(0, BPS)] = 1000
    transmission_mthb: int = 251
    buyback_mthb: int = 2200
    redemptions_per_block: Annotated[int, Limit(1, 10_000)] = 500
    grid_alert_bps: Annotated[int, Limit(0, 10 * BPS)] = 8000
    grid_congested_bps: Annotated[int, Limit(1, 10 * BPS)] = BPS
    grid_stale_slots: Annotated[int, Limit(0, 96)] = 2
    grid_stale_rating_bps: Annotated[int, Limit(0, BPS)] = 5000
    frequency_min_mhz: int = 49_500
    frequency_max_mhz: int = 50_500
    deposit_limit_uthb: int = 10**15

    def vat_bps_in(self, slot: int) -> int:
        """The VAT rate of energy delivered in a slot: the reduced rate ends at `vat_end_ms`."""
        over = 0 < self.vat_end_ms <= slot_start_ms(slot)
        return self.vat_after_bps if over else self.vat_bps

    def carbon_mcr_per_kwh(self, source: str) -> int:
        """Credits of a source in milli-credit/kWh (= micro-credit/Wh); 0 for the others."""
        for rate in self.carbon_rates:
            if rate.source == source:
                return rate.mcr_per_kwh
        return 0


@dataclass(frozen=True, slots=True)
class TraderFacts:
    """What trading must know of a participant."""

    active: bool
    licence_expiry_ms: int
    vat_registered: bool
    daily_cap_wh: int


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What trading must know of a meter; source is the plant's ("none" without one); `is_local`: it
    stands in the territory in which its owner is registered.
    """

    owner: bytes
    location: str
    source: str
    nameplate_import_w: int
    nameplate_export_w: int
    is_local: bool = True


@wire(122)
@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """Command: buy or sell energy at a meter in each of the slots first_slot..last_slot.

    limit_mthb: a seller's least energy price, a buyer's most paid all-in before VAT, mTHB/kWh.
    energy_wh is the total over all slots, max_wh_per_slot what one slot may take of it.
    source: a seller's plant; a buyer's wish, a hard filter when `require`.
    """

    side: Side
    energy_wh: int
    limit_mthb: int
    location: Annotated[str, Limit(1, 32)]
    meter_id: Bytes32
    source: Source
    require: bool
    first_slot: int
    last_slot: int
    max_wh_per_slot: int
    time_in_force: TimeInForce
    expires_ms: int


@wire(123)
@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Command: take the rest of an own order off the book."""

    order_id: Bytes32


# An order reaches 96 slots at most; what a meter traded, two days from where the first began.
FilledWh = Annotated[tuple[int, ...], Limit(0, 256)]


@wire(125)
@dataclass(frozen=True, slots=True)
class Order:
    """An open order. Its id is that of the transaction that placed it.

    `reserve_uthb` is the escrow (buy) or bond (sell) that still stands behind `rest_wh`; the rates
    in force when it was placed stay with it, so that its escrow always covers its trades: vat_bps
    is the highest in any of its slots. `filled_wh` is what traded in its first slot and those
    after it, as far as it has traded.
    """

    id: Bytes32
    owner: Address
    terms: PlaceOrder
    height: int
    placed_ms: int
    vat_bps: int
    penalty_mthb: int
    vat_registered: bool
    rest_wh: int
    reserve_uthb: int
    filled_wh: FilledWh
    congested: bool
    is_local: bool = True

    def filled_in(self, slot: int) -> int:
        """Wh that traded in `slot`."""
        place = slot - self.terms.first_slot
        return self.filled_wh[place] if 0 <= place < len(self.filled_wh) else 0

    def with_fill(self, slot: int, energy_wh: int) -> tuple[int, ...]:
        """`filled_wh` with more of it in `slot`, which is one of the order's."""
        place, filled = slot - self.terms.first_slot, list(self.filled_wh)
        filled += [0] * (place + 1 - len(filled))
        filled[place] += energy_wh
        return tuple(filled)


@wire(126)
@dataclass(frozen=True, slots=True)
class OpenOrder:
    """One line of an account's list of open orders.

    `max_wh_per_slot` is what it may trade in each of its slots, traded and open together.
    """

    order_id: Bytes32
    first_slot: int
    last_slot: int
    meter_id: Bytes32
    max_wh_per_slot: int


@wire(149)
@dataclass(frozen=True, slots=True)
class TradedLoad:
    """What a meter has traded on one side, by orders that have left the book, in `first_slot` and
    those after it.
    """

    meter_id: Bytes32
    side: Side
    first_slot: int
    filled_wh: FilledWh


@wire(127)
@dataclass(frozen=True, slots=True)
class Trader:
    """An account's open orders by side, what it ordered on one Bangkok day (daily cap), and what
    its closed orders have traded in slots to come (a meter's nameplate).
    """

    buys: Annotated[tuple[OpenOrder, ...], Limit(0, MAX_OPEN_ORDERS)] = ()
    sells: Annotated[tuple[OpenOrder, ...], Limit(0, MAX_OPEN_ORDERS)] = ()
    day: int = 0
    ordered_wh: int = 0
    traded: Annotated[tuple[TradedLoad, ...], Limit(0, MAX_TRADED_LOADS)] = ()


@wire(128)
@dataclass(frozen=True, slots=True)
class Mark:
    """An index entry: all it says is in its key."""


@wire(129)
@dataclass(frozen=True, slots=True)
class Trade:
    """A matched quantity that waits for the seller's reading.

    escrow_uthb and bond_uthb are the shares of the two orders' reserves that moved into it;
    territory is the buyer's, whose distributor is paid the wheeling; `is_local`: the energy is
    metered where the buyer is registered.
    """

    id: Bytes32
    slot: int
    buy_id: Bytes32
    sell_id: Bytes32
    buyer: Address
    seller: Address
    buyer_meter: Bytes32
    seller_meter: Bytes32
    energy_wh: int
    price_mthb: int
    wheeling_mthb: int
    tier: int
    territory: str
    source: Source
    escrow_uthb: int
    bond_uthb: int
    vat_bps: int
    vat_on_energy: bool
    fee_bps: int
    penalty_mthb: int
    transmission_mthb: int = 0  # The transmission operator's part of wheeling_mthb.
    is_local: bool = True


@wire(130)
@dataclass(frozen=True, slots=True)
class Position:
    """What one meter has traded in one slot, until the slot's reading deadline.

    sales counts its trades as a seller (their keys end in 0..sales-1) and sold_wh sums them;
    received_wh has been delivered to it, local_wh of that from its own territory, and burned_wh is
    consumed; `read` tells whether its reading is in, with import_wh as the consumption that it
    showed; then its sales are settled too; territory is the prefix of its location.
    """

    owner: Address
    sales: int = 0
    sold_wh: int = 0
    received_wh: int = 0
    burned_wh: int = 0
    read: bool = False
    import_wh: int = 0
    territory: str = ""
    local_wh: int = 0


@wire(132)
@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """Event: the order rests in the book; reserve_uthb is its escrow or bond."""

    order_id: Bytes32
    owner: Address
    terms: PlaceOrder
    reserve_uthb: int


@wire(133)
@dataclass(frozen=True, slots=True)
class OrderClosed:
    """Event: the order left the book with rest_wh untraded; refund_uthb is what stood behind it."""

    order_id: Bytes32
    owner: Address
    status: OrderStatus
    rest_wh: int
    refund_uthb: int


@wire(134)
@dataclass(frozen=True, slots=True)
class TradeMatched:
    """Event: a buyer and a seller were matched for a slot."""

    trade: Trade


@wire(135)
@dataclass(frozen=True, slots=True)
class GroupPrice:
    """The uniform price (mTHB/kWh) of one group in one tier."""

    tier: int
    group: str
    price_mthb: int


@wire(136)
@dataclass(frozen=True, slots=True)
class SlotCleared:
    """Event: a slot's auction in a territory traded, or met a grid limit (see `congested`)."""

    slot: int
    territory: str
    traded_wh: int
    prices: tuple[GroupPrice, ...]
    congested: Annotated[tuple[Bytes32, ...], Limit(0, MAX_FLAGGED)]


@wire(137)
@dataclass(frozen=True, slots=True)
class TradeSettled:
    """Event: a trade's money and energy moved. Amounts in uTHB sum to its escrow plus its bond.

    seller_uthb is energy_uthb less fee_uthb; penalty_uthb goes from the bond to the buyer;
    transmission_uthb is the part of wheeling_uthb that goes to the transmission operator.
    """

    trade_id: Bytes32
    slot: int
    territory: str
    tier: int
    source: Source
    buyer: Address
    seller: Address
    traded_wh: int
    delivered_wh: int
    price_mthb: int
    energy_uthb: int
    seller_uthb: int
    wheeling_uthb: int
    vat_uthb: int
    fee_uthb: int
    penalty_uthb: int
    refund_uthb: int
    bond_back_uthb: int
    carbon_ucr: int
    transmission_uthb: int = 0


@wire(138)
@dataclass(frozen=True, slots=True)
class EnergyConsumed:
    """Event: energy bought for a meter and slot was burned because the meter took it in."""

    meter_id: Bytes32
    owner: Address
    slot: int
    energy_wh: int


@wire(139)
@dataclass(frozen=True, slots=True)
class Redeem:
    """Command: sell own unused energy to the utility of one's territory at the buyback price."""

    energy_wh: Annotated[int, Limit(1, MAX_INT)]


@wire(140)
@dataclass(frozen=True, slots=True)
class EnergyRedeemed:
    """Event: a utility took over unused energy; `at_month_end` when nobody asked for it."""

    owner: Address
    utility: Address
    territory: str
    energy_wh: int
    paid_uthb: int
    at_month_end: bool


@wire(141)
@dataclass(frozen=True, slots=True)
class MonthEnd:
    """How far the month-end redemption has come: participants `next_number`..`stop_number` - 1.

    `month` counts Bangkok months since January 1970.
    """

    month: int
    next_number: int
    stop_number: int


@wire(142)
@dataclass(frozen=True, slots=True)
class NodeFlow:
    """Energy sold over one grid node for one slot: out of it, into it, and inside it (Wh)."""

    export_wh: int = 0
    import_wh: int = 0
    local_wh: int = 0


@wire(147)
@dataclass(frozen=True, slots=True)
class ReportClosed:
    """Event: a day's report is final; its hash is `reports.report_hash` of it."""

    territory: str
    day: int
    report_hash: Bytes32


@wire(148)
@dataclass(frozen=True, slots=True)
class LastPrice:
    """The newest price of a group in a tier (mTHB/kWh), and the slot it is for."""

    slot: int
    price_mthb: int


TradingCommand = PlaceOrder | CancelOrder | Redeem
TradingEvent = (
    OrderPlaced
    | OrderClosed
    | TradeMatched
    | SlotCleared
    | TradeSettled
    | EnergyConsumed
    | EnergyRedeemed
    | ReportClosed
    | GatesMissed
)

MARKET_PARAMETERS = Table(b"tp", MarketParameters)  # key: b""
ORDERS = Table(b"to", Order)  # key: order id; open orders only
TRADERS = Table(b"ta", Trader)  # key: 32-byte address
TRADES = Table(b"td", Trade)  # key: slot u64, seller's meter, number u64; unsettled trades only
POSITIONS = Table(b"ts", Position)  # key: slot u64, meter id
CARRIED_OVER = Table(b"tv", CarriedOver)  # key: number u64, from 0 for each clearing
FLOWS = Table(b"tf", NodeFlow)  # key: slot u64, node text; kept for a day
LAST_PRICES = Table(b"tl", LastPrice)  # key: tier u8, group text
MONTH_END = Table(b"tm", MonthEnd)  # key: b""
# Indexes; how their keys are made is told in trading/book.py.
TOUCHED = Table(b"tt", Mark)
EXPIRIES = Table(b"te", Mark)
IMMEDIATES = Table(b"ti", Mark)
CONGESTED = Table(b"tg", Mark)
