"""Break a running cluster's links: partitions and delays, through each node's admin socket.

Real traffic of real processes, without root.
Source: docs/node-operation.md "A network on one machine".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridtokenx.cluster.devnet import dev_key, peer_id
from gridtokenx.cluster.processes import Cluster, ClusterError
from gridtokenx.home.admin_socket import SOCKET_NAME, AdminError, call

Groups = tuple[frozenset[str], ...]


def parse_groups(text: str, names: Sequence[str]) -> Groups:
    """`n0,n1|n2,n3`: who can still reach whom. Nodes that are not named are cut off from everybody.

    Errors: ClusterError for an unknown node, one named twice, or an empty group.
    """
    groups = tuple(
        frozenset(one.strip() for one in group.split(",") if one.strip())
        for group in text.split("|")
    )
    named = [name for group in groups for name in group]
    unknown = sorted(set(named) - set(names))
    if unknown:
        raise ClusterError(f"there is no node {unknown[0]!r}", f"the nodes are {', '.join(names)}")
    if len(set(named)) < text.replace("|", ",").count(",") + 1 or not all(groups):
        raise ClusterError(f"{text!r} names a node twice or an empty group", "n0,n1|n2,n3")
    return groups


def partition(cluster: Cluster, groups: Groups) -> None:
    """Cut every link between nodes of different groups. Errors: ClusterError."""
    names = [member.name for member in cluster.members]
    for name in names:
        group = next((one for one in groups if name in one), frozenset([name]))
        _command(cluster, name, block=[_peer(one) for one in names if one not in group])


def heal(cluster: Cluster) -> None:
    """Let all traffic through again, at once. Errors: ClusterError."""
    for member in cluster.members:
        _command(cluster, member.name, block=[], delay_ms=0)


def delay(cluster: Cluster, delay_ms: int, names: Sequence[str] = ()) -> None:
    """Hold every write of these nodes (none: of all) back for so long. Errors: ClusterError."""
    for name in names or [member.name for member in cluster.members]:
        _command(cluster, name, delay_ms=delay_ms)


def _peer(name: str) -> str:
    return peer_id(dev_key(f"{name} node").public_key)


def _command(cluster: Cluster, name: str, **fields: Any) -> None:
    if not cluster.is_running(name):
        return  # A node that starts later has no faults; say it again then.
    path = cluster.home(name) / "data" / SOCKET_NAME
    try:
        call(path, {"do": "faults", **fields})
    except (AdminError, OSError) as error:
        raise ClusterError(f"{name} does not obey: {error}", cluster.tail(name)) from None
