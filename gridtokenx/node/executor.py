"""Owns one chain's state, tree and mempool: admits, proposes, checks, commits.

A region's chain may have had several incarnations: `spec` is that of the present one, and what a
block of the past belongs to (chain id, validators) is asked for by its height.

Plain synchronous code, called from one worker thread at a time (the driver's limiter); only `prove`
and the status snapshot are read from other threads. Source:
protocols/state-transition.md 5, protocols/consensus.md 2.6, 2.8, decision 0025.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Literal, NoReturn

from gridtokenx.chain.block import (
    MAX_BLOCK_TRANSACTIONS,
    Block,
    CompactBlock,
    Receipt,
    compact,
    decode_block,
    has_its_body,
)
from gridtokenx.chain.commands import Environment
from gridtokenx.chain.crossing import NationalView, check_slice, next_slice
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.light import SetChange
from gridtokenx.chain.mempool import Mempool
from gridtokenx.chain.state_tree import StateProof, StateTree, TreeUpdate
from gridtokenx.chain.transaction import Transaction, transaction_id
from gridtokenx.chain.transition import (
    MAX_TIME_AHEAD_MS,
    Execution,
    Parent,
    apply_transaction,
    check_sender,
    conviction_key,
    environment,
    execute_block,
    propose_block,
    signing_set,
)
from gridtokenx.chain.validator_sets import SetsAhead, current_set, sets_from
from gridtokenx.consensus.certificates import CertificateChecker
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.ledger import rules as ledger
from gridtokenx.node import crash_points
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay, u64
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import BlockWrite, ChainStore, StateReader
from gridtokenx.storage.index import SET_CHANGES, Totals, index_rows, load_totals
from gridtokenx.trading.depth import Depth
from gridtokenx.views.stages import Stage, Stages

MAX_CANDIDATES = 8
MAX_EVIDENCE = 64
NATIONAL_WAIT_MS = 100  # Until a national block that others know may have come here.
TRANSACTIONS_PER_SECOND = 2_000  # What a block may hold for each second of block time.
FINALITY_SAMPLES = 512
FILL_SHARE = 0.1  # Of the first view's time-out: how long a leader fills a block; roots come after.
FILL_CHUNK = 64
# What is missing of a sender may come with the transactions before.
_PASSING = (ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.INSUFFICIENT_BALANCE)


@dataclass(frozen=True, slots=True)
class NotYet:
    """A block that lies ahead of us; ask again at `until_ms`.

    `for_national`: not of our clock but of the national chain, so sooner if that moves on.
    """

    until_ms: int
    for_national: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An executed block with what its commit writes besides: index rows, and the totals after it.

    They are worked out here, before anybody votes: a block that cannot be written is never decided.
    """

    execution: Execution
    rows: tuple[tuple[bytes, bytes], ...]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Committed:
    """A block that is now on disk."""

    execution: Execution
    parent: Parent
    receipts: tuple[Receipt, ...]
    dropped: tuple[tuple[bytes, Rejected], ...]
    finality_ms: int
    seconds: float


class _MeasuredTree(StateTree):
    """The state tree, whose time is told apart from that of the rules."""

    def __init__(self, values: Iterable[tuple[bytes, bytes]], stages: Stages) -> None:
        self._stages = stages
        super().__init__(values)

    def update(self, changes: Iterable[tuple[bytes, bytes | None]]) -> TreeUpdate:
        with self._stages.measure(Stage.TREE):
            return super().update(changes)


