"""A slot's clearings recomputed from a chain's blocks, and why an order in it traded or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from gridtokenx.chain.slot_history import OrderLife, OrderStory, SeenTrade, SlotHistory
from gridtokenx.cli import output, remote, replaying, show
from gridtokenx.primitives.errors import ErrorCode, Rejected
from gridtokenx.primitives.places import Boundary
from gridtokenx.trading.explanation import Explanation, GroupSeen, LineSeen, Reason, Remedy
from gridtokenx.trading.model import Side, TimeInForce

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.replay import Replay
    from gridtokenx.client import Client

_TIERS = ("substation", "zone", "territory", "national")
_WHY = {
    Reason.TRADED: "all that it had open in the slot was traded",
    Reason.NOBODY: "nobody stood on the other side where it may trade",
    Reason.HEADROOM: "the grid had no more headroom on its way",
    Reason.SOURCE: "what one side requires is not what the other makes",
    Reason.EARLIER: "orders with its limit from earlier blocks came first",
    Reason.SHARED: "what was left was shared among orders with its limit, and shares under 100 Wh "
    "are given to fewer of them",
    Reason.PRICE: "its limit was not good enough",
    Reason.EXHAUSTED: "no limit that the slot allows would have brought it more: what stood on the "
    "other side was traded",
    Reason.OTHER_SLOTS: "it is for other slots",
    Reason.PLACED_LATER: "it was placed after the gate had closed",
    Reason.CANCELLED: "it was cancelled before the gate",
    Reason.EXPIRED: "it expired before the gate",
    Reason.FILLED: "it was filled in other slots before",
    Reason.OUT_OF_BAND: "its limit lay outside the slot's price band, which was changed",
    Reason.STANDSTILL: "the chain stood still at the gate, so nothing was cleared",
    Reason.HALTED: "its territory stood still at the gate, so nothing was cleared there",
    Reason.DROPPED: "it met an order, and one of them was cancelled before the trade was made",
}


@dataclass(frozen=True, slots=True)
class _Recomputed:
    """What a replay up to the slot's gate has shown. `later` is an order that came after it."""

    replay: Replay
    history: SlotHistory
    failures: list[str]
    story: OrderStory | None = None
    later: str | None = None


def run(slot: int, region: str, order_text: str | None) -> None:
    """Recompute, tell, and end with REFUSED if the blocks record anything else.

    Errors: UNKNOWN_SHARD, ORDER_NOT_FOUND, BLOCK_NOT_FOUND of the node; Failure `no_market`,
    `slot_not_cleared`, `slot_before_chain`, `not_verified`.
    """
    order_id = None if order_text is None else remote.hash_text(order_text, "an order id")
    with remote.connect(pinned=True) as client:
        if client.spec(region).is_national:
            output.fail(
                f"{region} is the national chain, which has no market",
                code="cli",
                reason="no_market",
                hint="name a region, such as MET",
            )
        current = client.market(region).current_slot
        if current < slot:
            _not_cleared(slot, region, current)
        found = _recompute(client, slot, region, order_id)
        document = _document(client, found, order_id)
    output.emit(document, lambda console: _draw(console, document))
    if not document["verified"]:
        raise typer.Exit(output.ExitCode.REFUSED)


def _not_cleared(slot: int, region: str, current: int) -> NoReturn:
    raise output.Failure(
        f"slot {slot} of {region} is not cleared yet: it is slot {current} there",
        code="cli",
        reason="slot_not_cleared",
        hint=f"its gate closes when it begins, {show.slots(slot, slot)} Bangkok by market time",
        exit_code=output.ExitCode.RETRY_LATER,
        retryable=True,
    )


