"""What the commands of grid, energy, carbon, audit and quotes ask, refuse and show."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from gridtokenx.cli.output import ExitCode
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.types import format_address

ADDRESS = format_address(bytes(range(32)))
FLOW = {"export_wh": "1000", "import_wh": "0", "local_wh": "2500"}
NODE = {
    "node": "BKK-01-SUB001",
    "state": "congested",
    "headroom_wh": "0",
    "loading_bps": 11_850,
    "limit_bps": 10_000,
    "rating_va": "400000",
    "frequency_mhz": 50_000,
    "voltage_bps": 10_000,
    "slot": "7",
    "by": "mea",
    "stale": True,
    "flow": FLOW,
    "flow_day": FLOW,
}
TERRITORY = {
    **NODE,
    "node": "BKK",
    "territory": "BKK",
    "emergency": "mea halted territory BKK: flood",
    "headroom_wh": None,
    "rating_va": None,
    "loading_bps": None,
    "limit_bps": None,
    "substations": [NODE],
}
CERTIFICATE = {
    "id": "MET-3",
    "chain": "MET",
    "chain_id": "ab" * 32,
    "network": "<b>net</b>",
    "number": "3",
    "owner": ADDRESS,
    "amount_ucr": "1250000",
    "beneficiary_hash": sha256(b"A & B").hex(),
    "retired_ms": "1773630000000",
}
CHARGES = {
    "buyer_uthb": "6642000",
    "seller_uthb": "5985000",
    "energy_uthb": "6000000",
    "wheeling_uthb": "600000",
    "vat_uthb": "42000",
    "fee_uthb": "15000",
    "carbon_ucr": "0",
}
QUOTE = {
    "slot": "1970700",
    "order_type": "buy",
    "reserve": "escrow",
    "reserve_uthb": "11984000",
    "worst": {**CHARGES, "buyer_uthb": "11984000"},
    "last": {
        "group": "BKK-01",
        "price_mthb": "3000",
        "wheeling_mthb": "300",
        "slot": "1970699",
        "tier": 1,
    },
    "at_last_price": CHARGES,
    "emergency": None,
    "energy_wh": "2000",
    "merit_order": [
        {"tier": 0, "group": "BKK-01-SUB001", "wheeling_mthb": "300", "better_wh": "1500",
         "equal_wh": "500", "meets_wh": "4000"},
        {"tier": 1, "group": "BKK-01", "wheeling_mthb": "600", "better_wh": "12500",
         "equal_wh": "500", "meets_wh": "99000"},
    ],
    "expected": {
        "energy_wh": "1500",
        "price_mthb": "3333",
        "parts": [
            {"tier": 0, "group": "BKK-01-SUB001", "energy_wh": "1000", "price_mthb": "3000",
             "wheeling_mthb": "300"},
            {"tier": 1, "group": "BKK-01", "energy_wh": "500", "price_mthb": "4000",
             "wheeling_mthb": "600"},
        ],
        "charges": CHARGES,
    },
    "expected_unknown": None,
    "cleared": [
        {"slot": "1970699", "sold_wh": "3000", "bought_wh": "2500",
         "prices": [{"tier": 0, "group": "BKK-01-SUB001", "price_mthb": "3500"},
                    {"tier": 1, "group": "BKK-01", "price_mthb": "3750"}]},
        {"slot": "1970698", "sold_wh": "0", "bought_wh": "0", "prices": []},
    ],
}  # fmt: skip
TOTALS = {
    "kind": "report_totals",
    **dict.fromkeys(("readings", "missing_readings", "participants"), "2"),
    **dict.fromkeys(
        ("import_wh", "consumed_wh", "assumed_wh", "redeemed_wh", "redeemed_uthb"), "1500"
    ),
}
REPORT = {
    "territory": "BKK",
    "distributor": "mea",
    "date": "2026-03-16",
    "state": "closed",
    "report_hash": "cd" * 32,
    "report": {
        "totals": TOTALS,
        "lines": [
            {
                "kind": "report_line",
                "tier": "1",
                "source": "solar",
                **dict.fromkeys(
                    ("trades", "traded_wh", "delivered_wh", "energy_uthb", "wheeling_uthb"), "3000"
                ),
                **dict.fromkeys(("vat_uthb", "fee_uthb", "penalty_uthb", "carbon_ucr"), "7"),
            }
        ],
        "production": [
            {"kind": "p", "source": "solar", "export_wh": "4000", "carbon_ucr": "2000000"}
        ],
    },
}


@pytest.fixture
def ask(run, canned_node):
    def invoke(*words: object, **results: Any):
        canned_node.results.update(results)
        return run("--rpc", canned_node.url, *words)

    return invoke


def test_grid_status_shows_loading_headroom_flow_and_who_is_halted(ask) -> None:
    ran = ask("grid", "status", "bkk", grid_getStatus={"territories": [TERRITORY]})
    (line,) = [row for row in ran.stdout.splitlines() if row.startswith("BKK-01-SUB001")]
    shown = line.split()
    assert shown[1:5] == ["congested,", "stale", "118.50", "100.00"]
    assert shown[5:] == ["400", "0.000", "1.000", "0.000", "2.500", "3.500"]
    assert "no trade in BKK: mea halted territory BKK: flood" in ran.stdout
    assert ask("grid", "status", "XYZ").code == ExitCode.REFUSED
    assert ask("grid", "zone", "BKK").code == ExitCode.USAGE


@pytest.mark.parametrize(
    "words",
    [
        ("grid", "halt", "BKK-01", "--reason", "x", "--key", "k"),
        ("grid", "halt", "BKK", "--reason", "", "--key", "k"),
        ("grid", "halt", "BKK", "--reason", "x" * 201, "--key", "k"),
        ("grid", "halt", "BKK", "--reason", "x", "--hours", "soon", "--key", "k"),
        ("grid", "publish", "BKK", "--loading", "1.001", "--rating-kva", "1", "--key", "k"),
        ("grid", "publish", "BKK", "--loading", "-1", "--rating-kva", "1", "--key", "k"),
        ("grid", "publish", "nowhere", "--loading", "1", "--rating-kva", "1", "--key", "k"),
        ("grid", "meter", "suspend", "ab", "--reason", "x", "--key", "k"),
        ("grid", "meter", "suspend", "ab" * 32, "--reason", "", "--key", "k"),
        (
            "grid",
            "meter",
            "replace",
            "ab" * 32,
            "--new-key",
            "cd",
            "--old-import-kwh",
            "1",
            "--old-export-kwh",
            "1",
            "--key",
            "k",
        ),
        ("participant", "suspend", ADDRESS, "--reason", "\x1b", "--key", "k"),
        ("carbon", "certificate", "MET"),
        ("carbon", "retire", "--credits", "1", "--for", "", "--key", "k"),
        ("audit", "report", "--territory", "BKK", "--csv", "--json"),
    ],
    ids=" ".join,
)
def test_a_wrong_word_is_told_before_a_node_or_a_key_is_asked(ask, canned_node, words) -> None:
    assert ask(*words).code == ExitCode.USAGE
    assert canned_node.asked == []


def test_credits_are_whole_to_six_decimals(ask) -> None:
    for given in ("0", "1.0000001", "-1", "many"):
        ran = ask("carbon", "retire", "--credits", given, "--key", "k", "--json")
        assert ran.document["error"]["reason"] == "amount_out_of_range"
        assert "THB" not in ran.document["error"]["message"]


def test_a_certificate_is_one_page_that_loads_nothing_and_escapes(ask, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    words = ("carbon", "certificate", "met-3", "--html", path, "--for", "A & B", "--json")
    ran = ask(*words, energy_getCertificate=CERTIFICATE)
    assert ran.document["beneficiary"] == "A & B"
    text = path.read_text(encoding="utf-8")
    assert "1.25 credits" in text
    assert "A &amp; B" in text
    assert "&lt;b&gt;net&lt;/b&gt;" in text
    assert "<b>" not in text
    assert not any(word in text for word in ("<script", "src=", "href=", "url("))
    other = ask("carbon", "certificate", "MET-3", "--for", "C", "--json")
    assert other.document["error"]["reason"] == "other_beneficiary"


def test_a_quote_is_told_in_baht(ask, canned_node) -> None:
    words = ("orders", "quote", "--side", "buy", "--kwh", "2", "--price", "5.6")
    ran = ask(*words, "--location", "BKK-01-SUB001", energy_quote=QUOTE)
    assert "pays at most 11.984 THB" in ran.stdout
    assert "pays 6.642 THB: energy 6.00, wheeling 0.60, VAT 0.042" in ran.stdout
    assert "1.500 of 2.000 kWh at 3.333 THB/kWh, if nothing else comes" in ran.stdout
    assert "0.500 kWh in BKK-01 at 4.000, wheeling 0.600" in ran.stdout
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["BKK-01", "0.600", "12.500", "0.500", "99.000"] in lines
    assert ["2026-03-16", "09:45", "3.000", "2.500", "3.500", "3.750"] in lines
    assert ["2026-03-16", "09:30", "0.000", "0.000", "-", "-"] in lines
    assert all(len(line.rstrip()) <= 80 for line in ran.stdout.splitlines())
    params = canned_node.asked[-1]["params"]
    assert (params["price_per_kwh"], params["energy_amount"]) == ("5600", "2.000")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"expected": None, "expected_unknown": "slot_not_open"}, "the slot is not open"),
        ({"expected": None, "expected_unknown": "some_newer_word"}, "some_newer_word"),
        ({"expected": {"charges": None, "energy_wh": "0"}}, "nothing of 2.000 kWh would trade"),
    ],
)
def test_a_quote_without_an_outcome_says_why(ask, changes: dict, told: str) -> None:
    words = ("orders", "quote", "--side", "buy", "--kwh", "2", "--price", "5.6")
    ran = ask(*words, "--location", "BKK-01-SUB001", energy_quote={**QUOTE, **changes})
    assert told in ran.stdout


def test_carbon_lists_what_is_held_and_retired(ask) -> None:
    row = {"chain": "MET", "certificates": [CERTIFICATE]}
    answer = {"address": ADDRESS, "carbon_ucr": "500000", "chains": [row]}
    text = ask("energy", "carbon", ADDRESS, energy_getCarbon=answer).stdout
    assert "0.50 credits" in text
    assert "MET-3" in text


def test_a_report_as_csv_has_a_line_for_each_part(ask) -> None:
    words = ("audit", "report", "--territory", "BKK", "--day", "2026-03-16")
    answer = {"territory": "BKK", "items": [REPORT]}
    rows = list(csv.DictReader(io.StringIO(ask(*words, "--csv", audit_getReports=answer).stdout)))
    assert [row["line"] for row in rows] == ["trade", "production", "totals"]
    assert (rows[0]["tier"], rows[0]["delivered_wh"], rows[0]["readings"]) == ("zone", "3000", "")
    assert rows[1]["export_wh"] == "4000"
    assert all(row["report_hash"] == "cd" * 32 for row in rows)
    assert "solar 4.000 kWh (2.00 credits)" in ask(*words).stdout
