"""Meters and keys over their whole lives, through blocks: exchanged, suspended, retired, approved.

Source: protocols/market.md 1, 4.4, 5.
"""

from dataclasses import replace

import pytest

from gridtokenx.cluster.devnet import account_address, operator_key
from gridtokenx.grid.model import (
    REGISTERS,
    MeterReading,
    PublishGridStatus,
    ReadingAccepted,
    SubmitReadings,
    signed_bytes,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Deposit, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import (
    ApproveMeter,
    Generation,
    LicenceClass,
    MeterStatus,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    ReinstateMeter,
    ReinstateParticipant,
    RenewLicence,
    ReplaceMeter,
    RetireMeter,
    Role,
    SuspendMeter,
    SuspendParticipant,
)
from gridtokenx.trading.clock_model import IMPORTS
from gridtokenx.trading.model import (
    EnergyConsumed,
    EnergyRedeemed,
    MarketParameters,
    OrderClosed,
    Redeem,
    Side,
    TradeMatched,
    TradeSettled,
)
from tests.support.market_world import FAR_MS, Household, MarketWorld

MEA, PEA, ERC, BANK = (operator_key(name) for name in ("mea", "pea", "erc", "payment"))
NEW = SigningKey(sha256(b"a new device"))
SLOT_WH = 25_000  # What 100 kW of solar make in a slot.


@pytest.fixture
def world() -> MarketWorld:
    """A solar plant and a neighbour next door, and a utility with money."""
    made = MarketWorld()
    made.block()
    made.solar = made.household("solar", source=Generation.SOLAR)
    made.buyer = made.household("buyer")
    made.send(BANK, Deposit(account_address("mea"), 10**12))
    assert made.block() == []
    return made


def do(world: MarketWorld, key: SigningKey, *payloads) -> None:
    for payload in payloads:
        world.send(key, payload)
    assert world.block() == []


def read(world: MarketWorld, house: Household, export_wh: int, import_wh: int = 0) -> None:
    """The reading of the slot that ended last."""
    do(world, house.key, world.reading(house, world.slot - 1, export_wh, import_wh))


def reading_of(
    world: MarketWorld, device: SigningKey, slot: int, import_wh: int, export_wh: int, seq: int
) -> SubmitReadings:
    """A reading with any registers, signed by any device."""
    bare = MeterReading(device.public_key, slot, import_wh, export_wh, seq, bytes(64))
    return SubmitReadings(
        (replace(bare, signature=device.sign(signed_bytes(world.spec.chain_id, bare))),)
    )


def trade(world: MarketWorld, slot: int, wh: int = 1_000) -> None:
    world.send(world.solar.key, world.order(world.solar, Side.SELL, wh, 3_000, slot))
    world.send(world.buyer.key, world.order(world.buyer, Side.BUY, wh, 4_000, slot))
    assert world.block() == []
    world.block()
    assert len(world.newest(TradeMatched)) == 1


# -- An exchange of the device ---------------------------------------------------------------------


def test_an_exchange_in_the_middle_of_a_sold_slot_costs_nobody_anything(world) -> None:
    slot, solar = world.slot + 3, world.solar
    trade(world, slot, wh=2_000)
    world.go_to(slot)
    read(world, solar, 100)  # Of the slot before.
    last_export_wh = solar.export_wh + 1_500
    meter_id = solar.meter.public_key
    assert world.slot == slot + 1
    # The block clock is a slot a block: the exchange falls into the slot after the one sold, the
    # old device's part of it being what it showed at the exchange.
    do(world, MEA, ReplaceMeter(meter_id, NEW.public_key, 0, last_export_wh, 70, 0))
    assert REGISTERS.get(world.values, meter_id).carried_export_wh == 1_500
    old = reading_of(world, solar.meter, slot, 0, last_export_wh, solar.seq + 1)
    assert world.code_of(solar.key, old) is ErrorCode.UNKNOWN_METER
    do(world, solar.key, reading_of(world, NEW, slot, 70, 700, 1))
    (settled,) = world.newest(TradeSettled)
    assert (settled.traded_wh, settled.delivered_wh) == (2_000, 2_000)
    assert world.account(solar).energy_wh == 100 + 1_500 + 700 - 2_000
    world.check_conservation()


def test_orders_stay_with_the_metering_point(world) -> None:
    slot, solar = world.slot + 6, world.solar
    do(world, solar.key, world.order(solar, Side.SELL, 1_000, 3_000, slot))
    do(world, MEA, ReplaceMeter(solar.meter.public_key, NEW.public_key, 0, 0, 0, 0))
    assert world.newest(OrderClosed) == []
    do(world, solar.key, world.order(solar, Side.SELL, 1_000, 3_100, slot))
    do(world, world.buyer.key, world.order(world.buyer, Side.BUY, 2_000, 4_000, slot))
    world.block()
    assert len(world.newest(TradeMatched)) == 2


def test_who_may_not_exchange_and_what_old_registers_may_not_say(world) -> None:
    meter_id = world.solar.meter.public_key
    read(world, world.solar, 5_000)
    good = ReplaceMeter(meter_id, NEW.public_key, 0, 5_000, 0, 0)
    assert world.code_of(world.solar.key, good) is ErrorCode.NOT_GRID_OPERATOR
    assert world.code_of(PEA, good) is ErrorCode.WRONG_TERRITORY
    for wrong in (
        replace(good, old_export_wh_cum=4_999),
        replace(good, old_export_wh_cum=5_000 + 20 * SLOT_WH),
        replace(good, old_import_wh_cum=10**9),
    ):
        assert world.code_of(MEA, wrong) is ErrorCode.BAD_READING
    assert registry.meter(world.values, meter_id).key == meter_id, "refused as a whole"
    taken = replace(good, new_key=world.buyer.meter.public_key)
    assert world.code_of(MEA, taken) is ErrorCode.ALREADY_REGISTERED
    do(world, MEA, good)


# -- The end of a metering point -------------------------------------------------------------------


def test_a_retired_meter_mints_its_rest_and_ends(world) -> None:
    solar = world.solar
    meter_id = solar.meter.public_key
    read(world, solar, 1_000)
    do(world, solar.key, world.order(solar, Side.SELL, 1_000, 3_000, world.slot + 9))
    do(world, MEA, RetireMeter(meter_id, 0, 1_700))
    (accepted,) = world.newest(ReadingAccepted)
    assert (accepted.export_wh, accepted.deliverable_wh) == (700, 0)
    (closed,) = world.newest(OrderClosed)
    assert closed.owner == solar.key.public_key
    assert world.account(solar).energy_wh == world.account(solar).local_wh == 1_700
    assert world.account(solar).bond_uthb == 0
    assert registry.participant(world.values, solar.key.public_key).export_nameplate_w == 0
    late = reading_of(world, solar.meter, world.slot - 1, 0, 9_000, 50)
    assert world.code_of(solar.key, late) is ErrorCode.UNKNOWN_METER
    order = world.order(solar, Side.SELL, 1_000, 3_000, world.slot + 9)
    assert world.code_of(solar.key, order) is ErrorCode.NOT_ACTIVE
    assert world.code_of(MEA, RetireMeter(meter_id, 0, 1_800)) is ErrorCode.NOT_ACTIVE
    world.check_conservation()


def test_a_retirement_cannot_mint_more_than_a_reading(world) -> None:
    meter_id = world.solar.meter.public_key
    read(world, world.solar, 1_000)
    assert world.code_of(MEA, RetireMeter(meter_id, 0, 999)) is ErrorCode.BAD_READING
    greedy = RetireMeter(meter_id, 0, 1_000 + 20 * SLOT_WH)
    assert world.code_of(MEA, greedy) is ErrorCode.BAD_READING
    assert registry.meter(world.values, meter_id).status is MeterStatus.ACTIVE
    assert world.account(world.solar).energy_wh == 1_000


def test_what_a_retired_meter_had_sold_is_not_delivered(world) -> None:
    slot = world.slot + 3
    trade(world, slot)
    world.go_to(slot + 1)
    do(world, MEA, RetireMeter(world.solar.meter.public_key, 0, 900))
    world.go_to(slot + 8)
    (settled,) = world.events(TradeSettled)
    assert settled.delivered_wh == 0
    assert world.account(world.solar).energy_wh == 900
    world.check_conservation()


# -- A meter is suspended --------------------------------------------------------------------------


def test_a_suspended_meter_mints_nothing_and_trades_nothing(world) -> None:
    """Once a tampered meter went on minting and its owner redeemed the energy."""
    solar = world.solar
    meter_id = solar.meter.public_key
    read(world, solar, 1_000)
    do(world, solar.key, world.order(solar, Side.SELL, 1_000, 3_000, world.slot + 9))
    do(world, ERC, SuspendMeter(meter_id, "tampered"))
    assert len(world.newest(OrderClosed)) == 1
    for _ in range(4):
        forged = world.reading(solar, world.slot - 1, SLOT_WH, 0)
        assert world.code_of(solar.key, forged) is ErrorCode.NOT_ACTIVE
    order = world.order(solar, Side.SELL, 1_000, 3_000, world.slot + 9)
    assert world.code_of(solar.key, order) is ErrorCode.NOT_ACTIVE
    back = ReinstateMeter(meter_id, 20, 500_000, "sealed")
    assert world.code_of(MEA, back) is ErrorCode.NOT_PERMITTED
    do(world, ERC, back)
    assert world.account(solar).energy_wh == 1_000
    solar.export_wh, solar.import_wh = 500_000, 20
    solar.read_slot = world.slot - 2  # Its registers stand from the slot of the reinstatement on.
    read(world, solar, 300)
    assert world.account(solar).energy_wh == 1_300, "what it counted meanwhile is nobody's"
    world.check_conservation()


def test_a_tampered_device_is_exchanged_while_its_meter_is_suspended(world) -> None:
    meter_id = world.solar.meter.public_key
    read(world, world.solar, 1_000)
    do(world, MEA, SuspendMeter(meter_id, "tampered"))
    do(world, MEA, ReplaceMeter(meter_id, NEW.public_key, 0, 10**9, 5, 6))  # It may say anything.
    early = reading_of(world, NEW, world.slot - 1, 5, 7, 1)
    assert world.code_of(world.solar.key, early) is ErrorCode.NOT_ACTIVE
    do(world, MEA, ReinstateMeter(meter_id, 5, 8, "sealed"))
    do(world, world.solar.key, reading_of(world, NEW, world.slot - 1, 5, 10, 1))
    assert world.account(world.solar).energy_wh == 1_002


# -- A participant is suspended --------------------------------------------------------------------


def test_a_suspended_participants_meters_mint_nothing_of_that_time(world) -> None:
    solar = world.solar
    who = solar.key.public_key
    read(world, solar, 1_000)
    do(world, MEA, SuspendParticipant(who, "unpaid"))
    for _ in range(5):
        told = world.reading(solar, world.slot - 1, SLOT_WH, 0)
        assert world.code_of(solar.key, told) is ErrorCode.NOT_ACTIVE
    during = world.slot - 1
    do(world, MEA, ReinstateParticipant(who, "paid"))
    late = reading_of(world, solar.meter, during, 0, solar.export_wh, solar.seq + 1)
    assert world.code_of(solar.key, late) is ErrorCode.READING_OUT_OF_ORDER
    solar.read_slot = world.slot - 2
    read(world, solar, SLOT_WH)  # Says where the registers stand.
    assert world.account(solar).energy_wh == 1_000
    read(world, solar, 400)
    assert world.account(solar).energy_wh == 1_400
    slot = world.slot + 3
    trade(world, slot)
    world.go_to(slot + 1)
    read(world, solar, 1_000)
    assert [one.delivered_wh for one in world.newest(TradeSettled)] == [1_000]
    world.check_conservation()


def test_what_was_bought_for_the_time_of_a_suspension_is_consumed_once(world) -> None:
    slot, buyer = world.slot + 3, world.buyer
    trade(world, slot)
    world.go_to(slot)
    do(world, MEA, SuspendParticipant(buyer.key.public_key, "unpaid"))
    read(world, world.solar, 1_000)
    assert world.account(buyer).energy_held_wh == 1_000
    do(world, MEA, ReinstateParticipant(buyer.key.public_key, "paid"))
    buyer.read_slot = world.slot - 2
    read(world, buyer, 0, 5_000)  # Of a slot after the one bought; says nothing of that one.
    world.go_to(slot + 9)
    assert [one.energy_wh for one in world.events(EnergyConsumed)] == [1_000]
    assert world.account(buyer).energy_wh == world.account(buyer).energy_held_wh == 0
    assert IMPORTS.get(world.values, buyer.meter.public_key) is None, "nothing is set against later"
    world.check_conservation()


def test_consumption_assumed_before_a_restart_is_not_set_against_readings_after_it(world) -> None:
    slot, buyer = world.slot + 3, world.buyer
    trade(world, slot)
    world.go_to(slot)
    do(world, MEA, SuspendMeter(buyer.meter.public_key, "seal broken"))
    read(world, world.solar, 1_000)
    world.go_to(slot + 9)
    assert IMPORTS.get(world.values, buyer.meter.public_key).assumed_wh == 1_000
    do(world, MEA, ReinstateMeter(buyer.meter.public_key, 0, 0, "sealed"))
    assert IMPORTS.get(world.values, buyer.meter.public_key) is None


# -- Redemption ------------------------------------------------------------------------------------


def test_a_suspended_participant_redeems_nothing_until_it_is_back(world) -> None:
    solar = world.solar
    read(world, solar, 1_000)
    do(world, MEA, SuspendParticipant(solar.key.public_key, "tampered meter"))
    assert world.code_of(solar.key, Redeem(1_000)) is ErrorCode.NOT_ACTIVE
    assert world.account(solar).energy_wh == 1_000
    do(world, MEA, ReinstateParticipant(solar.key.public_key, "cleared"))
    do(world, solar.key, Redeem(1_000))
    world.check_conservation()


def test_the_month_end_passes_a_suspended_participant_by() -> None:
    world = MarketWorld(ms_per_block=6 * 3_600_000)
    world.block()
    first, second = (world.household(name, source=Generation.SOLAR) for name in ("one", "two"))
    world.send(BANK, Deposit(account_address("mea"), 10**12))
    world.block()
    for house in (first, second):
        read(world, house, 1_000)
    do(world, first.key, Transfer(second.key.public_key, Asset.ENERGY, 400))
    do(world, MEA, SuspendParticipant(first.key.public_key, "unpaid"))
    while world.parent.height < 16 * 4 + 5:
        world.block()
    redeemed = world.events(EnergyRedeemed)
    assert [(one.owner, one.energy_wh) for one in redeemed] == [(second.key.public_key, 1_000)]
    assert world.account(first).energy_wh == 600
    assert world.account(second).energy_wh == 400, "what came by transfer is not its utility's"
    world.check_conservation()


def test_energy_from_elsewhere_is_not_redeemed(world) -> None:
    read(world, world.solar, 1_000)
    do(world, world.solar.key, Transfer(world.buyer.key.public_key, Asset.ENERGY, 600))
    assert world.code_of(world.buyer.key, Redeem(1)) is ErrorCode.INSUFFICIENT_BALANCE
    assert world.code_of(world.solar.key, Redeem(401)) is ErrorCode.INSUFFICIENT_BALANCE
    do(world, world.solar.key, Redeem(400))
    world.check_conservation()


def test_an_expired_licence_stops_orders_not_what_is_due(world) -> None:
    """What was made lawfully is paid for; the licence is for trade."""
    solar = world.solar
    soon_ms = (world.slot + 3) * 900_000
    renewal = RenewLicence(solar.key.public_key, LicenceClass.EXEMPT_LT_1000KVA, soon_ms)
    do(world, MEA, renewal)
    world.go_to(world.slot + 4)
    order = world.order(solar, Side.SELL, 1_000, 3_000, world.slot + 3)
    assert world.code_of(solar.key, order) is ErrorCode.LICENCE_EXPIRED
    read(world, solar, 1_000)
    do(world, solar.key, Redeem(1_000))


def test_a_licence_that_ends_earlier_takes_the_orders_beyond_with_it(world) -> None:
    solar = world.solar
    early, late = world.slot + 4, world.slot + 40
    for slot in (early, late):
        do(world, solar.key, world.order(solar, Side.SELL, 1_000, 3_000, slot))
    until_ms = (early + 1) * 900_000
    do(world, MEA, RenewLicence(solar.key.public_key, LicenceClass.EXEMPT_LT_1000KVA, until_ms))
    (closed,) = world.newest(OrderClosed)
    assert closed.refund_uthb == 1_000 * 1_000
    assert world.account(solar).bond_uthb == 1_000 * 1_000, "the earlier one stays"
    do(world, MEA, RenewLicence(solar.key.public_key, LicenceClass.EXEMPT_LT_1000KVA, FAR_MS))
    assert world.newest(OrderClosed) == []


# -- Nameplates ------------------------------------------------------------------------------------


def plant(world: MarketWorld, export_w: int, location: str = "BKK-01-SUB009") -> RegisterMeter:
    """A generator's registration; the generator is there from the next block on."""
    owner = SigningKey(sha256(b"generator"))
    if owner.public_key not in world.nonces:
        participant = RegisterParticipant(
            owner.public_key, Role.PRODUCER, sha256(b"k"), LicenceClass.GENERATION, FAR_MS, False,
            "BKK", 1, 2**62,
        )  # fmt: skip
        do(world, MEA, participant)
        world.nonces[owner.public_key] = 0
    return RegisterMeter(
        NEW.public_key, owner.public_key, location, 0, export_w, Generation.SOLAR,
        ProsumerClass.NONE, 0, 0,
    )  # fmt: skip


def test_a_large_plant_counts_once_the_regulator_says_so(world) -> None:
    """Once a distributor alone could register 1.1 TW and mint 302 GWh with one reading."""
    do(world, MEA, plant(world, 10_000_000_000))
    owner = SigningKey(sha256(b"generator"))
    huge = reading_of(world, NEW, world.slot - 1, 0, 2_500_000_000, 1)
    assert world.code_of(owner, huge) is ErrorCode.NOT_ACTIVE
    assert world.code_of(MEA, ApproveMeter(NEW.public_key)) is ErrorCode.NOT_PERMITTED
    for _ in range(5):
        world.block()
    do(world, ERC, ApproveMeter(NEW.public_key))
    do(world, owner, reading_of(world, NEW, world.slot - 1, 0, 2_500_000_000, 1))
    assert ledger.account(world.values, owner.public_key).energy_wh == 0
    do(world, owner, reading_of(world, NEW, world.slot - 1, 0, 2_600_000_000, 2))
    assert ledger.account(world.values, owner.public_key).energy_wh == 100_000_000
    world.check_conservation()


def test_no_plant_is_greater_than_its_substation(world) -> None:
    status = PublishGridStatus("BKK-01-SUB009", world.slot + 1, 0, 400_000, 50_000, 10_000)
    do(world, MEA, status)
    assert world.code_of(MEA, plant(world, 400_001)) is ErrorCode.OUT_OF_RANGE
    do(world, MEA, plant(world, 400_000))


def test_a_terawatt_is_not_even_a_transaction(world) -> None:
    from gridtokenx.chain.transaction import decode_transaction, sign_transaction
    from gridtokenx.primitives.errors import Rejected

    command = plant(world, 2**40)
    signed = sign_transaction(MEA, world.spec.chain_id, 0, command)
    with pytest.raises(Rejected) as caught:
        decode_transaction(signed.encoded)
    assert caught.value.code is ErrorCode.OUT_OF_RANGE


# -- Deposits --------------------------------------------------------------------------------------


def test_deposits_of_a_day_end_at_their_limit() -> None:
    world = MarketWorld(parameters=MarketParameters(deposit_limit_uthb=50_000_000_000))
    world.block()
    house = world.household("anna", baht=30_000)
    assert world.block() == []
    to = house.key.public_key
    assert world.code_of(BANK, Deposit(to, 20_000_000_001)) is ErrorCode.DAILY_CAP
    do(world, BANK, Deposit(to, 20_000_000_000))
    assert world.code_of(BANK, Deposit(to, 1)) is ErrorCode.DAILY_CAP
    for _ in range(96):
        world.block()
    do(world, BANK, Deposit(to, 50_000_000_000))
    world.check_conservation()
