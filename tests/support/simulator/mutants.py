"""Engines with one rule broken, and the campaign that must notice.

Every mutant is the real engine but for a few lines. `MUTANTS` says where each is hunted; a hunt
that finds nothing means that the simulator is blind in that place.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gridtokenx.consensus import receiver
from gridtokenx.consensus.certificates import Verify
from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Broadcast, Effect, Event, Persist, SafetyRecord, Tick
from gridtokenx.consensus.messages import (
    Certificate,
    Message,
    Phase,
    Proposal,
    QuorumCertificate,
    SignedMessage,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.receiver import Signer
from gridtokenx.consensus.state import HeightState, Timing
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import ValidatorSet
from tests.support.simulator import campaigns
from tests.support.simulator.adversaries import (
    Boaster,
    EvilCertificates,
    LeavesUnlocked,
    Liar,
    LockIgnorer,
    ProposesAnew,
    Silent,
    StaleEntry,
)
from tests.support.simulator.judge import InvariantError
from tests.support.simulator.network import Endpoint, Faults, HideCommit, Network, kind_of
from tests.support.simulator.node import Node
from tests.support.simulator.world import Setup, World


class CommitsAfterTimeout(Engine):
    """The one signing function lets a COMMIT pass after the TIMEOUT of its view."""

    def _forbidden(self, state: HeightState, phase: Phase) -> bool:
        if phase is Phase.COMMIT:
            return state.committed is not None
        return super()._forbidden(state, phase)


class TimesOutWithoutLock(LeavesUnlocked):
    """TIMEOUTs name no certificate."""


class _Rewrites(Engine):
    """Its record is written in time, but does not hold what it should."""

    def _rewrite(self, record: SafetyRecord) -> SafetyRecord:
        raise NotImplementedError

    def _persist(self, state: HeightState) -> None:
        self._record = self._rewrite(state.record())
        self._out.append(Persist(self._record))


class VotesNotPersisted(_Rewrites):
    """The record does not name what was voted for in the view."""

    def _rewrite(self, record: SafetyRecord) -> SafetyRecord:
        return replace(record, prepared=None, committed=None, timed_out=False)


class LockNotPersisted(_Rewrites):
    """The record does not hold the highest certificate."""

    def _rewrite(self, record: SafetyRecord) -> SafetyRecord:
        return replace(record, high_certificate=None)


class PersistsNothing(Engine):
    """No record at all."""

    def _persist(self, state: HeightState) -> None:
        pass


class SendsBeforePersist(Engine):
    """Publishes, then writes."""

    def _send(self, state: HeightState, message: SignedMessage) -> bool:
        start = len(self._out)
        sent = super()._send(state, message)
        self._out[start:] = sorted(self._out[start:], key=lambda one: isinstance(one, Persist))
        return sent


class IgnoresOwnAfterRestart(Engine):
    """Sends its old messages again, but does not count them for itself."""

    def _reapply(self, state: HeightState) -> None:
        self._out.extend(Broadcast(message) for message in state.own)


class NeverResends(Engine):
    """Says everything once."""

    def _resend(self, state: HeightState) -> bool:
        if self._now_ms >= state.resend_at_ms:
            state.resend_at_ms = self._now_ms + self.timing.resend_ms
        return False


class AtLeastTwoThirds(ValidatorSet):
    """The quorum rule that everybody gets wrong once: `>=`."""

    def is_quorum(self, weight: int) -> bool:
        return 3 * weight >= 2 * self.total_weight


class SkipsJustification(Engine):
    """Accepts any proposal of a leader, whatever was prepared."""

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        return True


class IgnoresMaximum(Engine):
    """Checks that the certificates are genuine, but not that the QC reaches the TC's maximum."""

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        timeouts = proposal.timeouts
        if timeouts is not None and proposal.certificate is None and timeouts.high_view >= 0:
            return timeouts.height == state.height and timeouts.view == proposal.view - 1
        return super()._justified(state, proposal)


