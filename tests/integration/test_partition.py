"""Cut, frozen and slow nodes of a real cluster, by its own fault commands."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from gridtokenx.cli import app
from gridtokenx.cluster import assertions, faults
from gridtokenx.cluster.processes import Cluster
from gridtokenx.home.admin_socket import SOCKET_NAME, AdminError, call
from tests.support import live_cluster
from tests.support.live_cluster import (
    answered_heights,
    assert_same_state,
    log_of,
    pids_of,
    roots_at,
    wait_heights,
    wait_progress,
    wait_until,
)
from tests.support.patience import settled

AUTHORITIES = ("n0", "n1", "n2", "n3")
OBSERVER = "n4"
STANDSTILL_S = 6.0
SETTLED_S = 2.0  # Within it consensus repeats what somebody lacks.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """In the folder of a home, so that the command line finds it too."""
    folder = tmp_path_factory.mktemp("home") / "clusters" / "partition"
    with live_cluster.running(folder) as made:
        yield made


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Every test leaves all nodes running, reachable, equal, and never restarted."""
    pids = pids_of(cluster)
    yield
    faults.heal(cluster)
    wait_progress(cluster)
    assert_same_state(cluster)
    assert pids_of(cluster) == pids
    for member in cluster.members:
        assert "consensus.evidence" not in log_of(cluster, member.name)
        assert "Traceback" not in log_of(cluster, member.name)


def holds(cluster: Cluster, text: str) -> bool:
    return assertions.wait(cluster, assertions.parse(text)).holds


def cut(cluster: Cluster, groups: str) -> None:
    faults.partition(cluster, faults.parse_groups(groups, [one.name for one in cluster.members]))


