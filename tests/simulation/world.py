"""A seeded world of real consensus engines: virtual time, lossy wires, crashes, liars.

Everything random comes from one seed, so a failure prints all that is needed to see it again.
Real parts: engines, certificates, rules. Stand-ins: time, network, disk, signatures (a hash).
Invariants (protocols/consensus.md 5.3 numbers) are checked while it runs: I1 agreement, I2 blocks
extend their parent, I3 no honest double signature, I4 no honest amnesia, I5 sent was durable,
I6 one prepared block per view, I7 nothing goes back, I9 evidence names liars only, I11 progress
after calm, I12 buffers bounded, I16 same seed, same hash.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gridtokenx.consensus.ballots import KNOWN_CERTIFICATES, VIEW_WINDOW
from gridtokenx.consensus.engine import Engine
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
    Penalise,
    Persist,
    Received,
    ReportEvidence,
    RequestSync,
    SafetyRecord,
    SendDecided,
    SetTimer,
    StopSigning,
    Tick,
    Verdict,
)
from gridtokenx.consensus.evidence import is_amnesia, verify_evidence
from gridtokenx.consensus.messages import (
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.validators import Validator, ValidatorSet

CHAIN_ID = hashlib.sha256(b"simulated chain").digest()
TIMING = Timing(base_ms=1000, resend_ms=500)
CALM_MS = 30_000
PATIENCE_MS = 60_000
PACE_MS = 400


class InvariantError(AssertionError):
    """A property that must always hold did not; the text names the seed."""


@dataclass(frozen=True)
class ToySigner:
    """Unforgeable by agreement: nobody in the world signs with another's key."""

    public_key: bytes

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self.public_key + message).digest()


def toy_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return hashlib.sha512(public_key + message).digest() == signature


@dataclass(frozen=True)
class Block:
    height: int
    parent: bytes
    view0: int
    proposer: int
    salt: int

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(repr(self).encode()).digest()


GENESIS = Block(0, b"", 0, 0, 0)


@dataclass
class Faults:
    """Rates before calm. Probabilities are per packet, or per effect for crashes."""

    loss: float = 0.0
    duplicate: float = 0.0
    mean_delay_ms: float = 20.0
    crash: float = 0.0
    partition: float = 0.0  # Chance per second that the partition changes.


@dataclass
class Disk:
    """What survives a crash."""

    record: SafetyRecord | None = None
    bodies: dict[bytes, Block] = field(default_factory=dict)
    chain: list[tuple[Block, QuorumCertificate | None]] = field(
        default_factory=lambda: [(GENESIS, None)]
    )


@dataclass
class Node:
    """A process: volatile engine and bodies over a disk. Twins share a key, not a disk."""

    name: int
    key: ToySigner
    engine_class: type[Engine]
    honest: bool = True
    disk: Disk = field(default_factory=Disk)
    engine: Engine | None = None
    bodies: dict[bytes, Block] = field(default_factory=dict)
    waiting: dict[bytes, list[CheckBlock]] = field(default_factory=dict)
    life: int = 0  # Counts restarts; what was scheduled for an earlier life is void.

    @property
    def height(self) -> int:
        return len(self.disk.chain) - 1


