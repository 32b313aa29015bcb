"""What a campaign came to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """What a range of seeds came to. `failures`: (seed, invariant, the last hundred events)."""

    campaign: str
    seeds: int = 0
    events: int = 0
    heights: int = 0
    crashes: int = 0
    forks: int = 0
    cpu_seconds: float = 0.0
    failures: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.events += other.events
        self.heights += other.heights
        self.crashes += other.crashes
        self.forks += other.forks
        self.cpu_seconds += other.cpu_seconds
        self.failures += other.failures
