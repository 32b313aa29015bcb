"""What readings prove about time, and what a chain that stood still owes to nobody.

Source: protocols/market.md 3.1, 4.2, 4.3.
"""

from dataclasses import replace

import pytest

from gridtokenx.cluster.devnet import operator_key
from gridtokenx.grid.model import (
    MeterReading,
    ReadingAccepted,
    ReadingRefused,
    SubmitReadings,
    signed_bytes,
)
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import SLOT_MS, slot_at
from gridtokenx.primitives.state import Overlay
from gridtokenx.registry.model import Generation
from gridtokenx.trading import rules as trading
from gridtokenx.trading.clock_model import GatesMissed
from gridtokenx.trading.model import (
    EnergyConsumed,
    MarketParameters,
    OrderClosed,
    OrderStatus,
    Side,
    TradeMatched,
    TradeSettled,
)
from tests.support.market_world import Household, MarketWorld

HOUR_MS = 3_600_000


def signed(world: MarketWorld, house: Household, slot: int, **values: int) -> MeterReading:
    """A reading with any registers, signed by the household's device."""
    shown = {"import_wh_cum": 0, "export_wh_cum": 0, "seq": 1} | values
    bare = MeterReading(house.meter.public_key, slot, **shown, signature=bytes(64))
    return replace(bare, signature=house.meter.sign(signed_bytes(world.spec.chain_id, bare)))


def codes(refused: list) -> list[ErrorCode]:
    return [error.code for _, error in refused]


@pytest.fixture
def world() -> MarketWorld:
    """A solar plant and a neighbour, registered, read up to the slot before."""
    made = MarketWorld()
    made.block()
    made.solar = made.household("solar", source=Generation.SOLAR)
    made.buyer = made.household("buyer")
    assert made.block() == []
    return made


def trade(world: MarketWorld, slot: int, wh: int = 1_000) -> None:
    """Both want the same energy in a slot."""
    world.send(world.solar.key, world.order(world.solar, Side.SELL, wh, 3_000, slot))
    world.send(world.buyer.key, world.order(world.buyer, Side.BUY, wh, 4_000, slot))
    assert world.block() == []
    world.block()


# -- A halt is nobody's fault ----------------------------------------------------------------------


@pytest.fixture
def standing() -> MarketWorld:
    """A chain on wall-clock time in the first minute of a slot, with one trade for the next slot
    and two orders that would meet in the slot four ahead."""
    made = MarketWorld(ms_per_block=0)
    start = (slot_at(made.parent.time_ms) + 2) * SLOT_MS
    made.block(start)
    made.solar = made.household("solar", source=Generation.SOLAR)
    made.buyer = made.household("buyer")
    assert made.block(start + 10_000) == []
    made.start = slot_at(start)
    for ahead in (1, 4):
        order = made.order(made.solar, Side.SELL, 1_000, 3_000, made.start + ahead)
        made.send(made.solar.key, order)
    order = made.order(made.buyer, Side.BUY, 1_000, 4_000, made.start + 1)
    made.send(made.buyer.key, order)
    assert made.block(start + 20_000) == []
    made.block(start + 30_000)
    assert len(made.events(TradeMatched)) == 1
    order = made.order(made.buyer, Side.BUY, 1_000, 4_000, made.start + 4)
    made.send(made.buyer.key, order)  # The last thing before the chain stops.
    assert made.block(start + 40_000) == []
    return made


def test_gates_that_pass_in_a_standstill_clear_nothing_and_return_everything(standing) -> None:
    standing.block((standing.start + 12) * SLOT_MS + 90_000)
    assert len(standing.events(TradeMatched)) == 1
    assert standing.events(TradeSettled) == []
    assert standing.events(GatesMissed) == [GatesMissed(standing.start + 1, standing.start + 12)]
    closed = standing.events(OrderClosed)[2:]  # Two were filled before.
    assert [event.status for event in closed] == [OrderStatus.EXPIRED] * 2
    seller = standing.account(standing.solar)
    assert seller.bond_uthb == 1_000_000  # Of the trade that was agreed before.
    standing.check_conservation()


