"""One folder, one writer, one synced batch a block: what survives what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridtokenx.ledger.model import ACCOUNTS, Account
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.state import MemoryReader, Overlay, u64
from gridtokenx.storage.database import (
    MAX_ABSENT,
    SCHEMA,
    BlockWrite,
    Database,
    DatabaseError,
    StateReader,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "data")
    yield database
    database.close()


def block(height: int, **changes) -> BlockWrite:
    values = {
        "height": height,
        "hash": sha256(b"block %d" % height),
        "block": b"body %d" % height,
        "certificate": b"certificate %d" % height,
        "transaction_ids": (sha256(b"tx %d.0" % height), sha256(b"tx %d.1" % height)),
        "state": [(b"la" + b"a" * 32, encode(Account(nonce=height)))],
        "index": [(b"row %d" % height, b"value")],
    }
    return BlockWrite(**(values | changes))


def test_a_block_is_written_whole_and_found_again(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.chain("MET").write_block(block(1))
    database.close()
    database = Database(tmp_path)
    chain = database.chain("MET")
    assert chain.head() == (1, sha256(b"block 1"))
    assert chain.block(1) == b"body 1"
    assert chain.certificate(1) == b"certificate 1"
    assert chain.height_of(sha256(b"block 1")) == 1
    assert chain.place_of(sha256(b"tx 1.1")) == (1, 1)
    assert ACCOUNTS.get(chain, b"a" * 32) == Account(nonce=1)
    assert list(chain.state_values()) == [(b"la" + b"a" * 32, encode(Account(nonce=1)))]
    assert chain.index_get(b"row 1") == b"value"
    database.close()


def test_what_is_not_there_is_none(database: Database) -> None:
    chain = database.chain("MET")
    assert chain.head() is None
    assert chain.block(1) is None
    assert chain.certificate(1) is None
    assert chain.height_of(sha256(b"x")) is None
    assert chain.place_of(sha256(b"x")) is None
    assert chain.load_safety() is None
    assert chain.candidate(sha256(b"x")) is None
    assert ACCOUNTS.get(chain, b"a" * 32) is None
    assert list(ACCOUNTS.items(chain)) == []


def test_a_removed_key_is_gone(database: Database) -> None:
    chain = database.chain("MET")
    chain.write_block(block(1))
    chain.write_block(block(2, state=[(b"la" + b"a" * 32, None)]))
    assert ACCOUNTS.get(chain, b"a" * 32) is None


def test_chains_do_not_see_each_other(database: Database) -> None:
    """Also where one name begins like the other."""
    names = ("ME", "MET", "METS", "NOR")
    for number, name in enumerate(names):
        state = [(b"la" + bytes([number]) * 32, encode(Account(nonce=number)))]
        database.chain(name).write_block(block(number + 1, state=state))
    for number, name in enumerate(names):
        chain = database.chain(name)
        assert chain.head() == (number + 1, sha256(b"block %d" % (number + 1)))
        assert [account.nonce for _, account in ACCOUNTS.items(chain)] == [number]
        assert [row for row, _ in chain.index_rows(b"")] == [b"row %d" % (number + 1)]
        assert [key for key, _ in chain.state_values()] == [b"la" + bytes([number]) * 32]


def test_scans_are_in_key_order_and_stop_at_their_prefix(database: Database) -> None:
    chain = database.chain("MET")
    keys = [b"\x00", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff"]
    chain.write_block(block(1, index=[(key, b"") for key in keys]))
    assert [key for key, _ in chain.index_rows(b"")] == sorted(keys)
    assert [key for key, _ in chain.index_rows(b"a")] == keys[1:5]
    assert [key for key, _ in chain.index_rows(b"a\xff")] == keys[3:5]
    assert [key for key, _ in chain.index_rows(b"a", b"a\x00")] == keys[2:5]


def test_the_schemas_row_belongs_to_no_chain(database: Database) -> None:
    assert list(database.chain("schema").rows(b"")) == []


def test_candidates_live_until_the_next_block(database: Database) -> None:
    chain = database.chain("MET")
    one, two = sha256(b"one"), sha256(b"two")
    chain.save_safety(b"record 1", [(one, b"body one")])
    chain.save_safety(b"record 2", [(one, b"never written twice"), (two, b"body two")])
    assert chain.load_safety() == b"record 2"
    assert (chain.candidate(one), chain.candidate(two)) == (b"body one", b"body two")
    chain.write_block(block(1))
    assert (chain.candidate(one), chain.candidate(two)) == (None, None)
    assert chain.load_safety() == b"record 2"


def test_a_view_stays_as_it_was(database: Database) -> None:
    chain = database.chain("MET")
    chain.write_block(block(1))
    view = chain.view()
    chain.write_block(block(2))
    assert view.head() == (1, sha256(b"block 1"))
    assert view.block(2) is None
    assert ACCOUNTS.get(view, b"a" * 32) == Account(nonce=1)
    assert [key for key, _ in view.index_rows(b"")] == [b"row 1"]
    assert chain.head() == (2, sha256(b"block 2"))


def test_a_views_scans_show_no_newer_value(database: Database) -> None:
    chain = database.chain("MET")
    chain.write_block(block(1))
    view = chain.view()
    newer = [(b"la" + b"a" * 32, encode(Account(nonce=2))), (b"lab", encode(Account()))]
    chain.write_block(block(2, state=newer, index=[(b"row 0", b"later"), (b"row 1", b"changed")]))
    assert list(ACCOUNTS.items(view)) == [(b"a" * 32, Account(nonce=1))]
    assert list(view.index_rows(b"")) == [(b"row 1", b"value")]
    assert list(view.index_rows(b"row 1", b"row 1")) == [(b"row 1", b"value")]


def test_a_view_that_is_still_held_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.chain("MET").write_block(block(1))
    view = database.chain("MET").view()
    database.close()
    for read in (view.head, lambda: list(view.index_rows(b""))):
        with pytest.raises(RuntimeError, match="closed"):
            read()
    again = Database(tmp_path)
    assert again.chain("MET").head() == (1, sha256(b"block 1"))
    again.close()


def test_the_writers_reader_follows_its_blocks(database: Database) -> None:
    chain = database.chain("MET")
    reader = StateReader(chain, generation_entries=2)
    for height in range(2, 8):
        overlay = Overlay(reader)
        ACCOUNTS.put(overlay, b"a" * 32, Account(nonce=height))
        ACCOUNTS.put(overlay, bytes([height]) * 32, Account(nonce=height))
        if height > 3:
            ACCOUNTS.delete(overlay, bytes([height - 2]) * 32)
        chain.write_block(block(height, state=overlay.changes()))
        reader.absorb(overlay.changed())
        assert ACCOUNTS.get(reader, b"a" * 32) == Account(nonce=height)
        assert list(ACCOUNTS.items(reader)) == list(ACCOUNTS.items(chain))
        assert ACCOUNTS.get(reader, bytes([height - 2]) * 32) is None
    assert len(reader._cache) <= 2
    assert len(reader._older) <= 2


def test_what_is_read_often_stays_decoded_while_what_is_not_makes_room(database: Database) -> None:
    chain = database.chain("MET")
    often, overlay = b"a" * 32, Overlay(MemoryReader())
    owners = [number.to_bytes(32, "big") for number in range(20)]
    for owner in (often, *owners):
        ACCOUNTS.put(overlay, owner, Account(nonce=1))
    chain.write_block(block(1, state=overlay.changes()))
    reader = StateReader(chain, generation_entries=4)
    kept = ACCOUNTS.get(reader, often)
    first = ACCOUNTS.get(reader, owners[0])
    for owner in owners[1:]:
        ACCOUNTS.get(reader, owner)
        assert ACCOUNTS.get(reader, often) is kept
    assert ACCOUNTS.get(reader, owners[0]) is not first


def test_what_few_transactions_leave_behind_is_not_kept_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridtokenx.storage.database.GENERATION_BLOCKS", 5)
    chain = database.chain("MET")
    reader = StateReader(chain)
    often = b"a" * 32
    for height in range(1, 25):
        overlay = Overlay(reader)
        ACCOUNTS.put(overlay, height.to_bytes(32, "big"), Account(nonce=1))
        if height == 1:
            ACCOUNTS.put(overlay, often, Account(nonce=1))
        chain.write_block(block(height, state=overlay.changes()))
        reader.absorb(overlay.changed())
        kept = ACCOUNTS.get(reader, often)
        assert ACCOUNTS.get(reader, often) is kept
    assert len(reader._cache) + len(reader._older) <= 2 * (5 + 1)
    assert ACCOUNTS.get(reader, (1).to_bytes(32, "big")) == Account(nonce=1)


def test_a_key_that_the_reader_knew_to_be_absent_appears_with_its_block(
    database: Database,
) -> None:
    chain = database.chain("MET")
    reader = StateReader(chain)
    owner = b"a" * 32
    assert ACCOUNTS.get(reader, owner) is None
    assert ACCOUNTS.get(reader, owner) is None
    for height, account in ((1, Account(nonce=1)), (2, None), (3, Account(nonce=3))):
        overlay = Overlay(reader)
        if account is None:
            ACCOUNTS.delete(overlay, owner)
        else:
            ACCOUNTS.put(overlay, owner, account)
        chain.write_block(block(height, state=overlay.changes()))
        reader.absorb(overlay.changed())
        assert ACCOUNTS.get(reader, owner) == account
    for number in range(2 * MAX_ABSENT):
        assert ACCOUNTS.get(reader, number.to_bytes(32, "big")) is None
    assert len(reader._absent) <= MAX_ABSENT


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


OPEN = """
import sys
from pathlib import Path
from gridtokenx.storage.database import Database
from gridtokenx.runtime.stopping import DatabaseError
try:
    Database(Path(sys.argv[1]))
