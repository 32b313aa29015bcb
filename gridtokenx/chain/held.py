"""Transactions that gossip brought before their predecessors. Source: protocols/networking.md 4.3.

They have paid for nothing yet, so they are few, small and soon forgotten, and nobody passes them
on: whoever sent them sends them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from gridtokenx.chain.transaction import Transaction
from gridtokenx.governance.model import Propose
from gridtokenx.interchain.model import SubmitCheckpoint
from gridtokenx.primitives.errors import ErrorCode, Rejected

NEVER_HELD = (SubmitCheckpoint, Propose)  # The only ones of more than 4 KiB.


@dataclass(frozen=True, slots=True)
class HeldLimits:
    """How much may be held, for how many blocks."""

    transactions: int = 4_096
    bytes: int = 2 * 1024 * 1024
    sender_transactions: int = 64
    sender_bytes: int = 64 * 1024
    transaction_bytes: int = 16 * 1024
    blocks: int = 3


class Held:
    """Transactions ahead of their senders' nonces, oldest first."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, tuple[int, Transaction]] = {}  # With the height when it came.
        self._by_sender: dict[bytes, dict[int, Transaction]] = {}
        self._bytes = 0
        self._height = 0  # Blocks since the pool began.

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def size_bytes(self) -> int:
        """Of all encoded transactions here."""
        return self._bytes

    def get(self, transaction_id: bytes) -> Transaction | None:
        """One that is held. Any thread."""
        found = self._by_id.get(transaction_id)
        return None if found is None else found[1]

    def senders(self) -> list[bytes]:
        """Of whom anything is held."""
        return list(self._by_sender)

    def first(self, sender: bytes) -> Transaction | None:
        """A sender's held transaction with the lowest nonce."""
        own = self._by_sender.get(sender)
        return own[min(own)] if own else None

    def add(self, transaction: Transaction, limits: HeldLimits) -> None:
        """Errors: NONCE_GAP for one that may not be held, or not any more."""
        size = len(transaction.encoded)
        if isinstance(transaction.payload, NEVER_HELD) or size > limits.transaction_bytes:
            detail = f"a transaction of {size} bytes waits for no earlier nonce; send those first"
            raise Rejected(ErrorCode.NONCE_GAP, detail)
        own = self._by_sender.get(transaction.sender, {})
        own_bytes = sum(len(one.encoded) for one in own.values())
        if (
            transaction.nonce in own
            or len(own) >= limits.sender_transactions
            or len(self._by_id) >= limits.transactions
            or own_bytes + size > limits.sender_bytes
            or self._bytes + size > limits.bytes
        ):
            detail = f"nonce {transaction.nonce} finds no place to wait for earlier ones"
            raise Rejected(ErrorCode.NONCE_GAP, detail)
        self._by_sender.setdefault(transaction.sender, own)[transaction.nonce] = transaction
        self._by_id[transaction.id] = (self._height, transaction)
        self._bytes += size

    def remove(self, transaction: Transaction) -> None:
        """It waits now, or never will."""
        del self._by_id[transaction.id]
        own = self._by_sender[transaction.sender]
        del own[transaction.nonce]
        if not own:
            del self._by_sender[transaction.sender]
        self._bytes -= len(transaction.encoded)

    def forget(self, limits: HeldLimits) -> None:
        """After a block: what has been here for `limits.blocks` goes."""
        self._height += 1
        while self._by_id:
            since, oldest = next(iter(self._by_id.values()))
            if self._height - since < limits.blocks:
                return
            self.remove(oldest)
