"""`gridtokenx account ...`: what an account holds, its history, and a proof checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.genesis import ChainSpec
    from gridtokenx.chain.light_client import ProvenRegion
    from gridtokenx.client import Client

app = typer.Typer(help="Accounts: show, balance, proof, nonce, history.", no_args_is_help=True)

_HEADINGS = {
    "energy_wh": "energy kWh",
    "energy_held_wh": "held kWh",
    "thb_uthb": "THB",
    "escrow_uthb": "escrow THB",
    "bond_uthb": "bond THB",
    "gtx_ugtx": "GTX",
    "carbon_ucr": "carbon",
    "local_wh": "of it local kWh",
}


def _draw_holdings(console: Console, rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    """A column for each amount the node tells, in its whole units."""
    names = [name for name in totals if name.rpartition("_")[2] in show.AMOUNTS]
    headings = ["chain", "block", *(_HEADINGS.get(name, name) for name in names)]
    lines = [
        [row["chain"], row["height"], *(show.amount(name, row[name]) for name in names)]
        for row in rows
    ]
    if len(rows) > 1:
        lines.append(["all", "", *(show.amount(name, totals[name]) for name in names)])
    show.table(console, headings, lines, right=range(1, len(headings)))


@app.command()
def balance(address: remote.Address, chain: remote.Chain = None) -> None:
    """The assets of an account on each chain."""
    from gridtokenx.primitives.types import format_address

    who = format_address(remote.address_of(address))
    with remote.connect() as client:
        document = client.call("account_getBalance", address=who, chain=chain)

    def draw(console: Console) -> None:
        show.line(console, show.printable(document["address"]))
        _draw_holdings(console, document["chains"], document["totals"])

    output.emit(document, draw)


@app.command("show")
def show_account(address: remote.Address, chain: remote.Chain = None) -> None:
    """Assets, registration, meters and open orders of an account on each chain."""
    from gridtokenx.primitives.types import format_address

    who = format_address(remote.address_of(address))
    with remote.connect() as client:
        document = client.call("account_get", address=who, chain=chain)
    output.emit(document, lambda console: _draw_account(console, document))


def _draw_account(console: Console, document: dict[str, Any]) -> None:
    show.line(console, show.printable(document["address"]))
    _draw_holdings(console, document["chains"], document["totals"])
    for row in document["chains"]:
        if row["participant"] is not None:
            _draw_registration(console, row)


def _draw_registration(console: Console, row: dict[str, Any]) -> None:
    participant = row["participant"]
    suspended = f"suspended by {participant['suspended_by']}"
    state = "active" if participant["active"] else suspended
    show.fields(
        console,
        [
            (row["chain"], f"{participant['role']} in {participant['territory']}, {state}"),
            ("licence", show.until(participant["licence_expiry_ms"])),
            ("daily cap", f"{show.kwh(participant['daily_cap_wh'])} kWh"),
            ("nonce", row["nonce"]),
        ],
    )
    meters = [
        (
            meter["location"],
            meter["source"],
            f"{int(meter['nameplate_import_w']):,}",
            f"{int(meter['nameplate_export_w']):,}",
            meter["status"] + (f" by {meter['suspended_by']}" if meter["suspended_by"] else ""),
            meter["meter_id"],
            "the same" if meter["key"] == meter["meter_id"] else meter["key"],
        )
        for meter in row["meters"]
    ]
    if meters:
        headings = ("meter at", "source", "import W", "export W", "state", "id", "device's key")
        show.table(console, headings, meters, right=(2, 3))
    orders = [
        (
            order["order_type"],
            show.kwh(order["rest_wh"]),
            show.price(order["limit_mthb"]),
            order["grid_location"],
            order["order_id"],
        )
        for order in row["open_orders"]
    ]
    if orders:
        show.table(console, ("open", "kWh", "THB/kWh", "at", "order"), orders, right=(1, 2))


@app.command()
def nonce(
    address: remote.Address,
    chain: remote.Chain = None,
    decided: Annotated[
        bool, typer.Option("--decided", help="Leave out what waits in the mempool.")
    ] = False,
) -> None:
    """The nonce of an account's next transaction on a chain."""
    from gridtokenx.primitives.types import format_address

    who = format_address(remote.address_of(address))
    with remote.connect() as client:
        document = client.call("account_getNonce", address=who, chain=chain, pending=not decided)
    text = f"{document['nonce']} on {document['chain']}"
    output.emit(document, lambda console: show.line(console, show.printable(text)))


