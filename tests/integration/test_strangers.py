"""What strangers may cost a host, over real sockets: CPU, bytes, streams, handshakes."""

import struct
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest
import trio
from libp2p.abc import IMuxedStream
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from gridtokenx.network import gossip_streams as module
from gridtokenx.network import throttle
from gridtokenx.network.dialling import DIALS_OF_A_TARGET
from gridtokenx.network.gossip import Gossip, GossipVerdict
from gridtokenx.network.gossipsub.events import PROTOCOLS
from gridtokenx.network.gossipsub.wire import Rpc, encode_frame, encode_rpc
from gridtokenx.network.host import (
    HostSettings,
    Network,
    NetworkError,
    Stream,
    format_peer_id,
    open_network,
    read_frame,
    write_frame,
)
from gridtokenx.network.libp2p_overrides import negotiation, sockets, yamux
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.protocol import topic_priority
from tests.support.patience import until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
WORK = "/test/job/1"
TOPIC = "/gridtokenx/test/orders"
MIB = 1 << 20


def settings(number: int) -> HostSettings:
    return HostSettings(seed=bytes([number]) * 32, listen=LOOPBACK)


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


async def never_read(_stream: Stream) -> None:
    await trio.sleep_forever()


async def read_for_ever(stream: Stream) -> None:
    while await stream.read_some(65_536):
        pass


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
            nursery.cancel_scope.cancel()
        trusted = await b.open_stream(victim.peer_id, [WORK])
        spent_s = victim.budget.spent_s
        for _ in range(20):
            await write_frame(trusted, b"x")
            assert await read_frame(trusted, 10) == b"x"
        # 0.4 s of CPU went by for the trusted peer; what was charged was the stranger's last frame.
        assert victim.budget.spent_s - spent_s < 0.2
        assert a.connected()
        assert victim.connected()


async def test_unread_data_of_all_strangers_together_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "MAX_HELD_BYTES", 2 * MIB)
    async with AsyncExitStack() as stack:
        victim = await stack.enter_async_context(open_network(settings(1)))
        victim.handle([WORK], never_read)
        others = [
            await stack.enter_async_context(open_network(settings(number))) for number in (2, 3, 4)
        ]
        friend = await stack.enter_async_context(open_network(settings(5)))
        victim.protect(friend.peer_id)

        async def write(network: Network) -> None:
            with suppress(NetworkError):
                stream = await network.open_stream(victim.peer_id, [WORK])
                await stream.write(bytes(yamux.DEFAULT_WINDOW_SIZE))

        gate = gate_of(victim)
        async with trio.open_nursery() as nursery:
            for each, streams in ((friend, 16), *((other, 8) for other in others)):
                await each.dial(victim.listen_addresses[0])
                for _ in range(streams):
                    nursery.start_soon(write, each)
            await until(lambda: gate.held_over > 0)
            await until(lambda: len(victim.connected()) < 4)  # Who gave up is gone.
            held = [holder.held_bytes() for holder in gate._strangers()]
            assert sum(held) <= 2 * MIB + throttle.HELD_LOOK_BYTES
            assert victim.is_connected(friend.peer_id)
            nursery.cancel_scope.cancel()


async def test_unfinished_rpcs_of_all_strangers_together_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "MAX_HELD_BYTES", 2 * MIB)
    head = encode_uvarint(MIB)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        victim = await stack.enter_async_context(open_network(settings(1)))
        gossip = Gossip(
            victim, topic_prefix="/gridtokenx/", priority=topic_priority, seed=1, first_seqno=1
        )
        await nursery.start(gossip.run)
        gate = gate_of(victim)
        for number in range(2, 8):
            stranger = await stack.enter_async_context(open_network(settings(number)))
            stranger.handle(PROTOCOLS, read_for_ever)
            await stranger.dial(victim.listen_addresses[0])
            stream = await stranger.open_stream(victim.peer_id, PROTOCOLS)
            await stream.write(head + bytes(MIB - 1))
        # The last byte of none has come; two of them are within the limit.
        await until(lambda: gate.held_over >= 3)
        held = [holder.held_bytes() for holder in gate._strangers()]
        assert sum(held) <= 2 * MIB + throttle.HELD_LOOK_BYTES
        assert len(victim.connected()) == 6  # it cost them the stream only
        nursery.cancel_scope.cancel()