def _recompute(client: Client, slot: int, region: str, order_id: str | None) -> _Recomputed:
    """Execute the chain from genesis to the block that closes the slot."""
    from gridtokenx.chain.replay import Replay
    from gridtokenx.chain.replay_national import NationalNotVerified

    wanted = None if order_id is None else bytes.fromhex(order_id)
    history = SlotHistory(slot, wanted)
    replay = Replay(client.spec(region), replaying.beside(client, region), history.watch)
    head = client.head(region).height
    try:
        for block, certificate in replaying.blocks(client, region, head):
            history.note(replay.execute(block, certificate), replay.state)
            if history.is_closed:
                break
    except NationalNotVerified as error:
        replaying.refuse(client, str(error), ErrorCode.INVALID_BLOCK)
    except Rejected as error:
        detail = f"{region} block {replay.parent.height + 1}: {error.detail}"
        replaying.refuse(client, detail, error.code)
    if history.first_slot is not None and slot < history.first_slot:
        output.fail(
            f"slot {slot} lies before {region}'s first one, {history.first_slot}",
            code="cli",
            reason="slot_before_chain",
        )
    if not history.is_closed:
        _not_cleared(slot, region, slot - 1)
    failures = [*history.differences, *replay.contradictions()]
    if order_id is None or wanted is None:
        return _Recomputed(replay, history, failures)
    story = history.story(wanted)
    if story is not None:
        return _Recomputed(replay, history, failures, story)
    height = client.order(order_id, region).height  # Or the node knows no such order.
    if height <= replay.parent.height:
        detail = f"the node has order {order_id} in block {height}, which does not place it"
        replaying.refuse(client, detail, ErrorCode.ORDER_NOT_FOUND)
    return _Recomputed(replay, history, failures, later=str(height))


def _document(client: Client, found: _Recomputed, order_id: str | None) -> dict[str, Any]:
    from gridtokenx.trading.rules import parameters

    history, replay = found.history, found.replay
    order = None
    if found.story is not None and order_id is not None:
        order = _order(order_id, found.story)
    elif found.later is not None:
        why = f"{_WHY[Reason.PLACED_LATER]}: the node has it in block {found.later}"
        order = {"order_id": order_id, "reason": Reason.PLACED_LATER.value, "steps": [why]}
    return {
        "verified": not found.failures,
        "chain": replay.spec.name,
        "slot": str(history.slot),
        "mode": parameters(replay.state).matching_mode.value,
        "executed": str(replay.parent.height),
        "block_hash": replay.parent.hash.hex(),
        "gate_height": _text(history.gate_height),
        "is_missed": history.is_missed,
        "clearings": [
            {
                "height": str(one.height),
                "territories": list(one.territories),
                "orders": one.orders,
                "traded_wh": str(sum(fill.energy_wh for fill in one.result.fills)),
                "prices": [
                    {"tier": tier, "group": group, "price_mthb": str(price)}
                    for tier, group, price in one.result.prices
                ],
                "congested": [one_id.hex() for one_id in one.result.congested],
            }
            for one in history.clearings
        ],
        "trades": [_trade(one) for one in history.trades],
        "orders": [
            {
                "order_id": one_id.hex(),
                "side": one.order.side.name.lower(),
                "limit_mthb": str(one.order.limit_mthb),
                "location": one.order.location,
                "source": one.order.source.value,
                "wanted_wh": str(one.wanted_wh),
                "traded_wh": str(one.traded_wh),
            }
            for one_id, one in sorted(history.orders.items())
        ],
        "order": order,
        "differences": found.failures,
        "genesis_hash": client.genesis().hash.hex(),
        "genesis_from": "home" if remote.home_genesis() is not None else "node",
    }


def _order(order_id: str, story: OrderStory) -> dict[str, Any]:
    life, last, terms = story.life, story.last, story.life.terms
    document: dict[str, Any] = {
        "order_id": order_id,
        "reason": story.reason.value,
        "steps": list(_steps(story)),
        "side": terms.side.name.lower(),
        "limit_mthb": str(terms.limit_mthb),
        "location": terms.location,
        "first_slot": str(terms.first_slot),
        "last_slot": str(terms.last_slot),
        "placed_height": str(life.placed_height),
        "closed_height": _text(life.closed_height),
        "status": None if life.status is None else life.status.value,
        "trades": [_trade(one) for one in story.trades],
        "traded_wh": str(sum(one.trade.energy_wh for one in story.trades)),
        "clearing": None,
    }
    if last is not None:
        document["clearing"] = {"height": _text(story.last_height), **_clearing(last)}
    return document


