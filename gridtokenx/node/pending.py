"""What waits for one chain's next block: checked as that block would, kept until it is in one.

Called from the executor's worker thread; what says "any thread" never waits for it.
Source: protocols/networking.md 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from gridtokenx.chain.mempool import Mempool
from gridtokenx.chain.transaction import Transaction
from gridtokenx.chain.transition import apply_transaction, check_sender
from gridtokenx.ledger import rules as ledger
from gridtokenx.node.tip import Tip
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay
from gridtokenx.storage.database import ChainStore, StateReader
from gridtokenx.views.stages import Stage, Stages

BLOCK_BYTES = 5 * 1024 * 1024  # Of transactions that a block is offered.
# What is missing of a sender may come with the transactions before.
_PASSING = (ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.INSUFFICIENT_BALANCE)


class Pending:
    """One chain's waiting transactions. `now_ms` is the node's wall clock in Unix ms."""

    def __init__(
        self,
        tip: Tip,
        store: ChainStore,
        reader: StateReader,
        stages: Stages,
        now_ms: Callable[[], int],
    ) -> None:
        """`reader` is the executor's, which caches."""
        self._tip = tip
        self._store, self._reader = store, reader
        self._stages = stages
        self._now_ms = now_ms
        self._environment = tip.next_environment(now_ms())
        self._mempool = Mempool(reader, self._apply)

    def __len__(self) -> int:
        return len(self._mempool)

    # -- Any thread --------------------------------------------------------------------------------

    def find(self, transaction_id: bytes) -> Transaction | None:
        """A waiting or held transaction. Any thread."""
        return self._mempool.get(transaction_id)

    def next_nonce(self, address: bytes) -> int:
        """The nonce an account's next transaction needs, counting what waits. Any thread.

        Never through the cached reader: a read that overtakes a commit must not fill its cache.
        """
        waiting = self._mempool.next_nonces.get(address)
        return ledger.account(self._store, address).nonce if waiting is None else waiting

    def status(self, transaction_id: bytes) -> Literal["pending", "queued"] | Rejected | None:
        """What is known of a transaction that the caller's view does not show. Any thread.

        A block's transactions leave the mempool a moment before its view is published: till then
        they wait. The caller has looked into its view first, so what is in a block is in a newer.
        """
        if self._mempool.holds(transaction_id):
            return "queued"
        if self.find(transaction_id) is not None or self._store.place_of(transaction_id):
            return "pending"
        return self._mempool.rejection(transaction_id)

    def turned_away(self, transaction_id: bytes) -> Rejected | None:
        """Why this node did not take a transaction that it heard of. Any thread.

        That decides nothing: it may have been a block behind whoever admitted it.
        """
        return self._mempool.turned_away.get(transaction_id)

    def refuses(self, transaction_id: bytes) -> bool:
        """Whether it would be in vain to verify a transaction again at this tip. Any thread."""
        return self._mempool.refuses(transaction_id)

    def check_share(self, transaction: Transaction) -> None:
        """Errors: MEMPOOL_FULL for one of a sender that has all waiting that it may. Any thread."""
        self._mempool.check_share(transaction)

    # -- Coming ------------------------------------------------------------------------------------

    def admit(
        self, transactions: Sequence[Transaction], *, heard: bool
    ) -> tuple[list[Rejected | None], list[Transaction]]:
        """Admit transactions with verified signatures, in order.

        Returns a verdict for each, and those that are new in the pool (to be gossiped).
        """
        verdicts: list[Rejected | None] = []
        fresh: list[Transaction] = []
        with self._stages.measure(Stage.ADMIT):
            self._environment = self._tip.next_environment(self._now_ms())
            for transaction in transactions:
                try:
                    fresh += self._admit(transaction, heard)
                except Rejected as error:
                    verdicts.append(error)
                else:
                    verdicts.append(None)
        return verdicts, fresh

    def screen(
        self, transactions: Sequence[Transaction]
    ) -> tuple[list[Transaction], list[tuple[Transaction, Rejected]]]:
        """Those heard that are worth verifying; and those that may be once the others are admitted,
        which may pay to their senders. The rest is turned away. Costs a third of a signature.
        """
        wanted: list[Transaction] = []
        doubtful: list[tuple[Transaction, Rejected]] = []
        with self._stages.measure(Stage.ADMIT):
            self._environment = self._tip.next_environment(self._now_ms())
            for transaction in transactions:
                try:
                    self._mempool.check_place(transaction)
                    check_sender(self._mempool.pending, transaction, self._environment)
                except Rejected as error:
                    if error.code in _PASSING:
                        doubtful.append((transaction, error))
                    elif error.code is not ErrorCode.DUPLICATE:
                        self._mempool.turn_away(transaction.id, error)
                else:
                    wanted.append(transaction)
        return wanted, doubtful

    def turn_away(self, refused: Iterable[tuple[Transaction, Rejected]]) -> None:
        """Remember why some that were heard are not taken."""
        for transaction, error in refused:
            self._mempool.turn_away(transaction.id, error)

    def _admit(self, transaction: Transaction, heard: bool) -> list[Transaction]:
        nonce = ledger.account(self._reader, transaction.sender).nonce
        # The place is on disk, so it is looked up only where the nonce allows for one.
        if transaction.nonce < nonce and self._store.place_of(transaction.id) is not None:
            raise Rejected(ErrorCode.DUPLICATE, "this transaction is in a block already")
        return self._mempool.add(transaction, heard=heard)

    def _apply(self, state: Overlay, transaction: Transaction) -> None:
        """Apply as the next block would; the reward account does not matter to admission."""
        apply_transaction(state, transaction, self._environment)

    # -- Leaving -----------------------------------------------------------------------------------

    def take(self, most: int) -> list[Transaction]:
        """At most so many for a block, as its places are shared. They stay here."""
        return self._mempool.take(most, BLOCK_BYTES)

    def postpone(self, refused: Iterable[tuple[bytes, Rejected]]) -> None:
        """Keep what did not apply while a block was built out of blocks until the next tip."""
        self._mempool.postpone(refused)

    def drop(self, rejections: Iterable[tuple[bytes, Rejected]]) -> None:
        """Drop transactions that no block can hold, keeping why."""
        self._mempool.drop(rejections)

    def move_to(self, tip: Tip, included: Collection[bytes]) -> list[tuple[bytes, Rejected]]:
        """Build on another block: forget what it holds, apply the rest again.

        Returns what fell out, with the reasons.
        """
        self._tip = tip
        with self._stages.measure(Stage.ADMIT):
            self._environment = tip.next_environment(self._now_ms())
            return self._mempool.reset(self._reader, included)
