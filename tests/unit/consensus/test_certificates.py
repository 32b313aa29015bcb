"""Certificates: every way to be wrong, in the order of checking (protocols/consensus.md 2.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.consensus.certificates import (
    VERIFIED_CAPACITY,
    CertificateChecker,
    check_commit,
    check_quorum_certificate,
    check_timeout_certificate,
)
from gridtokenx.consensus.messages import IndexedSignature, Phase, QuorumCertificate
from gridtokenx.primitives.crypto import verify
from gridtokenx.primitives.errors import Rejected
from tests.support.committee import BLOCK, CHAIN_ID, OTHER, Committee


@pytest.fixture
def four() -> Committee:
    return Committee(1, 1, 1, 1)


def refused(match: str):
    return pytest.raises(Rejected, match=f"INVALID_CERTIFICATE.*{match}")


def never(_key: bytes, _message: bytes, _signature: bytes) -> bool:
    raise AssertionError("signatures are checked last")


def check(certificate: QuorumCertificate, committee: Committee, verifier=verify) -> None:
    check_quorum_certificate(certificate, CHAIN_ID, committee.validators, verifier)


def test_a_quorum_passes(four: Committee) -> None:
    for phase in (Phase.PREPARE, Phase.COMMIT):
        check(four.certificate(phase, signers=(0, 2, 3)), four)
        check(four.certificate(phase, signers=(0, 1, 2, 3)), four)


def test_a_commit_decides_one_block_of_one_height(four: Committee) -> None:
    commit = four.certificate(Phase.COMMIT)
    height, block_hash, members = commit.height, commit.block_hash, four.validators
    check_commit(commit, CHAIN_ID, height, block_hash, members)
    checker = CertificateChecker(CHAIN_ID, verify)
    checker.check_commit(commit, height, block_hash, members)
    for claimed, at, of in (
        (four.certificate(Phase.PREPARE), height, block_hash),
        (commit, height + 1, block_hash),
        (commit, height, bytes(32)),
    ):
        with refused(f"not the COMMIT of block {at}"):
            check_commit(claimed, CHAIN_ID, at, of, members, never)
        with refused(f"not the COMMIT of block {at}"):
            checker.check_commit(claimed, at, of, members)
    with refused("forged"):
        check_commit(commit, bytes(32), height, block_hash, members)


def test_a_duplicate_index_is_found_before_any_signature(four: Committee) -> None:
    good = four.certificate()
    one, two, _ = good.signatures
    for signatures in ((one, one, two), (two, one), (one, two, two)):
        with refused("strictly increase"):
            check(replace(good, signatures=signatures), four, never)


def test_a_stranger_is_found_before_any_signature(four: Committee) -> None:
    good = four.certificate()
    stranger = IndexedSignature(4, good.signatures[0].signature)
    with refused("signer 4 is not one of 4"):
        check(replace(good, signatures=(*good.signatures, stranger)), four, never)


def test_exactly_two_thirds_is_not_a_quorum() -> None:
    with refused("weight 2 of 3"):
        check(Committee(1, 1, 1).certificate(signers=(0, 1)), Committee(1, 1, 1), never)
    heavy = Committee(4, 1, 1)
    with refused("weight 4 of 6"):
        check(heavy.certificate(signers=(0,)), heavy, never)
    check(heavy.certificate(signers=(0, 2)), heavy)


def test_one_forged_member_spoils_the_whole(four: Committee) -> None:
    good = four.certificate(signers=(0, 1, 2, 3))
    forged = replace(good.signatures[3], signature=good.signatures[0].signature)
    with refused("forged signature of member 3"):
        check(replace(good, signatures=(*good.signatures[:3], forged)), four)


@pytest.mark.parametrize(
    "change",
    [
        {"phase": Phase.COMMIT},
        {"height": 2},
        {"view": 1},
        {"block_hash": OTHER},
    ],
)
def test_signatures_bind_every_field(four: Committee, change: dict[str, object]) -> None:
    with refused("forged"):
        check(replace(four.certificate(), **change), four)


def test_another_chain_or_set_does_not_pass(four: Committee) -> None:
    good = four.certificate()
    with refused("forged"):
        check_quorum_certificate(good, bytes(32), four.validators)
    with refused("weight"):
        check(good, Committee(1, 1, 1, 9), never)
    with refused("forged"):
        check(good, Committee(9, 9, 9, 1, 1))


def test_timeouts_without_any_certificate_pass(four: Committee) -> None:
    check_timeout_certificate(four.timeouts(3), CHAIN_ID, four.validators)


def test_timeouts_carry_exactly_their_maximum(four: Committee) -> None:
    low, high = four.certificate(view=0), four.certificate(view=2, block=OTHER)
    good = four.timeouts(3, {0: low, 1: high, 2: None})
    assert good.high_view == 2
    check_timeout_certificate(good, CHAIN_ID, four.validators)
    for wrong, why in (
        (None, "view 2 is missing"),
        (low, "not the PREPARE of view 2"),
        (four.certificate(Phase.COMMIT, 2, OTHER), "not the PREPARE"),
        (four.certificate(view=2, block=BLOCK), "names another block"),
        (replace(high, height=2), "not the PREPARE"),
        (replace(high, signatures=low.signatures), "forged signature"),
    ):
        with refused(why):
            check_timeout_certificate(replace(good, certificate=wrong), CHAIN_ID, four.validators)
    with refused("no entry names"):
        none = replace(four.timeouts(3), certificate=high)
        check_timeout_certificate(none, CHAIN_ID, four.validators)


def test_timeouts_are_checked_like_votes(four: Committee) -> None:
    good = four.timeouts(0)
    first, second, third = good.entries
    for entries, why in (
        ((first, first, second), "strictly increase"),
        ((first, second), "weight 2 of 4"),
        ((first, second, replace(third, index=7)), "signer 7"),
    ):
        with refused(why):
            bad = replace(good, entries=entries)
            check_timeout_certificate(bad, CHAIN_ID, four.validators, never)
    for change in ({"signature": first.signature}, {"high_view_plus_1": 1, "high_hash": BLOCK}):
        bad = replace(good, entries=(first, second, replace(third, **change)))
        with pytest.raises(Rejected):
            check_timeout_certificate(bad, CHAIN_ID, four.validators)
    with refused("forged timeout"):
        check_timeout_certificate(replace(good, view=1), CHAIN_ID, four.validators)


def test_a_timeout_cannot_know_the_future(four: Committee) -> None:
    with pytest.raises(Rejected, match="lies after"):
        four.timeout(1, 0, four.certificate(view=1))
    with pytest.raises(Rejected, match="zero hash"):
        replace(four.timeout(1), high_hash=BLOCK)
    with pytest.raises(Rejected, match="lies after"):
        replace(four.timeouts(1, {0: four.certificate(view=1)}), view=0)


def test_the_checker_remembers_good_certificates_only(four: Committee) -> None:
    calls = []

    def counting(key: bytes, message: bytes, signature: bytes) -> bool:
        calls.append(key)
        return verify(key, message, signature)

    checker = CertificateChecker(CHAIN_ID, counting)
    good = four.certificate()
    bad = replace(good, block_hash=OTHER)
    checker.check(good, four.validators)
    checker.check(good, four.validators)
    assert len(calls) == 3
    for _ in range(2):
        with refused("forged"):
            checker.check(bad, four.validators)
    assert len(calls) == 5
    with refused("weight"):
        checker.check(good, Committee(1, 1, 1, 9).validators)  # Another set, another question.


def test_the_checker_forgets_the_oldest(four: Committee) -> None:
    checker = CertificateChecker(CHAIN_ID, lambda *_: True)
    good = four.certificate()
    for view in range(VERIFIED_CAPACITY + 5):
        checker.check(replace(good, view=view), four.validators)
    assert len(checker._verified) == VERIFIED_CAPACITY
