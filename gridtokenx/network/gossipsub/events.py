"""What goes into the gossip router and what comes out: events, effects, parameters.

Source: protocols/networking.md 4; libp2p/specs pubsub/gossipsub/gossipsub-v1.0.md to v1.2.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, IntEnum

from gridtokenx.network.peers.peer import PeerId

PROTOCOL_V12 = "/meshsub/1.2.0"
PROTOCOL_V11 = "/meshsub/1.1.0"
PROTOCOLS = (PROTOCOL_V12, PROTOCOL_V11)

# Of any topic. The largest compact block has 0.9 MB, and eight made-up MiB would cost every node a
# second to refuse.
MAX_MESSAGE_BYTES = 1024 * 1024

Peer = bytes  # libp2p peer id


@dataclass(frozen=True, slots=True)
class Origin:
    """Who signed a message, who anybody may be, and the connected peer that brought it first.

    `bringers` are all that have brought it by now, while it is validated.
    """

    author: PeerId
    forwarder: PeerId
    bringers: Callable[[], Collection[Peer]] = tuple


class GossipVerdict(Enum):
    """What a validator says: forward it, keep silent, or blame the forwarder."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Priority(IntEnum):
    """Order in which a peer's outbound queue empties."""

    CONTROL = 0
    URGENT = 1  # votes and proposals
    BULK = 2  # blocks and orders


class RouterError(Exception):
    """The caller broke a rule of the router, for example by publishing too large a message."""


@dataclass(frozen=True, slots=True)
class ScoreParameters:
    """Peer scoring of gossipsub v1.1; decays are factors for each heartbeat.

    Scale: a new peer has 0; one invalid message costs 10, two 40, three 90. Whoever does what a
    peer should do on every topic reaches `topic_cap`.

    P3 has no weight: a peer owes nothing on a topic that may be silent (orders at night, blocks at
    their pace), and on the others a few validators speak. Whoever hears them before its neighbour
    does, gets nothing from that neighbour: behind us, not censoring. Silent peers are replaced by
    opportunistic grafting, which compares P2.
    """

    # P1: only breaks ties: 100 topics together stay below what opportunistic grafting asks for.
    mesh_time_weight: float = 0.00003
    mesh_time_quantum_ms: int = 1_000
    mesh_time_cap: float = 500
    # P2
    first_delivery_weight: float = 0.5
    first_delivery_cap: float = 50
    first_delivery_decay: float = 0.99
    # P3, P3b
    mesh_delivery_weight: float = 0.0
    mesh_delivery_threshold: float = 5
    mesh_delivery_cap: float = 50
    mesh_delivery_decay: float = 0.99
    mesh_delivery_activation_ms: int = 30_000
    mesh_delivery_window_ms: int = 2_000
    mesh_failure_weight: float = 0.0
    mesh_failure_decay: float = 0.99
    # P4: half of one is forgiven in six minutes.
    invalid_weight: float = -10.0
    invalid_decay: float = 0.998
    topic_cap: float = 40
    # P5
    application_weight: float = 1.0
    # P6: more than four peers behind one IPv4 address or IPv6 /64.
    colocation_weight: float = -1.0
    colocation_threshold: int = 4
    colocation_exempts_private: bool = True  # a cluster on one machine, containers on one host
    # P7
    behaviour_weight: float = -10.0
    behaviour_threshold: float = 6
    behaviour_decay: float = 0.99
    # Thresholds
    gossip_threshold: float = -20
    publish_threshold: float = -40
    graylist_threshold: float = -80
    opportunistic_graft_threshold: float = 2
    # Tables
    decay_to_zero: float = 0.01
    retain_ms: int = 3_600_000
    max_retained: int = 1_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """Protocol parameters and limits; times in milliseconds unless the name says otherwise."""

    mesh_size: int = 6
    mesh_low: int = 4
    mesh_low_small_network: int = 2  # used while fewer than mesh_size peers exist
    mesh_high: int = 12
    mesh_best: int = 4  # D_score: of an overfull mesh these are kept, the others by lot
    mesh_outbound: int = 2  # D_out: members that we dialled, so that diallers cannot take us over
    opportunistic_heartbeats: int = 60
    opportunistic_peers: int = 2
    gossip_size: int = 6
    history_heartbeats: int = 5
    gossip_heartbeats: int = 3
    heartbeat_ms: int = 1_000
    seen_ms: int = 120_000
    prune_backoff_s: int = 60
    unsubscribe_backoff_s: int = 10
    max_backoff_s: int = 3_600  # what a remote PRUNE may ask for
    fanout_ms: int = 60_000
    flood_publish: bool = True  # but large messages: fifty copies would fill the uplink
    idontwant_bytes: int = 16 * 1024
    idontwant_heartbeats: int = 3
    retransmissions: int = 3  # answers to one peer's IWANT of one id
    iwant_retry_ms: int = 500  # before another peer is asked for the same id
    max_peers: int = 256
    max_topics_per_peer: int = 400
    max_ihave_per_heartbeat: int = 800  # IHAVE entries heeded, per peer: one a topic, two beats
    ignored_rpcs_per_offence: int = 200  # of a graylisted peer that does not stop
    max_iwant_ids_per_heartbeat: int = 5_000  # ids asked of, and answered to, one peer
    max_idontwant_ids_per_heartbeat: int = 512
    max_seen: int = 100_000
    max_asked: int = 20_000
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_history_bytes: int = 32 * 1024 * 1024
    max_backoffs: int = 10_000
    max_in_flight: int = 1_024  # messages in verification or validation, per priority
    max_in_flight_bytes: int = 32 * 1024 * 1024  # of which strangers have at most half
    max_in_flight_per_peer: int = 256  # by who brought them first
    max_in_flight_bytes_per_peer: int = 8 * 1024 * 1024
    max_promises: int = 1_000  # messages asked for whose asked peers are watched
    promise_heartbeats: int = 3  # ours, not a time: our own pause blames nobody
    # Token buckets: a message costs its bytes and this much more.
    message_cost_bytes: int = 8 * 1024
    entry_cost_bytes: int = 512  # of a subscription or an entry of control
    id_cost_bytes: int = 128
    peer_bytes_per_s: int = 8 * 1024 * 1024  # what one connected peer may send
    peer_burst_bytes: int = 48 * 1024 * 1024
    author_bytes_per_s: int = 2 * 1024 * 1024  # what one author may publish on one topic
    author_burst_bytes: int = 16 * 1024 * 1024
    useless_cost: int = 4  # times the price, for a message that validators ignore
    max_authors: int = 4_096
    scores: ScoreParameters = ScoreParameters()


