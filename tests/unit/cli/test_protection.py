"""`keys protection`: the safety record is shown, moved and never replaced by an older one."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gridtokenx.cli.output import ExitCode
from gridtokenx.consensus.events import SafetyRecord
from gridtokenx.consensus.messages import Phase, Vote
from gridtokenx.home import keystore
from gridtokenx.interchain.model import INCARNATIONS, AuthorityMember, Incarnation
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.state import u64
from gridtokenx.storage.database import Database

KEY = bytes([7]) * 32
pytestmark = pytest.mark.usefixtures("fast_keys")


def record(height: int, view: int = 0, votes: int = 1) -> SafetyRecord:
    vote = Vote(Phase.PREPARE, height, view, bytes(32), 0, bytes(64))
    return SafetyRecord(height, view, bytes(32), None, False, None, None, (vote,) * votes, None, ())


def store(home: Path, **records: SafetyRecord) -> None:
    database = Database(home / "data")
    for name, one in records.items():
        database.chain(name).save_safety(encode(one), ())
    database.close()


def stored(home: Path, name: str) -> SafetyRecord | None:
    database = Database(home / "data")
    raw = database.chain(name).load_safety()
    database.close()
    return None if raw is None else decode(SafetyRecord, raw)


@pytest.fixture
def validator(run, home: Path, password_file: Path) -> Path:
    """A home with a validator's key."""
    made = run("init", "--role", "validator", "--password-file", password_file)
    assert made.code == 0, made.stderr
    if not (home / "keys" / "validator.json").exists():
        assert run("generate-keys", "--password-file", password_file).code == 0
    return home


def test_show_tells_each_chains_record(run, validator: Path) -> None:
    fresh = run("keys", "protection", "show", "--json")
    assert fresh.code == 0, fresh.stderr
    assert (fresh.document["never_signed"], fresh.document["chains"]) == (True, {})
    store(validator, MET=record(7, 2))
    shown = run("keys", "protection", "show", "--json").document
    assert shown["chains"] == {"MET": {"height": "7", "view": 2, "messages": 1}}
    text = run("keys", "protection", "show").stdout
    assert "MET  height 7, view 2" in text
    assert "NOR  no record" in text


def test_an_export_is_imported_by_another_home_of_the_key(
    run, validator: Path, tmp_path: Path
) -> None:
    store(validator, MET=record(7), NOR=record(9, 1))
    file = tmp_path / "records.json"
    assert run("keys", "protection", "export", file).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("keys", "protection", "export", file).code == ExitCode.REFUSED  # Never replaced.
    (validator / "data").rename(tmp_path / "lost")
    taken = run("keys", "protection", "import", file, "--json")
    assert taken.document["changed"] == ["MET", "NOR"]
    assert (stored(validator, "MET"), stored(validator, "NOR")) == (record(7), record(9, 1))
    assert run("keys", "protection", "import", file, "--json").document["changed"] == []


def test_records_of_later_incarnations_move_along(run, validator: Path, tmp_path: Path) -> None:
    store(validator, **{"MET": record(7), "MET@2": record(9)})
    born = Incarnation("MET", 2, bytes(32), 8, bytes(32), 0, (AuthorityMember(KEY, 1, KEY),))
    database = Database(validator / "data")
    database.write([(b"TH/s" + INCARNATIONS.prefix + b"MET\x00" + u64(2), encode(born))])
    database.close()
    file = tmp_path / "records.json"
    assert run("keys", "protection", "export", file).code == 0
    assert "MET@2  height 9, view 0" in run("keys", "protection", "show").stdout
    (validator / "data").rename(tmp_path / "lost")
    taken = run("keys", "protection", "import", file, "--json")  # Where nobody knows of it yet.
    assert taken.document["changed"] == ["MET", "MET@2"]
    assert stored(validator, "MET@2") == record(9)
    store(validator, **{"MET@2": record(10)})
    assert "newer" in run("keys", "protection", "import", file).stderr
    text = file.read_text().replace("MET@2", "TH@2")
    file.write_text(text)
    assert "no chain 'TH@2'" in run("keys", "protection", "import", file).stderr


@pytest.mark.parametrize("newer", [record(8), record(7, 1), record(7, 0, votes=2)])
def test_an_older_record_never_replaces_a_newer_one_not_even_in_part(
    run, validator: Path, tmp_path: Path, newer: SafetyRecord
) -> None:
    store(validator, MET=record(7), NOR=record(50))
    file = tmp_path / "records.json"
    run("keys", "protection", "export", file)
    store(validator, MET=newer, NOR=record(40))
    ran = run("keys", "protection", "import", file)
    assert ran.code == ExitCode.REFUSED
    assert "GTX-KEY-001" in ran.stderr
    assert "newer" in ran.stderr
    assert (stored(validator, "MET"), stored(validator, "NOR")) == (newer, record(40))


def test_records_of_another_key_or_network_and_nonsense_are_refused(
    run, validator: Path, tmp_path: Path
) -> None:
    store(validator, MET=record(7))
    file = tmp_path / "records.json"
    run("keys", "protection", "export", file)
    good = json.loads(file.read_text())
    other = keystore.create(tmp_path / "other", "validator", "validator", "secret").address_text
    changes = (
        {"validator": other},
        {"genesis_hash": "00" * 32},
        {"version": 2},
        {"chains": {"XXX": good["chains"]["MET"]}},
        {"chains": {"MET": {"record": "00"}}},
        {"chains": []},
        {"chains": {"MET": {"record": "zz"}}},
    )
    for change in changes:
        file.write_text(json.dumps({**good, **change}))
        assert run("keys", "protection", "import", file).code == ExitCode.REFUSED, change
    for text in ("", "[]", "null", "[" * 10_000, "{"):
        file.write_text(text)
        assert run("keys", "protection", "import", file).code == ExitCode.REFUSED, text[:10]
    assert run("keys", "protection", "import", tmp_path / "none").code == ExitCode.REFUSED
    assert stored(validator, "MET") == record(7)


def test_init_wants_certainty_and_a_key_without_records(run, validator: Path) -> None:
    path = validator / "keys" / "validator.json"
    address = keystore.read_info(path).address
    keystore.mark_signing(path)
    assert run("keys", "protection", "init").code == ExitCode.USAGE
    assert not keystore.has_never_signed(path, address)
    assert run("keys", "protection", "init", "--i-am-sure").code == 0
    assert keystore.has_never_signed(path, address)
    keystore.mark_signing(path)
    store(validator, MET=record(7))
    assert run("keys", "protection", "init", "--i-am-sure").code == ExitCode.REFUSED
    assert not keystore.has_never_signed(path, address)


def test_nothing_is_touched_while_the_node_runs(run, validator: Path) -> None:
    database = Database(validator / "data")
    try:
        ran = run("keys", "protection", "show")
    finally:
        database.close()
    assert ran.code == ExitCode.RETRY_LATER
    assert "GTX-DB-001" in ran.stderr
