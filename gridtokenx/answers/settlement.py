"""Answers about money and proof of it: quotes, readings, carbon certificates, reports."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.fields import (
    ADDRESS_EXAMPLE,
    HASH_EXAMPLE,
    ChainName,
    Height,
    NextCursor,
    answer,
    count,
    moment,
    slot_number,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.primitives.types import Address
from gridtokenx.registry.model import MeterStatus
from gridtokenx.trading.model import Side, Source
from gridtokenx.trading.report_model import SettlementReport

SeenAs = Literal["owner", "distributor", "regulator"]


@answer
class QuotedCharges:
    """What a trade costs and earns when all is delivered."""

    buyer_uthb: Annotated[
        int, Rule("what the buyer pays in all: energy, wheeling, VAT", example="12840000")
    ]
    seller_uthb: Annotated[
        int, Rule("what the seller is paid for energy, after the fee", example="11970000")
    ]
    energy_uthb: Annotated[int, Rule("the energy's price", example="12000000")]
    wheeling_uthb: Annotated[int, Rule("wheeling", example="600000")]
    vat_uthb: Annotated[int, Rule("VAT", example="42000")]
    fee_uthb: Annotated[int, Rule("trade fee, which the seller pays", example="30000")]
    carbon_ucr: Annotated[int, Rule("carbon credits for the buyer", example="1000000")]


@answer
class NearbyPrice:
    """The newest price near a place."""

    tier: Annotated[
        int, count("distance: 0 substation, 1 zone, 2 territory, 3 national", "tiers", 0)
    ]
    group: Annotated[str, Rule("part of the grid that traded", example="BKK-01-SUB001")]
    slot: Annotated[int, slot_number("delivery slot", "1963596")]
    price_mthb: Annotated[int, Rule("price of the energy", example="4000")]
    wheeling_mthb: Annotated[int, Rule("wheeling", example="300")]


@answer
class MeritPlace:
    """Where the order would stand in one group that it may trade in."""

    tier: Annotated[
        int, count("distance: 0 substation, 1 zone, 2 territory, 3 national", "tiers", 0)
    ]
    group: Annotated[str, Rule("part of the grid", example="BKK-01-SUB001")]
    wheeling_mthb: Annotated[int, Rule("wheeling", example="300")]
    better_wh: Annotated[int, Rule("open on its own side at better limits", example="1500")]
    equal_wh: Annotated[
        int, Rule("open on its own side at the same limit, there before it", example="500")
    ]
    meets_wh: Annotated[
        int, Rule("open on the other side, within its limit and source", example="4000")
    ]


@answer
class ExpectedPart:
    """What the order would trade in one group, at its uniform price."""

    tier: Annotated[
        int, count("distance: 0 substation, 1 zone, 2 territory, 3 national", "tiers", 0)
    ]
    group: Annotated[str, Rule("part of the grid that would trade", example="BKK-01-SUB001")]
    energy_wh: Annotated[int, Rule("energy", example="2000")]
    price_mthb: Annotated[int, Rule("price of the energy", example="4000")]
    wheeling_mthb: Annotated[int, Rule("wheeling", example="300")]


@answer
class ExpectedTrade:
    """What the order would trade if its slot were cleared now and nothing else came."""

    energy_wh: Annotated[int, Rule("energy in all; 0: nothing", example="2000")]
    price_mthb: Annotated[
        int | None, Rule("mean price of the energy; null: nothing would trade", example="4000")
    ]
    parts: Annotated[tuple[ExpectedPart, ...], Rule("by group, the nearest first")]
    charges: Annotated[
        QuotedCharges | None, Rule("charges when all of it is delivered; null: nothing trades")
    ]


@answer
class SlotPrice:
    """The price at which a part of the grid cleared a slot."""

    tier: Annotated[
        int, count("distance: 0 substation, 1 zone, 2 territory, 3 national", "tiers", 0)
    ]
    group: Annotated[str, Rule("part of the grid that traded", example="BKK-01-SUB001")]
    price_mthb: Annotated[int, Rule("last price of the energy", example="4000")]


@answer
class ClearedSlot:
    """What a slot gave at the order's substation."""

    slot: Annotated[int, slot_number("delivery slot", "1963596")]
    sold_wh: Annotated[int, Rule("sold by the substation's meters", example="3000")]
    bought_wh: Annotated[int, Rule("bought by the substation's meters", example="2500")]
    prices: Annotated[
        tuple[SlotPrice, ...], Rule("prices of the groups it lies in, the nearest first")
    ]


