"""Each fault of py-libp2p 0.8.1, shown on the bare library where a second suffices, and mended.

A test that fails on its bare half says that upstream has mended the fault: drop the override.
"""

import gc
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.kad_dht.common import PROTOCOL_ID as DHT_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr

from gridtokenx.network.discovery import Discovery
from gridtokenx.network.host import HostSettings, Network, NetworkError, Stream, open_network
from gridtokenx.network.libp2p_overrides import dht as node_dht
from gridtokenx.network.libp2p_overrides import swarm as node_swarm
from gridtokenx.network.libp2p_overrides import yamux as node_yamux
from gridtokenx.network.libp2p_overrides.yamux import NodeYamux
from tests.support.patience import until

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
TEST = "/test/1"


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Network, Network]]:
    """Two of our hosts, the first connected to the second."""
    async with (
        open_network(HostSettings(seed=b"1" * 32, listen=(LOOPBACK,))) as a,
        open_network(HostSettings(seed=b"2" * 32, listen=(LOOPBACK,))) as b,
    ):
        await a.dial(b.listen_addresses[0])
        await until(lambda: bool(b.connected()))
        yield a, b


def bare_host(muxer: type[Yamux]) -> IHost:
    key_pair = create_new_key_pair()
    noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
    return new_host(key_pair=key_pair, sec_opt={NOISE_ID: noise}, muxer_opt={YAMUX_ID: muxer})


Scenario = Callable[[IHost, IHost], Awaitable[None]]


def _run_scenario(scenario: Scenario, muxer: type[Yamux], alone: bool = True) -> None:
    """Run two bare hosts in an event loop of their own, which they may break as they like.

    `alone`: no other loop has sockets, so whatever is open afterwards was left by the library.
    """
    failures: list[BaseException] = [AssertionError("the scenario did not end")]

    async def run(host: IHost, task_status=trio.TASK_STATUS_IGNORED) -> None:
        async with host.run([Multiaddr(LOOPBACK)]):
            task_status.started()
            await trio.sleep_forever()

    async def main() -> None:
        bare, peer = bare_host(muxer), bare_host(muxer)
        async with trio.open_nursery() as nursery:
            for host in (bare, peer):
                await nursery.start(until_it_breaks, run, host)
            try:
                await scenario(bare, peer)
                failures.clear()
            except Exception as error:  # noqa: BLE001 - raised again outside the loop
                failures[:] = [error]
            nursery.cancel_scope.cancel()

    with suppress(Exception):
        trio.run(main)
    for each in gc.get_objects() if alone else ():
        if isinstance(each, trio.SocketStream | trio.SocketListener):
            each.socket._sock.close()
    if failures:
        raise failures[0]


async def until_it_breaks(run, host: IHost, task_status=trio.TASK_STATUS_IGNORED) -> None:
    try:
        await run(host, task_status=task_status)
    except* Exception:  # noqa: BLE001 - the faults under test; the scenario looks at the host
        pass


async def on_bare(scenario: Scenario, muxer: type[Yamux] = Yamux) -> None:
    """Show a fault on two bare hosts: `scenario` asserts that it is there."""
    await trio.to_thread.run_sync(_run_scenario, scenario, muxer)


async def bare_connect(a: IHost, b: IHost) -> None:
    await a.connect(info_from_p2p_addr(b.get_addrs()[0]))


def muxed(network: Network):
    return network.host.get_network().get_connections()[0].muxed_conn


def sockets_of(network: Network) -> Multiaddr:
    return network.listen_addresses[0].partition("/p2p/")[0]


async def open_tcp(network: Network) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(sockets_of(network).rpartition("/")[2]))


# -- Host and services -----------------------------------------------------------------------------


async def raise_at_once(_stream: object) -> None:
    raise ValueError("a fault in a handler")


async def test_an_exception_in_a_stream_handler_ends_the_stream_alone() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, raise_at_once)
        await bare_connect(peer, bare)
        await peer.new_stream(bare.get_id(), [TEST])
        await until(lambda: bare.get_network().manager.is_finished)  # the fault: the host is gone

    await on_bare(fault)

    async with two_nodes() as (a, b):
        b.handle([TEST], raise_at_once)
        for _ in range(3):
            with pytest.raises(NetworkError, match="closed"):
                await (await a.open_stream(b.peer_id, [TEST])).read_some(1)
        assert b.handler_errors == {TEST: 3}
        assert a.connected()


