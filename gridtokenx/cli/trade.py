"""`gridtokenx trade ...`: what was matched, and how it was settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.primitives.places import territory_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from gridtokenx.answers.energy import ListedTrade, TradePage
    from gridtokenx.client import Client

app = typer.Typer(help="Trades: list, get, clear.", no_args_is_help=True)

_TIERS = ("substation", "zone", "territory", "national")
# What a settlement repeats of its trade.
_TOLD = frozenset(
    {
        *("kind", "trade_id", "slot", "territory", "tier", "source"),
        *("buyer", "seller", "traded_wh", "price_mthb"),
    }
)
_MAX_PAGES = 20  # of a list that is kept by territory here, before its cursor is handed on


@app.command("list")
def list_trades(
    trader: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Buyer or seller: gtx1..., or a key.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Only of buyers in this territory or zone.")
    ] = None,
    chain: remote.Chain = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Trades of a chain, newest first."""
    place = None if zone is None else remote.place_name(zone)
    who = None if trader is None else remote.address_of(trader)
    with remote.connect() as client:
        name = remote.default_chain(client, chain, place)
        page = _collect(client, name, who, place, limit, cursor)
    output.emit(page, lambda console: _draw_list(console, page))


def _collect(
    client: Client,
    chain: str,
    who: bytes | None,
    place: str | None,
    limit: int,
    cursor: str | None,
) -> TradePage:
    """A page; with a place, pages are read on until the trades of that place fill one."""
    from gridtokenx.primitives.types import format_address

    address = None if who is None else format_address(who)
    items: list[ListedTrade] = []
    for _ in range(_MAX_PAGES):
        wanted = limit - len(items)
        page = client.trades(trader=address, chain=chain, limit=wanted, cursor=cursor)
        items += page.items if place is None else _bought_in(client, place, page.items)
        cursor = page.next_cursor
        if cursor is None or len(items) >= limit:
            break
    return replace(page, items=tuple(items))


def _bought_in(client: Client, place: str, trades: Sequence[ListedTrade]) -> list[ListedTrade]:
    """Trades whose buyer's meter lies in the place; a trade itself names only the territory."""
    from gridtokenx.answers.energy import ListedOrder

    near = [row for row in trades if row.territory == territory_of(place)]
    if len(place) == 3:
        return near
    bought = [{"id": row.buy_order_id.hex(), "chain": row.chain} for row in near]
    orders = client.ask_many("energy_getOrder", ListedOrder, bought)
    kept = []
    for row, order in zip(near, orders, strict=True):
        if isinstance(order, Exception):
            raise order
        if f"{order.grid_location}-".startswith(f"{place}-"):
            kept.append(row)
    return kept


def _draw_list(console: Console, page: TradePage) -> None:
    rows = [
        (
            show.slots(row.slot, row.slot),
            row.territory,
            show.kwh(row.energy_wh),
            show.price(row.price_mthb),
            show.price(row.wheeling_mthb),
            _TIERS[row.tier],
            row.energy_source.value,
            row.status,
            row.trade_id.hex(),
        )
        for row in page.items
    ]
    headings = (
        "slot",
        "territory",
        "kWh",
        "THB/kWh",
        "wheeling",
        "tier",
        "source",
        "status",
        "trade",
    )
    if rows:
        show.table(console, headings, rows, right=(2, 3, 4))
    else:
        show.nothing(console, {"chain": page.chain, "next_cursor": page.next_cursor}, "such trades")
    show.next_page(console, page.next_cursor)


@app.command()
def get(
    trade_id: Annotated[str, typer.Argument(metavar="ID", help="Trade id, 64 hex digits.")],
    chain: remote.Chain = None,
) -> None:
    """A trade and its settlement."""
    wanted = remote.hash_text(trade_id, "a trade id")
    with remote.connect() as client:
        document = client.call("energy_getTrade", id=wanted, chain=chain)
    output.emit(document, lambda console: _draw_trade(console, document))


