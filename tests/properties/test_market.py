"""A long seeded day of everything the market allows and refuses: nothing appears or vanishes.

After every step the accounts must add up to the supply, and what stands in orders and trades to
what accounts have set aside. Source: protocols/market.md 7.
"""

import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from gridtokenx.chain.commands import grid_limits, metering_point
from gridtokenx.grid import operation
from gridtokenx.grid.model import (
    HALTS,
    HaltTerritory,
    MeteringPoint,
    MeterReading,
    PublishGridStatus,
    ResumeTerritory,
    signed_bytes,
)
from gridtokenx.grid.rules import accept_reading, read_since, read_to, registers
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import (
    ACCOUNTS,
    Account,
    Asset,
    Deposit,
    RetireCredits,
    Transfer,
    Withdraw,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.quantities import SLOT_MS, slot_at
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry import meters
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    Organisation,
    OrganisationKind,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    ReinstateParticipant,
    Role,
    SuspendParticipant,
    Territory,
)
from gridtokenx.trading import rules as trading
from gridtokenx.trading.book import trader
from gridtokenx.trading.clock_model import IMPORTS
from gridtokenx.trading.matching import GridView
from gridtokenx.trading.model import (
    FLOWS,
    ORDERS,
    POSITIONS,
    TRADES,
    CancelOrder,
    EnergyConsumed,
    EnergyRedeemed,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    NodeFlow,
    OrderClosed,
    OrderPlaced,
    PlaceOrder,
    Redeem,
    ReportClosed,
    Side,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
    TradeSettled,
)
from gridtokenx.trading.redemption import Customer, Customers
from gridtokenx.trading.reports import closed_report, day_of, report_hash
from gridtokenx.trading.settlement import Payees, ReadingFacts

CHAIN = bytes([7]) * 32
MEA, PAY, ERC, AUTHORITY = (sha256(name) for name in (b"mea", b"pay", b"erc", b"authority"))
LIMITS = grid_limits(MarketParameters())
STEPS = 2_500  # Each of 4 walks: 10,000 transactions and blocks.
CHECKED_STEPS, CHECK_EVERY = 300, 10  # A check costs several steps.
SUMMED = (
    *("traded_wh", "delivered_wh", "energy_uthb", "wheeling_uthb", "vat_uthb", "fee_uthb"),
    *("penalty_uthb", "carbon_ucr"),
)
PLACES = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001", "NTB-01-SUB001")
NODES = (*PLACES[:3], "BKK-01", "BKK", "NTB")
NAMEPLATE_W = 40_000  # 10 kWh a slot
MID_MARCH, MONTH_END = 1_970_660, 1_972_156  # Slots; ten hours before April 2026 in Bangkok.


