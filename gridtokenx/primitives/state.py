"""The core's whole storage: `Overlay`, changes over a read-only reader, and typed `Table`s.

A transaction works on its own overlay and is dropped when it is refused; a block's overlay is kept
under the block's hash and written once when the block is decided. Values are frozen dataclasses,
shared freely and encoded only when written. Source:
protocols/state-transition.md 6.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.readable import check_all

V = TypeVar("V")
Decode = Callable[[bytes], Any]
TABLE_PREFIX_BYTES = 2  # What every table's keys begin with.
MAX_INSERTED = 64  # Keys at a time into a sorted list; more are quicker sorted with it.


class Reader(Protocol):
    """Read access to a chain's state: a database snapshot, or another overlay."""

    def load(self, key: bytes, decode: Decode) -> Any | None:
        """The value under `key`, decoded (implementations may cache it), or None."""

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        """(key, value) of all keys that start with `prefix`, in key order."""


class MemoryReader:
    """A reader over plain encoded values: genesis, tests, and proofs' checkers."""

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        self.values = {} if values is None else values

    def load(self, key: bytes, decode: Decode) -> Any | None:
        raw = self.values.get(key)
        return None if raw is None else decode(raw)

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        for key in sorted([key for key in self.values if key.startswith(prefix)]):
            yield key, decode(self.values[key])


class Overlay:
    """Changes over a reader. `None` marks a deleted key. Not for use by two threads."""

    def __init__(self, base: Reader) -> None:
        self.base = base
        self._changes: dict[bytes, Any | None] = {}
        # Of those, what came by a merge, and so was looked at when it came.
        self._checked: dict[bytes, Any | None] = {}
        # Keys of the changes by table in order, for scans only: up to date when one is asked for.
        self._by_table: dict[bytes, list[bytes]] = {}
        self._not_indexed: list[bytes] = []

    def load(self, key: bytes, decode: Decode) -> Any | None:
        if key in self._changes:
            return self._changes[key]
        return self.base.load(key, decode)

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        """All keys under `prefix` in key order; sees this overlay's changes made so far."""
        own = self._own_keys(prefix)
        position = 0
        for key, value in self.base.scan(prefix, decode):
            while position < len(own) and own[position] < key:
                yield from self._present(own[position])
                position += 1
            if position < len(own) and own[position] == key:
                yield from self._present(key)
                position += 1
            else:
                yield key, value
        for key in own[position:]:
            yield from self._present(key)

    def _own_keys(self, prefix: bytes) -> list[bytes]:
        """Changed keys that start with `prefix`, in order."""
        if len(prefix) < TABLE_PREFIX_BYTES:
            return sorted(key for key in self._changes if key.startswith(prefix))
        keys = self._table_keys(prefix[:TABLE_PREFIX_BYTES])
        start = end = bisect_left(keys, prefix)
        while end < len(keys) and keys[end].startswith(prefix):
            end += 1
        return keys[start:end]

    def _table_keys(self, table: bytes) -> list[bytes]:
        """Changed keys of a table, in order. Keys are only ever added: few at a time are inserted,
        so that scan after scan in a large block costs what it finds.
        """
        if self._not_indexed:
            fresh: dict[bytes, list[bytes]] = {}
            for key in self._not_indexed:
                fresh.setdefault(key[:TABLE_PREFIX_BYTES], []).append(key)
            self._not_indexed = []
            for name, added in fresh.items():
                keys = self._by_table.setdefault(name, [])
                if len(added) > MAX_INSERTED:
                    keys += added
                    keys.sort()
                else:
                    for key in added:
                        insort(keys, key)
        return self._by_table.get(table, [])

    def touches(self, prefix: bytes) -> bool:
        """Whether this overlay changes any key under a table's prefix."""
        if len(prefix) < TABLE_PREFIX_BYTES:
            return bool(self._own_keys(prefix))
        keys = self._table_keys(prefix[:TABLE_PREFIX_BYTES])
        at = bisect_left(keys, prefix)
        return at < len(keys) and keys[at].startswith(prefix)

    def _present(self, key: bytes) -> Iterator[tuple[bytes, Any]]:
        value = self._changes[key]
        if value is not None:
            yield key, value

    def store(self, key: bytes, value: Any) -> None:
        """Set `key` to a wire value."""
        if key not in self._changes:
            self._not_indexed.append(key)
        self._changes[key] = value

    def remove(self, key: bytes) -> None:
        """Delete `key`; deleting an absent key is allowed."""
        if key not in self._changes:
            self._not_indexed.append(key)
        self._changes[key] = None

    def merge(self) -> None:
        """Apply these changes to the overlay underneath (a transaction that succeeded).

        Errors: OUT_OF_RANGE, TOO_LARGE for a value that could not be read back; then nothing is
        applied, and whoever made the overlay drops it.
        """
        if not isinstance(self.base, Overlay):
            raise TypeError("only an overlay on an overlay can be merged")
        check_all(self._changes.values())
        below = self.base._changes
        self.base._not_indexed += [key for key in self._changes if key not in below]
        below.update(self._changes)
        self.base._checked.update(self._changes)
        self._changes, self._checked = {}, {}
        self._by_table, self._not_indexed = {}, []

    def changed(self) -> list[tuple[bytes, Any | None]]:
        """(key, value object or None) for each change, in key order."""
        return sorted(self._changes.items(), key=lambda change: change[0])

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """(key, encoded value or None) for each change, in key order: what is stored.

        ValueError for a value that could not be read back. What a transaction does was checked when
        it was merged, so this one is of the block's own work, or the genesis: our fault.
        """
        checked = self._checked
        own = [row for key, row in self._changes.items() if checked.get(key) is not row]
        try:
            check_all(own)
        except Rejected as error:
            raise ValueError(f"the state cannot hold this: {error.detail}") from error
        return [(key, None if value is None else encode(value)) for key, value in self.changed()]


