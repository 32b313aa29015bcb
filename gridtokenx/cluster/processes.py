"""Start, watch and stop the node processes of a local cluster, and remember them in one folder.

`<home>/clusters/<name>/cluster.json` records every process by pid and start time, so that a pid
used again by the system is never signalled; one `n<i>/` beside it is each node's home and holds its
`node.log`. Source: docs/node-operation.md "A network on one machine".
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gridtokenx.chain.genesis import Genesis
from gridtokenx.cluster.devnet import Member, plan, write_home
from gridtokenx.runtime.private_files import (
    held,
    make_folder,
    open_private,
    runtime_folder,
    write_private,
)

RECORD_NAME = "cluster.json"
RECORD_VERSION = 1
LOG_NAME = "node.log"
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 65_536
STOP_SECONDS = 10.0
KILL_SECONDS = 30.0
LISTENING_SECONDS = 180.0  # Many nodes that start at once share the cores; one that ends is told.
POLL_SECONDS = 0.1
FIRST_API_PORT = 18080
FIRST_P2P_PORT = 19000
PORT_TRIES = 900
START_TIME_TOLERANCE_S = 1.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class ClusterError(Exception):
    """A cluster cannot be had as asked. `hint` is the way out; `log` the end of a node's log."""

    def __init__(self, detail: str, hint: str = "", log: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.log = log


@dataclass(slots=True)
class NodeRecord:
    """A node and its last process; `started` is when that `pid` began, as `seconds_at_start`."""

    member: Member
    pid: int = 0
    started: float = 0.0


@dataclass(slots=True)
class Cluster:
    """A cluster on disk. `owner` is the process that must outlive it (pid, start), or none."""

    folder: Path
    genesis_hash: str
    nodes: list[NodeRecord]
    owner: tuple[int, float] | None = None
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The cluster's name: that of its folder."""
        return self.folder.name

    @property
    def members(self) -> tuple[Member, ...]:
        """Its nodes' identities and ports."""
        return tuple(node.member for node in self.nodes)

    def node(self, name: str) -> NodeRecord:
        """The node `n2`. Errors: ClusterError."""
        for node in self.nodes:
            if node.member.name == name:
                return node
        known = ", ".join(node.member.name for node in self.nodes)
        raise ClusterError(f"cluster {self.name} has no node {name!r}", f"its nodes are {known}")

    def home(self, name: str) -> Path:
        """Home folder of a node."""
        return self.folder / self.node(name).member.name

    def log_path(self, name: str) -> Path:
        """What a node printed, across its restarts."""
        return self.home(name) / LOG_NAME

    def is_running(self, name: str) -> bool:
        """Whether the recorded process is alive (a zombie is not)."""
        node = self.node(name)
        child = self._children.get(name)
        if child and child.pid == node.pid:
            return child.poll() is None  # A zombie whose threads still end is not gone yet.
        return _is_alive(node.pid, node.started)

    def is_any_running(self) -> bool:
        """Whether some node's process is alive."""
        return any(self.is_running(member.name) for member in self.members)

    def is_orphaned(self) -> bool:
        """Whether it was started for a process that is gone."""
        return self.owner is not None and not _is_alive(*self.owner)

    def exit_code(self, name: str) -> int | None:
        """Exit code of a process this program started itself, once it has ended."""
        child = self._children.get(name)
        return child.poll() if child and child.pid == self.node(name).pid else None

    def refresh(self) -> None:
        """Take over what other commands did to the cluster, such as starting a node again."""
        with contextlib.suppress(ClusterError):  # The folder is gone: nothing was done.
            self.nodes = load(self.folder).nodes

    def start(
        self, name: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a node's process, with more arguments and environment of its own if need be.

        Errors: ClusterError if it is running.
        """
        if self.is_running(name):
            raise ClusterError(f"{name} of cluster {self.name} is running already")
        node = self.node(name)
        home = self.home(name)
        command = [sys.executable, "-m", "gridtokenx", "--home", str(home), "start", *arguments]
        with open_private(self.log_path(name), "ab") as log:
            child = subprocess.Popen(
                command,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; the nodes are stopped in order.
                env={**_environment(), **(environment or {})},
            )
        self._children[name] = child
        node.pid = child.pid
        with contextlib.suppress(psutil.NoSuchProcess):
            node.started = seconds_at_start(psutil.Process(child.pid))
        self.save()

    def kill(self, name: str) -> None:
        """End a node as a power cut would (SIGKILL), and see it gone.

        Errors: ClusterError if it is not running, or its last write holds it for half a minute.
        """
        if not self.is_running(name):
            raise ClusterError(f"{name} of cluster {self.name} is not running")
        self._signal(name, signal.SIGKILL)
        if self._wait_gone([name], KILL_SECONDS):
            raise ClusterError(f"{name} of cluster {self.name} is still not gone", "its disk hangs")

    def pause(self, name: str) -> None:
        """Freeze a node (SIGSTOP): it keeps its connections and answers nothing.

        Returns once it is frozen: on a busy machine the signal may take a while to arrive.
        Errors: ClusterError if it is not running, or does not stop within ten seconds.
        """
        if not self.is_running(name):
            raise ClusterError(f"{name} of cluster {self.name} is not running")
        self._signal(name, signal.SIGSTOP)
        end = time.monotonic() + STOP_SECONDS
        while not self.is_paused(name):
            if time.monotonic() > end:
                raise ClusterError(f"{name} of cluster {self.name} does not stop")
            time.sleep(POLL_SECONDS)

    def resume(self, name: str) -> None:
        """Let a frozen node go on (SIGCONT). Errors: ClusterError if it is not running."""
        if not self.is_running(name):
            raise ClusterError(f"{name} of cluster {self.name} is not running")
        self._signal(name, signal.SIGCONT)

    def is_paused(self, name: str) -> bool:
        """Whether the node's process is frozen."""
        try:
            status: str = psutil.Process(self.node(name).pid).status()
        except psutil.NoSuchProcess:
            return False
        return self.is_running(name) and status == psutil.STATUS_STOPPED

    def stop(self) -> None:
        """Stop all nodes: SIGTERM to all, SIGKILL to those that still run after 10 s."""
        self.refresh()
        names = [member.name for member in self.members if self.is_running(member.name)]
        for name in names:
            self._signal(name, signal.SIGTERM)
            self._signal(name, signal.SIGCONT)  # A frozen node could not obey.
        for name in self._wait_gone(names, STOP_SECONDS):
            self._signal(name, signal.SIGKILL)
        self._wait_gone(names, STOP_SECONDS)

    def remove(self) -> None:
        """Delete the folder of a cluster that is stopped."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self) -> None:
        """Write the record, whole or not at all."""
        document = {
            "version": RECORD_VERSION,
            "genesis_hash": self.genesis_hash,
            "owner": self.owner,
            "nodes": [asdict(node) for node in self.nodes],
        }
        write_private(self.folder / RECORD_NAME, json.dumps(document, indent=2) + "\n")

    def tail(self, name: str, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of a node's log."""
        try:
            with self.log_path(name).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def check_alive(self, name: str) -> None:
        """Errors: ClusterError naming a node that has ended, its exit code and its last lines."""
        if self.is_running(name):
            return
        code = self.exit_code(name)
        how = "has ended" if code is None else f"has ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        detail = f"node {name} of cluster {self.name} {how}"
        raise ClusterError(detail, f"its log: {self.log_path(name)}", self.tail(name))

    def _signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.node(name).pid, number)

    def _wait_gone(self, names: list[str], seconds: float) -> list[str]:
        """Wait for processes to end; returns those that still run."""
        end = time.monotonic() + seconds
        left = names
        while left and time.monotonic() < end:
            left = [name for name in left if self.is_running(name)]
            if left:
                time.sleep(POLL_SECONDS)
        return left


def clusters_folder(home: Path | None = None) -> Path:
    """Where clusters live: under `home`, else GRIDTOKENX_HOME, else ~/.gridtokenx."""
    chosen = home or Path(os.environ.get("GRIDTOKENX_HOME") or "~/.gridtokenx")
    return chosen.expanduser().absolute() / "clusters"


def create(
    folder: Path,
    genesis: Genesis,
    *,
    observers: int,
    owner: tuple[int, float] | None = None,
    first_ports: tuple[int, int] = (FIRST_API_PORT, FIRST_P2P_PORT),
    regions: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Cluster:
    """Make a cluster's folder and start all its nodes, as many authorities as genesis names.

    `regions`: by node the regions that it follows; who is not named there follows all. `settings`:
    values of the configuration that differ from a local network's.
    The port lock is held until the processes are recorded, so two clusters that start at the same
    time do not choose the same ports. Errors: ClusterError.
    """
    keys = {one.public_key for region in genesis.chains for one in region.validators}
    authorities = len(keys)
    with locked(runtime_folder() / "gridtokenx-ports.lock"):
        ports = free_ports(authorities + observers, first_ports, recorded_ports(folder.parent))
        members = plan(authorities, observers, ports)
        make_folder(folder, new=True)
        for member in members:
            followed = (regions or {}).get(member.name, ())
            write_home(
                folder / member.name,
                member,
                genesis,
                members[0],
                regions=followed,
                settings=settings or {},
            )
        cluster = Cluster(folder, genesis.hash.hex(), [NodeRecord(it) for it in members], owner)
        cluster.save()
        try:
            for member in members:
                cluster.start(member.name)
            _wait_listening(cluster)
        except BaseException as error:
            cluster.stop()
            if isinstance(error, KeyboardInterrupt):
                cluster.remove()
            raise
    return cluster


def load(folder: Path) -> Cluster:
    """The cluster recorded in a folder. Errors: ClusterError if there is none."""
    try:
        document = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterError(
            f"there is no cluster {folder.name!r}", "gridtokenx cluster up starts one"
        ) from None
    except json.JSONDecodeError as error:
        raise ClusterError(f"{folder / RECORD_NAME} is not a cluster record: {error}") from None
    try:
        return _from_document(folder, document)
    except (KeyError, TypeError) as error:
        raise ClusterError(f"{folder / RECORD_NAME} is not a cluster record: {error!r}") from None


def find(clusters: Path) -> list[Cluster]:
    """All recorded clusters under a folder, by name."""
    return [load(path.parent) for path in sorted(clusters.glob(f"*/{RECORD_NAME}"))]


def check_name(name: str) -> str:
    """`name` if it can name a cluster. Errors: ClusterError."""
    if not _NAME.fullmatch(name):
        raise ClusterError(f"{name!r} is no cluster name: up to 32 of a-z, 0-9 and -")
    return name


def clean_stale(folder: Path) -> str:
    """Make room for a new cluster in `folder`; returns what was cleaned, or "".

    A folder without a living process is left from a crash; one whose owner is gone is stopped.
    Errors: ClusterError if a cluster of that name runs.
    """
    if not folder.exists():
        return ""
    if not (folder / RECORD_NAME).exists():
        shutil.rmtree(folder)
        return f"removed {folder}, which a cluster left that never started"
    cluster = load(folder)
    if cluster.is_any_running() and not cluster.is_orphaned():
        hint = f"stop it: gridtokenx cluster down {folder.name}; or choose another --name"
        raise ClusterError(f"cluster {folder.name!r} is running already", hint)
    was_running = cluster.is_any_running()
    cluster.stop()
    cluster.remove()
    state = "running without its owner" if was_running else "dead"
    return f"removed cluster {folder.name!r}, which was {state}"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file. Errors: ClusterError without `wait` when somebody else holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(path, wait=wait))
        except BlockingIOError:
            raise ClusterError(f"another command is working on {path.stem!r}") from None
        yield


def this_process() -> tuple[int, float]:
    """Owner of a cluster that must not outlive this program."""
    return os.getpid(), seconds_at_start(psutil.Process())


def seconds_at_start(process: psutil.Process) -> float:
    """When a process began, since the machine did: no correction of the wall clock moves it."""
    return process.create_time() - psutil.boot_time()


def free_ports(nodes: int, first: tuple[int, int], reserved: Set[int] = frozenset()) -> list[int]:
    """API and P2P ports in turn, for so many nodes, from two starting points upward.

    Those `reserved` are passed over, as are those in use.
    They lie below the range the system gives to outgoing connections, one of which could otherwise
    take a port before its node does. Errors: ClusterError.
    """
    found: list[int] = []
    api, p2p = first
    for _ in range(nodes):
        api = _next_free(api, reserved)
        p2p = _next_free(p2p, reserved)
        found += [api, p2p]
        api, p2p = api + 1, p2p + 1
    return found


def recorded_ports(clusters: Path) -> set[int]:
    """Those of other clusters' nodes, of whom some may be down for a moment."""
    found: set[int] = set()
    for path in clusters.glob(f"*/{RECORD_NAME}"):
        with contextlib.suppress(ClusterError):  # Whoever asks for that cluster is told.
            for member in load(path.parent).members:
                found |= {member.api_port, member.p2p_port}
    return found


def _next_free(port: int, reserved: Set[int]) -> int:
    for candidate in range(port, port + PORT_TRIES):
        if candidate in reserved:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        return candidate
    raise ClusterError(f"no free port from {port} to {port + PORT_TRIES}")


def _wait_listening(cluster: Cluster, seconds: float = LISTENING_SECONDS) -> None:
    """Until each node serves its API, by when it has both ports. Errors: ClusterError."""
    end = time.monotonic() + seconds
    for member in cluster.members:
        while not _accepts(member.api_port):
            cluster.check_alive(member.name)
            if time.monotonic() > end:
                detail = f"node {member.name} does not serve its API after {seconds} s"
                raise ClusterError(detail, log=cluster.tail(member.name))
            time.sleep(POLL_SECONDS)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_alive(pid: int, started: float) -> bool:
    if not pid:
        return False
    try:
        process = psutil.Process(pid)
        same = abs(seconds_at_start(process) - started) < START_TIME_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environment() -> dict[str, str]:
    """The caller's environment without what would change a node's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "GRIDTOKENX_BOOTSTRAP" or not name.startswith(("GRIDTOKENX_", "RUST_LOG"))
    }
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _from_document(folder: Path, document: dict[str, Any]) -> Cluster:
    if document["version"] != RECORD_VERSION:
        detail = f"{folder / RECORD_NAME} has version {document['version']!r}, this reads "
        raise ClusterError(detail + str(RECORD_VERSION))
    nodes = [
        NodeRecord(Member(**node["member"]), node["pid"], node["started"])
        for node in document["nodes"]
    ]
    owner = tuple(document["owner"]) if document["owner"] else None
    return Cluster(folder, document["genesis_hash"], nodes, owner)
