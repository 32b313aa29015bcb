"""`gridtokenx net doctor`: each thing that keeps nodes apart, whether it is well, what to do."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from gridtokenx.cli import output, remote, show
from gridtokenx.cli.net import app
from gridtokenx.cli.output import ExitCode, Failure

if TYPE_CHECKING:
    from rich.console import Console

    from gridtokenx.home.config import Config

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
REACH_SECONDS = 3.0
FEW_PEERS = 3
CLOCK_WARN_MS = 500
_WHERE = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d+)")

# Why dials fail, by the words of `net_getDialStats`: what it means, what to do.
DIAL_FAULTS = {
    "timeout": (
        "nothing came back",
        "a firewall drops it, or the address is wrong: ask the node's operator for both",
    ),
    "refused": (
        "nothing listens at that port",
        "is that node running? ask its operator for its address (gridtokenx net id)",
    ),
    "security": (
        "another node answers there than the address names, or none of this private network",
        "take the whole address, /p2p/... too, from its operator (gridtokenx net id); "
        "network.psk_file must be the same",
    ),
    "protocol": ("what answers is no libp2p node", "another program has that port: check it"),
    "unreachable": (
        "there is no way to that address",
        "check the address and this machine's routes",
    ),
    "banned": ("this node refuses the peer", "gridtokenx net bans says why"),
    "closed": (
        "the peer hung up",
        "it may be full, on another network, or refuse this node for a while: see its log",
    ),
    "not_allowed": ("the peer is not on the list of allowed ones", "add it to network.allow"),
}

Reach = Callable[[str, int], str | None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` is empty where nothing is to be done."""

    check: str
    verdict: str
    found: str
    fix: str = ""


@app.command("doctor")
def doctor() -> None:
    """Check ports, addresses, peers, bootnodes, clock, DHT and bans; say how to mend each."""
    findings = list(_examine())
    worst = FAIL if any(one.verdict == FAIL for one in findings) else PASS
    document = {"healthy": worst != FAIL, "findings": [asdict(one) for one in findings]}
    output.emit(document, lambda console: _draw(console, findings))
    if worst == FAIL:
        raise typer.Exit(ExitCode.REFUSED)


