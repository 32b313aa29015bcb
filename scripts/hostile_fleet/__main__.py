"""Attack a local cluster of four validators under load, each way alone and then all at once.

First nothing attacks it. Every attack is held against that: no chain misses more than one block in
60 s, no node grows by more than 64 MiB and keeps it, honest orders are final within 3 s at the
99th percentile, `/health` answers 200 each time, no node ends or logs a fault of its own.

Progress goes to stderr, the table or the JSON to stdout. Exit codes: 0 every goal was met; 1 one
was broken; 2 the arguments are wrong; 3 the fleet itself failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.processes import ClusterError
from scripts.hostile_fleet import table
from scripts.hostile_fleet.attack import Target
from scripts.hostile_fleet.catalogue import ATTACKS, chosen
from scripts.hostile_fleet.catalogue import table as catalogue_table
from scripts.hostile_fleet.phases import FleetError, Outcome, Phases
from scripts.hostile_fleet.setting import enrol_hostile, running

CLUSTER = "hostile"
OK, BROKEN, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="scripts/hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--seconds", type=float, default=60.0, help="of each phase (default: 60)")
    made.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these attacks alone")
    made.add_argument("--door", default="", help="the attacks on one door, as --list names it")
    made.add_argument("--no-alone", action="store_true", help="only all of them together")
    made.add_argument("--no-together", action="store_true", help="only one after the other")
    made.add_argument("--orders", type=float, default=50.0, help="honest orders a second")
    made.add_argument(
        "--settle", type=float, default=30.0, help="most seconds in which memory comes back"
    )
    made.add_argument("--json", metavar="FILE", help="the figures as JSON; - is stdout")
    made.add_argument("--logs", metavar="FOLDER", help="keep the nodes' folders here")
    made.add_argument("--list", action="store_true", help="all attacks, as a table in Markdown")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    options = parser().parse_args(arguments)
    if options.list:
        sys.stdout.write(catalogue_table())
        return OK
    try:
        names = [one.name for one in chosen(options.only) if options.door in ("", one.door)]
    except ValueError as error:
        return _fail(USAGE, str(error))
    if not names:
        doors = ", ".join(sorted({one.door for one in ATTACKS.values()}))
        return _fail(USAGE, f"no attack on {options.door!r}; the doors are {doors}")
    wrong = _wrong(options)
    if wrong:
        return _fail(USAGE, wrong)
    for number in (signal.SIGINT, signal.SIGTERM):  # A shell's background job ignores the first.
        signal.signal(number, signal.default_int_handler)
    outcomes: list[Outcome] = []
    code = OK
    try:
        with closing(attack(names, options)) as phases:
            for one in phases:
                outcomes.append(one)
                _say(table.row(one))
    except KeyboardInterrupt:
        code = _fail(INTERRUPTED, "interrupted; all processes are ended")
    except (FleetError, ClusterError, RpcError, NodeUnreachable, TimeoutError) as error:
        code = _fail(FAILED, f"after {len(outcomes)} phases: {error}")
    if outcomes:
        _write(outcomes, options.json)
    return code or (BROKEN if any(one.broken for one in outcomes) else OK)


def _wrong(options: argparse.Namespace) -> str:
    """What is wrong with the arguments, found before an hour has passed."""
    if not 5 <= options.seconds <= 3_600:
        return "a phase has 5 to 3,600 seconds"
    if not 1 <= options.orders <= 1_000:
        return "there are 1 to 1,000 honest orders a second"
    if options.json and options.json != "-" and not Path(options.json).absolute().parent.is_dir():
        return f"there is no folder for {options.json}"
    if options.logs and Path(options.logs, CLUSTER).exists():
        return f"{Path(options.logs, CLUSTER)} is there already: name another folder with --logs"
    return ""


def attack(names: Sequence[str], options: argparse.Namespace) -> Iterator[Outcome]:
    """Run all phases on a cluster of their own, and tell each when it is over.

    Errors: FleetError, ClusterError, RpcError, NodeUnreachable, TimeoutError.
    """
    turns = [] if options.no_alone else [(name, [name]) for name in names]
    if not options.no_together and len(names) > 1:
        turns.append((f"all {len(names)} together", list(names)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(options.logs or scratch).absolute() / CLUSTER
        _say("a cluster of four validators starts")
        with running(folder) as cluster:
            genesis = Target.of(folder).genesis
            with Client(cluster.members[0].api_url, timeout_s=60) as client:
                enrol_hostile(client, genesis)
            phases = Phases(cluster, genesis, orders_per_s=options.orders, settle_s=options.settle)
            _say(table.header(genesis.chain_names))
            quiet = phases.run("quiet", [], options.seconds)
            quiet.judge(quiet)
            yield quiet
            for title, attacks in turns:
                one = phases.run(title, attacks, options.seconds)
                one.judge(quiet)
                yield one


def _write(outcomes: Sequence[Outcome], path: str | None) -> None:
    text = json.dumps([one.document() for one in outcomes], indent=1) + "\n"
    if path and path != "-":
        Path(path).write_text(text, encoding="utf-8")
    if path == "-":
        sys.stdout.write(text)
        return
    lines = [table.header(list(outcomes[0].blocks)), *(table.row(one) for one in outcomes)]
    sys.stdout.write("\n".join([*lines, "", table.LEGEND]) + "\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _fail(code: int, text: str) -> int:
    _say(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
