"""The state commitment: a bucketed tree of fixed depth, with inclusion and absence proofs.

A key's bucket is the top 16 bits of SHA-256(key); a leaf hashes its bucket's sorted entries
`SHA-256(key) || SHA-256(value)`; the nodes live in one flat array. A block touches k keys and costs
about k x 3 hashes, whatever the size of the state. Source:
protocols/state-transition.md 6, decision 0024.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from gridtokenx.primitives.codec import Bytes32, Limit, wire
from gridtokenx.primitives.crypto import sha256

DEPTH = 16
BUCKETS = 1 << DEPTH
ENTRY_BYTES = 64
MAX_BUCKET_BYTES = 4096 * ENTRY_BYTES


@wire(42)
@dataclass(frozen=True, slots=True)
class StateProof:
    """What links one key to a state root: its whole bucket and the 16 siblings above it.

    The same shape proves presence and absence; ~0.9 kB with 300,000 keys.
    """

    entries: Annotated[bytes, Limit(0, MAX_BUCKET_BYTES)]
    siblings: Annotated[tuple[Bytes32, ...], Limit(DEPTH, DEPTH)]


@dataclass(frozen=True, slots=True)
class TreeUpdate:
    """The tree after a candidate block: what changes, and the new root. Commits on decide."""

    root: bytes
    buckets: dict[int, bytes]
    nodes: dict[int, bytes]


def bucket_of(key_hash: bytes) -> int:
    """Bucket number of a hashed key."""
    return int.from_bytes(key_hash[:2], "big")


def leaf_hash(entries: bytes) -> bytes:
    """Hash of a bucket's concatenated sorted entries."""
    return sha256(b"\x00" + entries)


def _empty_hashes() -> tuple[bytes, ...]:
    hashes = [leaf_hash(b"")]
    for _ in range(DEPTH):
        hashes.append(sha256(b"\x01" + hashes[-1] * 2))
    return tuple(reversed(hashes))


EMPTY = _empty_hashes()
"""The hash of a tree without keys at each depth, from the root to the leaves."""


class StateTree:
    """The committed tree: up to 10 MiB of nodes, 64 bytes a key for the buckets. One writer.

    Where no key is, nodes are the objects of `EMPTY`: orders come and go all over the tree, and it
    shall be as large as what is left of them.
    """

    def __init__(self, values: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Build from all (state key, encoded value) there are, some 5 s for a million keys."""
        self._buckets: list[bytes] = [b""] * BUCKETS
        self._nodes = [b""]  # Index 0 is unused.
        for depth, empty in enumerate(EMPTY):
            self._nodes += [empty] * (1 << depth)
        self.apply(self.update(values))

    @property
    def root(self) -> bytes:
        """32-byte commitment to every key and value."""
        return self._nodes[1]

    def update(self, changes: Iterable[tuple[bytes, bytes | None]]) -> TreeUpdate:
        """The tree after `changes` (state key, encoded value or None); nothing is modified."""
        by_bucket: dict[int, dict[bytes, bytes | None]] = {}
        for key, value in changes:
            key_hash = sha256(key)
            by_bucket.setdefault(bucket_of(key_hash), {})[key_hash] = (
                None if value is None else sha256(value)
            )
        return self._rehash(
            {
                number: _replace_entries(self._buckets[number], changed)
                for number, changed in by_bucket.items()
            }
        )

    def apply(self, update: TreeUpdate) -> None:
        """Make a decided block's update the committed tree."""
        for number, entries in update.buckets.items():
            self._buckets[number] = entries
        for index, node in update.nodes.items():
            self._nodes[index] = node

    def prove(self, key: bytes) -> StateProof:
        """Proof of the key's value, or of its absence, under the committed root."""
        number = bucket_of(sha256(key))
        index = BUCKETS + number
        siblings = []
        while index > 1:
            siblings.append(self._nodes[index ^ 1])
            index >>= 1
        return StateProof(self._buckets[number], tuple(siblings))

    def _rehash(self, buckets: dict[int, bytes]) -> TreeUpdate:
        empty = EMPTY[DEPTH]
        nodes = {
            BUCKETS + number: leaf_hash(entries) if entries else empty
            for number, entries in buckets.items()
        }
        committed, changed = self._nodes, nodes.get
        level = list(nodes)
        for depth in reversed(range(DEPTH)):
            level = list(dict.fromkeys([index >> 1 for index in level]))
            for parent in level:
                index = parent * 2
                left = changed(index) or committed[index]
                right = changed(index + 1) or committed[index + 1]
                if left is empty and right is empty:
                    nodes[parent] = EMPTY[depth]
                else:
                    nodes[parent] = sha256(b"\x01" + left + right)
            empty = EMPTY[depth]
        return TreeUpdate(nodes.get(1) or self.root, buckets, nodes)


def verify_state_proof(root: bytes, key: bytes, value: bytes | None, proof: StateProof) -> bool:
    """Whether under `root` the key holds `value` (encoded), or is absent if `value` is None."""
    entries = proof.entries
    if len(entries) % ENTRY_BYTES or len(proof.siblings) != DEPTH:
        return False
    key_hash = sha256(key)
    number = bucket_of(key_hash)
    rows = [entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)]
    keys = [row[:32] for row in rows]
    if any(bucket_of(row) != number for row in keys):
        return False
    if any(left >= right for left, right in itertools.pairwise(keys)):
        return False
    present = dict(zip(keys, (row[32:] for row in rows), strict=True)).get(key_hash)
    if present != (None if value is None else sha256(value)):
        return False
    node, index = leaf_hash(entries), BUCKETS + number
    for sibling in proof.siblings:
        node = sha256(b"\x01" + (sibling + node if index & 1 else node + sibling))
        index >>= 1
    return node == root


def _replace_entries(entries: bytes, changed: dict[bytes, bytes | None]) -> bytes:
    if not entries and len(changed) == 1:  # Most buckets of a young chain hold one key.
        ((key_hash, value_hash),) = changed.items()
        return b"" if value_hash is None else key_hash + value_hash
    rows = {
        entries[at : at + 32]: entries[at + 32 : at + ENTRY_BYTES]
        for at in range(0, len(entries), ENTRY_BYTES)
    }
    for key_hash, value_hash in changed.items():
        if value_hash is None:
            rows.pop(key_hash, None)
        else:
            rows[key_hash] = value_hash
    return b"".join(key_hash + rows[key_hash] for key_hash in sorted(rows))
