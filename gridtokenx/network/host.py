"""The only door to the libp2p host: identity, connections and streams.

Source: protocols/networking.md 1. Peers are named by their libp2p peer id in bytes; text forms
(base58 ids, multiaddrs) appear only at this module's edges. Whatever a peer sends or does ends at
most its own stream or connection, and is counted.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from multiaddr import Multiaddr

from gridtokenx.network.clock import Clock
from gridtokenx.network.dialling import (
    DialRules,
    interface_addresses,
    parse_address,
    parse_peer_id,
    without_peer,
    without_wildcards,
)
from gridtokenx.network.libp2p_overrides import DialError, NodeHost, assemble_host, shielded
from gridtokenx.network.link_faults import LinkFaults
from gridtokenx.network.peer_events import PeerConnected, PeerDisconnected, PeerEvent, Subscription
from gridtokenx.network.peers import addresses
from gridtokenx.network.peers.admission import Admission, Limits
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import OPERATOR, Reputation
from gridtokenx.network.throttle import PAYER, holding, metered
from gridtokenx.runtime.stopping import ends_node

__all__ = [
    "HostSettings",
    "Network",
    "NetworkError",
    "PeerConnected",
    "PeerDisconnected",
    "PeerEvent",
    "PeerId",
    "Stream",
    "StreamHandler",
    "format_peer_id",
    "open_network",
    "parse_address",
    "parse_peer_id",
    "read_frame",
    "without_peer",
    "write_frame",
]

StreamHandler = Callable[["Stream"], Awaitable[None]]

REASONS = frozenset(
    [
        "refused",
        "timeout",
        "security",
        "protocol",
        "unreachable",
        "self",
        "full",
        "banned",
        "closed",
        "not_allowed",
    ]
)
READ_CHUNK_BYTES = 65_536
SHUTDOWN_S = 1.0
ADDRESS_TTL_S = 3_600
REMEMBERED_TTL_S = 24 * 3_600
ED25519_PEER_ID_PREFIX = bytes.fromhex("002408011220")  # identity multihash, protobuf key header
TRANSPORT_FAILURES = (IOException, BaseLibp2pError)

log = structlog.get_logger(__name__)


class NetworkError(Exception):
    """A dial failed, a stream was refused, or a peer is gone.

    `reason` is one of `REASONS`, the label under which outcomes are counted.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a host needs: `seed` is the 32-byte Ed25519 seed, addresses are multiaddr text.

    A `listen` address that ends in `/ws` serves WebSockets, for browsers.
    `announce` replaces what is told to others; `allow_private` is that of `dialling.DialRules`;
    `max_peers` counts peers, not connections; the limits are those of `admission.Limits`, which
    `limits` makes of them.
    """

    seed: bytes
    listen: tuple[str, ...]
    announce: tuple[str, ...] = ()
    max_peers: int = 50
    max_inbound: int | None = None
    max_outbound: int | None = None
    max_connections_per_ip: int = 16
    limit_loopback: bool = False
    allow: tuple[PeerId, ...] = ()
    allow_private: bool | None = None
    psk: bytes | None = None

    def __post_init__(self) -> None:
        if self.psk is not None and len(self.psk) != 32:
            raise ValueError("a private network's key has 32 bytes")
        if len(self.seed) != 32:
            raise ValueError(f"an Ed25519 seed has 32 bytes, not {len(self.seed)}")
        for address in self.listen:
            addresses.parse_listen(address)
        for address in self.announce:
            addresses.parse_announced(address)

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_peers,
            self.max_inbound,
            self.max_outbound,
            self.max_connections_per_ip,
            self.limit_loopback,
            frozenset(self.allow),
        )


def format_peer_id(peer: PeerId) -> str:
    """The base58 text of a peer id, `12D3Koo...` for Ed25519."""
    return str(ID(peer).to_base58())


class Stream:
    """A libp2p stream with buffered reads. One reader and one writer at a time.

    A cancelled `write` may have sent a part: reset the stream then. The connection survives.
    """

    def __init__(self, raw: INetStream, faults: LinkFaults) -> None:
        self._raw = raw
        self._faults = faults
        self._buffer = bytearray()
        self.peer = PeerId(raw.muxed_conn.peer_id.to_bytes())
        self.protocol = str(raw.get_protocol())

    @property
    def held_bytes(self) -> int:
        """What was read from the connection and not yet taken."""
        return len(self._buffer)

    async def _receive(self) -> bytes:
        try:
            data: bytes = await self._raw.read(READ_CHUNK_BYTES)
        except StreamEOF:
            return b""
        except TRANSPORT_FAILURES as error:
            raise NetworkError("closed", "the stream was reset") from error
        return data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def read_some(self, max_bytes: int) -> bytes:
        """Return 1..max_bytes bytes, b"" at the end. Errors: NetworkError on reset."""
        if not self._buffer:
            self._buffer += await self._receive()
        return self._take(max_bytes)

    async def read_exactly(self, n: int) -> bytes:
        """Return n bytes. Errors: NetworkError on reset or when the stream ends before."""
        while len(self._buffer) < n:
            data = await self._receive()
            if not data:
                raise NetworkError(
                    "closed", f"the stream ended {n - len(self._buffer)} bytes short"
                )
            self._buffer += data
        return self._take(n)

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting for the peer to read. Errors: NetworkError."""
        if self._faults.delay_ms:
            await trio.sleep(self._faults.delay_ms / 1_000)
        try:
            await self._raw.write(data)
        except TRANSPORT_FAILURES as error:
            raise NetworkError("closed", "the stream is closed for writing") from error

    async def close(self) -> None:
        """Close both directions; never raises."""
        try:
            await self._raw.close()
        except TRANSPORT_FAILURES:
            await self.reset()

    async def close_write(self) -> None:
        """Tell the peer that no more follows; reading goes on. Errors: NetworkError."""
        try:
            await self._raw.close_write()
        except TRANSPORT_FAILURES as error:
            raise NetworkError("closed", "the stream was reset") from error

    async def reset(self) -> None:
        """Abandon the stream in both directions; never raises."""
        await self._raw.reset()