class TakesOldEntries(Engine):
    """ACCEPT takes the timeouts of any earlier view for those of the view before."""

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        timeouts = proposal.timeouts
        if timeouts is None or timeouts.height != state.height or proposal.certificate is not None:
            return super()._justified(state, proposal)
        self._checker.check(timeouts, state.validators)
        return timeouts.view < proposal.view and timeouts.high_view < 0


class BelievesTimeouts(Engine):
    """Counts a TIMEOUT that names a certificate nobody has shown."""

    def _admit_timeout(self, state: HeightState, timeout: Timeout) -> None:
        named = timeout.high_view_plus_1 > 0 and timeout.certificate is None
        if named and state.ballots.admits_timeout(timeout) and timeout.view >= state.view:
            self._authenticate(state, timeout, timeout.index)
            self._take(state, timeout)
            return
        super()._admit_timeout(state, timeout)


class FirstVoteWins(Engine):
    """Its store keeps a member's first vote and calls certificates that hold another one bad."""

    def _admit_certificate(self, state: HeightState, certificate: QuorumCertificate) -> None:
        self._compare(state, certificate)
        super()._admit_certificate(state, certificate)

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        if proposal.certificate is not None:
            self._compare(state, proposal.certificate)
        return super()._justified(state, proposal)

    def _compare(self, state: HeightState, certificate: QuorumCertificate) -> None:
        for one in certificate.signatures:
            held = state.ballots._cast.get((certificate.phase, certificate.view, one.index))
            if held and held[0].block_hash != certificate.block_hash:
                raise Rejected(ErrorCode.INVALID_CERTIFICATE, "another vote of it is known")


class RestampsBlocks(ProposesAnew):
    """A block that is proposed again gets a new hash, so certificates name something else."""

    def _justified(self, state: HeightState, proposal: Proposal) -> bool:
        timeouts = proposal.timeouts
        if proposal.view == 0 or timeouts is None:
            return super()._justified(state, proposal)
        self._checker.check(timeouts, state.validators)
        return timeouts.view == proposal.view - 1


class VotesTwice(Engine):
    """Forgets that it has PREPAREd in the view, and COMMITs whatever is certified."""

    def _admit_proposal(self, state: HeightState, proposal: Proposal) -> None:
        known = state.ballots.has_proposal(proposal)
        super()._admit_proposal(state, proposal)
        if not known and proposal.view == state.view and state.proposal is not proposal:
            state.proposal, state.prepared = proposal, None


class CountsDuplicates(Engine):
    """Adds up the signatures of a certificate without asking whose they are."""

    def __init__(self, chain_id: bytes, signer: Signer | None, timing: Timing, **more: object):
        super().__init__(chain_id, signer, timing, **more)  # type: ignore[arg-type]
        self._checker = _LooseChecker(chain_id, self._verify)


class _LooseChecker(receiver.CertificateChecker):
    def __init__(self, chain_id: bytes, verify: Verify) -> None:
        super().__init__(chain_id, verify)

    def check(self, certificate: Certificate, validators: ValidatorSet) -> None:
        if isinstance(certificate, TimeoutCertificate):
            super().check(certificate, validators)
            return
        indexes = [one.index for one in certificate.signatures]
        if max(indexes) >= len(validators.members):
            raise Rejected(ErrorCode.INVALID_CERTIFICATE, "a stranger")
        if not validators.is_quorum(sum(validators.members[i].weight for i in indexes)):
            raise Rejected(ErrorCode.INVALID_CERTIFICATE, "too few")
        alone = replace(certificate, signatures=certificate.signatures[:1])
        one = alone.signatures[0]
        signed = Vote(
            alone.phase, alone.height, alone.view, alone.block_hash, one.index, one.signature
        )
        key = validators.members[one.index].public_key
        if not self._verify(key, receiver.message_bytes(self._chain_id, signed), one.signature):
            raise Rejected(ErrorCode.INVALID_CERTIFICATE, "forged")


class CommitsWithoutBody(Engine):
    """COMMITs to a certified block it has never seen."""

    def _commit(self, state: HeightState) -> bool:
        certificate = state.high_certificate
        if certificate is None or certificate.view != state.view or state.committed is not None:
            return False
        return self._vote(state, Phase.COMMIT, certificate.block_hash)


