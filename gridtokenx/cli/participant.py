"""`gridtokenx participant ...`: what authorities do about who may trade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gridtokenx.cli import output, remote
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from gridtokenx.registry.model import ReinstateParticipant, SuspendParticipant

app = typer.Typer(
    help="Participants, by their distributor or the regulator: suspend, reinstate.",
    no_args_is_help=True,
)


@app.command()
def suspend(
    address: remote.Address,
    reason: remote.Reason,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Stop an account from trading; its open orders are cancelled and refunded."""
    from gridtokenx.registry.model import SuspendParticipant

    _send(SuspendParticipant, address, reason, key, chain, password_file, wait=wait)


@app.command()
def reinstate(
    address: remote.Address,
    reason: remote.Reason,
    key: remote.Key,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """End a suspension; one by the regulator is ended by the regulator alone."""
    from gridtokenx.registry.model import ReinstateParticipant

    _send(ReinstateParticipant, address, reason, key, chain, password_file, wait=wait)


def _send(
    command: type[SuspendParticipant | ReinstateParticipant],
    address: str,
    reason: str,
    key: str,
    chain: str | None,
    password_file: Path | None,
    *,
    wait: bool,
) -> None:
    payload = command(remote.address_of(address), remote.reason_text(reason))
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))
