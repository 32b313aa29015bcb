"""The outbound queue of one peer: priorities, the byte limit, and who is dropped."""

import pytest
import trio

from gridtokenx.network.gossipsub.events import Priority
from gridtokenx.network.outbound_queue import (
    LARGE_BYTES,
    LONGEST_TURN_S,
    PASSED_ON_BYTES_PER_S,
    OutboundQueue,
    Turns,
)

CONTROL, URGENT, BULK = Priority.CONTROL, Priority.URGENT, Priority.BULK


async def test_control_and_votes_leave_before_older_bulk() -> None:
    queue = OutboundQueue(100)
    for frame, priority in ((b"b1", BULK), (b"v1", URGENT), (b"c", CONTROL), (b"v2", URGENT)):
        assert queue.put(frame, priority) == 0
    assert await queue.take(4) == b"cv1"
    assert await queue.take(4) == b"v2b1"


async def test_a_cleared_queue_has_no_frames_and_no_bytes() -> None:
    queue = OutboundQueue(100)
    queue.put(b"b", BULK)
    queue.put(b"c", CONTROL)
    assert (queue.clear(), queue.bytes) == (2, 0)
    queue.put(b"d", BULK)
    assert await queue.take(4) == b"d"


async def test_frame_over_the_batch_limit_leaves_alone_and_is_not_overtaken() -> None:
    queue = OutboundQueue(100)
    queue.put(b"v", URGENT)
    queue.put(b"w" * 10, URGENT)
    queue.put(b"b", BULK)
    assert [await queue.take(4) for _ in range(3)] == [b"v", b"w" * 10, b"b"]
    assert queue.bytes == 0


async def test_full_queue_drops_the_oldest_bulk_first_then_votes() -> None:
    queue = OutboundQueue(10)
    queue.put(b"old.", BULK)
    queue.put(b"new.", BULK)
    assert queue.put(b"vote", URGENT) == 1
    assert queue.put(b"vot2", URGENT) == 1
    assert queue.put(b"vot3", URGENT) == 1
    assert await queue.take(100) == b"vot2vot3"
    assert queue.put(b"x" * 11, BULK) == 1
    assert queue.bytes == 0


async def test_take_waits_for_a_frame(autojump_clock: trio.testing.MockClock) -> None:
    queue = OutboundQueue(10)
    with trio.move_on_after(5) as scope:
        await queue.take(10)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:

        async def fill() -> None:
            await trio.sleep(1)
            queue.put(b"late", BULK)

        nursery.start_soon(fill)
        assert await queue.take(10) == b"late"


async def test_a_withdrawn_message_does_not_leave_and_is_put_once() -> None:
    queue = OutboundQueue(100)
    for message_id in (b"1", b"2", b"1", b"3"):
        assert queue.put(b"message " + message_id, BULK, message_id) == 0
    assert queue.bytes == 3 * len(b"message 1")
    assert queue.withdraw(b"2")
    assert not queue.withdraw(b"2")
    assert await queue.take(100) == b"message 1message 3"
    assert not queue.withdraw(b"1")
    assert queue.bytes == 0


LARGE = bytes(LARGE_BYTES)


async def has_turn(queue: OutboundQueue) -> bool:
    """Whether the queue gives its first frame at once."""
    with trio.move_on_after(0) as scope:
        await queue.take(1)
    return not scope.cancelled_caught


@pytest.fixture
def queues() -> list[OutboundQueue]:
    turns = Turns(2)
    made = [OutboundQueue(10 * LARGE_BYTES, turns) for _ in range(4)]
    for queue in made:
        queue.put(LARGE, BULK, b"large")
    return made


async def test_large_frames_leave_two_at_a_time(
    queues: list[OutboundQueue], autojump_clock: trio.testing.MockClock
) -> None:
    assert [await has_turn(queue) for queue in queues] == [True, True, False, False]
    for queue in queues[:2]:
        assert not await has_turn(queue)  # What it took is written, and no more is there.
    assert not await has_turn(queues[2])  # A buffer swallowed it: nobody can have passed it on.
    await trio.sleep(LARGE_BYTES / PASSED_ON_BYTES_PER_S)
    assert [await has_turn(queue) for queue in queues[2:]] == [True, True]


async def test_who_waits_for_a_turn_can_be_told_to_keep_it_and_sends_what_is_urgent(
    queues: list[OutboundQueue], autojump_clock: trio.testing.MockClock
) -> None:
    assert [await has_turn(queue) for queue in queues[:2]] == [True, True]
    async with trio.open_nursery() as nursery:

        async def vote() -> None:
            await trio.sleep(LONGEST_TURN_S / 4)
            queues[2].put(b"vote", URGENT)

        nursery.start_soon(vote)
        assert await queues[2].take(1) == b"vote"
    assert trio.current_time() < LONGEST_TURN_S
    assert queues[2].withdraw(b"large")
    assert queues[2].bytes == 0


async def test_a_slow_peer_holds_up_others_once(
    queues: list[OutboundQueue], autojump_clock: trio.testing.MockClock
) -> None:
    started_s = trio.current_time()
    assert [await has_turn(queue) for queue in queues[:2]] == [True, True]
    assert await queues[2].take(1) == LARGE
    assert trio.current_time() - started_s == pytest.approx(LONGEST_TURN_S, abs=0.01)
    await trio.sleep(2 * LONGEST_TURN_S)
    slow, waiting = queues[:2], queues[2:]
    for queue in slow:
        queue.put(LARGE, BULK)
        assert await has_turn(queue)  # No turn is taken for it.
    for queue in waiting:
        queue.put(LARGE, BULK)
        assert await has_turn(queue)
