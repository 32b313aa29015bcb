"""Files that are their owner's alone: folders 0700, files 0600, whatever the umask, from the start.

The umask can only take bits away, so what is made here asks for the owner's bits alone and then
gives them back if even those were taken. Every module that keeps something on disk goes through
this one (`tests/unit/runtime/test_private_files.py`). Standard library only. Errors: OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

FOLDER_MODE = 0o700
FILE_MODE = 0o600
OTHERS = 0o077  # What group and others may do.

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}  # Of a FAT stick, say.
_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


def keep_private() -> None:
    """Whatever this process makes from now on, libraries' files too, is its owner's alone.

    For what writes files by itself and asks nobody, as RocksDB does.
    """
    os.umask(OTHERS)


def make_folder(path: Path, *, new: bool = False) -> None:
    """Make a folder with mode 0700, and those above it that are missing.

    One that exists stays as it is; with `new` it is a FileExistsError.
    """
    if new and path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path.parent == path:
            break
        path = path.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(FOLDER_MODE)
        except FileExistsError:
            if not folder.is_dir():  # Somebody was faster, or it is something else.
                raise
            continue
        folder.chmod(FOLDER_MODE)


def open_private(path: Path, mode: str = "wb", *, follow: bool = True) -> IO[Any]:
    """Open to write (`w`, `a` or `x`, with `b` or as UTF-8 text): a new file has mode 0600.

    One that exists keeps its mode. Without `follow` a symbolic link is refused.
    """
    flags = _FLAGS[mode[0]] | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    handle = _open(path, flags)
    return open(handle, mode, encoding=None if "b" in mode else "utf-8")


def open_lock(path: Path) -> int:
    """A descriptor of the lock file, made if it is missing; never a symbolic link's target."""
    return _open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC)


def write_private(path: Path, data: bytes | str, *, replace: bool = True) -> None:
    """Write a file whole: after a crash at any instant it has the old content or the new.

    Without `replace` a file of that name is a FileExistsError and stays as it is.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    try:
        with open_private(temporary, "xb", follow=False) as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        if not replace:
            _claim(temporary, path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_bounded(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Up to `max_bytes + 1` of a regular file, and what it was when it was read.

    Errors: OSError, at once for a folder, a pipe or a device.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise OSError(f"{path} is no regular file")
    with open(handle, "rb") as stream:
        return stream.read(max_bytes + 1), found


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: those made, replaced and removed."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tighten(paths: Iterable[Path]) -> list[Path]:
    """Take from group and others what they may do to `paths`; returns those that were open to them.

    A symbolic link is not followed. What is missing, belongs to somebody else or lies on a file
    system without modes stays as it is.
    """
    opened = []
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.lstat()
            own = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
            if own and found.st_mode & OTHERS:
                path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
                if not path.lstat().st_mode & OTHERS:
                    opened.append(path)
    return opened


def runtime_folder() -> Path:
    """A folder of this user's for lock files: $XDG_RUNTIME_DIR if it is ours alone, else one in
    ~/.cache, else (no home that can be written) one of our own in the folder for temporary files.

    Errors: OSError if somebody else has made that one.
    """
    told = os.environ.get("XDG_RUNTIME_DIR", "")
    if told and _is_ours(Path(told)):
        return Path(told)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody knows our home.
        if (home := Path.home()).is_dir():
            return _own_folder(home / ".cache" / "gridtokenx")
    return _own_folder(Path(tempfile.gettempdir()) / f"gridtokenx-{os.getuid()}")


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file. Errors: BlockingIOError without `wait` when somebody else holds it."""
    make_folder(path.parent)
    handle = open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _claim(temporary: Path, path: Path) -> None:
    """Take the name for a file that is ready to replace it. Errors: FileExistsError."""
    try:
        os.link(temporary, path)  # Fails, unlike rename, if somebody was faster.
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        open_private(path, "xb", follow=False).close()


def _open(path: Path, flags: int) -> int:
    handle = os.open(path, flags, FILE_MODE)
    found = os.fstat(handle)
    if found.st_mode & FILE_MODE != FILE_MODE and stat.S_ISREG(found.st_mode):
        with contextlib.suppress(PermissionError):  # A file of somebody else that we may write to.
            os.fchmod(handle, stat.S_IMODE(found.st_mode) | FILE_MODE)
    return handle


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    mine = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
    return mine and not found.st_mode & OTHERS and os.access(path, os.W_OK)


def _own_folder(path: Path) -> Path:
    make_folder(path)
    if not _is_ours(path):
        tighten([path])
    if not _is_ours(path):
        raise PermissionError(f"{path} is not this user's alone: remove it, or set XDG_RUNTIME_DIR")
    return path
