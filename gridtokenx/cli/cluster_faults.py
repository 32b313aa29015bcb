"""`gridtokenx cluster pause|resume|partition|heal|delay|assert|wait`: break a cluster, watch it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridtokenx.cli import output
from gridtokenx.cli.cluster import (
    DEFAULT_NAME,
    ClusterOption,
    NodeName,
    app,
    folder_of,
    load,
    locked,
    reported,
)

if TYPE_CHECKING:
    from gridtokenx.cluster.assertions import Outcome

NO_DURATION = "a duration is such as 200ms, 20s or 2m"


@app.command()
def pause(node: NodeName, name: ClusterOption = DEFAULT_NAME) -> None:
    """Freeze a node: it keeps its connections and says nothing."""
    with reported(), locked(name) as folder:
        load(folder).pause(node)
    _say({"node": node, "state": "paused"}, f"{node} is frozen; cluster resume {node} lets it go")


@app.command()
def resume(node: NodeName, name: ClusterOption = DEFAULT_NAME) -> None:
    """Let a frozen node go on."""
    with reported(), locked(name) as folder:
        load(folder).resume(node)
    _say({"node": node, "state": "resumed"}, f"{node} goes on")


@app.command()
def partition(
    groups: Annotated[
        str, typer.Argument(metavar="GROUPS", help="Who reaches whom, such as 'n0,n1|n2,n3'.")
    ],
    name: ClusterOption = DEFAULT_NAME,
) -> None:
    """Cut all links between groups of nodes; nodes that are not named are cut off too."""
    from gridtokenx.cluster import faults

    with reported(), locked(name) as folder:
        cluster = load(folder)
        parsed = faults.parse_groups(groups, [member.name for member in cluster.members])
        faults.partition(cluster, parsed)
    document = {"groups": [sorted(group) for group in parsed]}
    _say(document, f"cut: {groups}; gridtokenx cluster heal joins them")


@app.command()
def heal(name: ClusterOption = DEFAULT_NAME) -> None:
    """End partitions and delays."""
    from gridtokenx.cluster import faults

    with reported(), locked(name) as folder:
        faults.heal(load(folder))
    _say({"groups": [], "delay_ms": 0}, "all links are whole again")


@app.command()
def delay(
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="Such as 200ms; 0ms ends.")],
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NODE", help="Only this; repeatable.")
    ] = None,
    name: ClusterOption = DEFAULT_NAME,
) -> None:
    """Hold back whatever nodes send."""
    from gridtokenx.cluster import faults

    delay_ms = _milliseconds(duration)
    with reported(), locked(name) as folder:
        cluster = load(folder)
        nodes = [cluster.node(one).member.name for one in node or []]
        faults.delay(cluster, delay_ms, nodes)
    who = ", ".join(nodes) or "every node"
    _say({"delay_ms": delay_ms, "nodes": nodes}, f"{who} sends everything {delay_ms} ms later")


@app.command("assert")
def assert_(
    assertions: Annotated[
        list[str],
        typer.Argument(metavar="ASSERTION...", help="Such as 'n0.finalized >= 10 within 20s'."),
    ],
    name: ClusterOption = DEFAULT_NAME,
) -> None:
    """Wait until something holds of nodes; exit code 1 when it does not in time.

    NODE[.CHAIN].PROPERTY OPERATOR VALUE [within DURATION]. NODE is n0.. or *; PROPERTY is height,
    finalized, view, peers, state or root.
    """
    from gridtokenx.cluster import assertions as language

    try:
        parsed = [language.parse(one) for one in assertions]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with reported():
        cluster = load(folder_of(name))
        outcomes = [(one.text, language.wait(cluster, one)) for one in parsed]
    _judge(outcomes)


@app.command()
def wait(
    height: Annotated[int, typer.Option(min=1, help="Of every chain, on every running node.")],
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Such as 60s.")] = "60s",
    name: ClusterOption = DEFAULT_NAME,
) -> None:
    """Wait until every running node has finalized a height."""
    from gridtokenx.cluster import assertions as language

    timeout_ms = _milliseconds(timeout)
    with reported():
        outcome = language.wait_height(load(folder_of(name)), height, timeout_ms / 1_000)
    _judge([(f"height {height} within {timeout}", outcome)])


def _judge(outcomes: list[tuple[str, Outcome]]) -> None:
    """Tell what was found; exit code 1 unless everything holds."""
    rows = [
        {"assertion": text, "holds": one.holds, "found": one.found, "seconds": one.seconds}
        for text, one in outcomes
    ]
    holds = all(one.holds for _, one in outcomes)
    lines = []
    for text, one in outcomes:
        found = ", ".join(f"{node} {value}" for node, value in one.found.items())
        lines.append(f"{'holds' if one.holds else 'FAILS'} after {one.seconds} s: {text} ({found})")
    _say({"holds": holds, "assertions": rows}, "\n".join(lines))
    if not holds:
        raise typer.Exit(output.ExitCode.REFUSED)


def _say(document: dict[str, Any], text: str) -> None:
    output.emit(document, lambda console: console.print(text, highlight=False, markup=False))


def _milliseconds(text: str) -> int:
    from gridtokenx.cluster.assertions import duration_ms

    try:
        return duration_ms(text)
    except ValueError:
        raise typer.BadParameter(f"{NO_DURATION}, not {text!r}") from None
