"""`python -m gridtokenx.demo.soak`, which is what `scripts/soak` calls: faults for half an hour.

Four authorities and an observer under a steady load of orders; faults drawn from a seed, one at a
time: kill -9 and start again, freeze, cut, slow down. After each one every node must catch up by
itself and all state roots must be equal. n3 and n4 are never killed, so what they use can be
followed from start to end; in the last third it must be level.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from gridtokenx.chain.genesis import BlockClock, Genesis
from gridtokenx.client import NodeUnreachable, RpcError
from gridtokenx.cluster import assertions, faults, watch
from gridtokenx.cluster.devnet import local_genesis
from gridtokenx.cluster.processes import Cluster, ClusterError, create, this_process
from gridtokenx.demo.households import PER_CHAIN, SteadyOrders
from gridtokenx.demo.measures import Trend, Usage, trends, usage
from gridtokenx.primitives.quantities import SLOT_MS, slot_at, slot_start_ms
from gridtokenx.runtime import screen

OBSERVERS = 1
BLOCK_TIME_MS = 1_000
# A quarter of an hour passes in 6 s, so orders are settled during the run, and what the state keeps
# for a day (flows over each node of the grid) has come to its full number after ten minutes.
BLOCKS_PER_SLOT = 6
ORDERS_PER_S = 60  # In half an hour a leak of half a kilobyte an order is told from noise.
FIRST_PORTS = (31_000, 32_000)
KILLED = ("n0", "n1", "n2")
STEADY = ("n3", "n4")
CATCH_UP_S = 90.0  # For the slowest machine and the longest view after a cut; seconds are usual.
FAULT_S = (3.0, 15.0)
QUIET_S = (5.0, 15.0)
DELAYS_MS = (20, 100, 200)
WARM_UP_S = 20.0
MOST_SAMPLES = 120
PRINT_EVERY_S = 60.0
EXIT_FAILED = 1
EXIT_NOT_RUN = 70
# What a node must never log, whatever is done to it.
ALARMS = ("Traceback", "consensus.evidence")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something done to a cluster for a while; `quiet_s` of peace come first."""

    kind: str
    names: tuple[str, ...]
    seconds: float
    quiet_s: float
    delay_ms: int = 0


