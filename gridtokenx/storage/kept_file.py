"""A small JSON document that outlives the process: bans, known peers.

Written whole, to a temporary file that is synced and then renamed, so that kill -9 at any instant
leaves the old text or the new one. What cannot be read is put aside and said, never fatal: the node
can live without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.private_files import write_private

MAX_BYTES = 4 << 20
LEAST_PAUSE_S = 0.2
RETRY_PAUSE_S = 10.0
CLOSING_S = 2.0

log = structlog.get_logger(__name__)


class Kept(Protocol):
    """What a file keeps. `dump` gives the document when it is to be written; `load` is given what
    was written, and raises ValueError for what is none; `on_change` is called when it is another.
    """

    on_change: Callable[[], None]

    def dump(self) -> dict[str, Any]:
        """The document."""

    def load(self, document: Any) -> None:
        """Errors: ValueError."""


class KeptFile:
    """Read when it is made; written by `run` after every change of what is `kept`."""

    def __init__(self, path: Path, kept: Kept) -> None:
        self._path = path
        self._kept = kept
        self._changed = trio.Event()
        self._failed = False
        self._read()
        kept.on_change = self.changed

    def _read(self) -> None:
        try:
            with self._path.open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            self._kept.load(json.loads(raw))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("kept_file.unreadable", path=str(self._path), why=str(error))
            self._put_aside()

    def _put_aside(self) -> None:
        try:
            os.replace(self._path, self._path.with_suffix(".damaged"))
        except OSError as error:
            log.warning("kept_file.stays", path=str(self._path), why=str(error))

    def changed(self) -> None:
        """The document is another now: write it soon."""
        self._changed.set()

    async def run(self) -> None:
        """Write after changes, and once more when cancelled, until then."""
        try:
            while True:
                await self._changed.wait()
                await self._write()
                await trio.sleep(RETRY_PAUSE_S if self._failed else LEAST_PAUSE_S)
        finally:
            if self._changed.is_set():
                with trio.CancelScope(deadline=trio.current_time() + CLOSING_S, shield=True):
                    await self._write()

    async def _write(self) -> None:
        self._changed = trio.Event()
        self._failed = True
        with house.round(self._path.name):  # a full disk stops the node by its own check
            raw = json.dumps(self._kept.dump(), separators=(",", ":")).encode()
            await trio.to_thread.run_sync(write_private, self._path, raw)
            self._failed = False
        if self._failed:
            self._changed.set()  # It is to be written still.
