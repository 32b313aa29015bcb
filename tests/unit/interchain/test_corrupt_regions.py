"""What the national chain lets a region do whose quorum lies: nothing beyond its escrow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gridtokenx.interchain import checkpoints
from gridtokenx.interchain.checkpoints import HeaderFacts, Home
from gridtokenx.interchain.log import log_to, logs_root, messages_from, next_head
from gridtokenx.interchain.model import (
    CHECKPOINTS,
    KEPT_CHECKPOINTS,
    MAX_UPWARD_BYTES,
    Acknowledgement,
    AuthorityMember,
    Bounced,
    Credit,
    HaltOrder,
    InterchainEvent,
    InterchainParameters,
    Message,
    MessageFailed,
    OrderRefused,
    RegionStatus,
    SettlementFiled,
    SettlementRecorded,
    SupplyReport,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS, Account, Asset, statement_bytes
from gridtokenx.primitives.codec import MAX_INT, encode
from gridtokenx.primitives.crypto import ZERO_HASH, SigningKey, sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.primitives.validators import Validator, ValidatorSet

BANK = SigningKey(sha256(b"bank"))
HOME = Home("TH", sha256(b"TH"), BANK.public_key)
DAY_MS = 86_400_000
SET = ValidatorSet.of(Validator(sha256(b"%d" % number), 1) for number in range(4))
OTHER = ValidatorSet.of(Validator(sha256(b"%d" % number), 1) for number in range(1, 5))
WHO = sha256(b"who")


class Liar:
    """A region whose quorum signs whatever it likes: only its log must be one log."""

    def __init__(self, name: str = "MET", beside: Liar | None = None) -> None:
        """`beside`: another region of the same network."""
        self.name = name
        self.state = Overlay(MemoryReader()) if beside is None else beside.state
        if beside is None:
            for one in ("MET", "NOR"):
                checkpoints.register_region(self.state, one, sha256(one.encode()), SET, 1_000)
            # It is there, so any amount may come to it.
            ACCOUNTS.put(self.state, WHO, Account(nonce=1))
        self.count, self.head, self.height = 0, ZERO_HASH, 0
        self.now_ms = 0

    def facts(self, messages: Sequence[bytes], **changes: object) -> HeaderFacts:
        for raw in messages:
            self.head = next_head(
                self.head, sha256(self.name.encode()), HOME.genesis_id, self.count, raw
            )
            self.count += 1
        self.height += 1
        fields: dict[str, object] = {
            "chain_id": sha256(self.name.encode()),
            "height": self.height,
            "hash": sha256(b"header %d" % self.height),
            "set_hash": SET.hash,
            "next_set_hash": SET.hash,
            "outbox_root": logs_root([(HOME.genesis_id, self.count, self.head)]),
            "outbox_count": self.count,
            "inbox_next": checkpoints.region_of(self.state, self.name).inbox_next,
        }
        return HeaderFacts(**(fields | changes))  # type: ignore[arg-type]

    def say(self, *messages: Message | bytes) -> list[InterchainEvent]:
        raws = [one if isinstance(one, bytes) else encode(one) for one in messages]
        return self.submit(self.facts(raws), raws)

    def submit(self, facts: HeaderFacts, raws: Sequence[bytes] = ()) -> list[InterchainEvent]:
        return checkpoints.checkpoint(
            self.state,
            self.name,
            facts,
            raws,
            verify=lambda validators: None,
            home=HOME,
            height=self.height,
            now_ms=self.now_ms,
        )

    def is_sent(self, amount: int) -> tuple[Credit, int]:
        """A credit from an account of the national chain, and its nonce in the region's queue."""
        sent = credit(amount, self.name, HOME.name)
        ledger.issue_gtx(self.state, WHO, amount)
        checkpoints.enter(self.state, self.name, Asset.GTX, amount, height=self.height)
        ledger.depart(self.state, WHO, Asset.GTX, amount)
        nonce = checkpoints.send_order(self.state, self.name, sent, home=HOME, height=self.height)
        return sent, nonce

    def escrow(self, name: str = "MET") -> checkpoints.Escrow:
        return checkpoints.region_of(self.state, name).escrow

    def queue(self, name: str = "MET") -> list[Message]:
        count = log_to(self.state, name).count
        return messages_from(self.state, name, 0, count, MAX_INT)


