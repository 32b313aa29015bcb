"""Everything between nodes: peers, streams, gossip, requests, discovery.

Knows no chain: payloads are bytes, and what they mean is told by callbacks.
"""

from gridtokenx.network import fastecdsa_standin

# Before any module of this package can import libp2p.
fastecdsa_standin.register()
