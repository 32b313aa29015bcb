"""Who may call a clock wrong: validators with a third of the weight who agree, and nobody else."""

from __future__ import annotations

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gridtokenx.chain.transition import MAX_TIME_AHEAD_MS
from gridtokenx.node.clock_watch import ClockWatch
from gridtokenx.node.witnesses import (
    FRESH_S,
    SLOW_MS,
    Opinion,
    Sample,
    judge,
    offset_ms,
    sample,
)
from gridtokenx.primitives.validators import Validator, ValidatorSet

MOST_MS = 2_000
NOW_MS = 1_800_000_000_000
ME = b"a" * 32


def key(name: str) -> bytes:
    return name.encode() * 32


def members(**weights: int) -> ValidatorSet:
    return ValidatorSet.of(Validator(key(name), weight) for name, weight in weights.items())


FOUR = members(a=1, b=1, c=1, d=1)


def opinion(said: dict[str, int], among: ValidatorSet = FOUR, me: bytes | None = ME) -> Opinion:
    return judge(among, me, {key(name): offset for name, offset in said.items()}, MOST_MS)


# -- Samples ---------------------------------------------------------------------------------------


def test_a_sample_is_of_the_middle_of_the_round_trip() -> None:
    taken = sample(NOW_MS, asked_s=10.0, answered_s=10.4)
    assert taken == Sample(NOW_MS - 10_200, 10.4)
    assert offset_ms([taken], NOW_MS - 10_000, now_s=11.0) == -200


def test_a_slow_or_an_old_answer_tells_nothing() -> None:
    assert sample(NOW_MS, 10.0, 10.0 + SLOW_MS / 1_000 + 0.01) is None
    old = Sample(NOW_MS, 10.0)
    assert offset_ms([old], NOW_MS, 10.0 + FRESH_S) == 0
    assert offset_ms([old], NOW_MS, 10.1 + FRESH_S) is None
    assert offset_ms([], NOW_MS, 10.0) is None


def test_of_several_peers_of_one_key_the_nearest_counts() -> None:
    """A node and its stand-in: one that is off says nothing about us."""
    assert offset_ms([Sample(NOW_MS + 9_000, 1), Sample(NOW_MS - 30, 1)], NOW_MS, 2) == -30


def test_a_step_of_our_own_clock_shows_in_the_samples_at_once() -> None:
    taken = [Sample(NOW_MS, 10.0)]
    assert offset_ms(taken, NOW_MS + 3_600_000, 11.0) == -3_600_000


# -- Judging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Opinion()),
        ({"x": 9_000, "y": 9_000, "z": 9_000}, Opinion()),  # No members.
        ({"a": 9_000}, Opinion()),  # Another node with our key.
        ({"b": 9_000}, Opinion(0, 1)),  # One word against ours.
        ({"b": 9_000, "c": 9_000}, Opinion(9_000, 2, is_wrong=True)),
        ({"b": -9_000, "c": -8_000}, Opinion(-8_000, 2, is_wrong=True)),
        ({"b": -9_000, "c": 9_000}, Opinion(0, 2)),
        ({"b": 9_000, "c": 9_000, "d": 100}, Opinion(100, 3)),
        ({"b": MOST_MS, "c": MOST_MS, "d": MOST_MS}, Opinion(MOST_MS, 3)),
        ({"b": MOST_MS + 1, "c": 3_000, "d": 9_000}, Opinion(MOST_MS + 1, 3, is_wrong=True)),
    ],
)
def test_a_clock_is_wrong_when_a_third_of_the_weight_agrees(
    said: dict[str, int], expected: Opinion
) -> None:
    assert opinion(said) == expected


def test_weight_counts_not_heads() -> None:
    among = members(a=10, b=1, c=1, d=1, e=30)
    assert opinion({"b": 9_000, "c": 9_000, "d": 9_000}, among) == Opinion(0, 3)
    assert opinion({"e": 9_000}, among) == Opinion(9_000, 1, is_wrong=True)


def test_an_observer_hears_them_too_but_not_too_few() -> None:
    assert opinion({"b": 9_000}, me=None) == Opinion(9_000, 1)
    assert opinion({"b": 9_000, "c": 9_000}, me=None) == Opinion(9_000, 2, is_wrong=True)


offsets = st.integers(-20_000, 20_000)


@given(
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=9),
    said=st.lists(offsets, max_size=9),
    strangers=st.dictionaries(st.binary(min_size=32, max_size=32), offsets, max_size=9),
)
def test_less_than_a_third_of_the_weight_never_makes_a_clock_wrong(
    weights: list[int], said: list[int], strangers: dict[bytes, int]
) -> None:
    among = ValidatorSet.of(Validator(bytes([n]) * 32, weight) for n, weight in enumerate(weights))
    heard = dict(zip((one.public_key for one in among.members), said, strict=False))
    found = judge(among, None, {**strangers, **heard}, MOST_MS)
    if found.is_wrong:
        sign = 1 if found.offset_ms > 0 else -1
        agree = [key for key, offset in heard.items() if sign * offset > MOST_MS]
        indexes = [index for one in agree if (index := among.index_of(one)) is not None]
        assert among.is_blocking(among.weight_of(indexes))
    assert found.is_wrong <= (abs(found.offset_ms) > MOST_MS)


