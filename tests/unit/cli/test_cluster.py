"""`gridtokenx cluster`: what it refuses before it starts anything, and how it draws."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gridtokenx.cli import app
from gridtokenx.cli.cluster import _draw_up, _milliseconds, _table
from gridtokenx.cluster import devnet
from gridtokenx.cluster.processes import Cluster, NodeRecord


def run(tmp_path, *words):
    return CliRunner().invoke(app, ["--home", str(tmp_path), "--json", "cluster", *words])


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--block-time", "fast"),
        ("up", "--block-time", "5ms"),
        ("up", "--clock", "sun"),
        ("up", "-n", "0"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(tmp_path, words):
    assert run(tmp_path, *words).exit_code == 2
    assert not (tmp_path / "clusters").exists()


@pytest.mark.parametrize("words", [("status", "none"), ("down", "none"), ("logs", "n0")])
def test_a_cluster_that_is_not_there_is_refused_with_the_way_out(tmp_path, words):
    done = run(tmp_path, *words)
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert "there is no cluster" in error["message"]
    assert error["hint"] == "gridtokenx cluster up starts one"


def test_a_name_that_is_a_path_is_refused(tmp_path):
    done = run(tmp_path, "status", "../../etc")
    assert done.exit_code == 1
    assert "no cluster name" in json.loads(done.stdout)["error"]["message"]


def test_no_clusters_is_an_empty_list(tmp_path):
    assert json.loads(run(tmp_path, "ls").stdout) == {"clusters": []}


@pytest.mark.parametrize(("text", "expected"), [("1s", 1000), ("500ms", 500), ("10s", 10_000)])
def test_block_times_are_read(text, expected):
    assert _milliseconds(text) == expected


def test_the_table_aligns_and_is_never_cut():
    node = {
        "name": "n0",
        "role": "authority",
        "authority": "egat",
        "api": "http://127.0.0.1:18080",
        "p2p_port": 19000,
        "pid": 4121,
        "peers": 4,
        "state": "live",
        "chains": {"MET": {"height": 12}},
    }
    stopped = {**node, "name": "n1", "pid": None, "peers": None, "state": "stopped", "chains": {}}
    header, first, second = _table({"nodes": [node, stopped]}).splitlines()
    assert header.split() == [
        "node",
        "role",
        "authority",
        "api",
        "p2p",
        "pid",
        "MET",
        "peers",
        "state",
    ]
    assert first.split()[3:] == ["http://127.0.0.1:18080", "19000", "4121", "12", "4", "live"]
    assert second.split()[5:] == ["-", "-", "-", "stopped"]
    assert first.index("live") == header.index("state") == second.index("stopped")


def test_up_tells_the_nodes_line_by_line_and_when_orders_are_matched(tmp_path, capsys) -> None:
    now_ms = 1_795_410_060_000
    nodes = [NodeRecord(member) for member in devnet.plan(1, 0, [1, 2])]
    node = {"name": "n0", "role": "authority", "authority": "egat", "api": "http://127.0.0.1:1"}
    node |= {"p2p_port": 2, "pid": 3, "chains": {}, "peers": 4, "state": "live", "log": "node.log"}
    for clock, told in (
        (devnet.block_clock(now_ms), "one each 5 blocks, 5 s"),
        (None, "at each quarter of an hour"),
    ):
        genesis = devnet.local_genesis(clock=clock, genesis_time_ms=now_ms)
        told_hash = genesis.hash.hex()
        document = {"genesis_hash": told_hash, "ready_s": 7.0, "nodes": [node]}
        _draw_up(Console(), Cluster(tmp_path, told_hash, nodes), document, genesis)
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in shown[1:3]] == ["node", "n0"]
        (market,) = [line for line in shown if line.startswith("Market: ")]
        assert told in market
        assert f"--key {devnet.NEIGHBOUR} " in "\n".join(shown)
