"""`gridtokenx keys ...` and the seed's `generate-keys`: encrypted keys in HOME/keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, protection
from gridtokenx.runtime import screen

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.home.keystore import KeyInfo, KeyKind, KeystoreError

app = typer.Typer(
    help="Encrypted keys: new, list, show, password, protection.", no_args_is_help=True
)
app.add_typer(protection.app, name="protection")

PasswordFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File whose first line is the password (mode 0600)."),
]
Force = Annotated[bool, typer.Option("--force", help="Move a key of the same name aside.")]

NODE_KEYS = ("node", "validator")  # what the seed's `generate-keys` makes


def read_password(password_file: Path | None, *, new: bool = False, what: str = "the key") -> str:
    """The password: from the file, else asked for on the terminal (twice for a new one).

    There is no option that takes the password itself: arguments are visible to every process.
    """
    if password_file is not None:
        from gridtokenx.home.keystore import read_password_file

        return read_password_file(password_file)
    if not output.has_terminal():
        output.fail(
            f"no terminal to ask for the password of {what}",
            code="cli",
            reason="no_terminal",
            hint="pass --password-file FILE",
            exit_code=output.ExitCode.USAGE,
        )
    label = f"Password of {screen.printable(what)}"
    password: str = typer.prompt(label, hide_input=True, confirmation_prompt=new, err=True)
    return password


def generate(names: tuple[str, ...], password: str, *, force: bool = False) -> list[KeyInfo]:
    """Make the keys `names`, each of the kind of its name, or none if one exists already."""
    from gridtokenx.home import keystore

    directory = output.options().keys_path
    existing = [name for name in names if keystore.key_path(directory, name).exists()]
    if existing and not force:
        path = keystore.key_path(directory, existing[0])
        reason = keystore.KeystoreReason.EXISTS
        hint = "keys already made stay as they are; --force moves them aside"
        raise keystore.KeystoreError(reason, f"{path} exists already", hint)
    return [
        keystore.create(directory, name, keystore.KeyKind(name), password, force=force)
        for name in names
    ]


def generate_keys(password_file: PasswordFile = None, force: Force = False) -> None:
    """Make this node's keys: one for its network identity, one that signs votes."""
    password = read_password(password_file, new=True, what="the new keys")
    _emit_keys(generate(NODE_KEYS, password, force=force))


@app.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Name: a-z, 0-9, - and _.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="node, validator, account or meter.")
    ] = "account",
    password_file: PasswordFile = None,
    force: Force = False,
) -> None:
    """Make a key and show its address."""
    from gridtokenx.home import keystore

    keystore.key_path(output.options().keys_path, name)
    chosen = _parse_kind(kind)
    password = read_password(password_file, new=True, what=f"the new key {name}")
    directory = output.options().keys_path
    _emit_keys([keystore.create(directory, name, chosen, password, force=force)], single=True)


@app.command("list")
def list_all() -> None:
    """List the keys of this home. Needs no password."""
    from gridtokenx.home import keystore

    infos, others = keystore.list_keys(output.options().keys_path)
    for error in others:
        output.note(f"no key of use: {error.detail}{f' ({error.hint})' if error.hint else ''}")
    _emit_keys(infos, others=others)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name of the key.")]) -> None:
    """Show a key's address, kind and file; never its secret."""
    from gridtokenx.home import keystore

    path = keystore.key_path(output.options().keys_path, name)
    _emit_keys([keystore.read_info(path)], single=True)


@app.command("password")
def change_password(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the keys.")],
    password_file: PasswordFile = None,
    new_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File whose first line is the new password.")
    ] = None,
) -> None:
    """Give keys of one password another. Also seals keys of older versions anew, under Argon2id."""
    from gridtokenx.home import keystore

    paths = [keystore.key_path(output.options().keys_path, name) for name in names]
    for path in paths:
        keystore.read_info(path)
    old = read_password(password_file, what=", ".join(names))
    for path in paths:  # All of them, before any is changed.
        keystore.unlock(path, old)
    new = read_password(new_password_file, new=True, what=f"{', '.join(names)} from now on")
    _emit_keys([keystore.change_password(path, old, new) for path in paths])


def _parse_kind(text: str) -> KeyKind:
    from gridtokenx.home.keystore import KeyKind

    try:
        return KeyKind(text)
    except ValueError:
        kinds = ", ".join(KeyKind)
        raise typer.BadParameter(f"a key is one of {kinds}, not {text}") from None


def document_of(info: KeyInfo) -> dict[str, Any]:
    """A key as JSON."""
    return {
        "name": info.name,
        "kind": info.kind.value,
        "address": info.address_text,
        "public_key": info.address,
        "file": info.path,
        "kdf": info.kdf,
    }


def _emit_keys(
    infos: list[KeyInfo], *, single: bool = False, others: Sequence[KeystoreError] = ()
) -> None:
    documents = [document_of(info) for info in infos]
    told = [{"reason": one.reason.value, "message": one.detail, "hint": one.hint} for one in others]

    def human(console: Console) -> None:
        if not infos:
            console.print("no keys here yet: gridtokenx keys new NAME", highlight=False)
        width = max((len(info.name) for info in infos), default=0)
        for info in infos:  # plain lines: an address must survive copying from a narrow terminal
            line = f"{info.name:<{width}}  {info.kind.value:<9}  {info.address_text}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            if single:
                console.print(f"file {info.path}", highlight=False, markup=False, soft_wrap=True)

    output.emit(documents[0] if single else {"keys": documents, "unusable": told}, human)
