"""Measure the gossip service on real libp2p over loopback: latency and CPU per message.

`measure` runs all nodes in this process, so the CPU figure is the whole process's time divided by
messages and nodes: it holds one signature per message and one verification per receiver.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.events import GossipVerdict, Origin
from gridtokenx.network.host import HostSettings, Network, open_network
from gridtokenx.node.protocol import topic_priority

PREFIX = "/gridtokenx/bench/"
TOPIC = PREFIX + "national/orders"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Times in milliseconds; CPU per message and node."""

    message_bytes: int
    messages: int
    nodes: int
    delivered: int
    latency_p50_ms: float
    latency_p99_ms: float
    cpu_ms: float
    messages_per_s: float


@asynccontextmanager
async def open_gossip(number: int) -> AsyncIterator[tuple[Network, Gossip]]:
    """One node with its gossip service running, identity by number."""
    settings = HostSettings(number.to_bytes(32, "big"), ("/ip4/127.0.0.1/tcp/0",))
    async with open_network(settings) as network, trio.open_nursery() as nursery:
        gossip = Gossip(
            network,
            topic_prefix=PREFIX,
            priority=topic_priority,
            seed=number,
            first_seqno=time.time_ns(),
        )
        await nursery.start(gossip.run)
        yield network, gossip
        nursery.cancel_scope.cancel()


async def measure(
    message_bytes: int, messages: int, *, nodes: int = 4, pause_s: float = 0.0
) -> Measurement:
    """Publish from the first node, one message after `pause_s`, and wait for all deliveries.

    At most 60 s are waited; `delivered` tells how many of messages x (nodes - 1) arrived.
    """
    sent_at: dict[bytes, float] = {}
    latencies: list[float] = []
    all_delivered = trio.Event()

    def receive(origin: Origin, data: bytes) -> GossipVerdict:
        latencies.append(trio.current_time() - sent_at[data[:8]])
        if len(latencies) == messages * (nodes - 1):
            all_delivered.set()
        return GossipVerdict.ACCEPT

    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_gossip(n + 1)) for n in range(nodes)]
        for _, gossip in opened:
            gossip.subscribe(TOPIC, receive)
        for index, (network, _) in enumerate(opened):
            for other, _ in opened[:index]:
                await network.dial(other.listen_addresses[0])
        with trio.fail_after(20):
            while any(  # noqa: ASYNC110 - the mesh has no event to wait for
                len(gossip.mesh(TOPIC)) < min(2, nodes - 1) for _, gossip in opened
            ):
                await trio.sleep(0.1)
        started, cpu_started = trio.current_time(), time.process_time()
        for number in range(messages):
            head = number.to_bytes(8, "big")
            sent_at[head] = trio.current_time()
            opened[0][1].publish(TOPIC, head + bytes(message_bytes - 8))
            await trio.sleep(pause_s)
        with trio.move_on_after(60):
            await all_delivered.wait()
        duration_s = trio.current_time() - started
        cpu_s = time.process_time() - cpu_started
    latencies.sort()
    return Measurement(
        message_bytes=message_bytes,
        messages=messages,
        nodes=nodes,
        delivered=len(latencies),
        latency_p50_ms=1e3 * latencies[len(latencies) // 2],
        latency_p99_ms=1e3 * latencies[len(latencies) * 99 // 100],
        cpu_ms=1e3 * cpu_s / messages / nodes,
        messages_per_s=messages / duration_s,
    )


async def main() -> None:
    for message_bytes, messages, pause_s in (
        (200, 500, 0.02),
        (200, 1_000, 0.0),
        (250_000, 40, 0.1),
        (250_000, 60, 0.0),
    ):
        print(await measure(message_bytes, messages, pause_s=pause_s))  # noqa: T201


if __name__ == "__main__":
    trio.run(main)
