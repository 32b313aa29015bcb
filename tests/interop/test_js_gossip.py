"""Our gossip router and js-libp2p's, on one wire: meshes, gossip, IDONTWANT, large messages."""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.events import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_V12,
    GossipVerdict,
    Origin,
    Parameters,
)
from gridtokenx.network.host import (
    HostSettings,
    Network,
    format_peer_id,
    open_network,
    parse_peer_id,
)
from gridtokenx.network.libp2p_overrides.private_network import parse_key
from gridtokenx.node.protocol import topic_priority
from tests.support import js_peer
from tests.support.js_peer import JsPeer, PeerError
from tests.support.patience import PATIENCE_S, until

PREFIX = "/gridtokenx/interop/"
TOPIC = PREFIX + "MET/votes"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
HEARTBEAT_MS = 200
LONGEST_VERDICT_S = 4.5  # after 5 s a message counts as ignored
FAST = Parameters(heartbeat_ms=HEARTBEAT_MS)


class Node:
    """Our side: what arrived, by digest; `holds_back`: its validator waits for an IDONTWANT."""

    def __init__(self, network: Network, gossip: Gossip) -> None:
        self.network, self.gossip = network, gossip
        self.name = format_peer_id(network.peer_id)
        self.received: list[str] = []
        self.holds_back = False

    async def receive(self, origin: Origin, data: bytes) -> GossipVerdict:
        if self.holds_back:
            with trio.move_on_after(LONGEST_VERDICT_S):
                await until(lambda: self.gossip._router.table_sizes()["dont_send"] >= 1)
        self.received.append(hashlib.sha256(data).hexdigest())
        return GossipVerdict.ACCEPT

    def has_mesh_with(self, peer: JsPeer) -> bool:
        return parse_peer_id(peer.peer_id) in self.gossip.mesh(TOPIC)


@asynccontextmanager
async def open_node(parameters: Parameters = FAST, psk: bytes | None = None) -> AsyncIterator[Node]:
    settings = HostSettings(b"p" * 32, (LOOPBACK,), psk=psk)
    async with open_network(settings) as network, trio.open_nursery() as nursery:
        gossip = Gossip(
            network,
            topic_prefix=PREFIX,
            priority=topic_priority,
            seed=1,
            first_seqno=time.time_ns(),
            parameters=parameters,
        )
        await nursery.start(gossip.run)
        node = Node(network, gossip)
        gossip.subscribe(TOPIC, node.receive)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_peers(
    count: int, name: str = "gossip", **options: object
) -> AsyncIterator[list[JsPeer]]:
    """JavaScript peers without DHT, started at the same time."""
    made = [
        js_peer.running(f"{name} {number}", listen=[LOOPBACK], dht=False, **options)
        for number in range(count)
    ]
    async with AsyncExitStack() as stack:
        peers: list[JsPeer] = []

        async def enter(one: object) -> None:
            peers.append(await trio.to_thread.run_sync(one.__enter__))
            stack.push_async_callback(trio.to_thread.run_sync, one.__exit__, None, None, None)

        async with trio.open_nursery() as nursery:
            for one in made:
                nursery.start_soon(enter, one)
        yield peers


async def tell(peer: JsPeer, command: str, /, **fields: object) -> dict:
    return await trio.to_thread.run_sync(lambda: peer.do(command, **fields))


async def until_state(peer: JsPeer, holds: Callable[[dict], object]) -> dict:
    with trio.fail_after(PATIENCE_S):
        while True:
            state = await tell(peer, "state")
            if holds(state):
                return state
            await trio.sleep(0.05)


async def join(node: Node, *peers: JsPeer) -> None:
    """Each peer connected to the node and subscribed, and the node knows it."""
    for peer in peers:
        await tell(peer, "dial", address=node.network.listen_addresses[0])
        await tell(peer, "subscribe", topic=TOPIC)
    await until(lambda: len(node.gossip.peers(TOPIC)) == len(peers))
    for peer in peers:
        await until_state(peer, lambda state: node.name in state["subscribers"].get(TOPIC, []))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def digests_at(peer: JsPeer, count: int) -> list[dict]:
    found: list[dict] = []
    with trio.fail_after(60):
        while len(found) < count:
            found += (await tell(peer, "messages"))["messages"]
            await trio.sleep(0.02)
    return found


