"""A libp2p host whose stream handlers cannot end it, with bounded identify and ping.

Faults of py-libp2p 0.8.1 mended here:

- an exception in a stream handler cancels the whole host (the guard is in `NodeConnection`);
- an address that is none is stored, and raises whenever it is looked at; a thousand raw ones are
  kept whatever their length: `_shorten`;
- identify runs in trio *system* tasks, where an error ends the process, and a peer may fill the
  peer store with a thousand addresses of any kind;
- ping keeps an entry per peer for ever;
- a new stream logs an ERROR for every peer that lacks a protocol.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import PING_LENGTH
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH_ID
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.utils.multiaddr_utils import extract_ip_from_multiaddr
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from gridtokenx.network.dialling import decode_address
from gridtokenx.network.libp2p_overrides.negotiation import NEGOTIATE_TIMEOUT_S, Negotiation
from gridtokenx.network.libp2p_overrides.swarm import NodeConnection, NodeSwarm, shielded

IDENTIFY_TIMEOUT_S = 10.0
IDENTIFY_PAUSES_S = (0.0, 10.0, 60.0)  # before each attempt
PING_IDLE_S = 60.0
MAX_IDENTIFY_BYTES = 64 << 10
MAX_PEER_ADDRESSES = 16
MAX_PEER_PROTOCOLS = 100
MAX_PROTOCOL_CHARACTERS = 128
MAX_AGENT_CHARACTERS = 64


async def _answer_pings(stream: INetStream) -> None:
    """Echo pings until the peer stops or is silent for PING_IDLE_S."""
    with trio.move_on_after(PING_IDLE_S) as idle:
        while True:
            await stream.write(await read_exactly(stream, PING_LENGTH))
            idle.deadline = trio.current_time() + PING_IDLE_S
    await stream.reset()


def _shorten(message: Identify) -> None:
    """Leave of what a peer tells of itself what is worth keeping, and well-formed."""
    addresses = [raw for raw in message.listen_addrs[:MAX_PEER_ADDRESSES] if decode_address(raw)]
    short = (name for name in message.protocols if len(name) <= MAX_PROTOCOL_CHARACTERS)
    protocols = list(islice(short, MAX_PEER_PROTOCOLS))
    for field in ("listen_addrs", "protocols", "public_key"):
        message.ClearField(field)  # the key is in the peer id, or was seen in the handshake
    message.ClearField("signedPeerRecord")  # says the same again, at a signature's cost
    message.listen_addrs.extend(addresses)
    message.protocols.extend(protocols)


class NodeHost(BasicHost):
    """Identify, ping and protocol negotiation over a `NodeSwarm`."""

    _network: NodeSwarm

    def __init__(
        self,
        swarm: NodeSwarm,
        advertise: Callable[[list[Multiaddr]], list[Multiaddr]],
    ) -> None:
        protocols: OrderedDict[TProtocol, Any] = OrderedDict()
        protocols[IDENTIFY_ID] = identify_handler_for(self, use_varint_format=True)
        protocols[IDENTIFY_PUSH_ID] = self._receive_identify_push
        protocols[PING_ID] = _answer_pings
        super().__init__(
            swarm,
            default_protocols=protocols,
            negotiate_timeout=NEGOTIATE_TIMEOUT_S,
            addrs_factory=advertise,
            disable_identify_address_discovery=True,
        )
        self.observed_ip: str | None = None  # the address a peer last saw us come from
        self.on_identified: Callable[[ID], None] = lambda _peer: None
        swarm.on_connection = self._identify_soon

    def _identify_soon(self, connection: NodeConnection) -> None:
        self._network.nursery.start_soon(self._identify, connection)

    async def _identify(self, connection: NodeConnection) -> None:
        """Ask a new connection's peer for its addresses and protocols.

        One too busy to answer is asked again: else it were in no routing table while connected.
        """
        for pause_s in IDENTIFY_PAUSES_S:
            with trio.move_on_after(pause_s):
                await connection.event_closed.wait()
            if connection.is_closed or await self._has_identified(connection):
                return

    async def _has_identified(self, connection: NodeConnection) -> bool:
        try:
            with trio.move_on_after(IDENTIFY_TIMEOUT_S):
                await connection.event_started.wait()
                stream = await connection.new_stream()
                await self._negotiate(stream, [IDENTIFY_ID])
                await self._learn_from(stream, connection.muxed_conn.peer_id)
                return True
        except Exception:  # noqa: BLE001 - bytes from a peer enter here: must be total
            return False
        return False

    async def _receive_identify_push(self, stream: INetStream) -> None:
        """Learn what a peer tells unasked. Errors: IOException, which is the peer's fault."""
        try:
            with trio.move_on_after(IDENTIFY_TIMEOUT_S):
                await self._learn_from(stream, stream.muxed_conn.peer_id)
        except Exception as error:
            # Bytes from a peer enter here: as an error of ours each would fill the log.
            raise IOException("the peer did not push an identify message") from error

    async def _learn_from(self, stream: INetStream, peer_id: ID) -> None:
        data = await read_varint_prefixed_bytes_limited(stream, MAX_IDENTIFY_BYTES)
        await stream.close()
        message = Identify()
        message.ParseFromString(data)
        _shorten(message)
        observed = decode_address(message.observed_addr)
        if observed is not None:
            self.observed_ip = extract_ip_from_multiaddr(observed)
        await update_peerstore_from_identify(self.peerstore, peer_id, message)
        self.peerstore.put(peer_id, "agent_version", message.agent_version[:MAX_AGENT_CHARACTERS])
        self.on_identified(peer_id)

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Agree with the peer on what its stream is for, and serve that."""
        try:
            protocol, handler = await self.multiselect.negotiate(
                Negotiation(net_stream), NEGOTIATE_TIMEOUT_S
            )
        except MultiselectError:
            await net_stream.reset()
            return
        if protocol is None or handler is None:
            await net_stream.reset()
            return
        net_stream.set_protocol(protocol)
        await handler(net_stream)

    async def _negotiate(self, stream: INetStream, protocol_ids: Sequence[TProtocol]) -> None:
        chosen = await self.multiselect_client.select_one_of(
            protocol_ids, Negotiation(stream), NEGOTIATE_TIMEOUT_S
        )
        stream.set_protocol(chosen)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Open a stream and agree on one of the protocols; the stream is reset on any failure.

        Errors: DialError, MultiselectClientError (none in common, or too slow).
        """
        stream = await self._network.new_stream(peer_id)
        agreed = False
        try:
            await self._negotiate(stream, protocol_ids)
            agreed = True
        finally:
            if not agreed:
                with shielded(1):
                    await stream.reset()
        return stream
