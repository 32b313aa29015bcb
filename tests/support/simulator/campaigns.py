"""Families of worlds, one per seed, and the loop that runs many of them."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.validators import ValidatorSet
from tests.support.simulator import chains_world
from tests.support.simulator.adversaries import (
    LIARS,
    Amnesiac,
    DoubleVoter,
    Equivocator,
    Liar,
    LockIgnorer,
)
from tests.support.simulator.chain import slots
from tests.support.simulator.judge import InvariantError
from tests.support.simulator.network import Faults, HideCommit, Network
from tests.support.simulator.tally import Tally
from tests.support.simulator.world import Setup, World

COMMITTEES = ((1, 1, 1, 1), (1, 1, 1, 1), (3, 1, 1, 2), (1,) * 7, (5, 4, 3, 3, 2, 2, 1))
PRODUCTION = Timing(base_ms=5000, resend_ms=1000, build_ahead_ms=1500)


def some_liars(draw: random.Random, weights: Sequence[int]) -> dict[int, type[Liar]]:
    """As many as fit below a third of the weight, or fewer."""
    liars: dict[int, type[Liar]] = {}
    weight = 0
    for index in draw.sample(range(len(weights)), len(weights)):
        if 3 * (weight + weights[index]) < sum(weights) and draw.random() < 0.6:
            liars[index] = draw.choice(LIARS)
            weight += weights[index]
    return liars


def chaos(seed: int) -> Setup:
    """Everything that can go wrong with a committee, at random rates."""
    draw = random.Random(seed)
    weights = draw.choice(COMMITTEES)
    faults = Faults(
        loss=draw.choice((0.0, 0.05, 0.2, 0.4)),
        duplicate=0.1,
        mean_delay_ms=draw.choice((20.0, 100.0, 600.0)),
        partition=draw.choice((0.0, 0.2)),
        drop_kind=draw.choice((0.0, 0.0, 0.2)),
        swallow=draw.random() < 0.2,
        crash=draw.choice((0.0, 0.002, 0.01)),
        blackout=draw.choice((0.0, 0.0, 0.05)),
        lose_record=draw.choice((0.0, 0.1)),
    )
    skewed = draw.random() < 0.2
    return Setup(
        weights=weights,
        liars=some_liars(draw, weights) if draw.random() < 0.6 else {},
        faults=faults,
        calm_ms=draw.choice((10_000, 20_000, 40_000)),
        skews_ms={draw.randrange(len(weights)): draw.choice((-400, 300))} if skewed else {},
    )


def hide_commit(seed: int) -> Setup:
    """One node decides and disappears; a leader that ignores locks offers another block."""
    draw = random.Random(seed)
    return Setup(
        liars={draw.randrange(4): draw.choice((LockIgnorer, _ForgetfulPair, DoubleVoter))},
        faults=Faults(loss=0.02, mean_delay_ms=50.0),
        network=HideCommit,
        calm_ms=30_000,
    )


def twins(seed: int) -> Setup:
    """One or two members run two processes each, under changing partitions."""
    draw = random.Random(seed)
    members = draw.choice((4, 4, 4, 7))
    return Setup(
        weights=(1,) * members,
        twins=tuple(draw.sample(range(members), (members - 1) // 3)),
        faults=Faults(loss=0.05, mean_delay_ms=50.0, partition=0.6),
        calm_ms=9_000,
    )


def exact_third(seed: int) -> Setup:
    """Liars with exactly a third of the weight: they may stop the chain, not fork it."""
    draw = random.Random(seed)
    weights, guilty = draw.choice((((1, 1, 1), 1), ((1,) * 6, 2), ((2, 1, 1, 1, 1), 1)))
    heavy = weights[0] > 1
    chosen = (0,) if heavy else tuple(draw.sample(range(len(weights)), guilty))
    doubled = draw.random() < 0.7
    kinds = (DoubleVoter, LockIgnorer, Amnesiac)
    return Setup(
        weights=weights,
        twins=chosen if doubled else (),
        liars={} if doubled else {index: draw.choice(kinds) for index in chosen},
        faults=Faults(loss=0.05, mean_delay_ms=50.0, partition=0.6),
        calm_ms=9_000,
    )


def over_third(seed: int) -> Setup:
    """Two of four lie. They can fork the chain; then the evidence must name them (I10)."""
    draw = random.Random(seed)
    chosen = tuple(draw.sample(range(4), 2))
    doubled = draw.random() < 0.5
    kinds = (_ForgetfulPair, _ForgetfulPair, DoubleVoter, Equivocator)
    return Setup(
        twins=chosen if doubled else (),
        liars={} if doubled else {index: draw.choice(kinds) for index in chosen},
        faults=Faults(loss=0.05, mean_delay_ms=50.0, partition=0.6),
        network=Network if doubled else HideCommit,
        calm_ms=15_000,
        expects_fork=True,
    )


class _ForgetfulEngine(LockIgnorer.engine_class, Amnesiac.engine_class):  # type: ignore[misc]
    """Ignores its lock as leader and hides it when it leaves a view."""


class _ForgetfulPair(Liar):
    engine_class = _ForgetfulEngine


def paced(seed: int) -> Setup:
    """Production's timing, ten-second slots, eight nodes, real signatures and encoding."""
    draw = random.Random(seed)
    faults = Faults(
        loss=draw.choice((0.0, 0.05)),
        mean_delay_ms=draw.choice((20.0, 200.0)),
        crash=draw.choice((0.0, 0.001)),
        partition=draw.choice((0.0, 0.05)),
    )
    return Setup(
        weights=(1,) * 8,
        liars=some_liars(draw, (1,) * 8) if draw.random() < 0.5 else {},
        faults=faults,
        timing=PRODUCTION,
        opens=slots(10_000),
        observe_ms=60_000,
        calm_ms=240_000,
        real=True,
    )