async def read_frame(stream: Stream, max_bytes: int) -> bytes:
    """Read one unsigned-varint length-prefixed frame of at most `max_bytes`.

    Errors: NetworkError `closed` when the stream ends, `protocol` when the length is malformed,
    not minimal, or above the limit (nothing of the body is read then).
    """
    length = 0
    for position in range(5):
        byte = (await stream.read_exactly(1))[0]
        length |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            if position and byte == 0:
                raise NetworkError("protocol", "the frame length is not minimal")
            break
    else:
        raise NetworkError("protocol", "the frame length is malformed")
    if length > max_bytes:
        raise NetworkError("protocol", f"a frame of {length} bytes is above {max_bytes}")
    return await stream.read_exactly(length)


async def write_frame(stream: Stream, data: bytes) -> None:
    """Write one unsigned-varint length-prefixed frame. Errors: NetworkError."""
    prefix, length = bytearray(), len(data)
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    await stream.write(bytes(prefix) + data)


class _Holding:
    """The read and unused bytes of an inbound stream, one of the things that strangers hold."""

    def __init__(self, stream: Stream, scope: trio.CancelScope) -> None:
        self.payer = PAYER.get()
        self._stream = stream
        self._scope = scope

    def open_streams(self) -> int:
        return 0

    def held_bytes(self) -> int:
        return self._stream.held_bytes

    def give_up(self) -> None:
        self._scope.cancel()


