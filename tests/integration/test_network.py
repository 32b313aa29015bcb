"""Two and more real hosts on 127.0.0.1."""

import itertools
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from hashlib import sha256

import pytest
import trio
from nacl.secret import SecretBox
from nacl.signing import VerifyKey

from gridtokenx.network.host import (
    REASONS,
    HostSettings,
    Network,
    NetworkError,
    PeerConnected,
    PeerDisconnected,
    Stream,
    format_peer_id,
    open_network,
    parse_peer_id,
    read_frame,
    write_frame,
)
from gridtokenx.network.libp2p_overrides import swarm
from gridtokenx.network.libp2p_overrides.private_network import parse_key, xsalsa20
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.runtime.stopping import DiskFailed
from tests.support.patience import until

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/test/echo/1"


def settings(number: int, **changes) -> HostSettings:
    return replace(HostSettings(seed=bytes([number]) * 32, listen=LOOPBACK), **changes)


async def echo(stream: Stream) -> None:
    while data := await stream.read_some(65_536):
        await stream.write(data)


async def test_two_hosts_connect_and_exchange_frames() -> None:
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
        assert a.dial_outcomes == {"connected": 1}


async def test_an_order_to_end_leaves_through_a_stream_handler() -> None:
    """A damaged disk that is met for a peer: no offence of that peer, and nothing to live with."""

    async def read_the_disk(_stream: Stream) -> None:
        raise DiskFailed("GTX-DSK-002: the disk cannot be read")

    async with open_network(settings(1)) as a:
        with pytest.RaisesGroup(DiskFailed, flatten_subgroups=True):
            async with open_network(settings(2)) as b:
                b.handle([ECHO], read_the_disk)
                await a.dial(b.listen_addresses[0])
                await a.open_stream(b.peer_id, [ECHO])
                await trio.sleep_forever()


async def test_frames_above_the_limit_and_malformed_lengths_are_refused() -> None:
    async def send(stream: Stream) -> None:
        await stream.write(await stream.read_some(100))

    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        b.handle(["/test/back/1"], send)
        await a.dial(b.listen_addresses[0])
        for sent in (b"\x05four", b"\x06", b"\x80\x00", b"\xff\xff\xff\xff\xff\x01"):
            stream = await a.open_stream(b.peer_id, ["/test/back/1"])
            await stream.write(sent)
            with pytest.raises(NetworkError) as caught:
                await read_frame(stream, 5)
            assert caught.value.reason == ("closed" if sent == b"\x05four" else "protocol")
            await stream.reset()


async def test_identity_signs_and_is_readable_from_the_peer_id() -> None:
    async with open_network(settings(1)) as a:
        key = Network.public_key_of(a.peer_id)
        assert key is not None
        VerifyKey(key).verify(b"data", a.sign(b"data"))
        assert parse_peer_id(format_peer_id(a.peer_id)) == a.peer_id
        assert format_peer_id(a.peer_id).startswith("12D3KooW")
    assert Network.public_key_of(PeerId(b"\x12\x20" + bytes(32))) is None
    for text in ("", "0OIl", "not a peer"):
        with pytest.raises(ValueError, match="peer id"):
            parse_peer_id(text)


async def test_addresses_are_real_ports_or_what_is_announced() -> None:
    announce = ("/ip4/203.0.113.7/tcp/9000",)
    async with open_network(settings(1, announce=announce)) as a, open_network(settings(2)) as b:
        assert "/tcp/0/" not in a.listen_addresses[0]
        assert a.listen_addresses[0].endswith("/p2p/" + format_peer_id(a.peer_id))
        await b.dial(a.listen_addresses[0])
        expected = (f"{announce[0]}/p2p/{format_peer_id(a.peer_id)}",)
        await until(lambda: b.addresses_of(a.peer_id) == expected)
        await until(lambda: a.addresses_of(b.peer_id) == b.listen_addresses)


async def test_a_wildcard_is_never_announced() -> None:
    async with open_network(settings(1, listen=("/ip4/0.0.0.0/tcp/0",))) as a:
        assert a.announced_addresses
        assert not any("/0.0.0.0/" in address for address in a.announced_addresses)


