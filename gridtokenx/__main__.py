"""The entry point of `gridtokenx` and its aliases `gridtokenx-node` and `gridtokenx-cli`."""

from __future__ import annotations

import sys
import traceback

from gridtokenx.cli import app
from gridtokenx.cli.output import ExitCode
from gridtokenx.node import screen


def main() -> None:
    """Run the command line on sys.argv and leave with its exit code."""
    screen.prepare_streams()
    try:
        app()
    except Exception as fault:  # not a user's error, those are told by the root command
        sys.stderr.write(screen.lines(traceback.format_exc()))
        raise SystemExit(ExitCode.INTERNAL) from fault


if __name__ == "__main__":
    main()
