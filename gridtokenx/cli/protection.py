"""`gridtokenx keys protection show|export|import|init`: the safety record of a validator key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output
from gridtokenx.cli.output import ExitCode

if TYPE_CHECKING:
    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.home.config import Config
    from gridtokenx.storage.database import Database
    from gridtokenx.storage.protection import Owner

app = typer.Typer(
    help="What keeps a validator key from signing twice. Stop the node first.",
    no_args_is_help=True,
)


@app.command("show")
def show() -> None:
    """What this home's validator key signed last, by chain."""
    with _opened() as (config, genesis, owner, database):
        from gridtokenx.storage import protection

        records = protection.stored_records(database, genesis)
        unused = _is_unused(config, owner)
        names = genesis.chain_names
    chains = {
        name: {"height": str(record.height), "view": record.view, "messages": len(record.own)}
        for name, record in records.items()
    }
    document = {"validator": owner.address_text, "never_signed": unused, "chains": chains}
    lines = [f"validator {owner.address_text}"]
    if unused:
        lines.append("made here and never used: its first start signs at once")
    for name in dict.fromkeys((*names, *chains)):
        row = chains.get(name)
        told = f"height {row['height']}, view {row['view']}" if row else "no record"
        lines.append(f"  {name}  {told}")
    _say(document, "\n".join(lines))


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
) -> None:
    """Write the records to a file; from then on this home's key must not sign any more."""
    with _opened() as (_, genesis, owner, database):
        from gridtokenx.storage import protection

        records = protection.stored_records(database, genesis)
        if not records:
            raise protection.ProtectionError("there is no safety record here")
        protection.export_records(records, owner, file)
    document = {"file": str(file), "validator": owner.address_text, "chains": sorted(records)}
    _say(document, f"{file}: {', '.join(sorted(records))}. Do not start this home's key again.")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of `export`.")],
) -> None:
    """Take records over from the home that signed with this key before; never an older one."""
    with _opened() as (_, genesis, owner, database):
        from gridtokenx.storage import protection

        records = protection.read_export(file, owner)
        changed = protection.import_records(database, genesis, records)
    document = {"validator": owner.address_text, "changed": sorted(changed)}
    _say(document, f"taken over: {', '.join(sorted(changed)) or 'nothing, all was here already'}")


@app.command("init")
def init(
    sure: Annotated[
        bool, typer.Option("--i-am-sure", help="This key has never signed anything, anywhere.")
    ] = False,
) -> None:
    """Let a key without records sign at its next start, as a key made here may."""
    if not sure:
        output.fail(
            "if this key has signed anywhere, signing without its record can break the chain",
            code="GTX-KEY-001",
            reason="not_sure",
            hint="only for a key that never signed: keys protection init --i-am-sure",
            exit_code=ExitCode.USAGE,
        )
    with _opened() as (config, genesis, owner, database):
        from gridtokenx.home import keystore
        from gridtokenx.storage import protection

        records = protection.stored_records(database, genesis)
        if records:
            held = ", ".join(f"{name} height {one.height}" for name, one in records.items())
            detail = f"this key has records: {held}"
            raise protection.ProtectionError(detail, "nothing is to be done: start the node")
        keystore.mark_unused(keystore.key_path(config.keys_path, config.node.key), owner.address)
    document = {"validator": owner.address_text, "never_signed": True}
    _say(document, f"{owner.address_text} signs at the next start")


@contextmanager
def _opened() -> Iterator[tuple[Config, Genesis, Owner, Database]]:
    """This home's genesis, key and data folder. Errors: FolderInUse while the node runs."""
    from gridtokenx.cli.genesis_file import read_genesis
    from gridtokenx.cli.node_end import exit_code_of
    from gridtokenx.home import keystore
    from gridtokenx.runtime.stopping import Ending
    from gridtokenx.storage.database import Database
    from gridtokenx.storage.protection import Owner, ProtectionError

    config = output.load_config()
    genesis = read_genesis(config)
    info = keystore.read_info(keystore.key_path(config.keys_path, config.node.key))
    try:
        database = Database(config.data_path)
        try:
            yield config, genesis, Owner(genesis.hash, info.address), database
        finally:
            database.close()
    except Ending as error:
        code, _, detail = str(error).partition(": ")
        output.fail(detail, code=code, reason="database", exit_code=exit_code_of(error))
    except ProtectionError as error:
        output.fail(error.detail, code="GTX-KEY-001", reason="protection", hint=error.hint)


def _is_unused(config: Config, owner: Owner) -> bool:
    from gridtokenx.home import keystore

    path = keystore.key_path(config.keys_path, config.node.key)
    return keystore.has_never_signed(path, owner.address)


def _say(document: dict[str, Any], text: str) -> None:
    def human(console: Any) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    output.emit(document, human)
