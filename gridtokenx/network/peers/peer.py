"""A peer's name."""

from typing import NewType

PeerId = NewType("PeerId", bytes)
"""The multihash of its public key, as libp2p has it."""
