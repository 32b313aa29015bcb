"""The command line. One line of `COMMANDS` per noun; a noun's module is imported when it is used.

`gridtokenx`, `gridtokenx-node` and `gridtokenx-cli` are the same program. To add a noun, write a
module with `app = typer.Typer(help="...")` (a group, such as `keys new`) or a plain function (a
single command, such as `init`) and name it below. Modules here import libp2p, aiohttp, rocksdict
and the like inside their functions: `gridtokenx --help` must stay quick.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from gridtokenx import __version__
from gridtokenx.cli import output
from gridtokenx.runtime import screen

# command -> "module:name" of a typer.Typer (group) or of a function (single command)
COMMANDS = {
    "init": "gridtokenx.cli.node_init:init",
    "start": "gridtokenx.cli.node_start:start",
    "status": "gridtokenx.cli.status:status",
    "net": "gridtokenx.cli.net_doctor:app",  # adds to the app of cli.net
    "chain": "gridtokenx.cli.chain:app",
    "orders": "gridtokenx.cli.orders:app",
    "trade": "gridtokenx.cli.trade:app",
    "energy": "gridtokenx.cli.energy:app",
    "carbon": "gridtokenx.cli.carbon:app",
    "grid": "gridtokenx.cli.grid:app",
    "participant": "gridtokenx.cli.participant:app",
    "audit": "gridtokenx.cli.audit:app",
    "governance": "gridtokenx.cli.governance:app",
    "stake": "gridtokenx.cli.stake:app",
    "shard": "gridtokenx.cli.shard:app",
    "account": "gridtokenx.cli.account:app",
    "tx": "gridtokenx.cli.tx:app",
    "generate-keys": "gridtokenx.cli.keys:generate_keys",
    "keys": "gridtokenx.cli.keys:app",
    "config": "gridtokenx.cli.configuration:app",
    "cluster": "gridtokenx.cli.cluster_faults:app",  # adds to the app of cli.cluster
    "version": "gridtokenx.cli.version:version",
}

ALIASES = {"gov": "governance"}

# Global options, accepted before and after the command (`gridtokenx status --json`), so a command
# cannot use these names for something else.
_FLAGS = frozenset({"--json", "--yes", "--quiet", "-v", "-vv", "--verbose", "--no-color"})
_VALUED = frozenset({"--home", "--config", "--rpc"})


class RootGroup(TyperGroup):
    """Finds commands lazily, takes global options anywhere, turns known errors into exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in {*COMMANDS, *ALIASES}:
            # typer looks for "did you mean" among the loaded commands
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        output.set_options(output.Options())  # until the callback has read this run's own
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = output.describe(error)
            is_usage = isinstance(error, typer.TyperException) and not output.options().json
            if isinstance(error, typer.TyperException):
                error.message = screen.lines(error.message)
            if failure is None or is_usage:  # typer shows usage errors well; faults are ours
                raise
            output.report(failure)
            raise typer.Exit(failure.exit_code) from error


def hoist(args: list[str]) -> list[str]:
    """Move global options that stand after the command to the front, up to a lone `--`."""
    front: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(args) and args[index] != "--":
        name, equals, _ = args[index].partition("=")
        width = 2 if name in _VALUED and not equals else 1
        chosen = front if name in _FLAGS or name in _VALUED else rest
        chosen.extend(args[index : index + width])
        index += width
    return front + rest + args[index:]


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command: Any = get_group(target)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name)(target)
        command = get_command(single)
    command.name = name
    return command


app = typer.Typer(
    name="gridtokenx",
    cls=RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks may show local variables, such as a password
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gridtokenx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        Path, typer.Option(envvar="GRIDTOKENX_HOME", help="Folder of config, keys and data.")
    ] = Path("~/.gridtokenx"),
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of HOME/config.toml.")
    ] = None,
    rpc: Annotated[
        str | None, typer.Option(metavar="URL", help="Node to ask, such as http://127.0.0.1:8080.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer questions with yes.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No remarks on stderr.")] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more.")] = 0,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours; so does any NO_COLOR.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Peer-to-peer energy trading node for Thailand's electricity market."""
    output.set_options(
        output.Options(
            home=home.expanduser().absolute(),
            config_file=config,
            rpc=rpc,
            json=json,
            yes=yes,
            quiet=quiet,
            verbose=verbose,
            color=not no_color,
        )
    )
