"""The drawn merit order is that of the vector, and the page names every refusal of an order."""

import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gridtokenx.api.sentences import ERROR_SENTENCES
from gridtokenx.primitives.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "energy-trading.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d{4}) \| (\w+) \| (.+?) \|", re.MULTILINE)


def test_the_merit_order_is_drawn_from_todays_vector() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "pictures"))["picture"]()
    written = (ROOT / "docs" / "img" / "merit-order.svg").read_text(encoding="utf-8")
    assert written == drawn, "run: .venv/bin/python scripts/pictures"
    texts = [one.text or "" for one in ElementTree.fromstring(written).iter()]
    assert "one price 3.70, 3.0 kWh" in texts
    assert {"s3 4.40", "b3 3.30"} <= set(texts)


def test_codes_on_the_page_are_the_programs() -> None:
    rows = ROW.findall(PAGE)
    for number, reason, sentence in rows:
        code = ErrorCode(int(number))
        assert (code.reason, ERROR_SENTENCES[code]) == (reason, sentence)
    raised = {
        name
        for folder in ("trading", "registry", "grid", "ledger")
        for path in (ROOT / "gridtokenx" / folder).glob("*.py")
        for name in re.findall(r"ErrorCode\.(\w+)", path.read_text(encoding="utf-8"))
    }
    # What only authorities' own commands meet.
    raised -= {"ALREADY_REGISTERED", "WRONG_TERRITORY", "NOT_GRID_OPERATOR", "EXPIRED", "MALFORMED"}
    assert raised <= {ErrorCode(int(number)).name for number, _, _ in rows}
