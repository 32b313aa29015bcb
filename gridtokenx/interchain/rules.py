"""Transfers that leave a chain, and what a region does with the messages it takes.

Every handler is total: a message that cannot be applied comes back as another one, and the queue
moves on. Source: protocols/interchain.md 3, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.checkpoints import reason_of
from gridtokenx.interchain.log import acknowledge, append, log_to, next_head
from gridtokenx.interchain.model import (
    FIRST_INCARNATION,
    INBOX,
    MAX_INBOX_BYTES,
    MAX_INBOX_MESSAGES,
    MAX_UNACKNOWLEDGED,
    NOTHING_MADE,
    REPORTED,
    Acknowledgement,
    AuthorityOrder,
    Bounced,
    Credit,
    Downward,
    HaltOrder,
    Inbox,
    Incarnation,
    InterchainEvent,
    MessageFailed,
    OperatorOrder,
    OrderRefused,
    ParameterOrder,
    SettlementFiled,
    SupplyReport,
    TransferAbroad,
    TransferCredited,
    TransferReturning,
    TransferSent,
    is_void,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.quantities import format_thb
from gridtokenx.primitives.state import Overlay, Reader

Order = ParameterOrder | HaltOrder | AuthorityOrder | OperatorOrder
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Which chain the rules run on. Ids are those of first incarnations; `chains` are the names of
    all chains of the network. Without a national chain nothing crosses. `incarnations` are those
    of this chain after its first.
    """

    name: str
    genesis_id: bytes
    national: str
    national_id: bytes
    chains: tuple[str, ...]
    incarnations: tuple[Incarnation, ...] = ()

    @property
    def incarnation(self) -> int:
        """The number of this chain's present incarnation."""
        return self.incarnations[-1].number if self.incarnations else FIRST_INCARNATION

    @property
    def is_national(self) -> bool:
        """Whether this is the national chain."""
        return self.name == self.national


def transfer_abroad(
    state: Overlay,
    command: TransferAbroad,
    *,
    sender: bytes,
    transfer_id: bytes,
    place: Place,
    height: int,
) -> list[InterchainEvent]:
    """Debit the sender and put a credit on its way.

    Errors: UNKNOWN_SHARD; WRONG_CHAIN for this very chain; CROSS_SHARD_PENDING while too much is on
    its way or the destination is paused; NOT_ACTIVE for a frozen one; NOT_PERMITTED for carbon;
    INSUFFICIENT_BALANCE.
    """
    destination = command.destination
    if destination == place.name:
        raise Rejected(ErrorCode.WRONG_CHAIN, f"{destination} is this chain; use a transfer")
    if not place.national or destination not in place.chains:
        known = ", ".join(place.chains)
        raise Rejected(ErrorCode.UNKNOWN_SHARD, f"no chain {destination!r}; there are {known}")
    if place.is_national:
        checkpoints.enter(state, destination, command.asset, command.amount, height=height)
        towards = destination
    else:
        _check_room(state, place.national)
        if command.asset is Asset.THB:
            _check_stated(state)
        if command.asset in (Asset.ENERGY, Asset.THB):
            report_supply(state, place=place, height=height)
        towards = place.national
    ledger.depart(state, sender, command.asset, command.amount)
    credit = Credit(
        transfer_id, place.name, destination, sender, command.to, command.asset, command.amount
    )
    nonce = append(state, credit, source_id=place.genesis_id, destination=towards, height=height)
    return [
        TransferSent(
            transfer_id, destination, sender, command.to, command.asset, command.amount, nonce
        )
    ]


def _check_room(state: Reader, national: str) -> None:
    log = log_to(state, national)
    waiting = log.count - log.acknowledged
    if waiting >= MAX_UNACKNOWLEDGED:
        detail = f"{waiting} messages wait to be taken by {national}; try again in a minute"
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)


def report_supply(state: Overlay, *, place: Place, height: int) -> None:
    """Tell the national chain what the region has created and destroyed, if that has changed.

    Goes before every transfer of energy or baht, so that the escrow there covers it.
    """
    report = supply_now(state)
    last = REPORTED.get(state, b"") or NOTHING_MADE
    if (report.energy_minted_wh, report.energy_burned_wh, report.thb_uthb) != (
        last.energy_minted_wh,
        last.energy_burned_wh,
        last.thb_uthb,
    ):
        REPORTED.put(state, b"", report)
        _send_up(state, report, place, height)


def supply_now(state: Reader) -> SupplyReport:
    """What the region has created and destroyed up to now."""
    total, crossed = ledger.supply(state), ledger.crossings(state)
    deposits = ledger.deposits(state)
    return SupplyReport(
        total.energy_minted_wh,
        total.energy_burned_wh,
        total.thb_uthb,
        crossed.thb_departed_uthb,
        crossed.thb_arrived_uthb,
        deposits.stated_uthb,
        deposits.statement,
    )


