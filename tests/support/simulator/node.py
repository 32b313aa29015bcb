"""One simulated process: the shell around a real engine and a real syncer.

It performs effects strictly in order, as protocols/consensus.md 2.13 asks, and can die between
any two of them. What it knows after a restart is what its disk holds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from gridtokenx.chain import sync
from gridtokenx.consensus.certificates import check_commit
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
    Observe,
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
from gridtokenx.consensus.evidence import Evidence
from gridtokenx.consensus.messages import (
    Message,
    Proposal,
    QuorumCertificate,
    SignedMessage,
    decode_message,
    message_bytes,
)
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import Rejected
from tests.support.simulator.chain import MAX_AHEAD_MS, Block, Committed, Signer, State
from tests.support.simulator.disk import Disk

if TYPE_CHECKING:
    from tests.support.simulator.adversaries import Liar
    from tests.support.simulator.world import World

BUILD_MS = 30
CHECK_MS = 20
NEVER = 2**62
T = TypeVar("T", bound=SignedMessage)
Decided = tuple[tuple[Block, QuorumCertificate], ...]


class Node:
    """`name`: position in the world, also what peers call it. Twins share a key, not a name."""

    def __init__(self, world: World, name: int, key: Signer, disk: Disk) -> None:
        self.world, self.name, self.key, self.disk = world, name, key, disk
        self.peer = bytes([name])
        self.engine_class: type[Engine] = world.setup.engine_class
        self.liar: Liar | None = None
        self.honest = True
        self.signs = True
        self.skew_ms = 0
        self.rules = world.rules
        self.trap: Callable[[Effect], bool] | None = None  # Dies before the effect it picks.
        self.engine: Engine | None = None
        self.life = 0  # Counts restarts; what was scheduled for an earlier life is void.
        self.boot()

    def boot(self) -> None:
        """Forget all that is not on the disk."""
        self.bodies: dict[bytes, Block] = dict(self.disk.bodies)
        self.waiting: dict[bytes, list[CheckBlock]] = {}
        self.accused: dict[tuple[bytes, int, int], Evidence] = {}
        self.stopped: str | None = None
        self.penalised: list[str] = []
        self.syncer = sync.Syncer(self.disk.height)
        self._syncing = False
        self.writing = False
        self._inbox: deque[Event] = deque()
        self._effects: deque[Effect] = deque()
        self._timer = 0

    # -- Life --------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        return self.disk.height

    @property
    def now(self) -> int:
        """The own clock."""
        return self.world.now + self.skew_ms

    @property
    def random(self) -> random.Random:
        return self.world.random

    def start(self) -> None:
        """A process begins. A key without its record observes first (2.8)."""
        self.boot()
        self.world.note(self, "starts" + (" and observes" if self.disk.missing else ""))
        self.engine = self.engine_class(
            self.world.chain_id,
            self.key if self.signs else None,
            self.world.setup.timing,
            verify=self.world.verify,
            record=self._stored_record(),
            observe_until_height=NEVER if self.disk.missing else -1,
        )
        if self.disk.missing:
            self.engine.handle(Observe(NEVER, hear_quorum=True), self.now)
            self.after(self.world.setup.observe_ms, self._end_observation)
        self.start_height()

    def _stored_record(self) -> SafetyRecord | None:
        record = self.disk.record
        if record is None or not self.world.setup.real:
            return record
        return decode(SafetyRecord, encode(record))

    def _end_observation(self) -> None:
        assert self.engine is not None
        self.feed(Observe(max(self.engine.highest_height, self.height) + 1))

    def stop(self) -> None:
        """Die. What the engine wanted done and was not is lost."""
        self.engine = None
        self.life += 1
        self._effects.clear()
        self.world.note(self, "dies")

    def crash(self, down_ms: float) -> None:
        self.stop()
        self.world.crashes += 1
        self.world.at(down_ms, self.start)

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        """Do something in this life only."""
        life = self.life
        self.world.at(delay_ms, lambda: action() if self.life == life else None)

    def later(self, delay_ms: float, event: Event) -> None:
        self.after(delay_ms, lambda: self.feed(event))

    # -- Events in, effects out --------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        if self.engine is not None:
            self._inbox.append(event)
            self._work()

    def _work(self) -> None:
        while self.engine is not None and not self.writing and (self._effects or self._inbox):
            if self._effects:
                self._perform_next()
            else:
                self._handle(self._inbox.popleft())

    def _handle(self, event: Event) -> None:
        assert self.engine is not None
        self.world.note(self, event)
        self.world.events += 1
        self._effects.extend(self.engine.handle(event, self.now))
        self.world.judge.after_event(self)
        if self.liar is not None:
            self.liar.after_event(self, event)

    def _perform_next(self) -> None:
        if self._dies_now():
            return
        effect = self._effects.popleft()
        if isinstance(effect, Persist) and self.disk.fsync_ms:
            self.writing = True
            self.after(self.disk.fsync_ms, lambda: self._written(effect))
        else:
            self._perform(effect)
            if not self._effects:
                self._dies_now()

    def _written(self, effect: Persist) -> None:
        self.writing = False
        self._perform(effect)
        self._work()

    def _dies_now(self) -> bool:
        faults, draw = self.world.network.faults, self.random
        if self.trap is not None and self._effects and self.trap(self._effects[0]):
            self.trap = None
            self.crash(200)
            return True
        if not faults.crash or self.world.calm or draw.random() >= faults.crash:
            return False
        loses = faults.lose_record and draw.random() < faults.lose_record
        if loses and self.world.may_lose(self):
            self._lose_disk()
        self.crash(draw.expovariate(1 / 1500))
        return True

    def _lose_disk(self) -> None:
        """The record is gone, or all is and the operator restores an old backup."""
        if self.random.random() < 0.5:
            self.disk.lose_record()
        else:
            self.disk = self.disk.backup(self.random.randrange(self.height + 1))
            self.world.judge.forget(self)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist(record):
                self.world.note(self, effect)
                self.disk.write(record, self.bodies)
            case Broadcast(message):
                self.world.note(self, effect)
                self.world.judge.sends(self, message)
                self.broadcast(message)
            case SetTimer(at_ms):
                self._set_timer(at_ms)
            case BuildBlock():
                self._build(effect)
            case CheckBlock():
                self._check(effect)
            case _:
                self.world.note(self, effect)
                self._perform_rare(effect)

    def _perform_rare(self, effect: Effect) -> None:
        match effect:
            case Decide(height, block_hash, certificate):
                if height == self.height + 1:  # Else sync was faster.
                    self.commit(self.bodies[block_hash], certificate)
            case SendDecided(peer, height):
                certificate = self.disk.chain[height].certificate if height <= self.height else None
                if certificate is not None:
                    self.post(self.world.nodes[peer[0]], certificate)
            case RequestSync(_, peer):
                self.ask_status(self.world.nodes[peer[0]])
            case ReportEvidence(evidence):
                self.world.judge.accuses(self, evidence)
                self.accused[evidence.public_key, evidence.height, evidence.kind] = evidence
            case Penalise(peer, reason):
                self.world.judge.blames(self, self.world.nodes[peer[0]], reason)
                self.penalised = [*self.penalised[-9:], reason]
            case StopSigning(reason):
                self.world.judge.stops(self, reason)
                self.stopped = reason
                self.stop()  # The shell exits, and nobody starts it again.

    def _set_timer(self, at_ms: int) -> None:
        self._timer += 1
        timer = self._timer
        delay_ms = max(0, at_ms - self.now)
        self.after(delay_ms, lambda: self.feed(Tick()) if self._timer == timer else None)

    # -- Messages ----------------------------------------------------------------------------------

    def broadcast(self, message: Message) -> None:
        if self.liar is not None:
            self.liar.broadcast(self, message)
            return
        self.spread(message, self.world.peers_of(self))

    def spread(self, message: Message, targets: list[Node]) -> None:
        """Post to these; a fresh own proposal goes with its body."""
        if self.world.setup.real:
            message = decode_message(encode(message))
        body = None
        if isinstance(message, Proposal) and message.fresh:
            body = self.bodies.get(message.block_hash)
        for peer in targets:
            self.post(peer, message)
            if body is not None:
                self.give(peer, body)

    def post(self, peer: Node, message: Message) -> None:
        event = Received(message, self.peer)
        self.world.network.send(self, peer, message, lambda: peer.receive(event))

    def give(self, peer: Node, body: Block) -> None:
        self.world.network.send(self, peer, body, lambda: peer.arrive(body))

    def receive(self, event: Received) -> None:
        if self.engine is not None:
            self.world.judge.hears(self, event.message)
            if self.liar is not None:
                self.liar.hears(self, event.message)
            self.feed(event)

    def sign(self, message: T) -> T:
        """For liars: whatever they like, but only with their own key."""
        signed = message_bytes(self.world.chain_id, message)
        return replace(message, signature=self.key.sign(signed))

    @property
    def index(self) -> int:
        """Own position in the set of the height being decided."""
        assert self.engine is not None
        assert self.engine.state is not None
        return self.engine.state.me or 0

    # -- Blocks ------------------------------------------------------------------------------------

    def start_height(self) -> None:
        tip, rules = self.disk.tip, self.rules
        height = tip.block.height + 1
        opens = rules.opens(tip.block.time_ms)
        epoch_start = rules.epoch_start(height)
        self.feed(HeightStarted(height, tip.state.set_at(height), opens, epoch_start))

    def execute(self, block: Block) -> State:
        """Raises Rejected if the block may not follow the tip."""
        return self.rules.run(self.disk.tip, block)

    def make_block(self, height: int, view: int) -> Block:
        tip = self.disk.tip
        time_ms = max(self.rules.opens(tip.block.time_ms), self.now)
        evidence = tuple(one for key, one in self.accused.items() if key not in tip.state.punished)[
            :4
        ]
        salt = self.random.getrandbits(32)
        change = self.world.ordered.pop(height, None)
        block = Block(
            height, tip.block.hash, view, self.index, time_ms, salt, b"", evidence, change
        )
        return self.rules.build(tip, block)

    def _build(self, effect: BuildBlock) -> None:
        if effect.height != self.height + 1:
            return
        block = self.make_block(effect.height, effect.view)
        if self.liar is not None:
            block = self.liar.build(self, block)
        self.bodies[block.hash] = block
        self.later(BUILD_MS, BlockBuilt(effect.height, effect.view, block.hash))

    def _check(self, request: CheckBlock) -> None:
        """Answer when the body is here; else ask everybody for it."""
        body = self.bodies.get(request.block_hash)
        if body is not None:
            self._answer(body, request)
            return
        waiting = self.waiting.setdefault(request.block_hash, [])
        if request not in waiting:
            waiting.append(request)
        for peer in self.world.peers_of(self):
            self.world.network.send(self, peer, request, lambda p=peer: p.serve(self, request))

    def serve(self, peer: Node, request: CheckBlock) -> None:
        body = self.bodies.get(request.block_hash)
        if body is None:
            recent = self.disk.chain[-3:]
            wanted = (one.block for one in recent if one.block.hash == request.block_hash)
            body = next(wanted, None)
        withheld = self.liar is not None and not self.liar.serves
        if body is not None and self.engine is not None and not withheld:
            self.give(peer, body)

    def arrive(self, body: Block) -> None:
        if self.engine is not None and body.height > self.height:
            self.bodies[body.hash] = body
            for request in self.waiting.pop(body.hash, []):
                self._answer(body, request)

    def _answer(self, body: Block, request: CheckBlock) -> None:
        self.after(CHECK_MS, lambda: self._judge_body(body, request))

    def _judge_body(self, body: Block, request: CheckBlock) -> None:
        if request.height == self.height + 1:
            verdict, until_ms = self.verdict(body, request)
            self.feed(BlockChecked(request, verdict, until_ms))

    def verdict(self, body: Block, request: CheckBlock) -> tuple[Verdict, int]:
        """What production answers: the clock is asked for fresh blocks only."""
        if request.fresh and (body.view0, body.proposer) != (request.view, request.proposer_index):
            return Verdict.INVALID, 0
        try:
            self.execute(body)
        except Rejected as error:
            self.world.note(self, f"refuses {body.hash.hex()[:6]}: {error.detail}")
            return Verdict.INVALID, 0
        if request.fresh and body.time_ms > self.now + MAX_AHEAD_MS:
            return Verdict.NOT_YET, body.time_ms - MAX_AHEAD_MS
        return Verdict.VALID, 0

    def commit(self, block: Block, certificate: QuorumCertificate) -> None:
        """One synced batch, whether the block comes from consensus or from sync."""
        try:
            state = self.execute(block)
        except Rejected as error:
            self.world.judge.require(False, f"I2 n{self.name} commits a bad block: {error}")
            raise
        self.world.judge.commits(self, block, certificate, state)
        self.disk.append(Committed(block, certificate, state))
        self.bodies = {key: one for key, one in self.bodies.items() if one.height > self.height}
        self.waiting = {}
        self.accused = {key: one for key, one in self.accused.items() if key[1] > block.height - 20}
        self.after(0, self.start_height)
        self._tell_syncer(sync.Committed(block.height))

    # -- Catching up: the real syncer --------------------------------------------------------------

    def ask_status(self, peer: Node) -> None:
        def answer() -> None:
            if peer.engine is not None:
                status = sync.PeerStatus(peer.peer, peer.height)
                self.world.network.send(peer, self, status, lambda: self._tell_syncer(status))

        self.world.network.send(self, peer, "status", answer)

    def _tell_syncer(self, event: sync.Event) -> None:
        if self.engine is None:
            return
        for effect in self.syncer.handle(event, self.world.now):
            match effect:
                case sync.RequestBlocks(key, first, count):
                    self._request_blocks(self.world.nodes[key[0]], first, count)
                case sync.ApplyBlock():
                    self.after(1, partial(self._apply_synced, effect))
                case sync.PenalisePeer(key, reason):
                    self.world.judge.blames(self, self.world.nodes[key[0]], reason)
                    self.penalised = [*self.penalised[-9:], reason]
        if self.syncer.target > self.height and not self._syncing:
            self._syncing = True
            self.after(1000, self._sync_tick)

    def _sync_tick(self) -> None:
        self._syncing = False
        self._tell_syncer(sync.Tick())

    def _request_blocks(self, peer: Node, first: int, count: int) -> None:
        def answer() -> None:
            if peer.engine is None:
                return
            blocks = peer.blocks_for(first, count)
            event = sync.BlocksReceived(peer.peer, first, blocks)
            self.world.network.send(peer, self, event, lambda: self._tell_syncer(event))

        self.world.network.send(self, peer, "blocks", answer)

    def blocks_for(self, first: int, count: int) -> Decided:
        """What a peer asked for, as far as it is here."""
        stored = self.disk.chain[first : first + count]
        found = tuple((one.block, one.certificate) for one in stored if one.certificate)
        return found if self.liar is None else self.liar.sync_answer(self, found)

    def _apply_synced(self, effect: sync.ApplyBlock) -> None:
        height, block, certificate = effect.height, effect.block, effect.certificate
        if height <= self.height:
            self._tell_syncer(sync.Committed(self.height))
            return
        try:
            members = self.disk.tip.state.set_at(height)
            check_commit(
                certificate,
                self.world.chain_id,
                height,
                block.hash,
                members,
                self.world.verify,
            )
            self.execute(block)
        except Rejected as error:
            self._tell_syncer(sync.Invalid(height, effect.peer, str(error)))
            return
        self.commit(block, certificate)
