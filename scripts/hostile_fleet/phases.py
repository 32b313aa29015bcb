"""One phase after the other: nothing, each attack alone, all together; and what each did."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gridtokenx.chain.genesis import Genesis
from gridtokenx.client import Client
from gridtokenx.cluster import watch
from gridtokenx.cluster.processes import Cluster
from scripts.hostile_fleet.honest import Finality, Honest, finality
from scripts.hostile_fleet.measure import (
    Blocks,
    Log,
    NodeUse,
    Watcher,
    blocks_of,
    keeps_pace,
    slowest,
)

ROOT = Path(__file__).resolve().parents[2]
MISSED_A_MINUTE = 1
GROWTH_MIB = 64.0
KEPT_MIB = 32.0  # What an allocator keeps of what it gave out is not kept by the node.
P99_MS = 3_000
WARM_S = 3.0
PROCESSES = 3
RECOVERY_S = 60.0


class FleetError(Exception):
    """The attackers could not do their work, so nothing was measured."""


@dataclass(slots=True)
class Attackers:
    """Processes of attackers, ended by their ids."""

    folder: Path
    names: Sequence[str]
    cpu_s: float = 0.0
    sent_bytes: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    _children: list[subprocess.Popen[str]] = field(default_factory=list)

    def prepare(self) -> None:
        """Start them and wait until all that can be made beforehand is made."""
        for part in _shared_out(self.names, PROCESSES):
            command = [sys.executable, "-m", "scripts.hostile_fleet.attackers"]
            self._children.append(
                subprocess.Popen(
                    [*command, str(self.folder), *part],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the fleet, which ends them.
                )
            )
        for child in self._children:
            if _read(child).strip() != "ready":
                raise FleetError("an attacking process ended before it began")

    def go(self) -> None:
        """Attack."""
        self._tell("go")

    def stop(self) -> None:
        """Attack no more, and say what it took."""
        self._tell("stop")
        for child in self._children:
            line = _read(child)
            if not line:
                raise FleetError("an attacking process ended by itself")
            report = json.loads(line)
            self.cpu_s += report["cpu_s"]
            for name, one in report["attacks"].items():
                self.sent_bytes += one["sent_bytes"]
                self.outcomes[name] = one["outcomes"]
        self.kill()

    def kill(self) -> None:
        """End every process that is left."""
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # What was still to be said to it.
                    pipe.close()
        self._children.clear()

    def _tell(self, word: str) -> None:
        for child in self._children:
            assert child.stdin is not None
            try:
                child.stdin.write(word + "\n")
                child.stdin.flush()
            except BrokenPipeError:
                raise FleetError("an attacking process ended by itself") from None


def _read(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def _shared_out(names: Sequence[str], processes: int) -> list[list[str]]:
    parts = [list(names[at::processes]) for at in range(min(processes, len(names)))]
    return [part for part in parts if part]


@dataclass(slots=True)
class Outcome:
    """What one phase did to the cluster, and what it cost the attacker."""

    name: str
    seconds: float
    blocks: dict[str, Blocks]
    finality: Finality
    nodes: dict[str, NodeUse]
    faults: list[str]
    sent_bytes: int
    attacker_cpu_s: float
    attacks: dict[str, dict[str, int]]
    recovery_s: float
    broken: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def judge(self, quiet: Outcome) -> None:
        """Which goals the phase broke, against the quiet one."""
        allowed = MISSED_A_MINUTE * max(1.0, self.seconds / 60)
        for chain, one in self.blocks.items():
            expected = quiet.blocks[chain].decided * self.seconds / quiet.seconds
            if one.decided < expected - allowed:
                self.broken.append(f"blocks of {chain}")
        calm_mib = max(0.0, *(one.growth_mib for one in quiet.nodes.values()))
        nodes = self.nodes.values()
        failed = [each for counts in self.attacks.values() for each in counts if "FAILED" in each]
        wrong = {
            "died": any(use.died for use in nodes),
            "memory": any(use.growth_mib - calm_mib > GROWTH_MIB for use in nodes),
            "memory kept": any(use.kept_mib - calm_mib > KEPT_MIB for use in nodes),
            "health": any(use.answered < use.probes for use in nodes),
            "p99": self.finality.p99_ms > P99_MS,
            "no recovery": self.recovery_s >= RECOVERY_S,
            "refused": self.finality.refused > 0,
            "log": bool(self.faults),
            "attack failed": bool(failed),
        }
        self.broken += [name for name, is_so in wrong.items() if is_so]


class Phases:
    """Runs phases on one cluster, each with honest traders of its own."""

    def __init__(
        self, cluster: Cluster, genesis: Genesis, *, orders_per_s: float, settle_s: float
    ) -> None:
        self._cluster, self._genesis = cluster, genesis
        self._orders_per_s, self._settle_s = orders_per_s, settle_s
        self._next_account = 0
        self._block_s = genesis.block_time_ms / 1_000

    def run(self, name: str, attacks: Sequence[str], seconds: float) -> Outcome:
        """One phase. Errors: FleetError; ClusterError when the cluster does not come back."""
        self._restore()
        with ExitStack() as ending:
            attackers = Attackers(self._cluster.folder, attacks)
            ending.callback(attackers.kill)
            attackers.prepare()
            honest = Honest(self._cluster.members, self._genesis, self._orders_per_s)
            clients = {
                member.name: ending.enter_context(Client(member.api_url, timeout_s=60))
                for member in self._cluster.members
            }
            asked = clients[self._cluster.members[-1].name]
            self._next_account = honest.enrol(
                asked, self._next_account, seconds + WARM_S + 5 * self._block_s
            )
            logs = {
                member.name: Log(self._cluster.log_path(member.name))
                for member in self._cluster.members
            }
            honest.start()
            ending.callback(honest.stop)
            time.sleep(WARM_S)
            watcher = Watcher(self._cluster)
            watcher.begin()
            began = time.time()
            attackers.go()
            # Two blocks more: windows of blocks end half a block after the last one begins.
            time.sleep(seconds + 2 * self._block_s)
            attackers.stop()
            watcher.end()
            honest.stop()
            final = finality(
                clients.__getitem__,
                honest,
                lambda node: logs[node].decided(),
                (began, began + seconds),
                self._settle_s,
            )
            watcher.settle(self._settle_s, KEPT_MIB / 2)
            return Outcome(
                name,
                seconds,
                self._blocks(logs, began, seconds),
                final,
                watcher.use,
                [fault for log in logs.values() for fault in log.faults()],
                attackers.sent_bytes,
                round(attackers.cpu_s, 2),
                attackers.outcomes,
                self._recover(),
            )

    def _blocks(self, logs: dict[str, Log], began: float, seconds: float) -> dict[str, Blocks]:
        decided = {name: log.decided() for name, log in logs.items()}
        return {
            chain: slowest(
                [
                    blocks_of(sorted(one.get(chain, {}).values()), began, seconds, self._block_s)
                    for one in decided.values()
                ]
            )
            for chain in self._genesis.chain_names
        }

    def _restore(self) -> None:
        """Start again what an earlier phase ended, and wait until the cluster is whole."""
        for member in self._cluster.members:
            if not self._cluster.is_running(member.name):
                self._cluster.start(member.name)
        watch.wait_ready(self._cluster)

    def _recover(self) -> float:
        """Seconds until every chain keeps its pace again on every node; the phase's last word."""
        began = time.monotonic()
        logs = [Log(self._cluster.log_path(member.name)) for member in self._cluster.members]
        while (passed := time.monotonic() - began) < RECOVERY_S:
            decided = [one.decided() for one in logs]
            paced = [
                keeps_pace(sorted(one.get(chain, {}).values()), self._block_s)
                for one in decided
                for chain in self._genesis.chain_names
            ]
            if all(paced):
                break
            time.sleep(self._block_s / 2)
        return round(passed, 1)
