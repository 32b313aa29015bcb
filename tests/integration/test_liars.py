"""Strangers that lie about the time and about heights: no block is missed, and they are not heard.

At each of four validators more strangers are connected than it has honest peers. They answer every
status, with a clock that is ten seconds ahead and a height that nobody has reached.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio

from gridtokenx.cluster.devnet import NETWORK_ID, peer_address
from gridtokenx.cluster.processes import Cluster
from gridtokenx.network.host import (
    HostSettings,
    Stream,
    format_peer_id,
    open_network,
    read_frame,
    write_frame,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.protocol import ChainHead, Status
from gridtokenx.primitives.codec import encode
from tests.support import live_cluster
from tests.support.live_cluster import client_of, genesis_of, log_of, wait_progress, wait_until

AUTHORITIES = ("n0", "n1", "n2", "n3")
STRANGERS = 4  # At each; three others are honest.
AHEAD_MS = 10_000
HEIGHT = 10**9


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "liars"
    with live_cluster.running(folder, observers=0) as made:
        wait_progress(made)
        yield made


def lie(cluster: Cluster) -> bytes:
    genesis = genesis_of(cluster)
    heads = tuple(
        ChainHead(name, genesis.chain(name).chain_id, HEIGHT, bytes(32))
        for name in genesis.chain_names
    )
    time_ms = time.time_ns() // 1_000_000 + AHEAD_MS
    return encode(Status(genesis.network_name, genesis.hash, "liar", "liar", time_ms, heads))


@asynccontextmanager
async def liar(cluster: Cluster, victim: str) -> AsyncIterator[PeerId]:
    """Connected, and answering statuses, but no request for blocks."""

    async def tell(stream: Stream) -> None:
        await read_frame(stream, 65_536)
        await write_frame(stream, b"\0" + lie(cluster))

    async def refuse(stream: Stream) -> None:
        await stream.reset()

    async with open_network(HostSettings(seed=os.urandom(32), listen=())) as network:
        network.handle([f"/gridtokenx/{NETWORK_ID}/status/1"], tell)
        network.handle([f"/gridtokenx/{NETWORK_ID}/blocks/1"], refuse)
        await network.dial(peer_address(victim, cluster.node(victim).member.p2p_port))
        yield network.peer_id


def unready(cluster: Cluster, name: str) -> list[str]:
    """What keeps a node from being ready."""
    url = cluster.node(name).member.api_url
    checks = httpx.get(f"{url}/ready", timeout=live_cluster.ANSWER_S).json()["checks"]
    return [check["name"] for check in checks if not check["ok"]]


def told_heights(cluster: Cluster, name: str) -> list[int]:
    """What a node's peers say of their heights."""
    with client_of(cluster, name) as client:
        return [max(peer.heights.values()) for peer in client.peers()]


def bans_of(cluster: Cluster, name: str) -> dict[str, str]:
    with client_of(cluster, name) as client:
        bans = client.call("net_getBans")["items"]
    return {one["target"]: one["reason"] for one in bans}


def test_a_node_that_stood_still_neither_finds_a_wrong_clock_nor_seems_to_have_one(
    cluster: Cluster,
) -> None:
    """Its answers come seconds late, and what it has heard of others is of before."""
    cluster.pause("n3")
    time.sleep(5)  # More than a clock may be off, less than a request may take.
    cluster.resume("n3")
    wait_progress(cluster, *AUTHORITIES)
    wait_until("it tells that it was slow", lambda: "GTX-CLK-002" in log_of(cluster, "n3"))
    wait_until("all are ready", lambda: not any(unready(cluster, name) for name in AUTHORITIES))
    for name in AUTHORITIES:
        assert "GTX-CLK-001" not in log_of(cluster, name)


async def test_strangers_that_lie_stop_nothing_and_are_put_out(cluster: Cluster) -> None:
    async with trio.open_nursery() as nursery:
        liars: dict[str, list[str]] = {name: [] for name in AUTHORITIES}

        async def attack(victim: str, task_status=trio.TASK_STATUS_IGNORED) -> None:
            async with liar(cluster, victim) as peer:
                liars[victim].append(format_peer_id(peer))
                task_status.started()
                await trio.sleep_forever()

        for victim in AUTHORITIES:
            for _ in range(STRANGERS):
                await nursery.start(attack, victim)

        def heard() -> bool:
            """All lies are told everywhere; on a slow machine some liars are banned by then."""
            return all(
                told_heights(cluster, name).count(HEIGHT) + len(bans_of(cluster, name)) >= STRANGERS
                for name in AUTHORITIES
            )

        def watch() -> None:
            wait_until("the lies are heard", heard)
            for _ in range(10):
                wait_progress(cluster, *AUTHORITIES)
                for name in AUTHORITIES:
                    assert not {"clock", "sync_MET", "sync_TH"} & set(unready(cluster, name))

        await trio.to_thread.run_sync(watch)

        def banned() -> bool:
            return all(
                bans_of(cluster, name).get(peer) == "unfounded_height"
                for name, peers in liars.items()
                for peer in peers
            )

        await trio.to_thread.run_sync(partial(wait_until, "all liars are banned", banned))
        nursery.cancel_scope.cancel()
    for name in AUTHORITIES:
        assert "GTX-CLK-001" not in log_of(cluster, name)
        assert unready(cluster, name) == []
