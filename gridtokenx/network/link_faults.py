"""Test only: what a node does to its own links when it is told to (`node.admin_faults`).

A blocked peer is disconnected and refused both ways until it is allowed again; a delay holds every
write to a stream back. Real traffic of a real node, without root. Source:
docs/node-operation.md "The admin socket".
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BLOCKED = 256
MAX_DELAY_MS = 60_000


@dataclass(slots=True)
class LinkFaults:
    """The faults in force; none at start. `blocked` holds peer ids in bytes."""

    blocked: frozenset[bytes] = frozenset()
    delay_ms: int = 0
