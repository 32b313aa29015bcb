"""`gridtokenx stake ...`: validators of the national chain, and gtx bonded to them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gridtokenx.cli import keys, output, remote, show
from gridtokenx.cli.keys import PasswordFile
from gridtokenx.cli.proposal_terms import gtx_amount

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.transaction import Payload
    from gridtokenx.client import Client
    from gridtokenx.primitives.crypto import SigningKey
    from gridtokenx.staking.model import Bond, Unbond

app = typer.Typer(
    help="Stake on the national chain: list, show, account, pool, bond, unbond, redelegate, "
    "create, update, unjail.",
    no_args_is_help=True,
)

ValidatorName = Annotated[
    str, typer.Argument(metavar="VALIDATOR", help="gtx1... of its operator, its name, or a key.")
]
Amount = Annotated[str, typer.Option(metavar="GTX", help="At most 6 decimals.")]


@app.command("list")
def list_validators(limit: remote.Limit = 50, cursor: remote.Cursor = None) -> None:
    """Validators and candidates, the greatest pool first."""
    with remote.connect() as client:
        document = client.call("stake_getValidators", limit=limit, cursor=cursor)

    def draw(console: Console) -> None:
        total = int(document["total_weight"])
        rows = [
            (
                one["moniker"],
                one["status"],
                show.millionths(one["stake_ugtx"]),
                show.millionths(one["self_bond_ugtx"]),
                show.percent(int(one["weight"]) * 10_000 // total if total else 0),
                show.percent(one["commission_bps"]),
                one["operator"],
            )
            for one in document["items"]
        ]
        headings = ("name", "status", "GTX", "own GTX", "weight %", "commission %", "operator")
        show.table(console, headings, rows, right=range(2, 6))
        show.next_page(console, document["next_cursor"])

    output.emit(document, draw)


@app.command("show")
def show_validator(validator: ValidatorName) -> None:
    """One validator: its pool, its weight now and in sets to come, offences."""
    from gridtokenx.primitives.types import format_address

    with remote.connect() as client:
        operator = format_address(_operator(client, validator))
        document = client.call("stake_getValidator", operator=operator)
    output.emit(document, lambda console: _draw_validator(console, document))


def _draw_validator(console: Console, document: dict[str, Any]) -> None:
    until = document["jailed_until_height"]
    weights = (f"{one['weight']} from #{one['first_height']}" for one in document["weights"])
    show.fields(
        console,
        [
            ("validator", document["moniker"]),
            ("status", document["status"]),
            ("jailed until", None if until is None else f"{document['chain']} #{until}"),
            ("operator", document["operator"]),
            ("consensus key", document["consensus_key"]),
            ("bonded", f"{show.millionths(document['stake_ugtx'])} GTX"),
            ("its own", f"{show.millionths(document['self_bond_ugtx'])} GTX"),
            ("commission", f"{show.percent(document['commission_bps'])} %"),
            ("weight", ", ".join(weights)),
            ("absent", f"{document['absent_blocks']} blocks in a row"),
            ("offences", _offences(document)),
        ],
    )


def _offences(document: dict[str, Any]) -> str:
    count = sum(len(one["heights"]) for one in document["offences"])
    return f"{count}, which took {show.percent(document['slashed_bps'])} %" if count else "0"


@app.command()
def account(address: remote.Address) -> None:
    """What an account has bonded, with its rewards, what is paid out to it, what is locked."""
    from gridtokenx.primitives.types import format_address

    who = format_address(remote.address_of(address))
    with remote.connect() as client:
        document = client.call("stake_getDelegations", address=who)

    def draw(console: Console) -> None:
        show.line(console, f"{show.millionths(document['bonded_ugtx'])} GTX bonded")
        rows = [
            (one["moniker"], show.millionths(one["amount_ugtx"]), one["validator"])
            for one in document["delegations"]
        ]
        if rows:
            show.table(console, ("validator", "GTX", "operator"), rows, right=(1,))
        for one in document["unbonding"]:
            amount = show.millionths(one["amount_ugtx"])
            show.line(
                console,
                f"{amount} GTX paid out in {document['chain']} #{one['matures_height']} "
                f"(now #{document['height']})",
            )
        for one in document["redelegating"]:
            amount = show.millionths(one["amount_ugtx"])
            show.line(
                console,
                f"{amount} GTX redelegated, free in {document['chain']} #{one['free_height']} "
                f"(now #{document['height']})",
            )

    output.emit(document, draw)


@app.command()
def pool() -> None:
    """All stake together, what pays rewards, and when the validator set changes."""
    with remote.connect() as client:
        document = client.call("stake_getPool")

    def draw(console: Console) -> None:
        changes = document["next_set_height"]
        amounts = ("bonded", "unbonding", "reward_reserve", "treasury")
        show.fields(
            console,
            [
                *(
                    (name.replace("_", " "), f"{show.millionths(document[f'{name}_ugtx'])} GTX")
                    for name in amounts
                ),
                (
                    "validators",
                    f"{document['in_set']} sign, {document['validators']} in all, "
                    f"{document['jailed']} jailed",
                ),
                ("next epoch", f"#{document['next_epoch_height']} (now #{document['height']})"),
                ("next set", None if changes is None else f"#{changes}"),
            ],
        )

    output.emit(document, draw)


@app.command()
def bond(
    validator: ValidatorName,
    amount: Amount,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Bond own gtx to a validator."""
    from gridtokenx.staking.model import Bond

    _delegate(Bond, validator, amount, key, password_file, wait=wait)


