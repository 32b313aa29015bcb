"""The state transition: what a block does, which blocks are refused, and that all nodes agree."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gridtokenx.chain.block import MAX_BLOCK_BYTES, Block, Header, commit_hash
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.chain.transition import (
    Execution,
    apply_transaction,
    environment,
    execute_block,
    propose_block,
)
from gridtokenx.chain.validator_sets import current_set
from gridtokenx.cluster.devnet import DEV_ACCOUNT, account_address, dev_key, operator_key
from gridtokenx.grid.model import SubmitReadings
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset, Deposit, RetireCredits, Transfer, Withdraw
from gridtokenx.primitives.crypto import ZERO_HASH, SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.merkle import EMPTY_ROOT, append_peak, peaks_root
from gridtokenx.primitives.state import Overlay
from gridtokenx.registry.model import Generation
from gridtokenx.trading.model import CancelOrder, Side, SlotCleared, TradeMatched, TradeSettled
from tests.support.market_world import MarketWorld
from tests.support.refusals import refusing

NOBODY = SigningKey(sha256(b"nobody"))
STRANGER = dev_key(DEV_ACCOUNT)  # Has gtx, and is not registered.


@pytest.fixture
def world() -> MarketWorld:
    """A chain with a solar prosumer and a consumer."""
    world = MarketWorld()
    world.household("sunny", source=Generation.SOLAR)
    world.household("thirsty")
    assert world.block() == []
    return world


def houses(world: MarketWorld):
    """The two households again, as `MarketWorld.household` derives them."""
    other = MarketWorld()
    return (
        other.household("sunny", source=Generation.SOLAR),
        other.household("thirsty"),
    )


def propose(world: MarketWorld, *transactions: Transaction, **changes) -> Execution:
    arguments = {
        "view": 0,
        "proposer_index": 0,
        "time_ms": world.spec.opens_ms(world.parent.time_ms),
        "last_commit": b"",
    }
    execution, _ = propose_block(
        world.spec,
        world.values,
        world.tree,
        world.parent,
        candidates=transactions,
        **(arguments | changes),
    )
    return execution


def execute(world: MarketWorld, block: Block, transactions=None) -> Execution:
    if transactions is None:
        transactions = block.decode_transactions()
    return execute_block(world.spec, world.values, world.tree, world.parent, block, transactions)


def apply(world: MarketWorld, key: SigningKey, payload: Payload, **changes) -> list:
    """The events of one transaction on top of the head."""
    state = Overlay(world.values)
    nonce = ledger.account(state, key.public_key).nonce
    fields_ = {"chain_id": world.spec.chain_id, "nonce": nonce, "payload": payload} | changes
    env = environment(
        world.spec,
        current_set(world.values, 0),
        world.parent,
        0,
        world.spec.opens_ms(world.parent.time_ms),
    )
    return apply_transaction(state, sign_transaction(key, **fields_), env)


# -- Blocks that lie -------------------------------------------------------------------------------


def test_two_nodes_give_a_block_the_same_roots(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    transfer = Transfer(thirsty.key.public_key, Asset.THB, 5)
    sent = sign_transaction(sunny.key, world.spec.chain_id, 0, transfer)
    proposed = propose(world, sent)
    executed = execute(world, proposed.block)
    assert executed.block == proposed.block
    assert executed.changes == proposed.changes
    assert executed.receipts == proposed.receipts
    assert [receipt.transaction_id for receipt in executed.receipts] == [ZERO_HASH, sent.id]


LIES = [
    ("chain_id", sha256(b"x")),
    ("height", 99),
    ("parent_hash", sha256(b"x")),
    ("set_hash", sha256(b"x")),
    ("next_set_hash", sha256(b"x")),
    ("transactions_root", sha256(b"x")),
    ("state_root", sha256(b"x")),
    ("results_root", sha256(b"x")),
    ("history_root", sha256(b"x")),
    ("last_commit_hash", sha256(b"x")),
    ("outbox_root", sha256(b"x")),
    ("outbox_count", 1),
    ("inbox_next", 1),
    ("inbox_root", sha256(b"x")),
    ("root_height", 1),
    ("root_hash", sha256(b"x")),
    ("evidence_root", sha256(b"x")),
]


@pytest.mark.parametrize(("name", "value"), LIES)
def test_every_false_field_is_named(world: MarketWorld, name: str, value: object) -> None:
    block = propose(world).block
    match = "takes no messages" if name in {"root_height", "root_hash"} else f"{name} is "
    with refusing(ErrorCode.INVALID_BLOCK, match):
        execute(world, replace(block, header=replace(block.header, **{name: value})))


def test_the_lies_cover_the_header() -> None:
    vote_time = {"view0", "time_ms", "proposer_index"}  # checked by tests of their own
    assert {name for name, _ in LIES} | vote_time == {field.name for field in fields(Header)}


def test_a_tampered_transaction_changes_the_block(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    sent = sign_transaction(
        sunny.key, world.spec.chain_id, 0, Transfer(thirsty.key.public_key, Asset.THB, 5)
    )
    block = propose(world, sent).block
    payload = Transfer(thirsty.key.public_key, Asset.THB, 6)
    tampered = replace(sent, payload=payload)
    with refusing(ErrorCode.INVALID_BLOCK, "transactions_root is "):
        execute(world, replace(block, transactions=(tampered.encoded,)))
    with refusing(ErrorCode.INVALID_BLOCK, "transactions_root is "):
        execute(world, replace(block, transactions=()))


def test_another_certificate_of_the_parent_is_noticed(world: MarketWorld) -> None:
    block = propose(world, last_commit=b"one").block
    assert block.header.last_commit_hash == commit_hash(b"one")
    with refusing(ErrorCode.INVALID_BLOCK, "last_commit_hash"):
        execute(world, replace(block, last_commit=b"two"))


def test_a_block_of_a_wrong_transaction_is_refused_with_its_code(world: MarketWorld) -> None:
    poor = sign_transaction(NOBODY, world.spec.chain_id, 0, Transfer(ZERO_HASH, Asset.THB, 1))
    block = propose(world).block
    with refusing(ErrorCode.ACCOUNT_NOT_FOUND):
        execute(world, replace(block, transactions=(poor.encoded,)))


def test_a_block_before_its_slot_is_refused(world: MarketWorld) -> None:
    opens = world.spec.opens_ms(world.parent.time_ms)
    with refusing(ErrorCode.INVALID_BLOCK, "before the slot after its parent"):
        execute(world, propose(world, time_ms=opens - 1).block)
    execute(world, propose(world, time_ms=opens).block)
    execute(world, propose(world, time_ms=opens + 12_345).block)


def test_a_proposer_must_exist(world: MarketWorld) -> None:
    block = propose(world).block
    with refusing(ErrorCode.INVALID_BLOCK, "there is no validator 4"):
        execute(world, replace(block, header=replace(block.header, proposer_index=4)))


def test_a_body_too_large_is_refused_however_it_came(world: MarketWorld) -> None:
    """The body of a compact block is put together from parts, which nobody has measured."""
    block = propose(world).block
    padding = tuple([bytes(4096)] * (MAX_BLOCK_BYTES // 4096 + 1))
    with refusing(ErrorCode.INVALID_BLOCK, f"at most {MAX_BLOCK_BYTES} allowed"):
        execute(world, replace(block, transactions=padding), [])


def test_the_history_grows_by_the_parents_hash() -> None:
    world = MarketWorld()
    peaks: tuple[bytes, ...] = ()
    for count in range(5):
        parent = world.parent.hash
        world.block()
        peaks = append_peak(peaks, count, parent)
        header = world.executions[-1].block.header
        assert header.history_root == peaks_root(peaks, count + 1)


# -- Proposing -------------------------------------------------------------------------------------


def test_a_proposer_leaves_out_what_does_not_apply(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    chain_id, to = world.spec.chain_id, thirsty.key.public_key
    good = [sign_transaction(sunny.key, chain_id, n, Transfer(to, Asset.THB, 1)) for n in (0, 1)]
    bad = sign_transaction(NOBODY, chain_id, 0, Transfer(to, Asset.THB, 1))
    execution, left_out = propose_block(
        world.spec, world.values, world.tree, world.parent, view=0, proposer_index=0,
        time_ms=world.spec.opens_ms(world.parent.time_ms),
        candidates=[good[0], bad, good[0], good[1]], last_commit=b"",
    )  # fmt: skip
    assert execution.transactions == tuple(good)
    assert [(key, error.code) for key, error in left_out] == [
        (bad.id, ErrorCode.ACCOUNT_NOT_FOUND),
        (good[0].id, ErrorCode.NONCE_TOO_LOW),
    ]
    assert execute(world, execution.block).block == execution.block


def test_a_refused_transaction_leaves_no_trace(world: MarketWorld) -> None:
    """Its nonce and fee were spent on an overlay that was dropped."""
    sunny, _ = houses(world)
    bad = sign_transaction(
        sunny.key, world.spec.chain_id, 0, Transfer(ZERO_HASH, Asset.THB, 10**15)
    )
    assert propose(world, bad).block.header.state_root == propose(world).block.header.state_root


def test_fees_go_to_the_proposers_organisation(world: MarketWorld) -> None:
    payment = operator_key("payment")
    funded = SigningKey(sha256(b"gridtokenx local dev"))
    state = Overlay(world.values)
    before = ledger.account(state, account_address("mea")).gtx_ugtx
    index = world.spec.genesis_accounts.index(account_address("mea"))
    env = environment(
        world.spec, current_set(world.values, 0), world.parent, index, world.parent.time_ms + 1000
    )
    paying = sign_transaction(
        funded, world.spec.chain_id, 0, Transfer(payment.public_key, Asset.GTX, 5), fee_ugtx=7
    )
    apply_transaction(state, paying, env)
    assert ledger.account(state, account_address("mea")).gtx_ugtx == before + 7


# -- Transactions that break a rule ----------------------------------------------------------------


def test_a_nonce_is_used_once_and_in_order(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    command = Transfer(thirsty.key.public_key, Asset.THB, 1)
    world.send(sunny.key, command)
    world.block()
    with refusing(ErrorCode.NONCE_TOO_LOW, "nonce 0 for gtx1.*, expected 1"):
        apply(world, sunny.key, command, nonce=0)
    with refusing(ErrorCode.NONCE_GAP, "nonce 2 for gtx1.*, expected 1"):
        apply(world, sunny.key, command, nonce=2)
    assert apply(world, sunny.key, command, nonce=1)


def test_a_transaction_is_good_on_its_own_chain_only(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    elsewhere = MarketWorld("NOR").spec.chain_id
    with refusing(ErrorCode.WRONG_CHAIN, elsewhere.hex()[:16]):
        apply(world, sunny.key, Transfer(thirsty.key.public_key, Asset.THB, 1), chain_id=elsewhere)


def test_nobody_spends_what_he_has_not(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    to = thirsty.key.public_key
    for asset in Asset:
        with refusing(ErrorCode.INSUFFICIENT_BALANCE):
            apply(world, sunny.key, Transfer(to, asset, 10**12))
    with refusing(ErrorCode.INSUFFICIENT_BALANCE):
        apply(world, sunny.key, RetireCredits(1))
    with refusing(ErrorCode.INSUFFICIENT_BALANCE, "ugtx"):
        apply(world, sunny.key, Transfer(to, Asset.THB, 1), fee_ugtx=1)


def test_only_the_payment_authority_makes_and_destroys_baht(world: MarketWorld) -> None:
    for key in (STRANGER, operator_key("mea")):
        for command in (Deposit(key.public_key, 1), Withdraw(1)):
            with refusing(ErrorCode.NOT_PERMITTED):
                apply(world, key, command)


def test_orders_that_break_a_rule(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    slot = world.slot + 4
    order = world.order(thirsty, Side.BUY, 1000, 4000, slot)
    stranger_order = replace(order, location="BKK-01-SUB001")
    cases: list[tuple[ErrorCode, SigningKey, object]] = [
        (ErrorCode.NOT_REGISTERED, STRANGER, stranger_order),
        (ErrorCode.UNKNOWN_METER, thirsty.key, replace(order, meter_id=sha256(b"no meter"))),
        (ErrorCode.NOT_PERMITTED, thirsty.key, replace(order, meter_id=sunny.meter.public_key)),
        (ErrorCode.UNKNOWN_ZONE, thirsty.key, replace(order, location="CNX-01-SUB001")),
        (ErrorCode.UNKNOWN_ZONE, thirsty.key, replace(order, location="here")),
        (ErrorCode.UNKNOWN_ZONE, thirsty.key, replace(order, location="BKK-01-SUB002")),
        (ErrorCode.PRICE_OUT_OF_BAND, thirsty.key, replace(order, limit_mthb=999)),
        (ErrorCode.PRICE_OUT_OF_BAND, thirsty.key, replace(order, limit_mthb=15_001)),
        (ErrorCode.AMOUNT_OUT_OF_RANGE, thirsty.key, replace(order, energy_wh=1)),
        (ErrorCode.INTERVAL_CLOSED, thirsty.key, replace(order, first_slot=0, last_slot=0)),
        (ErrorCode.INSUFFICIENT_BALANCE, thirsty.key, replace(
            order, energy_wh=9_000_000, limit_mthb=9_000, max_wh_per_slot=50_000
        )),
        (ErrorCode.ORDER_NOT_FOUND, thirsty.key, CancelOrder(sha256(b"no order"))),
    ]  # fmt: skip
    for code, key, command in cases:
        with refusing(code):
            apply(world, key, command)
    assert apply(world, thirsty.key, order)


def test_readings_that_break_a_rule(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    for _ in range(2):
        world.block()
    slot = world.slot - 1
    good = world.reading(sunny, slot, 5_000, 0)
    one = good.readings[-1]

    def but(**changes: object) -> SubmitReadings:
        return SubmitReadings((replace(one, **changes),))

    cases: list[tuple[ErrorCode, SigningKey, SubmitReadings]] = [
        (ErrorCode.NOT_REGISTERED, STRANGER, good),
        (ErrorCode.UNKNOWN_METER, sunny.key, but(key=sha256(b"no meter"))),
        (ErrorCode.BAD_SIGNATURE, sunny.key, but(export_wh_cum=6_000)),
        (ErrorCode.BAD_SIGNATURE, sunny.key, but(key=thirsty.meter.public_key)),
        (ErrorCode.INTERVAL_CLOSED, sunny.key, but(slot=world.slot)),
        (ErrorCode.BAD_READING, sunny.key, SubmitReadings(
            world.reading(sunny, slot, 10**9, 0).readings[-1:]
        )),
    ]  # fmt: skip
    for code, key, command in cases:
        with refusing(code):
            apply(world, key, command)
    assert apply(world, sunny.key, good)
    assert apply(world, thirsty.key, good)  # Any participant may carry a signed reading.


def test_a_reading_counts_once(world: MarketWorld) -> None:
    sunny, _ = houses(world)
    for _ in range(2):
        world.block()
    reading = world.reading(sunny, world.slot - 1, 5_000, 0)
    world.send(sunny.key, reading)
    assert world.block() == []
    with refusing(ErrorCode.DUPLICATE):
        apply(world, sunny.key, SubmitReadings(reading.readings[-1:]))
    with refusing(ErrorCode.READING_OUT_OF_ORDER):  # Of a whole transaction the first's.
        apply(world, sunny.key, reading)
    assert world.account(sunny).energy_wh == 5_000


# -- The market inside blocks ----------------------------------------------------------------------


def trades(world: MarketWorld) -> Iterator[TradeMatched]:
    for execution in world.executions:
        for receipt in execution.receipts:
            for event in receipt.events:
                if isinstance(event, TradeMatched):
                    yield event


def test_an_order_trades_and_settles(world: MarketWorld) -> None:
    sunny, thirsty = houses(world)
    slot = world.slot + 1
    world.nonces = {sunny.key.public_key: 0, thirsty.key.public_key: 0}
    world.send(sunny.key, world.order(sunny, Side.SELL, 10_000, 2_000, slot))
    world.send(thirsty.key, world.order(thirsty, Side.BUY, 10_000, 4_000, slot))
    assert world.block() == []
    assert not list(trades(world))  # Cleared at the start of the next block, not in its own.
    for _ in range(2):
        world.block()
    assert [trade.trade.energy_wh for trade in trades(world)] == [10_000]
    world.send(sunny.key, world.reading(sunny, slot, 10_000, 0))
    world.send(thirsty.key, world.reading(thirsty, slot, 0, 10_000))
    assert world.block() == []
    events = [event for receipt in world.executions[-1].receipts for event in receipt.events]
    settled = [event for event in events if isinstance(event, TradeSettled)]
    assert [event.delivered_wh for event in settled] == [10_000]
    assert world.account(sunny).thb_uthb > 10_000 * 1_000_000
    assert world.account(thirsty).thb_uthb < 10_000 * 1_000_000
    world.check_conservation()


def test_the_order_of_orders_within_a_block_does_not_matter() -> None:
    """Permuting a block's transactions (by sender) leaves prices and quantities alone."""
    outcomes = []
    for seed in range(4):
        world = MarketWorld()
        dice = random.Random(7)
        people = [
            world.household(f"house {number}", source=source)
            for number in range(12)
            for source in [Generation.SOLAR if number % 2 else Generation.NONE]
        ]
        world.block()
        slot = world.slot + 2
        for house in people:
            side = Side.BUY if house.source is Generation.NONE else Side.SELL
            limit = dice.randrange(1_500, 6_000, 100)
            world.send(
                house.key, world.order(house, side, dice.randrange(1, 20) * 100, limit, slot)
            )
        random.Random(seed).shuffle(world.waiting)
        world.block()
        world.block()
        cleared = [
            event
            for receipt in world.executions[-1].receipts
            for event in receipt.events
            if isinstance(event, SlotCleared)
        ]
        outcomes.append([(event.traded_wh, event.prices) for event in cleared])
    assert outcomes[0]
    assert all(outcome == outcomes[0] for outcome in outcomes)


