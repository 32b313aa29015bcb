"""A market's day as Hypothesis plays it, beside a model that shares no code with the rules.

The model keeps plain lists, looks at every order in every clearing and asks the slow oracle; so the
books in memory, slot caps, headroom that earlier clearings used, expiry and gates are all checked
against protocols/market.md 3, also across restarts.
"""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gridtokenx.ledger import rules as ledger
from gridtokenx.ledger.model import ACCOUNTS
from gridtokenx.primitives.crypto import sha256
from gridtokenx.primitives.quantities import SLOT_MS
from gridtokenx.primitives.state import Overlay
from gridtokenx.trading import rules as trading
from gridtokenx.trading.matching import GridView
from gridtokenx.trading.model import (
    ORDERS,
    TRADES,
    CancelOrder,
    ClearingOrder,
    MarketParameters,
    MatchingMode,
    MeterFacts,
    OrderClosed,
    PlaceOrder,
    Side,
    SlotCleared,
    Source,
    TimeInForce,
    TradeMatched,
    TraderFacts,
)
from tests.support import clearing_oracle as oracle
from tests.support.kept_state import KeptState

BASE_SLOT = 1_970_660
WHEELING = (300, 600, 900, 1151)
PLACES = ("BKK-01-SUB001", "BKK-01-SUB002", "BKK-02-SUB003", "NTB-01-SUB001")
NODES = sorted({place[:length] for place in PLACES for length in (3, 6, 13)})
WISHES = (Source.ANY, Source.ANY, Source.RENEWABLE, Source.SOLAR)
WEALTH_UTHB = 10**12
GRACE_MS = 400_000


headroom_10wh = st.sampled_from((0, 15, 30, 60, 120))  # Little: several clearings must share it.
offers = st.fixed_dictionaries(
    {
        "selling": st.booleans(),
        "energy_wh": st.integers(10, 150),
        "price": st.integers(0, 12),
        "place": st.sampled_from(PLACES),
        "ahead": st.sampled_from((1, 1, 1, 2, 3)),
        "length": st.sampled_from((1, 1, 1, 2, 5, 40)),
        "cap_wh": st.sampled_from((10, 40, 200)),
        "wish": st.sampled_from(WISHES),
        "require": st.booleans(),
        "immediate": st.sampled_from((False, False, False, True)),
        "lasts_ms": st.sampled_from((10**9, 10**9, SLOT_MS, 400_000)),
    }
)


@dataclass
class Resting:
    """An order as the model knows it."""

    terms: PlaceOrder
    height: int
    rest_wh: int
    filled_wh: Counter[int] = field(default_factory=Counter)  # By slot.

    @property
    def end_ms(self) -> int:
        return min(self.terms.expires_ms, self.terms.last_slot * SLOT_MS)

    def open_wh(self, slot: int) -> int:
        if not self.terms.first_slot <= slot <= self.terms.last_slot:
            return 0
        return min(self.rest_wh, self.terms.max_wh_per_slot - self.filled_wh[slot])


