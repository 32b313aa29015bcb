"""Attacks by who may take part: funded keys and registered participants, through the API.

`setting.enrol` has registered and funded the hostile participants beforehand.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import trio

from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import operator_key, stake_key
from gridtokenx.grid.model import MeterReading, SubmitReadings, signed_bytes
from gridtokenx.ledger.model import MINIMUMS, SYSTEM_ACCOUNTS, Asset, Deposit, Transfer, Withdraw
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.quantities import MAX_REGISTER_WH, slot_at
from gridtokenx.staking.model import Unbond
from gridtokenx.trading.model import CancelOrder, PlaceOrder, Side, Source, TimeInForce
from scripts.hostile_fleet.attack import (
    CHAIN,
    HOSTILE_IP,
    NATIONAL,
    Attack,
    Run,
    collect,
    hostile_keys,
)
from scripts.hostile_fleet.setting import CALLS_PER_S, FAR_MS, LOCATION, TRADER_SETS, TRADER_STRIDE

BATCH = CALLS_PER_S  # More than a client may ask at once is refused whole.
TIMEOUT_S = 10.0
MAX_INT = 2**63 - 1
ATTACKS: list[Attack] = []
attack = collect(ATTACKS, "chain")

Make = Callable[[SigningKey, int], Payload]
"""The payload of a key's transaction by its nonce."""


