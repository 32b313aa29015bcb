"""A region chain without network or disk, for tests: real rules, real blocks, real signatures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from gridtokenx.chain.genesis import BlockClock, ChainSpec
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.chain.transition import Execution, Parent, execute_block, propose_block
from gridtokenx.cluster.devnet import local_genesis, operator_key
from gridtokenx.grid.model import MeterReading, SubmitReadings, signed_bytes
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, Account, Deposit
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import SLOT_MS, slot_at
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import (
    MarketParameters,
    MatchingMode,
    PlaceOrder,
    Side,
    Source,
    TimeInForce,
)

E = TypeVar("E")
START_MS = 1_773_594_000_000  # Monday 2026-03-16 00:00 in Bangkok
FAR_MS = START_MS + 400 * 86_400_000


@dataclass
class Household:
    """A participant with one meter."""

    key: SigningKey
    meter: SigningKey
    location: str
    source: Generation
    import_wh: int = 0
    export_wh: int = 0
    seq: int = 0
    read_slot: int | None = None  # Of its last reading; registered in the slot after it.


BLOCK_MODE = MarketParameters(matching_mode=MatchingMode.BLOCK)


@dataclass
class MarketWorld:
    """Chain MET with one block per 15-minute slot of market time; with `ms_per_block` 0 its market
    time is that of the headers, as on a real network. Orders meet in the next block (`BLOCK_MODE`)
    unless `parameters` say otherwise.
    """

    name: str = "MET"
    ms_per_block: int = SLOT_MS
    redemptions_per_block: int = 500
    parameters: MarketParameters = BLOCK_MODE
    spec: ChainSpec = field(init=False)
    values: MemoryReader = field(default_factory=MemoryReader)
    tree: StateTree = field(default_factory=StateTree)
    parent: Parent = field(init=False)
    executions: list[Execution] = field(default_factory=list)
    nonces: dict[bytes, int] = field(default_factory=dict)
    waiting: list[Transaction] = field(default_factory=list)

    def __post_init__(self) -> None:
        genesis = local_genesis(
            clock=BlockClock(START_MS, self.ms_per_block),
            block_time_ms=1_000,
            with_national=False,
            parameters=replace(self.parameters, redemptions_per_block=self.redemptions_per_block),
        )
        self.spec = genesis.chain(self.name)
        overlay = Overlay(self.values)
        self.spec.install(overlay)
        self._store(overlay.changes())
        self.parent = Parent(0, self.spec.chain_id, genesis.genesis_time_ms, self.tree.root)

    @property
    def slot(self) -> int:
        """The market slot of the next block."""
        next_ms = self.spec.opens_ms(self.parent.time_ms)
        return slot_at(self.spec.market_time_ms(self.parent.height + 1, next_ms))

    def events(self, kind: type[E]) -> list[E]:
        """All events of a kind so far, in order."""
        receipts = [one for execution in self.executions for one in execution.receipts]
        return [event for one in receipts for event in one.events if isinstance(event, kind)]

    def newest(self, kind: type[E]) -> list[E]:
        """The events of a kind in the newest block's transactions."""
        receipts = self.executions[-1].receipts
        return [event for one in receipts for event in one.events if isinstance(event, kind)]

    def send(self, key: SigningKey, payload: Payload) -> Transaction:
        """Sign a command and let it wait for the next block."""
        nonce = self.nonces.get(key.public_key, 0)
        transaction = sign_transaction(key, self.spec.chain_id, nonce, payload)
        self.nonces[key.public_key] = nonce + 1
        self.waiting.append(transaction)
        return transaction

    def block(self, time_ms: int = 0) -> list[tuple[bytes, Rejected]]:
        """Propose the next block, have a second node execute it, commit. Returns refusals.

        `time_ms` is its header time (0: as soon as it may be).
        """
        time_ms = time_ms or self.spec.opens_ms(self.parent.time_ms)
        execution, refused = propose_block(
            self.spec, self.values, self.tree, self.parent,
            view=0, proposer_index=0, time_ms=time_ms,
            candidates=self.waiting, last_commit=b"",
        )  # fmt: skip
        again = execute_block(
            self.spec,
            self.values,
            self.tree,
            self.parent,
            execution.block,
            execution.block.decode_transactions(),
        )
        assert again.block.header.hash == execution.block.header.hash
        self._store(execution.changes)
        header = execution.block.header
        self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        self.executions.append(execution)
        self.waiting = []
        for transaction_id, error in refused:
            del transaction_id, error  # The caller looks; nonces of refused ones are reusable.
        return refused

    def code_of(self, key: SigningKey, payload: Payload) -> ErrorCode:
        """What the next block refuses a command with; nothing else may be refused in it."""
        self.send(key, payload)
        ((_, error),) = self.block()
        self.nonces[key.public_key] -= 1
        return error.code

    def go_to(self, slot: int) -> None:
        """Blocks until the next one is in a slot."""
        while self.slot < slot:
            self.block()

    def household(
        self,
        name: str,
        location: str = "BKK-01-SUB001",
        source: Generation = Generation.NONE,
        baht: int = 10_000,
    ) -> Household:
        """Register a participant with a meter and money; takes effect with the next block."""
        house = Household(
            SigningKey(sha256(name.encode())),
            SigningKey(sha256(f"{name} meter".encode())),
            location,
            source,
            read_slot=self.slot - 1,
        )
        makes = source is not Generation.NONE
        distributor = operator_key("mea")
        self.send(
            distributor,
            RegisterParticipant(
                house.key.public_key, Role.PROSUMER, sha256(b"kyc"), LicenceClass.EXEMPT_LT_1000KVA,
                FAR_MS, False, location[:3], 1, 10_000_000,
            ),
        )  # fmt: skip
        self.send(
            distributor,
            RegisterMeter(
                house.meter.public_key, house.key.public_key, location, 200_000,
                100_000 if makes else 0, source, ProsumerClass.COMMERCIAL, 0, 0,
            ),
        )  # fmt: skip
        self.send(operator_key("payment"), Deposit(house.key.public_key, baht * 1_000_000))
        return house

    def order(
        self, house: Household, side: Side, wh: int, limit: int, slot: int, **changes: object
    ) -> PlaceOrder:
        """An order of a household for one slot."""
        source = Source(house.source.value) if side is Side.SELL else Source.ANY
        terms: dict[str, object] = {
            "side": side, "energy_wh": wh, "limit_mthb": limit, "location": house.location,
            "meter_id": house.meter.public_key, "source": source, "require": False,
            "first_slot": slot, "last_slot": slot, "max_wh_per_slot": wh,
            "time_in_force": TimeInForce.GOOD_TILL_CANCELLED, "expires_ms": FAR_MS,
        }  # fmt: skip
        return PlaceOrder(**(terms | changes))  # type: ignore[arg-type]

    def reading(self, house: Household, slot: int, export: int, imported: int) -> SubmitReadings:
        """The meter's next reading, signed; before it one of the slot before where that is missing,
        so that it serves what was sold in its slot."""
        readings = []
        if house.read_slot is not None and house.read_slot < slot - 1:
            readings.append(self._sign_reading(house, slot - 1))
        house.export_wh += export
        house.import_wh += imported
        readings.append(self._sign_reading(house, slot))
        return SubmitReadings(tuple(readings))

    def _sign_reading(self, house: Household, slot: int) -> MeterReading:
        house.seq += 1
        house.read_slot = slot
        bare = MeterReading(
            house.meter.public_key, slot, house.import_wh, house.export_wh, house.seq, bytes(64)
        )
        return replace(bare, signature=house.meter.sign(signed_bytes(self.spec.chain_id, bare)))

    def account(self, house: Household) -> Account:
        """What a household holds."""
        return ledger.account(self.values, house.key.public_key)

    def check_conservation(self) -> None:
        """Every asset adds up to its supply."""
        accounts = [account for _, account in ACCOUNTS.items(self.values)]
        supply = ledger.supply(self.values)
        money = sum(a.thb_uthb + a.escrow_uthb + a.bond_uthb for a in accounts)
        assert money == supply.thb_uthb
        energy = sum(a.energy_wh + a.energy_held_wh for a in accounts)
        assert energy == supply.energy_minted_wh - supply.energy_burned_wh
        carbon = sum(a.carbon_ucr for a in accounts)
        assert carbon == supply.carbon_issued_ucr - supply.carbon_retired_ucr
        assert sum(a.gtx_ugtx for a in accounts) == supply.gtx_ugtx

    def _store(self, changes: object) -> None:
        self.tree.apply(self.tree.update(changes))  # type: ignore[arg-type]
        for key, value in changes:  # type: ignore[attr-defined]
            if value is None:
                self.values.values.pop(key, None)
            else:
                self.values.values[key] = value
