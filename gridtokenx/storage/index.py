"""The history index: rows a block adds so that an API can answer without replaying blocks.

`index_rows` is a pure function of an executed block and the totals before it. It is asked before
anybody votes for the block, so nothing that is decided can fail here; the rows go into the block's
own database batch, so the index never disagrees with the chain. Sums grow for ever, so numbers are
kept with their length. Lists are keyed by account and by the complement of (height, number), so an
ascending scan is newest first and a page's cursor stays good when blocks come in.
Source: docs/api.md "REST".

Keys:  T totals | w ~slot: totals at the end of a slot | t id: transaction | h account place: id
       o account place: order id | c order id: how it closed | d trade id: trade | s trade id:
       settlement | n place: trade id | y account place: trade id | r account place: accepted
       reading | k account place: number of a retirement certificate | x transfer id, stage: an
       event of a transfer between chains | i account place: transfer id | f chain day place: hash
       of a region's settlement report; also under no chain, no day, and neither | g tier slot
       group: the last price at which the group cleared the slot
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gridtokenx.chain.block import Event, Receipt
from gridtokenx.chain.transaction import Transaction, decode_transaction
from gridtokenx.grid.model import ReadingAccepted
from gridtokenx.interchain.model import (
    SettlementRecorded,
    TransferAbroad,
    TransferCredited,
    TransferReturned,
    TransferReturning,
    TransferRouted,
    TransferSent,
)
from gridtokenx.ledger.model import CreditsRetired, Deposit, Deposited, Transfer, Withdrawn
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import slot_at
from gridtokenx.registry.model import (
    RegisterMeter,
    RegisterParticipant,
    ReinstateParticipant,
    RenewLicence,
    SuspendParticipant,
)
from gridtokenx.storage.totals import Totals, pack_numbers, unpack_numbers
from gridtokenx.trading.model import (
    EnergyConsumed,
    EnergyRedeemed,
    OrderClosed,
    OrderPlaced,
    OrderStatus,
    SlotCleared,
    Trade,
    TradeMatched,
    TradeSettled,
)

TOTALS_KEY = b"T"
SET_CHANGES = b"v"  # Rows under it, by height: a `SetChange` for each, kept for good.
MAX_PAGE = 100
PLACE_BYTES = 12

_TRANSACTION, _ACCOUNT_TRANSACTIONS = b"t", b"h"
_ACCOUNT_ORDERS, _CLOSED = b"o", b"c"
_TRADE, _SETTLEMENT, _TRADES, _ACCOUNT_TRADES = b"d", b"s", b"n", b"y"
_SLOT_TOTALS = b"w"
_ACCOUNT_READINGS, _ACCOUNT_CERTIFICATES = b"r", b"k"
_TRANSFER, _ACCOUNT_TRANSFERS = b"x", b"i"
_FILED = b"f"
_GROUP_PRICE = b"g"
_LAST = 2**64 - 1
_PLACED = b"\x00"  # In the place of a receipt, of which none begins with a zero.
_WHEN = struct.Struct(">QIQQ")  # height, number, time_ms, market_ms
_STATUSES = tuple(OrderStatus)
TransferEvent = (
    TransferSent | TransferRouted | TransferCredited | TransferReturning | TransferReturned
)
# In the order of a transfer's way; each happens once at most on a chain. Positions are in keys.
_STAGES: tuple[type[Any], ...] = (
    TransferSent,
    TransferRouted,
    TransferCredited,
    TransferReturning,
    TransferReturned,
)


class View(Protocol):
    """The two reads of `ChainView` that history needs."""

    def index_get(self, key: bytes) -> bytes | None: ...

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


@dataclass(frozen=True, slots=True)
class When:
    """Where and when something happened. `number` counts within the block; times in Unix ms."""

    height: int
    number: int
    time_ms: int
    market_ms: int


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """An included transaction and what it did."""

    when: When
    transaction: Transaction
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class ClosedOrder:
    """How an order left the book."""

    when: When
    status: OrderStatus
    rest_wh: int
    refund_uthb: int


@dataclass(frozen=True, slots=True)
class TradeRecord:
    """A trade and, once its readings are in, its settlement."""

    when: When
    trade: Trade
    settlement: TradeSettled | None


@dataclass(frozen=True, slots=True)
class ReadingRecord:
    """An accepted reading and when the chain took it."""

    when: When
    reading: ReadingAccepted


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """What this chain did about a transfer between chains, and when."""

    when: When
    event: TransferEvent


@dataclass(frozen=True, slots=True)
class FiledRecord:
    """The hash of a settlement report that a region has filed, and when it was recorded here."""

    when: When
    event: SettlementRecorded


@dataclass(frozen=True, slots=True)
class Page:
    """Ids, newest first, and the place to go on from (None: that was all)."""

    ids: tuple[bytes, ...]
    next_place: bytes | None


def index_rows(
    height: int,
    time_ms: int,
    market_ms: int,
    transactions: Sequence[Transaction],
    receipts: Sequence[Receipt],
    previous: Totals,
) -> tuple[list[tuple[bytes, bytes]], Totals]:
    """The rows a decided block adds, and the totals after it. About 5 us a row.

    `receipts` are the block's own and one for each transaction; times are the header's and the
    market's, Unix ms; `previous` is `load_totals` of the block before. The totals' rows are among
    the rows returned. Errors: INVALID_BLOCK where a row cannot be written.
    """
    try:
        return _index_rows(height, time_ms, market_ms, transactions, receipts, previous)
    except (OverflowError, UnicodeError, struct.error) as error:
        detail = f"the history index cannot hold block {height}: {error}"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail) from error


def _index_rows(
    height: int,
    time_ms: int,
    market_ms: int,
    transactions: Sequence[Transaction],
    receipts: Sequence[Receipt],
    previous: Totals,
) -> tuple[list[tuple[bytes, bytes]], Totals]:
    block = _BlockRows(height, time_ms, market_ms)
    block.added.update(blocks=1, transactions=len(transactions))
    events_of = {receipt.transaction_id: receipt.events for receipt in receipts}
    for number, transaction in enumerate(transactions):
        block.add_transaction(number, transaction, events_of.get(transaction.id, ()))
    for receipt in receipts:
        for event in receipt.events:
            add = _EVENT_ROWS.get(type(event))
            if add is not None:
                add(block, event)
    totals = replace(
        previous, **{name: getattr(previous, name) + more for name, more in block.added.items()}
    )
    packed = totals.pack()
    block.rows.append((TOTALS_KEY, packed))
    block.rows.append((_SLOT_TOTALS + _inverted(slot_at(market_ms)), packed))
    return block.rows, totals


class _BlockRows:
    """The rows of one block while they are collected."""

    def __init__(self, height: int, time_ms: int, market_ms: int) -> None:
        self.rows: list[tuple[bytes, bytes]] = []
        self.added: Counter[str] = Counter()  # By field of `Totals`.
        self._times = (time_ms, market_ms)
        self._height = height
        self._inverted = _inverted(height)
        self._trades = 0
        self._readings = 0
        self._certificates = 0
        self._transfers = 0
        self._filed = 0

    def add_transaction(
        self, number: int, transaction: Transaction, events: tuple[Event, ...]
    ) -> None:
        """The transaction with its receipt, and a line for everyone it concerns."""
        key = transaction.id
        place = self._place(number)
        body = transaction.encoded
        receipt = b""
        if len(events) == 1 and type(events[0]) is OrderPlaced:
            # Most of a full block; its receipt repeats the order, so it is rebuilt when asked for.
            receipt = _PLACED + pack_numbers(events[0].reserve_uthb)
            self.rows.append((_ACCOUNT_ORDERS + transaction.sender + place, key))
        elif events:
            receipt = encode(Receipt(key, events))
        size = len(body).to_bytes(4, "big")
        self.rows.append((_TRANSACTION + key, self._when(number) + size + body + receipt))
        self.rows.append((_ACCOUNT_TRANSACTIONS + transaction.sender + place, key))
        other = _counterparty(transaction)
        if other is not None and other != transaction.sender:
            self.rows.append((_ACCOUNT_TRANSACTIONS + other + place, key))

    def order_placed(self, _event: OrderPlaced) -> None:
        self.added["orders"] += 1

    def order_closed(self, event: OrderClosed) -> None:
        added = self.added
        if event.status is OrderStatus.FILLED:
            added["orders_filled"] += 1
        elif event.status is OrderStatus.CANCELLED:
            added["orders_cancelled"] += 1
        else:
            added["orders_expired"] += 1
        status = _STATUSES.index(event.status)
        value = self._when(0) + pack_numbers(status, event.rest_wh, event.refund_uthb)
        self.rows.append((_CLOSED + event.order_id, value))

    def trade_matched(self, event: TradeMatched) -> None:
        trade = event.trade
        added = self.added
        added["trades"] += 1
        added["traded_wh"] += trade.energy_wh
        added["traded_uthb"] += trade.energy_wh * trade.price_mthb
        number, self._trades = self._trades, self._trades + 1
        place = self._place(number)
        self.rows += (
            (_TRADE + trade.id, self._when(number) + encode(trade)),
            (_TRADES + place, trade.id),
            (_ACCOUNT_TRADES + trade.buyer + place, trade.id),
            (_ACCOUNT_TRADES + trade.seller + place, trade.id),
        )

    def trade_settled(self, event: TradeSettled) -> None:
        added = self.added
        added["trades_settled"] += 1
        added["delivered_wh"] += event.delivered_wh
        added["shortfall_wh"] += event.traded_wh - event.delivered_wh
        added["energy_uthb"] += event.energy_uthb
        added["wheeling_uthb"] += event.wheeling_uthb
        added["vat_uthb"] += event.vat_uthb
        added["fee_uthb"] += event.fee_uthb
        added["penalty_uthb"] += event.penalty_uthb
        self.rows.append((_SETTLEMENT + event.trade_id, encode(event)))

    def reading_accepted(self, event: ReadingAccepted) -> None:
        self.added["readings"] += 1
        self.added["minted_wh"] += event.export_wh
        self.added["carbon_ucr"] += event.carbon_ucr
        number, self._readings = self._readings, self._readings + 1
        key = _ACCOUNT_READINGS + event.owner + self._place(number)
        self.rows.append((key, self._when(number) + encode(event)))

    def slot_cleared(self, event: SlotCleared) -> None:
        self.added["congested"] += len(event.congested)
        for row in event.prices:  # A later clearing of the slot takes the place of an earlier one.
            key = _group_price_key(row.tier, row.group, event.slot)
            self.rows.append((key, pack_numbers(row.price_mthb)))

    def credits_retired(self, event: CreditsRetired) -> None:
        self.added["carbon_retired_ucr"] += event.amount_ucr
        self.added["certificates"] += 1
        number, self._certificates = self._certificates, self._certificates + 1
        key = _ACCOUNT_CERTIFICATES + event.owner + self._place(number)
        self.rows.append((key, event.certificate.to_bytes(8, "big")))

    def energy_redeemed(self, event: EnergyRedeemed) -> None:
        self.added["redeemed_wh"] += event.energy_wh
        self.added["redeemed_uthb"] += event.paid_uthb

    def withdrawn(self, event: Withdrawn) -> None:
        self.added["withdrawn_uthb"] += event.amount_uthb

    def energy_consumed(self, event: EnergyConsumed) -> None:
        self.added["consumed_wh"] += event.energy_wh

    def deposited(self, event: Deposited) -> None:
        self.added["deposited_uthb"] += event.amount_uthb

    def transfer_moved(self, event: TransferEvent) -> None:
        number, self._transfers = self._transfers, self._transfers + 1
        stage = stage_of(event).to_bytes(1, "big")
        key = _TRANSFER + event.transfer_id + stage
        self.rows.append((key, self._when(number) + encode(event)))
        concerned: tuple[bytes, ...] = ()
        if isinstance(event, TransferSent):
            concerned = (event.sender, event.to)
        elif isinstance(event, TransferCredited):
            concerned = (event.to,)
        for account in dict.fromkeys(concerned):
            self.rows.append(
                (_ACCOUNT_TRANSFERS + account + self._place(number), event.transfer_id)
            )

    def settlement_recorded(self, event: SettlementRecorded) -> None:
        number, self._filed = self._filed, self._filed + 1
        value = self._when(number) + encode(event)
        for region in (None, event.region):
            for day in (None, event.day):
                self.rows.append((_filed_prefix(region, day) + self._place(number), value))

    def _when(self, number: int) -> bytes:
        return _WHEN.pack(self._height, number, *self._times)

    def _place(self, number: int) -> bytes:
        return self._inverted + (2**32 - 1 - number).to_bytes(4, "big")


_EVENT_ROWS: dict[type[Any], Callable[[_BlockRows, Any], None]] = {
    OrderPlaced: _BlockRows.order_placed,
    OrderClosed: _BlockRows.order_closed,
    TradeMatched: _BlockRows.trade_matched,
    TradeSettled: _BlockRows.trade_settled,
    ReadingAccepted: _BlockRows.reading_accepted,
    EnergyConsumed: _BlockRows.energy_consumed,
    Deposited: _BlockRows.deposited,
    Withdrawn: _BlockRows.withdrawn,
    SlotCleared: _BlockRows.slot_cleared,
    CreditsRetired: _BlockRows.credits_retired,
    EnergyRedeemed: _BlockRows.energy_redeemed,
    SettlementRecorded: _BlockRows.settlement_recorded,
    **dict.fromkeys(_STAGES, _BlockRows.transfer_moved),
}


def load_totals(view: View) -> Totals:
    """The totals after the view's newest block; zeros before block 1."""
    raw = view.index_get(TOTALS_KEY)
    return Totals() if raw is None else Totals.unpack(raw)