def test_readings_of_a_standstill_are_due_after_it(standing) -> None:
    """Four slots with blocks, then the deadline; the seller is paid for what it delivered."""
    back = (standing.start + 12) * SLOT_MS + 90_000
    standing.block(back)
    for slots in (1, 2, 3):
        standing.block(back + slots * SLOT_MS)
    readings = []
    for slot in range(standing.start, standing.start + 12):
        made = 1_000 if slot == standing.start + 1 else 0
        readings += standing.reading(standing.solar, slot, made, 0).readings
    standing.send(standing.solar.key, SubmitReadings(tuple(readings)))
    assert standing.block(back + 3 * SLOT_MS + 10_000) == []
    (settled,) = standing.events(TradeSettled)
    assert (settled.delivered_wh, settled.penalty_uthb) == (1_000, 0)
    standing.check_conservation()


def test_the_deadline_comes_after_as_many_slots_with_blocks(standing) -> None:
    back = (standing.start + 12) * SLOT_MS + 90_000
    for slots in range(4):
        standing.block(back + slots * SLOT_MS)
    assert standing.events(TradeSettled) == []
    standing.block(back + 4 * SLOT_MS)
    (settled,) = standing.events(TradeSettled)
    assert (settled.delivered_wh, settled.penalty_uthb) == (0, 1_000_000)


def test_a_block_a_minute_late_still_clears_the_gate(standing) -> None:
    for slot in range(standing.start + 1, standing.start + 5):
        standing.block(slot * SLOT_MS + 59_000)
    assert len(standing.events(TradeMatched)) == 2
    assert standing.events(GatesMissed) == []


# -- Readings that tell the truth about time -------------------------------------------------------


def test_a_delta_over_several_slots_serves_no_sale(world) -> None:
    """What was made at noon cannot be sold in the evening."""
    world.send(world.solar.key, world.reading(world.solar, world.slot - 1, 0, 0))
    assert world.block() == []
    world.go_to(world.slot + 30)
    sold = world.slot + 2
    trade(world, sold, 20_000)
    world.go_to(sold + 1)
    lump = signed(world, world.solar, sold, export_wh_cum=20_000, seq=5)
    world.send(world.solar.key, SubmitReadings((lump,)))
    assert world.block() == []
    world.go_to(sold + 6)
    (settled,) = world.events(TradeSettled)
    assert settled.delivered_wh == 0
    (accepted,) = [one for one in world.events(ReadingAccepted) if one.export_wh]
    assert (accepted.export_wh, accepted.deliverable_wh) == (20_000, 0)
    assert world.account(world.solar).energy_wh == 20_000  # Minted all the same.
    world.check_conservation()


def test_a_meter_that_was_away_sends_all_its_slots_at_once(world) -> None:
    sold = world.slot + 1
    trade(world, sold)
    world.go_to(sold + 3)
    first = world.solar.read_slot + 1
    readings = []
    for slot in range(first, sold + 3):
        readings += world.reading(world.solar, slot, 1_000 if slot == sold else 0, 0).readings
    world.send(world.solar.key, SubmitReadings(tuple(readings)))
    assert world.block() == []
    (settled,) = world.events(TradeSettled)
    assert settled.delivered_wh == 1_000


def test_a_late_reading_mints_and_never_trades(world) -> None:
    sold = world.slot + 1
    trade(world, sold)
    world.go_to(sold + 6)
    (settled,) = world.events(TradeSettled)
    assert settled.delivered_wh == 0
    world.send(world.solar.key, world.reading(world.solar, sold, 1_000, 0))
    assert world.block() == []
    assert len(world.events(TradeSettled)) == 1
    assert world.account(world.solar).energy_wh == 1_000
    world.check_conservation()


def test_one_bad_reading_holds_up_nobody(world) -> None:
    slot = world.slot - 1
    good = world.reading(world.solar, slot, 500, 0).readings[-1]
    bad = replace(signed(world, world.buyer, slot), signature=bytes(64))
    world.send(world.buyer.key, SubmitReadings((bad, good)))
    assert world.block() == []
    (refused,) = world.events(ReadingRefused)
    assert (refused.key, ErrorCode(refused.code)) == (
        world.buyer.meter.public_key,
        ErrorCode.BAD_SIGNATURE,
    )
    assert world.account(world.solar).energy_wh == 500


def test_readings_that_all_fail_are_no_transaction(world) -> None:
    bad = replace(signed(world, world.buyer, world.slot - 1), signature=bytes(64))
    world.send(world.buyer.key, SubmitReadings((bad, bad)))
    assert codes(world.block()) == [ErrorCode.BAD_SIGNATURE]


