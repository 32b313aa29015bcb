"""The auction once more, the slow way: 10 Wh at a time, everything worked out anew each time.

It shares no code with `gridtokenx.trading.clearing`. Quantities and headroom must be multiples
of 10 Wh. Hard filters leave strictly one by one, as protocols/market.md section 3 says; nothing
is anticipated, so a book costs as many sweeps as buyers leave.
"""

import hashlib

from gridtokenx.trading.model import ClearingOrder, Side

STEP_WH = 10
LEAST_WH = 100
RENEWABLE = ("solar", "wind", "hydro", "biomass", "geothermal")


def group_name(location: str, tier: int) -> str:
    region, zone, substation = location.split("-")
    return ("-".join((region, zone, substation)), f"{region}-{zone}", region, "TH")[tier]


def nodes_crossed(order: ClearingOrder, tier: int) -> list[str]:
    letter = {Side.SELL: "x", Side.BUY: "m"}[order.side]
    return [f"{letter}:{group_name(order.location, below)}" for below in range(tier)]


def fits(wish: str, source: str) -> bool:
    return {"any": True, "renewable": source in RENEWABLE}.get(wish, wish == source)


def is_hard(buyer: ClearingOrder) -> bool:
    return buyer.require and buyer.source != "any"


def pairing_rank(buyer: ClearingOrder) -> tuple[bool, bool, bool]:
    """Sorts any last, hard before wishes, a specific source before renewable."""
    return (buyer.source == "any", not is_hard(buyer), buyer.source == "renewable")


class Market:
    """One slot's book while the oracle works through it."""

    def __init__(
        self,
        orders: list[ClearingOrder],
        salt: bytes,
        wheeling: tuple[int, ...],
        headroom: dict[str, int],
    ) -> None:
        def urgency(order: ClearingOrder) -> tuple[int, int, bytes]:
            price = order.limit_mthb if order.side is Side.SELL else -order.limit_mthb
            return price, order.height, hashlib.sha256(salt + order.id).digest()

        self.orders = sorted(orders, key=urgency)
        self.wheeling = wheeling
        self.room = dict(headroom)
        self.rest = {order.id: order.energy_wh for order in orders}
        self.trades: list[tuple] = []
        self.prices: list[tuple[int, str, int]] = []
        self.congested: set[bytes] = set()

    def run(self, max_tier: int) -> None:
        for tier in range(max_tier + 1):
            for group in sorted({group_name(order.location, tier) for order in self.orders}):
                self.run_group(tier, group)

    def run_group(self, tier: int, group: str) -> None:
        members = [
            order
            for order in self.orders
            if group_name(order.location, tier) == group and self.rest[order.id] >= LEAST_WH
        ]
        gone: list[bytes] = []
        while True:
            present = [order for order in members if order.id not in gone]
            sweep = Sweep(self, present, tier)
            pairs, disappointed = pair_by_source(sweep)
            if not disappointed:
                break
            gone.append(disappointed[-1].id)
        self.congested.update(sweep.congested)
        if not pairs:
            return
        price = sweep.price()
        self.prices.append((tier, group, price))
        for buyer, seller, energy_wh in pairs:
            for order in (buyer, seller):
                self.rest[order.id] -= energy_wh
                for node in nodes_crossed(order, tier):
                    if node in self.room:
                        self.room[node] -= energy_wh
            fee = self.wheeling[tier]
            self.trades.append(
                (buyer.id, seller.id, energy_wh, price, fee, tier, seller.source.value)
            )


class Sweep:
    """Which quantities the group accepts, before anybody asks for the source."""

    def __init__(self, market: Market, present: list[ClearingOrder], tier: int) -> None:
        self.tier = tier
        self.fee = market.wheeling[tier]
        self.buyers = [order for order in present if order.side is Side.BUY]
        self.sellers = [order for order in present if order.side is Side.SELL]
        self.open = {order.id: market.rest[order.id] for order in present}
        self.accepted = {order.id: 0 for order in present}
        self.room = dict(market.room)
        self.congested: list[bytes] = []
        buyers, sellers = list(self.buyers), list(self.sellers)
        while buyers and sellers and buyers[0].limit_mthb - self.fee >= sellers[0].limit_mthb:
            stuck = [o for o in (buyers[0], sellers[0]) if self.room_of(o) < LEAST_WH]
            if not stuck:
                self.trickle(buyers[0], sellers[0])
            self.congested += [order.id for order in stuck]
            for queue in (buyers, sellers):
                if queue[0] in stuck or self.open[queue[0].id] < LEAST_WH:
                    queue.pop(0)

    def room_of(self, order: ClearingOrder) -> int:
        return min(
            [self.room.get(node, 10**18) for node in nodes_crossed(order, self.tier)] or [10**18]
        )

    def trickle(self, *pair: ClearingOrder) -> None:
        while all(min(self.open[o.id], self.room_of(o)) >= STEP_WH for o in pair):
            for order in pair:
                self.open[order.id] -= STEP_WH
                self.accepted[order.id] += STEP_WH
                for node in nodes_crossed(order, self.tier):
                    if node in self.room:
                        self.room[node] -= STEP_WH

    def price(self) -> int:
        """The middle of all prices at which exactly these quantities are accepted."""

        def taken(orders: list[ClearingOrder]) -> list[int]:
            return [order.limit_mthb for order in orders if self.accepted[order.id]]

        def refused(orders: list[ClearingOrder]) -> list[int]:
            return [
                order.limit_mthb
                for order in orders
                if min(self.open[order.id], self.room_of(order)) >= LEAST_WH
            ]

        low = max(taken(self.sellers) + [bid - self.fee for bid in refused(self.buyers)])
        high = min([bid - self.fee for bid in taken(self.buyers)] + refused(self.sellers))
        assert low <= high
        return (low + high) // 2


def pair_by_source(sweep: Sweep) -> tuple[list[tuple], list[ClearingOrder]]:
    left = dict(sweep.accepted)
    pairs, disappointed = [], []
    for buyer in sorted(sweep.buyers, key=pairing_rank):
        if is_hard(buyer):
            sellers = [seller for seller in sweep.sellers if fits(buyer.source, seller.source)]
        elif buyer.source == "any":
            sellers = sorted(sweep.sellers, key=lambda seller: seller.source in RENEWABLE)
        else:
            sellers = sorted(sweep.sellers, key=lambda s: not fits(buyer.source, s.source))
        for seller in sellers:
            energy_wh = min(left[buyer.id], left[seller.id])
            if energy_wh >= LEAST_WH:
                left[buyer.id] -= energy_wh
                left[seller.id] -= energy_wh
                pairs.append((buyer, seller, energy_wh))
        if is_hard(buyer) and left[buyer.id] >= LEAST_WH:
            disappointed.append(buyer)
    return pairs, disappointed
