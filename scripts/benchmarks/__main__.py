"""What the node can do on this machine, as JSON lines, each beside its physical limit.

Every line has `bench`, its figures, `limit` (Ed25519 verifications per second on one core, measured
in the same run) and `ratio`, the figure that matters divided by that limit; those of `state` count
bytes and those of `regions` compare rows with each other: they have neither. Nothing here asserts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gridtokenx.chain.transaction import Transaction, decode_transaction
from gridtokenx.chain.transition import propose_block
from gridtokenx.primitives.crypto import SigningKey, sha256, verify
from gridtokenx.registry.model import Generation
from gridtokenx.trading.clearing import clear
from gridtokenx.trading.model import ClearingOrder, Side, Source

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Orders = Annotated[int, typer.Option(help="How many orders.")]


def report(bench: str, limit: float, ratio: float, **figures: object) -> None:
    """One line on stdout."""
    write(bench=bench, **figures, limit_verifies_per_s=round(limit), ratio=ratio)


def write(**figures: object) -> None:
    """A line without a limit: what counts bytes needs none."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def verifies_per_second(seconds: float = 1.0) -> float:
    """The limit: a 200-byte message and one core."""
    key = SigningKey(sha256(b"bench"))
    message = bytes(200)
    signature = key.sign(message)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(100):
            verify(key.public_key, message, signature)
        count += 100
    return count / (time.perf_counter() - started)


def cpu_seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """The best of several runs, in CPU seconds."""
    best = float("inf")
    for _ in range(repeat):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


@app.command()
def crypto() -> None:
    """Ed25519 verifications and SHA-256 per second on one core."""
    limit = verifies_per_second(2.0)
    key = SigningKey(sha256(b"bench"))
    signs = 1 / cpu_seconds(lambda: key.sign(bytes(200)))
    hashes = 10_000 / cpu_seconds(lambda: [sha256(bytes(64)) for _ in range(10_000)])
    report("crypto", limit, 1.0, signs_per_s=round(signs), hashes_per_s=round(hashes))


@app.command("clear")
def clear_(orders: Orders = 10_000) -> None:
    """One slot of one territory, all tiers: 50 substations in 5 zones."""
    limit = verifies_per_second()
    book = [_resting(number) for number in range(orders)]
    wheeling = (300, 600, 900, 1151)
    seconds = cpu_seconds(lambda: clear(book, wheeling_mthb=wheeling))
    fills = len(clear(book, wheeling_mthb=wheeling).fills)
    figures = {"orders": orders, "fills": fills, "cpu_ms": round(seconds * 1000, 1)}
    report("clear", limit, round(orders / seconds / limit, 2), **figures)


def _resting(number: int) -> ClearingOrder:
    digest = sha256(number.to_bytes(4, "big"))
    spread = int.from_bytes(digest[:4], "big")
    side = Side.BUY if number % 2 else Side.SELL
    base = 3300 if side is Side.BUY else 2300
    return ClearingOrder(
        id=digest,
        owner=digest,
        side=side,
        energy_wh=500 + spread % 5000,
        limit_mthb=base + spread % 1500,
        location=f"BKK-{spread % 5 + 1:02d}-SUB{spread // 5 % 10 + 1:03d}",
        source=Source.ANY if side is Side.BUY else Source.SOLAR,
        require=False,
        height=1 + spread % 20,
    )


@app.command()
def market(
    book: Annotated[
        int,
        typer.Option(help="Resting orders; over 96 slots and 3 territories, then in one of each."),
    ] = 100_000,
    touch: Annotated[int, typer.Option(help="Orders that the block before has added.")] = 100,
    slot_orders: Annotated[int, typer.Option(help="Orders of one slot and territory.")] = 10_000,
) -> None:
    """A block's market work on a deep book in RocksDB, and with one crowded slot."""
    from scripts.benchmarks.market import measure, measure_slot

    limit = verifies_per_second()
    for slots in (96, 1):
        deep = measure(book, touch, slots)
        ratio = round(touch / deep.begin_ms * 1000 / limit, 3)
        figures = asdict(deep)
        report("market_touch", limit, ratio, book=book, slots=slots, touch=touch, **figures)
    crowded = measure_slot(slot_orders)
    ratio = round(slot_orders / crowded.begin_ms * 1000 / limit, 3)
    report("market_slot", limit, ratio, orders=slot_orders, **asdict(crowded))


@app.command()
def hostile(
    runs: Annotated[int, typer.Option(help="Runs of each, the best of them counts.")] = 5,
) -> None:
    """600 orders over 96 slots that only wish for a source that is not there, and that require it.

    The last line's `ratio` is what a block's start pays for the hostile book by the plain one.
    """
    from scripts.benchmarks.market import measure_hostile

    books = {"plain": False, "hostile": True}
    best: dict[str, float] = {}
    for _ in range(runs):  # In turns, so that both see the same machine.
        for book, required in books.items():
            figures = measure_hostile(required)
            best[book] = min(best.get(book, figures.begin_ms), figures.begin_ms)
            write(bench="hostile", book=book, orders=600, **asdict(figures))
    ratio = round(best["hostile"] / best["plain"], 2)
    write(bench="hostile", plain_ms=best["plain"], hostile_ms=best["hostile"], ratio=ratio)