def _draw(console: Console, findings: list[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        show.line(console, show.printable(f"{one.verdict}  {one.check:<{width}}  {one.found}"))
        if one.fix:
            show.line(console, show.printable(f"      {'':<{width}}  fix: {one.fix}"))


def _examine() -> Iterator[Finding]:
    config = output.load_config()
    try:
        with remote.connect() as client:
            info = client.call("net_getInfo")
            dials = client.call("net_getDialStats")
            bans = client.call("net_getBans")["items"]
            health = _clock_of(client.url, info)
    except Failure as failure:
        yield Finding("node", FAIL, failure.detail, failure.hint or "gridtokenx start")
        yield from taken(config, may_listen)
        yield from bootnodes(config, reach)
        return
    yield Finding("node", PASS, f"{info['node_id']} {info['version']} answers, {info['peer_id']}")
    yield from listening(info, reach)
    yield from announcing(info)
    others = [one for one in bans if one["reason"] != "wrong_genesis"]
    yield from peers(info, dials)
    yield from strangers(info, len(bans) - len(others))
    if info["peers"] < FEW_PEERS:
        yield from failed_dials(dials["dials"], others)
    yield from bootnodes(config, reach)
    yield health
    yield from table(info)
    yield from banned(others)


def may_listen(host: str, port: int) -> str | None:
    """Whether a program may listen there now: None, or why it may not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return str(error.strerror or error)
    return None


def taken(config: Config, may_listen: Reach) -> Iterator[Finding]:
    """Whether a node that does not answer could have its ports of peers."""
    for address in config.network.listen:
        found = _WHERE.match(address)
        why = None if found is None else may_listen(found[2], int(found[3]))
        if found is not None and why is not None:
            fix = "see who has it (ss -ltnp) and end that, or choose another in network.listen"
            yield Finding("port", FAIL, f"no node can listen at TCP {found[3]}: {why}", fix)


def reach(host: str, port: int) -> str | None:
    """Whether a TCP connection comes about: None, or why it does not."""
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        return str(error.strerror or error)
    return None


def listening(info: dict[str, Any], reach: Reach) -> Iterator[Finding]:
    """Whether the port can be reached from this machine; from others only others can tell."""
    for address in info["listen"]:
        found = _WHERE.match(address)
        if found is None:
            continue
        host, port = found[2], int(found[3])
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        why = reach(local, port)
        if why is None:
            yield Finding(
                "port", PASS, f"TCP {port} answers here; peers dialled in: {info['inbound']}"
            )
        else:
            fix = f"is another firewall rule in the way? nothing answers at {local}:{port}"
            yield Finding("port", FAIL, f"TCP {port}: {why}", fix)
    if info["listen"] and not info["inbound"] and info["peers"]:
        fix = "open the port in the firewall and the router, or set network.announce"
        yield Finding("inbound", WARN, "no peer has dialled this node", fix)


def announcing(info: dict[str, Any]) -> Iterator[Finding]:
    """Whether what others are told can be dialled."""
    seen = info["nat_ip"]
    hosts = [found[2] for one in info["announced"] if (found := _WHERE.match(one))]
    if not hosts:
        yield Finding("announce", WARN, "no address is told to others", "set network.listen")
        return
    unusable = [host for host in hosts if _is_unusable(host)]
    if seen is not None and seen not in hosts:
        fix = f'network.announce = ["/ip4/{seen}/tcp/9000"], and forward that port to this machine'
        yield Finding("nat", WARN, f"peers see this node at {seen}, it tells {hosts[0]}", fix)
    elif unusable == hosts and info["peers"]:
        fix = "fine within one network; for the internet set network.announce"
        yield Finding("announce", WARN, f"only private addresses: {', '.join(hosts)}", fix)
    else:
        yield Finding("announce", PASS, ", ".join(hosts))


def _is_unusable(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False  # a name; whoever set it knows


def peers(info: dict[str, Any], dials: dict[str, Any]) -> Iterator[Finding]:
    """How many peers there are, and how dials ended if there are few."""
    ended = ", ".join(f"{count} {reason}" for reason, count in dials["dials"].items()) or "none"
    told = f"{info['peers']} ({info['inbound']} in, {info['outbound']} out); dials: {ended}"
    if info["peers"] == 0:
        fix = "as the lines below say; where they do not, check network.bootstrap and the firewall"
        yield Finding("peers", FAIL, told, fix)
    elif info["peers"] < FEW_PEERS:
        yield Finding("peers", WARN, told, "fewer than three: add bootnodes")
    else:
        yield Finding("peers", PASS, told)
    refused = dials["inbound_refused"]
    for reason, fix in (
        ("full", "raise network.max_peers or network.max_inbound"),
        ("address_full", "raise network.max_connections_per_ip if many honest nodes share one"),
        ("not_allowed", "add the peer to network.allow, if it should be there"),
    ):
        if refused.get(reason):
            yield Finding("refused", WARN, f"{refused[reason]} inbound refused: {reason}", fix)


def failed_dials(dials: dict[str, int], bans: list[dict[str, Any]]) -> Iterator[Finding]:
    """What the commonest failures of this node's dials mean; `bans` but those for the genesis."""
    for reason, count in sorted(dials.items(), key=lambda item: -item[1]):
        if reason in DIAL_FAULTS and (reason != "banned" or bans):
            meaning, fix = DIAL_FAULTS[reason]
            yield Finding("dials", WARN, f"{count} {reason}: {meaning}", fix)


def strangers(info: dict[str, Any], count: int) -> Iterator[Finding]:
    """Whether peers have another genesis: with no other peers, it is this node that is wrong."""
    if not count:
        return
    told = f"{count} peer(s) have another genesis than this node's {info['genesis_hash'][:16]}"
    if info["peers"]:
        yield Finding("genesis", WARN, told, "they are on another network, not this node")
        return
    fix = (
        "compare the whole hash with the network's operator; begin again with the right file "
        "(gridtokenx init --genesis FILE --force) and an empty data folder"
    )
    yield Finding("genesis", FAIL, told, fix)


def bootnodes(config: Config, reach: Reach) -> Iterator[Finding]:
    """Whether each configured bootnode answers."""
    addresses = [*config.network.bootstrap, *config.network.persistent]
    if not addresses and config.network.mdns:
        yield Finding("bootnodes", PASS, "none configured; mDNS looks in the local network")
    elif not addresses:
        fix = "set network.bootstrap, unless this is the network's first node"
        yield Finding("bootnodes", WARN, "none configured", fix)
    for address in addresses:
        found = _WHERE.match(address)
        if found is None:
            continue
        why = reach(found[2], int(found[3]))
        name = f"{found[2]}:{found[3]}"
        if why is None:
            yield Finding("bootnode", PASS, f"{name}: a TCP port answers")
        else:
            yield Finding("bootnode", WARN, f"{name}: {why}", "ask its operator, or name another")


def _clock_of(url: str, info: dict[str, Any]) -> Finding:
    """The clock as /ready compares it with the validators'."""
    import httpx

    if not info["peers"]:
        return Finding("clock", WARN, "there are no peers to compare it with")

    try:
        rows = httpx.get(f"{url}/ready", timeout=REACH_SECONDS, trust_env=False).json()["checks"]
        row = next(one for one in rows if one["name"] == "clock")
        offset_ms = int(str(row["value"]).split()[0])
    except (httpx.HTTPError, ValueError, KeyError, TypeError, StopIteration) as error:
        return Finding("clock", WARN, f"/ready does not tell: {error}", "gridtokenx status")
    fix = "enable chrony or systemd-timesyncd"
    told = f"off by {row['value']}"
    if not row["ok"]:
        return Finding("clock", FAIL, told, fix)
    if ", 0 validators heard" in row["value"]:
        return Finding("clock", WARN, "no validator's node is connected to compare it with")
    if "slow" in row["value"]:
        return Finding("clock", WARN, told, "more or faster cores, or less beside the node")
    return Finding(
        "clock",
        WARN if abs(offset_ms) > CLOCK_WARN_MS else PASS,
        told,
        fix * (abs(offset_ms) > CLOCK_WARN_MS),
    )


def table(info: dict[str, Any]) -> Iterator[Finding]:
    """Whether the DHT knows anybody."""
    known = info["known_peers"]
    if known or not info["peers"]:
        verdict = PASS if known else WARN
        yield Finding("dht", verdict, f"{known} peers in the routing table")
    else:
        fix = "the peers serve no DHT; one bootnode of this program is enough"
        yield Finding("dht", WARN, "the routing table is empty", fix)


def banned(bans: list[dict[str, Any]]) -> Iterator[Finding]:
    """Bans are well, unless they are many."""
    if not bans:
        yield Finding("bans", PASS, "nobody is banned")
        return
    reasons = sorted({str(one["reason"]) for one in bans})
    told = f"{len(bans)} banned: {', '.join(reasons)}"
    yield Finding("bans", WARN, told, "gridtokenx net bans; gridtokenx net unban TARGET")
