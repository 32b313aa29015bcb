"""Households that trade for as long as one likes: a steady load of orders for a live cluster.

Every order is for a slot that closes soon, so a chain's open orders stay about as many as they are.
The market's clock must run with the blocks (`BlockClock`). Who answers is asked; a node that does
not is passed over, and what it lost is signed again with the nonce that the next node names.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gridtokenx.answers.account import NextNonce
from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.transaction import Payload, Transaction, sign_deposit, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import dev_key, operator_key
from gridtokenx.cluster.processes import Cluster
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.places import territory_of
from gridtokenx.primitives.quantities import slot_at, slot_end_ms
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce

PER_CHAIN = 80
ORDER_WH = 1_000
NAMEPLATE_W = 400_000
LEAD_SLOTS = 2  # How far ahead an order's slot lies; its gate closes before that slot begins.
FAR_MS = 4_000_000_000_000
DEPOSIT_UTHB = 10**15
REQUEST_TIMEOUT_S = 3.0
SETUP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Household:
    """A participant with one meter. Even numbers sell, odd ones buy."""

    number: int
    location: str
    owner: SigningKey
    meter: SigningKey

    @property
    def sells(self) -> bool:
        return self.number % 2 == 0

    def order(self, slot: int, price_step_mthb: int) -> PlaceOrder:
        """1 kWh in one slot; asks from 2.30 and bids from 3.30 THB/kWh, so most of them meet."""
        return PlaceOrder(
            side=Side.SELL if self.sells else Side.BUY,
            energy_wh=ORDER_WH,
            limit_mthb=(2_300 if self.sells else 3_300) + price_step_mthb,
            location=self.location,
            meter_id=self.meter.public_key,
            source=Source.SOLAR if self.sells else Source.ANY,
            require=False,
            first_slot=slot,
            last_slot=slot,
            max_wh_per_slot=ORDER_WH,
            time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
            expires_ms=slot_end_ms(slot),
        )


def households(spec: ChainSpec, count: int) -> tuple[Household, ...]:
    """So many households of a chain, over its territories and five zones of each."""
    prefixes = [territory.prefix for territory in spec.territories]
    return tuple(
        Household(
            number,
            f"{prefixes[number % len(prefixes)]}-{number % 5 + 1:02d}-SUB001",
            dev_key(f"household {spec.name} {number}"),
            dev_key(f"household meter {spec.name} {number}"),
        )
        for number in range(count)
    )


def register(client: Client, spec: ChainSpec, members: Sequence[Household]) -> None:
    """Register all of them and pay money in; wait until that is final. Errors: RpcError."""
    distributors = {one.prefix: one.distributor for one in spec.territories}
    nonces: dict[bytes, int] = {}

    def sign(key: SigningKey, payload: Payload) -> Transaction:
        nonce = nonces.get(key.public_key)
        if nonce is None:
            nonce = client.nonce(key.public_key, spec.name)
        nonces[key.public_key] = nonce + 1
        return sign_transaction(key, spec.chain_id, nonce, payload)

    transactions: list[Transaction] = []
    payment = operator_key("payment")
    so_far_uthb = client.supply(spec.name).deposits.total_uthb
    for one in members:
        distributor = operator_key(distributors[territory_of(one.location)])
        transactions.append(
            sign(
                distributor,
                RegisterParticipant(
                    account=one.owner.public_key,
                    role=Role.PROSUMER,
                    kyc_ref=sha256(b"household"),
                    licence_class=LicenceClass.EXEMPT_LT_1000KVA,
                    licence_expiry_ms=FAR_MS,
                    vat_registered=False,
                    territory=territory_of(one.location),
                    consent_version=1,
                    daily_cap_wh=10**9,
                ),
            )
        )
        transactions.append(
            sign(
                distributor,
                RegisterMeter(
                    meter_id=one.meter.public_key,
                    owner=one.owner.public_key,
                    location=one.location,
                    nameplate_import_w=NAMEPLATE_W,
                    nameplate_export_w=NAMEPLATE_W if one.sells else 0,
                    source=Generation.SOLAR if one.sells else Generation.NONE,
                    prosumer_class=ProsumerClass.COMMERCIAL,
                ),
            )
        )
        to = one.owner.public_key
        deposit = sign_deposit(payment, spec.genesis_id, to, DEPOSIT_UTHB, so_far_uthb=so_far_uthb)
        so_far_uthb += DEPOSIT_UTHB
        transactions.append(sign(payment, deposit))
    refused = [error for error in client.send_many(transactions) if error is not None]
    if refused:
        raise refused[0]
    client.wait_for([one.id.hex() for one in transactions], timeout_s=SETUP_TIMEOUT_S)


@dataclass(eq=False)
class SteadyOrders(threading.Thread):
    """Sends orders to region chains at a rate until it is stopped. `per_s` is for all of them.

    `chains` are those it sends to, `nodes` those it asks; none named: all.
    """

    cluster: Cluster
    genesis: Genesis
    per_s: int
    seed: int
    chains: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    accepted: int = 0
    refused: int = 0
    unanswered: int = 0
    failure: BaseException | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _random: random.Random = field(init=False)
    _chains: list[tuple[ChainSpec, Sequence[Household]]] = field(init=False)

    def __post_init__(self) -> None:
        super().__init__(daemon=True, name="orders")
        self._random = random.Random(self.seed)
        wanted = self.chains or tuple(region.name for region in self.genesis.chains)
        specs = [self.genesis.chain(name) for name in wanted]
        self._chains = [(spec, households(spec, PER_CHAIN)) for spec in specs]

    def set_up(self) -> None:
        """Register everybody. Errors: RpcError, NodeUnreachable."""
        first = self.cluster.node(self._names()[0]).member
        with Client(first.api_url, SETUP_TIMEOUT_S) as client:
            for spec, members in self._chains:
                register(client, spec, members)

    def stop(self) -> None:
        """End the load. Errors: what ended it before."""
        self._over.set()
        self.join(10 * REQUEST_TIMEOUT_S)
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        try:
            turn = 0
            while not self._over.is_set():
                due = time.monotonic() + 1
                self._send(*self._chains[turn % len(self._chains)])
                turn += 1
                self._over.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self.failure = error  # Told by `stop`: a load that ended makes the run worthless.
            raise

    def _send(self, spec: ChainSpec, members: Sequence[Household]) -> None:
        """A second's orders to one chain through one node, chosen anew each time."""
        names = self._names()
        name = self._random.choice([one for one in names if self._may_answer(one)] or names)
        with Client(self.cluster.node(name).member.api_url, REQUEST_TIMEOUT_S) as client:
            try:
                self._place(client, spec, members)
            except NodeUnreachable:
                self.unanswered += 1
            except RpcError:  # Such as a node that has just started and follows no chain yet.
                self.refused += 1

    def _names(self) -> Sequence[str]:
        return self.nodes or [one.name for one in self.cluster.members]

    def _may_answer(self, name: str) -> bool:
        return self.cluster.is_running(name) and not self.cluster.is_paused(name)

    def _place(self, client: Client, spec: ChainSpec, members: Sequence[Household]) -> None:
        slot = slot_at(client.head(spec.name).market_ms) + LEAD_SLOTS
        chosen = self._random.sample(list(members), min(self.per_s, len(members)))
        questions = [
            {
                "address": format_address(one.owner.public_key),
                "chain": spec.name,
                "pending": True,
            }
            for one in chosen
        ]
        orders = []
        nonces = client.ask_many("account_getNonce", NextNonce, questions)
        for one, answer in zip(chosen, nonces, strict=True):
            if isinstance(answer, RpcError):
                raise answer
            order = one.order(slot, self._random.randrange(900))
            orders.append(sign_transaction(one.owner, spec.chain_id, answer.nonce, order))
        outcomes = client.send_many(orders)
        self.refused += sum(one is not None for one in outcomes)
        self.accepted += sum(one is None for one in outcomes)
