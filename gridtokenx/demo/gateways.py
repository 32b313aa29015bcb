"""How meters' readings come to the chain on the demonstration day, and what goes wrong with two.

A gateway sends a meter's readings in order, slot by slot. That of one household is away for more
than a deadline: what it had sold in its first slot away is not delivered, yet every Wh is minted
when it is back. At another household the distributor exchanges the device; the new one goes on
where the old one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gridtokenx.answers.settlement import AcceptedReading
from gridtokenx.client import Client
from gridtokenx.cluster.devnet import dev_key
from gridtokenx.demo.profile import Profile, Trader, sign_reading
from gridtokenx.grid.model import MAX_READINGS, MeterReading, SubmitReadings
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.quantities import format_kwh, format_thb
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import ReplaceMeter
from gridtokenx.trading.model import Side

AWAY, EXCHANGED = "Somchai home", "Malee home"
NEW_DEVICE_WH = 12_345  # What the new device showed when it came from its maker's bench.


@dataclass(slots=True)
class Gateway:
    """Counts a meter's slots and sends the readings, oldest first."""

    trader: Trader
    region_id: bytes
    key: SigningKey
    import_wh_cum: int = 0
    export_wh_cum: int = 0
    seq: int = 0
    waiting: list[MeterReading] = field(default_factory=list)

    def count(self, index: int, slot: int, *, is_first: bool) -> None:
        """A slot is over; before the first one the registers are read once, for a beginning."""
        if is_first:
            self._read(slot - 1)
        net_wh = self.trader.actual_gen_wh(index, slot) - self.trader.load_wh[index]
        self.import_wh_cum += max(0, -net_wh)
        self.export_wh_cum += max(0, net_wh)
        self._read(slot)

    def take(self) -> list[SubmitReadings]:
        """What waits, in transactions."""
        readings, self.waiting = self.waiting, []
        return [
            SubmitReadings(tuple(readings[start : start + MAX_READINGS]))
            for start in range(0, len(readings), MAX_READINGS)
        ]

    def exchange(self, new_key: SigningKey) -> ReplaceMeter:
        """Another device signs from now on; the distributor's command that says so."""
        command = ReplaceMeter(
            self.trader.meter_key.public_key,
            new_key.public_key,
            self.import_wh_cum,
            self.export_wh_cum,
            NEW_DEVICE_WH,
            NEW_DEVICE_WH,
        )
        self.key, self.seq = new_key, 0
        self.import_wh_cum = self.export_wh_cum = NEW_DEVICE_WH
        return command

    def forgery(self, slot: int, forger: SigningKey) -> SubmitReadings:
        """One kWh more than there was, signed by somebody else."""
        return SubmitReadings((self._signed(slot, forger, 1_000, self.seq + 1),))

    def _read(self, slot: int) -> None:
        self.seq += 1
        self.waiting.append(self._signed(slot, self.key, 0, self.seq))

    def _signed(self, slot: int, signer: SigningKey, more_wh: int, seq: int) -> MeterReading:
        return sign_reading(
            signer,
            self.key.public_key,
            slot,
            self.import_wh_cum,
            self.export_wh_cum + more_wh,
            seq,
            self.region_id,
        )


@dataclass(frozen=True, slots=True)
class Incidents:
    """When what goes wrong in a region: `away` are the slots without a gateway, and the new
    device's first slot is `exchange_slot`.
    """

    away: range
    exchange_slot: int

    def is_away(self, trader: Trader, slot: int) -> bool:
        """Whether a trader's gateway cannot send what it read in a slot before it is back."""
        return trader.name == AWAY and slot in self.away

    def may_order(self, trader: Trader, slot: int) -> bool:
        """Whoever knows that his meter cannot be read sells nothing, after the first surprise."""
        return not self.is_away(trader, slot) or slot == self.away.start


