"""Finding the nodes of one local network without a bootnode, by multicast DNS.

Source: protocols/networking.md 2.1. A node asks for its network's service, now and then, and
answers those who ask. What it is told it believes only as far as the teller is concerned: an
address is that of the datagram's sender, which is on this local network, and the connection proves
the peer id. So nobody is led into other networks, and nothing but the LAN learns of this node.
"""

from __future__ import annotations

import errno
import ipaddress
import random
import secrets
import socket
from collections.abc import Callable, Sequence

import psutil
import structlog
import trio

from gridtokenx.network import mdns_wire
from gridtokenx.network.host import parse_address
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.token_buckets import TokenBuckets
from gridtokenx.runtime.housekeeping import house

GROUP = "224.0.0.251"
PORT = 5353
IP_TTL = 255  # RFC 6762, section 11
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 300.0
ANSWER_DELAY_S = (0.02, 0.12)  # apart from the others that answer the same query
ANSWER_PAUSE_S = 1.0  # RFC 6762, section 6: no record more often
COST_OURS = 10.0  # of a message about our service, against 1 for what is only thrown away
COSTS_PER_S, COSTS_BURST = 200.0, 1_000.0
MAX_PEERS = 64
MAX_ADDRESSES = 4  # of one peer, told and believed
MAX_TOLD = 16  # addresses of one message that are looked at
MAX_INTERFACES = 16
KEEP_S = 3_600.0
ERROR_PAUSE_S = 1.0

log = structlog.get_logger(__name__)

Found = Callable[[PeerId, Sequence[str]], None]