class Spammer:
    """Keys that send what they can, each from the nonce that the asked node would take next."""

    def __init__(self, run: Run, chain: str) -> None:
        self._run, self._spec = run, run.target.genesis.chain(chain)
        self._over = threading.Event()
        self._urls = [member.api_url for member in run.target.members]

    async def flood(
        self,
        keys: Sequence[SigningKey],
        make: Make,
        *,
        batch: int = BATCH,
        pause_s: float = 0.0,
        shared: bool = False,
    ) -> None:
        """Until cancelled: a thread for each node serves its part of the keys, or all if shared."""
        await self._run.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_threads)
            for number, url in enumerate(self._urls):
                mine = keys if shared else keys[number :: len(self._urls)]
                if mine:
                    work = partial(self._serve, url, mine, make, batch, pause_s)
                    nursery.start_soon(partial(trio.to_thread.run_sync, work, limiter=MANY))

    async def _end_threads(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._over.set()

    def _serve(
        self, url: str, keys: Sequence[SigningKey], make: Make, batch: int, pause_s: float
    ) -> None:
        with Client(url, timeout_s=TIMEOUT_S, local_address=HOSTILE_IP) as client:
            for key in itertools.cycle(keys):
                if self._over.wait(pause_s):
                    return
                try:
                    nonce = client.nonce(key.public_key, self._spec.name)
                    signed = [
                        sign_transaction(key, self._spec.chain_id, number, make(key, number))
                        for number in range(nonce, nonce + batch)
                    ]
                    self._note(signed, client.send_many(signed))
                except (RpcError, NodeUnreachable) as error:
                    self._run.outcomes[type(error).__name__] += 1
                    self._over.wait(0.1)

    def _note(self, signed: Sequence[Transaction], errors: Sequence[RpcError | None]) -> None:
        self._run.sent += sum(2 * len(one.encoded) for one in signed)  # In hex.
        for error in errors:
            self._run.outcomes["admitted" if error is None else error.reason] += 1


MANY = trio.CapacityLimiter(100)


def people(first: int, count: int) -> list[SigningKey]:
    """Accounts of hostile participants."""
    return [hostile_keys(number)[0] for number in range(first, first + count)]


def to_itself(key: SigningKey, _nonce: int) -> Payload:
    """A transfer that moves nothing and costs nothing."""
    return Transfer(key.public_key, Asset.GTX, 1)


# -- Transfers -------------------------------------------------------------------------------------


@attack("H3")
async def one_key_flood(run: Run) -> None:
    """One funded key sends itself as many transfers as four nodes take."""
    (key,) = people(0, 1)
    await Spammer(run, CHAIN).flood([key], to_itself, shared=True)


@attack("H3")
async def many_keys_flood(run: Run) -> None:
    """Sixty keys with a little gtx send themselves transfers, for nothing."""
    await Spammer(run, CHAIN).flood(people(0, 60), to_itself, batch=50)


@attack("H3")
async def dust_accounts(run: Run) -> None:
    """Transfers of the least amount to ever new addresses, each a row of state for good."""
    least = MINIMUMS[Asset.GTX]

    def make(_key: SigningKey, _nonce: int) -> Payload:
        return Transfer(os.urandom(32), Asset.GTX, least)

    await Spammer(run, CHAIN).flood(people(0, 40), make, batch=25)


@attack("H3")
async def national_flood(run: Run) -> None:
    """Transfers without end on the national chain."""
    await Spammer(run, NATIONAL).flood(people(0, 20), to_itself, batch=100)


@attack()
async def conflicting_nonces(run: Run) -> None:
    """Different transactions of one nonce to each node, so that pools disagree and one is lost."""

    def make(_key: SigningKey, _nonce: int) -> Payload:
        return Transfer(sha256(os.urandom(8)), Asset.GTX, MINIMUMS[Asset.GTX])

    await Spammer(run, CHAIN).flood(people(60, 1), make, batch=5, pause_s=0.02, shared=True)


@attack()
async def emptied_accounts(run: Run) -> None:
    """Each key sends away all that it has in one transfer and then promises as much again."""

    def make(_key: SigningKey, nonce: int) -> Payload:
        return Transfer(people(62, 1)[0].public_key, Asset.GTX, 2_900_000 + nonce)

    await Spammer(run, CHAIN).flood(people(63, 8), make, batch=50)


@attack("M1")
async def gifts_to_system_accounts(run: Run) -> None:
    """gtx sent to accounts without a key, to spoil sums that rules are counted by."""
    turns = itertools.cycle(SYSTEM_ACCOUNTS)

    def make(_key: SigningKey, _nonce: int) -> Payload:
        return Transfer(next(turns), Asset.GTX, 1)

    await Spammer(run, NATIONAL).flood(people(71, 4), make, batch=20, pause_s=0.2)


@attack("M2")
async def dust_unbonding(run: Run) -> None:
    """A validator's operator takes out its stake in the least amounts, to fill the payout queue."""
    key = stake_key("egat validator 0")

    def make(_key: SigningKey, _nonce: int) -> Payload:
        return Unbond(key.public_key, 1)

    await Spammer(run, NATIONAL).flood([key], make, batch=50, pause_s=0.2)


@attack("C4")
async def overflowing_deposits(run: Run) -> None:
    """The payment authority's stolen key deposits and withdraws 2^63 - 1, again and again."""
    key = operator_key("payment")

    def make(_key: SigningKey, nonce: int) -> Payload:
        huge = Deposit(hostile_keys(75)[0].public_key, MAX_INT)
        return Withdraw(MAX_INT) if nonce % 2 else huge

    await Spammer(run, CHAIN).flood([key], make, batch=6, pause_s=0.2)


# -- Meters ----------------------------------------------------------------------------------------


@attack("C2")
async def register_spikes(run: Run) -> None:
    """Meters whose import and export registers jump to the greatest number there is."""
    spec = run.target.genesis.chain(CHAIN)
    both = [hostile_keys(number) for number in range(80, 88)]
    meters = {key.public_key: meter for key, meter in both}

    def make(key: SigningKey, number: int) -> Payload:
        meter = meters[key.public_key]
        slot = slot_at(time.time_ns() // 1_000_000) - 1
        highest = MAX_REGISTER_WH - number % 3
        unsigned = MeterReading(meter.public_key, slot, highest, highest, number, bytes(64))
        signature = meter.sign(signed_bytes(spec.genesis_id, unsigned))
        reading = MeterReading(meter.public_key, slot, highest, highest, number, signature)
        return SubmitReadings((reading,))

    await Spammer(run, CHAIN).flood(people(80, 8), make, batch=5, pause_s=0.2)


# -- Orders ----------------------------------------------------------------------------------------


def order(
    number: int,
    side: Side,
    *,
    energy_wh: int = 100,
    limit_mthb: int = 5_000,
    source: Source = Source.ANY,
    require: bool = False,
    slots: int = 1,
) -> PlaceOrder:
    """An order of a hostile participant for the next slots."""
    first = slot_at(time.time_ns() // 1_000_000) + 2
    return PlaceOrder(
        side,
        energy_wh * slots,
        limit_mthb,
        LOCATION,
        hostile_keys(number)[1].public_key,
        source,
        require,
        first,
        first + slots - 1,
        energy_wh,
        TimeInForce.GOOD_TILL_CANCELLED,
        FAR_MS,
    )


async def _orders(run: Run, make: Callable[[int, int], Payload], *, first: int, count: int) -> None:
    """`make(participant, nonce)` for participants in turn, as many as they may have open.

    Each minute others come to trade: those of an earlier phase may have all that they may have.
    """
    first += int(time.time() // 60) % TRADER_SETS * TRADER_STRIDE
    keys = people(first, count)
    numbers = {key.public_key: first + index for index, key in enumerate(keys)}

    def payload(key: SigningKey, nonce: int) -> Payload:
        return make(numbers[key.public_key], nonce)

    await Spammer(run, CHAIN).flood(keys, payload, batch=50, pause_s=0.1)


@attack("H3")
async def splitting_orders(run: Run) -> None:
    """Orders over 96 slots that become a trade in each of them."""

    def make(number: int, nonce: int) -> Payload:
        side = Side.SELL if number % 2 else Side.BUY
        limit = 2_000 if number % 2 else 9_000
        source = Source.SOLAR if number % 2 else Source.ANY
        return order(number, side, limit_mthb=limit + nonce % 7, source=source, slots=90)

    await _orders(run, make, first=100, count=6)


@attack("H4")
async def required_sources(run: Run) -> None:
    """Bids over 90 slots that require a source which one dear ask alone has."""

    def make(number: int, nonce: int) -> Payload:
        if number % 3 == 0:
            return order(number, Side.BUY, limit_mthb=9_000, slots=90)
        if number % 3 == 1:
            limit = 2_000 if nonce % 50 else 3_000
            return order(number, Side.SELL, limit_mthb=limit, source=Source.SOLAR, slots=90)
        limit = 8_000 - nonce % 100
        return order(number, Side.BUY, limit_mthb=limit, source=Source.WIND, require=True, slots=90)

    await _orders(run, make, first=111, count=9)


@attack()
async def placed_and_cancelled(run: Run) -> None:
    """Orders that are cancelled in the same block, and orders that never were."""

    def make(number: int, nonce: int) -> Payload:
        if nonce % 2:
            return CancelOrder(os.urandom(32))
        return order(number, Side.BUY, limit_mthb=1_000 + nonce % 100)

    await _orders(run, make, first=120, count=4)


@attack()
async def penny_ladders(run: Run) -> None:
    """A hundred orders of each participant at prices one step apart, never to be matched."""

    def make(number: int, nonce: int) -> Payload:
        return order(number, Side.BUY, limit_mthb=1_000 + nonce % 500, slots=90)

    await _orders(run, make, first=126, count=6)
