"""Who comes into a block, who keeps a place in a full pool: protocols/networking.md 4.3."""

from __future__ import annotations

import pytest

from gridtokenx.chain.lanes import COST_BYTES, Lane, cost_of
from gridtokenx.chain.mempool import OFFICE_WEIGHT, Limits, Mempool
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.governance.model import Propose, Upgrade
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry import rules as registry
from gridtokenx.registry.model import (
    METER_KEYS,
    MeterKey,
    Organisation,
    OrganisationKind,
)

CHAIN = sha256(b"chain")
RICH_UTHB = 1000
SHOP = sha256(b"shop")
ROOM = 10**6
PLAIN = [SigningKey(sha256(b"plain %d" % number)) for number in range(30)]
NAMED = [SigningKey(sha256(b"named %d" % number)) for number in range(6)]
OFFICE = SigningKey(sha256(b"office"))


def apply(state: Overlay, transaction: Transaction) -> None:
    assert isinstance(transaction.payload, Transfer)
    ledger.use_nonce(state, transaction.sender, transaction.nonce)
    ledger.transfer(state, transaction.payload, sender=transaction.sender)


def pay(key: SigningKey, nonce: int, to: bytes = SHOP, amount: int = 1) -> Transaction:
    return sign_transaction(key, CHAIN, nonce, Transfer(to, Asset.THB, amount))


def state_of_all() -> Overlay:
    state = Overlay(MemoryReader())
    for key in (*PLAIN, *NAMED, OFFICE):
        ledger.adjust(state, key.public_key, thb_uthb=RICH_UTHB)
    for key in NAMED:
        METER_KEYS.put(state, key.public_key, MeterKey(SHOP, in_use=True))
    bank = Organisation("bank", OrganisationKind.PAYMENT, OFFICE.public_key, SHOP)
    registry.add_organisation(state, bank)
    return state


class Chain:
    def __init__(self, limits: Limits | None = None) -> None:
        self.state = state_of_all()
        self.pool = Mempool(self.state, apply, limits)

    def send(self, key: SigningKey, count: int, first: int = 0) -> None:
        for nonce in range(first, first + count):
            self.pool.add(pay(key, nonce))

    def block(self, count: int) -> list[tuple[bytes, int]]:
        """(sender, nonce) of what the next block holds; decides it."""
        taken = self.pool.take(count, ROOM)
        for transaction in taken:
            apply(self.state, transaction)
        assert self.pool.reset(self.state, {one.id for one in taken}) == []
        return [(one.sender, one.nonce) for one in taken]

    def waiting(self, key: SigningKey) -> int:
        return sum(one.sender == key.public_key for one in self.pool.take(10**6, 10**9))


def full(key: SigningKey, chain: Chain, nonce: int) -> str:
    with pytest.raises(Rejected, match=r"^MEMPOOL_FULL") as caught:
        chain.pool.add(pay(key, nonce))
    return caught.value.detail


def dropped(chain: Chain, key: SigningKey, nonce: int) -> ErrorCode | None:
    found = chain.pool.dropped.get(pay(key, nonce).id)
    return None if found is None else found.code


# -- Blocks ----------------------------------------------------------------------------------------


def test_one_that_has_little_waits_for_nobody_that_has_much() -> None:
    chain = Chain()
    chain.send(PLAIN[0], 200)
    chain.send(PLAIN[1], 1)
    assert chain.block(2) == [(PLAIN[0].public_key, 0), (PLAIN[1].public_key, 0)]
    assert chain.block(5) == [(PLAIN[0].public_key, nonce) for nonce in range(1, 6)]


def test_everybody_has_a_turn_before_anybody_has_two() -> None:
    """Three places a block for thirty that wait, of whom one has sent for longest and most."""
    chain = Chain()
    chain.send(PLAIN[0], 100)
    for key in PLAIN[1:]:
        chain.send(key, 2)
    served = [sender for _ in range(10) for sender, _ in chain.block(3)]
    assert served == [key.public_key for key in PLAIN]
    chain.send(NAMED[0], 1)  # Of the other class.
    assert NAMED[0].public_key in [sender for sender, _ in chain.block(3)]


