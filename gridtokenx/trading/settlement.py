"""Settlement: what a trade's escrow and bond become once the seller's meter has been read.

`charges` is the one place where money is worked out: quotes, matching and the ledger use it, so no
two of them can disagree. Source: protocols/market.md 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import TAX, TREASURY
from gridtokenx.primitives.quantities import gross_up, share_half_up
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.trading import reports
from gridtokenx.trading.clock import WORK_POSITION, WORK_SETTLEMENT, Budget
from gridtokenx.trading.clock_model import CLOCK, IMPORTS, ImportBalance, MarketClock
from gridtokenx.trading.model import (
    POSITIONS,
    TRADES,
    EnergyConsumed,
    MarketParameters,
    Position,
    Trade,
    TradeSettled,
    TradingEvent,
)

_NOTHING_OWED = ImportBalance()


@dataclass(frozen=True, slots=True)
class Charges:
    """A trade's money in uTHB and credits in micro-credits.

    energy + wheeling + vat + refund = escrow; penalty + bond_back = bond; the seller receives
    energy - fee + bond_back, the buyer refund + penalty; transmission is a part of wheeling.
    """

    energy_uthb: int
    wheeling_uthb: int
    transmission_uthb: int
    vat_uthb: int
    fee_uthb: int
    refund_uthb: int
    penalty_uthb: int
    bond_back_uthb: int
    carbon_ucr: int

    @property
    def buyer_uthb(self) -> int:
        """What the buyer pays in all: energy, wheeling, VAT."""
        return self.energy_uthb + self.wheeling_uthb + self.vat_uthb

    @property
    def seller_uthb(self) -> int:
        """What the seller is paid for energy, after the trade fee."""
        return self.energy_uthb - self.fee_uthb


@dataclass(frozen=True, slots=True)
class Payees:
    """Accounts of those who are paid beside the traders: the distributor of a territory prefix, the
    organisation that proposed the block, and the transmission operator (None: the distributor)."""

    distributor_of: Callable[[str], bytes]
    authority: bytes
    transmission: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReadingFacts:
    """What trading must know of an accepted reading.

    Wh since the reading `slots` slots before; deliverable_wh is the part of the export that serves
    what was sold in this slot; territory is the prefix of the meter's location, source its plant
    ("none" without); `is_local`: it stands where its owner is registered.
    """

    meter_id: bytes
    slot: int
    slots: int
    territory: str
    source: str
    import_wh: int
    export_wh: int
    deliverable_wh: int
    carbon_ucr: int
    is_local: bool = True


@dataclass(frozen=True, slots=True)
class Readings:
    """What trading asks of a meter's readings: the slot of the last one, and the first slot that
    they can tell of. What the meter counted before that is nobody's."""

    to: Callable[[bytes], int]
    since: Callable[[bytes], int]


def charges(
    *,
    energy_wh: int,
    delivered_wh: int,
    price_mthb: int,
    wheeling_mthb: int,
    escrow_uthb: int,
    bond_uthb: int,
    vat_bps: int,
    vat_on_energy: bool,
    fee_bps: int,
    penalty_mthb: int,
    carbon_mcr_per_kwh: int,
    transmission_mthb: int = 0,
) -> Charges:
    """Split one trade's escrow and bond for `delivered_wh` <= `energy_wh`.

    Units: Wh, mTHB/kWh, uTHB (Wh x mTHB/kWh = uTHB), basis points, milli-credit/kWh.
    VAT is on the wheeling, and on the energy of a VAT-registered seller, rounded half up once on
    their sum. An order filled in parts at its very limit can leave a trade 1 uTHB short of that
    rounding; then VAT is what the escrow still holds.
    Source: protocols/market.md 4 (vectors V1 settlement, V9, V12).
    """
    energy_uthb = delivered_wh * price_mthb
    wheeling_uthb = delivered_wh * wheeling_mthb
    taxed_uthb = wheeling_uthb + (energy_uthb if vat_on_energy else 0)
    left_uthb = escrow_uthb - energy_uthb - wheeling_uthb
    vat_uthb = min(share_half_up(taxed_uthb, vat_bps), left_uthb)
    penalty_uthb = (energy_wh - delivered_wh) * penalty_mthb
    if left_uthb < 0 or not 0 <= delivered_wh <= energy_wh or penalty_uthb > bond_uthb:
        raise ArithmeticError(
            f"{delivered_wh} of {energy_wh} Wh at {price_mthb} + {wheeling_mthb} mTHB/kWh is not "
            f"covered by {escrow_uthb} uTHB of escrow and {bond_uthb} uTHB of bond"
        )
    return Charges(
        energy_uthb=energy_uthb,
        wheeling_uthb=wheeling_uthb,
        transmission_uthb=delivered_wh * min(transmission_mthb, wheeling_mthb),
        vat_uthb=vat_uthb,
        fee_uthb=share_half_up(energy_uthb, fee_bps),
        refund_uthb=left_uthb - vat_uthb,
        penalty_uthb=penalty_uthb,
        bond_back_uthb=bond_uthb - penalty_uthb,
        carbon_ucr=delivered_wh * carbon_mcr_per_kwh,
    )


