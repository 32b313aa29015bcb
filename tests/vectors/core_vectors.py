"""What another implementation must reproduce byte for byte. All keys are public test keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gridtokenx.chain.block import (
    Block,
    Header,
    Receipt,
    commit_hash,
    compact,
    results_root,
    transactions_root,
)
from gridtokenx.chain.state_tree import StateTree
from gridtokenx.chain.transaction import Payload, Transaction, sign_transaction
from gridtokenx.cluster.devnet import bundled_genesis, dev_key
from gridtokenx.grid.model import MeterReading, SubmitReadings, signed_bytes
from gridtokenx.ledger.model import (
    ACCOUNTS,
    Account,
    Asset,
    Deposit,
    RetireCredits,
    Transfer,
    Transferred,
    Withdraw,
)
from gridtokenx.primitives.codec import encode
from gridtokenx.primitives.crypto import ZERO_HASH, SigningKey, sha256
from gridtokenx.primitives.document import to_document
from gridtokenx.primitives.merkle import (
    EMPTY_ROOT,
    append_peak,
    leaf_hash,
    merkle_path,
    merkle_root,
    peaks_root,
)
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.trading.model import CancelOrder, PlaceOrder, Side, Source, TimeInForce

GENESIS = bundled_genesis()
MET = GENESIS.chain("MET")
ALICE = SigningKey(sha256(b"gridtokenx vector alice"))
BOB = SigningKey(sha256(b"gridtokenx vector bob"))
METER = SigningKey(sha256(b"gridtokenx vector meter"))
SLOT = 1_970_660

Vector = dict[str, Any]


def vector_files() -> dict[str, Any]:
    """File name to document."""
    return {
        "address.json": addresses(),
        "block.json": blocks(),
        "encoding.json": encodings(),
        "genesis.json": genesis(),
        "merkle.json": merkle(),
        "reading.json": readings(),
        "state_proof.json": state_proofs(),
        "transaction.json": transactions(),
    }


def addresses() -> Vector:
    keys = [bytes(32), b"\xff" * 32, ALICE.public_key, BOB.public_key]
    good = format_address(ALICE.public_key)
    return {
        "what": "bech32m (BIP-350) text of a 32-byte account, human-readable part gtx",
        "valid": [{"public_key": key.hex(), "text": format_address(key)} for key in keys],
        "invalid": [
            {"text": good[:-1] + ("q" if good[-1] != "q" else "p"), "why": "checksum"},
            {"text": good.upper(), "why": "upper case"},
            {"text": good[:-1], "why": "length"},
            {"text": "btc" + good[3:], "why": "prefix"},
            {"text": good[:9] + "b" + good[10:], "why": "character outside the set"},
        ],
    }


def unsigned_reading() -> MeterReading:
    return MeterReading(METER.public_key, SLOT, 12_000, 34_500, 7, bytes(64))


def signed_reading() -> MeterReading:
    unsigned = unsigned_reading()
    return replace(unsigned, signature=METER.sign(signed_bytes(MET.chain_id, unsigned)))


def readings() -> Vector:
    reading = signed_reading()
    return {
        "what": "what a device signs: domain, chain id, its key, then four u64 big-endian",
        "meter_seed": METER.seed.hex(),
        "chain_id": MET.chain_id.hex(),
        "reading": to_document(reading),
        "signed_bytes": signed_bytes(MET.chain_id, reading).hex(),
        "encoded": encode(reading).hex(),
    }


def payloads() -> list[Payload]:
    location = "BKK-01-SUB001"
    return [
        Transfer(BOB.public_key, Asset.ENERGY, 1_500),
        Deposit(BOB.public_key, 1_000_000_000),
        Withdraw(5_000_000),
        RetireCredits(250),
        RegisterParticipant(
            BOB.public_key, Role.PROSUMER, sha256(b"kyc"), LicenceClass.EXEMPT_LT_1000KVA,
            1_900_000_000_000, True, "BKK", 1, 500_000,
        ),
        RegisterMeter(
            METER.public_key, BOB.public_key, location, 15_000, 5_000, Generation.SOLAR,
            ProsumerClass.RESIDENTIAL, 100, 200,
        ),
        SubmitReadings((signed_reading(),)),
        PlaceOrder(
            Side.SELL, 5_000, 3_200, location, METER.public_key, Source.SOLAR, False,
            SLOT + 4, SLOT + 7, 1_250, TimeInForce.GOOD_TILL_CANCELLED, 1_800_000_000_000,
        ),
        CancelOrder(sha256(b"order")),
    ]  # fmt: skip


def signed_transactions() -> list[Transaction]:
    return [
        sign_transaction(ALICE, MET.chain_id, nonce, payload, fee_ugtx=nonce * 10)
        for nonce, payload in enumerate(payloads())
    ]


def transactions() -> Vector:
    first = signed_transactions()[0]
    return {
        "what": "signed commands of one account on chain MET of bootstrap/local",
        "sender_seed": ALICE.seed.hex(),
        "valid": [
            {
                "transaction": to_document(one),
                "payload_encoded": encode(one.payload).hex(),
                "signing_bytes": one.signing_bytes().hex(),
                "encoded": one.encoded.hex(),
                "id": one.id.hex(),
            }
            for one in signed_transactions()
        ],
        "bad_signature": [
            {"encoded": replace(first, nonce=1).encoded.hex(), "why": "another nonce"},
            {
                "encoded": replace(first, chain_id=GENESIS.chain("NOR").chain_id).encoded.hex(),
                "why": "another chain",
            },
            {
                "encoded": replace(first, sender=BOB.public_key).encoded.hex(),
                "why": "another sender",
            },
        ],
    }


def encodings() -> Vector:
    """Spellings of `Transfer` that decoding refuses, each with its code."""
    to = BOB.public_key.hex()
    good = encode(Transfer(BOB.public_key, Asset.ENERGY, 23)).hex()
    head = "84" + "1834" + "5820" + to + "01"
    wrong = [
        (head + "1817", "malformed", "23 in two bytes"),
        (head + "1b0000000000000017", "malformed", "23 in nine bytes"),
        (good + "00", "malformed", "a byte behind"),
        (good[:-2], "malformed", "cut off"),
        ("9f" + good[2:] + "ff", "malformed", "array of indefinite length"),
        ("9804" + good[2:], "malformed", "array length in two bytes"),
        (head + "f94dc0", "malformed", "float 23.0"),
        (head + "f5", "malformed", "true for a number"),
        (head + "f6", "malformed", "null for a number"),
        (head + "c24117", "malformed", "big number tag"),
        ("d9d9f7" + good, "malformed", "self-described CBOR"),
        ("84" + "1835" + good[6:], "malformed", "tag of another class"),
        ("83" + good[2:-2], "malformed", "a field too few"),
        ("85" + good[2:] + "00", "malformed", "a field too many"),
        (head + "00", "out_of_range", "amount 0"),
        (head + "1b8000000000000000", "out_of_range", "amount 2**63"),
        ("84" + "1834" + "5820" + to + "05" + "17", "out_of_range", "asset 5"),
        ("84" + "1834" + "581f" + to[2:] + "01" + "17", "out_of_range", "31-byte address"),
    ]
    return {
        "what": "one value, one spelling: a transfer (tag 52) and what must be refused",
        "valid": good,
        "refused": [{"encoded": raw, "code": code, "why": why} for raw, code, why in wrong],
    }


def header(ids: list[bytes], receipts: list[Receipt], last_commit: bytes) -> Header:
    peaks = append_peak((), 0, MET.chain_id)
    return Header(
        chain_id=MET.chain_id,
        height=1,
        view0=0,
        time_ms=GENESIS.genesis_time_ms + 1_000,
        parent_hash=MET.chain_id,
        proposer_index=2,
        set_hash=MET.genesis_validators.hash,
        next_set_hash=MET.genesis_validators.hash,
        transactions_root=transactions_root(ids),
        state_root=tree().root,
        results_root=results_root(receipts),
        outbox_root=EMPTY_ROOT,
        outbox_count=0,
        inbox_next=0,
        inbox_root=EMPTY_ROOT,
        root_height=0,
        root_hash=ZERO_HASH,
        history_root=peaks_root(peaks, 1),
        last_commit_hash=commit_hash(last_commit),
        evidence_root=EMPTY_ROOT,
    )


def blocks() -> Vector:
    """Hashes of a block; it is not one that the rules of the market would give."""
    included = signed_transactions()[:2]
    ids = [one.id for one in included]
    event = Transferred(ALICE.public_key, BOB.public_key, Asset.ENERGY, 1_500)
    receipts = [Receipt(ZERO_HASH, ()), Receipt(ids[0], (event,)), Receipt(ids[1], ())]
    block = Block(header(ids, receipts, b""), tuple(one.encoded for one in included), b"", ())
    return {
        "what": "encodings and hashes of one block; its contents are made up",
        "header": to_document(block.header),
        "header_encoded": encode(block.header).hex(),
        "block_hash": block.header.hash.hex(),
        "block_encoded": block.encoded.hex(),
        "compact_encoded": encode(compact(block, ids)).hex(),
        "receipts": [encode(receipt).hex() for receipt in receipts],
        "results_root": results_root(receipts).hex(),
        "commit_hashes": [
            {"last_commit": raw.hex(), "hash": commit_hash(raw).hex()} for raw in (b"", b"\x01")
        ],
    }


def genesis() -> Vector:
    return {
        "what": "identities that follow from bootstrap/local/genesis.json",
        "genesis_hash": GENESIS.hash.hex(),
        "chains": [
            {
                "name": name,
                "chain_id": GENESIS.chain(name).chain_id.hex(),
                "set_hash": GENESIS.chain(name).genesis_validators.hash.hex(),
                "validators": [
                    member.public_key.hex()
                    for member in GENESIS.chain(name).genesis_validators.members
                ],
            }
            for name in GENESIS.chain_names
        ],
        "egat_validator_seed": dev_key("egat validator 0").seed.hex(),
    }


def merkle() -> Vector:
    leaves = [bytes([number]) * (number % 4) for number in range(9)]
    peaks: tuple[bytes, ...] = ()
    ranges = []
    for count, leaf in enumerate(leaves):
        peaks = append_peak(peaks, count, leaf)
        ranges.append(
            {"count": count + 1, "peaks": _hexes(peaks), "root": peaks_root(peaks, count + 1).hex()}
        )
    return {
        "what": "RFC 6962 trees (odd node promoted) and the mountain range over the same leaves",
        "leaves": _hexes(leaves),
        "leaf_hashes": [leaf_hash(leaf).hex() for leaf in leaves],
        "roots": [
            {"count": count, "root": merkle_root(leaves[:count]).hex()}
            for count in range(len(leaves) + 1)
        ],
        "paths": [
            {"index": index, "count": count, "path": _hexes(merkle_path(leaves[:count], index))}
            for count in (1, 2, 5, 9)
            for index in range(count)
        ],
        "ranges": ranges,
    }


def tree() -> StateTree:
    tree = StateTree()
    tree.apply(tree.update((key, encode(value)) for key, value in accounts()))
    return tree


def accounts() -> list[tuple[bytes, Account]]:
    return [
        (ACCOUNTS.prefix + ALICE.public_key, Account(nonce=3, thb_uthb=5_000_000)),
        (ACCOUNTS.prefix + BOB.public_key, Account(energy_wh=1_500)),
    ]


def state_proofs() -> Vector:
    held = tree()
    (alice_key, alice), _ = accounts()
    absent = ACCOUNTS.prefix + METER.public_key
    proof, absence = held.prove(alice_key), held.prove(absent)
    richer = replace(alice, thb_uthb=6_000_000)

    def case(key: bytes, value: bytes | None, encoded_proof: bytes, valid: bool) -> Vector:
        return {
            "key": key.hex(),
            "value": None if value is None else value.hex(),
            "proof": encoded_proof.hex(),
            "valid": valid,
        }

    siblings = (sha256(b"forged"), *proof.siblings[1:])
    return {
        "what": "state of two accounts: keys, values, root, and proofs",
        "state": [
            {"key": key.hex(), "value": encode(value).hex(), "document": to_document(value)}
            for key, value in accounts()
        ],
        "root": held.root.hex(),
        "empty_root": StateTree().root.hex(),
        "proofs": [
            case(alice_key, encode(alice), encode(proof), True),
            case(absent, None, encode(absence), True),
            case(alice_key, encode(richer), encode(proof), False),
            case(alice_key, None, encode(proof), False),
            case(alice_key, None, encode(replace(proof, entries=b"")), False),
            case(alice_key, encode(alice), encode(replace(proof, siblings=siblings)), False),
            case(absent, encode(alice), encode(absence), False),
        ],
    }


def _hexes(values: Any) -> list[str]:
    return [value.hex() for value in values]