class World:
    """Nodes, wires and the judge. `twins`: how many members run two processes with one key."""

    def __init__(
        self,
        seed: int,
        *,
        weights: tuple[int, ...] = (1, 1, 1, 1),
        engine_class: type[Engine] = Engine,
        liars: dict[int, type[Engine]] | None = None,
        twins: tuple[int, ...] = (),
        faults: Faults | None = None,
        set_class: type[ValidatorSet] = ValidatorSet,
        timing: Timing = TIMING,
    ) -> None:
        self.seed, self.random, self.now = seed, random.Random(seed), 0
        self.timing = timing
        self.faults = faults or Faults()
        keys = sorted(hashlib.sha256(b"key %d" % index).digest() for index in range(len(weights)))
        members = (Validator(key, weight) for key, weight in zip(keys, weights, strict=True))
        self.validators = set_class.of(members)
        liars = liars or {}
        self.nodes = [
            Node(i, ToySigner(key), liars.get(i, engine_class), i not in liars and i not in twins)
            for i, key in enumerate(keys)
        ]
        for index in twins:
            self.nodes[index].engine_class = Twin
            self.nodes.append(Node(len(self.nodes), self.nodes[index].key, Twin, honest=False))
        guilty = sum(weights[index] for index in {*liars, *twins})
        self.liars_are_few = 3 * guilty < sum(weights)  # With a third, only I1 must hold.
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.serial = 0
        self.groups = [0] * len(self.nodes)
        self.decided: dict[int, bytes] = {}
        self.prepared: dict[tuple[int, int], bytes] = {}
        self.signed: dict[tuple[bytes, Phase, int, int], bytes] = {}
        self.commits: dict[bytes, list[Vote]] = {}
        self.timeouts: dict[bytes, list[Timeout]] = {}
        self.convicted: set[tuple[bytes, int]] = set()
        self.crashes = self.events = 0
        self.digest = hashlib.sha256()
        for node in self.nodes:
            self.start(node)

    # -- Running ---------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        return self.now >= CALM_MS

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.honest]

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (self.now + int(delay_ms), self.serial, action))

    def run(self, more_heights: int = 3) -> World:
        """Chaos until CALM_MS, then every honest node must decide `more_heights` more (I11)."""
        self.at(1000, self.shuffle)
        self.run_until(lambda: self.calm)
        goal = max(node.height for node in self.honest) + more_heights
        self.run_until(lambda: min(node.height for node in self.honest) >= goal)
        self.require(
            min(node.height for node in self.honest) >= goal,
            f"I11 no progress after calm: {[node.height for node in self.nodes]}, goal {goal}",
        )
        return self

    def run_until(self, done: Callable[[], bool], limit_ms: int = CALM_MS + PATIENCE_MS) -> None:
        while self.queue and self.now < limit_ms and not done():
            self.now, _, action = heapq.heappop(self.queue)
            action()

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise InvariantError(f"seed {self.seed} at {self.now} ms: {what}")

    # -- Faults ----------------------------------------------------------------------------------

    def shuffle(self) -> None:
        """Once a second before calm, maybe draw a new partition."""
        if self.calm:
            self.groups = [0] * len(self.nodes)
            return
        if self.random.random() < self.faults.partition:
            parts = self.random.choice((1, 2, 2, 3))
            self.groups = [self.random.randrange(parts) for _ in self.nodes]
        self.at(1000, self.shuffle)

    def passes(self, source: Node, target: Node, packet: object) -> bool:
        """Whether the wire carries a packet; directed adversaries override this."""
        if self.calm:
            return True
        if self.groups[source.name] != self.groups[target.name]:
            return False
        return self.random.random() >= self.faults.loss

    def send(self, source: Node, target: Node, packet: object, use: Callable[[], None]) -> None:
        copies = 1 if self.calm or self.random.random() >= self.faults.duplicate else 2
        for _ in range(copies):
            if self.passes(source, target, packet):
                mean = 10.0 if self.calm else self.faults.mean_delay_ms
                self.at(1 + self.random.expovariate(1 / mean), use)

    def crash(self, node: Node, down_ms: float) -> None:
        node.engine = None
        node.life += 1
        self.crashes += 1
        self.at(down_ms, lambda: self.start(node))

    def start(self, node: Node) -> None:
        """A process begins: all it knows is on its disk."""
        node.bodies, node.waiting = dict(node.disk.bodies), {}
        node.engine = node.engine_class(
            CHAIN_ID, node.key, self.timing, verify=toy_verify, record=node.disk.record
        )
        self.start_height(node)

    # -- Shell -----------------------------------------------------------------------------------

    def start_height(self, node: Node) -> None:
        opens = self.now + PACE_MS if node.height else self.now
        self.feed(node, HeightStarted(node.height + 1, self.validators, opens))

    def later(self, node: Node, delay_ms: float, event: Event) -> None:
        """An event for this life of the node only."""
        life = node.life
        self.at(delay_ms, lambda: self.feed(node, event) if node.life == life else None)

    def feed(self, node: Node, event: Event) -> None:
        if node.engine is None:
            return
        self.events += 1
        self.digest.update(repr((self.now, node.name, type(event).__name__)).encode())
        before = node.engine.state
        at = (before.height, before.view, before.high_view) if before else None
        effects = node.engine.handle(event, self.now)
        self.judge_state(node, at)
        life = node.life
        for effect in effects:
            self.perform(node, effect)
            if node.life != life:
                return  # Crashed, here or in something the effect led to: the rest is lost.
            if not self.calm and self.random.random() < self.faults.crash:
                self.crash(node, self.random.expovariate(1 / 2000))
                return

    def perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Persist(record):
                node.disk.record = record
                for block_hash in record.candidates:
                    node.disk.bodies[block_hash] = node.bodies[block_hash]
            case Broadcast(message):
                self.digest.update(repr(message).encode())
                self.judge_message(node, message)
                self.broadcast(node, message)
            case SetTimer(at_ms):
                self.later(node, max(0, at_ms - self.now), Tick())
            case BuildBlock():
                self.build(node, effect)
            case CheckBlock():
                self.check(node, effect)
            case Decide() | SendDecided() | RequestSync():
                self.perform_on_chain(node, effect)
            case ReportEvidence() | Penalise() | StopSigning():
                self.judge_accusation(node, effect)

    def build(self, node: Node, effect: BuildBlock) -> None:
        height, view = effect.height, effect.view
        me = self.validators.index_of(node.key.public_key)
        salt = self.random.getrandbits(32)
        block = Block(height, node.disk.chain[-1][0].hash, view, me or 0, salt)
        node.bodies[block.hash] = block
        self.later(node, 30, BlockBuilt(height, view, block.hash))

    def perform_on_chain(self, node: Node, effect: Effect) -> None:
        match effect:
            case Decide(height, block_hash, certificate):
                if height == node.height + 1:
                    self.commit(node, node.bodies[block_hash], certificate)
            case SendDecided(peer, height):
                certificate = node.disk.chain[height][1] if height <= node.height else None
                if certificate is not None:
                    self.post(node, self.nodes[peer[0]], certificate)
            case RequestSync(height, peer):
                self.sync(node, self.nodes[peer[0]], height)

    def broadcast(self, node: Node, message: object) -> None:
        for peer in self.nodes:
            if peer is not node:
                self.post(node, peer, message)
                if isinstance(message, Proposal) and message.fresh:
                    body = node.bodies[message.block_hash]
                    self.send(node, peer, body, lambda p=peer, b=body: self.arrive(p, b))

    def post(self, node: Node, peer: Node, message: object) -> None:
        event = Received(message, bytes([node.name]))
        self.send(node, peer, message, lambda: self.feed(peer, event))

    def check(self, node: Node, request: CheckBlock) -> None:
        """Answer when the body is here; else ask everybody for it."""
        body = node.bodies.get(request.block_hash)
        if body is not None:
            self.later(node, 20, BlockChecked(request, self.verdict(node, body, request)))
            return
        node.waiting.setdefault(request.block_hash, []).append(request)
        for peer in self.nodes:
            if peer is not node:
                self.send(node, peer, request, lambda p=peer: self.serve(p, node, request))

    def serve(self, node: Node, peer: Node, request: CheckBlock) -> None:
        wanted = request.block_hash
        decided = {block.hash: block for block, _ in node.disk.chain[-3:]}
        body = node.bodies.get(wanted) or decided.get(wanted)
        if body is not None and node.engine is not None:
            self.send(node, peer, body, lambda: self.arrive(peer, body))

    def arrive(self, node: Node, body: Block) -> None:
        if node.engine is not None:
            node.bodies[body.hash] = body
            for request in node.waiting.pop(body.hash, []):
                self.later(node, 20, BlockChecked(request, self.verdict(node, body, request)))

    def verdict(self, node: Node, body: Block, request: CheckBlock) -> Verdict:
        good = body.parent == node.disk.chain[-1][0].hash and body.height == request.height
        if request.fresh:
            named = (body.view0, body.proposer)
            good = good and named == (request.view, request.proposer_index)
        return Verdict.VALID if good else Verdict.INVALID

    def commit(self, node: Node, block: Block, certificate: QuorumCertificate) -> None:
        tip = node.disk.chain[-1][0]
        self.require(block.parent == tip.hash, f"I2 node {node.name} commits an orphan")
        if node.honest:
            first = self.decided.setdefault(block.height, block.hash)
            self.require(first == block.hash, f"I1 two blocks decided at {block.height}")
        node.disk.chain.append((block, certificate))
        node.bodies = {h: b for h, b in node.bodies.items() if b.height > block.height}
        node.disk.bodies = {}
        node.waiting = {}
        self.at(0, lambda: self.start_height(node) if node.engine is not None else None)

    def sync(self, node: Node, peer: Node, height: int) -> None:
        def answer() -> None:
            blocks = peer.disk.chain[height : height + 8]
            if peer.engine is not None:
                self.send(peer, node, blocks, lambda: self.apply(node, blocks))

        self.send(node, peer, height, answer)

    def apply(self, node: Node, blocks: list[tuple[Block, QuorumCertificate | None]]) -> None:
        for block, certificate in blocks:
            if node.engine is not None and block.height == node.height + 1 and certificate:
                self.commit(node, block, certificate)

    # -- Judge -----------------------------------------------------------------------------------

    def judge_state(self, node: Node, before: tuple[int, int, int] | None) -> None:
        state = node.engine.state if node.engine else None
        if state is None or not node.honest:
            return
        now = (state.height, state.view, state.high_view)
        same = before is not None and before[0] == state.height
        back = same and (now[1] < before[1] or now[2] < before[2])
        back = back or (before is not None and now[0] < before[0])
        self.require(not back, f"I7 node {node.name} went back from {before} to {now}")
        members = len(self.validators.members)
        bound = members * ((2 * VIEW_WINDOW + 1) * 4 + VIEW_WINDOW + 1) + 2 * KNOWN_CERTIFICATES
        self.require(state.ballots.size() <= bound, "I12 ballots overflow")
        if state.high_certificate is not None and self.liars_are_few:
            key = (state.height, state.high_certificate.view)
            block_hash = state.high_certificate.block_hash
            first = self.prepared.setdefault(key, block_hash)
            self.require(first == block_hash, f"I6 two prepared blocks at {key}")

    def judge_accusation(self, node: Node, effect: Effect) -> None:
        match effect:
            case ReportEvidence(evidence):
                verify_evidence(evidence, CHAIN_ID, self.validators, toy_verify)
                guilty = {n.key.public_key for n in self.nodes if not n.honest}
                self.require(evidence.public_key in guilty, f"I9 honest node accused: {evidence}")
                self.convicted.add((evidence.public_key, evidence.kind))
            case Penalise(peer, reason):
                accused = self.nodes[peer[0]]
                self.require(not accused.honest, f"honest node penalised: {reason}")
            case StopSigning(reason):
                self.require(not node.honest, f"honest node stopped: {reason}")

    def judge_message(self, node: Node, message: object) -> None:
        if not node.honest or isinstance(message, QuorumCertificate | TimeoutCertificate):
            return
        record, key = node.disk.record, node.key.public_key
        durable = record is not None and (message in record.own or message == record.last_commit)
        self.require(durable, f"I5 node {node.name} sent before durable: {message}")
        if isinstance(message, Timeout):
            self.timeouts.setdefault(key, []).append(message)
        else:
            phase = message.phase if isinstance(message, Vote) else Phase.PROPOSE
            place = (key, phase, message.height, message.view)
            first = self.signed.setdefault(place, message.signature)
            self.require(first == message.signature, f"I3 node {node.name} signed twice {place}")
            if phase is Phase.COMMIT:
                self.commits.setdefault(key, []).append(message)
        for commit in self.commits.get(key, [])[-4:]:
            for timeout in self.timeouts.get(key, [])[-4:]:
                forgot = commit.height == timeout.height and is_amnesia(commit, timeout)
                self.require(not forgot, f"I4 node {node.name} forgot {commit} in {timeout}")


class Twin(Engine):
    """One of two processes with one key: honest code that does not mind its double."""

    def _stop(self, reason: str) -> None:
        pass


class HideCommit(World):
    """The network hides COMMITs from all but one node, which then disappears with its decision.

    Random loss never gets there; whoever forgets the lock afterwards decides another block.
    """

    victim = 0
    hiding_until = 0

    def passes(self, source: Node, target: Node, packet: object) -> bool:
        if self.calm:
            return True
        if isinstance(packet, Vote) and packet.phase is Phase.COMMIT:
            if self.now >= self.hiding_until:  # A new hunt: the next height's decision is hidden.
                self.victim = self.random.choice(self.honest).name
                self.hiding_until = self.now + self.random.randrange(3_000, 12_000)
            return target.name == self.victim
        hidden = self.now < self.hiding_until and self.victim in (source.name, target.name)
        if hidden and source.name == self.victim:
            return isinstance(packet, Vote) and packet.height > self.nodes[self.victim].height
        return super().passes(source, target, packet)
