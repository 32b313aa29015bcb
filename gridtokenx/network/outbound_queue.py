"""What waits to be written to a gossip peer, and whose turn it is to get something large.

A peer that has a large message already says so (IDONTWANT), but only what has not left can be
kept back. So large bulk frames leave to few peers at a time: the others wait in their queues,
where they can be withdrawn, while the peers served first pass the message on.
Source: protocols/networking.md 4.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import count

import trio

from gridtokenx.network.gossipsub.events import Priority

TURNS = 2  # large frames on their way at a time
LARGE_BYTES = 16 * 1024  # as idontwant_bytes: what is smaller nobody asks to keep back
PASSED_ON_BYTES_PER_S = 25_000_000  # how fast a receiver reads, checks and announces, at best
LONGEST_TURN_S = 0.5


class Turns:
    """Lets so many queues at a time write a large frame.

    A turn lasts until the frame is written, and at least until its receiver can have announced
    it: buffers take a whole frame in no time. Nobody is held up for longer than `LONGEST_TURN_S`,
    and by a peer that was slower not at all, until it takes a frame in time again.
    """

    def __init__(self, turns: int = TURNS) -> None:
        self._turns = turns
        self._started_s: dict[OutboundQueue, float] = {}  # being written
        self._ends_s: dict[OutboundQueue, float] = {}  # turns taken, when each is over
        self._waiting: dict[OutboundQueue, None] = {}
        self._slow: set[OutboundQueue] = set()

    def begin(self, queue: OutboundQueue, frame_bytes: int) -> float | None:
        """Take a turn (None), or hear when to ask again: then, or when woken before."""
        now_s = trio.current_time()
        for other in [other for other, end_s in self._ends_s.items() if end_s <= now_s]:
            del self._ends_s[other]
        if queue not in self._slow:
            if len(self._ends_s) >= self._turns:
                self._waiting[queue] = None
                return min(self._ends_s.values())
            self._ends_s[queue] = now_s + LONGEST_TURN_S
        self._waiting.pop(queue, None)
        self._started_s[queue] = now_s
        queue.least_turn_s = frame_bytes / PASSED_ON_BYTES_PER_S
        return None

    def end(self, queue: OutboundQueue) -> None:
        """Nothing of the queue is being written now."""
        self._waiting.pop(queue, None)
        started_s = self._started_s.pop(queue, None)
        if started_s is None:
            return
        if trio.current_time() - started_s > LONGEST_TURN_S:
            self._slow.add(queue)
        else:
            self._slow.discard(queue)
        if queue in self._ends_s:
            least_s = started_s + queue.least_turn_s
            self._ends_s[queue] = min(self._ends_s[queue], least_s)
            for other in self._waiting:
                other.wake()

    def forget(self, queue: OutboundQueue) -> None:
        """The queue's peer has left."""
        self.end(queue)
        self._slow.discard(queue)


class OutboundQueue:
    """Frames waiting for one peer: by priority, oldest first, bounded by bytes.

    `turns` is shared by the queues of a node; None: every frame may leave at once.
    """

    def __init__(self, max_bytes: int, turns: Turns | None = None) -> None:
        self.bytes = 0
        self.least_turn_s = 0.0  # of the frame being written
        self.max_bytes = max_bytes
        self._turns = turns
        # By message id, else by a number of its own.
        self._frames: dict[Priority, OrderedDict[bytes | int, bytes]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._numbers = count()
        self._filled = trio.Event()

    def put(self, frame: bytes, priority: Priority, message_id: bytes = b"") -> int:
        """Append a frame; return how many frames, bulk and oldest first, were dropped for it.

        A message (`message_id` given) that waits already is not put again.
        """
        frames = self._frames[priority]
        key = message_id or next(self._numbers)
        if key in frames:
            return 0
        frames[key] = frame
        self.bytes += len(frame)
        self.wake()
        dropped = 0
        for victims in reversed(self._frames.values()):
            while victims and self.bytes > self.max_bytes:
                self.bytes -= len(victims.popitem(last=False)[1])
                dropped += 1
        return dropped

    def clear(self) -> int:
        """Drop all frames; return how many."""
        dropped = sum(map(len, self._frames.values()))
        for frames in self._frames.values():
            frames.clear()
        self.bytes = 0
        return dropped

    def withdraw(self, message_id: bytes) -> bool:
        """Take back a message that has not left; False if there is none of that id."""
        for frames in self._frames.values():
            frame = frames.pop(message_id, None)
            if frame is not None:
                self.bytes -= len(frame)
                return True
        return False

    def wake(self) -> None:
        """Let whoever waits in `take` look again."""
        self._filled.set()

    async def take(self, max_bytes: int) -> bytes:
        """Wait for frames; return the first ones, joined, up to `max_bytes` or else just one.

        Whoever calls has written what it took before. One caller at a time.
        """
        try:
            while True:
                if self._turns is not None:
                    self._turns.end(self)
                taken, again_s = self._take_now(max_bytes)
                if taken:
                    return taken[0] if len(taken) == 1 else b"".join(taken)
                self._filled = trio.Event()
                with trio.CancelScope(deadline=again_s):
                    await self._filled.wait()
        except BaseException:
            if self._turns is not None:
                self._turns.end(self)
            raise

    def _take_now(self, max_bytes: int) -> tuple[list[bytes], float]:
        """What may leave, and if that is nothing, when there may be something."""
        taken: list[bytes] = []
        size = 0
        for priority, frames in self._frames.items():
            while frames:
                frame = next(iter(frames.values()))
                if taken and size + len(frame) > max_bytes:
                    return self._without(taken, size)  # Less urgent ones must not pass it.
                if priority is Priority.BULK and len(frame) >= LARGE_BYTES and self._turns:
                    if taken:
                        return self._without(taken, size)
                    again_s = self._turns.begin(self, len(frame))
                    if again_s is not None:
                        return [], again_s
                frames.popitem(last=False)
                taken.append(frame)
                size += len(frame)
        return self._without(taken, size)

    def _without(self, taken: list[bytes], size: int) -> tuple[list[bytes], float]:
        self.bytes -= size
        return taken, math.inf
