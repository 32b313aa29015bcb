"""`gridtokenx orders ...`: place, cancel and see orders. Signed here, with a key of this home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.transaction import Transaction
    from gridtokenx.cli.order_terms import Market, Wish
    from gridtokenx.client import Client
    from gridtokenx.trading.model import PlaceOrder, Side, Source

app = typer.Typer(
    help="Orders: place, cancel, list, get, book, market, quote.", no_args_is_help=True
)

OrderId = Annotated[str, typer.Argument(metavar="ID", help="Order id, 64 hex digits.")]


@app.command()
def place(
    side: Annotated[str, typer.Option(metavar="SIDE", help="buy or sell.")],
    kwh: Annotated[str, typer.Option(metavar="KWH", help="Energy over all slots.")],
    price: Annotated[
        str, typer.Option(metavar="THB", help="THB/kWh: a seller's least, a buyer's most.")
    ],
    location: Annotated[str, typer.Option(metavar="SUBSTATION", help="Such as BKK-01-SUB001.")],
    key: remote.Key,
    source: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="A buyer's wish; a seller's plant (any: the meter's)."),
    ] = "any",
    meter: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="Meter id; else the only one that can be meant."),
    ] = None,
    slot: Annotated[int | None, typer.Option(min=0, help="One delivery slot by number.")] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Bangkok: 10:15 or 2026-11-23T10:15."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the last slot, likewise.")
    ] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="90m, 24h or 7d from now.")] = "24h",
    max_kwh_per_slot: Annotated[
        str | None, typer.Option(metavar="KWH", help="Most in one slot; else what the meter can.")
    ] = None,
    require: Annotated[bool, typer.Option("--require", help="Only from that source.")] = False,
    ioc: Annotated[
        bool, typer.Option("--ioc", help="What does not match at once is cancelled.")
    ] = False,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Sign an order with a key of this home and place it."""
    from gridtokenx.cli.order_terms import Window, Wish, parse_duration_ms
    from gridtokenx.primitives.quantities import parse_kwh, parse_price

    parse_duration_ms(expires)
    wish = Wish(
        side=_side(side),
        energy_wh=parse_kwh(kwh),
        limit_mthb=parse_price(price),
        source=_source(source),
        location=remote.substation_name(location),
        window=Window(slot, begin, end, expires),
        meter_id=None if meter is None else bytes.fromhex(remote.hash_text(meter, "a meter id")),
        max_wh_per_slot=None if max_kwh_per_slot is None else parse_kwh(max_kwh_per_slot),
        require=require,
        immediate=ioc,
    )
    remote.account_key_path(key)
    with remote.connect(pinned=True) as client:
        chain = remote.default_chain(client, None, wish.location)
        terms = _terms(client, chain, remote.address_of(key), wish)
        transaction = client.sign(remote.unlock(key, password_file), chain, terms)
        document = _placed(client, chain, transaction, wait=wait)
    output.emit(document, lambda console: _draw_placed(console, document, terms))


def _terms(client: Client, chain: str, owner: bytes, wish: Wish) -> PlaceOrder:
    from gridtokenx.cli.order_terms import terms_of

    row = client.account(owner, chain).chains[0]
    unlisted = row.meter_count - len(row.meters)
    return terms_of(wish, _market(client, chain), row.meters, unlisted)


def _market(client: Client, chain: str) -> Market:
    from gridtokenx.cli.order_terms import Market

    genesis, now = client.genesis(), client.market(chain)
    return Market(
        now_ms=now.market_ms,
        block_ms=genesis.market_clock.ms_per_block or genesis.block_time_ms,
        open_slots=now.parameters.open_slots,
    )


def _placed(client: Client, chain: str, transaction: Transaction, *, wait: bool) -> dict[str, Any]:
    found = remote.submit(client, transaction, wait=wait)
    placed = remote.event_of(found, "order_placed")
    final = found["status"] == "finalized"
    return {
        "order_id": found["tx_id"],
        "chain": chain,
        "status": client.order(found["tx_id"], chain).status if final else found["status"],
        "height": found["height"],
        "reserve_uthb": placed.get("reserve_uthb"),
        "order": found["transaction"] and found["transaction"]["payload"],
    }


