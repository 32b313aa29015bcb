"""Transactions waiting for a block: checked by applying them, in the order they came.

The pool keeps one overlay over the head's state in which every waiting transaction is already
applied, so admission tells a sender exactly what a block would: nonce, balance, band, everything.
After each block what is left is applied again; what no longer applies is dropped with its reason.

Places, here and in blocks, are shared: between those that have a name on the chain and those that
have a balance only, and within each of the two by sender. Source: protocols/networking.md 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from gridtokenx.chain.held import Held, HeldLimits
from gridtokenx.chain.lanes import Lane, Queue, cost_of
from gridtokenx.chain.standing import Standing, standing_of
from gridtokenx.chain.transaction import Transaction
from gridtokenx.primitives.errors import RETRYABLE, ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, Reader

Apply = Callable[[Overlay, Transaction], object]
"""Applies one transaction to an overlay or raises Rejected (see `transition`)."""

# Of four places in the pool and in a block, while both classes wait.
BACKED_PLACES, PLAIN_PLACES = 3, 1
PLACES = BACKED_PLACES + PLAIN_PLACES
OFFICE_WEIGHT = 64  # A payment authority serves many households, a distributor many meters.
STANDING_BLOCKS = 16  # How long a sender that waits all the time keeps the class that it had.


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait. What a sender has waiting is counted as `lanes.cost_of` does."""

    # What comes while the largest block fills and the next is decided. About 1.5 KB of memory each;
    # each is applied again after every block it waits.
    transactions: int = 40_000
    bytes: int = 32 * 1024 * 1024
    # Also the most that one key has in a block while it is alone: blocks that it fills are large,
    # so the orders beside it wait for them. With twice as many their p99 goes from 2.4 to 3.9 s.
    sender_cost: int = 256
    office_cost: int = 16_384
    rejected: int = 10_000
    held: HeldLimits = field(default_factory=HeldLimits)


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
        self._backed, self._plain = Lane(), Lane()
        self._standings: dict[bytes, Standing] = {}
        self._standings_age = 0
        self._cut_short: set[bytes] = set()  # Senders of whom something made room since the block.
        self._held = Held()

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
        self._check_new(transaction)
        if self._has_effects_of_dropped:
            self._apply_again(self._pending.base, ())
        self.check_share(transaction)
        leaving = self._room_for(transaction)
        try:
            self._admit(transaction)
        except Rejected as error:
            if error.code is ErrorCode.NONCE_GAP and heard:
                self._held.add(transaction, self.limits.held)
                return []
            if heard:
                self.turn_away(transaction.id, error)
            else:
                self._remember_rejection(transaction.id, error)
            raise
        self._put_out(leaving)
        return [transaction, *self._release(transaction.sender)]

    @property
    def pending(self) -> Reader:
        """The state after all that waits. The executor's thread only, until the next call here."""
        if self._has_effects_of_dropped:
            self._apply_again(self._pending.base, ())
        return self._pending

    def check_place(self, transaction: Transaction) -> None:
        """Whether it would find a place, before it is verified. Errors: DUPLICATE, MEMPOOL_FULL."""
        self._check_new(transaction)
        self.check_share(transaction)
        self._room_for(transaction)

    def turn_away(self, transaction_id: bytes, error: Rejected) -> None:
        """Remember why one that was heard is not taken, and whether to look at it again before the
        next head."""
        _remember(self.turned_away, self.limits.rejected, transaction_id, error)
        if error.code not in RETRYABLE:
            if len(self._in_vain) >= self.limits.rejected:
                self._in_vain.clear()
            self._in_vain.add(transaction_id)

    def take(self, max_count: int, max_bytes: int) -> list[Transaction]:
        """What a block may hold, as its places are shared, within both limits. It stays here.

        Each sender's are in the order of their nonces. Costs what is taken, not what waits.
        """
        taken: list[Transaction] = []
        size = 0
        for transaction in self._in_turn():
            size += len(transaction.encoded)
            if len(taken) >= max_count or size > max_bytes:
                break
            taken.append(transaction)
        return taken

    def reset(self, state: Reader, included: Collection[bytes]) -> list[tuple[bytes, Rejected]]:
        """Move to a new head: drop what was included, re-apply the rest, return what fell out."""
        self._held.forget(self.limits.held)
        self._standings_age += 1
        if self._standings_age >= STANDING_BLOCKS:
            self._standings, self._standings_age = {}, 0
        dropped = self._apply_again(state, included)
        for sender in self._held.senders():
            self._release(sender)
        return dropped

    def holds(self, transaction_id: bytes) -> bool:
        """Whether a transaction is held until its sender's earlier nonces come."""
        return self._held.get(transaction_id) is not None

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

    def postpone(self, refused: Iterable[tuple[bytes, Rejected]]) -> None:
        """Keep what did not apply while a block was built, and what follows it, out of blocks until
        the next head.

        Its turn may have come before that of another sender whose transaction it builds on. What
        does not apply for another reason is dropped with that when all are applied again.
        """
        for key, _ in refused:
            transaction = self._waiting.get(key)
            queue = None if transaction is None else self._queue_of(transaction.sender)
            if transaction is not None and queue is not None:
                nonces = (transaction.nonce, queue.stopped_at)
                queue.stopped_at = min(one for one in nonces if one is not None)

    def drop(self, rejections: Iterable[tuple[bytes, Rejected]]) -> None:
        """Drop transactions that no block can hold, keeping why.

        Their senders may send other ones with the same nonces at once. What is left is applied
        again without them when the next transaction comes: after the proposal has gone out.
        """
        for key, error in rejections:
            gone = self._waiting.get(key)
            if gone is not None:
                self._leave(gone, error)
                self._has_effects_of_dropped = True

    # -- Shares ------------------------------------------------------------------------------------

    def _in_turn(self) -> Iterator[Transaction]:
        """Both classes, each with its places while the other waits too."""
        backed, plain = self._backed.walk(), self._plain.walk()
        next_backed, next_plain = next(backed, None), next(plain, None)
        spent_backed = spent_plain = 0
        while True:
            is_behind = spent_backed * PLAIN_PLACES <= spent_plain * BACKED_PLACES
            if next_backed is not None and (is_behind or next_plain is None):
                yield next_backed
                spent_backed += cost_of(next_backed)
                next_backed = next(backed, None)
            elif next_plain is not None:
                yield next_plain
                spent_plain += cost_of(next_plain)
                next_plain = next(plain, None)
            else:
                return

    def _standing(self, sender: bytes) -> Standing:
        found = self._standings.get(sender)
        return standing_of(self._pending, sender) if found is None else found

    def _lane(self, standing: Standing) -> Lane:
        return self._plain if standing is Standing.PLAIN else self._backed

    def _queue_of(self, sender: bytes) -> Queue | None:
        return self._backed.queue(sender) or self._plain.queue(sender)

    def check_share(self, transaction: Transaction) -> None:
        """Errors: MEMPOOL_FULL for a sender that has all waiting that it may. Any thread: it is
        cheap, so that what one key has too much of costs nobody a signature.
        """
        sender = transaction.sender
        if sender in self._cut_short:
            detail = "what this account had waiting last made room for others; wait for a block"
            raise Rejected(ErrorCode.MEMPOOL_FULL, detail)
        queue = self._queue_of(sender)
        if queue is None:
            return
        limits = self.limits
        most = limits.office_cost if queue.weight == OFFICE_WEIGHT else limits.sender_cost
        if queue.cost + cost_of(transaction) > most:
            detail = f"{len(queue.waiting)} of this account wait, as many as may; wait for a block"
            raise Rejected(ErrorCode.MEMPOOL_FULL, detail)

    def _room_for(self, transaction: Transaction) -> list[Transaction]:
        """What has to leave for one more: the last of whoever weighs most on the class.

        Those without a name never have more than their places, for all is applied again after each
        block; they have these whenever they want. Errors: MEMPOOL_FULL where the sender itself
        would weigh most.
        """
        size, plain = len(transaction.encoded), self._plain
        of_plain = self._excess(PLAIN_PLACES, plain.transactions, plain.bytes + size)
        of_all = self._excess(PLACES, len(self._waiting), plain.bytes + self._backed.bytes + size)
        if max(*of_plain, *of_all) <= 0:
            return []
        standing = self._standing(transaction.sender)
        own = self._lane(standing)
        is_owed = own is plain and max(of_plain) <= 0
        lane = self._backed if is_owed else own
        over, over_bytes = of_all if lane is self._backed else map(max, of_plain, of_all)
        if over <= 0 and over_bytes <= 0:
            return []
        heaviest = lane.heaviest()
        if heaviest is None or heaviest.sender == transaction.sender:
            raise self._is_full()
        out = heaviest.last(over, over_bytes)
        if len(out) < over or sum(len(one.encoded) for one in out) < over_bytes:
            raise self._is_full()
        if not is_owed:
            mine = own.queue(transaction.sender) or Queue(transaction.sender, _weight(standing))
            left = heaviest.cost - sum(map(cost_of, out))
            # Both as parts of what their weights entitle them to.
            if left * mine.weight < (mine.cost + cost_of(transaction)) * heaviest.weight:
                raise self._is_full()
        return out

    def _check_new(self, transaction: Transaction) -> None:
        if transaction.id in self._waiting:
            raise Rejected(ErrorCode.DUPLICATE, "this transaction is already waiting")

    def _excess(self, places: int, transactions: int, size: int) -> tuple[int, int]:
        """How many transactions and bytes go beyond some of the pool's places, with one more."""
        return (
            transactions + 1 - self.limits.transactions * places // PLACES,
            size - self.limits.bytes * places // PLACES,
        )

    def _is_full(self) -> Rejected:
        detail = f"{len(self._waiting)} transactions are waiting; try again after a block"
        return Rejected(ErrorCode.MEMPOOL_FULL, detail)

    def _put_out(self, transactions: Iterable[Transaction]) -> None:
        """Their effects stay in the overlay till the next head, so their senders wait till then."""
        for one in transactions:
            detail = "others, who had less waiting, took its place; send it again after a block"
            self._leave(one, Rejected(ErrorCode.MEMPOOL_FULL, detail))
            self._cut_short.add(one.sender)

    # -- Coming and going --------------------------------------------------------------------------

    def _admit(self, transaction: Transaction) -> None:
        attempt = Overlay(self._pending)
        self._apply(attempt, transaction)
        attempt.merge()
        sender = transaction.sender
        standing = self._standings[sender] = self._standing(sender)
        self._lane(standing).add(transaction, _weight(standing))
        self._waiting[transaction.id] = transaction
        if self._held.get(transaction.id) is not None:
            self._held.remove(transaction)
        self._nonces[sender] = transaction.nonce + 1
        self.rejected.pop(transaction.id, None)
        self.turned_away.pop(transaction.id, None)
        self.dropped.pop(transaction.id, None)

    def _leave(self, transaction: Transaction, why: Rejected) -> None:
        sender = transaction.sender
        del self._waiting[transaction.id]
        self._lane(self._standings[sender]).remove(transaction)
        self._nonces[sender] = min(self._nonces[sender], transaction.nonce)
        self._remember_drop(transaction.id, why)

    def _apply_again(
        self, state: Reader, included: Collection[bytes]
    ) -> list[tuple[bytes, Rejected]]:
        """All that waits but what was included. Who had something in the block comes last now."""
        left = [tx for key, tx in self._waiting.items() if key not in included]
        served = {tx.sender for key, tx in self._waiting.items() if key in included}
        order = [*self._backed.senders(), *self._plain.senders()]
        order.sort(key=lambda sender: sender in served)
        self._leaving = self._waiting
        self._pending, self._has_effects_of_dropped = Overlay(state), False
        self._waiting, self._nonces = {}, {}
        self._backed, self._plain = Lane(), Lane()
        self._in_vain, self._cut_short = set(), set()
        dropped = []
        for transaction in left:
            try:
                self.check_share(transaction)  # Who has lost an office has too many perhaps.
                self._admit(transaction)
            except Rejected as error:
                self._remember_drop(transaction.id, error)
                dropped.append((transaction.id, error))
        for lane in (self._backed, self._plain):
            lane.arrange(order)
        self._standings = {one: self._standings[one] for one in order if self._queue_of(one)}
        self.next_nonces, self._leaving = self._nonces, {}
        return dropped

    def _release(self, sender: bytes) -> list[Transaction]:
        """Admit held transactions of a sender as far as their nonces now follow."""
        released: list[Transaction] = []
        while (follower := self._held.first(sender)) is not None:
            try:
                self.check_share(follower)
                if self._room_for(follower):
                    break
                self._admit(follower)
            except Rejected as error:
                if error.code in (ErrorCode.NONCE_GAP, ErrorCode.MEMPOOL_FULL):
                    break
                self._remember_rejection(follower.id, error)
                self._held.remove(follower)
            else:
                released.append(follower)
        return released

    def _remember_rejection(self, key: bytes, error: Rejected) -> None:
        _remember(self.rejected, self.limits.rejected, key, error)

    def _remember_drop(self, key: bytes, error: Rejected) -> None:
        _remember(self.dropped, self.limits.transactions, key, error)


def _weight(standing: Standing) -> int:
    return OFFICE_WEIGHT if standing is Standing.OFFICE else 1


def _remember(table: dict[bytes, Rejected], most: int, key: bytes, error: Rejected) -> None:
    """Keep a reason; of a full table the oldest is forgotten."""
    if len(table) >= most:
        del table[next(iter(table))]
    # Not the error as raised: its traceback would keep every overlay it passed through.
    table[key] = Rejected(error.code, error.detail)
