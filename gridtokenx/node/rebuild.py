"""Brings the history of a region's new incarnation together, up to the block it is born of.

The block that voters named and all before it are executed anew into the incarnation's own key
range, out of what this node has of the incarnations before; these stay as they are. Where the
region had signed two chains, or this node was not there, the right branch is found by hashes: from
the named block back, block by block, until one that is here. What a peer sends is thus known to
be right before it is kept. Every step is a synced batch, so a node that is killed goes on where it
was. Source: protocols/interchain.md 8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from gridtokenx.chain.block import Block, decode_block, has_its_body
from gridtokenx.chain.transaction import Transaction, transaction_id
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.interchain.model import Incarnation
from gridtokenx.network.host import NetworkError
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.bodies import decode_and_verify_all
from gridtokenx.node.candidates import Ask
from gridtokenx.node.executor import Executor
from gridtokenx.node.protocol import (
    MAX_BLOCKS_PER_REQUEST,
    AncestryRequest,
    BlocksResponse,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import ChainStore

PROGRESS_SECONDS = 5.0
RETRY_SECONDS = 1.0
FORGOTTEN_AT_ONCE = 1_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """A block on the way to the incarnation's first: its height and hash."""

    height: int
    hash: bytes


class Rebuild:
    """One incarnation's rebuild. Owned by the trio loop; blocks are executed in a worker thread."""

    def __init__(
        self,
        executor: Executor,
        born: Incarnation,
        former: Sequence[ChainStore],
        *,
        ask: Ask,
        neighbours: Callable[[], Sequence[PeerId]],
        report: Callable[[PeerId, str], None],
        on_block: Callable[[], Awaitable[None]],
    ) -> None:
        """`former`: what this node has of the incarnations before, the newest first. `neighbours`
        may have what is missing; `report(peer, offence)` notes an offence; `on_block` hears of
        every block that is executed.
        """
        self._executor = executor
        self._born = born
        self._former = former
        self._ask = ask
        self._neighbours = neighbours
        self._report = report
        self._on_block = on_block
        self._source: ChainStore | None = None  # Has all blocks below those that were fetched.
        self._author: PeerId | None = None  # Whose word the last block's certificate is.
        self._liars: dict[PeerId, None] = {}
        self._giver: PeerId | None = None  # Had the blocks that were asked for last.
        self._told_at = trio.current_time()

    async def run(self) -> None:
        """Until the newest block is the one that the incarnation is born of.

        Errors: Damaged where a block of that history is not valid here.
        """
        name, number, target = self._born.region, self._born.number, self._born.height
        if self.is_needed:
            first = self._executor.tip.height + 1
            log.warning("chain.rebuilding", chain=name, incarnation=number, target=target)
            await self._find_way()
            for height in range(first, target + 1):
                await self._execute(height)
                await self._on_block()
                self._tell(f"rebuilding {height} of {target}")
            log.warning("chain.rebuilt", chain=name, incarnation=number, height=target)
        tip = self._executor.tip
        if tip.height == target and tip.hash != self._born.hash:
            raise Damaged(
                f"GTX-DB-003: block {target} of {name} is {tip.hash.hex()[:16]} here, voters "
                f"named {self._born.hash.hex()[:16]}; start with an empty data folder"
            )
        await self._forget_fetched()

    @property
    def is_needed(self) -> bool:
        """Whether blocks are missing up to the one that the incarnation is born of."""
        return self._executor.tip.height < self._born.height

    # -- The way back ------------------------------------------------------------------------------

    async def _find_way(self) -> None:
        """See to it that all blocks of the right branch are here."""
        step = await trio.to_thread.run_sync(self._first_missing)
        while step is not None:
            self._tell(f"fetching the blocks below {step.height + 1}")
            step = await self._fetch(step)

    def _first_missing(self) -> _Step | None:
        """The highest block of the branch that is not here; None where nothing is missing."""
        step = _Step(self._born.height, self._born.hash)
        lowest = self._executor.store.lowest_fetched()
        if lowest is not None:
            fetched = self._executor.store.fetched(lowest)
            assert fetched is not None  # Both rows are of one batch.
            step = _Step(lowest - 1, decode_block(fetched[0]).header.parent_hash)
        return None if self._joins(step) else step

    def _joins(self, step: _Step) -> bool:
        """Whether the block of a step and all before it are here."""
        if step.height <= self._executor.tip.height:
            return True
        for store in self._former:
            if store.height_of(step.hash) == step.height:
                self._source = store
                return True
        return False

    async def _fetch(self, step: _Step) -> _Step | None:
        """Ask one neighbour after the other for a block and those before it; where to go on.

        First the one that had the blocks above: silent strangers cost their time once.
        """
        while True:
            for peer in sorted(self._neighbours(), key=lambda one: one != self._giver):
                if peer in self._liars:
                    continue
                request = AncestryRequest(self._born.region, step.hash, MAX_BLOCKS_PER_REQUEST)
                try:
                    raw = await self._ask(peer, "ancestry", encode(request))
                    following = await trio.to_thread.run_sync(partial(self._keep, step, raw))
                except (NetworkError, RequestRefused) as error:
                    log.debug("rebuild.refused", chain=self._born.region, why=str(error))
                except Rejected as error:
                    log.warning("rebuild.bad_peer", chain=self._born.region, why=error.detail)
                    self._report(peer, "malformed_response")
                else:
                    if following != step:
                        self._giver = peer
                        if step.height == self._born.height:
                            self._author = peer
                        return following
            self._tell(f"no peer has block {step.height} {step.hash.hex()[:16]}")
            await trio.sleep(RETRY_SECONDS)

    def _keep(self, step: _Step, raw: bytes) -> _Step | None:
        """Keep the blocks of an answer that are right; the first that is missing after them.

        Errors: Rejected where a block is not the one that its successor names.
        """
        response = decode(BlocksResponse, raw)
        kept: list[tuple[int, bytes, bytes]] = []
        following: _Step | None = step
        certificate = self._certificate_above(step)
        for one in response.blocks:
            if following is None:
                break
            block = decode_block(one.block)
            _check_is(following, block)
            kept.append((following.height, one.block, certificate or one.certificate))
            certificate = block.last_commit
            following = _Step(following.height - 1, block.header.parent_hash)
            if self._joins(following):
                following = None
        self._executor.store.save_fetched(kept)
        return following

    def _certificate_above(self, step: _Step) -> bytes | None:
        """The certificate of a step's block that its successor carries; None for the last one."""
        above = self._executor.store.fetched(step.height + 1)
        return None if above is None else decode_block(above[0]).last_commit

    # -- The way forth -----------------------------------------------------------------------------

    async def _execute(self, height: int) -> None:
        """Execute a block that is here, with its certificate. Errors: Damaged."""
        while True:
            raw, raw_certificate, is_fetched = await trio.to_thread.run_sync(self._load, height)
            block = decode_block(raw)
            transactions = await self._verified(block)
            try:
                certificate = decode(QuorumCertificate, raw_certificate)
                apply = partial(self._executor.apply_decided, block, transactions, certificate)
                await trio.to_thread.run_sync(apply)
            except Rejected as error:
                # Only the last block's certificate is a peer's word; all else hangs on its hash.
                if not is_fetched or height < self._born.height:
                    raise _impossible(self._born, height, error) from error
                log.warning("rebuild.bad_certificate", chain=self._born.region, why=error.detail)
                await self._fetch_last()
            else:
                return

    async def _fetch_last(self) -> None:
        """The last block anew, with another certificate than the one that a peer made up."""
        if self._author is not None:
            self._report(self._author, "invalid_block")
            self._liars[self._author] = None
        await self._forget_fetched()  # All but the last one is executed.
        await self._fetch(_Step(self._born.height, self._born.hash))

    def _load(self, height: int) -> tuple[bytes, bytes, bool]:
        fetched = self._executor.store.fetched(height)
        if fetched is not None:
            return *fetched, True
        source = self._source
        block = None if source is None else source.block(height)
        certificate = None if source is None else source.certificate(height)
        if not block or not certificate:
            raise Damaged(
                f"GTX-DB-003: block {height} of {self._born.region} is not readable; restore a "
                "backup or start with an empty data folder"
            )
        return block, certificate, False

    async def _verified(self, block: Block) -> list[Transaction]:
        """The transactions with good signatures: the executor misses those that are not there."""
        executor = self._executor
        decoded = await decode_and_verify_all(
            block.transactions, executor.stages, chain=executor.spec.name
        )
        return [one for one in decoded if isinstance(one, Transaction)]

    async def _forget_fetched(self) -> None:
        store = self._executor.store
        while (lowest := await trio.to_thread.run_sync(store.lowest_fetched)) is not None:
            last = min(lowest + FORGOTTEN_AT_ONCE - 1, self._born.height)
            await trio.to_thread.run_sync(store.forget_fetched, lowest, last)

    def _tell(self, what: str) -> None:
        if trio.current_time() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = trio.current_time()
            log.info("rebuild.progressed", chain=self._born.region, what=what)


def _check_is(step: _Step, block: Block) -> None:
    """Errors: Rejected where a block, or its body, is another one than that of the step."""
    header = block.header
    if (header.height, header.hash) != (step.height, step.hash):
        detail = f"block {header.height} {header.hash.hex()[:16]} is not the one asked for"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    ids = [transaction_id(raw) for raw in block.transactions]
    if not has_its_body(header, ids, block.last_commit, block.evidence, block.inbox):
        detail = f"the body is not the one that block {header.height} names"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)


def _impossible(born: Incarnation, height: int, error: Rejected) -> Damaged:
    return Damaged(
        f"GTX-SYNC-001: {born.region} is to go on from block {born.height}, but block {height} "
        f"before it is not valid here: {error.detail}. Voters have to name an earlier block"
    )
