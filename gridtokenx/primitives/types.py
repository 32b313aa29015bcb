"""Names for byte strings, and the text form of an account address.

An account is its 32-byte Ed25519 public key; people see it as bech32m text `gtx1...` (BIP-350),
whose checksum catches every typing error of up to four characters.
"""

from __future__ import annotations

from typing import Annotated

from gridtokenx.primitives.codec import Limit
from gridtokenx.primitives.errors import ErrorCode, Rejected

Address = Annotated[bytes, Limit(32, 32), "address"]
"""A field of this type is an account; a 32-byte hash is `Bytes32`."""

ADDRESS_PREFIX = "gtx"
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32M = 0x2BC830A3
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_ADDRESS_LENGTH = len(ADDRESS_PREFIX) + 1 + 52 + 6


def format_address(address: bytes) -> str:
    """Text `gtx1...` (62 characters) of a 32-byte account address."""
    words = _regroup(address, 8, 5)
    return f"{ADDRESS_PREFIX}1" + "".join(_CHARSET[word] for word in words + _checksum(words))


def parse_address(text: str) -> bytes:
    """The 32 bytes behind `gtx1...`. Errors: BAD_ADDRESS with what is wrong."""
    if not text.startswith(f"{ADDRESS_PREFIX}1"):
        raise Rejected(ErrorCode.BAD_ADDRESS, f"an address starts with gtx1, not {text[:8]!r}")
    if len(text) != _ADDRESS_LENGTH:
        detail = f"an address has {_ADDRESS_LENGTH} characters, not {len(text)}"
        raise Rejected(ErrorCode.BAD_ADDRESS, detail)
    words = []
    for character in text[len(ADDRESS_PREFIX) + 1 :]:
        if character not in _CHARSET:
            raise Rejected(ErrorCode.BAD_ADDRESS, f"{character!r} cannot be in an address")
        words.append(_CHARSET.index(character))
    if _checksum(words[:-6]) != words[-6:]:
        raise Rejected(ErrorCode.BAD_ADDRESS, f"{text} has a typing error (checksum)")
    address = _regroup(words[:-6], 5, 8)
    if address[32:] not in ([], [0]) or len(address) < 32:
        raise Rejected(ErrorCode.BAD_ADDRESS, f"{text} does not hold 32 bytes")
    if words[-7] & 0x0F:  # 52 * 5 = 260 bits: the last four must be zero padding
        raise Rejected(ErrorCode.BAD_ADDRESS, f"{text} has non-zero padding")
    return bytes(address[:32])


def _regroup(values: bytes | list[int], from_bits: int, to_bits: int) -> list[int]:
    accumulator = bits = 0
    out = []
    for value in values:
        accumulator = accumulator << from_bits | value
        bits += from_bits
        while bits >= to_bits:
            bits -= to_bits
            out.append(accumulator >> bits & ((1 << to_bits) - 1))
    if bits and to_bits == 5:
        out.append(accumulator << (to_bits - bits) & ((1 << to_bits) - 1))
    return out


def _checksum(words: list[int]) -> list[int]:
    prefix = [ord(letter) >> 5 for letter in ADDRESS_PREFIX]
    prefix += [0, *(ord(letter) & 31 for letter in ADDRESS_PREFIX)]
    state = 1
    for value in prefix + words + [0] * 6:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                state ^= generator
    state ^= _BECH32M
    return [state >> 5 * (5 - position) & 31 for position in range(6)]
