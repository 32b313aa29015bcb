"""How long tests wait for what must come: longer than a busy machine takes."""

from __future__ import annotations

from collections.abc import Callable

import trio

PATIENCE_S = 90.0  # Who succeeds waits no longer.


async def until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for what several hosts bring about. Errors: trio.TooSlowError."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - no event tells of all of them
            await trio.sleep(0.01)
