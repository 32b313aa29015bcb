"""The state transition: a block's effect as a function of (state, block).

Source: protocols/state-transition.md 5.

A block begins with the market's own work (expiry, clearing of earlier orders, settlements that are
due), then applies its transactions in order. One that breaks a rule is not in a block: its proposer
leaves it out, and a block that contains one is invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gridtokenx.chain import national
from gridtokenx.chain.block import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_EVIDENCE,
    Block,
    Event,
    Header,
    Receipt,
    ValidatorConvicted,
    commit_hash,
    evidence_root,
    inbox_root,
    results_root,
    transactions_root,
)
from gridtokenx.chain.commands import Environment, begin_market, run_command
from gridtokenx.chain.crossing import NationalSlice, log_fields, take_slice
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.standing import is_backed
from gridtokenx.chain.state_tree import StateTree, TreeUpdate
from gridtokenx.chain.transaction import Transaction
from gridtokenx.chain.validator_sets import (
    ScheduledSet,
    begin_with_set,
    current_set,
    forget_sets,
    set_at,
)
from gridtokenx.consensus.evidence import Evidence, verify_evidence
from gridtokenx.interchain.model import Downward
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Account
from gridtokenx.primitives.codec import Bytes32, encode, wire
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.merkle import EMPTY_ROOT, append_peak, peaks_root
from gridtokenx.primitives.readable import check_all
from gridtokenx.primitives.state import Overlay, Reader, Table, u64
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.staking.model import FEES, Unbond
from gridtokenx.trading.matching import Watch

BLOCK_OVERHEAD_BYTES = 32 * 1024
MAX_TIME_AHEAD_MS = 500


@wire(43)
@dataclass(frozen=True, slots=True)
class HeaderHistory:
    """The Merkle mountain range over all earlier header hashes. Key b"" of HISTORY."""

    count: int
    peaks: tuple[Bytes32, ...]


@wire(45)
@dataclass(frozen=True, slots=True)
class Conviction:
    """An offence that is in the chain; its key is that of CONVICTIONS."""

    height: int  # of the block that carried the evidence


HISTORY = Table(b"ch", HeaderHistory)
CONVICTIONS = Table(b"ce", Conviction)  # key: validator, height u64, view u64, kind


@dataclass(frozen=True, slots=True)
class Parent:
    """What a block builds on: the newest decided block, or the genesis (height 0)."""

    height: int
    hash: bytes
    time_ms: int
    state_root: bytes


@dataclass(frozen=True, slots=True)
class BlockWork:
    """What a block carries besides transactions."""

    evidence: tuple[Evidence, ...]
    last_commit: bytes
    taken: NationalSlice | None

    @property
    def inbox(self) -> tuple[Downward, ...]:
        """The messages of the national chain in it."""
        return () if self.taken is None else self.taken.messages


@dataclass(frozen=True, slots=True)
class Execution:
    """A block's whole effect, kept under its hash until it is decided."""

    block: Block
    transactions: tuple[Transaction, ...]
    overlay: Overlay
    receipts: tuple[Receipt, ...]
    changes: tuple[tuple[bytes, bytes | None], ...]
    tree: TreeUpdate


def signing_set(spec: ChainSpec, state: Reader, height: int) -> ScheduledSet:
    """Who signs the block at `height`, the next one after `state`.

    The first block of an incarnation is signed by the members that voters gave it.
    """
    born = spec.born_at(height)
    if born is None:
        return current_set(state, height)
    members = sorted(born.members, key=lambda one: one.public_key)
    validators = ValidatorSet.of(Validator(one.public_key, one.weight) for one in members)
    return ScheduledSet(height, validators, tuple(one.account for one in members))


def environment(
    spec: ChainSpec, signers: ScheduledSet, parent: Parent, proposer_index: int, time_ms: int
) -> Environment:
    """The environment of the block after `parent`, which `signers` sign.

    Errors: INVALID_BLOCK when they have no such proposer.
    """
    height, accounts = parent.height + 1, signers.accounts
    if proposer_index >= len(accounts):
        raise Rejected(ErrorCode.INVALID_BLOCK, f"there is no validator {proposer_index}")
    return Environment(
        spec,
        height,
        spec.market_time_ms(height, time_ms),
        parent.hash,
        FEES if spec.is_national else accounts[proposer_index],
        signers.validators.members[proposer_index].public_key,
    )


