"""Peers that lie, flood, stall and vanish, against four real nodes: the chains go on regardless.

Each attack comes from an identity of its own, over real sockets, at n0. While it lasts the cluster
must finalize; afterwards nobody has restarted, all agree, no node has logged a fault of its own,
and the memory of the one attacked has grown by less than GROWTH_MIB over all attacks together.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial

import psutil
import pytest
import trio

from gridtokenx.cluster.devnet import NETWORK_ID, dev_key, peer_address, peer_id
from gridtokenx.cluster.processes import Cluster
from gridtokenx.consensus.messages import Phase, Vote
from gridtokenx.network.gossipsub import wire
from gridtokenx.network.gossipsub.events import PROTOCOLS, Parameters
from gridtokenx.network.host import (
    HostSettings,
    Network,
    NetworkError,
    Stream,
    format_peer_id,
    open_network,
    parse_address,
    read_frame,
    write_frame,
)
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.protocol import BlocksRequest, Status, Topics
from gridtokenx.primitives.codec import encode
from tests.support import live_cluster
from tests.support.live_cluster import (
    add_member,
    answered_heights,
    assert_same_state,
    client_of,
    genesis_of,
    heights_of,
    log_of,
    pids_of,
    wait_progress,
    wait_until,
)
from tests.support.patience import PATIENCE_S

VICTIM, CHAIN = "n0", "MET"
AUTHORITIES = ("n0", "n1", "n2", "n3")
GROWTH_MIB = 96
HALF_OPEN = 400
GRAYLIST = Parameters().scores.graylist_threshold
TOPICS = Topics(NETWORK_ID, CHAIN)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("home") / "clusters" / "hostile"
    with live_cluster.running(folder, observers=0) as made:
        wait_progress(made)
        yield made


def memory_mib(cluster: Cluster) -> float:
    return psutil.Process(cluster.node(VICTIM).pid).memory_info().rss / (1 << 20)


@pytest.fixture(scope="module")
def started_mib(cluster: Cluster) -> float:
    return memory_mib(cluster)


@pytest.fixture(autouse=True)
def unharmed(cluster: Cluster, started_mib: float) -> Iterator[None]:
    pids = pids_of(cluster)
    yield
    wait_progress(cluster, *AUTHORITIES)
    assert pids_of(cluster) == pids
    assert memory_mib(cluster) - started_mib < GROWTH_MIB
    for name in AUTHORITIES:
        assert "Traceback" not in log_of(cluster, name)


# -- An attacker -----------------------------------------------------------------------------------


class Attacker:
    """A host of our own with a gossip stream to the victim, on which it may write anything."""

    def __init__(self, network: Network, address: str, topic: str = TOPICS.votes) -> None:
        self.network, self.address, self.topic = network, address, topic
        self.victim = parse_address(address)[0]
        self._seqno = time.time_ns()

    async def gossip_stream(self) -> Stream:
        stream = await self.network.open_stream(self.victim, [PROTOCOLS[-1]], timeout_s=60)
        await stream.write(self.control(wire.Rpc(subscriptions=[(True, self.topic)])))
        return stream

    @staticmethod
    def control(rpc: wire.Rpc) -> bytes:
        return wire.encode_frame(wire.encode_rpc(rpc))

    def message(self, data: bytes, topic: str = "") -> bytes:
        """A frame with one well-signed message."""
        self._seqno += 1
        seqno = self._seqno.to_bytes(8, "big")
        part = wire.encode_signed_part(self.network.peer_id, data, seqno, topic or self.topic)
        signature = self.network.sign(wire.SIGNING_PREFIX + part)
        return wire.encode_publish_frame(wire.encode_message(part, signature))

    async def flood(self, frames: list[bytes]) -> None:
        """Write until all is written, the victim hangs up or a minute is over."""
        with suppress(NetworkError), trio.move_on_after(60):
            stream = await self.gossip_stream()
            for start in range(0, len(frames), 50):
                await stream.write(b"".join(frames[start : start + 50]))
            await trio.sleep(0.2)  # a stream that ends at once may take unread bytes with it

    async def provoke(self, frame: bytes) -> None:
        """Write something for which the victim ends the stream, unless it has ceased to listen."""
        with trio.move_on_after(3), suppress(NetworkError):
            stream = await self.gossip_stream()
            await stream.write(frame)
            while await stream.read_some(65_536):
                pass


async def swallow(stream: Stream) -> None:
    with suppress(NetworkError):
        while await stream.read_some(65_536):
            pass


def status_of(cluster: Cluster, genesis_hash: bytes = b"") -> bytes:
    genesis = genesis_of(cluster)
    return encode(Status(genesis.network_name, genesis_hash or genesis.hash, "a", "a", 0, ()))


def answer_status(network: Network, status: bytes) -> None:
    """Tell this whenever asked: who is mute is soon disconnected."""

    async def tell(stream: Stream) -> None:
        await read_frame(stream, 65_536)
        await write_frame(stream, b"\0" + status)

    network.handle([f"/gridtokenx/{NETWORK_ID}/status/1"], tell)


@asynccontextmanager
async def attacker(
    cluster: Cluster,
    name: str,
    *,
    status: bytes = b"",
    read: Callable[[Stream], Awaitable[None]] = swallow,
) -> AsyncIterator[Attacker]:
    """Connected to the victim, and answering it as an honest peer would.

    `read`: what it does with the gossip that it hears.
    """
    address = peer_address(VICTIM, cluster.node(VICTIM).member.p2p_port)
    seed = hashlib.sha256(f"{name} {time.time_ns()}".encode()).digest()
    async with open_network(HostSettings(seed=seed, listen=())) as network:
        network.handle(PROTOCOLS, read)
        answer_status(network, status or status_of(cluster))
        await network.dial(address)
        yield Attacker(network, address)


async def go_on(cluster: Cluster) -> None:
    """The others and the victim finalize while the attack lasts."""
    await trio.to_thread.run_sync(partial(wait_progress, cluster, *AUTHORITIES))


def banned_for(cluster: Cluster, peer: PeerId) -> str:
    """Why the victim refuses a peer; "" when it does not."""
    with client_of(cluster, VICTIM) as client:
        bans = client.call("net_getBans")["items"]
    return next((one["reason"] for one in bans if one["target"] == format_peer_id(peer)), "")


async def until_banned(cluster: Cluster, one: Attacker) -> str:
    def why() -> str:
        return banned_for(cluster, one.network.peer_id)

    reason = await trio.to_thread.run_sync(partial(wait_until, "the attacker is banned", why))
    with trio.fail_after(60):
        while one.network.is_connected(one.victim):  # noqa: ASYNC110 - the victim hangs up
            await trio.sleep(0.02)
    with pytest.raises(NetworkError):
        await come_again(one)
    return str(reason)


async def come_again(one: Attacker) -> None:
    await one.network.dial(one.address)
    await one.network.open_stream(one.victim, ["/ipfs/ping/1.0.0"])


def is_silenced(cluster: Cluster, one: Attacker) -> bool:
    """Whether nothing it says is listened to any more, or it is banned."""
    name = format_peer_id(one.network.peer_id)
    with client_of(cluster, VICTIM) as client:
        peers = client.call("net_getPeers")["items"]
    scores = [each["gossip"].get("total", 0.0) for each in peers if each["peer_id"] == name]
    if not scores:
        return bool(banned_for(cluster, one.network.peer_id))
    return float(scores[0]) < GRAYLIST


async def until_graylisted(cluster: Cluster, one: Attacker) -> None:
    silenced = partial(is_silenced, cluster, one)
    await trio.to_thread.run_sync(partial(wait_until, "the attacker is silenced", silenced))


@pytest.fixture(scope="module", autouse=True)
def sleeper(cluster: Cluster, started_mib: float) -> Iterator[None]:
    """A peer that is in every mesh from the first test to the last and reads nothing of it."""
    begun, over = threading.Event(), threading.Event()

    async def doze(_stream: Stream) -> None:
        await trio.sleep_forever()

    async def stay() -> None:
        async with attacker(cluster, "sleeper", read=doze) as one:
            stream = await one.gossip_stream()
            topics = [TOPICS.votes, TOPICS.blocks, TOPICS.orders]
            wanted = [(True, topic) for topic in topics]
            await stream.write(one.control(wire.Rpc(subscriptions=wanted, graft=topics)))
            begun.set()
            await trio.to_thread.run_sync(over.wait)

    thread = threading.Thread(target=trio.run, args=(stay,), daemon=True)
    thread.start()
    assert begun.wait(PATIENCE_S)
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE_S)


# -- On the port -----------------------------------------------------------------------------------


def test_hundreds_of_half_open_connections_and_a_storm_of_resets(cluster: Cluster) -> None:
    port = cluster.node(VICTIM).member.p2p_port
    greeting = b"\x13/multistream/1.0.0\n"
    with ExitStack() as idle:
        for number in range(HALF_OPEN):
            one = idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with suppress(ConnectionError):
                one.sendall(greeting[: number % len(greeting)])
        for number in range(HALF_OPEN):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with suppress(ConnectionError):
                    rude.sendall(os.urandom(number))
        wait_progress(cluster, *AUTHORITIES)

        async def honest() -> None:  # comes in though all those are still open
            async with attacker(cluster, "an honest one") as one:
                assert one.network.is_connected(one.victim)

        trio.run(honest)


# -- On streams ------------------------------------------------------------------------------------


async def test_who_sends_no_protobuf_is_silenced(cluster: Cluster) -> None:
    async with attacker(cluster, "malformed") as one:
        with trio.fail_after(PATIENCE_S):
            while not await trio.to_thread.run_sync(is_silenced, cluster, one):
                await one.provoke(wire.encode_frame(b"\xff\x00" * 50))


async def test_requests_longer_than_any_may_be_end_their_stream_and_then_the_peer(
    cluster: Cluster,
) -> None:
    async with attacker(cluster, "long") as one:
        for kind in ("status", "blocks", "bodies"):
            stream = await one.network.open_stream(
                one.victim, [f"/gridtokenx/{NETWORK_ID}/{kind}/1"], timeout_s=60
            )
            await stream.write(b"\xff\xff\xff\xff\x0f" + bytes(1_000))
            with trio.fail_after(60), suppress(NetworkError):
                assert await stream.read_some(1) == b""
        await go_on(cluster)
        for _ in range(10):
            with suppress(NetworkError):
                stream = await one.network.open_stream(
                    one.victim, [f"/gridtokenx/{NETWORK_ID}/status/1"]
                )
                await stream.write(b"\xff\xff\xff\xff\x0f" + bytes(1_000))
                await stream.read_some(1)
        # Its requests weigh in gossip too, which may see the sum first.
        assert await until_banned(cluster, one) in ("malformed_request", "gossip_graylisted")


async def test_a_gossip_frame_longer_than_any_may_be_ends_its_stream(cluster: Cluster) -> None:
    async with attacker(cluster, "long gossip") as one:
        stream = await one.gossip_stream()  # more than its window: the end must be noticed
        with trio.fail_after(60), pytest.raises(NetworkError):
            await stream.write(wire.encode_varint(1 << 31) + bytes(4 << 20))
        await go_on(cluster)


async def test_who_opens_requests_and_never_reads_delays_nobody(cluster: Cluster) -> None:
    async with attacker(cluster, "never reads") as one:
        chain_id = genesis_of(cluster).chain(CHAIN).chain_id
        asked = encode(BlocksRequest(CHAIN, chain_id, 1, 32))
        streams = []
        for _ in range(200):
            with suppress(NetworkError):
                stream = await one.network.open_stream(
                    one.victim, [f"/gridtokenx/{NETWORK_ID}/blocks/1"]
                )
                await write_frame(stream, asked)
                streams.append(stream)
        await go_on(cluster)
        assert streams
        for stream in streams:
            await stream.reset()


# -- As gossip -------------------------------------------------------------------------------------


async def test_who_subscribes_to_ten_thousand_topics_takes_no_room(cluster: Cluster) -> None:
    async with attacker(cluster, "topics") as one:
        frames = [
            one.control(wire.Rpc(subscriptions=[(True, f"{prefix}{page}-{n}") for n in range(500)]))
            for page in range(10)
            for prefix in (f"/gridtokenx/{NETWORK_ID}/", "/elsewhere/")
        ]
        before = memory_mib(cluster)
        await one.flood(frames)
        await go_on(cluster)
        assert memory_mib(cluster) - before < 16


async def test_garbage_in_good_envelopes_is_scored_and_banned(cluster: Cluster) -> None:
    async with attacker(cluster, "garbage") as one:
        await one.flood([one.message(os.urandom(300)) for _ in range(300)])
        await until_graylisted(cluster, one)
        with suppress(NetworkError):  # It does not stop.
            await one.flood([one.message(os.urandom(300)) for _ in range(500)])
        assert await until_banned(cluster, one) == "gossip_graylisted"


async def test_a_flood_of_votes_that_nobody_signed_stops_no_block(cluster: Cluster) -> None:
    async with attacker(cluster, "votes") as one:
        height = answered_heights(cluster, VICTIM)[CHAIN]
        frames = [  # Those of the next two heights are judged; more are decided meanwhile.
            one.message(
                encode(
                    Vote(Phase.PREPARE, height + n % 64, 0, os.urandom(32), n % 4, os.urandom(64))
                )
            )
            for n in range(3_000)
        ]
        await one.flood(frames)
        await go_on(cluster)
        await until_graylisted(cluster, one)


async def test_old_messages_said_again_change_nothing(cluster: Cluster) -> None:
    """Verbatim, and in new envelopes: what members have signed long ago."""
    async with attacker(cluster, "listener") as ear:
        heard: list[bytes] = []

        async def listen(stream: Stream) -> None:
            buffer = wire.FrameBuffer(2 << 20)
            with suppress(NetworkError):
                while chunk := await stream.read_some(65_536):
                    for payload in buffer.feed(chunk):
                        heard.extend(each.raw for each in wire.decode_rpc(payload).messages)

        ear.network.handle(PROTOCOLS, listen)
        await ear.network.disconnect(ear.victim)
        await ear.network.dial(ear.address)
        stream = await ear.gossip_stream()
        await stream.write(ear.control(wire.Rpc(graft=[ear.topic])))
        with trio.fail_after(60):
            while len(heard) < 20:  # noqa: ASYNC110 - gossip comes when it comes
                await trio.sleep(0.05)
    async with attacker(cluster, "parrot") as one:
        verbatim = [wire.encode_publish_frame(each) for each in heard]
        said = [wire.decode_rpc(b"\x12" + wire.encode_frame(each)).messages[0] for each in heard]
        wrapped = [one.message(each.data) for each in said for _ in range(20)]
        await one.flood(verbatim * 100 + wrapped)
        await go_on(cluster)


# -- As strangers ----------------------------------------------------------------------------------


async def test_a_peer_of_another_network_is_told_and_refused(cluster: Cluster) -> None:
    async with attacker(cluster, "stranger", status=status_of(cluster, b"\x01" * 32)) as one:
        assert await until_banned(cluster, one) == "wrong_genesis"


async def test_many_identities_of_one_address_do_not_surround_a_newcomer(
    cluster: Cluster,
) -> None:
    """It takes in few of one address, and keeps room for those it dials itself."""
    name = "n4"
    add_member(cluster, name)
    path = cluster.home(name) / "config.toml"
    text = path.read_text(encoding="utf-8")
    for default, value in (
        ("# limit_loopback = false", "limit_loopback = true"),
        ("# max_connections_per_ip = 16", "max_connections_per_ip = 6"),
    ):
        assert default in text
        text = text.replace(default, value)
    path.write_text(text, encoding="utf-8")
    cluster.start(name)
    try:
        member = cluster.node(name).member
        await trio.to_thread.run_sync(
            partial(wait_until, "it answers", lambda: heights_of(cluster, name))
        )
        address = peer_address(name, member.p2p_port)
        status = status_of(cluster)
        connected = 0
        async with trio.open_nursery() as nursery:

            async def surround(number: int, task_status=trio.TASK_STATUS_IGNORED) -> None:
                nonlocal connected
                seed = hashlib.sha256(f"eclipse {number}".encode()).digest()
                async with open_network(HostSettings(seed=seed, listen=())) as network:
                    answer_status(network, status)
                    with suppress(NetworkError):
                        await network.dial(address)
                        await network.open_stream(
                            parse_address(address)[0], ["/ipfs/ping/1.0.0"], timeout_s=60
                        )
                        connected += 1
                    task_status.started()
                    await trio.sleep_forever()

            for number in range(40):
                await nursery.start(surround, number)
            assert connected <= 6
            authorities = {peer_id(dev_key(f"{one} node").public_key) for one in AUTHORITIES}

            def honest() -> bool:
                with client_of(cluster, name) as client:
                    return len({one.peer_id for one in client.peers()} & authorities) >= 3

            await trio.to_thread.run_sync(partial(wait_until, "it has honest peers", honest))
            await trio.to_thread.run_sync(partial(wait_progress, cluster, name))
            nursery.cancel_scope.cancel()
    finally:
        cluster.kill(name)
        cluster.nodes.remove(cluster.node(name))


def test_all_agree_in_the_end(cluster: Cluster) -> None:
    assert_same_state(cluster, *AUTHORITIES)
    assert live_cluster.names_of(cluster) == list(AUTHORITIES)
