"""Runs one chain's syncer: asks peers for decided blocks, applies them in order, serves others.

Source: protocols/consensus.md 2.8. A block from a peer goes through the same certificate check,
execution and commit as one from consensus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog
import trio

from gridtokenx.chain.sync import (
    ApplyBlock,
    BlocksReceived,
    Committed,
    Effect,
    Event,
    Invalid,
    NotDelivered,
    PeerGone,
    PeerStatus,
    PenalisePeer,
    RequestBlocks,
    RequestFailed,
    Surveyed,
    Syncer,
    Tick,
    Unfounded,
)
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.network.host import NetworkError, format_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.bodies import verifiers
from gridtokenx.node.candidates import Ask
from gridtokenx.node.contacts import Claim
from gridtokenx.node.driver import Driver
from gridtokenx.node.protocol import (
    MAX_RESPONSE_BYTES,
    AncestryRequest,
    BlocksRequest,
    BlocksResponse,
    DecidedBlock,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.worker import Urgency
from gridtokenx.storage.database import ChainStore
from gridtokenx.views.status import SyncState

INBOX_EVENTS = 1_024
STALLED_BLOCK_TIMES = 6
PROGRESS_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Syncing:
    """The service around one `Syncer`. Owned by the trio loop."""

    def __init__(
        self,
        driver: Driver,
        ask: Ask,
        report: Callable[[PeerId, str], None],
        claims: Callable[[], Mapping[PeerId, Claim]],
    ) -> None:
        """`report(peer, offence)` notes an offence of `reputation.OFFENCES`; `claims` are those of
        the connected peers that follow the chain.
        """
        self._driver = driver
        self._ask = ask
        self._report = report
        self._claims = claims
        self._shown = -1
        name, block_time_ms = driver.spec.name, driver.spec.genesis.block_time_ms
        self._name, self._chain_id = name, driver.spec.chain_id
        self._stalled_seconds = STALLED_BLOCK_TIMES * block_time_ms / 1_000 + 4.0
        self._syncer = Syncer(driver.executor.parent.height, grace_ms=max(1_000, block_time_ms))
        self._send, self._inbox = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._moved_at = trio.current_time()
        self._told_at = trio.current_time()

    async def run(self) -> None:
        """Fetch what is missing, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._beat)
            async for event in self._inbox:
                now_ms = int(trio.current_time() * 1_000)
                for effect in self._syncer.handle(event, now_ms):
                    self._perform(effect)

    # -- What the rest of the node tells -----------------------------------------------------------

    def note_height(self, peer: PeerId, height: int) -> None:
        """A peer says, or shows by voting, that it has decided `height`."""
        self._post(PeerStatus(peer, height))

    def note_shown(self, height: int) -> None:
        """A certificate of the chain's members shows that this height is decided."""
        self._shown = max(self._shown, height)

    def note_gone(self, peer: PeerId) -> None:
        """A peer disconnected."""
        self._post(PeerGone(peer))

    def note_committed(self, height: int) -> None:
        """The head moved, by consensus or by sync."""
        self._moved_at = trio.current_time()
        self._post(Committed(height))

    @property
    def target(self) -> int:
        """The height that is decided elsewhere, as far as validators or delivered blocks show."""
        return self._syncer.credible_target

    @property
    def is_level(self) -> bool:
        """Whether peers are heard and none says that it is ahead, unless it kept no word.

        A key that starts again asks this; so that a lie costs it seconds, claims count here.
        """
        height = self._driver.executor.parent.height
        return self._syncer.peers > 0 and max(self._syncer.claimed_target, self.target) <= height

    def state(self) -> SyncState:
        """Where the chain stands, for `status`."""
        if self._syncer.peers == 0:
            return "waiting_peers"
        if trio.current_time() - self._moved_at > self._stalled_seconds:
            return "stalled"
        return "blocks" if self.target - self._driver.executor.parent.height > 1 else "live"

    # -- Effects -----------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            log.debug("sync.inbox_full", chain=self._name)  # Statuses and ticks repeat.

    async def _beat(self) -> None:
        while True:
            await trio.sleep(1.0)
            with house.round("sync_tick"):
                self._post(self._survey())
                self._post(Tick())
                self._tell_progress()

    def _survey(self) -> Surveyed:
        claims, height = self._claims(), self._driver.executor.parent.height
        members = self._driver.executor.sets.at(height + 1).validators
        said: dict[int, int] = {}  # The highest word of each member, by its index.
        vouched = set()
        for peer, claim in claims.items():
            index = None if claim.validator is None else members.index_of(claim.validator)
            if index is not None:
                said[index] = max(claim.height, said.get(index, 0))
                vouched.add(peer)
        shown = max(self._shown, height_of_third(members, said))
        return Surveyed(frozenset(claims), frozenset(vouched), shown)

    def _tell_progress(self) -> None:
        behind = self.target - self._driver.executor.parent.height
        if behind > 1 and trio.current_time() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = trio.current_time()
            height = self._driver.executor.parent.height
            log.info("sync.progressed", chain=self._name, height=height, target=self.target)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case RequestBlocks():
                self._nursery.start_soon(self._request, effect)
            case ApplyBlock():
                self._nursery.start_soon(self._apply, effect)
            case PenalisePeer(peer, reason):
                text = format_peer_id(PeerId(peer))
                log.warning("sync.bad_peer", chain=self._name, peer=text, why=reason)
                self._report(PeerId(peer), "invalid_block")
            case NotDelivered(peer):
                self._report(PeerId(peer), "undelivered_height")
            case Unfounded(peer):
                self._report(PeerId(peer), "unfounded_height")

    async def _request(self, effect: RequestBlocks) -> None:
        request = encode(
            BlocksRequest(self._name, self._chain_id, effect.from_height, effect.count)
        )
        try:
            raw = await self._ask(PeerId(effect.peer), "blocks", request)
            read = partial(_read_blocks, raw)
            blocks = await verifiers.run(read, Urgency.FORWARDED, self._name)
        except (NetworkError, RequestRefused, Rejected) as error:
            log.debug("sync.request_failed", chain=self._name, why=str(error))
            if isinstance(error, Rejected):
                self._report(PeerId(effect.peer), "malformed_response")
            await self._send.send(RequestFailed(effect.peer))
        else:
            await self._send.send(BlocksReceived(effect.peer, effect.from_height, blocks))

    async def _apply(self, effect: ApplyBlock) -> None:
        try:
            await self._driver.apply_decided(effect.height, effect.block, effect.certificate)
        except Rejected as error:
            await self._send.send(Invalid(effect.height, effect.peer, error.detail))
        else:
            await self._send.send(Committed(self._driver.executor.parent.height))