def propose_block(
    spec: ChainSpec,
    state: Reader,
    tree: StateTree,
    parent: Parent,
    *,
    view: int,
    proposer_index: int,
    time_ms: int,
    candidates: Iterable[Transaction],
    last_commit: bytes,
    evidence: Iterable[Evidence] = (),
    taken: NationalSlice | None = None,
) -> tuple[Execution, list[tuple[bytes, Rejected]]]:
    """Build and execute the next block out of candidates (signatures verified).

    `taken` is what a region's block takes of the national chain; None takes nothing new.
    Returns the execution and the candidates that no longer apply, with their reasons.
    """
    spec = spec.at(parent.height + 1)
    signers = signing_set(spec, state, parent.height + 1)
    env = environment(spec, signers, parent, proposer_index, time_ms)
    overlay = Overlay(state)
    convicting = _admissible(state, evidence, env)
    work = BlockWork(convicting, last_commit, taken)
    receipts = [_begin(overlay, env, work)]
    included, refused = [], []
    carried = (*convicting, *work.inbox)
    size = BLOCK_OVERHEAD_BYTES + len(last_commit) + sum(len(encode(one)) for one in carried)
    for transaction in candidates:
        size += len(transaction.encoded) + 8
        if size > MAX_BLOCK_BYTES:
            break
        try:
            receipts.append(_apply_atomically(overlay, transaction, env))
        except Rejected as error:
            refused.append((transaction.id, error))
        else:
            included.append(transaction)
    header = _header(
        spec,
        signers,
        parent,
        view=view,
        proposer_index=proposer_index,
        time_ms=time_ms,
        commit=last_commit,
    )
    receipts[0] = _end(overlay, env, receipts[0])
    execution = _seal(header, included, work, overlay, receipts, tree)
    return execution, refused


def execute_block(
    spec: ChainSpec,
    state: Reader,
    tree: StateTree,
    parent: Parent,
    block: Block,
    transactions: Sequence[Transaction],
    *,
    watch: Watch | None = None,
) -> Execution:
    """Execute a block whose transactions' signatures are verified, and compare every root.

    `watch` sees each clearing of the market begin.
    Errors: INVALID_BLOCK naming the first field that differs, or the transaction's own error.
    """
    header = block.header
    # The body may have been put together from single transactions, so nobody has measured it yet.
    if len(block.encoded) > MAX_BLOCK_BYTES:
        detail = f"the block has {len(block.encoded)} bytes, at most {MAX_BLOCK_BYTES} allowed"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    if header.time_ms < spec.opens_ms(parent.time_ms):
        detail = f"time {header.time_ms} lies before the slot after its parent's {parent.time_ms}"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    spec = spec.at(parent.height + 1)
    signers = signing_set(spec, state, parent.height + 1)
    env = environment(spec, signers, parent, header.proposer_index, header.time_ms)
    env = replace(env, watch=watch)
    overlay = Overlay(state)
    taken = NationalSlice(header.root_height, header.root_hash, block.inbox)
    work = BlockWork(block.evidence, block.last_commit, taken)
    receipts = [_begin(overlay, env, work)]
    receipts += [_apply_atomically(overlay, transaction, env) for transaction in transactions]
    expected = _header(
        spec,
        signers,
        parent,
        view=header.view0,
        proposer_index=header.proposer_index,
        time_ms=header.time_ms,
        commit=block.last_commit,
    )
    receipts[0] = _end(overlay, env, receipts[0])
    execution = _seal(expected, transactions, work, overlay, receipts, tree)
    _compare(header, execution.block.header)
    return replace(execution, block=block)


def apply_transaction(
    state: Overlay, transaction: Transaction, env: Environment
) -> Sequence[Event]:
    """One transaction's effect; changes `state` also where it raises, so give it an overlay.

    Errors: WRONG_CHAIN, ACCOUNT_NOT_FOUND, NONCE_TOO_LOW, NONCE_GAP, INSUFFICIENT_BALANCE, its
    command's own, BELOW_MINIMUM.
    """
    _check_chain(transaction, env)
    sender = transaction.sender
    before = ledger.check_exists(state, sender, is_backed)
    ledger.use_nonce(state, sender, transaction.nonce)
    ledger.pay_fee(state, sender, env.reward_account, transaction.fee_ugtx)
    events = run_command(state, transaction, env)
    if not isinstance(transaction.payload, Unbond):  # Stake can always leave; it is paid out later.
        ledger.check_keeps_minimum(state, sender, before, is_backed)
    return events


