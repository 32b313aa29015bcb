"""`keys` and the seed's `generate-keys`."""

import stat
from pathlib import Path

import pytest

from gridtokenx.cli import output, remote
from gridtokenx.cli.output import ExitCode
from gridtokenx.home import keystore

pytestmark = pytest.mark.usefixtures("fast_keys")


def test_generate_keys_makes_the_nodes_two_keys(run, home: Path, password_file: Path) -> None:
    ran = run("generate-keys", "--password-file", password_file, "--json")
    assert ran.code == 0
    assert [(key["name"], key["kind"]) for key in ran.document["keys"]] == [
        ("node", "node"),
        ("validator", "validator"),
    ]
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
    key = keystore.unlock(home / "keys" / "validator.json", "a long secret")
    assert key.public_key.hex() == ran.document["keys"][1]["public_key"]


def test_generate_keys_replaces_nothing_unless_forced(run, home: Path, password_file: Path) -> None:
    run("keys", "new", "validator", "--kind", "validator", "--password-file", password_file)
    before = (home / "keys" / "validator.json").read_bytes()
    ran = run("generate-keys", "--password-file", password_file)
    assert ran.code == ExitCode.REFUSED
    assert "validator.json exists already" in ran.stderr
    assert not (home / "keys" / "node.json").exists()
    assert (home / "keys" / "validator.json").read_bytes() == before
    assert run("generate-keys", "--password-file", password_file, "--force").code == 0
    (kept,) = (home / "keys").glob("*.bak")
    assert kept.read_bytes() == before


def test_new_list_and_show(run, home: Path, password_file: Path) -> None:
    assert "no keys here yet" in run("keys", "list").stdout
    assert run("keys", "list", "--json").document == {"keys": [], "unusable": []}
    made = run("keys", "new", "roof", "--kind", "meter", "--password-file", password_file, "--json")
    assert made.document["kind"] == "meter"
    assert run("keys", "show", "roof", "--json").document == made.document
    listed = run("keys", "list").stdout
    assert listed.split() == ["roof", "meter", made.document["address"]]
    assert str(home / "keys" / "roof.json") in run("keys", "show", "roof").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["keys", "new", "a", "--kind", "master"], 2, "a key is one of node, validator, account"),
        (["keys", "new", "../a"], 2, "is no key name"),
        (["keys", "show", "nobody"], 1, "there is no key file"),
        (["keys", "new", "a", "--password", "x"], 2, "No such option"),
        (["keys", "new", "a"], 2, "pass --password-file FILE"),
        (["keys", "new", "a", "--password-file", "/nowhere"], 1, "there is no password file"),
    ],
)
def test_mistakes_are_told(run, home: Path, words: list[str], code: int, told: str) -> None:
    ran = run(*words)
    assert ran.code == code
    assert told in ran.stderr
    assert not (home / "keys").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o610, 0o604])
def test_a_password_file_open_to_others_is_refused(run, password_file: Path, mode: int) -> None:
    password_file.chmod(mode)
    ran = run("generate-keys", "--password-file", password_file)
    assert ran.code == ExitCode.PERMISSION
    assert f"hint: chmod 600 {password_file}" in ran.stderr


def test_a_key_file_open_to_others_is_refused_and_hides_no_other(
    run, home: Path, password_file: Path
) -> None:
    for name in ("a", "b"):
        run("keys", "new", name, "--password-file", password_file)
    path = home / "keys" / "a.json"
    path.chmod(0o640)
    ran = run("keys", "show", "a")
    assert ran.code == ExitCode.PERMISSION
    assert f"hint: chmod 600 {path}" in ran.stderr
    ran = run("keys", "list", "--json")
    assert ran.code == 0
    assert [key["name"] for key in ran.document["keys"]] == ["b"]
    assert [(one["reason"], one["hint"]) for one in ran.document["unusable"]] == [
        ("permissions", f"chmod 600 {path}")
    ]
    assert f"{path} has mode 0640" in ran.stderr


def test_the_only_good_account_key_signs_beside_foreign_files(
    run, home: Path, password_file: Path
) -> None:
    run("keys", "new", "mine", "--password-file", password_file)
    (home / "keys" / "package.json").write_text("{}")
    (home / "keys" / "package.json").chmod(0o600)
    output.set_options(output.Options(home=home))
    assert remote.own_key(None, password_file) == ("mine", password_file)


def test_a_new_password_seals_the_key_anew(
    run, home: Path, tmp_path: Path, password_file: Path
) -> None:
    run("keys", "new", "a", "--password-file", password_file)
    new = tmp_path / "new"
    new.write_text("another long secret")
    new.chmod(0o600)
    run("keys", "new", "b", "--password-file", password_file)
    files = ("--password-file", password_file, "--new-password-file", new)
    ran = run("keys", "password", "a", "b", *files, "--json")
    assert ran.code == 0
    for key in ran.document["keys"]:
        path = home / "keys" / f"{key['name']}.json"
        assert keystore.unlock(path, "another long secret").public_key.hex() == key["public_key"]
    run("keys", "new", "c", "--password-file", password_file)
    ran = run("keys", "password", "c", "a", *files)  # All of them or none.
    assert ran.code == ExitCode.PERMISSION
    assert "the password does not open" in ran.stderr
    assert keystore.unlock(home / "keys" / "c.json", "a long secret")


def test_on_a_terminal_the_password_is_asked_for_twice(
    run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridtokenx.cli.output.has_terminal", lambda: True)
    ran = run("keys", "new", "a", "--json", typed="typed-secret\ntyped-secret\n")
    assert ran.code == 0
    assert ran.document["name"] == "a"
    assert "Password of the new key a" in ran.stderr
    assert "typed-secret" not in ran.stdout + ran.stderr
    assert keystore.unlock(home / "keys" / "a.json", "typed-secret").public_key
    ran = run("keys", "new", "b", typed="typed-secret\nother\n")
    assert ran.code != 0
    assert not (home / "keys" / "b.json").exists()
