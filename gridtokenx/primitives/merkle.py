"""RFC 6962 Merkle trees over lists, and the Merkle mountain range over header hashes.

0x00 leaf and 0x01 node prefixes; the odd node is promoted, never duplicated (CVE-2012-2459).
Source: protocols/state-transition.md 7.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridtokenx.primitives.crypto import sha256

EMPTY_ROOT = sha256(b"")
MAX_PATH = 64


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one list item."""
    return sha256(b"\x00" + leaf)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return sha256(b"\x01" + left + right)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 root; SHA-256 of nothing for an empty list."""
    if not leaves:
        return EMPTY_ROOT
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def merkle_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Siblings from leaf `index` up to the root."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    level = [leaf_hash(leaf) for leaf in leaves]
    path = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level)
        index >>= 1
    return tuple(path)


def verify_path(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether `leaf` is item `index` of the `count` items under `root`."""
    if not 0 <= index < count or len(path) > MAX_PATH:
        return False
    node, rest = leaf_hash(leaf), list(path)
    while count > 1:
        if index ^ 1 < count:
            if not rest:
                return False
            sibling = rest.pop(0)
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index >>= 1
        count = (count + 1) >> 1
    return not rest and node == root


def append_peak(peaks: tuple[bytes, ...], count: int, leaf: bytes) -> tuple[bytes, ...]:
    """Mountain-range peaks (largest first) after appending leaf number `count` (from 0)."""
    node, grown = leaf_hash(leaf), list(peaks)
    while count & 1:
        node = node_hash(grown.pop(), node)
        count >>= 1
    return (*grown, node)


def peaks_root(peaks: Sequence[bytes], count: int) -> bytes:
    """One hash for a mountain range: its leaf count and its peaks."""
    return sha256(b"gtx.mmr" + count.to_bytes(8, "big") + b"".join(peaks))


def _parents(level: list[bytes]) -> list[bytes]:
    above = [
        node_hash(level[position], level[position + 1]) for position in range(0, len(level) - 1, 2)
    ]
    if len(level) & 1:
        above.append(level[-1])
    return above
