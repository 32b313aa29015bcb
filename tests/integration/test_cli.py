"""Every command that asks a node, on a real cluster: what is typed, signed, matched and shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gridtokenx.cli import app
from gridtokenx.client import Client
from gridtokenx.cluster.devnet import (
    DAILY_CAP_WH,
    LICENCE_EXPIRY_MS,
    PAYMENT,
    dev_key,
    operator_key,
)
from gridtokenx.home import keystore
from gridtokenx.ledger.model import Deposit
from gridtokenx.primitives.crypto import kyc_reference
from gridtokenx.primitives.types import format_address
from gridtokenx.registry.model import (
    Generation,
    LicenceClass,
    ProsumerClass,
    RegisterMeter,
    RegisterParticipant,
    Role,
)
from gridtokenx.runtime import private_files
from tests.support import live_cluster

LOCATION = "CNX-01-SUB007"  # of the second chain, where no other test trades
CHAIN = "NOR"
PASSWORD = "test"  # noqa: S105 - of keys that anybody can derive
NAMES = ("cli-seller", "cli-buyer")


@dataclass(frozen=True)
class Desk:
    """A person's home with two account keys, and the node it asks."""

    home: Path
    url: str

    def run(self, *words: object, url: str = "") -> Any:
        """The result of a command; a traceback is an error of the test."""
        line = ["--home", self.home, "--rpc", url or self.url, *words]
        result = CliRunner().invoke(app, [str(word) for word in line])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ask(self, *words: object) -> Any:
        """The document of a command that succeeds."""
        result = self.run("--json", *words)
        assert result.exit_code == 0, result.stderr + result.stdout
        return json.loads(result.stdout)

    def shown(self, *words: object) -> str:
        """What a person sees of a command that succeeds."""
        result = self.run(*words)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def sign(self, name: str, *words: object) -> Any:
        """The document of a command that signs with one of the two keys."""
        return self.ask(*words, "--key", name, "--password-file", self.home / "password")

    def order(self, name: str, side: str, kwh: str, *words: object) -> Any:
        """A placed order at LOCATION."""
        price = ("--side", side, "--kwh", kwh, "--price", "5.00", "--location", LOCATION)
        return self.sign(name, "orders", "place", *price, *words)


@pytest.fixture(scope="module")
def desk(shared_cluster, tmp_path_factory) -> Desk:
    home = tmp_path_factory.mktemp("desk") / "home"
    home.mkdir()
    private_files.write_private(home / "password", f"{PASSWORD}\n")
    shutil.copy(shared_cluster.home("n0") / "genesis.json", home)
    for name in NAMES:
        seed = dev_key(name).seed
        keystore.create(home / "keys", name, "account", PASSWORD, seed, development=True)
    member = shared_cluster.node("n1").member  # which signs for nobody
    with Client(member.api_url) as client:
        register(client)
    return Desk(home, member.api_url)


def register(client: Client) -> None:
    """Make traders of both keys: registered, each with a meter and 1,000 THB."""
    payloads = []
    for name in NAMES:
        account = dev_key(name).public_key
        payloads.append(
            RegisterParticipant(
                account=account,
                role=Role.PROSUMER,
                kyc_ref=kyc_reference(b"test", name.encode()),
                licence_class=LicenceClass.EXEMPT_LT_1000KVA,
                licence_expiry_ms=LICENCE_EXPIRY_MS,
                vat_registered=False,
                territory="CNX",
                consent_version=1,
                daily_cap_wh=DAILY_CAP_WH,
            )
        )
        payloads.append(
            RegisterMeter(
                meter_id=dev_key(f"{name} meter").public_key,
                owner=account,
                location=LOCATION,
                nameplate_import_w=100_000,
                nameplate_export_w=100_000,
                source=Generation.SOLAR,
                prosumer_class=ProsumerClass.RESIDENTIAL,
            )
        )
    first = client.nonce(operator_key("pea").public_key, CHAIN)
    signed = [
        client.sign(operator_key("pea"), CHAIN, payload, first + index)
        for index, payload in enumerate(payloads)
    ]
    paid = client.nonce(operator_key(PAYMENT).public_key, CHAIN)
    for index, name in enumerate(NAMES):
        deposit = Deposit(dev_key(name).public_key, 1_000_000_000)
        signed.append(client.sign(operator_key(PAYMENT), CHAIN, deposit, paid + index))
    assert client.send_many(signed) == [None] * len(signed)
    client.wait_for([one.id.hex() for one in signed], timeout_s=90)