class Walk:
    """One random history over the real rules, with its own book-keeping beside it."""

    def __init__(self, seed: int, mode: MatchingMode, start_slot: int = MID_MARCH) -> None:
        self.random = random.Random(seed)
        self.state = Overlay(MemoryReader())
        self.now_ms = start_slot * SLOT_MS
        self.height = 0
        self.counter = 0
        self.refusals = 0
        self.meters: list[SigningKey] = []
        self.owners: list[bytes] = []
        self.registers: dict[bytes, tuple[int, int, int]] = {}
        self.exported_wh = 0
        self.imported_wh: Counter[bytes] = Counter()  # By meter, as its registers say.
        self.burned_wh: Counter[bytes] = Counter()
        self.original_wh: dict[bytes, int] = {}
        self.traded_wh: dict[bytes, int] = {}
        self.reserve_uthb: dict[bytes, int] = {}
        self.seen: set[str] = set()
        self.settled: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        parameters = MarketParameters(
            matching_mode=mode, max_open_orders=12, redemptions_per_block=3
        )
        trading.set_parameters(self.state, parameters)
        kinds = OrganisationKind
        registry.add_organisation(self.state, Organisation("MEA", kinds.DISTRIBUTOR, MEA, MEA))
        registry.add_organisation(self.state, Organisation("PAY", kinds.PAYMENT, PAY, PAY))
        registry.add_organisation(self.state, Organisation("ERC", kinds.REGULATOR, ERC, ERC))
        for prefix in ("BKK", "NTB"):
            registry.add_territory(self.state, Territory(prefix, "MEA", "", "M"))
        self.begin_block()

    def step(self) -> None:
        steps = (
            (self.place, 110),
            (self.begin_block, 16),
            (self.read, 30),
            (self.cancel, 6),
            (self.deposit, 14),
            (self.move, 6),
            (self.withdraw, 2),
            (self.register, 3),
            (self.publish, 8),
            (self.halt, 2),
            (self.suspend, 2),
            (self.redeem, 3),
        )
        chosen = self.random.choices([step for step, _ in steps], [weight for _, weight in steps])
        attempt, outer = Overlay(self.state), self.state
        self.state = attempt
        try:
            events = chosen[0]()
        except Rejected:
            self.refusals += 1
            events = []
        else:
            attempt.merge()
        self.state = outer
        self.record(events)

    # -- Steps -------------------------------------------------------------------------------------

    def begin_block(self) -> list:
        self.height += 1
        self.now_ms += self.random.choice(
            [10_000, 60_000, 300_000, 300_000, SLOT_MS, SLOT_MS]
        ) + self.random.choice([0] * 30 + [7 * SLOT_MS])
        before = dict(FLOWS.items(self.state))
        grid = GridView(
            self.headroom_wh,
            lambda territory: self.emergency(territory) is not None,
        )
        events = trading.begin_block(
            self.state,
            now_ms=self.now_ms,
            gate_grace_ms=SLOT_MS,  # The clock leaps, but only seven slots are a standstill.
            grid=grid,
            read_to=lambda meter_id: read_to(self.state, meter_id),
            read_since=lambda meter_id: read_since(self.state, self.point(meter_id)),
            territories=lambda: registry.territories(self.state),
            customers=self.customers,
        )
        self.check_flows(before, grid)
        for event in events:
            if isinstance(event, TradeMatched):
                assert self.emergency(event.trade.territory) is None
        return events

    def headroom_wh(self, node: str, slot: int) -> int | None:
        statuses = operation.statuses_of(self.state, node)
        known = [status for status in statuses if status.slot <= slot]
        if not known:
            return None
        return operation.node_headroom_wh(known[-1], self.now_ms, LIMITS)

    def emergency(self, territory: str) -> str | None:
        return operation.emergency_of(self.state, territory, self.now_ms, LIMITS)

    def check_flows(self, before: dict[bytes, NodeFlow], grid: GridView) -> None:
        """What this block sold over a node fits into what was left of its headroom."""
        for key, flow in FLOWS.items(self.state):
            headroom_wh = grid.headroom_wh(key[8:].decode(), int.from_bytes(key[:8], "big"))
            old = before.get(key, NodeFlow())
            if headroom_wh is not None:
                for sold, had in (
                    (flow.export_wh, old.export_wh),
                    (flow.import_wh, old.import_wh),
                ):
                    assert sold <= max(had, headroom_wh)

    def customers(self) -> Customers:
        return Customers(
            registry.enrolment_count(self.state),
            self.customer,
        )

    def customer(self, number: int) -> Customer:
        entry = registry.enrolled(self.state, number)
        return Customer(entry.account, "BKK", MEA, entry.active)

    def publish(self) -> list:
        node = self.random.choice(NODES)
        command = PublishGridStatus(
            node=node,
            slot=slot_at(self.now_ms) + self.random.choice([-3, -1, 0, 0, 0, 1, 3, 30]),
            loading_bps=self.random.choice([0, 5_000, 9_000, 9_900, 11_000]),
            rating_va=self.random.choice([100_000, 400_000]),
            frequency_mhz=self.random.choice([50_000] * 30 + [49_000]),
            voltage_bps=10_000,
        )
        territory, by = registry.status_publisher(self.state, node, MEA)
        return operation.publish_status(
            self.state,
            command,
            territory=territory,
            publisher=by.name,
            now_ms=self.now_ms,
            limits=LIMITS,
        )

    def halt(self) -> list:
        halted = [
            territory for territory in ("BKK", "NTB") if HALTS.get(self.state, territory.encode())
        ]
        territory = self.random.choice(halted or ["BKK", "NTB", "NTB"])
        by = registry.overseer(self.state, territory, self.random.choice([MEA, ERC]))
        who = {
            "by": by.name,
            "by_regulator": by.kind is OrganisationKind.REGULATOR,
            "now_ms": self.now_ms,
        }
        if self.random.random() < (0.9 if halted else 0.2):
            return operation.resume_territory(self.state, ResumeTerritory(territory, "over"), **who)
        until_ms = self.random.choice([0, self.now_ms + 2 * SLOT_MS])
        return operation.halt_territory(
            self.state, HaltTerritory(territory, "drill", until_ms), **who
        )

    def suspend(self) -> list:
        known = [registry.participant(self.state, owner) for owner in self.owners]
        suspended_ones = [one.account for one in known if not one.active]
        account = self.random.choice(suspended_ones or self.owners)
        sender = self.random.choice([MEA, ERC])
        if self.random.random() < (0.9 if suspended_ones else 0.1):
            command = ReinstateParticipant(account, "settled")
            return registry.reinstate_participant(
                self.state, command, sender=sender, now_ms=self.now_ms
            )
        suspended = registry.suspend_participant(
            self.state, SuspendParticipant(account, "inquiry"), sender=sender
        )
        cancelled = trading.cancel_orders_of(self.state, account)
        listed = trader(self.state, account)
        assert listed.buys + listed.sells == ()
        return [*suspended, *cancelled]

    def redeem(self) -> list:
        account = self.owners[self.someone()]
        return trading.redeem(
            self.state,
            Redeem(self.random.randrange(1, 5_000)),
            customer=Customer(account, "BKK", MEA),
            now_ms=self.now_ms,
        )

    def register(self) -> list:
        number = len(self.owners)
        if number >= 14:
            return []
        owner, meter = sha256(b"owner %d" % number), SigningKey(sha256(b"meter %d" % number))
        participant = RegisterParticipant(
            account=owner,
            role=Role.PROSUMER,
            kyc_ref=bytes(32),
            licence_class=LicenceClass.EXEMPT_LT_1000KVA,
            licence_expiry_ms=2**60,
            vat_registered=number % 3 == 0,
            territory="BKK",
            consent_version=1,
            daily_cap_wh=10**9,
        )
        registers = (self.random.randrange(10**6), self.random.randrange(10**6), 0)
        point = RegisterMeter(
            meter_id=meter.public_key,
            owner=owner,
            location=PLACES[number % 4],
            nameplate_import_w=NAMEPLATE_W,
            nameplate_export_w=NAMEPLATE_W,
            source=self.random.choice([Generation.SOLAR, Generation.WIND, Generation.COAL]),
            prosumer_class=ProsumerClass.RESIDENTIAL,
            import_wh_cum=registers[0],
            export_wh_cum=registers[1],
        )
        events = [
            *registry.register_participant(self.state, participant, sender=MEA, now_ms=self.now_ms),
            *meters.register_meter(self.state, point, sender=MEA, now_ms=self.now_ms),
        ]
        self.owners.append(owner)
        self.meters.append(meter)
        self.registers[meter.public_key] = registers
        return events

    def someone(self) -> int:
        if not self.owners:
            return len(self.register()) and 0
        return self.random.randrange(len(self.owners))

    def deposit(self) -> list:
        to = MEA if self.random.random() < 0.2 else self.owners[self.someone()]
        command = Deposit(to, self.random.randrange(1, 10**9))
        sender = PAY if self.random.random() < 0.9 else MEA
        return ledger.deposit(
            self.state,
            command,
            sender=sender,
            payment_authority=PAY,
            region_id=CHAIN,
            now_ms=self.now_ms,
            limit_uthb=10**15,
        )

    def withdraw(self) -> list:
        command = Withdraw(self.random.randrange(1, 10**6))
        return ledger.withdraw(self.state, command, sender=PAY, payment_authority=PAY)

    def move(self) -> list:
        sender = self.owners[self.someone()]
        if self.random.random() < 0.3:
            command = RetireCredits(self.random.randrange(1, 10**6))
            return ledger.retire_credits(self.state, command, sender=sender, now_ms=self.now_ms)
        to = self.random.choice([PAY, self.owners[self.someone()]])
        asset = self.random.choice(list(Asset))
        command = Transfer(to, asset, self.random.randrange(1, 10**6))
        return ledger.transfer(self.state, command, sender=sender)

    def place(self) -> list:
        number = self.someone()
        meter = registry.meter(self.state, self.meters[number].public_key)
        participant = registry.participant(self.state, meter.owner)
        operation.check_operating(self.state, meter.location[:3], self.now_ms, LIMITS)
        buying = self.random.random() < 0.5
        first = slot_at(self.now_ms) + self.random.choice([0, 1, 1, 1, 2, 3])
        last = first + self.random.choice([0, 0, 0, 0, 2, 40])
        wish = self.random.choice([Source.ANY, Source.RENEWABLE, Source.SOLAR])
        self.counter += 1
        command = PlaceOrder(
            side=Side.BUY if buying else Side.SELL,
            energy_wh=self.random.randrange(50, 12_000),
            limit_mthb=self.random.randrange(2_500, 5_000) + (1_200 if buying else 0),
            location=meter.location,
            meter_id=meter.meter_id,
            source=wish if buying else Source(meter.source),
            require=buying and wish is not Source.ANY and self.random.random() < 0.2,
            first_slot=first,
            last_slot=last,
            max_wh_per_slot=self.random.choice([500, 3_000, 10_000]),
            time_in_force=self.random.choices(list(TimeInForce), [4, 1])[0],
            expires_ms=self.random.choice([last * SLOT_MS, self.now_ms + 400_000, 2**50]),
        )
        return trading.place_order(
            self.state,
            command,
            owner=meter.owner,
            order_id=sha256(b"order %d" % self.counter),
            now_ms=self.now_ms,
            height=self.height,
            trader=TraderFacts(
                participant.active,
                participant.licence_expiry_ms,
                participant.vat_registered,
                participant.daily_cap_wh,
            ),
            meter=MeterFacts(
                meter.owner,
                meter.location,
                meter.source.value,
                meter.nameplate_import_w,
                meter.nameplate_export_w,
            ),
        )

    def cancel(self) -> list:
        orders = [order for _, order in ORDERS.items(self.state)]
        if not orders:
            return []
        order = self.random.choice(orders)
        owner = order.owner if self.random.random() < 0.8 else MEA
        return trading.cancel_order(self.state, CancelOrder(order.id), owner=owner)

    def point(self, meter_id: bytes) -> MeteringPoint:
        meter = registry.meter(self.state, meter_id)
        return metering_point(meter, registry.participant(self.state, meter.owner))

    def due_reading(self) -> tuple[SigningKey, list[int]]:
        """Mostly all open slots of a meter that traded and waits, sometimes any meter and slot."""
        current = slot_at(self.now_ms)
        due = [
            key[8:]
            for key, position in POSITIONS.items(self.state)
            if int.from_bytes(key[:8], "big") < current and not position.read
        ]
        if not due or self.random.random() < 0.1:
            key = self.meters[self.someone()]
            return key, [current - self.random.choice([0, 1, 2, 6])]
        meter_id = self.random.choice(due)
        last = registers(self.state, self.point(meter_id)).slot
        first = max(last + self.random.choice([1, 1, 1, 1, 1, 2]), current - 12)
        key = next(key for key in self.meters if key.public_key == meter_id)
        return key, list(range(first, max(current, first + 1)))

    def read(self) -> list:
        """Readings of some slots: exact, short, over, with gaps, late, or forged."""
        events: list = []
        key, slots = self.due_reading()
        for slot in slots:
            attempt, outer = Overlay(self.state), self.state
            self.state = attempt
            try:
                told = self.read_one(key, slot)
            except Rejected:
                self.state = outer
                if not events:
                    raise
                break
            attempt.merge()
            self.state = outer
            events += told
        return events

    def read_one(self, key: SigningKey, slot: int) -> list:
        meter_id = key.public_key
        meter = registry.meter(self.state, meter_id)
        registry.check_counts(self.state, meter)
        before = self.registers[meter_id]
        imported = before[0] + self.random.choice([0, 700, 5_000, 30_000])
        exported = before[1] + self.random.choice([0, 900, 900, 3_000, 11_000, 11_001, 40_000])
        seq = before[2] + 1
        unsigned = MeterReading(meter_id, slot, imported, exported, seq, bytes(64))
        signature = key.sign(signed_bytes(CHAIN, unsigned))
        if self.random.random() < 0.05:
            signature = bytes(64)
        parameters = trading.parameters(self.state)
        accepted = accept_reading(
            self.state,
            replace(unsigned, signature=signature),
            point=self.point(meter_id),
            region_id=CHAIN,
            now_ms=self.now_ms,
            due_slot=trading.due_slot(self.state),
            claim_slots=100,
            by_distributor=False,
            carbon_mcr_per_kwh=parameters.carbon_mcr_per_kwh(meter.source.value),
        )
        facts = ReadingFacts(
            meter_id=meter_id,
            slot=slot,
            slots=accepted.slots,
            territory=meter.location[:3],
            source=meter.source.value,
            import_wh=accepted.import_wh,
            export_wh=accepted.export_wh,
            deliverable_wh=accepted.deliverable_wh,
            carbon_ucr=accepted.carbon_ucr,
            is_local=meter.location[:3] == "BKK",
        )
        payees = Payees(lambda prefix: registry.distributor_account(self.state, prefix), AUTHORITY)
        events = [accepted, *trading.settle_reading(self.state, facts, payees=payees)]
        self.exported_wh += accepted.export_wh
        self.imported_wh[meter_id] += accepted.import_wh
        self.registers[meter_id] = (imported, exported, seq)
        return events

    def save_and_load(self) -> None:
        """Go on from the state's bytes, as a node does after each block."""
        values = dict(self.state.base.values)
        for key, value in self.state.changes():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self.state = Overlay(MemoryReader(values))

    # -- Laws --------------------------------------------------------------------------------------

    def record(self, events: list) -> None:
        for event in events:
            assert decode(type(event), encode(event)) == event
            self.seen.add(type(event).__name__)
            match event:
                case OrderPlaced():
                    self.original_wh[event.order_id] = event.terms.energy_wh
                    self.traded_wh[event.order_id] = 0
                    self.reserve_uthb[event.order_id] = event.reserve_uthb
                case TradeMatched(trade):
                    self.traded_wh[trade.buy_id] += trade.energy_wh
                    self.traded_wh[trade.sell_id] += trade.energy_wh
                    self.reserve_uthb[trade.buy_id] -= trade.escrow_uthb
                    self.reserve_uthb[trade.sell_id] -= trade.bond_uthb
                case EnergyRedeemed(at_month_end=True):
                    self.seen.add("at month end")
                case OrderClosed():
                    self.seen.add(event.status)
                    assert event.rest_wh == self.rest_of(event.order_id)
                    assert event.refund_uthb == self.reserve_uthb[event.order_id]
                case TradeSettled():
                    self.count(event)
                    if event.delivered_wh not in (0, event.traded_wh):
                        self.seen.add("short")

                case EnergyConsumed():
                    self.burned_wh[event.meter_id] += event.energy_wh
                case ReportClosed():
                    self.check_report(event)

    def count(self, event: TradeSettled) -> None:
        day = self.settled[event.territory, day_of(event.slot)]
        for name in SUMMED:
            day[name] += getattr(event, name)

    def check_report(self, event: ReportClosed) -> None:
        """A report is the sum of the day's settlements, which end with it."""
        report = closed_report(self.state, event.territory, event.day)
        assert report is not None
        assert report_hash(report) == event.report_hash
        told = self.settled.pop((event.territory, event.day), Counter())
        for name in SUMMED:
            assert sum(getattr(line, name) for line in report.lines) == told[name]
        delivered = sum(line.delivered_wh for line in report.lines)
        assert report.totals.consumed_wh + report.totals.assumed_wh <= delivered

    def rest_of(self, order_id: bytes) -> int:
        return self.original_wh[order_id] - self.traded_wh[order_id]

    def check(self) -> None:
        accounts = dict(ACCOUNTS.items(self.state))
        supply = ledger.supply(self.state)

        def total(*fields: str) -> int:
            return sum(getattr(one, field) for one in accounts.values() for field in fields)

        assert all(
            getattr(one, field) >= 0
            for one in accounts.values()
            for field in Account.__dataclass_fields__
        )
        assert total("thb_uthb", "escrow_uthb", "bond_uthb") == supply.thb_uthb
        energy = supply.energy_minted_wh - supply.energy_burned_wh
        assert total("energy_wh", "energy_held_wh") == energy
        carbon = supply.carbon_issued_ucr - supply.carbon_retired_ucr
        assert total("carbon_ucr") == carbon
        assert supply.energy_minted_wh == self.exported_wh
        assert all(one.local_wh <= one.energy_wh for one in accounts.values())
        assert Account() not in accounts.values()
        self.check_reserves(accounts)
        self.check_meters()

    def check_meters(self) -> None:
        """Each Wh is burned once, and no meter sells or buys more than its nameplate in a slot."""
        owed = dict(IMPORTS.items(self.state))
        for meter_id, burned_wh in self.burned_wh.items():
            assumed_wh = owed[meter_id].assumed_wh if meter_id in owed else 0
            assert burned_wh - assumed_wh <= self.imported_wh[meter_id]
        most_wh = NAMEPLATE_W // 4
        for _, position in POSITIONS.items(self.state):
            assert position.sold_wh <= most_wh
            assert position.received_wh <= most_wh

    def check_reserves(self, accounts: dict[bytes, Account]) -> None:
        """Each account has set aside exactly what its orders and trades stand on."""
        escrow = dict.fromkeys(accounts, 0)
        bond = dict.fromkeys(accounts, 0)
        held = dict.fromkeys(accounts, 0)
        for order_id, order in ORDERS.items(self.state):
            assert order.rest_wh == self.rest_of(order_id)
            assert order.reserve_uthb == self.reserve_uthb[order_id]
            (escrow if order.terms.side is Side.BUY else bond)[order.owner] += order.reserve_uthb
        for _, trade in TRADES.items(self.state):
            escrow[trade.buyer] += trade.escrow_uthb
            bond[trade.seller] += trade.bond_uthb
        for _, position in POSITIONS.items(self.state):
            if not position.read:
                held[position.owner] += position.received_wh
        for address, account in accounts.items():
            assert account.escrow_uthb == escrow[address]
            assert account.bond_uthb == bond[address]
            assert account.energy_held_wh == held[address]