def own_interfaces() -> list[ipaddress.IPv4Interface]:
    """This machine's IPv4 addresses with their networks, at most MAX_INTERFACES."""
    found = [
        ipaddress.IPv4Interface(f"{entry.address}/{entry.netmask or '255.255.255.255'}")
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    return found[:MAX_INTERFACES]


def _ipv4_of(address: str) -> tuple[PeerId, ipaddress.IPv4Address]:
    """Whose a full plain TCP multiaddr is and its IPv4 address. Errors: ValueError."""
    peer, where = parse_address(address)
    return peer, ipaddress.IPv4Address(str(where).split("/")[2])


def told_on(listening: Sequence[str], ip: ipaddress.IPv4Address) -> tuple[str, ...]:
    """What to tell on the network of an interface: full plain TCP multiaddrs with its address.

    `listening`: the bound addresses. Those configured for the world (`announce`) are not for here.
    """
    told = []
    for address in listening:
        try:
            _, bound = _ipv4_of(address)
        except ValueError:
            continue  # IPv6 or a WebSocket
        if bound == ip or bound.is_unspecified:
            told.append(address.replace(f"/ip4/{bound}/", f"/ip4/{ip}/", 1))
    return tuple(told[:MAX_ADDRESSES])


def believed(
    told: Sequence[str], source: str, interfaces: Sequence[ipaddress.IPv4Interface]
) -> dict[PeerId, list[str]]:
    """The peers of a message and those of their addresses that are the sender's own.

    A sender outside the interfaces' networks is not believed at all. Loopback addresses are
    believed of this machine.
    """
    sender = ipaddress.IPv4Address(source)
    if not any(sender in interface.network for interface in interfaces):
        return {}
    is_here = any(sender == interface.ip for interface in interfaces)
    found: dict[PeerId, list[str]] = {}
    for text in told[:MAX_TOLD]:
        try:
            peer, ip = _ipv4_of(text)
        except ValueError:
            continue
        if ip == sender or (is_here and ip.is_loopback):
            found.setdefault(peer, []).append(text)
    return {peer: addresses[:MAX_ADDRESSES] for peer, addresses in found.items()}


class LocalPeers:
    """Asks the local networks for peers of one service and answers for this node.

    `listening` gives the bound addresses, full multiaddrs; `found` is told each peer heard of,
    again with every answer, at most MAX_PEERS different ones an hour.
    """

    def __init__(
        self, own: PeerId, service: str, listening: Callable[[], Sequence[str]], found: Found
    ) -> None:
        self._own = own
        self._service = service
        self._listening = listening
        self._found = found
        self._name = secrets.token_hex(16)  # another with each start: it says nothing of the node
        self._asked = trio.Event()
        self._heard_at_s: dict[PeerId, float] = {}
        self._costs = TokenBuckets[str](COSTS_PER_S, COSTS_BURST, 1)
        self._interfaces: list[ipaddress.IPv4Interface] = []

    async def run(self) -> None:
        """Ask and answer until cancelled; where the port cannot be had, say so and return."""
        try:
            raw = _open_socket()
        except OSError as error:
            hint = f"no peers are found by mDNS; who else uses UDP port {PORT}?"
            log.warning("mdns.unavailable", why=str(error), hint=hint)
            return
        with trio.socket.from_stdlib_socket(raw) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, listener)
                nursery.start_soon(self._ask, raw)
                nursery.start_soon(self._answer, raw)

    async def _ask(self, raw: socket.socket) -> None:
        """Ask at once and then ever more seldom: whoever comes later asks, too."""
        query = mdns_wire.encode_query(self._service)
        pause_s = FIRST_PAUSE_S
        while True:
            with house.round("mdns"):
                self._interfaces = own_interfaces()  # a laptop moves between networks
                for interface in self._interfaces:
                    _join(raw, interface.ip)
                    _send(raw, interface.ip, query)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _answer(self, raw: socket.socket) -> None:
        """Answer by multicast whoever asked, so that a forged sender gets nobody else flooded."""
        while True:
            await self._asked.wait()
            await trio.sleep(random.uniform(*ANSWER_DELAY_S))
            self._asked = trio.Event()
            with house.round("mdns"):
                for interface in self._interfaces:
                    told = told_on(self._listening(), interface.ip)
                    if told:
                        answer = mdns_wire.encode_answer(self._service, self._name, told)
                        _send(raw, interface.ip, answer)
            await trio.sleep(ANSWER_PAUSE_S)

    async def _listen(self, listener: trio.socket.SocketType) -> None:
        while True:
            try:
                data, (source, _) = await listener.recvfrom(mdns_wire.MAX_MESSAGE_BYTES + 1)
            except OSError as error:
                log.debug("mdns.receive_failed", why=str(error))
                await trio.sleep(ERROR_PAUSE_S)
                continue
            ours = mdns_wire.concerns(data, self._service)
            cost = COST_OURS if ours else 1.0
            # In a flood the kernel drops what is not read in time.
            await trio.sleep(self._costs.wait_s("", cost, trio.current_time()))
            self._costs.charge("", cost, trio.current_time())
            if ours:
                with house.round("mdns"):
                    self._hear(data, source)

    def _hear(self, data: bytes, source: str) -> None:
        try:
            message = mdns_wire.decode(data)
        except mdns_wire.MessageError as error:
            log.debug("mdns.message_dropped", source=source, why=str(error))
            return
        if not message.is_answer:
            if self._service in message.questions:
                self._asked.set()
            return
        told = mdns_wire.addresses_told(message, self._service)
        for peer, addresses in believed(told, source, self._interfaces).items():
            if peer != self._own and self._has_room(peer):
                self._found(peer, addresses)

    def _has_room(self, peer: PeerId) -> bool:
        """Note a peer unless too many others were heard of lately: ids are made up for nothing."""
        now_s = trio.current_time()
        self._heard_at_s.pop(peer, None)  # to be the latest again
        if len(self._heard_at_s) >= MAX_PEERS:
            oldest = next(iter(self._heard_at_s))
            if now_s - self._heard_at_s[oldest] < KEEP_S:
                return False
            del self._heard_at_s[oldest]
        self._heard_at_s[peer] = now_s
        return True


def _open_socket() -> socket.socket:
    """A socket on the mDNS port, which it shares with others of this machine. Errors: OSError."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, IP_TTL)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)  # nodes of one machine
        raw.setblocking(False)
        raw.bind(("", PORT))
    except OSError:
        raw.close()
        raise
    return raw


def _join(raw: socket.socket, ip: ipaddress.IPv4Address) -> None:
    try:
        membership = socket.inet_aton(GROUP) + ip.packed
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:  # joined before
            log.debug("mdns.join_failed", interface=str(ip), why=error.strerror)


def _send(raw: socket.socket, ip: ipaddress.IPv4Address, data: bytes) -> None:
    """Send out of one interface, or not: whoever did not hear it asks again."""
    try:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip.packed)
        raw.sendto(data, (GROUP, PORT))
    except OSError as error:
        log.debug("mdns.send_failed", interface=str(ip), why=error.strerror)
