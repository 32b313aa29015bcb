"""Runs one followed chain: its executor, driver, syncing and relay, through all its incarnations.

A region may be let go on as another incarnation by a vote on the national chain. Its runner then
ends what runs, brings the new incarnation's history together and goes on, each node by itself.
Where the validators of a region decide what is not valid here, that chain alone is stopped: it
decides and signs nothing, serves its blocks on, and waits for a vote.
Source: protocols/interchain.md 8, protocols/consensus.md 2.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog
import trio

from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.home.settings import SyncSettings
from gridtokenx.interchain.model import Incarnation
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.contacts import Claim
from gridtokenx.node.driver import Driver
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.life import Life, known_incarnations
from gridtokenx.node.pending import Pending
from gridtokenx.node.protocol import BodyRequest, ChainHead
from gridtokenx.node.rebuild import Rebuild
from gridtokenx.node.relay import Relay
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.tip import Tip
from gridtokenx.node.trusted_history import trust_of
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.runtime.stopping import Contradicted, Damaged, Untrusted, leaves
from gridtokenx.storage.database import Database
from gridtokenx.views.stages import Stages
from gridtokenx.views.status import ChainStatus, SyncState

SHOWN_EVERY_S = 0.5  # While blocks are executed that others have decided long ago.

log = structlog.get_logger(__name__)

Phase = Literal["rebuilding", "running", "stopped"]


@dataclass(frozen=True)
class Surroundings:
    """What the runners of a node share. `chains`: the runners themselves, by name, as they open;
    `resume_above`: the operator's word by incarnation, as `incarnation_name` calls it; taken out
    when it is used.
    """

    genesis: Genesis
    database: Database
    sync: SyncSettings
    stages: Stages
    wiring: Wiring
    validator: SigningKey | None
    resume_above: dict[str, int]
    vote: bool
    report: Callable[[PeerId, str], None]
    claims: Callable[[bytes], Mapping[PeerId, Claim]]  # of an incarnation's connected followers
    neighbours: Callable[[str], Sequence[PeerId]]  # of a chain, whatever incarnation
    may_propose: Callable[[str], bool]  # on a chain
    on_block: Callable[[str, int], None]  # a chain has decided one of this time
    chains: Mapping[str, ChainRunner] = field(default_factory=dict)

    @property
    def signer(self) -> SigningKey | None:
        """The validator key, if it may sign."""
        return self.validator if self.vote else None


class _Running(NamedTuple):
    driver: Driver
    syncing: Syncing


class ChainRunner:
    """One followed chain. `status` is what others see of it, `life` its present incarnation and
    `next_block` the event that its next block sets: all are replaced whole.
    """

    def __init__(self, name: str, around: Surroundings, life: Life) -> None:
        self.name = name
        self.phase: Phase = "rebuilding" if life.is_rebuilding else "running"
        self.next_block = trio.Event()
        self._around = around
        self.life = life
        self._running: _Running | None = None
        self._reason = ""  # Why it is stopped.
        self._scope: trio.CancelScope | None = None
        self._is_over = False  # Another life is to begin.
        self._shown_at_s = 0.0
        self._relay = self._new_relay()
        self.status = self._live(life.status())

    @classmethod
    async def open(cls, name: str, around: Surroundings) -> ChainRunner:
        """With the present incarnation. Errors: Damaged; NotPresent for the operator's word on one
        that is over.
        """
        life = await _open_life(name, around)
        life.check_resumed(around.resume_above)
        return cls(name, around, life)

    # -- Life --------------------------------------------------------------------------------------

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run one incarnation after the other until cancelled.

        Errors: StopNode; Damaged where this node's own data is.
        """
        started = False

        def tell() -> None:
            nonlocal started
            if not started:
                task_status.started()
            started = True

        while True:
            if not self._is_over:
                with trio.CancelScope() as self._scope:
                    await self._live_through(tell)
            self._scope, self._is_over = None, False
            await self._begin_again()

    async def _begin_again(self) -> None:
        self._running, self._reason = None, ""
        self.life = await _open_life(self.name, self._around)
        self.phase = "rebuilding" if self.life.is_rebuilding else "running"
        self._refresh()

    async def _live_through(self, started: Callable[[], None]) -> None:
        """One incarnation's life. Ends when it is cancelled, or the process does."""
        try:
            if self.life.is_rebuilding:
                started()  # Others need not wait for it.
            if self.life.born is not None:
                await self._bring_together(self.life.born)
            await self._decide(started)
        except* (Contradicted, Untrusted) as group:
            if self.is_national or self._around.genesis.national is None:
                raise
            self._stop(leaves(group)[0])
        started()
        await trio.sleep_forever()

    async def _decide(self, started: Callable[[], None]) -> None:
        around, chain_id = self._around, self.spec.chain_id
        claims = partial(around.claims, chain_id)
        syncing = Syncing(self.executor, around.wiring.ask, around.report, claims)
        driver = self._new_driver(syncing)
        self._running = _Running(driver, syncing)
        self.phase = "running"
        self._refresh()
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            nursery.start_soon(syncing.run, driver.apply_decided)
            if self._relay is not None:
                nursery.start_soon(self._relay.run)
            started()

    def _stop(self, reason: BaseException) -> None:
        self._running = None
        self.phase, self._reason = "stopped", str(reason)
        self._refresh()
        _tell_stopped(self.name, self._reason)

    def note_national(self) -> None:
        """The national chain has another block: whatever is over ends here, now."""
        known = known_incarnations(self.name, self._around.genesis, self._around.database)
        if known and known[-1].number > self.spec.incarnation:
            log.warning("chain.reborn", chain=self.name, incarnation=known[-1].number)
            self._end_life()

    def _end_life(self) -> None:
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()

    # -- Its parts ---------------------------------------------------------------------------------

    async def _bring_together(self, born: Incarnation) -> None:
        """The history of a later incarnation than the first. Errors: Contradicted."""
        around = self._around
        rebuild = Rebuild(
            self.executor,
            born,
            self.life.histories()[1:],
            ask=around.wiring.ask,
            neighbours=partial(around.neighbours, self.name),
            report=around.report,
            on_block=self._show_progress,
        )
        try:
            await rebuild.run()
        except Damaged as error:
            raise Contradicted(str(error)) from error

    def _new_driver(self, syncing: Syncing) -> Driver:
        around, key = self._around, self._around.validator
        if key is not None and not self.life.is_member(key):
            _tell_not_a_member(self.name)
        resume_above = around.resume_above.pop(self.life.name, None)
        if resume_above is None:
            self.life.carry_record()
        return Driver(
            self.executor,
            around.signer,
            syncing,
            around.wiring,
            on_committed=self._on_committed,
            may_propose=partial(around.may_propose, self.name),
            next_national=self._next_national,
            trust=trust_of(around.sync, around.genesis, self.name, around.database),
            resume_above=resume_above,
        )

    def _new_relay(self) -> Relay | None:
        """The national chain's: brings the regions that this node's validator signs to it."""
        signer = self._around.signer
        if not self.is_national or signer is None:
            return None
        return Relay(self.executor, self._regions, signer, self.submit, lambda: self.next_block)

    def _regions(self) -> dict[str, Tip]:
        """The newest blocks of regions, each in its present incarnation."""
        runners = self._around.chains.items()
        return {name: one.executor.tip for name, one in runners if not one.is_national}

    @property
    def _national(self) -> ChainRunner | None:
        national = self._around.genesis.national
        return None if national is None else self._around.chains.get(national.name)

    def _next_national(self) -> trio.Event:
        national = self._national
        return trio.Event() if national is None else national.next_block

    # -- What the rest of the node tells and asks --------------------------------------------------

    @property
    def spec(self) -> ChainSpec:
        """Of the present incarnation."""
        return self.life.spec

    @property
    def executor(self) -> Executor:
        """Of the present incarnation."""
        return self.life.executor

    @property
    def is_national(self) -> bool:
        """Whether it is the chain of stake and votes."""
        return self.spec.is_national

    @property
    def head(self) -> ChainHead:
        """What peers are told."""
        tip = self.executor.tip
        return ChainHead(self.name, tip.spec.chain_id, tip.height, tip.hash)

    def vouch(self) -> str:
        """Take the operator's word that the validator key has never signed for this incarnation.

        What comes of it, in a sentence. Errors: VouchRefused.
        """
        if not self.life.take_word(self._around.signer):
            return (
                f"the key has its safety record for {self.name} {self.spec.incarnation}: it signs"
            )
        if self.phase == "running":
            self._end_life()  # It begins again, with the record.
        return f"the key signs {self.name} from block {self.life.first_height} on"

    def note_height(self, peer: PeerId, head: ChainHead) -> None:
        """A peer's status. Heights of other incarnations mean nothing to this one."""
        if self._running is not None and head.chain_id == self.spec.chain_id:
            self._running.syncing.note_height(peer, head.height)

    def note_gone(self, peer: PeerId) -> None:
        """A peer disconnected."""
        if self._running is not None:
            self._running.syncing.note_gone(peer)

    def answer_bodies(self, request: BodyRequest) -> bytes:
        """Serve a peer. Errors: RequestRefused."""
        if self._running is None:
            raise RequestRefused(f"{self.name} does not run here now")
        return self._running.driver.candidates.answer(request)

    async def submit(self, raws: Sequence[bytes]) -> list[Rejected | None]:
        """Admit transactions from a client, in order."""
        if self._running is None:
            return [self._refusal() for _ in raws]
        return await self._running.driver.intake.submit(raws)

    async def submit_to(self, raws: Sequence[bytes], future: Future[list[Rejected | None]]) -> None:
        """As `submit`, answering a future of another thread, whatever happens."""
        if self._running is None:
            future.set_result([self._refusal() for _ in raws])
        else:
            await self._running.driver.intake.submit_to(raws, future)

    def _refusal(self) -> Rejected:
        what = {"stopped": "is stopped on", "rebuilding": "is being rebuilt by"}
        detail = f"{self.name} {what.get(self.phase, 'has not begun on')} this node; ask another"
        return Rejected(ErrorCode.NOT_ACTIVE, detail)

    @property
    def pending(self) -> Pending:
        """What waits for a block. Other threads may look a transaction or a nonce up."""
        return self.executor.pending

    def checkpoints_sent(self, region: str) -> int:
        """By this node to this chain, if it is the national one, since the start."""
        return 0 if self._relay is None else self._relay.sent[region]

    # -- Its next block ----------------------------------------------------------------------------

    def _on_committed(self, committed: Committed) -> None:
        self._refresh()
        if self.is_national:
            for runner in self._around.chains.values():
                runner.note_national()
        moved, self.next_block = self.next_block, trio.Event()
        moved.set()
        self._around.on_block(self.name, committed.parent.time_ms)
        _tell_committed(self.name, committed)

    async def _show_progress(self) -> None:
        if trio.current_time() - self._shown_at_s >= SHOWN_EVERY_S:
            self._shown_at_s = trio.current_time()
            self._refresh()

    def _refresh(self) -> None:
        """Swap in what others see: a new value, so a reader never sees half of it."""
        self.status = self._live(self.life.status())

    def _live(self, status: ChainStatus) -> ChainStatus:
        """With what changes between blocks."""
        if self._running is not None:
            driver = self._running.driver
            status = replace(
                status,
                consensus_view=driver.view,
                timeouts=driver.counters.timeouts,
                equivocations=driver.counters.evidence,
            )
        national = self._national
        return replace(
            status,
            mempool_transactions=len(self.pending),
            sync_state=self._sync_state(),
            checkpoints_sent=0 if national is None else national.checkpoints_sent(self.name),
            sync_target=max(self._target(), status.head.height),
            stopped_because=self._reason,
        )

    def beat(self) -> None:
        """Once a second: timers after a step of the clock, figures that change without a block."""
        if self._running is not None:
            self._running.driver.mind_clock()
        self.status = self._live(self.status)

    def _sync_state(self) -> SyncState:
        if self.phase != "running":
            return self.phase
        return "waiting_peers" if self._running is None else self._running.syncing.state()

    def _target(self) -> int:
        if self.phase == "rebuilding" and self.life.born is not None:
            return self.life.born.height
        return 0 if self._running is None else self._running.syncing.target


