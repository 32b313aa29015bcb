"""Private keys at rest: one encrypted JSON file per key.

An Ed25519 seed and the key's kind are sealed by SecretBox (XSalsa20-Poly1305) under a key made
from the password by Argon2id (`key_derivation`; files sealed under PBKDF2 still open). The address
stays readable, so that keys can be listed without a password. Files have mode 0600 in a folder of
mode 0700; wider ones are refused: somebody may have read them.

Source: docs/node-operation.md "Keys".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from gridtokenx.home import key_derivation
from gridtokenx.home.key_derivation import (
    MAX_PASSWORD_BYTES,
    Argon2id,
    BadPasswordError,
    Derivation,
    OutOfMemoryError,
    Pbkdf2,
)
from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address, parse_address
from gridtokenx.runtime.private_files import (
    FILE_MODE,
    FOLDER_MODE,
    OTHERS,
    make_folder,
    read_bounded,
    sync_folder,
    write_private,
)
from gridtokenx.runtime.text_files import decode_text

SEED_BYTES = 32
MAX_FILE_BYTES = 16_384
MAX_KEYS = 10_000

KDF = Argon2id.algorithm  # of new files

_VERSION = 1
_MARK = "\ufeff"
_CIPHER = "xsalsa20-poly1305"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class KeyKind(StrEnum):
    """What a key is for; one key never serves two purposes."""

    NODE = "node"
    VALIDATOR = "validator"
    ACCOUNT = "account"
    METER = "meter"


class KeystoreReason(StrEnum):
    """Why a key could not be made or used; the value is the reason an API shows."""

    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a reason, not a password
    BAD_PASSWORD = "bad_password"  # noqa: S105 - likewise
    PERMISSIONS = "permissions"
    EXISTS = "key_exists"
    NOT_FOUND = "key_not_found"
    DAMAGED = "key_damaged"
    BAD_NAME = "bad_key_name"
    NO_MEMORY = "no_memory"


class KeystoreError(Exception):
    """A key cannot be made or used. `detail` is one sentence, `hint` the way out (or empty)."""

    def __init__(self, reason: KeystoreReason, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What a key file says in clear. `address` is the 32-byte public key, `kdf` what makes the
    password slow to guess: `argon2id`, or `pbkdf2-hmac-sha256` of an older file."""

    name: str
    kind: KeyKind
    address: bytes
    path: Path
    kdf: str

    @property
    def address_text(self) -> str:
        """`gtx1...`"""
        return format_address(self.address)


def key_path(directory: Path, name: str) -> Path:
    """Where the key `name` lies. Errors: BAD_NAME (so that no name can leave the folder)."""
    if not _NAME.fullmatch(name):
        raise KeystoreError(
            KeystoreReason.BAD_NAME,
            f"{name!r} is no key name: use up to 64 of a-z, 0-9, - and _, such as my-meter",
        )
    return directory / f"{name}.json"


def create(
    directory: Path,
    name: str,
    kind: KeyKind | str,
    password: str,
    seed: bytes | None = None,
    *,
    force: bool = False,
    development: bool = False,
) -> KeyInfo:
    """Make a key and write its file, whole or not at all.

    `seed` (32 bytes) defaults to a random one. With `force` an existing key of that name is moved
    aside to `<name>.<address>.bak`, never lost. A `development` key, which anybody can derive, may
    have any password and is sealed at no cost. Errors: EXISTS, BAD_NAME, BAD_PASSWORD, PERMISSIONS,
    NO_MEMORY.
    """
    path, kind = key_path(directory, name), KeyKind(kind)
    if not development:
        check_new_password(password)
    make_private_folder(directory)
    if path.exists() and not force:
        raise _exists(path)
    signing_key = SigningKey(os.urandom(SEED_BYTES) if seed is None else seed)
    text = _sealed_text(name, kind, signing_key, password, development=development)
    if force and path.exists():
        _move_aside(path)
    if kind is KeyKind.VALIDATOR:
        # Before the key: a crash between the two leaves a marker of no key, never a used key's.
        write_private(_unused_marker(path), format_address(signing_key.public_key))
    try:
        write_private(path, text, replace=False)
    except FileExistsError:
        raise _exists(path) from None
    return KeyInfo(name, kind, signing_key.public_key, path, KDF)


