"""Private keys at rest: one encrypted JSON file per key.

An Ed25519 seed and the key's kind are sealed by SecretBox (XSalsa20-Poly1305) under a key made
from the password by PBKDF2-HMAC-SHA256. The address stays readable, so that keys can be listed
without a password. Files have mode 0600 in a folder of mode 0700; wider ones are refused.

Source: surface A.10, lessons 27 and 28; the seed asks for PBKDF2.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from gridtokenx.primitives.crypto import SigningKey
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address, parse_address

ITERATIONS = 600_000
MAX_ITERATIONS = 10_000_000  # about 3 s: the most a hostile file may make us work
SALT_BYTES = 32
SEED_BYTES = 32
MAX_FILE_BYTES = 16_384
MAX_PASSWORD_BYTES = 1024
MAX_KEYS = 10_000

_VERSION = 1
_KDF = "pbkdf2-hmac-sha256"
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


class KeystoreError(Exception):
    """A key cannot be made or used. `detail` is one sentence, `hint` the way out (or empty)."""

    def __init__(self, reason: KeystoreReason, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What a key file says in clear. `address` is the 32-byte public key."""

    name: str
    kind: KeyKind
    address: bytes
    path: Path
    iterations: int

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
    iterations: int = ITERATIONS,
) -> KeyInfo:
    """Make a key and write its file, whole or not at all.

    `seed` (32 bytes) defaults to a random one. With `force` an existing key of that name is moved
    aside to `<name>.<address>.bak`, never lost. Errors: EXISTS, BAD_NAME, BAD_PASSWORD,
    PERMISSIONS.
    """
    path, kind = key_path(directory, name), KeyKind(kind)
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations must be 1..{MAX_ITERATIONS}, not {iterations}")
    make_private_folder(directory)
    if path.exists() and not force:
        raise _exists(path)
    seed = os.urandom(SEED_BYTES) if seed is None else seed
    signing_key, salt = SigningKey(seed), os.urandom(SALT_BYTES)
    box = SecretBox(_derive(password, salt, iterations))
    sealed = box.encrypt(seed + kind.value.encode())
    document = {
        "version": _VERSION,
        "name": name,
        "kind": kind.value,
        "address": format_address(signing_key.public_key),
        "kdf": {"algorithm": _KDF, "iterations": iterations, "salt": salt.hex()},
        "cipher": {
            "algorithm": _CIPHER,
            "nonce": sealed.nonce.hex(),
            "ciphertext": sealed.ciphertext.hex(),
        },
    }
    if force and path.exists():
        _move_aside(path)
    if kind is KeyKind.VALIDATOR:
        # Before the key: a crash between the two leaves a marker of no key, never a used key's.
        _unused_marker(path).write_text(format_address(signing_key.public_key))
    _write_new(path, (json.dumps(document, indent=2) + "\n").encode())
    return KeyInfo(name, kind, signing_key.public_key, path, iterations)


def unlock(path: Path, password: str) -> SigningKey:
    """The signing key in the file. Errors: NOT_FOUND, PERMISSIONS, DAMAGED, WRONG_PASSWORD."""
    sealed = _read(path)
    box = SecretBox(_derive(password, sealed.salt, sealed.info.iterations))
    try:
        opened = box.decrypt(sealed.ciphertext, sealed.nonce)
    except CryptoError:
        detail = f"the password does not open {path}"
        raise KeystoreError(KeystoreReason.WRONG_PASSWORD, detail) from None
    seed, kind = opened[:SEED_BYTES], opened[SEED_BYTES:]
    if len(seed) != SEED_BYTES or kind != sealed.info.kind.value.encode():
        raise _damaged(path, "its kind is not the one that was sealed")
    signing_key = SigningKey(seed)
    if signing_key.public_key != sealed.info.address:
        raise _damaged(path, "its address is not that of the sealed key")
    return signing_key


def has_never_signed(path: Path, address: bytes) -> bool:
    """Whether the validator key was made here and no node has started with it yet.

    Only such a key may sign without a safety record; a copied or restored one must observe first.
    """
    marker = _unused_marker(path)
    return marker.is_file() and marker.read_text() == format_address(address)


def mark_unused(path: Path, address: bytes) -> None:
    """Say that the validator key has never signed: the operator's word where its marker is gone."""
    _unused_marker(path).write_text(format_address(address))
    _sync_folder(path.parent)


def mark_signing(path: Path) -> None:
    """From now on the key may have signed: durable before its first signature."""
    _unused_marker(path).unlink(missing_ok=True)
    _sync_folder(path.parent)


def read_info(path: Path) -> KeyInfo:
    """What the file says in clear (no password). Errors: NOT_FOUND, PERMISSIONS, DAMAGED."""
    return _read(path).info


