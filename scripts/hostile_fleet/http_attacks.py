"""Attacks on the API's port, with sockets alone: no client library would send most of this."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.lowlevel

from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.cluster.devnet import Member
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.crypto import SigningKey
from scripts.hostile_fleet.attack import (
    CHAIN,
    HOST,
    HOSTILE_IP,
    Attack,
    Pace,
    Run,
    collect,
    everywhere,
)

MIB = 1 << 20
READ_BYTES = 65_536
ATTACKS: list[Attack] = []
attack = collect(ATTACKS, "http")

Talk = Callable[["Line"], Awaitable[None]]


class Line:
    """One connection with the API. The run counts what is sent, and the answers' codes."""

    def __init__(self, run: Run, stream: trio.SocketStream) -> None:
        self.run, self.stream = run, stream

    async def send(self, data: bytes) -> None:
        """Send as it is."""
        await self.stream.send_all(data)
        self.run.sent += len(data)

    async def swallow(self) -> None:
        """Read to the end, counting status lines."""
        while data := await self.stream.receive_some(READ_BYTES):
            self.note(data)

    async def answer(self) -> bytes:
        """What has come next; b"" at the end."""
        data = bytes(await self.stream.receive_some(READ_BYTES))
        self.note(data)
        return data

    def note(self, data: bytes) -> None:
        """Count the codes of answers that begin in this."""
        for part in data.split(b"HTTP/1.1 ")[1:]:
            self.run.outcomes[part[:3].decode("ascii", "replace")] += 1


@asynccontextmanager
async def line(run: Run, member: Member) -> AsyncIterator[Line]:
    """A connection from the hostile address."""
    stream = await trio.open_tcp_stream(HOST, member.api_port, local_address=HOSTILE_IP)
    async with stream:
        run.outcomes["connected"] += 1
        yield Line(run, stream)


async def calls(
    run: Run, talk: Talk, *, per_node: int, pause_s: float = 0.05, nodes: int = 99
) -> None:
    """So many clients at each node that connect, talk, and connect again."""

    async def client(member: Member) -> None:
        while True:
            try:
                async with line(run, member) as one:
                    await talk(one)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                run.outcomes["thrown out"] += 1
            await trio.sleep(pause_s)

    await run.start()
    await everywhere(run, per_node, client, nodes=nodes)


def post(body: bytes, *, extra: bytes = b"", path: bytes = b"/rpc", length: int = -1) -> bytes:
    """A request with a JSON body."""
    size = len(body) if length < 0 else length
    return (
        b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(size).encode() + b"\r\n" + extra + b"\r\n" + body
    )


def get(path: bytes, *, extra: bytes = b"", host: bytes = b"127.0.0.1") -> bytes:
    """A request without a body."""
    return b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + extra + b"\r\n"


