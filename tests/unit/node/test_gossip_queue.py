"""The outbound queue of one peer: priorities, the byte limit, and who is dropped."""

import pytest
import trio

from gridtokenx.node.gossip import OutboundQueue, topic_max_bytes, topic_priority
from gridtokenx.node.gossip_events import Priority

CONTROL, URGENT, BULK = Priority.CONTROL, Priority.URGENT, Priority.BULK


async def test_control_and_votes_leave_before_older_bulk() -> None:
    queue = OutboundQueue(100)
    for frame, priority in ((b"b1", BULK), (b"v1", URGENT), (b"c", CONTROL), (b"v2", URGENT)):
        assert queue.put(frame, priority) == 0
    assert await queue.take(4) == b"cv1"
    assert await queue.take(4) == b"v2b1"


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


@pytest.mark.parametrize(
    ("topic", "max_bytes", "priority"),
    [
        ("/gridtokenx/n/c/votes", 1 << 20, URGENT),
        ("/gridtokenx/n/c/orders", 1 << 20, BULK),
        ("/gridtokenx/n/c/blocks", 8 << 20, BULK),
    ],
)
def test_topic_classes(topic: str, max_bytes: int, priority: Priority) -> None:
    assert topic_max_bytes(topic) == max_bytes
    assert topic_priority(topic) is priority
