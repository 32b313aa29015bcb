"""The Kademlia DHT used for one thing only: finding peers, and among them those of a region.

Faults of py-libp2p 0.8.1 mended here:

- inbound streams have no time-out and the twelve slots are shared by all: a time limit, and two
  slots for each peer;
- an exception in a DHT task cancels the service: this DHT is not run as a service at all;
- anybody may store records (50,000 of 1 MiB): values are refused, provider records bounded;
- a reply may be 4 MiB of addresses, all kept and dialled: replies are bounded and filtered;
- a node is put into a routing table only when its addresses happen to be known already when it
  asks: `learn` adds every identified server.

Source: protocols/networking.md 2, 7.
"""

# The library is untyped to mypy: its classes are Any.
# mypy: disallow-subclassing-any=False

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.kad_dht.common import BUCKET_SIZE, PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT, get_connection_type
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from gridtokenx.network.dialling import decode_address
from gridtokenx.network.libp2p_overrides.host import MAX_PEER_ADDRESSES, NodeHost
from gridtokenx.network.libp2p_overrides.providers import ProviderRecords
from gridtokenx.network.libp2p_overrides.swarm import shielded

INBOUND_TIMEOUT_S = 15.0
QUERY_TIMEOUT_S = 8.0
MAX_MESSAGE_BYTES = 64 << 10
MAX_KEY_BYTES = 64
MAX_INBOUND_STREAMS = 32
MAX_INBOUND_STREAMS_PER_PEER = 2
MESSAGES_PER_STREAM = 100
LEARNED_TTL_S = 3_600


async def _send(stream: INetStream, message: Message) -> None:
    await stream.write(encode_varint_prefixed(message.SerializeToString()))


async def _receive(stream: INetStream) -> Message:
    message = Message()
    message.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE_BYTES))
    return message


def _addresses_of(peer: Message.Peer, may_dial: Callable[[Multiaddr], bool]) -> list[Multiaddr]:
    found: list[Multiaddr] = []
    for raw in peer.addrs[:MAX_PEER_ADDRESSES]:
        address = decode_address(raw)
        if address is not None and may_dial(address):
            found.append(address)
    return found


class NodePeerRouting(PeerRouting):
    """Iterative FIND_NODE whose single query is bounded in time, bytes and peers."""

    host: NodeHost
    may_connect: Callable[[], bool]

    async def _query_peer_for_closest(self, peer: ID, target_key: bytes) -> list[ID]:
        """Ask one peer for those nearest to a key. Failing to answer costs it its place."""
        network = self.host.get_network()
        if peer not in network.connections and not self.may_connect():
            return []  # a lookup must not fill the node with connections it does not want
        try:
            with trio.fail_after(QUERY_TIMEOUT_S):
                stream = await self.host.new_stream(peer, [PROTOCOL_ID])
                try:
                    request = Message(type=Message.MessageType.FIND_NODE, key=target_key)
                    await _send(stream, request)
                    response = await _receive(stream)
                finally:
                    with shielded(1):
                        await stream.close()
        except Exception:  # noqa: BLE001 - a peer's answer enters here: must be total
            self.routing_table.remove_peer(peer)
            return []
        found: list[ID] = []
        for entry in response.closerPeers[:BUCKET_SIZE]:
            await trio.lowlevel.checkpoint()  # sixteen addresses take a millisecond to read
            peer_id = ID(bytes(entry.id))
            if not 2 <= len(entry.id) <= MAX_KEY_BYTES or peer_id == self.host.get_id():
                continue
            addresses = _addresses_of(entry, network.rules.may_dial)
            if not addresses:
                continue
            if peer_id not in network.connections:  # a connected peer speaks for itself
                self.host.get_peerstore().add_addrs(peer_id, addresses, LEARNED_TTL_S)
            found.append(peer_id)
        return found