def unlock(path: Path, password: str) -> SigningKey:
    """The signing key in the file.

    Errors: NOT_FOUND, PERMISSIONS, DAMAGED, WRONG_PASSWORD, BAD_PASSWORD, NO_MEMORY.
    """
    sealed = _read(path)
    opened = _open(sealed, password)
    if opened is None and isinstance(sealed.derivation, Pbkdf2):
        # Passwords once kept the byte order mark with which some editors begin a file.
        opened = _open(sealed, _MARK + password)
    if opened is None:
        detail = f"the password does not open {path}"
        raise KeystoreError(KeystoreReason.WRONG_PASSWORD, detail)
    seed, kind = opened[:SEED_BYTES], opened[SEED_BYTES:]
    if len(seed) != SEED_BYTES or kind != sealed.info.kind.value.encode():
        raise _damaged(path, "its kind is not the one that was sealed")
    signing_key = SigningKey(seed)
    if signing_key.public_key != sealed.info.address:
        raise _damaged(path, "its address is not that of the sealed key")
    return signing_key


def change_password(path: Path, old: str, new: str) -> KeyInfo:
    """Seal a key anew, under Argon2id: its file has the old password or the new, never neither.

    Errors: as `unlock` and of a new password.
    """
    check_new_password(new)
    info, signing_key = read_info(path), unlock(path, old)
    write_private(path, _sealed_text(info.name, info.kind, signing_key, new))
    return read_info(path)


def check_new_password(password: str) -> None:
    """Refuse one that is too short, too long or no text. Errors: BAD_PASSWORD."""
    try:
        key_derivation.check_new(password)
    except BadPasswordError as error:
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, str(error)) from None


def has_never_signed(path: Path, address: bytes) -> bool:
    """Whether the validator key was made here and no node has started with it yet.

    Only such a key may sign without a safety record; a copied or restored one must observe first.
    """
    marker = _unused_marker(path)
    return marker.is_file() and marker.read_bytes() == format_address(address).encode()


def mark_unused(path: Path, address: bytes) -> None:
    """Say that the validator key has never signed: the operator's word where its marker is gone."""
    write_private(_unused_marker(path), format_address(address))


def mark_signing(path: Path) -> None:
    """From now on the key may have signed: durable before its first signature."""
    _unused_marker(path).unlink(missing_ok=True)
    sync_folder(path.parent)


def read_info(path: Path) -> KeyInfo:
    """What the file says in clear (no password). Errors: NOT_FOUND, PERMISSIONS, DAMAGED."""
    return _read(path).info


def list_keys(directory: Path) -> tuple[list[KeyInfo], list[KeystoreError]]:
    """The keys of a folder by name, and for each other `*.json` in it why it is no key of use.

    Neither if there is no folder. Errors: PERMISSIONS of the folder itself.
    """
    keys: list[KeyInfo] = []
    others: list[KeystoreError] = []
    if not directory.is_dir():
        return keys, others
    check_private(directory)
    for path in sorted(directory.glob("*.json"))[:MAX_KEYS]:
        if path.name.startswith("."):
            continue
        try:
            keys.append(read_info(key_path(directory, path.stem)))
        except KeystoreError as error:
            others.append(error)
    return keys, others


def read_password_file(path: Path) -> str:
    """The first line of a password file, without its end and a byte order mark.

    Errors: NOT_FOUND, BAD_PASSWORD, PERMISSIONS.
    """
    data, mode = _read_file(path, 2 * MAX_PASSWORD_BYTES, f"there is no password file {path}")
    _check_mode(path, mode, FILE_MODE)
    try:
        password = decode_text(data.partition(b"\n")[0].removesuffix(b"\r"))
        if not password:
            raise ValueError("has an empty first line")
        key_derivation.secret_of(password)
    except BadPasswordError as error:
        detail = f"the first line of {path}: {error}"
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, detail) from None
    except ValueError as error:
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, f"{path} {error}") from None
    return password


def make_private_folder(directory: Path) -> None:
    """Make the folder with mode 0700, or check that it has it. Errors: PERMISSIONS."""
    make_folder(directory)
    check_private(directory)


def check_private(path: Path) -> None:
    """Refuse a file or folder that group or others may touch. Errors: PERMISSIONS."""
    _check_mode(path, path.stat().st_mode, FOLDER_MODE if path.is_dir() else FILE_MODE)


def _check_mode(path: Path, mode: int, wanted: int) -> None:
    if mode & OTHERS:
        raise KeystoreError(
            KeystoreReason.PERMISSIONS,
            f"{path} has mode {stat.S_IMODE(mode):04o}: others than its owner may use it",
            f"chmod {wanted:o} {path}",
        )


