"""Whether a node is alive (`/health`) and whether it can be used (`/ready`).

Alive is not ready: a node that is hours behind ticks happily. Each check is also a 0/1 metric.
Source: docs/node-operation.md "Monitoring".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gridtokenx.views.status import ChainStatus, Check, NodeHandle

DEAD_AFTER_S = 10.0
MIN_TIP_AGE_MS = 30_000
TIP_AGE_BLOCKS = 10


class Pulse:
    """When each loop last ticked and how late it was. Written by one thread each."""

    def __init__(self) -> None:
        self._ticks: dict[str, tuple[float, float]] = {}  # loop: (when, seconds late)

    def tick(self, loop: str, late_s: float) -> None:
        """A loop is alive."""
        self._ticks[loop] = (time.monotonic(), max(0.0, late_s))

    def silent(self) -> list[str]:
        """Loops that have not ticked for 10 s."""
        now = time.monotonic()
        return [loop for loop, (when, _) in self._ticks.items() if now - when > DEAD_AFTER_S]

    def lag_ms(self) -> dict[str, int]:
        """Last measured lateness by loop."""
        return {loop: round(late * 1000) for loop, (_, late) in self._ticks.items()}


def health_document(handle: NodeHandle, pulse: Pulse) -> tuple[bool, dict[str, Any]]:
    """(alive, body)."""
    silent = pulse.silent()
    body = {
        "status": "stuck" if silent else "ok",
        "loops_ms": {**pulse.lag_ms(), **handle.health().loop_lag_ms},
        "silent": silent,
    }
    return not silent, body


def checks(
    handle: NodeHandle,
    pulse: Pulse,
    *,
    min_peers: int | None = None,
    max_blocks_behind: int = 2,
) -> list[Check]:
    """Everything that must hold for the node to be used, in a fixed order."""
    chains = list(handle.chains().values())
    needed = handle.config.network.min_peers if min_peers is None else min_peers
    peers, silent = len(handle.peers()), pulse.silent()
    return [
        Check(
            "loops", not silent, ", ".join(silent) or "ticking", "ticking", "the process is stuck"
        ),
        Check("chains", bool(chains), str(len(chains)), "1 or more", "the node is starting"),
        Check(
            "peers",
            peers >= needed,
            str(peers),
            f"{needed} or more",
            "check network.bootstrap, the firewall and the P2P port; the log counts failed dials",
        ),
        *(_sync_check(chain, max_blocks_behind) for chain in chains),
        *(_tip_check(chain) for chain in chains),
        *handle.health().checks,
    ]


def _sync_check(chain: ChainStatus, max_blocks_behind: int) -> Check:
    behind = max(0, chain.sync_target - chain.head.height)
    ok = chain.sync_state == "live" and behind <= max_blocks_behind
    return Check(
        f"sync_{chain.spec.name}",
        ok,
        f"{chain.sync_state}, {behind} behind",
        f"live, at most {max_blocks_behind} behind",
        _sync_hint(chain),
    )


def _sync_hint(chain: ChainStatus) -> str:
    name = chain.spec.name
    if chain.sync_state == "stopped":
        return (
            f"{chain.stopped_because}. Only {name} is stopped here; where other nodes stop it as "
            f"well, voters can let it go on: gridtokenx shard show {name}"
        )
    doing = "rebuilding" if chain.sync_state == "rebuilding" else "at"
    return f"{doing} {chain.head.height} of {chain.sync_target}"


def _tip_check(chain: ChainStatus) -> Check:
    age_ms = max(0, time.time_ns() // 1_000_000 - chain.head.time_ms)
    most_ms = max(MIN_TIP_AGE_MS, TIP_AGE_BLOCKS * chain.spec.genesis.block_time_ms)
    return Check(
        f"tip_{chain.spec.name}",
        age_ms <= most_ms,
        f"{age_ms // 1000} s old",
        f"at most {most_ms // 1000} s old",
        "no block is being decided: are two thirds of the validators up?",
    )


def ready_document(found: list[Check]) -> dict[str, Any]:
    """The body of /ready."""
    rows = [
        {
            "name": check.name,
            "ok": check.ok,
            "value": check.value,
            "want": check.want,
            "hint": "" if check.ok else check.hint,
        }
        for check in found
    ]
    return {"ready": all(check.ok for check in found), "checks": rows}


class ReadyCollector(Collector):
    """`gridtokenx_ready{check}` and `gridtokenx_loop_lag_seconds{loop}` at the time of a scrape."""

    def __init__(self, handle: NodeHandle, pulse: Pulse) -> None:
        self._handle = handle
        self._pulse = pulse

    def describe(self) -> list[Metric]:
        """Nothing: registering must not need a running node."""
        return []

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("gridtokenx_ready", "1 for a check that holds", labels=["check"])
        for check in checks(self._handle, self._pulse):
            ready.add_metric([check.name], int(check.ok))
        yield ready
        lag = GaugeMetricFamily(
            "gridtokenx_loop_lag_seconds", "How late a loop ticked last", labels=["loop"]
        )
        for loop, late_ms in self._pulse.lag_ms().items():
            lag.add_metric([loop], late_ms / 1000)
        yield lag
