"""`gridtokenx version`: what exactly is installed, for a report of trouble."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from gridtokenx import __version__
from gridtokenx.cli import output

if TYPE_CHECKING:
    from rich.console import Console

_LIBRARIES = ("libp2p", "trio", "aiohttp", "rocksdict", "cbor2", "PyNaCl")


def version() -> None:
    """Show the versions of this program and of the libraries it stands on."""
    document = {"gridtokenx": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            document[library.lower()] = metadata.version(library)
        except metadata.PackageNotFoundError:
            document[library.lower()] = "not installed"

    def human(console: Console) -> None:
        for name, text in document.items():
            console.print(f"{name} {text}", highlight=False)

    output.emit(document, human)
