"""Hostile bytes for every decoder that a stranger reaches; nothing but its own errors may come out.

A door is a decoder with valid inputs and the errors that it may raise. An input is a valid one that
was mutated, or made up. Anything else that is raised, an input that takes longer than
`SLOWEST_CPU_S`, and memory that grows, is a fault.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from inspect import isawaitable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import structlog
import trio
from google.protobuf.message import DecodeError

from gridtokenx.network import mdns_wire
from gridtokenx.network.dialling import DialRules, decode_address, parse_address, parse_peer_id
from gridtokenx.network.gossipsub import wire as gossip_wire
from gridtokenx.network.host import BaseLibp2pError, NetworkError, Stream, read_frame
from gridtokenx.network.libp2p_overrides import private_network, yamux
from gridtokenx.network.libp2p_overrides.dht import Message, _addresses_of, _receive
from gridtokenx.network.libp2p_overrides.host import Identify, _shorten
from gridtokenx.network.libp2p_overrides.negotiation import Negotiation
from gridtokenx.network.libp2p_overrides.websocket import WebSocketStream
from gridtokenx.node.admin import Admin
from gridtokenx.primitives import codec
from gridtokenx.primitives.errors import Rejected
from tests.support.wire_values import wire_classes

SLOWEST_CPU_S = 0.2
WARM_UP = 0.2  # of the inputs: until then caches fill
MAX_GROWN_BLOCKS = 100_000  # of memory that Python has handed out: 10 MB or so
LOOK_EVERY = 5_000
PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
TOPIC = "/gridtokenx/1001/MET/votes"
EDGES = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff" * 8, b"\xff" * 9 + b"\x01", bytes(64))

Make = Callable[[Random], bytes]


@dataclass(frozen=True)
class Door:
    """`decode` may be a coroutine function; `make` makes a valid input."""

    name: str
    decode: Callable[[bytes], Any]
    make: Make
    errors: tuple[type[Exception], ...]


@dataclass
class Counts:
    """What happened so far."""

    inputs: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest_door: str = ""
    grown_blocks: int = 0

    def document(self) -> dict[str, Any]:
        """Plain values: for each door [accepted, refused]."""
        names = sorted({*self.accepted, *self.refused})
        return {
            "inputs": self.inputs,
            "doors": {name: [self.accepted[name], self.refused[name]] for name in names},
            "slowest_ms": round(self.slowest_s * 1_000, 1),
            "slowest_door": self.slowest_door,
            "grown_blocks": self.grown_blocks,
        }


class Fault(Exception):  # noqa: N818 - found, not raised in earnest
    """A decoder did what it must not; the text says which, and by what input."""


async def fuzz(
    inputs: int, seed: int, told: Callable[[Counts], None] = lambda _counts: None
) -> Counts:
    """Give so many inputs to the doors in turn. Errors: Fault."""
    logging = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        return await _fuzz(inputs, seed, told)
    finally:
        structlog.configure(**logging)


async def _fuzz(inputs: int, seed: int, told: Callable[[Counts], None]) -> Counts:
    chance, counts, everything = Random(seed), Counts(), doors()
    warm = round(inputs * WARM_UP)
    base = 0
    for number in range(inputs):
        door = everything[number % len(everything)]
        data = _input(chance, door)
        await _try(door, data, counts)
        counts.inputs += 1
        if number == warm:
            gc.collect()
            base = sys.getallocatedblocks()
        if number % LOOK_EVERY == LOOK_EVERY - 1:
            told(counts)
            await trio.lowlevel.checkpoint()
            if number > warm:
                counts.grown_blocks = sys.getallocatedblocks() - base
                if counts.grown_blocks > MAX_GROWN_BLOCKS:
                    raise Fault(f"memory grew by {counts.grown_blocks} blocks")
    return counts


async def _try(door: Door, data: bytes, counts: Counts) -> None:
    started_s = time.thread_time()
    try:
        result = door.decode(data)
        if isawaitable(result):
            await result
    except door.errors:
        counts.refused[door.name] += 1
    except Exception as error:
        raise Fault(f"{door.name}: {error!r} by {data[:2_000].hex()}") from error
    else:
        counts.accepted[door.name] += 1
    took_s = time.thread_time() - started_s
    if took_s > counts.slowest_s:
        counts.slowest_s, counts.slowest_door = took_s, door.name
    if took_s > SLOWEST_CPU_S:
        raise Fault(f"{door.name}: {took_s:.3f} s of CPU by {data[:2_000].hex()}")


def _drop(*_arguments: Any) -> Any:
    raise structlog.DropEvent


# -- Inputs ----------------------------------------------------------------------------------------


def _input(chance: Random, door: Door) -> bytes:
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.choice((0, 1, 2, 12, 60, 300)))
    data = door.make(chance)
    if kind < 0.1:
        return data
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        data = _mutate(chance, data)
    return data[:100_000]


def _mutate(chance: Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((1, 1, 2, 4, 8, 40)))
    match chance.randrange(8):
        case 0:  # one bit
            one = bytes([data[at] ^ 1 << chance.randrange(8)]) if at < len(data) else b"\x01"
            return data[:at] + one + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + chance.choice(EDGES) + data[at:]
        case 4:
            return data[:at] + chance.choice(EDGES) + data[end:]
        case 5:
            return data[:at] + data[at:end] * chance.choice((2, 3, 40, 400)) + data[end:]
        case 6:
            return data[:at] + chance.randbytes(end - at) + data[end:]
        case _:
            return data + data[at:]


def _value(chance: Random, cls: type) -> Any:
    """A value of a wire class by its type hints; ends of ranges are likelier than the middle."""
    while True:
        try:
            return cls(**{name: _of(chance, hint) for name, hint in _fields(cls)})
        except Rejected:
            continue


@cache
def _fields(cls: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return [(one.name, hints[one.name]) for one in dataclasses.fields(cls) if one.init]


def _of(chance: Random, hint: Any) -> Any:
    bare, limit = codec.bare_hint(hint)
    if get_origin(bare) is tuple:
        low, high = (0, 3) if limit is None else (limit.low, max(limit.low, min(limit.high, 3)))
        return tuple(_of(chance, get_args(bare)[0]) for _ in range(chance.randint(low, high)))
    if codec.is_union(bare):
        return _of(chance, chance.choice(get_args(bare)))
    if bare is type(None):
        return None
    if codec.is_wire(bare):
        return _value(chance, bare)
    if issubclass(bare, Enum):
        return chance.choice(list(bare))
    if bare is bool:
        return chance.random() < 0.5
    if bare is int:
        low, high = (0, codec.MAX_INT) if limit is None else (limit.low, limit.high)
        return chance.choice((low, min(low + 1, high), high, chance.randint(low, high)))
    low, high = (0, 40) if limit is None else (limit.low, max(limit.low, min(limit.high, 40)))
    size = chance.randint(low, high)
    return chance.randbytes(size) if bare is bytes else "x" * size


# -- Doors -----------------------------------------------------------------------------------------


class Pipe:
    """A connection whose other end has sent these bytes and then closed it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.muxed_conn = SimpleNamespace(peer_id=SimpleNamespace(to_bytes=lambda: b"peer"))

    async def read(self, n: int | None = None) -> bytes:
        size = len(self._data) if n is None or n < 0 else n
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def receive_some(self, n: int | None = None) -> bytes:
        return await self.read(n)

    async def write(self, data: bytes) -> None:
        return

    async def send_all(self, data: bytes) -> None:
        return

    async def close(self) -> None:
        return

    def get_protocol(self) -> str:
        return "/fuzz"