def totals_at_slot(view: View, slot: int) -> Totals:
    """The totals at the end of a market slot: of the last block whose slot is not later."""
    for _, raw in view.index_rows(_SLOT_TOTALS, _SLOT_TOTALS + _inverted(slot)):
        return Totals.unpack(raw)
    return Totals()


def find_transaction(view: View, transaction_id: bytes) -> TransactionRecord | None:
    """An included transaction with its events."""
    raw = view.index_get(_TRANSACTION + transaction_id)
    if raw is None:
        return None
    when, rest = _split_when(raw)
    size = int.from_bytes(rest[:4], "big")
    transaction = decode_transaction(rest[4 : 4 + size])
    receipt = rest[4 + size :]
    if not receipt:
        return TransactionRecord(when, transaction, ())
    if receipt.startswith(_PLACED):
        terms: Any = transaction.payload
        (reserve_uthb,) = unpack_numbers(receipt[len(_PLACED) :])
        placed = OrderPlaced(transaction_id, transaction.sender, terms, reserve_uthb)
        return TransactionRecord(when, transaction, (placed,))
    # Our own row, however long: one reading may have settled any number of trades.
    return TransactionRecord(when, transaction, decode(Receipt, receipt, len(receipt)).events)


def find_closed_order(view: View, order_id: bytes) -> ClosedOrder | None:
    """How an order ended; None while it is open or was never placed."""
    raw = view.index_get(_CLOSED + order_id)
    if raw is None:
        return None
    when, rest = _split_when(raw)
    status, rest_wh, refund_uthb = unpack_numbers(rest)
    return ClosedOrder(when, _STATUSES[status], rest_wh, refund_uthb)


