"""File descriptors of the process: enough of them for the node.

A node that runs out of them cannot accept, write its log or look at its interfaces, so what may
take any is bounded by what there are.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from gridtokenx.runtime.stopping import Ending

# The log, kept files, the admin socket and its callers, mDNS, epoll and wake-up pairs of two loops,
# the database's own log and journals, what a command or a library opens for a moment.
RESERVE = 128
UNADMITTED = 192  # Connections in the making: 128 inbound handshakes, 8 dials of 8 addresses.
PER_PEER = 3  # Connections of one peer at most.
LEAST_API = 64  # Most of them are kept for this machine and for probes.
LEAST_PEERS = 8
LEAST_TABLES = 32

log = structlog.get_logger(__name__)

Limits = tuple[int, int]


class TooFewDescriptors(Ending):
    """Not enough for the smallest node. Code GTX-SYS-001."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be open at once: connections of the API and of peers, tables of the database."""

    api: int
    peers: int
    tables: int

    @property
    def files(self) -> int:
        """Descriptors for all of it."""
        return RESERVE + UNADMITTED + self.api + PER_PEER * self.peers + self.tables

    def within(self, files: int) -> Plan:
        """This plan, or one cut evenly that `files` suffice for. Errors: TooFewDescriptors."""
        if self.files <= files:
            return self
        least = Plan(
            min(self.api, LEAST_API), min(self.peers, LEAST_PEERS), min(self.tables, LEAST_TABLES)
        )
        if least.files > files:
            raise TooFewDescriptors(
                f"GTX-SYS-001: this process may open {files} files, the smallest node needs "
                f"{least.files}. Raise the hard limit: LimitNOFILE in the service file, --ulimit "
                "nofile in Docker, or ulimit -Hn"
            )
        share = (files - least.files) / (self.files - least.files)
        return Plan(
            least.api + int((self.api - least.api) * share),
            least.peers + int((self.peers - least.peers) * share),
            least.tables + int((self.tables - least.tables) * share),
        )


def provide(
    wanted: Plan,
    get: Callable[[], Limits] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    put: Callable[[Limits], Any] = lambda to: resource.setrlimit(resource.RLIMIT_NOFILE, to),
) -> Plan:
    """Raise RLIMIT_NOFILE to what `wanted` needs; what is possible is what the node may use.

    Errors: TooFewDescriptors.
    """
    soft, hard = get()
    if 0 <= soft < wanted.files:  # -1 is without end.
        raised = wanted.files if hard < 0 else min(wanted.files, hard)
        if raised > soft:
            put((raised, hard))
            soft = raised
    plan = wanted if soft < 0 else wanted.within(soft)
    log.info("process.descriptors", limit=soft, needed=wanted.files)
    if plan != wanted:
        log.warning(
            "process.few_descriptors",
            code="GTX-SYS-001",
            api=plan.api,
            peers=plan.peers,
            hint=f"this process may open {soft} files, it needs {wanted.files}, so it takes fewer "
            "connections. Raise the hard limit: LimitNOFILE in the service file, --ulimit nofile "
            "in Docker, or ulimit -Hn",
        )
    return plan
