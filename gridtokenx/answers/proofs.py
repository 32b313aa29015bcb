"""Answers that a light client checks against the validators' signatures."""

from __future__ import annotations

from typing import Annotated

from gridtokenx.answers.fields import Account, AtHeight, ChainId, ChainName, Finalized, answer
from gridtokenx.answers.shapes import Rule
from gridtokenx.interchain.model import Region
from gridtokenx.ledger.model import Account as LedgerAccount


@answer
class StateProofAnswer:
    """A value of a chain's state, with header, certificate and proof."""

    chain: ChainName
    chain_id: ChainId
    height: AtHeight
    finalized: Finalized = True
    key: Annotated[bytes, Rule("key in the state", example="6c6100ff")]
    value: Annotated[bytes | None, Rule("what is there; null for nothing", example="89182800")]
    proof: Annotated[bytes, Rule("canonical bytes of the state proof", example="8218461900")]
    header: Annotated[bytes, Rule("canonical bytes of the block's header", example="9418205820")]
    certificate: Annotated[bytes, Rule("canonical bytes of the votes", example="8618280302")]
    set_changes: Annotated[
        tuple[bytes, ...],
        Rule("changes of the validator set after `since`, canonical bytes", example=["8418290a"]),
    ]
    next_since: Annotated[
        int | None, Rule("go on from here; null at the end", unit="blocks", example="42")
    ]


@answer
class AccountProof(StateProofAnswer):
    """An account's state, proven."""

    address: Account
    account: Annotated[LedgerAccount | None, Rule("what the value says; null for nothing")]


@answer
class RegionProof(StateProofAnswer):
    """A region's row in the national state, proven."""

    shard: ChainName
    region: Annotated[Region | None, Rule("what the value says; null for nothing")]
