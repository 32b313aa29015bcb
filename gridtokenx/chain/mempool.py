"""Transactions waiting for a block: checked by applying them, in the order they came.

The pool keeps one overlay over the head's state in which every waiting transaction is already
applied, so admission tells a sender exactly what a block would: nonce, balance, band, everything.
After each block what is left is applied again; what no longer applies is dropped with its reason.
Source: architecture 5, surface C 23.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from gridtokenx.chain.transaction import Transaction
from gridtokenx.primitives.errors import RETRYABLE, ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader

Apply = Callable[[Overlay, Transaction], object]
"""Applies one transaction to an overlay or raises Rejected (see `transition`)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait. A gap is a transaction whose predecessors have not come yet."""

    # What comes while the largest block fills and the next is decided. About 1.5 KB of memory each;
    # each is applied again after every block it waits.
    transactions: int = 40_000
    bytes: int = 32 * 1024 * 1024
    gaps: int = 4_096
    gaps_per_sender: int = 64
    rejected: int = 10_000


class Mempool:
    """Waiting transactions of one chain. Owned by that chain's executor."""

    def __init__(self, state: Reader, apply: Apply, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.rejected: dict[bytes, Rejected] = {}  # At the door: anybody can fill this table.
        self.dropped: dict[bytes, Rejected] = {}  # After their senders were told that they wait.
        self.turned_away: dict[bytes, Rejected] = {}  # Heard, and not taken by this node.
        self._in_vain: set[bytes] = set()  # Of those: refused at this head.
        self.next_nonces: dict[bytes, int] = {}  # Read by other threads: swapped whole on reset.
        self._nonces = self.next_nonces
        self._apply = apply
        self._pending = Overlay(state)
        self._has_effects_of_dropped = False
        self._waiting: dict[bytes, Transaction] = {}
        self._leaving: dict[bytes, Transaction] = {}  # What waited, while a reset goes through it.
        self._bytes = 0
        self._gaps: dict[bytes, dict[int, Transaction]] = {}
        self._gap_order: deque[tuple[bytes, int]] = deque()
        self._held: dict[bytes, Transaction] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, transaction_id: bytes) -> Transaction | None:
        """A waiting or held transaction. Any thread, also in the middle of a reset."""
        return (
            self._waiting.get(transaction_id)
            or self._leaving.get(transaction_id)
            or self._held.get(transaction_id)
        )

    def add(self, transaction: Transaction, *, heard: bool = False) -> list[Transaction]:
        """Admit a transaction whose signature is verified; return all that became ready.

        One that was `heard`, through gossip, and is ahead of its sender's nonce is held until its
        predecessors come, for gossip may overtake; a direct sender is told NONCE_GAP. A refusal of
        one that was heard is no news to anybody: another node has admitted it, and this one may be
        a block behind. It holds until the next block alone.
        Errors: DUPLICATE, MEMPOOL_FULL, and whatever applying it raises.
        """
        if transaction.id in self._waiting:
            raise Rejected(ErrorCode.DUPLICATE, "this transaction is already waiting")
        if self._is_full(transaction):
            detail = f"{len(self._waiting)} transactions are waiting; try again after a block"
            raise Rejected(ErrorCode.MEMPOOL_FULL, detail)
        if self._has_effects_of_dropped:
            self.reset(self._pending.base, ())
        try:
            self._admit(transaction)
        except Rejected as error:
            if error.code is ErrorCode.NONCE_GAP and heard:
                self._hold(transaction)
                return []
            if heard:
                self._turn_away(transaction.id, error)
            else:
                self._remember_rejection(transaction.id, error)
            raise
        return [transaction, *self._release(transaction.sender)]

    def take(self, max_count: int, max_bytes: int) -> list[Transaction]:
        """The first waiting transactions, in order, within both limits. They stay in the pool."""
        taken: list[Transaction] = []
        size = 0
        for transaction in self._waiting.values():
            size += len(transaction.encoded)
            if len(taken) >= max_count or size > max_bytes:
                break
            taken.append(transaction)
        return taken

    def reset(self, state: Reader, included: Collection[bytes]) -> list[tuple[bytes, Rejected]]:
        """Move to a new head: drop what was included, re-apply the rest, return what fell out."""
        left = [tx for key, tx in self._waiting.items() if key not in included]
        self._leaving = self._waiting
        self._pending, self._has_effects_of_dropped = Overlay(state), False
        self._waiting, self._bytes, self._nonces = {}, 0, {}
        self._in_vain = set()
        dropped = []
        for transaction in left:
            try:
                self._admit(transaction)
            except Rejected as error:
                self._remember_drop(transaction.id, error)
                dropped.append((transaction.id, error))
        for sender in list(self._gaps):
            self._release(sender)
        self._forget_stale_gaps()
        self.next_nonces, self._leaving = self._nonces, {}
        return dropped

    def holds(self, transaction_id: bytes) -> bool:
        """Whether a transaction is held until its sender's earlier nonces come."""
        return transaction_id in self._held

    def rejection(self, transaction_id: bytes) -> Rejected | None:
        """Why a transaction was refused or dropped here, while it is remembered."""
        return self.dropped.get(transaction_id) or self.rejected.get(transaction_id)

    def refuses(self, transaction_id: bytes) -> bool:
        """Whether it would be in vain to verify a transaction again at this head. Any thread.

        What was dropped for a reason that passes may come back.
        """
        dropped = self.dropped.get(transaction_id)
        for_good = dropped is not None and dropped.code not in RETRYABLE
        return for_good or transaction_id in self._in_vain

    def note_rejections(self, rejections: Iterable[tuple[bytes, Rejected]]) -> None:
        """Drop transactions that failed while a block was built, keeping why.

        Their senders may send other ones with the same nonces at once. What is left is applied
        again without them when the next transaction comes: after the proposal has gone out.
        """
        for key, error in rejections:
            gone = self._waiting.pop(key, None)
            if gone is not None:
                self._bytes -= len(gone.encoded)
                self._remember_drop(key, error)
                self._nonces[gone.sender] = min(self._nonces[gone.sender], gone.nonce)
                self._has_effects_of_dropped = True

    def _is_full(self, transaction: Transaction) -> bool:
        return (
            len(self._waiting) >= self.limits.transactions
            or self._bytes + len(transaction.encoded) > self.limits.bytes
        )

    def _admit(self, transaction: Transaction) -> None:
        attempt = Overlay(self._pending)
        self._apply(attempt, transaction)
        attempt.merge()
        self._waiting[transaction.id] = transaction
        self._bytes += len(transaction.encoded)
        self._nonces[transaction.sender] = transaction.nonce + 1
        self.rejected.pop(transaction.id, None)
        self.turned_away.pop(transaction.id, None)
        self.dropped.pop(transaction.id, None)

    def _hold(self, transaction: Transaction) -> None:
        held = self._gaps.setdefault(transaction.sender, {})
        full = len(held) >= self.limits.gaps_per_sender or len(self._gap_order) >= self.limits.gaps
        if full or transaction.nonce in held:
            if not held:
                del self._gaps[transaction.sender]
            raise Rejected(ErrorCode.NONCE_GAP, "too many transactions wait for earlier nonces")
        held[transaction.nonce] = transaction
        self._held[transaction.id] = transaction
        self._gap_order.append((transaction.sender, transaction.nonce))

    def _release(self, sender: bytes) -> list[Transaction]:
        """Admit held transactions of a sender as far as their nonces now follow."""
        released: list[Transaction] = []
        held = self._gaps.get(sender, {})
        while held:
            follower = held[min(held)]
            if self._is_full(follower):
                break
            try:
                self._admit(follower)
            except Rejected as error:
                if error.code is ErrorCode.NONCE_GAP:
                    break
                self._remember_rejection(follower.id, error)
            else:
                released.append(follower)
            self._gap_order.remove((sender, follower.nonce))
            self._drop_gap(sender, follower.nonce)
        return released

    def _drop_gap(self, sender: bytes, nonce: int) -> None:
        held = self._gaps[sender]
        del self._held[held.pop(nonce).id]
        if not held:
            del self._gaps[sender]

    def _forget_stale_gaps(self) -> None:
        """Gaps live until the oldest half of a full table is dropped: they hold no money."""
        if len(self._gap_order) * 2 < self.limits.gaps:
            return
        for _ in range(len(self._gap_order) >> 1):
            self._drop_gap(*self._gap_order.popleft())

    def _remember_rejection(self, key: bytes, error: Rejected) -> None:
        _remember(self.rejected, self.limits.rejected, key, error)

    def _turn_away(self, key: bytes, error: Rejected) -> None:
        _remember(self.turned_away, self.limits.rejected, key, error)
        if error.code not in RETRYABLE:
            if len(self._in_vain) >= self.limits.rejected:
                self._in_vain.clear()
            self._in_vain.add(key)

    def _remember_drop(self, key: bytes, error: Rejected) -> None:
        _remember(self.dropped, self.limits.transactions, key, error)


def _remember(table: dict[bytes, Rejected], most: int, key: bytes, error: Rejected) -> None:
    """Keep a reason; of a full table the oldest is forgotten."""
    if len(table) >= most:
        del table[next(iter(table))]
    # Not the error as raised: its traceback would keep every overlay it passed through.
    table[key] = Rejected(error.code, error.detail)