def _draw_trade(console: Console, row: dict[str, Any]) -> None:
    settlement = row["settlement"]
    show.fields(
        console,
        [
            ("trade", row["trade_id"]),
            ("status", row["status"]),
            ("block", f"{row['chain']} #{row['height']}"),
            ("slot", f"{row['slot']} ({show.slots(row['slot'], row['slot'])}, Bangkok)"),
            ("energy", f"{show.kwh(row['energy_wh'])} kWh, {row['energy_source']}"),
            (
                "price",
                f"{show.price(row['price_mthb'])} THB/kWh to the seller, "
                f"wheeling {show.price(row['wheeling_mthb'])} THB/kWh",
            ),
            ("tier", f"{_TIERS[row['tier']]}, territory {row['territory']}"),
            ("buyer", row["buyer"]),
            ("seller", row["seller"]),
            ("buy order", row["buy_order_id"]),
            ("sell order", row["sell_order_id"]),
        ],
    )
    if settlement is None:
        show.line(console, "settlement waits for the seller's meter reading")
        return
    fields = [pair for pair in settlement.items() if pair[0] not in _TOLD]
    show.fields(console, [_money(*pair) for pair in fields])


def _money(name: str, value: Any) -> tuple[str, str]:
    label, text = show.field(name, value)
    return label.replace("_", " "), text


@app.command()
def clear(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="JSON as in tests/vectors/market_vectors.json."),
    ] = None,
    slot: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Slot to recompute from blocks.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="Chain of that slot, such as MET.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="ID", help="Say why this order traded there or not.")
    ] = None,
) -> None:
    """Recompute one slot's auction with the node's own code.

    From a FILE of orders no node is asked; a list of clearings gives a list of results. With --slot
    and --region every block from genesis to the slot's gate is fetched, checked and executed anew,
    the slot is cleared a second time, and trades and prices are held against what the blocks
    record: exit code 1 if they differ, 75 for a slot that is not cleared yet.
    """
    from_blocks = slot is not None and region is not None
    if from_blocks == (file is not None) or (slot is None) != (region is None):
        raise typer.BadParameter("take a FILE, or --slot N and --region NAME")
    if file is not None:
        if order is not None:
            raise typer.BadParameter("--order is for a slot: with --slot and --region")
        _clear_file(file)
    elif slot is not None and region is not None:
        from gridtokenx.cli.clearing import slot as clearing_slot

        clearing_slot.run(slot, region.upper(), order)


def _clear_file(file: Path) -> None:
    from gridtokenx.cli.clearing.file import read_cases

    cases = read_cases(file)
    results = [case.clear() for case in cases]
    if len(cases) == 1:
        output.emit(results[0], lambda console: _draw_clearing(console, results[0]))
        return
    named = [{"name": case.name, **row} for case, row in zip(cases, results, strict=True)]

    def draw(console: Console) -> None:
        for row in named:
            show.line(console, show.printable(row["name"]), style="bold")
            _draw_clearing(console, row)

    output.emit(named, draw)


def _draw_clearing(console: Console, row: dict[str, Any]) -> None:
    prices = [(group, show.price(price)) for group, price in row["prices"].items()]
    trades = [
        (buy, sell, show.kwh(wh), show.price(price), show.price(wheeling), tier, source)
        for buy, sell, wh, price, wheeling, tier, source in row["trades"]
    ]
    if not trades:
        show.line(console, "nothing trades")
    else:
        show.table(console, ("group", "THB/kWh"), prices, right=(1,))
        headings = ("buy", "sell", "kWh", "THB/kWh", "wheeling", "tier", "source")
        show.table(console, headings, trades, right=(2, 3, 4))
    left = [(name, show.kwh(wh)) for name, wh in row["remaining"].items() if wh]
    if left:
        show.table(console, ("order", "rest kWh"), left, right=(1,))
    if row["congested"]:
        names = ", ".join(row["congested"])
        show.line(console, f"kept back by the grid: {show.printable(names)}")
