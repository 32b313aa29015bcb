"""`gridtokenx tx ...`: send signed transactions, follow them, read them, transfer assets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.keys import PasswordFile

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.transaction import Transaction
    from gridtokenx.ledger.model import Asset

app = typer.Typer(help="Transactions: send, status, get, decode, transfer.", no_args_is_help=True)

_FIELD_UNIT = {"energy": "wh", "thb": "uthb", "gtx": "ugtx", "carbon": "ucr"}
_UNITS = {"energy": "kWh", "thb": "THB", "gtx": "GTX", "carbon": "credits"}

TransactionId = Annotated[str, typer.Argument(metavar="ID", help="Transaction id, 64 hex digits.")]
HexOrFile = Annotated[
    str, typer.Argument(metavar="HEX|FILE", help="Signed bytes as hex, or a file of them.")
]


@app.command()
def send(
    transaction: HexOrFile,
    wait: remote.Wait = True,
) -> None:
    """Submit a signed transaction."""
    signed = _read(transaction)
    with remote.connect() as client:
        document = remote.submit(client, signed, wait=wait)
    output.emit(document, lambda console: _draw(console, document))


@app.command()
def status(
    transaction_id: TransactionId,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is in a final block.")] = False,
) -> None:
    """Where a transaction is: pending, queued, finalized, rejected or unknown."""
    wanted = remote.hash_text(transaction_id, "a transaction id")
    with remote.connect() as client:
        if wait:
            client.wait_for([wanted], timeout_s=remote.WAIT_S)
        document = client.call("tx_getStatus", id=wanted)
    output.emit(document, lambda console: _draw_status(console, document))
    if document["status"] in ("rejected", "unknown"):
        raise typer.Exit(output.ExitCode.REFUSED)


def _draw_status(console: Console, document: dict[str, Any]) -> None:
    told = str(document["status"])
    if document["height"] is not None:
        told += f" in {document['chain']} #{document['height']}"
    elif document["status"] == "queued":
        told += ": an earlier nonce of its sender is missing"
    elif document["error"] is not None:
        error = document["error"]
        told += f" [{error['code']}/{error['data']['reason']}]: {error['message']}"
    elif document["status"] == "unknown":
        told += ": this node has never had it, or forgot that it refused it"
    show.line(console, show.printable(told))


@app.command()
def get(transaction_id: TransactionId) -> None:
    """A transaction, its block and what it did."""
    wanted = remote.hash_text(transaction_id, "a transaction id")
    with remote.connect() as client:
        document = client.call("tx_get", id=wanted)
    output.emit(document, lambda console: _draw(console, document))


@app.command()
def decode(transaction: HexOrFile) -> None:
    """What a transaction says, and whether its signature is genuine. Asks no node."""
    from gridtokenx.primitives.document import to_document

    read = _read(transaction)
    fields = to_document(read, text_integers=True)
    del fields["kind"]
    genesis = remote.home_genesis()
    names = {} if genesis is None else {genesis.chain(n).chain_id: n for n in genesis.chain_names}
    document = {
        "tx_id": read.id.hex(),
        "chain": names.get(read.chain_id),
        **fields,
        "signed": read.is_signed(),
    }

    def draw(console: Console) -> None:
        genuine = "is the sender's" if document["signed"] else "is NOT the sender's"
        show.fields(
            console,
            [
                ("transaction", document["tx_id"]),
                ("chain", document["chain"] or document["chain_id"]),
                ("sender", document["sender"]),
                ("nonce", document["nonce"]),
                ("fee", f"{show.millionths(document['fee_ugtx'])} GTX"),
                ("signature", genuine),
            ],
        )
        _draw_payload(console, document["payload"])

    output.emit(document, draw)


@app.command()
def transfer(
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="gtx1..., or a key's name.")],
    asset: Annotated[str, typer.Option(help="thb, energy (kWh), gtx or carbon (credits).")],
    amount: Annotated[str, typer.Option(metavar="NUMBER", help="In the asset's whole units.")],
    key: remote.Key,
    chain: remote.Chain = None,
    to_chain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another chain, such as NOR.")
    ] = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Move an asset to another account, with --to-chain of another chain.

    With --to-chain, --wait follows it to its end: credited there, or bounced back.
    """
    from gridtokenx.cli import shard
    from gridtokenx.interchain.model import TransferAbroad
    from gridtokenx.ledger.model import Transfer

    moved, receiver = _asset(asset), remote.address_of(to)
    units = _amount(moved, amount)
    remote.account_key_path(key)
    with remote.connect(pinned=True) as client:
        name = remote.default_chain(client, chain)
        payload: Transfer | TransferAbroad = Transfer(receiver, moved, units)
        if to_chain is not None and to_chain != name:
            client.spec(to_chain)  # Refused here, before anything is signed.
            payload = TransferAbroad(to_chain, receiver, moved, units)
        signed = client.sign(remote.unlock(key, password_file), name, payload)
        document = remote.submit(client, signed, wait=wait)
        if isinstance(payload, TransferAbroad):
            document["transfer"] = shard.follow(client, document["tx_id"], wait=wait)
    if "transfer" not in document:
        output.emit(document, lambda console: _draw(console, document))
        return
    output.emit(document, lambda console: shard.draw_transfer(console, document["transfer"]))
    shard.exit_as(document["transfer"], waited=wait)


