"""Finding the body of a proposed block: from gossip, from our pool, from peers.

A compact block is believed because it hashes to what the leader signed: its ids hash to the
header's transactions root, and each transaction hashes to its id. So a liar can waste a request,
not plant a body. Source: protocols/networking.md 3.3, 5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
import trio

from gridtokenx.chain.block import (
    MAX_BLOCK_BYTES,
    Block,
    CompactBlock,
    Header,
    decode_block,
    has_its_body,
)
from gridtokenx.chain.sync import RESPONSE_BYTES
from gridtokenx.chain.transaction import Transaction, transaction_id
from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, GossipVerdict
from gridtokenx.network.host import NetworkError
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.bodies import Decoded, Recent, decode_and_verify_all, verifiers
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import (
    MAX_BODIES_PER_REQUEST,
    BodiesRequest,
    BodiesResponse,
    BodyRequest,
    ProposalRequest,
)
from gridtokenx.node.strangers import Lane
from gridtokenx.primitives.codec import decode, decode_any, encode
from gridtokenx.primitives.errors import Rejected

MAX_COMPACT = 8
GOSSIP_WAIT_S = 0.4
PROPOSAL_WAIT_S = 2.0
VIEWS_AHEAD = 1  # Proposals of later views are not waited for: the engine asks for what it enters.
MAX_PROPOSALS = 64
INLINE_IDS = 256  # Hashing more takes longer than handing it to a thread.
INLINE_BYTES = 16 * 1024
ASK_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)

Ask = Callable[[PeerId, str, bytes], Awaitable[bytes]]
"""(peer, kind of request, payload) -> answer. Errors: NetworkError, RequestRefused."""


class Candidates:
    """Compact blocks and transaction bodies of one chain's undecided proposals."""

    def __init__(
        self, executor: Executor, recent: Recent, ask: Ask, peers: Callable[[], Sequence[PeerId]]
    ) -> None:
        self._executor = executor
        self._recent = recent
        self._ask = ask
        self._peers = peers
        self._compact: OrderedDict[bytes, CompactBlock] = OrderedDict()
        self._arrivals: OrderedDict[bytes, trio.Event] = OrderedDict()
        self._signed: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # By height and view.
        self._news = trio.Event()

    def note_proposal(self, height: int, view: int, block_hash: bytes) -> None:
        """A leader signed a proposal for this hash: its compact block is wanted.

        Of each view the first: a leader that signs two is convicted, not served.
        """
        self._signed.setdefault((height, view), block_hash)
        if len(self._signed) > MAX_PROPOSALS:
            self._signed.popitem(last=False)
        self._news.set()
        self._news = trio.Event()

    def note_decided(self, height: int) -> None:
        """What was proposed up to a height is over."""
        for key in [key for key in self._signed if key[0] <= height]:
            del self._signed[key]
        for block_hash in [key for key, one in self._compact.items() if one.header.height < height]:
            del self._compact[block_hash]  # The newest one slow peers may still ask for.
        self._arrivals.clear()

    def add_compact(self, block: CompactBlock) -> None:
        """Keep a compact block that `is_consistent`."""
        self._compact[block.header.hash] = block
        if len(self._compact) > MAX_COMPACT:
            self._compact.popitem(last=False)
        _event(self._arrivals, block.header.hash).set()

    async def accept_gossip(self, lane: Lane, data: bytes, view: int) -> GossipVerdict:
        """Keep a gossiped compact block once a signed proposal names it; whether to forward it.

        Waiting for the proposal bounds what strangers can make us hash, hold and forward; the
        blocks of strangers take nothing from the leader's. `view` is that of the next height.
        """
        block = await self._read(lane, data)
        if block is None or block.header.chain_id != self._executor.spec.chain_id:
            return GossipVerdict.REJECT
        if not await self._is_proposed(block.header, view):
            return GossipVerdict.IGNORE
        if not await self._is_consistent(lane, block):
            return GossipVerdict.IGNORE
        self.add_compact(block)
        return GossipVerdict.ACCEPT

    async def find(self, block_hash: bytes) -> tuple[Block, list[Transaction]] | None:
        """The block and its verified transactions, or None where nobody has them now."""
        stored = self._executor.store.candidate(block_hash)
        if stored is not None:
            return await self._restore(await verifiers.run(partial(decode_block, stored)))
        block = await self._find_compact(block_hash)
        if block is None:
            return None
        transactions = await self._find_bodies(block.transaction_ids)
        if transactions is None:
            return None
        raws = tuple(transaction.encoded for transaction in transactions)
        body = Block(block.header, raws, block.last_commit, block.evidence, block.inbox)
        return body, transactions

    def answer(self, request: BodyRequest) -> bytes:
        """Serve a peer, as much as fits. Any thread. Errors: RequestRefused."""
        if isinstance(request, ProposalRequest):
            found = self._executor.candidate_compact(request.block_hash)
            found = found or self._compact.get(request.block_hash)
            if found is None:
                raise RequestRefused("this proposal is not here")
            return encode(found)
        raws: list[bytes] = []
        size = 0
        for transaction in map(self._body, request.ids):
            if transaction is not None:
                size += len(transaction.encoded) + 8
                if size > RESPONSE_BYTES:
                    break
                raws.append(transaction.encoded)
        return encode(BodiesResponse(tuple(raws)))

    async def _restore(self, block: Block) -> tuple[Block, list[Transaction]]:
        """A candidate that we voted on before a restart, from our own disk."""
        decoded = await self._verify(block.transactions)
        return block, [one for one in decoded if isinstance(one, Transaction)]

    async def _read(self, lane: Lane, data: bytes) -> CompactBlock | None:
        if len(data) <= INLINE_BYTES:
            return _decode_compact(data)
        async with lane.part():
            return await lane.run(verifiers, partial(_decode_compact, data))

    async def _is_consistent(self, lane: Lane, block: CompactBlock) -> bool:
        if len(block.transaction_ids) <= INLINE_IDS:
            return is_consistent(block)
        async with lane.part():
            consistent = await lane.run(verifiers, partial(is_consistent, block))
            lane.useless_share = float(not consistent)
            return consistent

    async def _is_proposed(self, header: Header, view: int) -> bool:
        """Whether a signed proposal names it, or does so soon: blocks may overtake proposals."""
        if header.hash not in self._signed.values() and self._may_be_proposed(header, view):
            with trio.move_on_after(PROPOSAL_WAIT_S):
                while header.hash not in self._signed.values():
                    await self._news.wait()
        return header.hash in self._signed.values()

    def _may_be_proposed(self, header: Header, view: int) -> bool:
        """Whether a leader's proposal of now could name it: for the next height or the one after,
        at most a view ahead, by the view's leader.
        """
        tip = self._executor.tip
        ahead = header.height - tip.height
        if not 0 < ahead <= 2 or header.view0 > VIEWS_AHEAD + (view if ahead == 1 else 0):
            return False
        return header.proposer_index == tip.sets.leader(header.height, header.view0)

    async def _find_compact(self, block_hash: bytes) -> CompactBlock | None:
        with trio.move_on_after(GOSSIP_WAIT_S):
            if block_hash not in self._compact:
                await _event(self._arrivals, block_hash).wait()
        found = self._compact.get(block_hash)
        if found is not None:
            return found
        request = encode(ProposalRequest(self._executor.spec.name, block_hash))
        for peer in self._peers():
            raw = await self._try(peer, request)
            if raw is None:
                continue
            block = await verifiers.run(partial(_decode_named, raw, block_hash))
            if block is not None:
                self.add_compact(block)
                return block
        return None

    async def _find_bodies(self, ids: Sequence[bytes]) -> list[Transaction] | None:
        """None where nobody has them, or they are more than a block may hold."""
        found = {one: tx for one in ids if (tx := self._body(one)) is not None}
        for peer in self._peers():
            missing = [one for one in ids if one not in found]
            if not missing:
                break
            for at in range(0, len(missing), MAX_BODIES_PER_REQUEST):
                part = tuple(missing[at : at + MAX_BODIES_PER_REQUEST])
                raw = await self._try(peer, encode(BodiesRequest(self._executor.spec.name, part)))
                if raw is None:
                    break
                found.update(await self._read_bodies(raw, part))
                if sum(len(tx.encoded) for tx in found.values()) > MAX_BLOCK_BYTES:
                    return None
        if any(one not in found for one in ids):
            return None
        for transaction in found.values():
            self._recent.add(transaction)
        return [found[one] for one in ids]

    async def _read_bodies(self, raw: bytes, asked: Sequence[bytes]) -> dict[bytes, Transaction]:
        """The well signed transactions of an answer; none of one that holds others."""
        raws = await verifiers.run(partial(_decode_asked, raw, frozenset(asked)))
        decoded = await self._verify(raws)
        return {tx.id: tx for tx in decoded if isinstance(tx, Transaction)}

    async def _verify(self, raws: Sequence[bytes]) -> list[Decoded]:
        executor = self._executor
        return await decode_and_verify_all(raws, executor.stages, chain=executor.spec.name)

    def _body(self, transaction_id: bytes) -> Transaction | None:
        return self._executor.pending.find(transaction_id) or self._recent.get(transaction_id)

    async def _try(self, peer: PeerId, request: bytes) -> bytes | None:
        try:
            with trio.fail_after(ASK_TIMEOUT_S):
                return await self._ask(peer, "bodies", request)
        except (NetworkError, RequestRefused, trio.TooSlowError) as error:
            log.debug("bodies.unavailable", chain=self._executor.spec.name, why=str(error))
            return None