def test_what_was_not_read_is_burned_once(world) -> None:
    """A buyer misses one reading; its next one shows what it took in over both slots."""
    slot = world.slot + 1
    world.send(world.buyer.key, world.reading(world.buyer, world.slot - 1, 0, 0))
    for ahead in (0, 1):
        order = world.order(world.solar, Side.SELL, 1_000, 3_000, slot + ahead)
        world.send(world.solar.key, order)
        order = world.order(world.buyer, Side.BUY, 1_000, 4_000, slot + ahead)
        world.send(world.buyer.key, order)
    assert world.block() == []
    world.block()
    for ahead in (0, 1):
        world.send(world.solar.key, world.reading(world.solar, slot + ahead, 1_000, 0))
        assert world.block() == []
    both = signed(world, world.buyer, slot + 1, import_wh_cum=1_000, seq=9)
    world.send(world.buyer.key, SubmitReadings((both,)))
    assert world.block() == []
    world.go_to(slot + 8)
    assert sum(event.energy_wh for event in world.events(EnergyConsumed)) == 1_000
    assert world.account(world.buyer).energy_wh == 1_000
    world.check_conservation()


def test_what_was_assumed_is_not_burned_again_by_the_reading_that_comes_late(world) -> None:
    slot = world.slot + 1
    trade(world, slot)
    world.send(world.solar.key, world.reading(world.solar, slot, 1_000, 0))
    world.go_to(slot + 6)  # The buyer is taken to have consumed it.
    assert [event.energy_wh for event in world.events(EnergyConsumed)] == [1_000]
    later = world.slot + 1
    trade(world, later)
    world.go_to(later + 1)
    world.send(world.solar.key, world.reading(world.solar, later, 1_000, 0))
    readings = []
    for one in range(slot - 1, later + 1):  # It imported 1,000 Wh in each of the two slots.
        readings += world.reading(world.buyer, one, 0, 1_000 * (one in (slot, later))).readings
    world.send(world.buyer.key, SubmitReadings(tuple(readings)))
    assert world.block() == []
    world.go_to(later + 8)
    assert sum(event.energy_wh for event in world.events(EnergyConsumed)) == 2_000
    assert world.account(world.buyer).energy_wh == 0


# -- Inputs are bounded where they enter -----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"import_wh_cum": 2**53}, ErrorCode.BAD_READING),
        ({"import_wh_cum": 2**32}, ErrorCode.BAD_READING),
        ({"export_wh_cum": 2**53}, ErrorCode.BAD_READING),
        ({"seq": 2**53}, ErrorCode.READING_OUT_OF_ORDER),
    ],
)
def test_a_wild_register_is_refused_and_the_meter_lives_on(world, values, code) -> None:
    slot = world.slot - 1
    world.send(world.buyer.key, SubmitReadings((signed(world, world.buyer, slot, **values),)))
    assert codes(world.block()) == [code]
    world.nonces[world.buyer.key.public_key] -= 1
    world.send(world.buyer.key, world.reading(world.buyer, world.slot - 1, 0, 500))
    assert world.block() == []


def test_import_is_bounded_by_the_nameplate_over_the_slots(world) -> None:
    """200 kW take in 55,000 Wh a slot at 110 %; the meter is read for the second time here."""
    slot = world.slot - 1
    most = 55_000 * (slot - world.buyer.read_slot)
    for import_wh, expected in ((most + 1, [ErrorCode.BAD_READING]), (most, [])):
        reading = signed(world, world.buyer, slot, import_wh_cum=import_wh)
        world.send(world.buyer.key, SubmitReadings((reading,)))
        assert codes(world.block()) == expected
        world.nonces[world.buyer.key.public_key] = 0


def test_a_large_claim_needs_the_distributor(world) -> None:
    """Ten silent days at the full nameplate: the household alone cannot claim them."""
    slot = world.slot + 960
    world.go_to(slot + 1)
    claim = 27_500 * 960
    reading = signed(world, world.solar, slot, export_wh_cum=claim)
    world.send(world.solar.key, SubmitReadings((reading,)))
    assert codes(world.block()) == [ErrorCode.NOT_PERMITTED]
    world.send(operator_key("mea"), SubmitReadings((reading,)))
    assert world.block() == []
    assert world.account(world.solar).energy_wh == claim