def credit(amount: int, destination: str = "TH", origin: str = "MET", asset=Asset.GTX) -> Credit:  # type: ignore[no-untyped-def]
    return Credit(sha256(b"%d" % amount), origin, destination, WHO, WHO, asset, amount)


def statement(total_uthb: int, chain: bytes = sha256(b"MET")) -> bytes:
    return BANK.sign(statement_bytes(chain, total_uthb))


def test_more_than_the_escrow_comes_back() -> None:
    liar = Liar()
    liar.say(credit(600), credit(600), credit(400))
    assert ledger.account(liar.state, WHO).gtx_ugtx == 1_000
    assert liar.escrow().gtx_ugtx == 0
    assert [type(one) for one in liar.queue()] == [Bounced, Acknowledgement]


def test_only_the_own_escrow_is_touched() -> None:
    liar = Liar()
    events = liar.say(credit(5, origin="NOR"), Bounced(1, 0, credit(5, "NOR", "TH"), "x"))
    assert [type(one) for one in events[1:]] == [MessageFailed, MessageFailed]
    assert liar.escrow("NOR").gtx_ugtx == liar.escrow().gtx_ugtx == 1_000
    assert ledger.account(liar.state, WHO).gtx_ugtx == 0


def test_only_what_was_sent_there_comes_back_and_once() -> None:
    liar = Liar()
    sent, nonce = liar.is_sent(300)
    for false in (
        Bounced(1, nonce + 1, sent, "another number"),
        Bounced(1, nonce, credit(301, "MET", "TH"), "another amount"),
        Bounced(1, nonce, credit(300, "MET", "NOR"), "of another chain"),
    ):
        assert isinstance(liar.say(false)[-1], MessageFailed)
    assert liar.escrow().gtx_ugtx == 1_300
    liar.say(Bounced(1, nonce, sent, "no such account"))
    assert isinstance(liar.say(Bounced(1, nonce, sent, "again"))[-1], MessageFailed)
    assert liar.escrow().gtx_ugtx == 1_000
    assert ledger.account(liar.state, WHO).gtx_ugtx == 300


def test_a_region_sends_no_more_than_a_days_limit() -> None:
    """Whoever captures a region cannot fill another with what it says it made."""
    liar = Liar()
    limit = InterchainParameters().daily_energy_wh
    energy = Asset.ENERGY
    liar.say(SupplyReport(MAX_INT, 0, 0, 0, 0, 0, bytes(64)))
    liar.say(credit(limit - 1, "NOR", asset=energy), credit(2, "NOR", asset=energy))
    assert liar.escrow("NOR").energy_wh == limit - 1
    liar.say(credit(1, asset=energy), credit(1, asset=energy))
    assert ledger.account(liar.state, WHO).energy_wh == 1
    assert [one.reason for one in liar.queue() if isinstance(one, Bounced)] == [
        "today 1 more may leave MET; try tomorrow",
        "today 0 more may leave MET; try tomorrow",
    ]
    liar.now_ms = DAY_MS
    liar.say(credit(5, "NOR", asset=energy))
    assert liar.escrow("NOR").energy_wh == limit + 4


def test_baht_counts_as_far_as_the_payment_authority_has_signed_for_it() -> None:
    liar = Liar()
    liar.say(SupplyReport(0, 0, 900, 0, 0, 0, bytes(64)))
    assert liar.escrow().thb_uthb == 0
    for false in (statement(900, sha256(b"NOR")), statement(901), bytes(64)):
        told = liar.say(SupplyReport(0, 0, 900, 0, 0, 900, false))
        assert isinstance(told[-1], MessageFailed)
    liar.say(SupplyReport(0, 0, 900, 0, 0, 700, statement(700)))
    assert liar.escrow().thb_uthb == 700
    fewer = SupplyReport(0, 0, 900, 0, 0, 600, statement(600))
    assert isinstance(liar.say(fewer)[-1], MessageFailed)
    assert liar.escrow().thb_uthb == 700
    liar.say(SupplyReport(0, 0, 900, 0, 0, 2_000, statement(2_000)))
    assert liar.escrow().thb_uthb == 900


