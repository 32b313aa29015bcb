"""See how a cluster is doing, over its nodes' HTTP API."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from gridtokenx.client import Client, NodeUnreachable
from gridtokenx.cluster.processes import Cluster, ClusterError
from gridtokenx.home.settings import NetworkSettings

READY_TIMEOUT_S = 90.0
POLL_S = 0.2


def wait_ready(cluster: Cluster, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Until every node has finalized a block on each chain and is connected with all others.

    A cluster that is cut or loses its bootnode before that may fall into pieces that never hear of
    each other. Errors: ClusterError naming the node that ended or lags, with the end of its log.
    """
    started = time.monotonic()
    for member in cluster.members:
        with Client(member.api_url) as client:
            while (lacks := _lacks(client, len(cluster.members) - 1)) is not None:
                for other in cluster.members:
                    cluster.check_alive(other.name)
                if time.monotonic() - started > timeout_s:
                    raise ClusterError(
                        f"node {member.name} {lacks} after {timeout_s:.0f} s",
                        f"its log: {cluster.log_path(member.name)}",
                        cluster.tail(member.name),
                    )
                time.sleep(POLL_S)


def _lacks(client: Client, others: int) -> str | None:
    """What keeps a node from being ready; None: nothing. It dials up to a target, no further."""
    try:
        status = client.status()
    except NodeUnreachable:
        return "does not answer"
    if min((row.head.height for row in status.chains), default=0) < 1:
        return "has not finalized a block"
    peers, goal = status.peers, min(others, NetworkSettings().max_outbound)
    return None if peers >= goal else f"is connected with {peers} of {goal} nodes"


def wait_caught_up(cluster: Cluster, name: str, timeout_s: float = READY_TIMEOUT_S) -> float:
    """Until a node has, on each chain, the height another had when this began; seconds it took.

    Errors: ClusterError.
    """
    started = time.monotonic()
    others = [member for member in cluster.members if member.name != name]
    running = [member for member in others if cluster.is_running(member.name)]
    goal: dict[str, int] = {}
    for member in running[:1]:
        with Client(member.api_url) as client:
            goal = heights(client)
    with Client(cluster.node(name).member.api_url) as client:
        while True:
            cluster.check_alive(name)
            now = heights(client)
            if now and all(now.get(chain, 0) >= height for chain, height in goal.items()):
                return time.monotonic() - started
            if time.monotonic() - started > timeout_s:
                detail = f"node {name} has not caught up after {timeout_s:.0f} s: {now} of {goal}"
                raise ClusterError(detail, f"its log: {cluster.log_path(name)}", cluster.tail(name))
            time.sleep(POLL_S)


def heights(client: Client) -> dict[str, int]:
    """The node's height by chain; nothing while it does not answer."""
    try:
        return {chain: head.height for chain, head in client.heads().items()}
    except NodeUnreachable:
        return {}


def describe(cluster: Cluster) -> dict[str, Any]:
    """What `cluster status --json` says: every node with its process and, if it answers, chains."""
    return {
        "name": cluster.name,
        "folder": str(cluster.folder),
        "genesis_hash": cluster.genesis_hash,
        "nodes": [_describe_node(cluster, node.member.name) for node in cluster.nodes],
    }


def _describe_node(cluster: Cluster, name: str) -> dict[str, Any]:
    node = cluster.node(name)
    member = node.member
    running = cluster.is_running(name)
    document: dict[str, Any] = {
        "name": name,
        "role": member.role,
        "authority": member.authority,
        "api": member.api_url,
        "p2p_port": member.p2p_port,
        "pid": node.pid if running else None,
        "state": "stopped",
        "peers": None,
        "chains": {},
        "log": str(cluster.log_path(name)),
    }
    if not running:
        return document
    if cluster.is_paused(name):
        return {**document, "state": "paused"}
    try:
        with Client(member.api_url, timeout_s=3.0) as client:
            status = client.status()
    except NodeUnreachable:
        return {**document, "state": "not answering"}
    chains = {
        row.chain: {
            "height": row.head.height,
            "state_root": row.head.state_root.hex(),
            "finality_ms": asdict(row.finality_ms),
            "sync": row.sync.state,
        }
        for row in status.chains
    }
    return {**document, "state": status.sync.state, "peers": status.peers, "chains": chains}