async def test_a_taken_port_is_named() -> None:
    async with open_network(settings(1)) as a:
        address = a.listen_addresses[0].partition("/p2p/")[0]
        with pytest.raises(OSError, match=f"cannot listen on {address}: the port is taken"):
            async with open_network(settings(2, listen=(address,))):
                raise AssertionError("two nodes share one port")


async def test_dials_fail_with_their_reason() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2, max_peers=1)) as b:
        async with open_network(settings(3)) as gone:
            dead = gone.listen_addresses[0]
        here = b.listen_addresses[0].partition("/p2p/")[0]
        for address, reason in (
            (dead, "refused"),
            (f"{here}/p2p/{format_peer_id(gone.peer_id)}", "security"),
            (a.listen_addresses[0], "self"),
        ):
            with pytest.raises(NetworkError) as caught:
                await a.dial(address)
            assert caught.value.reason == reason
            assert a.dial_outcomes[reason] == 1
        assert set(a.dial_outcomes) <= REASONS
        with pytest.raises(NetworkError, match="unreachable: no address known"):
            await a.dial_peer(gone.peer_id if not a.addresses_of(gone.peer_id) else PeerId(b"\0\0"))

        await a.dial(b.listen_addresses[0])
        async with open_network(settings(4)) as c:
            with pytest.raises(NetworkError, match="full"):
                await b.dial(c.listen_addresses[0])
            b.protect(c.peer_id)
            await b.dial(c.listen_addresses[0])


async def test_a_failed_peer_is_dialled_again_at_once() -> None:
    async with open_network(settings(1)) as a:
        async with open_network(settings(2)) as b:
            address = b.listen_addresses[0]
        with pytest.raises(NetworkError, match="refused"):
            await a.dial(address)
        listen = (address.partition("/p2p/")[0],)
        async with open_network(settings(2, listen=listen)) as b:
            await a.dial(address)
            assert a.connected() == (b.peer_id,)


async def test_a_full_host_refuses_the_next_peer_and_serves_those_it_has() -> None:
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(open_network(settings(1, max_peers=2)))
        full.handle([ECHO], echo)
        others = [await stack.enter_async_context(open_network(settings(n))) for n in (2, 3, 4)]
        for other in others[:2]:
            await other.dial(full.listen_addresses[0])
        with pytest.raises(NetworkError, match="closed"):
            await others[2].dial(full.listen_addresses[0])
        assert full.inbound_refused == {"full": 1}
        assert len(full.connected()) == 2
        stream = await others[0].open_stream(full.peer_id, [ECHO])
        await stream.write(b"still here")
        assert await stream.read_exactly(10) == b"still here"


async def test_a_banned_peer_stays_out() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        await b.dial(a.listen_addresses[0])
        await until(lambda: a.connected() == (b.peer_id,))
        await a.ban(b.peer_id, 60)
        await until(lambda: b.connected() == ())
        with pytest.raises(NetworkError, match="banned"):
            await a.dial(b.listen_addresses[0])
        assert a.reputation.unban(b.peer_id)
        await a.dial(b.listen_addresses[0])


async def test_offences_end_in_a_ban_and_bans_of_an_address_end_all_behind_it() -> None:
    async with (
        open_network(settings(1)) as a,
        open_network(settings(2)) as b,
        open_network(settings(3)) as c,
    ):
        for other in (b, c):
            await other.dial(a.listen_addresses[0])
        await until(lambda: len(a.connected()) == 2)
        for _ in range(11):  # Ten are enough within one millisecond: points fade.
            assert a.is_connected(b.peer_id)
            a.report(b.peer_id, "malformed_request")
        await until(lambda: a.connected() == (c.peer_id,))
        assert a.reputation.bans()[0].address == a.remote_ip(c.peer_id) == "127.0.0.1"

        await a.ban("127.0.0.1", 60)
        await until(lambda: c.connected() == ())
        with pytest.raises(NetworkError, match="closed"):
            await c.dial(a.listen_addresses[0])
        assert a.inbound_refused["banned"] >= 1