def _check_stated(state: Reader) -> None:
    """Other chains take no baht that the payment authority has not put its name to.

    Errors: CROSS_SHARD_PENDING.
    """
    deposits = ledger.deposits(state)
    if deposits.stated_uthb < deposits.total_uthb:
        missing = format_thb(deposits.total_uthb - deposits.stated_uthb)
        detail = (
            f"{missing} THB were deposited here that the payment authority has not stated yet; "
            "its next deposit with a statement covers all"
        )
        raise Rejected(ErrorCode.CROSS_SHARD_PENDING, detail)


def file_settlement(
    state: Overlay, territory: str, day: int, report_hash: bytes, *, place: Place, height: int
) -> None:
    """Tell the national chain the hash of a closed report, with the supply of the moment."""
    report_supply(state, place=place, height=height)
    _send_up(state, SettlementFiled(territory, day, report_hash), place, height)


# -- A region's inbox ------------------------------------------------------------------------------


def open_inbox(state: Overlay) -> None:
    """Before the first message; genesis does."""
    INBOX.put(state, b"", Inbox(0, ZERO_HASH, 0, ZERO_HASH))


def inbox_of(state: Reader) -> Inbox | None:
    """The region's place in its queue; None where nothing crosses."""
    return INBOX.get(state, b"")


def take_due(messages: Sequence[Downward]) -> tuple[Downward, ...]:
    """Of the messages next in the queue those that one block takes: 500, or 128 KiB."""
    size, taken = 0, 0
    for message in messages[:MAX_INBOX_MESSAGES]:
        size += len(encode(message))
        if taken and size > MAX_INBOX_BYTES:
            break
        taken += 1
    return tuple(messages[:taken])


def follow_root(state: Overlay, root_height: int, root_hash: bytes) -> None:
    """Name a national block, the same as the parent's or a later one. Errors: INVALID_BLOCK."""
    inbox = _inbox(state)
    if (root_height, root_hash) == (inbox.root_height, inbox.root_hash):
        return
    if root_height <= inbox.root_height:
        detail = f"root_height {root_height} does not follow the parent's {inbox.root_height}"
        raise Rejected(ErrorCode.INVALID_BLOCK, detail)
    INBOX.put(state, b"", replace(inbox, root_height=root_height, root_hash=root_hash))


def receive(
    state: Overlay,
    messages: Sequence[Downward],
    *,
    place: Place,
    height: int,
    run_order: Callable[[Overlay, Order], Sequence[T]],
) -> tuple[list[InterchainEvent], list[T]]:
    """Take messages from the queue, in order. `run_order(state, order)` does what is not money.

    Returns the events of interchain and those of the orders. Whether these messages are the ones
    next in the queue is judged before the vote by whoever follows the national chain.
    """
    events: list[InterchainEvent] = []
    told: list[T] = []
    for message in messages:
        inbox = _inbox(state)
        nonce = inbox.next
        head = next_head(inbox.head, place.national_id, place.genesis_id, nonce, encode(message))
        INBOX.put(state, b"", replace(inbox, next=nonce + 1, head=head))
        match message:
            case Credit():
                events += _receive_credit(state, message, nonce, place, height)
            case Bounced(incarnation, sent_nonce):
                if not is_void(place.incarnations, incarnation, sent_nonce):
                    events += checkpoints.refund(state, message, source=place.national, nonce=nonce)
            case Acknowledgement(incarnation, taken):
                if incarnation == place.incarnation:  # Else of messages that are void.
                    acknowledge(state, place.national, taken)
            case order:
                attempt = Overlay(state)
                try:
                    done = run_order(attempt, order)
                    attempt.merge()
                except Rejected as error:
                    reason = reason_of(error)
                    _send_up(state, OrderRefused(nonce, reason), place, height)
                    events.append(MessageFailed(place.national, nonce, reason))
                else:
                    told += done
    return events, told


def _receive_credit(
    state: Overlay, credit: Credit, nonce: int, place: Place, height: int
) -> list[InterchainEvent]:
    attempt = Overlay(state)
    try:
        ledger.arrive(attempt, credit.to, credit.asset, credit.amount)
        attempt.merge()
    except Rejected as error:
        reason = reason_of(error)
        _send_up(state, Bounced(place.incarnation, nonce, credit, reason), place, height)
        return [TransferReturning(credit.transfer_id, credit.origin, reason)]
    return [
        TransferCredited(credit.transfer_id, credit.origin, credit.to, credit.asset, credit.amount)
    ]


def _inbox(state: Reader) -> Inbox:
    found = INBOX.get(state, b"")
    if found is None:
        raise ValueError("this chain has no inbox")
    return found


def _send_up(
    state: Overlay,
    message: Bounced | SupplyReport | SettlementFiled | OrderRefused,
    place: Place,
    height: int,
) -> None:
    append(state, message, source_id=place.genesis_id, destination=place.national, height=height)