class LeavesAlone(Engine):
    """Enters the next view when its own deadline has come, without a certificate."""

    def _leave_view(self, state: HeightState) -> bool:
        left = super()._leave_view(state)
        if left:
            self._enter_view(state, state.view + 1, None)
        return left


class GoesBack(Engine):
    """Takes the certificate it heard last, not the highest."""

    def _admit_certificate(self, state: HeightState, certificate: QuorumCertificate) -> None:
        self._checker.check(certificate, state.validators)
        if certificate.phase is Phase.PREPARE and certificate.view <= state.view:
            state.high_certificate = certificate
        self._learn(state, certificate)


class KeepsEverything(Engine):
    """Buffers votes of any view."""

    def _admit(self, state: HeightState, message: Message) -> None:
        if isinstance(message, Vote):
            self._authenticate(state, message, message.index)
            if state.ballots.admits_vote(message):
                self._take(state, message)
            return
        super()._admit(state, message)


class BlamesTheLocked(Engine):
    """Takes a TIMEOUT that names a certificate of its own view for an offence."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        message = getattr(event, "message", None)
        if isinstance(message, Timeout) and message.high_view_plus_1 == message.view + 1:
            self._accuse(effects, message)
        return effects

    def _accuse(self, effects: list[Effect], timeout: Timeout) -> None:
        peer = bytes([timeout.index])
        effects.append(receiver.Penalise(peer, "locked in the view it leaves"))


# -- Where each is hunted --------------------------------------------------------------------------

Hunt = Callable[[int], Setup]


def crashing(seed: int) -> Setup:
    """Many crashes, no liars."""
    return Setup(faults=Faults(loss=0.05, mean_delay_ms=150.0, crash=0.01), calm_ms=20_000)


def three(seed: int) -> Setup:
    """One of three lies: exactly a third."""
    faults = Faults(loss=0.05, mean_delay_ms=50.0, partition=0.6)
    return Setup(weights=(1, 1, 1), twins=(seed % 3,), faults=faults, calm_ms=9_000)


def evil(seed: int) -> Setup:
    return Setup(liars={seed % 4: EvilCertificates}, calm_ms=10_000)


def boasting(seed: int) -> Setup:
    faults = Faults(loss=0.2, mean_delay_ms=100.0)
    return Setup(liars={seed % 4: Boaster}, faults=faults, calm_ms=15_000)


class _Firehose(Liar):
    """Votes for thousands of views far ahead, all to one node."""

    def __init__(self) -> None:
        self._view = 1000

    def after_event(self, node: Node, event: Event) -> None:
        if isinstance(event, Tick):
            for _ in range(500):
                self._view += 1
                block = sha256(b"%d" % self._view)
                vote = Vote(
                    Phase.PREPARE, node.height + 1, self._view, block, node.index, bytes(64)
                )
                node.post(node.world.peers_of(node)[0], node.sign(vote))


class _Stalled(Network):
    """Nothing is prepared before calm, so one height has to hold all that comes."""

    def passes(self, source: Endpoint, target: Endpoint, packet: object) -> bool:
        return super().passes(source, target, packet) and (
            self.clock.calm or kind_of(packet) != "PROPOSE"
        )


def flooding(seed: int) -> Setup:
    """A member that fills buffers while a height lasts."""
    return Setup(liars={seed % 4: _Firehose}, network=_Stalled, calm_ms=10_000)


def blackouts(seed: int) -> Setup:
    """One member is silent, so all others are needed; every few seconds all die at once."""
    faults = Faults(loss=0.1, mean_delay_ms=200.0, blackout=0.3)
    return Setup(liars={seed % 4: Silent}, faults=faults, calm_ms=15_000)


def hiding(seed: int) -> Setup:
    """The network hides a decision; the next leader forgets it."""
    return replace(campaigns.hide_commit(seed), liars={seed % 4: LockIgnorer})


def stale(seed: int) -> Setup:
    """The network hides a decision; a later leader shows timeouts from before it."""
    faults = Faults(loss=0.05, mean_delay_ms=80.0, partition=0.3, drop_kind=0.3)
    liars: dict[int, type[Liar]] = {seed % 4: StaleEntry}
    return Setup(liars=liars, faults=faults, network=HideCommit, calm_ms=30_000)


@dataclass(frozen=True)
class Mutant:
    """`broken`: an engine or a validator set; `invariants`: what may notice, any of them."""

    broken: type[Engine] | type[ValidatorSet]
    hunt: Hunt
    invariants: tuple[str, ...]
    seeds: int = 60
    live: bool = True

    @property
    def name(self) -> str:
        return self.broken.__name__

    def world(self, seed: int) -> World:
        setup = self.hunt(seed)
        if issubclass(self.broken, Engine):
            setup.engine_class = self.broken
        else:
            setup.set_class = self.broken
        return World(seed, setup)


@dataclass(frozen=True)
class Caught:
    """The first seed that noticed, by which invariant, and what it said."""

    mutant: Mutant
    seed: int
    invariant: str
    summary: str


MUTANTS: tuple[Mutant, ...] = (
    Mutant(CommitsAfterTimeout, campaigns.chaos, ("I4",)),
    Mutant(TimesOutWithoutLock, campaigns.chaos, ("I4",)),
    Mutant(VotesNotPersisted, crashing, ("I3", "I4")),
    Mutant(LockNotPersisted, crashing, ("I4",)),
    Mutant(PersistsNothing, campaigns.chaos, ("I5",)),
    Mutant(SendsBeforePersist, campaigns.chaos, ("I5",)),
    Mutant(IgnoresOwnAfterRestart, blackouts, ("I11",)),
    Mutant(NeverResends, campaigns.chaos, ("I11",)),
    Mutant(AtLeastTwoThirds, three, ("I1",), live=False),
    Mutant(SkipsJustification, hiding, ("I1",)),
    Mutant(IgnoresMaximum, hiding, ("I1",)),
    Mutant(TakesOldEntries, stale, ("I1",)),
    Mutant(BelievesTimeouts, boasting, ("I9", "I11")),
    Mutant(FirstVoteWins, campaigns.twins, ("I9", "I11")),
    Mutant(RestampsBlocks, hiding, ("I1",)),
    Mutant(VotesTwice, campaigns.twins, ("I3",)),
    Mutant(CountsDuplicates, evil, ("I6", "I9", "I11")),
    Mutant(CommitsWithoutBody, campaigns.chaos, ("I5",)),
    Mutant(LeavesAlone, campaigns.chaos, ("I11",)),
    Mutant(GoesBack, campaigns.chaos, ("I7",)),
    Mutant(KeepsEverything, flooding, ("I12",)),
    Mutant(BlamesTheLocked, campaigns.chaos, ("I9",)),
)


def hunt(mutant: Mutant) -> Caught | None:
    """The first seed at which an expected invariant breaks; another one is a surprise."""
    for seed in range(mutant.seeds):
        world = mutant.world(seed)
        try:
            if mutant.live:
                world.run()
            else:
                world.suffer(world.setup.calm_ms + 5_000)
        except InvariantError as broken:
            if broken.invariant not in mutant.invariants:
                raise
            return Caught(mutant, seed, broken.invariant, broken.summary)
    return None


def _hunt_at(index: int) -> tuple[int, Caught | None]:
    return index, hunt(MUTANTS[index])


def hunt_all(chosen: Sequence[Mutant], jobs: int = 1) -> Iterator[tuple[Mutant, Caught | None]]:
    """Hunt several, in their order."""
    if jobs == 1 or len(chosen) == 1:
        yield from ((mutant, hunt(mutant)) for mutant in chosen)
        return
    with multiprocessing.Pool(jobs) as pool:
        indexes = [MUTANTS.index(mutant) for mutant in chosen]
        for index, caught in pool.imap(_hunt_at, indexes):
            yield MUTANTS[index], caught
