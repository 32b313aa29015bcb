"""The swarm, its connections, and its sockets, with the faults of py-libp2p 0.8.1 mended.

- an accepted connection keeps its slot and task until the swarm ends: it now ends with its own
  connection, and half-open ones have a time limit and a bounded number;
- the muxer class given to the host is ignored for yamux: `NodeUpgrader` uses ours;
- every task looks for its parent among all tasks (O(n)), and one failing task cancels the
  service: connections live in one plain nursery and each task is total;
- every dial waits 250 ms even on success, and a failed peer is not dialled for 60 s: `dial_peer`;
- the auto-connector and the pruner dial and close connections on their own: not started;
- a full peer store evicts entries without addresses first, that is the node's own private key;
- SO_REUSEPORT lets a second node bind the same port silently: `listen` refuses a taken port.

Source: protocols/networking.md 1, 7.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from libp2p.abc import IMuxedStream, INetStream
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.multiaddr_utils import extract_ip_from_multiaddr, multiaddr_from_socket
from multiaddr import Multiaddr

from gridtokenx.network.dialling import DialRules
from gridtokenx.network.libp2p_overrides.negotiation import Selector
from gridtokenx.network.libp2p_overrides.private_network import ProtectedStream
from gridtokenx.network.libp2p_overrides.sockets import BufferedTCPStream
from gridtokenx.network.libp2p_overrides.websocket import accept_websocket
from gridtokenx.network.libp2p_overrides.yamux import NodeYamux
from gridtokenx.network.link_faults import LinkFaults
from gridtokenx.network.peers.admission import Admission
from gridtokenx.network.throttle import PAYER, Gate, Payer

CONNECT_TIMEOUT_S = 5.0
HANDSHAKE_TIMEOUT_S = 8.0
MAX_HALF_OPEN = 128
MAX_CONNECTIONS_PER_PEER = 3
MAX_ADDRESSES_PER_DIAL = 8
DIAL_STAGGER_S = 0.02
REFUSALS = {
    "banned": "it or its address is banned",
    "full": "no room for another peer",
    "not_allowed": "not on the list of allowed peers",
}


def shielded(seconds: float) -> trio.CancelScope:
    """A scope for cleaning up: at most `seconds`, even when the task is being cancelled."""
    scope = trio.move_on_after(seconds)
    scope.shield = True
    return scope


class DialError(SwarmException):
    """A dial failed. `reason` is one of the words that `NetworkError` lists."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class NodeTCP(TCP):
    """TCP whose dialled connections read through a buffer."""

    async def dial(self, maddr: Multiaddr) -> RawConnection:
        raw = await super().dial(maddr)
        return RawConnection(BufferedTCPStream(raw.stream.stream), True)


class NodeUpgrader(TransportUpgrader):
    """Upgrades to our yamux: the library builds its own whatever class it was given."""

    def __init__(self, secure_transports: Any, muxer_transports: Any) -> None:
        super().__init__(secure_transports, muxer_transports)
        for choice in (self.security_multistream, self.muxer_multistream):
            choice._selector = Selector(choice._selector.handlers)

    psk: bytes | None = None  # of a private network: then nothing is said in the clear

    async def upgrade_security(
        self, raw_conn: Any, is_initiator: bool, peer_id: ID | None = None
    ) -> Any:
        if self.psk is not None:
            protected: Any = ProtectedStream(raw_conn, self.psk)
            raw_conn = RawConnection(protected, is_initiator)
        return await super().upgrade_security(raw_conn, is_initiator, peer_id)

    async def upgrade_connection(self, conn: Any, peer_id: ID) -> NodeYamux:
        selector = self.muxer_multistream._selector
        try:
            await selector.select(conn, conn.is_initiator, int(HANDSHAKE_TIMEOUT_S))
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("no common multiplexer") from error
        return NodeYamux(conn, peer_id, is_initiator=conn.is_initiator)


