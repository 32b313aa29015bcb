"""Files of a home are their owner's alone, whatever the umask, and every module makes them so."""

import ast
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridtokenx.runtime import private_files
from gridtokenx.runtime.private_files import (
    held,
    make_folder,
    open_lock,
    open_private,
    read_bounded,
    runtime_folder,
    tighten,
    write_private,
)
from gridtokenx.storage.database import Database

PACKAGE = Path(private_files.__file__).parents[1]
# Nothing else may touch a disk.
SHELL = (
    *("api", "cli", "client", "cluster", "demo", "home", "network", "node", "runtime", "storage"),
    "views",
)
# Files that are not of a home: what a person asked for by name, and the checkout's own pages.
FOR_OTHERS = {
    "api/__main__.py": {".mkdir", ".write_text"},
    "cli/carbon.py": {".write_text"},
    "cluster/devnet.py": {".mkdir", ".write_text"},
    "runtime/private_files.py": {".mkdir", ".open", "open"},
    "runtime/screen.py": {"open"},  # /dev/null
}


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o377, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def modes_below(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): mode_of(path) for path in sorted(top.rglob("*"))}


def test_folders_and_their_parents_are_0700(tmp_path: Path, umask: int) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert modes_below(tmp_path) == {"a": 0o700, "a/b": 0o700, "a/b/c": 0o700}


def test_a_folder_that_exists_stays_and_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    assert mode_of(tmp_path) == 0o755
    with pytest.raises(FileExistsError):
        make_folder(tmp_path, new=True)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "below")


def test_files_are_0600_however_they_are_made(tmp_path: Path, umask: int) -> None:
    write_private(tmp_path / "whole", b"1")
    write_private(tmp_path / "new", "text", replace=False)
    with open_private(tmp_path / "log", "a") as log:
        log.write("ก")
    os.close(open_lock(tmp_path / "lock"))
    names = ("lock", "log", "new", "whole")
    assert modes_below(tmp_path) == dict.fromkeys(names, 0o600)
    assert (tmp_path / "log").read_bytes() == "ก".encode()


def test_a_whole_file_replaces_or_refuses(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "old")
    write_private(path, "new")
    with pytest.raises(FileExistsError):
        write_private(path, "third", replace=False)
    assert path.read_text() == "new"
    assert list(modes_below(tmp_path)) == ["file"]


def test_a_file_system_without_links_refuses_what_exists_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "file"
    write_private(path, "first", replace=False)
    with pytest.raises(FileExistsError):
        write_private(path, "second", replace=False)
    assert path.read_text() == "first"
    assert modes_below(tmp_path) == {"file": 0o600}


def test_of_many_that_make_one_file_one_succeeds(tmp_path: Path) -> None:
    made, start = [], threading.Barrier(8)

    def attempt(number: int) -> None:
        start.wait()
        try:
            write_private(tmp_path / "file", str(number), replace=False)
        except FileExistsError:
            return
        made.append(str(number))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [(tmp_path / "file").read_text()]
    assert list(modes_below(tmp_path)) == ["file"]


def test_a_lock_is_never_the_target_of_somebodys_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        open_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with held(path), pytest.raises(BlockingIOError), held(path, wait=False):
        pass
    with held(path, wait=False):
        assert modes_below(tmp_path) == {"folder": 0o700, "folder/lock": 0o600}


def test_only_regular_files_are_read_and_no_further_than_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    data, found = read_bounded(tmp_path / "file", 9)
    assert (data, found.st_size) == (b"x" * 10, 100)
    os.mkfifo(tmp_path / "pipe")  # Would be waited for without an end.
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OSError, match="no regular file"):
            read_bounded(path, 9)


def test_tightening_takes_from_others_only_and_follows_no_link(tmp_path: Path) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    for folder in (outside, home):
        folder.mkdir()
        folder.chmod(0o755)
    (home / "script").touch()
    (home / "script").chmod(0o754)
    (home / "link").symlink_to(outside)
    paths = [home, home / "script", home / "link", home / "missing"]
    assert tighten(paths) == [home, home / "script"]
    assert tighten(paths) == []
    assert (mode_of(home), mode_of(home / "script"), mode_of(outside)) == (0o700, 0o700, 0o755)


def test_rocksdb_makes_private_files_too(tmp_path: Path, umask: int) -> None:
    database = Database(tmp_path / "home" / "data")
    database.write([(b"k", b"v")])
    database.close()
    found = modes_below(tmp_path)
    assert len(found) > 5
    folders = {"home", "home/data", "home/data/rocksdb"}
    assert found == {name: 0o700 if name in folders else 0o600 for name in found}


# -- Where lock files lie --------------------------------------------------------------------------


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "person").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "person"


def test_locks_lie_in_the_users_runtime_folder(
    person: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "run"
    make_folder(own)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    assert runtime_folder() == own
    own.chmod(0o750)  # Others may look into it: not ours alone.
    assert runtime_folder() == person / ".cache" / "gridtokenx"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert runtime_folder() == person / ".cache" / "gridtokenx"


def test_a_cache_open_to_others_is_closed(person: Path) -> None:
    (person / ".cache" / "gridtokenx").mkdir(parents=True)
    (person / ".cache" / "gridtokenx").chmod(0o777)
    assert mode_of(runtime_folder()) == 0o700


def test_without_a_home_locks_lie_in_a_folder_that_nobody_else_made(
    person: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    chosen = runtime_folder()
    assert (chosen.parent, mode_of(chosen)) == (tmp_path / "tmp", 0o700)
    chosen.rmdir()
    chosen.symlink_to(person)  # As somebody who wants our lock would.
    with pytest.raises(PermissionError, match="not this user's alone"):
        runtime_folder()


def test_setup_and_the_cluster_choose_the_same_folder(person: Path) -> None:
    code = (
        "import importlib.machinery as m, importlib.util as u\n"
        f"loader = m.SourceFileLoader('setup', {str(PACKAGE.parent / 'scripts' / 'setup')!r})\n"
        "module = u.module_from_spec(u.spec_from_loader('setup', loader))\n"
        "loader.exec_module(module)\n"
        "print(module.runtime_folder())"
    )
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == str(runtime_folder()) == str(person / ".cache" / "gridtokenx")


# -- Every module ----------------------------------------------------------------------------------


def makers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Calls that make a folder or a file by themselves."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        method = f".{name.rpartition('.')[2]}" if "." in name else name
        words = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
        modes = [one for one in words if isinstance(one, str) and one.strip("rwaxbt+") == ""]
        flags = ast.unparse(node)
        if method in {".mkdir", ".makedirs", ".write_text", ".write_bytes", ".touch", ".copyfile"}:
            yield method, node.lineno
        if method in {".open", "open"} and any(set(one) & set("wax+") for one in modes if one):
            yield method, node.lineno
        if name == "os.open" and "O_CREAT" in flags:
            yield method, node.lineno


def test_no_module_makes_files_of_a_home_by_itself() -> None:
    found = {}
    for path in sorted(path for folder in SHELL for path in (PACKAGE / folder).rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = [
            (method, line)
            for method, line in makers(tree)
            if method not in FOR_OTHERS.get(name, set())
        ]
        if alone:
            found[name] = alone
    assert found == {}


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("path.mkdir(parents=True)", True),
        ("open(path, 'w')", True),
        ("path.open('ab')", True),
        ("path.open(mode='x')", True),
        ("os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)", True),
        ("path.write_text('x')", True),
        ("path.open('rb')", False),
        ("open(path)", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_the_check_sees(source: str, caught: bool) -> None:
    assert bool(list(makers(ast.parse(source)))) is caught
