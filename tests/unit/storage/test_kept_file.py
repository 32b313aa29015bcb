"""A document that outlives the process, on a real disk."""

from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from gridtokenx.runtime.housekeeping import house
from gridtokenx.storage import kept_file
from gridtokenx.storage.kept_file import MAX_BYTES, KeptFile
from tests.support.patience import PATIENCE_S


def files_of(folder: Path) -> dict[str, int]:
    return {one.name: one.stat().st_mode & 0o777 for one in folder.iterdir()}


class Owner:
    def __init__(self, path: Path) -> None:
        self.value: Any = 0
        self.on_change = lambda: None
        self.file = KeptFile(path, self)

    def dump(self) -> dict[str, Any]:
        return {"value": self.value}

    def load(self, document: Any) -> None:
        if not isinstance(document, dict):
            raise ValueError("no object")
        self.value = document["value"]


async def test_changes_are_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    owner = Owner(path)  # Nothing there yet.
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.file.run)
            owner.value = 1
            owner.on_change()
            while not path.exists():  # noqa: ASYNC110 - the file is all there is to see
                await trio.sleep(0.01)
            owner.value = 2
            owner.on_change()
            nursery.cancel_scope.cancel()  # The last change is written on the way out.
    reader = Owner(path)
    assert reader.value == 2
    assert files_of(tmp_path) == {"kept.json": 0o600}


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_BYTES + 1)])
def test_a_damaged_file_is_put_aside(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(raw)
    with capture_logs() as lines:
        owner = Owner(path)
    assert [line["event"] for line in lines] == ["kept_file.unreadable"]
    assert owner.value == 0
    assert (tmp_path / "kept.damaged").read_bytes() == raw
    assert not path.exists()


async def test_a_disk_that_refuses_is_noted_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_file, "RETRY_PAUSE_S", 0.01)
    owner = Owner(tmp_path / "missing" / "refused.json")
    before = house.failures["refused.json"]
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.file.run)
            owner.on_change()
            while house.failures["refused.json"] < before + 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
            (tmp_path / "missing").mkdir()  # The disk is back: what was to be written still is.
            while not (tmp_path / "missing" / "refused.json").exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