class Model:
    """Section 3.1 once more, the slow way."""

    def __init__(self, mode: MatchingMode, max_tier: int) -> None:
        self.mode = mode
        self.max_tier = max_tier
        self.gate_slot = BASE_SLOT
        self.orders: dict[bytes, Resting] = {}
        self.touched: set[tuple[int, str]] = set()
        self.sold_wh: Counter[tuple[int, str]] = Counter()  # By slot and `x:` or `m:` node.
        self.trades: list[tuple] = []
        self.cleared: list[tuple[int, str, tuple[bytes, ...]]] = []  # With who was congested.
        self.closed: dict[bytes, tuple[str, int]] = {}

    def place(self, order_id: bytes, terms: PlaceOrder, height: int) -> None:
        self.orders[order_id] = Resting(terms, height, terms.energy_wh)
        if self.mode is MatchingMode.BLOCK:
            for slot in range(terms.first_slot, terms.last_slot + 1):
                self.touched.add((slot, terms.location[:3]))

    def begin(self, now_ms: int, headroom: dict[str, int]) -> None:
        self.trades, self.closed, self.cleared = [], {}, []
        current = now_ms // SLOT_MS
        cleared = set()
        for slot in range(self.gate_slot + 1, current + 1):
            if now_ms - slot * SLOT_MS > GRACE_MS:  # Nobody was there to clear it.
                self.expire(slot * SLOT_MS)
                continue
            self.expire(slot * SLOT_MS - 1)
            for name in ("TH",) if self.max_tier == 3 else ("BKK", "NTB"):
                cleared.add((slot, name))
                self.clear(slot, name, headroom)
            self.expire(slot * SLOT_MS)
        self.expire(now_ms)
        self.gate_slot = current
        for slot, name in sorted(
            {(slot, self.auction(territory)) for slot, territory in self.touched}
        ):
            if slot > current:
                cleared.add((slot, name))
                self.clear(slot, name, headroom)
        self.touched = set()
        for order_id, order in list(self.orders.items()):
            place = (order.terms.first_slot, self.auction(order.terms.location[:3]))
            if order.terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL and place in cleared:
                self.leave(order_id, "cancelled")

    def auction(self, territory: str) -> str:
        return "TH" if self.max_tier == 3 else territory

    def expire(self, until_ms: int) -> None:
        for order_id, order in list(self.orders.items()):
            if order.end_ms <= until_ms:
                self.leave(order_id, "expired")

    def leave(self, order_id: bytes, status: str) -> None:
        self.closed[order_id] = (status, self.orders.pop(order_id).rest_wh)

    def clear(self, slot: int, name: str, headroom: dict[str, int]) -> None:
        book = [
            ClearingOrder(
                order_id,
                order_id,
                order.terms.side,
                order.open_wh(slot),
                order.terms.limit_mthb,
                order.terms.location,
                order.terms.source,
                order.terms.require,
                order.height,
            )
            for order_id, order in self.orders.items()
            if self.auction(order.terms.location[:3]) == name and order.open_wh(slot) > 0
        ]
        room = {
            f"{way}:{node}": max(0, wh - self.sold_wh[slot, f"{way}:{node}"])
            for node, wh in headroom.items()
            for way in "xm"
        }
        market = oracle.Market(book, WHEELING, room)
        market.run(self.max_tier)
        if market.trades or market.congested:
            self.cleared.append((slot, name, tuple(sorted(market.congested))))
        order_of = {order.id: order for order in book}
        for buy_id, sell_id, energy_wh, price, fee, tier, _ in market.trades:
            self.trades.append((slot, buy_id, sell_id, energy_wh, price, fee, tier))
            for order_id in (buy_id, sell_id):
                self.orders[order_id].rest_wh -= energy_wh
                self.orders[order_id].filled_wh[slot] += energy_wh
                for node in oracle.nodes_crossed(order_of[order_id], tier):
                    self.sold_wh[slot, node] += energy_wh
        for order in book:
            if self.orders[order.id].rest_wh < 100:
                self.leave(order.id, "filled")


