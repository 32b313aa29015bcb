"""Values of the chain as the API's JSON: integers as text, bytes as hex, names as in the docs."""

from __future__ import annotations

from typing import Any

from gridtokenx.api.answers.transaction import ShownTransaction
from gridtokenx.chain.transaction import Transaction
from gridtokenx.grid.model import ReadingRefused
from gridtokenx.primitives.document import to_document
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import Meter
from gridtokenx.storage.index import ClosedOrder, TradeRecord, TransactionRecord
from gridtokenx.trading.model import Order, PlaceOrder
from gridtokenx.views.status import Head


def document(value: Any) -> dict[str, Any]:
    """A wire value in an answer; its integers are text."""
    return to_document(value, text_integers=True)


def head_document(head: Head) -> dict[str, Any]:
    """The newest block of a chain."""
    return {
        "height": str(head.height),
        "hash": head.hash.hex(),
        "time_ms": str(head.time_ms),
        "market_ms": str(head.market_ms),
        "state_root": head.state_root.hex(),
        "proposer_index": head.proposer_index,
    }


# What a household's meter shows is for those alone who may ask `energy_getMeterReadings`.
_REGISTERS = ("import_wh_cum", "export_wh_cum")
_HIDDEN = {
    "meter_reading": _REGISTERS,
    "meter": _REGISTERS,
    "register_meter": _REGISTERS,
    "replace_meter": tuple(f"{device}_{one}" for device in ("old", "new") for one in _REGISTERS),
    "retire_meter": _REGISTERS,
    "reinstate_meter": _REGISTERS,
    "reading_accepted": ("import_wh", "export_wh", "deliverable_wh", "carbon_ucr"),
    "reading_refused": ("detail",),  # It names what the registers showed; the reason does not.
    "energy_consumed": ("energy_wh",),
}


def event_document(event: Any) -> dict[str, Any]:
    """An event; what a meter measured is null."""
    fields = _without_readings(document(event))
    if isinstance(event, ReadingRefused):
        fields["reason"] = ErrorCode(event.code).reason
    return fields


def meter_document(meter: Meter) -> dict[str, Any]:
    """A metering point; what it showed when its readings began is null."""
    return _without_readings(document(meter))


def _without_readings(fields: dict[str, Any]) -> dict[str, Any]:
    if fields["kind"] == "submit_readings":
        return {**fields, "readings": [_without_readings(one) for one in fields["readings"]]}
    return {**fields, **dict.fromkeys(_HIDDEN.get(fields["kind"], ()))}


def transaction_document(transaction: Transaction) -> dict[str, Any]:
    """A transaction's fields with its id; what a meter measured is null."""
    fields = document(transaction)
    del fields["kind"]
    fields["payload"] = _without_readings(fields["payload"])
    return {"tx_id": transaction.id.hex(), **fields}


def shown_transaction(transaction: Transaction) -> ShownTransaction:
    """A transaction's fields with its id."""
    return ShownTransaction(
        tx_id=transaction.id,
        chain_id=transaction.chain_id,
        sender=transaction.sender,
        nonce=transaction.nonce,
        fee_ugtx=transaction.fee_ugtx,
        payload=transaction.payload,
        signature=transaction.signature,
    )


def terms_document(terms: PlaceOrder) -> dict[str, Any]:
    """What an order asks, in the API's names."""
    return {
        "order_type": terms.side.name.lower(),
        "energy_wh": str(terms.energy_wh),
        "limit_mthb": str(terms.limit_mthb),
        "energy_source": terms.source.value,
        "require": terms.require,
        "grid_location": terms.location,
        "meter_id": terms.meter_id.hex(),
        "first_slot": str(terms.first_slot),
        "last_slot": str(terms.last_slot),
        "max_wh_per_slot": str(terms.max_wh_per_slot),
        "time_in_force": terms.time_in_force.value,
        "expires_ms": str(terms.expires_ms),
    }


def order_document(chain: str, order: Order) -> dict[str, Any]:
    """An open order."""
    filled_wh = order.terms.energy_wh - order.rest_wh
    return {
        "order_id": order.id.hex(),
        "chain": chain,
        "trader": format_address(order.owner),
        "status": "partially_filled" if filled_wh else "open",
        **terms_document(order.terms),
        "rest_wh": str(order.rest_wh),
        "filled_wh": str(filled_wh),
        "reserve_uthb": str(order.reserve_uthb),
        "congested": order.congested,
        "height": str(order.height),
        "placed_ms": str(order.placed_ms),
        "closed_ms": None,
        "refund_uthb": None,
    }


def closed_document(
    chain: str, placed: TransactionRecord, terms: PlaceOrder, closed: ClosedOrder
) -> dict[str, Any]:
    return {
        "order_id": placed.transaction.id.hex(),
        "chain": chain,
        "trader": format_address(placed.transaction.sender),
        "status": closed.status.value,
        **terms_document(terms),
        "rest_wh": str(closed.rest_wh),
        "filled_wh": str(terms.energy_wh - closed.rest_wh),
        "reserve_uthb": "0",
        "congested": False,
        "height": str(placed.when.height),
        "placed_ms": str(placed.when.market_ms),
        "closed_ms": str(closed.when.market_ms),
        "refund_uthb": str(closed.refund_uthb),
    }


def trade_document(chain: str, record: TradeRecord) -> dict[str, Any]:
    """A trade; its settlement once the seller's reading, or the deadline, came."""
    trade, settlement = record.trade, record.settlement
    return {
        "trade_id": trade.id.hex(),
        "chain": chain,
        "height": str(record.when.height),
        "time_ms": str(record.when.time_ms),
        "market_ms": str(record.when.market_ms),
        "slot": str(trade.slot),
        "buyer": format_address(trade.buyer),
        "seller": format_address(trade.seller),
        "buy_order_id": trade.buy_id.hex(),
        "sell_order_id": trade.sell_id.hex(),
        "energy_wh": str(trade.energy_wh),
        "price_mthb": str(trade.price_mthb),
        "wheeling_mthb": str(trade.wheeling_mthb),
        "tier": trade.tier,
        "territory": trade.territory,
        "energy_source": trade.source.value,
        "status": "matched" if settlement is None else "settled",
        "settlement": None if settlement is None else document(settlement),
    }
