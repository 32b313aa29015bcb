"""`gridtokenx status`: one screen that says what the node does, whether that is well, what next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.output import ExitCode, Failure
from gridtokenx.runtime import screen

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.client import Client

_SHOWN_PEERS = 20
_READY_TIMEOUT_S = 5.0


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only whether the node is ready: exit code 0 or 1.")
    ] = False,
    alive: Annotated[
        bool,
        typer.Option("--alive", help="Only whether the process is alive: exit code 0 or 1."),
    ] = False,
) -> None:
    """Show role, chains, finality, peers and health of a node, and what to do about it."""
    if (check or alive) and watch:
        raise typer.BadParameter("--check and --alive ask once, --watch for ever")
    if watch and output.options().json:
        raise typer.BadParameter("--json is one document; ask again instead of --watch")
    if alive:
        _alive()
    elif check:
        _check()
    elif watch:
        _watch()
    else:
        document = _fetch()
        output.emit(document, lambda console: _draw(console, document))


def _alive() -> None:
    """For health checks of containers: they restart what fails, and a node that is behind is not
    sick.
    """
    with remote.connect() as client:
        health = _asked(client, "health", "status")
    output.emit(health, lambda console: show.line(console, health["status"]))
    if health["status"] != "ok":
        raise typer.Exit(ExitCode.REFUSED)


def _check() -> None:
    with remote.connect() as client:
        ready = _ready(client)
    output.emit(ready, lambda console: _draw_check(console, ready))
    if not ready["ready"]:
        raise typer.Exit(ExitCode.REFUSED)


def _draw_check(console: Console, ready: dict[str, Any]) -> None:
    show.line(console, "ready" if ready["ready"] else "not ready")
    for row in _failing(ready):
        show.line(console, f"{row['name']}: {row['value']}, want {row['want']}. {row['hint']}")


def _fetch() -> dict[str, Any]:
    with remote.connect() as client:
        found = client.call("chain_getStatus")
        peers = client.call("net_getPeers")["items"]
        ready = _ready(client)
    return {
        "url": output.rpc_url(),
        **found,
        "peers": peers,
        **ready,
        "next_action": _next_action(ready, found["chains"]),
    }


def _ready(client: Client) -> dict[str, Any]:
    """The node's /ready. Errors: as `_asked`."""
    document = _asked(client, "ready", "ready")
    return {"ready": document["ready"], "checks": document["checks"]}


def _asked(client: Client, name: str, key: str) -> dict[str, Any]:
    """What the node says of itself at /`name`. Errors: NodeUnreachable where what answers there is
    no GridTokenX node, RpcError.
    """
    import httpx

    from gridtokenx.client import BadAnswer, NodeUnreachable

    try:
        response = httpx.get(f"{client.url}/{name}", timeout=_READY_TIMEOUT_S, trust_env=False)
        document = json.loads(response.content, object_hook=client.answer_type)
    except httpx.HTTPError as error:
        raise NodeUnreachable(client.url, str(error) or type(error).__name__) from None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise client.refusal({**document["error"], "data": document["error"]})
    if not isinstance(document, dict) or key not in document:
        raise BadAnswer(client.url, f"HTTP {response.status_code} from /{name}")
    return document


def _failing(ready: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in ready["checks"] if not row["ok"]]


def _next_action(ready: dict[str, Any], chains: list[dict[str, Any]]) -> str:
    """The way out of the failing check that is most likely the cause of the others.

    A node that fetches blocks has an old tip too, which then is no sign of trouble; one that is
    stalled at the newest block anybody has waits for the validators, which its tip's check tells.
    """
    failing = _failing(ready)
    own = [row for row in failing if not row["name"].startswith(("sync_", "tip_"))]
    if not own:
        fetching = [f"{row['chain']} is {_sync(row)}" for row in chains if _is_fetching(row)]
        if fetching:
            return f"wait: {', '.join(fetching)}"
    tips = [row for row in failing if row["name"].startswith("tip_")]
    hints = [row["hint"] for row in (*own, *tips, *failing) if row["hint"]]
    return hints[0] if hints else "nothing: the node is ready"


