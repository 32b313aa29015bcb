"""A validator ended by SIGKILL at every boundary between effects signs nothing twice.

What is signed is what our own libp2p node hears on the gossip, never what a node says of itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from gridtokenx.answers.chain import ChainSync
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster import devnet
from gridtokenx.cluster.processes import Cluster
from gridtokenx.consensus.messages import Phase
from gridtokenx.node import crash_points
from tests.support import live_cluster
from tests.support.live_cluster import (
    add_member,
    answered_heights,
    assert_same_state,
    client_of,
    genesis_of,
    log_of,
    silent_up_to,
    wait_heights,
    wait_progress,
    wait_until,
)
from tests.support.recorder import Place, Recorder

AUTHORITIES = ("n0", "n1", "n2", "n3")
BLOCK_TIME_MS = 1_000
FETCH_S = 180.0  # A start, perhaps with an empty folder, until it has every block.

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
    with live_cluster.running(folder, observers=0, block_time_ms=BLOCK_TIME_MS) as made:
        yield made


@pytest.fixture(scope="module")
def recorder(cluster: Cluster) -> Iterator[Recorder]:
    with Recorder(genesis_of(cluster), cluster.members) as made:
        yield made


def index_of(cluster: Cluster, name: str) -> int:
    """A validator's index, the same in every chain."""
    key = devnet.dev_key(cluster.node(name).member.validator).public_key
    index = genesis_of(cluster).chain("MET").genesis_validators.index_of(key)
    assert index is not None
    return index


def start_with(cluster: Cluster, name: str, crash_point: str = "") -> None:
    cluster.start(name, environment={crash_points.VARIABLE: crash_point})


def wait_crashed(cluster: Cluster, name: str) -> None:
    wait_until(f"{name} crashes", lambda: not cluster.is_running(name))
    assert cluster.exit_code(name) == -9, cluster.tail(name)


def wait_signing(cluster: Cluster, recorder: Recorder, name: str) -> None:
    """Until the gossip carries a validator's COMMITs at heights that were not there before."""
    index = index_of(cluster, name)
    floor = answered_heights(cluster, "n0" if name != "n0" else "n1")

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


def assert_silent(
    cluster: Cluster, recorder: Recorder, name: str, before: Container[Place]
) -> None:
    """A validator has signed nothing since `before`, or only above where it says that it may."""
    index = index_of(cluster, name)
    news = [at for at in list(recorder.signed) if at[1] == index and at not in before]
    silent = silent_up_to(cluster, name)
    assert not [at for at in news if at[2] <= silent.get(at[0], at[2])]


def assert_no_height_lost(cluster: Cluster, name: str, other: str, up_to: dict[str, int]) -> None:
    """Both nodes serve every block up to a height, with the same hash."""
    wait_heights(cluster, up_to, name, other)
    with client_of(cluster, name) as first, client_of(cluster, other) as second:
        for chain, height in up_to.items():
            for at in range(1, height + 1):
                assert first.block(at, chain).hash == second.block(at, chain).hash


@pytest.mark.parametrize("name", ["n2"])
def test_killed_at_every_boundary_it_never_signs_twice_and_votes_again(
    cluster: Cluster, recorder: Recorder, name: str
) -> None:
    cluster.kill(name)
    for boundary in BOUNDARIES:
        start_with(cluster, name, boundary)
        wait_crashed(cluster, name)
        assert not recorder.doubles(), boundary
    before = answered_heights(cluster, "n0")
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


# -- A key in the wrong place ----------------------------------------------------------------------