@app.command()
def execute(orders: Orders = 10_000) -> None:
    """A block of orders: decode, verify, apply with all roots, write to RocksDB."""
    from gridtokenx.storage.database import BlockWrite, Database
    from tests.support.market_world import MarketWorld

    limit = verifies_per_second()
    world = MarketWorld()
    raws = _order_bytes(world, orders)
    transactions: list[Transaction] = []
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        started = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - started
        return result

    timed("decode", lambda: transactions.extend(map(decode_transaction, raws)))
    timed("verify", lambda: [transaction.is_signed() for transaction in transactions])
    execution, refused = timed(  # type: ignore[misc]
        "apply",
        lambda: propose_block(
            world.spec,
            world.values,
            world.tree,
            world.parent,
            view=0,
            proposer_index=0,
            time_ms=world.spec.opens_ms(world.parent.time_ms),
            candidates=transactions,
            last_commit=b"",
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder))
        header = execution.block.header
        write = BlockWrite(
            header.height,
            header.hash,
            execution.block.encoded,
            b"",
            tuple(transaction.id for transaction in transactions),
            list(execution.changes),
        )
        timed("write", lambda: database.chain("MET").write_block(write))
        database.close()
    total = sum(seconds.values())
    per_order = {f"{name}_us": round(value / orders * 1e6, 1) for name, value in seconds.items()}
    report(
        "execute",
        limit,
        round(orders / total / limit, 3),
        orders=orders,
        refused=len(refused),
        seconds=round(total, 3),
        orders_per_s=round(orders / total),
        **per_order,
    )


@app.command()
def halt(
    traders: Annotated[int, typer.Option(help="Half sell, half buy, in every slot.")] = 10_000,
    hours: Annotated[
        list[int] | None, typer.Option(help="Standstills in hours; 3, 24 and 168.")
    ] = None,
    mode: Annotated[str, typer.Option(help="block, or gate.")] = "block",
) -> None:
    """Blocks' own work after a standstill, with its encoding and state tree, until all is done.

    No meter is read afterwards: every trade is settled at its deadline, which is the most work.
    """
    from gridtokenx.trading.model import MatchingMode
    from scripts.benchmarks.halt import measure

    limit = verifies_per_second()
    for figures in measure(traders, hours or [3, 24, 168], MatchingMode(mode)):
        ratio = round(1000 / max(float(str(figures["worst_block_cpu_ms"])), 0.1) / limit, 5)
        report("halt", limit, ratio, traders=traders, **figures)


@app.command()
def cluster(
    rate: Annotated[int, typer.Option(help="Orders submitted per second.")] = 1_000,
    seconds: Annotated[int, typer.Option(help="For how long.")] = 120,
    block_time_ms: Annotated[int, typer.Option(help="Block time.")] = 10_000,
) -> None:
    """Four validators as processes, orders by JSON-RPC batches to all of them."""
    from scripts.benchmarks.cluster import run

    limit = verifies_per_second()
    result = run(orders_per_s=rate, seconds=seconds, block_time_ms=block_time_ms)
    figures = asdict(result)
    ratio = round(result.sustained_per_s / limit, 4)
    report("cluster", limit, ratio, block_time_ms=block_time_ms, rate=rate, **figures)


@app.command()
def regions(
    number: Annotated[
        list[int] | None, typer.Option("--regions", help="Regions, once each; 1, 2, 3 and then 5.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measured time of each.")] = 30.0,
    rate: Annotated[int, typer.Option(help="Orders a second in each region, at most 80.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, no table.")] = False,
) -> None:
    """What a node of one region pays while regions are added that it does not serve."""
    from scripts.benchmarks import regions as bench

    rows = []
    for count in number or [1, 2, 3, 5]:
        rows.append(bench.measure(count, seconds, rate))
        if as_json:
            write(bench="regions", block_time_ms=bench.BLOCK_TIME_MS, **asdict(rows[-1]))
    if not as_json:
        bench.print_table(rows)


@app.command()
def flood(
    transactions: Annotated[int, typer.Option(help="Of the one key.")] = 90_000,
    seconds: Annotated[
        int, typer.Option(help="Before the flood; it may last five times that.")
    ] = 30,
    rate: Annotated[int, typer.Option(help="Honest orders a second.")] = 20,
) -> None:
    """One key floods four validators while honest traders send orders: who waits, and who pays."""
    from scripts.benchmarks.flood import run

    result = run(flood=transactions, seconds=seconds, orders_per_s=rate)
    write(bench="flood", **asdict(result))


