"""The trio shell around the deterministic core."""

from gridtokenx.node import fastecdsa_standin

# Before any module of this package can import libp2p.
fastecdsa_standin.register()
