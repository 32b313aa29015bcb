"""Methods that make an order: prepared for the caller's key, or signed by this node's own.

A node signs for nobody but itself: the seed's bare order works only where `api.local_signer` names
a key, which the configuration allows on loopback alone. Source:
docs/api.md "Submit an order".
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from gridtokenx.answers.fields import ADDRESS_EXAMPLE, HASH_EXAMPLE
from gridtokenx.answers.kinds import address, amount, boolean, choice, hex_bytes, integer, text
from gridtokenx.answers.order import PreparedOrder, SubmittedOrder
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.documents import tell_terms
from gridtokenx.api.errors import ApiError, invalid_params
from gridtokenx.api.table import Method, Route
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.places import SUBSTATION
from gridtokenx.primitives.quantities import (
    SLOT_MS,
    format_kwh,
    format_price,
    parse_kwh,
    slot_at,
)
from gridtokenx.registry import meters
from gridtokenx.trading import rules as trading
from gridtokenx.trading.model import PlaceOrder, Side, Source, TimeInForce
from gridtokenx.views.status import ChainStatus

HOUR_MS = 3_600_000
MAX_EXPIRATION_HOURS = 720
_BLOCKS_UNTIL_INCLUDED = 2  # Slots that close before an order can be in a block are left out.


_PLACE = text(32, SUBSTATION, "BKK-01-SUB001")
_SOURCES = choice(*(source.value for source in Source))

# What an order is asked for with; a quote asks for the same.
OrderType = Annotated[str, Rule("buy or sell", choice("buy", "sell"), example="sell")]
EnergyAmount = Annotated[
    Decimal, Rule("kWh, at most 3 decimals", amount(), unit="kWh", example="1.5")
]
GridLocation = Annotated[
    str, Rule("substation of the trader's meter", _PLACE, example="BKK-01-SUB001")
]
EnergySource = Annotated[str, Rule("a seller's plant, a buyer's wish", _SOURCES, example="solar")]
MeterId = Annotated[
    bytes | None,
    Rule(
        "the trader's meter; needed where several of its active ones at the place fit",
        hex_bytes(32, exactly=True),
        example=HASH_EXAMPLE,
    ),
]


@dataclass(frozen=True)
class OrderWish:
    """The seed's fields of an order."""

    order_type: OrderType
    energy_amount: EnergyAmount
    price_per_kwh: Annotated[
        Decimal, Rule("mTHB/kWh: 5000 is 5 THB", amount(), unit="mTHB/kWh", example=5000)
    ]
    grid_location: GridLocation
    energy_source: EnergySource = "any"
    expiration_hours: Annotated[
        int,
        Rule(
            "hours until the order ends", integer(1, MAX_EXPIRATION_HOURS), unit="hours", example=24
        ),
    ] = 24
    require: Annotated[
        bool, Rule("a buyer's source is a condition, not a wish", boolean(), example=False)
    ] = False
    meter_id: MeterId = None


@dataclass(frozen=True)
class _Trader:
    trader: Annotated[bytes, Rule("who will sign", address(), example=ADDRESS_EXAMPLE)]


@dataclass(frozen=True)
class PrepareParameters(OrderWish, _Trader):
    """An order, and whose."""


async def submit_order(context: Context, asked: OrderWish) -> SubmittedOrder:
    signer = context.local_signer
    if signer is None:
        raise ApiError(
            ErrorCode.SIGNATURE_REQUIRED,
            "this node signs for nobody; send a transaction signed by the trader's own key",
            hint=_command_line(asked),
        )
    status = context.chain_at(asked.grid_location)
    chain = status.spec.name
    terms = _terms(context, status, signer.public_key, asked)
    async with context.signing:
        nonce = context.handle.pending_nonce(chain, signer.public_key)
        transaction = sign_transaction(signer, status.spec.chain_id, nonce, terms)
        (outcome,) = await context.submissions.send(chain, [transaction.encoded])
    if outcome is not None:
        raise outcome
    return SubmittedOrder(
        order_id=transaction.id,
        tx_id=transaction.id,
        chain=chain,
        status="pending",
        trader=signer.public_key,
        order=tell_terms(terms),
    )


