"""Files that people write, saved by any editor: every command reads them or says what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gridtokenx.chain.genesis import format_genesis
from gridtokenx.chain.transaction import sign_transaction
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster.devnet import dev_key, local_genesis
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.codec import encode

READ = {
    "mark": lambda text: text.encode("utf-8-sig"),
    "windows": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
}
REFUSED = {
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 unmarked": lambda text: text.encode("utf-16-le"),
    "other": lambda text: text.encode() + "é".encode("latin-1"),
}
Saved = Callable[[str], bytes]
read = pytest.mark.parametrize("saved", READ.values(), ids=READ)
refused = pytest.mark.parametrize("saved", REFUSED.values(), ids=REFUSED)


@pytest.fixture(scope="module")
def genesis_text() -> str:
    return format_genesis(local_genesis())


@read
def test_a_configuration_is_read(run, home: Path, saved: Saved) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(saved("version = 1\n[api]\nport = 1234\n"))
    shown = run("config", "show", "--origin", "--json").document["settings"]["api.port"]
    assert shown == {"value": 1234, "origin": "config.toml:3"}


@refused
def test_a_configuration_that_is_not_utf_8_is_told(run, home: Path, saved: Saved) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(saved("version = 1\n"))
    ran = run("config", "validate")
    assert ran.code == ExitCode.CONFIG
    assert "save it as UTF-8" in ran.stderr


@read
@pytest.mark.usefixtures("fast_keys")
def test_a_genesis_is_read_by_init_and_start(
    run, home: Path, tmp_path: Path, password_file: Path, genesis_text: str, saved: Saved
) -> None:
    path = tmp_path / "genesis.json"
    path.write_bytes(saved(genesis_text))
    assert run("init", "--genesis", path, "--password-file", password_file).code == 0
    (home / "genesis.json").write_bytes(saved(genesis_text))
    ran = run("start", "--dry-run", "--json")
    assert ran.code == 0
    assert ran.document["genesis_hash"] == local_genesis().hash.hex()


@refused
@pytest.mark.usefixtures("fast_keys")
def test_a_genesis_that_is_not_utf_8_is_told(
    run, home: Path, tmp_path: Path, password_file: Path, genesis_text: str, saved: Saved
) -> None:
    path = tmp_path / "genesis.json"
    path.write_bytes(saved(genesis_text))
    ran = run("init", "--genesis", path)
    assert ran.code == ExitCode.BAD_DATA
    assert f"{path} " in ran.stderr
    assert "save it as UTF-8" in ran.stderr
    assert not home.exists()
    path.write_text(genesis_text)
    assert run("init", "--genesis", path, "--password-file", password_file).code == 0
    (home / "genesis.json").write_bytes(saved(genesis_text))
    ran = run("start", "--dry-run")
    assert ran.code == ExitCode.CONFIG
    assert "save it as UTF-8" in ran.stderr


@pytest.mark.parametrize("saved", [*READ.values(), REFUSED["utf-16"], REFUSED["utf-16 unmarked"]])
def test_clearings_are_json_in_any_of_unicodes_encodings(run, tmp_path: Path, saved: Saved) -> None:
    place = {"loc": "BKK-01-SUB001", "wh": 1000}
    sell = {"id": "s", "side": "sell", "limit": 3000, "source": "solar", **place}
    buy = {"id": "b", "side": "buy", "limit": 4000, "source": "any", **place}
    path = tmp_path / "book.json"
    path.write_bytes(saved(json.dumps({"orders": [sell, buy]}, indent=1)))
    ran = run("trade", "clear", path, "--json")
    assert ran.code == 0
    assert len(ran.document["trades"]) == 1


def test_a_transaction_in_a_file_of_windows(run, tmp_path: Path) -> None:
    to = Transfer(dev_key("other").public_key, Asset.THB, 5)
    text = f"{encode(sign_transaction(dev_key('me'), bytes(32), 0, to)).hex()}\n"
    path = tmp_path / "tx.hex"
    for saved in READ.values():
        path.write_bytes(saved(text))
        ran = run("tx", "decode", path, "--json")
        assert ran.code == 0
    path.write_bytes(text.encode("utf-16"))  # As `>` of PowerShell writes.
    ran = run("tx", "decode", path)
    assert ran.code == ExitCode.BAD_DATA
    assert "is UTF-16 text: save it as UTF-8" in ran.stderr


def test_an_environment_file_of_windows(run, home: Path) -> None:
    settings = {"GRIDTOKENX_API__PORT": "1234\r", "GRIDTOKENX_API__HOST": "127.0.0.1\r"}
    shown = run("config", "show", "--json", **settings).document["settings"]
    assert (shown["api.port"], shown["api.host"]) == (1234, "127.0.0.1")
