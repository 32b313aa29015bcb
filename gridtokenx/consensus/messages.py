"""What validators sign and send. Source: protocols/consensus.md 2.2.

Signed bytes have a fixed length and hold no CBOR and no time, so every honest node rebuilds the
same ones; the envelopes around them are `@wire` arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Annotated

from gridtokenx.primitives.codec import Bytes32, Bytes64, Limit, decode_any, encode, wire
from gridtokenx.primitives.crypto import ZERO_HASH, sha256, tagged_hash
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import MAX_VALIDATORS

MAX_VIEW = 2**31
MAX_MESSAGE_BYTES = 64 * 1024  # A proposal of 128 validators with both certificates has 34 kB.
DOMAIN = b"GTXv1"
_HEAD = struct.Struct(">5sB32sQI")

View = Annotated[int, Limit(0, MAX_VIEW)]
Index = Annotated[int, Limit(0, MAX_VALIDATORS - 1)]


class Phase(IntEnum):
    """The type byte of everything signed."""

    PROPOSE = 1
    PREPARE = 2
    COMMIT = 3
    TIMEOUT = 4


def signed_bytes(phase: Phase, chain_id: bytes, height: int, view: int, rest: bytes) -> bytes:
    """The bytes under a consensus signature: 50 of head, then the rest of its type (2.2)."""
    return _HEAD.pack(DOMAIN, phase, chain_id, height, view) + rest


def _require_vote_phase(phase: Phase) -> None:
    if phase not in (Phase.PREPARE, Phase.COMMIT):
        raise Rejected(ErrorCode.MALFORMED, f"{phase.name} is neither PREPARE nor COMMIT")


def _require_high(view: int, high_view_plus_1: int, high_hash: bytes) -> None:
    """A timeout cannot know a certificate of a later view, and none means the zero hash."""
    if high_view_plus_1 > view + 1:
        detail = f"high view {high_view_plus_1 - 1} lies after the timed out view {view}"
        raise Rejected(ErrorCode.MALFORMED, detail)
    if high_view_plus_1 == 0 and high_hash != ZERO_HASH:
        raise Rejected(ErrorCode.MALFORMED, "no high certificate must go with the zero hash")


@wire(10)
@dataclass(frozen=True, slots=True)
class IndexedSignature:
    """A member's signature inside a certificate; `index` is its position in the set."""

    index: Index
    signature: Bytes64


@wire(11)
@dataclass(frozen=True, slots=True)
class QuorumCertificate:
    """More than two thirds of the weight signed PREPARE or COMMIT for one block in one view.

    As a message of its own, a COMMIT certificate tells that its height is decided.
    """

    phase: Phase
    height: int
    view: View
    block_hash: Bytes32
    signatures: Annotated[tuple[IndexedSignature, ...], Limit(1, MAX_VALIDATORS)]

    def __post_init__(self) -> None:
        _require_vote_phase(self.phase)


@wire(12)
@dataclass(frozen=True, slots=True)
class TimeoutEntry:
    """One member's timeout inside a certificate: its highest prepared view plus 1 (0: none)."""

    index: Index
    high_view_plus_1: Annotated[int, Limit(0, MAX_VIEW + 1)]
    high_hash: Bytes32
    signature: Bytes64


@wire(13)
@dataclass(frozen=True, slots=True)
class TimeoutCertificate:
    """More than two thirds of the weight left `view`; `certificate` proves their maximum.

    `certificate` is the PREPARE certificate of the highest view any entry names, None iff all
    entries name none.
    """

    height: int
    view: View
    entries: Annotated[tuple[TimeoutEntry, ...], Limit(1, MAX_VALIDATORS)]
    certificate: QuorumCertificate | None

    def __post_init__(self) -> None:
        for entry in self.entries:
            _require_high(self.view, entry.high_view_plus_1, entry.high_hash)

    @property
    def high_view(self) -> int:
        """Highest prepared view named by an entry, -1 for none."""
        return max(entry.high_view_plus_1 for entry in self.entries) - 1


