"""The national chain through the command line, on real nodes: a vote that changes what the regions
do, and gtx that travels from one region to another meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from gridtokenx.cluster.devnet import NATIONAL, dev_key
from gridtokenx.cluster.processes import Cluster
from gridtokenx.governance.model import Choice, Vote
from gridtokenx.home import keystore
from gridtokenx.primitives.types import format_address
from tests.support import live_cluster
from tests.support.live_cluster import ask

SEED = (
    *("--title", "Increase renewable energy incentives"),
    *("--description", "Proposal to increase carbon credit rates for solar energy"),
    *("--type", "parameter-change", "--parameter", "carbon_credits.solar", "--new-value", "0.7"),
)
PARAMETER = "carbon_credits.solar"


def values_at(cluster: Cluster, name: str) -> dict[str, str]:
    """The parameter in force, by chain, as one node has it."""
    with live_cluster.client_of(cluster, name) as client:
        (row,) = client.call("gov_getParams", name=PARAMETER)["items"]
        return dict(row["values"])


def test_a_vote_reaches_every_region_and_gtx_another_one(shared_cluster: Cluster) -> None:
    cluster = shared_cluster
    home = cluster.home("n0")
    before = values_at(cluster, "n0")
    assert set(before.values()) == {"0.5"}
    dry = ask(home, "governance", "propose", *SEED, "--dry-run")
    assert (dry["changes"][0]["old"], dry["changes"][0]["new"]) == ("0.5", "0.7")

    number = int(ask(home, "governance", "propose", *SEED)["proposal"])  # The seed's own words.
    vote_with_all_stake_but_one(cluster, number)
    found = ask(home, "governance", "vote", number, "no", *own(home, "stake"))
    assert found["events"][0]["kind"] == "vote_cast"

    move_gtx(home)

    def in_force() -> bool:
        return all(set(values_at(cluster, name).values()) == {"0.7"} for name in ("n0", "n4"))

    live_cluster.wait_until("0.7 on every chain", in_force)
    proposal = ask(home, "governance", "show", number)
    assert (proposal["status"], proposal["tally"]["final"]) == ("executed", True)
    assert proposal["tally"]["yes_bps"] > 7000
    # What left MET has come to the national chain, so one of its authorities has brought it there.
    assert sum(checkpoints_sent(cluster, f"n{number}", "MET") for number in range(4)) >= 1


def checkpoints_sent(cluster: Cluster, name: str, region: str) -> float:
    """By a node's own count."""
    url = f"{cluster.node(name).member.api_url}/metrics"
    lines = httpx.get(url, trust_env=False, timeout=60).text.splitlines()
    sample = f'gridtokenx_region_checkpoints_sent_total{{region="{region}"}} '
    (found,) = [line.removeprefix(sample) for line in lines if line.startswith(sample)]
    return float(found)


def own(home: Path, key: str) -> tuple[object, ...]:
    return ("--key", key, "--password-file", home / "password")


def vote_with_all_stake_but_one(cluster: Cluster, number: int) -> None:
    """At once, because the vote does not wait; but not before the node has the proposal."""
    proposed = live_cluster.answered_heights(cluster, "n0")
    live_cluster.wait_heights(cluster, {NATIONAL: proposed[NATIONAL]}, "n1")
    with live_cluster.client_of(cluster, "n1") as client:
        signed = [
            client.sign(dev_key(f"{name} validator 0 stake"), NATIONAL, Vote(number, Choice.YES))
            for name in ("mea", "pea", "erc")
        ]
        assert client.send_many(signed) == [None] * 3
        client.wait_for([one.id.hex() for one in signed], timeout_s=60)


def move_gtx(home: Path) -> None:
    """From MET to NOR, followed to its credit by one command."""
    sender, to = "traveller", format_address(dev_key("at the other end").public_key)
    seed = dev_key("erc account").seed
    keystore.create(home / "keys", sender, "account", "dev", seed, development=True)
    words = ("--to", to, "--asset", "gtx", "--amount", "12.5", "--chain", "MET")
    done = ask(home, "tx", "transfer", *words, "--to-chain", "NOR", *own(home, sender))
    assert done["transfer"]["status"] == "credited"
    (row,) = ask(home, "account", "balance", to, "--chain", "NOR")["chains"]
    assert row["gtx_ugtx"] == "12500000"
    (known,) = ask(home, "shard", "receipts", to, "--chain", "NOR")["items"]
    assert [one["chain"] for one in known["steps"]] == ["MET", NATIONAL, "NOR"]
    shards = {one["shard"]: one for one in ask(home, "shard", "list")["items"]}
    assert {one["status"] for one in shards.values()} == {"active"}
    assert int(shards["NOR"]["escrow"]["gtx_ugtx"]) > int(shards["MET"]["escrow"]["gtx_ugtx"])