def play(seed: int, blocks: int) -> MarketWorld:
    """A random day: orders, cancellations, readings honest and not, transfers, nonsense."""
    dice = random.Random(seed)
    world = MarketWorld()
    places = ["BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001", "NTB-01-SUB001"]
    people = [
        world.household(
            f"house {number}",
            places[number % 4],
            Generation.SOLAR if number % 3 else Generation.NONE,
            baht=dice.randint(1, 200),
        )
        for number in range(9)
    ]
    world.block()
    placed: list[Transaction] = []
    for _ in range(blocks):
        state = Overlay(world.values)
        for house in people:
            world.nonces[house.key.public_key] = ledger.account(state, house.key.public_key).nonce
            makes = house.source is not Generation.NONE
            side = dice.choice([Side.BUY, Side.SELL]) if makes else Side.BUY
            slot = world.slot + dice.randint(0, 3)
            commands: list[Payload] = []
            if dice.random() < 0.8:
                limit = dice.randrange(1_000, 10_500, 250)
                wh = dice.randint(1, 300) * 100
                commands.append(world.order(house, side, wh, limit, slot))
            if dice.random() < 0.2 and placed:
                commands.append(CancelOrder(dice.choice(placed).id))
            if dice.random() < 0.3:
                to = dice.choice(people).key.public_key
                commands.append(Transfer(to, dice.choice(list(Asset)), dice.randint(1, 10**8)))
            if dice.random() < 0.7:
                export = dice.randint(0, 26_000) if makes else 0
                commands.append(world.reading(house, world.slot - 1, export, dice.randint(0, 9000)))
            for command in commands:
                attempt = sign_transaction(
                    house.key, world.spec.chain_id, world.nonces[house.key.public_key], command
                )
                if applies(world, attempt, state):
                    world.send(house.key, command)
                    placed.append(attempt)
        world.block()
        world.check_conservation()
    return world


