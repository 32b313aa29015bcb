"""The invariants of protocols/consensus.md 5, checked after every event.

I1 agreement; I2 decided blocks are valid and extend their parent; I3 no honest double signature;
I4 no honest amnesia; I5 what is sent is durable; I6 one prepared block per view; I7 nothing goes
back; I8 equal roots at equal heights; I9 nobody honest is convicted, blamed or stopped; I10 a fork
convicts a third of the weight; I11 progress after calm; I12 buffers bounded; I16 is `Trace.digest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gridtokenx.consensus.ballots import KNOWN_CERTIFICATES, VIEW_WINDOW
from gridtokenx.consensus.certificates import VERIFIED_CAPACITY
from gridtokenx.consensus.evidence import (
    Evidence,
    ProposalSummary,
    amnesia,
    double_propose,
    double_vote,
    is_amnesia,
    verify_evidence,
)
from gridtokenx.consensus.messages import (
    Certificate,
    Message,
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.receiver import MAX_ANSWERED_PEERS
from gridtokenx.consensus.state import MAX_CHECKS
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.validators import ValidatorSet
from tests.support.simulator.chain import Block, State
from tests.support.simulator.trace import describe

if TYPE_CHECKING:
    from tests.support.simulator.node import Node
    from tests.support.simulator.world import World

Position = tuple[int, int, int]
FULL_COUNT_EVERY = 32


class InvariantError(AssertionError):
    """A property that must always hold did not. `invariant` is its name in the documents."""

    def __init__(self, seed: int, now_ms: int, what: str, trace: list[str]) -> None:
        self.invariant = what.split()[0]
        self.summary = f"seed {seed} at {now_ms} ms: {what}"
        super().__init__("\n".join([*trace, self.summary]))


class Judge:
    """Sees everything, touches nothing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.decided: dict[int, bytes] = {}
        self.forked_at: int | None = None
        self.convicted: set[tuple[bytes, int]] = set()
        self.transcript: Transcript | None = None
        self._roots: dict[int, bytes] = {}
        self._prepared: dict[tuple[int, int], bytes] = {}
        self._signed: dict[tuple[bytes, Phase, int, int], bytes] = {}
        self._seen: set[bytes] = set()
        self._commits: dict[tuple[bytes, int], list[Vote]] = {}
        self._timeouts: dict[tuple[bytes, int], list[Timeout]] = {}
        self._positions: dict[int, tuple[int, Position]] = {}
        self._counted = 0

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            world = self.world
            raise InvariantError(world.seed, world.now, what, world.trace.lines())

    # -- State -------------------------------------------------------------------------------------

    def after_event(self, node: Node) -> None:
        state = node.engine.state if node.engine else None
        if state is None or not node.honest:
            return
        now = (state.height, state.view, state.high_view)
        life, before = self._positions.get(node.name, (node.life, now))
        if now != before:
            back = now[0] < before[0]
            if life == node.life and now[0] == before[0]:
                back = now[1] < before[1] or now[2] < before[2]
            self.require(not back, f"I7 n{node.name} went back from {before} to {now}")
        self._positions[node.name] = (node.life, now)
        if now[2] >= 0 and now != before and self.world.liars_are_few:
            assert state.high_certificate is not None
            block_hash = state.high_certificate.block_hash
            first = self._prepared.setdefault((now[0], now[2]), block_hash)
            self.require(first == block_hash, f"I6 two prepared blocks at {(now[0], now[2])}")
        self._bounded(node)

    def forget(self, node: Node) -> None:
        """Somebody puts another disk into the node on purpose: it may start lower."""
        self._positions.pop(node.name, None)

    def _bounded(self, node: Node) -> None:
        """I12. Counting every vote at every event would take most of the time."""
        engine = node.engine
        assert engine is not None
        state = engine.state
        assert state is not None
        members = len(state.validators.members)
        sizes = (
            (len(state.checks), MAX_CHECKS),
            (len(state.convicted), 4 * members),
            (len(state.own_signatures), 4 * (VIEW_WINDOW + 2)),
            (len(engine._early), 4 * members),
            (len(engine._answered), MAX_ANSWERED_PEERS),
            (len(engine._checker._verified), VERIFIED_CAPACITY),
        )
        for size, bound in sizes:
            if size > bound:
                self.require(False, f"I12 n{node.name} keeps {size} of at most {bound}")
        self._counted += 1
        if self._counted % FULL_COUNT_EVERY == 0:
            bound = members * ((2 * VIEW_WINDOW + 1) * 4 + VIEW_WINDOW + 1)
            bound += KNOWN_CERTIFICATES + 2 * VIEW_WINDOW + 1
            size = state.ballots.size()
            self.require(size <= bound, f"I12 n{node.name} keeps {size} ballots")

    # -- Messages ----------------------------------------------------------------------------------

    def sends(self, node: Node, message: Message) -> None:
        if not node.honest or isinstance(message, QuorumCertificate | TimeoutCertificate):
            return
        record, key = node.disk.record, node.key.public_key
        durable = record is not None and (message in record.own or message == record.last_commit)
        if not durable:
            self.require(False, f"I5 n{node.name} sent before it was durable: {describe(message)}")
        if message.signature in self._seen:
            return
        self._seen.add(message.signature)
        members = node.disk.tip.state.set_at(message.height)
        self.require(members.index_of(key) is not None, f"I3 n{node.name} is no member and signed")
        if isinstance(message, Timeout):
            self._timeouts.setdefault((key, message.height), []).append(message)
        else:
            self._signs_once(node, message)
        for commit in self._commits.get((key, message.height), ()):
            for timeout in self._timeouts.get((key, message.height), ()):
                if is_amnesia(commit, timeout):
                    pair = f"{describe(commit)}, then {describe(timeout)}"
                    self.require(False, f"I4 n{node.name} forgot: {pair}")

    def _signs_once(self, node: Node, message: Vote | Proposal) -> None:
        key = node.key.public_key
        phase = message.phase if isinstance(message, Vote) else Phase.PROPOSE
        place = (key, phase, message.height, message.view)
        first = self._signed.setdefault(place, message.signature)
        where = f"{phase.name} h{message.height} v{message.view}"
        self.require(first == message.signature, f"I3 n{node.name} signed two {where}")
        if phase is Phase.COMMIT:
            held = node.disk.bodies.keys()
            block_hash = message.block_hash
            self.require(block_hash in held, f"I5 n{node.name} committed to a body it may lose")
            self._commits.setdefault((key, message.height), []).append(message)

    def hears(self, node: Node, message: Message) -> None:
        if self.transcript is not None and node.honest:
            self.transcript.add(message)

    # -- Blocks ------------------------------------------------------------------------------------

    def commits(
        self, node: Node, block: Block, certificate: QuorumCertificate, state: State
    ) -> None:
        """`state` is what the node's own execution gave; `execute` checked I2's other half."""
        tip = node.disk.tip.block
        named = (certificate.height, certificate.block_hash)
        good = block.parent == tip.hash and named == (block.height, block.hash)
        self.require(good, f"I2 n{node.name} commits an orphan at height {block.height}")
        if not node.honest:
            return
        if self.transcript is not None:
            self.transcript.add(certificate)
        first = self.decided.setdefault(block.height, block.hash)
        if first != block.hash and self.world.setup.expects_fork:
            self.forked_at = block.height
            return
        self.require(first == block.hash, f"I1 two blocks decided at height {block.height}")
        root = self._roots.setdefault(block.height, state.root)
        self.require(root == state.root, f"I8 two states at height {block.height}")
        for evidence in block.evidence:
            self._guilty(evidence.public_key, f"block {block.height} convicts")

    # -- Accusations -------------------------------------------------------------------------------

    def accuses(self, node: Node, evidence: Evidence) -> None:
        if not node.honest:
            return
        members = node.disk.tip.state.set_at(evidence.height)
        verify_evidence(evidence, self.world.chain_id, members, self.world.verify)
        self._guilty(evidence.public_key, f"n{node.name} convicts")
        self.convicted.add((evidence.public_key, int(evidence.kind)))

    def _guilty(self, public_key: bytes, what: str) -> None:
        guilty = public_key in self.world.guilty_keys
        self.require(guilty, f"I9 {what} an honest node: {public_key.hex()[:6]}")

    def blames(self, node: Node, accused: Node, reason: str) -> None:
        """With a third of liars two blocks may be prepared in one view, and who meets both first
        hands on what others refuse; below that only liars author anything bad."""
        fair = not node.honest or not accused.honest or self.world.setup.expects_fork
        self.require(fair, f"I9 n{node.name} blames honest n{accused.name}: {reason}")

    def stops(self, node: Node, reason: str) -> None:
        fair = not node.honest or self.world.setup.expects_stop
        self.require(fair, f"I9 honest n{node.name} stopped: {reason}")

    def fork_is_attributed(self) -> int:
        """I10 and I9 after a fork: weight that provably caused it."""
        assert self.forked_at is not None
        assert self.transcript is not None
        members = self.world.rules.genesis_set
        guilty: set[bytes] = set()
        for evidence in self.transcript.evidence(members, self.forked_at):
            verify_evidence(evidence, self.world.chain_id, members, self.world.verify)
            self._guilty(evidence.public_key, "the transcript convicts")
            guilty.add(evidence.public_key)
        weight = sum(one.weight for one in members.members if one.public_key in guilty)
        total = members.total_weight
        self.require(3 * weight >= total, f"I10 a fork convicts only {weight} of {total}")
        return weight


