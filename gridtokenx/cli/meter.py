"""`gridtokenx grid meter ...`: a metering point, and what authorities do in its life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from gridtokenx.registry.model import MeterCommand

app = typer.Typer(
    help="Meters: show; replace, retire by the distributor; suspend, reinstate by it or the "
    "regulator; approve by the regulator.",
    no_args_is_help=True,
)

MeterId = Annotated[str, typer.Argument(metavar="METER", help="Its id, 64 hex digits.")]
ImportKwh = Annotated[
    str, typer.Option("--import-kwh", metavar="KWH", help="What its import register shows.")
]
ExportKwh = Annotated[
    str, typer.Option("--export-kwh", metavar="KWH", help="What its export register shows.")
]


@app.command("show")
def show_meter(
    meter: Annotated[
        str, typer.Argument(metavar="METER", help="Its id, or the key of any of its devices.")
    ],
    chain: remote.Chain = None,
) -> None:
    """A metering point: whose, where, its device's key, and whether its readings count."""
    wanted = remote.hash_text(meter, "a meter")
    with remote.connect() as client:
        document = client.call("grid_getMeter", id=wanted, chain=chain)
    output.emit(document, lambda console: _draw(console, document))


def _draw(console: Console, document: dict[str, Any]) -> None:
    meter, slot = document["meter"], document["read_to_slot"]
    by = f" by {meter['suspended_by']}" if meter["suspended_by"] else ""
    show.fields(
        console,
        [
            ("meter", meter["meter_id"]),
            ("state", meter["status"] + by),
            ("device's key", meter["key"]),
            ("owner", f"{meter['owner']} on {document['chain']}"),
            ("at", meter["location"]),
            ("source", meter["source"]),
            ("nameplates", _nameplates(meter)),
            ("read to", "never" if slot is None else f"{show.slots(slot, slot)} Bangkok"),
        ],
    )


def _nameplates(meter: dict[str, Any]) -> str:
    into, out = (int(meter[f"nameplate_{way}_w"]) for way in ("import", "export"))
    return f"import {into:,} W, export {out:,} W"


@app.command()
def replace(
    meter: MeterId,
    new_key: Annotated[str, typer.Option(metavar="HEX", help="Key of the new device.")],
    old_import_kwh: Annotated[
        str, typer.Option(metavar="KWH", help="Last import register of the old device.")
    ],
    old_export_kwh: Annotated[
        str, typer.Option(metavar="KWH", help="Last export register of the old device.")
    ],
    key: remote.Key,
    new_import_kwh: Annotated[
        str, typer.Option(metavar="KWH", help="First import register of the new device.")
    ] = "0",
    new_export_kwh: Annotated[
        str, typer.Option(metavar="KWH", help="First export register of the new device.")
    ] = "0",
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Another device at a metering point; orders and trades stay. For its distributor."""
    from gridtokenx.registry.model import ReplaceMeter

    device = bytes.fromhex(remote.hash_text(new_key, "a device's key"))
    old = _registers(old_import_kwh, old_export_kwh)
    new = _registers(new_import_kwh, new_export_kwh)
    _send(
        lambda meter_id: ReplaceMeter(meter_id, device, *old, *new),
        meter,
        key,
        chain,
        password_file,
        wait=wait,
    )


@app.command()
def retire(
    meter: MeterId,
    import_kwh: ImportKwh,
    export_kwh: ExportKwh,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """End a metering point, with its last registers. For its distributor."""
    from gridtokenx.registry.model import RetireMeter

    shown = _registers(import_kwh, export_kwh)
    _send(
        lambda meter_id: RetireMeter(meter_id, *shown), meter, key, chain, password_file, wait=wait
    )


@app.command()
def suspend(
    meter: MeterId,
    reason: remote.Reason,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Let nothing count that a meter says; its open orders are cancelled and refunded."""
    from gridtokenx.registry.model import SuspendMeter

    why = remote.reason_text(reason)
    _send(lambda meter_id: SuspendMeter(meter_id, why), meter, key, chain, password_file, wait=wait)


@app.command()
def reinstate(
    meter: MeterId,
    import_kwh: ImportKwh,
    export_kwh: ExportKwh,
    reason: remote.Reason,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """End a suspension, with the registers of now: what was counted meanwhile is never minted."""
    from gridtokenx.registry.model import ReinstateMeter

    shown, why = _registers(import_kwh, export_kwh), remote.reason_text(reason)
    _send(
        lambda meter_id: ReinstateMeter(meter_id, *shown, why),
        meter,
        key,
        chain,
        password_file,
        wait=wait,
    )


@app.command()
def approve(
    meter: MeterId,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Let a large plant's meter count. For the regulator."""
    from gridtokenx.registry.model import ApproveMeter

    _send(ApproveMeter, meter, key, chain, password_file, wait=wait)


def _registers(import_kwh: str, export_kwh: str) -> tuple[int, int]:
    """Both registers in Wh. Errors: AMOUNT_OUT_OF_RANGE."""
    from gridtokenx.primitives.quantities import parse_kwh

    return parse_kwh(import_kwh), parse_kwh(export_kwh)


def _send(
    command: Callable[[bytes], MeterCommand],
    meter: str,
    key: str,
    chain: str | None,
    password_file: Path | None,
    *,
    wait: bool,
) -> None:
    """`command` makes the payload for a metering point.

    The node tells its chain; which meter is meant is not left to it.
    """
    from gridtokenx.primitives.codec import decode, encode

    named = remote.hash_text(meter, "a meter id")
    payload = command(bytes.fromhex(named))
    decode(type(payload), encode(payload))  # The wire's limits, told before it is signed.
    remote.account_key_path(key)
    with remote.connect(pinned=True) as client:
        found = client.meter(bytes.fromhex(named), chain)
        if found.meter["meter_id"] != named:
            detail = f"that is the key of a device; its meter is {found.meter['meter_id']}"
            raise typer.BadParameter(show.printable(detail), param_hint="METER")
        document = remote.command(client, found.chain, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))
