"""Which addresses are dialled of those that others tell, and how often one place is.

Anybody may announce any address: of a machine in this node's own network, or of somebody it wishes
every node to knock at. So an address from others is dialled only if it is a public IP address, or
of a kind (private, loopback) that this node is configured with itself; names are not looked up; and
whoever does not answer as the peer it was said to be is left alone for longer each time, whatever
peers it is said to be. What the operator configured is dialled as it stands.
Source: protocols/networking.md 2.2.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil
from multiaddr import Multiaddr

from gridtokenx.network.peers import addresses
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import address_group
from gridtokenx.network.peers.token_buckets import TokenBuckets

MAX_LOCAL_ADDRESSES = 256
MAX_TARGETS = 1_024
MAX_ADDRESS_BYTES = 128
DIALS_OF_A_TARGET = 8  # that may fail at once, and
SECONDS_PER_DIAL = 30.0  # how long until one more may

PUBLIC, PRIVATE, LOOPBACK = "public", "private", "loopback"
_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def parse_peer_id(text: str) -> PeerId:
    """Read a base58 peer id. Errors: ValueError."""
    return PeerId(addresses.parse_peer_id(text))


def parse_address(address: str) -> tuple[PeerId, Multiaddr]:
    """Split a full multiaddr into peer id and transport address. Errors: ValueError."""
    try:
        peer, where = addresses.parse_peer(address)
    except ValueError as error:
        text = f"{address!r} is not an address like /ip4/192.0.2.1/tcp/9000/p2p/12D3Koo..."
        raise ValueError(f"{text}: {error}") from None
    return PeerId(peer), where


def without_peer(maddr: Multiaddr) -> Multiaddr:
    """The transport part of a multiaddr, without /p2p/<id>."""
    return Multiaddr(str(maddr).partition("/p2p/")[0])


def kind_of(ip: str) -> str | None:
    """`public`, `private` or `loopback`; None for what nobody can be dialled at.

    That is: unspecified, multicast, link-local, documentation, reserved. An IPv4 address in an IPv6
    one (mapped, 6to4, NAT64, Teredo) is not told by what it seems, so it is dialled nowhere.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64
    ):
        return None
    if address.is_loopback:
        return LOOPBACK
    if any(address.version == net.version and address in net for net in _PRIVATE_NETWORKS):
        return PRIVATE
    usable = address.is_global and not address.is_multicast and not address.is_reserved
    return PUBLIC if usable else None


def decode_address(raw: bytes) -> Multiaddr | None:
    """The multiaddr that a peer sent; None where it is none, which the parser tells late."""
    if not 0 < len(raw) <= MAX_ADDRESS_BYTES:
        return None
    try:
        return Multiaddr(str(Multiaddr(raw)))
    except Exception:  # noqa: BLE001 - the parser raises many kinds on a peer's bytes
        return None


def target_of(address: Multiaddr) -> tuple[str, int] | None:
    """The IP address and port of a plain TCP address; None for any other, such as one by name.

    The address is one of `read_address` or of the operator's: of others the parser may raise.
    """
    names = [protocol.name for protocol in address.protocols()]
    if names[:1] not in (["ip4"], ["ip6"]) or names[1:] not in (["tcp"], ["tcp", "p2p"]):
        return None  # ws, tls, p2p-circuit: not spoken here
    return str(address.value_for_protocol(names[0])), int(address.value_for_protocol("tcp"))


class DialRules:
    """Says whether an address that others told may be dialled now.

    `own`: multiaddrs that this node listens on, announces or is configured with. `allow_private`:
    whether private and loopback addresses may be; None: those of a kind that `own` has, too.
    """

    def __init__(self, own: Iterable[str] = (), allow_private: bool | None = None) -> None:
        self._allow_private = allow_private
        self._kinds = {PUBLIC, *((PRIVATE, LOOPBACK) if allow_private else ())}
        self._local: dict[Multiaddr, None] = {}
        self._failures: TokenBuckets[str] = TokenBuckets(
            1 / SECONDS_PER_DIAL, DIALS_OF_A_TARGET, MAX_TARGETS
        )
        for address in own:
            self.note_own(Multiaddr(address))

    def note_own(self, address: Multiaddr) -> None:
        """The operator configured an address: others of its kind may be dialled too."""
        target = target_of(address)
        kind = None if target is None else kind_of(target[0])
        if kind is not None and self._allow_private is None:
            self._kinds.add(kind)

    def note_local(self, address: Multiaddr) -> None:
        """An address was heard from its owner in a local network of ours: this one may be."""
        self._local.pop(address, None)
        while len(self._local) >= MAX_LOCAL_ADDRESSES:
            del self._local[next(iter(self._local))]
        self._local[address] = None

    def may_dial(self, address: Multiaddr) -> bool:
        """Whether an address told by others is worth keeping and dialling at all."""
        target = target_of(address)
        if target is None or not target[1]:
            return False
        return kind_of(target[0]) in self._kinds or without_peer(address) in self._local

    def begin(self, address: Multiaddr, now_s: float) -> bool:
        """Before a dial of such an address: whether its machine was not knocked at in vain too
        often. `succeed` must follow where somebody was there."""
        return self._failures.take(self._key(address), 1, now_s)

    def succeed(self, address: Multiaddr, now_s: float) -> None:
        """The peer that was said to be there is there: the dial does not count."""
        self._failures.charge(self._key(address), -1, now_s)

    @staticmethod
    def _key(address: Multiaddr) -> str:
        target = target_of(address)
        ip, port = ("", 0) if target is None else target
        # On one machine, or behind one private address, a whole network may live.
        return address_group(ip) if kind_of(ip) == PUBLIC else f"{ip} {port}"


def interface_addresses(family: str) -> list[str]:
    """This machine's addresses of one family (ip4, ip6), loopback only if there is no other."""
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    found = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == kind
    ]
    usable = [ip for ip in found if not ip.is_link_local]
    return [str(ip) for ip in usable if not ip.is_loopback] or [str(ip) for ip in usable]


def without_wildcards(addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Replace 0.0.0.0 and :: by this machine's own addresses: nobody can dial a wildcard."""
    expanded: list[Multiaddr] = []
    for address in addresses:
        _, family, ip, rest = str(address).split("/", 3)
        if family in ("ip4", "ip6") and ipaddress.ip_address(ip).is_unspecified:
            own = interface_addresses(family)
            expanded.extend(Multiaddr(f"/{family}/{each}/{rest}") for each in own)
        else:
            expanded.append(address)
    return expanded
