"""What strangers may cost a host, over real sockets: CPU, bytes, streams, handshakes."""

import struct
import time
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from libp2p.utils.varint import encode_uvarint
from patience import until

from gridtokenx.node import throttle
from gridtokenx.node.libp2p_overrides import negotiation, sockets, yamux
from gridtokenx.node.network import (
    Network,
    NetworkError,
    NetworkSettings,
    Stream,
    open_network,
    read_frame,
    write_frame,
)

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
WORK = "/test/work/1"
MIB = 1 << 20


def settings(number: int) -> NetworkSettings:
    return NetworkSettings(seed=bytes([number]) * 32, listen=LOOPBACK)


def muxed(network: Network):
    return network.host.get_network().get_connections()[0].muxed_conn


def gate_of(network: Network) -> throttle.Gate:
    gate: throttle.Gate = network.host.get_network().gate
    return gate


async def read_all(stream: IMuxedStream) -> None:
    while await stream.read(65_536):
        pass


async def tcp_to(network: Network) -> trio.SocketStream:
    port = network.listen_addresses[0].partition("/p2p/")[0].rpartition("/")[2]
    return await trio.open_tcp_stream("127.0.0.1", int(port))


async def work(stream: Stream) -> None:
    """A handler that takes 20 ms of CPU for each frame."""
    while True:
        frame = await read_frame(stream, MIB)
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass
        await write_frame(stream, frame)


async def test_a_stranger_that_costs_much_waits_and_pays_and_a_trusted_peer_does_not() -> None:
    async with AsyncExitStack() as stack:
        a, b, victim = [
            await stack.enter_async_context(open_network(settings(number))) for number in (1, 2, 3)
        ]
        victim.handle([WORK], work)
        victim.set_authorities([b.peer_id])
        for each in (a, b):
            await each.dial(victim.listen_addresses[0])
        await until(lambda: len(victim.connected()) == 2)
        stranger = await a.open_stream(victim.peer_id, [WORK])
        source = victim.source_of(a.peer_id)
        assert source == a.peer_id.hex()
        assert victim.source_of(b.peer_id) is None

        async def ask_for_ever() -> None:
            while True:
                await write_frame(stranger, b"x")
                await read_frame(stranger, 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_ever)
            await until(lambda: victim.budget.wait_s(source, trio.current_time()) > 0)
            trusted = await b.open_stream(victim.peer_id, [WORK])
            spent_s = victim.budget.spent_s
            for _ in range(20):
                await write_frame(trusted, b"x")
                assert await read_frame(trusted, 10) == b"x"
            # 0.4 s of CPU went by for the trusted peer, and none of it was charged.
            assert victim.budget.spent_s - spent_s < 0.2
            nursery.cancel_scope.cancel()
        assert a.connected()
        assert victim.connected()


async def test_unread_data_of_all_strangers_together_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never_read(_stream: Stream) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(throttle, "MAX_HELD_BYTES", 2 * MIB)
    async with AsyncExitStack() as stack:
        victim = await stack.enter_async_context(open_network(settings(1)))
        victim.handle([WORK], never_read)
        others = [
            await stack.enter_async_context(open_network(settings(number))) for number in (2, 3, 4)
        ]
        friend = await stack.enter_async_context(open_network(settings(5)))
        victim.protect(friend.peer_id)

        async def fill(network: Network, streams: int) -> None:
            await network.dial(victim.listen_addresses[0])
            for _ in range(streams):
                with suppress(NetworkError), trio.move_on_after(0.2):
                    stream = await network.open_stream(victim.peer_id, [WORK])
                    await stream.write(bytes(yamux.DEFAULT_WINDOW_SIZE))

        await fill(friend, 16)
        for each in others:
            await fill(each, 4)
        gate = gate_of(victim)
        await until(lambda: gate.held_over > 0)
        held = [holder.held_bytes() for holder in gate._strangers()]
        assert sum(held) <= 2 * MIB + throttle.HELD_LOOK_BYTES
        assert victim.is_connected(friend.peer_id)
        assert len(victim.connected()) < 4


@pytest.mark.parametrize(
    "opening",
    [
        encode_uvarint(1 << 40) + bytes(sockets.MAX_HANDSHAKE_BYTES + 1),
        b"\x13/multistream/1.0.0\n" + b"\x03xx\n" * (sockets.MAX_HANDSHAKE_BYTES // 3),
    ],
)
async def test_a_handshake_that_does_not_end_is_ended(opening: bytes) -> None:
    async with open_network(settings(1)) as victim, await tcp_to(victim) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(opening)
            with trio.fail_after(5):
                while await stream.receive_some(65_536):
                    pass
        await until(lambda: victim.inbound_refused["handshake"] == 1)


@pytest.mark.parametrize(
    "said",
    [
        encode_uvarint(negotiation.MAX_NAME_BYTES + 1),
        b"\x02\xff\n",  # no UTF-8
        b"\x03ab",  # no end
        b"\x03ab\n" * (negotiation.MAX_NAMES + 1),
    ],
)
async def test_names_of_protocols_are_short_few_and_text(said: bytes) -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as victim:
        await a.dial(victim.listen_addresses[0])
        stream = await muxed(a).open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n" + said)
        with pytest.raises(MuxedStreamReset):
            await read_all(stream)
        assert victim.is_connected(a.peer_id)
        assert not victim.handler_errors


async def test_a_flood_of_pings_ends_the_connection() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as victim:
        await a.dial(victim.listen_addresses[0])
        ping = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7)
        for _ in range(yamux.MAX_PINGS + 1):
            muxed(a).queue_frame(ping)
        await until(lambda: not a.connected())


async def test_an_ipv6_peer_has_its_own_address() -> None:
    listen = NetworkSettings(seed=b"1" * 32, listen=("/ip6/::1/tcp/0",))
    async with open_network(settings(2)) as a, open_network(listen) as victim:
        await a.dial(victim.listen_addresses[0])
        await until(lambda: victim.is_connected(a.peer_id))
        assert victim.remote_ip(a.peer_id) == "::1"
