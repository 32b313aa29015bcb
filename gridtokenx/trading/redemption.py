"""Redemption: the utility takes over unused energy at the buyback price (net billing).

Only what was metered in the participant's own territory, for its utility has nothing of the rest.
On demand, and for everybody once a Bangkok month has ended and its last reading deadline has
passed; a block visits a bounded number of participants. Source: protocols/market.md 4.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import local_month, slot_start_ms
from gridtokenx.primitives.state import Overlay
from gridtokenx.primitives.types import format_address
from gridtokenx.trading import reports
from gridtokenx.trading.clock import WORK_REDEMPTION, Budget
from gridtokenx.trading.model import (
    MONTH_END,
    EnergyRedeemed,
    MarketParameters,
    MonthEnd,
    Redeem,
    TradingEvent,
)


@dataclass(frozen=True, slots=True)
class Customer:
    """A participant, its territory prefix, and the account of the utility that buys from it, which
    buys nothing from one that is suspended (not active)."""

    owner: bytes
    territory: str
    utility: bytes
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Customers:
    """All participants ever registered, by number from 0."""

    count: int
    customer: Callable[[int], Customer]


def redeem(
    state: Overlay, command: Redeem, *, customer: Customer, market: MarketParameters, now_ms: int
) -> list[TradingEvent]:
    """Sell unused energy to the utility.

    Units: energy in Wh; buyback in mTHB/kWh. Effects: the energy is burned, the utility pays out of
    its own balance. Errors: NOT_ACTIVE for a suspended participant; INSUFFICIENT_BALANCE of energy
    metered in its own territory, or of the utility's baht. Source: protocols/market.md 4.4.
    """
    if not customer.is_active:
        detail = f"{format_address(customer.owner)} is suspended; its energy stays its own"
        raise Rejected(ErrorCode.NOT_ACTIVE, detail)
    return [_take_over(state, customer, command.energy_wh, market, now_ms, at_month_end=False)]


def redeem_month_end(
    state: Overlay,
    *,
    customers: Customers,
    market: MarketParameters,
    now_ms: int,
    settled_slot: int,
    budget: Budget,
) -> list[TradingEvent]:
    """Go on with the last month's redemption: the next participants, as many as a block may visit.

    A month has ended once its last slot is settled. A utility that cannot pay for all takes over
    what it can pay for; the rest stays with its owner.
    """
    settled_month = local_month(slot_start_ms(settled_slot + 1))
    progress = MONTH_END.get(state, b"")
    if progress is None:
        MONTH_END.put(state, b"", MonthEnd(settled_month, 0, 0))
        return []
    if progress.next_number >= progress.stop_number:
        if settled_month <= progress.month:
            return []
        progress = MonthEnd(settled_month, 0, customers.count)
    most = min(market.redemptions_per_block, budget.affords(WORK_REDEMPTION))
    stop = min(progress.stop_number, progress.next_number + most)
    budget.spend((stop - progress.next_number) * WORK_REDEMPTION)
    events: list[TradingEvent] = []
    for number in range(progress.next_number, stop):
        customer = customers.customer(number)
        energy_wh = _affordable_wh(state, customer, market)
        if energy_wh:
            event = _take_over(state, customer, energy_wh, market, now_ms, at_month_end=True)
            events.append(event)
    MONTH_END.put(state, b"", MonthEnd(progress.month, stop, progress.stop_number))
    return events


def _affordable_wh(state: Overlay, customer: Customer, market: MarketParameters) -> int:
    if not market.buyback_mthb:
        return 0  # Giving energy away is for its owner to decide.
    local_wh = ledger.account(state, customer.owner).local_wh
    if customer.owner == customer.utility or not customer.is_active or not local_wh:
        return 0
    return min(local_wh, ledger.account(state, customer.utility).thb_uthb // market.buyback_mthb)


def _take_over(
    state: Overlay,
    customer: Customer,
    energy_wh: int,
    market: MarketParameters,
    now_ms: int,
    *,
    at_month_end: bool,
) -> EnergyRedeemed:
    paid_uthb = energy_wh * market.buyback_mthb
    ledger.burn_local_energy(state, customer.owner, energy_wh)
    ledger.move(state, Asset.THB, customer.utility, customer.owner, paid_uthb)
    reports.add_redemption(
        state, territory=customer.territory, now_ms=now_ms, energy_wh=energy_wh, paid_uthb=paid_uthb
    )
    return EnergyRedeemed(
        customer.owner, customer.utility, customer.territory, energy_wh, paid_uthb, at_month_end
    )
