"""CPU time of a node by what it went into, so that an operator sees what a transaction costs.

Work in worker threads is measured where it is done, once a batch or block; the trio and the API
thread are read from their own clocks; what is left is RocksDB's threads and the interpreter's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Stage(StrEnum):
    """What a worker thread does with transactions and blocks."""

    DECODE = "decode"
    VERIFY = "verify"
    ADMIT = "admit"  # Applying to the pool's pending state, again after each block it waits.
    EXECUTE = "execute"  # Building and checking blocks, without the state tree.
    TREE = "tree"
    INDEX = "index"
    WRITE = "write"


@dataclass  # Without slots, which threads would share.
class _Open(threading.local):
    """The stages this thread is in, innermost last, and since when the innermost is counted."""

    stages: list[Stage] = field(default_factory=list)
    since_s: float = 0.0


class Stages:
    """Seconds of CPU by stage. Any thread; a stage inside another does not count to the outer."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(Stage, 0.0)
        self._open = _Open()
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Count this thread's CPU time to a stage. Costs some 3 us: for batches, not for items."""
        opened = self._open
        self._switch(opened)
        opened.stages.append(stage)
        try:
            yield
        finally:
            self._switch(opened)
            opened.stages.pop()

    def seconds(self) -> dict[str, float]:
        """CPU seconds so far by stage."""
        with self._lock:
            return {stage.value: seconds for stage, seconds in self._seconds.items()}

    def _switch(self, opened: _Open) -> None:
        now_s = time.thread_time()
        if opened.stages:
            with self._lock:
                self._seconds[opened.stages[-1]] += now_s - opened.since_s
        opened.since_s = now_s


class StageCollector(Collector):
    """Shows `Stages` as `gridtokenx_cpu_seconds_total`, beside the API and the network thread.

    Made in the trio thread, which is `network`: gossip, streams, consensus. Collected in the API
    thread, which is `api`.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._network_clock = time.pthread_getcpuclockid(threading.get_ident())

    def describe(self) -> list[Metric]:
        """Nothing: the values need a running node."""
        return []

    def collect(self) -> Iterator[Metric]:
        seconds = self._stages.seconds()
        seconds["api"] = time.thread_time()
        seconds["network"] = time.clock_gettime(self._network_clock)
        seconds["other"] = max(0.0, time.process_time() - sum(seconds.values()))
        family = CounterMetricFamily(
            "gridtokenx_cpu_seconds", "CPU time by what it went into", labels=["stage"]
        )
        for stage, value in seconds.items():
            family.add_metric([stage], value)
        yield family
