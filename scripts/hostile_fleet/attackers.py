"""A process of attackers: it prepares, says `ready`, attacks from `go` to the end of its input.

    python -m scripts.hostile_fleet.attackers FOLDER ATTACK...

At the end one line of JSON says what each attack has sent and met, and the CPU of all together.
It runs at low priority: what it takes from the nodes is what it sends, not the machine.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
import trio

from scripts.hostile_fleet.attack import Attack, Run, Target
from scripts.hostile_fleet.catalogue import chosen
from scripts.hostile_fleet.strangers import HUNG_UP

END_S = 5.0


async def main(folder: Path, names: Sequence[str]) -> None:
    """Run the named attacks against the cluster in `folder`."""
    target, go = Target.of(folder), trio.Event()
    runs = [(attack, Run(target, go)) for attack in chosen(names)]
    async with trio.open_nursery() as nursery:
        for attack, run in runs:
            nursery.start_soon(guarded, attack, run)
        for _, run in runs:
            await run.prepared.wait()
        _say("ready")
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        began = _cpu_s()
        go.set()
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        spent = _cpu_s() - began
        _say(
            json.dumps(
                {
                    "cpu_s": round(spent, 3),
                    "attacks": {
                        attack.name: {"sent_bytes": run.sent, "outcomes": dict(run.outcomes)}
                        for attack, run in runs
                    },
                }
            )
        )
        nursery.cancel_scope.cancel()


async def guarded(attack: Attack, run: Run) -> None:
    """One attack; one that fails by itself is told at the end, and the others go on."""
    try:
        await attack.run(run)
        run.outcomes["ended"] += 1
    except* HUNG_UP:
        run.outcomes["thrown out"] += 1
    except* Exception as group:  # noqa: BLE001 - told in the report, which names the attack
        for error in group.exceptions:
            run.outcomes[f"FAILED {error!r}"] += 1
    finally:
        run.prepared.set()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _be_quiet() -> None:
    """What the host tells of its victims is nobody's report: stdout is for the fleet alone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def _cpu_s() -> float:
    return time.process_time()


if __name__ == "__main__":
    # Elsewhere in the field: here they get the CPU that nobody else wants.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _be_quiet()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    trio.run(main, Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # Threads that wait for an answer, or for input, hold nobody up.
