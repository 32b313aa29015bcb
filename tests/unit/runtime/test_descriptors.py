"""File descriptors: the limit is raised, or what takes them is cut."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import structlog

from gridtokenx.runtime.descriptors import Plan, TooFewDescriptors, provide

WANTED = Plan(api=1_024, peers=50, tables=256)


class Rlimit:
    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self) -> tuple[int, int]:
        return self.now

    def put(self, to: tuple[int, int]) -> None:
        assert to[1] == self.now[1]
        assert to[0] <= to[1] or to[1] < 0
        self.now = to


def provided(soft: int, hard: int) -> tuple[Plan, int, list[str]]:
    rlimit = Rlimit(soft, hard)
    with structlog.testing.capture_logs() as told:
        plan = provide(WANTED, rlimit.get, rlimit.put)
    return plan, rlimit.now[0], [line["event"] for line in told]


@pytest.mark.parametrize(("soft", "hard"), [(256, -1), (1_024, 1 << 20), (64, WANTED.files)])
def test_the_limit_is_raised_to_what_is_needed_and_said(soft: int, hard: int) -> None:
    assert provided(soft, hard) == (WANTED, WANTED.files, ["process.descriptors"])


@pytest.mark.parametrize("soft", [WANTED.files, 20_000, -1])
def test_a_limit_that_suffices_stays(soft: int) -> None:
    assert provided(soft, soft) == (WANTED, soft, ["process.descriptors"])


@pytest.mark.parametrize("hard", [440, 512, 1_024, WANTED.files - 1])
def test_under_a_low_hard_limit_everything_fits_and_the_operator_is_told(hard: int) -> None:
    plan, soft, told = provided(256, hard)
    assert soft == hard
    assert plan.files <= hard
    assert plan.api < WANTED.api
    assert plan.peers >= 8
    assert told == ["process.descriptors", "process.few_descriptors"]


def test_a_limit_for_no_node_at_all_is_refused_with_what_to_do() -> None:
    with pytest.raises(TooFewDescriptors, match=r"GTX-SYS-001.*may open 300 files.*LimitNOFILE"):
        provided(256, 300)


def test_a_small_node_is_not_made_larger() -> None:
    small = Plan(api=4, peers=2, tables=8)
    assert small.within(small.files) == small
    with pytest.raises(TooFewDescriptors):
        small.within(small.files - 10)


CLOSED = """
import os, sys
from gridtokenx.runtime.screen import open_standard_streams
open_standard_streams()
print("out")
print("err", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno()} {sys.stdin.read()!r} {sys.stdin.isatty()}")
"""


@pytest.mark.parametrize("closing", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_given_to_dev_null(tmp_path, closing: str) -> None:
    said = tmp_path / "said"
    words = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closing}', sys.executable, CLOSED, str(said)]
    ran = subprocess.run(words, capture_output=True, text=True, input="", check=False)
    assert ran.returncode == 0, ran.stderr
    assert said.read_text() == "3 '' False"  # No file got the number of a stream.
    assert ran.stdout == ("" if "1>" in closing else "out\n")
    assert ran.stderr == ("" if "2>" in closing else "err\n")
    assert os.path.exists(os.devnull)