class Network:
    """A running host. Made by `open_network`."""

    def __init__(self, host: NodeHost, settings: HostSettings, nursery: trio.Nursery) -> None:
        self.host = host  # for network/discovery.py alone
        self._settings = settings
        self._nursery = nursery
        self._swarm = host.get_network()
        self._subscriptions: list[Subscription] = []
        self._swarm.on_peer_change = self._on_peer_change
        self._swarm.on_handler_error = self._on_handler_error
        self.peer_id = PeerId(host.get_id().to_bytes())
        self._admission: Admission = self._swarm.admission
        self._rules: DialRules = self._swarm.rules
        self.reputation: Reputation = self._admission.reputation
        # The loop's work on a stranger's connection is charged here; whoever gives a thread work
        # for a peer charges that to `source_of` it.
        self.budget: StrangersBudget = self._swarm.gate.budget
        self.faults: LinkFaults = self._swarm.faults
        self.handler_errors = self._swarm.handler_errors
        self.dial_outcomes: Counter[str] = (
            self._swarm.dial_outcomes
        )  # reason or "connected" -> count
        self.inbound_refused = self._swarm.inbound_refused  # reason -> count

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """The bound addresses with real ports, as full multiaddrs with /p2p/<id>."""
        suffix = f"/p2p/{format_peer_id(self.peer_id)}"
        return tuple(f"{address}{suffix}" for address in self.host.get_transport_addrs())

    @property
    def announced_addresses(self) -> tuple[str, ...]:
        """What others are told: `announce`, else the bound addresses without wildcards."""
        return tuple(str(address) for address in self.host.get_addrs())

    @property
    def nat_ip(self) -> str | None:
        """The address peers see us come from, when it is none of this machine's own."""
        seen = self.host.observed_ip
        own = [*interface_addresses("ip4"), *interface_addresses("ip6"), "127.0.0.1", "::1"]
        return None if seen is None or seen in own else seen

    @property
    def is_private(self) -> bool:
        """Whether the operator lets in listed peers only."""
        return bool(self._settings.allow)

    @property
    def announces(self) -> bool:
        """Whether the operator has set what others are told."""
        return bool(self._settings.announce)

    # -- Streams -----------------------------------------------------------------------------------

    def handle(self, protocols: Sequence[str], handler: StreamHandler) -> None:
        """Serve inbound streams. The stream is closed when the handler returns, reset when it
        raises; an exception that is no NetworkError is logged as a fault of ours and counted."""

        async def serve(raw: INetStream) -> None:
            stream = Stream(raw, self.faults)
            with trio.CancelScope() as scope, holding(_Holding(stream, scope)):
                await handler(stream)
            await (stream.reset() if scope.cancelled_caught else stream.close())

        for protocol in protocols:
            self.host.set_stream_handler(TProtocol(protocol), serve)

    def handle_raw(self, protocol: str, handler: Callable[[INetStream], Awaitable[None]]) -> None:
        """Serve a protocol of the library's own, such as the DHT."""
        self.host.set_stream_handler(TProtocol(protocol), handler)

    async def open_stream(
        self, peer: PeerId, protocols: Sequence[str], timeout_s: float = 5
    ) -> Stream:
        """Open a stream to a connected peer on the first protocol it speaks.

        Errors: NetworkError `closed` (not connected), `protocol` (none in common), `timeout`.
        """
        peer_id = ID(peer)
        if peer_id not in self._swarm.connections:
            raise NetworkError("closed", f"not connected to {format_peer_id(peer)}")
        try:
            with trio.fail_after(timeout_s):
                raw = await self.host.new_stream(peer_id, [TProtocol(each) for each in protocols])
        except trio.TooSlowError as error:
            raise NetworkError("timeout", f"no stream within {timeout_s} s") from error
        except DialError as error:
            raise NetworkError(error.reason, str(error)) from error
        except MultiselectClientError as error:
            # Only a stream that broke has a cause; an answered "not available" has none.
            reason = "protocol" if error.__cause__ is None else "closed"
            raise NetworkError(reason, str(error)) from error
        except TRANSPORT_FAILURES as error:
            raise NetworkError("closed", str(error)) from error
        return Stream(raw, self.faults)

    # -- Connections -------------------------------------------------------------------------------

    async def dial(self, address: str) -> PeerId:
        """Connect to `/ip4/.../tcp/.../p2p/<id>`, as the operator has configured it.

        Errors: NetworkError; ValueError if malformed.
        """
        peer, where = parse_address(address)
        self._rules.note_own(where)
        self.host.get_peerstore().add_addrs(ID(peer), [where], ADDRESS_TTL_S)
        await self._dial(peer, [where])
        return peer

    async def dial_peer(self, peer: PeerId) -> None:
        """Connect to a peer whose addresses others told us, as far as `dialling` lets.

        Errors: NetworkError.
        """
        known = self._known(peer)
        if self.is_trusted(peer):
            await self._dial(peer, known)
        else:
            rules = self._rules
            await self._dial(peer, [each for each in known if rules.may_dial(each)], rules)

    async def _dial(
        self, peer: PeerId, addresses: Sequence[Multiaddr], rules: DialRules | None = None
    ) -> None:
        try:
            await self._swarm.dial(ID(peer), addresses, rules)
        except DialError as error:
            raise NetworkError(error.reason, str(error)) from error

    def connected(self) -> tuple[PeerId, ...]:
        """The connected peers, sorted."""
        return tuple(sorted(PeerId(each.to_bytes()) for each in self._swarm.connections))

    def is_connected(self, peer: PeerId) -> bool:
        return ID(peer) in self._swarm.connections

    def _known(self, peer: PeerId) -> list[Multiaddr]:
        try:
            return list(self.host.get_peerstore().addrs(ID(peer)))
        except PeerStoreError:
            return []

    def remember(self, peer: PeerId, addresses: Sequence[str], *, is_local: bool = False) -> None:
        """Take over addresses that were known of a peer before. What is malformed or may not be
        dialled is skipped. `is_local`: the peer itself told them in a local network of ours."""
        known = []
        for address in addresses:
            try:
                owner, where = parse_address(address)
            except ValueError:
                continue
            if is_local and owner == peer:
                self._rules.note_local(where)
            if owner == peer and (self._rules.may_dial(where) or self.is_trusted(peer)):
                known.append(where)
        if known:
            self.host.get_peerstore().add_addrs(ID(peer), known, REMEMBERED_TTL_S)

    def agent_of(self, peer: PeerId) -> str:
        """The software a peer says it runs; "" when unknown."""
        try:
            return str(self.host.get_peerstore().get(ID(peer), "agent_version"))
        except PeerStoreError:
            return ""

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """The listening addresses known of a peer, as full multiaddrs; () when unknown."""
        suffix = f"/p2p/{format_peer_id(peer)}"
        return tuple(f"{without_peer(each)}{suffix}" for each in self._known(peer))

    def direction(self, peer: PeerId) -> str:
        """Who dialled: `inbound` or `outbound`; "" for a peer that is not connected."""
        return str(self._swarm.direction_of(ID(peer)))

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to a peer; returns promptly even if the peer is frozen."""
        await self._swarm.close_peer(ID(peer))

    def protect(self, peer: PeerId) -> None:
        """Let a peer (an authority, a bootnode) connect even when `max_peers` is reached."""
        self._admission.protected.add(peer)

    def set_authorities(self, peers: Sequence[PeerId]) -> None:
        """Replace the peers that find room because validators vouch for them."""
        self._admission.authorities = frozenset(bytes(peer) for peer in peers)
        for peer in peers:
            self._admission.note_trusted(self.remote_ip(peer))

    def source_of(self, peer: PeerId) -> str | None:
        """Whose share of `budget` a peer's work is charged to; None for a trusted peer, which
        neither pays nor waits: one the operator has named or a validator's key vouches for."""
        return self._admission.source_of(bytes(peer), self.remote_ip(peer))

    def is_trusted(self, peer: PeerId) -> bool:
        """Whether a peer is no stranger: named by the operator, or vouched for."""
        return self._admission.trusts(bytes(peer))

    def report(self, peer: PeerId, offence: str) -> None:
        """Note an offence of `reputation.OFFENCES`; a peer that goes too far is cut off."""
        ban = self.reputation.report(peer, offence, self.remote_ip(peer))
        if ban is not None:
            seconds = (ban.until_ms - ban.since_ms) // 1_000
            text = format_peer_id(peer)
            log.warning("peer.banned", peer=text, why=offence, seconds=seconds)
            self._nursery.start_soon(self._enforce_bans)

    async def ban(self, target: PeerId | str, duration_s: float, reason: str = OPERATOR) -> None:
        """Refuse a peer, or an IP address and all behind it, for a while; disconnect them."""
        self.reputation.ban(target, round(duration_s * 1_000), reason)
        await self._enforce_bans()

    async def _enforce_bans(self) -> None:
        async with trio.open_nursery() as nursery:
            for peer in self.connected():
                if self.refuses(peer):
                    nursery.start_soon(self.disconnect, peer)

    def remote_ip(self, peer: PeerId) -> str | None:
        """The IP address that a connected peer's newest connection is with."""
        ip: str | None = self._swarm.remote_ip(ID(peer))
        return ip

    def refuses(self, peer: PeerId) -> bool:
        """Whether connections with a peer, or with where it is, are refused now."""
        return bool(self._swarm.refuses(ID(peer)))

    async def block(self, peers: frozenset[PeerId]) -> None:
        """Test only: cut these peers off, both ways, and let all others through again."""
        self.faults.blocked = frozenset(bytes(peer) for peer in peers)
        for peer in peers:
            await self.disconnect(peer)

    def subscribe(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        """Events of peers, beginning with those connected now, in a channel of one's own.

        One PeerConnected when the first connection to a peer is up, one PeerDisconnected when
        the last is gone. A slow subscriber is told the latest: a peer that came and went
        meanwhile is skipped, one that went and came back is told as both.
        """
        subscription = Subscription(self.is_connected)
        self._subscriptions.append(subscription)
        for peer in self.connected():
            subscription.note(peer)
        self._nursery.start_soon(self._run_subscription, subscription)
        return subscription.receive_channel

    async def _run_subscription(self, subscription: Subscription) -> None:
        try:
            await subscription.pump()
        finally:
            self._subscriptions.remove(subscription)
            subscription.send_channel.close()

    def _on_peer_change(self, peer_id: ID) -> None:
        for subscription in self._subscriptions:
            subscription.note(PeerId(peer_id.to_bytes()))

    def _on_handler_error(self, stream: INetStream, error: Exception) -> None:
        """What a handler raised. Errors: Ending, which is for the whole process."""
        if ends_node(error):
            raise error
        protocol = str(stream.get_protocol())
        self.handler_errors[protocol] += 1
        if isinstance(error, NetworkError | IOException | BaseLibp2pError):
            return  # the peer left or broke the protocol; nothing a person must act on
        peer = PeerId(stream.muxed_conn.peer_id.to_bytes())
        text = format_peer_id(peer)
        log.error("stream.handler_failed", protocol=protocol, peer=text, exc_info=error)
        self.report(peer, "handler_error")

    # -- Identity ----------------------------------------------------------------------------------

    def sign(self, data: bytes) -> bytes:
        """The node identity's Ed25519 signature of `data`, 64 bytes."""
        return bytes(self.host.get_private_key().sign(data))

    @staticmethod
    def public_key_of(peer: PeerId) -> bytes | None:
        """The 32-byte Ed25519 key inlined in a peer id, None for other kinds of id."""
        if len(peer) != 38 or not peer.startswith(ED25519_PEER_ID_PREFIX):
            return None
        return bytes(peer[6:])


@asynccontextmanager
async def open_network(
    settings: HostSettings, reputation: Reputation | None = None
) -> AsyncIterator[Network]:
    """Run a host while the context lasts. `reputation` is asked whom to refuse; None: a new one.

    Errors: OSError that names the address when it cannot be bound.
    """
    announce = [addresses.parse_announced(address) for address in settings.announce]
    if reputation is None:
        reputation = Reputation(Clock(), exempt_loopback=not settings.limit_loopback)
    host = assemble_host(
        settings.seed,
        admission=Admission(settings.limits, reputation),
        psk=settings.psk,
        rules=DialRules((*settings.listen, *settings.announce), settings.allow_private),
        advertise=lambda bound: without_wildcards(announce or bound),
    )
    swarm = host.get_network()
    try:
        await swarm.listen(*map(addresses.parse_listen, settings.listen))
        async with trio.open_nursery() as nursery:
            swarm.start(nursery)
            try:
                with metered():
                    yield Network(host, settings, nursery)
            finally:
                with shielded(SHUTDOWN_S):
                    await swarm.close()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await swarm.close_listeners()
