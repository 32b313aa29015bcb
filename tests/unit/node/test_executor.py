"""One chain's executor on a real database: build, check, commit, restart, and whom it believes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from gridtokenx.chain.block import Block
from gridtokenx.chain.genesis import ChainSpec
from gridtokenx.chain.state_tree import verify_state_proof
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.chain.transition import MAX_TIME_AHEAD_MS
from gridtokenx.chain.validator_sets import order_set
from gridtokenx.cluster.devnet import (
    AUTHORITIES,
    DEV_ACCOUNT,
    dev_key,
    local_genesis,
    operator_key,
    validator_name,
)
from gridtokenx.consensus.evidence import Evidence, double_vote
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    QuorumCertificate,
    Vote,
    vote_bytes,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, MINIMUMS, Asset, Deposit, Transfer
from gridtokenx.node.executor import (
    FILL_CHUNK,
    FILL_SHARE,
    Executor,
    NotYet,
)
from gridtokenx.node.undecided import MAX_CANDIDATES
from gridtokenx.primitives.codec import MAX_INT, encode
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import Overlay
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.runtime.stopping import Damaged
from gridtokenx.storage.database import Database
from gridtokenx.storage.index import find_transaction, load_totals
from gridtokenx.storage.totals import Totals
from tests.support.refusals import refusing

GENESIS = local_genesis(with_national=False)
MET = GENESIS.chain("MET")
KEYS = {
    key.public_key: key
    for key in (dev_key(validator_name(index)[1]) for index in range(len(AUTHORITIES)))
}
DEV = dev_key(DEV_ACCOUNT)
SHOP = sha256(b"shop")
LEAST_UGTX = MINIMUMS[Asset.GTX]


class Clock:
    """A wall clock that stands until it is moved."""

    def __init__(self) -> None:
        self.ms = GENESIS.genesis_time_ms + 10_000

    def __call__(self) -> int:
        return self.ms


class Site:
    """A node's folder and its executor, opened again at will."""

    def __init__(self, path: Path, spec: ChainSpec = MET) -> None:
        self.path, self.spec, self.clock = path, spec, Clock()
        self.open()

    def open(self) -> Executor:
        self.database = Database(self.path)
        self.executor = Executor(self.spec, self.database.chain(self.spec.name), self.clock)
        return self.executor

    def close(self) -> None:
        self.database.close()

    def reopen(self) -> Executor:
        self.close()
        return self.open()

    def build(self, *, view: int = 0) -> Block:
        """The next block as this node proposes it."""
        compact = self.executor.build(view, 0)
        execution = self.executor.candidate(compact.header.hash)
        assert execution is not None
        return execution.block

    def grow(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.ms += 1_000
            block = self.build()
            self.executor.commit(block.header.hash, decided(block))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "one")
    yield site
    site.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Site]:
    other = Site(tmp_path / "two")
    yield other
    other.close()


def certificate(
    height: int,
    block_hash: bytes,
    *,
    phase: Phase = Phase.COMMIT,
    signers: tuple[int, ...] = (0, 1, 2),
    chain_id: bytes = MET.chain_id,
) -> QuorumCertificate:
    members = MET.genesis_validators.members
    signed = vote_bytes(phase, chain_id, height, 0, block_hash)
    signatures = tuple(
        IndexedSignature(index, KEYS[members[index].public_key].sign(signed)) for index in signers
    )
    return QuorumCertificate(phase, height, 0, block_hash, signatures)


def decided(block: Block, **changes) -> QuorumCertificate:
    return certificate(block.header.height, block.header.hash, **changes)


def pay(nonce: int, more: int = 0) -> Transaction:
    """Enough for an account, so that the first one may make it."""
    amount_ugtx = LEAST_UGTX + more
    return sign_transaction(DEV, MET.chain_id, nonce, Transfer(SHOP, Asset.GTX, amount_ugtx))


