"""Hashes and signatures: published vectors, and verification that never raises."""

import pytest

from gridtokenx.primitives.crypto import (
    SigningKey,
    kyc_reference,
    sha256,
    tagged_hash,
    verify,
)

# RFC 8032 section 7.1, tests 1 and 2.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_published_signatures(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public_key.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify(key.public_key, bytes.fromhex(message), bytes.fromhex(signature))


def test_a_changed_bit_is_noticed() -> None:
    key = SigningKey(sha256(b"key"))
    signature = key.sign(b"message")
    assert verify(key.public_key, b"message", signature)
    assert not verify(key.public_key, b"massage", signature)
    assert not verify(SigningKey(sha256(b"other")).public_key, b"message", signature)
    for position in range(64):
        forged = bytearray(signature)
        forged[position] ^= 1
        assert not verify(key.public_key, b"message", bytes(forged))


def test_a_signature_has_no_second_form() -> None:
    """S + L satisfies the same equation; accepting it would give a transaction two ids."""
    key = SigningKey(sha256(b"key"))
    signature = key.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(key.public_key, b"message", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_keys_that_are_no_keys_verify_nothing(public: bytes) -> None:
    assert not verify(public, b"message", bytes(64))
    assert not verify(public, b"message", bytes(63))


def test_a_key_keeps_its_seed_to_itself() -> None:
    key = SigningKey(b"\xab" * 32)
    assert "ab" * 4 not in repr(key).replace(key.public_key.hex(), "")
    assert "seed" not in repr(key)
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        SigningKey(bytes(31))


def test_tags_keep_hashes_apart() -> None:
    assert tagged_hash("gtx.a", b"b") == sha256(b"gtx.ab")
    assert tagged_hash("gtx.tx", b"x") != tagged_hash("gtx.hdr", b"x")


def test_a_kyc_reference_needs_its_salt() -> None:
    one = kyc_reference(b"salt", b"1-2345-67890-12-3")
    assert len(one) == 32
    assert one != kyc_reference(b"other salt", b"1-2345-67890-12-3")
    assert one != kyc_reference(b"salt", b"1-2345-67890-12-4")