async def test_an_exception_in_a_service_task_is_isolated() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        bare.get_network().manager.run_task(raise_at_once, None)
        await until(lambda: bare.get_network().manager.is_finished)  # the fault

    await on_bare(fault)

    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        discovery = Discovery(a, [])
        discovery._dht.find_closest = raise_at_once
        discovery._dht.learn = raise_at_once
        await nursery.start(discovery.run)
        await until(lambda: discovery.faults["lookup"] > 0 and discovery.faults["learn"] > 0)
        assert a.connected() == (b.peer_id,)
        nursery.cancel_scope.cancel()


async def test_no_task_manager_searches_all_tasks_for_a_parent() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        await bare_connect(peer, bare)
        assert len(bare.get_network().manager._root_tasks) > 1  # the fault: all in one register

    await on_bare(fault)
    async with two_nodes() as (a, _b):
        assert not hasattr(a.host.get_network(), "_manager")


# -- Swarm -----------------------------------------------------------------------------------------


async def test_an_inbound_connection_gives_its_slot_back() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        limiter = bare.get_network()._inbound_limiter
        await bare_connect(peer, bare)
        await peer.get_network().close_peer(bare.get_id())
        await until(lambda: not bare.get_network().get_connections())
        await trio.sleep(0.2)
        assert limiter.borrowed_tokens == 1  # the fault

    await on_bare(fault)

    async with two_nodes() as (a, b):
        swarm = b.host.get_network()
        await a.disconnect(b.peer_id)
        await until(lambda: not b.connected())
        await trio.sleep(0.1)
        tasks = len(swarm.nursery.child_tasks)
        for _ in range(30):
            await a.dial(b.listen_addresses[0])
            await a.disconnect(b.peer_id)
        await until(lambda: not b.connected() and len(swarm.nursery.child_tasks) <= tasks)
        assert not swarm._half_open


async def test_a_dial_does_not_wait_for_slower_addresses() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        started_s = trio.current_time()
        await bare_connect(peer, bare)
        assert trio.current_time() - started_s >= 0.25  # the fault

    await on_bare(fault)

    took_s: list[float] = []
    while len(took_s) < 20 and min(took_s, default=1.0) >= 0.25:  # a busy machine may take longer
        started_s = trio.current_time()
        async with two_nodes():
            took_s.append(trio.current_time() - started_s)
    assert min(took_s) < 0.25


async def test_a_peer_that_failed_may_be_dialled_at_once() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        info = info_from_p2p_addr(bare.get_addrs()[0])
        bare.get_network()._closing = False
        peer.get_network()._negative_peer_cache.mark_failed(str(bare.get_id()))
        with pytest.raises(Exception, match="negative cache"):
            await peer.connect(info)  # the fault: the host listens, but nobody tries

    await on_bare(fault)

    async with two_nodes() as (a, b):
        await a.disconnect(b.peer_id)
        a.host.get_network()._negative_peer_cache.mark_failed(str(b.host.get_id()))
        await a.dial(b.listen_addresses[0])


async def test_the_given_multiplexer_is_used() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        await bare_connect(peer, bare)
        assert type(peer.get_network().get_connections()[0].muxed_conn) is Yamux  # the fault

    await on_bare(fault, NodeYamux)
    async with two_nodes() as (a, _b):
        assert type(muxed(a)) is NodeYamux


async def test_two_nodes_cannot_share_a_port() -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        address = bare.get_transport_addrs()[0]
        assert await peer.get_network().listen(address)
        assert address in peer.get_transport_addrs()  # the fault

    await on_bare(fault)
    async with open_network(HostSettings(seed=b"1" * 32, listen=(LOOPBACK,))) as a:
        with pytest.raises(OSError, match="the port is taken"):
            async with open_network(HostSettings(seed=b"2" * 32, listen=(sockets_of(a),))):
                raise AssertionError