def _draw_placed(console: Console, document: dict[str, Any], terms: PlaceOrder) -> None:
    from gridtokenx.trading.model import Side

    selling = terms.side is Side.SELL
    reserve, height = document["reserve_uthb"], document["height"]
    in_slot = show.kwh(terms.max_wh_per_slot)
    show.fields(
        console,
        [
            ("order", document["order_id"]),
            ("state", document["status"]),
            (
                "terms",
                f"{terms.side.name.lower()} {show.kwh(terms.energy_wh)} kWh at "
                f"{show.price(terms.limit_mthb)} THB/kWh or {'more' if selling else 'less'}, "
                f"{terms.source.value}, {terms.location}",
            ),
            (
                "slots",
                f"{show.slots(terms.first_slot, terms.last_slot)} Bangkok, "
                f"at most {in_slot} kWh in each",
            ),
            (
                "bond" if selling else "escrow",
                None if reserve is None else f"{show.millionths(reserve)} THB",
            ),
            ("block", None if height is None else f"{document['chain']} #{height}, final"),
        ],
    )
    if height is None:
        show.line(console, f"see: gridtokenx tx status {document['order_id']} --wait")


@app.command()
def quote(
    side: Annotated[str, typer.Option(metavar="SIDE", help="buy or sell.")],
    kwh: Annotated[str, typer.Option(metavar="KWH", help="Energy for one slot.")],
    price: Annotated[
        str, typer.Option(metavar="THB", help="THB/kWh: a seller's least, a buyer's most.")
    ],
    location: Annotated[str, typer.Option(metavar="SUBSTATION", help="Such as BKK-01-SUB001.")],
    source: Annotated[
        str, typer.Option(metavar="SOURCE", help="A seller's plant; a buyer's wish.")
    ] = "any",
    slot: Annotated[
        int | None, typer.Option(min=0, help="Delivery slot; else the next one.")
    ] = None,
    require: Annotated[bool, typer.Option("--require", help="Only from that source.")] = False,
    vat_registered: Annotated[
        bool, typer.Option("--vat-registered", help="The seller charges VAT on energy.")
    ] = False,
    trader: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Whose order: its meter, source and VAT."),
    ] = None,
    meter: Annotated[
        str | None, typer.Option(metavar="HEX", help="Which of the trader's meters.")
    ] = None,
) -> None:
    """What an order would cost or earn, and meet in the book, before anything is signed."""
    from gridtokenx.primitives.quantities import format_kwh, parse_kwh, parse_price
    from gridtokenx.primitives.types import format_address

    if meter is not None and trader is None:
        raise typer.BadParameter("whose meter? name --trader too", param_hint="--meter")

    params = {
        "order_type": _side(side).name.lower(),
        "energy_amount": format_kwh(parse_kwh(kwh)),
        "price_per_kwh": str(parse_price(price)),
        "grid_location": remote.substation_name(location),
        "energy_source": _source(source).value,
        "slot": slot,
        "require": require,
        "vat_registered": vat_registered,
        "trader": None if trader is None else format_address(remote.address_of(trader)),
        "meter_id": None if meter is None else remote.hash_text(meter, "a meter id"),
    }
    with remote.connect() as client:
        document = client.call("energy_quote", **params)
    output.emit(document, lambda console: _draw_quote(console, document))


def _draw_quote(console: Console, document: dict[str, Any]) -> None:
    buying, worst, last = document["order_type"] == "buy", document["worst"], document["last"]
    found = document["at_last_price"]
    told = "none yet"
    if last is not None:
        told = (
            f"{show.price(last['price_mthb'])} THB/kWh in {last['group']}, wheeling "
            f"{show.price(last['wheeling_mthb'])}, slot {last['slot']}"
        )
    show.fields(
        console,
        [
            ("slot", f"{show.slots(document['slot'], document['slot'])} Bangkok"),
            (f"{document['reserve']} set aside", _thb(document["reserve_uthb"])),
            (
                "at the limit",
                f"pays at most {_thb(worst['buyer_uthb'])}"
                if buying
                else f"gets at least {_thb(worst['seller_uthb'])}",
            ),
            ("last price near", told),
            ("at that price", _outcome(found, buying) if found else None),
            (
                "but",
                "that price does not meet the limit" if last is not None and not found else None,
            ),
            *_expected(document, buying),
        ],
    )
    _draw_merit_order(console, document, buying)
    _draw_cleared(console, document)
    if document["emergency"] is not None:
        text = f"no trade there now: {document['emergency']}"
        show.line(console, show.printable(text), style="bold red")


