"""The admin socket's commands about peers: `connect`, `disconnect`, `ban`, `unban`.

A target is a peer id or an IP address (IPv6: its /64). Errors are AdminError with one sentence.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from gridtokenx.home.admin_socket import AdminError
from gridtokenx.network.host import Network, NetworkError, format_peer_id, parse_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.peers.reputation import OPERATOR

MAX_BAN_SECONDS = 10 * 365 * 86_400
CONNECT_SECONDS = 9.0

log = structlog.get_logger(__name__)

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class NetworkCommands:
    """Each takes the command's JSON object and returns the answer's. Errors: AdminError."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def by_name(self) -> dict[str, Command]:
        """The commands as the socket serves them."""
        return {
            "connect": self.connect,
            "disconnect": self.disconnect,
            "ban": self.ban,
            "unban": self.unban,
        }

    async def connect(self, command: dict[str, Any]) -> dict[str, Any]:
        """Dial `address`."""
        address = str(command.get("address"))
        try:
            with trio.fail_after(CONNECT_SECONDS):
                peer = await self._network.dial(address)
        except (ValueError, NetworkError) as error:
            raise AdminError(str(error)) from None
        except trio.TooSlowError:
            raise AdminError(f"timeout: {address} did not answer") from None
        log.info("admin.connected", address=address)
        return {"ok": True, "peer_id": format_peer_id(peer)}

    async def disconnect(self, command: dict[str, Any]) -> dict[str, Any]:
        """Close the connections to `peer`."""
        peer = _peer(str(command.get("peer")))
        if not self._network.is_connected(peer):
            raise AdminError(f"not connected to {format_peer_id(peer)}")
        await self._network.disconnect(peer)
        log.info("admin.disconnected", peer=format_peer_id(peer))
        return {"ok": True, "peer_id": format_peer_id(peer)}

    async def ban(self, command: dict[str, Any]) -> dict[str, Any]:
        """Refuse `target` for `seconds`."""
        target, seconds = parse_target(str(command.get("target"))), command.get("seconds")
        if type(seconds) is not int or not 1 <= seconds <= MAX_BAN_SECONDS:
            raise AdminError(f"seconds is a whole number from 1 to {MAX_BAN_SECONDS}")
        if target == self._network.peer_id:
            raise AdminError("that is this node itself")
        await self._network.ban(target, seconds, str(command.get("reason") or OPERATOR))
        log.warning("admin.banned", target=_text(target), seconds=seconds)
        return {"ok": True, "target": _text(target), "seconds": seconds}

    async def unban(self, command: dict[str, Any]) -> dict[str, Any]:
        """Let `target` in again."""
        target = parse_target(str(command.get("target")))
        if not self._network.reputation.unban(target):
            raise AdminError(f"{_text(target)} is not banned")
        log.warning("admin.unbanned", target=_text(target))
        return {"ok": True, "target": _text(target)}


def parse_target(text: str) -> PeerId | str:
    """A peer id, or an IP address or /64 as text. Errors: AdminError."""
    try:
        return str(ipaddress.ip_address(text.partition("/")[0]))
    except ValueError:
        return _peer(text)


def _peer(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise AdminError(str(error)) from None


def _text(target: PeerId | str) -> str:
    return target if isinstance(target, str) else format_peer_id(target)
