"""`gridtokenx grid ...`: what the grid carries, and what its operators say and do."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import meter, output, remote, show
from gridtokenx.cli.keys import PasswordFile
from gridtokenx.primitives.places import ZONE, territory_of

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.client import Client

app = typer.Typer(
    help="The grid: status, zones, zone, meter; publish, halt, resume by authorities.",
    no_args_is_help=True,
)
app.add_typer(meter.app, name="meter")

_ZONE = re.compile(ZONE)
_HEADINGS = (
    *("node", "state", "loading %", "limit %", "rating kVA", "headroom kWh"),
    *("out kWh", "in kWh", "local kWh", "today kWh"),
)
_RIGHT = tuple(range(2, len(_HEADINGS)))

Territory = Annotated[str, typer.Argument(metavar="TERRITORY", help="Such as BKK.")]
Slot = Annotated[
    int | None,
    typer.Option(min=0, help="The slot whose status and flows are shown; else the current."),
]


@app.command()
def status(
    territory: Annotated[
        str | None, typer.Argument(metavar="[TERRITORY]", help="Such as BKK.")
    ] = None,
    chain: remote.Chain = None,
    slot: Slot = None,
) -> None:
    """Territories and substations: state, loading, headroom for a slot, energy sold over them."""
    wanted = None if territory is None else territory_of(remote.place_name(territory))
    with remote.connect() as client:
        document = client.call("grid_getStatus", chain=chain, slot=slot)
    if wanted is not None:
        document["territories"] = [
            row for row in document["territories"] if row["territory"] == wanted
        ]
        if not document["territories"]:
            output.fail(
                f"the node's chains serve no territory {wanted}",
                code=4001,
                reason="unknown_zone",
                hint="gridtokenx grid status",
            )
    output.emit(document, lambda console: _draw_status(console, document))


def _draw_status(console: Console, document: dict[str, Any]) -> None:
    rows = []
    for territory in document["territories"]:
        rows.append(_row(territory))
        rows += [_row(one) for one in territory["substations"]]
    show.table(console, _HEADINGS, rows, right=_RIGHT)
    for territory in document["territories"]:
        if territory["emergency"] is not None:
            text = f"no trade in {territory['territory']}: {territory['emergency']}"
            show.line(console, show.printable(text), style="bold red")


@app.command()
def zones(chain: remote.Chain = None, slot: Slot = None) -> None:
    """Zones with their state, loading, headroom and energy sold over them."""
    with remote.connect() as client:
        document = client.call("grid_getZones", chain=chain, slot=slot)
    rows = [_row(one) for one in document["items"]]
    output.emit(document, lambda console: show.table(console, _HEADINGS, rows, right=_RIGHT))


@app.command()
def zone(
    name: Annotated[str, typer.Argument(metavar="ZONE", help="Such as BKK-01.")], slot: Slot = None
) -> None:
    """One zone and its substations."""
    wanted = name.strip().upper()
    if _ZONE.fullmatch(wanted) is None:
        raise typer.BadParameter(f"a zone such as BKK-01, not {name[:80]!r}")
    with remote.connect() as client:
        document = client.call("grid_getZone", zone=wanted, slot=slot)
    rows = [_row(document["zone"]), *(_row(one) for one in document["substations"])]
    output.emit(document, lambda console: show.table(console, _HEADINGS, rows, right=_RIGHT))


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    flow, rating, headroom = node["flow"], node["rating_va"], node["headroom_wh"]
    return (
        node["node"],
        node["state"] + (", stale" if node["stale"] else ""),
        show.percent(node["loading_bps"]),
        show.percent(node["limit_bps"]),
        "-" if rating is None else f"{int(rating) // 1000:,}",
        "no limit" if headroom is None else show.kwh(headroom),
        show.kwh(flow["export_wh"]),
        show.kwh(flow["import_wh"]),
        show.kwh(flow["local_wh"]),
        show.kwh(sum(int(wh) for wh in node["flow_day"].values())),
    )


@app.command()
def publish(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Substation, zone or territory.")],
    loading: Annotated[str, typer.Option(metavar="PERCENT", help="Of the rating: 118.5.")],
    rating_kva: Annotated[str, typer.Option(metavar="KVA", help="What it is built for.")],
    key: remote.Key,
    limit: Annotated[str, typer.Option(metavar="PERCENT", help="Up to which is sold.")] = "100",
    frequency: Annotated[str, typer.Option(metavar="HZ", help="Measured there.")] = "50",
    voltage: Annotated[str, typer.Option(metavar="PERCENT", help="Of nominal.")] = "100",
    slot: Annotated[int | None, typer.Option(min=0, help="Its slot; else the current one.")] = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Publish what a node carries. For the territory's distributor."""
    from gridtokenx.grid.model import PublishGridStatus
    from gridtokenx.primitives.codec import decode, encode

    place = remote.place_name(node)
    loading_bps, limit_bps = _scaled("--loading", loading, 2), _scaled("--limit", limit, 2)
    rating_va, voltage_bps = (
        _scaled("--rating-kva", rating_kva, 3),
        _scaled("--voltage", voltage, 2),
    )
    frequency_mhz = _scaled("--frequency", frequency, 3)
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, None, place)
        chosen = _current_slot(client, name) if slot is None else slot
        payload = PublishGridStatus(
            place, chosen, loading_bps, rating_va, frequency_mhz, voltage_bps, limit_bps
        )
        decode(PublishGridStatus, encode(payload))  # The wire's limits, told before it is signed.
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))


def _current_slot(client: Client, chain: str) -> int:
    """Where a slot is a block, the next one: the current one is over when this gets there."""
    by_blocks = client.genesis().market_clock.ms_per_block > 0
    return client.market(chain).current_slot + by_blocks


@app.command()
def halt(
    territory: Territory,
    reason: remote.Reason,
    key: remote.Key,
    hours: Annotated[
        str | None, typer.Option(metavar="H", help="How long; else until it is resumed.")
    ] = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Stop matching and new orders in a territory. For its distributor or the regulator."""
    from gridtokenx.grid.model import HaltTerritory

    prefix, why = _territory(territory), remote.reason_text(reason)
    lasts_ms = 0 if hours is None else _scaled("--hours", hours, 3) * 3600
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, None, prefix)
        until_ms = client.market(name).market_ms + lasts_ms if lasts_ms else 0
        payload = HaltTerritory(prefix, why, until_ms)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))


@app.command()
def resume(
    territory: Territory,
    reason: remote.Reason,
    key: remote.Key,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """End a halt; the regulator's is ended by the regulator alone."""
    from gridtokenx.grid.model import ResumeTerritory

    prefix, why = _territory(territory), remote.reason_text(reason)
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, None, prefix)
        payload = ResumeTerritory(prefix, why)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))


def _territory(text: str) -> str:
    name = remote.place_name(text)
    if len(name) != 3:
        raise typer.BadParameter(f"a territory such as BKK, not {text[:80]!r}")
    return name


def _scaled(option: str, text: str, decimals: int) -> int:
    """An exact whole number of the smaller unit."""
    try:
        scaled = Decimal(text).scaleb(decimals)
        if scaled != int(scaled) or not 0 <= scaled < 2**50:
            raise ValueError
    except (InvalidOperation, ValueError, OverflowError):
        detail = f"a number with at most {decimals} decimals, not {text[:40]!r}"
        raise typer.BadParameter(detail, param_hint=option) from None
    return int(scaled)
