"""Power cuts, restarts, strangers and mistakes of operators, on a real cluster of its own.

The module's tests share one cluster and leave it whole: every node runs and agrees afterwards.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gridtokenx.chain.genesis import format_genesis
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.client import NodeUnreachable, RpcError
from gridtokenx.cluster.devnet import PAYMENT, dev_key, operator_key, peer_id
from gridtokenx.cluster.processes import Cluster
from gridtokenx.ledger.model import Deposit
from tests.support import live_cluster
from tests.support.live_cluster import (
    add_member,
    answered_heights,
    assert_same_state,
    client_of,
    genesis_of,
    heights_of,
    log_of,
    more_ports,
    names_of,
    roots_at,
    signs,
    signs_after,
    silent_up_to,
    wait_heights,
    wait_progress,
    wait_until,
)

AUTHORITIES = ("n0", "n1", "n2", "n3")
OBSERVER = "n4"
KILLS = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "faults"
    with live_cluster.running(folder) as made:
        yield made


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """Afterwards the first five nodes run and agree, and nobody has signed twice.

    Who does not run is shown and started again: the tests after this one are not its judges.
    """
    yield
    ended = [one.name for one in cluster.members if not cluster.is_running(one.name)]
    logs = [f"{name} does not run:\n{cluster.tail(name)}" for name in ended]
    for name in ended:
        cluster.start(name)
    assert not ended, "\n".join(logs)
    assert_same_state(cluster)
    for member in cluster.members:
        assert "consensus.evidence" not in log_of(cluster, member.name)
        assert "Traceback" not in log_of(cluster, member.name)


class Load(threading.Thread):
    """Deposits to the dev account, one after another, through whichever node of a few answers."""

    def __init__(self, cluster: Cluster, *doors: str) -> None:
        super().__init__(daemon=True)
        self.accepted = 0
        self._clients = [client_of(cluster, name) for name in doors]
        self._chain_id = genesis_of(cluster).chain("MET").chain_id
        self._over = threading.Event()

    def run(self) -> None:
        key, account = operator_key(PAYMENT), dev_key("dev").public_key
        while not self._over.wait(0.02):
            client = self._clients[self.accepted % len(self._clients)]
            try:
                nonce = client.nonce(key.public_key, "MET")
                client.send(sign_transaction(key, self._chain_id, nonce, Deposit(account, 1)))
            except (RpcError, NodeUnreachable):
                continue  # Another node's copy came first, or the node is the killed one.
            self.accepted += 1

    def end(self) -> None:
        self._over.set()
        self.join()  # Its clients must not be closed while it uses one.
        for client in self._clients:
            client.close()


@contextmanager
def load(cluster: Cluster, *doors: str) -> Iterator[Load]:
    """Transactions all the while; some must have been taken."""
    thread = Load(cluster, *doors)
    thread.start()
    try:
        yield thread
        wait_until("the load is taken", lambda: thread.accepted > 0)
    finally:
        thread.end()


def peers_of(cluster: Cluster, name: str) -> set[str]:
    with client_of(cluster, name) as client:
        return {one.peer_id for one in client.peers()}


def wait_voting(cluster: Cluster, asked: str, *names: str) -> None:
    """Until each node's signature is in new certificates of every chain.

    A key that was used elsewhere meanwhile observes for a minute first.
    """
    floor = {chain: height + 1 for chain, height in answered_heights(cluster, asked).items()}
    for name in names:
        wait_until(
            f"{name} votes",
            lambda name=name: signs_after(cluster, name, asked, floor),
            180,
            pause_s=0.2,
        )


# -- Power cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n0", "n1"])  # The bootnode; n2 and n3 fall further below.
def test_the_others_go_on_without_one_and_it_comes_back(cluster: Cluster, name: str) -> None:
    others = [one for one in AUTHORITIES if one != name]
    with load(cluster, *others[:2]):
        cluster.kill(name)
        wait_progress(cluster, *others, OBSERVER, blocks=2)
        cluster.start(name)
        wait_heights(cluster, answered_heights(cluster, others[0]), name)
        wait_voting(cluster, others[0], name)


def test_ten_power_cuts_at_any_instant(cluster: Cluster) -> None:
    """During its start, while it catches up, while it votes: it always starts again."""
    chance = random.Random(2)
    with load(cluster, "n0", "n1") as deposits:
        for turn in range(KILLS):
            if turn % 3 == 0:  # Else it would hardly ever get as far as voting.
                wait_until("n2 answers", lambda: heights_of(cluster, "n2"))
            time.sleep(chance.uniform(0.0, 1.5))  # The instant is the test.
            assert cluster.is_running("n2"), f"n2 ended by itself:\n{cluster.tail('n2')}"
            cluster.kill("n2")
            cluster.start("n2")
        wait_heights(cluster, answered_heights(cluster, "n0"), "n2")
        wait_voting(cluster, "n0", "n2")
        taken = deposits.accepted
    assert taken > KILLS


def test_the_chain_goes_on_after_all_authorities_lost_power(cluster: Cluster) -> None:
    before = wait_progress(cluster, blocks=1)
    roots = roots_at(cluster, before)
    for name in AUTHORITIES:
        os.kill(cluster.node(name).pid, signal.SIGKILL)
    wait_until("all four are gone", lambda: names_of(cluster) == [OBSERVER])
    last = answered_heights(cluster, OBSERVER)
    for name in AUTHORITIES:
        cluster.start(name)
    wait_heights(cluster, {chain: at + 2 for chain, at in last.items()}, *AUTHORITIES, OBSERVER)
    assert roots_at(cluster, before) == roots
    wait_voting(cluster, OBSERVER, *AUTHORITIES)


# -- Newcomers and strangers -----------------------------------------------------------------------


@contextmanager
def one_more(cluster: Cluster, name: str, **fields: str) -> Iterator[None]:
    """A further node in the cluster's record, not started yet; forgotten afterwards."""
    add_member(cluster, name, **fields)
    try:
        yield
    finally:
        if cluster.is_running(name):
            cluster.kill(name)
        cluster.nodes.remove(cluster.node(name))