def thb(desk: Desk, name: str) -> tuple[int, int, int]:
    """(free, escrow, bond) of a key's account on the chain, in uTHB."""
    (row,) = desk.ask("account", "balance", name, "--chain", CHAIN)["chains"]
    return int(row["thb_uthb"]), int(row["escrow_uthb"]), int(row["bond_uthb"])


def test_an_order_is_placed_seen_and_cancelled(desk: Desk) -> None:
    before = thb(desk, "cli-seller")
    slot = int(desk.ask("orders", "market", LOCATION)["first_open_slot"]) + 40
    words = ("--source", "solar", "--slot", slot, "--max-kwh-per-slot", "7.5")
    placed = desk.order("cli-seller", "sell", "12.345", *words)
    assert (placed["chain"], placed["status"]) == (CHAIN, "open")
    assert placed["reserve_uthb"] == "12345000"
    assert placed["order"]["max_wh_per_slot"] == "7500"
    free, _, bond = before
    assert thb(desk, "cli-seller") == (free - 12_345_000, 0, bond + 12_345_000)

    order_id = placed["order_id"]
    assert desk.ask("orders", "get", order_id)["rest_wh"] == "12345"
    listed = desk.ask("orders", "list", "--trader", "cli-seller", "--chain", CHAIN)
    assert [row["order_id"] for row in listed["items"]] == [order_id]
    book = desk.ask("orders", "book", "--zone", LOCATION, "--slot", slot)
    assert book["asks"] == [{"price_mthb": "5000", "energy_wh": "7500", "orders": 1}]
    assert order_id in desk.shown("orders", "list", "--zone", "CNX")
    assert "12.345" in desk.shown("orders", "book", "CNX-01")

    other = desk.run(
        *("orders", "cancel", order_id, "--key", "cli-buyer"),
        *("--password-file", desk.home / "password"),
    )
    assert other.exit_code == 1
    assert "error [3006/not_order_owner]" in other.stderr
    cancelled = desk.sign("cli-seller", "orders", "cancel", order_id)
    assert (cancelled["status"], cancelled["refund_uthb"]) == ("cancelled", "12345000")
    assert thb(desk, "cli-seller") == before
    shown = desk.shown("orders", "get", order_id)
    assert "state    cancelled" in shown
    assert "back     12.345 THB" in shown


def test_two_orders_become_a_trade_that_both_see(desk: Desk) -> None:
    slot = int(desk.ask("orders", "market", "CNX")["first_open_slot"]) + 20
    sold = desk.order("cli-seller", "sell", "2", "--source", "solar", "--slot", slot)
    bought = desk.sign(
        "cli-buyer",
        *("orders", "place", "--side", "buy", "--kwh", "1.5", "--price", "6"),
        *("--location", LOCATION.lower(), "--slot", slot),
    )

    def traded() -> Any:
        return desk.ask("trade", "list", "--zone", LOCATION)["items"]

    (trade,) = live_cluster.wait_until("the orders match", traded)
    assert (trade["buy_order_id"], trade["sell_order_id"]) == (
        bought["order_id"],
        sold["order_id"],
    )
    assert (trade["energy_wh"], trade["price_mthb"], trade["slot"]) == ("1500", "5000", str(slot))
    assert desk.ask("trade", "get", trade["trade_id"]) == trade
    assert desk.ask("trade", "list", "--zone", "CNX-02")["items"] == []
    for name in NAMES:
        page = desk.ask("trade", "list", "--trader", name, "--chain", CHAIN)
        assert [row["trade_id"] for row in page["items"]] == [trade["trade_id"]]
    assert desk.ask("orders", "get", bought["order_id"])["status"] == "filled"
    closed = desk.ask(
        "orders", "list", "--trader", "cli-buyer", "--chain", CHAIN, "--status", "closed"
    )
    assert [row["order_id"] for row in closed["items"]] == [bought["order_id"]]
    shown = desk.shown("trade", "get", trade["trade_id"])
    assert "settlement waits for the seller's meter reading" in shown
    assert desk.sign("cli-seller", "orders", "cancel", sold["order_id"])["rest_wh"] == "500"


