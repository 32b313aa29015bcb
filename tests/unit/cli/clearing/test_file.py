"""`trade clear`: the published vectors through the command, and files that cannot be read."""

import json
from pathlib import Path

import pytest

from gridtokenx.cli.output import ExitCode

VECTORS_PATH = Path(__file__).parents[3] / "vectors" / "market_vectors.json"
CASES = [case for case in json.loads(VECTORS_PATH.read_text()) if "orders" in case]
RESULTS = ("prices", "trades", "remaining", "congested")
BOOK = {
    "orders": [
        {"id": "s", "side": "sell", "wh": 1000, "limit": 3000, "loc": "BKK-01-SUB001",
         "source": "solar"},
        {"id": "b", "side": "buy", "wh": 1000, "limit": 4000, "loc": "BKK-01-SUB001",
         "source": "any"},
    ]
}  # fmt: skip


@pytest.fixture
def clear(run, tmp_path: Path):
    def invoke(document: object):
        path = tmp_path / "book.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return run("trade", "clear", path, "--json")

    return invoke


def changed(**keys: object) -> dict:
    """The small book with its seller's fields changed."""
    return {"orders": [{**BOOK["orders"][0], **keys}, BOOK["orders"][1]]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_each_vector_gives_its_published_result(clear, case: dict) -> None:
    document = clear(case).document
    assert document == {name: case[name] for name in RESULTS}


def test_the_whole_file_of_vectors_gives_a_list(run) -> None:
    rows = run("trade", "clear", VECTORS_PATH, "--json").document
    assert rows == [{name: case[name] for name in ("name", *RESULTS)} for case in CASES]


def test_people_see_prices_trades_and_who_was_kept_back(run) -> None:
    text = run("trade", "clear", VECTORS_PATH).stdout
    assert "V6 congestion" in text
    assert "kept back by the grid: s2" in text
    assert "zone:BKK-01" in text


def test_cap_tier_and_wheeling_are_obeyed(clear) -> None:
    capped = clear(changed(cap_wh=400)).document
    assert capped["trades"][0][2] == 400
    assert capped["remaining"] == {"s": 600, "b": 600}
    far = changed(loc="BKK-01-SUB002")
    assert clear({**far, "max_tier": 0}).document["trades"] == []
    assert clear({**far, "max_tier": 1}).document["trades"][0][5] == "zone"
    assert clear({**BOOK, "wheeling": [900, 900, 900, 900]}).document["trades"][0][4] == 900


def test_equal_offers_share_what_is_bought(clear) -> None:
    rivals = [{**BOOK["orders"][0], "id": f"s{number}"} for number in range(3)]
    document = clear({"orders": [*rivals, BOOK["orders"][1]]}).document
    assert [row[1:3] for row in document["trades"]] == [["s0", 334], ["s1", 333], ["s2", 333]]


BAD = [
    ("{", "is not JSON"),
    ("[]", "no entry of the list has 'orders'"),
    ([3], "[0] must be an object"),
    ({"headroom": {}}, "lacks 'orders'"),
    ({**BOOK, "headrom": {}}, "unknown key 'headrom'"),
    ({"orders": 3}, "orders must be a list"),
    ({"orders": [3]}, "orders[0] must be an object"),
    ({"orders": [BOOK["orders"][0]] * 2}, "orders[1] has the id 's' of an earlier order"),
    (changed(wh=1.5), "orders[0].wh must be a whole number"),
    (changed(wh=True), "orders[0].wh must be a whole number"),
    (changed(wh=-1), "orders[0].wh must be 0.."),
    (changed(side="hold"), "orders[0].side must be one of buy, sell"),
    (changed(source="any"), "orders[0].source must be one of solar"),
    (changed(loc="BKK"), "orders[0].loc must be a substation"),
    (changed(require=1), "orders[0].require must be true or false"),
    (changed(cap=1), "orders[0] has an unknown key 'cap'"),
    (changed(id=7), "orders[0].id must be text"),
    ({**BOOK, "headroom": {"BKK": 1}}, "headroom has the key 'BKK'"),
    ({**BOOK, "headroom": {"x:BKK": "1"}}, "headroom.x:BKK must be a whole number"),
    ({**BOOK, "max_tier": 4}, "max_tier must be 0..3"),
    ({**BOOK, "seed": "00"}, "has an unknown key 'seed'"),
    ({**BOOK, "wheeling": [1, 2]}, "wheeling must list four"),
]


@pytest.mark.parametrize(("document", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_a_bad_file_is_refused_with_its_path_and_place(clear, document, sentence: str) -> None:
    ran = clear(document)
    error = ran.document["error"]
    assert ran.code != ExitCode.OK
    assert error["reason"] in ("malformed", "out_of_range")
    assert "book.json" in error["message"]
    assert sentence in error["message"]


def test_a_file_that_is_not_there_is_said_so(run, tmp_path: Path) -> None:
    ran = run("trade", "clear", tmp_path / "none.json", "--json")
    assert ran.code == ExitCode.REFUSED
    assert ran.document["error"]["reason"] == "no_file"
