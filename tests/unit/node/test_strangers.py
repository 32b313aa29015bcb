"""What strangers' work in threads may wait for and costs. See `test_intake` for batches."""

from __future__ import annotations

import time

import trio

from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.strangers import Readers

STRANGER, FRIEND = PeerId(b"stranger"), PeerId(b"friend")


def work() -> bytes:
    end_s = time.thread_time() + 0.01
    while time.thread_time() < end_s:
        pass
    return b"answer"


async def test_strangers_pay_for_what_is_looked_up_for_them() -> None:
    budget = StrangersBudget()
    readers = Readers(budget, {STRANGER: "a"}.get)
    assert await readers.run(FRIEND, work) == b"answer"
    assert budget.spent_s == 0
    assert await readers.run(STRANGER, work) == b"answer"
    assert budget.spent_s >= 0.01
    assert budget.wait_s("a", trio.current_time()) == 0
