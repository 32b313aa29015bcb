"""What an order would cost or earn, told before it is signed.

All money comes from `settlement.charges`, as in settlement itself.
Source: protocols/market.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridtokenx.primitives.state import Reader
from gridtokenx.trading.book import last_price_key
from gridtokenx.trading.fronts import groups_of
from gridtokenx.trading.model import LAST_PRICES, MarketParameters, Side, Source
from gridtokenx.trading.settlement import Charges, charges, escrow_needed


@dataclass(frozen=True, slots=True)
class Wish:
    """An order for delivery in one slot, as it would be. Units: Wh, mTHB/kWh.

    `source` is the seller's plant or the buyer's wish, which `require` makes a condition;
    `vat_registered` is the seller's; `owner` is None where nobody in particular asks.
    """

    side: Side
    energy_wh: int
    limit_mthb: int
    location: str
    slot: int
    source: Source = Source.ANY
    require: bool = False
    vat_registered: bool = False
    owner: bytes | None = None


@dataclass(frozen=True, slots=True)
class LastTrade:
    """The newest price near a location: its tier (0 nearest), group, wheeling, and the slot."""

    tier: int
    group: str
    slot: int
    price_mthb: int
    wheeling_mthb: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What would be set aside, and the charges at worst and at the last price.

    `worst` is for a whole delivery at the order's limit: a buyer pays `worst.buyer_uthb` at most
    (it is the escrow: energy of a VAT-registered seller over the cheapest tier), a seller gets
    `worst.seller_uthb` at least for what it delivers, and loses `reserve_uthb` at most.
    `at_last_price` is None without a last price, or when that price does not meet the limit.
    """

    reserve_uthb: int
    worst: Charges
    last: LastTrade | None
    at_last_price: Charges | None


def quote(state: Reader, market: MarketParameters, wish: Wish) -> Quote:
    """Quote an order; the caller checks that it would be admitted.

    A buyer's seller is not known: the worst has VAT on energy, the last price has not.
    """
    side, limit_mthb = wish.side, wish.limit_mthb
    buying = side is Side.BUY
    cheapest_mthb = min(market.wheeling_mthb[: market.max_trade_tier + 1])
    if buying:
        wheeling_mthb = min(cheapest_mthb, limit_mthb)
        worst_price_mthb = limit_mthb - wheeling_mthb
    else:
        wheeling_mthb, worst_price_mthb = cheapest_mthb, limit_mthb

    def whole(price_mthb: int, wheeling_mthb: int, vat_on_energy: bool) -> Charges:
        return charges_of_delivery(
            market,
            energy_wh=wish.energy_wh,
            price_mthb=price_mthb,
            wheeling_mthb=wheeling_mthb,
            slot=wish.slot,
            source=wish.source,
            vat_on_energy=vat_on_energy,
        )

    last = last_trade(state, market, wish.location)
    at_last_price = None
    if last is not None:
        paid_mthb = last.price_mthb + last.wheeling_mthb
        meets = paid_mthb <= limit_mthb if buying else last.price_mthb >= limit_mthb
        if meets:
            at_last_price = whole(last.price_mthb, last.wheeling_mthb, wish.vat_registered)
    return Quote(
        reserve_uthb=escrow_needed(wish.energy_wh, limit_mthb, market.vat_bps_in(wish.slot))
        if buying
        else wish.energy_wh * market.shortfall_penalty_mthb,
        worst=whole(worst_price_mthb, wheeling_mthb, buying or wish.vat_registered),
        last=last,
        at_last_price=at_last_price,
    )


def charges_of_delivery(
    market: MarketParameters,
    *,
    energy_wh: int,
    price_mthb: int,
    wheeling_mthb: int,
    slot: int,
    source: Source,
    vat_on_energy: bool,
) -> Charges:
    """What a whole delivery costs and pays at a price; the refund is 0 up to rounding."""
    vat_bps = market.vat_bps_in(slot)
    return charges(
        energy_wh=energy_wh,
        delivered_wh=energy_wh,
        price_mthb=price_mthb,
        wheeling_mthb=wheeling_mthb,
        escrow_uthb=escrow_needed(energy_wh, price_mthb + wheeling_mthb, vat_bps),
        bond_uthb=energy_wh * market.shortfall_penalty_mthb,
        vat_bps=vat_bps,
        vat_on_energy=vat_on_energy,
        fee_bps=market.fee_bps,
        penalty_mthb=market.shortfall_penalty_mthb,
        carbon_mcr_per_kwh=market.carbon_mcr_per_kwh(source),
    )


def last_trade(state: Reader, market: MarketParameters, location: str) -> LastTrade | None:
    """The price for the latest slot that an order at a location could have met, nearest first."""
    newest: LastTrade | None = None
    for tier, group in enumerate(groups_of(location)[: market.max_trade_tier + 1]):
        found = LAST_PRICES.get(state, last_price_key(tier, group))
        if found is not None and (newest is None or found.slot > newest.slot):
            wheeling_mthb = market.wheeling_mthb[tier]
            newest = LastTrade(tier, group, found.slot, found.price_mthb, wheeling_mthb)
    return newest
