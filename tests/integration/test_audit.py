"""An auditor against a real cluster: everything recomputed; readings only for who may see them."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from gridtokenx.cli import app
from gridtokenx.cluster.devnet import dev_key
from gridtokenx.cluster.processes import Cluster
from gridtokenx.primitives.types import format_address
from tests.support import live_cluster


def run(cluster: Cluster, home: Path, *words: str):
    url = cluster.members[0].api_url
    environ = {"GRIDTOKENX_HOME": str(home)}
    return CliRunner().invoke(app, [*words, "--rpc", url, "--json"], env=environ)


@pytest.mark.parametrize("chain", ["MET", "NOR"])
def test_a_chain_is_verified_from_its_blocks_alone(
    shared_cluster: Cluster, tmp_path: Path, chain: str
) -> None:
    live_cluster.wait_progress(shared_cluster, "n0")
    ran = run(shared_cluster, tmp_path, "audit", "verify", "--chain", chain, "--to", "2")
    document = json.loads(ran.stdout)
    assert ran.exit_code == 0, ran.output
    assert (document["verified"], document["executed"]) == (True, "2")
    assert document["held"] == document["supply"]
    with live_cluster.client_of(shared_cluster, "n1") as client:
        header = client.block(2, chain).header
    assert document["state_root"] == header.state_root.hex()
    beside = document["national"]
    assert (beside["chain"], beside["executed"]) == ("TH", str(header.root_height))


def test_a_region_is_held_against_all_of_the_national_chain(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    with live_cluster.client_of(shared_cluster, "n0") as client:
        live_cluster.wait_until(
            "the nation has accepted a block of MET",
            lambda: client.shard("MET").checkpoint.height > 0,
        )
    ran = run(shared_cluster, tmp_path, "audit", "verify", "--chain", "MET")
    document = json.loads(ran.stdout)
    assert (ran.exit_code, document["failures"]) == (0, []), ran.output
    with live_cluster.client_of(shared_cluster, "n0") as client:
        block = client.block(int(document["national"]["executed"]), "TH")
    assert document["national"]["block_hash"] == block.hash.hex()
    assert int(document["executed"]) >= int(document["national"]["checkpoints"]) > 0


def test_the_national_chain_is_verified_alone(shared_cluster: Cluster, tmp_path: Path) -> None:
    live_cluster.wait_progress(shared_cluster, "n0")
    ran = run(shared_cluster, tmp_path, "audit", "verify", "--chain", "TH", "--to", "2")
    document = json.loads(ran.stdout)
    assert (ran.exit_code, document["verified"], document["national"]) == (0, True, None)


def test_a_block_that_does_not_exist_is_told(shared_cluster: Cluster, tmp_path: Path) -> None:
    ran = run(shared_cluster, tmp_path, "audit", "verify", "--chain", "MET", "--to", "99999999")
    assert json.loads(ran.stdout)["error"]["reason"] == "block_not_found"


def test_the_authoritys_home_signs_for_it_and_strangers_see_no_readings(
    shared_cluster: Cluster,
) -> None:
    owner = format_address(dev_key("dev").public_key)
    environ = {"GRIDTOKENX_HOME": str(shared_cluster.home("n1"))}
    words = ["energy", "readings", owner, "--key", "operator", "--chain", "MET", "--json"]
    password = str(shared_cluster.home("n1") / "password")
    ran = CliRunner().invoke(app, [*words, "--password-file", password], env=environ)
    assert json.loads(ran.stdout)["seen_as"] == "distributor"
    environ = {"GRIDTOKENX_HOME": str(shared_cluster.home("n2"))}
    password = str(shared_cluster.home("n2") / "password")
    ran = CliRunner().invoke(app, [*words, "--password-file", password], env=environ)
    assert json.loads(ran.stdout)["error"]["reason"] == "not_permitted"
    url = f"{shared_cluster.members[0].api_url}/api/v1/energy/readings/{owner}"
    assert httpx.get(url, trust_env=False).status_code == 401
