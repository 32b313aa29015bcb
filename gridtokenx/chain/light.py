"""Trust in a header without its chain: from the genesis set, change by change, to its signers.

One header and certificate for each change of the validator set; the blocks between are not needed,
and what has been followed once is kept as a `TrustedSet`. Source: protocols/consensus.md 2.11, 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gridtokenx.chain.block import Header
from gridtokenx.consensus.certificates import check_commit
from gridtokenx.consensus.messages import QuorumCertificate
from gridtokenx.primitives.codec import wire
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import ValidatorSet

MAX_SET_CHANGES = 50  # In one answer. Of 60 validators: 600 kB of hex, 2,050 signatures to check.


@wire(252)
@dataclass(frozen=True)
class SetChange:
    """The last header that a set signed, its certificate, and the set that it hands over to."""

    header: Header
    certificate: QuorumCertificate
    following: ValidatorSet


@dataclass(frozen=True, slots=True)
class TrustedSet:
    """Who signs the blocks above `height`, until the next change; height 0 is the genesis."""

    height: int
    validators: ValidatorSet


def follow_sets(
    chain_id: bytes,
    trusted: TrustedSet,
    changes: Iterable[SetChange],
    anchor: Header | None = None,
) -> TrustedSet:
    """The set after all changes, in the order of their heights, beginning with `trusted`.

    `anchor` is a header that is known to be decided: its chain must be the one that is followed.
    Errors: INVALID_CERTIFICATE, INVALID_BLOCK.
    """
    height, signers = trusted.height, trusted.validators
    for change in changes:
        header = change.header
        if header.height <= height:
            raise Rejected(ErrorCode.INVALID_BLOCK, "changes of the set must ascend in height")
        if anchor is not None:
            check_passes(anchor, header, TrustedSet(height, signers))
        check_decided(chain_id, header, change.certificate, signers)
        if change.following.hash != header.next_set_hash:
            detail = f"header {header.height} hands over to another set"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        height, signers = header.height, change.following
    return TrustedSet(height, signers)


def check_passes(anchor: Header, header: Header, trusted: TrustedSet) -> None:
    """Whether the way from a set to a header leads through the trusted `anchor`, where that lies
    above the set: the header is the anchor itself, or the set is the one that follows it.

    Errors: INVALID_BLOCK.
    """
    if anchor.height <= trusted.height or header.height < anchor.height:
        return
    if header.height == anchor.height:
        leads_through = header.hash == anchor.hash
    else:
        leads_through = trusted.validators.hash == anchor.next_set_hash
    if not leads_through:
        detail = f"the way to block {header.height} does not lead through the trusted block "
        raise Rejected(ErrorCode.INVALID_BLOCK, f"{detail}{anchor.height}")


def check_decided(
    chain_id: bytes, header: Header, certificate: QuorumCertificate, signers: ValidatorSet
) -> None:
    """Whether `signers` decided the header. Errors: INVALID_CERTIFICATE, INVALID_BLOCK."""
    check_commit(certificate, chain_id, header.height, header.hash, signers)
    if header.chain_id != chain_id or header.set_hash != signers.hash:
        raise Rejected(ErrorCode.INVALID_BLOCK, "the header is of another chain or another set")
