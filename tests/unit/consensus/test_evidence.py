"""The four punishable pairs: provable to a stranger (protocols/consensus.md 2.9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.consensus.events import ReportEvidence
from gridtokenx.consensus.evidence import (
    Evidence,
    EvidenceKind,
    ProposalSummary,
    is_amnesia,
    verify_evidence,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from tests.support.committee import BLOCK, CHAIN_ID, OTHER, Bench, Committee, only

FOUR = Committee(1, 1, 1, 1)


def reported(*heard: object) -> Evidence:
    """What the engine reports of these messages: exactly one piece that survives the wire."""
    reports = only(Bench(FOUR).hear(*heard), ReportEvidence)
    assert len(reports) == 1
    evidence = decode(Evidence, encode(reports[0].evidence))
    verify_evidence(evidence, CHAIN_ID, FOUR.validators)
    return evidence


def test_e1_two_prepares() -> None:
    evidence = reported(FOUR.prepare(3), FOUR.prepare(3, block=OTHER))
    assert evidence.kind is EvidenceKind.DOUBLE_PREPARE
    assert evidence.public_key == FOUR.keys[3].public_key
    assert (evidence.height, evidence.view) == (1, 0)


def test_e2_two_commits() -> None:
    evidence = reported(FOUR.commit(3, 2), FOUR.commit(3, 2, OTHER))
    assert evidence.kind is EvidenceKind.DOUBLE_COMMIT
    assert evidence.view == 2


@pytest.mark.parametrize("view", [0, 1, 5])
def test_e3_amnesia_in_either_order(view: int) -> None:
    commit, timeout = FOUR.commit(3), FOUR.timeout(3, view)
    for heard in ((commit, timeout), (timeout, commit)):
        evidence = reported(*heard)
        assert evidence.kind is EvidenceKind.AMNESIA
        assert evidence.first == commit
        assert evidence.second == timeout


def test_e3_spares_those_who_remember() -> None:
    high = FOUR.certificate()
    honest = (FOUR.commit(3), FOUR.timeout(3, 1, high), FOUR.timeout(3, 0, high))
    assert not only(Bench(FOUR).hear(*honest), ReportEvidence)
    assert not is_amnesia(FOUR.commit(3, 2), FOUR.timeout(3, 1))


def test_e4_two_proposals() -> None:
    evidence = reported(FOUR.proposal(), FOUR.proposal(block=OTHER))
    assert evidence.kind is EvidenceKind.DOUBLE_PROPOSE
    assert evidence.public_key == FOUR.keys[1].public_key


def test_the_same_block_under_another_proof_is_no_offence() -> None:
    entries = (FOUR.timeouts(0), FOUR.timeouts(0, dict.fromkeys((0, 1, 2))))
    proposals = [FOUR.proposal(1, BLOCK, entry) for entry in entries]
    assert not only(Bench(FOUR).hear(*proposals), ReportEvidence)


def test_a_kind_is_reported_once_per_height() -> None:
    bench = Bench(FOUR)
    pairs = [FOUR.prepare(3, view, block) for view in range(3) for block in (BLOCK, OTHER)]
    assert len(only(bench.hear(*pairs), ReportEvidence)) == 1


def accuse(kind: EvidenceKind, first: object, second: object, index: int = 3) -> Evidence:
    return Evidence(kind, FOUR.keys[index].public_key, first, second)  # type: ignore[arg-type]


E1 = EvidenceKind.DOUBLE_PREPARE
E3 = EvidenceKind.AMNESIA
E4 = EvidenceKind.DOUBLE_PROPOSE
SUMMARIES = [ProposalSummary.of(FOUR.proposal(block=block)) for block in (BLOCK, OTHER)]
LATER = Committee(1, 1, 1, 1, height=2)


@pytest.mark.parametrize(
    "evidence",
    [
        accuse(E1, FOUR.prepare(3), FOUR.prepare(3)),
        accuse(E1, FOUR.prepare(3), FOUR.prepare(3, 1, OTHER)),
        accuse(E1, FOUR.prepare(3), LATER.prepare(3, 0, OTHER)),
        accuse(E1, FOUR.prepare(3), FOUR.commit(3, 0, OTHER)),
        accuse(E1, FOUR.commit(3), FOUR.commit(3, 0, OTHER)),
        accuse(E1, *SUMMARIES, 1),
        accuse(E1, FOUR.prepare(3), FOUR.timeout(3)),
        accuse(E3, FOUR.prepare(3), FOUR.timeout(3)),
        accuse(E3, FOUR.commit(3), FOUR.timeout(3, 0, FOUR.certificate())),
        accuse(E3, FOUR.commit(3, 1), FOUR.timeout(3, 0)),
        accuse(E3, FOUR.commit(3), FOUR.commit(3, 0, OTHER)),
        accuse(E4, SUMMARIES[0], SUMMARIES[0], 1),
        accuse(E4, SUMMARIES[0], FOUR.prepare(3, 0, OTHER), 1),
    ],
)
def test_pairs_that_are_no_offence(evidence: Evidence) -> None:
    with pytest.raises(Rejected) as refusal:
        verify_evidence(evidence, CHAIN_ID, FOUR.validators)
    assert refusal.value.code is ErrorCode.MALFORMED


@pytest.mark.parametrize(
    "evidence",
    [
        accuse(E1, FOUR.prepare(3), FOUR.prepare(2, block=OTHER)),
        accuse(E1, FOUR.prepare(3), FOUR.prepare(3, block=OTHER), 2),
        accuse(E1, FOUR.prepare(3), replace(FOUR.prepare(2, block=OTHER), index=3)),
        accuse(E3, FOUR.commit(3), replace(FOUR.timeout(2), index=3)),
        accuse(E4, *SUMMARIES, 2),
    ],
)
def test_nobody_is_convicted_by_another_ones_signature(evidence: Evidence) -> None:
    with pytest.raises(Rejected) as refusal:
        verify_evidence(evidence, CHAIN_ID, FOUR.validators)
    assert refusal.value.code is ErrorCode.BAD_SIGNATURE


def test_strangers_and_other_chains_are_not_convicted() -> None:
    evidence = accuse(E1, FOUR.prepare(3), FOUR.prepare(3, block=OTHER))
    verify_evidence(evidence, CHAIN_ID, FOUR.validators)
    with pytest.raises(Rejected, match="BAD_SIGNATURE"):
        verify_evidence(evidence, bytes(32), FOUR.validators)
    stranger = replace(evidence, public_key=bytes(32))
    with pytest.raises(Rejected, match="NOT_PERMITTED"):
        verify_evidence(stranger, CHAIN_ID, FOUR.validators)
