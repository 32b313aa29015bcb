"""`gridtokenx net` on a real cluster: what is shown, and what its commands do to peers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from gridtokenx.cli import app
from gridtokenx.cluster.processes import Cluster
from tests.support.live_cluster import client_of, log_of, wait_until

OBSERVER = "n4"
TOLD = "authorities.known"


def run(cluster: Cluster, node: str, *words: str) -> tuple[int, str]:
    line = ["--home", str(cluster.home(node)), *words]
    result = CliRunner().invoke(app, line)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout if result.exit_code == 0 else result.stderr


def ask(cluster: Cluster, node: str, *words: str) -> Any:
    code, text = run(cluster, node, "--json", "net", *words)
    assert code == 0, text
    return json.loads(text)


def peer_id(cluster: Cluster, node: str) -> str:
    return ask(cluster, node, "id")["peer_id"]


def peers_of(cluster: Cluster, node: str) -> dict[str, dict[str, Any]]:
    return {one["node_id"]: one for one in ask(cluster, node, "peers")["items"]}


def bans_of(cluster: Cluster) -> dict[str, str]:
    """Reasons by target; others of the cluster's users may have had somebody banned too."""
    return {one["target"]: one["reason"] for one in ask(cluster, OBSERVER, "bans")["items"]}


def test_peers_are_shown_with_all_that_is_known(shared_cluster: Cluster) -> None:
    def known() -> dict[str, dict[str, Any]] | None:
        found = peers_of(shared_cluster, "n0")
        authorities = [one for one in found.values() if one["organisation"]]
        timed = [one for one in found.values() if one["latency_ms"] is not None]
        return found if len(found) == len(timed) == 4 and len(authorities) == 3 else None

    found = wait_until("n0 knows four peers and whose they are", known)
    names = sorted(one["organisation"] or "-" for one in found.values())
    assert [name.lower() for name in names] == ["-", "erc", "mea", "pea"]
    for one in found.values():
        assert one["direction"] in ("inbound", "outbound")
        assert one["latency_ms"] >= 0
        assert (one["score"], one["offences"]) == (0, {})
        assert one["agent"].startswith("gridtokenx/")
        assert set(one["heights"]) == {"TH", "MET", "NOR"}
    code, text = run(shared_cluster, "n0", "net", "peers")
    assert code == 0
    assert all(name in text for name in found)


def test_validators_list_each_other_as_direct_peers_and_an_observer_lists_nobody(
    shared_cluster: Cluster,
) -> None:
    def has_told(node: str, peers: int, direct: int) -> bool:
        rows = [row.rstrip() for row in log_of(shared_cluster, node).splitlines() if TOLD in row]
        return any(row.endswith(f"direct={direct} peers={peers}") for row in rows)

    wait_until("n0 has its three colleagues' proofs", lambda: has_told("n0", 3, 3))
    wait_until("the observer has four validators' proofs", lambda: has_told(OBSERVER, 4, 0))


def test_the_topology_is_everybody_with_everybody(shared_cluster: Cluster) -> None:
    def complete() -> bool:
        document = ask(shared_cluster, "n0", "topology")
        return len(document["nodes"]) == 5 and len(document["links"]) == 10

    wait_until("n0 has heard of all ten links", complete)
    code, text = run(shared_cluster, "n0", "net", "topology")
    assert code == 0
    assert "(this)" in text


def test_the_doctor_finds_a_local_cluster_usable(shared_cluster: Cluster) -> None:
    report = ask(shared_cluster, "n1", "doctor")
    verdicts = {one["check"]: one["verdict"] for one in report["findings"]}
    assert report["healthy"], report
    assert {verdicts[name] for name in ("node", "port", "peers", "bootnode", "dht")} == {"PASS"}
    with client_of(shared_cluster, "n1") as client:
        assert client.call("net_getDialStats")["dials"]["connected"] >= 1


def test_a_ban_cuts_a_peer_off_survives_kill_9_and_is_lifted(shared_cluster: Cluster) -> None:
    victim = peer_id(shared_cluster, "n1")
    ask(shared_cluster, OBSERVER, "ban", victim, "--for", "30m", "--reason", "a test")
    ask(shared_cluster, OBSERVER, "ban", "192.0.2.77")

    def ids() -> set[str]:
        with client_of(shared_cluster, OBSERVER) as client:  # which waits while the node starts
            return {one.peer_id for one in client.peers()}

    wait_until("the observer has dropped n1", lambda: len(ids() - {victim}) == len(ids()) == 3)
    kept = shared_cluster.home(OBSERVER) / "data" / "bans.json"
    wait_until("the bans are on disk", lambda: kept.exists() and "192.0.2.77" in kept.read_text())
    shared_cluster.kill(OBSERVER)
    shared_cluster.start(OBSERVER)
    wait_until("the observer is back", lambda: len(ids()) == 3)
    wanted = {victim: "a test", "192.0.2.77": "operator"}
    assert bans_of(shared_cluster).items() >= wanted.items()
    ask(shared_cluster, OBSERVER, "unban", victim)
    ask(shared_cluster, OBSERVER, "unban", "192.0.2.77")
    address = ask(shared_cluster, "n1", "id")["listen"][0]
    assert ask(shared_cluster, OBSERVER, "connect", address)["peer_id"] == victim
    wait_until("n1 is back", lambda: len(ids()) == 4)
    wait_until("neither is banned", lambda: wanted.keys().isdisjoint(bans_of(shared_cluster)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ban", "nonsense"), "has no valid peer id"),
        (("unban", "192.0.2.1"), "is not banned"),
        (("connect", "/ip4/127.0.0.1/tcp/9"), "is not an address like"),
        (("disconnect", "12D3KooWEr7Wv6ED1CgTwHJgM3HAVQmTbTqSkqxvA5nNQ8DckCnJ"), "not connected"),
        (("ban", "192.0.2.1", "--for", "0m"), "whole number from 1"),
    ],
)
def test_what_cannot_be_done_is_said(
    shared_cluster: Cluster, words: tuple[str, ...], sentence: str
) -> None:
    code, text = run(shared_cluster, OBSERVER, "net", *words)
    assert code == 1
    assert sentence in text