def test_a_transfer_is_followed_from_signature_to_history(desk: Desk) -> None:
    before = thb(desk, "cli-buyer")[0]
    words = ("tx", "transfer", "--to", "cli-buyer", "--asset", "thb", "--amount", "12.5")
    sent = desk.sign("cli-seller", *words, "--chain", CHAIN, "--no-wait")
    done = desk.ask("tx", "status", sent["tx_id"], "--wait")
    assert (done["status"], done["chain"]) == ("finalized", CHAIN)
    assert thb(desk, "cli-buyer")[0] == before + 12_500_000
    told = desk.ask("tx", "get", sent["tx_id"])
    assert [event["kind"] for event in told["events"]] == ["transferred"]
    assert "amount  12.50 THB" in desk.shown("tx", "get", sent["tx_id"])
    page = desk.ask("account", "history", "cli-seller", "--chain", CHAIN, "--limit", 1)
    assert page["items"][0]["transaction"]["tx_id"] == sent["tx_id"]
    nonce = desk.ask("account", "nonce", "cli-seller", "--chain", CHAIN)["nonce"]
    assert int(nonce) == int(told["transaction"]["nonce"]) + 1
    block = desk.ask("chain", "block", told["height"], "--chain", CHAIN)
    assert sent["tx_id"] in block["transactions"]
    assert desk.ask("chain", "block", block["hash"]) == block
    assert "transfer  from gtx1" in desk.shown("chain", "block", block["hash"], "--full")


def test_a_signed_transaction_is_decoded_and_sent_once(desk: Desk, tmp_path: Path) -> None:
    from gridtokenx.ledger.model import Asset, Transfer

    key = dev_key("cli-buyer")
    with Client(desk.url) as client:
        signed = client.sign(key, CHAIN, Transfer(key.public_key, Asset.THB, 5))
    (tmp_path / "signed.hex").write_text(signed.encoded.hex())
    decoded = desk.ask("tx", "decode", tmp_path / "signed.hex")
    assert (decoded["chain"], decoded["signed"]) == (CHAIN, True)
    sent = desk.ask("tx", "send", tmp_path / "signed.hex")
    assert (sent["tx_id"], sent["status"]) == (signed.id.hex(), "finalized")
    again = desk.run("tx", "send", signed.encoded.hex())
    assert again.exit_code == 1
    assert "error [2005/duplicate]" in again.stderr
    assert "gridtokenx tx status" in again.stderr


def test_the_chain_refuses_with_a_code_and_a_hint(desk: Desk) -> None:
    later = int(desk.ask("orders", "market", LOCATION)["first_open_slot"]) + 30

    def refused(kwh: str, price: str, *words: object, slot: int = later) -> str:
        result = desk.run(
            *("orders", "place", "--side", "buy", "--kwh", kwh, "--price", price),
            *("--location", LOCATION, "--key", "cli-buyer", "--slot", slot),
            *("--password-file", desk.home / "password", *words),
        )
        assert result.exit_code == 1, result.stderr
        return result.stderr

    assert "error [3003/price_out_of_band]" in refused("1", "500")
    assert "hint: gridtokenx orders market" in refused("1", "500")
    assert "error [3008/interval_closed]" in refused("1", "5", slot=1)
    assert "error [2004/insufficient_balance]" in refused("900", "9.9", "--max-kwh-per-slot", "10")
    assert "error [3012/slot_cap]" in refused("900", "1", "--max-kwh-per-slot", "500")


