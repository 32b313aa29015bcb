"""Nothing that a chain stores is unreadable: extreme commands, and every running total at its end.

The long run of the first part is `scripts/fuzz-state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from gridtokenx.chain.crossing import NationalSlice
from gridtokenx.cluster.devnet import dev_key, operator_key
from gridtokenx.governance.model import NEWEST, ParameterChange, ProposalReference
from gridtokenx.grid.model import MAX_SEQ, REGISTERS
from gridtokenx.interchain.model import (
    REGIONS,
    Credit,
    HaltOrder,
    MessageFailed,
    ParameterOrder,
    TransferAbroad,
    TransferReturning,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import (
    ACCOUNTS,
    CROSSINGS,
    SUPPLY,
    Account,
    Asset,
    Crossings,
    Deposit,
    RetireCredits,
    Supply,
    Transfer,
)
from gridtokenx.primitives.codec import MAX_INT
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import MAX_REGISTER_WH, SLOTS_PER_DAY, local_day, slot_at
from gridtokenx.primitives.state import Table, u64
from gridtokenx.registry.model import (
    ENROLMENT_COUNT,
    PARTICIPANTS,
    EnrolmentCount,
    Generation,
)
from gridtokenx.staking.model import (
    BONDED,
    DELEGATIONS,
    POOLED,
    VALIDATORS,
    Bond,
    Count,
    Delegation,
    Unbond,
)
from gridtokenx.trading import reports
from gridtokenx.trading.model import FLOWS, POSITIONS, TRADERS, Side
from gridtokenx.trading.report_model import (
    REPORT_LINES,
    REPORT_PRODUCTION,
    REPORT_TOTALS,
    REPORTS,
    ReportTotals,
)
from tests.support.market_world import MarketWorld
from tests.support.state_fuzz import KINDS, Counts, FuzzedNational, FuzzedRegion, fuzz

RICH = SigningKey(sha256(b"rich")).public_key
SUMS: tuple[Table[Any], ...] = (REPORT_TOTALS, REPORT_LINES, REPORT_PRODUCTION, FLOWS)


@pytest.mark.parametrize("seed", [11, 12])
def test_extreme_commands_leave_what_can_be_read_and_no_exception_but_a_refusal(seed: int) -> None:
    counts = fuzz(2_500, seed)
    tried = {name for name, number in (counts.accepted + counts.refused).items() if number}
    assert tried >= {kind.__name__ for kind in KINDS}
    assert len(counts.accepted) > len(KINDS) // 2
    assert counts.rows > 500


# -- Statistics stand still at the end -------------------------------------------------------------


def region(blocks: int = 0) -> FuzzedRegion:
    made = FuzzedRegion(Random(3), Counts())
    made.live(blocks)
    return made


def numbers(row: Any) -> list[str]:
    """Fields that add up. A tier is a name, though it is a number."""
    fields = [one.name for one in dataclasses.fields(row)]
    return [name for name in fields if name != "tier" and type(getattr(row, name)) is int]


def at_the_end(row: Any) -> Any:
    return replace(row, **dict.fromkeys(numbers(row), MAX_INT - 1))


def test_reports_and_flows_stand_still_at_the_end_of_the_range() -> None:
    """Their day closes like any other, and its report is read back."""
    world = region(blocks=12)
    state = world.chain.state
    tables = (*SUMS, POSITIONS)
    for table in SUMS:
        rows = [(table, key, at_the_end(row)) for key, row in table.items(state)]
        assert rows, f"{table.kind.__name__}: nothing to drive to its end"
        world.chain.plant(rows)
    reached: dict[str, set[str]] = {table.kind.__name__: set() for table in tables}
    for step in range(SLOTS_PER_DAY):
        if step < 30:  # What slots count is soon over, so all that there is anew.
            flows = [(FLOWS, key, at_the_end(row)) for key, row in FLOWS.items(state)]
            sold = [
                (POSITIONS, key, replace(row, sold_wh=MAX_INT - 1))
                for key, row in POSITIONS.items(state)
            ]
            world.chain.plant([*flows, *sold])
        world.live(1)
        for table in tables:
            for _, row in table.items(state):
                full = [name for name in numbers(row) if getattr(row, name) == MAX_INT]
                reached[table.kind.__name__] |= set(full)
    assert reached["ReportTotals"] >= {"readings", "import_wh", "consumed_wh", "missing_readings"}
    assert reached["ReportLine"] >= {"trades", "traded_wh", "energy_uthb", "fee_uthb"}
    assert reached["ProductionLine"] == {"export_wh", "carbon_ucr"}
    assert reached["NodeFlow"] == {"export_wh", "import_wh", "local_wh"}
    assert reached["Position"] == {"sold_wh"}
    closed = [row for _, row in REPORTS.items(state)]
    assert MAX_INT in [row.totals.import_wh for row in closed]


def test_a_redemption_at_the_end_is_counted_as_far_as_it_goes() -> None:
    world = region(blocks=3)
    world.chain.plant([(REPORT_TOTALS, _today(world), ReportTotals(redeemed_uthb=MAX_INT - 1))])
    reports.add_redemption(
        world.chain.pending,
        territory="BKK",
        now_ms=world.chain.env.now_ms,
        energy_wh=5,
        paid_uthb=9,
    )
    found = REPORT_TOTALS.get(world.chain.pending, _today(world))
    assert found == ReportTotals(redeemed_wh=5, redeemed_uthb=MAX_INT)


def _today(world: FuzzedRegion) -> bytes:
    return u64(local_day(world.chain.env.now_ms)) + b"BKK"


# -- What somebody owns is refused -----------------------------------------------------------------


def rich(supply: Supply, **changes: int) -> list[tuple[Table[Any], bytes, Any]]:
    """Somebody holds all that is missing to the end of a supply, by asset."""
    return [(SUPPLY, b"", replace(supply, **dict.fromkeys(changes, MAX_INT))), (
        ACCOUNTS,
        RICH,
        Account(
            thb_uthb=MAX_INT - supply.thb_uthb if "thb_uthb" in changes else 0,
            gtx_ugtx=MAX_INT - supply.gtx_ugtx if "gtx_ugtx" in changes else 0,
            energy_wh=MAX_INT - supply.energy_minted_wh if "energy_minted_wh" in changes else 0,
            carbon_ucr=MAX_INT - supply.carbon_issued_ucr if "carbon_issued_ucr" in changes else 0,
        ),
    )]  # fmt: skip


@pytest.mark.parametrize("total", ["thb_uthb", "gtx_ugtx", "energy_minted_wh", "carbon_issued_ucr"])
def test_a_supply_at_its_end_refuses_more_and_the_market_goes_on(total: str) -> None:
    world = region(blocks=6)
    world.chain.plant(rich(ledger.supply(world.chain.state), **{total: MAX_INT}))
    refusals = []
    for _ in range(8):
        house = world.houses[1]
        payment = operator_key("payment")
        refusals.append(world.chain.offer(payment, Deposit(house.key.public_key, 1_000_000)))
        world.live(1)
    if total == "thb_uthb":
        assert all(one is not None and one.code is ErrorCode.OUT_OF_RANGE for one in refusals)
    elif total == "gtx_ugtx":
        assert refusals == [None] * 8
    else:  # Readings of those who make nothing are still taken.
        assert world.chain.counts.codes["OUT_OF_RANGE"]
    assert world.chain.counts.accepted["SubmitReadings"]
    assert world.chain.counts.accepted["PlaceOrder"]


def test_an_account_cannot_be_brought_beyond_the_range() -> None:
    """Whatever supply says: the sum itself is looked at where it enters the state."""
    world = region()
    world.chain.plant([(ACCOUNTS, RICH, Account(thb_uthb=MAX_INT, energy_wh=MAX_INT))])
    told = world.chain.offer(world.houses[0].key, Transfer(RICH, Asset.THB, 1))
    assert told is not None
    assert told.code is ErrorCode.OUT_OF_RANGE
    assert told.detail == f"Account.thb_uthb is {2**63}, must be 0..{MAX_INT}"
    world.live(1)
    assert ledger.account(world.chain.state, RICH).thb_uthb == MAX_INT


ARRIVALS = {
    Asset.THB: "thb_arrived_uthb",
    Asset.GTX: "gtx_arrived_ugtx",
    Asset.ENERGY: "energy_arrived_wh",
}


@pytest.mark.parametrize("asset", ARRIVALS)
def test_what_cannot_arrive_any_more_goes_back(asset: Asset) -> None:
    world = region(blocks=2)
    world.chain.plant([(CROSSINGS, b"", replace(Crossings(), **{ARRIVALS[asset]: MAX_INT}))])
    credit = Credit(sha256(b"transfer"), "TH", "MET", RICH, RICH, asset, 1)
    execution = world.chain.block(NationalSlice(1, sha256(b"1"), (credit,)))
    events = execution.receipts[0].events
    assert [type(one) for one in events if "Transfer" in type(one).__name__] == [TransferReturning]


@pytest.mark.parametrize(
    "order",
    [
        ParameterOrder("governance.fee", 1),  # No record of a region has it.
        ParameterOrder("staking.unit", 1),
        ParameterOrder("pricing.min", MAX_INT),
        ParameterOrder("nothing", 0),
        HaltOrder("BKK", "for ever and a day", MAX_INT),
        HaltOrder("XYZ", "elsewhere", 1),
    ],
)
def test_an_order_that_a_region_cannot_carry_out_is_refused(
    order: ParameterOrder | HaltOrder,
) -> None:
    world = region()
    execution = world.chain.block(NationalSlice(1, sha256(b"1"), (order,)))
    events = execution.receipts[0].events
    assert [type(one) for one in events] == [MessageFailed]


def refused(world: FuzzedRegion | FuzzedNational, key: SigningKey, command: Any) -> ErrorCode:
    told = world.chain.offer(key, command)
    assert isinstance(told, Rejected), f"{command} was accepted"
    world.chain.block()
    return told.code


def test_counters_of_a_region_refuse_at_their_end() -> None:
    world = region(blocks=8)
    chain, house = world.chain, world.houses[1]
    who, key = house.key.public_key, house.key
    before = ledger.account(chain.state, who)
    assert before.carbon_ucr
    chain.plant([(SUPPLY, b"", replace(ledger.supply(chain.state), certificates=MAX_INT))])
    assert refused(world, key, RetireCredits(1)) is ErrorCode.OUT_OF_RANGE
    person = PARTICIPANTS.get(chain.state, who)
    assert person is not None
    full = replace(person, export_nameplate_w=MAX_INT, licence_class="generation")
    chain.plant([(PARTICIPANTS, who, full), (ENROLMENT_COUNT, b"", EnrolmentCount(MAX_INT))])
    market = MarketWorld()
    market.household("another", source=Generation.SOLAR)
    person_command, meter_command, _ = [one.payload for one in market.waiting]
    mea = operator_key("mea")
    told = chain.offer(mea, person_command)
    assert told is not None
    assert told.code is ErrorCode.OUT_OF_RANGE
    told = chain.offer(mea, replace(meter_command, owner=who))
    assert told is not None
    assert told.code is ErrorCode.OUT_OF_RANGE


def test_registers_and_caps_at_their_end_refuse_more() -> None:
    world = region(blocks=4)
    chain, house = world.chain, world.houses[0]
    shown = REGISTERS.get(chain.state, house.meter.public_key)
    assert shown is not None
    top = MAX_REGISTER_WH
    ends = replace(shown, import_wh_cum=top, export_wh_cum=top, seq=MAX_SEQ)
    chain.plant([(REGISTERS, house.meter.public_key, ends)])
    slot = slot_at(chain.env.now_ms)
    house.import_wh, house.export_wh, house.seq = top, top, MAX_SEQ - 1
    told = chain.offer(house.key, world.market.reading(house, slot - 1, 0, 0))
    assert told is not None
    assert told.code in (ErrorCode.READING_OUT_OF_ORDER, ErrorCode.BAD_READING)
    who = house.key.public_key
    trader = TRADERS.get(chain.state, who)
    person = PARTICIPANTS.get(chain.state, who)
    assert trader is not None
    assert person is not None
    day = trader.day
    chain.plant(
        [
            (TRADERS, who, replace(trader, day=day, ordered_wh=MAX_INT - 1)),
            (PARTICIPANTS, who, replace(person, daily_cap_wh=MAX_INT)),
        ]
    )
    order = world.market.order(house, Side.BUY, 1000, 4000, slot + 2)
    assert refused(world, house.key, order) is ErrorCode.DAILY_CAP


def test_an_account_that_has_used_all_its_nonces_is_refused() -> None:
    world = region()
    house = world.houses[0]
    held = ledger.account(world.chain.state, house.key.public_key)
    world.chain.plant([(ACCOUNTS, house.key.public_key, replace(held, nonce=MAX_INT))])
    told = refused(world, house.key, Transfer(RICH, Asset.THB, 1_000_000))
    assert told is ErrorCode.OUT_OF_RANGE


# -- The national chain ----------------------------------------------------------------------------


def national() -> FuzzedNational:
    return FuzzedNational(Random(4), Counts())


def bonded_to_the_end(world: FuzzedNational) -> Iterable[tuple[Table[Any], bytes, Any]]:
    """One pool holds all the gtx that a chain can have, in as many shares."""
    state = world.chain.state
    supply = ledger.supply(state)
    more = MAX_INT - supply.gtx_ugtx
    operator, pool = next(iter(VALIDATORS.items(state)))
    pools = ledger.account(state, BONDED)
    grown = replace(pool, stake_ugtx=pool.stake_ugtx + more, shares=pool.shares + more)
    return [
        (SUPPLY, b"", replace(supply, gtx_ugtx=MAX_INT)),
        (ACCOUNTS, BONDED, replace(pools, gtx_ugtx=pools.gtx_ugtx + more)),
        (VALIDATORS, operator, grown),
        (POOLED, b"", Count(pools.gtx_ugtx + more)),
        (DELEGATIONS, operator + operator, Delegation(grown.shares)),
    ]


def test_stake_at_its_end_earns_and_is_paid_on() -> None:
    world = national()
    world.chain.plant(bonded_to_the_end(world))
    for _ in range(150):  # Rewards, the order of a set in an epoch's first block, and its change.
        world.chain.block()
    operator, pool = next(iter(VALIDATORS.items(world.chain.state)))
    key = world.maker.keys[operator]
    assert world.chain.offer(key, Unbond(operator, pool.stake_ugtx // 2)) is None
    world.chain.block()
    world.chain.plant([(VALIDATORS, operator, replace(pool, shares=MAX_INT))])
    dev = dev_key("dev")
    assert refused(world, dev, Bond(operator, 10**9)) is ErrorCode.OUT_OF_RANGE


def test_counters_of_the_national_chain_refuse_at_their_end() -> None:
    world = national()
    chain = world.chain
    chain.plant([(NEWEST, b"", ProposalReference(MAX_INT))])
    proposal = next(kind for kind in KINDS if kind.__name__ == "Propose")
    content = world.maker.made(proposal)
    command = replace(content, title="t", content=ParameterChange("fees.trade", "0.01"))
    assert refused(world, dev_key("egat account"), command) is ErrorCode.OUT_OF_RANGE


def test_an_escrow_at_its_end_takes_no_more() -> None:
    world = national()
    found = REGIONS.get(world.chain.state, b"MET")
    assert found is not None
    full = replace(found, escrow=replace(found.escrow, gtx_ugtx=MAX_INT), seen_height=1)
    world.chain.plant([(REGIONS, b"MET", full)])
    command = TransferAbroad("MET", RICH, Asset.GTX, 1)
    assert refused(world, dev_key("egat account"), command) is ErrorCode.OUT_OF_RANGE


# -- The case that showed it -----------------------------------------------------------------------


def test_a_meter_that_shows_the_largest_number_harms_nobody_else() -> None:
    """Its own reading may be refused or taken; its neighbour reads on, and the day closes."""
    world = MarketWorld()
    world.block()
    honest, evil = world.household("honest"), world.household("evil")
    world.block()
    evil.seq = 1
    refusals = []
    for step in range(110):
        slot = world.slot - 1
        world.send(honest.key, world.reading(honest, slot, 0, 500))
        if step == 1:
            evil.import_wh = 0
            world.send(evil.key, world.reading(evil, slot, 0, MAX_REGISTER_WH))
        refusals += [one for one in world.block() if step != 1]
    assert refusals == []
    closed = [report for _, report in REPORTS.items(world.values) if report.territory == "BKK"]
    assert len(closed) == 1
    assert closed[0].totals.readings >= 90
    world.check_conservation()