class MarketDay(RuleBasedStateMachine):
    """Places, cancels and blocks in any order; each block must do what the model does."""

    @initialize(
        mode=st.sampled_from((MatchingMode.BLOCK, MatchingMode.BLOCK, *MatchingMode)),
        max_tier=st.sampled_from((0, 1, 2, 2, 2, 3, 3)),
        limits=st.dictionaries(st.sampled_from(NODES), headroom_10wh, max_size=5),
    )
    def open_market(self, mode: MatchingMode, max_tier: int, limits: dict[str, int]) -> None:
        self.base = KeptState()
        self.state = Overlay(self.base)
        self.model = Model(mode, max_tier)
        self.now_ms, self.height, self.count = BASE_SLOT * SLOT_MS, 0, 0
        self.headroom = {node: 10 * limit for node, limit in limits.items()}
        trading.set_parameters(
            self.state, MarketParameters(matching_mode=mode, max_trade_tier=max_tier)
        )
        self.block(0)

    @rule(offers=st.lists(offers, min_size=2, max_size=8))
    def place(self, offers: list[dict]) -> None:
        for offer in offers:
            self.count += 1
            order_id = sha256(b"order %d" % self.count)
            terms = self.terms(order_id, **offer)
            ledger.adjust(self.state, order_id, thb_uthb=WEALTH_UTHB)
            trading.place_order(
                self.state,
                terms,
                owner=order_id,
                order_id=order_id,
                now_ms=self.now_ms,
                height=self.height,
                trader=TraderFacts(True, 2**62, False, 2**62),
                meter=MeterFacts(order_id, terms.location, terms.source.value, 10**6, 10**6),
            )
            self.model.place(order_id, terms, self.height)

    def terms(
        self, order_id: bytes, selling, energy_wh, price, place, ahead, length, cap_wh, **more
    ) -> PlaceOrder:
        first = self.now_ms // SLOT_MS + ahead
        sold = (Source.SOLAR, Source.NATURAL_GAS)[self.count % 3 == 0]
        wish = more["wish"]
        return PlaceOrder(
            side=Side.SELL if selling else Side.BUY,
            energy_wh=energy_wh * 10,
            limit_mthb=(3_000 if selling else 3_600) + 100 * price,
            location=place,
            meter_id=order_id,
            source=sold if selling else wish,
            require=not selling and more["require"] and wish is not Source.ANY,
            first_slot=first,
            last_slot=first + length - 1,
            max_wh_per_slot=cap_wh * 10,
            time_in_force=list(TimeInForce)[more["immediate"]],
            expires_ms=self.now_ms + more["lasts_ms"],
        )

    @precondition(lambda self: self.model.orders)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice) -> None:
        order_id = choice.choice(sorted(self.model.orders))
        trading.cancel_order(self.state, CancelOrder(order_id), owner=order_id)
        self.model.orders.pop(order_id)

    @rule(node=st.sampled_from(NODES), limit_10wh=headroom_10wh)
    def publish(self, node: str, limit_10wh: int) -> None:
        self.headroom[node] = 10 * limit_10wh

    @rule(
        ms=st.sampled_from((1_000, 1_000, 1_000, 300_000, SLOT_MS, SLOT_MS, 3 * SLOT_MS)),
        restart=st.sampled_from((False, False, False, True)),
    )
    def block(self, ms: int, restart: bool = False) -> None:
        """Commit what there is and begin the next block."""
        self.base.commit(self.state)
        if restart:
            self.base = KeptState(dict(self.base.values))
        self.state = Overlay(self.base)
        self.now_ms += ms
        self.height += 1
        limits = dict(self.headroom)
        events = trading.begin_block(
            self.state,
            now_ms=self.now_ms,
            gate_grace_ms=GRACE_MS,
            grid=GridView(lambda node, _: limits.get(node)),
            territories=lambda: {"BKK": "MEA", "NTB": "MEA"},
        )
        self.model.begin(self.now_ms, limits)
        self.compare(events)

    def compare(self, events: list) -> None:
        matched = [event.trade for event in events if isinstance(event, TradeMatched)]
        assert [
            (t.slot, t.buy_id, t.sell_id, t.energy_wh, t.price_mthb, t.wheeling_mthb, t.tier)
            for t in matched
        ] == self.model.trades
        cleared = [event for event in events if isinstance(event, SlotCleared)]
        assert [(one.slot, one.territory, one.congested) for one in cleared] == self.model.cleared
        closed = [event for event in events if isinstance(event, OrderClosed)]
        told = {event.order_id: (event.status.value, event.rest_wh) for event in closed}
        assert told == self.model.closed
        assert {order_id: order.rest_wh for order_id, order in ORDERS.items(self.state)} == {
            order_id: order.rest_wh for order_id, order in self.model.orders.items()
        }

    def teardown(self) -> None:
        """Once all is over, everybody has his money back: nothing was delivered, nothing lost."""
        if not hasattr(self, "state"):
            return
        for slots in (50, *[1] * 8):
            self.block(slots * SLOT_MS)
        assert list(ORDERS.items(self.state)) == list(TRADES.items(self.state)) == []
        accounts = [account for _, account in ACCOUNTS.items(self.state)]
        assert sum(account.thb_uthb for account in accounts) == self.count * WEALTH_UTHB
        assert all(account.escrow_uthb == account.bond_uthb == 0 for account in accounts)


TestMarketDay = MarketDay.TestCase
TestMarketDay.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    phases=(Phase.generate, Phase.shrink),  # To explain would trace every line.
    derandomize=True,
    database=None,
)