@app.command()
def unbond(
    validator: ValidatorName,
    amount: Amount,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Take gtx back from a validator; it is paid out when the unbonding time is over."""
    from gridtokenx.staking.model import Unbond

    _delegate(Unbond, validator, amount, key, password_file, wait=wait)


def _delegate(
    command: type[Bond | Unbond],
    validator: str,
    amount: str,
    key: str | None,
    password_file: Path | None,
    *,
    wait: bool,
) -> None:
    units = gtx_amount(amount)
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        _send(client, command(_operator(client, validator), units), signer, password, wait=wait)


@app.command()
def redelegate(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="gtx1... of its operator, its name, or a key.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="TO", help="gtx1... of its operator, its name, or a key.")
    ],
    amount: Amount,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Move bonded gtx to another validator at once; it can leave there after the unbonding time."""
    from gridtokenx.staking.model import Redelegate

    units = gtx_amount(amount)
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        payload = Redelegate(_operator(client, source), _operator(client, destination), units)
        _send(client, payload, signer, password, wait=wait)


@app.command()
def unjail(
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Let the own validator be elected again, once its time in jail is over."""
    from gridtokenx.staking.model import Unjail

    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        _send(client, Unjail(), signer, password, wait=wait)


@app.command()
def create(
    name: Annotated[str, typer.Option(metavar="TEXT", help="What people know it by.")],
    self_bond: Annotated[str, typer.Option(metavar="GTX", help="Own gtx bonded to it.")],
    commission: Annotated[
        str, typer.Option(metavar="PERCENT", help="Of rewards, before delegators have theirs.")
    ] = "5",
    validator_key: Annotated[
        str, typer.Option(metavar="NAME", help="Validator key of this home; it signs blocks.")
    ] = "validator",
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Become a candidate for the validator set. The account key is the operator."""
    from gridtokenx.staking.model import CreateValidator

    bps, units = _commission(commission), gtx_amount(self_bond)
    _check_name(name)
    signer, password = remote.own_key(key, password_file)
    with remote.connect(pinned=True) as client:
        public_key, proof = _proven_key(client, validator_key, signer, password)
        payload = CreateValidator(public_key, name, bps, units, proof)
        _send(client, payload, signer, password, wait=wait)


@app.command()
def update(
    name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What people shall know it by.")
    ] = None,
    commission: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="It rises by one point at most at a time.")
    ] = None,
    validator_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another validator key of this home.")
    ] = None,
    key: remote.OwnKey = None,
    wait: remote.Wait = True,
    password_file: PasswordFile = None,
) -> None:
    """Change the own validator; what is left out stays. A new key signs when a set has it."""
    from gridtokenx.answers.staking import ValidatorDetail
    from gridtokenx.primitives.types import format_address
    from gridtokenx.staking.model import UpdateValidator

    if name is None and commission is None and validator_key is None:
        raise typer.BadParameter("name what is to change: --name, --commission, --validator-key")
    if name is not None:
        _check_name(name)
    bps = None if commission is None else _commission(commission)
    signer, password = remote.own_key(key, password_file)
    operator = format_address(remote.address_of(signer))
    with remote.connect(pinned=True) as client:
        now = client.ask("stake_getValidator", ValidatorDetail, operator=operator)
        public_key, proof = None, None
        if validator_key is not None:
            public_key, proof = _proven_key(client, validator_key, signer, password)
        payload = UpdateValidator(
            now.moniker if name is None else name,
            now.commission_bps if bps is None else bps,
            public_key,
            proof,
        )
        _send(client, payload, signer, password, wait=wait)