def _is_fetching(row: dict[str, Any]) -> bool:
    return bool(row["sync"]["state"] == "blocks")


def _watch() -> None:
    """A frame a second; on a terminal in place, else one below the other.

    Ctrl-C is noted rather than raised: raised in a destructor it would be swallowed.
    """
    import signal
    import threading

    from rich.text import Text

    console = output.stdout_console()
    ended = threading.Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: ended.set())
    while not ended.is_set():
        frame = _frame(console)
        if console.is_terminal:
            console.clear()
        console.print(Text.from_ansi(frame), soft_wrap=True)
        ended.wait(1.0)


def _frame(console: Console) -> str:
    """The screen as text. A node that is away for a while is told and asked again."""
    try:
        document = _fetch()
    except Failure as failure:
        if not failure.retryable:
            raise
        return f"{screen.printable(failure.detail)}\nhint: {screen.printable(failure.hint)}"
    recorder = screen.console(
        color=not console.no_color, force_terminal=console.is_terminal, width=console.width
    )
    with recorder.capture() as captured:
        _draw(recorder, document)
    return captured.get()


def _draw(console: Console, document: dict[str, Any]) -> None:
    node, network = document["node"], document["network"]
    show.fields(
        console,
        [
            ("node", f"{node['id']} ({node['role']}), gridtokenx {node['version']}"),
            ("network", f"{network['name']} ({network['id']})"),
            ("genesis", network["genesis_hash"]),
            ("peer id", node["peer_id"]),
            ("api", document["url"]),
            ("signs for", node["local_signer"]),
        ],
    )
    _draw_chains(console, document["chains"])
    _draw_peers(console, document["peers"])
    failing = _failing(document)
    if failing:
        rows = [(row["name"], row["value"], row["want"], row["hint"]) for row in failing]
        show.table(console, ("failing", "is", "should be", "hint"), rows)
    else:
        names = ", ".join(row["name"] for row in document["checks"])
        show.line(console, f"checks   all hold: {show.printable(names)}")
    show.line(console, f"next     {show.printable(document['next_action'])}")


def _draw_chains(console: Console, chains: list[dict[str, Any]]) -> None:
    rows = [
        (
            row["chain"],
            _sync(row),
            row["head"]["height"],
            row["head"]["height"],  # A decided block is final: the two never differ.
            show.age(row["head"]["time_ms"]),
            show.moment(row["head"]["market_ms"]),
            _milliseconds(row["finality_ms"]["p50"]),
            row["mempool_transactions"],
        )
        for row in chains
    ]
    headings = (
        "chain",
        "sync",
        "tip",
        "final",
        "tip age",
        "market time",
        "finality p50",
        "waiting",
    )
    show.table(console, headings, rows, right=(2, 3, 4, 6, 7))


def _sync(row: dict[str, Any]) -> str:
    state, height, target = row["sync"]["state"], row["head"]["height"], row["sync"]["target"]
    reasons = {
        "waiting_peers": "waiting for peers",
        "blocks": f"fetching blocks, {height} of {target}",
        "stalled": f"stalled at {height} of {target}",
        "rebuilding": f"rebuilding {height} of {target}",
        "stopped": f"stopped at {height}: see shard show {row['chain']}",
    }
    return reasons.get(state, str(state))


def _milliseconds(value: int | None) -> str:
    return "-" if value is None else f"{value} ms"


def _draw_peers(console: Console, peers: list[dict[str, Any]]) -> None:
    if not peers:
        show.line(console, "peers    none")
        return
    rows = [
        (
            peer["organisation"] or peer["node_id"] or peer["agent"] or "-",
            peer["peer_id"],
            "  ".join(f"{chain} {height}" for chain, height in sorted(peer["heights"].items())),
            (peer["addresses"] or ["-"])[0].partition("/p2p/")[0],
        )
        for peer in peers[:_SHOWN_PEERS]
    ]
    headings = (f"{len(peers)} peers", "peer id", "heights", "address")
    show.table(console, headings, rows)
    if len(peers) > _SHOWN_PEERS:
        show.line(console, f"and {len(peers) - _SHOWN_PEERS} more; --json shows all")
