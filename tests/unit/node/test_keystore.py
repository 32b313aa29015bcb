"""Keys at rest: sealed, private, never overwritten, and bounded work on hostile files."""

import json
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridtokenx.node import keystore
from gridtokenx.node.keystore import KeyKind, KeystoreError, KeystoreReason
from gridtokenx.primitives.crypto import SigningKey, verify

FAST = 10  # iterations: the derivation's cost is not under test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def make(folder: Path, name: str = "validator", **options: object) -> keystore.KeyInfo:
    chosen = {"kind": KeyKind.VALIDATOR, "password": "secret", "iterations": FAST, **options}
    return keystore.create(folder, name, **chosen)


def rewrite(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    for dotted, value in changes.items():
        *sections, name = dotted.split("__")
        target = document
        for section in sections:
            target = target[section]
        target[name] = value
    path.write_text(json.dumps(document))


def reason_of(raised: pytest.ExceptionInfo[KeystoreError]) -> KeystoreReason:
    return raised.value.reason


def test_a_key_signs_after_a_round_trip(folder: Path) -> None:
    info = make(folder)
    key = keystore.unlock(info.path, "secret")
    assert key.public_key == info.address
    assert verify(info.address, b"block", key.sign(b"block"))
    assert keystore.read_info(info.path) == info
    assert info.address_text.startswith("gtx1")


def test_the_given_seed_is_kept_but_not_readable(folder: Path) -> None:
    seed = bytes(range(32))
    info = make(folder, seed=seed)
    text = info.path.read_text()
    assert keystore.unlock(info.path, "secret") == SigningKey(seed)
    assert seed.hex() not in text
    assert "secret" not in text


def test_two_files_of_one_seed_and_password_share_no_secret_bytes(folder: Path) -> None:
    first, second = (make(folder, name, seed=bytes(32)) for name in ("a", "b"))
    sealed = [json.loads(info.path.read_text()) for info in (first, second)]
    assert sealed[0]["kdf"]["salt"] != sealed[1]["kdf"]["salt"]
    assert sealed[0]["cipher"]["ciphertext"] != sealed[1]["cipher"]["ciphertext"]


def test_the_default_cost_is_600000_iterations_of_pbkdf2(folder: Path) -> None:
    info = keystore.create(folder, "account", KeyKind.ACCOUNT, "secret")
    kdf = json.loads(info.path.read_text())["kdf"]
    assert (kdf["algorithm"], kdf["iterations"]) == ("pbkdf2-hmac-sha256", 600_000)
    assert len(bytes.fromhex(kdf["salt"])) == 32


def test_a_wrong_password_is_told(folder: Path) -> None:
    info = make(folder)
    with pytest.raises(KeystoreError, match="password does not open") as raised:
        keystore.unlock(info.path, "Secret")
    assert reason_of(raised) is KeystoreReason.WRONG_PASSWORD


def test_the_same_characters_composed_differently_are_the_same_password(folder: Path) -> None:
    info = make(folder, password="caf\u00e9 กำ")
    assert keystore.unlock(info.path, "cafe\u0301 กํา").public_key == info.address


@pytest.mark.parametrize("password", ["", "x" * 1025])
def test_an_empty_or_endless_password_is_refused(folder: Path, password: str) -> None:
    with pytest.raises(KeystoreError) as raised:
        make(folder, password=password)
    assert reason_of(raised) is KeystoreReason.BAD_PASSWORD
    assert not list(folder.iterdir())


def test_files_are_0600_in_a_0700_folder_with_nothing_left_over(folder: Path) -> None:
    info = make(folder, "account", kind=KeyKind.ACCOUNT)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["account.json"]


def test_a_file_others_may_read_is_refused_with_the_chmod_line(folder: Path) -> None:
    info = make(folder)
    info.path.chmod(0o644)
    for use in (lambda: keystore.unlock(info.path, "secret"), lambda: keystore.list_keys(folder)):
        with pytest.raises(KeystoreError, match="mode 0644") as raised:
            use()
        assert raised.value.hint == f"chmod 600 {info.path}"


def test_a_folder_others_may_enter_is_refused_with_the_chmod_line(folder: Path) -> None:
    info = make(folder)
    folder.chmod(0o750)
    for use in (lambda: keystore.unlock(info.path, "secret"), lambda: make(folder, "other")):
        with pytest.raises(KeystoreError) as raised:
            use()
        assert reason_of(raised) is KeystoreReason.PERMISSIONS
        assert raised.value.hint == f"chmod 700 {folder}"


def test_an_existing_key_is_never_overwritten(folder: Path) -> None:
    info = make(folder)
    before = info.path.read_bytes()
    with pytest.raises(KeystoreError) as raised:
        make(folder)
    assert reason_of(raised) is KeystoreReason.EXISTS
    assert info.path.read_bytes() == before


def test_force_keeps_the_old_key_aside(folder: Path) -> None:
    old = make(folder)
    before = old.path.read_bytes()
    new = make(folder, force=True)
    assert new.address != old.address
    (kept,) = folder.glob("validator.*.bak")
    assert kept.read_bytes() == before
    assert [info.address for info in keystore.list_keys(folder)] == [new.address]


def test_of_many_creating_the_same_key_exactly_one_succeeds(folder: Path) -> None:
    made, refused, start = [], [], threading.Barrier(8)

    def attempt() -> None:
        start.wait()
        try:
            made.append(make(folder))
        except KeystoreError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert refused == [KeystoreReason.EXISTS] * 7
    assert keystore.unlock(made[0].path, "secret").public_key == made[0].address


@pytest.mark.parametrize("name", ["", "../validator", "a/b", ".hidden", "Upper", "x" * 65, "a\n"])
def test_a_name_cannot_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(KeystoreError) as raised:
        make(folder, name)
    assert reason_of(raised) is KeystoreReason.BAD_NAME


@pytest.mark.parametrize(
    "changes",
    [
        {"kdf__iterations": 10_000_001},
        {"kdf__iterations": 10**30},
        {"kdf__iterations": 0},
        {"kdf__iterations": True},
        {"kdf__iterations": 1.5},
        {"kdf__salt": "00" * 31},
        {"kdf__salt": "zz" * 32},
        {"kdf__algorithm": "scrypt"},
        {"cipher__nonce": "00"},
        {"cipher__algorithm": "none"},
        {"version": 2},
        {"kind": "master"},
        {"kind": ["node"]},
        {"address": "gtx1qqqq"},
        {"address": 7},
        {"kdf": []},
    ],
)
def test_hostile_fields_are_refused_before_any_work(folder: Path, changes: dict) -> None:
    info = make(folder)
    rewrite(info.path, **changes)
    with pytest.raises(KeystoreError) as raised:
        keystore.unlock(info.path, "secret")
    assert reason_of(raised) is KeystoreReason.DAMAGED


def test_a_key_cannot_be_passed_off_as_another_kind_or_address(folder: Path) -> None:
    info, other = make(folder), make(folder, "other")
    rewrite(info.path, kind="account")
    with pytest.raises(KeystoreError, match="its kind"):
        keystore.unlock(info.path, "secret")
    rewrite(info.path, kind="validator", address=other.address_text)
    with pytest.raises(KeystoreError, match="its address"):
        keystore.unlock(info.path, "secret")


@settings(max_examples=50)
@given(data=st.binary(max_size=200) | st.just(b"[" * 20000) | st.just(b"[" * 5000))
def test_no_file_content_crashes_the_reader(tmp_path_factory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("keys")
    folder.chmod(0o700)
    path = folder / "x.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(KeystoreError) as raised:
        keystore.unlock(path, "secret")
    assert reason_of(raised) is KeystoreReason.DAMAGED


def test_keys_are_listed_by_name_without_a_password(folder: Path) -> None:
    assert keystore.list_keys(folder) == []
    for name, kind in (("zed", "meter"), ("abe", "account")):
        make(folder, name, kind=kind)
    assert [(info.name, info.kind) for info in keystore.list_keys(folder)] == [
        ("abe", KeyKind.ACCOUNT),
        ("zed", KeyKind.METER),
    ]


def test_a_missing_key_is_told(folder: Path) -> None:
    with pytest.raises(KeystoreError, match="no key file") as raised:
        keystore.unlock(keystore.key_path(folder, "nobody"), "secret")
    assert reason_of(raised) is KeystoreReason.NOT_FOUND


def test_a_password_file_gives_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes("รหัส ผ่าน\r\nsecond".encode())
    path.chmod(0o600)
    assert keystore.read_password_file(path) == "รหัส ผ่าน"


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"\n", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"\xff\xfe", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"secret", 0o644, KeystoreReason.PERMISSIONS),
        (None, 0, KeystoreReason.NOT_FOUND),
    ],
)
def test_bad_password_files_are_refused(
    tmp_path: Path, content: bytes | None, mode: int, reason: KeystoreReason
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(KeystoreError) as raised:
        keystore.read_password_file(path)
    assert reason_of(raised) is reason