def list_keys(directory: Path) -> list[KeyInfo]:
    """The keys of a folder by name; none if there is no folder. Errors as `read_info`."""
    if not directory.is_dir():
        return []
    check_private(directory)
    paths = sorted(directory.glob("*.json"))[:MAX_KEYS]
    return [read_info(path) for path in paths if not path.name.startswith(".")]


def read_password_file(path: Path) -> str:
    """The first line of a password file. Errors: NOT_FOUND, BAD_PASSWORD, PERMISSIONS."""
    if not path.is_file():
        raise KeystoreError(KeystoreReason.NOT_FOUND, f"there is no password file {path}")
    _check_mode(path, 0o007, 0o600)
    with path.open("rb") as stream:
        first = stream.readline(MAX_PASSWORD_BYTES + 2)
    try:
        password = first.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        detail = f"{path} is not UTF-8 text"
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, detail) from None
    if not password:
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, f"the first line of {path} is empty")
    return password


def make_private_folder(directory: Path) -> None:
    """Make the folder with mode 0700, or check that it has it. Errors: PERMISSIONS."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_private(directory)


def check_private(path: Path) -> None:
    """Refuse a file or folder that group or others may touch. Errors: PERMISSIONS."""
    _check_mode(path, 0o077, 0o700 if path.is_dir() else 0o600)


def _check_mode(path: Path, forbidden: int, wanted: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        raise KeystoreError(
            KeystoreReason.PERMISSIONS,
            f"{path} has mode {mode:04o}: others than its owner may use it",
            f"chmod {wanted:o} {path}",
        )


def _derive(password: str, salt: bytes, iterations: int) -> bytes:
    # NFKC: a password typed on another keyboard layout or system must give the same bytes.
    secret = unicodedata.normalize("NFKC", password).encode()
    if not 1 <= len(secret) <= MAX_PASSWORD_BYTES:
        detail = f"a password has 1 to {MAX_PASSWORD_BYTES} bytes, not {len(secret)}"
        raise KeystoreError(KeystoreReason.BAD_PASSWORD, detail)
    return hashlib.pbkdf2_hmac("sha256", secret, salt, iterations, SecretBox.KEY_SIZE)


@dataclass(frozen=True, slots=True)
class _Sealed:
    info: KeyInfo
    salt: bytes
    nonce: bytes
    ciphertext: bytes


def _read(path: Path) -> _Sealed:
    if not path.is_file():
        raise KeystoreError(
            KeystoreReason.NOT_FOUND, f"there is no key file {path}", "gridtokenx keys list"
        )
    check_private(path.parent)
    check_private(path)
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _damaged(path, f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        return _parse(path, json.loads(data))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    except Rejected as error:
        raise _damaged(path, error.detail) from None


def _parse(path: Path, document: dict[str, Any]) -> _Sealed:
    """Check every field before any work is done. Errors: ValueError, KeyError, TypeError."""
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r} is not known, only {_VERSION}")
    kdf, cipher = document["kdf"], document["cipher"]
    if kdf["algorithm"] != _KDF or cipher["algorithm"] != _CIPHER:
        raise ValueError(f"only {_KDF} and {_CIPHER} are known")
    iterations = kdf["iterations"]
    if type(iterations) is not int or not 1 <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"kdf.iterations must be 1..{MAX_ITERATIONS}, not {iterations!r}")
    salt, nonce = bytes.fromhex(kdf["salt"]), bytes.fromhex(cipher["nonce"])
    if len(salt) != SALT_BYTES or len(nonce) != SecretBox.NONCE_SIZE:
        raise ValueError(f"salt has {SALT_BYTES} bytes and nonce {SecretBox.NONCE_SIZE}")
    if not isinstance(document["address"], str):
        raise ValueError("address must be text")
    info = KeyInfo(
        name=path.stem,
        kind=KeyKind(document["kind"]),
        address=parse_address(document["address"]),
        path=path,
        iterations=iterations,
    )
    return _Sealed(info, salt, nonce, bytes.fromhex(cipher["ciphertext"]))


def _damaged(path: Path, why: str) -> KeystoreError:
    return KeystoreError(KeystoreReason.DAMAGED, f"{path} is not a key file: {why}")


def _exists(path: Path) -> KeystoreError:
    hint = "choose another name; --force moves the old key aside"
    return KeystoreError(KeystoreReason.EXISTS, f"{path} exists already", hint)


def _move_aside(path: Path) -> None:
    """Keep a replaced key: it may hold money or a validator's identity."""
    address = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    os.replace(path, path.with_name(f"{path.stem}.{address}.bak"))


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet: complete and synced under its name, or not there."""
    with _private_temporary(path) as temporary:
        with open(temporary, "xb", opener=_private) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)  # fails, unlike rename, if somebody was faster
        except FileExistsError:
            raise _exists(path) from None
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unused_marker(path: Path) -> Path:
    return path.with_suffix(".unused")


@contextmanager
def _private_temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
