"""Everything between nodes: peers, streams, gossip, discovery. Knows no chain."""

from gridtokenx.network import fastecdsa_standin

# Before any module of this package can import libp2p.
fastecdsa_standin.register()
