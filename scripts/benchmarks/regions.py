"""What a node that serves one region pays, while regions that it does not serve are added.

n0 and n1 sign MET and the national chain, however many regions there are, and take the same orders;
what they use is measured. The other regions are dealt out to four more nodes, the first of each
region signs it, and every region has orders of its own. With one region there are no other nodes,
so from one region to two the four connections come, and from two on nothing but regions.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from gridtokenx.chain.genesis import BlockClock, Genesis, RegionChain
from gridtokenx.client import Client
from gridtokenx.cluster import watch
from gridtokenx.cluster.devnet import CHAINS, NATIONAL, local_genesis
from gridtokenx.cluster.processes import Cluster, create, this_process
from gridtokenx.demo.households import SteadyOrders
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.registry.model import Territory
from gridtokenx.trading.model import MarketParameters, MatchingMode
from scripts.benchmarks.cluster import stage_seconds

MEASURED = "MET"
SIGNERS, OTHERS = 2, 4
# Beside the local network's three. Source: protocols/market.md 5.1.
MORE_CHAINS = (
    ("CEN", (("PTH", "pea", "C1", "C"),)),
    ("SOU", (("HKT", "pea", "S2", "S"), ("SGZ", "pea", "S3", "S"))),
)
MOST_REGIONS = len(CHAINS) + len(MORE_CHAINS)
BLOCK_TIME_MS = 1_000
BLOCKS_PER_SLOT = 15
SETTLE_S = 6.0  # Orders come in once a second; the first of them are settled by then.
FIRST_PORTS = (30_100, 30_500)
_SENT, _RECEIVED = re.compile(r"bytes_sent:(\d+)"), re.compile(r"bytes_received:(\d+)")
_TRANSACTIONS = re.compile(r'^gridtokenx_transactions_total\{chain="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RegionCost:
    """The mean of the measured nodes. CPU in ms; a block is one of MET or of the national chain.

    `national_transactions` are the checkpoints that the national chain took meanwhile;
    `*_kb_per_s` are TCP payload between nodes in 1,000 bytes, None without `ss`.
    """

    regions: int
    nodes: int
    seconds: float
    orders_per_s: float
    others_orders_per_s: float
    blocks: int
    national_transactions: int
    peers: int
    cpu_ms_per_s: float
    cpu_ms_per_block: float
    cpu_ms_per_s_by_stage: dict[str, float]
    in_kb_per_s: float | None
    out_kb_per_s: float | None
    rss_mib: int


def served_by(regions: int) -> dict[str, tuple[str, ...]]:
    """The nodes of each region. ValueError for a number of regions that is not offered."""
    if not 1 <= regions <= MOST_REGIONS:
        raise ValueError(f"1 to {MOST_REGIONS} regions, not {regions}")
    names = [name for name, _ in (*CHAINS, *MORE_CHAINS)][:regions]
    served = {name: [] for name in names} | {MEASURED: [f"n{at}" for at in range(SIGNERS)]}
    others = [name for name in names if name != MEASURED]
    for index in range(OTHERS if others else 0):
        served[others[index % len(others)]].append(f"n{SIGNERS + index}")
    return {name: tuple(nodes) for name, nodes in served.items()}


def genesis_of(served: Mapping[str, Sequence[str]], now_ms: int) -> Genesis:
    """MET and TH signed by the measured nodes, each other region by its first node."""
    nodes = {name for names in served.values() for name in names}
    clock = BlockClock(slot_start_ms(slot_at(now_ms)), SLOT_MS // BLOCKS_PER_SLOT)
    genesis = local_genesis(
        authorities=len(nodes),
        block_time_ms=BLOCK_TIME_MS,
        clock=clock,
        parameters=MarketParameters(matching_mode=MatchingMode.BLOCK),  # It has the most work.
        genesis_time_ms=now_ms,
    )
    members, national = genesis.chains[0].validators, genesis.national
    assert national is not None
    chains = []
    for step, (name, territories) in enumerate((*CHAINS, *MORE_CHAINS)[: len(served)]):
        signers = served[name] if name == MEASURED else served[name][:1]
        chains.append(
            RegionChain(
                name=name,
                incarnation=1,
                offset_ms=step % 3 * BLOCK_TIME_MS // 4,  # MET's and TH's are always the same.
                territories=tuple(Territory(*one) for one in territories),
                validators=tuple(members[int(node[1:])] for node in signers),
            )
        )
    staking = replace(national.staking, min_validators=SIGNERS)
    national = replace(national, stakes=national.stakes[:SIGNERS], staking=staking)
    return replace(genesis, chains=tuple(chains), national=national)


def measure(regions: int, seconds: float, orders_per_s: int) -> RegionCost:
    """Start the nodes, load every region, measure for so long. Errors: ClusterError, RpcError."""
    served = served_by(regions)
    genesis = genesis_of(served, time.time_ns() // 1_000_000)
    follows = {node: (name,) for name, nodes in served.items() for node in nodes}
    with tempfile.TemporaryDirectory() as folder:
        cluster = create(
            Path(folder) / "bench",
            genesis,
            observers=len(follows) - SIGNERS - (regions - 1),
            owner=this_process(),
            first_ports=FIRST_PORTS,
            regions=follows,
        )
        try:
            watch.wait_ready(cluster)
            with _loaded(cluster, genesis, served, orders_per_s):
                return observe(cluster, served, seconds)
        finally:
            cluster.stop()


@contextmanager
def _loaded(
    cluster: Cluster, genesis: Genesis, served: Mapping[str, Sequence[str]], orders_per_s: int
) -> Iterator[None]:
    """Orders in every region, to the nodes that serve it, until the block ends."""
    loads = [
        SteadyOrders(cluster, genesis, orders_per_s, seed, (name,), tuple(nodes))
        for seed, (name, nodes) in enumerate(served.items())
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(SteadyOrders.set_up, loads))
    for load in loads:
        load.start()
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        for load in loads:
            load.stop()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a node has used and done since it started; bytes (received, sent), None if unknown."""

    at_s: float
    cpu_s: float
    stages_s: dict[str, float]
    traffic: tuple[int, int] | None
    heights: dict[str, int]
    transactions: dict[str, int]