def check_sender(state: Reader, transaction: Transaction, env: Environment) -> None:
    """What is plain before a command is applied and before its signature is verified.

    A nonce may be ahead: what comes before it may be on its way. Its words name no address, to
    write one takes as long as a signature. Errors: WRONG_CHAIN, ACCOUNT_NOT_FOUND, NONCE_TOO_LOW,
    INSUFFICIENT_BALANCE for the fee.
    """
    _check_chain(transaction, env)
    sender = ledger.account(state, transaction.sender)
    if sender == Account() and not is_backed(state, transaction.sender):
        raise Rejected(ErrorCode.ACCOUNT_NOT_FOUND, "the sender is no account of this chain")
    if transaction.nonce < sender.nonce:
        detail = f"nonce {transaction.nonce} is spent, expected {sender.nonce}"
        raise Rejected(ErrorCode.NONCE_TOO_LOW, detail)
    if transaction.fee_ugtx > sender.gtx_ugtx:
        detail = f"the fee is {transaction.fee_ugtx} ugtx, the sender has {sender.gtx_ugtx}"
        raise Rejected(ErrorCode.INSUFFICIENT_BALANCE, detail)


def _check_chain(transaction: Transaction, env: Environment) -> None:
    if transaction.chain_id != env.spec.chain_id:
        detail = (
            f"signed for chain {transaction.chain_id.hex()[:16]}, this is {env.spec.name} "
            f"{env.spec.chain_id.hex()[:16]}"
        )
        raise Rejected(ErrorCode.WRONG_CHAIN, detail)


def conviction_key(evidence: Evidence) -> bytes:
    """What makes an offence the same one: validator, height, view, kind."""
    place = u64(evidence.height) + u64(evidence.view)
    return evidence.public_key + place + bytes([evidence.kind])


def check_evidence(state: Reader, evidence: Evidence, env: Environment) -> None:
    """Errors: MALFORMED, NOT_PERMITTED, BAD_SIGNATURE; EXPIRED outside the window; DUPLICATE."""
    window_blocks = env.spec.genesis.evidence_window_blocks
    accused = set_at(state, evidence.height)
    if accused is None or not env.height - window_blocks <= evidence.height <= env.height:
        detail = f"evidence of height {evidence.height} is outside the window at {env.height}"
        raise Rejected(ErrorCode.EXPIRED, detail)
    if CONVICTIONS.get(state, conviction_key(evidence)) is not None:
        raise Rejected(ErrorCode.DUPLICATE, "this offence is in the chain already")
    verify_evidence(evidence, env.spec.at(evidence.height).chain_id, accused.validators)


def _admissible(
    state: Reader, evidence: Iterable[Evidence], env: Environment
) -> tuple[Evidence, ...]:
    """The pieces of evidence that a block may carry, at most 16, each offence once."""
    chosen: dict[bytes, Evidence] = {}
    for one in evidence:
        try:
            check_evidence(state, one, env)
        except Rejected:
            continue  # Carried already, or too old: nobody waits for an answer.
        chosen.setdefault(conviction_key(one), one)
    return tuple(chosen.values())[:MAX_BLOCK_EVIDENCE]


def _convict(overlay: Overlay, evidence: Iterable[Evidence], env: Environment) -> list[Event]:
    """Record offences; stake is slashed. An authority is not removed: of four, f would be 0."""
    events: list[Event] = []
    for one in evidence:
        check_evidence(overlay, one, env)
        CONVICTIONS.put(overlay, conviction_key(one), Conviction(env.height))
        events.append(ValidatorConvicted(one.public_key, one.kind, one.height, one.view))
        accused = set_at(overlay, one.height)
        if env.spec.is_national and accused is not None:
            epoch_blocks = env.spec.genesis.epoch_blocks
            events += national.punish(
                overlay, one, accused.validators, height=env.height, epoch_blocks=epoch_blocks
            )
    return events


