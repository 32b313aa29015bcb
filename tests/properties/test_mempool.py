"""The pool under any mix of senders, blocks and limits: bounded, in order, and fair."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.chain.held import HeldLimits
from gridtokenx.chain.mempool import PLACES, PLAIN_PLACES, Limits, Mempool
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.crypto import SigningKey, sha256
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry.model import METER_KEYS, MeterKey

CHAIN = sha256(b"chain")
PLAIN = [SigningKey(sha256(b"plain %d" % number)) for number in range(5)]
NAMED = [SigningKey(sha256(b"named %d" % number)) for number in range(3)]
KEYS = [*PLAIN, *NAMED]
HELD = HeldLimits(transactions=6, sender_transactions=3, bytes=1_100, sender_bytes=600)
LIMITS = Limits(transactions=32, sender_cost=12, rejected=8, held=HELD)
ROOM = 10**9

SENT = {
    (number, nonce): sign_transaction(
        key, CHAIN, nonce, Transfer(KEYS[number - 1].public_key, Asset.THB, 1 + nonce % 7)
    )
    for number, key in enumerate(KEYS)
    for nonce in range(60)
}


def apply(state: Overlay, transaction: Transaction) -> None:
    assert isinstance(transaction.payload, Transfer)
    ledger.check_exists(state, transaction.sender, lambda _state, _who: False)
    ledger.use_nonce(state, transaction.sender, transaction.nonce)
    ledger.transfer(state, transaction.payload, sender=transaction.sender)


class World:
    """A pool, the chain under it, and what each sender would send next."""

    def __init__(self) -> None:
        self.state = Overlay(MemoryReader())
        for key in KEYS[:-1]:  # The last one has a name, and not yet an account.
            ledger.adjust(self.state, key.public_key, thb_uthb=30)
        for key in NAMED:
            METER_KEYS.put(self.state, key.public_key, MeterKey(CHAIN, in_use=True))
        self.pool = Mempool(self.state, apply, LIMITS)

    def send(self, number: int, ahead: int, heard: bool) -> None:
        key = KEYS[number]
        nonce = self.pool.next_nonces.get(key.public_key)
        if nonce is None:
            nonce = ledger.account(self.state, key.public_key).nonce
        transaction = SENT[number, min(nonce + ahead, 59)]
        waited = len(self.pool)
        try:
            fresh = self.pool.add(transaction, heard=heard)
        except Rejected:
            assert len(self.pool) == waited
        else:
            assert all(self.pool.get(one.id) == one for one in fresh)
            assert bool(fresh) != self.pool.holds(transaction.id)

    def block(self, count: int) -> None:
        """Build, put off what does not apply, decide; who has one waiting and room is in it."""
        waiting = self.pool.take(99, ROOM)
        senders = {one.sender for one in waiting}
        candidates = self.pool.take(count, ROOM)
        taken, refused = [], []
        for transaction in candidates:
            attempt = Overlay(self.state)
            try:
                apply(attempt, transaction)
            except Rejected as error:
                refused.append((transaction.id, error))
            else:
                attempt.merge()
                taken.append(transaction)
        if count >= PLACES * len(KEYS):
            assert {one.sender for one in candidates} == senders
        self.pool.postpone(refused)
        left = self.pool.take(99, ROOM)
        assert not {key for key, _ in refused} & {one.id for one in left}
        self.pool.reset(self.state, {one.id for one in taken})

    def check(self) -> None:
        waiting = self.pool.take(99, ROOM)
        assert len(waiting) == len(self.pool) <= LIMITS.transactions
        plain = {key.public_key for key in PLAIN}
        of_plain = sum(one.sender in plain for one in waiting)
        assert of_plain <= LIMITS.transactions * PLAIN_PLACES // PLACES
        for key in KEYS:
            nonces = [one.nonce for one in waiting if one.sender == key.public_key]
            assert len(nonces) <= LIMITS.sender_cost
            first = ledger.account(self.state, key.public_key).nonce
            assert nonces == list(range(first, first + len(nonces)))
            if nonces:
                assert self.pool.next_nonces[key.public_key] == nonces[-1] + 1
        held = self.pool._held
        assert len(held) <= HELD.transactions
        assert held.size_bytes <= HELD.bytes
        assert len(self.pool.rejected) <= LIMITS.rejected


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 7), st.sampled_from([0, 0, 0, 1, 2]), st.booleans()),
    st.tuples(st.just("many"), st.integers(0, 7), st.integers(1, 20)),
    st.tuples(st.just("block"), st.integers(0, 40)),
)


@settings(max_examples=150)
@given(st.lists(steps, max_size=40))
def test_the_pool_is_bounded_ordered_and_fair(taken: list[tuple]) -> None:
    world = World()
    for step in taken:
        match step:
            case ("send", number, ahead, heard):
                world.send(number, ahead, heard)
            case ("many", number, count):
                for _ in range(count):
                    world.send(number, 0, False)
            case ("block", count):
                world.block(count)
                world.check()
    world.check()
