"""A long seeded day of everything the market allows and refuses: nothing appears or vanishes.

After every step the accounts must add up to the supply, and what stands in orders and trades to
what accounts have set aside. Source: protocols/market.md section 7, "Properties that always hold".
"""

import random
from dataclasses import replace

import pytest

from gridtokenx.grid.model import MeteringPoint, SubmitReading, signed_bytes
from gridtokenx.grid.rules import submit_reading
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
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    Organisation,
    OrganisationKind,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
    Territory,
)
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import (
    ORDERS,
    POSITIONS,
    TRADES,
    CancelOrder,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    OrderClosed,
    OrderPlaced,
    PlaceOrder,
    Side,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
    TradeSettled,
)
from gridtokenx.trading.settlement import Payees, ReadingFacts

CHAIN = bytes([7]) * 32
MEA, PAY, AUTHORITY = (sha256(name) for name in (b"mea", b"pay", b"authority"))
PLACES = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001", "NTB-01-SUB001")
NAMEPLATE_W = 40_000  # 10 kWh a slot


class Walk:
    """One random history over the real rules, with its own book-keeping beside it."""

    def __init__(self, seed: int, mode: MatchingMode) -> None:
        self.random = random.Random(seed)
        self.state = Overlay(MemoryReader())
        self.now_ms = 1_970_660 * SLOT_MS
        self.height = 0
        self.counter = 0
        self.refusals = 0
        self.meters: list[SigningKey] = []
        self.owners: list[bytes] = []
        self.registers: dict[bytes, tuple[int, int, int]] = {}
        self.exported_wh = 0
        self.original_wh: dict[bytes, int] = {}
        self.traded_wh: dict[bytes, int] = {}
        self.reserve_uthb: dict[bytes, int] = {}
        self.seen: set[str] = set()
        parameters = MarketParameters(matching_mode=mode, max_open_orders=12)
        trading.set_parameters(self.state, parameters)
        kinds = OrganisationKind
        registry.add_organisation(self.state, Organisation("MEA", kinds.DISTRIBUTOR, MEA, MEA))
        registry.add_organisation(self.state, Organisation("PAY", kinds.PAYMENT, PAY, PAY))
        for prefix in ("BKK", "NTB"):
            registry.add_territory(self.state, Territory(prefix, "MEA", "", "M"))
        self.begin_block()

    def step(self) -> None:
        steps = (
            (self.place, 40),
            (self.begin_block, 16),
            (self.read, 30),
            (self.cancel, 6),
            (self.deposit, 8),
            (self.move, 6),
            (self.withdraw, 2),
            (self.register, 3),
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

    # Steps

    def begin_block(self) -> list:
        self.height += 1
        self.now_ms += self.random.choice(
            [10_000, 60_000, 300_000, 300_000, SLOT_MS, SLOT_MS]
        ) + self.random.choice([0] * 30 + [7 * SLOT_MS])
        salt = sha256(b"%d" % self.height)
        return trading.begin_block(self.state, now_ms=self.now_ms, previous_block_hash=salt)

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
            *registry.register_meter(self.state, point, sender=MEA, now_ms=self.now_ms),
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
        command = Deposit(self.owners[self.someone()], self.random.randrange(1, 10**9))
        sender = PAY if self.random.random() < 0.9 else MEA
        return ledger.deposit(self.state, command, sender=sender, payment_authority=PAY)

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

    def due_reading(self) -> tuple[SigningKey, int]:
        """Mostly a meter that traded in an ended slot, sometimes any meter and slot."""
        current = slot_at(self.now_ms)
        due = [
            (key[8:], slot)
            for key, position in POSITIONS.items(self.state)
            if (slot := int.from_bytes(key[:8], "big")) < current and not position.read
        ]
        if not due or self.random.random() < 0.2:
            key = self.meters[self.someone()]
            return key, current - self.random.choice([0, 1, 2, 6])
        meter_id, slot = self.random.choice(due)
        return next(key for key in self.meters if key.public_key == meter_id), slot

    def read(self) -> list:
        """A reading of a recent slot: exact, short, over, missing entirely, or forged."""
        key, slot = self.due_reading()
        meter = registry.meter(self.state, key.public_key)
        imported, exported, seq = self.registers[key.public_key]
        imported += self.random.choice([0, 700, 5_000, 30_000])
        exported += self.random.choice([0, 900, 900, 3_000, 11_000, 11_001, 40_000])
        unsigned = SubmitReading(key.public_key, slot, imported, exported, seq + 1, bytes(64))
        signature = key.sign(signed_bytes(CHAIN, unsigned))
        if self.random.random() < 0.05:
            signature = bytes(64)
        parameters = trading.parameters(self.state)
        (accepted,) = submit_reading(
            self.state,
            replace(unsigned, signature=signature),
            point=MeteringPoint(
                meter.owner,
                meter.nameplate_export_w,
                meter.first_slot,
                meter.import_wh_cum,
                meter.export_wh_cum,
            ),
            chain_id=CHAIN,
            now_ms=self.now_ms,
            deadline_slots=parameters.reading_deadline_slots,
            carbon_mcr_per_kwh=parameters.carbon_mcr_per_kwh(meter.source.value),
        )
        self.exported_wh += exported - self.registers[key.public_key][1]
        self.registers[key.public_key] = (imported, exported, seq + 1)
        return [
            accepted,
            *trading.settle_reading(
                self.state,
                ReadingFacts(
                    meter_id=key.public_key,
                    slot=slot,
                    region=meter.location[:3],
                    source=meter.source.value,
                    import_wh=accepted.import_wh,
                    export_wh=accepted.export_wh,
                    deliverable_wh=accepted.deliverable_wh,
                    carbon_ucr=accepted.carbon_ucr,
                ),
                payees=Payees(
                    lambda prefix: registry.distributor_account(self.state, prefix), AUTHORITY
                ),
            ),
        ]

    def save_and_load(self) -> None:
        """Go on from the state's bytes, as a node does after each block."""
        values = dict(self.state.base.values)
        for key, value in self.state.changes():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        self.state = Overlay(MemoryReader(values))

    # Laws

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
                case OrderClosed():
                    self.seen.add(event.status)
                    assert event.rest_wh == self.rest_of(event.order_id)
                    assert event.refund_uthb == self.reserve_uthb[event.order_id]
                case TradeSettled():
                    if event.delivered_wh not in (0, event.traded_wh):
                        self.seen.add("short")

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
        self.check_reserves(accounts)

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


@pytest.mark.parametrize("mode", list(MatchingMode))
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_steps_conserve_everything(seed: int, mode: MatchingMode) -> None:
    walk = Walk(seed, mode)
    for _ in range(6):
        walk.register()
    for number in range(1_000):
        walk.step()
        walk.check()
        if number % 100 == 0:
            walk.save_and_load()
    for _ in range(20):  # Let everything run out.
        walk.record(walk.begin_block())
        walk.now_ms += 20 * SLOT_MS
    walk.record(walk.begin_block())
    walk.check()
    assert [list(table.items(walk.state)) for table in (ORDERS, TRADES, POSITIONS)] == [[], [], []]
    assert sum(one.escrow_uthb + one.bond_uthb for _, one in ACCOUNTS.items(walk.state)) == 0
    assert walk.refusals > 50
    assert walk.seen >= {
        "EnergyConsumed",
        "TradeSettled",
        "short",
        "filled",
        "cancelled",
        "expired",
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
    assert len(walks[0].state.base.values) > 50