def height_of_third(members: ValidatorSet, said: Mapping[int, int]) -> int:
    """The highest height that members with more than a third of the weight say they have, of whom
    one is honest; -1 for none. `said`: heights by members' indexes.
    """
    weight = 0
    for index in sorted(said, key=lambda one: -said[one]):
        weight += members.members[index].weight
        if members.is_blocking(weight):
            return said[index]
    return -1


def answer_blocks(payload: bytes, store_of: Callable[[str, bytes], ChainStore | None]) -> bytes:
    """Serve consecutive decided blocks with certificates, as many as fit. Errors: Rejected.

    `store_of` finds the blocks of a chain by its name and the chain id of an incarnation.
    """
    request = decode(BlocksRequest, payload)
    store = store_of(request.chain, request.chain_id)
    if store is None:
        detail = f"this node has not {request.chain} {request.chain_id.hex()[:16]}"
        raise Rejected(ErrorCode.UNKNOWN_SHARD, detail)
    heights = range(max(1, request.from_height), request.from_height + request.count)
    return encode(BlocksResponse(_blocks_at(store, heights)))


def answer_ancestry(payload: bytes, stores_of: Callable[[str], Sequence[ChainStore]]) -> bytes:
    """Serve a decided block and those before it, as many as fit. Errors: Rejected.

    `stores_of` finds all histories of a chain that are here: those of all its incarnations.
    """
    request = decode(AncestryRequest, payload)
    for store in stores_of(request.chain):
        height = store.height_of(request.block_hash)
        if height:
            heights = range(height, max(0, height - request.count), -1)
            return encode(BlocksResponse(_blocks_at(store, heights)))
    detail = f"no block {request.block_hash.hex()[:16]} of {request.chain} is here"
    raise Rejected(ErrorCode.BLOCK_NOT_FOUND, detail)


def _blocks_at(store: ChainStore, heights: Iterable[int]) -> tuple[DecidedBlock, ...]:
    """The blocks at these heights up to the first that is missing or does not fit."""
    blocks: list[DecidedBlock] = []
    size = 0
    for height in heights:
        block, certificate = store.block(height), store.certificate(height)
        if not block or not certificate:
            break
        size += len(block) + len(certificate) + 16
        if blocks and size > MAX_RESPONSE_BYTES:
            break
        blocks.append(DecidedBlock(block, certificate))
    return tuple(blocks)


def _read_blocks(raw: bytes) -> tuple[tuple[bytes, QuorumCertificate], ...]:
    """Errors: Rejected."""
    response = decode(BlocksResponse, raw)
    return tuple((one.block, decode(QuorumCertificate, one.certificate)) for one in response.blocks)