_UNKNOWN = {
    "slot_not_open": "not told: the slot is not open for orders",
    "territory_halted": "not told: the territory does not trade now",
    "book_too_deep": "not told: too many orders cross",
}


def _expected(document: dict[str, Any], buying: bool) -> list[tuple[str, object]]:
    """What would trade now, in all and, where there are several, by part."""
    row = document["expected"]
    if row is None:
        unknown = document["expected_unknown"]
        return [("in the book now", _UNKNOWN.get(unknown, unknown))]
    asked = show.kwh(document["energy_wh"])
    if row["charges"] is None:
        return [("in the book now", f"nothing of {asked} kWh would trade yet")]
    lines: list[tuple[str, object]] = [
        (
            "in the book now",
            f"{show.kwh(row['energy_wh'])} of {asked} kWh at {show.price(row['price_mthb'])} "
            "THB/kWh, if nothing else comes",
        )
    ]
    if len(row["parts"]) > 1:
        lines += [
            (
                "",
                f"{show.kwh(part['energy_wh'])} kWh in {part['group']} at "
                f"{show.price(part['price_mthb'])}, wheeling {show.price(part['wheeling_mthb'])}",
            )
            for part in row["parts"]
        ]
    return [*lines, ("for that", _outcome(row["charges"], buying))]


def _draw_merit_order(console: Console, document: dict[str, Any], buying: bool) -> None:
    """What comes before it on its side, and what the other side has that it could meet."""
    rows = [
        (
            place["group"],
            show.price(place["wheeling_mthb"]),
            show.kwh(place["better_wh"]),
            show.kwh(place["equal_wh"]),
            show.kwh(place["meets_wh"]),
        )
        for place in document["merit_order"]
    ]
    ahead = ("kWh dearer", "as dear") if buying else ("kWh cheaper", "as cheap")
    headings = ("ahead of it in", "wheeling", *ahead, "on sale" if buying else "asked for")
    show.line(console, "")
    show.table(console, headings, rows, right=range(1, len(headings)))


def _draw_cleared(console: Console, document: dict[str, Any]) -> None:
    tiers = [place["tier"] for place in document["merit_order"]]
    rows = []
    for row in document["cleared"]:
        prices = {one["tier"]: show.price(one["price_mthb"]) for one in row["prices"]}
        begin, _, _ = show.slots(row["slot"], row["slot"]).partition(" to ")
        traded = show.kwh(row["sold_wh"]), show.kwh(row["bought_wh"])
        rows.append((begin, *traded, *(prices.get(tier, "-") for tier in tiers)))
    names = ("THB/kWh here", "zone", "territory", "nation")
    headings = ("cleared slot of", "kWh sold", "bought", *(names[tier] for tier in tiers))
    show.line(console, "")
    show.table(console, headings, rows, right=range(1, len(headings)))


def _outcome(row: dict[str, Any], buying: bool) -> str:
    if buying:
        return (
            f"pays {_thb(row['buyer_uthb'])}: energy {show.millionths(row['energy_uthb'])}, "
            f"wheeling {show.millionths(row['wheeling_uthb'])}, "
            f"VAT {show.millionths(row['vat_uthb'])}"
        )
    return f"gets {_thb(row['seller_uthb'])} after a fee of {_thb(row['fee_uthb'])}"


def _thb(uthb: str) -> str:
    return f"{show.millionths(uthb)} THB"


