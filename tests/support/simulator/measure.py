"""What the engine costs: CPU inside `handle`, with real signatures, in a calm network."""

from __future__ import annotations

import time

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Effect, Event
from tests.support.simulator.world import Setup, World


class TimedEngine(Engine):
    """Adds up what all engines of the process use."""

    cpu_seconds = 0.0

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        started = time.process_time()
        effects = super().handle(event, now_ms)
        TimedEngine.cpu_seconds += time.process_time() - started
        return effects


def engine_seconds_per_height(validators: int, heights: int) -> float:
    """CPU seconds that one engine of `validators` spends on a height, on average."""
    world = World(1, Setup(weights=(1,) * validators, engine_class=TimedEngine, real=True))
    world.run_until(lambda: world.lowest() >= 1)  # Warm caches.
    before, TimedEngine.cpu_seconds = world.lowest(), 0.0
    world.run_until(lambda: world.lowest() >= before + heights)
    done = world.lowest() - before
    return TimedEngine.cpu_seconds / validators / done
