"""Checking certificates: uniqueness, membership, weight, then signatures.

Source: protocols/consensus.md 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gridtokenx.consensus.messages import (
    Certificate,
    Phase,
    QuorumCertificate,
    TimeoutCertificate,
    certificate_digest,
    strictly_increasing,
    timeout_bytes,
    vote_bytes,
)
from gridtokenx.primitives.crypto import verify as verify_ed25519
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import ValidatorSet

Verify = Callable[[bytes, bytes, bytes], bool]  # (public key, message, signature) -> genuine
VERIFIED_CAPACITY = 1024


def _reject(detail: str) -> Rejected:
    return Rejected(ErrorCode.INVALID_CERTIFICATE, detail)


def _check_signers(indexes: Sequence[int], validators: ValidatorSet) -> None:
    if not strictly_increasing(indexes):
        raise _reject(f"signer indexes {list(indexes)} must strictly increase")
    if indexes[-1] >= len(validators.members):
        raise _reject(f"signer {indexes[-1]} is not one of {len(validators.members)} members")
    weight = validators.weight_of(indexes)
    if not validators.is_quorum(weight):
        total = validators.total_weight
        raise _reject(f"weight {weight} of {total} is not more than two thirds")


def check_quorum_certificate(
    certificate: QuorumCertificate,
    chain_id: bytes,
    validators: ValidatorSet,
    verify: Verify = verify_ed25519,
) -> None:
    """Raise INVALID_CERTIFICATE unless a quorum of `validators` signed it for `chain_id`."""
    _check_signers([one.index for one in certificate.signatures], validators)
    signed = vote_bytes(
        certificate.phase, chain_id, certificate.height, certificate.view, certificate.block_hash
    )
    for one in certificate.signatures:
        if not verify(validators.members[one.index].public_key, signed, one.signature):
            raise _reject(f"forged signature of member {one.index}")


def check_commit(
    certificate: QuorumCertificate,
    chain_id: bytes,
    height: int,
    block_hash: bytes,
    validators: ValidatorSet,
    verify: Verify = verify_ed25519,
) -> None:
    """Raise INVALID_CERTIFICATE unless a quorum of `validators` decided this block of a chain.

    Source: protocols/consensus.md 2.2.
    """
    _check_is_commit(certificate, height, block_hash)
    check_quorum_certificate(certificate, chain_id, validators, verify)


def _check_is_commit(certificate: QuorumCertificate, height: int, block_hash: bytes) -> None:
    claimed = (certificate.phase, certificate.height, certificate.block_hash)
    if claimed != (Phase.COMMIT, height, block_hash):
        raise _reject(
            f"the certificate is not the COMMIT of block {height} {block_hash.hex()[:16]}"
        )


def check_timeout_certificate(
    timeouts: TimeoutCertificate,
    chain_id: bytes,
    validators: ValidatorSet,
    verify: Verify = verify_ed25519,
) -> None:
    """Raise INVALID_CERTIFICATE unless a quorum left the view and the maximum is proved."""
    _check_signers([entry.index for entry in timeouts.entries], validators)
    _check_maximum(timeouts)
    for entry in timeouts.entries:
        signed = timeout_bytes(
            chain_id, timeouts.height, timeouts.view, entry.high_view_plus_1, entry.high_hash
        )
        if not verify(validators.members[entry.index].public_key, signed, entry.signature):
            raise _reject(f"forged timeout of member {entry.index}")
    if timeouts.certificate is not None:
        check_quorum_certificate(timeouts.certificate, chain_id, validators, verify)


def _check_maximum(timeouts: TimeoutCertificate) -> None:
    """The certificate carried must be exactly the one of the highest view an entry names."""
    high = timeouts.certificate
    if timeouts.high_view < 0:
        if high is not None:
            raise _reject("a certificate is carried that no entry names")
        return
    if high is None:
        raise _reject(f"the certificate of view {timeouts.high_view} is missing")
    if not is_prepare_of(high, timeouts.height, timeouts.high_view):
        raise _reject(f"the certificate carried is not the PREPARE of view {timeouts.high_view}")
    for entry in timeouts.entries:
        if entry.high_view_plus_1 - 1 == high.view and entry.high_hash != high.block_hash:
            raise _reject(f"member {entry.index} names another block for view {high.view}")


def is_prepare_of(certificate: QuorumCertificate, height: int, view: int) -> bool:
    """Whether it claims to be a PREPARE certificate of exactly this height and view."""
    return (certificate.phase, certificate.height, certificate.view) == (
        Phase.PREPARE,
        height,
        view,
    )


class CertificateChecker:
    """Checks certificates of one chain and remembers the last 1024 good ones by digest.

    Resends make every certificate arrive many times; a signature costs 75 microseconds.
    """

    def __init__(self, chain_id: bytes, verify: Verify) -> None:
        self._chain_id = chain_id
        self._verify = verify
        self._verified: dict[bytes, None] = {}  # Ordered: the oldest is forgotten first.

    def check(self, certificate: Certificate, validators: ValidatorSet) -> None:
        """Raise INVALID_CERTIFICATE unless `validators` really issued it."""
        key = validators.hash + certificate_digest(certificate)
        if key in self._verified:
            return
        if isinstance(certificate, QuorumCertificate):
            check_quorum_certificate(certificate, self._chain_id, validators, self._verify)
        else:
            check_timeout_certificate(certificate, self._chain_id, validators, self._verify)
        self._remember(key)

    def check_commit(
        self,
        certificate: QuorumCertificate,
        height: int,
        block_hash: bytes,
        validators: ValidatorSet,
    ) -> None:
        """As the function `check_commit`."""
        _check_is_commit(certificate, height, block_hash)
        self.check(certificate, validators)

    def _remember(self, key: bytes) -> None:
        if len(self._verified) >= VERIFIED_CAPACITY:
            del self._verified[next(iter(self._verified))]
        self._verified[key] = None
