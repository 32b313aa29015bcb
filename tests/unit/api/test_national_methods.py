"""Stake, votes and transfers between chains as the API tells them, over real chains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gridtokenx.api.errors import ApiError
from gridtokenx.api.methods import METHODS
from gridtokenx.chain.light import TrustedSet
from gridtokenx.chain.light_client import Base, check_state_proof
from gridtokenx.client import check_incarnations
from gridtokenx.cluster.devnet import GTX, dev_key, operator_key, validator_name
from gridtokenx.governance.model import (
    ApproveAsAuthority,
    AuthorityChange,
    AuthorityManagement,
    Choice,
    Emergency,
    NewAuthority,
    ParameterChange,
    Propose,
    Reincarnation,
    Vote,
)
from gridtokenx.interchain.model import REGIONS, Incarnation, TransferAbroad
from gridtokenx.ledger.model import Asset, Transfer
from gridtokenx.primitives.document import from_document, to_document
from gridtokenx.primitives.errors import Rejected
from gridtokenx.primitives.types import format_address
from gridtokenx.staking.model import Bond, Redelegate, Unbond
from tests.support.api_call import call
from tests.support.api_node import BUYER, MemoryNode

DEV = dev_key("dev")
STAKES = [dev_key(f"{validator_name(index)[1]} stake") for index in range(4)]
SOLAR = {"kind": "parameter_change", "parameter": "carbon_credits.solar", "new_value": "0.7"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MemoryNode]:
    made = MemoryNode(tmp_path, names=("TH", "MET", "NOR"))
    made.make_block("TH")
    yield made
    made.close()


def refusal(node: MemoryNode, name: str, /, **raw: Any) -> tuple[str, str]:
    """(reason, sentence) of a refusal."""
    with pytest.raises((ApiError, Rejected)) as error:
        call(node, name, **raw)
    told = error.value
    told = ApiError.of(told) if isinstance(told, Rejected) else told
    return told.reason, told.message


def propose(node: MemoryNode, parameter: str = "carbon_credits.solar", value: str = "0.7") -> None:
    change = ParameterChange(parameter, value)
    node.put(DEV, Propose("More sun", "Why: because.", change), "TH")
    node.make_block("TH")


def vote(node: MemoryNode, *choices: Choice) -> None:
    for key, choice in zip(STAKES, choices, strict=False):
        node.put(key, Vote(1, choice), "TH")
    node.make_block("TH")


def blocks(node: MemoryNode, count: int, chain: str = "TH") -> None:
    for _ in range(count):
        node.make_block(chain)


def value_of(node: MemoryNode, name: str) -> dict[str, str]:
    (row,) = call(node, "gov_getParams", name=name)["items"]
    return row["values"]


def test_a_vote_from_proposal_to_the_value_in_force_on_the_regions(node: MemoryNode) -> None:
    propose(node)
    (listed,) = call(node, "gov_getProposals")["items"]
    assert (listed["proposal"], listed["status"]) == ("1", "voting")
    assert listed["summary"] == "carbon_credits.solar = 0.7"
    found = call(node, "gov_getProposal", id=1)
    assert found["description"] == "Why: because."
    assert found["changes"] == [
        {"parameter": "carbon_credits.solar", "unit": "credits/kWh", "old": "0.5", "new": "0.7"}
    ]
    vote(node, Choice.YES, Choice.YES, Choice.NO)
    tally = call(node, "gov_getTally", id="1")
    assert int(tally["yes_ugtx"]) > int(tally["no_ugtx"]) > 0
    assert (tally["turnout_bps"] >= 7400, tally["final"]) == (True, False)
    assert tally["outcome"] == "queued"
    votes = call(node, "gov_getVotes", id=1)["items"]
    assert sorted(one["choice"] for one in votes) == ["no", "yes", "yes"]
    before = value_of(node, "carbon_credits.solar")
    assert before == {"TH": "0.5", "MET": "0.5", "NOR": "0.5"}
    blocks(node, 4)
    assert call(node, "gov_getProposals", status="executed")["items"]
    node.make_block("MET")
    assert value_of(node, "carbon_credits.solar") == {"TH": "0.7", "MET": "0.7", "NOR": "0.5"}
    node.make_block("NOR")
    assert value_of(node, "carbon_credits.solar")["NOR"] == "0.7"
    tally = call(node, "gov_getTally", id=1)
    assert (tally["final"], tally["support_bps"] > 4900) == (True, True)
    assert refusal(node, "gov_getVotes", id=1)[0] == "voting_closed"


def test_pages_of_proposals_and_of_votes(node: MemoryNode) -> None:
    for value in ("0.7", "0.8", "0.9"):
        propose(node, value=value)
    page = call(node, "gov_getProposals", limit=2)
    assert [one["proposal"] for one in page["items"]] == ["3", "2"]
    rest = call(node, "gov_getProposals", limit=2, cursor=page["next_cursor"])
    assert ([one["proposal"] for one in rest["items"]], rest["next_cursor"]) == (["1"], None)
    vote(node, Choice.YES, Choice.NO, Choice.ABSTAIN)
    first = call(node, "gov_getVotes", id=1, limit=2)
    last = call(node, "gov_getVotes", id=1, limit=2, cursor=first["next_cursor"])
    assert (len(first["items"]), len(last["items"]), last["next_cursor"]) == (2, 1, None)
    assert refusal(node, "gov_getVotes", id=1, cursor="AAAA")[0] == "malformed"
    assert refusal(node, "gov_getProposal", id=9)[0] == "proposal_not_found"


def test_a_proposal_is_tried_before_it_costs_anything(node: MemoryNode) -> None:
    dry = call(node, "gov_simulateProposal", content=SOLAR, proposer=format_address(DEV.public_key))
    assert (dry["changes"][0]["old"], dry["changes"][0]["new"]) == ("0.5", "0.7")
    assert (dry["deposit_ugtx"], dry["fee_ugtx"]) == ("1000000000", "10000000")
    assert dry["chains"] == ["TH", "MET", "NOR", "NEA"]
    for change, reason, told in (
        ({"parameter": "carbon_credit.solar"}, "unknown_parameter", "carbon_credits.solar"),
        ({"new_value": "7"}, "value_out_of_range", "0 to 5 (credits/kWh"),
        ({"new_value": "0.5"}, "duplicate", "in force already"),
        ({"kind": "nonsense"}, "unknown_kind", "parameter_change"),
        ({"extra": 1}, "malformed", "extra"),
    ):
        found = refusal(node, "gov_simulateProposal", content={**SOLAR, **change})
        assert found[0] == reason
        assert told in found[1]
    poor = format_address(dev_key("nobody").public_key)
    assert refusal(node, "gov_simulateProposal", content=SOLAR, proposer=poor)[0] == (
        "insufficient_balance"
    )
    tier = {**SOLAR, "parameter": "market.max_trade_tier", "new_value": "3"}
    assert call(node, "gov_simulateProposal", content=tier)["approvers"] == ["erc"]
    assert call(node, "gov_getProposals")["items"] == []


def test_every_parameter_has_a_range_and_a_value_by_chain(node: MemoryNode) -> None:
    told = call(node, "gov_getParams")
    by_name = {one["parameter"]: one for one in told["items"]}
    assert set(told["heights"]) == {"TH", "MET", "NOR"}
    assert list(by_name["governance.quorum"]["values"].items()) == [("TH", "0.3334")]
    assert by_name["market.matching_mode"]["choices"] == ["block", "gate"]
    assert by_name["market.max_trade_tier"]["needs_regulator"] is True
    only = call(node, "gov_getParams", chain="MET")["items"]
    assert {next(iter(one["values"])) for one in only} == {"MET"}
    reason, told_so = refusal(node, "gov_getParams", name="carbon_credits.sola")
    assert (reason, "carbon_credits.solar" in told_so) == ("unknown_parameter", True)


def test_authorities_stop_a_region(node: MemoryNode) -> None:
    node.put(DEV, Propose("Flood", "", Emergency("BKK", "flood", 3_600_000)), "TH")
    node.make_block("TH")
    tally = call(node, "gov_getTally", id=1)
    assert {one["organisation"] for one in tally["approvers"]} == {"egat", "mea", "pea", "erc"}
    assert tally["outcome"] == "no_quorum"
    for name in ("egat", "mea", "erc"):
        node.put(operator_key(name), ApproveAsAuthority(1), "TH")
    node.make_block("TH")
    assert call(node, "gov_getProposal", id=1)["status"] == "executed"
    assert call(node, "gov_getProposal", id=1)["summary"] == "halt BKK for 60 min: flood"
    node.make_block("MET")
    (bkk,) = [one for one in call(node, "grid_getStatus", chain="MET")["territories"]
              if one["territory"] == "BKK"]  # fmt: skip
    assert "governance" in bkk["emergency"]


def test_an_authority_change_shows_who_must_approve(node: MemoryNode) -> None:
    entry = call(node, "shard_get", id="MET")["authorities"][0]
    key = next(
        dev_key(validator_name(index)[1]).public_key
        for index in range(4)
        if validator_name(index)[0] == entry["organisation"]
    )
    change = AuthorityManagement(
        "MET", AuthorityChange.ROTATE, entry["organisation"], key, bytes([7]) * 32, 0
    )
    node.put(DEV, Propose("Rotate", "", change), "TH")
    node.make_block("TH")
    found = call(node, "gov_getProposal", id=1)
    assert found["summary"] == f"rotate a node of {entry['organisation']} on MET"
    assert len(found["tally"]["approvers"]) == 4


def test_stake_is_bonded_and_leaves(node: MemoryNode) -> None:
    operator = format_address(STAKES[0].public_key)
    node.put(DEV, Bond(STAKES[0].public_key, 50 * GTX), "TH")
    node.make_block("TH")
    node.put(DEV, Unbond(STAKES[0].public_key, 20 * GTX), "TH")
    node.make_block("TH")
    told = call(node, "stake_getDelegations", address=format_address(DEV.public_key))
    assert told["unbonding_ugtx"] == str(20 * GTX)
    assert 30 * GTX <= int(told["bonded_ugtx"]) < 31 * GTX
    (leaving,) = told["unbonding"]
    assert int(leaving["matures_height"]) == int(leaving["started_height"]) + int(
        told["unbonding_blocks"]
    )
    rows = call(node, "stake_getValidators")["items"]
    assert {one["status"] for one in rows} == {"active"}
    stakes = [int(one["stake_ugtx"]) for one in rows]
    assert stakes == sorted(stakes, reverse=True)
    page = call(node, "stake_getValidators", limit=3)
    rest = call(node, "stake_getValidators", limit=3, cursor=page["next_cursor"])
    assert [*page["items"], *rest["items"]] == rows
    one = call(node, "stake_getValidator", operator=operator)
    assert (one["moniker"], one["commission_bps"]) == ("egat-0", 500)
    assert [int(row["weight"]) for row in one["weights"]] != [0]
    pool = call(node, "stake_getPool")
    assert (pool["in_set"], pool["jailed"], pool["unbonding_ugtx"]) == (4, 0, str(20 * GTX))
    node.put(DEV, Redelegate(STAKES[0].public_key, STAKES[1].public_key, 10 * GTX), "TH")
    node.make_block("TH")
    told = call(node, "stake_getDelegations", address=format_address(DEV.public_key))
    (moving,) = told["redelegating"]
    assert (moving["source"], moving["amount_ugtx"]) == (operator, str(10 * GTX))
    matures = int(moving["started_height"]) + int(told["unbonding_blocks"])
    assert int(moving["free_height"]) == matures
    by_name = {row["moniker"]: row for row in told["delegations"]}
    assert by_name["mea-0"]["locked_ugtx"] == by_name["mea-0"]["amount_ugtx"] == str(10 * GTX)
    assert by_name["egat-0"]["locked_ugtx"] == "0"
    assert call(node, "stake_getValidator", operator=operator)["open_entries"] == 2
    nobody = format_address(BUYER.public_key)
    assert refusal(node, "stake_getValidator", operator=nobody)[0] == "validator_not_found"
    names = {row["organisation"] for row in call(node, "chain_getValidators", chain="TH")["items"]}
    assert names == {"egat-0", "mea-0", "pea-0", "erc-0"}


def transfer(node: MemoryNode, amount: int, to: bytes = BUYER.public_key) -> str:
    sent = node.put(DEV, TransferAbroad("NOR", to, Asset.GTX, amount), "MET")
    assert call(node, "shard_getTransfer", id=sent.id.hex())["status"] == "pending"
    node.make_block("MET")
    return sent.id.hex()


def status_of(node: MemoryNode, transfer_id: str) -> tuple[str, list[tuple[str, str]]]:
    told = call(node, "shard_getTransfer", id=transfer_id)
    return told["status"], [(one["chain"], one["event"]["kind"]) for one in told["steps"]]


def test_a_transfer_between_regions_is_followed_to_its_credit(node: MemoryNode) -> None:
    sent = transfer(node, 3 * GTX)
    assert status_of(node, sent) == ("in_flight", [("MET", "transfer_sent")])
    assert call(node, "shard_get", id="MET")["queue_up"] == 1
    node.relay("MET")
    assert status_of(node, sent)[0] == "in_flight"
    assert call(node, "shard_get", id="NOR")["queue_down"] == 1
    node.make_block("NOR")
    told = call(node, "shard_getTransfer", id=sent)
    assert (told["status"], told["origin"], told["destination"]) == ("credited", "MET", "NOR")
    assert (told["asset"], told["amount"]) == ("gtx", str(3 * GTX))
    buyer = format_address(BUYER.public_key)
    (row,) = call(node, "shard_getReceipts", address=buyer, chain="NOR")["items"]
    assert row == told
    (row,) = call(node, "shard_getReceipts", id=sent)["items"]
    assert row == told
    assert refusal(node, "shard_getReceipts")[0] == "invalid_params"
    assert refusal(node, "shard_getTransfer", id="00" * 32)[0] == "tx_not_found"
    history = call(node, "account_getHistory", address=buyer, chain="MET")["items"]
    assert history[0]["transaction"]["payload"]["kind"] == "transfer_abroad"


def test_a_payment_within_a_chain_is_no_transfer(node: MemoryNode) -> None:
    payment = node.put(DEV, Transfer(BUYER.public_key, Asset.GTX, 10_000), "MET")
    node.make_block("MET")
    assert call(node, "tx_getStatus", id=payment.id.hex())["status"] == "finalized"
    assert refusal(node, "shard_getTransfer", id=payment.id.hex())[0] == "tx_not_found"


def test_who_does_not_follow_the_destination_learns_it_from_the_national_chain(
    node: MemoryNode,
) -> None:
    sent = transfer(node, GTX)
    node.relay("MET")
    node.make_block("NOR")
    hidden = node.statuses.pop("NOR")
    assert status_of(node, sent)[0] == "in_flight"
    assert call(node, "shard_get", id="NOR")["followed"] is False
    node.relay("NOR")
    assert status_of(node, sent) == (
        "credited", [("MET", "transfer_sent"), ("TH", "transfer_routed")],
    )  # fmt: skip
    node.statuses["NOR"] = hidden


def test_who_follows_the_destination_waits_for_its_word(node: MemoryNode) -> None:
    """The national chain may tell of a block of the destination that is not here yet."""
    sent = transfer(node, GTX)
    node.relay("MET")
    behind = node.statuses["NOR"]
    node.make_block("NOR")
    node.relay("NOR")
    node.statuses["NOR"], there = behind, node.statuses["NOR"]
    assert status_of(node, sent)[0] == "in_flight"
    node.statuses["NOR"] = there
    assert status_of(node, sent)[0] == "credited"


def test_what_cannot_be_credited_comes_back(node: MemoryNode) -> None:
    """NOR is silent for 60 national blocks, so nothing more goes there."""
    sent = transfer(node, GTX)
    blocks(node, 60)
    node.relay("MET")
    on_its_way = [("MET", "transfer_sent"), ("TH", "transfer_returning")]
    assert status_of(node, sent) == ("in_flight", on_its_way)
    node.make_block("MET")
    told = call(node, "shard_getTransfer", id=sent)
    assert (told["status"], "paused" in told["reason"]) == ("bounced", True)
    assert told["steps"][-1]["event"]["kind"] == "transfer_returned"
    assert told["sender"] == format_address(DEV.public_key)


def test_regions_as_the_national_chain_sees_them(node: MemoryNode) -> None:
    rows = {one["shard"]: one for one in call(node, "shard_list")["items"]}
    assert set(rows) == {"MET", "NOR", "NEA"}
    assert (rows["NEA"]["followed"], rows["NEA"]["queue_up"]) == (False, None)
    assert int(rows["MET"]["escrow"]["gtx_ugtx"]) > 0
    node.make_block("MET")
    node.relay("MET")
    found = call(node, "shard_get", id="MET")
    assert (found["status"], found["checkpoint"]["height"]) == ("active", "1")
    assert found["territories"] == ["BKK", "NTB", "SPK"]
    blocks(node, 61)
    assert call(node, "shard_get", id="MET")["status"] == "paused"
    assert refusal(node, "shard_get", id="XYZ")[0] == "unknown_shard"
    assert refusal(node, "shard_get", id="TH")[0] == "unknown_shard"


def test_a_region_can_go_on_from_what_the_national_chain_has_accepted(node: MemoryNode) -> None:
    for amount in (1, 2):
        node.put(DEV, TransferAbroad("TH", BUYER.public_key, Asset.GTX, amount * GTX), "MET")
        node.make_block("MET")
        node.relay("MET")
    first = call(node, "shard_getCheckpoints", id="MET", limit=1)
    newest, cursor = first["items"][0], first["next_cursor"]
    (older,) = call(node, "shard_getCheckpoints", id="MET", cursor=cursor)["items"]
    assert [newest["height"], older["height"]] == ["2", "1"]
    assert [one["lost"]["gtx_ugtx"] for one in (newest, older)] == ["0", str(2 * GTX)]
    assert refusal(node, "shard_getCheckpoints", id="MET", cursor="eHg=")[0] == "malformed"

    members = tuple(
        NewAuthority(name, dev_key(key).public_key, 1)
        for name, key in (validator_name(index) for index in range(4))
    )
    wish = Reincarnation("MET", 1, bytes.fromhex(older["hash"]), members)
    content = to_document(wish, text_integers=True)
    dry = call(node, "gov_simulateProposal", content=content)
    assert dry["summary"].startswith("MET goes on from block 1")
    assert dry["lost"] == older["lost"]
    assert (dry["chains"], dry["approvers"]) == (["TH", "MET"], ["erc"])
    node.put(DEV, Propose("Go on", "", wish), "TH")
    node.make_block("TH")
    node.put(operator_key("erc"), ApproveAsAuthority(1), "TH")
    node.make_block("TH")
    held = call(node, "shard_get", id="MET")
    assert (held["status"], held["held_by"]) == ("held", "1")
    assert call(node, "gov_getProposal", id=1)["lost"] == older["lost"]
    vote(node, Choice.YES, Choice.YES, Choice.YES, Choice.YES)
    blocks(node, 8)
    found = call(node, "shard_get", id="MET")
    assert (found["status"], found["held_by"], found["incarnation"]) == ("active", None, 2)
    assert found["lost"]["gtx_ugtx"] == str(2 * GTX)
    (born,) = found["incarnations"]
    assert (born["number"], born["height"], born["hash"]) == ("2", "1", older["hash"])
    assert found["today"]["sent"]["gtx_ugtx"] == str(3 * GTX)
    # What a client makes of that, who trusts the genesis alone.
    told = [from_document(Incarnation, one) for one in found["incarnations"]]
    spec = check_incarnations(node.genesis.chain("MET"), told)
    assert spec.chain_id.hex() == found["chain_id"]
    for lie in (replace(told[0], number=3), replace(told[0], chain_id=bytes(32))):
        with pytest.raises(Rejected, match="has not the chain id"):
            check_incarnations(node.genesis.chain("MET"), [lie])
    with pytest.raises(Rejected, match="has not the chain id"):
        check_incarnations(node.genesis.chain("NOR"), told)


def test_the_hashes_of_closed_reports_are_recorded_and_listed(node: MemoryNode) -> None:
    assert call(node, "shard_getSettlements")["items"] == []
    while node.make_block("MET") < 90:
        pass
    node.relay("MET")
    closed = call(node, "audit_getReports", territory="mea", day="2026-01-01")["items"]
    told = call(node, "shard_getSettlements", day="2026-01-01")
    assert {one["territory"]: one["report_hash"] for one in told["items"]} == {
        one["territory"]: one["report_hash"] for one in closed
    }
    assert {(one["shard"], one["date"], one["height"]) for one in told["items"]} == {
        ("MET", "2026-01-01", told["height"])
    }
    page = call(node, "shard_getSettlements", shard="MET", limit=2)
    rest = call(node, "shard_getSettlements", shard="MET", limit=2, cursor=page["next_cursor"])
    assert [*page["items"], *rest["items"]] == told["items"]
    for other in ({"shard": "NOR"}, {"day": "2026-01-02"}, {"shard": "NOR", "day": "2026-01-01"}):
        assert call(node, "shard_getSettlements", **other)["items"] == []
    assert refusal(node, "shard_getSettlements", shard="XYZ")[0] == "unknown_shard"
    for wrong in ("1969-12-31", "2026-02-30", "today"):
        assert "such as 2026-03-16" in refusal(node, "shard_getSettlements", day=wrong)[1]


def test_metrics_tell_votes_stake_and_regions(node: MemoryNode) -> None:
    propose(node)
    transfer(node, GTX)
    node.statuses["MET"] = replace(node.statuses["MET"], checkpoints_sent=3)
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in node.metrics.collect()
        for sample in family.samples
    }
    assert found["gridtokenx_governance_proposals", "voting"] == 1
    assert found["gridtokenx_staking_bonded_gtx",] >= 400_000
    assert found["gridtokenx_validators",] == 4
    assert found["gridtokenx_validators_jailed",] == 0
    assert found["gridtokenx_region_status", "NEA", "active"] == 1
    assert found["gridtokenx_region_queue", "MET", "up"] == 1
    assert found["gridtokenx_region_checkpoint_age_blocks", "MET"] == 2
    assert found["gridtokenx_region_checkpoints_sent_total", "MET"] == 3
    assert ("gridtokenx_region_checkpoints_sent_total", "NEA") not in found  # Not followed here.
    blocks(node, 4)
    later = {
        sample.labels["status"]: sample.value
        for family in node.metrics.collect()
        for sample in family.samples
        if sample.name == "gridtokenx_governance_proposals"
    }
    assert (later["voting"], later["no_quorum"]) == (0, 1)


def test_a_regions_row_of_the_national_state_is_proven(node: MemoryNode) -> None:
    """What a light client follows the region from: its chain id and who signs it now."""
    answer = call(node, "shard_getProof", id="MET")
    spec = node.genesis.chain("TH")
    key = REGIONS.prefix + b"MET"
    base = Base(spec.chain_id, TrustedSet(0, spec.genesis_validators))
    proven = check_state_proof(answer, base, key, base.trusted)
    assert proven.value is not None
    row = REGIONS.decode(proven.value)
    assert row.chain_id == node.genesis.chain("MET").chain_id
    assert row.validators == node.genesis.chain("MET").genesis_validators
    assert answer["region"]["chain_id"] == row.chain_id.hex()
    assert answer["chain"] == "TH"
    assert refusal(node, "shard_getProof", id="XYZ")[0] == "unknown_shard"


def test_a_network_without_a_national_chain_says_so(tmp_path: Path) -> None:
    node = MemoryNode(tmp_path / "regions only")
    needs: dict[str, dict[str, Any]] = {
        "gov_getProposal": {"id": 1}, "gov_getTally": {"id": 1}, "gov_getVotes": {"id": 1},
        "gov_simulateProposal": {"content": SOLAR}, "shard_get": {"id": "MET"},
        "shard_getCheckpoints": {"id": "MET"},
        "shard_getProof": {"id": "MET"},
        "stake_getValidator": {"operator": format_address(DEV.public_key)},
        "stake_getDelegations": {"address": format_address(DEV.public_key)},
        "shard_getTransfer": {"id": "00" * 32}, "shard_getReceipts": {"id": "00" * 32},
    }  # fmt: skip
    for method in METHODS:
        if method.name.startswith(("gov_", "stake_", "shard_")) and method.name != "gov_getParams":
            reason, told = refusal(node, method.name, **needs.get(method.name, {}))
            known = ("unknown_shard", "no national chain")
            assert reason == known[0] or "no transfer" in told
    assert call(node, "gov_getParams")["items"][0]["values"] == {"MET": "0.5", "NOR": "0.5"}
    node.close()
