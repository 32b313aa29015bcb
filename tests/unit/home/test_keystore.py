"""Keys at rest: sealed, private, never overwritten, and bounded work on hostile files."""

import hashlib
import json
import os
import re
import stat
import threading
from pathlib import Path

import nacl.exceptions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.secret import SecretBox

from gridtokenx.home import keystore
from gridtokenx.home.keystore import KeyKind, KeystoreError, KeystoreReason
from gridtokenx.primitives.crypto import SigningKey, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def make(folder: Path, name: str = "validator", **options: object) -> keystore.KeyInfo:
    chosen = {"kind": KeyKind.VALIDATOR, "password": "secret", "development": True, **options}
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


def test_the_default_cost_is_three_passes_of_argon2id_over_128_mib(folder: Path) -> None:
    info = keystore.create(folder, "account", KeyKind.ACCOUNT, "a long secret")
    kdf = json.loads(info.path.read_text())["kdf"]
    assert (kdf["algorithm"], kdf["passes"], kdf["memory_kib"]) == ("argon2id", 3, 131_072)
    assert len(bytes.fromhex(kdf["salt"])) == 16
    assert keystore.unlock(info.path, "a long secret").public_key == info.address


def seal_as_before(info: keystore.KeyInfo, seed: bytes, password: bytes) -> None:
    """As key files were made until Argon2id: PBKDF2, the password's bytes as they came."""
    salt = bytes(range(32))
    box = SecretBox(hashlib.pbkdf2_hmac("sha256", password, salt, 10, 32))
    sealed = box.encrypt(seed + info.kind.value.encode())
    kdf = {"algorithm": "pbkdf2-hmac-sha256", "iterations": 10, "salt": salt.hex()}
    cipher = {"nonce": sealed.nonce.hex(), "ciphertext": sealed.ciphertext.hex()}
    rewrite(info.path, kdf=kdf, cipher={"algorithm": "xsalsa20-poly1305", **cipher})


@pytest.mark.parametrize("password", [b"secret", b"\xef\xbb\xbfsecret"])
def test_older_keys_open_and_a_new_password_seals_them_under_argon2id(
    folder: Path, password: bytes
) -> None:
    """Also one whose password file began with a byte order mark: it was part of the password."""
    seed = bytes(range(32))
    info = make(folder, seed=seed)
    seal_as_before(info, seed, password)
    assert keystore.read_info(info.path).kdf == "pbkdf2-hmac-sha256"
    assert keystore.unlock(info.path, "secret") == SigningKey(seed)
    with pytest.raises(KeystoreError) as raised:
        keystore.unlock(info.path, "Secret")
    assert reason_of(raised) is KeystoreReason.WRONG_PASSWORD
    changed = keystore.change_password(info.path, "secret", "a long secret")
    assert (changed.kdf, changed.address) == ("argon2id", info.address)
    assert keystore.unlock(info.path, "a long secret") == SigningKey(seed)
    assert keystore.has_never_signed(info.path, info.address)
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("password", "why"),
    [("elevenchars", "at least 12 characters, not 11"), ("a long\0secret", "NUL")],
)
def test_a_new_password_has_a_least_length(folder: Path, password: str, why: str) -> None:
    info = make(folder, "old")
    for use in (
        lambda: make(folder, "new", password=password, development=False),
        lambda: keystore.change_password(info.path, "secret", password),
    ):
        with pytest.raises(KeystoreError, match=why) as raised:
            use()
        assert reason_of(raised) is KeystoreReason.BAD_PASSWORD
    assert not (folder / "new.json").exists()
    assert keystore.unlock(info.path, "secret")


def test_too_little_memory_is_no_wrong_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = make(folder)

    def refuse(*_: object, **__: object) -> bytes:
        raise nacl.exceptions.RuntimeError("Unexpected failure in key derivation")

    monkeypatch.setattr("nacl.pwhash.argon2id.kdf", refuse)
    with pytest.raises(KeystoreError, match="MiB of memory are needed") as raised:
        keystore.unlock(info.path, "secret")
    assert reason_of(raised) is KeystoreReason.NO_MEMORY


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
    with pytest.raises(KeystoreError, match="mode 0644") as raised:
        keystore.unlock(info.path, "secret")
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
    assert [info.address for info in keystore.list_keys(folder)[0]] == [new.address]


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


