"""`trade clear --slot`: a node's blocks executed anew, and what a trader is told of his order."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gridtokenx.answers.chain import ChainHead, RawBlocks
from gridtokenx.answers.energy import ListedOrder, Market
from gridtokenx.answers.shapes import write_json
from gridtokenx.chain import slot_history
from gridtokenx.chain.genesis import format_genesis
from gridtokenx.cli.output import ExitCode
from gridtokenx.trading.explanation import Reason
from gridtokenx.trading.model import CancelOrder, Clearing, MatchingMode
from tests.support.answers import whole
from tests.unit.chain.test_replay import raw
from tests.unit.chain.test_slot_history import MODES
from tests.unit.chain.test_slot_history import Market as Households

LATER = "ab" * 32  # An order of which no block up to the gate tells.


class Shown:
    """A market's chain as a node tells it."""

    def __init__(self, households: Households) -> None:
        self.households = households
        self.blocks = raw(households.world)
        self.later_height: int | None = None
        self.results = {
            "chain_getGenesis": self.genesis,
            "chain_getHead": self.head,
            "chain_getRawBlocks": self.raw_blocks,
            "energy_getMarket": self.market,
            "energy_getOrder": self.order,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        head = {"jsonrpc": "2.0", "id": request["id"]}
        result = self.results[request["method"]](**request["params"])
        if result is None:
            data = {"reason": "order_not_found", "hint": "", "retryable": False}
            error = {"code": 3001, "message": "no such order", "data": data}
            return {**head, "error": error}
        return {**head, "result": result}

    def genesis(self) -> dict[str, Any]:
        genesis = self.households.world.spec.genesis
        return {"hash": genesis.hash.hex(), "genesis": json.loads(format_genesis(genesis))}

    def head(self, chain: str) -> dict[str, Any]:
        return whole(ChainHead, chain=chain, height=str(len(self.blocks)))

    def market(self, chain: str) -> dict[str, Any]:
        slot = str(self.households.world.slot - 1)
        parameters = json.loads(write_json(self.households.world.parameters))
        return whole(Market, chain=chain, current_slot=slot, parameters=parameters)

    def raw_blocks(self, from_height: str, chain: str, limit: int) -> dict[str, Any]:
        first = int(from_height)
        items = [
            {
                "height": str(height),
                "block": base64.b64encode(block).decode(),
                "certificate": base64.b64encode(certificate).decode(),
            }
            for height, (block, certificate) in enumerate(self.blocks, 1)
            if first <= height < first + limit
        ]
        return whole(RawBlocks, chain=chain, items=items)

    def order(self, chain: str, **_: str) -> dict[str, Any] | None:
        if self.later_height is None:
            return None
        return whole(ListedOrder, chain=chain, height=str(self.later_height))


@pytest.fixture
def ask(run, canned_node):
    """Run the command for the slot of some households; --json, and then the same for people."""

    def invoke(households: Households, *words: str, **changes: Any):
        shown = Shown(households)
        for name, value in changes.items():
            setattr(shown, name, value)
        canned_node.answer = shown.answer
        all_words = ("trade", "clear", "--slot", households.slot, "--region", "met", *words)
        ran = run("--json", "--rpc", canned_node.url, *all_words)
        return ran, run("--rpc", canned_node.url, *all_words).stdout

    return invoke


@MODES
def test_a_slot_is_recomputed_from_blocks(ask, mode: MatchingMode) -> None:
    households = Households(mode)
    sold, bought = households.sell(1_000), households.buy(800)
    cheap = households.buy(500, limit=3_500)
    households.close()
    ran, text = ask(households)
    assert ran.code == 0, ran.stderr
    document = ran.document
    assert (document["verified"], document["mode"]) == (True, mode.value)
    (trade,) = document["trades"]
    assert (trade["buy_order_id"], trade["sell_order_id"]) == (bought.hex(), sold.hex())
    assert (trade["energy_wh"], trade["price_mthb"], trade["tier"]) == ("800", "3000", 1)
    assert document["clearings"][0]["prices"] == [
        {"tier": 1, "group": "BKK-01", "price_mthb": "3000"}
    ]
    traded = {one["order_id"]: one["traded_wh"] for one in document["orders"]}
    assert traded == {sold.hex(): "800", bought.hex(): "800", cheap.hex(): "0"}
    assert "verified: yes" in text
    assert "zone BKK-01" in text
    assert int(document["executed"]) < len(Shown(households).blocks)  # No further than its gate.


@MODES
def test_an_order_is_told_step_by_step_why_it_did_not_trade(ask, mode: MatchingMode) -> None:
    households = Households(mode)
    households.sell(1_000)
    households.buy(800)
    cheap = households.buy(500, limit=3_500).hex()
    households.close()
    ran, text = ask(households, "--order", cheap)
    order = ran.document["order"]
    assert (ran.code, order["order_id"], order["reason"]) == (0, cheap, "price")
    assert order["clearing"]["remedy"]["limit_mthb"] == "3600"
    shown = (
        "buys 0.500 kWh at most 3.500 THB/kWh at BKK-01-SUB002",
        "substation BKK-01-SUB002: nothing traded, nobody on the other side",
        "zone BKK-01: ",
        "it did not trade: its limit was not good enough",
        "it would have traded more with a limit of 3.600 THB/kWh",
        ": expired",
    )
    assert [part for part in shown if part not in text] == []


def test_prices_headroom_and_partners_are_told(ask) -> None:
    households = Households(MatchingMode.GATE)
    sold, bought = households.sell(1_000).hex(), households.buy(800).hex()
    households.close()
    _, text = ask(households, "--order", bought)
    assert f"met order {sold}, 0.800 kWh of solar at 3.000 THB/kWh, wheeling 0.600 (zone)" in text
    assert "price 3.000 + wheeling 0.600 = 3.600, within its limit; number 1 of 1" in text
    assert "all that it had open in the slot was traded" in text


def test_who_was_met_in_earlier_clearings_is_told_too(ask) -> None:
    households = Households(MatchingMode.BLOCK)
    sold, bought = households.sell(1_000).hex(), households.buy(800).hex()
    households.close()
    ran, text = ask(households, "--order", sold)
    order = ran.document["order"]
    assert int(order["clearing"]["height"]) > int(order["trades"][0]["height"])
    met, cleared = text.index(f": met order {bought}, 0.800 kWh"), text.index(" cleared the slot")
    assert met < cleared < text.index("the rest did not trade: ")


def test_an_order_that_was_in_no_clearing(ask) -> None:
    households = Households(MatchingMode.GATE)
    sold = households.sell()
    households.world.send(households.seller.key, CancelOrder(sold))
    households.close()
    ran, text = ask(households, "--order", sold.hex())
    assert (ran.code, ran.document["order"]["reason"]) == (0, Reason.CANCELLED)
    assert "it took part in no clearing of the slot: it was cancelled before the gate" in text


def test_an_order_that_no_block_places(ask) -> None:
    households = Households(MatchingMode.GATE)
    households.close()
    ran, _ = ask(households, "--order", LATER)
    assert (ran.code, ran.document["error"]["reason"]) == (ExitCode.REFUSED, "order_not_found")
    ran, text = ask(households, "--order", LATER, later_height=999)
    assert (ran.code, ran.document["order"]["reason"]) == (0, Reason.PLACED_LATER)
    assert "the node has it in block 999" in text
    ran, _ = ask(households, "--order", LATER, later_height=1)
    assert (ran.code, ran.document["error"]["reason"]) == (ExitCode.REFUSED, "not_verified")


def test_slots_and_regions_that_cannot_be_recomputed(ask, run, canned_node) -> None:
    households = Households(MatchingMode.GATE)
    ran, _ = ask(households)
    error = ran.document["error"]
    assert (ran.code, error["reason"]) == (ExitCode.RETRY_LATER, "slot_not_cleared")
    assert error["retryable"] is True
    households.close()
    rpc = ("--json", "--rpc", canned_node.url, "trade", "clear")
    canned_node.answer = Shown(households).answer
    early = run(*rpc, "--slot", 5, "--region", "MET")
    assert (early.code, early.document["error"]["reason"]) == (1, "slot_before_chain")
    unknown = run(*rpc, "--slot", households.slot, "--region", "XYZ")
    assert (unknown.code, unknown.document["error"]["reason"]) == (1, "unknown_shard")


def test_blocks_that_were_changed_are_not_explained(ask) -> None:
    households = Households(MatchingMode.GATE)
    households.close()
    changed = raw(households.world)
    changed[1] = changed[0]
    ran, _ = ask(households, blocks=changed)
    assert (ran.code, ran.document["error"]["reason"]) == (ExitCode.REFUSED, "not_verified")


def test_an_auction_that_gives_anything_else_ends_with_a_refusal(
    ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this program and the one that made the blocks had different auctions."""
    households = Households(MatchingMode.GATE)
    households.sell()
    households.buy()
    households.close()
    monkeypatch.setattr(slot_history.SlotBook, "clear", lambda _: Clearing((), (), ()))
    ran, text = ask(households)
    assert (ran.code, ran.document["verified"]) == (ExitCode.REFUSED, False)
    assert len(ran.document["differences"]) == 2
    assert "DOES NOT HOLD: " in text


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--slot", "5"],
        ["--region", "MET"],
        ["book.json", "--slot", "5", "--region", "MET"],
        ["book.json", "--order", LATER],
        ["--slot", "5", "--region", "MET", "--order", "12"],
        ["--slot", "-5", "--region", "MET"],
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_node_is_asked(run, words: list[str]) -> None:
    ran = run("--json", "--rpc", "http://127.0.0.1:9", "trade", "clear", *words)
    assert ran.code == ExitCode.USAGE
