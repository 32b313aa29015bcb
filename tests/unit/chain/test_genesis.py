"""Genesis files: what nodes share, what they refuse, what identifies a chain."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gridtokenx.chain.genesis import BlockClock, format_genesis, parse_genesis
from gridtokenx.cluster.devnet import bundled_genesis, local_genesis
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.state import MemoryReader, Overlay
from gridtokenx.registry import rules as registry

GENESIS = bundled_genesis()
FILE = Path(__file__).parents[3] / "bootstrap" / "local" / "genesis.json"


def document() -> dict:
    return json.loads(format_genesis(GENESIS))


def refused(edited: dict, match: str) -> None:
    with pytest.raises(Rejected, match=match):
        parse_genesis(json.dumps(edited))


def test_a_file_is_read_back() -> None:
    assert parse_genesis(format_genesis(GENESIS)) == GENESIS
    assert parse_genesis(format_genesis(GENESIS)).hash == GENESIS.hash


def test_the_committed_file_is_current() -> None:
    assert FILE.read_text() == format_genesis(GENESIS)


def test_unknown_and_missing_keys_are_refused() -> None:
    refused(document() | {"surprise": 1}, "genesis does not know 'surprise'")
    lacking = document()
    del lacking["chains"]
    refused(lacking, "genesis lacks 'chains'")
    nested = document()
    nested["chains"][1]["validators"][0]["colour"] = "red"
    refused(nested, r"genesis.chains\[1\].validators\[0\] does not know 'colour'")


def test_what_must_be_one_may_not_be_two() -> None:
    for key, match in (
        ("organisations", "organisation egat appears twice"),
        ("allocations", "allocation [0-9a-f]{64} appears twice"),
        ("chains", "chain MET appears twice"),
    ):
        twice = document()
        twice[key].append(twice[key][0])
        refused(twice, match)
    twice = document()
    twice["chains"][0]["validators"].append(twice["chains"][0]["validators"][0])
    refused(twice, "validator key [0-9a-f]{64} appears twice")
    twice = document()
    twice["chains"][1]["territories"].append(twice["chains"][0]["territories"][0])
    refused(twice, "territory BKK appears twice")
    twice = document()
    twice["organisations"][1]["operator"] = twice["organisations"][0]["operator"]
    refused(twice, "operator [0-9a-f]{64} appears twice")


def test_names_must_lead_somewhere() -> None:
    for entry, field in (("validators", "organisation"), ("territories", "distributor")):
        edited = document()
        edited["chains"][0][entry][0][field] = "nobody"
        refused(edited, "MALFORMED: chain MET names organisation 'nobody', which is not defined")


@pytest.mark.parametrize("name", ["A/", "met", "M T", "\u0e01\u0e02", "A\n"])
def test_a_chains_name_can_be_part_of_topics_and_keys(name: str) -> None:
    edited = document()
    edited["chains"][0]["name"] = name
    refused(edited, "MALFORMED: a chain is named by 2 to 8 of A-Z and 0-9")


def test_a_market_day_lies_in_time_and_a_supply_in_range() -> None:
    edited = document()
    edited["market_clock"] |= {"start_ms": 0, "ms_per_block": 900_000}
    refused(edited, "MALFORMED: the market clock starts at 0, before 1970-01-02")
    edited = document()
    for entry in edited["allocations"]:
        entry["gtx_ugtx"] = 2**62
    refused(edited, "MALFORMED: the gtx supply is more")


def test_stake_stays_within_reach_of_evidence() -> None:
    edited = document()
    edited["evidence_window_blocks"], edited["epoch_blocks"] = 300, 60
    edited["national"]["staking"]["unbonding_blocks"] = 479
    refused(edited, "unbonding_blocks is 479; .* window of 300 .* epochs of 60 it must be 480")
    edited["national"]["staking"]["unbonding_blocks"] = 480
    assert parse_genesis(json.dumps(edited)).unbonding_blocks_min == 480


def test_limits_are_checked() -> None:
    for key, value in (
        ("block_time_ms", 99),
        ("network_id", -1),
        ("chains", []),
        ("network_name", ""),
    ):
        refused(document() | {key: value}, f"OUT_OF_RANGE.*{key}")
    with pytest.raises(Rejected, match="TOO_LARGE"):
        parse_genesis(" " * (1024 * 1024 + 1))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_genesis_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="MALFORMED"):
        parse_genesis(text)


OUT = "VALUE_OUT_OF_RANGE: "


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        # Every slot has a block in which its gate closes.
        ("market_clock.ms_per_block", 900_001, f"{OUT}.*ms_per_block is 900001, .* 0..900000"),
        ("market_clock.ms_per_block", 2**63 - 1, f"{OUT}.*must be 0..900000"),
        ("market_clock.start_ms", 2**63 - 1, f"{OUT}market_clock.start_ms is .* at most 41024448"),
        ("genesis_time_ms", 4_102_444_800_001, f"{OUT}genesis_time_ms is .*the year 2100"),
        # What no vote may set, no genesis sets.
        ("parameters.wheeling_mthb", [1, 2, 3, 10_001], f"{OUT}wheeling.national .* not 10.001"),
        ("parameters.wheeling_mthb", [2, 1, 3, 400], f"{OUT}wheeling.substation would be 0.002, a"),
        ("parameters.transmission_mthb", 2**63 - 1, f"{OUT}wheeling.transmission may be 0 to 10"),
        ("parameters.max_price_mthb", 100_001, f"{OUT}pricing.max may be 0.001 to 100 .THB/kWh"),
        ("parameters.min_price_mthb", 10_001, f"{OUT}pricing.min would be 10.001, above pricing"),
        ("parameters.buyback_mthb", 2**63 - 1, f"{OUT}pricing.buyback may be"),
        ("parameters.shortfall_penalty_mthb", 100_001, f"{OUT}pricing.shortfall_penalty may be"),
        ("parameters.max_order_wh", 2**63 - 1, f"{OUT}market.max_order may be"),
        ("parameters.dust_wh", 0, f"{OUT}market.dust may be"),
        ("parameters.frequency_min_mhz", 50_001, f"{OUT}grid.frequency_min may be"),
        ("parameters.vat_end_ms", 2**63 - 1, f"{OUT}vat.end may be"),
        ("parameters.carbon_rates.0.mcr_per_kwh", 5001, f"{OUT}carbon_credits.solar may be 0 to 5"),
        ("parameters.carbon_rates.0.source", "wind", "DUPLICATE: carbon_rates names a thing twice"),
        ("national.staking.weight_cap_bps", 5000, f"{OUT}staking.weight_cap may be"),
        ("national.staking.block_reward_ugtx", 2**63 - 1, f"{OUT}staking.block_reward may be"),
        ("national.staking.min_validators", 22, f"{OUT}staking.min_validators would be 22, above"),
        ("national.governance.deposit_ugtx", 2**63 - 1, f"{OUT}governance.deposit may be"),
        ("national.governance.voting_period_ms", 1, f"{OUT}governance.voting_period may be"),
        # Kept sets: window / epoch + 4 of them at most.
        ("evidence_window_blocks", 982_860, f"{OUT}.*16385 validator sets .* at most 982859"),
        # What types and ranges allow, and the rules that install it do not.
        (
            "chains.0.territories.0.distributor",
            "erc",
            "NOT_REGISTERED: erc of territory BKK is not",
        ),
        ("organisations.0.kind", "payment", "ALREADY_REGISTERED: there is a payment authority"),
    ],
)
def test_a_bound_that_blocks_would_meet_is_told_when_the_file_is_loaded(
    path: str, value: object, match: str
) -> None:
    edited = document()
    *folders, name = path.split(".")
    place = edited
    for folder in folders:
        place = place[int(folder) if folder.isdigit() else folder]
    assert name in place
    place[name] = value
    refused(edited, match)


def test_rates_of_sources_that_no_vote_names_have_the_others_range() -> None:
    edited = document()
    edited["parameters"]["carbon_rates"].append(
        {"kind": "carbon_rate", "source": "coal", "mcr_per_kwh": 5001}
    )
    refused(edited, "VALUE_OUT_OF_RANGE: carbon_credits.coal may be 0 to 5")
    edited["parameters"]["carbon_rates"][-1]["mcr_per_kwh"] = 5000
    parse_genesis(json.dumps(edited))


def test_the_longest_window_is_taken() -> None:
    edited = document()
    edited["evidence_window_blocks"] = 982_859
    edited["national"]["staking"]["unbonding_blocks"] = 983_039
    edited["market_clock"] = {
        "kind": "block_clock",
        "start_ms": 86_400_000,
        "ms_per_block": 900_000,
    }
    edited["national"]["governance"]["voting_period_ms"] = 60 * 900_000
    edited["national"]["governance"]["execution_delay_ms"] = 10 * 900_000
    parse_genesis(json.dumps(edited))


def test_a_chains_identity_is_its_rules() -> None:
    """Another incarnation, clock, validator or parameter is another chain; so is another name."""
    first = GENESIS.chain("MET")
    region = first.region
    others = [
        GENESIS.chain("NOR").chain_id,
        replace(GENESIS, network_id=7).chain("MET").chain_id,
        replace(GENESIS, network_name="other").chain("MET").chain_id,
        replace(GENESIS, genesis_time_ms=7).chain("MET").chain_id,
        replace(GENESIS, market_clock=BlockClock(1, 900_000)).chain("MET").chain_id,
        replace(GENESIS, parameters=replace(GENESIS.parameters, fee_bps=1)).chain("MET").chain_id,
        local_genesis(authorities=3).chain("MET").chain_id,
    ]
    reborn = replace(region, incarnation=2)
    others.append(replace(GENESIS, chains=(reborn, *GENESIS.chains[1:])).chain("MET").chain_id)
    assert len({first.chain_id, *others}) == len(others) + 1


def test_a_new_chain_leaves_the_others_as_they_are() -> None:
    alone = replace(GENESIS, chains=GENESIS.chains[:1])
    assert alone.chain("MET").chain_id == GENESIS.chain("MET").chain_id
    assert alone.hash != GENESIS.hash


def test_chains_are_found_by_name_and_by_location() -> None:
    assert GENESIS.chain_names == ("TH", "MET", "NOR", "NEA")
    assert GENESIS.chain_of_location("CNX-01-SUB001").name == "NOR"
    with pytest.raises(Rejected, match=r"UNKNOWN_SHARD.*TH, MET, NOR, NEA"):
        GENESIS.chain("XXX")
    with pytest.raises(Rejected, match=r"UNKNOWN_ZONE.*BKK"):
        GENESIS.chain_of_location("HKT-01-SUB001")


def test_blocks_open_at_slots_of_their_own_chain() -> None:
    spec = GENESIS.chain("NOR")
    origin = GENESIS.genesis_time_ms + spec.region.offset_ms
    assert spec.opens_ms(origin) == origin + 1000
    assert spec.opens_ms(origin + 799) == origin + 1000
    assert spec.opens_ms(origin + 900) == origin + 1100  # a fifth of a slot at least
    assert spec.opens_ms(GENESIS.genesis_time_ms) > GENESIS.genesis_time_ms


def test_market_time_is_wall_clock_time_or_counts_blocks() -> None:
    assert local_genesis().chain("MET").market_time_ms(5, 777) == 777
    played = local_genesis(clock=BlockClock(1_000, 900_000)).chain("MET")
    assert played.market_time_ms(5, 777) == 1_000 + 5 * 900_000


def test_a_validators_fees_go_to_its_organisation() -> None:
    spec = GENESIS.chain("MET")
    accounts = {entry.name: entry.account for entry in GENESIS.organisations}
    for index, member in enumerate(spec.genesis_validators.members):
        named = next(one for one in spec.region.validators if one.public_key == member.public_key)
        assert spec.genesis_accounts[index] == accounts[named.organisation]


def test_installing_writes_authorities_territories_and_supply() -> None:
    state = Overlay(MemoryReader())
    GENESIS.chain("MET").install(state)
    assert registry.distributor_of(state, "BKK").name == "mea"
    with pytest.raises(Rejected, match="UNKNOWN_ZONE"):
        registry.distributor_of(state, "CNX")
    total = sum(entry.gtx_ugtx for entry in GENESIS.allocations)
    assert ledger.supply(state).gtx_ugtx == total
