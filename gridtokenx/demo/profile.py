"""Who trades on the demonstration day, what they forecast, offer and really measure.

Everything is a function of `day_profile.json` and SHA-256, so every machine plays the same day.
Source: protocols/market.md 8.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources

from gridtokenx.chain.genesis import Genesis
from gridtokenx.cluster.devnet import DAILY_CAP_WH, LICENCE_EXPIRY_MS, dev_key
from gridtokenx.grid.model import MeterReading, signed_bytes
from gridtokenx.primitives.crypto import SigningKey, kyc_reference, sha256
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import (
    BANGKOK_OFFSET_MS,
    SLOTS_PER_DAY,
    gross_up,
    local_day,
    slot_end_ms,
    slot_start_ms,
)
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce

# mTHB/kWh. TOU below 12 kV and Ft, MEA, May to August 2026; a customer asks 0.10 THB less.
TOU_ON_PEAK_MTHB = (43_297 + 1_623) // 10 - 100
TOU_OFF_PEAK_MTHB = (26_369 + 1_623) // 10 - 100
FLAT_MTHB = 3_900
OFFER_MTHB = 2_300
TOU_PEAK_HOURS = range(9, 22)  # Monday to Friday, Bangkok time
TOU_CUSTOMERS = frozenset(
    {
        "T77 mall",
        "T77 school",
        "T77 apartments",
        "T77 dental hosp",
        "Condo Rama9",
        "EV hub Rama2",
        "CNX guesthouses",
        "CNX university",
        "KKC ice factory",
    }
)
CLOUDY_BPS, CLOUDY_PERCENT = 1_200, 55
TRIP_BPS, TRIP_PERCENT = 200, 60
SMALLEST_ORDER_WH = 100
# The transformer of the story: its loading from a quarter of the day on, until the next entry.
TRANSFORMER = "BKK-01-SUB001"
TRANSFORMER_VA = 400_000
TRANSFORMER_LOADING_BPS = ((44, 11_850), (48, 9_600), (52, 2_000))  # 11:00, 12:00, 13:00
SPARE_UTHB = 1_000_000_000  # 1,000 THB above what the orders can cost
PENALTY_MTHB = 1_000
VAT_BPS = 700
_SALT = sha256(b"gridtokenx local kyc salt")  # A real salt never leaves the distributor.
_CLASSES = {"prosumer": ProsumerClass.COMMERCIAL, "consumer": ProsumerClass.NONE}


@dataclass(frozen=True)
class Trader:
    """One participant of the day. Energy per slot of the day in Wh; `k` tells offers apart."""

    k: int
    name: str
    location: str
    role: Role
    source: Generation
    nameplate_w: int
    gen_wh: tuple[int, ...]
    load_wh: tuple[int, ...]

    @cached_property
    def key(self) -> SigningKey:
        """Signs its transactions."""
        return dev_key(f"participant {self.name}")

    @cached_property
    def meter_key(self) -> SigningKey:
        """Signs its readings."""
        return dev_key(f"meter {self.name}")

    @property
    def import_nameplate_w(self) -> int:
        """What its connection can take, with a quarter to spare."""
        return max(1_000, max(self.load_wh) * 4 * 5 // 4)

    def actual_gen_wh(self, index: int, slot: int) -> int:
        """What the plant really makes in a slot of the day; `slot` is the market's number."""
        draw = int.from_bytes(sha256(f"{self.name}:{slot}".encode())[:8]) % 10_000
        forecast_wh = self.gen_wh[index]
        if self.source is Generation.SOLAR:
            return forecast_wh * CLOUDY_PERCENT // 100 if draw < CLOUDY_BPS else forecast_wh
        return forecast_wh * TRIP_PERCENT // 100 if draw < TRIP_BPS else forecast_wh

    def limit_mthb(self, side: Side, slot: int) -> int:
        """The price it asks or bids for a slot; a bid is all-in before VAT.

        Bids are told apart by k as offers are: equals share, by the Wh in order of their ids, and
        two runs of the day would differ by a Wh.
        """
        if side is Side.SELL:
            return OFFER_MTHB + self.k
        if self.name not in TOU_CUSTOMERS:
            return FLAT_MTHB - self.k
        return (TOU_ON_PEAK_MTHB if is_tou_peak(slot) else TOU_OFF_PEAK_MTHB) - self.k

    def order(self, index: int, slot: int) -> PlaceOrder | None:
        """Its order for a slot: the forecast surplus or deficit; None if that is too little."""
        net_wh = self.gen_wh[index] - self.load_wh[index]
        side, energy_wh = (Side.SELL, net_wh) if net_wh > 0 else (Side.BUY, -net_wh)
        if energy_wh < SMALLEST_ORDER_WH:
            return None
        return PlaceOrder(
            side=side,
            energy_wh=energy_wh,
            limit_mthb=self.limit_mthb(side, slot),
            location=self.location,
            meter_id=self.meter_key.public_key,
            source=Source(self.source.value) if side is Side.SELL else Source.ANY,
            require=False,
            first_slot=slot,
            last_slot=slot,
            max_wh_per_slot=energy_wh,
            time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
            expires_ms=slot_end_ms(slot),
        )

    def reserve_uthb(self, index: int, slot: int) -> int:
        """What its order of a slot sets aside: escrow of a purchase, bond of a sale."""
        order = self.order(index, slot)
        if order is None:
            return 0
        if order.side is Side.SELL:
            return order.energy_wh * PENALTY_MTHB
        return gross_up(order.energy_wh * order.limit_mthb, VAT_BPS)

    def registration(self) -> RegisterParticipant:
        """What its distributor registers."""
        return RegisterParticipant(
            account=self.key.public_key,
            role=self.role,
            kyc_ref=kyc_reference(_SALT, self.name.encode()),
            licence_class=LicenceClass.EXEMPT_LT_1000KVA,
            licence_expiry_ms=LICENCE_EXPIRY_MS,
            vat_registered=False,
            territory=territory_of(self.location),
            consent_version=1,
            daily_cap_wh=DAILY_CAP_WH,
        )

    def meter(self) -> RegisterMeter:
        """Its meter, with both registers at zero."""
        return RegisterMeter(
            meter_id=self.meter_key.public_key,
            owner=self.key.public_key,
            location=self.location,
            nameplate_import_w=self.import_nameplate_w,
            nameplate_export_w=self.nameplate_w,
            source=self.source,
            prosumer_class=_CLASSES.get(self.role.value, ProsumerClass.NONE),
        )


