"""Waiting transactions: admitted by applying them, held for their predecessors, always bounded."""

from __future__ import annotations

import pytest

from gridtokenx.chain.held import HeldLimits
from gridtokenx.chain.mempool import Limits, Mempool
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.governance.model import Propose, Upgrade
from gridtokenx.interchain.model import SubmitCheckpoint
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry.model import Generation, ProsumerClass, RegisterMeter
from tests.support.refusals import refusing

CHAIN = sha256(b"chain")
ALICE, BOB = SigningKey(sha256(b"alice")), SigningKey(sha256(b"bob"))
RICH_UTHB = 1000


def apply(state: Overlay, transaction: Transaction) -> None:
    ledger.use_nonce(state, transaction.sender, transaction.nonce)
    assert isinstance(transaction.payload, Transfer)
    ledger.transfer(state, transaction.payload, sender=transaction.sender)


def pay(nonce: int, amount: int = 1, key: SigningKey = ALICE) -> Transaction:
    return sign_transaction(key, CHAIN, nonce, Transfer(sha256(b"shop"), Asset.THB, amount))


class Chain:
    """A pool over a state that moves on when a block takes transactions out."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.state = Overlay(MemoryReader())
        for key in (ALICE, BOB):
            ledger.adjust(self.state, key.public_key, thb_uthb=RICH_UTHB)
        self.pool = Mempool(self.state, apply, limits)

    def include(self, *transactions: Transaction) -> list[tuple[bytes, Rejected]]:
        for transaction in transactions:
            apply(self.state, transaction)
        return self.pool.reset(self.state, {transaction.id for transaction in transactions})


@pytest.fixture
def chain() -> Chain:
    return Chain()


def test_transactions_wait_in_the_order_they_came(chain: Chain) -> None:
    sent = [pay(0), pay(0, key=BOB), pay(1), pay(1, key=BOB)]
    for transaction in sent:
        assert chain.pool.add(transaction) == [transaction]
    assert chain.pool.take(10, 10**6) == sent
    assert len(chain.pool) == 4
    assert chain.pool.get(sent[0].id) == sent[0]
    assert chain.pool.next_nonces == {ALICE.public_key: 2, BOB.public_key: 2}


def test_taking_is_bounded_by_count_and_bytes(chain: Chain) -> None:
    sent = [pay(nonce) for nonce in range(5)]
    for transaction in sent:
        chain.pool.add(transaction)
    size = len(sent[0].encoded)
    assert chain.pool.take(2, 10**6) == sent[:2]
    assert chain.pool.take(5, 3 * size) == sent[:3]
    assert chain.pool.take(5, size - 1) == []


def test_the_same_transaction_waits_once(chain: Chain) -> None:
    chain.pool.add(pay(0))
    with refusing(ErrorCode.DUPLICATE):
        chain.pool.add(pay(0))


def test_what_waits_counts_already(chain: Chain) -> None:
    """The second of two payments that the balance covers only once is told so at once."""
    chain.pool.add(pay(0, RICH_UTHB))
    with refusing(ErrorCode.INSUFFICIENT_BALANCE):
        chain.pool.add(pay(1, 1))
    with refusing(ErrorCode.NONCE_TOO_LOW):
        chain.pool.add(pay(0, 7))
    assert ledger.account(chain.state, ALICE.public_key).thb_uthb == RICH_UTHB


def test_a_refused_transaction_leaves_no_trace_but_its_reason(chain: Chain) -> None:
    bad = pay(0, RICH_UTHB + 1)
    with refusing(ErrorCode.INSUFFICIENT_BALANCE):
        chain.pool.add(bad)
    rejection = chain.pool.rejection(bad.id)
    assert rejection is not None
    assert rejection.code is ErrorCode.INSUFFICIENT_BALANCE
    assert chain.pool.add(pay(0)) == [pay(0)]


def test_a_direct_sender_hears_of_a_gap(chain: Chain) -> None:
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(1))


def test_gossip_may_overtake(chain: Chain) -> None:
    for nonce in (3, 1, 2):
        assert chain.pool.add(pay(nonce), heard=True) == []
        assert chain.pool.holds(pay(nonce).id)
    assert len(chain.pool) == 0
    assert chain.pool.add(pay(0), heard=True) == [pay(nonce) for nonce in range(4)]
    assert chain.pool.take(9, 10**6) == [pay(nonce) for nonce in range(4)]
    assert not chain.pool.holds(pay(3).id)


def test_what_is_held_and_then_sent_waits_once() -> None:
    chain = Chain(Limits(transactions=8))
    chain.pool.add(pay(1), heard=True)
    chain.pool.add(pay(0, key=BOB))
    chain.pool.add(pay(1, key=BOB))
    chain.pool.add(pay(0))  # At BOB's cost; the next has no place yet.
    assert chain.pool.holds(pay(1).id)
    chain.include(pay(0, key=BOB))
    assert not chain.pool.holds(pay(1).id)
    assert chain.pool.take(9, 10**6) == [pay(0), pay(1)]
    assert chain.pool.rejection(pay(1).id) is None


def test_a_block_releases_what_waited_for_it(chain: Chain) -> None:
    chain.pool.add(pay(1), heard=True)
    assert chain.include(pay(0)) == []
    assert chain.pool.take(9, 10**6) == [pay(1)]


def test_held_transactions_that_come_too_late_are_dropped(chain: Chain) -> None:
    chain.pool.add(pay(1), heard=True)
    chain.include(pay(0), pay(1, 5))
    assert not chain.pool.holds(pay(1).id)
    rejection = chain.pool.rejection(pay(1).id)
    assert rejection is not None
    assert rejection.code is ErrorCode.NONCE_TOO_LOW


def test_gaps_are_bounded_for_a_sender_and_in_all() -> None:
    chain = Chain(Limits(held=HeldLimits(transactions=5, sender_transactions=3)))
    for nonce in (1, 2, 3):
        chain.pool.add(pay(nonce), heard=True)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(4), heard=True)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(1, 9), heard=True)
    for nonce in (1, 2):
        chain.pool.add(pay(nonce, key=BOB), heard=True)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(3, key=BOB), heard=True)
    for _ in range(HeldLimits().blocks):  # After which the table is free again.
        assert chain.pool.holds(pay(1).id)
        chain.include()
    assert not any(chain.pool.holds(pay(nonce).id) for nonce in (1, 2, 3))
    chain.pool.add(pay(3, key=BOB), heard=True)


def test_gaps_are_bounded_by_bytes_for_a_sender_and_in_all() -> None:
    size = len(pay(1).encoded)
    chain = Chain(Limits(held=HeldLimits(bytes=3 * size, sender_bytes=2 * size)))
    for nonce in (1, 2):
        chain.pool.add(pay(nonce), heard=True)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(3), heard=True)
    chain.pool.add(pay(1, key=BOB), heard=True)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(2, key=BOB), heard=True)
    chain.pool.add(pay(0), heard=True)  # What comes due makes room.
    chain.pool.add(pay(2, key=BOB), heard=True)
    assert not chain.pool.holds(pay(1).id)


@pytest.mark.parametrize("payload", [
    SubmitCheckpoint("MET", b"h", b"c", ()),
    Propose("title", "text", Upgrade("1.0", 5)),
    RegisterMeter(CHAIN, CHAIN, "x" * 20_000, 1, 1, Generation.NONE, ProsumerClass.NONE),
])  # fmt: skip
def test_what_is_large_or_may_be_is_never_held(chain: Chain, payload: Payload) -> None:
    """Case doors-03: 500 of them, from keys that nobody knew, took 230 MiB of every node."""
    ahead = sign_transaction(ALICE, CHAIN, 1, payload)
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(ahead, heard=True)
    assert chain.pool.get(ahead.id) is None


def test_a_new_head_drops_what_no_longer_applies_and_says_why(chain: Chain) -> None:
    kept, doomed = pay(0, key=BOB), pay(1, RICH_UTHB - 10)
    for transaction in (pay(0, 1), kept, doomed):
        chain.pool.add(transaction)
    dropped = chain.include(pay(0, 100))  # Another transaction of the same number got in.
    assert [(key, error.code) for key, error in dropped] == [
        (pay(0, 1).id, ErrorCode.NONCE_TOO_LOW),
        (doomed.id, ErrorCode.INSUFFICIENT_BALANCE),
    ]
    assert chain.pool.take(9, 10**6) == [kept]
    assert chain.pool.next_nonces == {BOB.public_key: 1}
    assert chain.pool.rejection(doomed.id) is not None


def test_what_was_included_is_gone_without_a_word(chain: Chain) -> None:
    for nonce in range(3):
        chain.pool.add(pay(nonce))
    assert chain.include(pay(0), pay(1)) == []
    assert chain.pool.take(9, 10**6) == [pay(2)]
    assert chain.pool.rejection(pay(0).id) is None


def test_what_others_read_never_shows_a_half_built_pool(chain: Chain) -> None:
    for nonce in range(3):
        chain.pool.add(pay(nonce))
    seen = []

    def watching(state: Overlay, transaction: Transaction) -> None:
        seen.append(chain.pool.next_nonces.get(ALICE.public_key))
        assert chain.pool.get(pay(2).id) == pay(2)
        apply(state, transaction)

    chain.pool._apply = watching
    chain.include(pay(0))
    assert seen == [3, 3]
    assert chain.pool.next_nonces == {ALICE.public_key: 3}
    assert chain.pool.get(pay(0).id) is None


def test_the_pool_is_bounded_by_count_and_bytes() -> None:
    few = Chain(Limits(transactions=8))
    small = Chain(Limits(bytes=8 * len(pay(0).encoded)))
    for chain in (few, small):
        chain.pool.add(pay(0))
        chain.pool.add(pay(1))
        with refusing(ErrorCode.MEMPOOL_FULL):
            chain.pool.add(pay(2))
        assert chain.pool.rejection(pay(2).id) is None  # A retry may succeed.
        chain.include(pay(0))
        chain.pool.add(pay(2))


def test_a_full_pool_releases_no_more_than_fits() -> None:
    chain = Chain(Limits(transactions=8))
    for nonce in (1, 2):
        chain.pool.add(pay(nonce), heard=True)
    assert chain.pool.add(pay(0)) == [pay(0), pay(1)]
    assert chain.pool.holds(pay(2).id)
    chain.include(pay(0), pay(1))
    assert chain.pool.take(9, 10**6) == [pay(2)]


def test_remembered_reasons_are_bounded() -> None:
    chain = Chain(Limits(rejected=3))
    for amount in range(5):
        with refusing(ErrorCode.INSUFFICIENT_BALANCE):
            chain.pool.add(pay(0, RICH_UTHB + 1 + amount))
    assert len(chain.pool.rejected) == 3
    assert chain.pool.rejection(pay(0, RICH_UTHB + 1).id) is None
    assert chain.pool.rejection(pay(0, RICH_UTHB + 5).id) is not None


def test_what_no_block_can_hold_leaves_the_pool(chain: Chain) -> None:
    chain.pool.add(pay(0))
    error = Rejected(ErrorCode.EXPIRED, "too late")
    chain.pool.drop([(pay(0).id, error), (sha256(b"unknown"), error)])
    assert len(chain.pool) == 0
    assert str(chain.pool.rejection(pay(0).id)) == str(error)
    assert chain.pool.rejection(sha256(b"unknown")) is None


def test_what_no_block_can_hold_leaves_no_effects(chain: Chain) -> None:
    for transaction in (pay(0, RICH_UTHB), pay(0, key=BOB), pay(1, key=BOB), pay(2, key=BOB)):
        chain.pool.add(transaction)
    error, gap = Rejected(ErrorCode.EXPIRED, "too late"), Rejected(ErrorCode.NONCE_GAP, "gap")
    refusals = [(pay(0, RICH_UTHB).id, error), (pay(1, key=BOB).id, error)]
    chain.pool.drop([*refusals, (pay(2, key=BOB).id, gap)])
    assert chain.pool.next_nonces == {ALICE.public_key: 0, BOB.public_key: 1}
    with refusing(ErrorCode.NONCE_GAP):
        chain.pool.add(pay(2, key=BOB))
    chain.pool.add(pay(0, RICH_UTHB - 1))  # Corrected: nonce and balance are free again.
    chain.pool.add(pay(1, 2, key=BOB))
    assert len(chain.pool) == 3
    assert chain.pool.next_nonces == {ALICE.public_key: 1, BOB.public_key: 2}
    with refusing(ErrorCode.INSUFFICIENT_BALANCE):
        chain.pool.add(pay(1, 2))


def test_a_remembered_refusal_keeps_nothing_of_where_it_was_raised(chain: Chain) -> None:
    with refusing(ErrorCode.INSUFFICIENT_BALANCE):
        chain.pool.add(pay(0, RICH_UTHB + 1))
    remembered = chain.pool.rejection(pay(0, RICH_UTHB + 1).id)
    assert remembered is not None
    assert remembered.__traceback__ is None
