"""`gridtokenx shard ...`: regions as the national chain sees them, what they have filed there,
transfers between chains.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.client import Client

app = typer.Typer(
    help="Region chains: list, show, checkpoints, revive, settlements, transfer, receipts.",
    no_args_is_help=True,
)

FOLLOW_S = 180.0
POLL_S = 0.5
_FIELD_OF_ASSET = {"energy": "amount_wh", "thb": "amount_uthb", "gtx": "amount_ugtx"}
_ENDS = ("credited", "bounced", "refused", "stranded")

Shard = Annotated[str, typer.Argument(metavar="NAME", help="A region chain, such as NOR.")]
TransferId = Annotated[
    str, typer.Argument(metavar="ID", help="Of the transaction that ordered it, 64 hex digits.")
]


@app.command("list")
def list_shards() -> None:
    """All region chains: status, last checkpoint, queues, what lies in escrow for them."""
    with remote.connect() as client:
        document = client.call("shard_list")

    def draw(console: Console) -> None:
        rows = [
            (
                one["shard"],
                one["status"],
                one["head"] or "not followed",
                one["checkpoint"]["height"],
                one["checkpoint"]["age_blocks"],
                one["queue_down"],
                "-" if one["queue_up"] is None else one["queue_up"],
                *(show.amount(name, one["escrow"][name]) for name in _ESCROW),
            )
            for one in document["items"]
        ]
        headings = (
            *("shard", "status", "head", "checkpoint", "blocks ago", "down", "up"),
            *("kWh", "THB", "GTX"),
        )
        show.line(console, f"seen from {document['chain']} #{document['height']}")
        show.table(console, headings, rows, right=range(2, 10))

    output.emit(document, draw)


_ESCROW = ("energy_wh", "thb_uthb", "gtx_ugtx")


@app.command("show")
def show_shard(shard: Shard) -> None:
    """One region chain, with its authorities."""
    with remote.connect() as client:
        document = client.call("shard_get", id=shard.strip().upper())
    output.emit(document, lambda console: _draw_shard(console, document))


def _draw_shard(console: Console, document: dict[str, Any]) -> None:
    seen = document["checkpoint"]
    today = document["today"]
    reasons = {"frozen": "it has signed two chains", "held": _held(document)}
    why = reasons.get(document["status"])
    show.fields(
        console,
        [
            ("shard", document["shard"]),
            ("status", f"{document['status']}: {why}" if why else document["status"]),
            ("on this node", _here(document)),
            ("territories", ", ".join(document["territories"])),
            ("chain id", document["chain_id"]),
            ("incarnation", document["incarnation"]),
            *(
                (f"incarnation {one['number']}", f"from block {one['height']} {one['hash']}")
                for one in document["incarnations"]
            ),
            ("lost with void histories", _amounts(document["lost"], unless_nothing=True)),
            ("head here", document["head"] or "not followed by this node"),
            (
                "checkpoint",
                f"#{seen['height']}, {seen['age_blocks']} blocks of {document['chain']} ago "
                f"(paused after {seen['paused_after_blocks']})",
            ),
            ("queue", f"{document['queue_down']} down, {_or_dash(document['queue_up'])} up"),
            ("escrow", _amounts(document["escrow"])),
            ("left today", f"{_amounts(today['sent'])} ({today['date']})"),
            ("may leave a day", ", ".join(_limits(today["limits"]))),
            ("next set", "on its way" if document["set_on_its_way"] else None),
        ],
    )
    rows = [
        (
            one["organisation"],
            one["weight"],
            "suspended" if one["suspended"] else "signs",
            one["public_key"],
        )
        for one in document["authorities"]
    ]
    show.table(console, ("authority", "weight", "", "key"), rows, right=(1,))


def _held(document: dict[str, Any]) -> str:
    return f"voters decide on proposal {document['held_by']}"


def _here(document: dict[str, Any]) -> str | None:
    """What this node does with the region."""
    sync = document["sync"]
    if sync is None:
        return None
    height = document["head"]
    told = {
        "stopped": f"stopped at block {height}: {sync['stopped_because']}",
        "rebuilding": f"rebuilding {height} of {sync['target']}",
    }
    state = told.get(sync["state"], sync["state"])
    behind = sync["incarnation"] != document["incarnation"]
    return f"{state}, still in incarnation {sync['incarnation']}" if behind else str(state)


def _amounts(amounts: dict[str, Any], *, unless_nothing: bool = False) -> str | None:
    if unless_nothing and not any(int(amounts[name]) for name in _ESCROW):
        return None
    return ", ".join(show.field(name, amounts[name])[1] for name in _ESCROW)


def _limits(limits: dict[str, Any]) -> list[str]:
    return [show.field(name, limits[f"daily_{name}"])[1] for name in _ESCROW]


@app.command()
def checkpoints(shard: Shard, limit: remote.Limit = 20, cursor: remote.Cursor = None) -> None:
    """Blocks that the national chain has accepted: what a vote may let the region go on from."""
    with remote.connect() as client:
        document = client.call(
            "shard_getCheckpoints", id=shard.strip().upper(), limit=limit, cursor=cursor
        )

    def draw(console: Console) -> None:
        rows = [
            (one["height"], one["hash"], one["why_not"] or _amounts(one["lost"]))
            for one in document["items"]
        ]
        show.page(console, document, ("block", "hash", "lost"), rows, what="checkpoints")

    output.emit(document, draw)


@app.command()
def revive(
    shard: Shard,
    sure: Annotated[
        bool,
        typer.Option("--i-am-sure", help="This key has signed no block of it, on any machine."),
    ] = False,
) -> None:
    """Let the validator key of this home's running node sign a region that begins again.

    Needed where the key was no authority before, or its data folder is new: nobody else signs yet
    whom it could hear. Your word that it has never signed for this incarnation.
    """
    from gridtokenx.cli.net import ask_admin

    name = shard.strip().upper()
    if not sure:
        output.fail(
            f"if this key has signed for {name}'s present incarnation anywhere, signing again can "
            "break the chain",
            code="GTX-KEY-001",
            reason="not_sure",
            hint=f"only for a key that has not: gridtokenx shard revive {name} --i-am-sure",
            exit_code=output.ExitCode.USAGE,
        )
    answer = ask_admin({"do": "vouch", "chain": name})
    output.emit(answer, lambda console: show.line(console, show.printable(answer["told"])))


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value


@app.command()
def settlements(
    shard: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A region chain; all if left out.")
    ] = None,
    day: Annotated[
        str | None, typer.Option(metavar="DATE", help="Of the reports, such as 2026-03-16.")
    ] = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Hashes of settlement reports that regions have filed, newest first."""
    name = None if shard is None else shard.strip().upper()
    with remote.connect() as client:
        document = client.call(
            "shard_getSettlements", shard=name, day=day, limit=limit, cursor=cursor
        )
    output.emit(document, lambda console: _draw_settlements(console, document))


