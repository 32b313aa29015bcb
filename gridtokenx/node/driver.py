"""Runs one chain: the engine's inbox, its effects, gossip in and out.

One owner of the engine, one bounded inbox. Effects are performed in order: a Persist is synced
before the Broadcast behind it leaves. Building and checking blocks run in a worker thread and come
back as events, so timers stay true. Source: protocols/consensus.md 2.13.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

import structlog
import trio

from gridtokenx.chain.block import Block, decode_block
from gridtokenx.chain.genesis import ChainSpec, incarnation_name
from gridtokenx.chain.trust import Trust
from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import (
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
    ReportEvidence,
    RequestSync,
    SendDecided,
    SetTimer,
    StopSigning,
    Tick,
)
from gridtokenx.consensus.messages import (
    Message,
    Proposal,
    QuorumCertificate,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node import crash_points
from gridtokenx.node.block_work import BlockWork
from gridtokenx.node.bodies import Recent, decode_and_verify_all, verifiers
from gridtokenx.node.candidates import Candidates
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.hearing import Hearing
from gridtokenx.node.intake import Intake
from gridtokenx.node.key_guard import NEVER, KeyGuard
from gridtokenx.node.protocol import Topics
from gridtokenx.node.strangers import Strangers
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.trusted_history import TrustedHistory
from gridtokenx.node.vote_gate import VoteGate
from gridtokenx.node.wiring import Counters, Wiring
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey, verify
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import Contradicted, Damaged
from gridtokenx.runtime.worker import Urgency, Worker

INBOX_EVENTS = 4_096
RESET_MS = 500  # A wall clock that has moved so far against the timers was set.
T = TypeVar("T")

log = structlog.get_logger(__name__)
cached_verify = lru_cache(maxsize=8_192)(verify)


class Driver:
    """One incarnation of one chain of this node. Without `key`, or without its safety record,
    it observes.
    """

    def __init__(
        self,
        executor: Executor,
        key: SigningKey | None,
        syncing: Syncing,
        wiring: Wiring,
        *,
        on_committed: Callable[[Committed], None] = lambda _committed: None,
        may_propose: Callable[[], bool] = lambda: True,
        next_national: Callable[[], trio.Event] = trio.Event,
        trust: Trust | None = None,
        resume_above: int | None = None,
    ) -> None:
        """`syncing` is told what is decided and knows whom to ask; `next_national` gives the event
        that the next national block sets. `resume_above`: the operator's word that the key, whose
        record is missing, has signed at no height above this one. Errors: NotMissing where there
        is a record; Untrusted."""
        self.executor = executor
        self.spec: ChainSpec = executor.spec
        self.counters = Counters()
        self._syncing = syncing
        self._wiring = wiring
        self._on_committed = on_committed
        self._origin_ms = 0  # The wall clock less the timers', when the height's opening was told.
        self._history = TrustedHistory(trust or Trust(), executor, wiring.now_ms)
        self._history.check_start()
        label = incarnation_name(self.spec.name, self.spec.incarnation)
        self._topics = Topics(self.spec.genesis.network_id, label)
        self._nursery: trio.Nursery | None = None  # While it runs; gossip and sync call longer.
        self._send, self._inbox = trio.open_memory_channel[Event](INBOX_EVENTS)
        self._guard = KeyGuard(
            executor,
            key,
            syncing,
            resume_above=resume_above,
            silent_until=self._history.silent_until,
            highest_height=lambda: self.engine.highest_height,
            tell=self._send.send,
            start_soon=self._start_soon,
        )
        self.engine = _engine(self.spec, self._guard)
        self._wake_ms: int | None = None
        self._worker = Worker()
        self._writer = trio.CapacityLimiter(1)  # Its own: others' reads hold the common threads.
        recent = Recent()
        publish = partial(wiring.gossip.publish, self._topics.orders)
        strangers = Strangers(wiring.budget, wiring.source_of)
        self.intake = Intake(executor, recent, publish, self._worker, strangers)
        self.candidates = Candidates(executor, recent, wiring.ask, self._peers)
        self._blocks = BlockWork(
            executor,
            self.candidates,
            self._worker,
            wiring,
            state=lambda: self.engine.state,
            may_propose=may_propose,
            next_national=next_national,
            tell=self._send.send,
        )
        self._hearing = Hearing(
            executor,
            self.engine,
            self.candidates,
            self._guard,
            VoteGate(self.spec.chain_id, self.engine.timing.resend_ms, cached_verify),
            strangers,
            wiring,
            self.counters,
            post=self._post,
        )

    # -- Life --------------------------------------------------------------------------------------

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the chain until cancelled. Any exception ends the node: crash, restart, resume."""
        gossip, topics = self._wiring.gossip, self._topics
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            gossip.subscribe(topics.votes, self._hearing.validate_vote)
            gossip.subscribe(topics.blocks, self._hearing.validate_block)
            gossip.subscribe(topics.orders, self.intake.validate)
            nursery.start_soon(self.intake.run)
            self._start_height(self._guard.start())
            task_status.started()
            try:
                while True:
                    await self._step()
            finally:
                self._nursery, self._hearing.is_deaf = None, True
                for topic in (topics.votes, topics.blocks, topics.orders):
                    gossip.unsubscribe(topic)

    async def _step(self) -> None:
        event: Event = Tick()
        timeout = NEVER if self._wake_ms is None else self._wake_ms - self._wiring.timer_ms()
        with trio.move_on_after(max(0, timeout) / 1_000):
            event = await self._inbox.receive()
        if isinstance(event, Tick):
            self._wake_ms = None
        view = self.view
        for number, effect in enumerate(self.engine.handle(event, self._wiring.timer_ms())):
            if number > 0:
                crash_points.reach("mid-effects")
            await self._perform(effect)
        if self.view > view:
            self.counters.timeouts += 1

    @property
    def view(self) -> int:
        """The engine's view of the height being decided."""
        return 0 if self.engine.state is None else self.engine.state.view

    def _start_soon(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """A task beside the inbox."""
        if self._nursery is None:
            raise RuntimeError("a driver that does not run can begin nothing")
        self._nursery.start_soon(function, *arguments)

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
                await trio.to_thread.run_sync(self._guard.save, record, limiter=self._writer)
                crash_points.reach("after-persist", *record.own[-1:])
            case Broadcast(message):
                crash_points.reach("before-broadcast", message)
                self._broadcast(message)
                await crash_points.reach_sent("after-broadcast", message)
            case SetTimer(at_ms):
                self._wake_ms = at_ms
            case BuildBlock():
                self._start_soon(self._blocks.build, effect)
            case CheckBlock():
                self._start_soon(self._blocks.check, effect)
            case Decide():
                await self._decide(effect)
            case RequestSync(height, peer, shown):
                self._syncing.note_signed(height, PeerId(peer), shown)
            case SendDecided(peer, height):
                self._send_decided(PeerId(peer), height)
            case Penalise() | ReportEvidence() | StopSigning():
                self._report(effect)

    def _send_decided(self, peer: PeerId, height: int) -> None:
        if self._hearing.may_answer(peer, height):
            certificate = self.executor.store.certificate(height)
            if certificate:
                self._wiring.gossip.publish(self._topics.votes, certificate)

    def _report(self, effect: Penalise | ReportEvidence | StopSigning) -> None:
        match effect:
            case Penalise(_, reason):
                self.counters.note_penalty(reason)
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
            case StopSigning():
                self._guard.stop(effect)

    def _broadcast(self, message: Message) -> None:
        self._wiring.gossip.publish(self._topics.votes, encode(message))
        if isinstance(message, Proposal):
            self.candidates.note_proposal(message.height, message.view, message.block_hash)
            block = self.executor.candidate_compact(message.block_hash)
            if message.fresh and block is not None:
                self._wiring.gossip.publish(self._topics.blocks, encode(block))

    async def _decide(self, effect: Decide) -> None:
        def commit() -> Committed | None:
            if self.executor.tip.height >= effect.height:
                return None  # Sync was faster.
            if self.executor.candidate(effect.block_hash) is None:
                return None  # Nobody has the body now; sync brings it with its certificate.
            return self.executor.commit(effect.block_hash, effect.certificate)

        if self.executor.candidate(effect.block_hash) is None:
            await self._blocks.execute_again(effect.block_hash)

        self._history.check_own(effect.height, effect.block_hash)
        committed = await self._in_worker(commit)
        if committed is not None:
            self._committed(committed, effect.certificate)

    def _peers(self) -> list[PeerId]:
        """Whom to ask for bodies: strangers last, who may claim any height and answer nothing."""
        return sorted(self._syncing.whom_to_ask(), key=self._wiring.is_stranger)

    def _committed(self, committed: Committed, certificate: QuorumCertificate) -> None:
        self.intake.note_committed(committed)
        self.candidates.note_decided(committed.parent.height)
        self._syncing.note_committed(committed.parent.height)
        self._on_committed(committed)
        if self._nursery is not None:  # Sync may still be at work.
            self._start_height(self._guard.note_certificate(certificate))

    def _start_height(self, before: Sequence[Event] = ()) -> None:
        """Tell the engine of the new tip, after the events of `before`."""
        tip = self.executor.tip
        height = tip.height + 1
        self._origin_ms = self._wiring.origin_ms
        event = HeightStarted(
            height, tip.next_set.validators, self._opens_ms(), tip.sets.epoch_start(height)
        )
        self._start_soon(self._send_all, [*before, event])

    def _opens_ms(self) -> int:
        """When the next height opens, by the timers' clock."""
        return self.executor.tip.opens_ms - self._origin_ms

    def mind_clock(self) -> None:
        """Tell the engine anew when its height opens, if the wall clock has been set meanwhile."""
        origin_ms, state = self._wiring.origin_ms, self.engine.state
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


def _engine(spec: ChainSpec, guard: KeyGuard) -> Engine:
    block_time_ms = spec.genesis.block_time_ms
    timing = Timing(
        base_ms=spec.genesis.timeout_base_ms,
        resend_ms=min(1_000, block_time_ms),
        build_ahead_ms=min(1_000, block_time_ms // 5),
    )
    return Engine(
        spec.chain_id,
        guard.signer,
        timing,
        verify=cached_verify,
        record=guard.record,
        observe_until_height=guard.observe_until,
    )
