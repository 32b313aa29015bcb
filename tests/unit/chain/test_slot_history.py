"""A slot watched while its chain is executed again: why each order traded or not, in both modes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridtokenx.chain.block import Receipt
from gridtokenx.chain.replay import Replay
from gridtokenx.chain.slot_history import OrderStory, SlotHistory
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus
from gridtokenx.primitives.places import Boundary
from gridtokenx.primitives.quantities import SLOT_MS, slot_start_ms
from gridtokenx.registry.model import Generation
from gridtokenx.trading import clock
from gridtokenx.trading.explanation import Reason, Remedy
from gridtokenx.trading.model import (
    CancelOrder,
    MarketParameters,
    MatchingMode,
    OrderStatus,
    Side,
    TimeInForce,
    TradeMatched,
)
from tests.support.market_world import START_MS, MarketWorld
from tests.unit.chain.test_replay import raw

MODES = pytest.mark.parametrize("mode", MatchingMode)


class Market:
    """Two households of one zone, and the slot that is looked at."""

    def __init__(self, mode: MatchingMode, ms_per_block: int = SLOT_MS) -> None:
        self.world = MarketWorld(
            parameters=MarketParameters(matching_mode=mode), ms_per_block=ms_per_block
        )
        self.world.block(START_MS if not ms_per_block else 0)
        self.seller = self.world.household("sun", "BKK-01-SUB001", Generation.SOLAR)
        self.buyer = self.world.household("shop", "BKK-01-SUB002")
        assert self.world.block() == []
        self.slot = self.world.slot + 4

    def sell(self, wh: int = 1_000, limit: int = 3_000, **changes: object) -> bytes:
        terms = self.world.order(self.seller, Side.SELL, wh, limit, self.slot, **changes)
        return self.world.send(self.seller.key, terms).id

    def buy(self, wh: int = 1_000, limit: int = 4_500, **changes: object) -> bytes:
        terms = self.world.order(self.buyer, Side.BUY, wh, limit, self.slot, **changes)
        return self.world.send(self.buyer.key, terms).id

    def go(self, slot: int) -> None:
        self.world.go_to(slot)

    def close(self) -> None:
        """Blocks until the gate has closed, and one more."""
        self.world.go_to(self.slot + 2)

    def history(self, order_id: bytes | None = None) -> SlotHistory:
        history = SlotHistory(self.slot, order_id)
        replay = Replay(self.world.spec, None, history.watch)
        for one in raw(self.world):
            history.note(replay.execute(*one), replay.state)
        assert history.is_closed
        assert history.differences == []
        made = [event.trade for event in self.world.events(TradeMatched)]
        assert [one.trade for one in history.trades] == [
            trade for trade in made if trade.slot == self.slot
        ]
        return history

    def story(self, order_id: bytes) -> OrderStory:
        found = self.history(order_id).story(order_id)
        assert found is not None
        return found


@MODES
def test_a_trade_and_an_order_whose_limit_does_not_reach(mode: MatchingMode) -> None:
    market = Market(mode)
    sold, bought = market.sell(1_000), market.buy(800)
    cheap = market.buy(500, limit=3_500)
    market.close()
    good = market.story(bought)
    assert good.reason is Reason.TRADED
    ((height, trade),) = [(one.height, one.trade) for one in good.trades]
    assert (trade.energy_wh, trade.tier, trade.price_mthb) == (800, 1, 3_000)
    assert good.life.status is OrderStatus.FILLED
    assert height == good.life.closed_height == good.last_height
    bad = market.story(cheap)
    assert (bad.reason, bad.trades) == (Reason.PRICE, ())
    assert bad.last is not None
    assert bad.last.remedy == Remedy(limit_mthb=3_600)
    part = market.story(sold)
    assert part.reason is Reason.PRICE  # Its rest, against what the cheap one would pay.
    assert part.last is not None
    assert part.last.remedy == Remedy(limit_mthb=2_900)


@MODES
def test_one_that_is_cancelled_before_anybody_comes(mode: MatchingMode) -> None:
    market = Market(mode)
    sold = market.sell()
    market.world.send(market.seller.key, CancelOrder(sold))  # In the same block.
    market.buy()
    market.close()
    assert market.story(sold).reason is Reason.CANCELLED


@MODES
def test_one_that_ends_before_the_gate(mode: MatchingMode) -> None:
    market = Market(mode)
    expires_ms = slot_start_ms(market.world.slot + 1)
    sold = market.sell(expires_ms=expires_ms)
    market.close()
    assert market.story(sold).reason is Reason.EXPIRED


@MODES
def test_slots_that_it_does_not_name(mode: MatchingMode) -> None:
    market = Market(mode)
    sold = market.sell(first_slot=market.slot - 1, last_slot=market.slot - 1)
    market.close()
    assert market.story(sold).reason is Reason.OTHER_SLOTS


@MODES
def test_what_traded_in_an_earlier_slot(mode: MatchingMode) -> None:
    market = Market(mode)
    span = {"first_slot": market.slot - 1, "last_slot": market.slot}
    sold = market.sell(**span)
    market.buy(**span)
    market.close()
    assert market.story(sold).reason is Reason.FILLED


@MODES
def test_a_territory_that_stands_still(mode: MatchingMode) -> None:
    market = Market(mode)
    sold, _ = market.sell(), market.buy()
    market.world.send(operator_key("erc"), HaltTerritory("BKK", "drill"))
    market.close()
    assert market.story(sold).reason is Reason.HALTED


def test_a_chain_that_stands_still_at_the_gate() -> None:
    market = Market(MatchingMode.GATE, ms_per_block=0)
    sold, _ = market.sell(), market.buy()
    assert market.world.block() == []
    market.world.block(slot_start_ms(market.slot + 3))
    assert market.story(sold).reason is Reason.STANDSTILL


@MODES
def test_a_line_that_is_full(mode: MatchingMode) -> None:
    market = Market(mode)
    status = PublishGridStatus(
        "BKK-01-SUB001", market.world.slot + 1, 9_900, 400_000, 50_000, 10_000
    )
    market.world.send(operator_key("mea"), replace(status, slot=market.slot))
    sold = market.sell(2_000)
    market.buy(2_000)
    market.close()
    story = market.story(sold)
    assert story.reason is Reason.HEADROOM
    assert sum(one.trade.energy_wh for one in story.trades) == 1_000
    assert story.last is not None
    assert story.last.remedy == Remedy(unlimited=(Boundary("BKK-01-SUB001", True),))


def test_an_order_that_met_several_clearings_is_told_of_the_last() -> None:
    market = Market(MatchingMode.BLOCK)
    sold = market.sell(2_000)
    market.buy(500)
    market.world.block()
    market.buy(700, limit=5_000)
    market.close()
    story = market.story(sold)
    assert [one.trade.energy_wh for one in story.trades] == [500, 700]
    assert len({one.height for one in story.trades}) == 2
    history = market.history(sold)
    assert history.orders[sold].traded_wh == 1_200
    assert len(history.clearings) > 2
    assert story.reason is Reason.NOBODY  # At the gate nobody was left.


def test_an_immediate_order_leaves_after_its_clearing() -> None:
    market = Market(MatchingMode.BLOCK)
    sold = market.sell(time_in_force=TimeInForce.IMMEDIATE_OR_CANCEL)
    market.close()
    story = market.story(sold)
    assert story.life.status is OrderStatus.CANCELLED
    assert story.reason is Reason.NOBODY


def test_whoever_left_before_the_trade_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market(MatchingMode.BLOCK)
    orders = [market.sell(300) for _ in range(3)]
    bought = market.buy(900)
    assert market.world.block() == []
    monkeypatch.setattr(clock, "WORK_PER_BLOCK", clock.WORK_FILL + clock.WORK_SLOT)
    market.world.send(market.seller.key, CancelOrder(max(orders)))  # The first ids are served.
    assert market.world.block() == []
    market.go(market.slot + 6)
    story = market.story(max(orders))
    assert (story.reason, story.trades) == (Reason.DROPPED, ())
    assert sum(one.trade.energy_wh for one in market.story(bought).trades) == 600


def test_an_order_that_nobody_placed() -> None:
    market = Market(MatchingMode.GATE)
    market.close()
    assert market.history(bytes(32)).story(bytes(32)) is None


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_record_that_is_not_what_the_auction_gives(is_hidden: bool) -> None:
    market = Market(MatchingMode.GATE)
    market.sell()
    market.buy()
    market.close()
    history = SlotHistory(market.slot)
    replay = Replay(market.world.spec, None, history.watch)
    for one in raw(market.world):
        execution = replay.execute(*one)
        first, *others = execution.receipts
        events = []
        for event in first.events:
            if isinstance(event, TradeMatched):
                if is_hidden:
                    continue
                event = TradeMatched(replace(event.trade, price_mthb=9_000))
            events.append(event)
        told = Receipt(first.transaction_id, tuple(events))
        history.note(replace(execution, receipts=(told, *others)), replay.state)
    assert len(history.differences) == (1 if is_hidden else 2)
    assert "record no trade of 1000 Wh" in history.differences[-1]
