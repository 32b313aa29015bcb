"""A cluster's folder: records, locks, ports and what a crash leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from gridtokenx.cluster import processes
from gridtokenx.cluster.devnet import plan
from gridtokenx.cluster.processes import Cluster, ClusterError, NodeRecord

DEAD = (2**22 + 1, 1.0)  # Above the largest pid Linux gives.


@pytest.fixture
def cluster(tmp_path):
    """A recorded cluster of two nodes without processes."""
    folder = tmp_path / "demo"
    members = plan(1, 1, [20_000, 20_001, 20_002, 20_003])
    for member in members:
        (folder / member.name).mkdir(parents=True)
    made = Cluster(folder, "ab" * 32, [NodeRecord(member) for member in members])
    made.save()
    return made


@pytest.fixture
def sleeper():
    """A process that waits to be ended."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield child
    child.kill()
    child.wait()


def run_as(cluster, name, child):
    node = cluster.node(name)
    node.pid, node.started = child.pid, processes.seconds_at_start(psutil.Process(child.pid))
    cluster.save()


def test_a_record_reads_back(cluster):
    again = processes.load(cluster.folder)
    assert again == cluster
    assert again.name == "demo"


def test_a_record_of_another_version_or_damaged_is_told(cluster):
    path = cluster.folder / processes.RECORD_NAME
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(ClusterError, match="version 99"):
        processes.load(cluster.folder)
    path.write_text("{")
    with pytest.raises(ClusterError, match="not a cluster record"):
        processes.load(cluster.folder)


def test_a_cluster_or_node_that_is_not_there_is_named(cluster, tmp_path):
    with pytest.raises(ClusterError, match="'other'"):
        processes.load(tmp_path / "other")
    with pytest.raises(ClusterError, match="no node 'n9'"):
        cluster.node("n9")


def test_a_pid_that_is_used_again_is_not_our_node(cluster, sleeper):
    run_as(cluster, "n0", sleeper)
    assert cluster.is_running("n0")
    cluster.node("n0").started -= 100
    cluster.save()
    assert not cluster.is_running("n0")
    cluster.stop()
    assert sleeper.poll() is None


def test_a_wall_clock_that_is_set_loses_no_node(cluster, sleeper, monkeypatch):
    run_as(cluster, "n0", sleeper)
    boot_s, created_s = psutil.boot_time(), psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_s + 3_600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: created_s(self) + 3_600)
    assert cluster.is_running("n0")


def test_a_node_that_another_command_started_is_stopped_too(cluster, sleeper):
    run_as(processes.load(cluster.folder), "n1", sleeper)
    cluster.stop()
    assert sleeper.wait() == -signal.SIGTERM


def test_stop_ends_what_runs(cluster, sleeper):
    run_as(cluster, "n0", sleeper)
    cluster.stop()
    assert sleeper.wait() == -signal.SIGTERM
    assert not cluster.is_any_running()


def test_kill_is_a_power_cut_and_only_for_running_nodes(cluster, sleeper):
    run_as(cluster, "n0", sleeper)
    cluster.kill("n0")
    assert sleeper.wait() == -signal.SIGKILL
    with pytest.raises(ClusterError, match="not running"):
        cluster.kill("n0")


def test_a_node_that_has_ended_is_named_with_its_last_lines(cluster):
    cluster.log_path("n1").write_text("".join(f"line {number}\n" for number in range(30)))
    with pytest.raises(ClusterError, match="node n1 of cluster demo has ended") as caught:
        cluster.check_alive("n1")
    assert caught.value.log.splitlines() == [f"line {number}" for number in range(10, 30)]


def test_what_a_crash_left_is_cleaned_and_what_runs_is_not(cluster, sleeper):
    run_as(cluster, "n0", sleeper)
    with pytest.raises(ClusterError, match="is running already"):
        processes.clean_stale(cluster.folder)
    sleeper.kill()
    sleeper.wait()
    assert "was dead" in processes.clean_stale(cluster.folder)
    assert not cluster.folder.exists()
    assert processes.clean_stale(cluster.folder) == ""


def test_nodes_whose_owner_is_gone_are_stopped(cluster, sleeper):
    run_as(cluster, "n0", sleeper)
    cluster.owner = DEAD
    cluster.save()
    assert "without its owner" in processes.clean_stale(cluster.folder)
    assert sleeper.wait() == -signal.SIGTERM
    assert not cluster.folder.exists()


def test_a_folder_without_a_record_is_cleaned(tmp_path):
    folder = tmp_path / "half"
    (folder / "n0").mkdir(parents=True)
    assert "never started" in processes.clean_stale(folder)


def test_free_ports_pass_over_those_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = processes.free_ports(2, (port, 21_000))
    assert port not in found
    assert len(set(found)) == 4


def test_ports_of_nodes_that_are_down_are_passed_over(cluster):
    broken = cluster.folder.parent / "broken"
    broken.mkdir()
    (broken / processes.RECORD_NAME).write_text("{")
    recorded = processes.recorded_ports(cluster.folder.parent)
    assert recorded == {20_000, 20_001, 20_002, 20_003}
    found = processes.free_ports(1, (20_000, 20_001), recorded)
    assert not recorded.intersection(found)


def test_a_killed_process_that_is_not_gone_is_told(cluster, sleeper, monkeypatch):
    run_as(cluster, "n0", sleeper)
    monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
    monkeypatch.setattr(Cluster, "_signal", lambda *_: None)  # As if a write could not end.
    with pytest.raises(ClusterError, match="n0 of cluster demo is still not gone"):
        cluster.kill("n0")


def test_a_lock_is_held_by_one(tmp_path):
    path = tmp_path / "demo.lock"
    with (
        processes.locked(path),
        pytest.raises(ClusterError, match="'demo'"),
        processes.locked(path, wait=False),
    ):
        pass
    with processes.locked(path, wait=False):
        pass


@pytest.mark.parametrize("name", ["", "../evil", "Demo", "a" * 33, "-x"])
def test_a_name_cannot_leave_its_folder(name):
    with pytest.raises(ClusterError, match="no cluster name"):
        processes.check_name(name)


def test_this_process_is_alive():
    cluster = Cluster(processes.clusters_folder(), "", [], processes.this_process())
    assert cluster.owner[0] == os.getpid()
    assert not cluster.is_orphaned()