class Transcript:
    """Every statement that honest nodes heard, as operators would pool their logs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._votes: dict[tuple[int, int], dict[bytes, Vote]] = {}
        self._timeouts: dict[tuple[int, int], dict[bytes, Timeout]] = {}
        self._proposals: dict[tuple[int, int], dict[bytes, Proposal]] = {}

    def add(self, message: Message) -> None:
        match message:
            case Vote():
                self._note_vote(message)
            case Timeout(certificate=certificate):
                self._note_timeout(message)
                self._add_certificate(certificate)
            case Proposal():
                key = (message.height, message.view)
                self._proposals.setdefault(key, {}).setdefault(message.signature, message)
                self._add_certificate(message.timeouts)
                self._add_certificate(message.certificate)
            case _:
                self._add_certificate(message)

    def _add_certificate(self, certificate: Certificate | None) -> None:
        """The statements inside."""
        match certificate:
            case QuorumCertificate(phase, height, view, block_hash, signatures):
                for one in signatures:
                    vote = Vote(phase, height, view, block_hash, one.index, one.signature)
                    self._note_vote(vote)
            case TimeoutCertificate(height, view, entries, highest):
                for entry in entries:
                    high = (entry.high_view_plus_1, entry.high_hash)
                    self._note_timeout(
                        Timeout(height, view, *high, entry.index, entry.signature, None)
                    )
                self._add_certificate(highest)

    def _note_vote(self, vote: Vote) -> None:
        self._votes.setdefault((vote.height, vote.index), {}).setdefault(vote.signature, vote)

    def _note_timeout(self, timeout: Timeout) -> None:
        key = (timeout.height, timeout.index)
        self._timeouts.setdefault(key, {}).setdefault(timeout.signature, timeout)

    def evidence(self, members: ValidatorSet, height: int) -> Iterator[Evidence]:
        """All pairs of one height that convict. Liars' forgeries do not count."""
        for index in range(len(members.members)):
            votes = list(self._votes.get((height, index), {}).values())
            timeouts = list(self._timeouts.get((height, index), {}).values())
            pairs = [
                double_vote(members, first, second)
                for at, first in enumerate(votes)
                for second in votes[at + 1 :]
                if (first.phase, first.view) == (second.phase, second.view)
                and first.block_hash != second.block_hash
            ]
            pairs += [
                amnesia(members, vote, timeout)
                for vote in votes
                for timeout in timeouts
                if vote.phase is Phase.COMMIT and is_amnesia(vote, timeout)
            ]
            yield from (pair for pair in pairs if self._genuine(pair, members))
        for (at, view), proposals in self._proposals.items():
            first, *others = proposals.values()
            for other in others if at == height else ():
                if other.block_hash != first.block_hash:
                    leader = self._world.leader(height, view)
                    key = members.members[leader].public_key
                    pair = double_propose(key, ProposalSummary.of(first), other)
                    if self._genuine(pair, members):
                        yield pair

    def _genuine(self, evidence: Evidence, members: ValidatorSet) -> bool:
        try:
            verify_evidence(evidence, self._world.chain_id, members, self._world.verify)
        except Rejected:
            return False
        return True
