"""The gossip service on real libp2p over loopback."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.events import PROTOCOLS, GossipVerdict, Origin, Parameters
from gridtokenx.network.host import HostSettings, Network, Stream, open_network
from gridtokenx.node.protocol import topic_priority
from gridtokenx.runtime.stopping import DiskFailed
from scripts.benchmarks.gossip import measure
from tests.support.patience import until

PREFIX = "/gridtokenx/test/"
VOTES = PREFIX + "national/votes"
BLOCKS = PREFIX + "national/blocks"
FAST = Parameters(heartbeat_ms=200)


class Node:
    """A network, its gossip service, and what the validator received."""

    def __init__(self, network: Network, gossip: Gossip) -> None:
        self.network, self.gossip = network, gossip
        self.received: dict[str, list[bytes]] = defaultdict(list)

    def subscribe(self, topic: str) -> None:
        def receive(origin: Origin, data: bytes) -> GossipVerdict:
            self.received[topic].append(data)
            return GossipVerdict.ACCEPT

        self.gossip.subscribe(topic, receive)


def settings(number: int) -> HostSettings:
    return HostSettings(number.to_bytes(32, "big"), ("/ip4/127.0.0.1/tcp/0",))


@asynccontextmanager
async def open_node(number: int, **options: int) -> AsyncIterator[Node]:
    async with open_network(settings(number)) as network, trio.open_nursery() as nursery:
        gossip = Gossip(
            network,
            topic_prefix=PREFIX,
            priority=topic_priority,
            seed=number,
            first_seqno=time.time_ns(),
            parameters=FAST,
            **options,
        )
        await nursery.start(gossip.run)
        yield Node(network, gossip)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def cluster(count: int, *topics: str) -> AsyncIterator[list[Node]]:
    """Nodes connected each to each, all subscribed, meshes grown."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(n + 1)) for n in range(count)]
        for index, node in enumerate(nodes):
            for topic in topics:
                node.subscribe(topic)
            for other in nodes[:index]:
                await node.network.dial(other.network.listen_addresses[0])
        for topic in topics:
            await until(
                lambda topic=topic: all(len(n.gossip.peers(topic)) == count - 1 for n in nodes)
            )
            await until(lambda topic=topic: all(n.gossip.mesh(topic) for n in nodes))
        yield nodes


async def test_five_nodes_deliver_every_message_once_to_all_others() -> None:
    async with cluster(5, VOTES) as nodes:
        for number, node in enumerate(nodes):
            for count in range(20):
                node.gossip.publish(VOTES, b"%d-%d" % (number, count))
        await until(lambda: all(len(n.received[VOTES]) >= 80 for n in nodes))
        await trio.sleep(0.5)
        for number, node in enumerate(nodes):
            expected = {b"%d-%d" % (n, c) for n in range(5) for c in range(20) if n != number}
            assert set(node.received[VOTES]) == expected
            assert len(node.received[VOTES]) == 80


async def test_messages_travel_over_nodes_between() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(n + 1)) for n in range(3)]
        for node in nodes:
            node.subscribe(VOTES)
        await nodes[1].network.dial(nodes[0].network.listen_addresses[0])
        await nodes[2].network.dial(nodes[1].network.listen_addresses[0])
        await until(lambda: len(nodes[1].gossip.mesh(VOTES)) == 2)
        nodes[0].gossip.publish(VOTES, b"far")
        await until(lambda: nodes[2].received[VOTES] == [b"far"])


async def test_large_messages_arrive_whole() -> None:
    async with cluster(3, BLOCKS, VOTES) as nodes:
        vote, block = bytes(range(256)) * 4096, bytes(reversed(range(256))) * 4096
        nodes[0].gossip.publish(VOTES, vote)
        nodes[0].gossip.publish(BLOCKS, block)
        for node in nodes[1:]:
            await until(lambda node=node: node.received[VOTES] == [vote])
            await until(lambda node=node: node.received[BLOCKS] == [block])


async def test_rejected_messages_stop_at_the_first_node() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(n + 1)) for n in range(3)]
        nodes[0].subscribe(VOTES)
        nodes[1].gossip.subscribe(
            VOTES, lambda _, data: GossipVerdict.REJECT if data == b"bad" else GossipVerdict.ACCEPT
        )
        nodes[2].subscribe(VOTES)
        await nodes[1].network.dial(nodes[0].network.listen_addresses[0])
        await nodes[2].network.dial(nodes[1].network.listen_addresses[0])
        await until(lambda: len(nodes[1].gossip.mesh(VOTES)) == 2)
        nodes[0].gossip.publish(VOTES, b"bad")
        nodes[0].gossip.publish(VOTES, b"good")
        await until(lambda: nodes[2].received[VOTES] == [b"good"])
        assert nodes[1].gossip.peer_counters(nodes[0].network.peer_id)["rejected"] == 1


