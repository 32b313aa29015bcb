"""Load a local cluster over JSON-RPC and count what it finalizes.

Orders are signed beforehand, so what is measured is the nodes and one submitting process on this
machine: admission, gossip, agreement, execution and writing on four validators.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import httpx
import psutil

from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import local_genesis, operator_key
from gridtokenx.cluster.processes import Cluster, create, this_process
from gridtokenx.ledger.model import Deposit
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.quantities import slot_at
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

CHAIN = "MET"
ORDERS_PER_ACCOUNT = 90  # An account may have a hundred open orders.
BATCH = 250
RETRY_S, RETRIES = 0.5, 100
PATIENCE_S, STALLED_S = 30.0, 300.0  # Without a final order: pools empty, or not.
REGISTER_AT_ONCE = 2_000  # Accounts; each has three transactions, and a pool has its limit.
FAR_MS = 4_000_000_000_000
_NUMBER = re.compile(r"(\w+)=(\d+)")
_CPU = re.compile(r'^gridtokenx_cpu_seconds_total\{stage="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What the cluster did. Times in ms; CPU in us per finalized order and node.

    `sustained_per_s` is from the first to the last full block with orders, `finalized_per_s` from
    the first order sent to the last one final on all nodes; `waiting` was still in a pool when the
    run gave up, `lost` is in none; finality is from a block's time to its
    decision, of the blocks with orders on all nodes.
    """

    orders: int
    accepted: int
    finalized: int
    waiting: int
    lost: int
    seconds: float
    offered_per_s: float
    finalized_per_s: float
    sustained_per_s: float
    finality_p50_ms: int
    finality_p99_ms: int
    cpu_us: float
    cpu_us_by_stage: dict[str, float]
    generator_cpu_us: float
    rss_mib_start: list[int]
    rss_mib_end: list[int]


def run(*, orders_per_s: int, seconds: int, block_time_ms: int, validators: int = 4) -> Result:
    """Start a cluster, submit at a rate for a time, wait until all is final or nothing moves."""
    genesis = local_genesis(
        authorities=validators,
        block_time_ms=block_time_ms,
        parameters=MarketParameters(matching_mode=MatchingMode.BLOCK),  # It has the most work.
        genesis_time_ms=time.time_ns() // 1_000_000,
    )
    # All validators share this machine, so a block is executed by each on half a core or less, and
    # a view must last accordingly. A leader fills its block for a tenth of it.
    patient = max(genesis.timeout_base_ms, block_time_ms)
    genesis = replace(genesis, timeout_base_ms=patient)
    with tempfile.TemporaryDirectory() as folder:
        cluster = create(Path(folder) / "bench", genesis, observers=0, owner=this_process())
        try:
            return _load(cluster, genesis.chain(CHAIN), orders_per_s, seconds)
        finally:
            cluster.stop()


