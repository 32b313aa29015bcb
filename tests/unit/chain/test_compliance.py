"""Authorities act on the market through blocks: grid status, halts, suspensions, reports."""

from dataclasses import replace

import pytest

from gridtokenx.cluster.devnet import account_address, operator_key
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus, ResumeTerritory
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Deposit, Transfer
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import SLOTS_PER_DAY
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ReinstateParticipant,
    RenewLicence,
    SuspendParticipant,
)
from gridtokenx.trading.clock_model import CLOCK
from gridtokenx.trading.model import (
    FLOWS,
    EnergyRedeemed,
    NodeFlow,
    OrderClosed,
    Redeem,
    ReportClosed,
    Side,
    SlotCleared,
    TradeMatched,
    TradeSettled,
)
from gridtokenx.trading.report_model import REPORT_LINES, REPORT_MEMBERS, REPORT_TOTALS, REPORTS
from gridtokenx.trading.reports import closed_report, day_of, report_hash
from tests.support.market_world import FAR_MS, MarketWorld

MEA, PEA, ERC, EGAT = (operator_key(name) for name in ("mea", "pea", "erc", "egat"))


@pytest.fixture
def world() -> MarketWorld:
    fresh = MarketWorld()
    fresh.block()
    return fresh


def status(world: MarketWorld, node: str, loading_bps: int, **changes) -> PublishGridStatus:
    slot = world.slot + 1
    command = PublishGridStatus(node, slot, loading_bps, 400_000, 50_000, 10_000)
    return replace(command, **changes)


def pair(world: MarketWorld) -> tuple:
    seller = world.household("sun", "BKK-01-SUB001", Generation.SOLAR)
    buyer = world.household("shop", "BKK-01-SUB002")
    world.block()
    return seller, buyer


def offer(world: MarketWorld, seller, buyer, slot: int, wh: int = 2_000) -> None:
    world.send(seller.key, world.order(seller, Side.SELL, wh, 3_000, slot))
    world.send(buyer.key, world.order(buyer, Side.BUY, wh, 4_500, slot))


# -- Grid ------------------------------------------------------------------------------------------


def test_published_headroom_bounds_what_all_clearings_of_a_slot_sell(world) -> None:
    seller, buyer = pair(world)
    world.send(MEA, status(world, "BKK-01-SUB001", 9_900))  # 1,000 Wh of headroom.
    slot = world.slot + 9
    offer(world, seller, buyer, slot)
    assert world.block() == []
    world.send(MEA, status(world, "BKK-01-SUB001", 9_900))
    assert world.block() == []
    assert [trade.trade.energy_wh for trade in world.newest(TradeMatched)] == [1_000]
    (cleared,) = world.newest(SlotCleared)
    assert len(cleared.congested) == 1
    assert FLOWS.get(world.values, slot.to_bytes(8, "big") + b"BKK-01-SUB001") == NodeFlow(
        export_wh=1_000
    )
    assert FLOWS.get(world.values, slot.to_bytes(8, "big") + b"BKK-01") == NodeFlow(local_wh=1_000)
    more = world.household("neighbour", "BKK-01-SUB001")
    world.block()
    world.send(more.key, world.order(more, Side.BUY, 300, 4_500, slot))
    world.block()
    world.block()  # The headroom is used up; inside the substation trade goes on.
    assert [(trade.trade.energy_wh, trade.trade.tier) for trade in world.newest(TradeMatched)] == [
        (300, 0)
    ]


def test_who_may_publish_which_node(world) -> None:
    for key, node, code in (
        (PEA, "BKK-01", ErrorCode.WRONG_TERRITORY),
        (EGAT, "BKK-01", ErrorCode.NOT_GRID_OPERATOR),
        (ERC, "BKK", ErrorCode.NOT_GRID_OPERATOR),
        (MEA, "CNX", ErrorCode.UNKNOWN_ZONE),
        (MEA, "BKK-1", ErrorCode.UNKNOWN_ZONE),
    ):
        assert world.code_of(key, status(world, node, 0)) is code
    world.send(EGAT, status(world, "BKK", 0))
    world.send(MEA, status(world, "BKK", 0))
    assert world.block() == []


