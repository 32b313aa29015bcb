"""The auction once more, the slow way, written from protocols/market.md section 3.2 alone.

It shares no code with `gridtokenx.trading.clearing`: everything is worked out anew at each step
with fractions, and nothing is read lazily, remembered or skipped.
"""

from fractions import Fraction
from itertools import count

from gridtokenx.trading.model import ClearingOrder, Side

RENEWABLE = ("solar", "wind", "hydro", "biomass", "geothermal")
MOST_SWEEPS = 4


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


def rank(buyer: ClearingOrder) -> tuple[bool, bool, bool]:
    """Sorts any last, required before wished, a specific source before renewable."""
    return (buyer.source == "any", not is_hard(buyer), buyer.source == "renewable")


def shared(total: int, wants: dict[bytes, int]) -> dict[bytes, int]:
    """Step 2. `wants` by id."""
    if total >= sum(wants.values()):
        return dict(wants)
    shares = dict.fromkeys(wants, 0)
    if total == 0:
        return shares
    there = {name: wh for name, wh in wants.items() if wh > 0}
    while True:
        least = min(there.values())
        last = max(name for name, wh in there.items() if wh == least)
        whole = sum(there.values())
        if int(Fraction(total * least, whole)) >= min(100, least) or whole - least < total:
            break
        del there[last]
    whole = sum(there.values())
    exact = {name: Fraction(total * wh, whole) for name, wh in there.items()}
    for name, part in exact.items():
        shares[name] = int(part)
    by_remainder = sorted(there, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


class Market:
    """One slot's book while the oracle works through it."""

    def __init__(
        self, orders: list[ClearingOrder], wheeling: tuple[int, ...], headroom: dict[str, int]
    ) -> None:
        self.orders = orders
        self.wheeling = wheeling
        self.room = dict(headroom)
        self.rest = {order.id: order.energy_wh for order in orders}
        self.trades: list[tuple] = []
        self.prices: list[tuple[int, str, int]] = []
        self.congested: set[bytes] = set()
        self.cost = 0
        self.sweeps: list[int] = []  # Of each group.

    def run(self, max_tier: int) -> None:
        for tier in range(max_tier + 1):
            for group in sorted({group_name(order.location, tier) for order in self.orders}):
                self.run_group(tier, group)

    def run_group(self, tier: int, group: str) -> None:
        members = [
            order
            for order in self.orders
            if group_name(order.location, tier) == group and self.rest[order.id] > 0
        ]
        caps: dict[bytes, int] = {}
        for number in count(1):
            sweep = Sweep(self, members, tier, caps)
            self.cost += sweep.cost()
            pairs, got = pair_by_source(members, sweep.accepted)
            unserved = [
                order
                for order in members
                if is_hard(order) and got[order.id] < sweep.accepted[order.id]
            ]
            if not unserved:
                break
            if number == MOST_SWEEPS:
                pairs, _ = pair_by_source(members, traded(members, sweep.accepted, got))
                break
            for wish in {order.source for order in unserved}:
                for order in members:
                    if order.side is Side.BUY and is_hard(order) and order.source == wish:
                        caps[order.id] = got[order.id]
        if sweep.met:
            self.sweeps.append(number)
        self.congested.update(sweep.congested)
        if pairs:
            self.book(tier, group, pairs, sweep.price())

    def book(self, tier: int, group: str, pairs: list[tuple], price: int) -> None:
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
    """Steps 1, 3, 4, 5 and 8: what the group accepts, before anybody asks for the source."""

    def __init__(
        self, market: Market, members: list[ClearingOrder], tier: int, caps: dict[bytes, int]
    ) -> None:
        self.market = market
        self.members = members
        self.tier = tier
        self.fee = market.wheeling[tier]
        self.wants = {
            order.id: min(market.rest[order.id], caps.get(order.id, 10**30)) for order in members
        }
        self.accepted = {order.id: 0 for order in members}
        self.congested: set[bytes] = set()
        self.met: set[tuple[Side, int, int]] = set()
        self.rejected: dict[Side, tuple[int, int]] = {}  # The first rejected level.
        done: dict[Side, int] = {Side.BUY: 0, Side.SELL: 0}
        left: dict[Side, int | None] = {Side.BUY: None, Side.SELL: None}
        levels = {side: self.levels(side) for side in Side}
        while all(done[side] < len(levels[side]) for side in Side):
            bid, ask = levels[Side.BUY][done[Side.BUY]], levels[Side.SELL][done[Side.SELL]]
            if bid[0] - self.fee < ask[0]:
                break
            for side, level in ((Side.BUY, bid), (Side.SELL, ask)):
                self.met.add((side, *level))
                weights = self.weights(side, level)
                self.congested |= {name for name, wh in weights.items() if wh < self.wants[name]}
                if left[side] is None:
                    left[side] = sum(weights.values())
            moved = min(left.values())
            for side, level in ((Side.BUY, bid), (Side.SELL, ask)):
                left[side] -= moved
                if left[side] == 0:
                    self.accepted.update(self.weights(side, level))
                    done[side], left[side] = done[side] + 1, None
        for side in Side:
            self.end(side, levels[side][done[side] :], left[side])

    def end(self, side: Side, levels: list[tuple[int, int]], left: int | None) -> None:
        """What of the level at hand was traded, and who is the first rejected."""
        for level in levels:
            weights = self.weights(side, level)
            whole = sum(weights.values())
            if whole:
                self.rejected[side] = level
                if left is not None and left < whole:
                    self.accepted.update(shared(whole - left, weights))
                return

    def levels(self, side: Side) -> list[tuple[int, int]]:
        """Limit and height, the best first."""
        found = {
            (order.limit_mthb, order.height)
            for order in self.members
            if order.side is side and self.wants[order.id]
        }
        sign = -1 if side is Side.BUY else 1
        return sorted(found, key=lambda level: (sign * level[0], level[1]))

    def of(self, side: Side, level: tuple[int, int]) -> list[ClearingOrder]:
        return [
            order
            for order in self.members
            if order.side is side and (order.limit_mthb, order.height) == level
        ]

    def weights(self, side: Side, level: tuple[int, int]) -> dict[bytes, int]:
        """Step 3, with what better levels were accepted with by now."""
        orders = [order for order in self.of(side, level) if self.wants[order.id]]
        weights = {order.id: self.wants[order.id] for order in orders}
        for below in range(self.tier):
            for node in {nodes_crossed(order, self.tier)[below] for order in orders}:
                if node not in self.market.room:
                    continue
                used = sum(
                    self.accepted[order.id]
                    for order in self.members
                    if node in nodes_crossed(order, self.tier)
                )
                inside = {
                    order.id: weights[order.id]
                    for order in orders
                    if node in nodes_crossed(order, self.tier)
                }
                weights.update(shared(self.market.room[node] - used, inside))
        return weights

    def price(self) -> int:
        low, high = [], []
        for order in self.members:
            if self.accepted[order.id]:
                if order.side is Side.SELL:
                    low.append(order.limit_mthb)
                else:
                    high.append(order.limit_mthb - self.fee)
        if Side.BUY in self.rejected:
            low.append(self.rejected[Side.BUY][0] - self.fee)
        if Side.SELL in self.rejected:
            high.append(self.rejected[Side.SELL][0])
        assert max(low) <= min(high)
        return (max(low) + min(high)) // 2

    def cost(self) -> int:
        if not self.met:
            return 0
        looked_at = 0
        for order in self.members:
            sign = -1 if order.side is Side.BUY else 1
            last = self.rejected.get(order.side)
            own = (sign * order.limit_mthb, order.height)
            looked_at += last is None or own <= (sign * last[0], last[1])
        return looked_at


def pair_by_source(
    members: list[ClearingOrder], accepted: dict[bytes, int]
) -> tuple[list[tuple], dict[bytes, int]]:
    """Step 6: (buyer, seller, Wh) in order, and what each order got or sold."""
    lacking = dict(accepted)
    pairs: list[tuple] = []
    sellers = sorted(
        (order for order in members if order.side is Side.SELL),
        key=lambda order: (order.limit_mthb, order.height, order.id),
    )

    def kind(buyer: ClearingOrder) -> tuple:
        return rank(buyer), -buyer.limit_mthb, buyer.height, str(buyer.source)

    buyers = [order for order in members if order.side is Side.BUY and accepted[order.id]]
    for one in sorted({kind(buyer) for buyer in buyers}):
        group = sorted((b for b in buyers if kind(b) == one), key=lambda order: order.id)
        first = group[0]
        if is_hard(first):
            turns = [[s for s in sellers if fits(first.source, s.source)]]
        elif first.source == "any":
            turns = [[s for s in sellers if s.source not in RENEWABLE], sellers]
        else:
            turns = [[s for s in sellers if fits(first.source, s.source)], sellers]
        wanted = sum(lacking[buyer.id] for buyer in group)
        taken: list[list] = []
        for seller in [seller for turn in turns for seller in turn]:
            energy_wh = min(wanted, lacking[seller.id])
            if energy_wh:
                wanted -= energy_wh
                lacking[seller.id] -= energy_wh
                taken.append([seller, energy_wh])
        if len(group) == 1:
            lacking[first.id] = wanted
            pairs += [(first, seller, energy_wh) for seller, energy_wh in taken]
            continue
        for source in dict.fromkeys(seller.source for seller, _ in taken):
            pieces = [piece for piece in taken if piece[0].source is source]
            total = sum(energy_wh for _, energy_wh in pieces)
            shares = shared(total, {buyer.id: lacking[buyer.id] for buyer in group})
            for buyer in group:
                lacking[buyer.id] -= shares[buyer.id]
                for piece in pieces:
                    energy_wh = min(shares[buyer.id], piece[1])
                    if energy_wh:
                        shares[buyer.id] -= energy_wh
                        piece[1] -= energy_wh
                        pairs.append((buyer, piece[0], energy_wh))
    return pairs, {name: accepted[name] - lacking[name] for name in accepted}


def traded(
    members: list[ClearingOrder], accepted: dict[bytes, int], got: dict[bytes, int]
) -> dict[bytes, int]:
    """The end of step 7: who was accepted in the last sweep and with what of it he trades."""
    result = {order.id: got[order.id] for order in members if order.side is Side.BUY}
    sellers = [order for order in members if order.side is Side.SELL]
    for kind in {(order.limit_mthb, order.height, order.source) for order in sellers}:
        equals = [o.id for o in sellers if (o.limit_mthb, o.height, o.source) == kind]
        sold = sum(got[name] for name in equals)
        result.update(shared(sold, {name: accepted[name] for name in equals}))
    return result
