"""The cluster under attack: four validators, two chains, honest and hostile participants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gridtokenx.chain.genesis import Genesis
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.client import Client
from gridtokenx.cluster import processes, watch
from gridtokenx.cluster.devnet import DEV_ACCOUNT, dev_key, local_genesis, operator_key
from gridtokenx.cluster.processes import Cluster
from gridtokenx.ledger.model import Asset, Deposit, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.quantities import UTHB_PER_THB
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import MarketParameters, MatchingMode
from scripts.hostile_fleet.attack import CHAIN, NATIONAL, hostile_keys

BLOCK_TIME_MS = 1_000
TIMEOUT_BASE_MS = 2_000
FIRST_PORTS = (28_500, 29_500)
LOCATION = "BKK-01-SUB001"
FAR_MS = 4_000_000_000_000
DEPOSIT_UTHB = 100_000 * UTHB_PER_THB
GIFT_UGTX = {CHAIN: 3_000_000, NATIONAL: 100_000_000}
TRADER_SETS, TRADER_STRIDE = 4, 36  # A multiple of two and three: attacks deal out roles so.
HOSTILE = 100 + TRADER_SETS * TRADER_STRIDE
AT_ONCE = 1_000
CALLS_PER_S = 100  # Twice the default: honest traders, meters and probes share an address here.
SEND_AT_ONCE = CALLS_PER_S // 2
PATIENCE_S = 120.0
NAMEPLATE_W, DAILY_CAP_WH = 400_000, 10**9

Keys = Callable[[int], tuple[SigningKey, SigningKey]]


def fresh_genesis(block_time_ms: int = BLOCK_TIME_MS) -> Genesis:
    """One region and the national chain, from now on; clearing in each block is the mode in which
    orders can make most work."""
    genesis = local_genesis(
        block_time_ms=block_time_ms,
        parameters=MarketParameters(matching_mode=MatchingMode.BLOCK),
        genesis_time_ms=time.time_ns() // 1_000_000,
    )
    regions = tuple(one for one in genesis.chains if one.name == CHAIN)
    return replace(genesis, timeout_base_ms=TIMEOUT_BASE_MS, chains=regions)


@contextmanager
def running(
    folder: Path,
    *,
    block_time_ms: int = BLOCK_TIME_MS,
    first_ports: tuple[int, int] = FIRST_PORTS,
) -> Iterator[Cluster]:
    """Four validators until the end of the block; their processes are stopped by id."""
    cluster = processes.create(
        folder,
        fresh_genesis(block_time_ms),
        observers=0,
        owner=processes.this_process(),
        first_ports=first_ports,
        settings={"api.rate_per_second": CALLS_PER_S},
    )
    try:
        watch.wait_ready(cluster)
        yield cluster
    finally:
        cluster.stop()


def enrol_hostile(client: Client, genesis: Genesis) -> None:
    """Participants whom the attacks use, with meters, baht, and gtx on both chains."""
    enrol(client, genesis, hostile_keys, range(HOSTILE))
    giver = dev_key(DEV_ACCOUNT)
    for chain, amount in GIFT_UGTX.items():
        nonce = client.nonce(giver.public_key, chain)
        chain_id = genesis.chain(chain).chain_id
        gifts = [
            sign_transaction(
                giver,
                chain_id,
                nonce + number,
                Transfer(hostile_keys(number)[0].public_key, Asset.GTX, amount),
            )
            for number in range(HOSTILE)
        ]
        _send(client, gifts)


def honest_keys(number: int) -> tuple[SigningKey, SigningKey]:
    """Account and meter of an honest participant."""
    name = f"honest {number}".encode()
    return SigningKey(sha256(name)), SigningKey(sha256(name + b" meter"))


def enrol(client: Client, genesis: Genesis, keys: Keys, numbers: Sequence[int]) -> None:
    """Register participants with a solar meter each and deposit baht; wait until that is final."""
    distributor, payment = operator_key("mea"), operator_key("payment")
    chain_id = genesis.chain(CHAIN).chain_id

    def sign(key: SigningKey, payloads: Sequence[Payload]) -> list[Transaction]:
        nonce = client.nonce(key.public_key, CHAIN)
        return [sign_transaction(key, chain_id, nonce + at, one) for at, one in enumerate(payloads)]

    for start in range(0, len(numbers), AT_ONCE // 2):
        registrations: list[Payload] = []
        deposits: list[Payload] = []
        for number in numbers[start : start + AT_ONCE // 2]:
            owner, meter = keys(number)
            registrations += [_participant(owner.public_key), _meter(owner, meter)]
            deposits.append(Deposit(owner.public_key, DEPOSIT_UTHB))
        _send(client, sign(distributor, registrations) + sign(payment, deposits))


def _participant(account: bytes) -> RegisterParticipant:
    return RegisterParticipant(
        account,
        Role.PROSUMER,
        sha256(b"hostile fleet"),
        LicenceClass.EXEMPT_LT_1000KVA,
        FAR_MS,
        False,
        "BKK",
        1,
        DAILY_CAP_WH,
    )


def _meter(owner: SigningKey, meter: SigningKey) -> RegisterMeter:
    return RegisterMeter(
        meter.public_key,
        owner.public_key,
        LOCATION,
        NAMEPLATE_W,
        NAMEPLATE_W,
        Generation.SOLAR,
        ProsumerClass.COMMERCIAL,
    )


def _send(client: Client, transactions: Sequence[Transaction]) -> None:
    for start in range(0, len(transactions), SEND_AT_ONCE):
        errors = client.send_many(transactions[start : start + SEND_AT_ONCE])
        refused = [error for error in errors if error is not None]
        if refused:
            raise refused[0]
    last = {one.sender: one.id.hex() for one in transactions}
    client.wait_for(list(last.values()), timeout_s=PATIENCE_S)