def doors() -> list[Door]:
    """Every decoder of bytes from outside; wire classes have as many turns as the rest together."""
    others = (
        Door("gossip rpc", _read_rpc, _rpc, (gossip_wire.WireError,)),
        Door("gossip frames", _read_frames, _frames, (gossip_wire.WireError,)),
        Door("mdns", _read_mdns, _mdns, (mdns_wire.MessageError,)),
        Door("identify", _read_identify, _identify, (DecodeError, UnicodeDecodeError)),
        Door("dht", _read_dht, _dht, (DecodeError, BaseLibp2pError)),
        Door("yamux", _read_yamux, _yamux_frames, ()),
        Door("protocol names", _read_names, _names, (BaseLibp2pError,)),
        Door("request", _read_request, _frame, (NetworkError,)),
        Door("websocket", _read_websocket, _websocket, (BaseLibp2pError,)),
        Door("admin line", _admin(), _admin_line, ()),
        Door("address", _read_text(parse_address), _address, (ValueError,)),
        Door("peer id", _read_text(parse_peer_id), _peer, (ValueError,)),
        Door("raw address", decode_address, _raw_address, ()),
        Door("network key", private_network.parse_key, _network_key, (ValueError,)),
    )
    return [door for other in others for door in (other, _wire_door())]


