"""The outcome of phases as a table that fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.hostile_fleet.honest import NEVER_MS
from scripts.hostile_fleet.phases import Outcome

MIB = 1 << 20
NAME_WIDTH = 27
LEGEND = """\
blocks: decided by the slowest node, of each chain; gap: longest wait for a block, s; p50, p99:
honest orders from due to final, ms; mem, kept: what a node grew at most, and still has later, MiB;
fd: descriptors more than before; lag: worst loop of a node, ms; health: probes answered, of the
worst node; MiB, CPU: what the attacker sent, and its seconds."""


def header(chains: Sequence[str]) -> str:
    """The head of the table."""
    names = "".join(f"{name:>4}" for name in chains)
    return (
        f"{'':{NAME_WIDTH}}{names} {'gap':>4} {'p50':>5} {'p99':>5} {'mem':>4} {'kept':>4} "
        f"{'fd':>4} {'lag':>5} {'health':>7} {'MiB':>5} {'CPU':>4}  verdict"
    )


def row(one: Outcome) -> str:
    """A phase in one line."""
    nodes = list(one.nodes.values())
    blocks = "".join(f"{each.decided:>4}" for each in one.blocks.values())
    gap = max(each.longest_gap_s for each in one.blocks.values())
    worst = min(nodes, key=lambda use: use.answered / max(1, use.probes))
    grew = max(use.growth_mib for use in nodes)
    kept = max(use.kept_mib for use in nodes)
    files = max(use.most_files - use.before_files for use in nodes)
    lag = max(use.lag_ms for use in nodes)
    return (
        f"{one.name[: NAME_WIDTH - 1]:{NAME_WIDTH}}{blocks} {gap:4.1f} {_ms(one.finality.p50_ms)} "
        f"{_ms(one.finality.p99_ms)} {grew:4.0f} {kept:4.0f} {files:4d} {lag:5d} "
        f"{worst.answered:>3}/{worst.probes:<3} {one.sent_bytes / MIB:5.0f} "
        f"{one.attacker_cpu_s:4.0f}  {', '.join(one.broken) or 'ok'}"
    )


def _ms(value: int) -> str:
    return "never" if value >= NEVER_MS else f"{value:5d}"
