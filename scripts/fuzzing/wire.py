"""Hostile inputs for every decoder of bytes from outside.

Exits with 1 on anything but a decoder's own errors, on an input that takes more than 0.2 s of CPU,
and on growing memory; it says by which input. Progress goes to stderr; with --json the counts are
one line on stdout: for each decoder [accepted, refused].
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import trio
import typer

from tests.support.wire_fuzz import Counts, Fault, fuzz

TOLD_EVERY_S = 5.0


def main(
    inputs: Annotated[int, typer.Option(help="How many inputs.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same inputs.")] = 1,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Counts as one line of JSON.")] = False,
) -> None:
    """Run and report."""
    started = told_s = time.monotonic()

    def tell(counts: Counts) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= TOLD_EVERY_S:
            told_s = now_s
            rate = counts.inputs / (now_s - started)
            sys.stderr.write(f"{counts.inputs} of {inputs} inputs, {rate:.0f} a second\n")

    try:
        counts = trio.run(fuzz, inputs, seed, tell)
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        raise typer.Exit(1) from None
    outcome = {"seed": seed, "seconds": round(time.monotonic() - started), **counts.document()}
    if as_json:
        sys.stdout.write(json.dumps(outcome) + "\n")
        return
    for name, (accepted, refused) in outcome.pop("doors").items():
        sys.stdout.write(f"{name:20} {accepted:9} accepted {refused:9} refused\n")
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in outcome.items()) + "\n")


if __name__ == "__main__":
    typer.run(main)
