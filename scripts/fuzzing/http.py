"""Hostile values at the doors of a node's HTTP port: JSON-RPC, REST, and raw heads.

Ends with 1 for a 500, an internal error, a traceback in an answer or in the node's log, or memory
that grows after the first fifth. Progress goes to stderr, one JSON document to stdout with --json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]

from tests.support.http_fuzz import Found, fuzz  # noqa: E402

DOORS = ("rpc", "rest", "heads")
TOLD_EVERY_S = 5.0
WARM_UP = 0.2
LOG_FAULTS = ("Traceback", "api.fault", "Unhandled", "Task exception")


@dataclass(frozen=True)
class Target:
    """A node under test: where it answers, its process, its log, and ids that it knows."""

    url: str
    pid: int
    log: Path
    known: tuple[Any, ...] = ()


def main(
    inputs: Annotated[int, typer.Option(help="How many, at each door.")] = 100_000,
    door: Annotated[list[str] | None, typer.Option(help="rpc, rest, heads; all if none.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same inputs.")] = 1,
    max_growth_mib: Annotated[int, typer.Option(help="After the first fifth, a door.")] = 16,
    url: Annotated[str, typer.Option(help="A running node instead of one of its own.")] = "",
    pid: Annotated[int, typer.Option(help="That node's process.")] = 0,
    log: Annotated[Path, typer.Option(help="That node's log.")] = Path("/dev/null"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    serve: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run and report."""
    if serve:
        _serve(Path(serve))
        return
    with _own_node() if not url else _given(url, pid, log) as target:
        rows = {name: _run(target, name, inputs, seed) for name in door or DOORS}
        told = target.log.read_text(errors="replace").splitlines()
    logged = [line for line in told if any(fault in line for fault in LOG_FAULTS)]
    grown = [name for name, row in rows.items() if row["growth_kib"] > max_growth_mib * 1024]
    ok = not logged and not grown and not any(row["faults"] for row in rows.values())
    document = {"ok": ok, "seed": seed, "doors": rows, "grown": grown, "logged": logged[:20]}
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        for name, row in rows.items():
            sys.stdout.write(f"{name}: {json.dumps(row)}\n")
        for line in logged[:20]:
            sys.stdout.write(f"log: {line}\n")
    raise typer.Exit(0 if ok else 1)


def _run(target: Target, door: str, inputs: int, seed: int) -> dict[str, Any]:
    started_s = told_s = time.monotonic()
    warm_kib = 0

    def tell(found: Found) -> None:
        nonlocal told_s, warm_kib
        if not warm_kib and found.inputs >= inputs * WARM_UP:
            warm_kib = _rss_kib(target.pid)
        now_s = time.monotonic()
        if now_s - told_s >= TOLD_EVERY_S:
            told_s = now_s
            rate = found.inputs / (now_s - started_s)
            sys.stderr.write(
                f"{door}: {found.inputs} of {inputs}, {rate:.0f} a second, "
                f"{len(found.faults)} faults, {_rss_kib(target.pid)} KiB\n"
            )

    found = fuzz(target.url, door, inputs, seed, target.known, tell)
    rss_kib = _rss_kib(target.pid)
    return {
        "inputs": found.inputs,
        "seconds": round(time.monotonic() - started_s),
        "statuses": dict(sorted(found.statuses.items())),
        "faults": found.faults[:20],
        "rss_kib": rss_kib,
        "growth_kib": rss_kib - (warm_kib or rss_kib),
    }


def _rss_kib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@contextmanager
def _given(url: str, pid: int, log: Path) -> Iterator[Target]:
    yield Target(url.rstrip("/"), pid or os.getpid(), log)


@contextmanager
def _own_node() -> Iterator[Target]:
    """A node with real chains and the real server, without a network, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-http-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "scripts.fuzzing.http", "--serve", folder]
        with (
            log.open("w") as written,
            subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=written, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                told = json.loads(process.stdout.readline())
                yield Target(told["url"], process.pid, log, tuple(told["known"]))
                assert process.poll() is None, log.read_text()
            finally:
                process.terminate()


def _serve(folder: Path) -> None:
    import structlog
    import trio

    from gridtokenx.api.server import serve
    from gridtokenx.primitives.types import format_address
    from tests.support.api_node import BUYER, OPEN_API, SELLER, SELLER_METER, MemoryNode

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    node = MemoryNode(folder / "data", ("MET", "NOR", "TH"), local_signer=SELLER)
    node.populate()
    sell, buy = node.trade()
    block = node.statuses["MET"].head.hash.hex()
    known = [
        *(sell.id.hex(), buy.id.hex(), block, SELLER_METER.public_key.hex(), sell.encoded.hex()),
        *(format_address(key.public_key) for key in (SELLER, BUYER)),
    ]

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve, node, OPEN_API))
            sys.stdout.write(json.dumps({"url": url, "known": known}) + "\n")
            sys.stdout.flush()

    trio.run(run)


if __name__ == "__main__":
    typer.run(main)
