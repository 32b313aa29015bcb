"""Nodes that serve one region each: what a stalled region means to the others, and its return."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gridtokenx.answers.shard import ShardDetail
from gridtokenx.chain.genesis import Genesis, format_genesis, parse_genesis
from gridtokenx.chain.transaction import Payload
from gridtokenx.client import RpcError
from gridtokenx.cluster import watch
from gridtokenx.cluster.devnet import DEV_ACCOUNT, dev_key
from gridtokenx.cluster.processes import Cluster, create, this_process
from gridtokenx.demo.supply import holdings, supply_checks
from gridtokenx.interchain.model import TransferAbroad
from gridtokenx.ledger.model import TREASURY, Asset
from gridtokenx.primitives.errors import ErrorCode
from scripts.benchmarks import regions as bench
from tests.support.live_cluster import (
    answered_heights,
    client_of,
    fresh_genesis,
    port_block,
    wait_heights,
    wait_until,
)

BLOCK_TIME_MS = 200  # A region pauses after sixty of TH's, and each that n3 should have led waits.
TIMEOUT_BASE_MS = 500
DEV = dev_key(DEV_ACCOUNT)
FRIEND = dev_key("friend").public_key
FOLLOWED = {"n0": ("MET",), "n1": ("MET",), "n2": ("MET",), "n3": ("NOR",), "n4": ()}
LONG_S = 300.0


def genesis_of_two_regions() -> Genesis:
    """MET is signed by n0 to n2, NOR by n3 alone, TH by all four."""
    genesis = fresh_genesis("MET", "NOR")
    met, nor = genesis.chains
    members = met.validators
    chains = (replace(met, validators=members[:3]), replace(nor, validators=members[3:]))
    return replace(
        genesis,
        chains=chains,
        block_time_ms=BLOCK_TIME_MS,
        timeout_base_ms=TIMEOUT_BASE_MS,
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = create(
        tmp_path / "clusters" / "regions",
        genesis_of_two_regions(),
        observers=1,
        owner=this_process(),
        first_ports=port_block(),
        regions=FOLLOWED,
    )
    try:
        watch.wait_ready(cluster, LONG_S)
        yield cluster
    finally:
        cluster.stop()


def send(cluster: Cluster, name: str, chain: str, command: Payload) -> str:
    """Dev's next transaction on a chain; its id. Errors: RpcError."""
    with client_of(cluster, name) as client:
        return client.send(client.sign(DEV, chain, command))


def status_of(cluster: Cluster, transfer: str) -> str:
    """By the observer, whom a transaction reaches a moment after the node that it was sent to."""
    with client_of(cluster, "n4") as client:
        answer = client.call_many([("shard_getTransfer", {"id": transfer})])[0]
    return answer.reason if isinstance(answer, RpcError) else str(answer["status"])


def shard(cluster: Cluster, name: str) -> ShardDetail:
    with client_of(cluster, "n4") as client:
        return client.shard(name)


def check_supply(cluster: Cluster) -> None:
    with client_of(cluster, "n4") as client:
        genesis = client.genesis()
        accounts = [*{one.account for one in genesis.allocations}, FRIEND, TREASURY]
        held = holdings(client, accounts)
        shards = {region.name: shard(cluster, region.name) for region in genesis.chains}
        for holds, sentence in supply_checks(genesis, held, shards):
            assert holds, sentence


@pytest.mark.parametrize("regions", [1, 2, 3, 5])
def test_regions_are_added_beside_the_nodes_that_are_measured(regions: int) -> None:
    served = bench.served_by(regions)
    genesis = bench.genesis_of(served, 1_800_000_000_000)
    assert parse_genesis(format_genesis(genesis)) == genesis
    assert genesis.chain_names == ("TH", *served)
    signed = [len(region.validators) for region in genesis.chains]
    assert signed == [2, *[1] * (regions - 1)]
    assert [one.public_key for one in genesis.national.stakes] == [
        one.public_key for one in genesis.chains[0].validators
    ]
    nodes = [node for names in served.values() for node in names]
    assert sorted(nodes) == [f"n{number}" for number in range(2 if regions == 1 else 6)]
    offsets = {genesis.chains[0].offset_ms, genesis.national.offset_ms}
    assert offsets == {0, 750}  # Whoever is added, what is measured has its blocks apart.


def check_measurement(cluster: Cluster) -> None:
    """`scripts/bench regions` on this cluster: every figure is there."""
    served = {"MET": ("n0", "n1", "n2"), "NOR": ("n3",)}
    cost = bench.observe(cluster, served, 5.0)
    assert (cost.regions, cost.nodes, cost.peers) == (2, 5, 4)
    assert cost.blocks > 0
    assert cost.cpu_ms_per_block > 0
    assert cost.cpu_ms_per_s_by_stage["network"] > 0
    if shutil.which("ss"):
        assert cost.in_kb_per_s > 0
        assert cost.out_kb_per_s > 0


def test_a_region_without_its_authorities_pauses_alone_and_comes_back(cluster: Cluster) -> None:
    check_measurement(cluster)
    assert set(answered_heights(cluster, "n0")) == {"TH", "MET"}
    assert set(answered_heights(cluster, "n3")) == {"TH", "NOR"}
    with client_of(cluster, "n0") as client, pytest.raises(RpcError) as told:
        client.head("NOR")
    assert told.value.code == ErrorCode.UNKNOWN_SHARD
    assert "network.regions" in told.value.hint
    first = send(cluster, "n0", "TH", TransferAbroad("NOR", FRIEND, Asset.GTX, 10_001))
    wait_until("credited", lambda: status_of(cluster, first) == "credited", LONG_S)

    cluster.kill("n3")
    waiting = []
    for amount in (10_007, 10_008):
        waiting.append(send(cluster, "n0", "TH", TransferAbroad("NOR", FRIEND, Asset.GTX, amount)))
    wait_until("paused", lambda: shard(cluster, "NOR").status == "paused", LONG_S)
    assert shard(cluster, "MET").status == "active"  # Which has had to send nothing.
    now = answered_heights(cluster, "n0")
    wait_heights(cluster, {"TH": now["TH"] + 3, "MET": now["MET"] + 3}, "n0")
    with pytest.raises(RpcError) as refused:
        send(cluster, "n0", "TH", TransferAbroad("NOR", FRIEND, Asset.GTX, 10_009))
    assert refused.value.code == ErrorCode.CROSS_SHARD_PENDING
    returned = send(cluster, "n1", "MET", TransferAbroad("NOR", FRIEND, Asset.GTX, 10_009))
    wait_until("returned", lambda: status_of(cluster, returned) == "bounced", LONG_S)
    assert {status_of(cluster, one) for one in waiting} == {"in_flight"}

    cluster.start("n3")
    wait_until("active", lambda: shard(cluster, "NOR").status == "active", LONG_S)
    for transfer in waiting:
        wait_until("credited", lambda one=transfer: status_of(cluster, one) == "credited", LONG_S)
    with client_of(cluster, "n4") as client:

        def credited_ugtx() -> int:
            (row,) = client.balance(FRIEND, "NOR").chains
            return row.gtx_ugtx

        wait_until("n4 has NOR's block too", lambda: credited_ugtx() == 10_001 + 10_007 + 10_008)
        amounts = [
            [step for step in client.transfer(one).steps if step.chain == "NOR"] for one in waiting
        ]
    order = [steps[0].height for steps in amounts]
    assert order == sorted(order)
    check_supply(cluster)
