"""What protects a validator key from signing twice, outside a running node: look, move, restore.

A safety record of each chain, and of each later incarnation of a region (`MET@2`), says what the
key signed last. Exported it is JSON that another home of the same key can import, never over a
newer one. Source: protocols/consensus.md 2.8, docs/node-operation.md "Two nodes, two keys".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridtokenx.chain.genesis import Genesis, incarnation_name, is_incarnation_name
from gridtokenx.consensus.events import SafetyRecord
from gridtokenx.interchain.checkpoints import incarnations_of
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address
from gridtokenx.runtime.private_files import write_private
from gridtokenx.storage.database import Database

VERSION = 1
FORMAT = "gridtokenx-protection"
MAX_FILE_BYTES = 4 * 1024 * 1024

Records = dict[str, SafetyRecord]


class ProtectionError(Exception):
    """A safety record cannot be read or taken; `hint` is the way out (or empty)."""

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose records they are: network and key."""

    genesis_hash: bytes
    address: bytes

    @property
    def address_text(self) -> str:
        """`gtx1...`"""
        return format_address(self.address)


def stored_records(database: Database, genesis: Genesis) -> Records:
    """The records of a data folder by chain and incarnation; those without one are missing."""
    names = list(genesis.chain_names)
    if genesis.national is not None:
        state = database.chain(genesis.national.name)
        names += [
            incarnation_name(region.name, born.number)
            for region in genesis.chains
            for born in incarnations_of(state, region.name)
        ]
    return _stored(database, names)


def _stored(database: Database, names: Iterable[str]) -> Records:
    found: Records = {}
    for name in names:
        raw = database.chain(name).load_safety()
        if raw is not None:
            found[name] = decode(SafetyRecord, raw)
    return found


def export_records(records: Records, owner: Owner, path: Path) -> None:
    """Write records to a new file of mode 0600. Errors: ProtectionError, OSError."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "genesis_hash": owner.genesis_hash.hex(),
        "validator": owner.address_text,
        "chains": {
            name: {"height": record.height, "view": record.view, "record": encode(record).hex()}
            for name, record in sorted(records.items())
        },
    }
    try:
        write_private(path, json.dumps(document, indent=2) + "\n", replace=False)
    except FileExistsError:
        raise ProtectionError(f"{path} exists already", "choose another name") from None


def read_export(path: Path, owner: Owner) -> Records:
    """The records of an exported file of this network and key. Errors: ProtectionError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ProtectionError(f"cannot read {path}: {error.strerror}") from None
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
        return _parse(json.loads(data), owner)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ProtectionError(f"{path} is no exported safety record: {error}") from None
    except Rejected as error:
        raise ProtectionError(f"{path} is no exported safety record: {error.detail}") from None


def _parse(document: Any, owner: Owner) -> Records:
    if document["format"] != FORMAT or document["version"] != VERSION:
        raise ValueError(f"only {FORMAT} version {VERSION} is known")
    if document["genesis_hash"] != owner.genesis_hash.hex():
        raise ProtectionError("the record belongs to another network", "check genesis.json")
    if document["validator"] != owner.address_text:
        detail = f"the record belongs to the key {document['validator']}"
        raise ProtectionError(detail, f"the key here is {owner.address_text}")
    return {
        str(name): decode(SafetyRecord, bytes.fromhex(row["record"]))
        for name, row in document["chains"].items()
    }


def import_records(database: Database, genesis: Genesis, records: Records) -> list[str]:
    """Store records, all or none; names of the chains that changed.

    Errors: ProtectionError for an unknown chain or where a newer record is here already.
    """
    unknown = [name for name in records if not is_incarnation_name(name, genesis)]
    here = _stored(database, [name for name in records if name not in unknown])
    for name, record in records.items():
        if name in unknown:
            raise ProtectionError(f"there is no chain {name!r} in this network")
        if name in here and age(here[name]) > age(record):
            raise ProtectionError(
                f"the record of {name} here is newer (height {here[name].height}, view "
                f"{here[name].view}) than the file's (height {record.height}, view {record.view})",
                "the older one has forgotten signatures: keep the newer",
            )
    changed = [name for name, record in records.items() if here.get(name) != record]
    for name in changed:
        database.chain(name).save_safety(encode(records[name]), ())
    return changed


def age(record: SafetyRecord) -> tuple[int, int, int]:
    """Orders the records of one key: a later one knows all that an earlier one knows."""
    return record.height, record.view, len(record.own)