def escrow_needed(energy_wh: int, limit_mthb: int, vat_bps: int) -> int:
    """uTHB that cover a buy order in full: ceil(energy x limit x (1 + VAT))."""
    return gross_up(energy_wh * limit_mthb, vat_bps)


def delivered_by_trade(sold_wh: Sequence[int], exported_wh: int) -> list[int]:
    """Share a seller's export among its trades of a slot: pro rata, rest 1 Wh each in trade order.

    Source: protocols/market.md 4.2 (vector V9).
    """
    total_wh = sum(sold_wh)
    if exported_wh >= total_wh:
        return list(sold_wh)
    shares = [wh * exported_wh // total_wh for wh in sold_wh]
    for index in range(exported_wh - sum(shares)):
        shares[index] += 1
    return shares


def settle_reading(
    state: Overlay, reading: ReadingFacts, *, market: MarketParameters, payees: Payees
) -> list[TradingEvent]:
    """Settle a meter's sales of a slot and burn what it consumed of its purchases.

    Effects: the meter's trades of the slot leave TRADES and their money moves; purchases held until
    this reading are burned up to its import and the rest is the owner's to spend; the territory's
    report gains the reading. One over several slots, or after the deadline, settles nothing: what
    was sold and bought then is settled at its deadline.
    Source: protocols/market.md 4.3.
    """
    meter_id, slot = reading.meter_id, reading.slot
    clock = CLOCK.get(state, b"")
    reports.add_reading(
        state,
        territory=reading.territory,
        day=reports.day_of(slot if clock is None else max(slot, clock.settled_slot + 1)),
        import_wh=reading.import_wh,
        export_wh=reading.export_wh,
        source=reading.source,
        carbon_ucr=reading.carbon_ucr,
    )
    consumed_wh = _unburned_import(state, reading, clock)
    key = u64(slot) + meter_id
    position = POSITIONS.get(state, key)
    if position is None or reading.slots > 1 or _is_late(slot, clock):
        return []
    burned_wh = min(consumed_wh, position.received_wh)
    _release(state, position, position.received_wh - burned_wh)
    events = _consume(state, meter_id, slot, position, burned_wh)
    read = replace(position, read=True, import_wh=consumed_wh, burned_wh=burned_wh, local_wh=0)
    POSITIONS.put(state, key, read)
    trades = _take_sales(state, slot, meter_id, position.sales)
    shares = delivered_by_trade([trade.energy_wh for trade in trades], reading.deliverable_wh)
    for trade, delivered_wh in zip(trades, shares, strict=True):
        events += _settle_trade(state, trade, delivered_wh, market, payees, reading.is_local)
    return events


def _unburned_import(state: Overlay, reading: ReadingFacts, clock: MarketClock | None) -> int:
    """Wh of a reading's import that no assumed consumption has burned yet.

    Where no slot of its own can burn it, it is kept for those that are not settled yet.
    """
    balance = IMPORTS.get(state, reading.meter_id) or _NOTHING_OWED
    covered_wh = min(balance.assumed_wh, reading.import_wh)
    left_wh = reading.import_wh - covered_wh
    is_over = clock is None or balance.loose_slot <= clock.settled_slot
    loose_wh, loose_slot = (0, 0) if is_over else (balance.loose_wh, balance.loose_slot)
    is_settled = clock is not None and reading.slot <= clock.settled_slot
    if not is_settled and (reading.slots > 1 or _is_late(reading.slot, clock)):
        loose_wh, loose_slot = loose_wh + left_wh, reading.slot
    _owe(
        state,
        reading.meter_id,
        balance,
        ImportBalance(balance.assumed_wh - covered_wh, loose_wh, loose_slot),
    )
    return left_wh


def _is_late(slot: int, clock: MarketClock | None) -> bool:
    return clock is not None and slot <= clock.due_slot


def _owe(state: Overlay, meter_id: bytes, before: ImportBalance, after: ImportBalance) -> None:
    """Keep what a meter's consumption and its purchases owe each other, where it is anything."""
    if after.assumed_wh or after.loose_wh:
        if after != before:
            IMPORTS.put(state, meter_id, after)
    elif before.assumed_wh or before.loose_wh:
        IMPORTS.delete(state, meter_id)


def settle_deadline(
    state: Overlay,
    slot: int,
    *,
    market: MarketParameters,
    budget: Budget,
    readings: Readings,
) -> tuple[list[TradingEvent], bool]:
    """Close a slot whose reading deadline has passed, as far as the budget goes.

    A seller without a reading of the slot delivered nothing. A buyer without any reading up to it
    consumed all that it received, for otherwise not reporting would turn consumed energy into
    tokens to spend; its next readings are not burned for that again. One whose reading covers
    several slots consumed what that showed.
    Returns the events and whether the slot is settled to its end.
    """
    events: list[TradingEvent] = []
    prefix = u64(slot)
    most = budget.affords(WORK_POSITION)
    rows = list(islice(POSITIONS.items(state, prefix), most + 1))
    for key, position in rows[:most]:
        meter_id = key[8:]
        budget.spend(WORK_POSITION)
        if not position.read:
            told, is_done = _settle_unread_sales(state, key, position.sales, market, budget)
            events += told
            if not is_done:
                return events, False
            events += _settle_unread_purchases(state, slot, meter_id, position, readings)
        POSITIONS.delete(state, key)
        if budget.is_spent:
            return events, False  # Perhaps it was the last one; the next block will see.
    return events, len(rows) <= most


def _settle_unread_sales(
    state: Overlay, key: bytes, sales: int, market: MarketParameters, budget: Budget
) -> tuple[list[TradingEvent], bool]:
    """Settle a meter's sales of a slot as not delivered; `key` is slot and meter."""
    events: list[TradingEvent] = []
    nobody = Payees(lambda _: TREASURY, TREASURY)  # Nothing delivered: no wheeling, no fee.
    for number in range(sales):
        trade = TRADES.get(state, key + u64(number))
        if trade is None:
            continue  # The block before came so far.
        if budget.is_spent:
            return events, False
        budget.spend(WORK_SETTLEMENT)
        TRADES.delete(state, key + u64(number))
        events += _settle_trade(state, trade, 0, market, nobody, False)
    return events, True


def _settle_unread_purchases(
    state: Overlay,
    slot: int,
    meter_id: bytes,
    position: Position,
    readings: Readings,
) -> list[TradingEvent]:
    received_wh = position.received_wh - position.burned_wh
    before = IMPORTS.get(state, meter_id) or _NOTHING_OWED
    if readings.since(meter_id) <= slot <= readings.to(meter_id):
        burned_wh = min(received_wh, before.loose_wh)
        _owe(state, meter_id, before, replace(before, loose_wh=before.loose_wh - burned_wh))
        _release(state, position, received_wh - burned_wh)
        events = _consume(state, meter_id, slot, position, burned_wh)
        reports.add_missing_reading(state, position.territory, slot, 0)
        return events
    if slot >= readings.since(meter_id):  # Else no reading to come will show it either.
        assumed_wh = before.assumed_wh + received_wh
        _owe(state, meter_id, before, replace(before, assumed_wh=assumed_wh))
    reports.add_missing_reading(state, position.territory, slot, received_wh)
    return _burn(state, meter_id, slot, position.owner, received_wh)


def forget_assumed(state: Overlay, meter_id: bytes) -> None:
    """Set nothing against a meter's next readings: they begin after what it is taken to have
    consumed."""
    before = IMPORTS.get(state, meter_id) or _NOTHING_OWED
    _owe(state, meter_id, before, replace(before, assumed_wh=0))


def _release(state: Overlay, position: Position, energy_wh: int) -> None:
    """Let a buyer spend what it was delivered and has not consumed; what was metered elsewhere
    counts as consumed first.
    """
    if energy_wh:
        local_wh = min(energy_wh, position.local_wh)
        ledger.adjust(
            state,
            position.owner,
            energy_held_wh=-energy_wh,
            energy_wh=energy_wh,
            local_wh=local_wh,
        )


def _consume(
    state: Overlay, meter_id: bytes, slot: int, position: Position, energy_wh: int
) -> list[TradingEvent]:
    if energy_wh:
        reports.add_consumption(state, position.territory, slot, energy_wh)
    return _burn(state, meter_id, slot, position.owner, energy_wh)


def _burn(
    state: Overlay, meter_id: bytes, slot: int, owner: bytes, energy_wh: int
) -> list[TradingEvent]:
    if not energy_wh:
        return []
    ledger.burn_held_energy(state, owner, energy_wh)
    return [EnergyConsumed(meter_id, owner, slot, energy_wh)]


def trade_key(slot: int, seller_meter: bytes, number: int) -> bytes:
    """Key of a meter's sale in TRADES, in trade order."""
    return u64(slot) + seller_meter + u64(number)


def _take_sales(state: Overlay, slot: int, meter_id: bytes, sales: int) -> list[Trade]:
    """A meter's sales of a slot, in trade order; they leave the state."""
    trades = []
    for number in range(sales):
        key = trade_key(slot, meter_id, number)
        trade = TRADES.get(state, key)
        if trade is None:
            raise LookupError(f"sale {number} of meter {meter_id.hex()} in slot {slot} is missing")
        TRADES.delete(state, key)
        trades.append(trade)
    return trades


def _settle_trade(
    state: Overlay,
    trade: Trade,
    delivered_wh: int,
    market: MarketParameters,
    payees: Payees,
    of_local: bool,
) -> list[TradingEvent]:
    """Move a trade's money and energy; `of_local`: the seller's meter stands where it is
    registered, so that what it delivers is no longer its own to redeem.
    """
    split = charges(
        energy_wh=trade.energy_wh,
        delivered_wh=delivered_wh,
        price_mthb=trade.price_mthb,
        wheeling_mthb=trade.wheeling_mthb,
        escrow_uthb=trade.escrow_uthb,
        bond_uthb=trade.bond_uthb,
        vat_bps=trade.vat_bps,
        vat_on_energy=trade.vat_on_energy,
        fee_bps=trade.fee_bps,
        penalty_mthb=trade.penalty_mthb,
        carbon_mcr_per_kwh=market.carbon_mcr_per_kwh(trade.source),
        transmission_mthb=trade.transmission_mthb,
    )
    _pay(state, trade, split, market, payees)
    settled = _settled(trade, delivered_wh, split)
    reports.add_trade(state, settled)
    events: list[TradingEvent] = [settled]
    if delivered_wh:
        ledger.adjust(
            state,
            trade.seller,
            energy_wh=-delivered_wh,
            carbon_ucr=-split.carbon_ucr,
            local_wh=-delivered_wh if of_local else 0,
        )
        ledger.adjust(state, trade.buyer, energy_held_wh=delivered_wh, carbon_ucr=split.carbon_ucr)
        events += _receive(state, trade, delivered_wh)
    return events


def _pay(
    state: Overlay, trade: Trade, split: Charges, market: MarketParameters, payees: Payees
) -> None:
    """Move the money; the parts are checked against escrow + bond before any moves."""
    to_buyer_uthb = split.refund_uthb + split.penalty_uthb
    to_seller_uthb = split.seller_uthb + split.bond_back_uthb
    paid_uthb = to_buyer_uthb + to_seller_uthb
    paid_uthb += split.wheeling_uthb + split.vat_uthb + split.fee_uthb
    if paid_uthb != trade.escrow_uthb + trade.bond_uthb:
        raise ArithmeticError(
            f"trade {trade.id.hex()} pays {paid_uthb} uTHB out of "
            f"{trade.escrow_uthb} of escrow and {trade.bond_uthb} of bond"
        )
    ledger.adjust(state, trade.buyer, escrow_uthb=-trade.escrow_uthb, thb_uthb=to_buyer_uthb)
    ledger.adjust(state, trade.seller, bond_uthb=-trade.bond_uthb, thb_uthb=to_seller_uthb)
    if split.wheeling_uthb:
        distributor = payees.distributor_of(trade.territory)
        transmission = payees.transmission or distributor
        ledger.adjust(state, transmission, thb_uthb=split.transmission_uthb)
        own_uthb = split.wheeling_uthb - split.transmission_uthb
        ledger.adjust(state, distributor, thb_uthb=own_uthb)
    if split.vat_uthb:
        ledger.adjust(state, TAX, thb_uthb=split.vat_uthb)
    if split.fee_uthb:
        authority_uthb = share_half_up(split.fee_uthb, market.authority_fee_share_bps)
        ledger.adjust(state, payees.authority, thb_uthb=authority_uthb)
        ledger.adjust(state, TREASURY, thb_uthb=split.fee_uthb - authority_uthb)


def _receive(state: Overlay, trade: Trade, delivered_wh: int) -> list[TradingEvent]:
    """Book a delivery at the buyer's meter; if its reading came first, burn and release now."""
    key = u64(trade.slot) + trade.buyer_meter
    position = POSITIONS.get(state, key) or Position(trade.buyer, territory=trade.territory)
    received_wh = position.received_wh + delivered_wh
    burned_wh, local_wh = position.burned_wh, position.local_wh
    new_local_wh = delivered_wh if trade.is_local else 0
    events: list[TradingEvent] = []
    if position.read:
        due_wh = min(position.import_wh, received_wh) - burned_wh
        burned_wh += due_wh
        events = _consume(state, trade.buyer_meter, trade.slot, position, due_wh)
        _release(state, replace(position, local_wh=new_local_wh), delivered_wh - due_wh)
    else:
        local_wh += new_local_wh
    after = replace(position, received_wh=received_wh, burned_wh=burned_wh, local_wh=local_wh)
    POSITIONS.put(state, key, after)
    return events


def _settled(trade: Trade, delivered_wh: int, split: Charges) -> TradeSettled:
    return TradeSettled(
        trade_id=trade.id,
        slot=trade.slot,
        territory=trade.territory,
        tier=trade.tier,
        source=trade.source,
        buyer=trade.buyer,
        seller=trade.seller,
        traded_wh=trade.energy_wh,
        delivered_wh=delivered_wh,
        price_mthb=trade.price_mthb,
        energy_uthb=split.energy_uthb,
        seller_uthb=split.seller_uthb,
        wheeling_uthb=split.wheeling_uthb,
        vat_uthb=split.vat_uthb,
        fee_uthb=split.fee_uthb,
        penalty_uthb=split.penalty_uthb,
        refund_uthb=split.refund_uthb,
        bond_back_uthb=split.bond_back_uthb,
        carbon_ucr=split.carbon_ucr,
        transmission_uthb=split.transmission_uthb,
    )
