"""What a peer may send and an author may publish: token buckets of the gossip router.

A message costs its bytes and `message_cost_bytes` more, an entry or an id less, so one number
bounds both work and bytes a second. What is over the limit is dropped before it costs anything: an
RPC undecoded, a message unverified. Source: protocols/networking.md 4.2.
"""

from gridtokenx.network.gossipsub.events import Parameters, Peer
from gridtokenx.network.gossipsub.wire import Message, Rpc
from gridtokenx.network.peers.token_buckets import TokenBuckets


class Allowances:
    """A bucket for each connected peer and one for each author on each topic."""

    def __init__(self, parameters: Parameters) -> None:
        limits = self._parameters = parameters
        self._peers: TokenBuckets[Peer] = TokenBuckets(
            limits.peer_bytes_per_s, limits.peer_burst_bytes, 2 * limits.max_peers
        )
        self._authors: TokenBuckets[tuple[Peer, str]] = TokenBuckets(
            limits.author_bytes_per_s, limits.author_burst_bytes, limits.max_authors
        )

    def __len__(self) -> int:
        return len(self._authors)

    def admits_rpc(self, peer: Peer, payload_bytes: int, now_ms: int) -> bool:
        """Take what an RPC costs, counted as one message until it is decoded."""
        cost = payload_bytes + self._parameters.message_cost_bytes
        return self._peers.take(peer, cost, now_ms / 1_000)

    def charge_rpc(self, peer: Peer, rpc: Rpc, now_ms: int) -> None:
        """Take the rest of what it cost, by what was in it."""
        limits = self._parameters
        cost = max(0, len(rpc.messages) - 1) * limits.message_cost_bytes
        cost += rpc.entries * limits.entry_cost_bytes + rpc.ids * limits.id_cost_bytes
        if cost:
            self._peers.charge(peer, cost, now_ms / 1_000)

    def admits_author(self, message: Message, now_ms: int) -> bool:
        """Whether the message is worth verifying; its author pays when the signature is good."""
        return self._authors.holds(
            (message.author, message.topic), self._cost(message), now_ms / 1_000
        )

    def charge_author(self, message: Message, now_ms: int, *, useless: bool = False) -> None:
        """Take the price of a message, once it is verified: a forger empties nobody's bucket.

        `useless`: take the rest of what a message costs that validators ignored.
        """
        times = self._parameters.useless_cost - 1 if useless else 1
        key = (message.author, message.topic)
        self._authors.charge(key, times * self._cost(message), now_ms / 1_000)

    def _cost(self, message: Message) -> int:
        return len(message.raw) + self._parameters.message_cost_bytes
