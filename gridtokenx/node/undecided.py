"""Blocks of one chain that are executed and not decided, with what their commit will write.

Index rows and totals are worked out here, before anybody votes: a block that cannot be written is
never decided. Source: protocols/consensus.md 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gridtokenx.chain.block import Receipt
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.transaction import Transaction
from gridtokenx.chain.transition import Execution
from gridtokenx.primitives.errors import Rejected
from gridtokenx.storage.index import index_rows
from gridtokenx.storage.totals import Totals
from gridtokenx.views.stages import Stage, Stages

MAX_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Candidate:
    """An executed block, with the index rows that its commit writes and the totals after it."""

    execution: Execution
    rows: tuple[tuple[bytes, bytes], ...]
    totals: Totals


class Undecided:
    """The candidates of one height; the executor alone changes them, any thread may look."""

    def __init__(self, spec: ChainSpec, stages: Stages) -> None:
        self._spec = spec
        self._stages = stages
        self._candidates: dict[bytes, Candidate] = {}  # By hash, the oldest first.

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._candidates

    def __len__(self) -> int:
        return len(self._candidates)

    def __getitem__(self, block_hash: bytes) -> Candidate:
        return self._candidates[block_hash]

    def get(self, block_hash: bytes) -> Candidate | None:
        """One that is kept. Any thread."""
        return self._candidates.get(block_hash)

    def keep(self, execution: Execution, before: Totals, largest: int) -> None:
        """Keep a block that builds on `before`. The oldest make room: by transactions, too, of
        which each takes 4.4 KB here.

        Each view halves the block, so all views of a height fit in twice the `largest` one.
        Errors: INVALID_BLOCK where the index cannot hold the block.
        """
        rows, totals = self._index(execution, execution.transactions, execution.receipts, before)
        kept = self._candidates
        waiting = len(execution.transactions)
        waiting += sum(len(one.execution.transactions) for one in kept.values())
        while kept and (len(kept) >= MAX_CANDIDATES or waiting > 2 * largest):
            oldest = kept.pop(next(iter(kept)))
            waiting -= len(oldest.execution.transactions)
        kept[execution.block.header.hash] = Candidate(execution, tuple(rows), totals)

    def unwritable(self, execution: Execution, before: Totals) -> list[tuple[bytes, Rejected]]:
        """The transactions of a block that the index cannot hold, each looked at alone."""
        found = []
        # Receipt 0 is that of the block's own work.
        for transaction, receipt in zip(
            execution.transactions, execution.receipts[1:], strict=True
        ):
            try:
                self._index(execution, [transaction], [receipt], before)
            except Rejected as error:
                found.append((transaction.id, error))
        return found

    def clear(self) -> None:
        """One is decided: those of its height are over."""
        self._candidates.clear()

    def _index(
        self,
        execution: Execution,
        transactions: Sequence[Transaction],
        receipts: Sequence[Receipt],
        before: Totals,
    ) -> tuple[list[tuple[bytes, bytes]], Totals]:
        """What the API's index holds of a block, or of some of its transactions."""
        header = execution.block.header
        market_ms = self._spec.market_time_ms(header.height, header.time_ms)
        with self._stages.measure(Stage.INDEX):
            return index_rows(
                header.height, header.time_ms, market_ms, transactions, receipts, before
            )
