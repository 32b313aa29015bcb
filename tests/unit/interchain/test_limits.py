"""What one block of a region sends up a checkpoint can carry, or its messages stop for ever."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gridtokenx.chain.crossing import reports_closed
from gridtokenx.chain.genesis import MAX_TERRITORIES
from gridtokenx.chain.transaction import MAX_TRANSACTION_BYTES, decode_transaction, sign_transaction
from gridtokenx.cluster.devnet import dev_key, local_genesis
from gridtokenx.interchain import rules as interchain
from gridtokenx.interchain.checkpoints import reason_of
from gridtokenx.interchain.log import log_to, messages_from
from gridtokenx.interchain.model import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINT_MESSAGES,
    MAX_HEADER_BYTES,
    MAX_INBOX_MESSAGES,
    MAX_REASON_BYTES,
    MAX_UNACKNOWLEDGED,
    MAX_UPWARD_BYTES,
    Bounced,
    Credit,
    Downward,
    HaltOrder,
    OrderRefused,
    ParameterOrder,
    SettlementFiled,
    SubmitCheckpoint,
    SupplyReport,
    TransferAbroad,
    Upward,
)
from gridtokenx.interchain.rules import Order
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import MAX_INT, decode_any, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.trading.reports import MAX_DAYS_CLOSED

SPEC = local_genesis().chain("MET")
DEV = dev_key("dev")
FULL = b"\xff" * 32
TOO_MUCH = Credit(FULL, "ABCDEFGH", "IJKLMNOP", FULL, FULL, Asset.ENERGY, MAX_INT)
BLOCKS_MESSAGES = MAX_INBOX_MESSAGES + MAX_DAYS_CLOSED * MAX_TERRITORIES + 1 + 2


@pytest.fixture
def state() -> Overlay:
    """A region on which no more energy can arrive, one Wh is new, and DEV has gtx to send."""
    state = Overlay(MemoryReader())
    SPEC.install(state)
    ledger.mint_energy(state, DEV.public_key, 1, 0, local_wh=1)
    ledger.arrive(state, DEV.public_key, Asset.ENERGY, MAX_INT - 1)
    return state


def refuse(_state: Overlay, _order: Order) -> Sequence[object]:
    raise Rejected(ErrorCode.UNKNOWN_ZONE, "ก" * 200)


def take(state: Overlay, messages: Sequence[Downward]) -> None:
    """As the block of height 1 takes them, before anything else."""
    assert interchain.take_due(messages) == tuple(messages)
    interchain.receive(state, messages, place=SPEC.place, height=1, run_order=refuse)


def close(state: Overlay, days: int, territories: int) -> None:
    closed = [("BKK", MAX_INT - day, FULL) for day in range(days) for _ in range(territories)]
    reports_closed(state, closed, spec=SPEC, height=1)


def transfer(state: Overlay) -> None:
    command = TransferAbroad("TH", FULL, Asset.GTX, 1)
    interchain.transfer_abroad(
        state, command, sender=DEV.public_key, transfer_id=FULL, place=SPEC.place, height=1
    )


def sent(state: Overlay) -> list[bytes]:
    count = log_to(state, "TH").count
    return [encode(one) for one in messages_from(state, "TH", 0, count, 1)]


def test_the_limits_of_a_block_are_within_those_of_a_checkpoint() -> None:
    assert BLOCKS_MESSAGES <= MAX_CHECKPOINT_MESSAGES
    assert BLOCKS_MESSAGES * MAX_UPWARD_BYTES <= MAX_CHECKPOINT_BYTES
    full = (bytes(MAX_CHECKPOINT_BYTES // MAX_CHECKPOINT_MESSAGES),) * MAX_CHECKPOINT_MESSAGES
    assert sum(map(len, full)) == MAX_CHECKPOINT_BYTES
    command = SubmitCheckpoint("TH", bytes(MAX_HEADER_BYTES), bytes(MAX_CERTIFICATE_BYTES), full)
    signed = sign_transaction(DEV, FULL, MAX_INT, command, fee_ugtx=MAX_INT)
    assert len(signed.encoded) <= MAX_TRANSACTION_BYTES
    assert decode_transaction(signed.encoded).payload == command


@pytest.mark.parametrize(
    "message",
    [
        TOO_MUCH,
        Bounced(1, MAX_INT, TOO_MUCH, "x" * MAX_REASON_BYTES),
        Bounced(1, MAX_INT, TOO_MUCH, reason_of(Rejected(ErrorCode.OUT_OF_RANGE, "ก" * 64))),
        SupplyReport(*(MAX_INT,) * 6, FULL * 2),
        SettlementFiled("ก" * 3, MAX_INT, FULL),
        OrderRefused(MAX_INT, "x" * MAX_REASON_BYTES),
    ],
)
def test_no_message_is_longer_than_one_of_a_checkpoint(message: object) -> None:
    assert len(encode(message)) <= MAX_UPWARD_BYTES


def test_a_reason_is_cut_between_characters() -> None:
    told = reason_of(Rejected(ErrorCode.OUT_OF_RANGE, "ก" * 64))
    assert (told, len(told.encode())) == ("ก" * 21, 63)
    assert reason_of(Rejected(ErrorCode.OUT_OF_RANGE, "x" * 99)) == "x" * 64


def test_the_fullest_block_fits_a_checkpoint(state: Overlay) -> None:
    """All that it takes comes back, every territory closes four days, and transfers must wait."""
    take(state, [TOO_MUCH] * MAX_INBOX_MESSAGES)
    close(state, MAX_DAYS_CLOSED, MAX_TERRITORIES)
    with pytest.raises(Rejected, match="CROSS_SHARD_PENDING"):
        transfer(state)
    messages = sent(state)
    assert [type(decode_any(Upward, one)) for one in messages[499:502]] == [
        Bounced, SupplyReport, SettlementFiled,
    ]  # fmt: skip
    assert len(messages) == BLOCKS_MESSAGES - 2
    assert sum(map(len, messages)) <= MAX_CHECKPOINT_BYTES
    header, certificate = bytes(MAX_HEADER_BYTES), bytes(MAX_CERTIFICATE_BYTES)
    command = SubmitCheckpoint("MET", header, certificate, tuple(messages))
    signed = sign_transaction(DEV, FULL, 0, command)
    assert decode_transaction(signed.encoded).payload == command


def test_orders_that_are_refused_in_thai_come_back_short(state: Overlay) -> None:
    take(state, [ParameterOrder("x", 1), HaltOrder("BKK", "flood", 1)])
    assert max(map(len, sent(state))) < MAX_UPWARD_BYTES


@pytest.mark.parametrize("returned", [0, MAX_UNACKNOWLEDGED - 1, MAX_UNACKNOWLEDGED])
def test_a_block_takes_transfers_until_so_many_messages_wait(state: Overlay, returned: int) -> None:
    take(state, [TOO_MUCH] * returned)
    for _ in range(MAX_UNACKNOWLEDGED - returned):
        transfer(state)
    with pytest.raises(Rejected, match="CROSS_SHARD_PENDING"):
        transfer(state)
    assert len(sent(state)) == MAX_UNACKNOWLEDGED