def applies(world: MarketWorld, transaction: Transaction, state: Overlay) -> bool:
    env = environment(
        world.spec,
        current_set(world.values, 0),
        world.parent,
        0,
        world.spec.opens_ms(world.parent.time_ms),
    )
    attempt = Overlay(state)
    try:
        apply_transaction(attempt, transaction, env)
    except Rejected:
        return False
    attempt.merge()
    return True


def test_a_day_of_blocks_neither_makes_nor_loses_anything() -> None:
    """`play` checks conservation after each block, and each block is executed twice."""
    world = play(seed=3, blocks=80)
    assert sum(len(execution.transactions) for execution in world.executions) > 300
    assert len(list(trades(world))) > 20
    assert any(
        isinstance(event, TradeSettled)
        for execution in world.executions
        for receipt in execution.receipts
        for event in receipt.events
    )


def test_the_outcome_does_not_depend_on_the_hash_seed() -> None:
    script = (
        "from tests.unit.chain import test_transition\n"
        "print(test_transition.play(seed=5, blocks=6).parent.hash.hex())"
    )
    hashes = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.append(done.stdout)
    assert hashes[0] == hashes[1] == play(seed=5, blocks=6).parent.hash.hex() + "\n"


def test_empty_lists_have_the_empty_root(world: MarketWorld) -> None:
    header = propose(world).block.header
    assert header.transactions_root == header.outbox_root == EMPTY_ROOT