def sign_reading(
    signer: SigningKey,
    device: bytes,
    slot: int,
    import_wh_cum: int,
    export_wh_cum: int,
    seq: int,
    region_id: bytes,
) -> MeterReading:
    """A reading of a device, signed by its key (by another: a forgery)."""
    bare = MeterReading(device, slot, import_wh_cum, export_wh_cum, seq, bytes(64))
    return replace(bare, signature=signer.sign(signed_bytes(region_id, bare)))


@dataclass(frozen=True, slots=True)
class Profile:
    """The day: its first slot (Unix time / 900 s) and who takes part."""

    slot0: int
    traders: tuple[Trader, ...]

    def slots(self, first: int = 0, count: int = SLOTS_PER_DAY) -> range:
        """Market slots of a part of the day, from its `first` quarter of an hour."""
        end = min(first + count, SLOTS_PER_DAY)
        return range(self.slot0 + first, self.slot0 + end)

    def traders_of(self, genesis: Genesis, region: str) -> list[Trader]:
        """Those whose meters stand in a region chain's territories."""
        spec = genesis.chain(region)
        prefixes = {territory.prefix for territory in spec.territories}
        return [trader for trader in self.traders if territory_of(trader.location) in prefixes]

    def index(self, slot: int) -> int:
        """Position of a market slot in the day, 0..95."""
        return slot - self.slot0

    def deposit_uthb(self, trader: Trader, slots: range) -> int:
        """Enough for all its orders at once."""
        needed = sum(trader.reserve_uthb(self.index(slot), slot) for slot in slots)
        return needed + SPARE_UTHB


def transformer_loading_bps(index: int) -> int | None:
    """The story's loading of the transformer in a quarter of the day; None before the story."""
    found = [bps for start, bps in TRANSFORMER_LOADING_BPS if start <= index]
    return found[-1] if found else None


def load_profile() -> Profile:
    """The day that comes with the package."""
    text = resources.files("gridtokenx.demo").joinpath("data/day_profile.json").read_text()
    document = json.loads(text)
    traders = tuple(
        Trader(
            k=k,
            name=row["name"],
            location=row["location"],
            role=Role(row["kind"]),
            source=Generation(row["source"] or "none"),
            nameplate_w=row["nameplate_w"],
            gen_wh=tuple(row["gen_wh"]),
            load_wh=tuple(row["load_wh"]),
        )
        for k, row in enumerate(document["participants"], 1)
    )
    return Profile(document["slot0"], traders)


def is_tou_peak(slot: int) -> bool:
    """Whether a slot starts on-peak: Monday to Friday 09 to 22 h in Bangkok."""
    start_ms = slot_start_ms(slot)
    weekday = (local_day(start_ms) + 3) % 7  # Monday is 0; 1970-01-01 was a Thursday.
    hour = (start_ms + BANGKOK_OFFSET_MS) // 3_600_000 % 24
    return weekday < 5 and hour in TOU_PEAK_HOURS