@wire(14)
@dataclass(frozen=True, slots=True)
class Proposal:
    """The leader's block for a view, with the proof that the view allows it (2.6, ACCEPT)."""

    height: int
    view: View
    block_hash: Bytes32
    timeouts: TimeoutCertificate | None
    certificate: QuorumCertificate | None
    signature: Bytes64

    @property
    def fresh(self) -> bool:
        """Whether the block is offered for the first time (no certificate stands behind it)."""
        return self.certificate is None


@wire(15)
@dataclass(frozen=True, slots=True)
class Vote:
    """A PREPARE or COMMIT of one member."""

    phase: Phase
    height: int
    view: View
    block_hash: Bytes32
    index: Index
    signature: Bytes64

    def __post_init__(self) -> None:
        _require_vote_phase(self.phase)


@wire(16)
@dataclass(frozen=True, slots=True)
class Timeout:
    """A member leaves a view. The certificate it names rides along, outside the signature."""

    height: int
    view: View
    high_view_plus_1: Annotated[int, Limit(0, MAX_VIEW + 1)]
    high_hash: Bytes32
    index: Index
    signature: Bytes64
    certificate: QuorumCertificate | None

    def __post_init__(self) -> None:
        _require_high(self.view, self.high_view_plus_1, self.high_hash)


Certificate = QuorumCertificate | TimeoutCertificate
SignedMessage = Proposal | Vote | Timeout
Message = Proposal | Vote | Timeout | QuorumCertificate | TimeoutCertificate


def decode_message(data: bytes) -> Message:
    """Read one message. Errors: TOO_LARGE above 64 KiB; MALFORMED, OUT_OF_RANGE, UNKNOWN_KIND."""
    message: Message = decode_any(Message, data, MAX_MESSAGE_BYTES)
    return message


def certificate_digest(certificate: Certificate | None) -> bytes:
    """32 bytes that name a certificate; zeros for None."""
    return ZERO_HASH if certificate is None else sha256(encode(certificate))


def justification_hash(
    timeouts: TimeoutCertificate | None, certificate: QuorumCertificate | None
) -> bytes:
    """What binds a proposal to its proof: zeros in view 0, else a hash of both certificates."""
    if timeouts is None and certificate is None:
        return ZERO_HASH
    return tagged_hash("gtx.just", certificate_digest(timeouts), certificate_digest(certificate))


def proposal_bytes(chain_id: bytes, height: int, view: int, block: bytes, just: bytes) -> bytes:
    """Signed bytes of a PROPOSE: block hash and justification hash, 32 bytes each."""
    return signed_bytes(Phase.PROPOSE, chain_id, height, view, block + just)


def vote_bytes(phase: Phase, chain_id: bytes, height: int, view: int, block_hash: bytes) -> bytes:
    """Signed bytes of a PREPARE or COMMIT."""
    return signed_bytes(phase, chain_id, height, view, block_hash)


def timeout_bytes(chain_id: bytes, height: int, view: int, high_plus_1: int, high: bytes) -> bytes:
    """Signed bytes of a TIMEOUT: highest prepared view plus 1 (u32be, 0: none) and its block."""
    rest = high_plus_1.to_bytes(4, "big") + high
    return signed_bytes(Phase.TIMEOUT, chain_id, height, view, rest)


def message_bytes(chain_id: bytes, message: SignedMessage) -> bytes:
    """The bytes that `message.signature` signs."""
    if isinstance(message, Vote):
        return vote_bytes(message.phase, chain_id, message.height, message.view, message.block_hash)
    if isinstance(message, Timeout):
        high = message.high_view_plus_1
        return timeout_bytes(chain_id, message.height, message.view, high, message.high_hash)
    just = justification_hash(message.timeouts, message.certificate)
    return proposal_bytes(chain_id, message.height, message.view, message.block_hash, just)


def strictly_increasing(indexes: Sequence[int]) -> bool:
    """Whether no index repeats and all are in order."""
    return all(low < high for low, high in pairwise(indexes))
