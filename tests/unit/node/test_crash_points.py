"""The test-only crash points: read once, counted down, nothing without their variable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from gridtokenx.node import crash_points
from gridtokenx.node.crash_points import CrashPoint, parse

REACH = """
import sys
from gridtokenx.consensus.messages import Phase, Vote
from gridtokenx.node.crash_points import reach
for phase in (Phase.PREPARE, Phase.COMMIT):
    for number in range(3):
        reach("before-persist")
        reach("after-persist", Vote(phase, 1, 0, bytes(32), 0, bytes(64)))
        print(phase.name, number, flush=True)
"""


def ended(crash_point: str | None) -> tuple[int, list[str]]:
    environment = {key: text for key, text in os.environ.items() if key != crash_points.VARIABLE}
    if crash_point is not None:
        environment[crash_points.VARIABLE] = crash_point
    ran = subprocess.run(
        [sys.executable, "-c", REACH], env=environment, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("crash_point", "lines"),
    [
        ("after-persist.commit:2", 4),
        ("after-persist.prepare", 0),
        ("after-persist:5", 4),
        ("before-persist:6", 5),
    ],
)
def test_the_process_is_killed_there(crash_point: str, lines: int) -> None:
    code, printed = ended(crash_point)
    assert (code, len(printed)) == (-signal.SIGKILL, lines)


@pytest.mark.parametrize("crash_point", [None, "", "after-persist.timeout:1", "after-commit"])
def test_nothing_happens_elsewhere_or_without_it(crash_point: str | None) -> None:
    code, printed = ended(crash_point)
    assert (code, len(printed)) == (0, 6)


def test_what_is_no_crash_point_is_refused_at_start() -> None:
    assert parse("") is None
    assert parse("mid-effects:9") == CrashPoint("mid-effects", "", 9)
    for text in ("sometime", "after-persist.vote", "after-persist:x", "after-persist:-1", ":1"):
        with pytest.raises(ValueError, match=crash_points.VARIABLE):
            parse(text)