def _sealed_text(
    name: str, kind: KeyKind, key: SigningKey, password: str, *, development: bool = False
) -> str:
    """A key file. Errors: BAD_PASSWORD, NO_MEMORY."""
    derivation = Argon2id.fresh(costs_nothing=development)
    sealed = _box(derivation, password).encrypt(key.seed + kind.value.encode())
    document = {
        "version": _VERSION,
        "name": name,
        "kind": kind.value,
        "address": format_address(key.public_key),
        "kdf": derivation.document(),
        "cipher": {
            "algorithm": _CIPHER,
            "nonce": sealed.nonce.hex(),
            "ciphertext": sealed.ciphertext.hex(),
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _box(derivation: Derivation, password: str) -> SecretBox:
    try:
        return SecretBox(derivation.derive(key_derivation.secret_of(password)))
    except BadPasswordError as error:
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, str(error)) from None
    except OutOfMemoryError as error:
        raise KeystoreError(KeystoreReason.NO_MEMORY, f"to use a key {error}") from None


def _open(sealed: _Sealed, password: str) -> bytes | None:
    """What the file seals; None if it is not under this password."""
    box = _box(sealed.derivation, password)
    try:
        return box.decrypt(sealed.ciphertext, sealed.nonce)
    except CryptoError:
        return None


@dataclass(frozen=True, slots=True)
class _Sealed:
    info: KeyInfo
    derivation: Derivation
    nonce: bytes
    ciphertext: bytes


def _read(path: Path) -> _Sealed:
    missing = f"there is no key file {path}"
    if path.parent.is_dir():
        check_private(path.parent)
    data, mode = _read_file(path, MAX_FILE_BYTES, missing, "gridtokenx keys list")
    _check_mode(path, mode, FILE_MODE)
    if len(data) > MAX_FILE_BYTES:
        raise _damaged(path, f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        return _parse(path, json.loads(data))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    except Rejected as error:
        raise _damaged(path, error.detail) from None


def _read_file(path: Path, max_bytes: int, missing: str, hint: str = "") -> tuple[bytes, int]:
    """(up to `max_bytes + 1` of a file, its mode). Errors: NOT_FOUND, PERMISSIONS, DAMAGED."""
    try:
        data, found = read_bounded(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise KeystoreError(KeystoreReason.NOT_FOUND, missing, hint) from None
    except PermissionError:
        detail = f"{path} may not be read by this user"
        raise KeystoreError(KeystoreReason.PERMISSIONS, detail) from None
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror or error}"
        raise KeystoreError(KeystoreReason.DAMAGED, detail) from None
    return data, found.st_mode


def _parse(path: Path, document: dict[str, Any]) -> _Sealed:
    """Check every field before any work is done. Errors: ValueError, KeyError, TypeError."""
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r} is not known, only {_VERSION}")
    cipher = document["cipher"]
    if cipher["algorithm"] != _CIPHER:
        raise ValueError(f"only {_CIPHER} is known")
    derivation = key_derivation.from_document(document["kdf"])
    nonce = bytes.fromhex(cipher["nonce"])
    if len(nonce) != SecretBox.NONCE_SIZE:
        raise ValueError(f"a nonce has {SecretBox.NONCE_SIZE} bytes")
    if not isinstance(document["address"], str):
        raise ValueError("address must be text")
    info = KeyInfo(
        name=path.stem,
        kind=KeyKind(document["kind"]),
        address=parse_address(document["address"]),
        path=path,
        kdf=derivation.algorithm,
    )
    return _Sealed(info, derivation, nonce, bytes.fromhex(cipher["ciphertext"]))


def _damaged(path: Path, why: str) -> KeystoreError:
    return KeystoreError(KeystoreReason.DAMAGED, f"{path} is not a key file: {why}")


def _exists(path: Path) -> KeystoreError:
    hint = "choose another name; --force moves the old key aside"
    return KeystoreError(KeystoreReason.EXISTS, f"{path} exists already", hint)


def _move_aside(path: Path) -> None:
    """Keep a replaced key: it may hold money or a validator's identity."""
    address = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    os.replace(path, path.with_name(f"{path.stem}.{address}.bak"))


def _unused_marker(path: Path) -> Path:
    return path.with_suffix(".unused")