def test_a_newcomer_is_found_by_all_and_fetches_the_whole_chain(cluster: Cluster) -> None:
    newcomer = peer_id(dev_key("n5 node").public_key)
    with one_more(cluster, "n5"):
        cluster.start("n5")
        for name in (*AUTHORITIES, OBSERVER):
            wait_until(
                f"{name} knows the newcomer",
                lambda name=name: newcomer in peers_of(cluster, name),
            )
        wait_heights(cluster, answered_heights(cluster, "n0"), "n5")
        assert_same_state(cluster)
        first = dict.fromkeys(answered_heights(cluster, "n5"), 1)
        for chain, roots in roots_at(cluster, first, "n0", "n5").items():
            assert len(roots) == 1, chain


def test_a_node_of_another_genesis_is_told_so_and_kept_out(cluster: Cluster) -> None:
    stranger = peer_id(dev_key("n6 node").public_key)
    genesis = genesis_of(cluster)
    other = replace(genesis, genesis_time_ms=genesis.genesis_time_ms + 1)
    with one_more(cluster, "n6"):
        home = cluster.home("n6")
        (home / "genesis.json").write_text(format_genesis(other), encoding="utf-8")
        config = (home / "config.toml").read_text(encoding="utf-8")
        assert genesis.hash.hex() in config
        refused = run_node(home)
        assert refused.returncode == 78, refused.stderr
        assert "GTX-NET-002" in refused.stderr
        text = config.replace(genesis.hash.hex(), other.hash.hex())
        (home / "config.toml").write_text(text, encoding="utf-8")
        cluster.start("n6")
        wait_until("n6 says why", lambda: "GTX-NET-002" in log_of(cluster, "n6"))
        for line in log_of(cluster, "n6").splitlines():
            if "GTX-NET-002" in line:
                assert genesis.hash.hex()[:16] in line
                assert other.hash.hex()[:16] in line
        wait_progress(cluster, *AUTHORITIES, OBSERVER)
        for name in (*AUTHORITIES, OBSERVER):
            assert stranger not in peers_of(cluster, name)
        wait_until("n6 answers", lambda: heights_of(cluster, "n6"))
        assert set(answered_heights(cluster, "n6").values()) == {0}
        assert cluster.is_running("n6")


