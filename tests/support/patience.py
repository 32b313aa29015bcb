"""How long tests wait for what must come: longer than a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

PATIENCE_S = 90.0  # Who succeeds waits no longer.


async def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """The condition's first true value, which several hosts bring about. Errors: TooSlowError."""
    with trio.fail_after(seconds):
        while not (found := condition()):  # noqa: ASYNC110 - no event tells of all of them
            await trio.sleep(0.01)
    return found


def settled(sample: Callable[[], T], still_s: float) -> T:
    """What a sample is once two so far apart are equal: nothing is on its way any more."""
    end, before = time.monotonic() + PATIENCE_S, sample()
    while True:
        time.sleep(still_s)
        now = sample()
        if now == before:
            return now
        assert time.monotonic() < end, f"it does not settle: {now}"
        before = now
