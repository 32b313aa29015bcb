"""What the commands that ask a node share: the connection, addresses, keys, waiting.

A node's refusal, its absence and a lie that a check here uncovers all become the command's failure.
Keys stay here: what goes to the node is signed already. Source: docs/cli.md "Commands".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gridtokenx.cli import keys, output, show
from gridtokenx.cli.output import ExitCode, Failure
from gridtokenx.primitives.places import PLACE, SUBSTATION

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.chain.genesis import Genesis
    from gridtokenx.chain.transaction import Payload, Transaction
    from gridtokenx.client import Client, RpcError
    from gridtokenx.primitives.crypto import SigningKey

WAIT_S = 60.0
MAX_REASON_BYTES = 200
_INVALID_PARAMS = -32602
_BAD_DATA = frozenset({2010, 2016, 5002})  # malformed_tx, malformed, bad_address
_PLACE = re.compile(PLACE)
_SUBSTATION = re.compile(SUBSTATION)
_HASH = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
# A node speaks of its methods; a person at the command line has these instead.
COMMAND_OF_METHOD = {
    "chain_getStatus": "gridtokenx status",
    "chain_getHead": "gridtokenx chain head",
    "account_getNonce": "gridtokenx account nonce",
    "account_getBalance": "gridtokenx account balance",
    "tx_getStatus": "gridtokenx tx status",
    "energy_getMarket": "gridtokenx orders market",
    "gov_getProposals": "gridtokenx governance list",
    "gov_getProposal": "gridtokenx governance show",
    "gov_getParams": "gridtokenx governance params",
    "stake_getValidators": "gridtokenx stake list",
    "shard_list": "gridtokenx shard list",
    "meter_id": "--meter",
    "account_get": "gridtokenx account show",
}
_METHOD = re.compile("|".join(COMMAND_OF_METHOD))

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="gtx1..., or a key's name.")]
Chain = Annotated[str | None, typer.Option(metavar="NAME", help="Such as MET.")]
Key = Annotated[str, typer.Option(metavar="NAME", help="Account key of this home that signs.")]
OwnKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Account key that signs; else api.local_signer or the only one."
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is in a final block.")]
Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="Why; it goes on chain, so no personal data.")
]
Limit = Annotated[int, typer.Option(min=1, max=100, help="Rows.")]
Cursor = Annotated[str | None, typer.Option(help="Where the last page said the next begins.")]


@contextmanager
def connect(
    *, pinned: bool = False, trusted_blocks: list[str] | None = None, trust_old_blocks: bool = False
) -> Iterator[Client]:
    """The node of --rpc or of this home's configuration.

    `pinned`: signatures made and proofs checked inside rely on this home's genesis, if it has one,
    and a node of another network is refused. Proofs rely on this home's trusted blocks too, or on
    those given. Errors: Failure.
    """
    import httpx

    from gridtokenx.cli.genesis_file import trusted_blocks as read_trusted_blocks
    from gridtokenx.client import BadAnswer, Client, NodeUnreachable, RpcError

    url = output.rpc_url()
    genesis: Genesis | None = None
    given: dict[str, Any] = {}
    if pinned:
        genesis = home_genesis()
        config = output.load_config(
            {
                "sync.trusted_blocks": trusted_blocks or None,
                "sync.trust_old_blocks": trust_old_blocks or None,
            }
        )
        given = {
            "trusted_blocks": read_trusted_blocks(config),
            "trust_old_blocks": config.sync.trust_old_blocks,
        }
    try:
        with Client(url, genesis=genesis, **given) as client:
            if genesis is not None:
                _check_network(client, genesis)
            yield client
    except BadAnswer:
        raise
    except NodeUnreachable as error:
        raise unreachable(error) from None
    except httpx.InvalidURL as error:
        raise typer.BadParameter(f"--rpc {url!r} is not a URL: {error}") from None
    except RpcError as error:
        raise refused(error) from None


def unreachable(error: Exception) -> Failure:
    """No node answers: where it was looked for and how to start one."""
    detail, _, hint = str(error).partition(". Start ")
    if clusters := _cluster_urls():
        hint = f"a cluster of this home answers at --rpc {clusters[0]}"
    else:
        hint = f"start {hint}" if hint else "gridtokenx start"
    return Failure(
        detail,
        code="cli",
        reason="node_unreachable",
        hint=hint,
        exit_code=ExitCode.UNREACHABLE,
        retryable=True,
    )


def refused(error: RpcError) -> Failure:
    """A node's refusal in the words of the command line."""
    exit_code = ExitCode.REFUSED
    if error.retryable:
        exit_code = ExitCode.RETRY_LATER
    elif error.code == _INVALID_PARAMS:
        exit_code = ExitCode.USAGE
    elif error.code in _BAD_DATA:
        exit_code = ExitCode.BAD_DATA
    return Failure(
        error.message,
        code=error.code,
        reason=error.reason or "refused",
        hint=_METHOD.sub(lambda match: COMMAND_OF_METHOD[match[0]], error.hint),
        exit_code=exit_code,
        retryable=error.retryable,
    )