def _draw_settlements(console: Console, document: dict[str, Any]) -> None:
    rows = [
        (
            one["shard"],
            one["territory"],
            one["date"] or f"day {one['day']}",
            f"{document['chain']} #{one['height']}",
            one["report_hash"],
        )
        for one in document["items"]
    ]
    headings = ("shard", "territory", "day", "recorded in", "hash")
    show.page(console, document, headings, rows, what="settlement reports")


@app.command()
def transfer(
    transfer_id: TransferId,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is credited or back.")] = False,
) -> None:
    """Where a transfer between chains is: pending, in flight, credited or bounced."""
    wanted = remote.hash_text(transfer_id, "a transfer id")
    with remote.connect() as client:
        document = follow(client, wanted, wait=wait)
    output.emit(document, lambda console: draw_transfer(console, document))
    exit_as(document, waited=wait)


@app.command()
def receipts(
    address: remote.Address,
    chain: remote.Chain = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Transfers to and from other chains of an account on one chain, newest first."""
    who, document = remote.page_of("shard_getReceipts", address, chain, limit, cursor)

    def draw(console: Console) -> None:
        rows = [
            (
                _way(one),
                told(one),
                _amount(one),
                "out" if one["sender"] == who else "in",
                one["transfer_id"],
            )
            for one in document["items"]
        ]
        headings = ("way", "status", "amount", "", "id")
        show.page(console, document, headings, rows, what="transfers")

    output.emit(document, draw)


# -- Following a transfer --------------------------------------------------------------------------


def follow(client: Client, transfer_id: str, *, wait: bool) -> dict[str, Any]:
    """The transfer as the node tells it; with `wait` when it has come to its end.

    Each step is told on stderr. After three minutes the answer is what is known then.
    """
    deadline = time.monotonic() + FOLLOW_S
    told_steps = 0
    while True:
        document: dict[str, Any] = client.call("shard_getTransfer", id=transfer_id)
        for step in document["steps"][told_steps:]:
            output.note(f"{_STEPS[step['event']['kind']]} ({step['chain']} #{step['height']})")
        told_steps = len(document["steps"])
        if not wait or document["status"] in _ENDS or time.monotonic() >= deadline:
            return document
        time.sleep(POLL_S)


_STEPS = {
    "transfer_sent": "sent",
    "transfer_routed": "passed on to its destination",
    "transfer_credited": "credited",
    "transfer_returning": "could not be taken, on its way back",
    "transfer_returned": "back with its sender",
}


def exit_as(document: dict[str, Any], *, waited: bool) -> None:
    """End the command as the transfer ended."""
    if document["status"] in ("bounced", "refused", "stranded"):
        raise typer.Exit(output.ExitCode.REFUSED)
    if waited and document["status"] not in _ENDS:
        transfer_id = document["transfer_id"]
        output.note(f"hint: gridtokenx shard transfer {transfer_id} --wait")
        raise typer.Exit(output.ExitCode.RETRY_LATER)


def draw_transfer(console: Console, document: dict[str, Any]) -> None:
    """A transfer and its steps, for people."""
    show.fields(
        console,
        [
            ("transfer", document["transfer_id"]),
            ("status", told(document)),
            ("why", document["reason"]),
            ("way", _way(document)),
            ("amount", _amount(document)),
            ("from", document["sender"]),
            ("to", document["to"]),
        ],
    )
    rows = [
        (
            one["chain"],
            one["height"],
            show.moment(one["time_ms"]),
            _STEPS[one["event"]["kind"]],
        )
        for one in document["steps"]
    ]
    if rows:
        show.table(console, ("chain", "block", "time", "step"), rows, right=(1,))


def told(document: dict[str, Any]) -> str:
    """The status in words."""
    return str(document["status"]).replace("_", " ")


def _way(document: dict[str, Any]) -> str:
    return f"{document['origin'] or '?'} to {document['destination'] or '?'}"


def _amount(document: dict[str, Any]) -> str | None:
    name = _FIELD_OF_ASSET.get(str(document["asset"]))
    return None if name is None else show.field(name, document["amount"])[1]
