"""From a password to the key that seals a key file: Argon2id, and PBKDF2 of older files.

What a file asks for is bounded before anything is done: nobody's file makes the node work for more
than a few seconds, nor take more than 256 MiB. Source: RFC 9106;
docs/node-operation.md "Keys".
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from dataclasses import dataclass
from typing import Any

import nacl.exceptions
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

LEAST_PASSWORD = 12  # characters of a new password
MAX_PASSWORD_BYTES = 1024
MAX_PASSES = 10
MAX_MEMORY_KIB = 256 * 1024
MAX_ITERATIONS = 10_000_000  # about 3 s
PBKDF2_SALT_BYTES = 32


class BadPasswordError(ValueError):
    """No password can be this; the text says why."""


class OutOfMemoryError(Exception):
    """The system does not give the memory that the derivation needs."""


@dataclass(frozen=True, slots=True)
class Argon2id:
    """Three passes over 128 MiB: a fifth of a second, and as much again for each guess."""

    salt: bytes
    passes: int = 3
    memory_kib: int = 128 * 1024

    algorithm = "argon2id"

    def __post_init__(self) -> None:
        _check("passes", self.passes, argon2id.OPSLIMIT_MIN, MAX_PASSES)
        _check("memory_kib", self.memory_kib, argon2id.MEMLIMIT_MIN // 1024, MAX_MEMORY_KIB)
        _check("bytes of salt", len(self.salt), argon2id.SALTBYTES, argon2id.SALTBYTES)

    @classmethod
    def fresh(cls, *, costs_nothing: bool = False) -> Argon2id:
        """With a salt of its own; one that costs nothing protects nothing."""
        salt = os.urandom(argon2id.SALTBYTES)
        return cls(salt, 1, argon2id.MEMLIMIT_MIN // 1024) if costs_nothing else cls(salt)

    def derive(self, secret: bytes) -> bytes:
        """32 bytes. Errors: OutOfMemoryError."""
        try:
            return argon2id.kdf(
                SecretBox.KEY_SIZE,
                secret,
                self.salt,
                opslimit=self.passes,
                memlimit=self.memory_kib * 1024,
            )
        except (nacl.exceptions.RuntimeError, MemoryError):
            raise OutOfMemoryError(f"{self.memory_kib // 1024} MiB of memory are needed") from None

    def document(self) -> dict[str, Any]:
        """As a key file has it."""
        cost = {"passes": self.passes, "memory_kib": self.memory_kib}
        return {"algorithm": self.algorithm, **cost, "salt": self.salt.hex()}


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """PBKDF2-HMAC-SHA256, as sealed before Argon2id: opened, never made."""

    salt: bytes
    iterations: int

    algorithm = "pbkdf2-hmac-sha256"

    def __post_init__(self) -> None:
        _check("iterations", self.iterations, 1, MAX_ITERATIONS)
        _check("bytes of salt", len(self.salt), PBKDF2_SALT_BYTES, PBKDF2_SALT_BYTES)

    def derive(self, secret: bytes) -> bytes:
        """32 bytes."""
        size = SecretBox.KEY_SIZE
        return hashlib.pbkdf2_hmac("sha256", secret, self.salt, self.iterations, size)


Derivation = Argon2id | Pbkdf2


def from_document(document: dict[str, Any]) -> Derivation:
    """What a key file asks for. Errors: ValueError, KeyError, TypeError; no work is done yet."""
    salt = bytes.fromhex(document["salt"])
    if document["algorithm"] == Argon2id.algorithm:
        return Argon2id(salt, document["passes"], document["memory_kib"])
    if document["algorithm"] == Pbkdf2.algorithm:
        return Pbkdf2(salt, document["iterations"])
    known = f"{Argon2id.algorithm} and {Pbkdf2.algorithm}"
    raise ValueError(f"kdf.algorithm {document['algorithm']!r} is not known, only {known}")


def secret_of(password: str) -> bytes:
    """The bytes of a password. Errors: BadPasswordError for an empty or endless one."""
    # NFKC: a password typed on another keyboard layout or system must give the same bytes.
    try:
        secret = unicodedata.normalize("NFKC", password).encode()
    except UnicodeEncodeError:
        raise BadPasswordError("the password has characters that are not UTF-8") from None
    if not 1 <= len(secret) <= MAX_PASSWORD_BYTES:
        raise BadPasswordError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes, not {len(secret)}")
    return secret


def check_new(password: str) -> None:
    """Refuse a password under which no new key shall lie. Errors: BadPasswordError."""
    secret_of(password)
    if "\0" in password:
        raise BadPasswordError("a password holds no NUL character")
    letters = len(unicodedata.normalize("NFKC", password))
    if letters < LEAST_PASSWORD:
        raise BadPasswordError(
            f"a new password has at least {LEAST_PASSWORD} characters, not {letters}: whoever "
            "copies the key file may guess for years, and shorter ones are found"
        )


def _check(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"kdf: {name} must be {low}..{high}, not {str(value)[:40]}")