@app.command()
def cancel(
    order_id: OrderId,
    key: remote.Key,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Take the rest of an own order off the book; its reserve comes back."""
    from gridtokenx.trading.model import CancelOrder

    wanted = remote.hash_text(order_id, "an order id")
    remote.account_key_path(key)
    with remote.connect(pinned=True) as client:
        chain = client.order(wanted).chain
        command = CancelOrder(bytes.fromhex(wanted))
        transaction = client.sign(remote.unlock(key, password_file), chain, command)
        found = remote.submit(client, transaction, wait=wait)
    closed = remote.event_of(found, "order_closed")
    document = {
        "order_id": wanted,
        "tx_id": found["tx_id"],
        "chain": chain,
        "status": closed.get("status", found["status"]),
        "height": found["height"],
        "rest_wh": closed.get("rest_wh"),
        "refund_uthb": closed.get("refund_uthb"),
    }

    def draw(console: Console) -> None:
        refund, rest = document["refund_uthb"], document["rest_wh"]
        show.fields(
            console,
            [
                ("order", wanted),
                ("state", document["status"]),
                ("untraded", None if rest is None else f"{show.kwh(rest)} kWh"),
                ("back", None if refund is None else f"{show.millionths(refund)} THB"),
                ("transaction", document["tx_id"]),
            ],
        )

    output.emit(document, draw)


@app.command("list")
def list_orders(
    trader: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only this account's: gtx1..., or a key.")
    ] = None,
    status: Annotated[str, typer.Option(help="open, closed or all.")] = "open",
    zone: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Substation, zone or territory.")
    ] = None,
    side: Annotated[str | None, typer.Option(help="buy or sell.")] = None,
    chain: remote.Chain = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Orders of a chain, newest first; closed ones by trader."""
    from gridtokenx.primitives.types import format_address

    who = None if trader is None else format_address(remote.address_of(trader))
    with remote.connect() as client:
        document = client.call(
            "energy_getOrders",
            trader=who,
            status=status,
            zone=None if zone is None else remote.place_name(zone),
            side=None if side is None else _side(side).name.lower(),
            chain=chain,
            limit=limit,
            cursor=cursor,
        )
    output.emit(document, lambda console: _draw_list(console, document))


def _draw_list(console: Console, document: dict[str, Any]) -> None:
    rows = [
        (
            row["order_type"],
            show.kwh(row["rest_wh"]),
            show.kwh(row["energy_wh"]),
            show.price(row["limit_mthb"]),
            row["energy_source"] + (" only" if row["require"] else ""),
            row["grid_location"],
            show.slots(row["first_slot"], row["last_slot"]),
            row["status"],
            row["order_id"],
        )
        for row in document["items"]
    ]
    if not rows:
        show.nothing(console, document, "such orders")
    else:
        headings = ("side", "rest kWh", "of", "THB/kWh", "source", "at", "slots", "status", "order")
        show.table(console, headings, rows, right=(1, 2, 3))
    show.next_page(console, document["next_cursor"])


@app.command()
def get(order_id: OrderId, chain: remote.Chain = None) -> None:
    """An order and what became of it."""
    wanted = remote.hash_text(order_id, "an order id")
    with remote.connect() as client:
        document = client.call("energy_getOrder", id=wanted, chain=chain)
    output.emit(document, lambda console: _draw_order(console, document))


def _draw_order(console: Console, row: dict[str, Any]) -> None:
    closed, refund = row["closed_ms"], row["refund_uthb"]
    reserve = "bond" if row["order_type"] == "sell" else "escrow"
    show.fields(
        console,
        [
            ("order", row["order_id"]),
            ("state", row["status"] + (", kept back by the grid" if row["congested"] else "")),
            ("trader", row["trader"]),
            ("side", row["order_type"]),
            (
                "energy",
                f"{show.kwh(row['energy_wh'])} kWh, traded {show.kwh(row['filled_wh'])}, "
                f"rest {show.kwh(row['rest_wh'])}",
            ),
            ("limit", f"{show.price(row['limit_mthb'])} THB/kWh"),
            ("source", row["energy_source"] + (", required" if row["require"] else "")),
            ("meter", f"{row['meter_id']} at {row['grid_location']}"),
            (
                "slots",
                f"{row['first_slot']} to {row['last_slot']} "
                f"({show.slots(row['first_slot'], row['last_slot'])} Bangkok), "
                f"at most {show.kwh(row['max_wh_per_slot'])} kWh in each",
            ),
            ("expires", show.moment(row["expires_ms"])),
            ("placed", f"{row['chain']} #{row['height']}, {show.moment(row['placed_ms'])}"),
            ("closed", None if closed is None else show.moment(closed)),
            (reserve, f"{show.millionths(row['reserve_uthb'])} THB"),
            ("back", None if refund is None else f"{show.millionths(refund)} THB"),
        ],
    )


@app.command()
def book(
    place_name: Annotated[
        str | None, typer.Argument(metavar="[ZONE]", help="Substation, zone or territory.")
    ] = None,
    zone: Annotated[str | None, typer.Option(metavar="ZONE", help="The same.")] = None,
    slot: Annotated[
        int | None, typer.Option(min=0, help="Only what may trade in this slot.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=100, help="Price levels a side.")] = 10,
) -> None:
    """The order book of a zone: energy by price, sellers above buyers."""
    chosen = zone or place_name
    if chosen is None or (zone and place_name and zone != place_name):
        raise typer.BadParameter("one zone, such as: gridtokenx orders book --zone BKK-01")
    name = remote.place_name(chosen)
    with remote.connect() as client:
        document = client.call("energy_getOrderBook", zone=name, slot=slot, depth=depth)
    output.emit(document, lambda console: _draw_book(console, document))


def _draw_book(console: Console, document: dict[str, Any]) -> None:
    levels = [("sell", level) for level in reversed(document["asks"])]
    levels += [("buy", level) for level in document["bids"]]
    most_wh = max((int(level["energy_wh"]) for _, level in levels), default=1)
    rows = [
        (
            side,
            show.price(level["price_mthb"]),
            show.kwh(level["energy_wh"]),
            level["orders"],
            "█" * max(1, int(level["energy_wh"]) * 20 // most_wh),
        )
        for side, level in levels
    ]
    title = f"{document['zone']} on {document['chain']} at block {document['height']}"
    if document["slot"] is not None:
        title += f", slot {show.slots(document['slot'], document['slot'])} Bangkok"
    if not rows:
        show.line(console, f"{show.printable(title)}: no open orders")
        return
    headings = ("side", "THB/kWh", "kWh", "orders", "depth")
    show.table(console, headings, rows, title=show.printable(title), right=(1, 2, 3))


@app.command()
def market(
    zone: Annotated[
        str | None, typer.Argument(metavar="[ZONE]", help="Substation, zone or territory.")
    ] = None,
    chain: remote.Chain = None,
) -> None:
    """The slots open for orders and the price band now."""
    place_name = None if zone is None else remote.place_name(zone)
    with remote.connect() as client:
        document = client.call("energy_getMarket", zone=place_name, chain=chain)

    def draw(console: Console) -> None:
        first, last = document["first_open_slot"], document["last_open_slot"]
        low, high = show.price(document["min_price_mthb"]), show.price(document["max_price_mthb"])
        show.fields(
            console,
            [
                ("chain", f"{document['chain']} at block {document['height']}"),
                ("market time", show.zoned(document["market_ms"])),
                ("open slots", f"{first} to {last} ({show.slots(first, last)} Bangkok)"),
                ("price band", f"{low} to {high} THB/kWh{', peak' if document['peak'] else ''}"),
                ("peak hours", document["peak_hours"]),
            ],
        )

    output.emit(document, draw)


def _side(text: str) -> Side:
    from gridtokenx.trading.model import Side

    named = {side.name.lower(): side for side in Side}.get(text.strip().lower())
    if named is None:
        raise typer.BadParameter(f"buy or sell, not {text!r}", param_hint="--side")
    return named


def _source(text: str) -> Source:
    from gridtokenx.trading.model import Source

    try:
        return Source(text.strip().lower().replace("-", "_"))
    except ValueError:
        known = ", ".join(source.value for source in Source)
        raise typer.BadParameter(f"one of {known}, not {text!r}", param_hint="--source") from None
