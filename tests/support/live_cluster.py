"""A cluster of real node processes for tests: make one, wait on it, ask all of its nodes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from gridtokenx.chain.genesis import Genesis, parse_genesis
from gridtokenx.cli import app
from gridtokenx.client import Client, NodeUnreachable
from gridtokenx.cluster import devnet, processes, watch
from gridtokenx.cluster.devnet import Member
from gridtokenx.cluster.processes import Cluster, NodeRecord
from gridtokenx.governance.model import GovernanceParameters
from gridtokenx.runtime.private_files import open_lock, runtime_folder
from gridtokenx.trading.model import MarketParameters, MatchingMode
from tests.support.patience import PATIENCE_S

BLOCK_TIME_MS = 500
TIMEOUT_BASE_MS = 1000
# Long enough for four ballots on a slow machine; whoever awaits the outcome waits all of it.
VOTE = GovernanceParameters(voting_period_ms=25_000, execution_delay_ms=1_000)
ANSWER_S = 60.0
POLL_S = 0.05
PORTS = range(16_000, 32_000, 50)  # Below what the system gives outgoing connections.


def fresh_genesis(*regions: str, **changes: Any) -> Genesis:
    """A local genesis of this moment, with short blocks and votes so that tests wait little. Its
    market keeps the time of day, so orders meet in the next block and not at a gate.

    Every chain costs each node about as much as the first: only these `regions`, else MET alone.
    """
    now_ms = time.time_ns() // 1_000_000
    genesis = devnet.local_genesis(
        block_time_ms=BLOCK_TIME_MS,
        parameters=MarketParameters(matching_mode=MatchingMode.BLOCK),
        genesis_time_ms=now_ms,
        governance=VOTE,
    )
    chains = tuple(one for one in genesis.chains if one.name in (regions or ("MET",)))
    return replace(genesis, timeout_base_ms=TIMEOUT_BASE_MS, chains=chains, **changes)


def port_block() -> tuple[int, int]:
    """From where on 25 ports each, for APIs and P2P, are this process's alone until it ends.

    A node that is down keeps its ports: neither another test process nor a run beside this one may
    take them meanwhile.
    """
    for first in PORTS:
        held = open_lock(runtime_folder() / f"gridtokenx-test-ports-{first}.lock")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            continue
        return first, first + PORTS.step // 2
    raise AssertionError("every block of ports is taken")


@contextmanager
def running(folder: Path, *regions: str, observers: int = 1, **changes: Any) -> Iterator[Cluster]:
    """Four authorities and observers; each has a block of each chain and is connected with all.

    `regions` and `changes` are those of `fresh_genesis`.
    """
    made = processes.create(
        folder,
        fresh_genesis(*regions, **changes),
        observers=observers,
        owner=processes.this_process(),
        first_ports=port_block(),
    )
    try:
        watch.wait_ready(made)
        yield made
    finally:
        made.stop()


def genesis_of(cluster: Cluster) -> Genesis:
    """The cluster's genesis."""
    return parse_genesis((cluster.home("n0") / "genesis.json").read_text())


def client_of(cluster: Cluster, name: str) -> Client:
    """A client of one node."""
    return Client(cluster.node(name).member.api_url, timeout_s=ANSWER_S)


def ask(home: Path, *words: object) -> Any:
    """The document of a command that succeeds in a node's home."""
    line = ["--json", "--home", home, *words]
    result = CliRunner().invoke(app, [str(word) for word in line])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def wait_until(
    what: str, condition: Callable[[], Any], seconds: float = PATIENCE_S, *, pause_s: float = POLL_S
) -> Any:
    """The condition's first true value; a node that does not answer yet is not true."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except NodeUnreachable as error:
            found, what = None, f"{what} ({error})"
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(pause_s)


def heights_of(cluster: Cluster, name: str) -> dict[str, int]:
    """A node's height by chain; empty while it does not answer."""
    with client_of(cluster, name) as client:
        return watch.heights(client)


def answered_heights(cluster: Cluster, name: str) -> dict[str, int]:
    """A node's height by chain, once it answers."""
    heights: dict[str, int] = wait_until(f"{name} answers", lambda: heights_of(cluster, name))
    return heights


def names_of(cluster: Cluster) -> list[str]:
    """The nodes whose process runs."""
    return [one.name for one in cluster.members if cluster.is_running(one.name)]


