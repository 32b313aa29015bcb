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
from collections.abc import Sequence
from pathlib import Path

from gridtokenx.client import Client
from gridtokenx.cluster.processes import ClusterError
from scripts.hostile_fleet import table
from scripts.hostile_fleet.attack import Target
from scripts.hostile_fleet.catalogue import ATTACKS, chosen
from scripts.hostile_fleet.catalogue import table as catalogue_table
from scripts.hostile_fleet.phases import FleetError, Outcome, Phases
from scripts.hostile_fleet.setting import enrol_hostile, running

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
    if not 5 <= options.seconds <= 3_600:
        return _fail(USAGE, "a phase has 5 to 3,600 seconds")
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        outcomes = attack(names, options)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted; all processes are ended")
    except (FleetError, ClusterError, RuntimeError) as error:
        return _fail(FAILED, str(error))
    _write(outcomes, options.json)
    return BROKEN if any(one.broken for one in outcomes) else OK


def attack(names: Sequence[str], options: argparse.Namespace) -> list[Outcome]:
    """Run all phases on a cluster of their own. Errors: FleetError, ClusterError, RuntimeError."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(options.logs or scratch).absolute() / "hostile"
        _say("a cluster of four validators starts")
        with running(folder) as cluster:
            genesis = Target.of(folder).genesis
            with Client(cluster.members[0].api_url, timeout_s=60) as client:
                enrol_hostile(client, genesis)
            phases = Phases(cluster, genesis, orders_per_s=options.orders, settle_s=options.settle)
            sys.stderr.write(table.header(genesis.chain_names) + "\n")
            outcomes = [phases.run("quiet", [], options.seconds)]
            outcomes[0].judge(outcomes[0])
            sys.stderr.write(table.row(outcomes[0]) + "\n")
            turns = [] if options.no_alone else [(name, [name]) for name in names]
            if not options.no_together and len(names) > 1:
                turns.append((f"all {len(names)} together", list(names)))
            for title, attacks in turns:
                one = phases.run(title, attacks, options.seconds)
                one.judge(outcomes[0])
                outcomes.append(one)
                sys.stderr.write(table.row(one) + "\n")
                sys.stderr.flush()
    return outcomes


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