class NodeConnection(SwarmConn):
    """One connection. Closing it is prompt, and no stream on it can raise into the swarm."""

    swarm: "NodeSwarm"

    async def close(self) -> None:
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        self.swarm.forget(self)
        await self.muxed_conn.close()
        for stream in self.get_streams():
            await stream.reset()

    async def _handle_new_streams(self) -> None:
        self.event_started.set()
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await self.muxed_conn.accept_stream()
                except MuxedConnUnavailable:
                    break
                nursery.start_soon(self._handle_muxed_stream, stream)
            nursery.cancel_scope.cancel()

    async def _handle_muxed_stream(self, muxed_stream: IMuxedStream) -> None:
        stream = await self._add_stream(muxed_stream)
        try:
            await self.swarm.common_stream_handler(stream)
        except Exception as error:  # noqa: BLE001 - streams enter here: must be total
            self.swarm.on_handler_error(stream, error)
            with shielded(1):
                await stream.reset()
        finally:
            self.remove_stream(stream)


class NodePeerStore(PeerStore):
    """What is known of peers, bounded, without ever forgetting ourselves or a connected peer."""

    def __init__(self) -> None:
        super().__init__()
        self.must_keep: Callable[[ID], bool] = lambda _peer: True

    def _enforce_peer_limit(self) -> None:
        excess = len(self.peer_data_map) - self.max_peers
        forgettable = [each for each in self.peer_data_map if not self.must_keep(each)]
        for peer_id in forgettable[: max(0, excess)]:  # the longest known first
            self.clear_peerdata(peer_id)


async def _accept_tcp(stream: trio.SocketStream) -> TrioTCPStream:
    return BufferedTCPStream(stream)


class _Listening:
    """Bound sockets, how a byte stream comes of one they accept, and, for the host, addresses."""

    def __init__(self, listeners: Sequence[trio.SocketListener], maddr: Multiaddr) -> None:
        self.sockets = listeners
        web = "ws" in [protocol.name for protocol in maddr.protocols()]
        self.wrap: Callable[[trio.SocketStream], Awaitable[TrioTCPStream]] = (
            accept_websocket if web else _accept_tcp
        )
        self._addresses = tuple(
            Multiaddr(f"{multiaddr_from_socket(each.socket)}{'/ws' if web else ''}")
            for each in listeners
        )

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return self._addresses


