"""A small market over the real rules: blocks follow each other, orders and readings go in."""

from dataclasses import dataclass, field

import pytest

from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.trading import rules
from gridtokenx.trading.matching import GridView
from gridtokenx.trading.model import (
    CancelOrder,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    OrderPlaced,
    PlaceOrder,
    Side,
    Source,
    TimeInForce,
    TraderFacts,
)
from gridtokenx.trading.settlement import Payees, ReadingFacts

NOW_SLOT = 1_970_660  # Monday 2026-03-16 00:00 in Bangkok
WEALTH_UTHB = 10**12
FIT = TraderFacts(True, 2**62, False, 2**62)


@dataclass
class Market:
    """`now_ms` is the open block's time; `next_block` begins another one.

    In mode `block` unless told otherwise: its clearings are those of the gate, and more of them.
    """

    state: Overlay = field(default_factory=lambda: Overlay(MemoryReader()))
    now_ms: int = NOW_SLOT * SLOT_MS
    height: int = 0
    orders: int = 0
    read_slots: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.configure()

    def configure(self, *, mode: MatchingMode = MatchingMode.BLOCK, **changes) -> None:
        """Every number that is not named has its value at the start."""
        rules.set_parameters(self.state, MarketParameters(matching_mode=mode, **changes))

    def next_block(
        self, *, ms: int = 0, slots: int = 0, headroom: dict | None = None, halted: tuple = ()
    ) -> list:
        """Begin a block `ms` later, or as many slots with a block in each; what they do."""
        events = []
        for passed_ms in [SLOT_MS] * slots or [ms]:
            events += self.jump(passed_ms, headroom=headroom, halted=halted)
        return events

    def jump(
        self, ms: int, *, grace_ms: int = SLOT_MS, headroom: dict | None = None, halted: tuple = ()
    ) -> list:
        """Begin one block `ms` later, however long the chain stood still before it."""
        self.now_ms += ms
        self.height += 1
        return rules.begin_block(
            self.state,
            now_ms=self.now_ms,
            gate_grace_ms=grace_ms,
            read_to=lambda meter_id: self.read_slots.get(meter_id, -1),
            grid=GridView(
                lambda node, _: (headroom or {}).get(node), lambda territory: territory in halted
            ),
            territories=lambda: {"BKK": "MEA", "NTB": "MEA"},
        )

    def fund(self, name: str, amount_uthb: int = WEALTH_UTHB) -> bytes:
        """Give an account money once; its address."""
        owner = sha256(name.encode())
        if ledger.account(self.state, owner).thb_uthb == 0:
            ledger.adjust(self.state, owner, thb_uthb=amount_uthb)
        return owner

    def terms(self, side: Side, energy_wh: int, limit_mthb: int, **changes) -> PlaceOrder:
        first = changes.pop("first_slot", self.now_ms // SLOT_MS + 1)
        last = changes.pop("last_slot", first)
        named = {
            "location": "BKK-01-SUB001",
            "source": Source.SOLAR if side is Side.SELL else Source.ANY,
            "require": False,
            "first_slot": first,
            "last_slot": last,
            "max_wh_per_slot": max(energy_wh, 100),
            "time_in_force": TimeInForce.GOOD_TILL_CANCELLED,
            "expires_ms": (last + 1) * SLOT_MS,
            **changes,
        }
        return PlaceOrder(
            side=side, energy_wh=energy_wh, limit_mthb=limit_mthb, meter_id=bytes(32), **named
        )

    def place(
        self,
        name: str,
        terms: PlaceOrder,
        *,
        trader: TraderFacts = FIT,
        meter: dict | None = None,
    ) -> bytes:
        """Place an order of a funded account at its own meter; the order's id."""
        owner = self.fund(name)
        facts = {
            "owner": owner,
            "location": terms.location,
            "source": "solar" if terms.side is Side.BUY else str(terms.source),
            "nameplate_import_w": 10**9,
            "nameplate_export_w": 10**9,
            **(meter or {}),
        }
        self.orders += 1
        order_id = sha256(b"order %d" % self.orders)
        named = {field: getattr(terms, field) for field in terms.__dataclass_fields__}
        command = PlaceOrder(**{**named, "meter_id": meter_of(name)})
        attempt = Overlay(self.state)
        events = rules.place_order(
            attempt,
            command,
            owner=owner,
            order_id=order_id,
            now_ms=self.now_ms,
            height=self.height,
            trader=trader,
            meter=MeterFacts(**facts),
        )
        attempt.merge()
        assert [type(event) for event in events] == [OrderPlaced]
        return order_id

    def buy(self, name: str, energy_wh: int, limit_mthb: int, **changes) -> bytes:
        return self.place(name, self.terms(Side.BUY, energy_wh, limit_mthb, **changes))

    def sell(self, name: str, energy_wh: int, limit_mthb: int, **changes) -> bytes:
        return self.place(name, self.terms(Side.SELL, energy_wh, limit_mthb, **changes))

    def cancel(self, name: str, order_id: bytes) -> list:
        owner = sha256(name.encode())
        return rules.cancel_order(self.state, CancelOrder(order_id), owner=owner)

    def read(
        self, name: str, slot: int, *, imported: int = 0, exported: int = 0, slots: int = 1
    ) -> list:
        """What an accepted reading does: mint the export, then settle."""
        owner = sha256(name.encode())
        carbon_ucr = exported * 500
        ledger.mint_energy(self.state, owner, exported, carbon_ucr, local_wh=exported)
        self.read_slots[meter_of(name)] = slot
        facts = ReadingFacts(
            meter_id=meter_of(name),
            slot=slot,
            slots=slots,
            territory="BKK",
            source="solar",
            import_wh=imported,
            export_wh=exported,
            deliverable_wh=exported if slots == 1 else 0,
            carbon_ucr=carbon_ucr,
        )
        payees = Payees(
            lambda prefix: sha256(b"distributor " + prefix.encode()),
            sha256(b"authority"),
            sha256(b"transmission"),
        )
        return rules.settle_reading(self.state, facts, payees=payees)

    def account(self, name: str):
        return ledger.account(self.state, sha256(name.encode()))


def meter_of(name: str) -> bytes:
    return sha256(b"meter " + name.encode())


@pytest.fixture
def market() -> Market:
    """A market one block after genesis."""
    fresh = Market()
    fresh.next_block()
    return fresh
