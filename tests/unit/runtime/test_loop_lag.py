"""The delay that is shown is the worst of the last minute."""

import time

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gridtokenx.runtime.loop_lag import KEPT_S, LoopLag
from tests.support.patience import until


async def test_what_holds_the_loop_is_seen_for_a_minute() -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await wait_all_tasks_blocked()
        time.sleep(0.3)  # noqa: ASYNC251 - as a fault would
        await until(lambda: lag.worst_ms >= 200)
        nursery.cancel_scope.cancel()


async def test_it_is_forgotten_after_that(autojump_clock: MockClock) -> None:
    lag = LoopLag()
    lag.note(0.3)
    lag.note(0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await trio.sleep(KEPT_S / 2)
        assert lag.worst_ms == 300
        await trio.sleep(KEPT_S)
        assert lag.worst_ms == 0
        nursery.cancel_scope.cancel()
