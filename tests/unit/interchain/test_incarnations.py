"""A region goes on from a block of its past: what is void, what is lost, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.interchain import checkpoints, incarnations
from gridtokenx.interchain import model as interchain_model
from gridtokenx.interchain.incarnations import incarnation_id, reincarnate
from gridtokenx.interchain.log import log_to
from gridtokenx.interchain.model import (
    KEPT_CHECKPOINTS,
    REGIONS,
    Acknowledgement,
    AuthorityMember,
    Bounced,
    Escrow,
    RegionReborn,
    RegionStatus,
    SupplyReport,
    is_void,
)
from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import Asset
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from tests.unit.interchain.test_corrupt_regions import (
    HOME,
    OTHER,
    SET,
    WHO,
    Liar,
    credit,
    statement,
)

MEMBERS = [AuthorityMember(one.public_key, one.weight, WHO) for one in OTHER.members]
PROPOSAL = 7


def go_on(liar: Liar, height: int, **changes: object) -> list:
    asked = {"proposal": PROPOSAL, "home": HOME, "height": liar.height} | changes
    block_hash = sha256(b"header %d" % height)
    return reincarnate(liar.state, "MET", height, block_hash, MEMBERS, **asked)  # type: ignore[arg-type]


def held(liar: Liar) -> Liar:
    incarnations.hold(liar.state, "MET", PROPOSAL, liar.height)
    return liar


def books(liar: Liar) -> tuple[int, int, int]:
    """What the network holds in all beyond what it should: nothing but what is lost."""
    regions = checkpoints.regions(liar.state)
    here = ledger.holdings(liar.state)
    energy = sum(one.escrow.energy_wh - one.reported.energy_wh for one in regions)
    baht = sum(one.escrow.thb_uthb - one.reported.thb_uthb for one in regions)
    gtx = sum(one.escrow.gtx_ugtx for one in regions)
    return here["energy_wh"] + energy, here["thb_uthb"] + baht, here["gtx_ugtx"] + gtx - 2_000


def test_from_its_newest_checkpoint_a_region_loses_nothing() -> None:
    liar = Liar()
    liar.say(SupplyReport(500, 0, 80, 0, 0, 80, statement(80)), credit(300), credit(200, "NOR"))
    before = checkpoints.region_of(liar.state, "MET")
    told = go_on(held(liar), liar.height)
    after = checkpoints.region_of(liar.state, "MET")
    assert isinstance(told[0], RegionReborn)
    assert told[0].lost == Escrow() == after.lost
    assert after.chain_id == incarnation_id(before.chain_id, 2, before.hash)
    assert (after.escrow, after.height, after.outbox_count) == (
        before.escrow, before.height, before.outbox_count,
    )  # fmt: skip
    assert (after.validators, after.incarnation, after.held_by) == (OTHER, 2, 0)
    assert liar.queue()[-1] == Acknowledgement(2, before.outbox_count)
    assert books(liar) == (0, 0, 0)


def test_from_an_earlier_block_what_has_left_is_counted_as_lost() -> None:
    """The thief keeps what it has; the owners have it again; the network knows how much that is."""
    liar = Liar()
    liar.say(SupplyReport(500, 0, 80, 0, 0, 80, statement(80)), credit(100))
    honest = liar.height
    liar.say(SupplyReport(9_000, 0, 80, 0, 0, 80, statement(80)))
    liar.say(credit(4_000, "NOR", asset=Asset.ENERGY), credit(600), credit(70, asset=Asset.THB))
    checkpoints.enter(liar.state, "MET", Asset.GTX, 5, height=liar.height)
    told = go_on(held(liar), honest)
    region = checkpoints.region_of(liar.state, "MET")
    assert told[0].lost == region.lost == Escrow(4_000, 70, 600)
    assert region.escrow == Escrow(500, 80, 905)
    assert region.reported.energy_wh == 500
    # gtx: five came from an account of the national chain, which this test did not debit.
    assert books(liar) == (4_000, 70, 600 + 5)


def test_a_second_step_back_counts_from_the_history_that_stands() -> None:
    liar = Liar()
    liar.say(credit(1))
    first = liar.height
    liar.say(credit(10))
    second = liar.height
    liar.say(credit(100))
    go_on(held(liar), second)
    assert checkpoints.region_of(liar.state, "MET").lost.gtx_ugtx == 100
    go_on(held(liar), first)
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.lost.gtx_ugtx, region.escrow.gtx_ugtx, region.incarnation) == (110, 999, 3)
    assert [one.height for one in checkpoints.incarnations_of(liar.state, "MET")] == [2, 1]
    assert books(liar) == (0, 0, 110)


def test_the_vote_holds_the_region_and_lets_it_go() -> None:
    liar = Liar()
    liar.say(credit(1))
    held(liar)
    with pytest.raises(Rejected, match="held while proposal 7"):
        liar.submit(liar.facts([]))
    with pytest.raises(Rejected, match="held while proposal 7"):
        checkpoints.enter(liar.state, "MET", Asset.GTX, 1, height=liar.height)
    with pytest.raises(Rejected, match="held by the vote on proposal 7"):
        incarnations.hold(liar.state, "MET", 8, liar.height)
    assert incarnations.release(liar.state, "MET", 8, liar.height) == []
    [freed] = incarnations.release(liar.state, "MET", PROPOSAL, liar.height)
    assert freed.status is RegionStatus.ACTIVE
    liar.submit(liar.facts([]))
    with pytest.raises(Rejected, match="neither frozen nor held"):
        go_on(liar, 1)


def test_a_frozen_region_goes_on_and_takes_the_old_incarnations_headers_no_more() -> None:
    liar = Liar()
    liar.say(credit(1))
    liar.submit(liar.facts([], height=1, hash=WHO))
    assert checkpoints.region_of(liar.state, "MET").status(1) is RegionStatus.FROZEN
    go_on(liar, 1)
    with pytest.raises(Rejected) as refusal:
        liar.submit(liar.facts([]))
    assert refusal.value.code is ErrorCode.WRONG_CHAIN
    region = checkpoints.region_of(liar.state, "MET")
    new = {"chain_id": region.chain_id, "set_hash": OTHER.hash, "next_set_hash": OTHER.hash}
    liar.submit(liar.facts([], height=9, **new))
    liar.submit(liar.facts([], height=9, hash=WHO, **new))
    assert checkpoints.region_of(liar.state, "MET").frozen


@pytest.mark.parametrize("height", [0, 2, 9])
def test_only_a_block_that_was_accepted_can_be_gone_on_from(height: int) -> None:
    liar = Liar()
    liar.say()
    with pytest.raises(Rejected) as refusal:
        go_on(held(liar), height)
    assert refusal.value.code is ErrorCode.BLOCK_NOT_FOUND
    assert "the newest one is 1" in refusal.value.detail


def test_a_region_that_never_had_a_checkpoint_begins_again_with_its_genesis() -> None:
    liar = held(Liar())
    genesis = checkpoints.region_of(liar.state, "MET").hash
    reincarnate(
        liar.state, "MET", 0, genesis, MEMBERS, proposal=PROPOSAL, home=HOME, height=5
    )  # fmt: skip
    assert checkpoints.region_of(liar.state, "MET").validators == OTHER


def test_messages_are_kept_until_no_checkpoint_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after a block is there while the region may go on from it, or nobody could."""
    monkeypatch.setattr(checkpoints, "KEPT_MESSAGES", 3)
    liar = Liar()
    for _ in range(6):
        liar.say(credit(1), credit(2))
        taken = log_to(liar.state, "MET").count
        liar.submit(liar.facts([], inbox_next=taken))
    log = log_to(liar.state, "MET")
    assert (log.count, log.forgotten) == (6, 3)
    with pytest.raises(Rejected, match="are forgotten"):
        go_on(held(liar), 1)
    go_on(liar, 7)
    assert checkpoints.region_of(liar.state, "MET").inbox_next == 3
    monkeypatch.undo()
    assert interchain_model.KEPT_MESSAGES > KEPT_CHECKPOINTS