def test_the_stream_cipher_is_xsalsa20() -> None:
    """Against libsodium, whose secretbox is XSalsa20 from the 33rd byte of the stream on."""
    for number in range(20):
        key, nonce = sha256(b"k%d" % number).digest(), sha256(b"n%d" % number).digest()[:24]
        message = bytes(range(number, number + 100))
        boxed = SecretBox(key).encrypt(message, nonce).ciphertext[16:]
        cipher = xsalsa20(key, nonce)
        streamed = cipher.encrypt(bytes(32)) and cipher.encrypt(message[:7])
        assert streamed + cipher.encrypt(message[7:]) == boxed


async def test_a_private_network_is_closed_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "HANDSHAKE_TIMEOUT_S", 2.0)  # What the wrong key waits for.
    key = parse_key(b"/key/swarm/psk/1.0.0/\n/base16/\n" + b"ab" * 32 + b"\n")
    assert key == b"\xab" * 32
    with pytest.raises(ValueError, match="three lines"):
        parse_key(b"ab" * 32)
    async with (
        open_network(settings(1, psk=key)) as a,
        open_network(settings(2, psk=key)) as b,
        open_network(settings(3, psk=bytes(32))) as wrong,
        open_network(settings(4)) as without,
    ):
        b.handle([ECHO], echo)
        await a.dial(b.listen_addresses[0])
        stream = await a.open_stream(b.peer_id, [ECHO])
        await write_frame(stream, bytes(200_000))
        assert await read_frame(stream, 200_000) == bytes(200_000)
        async with trio.open_nursery() as nursery:
            for stranger in (wrong, without):
                nursery.start_soon(is_refused, stranger, a)
        assert a.connected() == (b.peer_id,)


async def is_refused(stranger: Network, network: Network) -> None:
    with pytest.raises(NetworkError):
        await stranger.dial(network.listen_addresses[0])


async def test_an_address_has_its_limit_and_an_allow_list_its_members() -> None:
    strict = settings(1, max_connections_per_ip=1, limit_loopback=True)
    async with (
        open_network(strict) as a,
        open_network(settings(2)) as b,
        open_network(settings(3, allow=(a.peer_id,))) as c,
    ):
        await b.dial(a.listen_addresses[0])
        await until(lambda: a.direction(b.peer_id) == "inbound")
        assert b.direction(a.peer_id) == "outbound"
        with pytest.raises(NetworkError, match="closed"):
            await c.dial(a.listen_addresses[0])
        assert a.inbound_refused == {"address_full": 1}
        await b.disconnect(a.peer_id)
        await until(lambda: a.connected() == ())
        with trio.fail_after(60):
            while not c.is_connected(a.peer_id):  # the socket closes a moment after the peer left
                with suppress(NetworkError):
                    await c.dial(a.listen_addresses[0])
        with pytest.raises(NetworkError, match="closed"):
            await b.dial(c.listen_addresses[0])
        assert c.inbound_refused == {"not_allowed": 1}
        with pytest.raises(NetworkError, match="not_allowed"):
            await c.dial(b.listen_addresses[0])
        assert a.direction(PeerId(b"nobody")) == ""


async def test_simultaneous_dials_end_in_a_usable_connection() -> None:
    for _ in range(5):
        async with open_network(settings(1)) as a, open_network(settings(2)) as b:
            for network in (a, b):
                network.handle([ECHO], echo)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.dial, b.listen_addresses[0])
                nursery.start_soon(b.dial, a.listen_addresses[0])
            for network, other in ((a, b), (b, a)):
                assert network.connected() == (other.peer_id,)
                stream = await network.open_stream(other.peer_id, [ECHO])
                await stream.write(b"both")
                assert await stream.read_exactly(4) == b"both"


async def test_concurrent_dials_to_one_peer_share_one_connection() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(a.dial, b.listen_addresses[0])
        assert len(a.host.get_network().get_connections()) == 1


