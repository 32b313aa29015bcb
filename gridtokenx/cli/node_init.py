"""`gridtokenx init`: make the home of a node, ready to start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import keys, output, show
from gridtokenx.cli.genesis_file import genesis_text

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_NETWORK = "gridtokenx-local"
GENESIS_NAME = "genesis.json"


@dataclass(frozen=True, slots=True)
class _Network:
    """The genesis a home is made for. `text` is copied as it is."""

    text: str
    name: str
    network_id: int
    hash: str
    chains: tuple[str, ...]


def init(
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="validator, trader, observer, grid_operator or authority."
        ),
    ] = None,
    authority: Annotated[
        str | None, typer.Option(metavar="NAME", help="egat, mea, pea or erc: use its preset.")
    ] = None,
    preset: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Preset of the authority to keep a copy of.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Bundled network [{DEFAULT_NETWORK}].")
    ] = None,
    genesis: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Genesis file of another network.")
    ] = None,
    genesis_hash: Annotated[
        str | None, typer.Option(metavar="HASH", help="Refuse a genesis with another hash.")
    ] = None,
    node_id: Annotated[str | None, typer.Option(metavar="NAME", help="Name of this node.")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also make the node's keys, under this password."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace config.toml and genesis.json; keys stay.")
    ] = False,
) -> None:
    """Make a home: config.toml, genesis.json, keys/ and data/."""
    from gridtokenx.home import config

    home = output.options().home
    if preset and not authority:
        raise typer.BadParameter("--preset needs --authority")
    # Everything is checked before anything is written.
    chosen = _find_network(network, genesis, genesis_hash)
    values = _values(role, authority, node_id, chosen, password_file)
    if preset and authority:
        config.read_preset(authority, preset)
    if (home / config.FILE_NAME).exists() and not force:
        _refuse_existing(home / config.FILE_NAME)
    password = _password(password_file)
    made = _make_home(home, authority, preset, chosen)
    _keep_old(home / config.FILE_NAME)
    config.write_template(home / config.FILE_NAME, values)
    loaded = config.load_config(home)
    made_keys = _make_keys(password, validates=loaded.validates)
    document = {
        "home": home,
        "config": home / config.FILE_NAME,
        "role": loaded.node.node_type,
        "authority": loaded.node.authority,
        "network": loaded.network.network_name,
        "network_id": loaded.network.network_id,
        "genesis_hash": chosen.hash if chosen else None,
        "chains": chosen.chains if chosen else [],
        "keys": [keys.document_of(info) for info in made_keys],
        "files": [*made, home / config.FILE_NAME],
    }
    steps = _next_steps(home, chosen, has_keys=_has_keys(loaded.validates))
    output.emit({**document, "next": steps}, lambda console: _draw(console, document, steps))


def inspect_genesis(text: str) -> _Network:
    """What a genesis file says of itself. Errors: Rejected (MALFORMED and so on)."""
    from gridtokenx.chain.genesis import parse_genesis

    loaded = parse_genesis(text)
    return _Network(
        text, loaded.network_name, loaded.network_id, loaded.hash.hex(), loaded.chain_names
    )


def _find_network(
    network: str | None, genesis: Path | None, genesis_hash: str | None
) -> _Network | None:
    """The genesis asked for; None if nothing was asked for and no network is bundled."""
    from gridtokenx.home import bootstrap_files

    if network and genesis:
        raise typer.BadParameter("give either --network or --genesis, not both")
    name = network or DEFAULT_NETWORK
    path = genesis or bootstrap_files.find(f"{bootstrap_files.network_folder(name)}/{GENESIS_NAME}")
    if path is None:
        if network or genesis_hash:
            places = ", ".join(str(folder) for folder in bootstrap_files.folders())
            output.fail(
                f"no network {name!r} is bundled (looked in {places})",
                code="cli",
                reason="unknown_network",
                hint="pass its genesis file: --genesis FILE --genesis-hash HASH",
            )
        return None
    found = inspect_genesis(genesis_text(path))
    if genesis_hash and genesis_hash.lower() != found.hash:
        output.fail(
            f"{path} has the hash {found.hash}, not {genesis_hash}",
            code=7003,
            reason="genesis_mismatch",
            hint="ask the network's operator for the genesis file and its hash",
            exit_code=output.ExitCode.BAD_DATA,
        )
    return found


def _values(
    role: str | None,
    authority: str | None,
    node_id: str | None,
    network: _Network | None,
    password_file: Path | None,
) -> dict[str, object]:
    """What config.toml sets; everything else stays a default or the preset's."""
    given: dict[str, object | None] = {
        "node.node_id": node_id,
        "node.node_type": role or (None if authority else "observer"),
        "node.authority": authority,
        "node.password_file": str(password_file.absolute()) if password_file else None,
    }
    if network:
        given["network.network_name"] = network.name
        given["network.network_id"] = network.network_id
        given["genesis.file"] = f"./{GENESIS_NAME}"
        given["genesis.hash"] = network.hash
        if network.name == DEFAULT_NETWORK:  # Its genesis is old and its keys are public.
            given["sync.trust_old_blocks"] = True
    values = {key: value for key, value in given.items() if value is not None}
    _check_values(values)
    return values


