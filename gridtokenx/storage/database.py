"""The only door to RocksDB: one database a node, one key range a chain, one synced batch a block.

Everything a decided block changes (block, certificate, state, indexes) is in one
write with fsync, so kill -9 at any instant leaves the database at a block boundary. The safety
record has its own synced write before anything signed leaves. Source: protocols/consensus.md 2.8.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from gridtokenx.primitives.state import Decode, I, Index, u64
from gridtokenx.runtime.private_files import keep_private, make_folder, open_lock
from gridtokenx.runtime.stopping import DatabaseError, DiskFailed, DiskFull, FolderInUse

SCHEMA = 1
GENERATION_ENTRIES = 40_000  # About 30 MB of decoded values.
GENERATION_BLOCKS = 100  # With few transactions, rather than hours of what nobody reads again.
MAX_TABLES = 256
MAX_ABSENT = 4_096  # Keys that the executor's reader knows not to exist.
_BLOCK, _CERTIFICATE, _HASH, _PLACE = b"b", b"c", b"h", b"t"
_STATE, _META, _CANDIDATE, _INDEX = b"s", b"m", b"x", b"i"
_FETCHED_BLOCK, _FETCHED_CERTIFICATE = b"f", b"g"
# What waits in memory to be written out, two of them at most, and what was read from files. The
# library's 64 and 32 MiB would be most of a small node, and fill only after hours of a small load:
# values at hand are kept decoded, and the system keeps files in memory anyway. A restart reads the
# waiting ones again from the log.
WRITE_BUFFER_BYTES = 8 << 20
BLOCK_CACHE_BYTES = 8 << 20
_HEAD, _SAFETY = _META + b"head", _META + b"safety"
_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
)

log = structlog.get_logger(__name__)


class _Source(Protocol):
    def get(self, key: bytes) -> bytes | None: ...
    def rows(self, from_key: bytes, options: ReadOptions) -> Iterator[tuple[bytes, bytes]]: ...


class _Live:
    """Reads of the newest data. What fails is told by its own name. Errors: those of `_told`."""

    def __init__(self, library: Any, path: Path) -> None:
        self._library = library
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._library.get(key)
        except Exception as error:
            raise _told(self._path, error) from error
        return value

    def rows(self, from_key: bytes, options: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
        """The library's own `items` ends at a damaged block as if there were no more rows."""
        try:
            at = self._library.iter(options)
            at.seek(from_key)
            while at.valid():
                yield at.key(), at.value()
                at.next()
            at.status()
        except Exception as error:
            raise _told(self._path, error) from error


