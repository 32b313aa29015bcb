"""Extreme commands of every kind against real chains; whatever is stored is read back at once.

A row that cannot be read, or any exception but a refusal, ends it with the command that led there.
Progress goes to stderr, one JSON line with the counts to stdout: for each kind [accepted, refused].
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from tests.support.state_fuzz import Counts, fuzz

TOLD_EVERY_S = 5.0


def main(
    commands: Annotated[int, typer.Option(help="How many commands.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same commands.")] = 1,
) -> None:
    """Run and report."""
    started = time.monotonic()
    told_s = started

    def tell(counts: Counts) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= TOLD_EVERY_S:
            told_s = now_s
            share = counts.commands / (now_s - started)
            sys.stderr.write(
                f"{counts.commands} of {commands} commands, {counts.accepted.total()} accepted, "
                f"{counts.rows} rows read back, {share:.0f} a second\n"
            )

    counts = fuzz(commands, seed, told=tell)
    seconds = round(time.monotonic() - started)
    sys.stdout.write(json.dumps({"seed": seed, "seconds": seconds, **counts.document()}) + "\n")


if __name__ == "__main__":
    typer.run(main)