class Executor:
    """One chain's executor. `now_ms` is the node's wall clock in Unix ms."""

    def __init__(
        self,
        spec: ChainSpec,
        store: ChainStore,
        now_ms: Callable[[], int],
        stages: Stages | None = None,
        national: NationalView | None = None,
    ) -> None:
        """Open the chain at its newest block, or install its genesis.

        `national`: the node's own national chain, of which a region's blocks take messages.
        Errors: Damaged when the stored state does not hash to the newest header's state root.
        """
        self.spec = spec
        self.stages = stages or Stages()
        self.store = store
        self._now_ms = now_ms
        self._national = national
        self._checkers: dict[bytes, CertificateChecker] = {}  # By chain id.
        self._decided: tuple[Block, QuorumCertificate] | None = None  # Checked for this parent.
        self._reader = StateReader(store)
        self._tree = _MeasuredTree(store.state_values(), self.stages)
        self._tree_lock = threading.Lock()
        self._candidates: dict[bytes, _Candidate] = {}
        self._evidence: dict[bytes, Evidence] = {}
        self.finality_ms: deque[int] = deque(maxlen=FINALITY_SAMPLES)
        rate_limit = spec.genesis.block_time_ms * TRANSACTIONS_PER_SECOND // 1000
        self._max_transactions = min(MAX_BLOCK_TRANSACTIONS, rate_limit)
        if store.head() is None:
            self._install_genesis()
        self._reader.kept(Depth)  # Built here, not while the first block's timer runs.
        self.parent = self._load_parent()
        self.sets = self._load_sets()
        self.totals: Totals = load_totals(store)
        self._pending_environment = self._next_environment()
        self.mempool = Mempool(self._reader, self._apply_pending)

    # -- Admission ---------------------------------------------------------------------------------

    def admit(
        self, transactions: Sequence[Transaction], *, heard: bool
    ) -> tuple[list[Rejected | None], list[Transaction]]:
        """Admit transactions with verified signatures, in order.

        Returns a verdict for each, and those that are new in the pool (to be gossiped).
        """
        verdicts: list[Rejected | None] = []
        fresh: list[Transaction] = []
        with self.stages.measure(Stage.ADMIT):
            self._pending_environment = self._next_environment()
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
        with self.stages.measure(Stage.ADMIT):
            self._pending_environment = self._next_environment()
            for transaction in transactions:
                try:
                    self.mempool.check_place(transaction)
                    check_sender(self.mempool.pending, transaction, self._pending_environment)
                except Rejected as error:
                    if error.code in _PASSING:
                        doubtful.append((transaction, error))
                    elif error.code is not ErrorCode.DUPLICATE:
                        self.mempool.turn_away(transaction.id, error)
                else:
                    wanted.append(transaction)
        return wanted, doubtful

    def _admit(self, transaction: Transaction, heard: bool) -> list[Transaction]:
        nonce = ledger.account(self._reader, transaction.sender).nonce
        # The place is on disk, so it is looked up only where the nonce allows for one.
        if transaction.nonce < nonce and self.store.place_of(transaction.id) is not None:
            raise Rejected(ErrorCode.DUPLICATE, "this transaction is in a block already")
        return self.mempool.add(transaction, heard=heard)

    def pending_nonce(self, address: bytes) -> int:
        """The nonce an account's next transaction needs, counting what waits. Any thread.

        Never through the cached reader: a read that overtakes a commit must not fill its cache.
        """
        waiting = self.mempool.next_nonces.get(address)
        return ledger.account(self.store, address).nonce if waiting is None else waiting

    def pending_status(
        self, transaction_id: bytes
    ) -> Literal["pending", "queued"] | Rejected | None:
        """What is known of a transaction that the caller's view does not show. Any thread.

        A block's transactions leave the mempool a moment before its view is published: till then
        they wait. The caller has looked into its view first, so what is in a block is in a newer.
        """
        if self.mempool.holds(transaction_id):
            return "queued"
        if self.mempool.get(transaction_id) is not None or self.store.place_of(transaction_id):
            return "pending"
        return self.mempool.rejection(transaction_id)

    def turned_away(self, transaction_id: bytes) -> Rejected | None:
        """Why this node did not take a transaction that it heard of. Any thread.

        That decides nothing: it may have been a block behind whoever admitted it.
        """
        return self.mempool.turned_away.get(transaction_id)

    def _apply_pending(self, state: Overlay, transaction: Transaction) -> None:
        """Apply as the next block would; the reward account does not matter to admission."""
        apply_transaction(state, transaction, self._pending_environment)

    def _next_environment(self) -> Environment:
        height = self.parent.height + 1
        spec, signers = self.spec.at(height), self.sets.at(height)
        return environment(spec, signers, self.parent, 0, self._time())

    def note_evidence(self, evidence: Evidence) -> None:
        """Keep what convicts a validator until it is in a block; this node adds it as leader."""
        if len(self._evidence) < MAX_EVIDENCE:
            self._evidence[conviction_key(evidence)] = evidence

    # -- Blocks ------------------------------------------------------------------------------------

    def build(self, view: int, proposer_index: int, last_commit: bytes) -> CompactBlock:
        """Build, execute and keep the next block. Returns it as it is gossiped.

        Each view that has ended without a decision halves the block: it was perhaps more than the
        validators could execute in time.
        """
        most = min(self._max_transactions, len(self.mempool)) >> view
        waiting = self.mempool.take(max(most, FILL_CHUNK), 5 * 1024 * 1024)
        execution = self._propose(view, proposer_index, last_commit, waiting)
        try:
            self._keep(execution)
        except Rejected:
            unwritable = self._unwritable(execution)
            self.mempool.drop(unwritable)
            out = {key for key, _ in unwritable}
            rest = [one for one in execution.transactions if one.id not in out]
            execution = self._propose(view, proposer_index, last_commit, rest if out else [])
            self._keep(execution)
        return self._compact(execution)

    def _propose(
        self, view: int, proposer_index: int, last_commit: bytes, waiting: Sequence[Transaction]
    ) -> Execution:
        with self.stages.measure(Stage.EXECUTE):
            execution, refused = propose_block(
                self.spec,
                self._reader,
                self._tree,
                self.parent,
                view=view,
                proposer_index=proposer_index,
                time_ms=self._time(),
                candidates=self._in_time(waiting),
                last_commit=last_commit,
                evidence=tuple(self._evidence.values()),
                taken=next_slice(self._national, self._reader, self.spec),
            )
        self.mempool.postpone(refused)
        return execution

    def check_fresh(self, block: Block, view: int, proposer_index: int) -> NotYet | None:
        """Vote-time rules for a block proposed for the first time. Errors: INVALID_BLOCK."""
        header = block.header
        if header.view0 != view or header.proposer_index != proposer_index:
            detail = (
                f"view0 {header.view0} and proposer {header.proposer_index} are not its leader's"
            )
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        if header.time_ms > self._now_ms() + MAX_TIME_AHEAD_MS:
            return NotYet(header.time_ms - MAX_TIME_AHEAD_MS)
        if not check_slice(self._national, self._reader, self.spec, block):
            return NotYet(self._now_ms() + NATIONAL_WAIT_MS, for_national=True)
        return None

    def check(self, block: Block, transactions: Sequence[Transaction]) -> None:
        """Execute a candidate whose transactions' signatures are verified, and keep the result.

        Errors: INVALID_BLOCK, INVALID_CERTIFICATE, or a transaction's own.
        """
        if block.header.hash in self._candidates:
            return
        self._check_last_commit(block)
        with self.stages.measure(Stage.EXECUTE):
            execution = execute_block(
                self.spec, self._reader, self._tree, self.parent, block, transactions
            )
        self._keep(execution)

    def candidate(self, block_hash: bytes) -> Execution | None:
        """An executed, undecided block."""
        found = self._candidates.get(block_hash)
        return None if found is None else found.execution

    def candidate_compact(self, block_hash: bytes) -> CompactBlock | None:
        """A candidate as it is gossiped."""
        execution = self.candidate(block_hash)
        return None if execution is None else self._compact(execution)

    def check_certificate(self, block: Block, certificate: QuorumCertificate) -> None:
        """Whether the validators decided this block. Errors: INVALID_CERTIFICATE."""
        self._check_commit(certificate, block.header.height, block.header.hash)

    def check_decided(self, block: Block, certificate: QuorumCertificate) -> None:
        """Whether this is the next block, decided by its validators, with the body it names.

        Costs a certificate and hashes, nothing for each signature: it comes before those.
        Else anybody could pair a good header with another body and make us think we are damaged.
        Errors: INVALID_BLOCK, INVALID_CERTIFICATE; Damaged where a region has two chains.
        Source: protocols/networking.md 3.2.
        """
        header, given = block.header, (block, certificate)
        if self._decided is not None and all(map(is_, self._decided, given)):
            return  # Checked before its transactions were verified.
        self.check_certificate(block, certificate)
        if header.parent_hash != self.parent.hash:
            self._refuse_branch(block)
        ids = [transaction_id(raw) for raw in block.transactions]
        if not has_its_body(header, ids, block.last_commit, block.evidence, block.inbox):
            detail = f"the body is not the one that decided block {header.height} names"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        self._decided = given

    def commit(
        self, block_hash: bytes, certificate: QuorumCertificate, *, is_fetched: bool = False
    ) -> Committed:
        """Put a decided candidate on disk in one synced batch and move the head to it.

        How late a fetched block arrives says nothing of how fast it was decided: no sample of it.
        """
        started = time.perf_counter()
        candidate = self._candidates[block_hash]
        execution, rows = candidate.execution, list(candidate.rows)
        header, block = execution.block.header, execution.block
        if header.next_set_hash != header.set_hash:
            following = current_set(execution.overlay, header.height + 1).validators
            change = SetChange(header, certificate, following)
            rows.append((SET_CHANGES + u64(header.height), encode(change)))
        write = BlockWrite(
            height=header.height,
            hash=header.hash,
            block=block.encoded,
            certificate=encode(certificate),
            transaction_ids=tuple(transaction.id for transaction in execution.transactions),
            state=list(execution.changes),
            index=rows,
        )
        with self.stages.measure(Stage.WRITE), self._tree_lock:
            crash_points.reach("before-commit")
            self.store.commit(write)
            crash_points.reach("after-commit")
            self._tree.commit(execution.tree)
            self.parent = Parent(header.height, header.hash, header.time_ms, header.state_root)
        self._reader.absorb(execution.overlay.changed())
        self._move_sets()
        self.totals = candidate.totals
        self._candidates.clear()
        self._decided = None
        for one in block.evidence:
            self._evidence.pop(conviction_key(one), None)
        with self.stages.measure(Stage.ADMIT):
            self._pending_environment = self._next_environment()
            dropped = self.mempool.reset(self._reader, frozenset(write.transaction_ids))
        finality_ms = max(0, self._now_ms() - header.time_ms)
        if not is_fetched:
            self.finality_ms.append(finality_ms)
        return Committed(
            execution,
            self.parent,
            execution.receipts,
            tuple(dropped),
            finality_ms,
            time.perf_counter() - started,
        )

    def apply_decided(
        self, block: Block, transactions: Sequence[Transaction], certificate: QuorumCertificate
    ) -> Committed:
        """Take over the next decided block from a peer (signatures verified).

        Errors: INVALID_CERTIFICATE, INVALID_BLOCK when the peer is wrong; Damaged when the
        certificate is good but our execution disagrees with it, or a region has two chains.
        """
        self.check_decided(block, certificate)
        try:
            self.check(block, transactions)
        except Rejected as error:
            raise Damaged(
                f"GTX-SYNC-001: {self.spec.name} block {block.header.height} was decided by the "
                f"validators, but here {error.detail}. The state of this node is damaged or its "
                "version is wrong; start with an empty data folder to fetch it again"
            ) from error
        return self.commit(block.header.hash, certificate, is_fetched=True)

    def _refuse_branch(self, block: Block) -> NoReturn:
        """A decided block that follows another block than ours.

        Of a region that is its validators' doing, not the peer's: honest nodes that follow one
        branch each must not fall out with each other.
        """
        height = self.parent.height
        detail = f"block {block.header.height} does not extend ours at {height}"
        if self._national is None:
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        raise Damaged(
            f"GTX-SYNC-001: the validators of {self.spec.name} have decided two blocks at height "
            f"{height}: ours is {self.parent.hash.hex()[:16]}, and "
            f"{block.header.parent_hash.hex()[:16]} goes on as well"
        )

    # -- Reads for other threads -------------------------------------------------------------------

    def prove(self, key: bytes) -> tuple[int, bytes | None, StateProof]:
        """(height, encoded value or None, proof) of a state key at the head. Any thread."""
        with self._tree_lock:
            value = self.store.load(key, bytes)
            return self.parent.height, value, self._tree.prove(key)

    # -- Inside ------------------------------------------------------------------------------------

    def _time(self) -> int:
        """The next block's time if it were built now."""
        return max(self.spec.opens_ms(self.parent.time_ms), self._now_ms())

    def _in_time(self, candidates: Sequence[Transaction]) -> Iterator[Transaction]:
        """Candidates for as long as a block may take to fill.

        On a machine that is too slow for its load, or is busy with other work, blocks become
        smaller, so that all can execute them within a view; else no view would decide, and each
        new leader would begin with yet another block.
        """
        end_s = time.monotonic() + self.spec.genesis.timeout_base_ms / 1000 * FILL_SHARE
        for number, transaction in enumerate(candidates):
            if number % FILL_CHUNK == FILL_CHUNK - 1 and time.monotonic() > end_s:
                return
            yield transaction

    def _keep(self, execution: Execution) -> None:
        """The oldest make room: by transactions, too, of which each takes 4.4 KB here.

        Each view halves the block, so all views of a height fit in twice the largest block.
        Errors: INVALID_BLOCK where the index cannot hold the block.
        """
        rows, totals = self._index(execution, execution.transactions, execution.receipts)
        waiting = len(execution.transactions)
        waiting += sum(len(one.execution.transactions) for one in self._candidates.values())
        while self._candidates and (
            len(self._candidates) >= MAX_CANDIDATES or waiting > 2 * self._max_transactions
        ):
            oldest = self._candidates.pop(next(iter(self._candidates)))
            waiting -= len(oldest.execution.transactions)
        self._candidates[execution.block.header.hash] = _Candidate(execution, tuple(rows), totals)

    def _index(
        self,
        execution: Execution,
        transactions: Sequence[Transaction],
        receipts: Sequence[Receipt],
    ) -> tuple[list[tuple[bytes, bytes]], Totals]:
        """What the API's index holds of a block, or of some of its transactions."""
        header = execution.block.header
        market_ms = self.spec.market_time_ms(header.height, header.time_ms)
        with self.stages.measure(Stage.INDEX):
            return index_rows(
                header.height, header.time_ms, market_ms, transactions, receipts, self.totals
            )

    def _unwritable(self, execution: Execution) -> list[tuple[bytes, Rejected]]:
        """The transactions of a block that the index cannot hold, each looked at alone."""
        found = []
        # Receipt 0 is that of the block's own work.
        for transaction, receipt in zip(
            execution.transactions, execution.receipts[1:], strict=True
        ):
            try:
                self._index(execution, [transaction], [receipt])
            except Rejected as error:
                found.append((transaction.id, error))
        return found

    def _compact(self, execution: Execution) -> CompactBlock:
        return compact(execution.block, [transaction.id for transaction in execution.transactions])

    def _check_last_commit(self, block: Block) -> None:
        """The block's copy of its parent's certificate. Errors: INVALID_BLOCK, -_CERTIFICATE."""
        if self.parent.height == 0:
            if block.last_commit:
                raise Rejected(ErrorCode.INVALID_BLOCK, "the first block has no parent certificate")
            return
        certificate = decode(QuorumCertificate, block.last_commit)
        self._check_commit(certificate, self.parent.height, self.parent.hash)

    def _check_commit(self, certificate: QuorumCertificate, height: int, block_hash: bytes) -> None:
        """Whether those who decide a height decided this block, for the chain id of then.

        Errors: INVALID_CERTIFICATE.
        """
        chain_id = self.spec.at(height).chain_id
        checker = self._checkers.get(chain_id)
        if checker is None:
            checker = self._checkers[chain_id] = CertificateChecker(chain_id, verify)
        checker.check_commit(certificate, height, block_hash, self.sets.at(height).validators)

    def _install_genesis(self) -> None:
        overlay = Overlay(self._reader)
        self.spec.install(overlay)
        changes = overlay.changes()
        update = self._tree.update(changes)
        self.store.commit(
            BlockWrite(
                height=0,
                hash=self.spec.genesis_id,
                block=b"",
                certificate=b"",
                transaction_ids=(),
                state=changes,
            )
        )
        self._tree.commit(update)
        self._reader.absorb(overlay.changed())

    def _load_sets(self) -> SetsAhead:
        """The sets that sign the newest block and all later ones, as far as they are ordered.

        Where an incarnation begins with the next block, its members sign it, and nothing that was
        ordered before counts.
        """
        height = self.parent.height
        ahead = sets_from(self._reader, height, self.spec.genesis.epoch_blocks)
        if self.spec.born_at(height + 1) is None:
            return ahead
        past = tuple(one for one in ahead.scheduled if one.first_height <= height)
        born = signing_set(self.spec, self._reader, height + 1)
        return SetsAhead((*past, born), ahead.epoch_blocks)

    def _move_sets(self) -> None:
        """Keep the object while nothing changes: it remembers its leaders."""
        fresh = self._load_sets()
        if fresh.scheduled != self.sets.scheduled:
            self.sets = fresh

    def _load_parent(self) -> Parent:
        head = self.store.head()
        assert head is not None  # _install_genesis wrote it
        height, block_hash = head
        if height == 0:
            ours = self.spec.genesis_id
            if block_hash != ours:
                raise Damaged(
                    f"GTX-DB-003: the data folder belongs to another {self.spec.name} chain: "
                    f"its genesis is {block_hash.hex()[:16]}, ours {ours.hex()[:16]}"
                )
            genesis_time_ms = self.spec.genesis.genesis_time_ms
            return Parent(0, block_hash, genesis_time_ms, self._tree.root)
        raw = self.store.block(height)
        header = decode_block(raw).header if raw else None
        chain_id = self.spec.at(height).chain_id
        if header is None or header.hash != block_hash or header.chain_id != chain_id:
            raise Damaged(f"GTX-DB-003: block {height} of {self.spec.name} is not readable")
        if header.state_root != self._tree.root:
            raise Damaged(
                f"GTX-DB-003: the state of {self.spec.name} hashes to {self._tree.root.hex()[:16]},"
                f" block {height} says {header.state_root.hex()[:16]}; restore a backup or start "
                "with an empty data folder"
            )
        return Parent(height, block_hash, header.time_ms, header.state_root)
