"""Listening for WebSockets beside TCP: the swarm's limits hold, and nothing of it ends the node."""

import base64
import gc
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.transport.websocket.listener import WebsocketListener, WebsocketListenerConfig
from multiaddr import Multiaddr

from gridtokenx.network.host import HostSettings, Network, Stream, open_network, parse_address
from gridtokenx.network.libp2p_overrides import swarm as node_swarm
from gridtokenx.network.libp2p_overrides.swarm import NodeUpgrader
from gridtokenx.network.libp2p_overrides.websocket import WebSocketStream
from gridtokenx.network.libp2p_overrides.yamux import NodeYamux
from tests.support.patience import until

TCP, WEB = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"
ECHO = "/test/echo/1"


@asynccontextmanager
async def listening() -> AsyncIterator[Network]:
    async with open_network(HostSettings(seed=b"1" * 32, listen=(TCP, WEB))) as network:

        async def echo(stream: Stream) -> None:
            while data := await stream.read_some(65_536):
                await stream.write(data)

        network.handle([ECHO], echo)
        yield network


def web_address(network: Network) -> str:
    return next(each for each in network.listen_addresses if "/ws" in each)


def web_port(network: Network) -> int:
    return int(web_address(network).split("/tcp/")[1].split("/")[0])


async def drain(stream: trio.SocketStream) -> None:
    """Read until the other side has closed or reset."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(4_096):
            pass


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """One masked WebSocket frame of a client."""
    first = (0x80 if final else 0) | opcode
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return bytes([first]) + length + bytes(4) + payload  # a mask of zeros changes nothing


class WebClient:
    """A byte stream over the bare frames of a WebSocket: what a browser's libp2p writes and reads.

    `piece_bytes` cuts what is written into messages of that size, each in two frames with a ping
    between them.
    """

    def __init__(self, stream: trio.SocketStream, piece_bytes: int = 60_000) -> None:
        self.stream = stream
        self.pongs = 0
        self._piece_bytes = piece_bytes
        self._raw, self._data = bytearray(), bytearray()

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), self._piece_bytes):
            piece = data[start : start + self._piece_bytes]
            half = len(piece) // 2
            await self.stream.send_all(
                frame(2, piece[:half], final=False) + frame(9, b"?") + frame(0, piece[half:])
            )

    async def read(self, n: int | None = None) -> bytes:
        while not self._data:
            header = await self._exactly(2)
            size = header[1]
            if size >= 126:
                size = int.from_bytes(await self._exactly(2 if size == 126 else 8))
            payload = await self._exactly(size)
            if header[0] == 0x8A:
                self.pongs += 1
            else:
                assert header[0] == 0x82
                self._data += payload
        size = len(self._data) if n is None or n < 0 else n
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    async def _exactly(self, size: int) -> bytes:
        while len(self._raw) < size:
            chunk = await self.stream.receive_some(65_536)
            if not chunk:
                raise trio.BrokenResourceError("closed")
            self._raw += chunk
        data = bytes(self._raw[:size])
        del self._raw[:size]
        return data

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return ("127.0.0.1", 0)


def opening(**headers: str) -> bytes:
    lines = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Origin": "https://page.example",
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET / HTTP/1.1\r\n{head}\r\n".encode()


async def connect(port: int, piece_bytes: int = 60_000) -> WebClient:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(opening())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    assert head.startswith(b"HTTP/1.1 101")
    return WebClient(stream, piece_bytes)


async def test_a_stream_runs_over_a_websocket_however_it_is_cut() -> None:
    key_pair = create_new_key_pair(b"2" * 32)
    noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
    upgrader = NodeUpgrader({NOISE_ID: noise}, {YAMUX_ID: NodeYamux})
    async with listening() as network, trio.open_nursery() as nursery:
        client = await connect(web_port(network), piece_bytes=700)
        with trio.fail_after(60):
            raw = RawConnection(client, True)
            secured = await upgrader.upgrade_security(raw, True, ID(network.peer_id))
            muxed = await upgrader.upgrade_connection(secured, ID(network.peer_id))
            nursery.start_soon(muxed.start)
            stream = await muxed.open_stream()
            greeting = b"\x13/multistream/1.0.0\n\x0d/test/echo/1\n"
            await stream.write(greeting)
            sent = os.urandom(300_000)
            nursery.start_soon(stream.write, sent)
            got = b""
            while len(got) < len(greeting) + len(sent):
                got += await stream.read()
        assert got == greeting + sent
        assert client.pongs > 400
        assert network.connected() == (network.connected()[0],)
        await client.close()
        await until(lambda: not network.connected())
        nursery.cancel_scope.cancel()


def test_the_address_says_ws_and_nodes_do_not_dial_it() -> None:
    address = "/ip4/127.0.0.1/tcp/9001/ws/p2p/12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq"
    with pytest.raises(ValueError, match="is not an address like"):
        parse_address(address)
    parse_address(address.replace("/ws", ""))


async def test_what_is_no_websocket_is_refused_and_counted() -> None:
    garbage = (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        opening(Upgrade="h2c"),
        b"\x00" * 400,
        b"GET /" + b"a" * 40_000,
        opening() + frame(1, b"text is for nobody"),
        opening() + b"\x82\x01a",  # not masked
        opening() + frame(2, b"not noise"),
        opening() + frame(8, b""),
        b"",
    )
    async with listening() as network:
        for sent in garbage:
            stream = await trio.open_tcp_stream("127.0.0.1", web_port(network))
            with trio.fail_after(60):
                await stream.send_all(sent)
                await stream.send_eof()
                await drain(stream)
            await stream.aclose()
        await until(lambda: network.inbound_refused.total() == len(garbage))
        async with open_network(HostSettings(seed=b"3" * 32, listen=(TCP,))) as other:
            await other.dial(next(each for each in network.listen_addresses if "/ws" not in each))


async def test_the_limit_of_half_open_connections_holds(monkeypatch) -> None:
    """Bare library: its limit is looked at before it listens, never again."""
    accepted = 0

    async def count(_connection) -> None:
        nonlocal accepted
        accepted += 1
        await trio.sleep_forever()

    bare = WebsocketListener(count, None, WebsocketListenerConfig(max_connections=1))
    await bare.listen(Multiaddr(WEB))
    port = int(bare.get_addrs()[0].value_for_protocol("tcp"))
    clients = [await connect(port) for _ in range(3)]
    await until(lambda: accepted == 3)
    for each in clients:  # first: the library waits for ever for a peer to say goodbye
        await each.close()
    await bare.close()

    monkeypatch.setattr(node_swarm, "MAX_HALF_OPEN", 2)
    monkeypatch.setattr(node_swarm, "HANDSHAKE_TIMEOUT_S", 300.0)
    async with listening() as network:
        first, *others = [await connect(web_port(network)) for _ in range(4)]
        with trio.fail_after(60):
            await drain(first.stream)
        await until(lambda: network.inbound_refused["timeout"] == 2)
        for each in (first, *others):
            await each.close()


async def test_a_silent_handshake_has_a_time_limit(monkeypatch) -> None:
    """Bare library: its own limit, here a twentieth of a second, is never looked at."""
    bare = WebsocketListener(no_handler, None, WebsocketListenerConfig(handshake_timeout=0.05))
    await bare.listen(Multiaddr(WEB))
    port = int(bare.get_addrs()[0].value_for_protocol("tcp"))
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.move_on_after(0.5) as patience:
            await stream.receive_some(1)
        assert patience.cancelled_caught  # the fault
    await bare.close()

    monkeypatch.setattr(node_swarm, "HANDSHAKE_TIMEOUT_S", 0.2)
    async with listening() as network:
        stream = await trio.open_tcp_stream("127.0.0.1", web_port(network))
        async with stream:
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b""
        assert network.inbound_refused["timeout"] == 1


async def no_handler(_connection) -> None:
    await trio.sleep_forever()


def test_an_error_behind_the_library_s_listener_ends_the_process() -> None:
    async def fail() -> None:
        raise ValueError("a fault of ours")

    async def main() -> None:
        bare = WebsocketListener(no_handler, None)
        await bare.listen(Multiaddr(WEB))
        left.extend(bare._server._listeners)
        bare._nursery.start_soon(fail)
        with suppress(Exception):  # of the listener's tasks nobody here can catch anything
            await trio.sleep(20)

    left: list[trio.SocketListener] = []
    with pytest.raises(trio.TrioInternalError):  # the fault: out of `trio.run` itself
        trio.run(main)
    for each in left:
        each.socket._sock.close()
    gc.collect()  # whatever else was left open is told here


async def test_an_error_behind_our_listener_ends_one_connection(monkeypatch) -> None:
    async def fail(_accepted) -> None:
        raise ValueError("a fault of ours")

    async with listening() as network:
        with monkeypatch.context() as patch:
            patch.setattr(WebSocketStream, "accept", fail)
            stream = await trio.open_tcp_stream("127.0.0.1", web_port(network))
            async with stream:
                with trio.fail_after(60):
                    await drain(stream)
        assert network.inbound_refused["handshake"] == 1
        await (await connect(web_port(network))).close()
