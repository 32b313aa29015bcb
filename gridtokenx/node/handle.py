"""How other threads see and ask a running node: the `NodeHandle` that API and metrics are given.

What goes out are frozen values, which the trio loop swaps whole. Of what comes in only transactions
cross to the loop, and a future that always resolves brings the verdicts back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

import trio
from prometheus_client import CollectorRegistry

from gridtokenx import __version__
from gridtokenx.chain.genesis import Genesis
from gridtokenx.home.config import Config
from gridtokenx.node.chain_runner import ChainRunner
from gridtokenx.node.network_status import NetworkWatch
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.runtime.loop_lag import LoopLag
from gridtokenx.views.metrics import NodeCollector
from gridtokenx.views.stages import StageCollector, Stages
from gridtokenx.views.status import ChainStatus, Check, Health, NetworkStatus, PeerStatus


class Handle:
    """Made in the trio thread when everything is open; any thread from then on."""

    def __init__(
        self,
        config: Config,
        genesis: Genesis,
        *,
        chains: Mapping[str, ChainRunner],
        network: NetworkWatch,
        lag: LoopLag,
        stages: Stages,
        checks: Sequence[Callable[[], Check]],
        local_signer: SigningKey | None,
        nursery: trio.Nursery,
    ) -> None:
        """`checks` are the node's own of its readiness; `nursery` admits what crosses."""
        self.config = config
        self.genesis = genesis
        self.node_id = config.node.node_id
        self.role = config.node.node_type
        self.version = __version__
        self.peer_id = network.peer_id
        self.local_signer = local_signer
        self._chains = chains
        self._network = network
        self._lag = lag
        self._checks = tuple(checks)
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self.metrics = CollectorRegistry()
        self.metrics.register(NodeCollector(self))
        self.metrics.register(StageCollector(stages))

    # -- What it shows -----------------------------------------------------------------------------

    def chains(self) -> Mapping[str, ChainStatus]:
        """Followed chains by name, in genesis order, each as of its newest block."""
        return {name: runner.status for name, runner in self._chains.items()}

    def peers(self) -> tuple[PeerStatus, ...]:
        """Connected peers of this network."""
        return self._network.peers

    def network(self) -> NetworkStatus:
        """Addresses, dials and bans."""
        return self._network.status

    def health(self) -> Health:
        """Loop delay and the checks that only the node can make."""
        checks = tuple(check() for check in self._checks)
        return Health({"trio": self._lag.recent_ms}, checks, self._lag.worst_ms)

    # -- What it is asked --------------------------------------------------------------------------

    def submit(self, chain: str, transactions: list[bytes]) -> Future[list[Rejected | None]]:
        """Cross into trio and admit, in order. The future always resolves."""
        future: Future[list[Rejected | None]] = Future()
        runner = self._chains[chain]

        def start() -> None:
            try:
                self._nursery.start_soon(runner.submit_to, transactions, future)
            except RuntimeError as error:  # The nursery closed while this call was under way.
                future.set_exception(error)

        try:
            self._token.run_sync_soon(start)
        except trio.RunFinishedError:
            future.set_exception(RuntimeError("the node is stopping"))
        return future

    def pending_status(
        self, chain: str, transaction_id: bytes
    ) -> Literal["pending", "queued"] | Rejected | None:
        """What the chain knows of a transaction that no block shows."""
        return self._chains[chain].pending.status(transaction_id)

    def turned_away(self, chain: str, transaction_id: bytes) -> Rejected | None:
        """Why the chain did not take what it heard."""
        return self._chains[chain].pending.turned_away(transaction_id)

    def pending_nonce(self, chain: str, address: bytes) -> int:
        """The next nonce of an account, counting what waits."""
        return self._chains[chain].pending.next_nonce(address)