async def test_subscribers_hear_of_present_coming_and_leaving_peers() -> None:
    async with open_network(settings(1)) as a:
        async with open_network(settings(2)) as b, open_network(settings(3)) as c:
            await b.dial(a.listen_addresses[0])
            await until(lambda: a.connected() == (b.peer_id,))
            events = a.subscribe()
            assert await events.receive() == PeerConnected(b.peer_id)
            await c.dial(a.listen_addresses[0])
            assert await events.receive() == PeerConnected(c.peer_id)
            await a.disconnect(b.peer_id)
            assert await events.receive() == PeerDisconnected(b.peer_id)
        assert await events.receive() == PeerDisconnected(c.peer_id)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_a_slow_subscriber_blocks_nobody_and_hears_of_a_reconnection() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        events, slow, closed = a.subscribe(), a.subscribe(), a.subscribe()
        closed.close()
        for _ in range(100):  # far beyond the channel's room
            await b.dial(a.listen_addresses[0])
            assert await events.receive() == PeerConnected(b.peer_id)
            await b.disconnect(a.peer_id)
            assert await events.receive() == PeerDisconnected(b.peer_id)
        await b.dial(a.listen_addresses[0])
        await until(lambda: a.connected() == (b.peer_id,))
        told, more = [], True
        with trio.fail_after(60):
            while more or told[-1:] != [PeerConnected(b.peer_id)]:  # however late the last ones are
                with trio.move_on_after(0.3) as pause:
                    told.append(await slow.receive())
                more = not pause.cancelled_caught
        assert told[0] == told[-1] == PeerConnected(b.peer_id)
        assert all(type(one) is not type(other) for one, other in itertools.pairwise(told))


PEER_PROCESS = """
import sys, trio
from gridtokenx.network.host import HostSettings, open_network

async def main():
    settings = HostSettings(seed=bytes([9]) * 32, listen=("/ip4/127.0.0.1/tcp/0",))
    async with open_network(settings) as network:
        await network.dial(sys.argv[1])
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_killed_process_is_noticed_at_once() -> None:
    async with open_network(settings(1)) as a:
        events = a.subscribe()
        command = [sys.executable, "-c", PEER_PROCESS, a.listen_addresses[0]]
        with subprocess.Popen(command) as process:  # noqa: ASYNC220 - it starts at once
            event = await events.receive()
            process.kill()
            with trio.fail_after(60):
                assert await events.receive() == PeerDisconnected(event.peer)
        assert a.connected() == ()


async def test_streams_to_absent_peers_and_unknown_protocols_fail() -> None:
    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        with pytest.raises(NetworkError, match="closed: not connected"):
            await a.open_stream(b.peer_id, [ECHO])
        await a.dial(b.listen_addresses[0])
        with pytest.raises(NetworkError) as caught:
            await a.open_stream(b.peer_id, [ECHO])
        assert caught.value.reason == "protocol"


async def test_a_reader_learns_that_the_peer_reset_or_left() -> None:
    async def hang_up(stream: Stream) -> None:
        await stream.read_some(1)
        await stream.reset()

    async def wait_for_ever(_stream: Stream) -> None:
        await trio.sleep_forever()

    async with open_network(settings(1)) as a, open_network(settings(2)) as b:
        b.handle(["/test/reset/1"], hang_up)
        b.handle(["/test/wait/1"], wait_for_ever)
        await a.dial(b.listen_addresses[0])
        stream = await a.open_stream(b.peer_id, ["/test/reset/1"])
        await stream.write(b"x")
        with pytest.raises(NetworkError, match="closed"):
            await stream.read_some(1)
        stream = await a.open_stream(b.peer_id, ["/test/wait/1"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.disconnect, a.peer_id)
            with pytest.raises(NetworkError, match="closed"):
                await stream.read_some(1)
        with pytest.raises(NetworkError, match="closed"):
            await stream.write(b"late")


@pytest.mark.parametrize("bad", [{"seed": b"short"}, {"listen": ("nonsense",)}])
def test_settings_are_checked(bad) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|no TCP address"):
        settings(1, **bad)
