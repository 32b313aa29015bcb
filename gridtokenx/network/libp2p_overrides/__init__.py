"""py-libp2p 0.8.1 with its faults mended by subclasses, assembled into one host.

Each module names the faults it mends; tests/integration/test_overrides.py shows each one on the
bare library, so that an override goes the day upstream mends it.
"""

import logging
from collections.abc import Callable

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from multiaddr import Multiaddr

from gridtokenx.network.dialling import DialRules
from gridtokenx.network.libp2p_overrides.dht import NodeDHT
from gridtokenx.network.libp2p_overrides.host import NodeHost
from gridtokenx.network.libp2p_overrides.swarm import (
    DialError,
    NodePeerStore,
    NodeSwarm,
    NodeUpgrader,
    shielded,
)
from gridtokenx.network.libp2p_overrides.yamux import NodeYamux
from gridtokenx.network.peers.admission import Admission

__all__ = ["DialError", "NodeDHT", "NodeHost", "NodeSwarm", "assemble_host", "shielded"]


def assemble_host(
    seed: bytes,
    *,
    admission: Admission,
    rules: DialRules,
    advertise: Callable[[list[Multiaddr]], list[Multiaddr]],
    psk: bytes | None = None,
) -> NodeHost:
    """Build a host: Ed25519 identity of a 32-byte seed; TCP, Noise and yamux, nothing else."""
    # A peer's misbehaviour is nothing a person must act on, and the library logs it at ERROR.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    key_pair = create_new_key_pair(seed)
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = NodePeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    noise = Noise(key_pair, noise_privkey=create_noise_key_pair().private_key)
    upgrader = NodeUpgrader({NOISE_ID: noise}, {YAMUX_ID: NodeYamux})
    upgrader.psk = psk
    swarm = NodeSwarm(
        peer_id,
        peerstore,
        upgrader,
        admission=admission,
        rules=rules,
    )
    return NodeHost(swarm, advertise)
