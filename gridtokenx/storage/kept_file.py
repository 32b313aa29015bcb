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
from typing import Any

import structlog
import trio

from gridtokenx.runtime.housekeeping import house
from gridtokenx.runtime.private_files import write_private

MAX_BYTES = 4 << 20
LEAST_PAUSE_S = 0.2
RETRY_PAUSE_S = 10.0
CLOSING_S = 2.0

log = structlog.get_logger(__name__)


class KeptFile:
    """`dump` gives the document when it is to be written; `load` is given what was written."""

    def __init__(
        self, path: Path, dump: Callable[[], dict[str, Any]], load: Callable[[Any], None]
    ) -> None:
        self._path = path
        self._dump = dump
        self._load = load
        self._changed = trio.Event()
        self._failed = False

    def load(self) -> None:
        """Read the document, if there is one. `load` raises ValueError for one that is none."""
        try:
            with self._path.open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            self._load(json.loads(raw))
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
            raw = json.dumps(self._dump(), separators=(",", ":")).encode()
            await trio.to_thread.run_sync(write_private, self._path, raw)
            self._failed = False
        if self._failed:
            self._changed.set()  # It is to be written still.
