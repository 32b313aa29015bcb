"""The entry point of `gridtokenx` and its aliases `gridtokenx-node` and `gridtokenx-cli`."""

from __future__ import annotations

import traceback

from gridtokenx.cli import app
from gridtokenx.cli.output import ExitCode


def main() -> None:
    """Run the command line on sys.argv and leave with its exit code."""
    try:
        app()
    except Exception as fault:  # not a user's error, those are told by the root command
        traceback.print_exc()
        raise SystemExit(ExitCode.INTERNAL) from fault


if __name__ == "__main__":
    main()