def offence() -> Evidence:
    """Two votes of one validator in one view."""
    key = KEYS[MET.genesis_validators.members[0].public_key]
    votes = []
    for word in (b"one", b"two"):
        signed = vote_bytes(Phase.PREPARE, MET.chain_id, 1, 0, sha256(word))
        votes.append(Vote(Phase.PREPARE, 1, 0, sha256(word), 0, key.sign(signed)))
    return double_vote(MET.genesis_validators, *votes)


# -- Genesis and restart ---------------------------------------------------------------------------


def test_a_new_folder_holds_the_genesis(site: Site) -> None:
    executor = site.executor
    assert executor.tip.height == 0
    assert executor.tip.hash == MET.chain_id
    assert executor.tip.parent.time_ms == GENESIS.genesis_time_ms
    assert ledger.account(executor.store, DEV.public_key).gtx_ugtx > 0


def test_two_nodes_start_from_one_state(site: Site, other: Site) -> None:
    assert site.executor.tip.parent == other.executor.tip.parent
    assert site.reopen().tip.parent == other.executor.tip.parent


def test_a_tip_stays_as_it_was_when_the_chain_goes_on(site: Site) -> None:
    """Whoever holds one holds things that belong together, also on another thread."""
    site.executor.pending.admit([pay(0)], heard=False)
    site.grow()
    held = site.executor.tip
    site.executor.pending.admit([pay(1)], heard=False)
    site.grow()
    newest = site.executor.tip
    assert (held.height, held.totals.transactions, held.view.head()) == (1, 1, (1, held.hash))
    assert (newest.height, newest.totals.transactions) == (2, 2)
    assert newest.view.head() == (2, newest.hash)
    assert (len(held.finality_ms), len(newest.finality_ms)) == (1, 2)
    assert ledger.account(held.view, DEV.public_key).nonce == 1
    assert newest.certificate == site.executor.store.certificate(2)
    assert newest.sets is held.sets  # No set has changed: leaders are not worked out again.


def test_a_restart_continues_where_the_last_batch_ended(site: Site) -> None:
    site.executor.pending.admit([pay(0), pay(1)], heard=False)
    site.grow(3)
    parent, totals = site.executor.tip.parent, site.executor.tip.totals
    executor = site.reopen()
    assert executor.tip.parent == parent
    assert executor.tip.totals == totals
    assert executor.pending.next_nonce(DEV.public_key) == 2
    site.grow(2)
    assert executor.tip.height == 5


def test_another_networks_folder_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.close()
    site.spec = replace(GENESIS, network_id=7).chain("MET")
    with pytest.raises(Damaged, match="GTX-DB-003: the data folder belongs to another MET chain"):
        site.open()
    site.database.close()


def test_another_networks_grown_folder_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.grow()
    site.close()
    site.spec = replace(GENESIS, network_id=7).chain("MET")
    with pytest.raises(Damaged, match="GTX-DB-003"):
        site.open()
    site.database.close()


def test_a_tampered_state_is_noticed_at_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.grow()
    key, value = next(iter(site.executor.store.state_values()))
    site.database.write([(b"MET/s" + key, value[:-1] + bytes([value[-1] ^ 1]))])
    site.close()
    with pytest.raises(Damaged, match=r"GTX-DB-003: the state of MET hashes to .* block 1 says"):
        site.open()
    site.database.close()


def test_a_lost_body_is_noticed_at_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.grow()
    site.database.write([], [b"MET/b" + (1).to_bytes(8, "big")])
    site.close()
    with pytest.raises(Damaged, match="GTX-DB-003: block 1 of MET is not readable"):
        site.open()
    site.database.close()


# -- Admission -------------------------------------------------------------------------------------