@answer
class QuotedOrder:
    """What an order would set aside, cost or earn."""

    chain: ChainName
    height: Height
    slot: Annotated[int, slot_number("delivery slot", "1963597")]
    order_type: Annotated[Side, Rule("sale or purchase", example="sell")]
    energy_wh: Annotated[int, Rule("energy", example="2000")]
    limit_mthb: Annotated[int, Rule("limit", example="6000")]
    grid_location: Annotated[str, Rule("substation of the trader's meter", example="BKK-01-SUB001")]
    energy_source: Annotated[Source, Rule("a seller's plant, a buyer's wish", example="solar")]
    meter_id: Annotated[
        bytes | None,
        Rule("meter the order would be of; null: nobody's in particular", example=HASH_EXAMPLE),
    ]
    reserve: Annotated[
        Literal["escrow", "bond"],
        Rule("what is set aside: a buyer's escrow, a seller's bond", example="escrow"),
    ]
    reserve_uthb: Annotated[int, Rule("how much is set aside", example="12840000")]
    worst: Annotated[QuotedCharges, Rule("charges of the whole delivery at the limit")]
    last: Annotated[NearbyPrice | None, Rule("newest price nearby; null: none")]
    at_last_price: Annotated[
        QuotedCharges | None, Rule("charges at that price; null: none, or beyond the limit")
    ]
    emergency: Annotated[
        str | None,
        Rule(
            "why the territory may not trade now; null: it may",
            example="erc halted territory BKK: flood",
        ),
    ]
    merit_order: Annotated[
        tuple[MeritPlace, ...], Rule("its place in each group it may trade in, the nearest first")
    ]
    expected: Annotated[
        ExpectedTrade | None,
        Rule("what it would trade if the slot were cleared now and nothing else came; null: why"),
    ]
    expected_unknown: Annotated[
        Literal["slot_not_open", "territory_halted", "book_too_deep"] | None,
        Rule("why nothing is expected; null: see `expected`", example="territory_halted"),
    ]
    cleared: Annotated[
        tuple[ClearedSlot, ...],
        Rule("the last four slots that began, newest first; then the same slot of the day before"),
    ]


@answer
class MeterRegisters:
    """What a meter shows: its last reading, or where its readings begin."""

    meter_id: Annotated[bytes, Rule("metering point", example=HASH_EXAMPLE)]
    key: Annotated[bytes, Rule("Ed25519 key of its device", example=HASH_EXAMPLE)]
    location: Annotated[str, Rule("its substation", example="BKK-01-SUB001")]
    status: Annotated[MeterStatus, Rule("what its readings do", example="active")]
    suspended_by: Annotated[str, Rule("organisation that suspended it; empty: none", example="mea")]
    slot: Annotated[int, slot_number("slot at whose end it showed this", "1963596")]
    import_wh_cum: Annotated[int, Rule("taken in so far", unit="Wh", example="2000")]
    export_wh_cum: Annotated[int, Rule("fed in so far", unit="Wh", example="1500")]
    seq: Annotated[int, Rule("number of its reading; -1: none yet", unit="readings", example="2")]
    carried_import_wh: Annotated[
        int, Rule("taken in by a device before it, not in a reading yet", example="0")
    ]
    carried_export_wh: Annotated[
        int, Rule("fed in by a device before it, not in a reading yet", example="0")
    ]
    since_slot: Annotated[int, slot_number("what was counted before this slot is nobody's", "0")]


