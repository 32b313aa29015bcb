"""Signed bytes, envelopes, and what `decode_message` refuses."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.consensus.messages import (
    MAX_MESSAGE_BYTES,
    MAX_VIEW,
    Phase,
    QuorumCertificate,
    TimeoutCertificate,
    certificate_digest,
    decode_message,
    justification_hash,
    message_bytes,
    proposal_bytes,
    timeout_bytes,
    vote_bytes,
)
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import ZERO_HASH
from gridtokenx.primitives.errors import Rejected
from tests.support.committee import BLOCK, CHAIN_ID, Committee

FOUR = Committee(1, 1, 1, 1)


def test_signed_bytes_are_spelled_out() -> None:
    head = b"GTXv1\x02" + CHAIN_ID + bytes(7) + b"\x05" + bytes(3) + b"\x07"
    assert vote_bytes(Phase.PREPARE, CHAIN_ID, 5, 7, BLOCK) == head + BLOCK
    assert vote_bytes(Phase.COMMIT, CHAIN_ID, 5, 7, BLOCK)[5] == 3
    timeout = timeout_bytes(CHAIN_ID, 5, 7, 4, BLOCK)
    assert timeout == b"GTXv1\x04" + head[6:] + bytes(3) + b"\x04" + BLOCK
    proposal = proposal_bytes(CHAIN_ID, 5, 7, BLOCK, ZERO_HASH)
    assert proposal == b"GTXv1\x01" + head[6:] + BLOCK + ZERO_HASH
    assert (len(proposal), len(timeout), len(head + BLOCK)) == (114, 86, 82)


def test_the_certificate_rides_outside_the_signature_of_a_timeout() -> None:
    timeout = FOUR.timeout(1, 1, FOUR.certificate())
    bare = replace(timeout, certificate=None)
    assert message_bytes(CHAIN_ID, timeout) == message_bytes(CHAIN_ID, bare)


def test_the_justification_of_a_proposal_is_signed() -> None:
    entry, high = FOUR.timeouts(0), FOUR.certificate()
    spelled = {
        justification_hash(*pair)
        for pair in ((None, None), (entry, None), (None, high), (entry, high))
    }
    assert len(spelled) == 4
    assert justification_hash(None, None) == ZERO_HASH == certificate_digest(None)
    proposal = FOUR.proposal(1, BLOCK, entry)
    other = replace(proposal, timeouts=FOUR.timeouts(0, dict.fromkeys((0, 1, 2))))
    assert message_bytes(CHAIN_ID, proposal) != message_bytes(CHAIN_ID, other)


MESSAGES = (
    FOUR.proposal(),
    FOUR.proposal(2, BLOCK, FOUR.timeouts(1, {0: FOUR.certificate(), 1: None, 2: None})),
    FOUR.prepare(3),
    FOUR.commit(1, 9),
    FOUR.timeout(2, 1),
    FOUR.timeout(2, 1, FOUR.certificate()),
    FOUR.certificate(Phase.COMMIT),
    FOUR.timeouts(4),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back_as_they_left(message: object) -> None:
    assert decode_message(encode(message)) == message


@given(data=st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    with pytest.raises(Rejected):
        decode_message(data)


@given(index=st.integers(0, len(MESSAGES) - 1), place=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_means_something_else(index, place, bit) -> None:
    data = bytearray(encode(MESSAGES[index]))
    data[place % len(data)] ^= 1 << bit
    decoded = None
    with contextlib.suppress(Rejected):  # Anything but a refusal would fail the test.
        decoded = decode_message(bytes(data))
    assert decoded != MESSAGES[index]


def test_impossible_values_do_not_exist() -> None:
    with pytest.raises(Rejected, match="neither PREPARE nor COMMIT"):
        replace(FOUR.prepare(0), phase=Phase.TIMEOUT)
    with pytest.raises(Rejected, match="neither PREPARE nor COMMIT"):
        replace(FOUR.certificate(), phase=Phase.PROPOSE)


def test_too_large_messages_are_refused_unread() -> None:
    with pytest.raises(Rejected, match="TOO_LARGE"):
        decode_message(bytes(MAX_MESSAGE_BYTES + 1))


def test_the_largest_proposal_fits() -> None:
    high = FOUR.certificate(view=MAX_VIEW - 2)
    one = high.signatures[0]
    full = replace(high, signatures=tuple(replace(one, index=i) for i in range(128)))
    timeouts = FOUR.timeouts(MAX_VIEW - 1, {0: high})
    entries = tuple(replace(timeouts.entries[0], index=i) for i in range(128))
    entry = replace(timeouts, entries=entries, certificate=full)
    proposal = replace(FOUR.proposal(), timeouts=entry, certificate=full, view=MAX_VIEW)
    data = encode(proposal)
    assert len(data) < MAX_MESSAGE_BYTES
    decoded = decode_message(data)
    assert isinstance(decoded.timeouts, TimeoutCertificate)
    assert isinstance(decoded.certificate, QuorumCertificate)
