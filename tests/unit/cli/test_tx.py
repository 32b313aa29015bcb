"""`tx`: transactions read without a node, amounts exact, secrets and refusals told properly."""

from pathlib import Path

import pytest

from gridtokenx.answers.chain import ChainHead
from gridtokenx.answers.failure import Failure, FailureData
from gridtokenx.answers.transaction import TransactionStatus
from gridtokenx.chain.genesis import format_genesis
from gridtokenx.chain.transaction import Transaction, sign_transaction
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster.devnet import dev_key, local_genesis
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.types import format_address
from tests.support.answers import whole

NOWHERE = "http://127.0.0.1:9"
BOB = dev_key("bob")


def signed() -> Transaction:
    spec = local_genesis().chain("NOR")
    payload = Transfer(dev_key("eve").public_key, Asset.THB, 12_345_678)
    return sign_transaction(BOB, spec.chain_id, 3, payload)


def test_decode_takes_hex_a_file_of_hex_or_of_bytes(run, tmp_path: Path) -> None:
    raw = signed().encoded
    (tmp_path / "hex").write_text(f"0x{raw.hex()}\n")
    (tmp_path / "raw").write_bytes(raw)
    documents = [
        run("tx", "decode", given, "--json").document
        for given in (raw.hex(), tmp_path / "hex", tmp_path / "raw")
    ]
    assert documents[0] == documents[1] == documents[2]
    told = documents[0]
    assert (told["tx_id"], told["signed"], told["nonce"]) == (signed().id.hex(), True, "3")
    assert told["sender"] == format_address(BOB.public_key)
    assert told["payload"]["amount"] == "12345678"


def test_decode_names_the_chain_and_shows_units(run, home: Path) -> None:
    home.mkdir()
    (home / "genesis.json").write_text(format_genesis(local_genesis()))
    shown = run("tx", "decode", signed().encoded.hex()).stdout
    assert "chain        NOR" in shown
    assert "signature    is the sender's" in shown
    assert "amount  12.345678 THB" in shown


def test_decode_tells_a_forgery(run) -> None:
    true = signed()
    forged = Transaction(
        true.chain_id, true.sender, true.nonce, true.fee_ugtx, true.payload, bytes(64)
    )
    ran = run("tx", "decode", forged.encoded.hex())
    assert ran.code == 0
    assert "is NOT the sender's" in ran.stdout


@pytest.mark.parametrize("command", ["decode", "send"])
@pytest.mark.parametrize(
    ("given", "code"), [("00", 65), ("dead", 65), ("/nowhere", 1), ("/", 1), ("", 1)]
)
def test_what_is_no_transaction(run, command: str, given: str, code: int) -> None:
    ran = run("--rpc", NOWHERE, "tx", command, given)
    assert ran.code == code, ran.stderr
    assert ran.stderr.startswith("error [")


@pytest.mark.parametrize(
    ("asset", "amount", "code", "told"),
    [
        ("thb", "0", 1, "an amount of 0 moves nothing"),
        ("thb", "0.0000001", 1, "an amount in THB has at most 6 decimals"),
        ("gtx", "0.0000001", 1, "an amount in GTX has at most 6 decimals"),
        ("carbon", "-3", 1, "an amount in credits must not be negative"),
        ("energy", "1.2345", 1, "energy in kWh has at most 3 decimals"),
        ("gold", "1", 2, "one of energy, thb, gtx, carbon, not 'gold'"),
    ],
)
def test_amounts_are_exact_or_refused(run, asset: str, amount: str, code: int, told: str) -> None:
    to = format_address(BOB.public_key)
    words = ["--to", to, "--asset", asset, "--amount", amount, "--key", "me"]
    ran = run("--rpc", NOWHERE, "--json", "tx", "transfer", *words)
    assert ran.code == code
    assert told in ran.document["error"]["message"]


def test_a_wrong_password_signs_nothing(
    run, tmp_path: Path, fast_keys, password_file: Path, canned_node
) -> None:
    from gridtokenx.chain.genesis import format_genesis

    run("keys", "new", "me", "--password-file", password_file)
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    wrong.chmod(0o600)
    canned_node.results = {
        "chain_getHead": whole(ChainHead),
        "chain_getGenesis": {"genesis": format_genesis(local_genesis())},
    }
    words = ["--to", "me", "--asset", "thb", "--amount", "1", "--key", "me"]
    ran = run("--rpc", canned_node.url, "tx", "transfer", *words, "--password-file", wrong)
    assert ran.code == ExitCode.PERMISSION
    assert "error [keystore/wrong_password]" in ran.stderr
    assert not any(one["method"] == "tx_send" for one in canned_node.asked)


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ("finalized", 0, "finalized in MET #9"),
        ("pending", 0, "pending"),
        ("queued", 0, "queued: an earlier nonce of its sender is missing"),
        ("rejected", 1, "rejected [2006/expired]: too late"),
        ("unknown", 1, "unknown: this node has never had it"),
    ],
)
def test_status_says_where_a_transaction_is(
    run, canned_node, status: str, code: int, told: str
) -> None:
    error = {"code": 2006, "message": "too late", "data": {"reason": "expired"}}
    canned_node.results["tx_getStatus"] = {
        "tx_id": "ab" * 32,
        "chain": "MET",
        "status": status,
        "height": "9" if status == "finalized" else None,
        "error": error if status == "rejected" else None,
    }
    ran = run("--rpc", canned_node.url, "tx", "status", "0x" + "AB" * 32)
    assert ran.code == code
    assert ran.stdout.startswith(told)
    assert canned_node.asked[0]["params"] == {"id": "ab" * 32}


def test_waiting_for_a_refused_transaction_ends_with_its_reason(run, canned_node) -> None:
    data = whole(FailureData, reason="expired", hint="again")
    error = whole(Failure, code=2006, message="too late", data=data)
    row = whole(TransactionStatus, tx_id="ab" * 32, status="rejected", error=error)
    canned_node.results["tx_getStatuses"] = {"items": [row]}
    ran = run("--rpc", canned_node.url, "tx", "status", "ab" * 32, "--wait")
    assert ran.code == ExitCode.REFUSED
    assert ran.stderr.splitlines() == ["error [2006/expired]: too late", "hint: again"]