def test_large_transactions_cost_more_turns() -> None:
    lane = Lane()
    large = [
        sign_transaction(PLAIN[0], CHAIN, nonce, Propose("title", "x" * 4_000, Upgrade("1", 5)))
        for nonce in range(2)
    ]
    small = [pay(PLAIN[1], nonce) for nonce in range(10)]
    for transaction in (*large, *small):
        lane.add(transaction, 1)
    turns = cost_of(large[0])
    assert turns == 1 + len(large[0].encoded) // COST_BYTES == 5
    assert list(lane.walk()) == [large[0], *small[:turns], large[1], *small[turns:]]
    assert (lane.transactions, lane.bytes) == (12, sum(len(one.encoded) for one in lane.walk()))


def test_an_office_has_the_turns_of_many() -> None:
    chain = Chain()
    chain.send(OFFICE, 2 * OFFICE_WEIGHT)
    for key in NAMED:
        chain.send(key, 3)
    senders = [sender for sender, _ in chain.block(OFFICE_WEIGHT + len(NAMED))]
    assert senders.count(OFFICE.public_key) == OFFICE_WEIGHT
    assert all(senders.count(key.public_key) == 1 for key in NAMED)


def test_those_with_a_name_have_three_places_of_four_while_both_wait() -> None:
    chain = Chain()
    for key in PLAIN:
        chain.send(key, 20)
    for key in NAMED:
        chain.send(key, 10)
    named = {key.public_key for key in NAMED}
    taken = [sender in named for sender, _ in chain.block(40)]
    assert sum(taken) == 30
    assert all(sum(taken[: at + 4]) == at // 4 * 3 + 3 for at in range(0, 40, 4))
    assert sum(sender in named for sender, _ in chain.block(100)) == 30  # All there were.


# -- A transaction that builds on another's --------------------------------------------------------


def test_what_comes_before_what_it_builds_on_waits_for_it() -> None:
    """PLAIN[1] spends what PLAIN[0] will have paid to it: its turn comes too early."""
    chain = Chain()
    chain.send(PLAIN[0], 3)
    chain.pool.add(pay(PLAIN[0], 3, PLAIN[1].public_key, 500))
    spends = pay(PLAIN[1], 0, amount=RICH_UTHB + 400)
    chain.pool.add(spends)
    chain.pool.add(pay(PLAIN[1], 1))
    taken = chain.pool.take(4, ROOM)
    assert taken[1] == spends
    error = Rejected(ErrorCode.INSUFFICIENT_BALANCE, "not yet")
    gap = Rejected(ErrorCode.NONCE_GAP, "not yet")
    chain.pool.postpone([(spends.id, error), (pay(PLAIN[1], 1).id, gap), (SHOP, gap)])
    assert [one.sender for one in chain.pool.take(9, ROOM)] == [PLAIN[0].public_key] * 4
    assert chain.pool.get(spends.id) == spends
    assert chain.pool.next_nonces[PLAIN[1].public_key] == 2
    chain.block(4)
    assert chain.block(9) == [(PLAIN[1].public_key, 0), (PLAIN[1].public_key, 1)]


def test_what_does_not_apply_at_the_next_head_either_is_dropped_with_its_reason() -> None:
    chain = Chain()
    spends = pay(PLAIN[1], 0, amount=RICH_UTHB)
    chain.pool.add(spends)
    chain.pool.postpone([(spends.id, Rejected(ErrorCode.EXPIRED, "too late"))])
    assert chain.pool.take(9, ROOM) == []
    ledger.adjust(chain.state, PLAIN[1].public_key, thb_uthb=-1)
    (found,) = chain.pool.reset(chain.state, ())
    assert (found[0], found[1].code) == (spends.id, ErrorCode.INSUFFICIENT_BALANCE)


# -- Places in the pool ----------------------------------------------------------------------------


def test_a_sender_has_its_share_of_the_pool_and_no_more() -> None:
    chain = Chain(Limits(sender_cost=5, office_cost=9))
    chain.send(PLAIN[0], 5)
    assert "5 of this account wait" in full(PLAIN[0], chain, 5)
    chain.send(OFFICE, 9)
    full(OFFICE, chain, 9)
    chain.block(100)
    chain.send(PLAIN[0], 5, first=5)


def test_a_full_pool_makes_room_at_whoever_has_most() -> None:
    chain = Chain(Limits(transactions=40))  # Ten of them for those without a name.
    chain.send(PLAIN[0], 7)
    chain.send(PLAIN[1], 3)
    full(PLAIN[0], chain, 7)
    chain.send(PLAIN[2], 2)
    assert [dropped(chain, PLAIN[0], nonce) for nonce in (4, 5, 6)] == [
        None, ErrorCode.MEMPOOL_FULL, ErrorCode.MEMPOOL_FULL,
    ]  # fmt: skip
    assert "made room" in full(PLAIN[0], chain, 5)
    assert chain.pool.next_nonces[PLAIN[0].public_key] == 5
    chain.send(PLAIN[2], 1, first=2)
    full(PLAIN[2], chain, 3)  # It would have the most then.
    assert len(chain.pool) == 10
    assert chain.pool.reset(chain.state, ()) == []
    assert [chain.waiting(key) for key in PLAIN[:3]] == [4, 3, 3]


def test_what_was_put_out_may_come_again_after_a_block() -> None:
    chain = Chain(Limits(transactions=16))
    chain.send(PLAIN[0], 4)
    chain.send(PLAIN[1], 1)
    assert dropped(chain, PLAIN[0], 3) is ErrorCode.MEMPOOL_FULL
    assert not chain.pool.refuses(pay(PLAIN[0], 3).id)
    chain.block(4)
    chain.send(PLAIN[0], 1, first=3)
    assert dropped(chain, PLAIN[0], 3) is None


def test_many_keys_without_a_name_share_a_quarter() -> None:
    """300 new keys cost 300 minimum balances, and fill what is theirs alone."""
    chain = Chain(Limits(transactions=80))
    for key in PLAIN[:20]:
        chain.send(key, 1)
    full(PLAIN[20], chain, 0)  # Everybody has one: nobody has to go.
    for key in NAMED:
        chain.send(key, 10)
    assert len(chain.pool) == 80
    full(NAMED[0], chain, 10)


def test_those_without_a_name_have_their_quarter_whenever_they_want() -> None:
    chain = Chain(Limits(transactions=40))
    for key in NAMED[:4]:
        chain.send(key, 10)
    chain.send(PLAIN[0], 10)
    assert len(chain.pool) == 40
    assert chain.waiting(PLAIN[0]) == 10
    full(PLAIN[0], chain, 10)
    chain.send(PLAIN[1], 5)
    assert [chain.waiting(key) for key in PLAIN[:2]] == [5, 5]


def test_an_office_weighs_less_than_it_has() -> None:
    chain = Chain(Limits(transactions=80))
    chain.send(OFFICE, 64)
    chain.send(NAMED[0], 16)
    chain.send(NAMED[1], 8)
    assert [chain.waiting(key) for key in (OFFICE, *NAMED[:2])] == [64, 8, 8]


def test_who_loses_an_office_loses_its_places() -> None:
    chain = Chain(Limits(sender_cost=5))
    chain.send(OFFICE, 20)
    registry.rotate_operator(chain.state, "bank", PLAIN[0].public_key)
    for _ in range(20):  # Looked up again after some blocks.
        chain.pool.reset(chain.state, ())
    assert chain.waiting(OFFICE) == 5
    assert dropped(chain, OFFICE, 5) is ErrorCode.MEMPOOL_FULL