# -- Events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """Our stream to the peer is open. Again for a known peer: the stream was lost and reopened.

    `outbound`: we dialled it. `ip`: where it is connected from, as text; empty where unknown.
    """

    peer: Peer
    protocol: str
    outbound: bool = False
    ip: str = ""


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    peer: Peer


@dataclass(frozen=True, slots=True)
class RpcReceived:
    """One RPC from the peer, without its length prefix. Any bytes at all."""

    peer: Peer
    payload: bytes


@dataclass(frozen=True, slots=True)
class Garbage:
    """The peer's stream has bytes that are no frames of RPCs."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Subscribe:
    topic: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    topic: str


@dataclass(frozen=True, slots=True)
class Publish:
    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """Answer to a Verify effect; each must be answered, or its message stays in flight."""

    token: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Validated:
    """Answer to a Deliver effect; each must be answered, or its message stays in flight."""

    message_id: bytes
    verdict: GossipVerdict


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Due every `heartbeat_ms`."""


@dataclass(frozen=True, slots=True)
class SetDirectPeers:
    peers: tuple[Peer, ...]


Event = (
    PeerAdded
    | PeerRemoved
    | RpcReceived
    | Garbage
    | Subscribe
    | Unsubscribe
    | Publish
    | Verified
    | Validated
    | Heartbeat
    | SetDirectPeers
)


# -- Effects ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Write `frame` (length prefix included, shared by all peers of a message) to the peer.

    `message_id` is given where the frame is one message, that a Withdraw may take back.
    """

    peer: Peer
    frame: bytes
    priority: Priority
    message_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Do not write that message to the peer, if it has not left: the peer has it."""

    peer: Peer
    message_id: bytes


@dataclass(frozen=True, slots=True)
class Verify:
    """Check the Ed25519 signature and answer with Verified(token, ok)."""

    token: int
    public_key: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """Validate a new message, signature already checked, and answer with Validated."""

    message_id: bytes
    topic: str
    forwarder: Peer
    author: Peer
    data: bytes


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """The peer broke the protocol, or its score fell so low that it is no longer heard (reason
    "graylisted"); `drop_stream`: what it sends next cannot be trusted either."""

    peer: Peer
    reason: str
    drop_stream: bool


Effect = Send | Withdraw | Verify | Deliver | Misbehaved
