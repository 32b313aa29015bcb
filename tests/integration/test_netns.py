"""Four authorities in network namespaces of their own: real TCP over late, lossy and cut links."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gridtokenx.cluster import devnet
from tests.support import namespaces
from tests.support.namespaces import Conditions, Links
from tests.support.patience import settled

NODES = 4
API_PORT, P2P_PORT = 18_080, 9_000
BLOCK_TIME_MS, TIMEOUT_BASE_MS = 1_000, 3_000
DELAY_S, LOSS = 0.2, 0.05
PATIENCE_S = 180.0  # a busy machine takes a minute to start four nodes alone


@dataclass
class Node:
    process: subprocess.Popen[bytes]
    log: Path
    address: str

    def heights(self) -> dict[str, int]:
        """The newest block of each chain that it has logged as final."""
        found: dict[str, int] = {}
        for line in self.log.read_text(errors="replace").splitlines():
            if "block.finalized" in line:
                fields = dict(re.findall(r"(\w+)=(\w+)", line))
                found[fields["chain"]] = int(fields["height"])
        return found


@contextmanager
def start(folder: Path, place: tuple[str, str], member: devnet.Member, genesis) -> Iterator[Node]:
    """A node in a namespace; its bootnode is the first one's address there."""
    namespace, address = place
    home = folder / member.name
    first = replace(member, name="n0")
    devnet.write_home(home, member, genesis, first)
    config = home / "config.toml"
    text = config.read_text(encoding="utf-8")
    own = f"/ip4/127.0.0.1/tcp/{P2P_PORT}"
    text = text.replace(f"{own}/p2p", f"/ip4/10.77.0.1/tcp/{P2P_PORT}/p2p")
    config.write_text(text.replace(own, f"/ip4/{address}/tcp/{P2P_PORT}"), encoding="utf-8")
    log = home / "node.log"
    command = [sys.executable, "-m", "gridtokenx", "--home", str(home), "start"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["nsenter", f"--net=/var/run/netns/{namespace}", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Node(process, log, address)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Node], Links]]:
    reason = namespaces.why_unavailable()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("netns")
    made = devnet.local_genesis(
        block_time_ms=BLOCK_TIME_MS, genesis_time_ms=time.time_ns() // 1_000_000
    )
    genesis = replace(made, timeout_base_ms=TIMEOUT_BASE_MS)
    members = devnet.plan(NODES, 0, [API_PORT, P2P_PORT] * NODES)
    with namespaces.joined(NODES) as (places, links), ExitStack() as running:
        nodes = [
            running.enter_context(start(folder, place, member, genesis))
            for place, member in zip(places, members, strict=True)
        ]
        wait_more(nodes, 2)
        yield nodes, links


@pytest.fixture(autouse=True)
def whole(net: tuple[list[Node], Links]) -> Iterator[None]:
    """Afterwards the links are good, and no node has ended or logged a fault of its own."""
    nodes, links = net
    yield
    links.conditions = Conditions()
    wait_more(nodes, 1)
    for node in nodes:
        assert node.process.poll() is None
        assert "Traceback" not in node.log.read_text(errors="replace")


def wait_more(nodes: list[Node], blocks: int) -> None:
    """Until each node has so many more blocks of each chain than any of them had."""
    known = [node.heights() for node in nodes]
    names = {name for name, *_ in devnet.CHAINS}
    goal = {name: max(each.get(name, 0) for each in known) + blocks for name in names}
    end = time.monotonic() + PATIENCE_S
    while any(
        node.heights().get(name, 0) < height for node in nodes for name, height in goal.items()
    ):
        now = [node.heights() for node in nodes]
        tail = nodes[0].log.read_text(errors="replace")[-2_000:]
        assert time.monotonic() < end, f"{goal} not reached: {now}\n{tail}"
        time.sleep(0.1)


def test_blocks_are_decided_with_200_ms_of_delay_and_5_percent_of_loss(
    net: tuple[list[Node], Links],
) -> None:
    nodes, links = net
    lost, carried = links.lost, links.carried
    links.conditions = Conditions(delay_s=DELAY_S, loss=LOSS, bytes_per_s=1.25e6)
    wait_more(nodes, 5)
    assert links.lost - lost > (links.carried - carried) * LOSS / 3


def test_who_was_cut_off_fetches_what_it_missed_without_a_restart(
    net: tuple[list[Node], Links],
) -> None:
    nodes, links = net
    alone, others = nodes[-1], nodes[:-1]
    links.conditions = Conditions(cut=frozenset([bytes(map(int, alone.address.split(".")))]))
    before = settled(alone.heights, 3.0)
    wait_more(others, 3)  # Nothing may happen there while it is alone.
    assert alone.heights() == before
    links.conditions = Conditions()
    wait_more(nodes, 1)
