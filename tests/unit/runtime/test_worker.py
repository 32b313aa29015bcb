"""Whose work a thread does first. Source: protocols/networking.md 4.4."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio

from gridtokenx.runtime.worker import Urgency, Worker
from tests.support.patience import until


class Bench:
    """A worker held by the test; what runs afterwards is kept in `done`."""

    def __init__(self, places: int = 1) -> None:
        self.worker = Worker(places)
        self.done: list[str] = []

    async def work(self, name: str, urgency: Urgency, source: str = "") -> None:
        await self.worker.run(lambda: self.done.append(name), urgency, source)


async def hold(nursery: trio.Nursery, worker: Worker) -> Callable[[], None]:
    """Take a place; the answer gives it back."""
    release = trio.Event()

    async def keep(task_status: trio.TaskStatus[None]) -> None:
        async with worker.turn():
            task_status.started()
            await release.wait()

    await nursery.start(keep)
    return release.set


async def test_a_block_overtakes_a_hundred_batches() -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        release = await hold(nursery, bench.worker)
        for number in range(100):
            nursery.start_soon(bench.work, f"batch {number}", Urgency.STRANGERS, str(number % 7))
        await until(lambda: bench.worker.waiting == 100)
        nursery.start_soon(bench.work, "forwarded", Urgency.FORWARDED)
        nursery.start_soon(bench.work, "client", Urgency.CLIENTS)
        nursery.start_soon(bench.work, "block", Urgency.CONSENSUS)
        await until(lambda: bench.worker.waiting == 103)
        release()
    assert bench.done[:3] == ["block", "client", "forwarded"]
    assert len(bench.done) == 103


async def test_sources_take_turns() -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        release = await hold(nursery, bench.worker)
        for waiting, name in enumerate(["a0", "a1", "a2", "b0", "b1", "b2"], start=1):
            nursery.start_soon(bench.work, name, Urgency.STRANGERS, name[0])
            await until(lambda waiting=waiting: bench.worker.waiting == waiting)
        release()
    assert bench.done == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_who_gives_up_leaves_no_gap() -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        release = await hold(nursery, bench.worker)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(bench.work, "given up", Urgency.CONSENSUS)
                nursery.start_soon(bench.work, "patient", Urgency.STRANGERS)
                await until(lambda: bench.worker.waiting == 2)
                scope.cancel()
        assert bench.worker.waiting == 1
        release()
    assert bench.done == ["patient"]
    await bench.work("after", Urgency.STRANGERS)
    assert bench.done == ["patient", "after"]


async def test_a_place_given_to_one_that_gives_up_goes_on() -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await bench.worker._acquire(Urgency.CONSENSUS, "")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(bench.work, "given up", Urgency.CONSENSUS)
                nursery.start_soon(bench.work, "next", Urgency.STRANGERS)
                await until(lambda: bench.worker.waiting == 2)
                scope.cancel()
                bench.worker._release()  # It has not heard of that yet.
    assert bench.done == ["next"]
    assert bench.worker.waiting == 0


@pytest.mark.parametrize("places", [1, 2])
async def test_no_more_threads_than_places(places: int) -> None:
    worker, lock = Worker(places), threading.Lock()
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    async def run() -> None:
        await worker.run(work, Urgency.CLIENTS)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(run)
    assert most <= places


async def test_an_error_gives_its_place_back() -> None:
    bench = Bench()

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await bench.worker.run(fail)
    await bench.work("after", Urgency.CLIENTS)
    assert bench.done == ["after"]
