"""What is left in the home when something unforeseen ended the node, for whoever is to mend it.

A text file of mode 0600: version, time, heights, settings, the last lines of the log, traceback.
Nothing in it is secret: settings name files of passwords, never passwords, and tracebacks show no
values.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from gridtokenx import __version__
from gridtokenx.runtime.private_files import make_folder, write_private

KEPT = 10
MAX_TRACEBACK_CHARACTERS = 256 * 1024
PATTERN = "crash-*.txt"


def write_crash_report(
    folder: Path,
    error: BaseException,
    heights: Mapping[str, int],
    settings: Mapping[str, object],
    lines: Iterable[str],
) -> Path:
    """Write a report into `folder`, of which the newest KEPT stay. Errors: OSError."""
    make_folder(folder)
    old = sorted(folder.glob(PATTERN))  # Names begin with the time.
    for path in old[: max(0, len(old) - KEPT + 1)]:
        path.unlink(missing_ok=True)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = _unused(folder, f"crash-{now}-{os.getpid()}")
    text = _text(now, error, heights, settings, lines)
    write_private(path, text.encode(errors="backslashreplace"), replace=False)
    return path


def _unused(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.txt", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.txt"
    return path


def _text(
    now: str,
    error: BaseException,
    heights: Mapping[str, int],
    settings: Mapping[str, object],
    lines: Iterable[str],
) -> str:
    trace = "".join(traceback.format_exception(error))
    if len(trace) > MAX_TRACEBACK_CHARACTERS:
        half = MAX_TRACEBACK_CHARACTERS // 2
        trace = f"{trace[:half]}\n[...]\n{trace[-half:]}"
    python, system = platform.python_version(), platform.platform()
    sections = {
        "what": f"gridtokenx {__version__}, Python {python}, {system}\n{now}, pid {os.getpid()}",
        "heights": "\n".join(f"{name} {height}" for name, height in heights.items()),
        "settings": "\n".join(f"{key} = {value!r}" for key, value in settings.items()),
        "log": "\n".join(lines),
        "traceback": trace,
    }
    return "\n".join(f"-- {name}\n{text.rstrip()}\n" for name, text in sections.items())