# -- The watch -------------------------------------------------------------------------------------


class Watched:
    """A watch over a clock that the test sets, on the mock clock of the test."""

    def __init__(self, national: str | None = None) -> None:
        self.off_ms = 0
        self.watch = ClockWatch(self.now_ms, MOST_MS, ME, national)
        self.sets = {"MET": FOUR, "TH": FOUR}

    def now_ms(self) -> int:
        return NOW_MS + round(trio.current_time() * 1_000) + self.off_ms

    def say(self, lag_ms: int = 0, /, **off_ms: int) -> None:
        """Members' clocks, by how much they are off the true time."""
        now_s = trio.current_time()
        samples = {key(name): [Sample(NOW_MS + off, now_s)] for name, off in off_ms.items()}
        self.watch.look(samples, self.sets, lag_ms)

    def block(self, chain: str, after_ms: int) -> None:
        """A decided one whose time lies so far after the true time."""
        self.watch.note_block(chain, NOW_MS + round(trio.current_time() * 1_000) + after_ms)


async def test_a_clock_that_is_set_wrong_stops_proposing_until_it_is_right(
    autojump_clock: MockClock,
) -> None:
    one = Watched()
    with structlog.testing.capture_logs() as logs:
        one.say(b=10, c=-20, d=0)
        assert one.watch.is_right("MET")
        assert logs == []
        one.off_ms = 3_600_000
        for _ in range(3):
            one.say(b=10, c=-20, d=0)
            await trio.sleep(1)
        assert not one.watch.is_right("MET")
        check = one.watch.check()
        assert (check.ok, check.value) == (False, "-3599990 ms, 3 validators heard")
        told = [(each["event"], each.get("code"), each["chain"]) for each in logs]
        assert told == [("clock.offset", "GTX-CLK-001", name) for name in ("MET", "TH")]
        assert "3599990 ms ahead of that of MET's validators (3 heard)" in logs[0]["hint"]
        one.off_ms = 0
        one.say(b=10, c=-20, d=0)
        assert one.watch.is_right("MET")
        assert one.watch.check().ok
        assert [each["event"] for each in logs[2:]] == ["clock.agrees", "clock.agrees"]


async def test_a_node_alone_does_not_judge(autojump_clock: MockClock) -> None:
    one = Watched()
    one.off_ms = 3_600_000
    one.say()
    assert one.watch.is_right("MET")
    assert one.watch.check().value == "0 ms, 0 validators heard"


async def test_who_are_too_few_only_make_it_warn(autojump_clock: MockClock) -> None:
    one = Watched()
    one.sets = {"MET": members(b=1, c=1, d=1, e=1)}
    with structlog.testing.capture_logs() as logs:
        one.say(b=30_000)
        one.say(b=30_000)
    assert one.watch.is_right("MET")
    (warning,) = logs
    assert "goes on, as they are too few to tell" in warning["hint"]


async def test_a_decided_block_ahead_of_our_clock_shows_that_it_is_behind(
    autojump_clock: MockClock,
) -> None:
    one = Watched()
    one.block("MET", MAX_TIME_AHEAD_MS + MOST_MS)
    one.say()
    assert one.watch.is_right("MET")
    one.off_ms = -1
    one.say()
    assert not one.watch.is_right("MET")
    assert one.watch.is_right("TH")  # Whose validators have said nothing.
    await trio.sleep(60)
    one.say()
    assert not one.watch.is_right("MET")  # No time passes that would make it true.
    one.block("MET", -3_000)
    one.say()
    assert one.watch.is_right("MET")


async def test_a_region_has_no_say_in_other_chains_nor_in_readiness(
    autojump_clock: MockClock,
) -> None:
    one = Watched(national="TH")
    one.sets["MET"] = members(x=1, y=1, z=1)
    one.say(b=0, c=0, d=0, x=60_000, y=60_000, z=60_000)
    assert (one.watch.is_right("MET"), one.watch.is_right("TH")) == (False, True)
    assert one.watch.check().ok


async def test_a_slow_machine_is_told_that_it_is_slow_and_not_that_its_clock_is_wrong(
    autojump_clock: MockClock,
) -> None:
    """It stood still for 25 s: what it has of others is of then."""
    one = Watched()
    with structlog.testing.capture_logs() as logs:
        taken = {key(name): [Sample(NOW_MS + 25_000, trio.current_time())] for name in "bcd"}
        await trio.sleep(1)
        one.watch.look(taken, one.sets, 25_000)
        assert one.watch.is_right("MET")
        assert one.watch.check().value == "0 ms, 0 validators heard, this machine is slow"
        one.watch.look(taken, one.sets, 0)
        assert one.watch.is_right("MET")
        one.say(600, b=5, c=5, d=5)
        assert one.watch.is_right("MET")
    assert [(each["event"], each["code"]) for each in logs] == [("clock.slow", "GTX-CLK-002")]
    assert "25000 ms late" in logs[0]["hint"]
