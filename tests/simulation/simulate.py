"""Simulate consensus (campaigns of seeds, one seed replayed, broken engines hunted) and gossip.

Examples: `--campaign random --seeds 0:2000`; `--campaign twins --seed 7 --trace`; `--mutants`;
`--exhaustive`; `--gossip 1000`. Ends with 1 if an invariant broke, a mutant got away or a message
did not reach everybody. See docs/simulation.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from tests.support.simulator import campaigns, chains_world, exhaustive, mutants
from tests.support.simulator.gossip_links import Loss
from tests.support.simulator.gossip_measure import measure
from tests.support.simulator.gossip_world import AUTHORITIES, LEAST_NODES, Settings
from tests.support.simulator.judge import InvariantError
from tests.support.simulator.tally import Tally


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.gossip:
        return simulate_gossip(options)
    if options.mutants:
        return hunt_mutants(options)
    if options.exhaustive:
        return search_twins(options)
    if options.seed is not None:
        return replay(options)
    return run_campaign(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, examples = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser("scripts/simulate", description=summary, epilog=examples)
    parser.add_argument(
        "--campaign", choices=sorted(campaigns.NAMES), default="random", help="default: random"
    )
    parser.add_argument("--seeds", type=seed_range, default=range(100), help="FIRST:END")
    parser.add_argument("--seed", type=int, help="run this one world")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    parser.add_argument("--mutants", action="store_true", help="every broken engine must be caught")
    parser.add_argument("--only", help="with --mutants: this one")
    parser.add_argument("--exhaustive", action="store_true", help="every small Twins world")
    parser.add_argument(
        "--gossip", type=network_size, metavar="N", help="gossip among N nodes, from --seed [1]"
    )
    parser.add_argument(
        "--loss",
        choices=[loss.value for loss in Loss],
        help="with --gossip: what becomes of the hundredth frame [both, one after the other]",
    )
    parser.add_argument(
        "--dials",
        choices=("regional", "anywhere"),
        default="regional",
        help="with --gossip: half of the dials in the own region, or none on purpose [regional]",
    )
    parser.add_argument(
        "--authorities",
        type=int,
        default=AUTHORITIES,
        help=f"with --gossip: who validates every region, at most a quarter [{AUTHORITIES}]",
    )
    parser.add_argument(
        "--seconds", type=int, default=20, help="with --gossip: of traffic, at least 10 [20]"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(arguments)


def seed_range(text: str) -> range:
    first, _, end = text.partition(":")
    if not (first.isdigit() and end.isdigit()):
        raise argparse.ArgumentTypeError(f"seeds are FIRST:END, like 0:2000, not {text!r}")
    return range(int(first), int(end))


def network_size(text: str) -> int:
    if not text.isdigit() or int(text) < LEAST_NODES:
        raise argparse.ArgumentTypeError(f"a network has {LEAST_NODES} nodes or more, not {text}")
    return int(text)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_campaign(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    tally = Tally(options.campaign)
    for one in campaigns.run(options.campaign, options.seeds, options.jobs):
        tally.add(one)
        for seed, _, told in one.failures:
            if not options.json:
                say(f"{told}\nreplay: scripts/simulate --campaign {tally.campaign} --seed {seed}")
    result = {
        "campaign": tally.campaign,
        "seeds": tally.seeds,
        "violations": len(tally.failures),
        "events": tally.events,
        "heights": tally.heights,
        "crashes": tally.crashes,
        "forks": tally.forks,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(tally.cpu_seconds, 1),
        "events_per_cpu_second": round(tally.events / max(tally.cpu_seconds, 1e-9)),
    }
    if options.json:
        failed = [{"seed": seed, "invariant": name} for seed, name, _ in tally.failures]
        say(json.dumps(result | {"failures": failed}))
    else:
        say(", ".join(f"{name} {value}" for name, value in result.items()))
    return 1 if tally.failures else 0


def replay(options: argparse.Namespace) -> int:
    if options.campaign == chains_world.NAME:
        return replay_chains(options)
    campaign = campaigns.CAMPAIGNS[options.campaign]
    world = campaign.world(options.seed)
    if options.trace:
        world.trace.stream = say
    try:
        campaign.play(world)
    except InvariantError as broken:
        say(broken.summary if options.trace else str(broken))
        return 1
    say(
        f"seed {options.seed}: no violation, {world.events} events, "
        f"{len(world.judge.decided)} heights, hash {world.trace.digest()}"
    )
    return 0


def replay_chains(options: argparse.Namespace) -> int:
    tally = chains_world.run_seed(options.seed, say if options.trace else None)
    for _, _, told in tally.failures:
        say(told)
    if not tally.failures:
        say(f"seed {options.seed}: no violation, {tally.events} steps, {tally.heights} blocks")
    return 1 if tally.failures else 0


def hunt_mutants(options: argparse.Namespace) -> int:
    chosen = [one for one in mutants.MUTANTS if options.only in (None, one.name)]
    rows, escaped = [], 0
    for mutant, caught in mutants.hunt_all(chosen, options.jobs):
        escaped += caught is None
        found = {"mutant": mutant.name, "caught": caught is not None}
        if caught is not None:
            found |= {"invariant": caught.invariant, "seed": caught.seed, "said": caught.summary}
        rows.append(found)
        if not options.json:
            say(_mutant_line(mutant, caught))
    if options.json:
        say(json.dumps({"mutants": len(chosen), "escaped": escaped, "results": rows}))
    else:
        say(f"{len(chosen)} mutants, {len(chosen) - escaped} caught, {escaped} escaped")
    return 1 if escaped or not chosen else 0


def _mutant_line(mutant: mutants.Mutant, caught: mutants.Caught | None) -> str:
    if caught is None:
        return f"{mutant.name:<24} ESCAPED {mutant.seeds} seeds"
    return f"{mutant.name:<24} {caught.invariant:<4} {caught.summary}"


def search_twins(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    total = exhaustive.Coverage()
    for part in exhaustive.run(options.jobs):
        total.add(part)
    result = {
        "schedules": total.schedules,
        "worlds": total.worlds,
        "events": total.events,
        "seconds": round(time.perf_counter() - started, 1),
        "complete": total.schedules == exhaustive.TOTAL_SCHEDULES,
    }
    say(json.dumps(result))
    return 0 if result["complete"] else 1


def simulate_gossip(options: argparse.Namespace) -> int:
    """A network under a thousand orders a second in each region; 1 if a message got lost."""
    lost = 0
    for loss in Loss:
        if options.loss in (None, loss.value):
            seed = 1 if options.seed is None else options.seed
            settings = Settings(
                options.gossip,
                seed,
                loss,
                regional=options.dials == "regional",
                authorities=max(4, options.authorities),
            )
            figures = measure(settings, max(10, options.seconds))
            lost += figures["delivery_ratio"] < 1
            say(json.dumps(figures) if options.json else _gossip_table(figures))
    return 1 if lost else 0


def _gossip_table(figures: dict[str, Any]) -> str:
    rest = {name: value for name, value in figures.items() if name != "kinds"}
    columns = ("messages", "missing", "p50_ms", "p99_ms", "max_ms", "duplicates", "bytes_per_node")
    lines = [f"{'':<15}" + "".join(f"{name:>15}" for name in columns)]
    for kind, row in figures["kinds"].items():
        lines.append(f"{kind:<15}" + "".join(f"{row[name]:>15}" for name in columns))
    return "\n".join([*lines, *(f"{name}: {_plain(value)}" for name, value in rest.items()), ""])


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {one}" for name, one in value.items()) or "none"


if __name__ == "__main__":
    sys.exit(main())
