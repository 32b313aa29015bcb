"""`gridtokenx audit ...`: settlement reports, and a chain recomputed from its blocks alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, replaying, show
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.runtime import bangkok, screen

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.replay import CheckedReport, Replay
    from gridtokenx.chain.replay_national import NationalReplay
    from gridtokenx.client import Client

app = typer.Typer(help="Audit: report, verify.", no_args_is_help=True)

_TIERS = ("substation", "zone", "territory", "national")
_HEAD = ("territory", "distributor", "date", "state", "report_hash", "line")


@app.command()
def report(
    territory: Annotated[str, typer.Option(metavar="NAME", help="BKK, or a distributor: MEA.")],
    day: Annotated[
        str | None, typer.Option(metavar="DATE", help="Bangkok day 2026-03-16; else today.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
) -> None:
    """A day's settlement reports: energy by source and tier, money, credits, participants."""
    if as_csv and output.options().json:
        raise typer.BadParameter("--csv and --json are two forms of one document: take one")
    with remote.connect() as client:
        document = client.call("audit_getReports", territory=territory, day=day)
    if as_csv:
        screen.write(screen.lines(_csv_text(document["items"])))
        return
    output.emit(document, lambda console: _draw_reports(console, document["items"]))


def _csv_text(items: list[dict[str, Any]]) -> str:
    """One line a kind of trade, a kind of production, and the day's totals; amounts in smallest
    units, as the column names say."""
    rows = [row for item in items for row in _csv_rows(item)]
    names = list(_HEAD)
    for row in rows:
        names += [name for name in row if name not in names]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_rows(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    head = {name: item[name] for name in _HEAD if name != "line"}
    found = item["report"]
    parts = [("trade", one) for one in found["lines"]]
    parts += [("production", one) for one in found["production"]]
    parts.append(("totals", found["totals"]))
    for line, part in parts:
        values = {name: value for name, value in part.items() if name != "kind"}
        if "tier" in values:
            values["tier"] = _TIERS[int(values["tier"])]
        yield {**head, "line": line, **values}


def _draw_reports(console: Console, items: list[dict[str, Any]]) -> None:
    for item in items:
        found = item["report"]
        totals = found["totals"]
        title = f"{item['territory']} ({item['distributor']}) {item['date']}: {item['state']}"
        show.line(console, show.printable(title), style="bold")
        rows = [
            (
                _TIERS[int(one["tier"])],
                one["source"],
                one["trades"],
                *(show.kwh(one[name]) for name in ("traded_wh", "delivered_wh")),
                *(
                    show.millionths(one[f"{name}_uthb"])
                    for name in ("energy", "wheeling", "vat", "fee", "penalty")
                ),
                show.millionths(one["carbon_ucr"]),
            )
            for one in found["lines"]
        ]
        if rows:
            headings = (
                *("tier", "source", "trades", "sold kWh", "delivered", "energy THB"),
                *("wheeling", "VAT", "fee", "penalty", "credits"),
            )
            show.table(console, headings, rows, right=range(2, len(headings)))
        made = ", ".join(
            f"{one['source']} {show.kwh(one['export_wh'])} kWh "
            f"({show.millionths(one['carbon_ucr'])} credits)"
            for one in found["production"]
        )
        show.fields(
            console,
            [
                ("fed in", made or "nothing"),
                ("participants", totals["participants"]),
                ("readings", f"{totals['readings']}, missing {totals['missing_readings']}"),
                (
                    "taken in",
                    f"{show.kwh(totals['import_wh'])} kWh, of it bought here "
                    f"{show.kwh(totals['consumed_wh'])}",
                ),
                (
                    "redeemed",
                    f"{show.kwh(totals['redeemed_wh'])} kWh for "
                    f"{show.millionths(totals['redeemed_uthb'])} THB",
                ),
                ("hash", item["report_hash"]),
            ],
        )


@dataclass(slots=True)
class _Findings:
    """What a verification has seen so far."""

    failures: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)


