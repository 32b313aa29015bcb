"""`account`: addresses and names of keys; a proof that does not hold is never shown as one."""

import json
from dataclasses import replace

import pytest

from gridtokenx.answers.chain import NodeStatus
from gridtokenx.chain.genesis import format_genesis
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster.devnet import dev_key, local_genesis
from gridtokenx.primitives.types import format_address
from tests.support.answers import whole

ADDRESS = format_address(dev_key("bob").public_key)
NOWHERE = "http://127.0.0.1:9"
COMMANDS = ("show", "balance", "proof", "nonce", "history")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        (ADDRESS[:-1] + ("q" if ADDRESS[-1] != "q" else "p"), 65, "bad_address"),
        ("gtx1", 65, "bad_address"),
        ("nobody", 1, "key_not_found"),
        ("../keys", 2, "bad_key_name"),
        (ADDRESS, 69, "node_unreachable"),
    ],
)
def test_addresses(run, command: str, given: str, code: int, reason: str) -> None:
    ran = run("--rpc", NOWHERE, "--json", "account", command, given)
    assert ran.code == code
    assert ran.document["error"]["reason"] == reason


def test_a_keys_name_stands_for_its_address(run, fast_keys, password_file, canned_node) -> None:
    made = run("keys", "new", "me", "--password-file", password_file, "--json").document
    answer = {"address": made["address"], "chain": "MET", "nonce": "4", "pending": True}
    canned_node.results["account_getNonce"] = answer
    ran = run("--rpc", canned_node.url, "account", "nonce", "me")
    assert ran.stdout == "4 on MET\n"
    assert canned_node.asked[0]["params"] == {"address": made["address"], "pending": True}


def test_amounts_are_shown_to_the_last_digit(run, canned_node) -> None:
    names = ("energy_wh", "thb_uthb", "escrow_uthb", "bond_uthb", "gtx_ugtx", "carbon_ucr")
    held = {**dict.fromkeys(names, "0"), "thb_uthb": "9007199254740993000001", "energy_wh": "1"}
    row = {"chain": "MET", "height": "5", **held}
    answer = {"address": ADDRESS, "totals": held, "chains": [row]}
    canned_node.results["account_getBalance"] = answer
    ran = run("--rpc", canned_node.url, "account", "balance", ADDRESS)
    assert "9007199254740993.000001" in ran.stdout
    assert "0.001" in ran.stdout
    assert run("--rpc", canned_node.url, "account", "balance", ADDRESS, "--json").document == answer


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"header": "00", "certificate": "00", "proof": "00", "value": None},
        {"header": 7, "certificate": "zz", "proof": None, "value": None},
    ],
)
@pytest.mark.parametrize("chain", ["MET", "TH"])
def test_a_proof_that_does_not_hold_is_refused(run, canned_node, sent: dict, chain: str) -> None:
    canned_node.results = {
        "chain_getGenesis": {"genesis": json.loads(format_genesis(local_genesis()))},
        "account_getProof": sent,
        "shard_getProof": sent,
    }
    ran = run("--rpc", canned_node.url, "account", "proof", ADDRESS, "--chain", chain)
    assert ran.code == ExitCode.REFUSED
    assert "verified: no." in ran.stderr
    assert f"do not trust the node at {canned_node.url}" in ran.stderr
    assert "verified: yes" not in ran.stdout


def test_a_pinned_genesis_older_than_the_unbonding_time_needs_a_trusted_block(
    run, home, canned_node, tmp_path
) -> None:
    """It is refused before the node's proof is looked at; the way out is told."""
    genesis = replace(local_genesis(), network_name="real")
    path = tmp_path / "genesis.json"
    path.write_text(format_genesis(genesis))
    run("init", "--genesis", path, "--role", "observer")
    network = {"name": "real", "id": 1, "genesis_hash": genesis.hash.hex()}
    canned_node.results = {
        "chain_getStatus": whole(NodeStatus, network=network),
        "account_getProof": {},
        "shard_getProof": {},
    }
    words = ("--json", "--rpc", canned_node.url, "account", "proof", ADDRESS, "--chain", "MET")
    ran = run(*words)
    assert ran.code == ExitCode.REFUSED
    error = ran.document["error"]
    assert (error["code"], error["reason"]) == (1007, "trust_expired")
    assert "--trusted-block CHAIN:HEIGHT:HASH" in error["hint"]
    assert [one["method"] for one in canned_node.asked] == ["chain_getStatus"]
    assert run(*words, "--trust-old-blocks").document["error"]["reason"] == "not_verified"
    named = run(*words, "--trusted-block", f"TH:9:{'ab' * 32}")
    assert canned_node.asked[-1]["method"] == "chain_getFinality"
    assert named.code != 0
    unknown = run(*words, "--trusted-block", "TH:9:ab")
    assert unknown.document["error"]["code"] == "GTX-CFG-002"


def test_a_home_of_the_development_network_believes_its_genesis(run, home) -> None:
    run("init")
    shown = run("--json", "config", "show").document["settings"]
    assert shown["sync.trust_old_blocks"] is True
