"""Watches the room on the disk that has the data folder, and stops the node before there is none.

A full disk is what corrupts databases.
"""

from __future__ import annotations

import os
from pathlib import Path

from gridtokenx.runtime.stopping import DiskFull
from gridtokenx.views.status import Check

MEBIBYTE = 1024 * 1024


class DiskWatch:
    """Of one folder, which need not be there yet. `check` is for any thread."""

    def __init__(self, folder: Path, least_mib: int) -> None:
        self._folder = folder
        self._least_mib = least_mib
        self._free_mib = free_mib(folder)

    def look(self) -> None:
        """Measure anew. Errors: DiskFull below the limit."""
        self._free_mib = free_mib(self._folder)
        if self._free_mib < self._least_mib:
            raise DiskFull(
                f"GTX-DSK-001: {self._free_mib} MiB free on {self._folder} "
                f"(limit {self._least_mib}): stopping cleanly. Free some space or lower "
                "node.min_free_disk_mib"
            )

    def check(self) -> Check:
        """For `/ready`."""
        return Check(
            "disk",
            self._free_mib >= self._least_mib,
            f"{self._free_mib} MiB",
            f"{self._least_mib} MiB",
            f"free disk space on {self._folder}",
        )


def free_mib(path: Path) -> int:
    """What a user may still write where `path` is or will be. Errors: OSError."""
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize // MEBIBYTE