class NodeSwarm(Swarm):
    """Connections by peer, all living in the nursery given to `start`."""

    connections: dict[ID, list[NodeConnection]]
    listeners: dict[str, _Listening]

    def __init__(
        self,
        peer_id: ID,
        peerstore: NodePeerStore,
        upgrader: NodeUpgrader,
        *,
        admission: Admission,
        rules: DialRules,
    ) -> None:
        config = ConnectionConfig(
            max_connections=admission.limits.max_peers * MAX_CONNECTIONS_PER_PEER,
            min_connections=0,
            low_watermark=0,
            high_watermark=0,
        )
        super().__init__(peer_id, peerstore, upgrader, [NodeTCP()], connection_config=config)
        peerstore.must_keep = lambda each: each == self.self_id or each in self.connections
        self.admission = admission
        self.gate = Gate(admission)
        self.rules = rules
        self.faults = LinkFaults()
        self.dial_outcomes: Counter[str] = Counter()
        self.inbound_refused: Counter[str] = Counter()
        self.handler_errors: Counter[str] = Counter()
        self.on_peer_change: Callable[[ID], None] = lambda _peer: None
        self.on_connection: Callable[[NodeConnection], None] = lambda _connection: None
        self.on_handler_error: Callable[[INetStream, Exception], None] = self._count_handler_error
        self._nursery: trio.Nursery | None = None
        self._half_open: dict[trio.CancelScope, None] = {}

    def start(self, nursery: trio.Nursery) -> None:
        """Accept connections; `nursery` holds every task of this swarm from now on."""
        self._nursery = self.background_nursery = nursery
        self.event_background_nursery_created.set()
        for listening in self.listeners.values():
            accept = partial(self._accept, listening)
            nursery.start_soon(trio.serve_listeners, accept, listening.sockets)

    @property
    def nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise SwarmException("the swarm is not running")
        return self._nursery

    def _count_handler_error(self, stream: INetStream, _error: Exception) -> None:
        self.handler_errors[str(stream.get_protocol())] += 1

    # -- Listening ---------------------------------------------------------------------------------

    async def listen(self, *multiaddrs: Multiaddr) -> bool:
        """Bind every address, before `start`. Errors: OSError naming the one that cannot be."""
        for maddr in multiaddrs:
            host = extract_ip_from_multiaddr(maddr)
            try:
                port = int(maddr.value_for_protocol("tcp"))
                if host is None:
                    raise ValueError("no IP address in it")
                listeners = await trio.open_tcp_listeners(port, host=host)
            except OSError as error:
                why = "the port is taken" if error.errno == errno.EADDRINUSE else str(error)
                raise OSError(error.errno, f"cannot listen on {maddr}: {why}") from error
            except Exception as error:
                raise OSError(errno.EINVAL, f"cannot listen on {maddr}: {error}") from error
            self.listeners[str(maddr)] = _Listening(listeners, maddr)
        return True

    async def close_listeners(self) -> None:
        for listening in self.listeners.values():
            for socket in listening.sockets:
                await socket.aclose()

    async def _accept(self, listening: _Listening, stream: trio.SocketStream) -> None:
        """Upgrade one inbound connection within its time limit, then stay until it is closed
        (the socket is closed when this returns)."""
        ip = _remote_ip(BufferedTCPStream(stream)) or ""
        refused = self.admission.knock(ip, trio.current_time())
        if refused is not None:
            self.inbound_refused[refused] += 1
            return
        payer = Payer(self.gate, ip)
        PAYER.set(payer)  # of this task and of all that it starts
        try:
            if await self.gate.admit_handshake(payer):
                await self._accept_admitted(listening, stream)
            else:
                self.inbound_refused["busy"] += 1
        finally:
            self.admission.leave(ip)

    async def _accept_admitted(self, listening: _Listening, stream: trio.SocketStream) -> None:
        if len(self._half_open) >= MAX_HALF_OPEN:  # honest peers finish in milliseconds: the
            idle = next(iter(self._half_open))  # oldest half-open one is the idle one
            del self._half_open[idle]
            idle.cancel()
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_TIMEOUT_S)
        self._half_open[scope] = None
        connection: NodeConnection | None = None
        try:
            with scope:
                raw = RawConnection(await listening.wrap(stream), False)
                connection = await self._upgrade_inbound(raw)
        except DialError as error:
            self.inbound_refused[error.reason] += 1
        except Exception:  # noqa: BLE001 - bytes from anybody enter here: must be total
            self.inbound_refused["handshake"] += 1
        finally:
            self._half_open.pop(scope, None)
        if scope.cancelled_caught:
            self.inbound_refused["timeout"] += 1
        if connection is not None:
            await connection.muxed_conn.event_closed.wait()

    async def _upgrade_inbound(self, raw: RawConnection) -> NodeConnection:
        secured = await self.upgrader.upgrade_security(raw, False)
        peer_id = secured.get_remote_peer()
        self._check_room(peer_id, "inbound", _remote_ip(raw))
        muxed = await self.upgrader.upgrade_connection(secured, peer_id)
        return await self.add_conn(muxed, "inbound")

    def refuses(self, peer_id: ID) -> bool:
        """Whether a peer is banned now, by itself or by its address, or cut off by a test."""
        key = peer_id.to_bytes()
        reputation = self.admission.reputation
        if reputation.refuses(key) or key in self.faults.blocked:
            return True
        ip = self.remote_ip(peer_id)
        return ip is not None and reputation.refuses_address(ip)

    def remote_ip(self, peer_id: ID) -> str | None:
        """The IP address at the other end of the newest connection to a peer."""
        siblings = self.connections.get(peer_id)
        return _remote_ip(siblings[-1].muxed_conn) if siblings else None

    def direction_of(self, peer_id: ID) -> str:
        """Who dialled first of the connections to a peer: `inbound`, `outbound`, else ""."""
        siblings = self.connections.get(peer_id)
        return str(siblings[0].direction) if siblings else ""

    def _check_room(self, peer_id: ID, direction: str, ip: str | None = None) -> None:
        if peer_id == self.self_id:
            raise DialError("self", "that is this node")
        if self.refuses(peer_id):
            raise DialError("banned", f"{peer_id} is banned")
        if peer_id in self.connections:
            return
        directions = [self.direction_of(each) for each in self.connections]
        reason = self.admission.refusal(peer_id.to_bytes(), ip, direction, directions)
        if reason is not None:
            raise DialError(reason, f"{peer_id}: {REFUSALS[reason]}")

    # -- Connections -------------------------------------------------------------------------------

    async def add_conn(self, muxed_conn: NodeYamux, direction: str = "unknown") -> NodeConnection:
        """Register an upgraded connection and start its tasks. Errors: DialError when full."""
        peer_id = muxed_conn.peer_id
        try:
            self._check_room(peer_id, direction, _remote_ip(muxed_conn))
        except DialError:
            await muxed_conn.close()
            raise
        connection = NodeConnection(muxed_conn, self, direction)
        connection.set_transport_info(
            muxed_conn.get_transport_addresses(), muxed_conn.get_connection_type()
        )
        if muxed_conn.payer is not None:
            muxed_conn.payer.peer, muxed_conn.payer.is_open = peer_id.to_bytes(), True
            if muxed_conn.payer.is_trusted:
                self.admission.note_trusted(muxed_conn.payer.ip)
        siblings = self.connections.setdefault(peer_id, [])
        siblings.append(connection)
        self.nursery.start_soon(muxed_conn.start)
        self.nursery.start_soon(connection.start)
        if len(siblings) > MAX_CONNECTIONS_PER_PEER:  # after a crash the oldest is the dead one
            self.nursery.start_soon(siblings[0].close)
        if len(siblings) == 1:
            self.on_peer_change(peer_id)
        self.on_connection(connection)
        return connection

    def forget(self, connection: NodeConnection) -> None:
        """Drop a closed connection; the peer is gone when it was the last one."""
        peer_id = connection.muxed_conn.peer_id
        siblings = self.connections.get(peer_id, [])
        if connection in siblings:
            siblings.remove(connection)
            if not siblings:
                del self.connections[peer_id]
                self.on_peer_change(peer_id)

    async def close_peer(self, peer_id: ID) -> None:
        for connection in self.get_connections(peer_id):
            await connection.close()

    async def close(self) -> None:
        """Close every connection, all at once: one frozen peer delays none of the others."""
        async with trio.open_nursery() as nursery:
            for peer_id in list(self.connections):
                nursery.start_soon(self.close_peer, peer_id)

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Nobody listens: the library opens a nursery of observers for every stream."""

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """Nobody listens, as above."""

    async def new_stream(self, peer_id: ID) -> INetStream:
        """Open a stream on the newest connection, dialling when there is none."""
        if not self.connections.get(peer_id):
            await self.dial_peer(peer_id)
        for connection in reversed(self.connections.get(peer_id, [])):
            try:
                await connection.event_started.wait()
                return await connection.new_stream()
            except (MuxedConnUnavailable, MuxedStreamError):
                continue
        raise DialError("closed", f"no usable connection to {peer_id}")

    # -- Dialling ----------------------------------------------------------------------------------

    async def dial_peer(self, peer_id: ID) -> list[NodeConnection]:
        """Connect using the peer store's addresses. Errors: DialError."""
        try:
            addresses = [
                each for each in self.peerstore.addrs(peer_id) if self.rules.may_dial(each)
            ]
        except PeerStoreError:
            addresses = []
        return [await self.dial(peer_id, addresses, self.rules)]

    async def dial(
        self, peer_id: ID, addresses: Sequence[Multiaddr], rules: DialRules | None = None
    ) -> NodeConnection:
        """Connect to a peer at one of `addresses`, or return the connection there is.

        `rules` bound how often an address is tried that others told; None: the operator told it.
        Errors: DialError. Every outcome is counted in `dial_outcomes` by its reason.
        """
        while True:
            if self.connections.get(peer_id):
                return self.connections[peer_id][-1]
            ongoing = self._ongoing_dials.get(peer_id)
            if ongoing is None:
                break
            await ongoing.wait()
        finished = self._ongoing_dials[peer_id] = trio.Event()
        try:
            self._check_room(peer_id, "outbound")
            connection = await self._race(peer_id, addresses[:MAX_ADDRESSES_PER_DIAL], rules)
        except DialError as error:
            self.dial_outcomes[error.reason] += 1
            raise
        finally:
            del self._ongoing_dials[peer_id]
            finished.set()
        self.dial_outcomes["connected"] += 1
        return connection

    async def _race(
        self, peer_id: ID, addresses: Sequence[Multiaddr], rules: DialRules | None
    ) -> NodeConnection:
        """Start one attempt after the other, DIAL_STAGGER_S apart; the first connection wins."""
        won: list[NodeConnection] = []
        failures: list[DialError] = []

        async def attempt(address: Multiaddr, failed: trio.Event) -> None:
            try:
                if rules is not None and not rules.begin(address, trio.current_time()):
                    raise DialError("not_allowed", f"{address} was dialled in vain too often")
                won.append(await self._dial_address(peer_id, address))
            except DialError as error:
                failures.append(error)
                failed.set()
            else:
                nursery.cancel_scope.cancel()
                if rules is not None:
                    rules.succeed(address, trio.current_time())

        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(DIAL_STAGGER_S):
                    await failed.wait()
        if won:
            return won[0]
        if failures:
            raise failures[0]
        raise DialError("unreachable", f"no address known for {peer_id}")

    async def _dial_address(self, peer_id: ID, address: Multiaddr) -> NodeConnection:
        raw: RawConnection | None = None
        connection: NodeConnection | None = None
        reason = "timeout"
        PAYER.set(Payer(self.gate, extract_ip_from_multiaddr(address), peer_id.to_bytes()))
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                raw = await self.transport_manager.get_transports()[0].dial(address)
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                secured = await self.upgrader.upgrade_security(raw, True, peer_id)
                muxed = await self.upgrader.upgrade_connection(secured, peer_id)
                connection = await self.add_conn(muxed, "outbound")
        except DialError:
            raise
        except Exception as error:
            reason = _reason_of(error)
            raise DialError(reason, f"{address}: {_root_of(error)}") from error
        finally:
            if connection is None and raw is not None:
                with shielded(1):
                    await raw.close()
        return connection


