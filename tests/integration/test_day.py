"""The demonstration day from its command line: exit code, one JSON document, nothing left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil


def test_a_few_slots_are_traded_settled_and_add_up_on_every_node(tmp_path):
    command = [sys.executable, "-m", "gridtokenx.demo", "--slots", "4", "--exit", "--json"]
    slowly = ["--block-time", "1500"]  # What must be done within some blocks has longer.
    done = subprocess.run(
        [*command, *slowly],
        env={**os.environ, "GRIDTOKENX_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["nodes"] == 5
    assert set(document["regions"]) == {"MET", "NOR", "NEA"}
    for region in document["regions"].values():
        assert len(region["state_roots"]) == 5
        assert len(set(region["state_roots"])) == 1
        assert region["trades"] > 0
        assert region["traded_wh"] == region["delivered_wh"] + region["shortfall_wh"]
        assert region["minted_wh"] >= region["delivered_wh"]
        assert 0 < region["carbon_retired_ucr"] <= region["carbon_issued_ucr"]
        assert len(region["refused"]) == 2
        assert all(len(report["hash"]) == 64 for report in region["reports"].values())
    reports = [name for region in document["regions"].values() for name in region["reports"]]
    assert sorted(reports) == ["BKK", "CEI", "CNX", "KKC", "NMA", "NTB", "SPK", "UTH"]
    national = document["national"]
    assert len(national["state_roots"]) == 5
    assert len(set(national["state_roots"])) == 1
    assert national["messages"]["MET"]["up"] >= 3  # Two transfers, and what it has made before one.
    assert national["messages"]["NOR"]["down"] >= 3  # These and the new parameter.
    for name, row in national["vote"]["credits_ucr"].items():
        assert row["before"] > 0
        assert row["before"] + row["after"] == document["regions"][name]["carbon_issued_ucr"]
    assert national["transfers"]["gtx"] == 5_000_000
    assert national["transfers"]["energy"] > 0
    assert document["checks"]["failed"] == []
    assert not (tmp_path / "clusters" / "day").exists()
    left = [
        one.info["pid"]
        for one in psutil.process_iter(["pid", "cmdline"])
        if any(str(tmp_path) in part for part in one.info["cmdline"] or ())
    ]
    assert left == []