@app.command()
def verify(
    first: Annotated[int, typer.Option("--from", min=1, help="First block that is told of.")] = 1,
    last: Annotated[
        int | None, typer.Option("--to", min=1, help="Last block; else the newest.")
    ] = None,
    chain: remote.Chain = None,
) -> None:
    """Recompute state roots, settlement reports and supply from blocks alone.

    Fetches every block from genesis to --to, checks the authorities' signatures, executes it anew,
    and compares. A region is held against the national chain, which is executed beside it: what it
    took of it, and which of its blocks that one has accepted, without --to up to its newest block.
    Reports and sums of --from to --to are told.
    """
    from gridtokenx.chain.replay import Replay
    from gridtokenx.chain.replay_national import NationalNotVerified
    from gridtokenx.primitives.errors import Rejected

    findings = _Findings()
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        stop = client.head(name).height if last is None else last
        if stop < first:
            raise typer.BadParameter(f"--from {first} lies after --to {stop}")
        national = replaying.beside(client, name)
        replay = Replay(client.spec(name), national)
        try:
            for block, certificate in replaying.blocks(client, name, stop):
                closed = replay.apply(block, certificate)
                if replay.parent.height >= first:
                    _look(client, replay, closed, findings)
            if national is not None and last is None:
                national.advance(client.head(national.replay.spec.name).height)
        except NationalNotVerified as error:
            replaying.refuse(client, str(error), ErrorCode.INVALID_BLOCK)
        except Rejected as error:
            detail = f"{name} block {replay.parent.height + 1}: {error.detail}"
            replaying.refuse(client, detail, error.code)
        findings.failures += replay.contradictions()
        document = _document(client, replay, national, (first, stop), findings)
    output.emit(document, lambda console: _draw_verified(console, document))
    if not document["verified"]:
        raise typer.Exit(output.ExitCode.REFUSED)


def _look(client: Client, replay: Replay, closed: list[CheckedReport], findings: _Findings) -> None:
    """Check what the newest block of the range did."""
    from gridtokenx.answers.settlement import DayReports

    height = replay.parent.height
    for difference in replay.conservation().differences:
        findings.failures.append(f"block {height}: {difference}")
    for one in closed:
        day = bangkok.day(one.day)
        told = client.ask("audit_getReports", DayReports, territory=one.territory, day=day).items[0]
        differences = list(one.differences)
        if told.report_hash != one.report_hash:
            said = None if told.report_hash is None else told.report_hash.hex()
            differences.append(f"the node tells the hash {said}")
        where = f"report of {one.territory} for {day} (block {height})"
        findings.failures += [f"{where}: {difference}" for difference in differences]
        findings.reports.append(
            {
                "territory": one.territory,
                "date": day,
                "height": str(height),
                "report_hash": one.report_hash.hex(),
                "holds": not differences,
            }
        )


def _document(
    client: Client,
    replay: Replay,
    national: NationalReplay | None,
    span: tuple[int, int],
    findings: _Findings,
) -> dict[str, Any]:
    """`national` in it is null for the national chain itself, and where there is none."""
    sums = replay.conservation()
    return {
        "verified": not findings.failures,
        "chain": replay.spec.name,
        "chain_id": replay.spec.chain_id.hex(),
        "from": str(span[0]),
        "to": str(span[1]),
        "executed": str(replay.parent.height),
        "block_hash": replay.parent.hash.hex(),
        "state_root": replay.parent.state_root.hex(),
        "national": None if national is None else _national_document(national, replay),
        "reports": findings.reports,
        "held": {name: str(value) for name, value in sums.held.items()},
        "supply": {name: str(value) for name, value in sums.supply.items()},
        "failures": findings.failures,
        "genesis_hash": client.genesis().hash.hex(),
        "genesis_from": "home" if remote.home_genesis() is not None else "node",
    }


def _national_document(national: NationalReplay, region: Replay) -> dict[str, Any]:
    beside = national.replay
    accepted = national.accepted(region.spec.name)
    return {
        "chain": beside.spec.name,
        "executed": str(beside.parent.height),
        "block_hash": beside.parent.hash.hex(),
        "state_root": beside.parent.state_root.hex(),
        "checkpoints": sum(height <= region.parent.height for height in accepted),
    }


def _draw_verified(console: Console, document: dict[str, Any]) -> None:
    if document["verified"]:
        show.line(
            console,
            f"verified: yes. {document['executed']} blocks of {document['chain']} executed from "
            "genesis: signatures and every root hold",
        )
        if document["national"] is not None:
            beside = document["national"]
            show.line(
                console,
                f"beside it {beside['executed']} blocks of {beside['chain']}: what was taken of "
                f"them, and {beside['checkpoints']} accepted blocks, hold",
            )
    for failure in document["failures"]:
        show.line(console, f"DOES NOT HOLD: {show.printable(failure)}", style="bold red")
    rows = [
        (
            one["territory"],
            one["date"],
            one["height"],
            "yes" if one["holds"] else "NO",
            one["report_hash"],
        )
        for one in document["reports"]
    ]
    if rows:
        show.table(console, ("report", "day", "block", "holds", "hash"), rows, right=(2,))
    else:
        show.line(console, f"no day was closed in blocks {document['from']} to {document['to']}")
    assets = [
        (name, show.amount(name, document["held"][name]), show.amount(name, supply))
        for name, supply in document["supply"].items()
    ]
    show.table(console, ("asset", "accounts hold", "supply"), assets, right=(1, 2))
    show.line(console, f"state root {document['state_root']} at block {document['to']}")
    if document["genesis_from"] == "node":
        show.line(
            console,
            f"trusted: the node's own genesis {document['genesis_hash']}; compare it with the "
            "network's",
        )
