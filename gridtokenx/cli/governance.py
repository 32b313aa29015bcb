"""`gridtokenx governance ...` (`gov`): propose, vote, and see how votes stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, proposal_terms, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.transaction import Payload
    from gridtokenx.client import Client
    from gridtokenx.governance.model import Propose

app = typer.Typer(
    help="Votes by stake: propose, list, show, vote, votes, tally, params, approve, cancel. "
    "Short: gov.",
    no_args_is_help=True,
)

_LOST = ("energy_wh", "thb_uthb", "gtx_ugtx")
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Of the proposal.")]
_TYPES = ", ".join(proposal_terms.OPTIONS)


@app.command()
def propose(
    title: Annotated[str, typer.Option(metavar="TEXT", help="1 to 140 characters.")],
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help=f"One of {_TYPES}.")],
    description: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    parameter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as carbon_credits.solar.")
    ] = None,
    new_value: Annotated[
        str | None, typer.Option(metavar="VALUE", help="In the parameter's unit: 0.7.")
    ] = None,
    min_price: Annotated[str | None, typer.Option(metavar="THB", help="THB/kWh.")] = None,
    max_price: Annotated[str | None, typer.Option(metavar="THB", help="THB/kWh.")] = None,
    peak_multiplier: Annotated[str | None, typer.Option(metavar="N", help="Such as 1.5.")] = None,
    effective: Annotated[
        str | None, typer.Option(metavar="DAY", help="2026-12-01[T06:00], Bangkok; else at once.")
    ] = None,
    rate: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=N", help="Credits/kWh; may be repeated.")
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="NAME", help="A chain: NOR.")] = None,
    change: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="add, remove, suspend, reinstate or rotate."),
    ] = None,
    organisation: Annotated[str | None, typer.Option(metavar="NAME", help="Such as pea.")] = None,
    public_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The node's consensus key.")
    ] = None,
    new_public_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="For rotate: the key after it.")
    ] = None,
    new_operator: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Account key that signs for an organisation then."),
    ] = None,
    weight: Annotated[int | None, typer.Option(min=1, help="For add.")] = None,
    territory: Annotated[str | None, typer.Option(metavar="PREFIX", help="Such as BKK.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Of an emergency.")] = None,
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of a halt: 30m, 4h, at most 7d.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Who is paid by the treasury.")
    ] = None,
    amount: Annotated[str | None, typer.Option(metavar="GTX", help="What it is paid.")] = None,
    release: Annotated[str | None, typer.Option(metavar="VERSION", help="Such as 0.2.0.")] = None,
    height: Annotated[
        int | None,
        typer.Option(
            min=0, help="Block a release is needed from, or a region goes on from (else newest)."
        ),
    ] = None,
    hash_: Annotated[
        str | None,
        typer.Option("--hash", metavar="HEX", help="Of the block that a region goes on from."),
    ] = None,
    authority: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORG=KEY[:WEIGHT]", help="Who signs a region from then on; repeated for each."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show old and new values; sign nothing.")
    ] = False,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Put something to the vote. Takes a deposit, which comes back, and a fee.

    What the type needs is asked for; a wrong name or value is refused before anything is signed.
    """
    given = {
        "parameter": parameter,
        "new-value": new_value,
        "min-price": min_price,
        "max-price": max_price,
        "peak-multiplier": peak_multiplier,
        "effective": effective,
        "rate": rate,
        "region": region,
        "change": change,
        "organisation": organisation,
        "public-key": public_key,
        "new-public-key": new_public_key,
        "new-operator": new_operator,
        "weight": weight,
        "territory": territory,
        "reason": reason,
        "duration": duration,
        "to": to,
        "amount": amount,
        "release": release,
        "height": height,
        "hash": hash_,
        "authority": authority,
    }
    if proposal_terms.needs_base(type_, given):
        given |= _newest_base(given)
    payload = _proposal(title, description, type_, given)
    if dry_run:
        with remote.connect() as client:
            preview = _simulate(client, payload, None)
        output.emit(preview, lambda console: _draw_preview(console, preview))
        return
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        for line in _preview_lines(_simulate(client, payload, signer)):
            output.note(line)
        document = remote.command(client, client.national(), payload, signer, password, wait=wait)
    number = remote.event_of(document, "proposal_submitted").get("proposal")
    document["proposal"] = number

    def draw(console: Console) -> None:
        remote.draw_command(console, document)
        if number is not None:
            show.line(console, f"see: gridtokenx governance show {number}")

    output.emit(document, draw)