def home_genesis() -> Genesis | None:
    """The genesis of this home, checked against its configuration; None if it has none."""
    from gridtokenx.cli.genesis_file import read_genesis

    config = output.load_config()
    return read_genesis(config) if config.genesis_path.is_file() else None


def _check_network(client: Client, ours: Genesis) -> None:
    theirs = client.status().network
    if theirs.genesis_hash != ours.hash:
        output.fail(
            f"the node at {client.url} is on another network: theirs {theirs.genesis_hash.hex()} "
            f"({theirs.name}), ours {ours.hash.hex()} ({ours.network_name})",
            code="GTX-NET-002",
            reason="genesis_mismatch",
            hint="name a node of this home's network with --rpc URL, or another home with --home",
            exit_code=ExitCode.CONFIG,
        )


def _cluster_urls() -> list[str]:
    """First nodes of this home's running clusters: what a newcomer most likely meant."""
    from gridtokenx.cluster import processes

    try:
        found = processes.find(processes.clusters_folder(output.options().home))
        running = [
            next((one for one in cluster.members if cluster.is_running(one.name)), None)
            for cluster in found
        ]
    except (processes.ClusterError, OSError):
        return []  # Only a hint is lost; the failure is told all the same.
    return [member.api_url for member in running if member is not None]


def address_of(text: str) -> bytes:
    """The account `gtx1...`, or that of a key of this home. Needs no password."""
    from gridtokenx.home import keystore
    from gridtokenx.primitives.types import parse_address

    if text.startswith("gtx1"):
        return parse_address(text)
    return keystore.read_info(keystore.key_path(output.options().keys_path, text)).address


def page_of(
    method: str, address: str, chain: str | None, limit: int, cursor: str | None
) -> tuple[str, dict[str, Any]]:
    """(the account as the API writes it, a page of its list on a chain)."""
    from gridtokenx.primitives.types import format_address

    who = format_address(address_of(address))
    with connect() as client:
        return who, client.call(method, address=who, chain=chain, limit=limit, cursor=cursor)


def account_key_path(name: str) -> Path:
    """The file of an account key; keys of another kind sign nothing for a person."""
    return path_of_key(name, "account", "only an account key signs transactions")


def path_of_key(name: str, kind: str, why: str) -> Path:
    """The file of a key of this home; of another kind it is refused, and told `why`."""
    from gridtokenx.home import keystore

    path = keystore.key_path(output.options().keys_path, name)
    found = keystore.read_info(path).kind
    if found.value != kind:
        output.fail(
            f"{name} is a {found.value} key; {why}",
            code="keystore",
            reason="wrong_kind",
            hint=f"gridtokenx keys list; gridtokenx keys new NAME --kind {kind}",
            exit_code=ExitCode.USAGE,
        )
    return path


def own_key(name: str | None, password_file: Path | None) -> tuple[str, Path | None]:
    """(account key that signs, its password file): the one named, else the home's own.

    `api.local_signer` is opened with the node's password file, as the node itself does.
    """
    from gridtokenx.home import keystore

    if name is not None:
        account_key_path(name)
        return name, password_file
    config = output.load_config()
    if config.api.local_signer:
        account_key_path(config.api.local_signer)
        return config.api.local_signer, password_file or config.password_path
    directory = output.options().keys_path
    kept, others = keystore.list_keys(directory)
    for error in others:
        output.note(f"passed over: {error.detail}")
    names = [one.name for one in kept if one.kind is keystore.KeyKind.ACCOUNT]
    if len(names) == 1:
        return names[0], password_file
    return _ask_for_key(names)