def test_admission_gives_each_transaction_its_verdict(site: Site) -> None:
    poor = sign_transaction(dev_key("poor"), MET.chain_id, 0, Transfer(SHOP, Asset.GTX, 1))
    verdicts, fresh = site.executor.pending.admit([pay(0), poor, pay(0), pay(5)], heard=False)
    codes = [None if verdict is None else verdict.code for verdict in verdicts]
    assert codes == [
        None,
        ErrorCode.ACCOUNT_NOT_FOUND,
        ErrorCode.DUPLICATE,
        ErrorCode.NONCE_GAP,
    ]
    assert fresh == [pay(0)]
    assert site.executor.pending.next_nonce(DEV.public_key) == 1


def test_gossip_may_bring_a_gap_and_then_fill_it(site: Site) -> None:
    assert site.executor.pending.admit([pay(1)], heard=True) == ([None], [])
    assert site.executor.pending.admit([pay(0)], heard=True) == ([None], [pay(0), pay(1)])


def test_an_included_transaction_is_a_duplicate_for_ever(site: Site) -> None:
    site.executor.pending.admit([pay(0)], heard=False)
    site.grow()
    for _ in range(2):
        verdicts, fresh = site.executor.pending.admit([pay(0)], heard=True)
        assert [verdict.code for verdict in verdicts if verdict] == [ErrorCode.DUPLICATE]
        assert fresh == []
        site.reopen()


def test_at_no_moment_a_transaction_is_unknown(site: Site) -> None:
    """Out of the pool, it is in the block; which views show it is not the executor's to say."""
    assert site.executor.pending.status(pay(0).id) is None
    site.executor.pending.admit([pay(1)], heard=True)
    assert site.executor.pending.status(pay(1).id) == "queued"
    site.executor.pending.admit([pay(0)], heard=True)
    assert site.executor.pending.status(pay(0).id) == "pending"
    site.grow()
    assert site.executor.pending.find(pay(0).id) is None
    assert site.executor.pending.status(pay(0).id) == "pending"
    site.executor.pending.admit([pay(2, more=10**15)], heard=False)
    refusal = site.executor.pending.status(pay(2, more=10**15).id)
    assert isinstance(refusal, Rejected)


# -- Blocks ----------------------------------------------------------------------------------------


def test_one_builds_another_checks_both_commit(site: Site, other: Site) -> None:
    site.executor.pending.admit([pay(0), pay(1)], heard=False)
    block = site.build()
    other.executor.check(block, block.decode_transactions())
    for one in (site, other):
        committed = one.executor.commit(block.header.hash, decided(block))
        assert committed.execution.transactions == (pay(0), pay(1))
        assert one.executor.tip.parent.state_root == block.header.state_root
        assert one.executor.store.block(1) == block.encoded
        assert one.executor.store.place_of(pay(1).id) == (1, 1)
        assert ledger.account(one.executor.store, SHOP).gtx_ugtx == 2 * LEAST_UGTX
        assert len(one.executor.pending) == 0
        assert one.executor.candidate(block.header.hash) is None
    assert site.executor.tip.parent == other.executor.tip.parent


def test_a_view_without_a_decision_halves_the_next_block(site: Site) -> None:
    sent = [pay(nonce) for nonce in range(4 * FILL_CHUNK)]
    site.executor.pending.admit(sent, heard=False)
    sizes = [len(site.build(view=view).transactions) for view in range(5)]
    assert sizes == [256, 128, 64, 64, 64]