def _remote_ip(connection: Any) -> str | None:
    """The other end's IP address of a raw, secured or muxed connection."""
    remote = connection.get_remote_address()
    return None if remote is None else str(remote[0])


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its causes and, for groups, theirs; bounded."""
    found: list[BaseException] = []
    pending: list[BaseException] = [error]
    while pending and len(found) < 20:
        current = pending.pop(0)
        found.append(current)
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        following = current.__cause__ or current.__context__
        if following is not None and following not in found:
            pending.append(following)
    return found


def _root_of(error: BaseException) -> str:
    root = _chain(error)[-1]
    return str(root) or type(root).__name__


def _reason_of(error: BaseException) -> str:
    """Name why a dial failed in one of the words of `NetworkError`."""
    chain = _chain(error)
    for kinds, reason in (
        ((trio.TooSlowError, TimeoutError), "timeout"),
        ((ConnectionRefusedError,), "refused"),
    ):
        if any(isinstance(each, kinds) for each in chain):
            return reason
    names = " ".join(type(each).__name__ + str(each) for each in chain).lower()
    if any(word in names for word in ("closed", "incompleteread", "broken", "reset")):
        return "closed"
    if any(isinstance(each, MuxerUpgradeFailure) for each in chain):
        return "protocol"
    if any(word in names for word in ("security", "handshake", "mismatch", "signature", "noise")):
        return "security"
    return "unreachable"
