"""The answers of the market's, settlement's and grid's methods are what they were, byte for byte.

After a change that is meant: `python -m tests.unit.api.golden_market`, and read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.api.golden_market import RECORDED, record


def test_answers_are_the_recorded_bytes(tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = record(tmp_path)
    assert list(found) == list(recorded)
    for request, answer in found.items():
        assert answer == recorded[request], request