def test_a_lost_record_keeps_the_key_silent_until_the_operator_says_from_where(
    cluster: Cluster, recorder: Recorder
) -> None:
    """The data folder is gone, the key is not: it may have signed what nobody here remembers."""
    name, index = "n3", index_of(cluster, "n3")
    cluster.kill(name)
    wait_progress(cluster, "n0", "n1", "n2", blocks=2)
    shutil.rmtree(cluster.home(name) / "data")
    before = recorder.signed.copy()
    cluster.start(name)
    wait_until("it says so", lambda: "GTX-KEY-001" in log_of(cluster, name))
    wait_heights(cluster, answered_heights(cluster, "n0"), name, seconds=FETCH_S)
    wait_progress(cluster, "n0", "n1", "n2", name)
    assert_silent(cluster, recorder, name, before)
    assert "gridtokenx keys protection import FILE" in log_of(cluster, name)
    assert "gridtokenx start --resume-signing-above MET=HEIGHT" in log_of(cluster, name)

    cluster.kill(name)
    if silent_up_to(cluster, name):  # All is slow: it may have signed, so it has a record again.
        shutil.rmtree(cluster.home(name) / "data")
    signed = recorder.statements(index)
    above = {chain: height + 4 for chain, height in answered_heights(cluster, "n0").items()}
    words = [f"--resume-signing-above={chain}={height}" for chain, height in above.items()]
    cluster.start(name, words)
    wait_heights(cluster, answered_heights(cluster, "n0"), name, seconds=FETCH_S)
    wait_signing(cluster, recorder, name)
    assert recorder.statements(index) > signed
    new = [at for at in list(recorder.signed)[-200:] if at[1] == index]
    assert new
    assert not recorder.doubles()

    cluster.kill(name)  # With its record back, the operator's word is refused, not ignored.
    cluster.start(name, words)
    wait_until("it refuses", lambda: not cluster.is_running(name))
    assert cluster.exit_code(name) == ExitCode.CONFIG
    assert "GTX-KEY-004" in cluster.tail(name)
    cluster.start(name)
    wait_signing(cluster, recorder, name)


def test_a_restored_old_backup_is_found_out_and_signs_nothing(
    cluster: Cluster, recorder: Recorder
) -> None:
    """The record has forgotten blocks that the key led and voted on; certificates remember."""
    name, index = "n1", index_of(cluster, "n1")
    data, backup = cluster.home(name) / "data", cluster.home(name) / "backup"
    cluster.kill(name)
    shutil.copytree(data, backup, ignore=shutil.ignore_patterns("node.sock"))
    cluster.start(name)
    wait_signing(cluster, recorder, name)
    led = recorder.statements(index, Phase.PROPOSE)
    wait_until("it leads", lambda: recorder.statements(index, Phase.PROPOSE) >= led + 6)
    cluster.kill(name)
    shutil.rmtree(data)
    shutil.move(backup, data)
    cluster.start(name)
    before = answered_heights(cluster, "n0")
    wait_heights(cluster, before, name)
    wait_until("it is found out", lambda: "signing.old_record" in log_of(cluster, name))
    wait_progress(cluster, "n0", "n2", "n3", name, blocks=2)
    signed = recorder.signed.copy()
    wait_progress(cluster, "n0", "n2", "n3", name, blocks=5)
    assert_silent(cluster, recorder, name, signed)
    assert not recorder.doubles()
    assert_same_state(cluster)
    cluster.kill(name)
    shutil.rmtree(data)  # What the manual says: an empty folder, and the operator's word.
    above = {chain: height + 3 for chain, height in answered_heights(cluster, "n0").items()}
    cluster.start(name, [f"--resume-signing-above={one}={height}" for one, height in above.items()])
    wait_heights(cluster, answered_heights(cluster, "n0"), name, seconds=FETCH_S)
    wait_signing(cluster, recorder, name)


# -- A node that computes something else -----------------------------------------------------------

ANOTHER_PROGRAM = """
import gridtokenx.node.executor as executor
from gridtokenx.primitives.errors import ErrorCode, Rejected

same = executor.execute_block

def other(spec, state, tree, parent, block, transactions):
    found = same(spec, state, tree, parent, block, transactions)
    if spec.name == "MET" and block.header.height > {height}:
        raise Rejected(ErrorCode.INVALID_BLOCK, "state_root: execution gives another")
    return found

executor.execute_block = other
"""


