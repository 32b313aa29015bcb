"""What survives a crash, and how it can fail to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gridtokenx.consensus.events import SafetyRecord
from tests.support.simulator.chain import Block, Committed


@dataclass
class Disk:
    """The safety record, bodies of candidates and the chain. A `Persist` is atomic and synced.

    `fsync_ms`: how long a write takes; the process does nothing else meanwhile.
    `missing`: a validator key is here, but the record it signed under is not.
    """

    chain: list[Committed]
    record: SafetyRecord | None = None
    bodies: dict[bytes, Block] = field(default_factory=dict)
    fsync_ms: int = 0
    missing: bool = False

    @property
    def height(self) -> int:
        return len(self.chain) - 1

    @property
    def tip(self) -> Committed:
        return self.chain[-1]

    def write(self, record: SafetyRecord, bodies: dict[bytes, Block]) -> None:
        """Bodies stay until their height is decided: others may hold a certificate for a block
        that this record, of a later view, does not name any more."""
        self.record, self.missing = record, False
        for candidate in record.candidates:
            self.bodies[candidate] = bodies[candidate]

    def append(self, committed: Committed) -> None:
        self.chain.append(committed)
        self.bodies = {}

    def lose_record(self) -> None:
        """The record is gone, the chain is not."""
        self.record, self.bodies, self.missing = None, {}, True

    def backup(self, height: int | None = None) -> Disk:
        """A copy of the chain as it was at `height`. Backups never hold a safety record."""
        end = None if height is None else height + 1
        return replace(self, chain=self.chain[:end], record=None, bodies={}, missing=True)