def settled_heights(cluster: Cluster, *groups: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """By node, once those of each group have had the same heights for a while.

    What was decided before a cut is still on its way within a group.
    """

    def sample() -> dict[str, dict[str, int]]:
        return {name: answered_heights(cluster, name) for group in groups for name in group}

    def agreed() -> dict[str, dict[str, int]] | None:
        known = settled(sample, SETTLED_S)
        same = all(known[name] == known[group[0]] for group in groups for name in group)
        return known if same else None

    found: dict[str, dict[str, int]] = wait_until(f"{groups} have settled", agreed)
    return found


def test_halves_decide_nothing_and_go_on_once_they_hear_each_other(cluster: Cluster) -> None:
    cut(cluster, "n0,n1|n2,n3,n4")
    assert holds(cluster, "n0.peers == 1 within 60s")
    assert holds(cluster, "n2.peers == 2 within 60s")
    before = settled_heights(cluster, ("n0", "n1"), ("n2", "n3", OBSERVER))
    time.sleep(STANDSTILL_S)  # Nothing to wait for: nothing may happen.
    assert {name: answered_heights(cluster, name) for name in before} == before
    faults.heal(cluster)
    goal = {chain: height + 1 for chain, height in answered_heights(cluster, "n0").items()}
    wait_heights(cluster, goal, *AUTHORITIES)


def test_who_was_alone_catches_up_without_a_restart(cluster: Cluster) -> None:
    cut(cluster, "n0,n1,n2,n4|n3")
    assert holds(cluster, "n3.peers == 0 within 60s")
    alone = settled_heights(cluster, ("n3",))["n3"]
    wait_progress(cluster, "n0", "n1", "n2", OBSERVER, blocks=5)
    assert answered_heights(cluster, "n3") == alone
    faults.heal(cluster)
    goal = wait_progress(cluster, *AUTHORITIES)
    assert all(len(roots) == 1 for roots in roots_at(cluster, goal, *AUTHORITIES).values())


def test_one_authority_frozen_for_ten_seconds(cluster: Cluster) -> None:
    cluster.pause("n1")
    try:
        assert holds(cluster, "n1.state == paused")
        started = time.monotonic()
        wait_progress(cluster, "n0", "n2", "n3", blocks=3)
        time.sleep(max(0.0, started + 10 - time.monotonic()))
    finally:
        cluster.resume("n1")
    wait_progress(cluster, *AUTHORITIES)


def test_blocks_are_decided_though_every_write_waits_200_ms(cluster: Cluster) -> None:
    faults.delay(cluster, 200)
    wait_progress(cluster, blocks=3, seconds=180)


def test_commands_and_their_exit_codes(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    home = cluster.folder.parent.parent

    def run(*arguments: str) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as ended:
            app(["--home", str(home), "--json", "cluster", *arguments, "--name", cluster.name])
        out = capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(out) if out else {}

    assert run("partition", "n0,n1,n2,n4|n3") == (
        0,
        {"groups": [["n0", "n1", "n2", "n4"], ["n3"]]},
    )
    code, document = run("assert", "n3.peers == 0 within 60s", "n0.peers == 3 within 60s")
    assert (code, document["holds"]) == (0, True)

    def tells_what_it_found() -> bool:  # Which is nothing where the node took too long to answer.
        code, document = run("assert", "n3.peers >= 1")
        assert (code, document["holds"]) == (1, False)
        return bool(document["assertions"][0]["found"] == {"n3": 0})

    wait_until("it tells what it found", tells_what_it_found)
    assert run("heal") == (0, {"groups": [], "delay_ms": 0})
    assert run("assert", "*.peers == 4 within 60s")[0] == 0
    assert run("delay", "50ms", "--node", "n0") == (0, {"delay_ms": 50, "nodes": ["n0"]})
    assert run("heal")[0] == 0
    assert run("pause", "n2") == (0, {"node": "n2", "state": "paused"})
    assert run("assert", "n2.state == paused")[0] == 0
    assert run("resume", "n2") == (0, {"node": "n2", "state": "resumed"})
    height = answered_heights(cluster, "n0")["MET"]
    assert run("wait", "--height", str(height + 1), "--timeout", "60s")[0] == 0
    assert run("wait", "--height", "1000000", "--timeout", "300ms")[0] == 1
    assert run("partition", "n0|n9")[0] == 1
    assert run("assert", "n0.colour == red")[0] == 2
    assert run("delay", "soon")[0] == 2


# -- The admin socket ------------------------------------------------------------------------------


def socket_of(cluster: Cluster, name: str):
    return cluster.home(name) / "data" / SOCKET_NAME


def test_the_admin_socket_is_its_users_alone_and_survives_nonsense(cluster: Cluster) -> None:
    path = socket_of(cluster, OBSERVER)
    assert path.stat().st_mode & 0o777 == 0o600
    assert call(path, {"do": "ping"})["pid"] == cluster.node(OBSERVER).pid
    resources = call(path, {"do": "resources"})
    assert 10 < resources["tasks"] < 1_000
    assert 1 < resources["threads"] < 100
    assert 100_000 < resources["python_blocks"] < 10_000_000
    for command in (
        {"do": "obey"},
        {},
        {"do": "log-level", "level": "loud"},
        {"do": "faults", "block": "n0"},
        {"do": "faults", "block": ["0OIl"]},
        {"do": "faults", "delay_ms": -1},
        {"do": "faults", "delay_ms": True},
    ):
        with pytest.raises(AdminError):
            call(path, command)
    for garbage in (b"\xff\n", b"[" * 60_000 + b"\n", b"1\n", b"x" * 200_000):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(60)
            raw.connect(str(path))
            try:
                raw.sendall(garbage)
                assert b"error" in raw.recv(4096) or len(garbage) > 100_000
            except (BrokenPipeError, ConnectionResetError):
                assert len(garbage) > 100_000  # Longer than a line may be: it hung up.
    assert call(path, {"do": "ping"})["ok"]


def test_more_connections_than_it_takes_are_refused_until_one_ends(cluster: Cluster) -> None:
    path = socket_of(cluster, OBSERVER)
    idle = []
    try:
        for _ in range(8):
            raw = socket.socket(socket.AF_UNIX)
            raw.settimeout(60)
            raw.connect(str(path))
            raw.sendall(b'{"do": "ping"}\n')
            assert b"ok" in raw.recv(4096)
            idle.append(raw)
        with pytest.raises((AdminError, OSError)):
            call(path, {"do": "ping"})
    finally:
        for raw in idle:
            raw.close()

    def answers() -> bool:
        try:
            return bool(call(path, {"do": "ping"})["ok"])
        except (AdminError, OSError):
            return False

    wait_until("it answers again", answers)


def test_the_log_level_is_changed_while_it_runs(cluster: Cluster) -> None:
    path = socket_of(cluster, OBSERVER)
    call(path, {"do": "log-level", "level": "error"})
    told = log_of(cluster, OBSERVER)
    wait_progress(cluster, OBSERVER)
    assert log_of(cluster, OBSERVER) == told
    call(path, {"do": "log-level", "level": "info"})
    wait_until(
        "it tells of blocks", lambda: log_of(cluster, OBSERVER).count("\n") > told.count("\n") + 3
    )