def _begin(overlay: Overlay, env: Environment, work: BlockWork) -> Receipt:
    """The block's own work: parent, evidence; on the national chain stake and votes; on a region
    the messages it takes, then the market's expiry, clearing, deadlines.
    """
    spec, height = env.spec, env.height
    history = HISTORY.get(overlay, b"") or HeaderHistory(0, ())
    peaks = append_peak(history.peaks, history.count, env.parent_hash)
    HISTORY.put(overlay, b"", HeaderHistory(history.count + 1, peaks))
    if spec.born_at(height) is not None:
        signers = signing_set(spec, overlay, height)
        begin_with_set(overlay, signers.validators, signers.accounts, height=height)
    forget_sets(overlay, height, spec.genesis.evidence_window_blocks)
    events = _convict(overlay, work.evidence, env)
    events += take_slice(overlay, work.taken, spec=spec, height=height, now_ms=env.now_ms)
    if spec.is_national:
        events += national.begin_block(
            overlay, spec=spec, height=height, now_ms=env.now_ms, last_commit=work.last_commit
        )
    else:
        events += begin_market(overlay, env)
    return Receipt(ZERO_HASH, tuple(events))


def _end(overlay: Overlay, env: Environment, begun: Receipt) -> Receipt:
    """What follows the transactions, told in the block's own receipt."""
    if not env.spec.is_national:
        return begun
    return Receipt(ZERO_HASH, (*begun.events, *national.end_block(overlay, env.proposer_key)))


def _apply_atomically(overlay: Overlay, transaction: Transaction, env: Environment) -> Receipt:
    """Errors: the transaction's own, and OUT_OF_RANGE where it would leave what nobody can read."""
    attempt = Overlay(overlay)
    events = apply_transaction(attempt, transaction, env)
    check_all(events)
    attempt.merge()
    return Receipt(transaction.id, tuple(events))


def _header(
    spec: ChainSpec,
    signers: ScheduledSet,
    parent: Parent,
    *,
    view: int,
    proposer_index: int,
    time_ms: int,
    commit: bytes,
) -> Header:
    """A header whose execution roots are still empty."""
    return Header(
        chain_id=spec.chain_id,
        height=parent.height + 1,
        view0=view,
        time_ms=time_ms,
        parent_hash=parent.hash,
        proposer_index=proposer_index,
        set_hash=signers.validators.hash,
        next_set_hash=ZERO_HASH,
        transactions_root=ZERO_HASH,
        state_root=ZERO_HASH,
        results_root=ZERO_HASH,
        outbox_root=EMPTY_ROOT,
        outbox_count=0,
        inbox_next=0,
        inbox_root=EMPTY_ROOT,
        root_height=0,
        root_hash=ZERO_HASH,
        history_root=ZERO_HASH,
        last_commit_hash=commit_hash(commit),
        evidence_root=EMPTY_ROOT,
    )


def _seal(
    header: Header,
    transactions: Sequence[Transaction],
    work: BlockWork,
    overlay: Overlay,
    receipts: list[Receipt],
    tree: StateTree,
) -> Execution:
    """Fill in the roots that execution produced."""
    changes = overlay.changes()
    update = tree.update(changes)
    history = HISTORY.get(overlay, b"")
    assert history is not None  # _begin wrote it
    logs = log_fields(overlay)
    sealed = replace(
        header,
        next_set_hash=current_set(overlay, header.height + 1).validators.hash,
        transactions_root=transactions_root([transaction.id for transaction in transactions]),
        state_root=update.root,
        results_root=results_root(receipts),
        outbox_root=logs.outbox_root,
        outbox_count=logs.outbox_count,
        inbox_next=logs.inbox_next,
        inbox_root=inbox_root(work.inbox),
        root_height=logs.root_height,
        root_hash=logs.root_hash,
        history_root=peaks_root(history.peaks, history.count),
        evidence_root=evidence_root(work.evidence),
    )
    block = Block(
        sealed,
        tuple(transaction.encoded for transaction in transactions),
        work.last_commit,
        work.evidence,
        work.inbox,
    )
    return Execution(block, tuple(transactions), overlay, tuple(receipts), tuple(changes), update)


def _compare(claimed: Header, computed: Header) -> None:
    """Errors: INVALID_BLOCK with the field, what the block says and what we computed."""
    for name in Header.__dataclass_fields__:
        says, ours = getattr(claimed, name), getattr(computed, name)
        if says != ours:
            shown = [
                value.hex()[:16] if isinstance(value, bytes) else value for value in (says, ours)
            ]
            detail = f"block {claimed.height}: {name} is {shown[0]}, execution gives {shown[1]}"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
