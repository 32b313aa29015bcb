"""Stores that were damaged, and disks that are full: typed errors, and nothing that was signed is
forgotten without a word. Real files, and a real small disk where this process may mount one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from gridtokenx.cli.node_end import exit_code_of
from gridtokenx.cli.output import ExitCode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.runtime.stopping import DatabaseError, DiskFailed, DiskFull, Ending
from gridtokenx.storage.database import BlockWrite, Database, _told

ROWS = 400
PIECE = 2_000  # Bytes of each row's value: a table of many blocks.


def commit(database: Database, height: int, rows: int = 1) -> None:
    state = [(b"la%06d" % number, os.urandom(PIECE)) for number in range(rows)]
    database.chain("MET").write_block(
        BlockWrite(height, sha256(b"%d" % height), b"body", b"certificate", (), state)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables, and a journal of writes that are in no table yet."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    database = Database(folder)
    commit(database, 1, ROWS)
    database.close()
    database = Database(folder)
    for height in range(2, 12):
        commit(database, height)
        database.chain("MET").save_safety(b"signed %d" % height, ())
    copied = folder.with_name("copy")
    shutil.copytree(folder, copied)  # As kill -9 would leave it.
    database.close()
    return copied


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def files(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in (folder / "rocksdb").glob(pattern) if path.stat().st_size]
    assert found, pattern
    return sorted(found, key=lambda path: path.stat().st_size)


def overwrite(path: Path, at: int, with_bytes: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(with_bytes)


def test_a_store_as_a_power_cut_leaves_it_has_everything(folder: Path) -> None:
    database = Database(folder)
    assert database.chain("MET").head() == (11, sha256(b"11"))
    assert database.chain("MET").load_safety() == b"signed 11"
    database.close()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty CURRENT": lambda home: (home / "rocksdb" / "CURRENT").write_bytes(b""),
    "no CURRENT": lambda home: (home / "rocksdb" / "CURRENT").unlink(),
    "CURRENT of nonsense": lambda home: (home / "rocksdb" / "CURRENT").write_bytes(b"MANIFEST\n"),
    "no MANIFEST": lambda home: files(home, "MANIFEST-*")[-1].unlink(),
    "damaged MANIFEST": lambda home: overwrite(files(home, "MANIFEST-*")[-1], 20, b"\xff" * 30),
    "no table": lambda home: files(home, "*.sst")[-1].unlink(),
    "table cut off": lambda home: os.truncate(files(home, "*.sst")[-1], 1_000),
    "journal": lambda home: overwrite(files(home, "*.log")[-1], 4_000, b"\xff" * 64),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_store_is_told_with_what_to_do_and_left_as_it_is(folder: Path, kind: str) -> None:
    DAMAGE[kind](folder)
    before = {path.name: path.read_bytes() for path in (folder / "rocksdb").glob("*.sst")}
    for _ in range(2):  # The first refusal has let the folder go.
        with pytest.raises(
            DatabaseError, match=r"^GTX-DB-003: .* is damaged: .*move it aside"
        ) as end:
            Database(folder)
        assert exit_code_of(end.value) is ExitCode.DISK
    after = {path.name: path.read_bytes() for path in (folder / "rocksdb").glob("*.sst")}
    assert after == before


def test_only_the_journal_is_left_of_a_store(folder: Path) -> None:
    """Without CURRENT the library would begin a new database, and votes would be forgotten."""
    for path in (folder / "rocksdb").iterdir():
        if path.suffix != ".log" or not path.name[0].isdigit():
            path.unlink()
    with pytest.raises(DatabaseError, match="GTX-DB-003"):
        Database(folder)


def test_a_last_write_that_was_cut_off_is_none(folder: Path) -> None:
    """It was never synced, so nothing that depends on it has left the node."""
    journal = files(folder, "*.log")[-1]
    os.truncate(journal, journal.stat().st_size - 3)
    database = Database(folder)
    assert database.chain("MET").load_safety() == b"signed 10"
    assert database.chain("MET").head() == (11, sha256(b"11"))
    database.close()


def test_damage_in_the_middle_of_a_table_is_no_end_of_its_rows(folder: Path) -> None:
    """The library's iterator ends there as if there were no more."""
    table = files(folder, "*.sst")[-1]
    overwrite(table, table.stat().st_size // 2, b"\xff" * 3_000)
    database = Database(folder)
    chain = database.chain("MET")
    for read in (
        lambda: list(chain.state_values()),
        lambda: list(chain.view().rows(b"s")),
        lambda: [chain.get(b"sla%06d" % number) for number in range(ROWS)],
        lambda: [chain.view().get(b"sla%06d" % number) for number in range(ROWS)],
    ):
        with pytest.raises(DatabaseError, match=r"GTX-DB-003.*checksum mismatch"):
            read()
    assert chain.load_safety() == b"signed 11"  # The rest can be read.
    database.close()  # No second error.


TEXTS = [
    ("IO error: No space left on device: While appending to file: x.log", DiskFull, "GTX-DSK-001"),
    ("IO error: Disk quota exceeded: While appending to file: x.log", DiskFull, "GTX-DSK-001"),
    ("IO error: Input/output error: While fdatasync: x.log", DiskFailed, "GTX-DSK-002"),
    ("IO error: Read-only file system: While open a file", DiskFailed, "GTX-DSK-002"),
    ("Corruption: block checksum mismatch", DatabaseError, "GTX-DB-003"),
    ("IO error: No such file or directory: x.sst", DatabaseError, "GTX-DB-003"),
]


@pytest.mark.parametrize(("text", "kind", "code"), TEXTS)
def test_the_librarys_texts_are_told_apart(text: str, kind: type[Ending], code: str) -> None:
    told = _told(Path("data"), Exception(text))
    assert type(told) is kind
    assert str(told).startswith(f"{code}: ")
    assert "data" in str(told)


def test_what_no_disk_has_to_do_with_keeps_its_own_name() -> None:
    closed = RuntimeError("DB instance is closed")
    assert _told(Path("data"), closed) is closed
    held = _told(Path("data"), Exception("IO error: Permission denied: LOCK"))
    assert isinstance(held, PermissionError)
    many = _told(Path("data"), Exception("IO error: Too many open files: x.sst"))
    assert isinstance(many, OSError)
    assert many.errno == errno.EMFILE


# -- A real small disk -----------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)]
    try:
        made = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if made.returncode:
        pytest.skip(f"this process may not mount a disk: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(database: Database) -> tuple[int, DiskFull]:
    """Commit until the disk is full: the last height that was told as written, and the end."""
    height = 0
    try:
        while True:
            commit(database, height + 1, 100)
            height += 1
            database.chain("MET").save_safety(b"signed %d" % height, ())
    except DiskFull as error:
        return height, error


def test_a_full_disk_ends_the_node_and_loses_nothing_that_was_told(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    database = Database(disk / "data")
    height, end = fill(database)
    assert height > 3
    assert str(end).startswith("GTX-DSK-001: no space is left for ")
    assert exit_code_of(end) is ExitCode.DISK
    with structlog.testing.capture_logs():
        database.close()  # No second error, whatever cannot be flushed.
    ballast.unlink()  # Somebody makes room.
    database = Database(disk / "data")
    head = database.chain("MET").head()
    assert head is not None
    assert head[0] in (height, height + 1)
    record = database.chain("MET").load_safety()
    assert record in (b"signed %d" % height, b"signed %d" % (height - 1))
    assert sum(1 for _ in database.chain("MET").state_values()) == 100
    database.close()


def test_a_disk_that_is_full_at_the_start_is_told(disk: Path) -> None:
    with (disk / "ballast").open("wb") as stream, contextlib.suppress(OSError):
        while True:  # Until there is no space.
            os.write(stream.fileno(), bytes(1 << 16))
    assert shutil.disk_usage(disk).free < 1 << 16
    for _ in range(2):
        with pytest.raises(DiskFull, match="GTX-DSK-001"):
            Database(disk / "data")


def test_a_disk_that_is_mounted_read_only_is_told(disk: Path) -> None:
    database = Database(disk / "data")
    commit(database, 1)
    database.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(DiskFailed, match=r"GTX-DSK-002.*Read-only file system"):
        Database(disk / "data")
