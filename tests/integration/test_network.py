"""Two and more real hosts on 127.0.0.1."""

from contextlib import AsyncExitStack

import pytest
import trio

from gridtokenx.node.network import (
    Network,
    NetworkError,
    NetworkSettings,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    Stream,
    format_peer_id,
    open_network,
    parse_peer_id,
    read_frame,
    write_frame,
)

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/test/echo/1"


def settings(number: int, **changes) -> NetworkSettings:
    return NetworkSettings(seed=bytes([number]) * 32, listen=LOOPBACK, **changes)


async def echo(stream: Stream) -> None:
    while data := await stream.read_some(65_536):
        await stream.write(data)


async def test_two_hosts_connect_and_exchange_frames() -> None:
    with trio.fail_after(10):
        async with open_network(settings(1)) as a, open_network(settings(2)) as b:
            b.handle([ECHO], echo)
            assert await a.dial(b.listen_addresses[0]) == b.peer_id
            stream = await a.open_stream(b.peer_id, ["/other/1", ECHO])
            assert (stream.peer, stream.protocol) == (b.peer_id, ECHO)
            for size in (0, 1, 127, 128, 100_000, 3_000_000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write_frame, stream, bytes(size))
                    assert await read_frame(stream, 3_000_000) == bytes(size)
            await stream.close_write()
            assert await stream.read_some(1) == b""
