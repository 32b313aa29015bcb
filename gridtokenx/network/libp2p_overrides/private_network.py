"""The private network: every byte of a connection under a key that all its nodes share.

Fault of py-libp2p 0.8.1 mended here: its protector encrypts with Salsa20 and an 8-byte nonce, while
libp2p's specification, go and js use XSalsa20 with 24 bytes, so it speaks to nobody but itself.

The key keeps strangers from so much as a handshake; secrecy and identity are Noise's as before.
XSalsa20 is that of Bernstein, "Extending the Salsa20 nonce".
Source: protocols/networking.md 1, libp2p/specs pnet/Private-Networks-PSK-V1.md.
"""

import os
import re
import struct
from typing import Any

from Crypto.Cipher import Salsa20

KEY_BYTES = 32
NONCE_BYTES = 24
_FILE = re.compile(rb"/key/swarm/psk/1\.0\.0/\r?\n/base16/\r?\n([0-9a-fA-F]{64})\s*")
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def parse_key(raw: bytes) -> bytes:
    """The 32-byte key of a `swarm.key` file, as other libp2p programs write it.

    Errors: ValueError.
    """
    found = _FILE.fullmatch(raw)
    if found is None:
        raise ValueError(
            "a private network key file has three lines: /key/swarm/psk/1.0.0/, /base16/ and "
            "64 hex digits"
        )
    return bytes.fromhex(found[1].decode())


def _rotate(value: int, count: int) -> int:
    return ((value << count) | (value >> (32 - count))) & 0xFFFFFFFF


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The key of the inner Salsa20 from a 32-byte key and the first 16 bytes of the nonce."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for a, b, c, d in (
            *((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),  # columns
            *((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),  # rows
        ):
            x[b] ^= _rotate((x[a] + x[d]) & 0xFFFFFFFF, 7)
            x[c] ^= _rotate((x[b] + x[a]) & 0xFFFFFFFF, 9)
            x[d] ^= _rotate((x[c] + x[b]) & 0xFFFFFFFF, 13)
            x[a] ^= _rotate((x[d] + x[c]) & 0xFFFFFFFF, 18)
    return struct.pack("<8I", *(x[index] for index in (0, 5, 10, 15, 6, 7, 8, 9)))


def xsalsa20(key: bytes, nonce: bytes) -> Any:
    """A cipher whose `encrypt` carries on where the last call ended. The nonce has 24 bytes."""
    return Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class ProtectedStream:
    """A byte stream as the library's connections use it, encrypted both ways.

    Each side sends a random 24-byte nonce before its first bytes.
    """

    def __init__(self, stream: Any, key: bytes) -> None:
        self._stream = stream
        self._key = key
        self._reader: Any = None
        self._writer: Any = None

    async def write(self, data: bytes) -> None:
        """Errors: those of the stream."""
        prefix = b""
        if self._writer is None:
            prefix = os.urandom(NONCE_BYTES)
            self._writer = xsalsa20(self._key, prefix)
        await self._stream.write(prefix + self._writer.encrypt(data))

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes, b"" at the end. Errors: those of the stream."""
        if self._reader is None:
            nonce = b""
            while len(nonce) < NONCE_BYTES:
                part: bytes = await self._stream.read(NONCE_BYTES - len(nonce))
                if not part:
                    return b""
                nonce += part
            self._reader = xsalsa20(self._key, nonce)
        plain: bytes = self._reader.decrypt(await self._stream.read(n))
        return plain

    async def close(self) -> None:
        """Close the stream below."""
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Where the other end is."""
        address: tuple[str, int] | None = self._stream.get_remote_address()
        return address
