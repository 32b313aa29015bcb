"""Random days over real blocks: each slot clears a second time to what was recorded, and each order
of it has one reason that fits its life. Source: protocols/market.md 3.5."""

from __future__ import annotations

import random

import pytest

from gridtokenx.chain.replay import Replay
from gridtokenx.chain.slot_history import SlotHistory
from gridtokenx.cluster.devnet import operator_key
from gridtokenx.grid.model import HaltTerritory, PublishGridStatus, ResumeTerritory
from gridtokenx.ledger import rules as ledger
from gridtokenx.primitives.quantities import slot_start_ms
from gridtokenx.registry.model import Generation
from gridtokenx.trading.explanation import Reason
from gridtokenx.trading.matching import ClearingBegun
from gridtokenx.trading.model import (
    CancelOrder,
    MarketParameters,
    MatchingMode,
    OrderPlaced,
    OrderStatus,
    Side,
    Source,
    TimeInForce,
    TradeMatched,
)
from tests.support.market_world import Household, MarketWorld
from tests.unit.chain.test_replay import raw

SLOTS = 10
PLACES = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB001", "NTB-01-SUB001")
WITHOUT_CLEARING = {
    *(Reason.OTHER_SLOTS, Reason.CANCELLED, Reason.EXPIRED, Reason.FILLED, Reason.STANDSTILL),
    *(Reason.HALTED, Reason.OUT_OF_BAND),
}


class Day:
    """Households that trade at random, and a grid operator who is in their way."""

    def __init__(self, mode: MatchingMode, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = MarketWorld(parameters=MarketParameters(matching_mode=mode))
        self.world.block()
        made = (Generation.SOLAR, Generation.WIND, Generation.NONE)
        self.houses = [
            self.world.household(f"{place} {source}", place, source)
            for place in PLACES
            for source in made
        ]
        assert self.world.block() == []
        self.first = self.world.slot + 1
        self.is_halted = False
        self.placed: list[tuple[Household, bytes]] = []
        while self.world.slot < self.first + SLOTS:
            for house in self.houses:
                self.act(house)
            self.operate()
            self.world.block()  # Refuses whom it must: gone orders, halted places.
            for house in self.houses:
                key = house.key.public_key
                self.world.nonces[key] = ledger.account(self.world.values, key).nonce
        self.world.go_to(self.world.slot + SLOTS)

    def act(self, house: Household) -> None:
        chance = self.random.random()
        own = [order_id for one, order_id in self.placed if one is house]
        if own and chance < 0.1:
            self.world.send(house.key, CancelOrder(self.random.choice(own)))
        elif chance < 0.7:
            self.place(house)

    def place(self, house: Household) -> None:
        pick, slot = self.random, self.world.slot + self.random.randint(1, 3)
        is_seller = house.source is not Generation.NONE
        last = slot + pick.randint(0, 2)
        wh = pick.randint(100, 2_000)
        changes = {
            "last_slot": last,
            "max_wh_per_slot": max(100, wh // pick.randint(1, 2)),
            "time_in_force": pick.choice(list(TimeInForce)),
            "expires_ms": slot_start_ms(pick.randint(slot, last + 1)),
        }
        if not is_seller:
            changes["source"] = pick.choice([Source.ANY, Source.SOLAR, Source.RENEWABLE])
            changes["require"] = changes["source"] is not Source.ANY and pick.random() < 0.5
        side, low = (Side.SELL, 2_500) if is_seller else (Side.BUY, 3_500)
        limit = low + 100 * pick.randint(0, 15)
        terms = self.world.order(house, side, wh, limit, slot, **changes)
        self.placed.append((house, self.world.send(house.key, terms).id))

    def operate(self) -> None:
        pick = self.random
        if pick.random() < 0.3:
            node = pick.choice([*PLACES, "BKK-01"])
            loading = pick.choice([9_000, 9_900, 9_990])
            slot = self.world.slot + 1
            status = PublishGridStatus(node, slot, loading, 400_000, 50_000, 10_000)
            self.world.send(operator_key("mea"), status)
        if pick.random() < 0.3:
            orders = HaltTerritory("NTB", "drill"), ResumeTerritory("NTB", "over")
            self.world.send(operator_key("erc"), orders[self.is_halted])
            self.is_halted = not self.is_halted


@pytest.mark.parametrize("mode", MatchingMode)
@pytest.mark.parametrize("seed", range(3))
def test_every_slot_clears_again_and_every_order_has_its_reason(
    mode: MatchingMode, seed: int
) -> None:
    day = Day(mode, seed)
    world = day.world
    placed = world.events(OrderPlaced)
    assert len(placed) > 30
    assert len(world.events(TradeMatched)) > 5
    by_order = {
        (event.order_id, slot): SlotHistory(slot, event.order_id)
        for event in placed
        for slot in range(event.terms.first_slot, event.terms.last_slot + 1)
    }
    histories = list(by_order.values())

    def watch(begun: ClearingBegun) -> None:
        for one in histories:
            one.watch(begun)

    replay = Replay(world.spec, None, watch)
    for one in raw(world):
        execution = replay.execute(*one)
        for history in histories:
            history.note(execution, replay.state)
    for (order_id, _), history in by_order.items():
        assert history.is_closed
        assert history.differences == []
        story = history.story(order_id)
        assert story is not None
        assert (story.last is None) == (story.reason in WITHOUT_CLEARING)
        if story.reason is Reason.TRADED:
            assert story.trades
        if story.reason is Reason.EXPIRED:
            assert story.life.status is OrderStatus.EXPIRED
        if story.last is not None:
            made = sum(
                one.trade.energy_wh for one in story.trades if one.height == story.last_height
            )
            assert made == story.last.traded_wh
