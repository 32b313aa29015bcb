"""Forty nodes in five regions, real latencies and loss: everybody hears everything, in time."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest

from tests.simulation import simulate
from tests.support.simulator.gossip_links import Loss
from tests.support.simulator.gossip_measure import add_traffic, measure
from tests.support.simulator.gossip_world import MS, GossipWorld, Settings, shared_encoding

NODES, SECONDS = 40, 10
MESH_HIGH = 12


@lru_cache
def figures(seed: int, loss: Loss) -> dict[str, Any]:
    return measure(Settings(NODES, seed, loss), SECONDS)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("seed", range(2))
def test_every_message_reaches_every_subscriber_in_time(seed: int, loss: Loss) -> None:
    found = figures(seed, loss)
    again = f"scripts/simulate --gossip {NODES} --seed {seed} --loss {loss.value} --seconds 10"
    assert found["delivery_ratio"] == 1, again
    assert found["blamed"] == {}, again
    assert found["queue_dropped"] == 0, again
    for kind, row in found["kinds"].items():
        assert row["p99_ms"] < 1_500, (kind, again)
        assert row["duplicates"] < MESH_HIGH, (kind, again)
    assert found["kinds"]["votes"]["p99_ms"] < 500, again
    assert found["control_share"] < 0.02, again
    assert found["mesh_degree"]["most"] <= MESH_HIGH, again


def test_lost_messages_come_back_by_ihave_and_iwant() -> None:
    dropped = figures(0, Loss.DROPPED)
    assert dropped["lost_frames"] > 50
    assert dropped["iwant_answered"] > 0
    assert figures(0, Loss.DELAYED)["lost_frames"] == 0


def short_run(seed: int) -> str:
    world = GossipWorld(Settings(20, seed))
    world.run(3_000 * MS)
    add_traffic(world, 1)
    world.run(2_000 * MS)
    assert world.latencies_us["orders 64 KiB"]
    return world.digest.hexdigest()


def test_a_seed_fixes_everything_and_sharing_encodings_changes_nothing() -> None:
    alone = short_run(1)
    with shared_encoding():
        shared, other = short_run(1), short_run(2)
    assert alone == shared != other


def test_the_command_tells_figures_and_whether_something_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--gossip", "20", "--seed", "3", "--seconds", "10", "--loss", "delayed"]
    assert simulate.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["nodes"], told["seed"], told["delivery_ratio"]) == (20, 3, 1)
    assert simulate.main(command) == 0
    assert f"hash: {told['hash']}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        simulate.main(["--gossip", "3"])
