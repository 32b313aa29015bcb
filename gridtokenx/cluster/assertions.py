"""`cluster assert 'n0.finalized >= 10 within 20s'`: say what must hold, wait until it does.

    NODE[.CHAIN].PROPERTY OPERATOR VALUE [within DURATION]

NODE is a node or `*` (every one), CHAIN one of the genesis (none: the chain that stands lowest).
PROPERTY: height or finalized (a decided block is final, so both are the newest one), view, peers,
state (`live`, `blocks`, `stalled`, `paused`, `stopped`, ...), root. OPERATOR: == != >= <= > <.
The idea is zombienet's. Source: docs/node-operation.md "A network on one machine".
"""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gridtokenx.answers.chain import NodeStatus
from gridtokenx.client import Client, NodeUnreachable
from gridtokenx.cluster import watch
from gridtokenx.cluster.processes import Cluster, ClusterError

POLL_S = 0.2
NUMBERS = ("height", "finalized", "peers", "view")
WORDS = ("state", "root")
_FORM = re.compile(
    r"(?P<node>\*|n\d+)(?:\.(?P<chain>[A-Z]{2,8}))?\.(?P<property>[a-z]+)\s*"
    r"(?P<operator>==|!=|>=|<=|>|<)\s*(?P<value>\S+)(?:\s+within\s+(?P<within>\S+))?"
)
_DURATION = re.compile(r"(\d+)(ms|s|m)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

Value = int | str


@dataclass(frozen=True, slots=True)
class Assertion:
    """A parsed assertion; `chain` "" is every chain, `within_ms` 0 is now."""

    text: str
    node: str
    chain: str
    property: str
    operator: str
    value: Value
    within_ms: int

    def holds(self, found: Value | None) -> bool:
        """Whether a node's value is as asserted; a value it does not tell is not."""
        return found is not None and _COMPARE[self.operator](found, self.value)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`found` is each node's last value (None: it did not tell)."""

    holds: bool
    found: dict[str, Value | None]
    seconds: float


def duration_ms(text: str) -> int:
    """`200ms`, `20s`, `2m`. Errors: ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: such as 200ms, 20s or 2m")
    return int(match[1]) * _UNIT_MS[match[2]]


def parse(text: str) -> Assertion:
    """Read an assertion. Errors: ValueError saying what is wrong with it."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not like 'n0.MET.finalized >= 10 within 20s'")
    name, value = match["property"], match["value"]
    if name not in (*NUMBERS, *WORDS):
        raise ValueError(f"{name!r} is none of {', '.join((*NUMBERS, *WORDS))}")
    if name in WORDS and match["operator"] not in ("==", "!="):
        raise ValueError(f"{name} is a word: only == and != compare it")
    if name in NUMBERS and not value.isdecimal():
        raise ValueError(f"{name} is a number, not {value!r}")
    return Assertion(
        text=text.strip(),
        node=match["node"],
        chain=match["chain"] or "",
        property=name,
        operator=match["operator"],
        value=int(value) if name in NUMBERS else value,
        within_ms=duration_ms(match["within"]) if match["within"] else 0,
    )


def wait(cluster: Cluster, assertion: Assertion) -> Outcome:
    """Look until it holds or its time is over. Errors: ClusterError for an unknown node."""
    members = [member.name for member in cluster.members]
    names = members if assertion.node == "*" else [cluster.node(assertion.node).member.name]
    started = time.monotonic()
    end = started + assertion.within_ms / 1_000
    while True:
        found = {name: value_of(cluster, name, assertion) for name in names}
        holds = all(map(assertion.holds, found.values()))
        now = time.monotonic()
        if holds or now >= end:
            return Outcome(holds, found, round(now - started, 1))
        time.sleep(min(POLL_S, end - now))


def value_of(cluster: Cluster, name: str, assertion: Assertion) -> Value | None:
    """A node's value now; None while it does not answer. Errors: ClusterError: no such chain."""
    if not cluster.is_running(name) or cluster.is_paused(name):
        state = "paused" if cluster.is_running(name) else "stopped"
        return state if assertion.property == "state" else None
    try:
        with Client(cluster.node(name).member.api_url, timeout_s=3.0) as client:
            return _read(client.status(), assertion)
    except NodeUnreachable:
        return "not answering" if assertion.property == "state" else None


def _read(status: NodeStatus, assertion: Assertion) -> Value | None:
    if assertion.property == "peers":
        return status.peers
    rows = status.chains
    if not assertion.chain and assertion.property == "state":
        return status.sync.state
    chosen = [row for row in rows if assertion.chain in ("", row.chain)]
    if not chosen:
        known = ", ".join(row.chain for row in rows)
        raise ClusterError(f"there is no chain {assertion.chain!r}", f"the chains are {known}")
    lowest = min(chosen, key=lambda row: row.head.height)
    match assertion.property:
        case "state":
            return lowest.sync.state
        case "root":
            return lowest.head.state_root.hex()
        case "view":
            return lowest.consensus_view
        case _:
            return lowest.head.height


def wait_height(cluster: Cluster, height: int, timeout_s: float) -> Outcome:
    """Until every running node has a height on each chain."""
    running = [one.name for one in cluster.members if cluster.is_running(one.name)]
    started = time.monotonic()
    while True:
        found: dict[str, Value | None] = {}
        for name in running:
            with Client(cluster.node(name).member.api_url, timeout_s=3.0) as client:
                found[name] = min(watch.heights(client).values(), default=0)
        holds = bool(running) and all(int(one or 0) >= height for one in found.values())
        seconds = time.monotonic() - started
        if holds or seconds >= timeout_s:
            return Outcome(holds, found, round(seconds, 1))
        time.sleep(POLL_S)


def common_roots(cluster: Cluster) -> dict[str, dict[str, str]]:
    """By chain and node the state root of the newest block that all running nodes have.

    Errors: NodeUnreachable.
    """
    running = [one for one in cluster.members if cluster.is_running(one.name)]
    heights: dict[str, list[int]] = {}
    for member in running:
        with Client(member.api_url) as client:
            for chain, head in client.heads().items():
                heights.setdefault(chain, []).append(head.height)
    roots: dict[str, dict[str, str]] = {chain: {} for chain in heights}
    for member in running:
        with Client(member.api_url) as client:
            for chain, known in heights.items():
                header = client.block(min(known), chain).header
                roots[chain][member.name] = header.state_root.hex()
    return roots