def wait_progress(
    cluster: Cluster, *names: str, blocks: int = 2, seconds: float = PATIENCE_S
) -> dict[str, int]:
    """Until each node finalized so many more blocks on each chain than any had; their goal."""
    chosen = names or tuple(names_of(cluster))
    known = [answered_heights(cluster, name) for name in chosen]
    goal = {chain: max(one[chain] for one in known) + blocks for chain in known[0]}
    wait_heights(cluster, goal, *chosen, seconds=seconds)
    return goal


def wait_heights(
    cluster: Cluster, goal: Mapping[str, int], *names: str, seconds: float = PATIENCE_S
) -> None:
    """Until each node has each chain's height."""
    assert goal, "whoever was asked for the goal did not answer"
    for name in names:
        with client_of(cluster, name) as client:

            def there(client: Client = client) -> bool:
                now = watch.heights(client)
                return all(now.get(chain, 0) >= height for chain, height in goal.items())

            wait_until(f"{name} has {dict(goal)}", there, seconds)


def roots_at(cluster: Cluster, heights: Mapping[str, int], *names: str) -> dict[str, set[str]]:
    """By chain the state roots that nodes have at a height; one element when they agree."""
    roots: dict[str, set[str]] = {chain: set() for chain in heights}
    for name in names or tuple(names_of(cluster)):
        with client_of(cluster, name) as client:
            for chain, height in heights.items():
                roots[chain].add(client.block(height, chain).header.state_root.hex())
    return roots


def assert_same_state(cluster: Cluster, *names: str) -> None:
    """Every node has the same state root of each chain at a height that all have."""
    chosen = names or tuple(names_of(cluster))
    known = [answered_heights(cluster, name) for name in chosen]
    goal = {chain: max(one[chain] for one in known) for chain in known[0]}
    wait_heights(cluster, goal, *chosen)
    for chain, roots in roots_at(cluster, goal, *chosen).items():
        assert len(roots) == 1, f"{chain} at {goal[chain]}: {roots}"


def signs(cluster: Cluster, name: str, asked: str, chain: str, height: int) -> bool:
    """Whether a node's signature is in the certificate that `asked` keeps of a block."""
    key = devnet.dev_key(cluster.node(name).member.validator).public_key
    with client_of(cluster, asked) as client:
        members = genesis_of(cluster).chain(chain).genesis_validators.members
        index = next(at for at, one in enumerate(members) if one.public_key == key)
        answer = client.call("chain_getFinality", block=str(height), chain=chain)
    return index in answer["signers"]


def signs_after(cluster: Cluster, name: str, asked: str, floor: Mapping[str, int]) -> bool:
    """Whether on each chain some certificate above `floor` has a node's signature."""
    now = heights_of(cluster, asked)
    return now.keys() >= floor.keys() and all(
        any(signs(cluster, name, asked, chain, at) for at in range(height, now[chain] + 1)[-5:])
        for chain, height in floor.items()
    )


def log_of(cluster: Cluster, name: str) -> str:
    """Everything a node has printed, across its restarts."""
    return cluster.log_path(name).read_text(errors="replace")


def silent_up_to(cluster: Cluster, name: str) -> dict[str, int]:
    """By chain the height up to which a key without its newest record signs nothing.

    A node says so once it has observed for a minute, before it signs anything; empty until then.
    """
    said = re.findall(r"signing\.above .*chain=(\w+) .*height=(\d+)", log_of(cluster, name))
    return {chain: int(height) for chain, height in said}


def pids_of(cluster: Cluster) -> dict[str, int]:
    """The processes that run, by node."""
    return {name: cluster.node(name).pid for name in names_of(cluster)}


def more_ports(cluster: Cluster) -> tuple[int, int]:
    """An API and a P2P port of the cluster's block that no node of it has."""
    api_port, p2p_port = processes.free_ports(
        1,
        (
            max(one.api_port for one in cluster.members) + 1,
            max(one.p2p_port for one in cluster.members) + 1,
        ),
    )
    return api_port, p2p_port


def add_member(cluster: Cluster, name: str, **fields: str) -> Member:
    """Plan and write one more node, which knows the bootnode's address alone."""
    api_port, p2p_port = more_ports(cluster)
    member = Member(
        name=name,
        role=fields.get("role", "observer"),
        authority=fields.get("authority", ""),
        validator=fields.get("validator", ""),
        api_port=api_port,
        p2p_port=p2p_port,
    )
    devnet.write_home(cluster.folder / name, member, genesis_of(cluster), cluster.members[0])
    cluster.nodes.append(NodeRecord(member))
    return member
