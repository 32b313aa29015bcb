"""One key floods a local cluster while honest traders send orders: who waits, and who pays.

The flooder asks each node in turn what nonce it would take next and sends it batches from there, as
fast as the nodes answer: transfers to ever new addresses and to itself, in turn. It is a process of
its own, so that the honest ones' clock is not held up by it.
"""

from __future__ import annotations

import multiprocessing as processes
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil

from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import DEV_ACCOUNT, dev_key, local_genesis
from gridtokenx.cluster.processes import Cluster, create, this_process
from gridtokenx.ledger.model import ACCOUNTS, MINIMUMS, Account, Asset, Transfer
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode
from scripts.benchmarks.cluster import (
    CHAIN,
    ORDERS_PER_ACCOUNT,
    register,
    sign_orders,
    stage_seconds,
    wait_height,
)

BLOCK_TIME_MS = 1_000
TIMEOUT_BASE_MS = 2_000
BATCH = 250
PATIENCE_S = 60.0
RETRY_S = 0.2
LEAST_UGTX = MINIMUMS[Asset.GTX]
FLOODER = dev_key(DEV_ACCOUNT)
_FINALIZED = re.compile(
    r"^(\S+) .*\bblock\.finalized .*\bchain=(\w+) .*\bheight=(\d+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Result:
    """Times in ms, from sending an order to the decision of its block on the first node.

    `quiet` is before the flood. `flood_final` of `flood` transactions came into blocks within
    `flood_s`; they made `accounts`, which hold `locked_ugtx` for good; `row_bytes` is what one of
    them takes in the state, `disk_bytes` what the first node wrote for each of the flood's
    transactions: block, index, state.
    """

    orders: int
    orders_final: int
    quiet_p50_ms: int
    quiet_p99_ms: int
    flood_p50_ms: int
    flood_p99_ms: int
    flood: int
    flood_final: int
    flood_s: float
    accounts: int
    locked_ugtx: int
    row_bytes: int
    disk_bytes: int
    cpu_ms_per_s_by_stage: dict[str, float]
    rss_mib_before: list[int]
    rss_mib_after: list[int]


def run(*, flood: int, seconds: int, orders_per_s: int) -> Result:
    """Orders for `seconds`, then the flood beside them till it is in, or for five times as long."""
    genesis = replace(
        local_genesis(block_time_ms=BLOCK_TIME_MS, genesis_time_ms=time.time_ns() // 1_000_000),
        timeout_base_ms=TIMEOUT_BASE_MS,
    )
    with tempfile.TemporaryDirectory() as folder:
        cluster = create(Path(folder) / "bench", genesis, observers=0, owner=this_process())
        try:
            return _measure(cluster, genesis, flood, seconds, orders_per_s)
        finally:
            cluster.stop()


def _measure(
    cluster: Cluster, genesis: Genesis, flood: int, seconds: int, orders_per_s: int
) -> Result:
    spec = genesis.chain(CHAIN)
    clients = [Client(member.api_url, timeout_s=60) for member in cluster.members]
    wait_height(clients, 1)
    total = orders_per_s * seconds * 6
    accounts = -(-total // ORDERS_PER_ACCOUNT)
    register(clients[0], spec, accounts)
    orders = list(sign_orders(spec, accounts, total))
    transfers = sign_flood(spec, flood)
    nodes = [psutil.Process(node.pid) for node in cluster.nodes]
    urls = [member.api_url for member in cluster.members]
    honest = Honest(urls, orders, accounts, orders_per_s)
    honest.start()
    time.sleep(seconds)
    flood_began = time.time()
    rss = [node.memory_info().rss >> 20 for node in nodes]
    disk, stages = _disk(cluster), stage_seconds(clients)
    stop = processes.Event()
    flooder = processes.Process(target=send_flood, args=(urls, transfers, stop), daemon=True)
    flooder.start()
    flooder.join(seconds * 5)
    stop.set()
    flooder.join()
    flood_s = time.time() - flood_began
    spent = {name: value - stages[name] for name, value in stage_seconds(clients).items()}
    honest.stop()
    decided = _latencies(clients[0], cluster, honest.sent)
    final = clients[0].nonce(FLOODER.public_key, CHAIN, pending=False)
    quiet = sorted(late for at, late in decided if at < flood_began)
    flooded = sorted(late for at, late in decided if at >= flood_began)
    made = len([one for one in transfers[:final] if one.payload.to != FLOODER.public_key])
    return Result(
        orders=len(honest.sent),
        orders_final=len(decided),
        quiet_p50_ms=quiet[len(quiet) // 2],
        quiet_p99_ms=quiet[len(quiet) * 99 // 100],
        flood_p50_ms=flooded[len(flooded) // 2],
        flood_p99_ms=flooded[len(flooded) * 99 // 100],
        flood=flood,
        flood_final=final,
        flood_s=round(flood_s, 1),
        accounts=made,
        locked_ugtx=made * LEAST_UGTX,
        row_bytes=len(ACCOUNTS.prefix) + 32 + len(encode(Account(gtx_ugtx=LEAST_UGTX))),
        disk_bytes=(_disk(cluster) - disk) // max(final, 1),
        cpu_ms_per_s_by_stage={
            name: round(1_000 * s / flood_s / len(nodes), 1) for name, s in spent.items()
        },
        rss_mib_before=rss,
        rss_mib_after=[node.memory_info().rss >> 20 for node in nodes],
    )


# -- The flooder -----------------------------------------------------------------------------------


def sign_flood(spec: ChainSpec, count: int) -> list[Transaction]:
    """Transfers by nonce: every other one to an address that nobody has used."""
    own = FLOODER.public_key
    targets = [own if number % 2 else sha256(b"flood %d" % number) for number in range(count)]
    return [
        sign_transaction(
            FLOODER, spec.chain_id, number, Transfer(to, Asset.GTX, LEAST_UGTX if to != own else 1)
        )
        for number, to in enumerate(targets)
    ]


def send_flood(urls: Sequence[str], transfers: Sequence[Transaction], stop: Event) -> None:
    """To all nodes at once, each from the nonce that it would take, until all are in blocks."""

    def flood(url: str) -> None:
        with Client(url, timeout_s=60) as client:
            while not stop.is_set():
                try:
                    if client.nonce(FLOODER.public_key, CHAIN, pending=False) >= len(transfers):
                        return
                    nonce = client.nonce(FLOODER.public_key, CHAIN)
                    if nonce < len(transfers):
                        client.send_many(transfers[nonce : nonce + BATCH])
                except (RpcError, NodeUnreachable):
                    continue  # The node has had enough for the moment: that is the aim.

    threads = [threading.Thread(target=flood, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- The honest traders ----------------------------------------------------------------------------


class Honest:
    """Sends orders, each account's to one node; `sent` has when each was due, whatever its node
    made of that moment.
    """

    def __init__(
        self, urls: Sequence[str], orders: Sequence[Transaction], accounts: int, per_s: int
    ) -> None:
        self.sent: list[tuple[float, Transaction]] = []
        self._orders, self._accounts, self._per_s = orders, accounts, per_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(url, place, len(urls)))
            for place, url in enumerate(urls)
        ]

    def start(self) -> None:
        """Begin now."""
        self._began = time.time()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; what was sent has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, url: str, place: int, nodes: int) -> None:
        with Client(url, timeout_s=60) as client:
            for number, order in enumerate(self._orders):
                if number % self._accounts % nodes != place:
                    continue
                due = self._began + number / self._per_s
                if self._stop.wait(max(0.0, due - time.time())):
                    return
                self._deliver(client, order)
                self.sent.append((due, order))

    def _deliver(self, client: Client, order: Transaction) -> None:
        while True:
            try:
                (refused,) = client.send_many([order])
            except (RpcError, NodeUnreachable):
                refused = None
            else:
                if refused is None or refused.code == ErrorCode.DUPLICATE:
                    return
                if not refused.retryable:
                    raise RuntimeError(f"an honest order was refused: {refused}")
            if self._stop.wait(RETRY_S):
                return


def _latencies(
    client: Client, cluster: Cluster, sent: Sequence[tuple[float, Transaction]]
) -> list[tuple[float, int]]:
    """(when an order was due, ms until its block was decided on the first node)."""
    deadline = time.monotonic() + PATIENCE_S
    heights: dict[bytes, int] = {}
    while len(heights) < len(sent) and time.monotonic() < deadline:
        for _, order in sent:
            if order.id not in heights:
                status = client.transaction_status(order.id.hex())
                if status.height is not None:
                    heights[order.id] = status.height
        time.sleep(0.5)
    decided = {
        int(height): datetime.fromisoformat(at).timestamp()
        for at, chain, height in _FINALIZED.findall(cluster.log_path("n0").read_text())
        if chain == CHAIN
    }
    return [
        (due, round((decided[heights[order.id]] - due) * 1_000))
        for due, order in sent
        if order.id in heights
    ]


def _disk(cluster: Cluster) -> int:
    """Bytes of the first node's database. Its log is counted too; files are compacted later."""
    files = (cluster.home("n0") / "data").rglob("*")
    return sum(one.stat().st_size for one in files if one.is_file())
