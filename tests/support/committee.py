"""Real keys of a small committee, the messages they sign, and one engine under test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import (
    BlockBuilt,
    BlockChecked,
    Broadcast,
    BuildBlock,
    CheckBlock,
    Effect,
    Event,
    HeightStarted,
    Persist,
    Received,
    SafetyRecord,
    Tick,
    Verdict,
)
from gridtokenx.consensus.messages import (
    IndexedSignature,
    Message,
    Phase,
    Proposal,
    QuorumCertificate,
    Timeout,
    TimeoutCertificate,
    TimeoutEntry,
    Vote,
    message_bytes,
)
from gridtokenx.consensus.state import Timing
from gridtokenx.primitives.crypto import ZERO_HASH, SigningKey, sha256
from gridtokenx.primitives.validators import Validator, ValidatorSet

CHAIN_ID = sha256(b"unit test chain")
BASE_MS = 3000
NO_SIGNATURE = bytes(64)
BLOCK, OTHER, THIRD = sha256(b"block"), sha256(b"other block"), sha256(b"third block")
T = TypeVar("T")


class Committee:
    """`weights[i]` belongs to the member with index i."""

    def __init__(self, *weights: int, height: int = 1) -> None:
        keys = [SigningKey(sha256(b"member %d" % index)) for index in range(len(weights))]
        self.keys = sorted(keys, key=lambda key: key.public_key)
        self.validators = ValidatorSet.of(
            Validator(key.public_key, weight)
            for key, weight in zip(self.keys, weights, strict=True)
        )
        self.height = height

    def sign(self, index: int, message: T) -> T:
        signature = self.keys[index].sign(message_bytes(CHAIN_ID, message))  # type: ignore[arg-type]
        return replace(message, signature=signature)  # type: ignore[type-var]

    def vote(self, index: int, phase: Phase, view: int = 0, block: bytes = BLOCK) -> Vote:
        return self.sign(index, Vote(phase, self.height, view, block, index, NO_SIGNATURE))

    def prepare(self, index: int, view: int = 0, block: bytes = BLOCK) -> Vote:
        return self.vote(index, Phase.PREPARE, view, block)

    def commit(self, index: int, view: int = 0, block: bytes = BLOCK) -> Vote:
        return self.vote(index, Phase.COMMIT, view, block)

    def timeout(self, index: int, view: int = 0, high: QuorumCertificate | None = None) -> Timeout:
        named = (0, ZERO_HASH) if high is None else (high.view + 1, high.block_hash)
        return self.sign(index, Timeout(self.height, view, *named, index, NO_SIGNATURE, high))

    def certificate(
        self,
        phase: Phase = Phase.PREPARE,
        view: int = 0,
        block: bytes = BLOCK,
        signers: Iterable[int] = (0, 1, 2),
    ) -> QuorumCertificate:
        signatures = tuple(
            IndexedSignature(index, self.vote(index, phase, view, block).signature)
            for index in signers
        )
        return QuorumCertificate(phase, self.height, view, block, signatures)

    def timeouts(
        self, view: int, highs: Mapping[int, QuorumCertificate | None] | None = None
    ) -> TimeoutCertificate:
        highs = {1: None, 2: None, 3: None} if highs is None else highs
        signed = [self.timeout(index, view, high) for index, high in sorted(highs.items())]
        entries = tuple(
            TimeoutEntry(one.index, one.high_view_plus_1, one.high_hash, one.signature)
            for one in signed
        )
        highest = max(signed, key=lambda one: one.high_view_plus_1)
        return TimeoutCertificate(self.height, view, entries, highest.certificate)

    def leader(self, view: int) -> int:
        """Equal weights and an epoch that starts at height 0."""
        return (self.height + view) % len(self.keys)

    def proposal(
        self,
        view: int = 0,
        block: bytes = BLOCK,
        timeouts: TimeoutCertificate | None = None,
        certificate: QuorumCertificate | None = None,
        signer: int | None = None,
    ) -> Proposal:
        author = self.leader(view) if signer is None else signer
        proposal = Proposal(self.height, view, block, timeouts, certificate, NO_SIGNATURE)
        return self.sign(author, proposal)


class Bench:
    """An engine, its clock and a disk; every list of effects is checked for its order."""

    def __init__(
        self,
        committee: Committee,
        me: int | None = 0,
        *,
        start: bool = True,
        open_ms: int = 0,
        **options: Any,
    ) -> None:
        self.committee, self.me, self.options = committee, me, options
        self.now_ms = 10_000
        self.disk: SafetyRecord | None = options.pop("record", None)
        self.sent: list[Message] = []
        self.boot()
        if start:
            self.started = self.start_height(open_ms=open_ms)

    def boot(self) -> None:
        """A new process over the old disk."""
        key = None if self.me is None else self.committee.keys[self.me]
        timing = self.options.get("timing", Timing(base_ms=BASE_MS))
        others = {name: value for name, value in self.options.items() if name != "timing"}
        self.engine = Engine(CHAIN_ID, key, timing, record=self.disk, **others)

    def start_height(self, height: int | None = None, open_ms: int = 0) -> list[Effect]:
        height = self.committee.height if height is None else height
        return self.feed(HeightStarted(height, self.committee.validators, open_ms))

    def feed(self, event: Event) -> list[Effect]:
        effects = self.engine.handle(event, self.now_ms)
        for effect in effects:
            if isinstance(effect, Persist):
                self.disk = effect.record
            if isinstance(effect, Broadcast):
                self.sent.append(effect.message)
                if isinstance(effect.message, Proposal | Vote | Timeout):
                    assert self.disk is not None
                    assert effect.message in (*self.disk.own, self.disk.last_commit)
        return effects

    def hear(self, *messages: Message, peer: bytes | None = b"peer") -> list[Effect]:
        return [effect for message in messages for effect in self.feed(Received(message, peer))]

    def wait(self, duration_ms: int) -> list[Effect]:
        self.now_ms += duration_ms
        return self.feed(Tick())

    def time_out(self) -> list[Effect]:
        """Let the view's deadline pass."""
        assert self.state.deadline_ms >= self.now_ms
        return self.wait(self.state.deadline_ms - self.now_ms)

    def answer(
        self, effects: list[Effect], verdict: Verdict = Verdict.VALID, until_ms: int = 0
    ) -> list[Effect]:
        """Answer every question among the effects."""
        out: list[Effect] = []
        for check in only(effects, CheckBlock):
            out += self.feed(BlockChecked(check, verdict, until_ms))
        return out

    def build(self, effects: list[Effect], block: bytes = BLOCK) -> list[Effect]:
        (request,) = only(effects, BuildBlock)
        return self.feed(BlockBuilt(request.height, request.view, block))

    @property
    def state(self) -> Any:
        return self.engine.state

    def prepared(self, block: bytes = BLOCK) -> list[Effect]:
        """The proposal of view 0 arrives and is valid: own PREPARE leaves."""
        return self.answer(self.hear(self.committee.proposal(block=block)))


def only(effects: list[Effect], kind: type[T]) -> list[T]:
    """The effects of one type."""
    return [effect for effect in effects if isinstance(effect, kind)]


def messages(effects: list[Effect], kind: type[T]) -> list[T]:
    """The broadcast messages of one type."""
    broadcast = (effect.message for effect in only(effects, Broadcast))
    return [message for message in broadcast if isinstance(message, kind)]