async def test_what_strangers_do_not_read_is_bounded_one_by_one_and_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STRANGERS_QUEUES_BYTES", 3 * MIB)
    monkeypatch.setattr(module, "STRANGERS_QUEUE_BYTES", 2 * MIB)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        victim = await stack.enter_async_context(open_network(settings(1)))
        gossip = Gossip(
            victim, topic_prefix="/gridtokenx/", priority=topic_priority, seed=1, first_seqno=1
        )
        await nursery.start(gossip.run)
        others = [
            await stack.enter_async_context(open_network(settings(number))) for number in (2, 3, 4)
        ]
        victim.protect(others[2].peer_id)
        for other in others:
            other.handle(PROTOCOLS, never_read)
            await other.dial(victim.listen_addresses[0])
            stream = await other.open_stream(victim.peer_id, PROTOCOLS)
            subscription = Rpc(subscriptions=[(True, TOPIC)])
            await stream.write(encode_frame(encode_rpc(subscription)))
        await until(lambda: len(gossip.peers(TOPIC)) == 3)

        def queued(network: Network) -> int:
            return gossip._streams._sessions[network.peer_id].queue.bytes

        gossip.subscribe(TOPIC, lambda _author, _data: GossipVerdict.ACCEPT)
        for _ in range(10):
            gossip.publish(TOPIC, bytes(MIB // 2))
            assert max(map(queued, others[:2])) <= 2 * MIB
            assert sum(map(queued, others[:2])) <= 3 * MIB
        assert queued(others[2]) > 4 * MIB
        nursery.cancel_scope.cancel()


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
    listen = HostSettings(seed=b"1" * 32, listen=("/ip6/::1/tcp/0",))
    async with open_network(settings(2)) as a, open_network(listen) as victim:
        await a.dial(victim.listen_addresses[0])
        await until(lambda: victim.is_connected(a.peer_id))
        assert victim.remote_ip(a.peer_id) == "::1"


async def push_identify(a: Network, victim: Network, message: Identify) -> None:
    stream = await a.open_stream(victim.peer_id, ["/ipfs/id/push/1.0.0"])
    raw = message.SerializeToString()
    await stream.write(encode_uvarint(len(raw)) + raw)
    await stream.close()


async def test_what_a_peer_tells_of_itself_is_kept_short_and_well_formed() -> None:
    good = Multiaddr("/ip4/8.8.8.8/tcp/9000")
    message = Identify(
        listen_addrs=[b"\x00", bytes(4_000), good.to_bytes(), b""],
        protocols=["/a", "/" + "b" * 10_000, *(f"/{number}" for number in range(500))],
        public_key=bytes(10_000),
        observed_addr=b"\xff",
        agent_version="x" * 1_000,
    )
    async with open_network(settings(1)) as a, open_network(settings(2)) as victim:
        await a.dial(victim.listen_addresses[0])
        told: list[bytes] = []
        victim.host.on_identified = lambda peer: told.append(peer.to_bytes())
        await until(lambda: victim.agent_of(a.peer_id) != "")
        told.clear()
        await push_identify(a, victim, message)
        await until(lambda: bool(told))
        assert [one.partition("/p2p/")[0] for one in victim.addresses_of(a.peer_id)] == [str(good)]
        assert victim.agent_of(a.peer_id) == "x" * 64
        protocols = victim.host.get_peerstore().get_protocols(a.host.get_id())
        assert (len(protocols), protocols[:2]) == (100, ["/a", "/0"])
        assert not victim.handler_errors


async def test_an_announced_address_is_dialled_only_if_it_may_be_and_not_for_ever() -> None:
    """A listener plays a third party whom strangers announce as themselves."""
    knocks = 0

    async def count_knock(stream: trio.SocketStream) -> None:
        nonlocal knocks
        knocks += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, count_knock, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        loopback, other = f"/ip4/127.0.0.1/tcp/{port}", f"/ip4/10.255.255.1/tcp/{port}"
        for allow_private, expected in ((False, 0), (None, DIALS_OF_A_TARGET)):
            setting = replace(settings(1), allow_private=allow_private)
            async with open_network(setting) as victim:
                for number in range(2 * DIALS_OF_A_TARGET):
                    peer = PeerId(b"\x12\x20" + sha256(bytes([number])).digest())
                    ends = f"/p2p/{format_peer_id(peer)}"
                    victim.remember(peer, [other + ends, loopback + ends])
                    with pytest.raises(NetworkError):
                        await victim.dial_peer(peer)
                assert knocks == expected
        nursery.cancel_scope.cancel()
