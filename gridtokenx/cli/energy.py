"""`gridtokenx energy ...`: readings, for those who may see them, and carbon credits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.answers.settlement import ReadingPage

app = typer.Typer(help="Energy of an account: carbon, readings.", no_args_is_help=True)


@app.command()
def carbon(address: remote.Address, chain: remote.Chain = None) -> None:
    """Carbon credits an account holds, and the certificates of those it retired."""
    from gridtokenx.primitives.types import format_address

    who = format_address(remote.address_of(address))
    with remote.connect() as client:
        document = client.call("energy_getCarbon", address=who, chain=chain)

    def draw(console: Console) -> None:
        show.line(console, show.printable(document["address"]))
        show.line(console, f"{show.millionths(document['carbon_ucr'])} credits")
        rows = [
            (one["id"], show.millionths(one["amount_ucr"]), show.moment(one["retired_ms"]))
            for chain_row in document["chains"]
            for one in chain_row["certificates"]
        ]
        if rows:
            show.table(console, ("certificate", "credits", "retired (Bangkok)"), rows, right=(1,))

    output.emit(document, draw)


@app.command()
def readings(
    address: remote.Address,
    key: remote.Key,
    chain: remote.Chain = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
    password_file: PasswordFile = None,
) -> None:
    """Accepted meter readings. The request is signed: owner, distributor and regulator see them."""
    from gridtokenx.primitives.types import format_address

    remote.account_key_path(key)
    params = {"address": format_address(remote.address_of(address)), "limit": str(limit)}
    with remote.connect(pinned=True) as client:
        params["chain"] = remote.default_chain(client, chain)
        if cursor is not None:
            params["cursor"] = cursor
        signer = remote.unlock(key, password_file)
        page = client.meter_readings(signer, **params)
    output.emit(page, lambda console: _draw_readings(console, page))


def _draw_readings(console: Console, page: ReadingPage) -> None:
    rows = [
        (
            show.slots(row.slot, row.slot),
            row.location,
            show.kwh(row.import_wh),
            show.kwh(row.export_wh),
            show.millionths(row.carbon_ucr),
            row.height,
            row.meter_id.hex(),
        )
        for row in page.items
    ]
    meters = [
        (
            one.location,
            one.status.value,
            show.kwh(one.import_wh_cum),
            show.kwh(one.export_wh_cum),
            show.slots(one.slot, one.slot),
            one.meter_id.hex(),
        )
        for one in page.meters
    ]
    if meters:
        columns = ("meter at", "state", "in kWh", "out kWh", "at the end of", "id")
        show.table(console, columns, meters, right=(2, 3))
    if rows:
        headings = ("slot", "at", "in kWh", "out kWh", "credits", "block", "meter")
        show.table(console, headings, rows, right=(2, 3, 4, 5))
    else:
        show.line(console, f"no readings on {show.printable(page.chain)}")
    show.next_page(console, page.next_cursor)
