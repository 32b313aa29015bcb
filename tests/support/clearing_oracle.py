"""The auction once more, the slow way, written from protocols/market.md 3.2 alone.

It shares no code with `gridtokenx.trading.clearing`: everything is worked out anew at each step
with fractions, and nothing is read lazily, remembered or skipped.
"""

from fractions import Fraction

from gridtokenx.trading.model import ClearingOrder, Side

RENEWABLE = ("solar", "wind", "hydro", "biomass", "geothermal")


def group_name(location: str, tier: int) -> str:
    territory, zone, substation = location.split("-")
    return ("-".join((territory, zone, substation)), f"{territory}-{zone}", territory, "TH")[tier]


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
        self.chosen: list[tuple[int, int]] = []  # Of each group: its sweeps, and which counts.

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
        first = Outcome(self, members, tier, {})
        outcomes = [first]
        if first.unserved:
            most_wh = sum(first.accepted[order.id] for order in first.sells)
            more = first.without_unserved(is_more_asked=True)
            bare = first.without_unserved(is_more_asked=False)
            outcomes.append(Outcome(self, members, tier, first.without_unsold()))
            if outcomes[-1].traded_wh < most_wh:
                outcomes.append(Outcome(self, members, tier, more))
                asked = any(more[name] > bare[name] for name in outcomes[-1].sweep.near(more))
                if asked and max(outcome.traded_wh for outcome in outcomes) < most_wh:
                    outcomes.append(Outcome(self, members, tier, bare))
        best = outcomes[0]
        for outcome in outcomes:
            self.cost += outcome.sweep.cost()
            if outcome.traded_wh > best.traded_wh:
                best = outcome
        if first.sweep.met:
            self.chosen.append((len(outcomes), outcomes.index(best)))
        self.congested.update(best.sweep.congested)
        if best.pairs:
            self.book(tier, group, best.pairs, best.sweep.price())

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
        self, market: Market, members: list[ClearingOrder], tier: int, wants: dict[bytes, int]
    ) -> None:
        self.market = market
        self.members = members
        self.tier = tier
        self.fee = market.wheeling[tier]
        self.wants = {order.id: wants.get(order.id, market.rest[order.id]) for order in members}
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
        return len([name for name in self.near(self.wants) if self.wants[name]]) if self.met else 0

    def near(self, names: dict[bytes, int]) -> list[bytes]:
        """Those of them that stand no further back than their side's first rejected level."""
        found = []
        for order in self.members:
            sign = -1 if order.side is Side.BUY else 1
            last = self.rejected.get(order.side)
            own = (sign * order.limit_mthb, order.height)
            if order.id in names and (last is None or own <= (sign * last[0], last[1])):
                found.append(order.id)
        return found


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
        wanted = sum(lacking[buyer.id] for buyer in group)
        taken: list[list] = []
        for seller in in_turn(group[0], sellers):
            energy_wh = min(wanted, lacking[seller.id])
            if energy_wh:
                wanted -= energy_wh
                lacking[seller.id] -= energy_wh
                taken.append([seller, energy_wh])
        if len(group) == 1:
            lacking[group[0].id] = wanted
            pairs += [(group[0], seller, energy_wh) for seller, energy_wh in taken]
        else:
            for source in dict.fromkeys(seller.source for seller, _ in taken):
                pairs += joined(group, [one for one in taken if one[0].source is source], lacking)
    return pairs, {name: accepted[name] - lacking[name] for name in accepted}


def in_turn(buyer: ClearingOrder, sellers: list[ClearingOrder]) -> list[ClearingOrder]:
    """From whom he takes, first to last; who was asked already has nothing left."""
    fitting = [seller for seller in sellers if fits(buyer.source, seller.source)]
    if is_hard(buyer):
        return fitting
    if buyer.source == "any":
        return [seller for seller in sellers if seller.source not in RENEWABLE] + sellers
    return fitting + sellers


def joined(group: list[ClearingOrder], pieces: list[list], lacking: dict[bytes, int]) -> list:
    """The end of step 6: a class shares one source."""
    total = sum(energy_wh for _, energy_wh in pieces)
    shares = shared(total, {buyer.id: lacking[buyer.id] for buyer in group})
    pairs = []
    for buyer in group:
        lacking[buyer.id] -= shares[buyer.id]
        for piece in pieces:
            energy_wh = min(shares[buyer.id], piece[1])
            if energy_wh:
                shares[buyer.id] -= energy_wh
                piece[1] -= energy_wh
                pairs.append((buyer, piece[0], energy_wh))
    return pairs


class Outcome:
    """Step 7: one sweep and its pairing; `wants` by id where it is not what is open."""

    def __init__(
        self, market: Market, members: list[ClearingOrder], tier: int, wants: dict[bytes, int]
    ) -> None:
        self.market, self.members = market, members
        self.sweep = Sweep(market, members, tier, wants)
        self.accepted = self.sweep.accepted
        self.first_pairs, self.got = pair_by_source(members, self.accepted)
        self.requiring = [o for o in members if o.side is Side.BUY and is_hard(o)]
        self.sells = [order for order in members if order.side is Side.SELL]
        self.unserved = any(self.got[o.id] < self.accepted[o.id] for o in self.requiring)
        self.traded = self.got | self.sold()
        self.pairs, _ = pair_by_source(members, self.traded)
        self.traded_wh = sum(energy_wh for _, _, energy_wh in self.pairs)

    def sold(self) -> dict[bytes, int]:
        result: dict[bytes, int] = {}
        for kind in {(o.limit_mthb, o.height, o.source) for o in self.sells}:
            equals = [o.id for o in self.sells if (o.limit_mthb, o.height, o.source) == kind]
            sold = sum(self.got[name] for name in equals)
            result |= shared(sold, {name: self.accepted[name] for name in equals})
        return result

    def without_unserved(self, *, is_more_asked: bool) -> dict[bytes, int]:
        wants: dict[bytes, int] = {}
        for wish in {order.source for order in self.requiring}:
            left = sum(self.accepted[o.id] for o in self.sells if fits(wish, o.source))
            for buyer, seller, energy_wh in self.first_pairs:
                if is_hard(buyer) and fits(wish, seller.source):
                    left -= energy_wh
            if not is_more_asked:
                left = 0
            buyers = [order for order in self.requiring if order.source == wish]
            levels = {(-order.limit_mthb, order.height) for order in buyers}
            for level in sorted(levels):
                more = {
                    order.id: self.market.rest[order.id] - self.got[order.id]
                    for order in buyers
                    if (-order.limit_mthb, order.height) == level
                }
                shares = shared(left, more)
                left -= sum(shares.values())
                wants |= {name: self.got[name] + share for name, share in shares.items()}
        return wants

    def without_unsold(self) -> dict[bytes, int]:
        unsold = {o.source for o in self.sells if self.got[o.id] < self.accepted[o.id]}
        return {o.id: self.traded[o.id] for o in self.sells if o.source in unsold}
