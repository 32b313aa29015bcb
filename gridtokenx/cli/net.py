"""`gridtokenx net`: peers, who is connected to whom, bans, and what is wrong with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.output import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Peers, bans, and what is wrong with the network.", no_args_is_help=True)

Peer = Annotated[str, typer.Argument(metavar="PEER", help="Peer id, 12D3KooW...")]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="Peer id, or an IP address and all behind it.")
]
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@app.command()
def peers() -> None:
    """Connected peers: who dialled, how far they are, what they did wrong."""
    with remote.connect() as client:
        items = client.call("net_getPeers")["items"]
    output.emit({"items": items}, lambda console: _draw_peers(console, items))


def _draw_peers(console: Console, items: list[dict[str, Any]]) -> None:
    if not items:
        show.line(console, "no peers; gridtokenx net doctor says why")
        return
    rows = [
        (
            peer["organisation"] or "-",
            peer["node_id"],
            peer["direction"],
            "-" if peer["latency_ms"] is None else f"{peer['latency_ms']} ms",
            "  ".join(f"{chain} {height}" for chain, height in sorted(peer["heights"].items())),
            peer["score"],
            ", ".join(f"{what} {count}" for what, count in sorted(peer["offences"].items())) or "-",
            peer["agent"],
            (peer["addresses"] or [peer["peer_id"]])[0],
        )
        for peer in items
    ]
    headings = ("authority", "node", "direction", "latency", "heights", "score", "offences")
    show.table(console, (*headings, "agent", "address"), rows, right=(3, 5))


@app.command("id")
def id_() -> None:
    """This node's peer id and the addresses that others are told."""
    with remote.connect() as client:
        info = client.call("net_getInfo")
    pairs = (
        ("peer id", info["peer_id"]),
        *(("listens on", address) for address in info["listen"]),
        *(("tells others", address) for address in info["announced"]),
        ("seen from", info["nat_ip"]),
    )
    output.emit(info, lambda console: show.fields(console, pairs))


@app.command()
def topology() -> None:
    """Who is connected to whom, as far as this node and its peers tell."""
    with remote.connect() as client:
        document = client.call("net_getTopology")
    output.emit(document, lambda console: _draw_topology(console, document))


def _draw_topology(console: Console, document: dict[str, Any]) -> None:
    names = {
        node["peer_id"]: node["node_id"] or f"...{node['peer_id'][-8:]}"
        for node in document["nodes"]
    }
    mates: dict[str, list[str]] = {one: [] for one in names}
    for one, other in document["links"]:
        mates[one].append(names[other])
        mates[other].append(names[one])
    rows = [
        (
            f"{names[node['peer_id']]}{' (this)' if node['peer_id'] == document['self'] else ''}",
            node["organisation"] or "-",
            len(mates[node["peer_id"]]),
            ", ".join(sorted(mates[node["peer_id"]])),
        )
        for node in document["nodes"]
    ]
    show.table(console, ("node", "authority", "links", "connected to"), rows, right=(2,))


@app.command()
def bans() -> None:
    """Peers and addresses that are refused, why and until when."""
    with remote.connect() as client:
        items = client.call("net_getBans")["items"]

    def human(console: Console) -> None:
        if not items:
            show.line(console, "nobody is banned")
            return
        rows = [(one["target"], one["reason"], show.moment(one["until_ms"])) for one in items]
        show.table(console, ("target", "reason", "until (Bangkok)"), rows)

    output.emit({"items": items}, human)


@app.command()
def connect(
    address: Annotated[
        str, typer.Argument(metavar="MULTIADDR", help="/ip4/.../tcp/.../p2p/12D3KooW...")
    ],
) -> None:
    """Dial a peer now. It stays as long as both sides have room."""
    answer = ask_admin({"do": "connect", "address": address})
    _say(answer, f"connected to {answer['peer_id']}")


@app.command()
def disconnect(peer: Peer) -> None:
    """Close the connections to a peer. It may come back; `net ban` keeps it away."""
    answer = ask_admin({"do": "disconnect", "peer": peer})
    _say(answer, f"disconnected from {answer['peer_id']}")


@app.command()
def ban(
    target: Target,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="Such as 30m, 12h or 7d.")
    ] = "24h",
    reason: Annotated[str, typer.Option(help="For whoever reads the list.")] = "operator",
) -> None:
    """Disconnect a peer or an address and refuse it for a while, across restarts."""
    unit, digits = _SECONDS.get(duration[-1:]), duration[:-1]
    if unit is None or not digits.isdigit():
        raise typer.BadParameter(f"a duration is such as 30m, 12h or 7d, not {duration!r}")
    command = {"do": "ban", "target": target, "seconds": int(digits) * unit, "reason": reason}
    answer = ask_admin(command)
    _say(answer, f"{answer['target']} is refused for {duration}")


@app.command()
def unban(target: Target) -> None:
    """Let a peer or an address in again, with a clean slate."""
    answer = ask_admin({"do": "unban", "target": target})
    _say(answer, f"{answer['target']} may come back")


def ask_admin(command: dict[str, Any]) -> dict[str, Any]:
    """One command over this home's admin socket. Errors: Failure."""
    from gridtokenx.home.admin_socket import SOCKET_NAME, AdminError, call

    path = output.load_config().data_path / SOCKET_NAME
    try:
        return call(path, command, timeout_s=15.0)
    except AdminError as error:
        output.fail(str(error), code="cli", reason="refused")
    except (FileNotFoundError, ConnectionError):
        output.fail(
            f"no node answers at {path}",
            code="cli",
            reason="node_unreachable",
            hint="these commands reach the node of this home: gridtokenx start, or --home DIR",
            exit_code=ExitCode.UNREACHABLE,
        )


def _say(document: dict[str, Any], text: str) -> None:
    output.emit(document, lambda console: show.line(console, show.printable(text)))
