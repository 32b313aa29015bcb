"""`gridtokenx cluster`: a whole network of plain processes on this machine."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, show

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.cluster.processes import Cluster

app = typer.Typer(help="Local clusters: up, down, status, logs, faults.", no_args_is_help=True)

DEFAULT_NAME = "demo"
SEED_ORDER = (
    '{"order_type": "sell", "energy_amount": 100.0, "price_per_kwh": 5000, '
    '"energy_source": "solar", "grid_location": "BKK-01-SUB001", "expiration_hours": 24}'
)
_DURATION = re.compile(r"([0-9]+)(ms|s)")

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="The cluster.", show_default=True)]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Such as n2.")]
ClusterOption = Annotated[str, typer.Option("--name", metavar="NAME", help="The cluster.")]


@app.command()
def up(
    authorities: Annotated[
        int, typer.Option("-n", "--authorities", min=1, max=16, help="Authority nodes.")
    ] = 4,
    observers: Annotated[int, typer.Option(min=0, max=16, help="Observer nodes.")] = 1,
    block_time: Annotated[str, typer.Option(help="Time of a block, such as 500ms or 10s.")] = "1s",
    clock: Annotated[
        str, typer.Option(help="Market time: blocks (a 15-minute slot every 5 blocks), or wall.")
    ] = "blocks",
    name: ClusterOption = DEFAULT_NAME,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds until it must be ready.")] = 90,
) -> None:
    """Start a network; wait until each node has a block of every chain and knows all others."""
    from gridtokenx.client import Client
    from gridtokenx.cluster import dev, devnet, processes, watch

    now_ms = time.time_ns() // 1_000_000
    if clock not in ("wall", "blocks"):
        raise typer.BadParameter(f"--clock is blocks or wall, not {clock!r}")
    genesis = devnet.local_genesis(
        authorities=authorities,
        block_time_ms=_milliseconds(block_time),
        clock=devnet.block_clock(now_ms) if clock == "blocks" else None,
        genesis_time_ms=now_ms,
    )
    with reported(), locked(name) as folder:
        if cleaned := processes.clean_stale(folder):
            output.note(cleaned)
        output.note(f"starting {authorities + observers} nodes in {folder}")
        started = time.monotonic()
        cluster = processes.create(folder, genesis, observers=observers)
        try:
            watch.wait_ready(cluster, timeout)
            seconds = time.monotonic() - started
            with Client(cluster.members[0].api_url, genesis=genesis) as client:
                for account in (devnet.DEV_ACCOUNT, devnet.NEIGHBOUR):
                    dev.fund_dev_account(client, account)
        except BaseException:
            cluster.stop()
            raise
    document = {**watch.describe(cluster), "ready_s": round(seconds, 1)}
    output.emit(document, lambda console: _draw_up(console, cluster, document, genesis))


@app.command()
def down(
    name: Name = DEFAULT_NAME,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with data and logs.")
    ] = False,
) -> None:
    """Stop all nodes of a cluster and remove its folder."""
    with reported(), locked(name) as folder:
        cluster = load(folder)
        cluster.stop()
        if not keep:
            cluster.remove()
    document = {"name": name, "stopped": [member.name for member in cluster.members]}
    output.emit(document, lambda console: console.print(f"cluster {name} is down"))


@app.command("ls")
def list_clusters() -> None:
    """The clusters of this home."""
    from gridtokenx.cluster import processes

    with reported():
        found = processes.find(processes.clusters_folder(output.options().home))
        rows = [
            {
                "name": cluster.name,
                "nodes": len(cluster.nodes),
                "running": sum(cluster.is_running(member.name) for member in cluster.members),
                "folder": str(cluster.folder),
            }
            for cluster in found
        ]

    def draw(console: Console) -> None:
        for row in rows:
            console.print(
                f"{row['name']}  {row['running']} of {row['nodes']} nodes run", highlight=False
            )
        if not rows:
            console.print("no clusters; gridtokenx cluster up starts one")

    output.emit({"clusters": rows}, draw)


@app.command()
def status(name: Name = DEFAULT_NAME) -> None:
    """Every node of a cluster: process, heights, peers."""
    from gridtokenx.cluster import processes, watch

    with reported():
        cluster = processes.load(folder_of(name))
        document = watch.describe(cluster)
    output.emit(document, lambda console: show.text(console, _table(document)))


@app.command()
def logs(
    node: NodeName,
    name: ClusterOption = DEFAULT_NAME,
    lines: Annotated[int, typer.Option("-l", "--lines", min=1, max=10_000)] = 50,
) -> None:
    """The last lines a node printed."""
    from gridtokenx.cluster import processes

    with reported():
        cluster = processes.load(folder_of(name))
        text = cluster.tail(node, lines)
        path = cluster.log_path(node)
    document = {"node": node, "log": str(path), "lines": text.splitlines()}
    output.emit(document, lambda console: show.text(console, text))


@app.command()
def kill(node: NodeName, name: ClusterOption = DEFAULT_NAME) -> None:
    """End a node as a power cut would: kill -9."""
    with reported(), locked(name) as folder:
        load(folder).kill(node)
    output.emit({"node": node, "state": "killed"}, lambda console: console.print(f"killed {node}"))


@app.command()
def start(
    node: NodeName,
    name: ClusterOption = DEFAULT_NAME,
    wait: Annotated[bool, typer.Option(help="Wait until it answers and has caught up.")] = True,
) -> None:
    """Start a node that was killed or has ended."""
    from gridtokenx.cluster import watch

    with reported(), locked(name) as folder:
        cluster = load(folder)
        cluster.start(node)
        seconds = watch.wait_caught_up(cluster, node) if wait else 0.0
    document = {"node": node, "state": "started", "caught_up_s": round(seconds, 1)}
    text = f"{node} runs and has caught up after {seconds:.1f} s" if wait else f"started {node}"
    output.emit(document, lambda console: console.print(text, highlight=False))


@app.command()
def homes(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write them to.")],
) -> None:
    """Write homes for the local network elsewhere, as in containers; homes that exist stay."""
    from gridtokenx.chain.genesis import parse_genesis
    from gridtokenx.cluster import devnet
    from gridtokenx.home.settings import ApiSettings

    genesis = parse_genesis(devnet.bootstrap_files()["genesis.json"])
    nodes = len(devnet.AUTHORITIES) + 1
    members = devnet.plan(nodes - 1, 1, [ApiSettings().port, devnet.DEFAULT_P2P_PORT] * nodes)
    rows = []
    for member in members:
        home = out.absolute() / (member.authority or member.role)
        is_new = not home.exists()
        if is_new:
            half_made = home.with_name(f".{home.name}.new")
            shutil.rmtree(half_made, ignore_errors=True)
            devnet.write_home(half_made, member, genesis, members[0], faults=False)
            half_made.rename(home)
        rows.append({"home": str(home), "node": member.name, "written": is_new})
    document = {"homes": rows, "genesis_hash": genesis.hash.hex()}

    def draw(console: Console) -> None:
        for row in rows:
            text = "written" if row["written"] else "exists already"
            console.print(f"{row['home']}  {text}", highlight=False, soft_wrap=True)
        console.print("their keys are public: NOT FOR REAL USE")

    output.emit(document, draw)


def _milliseconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    value = int(match[1]) * (1000 if match[2] == "s" else 1) if match else 0
    if not 200 <= value <= 60_000:
        raise typer.BadParameter(f"--block-time is 200ms to 60s, not {text!r}")
    return value


def folder_of(name: str) -> Path:
    from gridtokenx.cluster import processes

    return processes.clusters_folder(output.options().home) / processes.check_name(name)


def load(folder: Path) -> Cluster:
    from gridtokenx.cluster import processes

    return processes.load(folder)


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """The cluster's folder, with nobody else working on it."""
    from gridtokenx.cluster import processes

    folder = folder_of(name)
    with processes.locked(folder.with_name(f"{name}.lock"), wait=False):
        yield folder