def _clearing(last: Explanation) -> dict[str, Any]:
    """What the last clearing with the order in it did with it."""
    return {
        "wanted_wh": str(last.wanted_wh),
        "traded_wh": str(last.traded_wh),
        "is_congested": last.is_congested,
        "remedy": {
            "limit_mthb": _text(last.remedy.limit_mthb),
            "unlimited": [_way(one) for one in last.remedy.unlimited],
            "any_source": last.remedy.any_source,
        },
        "groups": [
            {
                "tier": one.tier,
                "group": one.group,
                "wheeling_mthb": str(one.wheeling_mthb),
                "price_mthb": _text(one.price_mthb),
                "traded_wh": str(one.traded_wh),
                "own_wh": str(one.own_wh),
                "before_orders": one.before_orders,
                "before_wh": str(one.before_wh),
                "side_orders": one.side_orders,
                "other_orders": one.other_orders,
                "best_other_mthb": _text(one.best_other_mthb),
            }
            for one in last.groups
        ],
        "headroom": [
            {
                "boundary": _way(one.boundary),
                "room_wh": str(one.room_wh),
                "used_wh": str(one.used_wh),
            }
            for one in last.lines
        ],
    }


def _trade(one: SeenTrade) -> dict[str, Any]:
    trade = one.trade
    return {
        "height": str(one.height),
        "trade_id": trade.id.hex(),
        "buy_order_id": trade.buy_id.hex(),
        "sell_order_id": trade.sell_id.hex(),
        "energy_wh": str(trade.energy_wh),
        "price_mthb": str(trade.price_mthb),
        "wheeling_mthb": str(trade.wheeling_mthb),
        "tier": trade.tier,
        "energy_source": trade.source.value,
    }


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _way(boundary: Boundary) -> str:
    """As the file of orders and the vectors write it."""
    return f"{'x' if boundary.is_export else 'm'}:{boundary.node}"


# -- Step by step, for a person --------------------------------------------------------------------


def _steps(story: OrderStory) -> Iterator[str]:
    yield _placed(story.life)
    last = story.last
    if last is None:
        yield _left(story.life)
        yield f"it took part in no clearing of the slot: {_WHY[story.reason]}"
        return
    sold = [one for one in story.trades if one.height < (story.last_height or 0)]
    yield from (_sold(last, one) for one in sold)
    yield (
        f"block {story.last_height} cleared the slot with it, {show.kwh(last.wanted_wh)} kWh open"
    )
    yield from (_group(last, one) for one in last.groups)
    yield from (_line(one) for one in last.lines)
    yield from (_sold(last, one) for one in story.trades[len(sold) :])
    what = "the rest" if story.trades else "it"
    did = "" if story.reason is Reason.TRADED else f"{what} did not trade: "
    yield f"{did}{_WHY[story.reason]}"
    if last.remedy != Remedy():
        yield f"it would have traded more {_remedy(last)}"
    yield _left(story.life)


def _placed(life: OrderLife) -> str:
    terms = life.terms
    is_sell = terms.side is Side.SELL
    is_once = terms.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL
    return (
        f"placed in block {life.placed_height}: {'sells' if is_sell else 'buys'} "
        f"{show.kwh(terms.energy_wh)} kWh at {'least' if is_sell else 'most'} "
        f"{show.price(terms.limit_mthb)} THB/kWh at {terms.location}, "
        f"{'requires' if terms.require else 'source'} {terms.source.value}, slots "
        f"{terms.first_slot} to {terms.last_slot}, {show.kwh(terms.max_wh_per_slot)} kWh in each"
        f"{', leaves after its first clearing' if is_once else ''}"
    )


def _left(life: OrderLife) -> str:
    if life.status is None:
        return "it is still in the book after the gate, for later slots"
    return f"it left the book in block {life.closed_height}: {life.status.value}"


def _group(last: Explanation, one: GroupSeen) -> str:
    """A group's price against the order's limit, and its place in the merit order."""
    text = f"{_TIERS[one.tier]} {one.group}: "
    is_sell = last.order.side is Side.SELL
    if one.price_mthb is None:
        text += "nothing traded"
        if one.best_other_mthb is None:
            text += ", nobody on the other side"
        else:
            fee = f", wheeling {show.price(one.wheeling_mthb)}"
            text += f"; the other side's best limit is {show.price(one.best_other_mthb)}{fee}"
    else:
        paid = one.price_mthb + (0 if is_sell else one.wheeling_mthb)
        within = last.order.limit_mthb <= paid if is_sell else paid <= last.order.limit_mthb
        text += f"price {show.price(one.price_mthb)}"
        if not is_sell:
            text += f" + wheeling {show.price(one.wheeling_mthb)} = {show.price(paid)}"
        short = show.price(abs(paid - last.order.limit_mthb))
        text += f", {'within its limit' if within else f'{short} beyond its limit'}"
    return (
        f"{text}; number {one.before_orders + 1} of {one.side_orders} on its side, "
        f"{show.kwh(one.before_wh)} kWh before it"
    )


