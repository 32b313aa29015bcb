"""Gossip service: performs what the router decides, over its streams, and runs the validators.

Source: protocols/networking.md 4.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import structlog
import trio

from gridtokenx.network.gossip_streams import QUEUE_BYTES, GossipStreams
from gridtokenx.network.gossipsub.events import (
    MAX_MESSAGE_BYTES,
    PROTOCOLS,
    Deliver,
    Effect,
    Event,
    GossipVerdict,
    Heartbeat,
    Misbehaved,
    Origin,
    Parameters,
    Priority,
    Publish,
    Send,
    SetDirectPeers,
    Subscribe,
    Unsubscribe,
    Validated,
    Verified,
    Verify,
    Withdraw,
)
from gridtokenx.network.gossipsub.router import Router
from gridtokenx.network.gossipsub.scores import PeerScore
from gridtokenx.network.host import Network, PeerConnected, format_peer_id
from gridtokenx.network.peers.peer import PeerId
from gridtokenx.network.throttle import PAYER, unpaid
from gridtokenx.primitives import crypto
from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.stopping import ends_node

__all__ = [
    "OFFENCES",
    "Gossip",
    "GossipVerdict",
    "Origin",
    "PeerScore",
    "Priority",
    "Validator",
]

MAX_RPC_BYTES = MAX_MESSAGE_BYTES + 64 * 1024
VALIDATION_TIMEOUT_S = 5
INLINE_VERIFY_BYTES = 64 * 1024  # a thread hop costs as much as verifying this much

Validator = Callable[[Origin, bytes], Awaitable[GossipVerdict] | GossipVerdict]
OnOffence = Callable[[PeerId, str], None]

OFFENCES = frozenset(["malformed", "graylisted"])
"""What is told to `on_offence`; all else is a matter of the score alone."""

log = structlog.get_logger(__name__)


class Gossip:
    """Publish and receive signed messages on topics.

    `priority` classifies a topic; `seed` feeds the choice of mesh peers;
    `first_seqno` must grow across restarts: pass the time in nanoseconds. `application_score` is
    P5 of a peer's score; `on_offence` hears of a peer that did one of `OFFENCES`. Both must be
    quick and raise nothing.
    """

    def __init__(
        self,
        network: Network,
        *,
        topic_prefix: str,
        seed: int,
        first_seqno: int,
        priority: Callable[[str], Priority],
        parameters: Parameters | None = None,
        queue_bytes: int = QUEUE_BYTES,
        max_rpc_bytes: int = MAX_RPC_BYTES,
        application_score: Callable[[PeerId], float] = lambda _peer: 0.0,
        on_offence: OnOffence = lambda _peer, _reason: None,
    ) -> None:
        self._network = network
        self._router = Router(
            network.peer_id,
            sign=network.sign,
            public_key_of=lambda peer: network.public_key_of(PeerId(peer)),
            topic_prefix=topic_prefix,
            priority=priority,
            seed=seed,
            first_seqno=first_seqno,
            parameters=parameters,
            application_score=lambda peer: application_score(PeerId(peer)),
            is_trusted=lambda peer: network.is_trusted(PeerId(peer)),
        )
        self._on_offence = on_offence
        self._validators: dict[str, Validator] = {}
        self._counters: Counter[str] = Counter()
        self._streams = GossipStreams(
            network,
            self._apply,
            self._start_soon,
            self._counters,
            queue_bytes=queue_bytes,
            max_rpc_bytes=max_rpc_bytes,
        )
        self._verifiers = trio.CapacityLimiter(2)
        self._nursery: trio.Nursery | None = None

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far, the router's counts and the service's, by name."""
        return dict(self._router.counters + self._counters)

    def mesh(self, topic: str) -> tuple[PeerId, ...]:
        """Peers in the topic's mesh, sorted; direct peers stand outside it."""
        return tuple(PeerId(peer) for peer in self._router.mesh(topic))

    def peers(self, topic: str) -> tuple[PeerId, ...]:
        """Connected peers that are subscribed to the topic, sorted."""
        return tuple(PeerId(peer) for peer in self._router.topic_peers(topic))

    def peer_counters(self, peer: PeerId) -> dict[str, int]:
        """What a connected peer did wrong or in vain, by reason."""
        return self._router.peer_counters(peer)

    def scores(self) -> dict[PeerId, PeerScore]:
        """The score of each peer with an open stream, with its parts."""
        return {PeerId(peer): score for peer, score in self._router.scores().items()}

    def subscribe(self, topic: str, validator: Validator) -> None:
        """Receive the topic: `validator(origin, data)` gets every new message once.

        It is the delivery too, so it must be bounded; messages of this node are not given to it.
        An exception, but for an Ending, or 5 s without an answer counts as IGNORE.
        Errors: RouterError where the topic is outside the prefix.
        """
        self._apply(Subscribe(topic))
        self._validators[topic] = validator

    def unsubscribe(self, topic: str) -> None:
        """Leave the topic; verdicts still out are dropped."""
        self._validators.pop(topic, None)
        self._apply(Unsubscribe(topic))

    def publish(self, topic: str, data: bytes) -> None:
        """Sign and queue a message to all peers of the topic; never waits.

        Errors: RouterError where the topic is outside the prefix or the data over its limit.
        """
        self._apply(Publish(topic, data))

    def set_direct_peers(self, peers: Sequence[PeerId]) -> None:
        """Always forward to these, whatever the mesh; both sides must list each other."""
        self._apply(SetDirectPeers(tuple(peers)))

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or until the network closes."""
        events = self._network.subscribe()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._network.handle(PROTOCOLS, self._streams.serve_inbound)
            nursery.start_soon(self._beat)
            task_status.started()
            try:
                async for event in events:
                    if isinstance(event, PeerConnected):
                        self._streams.open(event.peer)
                    else:
                        self._streams.close(event.peer)
            finally:
                self._streams.forget_all()
            nursery.cancel_scope.cancel()

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self._router.parameters.heartbeat_ms / 1_000)
            with house.round("gossip_heartbeat"):
                self._apply(Heartbeat())

    # -- Effects -----------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        now_ms = int(trio.current_time() * 1_000)
        pending = deque(self._router.handle(event, now_ms))
        while pending:
            answer = self._perform(pending.popleft())
            if answer is not None:
                pending.extend(self._router.handle(answer, now_ms))

    def _perform(self, effect: Effect) -> Event | None:
        """Do one effect; return its answer when that is known at once."""
        match effect:
            case Send(peer, frame, priority, message_id):
                self._streams.put(peer, frame, priority, message_id)
            case Withdraw(peer, message_id):
                self._streams.withdraw(peer, message_id)
            case Verify(token, public_key, signed, signature):
                if len(signed) <= INLINE_VERIFY_BYTES:
                    return Verified(token, crypto.verify(public_key, signed, signature))
                self._start_soon(self._verify, effect)
            case Deliver():
                return self._deliver(effect)
            case Misbehaved():
                self._blame(effect)
        return None

    def _blame(self, effect: Misbehaved) -> None:
        peer, reason = PeerId(effect.peer), effect.reason
        log.debug("gossip.peer_misbehaved", peer=format_peer_id(peer), why=reason)
        if effect.drop_stream:
            self._streams.drop_inbound(peer)
        if reason in OFFENCES:
            self._on_offence(peer, reason)

    def _start_soon(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._nursery is None:
            raise RuntimeError("the gossip service does not run")
        self._nursery.start_soon(function, *arguments)

    async def _verify(self, effect: Verify) -> None:
        ok, cpu_s = await trio.to_thread.run_sync(_verify_measured, effect, limiter=self._verifiers)
        payer = PAYER.get()
        if payer is not None:
            payer.pay(cpu_s)
        self._apply(Verified(effect.token, ok))

    def _deliver(self, effect: Deliver) -> Validated | None:
        validator = self._validators.get(effect.topic)
        if validator is None:
            return Validated(effect.message_id, GossipVerdict.IGNORE)
        try:
            bringers = partial(self._router.bringers, effect.message_id)
            origin = Origin(PeerId(effect.author), PeerId(effect.forwarder), bringers)
            with unpaid():
                result = validator(origin, effect.data)
        except Exception as error:  # noqa: BLE001 - what peers send must never end the node
            return Validated(effect.message_id, self._validator_failed(effect.topic, error))
        if isinstance(result, GossipVerdict):
            return Validated(effect.message_id, result)
        self._start_soon(self._await_verdict, effect, result)
        return None

    async def _await_verdict(self, effect: Deliver, result: Awaitable[GossipVerdict]) -> None:
        verdict = GossipVerdict.IGNORE
        try:
            with trio.move_on_after(VALIDATION_TIMEOUT_S) as scope:
                verdict = await result
            if scope.cancelled_caught:
                self._counters["validator_timeout"] += 1
        except Exception as error:  # noqa: BLE001 - as in _deliver
            verdict = self._validator_failed(effect.topic, error)
        self._apply(Validated(effect.message_id, verdict))

    def _validator_failed(self, topic: str, error: Exception) -> GossipVerdict:
        """Errors: Ending, which is no matter of the message."""
        if ends_node(error):
            raise error
        self._counters["validator_error"] += 1
        log.exception("gossip.validator_failed", topic=topic)
        return GossipVerdict.IGNORE


def _verify_measured(effect: Verify) -> tuple[bool, float]:
    """Whether a signature is good, and the seconds of CPU that telling took."""
    started_s = time.thread_time()
    ok = crypto.verify(effect.public_key, effect.signed, effect.signature)
    return ok, time.thread_time() - started_s