def test_a_leader_that_is_slow_makes_a_smaller_block(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [pay(nonce) for nonce in range(4 * FILL_CHUNK)]
    site.executor.pending.admit(sent, heard=False)
    step_s = MET.genesis.timeout_base_ms / 1_000 * FILL_SHARE * 0.4
    ticks = count()
    monkeypatch.setattr(
        "gridtokenx.node.executor.time", SimpleNamespace(monotonic=lambda: next(ticks) * step_s)
    )
    execution = site.build().decode_transactions()
    assert execution == sent[: 3 * FILL_CHUNK - 1]
    monkeypatch.undo()
    assert site.executor.pending.next_nonce(DEV.public_key) == len(sent)


def test_transactions_of_another_proposer_leave_the_pool(site: Site, other: Site) -> None:
    for one in (site, other):
        one.executor.pending.admit([pay(0)], heard=False)
    other.executor.pending.admit([pay(1, 7)], heard=False)
    site.executor.pending.admit([pay(1, 8)], heard=False)
    block = site.build()
    other.executor.check(block, block.decode_transactions())
    committed = other.executor.commit(block.header.hash, decided(block))
    assert [(key, error.code) for key, error in committed.dropped] == [
        (pay(1, 7).id, ErrorCode.NONCE_TOO_LOW)
    ]


def test_checking_a_block_changes_nothing(site: Site, other: Site) -> None:
    site.executor.pending.admit([pay(0)], heard=False)
    block = site.build()
    parent = other.executor.tip.parent
    for _ in range(2):
        other.executor.check(block, block.decode_transactions())
    assert other.executor.tip.parent == parent
    assert ledger.account(other.executor.store, SHOP).gtx_ugtx == 0
    assert other.reopen().tip.parent == parent


def test_a_value_is_proved_at_the_head(site: Site) -> None:
    site.executor.pending.admit([pay(0, 9)], heard=False)
    site.grow()
    height, value, proof = site.executor.prove(b"la" + SHOP)
    assert height == 1
    assert value == encode(ledger.account(site.executor.store, SHOP))
    root = site.executor.tip.parent.state_root
    assert verify_state_proof(root, b"la" + SHOP, value, proof)
    _, missing, absence = site.executor.prove(b"la" + sha256(b"nobody"))
    assert missing is None
    assert verify_state_proof(root, b"la" + sha256(b"nobody"), None, absence)


def test_a_block_ahead_of_our_clock_has_to_wait(site: Site, other: Site) -> None:
    site.clock.ms += 60_000
    block = site.build()
    time_ms = block.header.time_ms
    later = other.executor.check_fresh(block, 0, 0)
    assert later == NotYet(time_ms - MAX_TIME_AHEAD_MS)
    other.clock.ms = time_ms - MAX_TIME_AHEAD_MS
    assert other.executor.check_fresh(block, 0, 0) is None


def test_a_fresh_block_is_its_leaders(site: Site, other: Site) -> None:
    block = site.build()
    for view, proposer in ((1, 0), (0, 1)):
        with refusing(ErrorCode.INVALID_BLOCK, "not its leader's"):
            other.executor.check_fresh(block, view, proposer)


def test_a_late_block_opens_its_slot_again(site: Site) -> None:
    site.clock.ms = GENESIS.genesis_time_ms
    assert site.build().header.time_ms == MET.opens_ms(GENESIS.genesis_time_ms)
    site.clock.ms += 12_345
    assert site.build().header.time_ms == site.clock.ms


def test_undecided_blocks_are_bounded(site: Site) -> None:
    hashes = []
    for _ in range(MAX_CANDIDATES + 2):
        site.clock.ms += 1_000
        hashes.append(site.build().header.hash)
    assert len(set(hashes)) == MAX_CANDIDATES + 2
    held = [one for one in hashes if site.executor.candidate(one) is not None]
    assert held == hashes[2:]
    assert site.executor.candidate_compact(hashes[0]) is None


def test_undecided_blocks_are_bounded_by_their_transactions(site: Site) -> None:
    site.executor._max_transactions = 3
    site.executor.pending.admit([pay(nonce) for nonce in range(2)], heard=False)
    hashes = []
    for _ in range(5):
        site.clock.ms += 1_000
        hashes.append(site.build().header.hash)
    held = [one for one in hashes if site.executor.candidate(one) is not None]
    assert held == hashes[-3:]
    site.executor._max_transactions = 0
    site.clock.ms += 1_000
    newest = site.build().header.hash
    assert [one for one in (*hashes, newest) if site.executor.candidate(one)] == [newest]


def test_a_commit_forgets_the_losers(site: Site) -> None:
    loser = site.build()
    site.clock.ms += 1_000
    winner = site.build()
    site.executor.commit(winner.header.hash, decided(winner))
    assert site.executor.candidate(loser.header.hash) is None


# -- Certificates ----------------------------------------------------------------------------------


def test_the_first_block_has_no_parent_certificate(site: Site, other: Site) -> None:
    block = replace_commit(site, encode(certificate(0, MET.chain_id)))
    with refusing(ErrorCode.INVALID_BLOCK, "first block has no parent certificate"):
        other.executor.check(block, [])


def replace_commit(site: Site, last_commit: bytes) -> Block:
    """A block that its proposer built around another certificate of the parent."""
    own = site.executor.tip
    site.executor.tip = replace(own, certificate=last_commit)
    compact = site.executor.build(0, 0)
    site.executor.tip = own
    execution = site.executor.candidate(compact.header.hash)
    assert execution is not None
    return execution.block


def test_later_blocks_carry_a_certificate_of_their_parent(site: Site, other: Site) -> None:
    first = site.build()
    other.executor.check(first, [])
    for one in (site, other):
        one.executor.commit(first.header.hash, decided(first))
    site.clock.ms += 2_000
    good = decided(first, signers=(1, 2, 3))
    wrong = {
        "not the COMMIT of block 1": [
            decided(first, phase=Phase.PREPARE),
            certificate(2, first.header.hash),
            certificate(1, sha256(b"another")),
        ],
        "weight 2 of 4": [decided(first, signers=(0, 1))],
        "must strictly increase": [
            replace(good, signatures=(good.signatures[0], *good.signatures[:2]))
        ],
        "forged signature": [
            decided(first, chain_id=GENESIS.chain("NOR").chain_id),
            replace(good, view=1),
        ],
    }
    for match, certificates in wrong.items():
        for bad in certificates:
            with pytest.raises(Rejected, match=f"INVALID_CERTIFICATE.*{match}"):
                other.executor.check(replace_commit(site, encode(bad)), [])
    for nonsense in (b"", b"\xff"):
        with refusing(ErrorCode.MALFORMED):
            other.executor.check(replace_commit(site, nonsense), [])
    other.executor.check(replace_commit(site, encode(good)), [])


# -- The index of the API --------------------------------------------------------------------------


MOST = 2**2040 - 1  # What a number of the index may be.
PAYER = operator_key("payment")


def start_with(site: Site, totals: Totals) -> None:
    """As if so much had come together before."""
    site.executor.tip = replace(site.executor.tip, totals=totals)


def deposit(nonce: int, amount_uthb: int = 1_000_000) -> Transaction:
    return sign_transaction(PAYER, MET.chain_id, nonce, Deposit(SHOP, amount_uthb))


def test_a_sum_of_the_index_goes_on_beyond_64_bits(site: Site) -> None:
    """Deposits and withdrawals in turn: the supply stays small, what was ever deposited grows."""
    start_with(site, Totals(deposited_uthb=2**64 - 1, withdrawn_uthb=2**64 - 1))
    site.executor.pending.admit([deposit(0), deposit(1)], heard=False)
    site.grow(2)
    assert site.executor.tip.height == 2
    assert site.executor.tip.totals.deposited_uthb == 2**64 + 1_999_999
    assert site.reopen().tip.totals.deposited_uthb == 2**64 + 1_999_999
    site.executor.pending.admit([deposit(2)], heard=False)
    site.grow()
    assert site.executor.tip.totals.deposited_uthb == 2**64 + 2_999_999


def test_a_block_that_the_index_cannot_hold_is_refused_before_the_vote(
    site: Site, other: Site
) -> None:
    site.executor.pending.admit([deposit(0)], heard=False)
    block = site.build()
    start_with(other, Totals(deposited_uthb=MOST))
    with refusing(ErrorCode.INVALID_BLOCK, "the history index cannot hold block 1"):
        other.executor.check(block, block.decode_transactions())
    assert other.executor.candidate(block.header.hash) is None
    site.executor.commit(block.header.hash, decided(block))


def test_a_builder_leaves_out_what_the_index_cannot_hold(site: Site) -> None:
    start_with(site, Totals(deposited_uthb=MOST))
    good, bad = pay(0), deposit(0)
    site.executor.pending.admit([good, bad], heard=False)
    block = site.build()
    assert [one.id for one in block.decode_transactions()] == [good.id]
    site.executor.commit(block.header.hash, decided(block))
    assert site.executor.tip.height == 1
    status = site.executor.pending.status(bad.id)
    assert isinstance(status, Rejected)
    assert status.code is ErrorCode.INVALID_BLOCK


def test_each_candidate_of_a_height_has_its_own_rows(site: Site) -> None:
    """A commit only writes what was worked out for that block."""
    site.executor.pending.admit([deposit(0)], heard=False)
    first = site.build()
    site.executor.pending.admit([deposit(1)], heard=False)
    site.clock.ms += 1
    second = site.build()
    assert first.header.hash != second.header.hash
    site.executor.commit(first.header.hash, decided(first))
    assert site.executor.tip.totals.transactions == 1
    assert load_totals(site.executor.store) == site.executor.tip.totals
    assert find_transaction(site.executor.store, deposit(0).id) is not None
    assert find_transaction(site.executor.store, deposit(1).id) is None


def test_a_transaction_that_would_overflow_is_refused_and_the_chain_goes_on(site: Site) -> None:
    """As admitted, as built, as executed by others: it is its own sender's fault."""
    site.grow()
    rich = replace(ledger.account(site.executor.store, SHOP), gtx_ugtx=MAX_INT)
    key = b"MET/s" + ACCOUNTS.prefix + SHOP
    site.database.write([(key, encode(rich))])
    verdicts, _ = site.executor.pending.admit([pay(0), pay(0, 2)], heard=False)
    assert [one.code for one in verdicts if one] == [ErrorCode.OUT_OF_RANGE] * 2
    assert f"Account.gtx_ugtx is {MAX_INT + LEAST_UGTX}" in str(verdicts[0])
    site.grow()
    payload = Transfer(sha256(b"another shop"), Asset.GTX, LEAST_UGTX)
    elsewhere = sign_transaction(DEV, MET.chain_id, 0, payload)
    assert site.executor.pending.admit([elsewhere], heard=False)[0] == [None]
    site.grow()
    assert site.executor.tip.totals.transactions == 1


# -- Blocks decided elsewhere ----------------------------------------------------------------------


def test_decided_blocks_of_a_peer_are_taken_over(site: Site, other: Site) -> None:
    site.executor.pending.admit([pay(nonce) for nonce in range(4)], heard=False)
    site.grow(4)
    for height in range(1, 5):
        take(other, site, height)
    assert other.executor.tip.parent == site.executor.tip.parent
    assert other.executor.tip.totals == site.executor.tip.totals
    assert (len(site.executor.tip.finality_ms), len(other.executor.tip.finality_ms)) == (4, 0)


def take(to: Site, source: Site, height: int, **changes) -> None:
    from gridtokenx.chain.block import decode_block

    raw = source.executor.store.block(height)
    assert raw is not None
    block = decode_block(raw)
    to.executor.apply_decided(block, block.decode_transactions(), decided(block, **changes))


def test_a_block_without_its_certificate_is_refused(site: Site, other: Site) -> None:
    site.grow(2)
    with refusing(ErrorCode.INVALID_CERTIFICATE, "weight 2 of 4"):
        take(other, site, 1, signers=(0, 1))
    with refusing(ErrorCode.INVALID_CERTIFICATE, "not the COMMIT"):
        take(other, site, 1, phase=Phase.PREPARE)
    with refusing(ErrorCode.INVALID_CERTIFICATE, "forged"):
        take(other, site, 1, chain_id=sha256(b"elsewhere"))
    with refusing(ErrorCode.INVALID_BLOCK, "does not extend ours at 0"):
        take(other, site, 2)
    assert other.executor.tip.height == 0
    take(other, site, 1)


@dataclass(frozen=True)
class Rotating(ChainSpec):
    """A chain whose genesis has ordered its next set: one member goes, a younger key joins in
    front, so that the indexes of all others move.
    """

    @cached_property
    def later(self) -> ValidatorSet:
        old = self.genesis_validators.members
        fresh = next(key for key in _young_keys() if key.public_key < old[0].public_key)
        KEYS[fresh.public_key] = fresh
        return ValidatorSet.of([Validator(fresh.public_key, 1), *old[:-1]])

    def install(self, state: Overlay) -> None:
        super().install(state)
        accounts = self.genesis_accounts
        order_set(state, self.later, accounts, height=0, epoch_blocks=self.genesis.epoch_blocks)


def _young_keys() -> Iterator[SigningKey]:
    return (SigningKey(sha256(b"young %d" % number)) for number in count())


def test_a_decided_block_is_checked_with_the_set_of_its_own_height(tmp_path: Path) -> None:
    """Over a hand-over: the parent's set, or the newest, would refuse good blocks and take bad."""
    genesis = replace(GENESIS, epoch_blocks=4)
    spec = Rotating(genesis, genesis.chain("MET").region)
    site, other = Site(tmp_path / "one", spec), Site(tmp_path / "two", spec)

    def signed(block: Block, signers: ValidatorSet) -> QuorumCertificate:
        header = block.header
        message = vote_bytes(Phase.COMMIT, spec.chain_id, header.height, 0, header.hash)
        signatures = tuple(
            IndexedSignature(index, KEYS[member.public_key].sign(message))
            for index, member in enumerate(signers.members)
        )
        return QuorumCertificate(Phase.COMMIT, header.height, 0, header.hash, signatures)

    first_height = 2 * genesis.epoch_blocks
    for height in range(1, first_height + 3):
        site.clock.ms += 1_000
        block = site.build()
        right, wrong = spec.genesis_validators, spec.later
        if height >= first_height:
            right, wrong = wrong, right
        with refusing(ErrorCode.INVALID_CERTIFICATE):
            other.executor.apply_decided(block, [], signed(block, wrong))
        other.executor.apply_decided(block, [], signed(block, right))
        site.executor.commit(block.header.hash, signed(block, right))
    assert other.executor.tip.parent == site.executor.tip.parent
    site.close()
    other.close()


def test_a_peer_cannot_make_us_think_we_are_damaged(site: Site, other: Site) -> None:
    """A decided header and its certificate with another body: the peer's fault, not ours."""
    site.executor.pending.admit([pay(0)], heard=False)
    block = site.build()
    bodies = [
        replace(block, transactions=()),
        replace(block, transactions=(pay(0, 2).encoded,)),
        replace(block, transactions=(pay(0).encoded, pay(1).encoded)),
        replace(block, last_commit=b"another"),
        replace(block, evidence=(offence(),)),
    ]
    for body in bodies:
        with refusing(ErrorCode.INVALID_BLOCK, "the body is not the one"):
            other.executor.apply_decided(body, body.decode_transactions(), decided(body))
    other.executor.apply_decided(block, block.decode_transactions(), decided(block))


def test_disagreeing_with_the_validators_means_we_are_damaged(site: Site, other: Site) -> None:
    """Three of four signed another state root than ours: stop, do not go on alone."""
    block = site.build()
    false = replace(block, header=replace(block.header, state_root=sha256(b"another state")))
    with pytest.raises(Damaged, match=r"GTX-SYNC-001: MET block 1 was decided .* state_root is"):
        other.executor.apply_decided(false, [], decided(false))
    assert other.executor.tip.height == 0
