"""`gridtokenx governance ...` (`gov`): propose, vote, and see how votes stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, propose, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.transaction import Payload

app = typer.Typer(
    help="Votes by stake: propose, list, show, vote, votes, tally, params, approve, cancel. "
    "Short: gov.",
    no_args_is_help=True,
)

app.add_typer(propose.app, name="propose")

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Of the proposal.")]


@app.command("list")
def list_proposals(
    status: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="voting, queued, executed, failed, rejected, ..."),
    ] = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Proposals, newest first."""
    with remote.connect() as client:
        document = client.call("gov_getProposals", status=status, limit=limit, cursor=cursor)

    def draw(console: Console) -> None:
        rows = [
            (one["proposal"], one["status"], _until(one), one["type"], one["summary"], one["title"])
            for one in document["items"]
        ]
        if not rows:
            show.line(console, "no proposals")
        else:
            headings = ("no.", "status", "until", "type", "what", "title")
            show.table(console, headings, rows, right=(0,))
        show.next_page(console, document["next_cursor"])

    output.emit(document, draw)


def _until(one: dict[str, Any]) -> str:
    time_ms = one["voting_ends_ms"] or one["executes_ms"]
    return "" if time_ms is None else show.moment(time_ms)


@app.command("show")
def show_proposal(number: Number) -> None:
    """A proposal: its text, what it changes, and how the vote stands."""
    with remote.connect() as client:
        document = client.call("gov_getProposal", id=number)
    output.emit(document, lambda console: _draw_proposal(console, document))


def _draw_proposal(console: Console, document: dict[str, Any]) -> None:
    ends, executes = document["voting_ends_ms"], document["executes_ms"]
    show.fields(
        console,
        [
            ("proposal", f"{document['proposal']}: {document['title']}"),
            ("status", document["status"]),
            ("what", document["summary"]),
            *(
                ("changes", f"{one['parameter']}: {one['old']} -> {one['new']} {one['unit']}")
                for one in document["changes"]
            ),
            ("would fail", document["would_fail"]),
            ("lost", propose.told_lost(document["lost"])),
            ("proposer", document["proposer"]),
            ("vote ends", None if ends is None else show.zoned(ends)),
            ("in force", None if executes is None else show.zoned(executes)),
            ("ballots", document["ballots"]),
        ],
    )
    _draw_tally(console, document["tally"])
    if document["description"]:
        show.text(console, document["description"])


@app.command()
def tally(number: Number) -> None:
    """How a vote stands, by the stake of now, and what comes of it."""
    with remote.connect() as client:
        document = client.call("gov_getTally", id=number)
    output.emit(document, lambda console: _draw_tally(console, document))


def _draw_tally(console: Console, tally: dict[str, Any]) -> None:
    approvers = [
        f"{one['organisation']} {'yes' if one['approved'] else 'open'}"
        for one in tally["approvers"]
    ]
    show.fields(
        console,
        [
            ("yes", f"{show.millionths(tally['yes_ugtx'])} GTX"),
            ("no", f"{show.millionths(tally['no_ugtx'])} GTX"),
            ("abstain", f"{show.millionths(tally['abstain_ugtx'])} GTX"),
            ("took part", f"{show.percent(tally['turnout_bps'])} % of what is bonded"),
            (
                "support",
                f"{show.percent(tally['support_bps'])} % of what is bonded says yes, "
                f"{show.percent(tally['quorum_bps'])} % needed",
            ),
            (
                "yes share",
                f"{show.percent(tally['yes_bps'])} % of yes and no, "
                f"{show.percent(tally['approval_bps'])} % needed",
            ),
            ("authorities", ", ".join(approvers) or None),
            ("ended" if tally["final"] else "as of now", tally["outcome"]),
        ],
    )


@app.command()
def params(
    name: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Such as carbon_credits or pricing.min.")
    ] = "",
    chain: remote.Chain = None,
) -> None:
    """Every parameter that can be voted on: range, and the value in force."""
    with remote.connect() as client:
        document = client.call("gov_getParams", chain=chain)
    kept = [one for one in document["items"] if one["parameter"].startswith(name)]
    if not kept:
        from gridtokenx.governance import parameters as voted

        voted.find(name)  # Raises with the names that are nearest.
    document["items"] = kept

    def draw(console: Console) -> None:
        rows = [
            (
                one["parameter"],
                _in_force(one["values"]),
                " or ".join(one["choices"]) or f"{one['low']} to {one['high']}",
                one["unit"],
            )
            for one in kept
        ]
        show.table(console, ("parameter", "in force", "may be", "unit"), rows)

    output.emit(document, draw)


def _in_force(values: dict[str, str]) -> str:
    """One value, or each chain's while a change is on its way to some."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{chain} {value}" for chain, value in values.items())


@app.command()
def votes(number: Number, limit: remote.Limit = 20, cursor: remote.Cursor = None) -> None:
    """The ballots of a vote that is open; of one that has ended there is the tally."""
    with remote.connect() as client:
        document = client.call("gov_getVotes", id=number, limit=limit, cursor=cursor)

    def draw(console: Console) -> None:
        rows = [
            (one["choice"], show.millionths(one["power_ugtx"]), one["voter"])
            for one in document["items"]
        ]
        show.table(console, ("vote", "GTX then", "voter"), rows, right=(1,))
        show.next_page(console, document["next_cursor"])

    output.emit(document, draw)


@app.command()
def vote(
    number: Number,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="yes, no or abstain.")],
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Vote with all own bonded gtx; a later vote replaces it."""
    from gridtokenx.governance.model import Choice, Vote

    known = [one.value for one in Choice]
    if choice.strip().lower() not in known:
        raise typer.BadParameter(f"one of {', '.join(known)}, not {choice[:40]!r}")
    _send(Vote(number, Choice(choice.strip().lower())), key, password_file, wait=wait)


@app.command()
def approve(
    number: Number,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Approve for an authority, with its operator key."""
    from gridtokenx.governance.model import ApproveAsAuthority

    _send(ApproveAsAuthority(number), key, password_file, wait=wait)


@app.command()
def cancel(
    number: Number,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Take back an own proposal before anybody has voted; its deposit returns."""
    from gridtokenx.governance.model import CancelProposal

    _send(CancelProposal(number), key, password_file, wait=wait)


def _send(payload: Payload, key: str | None, password_file: Path | None, *, wait: bool) -> None:
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        document = remote.command(client, client.national(), payload, signer, password, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))
