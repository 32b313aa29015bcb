"""Measure gossip between nodes that are processes: propagation, CPU, and bytes beside a raw stream.

`python -m scripts.benchmarks.gossip_processes NUMBER` is one node, driven by a JSON line for each
command on stdin and answering with one; `start` starts them. Times are of the machine's monotonic
clock, which all processes share: a message carries when it was published.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import trio

from gridtokenx.network.gossip import Gossip
from gridtokenx.network.gossipsub.events import GossipVerdict, Origin
from gridtokenx.network.host import Network, Stream, parse_address
from scripts.benchmarks.gossip import TOPIC, open_gossip

ROOT = Path(__file__).resolve().parents[2]
RAW_PROTOCOL = "/gridtokenx/bench/raw"
RAW_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
HEAD_BYTES = 8
DISTANCES = (1, 2, 3, 5, 8)  # Each node dials the nodes so far before it: 16 nodes need hops.
WAIT_S = 120
SETTLE_S = 3  # Heartbeats in which larger meshes fill up.


@dataclass(frozen=True, slots=True)
class Propagation:
    """Times in milliseconds from publishing until a receiver's validator; CPU per message and node.

    `duplicates` is how many copies beyond the first a node gets of a message; `missing` counts
    deliveries that did not happen within two minutes; `bytes_per_s` is message bytes over the time
    until the last delivery, which a pause between messages bounds.
    """

    message_bytes: int
    messages: int
    missing: int
    duplicates: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    bytes_per_s: float


class BenchNode:
    """Commands of the node process, each a coroutine that returns its answer."""

    def __init__(self, network: Network, gossip: Gossip) -> None:
        self._network, self._gossip = network, gossip
        self._latencies_ns: list[int] = []
        self._last_ns = 0
        self._raw: tuple[int, int] = (0, 0)
        gossip.subscribe(TOPIC, self._receive)
        network.handle([RAW_PROTOCOL], self._take_raw)

    def _receive(self, _origin: Origin, data: bytes) -> GossipVerdict:
        self._last_ns = time.monotonic_ns()
        self._latencies_ns.append(self._last_ns - int.from_bytes(data[:HEAD_BYTES], "big"))
        return GossipVerdict.ACCEPT

    async def _take_raw(self, stream: Stream) -> None:
        started_ns, size = time.monotonic_ns(), 0
        while chunk := await stream.read_some(CHUNK_BYTES):
            size += len(chunk)
        self._raw = (size, time.monotonic_ns() - started_ns)

    async def address(self) -> str:
        return self._network.listen_addresses[0]

    async def dial(self, addresses: list[str]) -> None:
        for address in addresses:
            await self._network.dial(address)

    async def mesh(self) -> int:
        return len(self._gossip.mesh(TOPIC))

    async def reset(self) -> None:
        self._latencies_ns.clear()
        self._duplicates_before = self._gossip.counters.get("duplicate", 0)
        self._cpu_s = time.process_time()

    async def publish(self, message_bytes: int, messages: int, pause_s: float) -> int:
        """Publish; return when the first left, ns."""
        first_ns, body = time.monotonic_ns(), bytes(message_bytes - HEAD_BYTES)
        for _ in range(messages):
            head = time.monotonic_ns().to_bytes(HEAD_BYTES, "big")
            self._gossip.publish(TOPIC, head + body)
            await trio.sleep(pause_s)
        return first_ns

    async def await_messages(self, count: int) -> dict[str, Any]:
        """Wait for deliveries; return what came, when the last did, and the CPU since `reset`."""
        with trio.move_on_after(WAIT_S):
            while len(self._latencies_ns) < count:  # noqa: ASYNC110 - one waiter, coarse is enough
                await trio.sleep(0.05)
        cpu_s = time.process_time() - self._cpu_s
        return {
            "latencies_ns": self._latencies_ns,
            "last_ns": self._last_ns,
            "cpu_s": cpu_s,
            "duplicates": self._gossip.counters.get("duplicate", 0) - self._duplicates_before,
        }

    async def send_raw(self, address: str) -> None:
        """Send 64 MiB over one stream, without gossip."""
        stream = await self._network.open_stream(parse_address(address)[0], [RAW_PROTOCOL])
        chunk = bytes(CHUNK_BYTES)
        for _ in range(RAW_BYTES // CHUNK_BYTES):
            await stream.write(chunk)
        await stream.close()

    async def raw_bytes_per_s(self) -> float:
        with trio.fail_after(WAIT_S):
            while self._raw[0] < RAW_BYTES:  # noqa: ASYNC110 - as above
                await trio.sleep(0.05)
        return self._raw[0] / self._raw[1] * 1e9


async def serve(number: int) -> None:
    """Be one node until stdin ends."""
    async with open_gossip(number) as (network, gossip):
        node = BenchNode(network, gossip)
        async for line in trio.wrap_file(sys.stdin):
            command, arguments = json.loads(line)
            answer = await getattr(node, command)(*arguments)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


class Process:
    """A node process as the measuring side sees it: `tell`, then `hear` its answer."""

    def __init__(self, writer: IO[str], reader: IO[str]) -> None:
        self._writer, self._reader = writer, reader

    def tell(self, command: str, *arguments: object) -> None:
        self._writer.write(json.dumps([command, arguments]) + "\n")
        self._writer.flush()

    def hear(self) -> Any:
        line = self._reader.readline()
        if not line:
            raise RuntimeError("a node of the benchmark ended")
        return json.loads(line)

    def ask(self, command: str, *arguments: object) -> Any:
        self.tell(command, *arguments)
        return self.hear()


def ask_all(nodes: list[Process], command: str, *arguments: object) -> list[Any]:
    """The same to all at once."""
    for node in nodes:
        node.tell(command, *arguments)
    return [node.hear() for node in nodes]


@contextmanager
def start(count: int) -> Iterator[list[Process]]:
    """Node processes, connected, with their meshes grown."""
    with ExitStack() as stack:
        nodes = [_spawn(stack, number + 1) for number in range(count)]
        addresses = ask_all(nodes, "address")
        for number, node in enumerate(nodes):
            near = sorted({(number - distance) % count for distance in DISTANCES} - {number})
            node.ask("dial", [addresses[other] for other in near if other < number or count > 6])
        deadline = time.monotonic() + WAIT_S
        while min(ask_all(nodes, "mesh")) < min(2, count - 1):  # The least of a small network.
            if time.monotonic() > deadline:
                raise RuntimeError("the mesh did not grow")
            time.sleep(0.2)
        time.sleep(SETTLE_S)
        yield nodes


def _spawn(stack: ExitStack, number: int) -> Process:
    command = [sys.executable, "-m", "scripts.benchmarks.gossip_processes", str(number)]
    process = stack.enter_context(
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(process.kill)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    return Process(process.stdin, process.stdout)


def measure(nodes: list[Process], message_bytes: int, messages: int, pause_s: float) -> Propagation:
    """The first node publishes, one message after each pause; all others receive."""
    ask_all(nodes, "reset")
    first_ns = nodes[0].ask("publish", message_bytes, messages, pause_s)
    reports = ask_all(nodes[1:], "await_messages", messages)
    nodes[0].tell("await_messages", 0)
    cpu_s = nodes[0].hear()["cpu_s"] + sum(report["cpu_s"] for report in reports)
    latencies = sorted(one for report in reports for one in report["latencies_ns"])
    last_ns = max(report["last_ns"] for report in reports)
    return Propagation(
        message_bytes=message_bytes,
        messages=messages,
        missing=messages * (len(nodes) - 1) - len(latencies),
        duplicates=round(sum(r["duplicates"] for r in reports) / messages / len(reports), 2),
        p50_ms=round(latencies[len(latencies) // 2] / 1e6, 2),
        p99_ms=round(latencies[len(latencies) * 99 // 100] / 1e6, 2),
        cpu_ms=round(1e3 * cpu_s / messages / len(nodes), 3),
        bytes_per_s=round(message_bytes * messages / (last_ns - first_ns) * 1e9),
    )


def raw_bytes_per_s(nodes: list[Process]) -> float:
    """One stream from the second node to the first, which it dialled."""
    address = nodes[0].ask("address")
    nodes[1].ask("send_raw", address)
    return float(nodes[0].ask("raw_bytes_per_s"))


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]))
