"""What a node learns of the clocks of its peers, over real connections: whose, and how well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from gridtokenx.cluster.devnet import AUTHORITIES, NETWORK_ID, dev_key, local_genesis
from gridtokenx.network.host import HostSettings, Network, open_network
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import Requests
from gridtokenx.node.contacts import Peers
from gridtokenx.node.protocol import About, Credential, Status, credential_bytes
from gridtokenx.node.witnesses import SLOW_MS
from gridtokenx.primitives.codec import encode
from tests.support.patience import until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
GENESIS = local_genesis()
KEY = dev_key(f"{AUTHORITIES[0][0]} validator")
TIME_MS = 1_800_000_000_000


def status(time_ms: int = TIME_MS) -> Status:
    return Status(GENESIS.network_name, GENESIS.hash, "n", "n", time_ms, ())


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[Network, Peers]]:
    async with open_network(HostSettings(seed=bytes([1]) * 32, listen=LOOPBACK)) as network:
        requests = Requests(network, NETWORK_ID)
        peers = Peers(
            network, requests, GENESIS, status, lambda *_head: None, lambda _peer: None, None
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(peers.run)
            yield network, peers
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def other(
    number: int, watcher: Network, *, vouched: PeerId | None = None, late_s: float = 0.0
) -> AsyncIterator[Network]:
    """Shows a credential of KEY, for itself or another peer id; answers about its status late."""
    async with open_network(HostSettings(seed=bytes([number]) * 32, listen=())) as network:
        signed = credential_bytes(GENESIS.hash, vouched or network.peer_id)
        credential = Credential(KEY.public_key, KEY.sign(signed))
        requests = Requests(network, NETWORK_ID)

        async def tell_status(_peer: PeerId, _payload: bytes) -> bytes:
            answer = encode(status())
            await trio.sleep(late_s)
            return answer

        async def tell_about(_peer: PeerId, _payload: bytes) -> bytes:
            return encode(About((credential,), ()))

        requests.serve("status", tell_status)
        requests.serve("about", tell_about)
        await network.dial(watcher.listen_addresses[0])
        yield network


async def test_a_vouched_peers_clock_is_known_and_a_strangers_is_not() -> None:
    async with (
        watching() as (network, peers),
        other(2, network) as member,
        other(3, network, vouched=member.peer_id) as thief,
    ):
        await until(lambda: len(peers.contacts()) == 2)
        await until(lambda: peers.acquaintance(thief.peer_id).clock)
        clocks = await until(lambda: peers.clocks())
        assert list(clocks) == [KEY.public_key]
        (taken,) = clocks[KEY.public_key]
        assert abs(taken.origin_ms + round(taken.taken_s * 1_000) - TIME_MS) <= SLOW_MS
        await member.disconnect(network.peer_id)
        await until(lambda: peers.clocks() == {})


async def test_an_answer_that_comes_late_tells_nothing_of_a_clock() -> None:
    """As of a process that stood still while it was asked."""
    async with (
        watching() as (network, peers),
        other(2, network, late_s=1.5 * SLOW_MS / 1_000) as member,
    ):
        known = await until(lambda: peers.proved())
        assert known == {KEY.public_key: (member.peer_id,)}
        acquaintance = peers.acquaintance(member.peer_id)
        assert acquaintance.latency_ms is not None
        assert acquaintance.latency_ms > SLOW_MS
        assert peers.clocks() == {KEY.public_key: []}
