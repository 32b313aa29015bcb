"""A chain's state in RocksDB behind the executor's cache, for benchmarks that run rules alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridtokenx.chain.state_tree import StateTree
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.state import Overlay
from gridtokenx.storage.database import BlockWrite, Database, StateReader


class KeptChain:
    """`seconds`: CPU by what it was spent on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.database = Database(folder)
        self.store = self.database.chain(name)
        self.reader = StateReader(self.store)
        self.tree = StateTree()
        self.height = 0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count what runs inside under a name."""
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started

    def commit(self, overlay: Overlay, name: str = "") -> int:
        """Seal and write a block's changes, counting the sealing; how many rows that are."""
        with self.timed(name):
            changes = overlay.changes()
            update = self.tree.update(changes)
        self.tree.apply(update)
        self.height += 1
        digest = sha256(b"%d" % self.height)
        self.store.write_block(BlockWrite(self.height, digest, b"", b"", (), changes))
        self.reader.absorb(overlay.changed())
        return len(changes)
