"""Send transactions through one node, and through the next one when that node is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gridtokenx.chain.transaction import Transaction
from gridtokenx.client import Client, NodeUnreachable, RpcError
from gridtokenx.primitives.errors import ErrorCode

RECENT_BATCHES = 16  # Longer than it takes any node to put what it admitted into a block.


class Refused(Exception):  # noqa: N818 - what a node did
    """A node refused a transaction that was expected to be good."""


class Sender:
    """The way of some accounts' transactions, in nonce order, into the network.

    A node that dies may have admitted transactions that nobody else has heard of, so the next node
    gets the recent ones again; those that arrived are duplicates and do no harm.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        """`clients` in order of preference. They are closed with this sender."""
        self._clients = deque(clients)
        self._recent: deque[Sequence[Transaction]] = deque(maxlen=RECENT_BATCHES)

    @property
    def client(self) -> Client:
        """The node in use now."""
        return self._clients[0]

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def send(self, transactions: Sequence[Transaction]) -> None:
        """Errors: Refused; NodeUnreachable when no node answers."""
        if not transactions:
            return
        self._recent.append(transactions)
        batch = transactions
        for _ in range(len(self._clients)):
            try:
                refusal = self._deliver(batch)
            except NodeUnreachable:
                self._clients.rotate(-1)
                batch = self._everything()
                continue
            if refusal is not None and refusal.code == ErrorCode.NONCE_GAP:
                refusal = self._deliver(self._everything())
            if refusal is not None:
                raise Refused(f"{self.client.url}: {refusal}")
            return
        raise NodeUnreachable(self.client.url, "nor does any other node")

    def attempt(self, transaction: Transaction) -> RpcError | None:
        """Send one that may well be refused; why it was. Errors: NodeUnreachable as `send`."""
        for _ in range(len(self._clients)):
            try:
                return self.client.send_many([transaction])[0]
            except NodeUnreachable:
                self._clients.rotate(-1)
        raise NodeUnreachable(self.client.url, "nor does any other node")

    def _everything(self) -> list[Transaction]:
        return [transaction for batch in self._recent for transaction in batch]

    def _deliver(self, batch: Sequence[Transaction]) -> RpcError | None:
        """Send to the node in use; the first refusal that is not about a duplicate."""
        for outcome in self.client.send_many(batch):
            if outcome is not None and outcome.code != ErrorCode.DUPLICATE:
                return outcome
        return None
