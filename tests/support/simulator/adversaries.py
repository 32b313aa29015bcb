"""Liars, one class per kind. Each runs the real engine and bends what comes out of it.

A liar signs with its own key only. What it says is otherwise up to it: to whom, when, how often,
and about what. Twins and the network that hides COMMITs are in `world` and `network`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Event, HeightStarted, Tick
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
from gridtokenx.consensus.state import HeightState
from gridtokenx.primitives.crypto import ZERO_HASH, sha256
from tests.support.simulator.chain import Block

if TYPE_CHECKING:
    from tests.support.simulator.node import Node

NO_SIGNATURE = bytes(64)


class Shameless(Engine):
    """Honest code that does not mind a double, nor a decision it finds invalid."""

    def _stop(self, reason: str, *, key_in_use: bool = False) -> None:
        pass


class Liar:
    """The base: behaves. `serves`: whether it gives bodies away when asked."""

    engine_class: type[Engine] = Shameless
    serves = True

    def broadcast(self, node: Node, message: Message) -> None:
        node.spread(message, node.world.peers_of(node))

    def build(self, node: Node, block: Block) -> Block:
        return block

    def hears(self, node: Node, message: Message) -> None:
        """Before the engine handles what a peer sent."""

    def after_event(self, node: Node, event: Event) -> None:
        """After the engine handled anything."""

    def sync_answer(
        self, node: Node, blocks: tuple[tuple[Block, QuorumCertificate], ...]
    ) -> tuple[tuple[Block, QuorumCertificate], ...]:
        return blocks


class Silent(Liar):
    """Hears everything, says nothing."""

    serves = False

    def broadcast(self, node: Node, message: Message) -> None:
        pass


class Equivocator(Liar):
    """As leader proposes one block to half of the others and another to the rest."""

    def broadcast(self, node: Node, message: Message) -> None:
        peers = node.world.peers_of(node)
        if not isinstance(message, Proposal) or not message.fresh:
            node.spread(message, peers)
            return
        first = node.bodies.get(message.block_hash)
        if first is None or first.height != node.height + 1:
            return
        second = node.world.rules.build(node.disk.tip, replace(first, payload=first.payload + 1))
        node.bodies[second.hash] = second
        other = node.sign(replace(message, block_hash=second.hash))
        half = node.random.randrange(len(peers) + 1)
        node.spread(message, peers[:half])
        node.spread(other, peers[half:])


class LeaderToMinority(Liar):
    """As leader proposes to at most a third of the others."""

    def broadcast(self, node: Node, message: Message) -> None:
        peers = node.world.peers_of(node)
        if isinstance(message, Proposal):
            first = message.view % len(peers)  # The same ones when it is sent again.
            peers = (peers[first:] + peers[:first])[: len(peers) // 3]
        node.spread(message, peers)


class BodyWithholder(Liar):
    """Proposes hashes and never gives the bodies away."""

    serves = False

    def broadcast(self, node: Node, message: Message) -> None:
        for peer in node.world.peers_of(node):
            node.post(peer, message)


class WrongRoot(Liar):
    """Builds blocks whose state root is not what execution gives."""

    def build(self, node: Node, block: Block) -> Block:
        return replace(block, state_root=sha256(b"wrong" + block.state_root))


class ProposesAnew(Engine):
    """Proposes a block of its own whatever was prepared before."""

    def _propose(self, state: HeightState) -> bool:
        high, state.high_certificate = state.high_certificate, None
        proposed = super()._propose(state)
        if state.high_certificate is None:
            state.high_certificate = high
        return proposed


class _Forgetful(ProposesAnew, Shameless):
    """The same, and signs whatever it likes."""


class LockIgnorer(Liar):
    """As leader ignores the highest PREPARE certificate and offers its own block."""

    engine_class = _Forgetful


class _Stale(Shameless):
    """Keeps the first entry certificate of a height that proves no lock."""

    _kept: TimeoutCertificate | None = None

    def _enter_view(self, state: HeightState, view: int, entry: TimeoutCertificate | None) -> None:
        kept = self._kept
        if (
            entry is not None
            and entry.high_view < 0
            and (kept is None or kept.height != state.height)
        ):
            self._kept = entry
        super()._enter_view(state, view, entry)

    def _propose(self, state: HeightState) -> bool:
        kept = self._kept
        if kept is None or kept.height != state.height or state.view < 2 or state.entry is None:
            return super()._propose(state)
        entry, high = state.entry, state.high_certificate
        state.entry, state.high_certificate = kept, None
        try:
            return super()._propose(state)
        finally:
            state.entry = entry
            state.high_certificate = state.high_certificate or high


class StaleEntry(Liar):
    """As leader justifies its own block with a timeout certificate from before the lock."""

    engine_class = _Stale


class LeavesUnlocked(Engine):
    """Leaves views as if it had never seen a certificate."""

    def _leave_view(self, state: HeightState) -> bool:
        high, state.high_certificate = state.high_certificate, None
        left = super()._leave_view(state)
        if state.high_certificate is None:
            state.high_certificate = high
        return left


class _Amnesiac(LeavesUnlocked, Shameless):
    """The same, and signs whatever it likes."""


class Amnesiac(Liar):
    """Sends TIMEOUTs with a stale lock: none, though it committed."""

    engine_class = _Amnesiac


class Boaster(Liar):
    """Sends TIMEOUTs that name a certificate nobody has."""

    def broadcast(self, node: Node, message: Message) -> None:
        if isinstance(message, Timeout):
            named = sha256(b"boast %d" % message.view)
            boast = replace(
                message, high_view_plus_1=message.view + 1, high_hash=named, certificate=None
            )
            message = node.sign(boast)
        super().broadcast(node, message)


class DoubleVoter(Liar):
    """PREPAREs and COMMITs whatever is proposed, prepared or decided, as often as it differs."""

    def __init__(self) -> None:
        self._cast: set[tuple[Phase, int, int, bytes]] = set()

    def hears(self, node: Node, message: Message) -> None:
        if isinstance(message, Timeout | TimeoutCertificate) or message.height != node.height + 1:
            return
        for phase in (Phase.PREPARE, Phase.COMMIT):
            key = (phase, message.height, message.view, message.block_hash)
            if key not in self._cast:
                self._cast.add(key)
                peers = node.world.peers_of(node)
                some = node.random.sample(peers, node.random.randrange(1, len(peers) + 1))
                node.spread(_vote(node, *key), some)


class Flooder(Liar):
    """Fills every buffer: votes, timeouts and proposals of views and heights far ahead."""

    burst = 24

    def after_event(self, node: Node, event: Event) -> None:
        if not isinstance(event, Tick | HeightStarted) or node.engine is None:
            return
        state, draw = node.engine.state, node.random
        assert state is not None
        for _ in range(self.burst):
            height = state.height + draw.choice((0, 0, 0, 1, 2, 1000))
            view = max(
                0, state.view + draw.choice((-70, -1, 0, 1, 2, 64, 65, draw.randrange(10_000)))
            )
            block = sha256(b"%d" % draw.getrandbits(16))
            choices = (
                _vote(node, draw.choice((Phase.PREPARE, Phase.COMMIT)), height, view, block),
                node.sign(Timeout(height, view, 0, ZERO_HASH, node.index, NO_SIGNATURE, None)),
                node.sign(Proposal(height, 0, block, None, None, NO_SIGNATURE)),
            )
            node.spread(draw.choice(choices), [draw.choice(node.world.peers_of(node))])


class Impersonator(Liar):
    """Speaks in the name of others, under its own signature, a copied one and none."""

    def hears(self, node: Node, message: Message) -> None:
        if not isinstance(message, Vote | Timeout) or node.random.random() > 0.2:
            return
        members = node.disk.tip.state.set_at(message.height).members
        other = node.random.randrange(len(members) + 1) % 128
        forged = replace(message, index=other)
        if isinstance(message, Vote):
            forged = replace(forged, block_hash=sha256(message.block_hash))
        if other == node.index:
            return
        signature = node.random.choice((message.signature, NO_SIGNATURE, b""))
        if not signature:
            signature = node.key.sign(message_bytes(node.world.chain_id, forged))
        node.spread(replace(forged, signature=signature), node.world.peers_of(node))


class EvilCertificates(Liar):
    """Sends certificates that count a member twice, hold a forgery, or come from strangers."""

    def __init__(self) -> None:
        self._sent = 0

    def hears(self, node: Node, message: Message) -> None:
        if not isinstance(message, Vote) or message.height != node.height + 1:
            return
        if node.random.random() < 0.1 and self._sent < 200:
            self._sent += 1
            forged = node.random.choice((self.duplicate, self.forgery, self.strangers, self.empty))
            certificate = forged(node, message)
            if certificate is not None:
                node.spread(certificate, node.world.peers_of(node))

    def duplicate(self, node: Node, heard: Vote) -> QuorumCertificate:
        """One genuine vote of its own, many times."""
        phase = node.random.choice((Phase.PREPARE, Phase.COMMIT))
        vote = _vote(node, phase, heard.height, heard.view, sha256(b"evil"))
        once = IndexedSignature(node.index, vote.signature)
        return _certificate(vote, (once,) * len(_members(node, heard)))

    def forgery(self, node: Node, heard: Vote) -> QuorumCertificate:
        """Its own vote, and signatures of everybody else that it made up."""
        vote = _vote(node, Phase.COMMIT, heard.height, heard.view, sha256(b"evil"))
        signatures = tuple(
            IndexedSignature(index, vote.signature) for index in range(len(_members(node, heard)))
        )
        return _certificate(vote, signatures)

    def strangers(self, node: Node, heard: Vote) -> QuorumCertificate:
        """Indexes beyond the set."""
        vote = _vote(node, heard.phase, heard.height, heard.view, sha256(b"evil"))
        first = len(_members(node, heard))
        signatures = tuple(IndexedSignature(first + at, vote.signature) for at in range(first))
        return _certificate(vote, signatures[: 128 - first])

    def empty(self, node: Node, heard: Vote) -> TimeoutCertificate:
        """A timeout certificate of one, which claims a view far ahead."""
        timeout = Timeout(
            heard.height, heard.view + 3, 0, ZERO_HASH, node.index, NO_SIGNATURE, None
        )
        signature = node.sign(timeout).signature
        entry = TimeoutEntry(node.index, 0, ZERO_HASH, signature)
        return TimeoutCertificate(heard.height, heard.view + 3, (entry,), None)


class BadSyncPeer(Liar):
    """Serves decided blocks with a changed body or with a certificate that lacks its quorum."""

    bad_certificate = False

    def sync_answer(
        self, node: Node, blocks: tuple[tuple[Block, QuorumCertificate], ...]
    ) -> tuple[tuple[Block, QuorumCertificate], ...]:
        answer = []
        for block, certificate in blocks:
            if self.bad_certificate:
                few = replace(certificate, signatures=certificate.signatures[:1])
                answer.append((block, few))
            else:
                answer.append((replace(block, payload=block.payload + 1), certificate))
        return tuple(answer)


class BadCertificatePeer(BadSyncPeer):
    """Serves good blocks with certificates of a single member."""

    bad_certificate = True


def _members(node: Node, message: Vote) -> tuple[object, ...]:
    return node.disk.tip.state.set_at(message.height).members


def _vote(node: Node, phase: Phase, height: int, view: int, block: bytes) -> Vote:
    return node.sign(Vote(phase, height, view, block, node.index, NO_SIGNATURE))


def _certificate(vote: Vote, signatures: tuple[IndexedSignature, ...]) -> QuorumCertificate:
    return QuorumCertificate(vote.phase, vote.height, vote.view, vote.block_hash, signatures)


LIARS: tuple[type[Liar], ...] = (
    Silent,
    Equivocator,
    LeaderToMinority,
    BodyWithholder,
    WrongRoot,
    LockIgnorer,
    Amnesiac,
    Boaster,
    DoubleVoter,
    Flooder,
    Impersonator,
    EvilCertificates,
    BadSyncPeer,
    BadCertificatePeer,
)
