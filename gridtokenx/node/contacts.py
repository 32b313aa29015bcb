"""First contact and what peers say of themselves: genesis, chains, heights.

A peer of another network is told why and disconnected; the log says theirs and ours.
Source: protocols/networking.md 3.1, 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog
import trio

from gridtokenx.chain.genesis import Genesis
from gridtokenx.network.host import Network, NetworkError, PeerConnected, format_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused, Requests
from gridtokenx.node.protocol import (
    MAX_LINKS,
    About,
    ChainHead,
    Credential,
    Status,
    credential_bytes,
)
from gridtokenx.node.witnesses import Sample, sample
from gridtokenx.primitives import crypto
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected

STATUS_SECONDS = 2.0
MAX_STATUS_BYTES = 4_096
MAX_ABOUT_BYTES = 32_768
ROUNDS_PER_ABOUT = 5
MAX_FAILURES = 5
MAX_FOREIGN = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Contact:
    """A connected peer that has told its status."""

    peer: PeerId
    status: Status

    def height(self, chain_id: bytes) -> int | None:
        """Its height of a chain's incarnation, None if it does not follow it."""
        for head in self.status.heads:
            if head.chain_id == chain_id:
                return head.height
        return None

    def follows(self, chain: str) -> bool:
        """Whether it follows a chain by its name, whatever incarnation of it."""
        return any(head.name == chain for head in self.status.heads)


@dataclass(frozen=True, slots=True)
class Claim:
    """A connected peer's height of a chain; `validator` is the key that vouches for the peer."""

    height: int
    validator: bytes | None = None


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """`validator`: the key that vouches for the peer; `links`: whom it says it is connected to.

    `clock`: the newest comparison with its clock that tells something.
    """

    latency_ms: int | None = None  # a status, there and back
    clock: Sample | None = None
    validator: bytes | None = None
    links: tuple[PeerId, ...] = ()


