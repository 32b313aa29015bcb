"""Builds and checks the blocks that one chain's engine asks for, beside its inbox.

All of it runs in the executor's worker thread and comes back as events, so timers stay true.
Source: protocols/consensus.md 2.6.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
import trio

from gridtokenx.chain.block import Block, CompactBlock
from gridtokenx.chain.transaction import Transaction
from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    BuildBlock,
    CheckBlock,
    Event,
    Verdict,
)
from gridtokenx.consensus.state import HeightState
from gridtokenx.node.candidates import Candidates
from gridtokenx.node.executor import Executor, NotYet
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.worker import Urgency, Worker

NATIONAL_PATIENCE_S = 1.0

log = structlog.get_logger(__name__)


class BlockWork:
    """One chain's. `state` gives the engine's height; `tell` hands it an event; `next_national`
    gives the event that the next national block sets.
    """

    def __init__(
        self,
        executor: Executor,
        candidates: Candidates,
        worker: Worker,
        wiring: Wiring,
        *,
        state: Callable[[], HeightState | None],
        may_propose: Callable[[], bool],
        next_national: Callable[[], trio.Event],
        tell: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._executor = executor
        self._candidates = candidates
        self._worker = worker
        self._wiring = wiring
        self._state = state
        self._tell = tell
        self._may_propose = may_propose
        self._next_national = next_national
        self._checking: set[tuple[bytes, bool]] = set()

    async def build(self, effect: BuildBlock) -> None:
        """Build the next block, unless its view is over meanwhile."""
        state = self._state()
        if not self._may_propose() or state is None or state.me is None:
            return
        proposer_index = state.me

        def build() -> CompactBlock | None:
            if self._executor.tip.height + 1 != effect.height or self._is_past(effect):
                return None
            return self._executor.build(effect.view, proposer_index)

        block = await self._worker.run(build, Urgency.CONSENSUS)
        if block is not None:
            self._candidates.add_compact(block)
            await self._tell(BlockBuilt(effect.height, effect.view, block.header.hash))

    async def check(self, check: CheckBlock) -> None:
        """Find a proposed block and execute it. One at a time of each: the engine asks again while
        this looks for the body.
        """
        key = (check.block_hash, check.fresh)
        if key in self._checking:
            return
        self._checking.add(key)
        try:
            if check.fresh:
                self._candidates.note_proposal(check.height, check.view, check.block_hash)
            found = await self._candidates.find(check.block_hash)
            if found is not None and self._executor.tip.height + 1 == check.height:
                await self._check(check, *found)
        finally:
            self._checking.discard(key)

    async def execute_again(self, block_hash: bytes) -> None:
        """A block that a flood of proposals evicted after it was checked."""
        found = await self._candidates.find(block_hash)
        if found is not None:
            with contextlib.suppress(Rejected):  # Sync moved on meanwhile.
                await self._worker.run(partial(self._executor.check, *found), Urgency.CONSENSUS)

    async def _check(
        self, check: CheckBlock, block: Block, transactions: Sequence[Transaction]
    ) -> None:
        try:
            found_out = await self._judge(check, block, transactions)
        except Rejected as error:
            if self._executor.tip.height + 1 != check.height:
                return
            name = self._executor.spec.name
            log.warning("block.invalid", chain=name, height=check.height, why=error.detail)
            found_out = Verdict.INVALID
        if isinstance(found_out, NotYet):
            until_ms = found_out.until_ms - self._wiring.origin_ms
            await self._tell(BlockChecked(check, Verdict.NOT_YET, until_ms))
        elif found_out is not None:
            await self._tell(BlockChecked(check, found_out))

    async def _judge(
        self, check: CheckBlock, block: Block, transactions: Sequence[Transaction]
    ) -> Verdict | NotYet | None:
        """None where the view that asked is over. Errors: Rejected.

        A block that is ahead of our national chain waits a moment for it.
        """

        def execute() -> Verdict | NotYet | None:
            if check.fresh and self._is_past(check):
                return None
            if check.fresh:
                later = self._executor.check_fresh(block, check.view, check.proposer_index)
                if later is not None:
                    return later
            self._executor.check(block, transactions)
            return Verdict.VALID

        moved = self._next_national()
        found_out = await self._worker.run(execute, Urgency.CONSENSUS)
        if not isinstance(found_out, NotYet) or not found_out.for_national:
            return found_out
        with trio.move_on_after(NATIONAL_PATIENCE_S):
            await moved.wait()
        return await self._worker.run(execute, Urgency.CONSENSUS)

    def _is_past(self, request: BuildBlock | CheckBlock) -> bool:
        """Whether the view that asked has ended while this waited for the worker.

        On a slow machine the blocks of ended views would else stand in the way of the next one.
        Once certified, such a block is asked for again, and then not as a fresh one.
        """
        state = self._state()
        return state is not None and (state.height, state.view) > (request.height, request.view)
