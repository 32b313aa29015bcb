"""A reader of state values in memory that keeps its indexes from block to block, as a node does."""

from typing import Any

from gridtokenx.primitives.state import MemoryReader, Overlay


class KeptState(MemoryReader):
    """`commit` takes over a block's changes; a copy of `values` gives one after a restart."""

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        super().__init__(values)
        self.indexes: dict[type, Any] = {}

    def kept(self, kind: type) -> Any:
        if kind not in self.indexes:
            self.indexes[kind] = kind()
            self.indexes[kind].follow(kind.table.items(self))
        return self.indexes[kind]

    def commit(self, overlay: Overlay) -> None:
        for key, value in overlay.changes():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        for kind, index in self.indexes.items():
            prefix = kind.table.prefix
            rows = [row for row in overlay.changed() if row[0].startswith(prefix)]
            index.follow([(key[len(prefix) :], value) for key, value in rows])