async def test_a_socket_read_takes_more_than_one_noise_message(monkeypatch) -> None:
    calls = 0
    receive_some = trio.SocketStream.receive_some

    async def counting(stream: trio.SocketStream, max_bytes: int | None = None) -> bytes:
        nonlocal calls
        calls += 1
        return await receive_some(stream, max_bytes)

    monkeypatch.setattr(trio.SocketStream, "receive_some", counting)
    messages = 100

    async def bare_reader(stream) -> None:
        for _ in range(messages):
            await stream.write(await stream.read(10))

    async def reader(stream: Stream) -> None:
        for _ in range(messages):
            await stream.write(await stream.read_some(10))

    async def ping_pong(write, read) -> int:
        before = calls
        for _ in range(messages):
            await write(b"0123456789")
            await read(10)
        return calls - before

    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, bare_reader)
        await bare_connect(peer, bare)
        raw = await peer.new_stream(bare.get_id(), [TEST])
        # The fault: length and body apart, at both ends.
        assert await ping_pong(raw.write, raw.read) >= 4 * messages

    await on_bare(fault)
    async with two_nodes() as (a, b):
        b.handle([TEST], reader)
        stream = await a.open_stream(b.peer_id, [TEST])
        node_calls = await ping_pong(stream.write, stream.read_some)
    assert node_calls <= 2.5 * messages


async def test_garbage_on_the_port_harms_nobody() -> None:
    chance = random.Random(7)
    hello = b"\x13/multistream/1.0.0\n"
    openings = [
        b"GET / HTTP/1.1\r\n\r\n",
        chance.randbytes(5_000),
        hello,
        hello + b"\x07/noise\n" + chance.randbytes(300),
        hello + b"\x07/noise\n\xff\xff" + chance.randbytes(65_535),
        hello + b"\x13/plaintext/2.0.0\n" + chance.randbytes(50),
        b"\xff" * 100,
        b"\x80" * 8 + b"\x01" + b"A" * 100_000,
        hello + b"\x04\xff\xfe\xfd\n",
        b"",
    ]
    async with two_nodes() as (a, b):
        for opening in openings * 3:
            stream = await open_tcp(b)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(opening)
            await stream.aclose()
        await until(lambda: not b.host.get_network()._half_open)
        assert b.inbound_refused.total() == 3 * len(openings)
        await a.disconnect(b.peer_id)
        await a.dial(b.listen_addresses[0])


async def test_idle_half_open_connections_keep_nobody_out(monkeypatch) -> None:
    monkeypatch.setattr(node_swarm, "HANDSHAKE_TIMEOUT_S", 5.0)  # of the genuine dial too
    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        await a.disconnect(b.peer_id)
        idle: list[trio.SocketStream] = []
        for _ in range(node_swarm.MAX_HALF_OPEN + 50):
            idle.append(await open_tcp(b))
        await a.dial(b.listen_addresses[0])
        await until(lambda: bool(b.connected()))
        assert len(b.host.get_network()._half_open) <= node_swarm.MAX_HALF_OPEN
        await until(lambda: not b.host.get_network()._half_open)
        for stream in idle:
            nursery.start_soon(stream.aclose)


async def test_a_bare_library_peer_is_understood() -> None:
    """The overrides change nothing on the wire."""
    size = 1_000_000

    async def echo(stream: Stream) -> None:
        while data := await stream.read_some(1 << 20):
            await stream.write(data)

    async with open_network(HostSettings(seed=b"1" * 32, listen=(LOOPBACK,))) as a:
        a.handle([TEST], echo)

        async def exchange(_bare: IHost, peer: IHost) -> None:
            info = info_from_p2p_addr(Multiaddr(a.listen_addresses[0]))
            await peer.connect(info)
            raw = await peer.new_stream(info.peer_id, [TEST])
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(raw.write, bytes(size))
                while len(received) < size:
                    received += await raw.read(65_536)
            await raw.close()
            await peer.disconnect(info.peer_id)

        with trio.fail_after(60):
            await trio.to_thread.run_sync(_run_scenario, exchange, Yamux, False)
        await until(lambda: not a.connected())


# -- Yamux -----------------------------------------------------------------------------------------