class DamagedValue(ValueError):  # noqa: N818 - names what is wrong with our own data
    """A stored value is not what was written."""


@dataclass(frozen=True)
class Table(Generic[V]):
    """A typed map under one key prefix. Keys are bytes of the caller's making, order-preserving."""

    prefix: bytes
    kind: type[V]

    def decode(self, raw: bytes) -> V:
        """Read a stored value. We wrote it, so damage is no fault of a sender: DamagedValue."""
        try:
            return decode(self.kind, raw)
        except Rejected as error:
            detail = f"the stored {self.kind.__name__} is damaged: {error.detail}"
            raise DamagedValue(detail) from error

    def get(self, state: Reader, key: bytes) -> V | None:
        """The value under `key`, or None."""
        found: V | None = state.load(self.prefix + key, self.decode)
        return found

    def put(self, state: Overlay, key: bytes, value: V) -> None:
        """Set the value under `key`."""
        state.store(self.prefix + key, value)

    def delete(self, state: Overlay, key: bytes) -> None:
        """Remove `key` if it is there."""
        state.remove(self.prefix + key)

    def items(self, state: Reader, prefix: bytes = b"") -> Iterator[tuple[bytes, V]]:
        """(key without the table's prefix, value) in key order."""
        start = len(self.prefix)
        for key, value in state.scan(self.prefix + prefix, self.decode):
            yield key[start:], value


class Index(Protocol):
    """A structure in memory that follows a table. It must be a pure function of the table's rows,
    so that nobody can tell one that was kept from one that was just built."""

    table: ClassVar[Any]

    def follow(self, rows: Iterable[tuple[bytes, Any | None]]) -> None:
        """Take over (key in the table, new value or None) of rows that changed."""


I = TypeVar("I", bound=Index)  # noqa: E741 - the name of its bound


@runtime_checkable
class IndexKeeper(Protocol):
    """A reader that keeps indexes up to date with its state, as the database's does."""

    def kept(self, kind: type[I]) -> I:
        """The index of this state; valid until the state changes."""


def index(state: Reader, kind: type[I]) -> I:
    """An index of the state: the kept one of the reader underneath if it can be had, else a new
    one, whose cost is the whole table. Valid until the table changes."""
    below = state
    while isinstance(below, Overlay) and not below.touches(kind.table.prefix):
        below = below.base
    if isinstance(below, IndexKeeper):
        return below.kept(kind)
    built = kind()
    built.follow(kind.table.items(state))
    return built


def u64(number: int) -> bytes:
    """Eight bytes big-endian: an integer as an order-preserving key part."""
    return number.to_bytes(8, "big")
