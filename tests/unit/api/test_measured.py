"""A request's own CPU is told, whatever the loop does in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from gridtokenx.api.measured import measured


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by so much at each look."""
    times: Iterator[float] = (number * step_s for number in range(10_000))
    return lambda: next(times)


def test_each_step_is_measured_and_the_result_comes_back() -> None:
    spent: list[float] = []

    async def work() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    async def request() -> str:
        return await measured(work(), spent.append, ticking(1.0))

    assert asyncio.run(request()) == "done"
    assert spent == [1.0, 1.0, 1.0]


def test_what_it_raises_and_what_is_thrown_into_it_pass() -> None:
    spent: list[float] = []

    async def work(started: asyncio.Event, seen: list[str]) -> None:
        started.set()
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise ValueError("as it ends") from None

    seen: list[str] = []

    async def request(started: asyncio.Event) -> None:
        await measured(work(started, seen), spent.append, ticking(1.0))

    async def cancelled() -> None:
        started = asyncio.Event()
        task = asyncio.ensure_future(request(started))
        await started.wait()
        task.cancel()
        with pytest.raises(ValueError, match="as it ends"):
            await task

    asyncio.run(cancelled())
    assert seen == ["cancelled"]
    assert spent == [1.0, 1.0]
