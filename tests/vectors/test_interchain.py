"""The published vector of messages between chains, by the formulas of the documents alone.

SHA-256, Ed25519 and CBOR are libraries here, positions of fields come from the CDDL: nothing of
what made the vector takes part in reading it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cbor2
from nacl.signing import VerifyKey

PROTOCOLS = Path(__file__).parents[2] / "protocols"
VECTOR = json.loads((PROTOCOLS / "vectors" / "interchain.json").read_text(encoding="utf-8"))
IDS = {name: bytes.fromhex(one) for name, one in VECTOR["genesis_ids"].items()}


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def fields(raw: bytes, file: str, rule: str) -> dict[str, Any]:
    """The fields of an encoded value by their names in a CDDL rule, whose tag is checked."""
    text = (PROTOCOLS / "wire" / file).read_text(encoding="utf-8")
    found = re.search(rf"^{rule} = \[\n  (\d+),\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None, rule
    names = re.findall(r"^  (\w+):", found[2], re.MULTILINE)
    tag, *values = cbor2.loads(raw)
    assert tag == int(found[1])
    return dict(zip(names, values, strict=True))


def header_of(row: dict[str, Any]) -> dict[str, Any]:
    raw = bytes.fromhex(row["header"])
    return fields(raw, "chain.cddl", "header") | {"hash": sha256(b"gtx.hdr", raw)}


def merkle_root(items: list[bytes]) -> bytes:
    """protocols/state-transition.md 7: the larger left half is a perfect tree (RFC 6962)."""
    if len(items) < 2:
        return sha256(b"\x00", items[0]) if items else sha256()
    half = 1 << (len(items) - 1).bit_length() - 1
    return sha256(b"\x01", merkle_root(items[:half]), merkle_root(items[half:]))


def head_after(head: bytes, source: str, destination: str, nonce: int, rows: list[bytes]) -> bytes:
    """protocols/interchain.md 2."""
    for number, raw in enumerate(rows, nonce):
        ids = (IDS[source], IDS[destination])
        head = sha256(b"gtx.msg", head, *ids, u64(number), sha256(raw))
    return head


def raws(row: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(one["encoded"]) for one in row["messages"]]


def test_the_national_chains_name() -> None:
    genesis_hash = bytes.fromhex(VECTOR["genesis_hash"])
    assert IDS[VECTOR["national"]] == sha256(b"gtx.national", genesis_hash)


def test_heads_of_logs_and_the_root_over_them() -> None:
    appended = 0
    for block in VECTOR["blocks"]:
        items, total = [], 0
        for log in block["logs"]:
            messages, nonce = raws(log), log["count_before"]
            before = bytes.fromhex(log["head_before"])
            assert (nonce == 0) == (before == bytes(32))
            head = head_after(before, block["chain"], log["destination"], nonce, messages)
            assert head.hex() == log["head"]
            count = nonce + len(messages)
            items.append((log["destination"], IDS[log["destination"]] + u64(count) + head))
            total, appended = total + count, appended + len(messages)
        header = header_of(block)
        assert header["outbox_root"] == merkle_root([item for _, item in sorted(items)])
        assert header["outbox_count"] == total
    assert appended == 6


def test_the_inbox_is_what_the_queue_has_next() -> None:
    inbox, (national, _) = VECTOR["inbox"], VECTOR["blocks"]
    header, messages = header_of(inbox), raws(VECTOR["inbox"])
    assert header["inbox_root"] == merkle_root(messages)
    assert header["inbox_next"] == inbox["inbox_next_before"] + len(messages)
    named = header_of(national)
    assert (header["root_height"], header["root_hash"]) == (named["height"], named["hash"])
    queued = next(raws(log) for log in national["logs"] if log["destination"] == "MET")
    assert messages[-len(queued) :] == queued


def test_a_checkpoint_is_what_its_header_and_its_validators_say() -> None:
    row = VECTOR["checkpoint"]
    command = fields(bytes.fromhex(row["command"]), "interchain.cddl", "submit-checkpoint")
    header = header_of({"header": command["header"].hex()})
    nonce, region = row["outbox_count_before"], command["region"]
    assert header["outbox_count"] == nonce + len(command["messages"])
    before = bytes.fromhex(row["outbox_head_before"])
    national = VECTOR["national"]
    head = head_after(before, region, national, nonce, command["messages"])
    assert header["outbox_root"] == merkle_root(
        [IDS[national] + u64(header["outbox_count"]) + head]
    )
    members = [(bytes.fromhex(key), weight) for key, weight in row["validators"]]
    listed = cbor2.dumps([[[key, weight] for key, weight in members]], canonical=True)
    assert header["set_hash"] == header["next_set_hash"] == sha256(b"gtx.vset", listed)
    certificate = fields(command["certificate"], "consensus.cddl", "quorum-certificate")
    named = (certificate["phase"], certificate["height"], certificate["block_hash"])
    assert named == (3, header["height"], header["hash"])
    place = u64(header["height"]) + certificate["view"].to_bytes(4, "big")
    signed = b"GTXv1" + b"\x03" + header["chain_id"] + place + header["hash"]
    for _, index, signature in certificate["signatures"]:
        VerifyKey(members[index][0]).verify(signed, signature)
    indexes = [index for _, index, _ in certificate["signatures"]]
    assert indexes == sorted(set(indexes))
    total = sum(weight for _, weight in members)
    assert 3 * sum(members[index][1] for index in indexes) > 2 * total


def test_a_later_incarnations_name() -> None:
    row = VECTOR["incarnation"]
    former, born = bytes.fromhex(row["former_chain_id"]), bytes.fromhex(row["chain_id"])
    header = header_of(row)
    assert former == header["chain_id"]
    assert born == sha256(b"gtx.incarnation", former, u64(row["incarnation"]), header["hash"])
