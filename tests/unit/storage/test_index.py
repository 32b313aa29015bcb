"""The history index: what its rows say, that pages hold still, and what a row costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from gridtokenx.chain.block import Receipt
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.interchain.model import SettlementRecorded
from gridtokenx.ledger.model import Asset, Deposit, Deposited, Transfer, Transferred
from gridtokenx.primitives.crypto import ZERO_HASH, SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.storage import index
from gridtokenx.storage.index import index_rows
from gridtokenx.storage.totals import Totals, difference, merge_totals
from gridtokenx.trading.model import (
    GroupPrice,
    OrderClosed,
    OrderPlaced,
    OrderStatus,
    PlaceOrder,
    Side,
    SlotCleared,
    Source,
    TimeInForce,
    Trade,
    TradeMatched,
    TradeSettled,
)

ALICE, BOB = SigningKey(b"\1" * 32), SigningKey(b"\2" * 32)
CHAIN_ID = bytes(32)
SLOT = 1_963_584
TERMS = PlaceOrder(
    side=Side.BUY,
    energy_wh=1000,
    limit_mthb=5000,
    location="BKK-01-SUB001",
    meter_id=bytes(32),
    source=Source.ANY,
    require=False,
    first_slot=SLOT + 1,
    last_slot=SLOT + 2,
    max_wh_per_slot=1000,
    time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
    expires_ms=(SLOT + 3) * 900_000,
)


class Index:
    """The two reads of a database view over a plain dict."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.totals = Totals()

    def index_get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(self.values):
            if key.startswith(prefix) and key >= start:
                yield key, self.values[key]

    def add(self, height: int, transactions: list[Transaction], receipts: list[Receipt]) -> None:
        market_ms = (SLOT + height) * 900_000
        rows, self.totals = index_rows(
            height, height * 1000, market_ms, transactions, receipts, self.totals
        )
        self.values.update(rows)


def order(nonce: int, key: SigningKey = ALICE) -> tuple[Transaction, Receipt]:
    transaction = sign_transaction(key, CHAIN_ID, nonce, TERMS)
    placed = OrderPlaced(transaction.id, key.public_key, TERMS, 5_350_000)
    return transaction, Receipt(transaction.id, (placed,))


def trade(number: int) -> Trade:
    return Trade(
        id=number.to_bytes(32, "big"),
        slot=SLOT,
        buy_id=bytes(32),
        sell_id=bytes(32),
        buyer=ALICE.public_key,
        seller=BOB.public_key,
        buyer_meter=bytes(32),
        seller_meter=bytes(32),
        energy_wh=1000,
        price_mthb=4000,
        wheeling_mthb=300,
        tier=0,
        territory="BKK",
        source=Source.SOLAR,
        escrow_uthb=5_350_000,
        bond_uthb=1_000_000,
        vat_bps=700,
        vat_on_energy=False,
        fee_bps=25,
        penalty_mthb=1000,
    )


def settled(number: int, delivered_wh: int) -> TradeSettled:
    return TradeSettled(
        trade_id=number.to_bytes(32, "big"),
        slot=SLOT,
        territory="BKK",
        tier=0,
        source=Source.SOLAR,
        buyer=ALICE.public_key,
        seller=BOB.public_key,
        traded_wh=1000,
        delivered_wh=delivered_wh,
        price_mthb=4000,
        energy_uthb=delivered_wh * 4000,
        seller_uthb=delivered_wh * 4000 - 7,
        wheeling_uthb=delivered_wh * 300,
        vat_uthb=3,
        fee_uthb=7,
        penalty_uthb=(1000 - delivered_wh) * 1000,
        refund_uthb=1,
        bond_back_uthb=1,
        carbon_ucr=1,
    )


def test_an_order_is_found_with_its_receipt_rebuilt() -> None:
    kept = Index()
    transaction, receipt = order(0)
    kept.add(1, [transaction], [Receipt(ZERO_HASH, ()), receipt])
    record = index.find_transaction(kept, transaction.id)
    assert record is not None
    assert record.transaction == transaction
    assert record.events == receipt.events
    assert (record.when.height, record.when.number, record.when.time_ms) == (1, 0, 1000)
    ((_, placed),) = index.orders_from(kept, ALICE.public_key)
    assert placed == transaction.id
    assert index.find_closed_order(kept, transaction.id) is None
    closed = OrderClosed(transaction.id, ALICE.public_key, OrderStatus.EXPIRED, 400, 12)
    kept.add(2, [], [Receipt(ZERO_HASH, (closed,))])
    found = index.find_closed_order(kept, transaction.id)
    assert found is not None
    assert (found.status, found.rest_wh, found.refund_uthb) == (OrderStatus.EXPIRED, 400, 12)
    assert (kept.totals.orders, kept.totals.orders_expired) == (1, 1)


