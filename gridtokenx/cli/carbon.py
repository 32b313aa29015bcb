"""`gridtokenx carbon ...`: retire credits, and the certificate as JSON or as a page to print."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.keys import PasswordFile
from gridtokenx.runtime.screen import printable

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Carbon credits: retire, certificate.", no_args_is_help=True)

_ID = re.compile(r"[A-Z0-9]{2,8}-[1-9][0-9]{0,14}")
MAX_BENEFICIARY = 200


@app.command()
def retire(
    credits_: Annotated[
        str, typer.Option("--credits", metavar="N", help="How many, at most 6 decimals.")
    ],
    key: remote.Key,
    beneficiary: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TEXT", help="For whom or what; only its hash goes on chain."
        ),
    ] = None,
    chain: remote.Chain = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Burn own credits for good and get a certificate."""
    from gridtokenx.ledger.model import RetireCredits
    from gridtokenx.primitives.errors import ErrorCode, Rejected
    from gridtokenx.primitives.quantities import parse_thb

    try:
        amount_ucr = parse_thb(credits_)  # Credits have six decimals as baht have.
    except Rejected as error:
        raise Rejected(error.code, error.detail.replace("THB", "credits")) from None
    if not amount_ucr:
        raise Rejected(ErrorCode.AMOUNT_OUT_OF_RANGE, "0 credits retire nothing")
    payload = RetireCredits(amount_ucr, _hash_of(beneficiary))
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        document = remote.command(client, name, payload, key, password_file, wait=wait)
    retired = remote.event_of(document, "credits_retired")
    number = retired.get("certificate")
    document["certificate"] = None if number is None else f"{document['chain']}-{number}"

    def draw(console: Console) -> None:
        remote.draw_command(console, document)
        if document["certificate"]:
            text = f"gridtokenx carbon certificate {document['certificate']} --html FILE"
            show.line(console, f"see: {text}")

    output.emit(document, draw)


@app.command()
def certificate(
    certificate_id: Annotated[str, typer.Argument(metavar="ID", help="Such as MET-1.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page to print; one file.")
    ] = None,
    beneficiary: Annotated[
        str | None,
        typer.Option("--for", metavar="TEXT", help="Shown if it is the text that was hashed."),
    ] = None,
) -> None:
    """A certificate of retired credits."""
    wanted = certificate_id.strip().upper()
    if _ID.fullmatch(wanted) is None:
        raise typer.BadParameter(f"a certificate such as MET-1, not {certificate_id[:40]!r}")
    with remote.connect() as client:
        document = client.call("energy_getCertificate", id=wanted)
    if beneficiary is not None and document["beneficiary_hash"] != _hash_of(beneficiary).hex():
        output.fail(
            f"certificate {wanted} was not retired for {beneficiary!r}",
            code="cli",
            reason="other_beneficiary",
            hint="the text must be the one given to --for when it was retired, letter by letter",
        )
    document["beneficiary"] = beneficiary
    if html is not None:
        html.write_text(page(document), encoding="utf-8")
        output.note(f"written to {html}")
    output.emit(document, lambda console: show.fields(console, _fields(document)))


def _hash_of(beneficiary: str | None) -> bytes:
    """What the chain keeps of the text: SHA-256, or zeros for the owner."""
    from gridtokenx.primitives.crypto import ZERO_HASH, sha256

    if beneficiary is None:
        return ZERO_HASH
    if not 1 <= len(beneficiary) <= MAX_BENEFICIARY or not beneficiary.isprintable():
        detail = f"1 to {MAX_BENEFICIARY} printable characters, not {beneficiary[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--for")
    return sha256(beneficiary.encode())


def _fields(document: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("certificate", document["id"]),
        ("credits", show.millionths(document["amount_ucr"])),
        ("retired", show.zoned(document["retired_ms"])),
        ("owner", document["owner"]),
        ("for", document["beneficiary"]),
        ("hash of for", document["beneficiary_hash"]),
        ("network", f"{document['network']}, chain {document['chain']} {document['chain_id']}"),
    ]


def page(document: dict[str, Any]) -> str:
    """The certificate as one HTML file that loads nothing and prints on one page."""
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(printable(value))}</td></tr>"
        for name, value in _fields(document)
        if value is not None
    )
    amount = escape(show.millionths(document["amount_ucr"]))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Carbon certificate {escape(document["id"])}</title>
<style>
@page {{ size: A4; margin: 20mm; }}
body {{ font: 12pt/1.5 serif; max-width: 170mm; margin: 2em auto; color: #111; }}
main {{ border: 3px double #186a3b; padding: 2em; }}
h1 {{ font-size: 20pt; margin: 0; color: #186a3b; }}
p.amount {{ font-size: 28pt; margin: .5em 0; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ text-align: left; vertical-align: top; padding: .3em 1em .3em 0; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; padding: .3em 0; }}
footer {{ font-size: 9pt; color: #444; margin-top: 2em; }}
</style>
</head>
<body>
<main>
<h1>Certificate of retired carbon credits</h1>
<p class="amount">{amount} credits</p>
<table>
{rows}
</table>
<footer>These are platform credits of the network named above, issued for metered renewable
energy and burned for good. They are not T-VER and not tonnes of CO2e. To check this page against
the chain: gridtokenx carbon certificate {escape(document["id"])}</footer>
</main>
</body>
</html>
"""
