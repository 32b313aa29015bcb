"""Values of the chain as parts of answers, in the API's names."""

from __future__ import annotations

from typing import Any

from gridtokenx.answers.energy import ListedOrder, ListedTrade, OrderTerms
from gridtokenx.answers.transaction import ShownTransaction
from gridtokenx.chain.transaction import Transaction
from gridtokenx.storage.index import ClosedOrder, TradeRecord, TransactionRecord
from gridtokenx.trading.model import Order, PlaceOrder


def tell_transaction(transaction: Transaction) -> ShownTransaction:
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


def tell_terms(terms: PlaceOrder) -> OrderTerms:
    """What an order asks, in the API's names."""
    return OrderTerms(**_terms(terms))


def _terms(terms: PlaceOrder) -> dict[str, Any]:
    return {
        "order_type": terms.side,
        "energy_wh": terms.energy_wh,
        "limit_mthb": terms.limit_mthb,
        "energy_source": terms.source,
        "require": terms.require,
        "grid_location": terms.location,
        "meter_id": terms.meter_id,
        "first_slot": terms.first_slot,
        "last_slot": terms.last_slot,
        "max_wh_per_slot": terms.max_wh_per_slot,
        "time_in_force": terms.time_in_force,
        "expires_ms": terms.expires_ms,
    }


def tell_order(chain: str, order: Order) -> ListedOrder:
    """An open order."""
    filled_wh = order.terms.energy_wh - order.rest_wh
    return ListedOrder(
        order_id=order.id,
        chain=chain,
        trader=order.owner,
        status="partially_filled" if filled_wh else "open",
        **_terms(order.terms),
        rest_wh=order.rest_wh,
        filled_wh=filled_wh,
        reserve_uthb=order.reserve_uthb,
        congested=order.congested,
        height=order.height,
        placed_ms=order.placed_ms,
        closed_ms=None,
        refund_uthb=None,
    )


def tell_closed_order(
    chain: str, placed: TransactionRecord, terms: PlaceOrder, closed: ClosedOrder
) -> ListedOrder:
    """An order that has left the book."""
    return ListedOrder(
        order_id=placed.transaction.id,
        chain=chain,
        trader=placed.transaction.sender,
        status=closed.status.value,
        **_terms(terms),
        rest_wh=closed.rest_wh,
        filled_wh=terms.energy_wh - closed.rest_wh,
        reserve_uthb=0,
        congested=False,
        height=placed.when.height,
        placed_ms=placed.when.market_ms,
        closed_ms=closed.when.market_ms,
        refund_uthb=closed.refund_uthb,
    )


def tell_trade(chain: str, record: TradeRecord) -> ListedTrade:
    """A trade; its settlement once the seller's reading, or the deadline, came."""
    trade, settlement = record.trade, record.settlement
    return ListedTrade(
        trade_id=trade.id,
        chain=chain,
        height=record.when.height,
        time_ms=record.when.time_ms,
        market_ms=record.when.market_ms,
        slot=trade.slot,
        buyer=trade.buyer,
        seller=trade.seller,
        buy_order_id=trade.buy_id,
        sell_order_id=trade.sell_id,
        energy_wh=trade.energy_wh,
        price_mthb=trade.price_mthb,
        wheeling_mthb=trade.wheeling_mthb,
        tier=trade.tier,
        territory=trade.territory,
        energy_source=trade.source,
        status="matched" if settlement is None else "settled",
        settlement=settlement,
    )
