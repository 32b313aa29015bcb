"""Runs one chain's syncer: asks peers for decided blocks, applies them in order.

Source: protocols/consensus.md 2.8. A block from a peer goes through the same certificate check,
execution and commit as one from consensus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import BlocksRequest, BlocksResponse
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.worker import Urgency
from gridtokenx.views.status import SyncState

INBOX_EVENTS = 1_024
STALLED_BLOCK_TIMES = 6
PROGRESS_SECONDS = 5.0

Apply = Callable[[int, bytes, QuorumCertificate], Awaitable[None]]
"""Check, execute and commit the block of a height. Errors: Rejected where it is not the one."""

log = structlog.get_logger(__name__)


class Syncing:
    """The service around one `Syncer`. Owned by the trio loop."""

    def __init__(
        self,
        executor: Executor,
        ask: Ask,
        report: Callable[[PeerId, str], None],
        claims: Callable[[], Mapping[PeerId, Claim]],
    ) -> None:
        """`report(peer, offence)` notes an offence of `reputation.OFFENCES`; `claims` are those of
        the connected peers that follow the chain.
        """
        self._executor = executor
        self._ask = ask
        self._report = report
        self._claims = claims
        self._shown = -1
        self._name, self._chain_id = executor.spec.name, executor.spec.chain_id
        block_time_ms = executor.spec.genesis.block_time_ms
        self._stalled_seconds = STALLED_BLOCK_TIMES * block_time_ms / 1_000 + 4.0
        self._syncer = Syncer(executor.tip.height, grace_ms=max(1_000, block_time_ms))
        self._send, self._inbox = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._moved_at = trio.current_time()
        self._told_at = trio.current_time()

    async def run(self, apply: Apply) -> None:
        """Fetch what is missing and `apply` it, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            async for event in self._inbox:
                now_ms = int(trio.current_time() * 1_000)
                for effect in self._syncer.handle(event, now_ms):
                    self._perform(effect, apply, nursery)

    # -- What the rest of the node tells -----------------------------------------------------------

    def note_height(self, peer: PeerId, height: int) -> None:
        """A peer says, or shows by voting, that it has decided `height`."""
        self._post(PeerStatus(peer, height))

    def note_shown(self, height: int) -> None:
        """A certificate of the chain's members shows that this height is decided."""
        self._shown = max(self._shown, height)

    def note_signed(self, height: int, peer: PeerId, shown: int) -> None:
        """A peer's signed message shows that it has decided `height`, a certificate in it `shown`.

        A peer that is not connected cannot be asked, and anybody could name it.
        """
        self.note_shown(shown)
        if peer in self._claims():
            self.note_height(peer, height)

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

    def whom_to_ask(self) -> Sequence[PeerId]:
        """For bodies: whoever follows the chain, in the order in which it likely has them."""
        tip = self._executor.tip
        highest = max(tip.height, self.target) + 1
        return likeliest(self._claims(), tip.next_set.validators, highest)

    @property
    def is_level(self) -> bool:
        """Whether peers are heard and none says that it is ahead, unless it kept no word.

        A key that starts again asks this; so that a lie costs it seconds, claims count here.
        """
        height = self._executor.tip.height
        return self._syncer.peers > 0 and max(self._syncer.claimed_target, self.target) <= height

    def state(self) -> SyncState:
        """Where the chain stands, for `status`."""
        if self._syncer.peers == 0:
            return "waiting_peers"
        if trio.current_time() - self._moved_at > self._stalled_seconds:
            return "stalled"
        return "blocks" if self.target - self._executor.tip.height > 1 else "live"

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
        claims, members = self._claims(), self._executor.tip.next_set.validators
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
        behind = self.target - self._executor.tip.height
        if behind > 1 and trio.current_time() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = trio.current_time()
            height = self._executor.tip.height
            log.info("sync.progressed", chain=self._name, height=height, target=self.target)

    def _perform(self, effect: Effect, apply: Apply, nursery: trio.Nursery) -> None:
        match effect:
            case RequestBlocks():
                nursery.start_soon(self._request, effect)
            case ApplyBlock():
                nursery.start_soon(self._apply, effect, apply)
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
            read = partial(_decode_blocks, raw)
            blocks = await verifiers.run(read, Urgency.FORWARDED, self._name)
        except (NetworkError, RequestRefused, Rejected) as error:
            log.debug("sync.request_failed", chain=self._name, why=str(error))
            if isinstance(error, Rejected):
                self._report(PeerId(effect.peer), "malformed_response")
            await self._send.send(RequestFailed(effect.peer))
        else:
            await self._send.send(BlocksReceived(effect.peer, effect.from_height, blocks))

    async def _apply(self, effect: ApplyBlock, apply: Apply) -> None:
        try:
            await apply(effect.height, effect.block, effect.certificate)
        except Rejected as error:
            await self._send.send(Invalid(effect.height, effect.peer, error.detail))
        else:
            await self._send.send(Committed(self._executor.tip.height))


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


def likeliest(
    claims: Mapping[PeerId, Claim], members: ValidatorSet, highest: int
) -> tuple[PeerId, ...]:
    """Peers that members vouch for, then the others, the highest first, but those that say more
    than `highest` last: a few silent strangers must not come before all who would answer.
    """

    def rank(peer: PeerId) -> tuple[bool, bool, int, PeerId]:
        claim = claims[peer]
        is_vouched = claim.validator is not None and members.index_of(claim.validator) is not None
        return (not is_vouched, claim.height > highest, -claim.height, peer)

    return tuple(sorted(claims, key=rank))


def _decode_blocks(raw: bytes) -> tuple[tuple[bytes, QuorumCertificate], ...]:
    """Errors: Rejected."""
    response = decode(BlocksResponse, raw)
    return tuple((one.block, decode(QuorumCertificate, one.certificate)) for one in response.blocks)
