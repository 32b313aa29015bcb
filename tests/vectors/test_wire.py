"""The published vectors: current, and consistent when read from the file alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from gridtokenx.chain.block import Header, decode_block
from gridtokenx.chain.genesis import parse_genesis
from gridtokenx.chain.state_tree import StateProof, verify_state_proof
from gridtokenx.chain.transaction import Payload, Transaction, decode_transaction
from gridtokenx.grid.model import MeterReading
from gridtokenx.ledger.model import Transfer
from gridtokenx.primitives.codec import decode
from gridtokenx.primitives.crypto import SigningKey, verify
from gridtokenx.primitives.document import from_document
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.merkle import verify_path
from gridtokenx.primitives.types import format_address, parse_address
from tests.vectors.generate import PROTOCOLS, files


def load(name: str) -> dict:
    return json.loads((PROTOCOLS / "vectors" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(files()), ids=lambda path: path.name)
def test_the_published_file_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == files()[path], "run python -m tests.vectors.generate"


def test_the_page_lists_every_command_with_its_tag() -> None:
    page = (PROTOCOLS / "state-transition.md").read_text(encoding="utf-8")
    table = page[page.index("## 2. Transactions") : page.index("The sender signs")]
    listed = re.findall(r"(\d+) ([A-Z]\w+)", table.partition("| rules |")[2])
    wire = (PROTOCOLS / "wire").glob("*.cddl")
    cddl = "".join(path.read_text() for path in wire if path.stem != "consensus")  # Its own `vote`.
    tags = dict(re.findall(r"^([a-z-]+) = \[\s*(\d+)\b", cddl, re.MULTILINE))
    names = [one.__name__ for one in get_args(Payload)]
    spelled = [re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in names]
    assert sorted(listed) == sorted(
        (tags[it], name) for it, name in zip(spelled, names, strict=True)
    )


def test_transactions() -> None:
    vectors = load("transaction.json")
    key = SigningKey(bytes.fromhex(vectors["sender_seed"]))
    for vector in vectors["valid"]:
        transaction = decode_transaction(bytes.fromhex(vector["encoded"]))
        assert transaction == from_document(Transaction, vector["transaction"])
        assert transaction.id.hex() == vector["id"]
        assert key.sign(bytes.fromhex(vector["signing_bytes"])) == transaction.signature
        assert transaction.is_signed()
    for vector in vectors["bad_signature"]:
        assert not decode_transaction(bytes.fromhex(vector["encoded"])).is_signed()


def test_spellings() -> None:
    vectors = load("encoding.json")
    assert decode(Transfer, bytes.fromhex(vectors["valid"])).amount == 23
    for vector in vectors["refused"]:
        with pytest.raises(Rejected) as caught:
            decode(Transfer, bytes.fromhex(vector["encoded"]))
        assert caught.value.code.reason == vector["code"], vector["why"]


def test_blocks() -> None:
    vectors = load("block.json")
    header = decode(Header, bytes.fromhex(vectors["header_encoded"]))
    assert header == from_document(Header, vectors["header"])
    assert header.hash.hex() == vectors["block_hash"]
    assert decode_block(bytes.fromhex(vectors["block_encoded"])).header == header


def test_identities() -> None:
    vectors = load("genesis.json")
    text = (PROTOCOLS.parent / "bootstrap" / "local" / "genesis.json").read_text(encoding="utf-8")
    genesis = parse_genesis(text)
    assert genesis.hash.hex() == vectors["genesis_hash"]
    for vector in vectors["chains"]:
        spec = genesis.chain(vector["name"])
        assert spec.chain_id.hex() == vector["chain_id"]
        assert spec.genesis_validators.hash.hex() == vector["set_hash"]


def test_trees() -> None:
    vectors = load("merkle.json")
    leaves = [bytes.fromhex(leaf) for leaf in vectors["leaves"]]
    roots = {vector["count"]: bytes.fromhex(vector["root"]) for vector in vectors["roots"]}
    for vector in vectors["paths"]:
        index, count = vector["index"], vector["count"]
        path = [bytes.fromhex(sibling) for sibling in vector["path"]]
        assert verify_path(roots[count], leaves[index], index, count, path)


def test_state_proofs() -> None:
    vectors = load("state_proof.json")
    for vector in vectors["proofs"]:
        proof = decode(StateProof, bytes.fromhex(vector["proof"]))
        value = None if vector["value"] is None else bytes.fromhex(vector["value"])
        key, root = bytes.fromhex(vector["key"]), bytes.fromhex(vectors["root"])
        assert verify_state_proof(root, key, value, proof) is vector["valid"]


def test_readings() -> None:
    vectors = load("reading.json")
    reading = decode(MeterReading, bytes.fromhex(vectors["encoded"]))
    assert reading == from_document(MeterReading, vectors["reading"])
    assert verify(reading.key, bytes.fromhex(vectors["signed_bytes"]), reading.signature)


def test_addresses() -> None:
    vectors = load("address.json")
    for vector in vectors["valid"]:
        assert format_address(bytes.fromhex(vector["public_key"])) == vector["text"]
        assert parse_address(vector["text"]).hex() == vector["public_key"]
    for vector in vectors["invalid"]:
        with pytest.raises(Rejected):
            parse_address(vector["text"])