def plan(profile: Profile, slots: range, traders: Sequence[Trader], away_slots: int) -> Incidents:
    """The gateway goes when its household first sells; the exchange is late in the day."""
    first = slots.stop
    for trader in traders:
        if trader.name == AWAY:
            first = next((one for one in slots if _sells(profile, trader, one)), slots.stop)
    return Incidents(range(first, first + away_slots), slots.start + len(slots) * 3 // 4)


def _sells(profile: Profile, trader: Trader, slot: int) -> bool:
    order = trader.order(profile.index(slot), slot)
    return order is not None and order.side is Side.SELL


def new_device(trader: Trader) -> SigningKey:
    """The key of the device that takes the old one's place."""
    return dev_key(f"second meter {trader.name}")


@dataclass(frozen=True, slots=True)
class MeterStory:
    """What a node says of one trader's meter after the day, and whether it is as it should be."""

    sentence: str
    holds: bool
    document: dict[str, Any]


def tell(
    client: Client, incidents: Incidents, traders: Sequence[Trader], chain: str, slots: range
) -> list[MeterStory]:
    """What came of the region's incidents, by one node. Errors: NodeUnreachable, RpcError."""
    named = {trader.name: trader for trader in traders}
    stories = []
    if AWAY in named and incidents.away.start in slots:
        stories.append(_tell_late(client, named[AWAY], chain, incidents.away.start))
    if EXCHANGED in named:
        stories.append(_tell_exchange(client, named[EXCHANGED], chain, incidents.exchange_slot))
    return stories


def _tell_late(client: Client, trader: Trader, chain: str, slot: int) -> MeterStory:
    """What was sold in a slot whose reading came too late is short, and every Wh is minted."""
    own = trader.key.public_key
    trades = client.trades(trader=format_address(own), chain=chain, limit=100).items
    sold = [row for row in trades if row.slot == slot and row.seller == own]
    settled = [row.settlement for row in sold if row.settlement is not None]
    minted = [row.export_wh for row in meter_readings(client, trader, chain) if row.slot == slot]
    sold_wh, minted_wh = sum(row.energy_wh for row in sold), sum(minted)
    delivered_wh = sum(row.delivered_wh for row in settled)
    penalty_uthb = sum(row.penalty_uthb for row in settled)
    return MeterStory(
        f"late reading: {trader.name}, slot {slot}: {format_kwh(minted_wh)} kWh minted, "
        f"{format_kwh(delivered_wh)} of {format_kwh(sold_wh)} kWh delivered, "
        f"{format_thb(penalty_uthb)} THB to the buyer",
        delivered_wh == 0 < sold_wh and minted_wh > 0 and penalty_uthb > 0,
        {
            "kind": "late_reading",
            "trader": trader.name,
            "slot": slot,
            "sold_wh": sold_wh,
            "delivered_wh": delivered_wh,
            "minted_wh": minted_wh,
            "penalty_uthb": penalty_uthb,
        },
    )


def _tell_exchange(client: Client, trader: Trader, chain: str, slot: int) -> MeterStory:
    """The new device signs, and not one slot is missing or counted twice."""
    meter = client.meter(trader.meter_key.public_key, chain).meter
    expected = new_device(trader).public_key.hex()
    rows = meter_readings(client, trader, chain)
    single = sum(row.slots == 1 for row in rows)
    after = sum(row.slot >= slot for row in rows)
    return MeterStory(
        f"meter exchanged: {trader.name}, from slot {slot} on device {meter['key'][:12]}: "
        f"{len(rows) - after} readings of the old device, {after} of the new one",
        meter["key"] == expected and after > 0 and single >= len(rows) - 1,
        {
            "kind": "meter_exchange",
            "trader": trader.name,
            "slot": slot,
            "key": meter["key"],
            "readings_before": len(rows) - after,
            "readings_after": after,
        },
    )


def meter_readings(client: Client, trader: Trader, chain: str) -> list[AcceptedReading]:
    """All accepted readings of a trader's meter, newest first: it alone may see them."""
    address = format_address(trader.key.public_key)
    rows: list[AcceptedReading] = []
    cursor = None
    while True:
        params = {"address": address, "limit": "100", "chain": chain}
        if cursor is not None:
            params["cursor"] = cursor
        page = client.meter_readings(trader.key, **params)
        rows += page.items
        cursor = page.next_cursor
        if cursor is None:
            return rows