def test_a_halt_stops_admission_and_matching_but_not_the_clock(world) -> None:
    seller, buyer = pair(world)
    slot = world.slot + 3
    offer(world, seller, buyer, slot)
    world.send(ERC, HaltTerritory("BKK", "frequency test"))
    assert world.block() == []
    world.block()
    assert world.newest(TradeMatched) == []
    order = world.order(buyer, Side.BUY, 1_000, 4_500, slot)
    assert world.code_of(buyer.key, order) is ErrorCode.GRID_EMERGENCY
    assert world.code_of(MEA, ResumeTerritory("BKK", "please")) is ErrorCode.NOT_PERMITTED
    assert len(world.newest(OrderClosed)) == 2  # Their gate closed during the halt.
    world.send(ERC, ResumeTerritory("BKK", "over"))
    assert world.block() == []
    offer(world, seller, buyer, world.slot + 2)
    world.block()
    world.block()
    assert len(world.newest(TradeMatched)) == 1


def test_what_came_in_before_a_halt_is_cleared_after_it(world) -> None:
    seller, buyer = pair(world)
    offer(world, seller, buyer, world.slot + 9)
    world.send(MEA, status(world, "BKK", 0, frequency_mhz=49_000))
    assert world.block() == []
    world.block()
    assert world.newest(TradeMatched) == []
    world.send(MEA, status(world, "BKK", 0))
    world.block()
    world.block()
    assert len(world.newest(TradeMatched)) == 1


# -- Participants ----------------------------------------------------------------------------------


def test_a_suspended_participant_loses_its_orders_not_its_money(world) -> None:
    seller, buyer = pair(world)
    before = world.account(buyer).thb_uthb
    offer(world, seller, buyer, world.slot + 9)
    world.send(MEA, SuspendParticipant(buyer.key.public_key, "unpaid bills"))
    assert world.block() == []
    assert len(world.newest(OrderClosed)) == 1
    assert world.account(buyer).thb_uthb == before
    order = world.order(buyer, Side.BUY, 1_000, 4_500, world.slot + 4)
    assert world.code_of(buyer.key, order) is ErrorCode.NOT_ACTIVE
    suspend = SuspendParticipant(buyer.key.public_key, "again")
    reinstate = ReinstateParticipant(buyer.key.public_key, "paid")
    assert world.code_of(MEA, suspend) is ErrorCode.DUPLICATE
    assert world.code_of(PEA, reinstate) is ErrorCode.WRONG_TERRITORY
    world.send(ERC, suspend)  # The regulator takes over.
    assert world.block() == []
    assert world.code_of(MEA, reinstate) is ErrorCode.NOT_PERMITTED
    world.send(ERC, reinstate)
    assert world.block() == []
    assert world.code_of(MEA, reinstate) is ErrorCode.DUPLICATE
    world.send(buyer.key, world.order(buyer, Side.BUY, 1_000, 4_500, world.slot + 4))
    assert world.block() == []


def test_a_licence_is_renewed_by_the_distributor(world) -> None:
    _, buyer = pair(world)
    account = buyer.key.public_key
    renewal = RenewLicence(account, LicenceClass.RETAIL, FAR_MS + 1)
    assert world.code_of(ERC, renewal) is ErrorCode.NOT_GRID_OPERATOR
    expired = replace(renewal, licence_expiry_ms=1)
    assert world.code_of(MEA, expired) is ErrorCode.LICENCE_EXPIRED
    world.send(MEA, renewal)
    assert world.block() == []


# -- Redemption ------------------------------------------------------------------------------------


def unused_energy(world: MarketWorld, house, wh: int = 1_000) -> None:
    world.send(house.key, world.reading(house, world.slot - 1, wh, 0))
    assert world.block() == []


def fund_utility(world: MarketWorld, uthb: int) -> None:
    world.send(operator_key("payment"), Deposit(account_address("mea"), uthb))
    assert world.block() == []


