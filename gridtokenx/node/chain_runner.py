"""Runs one followed chain: its executor, driver and syncing, through all its incarnations.

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
from typing import Any, Literal

import structlog
import trio

from gridtokenx.chain.genesis import ChainSpec, Genesis, incarnation_name
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.consensus.events import SafetyRecord
from gridtokenx.home.settings import SyncSettings
from gridtokenx.interchain.checkpoints import incarnations_of
from gridtokenx.interchain.model import FIRST_INCARNATION, Incarnation
from gridtokenx.network.gossip import Gossip
from gridtokenx.network.peers.budget import StrangersBudget
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.requests import RequestRefused
from gridtokenx.node.candidates import Ask
from gridtokenx.node.contacts import Claim
from gridtokenx.node.driver import Driver
from gridtokenx.node.executor import Committed, Executor
from gridtokenx.node.national_view import DecidedNational
from gridtokenx.node.protocol import BodyRequest, ChainHead
from gridtokenx.node.rebuild import Rebuild
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.trusted_history import trust_of
from gridtokenx.node.wiring import Wiring
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.validators import ValidatorSet
from gridtokenx.runtime.stopping import Contradicted, Damaged, NotPresent, Untrusted
from gridtokenx.storage.database import ChainStore, Database
from gridtokenx.views.stages import Stages
from gridtokenx.views.status import ChainStatus, Head, SyncState

SHOWN_EVERY_S = 0.5  # While blocks are executed that others have decided long ago.

log = structlog.get_logger(__name__)

Phase = Literal["rebuilding", "running", "stopped"]


class VouchRefused(Exception):  # noqa: N818 - an answer to an operator
    """Why the operator's word for a key is not taken; the sentence is for people."""


@dataclass(frozen=True)
class Surroundings:
    """What the runners of a node share. `resume_above`: the operator's word by incarnation, as
    `incarnation_name` calls it; taken out when it is used.
    """

    genesis: Genesis
    database: Database
    sync: SyncSettings
    stages: Stages
    now_ms: Callable[[], int]  # Unix ms
    timer_ms: Callable[[], int]  # no step of the wall clock moves it
    validator: SigningKey | None
    resume_above: dict[str, int]
    vote: bool
    gossip: Gossip
    ask: Ask
    report: Callable[[PeerId, str], None]
    claims: Callable[[bytes], Mapping[PeerId, Claim]]  # of an incarnation's connected followers
    neighbours: Callable[[str], Sequence[PeerId]]  # of a chain, whatever incarnation
    may_propose: Callable[[str], bool]  # on a chain
    next_national: Callable[[], trio.Event]
    on_status: Callable[[str], None]  # a runner's `status` is another one
    on_committed: Callable[[str, Committed], None]
    checkpoints_sent: Callable[[str], int]
    budget: StrangersBudget = field(default_factory=StrangersBudget)
    source_of: Callable[[PeerId], str | None] = lambda _peer: None


