"""`gridtokenx config ...`: which value is in force and why."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Configuration: show, validate, path, template.", no_args_is_help=True)


@app.command("show")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Also where each value comes from.")
    ] = False,
) -> None:
    """Show every value in force."""
    from gridtokenx.node.config import format_value
    from gridtokenx.node.settings import SECTIONS, SETTINGS

    config = output.load_config()
    document: dict[str, Any] = {"home": config.home, "file": config.file, "settings": {}}
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
                text = f"{line:<48}  # {config.origin(row.key)}" if origin else line
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
    from gridtokenx.node.config import FILE_NAME

    chosen = output.options()
    file = (chosen.config_file or chosen.home / FILE_NAME).absolute()
    output.emit(
        {"path": file, "exists": file.is_file()},
        lambda console: console.print(str(file), highlight=False, soft_wrap=True),
    )


@app.command("template")
def template() -> None:
    """Show a config.toml in which every setting is explained."""
    from gridtokenx.node import config

    text = config.template()
    output.emit(
        {"template": text},
        lambda console: console.print(text, end="", markup=False, highlight=False, soft_wrap=True),
    )


def _json_value(value: object) -> object:
    """Amounts as decimal text: a JSON number would be rounded by its reader."""
    if isinstance(value, Decimal):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
