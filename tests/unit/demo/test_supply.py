"""What the summary of a day asks of the national chain."""

from __future__ import annotations

import pytest

from gridtokenx.demo.supply import closed_of, filing_check

REPORTS = {
    "BKK": {"hash": "aa", "state": "closed"},
    "NTB": {"hash": "bb", "state": "closed"},
    "SPK": {"hash": "cc", "state": "open"},
}


def test_only_closed_reports_must_have_been_filed() -> None:
    assert closed_of(REPORTS) == {"BKK": "aa", "NTB": "bb"}
    told = "TH has recorded 2 of MET's 2 closed reports"
    assert filing_check("TH", "MET", REPORTS, {"BKK": "aa", "NTB": "bb"}) == (True, told)


@pytest.mark.parametrize("filed", [{"BKK": "aa"}, {"BKK": "aa", "NTB": "cc"}])
def test_a_missing_or_another_hash_is_told(filed: dict[str, str]) -> None:
    told = "TH has recorded 1 of MET's 2 closed reports"
    assert filing_check("TH", "MET", REPORTS, filed) == (False, told)