def _draw(console: Console, document: dict[str, Any]) -> None:
    transaction = document["transaction"]
    show.fields(
        console,
        [("transaction", document["tx_id"])],
    )
    _draw_status(console, document)
    if transaction is not None:
        show.fields(console, [("sender", transaction["sender"]), ("nonce", transaction["nonce"])])
        _draw_payload(console, transaction["payload"])
    for event in document["events"]:
        show.line(console, f"event {show.printable(event['kind'])}")
        _draw_fields(console, event)


def _draw_payload(console: Console, payload: dict[str, Any]) -> None:
    show.line(console, f"says {show.printable(payload['kind'])}")
    _draw_fields(console, payload)


def _draw_fields(console: Console, document: dict[str, Any]) -> None:
    """A command's or event's fields; a transfer's amount is in units of its asset."""
    unit = _FIELD_UNIT.get(document.get("asset", ""))
    named = {
        f"amount_{unit}" if unit and name == "amount" else name: document[name] for name in document
    }
    pairs = [show.field(name, value) for name, value in named.items() if name != "kind"]
    show.fields(console, [(f"  {name}", text) for name, text in pairs])


def _read(hex_or_file: str) -> Transaction:
    """Errors: MALFORMED_TX and the like; FileNotFoundError for a name of no file."""
    from gridtokenx.chain.transaction import MAX_TRANSACTION_BYTES, decode_transaction
    from gridtokenx.primitives.errors import ErrorCode, Rejected
    from gridtokenx.runtime.text_files import decode_text

    text = hex_or_file.strip()
    if not _is_hex(text):
        with Path(hex_or_file).open("rb") as stream:
            data = stream.read(2 * MAX_TRANSACTION_BYTES + 8)
        try:
            text = decode_text(data).strip()
        except ValueError as error:
            if data[:1] in (b"\xff", b"\xfe"):  # A mark of UTF-16: no transaction begins so.
                raise Rejected(ErrorCode.MALFORMED_TX, f"{hex_or_file} {error}") from None
            text = ""
        if not _is_hex(text):
            return decode_transaction(data)
    return decode_transaction(bytes.fromhex(text.removeprefix("0x")))


def _is_hex(text: str) -> bool:
    digits = text.removeprefix("0x")
    return bool(digits) and len(digits) % 2 == 0 and not digits.strip("0123456789abcdefABCDEF")


def _asset(text: str) -> Asset:
    from gridtokenx.ledger.model import Asset

    named = {one.name.lower(): one for one in Asset}.get(text.strip().lower())
    if named is None:
        detail = f"one of {', '.join(_UNITS)}, not {text!r}"
        raise typer.BadParameter(detail, param_hint="--asset")
    return named


def _amount(asset: Asset, text: str) -> int:
    """The asset's smallest units, exact. Errors: AMOUNT_OUT_OF_RANGE."""
    from gridtokenx.ledger.model import Asset
    from gridtokenx.primitives.errors import ErrorCode, Rejected
    from gridtokenx.primitives.quantities import parse_kwh, parse_thb

    if asset is Asset.ENERGY:
        units = parse_kwh(text)
    else:
        try:
            units = parse_thb(text)  # gtx and credits have six decimals too.
        except Rejected as error:
            unit = _UNITS[asset.name.lower()]
            raise Rejected(error.code, error.detail.replace("THB", unit)) from None
    if not units:
        raise Rejected(ErrorCode.AMOUNT_OUT_OF_RANGE, "an amount of 0 moves nothing")
    return units