class Peers:
    """Knows every connected peer's status, and refuses strangers."""

    def __init__(
        self,
        network: Network,
        requests: Requests,
        genesis: Genesis,
        own_status: Callable[[], Status],
        on_height: Callable[[PeerId, ChainHead], None],
        on_gone: Callable[[PeerId], None],
        credential: Credential | None = None,
    ) -> None:
        """`credential` is shown to whoever asks which validator this peer belongs to."""
        self._network = network
        self._requests = requests
        self._genesis = genesis
        self._own_status = own_status
        self._on_height = on_height
        self._on_gone = on_gone
        self._credentials = () if credential is None else (credential,)
        self._contacts: dict[PeerId, Contact] = {}
        self._acquaintances: dict[PeerId, Acquaintance] = {}
        self._watched: dict[PeerId, trio.CancelScope] = {}
        self._foreign: dict[PeerId, None] = {}  # Told of; the oldest is forgotten first.
        self.foreign = 0

    def contacts(self) -> tuple[Contact, ...]:
        """Peers of this network, in id order."""
        return tuple(self._contacts[peer] for peer in sorted(self._contacts))

    def acquaintance(self, peer: PeerId) -> Acquaintance:
        """What is known of a connected peer besides its status."""
        return self._acquaintances.get(peer, Acquaintance())

    def proved(self) -> dict[bytes, tuple[PeerId, ...]]:
        """Connected peers by the validator key that vouches for them, in id order."""
        found: dict[bytes, tuple[PeerId, ...]] = {}
        for peer in sorted(self._acquaintances):
            validator = self._acquaintances[peer].validator
            if validator is not None:
                found[validator] = (*found.get(validator, ()), peer)
        return found

    def clocks(self) -> dict[bytes, list[Sample]]:
        """What is known of the clocks of connected peers, by the validator key that vouches."""
        return {
            key: [sample for peer in peers if (sample := self.acquaintance(peer).clock) is not None]
            for key, peers in self.proved().items()
        }

    def claims(self, chain_id: bytes) -> dict[PeerId, Claim]:
        """What the followers of a chain's incarnation say, and who vouches for them."""
        return {
            peer: Claim(height, self.acquaintance(peer).validator)
            for peer, contact in self._contacts.items()
            if (height := contact.height(chain_id)) is not None
        }

    def neighbours(self, chain: str) -> tuple[PeerId, ...]:
        """Peers that follow any incarnation of a chain, in id order."""
        return tuple(one.peer for one in self.contacts() if one.follows(chain))

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange statuses until cancelled."""
        self._requests.serve("status", self._answer)
        self._requests.serve("about", self._tell_about)
        async with trio.open_nursery() as nursery:
            events = self._network.subscribe()
            task_status.started()
            async for event in events:
                if isinstance(event, PeerConnected):
                    if event.peer not in self._watched:
                        scope = self._watched[event.peer] = trio.CancelScope()
                        nursery.start_soon(self._watch, event.peer, scope)
                else:
                    self._contacts.pop(event.peer, None)
                    self._acquaintances.pop(event.peer, None)
                    self._on_gone(event.peer)
                    gone = self._watched.pop(event.peer, None)
                    if gone is not None:
                        gone.cancel()

    async def _watch(self, peer: PeerId, scope: trio.CancelScope) -> None:
        failures = rounds = 0
        with scope:
            while failures < MAX_FAILURES:
                try:
                    await self._ask_status(peer)
                    if rounds % ROUNDS_PER_ABOUT == 0:
                        await self._ask_about(peer)
                    rounds, failures = rounds + 1, 0
                except (NetworkError, RequestRefused, Rejected) as error:
                    failures += 1
                    log.debug("peer.status_failed", peer=format_peer_id(peer), why=str(error))
                    if isinstance(error, Rejected):
                        self._refuse(peer, error)
                        return
                await trio.sleep(STATUS_SECONDS)
            log.debug("peer.mute", peer=format_peer_id(peer))
            self._network.report(peer, "mute")
            await self._network.disconnect(peer)

    async def _ask_status(self, peer: PeerId) -> None:
        payload, asked_s = encode(self._own_status()), trio.current_time()
        answer = await self._requests.request(peer, "status", payload)
        answered_s = trio.current_time()
        status = self._note(peer, answer)
        known = self.acquaintance(peer)
        self._acquaintances[peer] = replace(
            known,
            latency_ms=round((answered_s - asked_s) * 1_000),
            clock=sample(status.time_ms, asked_s, answered_s) or known.clock,
        )

    async def _ask_about(self, peer: PeerId) -> None:
        """Who it is and whom it knows: for people, so a peer may keep it to itself."""
        try:
            raw = await self._requests.request(peer, "about", b"")
        except (NetworkError, RequestRefused):
            return
        about = decode(About, raw, MAX_ABOUT_BYTES)
        signed = credential_bytes(self._genesis.hash, peer)
        validator = next(
            (
                one.public_key
                for one in about.credentials
                if crypto.verify(one.public_key, signed, one.signature)
            ),
            None,
        )
        links = tuple(PeerId(link) for link in about.links)
        known = self._acquaintances.get(peer, Acquaintance())
        self._acquaintances[peer] = replace(known, validator=validator, links=links)

    async def _tell_about(self, _peer: PeerId, _payload: bytes) -> bytes:
        """A node with an allow-list hides behind it: it tells nobody whom it is connected to."""
        links = () if self._network.is_private else tuple(self._contacts)[:MAX_LINKS]
        return encode(About(self._credentials, links))

    async def _answer(self, peer: PeerId, payload: bytes) -> bytes:
        """Also a stranger gets our status, so that its operator can see both genesis hashes."""
        try:
            self._note(peer, payload)
        except Rejected as error:
            if error.code is not ErrorCode.GENESIS_MISMATCH:
                raise RequestRefused(error.detail) from None
            self._tell_foreign(peer, error)
        return encode(self._own_status())

    def _note(self, peer: PeerId, raw: bytes) -> Status:
        """Remember a status. Errors: Rejected for nonsense, GENESIS_MISMATCH for a stranger."""
        status = decode(Status, raw, MAX_STATUS_BYTES)
        if status.genesis_hash != self._genesis.hash:
            raise Rejected(
                ErrorCode.GENESIS_MISMATCH,
                f"this peer is on another chain: theirs {status.genesis_hash.hex()[:16]} "
                f"({status.network_name}), ours {self._genesis.hash.hex()[:16]} "
                f"({self._genesis.network_name}). Wrong genesis.json?",
            )
        if peer in self._watched:  # Else it has disconnected while its words were on the way.
            self._contacts[peer] = Contact(peer, status)
            for head in {one.name: one for one in status.heads}.values():
                self._on_height(peer, head)
        return status

    def _tell_foreign(self, peer: PeerId, error: Rejected) -> None:
        """Log it, once a peer, also when asked: who asks first bans, and we get no answer."""
        if peer in self._foreign:
            return
        if len(self._foreign) >= MAX_FOREIGN:
            del self._foreign[next(iter(self._foreign))]
        self._foreign[peer] = None
        text = format_peer_id(peer)
        log.warning("peer.foreign", code="GTX-NET-002", peer=text, hint=error.detail)

    def _refuse(self, peer: PeerId, error: Rejected) -> None:
        self.foreign += 1
        if error.code is ErrorCode.GENESIS_MISMATCH:
            self._tell_foreign(peer, error)
            self._network.report(peer, "wrong_genesis")
        else:
            log.warning("peer.nonsense", peer=format_peer_id(peer), why=error.detail)
            self._network.report(peer, "malformed_status")