def is_consistent(block: CompactBlock) -> bool:
    """Whether ids, certificate, evidence and messages are those that the header commits to."""
    return has_its_body(
        block.header, block.transaction_ids, block.last_commit, block.evidence, block.inbox
    )


def decode_body_request(payload: bytes) -> BodyRequest:
    """Read a request. Errors: Rejected."""
    request: BodyRequest = decode_any(BodyRequest, payload)
    return request


def _decode_compact(raw: bytes) -> CompactBlock | None:
    try:
        return decode(CompactBlock, raw, MAX_MESSAGE_BYTES)
    except Rejected:
        return None


def _decode_named(raw: bytes, block_hash: bytes) -> CompactBlock | None:
    """The compact block of this hash, with all that its header commits to."""
    block = _decode_compact(raw)
    named = block is not None and block.header.hash == block_hash and is_consistent(block)
    return block if named else None


def _decode_asked(raw: bytes, asked: frozenset[bytes]) -> list[bytes]:
    try:
        response = decode(BodiesResponse, raw)
    except Rejected:
        return []
    found = {transaction_id(one): one for one in response.transactions}
    return list(found.values()) if found.keys() <= asked else []


def _event(events: OrderedDict[bytes, trio.Event], key: bytes) -> trio.Event:
    """The event of a hash; the oldest are forgotten, whoever waits on them times out."""
    found = events.get(key)
    if found is None:
        found = events[key] = trio.Event()
        if len(events) > MAX_PROPOSALS:
            events.popitem(last=False)
    return found
