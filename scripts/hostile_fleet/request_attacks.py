"""Attacks on what a node answers: requests, pings, the DHT, identify."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message as DhtMessage
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr

from gridtokenx.network.gossipsub.wire import encode_varint
from gridtokenx.network.host import Stream, write_frame
from gridtokenx.node.protocol import (
    AncestryRequest,
    BlocksRequest,
    BodiesRequest,
    ProposalRequest,
)
from gridtokenx.primitives.codec import encode
from scripts.hostile_fleet.attack import CHAIN, Attack, Run, collect, everywhere
from scripts.hostile_fleet.strangers import (
    HUNG_UP,
    ID_HEAD,
    Stranger,
    again_and_again,
    status_of,
)

PING, IDENTIFY_PUSH, KAD = "/ipfs/ping/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/kad/1.0.0"
ATTACKS: list[Attack] = []
attack = collect(ATTACKS, "requests")


# -- Requests --------------------------------------------------------------------------------------


async def _ask(
    run: Run, kind: str, payload: bytes, *, reads: bool, per_node: int = 2, at_once: int = 8
) -> None:
    async def ask(one: Stranger) -> None:
        async def one_by_one() -> None:
            while True:
                stream = await one.request(kind, payload)
                if reads:
                    while await stream.read_some(65_536):
                        pass
                    await stream.close()
                else:
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(one_by_one)

    await run.start()
    await everywhere(run, per_node, lambda member: again_and_again(run, member, ask))


@attack()
async def block_requests(run: Run) -> None:
    """Asks for 32 blocks, eight times at once and again, from two strangers at each node."""
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    await _ask(run, "blocks", encode(BlocksRequest(CHAIN, chain_id, 1, 32)), reads=True)


@attack()
async def unread_answers(run: Run) -> None:
    """Asks for 32 blocks on 200 streams and reads no answer."""
    chain_id = run.target.genesis.chain(CHAIN).chain_id
    payload = encode(BlocksRequest(CHAIN, chain_id, 1, 32))
    await _ask(run, "blocks", payload, reads=False, at_once=50)


@attack()
async def ancestry_requests(run: Run) -> None:
    """Asks for the ancestry of blocks that never were."""
    await _ask(run, "ancestry", encode(AncestryRequest(CHAIN, os.urandom(32), 32)), reads=True)


@attack()
async def body_requests(run: Run) -> None:
    """Asks for 1,800 transactions by ids that nobody has."""
    ids = tuple(os.urandom(32) for _ in range(1_800))
    await _ask(run, "bodies", encode(BodiesRequest(CHAIN, ids)), reads=True)


@attack()
async def proposal_requests(run: Run) -> None:
    """Asks for proposals that nobody made."""
    await _ask(run, "bodies", encode(ProposalRequest(CHAIN, os.urandom(32))), reads=True)


@attack()
async def about_requests(run: Run) -> None:
    """Asks who the node is and whom it knows, as fast as it answers."""
    await _ask(run, "about", b"", reads=True)


@attack()
async def status_requests(run: Run) -> None:
    """Tells and asks the status as fast as it is answered, four strangers at each node."""
    await _ask(run, "status", status_of(run), reads=True, per_node=4)


@attack()
async def garbage_requests(run: Run) -> None:
    """Requests of 64 KiB of noise."""
    await _ask(run, "blocks", os.urandom(65_000), reads=True)


@attack()
async def endless_request_lengths(run: Run) -> None:
    """Requests whose length is no length or far too long."""

    async def ask(one: Stranger) -> None:
        for kind in itertools.cycle(("status", "blocks", "bodies", "about", "ancestry")):
            stream = await one.stream(f"/gridtokenx/{one.genesis.network_id}/{kind}/1")
            await stream.write(b"\xff\xff\xff\xff\x0f" + bytes(1_000))
            await stream.read_some(1)
            await stream.reset()

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, ask))


@attack()
async def dribbled_requests(run: Run) -> None:
    """Requests that arrive byte by byte and never end, to hold every place of a responder."""

    async def dribble(one: Stranger) -> None:
        async def one_by_one() -> None:
            while True:
                stream = await one.stream(f"/gridtokenx/{one.genesis.network_id}/blocks/1")
                await stream.write(encode_varint(60_000))
                for _ in range(12):
                    await stream.write(b"x")
                    await trio.sleep(1)
                await stream.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one_by_one)

    await run.start()
    await everywhere(run, 8, lambda member: again_and_again(run, member, dribble))


@attack()
async def unknown_protocols(run: Run) -> None:
    """Negotiates protocols that nobody speaks, one stream after the other."""

    async def negotiate(one: Stranger) -> None:
        for number in itertools.count():
            try:
                await one.stream(f"/nobody/{number}")
            except HUNG_UP:
                one.muxed  # noqa: B018 - raises once the connection itself is gone

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, negotiate))


# -- What libp2p serves ----------------------------------------------------------------------------


@attack(at="ping")
async def ping_flood(run: Run) -> None:
    """libp2p pings, 32 bytes each, as fast as they are echoed."""

    async def ping(one: Stranger) -> None:
        stream = await one.stream(PING)
        while True:
            await stream.write(os.urandom(32) * 64)
            await stream.read_exactly(32 * 64)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, ping))


async def _dht(run: Run, make: Callable[[], DhtMessage], *, answered: bool) -> None:
    async def ask(one: Stranger) -> None:
        stream: Stream | None = None
        for number in itertools.count():
            if stream is None or number % 90 == 0:
                stream = await one.stream(KAD)
            await stream.write(encode_varint_prefixed(make().SerializeToString()))
            if answered:
                await stream.read_some(65_536)
            else:
                await trio.sleep(0.005)

    await run.start()
    await everywhere(run, 2, lambda member: again_and_again(run, member, ask))


@attack(at="dht")
async def find_node_flood(run: Run) -> None:
    """FIND_NODE for random keys as fast as they are answered."""
    kind = DhtMessage.MessageType.FIND_NODE
    await _dht(run, lambda: DhtMessage(type=kind, key=os.urandom(38)), answered=True)


@attack(at="dht")
async def put_value_flood(run: Run) -> None:
    """PUT_VALUE of 30 kB records."""
    kind = DhtMessage.MessageType.PUT_VALUE

    def make() -> DhtMessage:
        key = os.urandom(32)
        message = DhtMessage(type=kind, key=key)
        message.record.key, message.record.value = key, bytes(30_000)
        return message

    await _dht(run, make, answered=False)


@attack(at="dht")
async def add_provider_flood(run: Run) -> None:
    """ADD_PROVIDER of random keys and of this network's regions, each of another provider."""
    kind = DhtMessage.MessageType.ADD_PROVIDER
    address = Multiaddr("/ip4/127.0.0.1/tcp/1").to_bytes()

    def make() -> DhtMessage:
        message = DhtMessage(type=kind, key=b"\x12\x20" + os.urandom(32))
        provider = message.providerPeers.add()
        provider.id = ID_HEAD + os.urandom(32)
        provider.addrs.append(address)
        return message

    await _dht(run, make, answered=False)


