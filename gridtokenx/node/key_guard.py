"""Whether this node's key may sign on a chain: its safety record, and what shows that it is an old
one or that the key signs elsewhere too. Source: protocols/consensus.md 2.8, decision 0005.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog
import trio

from gridtokenx.chain.genesis import incarnation_name
from gridtokenx.consensus.events import Event, Observe, SafetyRecord, StopSigning
from gridtokenx.consensus.messages import Message, QuorumCertificate
from gridtokenx.node.executor import Executor
from gridtokenx.node.syncing import Syncing
from gridtokenx.node.vote_gate import signer_key
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.runtime.stopping import Contradicted, NotMissing, StopNode
from gridtokenx.views.stages import Stage

OBSERVE_SECONDS = 60
TWIN_SECONDS = 10  # By then nothing that this key signed in an earlier life is still on its way.
HOLD_SECONDS = 5.0
HOLD_POLL_SECONDS = 0.05
NEVER = 2**62
DISAGREES = (
    "The state of this node is damaged or its version is wrong; start the right version with an "
    "empty data folder"
)
OLD_RECORD = (
    "the safety record of this key is older than its signature in block {height}: was a backup "
    f"restored? It counts as lost: the key signs nothing for {OBSERVE_SECONDS} s, nor before most "
    "validators were heard, then only above all heights seen. "
    "Is the newest record in another home? There: gridtokenx keys protection export FILE; "
    "here: gridtokenx keys protection import FILE"
)
LOST_RECORD = (
    "the safety record of this key is missing, so the key may have signed what is not remembered: "
    f"it signs nothing for {OBSERVE_SECONDS} s, nor before most validators were heard, then only "
    "above all heights seen. Is the record in another home? There: "
    "gridtokenx keys protection export FILE; here: gridtokenx keys protection import FILE. "
    "Only if this key never signed: gridtokenx keys protection init --i-am-sure. "
    "If a validator's absurd height keeps it silent: "
    "gridtokenx start --resume-signing-above {chain}=HEIGHT"
)

log = structlog.get_logger(__name__)


class KeyGuard:
    """One chain's. Without a key it has nothing to do."""

    def __init__(
        self,
        executor: Executor,
        key: SigningKey | None,
        syncing: Syncing,
        *,
        resume_above: int | None,
        silent_until: int,
        highest_height: Callable[[], int],
        tell: Callable[[Event], Awaitable[None]],
        start_soon: Callable[..., None],
    ) -> None:
        """`resume_above` as for the driver; nothing is signed at heights up to `silent_until`.

        `highest_height` that the engine has seen; `tell` it an event; `start_soon(function, *args)`
        a task of the driver. Errors: NotMissing where there is a record.
        """
        self.signer = key
        self.silent_until = silent_until
        self._executor, self._syncing = executor, syncing
        self._highest_height, self._tell, self._start_soon = highest_height, tell, start_soon
        self._name = incarnation_name(executor.spec.name, executor.spec.incarnation)
        record = executor.store.load_safety()
        if self.signer is not None and resume_above is not None and record is not None:
            raise NotMissing(self._name)
        self.record = None if record is None else decode(SafetyRecord, record)
        self._is_lost = self.signer is not None and record is None and resume_above is None
        # A later incarnation begins with a record of its base, which alone tells nothing.
        is_later = bool(executor.spec.incarnations)
        self._must_hold = self.record is not None and (self.record.height > 0 or is_later)
        self._must_observe = False  # Only `_treat_as_lost` sets it.
        self._resume_above = resume_above
        # Above this height a decided block that bears our signature shows that we have forgotten.
        self._signed_height = (resume_above or 0) if self.record is None else self.record.height
        self._twin_above = NEVER

    @property
    def observe_until(self) -> int:
        """The height up to which the key signs nothing, by what is known before the start."""
        if self._is_lost or self._must_hold:
            return NEVER
        return max(self.silent_until, -1 if self._resume_above is None else self._resume_above)

    def start(self) -> list[Event]:
        """Begin to watch; what the engine must hear before its first height."""
        before = self._look_at_record()
        if self._must_hold and not self._must_observe:
            self._start_soon(self._hold)
        return before

    def save(self, record: SafetyRecord) -> None:
        """Put a record on disk, synced, before anything leaves that it remembers. Any thread."""
        candidates = [
            (block_hash, execution.block.encoded)
            for block_hash in record.candidates
            if (execution := self._executor.candidate(block_hash)) is not None
        ]
        with self._executor.stages.measure(Stage.WRITE):
            self._executor.store.save_safety(encode(record), candidates)
        self._signed_height = max(self._signed_height, record.height)

    def stop(self, effect: StopSigning) -> NoReturn:
        """The engine found out why this key may sign no more. Errors: StopNode, always."""
        if effect.key_in_use:
            raise StopNode(f"GTX-KEY-002: {self._name}: {effect.reason}. Not signing.")
        raise Contradicted(f"GTX-SYNC-001: {self._name}: {effect.reason}. {DISAGREES}")

    def note_certificate(self, certificate: QuorumCertificate) -> list[Event]:
        """Find out an old record: a decided block bears a signature of ours it does not know."""
        if self.signer is None or self._must_observe or certificate.height <= self._signed_height:
            return []
        signers = self._executor.tip.sets.at(certificate.height).validators
        me = signers.index_of(self.signer.public_key)
        if all(one.index != me for one in certificate.signatures):
            return []
        hint = OLD_RECORD.format(height=certificate.height)
        log.warning("signing.old_record", code="GTX-KEY-001", chain=self._name, hint=hint)
        return self._treat_as_lost()

    def look_for_twin(self, message: Message) -> None:
        """While this key is silent: whoever signs with it at a new height is another node."""
        if message.height <= self._twin_above or self.signer is None:
            return
        if signer_key(self._executor.tip.sets, message) == self.signer.public_key:
            self._twin_above = NEVER  # Once is enough.
            self._start_soon(self._stop_for_twin, message.height)

    # -- Inside ------------------------------------------------------------------------------------

    def _look_at_record(self) -> list[Event]:
        """At start: the record is not here, or the newest block shows that it is an old one."""
        if self._is_lost:
            hint = LOST_RECORD.format(chain=self._name)
            log.warning("signing.observing", code="GTX-KEY-001", chain=self._name, hint=hint)
            return self._treat_as_lost()
        newest = self._executor.tip.certificate
        return self.note_certificate(decode(QuorumCertificate, newest)) if newest else []

    def _treat_as_lost(self) -> list[Event]:
        """The one way to begin observing (2.8): silent for a while, and until a quorum is heard.

        What is on disk of an old record goes first, or the next start would believe it.
        """
        self._must_observe = True
        self._executor.store.forget_safety()
        self._start_soon(self._observe)
        return [Observe(NEVER, hear_quorum=True)]

    async def _observe(self) -> None:
        """A key without its newest safety record: watch, then sign only above all it has seen."""
        await trio.sleep(TWIN_SECONDS)
        self._twin_above = max(self._highest_height(), self._executor.tip.height) + 1
        await trio.sleep(OBSERVE_SECONDS - TWIN_SECONDS)
        self._twin_above = NEVER  # From now on the engine knows every signature of ours.
        seen = max(self._highest_height(), self._executor.tip.height)
        log.warning("signing.above", code="GTX-KEY-001", chain=self._name, height=seen + 1)
        await self._tell(Observe(max(self.silent_until, seen + 1)))

    async def _hold(self) -> None:
        """A key that starts again: hear first what was decided meanwhile.

        An old backup would otherwise sign again, at once, where the key has signed before. Alone it
        could decide nothing, so it waits for others. Those that only say that they are ahead cost
        no more than HOLD_SECONDS: what they say must bring blocks.
        """
        height, since_s = self._executor.tip.height, trio.current_time()
        while not self._syncing.is_level and trio.current_time() - since_s < HOLD_SECONDS:
            await trio.sleep(HOLD_POLL_SECONDS)
            if self._needs_peers() or self._executor.tip.height > height:
                height, since_s = self._executor.tip.height, trio.current_time()
        if not self._must_observe:
            await self._tell(Observe(self.silent_until))

    def _needs_peers(self) -> bool:
        """Whether there are none, and this key alone is no quorum."""
        validators = self._executor.tip.next_set.validators
        me = None if self.signer is None else validators.index_of(self.signer.public_key)
        weight = 0 if me is None else validators.weight_of([me])
        return not self._syncing.whom_to_ask() and not validators.is_quorum(weight)

    async def _stop_for_twin(self, height: int) -> None:
        detail = f"another node signs with this key at height {height}. Not signing."
        raise StopNode(f"GTX-KEY-002: {self._name}: {detail}")