def _read(cluster: Cluster, name: str) -> _Reading:
    node = cluster.node(name)
    with Client(node.member.api_url) as client:
        text = httpx.get(f"{client.url}/metrics", trust_env=False, timeout=60).text
        times = psutil.Process(node.pid).cpu_times()
        return _Reading(
            time.monotonic(),
            times.user + times.system,
            stage_seconds([client]),
            _traffic(cluster, node.pid),
            watch.heights(client),
            {chain: int(float(value)) for chain, value in _TRANSACTIONS.findall(text)},
        )


def _traffic(cluster: Cluster, pid: int) -> tuple[int, int] | None:
    """Bytes a process has received and sent by its open TCP connections with other nodes."""
    command = shutil.which("ss")
    if command is None:
        return None
    told = subprocess.run(
        [command, "-tinpHO"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ports = [member.p2p_port for member in cluster.members]
    between = re.compile(rf":({'|'.join(map(str, ports))})\s")
    mine = [line for line in told if f"pid={pid}," in line and between.search(line)]
    received, sent = (
        sum(int(found[1]) for line in mine if (found := pattern.search(line)))
        for pattern in (_RECEIVED, _SENT)
    )
    return received, sent


def observe(cluster: Cluster, served: Mapping[str, Sequence[str]], seconds: float) -> RegionCost:
    """What the nodes of MET use in so many seconds; `served`: the nodes of each region."""
    others = [nodes[0] for name, nodes in served.items() if name != MEASURED]
    watched = [*served[MEASURED], *others]
    before = {name: _read(cluster, name) for name in watched}
    time.sleep(seconds)
    after = {name: _read(cluster, name) for name in watched}
    spans = [(before[name], after[name]) for name in served[MEASURED]]
    took_s = sum(end.at_s - start.at_s for start, end in spans)  # Of all measured nodes together.
    cpu_ms = 1000 * sum(end.cpu_s - start.cpu_s for start, end in spans)
    blocks = sum(sum(end.heights.values()) - sum(start.heights.values()) for start, end in spans)
    stages = {
        stage: round(
            1000 * sum(e.stages_s[stage] - s.stages_s[stage] for s, e in spans) / took_s, 2
        )
        for stage in spans[0][0].stages_s
    }
    rss = [psutil.Process(cluster.node(name).pid).memory_info().rss for name in served[MEASURED]]
    with Client(cluster.node(served[MEASURED][0]).member.api_url) as client:
        peers = client.status().peers
    first, last = spans[0]
    received, sent = (_kb_per_s(spans, at, took_s) for at in (0, 1))
    return RegionCost(
        regions=len(served),
        nodes=len(cluster.members),
        seconds=round(last.at_s - first.at_s, 1),
        orders_per_s=round(_included(first, last, MEASURED) / (last.at_s - first.at_s), 1),
        others_orders_per_s=round(
            sum(
                _included(before[nodes[0]], after[nodes[0]], name) / (last.at_s - first.at_s)
                for name, nodes in served.items()
                if name != MEASURED
            ),
            1,
        ),
        blocks=blocks // len(spans),
        national_transactions=_included(first, last, NATIONAL),
        peers=peers,
        cpu_ms_per_s=round(cpu_ms / took_s, 1),
        cpu_ms_per_block=round(cpu_ms / max(1, blocks), 1),
        cpu_ms_per_s_by_stage=stages,
        in_kb_per_s=received,
        out_kb_per_s=sent,
        rss_mib=round(sum(rss) / len(rss)) >> 20,
    )


def _included(start: _Reading, end: _Reading, chain: str) -> int:
    return end.transactions.get(chain, 0) - start.transactions.get(chain, 0)


def _kb_per_s(spans: Sequence[tuple[_Reading, _Reading]], at: int, took_s: float) -> float | None:
    total = 0
    for start, end in spans:
        if start.traffic is None or end.traffic is None:
            return None
        total += end.traffic[at] - start.traffic[at]
    return round(total / 1000 / took_s, 1)


def print_table(rows: Sequence[RegionCost]) -> None:
    """One column a run, for people."""
    table = Table(title="a node of MET, mean of two", title_justify="left")
    table.add_column("regions")
    for row in rows:
        table.add_column(str(row.regions), justify="right")
    for text, name in _LINES:
        table.add_row(text, *(_text(getattr(row, name)) for row in rows))
    for stage in rows[0].cpu_ms_per_s_by_stage:
        table.add_row(f"  {stage}", *(_text(row.cpu_ms_per_s_by_stage[stage]) for row in rows))
    Console(width=100).print(table)


_LINES = (
    ("nodes", "nodes"),
    ("orders a second in MET", "orders_per_s"),
    ("orders a second elsewhere", "others_orders_per_s"),
    ("peers", "peers"),
    ("blocks of MET and TH", "blocks"),
    ("checkpoints in TH", "national_transactions"),
    ("kB/s in", "in_kb_per_s"),
    ("kB/s out", "out_kb_per_s"),
    ("RSS, MiB", "rss_mib"),
    ("CPU a block, ms", "cpu_ms_per_block"),
    ("CPU, ms a second", "cpu_ms_per_s"),
)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
