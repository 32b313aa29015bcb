"""Bounded buffers of one height: votes, timeouts, proposals, and the pairs that convict.

Everything here has a checked signature. Views reach 64 below and above the current one, a signer
has at most two hashes per phase and view (the second convicts) and one timeout per view, so n
validators fill at most n * (129 * 4 + 65) places. Source: protocols/consensus.md 2.4.
"""

from __future__ import annotations

from gridtokenx.consensus.evidence import (
    Evidence,
    ProposalSummary,
    amnesia,
    double_propose,
    double_vote,
    is_amnesia,
)
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    TimeoutEntry,
    Vote,
)
from gridtokenx.primitives.validators import ValidatorSet

VIEW_WINDOW = 64
KNOWN_CERTIFICATES = 128


class Ballots:
    """What was heard of one height; assembles certificates, never judges rules."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._votes: dict[tuple[Phase, int, bytes], dict[int, Vote]] = {}
        self._cast: dict[tuple[Phase, int, int], tuple[Vote, ...]] = {}
        self._timeouts: dict[int, dict[int, Timeout]] = {}
        self._proposals: dict[int, ProposalSummary] = {}
        self._known: dict[tuple[int, bytes], QuorumCertificate] = {}

    def size(self) -> int:
        """Number of buffered messages, for the bound and for telemetry."""
        votes = sum(len(cast) for cast in self._cast.values())
        timeouts = sum(len(heard) for heard in self._timeouts.values())
        return votes + timeouts + len(self._proposals) + len(self._known)

    def admits_vote(self, vote: Vote) -> bool:
        """Whether there is room: not held already, and not a third hash of its signer."""
        cast = self._cast.get((vote.phase, vote.view, vote.index), ())
        return len(cast) < 2 and all(held.block_hash != vote.block_hash for held in cast)

    def add_vote(self, vote: Vote) -> Evidence | None:
        """Keep an admitted vote; return what it proves against its signer."""
        key = (vote.phase, vote.view, vote.index)
        before = self._cast.get(key, ())
        self._cast[key] = (*before, vote)
        self._votes.setdefault((vote.phase, vote.view, vote.block_hash), {})[vote.index] = vote
        if before:
            return double_vote(self._validators, before[0], vote)
        if vote.phase is Phase.COMMIT:
            for heard in self._timeouts.values():
                timeout = heard.get(vote.index)
                if timeout is not None and is_amnesia(vote, timeout):
                    return amnesia(self._validators, vote, timeout)
        return None

    def quorum_certificate(
        self, phase: Phase, view: int, block_hash: bytes
    ) -> QuorumCertificate | None:
        """The certificate of these votes if they are a quorum."""
        votes = self._votes.get((phase, view, block_hash), {})
        indexes = sorted(votes)
        if not indexes or not self._validators.is_quorum(self._validators.weight_of(indexes)):
            return None
        signatures = tuple(IndexedSignature(index, votes[index].signature) for index in indexes)
        height = votes[indexes[0]].height
        return QuorumCertificate(phase, height, view, block_hash, signatures)

    def admits_timeout(self, timeout: Timeout) -> bool:
        """Whether its signer's place in that view is free."""
        return timeout.index not in self._timeouts.get(timeout.view, {})

    def add_timeout(self, timeout: Timeout) -> Evidence | None:
        """Keep an admitted timeout whose certificate is attached; return what it proves."""
        self._timeouts.setdefault(timeout.view, {})[timeout.index] = timeout
        lowest = max(timeout.high_view_plus_1, timeout.view - 2 * VIEW_WINDOW)
        for view in range(lowest, timeout.view + 1):
            for commit in self._cast.get((Phase.COMMIT, view, timeout.index), ()):
                return amnesia(self._validators, commit, timeout)
        return None

    def timeout_weight(self, view: int) -> int:
        """Summed weight of those who left `view`."""
        return self._validators.weight_of(self._timeouts.get(view, {}))

    def timeout_certificate(self, view: int) -> TimeoutCertificate | None:
        """The certificate of the timeouts of `view` if they are a quorum."""
        heard = self._timeouts.get(view, {})
        if not heard or not self._validators.is_quorum(self.timeout_weight(view)):
            return None
        timeouts = [heard[index] for index in sorted(heard)]
        highest = max(timeouts, key=lambda timeout: timeout.high_view_plus_1)
        entries = tuple(
            TimeoutEntry(one.index, one.high_view_plus_1, one.high_hash, one.signature)
            for one in timeouts
        )
        return TimeoutCertificate(highest.height, view, entries, highest.certificate)

    def add_proposal(self, proposal: Proposal, leader: int) -> tuple[bool, Evidence | None]:
        """Whether it is the first of its view; what a differing second one proves."""
        first = self._proposals.get(proposal.view)
        if first is None:
            self._proposals[proposal.view] = ProposalSummary.of(proposal)
            return True, None
        if first.block_hash == proposal.block_hash:
            return False, None
        key = self._validators.members[leader].public_key
        return False, double_propose(key, first, proposal)

    def has_proposal(self, proposal: Proposal) -> bool:
        """Whether this very proposal was taken in before."""
        first = self._proposals.get(proposal.view)
        return first is not None and first.signature == proposal.signature

    def remember(self, certificate: QuorumCertificate) -> None:
        """Keep a verified PREPARE certificate, which timeouts may name without attaching it."""
        if len(self._known) >= KNOWN_CERTIFICATES:
            del self._known[next(iter(self._known))]
        self._known[certificate.view, certificate.block_hash] = certificate

    def known(self, view: int, block_hash: bytes) -> QuorumCertificate | None:
        """The verified PREPARE certificate of a view and block, if it was seen."""
        return self._known.get((view, block_hash))

    def prune(self, view: int) -> None:
        """Entering `view`: forget timeouts of earlier views and all that lies 64 views back."""
        low = view - VIEW_WINDOW
        self._votes = {key: held for key, held in self._votes.items() if key[1] >= low}
        self._cast = {key: held for key, held in self._cast.items() if key[1] >= low}
        self._timeouts = {key: held for key, held in self._timeouts.items() if key >= view}
        self._proposals = {key: held for key, held in self._proposals.items() if key >= low}
