"""Blocks: what a hash covers, what travels, which fields are fixed."""

from dataclasses import fields, replace

import pytest

from gridtokenx.chain.block import (
    MAX_BLOCK_BYTES,
    Block,
    CompactBlock,
    Header,
    commit_hash,
    compact,
    decode_block,
    has_its_body,
    results_root,
    transactions_root,
)
from gridtokenx.chain.transaction import MAX_TRANSACTION_BYTES
from gridtokenx.interchain.model import HaltOrder
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.crypto import ZERO_HASH, sha256, tagged_hash
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.merkle import EMPTY_ROOT, merkle_root

HEADER = Header(
    chain_id=sha256(b"chain"),
    height=7,
    view0=1,
    time_ms=1_000,
    parent_hash=sha256(b"parent"),
    proposer_index=2,
    set_hash=sha256(b"set"),
    next_set_hash=sha256(b"set"),
    transactions_root=EMPTY_ROOT,
    state_root=sha256(b"state"),
    results_root=sha256(b"results"),
    outbox_root=EMPTY_ROOT,
    outbox_count=0,
    inbox_next=0,
    inbox_root=EMPTY_ROOT,
    root_height=0,
    root_hash=ZERO_HASH,
    history_root=sha256(b"history"),
    last_commit_hash=commit_hash(b"commit"),
    evidence_root=EMPTY_ROOT,
)


def test_the_hash_covers_every_field() -> None:
    assert HEADER.hash == tagged_hash("gtx.hdr", encode(HEADER))
    hashes = {HEADER.hash}
    for field in fields(Header):
        value = getattr(HEADER, field.name)
        other = value + 1 if isinstance(value, int) else sha256(value)
        hashes.add(replace(HEADER, **{field.name: other}).hash)
    assert len(hashes) == len(fields(Header)) + 1


def test_a_header_commits_to_each_part_of_its_body() -> None:
    order = HaltOrder("BKK", "drill", 0)
    header = replace(HEADER, inbox_root=merkle_root([encode(order)]))
    assert has_its_body(header, [], b"commit", (), (order,))
    assert not has_its_body(header, [sha256(b"more")], b"commit", (), (order,))
    assert not has_its_body(header, [], b"other", (), (order,))
    assert not has_its_body(header, [], b"commit", (), ())
    assert not has_its_body(replace(header, evidence_root=ZERO_HASH), [], b"commit", (), (order,))


def test_a_block_and_its_compact_form() -> None:
    block = Block(HEADER, (b"first", b"second"), b"commit", ())
    assert decode_block(block.encoded) == block
    assert decode_block(block.encoded).encoded == block.encoded
    ids = [sha256(b"first"), sha256(b"second")]
    small = compact(block, ids)
    assert decode(CompactBlock, encode(small)) == small
    assert small.header.hash == block.header.hash
    assert small.last_commit == b"commit"


def test_roots_are_those_of_the_lists() -> None:
    ids = [sha256(b"a"), sha256(b"b")]
    assert transactions_root(ids) == merkle_root(ids)
    assert transactions_root([]) == results_root([]) == EMPTY_ROOT


def test_a_commits_hash_has_its_own_domain() -> None:
    assert commit_hash(b"") != sha256(b"")
    assert commit_hash(b"a") != commit_hash(b"b")


def test_limits_of_a_block() -> None:
    with pytest.raises(Rejected, match="TOO_LARGE"):
        decode_block(bytes(MAX_BLOCK_BYTES + 1))
    for wrong in (
        Block(HEADER, (b"",), b"", ()),
        Block(HEADER, (bytes(MAX_TRANSACTION_BYTES + 1),), b"", ()),
        Block(HEADER, (), bytes(16 * 1024 + 1), ()),
        Block(replace(HEADER, chain_id=b"short"), (), b"", ()),
    ):
        with pytest.raises(Rejected, match="OUT_OF_RANGE"):
            decode_block(wrong.encoded)