def plan(seed: int, names: Sequence[str]) -> Iterator[Fault]:
    """Faults without end, a function of the seed."""
    draw = random.Random(seed)
    while True:
        kind = draw.choice(("kill", "pause", "partition", "delay"))
        chosen: tuple[str, ...] = (draw.choice(names),)
        if kind == "kill":
            chosen = (draw.choice(KILLED),)
        elif kind == "partition":
            chosen = tuple(sorted(draw.sample(list(names), draw.randint(1, len(names) // 2))))
        yield Fault(
            kind,
            chosen,
            seconds=round(draw.uniform(*FAULT_S), 1),
            quiet_s=round(draw.uniform(*QUIET_S), 1),
            delay_ms=draw.choice(DELAYS_MS) if kind == "delay" else 0,
        )


def begin(cluster: Cluster, fault: Fault) -> None:
    """Do it. Errors: ClusterError."""
    match fault.kind:
        case "kill":
            cluster.kill(fault.names[0])
        case "pause":
            cluster.pause(fault.names[0])
        case "partition":
            rest = frozenset(one.name for one in cluster.members) - frozenset(fault.names)
            faults.partition(cluster, (frozenset(fault.names), rest))
        case "delay":
            faults.delay(cluster, fault.delay_ms, fault.names)


def end(cluster: Cluster, fault: Fault) -> None:
    """Take it back; nothing else is done to help. Errors: ClusterError."""
    match fault.kind:
        case "kill":
            cluster.start(fault.names[0])
        case "pause":
            cluster.resume(fault.names[0])
        case _:
            faults.heal(cluster)


@dataclass
class Soak:
    """One run. `failures` is empty when everything held."""

    cluster: Cluster
    load: SteadyOrders
    console: Console
    every_s: float
    started: float = field(default_factory=time.monotonic)
    series: dict[str, list[Usage]] = field(default_factory=dict)
    done: list[dict[str, Any]] = field(default_factory=list)
    agreements: int = 0
    failures: list[str] = field(default_factory=list)
    _next_sample: float = 0.0
    _last_print: float = 0.0

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.cluster.members]

    def run(self, seconds: float, seed: int) -> None:
        """Faults until the time is over. Errors: ClusterError for what nothing can follow on."""
        self._sample()
        for fault in plan(seed, self.names):
            if time.monotonic() - self.started + fault.quiet_s + fault.seconds > seconds:
                break
            self._wait(fault.quiet_s)
            begin(self.cluster, fault)
            self._wait(fault.seconds)
            end(self.cluster, fault)
            self._recover(fault)
        self._wait(max(0.0, seconds - (time.monotonic() - self.started)))
        self.check()
        self._sample()

    def check(self) -> None:
        """Every process lives, no log has an alarm, all state roots are equal.

        Errors: ClusterError for a node that ended.
        """
        for name in self.names:
            self.cluster.check_alive(name)
            log = self.cluster.log_path(name).read_text(errors="replace")
            self.failures += [f"{name} logged {one}" for one in ALARMS if one in log]
        for chain, roots in assertions.common_roots(self.cluster).items():
            self.agreements += 1
            if len(set(roots.values())) != 1:
                self.failures.append(f"{chain}: state roots differ: {roots}")

    def _recover(self, fault: Fault) -> None:
        began = time.monotonic()
        for name in self.names:
            watch.wait_caught_up(self.cluster, name, CATCH_UP_S)
        took_s = round(time.monotonic() - began, 1)
        self.done.append(asdict(fault) | {"recovered_s": took_s})
        what = f"{fault.kind} {','.join(fault.names)}"
        what += f" by {fault.delay_ms} ms" if fault.delay_ms else ""
        self._say(f"{what} for {fault.seconds} s; all caught up after {took_s} s")
        self.check()

    def _wait(self, seconds: float) -> None:
        """Let time pass; sample what is due meanwhile."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if now >= self._next_sample:
                self._sample()
            time.sleep(min(0.5, max(0.0, until - now)))

    def _sample(self) -> None:
        now = time.monotonic()
        self._next_sample = now + self.every_s
        for name in self.names:
            row = usage(self.cluster, name, round(now - self.started, 1))
            self.series.setdefault(name, []).append(row)
        if now - self._last_print >= PRINT_EVERY_S:
            self.print_usage()

    def print_usage(self) -> None:
        """The newest row of every node."""
        self._last_print = time.monotonic()
        table = Table(title=f"after {self._clock()}", title_justify="left")
        for column in ("node", "RSS MiB", "Python k blocks", "files", "threads", "tasks",
                       "disk MiB", "peers", "heights", "finality p50 ms"):  # fmt: skip
            table.add_column(column, justify="left" if column == "node" else "right")
        for name, rows in self.series.items():
            row = rows[-1]
            heights = " ".join(str(one) for one in row.heights.values())
            blocks_k = None if row.python_blocks is None else row.python_blocks / 1_000
            cells = [row.rss_mib, blocks_k, row.files, row.threads, row.tasks, row.disk_mib]
            told = [*map(_cell, [*cells, row.peers]), heights or "-", _cell(row.finality_ms)]
            table.add_row(name, *told)
        self.console.print(table)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d}"

    def _say(self, text: str) -> None:
        self.console.print(f"{self._clock()}  {text}", highlight=False)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def judge(soak: Soak) -> dict[str, list[Trend]]:
    """The trends of the nodes that were never killed; what is not flat becomes a failure."""
    found: dict[str, list[Trend]] = {}
    for name in STEADY:
        found[name] = trends(soak.series[name])
        for line in found[name]:
            if not line.flat:
                told = f"{line.what} of {name} grows: {line.growth} over the last third"
                soak.failures.append(f"{told}, {line.per_hour} an hour at {line.mean}")
    return found


def bytes_per_block(series: Sequence[Usage]) -> int | None:
    """Growth of the database per block of any chain, from the first to the last row that tells."""
    told = [row for row in series if row.heights and row.disk_mib is not None]
    if len(told) < 2:
        return None
    first, last = told[0], told[-1]
    blocks = sum(last.heights.values()) - sum(first.heights.values())
    grown_mib = (last.disk_mib or 0.0) - (first.disk_mib or 0.0)
    return round(grown_mib * (1 << 20) / blocks) if blocks else None


def soak_genesis(now_ms: int) -> Genesis:
    """Local chains whose market runs with the blocks, 150 times as fast as the sun."""
    start_ms = slot_start_ms(slot_at(now_ms))
    return local_genesis(
        block_time_ms=BLOCK_TIME_MS,
        clock=BlockClock(start_ms, SLOT_MS // BLOCKS_PER_SLOT),
        genesis_time_ms=now_ms,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 only if every node always came back, all agreed, and nothing grows."""
    options = _parse(arguments)
    screen.prepare_streams()
    console = screen.console(sys.stderr if options.json else None, width=110)
    signal.signal(signal.SIGTERM, _interrupt)
    genesis = soak_genesis(time.time_ns() // 1_000_000)
    console.print(f"seed {options.seed}", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="gridtokenx-soak-"))
    code = EXIT_NOT_RUN
    try:
        code = _run(folder / "soak", genesis, options, console)
    except (ClusterError, NodeUnreachable, RpcError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        if isinstance(error, ClusterError) and error.log:
            console.print(error.log, markup=False, highlight=False)
    finally:
        if code == 0:
            shutil.rmtree(folder)
        else:
            console.print(f"homes and logs of the nodes are kept in {folder}", soft_wrap=True)
    return code


def _run(folder: Path, genesis: Genesis, options: argparse.Namespace, console: Console) -> int:
    cluster = create(
        folder, genesis, observers=OBSERVERS, owner=this_process(), first_ports=FIRST_PORTS
    )
    try:
        return _soak(cluster, genesis, options, console)
    finally:
        cluster.stop()


def _soak(cluster: Cluster, genesis: Genesis, options: argparse.Namespace, console: Console) -> int:
    watch.wait_ready(cluster)
    load = SteadyOrders(cluster, genesis, options.rate, options.seed)
    load.set_up()
    load.start()
    seconds = options.minutes * 60
    time.sleep(min(WARM_UP_S, seconds / 4))
    soak = Soak(cluster, load, console, max(5.0, seconds / MOST_SAMPLES))
    try:
        soak.run(seconds, options.seed)
    except ClusterError as error:
        soak.failures.append(f"{error.detail}\n{error.log}")
    finally:
        load.stop()
    found = judge(soak)
    soak.print_usage()
    document = {
        "seed": options.seed,
        "minutes": options.minutes,
        "orders_accepted": load.accepted,
        "orders_refused": load.refused,
        "requests_unanswered": load.unanswered,
        "faults": soak.done,
        "agreements_checked": soak.agreements,
        "disk_bytes_per_block": bytes_per_block(soak.series[STEADY[0]]),
        "trends": {name: [asdict(one) for one in lines] for name, lines in found.items()},
        "usage": {name: [asdict(row) for row in rows] for name, rows in soak.series.items()},
        "failures": soak.failures,
    }
    _print_end(console, document)
    if options.json:
        screen.write(json.dumps(document) + "\n")
    return EXIT_FAILED if soak.failures else 0


def _print_end(console: Console, document: dict[str, Any]) -> None:
    recovered = [one["recovered_s"] for one in document["faults"]]
    lines = [
        f"{len(recovered)} faults, slowest recovery {max(recovered, default=0.0)} s; "
        f"{document['agreements_checked']} comparisons of state roots",
        f"{document['orders_accepted']} orders accepted, {document['orders_refused']} refused; "
        f"{document['disk_bytes_per_block']} bytes of disk a block",
    ]
    for name, found in document["trends"].items():
        for one in found:
            word = "flat" if one["flat"] else "GROWS"
            told = f"{one['growth']:+} over the last third, {one['per_hour']:+} an hour"
            lines.append(f"{name} {one['what']} {one['mean']}: {word}: {told}")
        if not found:
            lines.append(f"{name}: too short a run to say whether it grows")
    lines += [f"DOES NOT HOLD: {failure}" for failure in document["failures"]]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/soak",
        description="Break a loaded local cluster at random for a while; it must mend itself and "
        "not grow. Ends with 1 if a node did not come back, states differ or memory grows.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="for how long [30]")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and the load [1]")
    rate_help = f"orders a second, at most {PER_CHAIN} [{ORDERS_PER_S}]"
    parser.add_argument("--rate", type=int, default=ORDERS_PER_S, help=rate_help)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    if not 1 <= options.rate <= PER_CHAIN:
        parser.error(f"--rate is 1 to {PER_CHAIN}, not {options.rate}")
    if options.minutes <= 0:
        parser.error(f"--minutes is above 0, not {options.minutes}")
    return options


if __name__ == "__main__":
    sys.exit(main())