class _Closed:
    """In the place of the library's snapshot once the database is closed."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the database is closed")

    def __getitem__(self, key: bytes) -> bytes:
        raise RuntimeError("the database is closed")


class _Snapshot:
    """Reads of a frozen view."""

    def __init__(self, snapshot: Any, path: Path) -> None:
        self._library = snapshot
        self._path = path
        self._newest = _Live(snapshot, path)

    def release(self) -> None:
        """Let go of the library's snapshot, which would keep the folder locked."""
        self._library = _Closed()
        self._newest = _Live(self._library, self._path)

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes = self._library[key]
        except Exception as error:  # The library raises no subclass for an absent key.
            if str(error) == "key not found":
                return None
            raise _told(self._path, error) from error
        return value

    def rows(self, from_key: bytes, options: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
        """Rows as they were; those deleted since may be missing, newer ones never appear.

        rocksdict 0.3.29 iterates over the newest data also from a snapshot; only its gets are
        frozen, so each key is looked up again.
        """
        for key, _ in self._newest.rows(from_key, options):
            value = self.get(key)
            if value is not None:
                yield key, value


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Everything one decided block puts on disk. `index` rows are (key, value) of `history`."""

    height: int
    hash: bytes
    block: bytes
    certificate: bytes
    transaction_ids: tuple[bytes, ...]
    state: list[tuple[bytes, bytes | None]]
    index: list[tuple[bytes, bytes]] = field(default_factory=list)


class Database:
    """An open data folder. One process at a time; readers may be in any thread."""

    def __init__(self, path: Path, max_tables: int = MAX_TABLES) -> None:
        """Open or create. `max_tables`: files of it that may be open at once.

        Errors: FolderInUse; DatabaseError GTX-DB-002 newer schema, GTX-DB-003 damaged; DiskFull,
        DiskFailed, PermissionError. The folder is let go then.
        """
        self.path = path
        keep_private()  # RocksDB makes files whenever it likes, with mode 0644.
        try:
            make_folder(path)
            self._lock = _lock(path)
        except OSError as error:
            raise _told(path, error) from error
        try:
            self._db = _open(path / "rocksdb", max_tables)
        except BaseException:
            os.close(self._lock)
            raise
        self._live = _Live(self._db, path)
        self._snapshots: weakref.WeakSet[_Snapshot] = weakref.WeakSet()
        self._synced = WriteOptions()
        self._synced.sync = True
        try:
            self._check_schema()
        except BaseException:
            self.close()
            raise

    def chain(self, name: str) -> ChainStore:
        """The key range of one chain, or of one later incarnation of it (`MET@2`)."""
        return ChainStore(self, name)

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        """One atomic synced write. Errors: DiskFull, DiskFailed, DatabaseError."""
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(key)
        for key, value in puts:
            batch.put(key, value)
        try:
            self._db.write(batch, write_opt=self._synced)
        except Exception as error:
            raise _told(self.path, error) from error

    @property
    def live(self) -> _Source:
        """Reads of the newest state."""
        return self._live

    def snapshot(self) -> _Source:
        """A frozen view, safe in another thread beside the writer."""
        snapshot = _Snapshot(self._db.snapshot(), self.path)
        self._snapshots.add(snapshot)
        return snapshot

    def close(self) -> None:
        """Flush and release the folder, whoever holds a view still. What cannot be flushed is in
        the log of writes: no error, which would hide the one that ends the node.
        """
        for snapshot in list(self._snapshots):
            snapshot.release()
        try:
            self._db.close()
        except Exception as error:  # noqa: BLE001 - the library has no class of its own for it
            log.warning("database.not_flushed", path=str(self.path), why=str(error))
        finally:
            os.close(self._lock)

    def _check_schema(self) -> None:
        stored = self._live.get(b"schema")
        if stored is None:
            self.write([(b"schema", u64(SCHEMA))])
        elif int.from_bytes(stored, "big") != SCHEMA:
            found = int.from_bytes(stored, "big")
            raise DatabaseError(
                f"GTX-DB-002: {self.path} was written with schema {found}, this program has "
                f"schema {SCHEMA}. Start the version that wrote it. Your data is intact."
            )


class ChainView:
    """Reads of one chain over a source: the live database or a snapshot."""

    def __init__(self, source: _Source, name: str) -> None:
        self._source = source
        self._prefix = name.encode() + b"/"

    def get(self, key: bytes) -> bytes | None:
        """Value under a key of this chain."""
        return self._source.get(self._prefix + key)

    def rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) under `prefix` in key order, from `start` (a full key) on."""
        full = self._prefix + prefix
        options = ReadOptions()
        options.set_iterate_upper_bound(_successor(full))
        cut = len(self._prefix)
        from_key = self._prefix + start if start else full
        for key, value in self._source.rows(from_key, options):
            yield key[cut:], value

    def head(self) -> tuple[int, bytes] | None:
        """(height, hash) of the newest decided block."""
        raw = self.get(_HEAD)
        return None if raw is None else (int.from_bytes(raw[:8], "big"), raw[8:])

    def block(self, height: int) -> bytes | None:
        """Encoded block."""
        return self.get(_BLOCK + u64(height))

    def certificate(self, height: int) -> bytes | None:
        """Encoded commit certificate of the block at `height`."""
        return self.get(_CERTIFICATE + u64(height))

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a decided block."""
        raw = self.get(_HASH + block_hash)
        return None if raw is None else int.from_bytes(raw, "big")

    def place_of(self, transaction_id: bytes) -> tuple[int, int] | None:
        """(height, position in the block) of an included transaction."""
        raw = self.get(_PLACE + transaction_id)
        if raw is None:
            return None
        return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")

    def index_rows(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows of the history index under `prefix`, keys without the index marker."""
        begin = _INDEX + start if start else b""
        for key, value in self.rows(_INDEX + prefix, begin):
            yield key[1:], value

    def index_get(self, key: bytes) -> bytes | None:
        """One row of the history index."""
        return self.get(_INDEX + key)

    # The core's Reader protocol, over the state range. No cache: see StateReader for the writer's.

    def load(self, key: bytes, decode: Decode) -> Any | None:
        """State value, decoded."""
        raw = self.get(_STATE + key)
        return None if raw is None else decode(raw)

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        """State values in key order."""
        for key, value in self.rows(_STATE + prefix):
            yield key[1:], decode(value)


class ChainStore(ChainView):
    """One chain's live reads and its writes."""

    def __init__(self, database: Database, name: str) -> None:
        super().__init__(database.live, name)
        self._database = database
        self._name = name

    def view(self) -> ChainView:
        """A frozen view for API threads; take a new one after each block."""
        return ChainView(self._database.snapshot(), self._name)

    def state_values(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (state key, encoded value), from which the state tree is built at start."""
        for key, value in self.rows(_STATE):
            yield key[1:], value

    def write_block(self, write: BlockWrite) -> None:
        """Put a decided block on disk: one atomic synced batch. Drops its height's candidates."""
        height = u64(write.height)
        puts = [
            (_BLOCK + height, write.block),
            (_CERTIFICATE + height, write.certificate),
            (_HASH + write.hash, height),
            (_HEAD, height + write.hash),
        ]
        puts += [
            (_PLACE + transaction_id, height + position.to_bytes(4, "big"))
            for position, transaction_id in enumerate(write.transaction_ids)
        ]
        puts += [(_STATE + key, value) for key, value in write.state if value is not None]
        puts += [(_INDEX + key, value) for key, value in write.index]
        deletes = [_STATE + key for key, value in write.state if value is None]
        deletes += [key for key, _ in self.rows(_CANDIDATE)]
        self._write(puts, deletes)

    def save_safety(self, record: bytes, candidates: Iterable[tuple[bytes, bytes]]) -> None:
        """Sync the safety record and the bodies of blocks it names, before a signature leaves."""
        puts = [(_SAFETY, record)]
        for block_hash, block in candidates:
            if self.get(_CANDIDATE + block_hash) is None:
                puts.append((_CANDIDATE + block_hash, block))
        self._write(puts, [])

    def load_safety(self) -> bytes | None:
        """The last safety record, or None for a folder that never signed."""
        return self.get(_SAFETY)

    def forget_safety(self) -> None:
        """Drop a safety record that its key has outlived: from now on it is a lost one."""
        self._write([], [_SAFETY])

    def candidate(self, block_hash: bytes) -> bytes | None:
        """Body of an undecided block that a safety record names."""
        return self.get(_CANDIDATE + block_hash)

    def save_fetched(self, blocks: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Sync (height, block, certificate) that wait to be executed; in falling order of height,
        without a gap to those that are here.
        """
        puts = []
        for height, block, certificate in blocks:
            puts += [
                (_FETCHED_BLOCK + u64(height), block),
                (_FETCHED_CERTIFICATE + u64(height), certificate),
            ]
        self._write(puts, [])

    def fetched(self, height: int) -> tuple[bytes, bytes] | None:
        """(block, certificate) of a height that waits to be executed."""
        block = self.get(_FETCHED_BLOCK + u64(height))
        certificate = self.get(_FETCHED_CERTIFICATE + u64(height))
        return None if block is None or certificate is None else (block, certificate)

    def lowest_fetched(self) -> int | None:
        """The height up to which blocks that wait reach down."""
        for key, _ in self.rows(_FETCHED_BLOCK):
            return int.from_bytes(key[1:], "big")
        return None

    def forget_fetched(self, from_height: int, to_height: int) -> None:
        """Drop what waited at these heights, both included."""
        heights = range(from_height, to_height + 1)
        kinds = (_FETCHED_BLOCK, _FETCHED_CERTIFICATE)
        self._write([], [kind + u64(height) for height in heights for kind in kinds])

    def _write(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        prefix = self._prefix
        self._database.write(
            ((prefix + key, value) for key, value in puts), (prefix + key for key in deletes)
        )


class StateReader:
    """The executor's reader: decoded values of hot keys stay in memory between blocks.

    Values are frozen, so sharing one object among overlays is safe. Only the executor's thread
    writes, and gives `absorb` what it wrote, or this would not know it. Two generations: a younger
    one that is full or old replaces the older, and what is read there moves up. So accounts and
    meters stay, while orders, which are written once and seldom read, make room; an LRU would cost
    every read.
    """

    def __init__(self, store: ChainStore, generation_entries: int = GENERATION_ENTRIES) -> None:
        self._store = store
        self._cache: dict[bytes, Any] = {}
        self._older: dict[bytes, Any] = {}  # Where a key is in both, the younger value counts.
        self._absent: dict[bytes, None] = {}
        self._generation_entries = generation_entries
        self._blocks = 0  # That the younger generation has lasted.
        self._indexes: dict[type[Any], Index] = {}

    def load(self, key: bytes, decode: Decode) -> Any | None:
        """State value, decoded at most once while it stays cached."""
        found = self._cache.get(key)
        if found is None and key not in self._absent:
            found = self._older.get(key)
            if found is None:
                found = self._store.load(key, decode)
            if found is None:
                self._remember_absent(key)
            else:
                self._remember(key, found)
        return found

    def scan(self, prefix: bytes, decode: Decode) -> Iterator[tuple[bytes, Any]]:
        """State values in key order."""
        for key, raw in self._store.rows(_STATE + prefix):
            state_key = key[1:]
            found = self._cache.get(state_key)
            if found is None:
                found = self._older.get(state_key)
                found = decode(raw) if found is None else found
                self._remember(state_key, found)
            yield state_key, found

    def kept(self, kind: type[I]) -> I:
        """An index of the state, built at the first call and then taken along from block to block.

        Only the executor's thread may use it.
        """
        found = self._indexes.get(kind)
        if found is None:
            found = self._indexes[kind] = kind()
            found.follow(kind.table.items(self))
        assert isinstance(found, kind)
        return found

    def absorb(self, changed: Collection[tuple[bytes, Any | None]]) -> None:
        """Take over a committed block's values."""
        self._absent.clear()
        self._blocks += 1
        if self._blocks >= GENERATION_BLOCKS:
            self._begin_generation()
        for key, value in changed:
            if value is None:
                self._cache.pop(key, None)
                self._older.pop(key, None)
            else:
                self._remember(key, value)
        for kind, index in self._indexes.items():
            prefix = kind.table.prefix
            cut = len(prefix)
            index.follow([(key[cut:], row) for key, row in changed if key.startswith(prefix)])

    def _remember_absent(self, key: bytes) -> None:
        """Every order asks for its territory's halt, which hardly ever is there."""
        if len(self._absent) >= MAX_ABSENT:
            self._absent.clear()
        self._absent[key] = None

    def _remember(self, key: bytes, value: Any) -> None:
        if len(self._cache) >= self._generation_entries:
            self._begin_generation()
        self._cache[key] = value

    def _begin_generation(self) -> None:
        self._older, self._cache, self._blocks = self._cache, {}, 0


def _successor(prefix: bytes) -> bytes:
    """The smallest key after every key with this prefix (prefixes here never end in 0xff...)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1])


def _lock(path: Path) -> int:
    """Own the folder, or say who does. RocksDB's own lock error names nobody."""
    handle = open_lock(path / "node.lock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(handle, 128, 0).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise FolderInUse(f"GTX-DB-001: {owner} already uses {path}") from None
    os.ftruncate(handle, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.suppress(OSError):  # Of a full disk others tell; the lock is ours without it.
        os.pwrite(handle, f"node {os.getpid()} (since {started})".encode(), 0)
    return handle


def _open(folder: Path, max_tables: int) -> Rdict:
    """Errors: those of `_told`."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_keep_log_file_num(4)
    options.set_max_open_files(max_tables)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    # By default damage in the middle of the log of writes drops all that was synced after it,
    # without a word: votes would be forgotten. A last write that was cut off is none that counted.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    options.set_block_based_table_factory(tables)
    try:
        if not (folder / "CURRENT").exists() and any(folder.glob("[0-9]*.*")):
            # The library would begin a new database over the files of this one.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "CURRENT")
        return Rdict(str(folder), options=options)
    except Exception as error:
        raise _told(folder.parent, error) from error


def _told(path: Path, error: Exception) -> Exception:
    """What the library or the system says of the data folder, as what an operator can act on.

    The library has one class for all of it, so its text decides. What is no matter of the disk or
    its files, such as a database that is closed, comes back as it is.
    """
    text = " ".join(str(error).split())
    said = [number for number in _DISK_ERRORS if os.strerror(number) in text]
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        said = [error.errno]
    if any(number in (errno.ENOSPC, errno.EDQUOT) for number in said):
        return DiskFull(
            f"GTX-DSK-001: no space is left for {path}. Make room there, then start again: all "
            "that was decided or signed is on disk"
        )
    if any(number in (errno.EACCES, errno.EPERM) for number in said):
        detail = f"{path} belongs to somebody else or is protected ({text}); chown it to this user"
        return PermissionError(errno.EACCES, detail)
    if any(number in (errno.EROFS, errno.EIO) for number in said):
        return DiskFailed(
            f"GTX-DSK-002: the disk of {path} cannot be read or written: {text}. Look at the "
            "system's log (dmesg), mount or replace it, then start again"
        )
    if any(number in (errno.EMFILE, errno.ENFILE) for number in said):
        return OSError(errno.EMFILE, text)
    if isinstance(error, FileNotFoundError) or text.startswith(("Corruption", "IO error")):
        return DatabaseError(
            f"GTX-DB-003: the database in {path} is damaged: {text}. Keep the folder, move it "
            "aside, and start with an empty one: peers have every block. A validator's key is then "
            "silent until it has heard the others, since its safety record lay there"
        )
    return error
