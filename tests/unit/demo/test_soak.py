"""The soak's faults come from the seed, its verdict from what nodes use."""

from __future__ import annotations

from itertools import islice

import pytest

from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.cluster.devnet import AUTHORITIES
from gridtokenx.demo import households, soak
from gridtokenx.demo.measures import Usage, trend, trends
from gridtokenx.primitives.quantities import SLOT_MS

NAMES = [f"n{index}" for index in range(len(AUTHORITIES) + soak.OBSERVERS)]
MINUTE_S = 60.0


def series(values: list[float]) -> list[tuple[float, float]]:
    return [(number * MINUTE_S, value) for number, value in enumerate(values)]


def test_a_seed_fixes_the_faults_and_every_kind_comes() -> None:
    first, second = (list(islice(soak.plan(5, NAMES), 60)) for _ in range(2))
    assert first == second
    assert first != list(islice(soak.plan(6, NAMES), 60))
    assert {fault.kind for fault in first} == {"kill", "pause", "partition", "delay"}
    for fault in first:
        assert set(fault.names) <= set(NAMES)
        assert (fault.delay_ms > 0) == (fault.kind == "delay")
        if fault.kind == "kill":
            assert fault.names[0] not in soak.STEADY
        if fault.kind == "partition":  # Both sides have somebody.
            assert 0 < len(fault.names) < len(NAMES)


def test_what_fills_and_then_stays_is_flat_and_what_climbs_is_not() -> None:
    filling = [100.0 + min(number, 14) * 10 for number in range(30)]
    climbing = [100.0 + number * 2 for number in range(30)]
    level = trend("rss", series(filling), relative=0.04, absolute=8)
    slope = trend("rss", series(climbing), relative=0.04, absolute=8)
    assert level is not None
    assert slope is not None
    assert (level.flat, level.growth) == (True, 0.0)
    assert (slope.flat, slope.growth, slope.per_hour) == (False, 18.0, 120.0)


# What n3 had after each minute of half an hour at 30 orders a second, while the others were killed,
# cut off and paused.
LEVEL_IN_THE_END = [
    143, 153, 163, 159, 167, 177, 173, 180, 186, 186, 193, 200, 189, 196, 203,
    204, 207, 215, 209, 211, 216, 216, 219, 218, 217, 215, 213, 215, 217, 216,
]  # fmt: skip


@pytest.mark.parametrize(("leak_kb", "is_flat"), [(0, True), (0.2, True), (1, False), (2, False)])
def test_a_leak_of_a_kilobyte_an_order_is_told_from_noise(leak_kb: float, is_flat: bool) -> None:
    orders_per_minute = 30 * MINUTE_S
    rows = [
        Usage(
            at_s=minute * MINUTE_S, pid=1, rss_mib=rss + minute * orders_per_minute * leak_kb / 1024
        )
        for minute, rss in enumerate(LEVEL_IN_THE_END)
    ]
    (line,) = trends(rows)
    assert (line.what, line.flat) == ("rss_mib", is_flat), line


def test_a_short_run_says_nothing() -> None:
    assert trend("rss", series([1.0] * 5), relative=0, absolute=0) is None
    close = [(number / 10, 1.0) for number in range(100)]
    assert trend("rss", close, relative=0, absolute=0) is None


def test_rows_of_a_frozen_node_are_left_out() -> None:
    rows = [
        Usage(at_s=number * MINUTE_S, pid=1, rss_mib=150, tasks=None if number % 3 else 80)
        for number in range(60)
    ]
    assert [(line.what, line.mean, line.flat) for line in trends(rows)] == [
        ("rss_mib", 150.0, True),
        ("tasks", 80.0, True),
    ]


def test_bytes_per_block_of_all_chains_together() -> None:
    rows = [
        Usage(at_s=0, pid=1, disk_mib=1.0, heights={"MET": 10, "NOR": 10}),
        Usage(at_s=9, pid=1, disk_mib=1.5),
        Usage(at_s=60, pid=1, disk_mib=3.0, heights={"MET": 110, "NOR": 110}),
    ]
    assert soak.bytes_per_block(rows) == round(2 * (1 << 20) / 200)
    assert soak.bytes_per_block(rows[1:]) is None


@pytest.mark.parametrize("name", ["MET", "NOR", "NEA"])
def test_households_of_a_chain_buy_and_sell_at_its_places(name: str) -> None:
    genesis = soak.soak_genesis(1_800_000_000_000)
    spec: ChainSpec = genesis.chain(name)
    members = households.households(spec, 8)
    prefixes = {territory.prefix for territory in spec.territories}
    assert {one.location[:3] for one in members} == prefixes
    assert len({one.owner.public_key for one in members}) == 8
    slot = spec.market_time_ms(100, 0) // SLOT_MS
    sell, buy = (members[number].order(slot, 0) for number in (0, 1))
    assert sell.limit_mthb < buy.limit_mthb
    assert sell.first_slot == sell.last_slot == buy.first_slot == slot


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--rate", "81"], ["--minutes", "0"]])
def test_limits_are_told_before_anything_starts(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        soak.main(wrong)
    assert f"{wrong[0]} is" in capsys.readouterr().err