async def test_they_graft_each_other_exchange_the_largest_message_and_part() -> None:
    async with open_peers(1) as (peer,), open_node() as node:
        await join(node, peer)
        await until(lambda: node.has_mesh_with(peer))
        state = await until_state(peer, lambda state: node.name in state["mesh"].get(TOPIC, []))
        assert state["protocols"][node.name] == PROTOCOL_V12
        sent = await tell(peer, "publish", topic=TOPIC, size=MAX_MESSAGE_BYTES)
        await until(lambda: node.received == [sent["digest"]])
        data = os.urandom(MAX_MESSAGE_BYTES)
        node.gossip.publish(TOPIC, data)
        (message,) = await digests_at(peer, 1)
        assert (message["digest"], message["from"]) == (digest(data), node.name)
        await tell(peer, "unsubscribe", topic=TOPIC)
        await until(lambda: not node.gossip.mesh(TOPIC) and not node.gossip.peers(TOPIC))
        await tell(peer, "subscribe", topic=TOPIC)
        await until(lambda: node.gossip.peers(TOPIC))
        assert node.gossip.counters.get("rpc_malformed", 0) == 0


async def test_a_refused_graft_is_not_repeated_and_gossip_brings_what_was_lost() -> None:
    """A peer that wants no mesh prunes us: we back off, and both live on IHAVE and IWANT."""
    silent = Parameters(heartbeat_ms=HEARTBEAT_MS, flood_publish=False)
    async with open_peers(1, degree=[0, 0, 0]) as (peer,), open_node(silent) as node:
        await join(node, peer)
        await until_state(peer, lambda state: state["control"]["graft"] == 1)
        await until(lambda: not node.gossip.mesh(TOPIC))
        await tell(peer, "lose", count=1)
        sent = await tell(peer, "publish", topic=TOPIC, size=300)
        await until(lambda: node.received == [sent["digest"]])
        assert node.gossip.counters["iwant_ids_sent"] == 1
        node.gossip.publish(TOPIC, b"told by gossip alone")
        (message,) = await digests_at(peer, 1)
        assert message["digest"] == digest(b"told by gossip alone")
        assert node.gossip.counters["iwant_ids_answered"] >= 1  # a second IHAVE may overtake it
        state = await tell(peer, "state")
        assert state["control"]["graft"] == 1  # many heartbeats of ours later
        assert state["control"]["ihave"] >= 1


async def test_each_side_spares_the_other_large_messages_it_has() -> None:
    usual = Parameters()  # an IDONTWANT must outlast the time to our verdict
    async with open_peers(2, forwards=False) as (source, other), open_node(usual) as node:
        await tell(source, "dial", address=other.addresses[0])
        await join(node, source, other)
        for peer in (source, other):
            await until_state(peer, lambda state: len(state["mesh"].get(TOPIC, [])) == 2)
        await until(lambda: len(node.gossip.mesh(TOPIC)) == 2)
        node.holds_back = True  # so that the other's IDONTWANT is here before we would forward
        sent = await tell(source, "publish", topic=TOPIC, size=200_000)
        await until(lambda: node.received == [sent["digest"]])
        await until(lambda: node.gossip.counters.get("suppressed_by_idontwant") == 1)
        state = await until_state(other, lambda state: state["control"]["idontwant"])
        assert state["control"]["idontwant"] == 1  # ours
        assert len(await digests_at(other, 1)) == 1


async def test_in_a_private_network_both_dial_and_are_dialled_and_strangers_are_not_heard() -> None:
    key_file = f"/key/swarm/psk/1.0.0/\n/base16/\n{os.urandom(32).hex()}"

    async def is_refused(stranger: JsPeer) -> None:
        with pytest.raises(PeerError):
            await tell(stranger, "dial", address=node.network.listen_addresses[0])

    async with (
        open_peers(1, psk=key_file) as (peer,),
        open_peers(1, name="stranger") as (stranger,),
        open_node(psk=parse_key(key_file.encode())) as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(is_refused, stranger)
        await join(node, peer)
        await tell(peer, "hang_up", peer=node.name)
        await until(lambda: not node.network.connected())
        await node.network.dial(peer.addresses[0])
        await until(lambda: node.has_mesh_with(peer))
        sent = await tell(peer, "publish", topic=TOPIC, size=200_000)
        await until(lambda: node.received == [sent["digest"]])
        data = os.urandom(200_000)
        node.gossip.publish(TOPIC, data)
        (message,) = await digests_at(peer, 1)
        assert message["digest"] == digest(data)
        assert node.network.connected() == (parse_peer_id(peer.peer_id),)