@app.command()
def history(
    address: remote.Address,
    chain: remote.Chain = None,
    limit: remote.Limit = 20,
    cursor: remote.Cursor = None,
) -> None:
    """Transactions an account sent or that name it, newest first."""
    who, document = remote.page_of("account_getHistory", address, chain, limit, cursor)

    def draw(console: Console) -> None:
        rows = [
            (
                row["height"],
                show.moment(row["time_ms"]),
                row["transaction"]["payload"]["kind"],
                "sent" if row["transaction"]["sender"] == who else "named",
                ", ".join(event["kind"] for event in row["events"]),
                row["transaction"]["tx_id"],
            )
            for row in document["items"]
        ]
        headings = ("block", "time", "transaction", "", "events", "id")
        show.page(console, document, headings, rows, what="transactions", right=(0,))

    output.emit(document, draw)


@app.command()
def proof(
    address: remote.Address,
    chain: remote.Chain = None,
    trusted_block: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHAIN:HEIGHT:HASH",
            help="A block that must be in the chain; may be repeated.",
        ),
    ] = None,
    trust_old_blocks: Annotated[
        bool,
        typer.Option("--trust-old-blocks", help="Begin at a genesis however old it is."),
    ] = False,
) -> None:
    """An account's state, proven: signatures, header and state path are checked here.

    A region's validators are those that the national chain names. From this home's genesis on sets
    are believed for the unbonding time; later name a block that you trust.
    """
    who = remote.address_of(address)
    with remote.connect(
        pinned=True, trusted_blocks=trusted_block, trust_old_blocks=trust_old_blocks
    ) as client:
        name = remote.default_chain(client, chain)
        document = _prove(client, who, name)
    output.emit(document, lambda console: _draw_proof(console, document))


def _name_of(public_key: bytes, spec: ChainSpec) -> str:
    """The organisation of a validator of the genesis; of a later one its key."""
    return spec.organisation_of.get(public_key) or public_key.hex()[:16]


def _prove(client: Client, who: bytes, chain: str) -> dict[str, Any]:
    """Errors: Failure `not_verified` when what the node sent does not hold."""
    from gridtokenx.primitives.document import to_document
    from gridtokenx.primitives.errors import ErrorCode, Rejected
    from gridtokenx.primitives.types import format_address

    spec = client.spec(chain)
    try:
        proven = client.proof(who, chain)
    except Rejected as error:
        if error.code is ErrorCode.TRUST_EXPIRED:
            output.fail(
                f"verified: no. {error.detail}",
                code=int(error.code),
                reason=error.code.reason,
                hint="--trusted-block CHAIN:HEIGHT:HASH; on a test network --trust-old-blocks",
            )
        output.fail(
            f"verified: no. {error.detail}",
            code=int(error.code),
            reason="not_verified",
            hint=f"do not trust the node at {client.url}; ask another with --rpc URL",
        )
    account = proven.account
    members = proven.trusted.validators.members
    signers = [one.index for one in proven.certificate.signatures]
    return {
        "address": format_address(who),
        "chain": chain,
        "height": str(proven.header.height),
        "block_hash": proven.header.hash.hex(),
        "state_root": proven.header.state_root.hex(),
        "verified": True,
        "signers": [_name_of(members[index].public_key, spec) for index in signers],
        "validators": len(members),
        "named_by": None if proven.region is None else _national_place(proven.region),
        "genesis_hash": client.genesis().hash.hex(),
        "genesis_from": "home" if remote.home_genesis() is not None else "node",
        "account": None if account is None else to_document(account, text_integers=True),
    }


def _national_place(region: ProvenRegion) -> dict[str, str]:
    """The national block whose state names a region's validators."""
    header = region.header
    return {
        "height": str(header.height),
        "block_hash": header.hash.hex(),
        "time_ms": str(header.time_ms),
    }


def _draw_proof(console: Console, document: dict[str, Any]) -> None:
    signers = document["signers"]
    show.line(
        console,
        f"verified: yes, signed by {len(signers)} of {document['validators']} authorities "
        f"({', '.join(signers)})",
    )
    show.fields(
        console,
        [
            ("block", f"{document['chain']} #{document['height']} {document['block_hash']}"),
            ("state root", document["state_root"]),
            ("address", document["address"]),
        ],
    )
    if document["named_by"] is not None:
        named_by = document["named_by"]
        show.line(
            console,
            f"its validators are those of national block {named_by['height']}, "
            f"{show.moment(named_by['time_ms'])}",
        )
    if document["account"] is None:
        show.line(console, "proven: this address holds nothing on this chain")
    else:
        row = {"chain": document["chain"], "height": document["height"], **document["account"]}
        _draw_holdings(console, [row], row)
    if document["genesis_from"] == "node":
        show.line(
            console,
            f"trusted: the node's own genesis {document['genesis_hash']}; compare it with the "
            "network's, or pin it with: gridtokenx init --genesis FILE --genesis-hash HASH",
        )
