"""Network namespaces joined by links that are slow and lossy, for tests that run as root.

`tc netem` is not in every kernel, so the links are made here: each namespace has a TUN device for
the whole subnet, and one thread carries IP packets between them, late, at a rate, or not at all.
The TCP above is the kernel's own.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

TUNSETIFF = 0x400454CA
IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
CLONE_NEWNET = 0x40000000
DEVICE = "gtxlink"
MTU_BYTES = 1_400
QUEUE_PACKETS = 20_000


def why_unavailable() -> str:
    """Why there can be no namespaces here, or ""."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        return "ip or nsenter is not installed"
    probe = f"gtx-{os.getpid()}-probe"
    made = subprocess.run(
        ["ip", "netns", "add", probe], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


@dataclass
class Conditions:
    """What a link does to packets; `cut` are the addresses nothing passes to or from."""

    delay_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 50e6
    cut: frozenset[bytes] = frozenset()


class Links(threading.Thread):
    """Carries packets between the TUN devices, by the IPv4 address they are for."""

    def __init__(self, devices: dict[bytes, int], seed: int) -> None:
        super().__init__(daemon=True)
        self.conditions = Conditions()
        self.carried = self.lost = 0
        self._devices = devices
        self._chance = random.Random(seed)
        self._late: list[tuple[float, int, bytes, bytes]] = []  # due, number, destination, packet
        self._free_at = dict.fromkeys(devices, 0.0)
        self._over = threading.Event()

    def run(self) -> None:
        fds = list(self._devices.values())
        while not self._over.is_set():
            now = time.monotonic()
            wait_s = min(0.05, max(0.0, self._late[0][0] - now)) if self._late else 0.05
            for fd in select.select(fds, [], [], wait_s)[0]:
                self._take(os.read(fd, 65_536))
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, destination, packet = heapq.heappop(self._late)
                os.write(self._devices[destination], packet)

    def _take(self, packet: bytes) -> None:
        source, destination = packet[12:16], packet[16:20]
        if packet[0] >> 4 != 4 or destination not in self._devices:
            return  # IPv6 neighbour discovery and the like
        now, rules = time.monotonic(), self.conditions
        cut = bool(rules.cut & {source, destination})
        if cut or len(self._late) >= QUEUE_PACKETS or self._chance.random() < rules.loss:
            self.lost += 1
            return
        self.carried += 1
        sent = max(now, self._free_at[destination]) + len(packet) / rules.bytes_per_s
        self._free_at[destination] = sent
        heapq.heappush(self._late, (sent + rules.delay_s, self.carried, destination, packet))

    def end(self) -> None:
        self._over.set()
        self.join(10)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _tun_in(namespace: str) -> int:
    """Open a TUN device inside a namespace; the descriptor works from anywhere."""
    opened: list[int] = []

    def enter() -> None:  # in a thread of its own: the namespace is the thread's
        libc = ctypes.CDLL(None, use_errno=True)
        where = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
        try:
            if libc.setns(where, CLONE_NEWNET):
                return
            tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(
                tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN_WITHOUT_HEADER)
            )
            opened.append(tun)
        finally:
            os.close(where)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not opened:
        raise OSError(f"no TUN device in {namespace}")
    return opened[0]


@contextmanager
def joined(count: int, seed: int = 1) -> Iterator[tuple[list[tuple[str, str]], Links]]:
    """So many namespaces, (name, address) each, and the links between them."""
    with ExitStack() as cleaning:
        places: list[tuple[str, str]] = []
        devices: dict[bytes, int] = {}
        for number in range(1, count + 1):
            name, address = f"gtx-{os.getpid()}-{number}", f"10.77.0.{number}"
            _run("ip", "netns", "add", name)
            cleaning.callback(_run, "ip", "netns", "del", name)
            device = _tun_in(name)
            cleaning.callback(os.close, device)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            _run("ip", "-n", name, "link", "set", "dev", DEVICE, "mtu", str(MTU_BYTES), "up")
            places.append((name, address))
            devices[bytes([10, 77, 0, number])] = device
        links = Links(devices, seed)
        links.start()
        cleaning.callback(links.end)
        yield places, links
