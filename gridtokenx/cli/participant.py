"""`gridtokenx participant ...`: what authorities do about who may trade."""

from __future__ import annotations

import typer

from gridtokenx.cli import output, remote
from gridtokenx.cli.keys import PasswordFile

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

    account = remote.address_of(address)
    payload = SuspendParticipant(account, remote.reason_text(reason))
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))


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

    account = remote.address_of(address)
    payload = ReinstateParticipant(account, remote.reason_text(reason))
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))
