r"""What may reach a terminal: text of any origin, escaped; in whatever encoding the stream has.

A node's answer, a peer's name, a memo on a chain can hold sequences that move the cursor, rename
the window or turn text around. Everything that is shown to people goes through `console`,
`printable` or `lines`: what would not be seen as it is comes out as Python writes it (`\x1b`,
`\u202e`).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

# Letters by their category that are drawn as nothing, or as a gap. (All others that are not seen,
# such as controls, marks of direction and zero-width joiners, are not `str.isprintable`.)
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")
_LAYOUT = frozenset("\n\t")


def printable(value: object) -> str:
    """One line of text in which nothing drives the terminal; None is no text."""
    return _escaped("" if value is None else str(value), frozenset())


def lines(text: str) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    return _escaped(text, _LAYOUT)


def _escaped(text: str, kept: frozenset[str]) -> str:
    if text.isprintable() and _BLANK.isdisjoint(text):
        return text
    return "".join(
        letter
        if letter in kept or (letter.isprintable() and letter not in _BLANK)
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def console(stream: TextIO | None = None, *, color: bool = True, **options: Any) -> Console:
    """A console on the stream (None: stdout as it is then) that shows text and nothing else.

    Styles are the program's; square brackets in text mean nothing. `options` are rich's.
    """
    no_color = True if not color or os.environ.get("NO_COLOR") else None
    return _safe_console()(file=stream, no_color=no_color, markup=False, emoji=False, **options)


@functools.cache
def _safe_console() -> type[Console]:
    """Made when it is first needed: rich takes a while to import."""
    from rich.console import Console

    class SafeConsole(Console):
        """Whatever is drawn, text that no renderer escaped is escaped last."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                plain = segment.control is None
                yield segment._replace(text=lines(segment.text)) if plain else segment

    return SafeConsole


def write(document: str) -> None:
    """A document for programs on stdout, at once; the end, quietly, if its reader went away."""
    try:
        sys.stdout.write(document)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())  # What is buffered is written when Python ends.
        raise SystemExit(1) from None


def prepare_streams() -> None:
    """No letter ends the process: one that a stream's encoding lacks is escaped, and a standard
    stream that was closed at the start leads nowhere. (Called once, first of all.)"""
    open_standard_streams()
    for name in ("stdout", "stderr"):
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def open_standard_streams() -> None:
    """Give standard streams that were closed (`start 2>&-`) to /dev/null.

    Before anything else is opened: the next file would be number 2, and get what is meant for
    people. Python has None for them, which nobody who prints expects.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one: those below are open.
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
