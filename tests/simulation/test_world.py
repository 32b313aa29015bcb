"""The simulator itself: one seed fixes everything, and what it says about a failure is of use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import simulate
from tests.support.simulator import campaigns, exhaustive
from tests.support.simulator.adversaries import LIARS
from tests.support.simulator.chain import make_set, make_signers
from tests.support.simulator.judge import InvariantError
from tests.support.simulator.mutants import MUTANTS
from tests.support.simulator.network import Faults
from tests.support.simulator.world import Setup, World

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(campaigns.CAMPAIGNS))
def test_the_same_seed_gives_the_same_history(name: str) -> None:
    """I16, within this process."""
    campaign = campaigns.CAMPAIGNS[name]
    first, second, other = (campaign.play(campaign.world(seed)) for seed in (11, 11, 12))
    assert first.trace.digest() == second.trace.digest()
    assert first.trace.digest() != other.trace.digest()


def test_another_process_has_the_same_history() -> None:
    """I16: no hash seed, address or clock of the process gets in."""
    command = [
        sys.executable,
        "-m",
        "tests.simulation.simulate",
        "--campaign",
        "random",
        "--seed",
        "5",
    ]
    told = {
        subprocess.run(
            command,
            cwd=ROOT,
            env={"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(told) == 1
    assert "no violation" in told.pop()


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
def test_every_kind_of_liar_is_survived(liar: type) -> None:
    for seed in range(4):
        faults = Faults(loss=0.05, mean_delay_ms=50.0)
        setup = Setup(liars={seed: liar}, faults=faults, calm_ms=6_000)
        assert len(World(seed, setup).run().judge.decided) >= 3


def test_real_signatures_and_encoding_behave_like_the_toys() -> None:
    for seed in range(3):
        setup = campaigns.chaos(seed)
        setup.real = True
        assert World(seed, setup).run().judge.decided


def test_a_failure_shows_the_seed_and_what_led_to_it() -> None:
    mutant = next(one for one in MUTANTS if one.name == "SendsBeforePersist")
    world = mutant.world(0)
    with pytest.raises(InvariantError) as caught:
        world.run()
    lines = str(caught.value).splitlines()
    assert caught.value.invariant == "I5"
    assert lines[-1].startswith("seed 0 at ")
    assert 2 < len(lines) <= 101
    assert any("PROPOSE" in line or "PREPARE" in line for line in lines)


def test_a_quorum_of_toys_cannot_be_forged() -> None:
    """A node signs with its own key only, and toy signatures differ by key and message."""
    signers = make_signers(2, real=False)
    world = World(0)
    assert not world.verify(signers[1].public_key, b"m", signers[0].sign(b"m"))
    assert not world.verify(signers[0].public_key, b"n", signers[0].sign(b"m"))
    assert make_set(signers, (1, 0)).total_weight == 1


def test_trace_prints_the_world_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--campaign", "twins", "--seed", "3", "--trace"]) == 0
    out = capsys.readouterr().out
    assert "DECIDES h1" in out
    assert "no violation" in out.splitlines()[-1]


def test_a_campaign_reports_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--campaign", "paced", "--seeds", "0:2", "--jobs", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["campaign"], told["seeds"], told["violations"]) == ("paced", 2, 0)
    assert told["events_per_cpu_second"] > 0


def test_bad_arguments_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate.main(["--seeds", "ten"])
    assert "FIRST:END" in capsys.readouterr().err


def test_exhaustive_twins_of_two_views() -> None:
    """The search covers all 256 choices of two splits for every place of the twin; four views are
    a command of their own (docs/simulation.md)."""
    covered = [
        exhaustive.search(twin, first, views=2) for twin in range(4) for first in (0, 3, 6, 11)
    ]
    assert sum(part.schedules for part in covered) == 4 * 4 * exhaustive.SPLITS
    assert sum(part.worlds for part in covered) > 64