async def test_credit_is_returned_by_the_half_window(monkeypatch) -> None:
    updates = 0

    def count(frame: bytes) -> None:
        nonlocal updates
        _, kind, flags, _, increment = struct.unpack("!BBHII", frame[:12])
        updates += kind == 1 and flags == 0 and increment > 0

    write_frame, queue_frame = Yamux._write_frame, NodeYamux.queue_frame

    async def bare_write(self: Yamux, data: bytes) -> None:
        count(data)
        await write_frame(self, data)

    def node_queue(self: NodeYamux, frame: bytes) -> None:
        count(frame)
        queue_frame(self, frame)

    monkeypatch.setattr(Yamux, "_write_frame", bare_write)
    monkeypatch.setattr(NodeYamux, "queue_frame", node_queue)

    async def answer(stream) -> None:
        read = stream.read_some if isinstance(stream, Stream) else stream.read
        for _ in range(100):
            await stream.write(await read(1_000))

    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, answer)
        await bare_connect(peer, bare)
        nonlocal updates
        raw = await peer.new_stream(bare.get_id(), [TEST])
        updates = 0
        for _ in range(100):
            await raw.write(bytes(1_000))
            await raw.read(1_000)
        assert updates >= 200  # the fault: one for every read

    await on_bare(fault)
    async with two_nodes() as (a, b):
        b.handle([TEST], answer)
        stream = await a.open_stream(b.peer_id, [TEST])
        updates = 0
        for _ in range(100):
            await stream.write(bytes(1_000))
            await stream.read_exactly(1_000)
        assert updates <= 2


async def test_a_peer_that_ignores_the_window_is_disconnected() -> None:
    async def never_read(_stream: object) -> None:
        await trio.sleep_forever()

    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, never_read)
        await bare_connect(peer, bare)
        raw = await peer.new_stream(bare.get_id(), [TEST])
        raw.muxed_stream.send_window = 1 << 40
        await raw.write(bytes(4 << 20))
        connection = bare.get_network().get_connections()[0].muxed_conn
        held = connection.stream_buffers
        await until(lambda: sum(map(len, held.values())) == 4 << 20)  # the fault: all is kept

    await on_bare(fault)

    async with two_nodes() as (a, b):
        b.handle([TEST], never_read)
        stream = await a.open_stream(b.peer_id, [TEST])
        connection = muxed(b)
        stream._raw.muxed_stream.send_window = 1 << 40
        with pytest.raises(NetworkError, match="closed"):
            await stream.write(bytes(100 << 20))
        await until(lambda: not b.connected())
        assert "exceed the window" in connection.closed_by


async def test_two_writers_of_one_stream_do_not_interleave() -> None:
    size = 200_000

    def is_mixed(data: bytes) -> bool:
        return data not in (b"x" * size + b"y" * size, b"y" * size + b"x" * size)

    async def write_both(write) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, b"x" * size)
            nursery.start_soon(write, b"y" * size)

    received = bytearray()

    async def read_all(stream) -> None:
        read = stream.read_some if isinstance(stream, Stream) else stream.read
        while len(received) < 2 * size:
            received.extend(await read(65_536))

    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, read_all)
        await bare_connect(peer, bare)
        raw = await peer.new_stream(bare.get_id(), [TEST])
        await write_both(raw.write)
        await until(lambda: len(received) == 2 * size)
        assert is_mixed(bytes(received))  # the fault

    await on_bare(fault)
    received.clear()
    async with two_nodes() as (a, b):
        b.handle([TEST], read_all)
        stream = await a.open_stream(b.peer_id, [TEST])
        await write_both(stream.write)
        await until(lambda: len(received) == 2 * size)
        assert not is_mixed(bytes(received))


