"""A real cluster of four authorities and an observer: plain processes, TCP, disk, HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import pytest

from gridtokenx.cluster import dev, devnet, processes, watch
from gridtokenx.cluster.processes import ClusterError
from gridtokenx.trading.model import Side, Source
from tests.support.live_cluster import (
    answered_heights,
    client_of,
    port_block,
    wait_heights,
    wait_progress,
    wait_until,
)

BLOCK_TIME_MS = 1000
SEED_ORDER = {
    "order_type": "sell",
    "energy_amount": 100.0,
    "price_per_kwh": 5000,
    "energy_source": "solar",
    "grid_location": "BKK-01-SUB001",
    "expiration_hours": 24,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "clusters" / "test"
    now_ms = time.time_ns() // 1_000_000
    genesis = devnet.local_genesis(
        block_time_ms=BLOCK_TIME_MS, clock=devnet.block_clock(now_ms), genesis_time_ms=now_ms
    )
    made = processes.create(
        folder,
        genesis,
        observers=1,
        owner=processes.this_process(),
        first_ports=port_block(),
    )
    try:
        watch.wait_ready(made)
        yield made
    finally:
        made.stop()


def command(cluster, *words):
    """The JSON document of `gridtokenx cluster ...` on this cluster's home."""
    home = cluster.folder.parents[1]
    line = [sys.executable, "-m", "gridtokenx", "--home", str(home), "--json", "cluster", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.refresh()
    return json.loads(done.stdout)


def test_every_node_finalizes_each_chain_and_finds_all_others_from_the_bootnode(cluster):
    for member in cluster.members:
        heights = answered_heights(cluster, member.name)
        assert set(heights) == {"TH", "MET", "NOR", "NEA"}
        assert min(heights.values()) >= 1
        with client_of(cluster, member.name) as client:
            wait_until(
                f"{member.name} has all others as peers",
                lambda client=client: len(client.peers()) == 4,
            )


def post_seed_order(cluster, name):
    url = f"{cluster.node(name).member.api_url}/api/v1/energy/orders"
    return httpx.post(url, json=SEED_ORDER, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def sold(cluster):
    """The id of the seed's order, which the first node has signed."""
    with client_of(cluster, "n0") as client:
        dev.fund_dev_account(client)
    taken = post_seed_order(cluster, "n0")
    assert taken.is_success, taken.text + cluster.tail("n0", 80)
    return taken.json()["order_id"]


def test_the_seed_order_is_taken_by_the_node_that_signs_and_refused_by_others(cluster, sold):
    refused = post_seed_order(cluster, "n1")
    assert refused.status_code == 401
    assert refused.json()["error"]["reason"] == "signature_required"
    with client_of(cluster, "n4") as observer:
        (order,) = wait_until("the observer has the order", lambda: observer.orders().items)
        assert order.order_id.hex() == sold


def test_two_orders_meet_at_their_gate_and_the_trade_is_settled(cluster, sold):
    """What a newcomer does with the orders that `cluster up` prints."""
    neighbour = devnet.dev_key(devnet.NEIGHBOUR)
    with client_of(cluster, "n0") as client:
        dev.fund_dev_account(client, devnet.NEIGHBOUR)
        bought = client.build_order(
            neighbour,
            side=Side.BUY,
            energy_wh=60_000,
            limit_mthb=5_600,
            location=dev.LOCATION,
            source=Source.ANY,
        )
        client.send(bought)
    with client_of(cluster, "n4") as observer:
        (trade,) = wait_until("the orders meet", lambda: observer.trades().items)
        assert (trade.buy_order_id, trade.sell_order_id.hex()) == (bought.id, sold)
        assert (trade.energy_wh, trade.price_mthb) == (60_000, 5_000)
        assert trade.slot >= bought.payload.first_slot
        wait_until(
            "it is settled", lambda: observer.trade(trade.trade_id.hex()).status == "settled"
        )


def test_a_killed_authority_does_not_stop_the_others_and_comes_back(cluster):
    command(cluster, "kill", "n2", "--name", cluster.name)
    expected = {**dict.fromkeys(("n0", "n1", "n3", "n4"), "live"), "n2": "stopped"}
    wait_until("four are live and n2 is stopped", lambda: _states(cluster) == expected)
    with pytest.raises(ClusterError, match="n2"):
        cluster.check_alive("n2")
    wait_progress(cluster, "n0", "n1", "n3", "n4")
    command(cluster, "start", "n2", "--name", cluster.name)
    assert command(cluster, "logs", "n2", "--name", cluster.name)["lines"]
    roots = set()
    goal = {"MET": answered_heights(cluster, "n2")["MET"]}
    for member in cluster.members:
        wait_heights(cluster, goal, member.name)
        with client_of(cluster, member.name) as client:
            roots.add(client.block(goal["MET"], "MET").header.state_root)
    assert len(roots) == 1
    wait_until("n2 votes again", lambda: _votes(cluster, "n2"))


def _states(cluster):
    """By node, as the command line tells it."""
    return {node["name"]: node["state"] for node in command(cluster, "status", "test")["nodes"]}


def _votes(cluster, name):
    """Whether the node's signature is in the newest certificate of MET."""
    key = devnet.dev_key(cluster.node(name).member.validator).public_key
    with client_of(cluster, "n0") as client:
        members = client.spec("MET").genesis_validators.members
        index = next(at for at, one in enumerate(members) if one.public_key == key)
        answer = client.call("chain_getFinality", block=client.head("MET").height, chain="MET")
    return index in answer["signers"]