def test_what_a_meter_has_open_and_sold_stays_within_its_nameplate(world) -> None:
    """25 kWh a slot: one order of it is taken, no second one, also after the first was filled."""
    slot = world.slot + 5
    for _ in range(2):
        world.send(world.solar.key, world.order(world.solar, Side.SELL, 13_000, 3_000, slot))
    assert codes(world.block()) == [ErrorCode.SLOT_CAP]
    world.nonces[world.solar.key.public_key] -= 1
    world.send(world.buyer.key, world.order(world.buyer, Side.BUY, 13_000, 4_000, slot))
    world.send(world.solar.key, world.order(world.solar, Side.SELL, 12_000, 3_000, slot))
    assert world.block() == []
    world.block()
    assert sum(event.trade.energy_wh for event in world.events(TradeMatched)) == 13_000
    world.send(world.solar.key, world.order(world.solar, Side.SELL, 1_000, 3_000, slot))
    assert codes(world.block()) == [ErrorCode.SLOT_CAP]


# -- What was agreed stays -------------------------------------------------------------------------


def test_a_shorter_deadline_does_not_punish_what_was_agreed_before_it(world) -> None:
    sold = world.slot + 1
    trade(world, sold)
    vote(world, reading_deadline_slots=1)
    world.go_to(sold + 4)
    assert world.events(TradeSettled) == []
    readings = [
        world.reading(world.solar, slot, 1_000 if slot == sold else 0, 0).readings[-1]
        for slot in range(world.solar.read_slot + 1, sold + 1)
    ]
    world.send(world.solar.key, SubmitReadings(tuple(readings)))
    assert world.block() == []
    assert [event.delivered_wh for event in world.events(TradeSettled)] == [1_000]


def test_a_lower_ceiling_binds_orders_that_rest(world) -> None:
    slot = world.slot + 20
    world.send(world.solar.key, world.order(world.solar, Side.SELL, 1_000, 3_500, slot))
    assert world.block() == []
    vote(world, max_price_mthb=4_000)
    world.send(world.buyer.key, world.order(world.buyer, Side.BUY, 1_000, 4_000, slot))
    assert world.block() == []
    world.block()
    assert [event.trade.price_mthb for event in world.events(TradeMatched)] == [3_600]
    vote(world, max_price_mthb=9_000)
    world.send(world.solar.key, world.order(world.solar, Side.SELL, 1_000, 8_000, slot))
    assert world.block() == []
    vote(world, max_price_mthb=4_000)
    vote_bid = world.order(world.buyer, Side.BUY, 1_000, 9_000, slot)
    world.send(world.buyer.key, vote_bid)
    assert codes(world.block()) == [ErrorCode.PRICE_OUT_OF_BAND]
    vote(world, max_price_mthb=9_000)
    world.nonces[world.buyer.key.public_key] -= 1
    world.send(world.buyer.key, vote_bid)
    assert world.block() == []
    vote(world, max_price_mthb=4_000)  # Both rest above the ceiling when they would be cleared.
    world.go_to(slot + 1)
    assert len(world.events(TradeMatched)) == 1
    assert [event.status for event in world.events(OrderClosed)][2:] == [OrderStatus.EXPIRED] * 2


def vote(world: MarketWorld, **changes: object) -> None:
    """Put market parameters in force, as an order of the national chain does."""
    overlay = Overlay(world.values)
    trading.set_parameters(overlay, replace(trading.parameters(world.values), **changes))
    world._store(overlay.changes())
    world.parent = replace(world.parent, state_root=world.tree.root)


def test_vat_is_that_of_the_trades_own_slot() -> None:
    """The reduced rate ends between two slots of one order."""
    probe = MarketWorld()
    end_slot = probe.slot + 6
    world = MarketWorld(
        parameters=MarketParameters(vat_end_ms=end_slot * SLOT_MS, vat_after_bps=1_000)
    )
    world.block()
    world.solar = world.household("solar", source=Generation.SOLAR)
    world.buyer = world.household("buyer")
    world.block()
    span = {"first_slot": end_slot - 1, "last_slot": end_slot, "max_wh_per_slot": 1_000}
    sell = world.order(world.solar, Side.SELL, 2_000, 3_000, end_slot, **span)
    buy = world.order(world.buyer, Side.BUY, 2_000, 4_000, end_slot, **span)
    world.send(world.solar.key, sell)
    world.send(world.buyer.key, buy)
    assert world.block() == []
    assert world.account(world.buyer).escrow_uthb == 2_000 * 4_000 * 11 // 10
    world.go_to(end_slot + 1)
    rates = {event.trade.slot: event.trade.vat_bps for event in world.events(TradeMatched)}
    assert rates == {end_slot - 1: 700, end_slot: 1_000}
    world.check_conservation()