def test_a_validator_key_without_its_record_observes_first(cluster: Cluster) -> None:
    """n3's key in a new home: who lost the record must not sign what n3 may have signed."""
    cluster.kill("n3")
    organisation = cluster.node("n3").member.authority
    validator = cluster.node("n3").member.validator
    with one_more(cluster, "n7", role="authority", authority=organisation, validator=validator):
        for path in cluster.home("n7").glob("keys/validator*"):
            path.unlink()
        old = cluster.home("n3") / "keys" / "validator.json"
        shutil.copy(old, cluster.home("n7") / "keys" / "validator.json")
        cluster.start("n7")
        wait_until("n7 says so", lambda: log_of(cluster, "n7").count("GTX-KEY-001") >= 2)
        wait_heights(cluster, answered_heights(cluster, "n0"), "n7")
        floor = answered_heights(cluster, "n0")
        goal = wait_progress(cluster, "n0", "n7", blocks=3)
        silent = {**goal, **silent_up_to(cluster, "n7")}  # By now it may sign, if all is slow.
        for chain, low in floor.items():
            for height in range(low + 1, min(goal[chain], silent[chain]) + 1):
                assert not signs(cluster, "n7", "n0", chain, height)
    cluster.start("n3")
    wait_voting(cluster, "n0", "n3")


# -- How a process ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n1", OBSERVER])
def test_sigterm_ends_a_node_cleanly(cluster: Cluster, name: str) -> None:
    os.kill(cluster.node(name).pid, signal.SIGTERM)
    code = wait_until(
        f"{name} has ended",
        lambda: [] if cluster.exit_code(name) is None else [cluster.exit_code(name)],
    )
    assert code == [0], cluster.tail(name)
    assert "node.stopping" in cluster.tail(name)
    cluster.start(name)
    wait_heights(cluster, answered_heights(cluster, "n0"), name)


def run_node(home: Path, seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Start a node that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "gridtokenx", "--home", str(home), "start"],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def a_home(cluster: Cluster, folder: Path, **values: str) -> Path:
    """The observer's home without its data, on free ports, with some settings changed."""
    home = folder / "home"
    shutil.copytree(cluster.home(OBSERVER), home, ignore=shutil.ignore_patterns("data", "*.log"))
    member = cluster.node(OBSERVER).member
    api_port, p2p_port = more_ports(cluster)
    settings = {
        f"port = {member.api_port}": f"port = {values.get('api_port', api_port)}",
        f"tcp/{member.p2p_port}": f"tcp/{values.get('p2p_port', p2p_port)}",
        "min_free_disk_mib = 256": f"min_free_disk_mib = {values.get('min_free_disk_mib', 256)}",
    }
    text = (home / "config.toml").read_text(encoding="utf-8")
    for old, new in settings.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (home / "config.toml").write_text(text, encoding="utf-8")
    return home


def test_a_node_without_free_disk_does_not_start(cluster: Cluster, tmp_path: Path) -> None:
    free_mib = psutil.disk_usage(str(tmp_path)).free >> 20
    ended = run_node(a_home(cluster, tmp_path, min_free_disk_mib=str(free_mib + 4_096)))
    assert ended.returncode == 74, ended.stderr
    assert "GTX-DSK-001" in ended.stderr
    assert f"(limit {free_mib + 4_096})" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_process_on_a_folder_is_told_who_has_it(cluster: Cluster) -> None:
    ended = run_node(cluster.home("n1"))
    assert ended.returncode == 75, ended.stderr
    assert "GTX-DB-001" in ended.stderr
    assert f"node {cluster.node('n1').pid} " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_named(cluster: Cluster, tmp_path: Path) -> None:
    member = cluster.node("n1").member
    for kind, port in (("api_port", member.api_port), ("p2p_port", member.p2p_port)):
        ended = run_node(a_home(cluster, tmp_path / kind, **{kind: str(port)}))
        assert ended.returncode == 75, ended.stderr
        error = [line for line in ended.stderr.splitlines() if line.startswith("error ")]
        assert len(error) == 1
        assert str(port) in error[0]
        assert "Traceback" not in ended.stderr