def test_unused_energy_is_redeemed_by_the_utility(world) -> None:
    seller, _ = pair(world)
    world.block()
    unused_energy(world, seller)
    assert world.code_of(seller.key, Redeem(400)) is ErrorCode.INSUFFICIENT_BALANCE
    fund_utility(world, 1_000_000)
    before = world.account(seller)
    assert world.code_of(seller.key, Redeem(1_001)) is ErrorCode.INSUFFICIENT_BALANCE
    assert world.code_of(operator_key("egat"), Redeem(1)) is ErrorCode.NOT_REGISTERED
    world.send(seller.key, Redeem(400))
    assert world.block() == []
    after = world.account(seller)
    assert after.thb_uthb - before.thb_uthb == 400 * 2_200
    assert (after.energy_wh, after.carbon_ucr) == (600, before.carbon_ucr)
    assert ledger.supply(world.values).energy_burned_wh == 400
    world.check_conservation()


def test_the_month_ends_with_redemption_as_far_as_the_utility_can_pay() -> None:
    """16 March to 1 April is 16 days; one block may skip slots, so the clock is turned instead."""
    world = MarketWorld(redemptions_per_block=1, ms_per_block=6 * 3_600_000)
    world.block()
    first = world.household("first", source=Generation.SOLAR)
    second = world.household("second", source=Generation.SOLAR)
    third = world.household("third", source=Generation.SOLAR)
    world.block()
    for house in (first, second, third):
        unused_energy(world, house)
    fund_utility(world, 2_200 * 1_500)
    redeemed = []
    while world.parent.height < 16 * 4 + 5:
        world.block()
        redeemed.append(world.newest(EnergyRedeemed))
    assert [[one.energy_wh for one in found] for found in redeemed if found] == [[1_000], [500]]
    assert all(one.at_month_end for found in redeemed for one in found)
    assert world.account(third).energy_wh == 1_000
    world.check_conservation()


# -- Reports ---------------------------------------------------------------------------------------


def test_a_days_report_adds_up_and_is_closed_once(world) -> None:
    seller, buyer = pair(world)
    slot = world.slot + 2
    day = day_of(slot)
    offer(world, seller, buyer, slot)
    while world.slot <= slot:
        world.block()
    world.send(seller.key, world.reading(seller, slot, 1_500, 0))
    world.send(buyer.key, world.reading(buyer, slot, 0, 5_000))
    assert world.block() == []
    (settled,) = world.newest(TradeSettled)
    reports: list[ReportClosed] = []
    while not reports:
        world.block()
        reports = world.newest(ReportClosed)
    last_slot = (slot + 28) // SLOTS_PER_DAY * SLOTS_PER_DAY + 67  # 23:45 in Bangkok (UTC+7).
    clock = CLOCK.get(world.values, b"")
    assert (clock.slot, clock.settled_slot) == (last_slot + 5, last_slot)
    assert [(one.territory, one.day) for one in reports] == [
        (territory, day) for territory in ("BKK", "NTB", "SPK")
    ]
    report = closed_report(world.values, "BKK", day)
    assert report_hash(report) == reports[0].report_hash
    (line,) = report.lines
    assert (line.tier, line.source, line.trades) == (1, "solar", 1)
    assert (line.traded_wh, line.delivered_wh) == (2_000, 1_500)
    for name in ("energy_uthb", "wheeling_uthb", "vat_uthb", "fee_uthb", "penalty_uthb"):
        assert getattr(line, name) == getattr(settled, name)
    assert line.carbon_ucr == 750_000
    totals = report.totals
    # Each meter was read at the end of the slot before, too.
    assert (totals.readings, totals.missing_readings, totals.participants) == (4, 0, 2)
    assert (totals.import_wh, totals.consumed_wh, totals.assumed_wh) == (5_000, 1_500, 0)
    (production,) = report.production
    assert (production.source, production.export_wh) == ("solar", 1_500)
    assert closed_report(world.values, "SPK", day).lines == ()
    world.block()
    assert world.newest(ReportClosed) == []
    left = [list(table.items(world.values)) for table in (REPORT_LINES, REPORT_TOTALS)]
    assert left == [[], []]
    assert list(REPORT_MEMBERS.items(world.values)) == []
    assert len(list(REPORTS.items(world.values))) == 3


def test_transfers_do_not_enter_a_report(world) -> None:
    seller, buyer = pair(world)
    world.send(seller.key, Transfer(buyer.key.public_key, Asset.THB, 5))
    assert world.block() == []
    assert list(REPORT_TOTALS.items(world.values)) == []