async def test_failing_and_slow_validators_do_not_harm_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gridtokenx.network.gossip.VALIDATION_TIMEOUT_S", 0.1)
    async with AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(open_node(n + 1)) for n in range(2)]
        received: list[bytes] = []

        def validate(origin: Origin, data: bytes) -> GossipVerdict:
            received.append(data)
            if data == b"sync":
                raise RuntimeError("sync")
            return slowly(data) if data != b"fine" else GossipVerdict.ACCEPT

        async def slowly(data: bytes) -> GossipVerdict:
            if data == b"async":
                raise RuntimeError("async")
            await trio.sleep_forever()
            return GossipVerdict.ACCEPT

        b.gossip.subscribe(VOTES, validate)
        await a.network.dial(b.network.listen_addresses[0])
        await until(lambda: len(a.gossip.peers(VOTES)) == 1)
        for data in (b"sync", b"async", b"slow", b"fine"):
            a.gossip.publish(VOTES, data)
        await until(lambda: b.gossip.counters.get("validator_timeout") == 1)
        assert received == [b"sync", b"async", b"slow", b"fine"]
        assert b.gossip.counters["validator_error"] == 2
        assert b.gossip.counters["validated_ignore"] == 3
        assert b.gossip.counters["validated_accept"] == 1


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_an_order_to_end_leaves_through_a_validator(when: str) -> None:
    def validate(_origin: Origin, _data: bytes) -> GossipVerdict:
        if when == "later":
            return fail()
        raise DiskFailed("GTX-DSK-002: the disk cannot be read")

    async def fail() -> GossipVerdict:
        raise DiskFailed("GTX-DSK-002: the disk cannot be read")

    async with open_node(1) as a:
        with pytest.RaisesGroup(DiskFailed, flatten_subgroups=True):
            async with open_node(2) as b:
                b.gossip.subscribe(VOTES, validate)
                await a.network.dial(b.network.listen_addresses[0])
                await until(lambda: len(a.gossip.peers(VOTES)) == 1)
                a.gossip.publish(VOTES, b"vote")
                await trio.sleep_forever()


async def test_peer_that_went_away_and_came_back_gets_messages_again() -> None:
    async with open_node(1) as a, open_node(2) as b:
        for node in (a, b):
            node.subscribe(VOTES)
        address = a.network.listen_addresses[0]
        await b.network.dial(address)
        await until(lambda: bool(a.gossip.mesh(VOTES) and b.gossip.mesh(VOTES)))
        async with open_node(3) as c:
            c.subscribe(VOTES)
            await c.network.dial(address)
            await until(lambda: len(a.gossip.peers(VOTES)) == 2)
            a.gossip.publish(VOTES, b"1")
            await until(lambda: c.received[VOTES] == [b"1"])
        await until(lambda: len(a.gossip.peers(VOTES)) == 1)
        async with open_node(3) as c:
            c.subscribe(VOTES)
            await c.network.dial(address)
            await until(lambda: len(a.gossip.peers(VOTES)) == 2)
            b.gossip.publish(VOTES, b"2")
            await until(lambda: b"2" in c.received[VOTES])  # "1" may be offered to it again
            c.gossip.publish(VOTES, b"3")
            await until(lambda: a.received[VOTES] == [b"2", b"3"])


async def test_lost_outbound_stream_is_reopened_and_greeted() -> None:
    async with open_node(1) as a, open_network(settings(2)) as stranger:
        a.subscribe(VOTES)
        greetings: list[bytes] = []

        async def serve(stream: Stream) -> None:
            greetings.append(await stream.read_some(1_000))
            await stream.reset()

        stranger.handle(PROTOCOLS, serve)
        await stranger.dial(a.network.listen_addresses[0])
        await until(lambda: len(greetings) >= 3)
        assert all(VOTES.encode() in greeting for greeting in greetings)
        assert a.gossip.counters["outbound_reset"] >= 2


async def test_peer_that_never_reads_slows_no_one_and_is_given_a_new_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gridtokenx.network.gossip_streams.WRITE_TIMEOUT_S", 0.5)
    async with (
        open_node(1, queue_bytes=1 << 20) as a,
        open_node(2) as b,
        open_network(settings(3)) as mute,
    ):

        async def never_read(stream: Stream) -> None:
            await trio.sleep_forever()

        mute.handle(PROTOCOLS, never_read)
        for node in (a, b):
            node.subscribe(BLOCKS)
        await b.network.dial(a.network.listen_addresses[0])
        await mute.dial(a.network.listen_addresses[0])
        stream = await mute.open_stream(a.network.peer_id, PROTOCOLS)
        hello = b"\x0a" + bytes((len(BLOCKS) + 4,)) + b"\x08\x01\x12" + bytes((len(BLOCKS),))
        hello += BLOCKS.encode()
        await stream.write(bytes((len(hello),)) + hello)
        await until(lambda: len(a.gossip.mesh(BLOCKS)) == 2)
        for number in range(40):
            a.gossip.publish(BLOCKS, bytes((number,)) + bytes(100_000))
            await until(lambda number=number: len(b.received[BLOCKS]) == number + 1)
        assert a.gossip.counters["outbound_dropped"] > 0
        await until(lambda: a.gossip.counters.get("outbound_stalled", 0) >= 2)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"\x80" * 9,
        b"\x05\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\x00" * 50_000,
    ],
    ids=["endless length", "cut length", "malformed rpc", "oversize", "empty rpcs"],
)
async def test_garbage_on_the_stream_leaves_the_node_running(garbage: bytes) -> None:
    async with cluster(2, VOTES) as (a, b), open_network(settings(9)) as stranger:
        stranger.handle(PROTOCOLS, lambda stream: stream.read_exactly(1 << 20))
        await stranger.dial(a.network.listen_addresses[0])
        for _ in range(3):
            stream = await stranger.open_stream(a.network.peer_id, PROTOCOLS)
            await stream.write(garbage)
            await stream.close_write()
        await trio.sleep(0.3)
        b.gossip.publish(VOTES, b"still here")
        await until(lambda: a.received[VOTES] == [b"still here"])


async def test_measurement_delivers_every_message() -> None:
    for message_bytes in (200, 250_000):
        result = await measure(message_bytes, 10, nodes=3)
        assert result.delivered == 20