def rpc(method: str, **params: object) -> dict[str, object]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def dump(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


async def same(
    run: Run, request: bytes, *, per_node: int = 4, per_s: float = 50, keep: bool = True
) -> None:
    """The same request again and again from each client, each answer awaited."""

    async def ask(one: Line) -> None:
        pace = Pace(per_s)
        while True:
            await pace.take()
            await one.send(request)
            if not await one.answer():
                return
            if not keep:
                return

    await calls(run, ask, per_node=per_node)


# -- Connections that hold places ------------------------------------------------------------------


async def _idle(one: Line) -> None:
    await one.swallow()


@attack("M6")
async def idle_connections(run: Run) -> None:
    """1,100 connections at the first node that say nothing, each made anew when it is cut."""
    await calls(run, _idle, per_node=1_100, pause_s=1.0, nodes=1)


@attack("M6")
async def half_headers(run: Run) -> None:
    """200 connections at each node whose headers come byte by byte and never end."""

    async def dribble(one: Line) -> None:
        await one.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        while True:
            await one.send(b"x")
            await trio.sleep(1)

    await calls(run, dribble, per_node=200, pause_s=0.5)


@attack()
async def slow_bodies(run: Run) -> None:
    """100 requests at each node whose bodies come byte by byte."""

    async def dribble(one: Line) -> None:
        await one.send(post(b"[", length=500_000))
        while True:
            await one.send(b" ")
            await trio.sleep(0.5)

    await calls(run, dribble, per_node=100, pause_s=0.5)


@attack()
async def slow_readers_of_answers(run: Run) -> None:
    """Asks 30 times for the greatest documents on one connection and reads nothing."""

    async def ask(one: Line) -> None:
        one.stream.setsockopt(*RECEIVE_BUFFER)
        for _ in range(30):
            await one.send(get(b"/openapi.json"))
        await trio.sleep(40)

    await calls(run, ask, per_node=40)


RECEIVE_BUFFER = (1, 8, 4_096)  # SOL_SOCKET, SO_RCVBUF: the node's answers stay with the node.


@attack()
async def never_continued(run: Run) -> None:
    """`Expect: 100-continue` of a megabyte that is never sent, 50 at each node."""
    head = post(b"", extra=b"Expect: 100-continue\r\n", length=MIB)

    async def expect(one: Line) -> None:
        await one.send(head)
        await one.swallow()

    await calls(run, expect, per_node=50)


@attack()
async def connection_churn(run: Run) -> None:
    """Connections that are opened and closed at once, hundreds a second."""

    async def leave(_one: Line) -> None:
        await trio.lowlevel.checkpoint()

    await calls(run, leave, per_node=4, pause_s=0.01)


@attack()
async def upgrades(run: Run) -> None:
    """Asks for WebSocket and HTTP/2, then speaks neither."""
    extra = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    extra += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

    async def upgrade(one: Line) -> None:
        await one.send(get(b"/ws", extra=extra) + os.urandom(1_000))
        await one.swallow()

    await calls(run, upgrade, per_node=10)


# -- What is dear to read --------------------------------------------------------------------------


@attack()
async def gzip_bombs(run: Run) -> None:
    """Bodies of 100 KiB that inflate to 100 MiB."""
    bomb = gzip.compress(b" " * (100 * MIB))
    await same(run, post(bomb, extra=b"Content-Encoding: gzip\r\n"), per_s=5, keep=False)


@attack("L5")
async def megabyte_bodies(run: Run) -> None:
    """JSON of 1 MiB that is refused only once it is parsed."""
    items = [rpc("chain_getHead", chain=CHAIN)] * 13_000
    body = dump(items)[: MIB - 1_000].rpartition(b",{")[0] + b"]"
    await same(run, post(body), per_s=10)


@attack()
async def many_numbers(run: Run) -> None:
    """JSON of 300,000 small numbers and of one number with 900,000 digits, in turn."""
    numbers = post(dump([1] * 300_000))
    digits = post(
        b'{"jsonrpc":"2.0","id":1,"method":"chain_getHead","params":[' + b"9" * 900_000 + b"]}"
    )

    async def ask(one: Line) -> None:
        for request in itertools.cycle((numbers, digits)):
            await one.send(request)
            if not await one.answer():
                return
            await trio.sleep(0.1)

    await calls(run, ask, per_node=3)


@attack()
async def deep_json(run: Run) -> None:
    """JSON nested 100,000 deep."""
    await same(run, post(b"[" * 100_000 + b"]" * 100_000), per_s=20)


@attack()
async def thousand_headers(run: Run) -> None:
    """Requests of 1,000 headers."""
    extra = b"".join(b"X-%d: 1\r\n" % number for number in range(1_000))
    await same(run, get(b"/health", extra=extra), keep=False)


@attack()
async def long_lines(run: Run) -> None:
    """Paths and headers of 60 kB."""
    long = b"a" * 60_000
    await same(run, get(b"/" + long, extra=b"X: " + long + b"\r\n"), keep=False)


@attack()
async def chunks_of_one_byte(run: Run) -> None:
    """A body of 200,000 chunks of one byte, from 5 clients at each node."""
    chunks = b"1\r\n \r\n" * 1_000
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")

    async def dribble(one: Line) -> None:
        await one.send(head)
        for _ in range(200):
            await one.send(chunks)
        await one.send(b"0\r\n\r\n")
        await one.swallow()

    await calls(run, dribble, per_node=5)


@attack()
async def contradicting_lengths(run: Run) -> None:
    """Two lengths, both kinds of length, a length that is none: what smuggles requests."""
    body = dump(rpc("chain_getHead"))
    spoiled = [
        post(body, extra=b"Content-Length: 5\r\n"),
        post(body, extra=b"Transfer-Encoding: chunked\r\n"),
        post(body).replace(b"Content-Length: ", b"Content-Length: -"),
        b"\x16\x03\x01\x00\xc2\x01\x00" + os.urandom(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    turns = itertools.cycle(spoiled)

    async def ask(one: Line) -> None:
        await one.send(next(turns))
        await one.swallow()

    await calls(run, ask, per_node=10)


# -- What is dear to answer ------------------------------------------------------------------------


@attack()
async def health_flood(run: Run) -> None:
    """`/health` and `/ready` as fast as they are answered, ten clients at each node."""
    await same(run, get(b"/health") + get(b"/ready"), per_node=10, per_s=200)


@attack()
async def metrics_flood(run: Run) -> None:
    """`/metrics` as fast as it is answered."""
    await same(run, get(b"/metrics"), per_node=4, per_s=100)


@attack()
async def pipelines(run: Run) -> None:
    """2,000 requests in one write, from 5 clients at each node."""
    burst = get(b"/api/v1/status") * 2_000

    async def ask(one: Line) -> None:
        await one.send(burst)
        await one.swallow()

    await calls(run, ask, per_node=5)


@attack()
async def dear_batches(run: Run) -> None:
    """Batches of 50 of the dearest methods with the largest pages."""
    zero = "00" * 32
    dear = [
        rpc("energy_getOrders", chain=CHAIN, limit=100, state="all"),
        rpc("energy_getTrades", chain=CHAIN, limit=100),
        rpc("energy_getStats", chain=CHAIN, window_slots=35_040),
        rpc("energy_getOrderBook", chain=CHAIN),
        rpc("chain_getBlock", chain=CHAIN, block="latest", full=True),
    ]
    batch = (dear + [rpc("tx_get", id=zero)] * 5) * 5
    await same(run, post(dump(batch)), per_node=2, per_s=20)


@attack()
async def raw_blocks(run: Run) -> None:
    """Asks for all blocks in base64, the largest answers there are, and reads them slowly."""
    request = post(dump(rpc("chain_getRawBlocks", chain=CHAIN, from_height=1, limit=32)))

    async def ask(one: Line) -> None:
        while True:
            await one.send(request)
            while True:
                data = await one.answer()
                if not data:
                    return
                if len(data) < READ_BYTES:
                    break
                await trio.sleep(0.01)

    await calls(run, ask, per_node=4)


@attack()
async def proofs(run: Run) -> None:
    """State proofs of accounts that there are not, as fast as they are made."""
    key = SigningKey(os.urandom(32)).public_key.hex()
    await same(run, post(dump(rpc("account_getProof", address=key, chain=CHAIN))), per_s=200)


@attack()
async def unknown_methods(run: Run) -> None:
    """Methods that there are not, by names of 60,000 characters, for which it seeks likely ones."""
    names = [rpc("chain_get" + "x" * 60 + str(number)) for number in range(50)]
    await same(run, post(dump(names)), per_s=50)


@attack()
async def wrong_hosts(run: Run) -> None:
    """Requests under hosts that the node has not, as a rebound name would send them."""
    await same(run, get(b"/api/v1/status", host=b"evil.example"), per_node=8, per_s=100)


@attack("M8")
async def junk_submissions(run: Run) -> None:
    """Batches of 500 well-signed transfers of keys that have nothing, to every node."""
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    bodies = []
    for _ in range(6):
        raws = [
            sign_transaction(
                SigningKey(os.urandom(32)), chain_id, 0, Transfer(bytes(32), Asset.THB, 1)
            ).encoded.hex()
            for _ in range(500)
        ]
        bodies.append(post(dump(rpc("tx_sendBatch", transactions=raws))))
    turns = itertools.cycle(bodies)

    async def ask(one: Line) -> None:
        while True:
            await one.send(next(turns))
            if not await one.answer():
                return

    await calls(run, ask, per_node=2)


@attack()
async def noise_submissions(run: Run) -> None:
    """Batches of 500 transactions that are noise."""
    raws = [os.urandom(180).hex() for _ in range(500)]
    await same(run, post(dump(rpc("tx_sendBatch", transactions=raws))), per_node=2)
