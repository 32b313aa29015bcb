"""What the API thread may see of a running node: frozen values, swapped whole after each block.

A chain's runner builds a new `ChainStatus` when a block is committed and replaces one attribute;
the API thread reads that attribute and works on what it got. Only `submit` crosses back, and only
by a future. Source: decision 0021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from gridtokenx.chain.genesis import ChainSpec, Genesis
from gridtokenx.chain.state_tree import StateProof
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.validators import ValidatorSet

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gridtokenx.home.config import Config
    from gridtokenx.storage.database import ChainView

SyncState = Literal["stopped", "stalled", "waiting_peers", "rebuilding", "blocks", "live"]
"""The worst first. `stopped`: what its validators decide is not valid here; `rebuilding`: the
history of a new incarnation is brought together."""

Prove = Callable[[bytes], tuple[bytes | None, StateProof]]
"""(encoded value or None, proof) of a state key in the newest state. Must be thread-safe: the
caller checks the answer against a header and asks again when a block came in between."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest decided block. Times in Unix ms; `market_ms` is the `now_ms` its rules saw."""

    height: int
    hash: bytes
    time_ms: int
    market_ms: int
    state_root: bytes
    proposer_index: int


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """One followed chain as of one decided block.

    `view` is a database snapshot taken after that block. `finality_ms` are recent times from a
    block's header time to its decision here; `timeouts` counts consensus views that ended without
    a decision since this node started; `consensus_view` is the view now, of the next height.
    """

    spec: ChainSpec
    head: Head
    view: ChainView
    validators: ValidatorSet
    prove: Prove
    consensus_view: int = 0
    timeouts: int = 0
    equivocations: int = 0  # convictions this node has seen since it started
    checkpoints_sent: int = 0  # of this region, taken into a national mempool, since it started
    mempool_transactions: int = 0
    sync_state: SyncState = "waiting_peers"
    sync_target: int = 0
    finality_ms: tuple[int, ...] = ()
    stopped_because: str = ""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One connected peer. `heights` by chain name; `organisation` whose validator vouches for it.

    `latency_ms`: a status, there and back. `score`: 0 down to -100, where it would be banned.
    `gossip`: its gossip score as `total` and the parts it is made of. `links`: peer ids of those it
    says it is connected to.
    """

    peer_id: str
    addresses: tuple[str, ...] = ()
    direction: str = ""
    agent: str = ""
    heights: Mapping[str, int] = field(default_factory=dict)
    organisation: str | None = None
    node_id: str = ""
    latency_ms: int | None = None
    score: int = 0
    offences: Mapping[str, int] = field(default_factory=dict)
    gossip: Mapping[str, float] = field(default_factory=dict)
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BanStatus:
    """A ban in force. `target`: a peer id, or an address with all behind it. Times in Unix ms."""

    target: str
    reason: str
    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """This node on the network. Addresses are multiaddrs; counts are since the start.

    `announced` is what others are told, `nat_ip` where they see us come from if that is no address
    of this machine; `known_peers` is the size of the DHT's routing table; `strangers_cpu_s` is what
    peers that nobody vouches for have cost, `strangers_price` how dear that is now, 1 as a rule.
    """

    listen: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()
    nat_ip: str | None = None
    inbound: int = 0
    outbound: int = 0
    known_peers: int = 0
    strangers_cpu_s: float = 0.0
    strangers_price: float = 1.0
    dial_outcomes: Mapping[str, int] = field(default_factory=dict)
    inbound_refused: Mapping[str, int] = field(default_factory=dict)
    gossip_events: Mapping[str, int] = field(default_factory=dict)
    bans: tuple[BanStatus, ...] = ()
    bans_made: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness: what is, what must be, and what to do."""

    name: str
    ok: bool
    value: str
    want: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Loop delays in ms by loop name, and checks that only the node can make (disk, clock).

    `worst_lag_ms`: of the trio loop within the last minute.
    """

    loop_lag_ms: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    worst_lag_ms: int = 0


class NodeHandle(Protocol):
    """What the API is given. Everything here may be called from another thread than trio's."""

    @property
    def genesis(self) -> Genesis:
        """The network's genesis."""

    @property
    def config(self) -> Config:
        """Settings in force."""

    @property
    def node_id(self) -> str:
        """The name people gave this node."""

    @property
    def peer_id(self) -> str:
        """libp2p peer id, base58."""

    @property
    def role(self) -> str:
        """validator, trader, observer, grid_operator or authority."""

    @property
    def version(self) -> str:
        """Version of the program."""

    @property
    def local_signer(self) -> SigningKey | None:
        """The key that signs bare orders posted from this machine, if there is one."""

    @property
    def metrics(self) -> CollectorRegistry:
        """The registry that /metrics shows."""

    def chains(self) -> Mapping[str, ChainStatus]:
        """Followed chains by name, in genesis order, each whole as of its newest block."""

    def peers(self) -> tuple[PeerStatus, ...]:
        """Connected peers."""

    def network(self) -> NetworkStatus:
        """Addresses, dials and bans."""

    def health(self) -> Health:
        """Loop delays and the node's own readiness checks."""

    def submit(self, chain: str, transactions: list[bytes]) -> Future[list[Rejected | None]]:
        """Hand canonical transaction bytes to a chain's executor, in this order, in one crossing.

        Resolves with one entry each: None when it waits in the mempool, else why it was refused.
        The future must resolve always; the caller bounds how many are under way.
        """

    def pending_status(
        self, chain: str, transaction_id: bytes
    ) -> Literal["pending", "queued"] | Rejected | None:
        """Of one that the view does not show: waiting, or in a block that it is about to show; held
        behind a nonce gap; refused here; or nothing.
        """

    def turned_away(self, chain: str, transaction_id: bytes) -> Rejected | None:
        """Why this node did not take one that it heard of from others, who may have taken it."""

    def pending_nonce(self, chain: str, address: bytes) -> int:
        """The nonce an account's next transaction needs, counting what waits in the mempool."""