def _check_name(name: str) -> None:
    if not 1 <= len(name.encode()) <= 64 or not name.isprintable():
        raise typer.BadParameter("1 to 64 bytes on one line", param_hint="--name")


def _proven_key(
    client: Client, name: str, signer: str, password: Path | None
) -> tuple[bytes, bytes]:
    """A validator key, and its signature that it signs for the account's validator."""
    from gridtokenx.staking.model import proof_bytes

    chain_id = client.spec(client.national()).chain_id
    consensus = _consensus_key(name, password)
    operator = remote.address_of(signer)
    proof = consensus.sign(proof_bytes(chain_id, operator, consensus.public_key))
    return consensus.public_key, proof


def _consensus_key(name: str, password_file: Path | None) -> SigningKey:
    from gridtokenx.home import keystore

    path = remote.path_of_key(name, "validator", "blocks are signed by a validator key")
    return keystore.unlock(path, keys.read_password(password_file, what=f"the key {name}"))


def _commission(text: str) -> int:
    try:
        bps = Decimal(text.strip().rstrip("%")) * 100
    except InvalidOperation:
        bps = Decimal(-1)
    if not bps.is_finite() or not 0 <= bps <= 10_000 or bps != int(bps):
        detail = f"0 to 100 with at most 2 decimals, not {text[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--commission")
    return int(bps)


def _send(
    client: Client, payload: Payload, signer: str, password: Path | None, *, wait: bool
) -> None:
    document = remote.command(client, client.national(), payload, signer, password, wait=wait)
    output.emit(document, lambda console: remote.draw_command(console, document))


def _operator(client: Client, text: str) -> bytes:
    """The account of a validator's operator, by address, by the validator's name, or by a key."""
    from gridtokenx.answers.staking import ValidatorPage
    from gridtokenx.home import keystore
    from gridtokenx.primitives.types import parse_address

    if text.startswith("gtx1"):
        return parse_address(text)
    listed = client.ask("stake_getValidators", ValidatorPage, limit=100).items
    named = [one.operator for one in listed if one.moniker == text]
    if len(named) == 1:
        return named[0]
    if not named and keystore.key_path(output.options().keys_path, text).is_file():
        return remote.address_of(text)
    return _unknown(text, named, [one.moniker for one in listed])


def _unknown(text: str, named: list[bytes], monikers: list[str]) -> NoReturn:
    known = ", ".join(monikers)
    what = f"{len(named)} validators are" if named else "no validator is"
    output.fail(
        show.printable(f"{what} called {text[:64]!r}; there are {known}"),
        code="cli",
        reason="which_validator",
        hint="name its operator, gtx1...: gridtokenx stake list",
    )
