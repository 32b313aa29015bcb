"""The published elections, tallies and texts, against the code and against their own laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gridtokenx.governance.parameters import PARAMETERS, find, format_value, parse
from gridtokenx.primitives.validators import Validator, ValidatorSet
from gridtokenx.staking.weights import elect, step_towards
from tests.vectors.governance_vectors import counted

VECTORS = Path(__file__).parents[2] / "protocols" / "vectors"
ELECTION = json.loads((VECTORS / "election.json").read_text(encoding="utf-8"))
GOVERNANCE = json.loads((VECTORS / "governance.json").read_text(encoding="utf-8"))


def read(rows: list) -> ValidatorSet:
    return ValidatorSet.of(Validator(bytes.fromhex(key), weight) for key, weight in rows)


@pytest.mark.parametrize("vector", ELECTION["elections"], ids=lambda one: str(len(one["members"])))
def test_elections(vector) -> None:
    stakes = [(bytes([n]) * 32, stake) for n, stake in enumerate(vector["stakes_ugtx"], 1)]
    unit, cap_bps = ELECTION["unit_ugtx"], ELECTION["weight_cap_bps"]
    expected = read(vector["members"])
    assert ValidatorSet.of(elect(stakes, unit=unit, cap_bps=cap_bps)) == expected
    if len(expected.members) >= 5:
        heaviest = max(member.weight for member in expected.members)
        assert 5 * heaviest <= expected.total_weight


@pytest.mark.parametrize("vector", ELECTION["steps"], ids=lambda one: str(len(one["next"])))
def test_steps(vector) -> None:
    assert step_towards(read(vector["ordered"]), read(vector["elected"])) == read(vector["next"])


@pytest.mark.parametrize("vector", GOVERNANCE["tallies"])
def test_tallies(vector) -> None:
    result = counted(vector["pools"], vector["delegations"], vector["votes"])
    assert result == {name: vector[name] for name in ("yes", "no", "abstain")}
    assert sum(result.values()) <= sum(stake for stake, _ in vector["pools"].values())


def test_parameters() -> None:
    assert [row["name"] for row in GOVERNANCE["parameters"]] == [one.name for one in PARAMETERS]
    for row in GOVERNANCE["parameters"]:
        parameter = find(row["name"])
        for edge in ("low", "high"):
            assert parse(parameter, row[f"{edge}_text"]) == row[edge]
            assert format_value(parameter, row[edge]) == row[f"{edge}_text"]
    for row in GOVERNANCE["texts"]:
        assert parse(find(row["name"]), row["text"]) == row["value"]