def find_trade(view: View, trade_id: bytes) -> TradeRecord | None:
    """A trade with its settlement."""
    raw = view.index_get(_TRADE + trade_id)
    if raw is None:
        return None
    when, rest = _split_when(raw)
    settled = view.index_get(_SETTLEMENT + trade_id)
    settlement = None if settled is None else decode(TradeSettled, settled)
    return TradeRecord(when, decode(Trade, rest), settlement)


def find_group_price(view: View, tier: int, group: str, slot: int) -> int | None:
    """The last price (mTHB/kWh) at which a group cleared a slot; None if it never traded in it."""
    raw = view.index_get(_group_price_key(tier, group, slot))
    return None if raw is None else unpack_numbers(raw)[0]


def _group_price_key(tier: int, group: str, slot: int) -> bytes:
    return _GROUP_PRICE + bytes((tier,)) + slot.to_bytes(8, "big") + group.encode()


def list_trades(view: View, limit: int, after: bytes = b"", account: bytes | None = None) -> Page:
    """Trade ids, newest first; of one account if given. `after` is a page's `next_place`."""
    prefix = _TRADES if account is None else _ACCOUNT_TRADES + account
    return _page(view, prefix, limit, after)


def orders_from(view: View, account: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(place, id) of every order an account placed after that place, newest first: for a reader
    that leaves some out, as far as it reads."""
    return _rows_from(view, _ACCOUNT_ORDERS + account, after)


def list_transactions(view: View, account: bytes, limit: int, after: bytes = b"") -> Page:
    """Ids of the transactions an account sent or received money or a registration by."""
    return _page(view, _ACCOUNT_TRANSACTIONS + account, limit, after)


def stage_of(event: TransferEvent) -> int:
    """Where on a transfer's way an event is."""
    return _STAGES.index(type(event))


def find_transfer(view: View, transfer_id: bytes) -> list[TransferRecord]:
    """What this chain did about a transfer, in the order of its way; [] if nothing."""
    found = []
    for key, raw in view.index_rows(_TRANSFER + transfer_id):
        when, rest = _split_when(raw)
        found.append(TransferRecord(when, decode(_STAGES[key[-1]], rest)))
    return found


def list_transfers(view: View, account: bytes, limit: int, after: bytes = b"") -> Page:
    """Ids of transfers that an account sent from this chain, or that it is to get or got here."""
    return _page(view, _ACCOUNT_TRANSFERS + account, limit, after)


def list_filed(
    view: View, limit: int, after: bytes = b"", *, region: str | None = None, day: int | None = None
) -> tuple[list[FiledRecord], bytes | None]:
    """Settlement reports' hashes that this national chain has recorded, newest first, and the
    place to go on from: of all regions and days, or of one region chain, one day, or both.
    """
    page = _page(view, _filed_prefix(region, day), limit, after)
    split = [_split_when(raw) for raw in page.ids]
    records = [FiledRecord(when, decode(SettlementRecorded, rest)) for when, rest in split]
    return records, page.next_place


def _filed_prefix(region: str | None, day: int | None) -> bytes:
    """A region's name has at most eight characters; no day is 2**63 or more."""
    name = (region or "").encode().ljust(8, b"\x00")
    return _FILED + name + (_LAST if day is None else day).to_bytes(8, "big")


def list_certificates(view: View, account: bytes, limit: int, after: bytes = b"") -> Page:
    """Numbers (u64) of the retirement certificates an account holds, newest first."""
    return _page(view, _ACCOUNT_CERTIFICATES + account, limit, after)


def list_readings(
    view: View, account: bytes, limit: int, after: bytes = b""
) -> tuple[list[ReadingRecord], bytes | None]:
    """Accepted readings of an account's meters, newest first, and the place to go on from."""
    page = _page(view, _ACCOUNT_READINGS + account, limit, after)
    split = [_split_when(raw) for raw in page.ids]
    records = [ReadingRecord(when, decode(ReadingAccepted, rest)) for when, rest in split]
    return records, page.next_place


def _page(view: View, prefix: bytes, limit: int, after: bytes) -> Page:
    if not 1 <= limit <= MAX_PAGE:
        raise Rejected(ErrorCode.OUT_OF_RANGE, f"limit must be 1..{MAX_PAGE}, not {limit}")
    ids: list[bytes] = []
    last = b""
    for place, value in _rows_from(view, prefix, after):
        if len(ids) == limit:
            return Page(tuple(ids), last)
        ids.append(value)
        last = place
    return Page(tuple(ids), None)


def _rows_from(view: View, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(place, value) of the rows after a place. Errors: MALFORMED for what is no place."""
    if after and len(after) != PLACE_BYTES:
        raise Rejected(ErrorCode.MALFORMED, "this cursor does not come from this list")
    start = prefix + after + b"\x00" if after else b""
    for key, value in view.index_rows(prefix, start):
        yield key[len(prefix) :], value


def _counterparty(transaction: Transaction) -> bytes | None:
    match transaction.payload:
        case Transfer(to=account) | Deposit(to=account) | TransferAbroad(to=account):
            return account
        case RegisterParticipant(account=account) | RegisterMeter(owner=account):
            return account
        case SuspendParticipant(account=account) | ReinstateParticipant(account=account):
            return account
        case RenewLicence(account=account):
            return account
    return None


def _split_when(raw: bytes) -> tuple[When, bytes]:
    return When(*_WHEN.unpack(raw[: _WHEN.size])), raw[_WHEN.size :]


def _inverted(number: int) -> bytes:
    """Eight bytes that sort the other way round."""
    return (_LAST - number).to_bytes(8, "big")
