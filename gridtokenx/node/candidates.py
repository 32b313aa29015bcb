"""Finding the body of a proposed block: from gossip, from our pool, from peers.

A compact block is believed because it hashes to what the leader signed: its ids hash to the
header's transactions root, and each transaction hashes to its id. So a liar can waste a request,
not plant a body. Source: network 2, consensus 2.6.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from gridtokenx.chain.block import (
    Block,
    CompactBlock,
    decode_block,
    has_its_body,
)
from gridtokenx.chain.transaction import Transaction
from gridtokenx.node.bodies import Recent, decode_and_verify_all
from gridtokenx.node.executor import Executor
from gridtokenx.node.network import NetworkError, PeerId
from gridtokenx.node.protocol import (
    BLOCK_LIMIT,
    MAX_BODIES_PER_REQUEST,
    BodiesRequest,
    BodiesResponse,
    BodyRequest,
    ProposalRequest,
)
from gridtokenx.node.requests import RequestRefused
from gridtokenx.node.stages import Stages
from gridtokenx.primitives.codec import decode, decode_any, encode
from gridtokenx.primitives.errors import Rejected

MAX_COMPACT = 8
GOSSIP_WAIT_S = 0.4
PROPOSAL_WAIT_S = 2.0
MAX_PROPOSALS = 64
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
        self._proposed: OrderedDict[bytes, None] = OrderedDict()
        self._news = trio.Event()

    def note_proposal(self, block_hash: bytes) -> None:
        """A leader signed a proposal for this hash: its compact block is wanted."""
        self._proposed[block_hash] = None
        if len(self._proposed) > MAX_PROPOSALS:
            self._proposed.popitem(last=False)
        self._news.set()
        self._news = trio.Event()

    def add_compact(self, block: CompactBlock) -> None:
        """Keep a compact block that `is_consistent`."""
        self._compact[block.header.hash] = block
        if len(self._compact) > MAX_COMPACT:
            self._compact.popitem(last=False)
        _event(self._arrivals, block.header.hash).set()

    async def accept_gossip(self, block: CompactBlock) -> bool:
        """Keep a gossiped compact block once a signed proposal names it; whether one did.

        Waiting for the proposal bounds what strangers can make us hash, hold and forward; the
        blocks of strangers take nothing from the leader's.
        """
        block_hash = block.header.hash
        with trio.move_on_after(PROPOSAL_WAIT_S):
            while block_hash not in self._proposed:
                await self._news.wait()
        if block_hash not in self._proposed or not is_consistent(block):
            return False
        self.add_compact(block)
        return True

    async def find(self, block_hash: bytes) -> tuple[Block, list[Transaction]] | None:
        """The block and its verified transactions, or None where nobody has them now."""
        stored = self._executor.store.candidate(block_hash)
        if stored is not None:
            return await self._restore(decode_block(stored))
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
        """Serve a peer. Errors: RequestRefused."""
        if isinstance(request, ProposalRequest):
            found = self._executor.candidate_compact(request.block_hash)
            found = found or self._compact.get(request.block_hash)
            if found is None:
                raise RequestRefused("this proposal is not here")
            return encode(found)
        bodies = [self._body(one) for one in request.ids]
        return encode(BodiesResponse(tuple(tx.encoded for tx in bodies if tx is not None)))

    async def _restore(self, block: Block) -> tuple[Block, list[Transaction]]:
        """A candidate that we voted on before a restart, from our own disk."""
        decoded = await decode_and_verify_all(block.transactions, self._executor.stages)
        return block, [one for one in decoded if isinstance(one, Transaction)]

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
            block = _read_compact(raw)
            if block is not None and block.header.hash == block_hash and is_consistent(block):
                self.add_compact(block)
                return block
        return None

    async def _find_bodies(self, ids: Sequence[bytes]) -> list[Transaction] | None:
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
                found.update(await _read_bodies(raw, part, self._executor.stages))
        if any(one not in found for one in ids):
            return None
        for transaction in found.values():
            self._recent.add(transaction)
        return [found[one] for one in ids]

    def _body(self, transaction_id: bytes) -> Transaction | None:
        return self._executor.mempool.get(transaction_id) or self._recent.get(transaction_id)

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


def _read_compact(raw: bytes) -> CompactBlock | None:
    try:
        return decode(CompactBlock, raw, BLOCK_LIMIT)
    except Rejected:
        return None


async def _read_bodies(
    raw: bytes, asked: Sequence[bytes], stages: Stages
) -> dict[bytes, Transaction]:
    """The transactions of an answer that were asked for and are well signed."""
    try:
        response = await trio.to_thread.run_sync(decode, BodiesResponse, raw)
    except Rejected:
        return {}
    decoded = await decode_and_verify_all(response.transactions, stages)
    wanted = frozenset(asked)
    return {tx.id: tx for tx in decoded if isinstance(tx, Transaction) and tx.id in wanted}


def _event(events: OrderedDict[bytes, trio.Event], key: bytes) -> trio.Event:
    """The event of a hash; the oldest are forgotten, whoever waits on them times out."""
    found = events.get(key)
    if found is None:
        found = events[key] = trio.Event()
        if len(events) > MAX_PROPOSALS:
            events.popitem(last=False)
    return found