PBKDF2 = {"algorithm": "pbkdf2-hmac-sha256", "iterations": 10, "salt": "00" * 32}


@pytest.mark.parametrize(
    "changes",
    [
        {"kdf__memory_kib": 2**30},  # 1 TiB
        {"kdf__memory_kib": 262_145},
        {"kdf__memory_kib": 10**30},
        {"kdf__memory_kib": 7},
        {"kdf__memory_kib": True},
        {"kdf__memory_kib": 128.5},
        {"kdf__passes": 11},
        {"kdf__passes": 0},
        {"kdf__passes": "3"},
        {"kdf": PBKDF2 | {"iterations": 10_000_001}},
        {"kdf": PBKDF2 | {"iterations": 10**30}},
        {"kdf": PBKDF2 | {"iterations": 0}},
        {"kdf": PBKDF2 | {"iterations": True}},
        {"kdf": PBKDF2 | {"iterations": 1.5}},
        {"kdf": PBKDF2 | {"salt": "00" * 31}},
        {"kdf__salt": "00" * 15},
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
    assert keystore.list_keys(folder) == ([], [])
    for name, kind in (("zed", "meter"), ("abe", "account")):
        make(folder, name, kind=kind)
    keys, others = keystore.list_keys(folder)
    assert [(info.name, info.kind) for info in keys] == [
        ("abe", KeyKind.ACCOUNT),
        ("zed", KeyKind.METER),
    ]
    assert others == []


def test_something_foreign_in_the_folder_hides_no_key(folder: Path) -> None:
    good, wide = make(folder, "good"), make(folder, "wide")
    wide.path.chmod(0o644)
    (folder / "foreign.json").write_text('{"name": "package"}')
    (folder / "foreign.json").chmod(0o600)
    (folder / "My Key.json").write_text(good.path.read_text())
    (folder / "dangling.json").symlink_to(folder / "nowhere")
    (folder / "endless.json").symlink_to(folder / "endless.json")
    (folder / "folder.json").mkdir()
    (folder / "notes.txt").write_text("no key and no JSON")
    os.mkfifo(folder / "pipe.json")
    keys, others = keystore.list_keys(folder)
    assert keys == [good]
    told = {re.findall(r"[\w ]+(?=\.json|\')", one.detail)[0]: one.reason for one in others}
    assert told == {
        "My Key": KeystoreReason.BAD_NAME,
        "dangling": KeystoreReason.NOT_FOUND,
        "endless": KeystoreReason.DAMAGED,
        "folder": KeystoreReason.DAMAGED,
        "foreign": KeystoreReason.DAMAGED,
        "pipe": KeystoreReason.DAMAGED,
        "wide": KeystoreReason.PERMISSIONS,
    }


def test_a_missing_key_is_told(folder: Path) -> None:
    with pytest.raises(KeystoreError, match="no key file") as raised:
        keystore.unlock(keystore.key_path(folder, "nobody"), "secret")
    assert reason_of(raised) is KeystoreReason.NOT_FOUND


def test_a_password_file_gives_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    for text in ("รหัส ผ่าน ", "รหัส ผ่าน \n", "รหัส ผ่าน \r\nsecond", "\ufeffรหัส ผ่าน \r\n"):
        path.write_bytes(text.encode())
        assert keystore.read_password_file(path) == "รหัส ผ่าน "


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"\n", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"\xff\xfe", 0o600, KeystoreReason.BAD_PASSWORD),
        ("secret".encode("utf-16"), 0o600, KeystoreReason.BAD_PASSWORD),
        ("secret".encode("utf-16-be"), 0o600, KeystoreReason.BAD_PASSWORD),
        (b"\xef\xbb\xbf\n", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"secret\xe9", 0o600, KeystoreReason.BAD_PASSWORD),
        (b"x" * 1025, 0o600, KeystoreReason.BAD_PASSWORD),
        (b"x" * 10**6, 0o600, KeystoreReason.BAD_PASSWORD),
        (b"secret", 0o640, KeystoreReason.PERMISSIONS),
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
