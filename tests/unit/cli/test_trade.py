"""`trade`: lists kept by zone lose nothing between pages; ids are checked first."""

from collections.abc import Callable
from typing import Any

import pytest

from gridtokenx.answers.chain import ChainHead
from gridtokenx.answers.energy import ListedOrder, ListedTrade, TradePage
from gridtokenx.cli.output import ExitCode
from tests.support.answers import whole

PLACES = ("BKK-01-SUB001", "NTB-01-SUB001", "BKK-02-SUB001", "BKK-01-SUB002", "BKK-01-SUB001")


def trade(number: int, location: str) -> dict[str, Any]:
    """A trade whose buyer's order has the number of the place."""
    order_id = f"{PLACES.index(location):064x}"
    own = {"trade_id": f"{number:064x}", "buy_order_id": order_id, "territory": location[:3]}
    return whole(ListedTrade, chain="MET", energy_wh="12500", settlement=None, **own)


TRADES = [trade(number, location) for number, location in enumerate(PLACES)]


@pytest.fixture
def market(canned_node, monkeypatch: pytest.MonkeyPatch):
    """A node with five trades, two a page at most."""

    def page(params: dict[str, Any]) -> dict[str, Any]:
        start = int(params.get("cursor", "0"))
        end = start + min(params["limit"], 2)
        following = str(end) if end < len(TRADES) else None
        items = TRADES[start:end]
        return whole(TradePage, chain="MET", items=items, next_cursor=following)

    answers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "energy_getTrades": page,
        "energy_getOrder": lambda params: whole(
            ListedOrder, grid_location=PLACES[int(params["id"], 16)]
        ),
        "chain_getHead": lambda _: whole(ChainHead, chain="MET"),
    }

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        result = answers[request["method"]](request["params"])
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    monkeypatch.setattr(canned_node, "answer", answer)
    return canned_node


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--zone", "BKK-01"], [0, 3, 4]),
        (["--zone", "BKK"], [0, 2, 3, 4]),
        (["--zone", "BKK-01-SUB002"], [3]),
        (["--zone", "BKK-0"], None),
        (["--zone", "ntb"], [1]),
    ],
)
def test_trades_of_a_place(run, market, words: list[str], numbers: list[int] | None) -> None:
    ran = run("--rpc", market.url, "trade", "list", "--chain", "MET", *words, "--json")
    if numbers is None:
        assert ran.code == ExitCode.USAGE
        return
    assert [int(row["trade_id"], 16) for row in ran.document["items"]] == numbers
    assert ran.document["next_cursor"] is None


def test_pages_of_a_place_follow_each_other_without_gap(run, market) -> None:
    seen, cursor = [], []
    while True:
        words = ["--chain", "MET", "--zone", "BKK", "--limit", "1", *cursor]
        page = run("--rpc", market.url, "trade", "list", *words, "--json").document
        seen += [int(row["trade_id"], 16) for row in page["items"]]
        assert len(page["items"]) <= 1
        if page["next_cursor"] is None:
            break
        cursor = ["--cursor", page["next_cursor"]]
    assert seen == [0, 2, 3, 4]


def test_a_list_for_people_has_whole_ids_and_the_way_on(run, market) -> None:
    shown = run("--rpc", market.url, "trade", "list", "--limit", "2").stdout
    assert f"{0:064x}" in shown
    assert "12.500" in shown
    assert "more: --cursor 2" in shown


def test_an_id_is_checked_before_a_node_is_asked(run) -> None:
    ran = run("--rpc", "http://127.0.0.1:9", "trade", "get", "12", "--json")
    assert ran.code == ExitCode.USAGE
    assert ran.document["error"]["message"].endswith("a trade id is 64 hex digits, not '12'")