def test_a_region_cannot_send_to_itself_or_to_nowhere() -> None:
    liar = Liar()
    liar.say(credit(1, "MET"), credit(2, "XYZ"), Bounced(1, 0, credit(3, "MET", "MET"), "x"))
    assert liar.escrow().gtx_ugtx == 1_000
    assert [type(one) for one in liar.queue()] == [Bounced, Bounced, Acknowledgement]


def test_reports_move_the_escrow_and_never_below_nothing() -> None:
    liar = Liar()
    signed = (50, statement(50))
    liar.say(SupplyReport(700, 100, 50, 0, 0, *signed))
    assert (liar.escrow().energy_wh, liar.escrow().thb_uthb) == (600, 50)
    for worse in (
        SupplyReport(600, 100, 50, 0, 0, *signed),  # Less minted than before.
        SupplyReport(700, 701, 50, 0, 0, *signed),  # More burned than there was.
        SupplyReport(700, 100, 0, 0, 1, *signed),
        SupplyReport(MAX_INT, 0, MAX_INT, MAX_INT, 0, MAX_INT, signed[1]),
    ):
        assert isinstance(liar.say(worse)[-1], MessageFailed)
        assert (liar.escrow().energy_wh, liar.escrow().thb_uthb) == (600, 50)


@pytest.mark.parametrize(
    "raw",
    [b"\x00", b"\xff" * MAX_UPWARD_BYTES, encode(HaltOrder("BKK", "no", 5)), encode(SET)[:300]],
)
def test_what_cannot_be_read_stops_nothing(raw: bytes) -> None:
    liar = Liar()
    events = liar.say(raw, credit(7))
    assert isinstance(events[1], MessageFailed)
    assert ledger.account(liar.state, WHO).gtx_ugtx == 7


def test_reports_and_refusals_are_told() -> None:
    events = Liar().say(SettlementFiled("BKK", 20_000, WHO), OrderRefused(3, "no such thing"))
    assert events[1:] == [
        SettlementRecorded("MET", "BKK", 20_000, WHO),
        MessageFailed("TH", 3, "no such thing"),
    ]


def test_a_messages_cannot_be_consumed_that_was_never_sent() -> None:
    liar = Liar()
    with pytest.raises(Rejected, match="never sent"):
        liar.submit(liar.facts([], inbox_next=1))
    liar.say(credit(1))  # Its acknowledgement is number 0 of the queue.
    liar.submit(liar.facts([], inbox_next=1))
    with pytest.raises(Rejected, match="never sent"):
        liar.submit(liar.facts([], inbox_next=0))


def test_a_set_that_was_not_ordered_here_signs_nothing() -> None:
    liar = Liar()
    for changes in ({"set_hash": OTHER.hash}, {"next_set_hash": OTHER.hash}):
        with pytest.raises(Rejected) as refusal:
            liar.submit(liar.facts([], **changes))
        assert refusal.value.code is ErrorCode.INVALID_CERTIFICATE
    members = [AuthorityMember(one.public_key, 1, WHO) for one in OTHER.members]
    checkpoints.order_authorities(liar.state, "MET", members, home=HOME, height=1)
    liar.submit(liar.facts([], next_set_hash=OTHER.hash))
    with pytest.raises(Rejected, match="was not ordered"):
        liar.submit(liar.facts([]))  # Never back.
    liar.submit(liar.facts([], set_hash=OTHER.hash, next_set_hash=OTHER.hash))


def test_a_second_header_of_an_old_height_freezes_and_the_newest_thousand_are_known() -> None:
    liar = Liar()
    for _ in range(KEPT_CHECKPOINTS + 2):
        liar.say()
    assert len(list(CHECKPOINTS.items(liar.state, b"MET\x00"))) == KEPT_CHECKPOINTS
    with pytest.raises(Rejected, match="DUPLICATE"):
        liar.submit(liar.facts([], height=2, hash=WHO))  # Forgotten, so not judged.
    liar.submit(liar.facts([], height=3, hash=WHO))
    region = checkpoints.region_of(liar.state, "MET")
    assert region.status(liar.height) is RegionStatus.FROZEN
    with pytest.raises(Rejected, match="NOT_ACTIVE"):
        liar.say()
