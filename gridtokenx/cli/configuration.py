"""`gridtokenx config ...`: which value is in force and why."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.home.config import Config
    from gridtokenx.home.overruled import Overruled

NODE_TIMEOUT_S = 2.0  # A node is asked by the way, not waited for.
app = typer.Typer(help="Configuration: show, validate, path, template.", no_args_is_help=True)


@app.command("show")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Also where each value comes from.")
    ] = False,
) -> None:
    """Show every value in force; where a node answers, also those that a chain overrules."""
    from gridtokenx.home.config import format_value
    from gridtokenx.home.settings import SECTIONS, SETTINGS

    config = output.load_config()
    document: dict[str, Any] = {"home": config.home, "file": config.file, "settings": {}}
    found = _overruled(config)
    document["overruled"] = None if found is None else [asdict(one) for one in found]
    for key in SETTINGS:
        value = _json_value(config.value(key))
        entry = {"value": value, "origin": config.origin(key)} if origin else value
        document["settings"][key] = entry

    def human(console: Console) -> None:
        for section in SECTIONS:
            rows = [row for row in SETTINGS.values() if row.section == section]
            lines = [f"{row.name} = {format_value(config.value(row.key))}" for row in rows]
            if lines:
                console.print(f"\n[{section}]", markup=False, highlight=False)
            for row, line in zip(rows, lines, strict=True):
                remarks = [config.origin(row.key)] if origin else []
                remarks += _in_force(found or [], row.key)
                text = f"{line:<48}  # {'; '.join(remarks)}" if remarks else line
                console.print(text, markup=False, highlight=False, soft_wrap=True)

    output.emit(document, human)


@app.command("validate")
def validate() -> None:
    """Check the configuration; exit code 78 and one sentence if it cannot be used."""
    config = output.load_config()
    changed = sorted(key for key, origin in config.origins.items() if origin != "default")
    document = {"valid": True, "file": config.file, "settings_given": changed}
    where = config.file or "no config file"
    output.emit(
        document,
        lambda console: console.print(
            f"valid: {where}, {len(changed)} settings given", highlight=False, soft_wrap=True
        ),
    )


@app.command("path")
def path() -> None:
    """Show where the configuration file is, whether or not it exists."""
    from gridtokenx.home.config import FILE_NAME

    chosen = output.options()
    file = (chosen.config_file or chosen.home / FILE_NAME).absolute()
    output.emit(
        {"path": file, "exists": file.is_file()},
        lambda console: console.print(str(file), highlight=False, soft_wrap=True),
    )


@app.command("template")
def template() -> None:
    """Show a config.toml in which every setting is explained."""
    from gridtokenx.home import config

    text = config.template()
    output.emit(
        {"template": text},
        lambda console: console.print(text, end="", markup=False, highlight=False, soft_wrap=True),
    )


def _overruled(config: Config) -> list[Overruled] | None:
    """What the chains of the node that answers say instead; None when none does."""
    import httpx

    from gridtokenx.client import Client, NodeUnreachable, RpcError
    from gridtokenx.home.overruled import numbers_told, overruled

    try:
        with Client(output.rpc_url(), NODE_TIMEOUT_S) as client:
            names = [row["chain"] for row in client.call("chain_getStatus")["chains"]]
            asked = [("energy_getMarket", {"chain": name}) for name in names]
            answers = client.call_many(asked)
        markets = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, RpcError):
                return None
            markets[name] = numbers_told(answer["parameters"])
    except (NodeUnreachable, RpcError, httpx.InvalidURL):
        return None
    except (KeyError, TypeError, ValueError):
        return None  # Something else, or a node of another version, serves that port.
    return overruled(config, markets)


def _in_force(found: list[Overruled], key: str) -> list[str]:
    """One remark for each value that chains have instead of a setting's."""
    return [
        f"chain value in force: {one.in_force} ({', '.join(one.chains)})"
        for one in found
        if one.key == key
    ]


def _json_value(value: object) -> object:
    """Amounts as decimal text: a JSON number would be rounded by its reader."""
    if isinstance(value, Decimal):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