@app.command()
def gossip(
    nodes: Annotated[list[int] | None, typer.Option(help="Processes; 4 and then 16.")] = None,
    messages: Annotated[int, typer.Option(help="Orders of 200 bytes.")] = 200,
    batches: Annotated[int, typer.Option(help="Batches of 1 MB, each one message.")] = 20,
) -> None:
    """Propagation between node processes over real libp2p on loopback, beside one raw stream.

    A 200-byte order each 20 ms, then a batch of 1,000,000 bytes (the limit is 1 MiB) each second,
    then ten such batches at once for the bytes per second.
    """
    from scripts.benchmarks import gossip_processes as bench

    limit = verifies_per_second()
    for count in nodes or [4, 16]:
        with bench.start(count) as processes:
            raw = bench.raw_bytes_per_s(processes)
            for size, number, pause_s in ((200, messages, 0.02), (1_000_000, batches, 1.0)):
                figures = asdict(bench.measure(processes, size, number, pause_s))
                ratio = round(1_000 / figures["cpu_ms"] / limit, 4)
                report("gossip", limit, ratio, nodes=count, **figures)
            burst = asdict(bench.measure(processes, 1_000_000, 10, 0.0))
            to_raw = round(burst["bytes_per_s"] / raw, 3)
            figures = {**burst, "raw_bytes_per_s": round(raw), "ratio_to_raw": to_raw}
            report("gossip_burst", limit, to_raw, nodes=count, **figures)


@app.command()
def gossip_cpu(
    message_bytes: Annotated[int, typer.Option(help="Size of a message.")] = 200,
    messages: Annotated[int, typer.Option(help="How many.")] = 200,
    nodes: Annotated[int, typer.Option(help="Nodes in one process.")] = 4,
    per_second: Annotated[float, typer.Option(help="Messages a second.")] = 100.0,
) -> None:
    """The same with all nodes in one process, for the CPU per message and node and for profiles."""
    import trio

    from scripts.benchmarks.gossip import measure

    limit = verifies_per_second()
    work = partial(measure, message_bytes, messages, nodes=nodes, pause_s=1 / per_second)
    figures = asdict(trio.run(work))
    report("gossip_cpu", limit, round(1_000 / figures["cpu_ms"] / limit, 4), **figures)


def _order_bytes(world: object, orders: int) -> list[bytes]:
    """Canonical signed orders of `orders / 10` households, which are registered here."""
    from tests.support.market_world import MarketWorld

    assert isinstance(world, MarketWorld)
    houses = [
        world.household(
            f"house {number}",
            location=f"BKK-{number % 5 + 1:02d}-SUB{number // 5 % 10 + 1:03d}",
            source=Generation.SOLAR if number % 2 else Generation.NONE,
            baht=100_000,
        )
        for number in range(max(1, orders // 10))
    ]
    world.block()
    slot = world.slot + 5
    for number in range(orders):
        house = houses[number % len(houses)]
        selling = house.source is not Generation.NONE
        side, limit = (Side.SELL, 2300) if selling else (Side.BUY, 3600)
        world.send(house.key, world.order(house, side, 1000, limit + number % 900, slot))
    raws = [transaction.encoded for transaction in world.waiting]
    world.waiting = []
    return raws


@app.command()
def consensus() -> None:
    """Engine CPU per height of one of 4, 8, 20 and 60 validators, with real signatures.

    A height has two votes of everybody else to verify; a ratio of 1 would be nothing but that.
    """
    from tests.support.simulator.measure import engine_seconds_per_height

    limit = verifies_per_second()
    for validators, heights in ((4, 40), (8, 20), (20, 8), (60, 2)):
        seconds = engine_seconds_per_height(validators, heights)
        votes = 2 * (validators - 1)
        figures = {"validators": validators, "cpu_ms_per_height": round(seconds * 1000, 2)}
        report("consensus", limit, round(votes / seconds / limit, 3), **figures)


@app.command()
def tally(
    voters: Annotated[int, typer.Option(help="Accounts that vote.")] = 10_000,
    delegations: Annotated[int, typer.Option(help="Validators each bonds to, at most 32.")] = 32,
) -> None:
    """Ballots and the end of a vote, then blocks full of stake that leaves or moves.

    `ratio` is ballots cast in a second by the limit; the other lines have none.
    """
    from scripts.benchmarks.stake import measure

    limit = verifies_per_second()
    for figures in measure(voters, delegations):
        if figures["what"] == "tally":
            ratio = round(1e6 / figures["cast_us_a_ballot"] / limit, 3)
            report("tally", limit, ratio, **figures)
        else:
            write(bench="tally", **figures)


@app.command()
def state() -> None:
    """Bytes of state, index and block for each participant, order, trade, reading and block."""
    from scripts.benchmarks.state import empty_block_bytes, measure

    for name, figures in measure().items():
        write(bench="state", kind=name, **figures)
    for validators in (4, 8, 20, 60):
        size = empty_block_bytes(validators)
        write(bench="state", kind="empty_block", validators=validators, block_bytes=size)


if __name__ == "__main__":
    app()
