"""Transactions: what is signed, what is read, what is refused."""

from dataclasses import replace

import pytest

from gridtokenx.chain.transaction import (
    MAX_TRANSACTION_BYTES,
    SIGNING_DOMAIN,
    Transaction,
    chain_id_of,
    check_signature,
    decode_transaction,
    sign_transaction,
    signing_bytes,
    transaction_id,
)
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.codec import encode, encode_array
from gridtokenx.primitives.crypto import SigningKey, sha256, tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from tests.support.refusals import refusing

CHAIN, OTHER_CHAIN = sha256(b"chain"), sha256(b"other chain")
KEY, STRANGER = SigningKey(sha256(b"key")), SigningKey(sha256(b"stranger"))
PAYLOAD = Transfer(STRANGER.public_key, Asset.THB, 5)
SIGNED = sign_transaction(KEY, CHAIN, 3, PAYLOAD, fee_ugtx=2)


def test_a_signed_transaction_is_read_back() -> None:
    back = decode_transaction(SIGNED.encoded)
    assert back == SIGNED
    assert back.id == SIGNED.id == tagged_hash("gtx.tx", encode(SIGNED))
    assert back.id == transaction_id(SIGNED.encoded)
    check_signature(back)


@pytest.mark.parametrize("raw", [SIGNED.encoded, SIGNED.encoded[:37], SIGNED.encoded + b"more"])
def test_the_chain_is_named_at_the_beginning(raw: bytes) -> None:
    assert chain_id_of(raw) == CHAIN


@pytest.mark.parametrize("raw", [b"", SIGNED.encoded[:36], b"\x87\x18\x1f" + SIGNED.encoded[3:]])
def test_bytes_that_name_no_chain_are_refused(raw: bytes) -> None:
    with refusing(ErrorCode.MALFORMED_TX):
        chain_id_of(raw)


def test_what_is_too_long_names_no_chain() -> None:
    with refusing(ErrorCode.TOO_LARGE):
        chain_id_of(SIGNED.encoded + bytes(MAX_TRANSACTION_BYTES))


def test_what_is_signed() -> None:
    assert SIGNED.signing_bytes() == (
        SIGNING_DOMAIN + encode_array(CHAIN, KEY.public_key, 3, 2) + encode(PAYLOAD)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": OTHER_CHAIN},
        {"sender": STRANGER.public_key},
        {"nonce": 4},
        {"fee_ugtx": 0},
        {"payload": replace(PAYLOAD, amount=6)},
        {"payload": replace(PAYLOAD, to=KEY.public_key)},
        {"signature": STRANGER.sign(SIGNED.signing_bytes())},
        {"signature": KEY.sign(encode(PAYLOAD))},
        {"signature": bytes(64)},
    ],
)
def test_every_field_is_under_the_signature(change: dict) -> None:
    with refusing(ErrorCode.BAD_SIGNATURE):
        check_signature(replace(SIGNED, **change))


def test_the_id_covers_the_signature() -> None:
    assert replace(SIGNED, signature=bytes(64)).id != SIGNED.id


def test_the_parts_of_what_is_signed_cannot_slide() -> None:
    """(nonce 1, fee 12) and (nonce 11, fee 2) must not sign alike."""
    one = signing_bytes(CHAIN, KEY.public_key, 1, 12, PAYLOAD)
    assert one != signing_bytes(CHAIN, KEY.public_key, 11, 2, PAYLOAD)


def test_nonsense_has_its_code() -> None:
    with refusing(ErrorCode.MALFORMED_TX):
        decode_transaction(b"\xff")
    with refusing(ErrorCode.MALFORMED_TX):
        decode_transaction(SIGNED.encoded + b"\x00")
    with refusing(ErrorCode.TOO_LARGE):
        decode_transaction(bytes(MAX_TRANSACTION_BYTES + 1))
    with refusing(ErrorCode.OUT_OF_RANGE):
        decode_transaction(encode(replace(SIGNED, chain_id=b"short")))
    with refusing(ErrorCode.UNKNOWN_KIND):
        decode_transaction(
            encode_array(30, CHAIN, KEY.public_key, 0, 0, (9999, 1), SIGNED.signature)
        )


def test_every_cut_and_every_flipped_byte_is_refused_or_another_transaction() -> None:
    raw = SIGNED.encoded
    for position in range(len(raw)):
        with pytest.raises(Rejected):
            decode_transaction(raw[:position])
        flipped = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        try:
            other = decode_transaction(flipped)
        except Rejected:
            continue
        assert not other.is_signed()
        assert other.id != SIGNED.id


def test_the_largest_commands_fit() -> None:
    assert len(SIGNED.encoded) < 300 < MAX_TRANSACTION_BYTES
    assert isinstance(decode_transaction(SIGNED.encoded), Transaction)
