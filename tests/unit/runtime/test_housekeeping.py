"""Work on the side: no round that fails ends a node, and no loop goes around it."""

from __future__ import annotations

import ast
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio

from gridtokenx.runtime import housekeeping
from gridtokenx.runtime.housekeeping import MAX_KINDS, TOLD_EVERY_S, Housekeeping, keep
from gridtokenx.runtime.stopping import DiskFull, Ending, ends_node

ROOT = Path(housekeeping.__file__).parents[1]
SHELL = ("api", "home", "network", "node", "runtime", "storage", "views")

# Loops that do not end and rest on the way, by what happens when one of their rounds fails.
# Whatever is not here is done by `keep`, or each round of it within `house.round`.
NOT_KEPT = {
    "api/server.py:_tick": "reads a clock; its death ends the API thread, which is told",
    "network/discovery.py:_keep_connections": "each dial is a task that catches what it meets",
    "network/discovery.py:_refresh": "each question catches what it meets",
    "network/gossip_streams.py:_keep_outbound": "a session's stream; it ends with the session",
    "storage/kept_file.py:run": "each writing is a round",
    "runtime/loop_lag.py:run": "reads a clock",
    "network/libp2p_overrides/yamux.py:_keep_alive": "its failure ends its connection",
    "network/libp2p_overrides/yamux.py:_send_queued": "its failure ends its connection",
    "network/peer_events.py:pump": "hands events on, which cannot fail",
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    monkeypatch.setattr(housekeeping, "house", Housekeeping())
    with structlog.testing.capture_logs() as lines:
        yield lines


async def test_a_round_that_fails_is_told_once_and_the_next_ones_go_on(
    told: list[dict[str, object]], autojump_clock: trio.testing.MockClock
) -> None:
    rounds: list[float] = []

    def step() -> None:
        rounds.append(trio.current_time())
        raise OSError(errno.EMFILE, "Too many open files")

    with trio.move_on_after(10.5):
        await keep("interfaces", step, 1.0)
    assert len(rounds) == 10
    assert housekeeping.house.failures == {"interfaces": 10}
    (line,) = told
    assert (line["event"], line["task"]) == ("housekeeping.failed", "interfaces")


async def test_steps_may_wait_and_groups_of_errors_count_once(
    told: list[dict[str, object]], autojump_clock: trio.testing.MockClock
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def step() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    with trio.move_on_after(3.5):
        await keep("group", step, 1.0)
    assert housekeeping.house.failures == {"group": 3}
    assert len(told) == 1


@pytest.mark.parametrize("wrap", [lambda error: error, lambda e: ExceptionGroup("", [e])])
async def test_an_order_to_end_the_node_passes(
    told: list[dict[str, object]], wrap, autojump_clock: trio.testing.MockClock
) -> None:
    def step() -> None:
        raise wrap(DiskFull("GTX-DSK-001: full"))

    with pytest.raises((Ending, ExceptionGroup)) as ended:
        await keep("disk", step, 30.0)
    assert ends_node(ended.value)
    assert told == []


def test_each_kind_is_told_again_after_an_hour(told: list[dict[str, object]]) -> None:
    now_s = 0.0
    house = Housekeeping(lambda: now_s)
    for error in (OSError("a"), OSError("b"), ValueError("c")):
        house.note("bans.json", error)
    assert [line["exc_info"].args for line in told] == [("a",), ("c",)]  # type: ignore[attr-defined]
    now_s = TOLD_EVERY_S
    house.note("bans.json", OSError("d"))
    assert len(told) == 3
    for number in range(2 * MAX_KINDS):
        house.note(f"task {number}", OSError())
        assert len(house._told_s) <= MAX_KINDS


def test_what_the_log_could_not_say_is_told_later(told: list[dict[str, object]]) -> None:
    house = Housekeeping()
    house.note_of_log("log file", OSError(errno.ENOSPC, "no space"))
    house.note_of_log("log file", OSError(errno.ENOSPC, "no space"))
    assert (house.failures["log file"], told) == (2, [])
    house.catch_up()
    house.catch_up()
    assert [line["task"] for line in told] == ["log file"]


# -- No loop beside it -----------------------------------------------------------------------------


def resting_loops() -> dict[str, ast.AST]:
    """Endless loops with a pause in them, by file and function, without those that use `house`."""
    found: dict[str, ast.AST] = {}
    for path in sorted(path for folder in SHELL for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.AsyncFunctionDef) or function.name == "keep":
                continue
            text = ast.unparse(function)
            rests = any(
                pause in ast.unparse(loop)
                for loop in ast.walk(function)
                if isinstance(loop, ast.While) and ast.unparse(loop.test) == "True"
                if not any(isinstance(one, ast.Return | ast.Break) for one in ast.walk(loop))
                for pause in (".sleep(", ".sleep_until(", ".move_on_a", ".wait()")
            )
            if rests and "house.round(" not in text and "house.note(" not in text:
                found[f"{path.relative_to(ROOT)}:{function.name}"] = function
    return found


def test_every_loop_of_housekeeping_is_kept() -> None:
    assert sorted(resting_loops()) == sorted(NOT_KEPT)