def _line(one: LineSeen) -> str:
    way = "out of" if one.boundary.is_export else "into"
    full = ", full" if one.used_wh == one.room_wh else ""
    return (
        f"the grid {way} {one.boundary.node}: {show.kwh(one.used_wh)} of "
        f"{show.kwh(one.room_wh)} kWh used{full}"
    )


def _sold(last: Explanation, one: SeenTrade) -> str:
    trade = one.trade
    other = trade.sell_id if last.order.id == trade.buy_id else trade.buy_id
    return (
        f"block {one.height}: met order {other.hex()}, {show.kwh(trade.energy_wh)} kWh of "
        f"{trade.source.value} at {show.price(trade.price_mthb)} THB/kWh, wheeling "
        f"{show.price(trade.wheeling_mthb)} ({_TIERS[trade.tier]})"
    )


def _remedy(last: Explanation) -> str:
    remedy, is_sell = last.remedy, last.order.side is Side.SELL
    parts = []
    if remedy.limit_mthb is not None:
        parts.append(f"with a limit of {show.price(remedy.limit_mthb)} THB/kWh")
    for one in remedy.unlimited:
        parts.append(f"with headroom {'out of' if one.is_export else 'into'} {one.node}")
    if remedy.any_source:
        parts.append("if buyers required no source" if is_sell else "without requiring a source")
    return " and ".join(parts)


def _draw(console: Console, document: dict[str, Any]) -> None:
    slot, chain = document["slot"], document["chain"]
    show.line(
        console,
        f"slot {slot} ({show.slots(slot, slot)}, Bangkok) of {chain}, mode {document['mode']}: "
        f"executed {document['executed']} blocks from genesis",
        style="bold",
    )
    if document["order"] is not None:
        show.line(console, f"order {document['order']['order_id']}: {document['order']['reason']}")
        for number, step in enumerate(document["order"]["steps"], 1):
            show.line(console, f"{number:>3}. {step}")
    else:
        _draw_slot(console, document)
    for difference in document["differences"]:
        show.line(console, f"DOES NOT HOLD: {difference}", style="bold red")
    if document["verified"]:
        show.line(console, "verified: yes. The blocks record what the auction gives")
    if document["genesis_from"] == "node":
        show.line(
            console,
            f"trusted: the node's own genesis {document['genesis_hash']}; compare it with the "
            "network's",
        )


def _draw_slot(console: Console, document: dict[str, Any]) -> None:
    prices = [
        (one["height"], one["orders"], f"{_TIERS[price['tier']]} {price['group']}",
         show.price(price["price_mthb"]), len(one["congested"]))
        for one in document["clearings"]
        for price in one["prices"]
    ]  # fmt: skip
    if document["is_missed"]:
        show.line(console, _WHY[Reason.STANDSTILL])
    if prices:
        headings = ("block", "orders", "group", "THB/kWh", "kept back")
        show.table(console, headings, prices, right=(0, 1, 3, 4))
    else:
        show.line(console, "nothing traded")
    trades = [
        (
            one["buy_order_id"],
            one["sell_order_id"],
            show.kwh(one["energy_wh"]),
            show.price(one["price_mthb"]),
            show.price(one["wheeling_mthb"]),
            _TIERS[one["tier"]],
        )
        for one in document["trades"]
    ]
    if trades:
        parts = ("buy", "sell", "kWh", "THB/kWh", "wheeling", "tier")
        show.table(console, parts, trades, right=(2, 3, 4))
    left = [
        (
            one["order_id"],
            one["side"],
            show.price(one["limit_mthb"]),
            show.kwh(one["wanted_wh"]),
            show.kwh(one["traded_wh"]),
        )
        for one in document["orders"]
        if one["traded_wh"] != one["wanted_wh"]
    ]
    if left:
        headings = ("not traded whole", "side", "limit", "kWh", "traded")
        show.table(console, headings, left, right=(2, 3, 4))
        show.line(console, "why: --order ID")