def _proposal(title: str, description: str, kind: str, given: dict[str, Any]) -> Propose:
    from gridtokenx.governance.model import MAX_DESCRIPTION_BYTES, Propose

    if not 1 <= len(title.encode()) <= 140 or not title.isprintable():
        raise typer.BadParameter("1 to 140 bytes on one line", param_hint="--title")
    if len(description.encode()) > MAX_DESCRIPTION_BYTES:
        detail = f"at most {MAX_DESCRIPTION_BYTES} bytes"
        raise typer.BadParameter(detail, param_hint="--description")
    return Propose(title, description, proposal_terms.content_of(kind, given))


def _newest_base(given: dict[str, Any]) -> dict[str, Any]:
    """Height and hash of the newest block that the national chain has accepted of a region."""
    with remote.connect() as client:
        base = client.call("shard_get", id=given["region"].strip().upper())["checkpoint"]
    return {"height": int(base["height"]), "hash": base["hash"]}


def _simulate(client: Client, payload: Propose, signer: str | None) -> dict[str, Any]:
    """What the node says it would do. Errors: what it would be refused with."""
    from gridtokenx.primitives.document import to_document
    from gridtokenx.primitives.types import format_address

    client.national()
    proposer = None if signer is None else format_address(remote.address_of(signer))
    content = to_document(payload.content, text_integers=True)
    found: dict[str, Any] = client.call(
        "gov_simulateProposal",
        content=content,
        proposer=proposer,
        title=payload.title,
        description=payload.description or None,
    )
    return found


def _preview_lines(preview: dict[str, Any]) -> list[str]:
    lines = [show.printable(preview["summary"])] if not preview["changes"] else []
    lines += [
        show.printable(f"{one['parameter']}: {one['old']} -> {one['new']} {one['unit']}")
        for one in preview["changes"]
    ]
    if preview["lost"] is not None:
        lost = _told_lost(preview["lost"])
        lines.append(f"lost, as it has left the region since that block: {lost}")
    deposit, fee = (show.millionths(preview[name]) for name in ("deposit_ugtx", "fee_ugtx"))
    lines.append(f"deposit {deposit} GTX, fee {fee} GTX")
    return lines


def _draw_preview(console: Console, preview: dict[str, Any]) -> None:
    for line in _preview_lines(preview):
        show.line(console, line)
    executes = preview["executes_ms"]
    show.fields(
        console,
        [
            ("acts on", ", ".join(preview["chains"])),
            ("vote ends", show.zoned(preview["voting_ends_ms"])),
            ("in force", None if executes is None else show.zoned(executes)),
            ("must approve", ", ".join(preview["approvers"]) or None),
        ],
    )
    show.line(console, "nothing was signed or sent")


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
            ("lost", _told_lost(document["lost"])),
            ("proposer", document["proposer"]),
            ("vote ends", None if ends is None else show.zoned(ends)),
            ("in force", None if executes is None else show.zoned(executes)),
            ("ballots", document["ballots"]),
        ],
    )
    _draw_tally(console, document["tally"])
    if document["description"]:
        for line in document["description"].splitlines():
            show.line(console, show.printable(line))


def _told_lost(lost: dict[str, Any] | None) -> str | None:
    if lost is None:
        return None
    return ", ".join(show.field(name, lost[name])[1] for name in _LOST)


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
            ("took part", f"{_percent(tally['turnout_bps'])} % of what is bonded"),
            (
                "support",
                f"{_percent(tally['support_bps'])} % of what is bonded says yes, "
                f"{_percent(tally['quorum_bps'])} % needed",
            ),
            (
                "yes share",
                f"{_percent(tally['yes_bps'])} % of yes and no, "
                f"{_percent(tally['approval_bps'])} % needed",
            ),
            ("authorities", ", ".join(approvers) or None),
            ("ended" if tally["final"] else "as of now", tally["outcome"]),
        ],
    )


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02}"


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
