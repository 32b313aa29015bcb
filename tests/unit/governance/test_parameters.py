"""Names, ranges and texts of parameters, against the records that hold them."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.governance import parameters as voted
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.governance.parameters import PARAMETERS, Owner
from gridtokenx.interchain.model import InterchainParameters
from gridtokenx.primitives.codec import decode, encode
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.staking.model import StakingParameters
from gridtokenx.trading.model import MarketParameters, MatchingMode
from tests.support.refusals import refused

RECORDS = {
    Owner.MARKET: MarketParameters(),
    Owner.STAKING: StakingParameters(),
    Owner.GOVERNANCE: GovernanceParameters(),
    Owner.INTERCHAIN: InterchainParameters(),
}
EXCLUDED = {
    "holidays": "a list of a year's days: one number cannot say it",
}
ANY_PARAMETER = st.sampled_from(PARAMETERS)


def value_of(name: str) -> int:
    parameter = voted.find(name)
    return voted.value_in(RECORDS[parameter.owner], parameter)


@pytest.mark.parametrize("owner", list(Owner))
def test_every_number_can_be_voted_on_or_has_a_reason(owner) -> None:
    fields = {field.name for field in dataclasses.fields(RECORDS[owner])}
    governed = {parameter.field for parameter in PARAMETERS if parameter.owner is owner}
    assert fields == governed | (fields & set(EXCLUDED))
    assert not governed & set(EXCLUDED)


@pytest.mark.parametrize("field", ["carbon_rates", "wheeling_mthb"])
def test_every_entry_of_a_list_can_be_voted_on(field) -> None:
    parts = [parameter for parameter in PARAMETERS if parameter.field == field]
    held = getattr(RECORDS[Owner.MARKET], field)
    assert len({parameter.part for parameter in parts}) == len(parts) == len(held)


def test_the_table_that_people_read_is_that_of_the_program() -> None:
    root = Path(__file__).parents[3]
    renewed = runpy.run_path(str(root / "scripts" / "parameters"))["renewed"]
    page = (root / "docs" / "governance.md").read_text(encoding="utf-8")
    assert "| `carbon_credits.solar` | credits/kWh | 0 | 5 | 0.5 |" in page
    assert renewed(page) == page, "run: .venv/bin/python scripts/parameters"


def test_names_are_distinct_and_plain() -> None:
    names = [parameter.name for parameter in PARAMETERS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z_]+", name) for name in names)
    assert all(lower in names and upper in names for lower, upper in voted.ORDERED)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda one: one.name)
def test_what_is_in_force_lies_in_its_range(parameter) -> None:
    voted.check_range(parameter, value_of(parameter.name))


def test_the_defaults_are_in_order() -> None:
    changes = {name: value_of(name) for pair in voted.ORDERED for name in pair}
    voted.check_order(changes, value_of)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda one: one.name)
def test_a_record_takes_every_value_of_the_range(parameter) -> None:
    record = RECORDS[parameter.owner]
    for value in (parameter.low, parameter.high):
        changed = voted.with_value(record, parameter, value)
        assert voted.value_in(changed, parameter) == value
        assert decode(type(record), encode(changed)) == changed  # Within the wire's limits too.
        back = voted.with_value(changed, parameter, voted.value_in(record, parameter))
        assert back == record


@given(ANY_PARAMETER, st.data())
def test_texts_are_exact_both_ways(parameter, data) -> None:
    value = data.draw(st.integers(parameter.low, parameter.high))
    assert voted.parse(parameter, voted.format_value(parameter, value)) == value


@given(ANY_PARAMETER, st.text(max_size=32) | st.from_regex(r"\A[0-9]{1,20}(\.[0-9]{1,10})?\Z"))
def test_whatever_people_write_is_in_range_or_refused(parameter, text) -> None:
    refusal = None
    try:
        value = voted.parse(parameter, text)
    except Rejected as error:
        refusal = error
    if refusal is None:
        assert parameter.low <= value <= parameter.high
    else:
        assert refusal.code is ErrorCode.VALUE_OUT_OF_RANGE
        assert voted.valid_range(parameter) in refusal.detail


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("carbon_credits.solar", "0.7", 700),
        ("carbon_credits.solar", "0.700", 700),
        ("pricing.max", "12", 12_000),
        ("vat.rate", "0.07", 700),
        ("governance.voting_period", "604800", 604_800_000),
        ("governance.deposit", "1000", 1_000_000_000),
        ("market.matching_mode", "gate", 1),
        ("grid.frequency_min", "49.5", 49_500),
    ],
)
def test_values_as_people_write_them(name, text, value) -> None:
    assert voted.parse(voted.find(name), text) == value


@pytest.mark.parametrize("text", ["5.001", "0.7001", "-1", "1e3", "1_0", "٣", "", " 1", ".5", "1."])
def test_what_is_no_value_is_told_the_range(text) -> None:
    detail = refused(
        ErrorCode.VALUE_OUT_OF_RANGE, voted.parse, voted.find("carbon_credits.solar"), text
    )
    assert "0 to 5 (credits/kWh, at most 3 decimals)" in detail


def test_an_unknown_name_is_told_its_neighbours() -> None:
    assert "carbon_credits.solar" in refused(
        ErrorCode.UNKNOWN_PARAMETER, voted.find, "carbon_credit.solar"
    )
    assert "vat.rate_after" in refused(ErrorCode.UNKNOWN_PARAMETER, voted.find, "vat.xyzzy")
    assert "names such as" in refused(ErrorCode.UNKNOWN_PARAMETER, voted.find, "§§§")


def test_a_row_that_genesis_left_out_is_refused() -> None:
    bare = MarketParameters(carbon_rates=())
    solar = voted.find("carbon_credits.solar")
    refused(ErrorCode.UNKNOWN_PARAMETER, voted.value_in, bare, solar)
    refused(ErrorCode.UNKNOWN_PARAMETER, voted.with_value, bare, solar, 1)


def test_pairs_stay_in_order() -> None:
    voted.check_order({"pricing.min": 10_000}, value_of)
    refused(ErrorCode.VALUE_OUT_OF_RANGE, voted.check_order, {"pricing.min": 10_001}, value_of)
    refused(ErrorCode.VALUE_OUT_OF_RANGE, voted.check_order, {"pricing.max": 999}, value_of)
    voted.check_order({"pricing.min": 20_000, "pricing.max": 20_000}, value_of)


def test_an_enum_is_chosen_by_its_text() -> None:
    mode = voted.find("market.matching_mode")
    gate = voted.with_value(MarketParameters(), mode, 1)
    assert gate.matching_mode is MatchingMode.GATE
    assert "block or gate" in refused(ErrorCode.VALUE_OUT_OF_RANGE, voted.parse, mode, "0")
