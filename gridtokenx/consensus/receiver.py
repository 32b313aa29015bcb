"""How the engine takes in messages: bounds, signatures, justification, buffers.

Source: protocols/consensus.md 2.4, 2.6 (ACCEPT, VIEW, BEHIND). The rules that act on what was
taken in are in `engine`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from gridtokenx.consensus.ballots import VIEW_WINDOW
from gridtokenx.consensus.certificates import CertificateChecker, Verify
from gridtokenx.consensus.events import (
    Broadcast,
    Effect,
    Penalise,
    ReportEvidence,
    RequestSync,
    SafetyRecord,
    SendDecided,
    StopSigning,
)
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import (
    Message,
    Phase,
    Proposal,
    QuorumCertificate,
    SignedMessage,
    Timeout,
    TimeoutCertificate,
    Vote,
    message_bytes,
)
from gridtokenx.consensus.state import HeightState, Timing
from gridtokenx.primitives.crypto import verify as verify_ed25519
from gridtokenx.primitives.errors import ErrorCode, Rejected

MAX_ANSWERED_PEERS = 64


class Signer(Protocol):
    """A signing key: `primitives.crypto.SigningKey`, or a stand-in of a simulator."""

    @property
    def public_key(self) -> bytes: ...  # 32 bytes

    def sign(self, message: bytes) -> bytes: ...  # 64 bytes


class Receiver:
    """The half of the engine that listens.

    signer: None for an observer. record: what the last `Persist` stored, None on a new disk.
    observe_until_height: sign nothing at heights up to this one; see `events.Observe`.
    """

    def __init__(
        self,
        chain_id: bytes,
        signer: Signer | None,
        timing: Timing,
        *,
        verify: Verify = verify_ed25519,
        record: SafetyRecord | None = None,
        observe_until_height: int = -1,
    ) -> None:
        self.chain_id = chain_id
        self.timing = timing
        self.state: HeightState | None = None
        self.stopped = False
        self.highest_height = 0  # Highest height of a validly signed message, for 2.8.
        self._signer = signer
        self._verify = verify
        self._record = record
        self._observe_until = observe_until_height
        # Members heard since `Observe` asked for it; None: nobody need be heard, or enough were.
        self._heard: dict[bytes, None] | None = None
        self._checker = CertificateChecker(chain_id, verify)
        self._early: dict[tuple[int, Phase], SignedMessage] = {}
        self._answered: dict[bytes, int] = {}
        self._sync_at_ms = self._look_at_ms = 0
        self._now_ms = 0
        self._out: list[Effect] = []

    # -- Messages ----------------------------------------------------------------------------------

    def _receive(self, message: Message, peer: bytes | None) -> None:
        state = self.state
        if state is None:
            return
        if message.height > state.height:
            self._hear_ahead(state, message, peer)
        elif message.height < state.height:
            self._answer_behind(state, message, peer)
        elif not state.decided:
            try:
                self._admit(state, message)
            except Rejected as error:
                if peer is not None:
                    self._out.append(Penalise(peer, str(error)))

    def _hear_ahead(self, state: HeightState, message: Message, peer: bytes | None) -> None:
        """BEHIND: ask the sender for blocks, and keep the newest of each member for height + 1.

        The set of a later height is not known yet; the present one verifies all but the first
        messages of an epoch's new members, which RESEND brings again. What it does not verify
        shows nothing: anybody can make it up.
        """
        if isinstance(message, QuorumCertificate | TimeoutCertificate):
            self._hear_certificate_ahead(state, message, peer)
            return
        next_height = message.height == state.height + 1
        if isinstance(message, Proposal):
            if not next_height or message.view > VIEW_WINDOW:
                return
            index = state.leader(message.height, message.view)
        else:
            index = message.index
        if not self._genuine(state, message, index):
            return
        self._request_sync(state, peer)
        self._note_heard(state, message, index)
        if next_height and message.view <= VIEW_WINDOW:
            key = (index, _phase(message))
            held = self._early.get(key)
            if held is None or held.view <= message.view:
                self._early[key] = message

    def _hear_certificate_ahead(
        self,
        state: HeightState,
        message: QuorumCertificate | TimeoutCertificate,
        peer: bytes | None,
    ) -> None:
        """Many signatures, so one certificate in a while is looked at."""
        if self._now_ms < self._look_at_ms:
            return
        self._look_at_ms = self._now_ms + self.timing.resend_ms // 4
        try:
            self._checker.check(message, state.validators)
        except Rejected:
            return
        is_decided = isinstance(message, QuorumCertificate) and message.phase is Phase.COMMIT
        self._request_sync(state, peer, message.height if is_decided else message.height - 1)

    def _request_sync(self, state: HeightState, peer: bytes | None, shown: int = -1) -> None:
        if peer is not None and self._now_ms >= self._sync_at_ms and not state.decided:
            self._sync_at_ms = self._now_ms + self.timing.resend_ms
            self._out.append(RequestSync(state.height, peer, shown))

    def _answer_behind(self, state: HeightState, message: Message, peer: bytes | None) -> None:
        """BEHIND: send a lagging validator the certificate of its height.

        Certificates are never answered, or two nodes would answer each other for ever.
        """
        if peer is None or isinstance(message, QuorumCertificate | TimeoutCertificate):
            return
        now, pause = self._now_ms, self.timing.resend_ms
        self._answered = {one: at for one, at in self._answered.items() if at + pause > now}
        if peer not in self._answered and len(self._answered) < MAX_ANSWERED_PEERS:
            self._answered[peer] = now
            self._out.append(SendDecided(peer, message.height))

    def _admit(self, state: HeightState, message: Message) -> None:
        """Check a message of the current height and take it in; raise if its author is wrong."""
        match message:
            case Proposal():
                self._admit_proposal(state, message)
            case Vote():
                near = abs(message.view - state.view) <= VIEW_WINDOW
                if near and state.ballots.admits_vote(message):
                    self._authenticate(state, message, message.index)
                    self._take(state, message)
            case Timeout():
                self._admit_timeout(state, message)
            case QuorumCertificate():
                self._admit_certificate(state, message)
            case TimeoutCertificate():
                if message.view >= state.view:
                    self._checker.check(message, state.validators)
                    self._enter_by_timeouts(state, message)

    def _admit_certificate(self, state: HeightState, certificate: QuorumCertificate) -> None:
        if certificate.phase is Phase.PREPARE and certificate.view <= state.high_view:
            return
        self._checker.check(certificate, state.validators)
        self._learn(state, certificate)

    def _admit_timeout(self, state: HeightState, timeout: Timeout) -> None:
        """A high view counts only with its PREPARE certificate, attached or known."""
        near = state.view <= timeout.view <= state.view + VIEW_WINDOW
        if not near or not state.ballots.admits_timeout(timeout):
            return
        self._authenticate(state, timeout, timeout.index)
        certificate = None
        if timeout.high_view_plus_1 > 0:
            view, block_hash = timeout.high_view_plus_1 - 1, timeout.high_hash
            certificate = state.ballots.known(view, block_hash) or timeout.certificate
            if certificate is None:
                return
            named = (Phase.PREPARE, timeout.height, view, block_hash)
            if named != _statement(certificate):
                raise Rejected(ErrorCode.INVALID_CERTIFICATE, "not the certificate it names")
            self._checker.check(certificate, state.validators)
        self._take(state, replace(timeout, certificate=certificate))

    def _admit_proposal(self, state: HeightState, proposal: Proposal) -> None:  # ACCEPT
        near = state.view <= proposal.view <= state.view + VIEW_WINDOW
        if not near or state.ballots.has_proposal(proposal):
            return
        leader = state.leader(proposal.height, proposal.view)
        self._authenticate(state, proposal, leader)
        if not self._justified(state, proposal):
            detail = f"the proposal of view {proposal.view} is not justified"
            raise Rejected(ErrorCode.INVALID_CERTIFICATE, detail)
        self._take(state, proposal)

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        """THE SAFETY CHECK: the block's certificate is as high as any member of the TC knows."""
        timeouts, certificate = proposal.timeouts, proposal.certificate
        if proposal.view == 0:
            return timeouts is None and certificate is None
        if timeouts is None or timeouts.height != state.height:
            return False
        if timeouts.view != proposal.view - 1:
            return False
        self._checker.check(timeouts, state.validators)
        if certificate is None:
            return timeouts.high_view < 0
        named = (Phase.PREPARE, state.height, certificate.view, proposal.block_hash)
        if named != _statement(certificate) or certificate.view >= proposal.view:
            return False
        self._checker.check(certificate, state.validators)
        return certificate.view >= timeouts.high_view

    def _authenticate(self, state: HeightState, message: SignedMessage, index: int) -> None:
        """Raise unless member `index` signed it; stop signing if that is us and we did not."""
        if not self._genuine(state, message, index):
            raise Rejected(ErrorCode.BAD_SIGNATURE, f"not signed by member {index}")
        self._note_heard(state, message, index)
        strange = index == state.me and message.signature not in state.own_signatures
        if strange and message.view >= state.complete_from and self._may_sign(state):
            where = f"height {message.height} view {message.view}"
            self._stop(f"own key signed {where} elsewhere", key_in_use=True)

    def _note_heard(self, state: HeightState, message: SignedMessage, index: int) -> None:
        """The highest height heard, and from whom, while that matters.

        The height before the last one this key signed at was decided by a quorum. Another quorum
        has an honest member in common with it, who speaks of that height or a later one.
        """
        self.highest_height = max(self.highest_height, message.height)
        if self._heard is None or index == state.me:
            return
        members = state.validators
        self._heard[members.members[index].public_key] = None
        indexes = (members.index_of(key) for key in self._heard)
        if members.is_quorum(members.weight_of(one for one in indexes if one is not None)):
            self._heard = None
            self._observe_until = max(self._observe_until, self.highest_height + 1)

    def _genuine(self, state: HeightState, message: SignedMessage, index: int) -> bool:
        members = state.validators.members
        if index >= len(members):
            return False
        signed = message_bytes(self.chain_id, message)
        return self._verify(members[index].public_key, signed, message.signature)

    # -- Taking in what is checked (own messages come straight here) -------------------------------

    def _take(self, state: HeightState, message: SignedMessage) -> None:
        match message:
            case Vote(phase, _, view, block_hash):
                if state.ballots.admits_vote(message):
                    self._convict(state, state.ballots.add_vote(message))
                    certificate = state.ballots.quorum_certificate(phase, view, block_hash)
                    if certificate is not None:
                        self._learn(state, certificate)
            case Timeout(_, view, certificate=certificate):
                if state.ballots.admits_timeout(message):
                    self._convict(state, state.ballots.add_timeout(message))
                    if certificate is not None:
                        self._learn(state, certificate)
                    timeouts = state.ballots.timeout_certificate(view)
                    if timeouts is not None and view >= state.view:
                        self._enter_by_timeouts(state, timeouts)
                        if self._may_sign(state):
                            self._out.append(Broadcast(timeouts))
            case Proposal():
                self._take_proposal(state, message)

    def _take_proposal(self, state: HeightState, proposal: Proposal) -> None:
        leader = state.leader(proposal.height, proposal.view)
        first, evidence = state.ballots.add_proposal(proposal, leader)
        self._convict(state, evidence)
        if proposal.certificate is not None:
            self._learn(state, proposal.certificate)
        if proposal.timeouts is not None and proposal.timeouts.view >= state.view:
            self._enter_by_timeouts(state, proposal.timeouts)
        if first and proposal.view == state.view:
            state.proposal = proposal

    def _learn(self, state: HeightState, certificate: QuorumCertificate) -> None:
        """Merge: a higher PREPARE certificate replaces the lower; a COMMIT one decides."""
        if certificate.phase is Phase.COMMIT:
            state.commit_certificate = state.commit_certificate or certificate
            return
        if state.ballots.known(certificate.view, certificate.block_hash) is None:
            state.ballots.remember(certificate)
        if certificate.view > state.high_view:
            state.high_certificate = certificate

    def _enter_by_timeouts(self, state: HeightState, timeouts: TimeoutCertificate) -> None:  # VIEW
        if timeouts.certificate is not None:
            self._learn(state, timeouts.certificate)
        self._enter_view(state, timeouts.view + 1, timeouts)

    def _enter_view(self, state: HeightState, view: int, entry: TimeoutCertificate | None) -> None:
        state.enter_view(view, entry, self._now_ms + self.timing.timeout_ms(view))

    def _convict(self, state: HeightState, evidence: Evidence | None) -> None:
        """Report each member once per kind and height."""
        if evidence is not None:
            key = (int(evidence.kind), evidence.public_key)
            if key not in state.convicted:
                state.convicted[key] = None
                self._out.append(ReportEvidence(evidence))

    # -- Standing ----------------------------------------------------------------------------------

    def _may_sign(self, state: HeightState) -> bool:
        """Whether this node signs at this height at all (member, not observing, not stopped)."""
        if self._signer is None or state.me is None or self.stopped or self._heard is not None:
            return False
        recorded = -1 if self._record is None else self._record.height
        return state.height > self._observe_until and state.height >= recorded

    def _stop(self, reason: str, *, key_in_use: bool = False) -> None:
        if not self.stopped:
            self.stopped = True
            self._out.append(StopSigning(reason, key_in_use))


def _phase(message: SignedMessage) -> Phase:
    if isinstance(message, Vote):
        return message.phase
    return Phase.PROPOSE if isinstance(message, Proposal) else Phase.TIMEOUT


def _statement(certificate: QuorumCertificate) -> tuple[Phase, int, int, bytes]:
    """What a certificate certifies."""
    return (certificate.phase, certificate.height, certificate.view, certificate.block_hash)
