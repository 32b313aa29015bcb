"""A validator ended by SIGKILL at every boundary between effects signs nothing twice.

What is signed is what our own libp2p node hears on the gossip, never what a node says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_cluster import (
    assert_same_state,
    client_of,
    fresh_genesis,
    genesis_of,
    heights_of,
    log_of,
    wait_heights,
    wait_progress,
    wait_until,
)
from recorder import Recorder

from gridtokenx.cluster import network, processes, watch
from gridtokenx.cluster.processes import Cluster
from gridtokenx.consensus.messages import Phase
from gridtokenx.node import crash_points

AUTHORITIES = ("n0", "n1", "n2", "n3")
BLOCK_TIME_MS = 1_000
CRASH_S = 30.0

# Boundary, and how many of its kind pass before: each falls among other chains and phases.
BOUNDARIES = (
    "before-persist:4",
    "after-persist.propose:1",
    "after-persist.prepare:3",
    "after-persist.commit:3",
    "mid-effects:9",
    "before-broadcast:5",
    "after-broadcast.propose:1",
    "after-broadcast.prepare:4",
    "after-broadcast.commit:2",
    "before-commit:4",
    "after-commit:5",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "durability"
    made = processes.create(
        folder,
        fresh_genesis(block_time_ms=BLOCK_TIME_MS),
        observers=0,
        owner=processes.this_process(),
        first_ports=(27_000, 28_000),
    )
    try:
        watch.wait_ready(made)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def recorder(cluster: Cluster) -> Iterator[Recorder]:
    with Recorder(genesis_of(cluster), cluster.members) as made:
        yield made


def index_of(cluster: Cluster, name: str) -> int:
    """A validator's index, the same in every chain."""
    key = network.dev_key(cluster.node(name).member.validator).public_key
    index = genesis_of(cluster).chain("MET").validators.index_of(key)
    assert index is not None
    return index


def start_with(cluster: Cluster, name: str, crash_point: str = "") -> None:
    cluster.start(name, environment={crash_points.VARIABLE: crash_point})


def wait_crashed(cluster: Cluster, name: str) -> None:
    wait_until(f"{name} crashes", lambda: not cluster.is_running(name), CRASH_S)
    assert cluster.exit_code(name) == -9, cluster.tail(name)


def wait_signing(cluster: Cluster, recorder: Recorder, name: str) -> None:
    """Until the gossip carries a validator's COMMITs at heights that were not there before."""
    index = index_of(cluster, name)
    floor = heights_of(cluster, "n0" if name != "n0" else "n1")

    def signs() -> bool:
        places = list(recorder.signed)
        return all(
            any(
                at[:2] == (chain, index) and at[2] > height + 1
                for at in places
                if at[4] is Phase.COMMIT
            )
            for chain, height in floor.items()
        )

    wait_until(f"{name} signs", signs)


def assert_no_height_lost(cluster: Cluster, name: str, other: str, up_to: dict[str, int]) -> None:
    """Both nodes serve every block up to a height, with the same hash."""
    wait_heights(cluster, up_to, name, other)
    with client_of(cluster, name) as first, client_of(cluster, other) as second:
        for chain, height in up_to.items():
            for at in range(1, height + 1):
                assert first.block(at, chain)["hash"] == second.block(at, chain)["hash"]


@pytest.mark.parametrize("name", ["n2"])
def test_killed_at_every_boundary_it_never_signs_twice_and_votes_again(
    cluster: Cluster, recorder: Recorder, name: str
) -> None:
    cluster.kill(name)
    for boundary in BOUNDARIES:
        start_with(cluster, name, boundary)
        wait_crashed(cluster, name)
        assert not recorder.doubles(), boundary
    before = heights_of(cluster, "n0")
    start_with(cluster, name)
    wait_heights(cluster, before, name)
    wait_signing(cluster, recorder, name)
    goal = wait_progress(cluster)
    assert_no_height_lost(cluster, name, "n0", goal)
    assert_same_state(cluster)
    assert recorder.messages > 500
    assert not recorder.forged
    assert not recorder.doubles()
    for one in AUTHORITIES:
        assert "consensus.evidence" not in log_of(cluster, one)
        assert "GTX-KEY-002" not in log_of(cluster, one)


def test_killed_around_its_timeout_it_sends_the_same_one_again(
    cluster: Cluster, recorder: Recorder
) -> None:
    """With one leader frozen views fail; with the crashed one away too, nobody else can go on."""
    name, index = "n2", index_of(cluster, "n2")
    cluster.pause("n1")
    try:
        cluster.kill(name)
        for boundary in ("after-persist.timeout:1", "after-broadcast.timeout:1"):
            start_with(cluster, name, boundary)
            wait_crashed(cluster, name)
        start_with(cluster, name)
        wait_progress(cluster, "n0", "n2", "n3")
    finally:
        cluster.resume("n1")
    assert recorder.statements(index, Phase.TIMEOUT) > 0
    wait_signing(cluster, recorder, "n1")
    wait_signing(cluster, recorder, name)
    assert_same_state(cluster)
    assert not recorder.doubles()