def _check_values(values: dict[str, object]) -> None:
    from gridtokenx.home.settings import SETTINGS, check_value

    options = {
        "node.node_type": "--role",
        "node.authority": "--authority",
        "node.node_id": "--node-id",
    }
    for key, value in values.items():
        try:
            check_value(SETTINGS[key], value)
        except ValueError as wrong:
            raise typer.BadParameter(f"{options.get(key, key)} {wrong}") from None
    if values.get("node.node_type") == "authority" and "node.authority" not in values:
        raise typer.BadParameter("--role authority needs --authority egat, mea, pea or erc")


def _refuse_existing(path: Path) -> None:
    output.fail(
        f"{path} exists already",
        code="GTX-CFG-007",
        reason="exists",
        hint="--force replaces it and keeps the old one beside it; another home: --home DIR",
    )


def _make_home(
    home: Path, authority: str | None, preset: Path | None, network: _Network | None
) -> list[Path]:
    """Folders, genesis and preset copy. Returns the files written."""
    from gridtokenx.home.keystore import make_private_folder
    from gridtokenx.runtime.private_files import make_folder, tighten, write_private

    make_folder(home)
    if home != Path.home():  # A person's own folder is not ours to close.
        tighten([home])
    make_private_folder(home / "keys")
    make_folder(home / "data")
    written = []
    if network:
        write_private(home / GENESIS_NAME, network.text)
        written.append(home / GENESIS_NAME)
    if preset:
        copy = home / "authorities" / f"{authority}.toml"
        make_folder(copy.parent)
        write_private(copy, preset.read_bytes())
        written.append(copy)
    return written


def _keep_old(path: Path) -> None:
    if path.exists():
        os.replace(path, path.with_name(path.name + ".old"))


def _password(password_file: Path | None) -> str | None:
    """Of the node's keys to be made; checked now if there is none yet, before a file is written."""
    from gridtokenx.home import keystore

    if password_file is None:
        return None
    password = keys.read_password(password_file)
    if not _has_keys(validates=False):
        keystore.check_new_password(password)
    return password


def _make_keys(password: str | None, *, validates: bool) -> list[Any]:
    """The node's keys if a password was given; keys that exist are left alone."""
    if password is None:
        return []
    directory = output.options().keys_path
    wanted = keys.NODE_KEYS if validates else keys.NODE_KEYS[:1]
    missing = tuple(name for name in wanted if not (directory / f"{name}.json").exists())
    if not missing:
        return []
    return list(keys.generate(missing, password))


def _has_keys(validates: bool) -> bool:
    directory = output.options().keys_path
    wanted = keys.NODE_KEYS if validates else keys.NODE_KEYS[:1]
    return all((directory / f"{name}.json").exists() for name in wanted)


def _next_steps(home: Path, network: _Network | None, *, has_keys: bool) -> list[str]:
    chosen = "" if home == output.Options().home else f" --home {home}"
    steps = []
    if network is None:
        steps.append(f"put the network's genesis file at {home / GENESIS_NAME}")
    if not has_keys:
        steps.append(f"gridtokenx{chosen} generate-keys")
    return [*steps, f"gridtokenx{chosen} config show --origin", f"gridtokenx{chosen} start"]


def _draw(console: Console, document: dict[str, Any], steps: list[str]) -> None:
    of = f" of {document['authority'].upper()}" if document["authority"] else ""
    show.line(console, f"made {document['home']}: {document['role']}{of} on {document['network']}")
    if document["genesis_hash"]:
        show.line(console, f"genesis {document['genesis_hash']} ({', '.join(document['chains'])})")
    for key in document["keys"]:
        show.line(console, f"key {key['name']} {key['address']}")
    show.line(console, "next:")
    for step in steps:
        show.line(console, f"  {step}")