@dataclass(frozen=True)
class Campaign:
    """`live`: whether progress is owed after calm."""

    name: str
    setup: Callable[[int], Setup]
    live: bool = True

    def world(
        self,
        seed: int,
        engine_class: type[Engine] = Engine,
        set_class: type[ValidatorSet] = ValidatorSet,
    ) -> World:
        setup = self.setup(seed)
        setup.engine_class, setup.set_class = engine_class, set_class
        return World(seed, setup)

    def play(self, world: World) -> World:
        """Run a world to its end. Raises InvariantError."""
        if self.live:
            return world.run()
        world.suffer(world.setup.calm_ms + 5_000)
        if world.judge.forked_at is not None:
            world.judge.fork_is_attributed()
        return world


CAMPAIGNS = {
    campaign.name: campaign
    for campaign in (
        Campaign("random", chaos),
        Campaign("hide-commit", hide_commit),
        Campaign("twins", twins),
        Campaign("exact-third", exact_third, live=False),
        Campaign("over-third", over_third, live=False),
        Campaign("paced", paced),
    )
}
NAMES = (*CAMPAIGNS, chains_world.NAME)  # That one has several chains and no consensus.


def run_seed(name: str, seed: int) -> Tally:
    """One world, start to end; a violation is a result, not an error."""
    if name == chains_world.NAME:
        return chains_world.run_seed(seed)
    started = time.process_time()
    campaign = CAMPAIGNS[name]
    world = campaign.world(seed)
    tally = Tally(name, seeds=1)
    try:
        campaign.play(world)
    except InvariantError as broken:
        tally.failures.append((seed, broken.invariant, str(broken)))
    tally.events, tally.crashes = world.events, world.crashes
    tally.heights = len(world.judge.decided)
    tally.forks = int(world.judge.forked_at is not None)
    tally.cpu_seconds = time.process_time() - started
    return tally


def _run_one(task: tuple[str, int]) -> Tally:
    return run_seed(*task)


def run(name: str, seeds: range, jobs: int = 1) -> Iterator[Tally]:
    """Tallies of single seeds, in no particular order with several jobs."""
    tasks = [(name, seed) for seed in seeds]
    if jobs == 1:
        yield from map(_run_one, tasks)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_one, tasks, chunksize=8)
