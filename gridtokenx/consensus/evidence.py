"""Proof, complete in itself, that a validator contradicted itself.

Source: protocols/consensus.md 2.9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from gridtokenx.consensus.certificates import Verify
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    Timeout,
    View,
    Vote,
    justification_hash,
    message_bytes,
    proposal_bytes,
)
from gridtokenx.primitives.codec import Bytes32, Bytes64, wire
from gridtokenx.primitives.crypto import verify as verify_ed25519
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.types import Address
from gridtokenx.primitives.validators import ValidatorSet


class EvidenceKind(IntEnum):
    """The four punishable pairs; nothing else is."""

    DOUBLE_PREPARE = 1
    DOUBLE_COMMIT = 2
    AMNESIA = 3  # COMMIT in v, then a TIMEOUT of a view >= v that has forgotten it.
    DOUBLE_PROPOSE = 4


@wire(17)
@dataclass(frozen=True, slots=True)
class ProposalSummary:
    """A proposal without its certificates: enough to check its signature."""

    height: int
    view: View
    block_hash: Bytes32
    justification_hash: Bytes32
    signature: Bytes64

    @classmethod
    def of(cls, proposal: Proposal) -> ProposalSummary:
        """Strip a proposal."""
        just = justification_hash(proposal.timeouts, proposal.certificate)
        return cls(proposal.height, proposal.view, proposal.block_hash, just, proposal.signature)


@wire(18)
@dataclass(frozen=True, slots=True)
class Evidence:
    """Two statements of one key that contradict each other.

    AMNESIA: `first` is the COMMIT, `second` the TIMEOUT. Otherwise both have one type.
    """

    kind: EvidenceKind
    public_key: Address
    first: Vote | ProposalSummary
    second: Vote | Timeout | ProposalSummary

    @property
    def height(self) -> int:
        """Height of the offence, for the evidence window."""
        return self.first.height

    @property
    def view(self) -> int:
        """View of the first statement; (key, height, view, kind) is punished once."""
        return self.first.view


def double_vote(validators: ValidatorSet, first: Vote, second: Vote) -> Evidence:
    """E1 or E2 from two votes of one member."""
    prepare = first.phase is Phase.PREPARE
    kind = EvidenceKind.DOUBLE_PREPARE if prepare else EvidenceKind.DOUBLE_COMMIT
    return Evidence(kind, validators.members[first.index].public_key, first, second)


def double_propose(public_key: Address, first: ProposalSummary, second: Proposal) -> Evidence:
    """E4 from two proposals of one leader."""
    summary = ProposalSummary.of(second)
    return Evidence(EvidenceKind.DOUBLE_PROPOSE, public_key, first, summary)


def is_amnesia(commit: Vote, timeout: Timeout) -> bool:
    """E3: the timeout of the commit's view or a later one names no certificate as high as it."""
    return timeout.view >= commit.view and timeout.high_view_plus_1 <= commit.view


def amnesia(validators: ValidatorSet, commit: Vote, timeout: Timeout) -> Evidence:
    """E3 from a COMMIT and a forgetful TIMEOUT of one member."""
    key = validators.members[commit.index].public_key
    return Evidence(EvidenceKind.AMNESIA, key, commit, replace(timeout, certificate=None))


def verify_evidence(
    evidence: Evidence,
    chain_id: bytes,
    validators: ValidatorSet,
    verify: Verify = verify_ed25519,
) -> None:
    """Raise unless the pair convicts a member of `validators`, the set of the pair's height.

    Errors: MALFORMED for a pair that is no offence; NOT_PERMITTED for a stranger's;
    BAD_SIGNATURE. The evidence window and "punished before" are the caller's to check.
    """
    if not _contradicts(evidence):
        detail = f"the pair is no {evidence.kind.name} of height {evidence.height}"
        raise Rejected(ErrorCode.MALFORMED, detail)
    if validators.index_of(evidence.public_key) is None:
        detail = f"{evidence.public_key.hex()} is not a validator of that height"
        raise Rejected(ErrorCode.NOT_PERMITTED, detail)
    for statement in (evidence.first, evidence.second):
        if not _signed_by(statement, evidence.public_key, chain_id, validators, verify):
            raise Rejected(ErrorCode.BAD_SIGNATURE, "a statement is not signed by the accused")


def _contradicts(evidence: Evidence) -> bool:
    first, second = evidence.first, evidence.second
    if first.height != second.height:
        return False
    if evidence.kind is EvidenceKind.AMNESIA:
        if not (isinstance(first, Vote) and isinstance(second, Timeout)):
            return False
        return first.phase is Phase.COMMIT and is_amnesia(first, second)
    if isinstance(second, Timeout) or first.view != second.view:
        return False
    return first.block_hash != second.block_hash and (
        _vote_kind(first) == evidence.kind == _vote_kind(second)
    )


def _vote_kind(statement: Vote | ProposalSummary) -> EvidenceKind:
    if isinstance(statement, ProposalSummary):
        return EvidenceKind.DOUBLE_PROPOSE
    prepare = statement.phase is Phase.PREPARE
    return EvidenceKind.DOUBLE_PREPARE if prepare else EvidenceKind.DOUBLE_COMMIT


def _signed_by(
    statement: Vote | Timeout | ProposalSummary,
    public_key: bytes,
    chain_id: bytes,
    validators: ValidatorSet,
    verify: Verify,
) -> bool:
    if isinstance(statement, ProposalSummary):
        signed = proposal_bytes(
            chain_id,
            statement.height,
            statement.view,
            statement.block_hash,
            statement.justification_hash,
        )
    else:
        if validators.index_of(public_key) != statement.index:
            return False
        signed = message_bytes(chain_id, statement)
    return verify(public_key, signed, statement.signature)