def run_out(walk: Walk) -> None:
    """Let the clock run until everything is settled and closed."""
    for _ in range(120):  # A block in each slot: days end with their last deadlines.
        walk.record(walk.begin_block())
        walk.now_ms += SLOT_MS
    walk.record(walk.begin_block())
    walk.check()
    assert [list(table.items(walk.state)) for table in (ORDERS, TRADES, POSITIONS)] == [[], [], []]
    assert sum(one.escrow_uthb + one.bond_uthb for _, one in ACCOUNTS.items(walk.state)) == 0
    assert walk.settled == {}  # Every settlement is in a closed report.


@pytest.mark.parametrize("mode", list(MatchingMode))
def test_random_transactions_conserve_everything(mode: MatchingMode) -> None:
    seen: set[str] = set()
    for seed, start_slot in ((1, MID_MARCH), (2, MONTH_END)):
        walk = Walk(seed, mode, start_slot)
        for _ in range(6):
            walk.register()
        for number in range(STEPS):
            walk.step()
            if number < CHECKED_STEPS or number % CHECK_EVERY == 0:
                walk.check()
            if number % 100 == 0:
                walk.save_and_load()
        run_out(walk)
        assert walk.refusals > 300
        seen |= walk.seen
    assert seen >= {
        *("EnergyConsumed", "TradeSettled", "short", "filled", "cancelled", "expired"),
        *("GridStatusPublished", "TerritoryHalted", "TerritoryResumed", "ParticipantSuspended"),
        *("ParticipantReinstated", "EnergyRedeemed", "at month end", "ReportClosed"),
        *("GatesMissed", "ReadingAccepted"),
    }


def test_the_same_steps_leave_the_same_bytes() -> None:
    walks = [Walk(3, MatchingMode.BLOCK) for _ in range(2)]
    for walk in walks:
        for number in range(300):
            walk.step()
            if walk is walks[0] and number % 50 == 0:
                walk.save_and_load()
        walk.save_and_load()
    assert walks[0].state.base.values == walks[1].state.base.values
    assert len(walks[0].state.base.values) > 40
