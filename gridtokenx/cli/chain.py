"""`gridtokenx chain ...`: heads, blocks, validators and the market's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Chains: head, block, validators, params.", no_args_is_help=True)


@app.command()
def head(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Such as MET.")] = None,
) -> None:
    """The newest decided block of a chain, or of all the node follows."""
    with remote.connect() as client:
        if name is None:
            rows = client.call("chain_getStatus")["chains"]
            heads = {row["chain"]: {"chain": row["chain"], **row["head"]} for row in rows}
        else:
            found = client.call("chain_getHead", chain=name)
            heads = {found["chain"]: found}
    for chain, found in heads.items():
        found["trusted_block"] = f"{chain}:{found['height']}:{found['hash']}"
    document = heads[name] if name in heads else {"heads": list(heads.values())}

    def draw(console: Console) -> None:
        rows = [
            (
                chain,
                found["height"],
                show.moment(found["time_ms"]),
                show.moment(found["market_ms"]),
                found["hash"],
                found["state_root"],
            )
            for chain, found in heads.items()
        ]
        headings = ("chain", "height", "block time", "market time", "hash", "state root")
        show.table(console, headings, rows, right=(1,))
        show.line(console, "as --trusted-block and in sync.trusted_blocks of nodes that trust it:")
        for found in heads.values():
            show.line(console, f"  {show.printable(found['trusted_block'])}")

    output.emit(document, draw)


@app.command()
def block(
    reference: Annotated[str, typer.Argument(metavar="HEIGHT|HASH", help="Which block.")],
    chain: remote.Chain = None,
    full: Annotated[bool, typer.Option("--full", help="Transactions in full (--json).")] = False,
) -> None:
    """A block by height (of the node's first chain unless --chain) or by hash (of any)."""
    with remote.connect() as client:
        wanted = reference.removeprefix("#")
        document = client.call("chain_getBlock", block=wanted, chain=chain, full=full)
    output.emit(document, lambda console: _draw_block(console, document))


def _draw_block(console: Console, document: dict[str, Any]) -> None:
    header = document["header"]
    known = {"kind", "height", "time_ms", "chain_id"}
    rest = [(name, value) for name, value in header.items() if name not in known]
    show.fields(
        console,
        [
            ("block", f"{document['chain']} #{document['height']}, final"),
            ("hash", document["hash"]),
            ("time", f"{show.moment(header['time_ms'])}, {show.age(header['time_ms'])}"),
            *((name.replace("_", " "), value) for name, value in rest),
            ("transactions", document["transaction_count"]),
        ],
    )
    for transaction in document["transactions"]:
        if isinstance(transaction, str):
            show.line(console, f"  {show.printable(transaction)}")
        else:
            payload = transaction["payload"]
            told = f"{transaction['tx_id']}  {payload['kind']}  from {transaction['sender']}"
            show.line(console, f"  {show.printable(told)}")


@app.command()
def validators(chain: remote.Chain = None) -> None:
    """Who signs the blocks of a chain."""
    with remote.connect() as client:
        document = client.call("chain_getValidators", chain=chain)

    def draw(console: Console) -> None:
        rows = [
            (row["index"], row["organisation"] or "-", row["weight"], row["public_key"])
            for row in document["items"]
        ]
        title = f"{document['chain']}: weight {document['total_weight']} in total"
        headings = ("index", "organisation", "weight", "key")
        show.table(console, headings, rows, title=show.printable(title), right=(0, 2))

    output.emit(document, draw)


@app.command()
def params(chain: remote.Chain = None) -> None:
    """The market parameters in force on a chain."""
    with remote.connect() as client:
        document = client.call("chain_getParams", chain=chain)

    def draw(console: Console) -> None:
        show.line(console, f"{document['chain']} at block {document['height']}")
        values = document["parameters"]
        show.fields(console, [show.field(*pair) for pair in values.items() if pair[0] != "kind"])

    output.emit(document, draw)