def test_a_credit_that_came_back_before_the_step_back_is_delivered_and_counted() -> None:
    liar = Liar()
    liar.say()
    sent, nonce = liar.is_sent(300)
    liar.say(Bounced(1, nonce, sent, "no room"))
    go_on(held(liar), 1)
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.lost.gtx_ugtx, region.escrow.gtx_ugtx, region.inbox_next) == (300, 1_300, 0)
    assert ledger.account(liar.state, WHO).gtx_ugtx == 300


def test_a_return_of_what_is_void_is_passed_over_and_was_not_lost() -> None:
    """Its sender has the amount again already; a return as well would make it twice."""
    liar = Liar()
    other = Liar("NOR", beside=liar)
    liar.say()
    liar.say(credit(40, "NOR"))
    other.say(Bounced(1, 0, credit(40, "NOR"), "no room"))
    assert liar.queue()[-1] == Bounced(1, 0, credit(40, "NOR"), "no room")
    go_on(held(liar), 1)
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.lost, region.escrow.gtx_ugtx) == (Escrow(), 1_000)
    assert is_void(checkpoints.incarnations_of(liar.state, "MET"), 1, 0)
    assert books(liar) == (0, 0, 0)


def test_a_return_that_comes_after_the_step_back_finds_what_was_lost() -> None:
    liar = Liar()
    other = Liar("NOR", beside=liar)
    liar.say()
    liar.say(credit(40, "NOR"))
    go_on(held(liar), 1)
    assert checkpoints.region_of(liar.state, "MET").lost.gtx_ugtx == 40
    other.say(Bounced(1, 0, credit(40, "NOR"), "no room"))
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.lost, region.escrow.gtx_ugtx) == (Escrow(), 1_000)
    assert not [one for one in liar.queue() if isinstance(one, Bounced)]
    assert books(liar) == (0, 0, 0)


def test_what_came_back_in_a_void_history_comes_back_once_more_and_pays_nobody() -> None:
    liar = Liar()
    liar.say()
    sent, nonce = liar.is_sent(300)
    liar.say(Bounced(1, nonce, sent, "stolen"))
    go_on(held(liar), 1)
    region = checkpoints.region_of(liar.state, "MET")
    new = {"chain_id": region.chain_id, "set_hash": OTHER.hash, "next_set_hash": OTHER.hash}
    liar.count, liar.head = region.outbox_count, region.outbox_head
    again = [encode(Bounced(2, nonce, sent, "no such account"))]
    liar.submit(liar.facts(again, inbox_next=nonce + 1, **new), again)
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.lost, region.escrow.gtx_ugtx) == (Escrow(), 1_000)
    assert ledger.account(liar.state, WHO).gtx_ugtx == 300


def test_an_ordered_set_dies_with_its_incarnation() -> None:
    liar = Liar()
    liar.say()
    checkpoints.order_authorities(liar.state, "MET", MEMBERS, home=HOME, height=1)
    REGIONS.put(liar.state, b"MET", replace(checkpoints.region_of(liar.state, "MET"), frozen=True))
    same = [AuthorityMember(one.public_key, one.weight, WHO) for one in SET.members]
    reincarnate(
        liar.state, "MET", 1, sha256(b"header 1"), same, proposal=0, home=HOME, height=2
    )  # fmt: skip
    region = checkpoints.region_of(liar.state, "MET")
    assert (region.ordered, region.validators) == (None, SET)
    checkpoints.check_may_order(liar.state, "MET")
