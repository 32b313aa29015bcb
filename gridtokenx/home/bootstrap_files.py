"""Where the files that come with the software are: genesis of known networks, authority presets.

A checkout (also an editable install) has them in `bootstrap/` beside the package; an installed
wheel in `share/gridtokenx/bootstrap/` of its environment; `GRIDTOKENX_BOOTSTRAP` names another
folder and wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def folders(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The folders looked in, in order."""
    environ = os.environ if environ is None else environ
    named = environ.get("GRIDTOKENX_BOOTSTRAP")
    found = [Path(named)] if named else []
    found.append(_PACKAGE.parent / "bootstrap")
    found.append(Path(sys.prefix) / "share" / "gridtokenx" / "bootstrap")
    return found


def find(relative: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """The first file `relative` (such as `authorities/mea.toml`) of those folders, or None."""
    for folder in folders(environ):
        if (folder / relative).is_file():
            return folder / relative
    return None


def network_folder(network_name: str) -> str:
    """`gridtokenx-local` lives in `bootstrap/local`."""
    return network_name.removeprefix("gridtokenx-")