@answer
class AcceptedReading:
    """An accepted reading: what a meter counted since the one before."""

    meter_id: Annotated[bytes, Rule("metering point", example=HASH_EXAMPLE)]
    location: Annotated[str | None, Rule("its substation", example="BKK-01-SUB001")]
    slot: Annotated[int, slot_number("last slot of it", "1963596")]
    slots: Annotated[int, slot_number("slots it covers", "1")]
    import_wh: Annotated[int, Rule("taken in", example="2000")]
    export_wh: Annotated[int, Rule("fed in", example="1500")]
    deliverable_wh: Annotated[int, Rule("of that: can be delivered to buyers", example="1500")]
    carbon_ucr: Annotated[int, Rule("carbon credits issued for it", example="750000")]
    height: Annotated[int, Rule("block that took it", unit="blocks", example="13")]
    market_ms: Annotated[int, moment("market time of that block")]


@answer
class ReadingPage:
    """A page of readings, and what the meters show."""

    chain: ChainName
    height: Height
    address: Annotated[Address, Rule("whose meters", example=ADDRESS_EXAMPLE)]
    seen_as: Annotated[
        SeenAs,
        Rule("why the signer may see this", example="owner"),
    ]
    meters: Annotated[
        tuple[MeterRegisters, ...], Rule("the account's meters, retired ones last; at most 100")
    ]
    items: Annotated[tuple[AcceptedReading, ...], Rule("readings, newest first")]
    next_cursor: NextCursor


@answer
class Certificate:
    """Proof that carbon credits were retired."""

    id: Annotated[str, Rule("chain and number", example="MET-1")]
    chain: ChainName
    chain_id: Annotated[
        bytes, Rule("id of the chain in its present incarnation", example=HASH_EXAMPLE)
    ]
    network: Annotated[str, Rule("network", example="gridtokenx-local")]
    number: Annotated[int, Rule("number on its chain, from 1", unit="certificates", example="1")]
    owner: Annotated[Address, Rule("account that retired them", example=ADDRESS_EXAMPLE)]
    amount_ucr: Annotated[int, Rule("credits retired", example="400000")]
    beneficiary_hash: Annotated[
        bytes, Rule("hash that names whom it is for, off chain", example=HASH_EXAMPLE)
    ]
    retired_ms: Annotated[int, moment("market time")]


@answer
class ChainCarbon:
    """An account's credits on one chain."""

    chain: ChainName
    height: Height
    carbon_ucr: Annotated[int, Rule("credits held", example="600000")]
    certificates: Annotated[tuple[Certificate, ...], Rule("the newest hundred")]


@answer
class Carbon:
    """Carbon credits of an account."""

    address: Annotated[Address, Rule("account", example=ADDRESS_EXAMPLE)]
    carbon_ucr: Annotated[int, Rule("credits held on all these chains", example="600000")]
    unit: Annotated[str, Rule("unit of the credits", example="micro-credit")]
    chains: Annotated[tuple[ChainCarbon, ...], Rule("by chain")]


@answer
class TerritoryReport:
    """A territory's settlement of a day."""

    territory: Annotated[str, Rule("territory", example="BKK")]
    distributor: Annotated[str, Rule("its distributor", example="mea")]
    chain: ChainName
    height: Height
    day: Annotated[int, Rule("Bangkok days since 1970-01-01", unit="days", example="20454")]
    date: Annotated[str | None, Rule("that day; null after the year 9999", example="2026-01-01")]
    state: Annotated[
        Literal["open", "closed", "not_kept"],
        Rule(
            "whether more may come: closed has a hash; not_kept is older than the chain keeps",
            example="open",
        ),
    ]
    report_hash: Annotated[
        bytes | None, Rule("hash of the closed report; null before", example=HASH_EXAMPLE)
    ]
    report: Annotated[SettlementReport, Rule("what it adds up to")]


@answer
class DayReports:
    """Settlement reports of a day."""

    territory: Annotated[str, Rule("territory or distributor, as asked", example="BKK")]
    items: Annotated[tuple[TerritoryReport, ...], Rule("one for each territory")]