def test_other_transactions_keep_their_events_and_name_both_sides() -> None:
    kept = Index()
    sent = sign_transaction(ALICE, CHAIN_ID, 0, Transfer(BOB.public_key, Asset.THB, 5))
    event = Transferred(ALICE.public_key, BOB.public_key, Asset.THB, 5)
    paid = sign_transaction(ALICE, CHAIN_ID, 1, Deposit(ALICE.public_key, 9))
    deposited = Deposited(ALICE.public_key, 9)
    kept.add(1, [sent, paid], [Receipt(sent.id, (event,)), Receipt(paid.id, (deposited,))])
    record = index.find_transaction(kept, sent.id)
    assert record is not None
    assert record.events == (event,)
    assert index.list_transactions(kept, BOB.public_key, 10).ids == (sent.id,)
    assert index.list_transactions(kept, ALICE.public_key, 10).ids == (paid.id, sent.id)
    assert kept.totals.deposited_uthb == 9
    assert index.find_transaction(kept, bytes(32)) is None


def test_trades_are_listed_for_all_and_for_each_side() -> None:
    kept = Index()
    events = tuple(TradeMatched(trade(number)) for number in range(1, 4))
    kept.add(1, [], [Receipt(ZERO_HASH, events)])
    kept.add(2, [], [Receipt(ZERO_HASH, (TradeMatched(trade(4)), settled(1, 600)))])
    newest_first = tuple(trade(number).id for number in (4, 3, 2, 1))
    assert index.list_trades(kept, 10).ids == newest_first
    assert index.list_trades(kept, 10, account=BOB.public_key).ids == newest_first
    first = index.find_trade(kept, trade(1).id)
    assert first is not None
    assert first.trade == trade(1)
    assert first.settlement == settled(1, 600)
    second = index.find_trade(kept, trade(2).id)
    assert second is not None
    assert second.settlement is None
    totals = index.load_totals(kept)
    assert totals == kept.totals
    assert (totals.trades, totals.traded_uthb) == (4, 16_000_000)
    assert (totals.delivered_wh, totals.shortfall_wh, totals.penalty_uthb) == (600, 400, 400_000)


def test_a_page_goes_on_where_it_ended_though_blocks_come_in() -> None:
    kept = Index()
    orders = [order(nonce) for nonce in range(6)]
    for height, (transaction, receipt) in enumerate(orders[:5], start=1):
        kept.add(height, [transaction], [receipt])
    ids = [transaction.id for transaction, _ in orders]
    page = index.list_transactions(kept, ALICE.public_key, 2)
    assert page.ids == (ids[4], ids[3])
    kept.add(6, [orders[5][0]], [orders[5][1]])
    assert page.next_place is not None
    rest = index.list_transactions(kept, ALICE.public_key, 3, page.next_place)
    assert rest.ids == (ids[2], ids[1], ids[0])
    assert rest.next_place is None
    for limit, after in ((0, b""), (101, b""), (1, b"short")):
        with pytest.raises(Rejected):
            index.list_transactions(kept, ALICE.public_key, limit, after)
    placed = list(index.orders_from(kept, ALICE.public_key))
    assert [order_id for _, order_id in placed] == ids[::-1]
    assert list(index.orders_from(kept, ALICE.public_key, placed[2][0])) == placed[3:]


def test_totals_are_known_for_the_end_of_each_slot() -> None:
    kept = Index()
    for height in (1, 2, 5):
        transaction, receipt = order(height)
        kept.add(height, [transaction], [receipt])
    assert index.totals_at_slot(kept, SLOT).orders == 0
    assert index.totals_at_slot(kept, SLOT + 2).orders == 2
    assert index.totals_at_slot(kept, SLOT + 4).orders == 2
    assert index.totals_at_slot(kept, SLOT + 99).orders == 3
    later = difference(kept.totals, index.totals_at_slot(kept, SLOT + 1))
    assert (later.orders, later.blocks) == (2, 2)
    assert merge_totals([later, later]).orders == 4
    assert merge_totals([]) == Totals()


SIZES = (0, 1, 255, 256, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 2**2040 - 1)


