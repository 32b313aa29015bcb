"""What the CPU does for one request, while the loop serves others in between."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def measured(
    work: Coroutine[Any, Any, T],
    spend: Callable[[float], None],
    cpu_s: Callable[[], float] = time.thread_time,
) -> Generator[Any, Any, T]:
    """Await `work`; tell `spend` the CPU seconds of this thread that each step of it took."""
    value: Any = None
    error: BaseException | None = None
    while True:
        began_s = cpu_s()
        try:
            waits_for = work.send(value) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            spend(cpu_s() - began_s)
        value = error = None
        try:
            value = yield waits_for
        except BaseException as thrown:  # noqa: BLE001 - a cancellation, say: it is the work's
            error = thrown