except DatabaseError as error:
    print(error)
"""


def test_a_second_process_is_told_who_has_the_folder(database: Database) -> None:
    said = run_python(OPEN, str(database.path)).stdout
    assert said.startswith(f"GTX-DB-001: node {os.getpid()} (since ")
    assert str(database.path) in said


def test_a_closed_folder_can_be_opened_again(tmp_path: Path) -> None:
    Database(tmp_path).close()
    assert run_python(OPEN, str(tmp_path)).stdout == ""
    Database(tmp_path).close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.chain("MET").write_block(block(1))
    database.write([(b"schema", u64(SCHEMA + 1))])
    database.close()
    with pytest.raises(DatabaseError, match=rf"GTX-DB-002.*schema {SCHEMA + 1}.*data is intact"):
        Database(tmp_path)
    with pytest.raises(DatabaseError, match="GTX-DB-002"):
        Database(tmp_path)  # The first refusal has let the folder go.


COMMIT = """
import sys
from pathlib import Path
from tests.unit.storage.test_database import Database, commit_stream
commit_stream(Database(Path(sys.argv[1])))
"""


def commit_stream(database: Database) -> None:
    """Commit small blocks with their state tree for ever, telling each height when it is done."""
    from gridtokenx.chain.state_tree import StateTree

    chain = database.chain("MET")
    tree = StateTree(chain.state_values())
    height = (chain.head() or (0, b""))[0]
    while True:
        height += 1
        state: list[tuple[bytes, bytes | None]] = [
            (b"la" + sha256(b"%d.%d" % (height % 7, number)), encode(Account(nonce=height)))
            for number in range(20)
        ]
        state.append((b"la" + sha256(b"%d.0" % ((height + 3) % 7)), None))
        update = tree.update(state)
        chain.write_block(block(height, block=update.root, state=state))
        tree.apply(update)
        sys.stdout.write(f"{height}\n")
        sys.stdout.flush()


def test_kill_9_at_any_instant_leaves_the_end_of_a_block(tmp_path: Path) -> None:
    """Head, body, state and tree always tell of the same block, and none that was told is lost."""
    from gridtokenx.chain.state_tree import StateTree

    told = 0
    for kill in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMIT, str(tmp_path)],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(1 + kill % 4):
            told = int(process.stdout.readline())
        process.kill()
        process.communicate()
        database = Database(tmp_path)
        chain = database.chain("MET")
        head = chain.head()
        assert head is not None
        height, block_hash = head
        assert height >= told
        assert block_hash == sha256(b"block %d" % height)
        assert chain.block(height + 1) is None
        rebuilt = StateTree(chain.state_values())
        assert rebuilt.root == chain.block(height)
        assert max(account.nonce for _, account in ACCOUNTS.items(chain)) == height
        database.close()