def _read_rpc(data: bytes) -> None:
    for part in gossip_wire.slices(data):
        gossip_wire.decode_rpc(part)


def _read_frames(data: bytes) -> None:
    buffer = gossip_wire.FrameBuffer(65_536)
    for start in range(0, len(data), 700):
        for _ in buffer.feed(data[start : start + 700]):
            pass


def _read_mdns(data: bytes) -> None:
    mdns_wire.addresses_told(mdns_wire.decode(data), "_gtx-1001._udp.local")


def _read_identify(data: bytes) -> None:
    message = Identify()
    message.ParseFromString(data)
    _shorten(message)


async def _read_dht(data: bytes) -> None:
    message = await _receive(Pipe(data))  # type: ignore[arg-type]
    for entry in message.closerPeers:
        _addresses_of(entry, DialRules(allow_private=True).may_dial)


async def _read_yamux(data: bytes) -> None:
    """A whole connection, which ends whatever it was sent."""
    await yamux.NodeYamux(Pipe(data), b"peer", is_initiator=False).start()


async def _read_names(data: bytes) -> None:
    talk = Negotiation(Pipe(data))
    while True:
        await talk.read()


async def _read_request(data: bytes) -> None:
    await read_frame(Stream(Pipe(data), None), 65_536)  # type: ignore[arg-type]


async def _read_websocket(data: bytes) -> None:
    stream = WebSocketStream(Pipe(data))  # type: ignore[arg-type]
    await stream.accept()
    while await stream.read(65_536):
        pass


def _read_text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode("latin-1"))


def _wire_door() -> Door:
    """Every wire class, each time the next one."""
    classes = list(wire_classes().values())
    last = [classes[0]]

    def make(chance: Random) -> bytes:
        last[0] = chance.choice(classes)
        return codec.encode(_value(chance, last[0]))

    return Door("wire", lambda data: codec.decode(last[0], data), make, (Rejected,))


def _admin() -> Callable[[bytes], Awaitable[Any]]:
    """An admin service whose commands do nothing: what is tried is that their words are read."""

    async def nothing(*_arguments: Any) -> None:
        return

    async def refuse(address: str) -> None:
        parse_address(address)
        raise NetworkError("refused", "nobody is there")

    network = SimpleNamespace(
        peer_id=b"peer",
        dial=refuse,
        disconnect=nothing,
        ban=nothing,
        block=nothing,
        is_connected=lambda _peer: False,
        reputation=SimpleNamespace(unban=lambda _target: False),
        faults=SimpleNamespace(delay_ms=0, blocked=frozenset()),
    )
    admin = Admin(
        Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}",
        network,  # type: ignore[arg-type]
        lambda _level: None,
        lambda chain: chain,
        allow_faults=True,
    )
    del admin._commands["shutdown"]

    async def answer(line: bytes) -> None:
        json.dumps(await admin._answer(line))

    return answer


# -- Valid inputs of the doors ---------------------------------------------------------------------


def _rpc(chance: Random) -> bytes:
    ids = [chance.randbytes(46) for _ in range(chance.choice((0, 1, 3, 30)))]
    rpc = gossip_wire.Rpc(
        subscriptions=[(True, TOPIC)] * chance.randrange(3),
        ihave=[(TOPIC, ids)] * chance.randrange(3),
        iwant=ids,
        graft=[TOPIC] * chance.randrange(3),
        prune=[gossip_wire.Prune(TOPIC, chance.randrange(1 << 63))] * chance.randrange(3),
        idontwant=ids[:2],
    )
    return gossip_wire.encode_rpc(rpc) + _message(chance) * chance.randrange(40)