def _ask_for_key(names: list[str]) -> NoReturn:
    output.fail(
        f"which key signs? this home has {', '.join(names) or 'no account key'}",
        code="keystore",
        reason="which_key",
        hint="--key NAME" if names else "gridtokenx keys new NAME --kind account",
        exit_code=ExitCode.USAGE,
    )


def unlock(name: str, password_file: Path | None) -> SigningKey:
    """The account key, with the password from the file or the terminal. Errors: KeystoreError."""
    from gridtokenx.home import keystore

    path = account_key_path(name)
    return keystore.unlock(path, keys.read_password(password_file, what=f"the key {name}"))


def default_chain(client: Client, chain: str | None, location: str | None = None) -> str:
    """The chain named, else the one that serves the location, else the node's first."""
    if chain is not None:
        return chain
    if location is not None:
        return client.genesis().chain_of_location(location).name
    return client.head().chain


def submit(client: Client, transaction: Transaction, *, wait: bool) -> dict[str, Any]:
    """Send, and wait until it is final; the transaction as the node then tells it (`tx_get`)."""
    tx_id = client.send(transaction)
    if wait:
        output.note(f"sent {tx_id}, waiting for its block")
        client.wait_for([tx_id], timeout_s=WAIT_S)
    found: dict[str, Any] = client.call("tx_get", id=tx_id)
    return found


def command(
    client: Client,
    chain: str,
    payload: Payload,
    key: str,
    password_file: Path | None,
    *,
    wait: bool,
) -> dict[str, Any]:
    """Sign a command with a key of this home, send it; what became of it and what it did."""
    account_key_path(key)
    found = submit(client, client.sign(unlock(key, password_file), chain, payload), wait=wait)
    return {
        "tx_id": found["tx_id"],
        "chain": chain,
        "status": found["status"],
        "height": found["height"],
        "events": found["events"],
    }


def draw_command(console: Console, document: dict[str, Any]) -> None:
    """What a `command` did, for people."""
    height = document["height"]
    block = None if height is None else f"{document['chain']} #{height}, final"
    pairs: list[tuple[str, object]] = [
        ("transaction", document["tx_id"]),
        ("state", document["status"]),
        ("block", block),
    ]
    for event in document["events"]:
        pairs.append(("event", event["kind"]))
        told = [one for one in event.items() if one[0] != "kind" and one != ("until_ms", "0")]
        fields = (show.field(*one) for one in told)
        pairs += [(f"  {name}", text) for name, text in fields]
    show.fields(console, pairs)


def event_of(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """The event of that kind in a `tx_get` answer; empty if there is none yet."""
    return next((event for event in found["events"] if event["kind"] == kind), {})


def hash_text(text: str, what: str) -> str:
    """64 hex digits, lower case, without 0x."""
    match = _HASH.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{what} is 64 hex digits, not {text[:80]!r}")
    return match[1].lower()


def reason_text(text: str) -> str:
    """A reason as the chain takes it."""
    if not 1 <= len(text.encode()) <= MAX_REASON_BYTES or not text.isprintable():
        detail = f"1 to {MAX_REASON_BYTES} bytes of plain text, not {text[:40]!r}"
        raise typer.BadParameter(detail, param_hint="--reason")
    return text


def place_name(text: str) -> str:
    """A territory, zone or substation in capitals."""
    return _place(text, _PLACE, "a territory, zone or substation: BKK, BKK-01, BKK-01-SUB001")


def substation_name(text: str) -> str:
    """A substation in capitals."""
    return _place(text, _SUBSTATION, "a substation such as BKK-01-SUB001")


def _place(text: str, pattern: re.Pattern[str], what: str) -> str:
    name = text.strip().upper()
    if pattern.fullmatch(name) is None:
        raise typer.BadParameter(f"{what}, not {text[:80]!r}")
    return name