def _identify(addresses: list[str]) -> bytes:
    message = Identify(agent_version="x" * 10_000, protocol_version="ipfs/0.1.0")
    message.listen_addrs.extend(Multiaddr(each).to_bytes() for each in addresses)
    message.protocols.extend(f"/made/up/{number}" for number in range(1_000))
    return encode_varint_prefixed(message.SerializeToString())


async def _push(run: Run, data: bytes, per_node: int) -> None:
    async def push(one: Stranger) -> None:
        while True:
            stream = await one.stream(IDENTIFY_PUSH)
            await stream.write(data)
            await stream.close()
            await trio.sleep(0.02)

    await run.start()
    await everywhere(run, per_node, lambda member: again_and_again(run, member, push))


@attack("L1", at="identify")
async def thousand_addresses(run: Run) -> None:
    """Pushes an identity with 1,000 addresses and 1,000 protocols, 50 times a second."""
    await _push(run, _identify([f"/ip4/127.7.7.7/tcp/{port}" for port in range(1, 1_001)]), 1)


@attack("L1", at="identify")
async def private_addresses(run: Run) -> None:
    """Announces ports of this machine as its own, so that the node dials whom it should not."""
    ports = [member.api_port for member in run.target.members]
    await _push(run, _identify([f"/ip4/127.0.0.1/tcp/{port}" for port in ports]), 2)


@attack()
async def empty_frames_as_requests(run: Run) -> None:
    """Empty requests of every kind, written and left."""

    async def ask(one: Stranger) -> None:
        for kind in itertools.cycle(("status", "blocks", "bodies", "ancestry")):
            stream = await one.stream(f"/gridtokenx/{one.genesis.network_id}/{kind}/1")
            await write_frame(stream, b"")
            await stream.close()

    await run.start()
    await everywhere(run, 1, lambda member: again_and_again(run, member, ask))