class NodeDHT(KadDHT):
    """A Kademlia server and client for peers only. It has no tasks of its own.

    `keys`: the multihashes for which it keeps provider records.
    """

    host: NodeHost

    def __init__(
        self,
        host: NodeHost,
        may_connect: Callable[[], bool] = lambda: True,
        keys: Sequence[bytes] = (),
    ) -> None:
        super().__init__(host, DHTMode.SERVER, max_peers_per_subnet=0)
        self.peer_routing = NodePeerRouting(host, self.routing_table)
        self.peer_routing.may_connect = may_connect
        self.providers = ProviderRecords(keys)
        self.refused: Counter[str] = Counter()
        self._streams_of: Counter[ID] = Counter()

    @property
    def table(self) -> RoutingTable:
        return self.routing_table

    async def learn(self, peer_id: ID) -> None:
        """Put a connected peer that serves the DHT into the routing table."""
        store = self.host.get_peerstore()
        try:
            addresses = store.addrs(peer_id)
            serves = str(PROTOCOL_ID) in store.get_protocols(peer_id)
        except PeerStoreError:
            return
        if serves and addresses:
            # Kept alive here: identify is not repeated on a connection that lasts for days.
            store.add_addrs(peer_id, addresses, 2 * LEARNED_TTL_S)
            await self.routing_table.add_peer(
                PeerInfo(peer_id, addresses), skip_server_mode_check=True
            )

    async def find_closest(self, key: bytes) -> list[ID]:
        """Look up the peers nearest to `key` in the network; the caller isolates errors."""
        found: list[ID] = await self.peer_routing.find_closest_peers_network(key, BUCKET_SIZE)
        return found

    async def exchange_providers(
        self, keys: Sequence[bytes], serves: Collection[bytes]
    ) -> dict[bytes, list[ID]]:
        """Announce this node for the keys of `serves` and ask who else there is for `keys`.

        Tells and asks the peers nearest to each key, one stream for each peer. The caller bounds
        the time and isolates errors.
        """
        asked: dict[ID, list[bytes]] = {}
        found: dict[bytes, dict[ID, None]] = {key: {} for key in keys}
        for key in keys:
            for peer_id in await self.find_closest(key):
                asked.setdefault(peer_id, []).append(key)
        async with trio.open_nursery() as nursery:
            for peer_id, near in asked.items():
                nursery.start_soon(self._exchange_with, peer_id, near, serves, found)
        return {key: list(dict.fromkeys([*self.providers.of(key), *found[key]])) for key in keys}

    async def _exchange_with(
        self,
        peer_id: ID,
        keys: Sequence[bytes],
        serves: Collection[bytes],
        found: dict[bytes, dict[ID, None]],
    ) -> None:
        network = self.host.get_network()
        if peer_id not in network.connections:
            return  # it was asked when it was near; it is not worth a connection of its own
        try:
            with trio.fail_after(QUERY_TIMEOUT_S):
                stream = await self.host.new_stream(peer_id, [PROTOCOL_ID])
                try:
                    for key in keys:
                        if key in serves:
                            await _send(stream, self._own_record(key))
                        kind = Message.MessageType.GET_PROVIDERS
                        await _send(stream, Message(type=kind, key=key))
                        answer = await _receive(stream)
                        found[key] |= dict.fromkeys(await self._named_providers(answer))
                finally:
                    with shielded(1):
                        await stream.close()
        except Exception:  # noqa: BLE001 - a peer's answer enters here: must be total
            self.refused["provider answer"] += 1

    def _own_record(self, key: bytes) -> Message:
        message = Message(type=Message.MessageType.ADD_PROVIDER, key=key)
        entry = message.providerPeers.add()
        entry.id = self.host.get_id().to_bytes()
        addresses = self.host.get_addrs()[:MAX_PEER_ADDRESSES]
        entry.addrs.extend(address.to_bytes() for address in addresses)
        return message

    async def _named_providers(self, response: Message) -> list[ID]:
        """Whom a peer calls providers: worth a dial, but hearsay, so not told on as a record."""
        network, named = self.host.get_network(), list[ID]()
        for entry in response.providerPeers[:BUCKET_SIZE]:
            await trio.lowlevel.checkpoint()
            peer_id = ID(bytes(entry.id))
            if not 2 <= len(entry.id) <= MAX_KEY_BYTES or peer_id == self.host.get_id():
                continue
            addresses = _addresses_of(entry, network.rules.may_dial)
            if peer_id not in network.connections:
                if not addresses:
                    continue
                self.host.get_peerstore().add_addrs(peer_id, addresses, LEARNED_TTL_S)
            named.append(peer_id)
        return named

    async def handle_stream(self, stream: INetStream) -> None:
        """Answer what finds peers for at most INBOUND_TIMEOUT_S; reset on anything else."""
        peer_id = stream.muxed_conn.peer_id
        full = self._streams_of.total() >= MAX_INBOUND_STREAMS
        if full or self._streams_of[peer_id] >= MAX_INBOUND_STREAMS_PER_PEER:
            self.refused["busy"] += 1
            await stream.reset()
            return
        self._streams_of[peer_id] += 1
        try:
            with trio.fail_after(INBOUND_TIMEOUT_S):
                await self._serve(stream)
        except Exception as error:  # noqa: BLE001 - a peer's messages enter here: must be total
            self.refused[type(error).__name__] += 1
            await stream.reset()
        finally:
            self._streams_of[peer_id] -= 1
            self._streams_of += Counter()  # drops the zeros

    async def _serve(self, stream: INetStream) -> None:
        for _ in range(MESSAGES_PER_STREAM):
            try:
                message = await _receive(stream)
            except StreamEOF:
                break
            if message.type == Message.MessageType.PING:
                await _send(stream, Message(type=Message.MessageType.PING))
            elif message.type == Message.MessageType.FIND_NODE:
                await _send(stream, self._closest_to(message.key, stream.muxed_conn.peer_id))
            elif message.type == Message.MessageType.ADD_PROVIDER:
                # Nobody is believed about another: what it tells of itself, identify knows better.
                self.providers.add(message.key, stream.muxed_conn.peer_id)
            elif message.type == Message.MessageType.GET_PROVIDERS:
                await _send(stream, self._providers_of(message.key, stream.muxed_conn.peer_id))
            else:
                raise ValueError(f"message type {message.type} is not served")
        await stream.close()

    def _closest_to(self, key: bytes, asker: ID) -> Message:
        if not 1 <= len(key) <= MAX_KEY_BYTES:
            raise ValueError("the key is not a peer id")
        response = Message(type=Message.MessageType.FIND_NODE)
        nearest = self.routing_table.find_local_closest_peers(key, BUCKET_SIZE)
        for peer_id in dict.fromkeys([ID(key), *nearest]):
            if peer_id != asker:
                self._describe(peer_id, response.closerPeers)
        return response

    def _providers_of(self, key: bytes, asker: ID) -> Message:
        response = self._closest_to(key, asker)
        response.type = Message.MessageType.GET_PROVIDERS
        response.key = key
        for peer_id in self.providers.of(key)[:BUCKET_SIZE]:
            if peer_id != asker:
                self._describe(peer_id, response.providerPeers)
        return response

    def _describe(self, peer_id: ID, entries: Any) -> None:
        """Add a peer with its addresses, if any are known."""
        try:
            addresses = self.host.get_peerstore().addrs(peer_id)[:MAX_PEER_ADDRESSES]
        except PeerStoreError:
            return
        if addresses:
            entry = entries.add()
            entry.id = peer_id.to_bytes()
            entry.connection = get_connection_type(self.host, peer_id)
            entry.addrs.extend(address.to_bytes() for address in addresses)
