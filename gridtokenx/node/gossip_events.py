"""What goes into the gossip router and what comes out: events, effects, parameters.

Source: protocols/networking.md "Gossip"; libp2p/specs pubsub/gossipsub v1.0, v1.1, v1.2.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

PROTOCOL_V12 = "/meshsub/1.2.0"
PROTOCOL_V11 = "/meshsub/1.1.0"
PROTOCOLS = (PROTOCOL_V12, PROTOCOL_V11)

Peer = bytes  # libp2p peer id


class Verdict(Enum):
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
class Parameters:
    """Protocol parameters and limits; times in milliseconds unless the name says otherwise."""

    mesh_size: int = 6
    mesh_low: int = 4
    mesh_low_small_network: int = 2  # used while fewer than mesh_size peers exist
    mesh_high: int = 12
    gossip_size: int = 6
    history_heartbeats: int = 5
    gossip_heartbeats: int = 3
    heartbeat_ms: int = 1_000
    seen_ms: int = 120_000
    prune_backoff_s: int = 60
    unsubscribe_backoff_s: int = 10
    max_backoff_s: int = 3_600  # what a remote PRUNE may ask for
    fanout_ms: int = 60_000
    flood_publish: bool = True
    idontwant_bytes: int = 16 * 1024
    idontwant_heartbeats: int = 3
    retransmissions: int = 3  # answers to one peer's IWANT of one id
    iwant_retry_ms: int = 500  # before another peer is asked for the same id
    max_peers: int = 256
    max_topics_per_peer: int = 100
    max_ihave_per_heartbeat: int = 10  # IHAVE entries heeded, per peer
    max_iwant_ids_per_heartbeat: int = 5_000  # ids asked of, and answered to, one peer
    max_idontwant_ids_per_heartbeat: int = 1_000
    max_seen: int = 100_000
    max_asked: int = 20_000
    max_history_bytes: int = 64 * 1024 * 1024
    max_backoffs: int = 10_000
    max_in_flight: int = 1_024  # messages in verification or validation, per priority
    max_in_flight_bytes: int = 32 * 1024 * 1024


# Events


@dataclass(frozen=True, slots=True)
class PeerAdded:
    """Our stream to the peer is open. Again for a known peer: the stream was lost and reopened."""

    peer: Peer
    protocol: str


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    peer: Peer


@dataclass(frozen=True, slots=True)
class RpcReceived:
    """One RPC from the peer, without its length prefix. Any bytes at all."""

    peer: Peer
    payload: bytes


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
    verdict: Verdict


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
    | Subscribe
    | Unsubscribe
    | Publish
    | Verified
    | Validated
    | Heartbeat
    | SetDirectPeers
)


# Effects


@dataclass(frozen=True, slots=True)
class Send:
    """Write `frame` (length prefix included, shared by all peers of a message) to the peer."""

    peer: Peer
    frame: bytes
    priority: Priority


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
    """The peer broke the protocol; `drop_stream`: what it sends next cannot be trusted either."""

    peer: Peer
    reason: str
    drop_stream: bool


Effect = Send | Verify | Deliver | Misbehaved