def _message(chance: Random) -> bytes:
    part = gossip_wire.encode_signed_part(
        chance.randbytes(38), chance.randbytes(chance.choice((0, 100, 400))), bytes(8), TOPIC
    )
    raw = gossip_wire.encode_message(part, bytes(64))
    return b"\x12" + gossip_wire.encode_varint(len(raw)) + raw


def _frame(chance: Random) -> bytes:
    return gossip_wire.encode_frame(chance.randbytes(chance.choice((0, 1, 130, 900))))


def _frames(chance: Random) -> bytes:
    return b"".join(_frame(chance) for _ in range(4))


def _mdns(chance: Random) -> bytes:
    service = "_gtx-1001._udp.local"
    if chance.random() < 0.3:
        return mdns_wire.encode_query(service)
    return mdns_wire.encode_answer(service, "a" * 32, [_address(chance).decode()] * 3)


def _address(chance: Random) -> bytes:
    host = chance.choice(("/ip4/192.168.1.7", "/ip6/2001:db8::1", "/dns4/node.example"))
    return f"{host}/tcp/{chance.randrange(65_536)}/p2p/{PEER}".encode()


def _peer(_chance: Random) -> bytes:
    return PEER.encode()


def _raw_address(chance: Random) -> bytes:
    return parse_address(_address(chance).decode())[1].to_bytes()


def _identify(chance: Random) -> bytes:
    message = Identify(
        listen_addrs=[_raw_address(chance) for _ in range(chance.randrange(4))],
        protocols=["/a/1", TOPIC],
        agent_version="agent",
        public_key=bytes(36),
        observed_addr=_raw_address(chance),
    )
    return bytes(message.SerializeToString())


def _dht(chance: Random) -> bytes:
    message = Message(type=Message.MessageType.FIND_NODE, key=chance.randbytes(34))
    for _ in range(chance.randrange(4)):
        entry = message.closerPeers.add()
        entry.id = chance.randbytes(38)
        entry.addrs.append(_raw_address(chance))
    return gossip_wire.encode_frame(bytes(message.SerializeToString()))


def _yamux_frames(chance: Random) -> bytes:
    frames = []
    for number in range(chance.randrange(1, 5)):
        kind, size = chance.randrange(4), chance.choice((0, 5, 60))
        flags, stream = chance.choice((0, 1, 1, 2, 4, 8)), chance.choice((0, 1, 3, 2 * number + 1))
        length = size if kind == yamux.TYPE_DATA else chance.choice((0, 1, 1 << 18, 1 << 31))
        frames.append(yamux._header(kind, flags, stream, length))
        frames.append(bytes(size) if kind == yamux.TYPE_DATA else b"")
    return b"".join(frames)


def _names(chance: Random) -> bytes:
    names = ["/multistream/1.0.0", "/meshsub/1.1.0", "ls", "na"]
    said = [f"{chance.choice(names)}\n".encode() for _ in range(5)]
    return b"".join(bytes([len(name)]) + name for name in said)


def _websocket(chance: Random) -> bytes:
    opening = (
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    data = chance.randbytes(chance.choice((0, 5, 125)))
    frame = bytes((chance.choice((0x82, 0x02, 0x80, 0x89, 0x88)), 0x80 | len(data))) + bytes(4)
    return opening + (frame + data) * chance.randrange(1, 4)


def _admin_line(chance: Random) -> bytes:
    command = chance.choice(
        (
            {"do": "ban", "target": PEER, "seconds": 60, "reason": "why"},
            {"do": "unban", "target": "192.0.2.1"},
            {"do": "connect", "address": _address(chance).decode()},
            {"do": "disconnect", "peer": PEER},
            {"do": "faults", "block": [PEER], "delay_ms": 5},
            {"do": "log-level", "level": "info"},
            {"do": "vouch", "chain": "MET"},
        )
    )
    return json.dumps(command).encode()


def _network_key(_chance: Random) -> bytes:
    return b"/key/swarm/psk/1.0.0/\n/base16/\n" + b"0f" * 32 + b"\n"