def test_an_account_is_shown_and_proven(desk: Desk) -> None:
    proven = desk.ask("account", "proof", "cli-seller", "--chain", CHAIN)
    assert proven["verified"] is True
    assert len(proven["signers"]) >= 3
    assert set(proven["signers"]) <= {"egat", "mea", "pea", "erc"}
    assert proven["genesis_from"] == "home"
    assert proven["account"]["thb_uthb"] == str(thb(desk, "cli-seller")[0])
    shown = desk.shown("account", "proof", "cli-seller", "--chain", CHAIN)
    assert re.search(r"verified: yes, signed by [34] of 4 authorities \([a-z, ]+\)", shown)
    stranger = format_address(dev_key("cli-stranger").public_key)
    assert "holds nothing on this chain" in desk.shown("account", "proof", stranger)
    shown = desk.shown("account", "show", "cli-seller")
    assert "prosumer in CNX, active" in shown
    assert dev_key("cli-seller meter").public_key.hex() in shown


@contextmanager
def lying(url: str, change: Callable[[dict[str, Any]], None]) -> Iterator[str]:
    """A node that passes questions on to a true one and changes the proofs it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": "application/json"}
            asked = httpx.post(
                f"{url}/rpc", content=body, headers=headers, trust_env=False, timeout=60
            )
            answer = asked.json()
            if json.loads(body)["method"] == "account_getProof":
                change(answer["result"])
            reply = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_lying_nodes_proof_is_not_believed(desk: Desk) -> None:
    richer = "8418" + "00" * 8

    def truth(_: dict[str, Any]) -> None:
        return

    def inflate(proof: dict[str, Any]) -> None:
        proof["value"] = richer

    def hide(proof: dict[str, Any]) -> None:
        proof["value"] = None

    def unsign(proof: dict[str, Any]) -> None:
        last = "01" if proof["certificate"].endswith("00") else "00"
        proof["certificate"] = proof["certificate"][:-2] + last

    for change, believed in ((truth, True), (inflate, False), (hide, False), (unsign, False)):
        with lying(desk.url, change) as url:
            words = ("account", "proof", "cli-seller", "--chain", CHAIN)
            result = desk.run(*words, url=url)
        assert (result.exit_code == 0) is believed, result.stderr
        assert ("verified: yes" in result.stdout) is believed
        assert ("verified: no" in result.stderr) is not believed


def test_chains_are_shown(desk: Desk) -> None:
    heads = desk.ask("chain", "head")["heads"]
    assert [row["chain"] for row in heads] == ["TH", "MET", "NOR"]
    assert int(desk.ask("chain", "head", CHAIN)["height"]) >= 1
    validators = desk.ask("chain", "validators", "--chain", CHAIN)["items"]
    assert [row["organisation"] for row in validators] == ["egat", "mea", "pea", "erc"]
    assert desk.ask("chain", "params")["parameters"]["vat_bps"] == "700"
    for words in (["head"], ["block", "1"], ["validators"], ["params"]):
        assert desk.shown("chain", *words)


def test_status_is_one_screen_and_a_health_check(desk: Desk) -> None:
    words = ("n1 (authority)", "gridtokenx-local", "MET", "live", "finality p50", "4 peers")

    def passes() -> bool:
        return desk.run("status", "--check").exit_code == 0

    def is_shown() -> bool:
        shown = desk.run("status").stdout
        return all(word in shown for word in words)

    def is_told() -> bool:
        result = desk.run("--json", "status")
        if result.exit_code:
            return False
        document = json.loads(result.stdout)
        return document["ready"] is True and len(document["peers"]) == 4

    # Each is waited for: a node may lose a peer, or be late, between two of them.
    live_cluster.wait_until("the node passes its check", passes)
    live_cluster.wait_until(f"the screen has all of {words}", is_shown)
    live_cluster.wait_until("the document tells of a ready node with four peers", is_told)


def test_watching_goes_on_until_it_is_interrupted(desk: Desk) -> None:
    command = [sys.executable, "-m", "gridtokenx", "--rpc", desk.url, "status", "--watch"]
    environ = {**os.environ, "GRIDTOKENX_HOME": str(desk.home), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as watching:
        frames = 0
        for line in watching.stdout or ():
            frames += line.startswith("next ")
            if frames == 2:
                break
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=60)
    assert (watching.returncode, told) == (0, "")