def sync_of(cluster: Cluster, name: str, chain: str) -> ChainSync:
    with client_of(cluster, name) as client:
        return next(one.sync for one in client.status().chains if one.chain == chain)


def test_a_node_that_computes_another_state_of_a_region_stops_there_and_says_so(
    cluster: Cluster, recorder: Recorder, tmp_path: Path
) -> None:
    """Its program is another from a height on, as a wrong version would be."""
    name = "n1"
    cluster.kill(name)
    height = answered_heights(cluster, "n0")["MET"] + 6
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_PROGRAM.format(height=height))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    cluster.start(name, environment={"PYTHONPATH": path})
    wait_until("it stops", lambda: sync_of(cluster, name, "MET").state == "stopped")
    assert "GTX-SYNC-001" in (sync_of(cluster, name, "MET").stopped_because or "")
    assert "Traceback" not in log_of(cluster, name)
    wait_progress(cluster, "n0", "n2", "n3")
    goal = {"TH": answered_heights(cluster, "n0")["TH"] + 2}
    wait_heights(cluster, goal, name)  # The nation goes on, here too.
    cluster.kill(name)
    cluster.start(name)  # The right program again: its data is whole, for it stored nothing wrong.
    wait_signing(cluster, recorder, name)
    assert_same_state(cluster)
    assert not recorder.doubles()


def test_a_copied_key_without_its_record_finds_its_twin_before_it_signs_anything(
    cluster: Cluster, recorder: Recorder
) -> None:
    """The copy is silent, hears the key sign at heights it has never signed at, and stops."""
    name, copy = "n0", "n6"
    validator = cluster.node(name).member.validator
    add_member(cluster, copy, role="authority", authority="egat", validator=validator)
    (cluster.home(copy) / "keys" / "validator.unused").unlink()
    cluster.start(copy)
    wait_until("the copy stops", lambda: not cluster.is_running(copy))
    assert cluster.exit_code(copy) == ExitCode.INTERNAL
    assert "GTX-KEY-002" in cluster.tail(copy)
    assert "Traceback" not in log_of(cluster, copy)
    wait_signing(cluster, recorder, name)
    assert not recorder.doubles()


def test_of_two_processes_with_one_key_and_its_record_one_at_least_stops(
    cluster: Cluster, recorder: Recorder
) -> None:
    """A whole home was copied, only its network identity and ports are its own."""
    name, index = "n3", index_of(cluster, "n3")
    cluster.kill(name)
    validator = cluster.node(name).member.validator
    twin = add_member(cluster, "n5", role="authority", authority="erc", validator=validator)
    without_socket = shutil.ignore_patterns("node.sock")
    shutil.copytree(cluster.home(name) / "data", cluster.home("n5") / "data", ignore=without_socket)
    (cluster.home("n5") / "keys" / "validator.unused").unlink()
    cluster.start(name)
    cluster.start("n5")
    stopped = wait_until(
        "one stops", lambda: [one for one in (name, "n5") if not cluster.is_running(one)]
    )
    for one in stopped:
        wait_until(f"the end of {one}", lambda one=one: cluster.exit_code(one) is not None)
        assert cluster.exit_code(one) == ExitCode.INTERNAL, cluster.tail(one)
        assert "GTX-KEY-002" in cluster.tail(one)
        assert "Traceback" not in log_of(cluster, one)
    wait_progress(cluster, "n0", "n1", "n2", blocks=2)
    assert_same_state(cluster, "n0", "n1", "n2")
    # At worst it has signed two blocks as the leader; nobody else has, and both votes name it.
    assert all(place[1] == index for place in recorder.doubles()), recorder.doubles()
    assert twin.name in [member.name for member in cluster.members]
