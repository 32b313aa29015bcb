"""Engines with one rule broken, to prove that the simulation notices; and lying leaders."""

from __future__ import annotations

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Broadcast, Persist, SafetyRecord
from gridtokenx.consensus.messages import Phase, Proposal, SignedMessage
from gridtokenx.consensus.state import HeightState
from gridtokenx.primitives.validators import ValidatorSet


class ForgetfulLeader(Engine):
    """A liar: proposes its own block whatever was prepared before, and votes like others."""

    def _propose(self, state: HeightState) -> bool:
        high, state.high_certificate = state.high_certificate, None
        proposed = super()._propose(state)
        if state.high_certificate is None:
            state.high_certificate = high
        return proposed

    def _stop(self, reason: str) -> None:
        pass


class CommitsAfterTimeout(Engine):
    def _forbidden(self, state: HeightState, phase: Phase) -> bool:
        if phase is Phase.COMMIT:
            return state.committed is not None
        return super()._forbidden(state, phase)


class SkipsJustification(Engine):
    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        return True


class PersistsNothing(Engine):
    def _persist(self, state: HeightState) -> None:
        pass


class PersistsLate(Engine):
    """Sends first, then persists."""

    def _send(self, state: HeightState, message: SignedMessage) -> bool:
        start = len(self._out)
        sent = super()._send(state, message)
        self._out[start:] = sorted(self._out[start:], key=lambda one: isinstance(one, Persist))
        return sent


class ForgetsVotes(Engine):
    """Its record is written in time, but does not name what was voted (I5 aside)."""

    def _persist(self, state: HeightState) -> None:
        whole = state.record()
        names = (whole.height, whole.view, None, None, False, whole.high_certificate, whole.entry)
        self._record = SafetyRecord(*names, whole.own, whole.last_commit, whole.candidates)
        self._out.append(Persist(self._record))


class TimesOutWithoutLock(Engine):
    def _leave_view(self, state: HeightState) -> bool:
        high, state.high_certificate = state.high_certificate, None
        left = super()._leave_view(state)
        if state.high_certificate is None:
            state.high_certificate = high
        return left


class IgnoresOwnAfterRestart(Engine):
    def _reapply(self, state: HeightState) -> None:
        self._out.extend(Broadcast(message) for message in state.own)


class NeverResends(Engine):
    def _resend(self, state: HeightState) -> bool:
        if self._now_ms >= state.resend_at_ms:
            state.resend_at_ms = self._now_ms + self.timing.resend_ms
        return False


class AtLeastTwoThirds(ValidatorSet):
    """The quorum rule everybody gets wrong once."""

    def is_quorum(self, weight: int) -> bool:
        return 3 * weight >= 2 * self.total_weight
