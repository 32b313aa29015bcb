"""`python -m gridtokenx.cluster`, which is what `scripts/run` calls: play the day, sum it up."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from gridtokenx.chain.genesis import Genesis
from gridtokenx.client import NodeUnreachable, RpcError
from gridtokenx.cluster import processes
from gridtokenx.cluster.devnet import BLOCK_TIME_MS
from gridtokenx.cluster.processes import Cluster, ClusterError
from gridtokenx.cluster.watch import wait_ready
from gridtokenx.demo.day import Day, DayError, day_genesis
from gridtokenx.demo.profile import Profile, load_profile
from gridtokenx.demo.sending import Refused
from gridtokenx.demo.summary import summarize
from gridtokenx.demo.view import DayView, print_nodes, print_summary
from gridtokenx.primitives.quantities import SLOTS_PER_DAY
from gridtokenx.runtime import screen

NAME = "day"
TEN_O_CLOCK = 40  # The slot of the day from which every region has sellers and buyers.
EXIT_CHECKS_FAILED = 1
EXIT_NOT_PLAYED = 70
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 only if the day was played and every check holds."""
    options = _parse(arguments)
    # With --json, stdout holds the document and nothing else.
    screen.prepare_streams()
    console = screen.console(sys.stderr if options.json else None)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return EXIT_INTERRUPTED
    except (ClusterError, DayError, NodeUnreachable, Refused, RpcError) as error:
        console.print(f"error: {error}", highlight=False, markup=False, style="red")
        if isinstance(error, ClusterError):
            for text in (error.hint, error.log):
                if text:
                    console.print(text, highlight=False, markup=False, soft_wrap=True)
        return EXIT_NOT_PLAYED


def _run(options: argparse.Namespace, console: Console) -> int:
    started = time.monotonic()
    profile = load_profile()
    first = 0 if options.slots == SLOTS_PER_DAY else min(TEN_O_CLOCK, SLOTS_PER_DAY - options.slots)
    slots = profile.slots(first, options.slots)
    genesis = day_genesis(
        slots,
        authorities=options.authorities,
        block_time_ms=options.block_time,
        now_ms=time.time_ns() // 1_000_000,
    )
    clusters = processes.clusters_folder()
    with processes.locked(clusters / f"{NAME}.lock"):
        folder = _free_folder(clusters, console)
        total = options.authorities + options.observers
        console.print(f"starting {total} nodes in {folder}", highlight=False, soft_wrap=True)
        owner = processes.this_process()
        cluster = processes.create(folder, genesis, observers=options.observers, owner=owner)
    keep = True
    try:
        wait_ready(cluster)
        chains = ", ".join(genesis.chain_names)
        told = f"ready in {time.monotonic() - started:.1f} s: blocks of {chains} on every node"
        console.print(told, highlight=False, soft_wrap=True)
        day = _play(cluster, genesis, profile, slots, console)
        refusals = day.refusals
        wall_s = time.monotonic() - started
        summary = summarize(
            genesis, cluster.members, profile, wall_s, refusals, day.told, day.incidents, slots
        )
        print_summary(console, summary, refusals)
        if options.json:
            screen.write(json.dumps(summary.document) + "\n")
        keep = bool(summary.failures)
        if not options.exit:
            _stay(cluster, console)
        return EXIT_CHECKS_FAILED if summary.failures else 0
    except KeyboardInterrupt:
        keep = False
        raise
    finally:
        _clean_up(cluster, console, keep=keep)


def _play(
    cluster: Cluster, genesis: Genesis, profile: Profile, slots: range, console: Console
) -> Day:
    """Play the slots; the day knows what happened. Errors: DayError, ClusterError."""
    with DayView(console, slots) as view:
        day = Day(
            genesis, cluster.members, profile, slots, view.show, partial(_check_nodes, cluster)
        )
        try:
            day.play()
        finally:
            day.close()
    return day


def _stay(cluster: Cluster, console: Console) -> None:
    """Keep the nodes up until Ctrl-C. Errors: ClusterError when one of them ends."""
    console.print("the network stays up until Ctrl-C:")
    print_nodes(console, cluster.members)
    try:
        while True:
            _check_nodes(cluster)
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("stopping")


def _check_nodes(cluster: Cluster) -> None:
    """A node somebody killed may come back; one that ended by itself ends the run.

    Errors: ClusterError.
    """
    cluster.refresh()
    for member in cluster.members:
        if cluster.exit_code(member.name) not in (None, -signal.SIGKILL):
            cluster.check_alive(member.name)


def _clean_up(cluster: Cluster, console: Console, *, keep: bool) -> None:
    # A second Ctrl-C must not leave nodes behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cluster.stop()
    if keep:
        console.print(f"logs are kept in {cluster.folder}", highlight=False, soft_wrap=True)
    else:
        cluster.remove()


def _free_folder(clusters: Path, console: Console) -> Path:
    """`day`, or `day-2` and so on while other runs have those names. Errors: ClusterError."""
    for number in range(1, 100):
        folder = clusters / (NAME if number == 1 else f"{NAME}-{number}")
        try:
            cleaned = processes.clean_stale(folder)
        except ClusterError:
            continue
        if cleaned:
            console.print(cleaned, highlight=False, soft_wrap=True)
        return folder
    raise ClusterError(f"99 runs are under way in {clusters}")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/run",
        description="Start a local network of four authorities and an observer and play a day of "
        "energy trade on it, one 15-minute slot a second.",
    )
    parser.add_argument(
        "--slots",
        type=_between(1, SLOTS_PER_DAY),
        default=SLOTS_PER_DAY,
        metavar="N",
        help="play N quarters of an hour, from 10:00, instead of the whole day",
    )
    parser.add_argument("--exit", action="store_true", help="stop after the summary")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    parser.add_argument(
        "--authorities", type=_between(1, 16), default=4, metavar="N", help="authority nodes [4]"
    )
    parser.add_argument(
        "--observers", type=_between(0, 16), default=1, metavar="N", help="observer nodes [1]"
    )
    parser.add_argument(
        "--block-time",
        type=_between(200, 60_000),
        default=BLOCK_TIME_MS,
        metavar="MS",
        help=f"milliseconds a block, which is a slot of the market [{BLOCK_TIME_MS}]",
    )
    return parser.parse_args(arguments)


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}, not {value}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
