"""Runs one chain: the engine's inbox, its effects, gossip in and out.

One owner of the engine, one bounded inbox. Effects are performed in order: a Persist is synced
before the Broadcast behind it leaves. Building and checking blocks run in a worker thread and come
back as events, so timers stay true.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import structlog
import trio

from gridtokenx.chain.block import Block, CompactBlock, decode_block
from gridtokenx.chain.genesis import ChainSpec, incarnation_name
from gridtokenx.chain.transaction import Transaction
from gridtokenx.chain.trust import Trust
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
    OpeningMoved,
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
from gridtokenx.consensus.messages import (
    Message,
    Proposal,
    QuorumCertificate,
    decode_message,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, Origin
from gridtokenx.network.gossipsub.events import Verdict as GossipVerdict
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node import crash_points
from gridtokenx.node.bodies import Recent, decode_and_verify_all, verifiers
from gridtokenx.node.candidates import VIEWS_AHEAD, Ask, Candidates
from gridtokenx.node.executor import Committed, Executor, NotYet
from gridtokenx.node.intake import Intake
from gridtokenx.node.key_guard import NEVER, KeyGuard
from gridtokenx.node.protocol import Topics
from gridtokenx.node.strangers import Strangers
from gridtokenx.node.trusted_history import TrustedHistory
from gridtokenx.node.vote_gate import Judgement, VoteGate
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey, verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import Contradicted, Damaged, StopNode
from gridtokenx.runtime.worker import Urgency, Worker
from gridtokenx.views.stages import Stage

INBOX_EVENTS = 4_096
NATIONAL_PATIENCE_S = 1.0
RESET_MS = 500  # A wall clock that has moved so far against the timers was set.
DISAGREES = (
    "The state of this node is damaged or its version is wrong; start the right version with an "
    "empty data folder"
)
T = TypeVar("T")

log = structlog.get_logger(__name__)
cached_verify = lru_cache(maxsize=8_192)(verify)


@dataclass
class Wiring:
    """What a driver needs of the node around it."""

    gossip: Gossip
    ask: Ask
    peers: Callable[[], Sequence[PeerId]]  # connected peers that follow the chain
    request_sync: Callable[[int, PeerId, int], None]  # as `RequestSync` has them
    on_committed: Callable[[Committed], None]
    is_level: Callable[[], bool]  # whether some peer is heard and none is ahead
    may_propose: Callable[[], bool] = lambda: True
    vote: bool = True
    next_national: Callable[[], trio.Event] = trio.Event  # set with the next national block
    trust: Trust = field(default_factory=Trust)
    budget: StrangersBudget = field(default_factory=StrangersBudget)
    source_of: Callable[[PeerId], str | None] = lambda _peer: None  # None: no stranger


@dataclass
class Counters:
    """What metrics and the status page show of a driver."""

    timeouts: int = 0
    evidence: int = 0
    inbox_full: int = 0
    penalties: dict[str, int] = field(default_factory=dict)


class Driver:
    """One incarnation of one chain of this node. Without `signer`, or without its safety record,
    it observes.
    """

    def __init__(
        self,
        executor: Executor,
        signer: SigningKey | None,
        wiring: Wiring,
        *,
        now_ms: Callable[[], int],
        timer_ms: Callable[[], int],
        resume_above: int | None = None,
    ) -> None:
        """`now_ms` is the wall clock, which headers carry; `timer_ms` the engine's, which runs on
        whatever becomes of that. `resume_above`: the operator's word that the key, whose record is
        missing, has signed at no height above this one. Errors: NotMissing where there is a
        record; Untrusted."""
        self.executor = executor
        self.spec: ChainSpec = executor.spec
        self.counters = Counters()
        self._wiring = wiring
        self._now_ms, self._timer_ms = now_ms, timer_ms
        self._origin_ms = 0  # The wall clock less the timers', when the height's opening was told.
        self._history = TrustedHistory(wiring.trust, executor, now_ms)
        self._history.check_start()
        label = incarnation_name(self.spec.name, self.spec.incarnation)
        self._topics = Topics(self.spec.genesis.network_id, label)
        self._signer = signer if wiring.vote else None
        self._guard = KeyGuard(
            executor,
            self._signer,
            wiring,
            resume_above=resume_above,
            silent_until=self._history.silent_until,
        )
        self._ending = False  # The nursery takes no more tasks, while gossip and sync still call.
        block_time_ms = self.spec.genesis.block_time_ms
        self.engine = Engine(
            self.spec.chain_id,
            self._signer,
            Timing(
                base_ms=self.spec.genesis.timeout_base_ms,
                resend_ms=min(1_000, block_time_ms),
                build_ahead_ms=min(1_000, block_time_ms // 5),
            ),
            verify=cached_verify,
            record=self._guard.record,
            observe_until_height=self._guard.observe_until,
        )
        self._send, self._inbox = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._wake_ms: int | None = None
        self._worker = Worker()
        self._writer = trio.CapacityLimiter(1)  # Its own: others' reads hold the common threads.
        recent = Recent()
        publish = partial(wiring.gossip.publish, self._topics.orders)
        self._strangers = Strangers(wiring.budget, wiring.source_of)
        self.intake = Intake(executor, recent, publish, self._worker, self._strangers)
        self.candidates = Candidates(executor, recent, wiring.ask, self._peers)
        self._checking: set[tuple[bytes, bool]] = set()
        self._gate = VoteGate(self.spec.chain_id, self.engine.timing.resend_ms, cached_verify)

    # -- Life --------------------------------------------------------------------------------------

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the chain until cancelled. Any exception ends the node: crash, restart, resume."""
        gossip, topics = self._wiring.gossip, self._topics
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            gossip.subscribe(topics.votes, self._validate_vote)
            gossip.subscribe(topics.blocks, self._validate_block)
            gossip.subscribe(topics.orders, self.intake.validate)
            nursery.start_soon(self.intake.run)
            self._start_height(self._guard.start(nursery, self.engine, self._send))
            task_status.started()
            try:
                while True:
                    await self._step()
            finally:
                self._ending = True
                for topic in (topics.votes, topics.blocks, topics.orders):
                    gossip.unsubscribe(topic)

    async def _step(self) -> None:
        event: Event = Tick()
        timeout = NEVER if self._wake_ms is None else self._wake_ms - self._timer_ms()
        with trio.move_on_after(max(0, timeout) / 1_000):
            event = await self._inbox.receive()
        if isinstance(event, Tick):
            self._wake_ms = None
        view = self._view()
        for number, effect in enumerate(self.engine.handle(event, self._timer_ms())):
            if number > 0:
                crash_points.reach("mid-effects")
            await self._perform(effect)
        if self._view() > view:
            self.counters.timeouts += 1

    def _view(self) -> int:
        return 0 if self.engine.state is None else self.engine.state.view

    def _next_view(self) -> int:
        """The engine's view of the height after the newest block: 0 until it has heard of that."""
        state = self.engine.state
        is_next = state is not None and state.height == self.executor.tip.height + 1
        return self._view() if is_next else 0

    @property
    def view(self) -> int:
        """The engine's view of the height being decided."""
        return self._view()

    def _post(self, event: Event) -> bool:
        """Hand an event to the engine; False when the inbox is full (the sender will repeat)."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.counters.inbox_full += 1
            return False
        return True

    # -- Effects -----------------------------------------------------------------------------------

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist(record):
                crash_points.reach("before-persist", *record.own[-1:])
                await trio.to_thread.run_sync(self._persist, record, limiter=self._writer)
                crash_points.reach("after-persist", *record.own[-1:])
            case Broadcast(message):
                crash_points.reach("before-broadcast", message)
                self._broadcast(message)
                await crash_points.reach_sent("after-broadcast", message)
            case SetTimer(at_ms):
                self._wake_ms = at_ms
            case BuildBlock():
                self._nursery.start_soon(self._build, effect)
            case CheckBlock():
                self._start_check(effect)
            case Decide():
                await self._decide(effect)
            case RequestSync(height, peer, shown):
                self._wiring.request_sync(height, PeerId(peer), shown)
            case SendDecided():
                self._send_decided(effect)
            case Penalise() | ReportEvidence() | StopSigning():
                self._report(effect)

    def _send_decided(self, effect: SendDecided) -> None:
        is_stranger = self._wiring.source_of(PeerId(effect.peer)) is not None
        if not self._gate.may_answer(
            effect.height, is_stranger=is_stranger, now_ms=self._timer_ms()
        ):
            return
        certificate = self.executor.store.certificate(effect.height)
        if certificate:
            self._wiring.gossip.publish(self._topics.votes, certificate)

    def _report(self, effect: Penalise | ReportEvidence | StopSigning) -> None:
        match effect:
            case Penalise(_, reason):
                self._count_penalty(reason)
            case ReportEvidence(evidence):
                self.counters.evidence += 1
                self.executor.note_evidence(evidence)
                log.error(
                    "consensus.evidence",
                    chain=self.spec.name,
                    kind=evidence.kind.name,
                    validator=evidence.public_key.hex(),
                    hint="a validator signed two conflicting messages; tell its operator",
                )
            case StopSigning(reason, key_in_use):
                if key_in_use:
                    raise StopNode(f"GTX-KEY-002: {self.spec.name}: {reason}. Not signing.")
                raise Contradicted(f"GTX-SYNC-001: {self.spec.name}: {reason}. {DISAGREES}")

    def _persist(self, record: SafetyRecord) -> None:
        with self.executor.stages.measure(Stage.WRITE):
            self._save_safety(record)
        self._guard.note_signed(record.height)

    def _save_safety(self, record: SafetyRecord) -> None:
        candidates = [
            (block_hash, execution.block.encoded)
            for block_hash in record.candidates
            if (execution := self.executor.candidate(block_hash)) is not None
        ]
        self.executor.store.save_safety(encode(record), candidates)

    def _broadcast(self, message: Message) -> None:
        self._wiring.gossip.publish(self._topics.votes, encode(message))
        if isinstance(message, Proposal):
            self.candidates.note_proposal(message.height, message.view, message.block_hash)
            block = self.executor.candidate_compact(message.block_hash)
            if message.fresh and block is not None:
                self._wiring.gossip.publish(self._topics.blocks, encode(block))

    async def _build(self, effect: BuildBlock) -> None:
        engine_state = self.engine.state
        if not self._wiring.may_propose() or engine_state is None or engine_state.me is None:
            return
        proposer_index = engine_state.me

        def build() -> CompactBlock | None:
            if self.executor.tip.height + 1 != effect.height or self._is_past(effect):
                return None
            return self.executor.build(effect.view, proposer_index)

        block = await self._in_worker(build)
        if block is not None:
            self.candidates.add_compact(block)
            await self._send.send(BlockBuilt(effect.height, effect.view, block.header.hash))

    def _start_check(self, check: CheckBlock) -> None:
        key = (check.block_hash, check.fresh)
        if key not in self._checking:
            if check.fresh:
                self.candidates.note_proposal(check.height, check.view, check.block_hash)
            self._checking.add(key)
            self._nursery.start_soon(self._check, check, key)

    async def _check(self, check: CheckBlock, key: tuple[bytes, bool]) -> None:
        try:
            found = await self.candidates.find(check.block_hash)
            if found is None or self.executor.tip.height + 1 != check.height:
                return  # The engine asks again with its next resend.
            try:
                found_out = await self._judge(check, *found)
            except Rejected as error:
                if self.executor.tip.height + 1 != check.height:
                    return
                log.warning(
                    "block.invalid", chain=self.spec.name, height=check.height, why=error.detail
                )
                await self._send.send(BlockChecked(check, Verdict.INVALID))
                return
            if isinstance(found_out, Verdict):
                await self._send.send(BlockChecked(check, found_out))
            elif found_out is not None:
                until_ms = found_out.until_ms - self._now_ms() + self._timer_ms()
                await self._send.send(BlockChecked(check, Verdict.NOT_YET, until_ms))
        finally:
            self._checking.discard(key)

    async def _judge(
        self, check: CheckBlock, block: Block, transactions: Sequence[Transaction]
    ) -> Verdict | NotYet | None:
        """None where the view that asked is over. Errors: Rejected.

        A block that is ahead of our national chain waits a moment for it.
        """

        def execute() -> Verdict | NotYet | None:
            if check.fresh and self._is_past(check):
                return None
            if check.fresh:
                later = self.executor.check_fresh(block, check.view, check.proposer_index)
                if later is not None:
                    return later
            self.executor.check(block, transactions)
            return Verdict.VALID

        moved = self._wiring.next_national()
        found_out = await self._in_worker(execute)
        if not isinstance(found_out, NotYet) or not found_out.for_national:
            return found_out
        with trio.move_on_after(NATIONAL_PATIENCE_S):
            await moved.wait()
        return await self._in_worker(execute)

    def _is_past(self, request: BuildBlock | CheckBlock) -> bool:
        """Whether the view that asked has ended while this waited for the worker.

        On a slow machine the blocks of ended views would else stand in the way of the next one.
        Once certified, such a block is asked for again, and then not as a fresh one.
        """
        state = self.engine.state
        return state is not None and (state.height, state.view) > (request.height, request.view)

    async def _decide(self, effect: Decide) -> None:
        def commit() -> Committed | None:
            if self.executor.tip.height >= effect.height:
                return None  # Sync was faster.
            if self.executor.candidate(effect.block_hash) is None:
                return None  # Nobody has the body now; sync brings it with its certificate.
            return self.executor.commit(effect.block_hash, effect.certificate)

        if self.executor.candidate(effect.block_hash) is None:
            await self._execute_again(effect.block_hash)

        self._history.check_own(effect.height, effect.block_hash)
        committed = await self._in_worker(commit)
        if committed is not None:
            self._committed(committed, effect.certificate)

    async def _execute_again(self, block_hash: bytes) -> None:
        """A block that a flood of proposals evicted after it was checked."""
        found = await self.candidates.find(block_hash)
        if found is not None:
            block, transactions = found
            with contextlib.suppress(Rejected):  # Sync moved on meanwhile.
                await self._in_worker(partial(self.executor.check, block, transactions))

    def _peers(self) -> list[PeerId]:
        """Whom to ask for bodies: strangers last, who may claim any height and answer nothing."""
        return sorted(
            self._wiring.peers(), key=lambda peer: self._wiring.source_of(peer) is not None
        )

    def _committed(self, committed: Committed, certificate: QuorumCertificate) -> None:
        self.intake.note_committed(committed)
        self.candidates.note_decided(committed.parent.height)
        self._wiring.on_committed(committed)
        if not self._ending:  # Sync may still be at work.
            self._start_height(self._guard.note_certificate(certificate))

    def _start_height(self, before: Sequence[Event] = ()) -> None:
        """Tell the engine of the new tip, after the events of `before`."""
        tip = self.executor.tip
        height = tip.height + 1
        self._origin_ms = self._now_ms() - self._timer_ms()
        event = HeightStarted(
            height, tip.next_set.validators, self._opens_ms(), tip.sets.epoch_start(height)
        )
        self._nursery.start_soon(self._send_all, [*before, event])

    def _opens_ms(self) -> int:
        """When the next height opens, by the timers' clock."""
        return self.executor.tip.opens_ms - self._origin_ms

    def mind_clock(self) -> None:
        """Tell the engine anew when its height opens, if the wall clock has been set meanwhile."""
        origin_ms, state = self._now_ms() - self._timer_ms(), self.engine.state
        was_set = abs(origin_ms - self._origin_ms) > RESET_MS
        if was_set and state is not None and state.height == self.executor.tip.height + 1:
            self._origin_ms = origin_ms
            self._post(OpeningMoved(state.height, self._opens_ms()))

    async def _send_all(self, events: Sequence[Event]) -> None:
        for event in events:
            await self._send.send(event)

    async def _in_worker(self, function: Callable[[], T]) -> T:
        return await self._worker.run(function, Urgency.CONSENSUS)

    # -- Sync --------------------------------------------------------------------------------------

    async def apply_decided(
        self, height: int, block_bytes: bytes, certificate: QuorumCertificate
    ) -> None:
        """Commit the block that a peer sent for a height, unless consensus has decided it since.

        Its certificate and body are checked before its transactions: whoever sends a made-up block
        must not make us verify thousands of signatures. Errors: Rejected; StopNode when we are
        wrong.
        """
        block = await verifiers.run(partial(decode_block, block_bytes))
        if block.header.height != height:
            detail = f"a block of height {block.header.height} was sent for height {height}"
            raise Rejected(ErrorCode.INVALID_BLOCK, detail)
        if not await self._in_worker(partial(self._is_decided_next, block, certificate)):
            return
        transactions = []
        raws, stages = block.transactions, self.executor.stages
        for one in await decode_and_verify_all(raws, stages, chain=self.spec.name):
            if isinstance(one, Rejected):
                raise one
            transactions.append(one)

        def apply() -> Committed | None:
            if self.executor.tip.height >= height:
                return None
            return self.executor.apply_decided(block, transactions, certificate)

        try:
            committed = await self._in_worker(apply)
        except Damaged as error:
            raise Contradicted(str(error)) from error
        if committed is not None:
            self._committed(committed, certificate)

    def _is_decided_next(self, block: Block, certificate: QuorumCertificate) -> bool:
        """False where the block is here already. Errors: Rejected."""
        if self.executor.tip.height >= block.header.height:
            return False
        self._history.check_next(block.header)
        try:
            self.executor.check_decided(block, certificate)
        except Damaged as error:
            raise Contradicted(str(error)) from error
        return True

    # -- Gossip validators: total, bounded; what they return decides forwarding --------------------

    async def _validate_block(self, origin: Origin, data: bytes) -> GossipVerdict:
        if len(data) > MAX_MESSAGE_BYTES:
            return GossipVerdict.REJECT
        async with self._strangers.lane(origin, len(data)) as lane:
            if lane is None:
                return GossipVerdict.IGNORE
            try:
                return await self.candidates.accept_gossip(lane, data, self._next_view())
            except trio.TooSlowError:
                return GossipVerdict.IGNORE

    def _validate_vote(self, origin: Origin, data: bytes) -> GossipVerdict:
        try:
            message = decode_message(data)
        except Rejected:
            return GossipVerdict.REJECT
        state, now_ms = self.engine.state, self._timer_ms()
        if state is None or self._ending:
            return GossipVerdict.IGNORE
        # By the executor's height, which its sets begin at: the engine may be a moment behind it.
        tip = self.executor.tip
        height = tip.height + 1
        view = self._next_view() if message.height == height else 0
        judgement = self._gate.judge(height, view, tip.sets, message, data, now_ms)
        if judgement is Judgement.FORGED:
            self._count_penalty("bad signature")
            return GossipVerdict.REJECT
        if judgement in (Judgement.REPEATED, Judgement.TOO_MANY):
            return GossipVerdict.IGNORE
        genuine = judgement is Judgement.GENUINE
        if not genuine:
            peer = origin.forwarder
            is_stranger = self._wiring.source_of(peer) is not None
            if not self._gate.admits_unknown(peer, is_stranger=is_stranger, now_ms=now_ms):
                return GossipVerdict.IGNORE
        if genuine and message.height >= state.height:
            self._guard.look_for_twin(message)
            if isinstance(message, Proposal) and message.view <= view + VIEWS_AHEAD:
                self.candidates.note_proposal(message.height, message.view, message.block_hash)
        if not self._post(Received(message, origin.author)) or not genuine:
            return GossipVerdict.IGNORE  # One from far away may tell the engine that it is behind.
        self._gate.note(data, now_ms)
        return GossipVerdict.ACCEPT

    def _count_penalty(self, reason: str) -> None:
        penalties = self.counters.penalties
        if reason in penalties or len(penalties) < 64:
            penalties[reason] = penalties.get(reason, 0) + 1