@contextmanager
def reported() -> Iterator[None]:
    """Cluster errors in the words of the command line; the end of a node's log goes to stderr."""
    from gridtokenx.cluster.processes import ClusterError

    try:
        yield
    except ClusterError as error:
        if error.log:
            output.note(error.log)
        output.fail(
            error.detail,
            code="cluster",
            reason="cluster",
            hint=error.hint,
        )


def _market_of(genesis: Genesis) -> str:
    """How long a newcomer's orders wait."""
    from gridtokenx.primitives.quantities import SLOT_MS

    clock = genesis.market_clock
    if not clock.ms_per_block:
        return "orders are matched when their slot closes, at each quarter of an hour"
    blocks = SLOT_MS // clock.ms_per_block
    seconds = blocks * genesis.block_time_ms / 1000
    return (
        f"orders are matched when their slot closes: one each {blocks} blocks, {seconds:g} s "
        "(--clock wall: 15 minutes)"
    )


def _draw_up(
    console: Console, cluster: Cluster, document: dict[str, Any], genesis: Genesis
) -> None:
    from gridtokenx.cluster.devnet import DEV_ACCOUNT, NEIGHBOUR, PASSWORD, dev_key
    from gridtokenx.primitives.types import format_address

    def line(text: str) -> None:
        show.line(console, text)

    first = document["nodes"][0]
    validators = sum(node["role"] == "authority" for node in document["nodes"])
    told = document["genesis_hash"]
    line(
        f'GridTokenX cluster "{cluster.name}"   chain gridtokenx-local-{told[:4]}   '
        f"genesis {told[:4]}…{told[-2:]}   "
        f"{validators} validators, f = {(validators - 1) // 3}"
    )
    show.text(console, _table(document))
    line("Funded dev accounts (NOT FOR REAL USE)")
    for name in (DEV_ACCOUNT, NEIGHBOUR):
        address = format_address(dev_key(name).public_key)
        line(f"  {address}  {name}, 10,000 THB, meter at BKK-01-SUB001")
    home = cluster.home("n0")
    line(f'  keys in {home / "keys"} (password "{PASSWORD}")')
    line(f"Market: {_market_of(genesis)}")
    line(f"Try:  curl -s {first['api']}/api/v1/status")
    line(
        f"      curl -X POST {first['api']}/api/v1/energy/orders "
        f"-H 'Content-Type: application/json' -d '{SEED_ORDER}'"
    )
    line(
        f"      gridtokenx --home {home} orders place --side buy --kwh 60 --price 5.60 "
        f"--location BKK-01-SUB001 --key {NEIGHBOUR} --password-file {home / 'password'}"
    )
    line(f"      gridtokenx --rpc {first['api']} orders book BKK-01")
    line(f"      gridtokenx --rpc {first['api']} trade list")
    line(f"Logs: gridtokenx cluster logs n0 --name {cluster.name}   ({first['log']})")
    line(f"Stop: gridtokenx cluster down {cluster.name}")
    line(
        f"ready in {document['ready_s']} s ({len(document['nodes'])}/{len(document['nodes'])} "
        "nodes finalized block 1 on each chain)"
    )


def _table(document: dict[str, Any]) -> str:
    """Aligned columns of plain text: they may be wider than a terminal, and are never cut."""
    chains = sorted({chain for node in document["nodes"] for chain in node["chains"]})
    rows = [["node", "role", "authority", "api", "p2p", "pid", *chains, "peers", "state"]]
    for node in document["nodes"]:
        heights = [str(node["chains"].get(chain, {}).get("height", "-")) for chain in chains]
        peers = "-" if node["peers"] is None else str(node["peers"])
        rows.append(
            [
                *(node["name"], node["role"], node["authority"].upper() or "-", node["api"]),
                *(str(node["p2p_port"]), str(node["pid"] or "-"), *heights, peers, node["state"]),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)
