"""`governance`, `stake`, `shard` and transfers abroad against real chains: a block per transaction.

The API's own handlers answer over real HTTP; a chain makes a block when a transaction comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import pytest

from gridtokenx.answers.shapes import write_json
from gridtokenx.api.errors import ApiError
from gridtokenx.cli.output import ExitCode
from gridtokenx.cluster.devnet import dev_key, operator_key
from gridtokenx.home import keystore
from gridtokenx.home.keystore import KeyKind
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address
from tests.support.api_call import call
from tests.support.api_node import SELLER, SELLER_METER, MemoryNode

SEED = (
    *("--title", "Increase renewable energy incentives"),
    *("--description", "Proposal to increase carbon credit rates for solar energy"),
    *("--type", "parameter-change", "--parameter", "carbon_credits.solar", "--new-value", "0.7"),
)
KEYS = {
    "dev": dev_key("dev"),
    "erc": operator_key("erc"),
    "mea": operator_key("mea"),
    "stake": dev_key("egat validator 0 stake"),
    "mea-stake": dev_key("mea validator 0 stake"),
    "pea-stake": dev_key("pea validator 0 stake"),
}


def told(error: ApiError) -> dict[str, Any]:
    """The error as JSON-RPC has it."""
    return dict(loads(write_json(error.to_failure())))


@dataclass
class Network:
    """Chains behind a URL, and the command line with keys and password of a home."""

    node: MemoryNode
    run: Callable[..., Any]
    url: str
    password_file: Path
    relays: bool = True

    def __call__(self, *words: object, json: bool = True) -> Any:
        """Run a command against the node; its document, or with `json=False` how it ended."""
        options = ("--json",) if json else ()
        ran = self.run(*options, "--rpc", self.url, *words)
        if json:
            assert ran.code == 0, ran.stdout + ran.stderr
            return ran.document
        return ran

    def signed(self, *words: object, key: str = "dev", json: bool = True) -> Any:
        """A command that signs."""
        return self(*words, "--key", key, "--password-file", self.password_file, json=json)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        head = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            result = call(self.node, request["method"], **request["params"])
        except Rejected as error:
            return {**head, "error": told(ApiError.of(error))}
        except ApiError as error:
            return {**head, "error": told(error)}
        if request["method"] == "tx_send":
            self.node.make_block(result["chain"])
        if request["method"] == "shard_getTransfer" and self.relays:
            self._move()
        return {**head, "result": result}

    def _move(self) -> None:
        """What nodes do by themselves between two looks at a transfer."""
        self.node.relay("MET")
        for chain in ("NOR", "MET"):
            self.node.make_block(chain)


@pytest.fixture
def network(
    run: Callable[..., Any],
    canned_node: Any,
    home: Path,
    tmp_path: Path,
    password_file: Path,
    fast_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Network]:
    node = MemoryNode(tmp_path / "node", names=("TH", "MET", "NOR"))
    node.make_block("TH")
    for name, key in KEYS.items():
        keystore.create(home / "keys", name, KeyKind.ACCOUNT, "a long secret", key.seed)
    made = Network(node, run, canned_node.url, password_file)
    monkeypatch.setattr(canned_node, "answer", made.answer)
    yield made
    node.close()


def test_the_seeds_command_and_what_comes_of_it(network: Network) -> None:
    sent = network.signed("governance", "propose", *SEED)
    assert (sent["proposal"], sent["chain"], sent["status"]) == ("1", "TH", "finalized")
    (listed,) = network("gov", "list")["items"]
    assert listed["summary"] == "carbon_credits.solar = 0.7"
    for key in ("stake", "mea-stake"):
        network.signed("governance", "vote", 1, "yes", key=key)
    network.signed("governance", "vote", 1, "no", key="pea-stake")
    tally = network("governance", "tally", 1)
    assert (tally["outcome"], tally["final"]) == ("queued", False)
    assert len(network("governance", "votes", 1)["items"]) == 3
    shown = network("governance", "show", 1, json=False).stdout
    assert "carbon_credits.solar: 0.5 -> 0.7 credits/kWh" in shown
    assert "as of now" in shown
    assert "Proposal to increase carbon credit rates" in shown
    for _ in range(3):
        network.node.make_block("TH")
    network.node.make_block("MET")
    shown = network("governance", "params", "carbon_credits.solar", json=False).stdout
    assert "TH 0.7, MET 0.7, NOR 0.5" in shown
    assert "executed" in network("governance", "list", json=False).stdout


def test_a_dry_run_shows_old_and_new_and_needs_no_key(network: Network) -> None:
    shown = network("governance", "propose", *SEED, "--dry-run", json=False)
    assert "carbon_credits.solar: 0.5 -> 0.7 credits/kWh" in shown.stdout
    assert "deposit 1000.00 GTX, fee 10.00 GTX" in shown.stdout
    assert "acts on    TH, MET, NOR, NEA" in shown.stdout
    assert network("governance", "list")["items"] == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--parameter", "carbon_credit.solar"), ExitCode.REFUSED, "carbon_credits.solar"),
        (("--new-value", "7"), ExitCode.REFUSED, "0 to 5 (credits/kWh, at most 3 decimals)"),
        (("--new-value", "much"), ExitCode.REFUSED, "may be 0 to 5"),
        (("--type", "parameter-chance"), ExitCode.USAGE, "did you mean parameter-change?"),
        (("--rate", "solar=1"), ExitCode.USAGE, "No such option: --rate"),
        (("--type", "emergency"), ExitCode.USAGE, "--parameter"),
    ],
)
def test_mistakes_are_told_before_a_node_is_asked(
    run: Callable[..., Any], words: tuple[str, ...], code: ExitCode, told: str
) -> None:
    ran = run("--rpc", "http://127.0.0.1:9", "governance", "propose", *SEED, *words)
    assert ran.code == code
    assert told in " ".join(ran.stderr.replace("│", " ").split())


def test_the_type_is_a_command_too(network: Network) -> None:
    """`propose TYPE ...` is what `propose --type TYPE ...` says, wherever the option stands."""
    at = SEED.index("--type")
    assert SEED[at + 1] == "parameter-change"
    rest = (*SEED[:at], *SEED[at + 2 :])
    asked = [
        network("governance", "propose", *words, "--dry-run")
        for words in (
            ("parameter-change", *rest),
            ("--type=Parameter_Change", *rest),
            (*rest, "--type", "parameter-change"),
            SEED,
        )
    ]
    times = {"voting_ends_ms", "executes_ms"}
    told = [{name: one[name] for name in one.keys() - times} for one in asked]
    assert all(one == told[0] for one in told)
    assert told[0]["summary"] == "carbon_credits.solar = 0.7"


@pytest.mark.parametrize(
    ("words", "summary"),
    [
        (
            "pricing-regulation --min-price 1.5 --max-price 8 --peak-multiplier 1.5 "
            "--effective 2026-02-01T06:00",
            "price band 1.5 to 8 THB/kWh, peak x 1.5",
        ),
        ("carbon-credit-policy --rate solar=0.7 --rate wind=0.65", "credits/kWh: solar 0.7,"),
        ("emergency --territory BKK --reason flood --duration 4h", "halt BKK for 240 min: flood"),
        ("infrastructure-funding --to dev --amount 2.5", "2.5 gtx to gtx1"),
        ("upgrade --release 0.2.0 --height 9000", "version 0.2.0 from block 9000"),
        ("operator-rotation --organisation mea --new-operator dev", "gtx1"),
    ],
)
def test_every_type_can_be_proposed(network: Network, words: str, summary: str) -> None:
    told = network(
        "governance", "propose", "--title", "T", "--type", *words.split(), "--dry-run"
    )  # fmt: skip
    assert told["summary"].startswith(summary)


def test_a_region_is_let_go_on_from_its_newest_accepted_block(network: Network) -> None:
    named = [
        word
        for at, name in enumerate(("egat", "mea", "pea", "erc"))
        for word in ("--authority", f"{name}={bytes([at + 1] * 32).hex()}:2")
    ]
    words = ("--title", "T", "--type", "reincarnation", "--region", "met", *named)
    base = network("shard", "show", "met")["checkpoint"]
    dry = network("governance", "propose", *words, "--dry-run")
    assert dry["summary"].startswith(f"MET goes on from block {base['height']} {base['hash'][:16]}")
    assert dry["lost"]["gtx_ugtx"] == "0"
    shown = network("governance", "propose", *words, "--dry-run", json=False).stdout
    assert "lost, as it has left the region since that block: 0.000 kWh" in shown
    refused = network(
        "governance", "propose", *words, "--height", 9, "--hash", "07" * 32, "--dry-run", json=False
    )
    assert "block_not_found" in refused.stderr
    wrong = network("governance", "propose", *words, "--height", 3, "--dry-run", json=False)
    assert "--hash" in wrong.stderr
    for bad in ("egat", "egat=", "=07", "egat=xyz", f"egat={'07' * 32}:x"):
        ran = network(
            "governance", "propose", *words[:6], "--authority", bad, "--dry-run", json=False
        )
        assert ran.code == ExitCode.USAGE


def test_an_authority_change_is_proposed_approved_and_taken_back(network: Network) -> None:
    authorities = network("shard", "show", "met")["authorities"]
    pea = next(one for one in authorities if one["organisation"] == "pea")
    words = (
        *("--type", "authority-management", "--region", "MET", "--change", "rotate"),
        *("--organisation", "pea", "--public-key", pea["public_key"]),
        *("--new-public-key", "07" * 32),
    )
    network.signed("governance", "propose", "--title", "Rotate", *words)
    shown = network("governance", "show", 1, json=False).stdout
    assert "rotate a node of pea on MET" in shown
    refused = network.signed("governance", "approve", 1, json=False)
    assert (refused.code, "signs for no organisation" in refused.stderr) == (1, True)
    network.signed("governance", "cancel", 1)
    (listed,) = network("governance", "list", "--status", "cancelled")["items"]
    assert listed["proposal"] == "1"
    closed = network.signed("governance", "approve", 1, key="erc", json=False)
    assert "voting_closed" in closed.stderr
    assert "hint: gridtokenx governance show tells" in closed.stderr


def test_who_has_no_stake_is_told_how_to_vote(network: Network) -> None:
    network.signed("governance", "propose", *SEED)
    refused = network.signed("governance", "vote", 1, "yes", json=False)
    assert (refused.code, "no_voting_power" in refused.stderr) == (1, True)
    assert "bond" in refused.stderr
    assert network.signed("governance", "vote", 1, "maybe", json=False).code == ExitCode.USAGE


def test_stake_is_bonded_shown_and_taken_back(network: Network) -> None:
    listed = network("stake", "list", json=False).stdout
    assert "egat-0" in listed
    assert "25.00" in listed
    network.signed("stake", "bond", "egat-0", "--amount", "40")
    network.signed("stake", "unbond", "egat-0", "--amount", "15.5")
    shown = network("stake", "account", "dev", json=False).stdout
    assert "egat-0" in shown
    assert "15.50 GTX paid out in TH #" in shown
    network.signed("stake", "redelegate", "egat-0", "mea-0", "--amount", "20")
    shown = network("stake", "account", "dev", json=False).stdout
    assert "20.00 GTX redelegated, free in TH #" in shown
    locked = network.signed("stake", "unbond", "mea-0", "--amount", "20", json=False)
    assert (locked.code, "came by redelegation" in locked.stderr) == (1, True)
    assert network("stake", "show", "stake")["moniker"] == "egat-0"
    assert "weight" in network("stake", "show", "egat-0", json=False).stdout
    assert "4 sign" in network("stake", "pool", json=False).stdout
    refused = network.signed("stake", "unjail", key="stake", json=False)
    assert "is not jailed" in refused.stderr
    unknown = network("stake", "show", "egat", json=False)
    assert (unknown.code, "there are " in unknown.stderr) == (1, True)


def test_a_candidate_is_made_with_a_validator_key(network: Network, home: Path) -> None:
    words = ("stake", "create", "--name", "newcomer", "--self-bond", "20000")
    keystore.create(home / "keys", "validator", KeyKind.VALIDATOR, "a long secret", bytes([9]) * 32)
    network.signed(*words, "--commission", "7.5%")
    (found,) = [one for one in network("stake", "list")["items"] if one["moniker"] == "newcomer"]
    assert (found["status"], found["commission_bps"]) == ("candidate", 750)
    wrong = network.signed(*words, "--validator-key", "erc", json=False)
    assert "signed by a validator key" in wrong.stderr
    assert network.signed(*words, "--commission", "x", json=False).code == ExitCode.USAGE


def test_a_transfer_to_another_region_is_one_command(network: Network) -> None:
    to = format_address(dev_key("far away").public_key)
    words = ("tx", "transfer", "--to", to, "--asset", "gtx", "--amount", "2.5")
    done = network.signed(*words, "--chain", "MET", "--to-chain", "NOR")
    assert (done["status"], done["transfer"]["status"]) == ("finalized", "credited")
    shown = network("shard", "transfer", done["tx_id"], json=False).stdout
    assert "MET to NOR" in shown
    assert "2.50 GTX" in shown
    assert "credited" in network("shard", "receipts", to, "--chain", "NOR", json=False).stdout
    wrong = network.signed(*words, "--to-chain", "SOU", json=False)
    assert (wrong.code, "there are TH, MET, NOR, NEA" in wrong.stderr) == (1, True)
    carbon = ("tx", "transfer", "--to", to, "--asset", "carbon", "--amount", "1")
    refused = network.signed(*carbon, "--chain", "MET", "--to-chain", "NOR", json=False)
    assert (refused.code, "carbon" in refused.stderr) == (1, True)


def test_an_operator_changes_its_validator(network: Network, home: Path) -> None:
    unasked = network.signed("stake", "update", key="stake", json=False)
    assert (unasked.code, "--commission" in unasked.stderr) == (ExitCode.USAGE, True)
    keystore.create(home / "keys", "second", KeyKind.VALIDATOR, "a long secret", bytes([9]) * 32)
    network.signed("stake", "update", "--name", "egat-one", "--commission", "4.5", key="stake")
    told = network("stake", "show", "stake")
    assert (told["moniker"], told["commission_bps"]) == ("egat-one", 450)
    much = network.signed("stake", "update", "--commission", "9", key="stake", json=False)
    assert (much.code, "may change again in block 600" in much.stderr) == (1, True)
    early = network.signed("stake", "update", "--validator-key", "second", key="stake", json=False)
    assert (early.code, "may change again in block 600" in early.stderr) == (1, True)
    nobody = network.signed("stake", "update", "--name", "x", json=False)
    assert (nobody.code, "validator_not_found" in nobody.stderr) == (1, True)


def test_filed_settlement_reports_are_listed(network: Network) -> None:
    assert "no settlement report" in network("shard", "settlements", json=False).stdout
    while network.node.make_block("MET") < 90:
        pass
    network.node.relay("MET")
    rows = network("shard", "settlements", "met", "--day", "2026-01-01")["items"]
    assert {one["territory"] for one in rows} == {"BKK", "NTB", "SPK"}
    shown = network("shard", "settlements", "--limit", 2, json=False).stdout
    assert rows[0]["report_hash"] in shown
    assert "more: --cursor" in shown
    wrong = network("shard", "settlements", "--day", "tomorrow", json=False)
    assert (wrong.code, "such as 2026-03-16" in wrong.stderr) == (ExitCode.USAGE, True)


def test_a_transfer_to_a_silent_region_comes_back(network: Network) -> None:
    for _ in range(61):
        network.node.make_block("TH")
    network.relays = False
    to = format_address(dev_key("far away").public_key)
    words = ("tx", "transfer", "--to", to, "--asset", "gtx", "--amount", "1", "--chain", "MET")
    sent = network.signed(*words, "--to-chain", "NOR", "--no-wait")
    assert sent["transfer"]["status"] == "in_flight"
    network.relays = True
    back = network("shard", "transfer", sent["tx_id"], "--wait", json=False)
    assert back.code == ExitCode.REFUSED
    assert "bounced" in back.stdout
    assert "NOR is paused" in back.stdout
    assert "paused" in network("shard", "list", json=False).stdout


def test_the_key_that_signs_can_be_left_out(network: Network, home: Path) -> None:
    missing = network("governance", "vote", 1, "yes", json=False)
    assert (missing.code, "which_key" in missing.stderr) == (ExitCode.USAGE, True)
    (home / "config.toml").write_text(
        f'version = 1\n[node]\npassword_file = "{network.password_file}"\n'
        '[api]\nlocal_signer = "dev"\n'
    )
    sent = network("governance", "propose", *SEED)
    assert sent["proposal"] == "1"


def test_an_operators_key_is_changed_by_vote(network: Network) -> None:
    new = format_address(dev_key("a fresh key").public_key)
    words = ("--type", "operator-rotation", "--organisation", "MEA", "--new-operator", new)
    dry = network("governance", "propose", "--title", "T", *words, "--dry-run")
    assert (dry["summary"], dry["approvers"]) == (f"{new} signs for mea", ["erc"])
    assert dry["chains"] == ["TH", "MET", "NOR", "NEA"]
    network.signed("governance", "propose", "--title", "Leaked", *words)
    refused = network.signed("governance", "approve", 1, key="mea", json=False)
    assert "erc may approve" in refused.stderr
    network.signed("governance", "approve", 1, key="erc")
    own = (*words[:3], "erc", *words[4:])
    dry = network("governance", "propose", "--title", "T", *own, "--dry-run")
    assert dry["approvers"] == ["egat", "mea", "payment", "pea"]
    taken = (*words[:5], "erc")
    refused = network("governance", "propose", "--title", "T", *taken, "--dry-run", json=False)
    assert "already_registered" in refused.stderr


# -- Meters, on a region ---------------------------------------------------------------------------


METER = SELLER_METER.public_key.hex()


def test_a_meters_life_is_told_and_changed(network: Network) -> None:
    network.node.populate()
    shown = network("grid", "meter", "show", METER, json=False).stdout
    assert "active" in shown
    assert "never" in shown
    done = network.signed(
        *("grid", "meter", "replace", METER, "--new-key", "07" * 32),
        *("--old-import-kwh", "0.5", "--old-export-kwh", "1.25"),
        key="mea",
    )
    assert [one["kind"] for one in done["events"]] == ["meter_replaced"]
    assert network("grid", "meter", "show", "07" * 32)["meter"]["meter_id"] == METER
    assert "07" * 32 in network("account", "show", seller(), json=False).stdout
    by_key = ("grid", "meter", "suspend", "07" * 32, "--reason", "x")
    refused = network.signed(*by_key, key="mea", json=False)
    assert refused.code == ExitCode.USAGE
    assert METER in "".join(refused.stderr.replace("\u2502", " ").split())
    network.signed("grid", "meter", "suspend", METER, "--reason", "tampered", key="erc")
    assert "suspended by erc" in network("account", "show", seller(), json=False).stdout
    back = ("grid", "meter", "reinstate", METER, "--reason", "sealed")
    registers = ("--import-kwh", "1", "--export-kwh", "2")
    refused = network.signed(*back, *registers, key="mea", json=False)
    assert "not_permitted" in refused.stderr
    network.signed(*back, *registers, key="erc")
    refused = network.signed("grid", "meter", "approve", METER, key="erc", json=False)
    assert "nothing to approve" in refused.stderr
    ended = network.signed("grid", "meter", "retire", METER, *registers, key="mea")
    assert ended["events"][0]["kind"] == "meter_retired"
    assert network("grid", "meter", "show", METER)["meter"]["status"] == "retired"
    refused = network("grid", "meter", "show", "08" * 32, json=False)
    assert "unknown_meter" in refused.stderr


def test_registers_beyond_any_meter_are_told_before_they_are_signed(network: Network) -> None:
    network.node.populate()
    words = ("grid", "meter", "retire", METER, "--import-kwh", "1", "--export-kwh", "9" * 15)
    refused = network.signed(*words, key="mea", json=False)
    assert "out_of_range" in refused.stderr


def seller() -> str:
    return format_address(SELLER.public_key)