def _load(cluster: Cluster, spec: ChainSpec, orders_per_s: int, seconds: int) -> Result:
    clients = [Client(member.api_url, timeout_s=60) for member in cluster.members]
    wait_height(clients, 1)
    total = orders_per_s * seconds
    accounts = -(-total // ORDERS_PER_ACCOUNT)
    register(clients[0], spec, accounts)
    streams = _streams(sign_orders(spec, accounts, total), accounts, len(clients))
    nodes = [psutil.Process(node.pid) for node in cluster.nodes]
    height = clients[0].head(CHAIN).height
    rss = [node.memory_info().rss >> 20 for node in nodes]
    before, stages, generator = _orders(clients[0]), stage_seconds(clients), time.process_time()
    started = time.monotonic()
    accepted = _submit(clients, streams, total / seconds)
    sent = time.monotonic() - started
    generator = time.process_time() - generator
    finalized = _wait_orders(clients, before + accepted) - before
    elapsed = time.monotonic() - started
    waiting = _waiting(clients) if finalized < accepted else 0
    spent = {name: value - stages[name] for name, value in stage_seconds(clients).items()}
    us = 1e6 / max(finalized, 1)
    blocks = [_order_blocks(cluster.log_path(member.name), height) for member in cluster.members]
    finality = sorted(block.finality_ms for node in blocks for block in node)
    return Result(
        orders=total,
        accepted=accepted,
        finalized=finalized,
        waiting=waiting,
        lost=max(0, accepted - finalized - waiting),
        seconds=round(elapsed, 1),
        offered_per_s=round(total / sent, 1),
        finalized_per_s=round(finalized / elapsed, 1),
        sustained_per_s=min(round(_sustained(node), 1) for node in blocks),
        finality_p50_ms=finality[len(finality) // 2],
        finality_p99_ms=finality[len(finality) * 99 // 100],
        cpu_us=round(sum(spent.values()) * us / len(nodes), 1),
        cpu_us_by_stage={name: round(s * us / len(nodes), 1) for name, s in spent.items()},
        generator_cpu_us=round(generator * us, 1),
        rss_mib_start=rss,
        rss_mib_end=[node.memory_info().rss >> 20 for node in nodes],
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """A line of a node's log: a block with orders, and how late after its time it was decided."""

    at_s: float
    transactions: int
    finality_ms: int


def _order_blocks(log: Path, above: int) -> list[_Block]:
    """The load's blocks as a node saw them, in order."""
    blocks = []
    for line in log.read_text().splitlines():
        if " block.finalized " not in line or f"chain={CHAIN} " not in line:
            continue
        values = {name: int(value) for name, value in _NUMBER.findall(line)}
        if values["height"] > above and values["transactions"]:
            at_s = datetime.fromisoformat(line.partition(" ")[0]).timestamp()
            blocks.append(_Block(at_s, values["transactions"], values["finality_ms"]))
    return blocks


def _sustained(blocks: list[_Block]) -> float:
    """Orders a second between the first and the last but one block, which are full intervals."""
    if len(blocks) < 3:
        return 0.0
    full = blocks[1:-1]
    return sum(block.transactions for block in full) / (full[-1].at_s - blocks[0].at_s)


def stage_seconds(clients: list[Client]) -> dict[str, float]:
    """CPU seconds of all nodes together, by what they went into."""
    sums: dict[str, float] = {}
    for client in clients:
        text = httpx.get(f"{client.url}/metrics", trust_env=False, timeout=60).text
        for stage, value in _CPU.findall(text):
            sums[stage] = sums.get(stage, 0.0) + float(value)
    return sums


def _orders(client: Client) -> int:
    return client.stats(CHAIN).total.orders


def _keys(number: int) -> tuple[SigningKey, SigningKey]:
    name = f"bench {number}".encode()
    return SigningKey(sha256(name)), SigningKey(sha256(name + b" meter"))


def register(client: Client, spec: ChainSpec, accounts: int) -> None:
    """Participants with a meter and baht, each batch final before the next."""
    distributor, payment = operator_key("mea"), operator_key("payment")
    nonces = {key.public_key: client.nonce(key.public_key, CHAIN) for key in (distributor, payment)}

    def sign(key: SigningKey, payload: Payload) -> Transaction:
        nonce = nonces[key.public_key]
        nonces[key.public_key] += 1
        return sign_transaction(key, spec.chain_id, nonce, payload)

    for first in range(0, accounts, REGISTER_AT_ONCE):
        transactions = []
        for number in range(first, min(first + REGISTER_AT_ONCE, accounts)):
            owner, meter = _keys(number)
            location = _location(number)
            source = Generation.SOLAR if number % 2 else Generation.NONE
            transactions += [
                sign(
                    distributor,
                    RegisterParticipant(
                        owner.public_key, Role.PROSUMER, sha256(b"bench"),
                        LicenceClass.EXEMPT_LT_1000KVA, FAR_MS, False, "BKK", 1, 10**9,
                    ),
                ),
                sign(
                    distributor,
                    RegisterMeter(
                        meter.public_key, owner.public_key, location, 400_000,
                        400_000 if number % 2 else 0, source, ProsumerClass.COMMERCIAL,
                    ),
                ),
                sign(payment, Deposit(owner.public_key, 10**12)),
            ]  # fmt: skip
        refused = [error for error in client.send_many(transactions) if error is not None]
        if refused:
            raise RuntimeError(f"set-up was refused: {refused[0]}")
        client.wait_for([transactions[-1].id.hex(), transactions[-2].id.hex()], timeout_s=60)


def _location(number: int) -> str:
    return f"BKK-{number % 5 + 1:02d}-SUB{number // 5 % 10 + 1:03d}"


def sign_orders(spec: ChainSpec, accounts: int, total: int) -> Iterator[Transaction]:
    """Account after account in turn, so that every batch holds many senders."""
    slot = slot_at(time.time_ns() // 1_000_000) + 2
    keys = [_keys(number) for number in range(accounts)]
    for number in range(total):
        nonce, index = divmod(number, accounts)
        owner, meter = keys[index]
        selling = index % 2 == 1
        order = PlaceOrder(
            Side.SELL if selling else Side.BUY,
            1_000,
            2_300 + number % 900 if selling else 3_300 + number % 900,
            _location(index),
            meter.public_key,
            Source.SOLAR if selling else Source.ANY,
            False,
            slot,
            slot + 8,
            1_000,
            TimeInForce.GOOD_TILL_CANCELLED,
            FAR_MS,
        )
        yield sign_transaction(owner, spec.chain_id, nonce, order)


def _streams(
    transactions: Iterator[Transaction], accounts: int, clients: int
) -> list[list[Transaction]]:
    """One stream a node: all orders of an account go to the same node, in nonce order."""
    streams: list[list[Transaction]] = [[] for _ in range(clients)]
    for number, transaction in enumerate(transactions):
        streams[number % accounts % clients].append(transaction)
    return streams


def _submit(clients: list[Client], streams: list[list[Transaction]], per_s: float) -> int:
    """Send every node its stream in batches, together at a steady rate; how many were accepted."""
    accepted = [0] * len(clients)
    started = time.monotonic()

    def send(index: int) -> None:
        stream = streams[index]
        for first in range(0, len(stream), BATCH):
            due = started + first * len(clients) / per_s
            time.sleep(max(0.0, due - time.monotonic()))
            accepted[index] += _deliver(clients[index], stream[first : first + BATCH])

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(accepted)


def _deliver(client: Client, batch: list[Transaction]) -> int:
    """Send until the node has taken all or refuses some for good; how many it has taken."""
    taken = 0
    for _ in range(RETRIES):
        try:
            refused = [error for error in client.send_many(batch) if error is not None]
        except (RpcError, NodeUnreachable):
            time.sleep(RETRY_S)  # No answer for the batch; what was taken is a duplicate next time.
            continue
        refused = [error for error in refused if error.code != ErrorCode.DUPLICATE]
        taken = len(batch) - len(refused)
        if not any(error.retryable for error in refused):
            break
        time.sleep(RETRY_S)
    return taken


def _waiting(clients: list[Client]) -> int:
    """What waits in the fullest pool."""
    rows = [row for client in clients for row in client.status().chains]
    return max(row.mempool_transactions for row in rows if row.chain == CHAIN)


def _wait_orders(clients: list[Client], wanted: int) -> int:
    """Until every node has finalized `wanted` orders, or none has come for a while."""
    best, moved = -1, time.monotonic()
    while best < wanted:
        still_s = time.monotonic() - moved
        if still_s > STALLED_S or (still_s > PATIENCE_S and not _waiting(clients)):
            break
        least = min(_orders(client) for client in clients)
        if least > best:
            best, moved = least, time.monotonic()
        time.sleep(0.1)
    return best


def wait_height(clients: list[Client], height: int) -> None:
    deadline = time.monotonic() + 60
    while any(client.head(CHAIN).height < height for client in clients):
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster does not finalize")
        time.sleep(0.2)
