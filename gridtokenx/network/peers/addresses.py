"""The one reading of network addresses: of settings, flags, peers and the host itself.

Whoever checks an address reads it here, so that what `config validate` takes a node can use.
py-multiaddr says what an address is; what it lets pass beyond that (`/tcp/1_0`, empty parts) and
what a node has no use for is refused here. Errors: ValueError, whose text says what is wrong.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiaddr import Multiaddr

MAX_TEXT = 512
MAX_PEER_ID_TEXT = 128
MAX_INLINED_BYTES = 42  # of a public key that a peer id holds itself

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT = {letter: digit for digit, letter in enumerate(_BASE58)}
_IPS = ("ip4", "ip6")
_HOSTS = (*_IPS, "dns", "dns4", "dns6")
_WEB = (("ws",), ("wss",), ("tls", "ws"))


def parse_peer_id(text: str) -> bytes:
    """A base58 peer id. Of multihashes libp2p uses identity and SHA-256."""
    raw = _base58(text)
    inlined = raw[:1] == b"\0" and raw[1:2] == bytes([len(raw) - 2])
    hashed = raw[:2] == b"\x12\x20" and len(raw) == 34
    if not hashed and not (inlined and 2 < len(raw) <= MAX_INLINED_BYTES + 2):
        raise ValueError(
            f"{text[:MAX_PEER_ID_TEXT]!r} has no valid peer id: a letter is missing or wrong; "
            "`gridtokenx net id` shows a node's own"
        )
    return raw


def parse_listen(text: str) -> Multiaddr:
    """An address to listen on: `/ip4|ip6/HOST/tcp/PORT`, with `/ws` for browsers. Port 0: any."""
    parts = _parts(text)
    if parts[0] not in _IPS or tuple(parts[4:]) not in ((), ("ws",)):
        raise ValueError("is no address to listen on: an IP and a TCP port, perhaps /ws")
    return _multiaddr(text)


def parse_announced(text: str) -> Multiaddr:
    """An address to tell others, without the peer id that it may end with."""
    parts = _parts(text)
    if "p2p" in parts[4:]:
        _check_peer(parts)
        parts = parts[:-2]
    if tuple(parts[4:]) not in ((), *_WEB):
        raise ValueError("is no address that others can dial: a host and a TCP port, perhaps /ws")
    _check_port(parts)
    if parts[0] in _IPS and ipaddress.ip_address(parts[1]).is_unspecified:
        raise ValueError(f"has the host {parts[1]}, which nobody can dial")
    return _multiaddr("/" + "/".join(parts))


def parse_peer(text: str) -> tuple[bytes, Multiaddr]:
    """(peer id, where it is dialled) of `/ip4/192.0.2.1/tcp/9000/p2p/12D3Koo...`."""
    parts = _parts(text)
    peer = _check_peer(parts)
    if len(parts) != 6:
        raise ValueError("is no address of a node: a WebSocket is for browsers, nodes dial TCP")
    _check_port(parts)
    return peer, _multiaddr("/" + "/".join(parts[:4]))


def _parts(text: str) -> list[str]:
    """Protocols and values in turn, of a host and a TCP port at least."""
    parts = text.split("/")[1:] if len(text) <= MAX_TEXT and text.startswith("/") else []
    if len(parts) < 4 or "" in parts or parts[0] not in _HOSTS or parts[2] != "tcp":
        raise ValueError("is no TCP address such as /ip4/192.0.2.1/tcp/9000")
    port = parts[3]
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16):
        raise ValueError(f"has the port {port[:20]!r}: one is 0 to 65535")
    return parts


def _check_peer(parts: list[str]) -> bytes:
    if parts[-2] != "p2p":
        raise ValueError("does not end in /p2p/ and a peer id")
    return parse_peer_id(parts[-1])


def _check_port(parts: list[str]) -> None:
    if int(parts[3]) == 0:
        raise ValueError("has the port 0, which nobody can dial")


def _multiaddr(text: str) -> Multiaddr:
    from multiaddr import Multiaddr

    try:
        return Multiaddr(text)
    except Exception as error:  # Each protocol of multiaddr fails in ways of its own.
        raise ValueError(f"is no multiaddr: {error}") from error


def _base58(text: str) -> bytes:
    """The bytes; none if a letter is of no base58 text."""
    if len(text) > MAX_PEER_ID_TEXT or not set(text) <= _DIGIT.keys():
        return b""
    number = 0
    for letter in text:
        number = number * 58 + _DIGIT[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