async def _open_life(name: str, around: Surroundings) -> Life:
    return await Life.open(
        name, around.genesis, around.database, around.wiring.now_ms, around.stages
    )


def _tell_not_a_member(chain: str) -> None:
    log.warning(
        "signing.not_a_member",
        chain=chain,
        hint=f"this node's validator key is not one of {chain}'s authorities; it observes until a "
        "change of the set takes it in",
    )


def _tell_stopped(chain: str, why: str) -> None:
    log.error(
        "chain.stopped",
        chain=chain,
        why=why,
        hint=f"this node decides and signs nothing on {chain} and serves its blocks on; all other "
        "chains go on. Where other nodes stop as well, its authorities have broken the rules, and "
        f"voters can let it go on without them: gridtokenx shard show {chain}",
    )


def _tell_committed(chain: str, committed: Committed) -> None:
    header = committed.execution.block.header
    log.info(
        "block.finalized",
        chain=chain,
        height=header.height,
        hash=header.hash.hex()[:16],
        transactions=len(committed.execution.transactions),
        view=header.view0,
        finality_ms=committed.finality_ms,
        commit_ms=round(committed.seconds * 1000),
    )
    if committed.dropped:
        why = str(committed.dropped[0][1])
        log.info("pool.dropped", chain=chain, transactions=len(committed.dropped), first=why)
