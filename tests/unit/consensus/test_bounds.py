"""Nothing from outside may grow the engine: all is bounded (protocols/consensus.md 2.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.consensus.ballots import KNOWN_CERTIFICATES, VIEW_WINDOW
from gridtokenx.consensus.events import BlockChecked, CheckBlock, SendDecided, Verdict
from gridtokenx.consensus.messages import Phase
from gridtokenx.consensus.receiver import MAX_ANSWERED_PEERS
from gridtokenx.consensus.state import MAX_CHECKS
from gridtokenx.primitives.crypto import sha256
from tests.support.committee import BLOCK, Bench, Committee, only


def genuine(_key: bytes, _message: bytes, _signature: bytes) -> bool:
    """Floods are signed by members; checking that is not what is tested."""
    return True


@pytest.fixture
def four() -> Committee:
    return Committee(1, 1, 1, 1)


def blocks(count: int) -> list[bytes]:
    return [sha256(b"%d" % index) for index in range(count)]


def test_a_signer_has_two_hashes_per_view_and_64_views(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    template = four.prepare(3)
    for block in blocks(20):
        for view in (0, 1, VIEW_WINDOW, VIEW_WINDOW + 1, 10_000):
            for phase in (Phase.PREPARE, Phase.COMMIT):
                flood = replace(template, view=view, block_hash=block, phase=phase)
                bench.hear(flood)
    assert bench.state.ballots.size() == 2 * 2 * 3


def test_a_signer_has_one_timeout_per_view(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    template = four.timeout(3)
    for view in range(200):
        for signature in (bytes(64), b"x" * 64):
            bench.hear(replace(template, view=view, signature=signature))
    assert bench.state.ballots.size() == VIEW_WINDOW + 1
    assert bench.state.view == 0


def test_old_views_are_forgotten(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    for view in range(VIEW_WINDOW):
        bench.hear(replace(four.prepare(3), view=view), replace(four.timeout(3), view=view))
    for view in range(300):
        bench.hear(replace(four.timeouts(0), view=view))
        bench.state.built = None
    assert bench.state.view == 300
    assert bench.state.ballots.size() <= 2 * KNOWN_CERTIFICATES
    assert len(bench.state.own_signatures) <= 3 * (VIEW_WINDOW + 1)


def test_known_certificates_and_checks_are_bounded(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    template = four.certificate()
    for view, block in enumerate(blocks(KNOWN_CERTIFICATES + 100)):
        bench.hear(replace(template, view=view, block_hash=block))
    assert bench.state.ballots.size() <= KNOWN_CERTIFICATES
    assert len(bench.state.checks) <= MAX_CHECKS
    assert bench.state.view == KNOWN_CERTIFICATES + 99


def test_answers_nobody_asked_for_are_dropped(four: Committee) -> None:
    bench = Bench(four)
    for block in blocks(10):
        bench.feed(BlockChecked(CheckBlock(1, 0, block, 1, fresh=True), Verdict.INVALID))
        bench.feed(BlockChecked(CheckBlock(9, 0, block, 1, fresh=True), Verdict.VALID))
    assert bench.state.checks == {}
    for block in blocks(2 * MAX_CHECKS):
        bench.feed(BlockChecked(CheckBlock(1, 7, block, 1, fresh=True), Verdict.VALID))
    assert len(bench.state.checks) <= MAX_CHECKS


def test_the_next_height_keeps_the_newest_of_each_signer(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    following = Committee(1, 1, 1, 1, height=2)
    for view in (*range(100), 3):
        for index in range(4):
            for message in (
                following.prepare(index),
                following.commit(index),
                following.timeout(index),
            ):
                bench.hear(replace(message, view=view))
        bench.hear(replace(following.proposal(), view=view))
    early = bench.engine._early
    assert len(early) <= 4 * 4
    assert all(message.view <= VIEW_WINDOW for message in early.values())
    assert early[0, Phase.PREPARE].view == VIEW_WINDOW


def test_answers_to_the_lagging_are_bounded_together(four: Committee) -> None:
    bench = Bench(Committee(1, 1, 1, 1, height=2))
    old = four.timeout(1)
    sent = [
        effect
        for peer in range(500)
        for effect in only(bench.hear(old, peer=b"%d" % peer), SendDecided)
    ]
    assert len(sent) == MAX_ANSWERED_PEERS
    bench.now_ms += 1000
    assert only(bench.hear(old, peer=b"one more"), SendDecided)
    assert len(bench.engine._answered) == 1


def test_one_member_cannot_report_or_be_reported_for_ever(four: Committee) -> None:
    bench = Bench(four, verify=genuine)
    for view in range(30):
        for block in (BLOCK, *blocks(3)):
            bench.hear(replace(four.prepare(3), view=view, block_hash=block))
    assert len(bench.state.convicted) == 1
