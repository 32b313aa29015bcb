"""Hostile libp2p peers: each with an identity of its own, and a hand on every layer.

The node's own host makes the connection; what goes over it is the attack's. A stranger that is
thrown out comes again under a new identity, since identities are free.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.peer.id import ID

from gridtokenx.cluster.devnet import Member
from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import PROTOCOLS
from gridtokenx.network.host import (
    TRANSPORT_FAILURES,
    HostSettings,
    Network,
    NetworkError,
    Stream,
    open_network,
    parse_address,
    read_frame,
    write_frame,
)
from gridtokenx.network.libp2p_overrides.yamux import NodeYamux, ProtocolError
from gridtokenx.node.protocol import ChainHead, Status, Topics
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from scripts.hostile_fleet.attack import AGAIN_S, CHAIN, Run

READ_BYTES = 65_536
STATUS_BYTES = 65_536
ID_HEAD = b"\x00\x24\x08\x01\x12\x20"  # Of an Ed25519 key's peer id.
HUNG_UP = (
    NetworkError,
    ProtocolError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    *TRANSPORT_FAILURES,
)
"""How a victim's refusal shows. Anything else is a fault of the attack itself, and is raised."""

Read = Callable[[Stream], Awaitable[None]]
Tell = Callable[[], bytes]


async def swallow(stream: Stream) -> None:
    """Read and forget."""
    while await stream.read_some(READ_BYTES):
        pass


async def doze(_stream: Stream) -> None:
    """Never read."""
    await trio.sleep_forever()


class Stranger:
    """A connection with one node. `sent` of the run counts every byte below Noise."""

    def __init__(self, run: Run, network: Network, address: str) -> None:
        self.run, self.network = run, network
        self.victim = parse_address(address)[0]
        self.genesis = run.target.genesis
        muxed = self.muxed
        queue_frame = muxed.queue_frame

        def counted(frame: bytes) -> None:
            run.sent += len(frame)
            queue_frame(frame)

        muxed.queue_frame = counted

    @property
    def muxed(self) -> NodeYamux:
        """The yamux connection below."""
        connections = self.network.host.get_network().connections.get(ID(self.victim))
        if not connections:
            raise NetworkError("closed", "the victim has hung up")
        return connections[-1].muxed_conn

    async def frames(self, data: bytes) -> None:
        """Write whole yamux frames by hand."""
        self.run.sent += len(data)
        await self.muxed.secured_conn.write(data)

    def stream_number(self) -> int:
        """A number that is this side's to open, far from those that the host uses."""
        return 1_000_001 if self.muxed.is_initiator_value else 1_000_000

    async def stream(self, *protocols: str) -> Stream:
        """Open a stream."""
        return await self.network.open_stream(self.victim, protocols, timeout_s=30)

    async def request(self, kind: str, payload: bytes) -> Stream:
        """Ask, and leave the answer to the caller."""
        stream = await self.stream(f"/gridtokenx/{self.genesis.network_id}/{kind}/1")
        await write_frame(stream, payload)
        await stream.close_write()
        return stream

    async def gossip(self, *topics: str) -> Stream:
        """A gossip stream that is subscribed to topics."""
        stream = await self.stream(*PROTOCOLS)
        wanted = [(True, topic) for topic in topics]
        await stream.write(rpc_frame(wire.Rpc(subscriptions=wanted)))
        return stream

    def topics(self) -> list[Topics]:
        """Those of each chain."""
        return all_topics(self.run)


def all_topics(run: Run) -> list[Topics]:
    """The topics of each chain."""
    genesis = run.target.genesis
    return [Topics(genesis.network_id, name) for name in genesis.chain_names]


def region(run: Run) -> Topics:
    """The topics of the region under attack."""
    return Topics(run.target.genesis.network_id, CHAIN)


def rpc_frame(rpc: wire.Rpc) -> bytes:
    """An RPC of subscriptions and control, framed."""
    return wire.encode_frame(wire.encode_rpc(rpc))


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + wire.encode_varint(len(payload)) + payload


class Author:
    """A gossip identity, which needs no connection of its own."""

    def __init__(self) -> None:
        self.key = SigningKey(os.urandom(32))
        self.peer = ID_HEAD + self.key.public_key
        self._seqno = time.time_ns()

    def frame(self, data: bytes, topic: str, *, signature: bytes = b"") -> bytes:
        """An RPC with one message, well signed unless a `signature` is given."""
        self._seqno += 1
        part = wire.encode_signed_part(self.peer, data, self._seqno.to_bytes(8, "big"), topic)
        signed = signature or self.key.sign(wire.SIGNING_PREFIX + part)
        return wire.encode_publish_frame(wire.encode_message(part, signed))


def status_of(
    run: Run, *, offset_ms: int = 0, heads: Sequence[ChainHead] = (), genesis_hash: bytes = b""
) -> bytes:
    """A status message, honest unless told otherwise."""
    genesis = run.target.genesis
    now_ms = max(0, time.time_ns() // 1_000_000 + offset_ms)
    name = genesis.network_name
    hashed = genesis_hash or genesis.hash
    return encode(Status(name, hashed, "n9", "gridtokenx/0.1.0", now_ms, tuple(heads)))


@asynccontextmanager
async def stranger(
    run: Run,
    member: Member,
    *,
    tell: Tell | None = None,
    read: Read = swallow,
    seed: bytes = b"",
    mute: bool = False,
    serve: dict[str, Read] | None = None,
) -> AsyncIterator[Stranger]:
    """Connected with a node. `tell` makes its status, `read` does what it does with gossip;
    `mute`: it never answers what it is asked; `serve`: other handlers by protocol.
    """

    async def answer(stream: Stream) -> None:
        if mute:
            await trio.sleep_forever()
        await read_frame(stream, STATUS_BYTES)
        await write_frame(stream, b"\0" + (tell() if tell else status_of(run)))

    async with open_network(HostSettings(seed=seed or os.urandom(32), listen=())) as network:
        network.handle(PROTOCOLS, read)
        network.handle([f"/gridtokenx/{run.target.genesis.network_id}/status/1"], answer)
        for protocol, handler in (serve or {}).items():
            network.handle([protocol], handler)
        address = run.target.address(member)
        await network.dial(address)
        run.outcomes["connected"] += 1
        yield Stranger(run, network, address)


async def again_and_again(
    run: Run,
    member: Member,
    act: Callable[[Stranger], Awaitable[None]],
    *,
    pause_s: float = AGAIN_S,
    **options: Any,
) -> None:
    """A stranger that does something until it is thrown out, then another one, until cancelled."""
    while True:
        try:
            async with stranger(run, member, **options) as one:
                await act(one)
        except* HUNG_UP:
            run.outcomes["thrown out"] += 1
        await trio.sleep(pause_s)


async def write_paced(stream: Stream, frames: Iterator[bytes], per_s: float) -> None:
    """Frames one after the other, so many bytes a second."""
    for frame in frames:
        started = trio.current_time()
        await stream.write(frame)
        await trio.sleep(max(0.0, len(frame) / per_s - (trio.current_time() - started)))


YAMUX_DATA, YAMUX_WINDOW, YAMUX_PING = 0, 1, 2
SYN, ACK, FIN, RST = 1, 2, 4, 8


def yamux(kind: int, flags: int, stream: int, length: int) -> bytes:
    """A yamux header."""
    return struct.pack(">BBHII", 0, kind, flags, stream, length)
