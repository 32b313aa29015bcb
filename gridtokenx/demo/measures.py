"""What a cluster's nodes use, and whether it grows: memory, handles, tasks, threads, disk."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import psutil

from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.cluster.processes import Cluster
from gridtokenx.home.admin_socket import SOCKET_NAME, AdminError, call

REQUEST_TIMEOUT_S = 3.0
MIB = 1 << 20
LEAST_POINTS = 6  # Fewer make no trend,
LEAST_S = 300.0  # nor does a shorter time: caches are still filling.


@dataclass(frozen=True, slots=True)
class Usage:
    """One node at one moment; None is what it did not tell, being stopped, frozen or busy."""

    at_s: float
    pid: int
    rss_mib: float | None = None
    files: int | None = None
    threads: int | None = None
    tasks: int | None = None
    python_blocks: int | None = None
    disk_mib: float | None = None
    peers: int | None = None
    heights: Mapping[str, int] = field(default_factory=dict)
    finality_ms: float | None = None


def usage(cluster: Cluster, name: str, at_s: float) -> Usage:
    """Measure a node now, from outside and by its own word."""
    node = cluster.node(name)
    told: dict[str, Any] = {"disk_mib": _folder_bytes(cluster, name) / MIB}
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(node.pid)
        told["rss_mib"] = process.memory_info().rss / MIB
        told["files"], told["threads"] = process.num_fds(), process.num_threads()
    if cluster.is_running(name) and not cluster.is_paused(name):
        told |= _own_word(cluster, name)
    return Usage(at_s=at_s, pid=node.pid, **told)


def _own_word(cluster: Cluster, name: str) -> dict[str, Any]:
    path = cluster.home(name) / "data" / SOCKET_NAME
    try:
        resources = call(path, {"do": "resources"}, REQUEST_TIMEOUT_S)
        with Client(cluster.node(name).member.api_url, REQUEST_TIMEOUT_S) as client:
            status = client.status()
    except (AdminError, OSError, NodeUnreachable, RpcError):
        return {}
    rows = status.chains
    medians = [row.finality_ms.p50 for row in rows]  # None until a chain has decided.
    return {
        "tasks": int(resources["tasks"]),
        "python_blocks": int(resources["python_blocks"]),
        "peers": status.peers,
        "heights": {row.chain: row.head.height for row in rows},
        "finality_ms": max((float(one) for one in medians if one is not None), default=None),
    }


def _folder_bytes(cluster: Cluster, name: str) -> int:
    """Bytes of the node's database; files come and go while they are counted."""
    total = 0
    for path in (cluster.home(name) / "data" / "rocksdb").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through the last third of a series. `growth` is its rise over that third."""

    what: str
    mean: float
    growth: float
    per_hour: float
    flat: bool


def trend(
    what: str, points: Sequence[tuple[float, float]], *, relative: float, absolute: float
) -> Trend | None:
    """Whether a series of (seconds, value) levels off; None for too few points or too short a time.

    Flat: the last third rises by at most `relative` of its mean or `absolute`, whichever is more.
    Before it caches and buffers fill. A leak rises as fast in the last third as in the first: the
    longer the run, the smaller the leak that it shows.
    """
    last = points[-(len(points) // 3) :]
    if len(last) < LEAST_POINTS or last[-1][0] - last[0][0] < LEAST_S:
        return None
    middle_s, mean = fmean(at for at, _ in last), fmean(value for _, value in last)
    spread = sum((at - middle_s) ** 2 for at, _ in last)
    per_s = sum((at - middle_s) * (value - mean) for at, value in last) / spread if spread else 0.0
    growth = per_s * (last[-1][0] - last[0][0])
    allowed = max(relative * mean, absolute)
    return Trend(what, round(mean, 1), round(growth, 1), round(per_s * 3600, 1), growth <= allowed)


def trends(series: Sequence[Usage]) -> list[Trend]:
    """What must not grow for ever, of one process.

    Disk does, with the chain, and Python's blocks are a saw, since garbage in cycles waits to be
    collected: neither is judged. With memory that grows the blocks tell whether objects are kept.
    """
    found = []
    for what, relative, absolute in (
        ("rss_mib", 0.05, 8.0),
        ("files", 0.05, 8.0),
        ("threads", 0.0, 4.0),
        ("tasks", 0.0, 20.0),  # A cut link takes some twenty away for as long as it lasts.
    ):
        points = [
            (one.at_s, float(value)) for one in series if (value := getattr(one, what)) is not None
        ]
        line = trend(what, points, relative=relative, absolute=absolute)
        if line is not None:
            found.append(line)
    return found
