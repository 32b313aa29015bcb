"""What a cluster does while it is attacked, seen from outside: logs, processes, probes."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil

from gridtokenx.cluster.devnet import Member
from gridtokenx.cluster.processes import Cluster

MIB = 1 << 20
PROBE_EVERY_S = 0.6  # A hundred of each node in a minute.
PROBE_TIMEOUT_S = 3.0
MEMORY_EVERY_S = 0.5
_FINALIZED = re.compile(
    r"^(\S+) .*\bblock\.finalized .*\bchain=(\w+) .*\bheight=(\d+)", re.MULTILINE
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAULT = re.compile(r"^.*(?:\[error|\[critical|Traceback \(most recent).*$", re.MULTILINE)

Decided = Mapping[str, Mapping[int, float]]
"""By chain and height: when a node decided it, seconds since 1970."""


class Log:
    """What a node prints from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def text(self) -> str:
        """All of it so far."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            return _COLOUR.sub("", file.read().decode(errors="replace"))

    def decided(self) -> dict[str, dict[int, float]]:
        """The blocks that it tells of."""
        found: dict[str, dict[int, float]] = {}
        for at, chain, height in _FINALIZED.findall(self.text()):
            heights = found.setdefault(chain, {})
            heights.setdefault(int(height), datetime.fromisoformat(at).timestamp())
        return found

    def faults(self) -> list[str]:
        """Errors that the node calls its own."""
        return [line.strip()[:200] for line in _FAULT.findall(self.text())]


@dataclass(frozen=True, slots=True)
class Blocks:
    """One chain in a window: decided by the slowest node, and the longest wait of any node."""

    decided: int
    longest_gap_s: float


def blocks_of(times: Sequence[float], begin: float, seconds: float, block_s: float) -> Blocks:
    """One node's blocks in `seconds` from the last block before `begin` on.

    The window starts at a block and ends half a block time late, so that a chain which keeps its
    pace has the same number in each window.
    """
    before = [at for at in times if at <= begin]
    start = before[-1] if before else begin
    end = start + seconds + block_s / 2
    inside = [at for at in times if start < at <= end]
    gaps = [later - earlier for earlier, later in pairwise([start, *inside, end])]
    return Blocks(len(inside), round(max(gaps), 2))


def slowest(blocks: Sequence[Blocks]) -> Blocks:
    """Of the same chain on several nodes."""
    gap = max((one.longest_gap_s for one in blocks), default=0.0)
    return Blocks(min((one.decided for one in blocks), default=0), gap)


def keeps_pace(times: Sequence[float], block_s: float, *, blocks: int = 4) -> bool:
    """Whether the last few blocks came one block time after the other."""
    last = times[-blocks:]
    return len(last) == blocks and last[-1] - last[0] < (blocks - 0.5) * block_s


@dataclass(slots=True)
class NodeUse:
    """One node: MiB and descriptors, before, at most during, and afterwards."""

    before_mib: float = 0.0
    most_mib: float = 0.0
    after_mib: float = 0.0
    before_files: int = 0
    most_files: int = 0
    cpu_s: float = 0.0
    lag_ms: int = 0
    probes: int = 0
    answered: int = 0
    slowest_probe_s: float = 0.0
    died: bool = False

    @property
    def growth_mib(self) -> float:
        """At most, against before."""
        return self.most_mib - self.before_mib

    @property
    def kept_mib(self) -> float:
        """Afterwards, against before."""
        return self.after_mib - self.before_mib


@dataclass(slots=True)
class Watcher:
    """Samples all nodes from `begin` to `end`, in threads of its own."""

    cluster: Cluster
    use: dict[str, NodeUse] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _processes: dict[str, psutil.Process] = field(default_factory=dict)

    def begin(self) -> None:
        """Note what is there and start to look."""
        for member in self.cluster.members:
            process = psutil.Process(self.cluster.node(member.name).pid)
            rss = process.memory_info().rss / MIB
            files, cpu = process.num_fds(), process.cpu_times()
            self._processes[member.name] = process
            self.use[member.name] = NodeUse(
                rss, rss, rss, files, files, cpu_s=-(cpu.user + cpu.system)
            )
            self._threads.append(threading.Thread(target=self._probe, args=(member,), daemon=True))
        self._threads.append(threading.Thread(target=self._sample, daemon=True))
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for name, process in self._processes.items():
            try:
                cpu = process.cpu_times()
                self.use[name].cpu_s += cpu.user + cpu.system
            except psutil.NoSuchProcess:
                self.use[name].died = True
            self.use[name].died |= not self.cluster.is_running(name)

    def settle(self, seconds: float, enough_mib: float) -> None:
        """Until each node has given back its memory up to `enough_mib`, or the time is over."""
        end = time.monotonic() + seconds
        while True:
            for name, process in self._processes.items():
                try:
                    self.use[name].after_mib = process.memory_info().rss / MIB
                except psutil.NoSuchProcess:
                    self.use[name].died = True
            kept = max(one.kept_mib for one in self.use.values() if not one.died)
            if kept <= enough_mib or time.monotonic() > end:
                return
            time.sleep(MEMORY_EVERY_S)

    def _sample(self) -> None:
        while not self._over.wait(MEMORY_EVERY_S):
            for name, process in self._processes.items():
                use = self.use[name]
                try:
                    use.most_mib = max(use.most_mib, process.memory_info().rss / MIB)
                    use.most_files = max(use.most_files, process.num_fds())
                except psutil.NoSuchProcess:
                    use.died = True

    def _probe(self, member: Member) -> None:
        use = self.use[member.name]
        due = time.monotonic()
        while not self._over.is_set():
            began = time.monotonic()
            lag_ms = probe(member.api_port)
            use.probes += 1
            use.slowest_probe_s = max(use.slowest_probe_s, time.monotonic() - began)
            if lag_ms is not None:
                use.answered += 1
                use.lag_ms = max(use.lag_ms, lag_ms)
            due = max(due + PROBE_EVERY_S, time.monotonic())
            self._over.wait(due - time.monotonic())


def probe(port: int) -> int | None:
    """Ask `/health` over a connection of its own: the worst loop's lag in ms, None unless 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return None
        return max(json.loads(body)["loops_ms"].values(), default=0)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