class Relay:
    """A TCP relay that can be frozen: bytes wait, nothing is closed."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._thawed = trio.Event()
        self._thawed.set()

    def freeze(self) -> None:
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._serve, listeners, task_status=task_status)

    async def _serve(self, client: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            server = await trio.open_tcp_stream("127.0.0.1", self._target_port)
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, client, server, nursery)
                nursery.start_soon(self._copy, server, client, nursery)

    async def _copy(self, source, target, nursery) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65_536):
                await self._thawed.wait()
                await target.send_all(data)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_nodes_over_a_relay() -> AsyncIterator[tuple[Network, Network, Relay]]:
    async with (
        open_network(HostSettings(seed=b"1" * 32, listen=())) as a,
        open_network(HostSettings(seed=b"2" * 32, listen=(LOOPBACK,))) as b,
        trio.open_nursery() as nursery,
    ):
        relay = Relay(int(sockets_of(b).rpartition("/")[2]))
        await nursery.start(relay.run)
        peer = b.listen_addresses[0].partition("/p2p/")[2]
        await a.dial(f"/ip4/127.0.0.1/tcp/{relay.port}/p2p/{peer}")
        await until(lambda: bool(b.connected()))
        yield a, b, relay
        nursery.cancel_scope.cancel()


async def test_a_silent_peer_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(node_yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(node_yamux, "KEEPALIVE_TIMEOUT_S", 2.0)
    monkeypatch.setattr(node_yamux, "KEEPALIVE_GRACE_S", 0.5)
    async with two_nodes_over_a_relay() as (a, b, relay):
        await trio.sleep(4)  # longer than who is silent would stay
        assert a.connected()
        assert b.connected()
        relay.freeze()
        await until(lambda: not a.connected() and not b.connected())


async def test_the_time_to_notice_a_silent_peer_is_bounded() -> None:
    worst_s = (
        node_yamux.KEEPALIVE_INTERVAL_S * 2
        + node_yamux.KEEPALIVE_TIMEOUT_S
        + node_yamux.KEEPALIVE_GRACE_S
    )
    assert worst_s <= 22


async def test_disconnecting_a_frozen_peer_is_prompt() -> None:
    async with two_nodes_over_a_relay() as (a, b, relay):
        relay.freeze()
        with trio.fail_after(15):
            await a.disconnect(b.peer_id)
        assert not a.connected()


async def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    received = 0

    async def count(stream: Stream) -> None:
        nonlocal received
        while data := await stream.read_some(1 << 20):
            received += len(data)

    async with two_nodes_over_a_relay() as (a, b, relay):
        b.handle([TEST], count)
        streams = [await a.open_stream(b.peer_id, [TEST]) for _ in range(60)]
        relay.freeze()  # sixty windows of 256 KiB are more than the sockets hold
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(stream.write, bytes(1 << 20))
        relay.thaw()
        for stream in streams:
            await stream.reset()
        before = received
        stream = await a.open_stream(b.peer_id, [TEST])
        await stream.write(b"whole")
        await until(lambda: received >= before + 5)
        assert a.connected() == (b.peer_id,)


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_ending_a_stream_wakes_its_reader(ending: str) -> None:
    async def wait(_stream: object) -> None:
        await trio.sleep_forever()

    async def fault(bare: IHost, peer: IHost) -> None:
        bare.set_stream_handler(TEST, wait)
        await bare_connect(peer, bare)
        raw = await peer.new_stream(bare.get_id(), [TEST])
        with trio.move_on_after(0.3) as hung:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(raw.read, 1)
                await trio.sleep(0.1)
                await getattr(raw, ending)()
        assert hung.cancelled_caught

    await on_bare(fault)
    async with two_nodes() as (a, b):
        b.handle([TEST], wait)
        stream = await a.open_stream(b.peer_id, [TEST])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(stream, ending))
            with trio.fail_after(60), pytest.raises(NetworkError, match="closed"):
                await stream.read_some(1)


async def test_a_stream_that_the_peer_never_closes_is_forgotten() -> None:
    async def wait(_stream: Stream) -> None:
        await trio.sleep_forever()

    async with two_nodes() as (a, b):
        b.handle([TEST], wait)
        connection = muxed(a)
        open_before = len(connection.streams)
        for _ in range(10):
            await (await a.open_stream(b.peer_id, [TEST])).close()
        assert len(connection.streams) >= open_before + 10
        late_s = trio.current_time() + node_yamux.PEER_CLOSE_TIMEOUT_S + 1
        assert connection._sweep_stale_streams(late_s) == 10
        await until(lambda: len(muxed(b).streams) <= open_before)


async def test_a_burst_of_tiny_writes_does_not_end_the_connection() -> None:
    writes = node_yamux.SEND_QUEUE_FRAMES * 2

    async with two_nodes_over_a_relay() as (a, b, relay):
        received = 0

        async def count(stream: Stream) -> None:
            nonlocal received
            while data := await stream.read_some(65_536):
                received += len(data)

        b.handle([TEST], count)
        streams = [await a.open_stream(b.peer_id, [TEST]) for _ in range(16)]

        async def write_all(stream: Stream) -> None:
            for _ in range(writes // 16):
                await stream.write(b"x")

        relay.freeze()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(write_all, stream)
            await trio.sleep(0.2)
            relay.thaw()
        await until(lambda: received == writes)
        assert a.connected()


async def test_streams_of_a_peer_are_limited() -> None:
    async def wait(_stream: Stream) -> None:
        await trio.sleep_forever()

    async with two_nodes() as (a, b):
        b.handle([TEST], wait)
        for limit in (node_yamux.MAX_STRANGERS_STREAMS, node_yamux.MAX_INBOUND_STREAMS):
            for _ in range(limit + 100):
                await muxed(a).open_stream()
            await until(lambda limit=limit: muxed(b).open_streams() == limit)
            assert a.connected()
            b.protect(a.peer_id)


async def test_random_frames_end_at_most_the_connection() -> None:
    chance = random.Random(11)
    async with two_nodes() as (a, b):
        for _ in range(60):
            if not a.connected():
                await a.dial(b.listen_addresses[0])
            with suppress(NetworkError):
                await a.open_stream(b.peer_id, ["/ipfs/ping/1.0.0"], timeout_s=0.2)
            if not a.connected():
                continue
            for _ in range(5):
                header = struct.pack(
                    "!BBHII",
                    chance.choice([0, 0, 0, 0, 1]),
                    chance.choice([0, 1, 2, 3, 7]),
                    chance.choice([0, 1, 2, 3, 4, 8, 5, 9, 255]),
                    chance.randrange(0, 8),
                    chance.choice([0, 1, 5, 2**31, 2**32 - 1]),
                )
                muxed(a).queue_frame(header + chance.randbytes(chance.choice([0, 1, 5])))
                await trio.lowlevel.checkpoint()
                if not a.connected():
                    break
        with suppress(NetworkError):
            await a.disconnect(b.peer_id)
        await until(lambda: not b.connected())
        await a.dial(b.listen_addresses[0])
        assert b.connected() == (a.peer_id,) or await until(lambda: bool(b.connected())) is None


# -- Peer store ------------------------------------------------------------------------------------


async def test_a_flood_of_peers_does_not_evict_our_identity_or_our_peers() -> None:
    address = [Multiaddr("/ip4/192.0.2.1/tcp/1")]
    invented = [ID(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(1_500)]

    async def fault(bare: IHost, peer: IHost) -> None:
        for each in invented:
            bare.get_peerstore().add_addrs(each, address, 60)
        with pytest.raises(PeerStoreError):
            bare.get_private_key()

    await on_bare(fault)
    async with two_nodes() as (a, b):
        await until(lambda: bool(a.addresses_of(b.peer_id)))
        store = a.host.get_peerstore()
        for each in invented:
            store.add_addrs(each, address, 60)
        assert len(store.peer_ids()) <= 1_000
        assert len(a.sign(b"still ourselves")) == 64
        assert a.addresses_of(b.peer_id) == b.listen_addresses
        assert invented[-1] in store.peer_ids()


# -- DHT -------------------------------------------------------------------------------------------


async def test_idle_dht_streams_are_few_and_end(monkeypatch) -> None:
    async def fault(bare: IHost, peer: IHost) -> None:
        dht = KadDHT(bare, DHTMode.SERVER)
        await bare_connect(peer, bare)
        for _ in range(12):
            await peer.new_stream(bare.get_id(), [DHT_ID])
        await trio.sleep(0.3)
        assert dht._inbound_limiter.available_tokens == 0  # the fault: nobody else is served

    await on_bare(fault)

    monkeypatch.setattr(node_dht, "INBOUND_TIMEOUT_S", 3.0)
    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        discovery = Discovery(b, [])
        await nursery.start(discovery.run)
        idle = []
        for _ in range(6):
            with suppress(NetworkError):  # the reset may overtake the negotiation
                idle.append(await a.open_stream(b.peer_id, [DHT_ID]))
        await until(lambda: discovery._dht.refused["busy"] == 4)
        assert discovery._dht._streams_of.total() == node_dht.MAX_INBOUND_STREAMS_PER_PEER
        await until(lambda: discovery._dht._streams_of.total() == 0)
        assert len(idle) >= node_dht.MAX_INBOUND_STREAMS_PER_PEER
        nursery.cancel_scope.cancel()


async def test_nobody_can_store_records_in_the_dht() -> None:
    message = Message(type=Message.MessageType.PUT_VALUE, key=b"key")
    message.record.key, message.record.value = b"key", bytes(100_000)

    async def fault(bare: IHost, peer: IHost) -> None:
        dht = KadDHT(bare, DHTMode.SERVER)
        await bare_connect(peer, bare)
        raw = await peer.new_stream(bare.get_id(), [DHT_ID])
        await raw.write(encode_varint_prefixed(message.SerializeToString()))
        await until(lambda: dht.get_value_store_size() == 1)  # the fault

    await on_bare(fault)

    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        discovery = Discovery(b, [])
        await nursery.start(discovery.run)
        message.record.value = bytes(100)
        stream = await a.open_stream(b.peer_id, [DHT_ID])
        await stream.write(encode_varint_prefixed(message.SerializeToString()))
        with pytest.raises(NetworkError, match="closed"):
            await stream.read_exactly(1)
        assert discovery._dht.get_value_store_size() == 0
        nursery.cancel_scope.cancel()


async def test_random_dht_messages_harm_nobody() -> None:
    chance = random.Random(13)
    async with two_nodes() as (a, b), trio.open_nursery() as nursery:
        discovery = Discovery(b, [])
        await nursery.start(discovery.run)
        for number in range(60):
            body = chance.randbytes(chance.choice([1, 5, 40, 200]))
            if number % 2:
                message = Message(
                    type=chance.randrange(6), key=chance.randbytes(chance.choice([0, 2, 34, 90]))
                )
                entry = message.closerPeers.add()
                entry.id, _ = chance.randbytes(4), entry.addrs.append(chance.randbytes(6))
                body = encode_varint_prefixed(message.SerializeToString())
            stream = await a.open_stream(b.peer_id, [DHT_ID])
            await stream.write(body)
            await stream.close_write()
            with trio.move_on_after(0.5), suppress(NetworkError):
                await stream.read_some(100)
            await stream.reset()
        assert a.connected()
        assert not discovery.faults
        nursery.cancel_scope.cancel()


# -- Import ----------------------------------------------------------------------------------------

WITHOUT_FASTECDSA = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fastecdsa":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())

import trio
from gridtokenx.network.host import NetworkError, HostSettings, open_network
from libp2p.crypto.ecc import create_new_key_pair
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.keys import KeyType
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID

try:
    create_new_key_pair("P-256")
except NotImplementedError as error:
    print(error)

class P256PublicKey(Ed25519PublicKey):
    def get_type(self):
        return KeyType.ECC_P256

async def main():
    listen = ("/ip4/127.0.0.1/tcp/0",)
    async with (
        open_network(HostSettings(seed=b"1" * 32, listen=listen)) as a,
        open_network(HostSettings(seed=b"2" * 32, listen=listen)) as b,
    ):
        await a.dial(b.listen_addresses[0])
        print("connected", a.connected() == (b.peer_id,))
        await a.disconnect(b.peer_id)
        noise = a.host.get_network().upgrader.security_multistream.transports[NOISE_ID]
        key = noise.libp2p_privkey
        ours = key.get_public_key()
        key.get_public_key = lambda: P256PublicKey(ours.impl)
        try:
            await a.dial(b.listen_addresses[0])
        except NetworkError as error:
            print("refused", error.reason, dict(b.inbound_refused))
        key.get_public_key = lambda: ours
        await a.dial(b.listen_addresses[0])
        print("connected", a.connected() == (b.peer_id,))

trio.run(main)
"""


def test_the_node_runs_without_fastecdsa() -> None:
    bare = subprocess.run(
        [sys.executable, "-c", WITHOUT_FASTECDSA.partition("import trio")[0] + "import libp2p"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "No module named 'fastecdsa" in bare.stderr  # the fault
    ours = subprocess.run(
        [sys.executable, "-c", WITHOUT_FASTECDSA],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ,
    )
    assert ours.stdout.splitlines() == [
        "P-256 keys are not supported: Ed25519 identities only",
        "connected True",
        "refused closed {'handshake': 1}",
        "connected True",
    ], ours.stderr
