"""Methods about accounts: what they hold on each chain, their history, and proofs of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from gridtokenx.answers.account import (
    AccountBalance,
    AccountHistory,
    AccountOnChain,
    AccountOnChains,
    Balances,
    BalancesOnChain,
    HistoryEntry,
    NextNonce,
)
from gridtokenx.answers.kinds import boolean, format_cursor
from gridtokenx.answers.proofs import AccountProof
from gridtokenx.answers.shapes import Rule
from gridtokenx.api.context import Context
from gridtokenx.api.documents import tell_order, tell_transaction
from gridtokenx.api.errors import ApiError
from gridtokenx.api.methods.proofs import Since, prove
from gridtokenx.api.table import AccountId, ChainName, Method, PageCursor, PageLimit, Route
from gridtokenx.ledger.model import ACCOUNTS, Account
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import PARTICIPANTS
from gridtokenx.storage import index
from gridtokenx.trading.model import ORDERS, TRADERS
from gridtokenx.views.status import ChainStatus


@dataclass(frozen=True, slots=True)
class AccountParameters:
    """An account, on one chain or on all."""

    address: AccountId
    chain: ChainName = None


@dataclass(frozen=True, slots=True)
class NonceParameters(AccountParameters):
    """Whose nonce, on which chain, and as of when."""

    pending: Annotated[bool, Rule("count what waits in the mempool", boolean(), example=True)] = (
        True
    )


@dataclass(frozen=True, slots=True)
class HistoryParameters(AccountParameters):
    """Whose transactions, on which chain, from where on."""

    limit: PageLimit = 50
    cursor: PageCursor = b""


@dataclass(frozen=True, slots=True)
class ProofParameters(AccountParameters):
    """Whose account, and which validator set its asker trusts."""

    since: Since = 0


MAX_METERS = 100  # In one answer.
_BALANCES = tuple(field.name for field in fields(Account) if field.name != "nonce")


def get_account(context: Context, asked: AccountParameters) -> AccountOnChains:
    found = _accounts(context, asked.address, asked.chain)
    return AccountOnChains(
        address=asked.address,
        totals=Balances(**_sums(account for _, account in found)),
        chains=tuple(
            _account_on_chain(context, status, asked.address, account) for status, account in found
        ),
    )


def get_balance(context: Context, asked: AccountParameters) -> AccountBalance:
    found = _accounts(context, asked.address, asked.chain)
    return AccountBalance(
        address=asked.address,
        totals=Balances(**_sums(account for _, account in found)),
        chains=tuple(
            BalancesOnChain(
                chain=status.spec.name, height=status.head.height, **_balances_of(account)
            )
            for status, account in found
        ),
    )


def _balances_of(account: Account) -> dict[str, Any]:
    return {name: getattr(account, name) for name in _BALANCES}


def _sums(accounts: Iterable[Account]) -> dict[str, int]:
    """Over chains; gtx of genesis is on every chain, see `chains` for each."""
    held = list(accounts)
    return {name: sum(getattr(account, name) for account in held) for name in _BALANCES}


def _accounts(context: Context, who: bytes, chain: str | None) -> list[tuple[ChainStatus, Account]]:
    """The account on each chain asked for. Errors: ACCOUNT_NOT_FOUND when no chain knows it."""
    found = [(one, ACCOUNTS.get(one.view, who)) for one in context.selected(chain)]
    known = any(
        account is not None or PARTICIPANTS.get(status.view, who) is not None
        for status, account in found
    )
    if not known:
        names = ", ".join(status.spec.name for status, _ in found)
        detail = f"{format_address(who)} has no account on {names}"
        raise ApiError(ErrorCode.ACCOUNT_NOT_FOUND, detail)
    return [(status, account or Account()) for status, account in found]


def _account_on_chain(
    context: Context, status: ChainStatus, who: bytes, account: Account
) -> AccountOnChain:
    lines = TRADERS.get(status.view, who)
    ids = [] if lines is None else [line.order_id for line in (*lines.buys, *lines.sells)]
    orders = [ORDERS.get(status.view, order_id) for order_id in ids]
    meters = context.meters_of(status, who)
    name = status.spec.name
    return AccountOnChain(
        chain=name,
        height=status.head.height,
        nonce=account.nonce,
        **_balances_of(account),
        participant=PARTICIPANTS.get(status.view, who),
        meters=tuple(meters[:MAX_METERS]),
        meter_count=len(meters),
        open_orders=tuple(tell_order(name, order) for order in orders if order is not None),
    )


def get_nonce(context: Context, asked: NonceParameters) -> NextNonce:
    status = context.chain(asked.chain)
    if asked.pending:
        nonce = context.handle.pending_nonce(status.spec.name, asked.address)
    else:
        nonce = (ACCOUNTS.get(status.view, asked.address) or Account()).nonce
    return NextNonce(
        address=asked.address,
        chain=status.spec.name,
        incarnation=status.spec.incarnation,
        height=status.head.height,
        nonce=nonce,
        pending=asked.pending,
    )


def get_history(context: Context, asked: HistoryParameters) -> AccountHistory:
    status = context.chain(asked.chain)
    page = index.list_transactions(status.view, asked.address, asked.limit, asked.cursor)
    records = (index.find_transaction(status.view, one) for one in page.ids)
    return AccountHistory(
        chain=status.spec.name,
        height=status.head.height,
        items=tuple(
            HistoryEntry(
                height=record.when.height,
                position=record.when.number,
                time_ms=record.when.time_ms,
                market_ms=record.when.market_ms,
                transaction=tell_transaction(record.transaction),
                events=record.events,
            )
            for record in records
            if record is not None
        ),
        next_cursor=format_cursor(page.next_place),
    )


async def get_proof(context: Context, asked: ProofParameters) -> AccountProof:
    key = ACCOUNTS.prefix + asked.address
    proven = await prove(lambda: context.chain(asked.chain), key, asked.since)
    account = None if proven.value is None else ACCOUNTS.decode(proven.value)
    return AccountProof(**proven.fields, address=asked.address, account=account)


METHODS = (
    Method(
        "account_get",
        get_account,
        "What an account holds and owns on each followed chain, with totals.",
        routes=(Route("GET", "/accounts/{address}"),),
        cost=5,
    ),
    Method(
        "account_getBalance",
        get_balance,
        "The three assets, escrow, bond and carbon of an account, by chain and in total.",
        routes=(Route("GET", "/accounts/{address}/balance"),),
    ),
    Method(
        "account_getNonce",
        get_nonce,
        "The nonce of an account's next transaction.",
        routes=(Route("GET", "/accounts/{address}/nonce"),),
    ),
    Method(
        "account_getHistory",
        get_history,
        "Transactions an account sent or that name it, newest first.",
        routes=(Route("GET", "/accounts/{address}/history"),),
        cost=5,
    ),
    Method(
        "account_getProof",
        get_proof,
        "An account's state with all a light client needs: header, certificate, state proof.",
        routes=(Route("GET", "/accounts/{address}/proof"),),
        cost=10,
    ),
)