def prepare_order(context: Context, asked: PrepareParameters) -> PreparedOrder:
    status = context.chain_at(asked.grid_location)
    chain, trader = status.spec.name, asked.trader
    terms = _terms(context, status, trader, asked)
    return PreparedOrder(
        chain=chain,
        chain_id=status.spec.chain_id,
        nonce=context.handle.pending_nonce(chain, trader),
        payload=encode(terms),
        order=tell_terms(terms),
    )


def _terms(context: Context, status: ChainStatus, trader: bytes, asked: OrderWish) -> PlaceOrder:
    """The order behind the seed's fields: every slot that closes before it expires.

    Source: protocols/market.md 2.
    """
    side, source = Side[asked.order_type.upper()], Source(asked.energy_source)
    energy_wh = parse_kwh(asked.energy_amount)
    meter = meters.choose(
        context.meters_of(status, trader),
        location=asked.grid_location,
        selling=side is Side.SELL,
        source=source.value,
        named=asked.meter_id,
    )
    nameplate_w = meter.nameplate_export_w if side is Side.SELL else meter.nameplate_import_w
    first, last, expires_ms = _slots(status, asked.expiration_hours)
    return PlaceOrder(
        side=side,
        energy_wh=energy_wh,
        limit_mthb=limit_mthb(asked.price_per_kwh),
        location=meter.location,
        meter_id=meter.meter_id,
        source=source,
        require=asked.require,
        first_slot=first,
        last_slot=last,
        max_wh_per_slot=min(energy_wh, nameplate_w * SLOT_MS // HOUR_MS),
        time_in_force=TimeInForce.GOOD_TILL_CANCELLED,
        expires_ms=expires_ms,
    )


def _slots(status: ChainStatus, expiration_hours: int) -> tuple[int, int, int]:
    """(first slot, last slot, expiry) counted from the block that can include the order."""
    spec, head = status.spec, status.head
    block_ms = spec.genesis.market_clock.ms_per_block or spec.genesis.block_time_ms
    now_ms = head.market_ms + _BLOCKS_UNTIL_INCLUDED * block_ms
    expires_ms = head.market_ms + expiration_hours * HOUR_MS
    first = slot_at(now_ms) + 1
    open_slots = trading.parameters(status.view).open_slots
    last = min(slot_at(expires_ms - 1), slot_at(head.market_ms) + open_slots)
    if last < first:
        detail = f"no slot closes between now and {expiration_hours} h from now"
        raise ApiError(ErrorCode.INTERVAL_CLOSED, detail)
    return first, last, expires_ms


def limit_mthb(price: Decimal) -> int:
    """A `price_per_kwh` in whole mTHB/kWh. Errors: INVALID_PARAMS."""
    if price != int(price):
        detail = f"price_per_kwh must be a whole number of mTHB/kWh (5000 is 5 THB), not {price}"
        raise invalid_params(detail, parameter="price_per_kwh")
    return int(price)


def _command_line(asked: OrderWish) -> str:
    """The command that signs this very order."""
    energy_wh, meter_id = parse_kwh(asked.energy_amount), asked.meter_id
    return (
        f"gridtokenx orders place --side {asked.order_type} --kwh {format_kwh(energy_wh)} "
        f"--price {format_price(limit_mthb(asked.price_per_kwh))} "
        f"--source {asked.energy_source} --location {asked.grid_location} "
        f"--expires {asked.expiration_hours}h"
        f"{'' if meter_id is None else f' --meter {meter_id.hex()}'}"
    )


METHODS = (
    Method(
        "energy_submitOrder",
        submit_order,
        "Place an order signed by this node's local signer; elsewhere 401 signature_required.",
        routes=(Route("POST", "/energy/orders", status=202),),
    ),
    Method(
        "energy_prepareOrder",
        prepare_order,
        "What to sign for an order: the payload's canonical bytes, chain id and nonce.",
        routes=(Route("POST", "/energy/orders/prepare"),),
    ),
)
