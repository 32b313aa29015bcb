"""Answers about accounts."""

from __future__ import annotations

from typing import Annotated

from gridtokenx.answers.energy import ListedOrder
from gridtokenx.answers.fields import (
    Account,
    AsOf,
    AtHeight,
    ChainName,
    Height,
    Incarnation,
    MarketMs,
    NextCursor,
    Position,
    TimeMs,
    answer,
    count,
)
from gridtokenx.answers.shapes import Rule
from gridtokenx.answers.shown import ShownEvents, ShownMeters
from gridtokenx.answers.transaction import ShownTransaction
from gridtokenx.registry.model import Participant


@answer
class Balances:
    """What an account holds of each asset, and what of it is reserved."""

    energy_wh: Annotated[int, Rule("energy to sell or redeem", example="1500")]
    energy_held_wh: Annotated[
        int, Rule("energy that waits for a reading of its meter", example="0")
    ]
    thb_uthb: Annotated[int, Rule("free baht", example="5000000000")]
    escrow_uthb: Annotated[int, Rule("baht set aside for orders to buy", example="6000000")]
    bond_uthb: Annotated[int, Rule("baht set aside for orders to sell", example="2000000")]
    gtx_ugtx: Annotated[int, Rule("gtx that pays fees and votes", example="1000000")]
    carbon_ucr: Annotated[int, Rule("carbon credits", example="400000")]
    local_wh: Annotated[
        int, Rule("part of energy_wh that was metered in the account's territory", example="1500")
    ]


@answer
class BalancesOnChain(Balances, AsOf):
    """What an account holds on one chain."""


@answer
class AccountBalance:
    """What an account holds, by chain and in total."""

    address: Account
    totals: Balances
    chains: tuple[BalancesOnChain, ...]


@answer
class _AccountHead(AsOf):
    nonce: Annotated[int, Rule("nonce of its next transaction", unit="transactions", example="7")]


@answer
class AccountOnChain(Balances, _AccountHead):
    """What an account holds and owns on one chain."""

    participant: Annotated[Participant | None, Rule("its registration; null without one")]
    meters: ShownMeters
    meter_count: Annotated[int, count("meters it ever had; at most 100 are listed", "meters", 1)]
    open_orders: tuple[ListedOrder, ...]


@answer
class AccountOnChains:
    """What an account holds and owns, by chain, and what it holds in total."""

    address: Account
    totals: Balances
    chains: tuple[AccountOnChain, ...]


@answer
class HistoryEntry:
    """A transaction that an account sent or that names it."""

    height: AtHeight
    position: Position
    time_ms: TimeMs
    market_ms: MarketMs
    transaction: ShownTransaction
    events: ShownEvents


@answer
class AccountHistory:
    """A page of an account's transactions, newest first."""

    chain: ChainName
    height: Height
    items: tuple[HistoryEntry, ...]
    next_cursor: NextCursor


@answer
class NextNonce:
    """The nonce of an account's next transaction on a chain."""

    address: Account
    chain: ChainName
    incarnation: Incarnation
    height: Height
    nonce: Annotated[int, Rule("nonce to sign with", unit="transactions", example="7")]
    pending: Annotated[bool, Rule("whether what waits here is counted", example=True)]
