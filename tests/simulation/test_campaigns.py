"""The campaigns of the suite: a thousand worlds, on all cores, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> dict[str, object]:
    """The JSON that `scripts/simulate` prints; fails with its words if it found something."""
    command = [sys.executable, "-m", "tests.simulation.simulate", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("campaign", "seeds", "heights"),
    [("random", 500, 3_000), ("hide-commit", 200, 1_000), ("twins", 200, 2_000)],
)
def test_no_seed_breaks_an_invariant(campaign: str, seeds: int, heights: int) -> None:
    told = run("--campaign", campaign, "--seeds", f"0:{seeds}")
    assert (told["seeds"], told["violations"]) == (seeds, 0)
    assert int(str(told["heights"])) >= heights


def test_no_seed_breaks_a_law_between_chains() -> None:
    told = run("--campaign", "chains", "--seeds", "3:9")
    assert (told["seeds"], told["violations"]) == (6, 0)
    assert int(str(told["heights"])) >= 300


def test_exactly_a_third_of_liars_never_forks() -> None:
    told = run("--campaign", "exact-third", "--seeds", "0:100")
    assert (told["seeds"], told["violations"], told["forks"]) == (100, 0, 0)


def test_over_a_third_forks_and_is_convicted() -> None:
    told = run("--campaign", "over-third", "--seeds", "0:40")
    assert told["violations"] == 0
    assert int(str(told["forks"])) >= 3
