"""Answers to those who make an order: what to sign, or what this node signed."""

from __future__ import annotations

from typing import Annotated, Literal

from gridtokenx.answers.energy import OrderTerms
from gridtokenx.answers.fields import ADDRESS_EXAMPLE, HASH_EXAMPLE, ChainName, answer
from gridtokenx.answers.shapes import Rule
from gridtokenx.primitives.types import Address


@answer
class SubmittedOrder:
    """An order that this node signed and admitted."""

    order_id: Annotated[
        bytes, Rule("id of the order, which is its transaction's", example=HASH_EXAMPLE)
    ]
    tx_id: Annotated[bytes, Rule("id of its transaction", example=HASH_EXAMPLE)]
    chain: ChainName
    status: Annotated[Literal["pending"], Rule("it waits for a block", example="pending")]
    trader: Annotated[Address, Rule("account that signed", example=ADDRESS_EXAMPLE)]
    order: Annotated[OrderTerms, Rule("what it asks")]


@answer
class PreparedOrder:
    """What to sign for an order."""

    chain: ChainName
    chain_id: Annotated[
        bytes, Rule("id of the chain in its present incarnation", example=HASH_EXAMPLE)
    ]
    nonce: Annotated[
        int, Rule("nonce that the transaction needs", unit="transactions", example="5")
    ]
    payload: Annotated[bytes, Rule("canonical bytes of the order", example="8d187a021905dc")]
    order: Annotated[OrderTerms, Rule("what it asks")]