class ChainRunner:
    """One followed chain. `status` is what the API sees of it, replaced whole."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name = name
        self._around = around
        self._national = around.genesis.national
        self._is_region = self._national is not None and self._national.name != name
        self._scope: trio.CancelScope | None = None
        self._is_over = False  # Another life is to begin.
        self._shown_at_s = 0.0
        self._forget()

    def _forget(self) -> None:
        """What belongs to one life."""
        self.phase: Phase = "rebuilding"
        self.reason = ""  # Why it is stopped.
        self._driver: Driver | None = None
        self._syncing: Syncing | None = None

    # -- Life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the present incarnation's store. Errors: Damaged."""
        self._forget()
        around, database = self._around, self._around.database
        spec = around.genesis.chain(self.name)
        histories = {spec.chain_id: database.chain(self.name)}  # The oldest first.
        for born in self._incarnations():
            spec = spec.with_incarnation(born)
            name = incarnation_name(self.name, born.number)
            histories[spec.chain_id] = database.chain(name)
        self._number = spec.incarnation
        national = None
        if self._is_region and self._national is not None:
            national = DecidedNational(database.chain(self._national.name))
        store = histories[spec.chain_id]
        executor = await trio.to_thread.run_sync(
            Executor, spec, store, around.now_ms, around.stages, national
        )
        # Together, as others ask meanwhile.
        self.spec: ChainSpec = spec
        self.executor = executor
        self._histories = histories
        rebuild = self._rebuild()
        self.phase = "rebuilding" if rebuild is not None and rebuild.is_needed else "running"
        self._refresh()

    def check_resumed(self) -> None:
        """Errors: NotPresent where the operator spoke of an incarnation that is over."""
        present = incarnation_name(self.name, self.spec.incarnation)
        for number in range(FIRST_INCARNATION, self.spec.incarnation):
            if incarnation_name(self.name, number) in self._around.resume_above:
                raise NotPresent(f"{self.name} is {present} now: say {present}=HEIGHT")

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
                    await self._live(tell)
            self._scope, self._is_over = None, False
            await self.open()

    async def _live(self, started: Callable[[], None]) -> None:
        """One incarnation's life. Ends when it is cancelled, or the process does."""
        try:
            rebuild = self._rebuild()
            if rebuild is not None:
                if rebuild.is_needed:
                    started()  # Others need not wait for it.
                await self._bring_together(rebuild)
            await self._decide(started)
        except* (Contradicted, Untrusted) as group:
            if not self._is_region:
                raise
            self._stop(_first(group))
        started()
        await trio.sleep_forever()

    async def _bring_together(self, rebuild: Rebuild) -> None:
        try:
            await rebuild.run()
        except Damaged as error:
            raise Contradicted(str(error)) from error

    async def _decide(self, started: Callable[[], None]) -> None:
        driver = self._new_driver()
        self._driver = driver
        around = self._around
        claims = partial(around.claims, self.spec.chain_id)
        self._syncing = Syncing(driver, around.ask, around.report, claims)
        self.phase = "running"
        self._refresh()
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            nursery.start_soon(self._syncing.run)
            started()

    def _stop(self, reason: BaseException) -> None:
        self._driver = self._syncing = None
        self.phase, self.reason = "stopped", str(reason)
        self._refresh()
        log.error(
            "chain.stopped",
            chain=self.name,
            why=self.reason,
            hint=f"this node decides and signs nothing on {self.name} and serves its blocks on; "
            "all other chains go on. Where other nodes stop as well, its authorities have broken "
            "the rules, and voters can let it go on without them: "
            f"gridtokenx shard show {self.name}",
        )

    def _rebuild(self) -> Rebuild | None:
        """Of a later incarnation than the first."""
        around, born = self._around, self._born
        if born is None:
            return None
        return Rebuild(
            self.executor,
            born,
            self.histories()[1:],
            ask=around.ask,
            neighbours=partial(around.neighbours, self.name),
            report=around.report,
            on_block=self._show_progress,
        )

    def _new_driver(self) -> Driver:
        around, name = self._around, incarnation_name(self.name, self.spec.incarnation)
        signers = self.executor.tip.next_set.validators
        key = around.validator
        if key is not None and signers.index_of(key.public_key) is None:
            log.warning(
                "signing.not_a_member",
                chain=self.name,
                hint=f"this node's validator key is not one of {self.name}'s authorities; it "
                "observes until a change of the set takes it in",
            )
        resume_above = around.resume_above.pop(name, None)
        if resume_above is None:
            self._carry_record()
        wiring = Wiring(
            gossip=around.gossip,
            ask=around.ask,
            peers=self._whom_to_ask,
            request_sync=self._request_sync,
            on_committed=self._on_committed,
            is_level=lambda: self._syncing is not None and self._syncing.is_level,
            may_propose=partial(around.may_propose, self.name),
            vote=around.vote,
            next_national=around.next_national,
            trust=trust_of(around.sync, around.genesis, self.name, around.database),
            budget=around.budget,
            source_of=around.source_of,
        )
        return Driver(
            self.executor,
            key,
            wiring,
            now_ms=around.now_ms,
            timer_ms=around.timer_ms,
            resume_above=resume_above,
        )

    @property
    def _born(self) -> Incarnation | None:
        """How the present incarnation began, unless it is the genesis' own."""
        return self.spec.incarnations[-1] if self.spec.incarnations else None

    # -- Incarnations ------------------------------------------------------------------------------

    def _incarnations(self) -> list[Incarnation]:
        """What the national chain of this node knows of, after the first."""
        if not self._is_region or self._national is None:
            return []
        return incarnations_of(self._around.database.chain(self._national.name), self.name)

    def note_national(self) -> None:
        """The national chain has another block: whatever is over ends here, now."""
        known = self._incarnations()
        if known and known[-1].number > self._number:
            log.warning("chain.reborn", chain=self.name, incarnation=known[-1].number)
            self._end_life()

    def _end_life(self) -> None:
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()

    def _carry_record(self) -> None:
        """A key that has a safety record of a former incarnation here has not signed for this one:
        this data folder knows all that it did. Its first record is that of the block before.

        Only as long as there is nothing of this incarnation here: a record that is missing later is
        a lost one.
        """
        born = self._born
        if born is None or self.executor.tip.height > born.height:
            return
        if any(one.load_safety() is not None for one in self.histories()[1:]):
            self.begin_record()

    def begin_record(self) -> bool:
        """Give a key that has not signed for this incarnation its first safety record.

        False where there is one already.
        """
        store, born = self.executor.store, self._born
        if store.load_safety() is not None:
            return False
        store.save_safety(encode(first_record(0 if born is None else born.height)), ())
        return True

    def vouch(self) -> str:
        """Take the operator's word that the validator key has never signed for this incarnation.

        What comes of it, in a sentence. Errors: VouchRefused.
        """
        key, born = self._around.validator, self._born
        if born is None:
            raise VouchRefused(
                f"{self.name} is in its first incarnation; for a lost safety record see "
                "gridtokenx start --resume-signing-above"
            )
        if key is None or not self._around.vote:
            raise VouchRefused("this node has no validator key that signs")
        if key.public_key not in [one.public_key for one in born.members]:
            raise VouchRefused(f"this node's validator key is not one that {self.name} begins with")
        if self.executor.tip.height > born.height:
            raise VouchRefused(
                f"block {born.height + 1} of {self.name} is decided, so most authorities sign; "
                "this key signs as soon as it has heard them"
            )
        if not self.begin_record():
            return f"the key has its safety record for {self.name} {born.number}: it signs"
        log.warning("signing.vouched", chain=self.name, incarnation=born.number)
        if self.phase == "running":
            self._end_life()  # It begins again, with the record.
        return f"the key signs {self.name} from block {born.height + 1} on"

    # -- What the rest of the node tells and asks --------------------------------------------------

    @property
    def head(self) -> ChainHead:
        """What peers are told."""
        tip = self.executor.tip
        return ChainHead(self.name, self.spec.chain_id, tip.height, tip.hash)

    def history(self, chain_id: bytes) -> ChainStore | None:
        """The blocks of an incarnation, if they are here."""
        return self._histories.get(chain_id)

    def histories(self) -> list[ChainStore]:
        """The blocks of all incarnations, the newest first."""
        return list(self._histories.values())[::-1]

    @property
    def is_national(self) -> bool:
        """Whether it is the chain of stake and votes."""
        return self.spec.is_national

    def note_height(self, peer: PeerId, head: ChainHead) -> None:
        """A peer's status. Heights of other incarnations mean nothing to this one."""
        if self._syncing is not None and head.chain_id == self.spec.chain_id:
            self._syncing.note_height(peer, head.height)

    def note_gone(self, peer: PeerId) -> None:
        """A peer disconnected."""
        if self._syncing is not None:
            self._syncing.note_gone(peer)

    def _whom_to_ask(self) -> Sequence[PeerId]:
        """For bodies: whoever follows the chain, in the order in which it likely has them."""
        highest = max(self.executor.tip.height, self._target()) + 1
        members = self.executor.tip.next_set.validators
        return likeliest(self._around.claims(self.spec.chain_id), members, highest)

    def _request_sync(self, height: int, peer: PeerId, shown: int) -> None:
        """A peer that is not connected cannot be asked, and anybody could name it."""
        if self._syncing is not None:
            self._syncing.note_shown(shown)
            if peer in self._around.claims(self.spec.chain_id):
                self._syncing.note_height(peer, height)

    def answer_bodies(self, request: BodyRequest) -> bytes:
        """Serve a peer. Errors: RequestRefused."""
        if self._driver is None:
            raise RequestRefused(f"{self.name} does not run here now")
        return self._driver.candidates.answer(request)

    async def submit(self, raws: Sequence[bytes]) -> list[Rejected | None]:
        """Admit transactions from a client, in order."""
        if self._driver is None:
            return [self._refusal() for _ in raws]
        return await self._driver.intake.submit(raws)

    async def submit_to(self, raws: Sequence[bytes], future: Future[list[Rejected | None]]) -> None:
        """As `submit`, answering a future of another thread, whatever happens."""
        if self._driver is None:
            future.set_result([self._refusal() for _ in raws])
        else:
            await self._driver.intake.submit_to(raws, future)

    def _refusal(self) -> Rejected:
        what = {"stopped": "is stopped on", "rebuilding": "is being rebuilt by"}
        detail = f"{self.name} {what.get(self.phase, 'has not begun on')} this node; ask another"
        return Rejected(ErrorCode.NOT_ACTIVE, detail)

    def _on_committed(self, committed: Committed) -> None:
        self._refresh()
        if self._syncing is not None:
            self._syncing.note_committed(committed.parent.height)
        self._around.on_committed(self.name, committed)

    # -- What the API sees -------------------------------------------------------------------------

    async def _show_progress(self) -> None:
        if trio.current_time() - self._shown_at_s >= SHOWN_EVERY_S:
            self._shown_at_s = trio.current_time()
            self._refresh()

    def _refresh(self) -> None:
        """Swap in what the API reads: a new value, so a reader never sees half of it."""
        tip = self.executor.tip
        parent = tip.parent
        head = Head(
            parent.height,
            parent.hash,
            parent.time_ms,
            tip.market_ms,
            parent.state_root,
            tip.proposer_index,
        )
        status = ChainStatus(
            spec=tip.spec,
            head=head,
            view=tip.view,
            validators=tip.next_set.validators,
            prove=partial(_prove, self.executor),
            finality_ms=tip.finality_ms,
        )
        self.status = self.live(status)
        self._around.on_status(self.name)

    def live(self, status: ChainStatus) -> ChainStatus:
        """With what changes between blocks."""
        driver = self._driver
        if driver is not None:
            status = replace(
                status,
                consensus_view=driver.view,
                timeouts=driver.counters.timeouts,
                equivocations=driver.counters.evidence,
            )
        return replace(
            status,
            mempool_transactions=len(self.executor.pending),
            sync_state=self._sync_state(),
            checkpoints_sent=self._around.checkpoints_sent(self.name),
            sync_target=max(self._target(), status.head.height),
            stopped_because=self.reason,
        )

    def beat(self) -> None:
        """Once a second: timers after a step of the clock, figures that change without a block."""
        if self._driver is not None:
            self._driver.mind_clock()
        self.status = self.live(self.status)

    def _sync_state(self) -> SyncState:
        if self.phase != "running":
            return self.phase
        return "waiting_peers" if self._syncing is None else self._syncing.state()

    def _target(self) -> int:
        if self.phase == "rebuilding" and self._born is not None:
            return self._born.height
        return 0 if self._syncing is None else self._syncing.target


def likeliest(
    claims: Mapping[PeerId, Claim], members: ValidatorSet, highest: int
) -> tuple[PeerId, ...]:
    """Peers that members vouch for, then the others, the highest first, but those that say more
    than `highest` last: a few silent strangers must not come before all who would answer.
    """

    def rank(peer: PeerId) -> tuple[bool, bool, int, PeerId]:
        claim = claims[peer]
        is_vouched = claim.validator is not None and members.index_of(claim.validator) is not None
        return (not is_vouched, claim.height > highest, -claim.height, peer)

    return tuple(sorted(claims, key=rank))


def first_record(height: int) -> SafetyRecord:
    """The record of a key that has signed nothing above `height`."""
    return SafetyRecord(
        height=height,
        view=0,
        prepared=None,
        committed=None,
        timed_out=False,
        high_certificate=None,
        entry=None,
        own=(),
        last_commit=None,
        candidates=(),
    )


def _first(error: BaseException) -> BaseException:
    """An error inside a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _prove(executor: Executor, key: bytes) -> tuple[bytes | None, StateProof]:
    _, value, proof = executor.prove(key)
    return value, proof