@pytest.mark.parametrize("size", SIZES)
def test_sums_of_any_size_are_read_back(size: int) -> None:
    """They only ever grow: deposits and withdrawals in turn, for instance, without end."""
    names = [field.name for field in fields(Totals)]
    totals = Totals(**{name: size - size // (at + 2) for at, name in enumerate(names)})
    assert Totals.unpack(totals.pack()) == totals
    doubled = merge_totals([totals, totals])
    assert doubled.deposited_uthb == 2 * totals.deposited_uthb
    assert difference(doubled, totals) == totals


@pytest.mark.parametrize("size", [2**64 - 1, 2**64, 10**30])
def test_a_sum_goes_on_beyond_what_machine_words_hold(size: int) -> None:
    kept = Index()
    kept.totals = Totals(deposited_uthb=size, traded_uthb=size)
    paid = sign_transaction(ALICE, CHAIN_ID, 1, Deposit(ALICE.public_key, 2**63 - 1))
    deposited = Deposited(ALICE.public_key, 2**63 - 1)
    events = (TradeMatched(replace(trade(1), energy_wh=2**40, price_mthb=2**62)),)
    kept.add(1, [paid], [Receipt(ZERO_HASH, events), Receipt(paid.id, (deposited,))])
    for found in (index.load_totals(kept), index.totals_at_slot(kept, SLOT + 1)):
        assert found.deposited_uthb == size + 2**63 - 1
        assert found.traded_uthb == size + 2**102


@pytest.mark.parametrize("size", [0, 255, 256, 2**63 - 1, 2**64, 10**30])
def test_amounts_of_events_are_read_back(size: int) -> None:
    kept = Index()
    transaction, _ = order(0)
    placed = OrderPlaced(transaction.id, ALICE.public_key, TERMS, size)
    closed = OrderClosed(transaction.id, ALICE.public_key, OrderStatus.CANCELLED, size, size + 1)
    receipts = [Receipt(ZERO_HASH, (closed,)), Receipt(transaction.id, (placed,))]
    kept.add(1, [transaction], receipts)
    record = index.find_transaction(kept, transaction.id)
    assert record is not None
    assert record.events == (placed,)
    found = index.find_closed_order(kept, transaction.id)
    assert found is not None
    assert (found.status, found.rest_wh, found.refund_uthb) == (
        OrderStatus.CANCELLED,
        size,
        size + 1,
    )


def test_a_receipt_is_read_back_however_long_it_is() -> None:
    """One reading settles every sale of its slot."""
    kept = Index()
    transaction, _ = order(0)
    receipt = Receipt(transaction.id, (settled(1, 600),) * 70_000)
    kept.add(1, [transaction], [receipt])
    record = index.find_transaction(kept, transaction.id)
    assert record is not None
    assert record.events == receipt.events


def test_what_the_index_cannot_hold_makes_the_block_invalid() -> None:
    for totals in (Totals(withdrawn_uthb=2**2040), Totals(readings=-1)):
        with pytest.raises(Rejected, match="history index cannot hold block 7"):
            index_rows(7, 1000, SLOT * 900_000, [], [], totals)


def test_rows_are_cheap() -> None:
    """Bound generously: a full block must not spend its time on the index (about 2 us a row)."""
    made = [order(nonce) for nonce in range(200)]
    transactions, receipts = [one for one, _ in made], [one for _, one in made]
    assert all(transaction.id for transaction in transactions)  # Hashed at admission already.
    started = time.process_time()
    rows, _ = index_rows(1, 1000, SLOT * 900_000, transactions, receipts, Totals())
    assert (time.process_time() - started) / len(rows) < 50e-6
    assert len(rows) == 200 * 3 + 2


def test_filed_reports_are_listed_by_region_and_by_day() -> None:
    kept = Index()
    filed = [
        SettlementRecorded(region, territory, day, bytes([day % 256]) * 32)
        for day in (5, 6, 2**63 - 1)
        for region, territory in (("MET", "BKK"), ("MET", "NTB"), ("NOR", "CNX"))
    ]
    for height, event in enumerate(filed, 1):
        kept.add(height, [], [Receipt(ZERO_HASH, (event,))])

    def listed(**chosen: object) -> list[SettlementRecorded]:
        records, following = index.list_filed(kept, 100, **chosen)
        assert following is None
        return [one.event for one in records]

    newest_first = filed[::-1]
    assert listed() == newest_first
    assert listed(region="MET") == [one for one in newest_first if one.region == "MET"]
    assert listed(day=6) == [one for one in newest_first if one.day == 6]
    assert listed(region="NOR", day=2**63 - 1) == [filed[-1]]
    assert listed(region="ME", day=6) == []
    first, place = index.list_filed(kept, 1, region="NOR")
    assert place is not None
    second, _ = index.list_filed(kept, 1, place, region="NOR")
    assert [one.event for one in (*first, *second)] == [filed[-1], filed[5]]


def test_the_last_price_of_a_group_and_slot_is_found() -> None:
    kept = Index()
    for height, price_mthb in ((1, 3_000), (2, 3_500)):
        rows = (GroupPrice(0, "BKK-01-SUB001", price_mthb), GroupPrice(1, "BKK-01", 4_000))
        cleared = SlotCleared(SLOT, "BKK", 1_000, rows, ())
        kept.add(height, [], [Receipt(ZERO_HASH, (cleared,))])
    assert index.find_group_price(kept, 0, "BKK-01-SUB001", SLOT) == 3_500
    assert index.find_group_price(kept, 1, "BKK-01", SLOT) == 4_000
    assert index.find_group_price(kept, 1, "BKK-01-SUB001", SLOT) is None
    assert index.find_group_price(kept, 0, "BKK-01-SUB001", SLOT + 1) is None
