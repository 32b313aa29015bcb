"""The text form of an address: BIP-350 bech32m."""

import random

import pytest

from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import format_address, parse_address

ADDRESS = sha256(b"someone")
TEXT = format_address(ADDRESS)
LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def refused(match: str):
    return pytest.raises(Rejected, match=f"BAD_ADDRESS.*{match}")


def test_text_and_bytes_are_one_to_one() -> None:
    for address in (ADDRESS, bytes(32), b"\xff" * 32):
        text = format_address(address)
        assert text.startswith("gtx1")
        assert len(text) == 62
        assert parse_address(text) == address


def test_every_single_typing_error_is_caught() -> None:
    for position in range(4, len(TEXT)):
        for letter in LETTERS:
            if letter != TEXT[position]:
                with refused("checksum"):
                    parse_address(TEXT[:position] + letter + TEXT[position + 1 :])


def test_swapped_neighbours_are_caught() -> None:
    for position in range(4, len(TEXT) - 1):
        left, right = TEXT[position], TEXT[position + 1]
        if left != right:
            with refused("checksum"):
                parse_address(TEXT[:position] + right + left + TEXT[position + 2 :])


def test_up_to_four_errors_are_caught() -> None:
    dice = random.Random(4)
    for _ in range(500):
        letters = list(TEXT)
        for position in dice.sample(range(4, len(TEXT)), dice.randint(2, 4)):
            letters[position] = dice.choice(LETTERS.replace(letters[position], ""))
        with refused("checksum"):
            parse_address("".join(letters))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "starts with gtx1"),
        ("btc1" + TEXT[4:], "starts with gtx1"),
        (TEXT.upper(), "starts with gtx1"),
        (TEXT[:-1], "62 characters"),
        (TEXT + "q", "62 characters"),
        (TEXT[:-1] + "b", "'b' cannot be"),
        (TEXT[:-1] + "é", "cannot be"),
        (TEXT[:-1] + TEXT[-1].upper(), "cannot be"),
    ],
)
def test_what_is_no_address_is_told_why(text: str, match: str) -> None:
    with refused(match):
        parse_address(text)


def test_padding_bits_are_zero() -> None:
    """A second text for the same 32 bytes, with a good checksum, is still refused."""
    from gridtokenx.primitives import types

    words = types._regroup(ADDRESS, 8, 5)
    words[-1] |= 1
    forged = "gtx1" + "".join(LETTERS[word] for word in words + types._checksum(words))
    with refused("padding"):
        parse_address(forged)


def test_errors_are_bad_address() -> None:
    with pytest.raises(Rejected) as caught:
        parse_address("x")
    assert caught.value.code is ErrorCode.BAD_ADDRESS
