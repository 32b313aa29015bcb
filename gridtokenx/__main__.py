"""The entry point of `gridtokenx` and its aliases `gridtokenx-node` and `gridtokenx-cli`."""

from __future__ import annotations

import contextlib
import sys
import traceback


def main() -> None:
    """Run the command line on sys.argv and leave with its exit code."""
    from gridtokenx.runtime import screen

    screen.prepare_streams()  # Before anything else is imported, which may open files.
    from gridtokenx.cli import app
    from gridtokenx.cli.output import ExitCode

    try:
        app()
    except Exception as fault:  # not a user's error, those are told by the root command
        with contextlib.suppress(OSError):  # Nobody may be there to read it.
            sys.stderr.write(screen.lines(traceback.format_exc()))
        raise SystemExit(ExitCode.INTERNAL) from fault


if __name__ == "__main__":
    main()
