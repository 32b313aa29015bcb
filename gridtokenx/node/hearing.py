"""What one chain hears of consensus through gossip: votes, certificates and proposed blocks.

Both validators are total and bounded; what they return decides whether a message is forwarded.
Source: protocols/networking.md 4, 4.2.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from gridtokenx.consensus.engine import Engine
from gridtokenx.consensus.events import Event, Received
from gridtokenx.consensus.messages import Message, Proposal, decode_message
from gridtokenx.network.gossipsub.events import MAX_MESSAGE_BYTES, GossipVerdict, Origin
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.node.candidates import VIEWS_AHEAD, Candidates
from gridtokenx.node.executor import Executor
from gridtokenx.node.key_guard import KeyGuard
from gridtokenx.node.strangers import Strangers
from gridtokenx.node.vote_gate import Judgement, VoteGate
from gridtokenx.node.wiring import Counters, Wiring
from gridtokenx.primitives.errors import Rejected


class Hearing:
    """One chain's. `post` hands the engine an event, or says that its inbox is full."""

    def __init__(
        self,
        executor: Executor,
        engine: Engine,
        candidates: Candidates,
        guard: KeyGuard,
        gate: VoteGate,
        strangers: Strangers,
        wiring: Wiring,
        counters: Counters,
        *,
        post: Callable[[Event], bool],
    ) -> None:
        self._executor = executor
        self._engine = engine
        self._candidates = candidates
        self._guard = guard
        self._gate = gate
        self._strangers = strangers
        self._wiring = wiring
        self._counters = counters
        self._post = post
        self.is_deaf = False  # The driver ends: nothing new begins.

    async def validate_block(self, origin: Origin, data: bytes) -> GossipVerdict:
        """Keep a compact block that a leader's proposal names."""
        if len(data) > MAX_MESSAGE_BYTES:
            return GossipVerdict.REJECT
        async with self._strangers.lane(origin, len(data)) as lane:
            if lane is None:
                return GossipVerdict.IGNORE
            try:
                return await self._candidates.accept_gossip(lane, data, self._next_view())
            except trio.TooSlowError:
                return GossipVerdict.IGNORE

    def validate_vote(self, origin: Origin, data: bytes) -> GossipVerdict:
        """Hand the engine a message that a member has signed, or that may be of another height."""
        try:
            message = decode_message(data)
        except Rejected:
            return GossipVerdict.REJECT
        state, now_ms = self._engine.state, self._wiring.timer_ms()
        if state is None or self.is_deaf:
            return GossipVerdict.IGNORE
        # By the executor's height, which its sets begin at: the engine may be a moment behind it.
        tip = self._executor.tip
        height = tip.height + 1
        view = self._next_view() if message.height == height else 0
        judgement = self._gate.judge(height, view, tip.sets, message, data, now_ms)
        if judgement is Judgement.FORGED:
            self._counters.note_penalty("bad signature")
            return GossipVerdict.REJECT
        if judgement in (Judgement.REPEATED, Judgement.TOO_MANY):
            return GossipVerdict.IGNORE
        genuine = judgement is Judgement.GENUINE
        if not genuine and not self._admits_unknown(origin, now_ms):
            return GossipVerdict.IGNORE
        if genuine and message.height >= state.height:
            self._look_into(message, view)
        if not self._post(Received(message, origin.author)) or not genuine:
            return GossipVerdict.IGNORE  # One from far away may tell the engine that it is behind.
        self._gate.note(data, now_ms)
        return GossipVerdict.ACCEPT

    def may_answer(self, peer: PeerId, height: int) -> bool:
        """Whether a peer that is behind may have the certificate of a height it spoke of now."""
        is_stranger = self._wiring.is_stranger(peer)
        return self._gate.may_answer(
            height, is_stranger=is_stranger, now_ms=self._wiring.timer_ms()
        )

    def _admits_unknown(self, origin: Origin, now_ms: int) -> bool:
        peer = origin.forwarder
        is_stranger = self._wiring.is_stranger(peer)
        return self._gate.admits_unknown(peer, is_stranger=is_stranger, now_ms=now_ms)

    def _look_into(self, message: Message, view: int) -> None:
        """A member's own message: what else it tells than the engine asks for."""
        self._guard.look_for_twin(message)
        if isinstance(message, Proposal) and message.view <= view + VIEWS_AHEAD:
            self._candidates.note_proposal(message.height, message.view, message.block_hash)

    def _next_view(self) -> int:
        """The engine's view of the height after the newest block: 0 until it has heard of that."""
        state = self._engine.state
        is_next = state is not None and state.height == self._executor.tip.height + 1
        return state.view if state is not None and is_next else 0
