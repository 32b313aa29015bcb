"""The consensus engine: one event in, effects out, in order.

Source: protocols/consensus.md 2.6, 2.8.

No clock, socket, storage, randomness or await. Blocks are 32-byte hashes; bodies never pass
through. Each rule below names its line of protocols/consensus.md 2.6.
"""

from __future__ import annotations

from collections.abc import Callable

from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BuildBlock,
    CheckBlock,
    Decide,
    Effect,
    Event,
    HeightStarted,
    Observe,
    OpeningMoved,
    Persist,
    Received,
    SetTimer,
    Tick,
    Verdict,
)
from gridtokenx.consensus.leader import LeaderSchedule
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    SignedMessage,
    Timeout,
    Vote,
    justification_hash,
    proposal_bytes,
    timeout_bytes,
    vote_bytes,
)
from gridtokenx.consensus.receiver import Receiver
from gridtokenx.consensus.state import Check, HeightState
from gridtokenx.primitives.crypto import ZERO_HASH


class Engine(Receiver):
    """One chain's consensus state machine; the shell owns exactly one and calls `handle`."""

    _timer_ms: int | None = None

    def _rules(self) -> tuple[Callable[[HeightState], bool], ...]:
        """In the order of 2.6; each returns whether it changed the state.

        JUMP comes first: a TIMEOUT must not name a certificate of a later view.
        """
        return (
            self._jump,
            self._propose,
            self._prepare,
            self._commit,
            self._decide,
            self._time_out,
            self._resend,
        )

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Apply one event at `now_ms`; return what to do, in this order.

        `now_ms` is of any clock that runs evenly, a step of the wall clock does not move it.
        """
        self._now_ms = max(self._now_ms, now_ms)
        match event:
            case HeightStarted():
                self._start_height(event)
            case OpeningMoved():
                self._move_opening(event)
            case Received(message, peer):
                self._receive(message, peer)
            case BlockBuilt():
                self._block_built(event)
            case BlockChecked():
                self._block_checked(event)
            case Observe(until_height, hear_quorum):
                self._observe_until = until_height
                self._heard = {} if hear_quorum and self._heard is None else self._heard
            case Tick():
                self._timer_ms = None
        self._run_rules()
        effects, self._out = self._out, []
        return effects

    def _run_rules(self) -> None:
        state = self.state
        if state is None:
            return
        rules = self._rules()
        while not state.decided and any(rule(state) for rule in rules):
            pass
        self._set_timer(state)

    # -- Heights -----------------------------------------------------------------------------------

    def _start_height(self, event: HeightStarted) -> None:  # ENTER_HEIGHT, RESTART
        if self.state is not None and event.height <= self.state.height:
            return
        now, validators = self._now_ms, event.validators
        open_ms = max(now, event.open_ms)
        me = None if self._signer is None else validators.index_of(self._signer.public_key)
        schedule = LeaderSchedule(validators)
        if self.state is not None and self.state.validators.hash == validators.hash:
            schedule = self.state.schedule
        state = self.state = HeightState(
            event.height,
            validators,
            schedule,
            event.epoch_start,
            open_ms,
            me,
            deadline_ms=open_ms + self.timing.timeout_ms(0),
        )
        state.resend_at_ms = open_ms + self._resend_interval_ms(state)
        record = self._record
        if record is not None and record.height == event.height:
            state.restore(record, now + self.timing.timeout_ms(record.view))
            self._reapply(state)
        early, self._early = self._early, {}
        for key in sorted(early):
            self._receive(early[key], None)

    def _move_opening(self, event: OpeningMoved) -> None:
        """Unless the height is open by either reckoning."""
        state, now = self.state, self._now_ms
        if (
            state is None
            or state.height != event.height
            or max(state.open_ms, event.open_ms) <= now
        ):
            return
        state.open_ms = max(now, event.open_ms)
        if state.view == 0:
            state.deadline_ms = state.open_ms + self.timing.timeout_ms(0)
        at_ms = state.open_ms + self._resend_interval_ms(state)
        state.resend_at_ms = min(state.resend_at_ms, at_ms)

    def _reapply(self, state: HeightState) -> None:
        """RESTART: own messages count for oneself and leave again byte for byte."""
        own = state.own
        if self._may_sign(state):
            self._out.extend(Broadcast(message) for message in own)
        for message in own if state.last_commit is None else (state.last_commit, *own):
            self._take(state, message)

    def _resend_interval_ms(self, state: HeightState) -> int:
        """A second and up to an eighth more, by index, so that members do not resend at once."""
        resend_ms, members = self.timing.resend_ms, len(state.validators.members)
        return resend_ms + resend_ms * (state.me or 0) // (8 * members)

    # -- Blocks ------------------------------------------------------------------------------------

    def _block_built(self, event: BlockBuilt) -> None:
        state = self.state
        if state is None or (state.height, state.view) != (event.height, event.view):
            return
        if state.building and state.built is None:
            state.built = event.block_hash
            me = state.me or 0
            request = CheckBlock(event.height, event.view, event.block_hash, me, fresh=True)
            state.set_check(Check(request, Verdict.VALID))

    def _block_checked(self, event: BlockChecked) -> None:
        state, request = self.state, event.check
        if state is None or request.height != state.height:
            return
        key = (request.block_hash, request.view if request.fresh else -1)
        if key in state.checks or event.verdict is Verdict.VALID:
            state.set_check(Check(request, event.verdict, event.until_ms))

    def _require(self, state: HeightState, block_hash: bytes) -> None:
        """Ask for a certified block's body and execution, once."""
        if (block_hash, -1) not in state.checks:
            request = CheckBlock(state.height, state.view, block_hash, 0, fresh=False)
            state.set_check(Check(request))
            self._out.append(request)

    # -- Rules -------------------------------------------------------------------------------------

    def _propose(self, state: HeightState) -> bool:  # PROPOSE
        if not self._leads(state) or state.proposed or state.timed_out:
            return False
        certificate, now = state.high_certificate, self._now_ms
        if state.view > 0 and certificate is not None:
            return self._send_proposal(state, certificate.block_hash, certificate)
        if state.built is not None and now >= state.open_ms:
            return self._send_proposal(state, state.built, None)
        if not state.building and now >= state.open_ms - self.timing.build_ahead_ms:
            state.building = True
            self._out.append(BuildBlock(state.height, state.view))
        return False

    def _leads(self, state: HeightState) -> bool:
        """Whether this node may propose in the view: later views need their entry certificate."""
        if not self._may_sign(state) or (state.view > 0 and state.entry is None):
            return False
        return state.leader(state.height, state.view) == state.me

    def _send_proposal(
        self, state: HeightState, block: bytes, certificate: QuorumCertificate | None
    ) -> bool:
        just = justification_hash(state.entry, certificate)
        signed = proposal_bytes(self.chain_id, state.height, state.view, block, just)
        signature = self._sign(state, Phase.PROPOSE, signed)
        if signature is None:
            return False
        proposal = Proposal(state.height, state.view, block, state.entry, certificate, signature)
        return self._send(state, proposal)

    def _prepare(self, state: HeightState) -> bool:  # PREPARE
        proposal = state.proposal
        if proposal is None or state.prepared is not None:
            return False
        verdict = self._verdict_on(state, proposal)
        if verdict is Verdict.INVALID:
            return self._leave_view(state)
        return verdict is Verdict.VALID and self._vote(state, Phase.PREPARE, proposal.block_hash)

    def _verdict_on(self, state: HeightState, proposal: Proposal) -> Verdict | None:
        """Ask for what is not known yet; a fresh block is judged for its own view and clock."""
        block_hash = proposal.block_hash
        if not proposal.fresh:
            self._require(state, block_hash)
            return state.verdict(block_hash)
        check = state.checks.get((block_hash, state.view))
        early = check is not None and check.verdict is Verdict.NOT_YET
        if check is None or (early and self._now_ms >= check.until_ms):
            leader = state.leader(state.height, state.view)
            request = CheckBlock(state.height, state.view, block_hash, leader, fresh=True)
            state.set_check(Check(request))
            self._out.append(request)
            return None
        return check.verdict

    def _commit(self, state: HeightState) -> bool:  # COMMIT
        certificate = state.high_certificate
        if certificate is None or certificate.view != state.view or state.committed is not None:
            return False
        self._require(state, certificate.block_hash)
        if not state.is_valid(certificate.block_hash):
            return False
        return self._vote(state, Phase.COMMIT, certificate.block_hash)

    def _decide(self, state: HeightState) -> bool:  # DECIDE
        certificate = state.commit_certificate
        if certificate is None:
            return False
        self._require(state, certificate.block_hash)
        if state.is_valid(certificate.block_hash):
            state.decided = True
            self._out.append(Decide(state.height, certificate.block_hash, certificate))
            return True
        if state.verdict(certificate.block_hash) is Verdict.INVALID:
            digest = certificate.block_hash.hex()
            self._stop(f"decided block {digest} of height {state.height} is invalid here")
        return False

    def _time_out(self, state: HeightState) -> bool:  # TIMEOUT
        late = self._now_ms >= state.deadline_ms
        weight = state.ballots.timeout_weight(state.view)
        return (late or state.validators.is_blocking(weight)) and self._leave_view(state)

    def _jump(self, state: HeightState) -> bool:  # JUMP
        if state.high_view <= state.view:
            return False
        self._enter_view(state, state.high_view, None)
        return True

    def _resend(self, state: HeightState) -> bool:  # RESEND
        if self._now_ms < state.resend_at_ms:
            return False
        state.resend_at_ms = self._now_ms + self._resend_interval_ms(state)
        if state.says_again() and self._may_sign(state):
            again = (state.entry, state.high_certificate, state.last_commit, *state.own)
            self._out.extend(Broadcast(message) for message in again if message is not None)
        self._out.extend(check.request for check in state.checks.values() if check.verdict is None)
        return False

    # -- Signing -----------------------------------------------------------------------------------

    def _vote(self, state: HeightState, phase: Phase, block_hash: bytes) -> bool:
        signed = vote_bytes(phase, self.chain_id, state.height, state.view, block_hash)
        signature = self._sign(state, phase, signed)
        if signature is None or state.me is None:
            return False
        vote = Vote(phase, state.height, state.view, block_hash, state.me, signature)
        return self._send(state, vote)

    def _leave_view(self, state: HeightState) -> bool:
        """do_timeout: no PREPARE or COMMIT of ours in this view from here on."""
        certificate = state.high_certificate
        high_plus_1 = state.high_view + 1
        high_hash = ZERO_HASH if certificate is None else certificate.block_hash
        signed = timeout_bytes(self.chain_id, state.height, state.view, high_plus_1, high_hash)
        signature = self._sign(state, Phase.TIMEOUT, signed)
        if signature is None or state.me is None:
            return False
        timeout = Timeout(
            state.height, state.view, high_plus_1, high_hash, state.me, signature, certificate
        )
        return self._send(state, timeout)

    def _sign(self, state: HeightState, phase: Phase, signed: bytes) -> bytes | None:
        """The only place that signs. None, and no signature, where a rule forbids it:
        nothing after the TIMEOUT of a view, and one statement of each type per view."""
        if self._signer is None or not self._may_sign(state) or self._forbidden(state, phase):
            return None
        return self._signer.sign(signed)

    def _forbidden(self, state: HeightState, phase: Phase) -> bool:
        if state.timed_out:
            return True
        return {
            Phase.PROPOSE: state.proposed,
            Phase.PREPARE: state.prepared is not None,
            Phase.COMMIT: state.committed is not None,
            Phase.TIMEOUT: False,
        }[phase]

    def _send(self, state: HeightState, message: SignedMessage) -> bool:
        """Persist, then publish, then count it for ourselves (2.8)."""
        state.note_own(message)
        # What leaves now need not be repeated at once.
        state.said_new()
        state.resend_at_ms = max(state.resend_at_ms, self._now_ms + self._resend_interval_ms(state))
        self._persist(state)
        self._out.append(Broadcast(message))
        self._take(state, message)
        return True

    def _persist(self, state: HeightState) -> None:
        self._record = state.record()
        self._out.append(Persist(self._record))

    # -- Timer -------------------------------------------------------------------------------------

    def _set_timer(self, state: HeightState) -> None:
        at_ms = None if state.decided else self._next_wake_ms(state)
        if at_ms is not None and at_ms != self._timer_ms:
            self._timer_ms = at_ms
            self._out.append(SetTimer(at_ms))

    def _next_wake_ms(self, state: HeightState) -> int:
        times = [state.resend_at_ms]
        if not state.timed_out and self._may_sign(state):
            times.append(state.deadline_ms)
        if self._leads(state) and not state.proposed:
            times += [state.open_ms - self.timing.build_ahead_ms, state.open_ms]
        times += [
            check.until_ms for check in state.checks.values() if check.verdict is Verdict.NOT_YET
        ]
        return min(at_ms for at_ms in times if at_ms > self._now_ms)
