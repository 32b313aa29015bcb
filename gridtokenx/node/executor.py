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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import NoReturn

from gridtokenx.chain.block import (
    MAX_BLOCK_TRANSACTIONS,
    Block,
    CompactBlock,
    compact,
    has_its_body,
)
from gridtokenx.chain.crossing import NationalView, check_slice, next_slice
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.light import SetChange
from gridtokenx.chain.state_tree import StateProof, StateTree, TreeUpdate
from gridtokenx.chain.transaction import Transaction, transaction_id
from gridtokenx.chain.transition import (
    MAX_TIME_AHEAD_MS,
    Execution,
    Parent,
    conviction_key,
    execute_block,
    propose_block,
)
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.consensus.certificates import CertificateChecker
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.node import crash_points
from gridtokenx.node.pending import Pending
from gridtokenx.node.tip import install_genesis, load_tip
from gridtokenx.node.undecided import Undecided
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import u64
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import BlockWrite, ChainStore, StateReader
from gridtokenx.storage.index import SET_CHANGES
from gridtokenx.trading.depth import Depth
from gridtokenx.views.stages import Stage, Stages

MAX_EVIDENCE = 64
NATIONAL_WAIT_MS = 100  # Until a national block that others know may have come here.
TRANSACTIONS_PER_SECOND = 2_000  # What a block may hold for each second of block time.
FILL_SHARE = 0.1  # Of the first view's time-out: how long a leader fills a block; roots come after.
FILL_CHUNK = 64


@dataclass(frozen=True, slots=True)
class NotYet:
    """A block that lies ahead of us; ask again at `until_ms`.

    `for_national`: not of our clock but of the national chain, so sooner if that moves on.
    """

    until_ms: int
    for_national: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """A block that is now on disk."""

    execution: Execution
    parent: Parent
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
        self._undecided = Undecided(spec, self.stages)
        self._evidence: dict[bytes, Evidence] = {}
        rate_limit = spec.genesis.block_time_ms * TRANSACTIONS_PER_SECOND // 1000
        self._max_transactions = min(MAX_BLOCK_TRANSACTIONS, rate_limit)
        if store.head() is None:
            install_genesis(spec, store, self._reader, self._tree)
        self._reader.kept(Depth)  # Built here, not while the first block's timer runs.
        self.tip = load_tip(spec, store, self._reader, self._tree.root)
        self.pending = Pending(self.tip, store, self._reader, self.stages, now_ms)

    def note_evidence(self, evidence: Evidence) -> None:
        """Keep what convicts a validator until it is in a block; this node adds it as leader."""
        if len(self._evidence) < MAX_EVIDENCE:
            self._evidence[conviction_key(evidence)] = evidence

    # -- Blocks ------------------------------------------------------------------------------------

    def build(self, view: int, proposer_index: int) -> CompactBlock:
        """Build, execute and keep the next block. Returns it as it is gossiped.

        Each view that has ended without a decision halves the block: it was perhaps more than the
        validators could execute in time.
        """
        most = min(self._max_transactions, len(self.pending)) >> view
        waiting = self.pending.take(max(most, FILL_CHUNK))
        execution = self._propose(view, proposer_index, waiting)
        try:
            self._keep(execution)
        except Rejected:
            unwritable = self._undecided.unwritable(execution, self.tip.totals)
            self.pending.drop(unwritable)
            out = {key for key, _ in unwritable}
            rest = [one for one in execution.transactions if one.id not in out]
            execution = self._propose(view, proposer_index, rest if out else [])
            self._keep(execution)
        return self._compact(execution)

    def _propose(self, view: int, proposer_index: int, waiting: Sequence[Transaction]) -> Execution:
        tip = self.tip
        with self.stages.measure(Stage.EXECUTE):
            execution, refused = propose_block(
                self.spec,
                self._reader,
                self._tree,
                tip.parent,
                view=view,
                proposer_index=proposer_index,
                time_ms=tip.next_time_ms(self._now_ms()),
                candidates=self._in_time(waiting),
                last_commit=tip.certificate,
                evidence=tuple(self._evidence.values()),
                taken=next_slice(self._national, self._reader, self.spec),
            )
        self.pending.postpone(refused)
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
        if block.header.hash in self._undecided:
            return
        self._check_last_commit(block)
        with self.stages.measure(Stage.EXECUTE):
            execution = execute_block(
                self.spec, self._reader, self._tree, self.tip.parent, block, transactions
            )
        self._keep(execution)

    def candidate(self, block_hash: bytes) -> Execution | None:
        """An executed, undecided block."""
        found = self._undecided.get(block_hash)
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
        if header.parent_hash != self.tip.hash:
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
        candidate = self._undecided[block_hash]
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
            self.store.write_block(write)
            crash_points.reach("after-commit")
            self._tree.apply(execution.tree)
            self._reader.absorb(execution.overlay.changed())
            finality_ms = max(0, self._now_ms() - header.time_ms)
            self.tip = self.tip.then(
                header,
                write.certificate,
                candidate.totals,
                state=self._reader,
                view=self.store.view(),
                finality_ms=None if is_fetched else finality_ms,
            )
        self._undecided.clear()
        self._decided = None
        for one in block.evidence:
            self._evidence.pop(conviction_key(one), None)
        dropped = self.pending.move_to(self.tip, frozenset(write.transaction_ids))
        return Committed(
            execution,
            self.tip.parent,
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
        height = self.tip.height
        detail = f"block {block.header.height} does not extend ours at {height}"
        if self._national is None:
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        raise Damaged(
            f"GTX-SYNC-001: the validators of {self.spec.name} have decided two blocks at height "
            f"{height}: ours is {self.tip.hash.hex()[:16]}, and "
            f"{block.header.parent_hash.hex()[:16]} goes on as well"
        )

    # -- Reads for other threads -------------------------------------------------------------------

    def prove(self, key: bytes) -> tuple[int, bytes | None, StateProof]:
        """(height, encoded value or None, proof) of a state key at the head. Any thread."""
        with self._tree_lock:
            value = self.store.load(key, bytes)
            return self.tip.height, value, self._tree.prove(key)

    # -- Inside ------------------------------------------------------------------------------------

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
        """Errors: INVALID_BLOCK where the index cannot hold the block."""
        self._undecided.keep(execution, self.tip.totals, self._max_transactions)

    def _compact(self, execution: Execution) -> CompactBlock:
        return compact(execution.block, [transaction.id for transaction in execution.transactions])

    def _check_last_commit(self, block: Block) -> None:
        """The block's copy of its parent's certificate. Errors: INVALID_BLOCK, -_CERTIFICATE."""
        if self.tip.height == 0:
            if block.last_commit:
                raise Rejected(ErrorCode.INVALID_BLOCK, "the first block has no parent certificate")
            return
        certificate = decode(QuorumCertificate, block.last_commit)
        self._check_commit(certificate, self.tip.height, self.tip.hash)

    def _check_commit(self, certificate: QuorumCertificate, height: int, block_hash: bytes) -> None:
        """Whether those who decide a height decided this block, for the chain id of then.

        Errors: INVALID_CERTIFICATE.
        """
        chain_id = self.spec.at(height).chain_id
        checker = self._checkers.get(chain_id)
        if checker is None:
            checker = self._checkers[chain_id] = CertificateChecker(chain_id, verify)
        checker.check_commit(certificate, height, block_hash, self.tip.sets.at(height).validators)
