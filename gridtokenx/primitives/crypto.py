"""SHA-256 and Ed25519 (libsodium through PyNaCl, the only Ed25519 library in consensus)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from nacl import bindings
from nacl.exceptions import BadSignatureError

ZERO_HASH = bytes(32)


def sha256(data: bytes) -> bytes:
    """32-byte SHA-256."""
    return hashlib.sha256(data).digest()


def tagged_hash(tag: str, *parts: bytes) -> bytes:
    """SHA-256 over the tag and the parts. Parts must be self-delimiting or of fixed length."""
    digest = hashlib.sha256(tag.encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def kyc_reference(salt: bytes, identifier: bytes) -> bytes:
    """HMAC-SHA256(salt, identifier): links a participant to an off-chain identity.

    Deleting the salt erases the link. Source: protocols/market.md 5.1.
    """
    return hmac.digest(salt, identifier, "sha256")


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is the key's (32 bytes) over `message`. Never raises."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except (BadSignatureError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key made from its 32-byte seed. The seed is kept out of repr and logs."""

    seed: bytes = field(repr=False)
    public_key: bytes = field(init=False)
    _secret: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise ValueError(f"an Ed25519 seed has 32 bytes, not {len(self.seed)}")
        public_key, secret = bindings.crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "public_key", public_key)
        object.__setattr__(self, "_secret", secret)

    def sign(self, message: bytes) -> bytes:
        """64-byte detached signature."""
        return bindings.crypto_sign(message, self._secret)[:64]
